//! The bytes of the log: segment headers, batches, records; encoded and checked, without any I/O.
//!
//! All integers are little-endian. `docs/wal-format.md` says the same with diagrams.
//!
//! A **segment** is one file: a header block, then batches on block boundaries. Its *seed* is the
//! checksum of log id, generation and sequence; every other checksum in the segment starts from it, so
//! that bytes of an earlier use of the file never pass.
//!
//! A **batch** is a header, then records, then zeros up to the block. Its header checksum covers the
//! header, the header holds a checksum over the checksums of the records, and each of these covers the
//! record: one pass over each payload checks everything.

use crc32fast::Hasher;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::{
    BATCH_BYTES_MAX, BLOCK_BYTES, COPY_STEP_BYTES, POSITION_MAX, RECORD_HEADER_BYTES,
    SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SUMMARY_BYTES_MAX, SUMMARY_SHARE,
};
use crate::{Lsn, Record, RecordView};

/// Version of the format that is written, and the newest that is read.
pub(crate) const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"CORACLEW";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"CWb1");

/// Bytes before the first record of a batch.
pub(crate) const BATCH_HEADER_BYTES: usize = size_of::<RawBatchHeader>();
/// Where the first batch of a segment starts.
pub(crate) const FIRST_BATCH_OFFSET: u64 = BLOCK_BYTES as u64;

/// The batch opens a generation: the log was cut at its `prev_end`.
pub(crate) const FLAG_START: u32 = 1;
/// The batch ends a generation: the log was closed in order.
pub(crate) const FLAG_CLOSE: u32 = 2;
pub(crate) const FLAGS_KNOWN: u32 = FLAG_START | FLAG_CLOSE;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawSegmentHeader {
    checksum: U32,
    version: U32,
    magic: [u8; 8],
    log_id: [u8; 16],
    generation: U64,
    sequence: U64,
    base: U64,
    bytes: U64,
    summary_bytes: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawBatchHeader {
    checksum: U32,
    magic: U32,
    position: U64,
    generation: U64,
    prev_end: U64,
    durable: U64,
    trimmed: U64,
    prev_checksum: U32,
    bytes: U32,
    records: U32,
    records_checksum: U32,
    flags: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawRecordHeader {
    checksum: U32,
    bytes: U32,
    stream: U32,
    kind: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<RawSegmentHeader>() == 72);
const _: () = assert!(BATCH_HEADER_BYTES == 72);
const _: () = assert!(RECORD_HEADER_BYTES == size_of::<RawRecordHeader>());

/// `bytes` rounded up to whole blocks.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// Bytes a record takes in a batch.
pub(crate) fn record_bytes(record: &Record<'_>) -> usize {
    RECORD_HEADER_BYTES + record.head.len() + record.body.len()
}

/// Bytes that a new segment of `segment_bytes` keeps for its summary.
pub(crate) fn summary_bytes(segment_bytes: u64) -> u64 {
    let bytes = (segment_bytes / SUMMARY_SHARE).next_multiple_of(BLOCK_BYTES as u64);
    bytes.clamp(BLOCK_BYTES as u64, SUMMARY_BYTES_MAX)
}

/// Which segment: everything that its batches are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId {
    /// Place among the segments; never used twice in a generation.
    pub(crate) sequence: u64,
    /// Which start of the log made it.
    pub(crate) generation: u64,
    /// Position of its first byte.
    pub(crate) base: Lsn,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Bytes at its end that hold no batches: they are kept for its summary.
    pub(crate) summary_bytes: u64,
    /// Start value of the checksums of its batches.
    pub(crate) seed: u32,
}

impl SegmentId {
    pub(crate) fn new(
        log_id: &[u8; 16],
        generation: u64,
        sequence: u64,
        base: Lsn,
        bytes: u64,
    ) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(log_id);
        #[cfg(not(mutant = "recycled-batch-accepted"))]
        hasher.update(&generation.to_le_bytes());
        #[cfg(not(mutant = "recycled-batch-accepted"))]
        hasher.update(&sequence.to_le_bytes());
        let (summary_bytes, seed) = (summary_bytes(bytes), hasher.finalize());
        Self { sequence, generation, base, bytes, summary_bytes, seed }
    }

    /// Offset behind the last place for a batch, where the summary begins.
    pub(crate) fn batches_end(&self) -> u64 {
        self.bytes - self.summary_bytes
    }

    /// Position of the byte behind the segment.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.base.0 + self.bytes)
    }

    /// The position of `offset` in the file.
    pub(crate) fn lsn(&self, offset: u64) -> Lsn {
        Lsn(self.base.0 + offset)
    }
}

/// What the header block of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SegmentHeader {
    /// A segment of this log.
    Ours(SegmentId),
    /// A segment of another log.
    Foreign { found: [u8; 16] },
    /// A segment of a newer format.
    Newer { version: u32 },
    /// No valid header.
    Unreadable,
}

/// Fills `block` with the header of `id`.
pub(crate) fn encode_segment_header(block: &mut [u8], log_id: &[u8; 16], id: &SegmentId) {
    let mut raw = RawSegmentHeader {
        checksum: U32::ZERO,
        version: U32::new(FORMAT_VERSION),
        magic: SEGMENT_MAGIC,
        log_id: *log_id,
        generation: U64::new(id.generation),
        sequence: U64::new(id.sequence),
        base: U64::new(id.base.0),
        bytes: U64::new(id.bytes),
        summary_bytes: U64::new(id.summary_bytes),
    };
    let block = &mut block[..BLOCK_BYTES];
    block.fill(0);
    block[..raw.as_bytes().len()].copy_from_slice(raw.as_bytes());
    raw.checksum = U32::new(crc32fast::hash(&block[4..]));
    block[..4].copy_from_slice(raw.checksum.as_bytes());
}

/// Reads the header block of a segment. Checksum, version and magic keep their places in every
/// version, so that a newer version is told from damage.
pub(crate) fn decode_segment_header(block: &[u8], log_id: &[u8; 16]) -> SegmentHeader {
    if block.len() < BLOCK_BYTES {
        return SegmentHeader::Unreadable;
    }
    let block = &block[..BLOCK_BYTES];
    let Ok((raw, _)) = RawSegmentHeader::read_from_prefix(block) else {
        return SegmentHeader::Unreadable;
    };
    if raw.magic != SEGMENT_MAGIC || raw.checksum.get() != crc32fast::hash(&block[4..]) {
        return SegmentHeader::Unreadable;
    }
    if raw.version.get() != FORMAT_VERSION {
        return SegmentHeader::Newer { version: raw.version.get() };
    }
    if raw.log_id != *log_id {
        return SegmentHeader::Foreign { found: raw.log_id };
    }
    if !is_sane(&raw) {
        return SegmentHeader::Unreadable;
    }
    let (generation, sequence) = (raw.generation.get(), raw.sequence.get());
    let id = SegmentId::new(log_id, generation, sequence, Lsn(raw.base.get()), raw.bytes.get());
    SegmentHeader::Ours(SegmentId { summary_bytes: raw.summary_bytes.get(), ..id })
}

/// Whether the numbers of a header are in their ranges: the arithmetic with them counts on it.
fn is_sane(raw: &RawSegmentHeader) -> bool {
    let (base, bytes, summary) = (raw.base.get(), raw.bytes.get(), raw.summary_bytes.get());
    (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(BLOCK_BYTES as u64)
        && base.is_multiple_of(BLOCK_BYTES as u64)
        && summary.is_multiple_of(BLOCK_BYTES as u64)
        && summary <= bytes / 4
        && [base, raw.generation.get(), raw.sequence.get()].iter().all(|it| *it <= POSITION_MAX)
}

/// The link from a batch to the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Where the batch before ended, padding included; 0 before the first of a log.
    pub(crate) end: Lsn,
    /// Header checksum of the batch before.
    pub(crate) checksum: u32,
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Where the batch starts.
    pub(crate) position: Lsn,
    /// The batch before.
    pub(crate) prev: Chain,
    /// Everything before it was durable when this batch was submitted.
    pub(crate) durable: Lsn,
    /// Records before it had been given up when this batch was submitted.
    pub(crate) trimmed: Lsn,
    /// Bytes of header and records, without padding.
    pub(crate) bytes: u32,
    /// Count of records.
    pub(crate) records: u32,
    /// Checksum over the checksums of the records.
    pub(crate) records_checksum: u32,
    /// `FLAG_*`.
    pub(crate) flags: u32,
    /// Checksum of the header itself; set by encoding and decoding.
    pub(crate) checksum: u32,
}

impl BatchHeader {
    /// Bytes up to the next batch.
    pub(crate) fn padded_bytes(&self) -> usize {
        padded(self.bytes as usize)
    }

    /// Where the batch ends, padding included.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.position.0 + self.padded_bytes() as u64)
    }

    /// The link that the next batch must carry.
    pub(crate) fn chain(&self) -> Chain {
        Chain { end: self.end(), checksum: self.checksum }
    }
}

/// Writes `header` to the start of `dst`, and its checksum into both.
pub(crate) fn encode_batch_header(dst: &mut [u8], id: &SegmentId, header: &mut BatchHeader) {
    let raw = RawBatchHeader {
        checksum: U32::ZERO,
        magic: U32::new(BATCH_MAGIC),
        position: U64::new(header.position.0),
        generation: U64::new(id.generation),
        prev_end: U64::new(header.prev.end.0),
        durable: U64::new(header.durable.0),
        trimmed: U64::new(header.trimmed.0),
        prev_checksum: U32::new(header.prev.checksum),
        bytes: U32::new(header.bytes),
        records: U32::new(header.records),
        records_checksum: U32::new(header.records_checksum),
        flags: U32::new(header.flags),
        reserved: U32::ZERO,
    };
    let dst = &mut dst[..BATCH_HEADER_BYTES];
    dst.copy_from_slice(raw.as_bytes());
    header.checksum = checksum(id.seed, &dst[4..]);
    dst[..4].copy_from_slice(&header.checksum.to_le_bytes());
}

/// Why there is no valid batch at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// No trace of a batch of this use of the segment.
    Blank,
    /// A batch of this use of the segment was begun here and is not whole.
    Broken,
}

/// Reads the header of the batch at `offset` of segment `id`.
pub(crate) fn decode_batch_header(
    block: &[u8],
    id: &SegmentId,
    offset: u64,
) -> Result<BatchHeader, Flaw> {
    let (raw, _) = RawBatchHeader::read_from_prefix(block).map_err(|_| Flaw::Blank)?;
    let position = id.lsn(offset);
    let this_use = raw.generation.get() == id.generation;
    let this_place = raw.position.get() == position.0;
    #[cfg(mutant = "recycled-batch-accepted")]
    let (this_use, this_place) = (true, true);
    #[cfg(mutant = "misdirected-write-accepted")]
    let this_place = true;
    if raw.magic.get() != BATCH_MAGIC || !this_use || !this_place {
        sometimes!(recovery_stale_batch, raw.magic.get() == BATCH_MAGIC);
        return Err(Flaw::Blank);
    }
    let sum = checksum(id.seed, &block[4..BATCH_HEADER_BYTES]);
    if raw.checksum.get() != sum {
        return Err(Flaw::Broken);
    }
    let header = BatchHeader {
        position,
        prev: Chain { end: Lsn(raw.prev_end.get()), checksum: raw.prev_checksum.get() },
        durable: Lsn(raw.durable.get()),
        trimmed: Lsn(raw.trimmed.get()),
        bytes: raw.bytes.get(),
        records: raw.records.get(),
        records_checksum: raw.records_checksum.get(),
        flags: raw.flags.get(),
        checksum: sum,
    };
    let fits = (BATCH_HEADER_BYTES..=BATCH_BYTES_MAX).contains(&(header.bytes as usize))
        && header.padded_bytes() as u64 <= id.batches_end().saturating_sub(offset);
    let ordered = header.prev.end <= position && header.durable <= position;
    #[cfg(mutant = "misdirected-write-accepted")]
    let ordered = true;
    let sane = header.flags & !FLAGS_KNOWN == 0 && ordered && header.trimmed <= header.durable;
    if fits && sane { Ok(header) } else { Err(Flaw::Broken) }
}

/// The position that a block says it is for if it looks like the start of a batch; unchecked.
pub(crate) fn claimed_position(block: &[u8]) -> Option<Lsn> {
    let (raw, _) = RawBatchHeader::read_from_prefix(block).ok()?;
    (raw.magic.get() == BATCH_MAGIC).then(|| Lsn(raw.position.get()))
}

/// Writes `record` to `dst`, which has exactly its size, and returns its checksum.
pub(crate) fn encode_record(dst: &mut [u8], seed: u32, record: &Record<'_>) -> u32 {
    let payload_bytes = dst.len() - RECORD_HEADER_BYTES;
    dst[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    dst[8..12].copy_from_slice(&record.stream.to_le_bytes());
    dst[12..16].copy_from_slice(&[record.kind, 0, 0, 0]);
    let (head, body) = (record.head, record.body);
    let mut hasher = Hasher::new_with_initial(seed);
    if payload_bytes <= COPY_STEP_BYTES {
        let (_, payload) = dst.split_at_mut(RECORD_HEADER_BYTES);
        payload[..head.len()].copy_from_slice(head);
        payload[head.len()..].copy_from_slice(body);
        hasher.update(&dst[4..]);
    } else {
        hasher.update(&dst[4..RECORD_HEADER_BYTES]);
        let mut at = RECORD_HEADER_BYTES;
        for step in head.chunks(COPY_STEP_BYTES).chain(body.chunks(COPY_STEP_BYTES)) {
            let copy = &mut dst[at..at + step.len()];
            copy.copy_from_slice(step);
            hasher.update(copy);
            at += step.len();
        }
    }
    let sum = hasher.finalize();
    dst[..4].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Whether all records of a batch are whole, and are those that its header speaks of. `batch` starts
/// with the header.
pub(crate) fn records_are_valid(batch: &[u8], id: &SegmentId, header: &BatchHeader) -> bool {
    let Some(batch) = batch.get(..header.bytes as usize) else { return false };
    let mut sums = Hasher::new_with_initial(id.seed);
    let mut rest = &batch[BATCH_HEADER_BYTES..];
    for _ in 0..header.records {
        let Some((record, after)) = split_record(rest) else { return false };
        let sum = checksum(id.seed, &record[4..]);
        if record[..4] != sum.to_le_bytes() {
            return false;
        }
        sums.update(&sum.to_le_bytes());
        rest = after;
    }
    rest.is_empty() && sums.finalize() == header.records_checksum
}

/// Gives the records of a batch that [`records_are_valid`] accepted to `visit`, in order.
pub(crate) fn visit_records(
    batch: &[u8],
    header: &BatchHeader,
    visit: &mut dyn FnMut(RecordView<'_>),
) {
    let batch = &batch[..header.bytes as usize];
    let mut rest = &batch[BATCH_HEADER_BYTES..];
    while let Some((record, after)) = split_record(rest) {
        let Ok((raw, payload)) = RawRecordHeader::ref_from_prefix(record) else { return };
        let lsn = Lsn(header.position.0 + (batch.len() - after.len()) as u64);
        visit(RecordView {
            stream: raw.stream.get(),
            kind: raw.kind,
            payload,
            lsn,
            batch: header.position,
        });
        rest = after;
    }
}

/// A record in the bytes of a batch.
pub(crate) struct RecordAt {
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    pub(crate) payload: std::ops::Range<usize>,
}

/// The record at `at` of a batch's bytes without padding, which [`records_are_valid`] accepted; `None` at
/// the end.
pub(crate) fn record_at(batch: &[u8], at: usize) -> Option<RecordAt> {
    let (raw, after) = RawRecordHeader::ref_from_prefix(batch.get(at..)?).ok()?;
    let bytes = raw.bytes.get() as usize;
    let start = at + RECORD_HEADER_BYTES;
    let (stream, kind) = (raw.stream.get(), raw.kind);
    (bytes <= after.len()).then_some(RecordAt { stream, kind, payload: start..start + bytes })
}

/// Splits the first record, header included, from the rest; `None` when it is not all there.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (raw, after) = RawRecordHeader::ref_from_prefix(bytes).ok()?;
    let payload_bytes = raw.bytes.get() as usize;
    (payload_bytes <= after.len()).then(|| bytes.split_at(RECORD_HEADER_BYTES + payload_bytes))
}

pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}
