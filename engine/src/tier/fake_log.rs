//! A core's log for tests: records in batches and segments, at positions like those of the real one.

use bytes::Bytes;
use coracle_wal::limits::{BLOCK_BYTES, RECORD_HEADER_BYTES};
use coracle_wal::{Lsn, Record, RecordView};

use super::place::Place;
use super::records::{
    base_head, base_record, entry_head, entry_record, hard_state_head, hard_state_record,
    kept_record,
};
use super::{Appended, Recovery};
use crate::raft::{Base, Entry, EntryKind, HardState};
use crate::{LogIndex, NodeId, ShardId, Term};

const BLOCK: u64 = BLOCK_BYTES as u64;
const BATCH_HEADER_BYTES: u64 = 72;

/// A record to append.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Entry(Entry),
    Kept(Entry),
    HardState(HardState),
    Base(Base),
}

/// A record in the log.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) shard: ShardId,
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
    pub(super) place: Place,
}

/// A segment with records from `start` to `end`.
#[derive(Clone, Debug)]
pub(super) struct FakeSegment {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) records: Vec<Stored>,
    pub(super) summary: Option<Vec<u8>>,
}

/// The log.
#[derive(Clone, Debug)]
pub(super) struct FakeLog {
    /// Oldest first; the last one is the current one.
    pub(super) segments: Vec<FakeSegment>,
    batch: u64,
    end: u64,
}

impl FakeLog {
    pub(super) fn new() -> Self {
        let mut log = Self { segments: Vec::new(), batch: 0, end: 0 };
        log.enter(BLOCK);
        log
    }

    fn enter(&mut self, at: u64) {
        (self.batch, self.end) = (at, at + BATCH_HEADER_BYTES);
        let (start, records) = (Lsn(at), Vec::new());
        self.segments.push(FakeSegment { start, end: start, records, summary: None });
    }

    /// Bytes of the current segment that are taken.
    pub(super) fn current_bytes(&self) -> u64 {
        self.segments.last().map_or(0, |segment| self.end - segment.start.0)
    }

    /// Ends the batch; the next group begins a new one.
    pub(super) fn end_batch(&mut self) {
        if self.end > self.batch + BATCH_HEADER_BYTES {
            self.batch = self.end.next_multiple_of(BLOCK);
            self.end = self.batch + BATCH_HEADER_BYTES;
        }
    }

    /// Ends the segment, if it has records: the room of a mark and the next header follow.
    pub(super) fn seal(&mut self) -> bool {
        self.end_batch();
        let has_records = self.segments.last().is_some_and(|segment| !segment.records.is_empty());
        if has_records {
            self.enter(self.batch + 2 * BLOCK);
        }
        has_records
    }

    /// Appends a group and says where it is, and what the index is to be told.
    pub(super) fn append(&mut self, shard: ShardId, group: &[Given]) -> (Vec<Appended>, Place) {
        let mut appended = Vec::new();
        for given in group {
            let entry_of = |entry: &Entry, kept| Appended::Entry {
                index: entry.index,
                term: entry.term,
                payload_bytes: entry.payload.len(),
                kept,
                reconfigures: entry.kind == EntryKind::Reconfiguration,
            };
            match given {
                Given::Entry(entry) => {
                    appended.push(entry_of(entry, false));
                    self.push(&entry_record(shard, &entry_head(entry), entry));
                }
                Given::Kept(entry) => {
                    appended.push(entry_of(entry, true));
                    self.push(&kept_record(shard, &entry_head(entry), &entry.payload));
                }
                Given::HardState(state) => {
                    appended.push(Appended::HardState(*state));
                    self.push(&hard_state_record(shard, &hard_state_head(state)));
                }
                Given::Base(base) => {
                    appended.push(Appended::Base(*base));
                    self.push(&base_record(shard, &base_head(base)));
                }
            }
        }
        (appended, Place { batch: Lsn(self.batch), end: Lsn(self.end) })
    }

    fn push(&mut self, record: &Record<'_>) {
        let payload = [record.head, record.body].concat();
        self.end += (RECORD_HEADER_BYTES + payload.len()) as u64;
        let place = Place { batch: Lsn(self.batch), end: Lsn(self.end) };
        let (shard, kind) = (ShardId(record.stream), record.kind);
        if let Some(segment) = self.segments.last_mut() {
            segment.end = place.end;
            segment.records.push(Stored { shard, kind, payload, place });
        }
    }

    /// Gives up the segments whose records all lie before `before`.
    pub(super) fn trim(&mut self, before: Lsn) {
        let current = self.segments.len() - 1;
        let dead = self.segments[..current].iter().take_while(|segment| segment.end <= before);
        let count = dead.count();
        self.segments.drain(..count);
    }

    /// What a restart finds, by summaries where `by_summary` says so.
    pub(super) fn recover(
        &self,
        memory_budget: u64,
        by_summary: impl Fn(&FakeSegment) -> bool,
    ) -> Recovery {
        let mut recovery = Recovery::new(memory_budget);
        for segment in &self.segments {
            if let Some(summary) = &segment.summary
                && by_summary(segment)
            {
                assert!(
                    recovery.summary(segment.start, segment.end, summary),
                    "it is of this version"
                );
                continue;
            }
            for stored in &segment.records {
                recovery.record(&stored.view(), stored.place.batch);
            }
        }
        recovery
    }
}

impl Stored {
    pub(super) fn view(&self) -> RecordView<'_> {
        let Self { shard, kind, payload, place } = self;
        RecordView { stream: shard.0, kind: *kind, payload, lsn: place.end, batch: place.batch }
    }
}

/// An entry whose payload tells which one it is.
pub(super) fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let mut payload = format!("{index}/{term}").into_bytes();
    payload.resize(bytes.max(payload.len()), b'.');
    let (index, term, kind) = (LogIndex(index), Term(term), EntryKind::Normal);
    Entry { index, term, kind, payload: Bytes::from(payload) }
}

/// A hard state.
pub(super) fn hard_state(term: u64, vote: Option<u64>, commit: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: vote.map(NodeId),
        commit: LogIndex(commit),
        ..HardState::default()
    }
}
