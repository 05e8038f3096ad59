//! Where one peer frame ends and the next begins, after `docs/wire-format.md`. Written apart from the
//! engine's decoder, so that a mistake of one of them shows.

/// Bytes of the fixed part.
const HEADER_BYTES: usize = 24;

/// First type that is a message of a shard; below are greetings and pings.
const FIRST_MESSAGE: u8 = 16;

/// Takes the next frame off `bytes` if all of it is there.
///
/// # Errors
/// What is wrong with it: a node has sent something that is not a frame.
pub fn take(bytes: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    if bytes.len() < HEADER_BYTES {
        return Ok(None);
    }
    if bytes[..2] != [0xC0, 0xAC] {
        return Err(format!("it begins with {:02x?}", &bytes[..2]));
    }
    if crc32fast::hash(&bytes[..20]) != number(bytes, 20) {
        return Err("its header does not match its checksum".to_owned());
    }
    let end = HEADER_BYTES + number(bytes, 12) as usize;
    if bytes.len() < end {
        return Ok(None);
    }
    if crc32fast::hash(&bytes[HEADER_BYTES..end]) != number(bytes, 16) {
        return Err("its body does not match its checksum".to_owned());
    }
    let rest = bytes.split_off(end);
    Ok(Some(std::mem::replace(bytes, rest)))
}

/// Whether a frame carries a message of a shard.
pub fn is_message(frame: &[u8]) -> bool {
    frame.get(3).is_some_and(|kind| *kind >= FIRST_MESSAGE)
}

fn number(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap())
}
