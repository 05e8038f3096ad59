//! Tests of the summaries of segments, and the bytes of their format.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::tier::fake_log::hard_state;

const START: Lsn = Lsn(8192);
const END: Lsn = Lsn(1 << 20);

fn items() -> Vec<Item> {
    let shard = ShardId(3);
    let place = Place { batch: Lsn(8192), end: Lsn(9000) };
    let run = Run::new(LogIndex(1), LogIndex(5), Term(2), place, 700);
    let base = Base { index: LogIndex(300), term: Term(2), reset: false };
    let state = hard_state(2, Some(1), 4);
    vec![
        Item::Run { shard, run, kept: false },
        Item::Base { shard, base, at: Lsn(12_288) },
        Item::Base { shard, base: Base { reset: true, ..base }, at: Lsn(12_288) },
        Item::Run { shard: ShardId(200), run: Run { batch: Lsn(8192), ..run }, kept: true },
        Item::HardState { shard, state, at: Lsn(8192) },
    ]
}

/// The bytes that `docs/log-records.md` describes.
#[test]
fn the_format_is_that_of_version_1() {
    let mut golden = vec![1, 0, 0x20, 0, 0, 0, 0, 0, 0];
    golden.extend_from_slice(&[0, 3, 0, 1, 4, 2, 0xa8, 6, 0xbc, 5]);
    golden.extend_from_slice(&[3, 3, 0x80, 0x20, 0xac, 2, 2]);
    golden.extend_from_slice(&[4, 3, 0x80, 0x20, 0xac, 2, 2]);
    golden.extend_from_slice(&[1, 0xc8, 1, 0, 1, 4, 2, 0xa8, 6, 0xbc, 5]);
    golden.extend_from_slice(&[2, 3, 0, 33, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encode(START, &items()), golden);
    assert_eq!(decode(&golden, START, END), Some(items()));
}

#[test]
fn what_is_not_of_this_segment_or_version_is_not_understood() {
    let bytes = encode(START, &items());
    assert_eq!(decode(&bytes, Lsn(4096), END), None);
    assert_eq!(decode(&bytes, START, Lsn(8999)), None, "a run behind the end");
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert_eq!(decode(&newer, START, END), None);
    for length in 0..bytes.len() {
        if let Some(found) = decode(&bytes[..length], START, END) {
            assert!(items().starts_with(&found), "cut between two items");
        }
    }
}

fn collect(summaries: &mut Summaries, stretch: u64, index: u64) {
    let batch = Lsn(stretch + 100 * index);
    let place = Place { batch, end: Lsn(batch.0 + 100) };
    // Terms differ, so no two make one run.
    let run = Run::new(LogIndex(index), LogIndex(index), Term(index), place, 100);
    let item = Item::Run { shard: ShardId(1), run, kept: false };
    summaries.collect(Stretch(Lsn(stretch)), item);
}

#[test]
fn a_summary_is_of_its_segment_and_fits() {
    let mut summaries = Summaries::default();
    for index in 1..=3 {
        collect(&mut summaries, 10_000, index);
        collect(&mut summaries, 10_000, index + 3);
    }
    collect(&mut summaries, 20_000, 7);
    let bytes = summaries.clone().take(Lsn(10_000), Lsn(12_000), 1000).unwrap();
    assert_eq!(decode(&bytes, Lsn(10_000), Lsn(12_000)).unwrap().len(), 6);
    assert_eq!(summaries.take(Lsn(10_000), Lsn(12_000), bytes.len() - 1), None);
    assert_eq!(summaries.take(Lsn(15_000), Lsn(16_000), 1000), None, "nothing was seen of it");
    assert!(summaries.take(Lsn(20_000), Lsn(22_000), 1000).is_some());
    assert_eq!((summaries.count, summaries.parts.len()), (0, 0));
}

/// Nobody asks for summaries, or a segment holds more than fits one.
#[test]
fn what_is_collected_is_bounded() {
    let mut summaries = Summaries::default();
    let many = SUMMARY_ITEMS_MAX as u64 + 10;
    for index in 1..=many {
        collect(&mut summaries, 10_000, index);
    }
    assert!(summaries.count <= SUMMARY_ITEMS_MAX);
    let end = 10_000 + 100 * (many + 1);
    collect(&mut summaries, end, 1);
    assert_eq!(summaries.clone().take(Lsn(10_000), Lsn(end), usize::MAX), None);
    assert!(summaries.take(Lsn(end), Lsn(end + 1000), usize::MAX).is_some());
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0..3u8) {
        let _ = decode(&bytes, START, END);
        let mut bytes = bytes;
        bytes.splice(0..0, [version].into_iter().chain(START.0.to_le_bytes()));
        if let Some(items) = decode(&bytes, START, END) {
            prop_assert_eq!(decode(&encode(START, &items), START, END), Some(items));
        }
    }
}
