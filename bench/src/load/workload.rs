//! What the load consists of: keys, values, and how a value proves where it comes from.
//!
//! A key is `load:` and eleven digits. A value starts with 40 bytes that name its origin, followed by
//! filler that depends on the sequence number, so that two values mixed into one are seen:
//!
//! ```text
//! load:00000000042 | run id, 8 hex digits | sequence number, 16 hex digits | filler
//! ```
//!
//! Values shorter than that carry only the start, and cannot be checked.

use super::slots::slot_of;

/// Bytes of every key.
pub const KEY_BYTES: usize = 16;
/// Bytes of a value that name its origin; the least value size that can be checked.
pub const STAMP_BYTES: usize = KEY_BYTES + 8 + 16;
/// Largest value: what the server takes as one payload, less room for the command around it.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most keys: their slots are kept in memory, two bytes each.
pub const KEYS_MAX: u32 = 16 << 20;

/// Period of the filler; prime, so that shifted copies differ.
const FILLER_PERIOD: usize = 61;
const FILLER: &[u8; FILLER_PERIOD] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXY";

/// A read or a write of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `GET key`
    Read,
    /// `SET key value`
    Write,
}

/// The keys of a run and the slot of each.
#[derive(Debug)]
pub struct KeySpace {
    slots: Vec<u16>,
}

impl KeySpace {
    /// Keys 0 to `keys` - 1.
    pub fn new(keys: u32) -> Self {
        let slots = (0..keys).map(|key| slot_of(&key_bytes(key))).collect();
        Self { slots }
    }

    /// How many keys there are.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of `key`.
    pub fn slot(&self, key: u32) -> u16 {
        self.slots[key as usize]
    }
}

/// The text of `key`.
pub fn key_bytes(key: u32) -> [u8; KEY_BYTES] {
    let mut text = *b"load:00000000000";
    let mut rest = key;
    let mut at = KEY_BYTES;
    while rest > 0 {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

/// Builds commands and judges what comes back, for one run.
#[derive(Clone, Debug)]
pub struct Codec {
    run_id: u32,
    value_bytes: usize,
    /// `*3 … $<len>`: all that stands before the value except the key.
    set_head: Vec<u8>,
    set_middle: Vec<u8>,
    get_head: Vec<u8>,
    /// Filler for any sequence number: the part from `sequence % FILLER_PERIOD` on.
    filler: Vec<u8>,
}

/// What is wrong with a value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It is the value of another key, or no value of this tool.
    WrongOrigin,
    /// Its length or its filler is not what was written.
    Mangled,
    /// A write of this key was acknowledged before the read was sent, but the read found nothing, or
    /// a value from an earlier run.
    LostWrite,
}

impl Codec {
    /// A codec for values of `value_bytes`, marked with `run_id`.
    pub fn new(run_id: u32, value_bytes: usize) -> Self {
        let set_head = format!("*3\r\n$3\r\nSET\r\n${KEY_BYTES}\r\n").into_bytes();
        let set_middle = format!("\r\n${value_bytes}\r\n").into_bytes();
        let get_head = format!("*2\r\n$3\r\nGET\r\n${KEY_BYTES}\r\n").into_bytes();
        let filler = FILLER.iter().copied().cycle().take(value_bytes + FILLER_PERIOD).collect();
        Self { run_id, value_bytes, set_head, set_middle, get_head, filler }
    }

    /// Bytes of each value.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Appends the command to `out`. `sequence` marks the value of a write.
    pub fn encode(&self, out: &mut Vec<u8>, op: Op, key: u32, sequence: u64) {
        let key = key_bytes(key);
        match op {
            Op::Read => {
                out.extend_from_slice(&self.get_head);
                out.extend_from_slice(&key);
            }
            Op::Write => {
                out.extend_from_slice(&self.set_head);
                out.extend_from_slice(&key);
                out.extend_from_slice(&self.set_middle);
                let stamp = self.stamp(&key, sequence);
                let stamped = self.value_bytes.min(STAMP_BYTES);
                out.extend_from_slice(&stamp[..stamped]);
                out.extend_from_slice(self.filler_of(sequence));
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Judges the `value` that a read of `key` returned. `acknowledged`: this run had a write of
    /// the key acknowledged before the read was sent.
    ///
    /// # Errors
    /// The [`Violation`] that it shows.
    pub fn check(
        &self,
        key: u32,
        value: Option<&[u8]>,
        acknowledged: bool,
    ) -> Result<(), Violation> {
        let Some(value) = value else {
            return if acknowledged { Err(Violation::LostWrite) } else { Ok(()) };
        };
        let stamp = value.get(..STAMP_BYTES).ok_or(Violation::WrongOrigin)?;
        let run_id = hex(&stamp[KEY_BYTES..KEY_BYTES + 8]).ok_or(Violation::WrongOrigin)?;
        let sequence = hex(&stamp[KEY_BYTES + 8..]).ok_or(Violation::WrongOrigin)?;
        if stamp[..KEY_BYTES] != key_bytes(key) {
            return Err(Violation::WrongOrigin);
        }
        if run_id != u64::from(self.run_id) {
            // An earlier run may have used another value size; only its age counts here.
            return if acknowledged { Err(Violation::LostWrite) } else { Ok(()) };
        }
        if value.len() != self.value_bytes || value[STAMP_BYTES..] != *self.filler_of(sequence) {
            return Err(Violation::Mangled);
        }
        Ok(())
    }

    fn filler_of(&self, sequence: u64) -> &[u8] {
        let start = (sequence % FILLER_PERIOD as u64) as usize;
        &self.filler[start..start + self.value_bytes.saturating_sub(STAMP_BYTES)]
    }

    fn stamp(&self, key: &[u8; KEY_BYTES], sequence: u64) -> [u8; STAMP_BYTES] {
        let mut stamp = [0; STAMP_BYTES];
        stamp[..KEY_BYTES].copy_from_slice(key);
        put_hex(&mut stamp[KEY_BYTES..KEY_BYTES + 8], u64::from(self.run_id));
        put_hex(&mut stamp[KEY_BYTES + 8..], sequence);
        stamp
    }
}

fn put_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0u64, |value, &digit| Some(value << 4 | u64::from((digit as char).to_digit(16)?)))
}

/// A small generator of random numbers (SplitMix64): enough to choose keys, and reproducible.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::resp::{Reply, parse};

    fn value_of(codec: &Codec, key: u32, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        codec.encode(&mut out, Op::Write, key, sequence);
        let (command, used) = parse(&out).unwrap().unwrap();
        assert_eq!(used, out.len());
        let Reply::Array(parts) = command else { panic!("{command:?}") };
        assert_eq!(parts[..2], [Reply::Bulk(b"SET"), Reply::Bulk(&key_bytes(key))]);
        let Reply::Bulk(value) = parts[2] else { panic!("{parts:?}") };
        value.to_vec()
    }

    #[test]
    fn every_value_size_is_kept_exactly() {
        for size in [1, 15, 39, 40, 41, 128, 4096] {
            assert_eq!(value_of(&Codec::new(7, size), 42, 123).len(), size);
        }
    }

    #[test]
    fn a_value_passes_for_its_own_key_only() {
        let codec = Codec::new(7, 128);
        let value = value_of(&codec, 42, 123);
        assert_eq!(codec.check(42, Some(&value), true), Ok(()));
        assert_eq!(codec.check(43, Some(&value), true), Err(Violation::WrongOrigin));
        assert_eq!(codec.check(42, Some(b"hello"), false), Err(Violation::WrongOrigin));
    }

    #[test]
    fn a_mixed_or_shortened_value_is_mangled() {
        let codec = Codec::new(7, 128);
        let mut value = value_of(&codec, 42, 123);
        value[60..].copy_from_slice(&value_of(&codec, 42, 124)[60..]);
        assert_eq!(codec.check(42, Some(&value), true), Err(Violation::Mangled));
        let value = value_of(&codec, 42, 123);
        assert_eq!(codec.check(42, Some(&value[..127]), true), Err(Violation::Mangled));
    }

    #[test]
    fn after_an_acknowledged_write_neither_nothing_nor_an_older_run_may_show() {
        let codec = Codec::new(7, 128);
        let old = value_of(&Codec::new(6, 64), 42, 9);
        assert_eq!(codec.check(42, None, false), Ok(()));
        assert_eq!(codec.check(42, None, true), Err(Violation::LostWrite));
        assert_eq!(codec.check(42, Some(&old), false), Ok(()));
        assert_eq!(codec.check(42, Some(&old), true), Err(Violation::LostWrite));
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
    }
}
