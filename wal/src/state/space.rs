//! Space: which files the log has, which it may make, and what becomes of those that are given up.
//!
//! The **budget** ([`Options::log_bytes_max`](crate::Options::log_bytes_max)) counts every file of the log but
//! archived ones. A segment that would go beyond it is not made; then the log is as on a full disk: it takes
//! what the current segment and the prepared ones have room for, keeps a reserve for what its owner cannot
//! do without, and goes on when a trim has given a segment back. A segment is promised (positions in it are
//! given out before its file is there) only if the budget has room for it.
//!
//! A **spare** is a segment that was given up, and becomes one again: then it need not be filled, which is as much to
//! write as what it will hold. Within the budget every segment that is given up becomes one. A few of them are always
//! kept; when the others go the owner says, for it has a clock: trims come in bursts, a file system that discards
//! what it frees keeps the disk busy for longer than a write may take, and until then the log may want them back.

use super::State;
use crate::AlignedBuf;
use crate::format::SegmentId;
use crate::limits::{BUDGET_SEGMENTS_MIN, ROOM_RESERVE_BYTES, SPARES_KEPT_PER_READY};

/// Background work for the driver.
#[derive(Debug)]
pub(crate) enum Task {
    /// Make a spare of the oldest segment.
    Retire { sequence: u64 },
    /// Remove the oldest segment.
    Remove { sequence: u64 },
    /// Keep the oldest segment under a name that the log does not know.
    Archive { sequence: u64 },
    /// Remove a spare.
    RemoveSpare { spare: String },
    /// Prepare a segment from a spare.
    Reuse { id: SegmentId, spare: String },
    /// Prepare a segment from a new file.
    Create { id: SegmentId },
    /// Write the summary of a sealed segment.
    Summarize { sequence: u64, offset: u64, buf: AlignedBuf },
}

impl<F: Clone> State<F> {
    /// The next background task. `None` while the log ends.
    pub(crate) fn next_task(&mut self) -> Option<Task> {
        if self.is_stopping() {
            return None;
        }
        // A summary is one small write for each segment. Behind the preparation of segments it would wait for as
        // long as the log grows fast, which is when a restart will need it.
        self.reclaim_task()
            .or_else(|| self.summary_task())
            .or_else(|| self.prepare_task())
            .or_else(|| self.surplus_task())
    }

    /// What is to become of the oldest segment, if it is given up.
    fn reclaim_task(&self) -> Option<Task> {
        let sequence = self.reclaimable()?;
        if self.options.archive {
            return Some(Task::Archive { sequence });
        }
        let reusable = self.live.front()?.bytes == self.options.segment_bytes;
        // Over the budget only if the log can't go on without it.
        let wanted = !self.is_over_budget() || (self.spares.is_empty() && self.ready() == 0);
        let keep = reusable && wanted;
        sometimes!(segment_of_other_size, !reusable);
        Some(if keep { Task::Retire { sequence } } else { Task::Remove { sequence } })
    }

    /// The next segment to prepare, if one is wanted and there is room for it.
    fn prepare_task(&mut self) -> Option<Task> {
        let last = self.files.back().map(|(id, _)| *id)?;
        let ahead = if self.is_over_budget() { 1 } else { self.options.spares };
        if last.sequence >= self.id.sequence + ahead as u64 {
            return None;
        }
        if self.out_of_space && !self.retry {
            return None;
        }
        self.retry = false;
        let id = self.next_id(&last);
        let task = match self.spares.pop() {
            Some(spare) => Task::Reuse { id, spare },
            None if self.fits_budget(1) || self.mark_needs_segment() => Task::Create { id },
            None => {
                self.use_up_budget();
                return None;
            }
        };
        self.in_work_bytes = id.bytes;
        Some(task)
    }

    /// A spare that the budget has no room for, or that the owner does without.
    fn surplus_task(&mut self) -> Option<Task> {
        let over_budget = self.is_over_budget();
        if !over_budget {
            self.surplus = self.surplus.min(self.removable());
            self.surplus = self.surplus.checked_sub(1)?;
        }
        let spare = self.spares.pop()?;
        sometimes!(spare_over_budget, over_budget);
        sometimes!(spare_given_back, !over_budget);
        Some(Task::RemoveSpare { spare })
    }

    /// Spares beyond those that are always kept.
    fn removable(&self) -> usize {
        self.spares.len().saturating_sub(self.options.spares * SPARES_KEPT_PER_READY)
    }

    pub(crate) fn give_back_spares(&mut self, most: usize) {
        self.surplus = self.surplus.max(most).min(self.removable());
        if self.surplus > 0 {
            self.wake_driver();
        }
    }

    /// Whether a trim waits for a mark that has no place: then the next segment is made in any case, for it
    /// is what gives others back.
    fn mark_needs_segment(&self) -> bool {
        let last = self.files.back().is_some_and(|(id, _)| id.sequence == self.id.sequence);
        let needs = last && self.is_full_up() && self.wanted_mark().is_some();
        sometimes!(budget_exceeded_for_mark, needs);
        needs
    }

    /// Segments prepared ahead.
    pub(super) fn ready(&self) -> usize {
        self.files.iter().filter(|(id, _)| id.sequence > self.id.sequence).count()
    }

    /// Bytes of all files of the log, one that is being made included.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let made = self.files.back().map_or(0, |(id, _)| id.sequence);
        let live = self.live.iter().filter(|live| live.sequence <= made);
        let others = (self.ready() + self.spares.len()) as u64 * self.options.segment_bytes;
        live.map(|live| live.bytes).sum::<u64>() + others + self.in_work_bytes
    }

    /// Bytes that the log can't do without now: all of [`State::disk_bytes`] but spares that nothing waits for, and the
    /// files that are promised and not made yet.
    pub(crate) fn needed_bytes(&self) -> u64 {
        let made = self.files.back().map_or(0, |(id, _)| id.sequence);
        let promised = self.id.sequence.saturating_sub(made);
        let coming = promised.saturating_sub(u64::from(self.in_work_bytes > 0));
        let spares = self.spares.len() as u64 * self.options.segment_bytes;
        self.disk_bytes() - spares + coming * self.options.segment_bytes
    }

    fn is_over_budget(&self) -> bool {
        let max = self.options.log_bytes_max;
        max != 0 && self.disk_bytes() > max
    }

    /// Whether the budget has room for so many more files.
    fn fits_budget(&self, files: u64) -> bool {
        let max = self.options.log_bytes_max;
        max == 0 || self.disk_bytes() + files * self.options.segment_bytes <= max
    }

    /// Whether the budget allows to go on in the next segment before its file is there.
    pub(super) fn may_promise(&mut self) -> bool {
        let made = self.files.back().map_or(0, |(id, _)| id.sequence);
        let promised = self.id.sequence.saturating_sub(made) + 1;
        let coming = self.spares.len() as u64 + u64::from(self.in_work_bytes > 0);
        let missing = promised.saturating_sub(coming);
        let may = missing == 0 || self.fits_budget(missing);
        if !may {
            self.use_up_budget();
            // What is promised already has room.
            self.retry = true;
        }
        may
    }

    fn use_up_budget(&mut self) {
        sometimes!(budget_used_up);
        if !self.out_of_space {
            let (bytes, max) = (self.disk_bytes(), self.options.log_bytes_max);
            tracing::warn!(bytes, max, "the log's budget has no room for another segment");
        }
        self.out_of_space = true;
    }

    /// Whether background work is of no use any more: the log ends, and no batch waits for a segment.
    pub(crate) fn is_stopping(&self) -> bool {
        let prepared = self.files.back().is_some_and(|(id, _)| id.sequence >= self.id.sequence);
        self.failure.is_some() || (self.closing && prepared)
    }

    /// The oldest segment, if it is given up: a durable batch says so, which lets recovery know that its
    /// absence is no damage.
    fn reclaimable(&self) -> Option<u64> {
        let front = self.live.front()?;
        let trimmed = self.trim_durable;
        #[cfg(mutant = "segment-recycled-early")]
        let trimmed = self.trimmed;
        let given_up = self.live.len() > 1 && front.end < trimmed;
        given_up.then_some(front.sequence)
    }

    /// Notes that a background task has come to its end, whichever.
    pub(crate) fn task_ended(&mut self) {
        self.in_work_bytes = 0;
    }

    /// Notes that the oldest segment is no longer there.
    pub(crate) fn retired(&mut self, spare: Option<String>, archived: bool) {
        if let Some(live) = self.live.pop_front() {
            self.gone = self.gone.max(live.end);
            self.forget_sealed(live.sequence + 1);
        }
        sometimes!(segment_archived, archived);
        self.stats.segments_archived += u64::from(archived);
        sometimes!(segment_recycled, spare.is_some());
        sometimes!(segment_removed, spare.is_none() && !archived);
        self.spares.extend(spare);
        self.stats.segments_trimmed += 1;
        // A removed file has given room back.
        self.retry = true;
    }

    pub(crate) fn prepared(&mut self, id: SegmentId, file: F, filled: bool) {
        sometimes!(segment_filled, filled);
        sometimes!(spare_used, !filled);
        self.files.push_back((id, file));
        self.stats.segments_filled += u64::from(filled);
        self.out_of_space = false;
        self.refusals = 0;
    }

    /// Notes that a segment could not be prepared for want of room. Returns whether the log can wait for
    /// room: not when it is being closed and records wait for that segment.
    pub(crate) fn no_room(&mut self, spare: Option<String>) -> bool {
        self.spares.extend(spare);
        sometimes!(segment_no_room);
        self.out_of_space = true;
        !self.closing || self.is_stopping()
    }

    pub(crate) fn has_room(&self) -> bool {
        let reserve = ROOM_RESERVE_BYTES.min(self.id.bytes / 4);
        !self.out_of_space || self.ready() > 0 || self.room() >= reserve
    }

    pub(crate) fn set_log_bytes_max(&mut self, bytes: u64) {
        let max = bytes.max(BUDGET_SEGMENTS_MIN * self.options.segment_bytes);
        if self.options.log_bytes_max == 0 || self.options.log_bytes_max == max {
            return;
        }
        self.options.log_bytes_max = max;
        if self.is_over_budget() && !self.spares.is_empty() {
            self.wake_driver();
        }
    }

    pub(crate) fn retry_space(&mut self) {
        self.refusals = 0;
        if self.out_of_space {
            sometimes!(space_retried);
            self.retry = true;
            self.wake_driver();
        }
    }
}
