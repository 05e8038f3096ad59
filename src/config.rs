//! The configuration of a node: one struct for the command line, a TOML file and embedders.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use coracle_engine::core::{DISK_SEGMENTS_MIN, Detection, TierConfig};
use coracle_engine::limits::{PRIORITY_MAX, VOTERS_MAX};
use coracle_engine::members::MemberRecord;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::admin::AdminAddress;
use crate::admin::limits::ADMIN_PORT_OFFSET;
use crate::limits::{CORES_MAX, MEMBERS_MAX, SHARDS_MAX};
use crate::uring::SyncMethod;
use crate::{NodeId, ShardId};

/// A member of the cluster and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Member {
    /// Its id, at least 1.
    pub id: NodeId,
    /// Host of its client ports, as clients reach it.
    pub client_host: String,
    /// Client port of core 0; core *i* has this + *i*.
    pub client_port: u16,
    /// Host of its peer ports, as the other nodes reach it.
    pub peer_host: String,
    /// Peer port of core 0; core *i* has this + *i*.
    pub peer_port: u16,
}

impl Member {
    /// Its record in an address book, as the configuration says it: of version 0.
    #[must_use]
    pub fn record(&self) -> MemberRecord {
        let client = (self.client_host.as_str(), self.client_port);
        MemberRecord::new(self.id, client, (&self.peer_host, self.peer_port))
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, client_host, client_port, peer_host, peer_port } = self;
        write!(f, "{id}={client_host}:{client_port},{peer_host}:{peer_port}")
    }
}

impl FromStr for Member {
    type Err = ConfigError;

    /// Reads `ID=CLIENT_HOST:PORT,PEER_HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let malformed = || ConfigError::Member(text.to_owned());
        let (id, addresses) = text.split_once('=').ok_or_else(malformed)?;
        let (client, peer) = addresses.split_once(',').ok_or_else(malformed)?;
        let (client_host, client_port) = host_port(client).ok_or_else(malformed)?;
        let (peer_host, peer_port) = host_port(peer).ok_or_else(malformed)?;
        let id = NodeId(id.trim().parse().map_err(|_| malformed())?);
        Ok(Self { id, client_host, client_port, peer_host, peer_port })
    }
}

impl TryFrom<String> for Member {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

/// Host and port of a text `HOST:PORT`, if it is one; 0 is no port.
pub fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Which CPUs the cores run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// Each core on a CPU of its own, if there are enough for all cores that this machine has to
    /// run (those of other members on the same host included); else wherever the kernel puts them.
    #[default]
    Auto,
    /// Each core on a CPU of its own: core *i* on the *i*-th CPU this process may use.
    Always,
    /// Wherever the kernel puts them.
    Never,
}

/// How a node tells that another one has fallen silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureDetector {
    /// By how regular its signs of life came before (phi accrual); after the election timeout at the latest.
    #[default]
    Phi,
    /// After the election timeout.
    Fixed,
}

impl From<FailureDetector> for Detection {
    fn from(detector: FailureDetector) -> Self {
        match detector {
            FailureDetector::Phi => Self::Phi,
            FailureDetector::Fixed => Self::Fixed,
        }
    }
}

/// A node's configuration. [`Config::new`] has the defaults; in a TOML file every key may be left
/// out that has one, and an unknown key is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's id: one of `members`.
    #[serde(deserialize_with = "node_id")]
    pub id: NodeId,
    /// Where its data is kept. Created if missing; belongs to one node and one process.
    pub data_dir: PathBuf,
    /// Cores to run, each with its own log, ports and shards.
    #[serde(default = "one")]
    pub cores: u16,
    /// Raft groups of the cluster; the same on all nodes, and for good.
    #[serde(default = "sixteen")]
    pub shards: u32,
    /// The members as far as they are known, this node included. A running cluster tells its nodes who was added,
    /// removed or moved, and they remember it; only what nobody has changed is taken from here.
    pub members: Vec<Member>,
    /// Ids of the members that vote in every shard of a new cluster; the same on all of its nodes, for
    /// good, also when other nodes vote by now: a node remembers those of its first start, and refuses others. Left out,
    /// they are all members, or nobody with `join`: the leaders of the shards tell a node that joins when it is
    /// added. Members that are not listed belong to no shard until they are added.
    #[serde(default)]
    pub voters: Option<Vec<u64>>,
    /// `HOST:PORT`, the peer address of any core of any member: this node joins the cluster that is there. It
    /// learns the other members from it, so that `members` needs no more than the node itself, and it belongs to no
    /// shard until a change adds it. When it is known to the cluster, this has no effect any more.
    #[serde(default)]
    pub join: Option<String>,
    /// Name that keeps clusters apart.
    #[serde(default = "default_cluster_id")]
    pub cluster_id: String,
    /// Shortest time without a leader before a replica stands for election, in milliseconds; each
    /// waits for a random time between this and twice this.
    #[serde(default = "default_election_timeout_ms")]
    pub election_timeout_ms: u64,
    /// How often a leader is heard from, in milliseconds; at most a fifth of the election timeout.
    #[serde(default = "default_heartbeat_interval_ms")]
    pub heartbeat_interval_ms: u64,
    /// Answer linearizable reads without asking the other nodes, while the clock says that nobody else leads. This is
    /// by how much, in parts per million, any node's clock may be faster than any other's: 1500 for machines
    /// whose clocks NTP keeps. The same on all nodes. Not for machines that are suspended, or paused as virtual ones
    /// are: their clocks stand still meanwhile. Not set: no read rests on a clock.
    #[serde(default)]
    pub lease_drift_ppm: Option<u32>,
    /// How much this node should rather lead than others, -8 to 8: below 0 it does so only if nobody else can,
    /// and a leader hands over to a node that has more than it has itself.
    #[serde(default)]
    pub priority: i8,
    /// Hand over leaders, a few at a time, until all nodes lead about as many shards as the others; a node that was
    /// restarted has its share again soon. It also moves what somebody has handed over by hand.
    #[serde(default)]
    pub spread_leaders: bool,
    /// How old what a replica answers may be that does not lead, in milliseconds: reads of connections that said
    /// `READONLY`. One that can't show that its state is so new asks the leader; if that does not help, the client is sent
    /// there. 0 is without bound.
    #[serde(default)]
    pub replica_read_staleness_ms: u64,
    /// How the node tells that another one has fallen silent. Shards with nothing to do exchange no heartbeats: their
    /// replicas go by that.
    #[serde(default)]
    pub failure_detector: FailureDetector,
    /// How writes are made durable.
    #[serde(default)]
    pub sync_method: SyncMethod,
    /// Size of a log segment in MiB.
    #[serde(default = "default_segment_mib")]
    pub segment_mib: u32,
    /// Memory for the log in MiB, of the whole node; its cores share it equally. Three quarters are for the newest
    /// entries, those beyond lie on the disk alone; the rest is for buffers that read, write and send them.
    /// At least 1 for each core.
    #[serde(default = "default_log_memory_mib")]
    pub log_memory_mib: u64,
    /// Disk space for logs and snapshots in MiB, of the whole node; its cores share it equally. When it
    /// nears, log is given up; when it is used up, writes are refused. 0 is all there is; otherwise at
    /// least 8 segments for each core, and sensibly four times the state.
    #[serde(default)]
    pub log_disk_mib: u64,
    /// A shard gets a snapshot when its log since the last one is larger than this, in MiB, and than that
    /// snapshot. Small ones make restarts quick: all shards together read at most about `shards` times this.
    #[serde(default = "default_snapshot_log_mib")]
    pub snapshot_log_mib: u64,
    /// A shard that was written to gets a snapshot after so many seconds, however little it was. 0 is never.
    #[serde(default)]
    pub snapshot_interval_s: u64,
    /// Log of each shard in MiB that stays behind its snapshot, for followers that are a little behind.
    #[serde(default = "default_keep_log_mib")]
    pub keep_log_mib: u64,
    /// How long more of the log stays for a follower that is down or slow, in seconds, as far as
    /// `log_disk_mib` allows. After that it gets a snapshot.
    #[serde(default = "default_keep_log_s")]
    pub keep_log_s: u64,
    /// What one core sends of snapshots to other nodes, in MiB per second. 0 is as fast as it goes.
    #[serde(default)]
    pub transfer_mib_per_s: u64,
    /// Keep segments that are not needed any more as `archive-N` files instead of using them again. You
    /// have to remove them: nothing else does, and `log_disk_mib` does not count them.
    #[serde(default)]
    pub archive: bool,
    /// Which CPUs the cores run on.
    #[serde(default)]
    pub pin: Pin,
    /// Where the server is administered: `HOST:PORT` or `off`. Whoever reaches it administers the cluster. If left
    /// out, 127.0.0.1 and 2000 above the client port of this node's core 0.
    #[serde(default)]
    pub admin: AdminAddress,
    /// Client connections that one core serves at the same time.
    #[serde(default = "default_clients_max")]
    pub clients_max: usize,
    /// Start although the log is damaged below a position known durable. What the damage took is
    /// lost on this node: only for when its peers, or you, know better.
    #[serde(default)]
    pub start_on_damage: bool,
}

fn node_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
    u64::deserialize(deserializer).map(NodeId)
}
fn one() -> u16 {
    1
}
fn sixteen() -> u32 {
    16
}
fn default_cluster_id() -> String {
    "coracle".to_owned()
}
fn default_election_timeout_ms() -> u64 {
    500
}
fn default_heartbeat_interval_ms() -> u64 {
    100
}
fn default_segment_mib() -> u32 {
    64
}
fn default_log_memory_mib() -> u64 {
    256
}
fn default_snapshot_log_mib() -> u64 {
    64
}
fn default_keep_log_mib() -> u64 {
    32
}
fn default_keep_log_s() -> u64 {
    60
}
fn default_clients_max() -> usize {
    10_000
}

/// A configuration that cannot work, and what to change.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// `--member` or an item of `members` is malformed.
    #[error("member '{0}' is not of the form ID=CLIENT_HOST:PORT,PEER_HOST:PORT")]
    Member(String),
    /// No members at all.
    #[error("no members: name every node of the cluster, this one included, with --member")]
    NoMembers,
    /// A node id of 0.
    #[error("node ids start at 1")]
    IdZero,
    /// This node is not among the members.
    #[error("node {0} is not among the members: repeat --member for every node, itself included")]
    NotAMember(NodeId),
    /// An initial voter that is no member, or named twice.
    #[error(
        "node {0} is to vote, but is not among the members, or is named twice: list ids of members, each once"
    )]
    Voter(u64),
    /// An address of a member that is none.
    #[error("member {id}: {flaw}")]
    MemberFlaw {
        /// The member.
        id: NodeId,
        /// What is wrong with it.
        flaw: &'static str,
    },
    /// The address to join at is none.
    #[error(
        "'{0}' is not an address to join at: give HOST:PORT, the peer address of any member of the cluster"
    )]
    Join(String),
    /// A node that joins a cluster, and votes in a new one.
    #[error(
        "a node that joins a cluster is no voter of a new one: leave --join away, or --voter (or 'voters')"
    )]
    JoiningVoters,
    /// Two members with the same id.
    #[error("member {0} is named twice: every node needs an id of its own")]
    DuplicateMember(NodeId),
    /// Two cores would listen on the same address.
    #[error(
        "{0} is used twice: with {1} cores, each node takes {1} client and {1} peer ports in a row"
    )]
    DuplicateAddress(String, u16),
    /// A number outside of its range.
    #[error("{what} is {value}, it must be between {min} and {max}")]
    Range {
        /// What it is.
        what: &'static str,
        /// What was given.
        value: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// Fewer shards than cores.
    #[error("{shards} shards cannot occupy {cores} cores: give at least one shard to each core")]
    FewShards {
        /// Shards.
        shards: u32,
        /// Cores.
        cores: u16,
    },
    /// The disk budget is too small for the log to work in.
    #[error(
        "log_disk_mib is {value}: with {cores} cores and segments of {segment_mib} MiB it must be 0 (no \
         limit) or at least {min}; allow more, or make segment_mib smaller"
    )]
    LogDisk {
        /// What was given, MiB.
        value: u64,
        /// Smallest value, MiB.
        min: u64,
        /// Cores.
        cores: u16,
        /// Size of a segment, MiB.
        segment_mib: u32,
    },
    /// The cluster id is unusable.
    #[error("the cluster id must have 1 to 64 characters out of a-z A-Z 0-9 - _ .")]
    ClusterId,
    /// The file is not TOML, or has a wrong or unknown key.
    #[error("{0}")]
    Toml(String),
}

impl Config {
    /// The configuration of node `id` with the defaults for everything else.
    pub fn new(id: NodeId, data_dir: impl Into<PathBuf>, members: Vec<Member>) -> Self {
        Self {
            id,
            data_dir: data_dir.into(),
            cores: one(),
            shards: sixteen(),
            members,
            voters: None,
            join: None,
            cluster_id: default_cluster_id(),
            election_timeout_ms: default_election_timeout_ms(),
            heartbeat_interval_ms: default_heartbeat_interval_ms(),
            lease_drift_ppm: None,
            priority: 0,
            spread_leaders: false,
            replica_read_staleness_ms: 0,
            failure_detector: FailureDetector::default(),
            sync_method: SyncMethod::default(),
            segment_mib: default_segment_mib(),
            log_memory_mib: default_log_memory_mib(),
            log_disk_mib: 0,
            snapshot_log_mib: default_snapshot_log_mib(),
            snapshot_interval_s: 0,
            keep_log_mib: default_keep_log_mib(),
            keep_log_s: default_keep_log_s(),
            transfer_mib_per_s: 0,
            archive: false,
            pin: Pin::default(),
            admin: AdminAddress::default(),
            clients_max: default_clients_max(),
            start_on_damage: false,
        }
    }

    /// Reads a TOML document.
    ///
    /// # Errors
    /// [`ConfigError::Toml`] with line and reason. The values are checked by [`Config::validate`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Toml(error.to_string()))
    }

    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// The first thing that does not, and what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range("cores", self.cores.into(), 1, CORES_MAX.into())?;
        range("shards", self.shards.into(), 1, SHARDS_MAX.into())?;
        range("members", self.members.len() as u64, 0, MEMBERS_MAX as u64)?;
        range("election_timeout_ms", self.election_timeout_ms, 50, 60_000)?;
        range(
            "heartbeat_interval_ms",
            self.heartbeat_interval_ms,
            10,
            self.election_timeout_ms / 5,
        )?;
        // Even so a lease is longer than two heartbeat intervals.
        range("lease_drift_ppm", self.lease_drift_ppm.unwrap_or(0).into(), 0, 1_000_000)?;
        let priority_max = u64::from(PRIORITY_MAX.unsigned_abs());
        range("priority (without its sign)", self.priority.unsigned_abs().into(), 0, priority_max)?;
        range("replica_read_staleness_ms", self.replica_read_staleness_ms, 0, STALENESS_MS_MAX)?;
        range("segment_mib", self.segment_mib.into(), 16, 4096)?;
        range("clients_max", self.clients_max as u64, 1, 1_000_000)?;
        self.validate_tiers()?;
        if u32::from(self.cores) > self.shards {
            return Err(ConfigError::FewShards { shards: self.shards, cores: self.cores });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&self.cluster_id.len()) || !self.cluster_id.chars().all(allowed) {
            return Err(ConfigError::ClusterId);
        }
        self.validate_members()
    }

    fn validate_tiers(&self) -> Result<(), ConfigError> {
        range("log_memory_mib", self.log_memory_mib, self.cores.into(), MIB_MAX)?;
        range("log_disk_mib", self.log_disk_mib, 0, MIB_MAX)?;
        range("snapshot_log_mib", self.snapshot_log_mib, 1, MIB_MAX)?;
        range("snapshot_interval_s", self.snapshot_interval_s, 0, SECONDS_MAX)?;
        range("keep_log_mib", self.keep_log_mib, 0, MIB_MAX)?;
        range("keep_log_s", self.keep_log_s, 0, SECONDS_MAX)?;
        range("transfer_mib_per_s", self.transfer_mib_per_s, 0, MIB_MAX)?;
        let min = DISK_SEGMENTS_MIN * u64::from(self.segment_mib) * u64::from(self.cores);
        if self.log_disk_mib != 0 && self.log_disk_mib < min {
            let Self { cores, segment_mib, log_disk_mib: value, .. } = *self;
            return Err(ConfigError::LogDisk { value, min, cores, segment_mib });
        }
        Ok(())
    }

    fn validate_members(&self) -> Result<(), ConfigError> {
        if self.members.is_empty() {
            return Err(ConfigError::NoMembers);
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for member in &self.members {
            if member.id == NodeId(0) {
                return Err(ConfigError::IdZero);
            }
            if let Some(flaw) = member.record().flaw() {
                return Err(ConfigError::MemberFlaw { id: member.id, flaw });
            }
            if !ids.insert(member.id) {
                return Err(ConfigError::DuplicateMember(member.id));
            }
            let ports =
                [(&member.client_host, member.client_port), (&member.peer_host, member.peer_port)];
            for (host, first) in ports {
                range("a port", u64::from(first) + u64::from(self.cores) - 1, 1, 65_535)?;
                // Other members may have other core counts: only our own are certain to be taken.
                let cores = if member.id == self.id { self.cores } else { 1 };
                for port in first..=first + (cores - 1) {
                    if !addresses.insert((host.clone(), port)) {
                        let address = format!("{host}:{port}");
                        return Err(ConfigError::DuplicateAddress(address, self.cores));
                    }
                }
            }
        }
        if let Some(join) = self.join.as_ref().filter(|join| host_port(join).is_none()) {
            return Err(ConfigError::Join(join.clone()));
        }
        if self.join.is_some() && self.voters.as_ref().is_some_and(|voters| !voters.is_empty()) {
            return Err(ConfigError::JoiningVoters);
        }
        let voters = self.initial_voters().len() as u64;
        range("voters (all members, if there is no list of them)", voters, 0, VOTERS_MAX as u64)?;
        for (place, voter) in self.voters.iter().flatten().enumerate() {
            let twice = self.voters.iter().flatten().take(place).any(|other| other == voter);
            if twice || !ids.contains(&NodeId(*voter)) {
                return Err(ConfigError::Voter(*voter));
            }
        }
        if ids.contains(&self.id) { Ok(()) } else { Err(ConfigError::NotAMember(self.id)) }
    }

    /// The voters of every shard before its first entry: see [`Config::voters`].
    pub fn initial_voters(&self) -> Vec<NodeId> {
        match &self.voters {
            Some(voters) => voters.iter().copied().map(NodeId).collect(),
            None if self.join.is_some() => Vec::new(),
            None => self.members.iter().map(|member| member.id).collect(),
        }
    }

    /// Where the server is to be administered, if anywhere. A default that would be no port is refused at the
    /// start like any other that can't be had.
    pub fn admin_address(&self) -> Option<String> {
        match &self.admin {
            AdminAddress::Off => None,
            AdminAddress::At(address) => Some(address.clone()),
            AdminAddress::Default => {
                let client_port = u32::from(self.own_member()?.client_port);
                Some(format!("127.0.0.1:{}", client_port + u32::from(ADMIN_PORT_OFFSET)))
            }
        }
    }

    /// This node's own entry among the members.
    pub fn own_member(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.id == self.id)
    }

    /// Shortest time without a leader before an election.
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms)
    }

    /// How often a leader is heard from.
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    /// What each core keeps of its logs, and where: the node's budgets, shared out equally.
    pub fn tiers(&self) -> TierConfig {
        let share = |mib: u64| (mib << 20) / u64::from(self.cores.max(1));
        TierConfig {
            // The rest is for what reads, writes and sends entries: see the docs of the setting.
            log_memory_bytes: share(self.log_memory_mib) / 4 * 3,
            disk_bytes_max: share(self.log_disk_mib),
            snapshot_log_bytes: self.snapshot_log_mib << 20,
            snapshot_interval: (self.snapshot_interval_s != 0)
                .then(|| Duration::from_secs(self.snapshot_interval_s)),
            keep_log_bytes: self.keep_log_mib << 20,
            keep_log_time: Duration::from_secs(self.keep_log_s),
            transfer_bytes_per_s: self.transfer_mib_per_s << 20,
            archive: self.archive,
        }
    }

    /// How old what a replica answers may be; `None` is without bound.
    pub(crate) fn replica_read_staleness(&self) -> Option<Duration> {
        let ms = self.replica_read_staleness_ms;
        (ms != 0).then(|| Duration::from_millis(ms))
    }

    /// All shards of the cluster.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }
}

/// Largest size that can be configured, in MiB: 1 PiB.
pub(crate) const MIB_MAX: u64 = 1 << 30;

/// Longest time that can be configured, in seconds: a year.
pub(crate) const SECONDS_MAX: u64 = 366 * 86_400;

/// Longest time that can be configured, in milliseconds.
pub(crate) const STALENESS_MS_MAX: u64 = SECONDS_MAX * 1000;

fn range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::Range { what, value, min, max })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FILE: &str = r#"
        id = 2
        data_dir = "data"
        cores = 2
        sync_method = "linked"
        members = [
            "1=10.0.0.1:7001,10.0.0.1:8001",
            "2=10.0.0.2:7001,10.0.0.2:8001",
        ]
    "#;

    #[test]
    fn reads_a_file_and_fills_in_defaults() {
        let config = Config::from_toml(FILE).unwrap();
        config.validate().unwrap();
        assert_eq!((config.id, config.cores, config.shards), (NodeId(2), 2, 16));
        assert_eq!(config.own_member().unwrap().client_host, "10.0.0.2");
        assert_eq!(config.sync_method, SyncMethod::Linked);
        assert_eq!(config.failure_detector, FailureDetector::Phi);
        let config = Config::from_toml(&format!("{FILE}\nfailure_detector = 'fixed'")).unwrap();
        assert_eq!(config.failure_detector, FailureDetector::Fixed);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = Config::from_toml(&format!("{FILE}\nshardz = 4")).unwrap_err();
        assert!(error.to_string().contains("shardz"), "{error}");
    }

    #[test]
    fn refuses_what_cannot_work() {
        let config = Config::from_toml(FILE).unwrap();
        let refused = |change: fn(&mut Config)| {
            let mut config = config.clone();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(refused(|c| c.id = NodeId(9)), ConfigError::NotAMember(NodeId(9)));
        assert_eq!(refused(|c| c.members.clear()), ConfigError::NoMembers);
        let twice = refused(|c| c.members[0].id = NodeId(2));
        assert_eq!(twice, ConfigError::DuplicateMember(NodeId(2)));
        assert_eq!(refused(|c| c.members[0].id = NodeId(0)), ConfigError::IdZero);
        let same = refused(|c| c.members[1].peer_port = 7002);
        assert_eq!(same, ConfigError::DuplicateAddress("10.0.0.2:7002".into(), 2));
        assert!(matches!(refused(|c| c.members[1].peer_port = 65_535), ConfigError::Range { .. }));
        assert!(matches!(refused(|c| c.cores = 0), ConfigError::Range { what: "cores", .. }));
        assert!(matches!(refused(|c| c.shards = 1), ConfigError::FewShards { .. }));
        assert_eq!(refused(|c| c.cluster_id = "a b".into()), ConfigError::ClusterId);
        assert!(matches!(refused(|c| c.heartbeat_interval_ms = 400), ConfigError::Range { .. }));
    }

    #[test]
    fn budgets_are_shared_out_over_the_cores() {
        let text = format!("{FILE}\nlog_disk_mib = 4096\nsnapshot_interval_s = 60\narchive = true");
        let config = Config::from_toml(&text).unwrap();
        config.validate().unwrap();
        let tiers = config.tiers();
        assert_eq!((tiers.log_memory_bytes, tiers.disk_bytes_max), (96 << 20, 2048 << 20));
        assert_eq!(tiers.snapshot_interval, Some(Duration::from_secs(60)));
        assert!(tiers.archive);
        let mut wal = coracle_wal::Options::default();
        wal.segment_bytes = u64::from(config.segment_mib) << 20;
        assert_eq!(tiers.flaw(&wal), None);
        let single = Config::new(NodeId(1), "data", Vec::new());
        assert_eq!(single.tiers(), TierConfig::default(), "the same defaults in both places");
    }

    #[test]
    fn a_disk_budget_too_small_for_the_segments_is_refused() {
        let mut config = Config::from_toml(FILE).unwrap();
        config.log_disk_mib = 1023;
        let (value, min, cores, segment_mib) = (1023, 1024, 2, 64);
        let refused = ConfigError::LogDisk { value, min, cores, segment_mib };
        assert_eq!(config.validate(), Err(refused));
        config.segment_mib = 32;
        config.validate().unwrap();
        config.log_memory_mib = 1;
        let refused = config.validate().unwrap_err();
        assert!(matches!(refused, ConfigError::Range { what: "log_memory_mib", min: 2, .. }));
    }

    #[test]
    fn the_last_port_can_be_used() {
        let mut config = Config::from_toml(FILE).unwrap();
        config.cores = 1;
        config.members[1].peer_port = 65_535;
        config.validate().unwrap();
    }

    #[test]
    fn a_member_reads_as_it_prints() {
        let text = "3=localhost:7021,[::1]:8021";
        assert_eq!(text.parse::<Member>().unwrap().to_string(), text);
        for bad in ["", "1", "1=a:1", "x=a:1,b:2", "1=a:0,b:2", "1=:1,b:2", "1=a:99999,b:2"] {
            assert_eq!(bad.parse::<Member>(), Err(ConfigError::Member(bad.into())));
        }
    }
}
