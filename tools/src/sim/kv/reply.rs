//! What the server replies, as far as these clients ask for it.

use bytes::Bytes;

use super::values::excerpt;
use crate::sim::checks::history::Reply;

/// Reads one RESP2 reply.
///
/// # Errors
/// It is none.
pub fn decode(reply: &[u8]) -> Result<Reply, String> {
    parse(reply).ok_or_else(|| format!("this is no reply: {}", excerpt(reply)))
}

fn parse(reply: &[u8]) -> Option<Reply> {
    let (kind, rest) = reply.split_first()?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let (line, rest) = (&rest[..end], &rest[end + 2..]);
    let number = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
    match kind {
        b'$' if line == b"-1" => rest.is_empty().then_some(Reply::Nil),
        b'$' => {
            let value = rest.strip_suffix(b"\r\n")?;
            let announced = usize::try_from(number()?).ok()?;
            (announced == value.len()).then(|| Reply::Value(Bytes::copy_from_slice(value)))
        }
        _ if !rest.is_empty() => None,
        b'+' => (line == b"OK").then_some(Reply::Ok),
        b':' => number().map(Reply::Int),
        b'-' => Some(Reply::Error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        assert_eq!(decode(b"+OK\r\n"), Ok(Reply::Ok));
        assert_eq!(decode(b"$-1\r\n"), Ok(Reply::Nil));
        assert_eq!(decode(b"$3\r\na\r\n\r\n"), Ok(Reply::Value(Bytes::from("a\r\n"))));
        assert_eq!(decode(b":-7\r\n"), Ok(Reply::Int(-7)));
        assert_eq!(decode(b"-ERR no\r\n"), Ok(Reply::Error));
        for wrong in [&b""[..], b"\x01", b"$3\r\nab\r\n", b":1\r\n:2\r\n", b"+NO\r\n", b":x\r\n"] {
            assert!(decode(wrong).is_err());
        }
    }
}
