//! Each invariant is violated once, by fabricated replicas, frames and disks: no check is vacuous.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::core::LogRecord;
use coracle_engine::limits::ENTRY_COST_BYTES;
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, CommitMark, Entry, EntryKind, FollowerStatus, HardState,
    Heartbeat, HeartbeatReply, Membership, Message, Standing, Vote, VoteReply,
};
use coracle_engine::wire::Frame;
use coracle_wal::follow::DurableFiles;
use coracle_wal::mem::{MemDisk, run_to_end};
use coracle_wal::{Disk as _, Lsn, Wal};

use super::*;

mod damage;
mod members;

const SHARD: ShardId = ShardId(0);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const VOTERS: [NodeId; 3] = [A, B, C];

/// What a leader may know of a voter.
const FOLLOWER: FollowerStatus = FollowerStatus {
    id: B,
    membership: Membership::Voter,
    matched: LogIndex(0),
    next: LogIndex(2),
    replicating: true,
    snapshot: false,
    returning: None,
    inflight_messages: 0,
    inflight_bytes: 0,
    contact: Duration::ZERO,
    round: 0,
};

/// A replica that claims whatever a test wants it to.
#[derive(Clone)]
struct Fake {
    state: HardState,
    role: Role,
    leader: Option<NodeId>,
    log: Vec<Entry>,
    durable: u64,
    durable_term: u64,
    applied: u64,
    rewrites: u64,
    followers: Vec<FollowerStatus>,
    uncommitted: usize,
    reads: usize,
    confirmed_round: u64,
    configuration: Configuration,
}

impl Replica for Fake {
    fn id(&self) -> ShardId {
        SHARD
    }

    fn hard_state(&self) -> HardState {
        self.state
    }

    fn role(&self) -> Role {
        self.role
    }

    fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.log.len() as u64)
    }

    fn durable(&self) -> LogIndex {
        LogIndex(self.durable)
    }

    fn durable_term(&self) -> Term {
        Term(self.durable_term)
    }

    fn applied(&self) -> LogIndex {
        LogIndex(self.applied)
    }

    fn rewrites(&self) -> u64 {
        self.rewrites
    }

    fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(usize::try_from(index.0.checked_sub(1)?).ok()?)
    }

    fn followers(&self) -> impl Iterator<Item = FollowerStatus> {
        self.followers.iter().copied()
    }

    fn uncommitted_bytes(&self) -> usize {
        self.uncommitted
    }

    fn reads_pending(&self) -> usize {
        self.reads
    }

    fn confirmed_round(&self) -> u64 {
        self.confirmed_round
    }

    fn windows(&self) -> Windows {
        Windows {
            inflight_messages_max: 4,
            inflight_bytes_max: 1000,
            uncommitted_bytes_max: 1000,
            read_batches_max: 10,
            payload_bytes_max: 100,
        }
    }
}

fn entry(term: u64, index: u64, payload: &'static str) -> Entry {
    let payload = Bytes::from_static(payload.as_bytes());
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Normal, payload }
}

/// A follower in `term` with entries of these terms.
fn fake(term: u64, terms: &[u64]) -> Fake {
    Fake {
        state: HardState { term: Term(term), ..HardState::default() },
        role: Role::Follower,
        leader: None,
        log: terms.iter().zip(1..).map(|(term, index)| entry(*term, index, "x")).collect(),
        durable: 0,
        durable_term: 0,
        applied: 0,
        rewrites: 0,
        followers: Vec::new(),
        uncommitted: 0,
        reads: 0,
        confirmed_round: 0,
        configuration: voters(&VOTERS),
    }
}

fn voters(nodes: &[NodeId]) -> Configuration {
    Configuration::of_voters(nodes.iter().copied()).unwrap()
}

impl Fake {
    fn leads(mut self, own: NodeId) -> Self {
        self.role = Role::Leader;
        self.leader = Some(own);
        self
    }

    fn commits(mut self, commit: u64) -> Self {
        self.state.commit = LogIndex(commit);
        self
    }
}

/// A cluster of three nodes, and a process on each that has just begun.
struct Rig(Checker);

impl Rig {
    fn new() -> Self {
        let mut checker = Checker::new(1, &VOTERS.map(|node| (node, 1)), &voters(&VOTERS));
        for node in VOTERS {
            checker.set_disk(node, CoreId(0), [0; 16], None);
        }
        let mut rig = Self(checker);
        for node in VOTERS {
            rig.sees(node, &fake(0, &[]));
        }
        rig
    }

    /// A leader has the votes of all.
    fn looks(&mut self, node: NodeId, replica: &Fake) -> Checked {
        for voter in VOTERS.into_iter().filter(|_| replica.role == Role::Leader) {
            self.0.shards[0].note_vote(replica.state.term, node, voter);
        }
        self.0.replica(node, replica, false)
    }

    #[track_caller]
    fn sees(&mut self, node: NodeId, replica: &Fake) {
        self.looks(node, replica).unwrap();
    }

    #[track_caller]
    fn finds(&mut self, invariant: Invariant, node: NodeId, replica: &Fake) {
        expect(invariant, self.looks(node, replica));
    }

    fn disk(&mut self, node: NodeId) -> &mut DurableShard {
        self.0.disks.get_mut(&(node, CoreId(0))).unwrap().shard_mut(SHARD)
    }

    /// Puts hard state and log of a replica on a disk.
    #[track_caller]
    fn stores(&mut self, node: NodeId, replica: &Fake) {
        let disk = self.disk(node);
        disk.take(&LogRecord::HardState(replica.state), Lsn(0), &no_history).unwrap();
        for entry in &replica.log {
            disk.take(&record(entry), Lsn(0), &no_history).unwrap();
        }
    }

    /// The log of `replica` becomes durable everywhere, and it leads and commits all of it.
    fn commits(&mut self, node: NodeId, replica: &Fake) {
        for voter in VOTERS {
            let mut stored = replica.clone();
            stored.state.vote = Some(node);
            self.stores(voter, &stored);
        }
        let leader = replica.clone().leads(node).commits(replica.log.len() as u64);
        self.sees(node, &leader);
    }

    fn sends(&mut self, from: NodeId, to: NodeId, message: Message) -> Checked {
        self.0.sent(from, to, &Frame::Raft { shard: SHARD, message })
    }
}

fn no_history(_: LogIndex, _: Term) -> Checked<Chain> {
    Ok(Chain::default())
}

fn record(entry: &Entry) -> LogRecord<'_> {
    let Entry { term, index, kind, ref payload } = *entry;
    LogRecord::Entry { term, index, kind, payload }
}

#[track_caller]
fn expect(invariant: Invariant, outcome: Checked) {
    let violation = outcome.expect_err("a violation");
    assert_eq!(violation.invariant, invariant, "{violation}");
    assert!(!violation.to_string().is_empty());
}

fn vote(term: u64, granted: bool) -> Message {
    Message::VoteReply(VoteReply { term: Term(term), granted, committed: CommitMark::default() })
}

fn ack(term: u64, matched: u64) -> Message {
    let outcome = AppendOutcome::Accepted { matched: LogIndex(matched) };
    Message::AppendReply(AppendReply { term: Term(term), outcome, standing: Standing::Member })
}

#[test]
fn a_life_without_faults_violates_nothing() {
    let mut rig = Rig::new();
    let log = fake(1, &[1, 1]);
    rig.commits(A, &log);
    rig.sees(B, &log.clone().commits(1));
    rig.sends(A, B, Message::Heartbeat(Heartbeat { term: Term(1), commit: LogIndex(2), round: 3 }))
        .unwrap();
    rig.sends(B, A, ack(1, 2)).unwrap();
    rig.sends(B, A, vote(1, true)).unwrap();
    // A tail that was never acknowledged is replaced by the next leader.
    rig.sees(C, &fake(1, &[1, 1, 1]));
    let mut next = fake(2, &[1, 1, 2]);
    next.rewrites = 1;
    rig.sees(C, &next);
    rig.commits(B, &fake(2, &[1, 1, 2]));
    assert_eq!(rig.0.committed(SHARD), LogIndex(3));
    assert_eq!(rig.0.leaders(SHARD).collect::<Vec<_>>(), [(Term(1), A), (Term(2), B)]);
    assert!(rig.0.looks() > 0 && rig.0.has_leader(SHARD));
}

#[test]
fn two_leaders_of_a_term() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[]).leads(A));
    rig.finds(Invariant::ElectionSafety, B, &fake(1, &[]).leads(B));
    // A follower that follows another one shows it, too; and so does a leader that was long ago.
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[]).leads(A));
    rig.sees(A, &fake(2, &[]));
    rig.finds(Invariant::ElectionSafety, B, &Fake { leader: Some(C), ..fake(1, &[]) });
}

#[test]
fn a_leader_without_a_committed_entry() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1, 1]));
    rig.finds(Invariant::LeaderCompleteness, B, &fake(2, &[1]).leads(B));
    // An old leader that does not know what was committed later is none of it.
    let mut rig = Rig::new();
    rig.commits(A, &fake(3, &[3, 3]));
    rig.sees(B, &fake(2, &[2]).leads(B));
}

#[test]
fn a_commit_that_a_later_leader_does_not_have() {
    let mut rig = Rig::new();
    rig.sees(B, &fake(2, &[]).leads(B));
    for node in [A, C] {
        rig.stores(node, &fake(1, &[1]));
    }
    rig.finds(Invariant::LeaderCompleteness, A, &fake(1, &[1]).leads(A).commits(1));
}

#[test]
fn a_leader_that_cuts_its_log() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[1, 1]).leads(A));
    let cut = Fake { rewrites: 1, ..fake(1, &[1]) };
    rig.finds(Invariant::LeaderAppendOnly, A, &cut.leads(A));
}

#[test]
fn a_log_that_shrinks_without_a_conflict() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(2, &[1, 1, 1]));
    // Replaced by fewer entries of another leader, twice.
    rig.sees(A, &Fake { rewrites: 1, ..fake(2, &[1, 2]) });
    rig.sees(A, &Fake { rewrites: 2, ..fake(3, &[3]) });
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[1, 1]).leads(A));
    rig.finds(Invariant::LogShrunk, A, &Fake { rewrites: 1, ..fake(2, &[1]) });
    // What was replaced and came back within a turn is no proof.
    let mut rig = Rig::new();
    rig.sees(A, &fake(2, &[1, 1]));
    rig.sees(A, &Fake { rewrites: 2, ..fake(2, &[1]) });
}

#[test]
fn logs_that_differ_at_one_index_and_term_or_before() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[1, 1]));
    let mut other = fake(1, &[1, 1]);
    other.log[1] = entry(1, 2, "y");
    rig.finds(Invariant::LogMatching, B, &other);
    let mut rig = Rig::new();
    rig.sees(A, &fake(3, &[1, 3]));
    let violation = rig.looks(B, &fake(3, &[2, 3])).unwrap_err();
    assert_eq!((violation.invariant, violation.index), (Invariant::LogMatching, Some(LogIndex(1))));
}

#[test]
fn terms_that_decrease_along_a_log_or_exceed_the_own() {
    Rig::new().finds(Invariant::LogTerms, A, &fake(3, &[2, 1]));
    Rig::new().finds(Invariant::LogTerms, A, &fake(1, &[2]));
    let mut rig = Rig::new();
    rig.stores(A, &fake(3, &[2]));
    let earlier = entry(1, 2, "x");
    expect(Invariant::LogTerms, rig.disk(A).take(&record(&earlier), Lsn(0), &no_history));
}

#[test]
fn a_committed_entry_that_is_another_one_elsewhere() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1, 1]));
    rig.finds(Invariant::CommittedImmutable, B, &fake(2, &[1, 2]).commits(2));
    // Or in the same process, some time later.
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1, 1]));
    rig.sees(B, &fake(1, &[1, 1]).commits(2));
    let replaced = Fake { rewrites: 1, ..fake(2, &[1, 2]) };
    rig.finds(Invariant::CommittedImmutable, B, &replaced.commits(2));
}

#[test]
fn a_leader_that_believes_an_acknowledgement_of_other_entries() {
    let mut rig = Rig::new();
    rig.stores(A, &fake(2, &[2]));
    rig.stores(B, &fake(2, &[1]));
    let status = |matched| FollowerStatus { matched: LogIndex(matched), ..FOLLOWER };
    let with = |matched| Fake { followers: vec![status(matched)], ..fake(2, &[2]).leads(A) };
    rig.sees(A, &with(0));
    // It has acknowledged nothing in this term.
    rig.finds(Invariant::Matched, A, &with(1));
    let mut rig = Rig::new();
    rig.stores(A, &fake(2, &[2]));
    rig.stores(B, &fake(2, &[2]));
    rig.sees(A, &with(0));
    rig.sends(B, A, ack(2, 1)).unwrap();
    rig.sees(A, &with(1));
}

#[test]
fn a_round_of_reads_that_too_few_have_answered() {
    let (matched, next) = (LogIndex(0), LogIndex(1));
    let status = |id, round| FollowerStatus { id, matched, next, round, ..FOLLOWER };
    let with = |rounds: [u64; 2], confirmed_round| {
        let followers = vec![status(B, rounds[0]), status(C, rounds[1])];
        Fake { followers, confirmed_round, ..fake(2, &[]).leads(A) }
    };
    let answer = |term, round| {
        let standing = Standing::Member;
        Message::HeartbeatReply(HeartbeatReply {
            term: Term(term),
            round,
            standing,
            quiet_ms: 0,
            priority: 0,
        })
    };
    let mut rig = Rig::new();
    for node in [B, C] {
        rig.sees(node, &fake(2, &[]));
    }
    rig.sees(A, &with([0, 0], 0));
    rig.sends(B, A, answer(2, 3)).unwrap();
    // Neither earlier terms nor answers to somebody else count; a leader counts for itself.
    rig.sends(C, A, answer(1, 5)).unwrap();
    rig.sends(C, B, answer(2, 5)).unwrap();
    rig.sees(A, &with([3, 0], 3));
    for (rounds, confirmed) in [([4, 0], 3), ([3, 1], 3), ([3, 0], 4)] {
        rig.finds(Invariant::ReadRound, A, &with(rounds, confirmed));
    }
}

#[test]
fn a_leader_that_counts_copies_of_an_earlier_term() {
    let mut rig = Rig::new();
    for node in VOTERS {
        rig.stores(node, &fake(2, &[1]));
    }
    rig.finds(Invariant::CommitOwnTerm, A, &fake(2, &[1]).leads(A).commits(1));
}

#[test]
fn a_commit_without_a_durable_majority() {
    let mut rig = Rig::new();
    rig.stores(A, &fake(1, &[1]));
    rig.finds(Invariant::CommitQuorum, A, &fake(1, &[1]).leads(A).commits(1));
    // Another entry at the place does not count.
    let mut rig = Rig::new();
    rig.stores(A, &fake(2, &[2]));
    rig.stores(B, &fake(2, &[1]));
    rig.finds(Invariant::CommitQuorum, A, &fake(2, &[2]).leads(A).commits(1));
    // Nor does it help that a follower says so.
    Rig::new().finds(Invariant::CommitQuorum, B, &fake(1, &[1]).commits(1));
    // A node whose disk was replaced may have had it.
    let mut rig = Rig::new();
    rig.stores(A, &fake(1, &[1]));
    rig.0.wiped(B);
    rig.sees(A, &fake(1, &[1]).leads(A).commits(1));
}

#[test]
fn a_vote_that_changes_within_a_term() {
    let voted = |node| {
        let mut fake = fake(1, &[]);
        fake.state.vote = Some(node);
        fake
    };
    let mut rig = Rig::new();
    rig.sees(A, &voted(B));
    rig.finds(Invariant::OneVotePerTerm, A, &voted(C));
    // On disk, over a restart.
    let mut rig = Rig::new();
    rig.stores(A, &voted(B));
    rig.0.started(A, 1);
    expect(
        Invariant::OneVotePerTerm,
        rig.disk(A).take(&LogRecord::HardState(voted(C).state), Lsn(0), &no_history),
    );
}

#[test]
fn terms_that_go_back() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(2, &[]));
    rig.finds(Invariant::TermMonotonic, A, &fake(1, &[]));
    rig.stores(B, &fake(2, &[]));
    expect(
        Invariant::TermMonotonic,
        rig.disk(B).take(&LogRecord::HardState(fake(1, &[]).state), Lsn(0), &no_history),
    );
}

#[test]
fn cursors_that_go_back() {
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1, 1]));
    rig.finds(Invariant::CursorMonotonic, A, &fake(1, &[1, 1]).leads(A).commits(1));
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1, 1]));
    rig.sees(B, &Fake { applied: 2, ..fake(1, &[1, 1]).commits(2) });
    rig.finds(Invariant::CursorMonotonic, B, &Fake { applied: 1, ..fake(1, &[1, 1]).commits(2) });
}

#[test]
fn cursors_out_of_order() {
    Rig::new().finds(Invariant::CursorOrder, A, &Fake { applied: 1, ..fake(1, &[1]) });
    Rig::new().finds(Invariant::CursorOrder, A, &fake(1, &[1]).commits(2));
    Rig::new().finds(Invariant::CursorOrder, A, &Fake { durable: 2, ..fake(1, &[1]) });
    Rig::new().finds(Invariant::CursorOrder, A, &Fake { durable_term: 2, ..fake(1, &[1]) });
    let follower = |matched, next| FollowerStatus {
        matched: LogIndex(matched),
        next: LogIndex(next),
        ..FOLLOWER
    };
    for (matched, next) in [(2, 2), (0, 3), (0, 0)] {
        let followers = vec![follower(matched, next)];
        let leader = Fake { followers, ..fake(1, &[1]).leads(A) };
        Rig::new().finds(Invariant::CursorOrder, A, &leader);
    }
}

#[test]
fn a_durable_cursor_that_is_ahead_of_the_disk() {
    let mut rig = Rig::new();
    rig.finds(Invariant::DurableCursor, A, &Fake { durable: 1, ..fake(1, &[1]) });
    let mut rig = Rig::new();
    rig.stores(A, &fake(2, &[1]));
    rig.finds(Invariant::DurableCursor, A, &Fake { durable: 1, ..fake(2, &[2]) });
    Rig::new().finds(Invariant::DurableCursor, A, &Fake { durable_term: 1, ..fake(1, &[]) });
    // A core whose log has failed does not promise anything any more.
    let mut rig = Rig::new();
    rig.0.replica(A, &Fake { durable: 1, ..fake(1, &[1]) }, true).unwrap();
}

#[test]
fn a_vote_before_it_is_durable() {
    let mut rig = Rig::new();
    expect(Invariant::VotePromise, rig.sends(B, A, vote(1, true)));
    let mut voted = fake(1, &[]);
    voted.state.vote = Some(C);
    rig.stores(B, &voted);
    expect(Invariant::VotePromise, rig.sends(B, A, vote(1, true)));
    rig.sends(B, C, vote(1, true)).unwrap();
    // A vote that was overtaken by a later term binds nobody.
    rig.stores(B, &fake(3, &[]));
    rig.sends(B, A, vote(2, true)).unwrap();
    expect(Invariant::VotePromise, rig.sends(B, A, vote(1, true)));
}

#[test]
fn a_candidate_before_term_vote_and_log_are_durable() {
    let ask = |last_term, last_index| {
        let (last_term, last_index) = (Term(last_term), LogIndex(last_index));
        Message::Vote(Vote {
            term: Term(2),
            last_index,
            last_term,
            transfer: false,
            committed: CommitMark::default(),
        })
    };
    let mut rig = Rig::new();
    rig.stores(A, &fake(1, &[1]));
    expect(Invariant::CandidatePromise, rig.sends(A, B, ask(1, 1)));
    let mut candidate = fake(2, &[1]);
    candidate.state.vote = Some(A);
    rig.stores(A, &candidate);
    rig.sends(A, B, ask(1, 1)).unwrap();
    expect(Invariant::CandidatePromise, rig.sends(A, B, ask(1, 2)));
}

#[test]
fn an_acknowledgement_before_it_is_durable() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(2, &[1, 2]).leads(A));
    rig.sees(B, &fake(2, &[1, 2]));
    rig.stores(B, &fake(1, &[1]));
    expect(Invariant::AckPromise, rig.sends(B, A, ack(2, 1)));
    rig.stores(B, &fake(2, &[1]));
    rig.sends(B, A, ack(2, 1)).unwrap();
    expect(Invariant::AckPromise, rig.sends(B, A, ack(2, 2)));
    rig.stores(B, &fake(2, &[1, 1]));
    expect(Invariant::AckPromise, rig.sends(B, A, ack(2, 2)));
    rig.0.damaged(B);
    rig.sends(B, A, ack(2, 2)).unwrap();
}

#[test]
fn messages_of_a_leader_from_somebody_else_and_answers_of_terms_to_come() {
    let mut rig = Rig::new();
    let beat = Message::Heartbeat(Heartbeat { term: Term(1), commit: LogIndex(0), round: 0 });
    expect(Invariant::Impersonation, rig.sends(A, B, beat.clone()));
    rig.sees(A, &fake(1, &[]).leads(A));
    rig.sends(A, B, beat.clone()).unwrap();
    expect(Invariant::Impersonation, rig.sends(B, A, beat));
    let reply = Message::HeartbeatReply(HeartbeatReply {
        term: Term(2),
        round: 0,
        standing: Standing::Member,
        quiet_ms: 0,
        priority: 0,
    });
    expect(Invariant::Impersonation, rig.sends(A, B, reply));
    expect(Invariant::Impersonation, rig.sends(A, B, vote(2, false)));
}

#[test]
fn a_commit_index_that_is_not_committed() {
    let mut rig = Rig::new();
    rig.sees(A, &fake(1, &[1]).leads(A));
    let (term, commit) = (Term(1), LogIndex(1));
    let beat = Message::Heartbeat(Heartbeat { term, commit, round: 0 });
    expect(Invariant::CommitAnnounced, rig.sends(A, B, beat));
    let (prev_index, prev_term) = (LogIndex(0), Term(0));
    let append = Append { term, prev_index, prev_term, commit, entries: Vec::new() };
    expect(Invariant::CommitAnnounced, rig.sends(A, B, Message::Append(append)));
}

#[test]
fn a_restart_with_more_or_less_than_the_disk_had() {
    let restart = |replica: &Fake| {
        let mut rig = Rig::new();
        rig.stores(A, &fake(2, &[1, 2]));
        rig.0.started(A, 1);
        rig.looks(A, replica)
    };
    restart(&fake(2, &[1, 2])).unwrap();
    for wrong in [fake(2, &[1]), fake(2, &[1, 2, 2]), fake(2, &[1, 1]), fake(3, &[1, 2])] {
        expect(Invariant::Recovery, restart(&wrong));
    }
    let mut voted = fake(2, &[1, 2]);
    voted.state.vote = Some(B);
    expect(Invariant::Recovery, restart(&voted));
}

#[test]
fn a_gap_on_disk() {
    let mut rig = Rig::new();
    let behind = entry(1, 2, "x");
    expect(Invariant::DurableRecords, rig.disk(A).take(&record(&behind), Lsn(0), &no_history));
}

fn apply(rig: &mut Rig, node: NodeId, entry: &Entry, reply: &str) -> Checked {
    let Entry { index, term, ref payload, .. } = *entry;
    rig.0.applied(node, &Apply { shard: SHARD, index, term, payload }, reply.as_bytes())
}

#[test]
fn entries_applied_twice_or_backwards() {
    let mut rig = Rig::new();
    apply(&mut rig, A, &entry(1, 2, "x"), "").unwrap();
    expect(Invariant::ApplyOrder, apply(&mut rig, A, &entry(1, 2, "x"), ""));
    let mut rig = Rig::new();
    apply(&mut rig, A, &entry(1, 2, "x"), "").unwrap();
    expect(Invariant::ApplyOrder, apply(&mut rig, A, &entry(1, 1, "x"), ""));
    // A new process begins anew.
    let mut rig = Rig::new();
    apply(&mut rig, A, &entry(1, 1, "x"), "").unwrap();
    rig.0.started(A, 1);
    apply(&mut rig, A, &entry(1, 1, "x"), "").unwrap();
}

#[test]
fn different_entries_or_replies_at_one_index() {
    let mut rig = Rig::new();
    apply(&mut rig, A, &entry(1, 1, "x"), "ok").unwrap();
    expect(Invariant::StateMachineSafety, apply(&mut rig, B, &entry(1, 1, "y"), "ok"));
    expect(Invariant::StateMachineSafety, apply(&mut rig, C, &entry(2, 1, "x"), "ok"));
    let mut rig = Rig::new();
    apply(&mut rig, A, &entry(1, 1, "x"), "1").unwrap();
    expect(Invariant::ApplyResult, apply(&mut rig, B, &entry(1, 1, "x"), "2"));
}

#[test]
fn an_entry_applied_that_is_not_committed() {
    let mut rig = Rig::new();
    apply(&mut rig, A, &entry(1, 1, "x"), "").unwrap();
    rig.finds(Invariant::StateMachineSafety, A, &fake(1, &[1]));
    let mut rig = Rig::new();
    rig.commits(A, &fake(1, &[1]));
    apply(&mut rig, B, &entry(1, 1, "y"), "").unwrap();
    rig.finds(Invariant::StateMachineSafety, B, &fake(1, &[1]).commits(1));
}

#[test]
fn states_that_differ_after_the_same_entries() {
    let mut rig = Rig::new();
    rig.0.digest(A, SHARD, LogIndex(7), 1).unwrap();
    rig.0.digest(B, SHARD, LogIndex(7), 1).unwrap();
    rig.0.digest(B, SHARD, LogIndex(8), 2).unwrap();
    expect(Invariant::Convergence, rig.0.digest(C, SHARD, LogIndex(7), 2));
}

#[test]
fn windows_beyond_their_limits() {
    let follower = |inflight_messages, inflight_bytes| FollowerStatus {
        next: LogIndex(1),
        inflight_messages,
        inflight_bytes,
        ..FOLLOWER
    };
    let leader = |status| Fake { followers: vec![status], ..fake(1, &[]).leads(A) };
    Rig::new().sees(A, &leader(follower(4, 1000 + 100 + ENTRY_COST_BYTES)));
    Rig::new().finds(Invariant::Limits, A, &leader(follower(5, 0)));
    Rig::new().finds(Invariant::Limits, A, &leader(follower(0, 1001 + 100 + ENTRY_COST_BYTES)));
    Rig::new().finds(Invariant::Limits, A, &Fake { reads: 11, ..fake(1, &[]) });
    // What a leader has inherited may be more, but not grow.
    let mut rig = Rig::new();
    rig.sees(A, &Fake { uncommitted: 2000, ..fake(1, &[]).leads(A) });
    rig.sees(A, &Fake { uncommitted: 2000, ..fake(1, &[]).leads(A) });
    rig.finds(Invariant::Limits, A, &Fake { uncommitted: 2001, ..fake(1, &[]).leads(A) });
}

#[test]
fn queues_beyond_their_limits() {
    let limits = Limits::default();
    check_bounds(&Queues::default(), &limits, 1).unwrap();
    let many = usize::MAX;
    for queues in [
        Queues { requests: many, ..Queues::default() },
        Queues { request_bytes: many, ..Queues::default() },
        Queues { frames: many, ..Queues::default() },
        Queues { frame_bytes: many, ..Queues::default() },
        Queues { link_bytes_max: many, ..Queues::default() },
        Queues { groups_refused: limits.groups_refused_max + 3, ..Queues::default() },
    ] {
        expect(Invariant::Limits, check_bounds(&queues, &limits, 1));
    }
}

/// A directory as a power cut would leave it. Names do for numbers.
struct Disk(std::rc::Rc<std::cell::RefCell<(u64, MemDisk)>>);

fn number(name: &str) -> u32 {
    name.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

impl Disk {
    fn names(&self) -> Vec<String> {
        run_to_end(self.0.borrow().1.list()).unwrap()
    }
}

impl DurableFiles for Disk {
    fn files(&self) -> Vec<(String, u32)> {
        self.names().into_iter().map(|name| (name.clone(), number(&name))).collect()
    }

    fn read(&self, file: u32, position: u64, buf: &mut [u8]) -> usize {
        let name = self.names().into_iter().find(|name| number(name) == file).unwrap();
        let bytes = self.0.borrow().1.contents(&name).unwrap();
        let from = bytes.len().min(position as usize);
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        len
    }
}

impl DurableView for Disk {
    fn version(&self) -> u64 {
        self.0.borrow().0
    }

    fn take_changes(&self) -> Option<Change> {
        Some(Change::Names)
    }
}

/// A life of a log, in which one record is written. Returns the disk after a power cut.
fn live(disk: &MemDisk, kind: u8, head: &[u8]) -> MemDisk {
    let mut options = coracle_wal::Options::default();
    options.segment_bytes = 64 << 10;
    run_to_end(async {
        let (wal, driver, _) =
            Wal::open(disk.clone(), options, &mut |_: coracle_wal::RecordView<'_>| ())
                .await
                .unwrap();
        wal.append(&[coracle_wal::Record { stream: 0, kind, head, body: b"x" }]).unwrap();
        let (ended, ()) = futures_util::future::join(driver.run(), wal.close()).await;
        ended.unwrap();
    });
    disk.crash(&mut |_| 0)
}

#[test]
fn a_disk_is_followed_and_nonsense_on_it_is_noticed() {
    let mut head = [0; 17];
    (head[0], head[8]) = (3, 1);
    let empty = MemDisk::new();
    let first = live(&empty, 1, &head);
    let shared = std::rc::Rc::new(std::cell::RefCell::new((1, first.crash(&mut |_| 0))));
    let mut log = DurableLog::new(A, [0; 16], Some(Box::new(Disk(shared.clone()))));
    log.catch_up(&|_, at, term| no_history(at, term)).unwrap();
    let found = log.shard(SHARD).unwrap().log.at(LogIndex(1)).unwrap();
    assert_eq!((found.term, found.hash), (Term(3), hash_entry(EntryKind::Normal, b"x")));

    let nonsense = live(&first.crash(&mut |_| 0), 9, &head);
    *shared.borrow_mut() = (2, nonsense);
    expect(Invariant::DurableRecords, log.catch_up(&|_, at, term| no_history(at, term)));
}
