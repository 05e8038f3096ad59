//! Numbers as LEB128: seven bits to a byte, the lowest first; one form for each number.

use bytes::BufMut;

/// Bytes of the longest number.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Appends a number.
pub(crate) fn put(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// What the beginning of some bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A number; the bytes are behind it now.
    Number(u64),
    /// The beginning of a number.
    CutOff,
    /// No number: longer than it has to be, or than 64 bits.
    Wrong,
}

/// Takes a number from the front of some bytes.
pub(crate) fn take(bytes: &mut &[u8]) -> Taken {
    let mut number = 0_u64;
    for (place, byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        if place == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return Taken::Wrong;
        }
        number |= bits << (7 * place);
        if byte & 0x80 == 0 {
            if *byte == 0 && place > 0 {
                return Taken::Wrong;
            }
            *bytes = &bytes[place + 1..];
            return Taken::Number(number);
        }
    }
    Taken::CutOff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_form() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            assert!(bytes.len() <= VARINT_BYTES_MAX);
            for cut in 0..bytes.len() {
                assert_eq!(take(&mut &bytes[..cut]), Taken::CutOff);
            }
            bytes.push(7);
            let mut rest = &bytes[..];
            assert_eq!(take(&mut rest), Taken::Number(number));
            assert_eq!(rest, [7]);
        }
        assert_eq!(take(&mut &[0x80, 0][..]), Taken::Wrong, "longer than it has to be");
        assert_eq!(take(&mut &[0xff; 11][..]), Taken::Wrong, "longer than 64 bits");
    }
}
