//! [`Follower`]: reads a log from outside, batch by batch as they become durable.
//!
//! Recovery reads a log once, when nobody writes to it. A follower looks at the durable bytes of a log
//! that is in use: each call goes on where the last one stopped, and gives the records that have become
//! durable since. It shares the decoding of batches with recovery and nothing with the log's own cursors,
//! so that a test can tell what *is* durable from what the log *says* is.
//!
//! It follows the chain: the next batch lies behind the last one, or at the beginning of a later segment,
//! whose first batch then names the last one. A segment that is so continued is left for good: what comes
//! to lie behind in it was cut off by a later start. A later start that cuts off what the follower has
//! seen has lost durable records: [`FollowError::Rewound`].

use thiserror::Error;

use crate::format::{
    self, BATCH_HEADER_BYTES, BatchHeader, Chain, FIRST_BATCH_OFFSET, SegmentHeader, SegmentId,
};
use crate::limits::BLOCK_BYTES;
use crate::segment::FileName;
use crate::{Lsn, RecordView};

/// The durable content of a log's directory: what a power cut would leave now.
pub trait DurableFiles {
    /// Names, each with the number by which the file is read. A file keeps its number when it is renamed.
    fn files(&self) -> Vec<(String, u32)>;
    /// Fills the start of `buf` with the durable bytes of a file from `position` on; returns how many,
    /// fewer only at the file's end.
    fn read(&self, file: u32, position: u64, buf: &mut [u8]) -> usize;
}

/// A log that no correct one can have become.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FollowError {
    /// A segment goes on from before the end of what was durable.
    #[error(
        "segment {sequence} continues the log at {continues}, but batches up to {durable} were durable"
    )]
    Rewound {
        /// The segment.
        sequence: u64,
        /// Where its first batch says that the log had ended.
        continues: Lsn,
        /// Where the durable log had ended.
        durable: Lsn,
    },
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    file: u32,
    id: SegmentId,
}

/// Follows one log. See the [module](self).
#[derive(Debug)]
pub struct Follower {
    log_id: [u8; 16],
    /// Segments from the present one on, ordered by sequence.
    segments: Vec<Segment>,
    /// The present segment, and where in it the next batch is expected.
    place: Option<(Segment, u64)>,
    chain: Chain,
    trimmed: Lsn,
    batches: u64,
    buf: Vec<u8>,
}

impl Follower {
    /// A follower that has seen nothing of the log yet.
    #[must_use]
    pub fn new(log_id: [u8; 16]) -> Self {
        Self {
            log_id,
            segments: Vec::new(),
            place: None,
            chain: Chain::default(),
            trimmed: Lsn(0),
            batches: 0,
            buf: Vec::new(),
        }
    }

    /// Everything before this position was seen.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.chain.end
    }

    /// The last batch seen says that records before this position were given up.
    #[must_use]
    pub fn trimmed(&self) -> Lsn {
        self.trimmed
    }

    /// Batches seen.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Looks at the names again. To be called at first and when names have changed.
    pub fn refresh(&mut self, files: &dyn DurableFiles) {
        let from = self.place.map_or(0, |(segment, _)| segment.id.sequence);
        self.segments.clear();
        let mut block = [0; BLOCK_BYTES];
        for (name, file) in files.files() {
            let Some(FileName::Segment(sequence)) = FileName::parse(&name) else { continue };
            if sequence < from {
                continue;
            }
            let got = files.read(file, 0, &mut block);
            if let SegmentHeader::Ours(id) =
                format::decode_segment_header(&block[..got], &self.log_id)
                && id.sequence == sequence
            {
                self.segments.push(Segment { file, id });
            }
        }
        self.segments.sort_by_key(|segment| segment.id.sequence);
    }

    /// Gives the records of all batches that have become durable since the last call to `visit`, in
    /// order. Returns how many batches they were.
    ///
    /// # Errors
    /// [`FollowError`] when durable batches have been cut off.
    pub fn advance(
        &mut self,
        files: &dyn DurableFiles,
        visit: &mut dyn FnMut(RecordView<'_>),
    ) -> Result<u64, FollowError> {
        let before = self.batches;
        if self.place.is_none() && !self.begin(files) {
            return Ok(0);
        }
        let mut next = self.continuation(files);
        while let Some((segment, offset)) = self.place {
            if let Some((later, header)) = next {
                if header.prev == self.chain {
                    self.place = Some((later, FIRST_BATCH_OFFSET));
                    next = self.continuation(files);
                    continue;
                }
                if header.prev.end <= self.chain.end {
                    return Err(FollowError::Rewound {
                        sequence: later.id.sequence,
                        continues: header.prev.end,
                        durable: self.chain.end,
                    });
                }
            }
            let Some(header) = self.batch(files, segment, offset) else { break };
            if self.batches > 0 && header.prev != self.chain {
                break;
            }
            format::visit_records(&self.buf, &header, visit);
            self.chain = header.chain();
            self.trimmed = header.trimmed;
            self.batches += 1;
            self.place = Some((segment, offset + header.padded_bytes() as u64));
        }
        Ok(self.batches - before)
    }

    /// Finds the first batch of all.
    fn begin(&mut self, files: &dyn DurableFiles) -> bool {
        for segment in self.segments.clone() {
            if self.batch(files, segment, FIRST_BATCH_OFFSET).is_some() {
                self.place = Some((segment, FIRST_BATCH_OFFSET));
                return true;
            }
        }
        false
    }

    /// The first later segment that has a batch.
    fn continuation(&mut self, files: &dyn DurableFiles) -> Option<(Segment, BatchHeader)> {
        let here = self.place.map_or(0, |(segment, _)| segment.id.sequence);
        for at in 0..self.segments.len() {
            let segment = self.segments[at];
            if segment.id.sequence > here
                && let Some(header) = self.batch(files, segment, FIRST_BATCH_OFFSET)
            {
                return Some((segment, header));
            }
        }
        None
    }

    /// Reads the batch at `offset` of `segment` into the buffer; `None` if there is no whole one.
    fn batch(
        &mut self,
        files: &dyn DurableFiles,
        segment: Segment,
        offset: u64,
    ) -> Option<BatchHeader> {
        // Mostly there is none: look at the header alone first.
        self.buf.resize(self.buf.len().max(BATCH_HEADER_BYTES), 0);
        let head = &mut self.buf[..BATCH_HEADER_BYTES];
        if files.read(segment.file, offset, head) < head.len() {
            return None;
        }
        let header = format::decode_batch_header(head, &segment.id, offset).ok()?;
        let bytes = header.padded_bytes();
        self.buf.resize(self.buf.len().max(bytes), 0);
        if files.read(segment.file, offset, &mut self.buf[..bytes]) < bytes {
            return None;
        }
        format::records_are_valid(&self.buf, &segment.id, &header).then_some(header)
    }
}
