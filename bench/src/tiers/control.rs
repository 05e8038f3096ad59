//! What a run asks single nodes: `INFO`, the value that a replica itself has, `BGSAVE`; and probes: keys
//! with a place in every shard, written to see that the shard takes writes and that a replica applies.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::TiersError;
use crate::load::client::ControlConnection;
use crate::load::resp::Reply;
use crate::load::slots::{SLOTS, SlotRange, parse_moved, slot_of};
use crate::load::topology::ask_cluster;

/// Longest wait for one reply. A node that recovers or snapshots may be slow.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Redirections that one command follows.
const MOVED_MAX: usize = 4;

/// `INFO` as names and values.
pub type Info = BTreeMap<String, String>;

/// A client for control commands. After an error the connection is made anew.
#[derive(Debug)]
pub struct Control {
    seeds: Vec<SocketAddr>,
    shards: u32,
    slots: Vec<SlotRange>,
    connections: HashMap<SocketAddr, ControlConnection>,
}

impl Control {
    /// A client of the cluster of `seeds`, which has `shards` shards.
    pub fn new(seeds: Vec<SocketAddr>, shards: u32) -> Self {
        Self { seeds, shards, slots: Vec::new(), connections: HashMap::new() }
    }

    /// Sends a command to `address`; gives the reply as text, an error reply as an error.
    ///
    /// # Errors
    /// What happened, in words.
    pub fn call(&mut self, address: SocketAddr, command: &[&[u8]]) -> Result<String, String> {
        let mut connection = match self.connections.remove(&address) {
            Some(connection) => connection,
            None => ControlConnection::connect(address, REPLY_TIMEOUT)
                .map_err(|error| format!("{address}: {error}"))?,
        };
        let reply = connection
            .call(command, |reply| match reply {
                Reply::Simple(text) | Reply::Bulk(text) => {
                    Ok(Some(String::from_utf8_lossy(text).into_owned()))
                }
                Reply::Integer(number) => Ok(Some(number.to_string())),
                Reply::Nil => Ok(None),
                Reply::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                Reply::Array(_) => Err("a reply that is an array".to_owned()),
            })
            .map_err(|error| format!("{address}: {error}"))?;
        self.connections.insert(address, connection);
        reply.map(Option::unwrap_or_default)
    }

    /// `INFO` of the node at `address`.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn info(&mut self, address: SocketAddr) -> Result<Info, String> {
        let text = self.call(address, &[b"INFO"])?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// What the replica at `address` has applied for `key`; empty for nothing.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn replica_get(&mut self, address: SocketAddr, key: &[u8]) -> Result<String, String> {
        self.call(address, &[b"READONLY"])?;
        self.call(address, &[b"GET", key])
    }

    /// Writes `value` to the probe of `shard`, once, through the shard's leader.
    ///
    /// # Errors
    /// Why it is not acknowledged.
    pub fn put_probe(&mut self, shard: u32, value: &str) -> Result<(), String> {
        let key = probe_key(shard, self.shards);
        let slot = slot_of(key.as_bytes());
        let mut target = self.owner(slot);
        for _ in 0..MOVED_MAX {
            let Some(address) = target.take() else { break };
            let put = self.call(address, &[b"SET", key.as_bytes(), value.as_bytes()]);
            let Err(error) = put else { return Ok(()) };
            self.slots.clear();
            match parse_moved(error.as_bytes(), address) {
                Some((_, owner)) => target = Some(owner),
                None => return Err(error),
            }
        }
        self.slots.clear();
        Err("nobody is known to lead it".to_owned())
    }

    /// Writes `value` to the probes of all shards.
    ///
    /// # Errors
    /// As [`Control::put_probe`].
    pub fn put_probes(&mut self, value: &str) -> Result<(), String> {
        (0..self.shards).try_for_each(|shard| self.put_probe(shard, value))
    }

    /// Whether the replica at `address` has applied `value` in every shard.
    ///
    /// # Errors
    /// Which shard has not, and what it has.
    pub fn has_probes(&mut self, address: SocketAddr, value: &str) -> Result<(), String> {
        for shard in 0..self.shards {
            let found = self.replica_get(address, probe_key(shard, self.shards).as_bytes())?;
            if found != value {
                return Err(format!("shard {shard} has {found:?} instead of {value:?}"));
            }
        }
        Ok(())
    }

    fn owner(&mut self, slot: u16) -> Option<SocketAddr> {
        if self.slots.is_empty() {
            let mut seeds = self.seeds.iter();
            self.slots = seeds.find_map(|seed| ask_cluster(*seed).ok()).unwrap_or_default();
        }
        let range = self.slots.iter().find(|range| (range.first..=range.last).contains(&slot));
        range.map(|range| range.owner)
    }
}

/// A key that lies in `shard` of `shards`.
fn probe_key(shard: u32, shards: u32) -> String {
    let lies_there = |key: &String| {
        u64::from(slot_of(key.as_bytes())) * u64::from(shards) / SLOTS as u64 == u64::from(shard)
    };
    (0_u32..)
        .map(|nth| format!("probe-{nth}"))
        .find(lies_there)
        .expect("there are more keys than slots")
}

/// Snapshots of a node, as `INFO persistence` tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveState {
    /// Whether one is under way.
    pub running: bool,
    /// When the last one was finished, seconds since 1970.
    pub last: u64,
}

impl SaveState {
    /// Reads it off `info`.
    ///
    /// # Errors
    /// The server does not tell.
    pub fn of(info: &Info) -> Result<Self, TiersError> {
        let number = |name: &'static str| {
            let value = info.get(name).and_then(|value| value.parse().ok());
            value.ok_or(TiersError::NoField(name))
        };
        Ok(Self {
            running: number("rdb_bgsave_in_progress")? != 0,
            last: number("rdb_last_save_time")?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_shard_has_a_probe_of_its_own() {
        for shards in [1, 3, 16] {
            let keys: std::collections::BTreeSet<_> =
                (0..shards).map(|shard| probe_key(shard, shards)).collect();
            assert_eq!(keys.len(), shards as usize);
        }
    }

    #[test]
    fn a_server_that_does_not_tell_of_snapshots_is_said() {
        let info = Info::from([("rdb_bgsave_in_progress".to_owned(), "1".to_owned())]);
        let error = SaveState::of(&info).unwrap_err().to_string();
        assert!(error.contains("rdb_last_save_time"), "{error}");
    }
}
