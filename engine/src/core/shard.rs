//! One replica on its core: the Raft core, the state machine, and the clients that wait for either.
//!
//! A proposal waits in three places, one after the other: `incoming` until the end of the turn (so
//! that all of a turn enter the log together), `waiting` until its entry is applied, and then it is
//! answered. When leadership is lost, what is in `waiting` may still be committed by the next leader.
//! So it goes on waiting for a bounded time: if its entry is applied, it is answered with its result;
//! if another entry is applied in its place, it is known to be lost and may be sent again; if neither
//! happens, or this replica leads again without the entry, the outcome is unknown, and the client is
//! told exactly that.
//!
//! Reads gather in `reads_new` until the end of the turn, share one ReadIndex round, and are answered
//! when what was committed at its start has been applied. Reads with a bound on staleness go another way, which leads to
//! any replica: `shard/bounded.rs`.
//!
//! Entries that are no longer in memory come from the log's segments: the loop asks for them when
//! [`Shard::wants_cold`] says so, and they wait in `cold` until they are applied. While a snapshot of
//! the leader takes the place of the state, nothing is applied or answered.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;

use super::freshness::Freshness;
use super::handle::{Committed, Position};
use super::hooks::HookState;
use super::leadership::Transfers;
use super::liveness::Sleepers;
use super::status::{CoreCounters, ShardStatus};
use crate::limits::{COMMIT_HINT_BYTES, ENTRY_COST_BYTES, Limits, REPLY_SCRATCH_BYTES};
use crate::on_demand::OnDemand;
use crate::raft::membership::Reconfiguration;
use crate::raft::{
    Effects, Entry, EntryKind, Event, Message, Raft, ReconfigureRefusal, Reconfigured, Refusal,
    Role,
};
use crate::{
    Apply, LogIndex, NodeId, ProposeError, QueryError, ReconfigureError, ShardId, SnapshotError,
    SnapshotRequestError, SnapshotStream, StateMachine, Term, TransferError,
};

pub(super) type ProposeAnswer = oneshot::Sender<Result<Committed, ProposeError>>;
pub(super) type AcceptedAnswer = Option<oneshot::Sender<Result<Position, ProposeError>>>;
pub(super) type ChangeAnswer = oneshot::Sender<Result<Position, ReconfigureError>>;
pub(super) type QueryAnswer = oneshot::Sender<Result<Bytes, QueryError>>;

struct Incoming {
    accepted: AcceptedAnswer,
    answer: ProposeAnswer,
}

struct Waiting {
    position: Position,
    answer: Answer,
}

/// Who waits for an entry to be applied.
enum Answer {
    Proposal(ProposeAnswer),
    Change(ChangeAnswer),
}

impl Answer {
    fn send(self, outcome: Result<Committed, ProposeError>) {
        match self {
            Self::Proposal(answer) => drop(answer.send(outcome)),
            Self::Change(answer) => {
                let place = |Committed { term, index, .. }| Position { term, index };
                let _ = answer.send(outcome.map(place).map_err(Into::into));
            }
        }
    }
}

pub(super) type SnapshotAnswer = oneshot::Sender<Result<LogIndex, SnapshotRequestError>>;

pub(super) type StatusAnswer = oneshot::Sender<Result<ShardStatus, QueryError>>;

/// What waits for the leader to be confirmed.
enum Query {
    /// Of the state machine.
    State(Bytes, QueryAnswer),
    /// Of the shard itself.
    Status(StatusAnswer),
}

impl Query {
    fn refuse(self, error: QueryError) {
        match self {
            Self::State(_, answer) => drop(answer.send(Err(error))),
            Self::Status(answer) => drop(answer.send(Err(error))),
        }
    }
}

/// A state machine, shared with the task that restores it from a snapshot.
pub(super) type Machine = Rc<RefCell<Box<dyn StateMachine>>>;

/// What the shards of a core write their replies into, one after the other.
pub(super) type Scratch = Rc<RefCell<BytesMut>>;

/// Queries that share one ReadIndex round.
struct ReadBatch {
    id: u64,
    /// Set when the round has confirmed leadership: answer once this index is applied.
    ready_at: Option<LogIndex>,
    queries: Vec<Query>,
}

/// One replica.
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) raft: Raft,
    /// What the steps of this turn want done; the loop carries it out and clears it.
    pub(super) effects: OnDemand<Effects>,
    /// Whether this shard is in the loop's list of shards to look after this turn.
    pub(super) touched: bool,
    /// Whether it gets ticks.
    pub(super) ticking: bool,
    /// What it counts for in the digests of those that sleep.
    pub(super) sleepers: Sleepers,
    /// The newest snapshot, 0 without one, and when it was taken, or seen first.
    pub(super) snapshot_seen: Option<(LogIndex, Duration)>,
    /// `None` if its machine has no hook.
    pub(super) hook: Option<Box<HookState>>,
    /// Why this replica takes no part any more, if it does not.
    halted: Option<Box<str>>,
    /// Cost of the entries stored since the commit index was stored last.
    unhinted: usize,
    machine: Machine,
    applied: LogIndex,
    /// Entries from `applied + 1` on that were read back from the log.
    cold: VecDeque<Entry>,
    /// Such a read is under way.
    cold_reading: bool,
    /// The state is being replaced by a snapshot.
    restoring: bool,
    payloads: Vec<Bytes>,
    /// Bytes of them that are held because leadership is being handed over.
    held_bytes: usize,
    incoming: Vec<Incoming>,
    pub(super) transfers: Transfers,
    /// That no leader is known is kept back, because one is about to be.
    pub(super) unpublished: bool,
    waiting: VecDeque<Waiting>,
    /// Since leadership was lost with proposals waiting: when to give up on them.
    give_up_at: Option<Duration>,
    reads_new: Vec<Query>,
    reads: VecDeque<ReadBatch>,
    /// All that wait, here and there.
    reads_count: usize,
    read_id_last: u64,
    /// `None` until the first read that bears a staleness: few replicas get any.
    freshness: Option<Box<Freshness<(Bytes, QueryAnswer)>>>,
    scratch: Scratch,
    /// Those of the core.
    limits: Rc<Limits>,
}

impl Shard {
    pub(super) fn new(
        id: ShardId,
        raft: Raft,
        machine: Machine,
        applied: LogIndex,
        scratch: Scratch,
        limits: Rc<Limits>,
    ) -> Self {
        let hook = machine.borrow().hook().map(|_| Box::default());
        Self {
            id,
            raft,
            effects: OnDemand::new(),
            touched: false,
            ticking: true,
            sleepers: Sleepers::default(),
            snapshot_seen: None,
            hook,
            halted: None,
            unhinted: 0,
            machine,
            applied,
            cold: VecDeque::new(),
            cold_reading: false,
            restoring: false,
            payloads: Vec::new(),
            held_bytes: 0,
            incoming: Vec::new(),
            transfers: Transfers::default(),
            unpublished: false,
            waiting: VecDeque::new(),
            give_up_at: None,
            reads_new: Vec::new(),
            reads: VecDeque::new(),
            reads_count: 0,
            read_id_last: 0,
            freshness: None,
            scratch,
            limits,
        }
    }

    /// Takes a proposal; it enters the log at the end of the turn. One that nobody but the leader
    /// can accept is refused at once.
    pub(super) fn propose(
        &mut self,
        payload: Bytes,
        accepted: AcceptedAnswer,
        answer: ProposeAnswer,
    ) {
        let incoming = Incoming { accepted, answer };
        if self.raft.holds_clients() {
            let bytes = self.held_bytes + payload.len() + ENTRY_COST_BYTES;
            if bytes > self.limits.uncommitted_bytes_max && self.held_bytes > 0 {
                sometimes!(held_full);
                let what = "too many proposals wait for a new leader of this shard";
                return refuse(incoming, ProposeError::Overloaded(what));
            }
            sometimes!(proposal_held);
            self.held_bytes = bytes;
        } else if self.raft.role() != Role::Leader {
            return refuse(incoming, self.not_leader());
        }
        self.payloads.push(payload);
        self.incoming.push(incoming);
    }

    /// Takes a linearizable query; it is asked for at the end of the turn.
    pub(super) fn query(&mut self, payload: Bytes, answer: QueryAnswer) {
        self.ask_leader(Query::State(payload, answer));
    }

    /// Takes the question how the shard is, which is answered as a linearizable query.
    pub(super) fn confirm_status(&mut self, answer: StatusAnswer) {
        self.ask_leader(Query::Status(answer));
    }

    fn ask_leader(&mut self, query: Query) {
        if self.raft.role() != Role::Leader && !self.raft.holds_clients() {
            let leader = self.raft.leader();
            return query.refuse(QueryError::NotLeader { shard: self.id, leader });
        }
        if let Some(error) = self.too_many_reads() {
            return query.refuse(error);
        }
        self.reads_count += 1;
        self.reads_new.push(query);
    }

    fn too_many_reads(&self) -> Option<QueryError> {
        let full = self.reads_count >= self.limits.queries_per_shard_max;
        sometimes!(queries_full, full);
        full.then_some(QueryError::Overloaded("too many queries are waiting on this shard"))
    }

    /// Answers a query from whatever this replica has applied.
    pub(super) fn query_stale(&mut self, payload: &Bytes, answer: QueryAnswer) {
        if self.restoring || self.raft.is_damaged() {
            let error = QueryError::NotLeader { shard: self.id, leader: self.raft.leader() };
            return drop(answer.send(Err(error)));
        }
        let reply = self.ask(payload);
        let _ = answer.send(Ok(reply));
    }

    /// Hands Raft one event; its effects add to those of this turn.
    pub(super) fn step(&mut self, event: Event) {
        self.raft.step(event, &mut self.effects);
    }

    /// Hands Raft a message of a peer.
    pub(super) fn message(&mut self, from: NodeId, message: Message) {
        self.step(Event::Message { from, message });
    }

    /// End of the turn, first half: what clients asked for goes to Raft, unless it is held. `now` was read after
    /// all of it had come in.
    pub(super) fn submit(&mut self, now: Duration, counters: &mut CoreCounters) {
        let holds = self.raft.holds_clients();
        if !self.incoming.is_empty() && !holds {
            self.held_bytes = 0;
            self.submit_proposals(counters);
        }
        if !self.reads_new.is_empty() && (self.raft.role() == Role::Leader || !holds) {
            self.read_id_last += 1;
            let id = self.read_id_last;
            let queries = std::mem::take(&mut self.reads_new);
            self.reads.push_back(ReadBatch { id, ready_at: None, queries });
            self.step(match self.raft.config().lease {
                Some(_) => Event::LeaseRead { id, now },
                None => Event::ReadIndex { id },
            });
        }
        self.ask_for_proof(now);
    }

    fn submit_proposals(&mut self, counters: &mut CoreCounters) {
        let payloads = std::mem::take(&mut self.payloads);
        self.step(Event::Propose { payloads });
        let Some(proposed) = self.effects.proposed.take() else {
            unreachable!("Raft answers every Propose in the same step");
        };
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut position = Position { term: proposed.term, index: proposed.first };
        counters.proposals += proposed.accepted as u64;
        counters.refused += (incoming.len() - proposed.accepted) as u64;
        if proposed.accepted > 0 {
            self.drop_replaced(position.index);
        }
        for Incoming { accepted, answer } in incoming.drain(..proposed.accepted) {
            if let Some(accepted) = accepted {
                let _ = accepted.send(Ok(position));
            }
            self.waiting.push_back(Waiting { position, answer: Answer::Proposal(answer) });
            position.index = position.index.next();
        }
        let error = match proposed.refusal {
            Some(Refusal::UncommittedLimit) => {
                ProposeError::Overloaded("too many uncommitted bytes in this shard")
            }
            Some(Refusal::Transferring { .. }) => {
                ProposeError::Overloaded("leadership of this shard is being handed over")
            }
            Some(Refusal::NotLeader { .. }) | None => self.not_leader(),
        };
        incoming.drain(..).for_each(|refused| refuse(refused, error.clone()));
        self.incoming = incoming; // keeps its memory
    }

    /// Changes who belongs to the shard, if that is a safe step. The entry enters the log at once, before the
    /// proposals of this turn.
    pub(super) fn reconfigure(&mut self, change: Reconfiguration, answer: ChangeAnswer) {
        self.step(Event::Reconfigure { change, only_if_ready: true });
        let shard = self.id;
        match self.effects.reconfigured.take() {
            Some(Ok(Reconfigured { term, index })) => {
                self.drop_replaced(index);
                let position = Position { term, index };
                self.waiting.push_back(Waiting { position, answer: Answer::Change(answer) });
            }
            Some(Err(ReconfigureRefusal::NotLeader { leader })) => {
                let _ = answer.send(Err(ReconfigureError::NotLeader { shard, leader }));
            }
            Some(Err(refusal)) => {
                let _ = answer.send(Err(ReconfigureError::Refused { shard, refusal }));
            }
            None => unreachable!("Raft answers every Reconfigure in the same step"),
        }
    }

    /// Refuses all proposals of this turn.
    pub(super) fn refuse_incoming(&mut self, error: &ProposeError, counters: &mut CoreCounters) {
        counters.refused += self.incoming.len() as u64;
        self.held_bytes = 0;
        self.payloads.clear();
        let refused = std::mem::take(&mut self.incoming);
        refused.into_iter().for_each(|incoming| refuse(incoming, error.clone()));
    }

    /// Proposals of an earlier leadership that a truncation removed: a copy may live on elsewhere.
    fn drop_replaced(&mut self, first: LogIndex) {
        while self.waiting.back().is_some_and(|last| last.position.index >= first) {
            if let Some(replaced) = self.waiting.pop_back() {
                sometimes!(proposal_cut);
                let error = ProposeError::OutcomeUnknown { shard: self.id };
                replaced.answer.send(Err(error));
            }
        }
    }

    /// End of the turn, second half: applies what is committed and answers who waited for it. Returns
    /// whether something is left for the next turn, because there was too much for one.
    pub(super) fn apply(&mut self, counters: &mut CoreCounters) -> bool {
        let commit = self.raft.commit();
        #[cfg(mutant = "apply-beyond-commit")]
        let commit = self.raft.last_index();
        if self.restoring {
            return false;
        }
        assert!(self.applied <= commit, "applied {} > commit {commit}", self.applied);
        let last = commit.min(LogIndex(self.applied.0 + self.limits.entries_per_turn_max));
        while self.applied < last && self.apply_next() {
            counters.applied += 1;
        }
        self.confirm_reads();
        self.answer_reads(counters);
        self.answer_fresh(counters);
        sometimes!(entries_left_over, self.applied < commit);
        self.applied < commit && !self.lacks_next()
    }

    /// Whether the next committed entry is neither in memory nor read back yet.
    fn lacks_next(&self) -> bool {
        let next = self.applied.next();
        let cold = self.cold.back().is_some_and(|last| last.index >= next);
        next <= self.raft.commit() && !cold && self.raft.entry(next).is_none()
    }

    /// The first committed entry that has to be read back from the log, if no such read is under way.
    pub(super) fn wants_cold(&self) -> Option<LogIndex> {
        (!self.restoring && !self.cold_reading && self.lacks_next()).then(|| self.applied.next())
    }

    /// Applies an entry that was read back, if it is the one that [`Shard::wants_cold`] names.
    pub(super) fn apply_old(&mut self, entry: Entry, counters: &mut CoreCounters) {
        let next = self.applied.next();
        if entry.index == next && self.raft.log().term_at(next) == Some(entry.term) {
            self.cold.push_back(entry);
            counters.applied += u64::from(self.apply_next());
        }
    }

    /// A read for [`Shard::wants_cold`] begins.
    pub(super) fn begin_cold_read(&mut self) {
        self.cold_reading = true;
    }

    /// Such a read is over; `entries` is what it found.
    pub(super) fn end_cold_read(&mut self, entries: Vec<Entry>) {
        self.cold_reading = false;
        self.cold = entries.into();
    }

    /// The state is about to be replaced by a snapshot; `None` if it is already.
    pub(super) fn begin_restore(&mut self) -> Option<Machine> {
        (!std::mem::replace(&mut self.restoring, true)).then(|| self.machine.clone())
    }

    /// The state is that of a snapshot at `index`, which Raft knows as committed.
    pub(super) fn end_restore(&mut self, index: LogIndex) {
        assert!(index >= self.applied, "restored {index}, applied {}", self.applied);
        self.restoring = false;
        #[cfg(not(mutant = "install-leaves-applied"))]
        {
            self.applied = index;
        }
        self.cold.clear();
        while self.waiting.front().is_some_and(|first| first.position.index <= index) {
            let Some(Waiting { answer, .. }) = self.waiting.pop_front() else { break };
            // Committed or not: the snapshot does not tell.
            answer.send(Err(ProposeError::OutcomeUnknown { shard: self.id }));
        }
    }

    /// Applies the next entry; `false` if it is not in memory.
    fn apply_next(&mut self) -> bool {
        let index = self.applied.next();
        let read_back;
        let entry = match self.raft.entry(index) {
            Some(entry) => entry,
            None => match self.take_cold(index) {
                Some(entry) => {
                    read_back = entry;
                    &read_back
                }
                None => return false,
            },
        };
        let term = entry.term;
        let scratch = &mut *self.scratch.borrow_mut();
        if entry.kind == EntryKind::Normal {
            let apply = Apply { shard: self.id, index, term, payload: &entry.payload };
            self.machine.borrow_mut().apply(apply, scratch);
        }
        while self.waiting.front().is_some_and(|first| first.position.index <= index) {
            let Some(Waiting { position, answer }) = self.waiting.pop_front() else { break };
            let outcome = if position == (Position { term, index }) {
                Ok(Committed { term, index, reply: take(scratch) })
            } else {
                sometimes!(proposal_replaced);
                Err(self.not_leader())
            };
            answer.send(outcome);
        }
        scratch.clear();
        self.applied = index;
        true
    }

    fn take_cold(&mut self, index: LogIndex) -> Option<Entry> {
        while let Some(entry) = self.cold.pop_front() {
            if entry.index == index {
                sometimes!(entry_applied_cold);
                return Some(entry);
            }
        }
        None
    }

    /// Takes over what Raft said about ReadIndex rounds.
    fn confirm_reads(&mut self) {
        for (id, index) in self.effects.read_states.drain(..) {
            if let Some(batch) = self.reads.iter_mut().find(|batch| batch.id == id) {
                batch.ready_at = Some(index);
            }
            if let Some(freshness) = &mut self.freshness {
                freshness.answered(id, index);
            }
        }
        for id in self.effects.reads_failed.drain(..) {
            if let Some(freshness) = &mut self.freshness {
                freshness.failed(id);
            }
            let Some(at) = self.reads.iter().position(|batch| batch.id == id) else { continue };
            let Some(batch) = self.reads.remove(at) else { continue };
            if self.raft.holds_clients() {
                sometimes!(queries_held);
                self.reads_new.extend(batch.queries);
                continue;
            }
            sometimes!(queries_lost);
            self.reads_count -= batch.queries.len();
            let error = QueryError::NotLeader { shard: self.id, leader: self.raft.leader() };
            batch.queries.into_iter().for_each(|query| query.refuse(error.clone()));
        }
    }

    fn answer_reads(&mut self, counters: &mut CoreCounters) {
        let applied = self.applied;
        while self.reads.front().and_then(|b| b.ready_at).is_some_and(|index| index <= applied) {
            let Some(batch) = self.reads.pop_front() else { break };
            self.reads_count -= batch.queries.len();
            counters.queries += batch.queries.len() as u64;
            for query in batch.queries {
                match query {
                    Query::State(payload, answer) => drop(answer.send(Ok(self.ask(&payload)))),
                    Query::Status(answer) if self.raft.role() == Role::Leader => {
                        let _ = answer.send(Ok(self.status()));
                    }
                    // It led when it was asked, and does not know any more how things are.
                    status @ Query::Status(_) => {
                        let leader = self.raft.leader();
                        status.refuse(QueryError::NotLeader { shard: self.id, leader });
                    }
                }
            }
        }
    }

    fn ask(&mut self, payload: &Bytes) -> Bytes {
        let scratch = &mut *self.scratch.borrow_mut();
        self.machine.borrow().query(payload, scratch);
        take(scratch)
    }

    /// Bounds how long proposals of a lost leadership wait for their outcome. Whoever leads again
    /// commits what is in its log; what another leader has cut from it meanwhile would wait for ever.
    pub(super) fn give_up_on_lost(&mut self, now: Duration, patience: Duration) {
        if self.waiting.is_empty() || self.raft.role() == Role::Leader {
            #[cfg(mutant = "pending-proposed-again")]
            if self.give_up_at.is_some() {
                let pending = self.waiting.iter().filter_map(|w| self.raft.entry(w.position.index));
                let payloads = pending.map(|entry| entry.payload.clone()).collect();
                self.step(Event::Propose { payloads });
            }
            self.give_up_at = None;
            while let Some(Waiting { position, .. }) = self.waiting.back()
                && self.raft.log().term_at(position.index) != Some(position.term)
            {
                self.drop_replaced(position.index);
            }
            return;
        }
        let give_up_at = *self.give_up_at.get_or_insert(now + patience);
        if now >= give_up_at {
            sometimes!(proposals_given_up);
            self.give_up_at = None;
            let error = ProposeError::OutcomeUnknown { shard: self.id };
            #[cfg(mutant = "unknown-told-as-refused")]
            let error = self.not_leader();
            for Waiting { answer, .. } in self.waiting.drain(..) {
                answer.send(Err(error.clone()));
            }
        }
    }

    /// The state as it is now, for a snapshot.
    ///
    /// # Errors
    /// What the state machine says.
    pub(super) fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        self.machine.borrow_mut().snapshot()
    }

    /// The term in which the hook of the state machine may be called: that in which this replica leads, if all of
    /// earlier terms is applied.
    pub(super) fn hook_term(&self) -> Option<Term> {
        if cfg!(mutant = "hook-on-follower") {
            return Some(self.raft.term());
        }
        let early = cfg!(mutant = "hook-before-own-commit");
        let settled = self.raft.term_start().is_some_and(|start| start <= self.applied || early);
        settled.then(|| self.raft.term())
    }

    /// Whether nothing that is under way keeps the hook from being called now.
    pub(super) fn may_call_hook(&self) -> bool {
        self.halted.is_none() && !self.restoring && !self.raft.holds_clients()
    }

    /// The state machine, to be asked something at once.
    pub(super) fn machine(&self) -> Ref<'_, Box<dyn StateMachine>> {
        self.machine.borrow()
    }

    /// The largest payload that is proposed.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.limits.payload_bytes_max
    }

    /// What the state machine has applied.
    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// How many queries wait.
    pub(super) fn queries(&self) -> usize {
        self.reads_count
    }

    /// How many proposals wait to be applied.
    pub(super) fn proposals(&self) -> usize {
        self.waiting.len()
    }

    /// Whether anybody waits for an answer.
    pub(super) fn is_busy(&self) -> bool {
        let unanswered = self.reads_count > 0 || !self.incoming.is_empty();
        unanswered || !self.waiting.is_empty()
    }

    /// Has the commit index stored along with entries, now and then: a restart then applies as much in one
    /// pass over the log, before it hears of a leader.
    pub(super) fn hint_commit(&mut self) {
        if self.effects.entries.is_empty() {
            return;
        }
        self.unhinted += self.effects.entries.iter().map(Entry::cost).sum::<usize>();
        if self.effects.hard_state.is_none() && self.unhinted >= COMMIT_HINT_BYTES {
            self.effects.hard_state = Some(self.raft.hard_state());
        }
        if self.effects.hard_state.is_some() {
            self.unhinted = 0;
        }
    }

    /// This replica takes no part any more: what it holds is damaged, or it was told what can't be. It
    /// answers whoever waits, and says and promises nothing from here on; the other shards go on.
    pub(super) fn halt(&mut self, reason: &str) {
        if self.halted.is_none() {
            sometimes!(shard_halted);
            tracing::error!(shard = %self.id, "this replica stops: {reason}");
            self.halted = Some(reason.into());
        }
        self.fail(reason);
        self.effects.clear();
    }

    /// The log can't be read behind what is applied: see [`Raft::become_damaged`].
    pub(super) fn become_damaged(&mut self, incarnation: u64, reason: &str) {
        tracing::error!(
            shard = %self.id,
            "this replica is damaged: {reason}; when it hears the leader of the shard, it gives up what is \
             left of its log, and comes back as one that lost its data"
        );
        self.fail(reason);
        self.effects.clear();
        self.cold.clear();
        self.raft.become_damaged(self.applied, incarnation, &mut self.effects);
    }

    /// Whether a follower, or this replica itself, can't go on without a new snapshot of its state.
    pub(super) fn is_snapshot_awaited(&self) -> bool {
        self.raft.is_offer_awaited() || self.raft.awaits_snapshot()
    }

    /// Why this replica takes no part any more.
    pub(super) fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// It gets no more ticks: gives back what its buffers hold for the next turn.
    pub(super) fn rest(&mut self) {
        self.raft.rest();
        self.effects.committed = None; // of no use to the loop, which asks Raft itself
        if self.effects.is_empty() {
            self.effects.free();
        }
        self.payloads.shrink_to_fit();
        self.incoming.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.reads_new.shrink_to_fit();
        self.reads.shrink_to_fit();
        if let Some(freshness) = &mut self.freshness {
            freshness.shrink();
        }
    }

    /// The log failed: nothing that waits can be acknowledged any more.
    pub(super) fn fail(&mut self, reason: &str) {
        let error = ProposeError::StorageFailed(reason.to_owned());
        for incoming in std::mem::take(&mut self.incoming) {
            refuse(incoming, error.clone());
        }
        self.payloads.clear();
        self.held_bytes = 0;
        self.transfers.fail(&TransferError::Stopped(reason.to_owned()));
        for Waiting { answer, .. } in self.waiting.drain(..) {
            answer.send(Err(ProposeError::OutcomeUnknown { shard: self.id }));
        }
        let reads = std::mem::take(&mut self.reads).into_iter().flat_map(|batch| batch.queries);
        let bounded = self.freshness.iter_mut().flat_map(|freshness| freshness.take_all());
        let bounded = bounded.map(|(payload, answer)| Query::State(payload, answer));
        for query in reads.chain(std::mem::take(&mut self.reads_new)).chain(bounded) {
            query.refuse(QueryError::NotLeader { shard: self.id, leader: None });
        }
        self.reads_count = 0;
    }

    fn not_leader(&self) -> ProposeError {
        ProposeError::NotLeader { shard: self.id, leader: self.raft.leader() }
    }

    /// For operators.
    pub(super) fn status(&self) -> ShardStatus {
        ShardStatus {
            shard: self.id,
            term: self.raft.term(),
            role: self.raft.role(),
            leader: self.raft.leader(),
            commit: self.raft.commit(),
            applied: self.applied,
            last: self.raft.last_index(),
            configuration: self.raft.configuration().clone(),
            configuration_committed: self.raft.is_configuration_committed(),
            followers: self.raft.followers().collect(),
            halted: self.halted().map(str::to_owned),
        }
    }

    /// Term and leader as of now.
    pub(super) fn leadership(&self) -> (Term, Option<NodeId>) {
        (self.raft.term(), self.raft.leader())
    }
}

fn refuse(incoming: Incoming, error: ProposeError) {
    if let Some(accepted) = incoming.accepted {
        let _ = accepted.send(Err(error.clone()));
    }
    let _ = incoming.answer.send(Err(error));
}

/// Takes the reply out of the scratch buffer and leaves it empty, with room for the next.
fn take(scratch: &mut BytesMut) -> Bytes {
    let reply = scratch.split().freeze();
    if scratch.capacity() < REPLY_SCRATCH_BYTES / 4 {
        scratch.reserve(REPLY_SCRATCH_BYTES);
    }
    reply
}

mod bounded;
#[cfg(test)]
mod tests;
