//! Hash slots: CRC16 of the key (or of its hash tag) modulo 16,384, and shards as ranges of slots.

use std::ops::Range;

use coracle_engine::ShardId;

use crate::server::limits::SLOTS;

const TABLE: [u16; 256] = table();

/// CRC16/XMODEM: polynomial 0x1021, start 0, not reflected.
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The hash slot of a key. If the key has a non-empty part in braces, only the first such part
/// counts, so that related keys can be kept together.
///
/// ```
/// use coracle::server::slot_of;
/// assert_eq!(slot_of(b"123456789"), 12739);
/// assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
/// ```
#[must_use]
pub fn key_hash_slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// The shard that a slot belongs to, in a cluster of `shards` shards.
#[must_use]
pub fn shard_of_slot(slot: u16, shards: u32) -> ShardId {
    // Below `shards`, because the slot is below SLOTS.
    ShardId((u64::from(slot) * u64::from(shards) / u64::from(SLOTS)) as u32)
}

/// The slots of a shard; empty for some if there are more shards than slots.
#[must_use]
pub fn slots_of_shard(shard: ShardId, shards: u32) -> Range<u16> {
    let first = |shard: u64| (shard * u64::from(SLOTS)).div_ceil(u64::from(shards)) as u16;
    first(u64::from(shard.0))..first(u64::from(shard.0) + 1)
}
