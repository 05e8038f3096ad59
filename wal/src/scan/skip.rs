//! Passing over segments whose summary says all that is needed of them.
//!
//! A summary is taken instead of its segment only if the walk comes to the segment's first batch and finds it
//! whole and linked, and the first batch of the next segment, of the same generation, is whole and names the
//! last batch that the summary speaks of. So neither a torn tail nor a cut, nor a missing or unreadable
//! neighbour can hide behind one; what may is damage inside of the segment, which is found when it is read.

use super::{Place, Scan, Segment};
use crate::error::Fault;
use crate::format::{Chain, FIRST_BATCH_OFFSET, SegmentId};
use crate::limits::BLOCK_BYTES;
use crate::summary::{self, Tally};
use crate::{AlignedBuf, DiskFile, Replay, transfer};

impl<F: DiskFile> Scan<'_, F> {
    /// Where the walk goes on from `here`: behind all segments whose summaries `replay` takes.
    pub(super) async fn skip(
        &mut self,
        mut here: Place,
        mut linked: bool,
        replay: &mut dyn Replay,
    ) -> Result<Place, Fault> {
        while here.1 == FIRST_BATCH_OFFSET
            && let Some((id, end)) = self.summarized_end(here.0, linked)
            && let Some(buf) = read(&self.segments[here.0], &id).await
        {
            let decoded = summary::decode(&buf, &id);
            let confirmed = decoded.filter(|(tally, _)| tally.last.chain == end);
            sometimes!(recovery_summary_unfit, confirmed.is_none());
            let Some((tally, owner)) = confirmed else { break };
            let info = super::Live::new(&id, end.end).info();
            if !replay.summary(&info, owner) {
                sometimes!(recovery_summary_refused);
                break;
            }
            sometimes!(recovery_summary_taken);
            self.take_summary(&id, &tally);
            linked = true;
            here = (here.0 + 1, FIRST_BATCH_OFFSET);
        }
        Ok(here)
    }

    /// The segment `index`, and what the next segment says was its last batch, if it may be passed over.
    fn summarized_end(&self, index: usize, linked: bool) -> Option<(SegmentId, Chain)> {
        let segment = self.segments.get(index)?;
        let (id, first) = (segment.id?, segment.first.as_ref()?);
        let follows =
            if linked { first.prev == self.chain() } else { first.position >= self.chain().end };
        let next = self.segments.get(index + 1)?;
        let next_id = next.id?;
        let adjacent = next_id.sequence == id.sequence + 1 && next_id.generation == id.generation;
        let end = next.first.as_ref()?.prev;
        (follows && adjacent && id.summary_bytes > 0).then_some((id, end))
    }

    fn take_summary(&mut self, id: &SegmentId, tally: &Tally) {
        self.records += tally.records;
        self.batches += tally.batches;
        self.bytes += tally.bytes;
        self.known_durable = self.known_durable.max(tally.durable);
        self.last = Some(tally.last);
        self.live.push(super::Live::new(id, tally.last.chain.end));
        self.summarized += 1;
    }
}

/// The bytes of a segment's summary, if there is a trace of one. A summary that can't be read is none.
async fn read<F: DiskFile>(segment: &Segment<F>, id: &SegmentId) -> Option<AlignedBuf> {
    let place = id.batches_end();
    let buf = AlignedBuf::zeroed(BLOCK_BYTES);
    let (result, block) = transfer::read(&segment.file, place, buf, BLOCK_BYTES).await;
    if !matches!(result, Ok(BLOCK_BYTES)) {
        return None;
    }
    let used = summary::used_bytes(&block, id)?;
    if used <= BLOCK_BYTES {
        return Some(block);
    }
    let buf = AlignedBuf::zeroed(used);
    let len = buf.len();
    let (result, buf) = transfer::read(&segment.file, place, buf, len).await;
    matches!(result, Ok(got) if got == len).then_some(buf)
}
