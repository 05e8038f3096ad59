//! A reader of replies that knows nothing of the server's writer: is a reply one value, and which kind?

/// Nesting that no reply of the server has.
const DEPTH_MAX: usize = 8;

/// Length of the value at the start of `bytes`; `None` unless it is there in full.
fn value(bytes: &[u8], depth: usize) -> Option<usize> {
    let kind = *bytes.first()?;
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let text = std::str::from_utf8(&bytes[1..end]).ok()?;
    let after = end + 2;
    let count = || text.parse::<usize>().ok();
    match kind {
        b'+' | b'-' | b',' | b'(' => Some(after),
        b':' => text.parse::<i64>().ok().map(|_| after),
        b'_' => text.is_empty().then_some(after),
        b'#' => matches!(text, "t" | "f").then_some(after),
        b'$' | b'*' if text == "-1" => Some(after),
        b'$' | b'=' => {
            let end = after.checked_add(count()?)?;
            (bytes.get(end..end + 2)? == b"\r\n").then_some(end + 2)
        }
        b'*' | b'%' | b'~' if depth < DEPTH_MAX => {
            let items = count()? * if kind == b'%' { 2 } else { 1 };
            (0..items).try_fold(after, |at, _| Some(at + value(&bytes[at..], depth + 1)?))
        }
        _ => None,
    }
}

/// Asserts that a reply is exactly one value. Returns whether it is an error.
pub(super) fn check(reply: &[u8]) -> bool {
    assert_eq!(value(reply, 0), Some(reply.len()), "one value: {}", reply.escape_ascii());
    reply[0] == b'-'
}
