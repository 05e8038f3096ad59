//! A replica of the `raft` crate with its disk.
//!
//! Its [`MemStorage`] is what it may read; what survives a restart is kept apart and follows only
//! when the batch is reported durable. Its clock is led: it never draws an election timeout of its
//! own, and campaigns when it is told.

use bytes::Bytes;
use coracle_engine::raft::{
    Append, AppendOutcome, CommitMark, Entry, HeartbeatReply, Message, PreVote, PreVoteReply, Role,
    Standing,
};
use coracle_engine::{LogIndex, NodeId, Term};
use raft::eraftpb::{self, HardState};
use raft::storage::MemStorage;
use raft::{Config, ProgressState, RawNode, StateRole};
use slog::{Discard, Logger, o};

use crate::known::{Known, note};
use crate::translate::{entry_to_ours, message_to_ours, message_to_theirs};

/// Election timeout in heartbeat intervals.
pub const ELECTION_TICKS: usize = 5;
const NEVER: usize = 1 << 20;

/// All that is compared of a replica's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub role: Role,
    pub term: Term,
    pub vote: Option<NodeId>,
    pub leader: Option<NodeId>,
    pub commit: LogIndex,
    pub durable: LogIndex,
    /// What the leader knows of each peer; empty for others.
    pub matched: Vec<(NodeId, LogIndex)>,
    pub log: Vec<Entry>,
}

/// A batch that is handed out and not yet durable.
pub struct Batch {
    number: u64,
    hard_state: Option<HardState>,
    entries: Vec<eraftpb::Entry>,
    /// Waits for the disk.
    pub after: Vec<(NodeId, Message)>,
}

impl Batch {
    /// Index of the first entry, and the terms of all.
    pub fn rewrites(&self) -> Option<(u64, Vec<u64>)> {
        let first = self.entries.first()?.index;
        Some((first, self.entries.iter().map(|entry| entry.term).collect()))
    }

    /// Whether it has nothing that a vote or an acknowledgement could depend on.
    pub fn promises_nothing(&self, stored: &HardState) -> bool {
        let same = |hs: &HardState| (hs.term, hs.vote) == (stored.term, stored.vote);
        self.entries.is_empty() && self.hard_state.as_ref().is_none_or(same)
    }
}

/// What one event led to.
#[derive(Default)]
pub struct Outcome {
    /// Sent at once.
    pub now: Vec<(NodeId, Message)>,
    /// In the order in which they were handed out.
    pub batches: Vec<Batch>,
}

impl Outcome {
    /// Everything said, whether it has to wait or not.
    pub fn said(&self) -> impl Iterator<Item = &(NodeId, Message)> {
        self.now.iter().chain(self.batches.iter().flat_map(|batch| &batch.after))
    }
}

/// One replica.
pub struct Theirs {
    id: NodeId,
    voters: Vec<NodeId>,
    node: RawNode<MemStorage>,
    hard_state: HardState,
    entries: Vec<eraftpb::Entry>,
    clock: usize,
    /// When each peer was last heard from while leading.
    heard: Vec<(u64, usize)>,
    /// When the leader was last heard.
    leader_heard: usize,
}

impl Theirs {
    pub fn new(id: NodeId, voters: &[NodeId]) -> Self {
        Self {
            id,
            voters: voters.to_vec(),
            node: start(id, voters, &HardState::default(), &[]),
            hard_state: HardState::default(),
            entries: Vec::new(),
            clock: 0,
            heard: Vec::new(),
            leader_heard: 0,
        }
    }

    fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Passes one heartbeat interval. `campaign`: whether the election timeout, which is random, is
    /// over. Fails if it can't be.
    pub fn tick(&mut self, campaign: bool) -> Result<Outcome, String> {
        self.clock += 1;
        if self.node.raft.state == StateRole::Leader {
            if campaign {
                return Err("a leader campaigns".to_owned());
            }
            note(Known::QuorumWindow);
            self.hear_peers(self.clock - 1);
            let since = self.clock.saturating_sub(ELECTION_TICKS);
            let heard = self.heard.iter().filter(|(_, at)| *at >= since).count() + 1;
            if heard * 2 <= self.voters.len() {
                let term = self.term();
                self.node.raft.become_follower(term, raft::INVALID_ID);
            } else {
                self.node.raft.election_elapsed = 0;
                self.node.tick();
            }
            return Ok(self.outcome(None));
        }
        note(Known::ElectionTiming);
        self.node.raft.set_randomized_election_timeout(NEVER - 1);
        self.node.tick();
        let elapsed = self.node.raft.election_elapsed;
        if campaign && !(ELECTION_TICKS..=2 * ELECTION_TICKS).contains(&elapsed) {
            return Err(format!("ours campaigns {elapsed} ticks after the timer was set"));
        }
        if !campaign && elapsed >= 2 * ELECTION_TICKS {
            return Err(format!("ours does not campaign {elapsed} ticks after the timer was set"));
        }
        if campaign {
            self.node.raft.election_elapsed = 0;
            self.node.campaign().map_err(|error| error.to_string())?;
        }
        Ok(self.outcome(None))
    }

    /// Takes over the marks "heard since the last look" as heard at `at`.
    fn hear_peers(&mut self, at: usize) {
        for (id, last) in &mut self.heard {
            if let Some(progress) = self.node.raft.mut_prs().get_mut(*id)
                && std::mem::take(&mut progress.recent_active)
            {
                *last = at;
            }
        }
    }

    pub fn receive(&mut self, from: NodeId, message: &Message) -> Result<Outcome, String> {
        if let Some(outcome) = self.not_given(from, message) {
            return Ok(outcome);
        }
        let before = (self.node.raft.election_elapsed, self.node.raft.state);
        let outdated = message.term().0 < self.term();
        let asks = matches!(message, Message::Vote(_) | Message::PreVote(_));
        let mut m = message_to_theirs(from, self.id, message);
        let mut cut = None;
        if let Message::Append(append) = message
            && !outdated
        {
            cut = self.cut_append(append, &mut m);
        }
        // Only a lease as old as the last word of the leader.
        let lease = self.clock - self.leader_heard;
        let extended = asks && self.node.raft.leader_id != 0 && lease > before.0 && !self.leads();
        if extended {
            self.node.raft.election_elapsed = lease;
            let matters = message.term().0 > self.term();
            if matters && before.0 < ELECTION_TICKS && lease >= ELECTION_TICKS {
                note(Known::RepeatedGrant);
            }
        }
        self.node.step(m).map_err(|error| format!("theirs: {error}"))?;
        let raft = &mut self.node.raft;
        if extended && raft.election_elapsed == lease {
            raft.election_elapsed = before.0;
        }
        if matches!(message, Message::Append(_) | Message::Heartbeat(_)) && !outdated {
            self.leader_heard = self.clock;
        }
        if before.1 != StateRole::Leader && self.leads() {
            let peers = self.voters.iter().filter(|id| **id != self.id);
            self.heard = peers.map(|id| (id.0, self.clock)).collect();
        }
        let mut outcome = self.outcome(Some((from, outdated)));
        if outdated && matches!(message, Message::Vote(_)) {
            note(Known::OutdatedVoteAnswered);
            outcome.now.push((from, Message::HeartbeatReply(self.term_notice())));
        }
        if let Some(proven) = cut {
            self.check_below_commit(&mut outcome, proven)?;
        }
        Ok(outcome)
    }

    /// Pre-votes that are taken otherwise by the `raft` crate, which does not get them. What ours
    /// answers instead.
    fn not_given(&self, from: NodeId, message: &Message) -> Option<Outcome> {
        let raft = &self.node.raft;
        match message {
            Message::PreVote(m) if m.term.0 == raft.term => {
                note(Known::PreVoteOfPresentTerm);
                let refused =
                    PreVoteReply { term: m.term, granted: false, committed: CommitMark::default() };
                let now = vec![(from, Message::PreVoteReply(refused))];
                Some(Outcome { now, batches: Vec::new() })
            }
            Message::PreVote(m) if m.term.0 > raft.term && self.asks_before(from, m) => {
                note(Known::PreVoteAtOnce);
                let (term, committed) = (Term(raft.term), CommitMark::default());
                let refused = PreVoteReply { term, granted: false, committed };
                let now = vec![(from, Message::PreVoteReply(refused))];
                Some(Outcome { now, batches: Vec::new() })
            }
            Message::PreVoteReply(m)
                if m.granted
                    && m.term.0 >= raft.term
                    && m.term.0 != raft.term + 1
                    && raft.state == StateRole::PreCandidate =>
            {
                note(Known::LatePreVoteGrant);
                Some(Outcome::default())
            }
            _ => None,
        }
    }

    /// Whether it has asked for pre-votes at this tick, with the same log, and has the larger id.
    fn asks_before(&self, other: NodeId, m: &PreVote) -> bool {
        let raft = &self.node.raft;
        let last = (raft.raft_log.last_term(), raft.raft_log.last_index());
        raft.state == StateRole::PreCandidate
            && raft.election_elapsed == 0
            && (m.last_term.0, m.last_index.0) == last
            && self.id > other
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn term_notice(&self) -> HeartbeatReply {
        HeartbeatReply {
            term: Term(self.term()),
            round: 0,
            standing: Standing::Member,
            quiet_ms: 0,
            priority: 0,
        }
    }

    /// An append that begins below the commit index is not looked at by the `raft` crate. What it has
    /// above the commit index is given to it as an append from there. If there is nothing above,
    /// returns what it proves.
    fn cut_append(&self, append: &Append, m: &mut eraftpb::Message) -> Option<LogIndex> {
        let committed = self.node.raft.raft_log.committed;
        if append.prev_index.0 >= committed {
            return None;
        }
        note(Known::AppendBelowCommit);
        let skip = (committed - append.prev_index.0) as usize;
        let Some(last_skipped) = append.entries.get(skip - 1) else {
            return Some(LogIndex(append.prev_index.0 + append.entries.len() as u64));
        };
        (m.index, m.log_term) = (committed, last_skipped.term.0);
        let rest: Vec<_> = m.entries.iter().skip(skip).cloned().collect();
        m.set_entries(rest.into());
        None
    }

    /// The answer to an append below the commit index: theirs names the commit index, ours what the
    /// message proves.
    fn check_below_commit(&self, outcome: &mut Outcome, proven: LogIndex) -> Result<(), String> {
        let committed = LogIndex(self.node.raft.raft_log.committed);
        let said = outcome.now.iter_mut();
        let waiting = outcome.batches.iter_mut().flat_map(|batch| &mut batch.after);
        for (_, message) in said.chain(waiting) {
            if let Message::AppendReply(reply) = message {
                let expected = AppendOutcome::Accepted { matched: committed };
                if reply.outcome != expected {
                    return Err(format!("theirs answers below its commit index with {reply:?}"));
                }
                reply.outcome = AppendOutcome::Accepted { matched: proven };
            }
        }
        Ok(())
    }

    pub fn propose(&mut self, payloads: &[Bytes]) -> Result<Outcome, String> {
        if !self.leads() {
            note(Known::ProposalForwarded);
            return Ok(Outcome::default());
        }
        let mut m = eraftpb::Message::default();
        m.set_msg_type(eraftpb::MessageType::MsgPropose);
        m.from = self.id.0;
        let entry = |data: &Bytes| eraftpb::Entry { data: data.clone(), ..Default::default() };
        m.set_entries(payloads.iter().map(entry).collect::<Vec<_>>().into());
        self.node.raft.step(m).map_err(|error| format!("theirs: {error}"))?;
        Ok(self.outcome(None))
    }

    /// Collects what is to be done. `answers`: to whom, and whether that one's message was of an
    /// earlier term: then all answers, whatever their kind, only say which term it is.
    fn outcome(&mut self, answers: Option<(NodeId, bool)>) -> Outcome {
        let mut outcome = Outcome::default();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let notice = Message::HeartbeatReply(self.term_notice());
            let translate = |messages: Vec<eraftpb::Message>| {
                let one = |m: &eraftpb::Message| match answers {
                    Some((from, true)) if from.0 == m.to => (from, notice.clone()),
                    _ => (NodeId(m.to), message_to_ours(m)),
                };
                messages.iter().map(one).collect::<Vec<_>>()
            };
            outcome.now.extend(translate(ready.take_messages()));
            let after = translate(ready.take_persisted_messages());
            let batch = Batch {
                number: ready.number(),
                hard_state: ready.hs().cloned(),
                entries: ready.take_entries(),
                after,
            };
            let mut store = self.node.mut_store().wl();
            store.append(&batch.entries).expect("entries follow each other");
            if let Some(hard_state) = &batch.hard_state {
                store.set_hardstate(hard_state.clone());
            }
            drop(store);
            outcome.batches.push(batch);
            self.node.advance_append_async(ready);
        }
        self.node.advance_apply();
        outcome
    }

    /// Writes batches and reports the newest; gives what waited for them.
    pub fn persist(&mut self, batches: Vec<Batch>) -> Vec<(NodeId, Message)> {
        let mut sends = Vec::new();
        let mut newest = None;
        for batch in batches {
            if let Some(hard_state) = batch.hard_state {
                self.hard_state = hard_state;
            }
            if let Some(first) = batch.entries.first() {
                self.entries.truncate(first.index as usize - 1);
                self.entries.extend(batch.entries);
            }
            newest = Some(batch.number);
            sends.extend(batch.after);
        }
        if let Some(number) = newest {
            self.node.on_persist_ready(number);
        }
        sends
    }

    /// What the report of durable batches leads to; to be called after [`Theirs::persist`].
    pub fn after_persist(&mut self) -> Outcome {
        self.outcome(None)
    }

    /// Starts again from what is durable, with the commit index that ours stored.
    pub fn restart(&mut self, commit: LogIndex) -> Result<(), String> {
        if commit.0 > self.hard_state.commit {
            return Err(format!(
                "ours stored commit index {commit}, theirs {}",
                self.hard_state.commit
            ));
        }
        if commit.0 < self.hard_state.commit {
            note(Known::StoredCommit);
        }
        self.hard_state.commit = commit.0;
        self.node = start(self.id, &self.voters, &self.hard_state, &self.entries);
        Ok(())
    }

    /// What is sent next to `node` by a leader that probes for the place where the logs agree.
    pub fn probes(&self, node: NodeId) -> Option<u64> {
        let progress = self.node.raft.prs().get(node.0).filter(|_| self.leads())?;
        (progress.state == ProgressState::Probe).then_some(progress.next_idx)
    }

    pub fn stored_hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Terms of the durable entries, and the durable term and vote.
    pub fn disk(&self) -> (Vec<u64>, u64, Option<NodeId>) {
        let terms = self.entries.iter().map(|entry| entry.term).collect();
        (terms, self.hard_state.term, some(self.hard_state.vote))
    }

    pub fn view(&self) -> View {
        let raft = &self.node.raft;
        let log = &raft.raft_log;
        let peers = self.voters.iter().filter(|id| self.leads() && **id != self.id);
        let matched = |id: &NodeId| LogIndex(raft.prs().get(id.0).expect("a voter").matched);
        let entries = raft.raft_log.all_entries();
        View {
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            term: Term(raft.term),
            vote: some(raft.vote),
            leader: some(raft.leader_id),
            commit: LogIndex(log.committed),
            durable: LogIndex(log.persisted),
            matched: peers.map(|id| (*id, matched(id))).collect(),
            log: entries.iter().map(entry_to_ours).collect(),
        }
    }
}

fn some(id: u64) -> Option<NodeId> {
    (id != raft::INVALID_ID).then_some(NodeId(id))
}

fn start(
    id: NodeId,
    voters: &[NodeId],
    hard_state: &HardState,
    entries: &[eraftpb::Entry],
) -> RawNode<MemStorage> {
    let ids: Vec<u64> = voters.iter().map(|id| id.0).collect();
    let store = MemStorage::new_with_conf_state((ids, vec![]));
    store.wl().append(entries).expect("entries follow each other");
    store.wl().set_hardstate(hard_state.clone());
    let config = Config {
        id: id.0,
        election_tick: ELECTION_TICKS,
        min_election_tick: ELECTION_TICKS,
        max_election_tick: NEVER,
        heartbeat_tick: 1,
        check_quorum: true,
        pre_vote: true,
        max_size_per_msg: u64::MAX,
        skip_bcast_commit: true,
        ..Config::default()
    };
    RawNode::new(&config, store, &Logger::root(Discard, o!())).expect("a replica starts")
}
