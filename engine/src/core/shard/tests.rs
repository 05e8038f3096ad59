//! Tests of the shard without a loop around it.

#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;

use super::*;
use crate::raft::membership::{Change, Transition};
use crate::raft::{
    Append, AppendOutcome, AppendReply, CommitMark, Config, Entry, HardState, Heartbeat,
    HeartbeatReply, Membership, PreVoteReply, RaftLog, ReadIndex, ReadIndexReply, Standing, Vote,
    VoteReply,
};

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Apply<'_>, _: &mut BytesMut) {}
    fn query(&self, _: &Bytes, _: &mut BytesMut) {}
}

const OWN: NodeId = NodeId(1);
const FRIEND: NodeId = NodeId(2);
const RIVAL: NodeId = NodeId(3);

fn shard(voters: &[NodeId], entries: Vec<Entry>) -> Shard {
    let term = entries.last().map_or(Term(0), |entry| entry.term);
    let commit = LogIndex(entries.len() as u64);
    let log = RaftLog::in_memory(LogIndex(0), Term(0), entries).unwrap();
    let config = Config::new(OWN, voters.to_vec(), 1);
    let state = HardState { term, commit, ..HardState::default() };
    let raft = Raft::new(config, state, log, Duration::ZERO).unwrap();
    let machine: Machine = Rc::new(RefCell::new(Box::new(Nothing)));
    Shard::new(ShardId(0), raft, machine, LogIndex(0), Scratch::default(), Default::default())
}

fn elect(shard: &mut Shard, now: Duration) -> Term {
    shard.step(Event::Tick { now });
    let term = Term(shard.raft.term().0 + 1);
    shard.message(
        FRIEND,
        Message::PreVoteReply(PreVoteReply {
            term,
            granted: true,
            committed: CommitMark::default(),
        }),
    );
    for from in [OWN, FRIEND] {
        shard.message(
            from,
            Message::VoteReply(VoteReply { term, granted: true, committed: CommitMark::default() }),
        );
    }
    assert_eq!((shard.raft.role(), shard.raft.term()), (Role::Leader, term));
    term
}

fn propose(shard: &mut Shard) -> oneshot::Receiver<Result<Committed, ProposeError>> {
    let (answer, pending) = oneshot::channel();
    shard.propose(Bytes::from_static(b"x"), None, answer);
    shard.submit(Duration::ZERO, &mut CoreCounters::default());
    pending
}

/// Entries that another leader had cut away, and in whose place nothing came: once this replica
/// led again, their proposals waited for ever.
#[test]
fn proposals_that_were_cut_away_are_answered_when_this_replica_leads_again() {
    let mut shard = shard(&[OWN, FRIEND, RIVAL], Vec::new());
    let first = elect(&mut shard, Duration::from_secs(2));
    let mut lost: Vec<_> = (0..3).map(|_| propose(&mut shard)).collect();

    let (term, index, kind) = (Term(first.0 + 1), LogIndex(1), EntryKind::Noop);
    let entries = vec![Entry { term, index, kind, payload: Bytes::new() }];
    let (prev_index, prev_term, commit) = (LogIndex(0), Term(0), LogIndex(0));
    let append = Append { term, prev_index, prev_term, commit, entries };
    shard.message(RIVAL, Message::Append(append));
    let (now, patience) = (Duration::from_secs(10), Duration::from_secs(60));
    shard.give_up_on_lost(Duration::from_secs(2), patience);
    assert!(lost.iter_mut().all(|pending| pending.now_or_never().is_none()));

    elect(&mut shard, now);
    shard.give_up_on_lost(now, patience);
    let unknown = Err(ProposeError::OutcomeUnknown { shard: ShardId(0) });
    for pending in lost {
        assert_eq!(pending.now_or_never(), Some(Ok(unknown.clone())));
    }
    let kept = propose(&mut shard);
    shard.give_up_on_lost(now, patience);
    assert!(kept.now_or_never().is_none(), "this one is in the log");
}

fn reconfigure(
    shard: &mut Shard,
    change: Change,
) -> oneshot::Receiver<Result<Position, ReconfigureError>> {
    let (answer, pending) = oneshot::channel();
    let changes = vec![change];
    let change = Reconfiguration::Change { changes, transition: Transition::Auto };
    shard.reconfigure(change, answer);
    pending
}

/// Everything of the shard's effects becomes durable.
fn store(shard: &mut Shard) {
    let mark = shard.effects.write_mark.take();
    let own = std::mem::take(&mut shard.effects.after_durable);
    shard.effects.clear();
    for (_, message) in own.into_iter().filter(|(to, _)| *to == OWN) {
        shard.message(OWN, message);
    }
    mark.into_iter().for_each(|mark| shard.step(Event::Durable(mark)));
}

#[test]
fn a_change_of_members_is_refused_or_answered_when_it_is_committed() {
    let mut shard = shard(&[OWN], Vec::new());
    let refused = reconfigure(&mut shard, Change::AddLearner(FRIEND));
    let (id, leader) = (ShardId(0), None);
    let expected = Err(ReconfigureError::NotLeader { shard: id, leader });
    assert_eq!(refused.now_or_never(), Some(Ok(expected)));
    shard.step(Event::Tick { now: Duration::from_secs(2) });
    (0..2).for_each(|_| store(&mut shard)); // the vote, then the first entry of the term
    let mut counters = CoreCounters::default();
    let mut pending = reconfigure(&mut shard, Change::AddLearner(FRIEND));
    assert!(pending.try_recv().expect("it waits").is_none());
    store(&mut shard);
    shard.apply(&mut counters);
    let place = Position { term: Term(1), index: LogIndex(2) };
    assert_eq!(pending.now_or_never(), Some(Ok(Ok(place))));
    let status = shard.status();
    assert_eq!(status.configuration.to_string(), "voters=(1) learners=(2)");
    assert!(status.configuration_committed);
    assert_eq!(status.followers[0].membership, Membership::Learner);
    let refused = reconfigure(&mut shard, Change::AddVoter(FRIEND));
    let refused = refused.now_or_never();
    let Some(Ok(Err(ReconfigureError::Refused { refusal, .. }))) = refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(refusal, ReconfigureRefusal::NotReady { node: FRIEND, .. }), "{refusal}");
    // What waits when the log fails is answered, too.
    let pending = reconfigure(&mut shard, Change::Remove(FRIEND));
    shard.fail("a test");
    let unknown = Err(ReconfigureError::OutcomeUnknown { shard: id });
    assert_eq!(pending.now_or_never(), Some(Ok(unknown)));
}

#[test]
fn a_long_log_is_applied_in_turns() {
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(index),
        kind: EntryKind::Normal,
        payload: Bytes::new(),
    };
    use crate::limits::ENTRIES_PER_TURN_MAX;
    let many = ENTRIES_PER_TURN_MAX + 1;
    let mut shard = shard(&[OWN], (1..=many).map(entry).collect());
    let mut counters = CoreCounters::default();
    assert!(shard.apply(&mut counters));
    assert_eq!(counters.applied, ENTRIES_PER_TURN_MAX);
    assert!(!shard.apply(&mut counters));
    assert_eq!(shard.status().applied, LogIndex(many));
}

/// A shard that leads, whose follower has everything, and which is handing over to that one.
fn handing_over() -> (Shard, Term) {
    let mut shard = shard(&[OWN, FRIEND, RIVAL], Vec::new());
    let term = elect(&mut shard, Duration::from_secs(2));
    let outcome = AppendOutcome::Accepted { matched: LogIndex(1) };
    let reply = AppendReply { term, outcome, standing: Standing::Member };
    shard.message(FRIEND, Message::AppendReply(reply));
    shard.transfer(Some(FRIEND), None);
    let told = |(to, message): &(NodeId, Message)| {
        *to == FRIEND && matches!(message, Message::TimeoutNow(_))
    };
    assert!(shard.effects.messages.iter().any(told));
    (shard, term)
}

fn query(shard: &mut Shard) -> oneshot::Receiver<Result<Bytes, QueryError>> {
    let (answer, pending) = oneshot::channel();
    shard.query(Bytes::new(), answer);
    shard.submit(Duration::ZERO, &mut CoreCounters::default());
    shard.apply(&mut CoreCounters::default());
    pending
}

#[test]
fn what_comes_during_a_transfer_waits_and_is_sent_to_the_new_leader() {
    let (mut shard, term) = handing_over();
    let before = query(&mut shard);
    let mut proposal = propose(&mut shard);
    let (last_index, last_term) = (LogIndex(1), term);
    let term = Term(term.0 + 1);
    let vote =
        Vote { term, last_index, last_term, transfer: true, committed: CommitMark::default() };
    shard.message(FRIEND, Message::Vote(vote));
    assert_eq!((shard.raft.role(), shard.raft.leader()), (Role::Follower, None));
    let mut queries = [before, query(&mut shard)];
    let mut late = propose(&mut shard);
    let waits = |pending: &mut oneshot::Receiver<_>| pending.now_or_never().is_none();
    assert!(waits(&mut proposal) && waits(&mut late));
    assert!(queries.iter_mut().all(|query| query.now_or_never().is_none()));

    let (prev_index, prev_term, commit) = (LogIndex(1), last_term, LogIndex(0));
    let append = Append { term, prev_index, prev_term, commit, entries: Vec::new() };
    shard.message(FRIEND, Message::Append(append));
    let mut counters = CoreCounters::default();
    shard.submit(Duration::ZERO, &mut counters);
    shard.apply(&mut counters);
    let (at, leader) = (ShardId(0), Some(FRIEND));
    for pending in [proposal, late] {
        let moved = ProposeError::NotLeader { shard: at, leader };
        assert_eq!(pending.now_or_never(), Some(Ok(Err(moved))));
    }
    for pending in queries {
        let moved = QueryError::NotLeader { shard: at, leader };
        assert_eq!(pending.now_or_never(), Some(Ok(Err(moved))));
    }
    assert_eq!(shard.queries(), 0);
}

#[test]
fn what_waits_is_taken_when_the_transfer_is_given_up_and_is_bounded_until_then() {
    let (mut shard, _) = handing_over();
    let uncommitted_bytes_max = 3 * (ENTRY_COST_BYTES + 1);
    shard.limits = Rc::new(Limits { uncommitted_bytes_max, ..Limits::default() });
    let pending: Vec<_> = (0..5).map(|_| propose(&mut shard)).collect();
    shard.step(Event::Tick { now: Duration::from_millis(2500) });
    shard.submit(Duration::ZERO, &mut CoreCounters::default());
    assert_eq!((shard.raft.role(), shard.raft.last_index()), (Role::Leader, LogIndex(4)));
    let refused = |pending: oneshot::Receiver<Result<_, _>>| match pending.now_or_never() {
        Some(Ok(Err(ProposeError::Overloaded(_)))) => true,
        Some(other) => panic!("{other:?}"),
        None => false,
    };
    assert_eq!(
        pending.into_iter().map(refused).collect::<Vec<_>>(),
        [false, false, false, true, true]
    );
}

/// A core has thousands of them, and most sleep.
#[test]
fn a_replica_is_small() {
    let sizes = [("Shard", size_of::<Shard>(), 1072), ("Raft", size_of::<Raft>(), 704)];
    for (name, bytes, most) in sizes {
        assert!(bytes <= most, "{name} has {bytes} bytes, at most {most}");
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

type Pending<T> = oneshot::Receiver<Result<T, QueryError>>;

fn bounded(shard: &mut Shard, now: Duration, staleness: Duration) -> Pending<Bytes> {
    let (answer, pending) = oneshot::channel();
    shard.query_bounded(Bytes::new(), staleness, now, answer);
    pending
}

fn turn(shard: &mut Shard, now: Duration) {
    shard.submit(now, &mut CoreCounters::default());
    shard.apply(&mut CoreCounters::default());
}

/// A follower of node 2 with one entry, which it does not know to be committed.
fn following() -> Shard {
    let mut shard = shard(&[OWN, FRIEND, RIVAL], Vec::new());
    let (term, index, kind) = (Term(1), LogIndex(1), EntryKind::Noop);
    let entries = vec![Entry { term, index, kind, payload: Bytes::new() }];
    let (prev_index, prev_term, commit) = (LogIndex(0), Term(0), LogIndex(0));
    let append = Append { term, prev_index, prev_term, commit, entries };
    shard.message(FRIEND, Message::Append(append));
    store(&mut shard);
    shard
}

/// The question that the shard has for its leader.
fn asked(shard: &mut Shard) -> ReadIndex {
    match shard.effects.messages.pop() {
        Some((FRIEND, Message::ReadIndex(question))) => question,
        other => panic!("{other:?}"),
    }
}

fn answer(shard: &mut Shard, question: ReadIndex, index: u64) {
    let committed = CommitMark { index: LogIndex(index), term: Term(1) };
    let reply = ReadIndexReply { term: question.term, id: question.id, committed };
    shard.message(FRIEND, Message::ReadIndexReply(reply));
}

#[test]
fn a_follower_asks_its_leader_and_answers_when_that_much_is_applied() {
    let mut shard = following();
    let first = bounded(&mut shard, secs(5), Duration::ZERO);
    turn(&mut shard, secs(5));
    let question = asked(&mut shard);
    let mut later = bounded(&mut shard, secs(6), Duration::ZERO);
    answer(&mut shard, question, 1);
    turn(&mut shard, secs(7));
    assert_eq!((first.now_or_never(), shard.applied), (Some(Ok(Ok(Bytes::new()))), LogIndex(1)));
    assert!((&mut later).now_or_never().is_none(), "it came after the question");
    // What was shown is of second 5, whenever the answer came.
    let again = bounded(&mut shard, secs(8), secs(4));
    assert_eq!(again.now_or_never(), Some(Ok(Ok(Bytes::new()))));
    turn(&mut shard, secs(8));
    let question = asked(&mut shard);
    answer(&mut shard, question, 1);
    turn(&mut shard, secs(9));
    assert_eq!(later.now_or_never(), Some(Ok(Ok(Bytes::new()))));
    assert_eq!(shard.queries(), 0);
}

#[test]
fn what_a_follower_can_not_show_in_time_is_refused_and_names_the_leader() {
    let mut shard = following();
    let pending = bounded(&mut shard, secs(5), secs(1));
    turn(&mut shard, secs(5));
    let lost = asked(&mut shard);
    shard.refuse_late_reads(secs(5));
    turn(&mut shard, secs(5) + Duration::from_millis(249));
    assert!(shard.effects.messages.is_empty(), "the first may still be answered");
    turn(&mut shard, secs(5) + Duration::from_millis(250));
    assert_ne!(asked(&mut shard).id, lost.id, "it was lost, and another one goes");
    answer(&mut shard, lost, 1);
    turn(&mut shard, secs(5) + Duration::from_millis(260));
    assert_eq!((shard.is_busy(), shard.queries()), (true, 1));
    shard.refuse_late_reads(secs(6));
    let refused = QueryError::TooStale { shard: ShardId(0), leader: Some(FRIEND) };
    assert_eq!(pending.now_or_never(), Some(Ok(Err(refused))));
    assert!(!shard.is_busy());
}

#[test]
fn a_follower_without_a_leader_asks_the_next_one() {
    let mut shard = shard(&[OWN, FRIEND, RIVAL], Vec::new());
    let pending = bounded(&mut shard, secs(5), Duration::ZERO);
    turn(&mut shard, secs(5));
    assert!(shard.effects.messages.is_empty());
    let beat = Heartbeat { term: Term(1), commit: LogIndex(0), round: 0 };
    shard.message(FRIEND, Message::Heartbeat(beat));
    shard.effects.messages.clear();
    turn(&mut shard, secs(5));
    let question = asked(&mut shard);
    let reply = ReadIndexReply { term: Term(1), id: question.id, committed: CommitMark::default() };
    shard.message(FRIEND, Message::ReadIndexReply(reply));
    turn(&mut shard, secs(5));
    assert_eq!(pending.now_or_never(), Some(Ok(Ok(Bytes::new()))));
}

#[test]
fn too_many_bounded_reads_are_refused_and_all_end_with_the_shard() {
    let mut shard = following();
    shard.limits = Rc::new(Limits { queries_per_shard_max: 2, ..Limits::default() });
    let waiting = [(); 2].map(|()| bounded(&mut shard, secs(5), secs(1)));
    let refused = bounded(&mut shard, secs(5), secs(1)).now_or_never();
    assert!(matches!(refused, Some(Ok(Err(QueryError::Overloaded(_))))), "{refused:?}");
    shard.halt("a test");
    for pending in waiting {
        let refused = QueryError::NotLeader { shard: ShardId(0), leader: None };
        assert_eq!(pending.now_or_never(), Some(Ok(Err(refused))));
    }
    assert_eq!(shard.queries(), 0);
}

fn confirmed_status(shard: &mut Shard) -> Pending<ShardStatus> {
    let (answer, pending) = oneshot::channel();
    shard.confirm_status(answer);
    pending
}

#[test]
fn a_status_is_confirmed_by_a_round_that_begins_after_the_question() {
    let mut shard = shard(&[OWN, FRIEND, RIVAL], Vec::new());
    let elsewhere = QueryError::NotLeader { shard: ShardId(0), leader: None };
    assert_eq!(confirmed_status(&mut shard).now_or_never(), Some(Ok(Err(elsewhere))));
    let term = elect(&mut shard, secs(2));
    let outcome = AppendOutcome::Accepted { matched: LogIndex(1) };
    let reply = AppendReply { term, outcome, standing: Standing::Member };
    store(&mut shard);
    shard.message(FRIEND, Message::AppendReply(reply));
    let mut pending = confirmed_status(&mut shard);
    turn(&mut shard, secs(2));
    assert!((&mut pending).now_or_never().is_none(), "nobody has confirmed it");
    let reply =
        HeartbeatReply { term, round: 1, standing: Standing::Member, quiet_ms: 0, priority: 0 };
    shard.message(FRIEND, Message::HeartbeatReply(reply));
    turn(&mut shard, secs(2));
    let Some(Ok(Ok(status))) = pending.now_or_never() else { panic!("it is confirmed") };
    assert_eq!((status.role, status.term, status.commit), (Role::Leader, term, LogIndex(1)));
    assert_eq!(status, shard.status());
    // Deposed before the round comes to its end: somebody else knows better.
    let pending = confirmed_status(&mut shard);
    turn(&mut shard, secs(2));
    let beat = Heartbeat { term: Term(term.0 + 1), commit: LogIndex(1), round: 0 };
    shard.message(RIVAL, Message::Heartbeat(beat));
    turn(&mut shard, secs(2));
    let moved = QueryError::NotLeader { shard: ShardId(0), leader: Some(RIVAL) };
    assert_eq!(pending.now_or_never(), Some(Ok(Err(moved))));
}
