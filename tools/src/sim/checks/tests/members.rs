//! Changes of members: each rule is broken once.

use coracle_engine::raft::Readmission;

use super::*;

fn change(term: u64, index: u64, configuration: &Configuration) -> Entry {
    let kind = EntryKind::Reconfiguration;
    let payload = configuration.encode();
    Entry { term: Term(term), index: LogIndex(index), kind, payload }
}

/// A replica whose log ends with an entry that puts `configuration` in force, and that says so.
fn configured(term: u64, terms: &[u64], configuration: &Configuration) -> Fake {
    let mut fake = fake(term, terms);
    let index = terms.len() as u64 + 1;
    fake.log.push(change(term, index, configuration));
    fake.configuration = configuration.clone();
    fake.state.vote = Some(A);
    fake
}

#[test]
fn a_change_in_its_time_is_none_of_it() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let two = voters(&[A, B]);
    let leader = configured(1, &[1], &two);
    rig.sees(A, &leader.clone().leads(A).commits(1));
    assert_eq!(rig.0.possible_configurations(SHARD), [voters(&VOTERS), two.clone()]);
    // Two of the two have it now, and C has not.
    for node in [A, B] {
        rig.stores(node, &leader);
    }
    rig.sees(A, &leader.clone().leads(A).commits(2));
    assert_eq!(rig.0.possible_configurations(SHARD), std::slice::from_ref(&two));
    assert_eq!(rig.0.configuration(SHARD), two);
}

#[test]
fn a_configuration_that_the_log_does_not_say() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[1]));
    let stale = Fake { configuration: voters(&[A, B]), ..fake(1, &[1]) };
    rig.finds(Invariant::Configuration, A, &stale);
    // One that was in the log and is cut off.
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let two = voters(&[A, B]);
    rig.sees(A, &configured(1, &[1], &two).leads(A).commits(1));
    let kept = Fake { rewrites: 1, configuration: two, ..fake(2, &[1, 2]) };
    rig.finds(Invariant::Configuration, A, &kept.commits(1));
}

#[test]
fn configurations_whose_quorums_share_nobody() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let others = configured(1, &[1], &voters(&[A, NodeId(4), NodeId(5)]));
    rig.finds(Invariant::ConfigurationStep, A, &others.leads(A).commits(1));
}

#[test]
fn a_change_before_the_leader_has_committed_in_its_term() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let early = configured(2, &[1, 2], &voters(&[A, B]));
    rig.finds(Invariant::ConfigurationStep, B, &early.leads(B).commits(1));
}

/// A leader hears that its entry is stored when a later one has committed it already, and leads no more when it is
/// looked at (seed 621113).
#[test]
fn a_change_after_a_commit_that_is_no_news() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let elected = fake(2, &[1, 2]).commits(1);
    for node in [B, C] {
        rig.stores(node, &elected);
    }
    rig.sees(B, &elected.leads(B));
    rig.commits(C, &fake(3, &[1, 2, 3]));
    let late = configured(2, &[1, 2], &voters(&[A, B]));
    rig.sees(B, &late.commits(2));
}

#[test]
fn a_change_while_another_one_is_under_way() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let mut second = configured(1, &[1], &voters(&[A, B]));
    second.log.push(change(1, 3, &voters(&[A])));
    second.configuration = voters(&[A]);
    rig.finds(Invariant::ConfigurationStep, A, &second.leads(A).commits(1));
}

#[test]
fn a_leader_without_the_votes_of_a_quorum() {
    let elected = |granted: &[NodeId]| {
        let mut rig = Rig::new();
        for voter in granted {
            rig.0.shards[0].note_vote(Term(1), A, *voter);
        }
        rig.0.replica(A, &fake(1, &[1]).leads(A), false)
    };
    elected(&[C]).unwrap();
    expect(Invariant::VoteQuorum, elected(&[]));
    expect(Invariant::VoteQuorum, elected(&[NodeId(4)]));
}

#[test]
fn a_commit_by_one_half_of_a_joint_configuration() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    let parts = coracle_engine::raft::membership::Parts {
        incoming: [A].into_iter().collect(),
        outgoing: VOTERS.into_iter().collect(),
        ..Default::default()
    };
    let joint = configured(1, &[1], &Configuration::from_parts(parts).unwrap());
    rig.stores(A, &joint);
    rig.finds(Invariant::CommitQuorum, A, &joint.leads(A).commits(2));
}

#[test]
fn a_member_that_lost_its_data_and_was_not_readmitted() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    rig.0.wiped(C);
    let returning = HardState { standing: Standing::Returning(7), ..HardState::default() };
    let returning = Fake { state: returning, ..fake(0, &[]) };
    rig.stores(C, &returning);
    rig.sees(C, &returning);
    rig.finds(Invariant::Readmitted, C, &fake(1, &[]));

    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    rig.0.wiped(C);
    let mut again = fake(1, &[1]);
    again.state.vote = Some(A);
    let payload = Readmission { node: C, incarnation: 7 }.encode();
    let (term, index) = (Term(1), LogIndex(2));
    again.log.push(Entry { term, index, kind: EntryKind::Readmission, payload });
    rig.commits(A, &again);
    rig.sees(C, &again);
}
