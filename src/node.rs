//! A node: its cores started, reached, and stopped. The heart of the embedding API.
//!
//! [`Node::builder`] takes a configuration, a factory of state machines (one for each shard, made on
//! the thread of the core that hosts it) and, if wanted, a service: an async function that runs on
//! every core beside the shards, with a listener on the core's client port. The server is such a
//! service; an embedder's own protocol is another.
//!
//! [`NodeHandle`] is the way in from any thread and any runtime.

use std::net::TcpListener as AdminListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::core::{
    ClusterEvent, ClusterEvents, Committed, Consistency, Core, CoreConfig, CoreHandle, CoreStatus,
    DrainReport, Mailbox, MemberStatus, MemberView, NewsQueue, Pending, Position, RemoteCore,
    Setting, SettingError, ShardStatus,
};
use coracle_engine::env::Env;
use coracle_engine::limits::{Limits, SUBSCRIBERS_MAX};
use coracle_engine::raft::LeaseConfig;
use coracle_engine::raft::membership::Reconfiguration;
use futures_channel::oneshot;
use futures_util::future::select;
use thiserror::Error;

use crate::admin::{AdminOptions, AdminServer};
use crate::data_dir::{DataDir, DataDirError, random_u128};
use crate::limits::DRAIN_TIMEOUT;
use crate::members::{Keeper, KeeperThread};
use crate::runtime::{self, CoreHandle as CoreThread, CoreSpec, GlommioEnv, TcpListener};
use crate::uring::UringDisk;
use crate::{
    AddMemberError, Config, ConfigError, CoreId, LogIndex, MemberRecord, NodeId, Pin as PinMode,
    ProposeError, QueryError, ReconfigureError, RemoveMemberError, ShardId, SnapshotRequestError,
    StateMachine, TransferError,
};

/// Makes the state machine of a shard. Called once for each shard, on its core's thread.
pub type MachineFactory = Arc<dyn Fn(ShardId) -> Box<dyn StateMachine> + Send + Sync>;

/// What a service is given on each core.
pub struct ServiceContext {
    /// The core's runtime: tasks, clock, streams.
    pub env: GlommioEnv,
    /// The core's shards.
    pub core: CoreHandle,
    /// Bound to the core's client port.
    pub listener: TcpListener,
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
type Service = Arc<dyn Fn(ServiceContext) -> LocalFuture + Send + Sync>;

/// Why a node did not start. Whatever had been started is stopped again.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The data directory is not usable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The node has run before, with other voters.
    #[error(
        "this node started first with the voters {first}, now they are {now}: they are for good, whoever votes by now; \
         leave --voter (or 'voters') away, or name the first ones"
    )]
    Voters {
        /// At the first start.
        first: String,
        /// In the configuration.
        now: String,
    },
    /// The thread that keeps the members could not be started.
    #[error("cannot start the thread that keeps the members: {0}")]
    Keeper(std::io::Error),
    /// The machine does not let us do what a core needs.
    #[error(transparent)]
    Preflight(#[from] runtime::preflight::PreflightError),
    /// The host name of a member could not be resolved.
    #[error(transparent)]
    Resolve(#[from] runtime::ResolveError),
    /// A core's thread or its runtime could not be started.
    #[error("cannot start core {core}: {reason}")]
    Core {
        /// Which core.
        core: CoreId,
        /// What went wrong.
        reason: String,
    },
    /// A core's log, its replicas or its peer port are not usable.
    #[error(transparent)]
    Open(#[from] coracle_engine::core::OpenError),
    /// The client port could not be opened.
    #[error("core {core} cannot listen for clients on {address}: {source}")]
    Listen {
        /// Which core.
        core: CoreId,
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The admin port could not be opened.
    #[error(
        "cannot listen for administration on {address}: {source}; choose another address with --admin \
         HOST:PORT (`admin` in the file), or do without with --no-admin"
    )]
    Admin {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}

fn listen_for_admin(config: &Config, address: &str) -> Result<AdminListener, StartError> {
    // Said here because it would be found later, and blamed on those ports.
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let is_in = |first: u16| port.is_some_and(|port| port >= first && port - first < config.cores);
    let own = config.own_member().is_some_and(|own| is_in(own.client_port) || is_in(own.peer_port));
    let listener = match own {
        true => Err(std::io::Error::other("this node has it for its clients or its peers")),
        false => AdminListener::bind(address),
    };
    listener.map_err(|source| StartError::Admin { address: address.to_owned(), source })
}

/// Where others find an admin port: on the host for peers, if it listens on all interfaces.
fn published(config: &Config, listener: &AdminListener) -> Option<String> {
    let address = listener.local_addr().ok()?;
    let host = &config.own_member()?.peer_host;
    match address.ip().is_unspecified() {
        true => Some(format!("{host}:{}", address.port())),
        false => Some(address.to_string()),
    }
}

/// A node being described. Made by [`Node::builder`].
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    config: Config,
    machines: MachineFactory,
    service: Option<Service>,
    admin: Option<String>,
    admin_options: AdminOptions,
}

impl NodeBuilder {
    /// Opens an [admin port](crate::admin) at `host:port`; port 0 is any that is free, which the log tells. Whoever
    /// reaches it administers the cluster. Without this, there is none.
    pub fn admin(mut self, address: impl Into<String>) -> Self {
        self.admin = Some(address.into());
        self
    }

    /// Lets the admin port do more than its node.
    pub fn admin_options(mut self, options: AdminOptions) -> Self {
        self.admin_options = options;
        self
    }

    /// Runs `service` on every core, with a listener on the core's client port. It ends when
    /// [`CoreHandle::stopping`] resolves and it has answered what is in flight; it is given a bounded
    /// time for that. Without a service, the client ports stay closed.
    pub fn service<F, S>(mut self, service: S) -> Self
    where
        S: Fn(ServiceContext) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.service = Some(Arc::new(move |context| Box::pin(service(context)) as LocalFuture));
        self
    }

    /// Starts the node: returns when all its cores have read their logs, listen, and run.
    ///
    /// # Errors
    /// [`StartError`] with what to do about it. Nothing is left running.
    pub fn start(self) -> Result<Node, StartError> {
        let Self { config, machines, service, admin, admin_options } = self;
        config.validate()?;
        runtime::preflight::prepare(usize::from(config.cores), runtime::IO_MEMORY_BYTES)?;
        let data_dir = Arc::new(DataDir::open(&config)?);
        let admin = admin.map(|address| listen_for_admin(&config, &address)).transpose()?;
        let admin_address = admin.as_ref().and_then(|listener| published(&config, listener));
        let mailboxes: Vec<Mailbox> = (0..config.cores).map(|_| Mailbox::new()).collect();
        let (keeper, news) =
            Keeper::open(&config, &data_dir, admin_address.clone(), mailboxes.clone())?;
        let shared = Arc::new(CoreStart {
            core_config: core_config(&config, &keeper, news.clone(), mailboxes)?,
            cpus: choose_cpus(&config, &keeper),
            config,
            data_dir,
            machines,
            service,
        });
        let mut node = start_cores(&shared, news.clone())?;
        let started = keeper.start(news).map_err(StartError::Keeper)?;
        node.keeper = Some(started);
        if let Some(listener) = admin {
            let server = AdminServer::start(listener, node.handle(), admin_options);
            let server = server.map_err(|source| StartError::Admin {
                address: admin_address.unwrap_or_default(),
                source,
            })?;
            node.admin = Some(server);
        }
        Ok(node)
    }
}

/// What the start of each core needs. Shared until all have started.
struct CoreStart {
    config: Config,
    /// Of core 0; the others differ in `core` and ports.
    core_config: CoreConfig,
    cpus: Option<Vec<usize>>,
    data_dir: Arc<DataDir>,
    machines: MachineFactory,
    service: Option<Service>,
}

/// A running node. Dropping it stops it, too, but [`Node::stop`] says how it went.
pub struct Node {
    handle: NodeHandle,
    mailboxes: Vec<Mailbox>,
    threads: Vec<CoreThread<()>>,
    /// Ends before the lock on the directory does: it writes there.
    keeper: Option<KeeperThread>,
    /// Dropped after the cores have ended: until then they can be asked how they are.
    admin: Option<AdminServer>,
    /// Held until all cores have ended.
    _data_dir: Arc<DataDir>,
}

impl Node {
    /// Describes a node of `config` whose shards have the state machines that `machines` makes.
    pub fn builder(
        config: Config,
        machines: impl Fn(ShardId) -> Box<dyn StateMachine> + Send + Sync + 'static,
    ) -> NodeBuilder {
        NodeBuilder {
            config,
            machines: Arc::new(machines),
            service: None,
            admin: None,
            admin_options: AdminOptions::default(),
        }
    }

    /// The way in. Cheap to clone; outlives the node, and then answers `ShuttingDown`.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Stops the node: leadership is handed over, which takes two election timeouts at most; then nothing new is
    /// accepted, what is in flight is finished within a bounded time, the logs are made durable. Blocks until all
    /// is done.
    pub fn stop(mut self) {
        self.stop_cores(Mailbox::drain_and_stop);
    }

    fn stop_cores(&mut self, stop: fn(&Mailbox) -> bool) {
        self.keeper = None;
        for (mailbox, thread) in self.mailboxes.iter().zip(&self.threads) {
            while !thread.is_finished() && !stop(mailbox) {
                std::thread::yield_now(); // full: the core is emptying it
            }
        }
        for thread in self.threads.drain(..) {
            if let Err(error) = thread.join() {
                tracing::error!("{error}");
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_cores(Mailbox::stop);
    }
}

/// The way into a node from any thread and any runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeHandle(Arc<HandleInner>);

#[derive(Debug)]
struct HandleInner {
    id: NodeId,
    cluster_id: String,
    shards: u32,
    election_timeout: Duration,
    cores: Vec<RemoteCore>,
    news: NewsQueue,
    /// How many subscriptions there are.
    subscribers: Arc<()>,
}

impl NodeHandle {
    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// The name of its cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.0.cluster_id
    }

    /// Shards of the cluster.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.0.shards
    }

    /// Shortest time without a leader before an election.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        self.0.election_timeout
    }

    /// Proposes `payload` to `shard`. Resolves when it is committed durably and applied on this node,
    /// or with the reason why it is not.
    ///
    /// # Errors
    /// [`ProposeError`]: `NotLeader` says where to try, `Overloaded` is said at once when a limit is
    /// reached, `OutcomeUnknown` when leadership was lost with the proposal in flight.
    pub fn propose(
        &self,
        shard: ShardId,
        payload: impl Into<Bytes>,
    ) -> Pending<Committed, ProposeError> {
        match self.core_of(shard) {
            Some(core) => core.propose(shard, payload.into()),
            None => Pending::ready(Err(ProposeError::UnknownShard(shard))),
        }
    }

    /// Like [`NodeHandle::propose`], in two steps: where the entry stands in the leader's log, and
    /// later its result.
    ///
    /// # Errors
    /// As [`NodeHandle::propose`], from each of the two.
    pub fn propose_in_steps(
        &self,
        shard: ShardId,
        payload: impl Into<Bytes>,
    ) -> (Pending<Position, ProposeError>, Pending<Committed, ProposeError>) {
        match self.core_of(shard) {
            Some(core) => core.propose_in_steps(shard, payload.into()),
            None => {
                let error = ProposeError::UnknownShard(shard);
                (Pending::ready(Err(error.clone())), Pending::ready(Err(error)))
            }
        }
    }

    /// Asks the state machine of `shard`. With [`Consistency::Linearizable`] this node has to lead it. With
    /// [`Consistency::Bounded`] any node that has a replica answers, from a state that is shown to be new enough; with
    /// [`Consistency::Stale`], from whatever it has.
    ///
    /// # Errors
    /// [`QueryError`]; a query may always be asked again.
    pub fn query(
        &self,
        shard: ShardId,
        request: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Pending<Bytes, QueryError> {
        match self.core_of(shard) {
            Some(core) => core.query(shard, request.into(), consistency),
            None => Pending::ready(Err(QueryError::UnknownShard(shard))),
        }
    }

    /// How `shard`, which this node must lead, is at some moment between call and answer, as a quorum has confirmed:
    /// who leads it in which term, what is committed and applied, who belongs to it and how far each of them is.
    /// [`NodeHandle::status`] tells at once, and on every node, what that node knew last, which may be old.
    ///
    /// # Errors
    /// [`QueryError`]: `NotLeader` names who is to be asked instead. It may always be asked again.
    pub fn shard_status(&self, shard: ShardId) -> Pending<ShardStatus, QueryError> {
        match self.core_of(shard) {
            Some(core) => core.shard_status(shard),
            None => Pending::ready(Err(QueryError::UnknownShard(shard))),
        }
    }

    /// Has this node take a snapshot of its replica of `shard`, whether one is due or not. Resolves with the
    /// index of the last entry in it when it is durable.
    ///
    /// # Errors
    /// [`SnapshotRequestError`]; the state and the log are as before then.
    pub fn snapshot(&self, shard: ShardId) -> Pending<LogIndex, SnapshotRequestError> {
        match self.core_of(shard) {
            Some(core) => core.snapshot(shard),
            None => Pending::ready(Err(SnapshotRequestError::UnknownShard(shard))),
        }
    }

    /// Changes who belongs to `shard`, which this node must lead: see
    /// [`CoreHandle::reconfigure`](coracle_engine::core::CoreHandle::reconfigure). Resolves when the change is
    /// committed; one that goes through a joint configuration is left by the leader afterwards, which
    /// [`NodeHandle::status`] tells.
    ///
    /// # Errors
    /// [`ReconfigureError`]: `Refused` says why nothing was changed and what to do, `OutcomeUnknown` that leadership
    /// was lost meanwhile.
    pub fn reconfigure(
        &self,
        shard: ShardId,
        change: Reconfiguration,
    ) -> Pending<Position, ReconfigureError> {
        match self.core_of(shard) {
            Some(core) => core.reconfigure(shard, change),
            None => Pending::ready(Err(ReconfigureError::UnknownShard(shard))),
        }
    }

    /// Hands leadership of `shard`, which this node must have, over to node `to`, or to whoever can take it soonest.
    /// Resolves within about an election timeout, with the node that leads. Meanwhile requests wait, and are then
    /// refused as `NotLeader` with the name of the leader.
    ///
    /// # Errors
    /// [`TransferError`]; this node leads on, or another one than was chosen.
    pub fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Option<NodeId>,
    ) -> Pending<NodeId, TransferError> {
        match self.core_of(shard) {
            Some(core) => core.transfer_leadership(shard, to),
            None => Pending::ready(Err(TransferError::UnknownShard(shard))),
        }
    }

    /// Hands over all shards that this node leads, and says what came of it on each core; those that have ended are
    /// left out. It takes two election timeouts at most. From then on the node declines to lead until it is started
    /// again; it goes on to vote and to store.
    pub async fn drain(&self) -> Vec<DrainReport> {
        let all = futures_util::future::join_all(self.0.cores.iter().map(RemoteCore::drain));
        all.await.into_iter().flatten().collect()
    }

    /// All members of the cluster, those that were removed included: where they are reached, and what this node knows of
    /// each besides. In the order of their ids. Empty when the node has ended.
    pub async fn members(&self) -> Vec<MemberStatus> {
        match self.0.cores.first() {
            Some(first) => first.members().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Adds a member to the cluster, or changes how one is reached. The version of `record` and whether it says
    /// `removed` do not matter; what it leaves open stays as it is known. Resolves with the new record when
    /// this node has it on disk; the others hear of it at once, or when they are there again. A new member
    /// belongs to no shard: [`NodeHandle::reconfigure`] adds it to them. One that was removed comes back this way.
    ///
    /// # Errors
    /// [`AddMemberError`]; nothing has changed then.
    pub fn add_member(&self, record: MemberRecord) -> Pending<MemberRecord, AddMemberError> {
        self.0.news.add(record)
    }

    /// Removes a member from the cluster: no node talks to it any more, but for telling it so. Resolves with its record
    /// when this node has that on disk. Unless `force` is given, it is refused for a node that belongs to a shard, as
    /// far as this node knows.
    ///
    /// # Errors
    /// [`RemoveMemberError`]; nothing has changed then.
    pub async fn remove_member(
        &self,
        id: NodeId,
        force: bool,
    ) -> Result<MemberRecord, RemoveMemberError> {
        if !force {
            let status = self.status().await;
            let shards = status.iter().flat_map(|core| &core.shards);
            let of = shards.filter(|shard| shard.configuration.is_member(id));
            let of: Vec<ShardId> = of.map(|shard| shard.shard).collect();
            if let Some(&example) = of.first() {
                return Err(RemoveMemberError::InUse { id, shards: of.len(), example });
            }
        }
        self.0.news.remove(id).await
    }

    /// Changes a setting of all cores, until the node ends.
    ///
    /// # Errors
    /// [`SettingError`]. What makes no sense is refused by all cores; else the same may be asked for again.
    pub async fn set(&self, setting: Setting) -> Result<(), SettingError> {
        for core in &self.0.cores {
            core.set(setting).await?;
        }
        Ok(())
    }

    /// Who leads `shard`, as far as this node knows.
    pub async fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let status = self.core_of(shard)?.status().await?;
        status.shards.iter().find(|found| found.shard == shard)?.leader
    }

    /// Begins to tell what changes on this node: leaders, members, snapshots, its health. `None` if there are
    /// [`SUBSCRIBERS_MAX`] subscriptions already, or a core has ended or has too much to do.
    ///
    /// What is told and in which order is said in [`Changes`](coracle_engine::core::ClusterEvents); a subscriber that takes
    /// nothing never holds the node up.
    ///
    /// ```no_run
    /// # async fn watch(node: coracle::NodeHandle) {
    /// use coracle_engine::core::ClusterEvent;
    ///
    /// let Some(mut events) = node.subscribe() else { return };
    /// while let Some(event) = events.next().await {
    ///     if let ClusterEvent::Leader { shard, leader: None, .. } = event {
    ///         println!("nobody leads shard {shard}");
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn subscribe(&self) -> Option<Subscription> {
        let counted = self.0.subscribers.clone();
        // One is ours, one is that of the node.
        let taken = Arc::strong_count(&counted) - 2;
        let events = (taken < SUBSCRIBERS_MAX).then(|| RemoteCore::subscribe(&self.0.cores))??;
        Some(Subscription { events, _counted: counted })
    }

    /// How each core is and what it knows of its shards, without asking anybody; those that have ended are left out.
    /// What a leader knows for sure, [`NodeHandle::shard_status`] tells.
    pub async fn status(&self) -> Vec<CoreStatus> {
        let mut all = Vec::with_capacity(self.0.cores.len());
        for core in &self.0.cores {
            all.extend(core.status().await);
        }
        all
    }

    fn core_of(&self, shard: ShardId) -> Option<&RemoteCore> {
        let cores = u16::try_from(self.0.cores.len()).ok()?;
        if shard.0 >= self.0.shards {
            return None;
        }
        self.0.cores.get(usize::from(CoreId::hosting(shard, self.0.shards, cores).0))
    }
}

/// What changes on a node, as it happens: see [`NodeHandle::subscribe`].
#[derive(Debug)]
pub struct Subscription {
    events: ClusterEvents,
    _counted: Arc<()>,
}

impl Subscription {
    /// The next event; `None` when the node has ended.
    pub async fn next(&mut self) -> Option<ClusterEvent> {
        self.events.next().await
    }
}

/// The engine's configuration of core 0.
fn core_config(
    config: &Config,
    keeper: &Keeper,
    news: NewsQueue,
    mailboxes: Vec<Mailbox>,
) -> Result<CoreConfig, StartError> {
    let mut wal = coracle_wal::Options::default();
    wal.segment_bytes = u64::from(config.segment_mib) << 20;
    wal.start_on_damage = config.start_on_damage;
    Ok(CoreConfig {
        cluster_id: config.cluster_id.clone(),
        node: config.id,
        core: CoreId(0),
        cores: config.cores,
        shards: config.shards,
        members: keeper.update().members.clone(),
        book: keeper.update().book.clone(),
        news: Some(news),
        join: keeper.join().map(str::to_owned),
        voters: keeper.voters(),
        instance: random_u128().map_err(|source| StartError::Core {
            core: CoreId(0),
            reason: format!("no random numbers: {source}"),
        })?,
        election_timeout: config.election_timeout(),
        lease: config.lease_drift_ppm.map(|drift_ppm| LeaseConfig { drift_ppm }),
        quiesce: true,
        detection: config.failure_detector.into(),
        priority: config.priority,
        spread_leaders: config.spread_leaders,
        replica_read_staleness: config.replica_read_staleness(),
        heartbeat_interval: config.heartbeat_interval(),
        peer_listen: String::new(),
        wal,
        limits: Limits::default(),
        tiers: config.tiers(),
        mailboxes,
    })
}

/// One CPU for each core, or none for any.
fn choose_cpus(config: &Config, keeper: &Keeper) -> Option<Vec<usize>> {
    let cpus = runtime::allowed_cpus();
    let cores = usize::from(config.cores);
    // Members on our own host take their share of the same CPUs; by rank, so that none collide.
    let here = keeper.members_here();
    let rank = here.iter().position(|id| *id == config.id).unwrap_or(0);
    match config.pin {
        PinMode::Never => None,
        PinMode::Always => Some((0..cores).map(|core| cpus[core % cpus.len()]).collect()),
        PinMode::Auto if here.len() * cores > cpus.len() => {
            tracing::info!(
                "{} cores for {} CPUs: running unpinned",
                here.len() * cores,
                cpus.len()
            );
            None
        }
        PinMode::Auto => Some((0..cores).map(|core| cpus[rank * cores + core]).collect()),
    }
}

fn start_cores(shared: &Arc<CoreStart>, news: NewsQueue) -> Result<Node, StartError> {
    let mailboxes = shared.core_config.mailboxes.clone();
    let cores = mailboxes.iter().cloned().map(RemoteCore::new).collect();
    let inner = HandleInner {
        id: shared.config.id,
        cluster_id: shared.config.cluster_id.clone(),
        shards: shared.config.shards,
        election_timeout: shared.config.election_timeout(),
        cores,
        news,
        subscribers: Arc::default(),
    };
    let mut node = Node {
        handle: NodeHandle(Arc::new(inner)),
        mailboxes,
        threads: Vec::new(),
        keeper: None,
        admin: None,
        _data_dir: shared.data_dir.clone(),
    };
    let (ready, started) = mpsc::channel();
    for core in (0..shared.config.cores).map(CoreId) {
        let spec = CoreSpec {
            cpu: shared.cpus.as_ref().map(|cpus| cpus[usize::from(core.0)]),
            ..CoreSpec::new(format!("coracle-{}-{}", shared.config.id, core))
        };
        let (shared, ready_here) = (shared.clone(), ready.clone());
        let thread = runtime::spawn_core(spec, move |env| run_core(shared, core, env, ready_here))
            .map_err(|error| StartError::Core { core, reason: error.to_string() })?;
        node.threads.push(thread);
    }
    drop(ready);
    for _ in 0..shared.config.cores {
        match started.recv() {
            Ok(result) => result?,
            Err(mpsc::RecvError) => {
                let reason = "its thread ended before it was ready".to_owned();
                return Err(StartError::Core { core: CoreId(0), reason });
            }
        }
    }
    Ok(node)
}

/// The life of a core on its thread.
async fn run_core(
    shared: Arc<CoreStart>,
    core: CoreId,
    env: GlommioEnv,
    ready: mpsc::Sender<Result<(), StartError>>,
) {
    let (opened, service) = match open_core(&shared, core, &env).await {
        Ok(opened) => opened,
        Err(error) => return drop(ready.send(Err(error))),
    };
    drop(shared);
    let _ = ready.send(Ok(()));
    drop(ready);
    // A task of its own: the core's loop turns far more often than the service has to look.
    let service_ended = service.map(|service| {
        let (ended, service_ended) = oneshot::channel();
        env.spawn(async move {
            service.await;
            let _ = ended.send(());
        });
        service_ended
    });
    opened.run().await;
    if let Some(ended) = service_ended {
        // The core has answered everything; let the answers leave.
        select(ended, std::pin::pin!(env.sleep(DRAIN_TIMEOUT))).await;
    }
}

async fn open_core(
    shared: &CoreStart,
    core: CoreId,
    env: &GlommioEnv,
) -> Result<(Core<GlommioEnv>, Option<LocalFuture>), StartError> {
    let config = &shared.config;
    let dir: PathBuf = shared.data_dir.core_dir(core);
    let disk = UringDisk::open(&dir, config.sync_method).await.map_err(|error| {
        StartError::Core { core, reason: format!("its log directory {}: {error}", dir.display()) }
    })?;
    let mut core_config = shared.core_config.clone();
    core_config.core = core;
    core_config.wal.log_id = shared.data_dir.log_id(core);
    let own = config.own_member().ok_or(ConfigError::NotAMember(config.id))?;
    core_config.peer_listen =
        format!("{}:{}", resolve_own(&core_config, |m| &m.peer_host), own.peer_port + core.0);
    let client =
        format!("{}:{}", resolve_own(&core_config, |m| &m.client_host), own.client_port + core.0);

    // The client port first: a port in use should be found before anything is written.
    let listener = match &shared.service {
        None => None,
        Some(service) => Some((
            service,
            env.listen(&client).await.map_err(|source| StartError::Listen {
                core,
                address: client.clone(),
                source,
            })?,
        )),
    };
    let opened = Core::open(env.clone(), disk, core_config, &*shared.machines).await?;
    let service = listener.map(|(service, listener)| {
        service(ServiceContext { env: env.clone(), core: opened.handle(), listener })
    });
    Ok((opened, service))
}

fn resolve_own(config: &CoreConfig, host: impl Fn(&MemberView) -> &String) -> String {
    let own = config.members.iter().find(|member| member.id == config.node);
    own.map(|member| host(member).clone()).unwrap_or_default()
}
