//! What a shard tells the server about its keys that expire, and about its size.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::keyspace::Keyspace;

/// The answer to [`Read::Expiring`](super::op::Read::Expiring): numbers for active expiry and `INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryReport {
    /// The earliest deadline, milliseconds since 1970. `None` when no key expires.
    pub next_ms: Option<u64>,
    /// Keys.
    pub keys: u64,
    /// Keys that expire.
    pub expiring: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Keys that have expired since the state machine was created.
    pub expired: u64,
}

impl ExpiryReport {
    pub(super) fn of(keys: &Keyspace) -> Self {
        Self {
            next_ms: keys.first_deadline_ms(),
            keys: keys.len() as u64,
            expiring: keys.expiring() as u64,
            bytes: keys.bytes(),
            expired: keys.expired(),
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let next = self.next_ms.unwrap_or(u64::MAX);
        for number in [next, self.keys, self.expiring, self.bytes, self.expired] {
            out.put_u64_le(number);
        }
    }

    /// Reads what [`Read::Expiring`](super::op::Read::Expiring) answered; `None` if it is no such
    /// answer.
    #[must_use]
    pub fn decode(mut answer: Bytes) -> Option<Self> {
        let next = answer.try_get_u64_le().ok()?;
        Some(Self {
            next_ms: (next != u64::MAX).then_some(next),
            keys: answer.try_get_u64_le().ok()?,
            expiring: answer.try_get_u64_le().ok()?,
            bytes: answer.try_get_u64_le().ok()?,
            expired: answer.try_get_u64_le().ok()?,
        })
    }
}
