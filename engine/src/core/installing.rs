//! Snapshots of leaders that take the place of this core's replicas.
//!
//! ```text
//! offered by the leader -> pulling (chunks come over a connection of their own, become durable)
//!                       -> restoring (the state machine reads them) -> Raft is told, the log follows
//! ```
//! Raft repeats the offer with each heartbeat, so whatever fails here is simply tried again by the next
//! one: pulling goes on with the chunks that are missing. The snapshot exists durably before the state
//! machine is touched. A crash between that and the record in the log is the same as a restart from a
//! snapshot that is newer than the log: see `open.rs`. An acknowledgement leaves only behind that record.
//!
//! A bounded number of snapshots are pulled at a time; the others wait for a later offer.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;

use super::inbox::{Event, Inbox};
use super::peers::Gate;
use super::shard::Machine;
use super::tiers::Tiers;
use crate::env::Env;
use crate::limits::{PULL_RETRY_PAUSE, PULLS_MAX};
use crate::snapshot::{Manifest, ReadError, SnapshotId, SnapshotStore};
use crate::transfer::pull::{Pull, PullError, PullLimits, PullProgress};
use crate::{NodeId, Restore, ShardId, SnapshotError};

/// Why a state machine could not be brought to a snapshot's state. Its state is unspecified now.
#[derive(Debug, Error)]
pub(crate) enum RestoreError {
    /// The state machine refused it.
    #[error("the state machine refused it: {0}")]
    Machine(#[from] SnapshotError),
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] ReadError),
}

/// A leader's snapshot is durable here, or could not be had.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) id: SnapshotId,
    pub(crate) result: Result<Rc<Manifest>, PullError>,
}

/// A snapshot is in place of the state, or could not be put there.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) manifest: Rc<Manifest>,
    pub(crate) result: Result<(), RestoreError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pulling,
    Restoring,
}

/// The snapshots on their way into this core.
#[derive(Debug, Default)]
pub(super) struct Installing {
    shards: BTreeMap<ShardId, (SnapshotId, Stage)>,
    /// The last offers of others, which begin when one of them is through.
    waiting: BTreeMap<ShardId, (NodeId, SnapshotId)>,
    /// How far those are that are being pulled.
    progress: BTreeMap<ShardId, Rc<PullProgress>>,
    /// Bytes that pulls have received which are over.
    bytes: u64,
    /// Shards whose last one had no room, and when it is tried again.
    paused: BTreeMap<ShardId, Duration>,
}

impl Installing {
    /// Takes up an offer, unless the shard is busy with one. If too many others are, it waits.
    pub(super) fn begin(&mut self, id: SnapshotId, from: NodeId) -> bool {
        let busy = self.shards.contains_key(&id.shard);
        sometimes!(offer_while_busy, busy);
        if busy {
            return false;
        }
        if self.shards.len() >= PULLS_MAX {
            sometimes!(offer_waits);
            self.waiting.insert(id.shard, (from, id));
            return false;
        }
        self.waiting.remove(&id.shard);
        self.shards.insert(id.shard, (id, Stage::Pulling));
        true
    }

    /// The next offer that waited, if it need not any more.
    pub(super) fn next(&mut self) -> Option<(NodeId, SnapshotId)> {
        let room = self.shards.len() < PULLS_MAX;
        room.then(|| self.waiting.pop_first()).flatten().map(|(_, offer)| offer)
    }

    /// What was pulled is durable and is now given to the state machine.
    pub(super) fn restoring(&mut self, id: SnapshotId) {
        self.shards.insert(id.shard, (id, Stage::Restoring));
    }

    /// It is over, one way or the other.
    pub(super) fn end(&mut self, shard: ShardId) {
        self.shards.remove(&shard);
        self.pulled(shard);
    }

    /// Pulling is over, one way or the other.
    pub(super) fn pulled(&mut self, shard: ShardId) {
        self.bytes += self.progress.remove(&shard).map_or(0, |progress| progress.bytes.get());
    }

    /// There was no room for one.
    pub(super) fn pause(&mut self, shard: ShardId, now: Duration) {
        self.paused.insert(shard, now + PULL_RETRY_PAUSE);
    }

    /// Whether there was no room a moment ago.
    pub(super) fn is_paused(&mut self, shard: ShardId, now: Duration) -> bool {
        self.paused.retain(|_, until| now < *until);
        self.paused.contains_key(&shard)
    }

    /// Bytes that all pulls have received.
    pub(super) fn bytes(&self) -> u64 {
        let now: u64 = self.progress.values().map(|progress| progress.bytes.get()).sum();
        self.bytes + now
    }

    /// Whether a shard's state is being replaced.
    pub(super) fn is_busy(&self, shard: ShardId) -> bool {
        self.shards.contains_key(&shard)
    }
}

/// Starts the task that fetches a snapshot from its leader.
pub(super) fn start_pull<E: Env>(
    env: &E,
    inbox: &Rc<Inbox>,
    gate: &Rc<Gate>,
    tiers: &mut Tiers<E::Disk>,
    id: SnapshotId,
    from: NodeId,
) {
    let (store, budget, cancel) =
        (tiers.store.clone(), tiers.transfers.clone(), tiers.cancel.clone());
    let (env_of_task, inbox, gate) = (env.clone(), inbox.clone(), gate.clone());
    let progress = Rc::new(PullProgress::default());
    tiers.installing.progress.insert(id.shard, progress.clone());
    env.spawn(async move {
        let env = env_of_task;
        let pull = Pull {
            env: &env,
            store: &store,
            id,
            limits: PullLimits::default(),
            budget: &budget,
            progress: &progress,
            cancel: &cancel,
        };
        let result =
            pull.run(async || gate.connect_for_snapshots(&env, from, id.shard).await).await;
        inbox.push(Event::SnapshotPulled(Box::new(Pulled { id, result })));
    });
}

/// Starts the task that gives a snapshot to a state machine.
pub(super) fn start_restore<E: Env>(
    env: &E,
    inbox: &Rc<Inbox>,
    store: SnapshotStore<E::Disk>,
    manifest: Rc<Manifest>,
    machine: Machine,
) {
    let (env_of_task, inbox) = (env.clone(), inbox.clone());
    env.spawn(async move {
        let result = restore(&env_of_task, &store, &manifest, &machine).await;
        inbox.push(Event::SnapshotRestored(Box::new(Restored { manifest, result })));
    });
}

/// Replaces the state of a machine by a snapshot, chunk by chunk; other tasks run in between.
pub(super) async fn restore<E: Env>(
    env: &E,
    store: &SnapshotStore<E::Disk>,
    manifest: &Manifest,
    machine: &Machine,
) -> Result<(), RestoreError> {
    let mut chunks = store.reader(manifest.id).await?.sequential(0);
    machine.borrow_mut().restore(Restore::Begin)?;
    while let Some(piece) = chunks.next().await {
        let piece = piece?;
        machine.borrow_mut().restore(Restore::Chunk(piece.bytes()))?;
        env.yield_now().await;
    }
    machine.borrow_mut().restore(Restore::End)?;
    Ok(())
}
