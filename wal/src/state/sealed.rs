//! Segments that the log has left, and their summaries on the way to the disk.
//!
//! ```text
//! current --next segment's first batch submitted--> sealed --owner: summarize--> waiting
//!    waiting --first batch of the next segment durable--> Task::Summarize --> written, forgotten here
//! ```
//! A segment that is given up meanwhile is forgotten wherever it is.

use super::{State, Task};
use crate::format::{BatchHeader, SegmentId};
use crate::limits::SUMMARIES_WAITING_MAX;
use crate::summary::{self, Tally};
use crate::{Lsn, SegmentInfo};

/// A segment that takes no more batches.
pub(super) struct SealedSegment {
    id: SegmentId,
    tally: Tally,
    /// The owner knows.
    taken: bool,
    /// What the owner has given for it.
    owner: Option<Vec<u8>>,
}

impl<F: Clone> State<F> {
    /// Counts a batch of segment `id` that is submitted. The first one of a segment seals the one before.
    pub(super) fn count(&mut self, id: SegmentId, header: &BatchHeader) {
        let (tail, tally) = &mut self.tail;
        if tail.sequence == id.sequence {
            tally.add(header);
        } else {
            let sealed = SealedSegment { id: *tail, tally: *tally, taken: false, owner: None };
            self.sealed.push_back(sealed);
            self.tail = (id, Tally::begin(header));
        }
        let live = self.live.iter_mut().rfind(|live| live.sequence == id.sequence);
        if let Some(live) = live {
            live.end = live.end.max(header.end());
        }
    }

    /// The next sealed segment that the owner has not been told of.
    pub(crate) fn take_sealed(&mut self) -> Option<SegmentInfo> {
        let sealed = self.sealed.iter_mut().find(|sealed| !sealed.taken)?;
        sealed.taken = true;
        let SealedSegment { id, tally, .. } = sealed;
        let (sequence, bytes) = (id.sequence, id.bytes);
        Some(SegmentInfo { sequence, start: id.base, end: tally.last.chain.end, bytes })
    }

    pub(crate) fn summary_bytes_max(&self) -> usize {
        summary::owner_bytes_max(&self.id)
    }

    /// Takes a summary for a sealed segment, once; others are ignored, as is one for which there is no room.
    pub(crate) fn summarize(&mut self, sequence: u64, bytes: Vec<u8>) {
        let waiting = self.sealed.iter().filter(|sealed| sealed.owner.is_some()).count();
        let sealed = self.sealed.iter_mut().find(|sealed| sealed.id.sequence == sequence);
        let Some(sealed) = sealed.filter(|sealed| sealed.owner.is_none()) else { return };
        let fits = bytes.len() <= summary::owner_bytes_max(&sealed.id);
        sometimes!(summary_dropped, !fits || waiting >= SUMMARIES_WAITING_MAX);
        if fits && waiting < SUMMARIES_WAITING_MAX {
            sealed.owner = Some(bytes);
            self.wake_driver();
        }
    }

    /// The write of a summary whose segment is durable as a whole, and known to be followed by another.
    pub(super) fn summary_task(&mut self) -> Option<Task> {
        let durable = self.durable;
        let ready = |sealed: &SealedSegment| {
            sealed.owner.is_some() && sealed.tally.last.chain.end < durable
        };
        let at = self.sealed.iter().position(ready)?;
        let SealedSegment { id, tally, owner, .. } = self.sealed.remove(at)?;
        let buf = summary::encode(&id, &tally, &owner?);
        Some(Task::Summarize { sequence: id.sequence, offset: id.batches_end(), buf })
    }

    pub(crate) fn summarized(&mut self, written: bool) {
        sometimes!(summary_written, written);
        sometimes!(summary_failed, !written);
        self.stats.summaries += u64::from(written);
    }

    /// Forgets segments before `sequence`.
    pub(super) fn forget_sealed(&mut self, sequence: u64) {
        while self.sealed.front().is_some_and(|sealed| sealed.id.sequence < sequence) {
            self.sealed.pop_front();
        }
    }

    /// Segments that hold records, the current one last.
    pub(crate) fn segments(&self) -> Vec<SegmentInfo> {
        let mut segments: Vec<_> = self.live.iter().map(|live| live.info()).collect();
        if let Some(last) = segments.last_mut() {
            let open = self.open.as_ref().map_or(0, |open| open.padded_bytes() as u64);
            last.end = last.end.max(Lsn(self.id.lsn(self.offset).0 + open));
        }
        segments
    }
}
