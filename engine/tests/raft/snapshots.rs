//! Single replicas and their snapshots, told by hand.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, Base, CommitMark, Config, Effects, Entry, EntryKind, Event,
    Fault, HardState, Heartbeat, Message, PreVoteReply, Raft, RaftLog, Role, SnapshotOffer,
    Standing, StartError, VoteReply,
};
use coracle_engine::{LogIndex, NodeId, Term};

fn entry(term: u64, index: u64) -> Entry {
    let payload = Bytes::from_static(b"x");
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Normal, payload }
}

fn entries(list: &[(u64, u64)]) -> Vec<Entry> {
    list.iter().map(|(term, index)| entry(*term, *index)).collect()
}

fn config() -> Config {
    Config::new(NodeId(1), vec![NodeId(1), NodeId(2), NodeId(3)], 7)
}

/// Who belongs to the shard in these tests.
fn configuration() -> Configuration {
    Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)]).unwrap()
}

/// Node 1 of three, in `term`, with these entries.
fn start(term: u64, list: &[(u64, u64)]) -> Raft {
    let log = RaftLog::in_memory(LogIndex(0), Term(0), entries(list)).unwrap();
    let state = HardState { term: Term(term), ..HardState::default() };
    Raft::new(config(), state, log, Duration::ZERO).unwrap()
}

fn step(raft: &mut Raft, event: Event) -> Effects {
    let mut effects = Effects::default();
    raft.step(event, &mut effects);
    effects
}

fn tell(raft: &mut Raft, from: u64, message: Message) -> Effects {
    step(raft, Event::Message { from: NodeId(from), message })
}

fn append(term: u64, prev: (u64, u64), commit: u64, list: &[(u64, u64)]) -> Message {
    Message::Append(Append {
        term: Term(term),
        prev_term: Term(prev.0),
        prev_index: LogIndex(prev.1),
        commit: LogIndex(commit),
        entries: entries(list),
    })
}

fn offer(term: u64, snapshot: (u64, u64)) -> Message {
    let (snapshot_term, index) = (Term(snapshot.0), LogIndex(snapshot.1));
    Message::SnapshotOffer(SnapshotOffer { term: Term(term), index, snapshot_term })
}

fn installed(term: u64, index: u64) -> Event {
    Event::Installed { index: LogIndex(index), term: Term(term), configuration: configuration() }
}

fn accepted(term: u64, matched: u64) -> Message {
    let outcome = AppendOutcome::Accepted { matched: LogIndex(matched) };
    let standing = Standing::Member;
    Message::AppendReply(AppendReply { term: Term(term), outcome, standing })
}

/// Elects a replica with the vote of node 2, and makes all it has durable.
fn elect(raft: &mut Raft) -> Effects {
    step(raft, Event::Tick { now: Duration::from_secs(10) });
    let term = Term(raft.term().0 + 1);
    tell(
        raft,
        2,
        Message::PreVoteReply(PreVoteReply {
            term,
            granted: true,
            committed: CommitMark::default(),
        }),
    );
    let vote =
        || Message::VoteReply(VoteReply { term, granted: true, committed: CommitMark::default() });
    tell(raft, 2, vote());
    let effects = tell(raft, 1, vote());
    assert_eq!(raft.role(), Role::Leader);
    step(raft, Event::Durable(effects.write_mark.unwrap()));
    effects
}

#[test]
fn an_offer_is_contact_with_the_leader() {
    let mut raft = start(1, &[(1, 1)]);
    let effects = tell(&mut raft, 2, offer(3, (2, 9)));
    assert_eq!(effects.offered, None, "not before the disk knows of the term");
    assert_eq!((raft.term(), raft.leader()), (Term(3), Some(NodeId(2))));
    step(&mut raft, Event::Durable(effects.write_mark.unwrap()));
    let effects = tell(&mut raft, 2, offer(3, (2, 9)));
    assert_eq!(effects.offered, Some((NodeId(2), LogIndex(9), Term(2))));
    for ms in (50..5000).step_by(50) {
        let now = Duration::from_millis(ms);
        assert!(step(&mut raft, Event::Tick { now }).is_empty());
        tell(&mut raft, 2, offer(3, (2, 9)));
    }
    let effects = tell(&mut raft, 3, offer(3, (2, 9)));
    assert!(matches!(effects.fault, Some(Fault::TwoLeaders { .. })), "{effects:?}");
    assert_eq!(effects.offered, None);
}

#[test]
fn offers_that_no_leader_makes_are_reported() {
    for snapshot in [(0, 5), (1, 0), (4, 5)] {
        let effects = tell(&mut start(1, &[(1, 1)]), 2, offer(3, snapshot));
        assert!(matches!(effects.fault, Some(Fault::BrokenOffer { .. })), "{effects:?}");
        assert_eq!(effects.offered, None);
    }
}

/// The log has the snapshot's position: it is the same history, and committed.
#[test]
fn an_offer_of_what_is_there_commits_it() {
    let mut raft = start(2, &[(1, 1), (2, 2), (2, 3)]);
    let effects = tell(&mut raft, 2, offer(2, (2, 2)));
    assert_eq!((effects.committed, effects.offered), (Some(LogIndex(2)), None));
    assert_eq!(effects.messages, [(NodeId(2), accepted(2, 2))]);
    // Of less than that: it is told what is committed.
    let effects = tell(&mut raft, 2, offer(2, (1, 1)));
    assert_eq!(effects.messages, [(NodeId(2), accepted(2, 2))]);
    assert!(effects.committed.is_none() && effects.offered.is_none());
}

/// Entries of an earlier step that a snapshot replaces need not be stored; stored after the base, they would
/// come back.
#[test]
fn a_snapshot_replaces_entries_that_are_gathered_and_not_stored() {
    let mut raft = start(1, &[(1, 1)]);
    let mut effects = Effects::default();
    let message = append(1, (1, 1), 0, &[(1, 2), (1, 3)]);
    raft.step(Event::Message { from: NodeId(2), message }, &mut effects);
    raft.step(Event::Message { from: NodeId(3), message: offer(2, (2, 3)) }, &mut effects);
    raft.step(installed(2, 3), &mut effects);
    let message = append(2, (2, 3), 3, &[(2, 4)]);
    raft.step(Event::Message { from: NodeId(3), message }, &mut effects);
    let base = Base { index: LogIndex(3), term: Term(2), reset: true };
    assert_eq!((effects.base, &effects.entries), (Some(base), &entries(&[(2, 4)])));
    assert_eq!(effects.committed, Some(LogIndex(3)));
    assert_eq!(effects.hard_state.unwrap().term, Term(2));
    assert!(raft.log().is_being_replaced());
    raft.step(Event::Durable(effects.write_mark.unwrap()), &mut Effects::default());
    assert!(!raft.log().is_being_replaced());
    assert_eq!(raft.log().durable(), LogIndex(4));
}

#[test]
fn nothing_is_acknowledged_before_the_new_base_is_durable() {
    let mut raft = start(1, &[(1, 1)]);
    let beat = Heartbeat { term: Term(2), commit: LogIndex(0), round: 0 };
    let term_mark = tell(&mut raft, 2, Message::Heartbeat(beat)).write_mark.unwrap();
    step(&mut raft, Event::Durable(term_mark));
    let mark = step(&mut raft, installed(2, 5)).write_mark.unwrap();
    for message in [append(2, (2, 5), 5, &[]), offer(2, (2, 5)), append(2, (1, 4), 5, &[(2, 5)])] {
        let effects = tell(&mut raft, 2, message);
        assert!(effects.messages.is_empty(), "{effects:?}");
        assert_eq!(effects.after_durable, [(NodeId(2), accepted(2, 5))]);
    }
    step(&mut raft, Event::Durable(term_mark));
    assert!(raft.log().is_being_replaced(), "that was written before");
    step(&mut raft, Event::Durable(mark));
    let effects = tell(&mut raft, 2, append(2, (2, 5), 5, &[]));
    assert_eq!(effects.messages, [(NodeId(2), accepted(2, 5))]);
}

#[test]
fn a_snapshot_that_is_no_news_changes_nothing() {
    let mut raft = start(2, &[(1, 1), (2, 2), (2, 3)]);
    tell(&mut raft, 2, append(2, (2, 3), 3, &[]));
    assert!(!raft.needs_snapshot(LogIndex(3)) && raft.needs_snapshot(LogIndex(4)));
    assert!(step(&mut raft, installed(2, 3)).is_empty());
    // The log got there meanwhile: it goes on as it is.
    tell(&mut raft, 2, append(2, (2, 3), 3, &[(2, 4), (2, 5)]));
    let effects = step(&mut raft, installed(2, 4));
    assert_eq!((effects.base, effects.committed), (None, Some(LogIndex(4))));
    assert_eq!(raft.last_index(), LogIndex(5));
    assert_eq!(effects.after_durable, [(NodeId(2), accepted(2, 4))]);
}

#[test]
fn a_candidate_whose_log_is_replaced_is_none_any_more() {
    let mut raft = start(1, &[(1, 1)]);
    tell(&mut raft, 2, offer(2, (2, 5)));
    step(&mut raft, Event::Tick { now: Duration::from_secs(10) });
    assert_eq!(raft.role(), Role::PreCandidate);
    let effects = step(&mut raft, installed(2, 5));
    assert_eq!((raft.role(), raft.leader()), (Role::Follower, None));
    assert!(effects.after_durable.is_empty(), "there is nobody to tell");
}

/// A snapshot was durable before the entries that it has.
#[test]
fn a_snapshot_beyond_the_stored_log_replaces_it_at_start() {
    let mut raft = start(3, &[(1, 1), (1, 2)]);
    let effects = step(
        &mut raft,
        Event::Snapshot { index: LogIndex(7), term: Term(3), configuration: configuration() },
    );
    assert_eq!(effects.base, Some(Base { index: LogIndex(7), term: Term(3), reset: true }));
    let state = effects.hard_state.unwrap();
    assert_eq!((state.term, state.vote, state.commit), (Term(3), None, LogIndex(7)));
    assert_eq!((raft.commit(), raft.last_index()), (LogIndex(7), LogIndex(7)));

    let mut raft = start(3, &[(1, 1), (1, 2), (3, 3)]);
    let effects = step(
        &mut raft,
        Event::Snapshot { index: LogIndex(2), term: Term(1), configuration: configuration() },
    );
    assert_eq!((effects.base, effects.committed), (None, Some(LogIndex(2))));
    assert_eq!(raft.compact_to(LogIndex(1)).unwrap().index, LogIndex(1));
    assert_eq!((raft.snapshot(), raft.last_index()), (Some((LogIndex(2), Term(1))), LogIndex(3)));
}

#[test]
fn a_log_begins_behind_its_base_after_a_restart() {
    let runs = vec![(LogIndex(6), Term(2)), (LogIndex(8), Term(3))];
    let restore = |entries| {
        RaftLog::restore(LogIndex(5), Term(2), runs.clone(), LogIndex(9), entries).unwrap()
    };
    let state = HardState { term: Term(3), commit: LogIndex(3), ..HardState::default() };
    let raft = Raft::new(config(), state, restore(Vec::new()), Duration::ZERO).unwrap();
    assert_eq!((raft.commit(), raft.last_index()), (LogIndex(5), LogIndex(9)));
    let state = HardState { commit: LogIndex(10), ..state };
    let found = Raft::new(config(), state, restore(Vec::new()), Duration::ZERO);
    assert!(matches!(found, Err(StartError::CommitBeyondLog { .. })));
    let mut blank = config();
    blank.blank = Some(1);
    let found = Raft::new(blank, HardState::default(), restore(Vec::new()), Duration::ZERO);
    assert!(matches!(found, Err(StartError::Config(_))));
}

/// What a leader's uncommitted entries cost is what refuses proposals: they stay.
#[test]
fn a_leader_evicts_only_what_is_committed() {
    let mut raft = start(1, &[(1, 1), (1, 2)]);
    elect(&mut raft);
    assert_eq!(raft.log().durable(), LogIndex(3));
    let before = raft.status().uncommitted_bytes;
    raft.evict_to(LogIndex(3));
    assert_eq!((raft.log().first_in_memory(), before), (LogIndex(1), raft.log().memory_bytes()));
    tell(&mut raft, 2, accepted(2, 3));
    assert_eq!((raft.commit(), raft.status().uncommitted_bytes), (LogIndex(3), 0));
    raft.evict_to(LogIndex(3));
    assert_eq!((raft.log().first_in_memory(), raft.log().memory_bytes()), (LogIndex(4), 0));
}

#[test]
fn a_new_leader_with_cold_uncommitted_entries_commits_them() {
    let mut raft = start(1, &[(1, 1), (1, 2), (1, 3)]);
    raft.evict_to(LogIndex(2));
    elect(&mut raft);
    let known = [entry(1, 3).cost(), entry(2, 4).cost() - 1];
    assert_eq!(raft.status().uncommitted_bytes, known.iter().sum::<usize>());
    let effects = tell(&mut raft, 2, accepted(2, 4));
    assert_eq!(effects.committed, Some(LogIndex(4)));
    assert_eq!(raft.status().uncommitted_bytes, 0);
}

/// Entries of another term than the log's, or that do not follow each other, or of a fetch that nobody waits
/// for, are not sent.
#[test]
fn fetched_entries_are_sent_only_if_they_are_the_log_s() {
    let mut raft = start(2, &[(1, 1), (1, 2), (2, 3), (2, 4)]);
    elect(&mut raft);
    tell(&mut raft, 2, accepted(3, 5));
    raft.evict_to(LogIndex(5));
    let fetched = |list: &[(u64, u64)]| {
        let first = LogIndex(list.first().map_or(1, |(_, index)| *index));
        Event::Fetched { to: NodeId(3), first, entries: entries(list) }
    };
    let hint = AppendOutcome::Rejected {
        prev_index: LogIndex(4),
        hint_index: LogIndex(0),
        hint_term: Term(0),
    };
    let reply = AppendReply { term: Term(3), outcome: hint, standing: Standing::Member };
    tell(&mut raft, 3, Message::AppendReply(reply));
    let effects = tell(&mut raft, 3, accepted(3, 0));
    assert_eq!((effects.fetches.len(), effects.fetches[0].first), (1, LogIndex(1)));
    assert!(step(&mut raft, fetched(&[(1, 2)])).is_empty(), "nobody has asked for 2");
    let effects = step(&mut raft, fetched(&[(1, 1), (2, 2), (2, 3)]));
    let [(NodeId(3), Message::Append(append))] = effects.messages.as_slice() else {
        panic!("one append, to node 3: {effects:?}");
    };
    assert_eq!(append.entries, entries(&[(1, 1)]), "the others are not the log's");
    assert_eq!(effects.fetches[0].first, LogIndex(2));
    let effects = step(&mut raft, fetched(&[(1, 2), (2, 4)]));
    assert_eq!(effects.fetches[0].first, LogIndex(3), "3 is missing");
    assert!(step(&mut raft, fetched(&[])).is_empty(), "nobody has asked for 1");
    // It is compacted before it comes.
    step(
        &mut raft,
        Event::Snapshot { index: LogIndex(5), term: Term(3), configuration: configuration() },
    );
    raft.compact_to(LogIndex(5)).unwrap();
    let effects = step(&mut raft, fetched(&[(2, 3), (2, 4)]));
    let [(NodeId(3), Message::SnapshotOffer(offer))] = effects.messages.as_slice() else {
        panic!("an offer to node 3: {effects:?}");
    };
    assert_eq!(offer.index, LogIndex(5));
    assert_eq!(raft.offered().collect::<Vec<_>>(), [(NodeId(3), LogIndex(5))]);
    raft.withdraw_offer(NodeId(3));
    assert_eq!(raft.offered().count(), 0);
}

/// A follower that lacks everything gets the snapshot that is taken for it, not the old one; what is out stays.
#[test]
fn offers_that_are_held_back_are_of_the_next_snapshot() {
    let mut raft = start(2, &[(1, 1), (1, 2), (2, 3), (2, 4)]);
    elect(&mut raft);
    tell(&mut raft, 2, accepted(3, 5));
    let taken = |index, term| Event::Snapshot {
        index: LogIndex(index),
        term: Term(term),
        configuration: configuration(),
    };
    step(&mut raft, taken(4, 2));
    raft.compact_to(LogIndex(4)).unwrap();
    raft.hold_offers(true);
    assert!(!raft.is_offer_awaited(), "nobody needs one");
    let outcome = AppendOutcome::Rejected {
        prev_index: LogIndex(4),
        hint_index: LogIndex(0),
        hint_term: Term(0),
    };
    let reply = AppendReply { term: Term(3), outcome, standing: Standing::Member };
    assert!(tell(&mut raft, 3, Message::AppendReply(reply)).is_empty(), "it has to wait");
    assert!(raft.is_offer_awaited());
    assert_eq!(raft.offered().count(), 0);
    let effects = step(&mut raft, taken(5, 3));
    assert_eq!(effects.messages, [(NodeId(3), offer(3, (3, 5)))]);
    raft.hold_offers(true);
    assert!(!raft.is_offer_awaited());
    assert_eq!(raft.offered().collect::<Vec<_>>(), [(NodeId(3), LogIndex(5))]);
}

/// If nothing comes of the snapshot that was to be taken, the old one is offered with the next heartbeat.
#[test]
fn offers_that_are_no_longer_held_back_are_of_the_newest_snapshot() {
    let mut raft = start(2, &[(1, 1), (1, 2), (2, 3), (2, 4)]);
    elect(&mut raft);
    tell(&mut raft, 2, accepted(3, 5));
    let (index, term) = (LogIndex(4), Term(2));
    step(&mut raft, Event::Snapshot { index, term, configuration: configuration() });
    raft.compact_to(LogIndex(4)).unwrap();
    raft.hold_offers(true);
    let outcome = AppendOutcome::Rejected {
        prev_index: LogIndex(4),
        hint_index: LogIndex(0),
        hint_term: Term(0),
    };
    let reply = AppendReply { term: Term(3), outcome, standing: Standing::Member };
    tell(&mut raft, 3, Message::AppendReply(reply));
    let beat = |raft: &mut Raft, ms| {
        let effects = step(raft, Event::Tick { now: Duration::from_millis(ms) });
        effects.messages.contains(&(NodeId(3), offer(3, (2, 4))))
    };
    assert!(!beat(&mut raft, 10_100), "it is held back");
    raft.hold_offers(false);
    assert!(beat(&mut raft, 10_200));
    assert!(!raft.is_offer_awaited());
}

#[test]
#[should_panic(expected = "the snapshot ends at 0")]
fn nothing_is_compacted_that_no_snapshot_has() {
    let mut raft = start(1, &[(1, 1)]);
    tell(&mut raft, 2, append(1, (1, 1), 1, &[]));
    raft.compact_to(LogIndex(1));
}
