//! Tests of runs, against a list of all entries.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const STRETCH: Stretch = Stretch(Lsn(4096));

fn run(first: u64, last: u64, term: u64, batch: u64) -> Run {
    let place = Place { batch: Lsn(batch), end: Lsn(batch + 100 * (last - first + 1)) };
    Run::new(LogIndex(first), LogIndex(last), Term(term), place, 100 * (last - first + 1))
}

fn shape(runs: &Runs) -> Vec<(u64, u64, u64, u64)> {
    runs.iter().map(|run| (run.first.0, run.last.0, run.term.0, run.batch.0)).collect()
}

#[test]
fn a_run_goes_on_until_its_term_its_stretch_or_its_size_ends() {
    let mut runs = Runs::default();
    runs.append(run(1, 2, 1, 4096), Some(STRETCH));
    runs.append(run(3, 3, 1, 8192), Some(STRETCH));
    runs.append(run(4, 4, 2, 8192), Some(STRETCH));
    runs.append(run(5, 5, 2, 12_288), Some(Stretch(Lsn(12_288))));
    runs.append(run(6, 6, 2, 12_288), None);
    runs.append(run(7, 7, 2, 12_288), Some(Stretch(Lsn(12_288))));
    let expected =
        [(1, 3, 1, 4096), (4, 4, 2, 8192), (5, 5, 2, 12_288), (6, 6, 2, 12_288), (7, 7, 2, 12_288)];
    assert_eq!(shape(&runs), expected);

    let mut runs = Runs::default();
    let big = |index, batch: u64| {
        let place = Place { batch: Lsn(batch), end: Lsn(batch + RUN_BYTES_MAX) };
        Run::new(LogIndex(index), LogIndex(index), Term(1), place, RUN_BYTES_MAX)
    };
    runs.append(run(1, 1, 1, 4096), Some(STRETCH));
    runs.append(big(2, 8192), Some(STRETCH));
    runs.append(big(3, 8192 + RUN_BYTES_MAX), Some(STRETCH));
    assert_eq!(shape(&runs), [(1, 2, 1, 4096), (3, 3, 1, 8192 + RUN_BYTES_MAX)], "by bytes");
    runs.append(big(4, 8192 + RUN_SPAN_BYTES_MAX + RUN_BYTES_MAX), Some(STRETCH));
    assert_eq!(runs.len(), 3, "by span");
}

#[test]
fn what_is_written_again_lies_elsewhere_and_truncates_nothing() {
    let mut runs = Runs::default();
    runs.append(run(1, 9, 1, 4096), Some(STRETCH));
    runs.append(run(10, 12, 1, 1 << 30), Some(Stretch(Lsn(1 << 30))));
    runs.relocate(run(3, 4, 1, 2 << 30), Some(Stretch(Lsn(2 << 30))));
    runs.relocate(run(5, 5, 1, 2 << 30), Some(Stretch(Lsn(2 << 30))));
    let expected = [(1, 2, 1, 4096), (3, 5, 1, 2 << 30), (6, 9, 1, 4096), (10, 12, 1, 1 << 30)];
    assert_eq!(shape(&runs), expected);
    assert_eq!(runs.live_bytes(Lsn(0), Lsn(8192)), 600);
    assert_eq!(runs.oldest(), Some(Lsn(4096)));
    runs.compact_to(LogIndex(7));
    assert_eq!(runs.oldest(), Some(Lsn(4096)));
    runs.compact_to(LogIndex(9));
    assert_eq!(runs.oldest(), Some(Lsn(1 << 30)));
    assert_eq!(runs.first(), Some(LogIndex(10)));
}

#[test]
fn what_was_cut_is_not_gone_on_with() {
    let mut runs = Runs::default();
    runs.append(run(1, 4, 1, 4096), Some(STRETCH));
    runs.truncate_from(LogIndex(4));
    runs.append(run(4, 4, 1, 4096), Some(STRETCH));
    assert_eq!(shape(&runs), [(1, 3, 1, 4096), (4, 4, 1, 4096)]);
    assert_eq!(runs.locate(LogIndex(2)).unwrap().live_bytes(), 300);
    assert_eq!(runs.terms(), [(LogIndex(1), Term(1))]);
}

#[test]
fn holes_are_found() {
    let mut runs = Runs::default();
    assert_eq!(runs.hole(LogIndex(5)), None);
    runs.append(run(8, 9, 1, 4096), Some(STRETCH));
    assert_eq!(runs.hole(LogIndex(7)), None);
    assert_eq!(runs.hole(LogIndex(5)), Some((LogIndex(5), LogIndex(8))));
    runs.append(run(12, 12, 1, 4096), Some(STRETCH));
    assert_eq!(runs.hole(LogIndex(7)), Some((LogIndex(9), LogIndex(12))));
    runs.relocate(run(10, 11, 1, 8192), Some(STRETCH));
    assert_eq!(runs.hole(LogIndex(7)), None);
    assert_eq!(runs.locate(LogIndex(7)), None);
    assert_eq!(runs.locate(LogIndex(13)), None);
}

/// What is known of one entry, one by one.
type Model = BTreeMap<u64, (u64, u64)>;

#[derive(Clone, Debug)]
enum Op {
    /// Entries from some distance before the end on, so many, in the same or the next term.
    Append {
        back: u64,
        count: u64,
        term_up: bool,
        next_segment: bool,
    },
    Compact {
        part: u64,
    },
    Relocate {
        part: u64,
        count: u64,
    },
    Reset,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0u64..6, 1u64..40, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(back, count, term_up, next_segment)| {
                Op::Append { back: back.saturating_sub(2), count, term_up, next_segment }
            }
        ),
        1 => (0u64..100).prop_map(|part| Op::Compact { part }),
        2 => (0u64..100, 1u64..20).prop_map(|(part, count)| Op::Relocate { part, count }),
        1 => Just(Op::Reset),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    /// Runs say of every entry what a list of all entries says: its term, and a part of the log that holds
    /// its record; and they are few.
    #[test]
    fn runs_agree_with_a_list_of_entries(ops in ops(), size in 50u64..60_000) {
        let (mut runs, mut model, mut base) = (Runs::default(), Model::new(), 0u64);
        let (mut position, mut term) = (4096u64, 1u64);
        let mut stretch = Stretch(Lsn(position));
        for op in ops {
            let last = model.keys().next_back().copied().unwrap_or(base);
            let held = last - base;
            match op {
                Op::Append { back, count, term_up, next_segment } => {
                    term += u64::from(term_up || back > 0);
                    if next_segment {
                        position = position.next_multiple_of(1 << 20);
                        stretch = Stretch(Lsn(position));
                    }
                    let first = last + 1 - back.min(held);
                    drop(model.split_off(&first));
                    let batch = position;
                    for index in first..first + count {
                        position += size;
                        let place = Place { batch: Lsn(batch), end: Lsn(position) };
                        let (at, term_of) = (LogIndex(index), Term(term));
                        runs.append(Run::new(at, at, term_of, place, size), Some(stretch));
                        model.insert(index, (term, position));
                    }
                    position = position.next_multiple_of(4096);
                }
                Op::Compact { part } => {
                    base += held * part / 100;
                    model = model.split_off(&(base + 1));
                    runs.compact_to(LogIndex(base));
                }
                Op::Relocate { part, count } if held > 0 => {
                    let from = base + 1 + held * part / 100;
                    let batch = position;
                    for index in from..(from + count).min(last + 1) {
                        position += size;
                        let entry = model.get_mut(&index).unwrap();
                        entry.1 = position;
                        let place = Place { batch: Lsn(batch), end: Lsn(position) };
                        let (at, term_of) = (LogIndex(index), Term(entry.0));
                        runs.relocate(Run::new(at, at, term_of, place, size), Some(stretch));
                    }
                    position = position.next_multiple_of(4096);
                }
                Op::Relocate { .. } => {}
                Op::Reset => {
                    model.clear();
                    base = last + 10;
                    runs.reset();
                }
            }
            prop_assert_eq!(runs.hole(LogIndex(base)), None);
            prop_assert_eq!(runs.last().map(|last| last.0), model.keys().next_back().copied());
            for index in base..=model.keys().next_back().copied().unwrap_or(base) + 1 {
                let found = runs.locate(LogIndex(index));
                prop_assert_eq!(found.map(|run| run.term.0), model.get(&index).map(|e| e.0));
                if let (Some(run), Some((_, end))) = (found, model.get(&index)) {
                    prop_assert!(run.batch.0 < *end && *end <= run.end.0, "{:?} {}", run, end);
                    prop_assert!(run.end.0 - run.batch.0 <= RUN_SPAN_BYTES_MAX);
                    prop_assert!(run.bytes <= RUN_BYTES_MAX + size);
                }
            }
            // All entries have one size here, so shares are exact.
            let bytes = runs.live_bytes(Lsn(0), Lsn(u64::MAX));
            prop_assert_eq!(bytes, size * model.len() as u64);
            let oldest = runs.iter().map(|run| run.batch).min();
            prop_assert_eq!(runs.oldest(), oldest);
            prop_assert_eq!(runs.between(Lsn(0), Lsn(u64::MAX)).count(), runs.len());
            let mut terms = Vec::new();
            for (index, (term, _)) in &model {
                if terms.last().is_none_or(|(_, before)| before != &Term(*term)) {
                    terms.push((LogIndex(*index), Term(*term)));
                }
            }
            prop_assert_eq!(runs.terms(), terms);
        }
    }
}
