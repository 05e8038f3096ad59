//! Tables and documents of one made-up cluster, against files in `testdata/ctl/`; `UPDATE_GOLDEN=1` writes them.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use coracle::admin::protocol::{
    CoreInfo, FollowerInfo, FollowerState, MemberInfo, NodeStatus, ReplicaInfo, Role,
};

use super::*;
use crate::ctl::cluster::Heard;

fn status_of(node: u64) -> NodeStatus {
    let core = CoreInfo {
        core: 0,
        shards: 4,
        led: if node == 1 { 2 } else { 1 },
        returning: u64::from(node == 2),
        halted: 0,
        proposals: 1234 * node,
        log_memory_bytes: 3 << 20,
        disk_bytes: 192 << 20,
        storage_failure: (node == 2).then(|| "a write of segment 7 failed: EIO".to_owned()),
    };
    NodeStatus {
        cluster: "coracle".to_owned(),
        node,
        version: "0.1.0".to_owned(),
        shards: 5,
        election_timeout_ms: 500,
        drained: node == 2,
        stalled: false,
        settings: [("priority".to_owned(), (node - 1).to_string())].into(),
        cores: vec![core],
    }
}

fn replica(shard: u32, leads: bool, leader: Option<u64>) -> ReplicaInfo {
    let follower = |node, matched, state| FollowerInfo { node, matched, state };
    ReplicaInfo {
        shard,
        core: 0,
        role: if leads { Role::Leader } else { Role::Follower },
        term: 7,
        leader,
        commit: 10_000,
        applied: 9_998,
        last: 10_001,
        voters: vec![1, 2],
        outgoing: Vec::new(),
        learners: vec![3],
        learners_next: Vec::new(),
        auto_leave: false,
        settled: true,
        followers: match leads {
            true => vec![
                follower(2, 10_000, FollowerState::Replicating),
                follower(3, 12, FollowerState::Snapshot),
            ],
            false => Vec::new(),
        },
        halted: None,
    }
}

fn cluster() -> Cluster {
    let member = |id: u64| MemberInfo {
        version: 0,
        removed: false,
        id,
        client: format!("10.0.0.{id}:7001"),
        peer: format!("10.0.0.{id}:8001"),
        admin: (id != 2).then(|| "127.0.0.1:9001".to_owned()),
        cores: (id != 3).then_some(1),
        up: id != 3,
    };
    let mut joint = replica(1, true, Some(1));
    joint.outgoing = vec![1, 3];
    joint.learners = Vec::new();
    joint.settled = false;
    let mut halted = replica(2, false, None);
    halted.halted = Some("its log contradicts that of the leader".to_owned());
    let said = [
        Ok(vec![
            replica(0, true, Some(1)),
            joint,
            replica(2, false, None),
            replica(3, false, Some(3)),
        ]),
        Ok(vec![replica(0, false, Some(1)), halted]),
        Err("127.0.0.1:9001: Connection refused".to_owned()),
    ];
    let nodes = said.into_iter().zip(1..).map(|(said, id): (Result<_, String>, u64)| {
        let heard = said.map(|replicas| Heard { status: status_of(id), replicas });
        (NodeId(id), Node { member: member(id), heard })
    });
    Cluster::new(&status_of(1), nodes.collect())
}

#[track_caller]
fn is_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ctl").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        return std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "{} differs; UPDATE_GOLDEN=1 writes it", path.display());
}

#[test]
fn tables_are_readable() {
    let cluster = cluster();
    is_golden("status.txt", &status(&cluster));
    is_golden("members.txt", &members(&cluster));
    is_golden("shards.txt", &shards(&cluster, &|_| true));
}

#[test]
fn documents_have_what_programs_need() {
    let cluster = cluster();
    is_golden("status.json", &format!("{:#}\n", status_json(&cluster)));
    is_golden("members.json", &format!("{:#}\n", members_json(&cluster)));
    is_golden("shards.json", &format!("{:#}\n", shards_json(&cluster, &|id| id.0 < 2)));
}

#[test]
fn large_numbers_are_grouped() {
    let grouped = [0, 999, 1000, 1_234_567, u64::MAX].map(thousands);
    assert_eq!(grouped, ["0", "999", "1,000", "1,234,567", "18,446,744,073,709,551,615"]);
}

#[test]
fn lists_of_shards_are_short() {
    assert_eq!(shard_list([0, 1, 2, 3, 7, 9, 10].map(ShardId)), "0-3,7,9-10");
    assert_eq!(shard_list((0..20).map(|n| ShardId(2 * n))), "0,2,4,6,8,10,12,14,...");
    assert_eq!(shard_list([]), "");
}
