//! A replica's log as Raft sees it: entries, and the named cursors that move over them.
//!
//! ```text
//!   base < first .. committed .. last        base <= committed <= last
//!                 .. durable .. last         base <= durable   <= last
//! ```
//! `committed` may be ahead of `durable`: a majority of others can have an entry on disk before this
//! replica does.
//!
//! All entries are in memory for now. Callers ask by index and get "not there" for what is not, so
//! that older entries can move to disk without a change of interface.

use std::collections::VecDeque;

use super::config::StartError;
use super::message::Entry;
use crate::{LogIndex, Term};

/// The log of one replica.
#[derive(Clone, Debug)]
pub struct RaftLog {
    /// Position before the first entry; (0, 0) for a log from the beginning.
    base: (LogIndex, Term),
    entries: VecDeque<Entry>,
    durable: LogIndex,
    committed: LogIndex,
    /// How often entries were overwritten.
    rewrites: u64,
    /// The lowest index that ever was; see [`RaftLog::mark_durable`].
    rewritten_from: LogIndex,
}

impl RaftLog {
    /// The log as recovered from disk: `entries` follow `(base_term, base_index)` and all of them are
    /// durable. A new log is `restore(LogIndex(0), Term(0), vec![])`.
    ///
    /// # Errors
    /// [`StartError::LogBroken`] when an entry does not follow the one before.
    pub fn restore(
        base_index: LogIndex,
        base_term: Term,
        entries: Vec<Entry>,
    ) -> Result<Self, StartError> {
        let (mut after, mut after_term) = (base_index, base_term);
        for entry in &entries {
            if entry.index != after.next() || entry.term < after_term {
                return Err(StartError::LogBroken {
                    after,
                    after_term,
                    found: entry.index,
                    found_term: entry.term,
                });
            }
            (after, after_term) = (entry.index, entry.term);
        }
        Ok(Self {
            base: (base_index, base_term),
            entries: entries.into(),
            durable: after,
            committed: base_index,
            rewrites: 0,
            rewritten_from: LogIndex(u64::MAX),
        })
    }

    /// A log without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            base: (LogIndex(0), Term(0)),
            entries: VecDeque::new(),
            durable: LogIndex(0),
            committed: LogIndex(0),
            rewrites: 0,
            rewritten_from: LogIndex(u64::MAX),
        }
    }

    /// Position before the first entry.
    #[must_use]
    pub fn base_index(&self) -> LogIndex {
        self.base.0
    }

    /// Index of the last entry; the base when there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.base.0.0 + self.entries.len() as u64)
    }

    /// Term of the last entry; that of the base when there is none.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base.1, |entry| entry.term)
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

    /// The entry at `index`, if there is one.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.entries.get(self.offset(index)?)
    }

    /// The term at `index`: that of the entry, or of the base.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// Entries from `first` to `last`, both included, as far as they exist.
    pub fn range(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Entry> {
        let first = first.max(self.base.0.next());
        let end = (last.min(self.last_index()).0 - self.base.0.0) as usize;
        let start = ((first.0 - self.base.0.0 - 1) as usize).min(end);
        self.entries.range(start..end)
    }

    /// Copies entries from `first` on into a vector: as many as `cost_max` allows by
    /// [`Entry::cost`], but at least one if there is one. Also gives their cost.
    pub(super) fn batch(&self, first: LogIndex, cost_max: usize) -> (Vec<Entry>, usize) {
        let mut cost = 0;
        let mut count = 0;
        for entry in self.range(first, self.last_index()) {
            if count > 0 && cost + entry.cost() > cost_max {
                sometimes!(append_batch_cut);
                break;
            }
            cost += entry.cost();
            count += 1;
        }
        if count == 0 {
            return (Vec::new(), 0);
        }
        (self.range(first, LogIndex(first.0 + count - 1)).cloned().collect(), cost)
    }

    /// The last position at or below `index` whose term is at most `term`: where a log that has
    /// `term` at `index` can agree with this one at best.
    pub(super) fn last_at_most(&self, index: LogIndex, term: Term) -> (LogIndex, Term) {
        let index = index.min(self.last_index());
        if index <= self.base.0 {
            return self.base;
        }
        if let Some(own) = self.term_at(index)
            && own <= term
        {
            return (index, own);
        }
        // Terms never decrease along the log, so the place can be found by halving; it lies below
        // `index`, whose term is too high.
        let place = self.entries.partition_point(|entry| entry.term <= term);
        match place.checked_sub(1).and_then(|last| self.entries.get(last)) {
            Some(entry) => (entry.index, entry.term),
            None => self.base,
        }
    }

    /// Appends one entry at the end.
    pub(super) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "entries are appended in order");
        assert!(entry.term >= self.last_term(), "terms never decrease along the log");
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
        let keep = (index.0 - self.base.0.0 - 1) as usize;
        if keep >= self.entries.len() {
            return;
        }
        self.entries.truncate(keep);
        self.durable = self.durable.min(index.prev());
        self.rewrites += 1;
        self.rewritten_from = self.rewritten_from.min(index);
        self.check();
    }

    /// Notes that what was handed out up to `index` is durable; `rewrites` is what
    /// [`RaftLog::rewrites`] said at that time.
    ///
    /// What was handed out before the last overwriting counts only below the lowest index ever
    /// overwritten: (1, 5), overwritten by (2, 5), overwritten by (1, 5) again, must not count as
    /// durable because the first of the three writes is. What lies between is made up for by the
    /// report of the overwriting itself.
    pub(super) fn mark_durable(&mut self, index: LogIndex, rewrites: u64) {
        sometimes!(durable_beyond_log, index > self.last_index());
        let mut index = index.min(self.last_index());
        if rewrites < self.rewrites && cfg!(not(mutant = "flush-races-truncate")) {
            sometimes!(stale_durable_ignored, index >= self.rewritten_from);
            index = index.min(self.rewritten_from.prev());
        }
        self.durable = self.durable.max(index);
        self.check();
    }

    /// Moves the commit cursor forward.
    pub(super) fn commit_to(&mut self, index: LogIndex) {
        self.committed = self.committed.max(index);
        self.check();
    }

    fn offset(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.0.0 + 1)?).ok()
    }

    fn check(&self) {
        let (base, last) = (self.base.0, self.last_index());
        assert!(base <= self.durable && self.durable <= last, "durable <= last: {self:?}");
        assert!(base <= self.committed && self.committed <= last, "committed <= last: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::raft::EntryKind;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::Normal,
            payload: Bytes::from_static(b"0123456789"),
        }
    }

    fn log(terms: &[u64]) -> RaftLog {
        let entries = terms.iter().zip(1..).map(|(term, index)| entry(*term, index)).collect();
        RaftLog::restore(LogIndex(0), Term(0), entries).unwrap()
    }

    #[test]
    fn a_broken_log_is_refused() {
        for entries in
            [vec![entry(1, 2)], vec![entry(1, 1), entry(1, 3)], vec![entry(2, 1), entry(1, 2)]]
        {
            let found = RaftLog::restore(LogIndex(0), Term(0), entries);
            assert!(matches!(found, Err(StartError::LogBroken { .. })), "{found:?}");
        }
    }

    #[test]
    fn last_at_most_agrees_with_a_scan() {
        let log = log(&[1, 1, 2, 2, 2, 5, 5, 9]);
        for index in 0..12 {
            for term in 0..11 {
                let scan = (0..=index.min(8))
                    .rev()
                    .map(|i| (LogIndex(i), log.term_at(LogIndex(i)).unwrap()))
                    .find(|(_, own)| *own <= Term(term))
                    .unwrap();
                assert_eq!(log.last_at_most(LogIndex(index), Term(term)), scan, "{index} {term}");
            }
        }
    }

    #[test]
    fn a_batch_has_at_least_one_entry_and_keeps_to_its_cost() {
        let log = log(&[1; 10]);
        let cost = entry(1, 1).cost();
        assert_eq!(log.batch(LogIndex(3), 0).0.len(), 1);
        let (entries, total) = log.batch(LogIndex(3), 3 * cost);
        assert_eq!((entries.len(), total, entries[0].index), (3, 3 * cost, LogIndex(3)));
        assert_eq!(log.batch(LogIndex(9), usize::MAX).0.len(), 2);
        assert_eq!(log.batch(LogIndex(11), usize::MAX), (Vec::new(), 0));
    }

    #[test]
    fn ranges_stop_at_the_ends() {
        let log = log(&[1, 1, 1]);
        let indexes =
            |a, b| log.range(LogIndex(a), LogIndex(b)).map(|e| e.index.0).collect::<Vec<_>>();
        assert_eq!(indexes(0, 9), [1, 2, 3]);
        assert_eq!(indexes(2, 2), [2]);
        assert_eq!(indexes(4, 9), [0; 0]);
        assert_eq!(indexes(3, 2), [0; 0]);
    }

    /// The write of (1, 2) was overtaken by two overwritings and its report comes late: it says
    /// nothing about the entry that now sits there with the same term.
    #[test]
    fn a_stale_report_of_durability_does_not_count_after_two_overwritings() {
        let mut log = log(&[1]);
        log.append(entry(1, 2));
        log.truncate_from(LogIndex(2));
        log.append(entry(2, 2));
        log.truncate_from(LogIndex(2));
        log.append(entry(1, 2));
        log.mark_durable(LogIndex(2), 0);
        assert_eq!(log.durable(), LogIndex(1));
        log.mark_durable(LogIndex(2), 1);
        assert_eq!(log.durable(), LogIndex(1));
        log.mark_durable(LogIndex(2), 2);
        assert_eq!(log.durable(), LogIndex(2));
    }

    #[test]
    fn what_lies_below_an_overwriting_still_counts() {
        let mut log = log(&[1]);
        for index in 2..=5 {
            log.append(entry(1, index));
        }
        log.truncate_from(LogIndex(4));
        log.append(entry(2, 4));
        log.mark_durable(LogIndex(5), 0);
        assert_eq!(log.durable(), LogIndex(3));
    }

    #[test]
    #[should_panic(expected = "committed entries are never removed")]
    fn committed_entries_stay() {
        let mut log = log(&[1, 1]);
        log.commit_to(LogIndex(2));
        log.truncate_from(LogIndex(2));
    }
}
