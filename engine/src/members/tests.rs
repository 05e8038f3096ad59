//! The address book: merging in any order ends with the same book, and its bounds hold.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn record(id: u64) -> MemberRecord {
    MemberRecord::new(NodeId(id), ("a", 1), ("a", 2))
}

fn any_record() -> impl Strategy<Value = MemberRecord> {
    let numbers = (1..12_u64, 1..5_u64, any::<bool>(), 1..3_u16);
    (numbers, "[ab]", prop::option::of("[ab]"), prop::option::of(0..2_u128)).prop_map(
        |((id, version, removed, port), host, admin, incarnation)| MemberRecord {
            version,
            removed,
            admin,
            incarnation,
            ..MemberRecord::new(NodeId(id), (&host, port), (&host, 2))
        },
    )
}

fn book(records: &[MemberRecord]) -> Book {
    let mut book = Book::default();
    book.merge(records.iter().cloned());
    book
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_who_hear_the_same_records_end_with_the_same_book(
        records in vec(any_record(), 0..30),
        split in any::<prop::sample::Index>(),
    ) {
        let expected = book(&records);
        let backwards: Vec<_> = records.iter().rev().cloned().collect();
        prop_assert_eq!(&book(&backwards), &expected);
        // Two nodes that heard a part each, and then of each other, the one more than once.
        let (first, second) = records.split_at(split.index(records.len() + 1));
        let (mut one, mut other) = (book(first), book(second));
        let told: Vec<_> = one.records().cloned().collect();
        other.merge(told.clone());
        one.merge(other.records().cloned());
        prop_assert_eq!(&one, &expected);
        prop_assert_eq!(&other, &expected);
        prop_assert!(other.covers(&told));
        prop_assert!(other.merge(told).is_empty(), "nothing is news twice");
    }

    #[test]
    fn what_is_put_is_newer_than_all_that_was(records in vec(any_record(), 1..20), new in any_record()) {
        let before = book(&records);
        let mut after = before.clone();
        let put = after.put(new.clone()).unwrap().clone();
        prop_assert!(put.says_the_same(&new));
        let mut heard = after.clone();
        prop_assert!(heard.merge(before.records().cloned()).is_empty(), "the old says nothing new");
        let mut told = before.clone();
        told.merge(after.records().cloned());
        prop_assert_eq!(told, after, "others take it over");
    }

    #[test]
    fn a_book_never_outgrows_its_bound(ids in vec((1..500_u64, any::<bool>()), 0..300)) {
        let mut all = Book::default();
        for (id, removed) in ids {
            let changed = all.merge([MemberRecord { removed, ..record(id) }]);
            prop_assert!(changed.iter().all(|id| all.get(*id).is_some()));
            prop_assert!(all.records().len() <= BOOK_RECORDS_MAX);
        }
    }
}

#[test]
fn a_configured_address_is_the_own_affair_of_a_node_until_somebody_changes_it() {
    let mut ours = book(&[record(1)]);
    let theirs = MemberRecord::new(NodeId(1), ("z", 9), ("z", 9));
    assert!(ours.covers(std::slice::from_ref(&theirs)));
    assert!(ours.merge([theirs.clone()]).is_empty());
    let unknown = MemberRecord::new(NodeId(2), ("z", 9), ("z", 9));
    assert_eq!(ours.merge([unknown]), [NodeId(2)]);
    let changed = MemberRecord { version: 1, ..theirs };
    assert_eq!(ours.merge([changed.clone()]), [NodeId(1)]);
    assert_eq!(ours.get(NodeId(1)), Some(&changed));
    assert!(ours.merge([record(1)]).is_empty());
}

#[test]
fn one_member_too_many_is_refused_until_one_is_removed() {
    let mut all = Book::default();
    for id in 1..=MEMBERS_MAX as u64 {
        all.put(record(id)).unwrap();
    }
    assert_eq!(all.put(record(99)), Err(BookError::Full));
    all.put(record(7)).unwrap();
    all.put(MemberRecord { removed: true, ..record(7) }).unwrap();
    assert_eq!(all.put(record(99)).unwrap().version, 1);
    assert_eq!(all.put(record(7)), Err(BookError::Full), "back again is one more, too");
    assert_eq!(all.members().count(), MEMBERS_MAX);
}

#[test]
fn members_stay_when_removed_ones_are_forgotten() {
    let mut all = Book::default();
    for id in 1..=MEMBERS_MAX as u64 {
        all.put(record(id)).unwrap();
    }
    for id in 100..200 {
        all.merge([MemberRecord { removed: true, ..record(id) }]);
    }
    assert_eq!(all.members().count(), MEMBERS_MAX);
    assert!(all.get(NodeId(199)).is_some() && all.get(NodeId(100)).is_none());
}

#[test]
fn a_removed_member_comes_back_only_by_something_newer() {
    let mut all = Book::default();
    let first = all.put(record(4)).unwrap().clone();
    let removed = all.put(MemberRecord { removed: true, ..first.clone() }).unwrap().clone();
    assert!(all.merge([first]).is_empty());
    assert!(all.get(NodeId(4)).unwrap().removed);
    let back = all.put(MemberRecord { removed: false, ..removed.clone() }).unwrap().clone();
    assert!(back > removed);
}

#[test]
fn what_can_not_be_used_is_named() {
    assert_eq!(record(1).flaw(), None);
    assert!(record(0).flaw().is_some());
    let long = "h".repeat(HOST_BYTES_MAX + 1);
    for host in ["", "a b", "a\n", "é", "a=b", "a,b", long.as_str()] {
        let bad = MemberRecord { client_host: host.to_owned(), ..record(1) };
        assert!(bad.flaw().is_some(), "{host:?}");
        assert!(matches!(Book::default().put(bad), Err(BookError::Flaw(_))));
    }
    let last = MemberRecord { version: MEMBER_VERSION_MAX, ..record(1) };
    assert_eq!(last.flaw(), None);
    let mut book = book(&[last]);
    let after = MemberRecord { removed: true, ..record(1) };
    assert!(matches!(book.put(after), Err(BookError::Flaw(_))), "no version comes after the last");
}
