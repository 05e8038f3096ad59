//! Tests of the memory budget, against a list of all entries.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const A: ShardId = ShardId(1);
const B: ShardId = ShardId(2);
const FAR: Lsn = Lsn(u64::MAX);

fn evictions(memory: &mut Memory, durable: Lsn) -> Vec<(u32, u64)> {
    std::iter::from_fn(|| memory.next_eviction(durable)).map(|e| (e.shard.0, e.up_to.0)).collect()
}

fn big(count: usize) -> Vec<usize> {
    vec![100 << 10; count]
}

#[test]
fn the_oldest_leaves_first_whichever_shard_it_belongs_to() {
    let mut memory = Memory::new(300 << 10);
    memory.admit(A, LogIndex(1), big(1), Lsn(10));
    memory.admit(B, LogIndex(1), big(2), Lsn(20));
    memory.admit(A, LogIndex(2), big(1), Lsn(30));
    assert_eq!(evictions(&mut memory, FAR), [(1, 1)]);
    memory.admit(A, LogIndex(3), big(1), Lsn(40));
    assert_eq!(evictions(&mut memory, FAR), [(2, 2)]);
    assert_eq!(memory.bytes(), 200 << 10);
    assert_eq!((memory.first(A), memory.first(B)), (Some(LogIndex(2)), None));
}

#[test]
fn what_is_not_durable_stays_and_so_does_all_behind_it() {
    let mut memory = Memory::new(0);
    memory.admit(A, LogIndex(1), big(1), Lsn(10));
    memory.admit(B, LogIndex(1), big(1), Lsn(20));
    assert_eq!(evictions(&mut memory, Lsn(9)), []);
    assert_eq!(evictions(&mut memory, Lsn(19)), [(1, 1)]);
    assert_eq!(evictions(&mut memory, Lsn(20)), [(2, 1)]);
    assert_eq!(memory.bytes(), 0);
}

/// A group that was cut must not take what came in its place with it.
#[test]
fn a_group_that_was_cut_evicts_only_what_is_left_of_it() {
    let mut memory = Memory::new(0);
    memory.admit(A, LogIndex(1), big(4), Lsn(10));
    memory.admit(A, LogIndex(3), big(2), Lsn(20));
    assert_eq!(memory.bytes(), 400 << 10);
    assert_eq!(evictions(&mut memory, Lsn(10)), [(1, 2)]);
    memory.reset(A);
    assert_eq!(evictions(&mut memory, FAR), []);
    assert_eq!((memory.bytes(), memory.order.len(), memory.shards.len()), (0, 0, 0));
}

#[test]
fn small_groups_of_one_shard_join() {
    let mut memory = Memory::new(0);
    for index in 1..=10_000 {
        memory.admit(A, LogIndex(index), [100], Lsn(index));
    }
    assert!(memory.order.len() <= 16, "{}", memory.order.len());
    memory.admit(B, LogIndex(1), [100], Lsn(10_001));
    memory.admit(A, LogIndex(10_001), [100], Lsn(10_002));
    assert_eq!(evictions(&mut memory, FAR).last(), Some(&(1, 10_001)));
}

#[derive(Clone, Debug)]
enum Op {
    Admit { shard: u32, back: u64, gap: bool, costs: Vec<usize> },
    Truncate { shard: u32, back: u64 },
    Compact { shard: u32, forth: u64 },
    Reset { shard: u32 },
    Durable,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let costs =
        prop::collection::vec(prop_oneof![Just(0usize), 64..200usize, 1000..90_000usize], 0..8);
    let op = prop_oneof![
        8 => (0..4u32, 0..6u64, prop::bool::weighted(0.05), costs).prop_map(
            |(shard, back, gap, costs)| Op::Admit { shard, back: back.saturating_sub(3), gap, costs }
        ),
        1 => (0..4u32, 0..20u64).prop_map(|(shard, back)| Op::Truncate { shard, back }),
        1 => (0..4u32, 0..20u64).prop_map(|(shard, forth)| Op::Compact { shard, forth }),
        1 => (0..4u32).prop_map(|shard| Op::Reset { shard }),
        3 => Just(Op::Durable),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    /// The bytes counted are those of the entries that a list of them holds, and never more than the budget
    /// and what can't leave.
    #[test]
    fn bytes_are_those_of_the_entries_in_memory(ops in ops(), budget in 0u64..300_000) {
        let mut memory = Memory::new(budget);
        // Per shard: index to cost and end.
        let mut model: BTreeMap<u32, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
        let (mut end, mut durable) = (0u64, 0u64);
        for op in ops {
            match op {
                Op::Admit { shard, back, gap, costs } => {
                    let entries = model.entry(shard).or_default();
                    let next = entries.keys().next_back().map_or(1, |last| last + 1);
                    let first = if gap { next + 5 } else { next.saturating_sub(back).max(1) };
                    drop(entries.split_off(&first));
                    if entries.keys().next_back().is_some_and(|last| last + 1 != first) {
                        entries.clear();
                    }
                    end += 10;
                    for (cost, index) in costs.iter().zip(first..) {
                        entries.insert(index, (*cost as u64, end));
                    }
                    memory.admit(ShardId(shard), LogIndex(first), costs, Lsn(end));
                }
                Op::Truncate { shard, back } => {
                    let entries = model.entry(shard).or_default();
                    let next = entries.keys().next_back().map_or(1, |last| last + 1);
                    let from = next.saturating_sub(back).max(1);
                    drop(entries.split_off(&from));
                    memory.truncate_from(ShardId(shard), LogIndex(from));
                }
                Op::Compact { shard, forth } => {
                    let entries = model.entry(shard).or_default();
                    let to = entries.keys().next().map_or(1, |first| first + forth);
                    *entries = entries.split_off(&(to + 1));
                    memory.compact_to(ShardId(shard), LogIndex(to));
                }
                Op::Reset { shard } => {
                    model.remove(&shard);
                    memory.reset(ShardId(shard));
                }
                Op::Durable => durable = end,
            }
            let mut oldest_end = 0;
            while let Some(eviction) = memory.next_eviction(Lsn(durable)) {
                let entries = model.get_mut(&eviction.shard.0).unwrap();
                let rest = entries.split_off(&(eviction.up_to.0 + 1));
                let gone = std::mem::replace(entries, rest);
                prop_assert_eq!(gone.values().map(|(cost, _)| cost).sum::<u64>(), eviction.bytes);
                for (_, group_end) in gone.values() {
                    prop_assert!(*group_end <= durable, "only what is durable leaves");
                }
                let last_end = gone.values().next_back().map_or(0, |(_, end)| *end);
                prop_assert!(last_end >= oldest_end, "in the order of the log");
                oldest_end = last_end;
            }
            let held: u64 = model.values().flat_map(|e| e.values()).map(|(cost, _)| cost).sum();
            prop_assert_eq!(memory.bytes(), held);
            for (shard, entries) in &model {
                let first = entries.keys().next().map(|first| LogIndex(*first));
                prop_assert_eq!(memory.first(ShardId(*shard)), first);
            }
            let all = model.values().flat_map(|entries| entries.values());
            let volatile: u64 = all.filter(|(_, end)| *end > durable).map(|(cost, _)| cost).sum();
            let most = budget + volatile + if volatile > 0 { MEMORY_GROUP_BYTES_MAX } else { 0 };
            prop_assert!(held <= most, "{} of {}", held, most);
        }
    }
}
