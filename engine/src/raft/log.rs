//! A replica's log as Raft sees it: where each term begins, the newest entries, and the named cursors
//! that move over them.
//!
//! ```text
//!   index      base | base+1 ........ | first in memory ........ last
//!   term       known| known, by runs  | known
//!   payload    gone | on disk only    | here
//!
//!   base <= committed <= last          base <= durable <= last
//!   first in memory <= durable + 1, or base + 1
//! ```
//! `committed` may be ahead of `durable`: a majority of others can have an entry on disk before this
//! replica does.
//!
//! What lies at or below the base is part of a snapshot and was *compacted* away. What lies between the
//! base and the first entry in memory was *evicted*: it is durable, and its owner reads it from disk when
//! somebody needs it. Terms never decrease along the log, so that the first index of each term, a *run*,
//! says the term of every entry in a few words, however long the log is. All questions about terms are
//! answered from the runs; callers ask for entries by index and get "not there" for what is not in memory.
//!
//! Entries that were never durable can't be evicted. So whatever is cut from the end and has not reached
//! the disk is in memory, but a cut may go below the first entry in memory: then none is left there.

use std::collections::VecDeque;

use super::config::StartError;
use super::configurations::Configurations;
use super::membership::Configuration;
use super::message::Entry;
use crate::{LogIndex, Term};

/// The log of one replica.
#[derive(Clone, Debug)]
pub struct RaftLog {
    /// Position before the first entry; (0, 0) for a log from the beginning.
    base: (LogIndex, Term),
    /// First index and term of each run of entries of one term, above the base.
    terms: VecDeque<(LogIndex, Term)>,
    last: LogIndex,
    /// The newest entries, up to `last`.
    entries: VecDeque<Entry>,
    /// [`Entry::cost`] of all entries in memory.
    memory: usize,
    /// Where each configuration begins.
    configurations: Configurations,
    durable: LogIndex,
    committed: LogIndex,
    /// How often entries were overwritten.
    rewrites: u64,
    /// The lowest index that ever was; see [`RaftLog::mark_durable`].
    rewritten_from: LogIndex,
    /// What `rewrites` came to when the log was last replaced by a snapshot, if that is not known to be
    /// durable yet.
    reset: Option<u64>,
}

impl RaftLog {
    /// The log as recovered from disk, all of it durable: it follows `(base_index, base_term)` and ends
    /// at `last`. `terms` has the first index of each term run above the base, `entries` the newest
    /// entries, up to `last`; it may be empty.
    ///
    /// # Errors
    /// [`StartError::TermsBroken`] when the runs can't be those of a log from the base to `last`,
    /// [`StartError::LogBroken`] when an entry does not follow the one before, or has another term than
    /// its run.
    pub fn restore(
        base_index: LogIndex,
        base_term: Term,
        terms: Vec<(LogIndex, Term)>,
        last: LogIndex,
        entries: Vec<Entry>,
    ) -> Result<Self, StartError> {
        let (mut after, mut after_term) = (base_index, base_term);
        for (place, &(index, term)) in terms.iter().enumerate() {
            let in_order = if place == 0 {
                index == base_index.next() && term >= base_term
            } else {
                index > after && term > after_term
            };
            if !in_order || index > last {
                return Err(StartError::TermsBroken { index, term, base: base_index, last });
            }
            (after, after_term) = (index, term);
        }
        if terms.is_empty() != (last == base_index) || last < base_index {
            let (index, term) = (base_index, base_term);
            return Err(StartError::TermsBroken { index, term, base: base_index, last });
        }
        let count = entries.len() as u64;
        let Some(before) = last.0.checked_sub(count).filter(|before| *before >= base_index.0)
        else {
            let (index, term) = (base_index, base_term);
            return Err(StartError::TermsBroken { index, term, base: base_index, last });
        };
        let mut log = Self {
            base: (base_index, base_term),
            terms: terms.into(),
            last,
            entries: VecDeque::new(),
            memory: entries.iter().map(Entry::cost).sum(),
            configurations: Configurations::default(),
            durable: last,
            committed: base_index,
            rewrites: 0,
            rewritten_from: LogIndex(u64::MAX),
            reset: None,
        };
        let mut after = LogIndex(before);
        for entry in &entries {
            if entry.index != after.next() || log.term_at(entry.index) != Some(entry.term) {
                return Err(StartError::LogBroken {
                    after,
                    after_term: log.term_at(after).unwrap_or_default(),
                    found: entry.index,
                    found_term: entry.term,
                });
            }
            after = entry.index;
        }
        entries.iter().for_each(|entry| log.configurations.append(entry));
        log.entries = entries.into();
        Ok(log)
    }

    /// The log with the configurations that were recovered with it: the one in force at `index`, from a
    /// snapshot, and all that later entries of the log say, also entries that are not in memory. In
    /// the order of the log.
    #[must_use]
    pub fn with_configurations(
        mut self,
        index: LogIndex,
        configuration: Configuration,
        later: Vec<(LogIndex, Configuration)>,
    ) -> Self {
        self.configurations = Configurations::restore(index, configuration, later);
        self
    }

    /// A log whose entries are all in memory: they follow `(base_index, base_term)`, and are durable.
    ///
    /// # Errors
    /// [`StartError::LogBroken`] when an entry does not follow the one before.
    pub fn in_memory(
        base_index: LogIndex,
        base_term: Term,
        entries: Vec<Entry>,
    ) -> Result<Self, StartError> {
        let (mut after, mut after_term) = (base_index, base_term);
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &entries {
            if entry.index != after.next() || entry.term < after_term {
                return Err(StartError::LogBroken {
                    after,
                    after_term,
                    found: entry.index,
                    found_term: entry.term,
                });
            }
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.index, entry.term));
            }
            (after, after_term) = (entry.index, entry.term);
        }
        Self::restore(base_index, base_term, terms, after, entries)
    }

    /// A log without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            base: (LogIndex(0), Term(0)),
            terms: VecDeque::new(),
            last: LogIndex(0),
            entries: VecDeque::new(),
            memory: 0,
            configurations: Configurations::default(),
            durable: LogIndex(0),
            committed: LogIndex(0),
            rewrites: 0,
            rewritten_from: LogIndex(u64::MAX),
            reset: None,
        }
    }

    /// Keeps what is the same as in `other` only once in memory.
    pub(super) fn share_with(&mut self, other: &Self) {
        self.configurations.share_with(&other.configurations);
    }

    /// Nothing is appended for a while: gives back the memory for that.
    pub(super) fn rest(&mut self) {
        self.terms.shrink_to_fit();
        self.entries.shrink_to_fit();
        self.configurations.rest();
    }

    /// Position before the first entry.
    #[must_use]
    pub fn base_index(&self) -> LogIndex {
        self.base.0
    }

    /// Term at the base.
    #[must_use]
    pub fn base_term(&self) -> Term {
        self.base.1
    }

    /// The first index of each term above the base, in order.
    pub fn terms(&self) -> impl Iterator<Item = (LogIndex, Term)> {
        self.terms.iter().copied()
    }

    /// Who belongs to the shard at the end of the log.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.configurations.current()
    }

    /// The entry that put [`RaftLog::configuration`] in force, or the base if that is older.
    #[must_use]
    pub fn configuration_index(&self) -> LogIndex {
        self.configurations.current_index()
    }

    /// Who belonged to the shard at `index`, which is not below the base. Nobody, on a replica that joins and whose
    /// log has not come to an entry that says it: what it is to say in a snapshot is not known then, and
    /// none may be taken.
    #[must_use]
    pub fn configuration_at(&self, index: LogIndex) -> &Configuration {
        self.configurations.at(index)
    }

    pub(super) fn configurations(&self) -> &Configurations {
        &self.configurations
    }

    /// What is in force from the beginning, if nothing else is known.
    pub(super) fn begin_with(&mut self, initial: Configuration) {
        if self.configurations.is_unknown() {
            self.configurations.begin_with(initial);
        }
    }

    /// Index of the last entry; the base when there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.last
    }

    /// Term of the last entry; that of the base when there is none.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.terms.back().map_or(self.base.1, |(_, term)| *term)
    }

    /// Index of the oldest entry in memory; one beyond the last when there is none.
    #[must_use]
    pub fn first_in_memory(&self) -> LogIndex {
        LogIndex(self.last.0 + 1 - self.entries.len() as u64)
    }

    /// [`Entry::cost`] of all entries in memory, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory
    }

    /// Everything up to here is durable on this replica.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Everything up to here is committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Whether there is no entry, and never was: also the base is at 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last == LogIndex(0)
    }

    /// The entry at `index`, if it is in memory.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.first_in_memory().0)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The term at `index`: that of the entry, in memory or not, or of the base.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        // Most questions are about the newest term.
        let (first, term) = *self.terms.back()?;
        if index >= first {
            return Some(term);
        }
        let place = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(place.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Entries from `first` to `last`, both included, as far as they are in memory.
    pub fn range(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Entry> {
        let here = self.first_in_memory();
        let end = (last.min(self.last).0 + 1).saturating_sub(here.0) as usize;
        let start = (first.max(here).0 - here.0).min(end as u64) as usize;
        self.entries.range(start..end)
    }

    /// Copies entries from `first` on, which is in memory, into a vector: as many as `cost_max` allows by
    /// [`Entry::cost`], but at least one if there is one. Also gives their cost.
    pub(super) fn batch(&self, first: LogIndex, cost_max: usize) -> (Vec<Entry>, usize) {
        let (count, cost) = fitting(self.range(first, self.last), cost_max);
        if count == 0 {
            return (Vec::new(), 0);
        }
        let last = LogIndex(first.0 + count as u64 - 1);
        (self.range(first, last).cloned().collect(), cost)
    }

    /// The last position at or below `index` whose term is at most `term`: where a log that has
    /// `term` at `index` can agree with this one at best. `None` if that lies below the base.
    pub(super) fn last_at_most(&self, index: LogIndex, term: Term) -> Option<(LogIndex, Term)> {
        let index = index.min(self.last);
        let own = self.term_at(index)?;
        if own <= term {
            return Some((index, own));
        }
        // Terms never decrease along the log; the place is the end of a run that lies below `index`,
        // whose term is too high.
        let place = self.terms.partition_point(|(_, other)| *other <= term);
        match (place.checked_sub(1), self.terms.get(place)) {
            (Some(run), Some((next, _))) => Some((next.prev(), self.terms[run].1)),
            _ => (self.base.1 <= term).then_some(self.base),
        }
    }

    /// Appends one entry at the end.
    pub(super) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.next(), "entries are appended in order");
        assert!(entry.term >= self.last_term(), "terms never decrease along the log");
        if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
            self.terms.push_back((entry.index, entry.term));
        }
        self.last = entry.index;
        self.memory += entry.cost();
        self.configurations.append(&entry);
        self.entries.push_back(entry);
    }

    /// How often entries were overwritten so far.
    #[must_use]
    pub fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// Removes everything from `index` on, to be overwritten.
    pub(super) fn truncate_from(&mut self, index: LogIndex) {
        assert!(index > self.committed, "committed entries are never removed");
        if index > self.last {
            return;
        }
        sometimes!(cold_entries_cut, index < self.first_in_memory());
        while self.last >= index {
            match self.entries.pop_back() {
                Some(entry) => {
                    self.memory -= entry.cost();
                    self.last = entry.index.prev();
                }
                None => self.last = index.prev(),
            }
        }
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
        self.configurations.truncate_from(index);
        self.durable = self.durable.min(index.prev());
        self.rewrites += 1;
        self.rewritten_from = self.rewritten_from.min(index);
        self.check();
    }

    /// Forgets the payloads of entries up to `index`, which its owner can read from disk.
    pub(super) fn evict_to(&mut self, index: LogIndex) {
        assert!(index <= self.durable, "evict {index}: only what is durable, {}", self.durable);
        while self.entries.front().is_some_and(|first| first.index <= index) {
            if let Some(entry) = self.entries.pop_front() {
                self.memory -= entry.cost();
            }
        }
    }

    /// Moves the base to `index`, which is committed and durable: what lies at or below it is gone.
    pub(super) fn compact_to(&mut self, index: LogIndex) {
        assert!(index <= self.committed, "compact {index}: committed up to {}", self.committed);
        let term = self.term_at(index).expect("the log reaches from base to committed");
        self.evict_to(index);
        self.configurations.compact_to(index);
        self.base = (index, term);
        while self.terms.get(1).is_some_and(|(second, _)| second.prev() <= index) {
            self.terms.pop_front();
        }
        match self.terms.front_mut() {
            Some(first) if self.last > index => first.0 = first.0.max(index.next()),
            _ => self.terms.clear(),
        }
        self.check();
    }

    /// Replaces everything by a snapshot at `(index, term)`, which is committed. What was handed out before
    /// says nothing about this log any more, and until what is handed out from here on is reported durable
    /// the log [is being replaced](Self::is_being_replaced).
    pub(super) fn reset_to(&mut self, index: LogIndex, term: Term) {
        assert!(index > self.committed, "reset to {index}, committed {}", self.committed);
        self.begin_anew(index, term);
    }

    /// What the snapshot says that the log was [replaced](Self::reset_to) by.
    pub(super) fn configure(&mut self, configuration: Configuration) {
        self.configurations.reset(self.base.0, configuration);
    }

    /// As [`reset_to`](Self::reset_to), also at a lower index: what was behind it can't be read any more.
    pub(super) fn begin_anew(&mut self, index: LogIndex, term: Term) {
        self.base = (index, term);
        self.terms.clear();
        self.entries.clear();
        self.memory = 0;
        self.configurations.begin_anew(index);
        (self.last, self.durable, self.committed) = (index, index, index);
        self.rewrites += 1;
        self.rewritten_from = self.rewritten_from.min(index.next());
        self.reset = Some(self.rewrites);
    }

    /// Whether the log was replaced by a snapshot, and that is not known to be durable.
    #[must_use]
    pub fn is_being_replaced(&self) -> bool {
        self.reset.is_some()
    }

    /// Notes that what was handed out up to `index` is durable; `rewrites` is what
    /// [`RaftLog::rewrites`] said at that time.
    ///
    /// What was handed out before the last overwriting counts only below the lowest index ever
    /// overwritten: (1, 5), overwritten by (2, 5), overwritten by (1, 5) again, must not count as
    /// durable because the first of the three writes is. What lies between is made up for by the
    /// report of the overwriting itself. A replacement by a snapshot overwrites all that follows it.
    pub(super) fn mark_durable(&mut self, index: LogIndex, rewrites: u64) {
        sometimes!(durable_beyond_log, index > self.last);
        let mut index = index.min(self.last);
        if rewrites < self.rewrites && cfg!(not(mutant = "flush-races-truncate")) {
            sometimes!(stale_durable_ignored, index >= self.rewritten_from);
            index = index.min(self.rewritten_from.prev());
        }
        self.reset = self.reset.filter(|reset| rewrites < *reset);
        self.durable = self.durable.max(index);
        self.check();
    }

    /// Moves the commit cursor forward.
    pub(super) fn commit_to(&mut self, index: LogIndex) {
        self.committed = self.committed.max(index);
        self.check();
    }

    fn check(&self) {
        let (base, last) = (self.base.0, self.last);
        assert!(base <= self.durable && self.durable <= last, "durable <= last: {self:?}");
        assert!(base <= self.committed && self.committed <= last, "committed <= last: {self:?}");
        assert!(self.first_in_memory() > base, "nothing in memory is compacted: {self:?}");
        assert_eq!(self.terms.is_empty(), base == last, "a run for every entry: {self:?}");
    }
}

/// How many of the first entries `cost_max` allows by [`Entry::cost`], at least one if there is one; and
/// their cost.
pub(super) fn fitting<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    cost_max: usize,
) -> (usize, usize) {
    let (mut count, mut cost) = (0, 0);
    for entry in entries {
        if count > 0 && cost + entry.cost() > cost_max {
            sometimes!(append_batch_cut);
            break;
        }
        cost += entry.cost();
        count += 1;
    }
    (count, cost)
}

#[cfg(test)]
mod tests;
