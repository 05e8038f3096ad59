//! A log that outgrows neither memory nor disk, and snapshots that stream, on real processes: memory and
//! disk stay within their budgets, a node that was away or lost its data comes back, a restart keeps
//! all, and damage is named and harms nothing else. Scaled down; `coracle-bench tiers` has the real
//! sizes.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::client::Outcome;
use support::cluster::{Cluster, NODES, SHARDS};
use support::ledger::{Ledger, key_of};
use support::probe::{catches_up, catches_up_in, writes_go_on};
use support::replicas;
use support::resp::Reply;
use support::snapshots::{
    Files, damage, damage_all, disk_bytes, info_number, listing, manifests, name_of, save,
    segments, swap,
};
use support::wait::{self, SOON};

/// Small segments, a small budget for everything, snapshots early, little log kept.
const SMALL: &str = "--segment-mib 16 --log-memory-mib 16 --log-disk-mib 192 --snapshot-log-mib 4 \
                     --keep-log-mib 1 --keep-log-s 1";

/// The same budget of memory, and the whole log stays on disk.
const LONG_LOG: &str = "--segment-mib 16 --log-memory-mib 16 --snapshot-log-mib 1000000 \
                        --keep-log-mib 1000000 --keep-log-s 3600";

const MIB: u64 = 1 << 20;

/// Bytes of the values of most tests.
const VALUE_BYTES: usize = 64 << 10;

fn start(settings: &str) -> Cluster {
    let mut cluster = Cluster::prepare();
    cluster.configure(settings);
    cluster.start_all();
    cluster
}

/// Waits until no replica of node `id` is returning: it votes and counts again.
#[track_caller]
fn counts_again(cluster: &Cluster, id: u64) {
    wait::until(&format!("node {id} to count again"), SOON, || {
        match info_number(cluster, id, "shards_returning")? {
            0 => Ok(()),
            returning => Err(format!("{returning} of its replicas are returning")),
        }
    });
}

/// Waits until the log of node `id` says all of `fragments`.
#[track_caller]
fn says(cluster: &Cluster, id: u64, fragments: &[&str]) {
    for fragment in fragments {
        wait::until(&format!("node {id} to say {fragment:?}"), SOON, || {
            let output = cluster.node(id).output();
            if output.contains(fragment) { Ok(()) } else { Err(output) }
        });
    }
}

#[track_caller]
fn replicas_become_equal(cluster: &Cluster) {
    let differences = replicas::compare(cluster);
    assert!(differences.is_empty(), "replicas differ: {differences:#?}");
}

/// The log's budget is 16 MiB and 200 MiB go through it. What else grows has bounds of its own: values
/// (8 MiB), messages and batches under way, and what is read ahead in the log for each shard of the
/// follower, in batches of up to 4 MiB.
#[test]
fn memory_stays_near_its_budget_while_a_follower_catches_up_from_the_log() {
    const GROWTH_MAX: u64 = (16 + 8 + 112) * MIB;
    let mut cluster = start(LONG_LOG);
    let baseline: BTreeMap<u64, u64> =
        (1..=NODES).map(|id| (id, cluster.node(id).peak_rss_bytes())).collect();
    cluster.kill(3);
    writes_go_on(&cluster, "without-3");

    let mut ledger = Ledger::new(1 << 20);
    ledger.write_rounds(&cluster, 1, 25);
    assert_eq!(ledger.acknowledged(), 200);
    cluster.start_node(3);
    writes_go_on(&cluster, "with-3");
    catches_up(&cluster, 3, "with-3");

    for (id, baseline) in baseline {
        let growth = cluster.node(id).peak_rss_bytes().saturating_sub(baseline);
        println!("node {id} grew by {} MiB", growth / MIB);
        assert!(growth <= GROWTH_MAX, "node {id} grew by {} MiB", growth / MIB);
    }
    ledger.verify(&cluster);
    replicas_become_equal(&cluster);
}

/// Twice the budget goes through the log of each node.
#[test]
fn disk_stays_within_its_budget_over_many_overwrites() {
    let mut cluster = start(SMALL);
    let mut ledger = Ledger::new(VALUE_BYTES);
    let mut most = 0;
    for _ in 0..12 {
        ledger.write_rounds(&cluster, 8, 8);
        for id in 1..=NODES {
            most = most.max(disk_bytes(&cluster, id));
        }
    }
    println!("{} MiB written, at most {} MiB on disk", ledger.acknowledged() / 16, most / MIB);
    assert!(ledger.acknowledged() >= 2 * 192 * 16, "{}", ledger.acknowledged());
    assert!(most <= 192 * MIB, "{} MiB on the disk of a node", most / MIB);
    cluster.assert_running();
    ledger.verify(&cluster);
    cluster.kill_all();
    cluster.start_all();
    ledger.verify(&cluster);
    replicas_become_equal(&cluster);
}

#[test]
fn a_restart_from_snapshots_and_the_rest_of_the_log_keeps_all() {
    let mut cluster = start(SMALL);
    let mut ledger = Ledger::new(VALUE_BYTES);
    ledger.write_rounds(&cluster, 8, 3);
    for id in 1..=NODES {
        save(&cluster, id, &format!("saved-{id}"));
        assert_eq!(manifests(&cluster, id).len(), usize::from(SHARDS), "node {id}");
    }
    // Some keys are in the snapshots only, some in both, some in the rest of the log only.
    ledger.write_rounds(&cluster, 4, 1);
    let mut client = cluster.client();
    for shard in 0..SHARDS {
        ledger.write(&mut client, &key_of(99, shard), SOON).unwrap();
    }
    for _ in 0..2 {
        cluster.kill_all();
        cluster.start_all();
        ledger.verify(&cluster);
    }
    replicas_become_equal(&cluster);
}

#[test]
fn a_follower_that_was_down_while_the_log_was_compacted_comes_back_by_a_snapshot() {
    let mut cluster = start(SMALL);
    let mut ledger = Ledger::new(VALUE_BYTES);
    ledger.write_rounds(&cluster, 8, 1);
    cluster.kill(3);
    writes_go_on(&cluster, "without-3");
    // More than the log keeps for anybody: 8 MiB in each shard, after which it had snapshots.
    ledger.write_rounds(&cluster, 8, 16);
    for id in [1, 2] {
        save(&cluster, id, &format!("saved-{id}"));
    }
    ledger.write_rounds(&cluster, 8, 1);
    cluster.start_node(3);
    writes_go_on(&cluster, "with-3");
    catches_up(&cluster, 3, "with-3");
    let received = info_number(&cluster, 3, "snapshots_received").unwrap();
    assert!(received > 0, "node 3 got no snapshot");
    replicas_become_equal(&cluster);
    // What it was given survives its own restart, and it counts.
    cluster.kill(3);
    cluster.start_node(3);
    cluster.kill(1);
    writes_go_on(&cluster, "without-1");
    ledger.verify(&cluster);
}

/// A cluster that goes on while node 3 is down and has lost its data.
fn without_the_data_of_node_3() -> (Cluster, Ledger) {
    let mut cluster = start(SMALL);
    let mut ledger = Ledger::new(VALUE_BYTES);
    ledger.write_rounds(&cluster, 8, 8);
    cluster.kill(3);
    cluster.wipe(3);
    writes_go_on(&cluster, "without-3");
    (cluster, ledger)
}

#[test]
fn a_node_that_lost_its_data_comes_back_and_counts() {
    let (mut cluster, mut ledger) = without_the_data_of_node_3();
    cluster.start_node(3);
    writes_go_on(&cluster, "with-3");
    catches_up(&cluster, 3, "with-3");
    counts_again(&cluster, 3);
    replicas_become_equal(&cluster);
    // From here on a majority is impossible without it.
    cluster.kill(1);
    let pause = writes_go_on(&cluster, "without-1");
    println!("every shard written to {pause:?} after node 1 was killed");
    ledger.verify(&cluster);
    ledger.write_rounds(&cluster, 2, 1);
    cluster.start_node(1);
    writes_go_on(&cluster, "all");
    catches_up(&cluster, 1, "all");
    ledger.verify(&cluster);
}

/// Killed again and again while snapshots come in: it goes on from what it has.
#[test]
fn a_node_that_is_killed_while_it_receives_snapshots_comes_back_all_the_same() {
    let mut cluster = Cluster::prepare();
    // Slow enough to be met half way.
    cluster.configure(&format!("{SMALL} --transfer-mib-per-s 4"));
    cluster.start_all();
    let mut ledger = Ledger::new(VALUE_BYTES);
    ledger.write_rounds(&cluster, 16, 2);
    for id in [1, 2] {
        save(&cluster, id, &format!("saved-{id}"));
    }
    cluster.kill(3);
    cluster.wipe(3);
    writes_go_on(&cluster, "without-3");
    for _ in 0..2 {
        let before = manifests(&cluster, 3).len();
        cluster.start_node(3);
        wait::until("another snapshot to be received", SOON, || {
            let now = manifests(&cluster, 3).len();
            if now > before { Ok(()) } else { Err(format!("{now} of {SHARDS}")) }
        });
        cluster.kill(3);
    }
    cluster.start_node(3);
    writes_go_on(&cluster, "with-3");
    catches_up(&cluster, 3, "with-3");
    counts_again(&cluster, 3);
    replicas_become_equal(&cluster);
    ledger.verify(&cluster);
}

/// Shard 0: a chunk is damaged. Shard 1: its manifest is. Shard 2: its chunks are gone. Shards 3 and 4:
/// their manifests are exchanged. Shards 5 to 7 are whole.
fn harm(files: &BTreeMap<u16, Files>) -> Vec<String> {
    damage(&files[&0].chunks, 4096 + 100);
    damage(&files[&1].manifest, 60);
    std::fs::remove_file(&files[&2].chunks).unwrap();
    swap(&files[&3].manifest, &files[&4].manifest);
    [&files[&0].chunks, &files[&1].manifest, &files[&2].chunks]
        .into_iter()
        .chain([&files[&3].manifest, &files[&4].manifest])
        .map(|path| name_of(path))
        .collect()
}

#[test]
fn damaged_snapshots_are_named_cost_nothing_and_leave_the_other_shards_alone() {
    let mut cluster = start(SMALL);
    let mut ledger = Ledger::new(VALUE_BYTES);
    ledger.write_rounds(&cluster, 8, 12);
    for id in 1..=NODES {
        save(&cluster, id, &format!("saved-{id}"));
    }
    writes_go_on(&cluster, "before");
    cluster.kill(3);
    let harmed = harm(&manifests(&cluster, 3));
    cluster.start_node(3);
    let fragments: Vec<&str> = harmed.iter().map(String::as_str).collect();
    says(&cluster, 3, &fragments);
    cluster.assert_running();

    // The cluster as a whole, and in the whole shards the node itself: it reads, and its vote is needed.
    let value = "harmed";
    writes_go_on(&cluster, value);
    catches_up_in(&cluster, 3, value, 5..SHARDS);
    ledger.verify(&cluster);
    cluster.kill(2);
    let mut client = cluster.client();
    for shard in 5..SHARDS {
        wait::until(&format!("a write to shard {shard}, by nodes 1 and 3"), SOON, || match ledger
            .write(&mut client, &key_of(0, shard), Duration::from_millis(200))
        {
            Outcome::Done(_) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    cluster.start_node(2);
    // The others heal it.
    writes_go_on(&cluster, "healed");
    catches_up(&cluster, 3, "healed");
    ledger.verify(&cluster);
    replicas_become_equal(&cluster);
    cluster.assert_running();
}

/// The damaged part is needed: a follower that was down lacks it, and only the log has it.
#[test]
fn a_damaged_sealed_segment_is_named_and_the_follower_gets_what_it_lacks_all_the_same() {
    let mut cluster = start(LONG_LOG);
    let mut ledger = Ledger::new(VALUE_BYTES);
    cluster.kill(3);
    writes_go_on(&cluster, "without-3");
    // 64 MiB: several sealed segments, most of it out of memory.
    ledger.write_rounds(&cluster, 8, 16);
    let harmed: Vec<(u64, String)> = [1, 2]
        .into_iter()
        .map(|id| {
            let first = segments(&cluster, id).remove(0);
            for eighth in 1..8 {
                damage(&first, eighth * 2 * MIB);
            }
            (id, name_of(&first))
        })
        .collect();
    cluster.start_node(3);
    writes_go_on(&cluster, "with-3");
    catches_up(&cluster, 3, "with-3");
    ledger.verify(&cluster);
    cluster.assert_running();
    replicas_become_equal(&cluster);
    // Whoever leads had to read it: usually both, each its shards.
    let names = |(id, name): &(u64, String)| cluster.node(*id).output().contains(name);
    assert!(harmed.iter().any(names), "nobody named the file");
}

/// Nothing of a segment can be read, its summary included. The node starts all the same; what the shards had
/// there, they get from the others.
#[test]
fn a_segment_of_which_nothing_is_left_costs_a_node_its_data_and_the_cluster_nothing() {
    for at in [0, 1] {
        let mut cluster = start(LONG_LOG);
        let mut ledger = Ledger::new(VALUE_BYTES);
        ledger.write_rounds(&cluster, 8, 8);
        cluster.kill(3);
        let harmed = segments(&cluster, 3).remove(at);
        damage_all(&harmed, 4096);
        cluster.start_node(3);
        says(&cluster, 3, &[&name_of(&harmed), "this replica is damaged"]);
        writes_go_on(&cluster, "harmed");
        catches_up(&cluster, 3, "harmed");
        counts_again(&cluster, 3);
        ledger.verify(&cluster);
        replicas_become_equal(&cluster);
        // From here on a majority is impossible without it, and what it has survives a restart.
        cluster.kill(3);
        cluster.start_node(3);
        cluster.kill(1);
        writes_go_on(&cluster, "without-1");
        ledger.verify(&cluster);
        cluster.assert_running();
    }
}

/// The leaders' own snapshots are damaged when a follower needs them.
#[test]
fn a_snapshot_that_is_damaged_where_it_is_sent_from_is_replaced_by_another() {
    let (mut cluster, ledger) = without_the_data_of_node_3();
    for id in [1, 2] {
        save(&cluster, id, &format!("saved-{id}"));
        for files in manifests(&cluster, id).values() {
            damage(&files.chunks, 4096 + 100);
        }
    }
    cluster.start_node(3);
    writes_go_on(&cluster, "with-3");
    catches_up(&cluster, 3, "with-3");
    counts_again(&cluster, 3);
    let said: Vec<String> = [1, 2].map(|id| cluster.node(id).output()).into();
    assert!(said.iter().any(|output| output.contains(".chunks")), "nobody named the file");
    ledger.verify(&cluster);
    replicas_become_equal(&cluster);
}

/// What a restart makes of it: it says which file, and either serves, or refuses to start and leaves the
/// cluster to the others.
#[test]
fn a_damaged_sealed_segment_is_named_at_a_restart_and_nothing_is_lost() {
    let mut cluster = start(LONG_LOG);
    let mut ledger = Ledger::new(VALUE_BYTES);
    ledger.write_rounds(&cluster, 8, 12);
    cluster.kill(3);
    let first = segments(&cluster, 3).remove(0);
    for eighth in 1..8 {
        damage(&first, eighth * 2 * MIB);
    }
    cluster.start_node(3);
    says(&cluster, 3, &[&name_of(&first)]);
    writes_go_on(&cluster, "harmed");
    ledger.verify(&cluster);
    ledger.write_rounds(&cluster, 1, 1);
    if let Some(status) = cluster.process(3).unwrap().ended() {
        println!("node 3 refused to start: {status}");
        assert!(status.code().is_some(), "node 3 crashed: {status}");
        // What the operator can do: the node comes back without its data.
        drop(cluster.take_process(3));
        cluster.wipe(3);
        cluster.start_node(3);
        writes_go_on(&cluster, "wiped");
    }
    writes_go_on(&cluster, "after");
    catches_up(&cluster, 3, "after");
    ledger.verify(&cluster);
    replicas_become_equal(&cluster);
}

/// The state itself is larger than the budget, so that neither compaction nor snapshots help.
#[test]
fn a_budget_that_is_used_up_refuses_writes_serves_reads_and_loses_nothing() {
    const BUDGET_MIB: u64 = 160;
    const LARGE_BYTES: usize = 512 << 10;
    let small = |mib: u64| {
        format!(
            "--segment-mib 16 --log-memory-mib 16 --snapshot-log-mib 4 --keep-log-mib 1 \
             --keep-log-s 1 --log-disk-mib {mib}"
        )
    };
    let mut cluster = start(&small(BUDGET_MIB));
    let mut ledger = Ledger::new(LARGE_BYTES);
    let mut client = cluster.client();
    let most = BUDGET_MIB * MIB / LARGE_BYTES as u64;
    let mut refused = None;
    for number in 0..=most {
        let key = format!("unique-{number}");
        match ledger.write(&mut client, &key, Duration::from_secs(2)) {
            // The leader has room a moment longer than a follower, and this one waits for space.
            Outcome::Done(_) | Outcome::Unknown(_) => {}
            Outcome::Refused(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let error = refused.expect("more was acknowledged than the budget has room for");
    println!("after {} large values: {error}", ledger.acknowledged());
    assert!(error.contains("NOSPACE"), "{error}");
    cluster.assert_running();
    for id in 1..=NODES {
        let disk = disk_bytes(&cluster, id);
        let files = listing(&cluster, id);
        assert!(disk <= BUDGET_MIB * MIB, "node {id}: {} MiB on disk: {files:#?}", disk / MIB);
    }
    ledger.verify(&cluster);
    assert!(matches!(client.get("unique-0", SOON).unwrap(), Reply::Bulk(_)));

    // A larger budget, node by node, and writes go on.
    cluster.configure(&small(2 * BUDGET_MIB));
    for id in 1..=NODES {
        let ended = cluster.terminate(id);
        assert!(ended.status.success(), "node {id}: {}\n{}", ended.status, ended.output);
        cluster.start_node(id);
    }
    writes_go_on(&cluster, "roomier");
    ledger.verify(&cluster);
    for id in 1..=NODES {
        catches_up(&cluster, id, "roomier");
    }
    replicas_become_equal(&cluster);
}
