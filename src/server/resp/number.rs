//! Numbers in requests: only the canonical form is a number, as in Redis.

/// A decimal integer without plus sign, leading zeros or spaces; `None` for anything else.
#[must_use]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = parse_u64(digits)?;
    if !negative {
        return i64::try_from(magnitude).ok();
    }
    match magnitude {
        0 => None,
        m if m <= i64::MAX as u64 => Some(-(m as i64)),
        m if m == i64::MIN.unsigned_abs() => Some(i64::MIN),
        _ => None,
    }
}

/// An unsigned decimal integer without leading zeros; `None` for anything else.
#[must_use]
pub fn parse_u64(digits: &[u8]) -> Option<u64> {
    match digits {
        [] => None,
        [b'0'] => Some(0),
        [b'0', ..] => None,
        _ if digits.len() > 20 => None,
        _ => digits.iter().try_fold(0_u64, |value, byte| {
            let digit = byte.wrapping_sub(b'0');
            (digit <= 9).then_some(())?;
            value.checked_mul(10)?.checked_add(u64::from(digit))
        }),
    }
}

/// A decimal floating-point number; `None` for text that is none, or not finite.
#[must_use]
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}
