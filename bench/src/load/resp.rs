//! A minimal RESP2 client codec: commands out, replies in.
//!
//! A command is an array of bulk strings. A reply is one of
//!
//! ```text
//! +text\r\n            simple string        -text\r\n        error
//! :number\r\n          integer              $len\r\n…\r\n    bulk string, $-1 is nil
//! *len\r\n…            array, *-1 is nil
//! ```
//!
//! [`parse`] borrows from the receive buffer and allocates only for arrays, which a load test meets
//! in `CLUSTER SLOTS` and nowhere else. What a length field promises is never allocated in advance.

use thiserror::Error;

/// Longest line (status, error, number) that is accepted, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest bulk string that is accepted: Redis' own default of `proto-max-bulk-len`.
const BULK_BYTES_MAX: u64 = 512 << 20;
/// Deepest nesting of arrays that is accepted; `CLUSTER SLOTS` needs four.
const DEPTH_MAX: usize = 8;
/// Most elements of one array; `CLUSTER SLOTS` has at most one per slot.
const ARRAY_LEN_MAX: u64 = 1 << 20;

/// One reply, borrowed from the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+OK`
    Simple(&'a [u8]),
    /// `-ERR …`, without the leading minus.
    Error(&'a [u8]),
    /// `:42`
    Integer(i64),
    /// `$5 hello`
    Bulk(&'a [u8]),
    /// `$-1` or `*-1`
    Nil,
    /// `*2 …`
    Array(Vec<Reply<'a>>),
}

/// The peer does not speak RESP2. The stream has no known boundaries any more: close it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RespError {
    /// A reply starts with a byte that is no type.
    #[error("not a RESP server? a reply starts with byte 0x{0:02x}")]
    UnknownType(u8),
    /// A length or an integer is not a number.
    #[error("not a number: {0:?}")]
    BadNumber(String),
    /// A bulk string does not end in CR LF.
    #[error("a bulk string does not end in CR LF")]
    BadTerminator,
    /// A limit of this codec is passed.
    #[error("reply too large: {what} is over {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// What is allowed.
        max: u64,
    },
}

/// Appends the command `parts` to `out`.
pub fn encode_command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    push_length(out, b'*', parts.len());
    for part in parts {
        push_length(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `<kind><length>\r\n`.
pub fn push_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The first reply in `input` and how many bytes it takes; `None` while it is not complete.
///
/// # Errors
/// [`RespError`] when `input` cannot become a RESP2 reply, whatever follows.
pub fn parse(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, RespError> {
    parse_at(input, 0, 0)
}

type Parsed<'a> = Result<Option<(Reply<'a>, usize)>, RespError>;

fn parse_at(input: &[u8], start: usize, depth: usize) -> Parsed<'_> {
    let Some(&kind) = input.get(start) else { return Ok(None) };
    if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
        return Err(RespError::UnknownType(kind));
    }
    let Some((line, next)) = line(input, start + 1)? else { return Ok(None) };
    match kind {
        b'+' => Ok(Some((Reply::Simple(line), next))),
        b'-' => Ok(Some((Reply::Error(line), next))),
        b':' => Ok(Some((Reply::Integer(number(line)?), next))),
        b'$' => bulk(input, line, next),
        _ => array(input, line, next, depth),
    }
}

/// The bytes up to the next CR LF, and the position after it.
fn line(input: &[u8], start: usize) -> Result<Option<(&[u8], usize)>, RespError> {
    let window = &input[start..];
    let mut from = 0;
    while let Some(offset) = window[from..].iter().position(|&byte| byte == b'\r') {
        let cr = from + offset;
        match window.get(cr + 1) {
            Some(b'\n') => return Ok(Some((&window[..cr], start + cr + 2))),
            Some(_) => from = cr + 1,
            None => break,
        }
    }
    if window.len() > LINE_BYTES_MAX {
        return Err(RespError::TooLarge { what: "a line", max: LINE_BYTES_MAX as u64 });
    }
    Ok(None)
}

fn number(line: &[u8]) -> Result<i64, RespError> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| RespError::BadNumber(String::from_utf8_lossy(line).into_owned()))
}

/// A length field: `None` is nil.
fn length(line: &[u8], what: &'static str, max: u64) -> Result<Option<usize>, RespError> {
    let value = number(line)?;
    if value == -1 {
        return Ok(None);
    }
    let value =
        u64::try_from(value).map_err(|_| RespError::BadNumber(format!("{value} as a length")))?;
    if value > max {
        return Err(RespError::TooLarge { what, max });
    }
    Ok(Some(usize::try_from(value).expect("at most the limit, which fits")))
}

fn bulk<'a>(input: &'a [u8], line: &[u8], start: usize) -> Parsed<'a> {
    let Some(len) = length(line, "a bulk string", BULK_BYTES_MAX)? else {
        return Ok(Some((Reply::Nil, start)));
    };
    let Some(end) = input.get(start + len..start + len + 2) else { return Ok(None) };
    if end != b"\r\n" {
        return Err(RespError::BadTerminator);
    }
    Ok(Some((Reply::Bulk(&input[start..start + len]), start + len + 2)))
}

fn array<'a>(input: &'a [u8], line: &[u8], start: usize, depth: usize) -> Parsed<'a> {
    let Some(len) = length(line, "an array", ARRAY_LEN_MAX)? else {
        return Ok(Some((Reply::Nil, start)));
    };
    if depth == DEPTH_MAX {
        return Err(RespError::TooLarge { what: "the nesting of arrays", max: DEPTH_MAX as u64 });
    }
    let mut items = Vec::new();
    let mut next = start;
    for _ in 0..len {
        let Some((item, after)) = parse_at(input, next, depth + 1)? else { return Ok(None) };
        items.push(item);
        next = after;
    }
    Ok(Some((Reply::Array(items), next)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode_command(&mut out, &[b"SET", b"key", b"0123456789"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10\r\n0123456789\r\n");
    }

    #[test]
    fn every_prefix_of_a_reply_is_incomplete_and_the_whole_is_taken_exactly() {
        let cases: [(&[u8], Reply<'_>); 7] = [
            (b"+OK\r\n", Reply::Simple(b"OK")),
            (b"-MOVED 1 a:2\r\n", Reply::Error(b"MOVED 1 a:2")),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"$5\r\nhe\r\no\r\n", Reply::Bulk(b"he\r\no")),
            (b"$-1\r\n", Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (
                b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
                Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![Reply::Bulk(b"")])]),
            ),
        ];
        for (bytes, reply) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
            let mut stream = bytes.to_vec();
            stream.extend_from_slice(b"+NEXT\r\n");
            assert_eq!(parse(&stream).unwrap().unwrap(), (reply, bytes.len()));
        }
    }

    #[test]
    fn a_carriage_return_alone_does_not_end_a_line() {
        assert_eq!(parse(b"+a\rb\r\n").unwrap().unwrap(), (Reply::Simple(b"a\rb"), 6));
        assert_eq!(parse(b"+a\rb\r"), Ok(None));
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        assert_eq!(parse(b"HTTP/1.1 400"), Err(RespError::UnknownType(b'H')));
        assert!(matches!(parse(b":abc\r\n"), Err(RespError::BadNumber(_))));
        assert!(matches!(parse(b"$-7\r\n"), Err(RespError::BadNumber(_))));
        assert_eq!(parse(b"$1\r\nabc"), Err(RespError::BadTerminator));
        assert!(matches!(parse(b"$999999999999\r\n"), Err(RespError::TooLarge { .. })));
        assert!(matches!(parse(b"*999999999999\r\n"), Err(RespError::TooLarge { .. })));
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 2);
        assert!(matches!(parse(&deep), Err(RespError::TooLarge { .. })));
        let endless = vec![b'+'; LINE_BYTES_MAX + 2];
        assert!(matches!(parse(&endless), Err(RespError::TooLarge { .. })));
    }
}
