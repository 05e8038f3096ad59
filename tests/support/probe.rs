//! Probes: one key in every shard, to see that writes go on and that a replica has caught up.

use std::time::{Duration, Instant};

use super::client::Outcome;
use super::cluster::{Cluster, SHARDS, key_in_shard};
use super::wait::{self, SOON};

/// Writes `value` to every shard through the nodes that run; gives the time until all had it.
#[track_caller]
pub fn writes_go_on(cluster: &Cluster, value: &str) -> Duration {
    let start = Instant::now();
    let mut client = cluster.client();
    for shard in 0..SHARDS {
        let key = key_in_shard("probe", shard);
        wait::until(&format!("a write to shard {shard}"), SOON, || {
            match client.set(&key, value, Duration::from_millis(100)) {
                Outcome::Done(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    start.elapsed()
}

/// Waits until node `id` itself has applied `value` in every shard.
#[track_caller]
pub fn catches_up(cluster: &Cluster, id: u64, value: &str) {
    catches_up_in(cluster, id, value, 0..SHARDS);
}

/// Waits until node `id` itself has applied `value` in some shards.
#[track_caller]
pub fn catches_up_in(
    cluster: &Cluster,
    id: u64,
    value: &str,
    shards: impl IntoIterator<Item = u16>,
) {
    for shard in shards {
        let key = key_in_shard("probe", shard);
        wait::until(&format!("node {id} to catch up in shard {shard}"), SOON, || {
            match cluster.replica_value(id, &key)? {
                Some(found) if found == value => Ok(()),
                found => Err(format!("{found:?} instead of {value}")),
            }
        });
    }
}
