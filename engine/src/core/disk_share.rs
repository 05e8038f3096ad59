//! [`DiskShare`]: how the log and the snapshots of a core share the budget of its disk.
//!
//! Each of the two takes space by itself and at any time: the log when it makes a segment, a snapshot when its file
//! grows. Both ask first, the log its own budget ([`Wal::set_log_bytes_max`]), a snapshot this one ([`Quota`]), which
//! lowers that of the log by what it grants. So together they are never beyond the budget, not for a moment, but for
//! single segments that a log can't do without: one to begin with when it is opened, and one for the mark that gives
//! others back. If they are beyond it, or because it was made smaller, snapshots go on: they are what frees the log.
//!
//! The next snapshot is what lets go of the log, and must not find that the log has taken its room. So while the log
//! can do without it, the room for the next snapshot stays free; writes are refused before it is used up, by the
//! [compactor](crate::tier::Compactor)'s levels.

use std::cell::Cell;
use std::rc::Rc;

use coracle_wal::limits::BUDGET_SEGMENTS_MIN;
use coracle_wal::{Disk, Wal};

use crate::limits::{COMPACTION_RESERVE_SEGMENTS, SMALL_FILES_SEGMENT_PARTS};
use crate::snapshot::Quota;

/// The budget of a core's disk. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct DiskShare<D: Disk> {
    wal: Wal<D>,
    /// What log, snapshots and all small files may take. `None`: as much as there is.
    bytes_max: Option<u64>,
    segment_bytes: u64,
    /// What snapshots take and the next one will take, as it was told last.
    snapshots_to_be: Rc<Cell<u64>>,
}

impl<D: Disk> DiskShare<D> {
    /// `disk_bytes_max` is for the whole directory, 0 for no bound.
    pub(super) fn new(wal: Wal<D>, disk_bytes_max: u64, segment_bytes: u64) -> Self {
        let bytes_max = bytes_max(disk_bytes_max, segment_bytes);
        Self { wal, bytes_max, segment_bytes, snapshots_to_be: Rc::default() }
    }

    /// Gives the log what snapshots leave that take `snapshot_bytes`, but for the `next_bytes` of the next one, if the
    /// log can do without.
    pub(super) fn give_log_the_rest(&self, snapshot_bytes: u64, next_bytes: u64) {
        self.snapshots_to_be.set(snapshot_bytes.saturating_add(next_bytes));
        let Some(most) = self.bytes_max.map(|max| max.saturating_sub(snapshot_bytes)) else {
            return;
        };
        let reserve = COMPACTION_RESERVE_SEGMENTS * self.segment_bytes;
        let needed = self.wal.needed_bytes().saturating_add(reserve);
        self.wal.set_log_bytes_max(most.saturating_sub(next_bytes).max(needed).min(most));
    }

    /// Whether snapshots that take `before` may take `snapshot_bytes` altogether. If so, the log may have the rest; if
    /// not, it gives up what it has in reserve, for the next time.
    fn grants(&self, before: u64, snapshot_bytes: u64) -> bool {
        let Some(max) = self.bytes_max else { return true };
        let least = BUDGET_SEGMENTS_MIN * self.segment_bytes;
        let needed = self.wal.needed_bytes().max(least);
        let log = self.wal.disk_bytes().max(needed);
        let is_over = needed.saturating_add(before) > max;
        sometimes!(disk_over_budget, is_over);
        let grants = is_over || log.saturating_add(snapshot_bytes) <= max;
        if grants {
            let next_bytes = self.snapshots_to_be.get().saturating_sub(snapshot_bytes);
            self.give_log_the_rest(snapshot_bytes, next_bytes);
        } else {
            self.wal.set_log_bytes_max(max.saturating_sub(snapshot_bytes).max(needed));
        }
        grants
    }
}

/// What log and snapshots may take of a directory.
fn bytes_max(disk_bytes_max: u64, segment_bytes: u64) -> Option<u64> {
    let small = segment_bytes / SMALL_FILES_SEGMENT_PARTS;
    (disk_bytes_max > 0).then(|| disk_bytes_max.saturating_sub(small))
}

/// What a log is opened with beside snapshots that take `snapshot_bytes`; 0 for no bound.
pub(super) fn log_bytes_at_start(
    disk_bytes_max: u64,
    segment_bytes: u64,
    snapshot_bytes: u64,
) -> u64 {
    let least = BUDGET_SEGMENTS_MIN * segment_bytes;
    let max = bytes_max(disk_bytes_max, segment_bytes);
    max.map_or(0, |max| max.saturating_sub(snapshot_bytes).max(least))
}

impl<D: Disk + 'static> DiskShare<D> {
    /// What snapshots ask.
    pub(super) fn quota(&self) -> Quota {
        let share = self.clone();
        Box::new(move |before, after| share.grants(before, after))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use coracle_wal::limits::SEGMENT_BYTES_MIN;
    use coracle_wal::mem::{MemDisk, run_to_end};
    use coracle_wal::{Options, Record, RecordView};
    use proptest::prelude::*;

    use super::*;

    const SEGMENTS: u64 = 12;

    #[test]
    fn a_budget_that_was_made_smaller_does_not_keep_snapshots_from_freeing_the_log() {
        let share = |segments: u64, log: &Wal<MemDisk>| {
            DiskShare::new(log.clone(), segments * SEGMENT_BYTES_MIN, SEGMENT_BYTES_MIN)
        };
        let mut options = Options::default();
        options.segment_bytes = SEGMENT_BYTES_MIN;
        options.log_bytes_max = 4 * SEGMENT_BYTES_MIN;
        let mut nobody = |_: RecordView<'_>| {};
        let (log, _driver, _) =
            run_to_end(Wal::open(MemDisk::new(), options, &mut nobody)).unwrap();
        let (two, six) = (2 * SEGMENT_BYTES_MIN, 6 * SEGMENT_BYTES_MIN);
        assert!(share(12, &log).grants(two, six));
        assert!(!share(6, &log).grants(two, six), "it would come to be beyond");
        assert!(share(4, &log).grants(two, six), "it is already");
        assert!(DiskShare::new(log, 0, SEGMENT_BYTES_MIN).grants(two, u64::MAX), "without bounds");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// Appends, background work, trims and snapshots that grow and go, in any order.
        #[test]
        fn log_and_snapshots_are_never_beyond_the_budget(
            steps in prop::collection::vec((0..10u8, 0..40u64), 1..400)
        ) {
            let max = SEGMENTS * SEGMENT_BYTES_MIN;
            let mut options = Options::default();
            options.segment_bytes = SEGMENT_BYTES_MIN;
            options.log_bytes_max = max;
            let disk = MemDisk::new();
            let mut nobody = |_: RecordView<'_>| {};
            let (wal, driver, _) = run_to_end(Wal::open(disk.clone(), options, &mut nobody)).unwrap();
            let mut driver = pin!(driver.run());
            let mut work = || {
                let _ = driver.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            };
            let share = DiskShare::new(wal.clone(), max, SEGMENT_BYTES_MIN);
            let quota = share.quota();
            let mut snapshots = 0;
            for (kind, number) in steps {
                let bytes = number << 10;
                match kind {
                    0..=4 => {
                        let body = vec![7; 10 << 10];
                        let record = Record { stream: 1, kind: 1, head: &[], body: &body };
                        let _ = wal.append(&[record]); // or there is no room
                    }
                    5 if number < 20 => work(),
                    6 if number < 10 => wal.trim(wal.durable()),
                    7 | 8 if quota(snapshots, snapshots + bytes) => snapshots += bytes,
                    9 if number < 4 => snapshots /= 2,
                    _ => share.give_log_the_rest(snapshots, bytes),
                }
                let log = wal.disk_bytes();
                prop_assert!(log + snapshots <= max, "log {log}, snapshots {snapshots}");
            }
            // What the log has promised it can make.
            (0..100).for_each(|_| work());
            prop_assert!(wal.disk_bytes() + snapshots <= max);
            prop_assert_eq!(wal.backlog_bytes(), 0);
        }
    }
}
