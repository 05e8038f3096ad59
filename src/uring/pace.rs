//! [`Pace`]: how much bulk a core has in flight on its disk, so that the writes of its log get through.
//!
//! A disk works off what it is given, at its own speed: a small write behind 16 MiB of reads waits for all of them.
//! So bulk waits here, in the order of its coming, and not in the queue of the device:
//!
//! | the log | bulk in flight |
//! |---|---|
//! | has a durable write in flight, or had one just now | [`BULK_BESIDE_LOG_BYTES_MAX`]; one transfer if it is larger |
//! | is at rest: recovery, a node without commits | whatever its owners want |
//!
//! **Bulk** is what is larger than [`FILL_BYTES`]: chunks of snapshots, old parts of the log. What the log reads and
//! writes for itself is smaller, and goes at once: without room in a prepared segment it could not go on.
//!
//! Nothing waits for ever. Who waits does so because something else is in flight, and whatever completes calls the
//! next. That must not depend on anybody who polls: a reader of the log may leave reads that it has begun ahead alone
//! for as long as it likes. So it is the ring that keeps what waits, as it keeps what is in flight.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use coracle_wal::limits::{FILL_BYTES, READ_BYTES_MAX};

use super::ring::Kind;

/// Bytes of bulk in flight while the log writes, for each core. With two transfers of a MiB the disk has something to
/// do while one of them is looked at; more only lengthens the queue in which the log's writes wait.
pub(super) const BULK_BESIDE_LOG_BYTES_MAX: usize = 2 * READ_BYTES_MAX;

/// How long after its last write the log counts as writing: commits come in bursts.
const LOG_AT_REST_AFTER: Duration = Duration::from_millis(20);

/// See the head of this file. Operations are named by their slots.
#[derive(Debug, Default)]
pub(super) struct Pace {
    log_writes: usize,
    /// When the last durable write ended.
    log_wrote_at: Option<Instant>,
    bulk_bytes: usize,
    /// Slots that wait, and their bytes.
    line: VecDeque<(u32, usize)>,
}

/// The bytes that count, if the operation is bulk.
fn bulk(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Transfer(bytes) if bytes > FILL_BYTES => Some(bytes),
        _ => None,
    }
}

impl Pace {
    /// An operation wants to begin. `false`: it has to wait until [`Pace::next`] names it.
    pub(super) fn begin(&mut self, slot: u32, kind: Kind, now: Instant) -> bool {
        if kind == Kind::Log {
            self.log_writes += 1;
        }
        let Some(bytes) = bulk(kind) else { return true };
        if self.line.is_empty() && self.admits(bytes, now) {
            self.bulk_bytes += bytes;
            return true;
        }
        self.line.push_back((slot, bytes));
        false
    }

    /// An operation that had begun is complete.
    pub(super) fn end(&mut self, kind: Kind, now: Instant) {
        if kind == Kind::Log {
            self.log_writes -= 1;
            self.log_wrote_at = Some(now);
        }
        self.bulk_bytes -= bulk(kind).unwrap_or(0);
    }

    /// The next operation that has waited and begins now.
    pub(super) fn next(&mut self, now: Instant) -> Option<u32> {
        let (slot, bytes) = *self.line.front()?;
        if !self.admits(bytes, now) {
            return None;
        }
        self.line.pop_front();
        self.bulk_bytes += bytes;
        Some(slot)
    }

    /// Whether anything waits.
    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    fn admits(&self, bytes: usize, now: Instant) -> bool {
        let just_now = |at: Instant| now.saturating_duration_since(at) < LOG_AT_REST_AFTER;
        let log_writes = self.log_writes > 0 || self.log_wrote_at.is_some_and(just_now);
        let fits = self.bulk_bytes + bytes <= BULK_BESIDE_LOG_BYTES_MAX;
        !log_writes || self.bulk_bytes == 0 || fits || cfg!(mutant = "bulk-crowds-out-log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: Kind = Kind::Transfer(READ_BYTES_MAX);

    #[test]
    fn beside_the_log_only_so_much_is_in_flight_in_the_order_of_its_coming() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(pace.begin(0, Kind::Log, now));
        assert!(pace.begin(1, CHUNK, now) && pace.begin(2, CHUNK, now));
        assert!(!pace.begin(3, CHUNK, now) && !pace.begin(4, CHUNK, now));
        assert_eq!(pace.next(now), None);
        pace.end(CHUNK, now);
        assert!(!pace.begin(5, CHUNK, now), "others came before");
        assert_eq!((pace.next(now), pace.next(now)), (Some(3), None));
        pace.end(CHUNK, now);
        pace.end(CHUNK, now);
        assert_eq!((pace.next(now), pace.next(now), pace.next(now)), (Some(4), Some(5), None));
        assert!(!pace.has_line());
    }

    #[test]
    fn what_is_too_large_goes_alone_and_what_is_small_goes_at_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let large = Kind::Transfer(10 * BULK_BESIDE_LOG_BYTES_MAX);
        assert!(pace.begin(0, Kind::Log, now));
        assert!(pace.begin(1, large, now) && !pace.begin(2, large, now));
        assert!(pace.begin(3, Kind::Transfer(FILL_BYTES), now) && pace.begin(4, Kind::Other, now));
        pace.end(Kind::Transfer(FILL_BYTES), now);
        pace.end(Kind::Other, now);
        assert_eq!(pace.next(now), None);
        pace.end(large, now);
        assert_eq!(pace.next(now), Some(2));
    }

    #[test]
    fn a_log_at_rest_holds_nothing_back() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!((0..20).all(|slot| pace.begin(slot, CHUNK, now)));
        assert!(pace.begin(20, Kind::Log, now));
        pace.end(Kind::Log, now);
        assert!(!pace.begin(21, CHUNK, now), "it wrote just now");
        assert_eq!(pace.next(now), None);
        assert_eq!(pace.next(now + LOG_AT_REST_AFTER), Some(21));
        assert!(pace.begin(22, CHUNK, now + LOG_AT_REST_AFTER));
    }
}
