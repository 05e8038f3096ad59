//! Tests of the decisions about a log that grows, over the simulated core of `model.rs`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::model::{Replica, SEGMENT, World};
use super::*;

const KIB: u64 = 1 << 10;

fn budget(segments: u64) -> Budget {
    let disk = (segments + COMPACTION_RESERVE_SEGMENTS) * SEGMENT;
    Budget::new(disk, SEGMENT, 0, 256 * KIB, 64 * KIB)
}

fn replica(world: &mut World, shard: u32) -> &mut Replica {
    world.replicas.entry(ShardId(shard)).or_default()
}

/// The shards of a usual core: some busy, one with a follower that is always far behind, many idle, one
/// that has no quorum and more uncommitted than a segment holds.
fn step(world: &mut World, step: u64) {
    for shard in 0..4 {
        let (count, bytes) = (1 + world.random(8), 100 + world.random(3000) as usize);
        world.propose(ShardId(shard), count, bytes);
    }
    let waiting = replica(world, 0);
    let index = LogIndex(waiting.last.saturating_sub(3000).max(1));
    waiting.state.pins = vec![Pin { index, until: Duration::from_millis(step + 1000) }];
    if step < 40 {
        world.propose(ShardId(4 + step as u32 % 20), 3, 500);
    }
    let lagging = ShardId(30);
    if step < 300 {
        world.replicas.entry(lagging).or_default().no_quorum = true;
        world.propose(lagging, 2, 2000);
    }
    if step.is_multiple_of(100) {
        world.vote(lagging);
        let idle = ShardId(4 + world.random(20) as u32);
        world.propose(idle, 1, 300);
    }
}

#[test]
fn the_disk_stays_within_its_bounds_for_10_000_steps() {
    let mut world = World::new(budget(16), 7);
    world.rewrites_max = 1;
    for shard in 0..31 {
        replica(&mut world, shard).state_bytes = 20 * KIB;
    }
    let mut refused = 0;
    for at in 0..10_000 {
        step(&mut world, at);
        world.turn();
        refused += u64::from(world.pressure == Pressure::Refuse);
    }
    let [trims, compactions, snapshots, rewrites] = world.decided;
    assert!(world.written > 200 * SEGMENT, "{} bytes written", world.written);
    assert!(
        trims > 150 && compactions > 100 && snapshots > 100 && rewrites > 20,
        "{:?}",
        world.decided
    );
    assert_eq!(refused, 0, "what lags does not pin the log: {:?}", world.decided);
    assert!(world.rewritten < world.written / 4, "{} of {}", world.rewritten, world.written);
    assert_eq!(world.replicas[&ShardId(30)].last, 600);
    assert_eq!(world.index.shard(ShardId(30)).unwrap().base().0, LogIndex(0));

    // Nobody writes any more: it comes to rest.
    let mut acted = 0;
    for _ in 0..2000 {
        world.turn();
        acted = if world.acted { 0 } else { acted + 1 };
    }
    assert!(acted > 1000, "at rest for {acted} turns");
    // The quorum is back.
    world.replicas.get_mut(&ShardId(30)).unwrap().no_quorum = false;
    for at in 10_000..11_000 {
        step(&mut world, at);
        world.turn();
    }
    assert!(world.index.shard(ShardId(30)).unwrap().base().0 > LogIndex(0));
}

/// More is uncommitted than half of the disk: writes are refused, and nothing is written round and round.
#[test]
fn what_cannot_be_freed_is_refused_and_left_alone() {
    let mut world = World::new(budget(8), 3);
    for at in 0..3000u64 {
        for shard in 0..6 {
            replica(&mut world, shard).no_quorum = true;
            world.propose(ShardId(shard), 2, 1000);
        }
        if at.is_multiple_of(50) {
            world.vote(ShardId(at as u32 / 50 % 6));
        }
        world.turn();
    }
    assert_eq!(world.pressure, Pressure::Refuse);
    assert!(world.rewritten <= 8 * SEGMENT, "{} of {}", world.rewritten, world.written);
    for shard in 0..6 {
        replica(&mut world, shard).no_quorum = false;
    }
    for _ in 0..1000 {
        world.turn();
    }
    assert!(world.pressure < Pressure::Refuse, "{:?}", world.decided);
    assert!(world.propose(ShardId(0), 1, 100));
}

/// Snapshots that are larger than the reserve: each finds room beside the log, and the log goes on.
#[test]
fn a_large_state_has_room_for_its_next_snapshot() {
    let mut world = World::new(budget(24), 9);
    for _ in 0..60_000 {
        for shard in 0..3 {
            replica(&mut world, shard).state_bytes = 4 * SEGMENT;
            let (count, bytes) = (1 + world.random(8), 100 + world.random(3000) as usize);
            world.propose(ShardId(shard), count, bytes);
        }
        world.turn(); // looks at the bounds
    }
    // If the log may take that room, there is one snapshot and nothing after it.
    let [trims, _, snapshots, _] = world.decided;
    assert!(trims > 10 && snapshots > 10, "{:?}", world.decided);
}

/// A thousand small shards, each of which holds a little of every segment.
#[test]
fn many_small_shards_are_not_all_asked_for_snapshots() {
    let mut world = World::new(budget(24), 11);
    world.snapshots_max = 2;
    for at in 0..4000u32 {
        for shard in 0..8 {
            let shard = (at * 8 + shard * 131) % 1000;
            replica(&mut world, shard).state_bytes = 100;
            world.propose(ShardId(shard), 1, 1500);
        }
        world.turn();
    }
    assert!(world.pressure < Pressure::Refuse, "{:?}", world.decided);
    assert!(world.rewritten < world.written, "{} of {}", world.rewritten, world.written);
}

#[test]
fn without_a_budget_the_log_is_bounded_by_what_shards_need() {
    let budget = Budget::new(0, SEGMENT, 2, 256 * KIB, 64 * KIB);
    let mut world = World::new(budget, 5);
    for at in 0..6000 {
        step(&mut world, at);
        world.turn();
    }
    assert!(world.highest < 48 * SEGMENT, "{}", world.highest);
    assert_eq!(world.pressure.max(Pressure::Snapshot), Pressure::Snapshot);
}

#[test]
fn a_follower_is_waited_for_until_its_time_is_over() {
    let mut world = World::new(budget(64), 5);
    let pinned = |world: &mut World, until| {
        replica(world, 0).state.pins = vec![Pin { index: LogIndex(10), until }];
    };
    for at in 0..600 {
        world.propose(ShardId(0), 4, 2000);
        pinned(&mut world, Duration::from_millis(at + 100));
        world.turn();
    }
    let (base, _) = world.index.shard(ShardId(0)).unwrap().base();
    assert!(base < LogIndex(10), "{base}");
    for _ in 0..200 {
        world.propose(ShardId(0), 4, 2000);
        world.turn();
    }
    let (base, _) = world.index.shard(ShardId(0)).unwrap().base();
    assert!(base > LogIndex(100), "{base}");
    assert_eq!(world.decided[3], 0);
}

#[test]
fn what_is_kept_behind_a_snapshot_is_about_as_much_as_is_asked_for() {
    let mut world = World::new(budget(64), 5);
    world.budget.keep_log_bytes = 2 * SEGMENT;
    for _ in 0..3000 {
        world.propose(ShardId(0), 4, 2000);
        world.turn();
    }
    let index = world.index.shard(ShardId(0)).unwrap();
    let snapshot = world.replicas[&ShardId(0)].state.snapshot;
    let kept = index.runs.overlapping(LogIndex(1), snapshot).map(|run| run.live_bytes());
    let kept: u64 = kept.sum();
    assert!((2 * SEGMENT..4 * SEGMENT).contains(&kept), "{kept}");
    assert_eq!(world.pressure, Pressure::Normal);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any mix of shards: within bounds, nothing lost, and at rest when nobody writes.
    #[test]
    fn any_core_stays_within_bounds_and_comes_to_rest(
        seed in any::<u64>(),
        segments in 4..24u64,
        kinds in prop::collection::vec((0..4u8, 1..6u64, 20..6000usize, 0..30_000u64), 1..20),
    ) {
        let mut world = World::new(budget(segments), seed);
        world.rewrites_max = 1 + (seed % 4) as usize;
        for step in 0..600u64 {
            for (shard, (kind, count, bytes, state_bytes)) in kinds.iter().enumerate() {
                let shard = ShardId(shard as u32);
                let writes = match kind {
                    0 => true,
                    1 => step % 40 == u64::from(shard.0),
                    2 => step < 5,
                    _ => step < 100,
                };
                let replica = world.replicas.entry(shard).or_default();
                replica.no_quorum = *kind == 3 && step % 256 < 200;
                replica.state_bytes = *state_bytes;
                let uncommitted = (replica.last - replica.state.applied.0) * *bytes as u64;
                if writes && uncommitted < SEGMENT {
                    world.propose(shard, *count, *bytes);
                }
            }
            world.turn();
        }
        let mut rest = 0;
        for _ in 0..600 {
            world.turn();
            rest = if world.acted { 0 } else { rest + 1 };
        }
        prop_assert!(rest > 20, "at rest for {} turns: {:?}", rest, world.decided);
        let most = 2 * world.written + 2 * segments * SEGMENT;
        prop_assert!(world.rewritten < most, "{} of {}", world.rewritten, world.written);
        let refuses = world.pressure == Pressure::Refuse;
        let all_applied = world.replicas.values().all(|r| r.state.applied.0 == r.last);
        prop_assert!(!(refuses && all_applied), "{:?}", world.decided);
    }
}
