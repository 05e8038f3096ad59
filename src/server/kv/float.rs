//! Floating-point numbers for `INCRBYFLOAT`: 64 bits of mantissa, in software.
//!
//! Redis adds in the C type `long double` and prints up to 17 digits behind the point. What that type
//! is depends on the machine; replicas must agree on every digit. So this is the 80-bit type of x86
//! done with integers: the same digits as Redis on x86, on any machine. Sources: IEEE 754 rounding to
//! nearest, ties to even.

use std::fmt;

/// Longest text that is taken for a number.
const TEXT_BYTES_MAX: usize = 5 * 1024;
/// Exponents (of two) beyond which a number is infinite or zero.
const EXPONENT_MAX: i64 = 16_384 - 64;
const EXPONENT_MIN: i64 = -16_445;
/// Exponents (of ten) beyond which no text of the allowed length is a finite number other than zero.
const DECIMAL_EXPONENT_MAX: i64 = 12_000;
const FRACTION_DIGITS: usize = 17;

/// `mantissa * 2^exponent`; the highest bit of the mantissa is set unless it is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
    infinite: bool,
}

impl Extended {
    pub(super) const ZERO: Self =
        Self { negative: false, mantissa: 0, exponent: 0, infinite: false };

    /// A decimal number, or an infinity. `None` for other text, not-a-number, and numbers too large or
    /// too small for the type.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
            return Some(Self { negative, infinite: true, ..Self::ZERO });
        }
        let (digits, exponent) = decimal(text)?;
        let number = Self::from_decimal(Big::from_digits(&digits), exponent)?;
        Some(Self { negative, ..number })
    }

    /// The sum; `None` if it is infinite or not a number.
    pub(super) fn checked_add(self, other: Self) -> Option<Self> {
        if self.infinite || other.infinite {
            return None;
        }
        if self.mantissa == 0 || other.mantissa == 0 {
            return Some(if self.mantissa == 0 { other } else { self });
        }
        let (large, small) = if (self.exponent, self.mantissa) >= (other.exponent, other.mantissa) {
            (self, other)
        } else {
            (other, self)
        };
        // 62 bits below the mantissas: more than rounding needs, and the sum has room above.
        let high = u128::from(large.mantissa) << 62;
        let low = shift_right_sticky(
            u128::from(small.mantissa) << 62,
            (large.exponent - small.exponent).unsigned_abs(),
        );
        let sum = if large.negative == small.negative { high + low } else { high - low };
        if sum == 0 {
            return Some(Self::ZERO);
        }
        let number = Self::rounded(sum, large.exponent - 62, false)?;
        Some(Self { negative: large.negative, ..number })
    }

    /// `bits * 2^exponent`, plus something below the last bit if `sticky`, rounded to 64 bits.
    fn rounded(bits: u128, exponent: i64, sticky: bool) -> Option<Self> {
        let spare = i64::from(128 - bits.leading_zeros()) - 64;
        let (mut mantissa, mut exponent) = if spare <= 0 {
            ((bits << -spare) as u64, exponent + spare)
        } else {
            let rest = bits & ((1 << spare) - 1);
            let half = 1_u128 << (spare - 1);
            let mantissa = (bits >> spare) as u64;
            let up = rest > half || (rest == half && (sticky || mantissa & 1 == 1));
            let (sum, carried) = mantissa.overflowing_add(u64::from(up));
            if carried { (1 << 63, exponent + spare + 1) } else { (sum, exponent + spare) }
        };
        if exponent > EXPONENT_MAX {
            return None;
        }
        if exponent < EXPONENT_MIN {
            (mantissa, exponent) = (0, 0);
        }
        Some(Self { negative: false, mantissa, exponent, infinite: false })
    }

    fn from_decimal(mut digits: Big, exponent: i64) -> Option<Self> {
        if digits.is_zero() {
            return Some(Self::ZERO);
        }
        if exponent.abs() > DECIMAL_EXPONENT_MAX {
            return None;
        }
        let mut binary_exponent = 0;
        let mut sticky = false;
        if exponent >= 0 {
            (0..exponent).for_each(|_| digits.multiply(10));
        } else {
            // n / 10^k = (n << s) / 5^k * 2^(-k-s), with enough bits left after the division.
            let shift = (-exponent as usize) * 7 / 3 + 160;
            digits.shift_left(shift);
            binary_exponent = exponent - shift as i64;
            let mut left = -exponent;
            while left > 0 {
                let step = left.min(13);
                sticky |= digits.divide(5_u32.pow(step as u32)) != 0;
                left -= step;
            }
        }
        let (top, dropped_bits, dropped) = digits.top_bits();
        Self::rounded(top, binary_exponent + dropped_bits as i64, sticky || dropped)
            .filter(|number| number.mantissa != 0)
    }
}

/// Splits a decimal into its digits and the exponent of ten of the last one.
fn decimal(text: &[u8]) -> Option<(Vec<u8>, i64)> {
    let marker = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (number, mut exponent) = match marker {
        None => (text, 0),
        Some(at) => (&text[..at], signed_exponent(&text[at + 1..])?),
    };
    let mut digits = Vec::with_capacity(number.len());
    let mut point = false;
    for &byte in number {
        match byte {
            b'0'..=b'9' => {
                digits.push(byte - b'0');
                exponent -= i64::from(point);
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    (!digits.is_empty()).then_some((digits, exponent))
}

fn signed_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Saturates far outside of what can be finite or non-zero.
    let value = digits.iter().fold(0_i64, |value, digit| {
        (value * 10 + i64::from(digit - b'0')).min(DECIMAL_EXPONENT_MAX * 10)
    });
    Some(if negative { -value } else { value })
}

fn shift_right_sticky(bits: u128, by: u64) -> u128 {
    match by {
        0 => bits,
        by if by >= 127 => u128::from(bits != 0),
        by => bits >> by | u128::from(bits & ((1 << by) - 1) != 0),
    }
}

impl fmt::Display for Extended {
    /// As `%.17Lf` without the zeros at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = if self.exponent >= 0 {
            let mut whole = Big::from_u128(self.mantissa.into());
            whole.shift_left(self.exponent as usize);
            whole.to_decimal() + &"0".repeat(FRACTION_DIGITS)
        } else {
            let scaled = u128::from(self.mantissa) * 10_u128.pow(FRACTION_DIGITS as u32);
            shift_right_to_even(scaled, self.exponent.unsigned_abs()).to_string()
        };
        if digits.len() <= FRACTION_DIGITS {
            digits.insert_str(0, &"0".repeat(FRACTION_DIGITS + 1 - digits.len()));
        }
        let (whole, fraction) = digits.split_at(digits.len() - FRACTION_DIGITS);
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
        match fraction {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

fn shift_right_to_even(bits: u128, by: u64) -> u128 {
    if by >= 127 {
        return 0;
    }
    let (quotient, rest, half) = (bits >> by, bits & ((1 << by) - 1), 1_u128 << (by - 1));
    quotient + u128::from(rest > half || (rest == half && quotient & 1 == 1))
}

/// A large natural number; digits of base 2^32, the lowest first.
struct Big(Vec<u32>);

impl Big {
    fn from_u128(value: u128) -> Self {
        Self((0..4).map(|word| (value >> (32 * word)) as u32).collect())
    }

    fn from_digits(digits: &[u8]) -> Self {
        let mut number = Self(Vec::new());
        for digit in digits {
            number.multiply_add(10, (*digit).into());
        }
        number
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn multiply(&mut self, factor: u32) {
        self.multiply_add(factor, 0);
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(factor);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn shift_left(&mut self, bits: usize) {
        self.multiply(1 << (bits % 32));
        self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
    }

    /// Divides and gives the rest.
    fn divide(&mut self, divisor: u32) -> u32 {
        let mut rest = 0_u64;
        for word in self.0.iter_mut().rev() {
            let dividend = rest << 32 | u64::from(*word);
            *word = (dividend / u64::from(divisor)) as u32;
            rest = dividend % u64::from(divisor);
        }
        rest as u32
    }

    /// The highest words, how many bits are below them, and whether any of those is set.
    fn top_bits(&self) -> (u128, usize, bool) {
        let used = self.0.iter().rposition(|word| *word != 0).map_or(0, |at| at + 1);
        let from = used.saturating_sub(4);
        let top =
            self.0[from..used].iter().rev().fold(0_u128, |top, word| top << 32 | u128::from(*word));
        (top, from * 32, self.0[..from].iter().any(|word| *word != 0))
    }

    fn to_decimal(&self) -> String {
        let mut rest = Self(self.0.clone());
        let mut groups = Vec::new();
        while !rest.is_zero() {
            groups.push(rest.divide(1_000_000_000));
        }
        let mut groups = groups.into_iter().rev();
        let mut text = groups.next().unwrap_or(0).to_string();
        groups.for_each(|group| text.push_str(&format!("{group:09}")));
        text
    }
}
