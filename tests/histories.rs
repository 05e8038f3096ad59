//! The check of histories, of which all tests of real processes make use: known-bad histories, and
//! generated ones against brute force.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use support::history::{Action, End, Operation, check, check_by_search};

fn write(start: u64, end: End, value: &str) -> Operation {
    Operation { client: 0, start, end, action: Action::Write(value.to_owned()) }
}

fn read(start: u64, end: u64, value: Option<&str>) -> Operation {
    let action = Action::Read(value.map(str::to_owned));
    Operation { client: 0, start, end: End::Acknowledged(end), action }
}

use End::{Acknowledged as Acked, Refused, Unknown};

fn op(start: u64, end: End, action: Action) -> Operation {
    Operation { client: 0, start, end, action }
}

/// Both ways to decide must accept it.
#[track_caller]
fn accepted(history: &[Operation]) {
    assert_eq!(check(history), Ok(()));
    assert_eq!(check_by_search(history), Ok(()));
}

/// Both ways to decide must refuse it.
#[track_caller]
fn refused(history: &[Operation]) {
    assert!(check(history).is_err());
    assert!(check_by_search(history).is_err());
}

#[test]
fn a_plain_history_is_linearizable() {
    let history =
        [read(1, 2, None), write(3, Acked(4), "a"), read(5, 6, Some("a")), write(7, Acked(8), "b")];
    accepted(&history);
}

#[test]
fn a_stale_read_is_caught() {
    let history = [write(1, Acked(2), "a"), write(3, Acked(4), "b"), read(5, 6, Some("a"))];
    refused(&history);
}

#[test]
fn a_lost_write_is_caught() {
    refused(&[write(1, Acked(2), "a"), read(3, 4, None)]);
}

#[test]
fn a_read_from_the_future_is_caught() {
    refused(&[read(1, 2, Some("a")), write(3, Acked(4), "a")]);
}

#[test]
fn a_value_that_comes_back_is_caught() {
    let history = [
        write(1, Acked(10), "a"),
        write(2, Acked(11), "b"),
        read(12, 13, Some("a")),
        read(14, 15, Some("b")),
    ];
    refused(&history);
}

#[test]
fn an_unknown_write_may_have_happened_late_or_never() {
    let unknown = write(1, Unknown, "a");
    accepted(&[unknown.clone(), read(2, 3, None), read(4, 5, Some("a"))]);
    accepted(&[unknown.clone(), read(2, 3, None)]);
    let came_and_went = [unknown, read(2, 3, Some("a")), read(4, 5, None)];
    refused(&came_and_went);
}

#[test]
fn a_refused_write_that_is_seen_is_caught() {
    accepted(&[write(1, Refused, "a"), read(2, 3, None)]);
    refused(&[write(1, Refused, "a"), read(2, 3, Some("a"))]);
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[test]
fn a_swap_that_saw_what_was_replaced_is_caught() {
    let swap = |seen| op(5, Acked(6), Action::Swap("c".to_owned(), text(seen)));
    let writes = [write(1, Acked(2), "a"), write(3, Acked(4), "b")];
    accepted(&[&writes[..], &[swap("b")]].concat());
    refused(&[&writes[..], &[swap("a")]].concat());
}

#[test]
fn two_writes_only_if_absent_that_both_happen_are_caught() {
    let write = |start, value: &str, done| {
        op(start, Acked(start + 2), Action::WriteIfAbsent(value.to_owned(), done))
    };
    accepted(&[write(1, "a", true), write(2, "b", false), read(5, 6, Some("a"))]);
    refused(&[write(1, "a", true), write(2, "b", true)]);
    refused(&[write(1, "a", true), write(2, "b", false), read(5, 6, Some("b"))]);
    refused(&[write(1, "a", false), read(5, 6, None)]);
}

#[test]
fn a_deleted_value_that_comes_back_is_caught() {
    let start = [write(1, Acked(2), "a"), op(3, Acked(4), Action::Delete(true))];
    accepted(&[&start[..], &[read(5, 6, None)]].concat());
    refused(&[&start[..], &[read(5, 6, None), read(7, 8, Some("a"))]].concat());
    refused(&[&start[..], &[op(5, Acked(6), Action::Delete(true))]].concat());
}

#[test]
fn a_lost_or_doubled_increment_is_caught() {
    let add = |start, seen| op(start, Acked(start + 1), Action::Increment(seen));
    accepted(&[add(1, 1), add(3, 2), read(5, 6, Some("2"))]);
    refused(&[add(1, 1), add(3, 1)]);
    refused(&[add(1, 1), add(3, 3)]);
    refused(&[add(1, 1), add(3, 2), read(5, 6, Some("1"))]);
    let unknown = op(1, Unknown, Action::Increment(0));
    accepted(&[unknown.clone(), add(2, 1), add(4, 3)]);
    accepted(&[unknown.clone(), add(2, 1), add(4, 2)]);
    refused(&[unknown, add(2, 1), add(4, 4)]);
}

#[test]
fn an_append_that_is_lost_doubled_or_out_of_order_is_caught() {
    let append =
        |start, end, text: &str, length| op(start, end, Action::Append(text.to_owned(), length));
    let start = [append(1, Acked(2), "a", 1), append(3, Acked(4), "b", 2)];
    accepted(&[&start[..], &[read(5, 6, Some("ab"))]].concat());
    for bad in ["a", "b", "ba", "abb", "aab"] {
        refused(&[&start[..], &[read(5, 6, Some(bad))]].concat());
    }
    let unknown = append(1, Unknown, "c", 0);
    accepted(&[&start[..], &[unknown.clone(), read(5, 6, Some("abc"))]].concat());
    refused(&[&start[..], &[unknown.clone(), read(5, 6, Some("cabc"))]].concat());
}

#[test]
fn many_operations_of_unknown_outcome_are_no_burden() {
    let unknown = |nth: u64| op(nth, Unknown, Action::Increment(0));
    let mut history: Vec<_> = (0..20).map(unknown).collect();
    history.extend((0..20).map(|nth| write(100 + nth, Unknown, &format!("{}", 1000 * nth))));
    history.push(read(1000, 1001, Some("5015")));
    assert_eq!(check(&history), Ok(()));
    history.push(read(1002, 1003, Some("5014")));
    assert!(check(&history).is_err());
}

/// What an action makes of a value, and the same action with what it sees. The model of the brute
/// force, apart from that of the check.
fn model(action: &Action, value: Option<&str>) -> (Option<String>, Action) {
    let same = value.map(str::to_owned);
    match action {
        Action::Write(new) => (text(new), action.clone()),
        Action::Read(_) => (same.clone(), Action::Read(same)),
        Action::Swap(new, _) => (text(new), Action::Swap(new.clone(), same)),
        Action::WriteIfAbsent(new, _) if same.is_none() => {
            (text(new), Action::WriteIfAbsent(new.clone(), true))
        }
        Action::WriteIfAbsent(new, _) => (same, Action::WriteIfAbsent(new.clone(), false)),
        Action::Delete(_) => (None, Action::Delete(same.is_some())),
        Action::Increment(_) => {
            let next = value.map_or(0, |text| text.parse().unwrap()) + 1;
            (Some(next.to_string()), Action::Increment(next))
        }
        Action::Append(new, _) => {
            let all = format!("{}{new}", value.unwrap_or_default());
            (Some(all.clone()), Action::Append(new.clone(), all.len()))
        }
    }
}

/// Tries every order: true if a key that starts empty can have behaved so.
fn brute_force(history: &[Operation], done: u32, value: Option<&str>) -> bool {
    let is_done = |nth: usize| done & (1 << nth) != 0;
    let end = |nth: usize| match history[nth].end {
        Acked(end) if !is_done(nth) => Some(end),
        _ => None,
    };
    let Some(earliest_end) = (0..history.len()).filter_map(end).min() else { return true };
    (0..history.len()).any(|nth| {
        let operation = &history[nth];
        if is_done(nth) || operation.end == Refused || operation.start > earliest_end {
            return false;
        }
        let (after, seen) = model(&operation.action, value);
        let agrees = operation.end == Unknown || seen == operation.action;
        agrees && brute_force(history, done | 1 << nth, after.as_deref())
    })
}

/// The kinds of operations that go together on one key.
fn action(family: u8, kind: u8, nth: usize) -> Action {
    let value = format!("v{nth}");
    match (family, kind % 5) {
        (_, 0) => Action::Read(None),
        (0, _) => Action::Write(value),
        (1, 1) => Action::Swap(value, None),
        (1, 2) => Action::WriteIfAbsent(value, false),
        (1, 3) => Action::Write(value),
        (2, 1 | 2) => Action::Increment(0),
        (3, 1 | 2) => Action::Append(format!("{}", nth % 3), 0),
        (1..=3, _) => Action::Delete(false),
        _ => unreachable!("four families"),
    }
}

/// What one operation has become in another run of the same history.
fn confused(operation: &Operation, with: &Operation) -> Action {
    match (&operation.action, &with.action) {
        (Action::Read(_), Action::Write(value) | Action::Swap(value, _)) => {
            Action::Read(text(value))
        }
        (Action::Read(Some(_)), _) => Action::Read(None),
        (Action::Read(None), _) => Action::Read(text("1")),
        (Action::Swap(new, Some(_)), _) => Action::Swap(new.clone(), None),
        (Action::Swap(new, None), _) => Action::Swap(new.clone(), text("v0")),
        (Action::WriteIfAbsent(new, done), _) => Action::WriteIfAbsent(new.clone(), !done),
        (Action::Delete(found), _) => Action::Delete(!found),
        (Action::Increment(seen), _) => Action::Increment(seen + 1),
        (Action::Append(new, seen), _) => Action::Append(new.clone(), seen + 1),
        (Action::Write(_), _) => operation.action.clone(),
    }
}

/// Up to seven operations at moments that are all different. They are run in some order that the
/// moments allow; then some are told to have seen something else.
fn histories() -> impl Strategy<Value = Vec<Operation>> {
    let moments = Just((1..=21).collect::<Vec<u64>>()).prop_shuffle();
    let kinds = prop::collection::vec((0..5_u8, 0..8_u8, 0..12_u8, 0..7_usize), 1..=7);
    (moments, 0..4_u8, kinds).prop_map(|(moments, family, kinds)| {
        let mut operations = Vec::new();
        let mut points = Vec::new();
        for (nth, (kind, fate, ..)) in kinds.iter().enumerate() {
            let mut three = [moments[3 * nth], moments[3 * nth + 1], moments[3 * nth + 2]];
            three.sort_unstable();
            let [start, point, end] = three;
            let action = action(family, *kind, nth);
            let is_read = matches!(action, Action::Read(_));
            let (end, point) = match fate {
                0 if !is_read => (Refused, None),
                1 if !is_read => (Unknown, None),
                2 if !is_read => (Unknown, Some(point)),
                3 if !is_read => (Unknown, Some(point + 8)),
                _ => (Acked(end), Some(point)),
            };
            points.extend(point.map(|point| (point, nth)));
            operations.push(op(start, end, action));
        }
        points.sort_unstable();
        let mut value = None;
        for (_, nth) in points {
            (value, operations[nth].action) = model(&operations[nth].action, value.as_deref());
        }
        for (nth, (_, _, confusion, other)) in kinds.iter().enumerate() {
            if *confusion == 0 {
                operations[nth].action =
                    confused(&operations[nth], &operations[other % kinds.len()]);
            }
        }
        operations
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_checks_agree_with_brute_force(history in histories()) {
        let expected = brute_force(&history, 0, None);
        prop_assert_eq!(check(&history).is_ok(), expected, "{:?}", check(&history));
        prop_assert_eq!(check_by_search(&history).is_ok(), expected);
    }
}
