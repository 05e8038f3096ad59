//! The log by hand, and against a model that keeps everything.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

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
    RaftLog::in_memory(LogIndex(0), Term(0), entries).unwrap()
}

#[test]
fn a_broken_log_is_refused() {
    for entries in
        [vec![entry(1, 2)], vec![entry(1, 1), entry(1, 3)], vec![entry(2, 1), entry(1, 2)]]
    {
        let found = RaftLog::in_memory(LogIndex(0), Term(0), entries);
        assert!(matches!(found, Err(StartError::LogBroken { .. })), "{found:?}");
    }
}

#[test]
fn last_at_most_agrees_with_a_scan() {
    let entries = [5, 5, 6, 6, 6, 9, 9, 12].into_iter().zip(4..).map(|(t, i)| entry(t, i));
    let mut log = RaftLog::in_memory(LogIndex(3), Term(4), entries.collect()).unwrap();
    log.evict_to(LogIndex(7));
    for index in 0..15 {
        for term in 0..15 {
            let scan = (0..=index.min(11))
                .rev()
                .map_while(|i| Some((LogIndex(i), log.term_at(LogIndex(i))?)))
                .find(|(_, own)| *own <= Term(term));
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
    let indexes = |a, b| log.range(LogIndex(a), LogIndex(b)).map(|e| e.index.0).collect::<Vec<_>>();
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

/// All entries that ever were, and the positions beside them.
#[derive(Default)]
struct Model {
    /// Entry 1 first. Those at or below the base are still here.
    entries: Vec<Entry>,
    base: u64,
    /// What is at most in memory.
    memory: u64,
    committed: u64,
}

impl Model {
    fn term(&self, index: u64) -> Option<Term> {
        match index {
            0 => Some(Term(0)),
            n => self.entries.get(n as usize - 1).map(|entry| entry.term),
        }
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn agrees_with(&self, log: &RaftLog) {
        let last = self.last();
        assert_eq!((log.base_index().0, log.last_index().0), (self.base, last));
        assert_eq!(Some(log.base_term()), self.term(self.base));
        assert_eq!(Some(log.last_term()), self.term(last));
        assert_eq!(log.committed().0, self.committed);
        let first = self.memory.max(self.base + 1).min(last + 1);
        assert_eq!(log.first_in_memory().0, first);
        let here = &self.entries[first as usize - 1..];
        assert_eq!(log.memory_bytes(), here.iter().map(Entry::cost).sum());
        for index in 0..last + 3 {
            let term = self.term(index).filter(|_| index >= self.base);
            assert_eq!(log.term_at(LogIndex(index)), term, "term at {index}");
            let entry = here.iter().find(|entry| entry.index.0 == index);
            assert_eq!(log.entry(LogIndex(index)), entry);
            for length in 0..3 {
                let (a, b) = (LogIndex(index), LogIndex(index + length));
                let range = here.iter().filter(|entry| (a..=b).contains(&entry.index));
                assert!(log.range(a, b).eq(range), "{a} to {b}");
            }
        }
        let runs: Vec<_> = log.terms().collect();
        let begins = |i: &u64| *i == self.base + 1 || self.term(*i) != self.term(i - 1);
        let expected = (self.base + 1..=last).filter(begins);
        let expected: Vec<_> = expected.map(|i| (LogIndex(i), self.term(i).unwrap())).collect();
        assert_eq!(runs, expected);
        let again = RaftLog::restore(
            log.base_index(),
            log.base_term(),
            runs,
            log.last_index(),
            here.to_vec(),
        );
        assert_eq!(again.unwrap().memory_bytes(), log.memory_bytes());
    }
}

/// Numbers are taken modulo what is possible.
#[derive(Clone, Debug)]
enum Op {
    /// So many entries, in a term that is so much later.
    Append(u64, u64),
    /// Everything written is durable.
    Flush,
    Commit(u64),
    /// Cut from so many before the end, and one entry in the next term.
    Overwrite(u64),
    Evict(u64),
    Compact(u64),
    /// A snapshot so far beyond the end.
    Reset(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..5_u64, 0..2_u64).prop_map(|(count, later)| Op::Append(count, later)),
        3 => Just(Op::Flush),
        3 => any::<u64>().prop_map(Op::Commit),
        2 => (0..12_u64).prop_map(Op::Overwrite),
        3 => any::<u64>().prop_map(Op::Evict),
        2 => any::<u64>().prop_map(Op::Compact),
        1 => (1..4_u64).prop_map(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_agrees_with_one_that_keeps_everything(ops in vec(op(), 0..40)) {
        let (mut log, mut model) = (RaftLog::empty(), Model::default());
        let push = |log: &mut RaftLog, model: &mut Model, term| {
            let new = entry(term, model.last() + 1);
            log.append(new.clone());
            model.entries.push(new);
        };
        for op in ops {
            let last = model.last();
            match op {
                Op::Append(count, later) => {
                    let term = log.last_term().0.max(1) + later;
                    (0..count).for_each(|_| push(&mut log, &mut model, term));
                }
                Op::Flush => log.mark_durable(log.last_index(), log.rewrites()),
                Op::Commit(some) => {
                    model.committed += some % (last - model.committed + 1);
                    log.commit_to(LogIndex(model.committed));
                }
                Op::Overwrite(back) => {
                    let from = (last + 1).saturating_sub(back).max(model.committed + 1);
                    let term = log.last_term().0 + 1;
                    log.truncate_from(LogIndex(from));
                    model.entries.truncate(from as usize - 1);
                    push(&mut log, &mut model, term);
                    model.memory = model.memory.min(from);
                }
                Op::Evict(some) => {
                    let to = some % (log.durable().0 + 1);
                    log.evict_to(LogIndex(to));
                    model.memory = model.memory.max(to + 1);
                }
                Op::Compact(some) => {
                    let most = log.durable().min(log.committed()).0 - model.base;
                    model.base += some % (most + 1);
                    log.compact_to(LogIndex(model.base));
                }
                Op::Reset(beyond) => {
                    let (to, term) = (last + beyond, log.last_term().0 + 1);
                    (last..to).for_each(|index| model.entries.push(entry(term, index + 1)));
                    log.reset_to(LogIndex(to), Term(term));
                    prop_assert!(log.is_being_replaced());
                    (model.base, model.committed) = (to, to);
                }
            }
            model.agrees_with(&log);
        }
    }
}

#[test]
fn runs_that_can_t_be_are_refused() {
    let restore = |terms: &[(u64, u64)], last: u64, entries: Vec<Entry>| {
        let terms = terms.iter().map(|(index, term)| (LogIndex(*index), Term(*term))).collect();
        RaftLog::restore(LogIndex(4), Term(2), terms, LogIndex(last), entries)
    };
    assert!(restore(&[], 4, vec![]).is_ok());
    assert!(restore(&[(5, 2), (7, 4)], 9, vec![entry(4, 8), entry(4, 9)]).is_ok());
    let all = vec![entry(2, 5), entry(2, 6), entry(4, 7), entry(4, 8), entry(4, 9)];
    assert!(restore(&[(5, 2), (7, 4)], 9, all).is_ok());
    for (terms, last) in [
        (&[][..], 5),
        (&[], 3),
        (&[(5, 2)], 4),
        (&[(6, 2)], 9),
        (&[(5, 1)], 9),
        (&[(5, 2), (7, 2)], 9),
        (&[(5, 3), (5, 4)], 9),
        (&[(5, 3), (7, 2)], 9),
        (&[(5, 3), (10, 4)], 9),
    ] {
        let found = restore(terms, last, vec![]);
        assert!(matches!(found, Err(StartError::TermsBroken { .. })), "{terms:?}: {found:?}");
    }
    for entries in [vec![entry(4, 8)], vec![entry(2, 9)], vec![entry(4, 10)]] {
        let found = restore(&[(5, 2), (7, 4)], 9, entries);
        assert!(matches!(found, Err(StartError::LogBroken { .. })), "{found:?}");
    }
    let found = restore(&[(5, 2)], 5, vec![entry(2, 4), entry(2, 5)]);
    assert!(matches!(found, Err(StartError::TermsBroken { .. })), "{found:?}");
}

/// The report of what was written before a snapshot replaced the log says nothing about what is written
/// after it at the same places.
#[test]
fn a_report_from_before_a_replacement_does_not_count() {
    let mut log = log(&[1, 1, 1]);
    (4..=8).for_each(|index| log.append(entry(1, index)));
    log.reset_to(LogIndex(9), Term(2));
    (10..=12).for_each(|index| log.append(entry(2, index)));
    log.mark_durable(LogIndex(8), 0);
    assert!(log.is_being_replaced());
    assert_eq!(log.durable(), LogIndex(9));
    log.mark_durable(LogIndex(12), 0);
    assert_eq!((log.durable(), log.is_being_replaced()), (LogIndex(9), true));
    log.mark_durable(LogIndex(11), 1);
    assert_eq!((log.durable(), log.is_being_replaced()), (LogIndex(11), false));
}

#[test]
fn a_cut_below_memory_leaves_nothing_there() {
    let mut log = log(&[1, 1, 2, 2, 2]);
    log.evict_to(LogIndex(4));
    log.truncate_from(LogIndex(3));
    assert_eq!((log.last_index(), log.last_term()), (LogIndex(2), Term(1)));
    assert_eq!((log.first_in_memory(), log.memory_bytes()), (LogIndex(3), 0));
    log.append(entry(3, 3));
    assert_eq!(log.entry(LogIndex(3)), Some(&entry(3, 3)));
    assert_eq!(log.durable(), LogIndex(2));
}
