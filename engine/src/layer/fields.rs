//! Fields of entries and replies: a first byte that says whose they are and what, then numbers.

use thiserror::Error;

use super::varint::{self, Taken};

/// Bytes that are no entry or reply of the machine that was given them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Whether the high half of the first byte is that of `version`.
pub(crate) fn is_of(version: u8, bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| byte & 0xf0 == version)
}

/// Takes the first byte; gives its low half.
pub(crate) fn head(
    version: u8,
    rest: &mut &[u8],
    otherwise: &'static str,
) -> Result<u8, Malformed> {
    match rest.split_first() {
        Some((byte, behind)) if byte & 0xf0 == version => {
            *rest = behind;
            Ok(byte & 0x0f)
        }
        _ => Err(Malformed(otherwise)),
    }
}

/// Takes a number.
pub(crate) fn number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    match varint::take(rest) {
        Taken::Number(number) => Ok(number),
        Taken::CutOff => Err(Malformed("a field is cut off")),
        Taken::Wrong => Err(Malformed("a number is not in its shortest form")),
    }
}

/// Takes an id.
pub(crate) fn positive(rest: &mut &[u8]) -> Result<u64, Malformed> {
    match number(rest)? {
        0 => Err(Malformed("an id is 0")),
        number => Ok(number),
    }
}

/// Nothing may be left.
pub(crate) fn ended(rest: &[u8]) -> Result<(), Malformed> {
    match rest.is_empty() {
        true => Ok(()),
        false => Err(Malformed("something follows its end")),
    }
}
