//! What an idle replica takes in memory: the bytes that are allocated and not freed while all shards of a cluster in
//! this process sleep, with many shards and with few. Neither the machine nor the time it takes matters.
//!
//! `cargo test --test memory -- --nocapture` tells the figure. What the operating system counts is more: `coracle-bench
//! idle` measures that.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use coracle::server::KvSessions;
use coracle::{LocalCluster, LocalClusterConfig, NodeHandle};
use futures_executor::block_on;
use peak_alloc::PeakAlloc;

use support::wait;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Most bytes of an idle replica. It has an empty key-value store without sessions and a log of one or two entries.
const REPLICA_BYTES_MAX: usize = 3000;

/// Shards of the smaller cluster, and of the larger one.
const SHARDS: [u32; 2] = [100, 600];
const NODES: usize = 3;

#[test]
fn an_idle_replica_takes_little_memory() {
    let [few, many] = SHARDS.map(bytes_asleep);
    let replicas = NODES * (SHARDS[1] - SHARDS[0]) as usize;
    let each = many.saturating_sub(few) / replicas;
    println!("{each} bytes per idle replica");
    assert!(
        each <= REPLICA_BYTES_MAX,
        "{each} bytes per idle replica, at most {REPLICA_BYTES_MAX}"
    );
}

/// What a cluster with so many shards has allocated when all of them sleep.
fn bytes_asleep(shards: u32) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let free = LocalClusterConfig::on_free_ports(dir.path()).unwrap();
    let config = LocalClusterConfig { shards, ..free };
    let before = MEMORY.current_usage();
    let cluster = LocalCluster::start(&config, |_| Box::<KvSessions>::default()).unwrap();
    let nodes = cluster.handles();
    wait::until("all shards asleep", Duration::from_secs(120), || awake(&nodes));
    let bytes = MEMORY.current_usage().saturating_sub(before);
    cluster.stop();
    bytes
}

/// An error while a shard has no leader, or anyone is awake.
fn awake(nodes: &[NodeHandle]) -> Result<(), String> {
    let cores: Vec<_> = nodes.iter().flat_map(|node| block_on(node.status())).collect();
    let awake: u64 = cores.iter().map(|core| core.counters.shards_awake).sum();
    let replicas = cores.iter().flat_map(|core| &core.shards);
    let leaderless = replicas.filter(|replica| replica.leader.is_none()).count();
    match (cores.len(), awake, leaderless) {
        (NODES, 0, 0) => Ok(()),
        _ => Err(format!("{awake} replicas awake, {leaderless} without a leader")),
    }
}
