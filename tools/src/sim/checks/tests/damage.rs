//! Replicas that find that they are damaged: what they may give up, and what must stay.

use super::*;

/// What is left of a replica that was found damaged: its term and vote.
fn damaged(term: u64, vote: Option<NodeId>) -> Fake {
    let mut replica = fake(term, &[]);
    replica.state.vote = vote;
    replica.state.standing = Standing::Returning(7);
    replica
}

/// A committed log of three entries, which C has, too.
fn begun() -> Rig {
    let mut rig = Rig::new();
    let mut log = fake(1, &[1, 1, 1]);
    log.state.vote = Some(A);
    rig.commits(A, &log);
    rig.sees(C, &log.commits(3));
    rig
}

#[test]
fn a_replica_gives_up_its_log_and_commit_index_when_its_disk_was_damaged() {
    let mut rig = begun();
    rig.0.damaged(C);
    rig.sees(C, &damaged(1, Some(A)));
}

#[test]
fn so_it_does_when_its_disk_gave_errors() {
    let mut rig = begun();
    rig.0.disk_error(C);
    rig.sees(C, &damaged(1, Some(A)));
    // The disk still says what it was; nobody may damage another one.
    assert!(!rig.0.is_settled(C, SHARD));
    // It takes what the leader sends, and that is compared with what is committed.
    let mut again = fake(1, &[1, 1]);
    again.state.standing = Standing::Returning(7);
    again.state.vote = Some(A);
    rig.sees(C, &again.commits(2));
}

#[test]
fn a_damaged_replica_without_a_fault() {
    let mut rig = begun();
    rig.finds(Invariant::TakesPart, C, &damaged(1, Some(A)));
}

#[test]
fn a_damaged_replica_that_forgets_its_term_or_vote() {
    let mut rig = begun();
    rig.0.damaged(C);
    rig.finds(Invariant::TermMonotonic, C, &damaged(0, None));
    let mut rig = begun();
    rig.0.damaged(C);
    rig.finds(Invariant::OneVotePerTerm, C, &damaged(1, Some(B)));
}

#[test]
fn a_damaged_replica_whose_state_machine_goes_back() {
    let mut rig = begun();
    let mut log = fake(1, &[1, 1, 1]).commits(3);
    log.state.vote = Some(A);
    log.applied = 2;
    rig.sees(C, &log);
    rig.0.damaged(C);
    rig.finds(Invariant::CursorMonotonic, C, &damaged(1, Some(A)));
}

#[test]
fn what_a_damaged_replica_has_given_up_on_disk_is_not_needed() {
    let mut rig = begun();
    let state = HardState { standing: Standing::DAMAGED, ..rig.disk(C).hard_state };
    let disk = rig.disk(C);
    assert!(!disk.is_returning());
    disk.take(&LogRecord::HardState(state), Lsn(0), &no_history).unwrap();
    assert!(disk.is_returning() && !disk.is_member());
    assert!(rig.0.on_disk_of_member(C, SHARD).unwrap().is_none());
    assert!(rig.0.on_disk_of_member(B, SHARD).unwrap().is_some());
}
