//! Where in the files a position lies, for readers of old records.

use super::State;
use crate::Lsn;
use crate::format::{FIRST_BATCH_OFFSET, SegmentId};
use crate::recovery::Extent;
use crate::segment::FileName;

/// What lies at a position.
pub(crate) enum Locate<F> {
    /// A durable batch.
    At(Spot<F>),
    /// Nothing that is durable yet.
    End,
    /// Nothing any more.
    Trimmed,
    /// A segment of which recovery could not read anything.
    Lost(Extent),
}

/// The place of a durable batch.
pub(crate) struct Spot<F> {
    pub(crate) id: SegmentId,
    /// Where the batch begins.
    pub(crate) offset: u64,
    /// Where what is durable of the segment ends.
    pub(crate) limit: u64,
    /// The segment's file, if the log has it open.
    pub(crate) file: Option<F>,
}

impl<F> Spot<F> {
    pub(crate) fn lsn(&self) -> Lsn {
        self.id.lsn(self.offset)
    }
}

impl<F: Clone> State<F> {
    /// What lies at `position`, or where the log goes on behind it.
    pub(crate) fn locate(&self, position: Lsn) -> Locate<F> {
        if position >= self.durable {
            return Locate::End;
        }
        let after = self.live.partition_point(|live| live.start <= position);
        if after == 0 && position < self.gone {
            return Locate::Trimmed;
        }
        for index in after.saturating_sub(1)..self.live.len() {
            let live = &self.live[index];
            let position = position.max(live.start);
            if live.lost && position < self.lost_until(index) {
                return Locate::Lost(self.lost(index));
            }
            let Some(id) = live.id else { continue };
            let offset = (position.0 - id.base.0).max(FIRST_BATCH_OFFSET);
            let limit = live.end.min(self.durable).0.saturating_sub(id.base.0);
            if offset < limit {
                if self.is_given_up(id.sequence) {
                    return Locate::Trimmed;
                }
                return Locate::At(Spot { id, offset, limit, file: self.file_of(id.sequence) });
            }
            // What is durable behind its end lies in a later segment, and nothing more comes into this one.
            if self.durable <= live.end {
                return Locate::End;
            }
        }
        Locate::End
    }

    /// Whether a segment is no longer there, or may not be from now on.
    pub(crate) fn is_given_up(&self, sequence: u64) -> bool {
        let live = self.live.iter().find(|live| live.sequence == sequence);
        live.is_none_or(|live| live.end < self.trim_durable)
    }

    /// Number of the oldest segment.
    pub(crate) fn oldest_sequence(&self) -> u64 {
        self.live.front().map_or(0, |live| live.sequence)
    }

    fn lost_until(&self, index: usize) -> Lsn {
        let live = &self.live[index];
        self.live.get(index + 1).map_or(live.start, |next| next.start)
    }

    fn lost(&self, index: usize) -> Extent {
        let live = &self.live[index];
        let segment = FileName::Segment(live.sequence).text();
        Extent { segment, offset: 0, from: live.start, to: self.lost_until(index) }
    }
}
