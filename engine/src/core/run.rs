//! The event loop of a core, and how a core is opened from its log.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_wal::{Recovery, Wal};
use thiserror::Error;

use super::handle::{Consistency, CoreHandle, Request};
use super::inbox::{Event, Inbox};
use super::link::{Link, PeerCore};
use super::mailbox::{Letter, Letters, Mailbox};
use super::observe::{CoreView, Observer, Queues};
use super::peers::Gate;
use super::records::{Recovered, Replay, ReplayError};
use super::shard::Shard;
use super::status::{CoreCounters, CoreStatus};
use super::storage::Storage;
use super::view::{ClusterView, MemberView};
use crate::env::Env;
use crate::limits::Limits;
use crate::raft::{self, Message, Raft, RaftLog};
use crate::wire::Hello;
use crate::{CoreId, LogIndex, NodeId, ProposeError, QueryError, ShardId, StateMachine, Term};

/// What a core must know to start. The same on all cores of a node but for `core`.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Name that keeps clusters apart.
    pub cluster_id: String,
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// Cores of this node.
    pub cores: u16,
    /// Shards of the cluster.
    pub shards: u32,
    /// All members, this node included.
    pub members: Vec<MemberView>,
    /// A number of this process that no other process has.
    pub instance: u128,
    /// Shortest time without a leader before an election; each replica waits up to twice this.
    pub election_timeout: Duration,
    /// How often a leader lets its followers hear from it.
    pub heartbeat_interval: Duration,
    /// Where this core accepts its peers, `host:port`.
    pub peer_listen: String,
    /// The log.
    pub wal: coracle_wal::Options,
    /// What queues, windows and turns are bounded by.
    pub limits: Limits,
    /// The mailboxes of all cores of this node, in order.
    pub mailboxes: Vec<Mailbox>,
}

/// Why a core could not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The limits contradict each other or the log's options.
    #[error("core {core}: {flaw}")]
    Limits {
        /// Which core.
        core: CoreId,
        /// What is wrong, and what is allowed.
        flaw: String,
    },
    /// The log could not be opened.
    #[error("core {core}: {source}")]
    Wal {
        /// Which core.
        core: CoreId,
        /// What the log said.
        source: coracle_wal::OpenError,
    },
    /// The log holds what the engine did not write.
    #[error("core {core}: {source}")]
    Replay {
        /// Which core.
        core: CoreId,
        /// What is wrong.
        source: ReplayError,
    },
    /// What the log holds of a shard contradicts itself or the configuration.
    #[error("core {core}, shard {shard}: {source}")]
    Replica {
        /// Which core.
        core: CoreId,
        /// Which shard.
        shard: ShardId,
        /// What is wrong.
        source: raft::StartError,
    },
    /// The peer port could not be opened.
    #[error("core {core} cannot listen for peers on {address}: {source}")]
    Listen {
        /// Which core.
        core: CoreId,
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A core, ready to run.
pub struct Core<E: Env> {
    env: E,
    config: CoreConfig,
    inbox: Rc<Inbox>,
    gate: Rc<Gate>,
    letters: Letters,
    storage: Storage<E::Disk>,
    /// The shards of this core, ordered by id.
    shards: Vec<Shard>,
    /// Indices into `shards` that this turn has to look after.
    touched: Vec<usize>,
    links: BTreeMap<PeerCore, Rc<Link>>,
    counters: CoreCounters,
    recovery: Recovery,
    /// A sibling's mailbox was full when we had news for it: tell all again at the next tick.
    news_missed: bool,
    failed: bool,
    /// `None` outside of tests.
    observer: Option<Box<dyn Observer>>,
}

impl<E: Env> Core<E> {
    /// Reads the log in `disk`, brings up the replicas that this core hosts, and starts to listen
    /// for peers and to dial them. Nothing moves before [`Core::run`].
    ///
    /// # Errors
    /// [`OpenError`] when the log or the port is not usable. Nothing is changed then.
    pub async fn open(
        env: E,
        disk: E::Disk,
        config: CoreConfig,
        machines: &dyn Fn(ShardId) -> Box<dyn StateMachine>,
    ) -> Result<Self, OpenError> {
        let (core, limits) = (config.core, config.limits);
        // Taken first, so that whoever wrote to a core that could not start gets an answer.
        let letters = Letters(config.mailboxes[usize::from(core.0)].clone());
        if let Some(flaw) = limits.flaw(config.wal.group_bytes_max()) {
            return Err(OpenError::Limits { core, flaw });
        }
        let mut replay = Replay::default();
        let (wal, driver, recovery) =
            Wal::open(disk, config.wal.clone(), &mut |record| replay.visit(&record))
                .await
                .map_err(|source| OpenError::Wal { core, source })?;
        let mut recovered = replay.finish().map_err(|source| OpenError::Replay { core, source })?;
        let address = config.peer_listen.clone();
        let listener = env.listen(&address).await.map_err(|source| OpenError::Listen {
            core,
            address,
            source,
        })?;
        // Its failure is latched in the log, where every turn looks for it.
        env.spawn(async move { drop(driver.run().await) });

        let inbox = Rc::new(Inbox::new(first_view(&config), limits));
        let gate = Gate::new(inbox.clone(), hello(&config), silence_max(&config));
        let hosted = (0..config.shards).map(ShardId).filter(|s| inbox.view.borrow().is_local(*s));
        let mut shards = Vec::new();
        for id in hosted {
            let found = recovered.remove(&id).unwrap_or_default();
            let raft = bring_up(&config, id, found, &env).map_err(|source| OpenError::Replica {
                core,
                shard: id,
                source,
            })?;
            shards.push(Shard::new(id, raft, machines(id), limits));
        }
        gate.start(&env, listener);
        Ok(Self {
            letters,
            storage: Storage::new(wal, limits),
            env,
            config,
            inbox,
            gate,
            shards,
            touched: Vec::new(),
            links: BTreeMap::new(),
            counters: CoreCounters::default(),
            recovery,
            news_missed: false,
            failed: false,
            observer: None,
        })
    }

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
        self.publish_counters();
    }

    fn check_storage(&mut self) {
        let Some(failure) = self.storage.wal().failure() else { return };
        let reason = failure.to_string();
        if !self.failed {
            sometimes!(log_failed);
            tracing::error!(core = %self.config.core, "the log failed, this core stops serving: {reason}");
            self.failed = true;
            self.gate.close();
            self.disown_shards();
        }
        self.shards.iter_mut().for_each(|shard| shard.fail(&reason));
    }

    /// A core whose log has failed leads nothing; who leads instead it will not learn.
    fn disown_shards(&mut self) {
        for at in 0..self.shards.len() {
            let (shard, (term, _)) = (self.shards[at].id, self.shards[at].leadership());
            if self.inbox.view.borrow_mut().note_leader(shard, term, None) {
                self.tell_siblings(shard, term, None);
            }
        }
    }

    /// What became durable is told to Raft; the messages that waited for it go.
    fn keep_promises(&mut self) {
        while let Some(promise) = self.storage.next_kept() {
            let Some(at) = self.position_of(promise.shard) else { continue };
            if let Some(mark) = promise.mark {
                self.shards[at].step(raft::Event::Durable(mark));
                self.touch(at);
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
                Some(Letter::Status(answer)) => drop(answer.send(self.status())),
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
                    Some(at) if !self.failed => {
                        self.touch(at);
                        return self.shards[at].propose(payload, accepted, answer);
                    }
                    Some(_) => ProposeError::StorageFailed(self.failure_text()),
                    None => ProposeError::UnknownShard(shard),
                };
                if let Some(accepted) = accepted {
                    let _ = accepted.send(Err(error.clone()));
                }
                let _ = answer.send(Err(error));
            }
            Request::Query { shard, payload, consistency, answer } => {
                let Some(at) = self.position_of(shard) else {
                    return drop(answer.send(Err(QueryError::UnknownShard(shard))));
                };
                match consistency {
                    Consistency::Stale => self.shards[at].query_stale(&payload, answer),
                    Consistency::Linearizable if self.failed => {
                        let _ = answer.send(Err(QueryError::NotLeader { shard, leader: None }));
                    }
                    Consistency::Linearizable => {
                        self.touch(at);
                        self.shards[at].query(payload, answer);
                    }
                }
            }
        }
    }

    fn on_message(&mut self, link: &Link, shard: ShardId, message: Message) {
        let Some(at) = self.position_of(shard) else {
            return tracing::debug!(peer = %link.peer, %shard, "message for a shard that is not here");
        };
        if self.failed || !self.can_take(&message) {
            self.counters.messages_dropped += 1;
            return;
        }
        self.shards[at].message(link.peer.node, message);
        self.touch(at);
    }

    /// Whether the log can take what a message may want stored. Entries that it could not take would
    /// pile up, and the leader sends them again; what room is left on a full disk is for votes.
    fn can_take(&self, message: &Message) -> bool {
        if message.has_entries() {
            let can = self.storage.is_accepting() && self.storage.wal().has_room();
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
        self.links.insert(peer, link);
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
        self.note_member_up(peer.node);
        self.step_shards_of(peer, |node| raft::Event::PeerUnreachable { node });
    }

    fn note_member_up(&self, node: NodeId) {
        let up = self.links.keys().any(|peer| peer.node == node);
        let mut view = self.inbox.view.borrow_mut();
        if let Some(member) = view.members.iter_mut().find(|member| member.id == node) {
            member.up = up;
        }
    }

    /// Steps every shard that has its replica on `peer`.
    fn step_shards_of(&mut self, peer: PeerCore, event: impl Fn(NodeId) -> raft::Event) {
        for at in 0..self.shards.len() {
            let shard = self.shards[at].id;
            if self.inbox.view.borrow().core_of(peer.node, shard) == Some(peer.core) {
                self.shards[at].step(event(peer.node));
                self.touch(at);
            }
        }
    }

    fn on_tick(&mut self) {
        let now = self.env.now();
        if self.failed {
            return;
        }
        self.storage.wal().retry_space();
        for at in 0..self.shards.len() {
            self.shards[at].step(raft::Event::Tick { now });
            self.shards[at].give_up_on_lost(now, 2 * self.config.election_timeout);
            self.touch(at);
        }
        let silence_max = silence_max(&self.config);
        self.links.values().for_each(|link| link.watch(now, silence_max));
        if std::mem::take(&mut self.news_missed) {
            for at in 0..self.shards.len() {
                let (term, leader) = self.shards[at].leadership();
                self.tell_siblings(self.shards[at].id, term, leader);
            }
        }
    }

    /// Carries out what the shards of this turn want done.
    fn finish_turn(&mut self) {
        let refusal = self.write_refusal();
        let mut next = 0;
        // A message of a shard to itself can touch more shards (itself) while we go.
        while let Some(&at) = self.touched.get(next) {
            next += 1;
            self.shards[at].touched = false;
            if let Some(error) = &refusal {
                self.shards[at].refuse_incoming(error, &mut self.counters);
            }
            self.shards[at].submit(&mut self.counters);
            self.send_messages(at);
        }
        // The links before the log: the followers' writes are on the critical path, ours is beside it.
        let now = self.env.now();
        self.links.values().for_each(|link| link.flush(now));
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
        self.show(done);
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
            shards: &self.shards,
            touched,
        }
    }

    /// Why writes are refused right now, if they are.
    fn write_refusal(&self) -> Option<ProposeError> {
        if self.failed {
            return Some(ProposeError::StorageFailed(self.failure_text()));
        }
        if !self.storage.wal().has_room() {
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
        if self.failed {
            shard.effects.clear();
            return;
        }
        self.storage.take(shard.id, &mut shard.effects);
        let leadership_changed = shard.effects.soft_state.take().is_some();
        let fault = shard.effects.fault.take();
        if leadership_changed {
            self.publish_leadership(at);
        }
        if let Some(fault) = fault {
            self.counters.faults += 1;
            // Dropping what cannot be keeps this replica's promises; somebody has to look at it.
            let shard = self.shards[at].id;
            tracing::error!(%shard, "a peer contradicts what was promised before: {fault}");
        }
    }

    fn send(&mut self, at: usize, to: NodeId, message: Message) {
        if to == self.config.node {
            self.shards[at].message(to, message);
            return self.touch(at);
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
        if self.inbox.view.borrow_mut().note_leader(shard, term, leader) {
            tracing::debug!(%shard, %term, ?leader, "leadership changed");
            self.tell_siblings(shard, term, leader);
        }
    }

    fn tell_siblings(&mut self, shard: ShardId, term: Term, leader: Option<NodeId>) {
        for (core, mailbox) in self.config.mailboxes.iter().enumerate() {
            let ours = core == usize::from(self.config.core.0);
            if !ours && mailbox.post(Letter::Leader { shard, term, leader }).is_err() {
                sometimes!(sibling_news_missed);
                self.news_missed = true;
            }
        }
    }

    fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.shards[at].touched, true) {
            self.touched.push(at);
        }
    }

    fn position_of(&self, shard: ShardId) -> Option<usize> {
        // The shards of a core are a range.
        let first = self.shards.first()?.id;
        let at = shard.0.checked_sub(first.0)? as usize;
        (at < self.shards.len()).then_some(at)
    }

    fn failure_text(&self) -> String {
        self.storage.wal().failure().map_or_else(String::new, |failure| failure.to_string())
    }

    fn publish_counters(&mut self) {
        let stats = self.storage.wal().stats();
        self.counters.wal_batches = stats.batches;
        self.counters.wal_durable_writes = stats.durable_writes;
        self.counters.wal_bytes = stats.written_bytes;
        self.inbox.counters.set(self.counters);
    }

    fn status(&self) -> CoreStatus {
        CoreStatus {
            core: self.config.core,
            shards: self.shards.iter().map(Shard::status).collect(),
            counters: self.counters,
            storage_failure: self.storage.wal().failure().map(|failure| failure.to_string()),
        }
    }
}

/// A link on which nothing was heard for this long is dead: both sides say something at least every
/// third of it.
fn silence_max(config: &CoreConfig) -> Duration {
    4 * config.election_timeout
}

fn first_view(config: &CoreConfig) -> ClusterView {
    let mut members = config.members.clone();
    members.sort_by_key(|member| member.id);
    for member in &mut members {
        if member.id == config.node {
            member.cores = Some(config.cores);
            member.up = true;
        }
    }
    ClusterView {
        cluster_id: config.cluster_id.clone(),
        node: config.node,
        core: config.core,
        shards: config.shards,
        members,
        leaders: vec![(Term(0), None); config.shards as usize],
    }
}

fn hello(config: &CoreConfig) -> Hello {
    Hello {
        cluster_id: config.cluster_id.clone(),
        node: config.node,
        core: config.core,
        cores: config.cores,
        shards: config.shards,
        instance: config.instance,
    }
}

fn bring_up<E: Env>(
    config: &CoreConfig,
    shard: ShardId,
    found: Recovered,
    env: &E,
) -> Result<Raft, raft::StartError> {
    let voters = config.members.iter().map(|member| member.id).collect();
    // Shards of a node must not all wait for the same time.
    let seed = env.random() ^ u64::from(shard.0);
    let limits = &config.limits;
    let raft_config = raft::Config {
        election_timeout: config.election_timeout,
        heartbeat_interval: config.heartbeat_interval,
        payload_bytes_max: limits.payload_bytes_max,
        append_bytes_min: limits.append_bytes_min,
        append_bytes_max: limits.append_bytes_max,
        inflight_messages_max: limits.inflight_messages_max,
        inflight_bytes_max: limits.inflight_bytes_max,
        uncommitted_bytes_max: limits.uncommitted_bytes_max,
        read_batches_max: limits.read_batches_max,
        ..raft::Config::new(config.node, voters, seed)
    };
    let log = RaftLog::in_memory(LogIndex(0), Term(0), found.entries)?;
    Raft::new(raft_config, found.hard_state, log, env.now())
}

/// Queues a tick at each interval, for as long as the core's tasks live.
async fn tick<E: Env>(env: E, inbox: Rc<Inbox>, interval: Duration) {
    loop {
        env.sleep(interval).await;
        inbox.push(Event::Tick);
    }
}
