//! A small mutator for the stable harness: what libFuzzer does to bytes, from a seed, without coverage.

use fastrand::Rng;

/// Largest input it makes.
pub const INPUT_BYTES_MAX: usize = 8 << 10;

/// Most changes on top of each other.
const CHANGES_MAX: usize = 6;

/// Numbers at which arithmetic and limits break.
const INTERESTING: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x10_0000,
    0x40_0001,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// The same as text, for formats whose numbers are text.
const INTERESTING_TEXTS: [&str; 10] = [
    "0",
    "-1",
    "1",
    "65535",
    "65536",
    "1048576",
    "1048577",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
];

/// Makes a new input from `base`, with parts of `other` at times.
pub fn mutate(rng: &mut Rng, base: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for _ in 0..rng.usize(1..=CHANGES_MAX) {
        change(rng, &mut bytes, other);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.push(rng.u8(..));
        return;
    }
    let at = rng.usize(..bytes.len());
    match rng.u32(..12) {
        0 | 1 => bytes[at] ^= 1 << rng.u32(..8),
        2 => bytes[at] = rng.u8(..),
        3 => bytes[at] = bytes[at].wrapping_add_signed(rng.i8(-16..=16)),
        4 => overwrite(bytes, at, &number(rng)),
        5 => number_in_text(rng, bytes, at),
        6 => bytes.truncate(at),
        7 => drop(bytes.drain(chunk(rng, at, bytes.len()))),
        8 => {
            let count = rng.usize(1..=16);
            let inserted: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(count).collect();
            bytes.splice(at..at, inserted);
        }
        9 => {
            let copied = bytes[chunk(rng, at, bytes.len())].to_vec();
            let to = rng.usize(..=bytes.len());
            bytes.splice(to..to, copied);
        }
        10 => {
            let copied = bytes[chunk(rng, at, bytes.len())].to_vec();
            let to = rng.usize(..bytes.len());
            overwrite(bytes, to, &copied);
        }
        _ if !other.is_empty() => {
            let from = rng.usize(..other.len());
            let copied = other[chunk(rng, from, other.len())].to_vec();
            let replaced = chunk(rng, at, bytes.len());
            bytes.splice(replaced, copied);
        }
        _ => {}
    }
}

/// A part from `at` on, short ones more often.
fn chunk(rng: &mut Rng, at: usize, len: usize) -> std::ops::Range<usize> {
    let most = if rng.bool() { 16 } else { len };
    at..at + rng.usize(1..=most.min(len - at))
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let len = with.len().min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&with[..len]);
}

/// An interesting number, or one beside it, of any width.
fn number(rng: &mut Rng) -> Vec<u8> {
    let number = INTERESTING[rng.usize(..INTERESTING.len())];
    let number = number.wrapping_add_signed(rng.i64(-1..=1));
    let width = [1, 2, 4, 8][rng.usize(..4)];
    number.to_le_bytes()[..width].to_vec()
}

/// Replaces the digits at or behind `at` by an interesting number.
fn number_in_text(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found)
    else {
        return;
    };
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = INTERESTING_TEXTS[rng.usize(..INTERESTING_TEXTS.len())];
    bytes.splice(start..start + digits, text.bytes());
}
