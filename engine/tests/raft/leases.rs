//! Leases: who may answer reads without a round and until when, and whom voters keep quiet for.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::membership::{Change, Configuration, Reconfiguration, Transition};
use coracle_engine::raft::{
    AppendOutcome, AppendReply, CommitMark, Config, Effects, Entry, EntryKind, Event, HardState,
    Heartbeat, HeartbeatReply, LeaseConfig, Message, PreVote, PreVoteReply, Raft, RaftLog, Role,
    Standing, StartError, Vote, VoteReply,
};
use coracle_engine::{LogIndex, NodeId, Term};

const OWN: NodeId = NodeId(1);
const FRIEND: NodeId = NodeId(2);
const RIVAL: NodeId = NodeId(3);

/// A quarter: a lease lasts 800 ms of an election timeout of 1 s.
const DRIFT_PPM: u32 = 250_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config() -> Config {
    Config {
        election_timeout: ms(1000),
        heartbeat_interval: ms(100),
        lease: Some(LeaseConfig { drift_ppm: DRIFT_PPM }),
        ..Config::new(OWN, vec![OWN, FRIEND, RIVAL], 1)
    }
}

fn start(config: Config, now: Duration) -> Raft {
    Raft::new(config, HardState::default(), RaftLog::empty(), now).unwrap()
}

fn step(raft: &mut Raft, event: Event) -> Effects {
    let mut effects = Effects::default();
    raft.step(event, &mut effects);
    effects
}

fn tell(raft: &mut Raft, from: NodeId, message: Message) -> Effects {
    step(raft, Event::Message { from, message })
}

fn tick(raft: &mut Raft, at: Duration) -> Effects {
    step(raft, Event::Tick { now: at })
}

/// The leader of term 1, at 10 s, whose first entry is not committed.
fn elected(config: Config) -> Raft {
    let mut raft = start(config, Duration::ZERO);
    tick(&mut raft, ms(10_000));
    let term = Term(1);
    tell(
        &mut raft,
        FRIEND,
        Message::PreVoteReply(PreVoteReply {
            term,
            granted: true,
            committed: CommitMark::default(),
        }),
    );
    for from in [OWN, FRIEND] {
        tell(
            &mut raft,
            from,
            Message::VoteReply(VoteReply { term, granted: true, committed: CommitMark::default() }),
        );
    }
    assert_eq!(raft.role(), Role::Leader);
    raft
}

fn acknowledge(raft: &mut Raft, from: NodeId) {
    let outcome = AppendOutcome::Accepted { matched: raft.last_index() };
    let (term, standing) = (raft.term(), Standing::Member);
    tell(raft, from, Message::AppendReply(AppendReply { term, outcome, standing }));
}

/// The same, when that entry is committed.
fn leader(config: Config) -> Raft {
    let mut raft = elected(config);
    acknowledge(&mut raft, FRIEND);
    acknowledge(&mut raft, RIVAL);
    assert_eq!(raft.commit(), LogIndex(1));
    raft
}

/// Sends heartbeats, and says which round that was.
fn beat(raft: &mut Raft, at: Duration) -> u64 {
    let effects = tick(raft, at);
    let round = effects.messages.iter().find_map(|(_, message)| match message {
        Message::Heartbeat(m) => Some(m.round),
        _ => None,
    });
    round.expect("heartbeats are due")
}

fn answer(raft: &mut Raft, from: NodeId, round: u64, quiet_ms: u32) {
    let reply = HeartbeatReply {
        term: raft.term(),
        round,
        standing: Standing::Member,
        quiet_ms,
        priority: 0,
    };
    tell(raft, from, Message::HeartbeatReply(reply));
}

/// Whether a read at this time is answered at once.
fn reads(raft: &mut Raft, at: Duration) -> bool {
    let effects = step(raft, Event::LeaseRead { id: 7, now: at });
    let answered = effects.read_states == [(7, raft.commit())];
    assert!(answered || effects.read_states.is_empty(), "{effects:?}");
    answered
}

fn heartbeat(term: u64, round: u64) -> Message {
    Message::Heartbeat(Heartbeat { term: Term(term), commit: LogIndex(0), round })
}

fn vote(term: u64, transfer: bool) -> Message {
    let (last_index, last_term) = (LogIndex(9), Term(1));
    Message::Vote(Vote {
        term: Term(term),
        last_index,
        last_term,
        transfer,
        committed: CommitMark::default(),
    })
}

fn pre_vote(term: u64) -> Message {
    let (last_index, last_term) = (LogIndex(9), Term(1));
    Message::PreVote(PreVote {
        term: Term(term),
        last_index,
        last_term,
        committed: CommitMark::default(),
    })
}

/// Whether a voter gives its vote, or would.
fn grants(raft: &mut Raft, message: Message) -> bool {
    let effects = tell(raft, RIVAL, message);
    effects.messages.iter().chain(&effects.after_durable).any(|(_, message)| match message {
        Message::VoteReply(m) => m.granted,
        Message::PreVoteReply(m) => m.granted,
        _ => false,
    })
}

#[test]
fn a_lease_lasts_from_the_sending_of_the_heartbeats_less_the_drift() {
    let mut raft = leader(config());
    assert!(!reads(&mut raft, ms(10_000)), "nobody has answered a heartbeat");
    let round = beat(&mut raft, ms(10_200));
    assert!(!reads(&mut raft, ms(10_200)), "nor this one");
    // The answer takes its time, during which ticks pass.
    tick(&mut raft, ms(10_250));
    answer(&mut raft, FRIEND, round, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_000)));
    for (at, answered) in [(10_250, true), (10_999, true), (11_000, false)] {
        assert_eq!(reads(&mut raft, ms(at)), answered, "{at}");
    }
}

#[test]
fn the_time_of_a_read_is_that_of_the_read_not_of_the_last_tick() {
    let mut raft = leader(config());
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 1000);
    assert!(!reads(&mut raft, ms(60_000)), "the process stood still for long");
    assert!(reads(&mut raft, ms(10_201)));
}

#[test]
fn an_answer_to_an_old_round_gives_no_more_than_that_round() {
    let mut raft = leader(config());
    let old = beat(&mut raft, ms(10_200));
    let new = beat(&mut raft, ms(10_300));
    assert!(new > old);
    answer(&mut raft, FRIEND, old, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_000)));
    answer(&mut raft, RIVAL, new, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_100)), "two of three are a majority");
}

#[test]
fn there_is_no_lease_before_an_entry_of_the_own_term_is_committed() {
    let mut raft = elected(config());
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 1000);
    assert!(!reads(&mut raft, ms(10_201)));
    acknowledge(&mut raft, FRIEND);
    acknowledge(&mut raft, RIVAL);
    assert!(reads(&mut raft, ms(10_202)));
}

#[test]
fn a_voter_that_keeps_quiet_for_less_does_not_count() {
    let mut raft = leader(config());
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 0);
    answer(&mut raft, RIVAL, round, 999);
    assert_eq!(raft.lease_until(), None);
    answer(&mut raft, RIVAL, round, 1000);
    assert!(raft.lease_until().is_some());
}

#[test]
fn without_leases_every_read_takes_a_round_and_nobody_keeps_quiet() {
    let config = Config { lease: None, ..config() };
    let mut raft = leader(config.clone());
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 1000);
    assert!(!reads(&mut raft, ms(10_200)));
    let mut voter = start(config, Duration::ZERO);
    assert!(grants(&mut voter, vote(2, false)), "at once after its start");
}

/// The order to campaign may arrive after the transfer was given up, and the voters will answer
/// although they are quiet.
#[test]
fn who_was_told_to_campaign_ends_the_lease_for_the_rest_of_the_term() {
    let mut raft = leader(config());
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 1000);
    step(&mut raft, Event::Propose { payloads: vec![Bytes::from_static(b"x")] });
    step(&mut raft, Event::TransferLeadership { id: 1, to: Some(FRIEND) });
    assert!(reads(&mut raft, ms(10_201)), "nobody was told anything yet");
    acknowledge(&mut raft, FRIEND);
    assert!(!reads(&mut raft, ms(10_202)));
    let round = beat(&mut raft, ms(11_000));
    for from in [FRIEND, RIVAL] {
        answer(&mut raft, from, round, 1000);
    }
    let effects = tick(&mut raft, ms(11_250));
    assert_eq!(effects.transfers.len(), 1, "given up: {effects:?}");
    let round = beat(&mut raft, ms(11_400));
    for from in [FRIEND, RIVAL] {
        answer(&mut raft, from, round, 1000);
    }
    assert!(!reads(&mut raft, ms(11_401)));
}

#[test]
fn a_voter_keeps_quiet_for_an_election_timeout_after_a_heartbeat() {
    let mut raft = start(config(), Duration::ZERO);
    tick(&mut raft, ms(1000));
    let effects = tell(&mut raft, FRIEND, heartbeat(1, 5));
    let [(FRIEND, Message::HeartbeatReply(reply))] = effects.messages.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((reply.round, reply.quiet_ms), (5, 1000));
    tick(&mut raft, ms(1010));
    // Somebody else of a later term makes it forget its leader, but not its promise.
    let reply = HeartbeatReply {
        term: Term(4),
        round: 0,
        standing: Standing::Member,
        quiet_ms: 0,
        priority: 0,
    };
    tell(&mut raft, RIVAL, Message::HeartbeatReply(reply));
    assert_eq!((raft.term(), raft.leader()), (Term(4), None));
    tick(&mut raft, ms(2009));
    for message in [pre_vote(5), vote(4, false), vote(5, false)] {
        assert!(!grants(&mut raft, message.clone()), "{message:?}");
    }
    assert_eq!(raft.term(), Term(4));
    tick(&mut raft, ms(2010));
    assert!(grants(&mut raft, pre_vote(5)) && grants(&mut raft, vote(5, false)));
}

#[test]
fn a_voter_answers_a_candidate_of_a_transfer() {
    let mut raft = start(config(), Duration::ZERO);
    tick(&mut raft, ms(1500));
    tell(&mut raft, FRIEND, heartbeat(1, 5));
    assert!(!grants(&mut raft, vote(2, false)));
    assert!(grants(&mut raft, vote(2, true)));
}

/// A process that stood still handles what has come in before it sees what time it is.
#[test]
fn a_voter_that_stood_still_keeps_quiet_from_its_next_tick_on() {
    let mut raft = start(config(), Duration::ZERO);
    tick(&mut raft, ms(1500));
    tell(&mut raft, FRIEND, heartbeat(1, 5)); // at 9 s, but it does not know
    assert!(!grants(&mut raft, vote(2, false)));
    tick(&mut raft, ms(9000));
    assert_eq!(raft.role(), Role::Follower, "nor does it campaign");
    assert!(!grants(&mut raft, vote(2, false)));
    tick(&mut raft, ms(9999));
    assert_eq!(raft.role(), Role::Follower);
    assert!(!grants(&mut raft, pre_vote(2)));
}

#[test]
fn a_voter_that_has_just_started_keeps_quiet() {
    let mut raft = start(config(), ms(5000));
    assert!(!grants(&mut raft, vote(2, false)) && !grants(&mut raft, pre_vote(2)));
    tick(&mut raft, ms(5999));
    assert!(!grants(&mut raft, vote(2, false)));
    tick(&mut raft, ms(6000));
    assert!(grants(&mut raft, vote(2, false)));
}

fn change(raft: &mut Raft, changes: &[Change], transition: Transition) {
    let change = Reconfiguration::Change { changes: changes.to_vec(), transition };
    let effects = step(raft, Event::Reconfigure { change, only_if_ready: false });
    assert!(matches!(effects.reconfigured, Some(Ok(_))), "{effects:?}");
}

#[test]
fn a_lease_needs_majorities_of_both_halves_while_joint() {
    let mut raft = leader(config());
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 1000);
    assert!(reads(&mut raft, ms(10_201)));
    let replace = [Change::Remove(FRIEND), Change::Remove(RIVAL), Change::AddVoter(NodeId(4))];
    change(&mut raft, &replace, Transition::Joint);
    assert_eq!(raft.configuration().to_string(), "voters=(1 4)&&(1 2 3) autoleave");
    assert!(!reads(&mut raft, ms(10_202)), "in force at once");
    let round = beat(&mut raft, ms(10_300));
    answer(&mut raft, NodeId(4), round, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_000)), "that of the half which is behind");
    answer(&mut raft, RIVAL, round, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_100)));
}

#[test]
fn learners_and_those_that_leave_give_no_lease() {
    let mut raft = leader(config());
    change(&mut raft, &[Change::AddLearner(RIVAL)], Transition::Auto);
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, RIVAL, round, 1000);
    assert_eq!(raft.lease_until(), None, "one of two voters");
    answer(&mut raft, FRIEND, round, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_000)));

    // A leader that removes itself does not count itself.
    let mut raft = leader(config());
    change(&mut raft, &[Change::Remove(OWN)], Transition::Auto);
    let round = beat(&mut raft, ms(10_200));
    answer(&mut raft, FRIEND, round, 1000);
    assert_eq!(raft.lease_until(), None, "one of two voters");
    answer(&mut raft, RIVAL, round, 1000);
    assert_eq!(raft.lease_until(), Some(ms(11_000)));
}

/// The leader of two removes itself: until that is committed its lease rests on the other one alone, who then
/// must not elect itself, also not after a restart.
#[test]
fn who_decides_alone_keeps_quiet_until_that_is_committed() {
    let alone = Configuration::of_voters([OWN]).unwrap();
    let entry = |index, kind, payload| Entry { term: Term(1), index, kind, payload };
    let entries = vec![
        entry(LogIndex(1), EntryKind::Noop, Bytes::new()),
        entry(LogIndex(2), EntryKind::Reconfiguration, alone.encode()),
    ];
    let both = Config { voters: vec![OWN, FRIEND], ..config() };
    for (commit, waits) in [(1, true), (2, false)] {
        let log = RaftLog::in_memory(LogIndex(0), Term(0), entries.clone()).unwrap();
        let (term, commit) = (Term(1), LogIndex(commit));
        let state = HardState { term, commit, ..HardState::default() };
        let mut raft = Raft::new(both.clone(), state, log, Duration::ZERO).unwrap();
        assert!(raft.is_only_voter());
        tick(&mut raft, ms(999));
        assert_eq!(raft.role() == Role::Follower, waits, "at once only if it is committed");
        tick(&mut raft, ms(1001));
        assert_eq!(raft.role(), Role::Candidate);
    }
}

#[test]
fn a_lease_that_ends_before_the_next_heartbeat_is_refused() {
    let lease = Some(LeaseConfig { drift_ppm: 9_000_000 });
    assert!(matches!(Config { lease, ..config() }.validate(), Err(StartError::Config(_))));
}
