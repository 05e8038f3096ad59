//! Snapshots of the core's own shards being taken.
//!
//! One at a time per core, in the order in which they were asked for: by the upkeep of the log, by the
//! application or by an operator. Taking one is a task beside the loop. The state machine gives a stream
//! of its state as it is at that moment, between two entries; each step fills one chunk, gives it to the
//! disk, and lets the loop go on. When all chunks and the manifest are durable, an event says so, and
//! only then may the log be compacted.
//!
//! ```text
//! wanted -> running(shard, index, term) -> durable: Raft is told, older ones are removed
//!                                       -> failed: nothing has changed; wanted again after a pause
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;

use super::inbox::{Event, Inbox};
use super::shard::SnapshotAnswer;
use crate::env::Env;
use crate::limits::{SNAPSHOT_ANSWERS_MAX, SNAPSHOT_RETRY_PAUSE};
use crate::raft::membership::Configuration;
use crate::snapshot::{ChunkSink, Manifest, SnapshotId, SnapshotStore, WriteError};
use crate::transfer::budget::TransferBudget;
use crate::{LogIndex, ShardId, SnapshotError, SnapshotRequestError, SnapshotStream};

/// Why a snapshot was not taken. The shard goes on as before.
#[derive(Debug, Error)]
pub(crate) enum TakeError {
    /// The state machine gave up.
    #[error(transparent)]
    Machine(#[from] SnapshotError),
    /// The disk did not take it.
    #[error(transparent)]
    Store(#[from] WriteError),
}

/// What became of a snapshot.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: SnapshotId,
    pub(crate) result: Result<Rc<Manifest>, TakeError>,
}

/// The snapshots that are wanted and the one that is being taken.
#[derive(Debug, Default)]
pub(super) struct Taking {
    wanted: VecDeque<ShardId>,
    running: Option<SnapshotId>,
    /// Who waits for the next snapshot of a shard that begins after they asked.
    asking: BTreeMap<ShardId, Vec<SnapshotAnswer>>,
    /// Who waits for the one that is running.
    waiting: Vec<SnapshotAnswer>,
    /// Shards whose last one failed, and when it is tried again.
    paused: BTreeMap<ShardId, Duration>,
}

impl Taking {
    /// Wants a snapshot of a shard, unless the last one failed a moment ago.
    pub(super) fn want(&mut self, shard: ShardId, now: Duration) {
        if self.paused.get(&shard).is_some_and(|until| now < *until) || self.is_wanted(shard) {
            return;
        }
        self.paused.remove(&shard);
        self.wanted.push_back(shard);
    }

    /// Somebody asks for a snapshot and waits for it.
    pub(super) fn ask(&mut self, shard: ShardId, answer: SnapshotAnswer) {
        let asking = self.asking.entry(shard).or_default();
        if asking.len() >= SNAPSHOT_ANSWERS_MAX {
            let busy =
                SnapshotRequestError::Overloaded("too many requests for a snapshot of this shard");
            return drop(answer.send(Err(busy)));
        }
        asking.push(answer);
        if !self.wanted.contains(&shard) {
            self.wanted.push_back(shard);
        }
    }

    /// Whether the shard's state machine takes snapshots, and its last one did not fail a moment ago.
    pub(super) fn is_possible(&self, shard: ShardId, now: Duration) -> bool {
        self.paused.get(&shard).is_none_or(|until| now >= *until)
    }

    /// Whether the shard's state machine takes no snapshots at all.
    pub(super) fn is_unsupported(&self, shard: ShardId) -> bool {
        self.paused.get(&shard) == Some(&Duration::MAX)
    }

    /// Whether a snapshot of the shard is being taken or will be.
    pub(super) fn is_wanted(&self, shard: ShardId) -> bool {
        self.running.is_some_and(|id| id.shard == shard) || self.wanted.contains(&shard)
    }

    /// How many are being taken or wanted.
    pub(super) fn count(&self) -> usize {
        usize::from(self.running.is_some()) + self.wanted.len()
    }

    /// The one being taken.
    pub(super) fn running(&self) -> Option<SnapshotId> {
        self.running
    }

    /// The next shard to take a snapshot of, if none is being taken.
    pub(super) fn next(&mut self) -> Option<ShardId> {
        if self.running.is_some() { None } else { self.wanted.pop_front() }
    }

    /// It can't begin yet; the others go first.
    pub(super) fn postpone(&mut self, shard: ShardId) {
        self.wanted.push_back(shard);
    }

    /// A snapshot begins.
    pub(super) fn begin(&mut self, id: SnapshotId) {
        assert!(self.running.is_none(), "{:?} is still being taken", self.running);
        self.running = Some(id);
        self.waiting = self.asking.remove(&id.shard).unwrap_or_default();
    }

    /// A shard has nothing to take a snapshot of, or can't.
    pub(super) fn refuse(&mut self, shard: ShardId, error: &SnapshotRequestError, now: Duration) {
        for answer in self.asking.remove(&shard).unwrap_or_default() {
            let _ = answer.send(Err(error.clone()));
        }
        let never = matches!(error, SnapshotRequestError::Unsupported(_));
        let until = if never { Duration::MAX } else { now + SNAPSHOT_RETRY_PAUSE };
        self.paused.insert(shard, until);
    }

    /// The newest snapshot covers everything: nothing to do for who asked.
    pub(super) fn already(&mut self, shard: ShardId, index: LogIndex) {
        for answer in self.asking.remove(&shard).unwrap_or_default() {
            let _ = answer.send(Ok(index));
        }
    }

    /// The one that was being taken is done, or has failed.
    pub(super) fn end(&mut self, taken: &Taken, now: Duration) {
        self.running = None;
        let outcome = match &taken.result {
            Ok(_) => Ok(taken.id.index),
            Err(error) => {
                sometimes!(snapshot_failed);
                let shard = taken.id.shard;
                self.paused.insert(shard, now + SNAPSHOT_RETRY_PAUSE);
                Err(match error {
                    TakeError::Store(WriteError::NoRoom { .. }) => {
                        SnapshotRequestError::NoSpace(shard)
                    }
                    error => SnapshotRequestError::Abandoned { shard, reason: error.to_string() },
                })
            }
        };
        for answer in self.waiting.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }
}

/// Starts the task that writes one snapshot.
pub(super) fn start<E: Env>(
    env: &E,
    inbox: &Rc<Inbox>,
    store: SnapshotStore<E::Disk>,
    id: SnapshotId,
    configuration: Configuration,
    stream: Box<dyn SnapshotStream>,
    budget: Rc<TransferBudget>,
) {
    let (env_of_task, inbox) = (env.clone(), inbox.clone());
    env.spawn(async move {
        let result = write(&env_of_task, &store, id, configuration, stream, &budget).await;
        inbox.push(Event::SnapshotTaken(Box::new(Taken { id, result })));
    });
}

async fn write<E: Env>(
    env: &E,
    store: &SnapshotStore<E::Disk>,
    id: SnapshotId,
    configuration: Configuration,
    mut stream: Box<dyn SnapshotStream>,
    budget: &TransferBudget,
) -> Result<Rc<Manifest>, TakeError> {
    let mut writer = store.create(id).await?;
    loop {
        let mut buf = writer.buffer();
        let mut sink = ChunkSink::new(&mut buf);
        let filled = stream.fill(&mut sink);
        let len = sink.len();
        let more = match filled {
            Ok(more) => more,
            Err(error) => {
                writer.abandon().await;
                return Err(error.into());
            }
        };
        if len > 0 {
            budget.take(env, len).await;
            writer.put(buf, len).await?;
        }
        if !more {
            return Ok(writer.finish(configuration).await?);
        }
        env.yield_now().await;
    }
}
