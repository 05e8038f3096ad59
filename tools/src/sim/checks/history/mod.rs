//! What clients did and saw, and whether one copy of the data could have shown it to them.
//!
//! A [`Recorder`] notes the start and the end of each operation. [`Recorder::check`] then decides, key by
//! key, whether the operations can be put into one order that agrees with real time (what ended before
//! another began comes first) and in which every reply is right: linearizability (Herlihy and Wing,
//! 1990). Keys are independent, so a history is linearizable if that of each key is.
//!
//! An operation that failed without saying whether it took effect may do so at any time after its start,
//! or never. One that was *refused* has no effect. The read of all keys at the end of a run is an
//! operation like others: it finds acknowledged writes that were lost.
//!
//! A read with a bound on staleness began, for the judge, when the bound began ([`Recorder::backdate`]): it must see what
//! had ended by then, and may see whatever was there since, but nothing of the time after its end.
//!
//! Expiry goes by the time of the log, the largest clock in any entry so far. Clients do not know it, but
//! they know which clocks they have sent ([`LogTime`]), hence bounds of it ([`Times`]). A key must not be
//! gone before its deadline can have come, must be gone when it surely has, and does not come back.

mod model;
mod search;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timed_tests;
mod times;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use thiserror::Error;

pub use self::times::{Entry, LogTime, Times};

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// At this time.
    At(u64),
    /// So long after the time of the log when the operation takes effect.
    After(u64),
}

/// What an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `SET key value`, with `PX` or `PXAT` if it expires: replies [`Reply::Ok`].
    Set(Bytes, Option<Deadline>),
    /// `SET key value NX`: replies [`Reply::Ok`] if there was none, else [`Reply::Nil`].
    SetNx(Bytes),
    /// `GET key`: replies [`Reply::Value`] or [`Reply::Nil`].
    Get,
    /// `DEL key`: replies how many there were.
    Del,
    /// `INCRBY key n`: replies the new value, or [`Reply::Error`] if the old one is not a number.
    Incr(i64),
    /// `APPEND key value`: replies the new length.
    Append(Bytes),
    /// `PEXPIRE` or `PEXPIREAT`: replies 1, or 0 if there is none.
    Expire(Deadline),
    /// `PERSIST key`: replies 1, or 0 if there is none or it does not expire.
    Persist,
    /// `PEXPIRETIME key`: replies when it expires, -1 for never, -2 if there is none.
    ExpireTime,
}

/// What was replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Ok,
    /// Nothing there, or nothing done.
    Nil,
    /// A value.
    Value(Bytes),
    /// A number.
    Int(i64),
    /// The value is of the wrong kind for it; nothing done.
    Error,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this reply, at this moment.
    Replied(u64, Reply),
    /// Nobody knows whether it took effect.
    Unknown,
    /// It had no effect.
    Refused,
}

/// One operation on one key. Moments are places in the order of all starts and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who did it, for messages.
    pub client: u32,
    /// When it began.
    pub start: u64,
    /// What it asked for.
    pub call: Call,
    /// How it ended.
    pub end: End,
    /// What is known of the time of the log.
    pub times: Times,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, start, call, end, times } = self;
        match end {
            End::Replied(at, reply) => {
                write!(f, "[{start}..{at}] client {client}: {call:?} -> {reply:?}")?;
            }
            End::Unknown => write!(f, "[{start}..] client {client}: {call:?} -> outcome unknown")?,
            End::Refused => write!(f, "[{start}..] client {client}: {call:?} -> refused")?,
        }
        let Times { low, high, clock } = times;
        match *times == Times::UNKNOWN {
            true => Ok(()),
            false => write!(f, " (clock {clock}, time of the log {low}..{high})"),
        }
    }
}

/// Why a history is wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HistoryError {
    /// A value was read that nobody wrote.
    #[error("{read}\nread a value that nobody wrote")]
    Phantom {
        /// The read.
        read: Box<Operation>,
    },
    /// No order of the operations explains a reply.
    #[error(
        "{operation}\ncan't be explained; the value could have been {possible}; before it:\n{story}"
    )]
    NotLinearizable {
        /// The first operation that has no explanation.
        operation: Box<Operation>,
        /// What could have been there when it ended.
        possible: String,
        /// What came before, and what was under way.
        story: String,
    },
    /// The search was given up. Says nothing about the history; there are too many operations under way at
    /// once.
    #[error("undecided after {steps} steps")]
    Undecided {
        /// Steps of the search.
        steps: u64,
    },
}

/// A history error and its key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("key {}: {error}", String::from_utf8_lossy(.key))]
pub struct KeyError {
    /// The key.
    pub key: Bytes,
    /// What is wrong with it.
    pub error: HistoryError,
}

/// Names an operation of a [`Recorder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationId {
    key: Bytes,
    place: usize,
}

/// Collects operations.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    clock: u64,
    keys: BTreeMap<Bytes, Vec<Operation>>,
    replied: u64,
}

impl Recorder {
    /// An operation begins. Until it is said how it ended, its outcome is unknown.
    pub fn begin(&mut self, client: u32, key: &Bytes, call: Call) -> OperationId {
        self.begin_at(client, key, call, Times::UNKNOWN)
    }

    /// The same with what is known of the time of the log when it begins.
    pub fn begin_at(&mut self, client: u32, key: &Bytes, call: Call, times: Times) -> OperationId {
        let start = self.tick();
        let operations = self.keys.entry(key.clone()).or_default();
        operations.push(Operation { client, start, call, end: End::Unknown, times });
        OperationId { key: key.clone(), place: operations.len() - 1 }
    }

    /// It may find what there was at an earlier moment, as if it had begun then.
    pub fn backdate(&mut self, id: &OperationId, start: u64) {
        if let Some(operation) = self.operation(id) {
            operation.start = start.min(operation.start);
        }
    }

    /// The last moment so far.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock
    }

    /// It ended with a reply.
    pub fn replied(&mut self, id: &OperationId, reply: Reply) {
        self.replied_by(id, reply, u64::MAX);
    }

    /// It ended with a reply, when the time of the log was at most `high`.
    pub fn replied_by(&mut self, id: &OperationId, reply: Reply, high: u64) {
        let now = self.tick();
        self.replied += 1;
        if let Some(operation) = self.operation(id) {
            operation.end = End::Replied(now, reply);
            operation.times.high = high;
        }
    }

    /// It ended, and surely had no effect.
    pub fn refused(&mut self, id: &OperationId) {
        if let Some(operation) = self.operation(id) {
            operation.end = End::Refused;
        }
    }

    /// How many operations have ended with a reply.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.replied
    }

    /// All keys that were used.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// The operations on a key so far, in the order in which they were begun.
    #[must_use]
    pub fn history(&self, key: &Bytes) -> &[Operation] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    /// Checks all keys. Returns how many could not be decided.
    ///
    /// # Errors
    /// The first key whose history is wrong.
    pub fn check(&self) -> Result<u32, KeyError> {
        let mut undecided = 0;
        for (key, history) in &self.keys {
            match check(history) {
                Ok(()) => {}
                Err(HistoryError::Undecided { .. }) => undecided += 1,
                Err(error) => return Err(KeyError { key: key.clone(), error }),
            }
        }
        Ok(undecided)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn operation(&mut self, id: &OperationId) -> Option<&mut Operation> {
        self.keys.get_mut(&id.key).and_then(|list| list.get_mut(id.place))
    }
}

/// Decides whether one key that begins without a value could have given this history.
///
/// # Errors
/// [`HistoryError`].
pub fn check(history: &[Operation]) -> Result<(), HistoryError> {
    if let Some(read) = history.iter().find(|operation| is_phantom(operation, history)) {
        return Err(HistoryError::Phantom { read: Box::new(read.clone()) });
    }
    search::Search::new(history).run().map(drop)
}

/// Whether an operation read a value that begins with nothing that anybody wrote before it ended.
fn is_phantom(read: &Operation, history: &[Operation]) -> bool {
    let End::Replied(end, Reply::Value(value)) = &read.end else { return false };
    let written = |operation: &Operation| {
        operation.start <= *end
            && operation.end != End::Refused
            && match &operation.call {
                Call::Set(part, _) | Call::SetNx(part) | Call::Append(part) => {
                    value.starts_with(part)
                }
                Call::Incr(_) => value.first().is_some_and(|b| *b == b'-' || b.is_ascii_digit()),
                Call::Get | Call::Del | Call::Expire(_) | Call::Persist | Call::ExpireTime => false,
            }
    };
    !history.iter().any(written)
}
