//! Plans, case by case: the table at the head of the module.
#![allow(clippy::unwrap_used)]

use coracle::admin::protocol::MemberChange::{AddLearner, AddVoter, Remove};
use coracle::admin::protocol::{FollowerState, MemberInfo, NodeStatus};

use super::*;
use crate::ctl::cluster::{Follower, Heard, Node};

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// A settled shard led by `leader`, whose members all keep pace.
fn shard(leader: u64, voters: &[u64], learners: &[u64]) -> Shard {
    let follower = Follower { matched: 100, state: FollowerState::Replicating };
    let others = voters.iter().chain(learners).filter(|node| **node != leader);
    Shard {
        id: ShardId(0),
        leader: Some(NodeId(leader)),
        hearsay: None,
        term: 3,
        commit: 100,
        applied: 100,
        voters: ids(voters),
        outgoing: BTreeSet::new(),
        learners: ids(learners),
        learners_next: BTreeSet::new(),
        auto_leave: false,
        settled: true,
        followers: others.map(|node| (NodeId(*node), follower)).collect(),
        halted: BTreeMap::new(),
    }
}

fn goal(wants: &[(u64, Want)]) -> Goal {
    wants.iter().map(|(node, want)| (NodeId(*node), *want)).collect()
}

fn changes(next: &Next) -> &[MemberChange] {
    match next {
        Next::Do(_, Step::Reconfigure(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn waits_for(next: &Next, what: &str) {
    assert!(matches!(next, Next::Wait(reason) if reason.contains(what)), "{next:?}");
}

#[test]
fn what_is_as_wanted_needs_nothing() {
    let now = shard(1, &[1, 2], &[3]);
    for wants in [
        goal(&[(1, Want::Voter), (3, Want::Learner), (4, Want::Gone)]),
        goal(&[(1, Want::Member), (3, Want::Member)]),
        goal(&[]),
    ] {
        assert_eq!(next(&now, &wants), Next::Done, "{wants:?}");
    }
}

#[test]
fn a_newcomer_learns_first_and_votes_when_it_has_caught_up() {
    let wants = goal(&[(4, Want::Voter), (5, Want::Voter)]);
    let before = shard(1, &[1, 2, 3], &[]);
    assert_eq!(changes(&next(&before, &wants)), [AddLearner(4), AddLearner(5)]);
    let mut learning = shard(1, &[1, 2, 3], &[4, 5]);
    for (state, matched, what) in [
        (FollowerState::Returning, 0, "does not count yet"),
        (FollowerState::Probing, 0, "does it run"),
        (FollowerState::Snapshot, 0, "snapshot"),
        (FollowerState::Replicating, 100, "lacks 10,000 entries"),
    ] {
        learning.commit = 10_100;
        learning.followers.insert(NodeId(4), Follower { matched: 10_100, ..follower(&learning) });
        learning.followers.insert(NodeId(5), Follower { matched, state });
        waits_for(&next(&learning, &wants), what);
    }
    learning.followers.insert(NodeId(5), Follower { matched: 10_000, ..follower(&learning) });
    assert_eq!(changes(&next(&learning, &wants)), [AddVoter(4), AddVoter(5)], "as one");
    learning.followers.remove(&NodeId(5));
    waits_for(&next(&learning, &wants), "has not heard of node 5");
}

fn follower(shard: &Shard) -> Follower {
    Follower { matched: shard.commit, state: FollowerState::Replicating }
}

#[test]
fn only_one_change_is_under_way() {
    let wants = goal(&[(4, Want::Member)]);
    let mut now = shard(1, &[1, 2, 3], &[]);
    now.settled = false;
    waits_for(&next(&now, &wants), "not committed yet");
    now.outgoing = ids(&[1, 2]);
    waits_for(&next(&now, &wants), "not committed yet");
    now.settled = true;
    now.auto_leave = true;
    waits_for(&next(&now, &wants), "not committed yet");
    now.auto_leave = false;
    assert_eq!(changes(&next(&now, &wants)), [], "nobody else leaves it");
}

#[test]
fn a_goal_is_not_reached_before_it_is_committed() {
    let mut now = shard(1, &[1, 2], &[]);
    now.settled = false;
    waits_for(&next(&now, &goal(&[(2, Want::Voter)])), "not committed yet");
}

#[test]
fn without_a_leader_that_answers_one_waits() {
    let mut now = shard(1, &[1, 2, 3], &[]);
    now.leader = None;
    waits_for(&next(&now, &goal(&[(4, Want::Member)])), "no leader");
    now.hearsay = Some(NodeId(2));
    waits_for(&next(&now, &goal(&[(4, Want::Member)])), "node 2 is said to lead it");
}

#[test]
fn a_leader_that_goes_hands_over_before() {
    let wants = goal(&[(1, Want::Gone)]);
    let mut now = shard(1, &[1, 2, 3], &[]);
    now.followers.insert(NodeId(2), Follower { matched: 90, state: FollowerState::Replicating });
    assert_eq!(next(&now, &wants), Next::Do(NodeId(1), Step::Transfer(NodeId(3))), "the nearest");
    now.followers.insert(NodeId(3), Follower { matched: 100, state: FollowerState::Probing });
    assert_eq!(next(&now, &wants), Next::Do(NodeId(1), Step::Transfer(NodeId(2))));
    let handed_over = shard(2, &[1, 2, 3], &[]);
    assert_eq!(changes(&next(&handed_over, &wants)), [Remove(1)]);
    assert_eq!(changes(&next(&handed_over, &goal(&[(1, Want::Learner)]))), [AddLearner(1)]);
}

#[test]
fn a_replica_moves_in_one_joint_change() {
    let wants = goal(&[(3, Want::Gone), (4, Want::Voter)]);
    let before = shard(1, &[1, 2, 3], &[]);
    assert_eq!(changes(&next(&before, &wants)), [AddLearner(4)]);
    let ready = shard(1, &[1, 2, 3], &[4]);
    assert_eq!(changes(&next(&ready, &wants)), [Remove(3), AddVoter(4)]);
    assert_eq!(next(&shard(1, &[1, 2, 4], &[]), &wants), Next::Done);
}

#[test]
fn the_only_voter_leads_until_its_place_is_taken() {
    let wants = goal(&[(1, Want::Gone), (2, Want::Voter)]);
    assert_eq!(changes(&next(&shard(1, &[1], &[2]), &wants)), [Remove(1), AddVoter(2)]);
}

#[test]
fn somebody_has_to_vote() {
    let next = next(&shard(1, &[1], &[2]), &goal(&[(1, Want::Gone)]));
    assert!(matches!(&next, Next::Never(reason) if reason.contains("vote")), "{next:?}");
}

/// From any state, the steps lead to the goal if each does what it says.
#[test]
fn steps_come_to_an_end() {
    let wants = [Want::Voter, Want::Learner, Want::Member, Want::Gone];
    for pattern in 0..4_usize.pow(4) {
        let want = |node: u32| wants[pattern / 4_usize.pow(node) % 4];
        let goal: Goal = (0..4).map(|node| (NodeId(u64::from(node) + 1), want(node))).collect();
        let mut now = shard(1, &[1, 2], &[3]);
        let mut steps = 0;
        loop {
            match next(&now, &goal) {
                Next::Done => break,
                Next::Do(leader, step) => now = after(&now, leader, &step),
                Next::Never(_) => {
                    assert!(!goal.values().any(|want| *want == Want::Voter), "{goal:?}");
                    break;
                }
                Next::Wait(reason) => panic!("{goal:?}: {reason}"),
            }
            steps += 1;
            assert!(steps < 6, "{goal:?}: {now:?}");
        }
    }
}

/// The shard when the step is done, and everybody has caught up.
fn after(now: &Shard, leader: NodeId, step: &Step) -> Shard {
    let (mut voters, mut learners) = (now.voters.clone(), now.learners.clone());
    let mut leader = leader;
    match step {
        Step::Transfer(to) => leader = *to,
        Step::Reconfigure(changes) => {
            for change in changes {
                let (AddVoter(node) | AddLearner(node) | Remove(node)) = change;
                voters.remove(&NodeId(*node));
                learners.remove(&NodeId(*node));
                match change {
                    AddVoter(node) => drop(voters.insert(NodeId(*node))),
                    AddLearner(node) => drop(learners.insert(NodeId(*node))),
                    Remove(_) => {}
                }
            }
        }
    }
    if !voters.contains(&leader) {
        leader = *voters.first().expect("somebody votes");
    }
    let raw = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    shard(leader.0, &raw(&voters), &raw(&learners))
}

fn node(id: u64, priority: &str, drained: bool) -> Node {
    let status = NodeStatus {
        cluster: "test".to_owned(),
        node: id,
        version: "1".to_owned(),
        shards: 6,
        election_timeout_ms: 500,
        drained,
        stalled: false,
        settings: [("priority".to_owned(), priority.to_owned())].into(),
        cores: Vec::new(),
    };
    let (client, peer) = (format!("h:{id}"), format!("h:{id}"));
    let (version, removed, admin) = (0, false, None);
    let member = MemberInfo { id, version, removed, client, peer, admin, cores: None, up: true };
    Node { member, heard: Ok(Heard { status, replicas: Vec::new() }) }
}

/// Six shards of three voters, led as given.
fn led_by(leaders: [u64; 6], nodes: [Node; 3]) -> Cluster {
    let shards = leaders.into_iter().zip(0..);
    Cluster {
        name: "test".to_owned(),
        shard_count: 6,
        election_timeout: std::time::Duration::from_millis(500),
        contact: NodeId(1),
        nodes: (1..).map(NodeId).zip(nodes).collect(),
        shards: shards
            .map(|(leader, id)| {
                (ShardId(id), Shard { id: ShardId(id), ..shard(leader, &[1, 2, 3], &[]) })
            })
            .collect(),
    }
}

/// Shards that each node leads after the transfers.
fn led_after(cluster: &Cluster) -> [usize; 3] {
    let mut leaders: BTreeMap<ShardId, u64> =
        cluster.shards.values().map(|s| (s.id, s.leader.unwrap().0)).collect();
    for (shard, from, to) in spread(cluster) {
        assert_eq!(leaders.insert(shard, to.0), Some(from.0));
    }
    [1, 2, 3].map(|node| leaders.values().filter(|leader| **leader == node).count())
}

#[test]
fn leaders_are_spread_evenly() {
    let equal = || [node(1, "0", false), node(2, "0", false), node(3, "0", false)];
    assert_eq!(led_after(&led_by([1; 6], equal())), [2, 2, 2]);
    assert_eq!(led_after(&led_by([1, 1, 1, 1, 2, 2], equal())), [2, 2, 2]);
    assert_eq!(spread(&led_by([1, 2, 3, 1, 2, 3], equal())), []);
    assert_eq!(spread(&led_by([1, 2, 3, 1, 2, 2], equal())).len(), 1);
}

#[test]
fn leaders_go_only_to_those_who_want_them() {
    let nodes = [node(1, "0", false), node(2, "0", true), node(3, "0", false)];
    assert_eq!(led_after(&led_by([1; 6], nodes)), [3, 0, 3], "node 2 was drained");
    let nodes = [node(1, "1", false), node(2, "0", false), node(3, "1", false)];
    assert_eq!(led_after(&led_by([1; 6], nodes)), [3, 0, 3], "node 2 has a lower priority");
    let mut silent = node(2, "0", false);
    silent.heard = Err("it is down".to_owned());
    let nodes = [node(1, "0", false), silent, node(3, "0", false)];
    let mut cluster = led_by([1; 6], nodes);
    assert_eq!(led_after(&cluster), [3, 0, 3], "node 2 is down");
    cluster.shards.get_mut(&ShardId(0)).unwrap().leader = None;
    assert_eq!(spread(&cluster).len(), 2, "a shard without a leader stays as it is");
}
