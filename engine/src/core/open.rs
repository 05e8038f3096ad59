//! How a core is opened from its log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use coracle_wal::{Lsn, RecordView, SegmentInfo, Wal};
use thiserror::Error;

use super::cold::Cold;
use super::detector::Detection;
use super::disk_share::{self, DiskShare};
use super::hooks::Hooks;
use super::inbox::Inbox;
use super::installing::{self, Installing, RestoreError};
use super::liveness::Liveness;
use super::mailbox::{Letters, Mailbox};
use super::news::NewsQueue;
use super::peers::Gate;
use super::run::{Core, silence_max};
use super::shard::{Machine, Scratch, Shard};
use super::stall::Stall;
use super::status::CoreCounters;
use super::storage::Storage;
use super::taking::Taking;
use super::tier_config::TierConfig;
use super::tiers::Tiers;
use super::upkeep::Upkeep;
use super::view::{ClusterView, MemberView, Replicas};
use crate::env::Env;
use crate::limits::{Limits, SNAPSHOT_BURST_BYTES, SNAPSHOT_WRITE_BYTES_PER_S};
use crate::members::Book;
use crate::raft::membership::Configuration;
use crate::raft::{self, Effects, HardState, LeaseConfig, Raft, RaftLog, Standing};
use crate::snapshot::{Manifest, SnapshotId, SnapshotStore};
use crate::tier::Budget;
use crate::tier::{self, Recovered, RecoveredShard, ReplayError};
use crate::transfer::budget::TransferBudget;
use crate::transfer::cancel::Cancel;
use crate::transfer::serve::{ServeLimits, SnapshotService};
use crate::wire::Hello;
use crate::{CoreId, LogIndex, NodeId, ShardId, StateMachine, Term};

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
    /// All nodes that replicas may be on, this node included: how they are reached. Who of them belongs to a shard,
    /// its log says.
    pub members: Vec<MemberView>,
    /// Where `members` come from, as it is told to other nodes. Empty where members never change.
    pub book: Arc<Book>,
    /// Who keeps the book, and is told what others say of it. `None` where members never change.
    pub news: Option<NewsQueue>,
    /// Peer address `IP:PORT` of a core of a member of the cluster that this node joins: it is asked for the book
    /// until a link is up.
    pub join: Option<String>,
    /// The voters of every shard before its first entry, the same on all nodes for ever: usually all of
    /// `members`. Empty on a node that joins a cluster that runs: then the leaders tell it. Members that
    /// are not named here belong to no shard until a change adds them.
    pub voters: Vec<NodeId>,
    /// A number of this process that no other process has.
    pub instance: u128,
    /// Shortest time without a leader before an election; each replica waits up to twice this.
    pub election_timeout: Duration,
    /// How often a leader lets its followers hear from it.
    pub heartbeat_interval: Duration,
    /// Whether leaders may answer reads by lease; the same on all nodes.
    pub lease: Option<LeaseConfig>,
    /// Whether shards with nothing to do fall asleep.
    pub quiesce: bool,
    /// How the silence of a peer is told from its end.
    pub detection: Detection,
    /// How much this node should rather lead than others; see [`raft::Config::priority`].
    pub priority: i8,
    /// Whether this core hands over leaders until all nodes lead about as many shards.
    pub spread_leaders: bool,
    /// How old what followers answer may be, for services that leave that to the operator:
    /// [`CoreHandle::replica_reads`](super::CoreHandle::replica_reads). `None` is without bound.
    pub replica_read_staleness: Option<Duration>,
    /// Where this core accepts its peers, `host:port`.
    pub peer_listen: String,
    /// The log.
    pub wal: coracle_wal::Options,
    /// What queues, windows and turns are bounded by.
    pub limits: Limits,
    /// What is kept of the logs, where, and when snapshots are taken.
    pub tiers: TierConfig,
    /// The mailboxes of all cores of this node, in order.
    pub mailboxes: Vec<Mailbox>,
}

/// Why a core could not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The limits or the tiers contradict each other or the log's options.
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
    /// The directory of the snapshots could not be read.
    #[error("core {core}: {source}")]
    Snapshots {
        /// Which core.
        core: CoreId,
        /// What the store of snapshots said.
        source: crate::snapshot::OpenError,
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
        let flaw = limits.flaw(config.wal.group_bytes_max());
        if let Some(flaw) = flaw.or_else(|| config.tiers.flaw(&config.wal)) {
            return Err(OpenError::Limits { core, flaw });
        }
        let log_id = config.wal.log_id;
        let (store, inventory) = SnapshotStore::open(disk.clone(), log_id)
            .await
            .map_err(|source| OpenError::Snapshots { core, source })?;
        for problem in &inventory.problems {
            tracing::error!(%core, "snapshot: {problem}");
        }
        let begun = env.now();
        let mut replay = Reader(tier::Recovery::new(config.tiers.log_memory_bytes));
        let options = wal_options(&config, store.disk_bytes());
        let (wal, driver, recovery) = Wal::open(disk, options, &mut replay)
            .await
            .map_err(|source| OpenError::Wal { core, source })?;
        tracing::info!(
            %core, records = recovery.records, bytes = recovery.bytes, segments = recovery.segments,
            by_summary = recovery.summarized, ms = (env.now() - begun).as_millis(), "log recovered"
        );
        let damaged = recovery.damage.iter().map(|lost| lost.to).max();
        for lost in &recovery.damage {
            tracing::error!(%core, "the log is damaged: {lost} can't be read");
        }
        if let Some(behind) = damaged {
            replay.0.damaged(behind);
        }
        let hosted = (0..config.shards).map(ShardId);
        let hosted = hosted.filter(|id| CoreId::hosting(*id, config.shards, config.cores) == core);
        let hosted: Vec<ShardId> = hosted.collect();
        let newest = |id: &ShardId| {
            let manifest = store.newest(*id)?;
            Some((*id, (manifest.id.index, manifest.id.term)))
        };
        let Recovered { mut shards, index, mut memory } = replay
            .0
            .finish(&hosted.iter().filter_map(newest).collect())
            .map_err(|source| OpenError::Replay { core, source })?;
        let address = config.peer_listen.clone();
        let listener = env.listen(&address).await.map_err(|source| OpenError::Listen {
            core,
            address,
            source,
        })?;
        // Its failure is latched in the log, where every turn looks for it.
        env.spawn(async move { drop(driver.run().await) });

        let inbox = Inbox::new(first_view(&config), limits);
        inbox.replica_read_staleness.set(config.replica_read_staleness);
        let inbox = Rc::new(inbox.with_book(config.book.clone(), config.news.clone()));
        let gate = Gate::new(inbox.clone(), hello(&config), silence_max(&config));
        let scratch = Scratch::default();
        let (mut live, mut lost) = (Vec::<Shard>::with_capacity(hosted.len()), BTreeMap::new());
        let shared = Rc::new(limits);
        let (mut promised, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for id in hosted {
            let mut machine = new_machine(machines, id);
            let snapshot = match restore(&env, &store, id, &machine).await {
                Ok(snapshot) => {
                    // Older ones that an earlier process kept for others, or could not remove.
                    if let Err(error) = store.remove_older(id).await {
                        tracing::warn!(%core, shard = %id, "an old snapshot could not be removed: {error}");
                    }
                    snapshot
                }
                Err(Unreadable { snapshot, error }) => {
                    tracing::error!(%core, shard = %id, "{snapshot} can't be restored: {error}");
                    unreadable.insert(id, snapshot);
                    machine = new_machine(machines, id); // some of it may be there
                    None
                }
            };
            let log = shards.remove(&id).or_else(|| Some(Err(nothing_left(id, damaged?))));
            let whole = snapshot.as_ref().map(|newest| newest.id);
            let found = judge(id, log, whole, unreadable.get(&id).copied());
            promised.extend(found.hard_state().map(|hard_state| (id, hard_state)));
            if let Found::Damaged { reason, .. } = &found {
                memory.reset(id);
                if config.members.len() == 1 {
                    tracing::error!(%core, shard = %id, "this replica takes no part: {reason}");
                    lost.insert(id, reason.clone());
                    continue;
                }
                tracing::error!(
                    %core, shard = %id,
                    "this replica is damaged: {reason}; when it hears the leader of the shard, it gives \
                     up what is left of its log, and comes back as one that lost its data"
                );
            }
            let (raft, effects, applied) = bring_up(&config, id, found, snapshot, &env)
                .map_err(|source| OpenError::Replica { core, shard: id, source })?;
            let mut shard = Shard::new(id, raft, machine, applied, scratch.clone(), shared.clone());
            if let Some(first) = live.first() {
                shard.raft.share_with(&first.raft);
            }
            *shard.effects = effects;
            live.push(shard);
        }
        let transfers = Rc::new(budget(config.tiers.transfer_bytes_per_s));
        let service =
            SnapshotService::new(store.clone(), transfers.clone(), ServeLimits::default());
        gate.start(&env, listener, Some(service));
        if let Some(address) = config.join.clone().filter(|_| core == CoreId(0)) {
            gate.join(&env, address);
        }
        let share =
            DiskShare::new(wal.clone(), config.tiers.disk_bytes_max, config.wal.segment_bytes);
        store.limit(share.quota());
        let tiers = Tiers {
            disk_share: share,
            cold: Cold::new(wal.clone(), config.tiers.log_memory_bytes),
            store,
            taking: Taking::default(),
            installing: Installing::default(),
            unreadable,
            rotten: BTreeMap::new(),
            transfers,
            writes: Rc::new(budget(SNAPSHOT_WRITE_BYTES_PER_S)),
            cancel: Cancel::default(),
            offered: BTreeMap::new(),
        };
        let wal_options = &config.wal;
        let disk_budget = Budget::new(
            config.tiers.disk_bytes_max,
            wal_options.segment_bytes,
            wal_options.spares,
            config.tiers.snapshot_log_bytes,
            config.tiers.keep_log_bytes,
        );
        let liveness = Liveness::new(live.len(), env.now());
        let mut core = Self {
            letters,
            storage: Storage::new(wal, index, memory, promised, limits),
            tiers,
            env,
            config,
            inbox,
            gate,
            shards: live,
            lost,
            touched: Vec::new(),
            links: BTreeMap::new(),
            liveness,
            hooks: Hooks::default(),
            counters: CoreCounters::default(),
            recovery,
            retelling: Default::default(),
            book_missed: false,
            failed: false,
            upkeep: Upkeep::new(disk_budget),
            drain: None,
            drained: false,
            stall: Stall::default(),
            spread: Default::default(),
            subscribers: Default::default(),
            observer: None,
        };
        for shard in &core.shards {
            if core.tiers.store.newest(shard.id).is_some() {
                core.upkeep.note_snapshot(shard.id, core.env.unix_ms());
            }
        }
        core.note_all_replicas();
        core.apply_old().await;
        // Before anything is accepted: how much room there is.
        core.keep_up(core.env.now());
        // What bringing them up has left to be stored.
        (0..core.shards.len()).for_each(|at| core.touch(at));
        Ok(core)
    }
}

/// Reads the log's records and summaries.
struct Reader(tier::Recovery);

impl coracle_wal::Replay for Reader {
    fn record(&mut self, record: RecordView<'_>) {
        self.0.record(&record, record.batch);
    }

    fn summary(&mut self, segment: &SegmentInfo, summary: &[u8]) -> bool {
        self.0.summary(segment.start, segment.end, summary)
    }
}

/// The log's options with what the tiers say of them. It begins with what snapshots leave of the disk.
fn wal_options(config: &CoreConfig, snapshot_bytes: u64) -> coracle_wal::Options {
    let mut options = config.wal.clone();
    let (max, segment) = (config.tiers.disk_bytes_max, options.segment_bytes);
    options.log_bytes_max = disk_share::log_bytes_at_start(max, segment, snapshot_bytes);
    options.archive = config.tiers.archive;
    // The others have what was there. Without others, the operator decides.
    options.start_on_gaps = config.members.len() > 1;
    options
}

/// A budget of bandwidth; 0 stands for no limit.
fn budget(bytes_per_s: u64) -> TransferBudget {
    let (rate, burst) = transfer_rate(bytes_per_s);
    TransferBudget::new(rate, burst)
}

/// The rate of a budget, and what it allows at once after a quiet time.
pub(super) fn transfer_rate(bytes_per_s: u64) -> (u64, u64) {
    (bytes_per_s, bytes_per_s.min(SNAPSHOT_BURST_BYTES))
}

/// A snapshot that its shard's state machine can't be given.
struct Unreadable {
    snapshot: SnapshotId,
    error: RestoreError,
}

/// What was found of a shard.
enum Found {
    /// Nothing.
    Blank,
    /// All of it.
    Whole(RecoveredShard),
    /// It may lack something that it acknowledged. All but its hard state is to be begun anew.
    Damaged { hard_state: HardState, reason: String },
}

impl Found {
    /// The hard state that the log has, or gets first.
    fn hard_state(&self) -> Option<HardState> {
        match self {
            Self::Blank => None,
            Self::Whole(found) => Some(found.recorded),
            Self::Damaged { hard_state, .. } => Some(marked(*hard_state)),
        }
    }
}

/// Gives a state machine its newest snapshot, if there is one. Returns which.
async fn restore<E: Env>(
    env: &E,
    store: &SnapshotStore<E::Disk>,
    shard: ShardId,
    machine: &Machine,
) -> Result<Option<Rc<Manifest>>, Unreadable> {
    let Some(manifest) = store.newest(shard) else { return Ok(None) };
    let snapshot = manifest.id;
    let restored = installing::restore(env, store, &manifest, machine).await;
    restored.map(|()| Some(manifest)).map_err(|error| Unreadable { snapshot, error })
}

/// Of a shard nothing was found, in a log that is damaged: it may have been there.
fn nothing_left(shard: ShardId, behind: Lsn) -> tier::Unusable {
    let error = tier::ShardError::LogDamaged { shard, behind };
    tier::Unusable { error, hard_state: HardState::default() }
}

/// Whether a shard can go on with what was found of it. A snapshot that can't be read is not needed while the
/// log still has all entries. Term and vote are durable before anything of that term is: without them, who
/// this replica voted for is unknown.
fn judge(
    shard: ShardId,
    log: Option<Result<RecoveredShard, tier::Unusable>>,
    snapshot: Option<SnapshotId>,
    unreadable: Option<SnapshotId>,
) -> Found {
    match (log, unreadable) {
        (None, _) => Found::Blank,
        (Some(Ok(found)), _) if found.last_term() > found.hard_state.term => {
            sometimes!(hard_state_lost);
            let reason = format!(
                "what shard {shard} has is of term {}, but the newest vote in its log is of term {}: later \
                 ones, which were stored before, are lost",
                found.last_term(),
                found.hard_state.term
            );
            Found::Damaged { hard_state: found.hard_state, reason }
        }
        (Some(Ok(found)), None) => Found::Whole(found),
        (Some(Ok(found)), Some(lost)) => {
            sometimes!(snapshot_unreadable_at_start);
            if found.base.0 == LogIndex(0) && snapshot.is_none() {
                return Found::Whole(found);
            }
            let reason = format!(
                "the log of shard {shard} begins behind {}, and {lost}, which has what was before, can't \
                 be read",
                found.base.0
            );
            Found::Damaged { hard_state: found.hard_state, reason }
        }
        (Some(Err(unusable)), _) => {
            Found::Damaged { hard_state: unusable.hard_state, reason: unusable.error.to_string() }
        }
    }
}

fn new_machine(machines: &dyn Fn(ShardId) -> Box<dyn StateMachine>, shard: ShardId) -> Machine {
    Rc::new(RefCell::new(machines(shard)))
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
        replicas: Replicas::on_all(config.shards, &members),
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

/// A replica with what was found of it; `snapshot` is what its state machine has.
fn bring_up<E: Env>(
    config: &CoreConfig,
    shard: ShardId,
    found: Found,
    snapshot: Option<Rc<Manifest>>,
    env: &E,
) -> Result<(Raft, Effects, LogIndex), raft::StartError> {
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
        lease: config.lease,
        priority: config.priority,
        quiesce: config.quiesce,
        blank: matches!(found, Found::Blank).then(|| incarnation(env)),
        damaged: matches!(found, Found::Damaged { .. }).then(|| incarnation(env)),
        ..raft::Config::new(config.node, config.voters.clone(), seed)
    };
    let mark = match &found {
        Found::Damaged { hard_state, .. } => Some(marked(*hard_state)),
        _ => None,
    };
    let found = match found {
        Found::Blank => RecoveredShard::default(),
        Found::Whole(found) => found,
        Found::Damaged { hard_state, .. } => {
            anew(hard_state, snapshot.as_ref().map(|newest| newest.id))
        }
    };
    let (base, base_term) = found.base;
    let mut log = RaftLog::restore(base, base_term, found.terms, found.last, found.entries)?;
    log = match &snapshot {
        Some(newest) => {
            let known = newest.configuration.clone();
            log.with_configurations(newest.id.index, known, found.configurations)
        }
        None => log.with_configurations(base, Configuration::default(), found.configurations),
    };
    let mut raft = Raft::new(raft_config, found.hard_state, log, env.now())?;
    let mut effects = Effects { base: found.unstored, hard_state: mark, ..Effects::default() };
    let applied = match snapshot {
        Some(newest) => {
            let SnapshotId { index, term, .. } = newest.id;
            let configuration = newest.configuration.clone();
            raft.step(raft::Event::Snapshot { index, term, configuration }, &mut effects);
            index
        }
        None => base,
    };
    Ok((raft, effects, applied))
}

/// A number that names this start of a replica; 0 is none.
fn incarnation<E: Env>(env: &E) -> u64 {
    env.random().max(1)
}

/// What is stored of a damaged replica at once: what shows the damage may be gone at the next start.
fn marked(hard_state: HardState) -> HardState {
    HardState { standing: Standing::DAMAGED, ..hard_state }
}

/// An empty log that begins behind `snapshot`, or at 0.
fn anew(hard_state: HardState, snapshot: Option<SnapshotId>) -> RecoveredShard {
    let base = snapshot.map_or((LogIndex(0), Term(0)), |id| (id.index, id.term));
    let HardState { term, vote, standing, .. } = hard_state;
    // Of a term that is lost from the log, no vote is known; it gives none before the others take it back.
    let (term, vote) = if base.1 > term { (base.1, None) } else { (term, vote) };
    let hard_state = HardState { term, vote, commit: base.0, standing };
    RecoveredShard { hard_state, base, last: base.0, ..RecoveredShard::default() }
}
