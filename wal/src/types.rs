//! Positions, records and options: the words of the log's interface.

use std::fmt;

use crate::format::{self, BATCH_HEADER_BYTES, FIRST_BATCH_OFFSET};
use crate::limits::{
    BATCH_BYTES_MAX, BLOCK_BYTES, BUDGET_SEGMENTS_MIN, MARK_RESERVE_BYTES, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, SPARES_MAX, WRITES_IN_FLIGHT_MAX,
};

/// A position in a core's log, in bytes. It grows over segments and restarts and is never used twice.
///
/// The position of a record is the byte just behind it. A record is durable when
/// [`Wal::durable`](crate::Wal::durable) is at or beyond its position. Positions have gaps: unused
/// ends of segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One record to append. `head` and `body` become one payload: two parts spare the caller a copy when
/// a small header is put before a payload that lies elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Whose record it is; the log gives it back and does not look at it.
    pub stream: u32,
    /// What it is; the log gives it back and does not look at it.
    pub kind: u8,
    /// First part of the payload.
    pub head: &'a [u8],
    /// Second part of the payload.
    pub body: &'a [u8],
}

/// Where a group was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first byte of the batch that holds the group: where [`Wal::reader`](crate::Wal::reader) can
    /// begin to read it again.
    pub batch: Lsn,
    /// The position of the group's last record: the group is durable when
    /// [`Wal::durable`](crate::Wal::durable) has reached it.
    pub end: Lsn,
}

/// One record as recovery finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Whose record it is.
    pub stream: u32,
    /// What it is.
    pub kind: u8,
    /// `head` and `body` of the appended record, joined.
    pub payload: &'a [u8],
    /// The byte just behind the record.
    pub lsn: Lsn,
    /// The first byte of the batch that holds it.
    pub batch: Lsn,
}

/// A segment, as the log's owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Number of the segment; grows.
    pub sequence: u64,
    /// Position of the first byte of the file.
    pub start: Lsn,
    /// Where its records end, padding included.
    pub end: Lsn,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What [`Wal::open`](crate::Wal::open) gives the content of a log to, oldest first.
///
/// Every `FnMut(RecordView<'_>)` is one that wants all records.
pub trait Replay {
    /// Takes the next record.
    fn record(&mut self, record: RecordView<'_>);

    /// Takes what the owner gave to [`Wal::summarize`](crate::Wal::summarize) when it had written
    /// `segment`. True: this is all it has to know of the segment, whose records are not given then. False
    /// (the default): the records follow.
    fn summary(&mut self, segment: &SegmentInfo, summary: &[u8]) -> bool {
        let _ = (segment, summary);
        false
    }
}

impl<F: FnMut(RecordView<'_>)> Replay for F {
    fn record(&mut self, record: RecordView<'_>) {
        self(record);
    }
}

/// How a log is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Size of new segments in bytes, a multiple of the block. Existing segments keep theirs.
    pub segment_bytes: u64,
    /// Segments to keep prepared ahead of the current one.
    pub spares: usize,
    /// Durable writes in flight at once.
    pub writes_in_flight: usize,
    /// Most bytes one batch takes, header and padding included; a multiple of the block, at most
    /// [`BATCH_BYTES_MAX`]. It also bounds the largest group: see [`Options::group_bytes_max`].
    pub batch_bytes_max: usize,
    /// Bytes that may be appended but not yet durable; beyond it appends are refused as full.
    pub buffer_bytes_max: usize,
    /// Whose log this is. A directory with another log's segments is refused.
    pub log_id: [u8; 16],
    /// Open although acknowledged records are damaged; the report names what is lost.
    pub start_on_damage: bool,
    /// Open although acknowledged records are damaged, if intact ones follow behind all that are: for an owner who
    /// can tell from [`Recovery::damage`](crate::Recovery::damage) what must not be trusted. It is reported at every
    /// start until it is trimmed. Damage at the end of the log, where new records go, is refused.
    pub start_on_gaps: bool,
    /// Bytes that the log's files may take: segments in use, prepared and spare. None is made beyond it:
    /// the log is then as on a full disk ([`Wal::has_room`](crate::Wal::has_room)) until a trim gives
    /// segments back. 0: no bound but the disk. Opening makes a segment if it has to, also beyond it.
    pub log_bytes_max: u64,
    /// Keep segments that were given up as files `archive-N`, which the log never looks at again: to be
    /// taken away by the operator. They are not counted in `log_bytes_max`.
    pub archive: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spares: 2,
            writes_in_flight: 2,
            batch_bytes_max: BATCH_BYTES_MAX,
            buffer_bytes_max: 16 << 20,
            log_id: [0; 16],
            start_on_damage: false,
            start_on_gaps: false,
            log_bytes_max: 0,
            archive: false,
        }
    }
}

impl Options {
    /// The largest group of records that can be appended, with [`RECORD_HEADER_BYTES`] for each: it
    /// must fit one batch, and a batch one segment.
    ///
    /// [`RECORD_HEADER_BYTES`]: crate::limits::RECORD_HEADER_BYTES
    #[must_use]
    pub fn group_bytes_max(&self) -> usize {
        let summary = format::summary_bytes(self.segment_bytes);
        let reserved = FIRST_BATCH_OFFSET + MARK_RESERVE_BYTES + summary;
        let room = usize::try_from(self.segment_bytes.saturating_sub(reserved));
        self.batch_bytes_max.min(room.unwrap_or(usize::MAX)).saturating_sub(BATCH_HEADER_BYTES)
    }

    /// The first option that makes no sense, in words.
    pub(crate) fn flaw(&self) -> Option<String> {
        let segment = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if !segment.contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
        {
            return Some(format!(
                "segment_bytes is {}; it must be a multiple of {BLOCK_BYTES} from {} to {}",
                self.segment_bytes,
                segment.start(),
                segment.end()
            ));
        }
        if !(1..=SPARES_MAX).contains(&self.spares) {
            return Some(format!("spares is {}; it must be 1 to {SPARES_MAX}", self.spares));
        }
        if !(1..=WRITES_IN_FLIGHT_MAX).contains(&self.writes_in_flight) {
            return Some(format!(
                "writes_in_flight is {}; it must be 1 to {WRITES_IN_FLIGHT_MAX}",
                self.writes_in_flight
            ));
        }
        let batch = 2 * BLOCK_BYTES..=BATCH_BYTES_MAX;
        if !batch.contains(&self.batch_bytes_max)
            || !self.batch_bytes_max.is_multiple_of(BLOCK_BYTES)
        {
            return Some(format!(
                "batch_bytes_max is {}; it must be a multiple of {BLOCK_BYTES} from {} to {}",
                self.batch_bytes_max,
                batch.start(),
                batch.end()
            ));
        }
        if self.buffer_bytes_max < self.batch_bytes_max {
            return Some(format!(
                "buffer_bytes_max is {}; it must be at least one batch, {}",
                self.buffer_bytes_max, self.batch_bytes_max
            ));
        }
        let fewest = BUDGET_SEGMENTS_MIN * self.segment_bytes;
        if self.log_bytes_max != 0 && self.log_bytes_max < fewest {
            return Some(format!(
                "log_bytes_max is {}; it must be 0 or at least {BUDGET_SEGMENTS_MIN} segments, {fewest}",
                self.log_bytes_max
            ));
        }
        None
    }
}

/// Counters of a log since it was opened, and its present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records appended.
    pub records: u64,
    /// Payload bytes appended.
    pub payload_bytes: u64,
    /// Batches submitted, marks included.
    pub batches: u64,
    /// Batches without records: marks of a trim or of the end.
    pub marks: u64,
    /// Bytes submitted, headers and padding included.
    pub written_bytes: u64,
    /// Bytes of padding among them.
    pub padding_bytes: u64,
    /// Bytes of the largest batch.
    pub batch_bytes_max: u64,
    /// Durable writes that came to their end.
    pub durable_writes: u64,
    /// Writes that were short and whose rest was submitted again.
    pub short_writes: u64,
    /// Writes that were submitted again after `WouldBlock` or `Interrupted`.
    pub resubmitted_writes: u64,
    /// Segments that hold records, the current one included.
    pub segments: u64,
    /// Segments prepared ahead.
    pub segments_ready: u64,
    /// Segments that were filled with zeros.
    pub segments_filled: u64,
    /// Segments that were trimmed and kept for reuse, archived or removed.
    pub segments_trimmed: u64,
    /// Segments among them that were archived.
    pub segments_archived: u64,
    /// Files kept to become segments.
    pub spares: u64,
    /// Summaries that were written.
    pub summaries: u64,
    /// Bytes appended that are not durable yet.
    pub backlog_bytes: u64,
}
