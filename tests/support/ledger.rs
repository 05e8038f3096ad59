//! Values that are written over and over, and what must be found of them: of each key the last version
//! that was acknowledged, or a later one whose outcome nobody knows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::{Client, Outcome};
use super::cluster::{Cluster, SHARDS, key_in_shard};
use super::resp::Reply;
use super::wait::SOON;

/// How long a client tries one write.
const WRITE_BOUND: Duration = Duration::from_secs(20);

/// Clients that write at the same time.
const WRITERS: u64 = 4;

/// Versions of one key, from 1; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    acknowledged: u64,
    /// The last one that may have been written.
    attempted: u64,
}

/// Which versions of which keys were written. All values of a ledger are of one size.
#[derive(Clone, Debug)]
pub struct Ledger {
    bytes: usize,
    keys: BTreeMap<String, Versions>,
    acknowledged: u64,
}

impl Ledger {
    /// An empty ledger of values of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        Self { bytes, keys: BTreeMap::new(), acknowledged: 0 }
    }

    /// Acknowledged writes.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Writes the next version of `key`.
    pub fn write(&mut self, client: &mut Client, key: &str, bound: Duration) -> Outcome {
        let versions = self.keys.entry(key.to_owned()).or_default();
        let version = versions.attempted + 1;
        versions.attempted = version;
        let outcome = client.set(key, &value(key, version, self.bytes), bound);
        if matches!(outcome, Outcome::Done(_)) {
            versions.acknowledged = version;
            self.acknowledged += 1;
        }
        outcome
    }

    /// Writes `rounds` more versions of `per_shard` keys in every shard, with several clients; all of them must
    /// be acknowledged or of unknown outcome.
    #[track_caller]
    pub fn write_rounds(&mut self, cluster: &Cluster, per_shard: u64, rounds: u64) {
        let parts: Vec<Ledger> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let (mut part, mut client) = (self.clone(), cluster.client());
                    part.acknowledged = 0;
                    let keys: Vec<String> = keys(per_shard)
                        .enumerate()
                        .filter(|(nth, _)| *nth as u64 % WRITERS == number)
                        .map(|(_, key)| key)
                        .collect();
                    part.keys.retain(|key, _| keys.contains(key));
                    scope.spawn(move || {
                        for _ in 0..rounds {
                            for key in &keys {
                                let outcome = part.write(&mut client, key, WRITE_BOUND);
                                let refused = matches!(outcome, Outcome::Refused(_));
                                assert!(!refused, "the write of {key}: {outcome:?}");
                            }
                        }
                        part
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for part in parts {
            self.acknowledged += part.acknowledged;
            self.keys.extend(part.keys);
        }
    }

    /// Reads every key through its leader and panics when something acknowledged is lost.
    #[track_caller]
    pub fn verify(&self, cluster: &Cluster) {
        let mut client = cluster.client();
        for (key, versions) in &self.keys {
            let found = match client.get(key, SOON).unwrap() {
                Reply::Nil => None,
                Reply::Bulk(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                other => panic!("GET {key} replied {other:?}"),
            };
            let Some(found) = found else {
                assert_eq!(versions.acknowledged, 0, "{key} is lost: {versions:?}");
                continue;
            };
            let version: u64 = found.split(':').nth(1).unwrap_or_default().parse().unwrap_or(0);
            let may_be = versions.acknowledged.max(1)..=versions.attempted;
            let start = &found[..found.len().min(40)];
            assert!(may_be.contains(&version), "{key} is {start:?}, expected {versions:?}");
            assert_eq!(found, value(key, version, self.bytes), "{key} is mangled");
        }
    }
}

/// Keys of which each shard has `per_shard`.
pub fn keys(per_shard: u64) -> impl Iterator<Item = String> {
    (0..per_shard).flat_map(|nth| (0..SHARDS).map(move |shard| key_of(nth, shard)))
}

/// The `nth` key in `shard`.
pub fn key_of(nth: u64, shard: u16) -> String {
    key_in_shard(&format!("large-{nth}"), shard)
}

fn value(key: &str, version: u64, bytes: usize) -> String {
    let mut value = format!("{key}:{version}:");
    let filler = format!("{version:016x}");
    while value.len() < bytes {
        value.push_str(&filler);
    }
    value.truncate(bytes);
    value
}
