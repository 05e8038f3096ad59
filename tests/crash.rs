//! Nodes that crash one by one or all at once, and a leader that sleeps: nothing acknowledged is
//! lost, nothing stale is read, and writes go on.
//!
//! Real processes under the load of several clients. For longer runs:
//! `CORACLE_CRASH_ROUNDS` (how often a node is killed; default 4), `CORACLE_CRASH_SEED` (which, and
//! when; default 1), `CORACLE_STOP_SECONDS` (how long the leader sleeps; default 5) and
//! `CORACLE_PAUSE_MS_MAX` (longest pause of writes after a kill that passes; default 30,000, because
//! the machine may be slow and busy; 2,000 is what an idle one keeps).
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::client::Outcome;
use support::cluster::{Cluster, NODES, SHARDS, key_in_shard};
use support::load::Load;
use support::probe::{catches_up, writes_go_on};
use support::random::Random;
use support::resp::{Connection, Reply};
use support::wait::{self, SOON};

/// Client threads of the load.
const CLIENTS: usize = 4;

/// Most operations between two events.
const OPERATIONS_BETWEEN_MAX: u64 = 2_000;

fn rounds() -> u64 {
    wait::from_env("CORACLE_CRASH_ROUNDS", 4)
}

fn seed() -> u64 {
    wait::from_env("CORACLE_CRASH_SEED", 1)
}

#[test]
fn a_killed_node_is_missed_by_nobody_and_catches_up() {
    let _alone = wait::alone();
    let pause_max = Duration::from_millis(wait::from_env("CORACLE_PAUSE_MS_MAX", 30_000));
    let mut random = Random::new(seed());
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, CLIENTS, seed());
    for round in 0..rounds() {
        load.wait_for_more(random.below(OPERATIONS_BETWEEN_MAX));
        let shard = u16::try_from(random.below(u64::from(SHARDS))).unwrap();
        let some_leader = cluster.leader_of(&key_in_shard("probe", shard), 1);
        let some_node = 1 + random.below(NODES);
        let victim = some_leader.filter(|_| round % 2 == 0).unwrap_or(some_node);
        cluster.kill(victim);
        let value = format!("round-{round}");
        let pause = writes_go_on(&cluster, &value);
        println!("round {round}: node {victim} killed, every shard written to after {pause:?}");
        assert!(
            pause <= pause_max,
            "writes paused for {pause:?}, at most {pause_max:?} are allowed"
        );
        load.wait_for_more(random.below(OPERATIONS_BETWEEN_MAX));
        cluster.start_node(victim);
        catches_up(&cluster, victim, &value);
    }
    load.verify(&mut cluster);
}

#[test]
fn all_nodes_killed_at_once_lose_nothing() {
    let _alone = wait::alone();
    let mut random = Random::new(seed());
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, CLIENTS, seed());
    for _ in 0..rounds().div_ceil(2) {
        load.wait_for_more(random.below(OPERATIONS_BETWEEN_MAX));
        cluster.kill_all();
        cluster.start_all();
    }
    load.verify(&mut cluster);
}

#[test]
fn a_rolling_restart_loses_nothing() {
    let _alone = wait::alone();
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, CLIENTS, seed());
    for id in 1..=NODES {
        load.wait_for_more(200);
        let ended = cluster.terminate(id);
        assert!(ended.status.success(), "node {id}: {}\n{}", ended.status, ended.output);
        let value = format!("without-{id}");
        println!(
            "node {id} stopped, every shard written to after {:?}",
            writes_go_on(&cluster, &value)
        );
        cluster.start_node(id);
        catches_up(&cluster, id, &value);
    }
    load.verify(&mut cluster);
}

#[test]
fn a_leader_that_slept_serves_nothing_stale() {
    let _alone = wait::alone();
    let sleep = Duration::from_secs(wait::from_env("CORACLE_STOP_SECONDS", 5));
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let sleeper = cluster.leader_of(&key_in_shard("slept", 0), 1).expect("shard 0 has a leader");
    let keys: Vec<String> = (0..SHARDS)
        .map(|shard| key_in_shard("slept", shard))
        .filter(|key| cluster.leader_of(key, 1) == Some(sleeper))
        .collect();
    for key in &keys {
        client.set(key, "old", SOON).unwrap();
    }
    let mut early: Vec<Connection> = keys.iter().map(|_| cluster.connect(sleeper)).collect();
    for connection in &mut early {
        assert_eq!(connection.command("PING").unwrap(), Reply::Simple("PONG".to_owned()));
    }
    let load = Load::start(&cluster, CLIENTS, seed());
    load.wait_for_more(200);

    cluster.node(sleeper).pause();
    let asleep_since = Instant::now();
    for key in &keys {
        wait::until(&format!("another leader for {key}"), SOON, || {
            match client.set(key, "new", Duration::from_millis(100)) {
                Outcome::Done(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    // These reads begin after "new" was acknowledged: "old" would be stale. Some wait in the buffers
    // of connections that the leader knows, some on connections that it has yet to accept.
    let mut late: Vec<Connection> = keys.iter().map(|_| cluster.connect(sleeper)).collect();
    for (nth, key) in keys.iter().enumerate() {
        early[nth].send(&[b"GET", key.as_bytes()]).unwrap();
        late[nth].send(&[b"GET", key.as_bytes()]).unwrap();
    }
    std::thread::sleep(sleep.saturating_sub(asleep_since.elapsed()));
    cluster.node(sleeper).resume();

    for (nth, key) in keys.iter().enumerate() {
        for connection in [&mut early[nth], &mut late[nth]] {
            match connection.reply().unwrap() {
                Reply::Error(text) => println!("{key}: {text}"),
                reply => assert_eq!(reply, Reply::Bulk(b"new".to_vec()), "a stale read of {key}"),
            }
        }
    }
    load.wait_for_more(200);
    load.verify(&mut cluster);
}
