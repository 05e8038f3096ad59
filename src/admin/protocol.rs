//! What is said on an admin port: one JSON document per line, an [`Envelope`] with a [`Request`], and a [`Reply`].
//!
//! ```text
//! {"protocol":1,"request":"status"}
//! {"ok":{"status":{"cluster":"coracle","node":1,...}}}
//! {"protocol":1,"node":1,"request":{"transfer":{"shard":3,"to":2}}}
//! {"error":{"kind":"not_leader","leader":3,"admin":"127.0.0.1:9021","message":"..."}}
//! ```
//! A request is one operation on the node that is asked. What takes several, or several nodes, is put together by
//! who asks: `coraclectl` does. All of them may be asked again: what is so already stays so.
//!
//! Ids and indices are plain numbers here, as in JSON. A document that is no request ends the connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of what is said; others are refused.
pub const PROTOCOL: u32 = 1;

/// A request, and for whom it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The cluster that is meant; any other one refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The node that is meant; any other one refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// How long to wait for the outcome, in milliseconds; see [`limits`](super::limits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// What is wanted.
    pub request: Request,
}

impl Envelope {
    /// For whoever gets it.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self { protocol: PROTOCOL, cluster: None, node: None, wait_ms: None, request }
    }
}

/// One operation on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the node is: [`NodeStatus`].
    Status,
    /// The members it knows, and those that were removed: a list of [`MemberInfo`].
    Members,
    /// Its replicas: a list of [`ReplicaInfo`].
    Shards,
    /// Makes changes to who belongs to a shard that it leads, as one.
    Reconfigure {
        /// The shard.
        shard: u32,
        /// The changes. Without any: leave the joint configuration that the shard is in.
        changes: Vec<MemberChange>,
    },
    /// Hands over leadership of a shard that it leads.
    Transfer {
        /// The shard.
        shard: u32,
        /// To whom; to whoever can take over soonest if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// Hands over all it leads; from then on it declines to lead, until it is started again.
    Drain,
    /// Takes a snapshot of its replica of a shard.
    Snapshot {
        /// The shard.
        shard: u32,
    },
    /// What it goes by, where that can be changed while it runs: names and values.
    Settings,
    /// Changes one of [`Request::Settings`], until the node ends.
    Set {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Puts a member into the address book.
    AddMember {
        /// `ID=CLIENT_HOST:PORT,PEER_HOST:PORT`.
        member: String,
    },
    /// Takes a member out of the address book.
    RemoveMember {
        /// Its id.
        id: u64,
    },
}

/// One step of [`Request::Reconfigure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    /// The node votes from now on.
    AddVoter(u64),
    /// The node only receives from now on.
    AddLearner(u64),
    /// The node does not belong to the shard any more.
    Remove(u64),
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It was done.
    Ok(Answer),
    /// It was not done, or nobody knows.
    Error(Failure),
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<NodeStatus>),
    /// To [`Request::Members`].
    Members(Vec<MemberInfo>),
    /// To [`Request::Shards`].
    Shards(Vec<ReplicaInfo>),
    /// The entry that changed the shard, to [`Request::Reconfigure`].
    Reconfigured {
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// Who leads now, to [`Request::Transfer`].
    Transferred {
        /// The node.
        leader: u64,
    },
    /// To [`Request::Drain`].
    Drained {
        /// Shards that were led there and are not any more.
        handed_over: u64,
        /// Shards that are still led there: nobody else could take over in time.
        kept: Vec<u32>,
    },
    /// The last entry in the snapshot, to [`Request::Snapshot`].
    Snapshot {
        /// Its index.
        index: u64,
    },
    /// Names and values, to [`Request::Settings`].
    Settings(BTreeMap<String, String>),
    /// It was done, and there is nothing more to say.
    Done,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What to do about it.
    pub kind: FailureKind,
    /// What happened and what to do, for people.
    pub message: String,
    /// With `not_leader`: who leads, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// With `not_leader`: the admin address of the leader, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

impl Failure {
    /// A failure that is not about who leads.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), leader: None, admin: None }
    }
}

/// What to do about a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nothing was done: ask the leader.
    NotLeader,
    /// Nothing was done, and it may work soon: ask again.
    NotYet,
    /// It may have been done or not: look, or ask again.
    Unknown,
    /// Nothing was done, and asking again does not help.
    Refused,
    /// It is no request, or not for this node; the connection ends.
    Invalid,
}

/// A node as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name of its cluster.
    pub cluster: String,
    /// Its id.
    pub node: u64,
    /// The version of its program.
    pub version: String,
    /// Shards of the cluster.
    pub shards: u32,
    /// Shortest time without a leader before an election.
    pub election_timeout_ms: u64,
    /// It was drained and declines to lead until it is started again.
    pub drained: bool,
    /// The disk of one of its cores is stalled: that declines to lead until it is over.
    pub stalled: bool,
    /// What it goes by, where that can be changed while it runs.
    pub settings: BTreeMap<String, String>,
    /// Its cores; those that have ended are left out.
    pub cores: Vec<CoreInfo>,
}

/// A core of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreInfo {
    /// Its number.
    pub core: u16,
    /// Replicas on it.
    pub shards: u32,
    /// Shards that it leads.
    pub led: u32,
    /// Replicas that do not vote and count now, because they have lost their data or have just joined.
    pub returning: u64,
    /// Replicas that take no part any more.
    pub halted: u64,
    /// Proposals that entered the log here as leader, since the start.
    pub proposals: u64,
    /// Bytes of entries in memory.
    pub log_memory_bytes: u64,
    /// Bytes of its directory.
    pub disk_bytes: u64,
    /// Why its log stopped, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_failure: Option<String>,
}

/// A member of the cluster as one node knows it. Of what two nodes say of a third, the higher version is newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its id.
    pub id: u64,
    /// Grows with each change of its addresses, or of whether it is a member.
    pub version: u64,
    /// It is not a member any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// `host:port` of its core 0 for clients.
    pub client: String,
    /// `host:port` of its core 0 for other nodes.
    pub peer: String,
    /// `host:port` of its admin port, if it has one and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// How many cores it has, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u16>,
    /// Whether a connection to it is up; true for the node itself.
    pub up: bool,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Stands for election, or asks whether it would win.
    Candidate,
    /// Leads.
    Leader,
}

/// A shard's copy on one node, as that node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// The shard.
    pub shard: u32,
    /// The core that has it.
    pub core: u16,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Who leads, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// Last entry known to be committed.
    pub commit: u64,
    /// Last entry applied.
    pub applied: u64,
    /// Last entry of its log.
    pub last: u64,
    /// Who votes; while joint, those that will.
    pub voters: Vec<u64>,
    /// While joint: who voted before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outgoing: Vec<u64>,
    /// Who only receives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<u64>,
    /// Voters that will only receive when the joint configuration is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners_next: Vec<u64>,
    /// While joint: nobody has to ask for it to be left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_leave: bool,
    /// Whether all that is known to be committed.
    pub settled: bool,
    /// The other members as a leader knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub followers: Vec<FollowerInfo>,
    /// Why it takes no part any more, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
}

/// A member of a shard as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerInfo {
    /// The node.
    pub node: u64,
    /// It has acknowledged everything up to here.
    pub matched: u64,
    /// How it is supplied.
    pub state: FollowerState,
}

/// How a follower is supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowerState {
    /// With entries, as they come.
    Replicating,
    /// It is not known what it has, or whether it is there.
    Probing,
    /// With a snapshot.
    Snapshot,
    /// It has joined, or lost its data, and does not count yet.
    Returning,
}
