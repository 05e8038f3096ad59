//! Log entries and queries of the key-value state machine, as bytes.
//!
//! ```text
//! payload = flags u8 | clock of the proposer or reader, ms since 1970, u64 LE | opcode u8 | fields
//! flags   = version (1) << 4 | RESP3 (1) | stale read (2)
//! bytes   = length as LEB128 | that many bytes         number = u64 or i64 LE
//! list    = count as LEB128 | that many bytes fields
//! ```
//! A payload is valid if and only if the version is known, the opcode is known, all its fields are
//! there and nothing follows them. Opcodes and fields never change their meaning; new ones are added.

use bytes::{BufMut, Bytes, BytesMut};

use crate::server::resp::Protocol;

const VERSION: u8 = 1;
const FLAG_RESP3: u8 = 1;
const FLAG_STALE: u8 = 2;

/// What every payload starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Protocol of the reply.
    pub protocol: Protocol,
    /// Whether a read may be answered from an old state.
    pub stale: bool,
    /// Clock of the proposer or reader, milliseconds since 1970.
    pub now_ms: u64,
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// As before.
    Keep,
    /// So many milliseconds after the log time at which the entry is applied.
    After(i64),
    /// At this time, milliseconds since 1970.
    At(i64),
}

impl Expiry {
    /// The deadline for an entry applied at `log_time_ms`; `None` for `Never` and `Keep`.
    #[must_use]
    pub fn deadline_ms(self, log_time_ms: u64) -> Option<u64> {
        match self {
            Self::Never | Self::Keep => None,
            Self::After(ms) => Some(log_time_ms.saturating_add_signed(ms)),
            Self::At(ms) => Some(u64::try_from(ms).unwrap_or(0)),
        }
    }
}

/// Under which condition `SET` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetIf {
    /// Always.
    Always,
    /// The key is absent (`NX`).
    Absent,
    /// The key is there (`XX`).
    Present,
}

/// What `SET` and its relatives answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetReply {
    /// `OK`, or null if the condition was not met.
    Status,
    /// The old value.
    Old,
    /// 1 or 0.
    Flag,
}

/// Conditions of `EXPIRE` and its relatives, as bits of [`Write::Expire`].
pub mod expire_if {
    /// Only a key without expiry.
    pub const NX: u8 = 1;
    /// Only a key with expiry.
    pub const XX: u8 = 2;
    /// Only to a later time.
    pub const GT: u8 = 4;
    /// Only to an earlier time.
    pub const LT: u8 = 8;
}

/// Which form of a key's expiry is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlForm {
    /// Seconds that remain (`TTL`).
    Seconds,
    /// Milliseconds that remain (`PTTL`).
    Millis,
    /// The time in seconds (`EXPIRETIME`).
    AtSeconds,
    /// The time in milliseconds (`PEXPIRETIME`).
    AtMillis,
}

/// Some byte strings of a payload.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    count: usize,
    encoded: &'a [u8],
}

impl<'a> List<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The byte strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut fields = Fields(self.encoded);
        (0..self.count).map_while(move |_| fields.bytes())
    }

    /// Keys and values that alternate.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut fields = Fields(self.encoded);
        (0..self.count / 2).map_while(move |_| Some((fields.bytes()?, fields.bytes()?)))
    }
}

/// A change.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names are those of the commands' arguments
pub enum Write<'a> {
    Set { key: &'a [u8], value: &'a [u8], expiry: Expiry, when: SetIf, reply: SetReply },
    GetDel { key: &'a [u8] },
    GetEx { key: &'a [u8], expiry: Expiry },
    MSet { pairs: List<'a>, only_if_all_absent: bool },
    Append { key: &'a [u8], value: &'a [u8] },
    SetRange { key: &'a [u8], offset: u64, value: &'a [u8] },
    IncrBy { key: &'a [u8], delta: i64 },
    IncrByFloat { key: &'a [u8], delta: &'a [u8] },
    Del { keys: List<'a> },
    Expire { key: &'a [u8], expiry: Expiry, conditions: u8 },
    Persist { key: &'a [u8] },
    Rename { from: &'a [u8], to: &'a [u8], only_if_absent: bool },
    Copy { from: &'a [u8], to: &'a [u8], replace: bool },
    Flush,
}

/// A read. The last ones are asked by the server itself, across the shards of a core.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Read<'a> {
    Get { key: &'a [u8] },
    MGet { keys: List<'a> },
    StrLen { key: &'a [u8] },
    GetRange { key: &'a [u8], start: i64, end: i64 },
    Exists { keys: List<'a> },
    Ttl { key: &'a [u8], form: TtlForm },
    Type { key: &'a [u8] },
    Keys { pattern: &'a [u8] },
    Scan { below: u64, count: u64, pattern: &'a [u8] },
    RandomKey { random: u64 },
    Size,
    CountInSlot { slot: u16 },
    KeysInSlot { slot: u16, count: u64 },
    Expiring,
}

/// What a payload asks for.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Moves the log time to the clock of the payload.
    Tick,
    /// A change.
    Write(Write<'a>),
    /// A read; in the log, too, where a connection wants one ordered behind its own writes.
    Read(Read<'a>),
}

/// A decoded payload.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// Protocol and clock.
    pub head: Head,
    /// What is asked for.
    pub op: Op<'a>,
}

macro_rules! opcodes {
    ($($name:ident = $code:literal),* $(,)?) => { $(const $name: u8 = $code;)* };
}

opcodes! {
    TICK = 1, SET = 2, GETDEL = 3, GETEX = 4, MSET = 5, APPEND = 6, SETRANGE = 7, INCRBY = 8,
    INCRBYFLOAT = 9, DEL = 10, EXPIRE = 11, PERSIST = 12, RENAME = 13, COPY = 14, FLUSH = 15,
    GET = 64, MGET = 65, STRLEN = 66, GETRANGE = 67, EXISTS = 68, TTL = 69, TYPE = 70, KEYS = 71,
    SCAN = 72, RANDOMKEY = 73, SIZE = 74, COUNTINSLOT = 75, KEYSINSLOT = 76, EXPIRING = 77,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u16(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_le_bytes(*first))
    }

    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    fn i64(&mut self) -> Option<i64> {
        self.u64().map(u64::cast_signed)
    }

    fn length(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }

    fn list(&mut self) -> Option<List<'a>> {
        let count = self.length()?;
        let encoded = self.0;
        for _ in 0..count {
            self.bytes()?;
        }
        Some(List { count, encoded })
    }

    fn expiry(&mut self) -> Option<Expiry> {
        Some(match self.u8()? {
            0 => Expiry::Never,
            1 => Expiry::Keep,
            2 => Expiry::After(self.i64()?),
            3 => Expiry::At(self.i64()?),
            _ => return None,
        })
    }
}

impl<'a> Payload<'a> {
    /// Reads a payload; `None` if it is not valid.
    #[must_use]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let flags = fields.u8()?;
        if flags >> 4 != VERSION || flags & 0x0f & !(FLAG_RESP3 | FLAG_STALE) != 0 {
            return None;
        }
        let protocol = if flags & FLAG_RESP3 == 0 { Protocol::Resp2 } else { Protocol::Resp3 };
        let head = Head { protocol, stale: flags & FLAG_STALE != 0, now_ms: fields.u64()? };
        let op = match fields.u8()? {
            TICK => Op::Tick,
            code if code < GET => Op::Write(decode_write(code, &mut fields)?),
            code => Op::Read(decode_read(code, &mut fields)?),
        };
        fields.0.is_empty().then_some(Self { head, op })
    }
}

fn decode_write<'a>(code: u8, fields: &mut Fields<'a>) -> Option<Write<'a>> {
    Some(match code {
        SET => {
            let (when, reply) = (fields.u8()?, fields.u8()?);
            Write::Set {
                when: match when {
                    0 => SetIf::Always,
                    1 => SetIf::Absent,
                    2 => SetIf::Present,
                    _ => return None,
                },
                reply: match reply {
                    0 => SetReply::Status,
                    1 => SetReply::Old,
                    2 => SetReply::Flag,
                    _ => return None,
                },
                expiry: fields.expiry()?,
                key: fields.bytes()?,
                value: fields.bytes()?,
            }
        }
        GETDEL => Write::GetDel { key: fields.bytes()? },
        GETEX => Write::GetEx { expiry: fields.expiry()?, key: fields.bytes()? },
        MSET => Write::MSet { only_if_all_absent: fields.flag()?, pairs: fields.list()? },
        APPEND => Write::Append { key: fields.bytes()?, value: fields.bytes()? },
        SETRANGE => {
            Write::SetRange { offset: fields.u64()?, key: fields.bytes()?, value: fields.bytes()? }
        }
        INCRBY => Write::IncrBy { delta: fields.i64()?, key: fields.bytes()? },
        INCRBYFLOAT => Write::IncrByFloat { key: fields.bytes()?, delta: fields.bytes()? },
        DEL => Write::Del { keys: fields.list()? },
        EXPIRE => Write::Expire {
            conditions: fields.u8()?,
            expiry: fields.expiry()?,
            key: fields.bytes()?,
        },
        PERSIST => Write::Persist { key: fields.bytes()? },
        RENAME => Write::Rename {
            only_if_absent: fields.flag()?,
            from: fields.bytes()?,
            to: fields.bytes()?,
        },
        COPY => Write::Copy { replace: fields.flag()?, from: fields.bytes()?, to: fields.bytes()? },
        FLUSH => Write::Flush,
        _ => return None,
    })
}

fn decode_read<'a>(code: u8, fields: &mut Fields<'a>) -> Option<Read<'a>> {
    Some(match code {
        GET => Read::Get { key: fields.bytes()? },
        MGET => Read::MGet { keys: fields.list()? },
        STRLEN => Read::StrLen { key: fields.bytes()? },
        GETRANGE => {
            Read::GetRange { start: fields.i64()?, end: fields.i64()?, key: fields.bytes()? }
        }
        EXISTS => Read::Exists { keys: fields.list()? },
        TTL => Read::Ttl {
            form: match fields.u8()? {
                0 => TtlForm::Seconds,
                1 => TtlForm::Millis,
                2 => TtlForm::AtSeconds,
                3 => TtlForm::AtMillis,
                _ => return None,
            },
            key: fields.bytes()?,
        },
        TYPE => Read::Type { key: fields.bytes()? },
        KEYS => Read::Keys { pattern: fields.bytes()? },
        SCAN => Read::Scan { below: fields.u64()?, count: fields.u64()?, pattern: fields.bytes()? },
        RANDOMKEY => Read::RandomKey { random: fields.u64()? },
        SIZE => Read::Size,
        COUNTINSLOT => Read::CountInSlot { slot: fields.u16()? },
        KEYSINSLOT => Read::KeysInSlot { slot: fields.u16()?, count: fields.u64()? },
        EXPIRING => Read::Expiring,
        _ => return None,
    })
}

/// Bytes that a [`Encoder`] asks for at a time, to be shared by many small payloads.
const CHUNK_BYTES: usize = 16 << 10;

/// Builds payloads. Small ones share one allocation.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: BytesMut,
    head: [u8; 9],
}

impl Encoder {
    /// Sets what the following payloads start with.
    pub fn set_head(&mut self, head: Head) {
        let resp3 = if head.protocol == Protocol::Resp3 { FLAG_RESP3 } else { 0 };
        let stale = if head.stale { FLAG_STALE } else { 0 };
        self.head[0] = VERSION << 4 | resp3 | stale;
        self.head[1..].copy_from_slice(&head.now_ms.to_le_bytes());
    }

    fn begin(&mut self, code: u8, argument_bytes: usize) -> &mut BytesMut {
        let bytes = argument_bytes + 64;
        if self.buffer.capacity() < bytes {
            self.buffer =
                BytesMut::with_capacity(if bytes < CHUNK_BYTES / 4 { CHUNK_BYTES } else { bytes });
        }
        self.buffer.put_slice(&self.head);
        self.buffer.put_u8(code);
        &mut self.buffer
    }

    /// The finished payload.
    fn end(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// Moves the log time.
    pub fn tick(&mut self) -> Bytes {
        self.begin(TICK, 0);
        self.end()
    }

    /// Encodes a change without lists.
    ///
    /// # Panics
    /// For [`Write::MSet`] and [`Write::Del`].
    pub fn write(&mut self, write: &Write<'_>) -> Bytes {
        match *write {
            Write::Set { key, value, expiry, when, reply } => {
                let out = self.begin(SET, key.len() + value.len());
                out.put_u8(when as u8);
                out.put_u8(reply as u8);
                put_expiry(out, expiry);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Write::GetDel { key } => put_bytes(self.begin(GETDEL, key.len()), key),
            Write::GetEx { key, expiry } => {
                let out = self.begin(GETEX, key.len());
                put_expiry(out, expiry);
                put_bytes(out, key);
            }
            Write::Append { key, value } => {
                let out = self.begin(APPEND, key.len() + value.len());
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Write::SetRange { key, offset, value } => {
                let out = self.begin(SETRANGE, key.len() + value.len());
                out.put_u64_le(offset);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Write::IncrBy { key, delta } => {
                let out = self.begin(INCRBY, key.len());
                out.put_i64_le(delta);
                put_bytes(out, key);
            }
            Write::IncrByFloat { key, delta } => {
                let out = self.begin(INCRBYFLOAT, key.len() + delta.len());
                put_bytes(out, key);
                put_bytes(out, delta);
            }
            Write::Expire { key, expiry, conditions } => {
                let out = self.begin(EXPIRE, key.len());
                out.put_u8(conditions);
                put_expiry(out, expiry);
                put_bytes(out, key);
            }
            Write::Persist { key } => put_bytes(self.begin(PERSIST, key.len()), key),
            Write::Rename { from, to, only_if_absent: flag } => {
                self.two_keys(RENAME, flag, from, to)
            }
            Write::Copy { from, to, replace } => self.two_keys(COPY, replace, from, to),
            Write::Flush => {
                self.begin(FLUSH, 0);
            }
            Write::MSet { .. } | Write::Del { .. } => panic!("lists have functions of their own"),
        }
        self.end()
    }

    fn two_keys(&mut self, code: u8, flag: bool, first: &[u8], second: &[u8]) {
        let out = self.begin(code, first.len() + second.len());
        out.put_u8(u8::from(flag));
        put_bytes(out, first);
        put_bytes(out, second);
    }

    /// Encodes a read without lists.
    ///
    /// # Panics
    /// For [`Read::MGet`] and [`Read::Exists`].
    pub fn read(&mut self, read: &Read<'_>) -> Bytes {
        match *read {
            Read::Get { key } => put_bytes(self.begin(GET, key.len()), key),
            Read::StrLen { key } => put_bytes(self.begin(STRLEN, key.len()), key),
            Read::GetRange { key, start, end } => {
                let out = self.begin(GETRANGE, key.len());
                out.put_i64_le(start);
                out.put_i64_le(end);
                put_bytes(out, key);
            }
            Read::Ttl { key, form } => {
                let out = self.begin(TTL, key.len());
                out.put_u8(form as u8);
                put_bytes(out, key);
            }
            Read::Type { key } => put_bytes(self.begin(TYPE, key.len()), key),
            Read::Keys { pattern } => put_bytes(self.begin(KEYS, pattern.len()), pattern),
            Read::Scan { below, count, pattern } => {
                let out = self.begin(SCAN, pattern.len());
                out.put_u64_le(below);
                out.put_u64_le(count);
                put_bytes(out, pattern);
            }
            Read::RandomKey { random } => self.begin(RANDOMKEY, 0).put_u64_le(random),
            Read::Size => drop(self.begin(SIZE, 0)),
            Read::CountInSlot { slot } => self.begin(COUNTINSLOT, 0).put_u16_le(slot),
            Read::KeysInSlot { slot, count } => {
                let out = self.begin(KEYSINSLOT, 0);
                out.put_u16_le(slot);
                out.put_u64_le(count);
            }
            Read::Expiring => drop(self.begin(EXPIRING, 0)),
            Read::MGet { .. } | Read::Exists { .. } => panic!("lists have functions of their own"),
        }
        self.end()
    }

    /// `DEL` of `keys`.
    pub fn del<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
        self.list(DEL, None, keys)
    }

    /// `MSET` or `MSETNX` of keys and values that alternate.
    pub fn mset<'a>(
        &mut self,
        only_if_all_absent: bool,
        pairs: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> Bytes {
        self.list(MSET, Some(u8::from(only_if_all_absent)), pairs)
    }

    /// `MGET` of `keys`.
    pub fn mget<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
        self.list(MGET, None, keys)
    }

    /// `EXISTS` of `keys`.
    pub fn exists<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
        self.list(EXISTS, None, keys)
    }

    fn list<'a>(
        &mut self,
        code: u8,
        flag: Option<u8>,
        items: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> Bytes {
        let bytes = items.clone().map(|item| item.len() + 5).sum();
        let count = items.len();
        let out = self.begin(code, bytes);
        out.extend(flag);
        put_length(out, count);
        items.for_each(|item| put_bytes(out, item));
        self.end()
    }
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.put_slice(bytes);
}

fn put_expiry(out: &mut BytesMut, expiry: Expiry) {
    match expiry {
        Expiry::Never => out.put_u8(0),
        Expiry::Keep => out.put_u8(1),
        Expiry::After(ms) => {
            out.put_u8(2);
            out.put_i64_le(ms);
        }
        Expiry::At(ms) => {
            out.put_u8(3);
            out.put_i64_le(ms);
        }
    }
}
