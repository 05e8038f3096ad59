//! The disk of a leader freezes: its shards are led elsewhere while it is frozen, and writes go on. Needs root,
//! because it mounts a file system for each node.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use support::client::Outcome;
use support::cluster::{Cluster, key_in_shard};
use support::small_disk::SmallDisk;
use support::wait::{self, SOON};

/// Room for a node's first segments.
const DISK_BYTES: u64 = 512 << 20;

#[test]
fn a_leader_whose_disk_is_frozen_is_replaced_while_it_is() {
    const NAME: &str = "a_leader_whose_disk_is_frozen_is_replaced_while_it_is";
    let mut cluster = Cluster::prepare();
    cluster.configure("--segment-mib 16");
    let disks: Result<Vec<SmallDisk>, String> =
        (1..=3).map(|_| SmallDisk::mount(DISK_BYTES)).collect();
    let disks = match disks {
        Ok(disks) => disks,
        Err(reason) => return wait::skip(NAME, &reason),
    };
    for (id, disk) in (1..).zip(&disks) {
        let directory = disk.path().join("data");
        std::fs::create_dir(&directory).unwrap();
        symlink(directory, cluster.data_dir(id)).unwrap();
    }
    cluster.start_all();
    let key = key_in_shard("frozen", 0);
    let mut client = cluster.client();
    client.set(&key, "before", SOON).unwrap();
    let leader = wait::until("a leader", SOON, || cluster.leader_of(&key, 1).ok_or(String::new()));
    let asked = leader % 3 + 1;

    let frozen = match disks[leader as usize - 1].freeze() {
        Ok(frozen) => frozen,
        Err(reason) => return wait::skip(NAME, &reason),
    };
    let begun = Instant::now();
    // What shows that the disk is frozen is the first write that wants it.
    let _ = client.set(&key, "during", Duration::from_secs(1));
    let next = wait::until("another leader", SOON, || match cluster.leader_of(&key, asked) {
        Some(next) if next != leader => Ok(next),
        other => Err(format!("{other:?}, {leader} is frozen")),
    });
    println!("node {leader} is frozen, node {next} leads after {:?}", begun.elapsed());
    let done = client.set(&key, "meanwhile", SOON);
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    drop(frozen);
    wait::until("the node to follow", SOON, || match cluster.replica_value(leader, &key) {
        Ok(Some(value)) if value == "meanwhile" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.assert_running();
}
