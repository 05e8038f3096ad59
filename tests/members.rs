//! Members that change while the cluster runs: nodes that join by one address, move, are removed and come
//! back, on whole nodes of this process.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};

use coracle::membership::{Change, Reconfiguration, Transition};
use coracle::{
    AddMemberError, Config, Member, MemberRecord, MemberStatus, Node, NodeHandle, NodeId,
    RemoveMemberError, ShardId, StartError, server,
};
use futures_executor::block_on;
use support::client::{Client, Outcome};
use support::cluster::REPLY_TIMEOUT;
use support::ports::Ports;
use support::resp::{Connection, Reply};
use support::wait::{self, SOON};
use tempfile::TempDir;

const SHARDS: u32 = 4;

/// Nodes of this process, their directories and ports.
struct World {
    nodes: Vec<(u64, Node)>,
    /// How far the ports of a node are from where they were at first.
    moved: u16,
    ports: Ports,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        Self { nodes: Vec::new(), moved: 0, ports: Ports::reserve(), directory }
    }

    fn member(&self, id: u64) -> Member {
        let moved = if id == 1 { self.moved } else { 0 };
        let (client, peer) = (self.ports.client(id) + moved, self.ports.peer(id) + moved);
        format!("{id}=127.0.0.1:{client},127.0.0.1:{peer}").parse().unwrap()
    }

    /// A node that knows itself only, and `join`, the number of the node at whose address it joins.
    fn config(&self, id: u64, join: Option<u64>) -> Config {
        let dir = self.directory.path().join(format!("node-{id}"));
        let mut config = Config::new(NodeId(id), dir, vec![self.member(id)]);
        config.shards = SHARDS;
        config.segment_mib = 16;
        config.join = join.map(|at| {
            let Member { peer_host, peer_port, .. } = self.member(at);
            format!("{peer_host}:{peer_port}")
        });
        config
    }

    fn start(&mut self, id: u64, join: Option<u64>) -> NodeHandle {
        self.start_with(id, self.config(id, join))
    }

    fn start_with(&mut self, id: u64, config: Config) -> NodeHandle {
        let node = server::start(config).unwrap();
        let handle = node.handle();
        self.nodes.push((id, node));
        handle
    }

    fn stop(&mut self, id: u64) {
        let at = self.nodes.iter().position(|(node, _)| *node == id).unwrap();
        self.nodes.remove(at).1.stop();
    }

    fn address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.member(id).client_port).into()
    }

    fn client(&self) -> Client {
        let addresses = self.nodes.iter().map(|(id, _)| self.address(*id));
        Client::new(addresses.collect(), REPLY_TIMEOUT)
    }

    #[track_caller]
    fn set(&self, key: &str, value: &str) {
        wait::until(&format!("{key} to be set"), SOON, || {
            match self.client().set(key, value, SOON) {
                Outcome::Done(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// What node `id` itself has of `key`.
    fn replica_value(&self, id: u64, key: &str) -> Result<Reply, String> {
        let run = || {
            let mut connection = Connection::open(self.address(id), REPLY_TIMEOUT)?;
            connection.command("READONLY")?;
            connection.call(&[b"GET", key.as_bytes()])
        };
        run().map_err(|error| error.to_string())
    }

    /// Waits until node `id` itself has this value of `key`.
    #[track_caller]
    fn has(&self, id: u64, key: &str, value: &str) {
        let expected = Reply::Bulk(value.as_bytes().to_vec());
        wait::until(&format!("node {id} to have {key}"), SOON, || {
            match self.replica_value(id, key)? {
                found if found == expected => Ok(()),
                other => Err(other.to_string()),
            }
        });
    }

    /// Changes every shard, at whoever leads it.
    #[track_caller]
    fn reconfigure(&self, change: Change) {
        for shard in (0..SHARDS).map(ShardId) {
            wait::until(&format!("{change:?} of shard {shard}"), SOON, || {
                let status: Vec<_> = self.nodes.iter().map(|(_, node)| node.handle()).collect();
                let leads = |handle: &NodeHandle| {
                    block_on(handle.leader(shard)).is_some_and(|leader| leader == handle.id())
                };
                let leader = status.into_iter().find(leads).ok_or("no leader")?;
                let change =
                    Reconfiguration::Change { changes: vec![change], transition: Transition::Auto };
                block_on(leader.reconfigure(shard, change)).map_err(|error| error.to_string())
            });
        }
    }
}

fn members(handle: &NodeHandle) -> Vec<MemberStatus> {
    block_on(handle.members())
}

/// Waits until `handle` sees exactly these members, all of them up.
#[track_caller]
fn sees(handle: &NodeHandle, ids: &[u64]) {
    wait::until(&format!("node {} to see {ids:?}", handle.id()), SOON, || {
        let found = members(handle);
        let live = found.iter().filter(|member| !member.record.removed);
        let up: Vec<u64> = live.clone().filter(|m| m.up).map(|m| m.record.id.0).collect();
        let all_known = live.clone().all(|member| member.cores == Some(1));
        let done = up == ids && live.count() == ids.len() && all_known;
        if done { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn add(handle: &NodeHandle, member: &Member) -> MemberRecord {
    block_on(handle.add_member(member.record())).unwrap()
}

/// From one node to three, each of which knows one address; then one moves, one is removed and comes back.
#[test]
fn nodes_join_by_one_address_move_leave_and_come_back() {
    let mut world = World::new();
    let first = world.start(1, None);
    world.set("before", "1");
    sees(&first, &[1]);

    // A node that nobody has added waits, and is not taken in.
    let second = world.start(2, Some(1));
    assert_eq!(members(&second).len(), 1);
    assert_eq!(members(&first).len(), 1);
    let added = add(&first, &world.member(2));
    assert_eq!((added.version, added.removed), (1, false));
    sees(&first, &[1, 2]);
    sees(&second, &[1, 2]);
    world.reconfigure(Change::AddLearner(NodeId(2)));
    world.has(2, "before", "1");
    world.reconfigure(Change::AddVoter(NodeId(2)));
    world.set("with-two", "2");
    world.has(2, "with-two", "2");

    // The third joins at the second.
    let third = world.start(3, Some(2));
    add(&second, &world.member(3));
    for handle in [&first, &second, &third] {
        sees(handle, &[1, 2, 3]);
    }
    // It told its own directory, and all have heard of it.
    wait::until("the record of node 3 to be its own", SOON, || {
        let known = members(&first);
        let third = known.iter().find(|member| member.record.id == NodeId(3)).unwrap();
        if third.record.incarnation.is_some() { Ok(()) } else { Err(format!("{third:?}")) }
    });
    world.reconfigure(Change::AddLearner(NodeId(3)));
    world.has(3, "before", "1");
    world.reconfigure(Change::AddVoter(NodeId(3)));
    world.set("with-three", "3");

    // The first comes back at other addresses: the others find it, and so do clients.
    world.stop(1);
    world.moved = 5;
    let first = world.start(1, None);
    for handle in [&first, &second, &third] {
        sees(handle, &[1, 2, 3]);
    }
    let moved = members(&third).remove(0).record;
    assert_eq!(moved.peer_port, world.member(1).peer_port);
    world.set("with-one-moved", "4");
    world.has(1, "with-one-moved", "4");

    // The third is removed: not while it belongs to shards.
    let in_use = block_on(first.remove_member(NodeId(3), false));
    assert!(matches!(in_use, Err(RemoveMemberError::InUse { shards: 4, .. })), "{in_use:?}");
    world.reconfigure(Change::Remove(NodeId(3)));
    wait::until("node 3 to belong to no shard", SOON, || {
        block_on(first.remove_member(NodeId(3), false)).map_err(|error| error.to_string())
    });
    sees(&first, &[1, 2]);
    sees(&second, &[1, 2]);
    wait::until("node 3 to be told", SOON, || {
        let found = members(&third);
        let own = found.iter().find(|member| member.record.id == NodeId(3)).unwrap();
        let alone = found.iter().all(|member| member.record.id == NodeId(3) || !member.up);
        if own.record.removed && alone { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let unknown = block_on(first.remove_member(NodeId(3), true));
    assert_eq!(unknown, Err(RemoveMemberError::Unknown(NodeId(3))));

    // It stays removed when it is started again, until it is added again.
    world.stop(3);
    let third = world.start(3, Some(2));
    let own = members(&third).into_iter().find(|member| member.record.id == NodeId(3)).unwrap();
    assert!(own.record.removed);
    add(&second, &world.member(3));
    for handle in [&first, &second, &third] {
        sees(handle, &[1, 2, 3]);
    }
    world.reconfigure(Change::AddLearner(NodeId(3)));
    world.set("after", "5");
    world.has(3, "after", "5");
}

/// The node with the highest id dials nobody: it has to tell the others where it is by then.
#[test]
fn a_node_that_nobody_can_find_any_more_says_where_it_is() {
    let mut world = World::new();
    let first = world.start(1, None);
    let second = world.start(2, Some(1));
    add(&first, &world.member(2));
    sees(&second, &[1, 2]);
    world.stop(2);
    let mut elsewhere = world.config(2, None);
    elsewhere.members[0].client_port += 3;
    elsewhere.members[0].peer_port += 3;
    let port = elsewhere.members[0].peer_port;
    let second = world.start_with(2, elsewhere);
    sees(&second, &[1, 2]);
    sees(&first, &[1, 2]);
    assert_eq!(members(&first)[1].record.peer_port, port);
}

#[test]
fn what_a_node_remembers_of_its_members_survives_and_binds_it() {
    let mut world = World::new();
    let first = world.start(1, None);
    add(&first, &world.member(2));
    add(&first, &Member { id: NodeId(3), ..world.member(3) });
    let removed = block_on(first.remove_member(NodeId(3), true)).unwrap();
    assert_eq!((removed.version, removed.removed), (2, true));
    let nobody = MemberRecord::new(NodeId(4), ("a b", 1), ("a", 1));
    let refused = block_on(first.add_member(nobody));
    assert!(matches!(refused, Err(AddMemberError::Flaw { .. })), "{refused:?}");
    let before: Vec<MemberRecord> = members(&first).into_iter().map(|m| m.record).collect();
    world.stop(1);
    assert_eq!(block_on(first.add_member(removed)), Err(AddMemberError::ShuttingDown));

    // It founded its cluster alone, and does so for good, whoever is named later.
    let mut config = world.config(1, None);
    config.voters = Some(vec![1, 2]);
    config.members.push(world.member(2));
    let refused = server::start(config.clone()).err().unwrap();
    assert!(matches!(refused, StartError::Voters { .. }), "{refused}");
    config.voters = None;
    config.members.push(world.member(3));
    let first = world.start_with(1, config);
    let after: Vec<MemberRecord> = members(&first).into_iter().map(|m| m.record).collect();
    assert_eq!(after, before);
    world.set("alone", "yes");

    world.stop(1);
    let file = world.directory.path().join("node-1/members.toml");
    std::fs::write(&file, "format = 1").unwrap();
    let refused = server::start(world.config(1, None)).err().unwrap().to_string();
    assert!(refused.contains("members.toml") && refused.contains("restore"), "{refused}");
}
