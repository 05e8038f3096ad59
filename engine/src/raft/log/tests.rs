//! The log by hand, and against a model that keeps everything.
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
