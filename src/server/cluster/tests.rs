//! Slots against published vectors, and topologies as clients see them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use bytes::BytesMut;
use coracle_engine::core::{ClusterView, MemberView, Replicas};
use coracle_engine::raft::membership::Configuration;
use coracle_engine::{CoreId, NodeId, ShardId, Term};
use proptest::prelude::*;

use super::{
    ClusterCommand, Route, Topology, cluster_reply, node_id, route, shard_of_slot, slot_of,
    slots_of_shard,
};
use crate::server::limits::SLOTS;
use crate::server::resp::{Protocol, Writer};

fn view(shards: u32, cores: &[u16], leaders: &[u64]) -> ClusterView {
    let member = |(id, cores): (u64, &u16)| MemberView {
        id: NodeId(id),
        client_host: "127.0.0.1".to_owned(),
        client_port: 7001 + 10 * (id as u16 - 1),
        peer_host: "127.0.0.1".to_owned(),
        peer_port: 8001 + 10 * (id as u16 - 1),
        cores: (*cores > 0).then_some(*cores),
        up: true,
    };
    let leader = |shard| leaders.get(shard as usize).map(|id| NodeId(*id)).filter(|id| id.0 > 0);
    let members: Vec<MemberView> = (1..).zip(cores).map(member).collect();
    ClusterView {
        cluster_id: "test".to_owned(),
        node: NodeId(1),
        core: CoreId(0),
        shards,
        leaders: (0..shards).map(|shard| (Term(7), leader(shard))).collect(),
        replicas: Replicas::on_all(shards, &members),
        members,
    }
}

#[test]
fn slots_of_known_keys() {
    // From the Redis Cluster specification and `CLUSTER KEYSLOT`.
    for (key, slot) in [
        ("123456789", 12739),
        ("foo", 12182),
        ("", 0),
        ("somekey", 11058),
        ("foo{hash_tag}", 2515),
        ("bar{hash_tag}", 2515),
        ("foo{}{bar}", 8363),
        ("foo{{bar}}zap", 4015),
        ("foo{bar}{zap}", 5061),
        ("{", 4092),
    ] {
        assert_eq!(slot_of(key.as_bytes()), slot, "{key:?}");
    }
}

proptest! {
    #[test]
    fn shards_share_out_the_slots(shards in 1_u32..=16_384) {
        let mut next = 0;
        for shard in (0..shards).map(ShardId) {
            let slots = slots_of_shard(shard, shards);
            prop_assert_eq!(slots.start, next);
            prop_assert!(!slots.is_empty());
            prop_assert_eq!(shard_of_slot(slots.start, shards), shard);
            prop_assert_eq!(shard_of_slot(slots.end - 1, shards), shard);
            next = slots.end;
        }
        prop_assert_eq!(next, SLOTS);
    }
}

#[test]
fn ids_differ_and_stay() {
    let mut ids = BTreeSet::new();
    for cluster in ["a", "b", "default"] {
        for node in 1..20 {
            ids.extend((0..20).map(|core| node_id(cluster, NodeId(node), CoreId(core))));
        }
    }
    assert_eq!(ids.len(), 3 * 19 * 20);
    assert!(ids.iter().all(|id| id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    let stays = node_id("default", NodeId(1), CoreId(0));
    assert_eq!(stays, node_id("default", NodeId(1), CoreId(0)));
}

#[test]
fn neighbouring_ranges_of_one_core_are_merged() {
    let topology = Topology::of(&view(4, &[1, 1, 1], &[1, 1, 2, 1]));
    let ranges: Vec<_> = topology.ranges.iter().map(|r| (r.first, r.last, r.master)).collect();
    assert_eq!(ranges, [(0, 8191, 0), (8192, 12287, 1), (12288, 16383, 0)]);
    assert_eq!(topology.nodes[0].ranges, [(0, 8191), (12288, 16383)]);
    assert_eq!(topology.slots_served, SLOTS);
    assert_eq!(topology.nodes[2].replicates, Some(0), "a core that leads nothing is a replica");
    assert_eq!(topology.ranges[0].replicas, [2], "a core that leads is not shown as a replica");
    assert_eq!(topology.nodes[1].replicates, None);
}

#[test]
fn cores_of_nodes_with_different_core_counts_are_found() {
    let cluster = view(4, &[2, 1, 4], &[3, 3, 1, 2]);
    let at = |slot| match route(&cluster, slot) {
        Route::Moved { host, port, .. } => format!("{host}:{port}"),
        other => format!("{other:?}"),
    };
    assert_eq!(at(0), "127.0.0.1:7021");
    assert_eq!(at(4096), "127.0.0.1:7022");
    assert_eq!(at(8192), "127.0.0.1:7002", "led by this node, but on its core 1");
    assert_eq!(at(12288), "127.0.0.1:7011");
    let mut here = cluster.clone();
    here.core = CoreId(1);
    assert_eq!(route(&here, 8192), Route::Here(ShardId(2)));
}

#[test]
fn a_slot_is_down_without_a_leader_or_without_its_address() {
    let cluster = view(2, &[1, 0, 1], &[0, 2]);
    assert_eq!(route(&cluster, 0), Route::Down(ShardId(0)));
    assert_eq!(route(&cluster, 16383), Route::Down(ShardId(1)));
    let topology = Topology::of(&cluster);
    assert!(topology.ranges.is_empty());
    assert_eq!(topology.nodes.len(), 2, "a node whose cores are unknown is not shown");
}

fn reply(command: ClusterCommand, cluster: &ClusterView, protocol: Protocol) -> String {
    let mut out = BytesMut::new();
    cluster_reply(command, cluster, &mut Writer::new(&mut out, protocol));
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn cluster_nodes_in_redis_form() {
    let mut cluster = view(2, &[1, 1, 1], &[1, 2]);
    cluster.members[2].up = false;
    let id = |node| node_id("test", NodeId(node), CoreId(0));
    let text = reply(ClusterCommand::Nodes, &cluster, Protocol::Resp2);
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            format!("{} 127.0.0.1:7001@8001 myself,master - 0 0 7 connected 0-8191", id(1)),
            format!("{} 127.0.0.1:7011@8011 master - 0 0 7 connected 8192-16383", id(2)),
            format!("{} 127.0.0.1:7021@8021 master,fail? - 0 0 7 disconnected", id(3)),
            String::new(),
        ]
    );
}

#[test]
fn cluster_slots_in_redis_form() {
    let cluster = view(1, &[1, 1], &[2]);
    let entry = |node: u64, port: u16| {
        let id = node_id("test", NodeId(node), CoreId(0));
        format!("*4\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{id}\r\n*0\r\n")
    };
    let expected = format!("*1\r\n*4\r\n:0\r\n:16383\r\n{}{}", entry(2, 7011), entry(1, 7001));
    assert_eq!(reply(ClusterCommand::Slots, &cluster, Protocol::Resp2), expected);
}

/// A member that was added and belongs to no shard yet was shown as a replica of all: it would have answered readers
/// that nothing is there.
#[test]
fn who_holds_no_copy_is_no_replica() {
    let mut cluster = view(2, &[1, 1, 1], &[1, 1]);
    let of_first = Configuration::of_voters([1, 2].map(NodeId)).unwrap().members();
    cluster.replicas.note(ShardId(0), of_first);
    let topology = Topology::of(&cluster);
    let replicas: Vec<_> = topology.ranges.iter().map(|range| range.replicas.clone()).collect();
    assert_eq!(replicas, [vec![1], vec![1, 2]]);
}

#[test]
fn cluster_info_says_whether_all_slots_are_served() {
    let ok = reply(ClusterCommand::Info, &view(2, &[1, 1], &[1, 2]), Protocol::Resp2);
    assert!(ok.contains("cluster_state:ok\r\n") && ok.contains("cluster_slots_ok:16384\r\n"));
    let down = reply(ClusterCommand::Info, &view(2, &[1, 1], &[1, 0]), Protocol::Resp2);
    assert!(down.contains("cluster_state:fail\r\n") && down.contains("cluster_slots_ok:8192\r\n"));
}

#[test]
fn cluster_shards_shows_each_master_with_its_replicas() {
    let cluster = view(2, &[1, 1, 1], &[1, 2]);
    let text = reply(ClusterCommand::Shards, &cluster, Protocol::Resp3);
    assert!(
        text.starts_with("*2\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:8191\r\n$5\r\nnodes\r\n*2\r\n")
    );
    assert_eq!(text.matches("$6\r\nmaster\r\n").count(), 2);
    assert_eq!(text.matches("$7\r\nreplica\r\n").count(), 1);
}
