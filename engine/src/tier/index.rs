//! The index of a core's log: of every shard where its entries lie, where its log begins, and where its
//! newest hard state and base are written.
//!
//! It is told of every record in the order of the log: by the core when it has appended a group
//! ([`Index::appended`]), by recovery when it reads one ([`Index::record`]) or the summary of a
//! segment. All give the same index.

use std::collections::BTreeMap;

use coracle_wal::Lsn;
use coracle_wal::limits::RECORD_HEADER_BYTES;

use super::place::{Place, Stretch, Trail};
use super::records::ENTRY_HEAD_BYTES;
use super::runs::{Run, Runs};
use super::summary::{Item, Summaries};
use crate::raft::{Base, HardState};
use crate::{LogIndex, ShardId, Term};

/// What is left in the log of one shard, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// Its entries.
    pub runs: Runs,
    /// Position before its first entry; (0, 0) for a log from the beginning.
    base: (LogIndex, Term),
    base_at: Option<Lsn>,
    hard_state_at: Option<Lsn>,
}

impl ShardIndex {
    /// Position and term before the first entry.
    #[must_use]
    pub fn base(&self) -> (LogIndex, Term) {
        self.base
    }

    /// Batch of the newest record of the base, if there is one.
    #[must_use]
    pub fn base_at(&self) -> Option<Lsn> {
        self.base_at
    }

    /// Batch of the newest hard state, if there is one.
    #[must_use]
    pub fn hard_state_at(&self) -> Option<Lsn> {
        self.hard_state_at
    }

    /// The last entry; the base if there is none.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.runs.last().unwrap_or(self.base.0)
    }

    /// The term at `index`: that of the entry, or of the base.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 { Some(self.base.1) } else { self.runs.term_at(index) }
    }

    /// The lowest batch that is still needed, for an entry, the hard state or the base. Everything before
    /// the lowest one of all shards can be given up, once what was appended until now is durable.
    #[must_use]
    pub fn oldest(&self) -> Option<Lsn> {
        [self.runs.oldest(), self.base_at, self.hard_state_at].into_iter().flatten().min()
    }

    /// Whether an entry that was read from the log, to be written again, is still part of it.
    #[must_use]
    pub fn is_live(&self, index: LogIndex, term: Term) -> bool {
        self.runs.term_at(index) == Some(term)
    }

    /// Takes entries as they were appended, or written again. What lies at or below the base is ignored.
    pub(super) fn take_run(&mut self, run: Run, kept: bool, stretch: Option<Stretch>) {
        let above = self.base.0.next();
        if run.last < above {
            return;
        }
        let run = Run { first: run.first.max(above), ..run };
        if kept {
            self.runs.relocate(run, stretch);
        } else {
            self.runs.append(run, stretch);
        }
    }

    pub(super) fn take_hard_state(&mut self, at: Lsn) {
        self.hard_state_at = Some(at);
    }

    /// Takes a base. One below that which is known is ignored, unless it resets; the same is one that was
    /// written again.
    pub(super) fn take_base(&mut self, base: Base, at: Option<Lsn>) {
        if base.index < self.base.0 && !base.reset {
            return;
        }
        if base.reset {
            self.runs.reset();
        } else {
            self.runs.compact_to(base.index);
        }
        self.base = (base.index, base.term);
        self.base_at = at;
    }
}

/// A record as the index sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// An entry, new or written again.
    Entry {
        /// Its place.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Length of its payload.
        payload_bytes: usize,
        /// Written again.
        kept: bool,
        /// It says who belongs to the shard. The start that reads it needs what it says, which summaries do not
        /// have: a segment with such an entry has none, and is read.
        reconfigures: bool,
    },
    /// A hard state.
    HardState(HardState),
    /// A base.
    Base(Base),
}

impl Appended {
    /// Bytes of the record in its batch.
    fn record_bytes(&self) -> u64 {
        let payload = match self {
            Self::Entry { payload_bytes, .. } => ENTRY_HEAD_BYTES + payload_bytes,
            Self::HardState(state) => super::records::hard_state_head(state).len(),
            Self::Base(base) => super::records::base_head(base).len(),
        };
        (RECORD_HEADER_BYTES + payload) as u64
    }
}

/// The index of a core's log.
#[derive(Clone, Debug, Default)]
pub struct Index {
    trail: Trail,
    /// Bytes of the records of entries that were written again.
    kept_bytes: u64,
    shards: BTreeMap<ShardId, ShardIndex>,
    summaries: Summaries,
}

impl Index {
    /// What the log holds of a shard.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&ShardIndex> {
        self.shards.get(&shard)
    }

    /// All shards that the log holds anything of.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardIndex)> {
        self.shards.iter().map(|(id, shard)| (*id, shard))
    }

    /// The lowest batch that any shard needs; see [`ShardIndex::oldest`].
    #[must_use]
    pub fn oldest(&self) -> Option<Lsn> {
        self.shards.values().filter_map(ShardIndex::oldest).min()
    }

    /// Bytes of the records of entries that were written again and seen here. Grows.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Takes one group of records of one shard, as it was appended: `place` is that of the whole group.
    pub fn appended(&mut self, shard: ShardId, group: &[Appended], place: Place) {
        let bytes: u64 = group.iter().map(Appended::record_bytes).sum();
        let mut end = place.end.0 - bytes;
        for record in group {
            end += record.record_bytes();
            self.record(shard, record, Place { end: Lsn(end), ..place });
        }
    }

    /// Takes one record.
    pub fn record(&mut self, shard: ShardId, record: &Appended, place: Place) {
        let stretch = self.trail.step(place);
        let item = match *record {
            Appended::Entry { index, term, kept, .. } => {
                self.kept_bytes += if kept { record.record_bytes() } else { 0 };
                let run = Run::new(index, index, term, place, record.record_bytes());
                Item::Run { shard, run, kept }
            }
            Appended::HardState(state) => Item::HardState { shard, state, at: place.batch },
            Appended::Base(base) => Item::Base { shard, base, at: place.batch },
        };
        self.take(&item, Some(stretch));
        self.summaries.collect(stretch, item);
        if let Appended::Entry { reconfigures: true, .. } = record {
            self.summaries.spoil(stretch);
        }
    }

    /// Takes what a summary says.
    pub(super) fn item(&mut self, item: &Item) {
        self.take(item, None);
    }

    /// What comes next does not follow what was seen.
    pub(super) fn interrupt(&mut self) {
        self.trail.interrupt();
        self.shards.values_mut().for_each(|shard| shard.runs.close());
    }

    fn take(&mut self, item: &Item, stretch: Option<Stretch>) {
        let index = self.shards.entry(item.shard()).or_default();
        match *item {
            Item::Run { run, kept, .. } => index.take_run(run, kept, stretch),
            Item::HardState { at, .. } => index.take_hard_state(at),
            Item::Base { base, at, .. } => index.take_base(base, Some(at)),
        }
    }

    pub(super) fn shard_mut(&mut self, shard: ShardId) -> &mut ShardIndex {
        self.shards.entry(shard).or_default()
    }

    /// The summary of a sealed segment whose records lie from `start` to `end`, if all of them were seen
    /// and it takes at most `bytes_max`. What was collected up to `end` is forgotten.
    pub fn take_summary(&mut self, start: Lsn, end: Lsn, bytes_max: usize) -> Option<Vec<u8>> {
        self.summaries.take(start, end, bytes_max)
    }
}
