//! Changes of who belongs to the shard, in small clusters that do as they are told.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::membership::{Change, Configuration, Reconfiguration, Transition};
use coracle_engine::raft::{
    AppendOutcome, AppendReply, CommitMark, Config, Effects, EntryKind, Event, HardState,
    Membership, Message, Raft, RaftLog, Readiness, ReconfigureRefusal, Reconfigured, Role,
    Standing, TransferOutcome, TransferRefusal, VoteReply,
};
use coracle_engine::{LogIndex, NodeId, Term};

use crate::cluster::{Cluster, Envelope};

const OWN: NodeId = NodeId(1);

/// A cluster of four or so, of which the first few vote; the others join with blank disks.
struct World {
    cluster: Cluster,
    /// Nothing reaches these, and nothing comes from them.
    cut: Vec<u64>,
}

impl World {
    fn new(nodes: u64, voters: u64) -> Self {
        let cluster = Cluster::with_spares(voters, nodes - voters, 7, |_| {});
        let mut world = Self { cluster, cut: Vec::new() };
        world.elect(1);
        world
    }

    fn raft(&self, id: u64) -> &Raft {
        self.cluster.raft(NodeId(id)).unwrap()
    }

    fn tick(&mut self, id: u64, ms: u64) {
        let now = self.cluster.node(NodeId(id)).now + Duration::from_millis(ms);
        self.cluster.step(NodeId(id), Event::Tick { now });
    }

    /// Time passes for all that run, and everything that is under way arrives.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            for id in self.cluster.ids() {
                self.tick(id.0, 50);
            }
            self.settle();
        }
    }

    fn elect(&mut self, id: u64) {
        for _ in 0..40 {
            self.tick(id, 100);
            self.settle();
            if self.raft(id).role() == Role::Leader {
                return;
            }
        }
        panic!("{id} is not elected");
    }

    fn write(&mut self, id: NodeId) -> bool {
        let Some(write) = self.cluster.write_one(id) else { return false };
        for (to, message) in write.after_durable {
            self.cluster.network.push(Envelope { from: id, to, message });
        }
        if let Some(mark) = write.mark {
            self.cluster.step(id, Event::Durable(mark));
        }
        true
    }

    fn settle(&mut self) {
        loop {
            let ids = self.cluster.ids();
            let wrote = ids.iter().filter(|id| self.write(**id)).count();
            if let Some(event) = ids
                .iter()
                .find_map(|id| self.cluster.finish_pull(*id, false).map(|event| (*id, event)))
            {
                self.cluster.step(event.0, event.1);
            }
            let network = std::mem::take(&mut self.cluster.network);
            if network.is_empty() && wrote == 0 {
                return;
            }
            for Envelope { from, to, message } in network {
                let cut = self.cut.contains(&from.0) != self.cut.contains(&to.0);
                if !cut && self.cluster.nodes.contains_key(&to) {
                    self.cluster.step(to, Event::Message { from, message });
                }
            }
        }
    }

    fn propose(&mut self, id: u64) {
        let payloads = vec![Bytes::from_static(b"x")];
        self.cluster.step(NodeId(id), Event::Propose { payloads });
    }

    fn ask(
        &mut self,
        id: u64,
        change: Reconfiguration,
        only_if_ready: bool,
    ) -> Result<Reconfigured, ReconfigureRefusal> {
        let event = Event::Reconfigure { change, only_if_ready };
        self.cluster.step(NodeId(id), event).reconfigured.unwrap()
    }

    /// Changes it, and waits for what follows.
    fn change(&mut self, id: u64, change: Reconfiguration) {
        self.ask(id, change, false).unwrap();
        self.settle();
    }

    fn says(&self, id: u64) -> String {
        self.raft(id).configuration().to_string()
    }
}

fn auto(changes: &[Change]) -> Reconfiguration {
    Reconfiguration::Change { changes: changes.to_vec(), transition: Transition::Auto }
}

fn voter(id: u64) -> Change {
    Change::AddVoter(NodeId(id))
}

fn learner(id: u64) -> Change {
    Change::AddLearner(NodeId(id))
}

fn remove(id: u64) -> Change {
    Change::Remove(NodeId(id))
}

#[test]
fn a_node_joins_as_a_learner_and_is_promoted_when_it_is_ready() {
    let mut world = World::new(4, 3);
    world.propose(1);
    world.settle();
    assert_eq!(world.raft(4).standing(), None, "it has not heard of anybody");
    assert!(!world.cluster.node(NodeId(4)).disk.written);
    let promote = auto(&[voter(4)]);
    let refusal = |readiness| ReconfigureRefusal::NotReady { node: NodeId(4), readiness };
    assert_eq!(world.ask(1, promote.clone(), true), Err(refusal(Readiness::Stranger)));
    world.ask(1, auto(&[learner(4)]), true).unwrap();
    assert_ne!(world.raft(1).readiness(NodeId(4)), Readiness::Ready);
    world.settle();
    world.pass(600);
    assert_eq!(world.raft(4).standing(), Some(Standing::Member), "readmitted");
    assert_eq!(world.says(4), "voters=(1 2 3) learners=(4)");
    let follower = world.raft(1).followers().find(|known| known.id == NodeId(4)).unwrap();
    assert_eq!(follower.membership, Membership::Learner);
    world.ask(1, promote, true).unwrap();
    world.settle();
    assert_eq!(world.raft(1).configuration().to_string(), "voters=(1 2 3 4)");
    assert!(world.raft(1).is_configuration_committed());
    // It counts: with 2 cut off, 1, 3 and 4 commit.
    world.cut = vec![2];
    world.propose(1);
    world.settle();
    assert_eq!(world.raft(1).commit(), world.raft(1).last_index());
}

/// A learner that acknowledges everything is no part of a majority, neither of commits nor of votes.
#[test]
fn learners_do_not_count_and_never_campaign() {
    let mut world = World::new(4, 3);
    world.change(1, auto(&[learner(4)]));
    world.pass(600);
    world.cut = vec![2, 3];
    let before = world.raft(1).commit();
    world.propose(1);
    world.settle();
    assert_eq!(world.raft(4).last_index(), world.raft(1).last_index());
    assert_eq!(world.raft(1).commit(), before, "1 and a learner are no majority of three");
    world.cut = vec![1, 2, 3];
    for _ in 0..50 {
        world.tick(4, 200);
        assert_eq!(world.raft(4).role(), Role::Follower);
    }
    assert_eq!(world.raft(4).leader(), None);
}

/// Two leaders, each with a change of one voter that is not committed, must not both win (raft-dev, 2015).
#[test]
fn no_change_before_the_leader_has_committed_in_its_term() {
    let mut world = World::new(5, 4);
    world.cut = vec![1];
    let before = world.raft(2).term();
    world.pass(600);
    world.cut.clear();
    let ids = [2, 3, 4];
    for _ in 0..60 {
        ids.iter().for_each(|id| world.tick(*id, 50));
        // Votes and entries of the new term reach disks, but no acknowledgement arrives.
        for _ in 0..6 {
            world.cluster.ids().into_iter().for_each(|id| while world.write(id) {});
            for Envelope { from, to, message } in std::mem::take(&mut world.cluster.network) {
                if !matches!(message, Message::AppendReply(_)) && from != OWN && to != OWN {
                    world.cluster.step(to, Event::Message { from, message });
                }
            }
        }
        if ids.iter().any(|id| world.raft(*id).role() == Role::Leader) {
            break;
        }
    }
    let leader = *ids.iter().find(|id| world.raft(**id).role() == Role::Leader).unwrap();
    assert!(world.raft(leader).term() > before);
    let refused = world.ask(leader, auto(&[remove(leader % 3 + 2)]), false);
    assert_eq!(refused, Err(ReconfigureRefusal::TermNotCommitted));
    world.settle();
    world.pass(600);
    let leader = world.cluster.ids().into_iter().find(|id| world.raft(id.0).role() == Role::Leader);
    world.ask(leader.unwrap().0, auto(&[learner(5)]), false).unwrap();
}

#[test]
fn one_change_at_a_time() {
    let mut world = World::new(5, 3);
    let first = world.ask(1, auto(&[learner(4)]), false).unwrap();
    let second = world.ask(1, auto(&[learner(5)]), false);
    assert_eq!(second, Err(ReconfigureRefusal::UnderWay { index: first.index }));
    let follower = world.ask(2, auto(&[learner(5)]), false);
    assert_eq!(follower, Err(ReconfigureRefusal::NotLeader { leader: Some(OWN) }));
    world.settle();
    let until_left = Transition::JointUntilLeft;
    let joint = Reconfiguration::Change { changes: vec![remove(3)], transition: until_left };
    world.change(1, joint);
    assert_eq!(world.says(2), "voters=(1 2)&&(1 2 3) learners=(4)");
    let third = world.ask(1, auto(&[learner(5)]), false);
    assert!(matches!(third, Err(ReconfigureRefusal::Change(_))), "{third:?}");
    world.change(1, Reconfiguration::Leave);
    assert_eq!(world.says(2), "voters=(1 2) learners=(4)");
}

/// Entries that change the configuration, as a leader's log has them.
fn changes(raft: &Raft) -> usize {
    let entries = raft.entries(LogIndex(1), raft.last_index());
    entries.filter(|entry| entry.kind == EntryKind::Reconfiguration).count()
}

#[test]
fn a_joint_configuration_is_left_once_by_whoever_leads() {
    let mut world = World::new(5, 3);
    world.ask(1, auto(&[remove(2), remove(3)]), false).unwrap();
    assert_eq!(world.says(1), "voters=(1)&&(1 2 3) autoleave");
    world.settle();
    world.pass(400);
    assert_eq!((world.says(1).as_str(), changes(world.raft(1))), ("voters=(1)", 2));

    // The joint entry is on a majority of both halves when its leader stops.
    let mut world = World::new(5, 3);
    world.ask(1, auto(&[remove(3), remove(1)]), false).unwrap();
    for id in [1, 2, 3] {
        world.write(NodeId(id));
    }
    for Envelope { from, to, message } in std::mem::take(&mut world.cluster.network) {
        world.cluster.step(to, Event::Message { from, message });
    }
    world.cluster.network.clear();
    for id in [2, 3] {
        while world.write(NodeId(id)) {}
    }
    world.cluster.network.clear();
    world.cluster.crash(OWN);
    assert_eq!(world.says(2), "voters=(2)&&(1 2 3) autoleave");
    for _ in 0..100 {
        for id in [2, 3] {
            world.tick(id, 50);
        }
        world.settle();
    }
    assert_eq!((world.says(2).as_str(), changes(world.raft(2))), ("voters=(2)", 2));
    assert!(world.raft(2).is_configuration_committed());
    assert_eq!(world.raft(2).role(), Role::Leader);
}

/// In both halves there is nobody to ask: it must not wait for answers.
#[test]
fn the_only_voter_of_a_joint_configuration_is_elected() {
    let mut world = World::new(2, 1);
    world.cut = vec![2];
    let changes = vec![learner(2)];
    world.ask(1, Reconfiguration::Change { changes, transition: Transition::Joint }, true).unwrap();
    while world.cluster.write_one(OWN).is_some() {}
    world.cluster.crash(OWN);
    world.cluster.restart(OWN);
    assert_eq!(world.says(1), "voters=(1)&&(1) learners=(2) autoleave");
    world.pass(3000);
    assert_eq!(world.says(1), "voters=(1) learners=(2)");
    assert_eq!(world.raft(1).role(), Role::Leader);
}

#[test]
fn a_change_that_is_cut_off_is_undone() {
    let mut world = World::new(4, 3);
    world.cut = vec![1];
    world.ask(1, auto(&[remove(3)]), false).unwrap();
    world.settle();
    assert_eq!(world.says(1), "voters=(1 2)", "in force when appended");
    world.tick(3, 600); // hears no leader any more
    world.elect(2);
    world.propose(2);
    world.settle();
    world.cut.clear();
    world.pass(600);
    assert_eq!(world.says(1), "voters=(1 2 3)", "and not any more");
    let members: Vec<u64> = world.raft(1).configuration().members().iter().map(|id| id.0).collect();
    assert_eq!(members, [1, 2, 3]);
    assert_eq!(world.raft(1).commit(), world.raft(2).commit());
}

#[test]
fn a_removed_leader_does_not_count_itself_and_steps_down_when_it_is_committed() {
    let mut world = World::new(3, 3);
    world.cut = vec![3];
    world.ask(1, auto(&[remove(1)]), false).unwrap();
    world.settle();
    // 1 and 2 have it: that is no majority of (2 3).
    assert_eq!(
        (world.raft(1).role(), world.raft(1).is_configuration_committed()),
        (Role::Leader, false)
    );
    world.cut.clear();
    world.pass(500);
    assert!(world.raft(1).is_configuration_committed());
    assert_eq!(world.raft(1).role(), Role::Follower);
    for _ in 0..50 {
        world.tick(1, 200);
        world.settle();
        assert_eq!(world.raft(1).role(), Role::Follower, "it knows that it is removed");
    }
    world.pass(2000);
    assert!([2, 3].iter().any(|id| world.raft(*id).role() == Role::Leader));
}

/// Nobody waits for an election timeout.
#[test]
fn a_removed_leader_hands_over_when_it_is_committed() {
    let mut world = World::new(3, 3);
    let now = |world: &World| [2, 3].map(|id| world.cluster.node(NodeId(id)).now);
    let before = now(&world);
    world.change(1, auto(&[remove(1)]));
    assert_eq!(now(&world), before, "no time has passed for them");
    assert_eq!(world.raft(1).role(), Role::Follower);
    let leads = |id: &u64| world.raft(*id).role() == Role::Leader;
    assert_eq!([2, 3].iter().filter(|id| leads(id)).count(), 1);
    assert!(world.raft(2).is_configuration_committed() && world.raft(3).leader().is_some());
}

fn transfer(world: &mut World, to: Option<u64>) -> Vec<(u64, TransferOutcome)> {
    let event = Event::TransferLeadership { id: 7, to: to.map(NodeId) };
    world.cluster.step(OWN, event).transfers.clone()
}

fn not_a_voter(node: u64) -> Vec<(u64, TransferOutcome)> {
    let node = NodeId(node);
    vec![(7, TransferOutcome::Refused(TransferRefusal::NotAVoter { node }))]
}

#[test]
fn leadership_goes_to_voters_only() {
    let mut world = World::new(4, 3);
    world.change(1, auto(&[learner(4)]));
    world.pass(600);
    assert_eq!(world.raft(1).readiness(NodeId(4)), Readiness::Ready);
    assert_eq!(transfer(&mut world, Some(4)), not_a_voter(4));
    // While a voter is being removed, it is still a peer.
    world.cut = vec![3];
    world.change(1, auto(&[remove(3)]));
    assert!(world.raft(1).followers().any(|known| known.id == NodeId(3)));
    assert_eq!(transfer(&mut world, Some(3)), not_a_voter(3));
    world.cut.clear();
    assert_eq!(transfer(&mut world, None), []);
    world.settle();
    assert_eq!(world.raft(2).role(), Role::Leader, "the only other voter");

    // A new voter leads as well as any, once its configuration is in force.
    let mut world = World::new(4, 3);
    world.change(1, auto(&[learner(4)]));
    world.pass(600);
    world.change(1, auto(&[voter(4)]));
    assert_eq!(transfer(&mut world, Some(4)), []);
    world.settle();
    assert_eq!(world.raft(4).role(), Role::Leader);
}

#[test]
fn a_transfer_to_a_voter_that_becomes_none_is_given_up() {
    let mut world = World::new(3, 3);
    // 3 lacks what is committed: the transfer waits for it, and a change is taken meanwhile.
    world.cut = vec![3];
    world.propose(1);
    world.settle();
    assert_eq!(transfer(&mut world, Some(3)), []);
    assert_eq!(world.raft(1).transferring_to(), Some(NodeId(3)));
    let event = Event::Reconfigure { change: auto(&[learner(3)]), only_if_ready: false };
    let effects = world.cluster.step(OWN, event);
    assert!(matches!(effects.reconfigured, Some(Ok(_))));
    assert_eq!(effects.transfers, not_a_voter(3));
    assert_eq!(world.raft(1).transferring_to(), None);
    assert!(!world.raft(1).holds_clients());
}

#[test]
fn no_change_is_taken_while_proposals_are_held() {
    let mut world = World::new(3, 3);
    world.cut = vec![3];
    world.cluster.step(OWN, Event::Propose { payloads: vec![Bytes::from_static(b"x")] });
    assert_eq!(transfer(&mut world, Some(3)), []);
    assert!(world.raft(1).holds_clients(), "3 has what is committed, and lacks an entry");
    let refused = world.ask(1, auto(&[remove(2)]), false);
    assert_eq!(refused, Err(ReconfigureRefusal::Transferring { to: NodeId(3) }));
}

/// Of two voters that have everything, the one that stays; also if the one that goes has the higher priority.
#[test]
fn while_joint_leadership_goes_to_an_incoming_voter() {
    let mut world = World::new(4, 3);
    for (id, priority) in [(2, -1), (3, 0)] {
        world.cluster.restart_with(NodeId(id), |config| config.priority = priority);
    }
    world.pass(600);
    let changes = vec![remove(3)];
    let transition = Transition::JointUntilLeft;
    world.change(1, Reconfiguration::Change { changes, transition });
    world.pass(300);
    assert_eq!(world.says(1), "voters=(1 2)&&(1 2 3)");
    assert_eq!(transfer(&mut world, None), []);
    assert_eq!(world.raft(1).transferring_to(), Some(NodeId(2)));
}

/// Raft thesis, 4.2.2: nobody else can be elected.
#[test]
fn a_removed_leader_campaigns_while_its_removal_is_not_committed() {
    let mut world = World::new(2, 2);
    world.cut = vec![2];
    world.ask(1, auto(&[remove(1)]), false).unwrap();
    world.settle();
    world.cluster.crash(OWN);
    world.cut.clear();
    world.cluster.restart(OWN);
    assert_eq!(world.says(1), "voters=(2)");
    world.pass(5000);
    assert_eq!((world.says(2).as_str(), world.raft(2).role()), ("voters=(2)", Role::Leader));
    assert!(world.raft(2).is_configuration_committed());
}

#[test]
fn a_removed_follower_is_told_and_disturbs_nobody() {
    let mut world = World::new(3, 3);
    world.change(1, auto(&[remove(3)]));
    world.pass(300);
    assert_eq!(world.says(3), "voters=(1 2)");
    assert!(world.raft(3).is_configuration_committed(), "it knows");
    assert!(world.raft(1).followers().all(|known| known.id != NodeId(3)), "nothing more is sent");
    let term = world.raft(1).term();
    world.pass(5000);
    assert_eq!((world.raft(1).term(), world.raft(1).role()), (term, Role::Leader));
    assert_eq!(world.raft(3).role(), Role::Follower);

    // One that was cut off asks in vain.
    let mut world = World::new(3, 3);
    world.cut = vec![3];
    world.change(1, auto(&[remove(3)]));
    world.pass(3000);
    world.cut.clear();
    let term = world.raft(1).term();
    world.pass(3000);
    assert_eq!((world.raft(1).term(), world.raft(1).role()), (term, Role::Leader));
}

/// 4 was added and 2 has never heard of it; when 1 is gone, 2 must answer 4 or 3.
#[test]
fn a_voter_answers_those_it_does_not_know_yet() {
    let mut world = World::new(4, 3);
    world.change(1, auto(&[learner(4)]));
    world.pass(600);
    world.cut = vec![2];
    world.change(1, auto(&[voter(4)]));
    assert!(world.raft(1).is_configuration_committed());
    world.cluster.crash(OWN);
    world.cluster.crash(NodeId(3));
    world.cut.clear();
    assert_eq!(world.says(2), "voters=(1 2 3) learners=(4)");
    // 4 campaigns; 2 hears no leader any more.
    world.tick(2, 600);
    world.cluster.restart(NodeId(3));
    for _ in 0..100 {
        for id in [2, 4] {
            world.tick(id, 50);
        }
        world.settle();
    }
    let leads = |id: u64| world.raft(id).role() == Role::Leader;
    assert!(leads(4) || leads(3), "with the vote of 2");
    assert_eq!(world.says(2), "voters=(1 2 3 4)");
}

/// A node that was removed and lost its disk has perhaps voted: it counts only when it is taken back.
#[test]
fn a_node_that_comes_again_with_a_blank_disk_counts_when_it_is_readmitted() {
    let mut world = World::new(4, 4);
    world.change(1, auto(&[remove(4)]));
    world.pass(300);
    world.cluster.wipe(NodeId(4));
    world.cluster.restart(NodeId(4));
    world.change(1, auto(&[learner(4)]));
    assert!(matches!(world.raft(4).standing(), Some(Standing::Returning(_))));
    world.pass(600);
    assert_eq!(world.raft(4).standing(), Some(Standing::Member));
    assert_eq!(world.raft(1).readiness(NodeId(4)), Readiness::Ready);
}

#[test]
fn a_change_that_would_leave_no_majority_is_refused() {
    let mut world = World::new(3, 3);
    world.cut = vec![3];
    world.pass(450);
    world.cut = vec![3];
    for _ in 0..2 {
        world.pass(300);
    }
    let refused = world.ask(1, auto(&[remove(2)]), true);
    assert_eq!(refused, Err(ReconfigureRefusal::NoQuorum), "3 has fallen silent");
    world.ask(1, auto(&[remove(3)]), true).unwrap();
}

/// Node 3 is cut off; meanwhile 4 is made a learner, and the log up to that becomes a snapshot of node 1, whose index
/// is returned.
fn snapshot_that_3_lacks() -> (World, LogIndex) {
    let mut world = World::new(4, 3);
    world.cut = vec![3];
    world.change(1, auto(&[learner(4)]));
    world.pass(600);
    let event = world.cluster.take_snapshot(OWN).unwrap();
    world.cluster.step(OWN, event);
    let index = world.raft(1).snapshot().unwrap().0;
    world.cluster.compact(OWN, index);
    (world, index)
}

#[test]
fn a_snapshot_brings_the_configuration_of_its_index() {
    let (mut world, index) = snapshot_that_3_lacks();
    world.change(1, auto(&[learner(5)]));
    assert_eq!(world.says(3), "voters=(1 2 3)");
    world.cut.clear();
    world.pass(600);
    assert!(world.raft(3).log().base_index() >= index, "it was given the snapshot");
    assert_eq!(world.says(3), "voters=(1 2 3) learners=(4 5)");
    let before = world.raft(3).log().configuration_at(index);
    assert_eq!(before.to_string(), "voters=(1 2 3) learners=(4)");
    // Also after a restart from that.
    world.cluster.crash(NodeId(3));
    world.cluster.restart(NodeId(3));
    assert_eq!(world.says(3), "voters=(1 2 3) learners=(4 5)");
    // And without any later change, the snapshot alone says it.
    let (mut world, _) = snapshot_that_3_lacks();
    world.cut.clear();
    world.pass(600);
    assert_eq!(world.says(3), "voters=(1 2 3) learners=(4)");
}

#[test]
fn votes_of_learners_do_not_elect() {
    let parts = coracle_engine::raft::membership::Parts {
        incoming: [1, 2, 3].map(NodeId).into_iter().collect(),
        learners: [4].map(NodeId).into_iter().collect(),
        ..Default::default()
    };
    let configuration = Configuration::from_parts(parts).unwrap();
    let log = RaftLog::empty().with_configurations(LogIndex(0), configuration, Vec::new());
    let config = Config::new(OWN, vec![], 7);
    let mut raft = Raft::new(config, HardState::default(), log, Duration::ZERO).unwrap();
    let mut effects = Effects::default();
    raft.step(Event::Tick { now: Duration::from_secs(10) }, &mut effects);
    assert!(effects.messages.iter().all(|(to, _)| *to != NodeId(4)), "learners are not asked");
    let pre = coracle_engine::raft::PreVoteReply {
        term: Term(1),
        granted: true,
        committed: CommitMark::default(),
    };
    let message = Message::PreVoteReply(pre);
    raft.step(Event::Message { from: NodeId(4), message: message.clone() }, &mut effects);
    assert_eq!(raft.role(), Role::PreCandidate);
    raft.step(Event::Message { from: NodeId(2), message }, &mut effects);
    let yes = Message::VoteReply(VoteReply {
        term: Term(1),
        granted: true,
        committed: CommitMark::default(),
    });
    for (from, role) in [(1, Role::Candidate), (4, Role::Candidate), (2, Role::Leader)] {
        raft.step(Event::Message { from: NodeId(from), message: yes.clone() }, &mut effects);
        assert_eq!(raft.role(), role, "after the vote of {from}");
    }
    // Nor do their acknowledgements commit.
    let mark = effects.write_mark.unwrap();
    raft.step(Event::Durable(mark), &mut effects);
    let outcome = AppendOutcome::Accepted { matched: LogIndex(1) };
    let reply = AppendReply { term: Term(1), outcome, standing: Standing::Member };
    for (from, commit) in [(4, 0), (3, 1)] {
        let message = Message::AppendReply(reply);
        raft.step(Event::Message { from: NodeId(from), message }, &mut effects);
        assert_eq!(raft.commit(), LogIndex(commit), "after {from}");
    }
}
