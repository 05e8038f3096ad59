//! Shards that fall asleep, and what wakes them.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::{
    CommitMark, Config, Event, LeaseConfig, Message, PreVote, Quiesced, Role,
};
use coracle_engine::{LogIndex, NodeId, Term};

use crate::cluster::{Cluster, Node};
use crate::priorities::{elect, leader, settle, step, tick};

const ALL: [u64; 3] = [1, 2, 3];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Three nodes whose shards may sleep; the election timeout is 1 s, the heartbeat interval 100 ms. Node 1 leads.
fn cluster_with(change: impl Fn(&mut Config)) -> Cluster {
    let mut cluster = Cluster::new(3, 1, |config| {
        config.election_timeout = ms(1000);
        config.heartbeat_interval = ms(100);
        config.quiesce = true;
        change(config);
    });
    elect(&mut cluster, 1);
    cluster
}

fn cluster() -> Cluster {
    cluster_with(|_| {})
}

fn asleep(cluster: &Cluster) -> Vec<u64> {
    let sleeps = |node: &&Node| node.raft.as_ref().is_some_and(|raft| raft.is_asleep());
    cluster.nodes.values().filter(sleeps).map(|node| node.id.0).collect()
}

/// Lets so much time pass on all nodes, in steps of 50 ms; what goes to `deaf` is lost.
fn pass(cluster: &mut Cluster, time: u64, deaf: &[u64]) {
    for _ in 0..time / 50 {
        for id in ALL {
            tick(cluster, id, 50);
        }
        settle(cluster, deaf);
    }
}

fn sleeping() -> Cluster {
    let mut cluster = cluster();
    pass(&mut cluster, 1000, &[]);
    assert_eq!(asleep(&cluster), ALL);
    cluster
}

fn now(cluster: &Cluster, id: u64) -> Duration {
    cluster.node(NodeId(id)).now
}

fn propose(cluster: &mut Cluster, id: u64) {
    step(cluster, id, Event::Propose { payloads: vec![Bytes::from_static(b"x")] });
}

fn suspect(cluster: &mut Cluster, id: u64, node: u64) {
    let heard = now(cluster, id) - ms(400);
    step(cluster, id, Event::PeerSuspected { node: NodeId(node), heard });
}

#[test]
fn a_shard_at_rest_falls_asleep_and_says_nothing_more() {
    let mut cluster = sleeping();
    for id in ALL {
        assert!(!cluster.raft(NodeId(id)).unwrap().needs_ticks());
    }
    for _ in 0..200 {
        for id in ALL {
            tick(&mut cluster, id, 50);
        }
        assert!(cluster.network.is_empty(), "{:?}", cluster.network);
    }
    assert_eq!((leader(&cluster), cluster.raft(NodeId(2)).unwrap().term()), (Some(1), Term(1)));
}

#[test]
fn a_shard_that_may_not_sleep_or_lacks_a_member_stays_awake() {
    let mut cluster = cluster_with(|config| config.quiesce = false);
    pass(&mut cluster, 2000, &[]);
    assert_eq!(asleep(&cluster), []);
    let mut cluster = self::cluster();
    pass(&mut cluster, 2000, &[3]);
    assert!(!asleep(&cluster).contains(&1), "node 3 does not say that it sleeps");
    assert_eq!(leader(&cluster), Some(1), "the sleep of node 2 counts as being heard");
}

#[test]
fn who_is_silent_for_long_is_not_waited_for() {
    let mut cluster = cluster();
    cluster.crash(NodeId(3));
    pass(&mut cluster, 9000, &[3]);
    assert!(!asleep(&cluster).contains(&1));
    pass(&mut cluster, 3000, &[3]);
    assert_eq!(asleep(&cluster), [1, 2]);
    cluster.restart(NodeId(3));
    step(&mut cluster, 1, Event::PeerReachable { node: NodeId(3) });
    settle(&mut cluster, &[]);
    assert_eq!(asleep(&cluster), [], "it is back");
    pass(&mut cluster, 1000, &[]);
    assert_eq!(asleep(&cluster), ALL);
}

#[test]
fn a_majority_must_sleep() {
    let mut cluster = cluster();
    cluster.crash(NodeId(2));
    cluster.crash(NodeId(3));
    pass(&mut cluster, 20_000, &[2, 3]);
    assert_eq!(asleep(&cluster), []);
    assert_eq!(leader(&cluster), None, "it steps down instead");
}

#[test]
fn a_proposal_wakes_all_and_is_committed() {
    let mut cluster = sleeping();
    propose(&mut cluster, 1);
    settle(&mut cluster, &[]);
    assert_eq!(asleep(&cluster), []);
    assert_eq!(cluster.raft(NodeId(1)).unwrap().commit(), LogIndex(2));
    pass(&mut cluster, 1000, &[]);
    assert_eq!(asleep(&cluster), ALL, "and all sleep again");
    for id in ALL {
        assert_eq!(cluster.raft(NodeId(id)).unwrap().commit(), LogIndex(2));
    }
}

#[test]
fn a_read_takes_a_round_and_wakes_all() {
    let mut cluster = sleeping();
    step(&mut cluster, 1, Event::ReadIndex { id: 7 });
    let mut confirmed = Vec::new();
    while let Some(envelope) = cluster.network.pop() {
        let (from, message) = (envelope.from, envelope.message);
        let effects = cluster.step(envelope.to, Event::Message { from, message });
        confirmed.extend(effects.read_states.clone());
    }
    assert_eq!(confirmed, [(7, LogIndex(1))]);
    assert_eq!(asleep(&cluster), []);
}

/// A leader that slept as long as it liked is not deposed by those that wake first.
#[test]
fn waking_deposes_nobody() {
    let mut cluster = sleeping();
    for id in ALL {
        tick(&mut cluster, id, 60_000);
    }
    propose(&mut cluster, 1);
    pass(&mut cluster, 5000, &[]);
    step(&mut cluster, 2, Event::PeerReachable { node: NodeId(1) });
    pass(&mut cluster, 5000, &[]);
    assert_eq!((leader(&cluster), cluster.raft(NodeId(2)).unwrap().term()), (Some(1), Term(1)));
}

#[test]
fn followers_of_a_suspected_node_elect_another_leader_in_time() {
    let mut cluster = sleeping();
    cluster.crash(NodeId(1));
    for id in [2, 3] {
        suspect(&mut cluster, id, 1);
    }
    assert_eq!(asleep(&cluster), []);
    // Nothing was heard for 400 ms. The longest timer ends 2 s after that, and the pre-votes of the first are
    // answered.
    let mut passed = 0;
    while leader(&cluster).is_none() {
        pass(&mut cluster, 50, &[1]);
        passed += 50;
    }
    assert!(passed <= 1700, "{passed} ms");
    assert_eq!(cluster.raft(NodeId(2)).unwrap().term(), Term(2));
}

#[test]
fn a_wrong_suspicion_wakes_the_leader_and_changes_nothing() {
    let mut cluster = sleeping();
    suspect(&mut cluster, 2, 1);
    settle(&mut cluster, &[]);
    assert_eq!(asleep(&cluster), []);
    pass(&mut cluster, 5000, &[]);
    assert_eq!((leader(&cluster), cluster.raft(NodeId(2)).unwrap().term()), (Some(1), Term(1)));
    assert_eq!(asleep(&cluster), ALL);
}

#[test]
fn a_suspected_follower_keeps_the_leader_awake_until_it_is_given_up() {
    let mut cluster = sleeping();
    suspect(&mut cluster, 1, 3);
    settle(&mut cluster, &[3]);
    pass(&mut cluster, 3000, &[3]);
    assert!(!asleep(&cluster).contains(&1));
    assert_eq!(leader(&cluster), Some(1));
}

/// Nobody but the owner knows that the node of the leader lives: a question from another follower is no reason to
/// help to depose it, nor to go on sleeping.
#[test]
fn a_question_for_votes_wakes_and_is_not_answered() {
    let mut cluster = sleeping();
    let committed = CommitMark::default();
    let (last_index, last_term) = (LogIndex(1), Term(1));
    let question = PreVote { term: Term(2), last_index, last_term, committed };
    let event = Event::Message { from: NodeId(3), message: Message::PreVote(question) };
    let effects = cluster.step(NodeId(2), event).messages.clone();
    let [(NodeId(1), Message::Quiesced(Quiesced { asleep: false, .. }))] = effects[..] else {
        panic!("it only wakes its leader: {effects:?}");
    };
    settle(&mut cluster, &[]);
    assert_eq!(asleep(&cluster), []);
    assert_eq!(leader(&cluster), Some(1));
}

#[test]
fn a_lost_waking_is_made_good_by_doubt() {
    let mut cluster = sleeping();
    propose(&mut cluster, 1);
    settle(&mut cluster, &[3]);
    assert_eq!(asleep(&cluster), [3], "it did not hear of it");
    step(&mut cluster, 3, Event::PeerDoubted { node: NodeId(1) });
    settle(&mut cluster, &[]);
    assert_eq!(asleep(&cluster), []);
    pass(&mut cluster, 1000, &[]);
    assert_eq!(asleep(&cluster), ALL);
}

/// Others have elected a new leader without this follower, and sleep; the old leader knows, and its node lives on.
#[test]
fn a_follower_that_missed_a_term_gets_to_it() {
    let mut cluster = sleeping();
    // Node 2 takes over with the vote of 1; node 3 hears nothing of it, and is taken for dead.
    cluster.step(NodeId(1), Event::TransferLeadership { id: 1, to: Some(NodeId(2)) });
    settle(&mut cluster, &[3]);
    pass(&mut cluster, 12_000, &[3]);
    assert_eq!((leader(&cluster), asleep(&cluster)), (Some(2), vec![1, 2, 3]));
    let term = |cluster: &Cluster, id| cluster.raft(NodeId(id)).unwrap().term();
    assert_eq!((term(&cluster, 1), term(&cluster, 3)), (Term(2), Term(1)));
    let sleeps_with = |cluster: &Cluster, id| -> Vec<NodeId> {
        cluster.raft(NodeId(id)).unwrap().sleeps_with().collect()
    };
    assert_eq!(sleeps_with(&cluster, 3), [NodeId(1)], "who does not count it among its sleepers");
    assert_eq!(sleeps_with(&cluster, 1), [NodeId(2)]);
    step(&mut cluster, 3, Event::PeerDoubted { node: NodeId(1) });
    pass(&mut cluster, 3000, &[]);
    assert_eq!((leader(&cluster), asleep(&cluster)), (Some(2), vec![1, 2, 3]));
    assert_eq!((term(&cluster, 1), term(&cluster, 3)), (Term(2), Term(2)));
    assert_eq!(sleeps_with(&cluster, 2), [NodeId(1), NodeId(3)]);
}

/// A leader that sleeps behind its followers' backs: they are in a later term, and it is told when they compare.
#[test]
fn a_leader_that_missed_a_term_is_told() {
    let mut cluster = sleeping();
    cluster.step(NodeId(2), Event::PeerSuspected { node: NodeId(1), heard: Duration::ZERO });
    cluster.step(NodeId(3), Event::PeerSuspected { node: NodeId(1), heard: Duration::ZERO });
    for _ in 0..60 {
        tick(&mut cluster, 2, 50);
        tick(&mut cluster, 3, 50);
        settle(&mut cluster, &[1]);
    }
    let leads = |id| cluster.raft(NodeId(id)).unwrap().role() == Role::Leader;
    assert!(asleep(&cluster).contains(&1) && leads(1) && (leads(2) || leads(3)));
    let follower = if leads(2) { 3 } else { 2 };
    step(&mut cluster, follower, Event::PeerDoubted { node: NodeId(1) });
    settle(&mut cluster, &[]);
    let old = cluster.raft(NodeId(1)).unwrap();
    assert_eq!((old.role(), old.term(), old.is_asleep()), (Role::Follower, Term(2), false));
}

/// What the leader's node or the sleep of its followers says is not an answer to its heartbeats: its lease ends by
/// the clock.
#[test]
fn a_lease_ends_while_the_shard_sleeps() {
    let lease = Some(LeaseConfig { drift_ppm: 250_000 });
    let mut cluster = Cluster::new(3, 1, |config| {
        config.election_timeout = ms(1000);
        config.heartbeat_interval = ms(100);
        config.quiesce = true;
        config.lease = lease;
    });
    while asleep(&cluster) != ALL {
        pass(&mut cluster, 50, &[]);
    }
    let raft = |cluster: &Cluster, id| cluster.raft(NodeId(id)).unwrap().clone();
    let leads = leader(&cluster).unwrap();
    let follower = leads % 3 + 1;
    assert!(raft(&cluster, follower).needs_ticks(), "it owes quiet for a while");
    let until = raft(&cluster, leads).lease_until().unwrap();
    assert!(until <= now(&cluster, leads) + ms(800));
    pass(&mut cluster, 2000, &[]);
    assert!(!raft(&cluster, follower).needs_ticks());
    assert_eq!(raft(&cluster, leads).lease_until(), Some(until), "nothing has extended it");
    let at = now(&cluster, leads);
    let effects = cluster.step(NodeId(leads), Event::LeaseRead { id: 7, now: at });
    assert!(effects.read_states.is_empty(), "a round is needed: {effects:?}");
    settle(&mut cluster, &[]);
    assert!(raft(&cluster, leads).lease_until().unwrap() > now(&cluster, leads));
}

#[test]
fn a_single_voter_sleeps_alone() {
    let mut cluster = Cluster::new(1, 1, |config| config.quiesce = true);
    elect(&mut cluster, 1);
    for _ in 0..20 {
        tick(&mut cluster, 1, 50);
        settle(&mut cluster, &[]);
    }
    assert_eq!(asleep(&cluster), [1]);
    propose(&mut cluster, 1);
    settle(&mut cluster, &[]);
    assert_eq!(cluster.raft(NodeId(1)).unwrap().commit(), LogIndex(2));
}

/// A follower that sleeps is asked how new it is, and asks its leader, which sleeps: both wake, and the answer comes. Later
/// the shard sleeps again.
#[test]
fn a_question_wakes_a_shard_and_is_answered() {
    let mut cluster = sleeping();
    let now = now(&cluster, 2);
    step(&mut cluster, 2, Event::AskReadIndex { id: 4, now });
    let mut answered = Vec::new();
    while !cluster.network.is_empty() {
        let envelope = cluster.network.remove(0);
        let (from, message) = (envelope.from, envelope.message);
        let effects = cluster.step(envelope.to, Event::Message { from, message });
        answered.extend(effects.read_states.clone());
    }
    assert_eq!(answered, [(4, LogIndex(1))]);
    assert_eq!(asleep(&cluster), []);
    pass(&mut cluster, 1000, &[]);
    assert_eq!(asleep(&cluster), ALL);
    assert_eq!(cluster.raft(NodeId(1)).unwrap().reads_pending(), 0);
}
