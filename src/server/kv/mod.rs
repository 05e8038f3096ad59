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
mod snapshot;
mod write;

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use coracle_engine::{
    Apply, ImageBuffer, Restore, SnapshotError, SnapshotStream, StateMachine, WholeImage,
};

use self::keyspace::Keyspace;
use self::op::{Op, Payload};
use super::limits::{EXPIRED_PER_ENTRY_MAX, EXPIRED_PER_TICK_MAX};
use super::resp::Writer;

pub use self::expiry::ExpiryReport;
pub(super) use self::glob::matches as glob_matches;
pub use self::read::{GLOB_ANY, ScanPage};

/// The whole answer of a query that can only be given after the log time has moved to the reader's
/// clock. Every other answer is longer.
pub const TIME_MUST_ADVANCE: &[u8] = &[1];

/// The state of one shard.
#[derive(Debug, Default)]
pub struct Kv {
    keys: Keyspace,
    log_time_ms: u64,
    restoring: Option<ImageBuffer>,
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
        self.log_time_ms
    }

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
        self.apply_payload(entry.payload, reply);
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        match Payload::decode(request) {
            Some(Payload { head, op: Op::Read(read) }) => {
                let moment = read::Moment::new(self.log_time_ms, &head);
                read::execute(&self.keys, moment, read, &mut Writer::new(reply, head.protocol));
            }
            _ => Writer::new(reply, Default::default()).error("ERR malformed query"),
        }
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        let mut image = Vec::new();
        snapshot::write(&self.keys, self.log_time_ms, &mut image)?;
        Ok(Box::new(WholeImage::new(image)))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        let buffer = self.restoring.get_or_insert_with(|| ImageBuffer::new(1 << 30));
        if let Some(image) = buffer.take(part)? {
            (self.keys, self.log_time_ms) = snapshot::read(&mut image.as_slice())?;
        }
        Ok(())
    }
}
