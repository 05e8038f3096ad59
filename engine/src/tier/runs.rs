//! Where the entries of one shard lie in the log of its core, by runs.
//!
//! A run is a stretch of consecutive entries of one term in the order of the log. A new one begins when the
//! term or the segment changes, when the shard's own bytes in it exceed [`RUN_BYTES_MAX`], or when it would
//! reach over more than [`RUN_SPAN_BYTES_MAX`] of the log. So the index grows with bytes, not with entries,
//! and to find one entry means reading a bounded part of the log.
//!
//! ```text
//! log      | 4 5 |   other shards   | 6 7 | 8' 9' | 8 9 |      8', 9': term 1; 8, 9: term 2
//! runs     [4..7 term 1, from the batch of 4]         [8..9 term 2, from the batch of 8]
//! ```
//! The live entries of a run become fewer when the log is truncated or compacted, or when they are written
//! again elsewhere. What they count for in bytes then is their share by number: exact for entries of one
//! size, and independent of the order in which they went.
//!
//! Most shards have few runs, and a core has thousands of shards. So up to [`RUNS_FEW_MAX`] of them lie in one vector,
//! which is searched from end to end; more of them in trees.
//!
//! Order by index is order in the log, but for entries that were written again. During recovery there may
//! be holes: entries whose first writing was trimmed and whose second comes later.

use std::collections::{BTreeMap, BTreeSet};

use coracle_wal::Lsn;

use super::place::{Place, Stretch};
use crate::limits::{RUN_BYTES_MAX, RUN_SPAN_BYTES_MAX, RUNS_FEW_MAX};
use crate::{LogIndex, Term};

/// Consecutive entries of one shard and one term, and where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First live entry.
    pub first: LogIndex,
    /// Last live entry.
    pub last: LogIndex,
    /// Term of all of them.
    pub term: Term,
    /// Reading starts at this batch.
    pub batch: Lsn,
    /// The byte behind the last record.
    pub end: Lsn,
    /// Entries written, live or not.
    pub(super) written: u64,
    /// Bytes of their records, without what batches add.
    pub(super) bytes: u64,
}

impl Run {
    /// Entries from `first` to `last`, as they were written at `place`: `bytes` of records.
    #[must_use]
    pub fn new(first: LogIndex, last: LogIndex, term: Term, place: Place, bytes: u64) -> Self {
        assert!(first.0 > 0 && first <= last, "a run has entries: {first} to {last}");
        let Place { batch, end } = place;
        Self { first, last, term, batch, end, written: last.0 - first.0 + 1, bytes }
    }

    /// How many live entries it has.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Bytes of records that its live entries count for.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let share = u128::from(self.bytes) * u128::from(self.entries()) / u128::from(self.written);
        u64::try_from(share).expect("no more than its bytes")
    }

    /// Whether `next`, written behind this run in the same stretch, goes on with it.
    pub(super) fn takes(&self, next: &Self) -> bool {
        next.first == self.last.next()
            && next.term == self.term
            && self.bytes < RUN_BYTES_MAX
            && next.end.0 - self.batch.0 <= RUN_SPAN_BYTES_MAX
    }

    /// Takes in what [`Run::takes`] has allowed.
    pub(super) fn extend(&mut self, next: &Self) {
        self.last = next.last;
        self.end = next.end;
        self.written += next.written;
        self.bytes += next.bytes;
    }
}

/// The run that the next entry may go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    stretch: Stretch,
    kept: bool,
    first: LogIndex,
}

/// Many runs.
#[derive(Clone, Debug, Default)]
struct Trees {
    /// By first index; they do not overlap.
    runs: BTreeMap<LogIndex, Run>,
    /// The same by position: batch and first index.
    places: BTreeSet<(Lsn, LogIndex)>,
}

/// Where the entries of one shard lie.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// Few runs, by first index; they do not overlap. None while there are trees.
    few: Vec<Run>,
    many: Option<Box<Trees>>,
    open: Option<Open>,
}

/// In whichever form the runs are kept.
impl PartialEq for Runs {
    fn eq(&self, other: &Self) -> bool {
        self.open == other.open && self.iter().eq(other.iter())
    }
}

impl Eq for Runs {}

impl Trees {
    fn insert(&mut self, run: Run) {
        self.places.insert((run.batch, run.first));
        let before = self.runs.insert(run.first, run);
        assert!(before.is_none(), "runs do not overlap: {run:?} and {before:?}");
    }
}

impl Runs {
    /// Takes entries that were appended. They replace what is at or above their first index. With a
    /// stretch, they may go on with the run before; without, they are a run of their own.
    pub fn append(&mut self, run: Run, stretch: Option<Stretch>) {
        if self.last().is_some_and(|last| last >= run.first) {
            self.truncate_from(run.first);
        }
        self.place(run, stretch, false);
    }

    /// Takes entries that were written again: they lie here from now on, and nothing else changes.
    pub fn relocate(&mut self, run: Run, stretch: Option<Stretch>) {
        self.cut(run.first, run.last);
        self.place(run, stretch, true);
    }

    /// Removes everything from `index` on.
    pub fn truncate_from(&mut self, index: LogIndex) {
        self.cut(index, LogIndex(u64::MAX));
    }

    /// Removes everything up to and including `index`.
    pub fn compact_to(&mut self, index: LogIndex) {
        self.cut(LogIndex(0), index);
        self.open = None;
    }

    /// Removes everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// No entry goes on with a run that is there.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    fn place(&mut self, run: Run, stretch: Option<Stretch>, kept: bool) {
        if let (Some(open), Some(stretch)) = (self.open, stretch)
            && (open.stretch, open.kept) == (stretch, kept)
            && let Some(before) = self.get_mut(open.first)
            && before.takes(&run)
        {
            before.extend(&run);
            return;
        }
        self.insert(run);
        self.open = stretch.map(|stretch| Open { stretch, kept, first: run.first });
    }

    fn insert(&mut self, run: Run) {
        if self.many.is_none() && self.few.len() >= RUNS_FEW_MAX {
            let mut trees = Trees::default();
            std::mem::take(&mut self.few).into_iter().for_each(|run| trees.insert(run));
            self.many = Some(Box::new(trees));
        }
        match &mut self.many {
            Some(trees) => trees.insert(run),
            None => match self.few.binary_search_by_key(&run.first, |run| run.first) {
                Ok(at) => panic!("runs do not overlap: {run:?} and {:?}", self.few[at]),
                Err(at) => {
                    self.few.reserve_exact(1);
                    self.few.insert(at, run);
                }
            },
        }
    }

    fn remove(&mut self, run: &Run) {
        match &mut self.many {
            Some(trees) => {
                trees.runs.remove(&run.first);
                trees.places.remove(&(run.batch, run.first));
                if trees.runs.len() <= RUNS_FEW_MAX / 2 {
                    self.few = std::mem::take(&mut trees.runs).into_values().collect();
                    self.many = None;
                }
            }
            None => self.few.retain(|other| other.first != run.first),
        }
    }

    fn get_mut(&mut self, first: LogIndex) -> Option<&mut Run> {
        match &mut self.many {
            Some(trees) => trees.runs.get_mut(&first),
            None => self.few.iter_mut().find(|run| run.first == first),
        }
    }

    /// Those that begin at or below `last`, by index.
    fn up_to(&self, last: LogIndex) -> impl DoubleEndedIterator<Item = &Run> {
        let few = &self.few[..self.few.partition_point(|run| run.first <= last)];
        let many = self.many.iter().flat_map(move |trees| trees.runs.range(..=last));
        few.iter().chain(many.map(|(_, run)| run))
    }

    fn last_up_to(&self, last: LogIndex) -> Option<Run> {
        self.up_to(last).next_back().copied()
    }

    /// Removes the entries from `first` to `last`. What is left of a run at either side stays, as a run
    /// that is not gone on with.
    fn cut(&mut self, first: LogIndex, last: LogIndex) {
        while let Some(run) = self.last_up_to(last)
            && run.last >= first
        {
            self.remove(&run);
            if self.open.is_some_and(|open| open.first == run.first) {
                self.open = None;
            }
            if run.last > last {
                self.insert(Run { first: last.next(), ..run });
            }
            if run.first < first {
                self.insert(Run { last: first.prev(), ..run });
            }
        }
    }

    /// The run that holds `index`. Its entry is in the log between the run's `batch` and `end`.
    #[must_use]
    pub fn locate(&self, index: LogIndex) -> Option<Run> {
        self.last_up_to(index).filter(|run| run.last >= index)
    }

    /// The term of the entry at `index`.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.locate(index).map(|run| run.term)
    }

    /// The first entry.
    #[must_use]
    pub fn first(&self) -> Option<LogIndex> {
        self.iter().next().map(|run| run.first)
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<LogIndex> {
        self.iter().next_back().map(|run| run.last)
    }

    /// The lowest batch that is still needed.
    #[must_use]
    pub fn oldest(&self) -> Option<Lsn> {
        match &self.many {
            Some(trees) => trees.places.first().map(|(batch, _)| *batch),
            None => self.few.iter().map(|run| run.batch).min(),
        }
    }

    /// All runs, by index.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Run> {
        let many = self.many.iter().flat_map(|trees| trees.runs.values());
        self.few.iter().chain(many)
    }

    /// How many runs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.many.as_ref().map_or(self.few.len(), |trees| trees.runs.len())
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs that have entries from `first` to `last`, from the last one down.
    pub fn overlapping(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Run> {
        let below = self.up_to(last).rev();
        below.take_while(move |run| run.last >= first)
    }

    /// The runs that begin in a part of the log, from `start` up to but not at `end`, by position.
    pub fn between(&self, start: Lsn, end: Lsn) -> impl Iterator<Item = &Run> {
        let from = (start, LogIndex(0));
        let to = (end.max(start), LogIndex(0));
        let within = |run: &&Run| start <= run.batch && run.batch < end;
        let mut few: Vec<&Run> = self.few.iter().filter(within).collect();
        few.sort_unstable_by_key(|run| (run.batch, run.first));
        let many = self.many.iter().flat_map(move |trees| {
            let places = trees.places.range(from..to);
            places.filter_map(|(_, first)| trees.runs.get(first))
        });
        few.into_iter().chain(many)
    }

    /// Bytes of the live entries in a part of the log; see [`Runs::between`].
    #[must_use]
    pub fn live_bytes(&self, start: Lsn, end: Lsn) -> u64 {
        self.between(start, end).map(Run::live_bytes).sum()
    }

    /// The first hole above `base`, as the entry before it and the one behind it.
    #[must_use]
    pub fn hole(&self, base: LogIndex) -> Option<(LogIndex, LogIndex)> {
        let mut after = base;
        for run in self.iter() {
            if run.first > after.next() {
                return Some((after, run.first));
            }
            after = after.max(run.last);
        }
        None
    }

    /// The first index of each term, in order.
    #[must_use]
    pub fn terms(&self) -> Vec<(LogIndex, Term)> {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for run in self.iter() {
            if terms.last().is_none_or(|(_, term)| *term != run.term) {
                terms.push((run.first, run.term));
            }
        }
        terms
    }
}

#[cfg(test)]
mod tests;
