//! The key-value state machine: one [`Kv`] per shard, string keys and values, keys that expire.
//!
//! # Time comes through the log
//! Replicas have different clocks, and yet all of them must expire a key at the same point of the
//! log. So no replica asks its clock while it applies. Every entry carries the wall clock of its
//! proposer; the shard's **log time** is the largest clock in any entry so far, and a key is due
//! when its deadline is at or before the log time. Applying an entry first moves the log time, then
//! removes due keys (a bounded number, in order of deadline and key), then does the entry's own work,
//! which treats due keys that are not removed yet as absent. Same entries, same state, byte for byte.
//!
//! A read carries the reader's clock, `now`. If the key it looks at has a deadline after the log time
//! and at or before `now`, the answer is [`TIME_MUST_ADVANCE`]: "expired" would be undone if the next
//! reader's clock were behind. The server then proposes a `Tick` entry with its clock and asks again.
//! Thus no reader sees an expired key come back, whoever leads. Stale reads, which promise no order,
//! simply use the later of the two times.
//!
//! # Payloads
//! See [`op`] for the format of entries and queries. Replies are RESP, ready to be sent.

mod expiry;
mod float;
mod glob;
mod keyspace;
pub mod op;
mod read;
mod shadow;
mod snapshot;
mod write;

#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use coracle_engine::{Apply, Restore, SnapshotError, SnapshotStream, StateMachine};

use self::keyspace::Keyspace;
use self::op::{Op, Payload};
use self::shadow::Bounds;
use self::snapshot::{Loading, Manner, Stream};
use super::limits::{EXPIRED_PER_ENTRY_MAX, EXPIRED_PER_TICK_MAX, SNAPSHOT_ITEMS_PER_CHUNK_MAX};
use super::resp::Writer;

pub use self::expiry::ExpiryReport;
pub(super) use self::glob::matches as glob_matches;
pub use self::read::{GLOB_ANY, ScanPage};

/// The whole answer of a query that can only be given after the log time has moved to the reader's
/// clock. Every other answer is longer.
pub const TIME_MUST_ADVANCE: &[u8] = &[1];

/// What entries change.
#[derive(Debug, Default)]
struct State {
    keys: Keyspace,
    log_time_ms: u64,
    snapshots_begun: u64,
}

/// The state of one shard.
#[derive(Debug, Default)]
pub struct Kv {
    /// Shared with the snapshot under way, which looks at it between two entries.
    state: Rc<RefCell<State>>,
    loading: Option<Box<Loading>>,
}

impl Kv {
    /// An empty shard.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest clock in any applied entry, in milliseconds since 1970.
    #[must_use]
    pub fn log_time_ms(&self) -> u64 {
        self.state.borrow().log_time_ms
    }
}

impl State {
    fn advance(&mut self, now_ms: u64, removals_max: usize) {
        #[cfg(mutant = "expiry-by-local-time")]
        let now_ms = std::time::UNIX_EPOCH.elapsed().map_or(now_ms, |now| now.as_millis() as u64);
        self.log_time_ms = self.log_time_ms.max(now_ms);
        self.keys.remove_due(self.log_time_ms, removals_max);
    }

    fn apply_payload(&mut self, payload: &[u8], reply: &mut BytesMut) {
        let Some(Payload { head, op }) = Payload::decode(payload) else {
            // Every replica refuses it alike: the bytes are the same.
            Writer::new(reply, Default::default()).error("ERR malformed log entry");
            return;
        };
        let removals_max = match op {
            Op::Tick => EXPIRED_PER_TICK_MAX,
            _ => EXPIRED_PER_ENTRY_MAX,
        };
        self.advance(head.now_ms, removals_max);
        let mut out = Writer::new(reply, head.protocol);
        match op {
            Op::Tick => out.ok(),
            Op::Write(write) => write::execute(&mut self.keys, self.log_time_ms, write, &mut out),
            Op::Read(read) => {
                let moment = read::Moment::at_log_time(self.log_time_ms);
                read::execute(&self.keys, moment, read, &mut out);
            }
        }
    }
}

impl StateMachine for Kv {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        self.state.borrow_mut().apply_payload(entry.payload, reply);
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        match Payload::decode(request) {
            Some(Payload { head, op: Op::Read(read) }) => {
                let state = self.state.borrow();
                let moment = read::Moment::new(state.log_time_ms, &head);
                read::execute(&state.keys, moment, read, &mut Writer::new(reply, head.protocol));
            }
            _ => Writer::new(reply, Default::default()).error("ERR malformed query"),
        }
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        let bounds = Bounds::of(self.state.borrow().keys.memory_bytes());
        let manner = Manner { bounds, items_per_chunk_max: SNAPSHOT_ITEMS_PER_CHUNK_MAX };
        Ok(Box::new(Stream::begin(&self.state, manner)))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        if matches!(part, Restore::Begin) {
            // The old state goes first: there may be no room for both. A snapshot of it has failed.
            self.state.borrow_mut().keys = Keyspace::default();
        }
        if let Some((keys, log_time_ms)) = snapshot::restore(&mut self.loading, part)? {
            let mut state = self.state.borrow_mut();
            (state.keys, state.log_time_ms) = (keys, log_time_ms);
        }
        Ok(())
    }
}
