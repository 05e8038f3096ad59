//! Payloads, globs, scans and values, each alone.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use coracle_engine::{Apply, LogIndex, ShardId, StateMachine, Term};
use proptest::prelude::*;

use super::op::{Encoder, Head, Op, Payload, Read, Write};
use super::{Kv, ScanPage, glob, glob_matches};

fn encoder() -> Encoder {
    let mut encoder = Encoder::default();
    encoder.set_head(Head { protocol: Default::default(), stale: false, now_ms: 5 });
    encoder
}

fn apply(kv: &mut Kv, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    let (shard, index, term) = (ShardId(0), LogIndex(1), Term(1));
    kv.apply(Apply { shard, index, term, payload }, &mut reply);
    reply.freeze()
}

fn query(kv: &Kv, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    kv.query(payload, &mut reply);
    reply.freeze()
}

#[test]
fn the_format_of_entries_stays() {
    // Entries of this version lie in logs on disk: a change here needs a new version.
    let mut encoder = encoder();
    assert_eq!(encoder.tick()[..], [0x10, 5, 0, 0, 0, 0, 0, 0, 0, 1]);
    let incr = encoder.write(&Write::IncrBy { key: b"k", delta: -2 });
    let expected = [&[0x10, 5, 0, 0, 0, 0, 0, 0, 0, 8, 0xfe], [0xff; 7].as_slice(), &[1, b'k']];
    assert_eq!(incr[..], expected.concat());
    let del = encoder.del([b"a".as_slice(), b"bc"].into_iter());
    assert_eq!(del[9..], [10, 2, 1, b'a', 2, b'b', b'c']);
    let long = encoder.write(&Write::Persist { key: &[b'x'; 300] });
    assert_eq!(long[9..12], [12, 0xac, 2]);
}

#[test]
fn a_payload_cut_anywhere_or_with_more_behind_is_refused() {
    let payload = encoder().mset(true, [b"k".as_slice(), b"v", b"l", b"w"].into_iter());
    assert!(matches!(
        Payload::decode(&payload).unwrap().op,
        Op::Write(Write::MSet { pairs, only_if_all_absent: true }) if pairs.len() == 4
    ));
    for cut in 0..payload.len() {
        assert!(Payload::decode(&payload[..cut]).is_none(), "cut at {cut}");
    }
    assert!(Payload::decode(&[&payload[..], &[0]].concat()).is_none());
}

#[test]
fn small_payloads_share_memory_and_large_ones_do_not_waste_it() {
    let mut encoder = encoder();
    let first = encoder.read(&Read::Get { key: b"a" });
    let second = encoder.read(&Read::Get { key: b"b" });
    assert_eq!(first.as_ptr() as usize + first.len(), second.as_ptr() as usize);
    let large = encoder.write(&Write::Append { key: b"k", value: &[0; 100_000] });
    assert_eq!(large.len(), 10 + 2 + 3 + 100_000);
}

proptest! {
    #[test]
    fn globs_agree_with_a_plain_recursion(
        pattern in proptest::collection::vec(prop::sample::select(b"ab*?[]^-\\".to_vec()), 0..8),
        text in proptest::collection::vec(prop::sample::select(b"ab[]\\".to_vec()), 0..8),
    ) {
        prop_assert_eq!(glob_matches(&pattern, &text), slow_match(&pattern, &text));
    }

    #[test]
    fn a_scan_finds_every_key_that_stays(
        keys in 1_usize..300,
        count in 1_u64..40,
        changes in proptest::collection::vec((any::<bool>(), 0_usize..400), 0..200),
    ) {
        let (mut kv, mut encoder) = (Kv::new(), encoder());
        let key = |n: usize| format!("k{n}").into_bytes();
        let set = |out: &mut Encoder, n| out.mset(false, [key(n).as_slice(), b"v"].into_iter());
        (0..keys).for_each(|n| drop(apply(&mut kv, &set(&mut encoder, n))));
        let touched: BTreeSet<_> = changes.iter().map(|(_, n)| *n).collect();
        let mut changes = changes.into_iter();
        let (mut below, mut found) = (u64::MAX, BTreeSet::new());
        loop {
            let scan = encoder.read(&Read::Scan { below, count, pattern: b"*" });
            let page = ScanPage::decode(query(&kv, &scan)).unwrap();
            let text = String::from_utf8(page.encoded.to_vec()).unwrap();
            found.extend(text.lines().filter(|l| l.starts_with('k')).map(str::to_owned));
            below = page.below;
            if below == 0 {
                break;
            }
            for (remove, n) in changes.by_ref().take(7) {
                let change = if remove {
                    encoder.del([key(n).as_slice()].into_iter())
                } else {
                    set(&mut encoder, n)
                };
                apply(&mut kv, &change);
            }
        }
        for n in (0..keys).filter(|n| !touched.contains(n)) {
            prop_assert!(found.contains(&format!("k{n}")), "k{} was there all the time", n);
        }
    }

    #[test]
    fn sizes_and_slots_are_counted_right(
        changes in proptest::collection::vec((0_u8..5, 0_usize..20, 0_usize..30), 1..200),
    ) {
        let (mut kv, mut encoder) = (Kv::new(), encoder());
        for (kind, n, size) in changes {
            let (key, value) = (format!("k{n}").into_bytes(), vec![b'v'; size]);
            let payload = match kind {
                0 | 1 => encoder.mset(false, [key.as_slice(), &value].into_iter()),
                2 => encoder.del([key.as_slice()].into_iter()),
                3 => encoder.write(&Write::Append { key: &key, value: &value }),
                _ => encoder.write(&Write::SetRange { key: &key, offset: 7, value: &value }),
            };
            apply(&mut kv, &payload);
        }
        let keys = &kv.state.borrow().keys;
        let bytes: usize = keys.iter().map(|(key, item)| key.len() + item.value.len()).sum();
        prop_assert_eq!(keys.bytes(), bytes as u64);
        let slots: BTreeSet<_> =
            keys.iter().map(|(key, _)| crate::server::slot_of(key)).collect();
        let counted: usize = slots.iter().map(|slot| keys.in_slot(*slot)).sum();
        prop_assert_eq!(counted, keys.len());
    }
}

fn slow_match(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|from| slow_match(rest, &text[from..])),
        _ => text.split_first().is_some_and(|(first, rest)| {
            glob::one(pattern, 0, *first).is_some_and(|next| slow_match(&pattern[next..], rest))
        }),
    }
}

#[test]
fn a_hostile_glob_is_quick() {
    // A backtracking matcher would take 2^30 steps.
    let pattern = "a*".repeat(30) + "b";
    assert!(!glob_matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
}

#[test]
fn a_value_does_not_keep_the_entry_it_came_in() {
    let mut kv = Kv::new();
    let payload = encoder().mset(false, [b"k".as_slice(), b"v"].into_iter());
    let whole = Bytes::from([&payload[..], &[0; 1 << 20]].concat());
    apply(&mut kv, &whole.slice(..payload.len()));
    assert!(whole.is_unique());
}

#[test]
fn a_reply_that_would_be_too_large_is_an_error() {
    let (mut kv, mut encoder) = (Kv::new(), encoder());
    let value = vec![b'v'; 1 << 20];
    apply(&mut kv, &encoder.mset(false, [b"k".as_slice(), &value].into_iter()));
    let some = encoder.mget(std::iter::repeat_n(b"k".as_slice(), 3));
    assert!(query(&kv, &some).starts_with(b"*3\r\n"));
    let many = encoder.mget(std::iter::repeat_n(b"k".as_slice(), 100));
    assert!(query(&kv, &many).starts_with(b"-ERR the reply would be larger"));
}
