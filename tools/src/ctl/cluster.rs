//! The cluster at one moment, as all nodes that answer see it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coracle::admin::protocol::{FollowerState, MemberInfo, NodeStatus, ReplicaInfo, Role};
use coracle::{NodeId, ShardId};

/// What a node said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How it is.
    pub status: NodeStatus,
    /// Its replicas.
    pub replicas: Vec<ReplicaInfo>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// How it is reached, as the node that was asked first says.
    pub member: MemberInfo,
    /// What it said, or why it said nothing.
    pub heard: Result<Heard, String>,
}

impl Node {
    /// What it goes by.
    fn priority(&self) -> Option<i64> {
        self.heard.as_ref().ok()?.status.settings.get("priority")?.parse().ok()
    }
}

/// A member of a shard, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// It has acknowledged everything up to here.
    pub matched: u64,
    /// How it is supplied.
    pub state: FollowerState,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// Who leads and says so itself.
    pub leader: Option<NodeId>,
    /// Who leads as others say, while nobody says so itself.
    pub hearsay: Option<NodeId>,
    /// The term of the replica that the rest is from: the leader's, or the newest there is.
    pub term: u64,
    /// Last entry known to be committed.
    pub commit: u64,
    /// Last entry applied by that replica.
    pub applied: u64,
    /// Who votes; while joint, those that will.
    pub voters: BTreeSet<NodeId>,
    /// While joint: who voted before.
    pub outgoing: BTreeSet<NodeId>,
    /// Who only receives.
    pub learners: BTreeSet<NodeId>,
    /// Voters that will only receive when the joint configuration is left.
    pub learners_next: BTreeSet<NodeId>,
    /// While joint: the leader leaves by itself.
    pub auto_leave: bool,
    /// Whether all that is committed.
    pub settled: bool,
    /// The other members as the leader knows them.
    pub followers: BTreeMap<NodeId, Follower>,
    /// Replicas that take no part any more, and why.
    pub halted: BTreeMap<NodeId, String>,
}

impl Shard {
    /// Whether decisions need two majorities.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` has anything to do with it.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        let sets = [&self.voters, &self.outgoing, &self.learners, &self.learners_next];
        sets.into_iter().any(|set| set.contains(&node))
    }

    /// Committed entries that `node` lacks, as its leader knows.
    #[must_use]
    pub fn lag(&self, node: NodeId) -> Option<u64> {
        let follower = self.followers.get(&node)?;
        Some(self.commit.saturating_sub(follower.matched))
    }
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Shards that it has, whether somebody told of them or not.
    pub shard_count: u32,
    /// Shortest time without a leader before an election.
    pub election_timeout: Duration,
    /// The node that was asked first.
    pub contact: NodeId,
    /// Its members.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Its shards; those of which nobody told are missing.
    pub shards: BTreeMap<ShardId, Shard>,
}

impl Cluster {
    /// Puts together what `contact` and the others said.
    #[must_use]
    pub fn new(contact: &NodeStatus, nodes: BTreeMap<NodeId, Node>) -> Self {
        let mut shards: BTreeMap<ShardId, Shard> = BTreeMap::new();
        let mut best: BTreeMap<ShardId, (bool, u64, u64)> = BTreeMap::new();
        let mut halted: BTreeMap<ShardId, BTreeMap<NodeId, String>> = BTreeMap::new();
        for (id, node) in &nodes {
            for replica in node.heard.iter().flat_map(|heard| &heard.replicas) {
                let shard = ShardId(replica.shard);
                if let Some(reason) = &replica.halted {
                    halted.entry(shard).or_default().insert(*id, reason.clone());
                }
                let leads = replica.role == Role::Leader && replica.halted.is_none();
                // Of two that say that they lead, the one of the lower term does not know yet.
                let rank = (leads, replica.term, replica.commit);
                if best.get(&shard).is_none_or(|known| *known < rank) {
                    best.insert(shard, rank);
                    shards.insert(shard, shard_of(*id, leads, replica));
                }
            }
        }
        for (shard, reasons) in halted {
            if let Some(shard) = shards.get_mut(&shard) {
                shard.halted = reasons;
            }
        }
        Self {
            name: contact.cluster.clone(),
            shard_count: contact.shards,
            election_timeout: Duration::from_millis(contact.election_timeout_ms),
            contact: NodeId(contact.node),
            nodes,
            shards,
        }
    }

    /// Ids of all shards.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shard_count).map(ShardId)
    }

    /// Why a node says nothing, if it does not.
    #[must_use]
    pub fn silence(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node)?.heard.as_ref().err().map(String::as_str)
    }

    /// Why a node would not take over leadership, if it says that it would not.
    #[must_use]
    pub fn unwillingness(&self, node: NodeId) -> Option<&'static str> {
        let status = &self.nodes.get(&node)?.heard.as_ref().ok()?.status;
        match (status.drained, status.stalled) {
            (true, _) => Some("it was drained, and leads nothing until it is started again"),
            (_, true) => Some("its disk does not answer"),
            _ => None,
        }
    }

    /// Nodes that could lead `shard` and would: voters that keep pace, do not decline, and of those the ones with the
    /// highest priority. The leader itself is among them if it is one.
    #[must_use]
    pub fn candidates(&self, shard: &Shard) -> BTreeSet<NodeId> {
        let keeps_pace = |id: &NodeId| {
            let follower = shard.followers.get(id);
            follower.is_some_and(|follower| follower.state == FollowerState::Replicating)
        };
        let willing: Vec<(NodeId, i64)> = shard
            .voters
            .iter()
            .filter(|id| shard.leader == Some(**id) || keeps_pace(id))
            .filter_map(|id| self.nodes.get(id).map(|node| (*id, node)))
            .filter(|(id, node)| node.heard.is_ok() && self.unwillingness(*id).is_none())
            .map(|(id, node)| (id, node.priority().unwrap_or(0)))
            .collect();
        let highest = willing.iter().map(|(_, priority)| *priority).max();
        let best = willing.into_iter().filter(|(_, priority)| Some(*priority) == highest);
        best.map(|(id, _)| id).collect()
    }
}

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn shard_of(node: NodeId, leads: bool, replica: &ReplicaInfo) -> Shard {
    let follower = |f: &coracle::admin::protocol::FollowerInfo| {
        (NodeId(f.node), Follower { matched: f.matched, state: f.state })
    };
    Shard {
        id: ShardId(replica.shard),
        leader: leads.then_some(node),
        hearsay: replica.leader.map(NodeId).filter(|_| !leads),
        term: replica.term,
        commit: replica.commit,
        applied: replica.applied,
        voters: ids(&replica.voters),
        outgoing: ids(&replica.outgoing),
        learners: ids(&replica.learners),
        learners_next: ids(&replica.learners_next),
        auto_leave: replica.auto_leave,
        settled: replica.settled,
        followers: replica.followers.iter().map(follower).collect(),
        halted: BTreeMap::new(),
    }
}
