//! Leaders spread by themselves: real processes, one of which is killed and comes back.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::cluster::{Cluster, SHARDS, key_in_shard};
use support::wait;

/// A bound for handing over what a node should lead: a look every second, and the first one only after an election.
const SPREAD: Duration = Duration::from_secs(120);

/// Who leads how many shards, as node `asked` says. An error while one is without a leader.
fn led(cluster: &Cluster, asked: u64) -> Result<BTreeMap<u64, usize>, String> {
    let mut led = BTreeMap::new();
    for shard in 0..SHARDS {
        let leader = cluster.leader_of(&key_in_shard("spread", shard), asked);
        *led.entry(leader.ok_or(format!("shard {shard} has no leader"))?).or_default() += 1;
    }
    Ok(led)
}

/// Waits until so many nodes lead about as many shards each.
fn wait_spread(cluster: &Cluster, nodes: usize, asked: u64) -> BTreeMap<u64, usize> {
    wait::until("leaders to spread", SPREAD, || {
        let led = led(cluster, asked)?;
        let (least, most) = (led.values().min().copied(), led.values().max().copied());
        match led.len() == nodes && most <= least.map(|least| least + 1) {
            true => Ok(led),
            false => Err(format!("{led:?}")),
        }
    })
}

#[test]
fn a_node_that_comes_back_leads_its_share_again_without_an_operator() {
    let mut cluster = Cluster::prepare();
    cluster.configure("--segment-mib 16 --spread-leaders");
    cluster.start_all();
    println!("at first {:?}", wait_spread(&cluster, 3, 1));
    cluster.kill(2);
    println!("without node 2 {:?}", wait_spread(&cluster, 2, 1));
    let begun = Instant::now();
    cluster.start_node(2);
    let led_now = wait_spread(&cluster, 3, 1);
    println!("{:?} after it was started again {led_now:?}", begun.elapsed());
    cluster.assert_running();
}
