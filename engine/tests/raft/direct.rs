//! Single replicas that are told things by hand, among them what no correct peer would say.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::limits::READ_BATCHES_MAX;
use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, Base, Census, CensusReply, CommitMark, Config, Effects,
    Entry, EntryKind, Event, Fault, HardState, Heartbeat, HeartbeatReply, Message, PreVote,
    PreVoteReply, Raft, RaftLog, Refusal, Role, Standing, StartError, Vote, VoteReply, WriteMark,
};
use coracle_engine::{LogIndex, NodeId, Term};

fn entry(term: u64, index: u64) -> Entry {
    let payload = Bytes::from_static(b"x");
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Normal, payload }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term: Term(term), commit: LogIndex(commit), ..HardState::default() }
}

/// Who belongs to the shard in these tests.
fn configuration() -> Configuration {
    Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)]).unwrap()
}

/// Node 1 of three, whose log has one entry of each of these terms.
fn start(state: HardState, terms: &[u64]) -> Result<Raft, StartError> {
    let entries = terms.iter().zip(1..).map(|(term, index)| entry(*term, index)).collect();
    let log = RaftLog::in_memory(LogIndex(0), Term(0), entries)?;
    let config = Config::new(NodeId(1), vec![NodeId(1), NodeId(2), NodeId(3)], 7);
    Raft::new(config, state, log, Duration::ZERO)
}

fn tell(raft: &mut Raft, from: u64, message: Message) -> Effects {
    let mut effects = Effects::default();
    raft.step(Event::Message { from: NodeId(from), message }, &mut effects);
    effects
}

fn append(term: u64, prev: (u64, u64), commit: u64, entries: Vec<Entry>) -> Message {
    Message::Append(Append {
        term: Term(term),
        prev_term: Term(prev.0),
        prev_index: LogIndex(prev.1),
        commit: LogIndex(commit),
        entries,
    })
}

fn vote(term: u64, last: (u64, u64)) -> Message {
    let (last_term, last_index) = (Term(last.0), LogIndex(last.1));
    Message::Vote(Vote {
        term: Term(term),
        last_index,
        last_term,
        transfer: false,
        committed: CommitMark::default(),
    })
}

fn accepted(term: u64, matched: u64) -> Message {
    let outcome = AppendOutcome::Accepted { matched: LogIndex(matched) };
    Message::AppendReply(AppendReply { term: Term(term), outcome, standing: Standing::Member })
}

/// Elects node 1 with the vote of node 2; its own first entry is not durable yet.
fn leader(terms: &[u64]) -> Raft {
    let term = terms.last().copied().unwrap_or(0);
    let mut raft = start(hard_state(term, 0), terms).unwrap();
    let mut effects = Effects::default();
    raft.step(Event::Tick { now: Duration::from_secs(10) }, &mut effects);
    let term = Term(term + 1);
    tell(
        &mut raft,
        2,
        Message::PreVoteReply(PreVoteReply {
            term,
            granted: true,
            committed: CommitMark::default(),
        }),
    );
    assert_eq!(raft.role(), Role::Candidate);
    tell(
        &mut raft,
        2,
        Message::VoteReply(VoteReply { term, granted: true, committed: CommitMark::default() }),
    );
    assert_eq!(raft.role(), Role::Candidate, "two votes are not enough without the own one");
    tell(
        &mut raft,
        1,
        Message::VoteReply(VoteReply { term, granted: true, committed: CommitMark::default() }),
    );
    assert_eq!(raft.role(), Role::Leader);
    raft
}

#[test]
fn stored_state_that_contradicts_itself_is_refused() {
    assert!(matches!(start(hard_state(1, 0), &[1, 2]), Err(StartError::TermBehindLog { .. })));
    assert!(matches!(start(hard_state(2, 3), &[1, 2]), Err(StartError::CommitBeyondLog { .. })));
    assert!(matches!(start(hard_state(2, 0), &[2, 1]), Err(StartError::LogBroken { .. })));
    assert!(start(hard_state(2, 2), &[1, 2]).is_ok());
}

#[test]
fn bad_settings_are_refused() {
    let good = Config::new(NodeId(1), vec![NodeId(1), NodeId(2)], 0);
    assert_eq!(good.validate(), Ok(()));
    let joins = Config { voters: vec![], ..good.clone() };
    assert_eq!(joins.validate(), Ok(()), "it is told by a leader");
    let bad = [
        Config { id: NodeId(0), ..good.clone() },
        Config { voters: vec![NodeId(1), NodeId(2), NodeId(2)], ..good.clone() },
        Config { voters: (1..=10).map(NodeId).collect(), ..good.clone() },
        Config { heartbeat_interval: Duration::from_millis(200), ..good.clone() },
        Config { heartbeat_interval: Duration::ZERO, ..good.clone() },
        Config { append_bytes_max: 1, ..good.clone() },
        Config { inflight_messages_max: 0, ..good.clone() },
        Config { uncommitted_bytes_max: 1000, ..good },
    ];
    for config in bad {
        assert!(matches!(config.validate(), Err(StartError::Config(_))), "{config:?}");
    }
}

/// The term arrived with a heartbeat and is not stored yet. An acknowledgement now, a crash, and the
/// replica is back in the old term, where the old leader may overwrite what it acknowledged.
#[test]
fn an_ack_waits_for_the_term_even_if_all_entries_are_durable() {
    let mut raft = start(hard_state(1, 0), &[1, 1]).unwrap();
    let beat = Heartbeat { term: Term(2), commit: LogIndex(0), round: 0 };
    let effects = tell(&mut raft, 2, Message::Heartbeat(beat));
    let mark = effects.write_mark.unwrap();
    assert_eq!(effects.messages.len(), 1, "the heartbeat is answered at once");
    let effects = tell(&mut raft, 2, append(2, (1, 2), 0, vec![]));
    assert!(effects.messages.is_empty() && effects.after_durable.len() == 1, "{effects:?}");
    assert_eq!(effects.hard_state, Some(raft.hard_state()), "something to wait for");
    raft.step(Event::Durable(mark), &mut Effects::default());
    let effects = tell(&mut raft, 2, append(2, (1, 2), 0, vec![]));
    assert!(effects.messages.len() == 1 && effects.after_durable.is_empty(), "{effects:?}");
}

#[test]
fn a_repeated_vote_request_gets_the_same_answer_and_waits_for_the_disk_again() {
    let mut raft = start(hard_state(1, 0), &[1]).unwrap();
    for _ in 0..2 {
        let effects = tell(&mut raft, 2, vote(2, (1, 1)));
        assert_eq!(effects.hard_state.unwrap().vote, Some(NodeId(2)));
        let reply = VoteReply { term: Term(2), granted: true, committed: CommitMark::default() };
        assert_eq!(effects.after_durable, [(NodeId(2), Message::VoteReply(reply))]);
    }
    let effects = tell(&mut raft, 3, vote(2, (9, 9)));
    let reply = VoteReply { term: Term(2), granted: false, committed: CommitMark::default() };
    assert_eq!(effects.messages, [(NodeId(3), Message::VoteReply(reply))]);
}

#[test]
fn a_longer_log_of_an_earlier_term_does_not_win() {
    let mut raft = start(hard_state(3, 0), &[1, 3]).unwrap();
    let effects = tell(&mut raft, 2, vote(4, (2, 100)));
    assert!(effects.after_durable.is_empty());
    let effects = tell(&mut raft, 3, vote(4, (3, 2)));
    assert_eq!(effects.after_durable.len(), 1);
}

#[test]
fn strangers_and_repeated_votes_do_not_count() {
    let voters = (1..=5).map(NodeId).collect();
    let config = Config::new(NodeId(1), voters, 7);
    let mut raft =
        Raft::new(config, HardState::default(), RaftLog::empty(), Duration::ZERO).unwrap();
    raft.step(Event::Tick { now: Duration::from_secs(10) }, &mut Effects::default());
    let yes = |term| {
        Message::VoteReply(VoteReply {
            term: Term(term),
            granted: true,
            committed: CommitMark::default(),
        })
    };
    let pre = Message::PreVoteReply(PreVoteReply {
        term: Term(1),
        granted: true,
        committed: CommitMark::default(),
    });
    for from in [2, 2, 9, 2] {
        tell(&mut raft, from, pre.clone());
        assert_eq!(raft.role(), Role::PreCandidate);
    }
    tell(&mut raft, 3, pre);
    for from in [1, 2, 2, 9, 2] {
        tell(&mut raft, from, yes(1));
        assert_eq!(raft.role(), Role::Candidate);
    }
    tell(&mut raft, 4, yes(1));
    assert_eq!(raft.role(), Role::Leader);
}

/// A node that is no member, as far as is known here, is answered: the own configuration may be an old one.
/// What it answers itself means nothing, not even its term; nor do messages in the own name.
#[test]
fn strangers_are_answered_but_do_not_count() {
    let raft = start(hard_state(1, 0), &[1]).unwrap();
    let beat = Heartbeat { term: Term(9), commit: LogIndex(1), round: 0 };
    for message in
        [Message::Heartbeat(beat), append(9, (1, 1), 1, vec![entry(9, 2)]), vote(9, (9, 9))]
    {
        let mut raft = raft.clone();
        assert!(tell(&mut raft, 1, message.clone()).is_empty(), "in the own name");
        assert_eq!((raft.term(), raft.leader()), (Term(1), None));
        assert!(!tell(&mut raft, 4, message).is_empty());
        assert_eq!(raft.term(), Term(9));
    }
    let mut raft = raft;
    let (term, standing) = (Term(9), Standing::Member);
    let outcome = AppendOutcome::Accepted { matched: LogIndex(1) };
    for message in [
        Message::VoteReply(VoteReply { term, granted: true, committed: CommitMark::default() }),
        Message::PreVoteReply(PreVoteReply {
            term,
            granted: false,
            committed: CommitMark::default(),
        }),
        Message::HeartbeatReply(HeartbeatReply {
            term,
            round: 0,
            standing,
            quiet_ms: 0,
            priority: 0,
        }),
        Message::AppendReply(AppendReply { term, outcome, standing }),
    ] {
        assert!(tell(&mut raft, 4, message).is_empty());
        assert_eq!(raft.term(), Term(1));
    }
}

/// The others' votes make a majority, but the candidate's own term is not durable yet: after a crash
/// it could stand in the same term again.
/// A mark of another term is of an entry that was never here, or that a leader will overwrite.
#[test]
fn elections_tell_what_is_committed_but_only_of_the_same_entry() {
    let mark = |index, term| CommitMark { index: LogIndex(index), term: Term(term) };
    let question = |committed| {
        let (last_index, last_term) = (LogIndex(9), Term(2));
        Message::PreVote(PreVote { term: Term(3), last_index, last_term, committed })
    };
    let mut raft = start(hard_state(2, 0), &[1, 1, 2]).unwrap();
    raft.step(Event::Tick { now: Duration::from_millis(300) }, &mut Effects::default());
    for (committed, expected) in [
        (mark(0, 0), 0),
        (mark(3, 1), 0), // another entry
        (mark(4, 2), 0), // not here
        (mark(2, 1), 2),
        (mark(1, 1), 2), // never backwards
    ] {
        tell(&mut raft, 2, question(committed));
        assert_eq!(raft.commit(), LogIndex(expected), "after {committed:?}");
    }
    let refused = VoteReply { term: Term(2), granted: false, committed: mark(3, 2) };
    let effects = tell(&mut raft, 3, Message::VoteReply(refused));
    assert_eq!((raft.commit(), effects.committed), (LogIndex(3), Some(LogIndex(3))));
    // And it says so itself.
    let effects = tell(&mut raft, 2, question(mark(0, 0)));
    let told = effects.messages.iter().find_map(|(_, message)| match message {
        Message::PreVoteReply(reply) => Some(reply.committed),
        _ => None,
    });
    assert_eq!(told, Some(mark(3, 2)));
}

#[test]
fn nobody_leads_before_the_own_vote_is_durable() {
    let mut raft = start(hard_state(1, 0), &[1]).unwrap();
    raft.step(Event::Tick { now: Duration::from_secs(10) }, &mut Effects::default());
    let pre = PreVoteReply { term: Term(2), granted: true, committed: CommitMark::default() };
    tell(&mut raft, 2, Message::PreVoteReply(pre));
    let yes = Message::VoteReply(VoteReply {
        term: Term(2),
        granted: true,
        committed: CommitMark::default(),
    });
    for from in [2, 3] {
        tell(&mut raft, from, yes.clone());
        assert_eq!(raft.role(), Role::Candidate);
    }
    tell(&mut raft, 1, yes);
    assert_eq!(raft.role(), Role::Leader);
}

/// The answer to a heartbeat of an earlier term carried that heartbeat's round along with the new
/// term. Its sender, leading again, took it for the confirmation of a round of the new term.
#[test]
fn an_answer_to_an_earlier_term_confirms_no_round() {
    let mut raft = start(hard_state(5, 0), &[1]).unwrap();
    let beat = Heartbeat { term: Term(4), commit: LogIndex(0), round: 7 };
    for message in [Message::Heartbeat(beat), append(4, (1, 1), 0, vec![]), vote(4, (9, 9))] {
        let reply = HeartbeatReply {
            term: Term(5),
            round: 0,
            standing: Standing::Member,
            quiet_ms: 0,
            priority: 0,
        };
        let effects = tell(&mut raft, 2, message);
        assert_eq!(effects.messages, [(NodeId(2), Message::HeartbeatReply(reply))]);
    }
}

#[test]
fn a_report_about_an_earlier_term_says_nothing_about_the_present_one() {
    let mut raft = start(hard_state(1, 0), &[1, 1]).unwrap();
    let mut marks = Vec::new();
    for term in [2, 3] {
        let beat = Heartbeat { term: Term(term), commit: LogIndex(0), round: 0 };
        marks.extend(tell(&mut raft, term, Message::Heartbeat(beat)).write_mark);
    }
    raft.step(Event::Durable(marks[0]), &mut Effects::default());
    let effects = tell(&mut raft, 3, append(3, (1, 2), 0, vec![]));
    assert!(effects.messages.is_empty(), "term 3 is not durable");
    raft.step(Event::Durable(marks[1]), &mut Effects::default());
    let effects = tell(&mut raft, 3, append(3, (1, 2), 0, vec![]));
    assert_eq!(effects.messages.len(), 1);
}

#[test]
fn a_committed_entry_is_not_replaced() {
    let mut raft = start(hard_state(2, 2), &[1, 1, 2]).unwrap();
    let effects = tell(&mut raft, 2, append(3, (1, 1), 0, vec![entry(3, 2)]));
    assert!(matches!(effects.fault, Some(Fault::ConflictBelowCommit { .. })), "{effects:?}");
    assert_eq!(raft.last_index(), LogIndex(3));
    assert!(effects.after_durable.is_empty() && effects.messages.is_empty());
}

#[test]
fn what_no_correct_peer_says_is_reported_and_ignored() {
    let mut raft = leader(&[]);
    let beat = Heartbeat { term: Term(1), commit: LogIndex(0), round: 0 };
    let effects = tell(&mut raft, 2, Message::Heartbeat(beat));
    assert!(matches!(effects.fault, Some(Fault::TwoLeaders { .. })), "{effects:?}");
    let effects = tell(&mut raft, 2, append(1, (0, 0), 0, vec![entry(1, 1)]));
    assert!(matches!(effects.fault, Some(Fault::TwoLeaders { .. })), "{effects:?}");
    let effects = tell(&mut raft, 2, accepted(1, 2));
    assert!(matches!(effects.fault, Some(Fault::ImpossibleAck { position: 2, .. })));
    let reply = HeartbeatReply {
        term: Term(1),
        round: 1,
        standing: Standing::Member,
        quiet_ms: 0,
        priority: 0,
    };
    let effects = tell(&mut raft, 2, Message::HeartbeatReply(reply));
    assert!(matches!(effects.fault, Some(Fault::ImpossibleAck { position: 1, .. })));
    assert_eq!(raft.commit(), LogIndex(0));

    let mut raft = start(hard_state(1, 0), &[1]).unwrap();
    for entries in [
        vec![entry(1, 3)],
        vec![entry(1, 2), entry(1, 4)],
        vec![entry(2, 2), entry(1, 3)],
        vec![entry(3, 2)],
    ] {
        let effects = tell(&mut raft, 2, append(2, (1, 1), 0, entries));
        assert!(matches!(effects.fault, Some(Fault::BrokenAppend { .. })), "{effects:?}");
        assert_eq!(raft.last_index(), LogIndex(1));
    }
    let beat = Heartbeat { term: Term(2), commit: LogIndex(9), round: 0 };
    let effects = tell(&mut raft, 2, Message::Heartbeat(beat));
    assert!(matches!(effects.fault, Some(Fault::AckedEntriesMissing { .. })), "{effects:?}");
}

#[test]
fn the_commit_index_of_an_append_counts_only_up_to_what_it_proves() {
    let mut raft = start(hard_state(1, 0), &[1, 1, 1, 1]).unwrap();
    let effects = tell(&mut raft, 2, append(2, (1, 2), 4, vec![]));
    assert_eq!(effects.committed, Some(LogIndex(2)));
    let (_, reply) = effects.after_durable.last().unwrap();
    assert_eq!(*reply, accepted(2, 2), "and so does the acknowledgement");
}

#[test]
fn a_leader_counts_its_own_entry_only_when_it_is_durable() {
    let mut raft = leader(&[1, 1]);
    let effects = tell(&mut raft, 2, accepted(2, 3));
    assert_eq!(effects.committed, None, "one durable copy of three");
    let mut effects = Effects::default();
    raft.step(Event::Propose { payloads: vec![Bytes::from_static(b"y")] }, &mut effects);
    let mark = effects.write_mark.unwrap();
    effects.clear();
    raft.step(Event::Durable(mark), &mut effects);
    assert_eq!(effects.committed, Some(LogIndex(3)));
    assert_eq!(raft.log().durable(), LogIndex(4));
}

#[test]
fn steps_can_be_gathered_and_replaced_entries_are_not_stored() {
    let mut raft = start(hard_state(1, 0), &[1]).unwrap();
    let mut effects = Effects::default();
    let events = [
        (2, append(2, (1, 1), 0, vec![entry(2, 2), entry(2, 3)])),
        (3, append(3, (1, 1), 0, vec![entry(3, 2)])),
    ];
    for (from, message) in events {
        raft.step(Event::Message { from: NodeId(from), message }, &mut effects);
    }
    assert_eq!(effects.entries, [entry(3, 2)]);
    assert_eq!(effects.hard_state.unwrap().term, Term(3));
    let mark = effects.write_mark.unwrap();
    assert_eq!((mark.term, mark.index), (Term(3), LogIndex(2)));
    raft.step(Event::Durable(mark), &mut effects);
    assert_eq!(raft.log().durable(), LogIndex(2));
}

#[test]
fn proposals_and_reads_elsewhere_are_refused_with_the_leader() {
    let mut raft = start(hard_state(1, 0), &[1]).unwrap();
    tell(&mut raft, 2, append(1, (1, 1), 0, vec![]));
    let mut effects = Effects::default();
    raft.step(Event::Propose { payloads: vec![Bytes::new()] }, &mut effects);
    raft.step(Event::ReadIndex { id: 5 }, &mut effects);
    let proposed = effects.proposed.unwrap();
    assert_eq!(proposed.accepted, 0);
    assert_eq!(proposed.refusal, Some(Refusal::NotLeader { leader: Some(NodeId(2)) }));
    assert_eq!(effects.reads_failed, [5]);
}

#[test]
fn too_many_waiting_reads_are_refused() {
    let mut raft = leader(&[]);
    let mut effects = Effects::default();
    for id in 0..=READ_BATCHES_MAX as u64 {
        raft.step(Event::ReadIndex { id }, &mut effects);
    }
    assert_eq!(effects.reads_failed, [READ_BATCHES_MAX as u64]);
}

#[test]
fn timeouts_of_nodes_with_the_same_seed_differ() {
    let due = |id: u64, seed: u64| {
        let config = Config::new(NodeId(id), (1..=5).map(NodeId).collect(), seed);
        let base = config.election_timeout;
        let mut raft =
            Raft::new(config, HardState::default(), RaftLog::empty(), Duration::ZERO).unwrap();
        let mut now = Duration::ZERO;
        while raft.role() == Role::Follower {
            now += Duration::from_millis(1);
            raft.step(Event::Tick { now }, &mut Effects::default());
        }
        assert!(now >= base && now <= 2 * base + Duration::from_millis(1), "{now:?}");
        now
    };
    for seed in 0..20 {
        let mut times: Vec<_> = (1..=5).map(|id| due(id, seed)).collect();
        times.sort();
        times.dedup();
        assert!(times.len() >= 4, "seed {seed}: {times:?}");
    }
}

#[test]
fn a_leader_sends_its_entries_in_the_step_that_takes_them_in() {
    let mut raft = leader(&[]);
    tell(&mut raft, 2, accepted(1, 1));
    let mut effects = Effects::default();
    let payload = Bytes::from(vec![7; 100_000]);
    raft.step(Event::Propose { payloads: vec![payload.clone()] }, &mut effects);
    let [(to, Message::Append(append))] = effects.messages.as_slice() else {
        panic!("one append, to node 2: {effects:?}");
    };
    assert_eq!(*to, NodeId(2));
    assert_eq!(append.entries[0].payload.as_ptr(), payload.as_ptr(), "the payload is not copied");
    assert!(effects.after_durable.is_empty());
}

#[test]
fn a_leader_tells_what_each_voter_has_acknowledged() {
    let mut raft = leader(&[1, 1]);
    let term = raft.term().0;
    tell(&mut raft, 2, accepted(term, 3));
    tell(&mut raft, 2, accepted(term, 1));
    assert_eq!(matched(&raft, NodeId(2)), Some(LogIndex(3)), "a late answer takes nothing away");
    assert_eq!(matched(&raft, NodeId(3)), Some(LogIndex(0)));
    assert_eq!(matched(&raft, NodeId(1)), None, "not another voter");
    tell(&mut raft, 2, vote(term + 9, (term, 9)));
    assert_eq!(matched(&raft, NodeId(2)), Some(LogIndex(3)), "nobody is helped against a leader");
    let newer = HeartbeatReply {
        term: Term(term + 1),
        round: 0,
        standing: Standing::Member,
        quiet_ms: 0,
        priority: 0,
    };
    tell(&mut raft, 2, Message::HeartbeatReply(newer));
    assert_eq!(matched(&raft, NodeId(2)), None, "it leads no more");
}

/// Up to where the leader `raft` knows `node` to have its log.
fn matched(raft: &Raft, node: NodeId) -> Option<LogIndex> {
    raft.followers().find(|follower| follower.id == node).map(|follower| follower.matched)
}

/// A replica that has voted in term 3 and was found damaged: its log begins anew behind `base`.
fn damaged(base: (u64, u64)) -> Raft {
    let (index, term) = (LogIndex(base.1), Term(base.0));
    let log = RaftLog::in_memory(index, term, Vec::new()).unwrap();
    let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
    let config = Config { damaged: Some(77), ..Config::new(NodeId(1), voters, 7) };
    let state = HardState { vote: Some(NodeId(2)), ..hard_state(3, base.1) };
    let mut raft = Raft::new(config, state, log, Duration::ZERO).unwrap();
    if index > LogIndex(0) {
        raft.step(
            Event::Snapshot { index, term, configuration: configuration() },
            &mut Effects::default(),
        );
    }
    raft
}

#[test]
fn a_damaged_replica_neither_votes_nor_stores_anything_until_a_leader_is_heard() {
    for base in [(0, 0), (2, 5)] {
        let mut raft = damaged(base);
        assert_eq!((raft.is_damaged(), raft.standing()), (true, None));
        let mut effects = Effects::default();
        raft.step(Event::Tick { now: Duration::from_secs(60) }, &mut effects);
        assert!(effects.is_empty(), "{effects:?}");
        let question = Census { incarnation: 5 };
        let answers = tell(&mut raft, 3, Message::Census(question)).messages;
        let [(_, Message::CensusReply(answer))] = answers[..] else { panic!("{answers:?}") };
        assert!(!answer.empty, "it was here before");
        let empty = CensusReply { term: Term(0), empty: true, incarnation: 77 };
        for from in [2, 3] {
            assert!(tell(&mut raft, from, Message::CensusReply(empty)).is_empty());
            assert!(tell(&mut raft, from, vote(9, (8, 8))).is_empty());
        }
        // One that may lead no more learns the term, and that is all.
        let beat = |term| {
            Message::Heartbeat(Heartbeat { term: Term(term), commit: LogIndex(0), round: 0 })
        };
        let effects = tell(&mut raft, 2, beat(2));
        assert!(effects.hard_state.is_none() && raft.is_damaged(), "{effects:?}");

        let effects = tell(&mut raft, 3, beat(4));
        let (index, term) = (LogIndex(base.1), Term(base.0));
        assert_eq!(effects.base, Some(Base { index, term, reset: true }));
        let standing = Standing::Returning(77);
        let stored = HardState { term: Term(4), vote: None, commit: index, standing };
        assert_eq!(effects.hard_state, Some(stored));
        assert_eq!((raft.is_damaged(), raft.standing()), (false, Some(standing)));
    }
}

#[test]
fn a_leader_that_can_t_read_its_log_steps_down_and_keeps_its_term_and_vote() {
    let mut raft = leader(&[1, 1]);
    let mut effects = Effects::default();
    raft.become_damaged(LogIndex(1), 78, &mut effects);
    assert_eq!(
        (raft.role(), raft.leader(), raft.last_index()),
        (Role::Follower, None, LogIndex(1))
    );
    let stored = effects.hard_state.unwrap();
    assert_eq!((stored.term, stored.vote), (Term(2), Some(NodeId(1))));
    assert_eq!((stored.standing, stored.commit), (Standing::DAMAGED, LogIndex(1)));
    assert!(tell(&mut raft, 2, vote(9, (8, 8))).is_empty());
    // What was handed out before says nothing about the log of now.
    let mark = WriteMark { term: Term(2), index: LogIndex(3), rewrites: 0 };
    raft.step(Event::Durable(mark), &mut effects);
    assert_eq!(raft.status().durable, LogIndex(1));
    // A restart would find nothing of what it has applied: it is deaf until that is in a snapshot.
    assert!(raft.awaits_snapshot());
    let effects = tell(&mut raft, 2, append(3, (1, 1), 1, vec![entry(3, 2)]));
    assert!(effects.is_empty() && raft.last_index() == LogIndex(1));
    raft.step(
        Event::Snapshot { index: LogIndex(1), term: Term(1), configuration: configuration() },
        &mut Effects::default(),
    );
    assert!(!raft.awaits_snapshot());
    let effects = tell(&mut raft, 2, append(3, (1, 1), 1, vec![entry(3, 2)]));
    assert_eq!(effects.base.map(|base| (base.index, base.reset)), Some((LogIndex(1), true)));
    assert_eq!(effects.entries, [entry(3, 2)]);
    assert_eq!(raft.standing(), Some(Standing::Returning(78)));
}
