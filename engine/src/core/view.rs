//! What a core knows about the cluster: members, their cores, and who leads which shard.

use std::rc::Rc;

use crate::raft::membership::NodeSet;
use crate::{CoreId, NodeId, ShardId, Term};

/// A member of the cluster, as one core sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub id: NodeId,
    /// `host` of its client ports.
    pub client_host: String,
    /// Client port of its core 0; core *i* listens on this + *i*.
    pub client_port: u16,
    /// `host` of its peer ports.
    pub peer_host: String,
    /// Peer port of its core 0; core *i* listens on this + *i*.
    pub peer_port: u16,
    /// How many cores it has; unknown until it has said HELLO once.
    pub cores: Option<u16>,
    /// Whether a connection to it is up. Always true for this node itself.
    pub up: bool,
}

/// The cluster, as one core sees it. It may lag behind the truth; a client that follows an old view
/// is told `NotLeader` by whomever it reaches.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Name that keeps clusters apart.
    pub cluster_id: String,
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// Shards in the cluster.
    pub shards: u32,
    /// All members, this node included, ordered by id.
    pub members: Vec<MemberView>,
    /// For each shard the newest term heard of and its leader, if known.
    pub leaders: Vec<(Term, Option<NodeId>)>,
    /// Who belongs to a shard, as far as the replica on this node knows.
    pub replicas: Replicas,
}

/// Who belongs to each shard, as far as it is known. Most shards have the same members: neighbours with the same
/// ones share them in memory.
///
/// A core is told by its siblings who belongs to their shards where that is not who was a member of the cluster when the
/// process started, and whenever it changes. So a node that joins belongs to no shard by that.
#[derive(Clone, Debug)]
pub struct Replicas(Vec<Rc<NodeSet>>);

impl Replicas {
    /// Of so many shards, all of them on all `members`.
    #[must_use]
    pub fn on_all<'a>(shards: u32, members: impl IntoIterator<Item = &'a MemberView>) -> Self {
        let nodes = Rc::new(members.into_iter().map(|member| member.id).collect());
        Self(vec![nodes; shards as usize])
    }

    /// Who belongs to `shard`, if it exists.
    #[must_use]
    pub fn get(&self, shard: ShardId) -> Option<&NodeSet> {
        self.0.get(shard.0 as usize).map(Rc::as_ref)
    }

    /// Notes who belongs to `shard`. What is said of a shard that does not exist is ignored.
    pub fn note(&mut self, shard: ShardId, nodes: NodeSet) {
        let at = shard.0 as usize;
        let near = [at.checked_sub(1), Some(at), at.checked_add(1)].into_iter().flatten();
        let known = near.filter_map(|at| self.0.get(at)).find(|known| ***known == nodes);
        let known = known.cloned().unwrap_or_else(|| Rc::new(nodes));
        if let Some(place) = self.0.get_mut(at) {
            *place = known;
        }
    }
}

impl ClusterView {
    /// Who leads `shard`, as far as this core knows. `None` for an unknown shard, too.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.get(shard.0 as usize).and_then(|(_, leader)| *leader)
    }

    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&MemberView> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The core that hosts `shard` on member `id`; `None` while its core count is unknown.
    pub fn core_of(&self, id: NodeId, shard: ShardId) -> Option<CoreId> {
        let cores = self.member(id)?.cores?;
        (shard.0 < self.shards).then(|| CoreId::hosting(shard, self.shards, cores))
    }

    /// Takes over who the members are now. What is known of those that stay is kept, and this node stays in any
    /// case. Gives those whose peer address has changed.
    pub(super) fn take_members(&mut self, members: Vec<MemberView>) -> Vec<NodeId> {
        let before = std::mem::replace(&mut self.members, members);
        let mut moved = Vec::new();
        for member in &mut self.members {
            let Some(known) = before.iter().find(|known| known.id == member.id) else { continue };
            (member.cores, member.up) = (known.cores, known.up);
            if (&known.peer_host, known.peer_port) != (&member.peer_host, member.peer_port) {
                moved.push(member.id);
            }
        }
        if self.member(self.node).is_none() {
            self.members.extend(before.into_iter().find(|known| known.id == self.node));
        }
        self.members.sort_by_key(|member| member.id);
        moved
    }

    /// Whether this core hosts `shard`.
    pub fn is_local(&self, shard: ShardId) -> bool {
        self.core_of(self.node, shard) == Some(self.core)
    }

    /// Whether `node` belongs to `shard`, for all that is known.
    pub fn may_hold(&self, node: NodeId, shard: ShardId) -> bool {
        self.replicas.get(shard).is_some_and(|nodes| nodes.contains(node))
    }

    /// Notes what was heard of a shard's leadership; older terms are ignored.
    /// Returns whether anything changed.
    pub fn note_leader(&mut self, shard: ShardId, term: Term, leader: Option<NodeId>) -> bool {
        let Some(known) = self.leaders.get_mut(shard.0 as usize) else { return false };
        if term < known.0 || *known == (term, leader) {
            return false;
        }
        *known = (term, leader);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_joins_belongs_to_no_shard_by_that() {
        let member = |id| MemberView {
            id: NodeId(id),
            client_host: String::new(),
            client_port: 0,
            peer_host: String::new(),
            peer_port: 0,
            cores: None,
            up: false,
        };
        let members: Vec<MemberView> = [1, 2, 3].map(member).into();
        let mut view = ClusterView {
            cluster_id: String::new(),
            node: NodeId(1),
            core: CoreId(0),
            shards: 2,
            leaders: Vec::new(),
            replicas: Replicas::on_all(2, &members),
            members,
        };
        view.take_members([1, 2, 3, 4].map(member).into());
        let holders = |view: &ClusterView, shard| {
            let nodes = view.members.iter().map(|member| member.id);
            nodes.filter(|node| view.may_hold(*node, ShardId(shard))).count()
        };
        assert_eq!((holders(&view, 0), holders(&view, 1), holders(&view, 2)), (3, 3, 0));
        view.replicas.note(ShardId(1), view.members.iter().map(|member| member.id).collect());
        assert_eq!((holders(&view, 0), holders(&view, 1)), (3, 4));
    }

    #[test]
    fn neighbours_with_the_same_members_share_them() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<NodeSet>();
        let mut replicas = Replicas::on_all(4, []);
        for shard in [0, 3, 1, 2, 9] {
            replicas.note(ShardId(shard), nodes(&[1, 2, 3]));
        }
        let shared = |a: usize, b: usize| Rc::ptr_eq(&replicas.0[a], &replicas.0[b]);
        assert!(shared(0, 1) && shared(1, 2), "{replicas:?}");
        replicas.note(ShardId(1), nodes(&[4]));
        assert_eq!(replicas.get(ShardId(1)), Some(&nodes(&[4])));
        assert_eq!(replicas.get(ShardId(2)), Some(&nodes(&[1, 2, 3])));
        assert_eq!(replicas.get(ShardId(9)), None, "there is no such shard");
    }
}
