//! What a shard needs next on its way to a goal; which leaders should go where. Pure: from what the cluster says to
//! steps, so that all cases can be tested without a cluster.
//!
//! # The way to a goal
//! For each shard, the first line that applies:
//!
//! | the shard | next |
//! |---|---|
//! | is as wanted, and that is committed | nothing |
//! | has no leader that answers | wait |
//! | is joint, and the leader does not leave that by itself | leave it |
//! | is joint, or has a change that is not committed | wait |
//! | lacks a node that is to vote or to learn | make it a learner |
//! | has a learner that is to vote and lacks entries | wait |
//! | would have no voters afterwards | give up |
//! | is led by a node that is to vote no more, and another voter stays | hand over leadership |
//! | else | make all changes of voters at once, as one joint change if there are several |
//!
//! So a node votes only when it has caught up, nobody goes before whoever comes in its place is there, and a leader
//! that goes hands over before, so that clients see a redirection and no election. One that is the only voter to stay
//! until the new ones vote leads until the change is committed, and hands over then by itself.

use std::collections::{BTreeMap, BTreeSet};

use coracle::admin::protocol::{FollowerState, MemberChange};
use coracle::{NodeId, ShardId};

use super::cluster::{Cluster, Shard};
use super::show::thousands;

/// Committed entries that a learner may lack when it is to vote: as many as its leader allows.
const BEHIND_MAX: u64 = coracle_engine::limits::PROMOTION_ENTRIES_BEHIND_MAX;

/// What a node is to be to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It votes.
    Voter,
    /// It only receives; a voter becomes a learner.
    Learner,
    /// It belongs to the shard; a voter stays one.
    Member,
    /// It does not belong to the shard.
    Gone,
}

/// What is wanted of one shard. Nodes that are not named stay what they are.
pub type Goal = BTreeMap<NodeId, Want>;

/// One operation on the leader of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These changes as one; without any, the joint configuration is left.
    Reconfigure(Vec<MemberChange>),
    /// Leadership goes to this node.
    Transfer(NodeId),
}

/// What a shard needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is as wanted.
    Done,
    /// A step by the node that leads it.
    Do(NodeId, Step),
    /// Time; the reason says what for.
    Wait(String),
    /// It can't be had.
    Never(String),
}

/// What `shard` needs next to come to `goal`.
#[must_use]
pub fn next(shard: &Shard, goal: &Goal) -> Next {
    let is_met = |(node, want): (&NodeId, &Want)| match want {
        Want::Voter => shard.voters.contains(node),
        Want::Learner => shard.learners.contains(node),
        Want::Member => shard.voters.contains(node) || shard.learners.contains(node),
        Want::Gone => !shard.has(*node),
    };
    let Some(leader) = shard.leader else { return Next::Wait(leaderless(shard)) };
    if shard.is_joint() && shard.settled && !shard.auto_leave {
        return Next::Do(leader, Step::Reconfigure(Vec::new()));
    }
    if shard.is_joint() || !shard.settled {
        return Next::Wait("a change of members is not committed yet".to_owned());
    }
    if goal.iter().all(is_met) {
        return Next::Done;
    }
    let newcomers: Vec<MemberChange> = goal
        .iter()
        .filter(|(node, want)| **want != Want::Gone && !shard.has(**node))
        .map(|(node, _)| MemberChange::AddLearner(node.0))
        .collect();
    if !newcomers.is_empty() {
        return Next::Do(leader, Step::Reconfigure(newcomers));
    }
    change_voters(shard, goal, leader)
}

/// All that are wanted belong to the shard: who votes, and who goes.
fn change_voters(shard: &Shard, goal: &Goal, leader: NodeId) -> Next {
    let mut changes = Vec::new();
    let mut after = shard.voters.clone();
    for (&node, want) in goal {
        let votes = shard.voters.contains(&node);
        match want {
            Want::Voter if !votes => {
                if let Some(lack) = lack(shard, node) {
                    return Next::Wait(lack);
                }
                after.insert(node);
                changes.push(MemberChange::AddVoter(node.0));
            }
            Want::Learner if votes => {
                after.remove(&node);
                changes.push(MemberChange::AddLearner(node.0));
            }
            Want::Gone if shard.has(node) => {
                after.remove(&node);
                changes.push(MemberChange::Remove(node.0));
            }
            Want::Voter | Want::Learner | Want::Member | Want::Gone => {}
        }
    }
    if after.is_empty() {
        return Next::Never("nobody would vote any more; let another node vote first".to_owned());
    }
    if !after.contains(&leader) {
        let stays = shard.voters.intersection(&after);
        let ready = |node: &&NodeId| {
            let follower = shard.followers.get(node);
            follower.is_some_and(|follower| follower.state == FollowerState::Replicating)
        };
        let nearest = stays.filter(ready).max_by_key(|node| shard.followers[node].matched);
        if let Some(heir) = nearest {
            return Next::Do(leader, Step::Transfer(*heir));
        }
    }
    Next::Do(leader, Step::Reconfigure(changes))
}

/// Why nobody can be asked to change a shard.
fn leaderless(shard: &Shard) -> String {
    match shard.hearsay {
        Some(node) => format!("node {node} is said to lead it, and does not answer"),
        None => "it has no leader".to_owned(),
    }
}

/// What a learner lacks before it can vote, if anything.
fn lack(shard: &Shard, node: NodeId) -> Option<String> {
    let Some(follower) = shard.followers.get(&node) else {
        return Some(format!("its leader has not heard of node {node} yet"));
    };
    let behind = shard.lag(node).unwrap_or(0);
    match follower.state {
        FollowerState::Returning => Some(format!(
            "node {node} does not count yet; does it run, and can the others reach it?"
        )),
        FollowerState::Snapshot => Some(format!("node {node} is taking over a snapshot")),
        FollowerState::Probing => Some(format!(
            "it is not known what node {node} has; does it run, and can the others reach it?"
        )),
        FollowerState::Replicating if behind > BEHIND_MAX => {
            Some(format!("node {node} lacks {} entries", thousands(behind)))
        }
        FollowerState::Replicating => None,
    }
}

/// Transfers after which every node leads about as many shards as the others that could: no more than one more, if
/// the shards allow. Shards without a leader that answers, or in a change of members, stay as they are.
#[must_use]
pub fn spread(cluster: &Cluster) -> Vec<(ShardId, NodeId, NodeId)> {
    let movable: Vec<(&Shard, BTreeSet<NodeId>)> = cluster
        .shards
        .values()
        .filter(|shard| shard.leader.is_some() && !shard.is_joint())
        .map(|shard| (shard, cluster.candidates(shard)))
        .collect();
    let mut leaders: BTreeMap<ShardId, NodeId> =
        cluster.shards.values().filter_map(|shard| Some((shard.id, shard.leader?))).collect();
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    leaders.values().for_each(|leader| *led.entry(*leader).or_default() += 1);
    let count = |led: &BTreeMap<NodeId, usize>, node| led.get(&node).copied().unwrap_or(0);
    // Each move makes the fuller of two nodes emptier without making the other the fuller one, so this ends.
    loop {
        let mut moved = false;
        for (shard, candidates) in &movable {
            let from = leaders[&shard.id];
            let Some(to) = candidates.iter().copied().min_by_key(|node| count(&led, *node)) else {
                continue;
            };
            if count(&led, from) >= count(&led, to) + 2 {
                *led.entry(from).or_default() -= 1;
                *led.entry(to).or_default() += 1;
                leaders.insert(shard.id, to);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let original = |shard: &ShardId| cluster.shards[shard].leader;
    leaders
        .into_iter()
        .filter_map(|(shard, to)| Some((shard, original(&shard)?, to)))
        .filter(|(_, from, to)| from != to)
        .collect()
}

#[cfg(test)]
mod tests;
