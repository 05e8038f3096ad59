//! How a core is opened from its log.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use coracle_wal::Wal;
use thiserror::Error;

use super::inbox::Inbox;
use super::mailbox::{Letters, Mailbox};
use super::peers::Gate;
use super::records::{Recovered, Replay, ReplayError};
use super::run::{Core, silence_max};
use super::shard::Shard;
use super::status::CoreCounters;
use super::storage::Storage;
use super::tier_config::TierConfig;
use super::view::{ClusterView, MemberView};
use crate::env::Env;
use crate::limits::Limits;
use crate::raft::{self, Raft, RaftLog};
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
        let mut replay = Replay::default();
        let (wal, driver, recovery) = Wal::open(disk, config.wal.clone(), &mut replay)
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
            lost: BTreeMap::new(),
            touched: Vec::new(),
            links: BTreeMap::new(),
            counters: CoreCounters::default(),
            recovery,
            news_missed: false,
            failed: false,
            observer: None,
        })
    }
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
    let log = RaftLog::restore(LogIndex(0), Term(0), found.entries)?;
    Raft::new(raft_config, found.hard_state, log, env.now())
}
