//! The event loop of a core.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_wal::{AlignedBuf, Recovery};

use super::events::{ClusterEvent, Subscribers};
use super::handle::{Consistency, CoreHandle, Request};
use super::hooks::Hooks;
use super::inbox::{Event, Inbox};
use super::leadership::Drain;
use super::link::{Link, PeerCore};
use super::liveness::Liveness;
use super::mailbox::{Letter, Letters};
use super::observe::{CoreView, Observer, Queues};
use super::open::CoreConfig;
use super::peers::Gate;
use super::shard::Shard;
use super::siblings::Retelling;
use super::spread::Spread;
use super::stall::Stall;
use super::status::{CoreCounters, CoreStatus};
use super::storage::Storage;
use super::tiers::Tiers;
use super::upkeep::Upkeep;
use crate::env::Env;
use crate::raft::{self, Message};
use crate::{NodeId, ProposeError, QueryError, ShardId, Term, TransferError};

/// A core, ready to run.
pub struct Core<E: Env> {
    pub(super) env: E,
    pub(super) config: CoreConfig,
    pub(super) inbox: Rc<Inbox>,
    pub(super) gate: Rc<Gate>,
    pub(super) letters: Letters,
    pub(super) storage: Storage<E::Disk>,
    pub(super) tiers: Tiers<E::Disk>,
    pub(super) upkeep: Upkeep,
    /// The shards of this core, ordered by id.
    pub(super) shards: Vec<Shard>,
    /// Shards of this core that could not be brought up, and why. They take no part.
    pub(super) lost: BTreeMap<ShardId, String>,
    /// Indices into `shards` that this turn has to look after.
    pub(super) touched: Vec<usize>,
    pub(super) links: BTreeMap<PeerCore, Rc<Link>>,
    pub(super) liveness: Liveness,
    pub(super) hooks: Hooks,
    pub(super) counters: CoreCounters,
    pub(super) recovery: Recovery,
    /// What siblings missed.
    pub(super) retelling: Retelling,
    /// A link had no room for the address book: send it again at the next tick.
    pub(super) book_missed: bool,
    pub(super) failed: bool,
    /// While it hands over everything.
    pub(super) drain: Option<Drain>,
    /// It was told to hand over everything, and leads nothing for the rest of its life.
    pub(super) drained: bool,
    pub(super) stall: Stall,
    pub(super) spread: Spread,
    pub(super) subscribers: Subscribers,
    /// `None` outside of tests.
    pub(super) observer: Option<Box<dyn Observer>>,
}

impl<E: Env> Core<E> {
    /// The way in for other tasks of this core.
    #[must_use]
    pub fn handle(&self) -> CoreHandle {
        CoreHandle::new(self.inbox.clone())
    }

    /// Has `observer` shown the state of the core now, and after each of its turns.
    pub fn observe(&mut self, mut observer: Box<dyn Observer>) {
        observer.after_turn(&self.look(None));
        self.observer = Some(observer);
    }

    /// What recovery found in the log.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Runs until the core is told to stop: then finishes what is in flight, for a bounded time, and
    /// makes the log durable.
    pub async fn run(mut self) {
        let ticks = tick(self.env.clone(), self.inbox.clone(), self.config.heartbeat_interval / 2);
        self.env.spawn(ticks);
        // A shard with one voter is elected at once; the others start their timers.
        self.inbox.push(Event::Tick);
        let mut stop_by: Option<Duration> = None;
        loop {
            poll_fn(|cx| self.poll_work(cx)).await;
            self.turn();
            if self.inbox.stopping.get() {
                let deadline = self.env.now() + self.config.election_timeout;
                let deadline = *stop_by.get_or_insert(deadline);
                let idle = !self.has_news()
                    && !self.storage.is_busy()
                    && !self.shards.iter().any(Shard::is_busy);
                if idle || self.failed || self.env.now() >= deadline {
                    break;
                }
            }
            if self.has_news() {
                // Also for letters: other threads may write them without end.
                self.env.yield_now().await;
            }
        }
        self.inbox.refuse_all();
        self.tiers.cancel.cancel();
        self.gate.close();
        self.storage.wal().close().await;
    }

    /// Whether events, letters or committed entries wait.
    fn has_news(&self) -> bool {
        !(self.inbox.is_empty() && self.letters.0.is_empty() && self.touched.is_empty())
    }

    /// Ready when there is anything for a turn to do.
    fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = self.has_news() || self.letters.0.poll_ready(cx);
        // Registers our waker with the inbox even if something else is ready: cheap, and never lost.
        ready |= self.inbox.arrived.poll_take(cx).is_ready();
        if !self.failed && self.storage.is_busy() {
            ready |= self.storage.poll_progress(cx);
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One turn; see the head of [`super`].
    fn turn(&mut self) {
        self.counters.turns += 1;
        self.check_storage();
        self.keep_promises();
        self.storage.retry();
        self.take_letters();
        self.take_events();
        sometimes!(events_left_over, !self.inbox.is_empty());
        self.finish_turn();
        self.look_after_drain();
        self.publish_counters();
    }

    fn check_storage(&mut self) {
        let Some(failure) = self.storage.wal().failure() else { return };
        let reason = failure.to_string();
        if !self.failed {
            sometimes!(log_failed);
            tracing::error!(core = %self.config.core, "the log failed, this core stops serving: {reason}");
            self.failed = true;
            let core = self.config.core;
            self.subscribers.tell(|| ClusterEvent::LogFailed { core, reason: reason.clone() });
            self.gate.close();
            self.disown_shards();
        }
        self.shards.iter_mut().for_each(|shard| shard.fail(&reason));
    }

    /// Stops one replica; what it leads, others may lead.
    pub(super) fn halt(&mut self, at: usize, reason: &str) {
        self.shards[at].halt(reason);
        self.account(at);
        self.account_hook(at, self.env.now());
        let shard = self.shards[at].id;
        self.subscribers.tell(|| ClusterEvent::ReplicaHalted { shard, reason: reason.to_owned() });
        let (term, _) = self.shards[at].leadership();
        self.note_leader(shard, term, None);
    }

    /// Takes note of who leads a shard of this core, and tells whoever wants to know, if that is news.
    fn note_leader(&mut self, shard: ShardId, term: Term, leader: Option<NodeId>) {
        if self.inbox.view.borrow_mut().note_leader(shard, term, leader) {
            tracing::debug!(%shard, %term, ?leader, "leadership changed");
            self.tell_leader(shard, term, leader);
            self.subscribers.tell(|| ClusterEvent::Leader { shard, term, leader });
        }
    }

    /// A core whose log has failed leads nothing; who leads instead it will not learn.
    fn disown_shards(&mut self) {
        for at in 0..self.shards.len() {
            let (shard, (term, _)) = (self.shards[at].id, self.shards[at].leadership());
            self.note_leader(shard, term, None);
        }
    }

    /// What became durable is told to Raft; the messages that waited for it go.
    fn keep_promises(&mut self) {
        while let Some(promise) = self.storage.next_kept() {
            let at = self.position_of(promise.shard);
            let Some(at) = at.filter(|at| self.shards[*at].halted().is_none()) else { continue };
            if let Some(mark) = promise.mark {
                self.step(at, raft::Event::Durable(mark));
            } else if self.shards[at].wants_cold().is_some() {
                self.touch(at); // what was written again can be read now
            }
            for (to, message) in promise.messages {
                self.send(at, to, message);
            }
        }
    }

    fn take_letters(&mut self) {
        for _ in 0..self.config.limits.events_per_turn_max {
            match self.letters.0.take() {
                Some(Letter::Request(request)) => self.on_request(request),
                Some(Letter::Leader { shard, term, leader }) => {
                    self.inbox.view.borrow_mut().note_leader(shard, term, leader);
                }
                Some(Letter::Replicas { shard, nodes }) => {
                    self.inbox.view.borrow_mut().replicas.note(shard, nodes);
                }
                Some(Letter::Status(answer)) => drop(answer.send(self.status())),
                Some(Letter::Members(update)) => self.on_members(update),
                Some(Letter::AskMembers(answer)) => drop(answer.send(self.member_statuses())),
                Some(Letter::Set { setting, answer }) => drop(answer.send(self.set(setting))),
                Some(Letter::Drain(answer)) => self.begin_drain(answer),
                Some(Letter::Subscribe(source)) => self.subscribers.add(source),
                Some(Letter::Stop) => self.inbox.begin_stop(),
                None => break,
            }
        }
    }

    fn take_events(&mut self) {
        for _ in 0..self.config.limits.events_per_turn_max {
            match self.inbox.pop() {
                Some(Event::Request(request)) => self.on_request(request),
                Some(Event::Message { link, shard, message }) => {
                    self.on_message(&link, shard, message);
                }
                Some(Event::LinkUp(link)) => self.on_link_up(link),
                Some(Event::LinkDown(link)) => self.on_link_down(&link),
                Some(Event::Tick) => self.on_tick(),
                Some(Event::ColdRead(read)) => self.on_cold_read(*read),
                Some(Event::SnapshotTaken(taken)) => self.on_snapshot_taken(&taken),
                Some(Event::SnapshotPulled(pulled)) => self.on_snapshot_pulled(*pulled),
                Some(Event::SnapshotRestored(restored)) => self.on_snapshot_restored(*restored),
                None => break,
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        let max = self.config.limits.payload_bytes_max;
        match request {
            Request::Propose { shard, payload, accepted, answer } => {
                let bytes = payload.len();
                sometimes!(proposal_too_large, bytes > max);
                let error = match self.position_of(shard) {
                    Some(_) if bytes > max => ProposeError::TooLarge { bytes, max },
                    Some(_) if self.failed => ProposeError::StorageFailed(self.failure_text()),
                    Some(at) if self.shards[at].halted().is_none() => {
                        self.touch(at);
                        return self.shards[at].propose(payload, accepted, answer);
                    }
                    None if !self.lost.contains_key(&shard) => ProposeError::UnknownShard(shard),
                    _ => ProposeError::NotLeader { shard, leader: self.leader_elsewhere(shard) },
                };
                if let Some(accepted) = accepted {
                    let _ = accepted.send(Err(error.clone()));
                }
                let _ = answer.send(Err(error));
            }
            Request::Snapshot { shard, answer } => self.on_snapshot_request(shard, answer),
            Request::Reconfigure { shard, change, answer } => {
                let error = match self.position_of(shard) {
                    Some(_) if self.failed => ProposeError::StorageFailed(self.failure_text()),
                    Some(_) if !self.storage.is_accepting() => {
                        ProposeError::Overloaded("the log of this core takes nothing at the moment")
                    }
                    Some(at) if self.shards[at].halted().is_none() => {
                        self.touch(at);
                        return self.shards[at].reconfigure(change, answer);
                    }
                    None if !self.lost.contains_key(&shard) => ProposeError::UnknownShard(shard),
                    _ => ProposeError::NotLeader { shard, leader: self.leader_elsewhere(shard) },
                };
                let _ = answer.send(Err(error.into()));
            }
            Request::Transfer { shard, to, answer } => {
                let at = self.position_of(shard).filter(|_| !self.failed);
                let Some(at) = at.filter(|at| self.shards[*at].halted().is_none()) else {
                    let here = self.position_of(shard).is_some() || self.lost.contains_key(&shard);
                    let leader = self.leader_elsewhere(shard);
                    let moved = TransferError::NotLeader { shard, leader };
                    let error = if here { moved } else { TransferError::UnknownShard(shard) };
                    return drop(answer.send(Err(error)));
                };
                self.touch(at);
                self.shards[at].transfer(to, Some(answer));
            }
            Request::Status { shard, answer } => {
                let at = self.position_of(shard).filter(|_| !self.failed);
                let Some(at) = at.filter(|at| self.shards[*at].halted().is_none()) else {
                    return drop(answer.send(Err(self.no_replica(shard))));
                };
                self.touch(at);
                self.shards[at].confirm_status(answer);
            }
            Request::Query { shard, payload, consistency, answer } => {
                let at = self.position_of(shard);
                let Some(at) = at.filter(|at| self.shards[*at].halted().is_none()) else {
                    return drop(answer.send(Err(self.no_replica(shard))));
                };
                match consistency {
                    Consistency::Stale => self.shards[at].query_stale(&payload, answer),
                    Consistency::Linearizable | Consistency::Bounded { .. } if self.failed => {
                        let _ = answer.send(Err(QueryError::NotLeader { shard, leader: None }));
                    }
                    Consistency::Linearizable => {
                        self.touch(at);
                        self.shards[at].query(payload, answer);
                    }
                    Consistency::Bounded { staleness } => {
                        let now = self.env.now();
                        if self.shards[at].query_bounded(payload, staleness, now, answer) {
                            self.touch(at);
                        }
                    }
                }
            }
        }
    }

    fn on_message(&mut self, link: &Link, shard: ShardId, message: Message) {
        let at = self.position_of(shard);
        let Some(at) = at.filter(|at| self.shards[*at].halted().is_none()) else {
            return self.note_leader_elsewhere(link, shard, &message);
        };
        if self.failed || !self.can_take(&message) {
            self.counters.messages_dropped += 1;
            return;
        }
        self.touch(at);
        self.shards[at].message(link.peer.node, message);
    }

    /// A replica that takes no part still knows whom to send its clients to.
    fn note_leader_elsewhere(&mut self, link: &Link, shard: ShardId, message: &Message) {
        if self.position_of(shard).is_none() && !self.lost.contains_key(&shard) {
            return tracing::debug!(peer = %link.peer, %shard, "message for a shard that is not here");
        }
        if let Message::Append(_) | Message::Heartbeat(_) = message {
            self.note_leader(shard, message.term(), Some(link.peer.node));
        }
    }

    /// What a query of a shard is told that has no replica here that takes part.
    fn no_replica(&self, shard: ShardId) -> QueryError {
        if self.position_of(shard).is_some() || self.lost.contains_key(&shard) {
            return QueryError::NotLeader { shard, leader: self.leader_elsewhere(shard) };
        }
        QueryError::UnknownShard(shard)
    }

    /// Who leads a shard whose replica here takes no part.
    fn leader_elsewhere(&self, shard: ShardId) -> Option<NodeId> {
        let view = self.inbox.view.borrow();
        let (_, leader) = view.leaders.get(shard.0 as usize)?;
        leader.filter(|leader| *leader != self.config.node)
    }

    /// Whether the log can take what a message may want stored. Entries that it could not take would
    /// pile up, and the leader sends them again; what room is left on a full disk is for votes.
    fn can_take(&self, message: &Message) -> bool {
        if message.has_entries() {
            let full = !self.storage.wal().has_room() || self.upkeep.refuses();
            let can = self.storage.is_accepting() && !full;
            sometimes!(message_dropped_log_full, !can);
            can
        } else {
            sometimes!(message_dropped_overdue, self.storage.is_overdue());
            !self.storage.is_overdue()
        }
    }

    fn on_link_up(&mut self, link: Rc<Link>) {
        let peer = link.peer;
        if self.failed {
            return link.close();
        }
        self.send_book(&link);
        self.links.insert(peer, link);
        self.begin_watch(peer);
        self.note_member_up(peer.node);
        self.step_shards_of(peer, |node| raft::Event::PeerReachable { node });
    }

    fn on_link_down(&mut self, link: &Rc<Link>) {
        let peer = link.peer;
        if self.links.get(&peer).is_none_or(|current| !Rc::ptr_eq(current, link)) {
            sometimes!(link_end_outdated);
            return; // replaced by a newer link before this one was gone
        }
        self.links.remove(&peer);
        self.end_watch(peer);
        self.note_member_up(peer.node);
        let heard = link.heard_at.get();
        self.step_shards_of(peer, |node| raft::Event::PeerSuspected { node, heard });
        self.step_shards_of(peer, |node| raft::Event::PeerUnreachable { node });
    }

    fn note_member_up(&mut self, node: NodeId) {
        let up = self.links.keys().any(|peer| peer.node == node);
        let mut view = self.inbox.view.borrow_mut();
        let member = view.members.iter_mut().find(|member| member.id == node);
        if member.is_some_and(|member| std::mem::replace(&mut member.up, up) != up) {
            let core = self.config.core;
            self.subscribers.tell(|| ClusterEvent::Peer { core, node, up });
        }
    }

    fn on_tick(&mut self) {
        let now = self.env.now();
        if self.failed {
            return;
        }
        self.storage.wal().retry_space();
        self.keep_up(now);
        self.watch_peers(now);
        self.tick_shards(now);
        self.call_hooks(now);
        self.watch_log(now);
        if self.drain.is_some() {
            self.hand_over_all();
        }
        self.spread_leaders(now);
        self.look_after_members();
        self.give_back();
        self.tell_again();
    }

    /// With each tick: what a burst has made long, and is empty now, becomes short. At each turn that would cost too
    /// much under load.
    fn give_back(&mut self) {
        self.inbox.give_back();
        self.storage.give_back();
        self.links.values().for_each(|link| link.give_back());
        self.liveness.give_back();
        AlignedBuf::give_back();
    }

    /// Carries out what the shards of this turn want done.
    fn finish_turn(&mut self) {
        let refusal = self.write_refusal();
        // After everything that this turn took in: reads by lease are as of now.
        let now = self.env.now();
        let mut next = 0;
        // A message of a shard to itself can touch more shards (itself) while we go.
        while let Some(&at) = self.touched.get(next) {
            next += 1;
            self.shards[at].touched = false;
            if let Some(error) = &refusal {
                self.shards[at].refuse_incoming(error, &mut self.counters);
            }
            self.shards[at].submit(now, &mut self.counters);
            self.send_messages(at);
        }
        // The links before the log: the followers' writes are on the critical path, ours is beside it.
        self.links.values().for_each(|link| link.flush());
        for i in 0..next {
            self.store(self.touched[i]);
        }
        let done = self.touched.len();
        for i in 0..done {
            let at = self.touched[i];
            if self.shards[at].apply(&mut self.counters) {
                self.touch(at); // for the next turn
            }
        }
        self.tend(done);
        self.show(done);
        for i in 0..done {
            self.account(self.touched[i]);
            self.account_hook(self.touched[i], now);
        }
        self.touched.drain(..done);
    }

    /// Shows the observer, if there is one, what became of the first `done` touched shards.
    fn show(&mut self, done: usize) {
        let Some(mut observer) = self.observer.take() else { return };
        observer.after_turn(&self.look(Some(&self.touched[..done])));
        self.observer = Some(observer);
    }

    fn look<'a>(&'a self, touched: Option<&'a [usize]>) -> CoreView<'a> {
        let (requests, request_bytes) = self.inbox.requests();
        let (frames, frame_bytes) = self.inbox.frames();
        let (groups_refused, promises) = self.storage.waiting();
        let wal = self.storage.wal();
        CoreView {
            node: self.config.node,
            core: self.config.core,
            failed: self.failed,
            faults: self.counters.faults,
            limits: &self.config.limits,
            queues: Queues {
                requests,
                request_bytes,
                frames,
                frame_bytes,
                letters: self.letters.0.len(),
                link_bytes_max: self.links.values().map(|l| l.buffered()).max().unwrap_or(0),
                links: self.links.len(),
                groups_refused,
                promises,
                backlog_bytes: wal.backlog_bytes(),
            },
            durable: wal.durable(),
            appended: self.storage.appended(),
            memory: (self.storage.memory_bytes(), self.config.tiers.log_memory_bytes),
            disk: (
                wal.disk_bytes() + self.tiers.store.disk_bytes(),
                self.config.tiers.disk_bytes_max,
            ),
            lost: &self.lost,
            shards: &self.shards,
            touched,
        }
    }

    /// Why writes are refused right now, if they are.
    fn write_refusal(&self) -> Option<ProposeError> {
        if self.failed {
            return Some(ProposeError::StorageFailed(self.failure_text()));
        }
        if !self.storage.wal().has_room() || self.upkeep.refuses() {
            sometimes!(log_no_space);
            return Some(ProposeError::NoSpace);
        }
        if !self.storage.is_accepting() {
            sometimes!(log_backlog_full);
            return Some(ProposeError::Overloaded("the log of this core is behind"));
        }
        self.inbox.stopping.get().then_some(ProposeError::ShuttingDown)
    }

    /// Hands the links what one shard has to say now.
    fn send_messages(&mut self, at: usize) {
        let mut messages = std::mem::take(&mut self.shards[at].effects.messages);
        for (to, message) in messages.drain(..) {
            self.send(at, to, message);
        }
        self.shards[at].effects.messages = messages; // keeps its memory
    }

    /// Hands the log what one shard wants stored, with the promises that rest on it, and publishes
    /// its leadership.
    fn store(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        if self.failed || shard.halted().is_some() {
            shard.effects.clear();
            return;
        }
        shard.hint_commit();
        self.storage.take(shard.id, &mut shard.effects);
        let offered = shard.effects.offered.take();
        let leadership_changed = shard.effects.soft_state.take().is_some();
        shard.end_transfers();
        // Until it is known who leads instead, clients are to come here and wait.
        let wait = shard.raft.leader().is_none() && shard.raft.holds_clients();
        let leadership_changed = (leadership_changed || shard.unpublished) && !wait;
        shard.unpublished = wait;
        let fault = shard.effects.fault.take();
        if shard.effects.configuration.take().is_some() {
            self.publish_replicas(at);
        }
        if leadership_changed {
            self.publish_leadership(at);
        }
        if let Some(offered) = offered {
            self.on_offer(at, offered);
        }
        if let Some(fault) = fault {
            self.counters.faults += 1;
            let reason = format!(
                "a peer contradicts what was promised before: {fault}; acknowledged data was lost \
                 somewhere, or two processes have the same node id"
            );
            self.halt(at, &reason);
        }
    }

    fn send(&mut self, at: usize, to: NodeId, message: Message) {
        if to == self.config.node {
            self.touch(at);
            return self.shards[at].message(to, message);
        }
        let shard = self.shards[at].id;
        let core = self.inbox.view.borrow().core_of(to, shard);
        let link = core.and_then(|core| self.links.get(&PeerCore { node: to, core }));
        sometimes!(link_missing, link.is_none());
        if link.is_some_and(|link| link.send(shard, &message)) {
            self.counters.messages_out += 1;
        } else {
            self.counters.messages_dropped += 1;
        }
    }

    fn publish_leadership(&mut self, at: usize) {
        let shard = self.shards[at].id;
        let (term, leader) = self.shards[at].leadership();
        self.note_leader(shard, term, leader);
    }

    pub(super) fn position_of(&self, shard: ShardId) -> Option<usize> {
        // The shards of a core are a range, but for those that are lost.
        let first = self.shards.first()?.id;
        let at = shard.0.checked_sub(first.0)? as usize;
        match self.shards.get(at) {
            Some(found) if found.id == shard => Some(at),
            _ => self.shards.binary_search_by_key(&shard, |shard| shard.id).ok(),
        }
    }

    pub(super) fn failure_text(&self) -> String {
        self.storage.wal().failure().map_or_else(String::new, |failure| failure.to_string())
    }

    fn publish_counters(&mut self) {
        let stats = self.storage.wal().stats();
        self.counters.wal_batches = stats.batches;
        self.counters.wal_durable_writes = stats.durable_writes;
        self.counters.wal_bytes = stats.written_bytes;
        self.counters.log_memory_bytes = self.storage.memory_bytes();
        self.counters.shards_awake = self.liveness.active() as u64;
        self.inbox.counters.set(self.counters);
    }

    fn status(&self) -> CoreStatus {
        CoreStatus {
            core: self.config.core,
            shards: self.shards.iter().map(Shard::status).collect(),
            counters: self.counters,
            settings: self.settings(),
            storage_failure: self.storage.wal().failure().map(|failure| failure.to_string()),
        }
    }
}

/// A link on which nothing was heard for this long is dead: both sides say something with each heartbeat interval.
pub(super) fn silence_max(config: &CoreConfig) -> Duration {
    4 * config.election_timeout
}

/// Queues a tick at each interval, for as long as the core's tasks live.
async fn tick<E: Env>(env: E, inbox: Rc<Inbox>, interval: Duration) {
    loop {
        env.sleep(interval).await;
        inbox.push(Event::Tick);
    }
}
