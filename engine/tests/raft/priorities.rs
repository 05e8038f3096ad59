//! Priorities: who campaigns later, and to whom leaders hand over.

use std::time::Duration;

use coracle_engine::raft::{
    Config, Effects, Event, Message, Role, StartError, TransferOutcome, TransferRefusal,
};
use coracle_engine::{LogIndex, NodeId};

use crate::cluster::Cluster;

pub fn step(cluster: &mut Cluster, id: u64, event: Event) -> Vec<(u64, TransferOutcome)> {
    cluster.step(NodeId(id), event).transfers.clone()
}

pub fn tick(cluster: &mut Cluster, id: u64, by_ms: u64) {
    let now = cluster.node(NodeId(id)).now + Duration::from_millis(by_ms);
    step(cluster, id, Event::Tick { now });
}

/// Delivers and writes until nothing is under way; what goes to `deaf` is lost.
pub fn settle(cluster: &mut Cluster, deaf: &[u64]) {
    loop {
        for id in cluster.ids() {
            while let Some(write) = cluster.write_one(id) {
                for (to, message) in write.after_durable {
                    cluster.network.push(crate::cluster::Envelope { from: id, to, message });
                }
                cluster.step(id, Event::Durable(write.mark.unwrap()));
            }
        }
        if cluster.network.is_empty() {
            return;
        }
        let envelope = cluster.network.remove(0);
        if !deaf.contains(&envelope.to.0) {
            let (from, message) = (envelope.from, envelope.message);
            cluster.step(envelope.to, Event::Message { from, message });
        }
    }
}

/// Three nodes with these priorities; the election timeout is 1 s.
fn cluster(priorities: [i8; 3]) -> Cluster {
    let mut cluster = Cluster::new(3, 1, |config| {
        config.election_timeout = Duration::from_secs(1);
        config.heartbeat_interval = Duration::from_millis(100);
    });
    for (id, priority) in (1..).zip(priorities) {
        cluster.restart_with(NodeId(id), |config| config.priority = priority);
    }
    cluster
}

pub fn leader(cluster: &Cluster) -> Option<u64> {
    let leads = |node: &&crate::cluster::Node| {
        node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader)
    };
    cluster.nodes.values().find(leads).map(|node| node.id.0)
}

pub fn elect(cluster: &mut Cluster, id: u64) {
    tick(cluster, id, 2000);
    settle(cluster, &[]);
    assert_eq!(leader(cluster), Some(id));
}

#[test]
fn a_leader_hands_over_to_a_voter_of_higher_priority() {
    let mut cluster = cluster([0, 3, 5]);
    elect(&mut cluster, 1);
    for _ in 0..2 {
        tick(&mut cluster, 1, 100);
        settle(&mut cluster, &[]);
    }
    assert_eq!(leader(&cluster), Some(3), "the highest");
    for _ in 0..20 {
        tick(&mut cluster, 3, 100);
        settle(&mut cluster, &[]);
    }
    assert_eq!(leader(&cluster), Some(3), "and there it stays");
}

#[test]
fn a_voter_of_higher_priority_that_lacks_entries_has_to_wait() {
    let mut cluster = cluster([0, 0, 5]);
    elect(&mut cluster, 1);
    step(&mut cluster, 1, Event::Propose { payloads: vec!["x".into()] });
    settle(&mut cluster, &[3]);
    assert_eq!(cluster.raft(NodeId(1)).unwrap().commit(), LogIndex(2));
    tick(&mut cluster, 1, 100);
    assert_eq!(cluster.raft(NodeId(1)).unwrap().transferring_to(), None);
    for _ in 0..4 {
        settle(&mut cluster, &[]);
        tick(&mut cluster, 1, 100);
    }
    settle(&mut cluster, &[]);
    assert_eq!(leader(&cluster), Some(3));
}

#[test]
fn a_voter_that_fails_to_take_over_is_left_alone_for_a_while() {
    let mut cluster = cluster([0, 0, 5]);
    elect(&mut cluster, 1);
    let mut orders = 0;
    for _ in 0..100 {
        tick(&mut cluster, 1, 100);
        let orders_now = |e: &crate::cluster::Envelope| matches!(e.message, Message::TimeoutNow(_));
        orders += usize::from(cluster.network.iter().any(orders_now));
        cluster.network.retain(|envelope| !orders_now(envelope));
        settle(&mut cluster, &[]);
    }
    assert_eq!(leader(&cluster), Some(1));
    assert!((1..=11).contains(&orders), "one attempt of one election timeout: {orders} orders");
}

#[test]
fn a_priority_may_change_while_the_replica_runs() {
    let mut cluster = cluster([0, 0, 0]);
    elect(&mut cluster, 1);
    cluster.node_mut(NodeId(3)).raft.as_mut().unwrap().set_priority(2, &mut Effects::default());
    cluster.node_mut(NodeId(2)).raft.as_mut().unwrap().decline();
    cluster.node_mut(NodeId(2)).raft.as_mut().unwrap().set_priority(8, &mut Effects::default());
    for _ in 0..3 {
        tick(&mut cluster, 1, 100);
        settle(&mut cluster, &[]);
    }
    assert_eq!(leader(&cluster), Some(3), "2 goes on declining");
}

#[test]
fn a_replica_below_0_campaigns_later() {
    let due = |priority: i8| {
        let mut cluster = cluster([priority, 0, 0]);
        (0..).find(|_| {
            tick(&mut cluster, 1, 100);
            !cluster.network.is_empty()
        })
    };
    let usual = due(0).unwrap();
    assert_eq!(due(3), Some(usual));
    assert_eq!(due(-2), Some(usual + 20), "two election timeouts later");
}

#[test]
fn whoever_declines_is_not_chosen() {
    let mut cluster = cluster([0, 5, 0]);
    cluster.node_mut(NodeId(2)).raft.as_mut().unwrap().decline();
    elect(&mut cluster, 1);
    for _ in 0..3 {
        tick(&mut cluster, 1, 100);
        settle(&mut cluster, &[]);
    }
    assert_eq!(leader(&cluster), Some(1));
    let ended = step(&mut cluster, 1, Event::TransferLeadership { id: 1, to: Some(NodeId(2)) });
    let refusal = TransferRefusal::Declines { node: NodeId(2) };
    assert_eq!(ended, [(1, TransferOutcome::Refused(refusal))]);
    step(&mut cluster, 1, Event::TransferLeadership { id: 2, to: None });
    settle(&mut cluster, &[]);
    assert_eq!(leader(&cluster), Some(3));
}

#[test]
fn a_priority_beyond_the_bounds_is_refused() {
    for (priority, allowed) in [(8, true), (-8, true), (9, false), (i8::MIN, false)] {
        let config = Config { priority, ..Config::new(NodeId(1), vec![NodeId(1)], 0) };
        let refused = matches!(config.validate(), Err(StartError::Config(_)));
        assert_eq!(refused, !allowed, "{priority}");
    }
}
