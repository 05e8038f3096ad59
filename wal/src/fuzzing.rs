//! The decoders and encoders of the format as plain functions, for the fuzz targets in `tests/fuzz`. Not
//! part of the interface: the format is private, and its bytes come from a disk.

use crate::batch::{Batch, Pool};
use crate::format::{self, BatchHeader, Chain, SegmentHeader, SegmentId};
use crate::limits::BATCH_BYTES_MAX;
use crate::{Lsn, Record, RecordView};

/// What the batches of a segment are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment(SegmentId);

impl Segment {
    /// The segment of this place and size.
    #[must_use]
    pub fn new(log_id: &[u8; 16], generation: u64, sequence: u64, base: u64, bytes: u64) -> Self {
        Self(SegmentId::new(log_id, generation, sequence, Lsn(base), bytes))
    }

    /// Reads a header block; `None` unless it is a valid header of this log.
    #[must_use]
    pub fn decode(block: &[u8], log_id: &[u8; 16]) -> Option<Self> {
        match format::decode_segment_header(block, log_id) {
            SegmentHeader::Ours(id) => Some(Self(id)),
            _ => None,
        }
    }

    /// Writes the header block.
    pub fn encode(&self, block: &mut [u8], log_id: &[u8; 16]) {
        format::encode_segment_header(block, log_id, &self.0);
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
}

/// What a batch says besides its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Where the batch before ended.
    pub prev_end: u64,
    /// Header checksum of the batch before.
    pub prev_checksum: u32,
    /// Everything before it was durable.
    pub durable: u64,
    /// Everything before it was given up.
    pub trimmed: u64,
    /// Marks.
    pub flags: u32,
}

/// Reads the batch at `offset` of `segment` and gives its records to `visit`; `None`, without a
/// record given, unless it is valid.
pub fn decode_batch(
    bytes: &[u8],
    segment: &Segment,
    offset: u64,
    visit: &mut dyn FnMut(RecordView<'_>),
) -> Option<Claims> {
    let header: BatchHeader = format::decode_batch_header(bytes, &segment.0, offset).ok()?;
    if bytes.len() < header.padded_bytes() || !format::records_are_valid(bytes, &segment.0, &header)
    {
        return None;
    }
    format::visit_records(bytes, &header, visit);
    Some(Claims {
        prev_end: header.prev.end.0,
        prev_checksum: header.prev.checksum,
        durable: header.durable.0,
        trimmed: header.trimmed.0,
        flags: header.flags,
    })
}

/// The bytes of a batch at `offset` of `segment`, padding included.
#[must_use]
pub fn encode_batch(
    segment: &Segment,
    offset: u64,
    claims: &Claims,
    records: &[Record<'_>],
) -> Vec<u8> {
    let bytes = records.iter().map(format::record_bytes).sum();
    let mut batch = Batch::new(segment.0, offset, BATCH_BYTES_MAX, bytes, &mut Pool::new(0));
    records.iter().for_each(|record| batch.push(record));
    let chain = Chain { end: Lsn(claims.prev_end), checksum: claims.prev_checksum };
    let sealed = batch.seal(chain, Lsn(claims.durable), Lsn(claims.trimmed), claims.flags);
    sealed.buf[..sealed.header.padded_bytes()].to_vec()
}
