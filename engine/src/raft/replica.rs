//! The state of one replica, and where each event goes.

use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, StartError};
use super::effects::{Effects, Event, Fault, Role, SoftState, WriteMark};
use super::lease::Lease;
use super::log::RaftLog;
use super::membership::Configuration;
use super::message::{Entry, HardState, HeartbeatReply, Message, Standing};
use super::progress::Progress;
use super::quiescence::Quiescence;
use super::reads::{Question, Reads};
use super::reconfigure::{Leaving, Membership};
use super::returning::Asking;
use super::transfer::Transfer;
use crate::on_demand::OnDemand;
use crate::{LogIndex, NodeId, Term};

/// One replica of one shard. See the [module](super) for the protocol and the caller's duties.
#[derive(Clone, Debug)]
pub struct Raft {
    /// One for all replicas of a core, see [`Raft::share_with`]: without what differs between them.
    pub(super) config: Arc<Config>,
    pub(super) log: RaftLog,
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) role: Role,
    pub(super) leader: Option<NodeId>,
    /// Time of the last tick.
    pub(super) now: Duration,
    /// The newest term that is known to be stored durably.
    pub(super) durable_term: Term,
    /// State of the generator that draws election timeouts.
    pub(super) random: u64,
    /// The timeout drawn for this stay in the present role.
    pub(super) election_timeout: Duration,
    /// When to campaign unless something is heard before. Unused by a leader.
    pub(super) election_due: Duration,
    /// When the leader was last heard.
    pub(super) leader_contact: Duration,
    /// When a leader sends its next heartbeats.
    pub(super) heartbeat_due: Duration,
    /// This replica's vote in the election or pre-election under way.
    pub(super) own_vote: Option<bool>,
    /// The other members, in the order of their ids, and on a leader those that it has removed and that may
    /// not know yet. Who of them counts, the configuration says.
    pub(super) peers: Vec<Peer>,
    /// The version of the configurations that `peers` are in line with.
    pub(super) configured: u64,
    pub(super) reads: Reads,
    /// What this replica has asked its leader.
    pub(super) question: Option<Question>,
    /// Name of its next question; drawn at the start.
    pub(super) question_id: u64,
    /// [`Entry::cost`] of all entries beyond the commit index. Kept by a leader only.
    pub(super) uncommitted: usize,
    /// Index of the leader's first entry of its term.
    pub(super) term_start: LogIndex,
    /// The newest durable snapshot of this replica: index and term.
    pub(super) snapshot: Option<(LogIndex, Term)>,
    /// Offers wait for a newer snapshot than that; see [`Raft::hold_offers`].
    pub(super) offers_held: bool,
    /// Whether this replica votes and counts; see [`may_vote`](Raft::may_vote) for one that does not
    /// know yet.
    pub(super) standing: Standing,
    /// While a replica that found nothing on its disk does not know whether the cluster is new.
    pub(super) asking: Option<Box<Asking>>,
    /// The entry in the log that readmits this replica.
    pub(super) readmission: Option<LogIndex>,
    pub(super) lease: Lease,
    pub(super) quiescence: Quiescence,
    /// What it tells others; see `priority.rs`.
    pub(super) priority: i8,
    /// What its owner wants that to be, when it does not decline.
    pub(super) wanted_priority: i8,
    /// When a leader looks again for a replica of higher priority.
    pub(super) preferred_due: Duration,
    /// While leadership is handed over.
    pub(super) transfer: Option<Box<Transfer>>,
}

/// Another member, as this replica sees it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    /// Its answer in the election or pre-election under way.
    pub(super) vote: Option<bool>,
    /// What a leader knows about it; means nothing unless leading.
    pub(super) progress: OnDemand<Progress>,
    /// It was removed.
    pub(super) leaving: Option<Box<Leaving>>,
}

impl Peer {
    pub(super) fn new(id: NodeId) -> Self {
        Self { id, vote: None, progress: OnDemand::new(), leaving: None }
    }
}

/// A look at a replica, for metrics and inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Role, leader and term.
    pub soft: SoftState,
    /// End of the log.
    pub last_index: LogIndex,
    /// Durable on this replica up to here.
    pub durable: LogIndex,
    /// Committed up to here.
    pub commit: LogIndex,
    /// Bytes beyond the commit index; 0 unless leading.
    pub uncommitted_bytes: usize,
}

/// What a leader knows of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The follower.
    pub id: NodeId,
    /// Whether it counts.
    pub membership: Membership,
    /// It has acknowledged everything up to here.
    pub matched: LogIndex,
    /// What it is sent next.
    pub next: LogIndex,
    /// Whether entries are sent ahead of their acknowledgements.
    pub replicating: bool,
    /// Whether it needs a snapshot before it can be sent entries; see [`Raft::offered`].
    pub snapshot: bool,
    /// Its incarnation, if it has lost its data and does not count.
    pub returning: Option<u64>,
    /// Append messages that are not acknowledged.
    pub inflight_messages: usize,
    /// Cost of the entries in them.
    pub inflight_bytes: usize,
    /// When something was last heard of it, on the clock of the ticks.
    pub contact: Duration,
    /// The newest round of reads that it has confirmed; 0 if none of this term.
    pub round: u64,
}

impl Raft {
    /// A replica with the state that was recovered from disk, all of it durable. `now` is the time on
    /// the clock that ticks will carry.
    ///
    /// # Errors
    /// [`StartError`] when the configuration is bad, or hard state and log contradict each other.
    pub fn new(
        config: Config,
        hard_state: HardState,
        log: RaftLog,
        now: Duration,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let HardState { term, vote, commit, standing } = hard_state;
        if config.blank.is_some() && (hard_state != HardState::default() || !log.is_empty()) {
            let what = "said to be blank, but there is a hard state or a log".to_owned();
            return Err(StartError::Config(what));
        }
        if config.damaged.is_some() && log.last_index() > log.base_index() {
            let what = "said to be damaged, but it has entries".to_owned();
            return Err(StartError::Config(what));
        }
        let initial = match config.voters.as_slice() {
            [] => Ok(Configuration::default()),
            voters => Configuration::of_voters(voters.iter().copied()),
        };
        let initial = initial.map_err(|flaw| StartError::Config(flaw.to_string()))?;
        let mut log = log;
        log.begin_with(initial);
        #[cfg(mutant = "vote-forgotten-on-restart")]
        let vote = vote.and(None);
        // It says so to whoever hears from it; it stores that with the end of its old log.
        let standing = config.damaged.map_or(standing, Standing::Returning);
        if log.last_term() > term {
            return Err(StartError::TermBehindLog { term, last: log.last_term() });
        }
        if commit > log.last_index() {
            return Err(StartError::CommitBeyondLog { commit, last: log.last_index() });
        }
        let members = log.configuration().members();
        let others = members.iter().filter(|id| *id != config.id);
        let mut peers: Vec<Peer> = others.map(Peer::new).collect();
        peers.shrink_to_fit();
        let random = config.random_seed ^ config.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut raft = Self {
            configured: log.configurations().version(),
            log,
            term,
            vote,
            role: Role::Follower,
            leader: None,
            now,
            durable_term: term,
            random,
            election_timeout: Duration::ZERO,
            election_due: now,
            leader_contact: now,
            heartbeat_due: now,
            own_vote: None,
            peers,
            reads: Reads::default(),
            question: None,
            question_id: super::reads::first_question(random),
            uncommitted: 0,
            term_start: LogIndex(0),
            snapshot: None,
            offers_held: false,
            standing,
            asking: Asking::begin(&config, now).map(Box::new),
            readmission: None,
            lease: Lease::new(&config, now),
            quiescence: Quiescence::default(),
            priority: config.priority,
            wanted_priority: config.priority,
            preferred_due: now,
            transfer: None,
            config: Arc::new(Config { blank: None, damaged: None, random_seed: 0, ..config }),
        };
        raft.find_readmission();
        sometimes!(restart_with_vote, raft.vote.is_some());
        sometimes!(restart_with_uncommitted, commit < raft.log.last_index());
        raft.log.commit_to(commit);
        raft.restart_election_timer();
        if raft.is_only_voter() {
            raft.election_due = now; // nobody to wait for
        }
        Ok(raft)
    }

    /// Keeps what is the same as in `other`, settings and configuration, only once in memory. For the replicas
    /// of one core: there are many.
    pub fn share_with(&mut self, other: &Self) {
        if self.config == other.config {
            self.config = other.config.clone();
        }
        self.log.share_with(&other.log);
    }

    /// It will have nothing to do for a while: gives back the memory that it can do without.
    pub fn rest(&mut self) {
        self.log.rest();
        self.reads.rest();
        self.lease.rest();
        self.peers.shrink_to_fit();
        for peer in &mut self.peers {
            match self.role {
                Role::Leader => peer.progress.rest(),
                _ => peer.progress.free(),
            }
        }
    }

    /// Takes in one event and adds to `effects` what is to be done.
    pub fn step(&mut self, event: Event, effects: &mut Effects) {
        let before = (self.term, self.vote, self.soft_state());
        self.wake_for(&event, effects);
        match event {
            Event::Tick { now } => self.on_tick(now, effects),
            Event::Propose { payloads } => self.on_propose(payloads, effects),
            Event::Reconfigure { change, only_if_ready } => {
                self.on_reconfigure(&change, only_if_ready, effects);
            }
            Event::Message { from, message } => self.on_message(from, message, effects),
            Event::Durable(mark) => self.on_durable(mark, effects),
            Event::ReadIndex { id } => self.on_read_index(id, effects),
            Event::LeaseRead { id, now } => self.on_lease_read(id, now, effects),
            Event::AskReadIndex { id, now } => self.on_ask_read_index(id, now, effects),
            Event::TransferLeadership { id, to } => self.on_transfer_leadership(id, to, effects),
            Event::PeerReachable { node } => self.on_reachable(node, effects),
            Event::PeerUnreachable { node } => self.on_unreachable(node),
            Event::PeerSuspected { node, heard } => self.on_suspected(node, heard),
            Event::PeerDoubted { node } => self.on_doubted(node, effects),
            Event::Snapshot { index, term, configuration } => {
                self.on_snapshot(index, term, configuration, effects);
            }
            Event::Installed { index, term, configuration } => {
                self.on_installed(index, term, configuration, effects);
            }
            Event::Fetched { to, first, entries } => self.on_fetched(to, first, &entries, effects),
            Event::SnapshotPreferred { to, first } => {
                self.on_snapshot_preferred(to, first, effects);
            }
            Event::FetchFailed { to, first } => self.on_fetched(to, first, &[], effects),
        }
        self.rejoin_if_readmitted(effects);
        self.settle_configuration(effects);
        self.follow_configuration(effects);
        self.drive_transfer(effects);
        self.drop_lost_question(effects);
        if (self.term, self.vote) != (before.0, before.1) {
            self.store_hard_state(effects);
        }
        if effects.base.is_some() || effects.hard_state.is_some() || !effects.entries.is_empty() {
            effects.write_mark = Some(WriteMark {
                term: self.term,
                index: self.log.last_index(),
                rewrites: self.log.rewrites(),
            });
        }
        if self.soft_state() != before.2 {
            effects.soft_state = Some(self.soft_state());
        }
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// What this replica is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who leads, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Index of the first entry of the term that it leads; `None` unless it leads.
    #[must_use]
    pub fn term_start(&self) -> Option<LogIndex> {
        (self.role == Role::Leader).then_some(self.term_start)
    }

    /// Everything up to here is committed.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.log.committed()
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// The entry at `index`, if it is in memory.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// Entries from `first` to `last`, both included, as far as they are in memory.
    pub fn entries(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Entry> {
        self.log.range(first, last)
    }

    /// The log, to look at.
    #[must_use]
    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// What would have to be stored now.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed(),
            standing: self.standing,
        }
    }

    /// Role, leader and term.
    #[must_use]
    pub fn soft_state(&self) -> SoftState {
        SoftState { role: self.role, leader: self.leader, term: self.term }
    }

    /// A look at this replica.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            soft: self.soft_state(),
            last_index: self.log.last_index(),
            durable: self.log.durable(),
            commit: self.log.committed(),
            uncommitted_bytes: self.uncommitted,
        }
    }

    /// The settings it was started with; but for [`Config::blank`], [`Config::damaged`] and [`Config::random_seed`],
    /// which are not kept.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The newest term that is known to be stored durably here.
    #[must_use]
    pub fn durable_term(&self) -> Term {
        self.durable_term
    }

    /// Batches of reads of the owner that wait for confirmation.
    #[must_use]
    pub fn reads_pending(&self) -> usize {
        self.reads.of_owner()
    }

    /// Questions of other replicas that wait for confirmation: two of each at most.
    #[must_use]
    pub fn questions_pending(&self) -> usize {
        self.reads.pending() - self.reads.of_owner()
    }

    /// The newest round of reads of this term that a majority has confirmed, as a leader counts; 0 if none.
    #[must_use]
    pub fn confirmed_round(&self) -> u64 {
        self.reads.confirmed_round()
    }

    /// What is known about each other member, and about those that are being removed, in the order of their
    /// ids; nothing unless leading.
    pub fn followers(&self) -> impl Iterator<Item = FollowerStatus> {
        let leads = self.role == Role::Leader;
        let peers = self.peers.iter().filter(move |_| leads);
        peers.map(|peer| peer.progress.status(peer.id, self.membership_of(peer.id)))
    }

    fn on_message(&mut self, from: NodeId, message: Message, effects: &mut Effects) {
        let own_vote = from == self.config.id && matches!(message, Message::VoteReply(_));
        if !own_vote && self.peer(from).is_none() && !self.hears_strangers(from, &message) {
            return; // its votes and acks must not count
        }
        if !self.listens_to(from, &message, effects) {
            return;
        }
        let term = message.term();
        #[cfg(mutant = "stale-ack")]
        let term = if matches!(message, Message::AppendReply(_)) { self.term } else { term };
        if term < self.term {
            self.answer_outdated(from, &message, effects);
            return;
        }
        if self.keeps_quiet_on(&message) {
            return;
        }
        if term > self.term && !self.enter_term_of(from, &message, effects) {
            return;
        }
        match message {
            Message::PreVote(m) => self.on_pre_vote(from, m, effects),
            Message::PreVoteReply(m) => self.on_pre_vote_reply(from, m, effects),
            Message::Vote(m) => self.on_vote(from, m, effects),
            Message::VoteReply(m) => self.on_vote_reply(from, m, effects),
            Message::Append(m) => self.on_append(from, m, effects),
            Message::AppendReply(m) => self.on_append_reply(from, m, effects),
            Message::Heartbeat(m) => self.on_heartbeat(from, m, effects),
            Message::HeartbeatReply(m) => self.on_heartbeat_reply(from, m, effects),
            Message::SnapshotOffer(m) => self.on_snapshot_offer(from, m, effects),
            Message::TimeoutNow(_) => self.on_timeout_now(from, effects),
            Message::Quiesce(m) => self.on_quiesce(from, m, effects),
            Message::Quiesced(m) => self.on_quiesced(from, m),
            Message::ReadIndex(m) => self.on_question(from, m, effects),
            Message::ReadIndexReply(m) => self.on_question_answered(m, effects),
            Message::Census(_) | Message::CensusReply(_) => {} // belong to no term
        }
    }

    /// Whether a message is to be taken from a node that is no member, as far as is known here: what
    /// asks for something is. See `reconfigure.rs`.
    fn hears_strangers(&self, from: NodeId, message: &Message) -> bool {
        let asks = matches!(
            message,
            Message::PreVote(_)
                | Message::Vote(_)
                | Message::Append(_)
                | Message::Heartbeat(_)
                | Message::SnapshotOffer(_)
                | Message::Quiesce(_)
                | Message::TimeoutNow(_)
                | Message::Census(_)
        );
        sometimes!(stranger_answered, asks && from != self.config.id);
        asks && from != self.config.id
    }

    /// A message of an earlier term has no effect here, but its sender must learn of our term: a
    /// leader to step down, a candidate to catch up. The answer carries nothing but the term. If the
    /// sender has got there by itself meanwhile, and perhaps leads, a vote, a rejection or a round
    /// taken over from the old message would be mistaken for an answer to a new one.
    fn answer_outdated(&self, from: NodeId, message: &Message, effects: &mut Effects) {
        if let Message::PreVote(_)
        | Message::Vote(_)
        | Message::Append(_)
        | Message::Heartbeat(_)
        | Message::SnapshotOffer(_)
        | Message::Quiesce(_)
        | Message::Quiesced(_)
        | Message::ReadIndex(_) = message
        {
            sometimes!(outdated_answered);
            let (term, standing) = (self.term, self.standing);
            let priority = self.priority;
            let reply = HeartbeatReply { term, round: 0, standing, quiet_ms: 0, priority };
            effects.send(from, Message::HeartbeatReply(reply));
        }
    }

    /// A message of a later term: enters that term if the message proves that it has begun. Returns
    /// whether the message is to be handled at all.
    fn enter_term_of(&mut self, from: NodeId, message: &Message, effects: &mut Effects) -> bool {
        let leader = match message {
            // Only asks about a term that may never come.
            Message::PreVote(_) => {
                sometimes!(pre_vote_ignored, self.hears_leader());
                return !self.hears_leader();
            }
            Message::PreVoteReply(m) if m.granted => return true,
            // A replica that was cut off must not depose a leader whom others hear (thesis, 4.2.3).
            Message::Vote(m) if self.hears_leader() && !m.transfer => {
                sometimes!(vote_ignored);
                return false;
            }
            Message::Append(_)
            | Message::Heartbeat(_)
            | Message::SnapshotOffer(_)
            | Message::Quiesce(_) => Some(from),
            _ => None,
        };
        self.become_follower(message.term(), leader, effects);
        true
    }

    fn on_durable(&mut self, mark: WriteMark, effects: &mut Effects) {
        if mark.term > self.term {
            return; // not a mark of this replica
        }
        self.durable_term = self.durable_term.max(mark.term);
        #[cfg(mutant = "append-aba")]
        let mark = match self.log.term_at(mark.index) {
            Some(term) if term == mark.term => WriteMark { rewrites: self.log.rewrites(), ..mark },
            _ => mark,
        };
        self.log.mark_durable(mark.index, mark.rewrites);
        self.advance_commit(effects);
    }

    /// Sends `message` once everything handed out so far is durable. If this step wants nothing
    /// stored, the hard state is stored again: the log is written in order, so that the message
    /// then waits for earlier batches, too.
    pub(super) fn send_after_durable(&self, to: NodeId, message: Message, effects: &mut Effects) {
        if effects.entries.is_empty() {
            self.store_hard_state(effects);
        }
        effects.after_durable.push((to, message));
    }

    pub(super) fn store_hard_state(&self, effects: &mut Effects) {
        effects.hard_state = Some(self.hard_state());
    }

    pub(super) fn peer(&self, id: NodeId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    /// Moves the commit index of whoever may: a leader by counting, a follower by what it is told.
    ///
    /// A leader's cost of what is not committed is that of the entries in memory. They are all those that
    /// were in memory when its term began, and its own: see [`Raft::evict_to`].
    pub(super) fn commit_to(&mut self, index: LogIndex, effects: &mut Effects) {
        if index <= self.log.committed() {
            return;
        }
        if self.role == Role::Leader {
            let first = self.log.committed().next();
            let cost: usize = self.log.range(first, index).map(Entry::cost).sum();
            self.uncommitted -= cost;
        }
        self.log.commit_to(index);
        effects.committed = Some(index);
    }

    pub(super) fn fault(effects: &mut Effects, fault: Fault) {
        effects.fault.get_or_insert(fault);
    }
}
