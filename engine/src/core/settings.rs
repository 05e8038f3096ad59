//! Settings that a running core takes: what an operator may turn without a restart.
//!
//! A change goes to each core of a node as a letter and holds until the node ends: the next start begins with
//! its configuration again. A value that makes no sense is refused, and the one before stays.

use std::time::Duration;

use thiserror::Error;

use super::open::transfer_rate;
use super::run::Core;
use crate::env::Env;
use crate::limits::PRIORITY_MAX;

/// One setting and its new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How much the node should rather lead than others: -[`PRIORITY_MAX`] to [`PRIORITY_MAX`]. A node that was
    /// drained goes on declining to lead.
    Priority(i8),
    /// See [`CoreConfig::spread_leaders`](super::CoreConfig::spread_leaders).
    SpreadLeaders(bool),
    /// See [`TierConfig::snapshot_interval`](super::TierConfig::snapshot_interval).
    SnapshotInterval(Option<Duration>),
    /// See [`TierConfig::keep_log_time`](super::TierConfig::keep_log_time).
    KeepLogTime(Duration),
    /// See [`TierConfig::transfer_bytes_per_s`](super::TierConfig::transfer_bytes_per_s).
    TransferBytesPerS(u64),
    /// See [`Settings::replica_read_staleness`].
    ReplicaReadStaleness(Option<Duration>),
}

/// The values that a core goes by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// See [`Setting::Priority`].
    pub priority: i8,
    /// See [`Setting::SpreadLeaders`].
    pub spread_leaders: bool,
    /// See [`Setting::SnapshotInterval`].
    pub snapshot_interval: Option<Duration>,
    /// See [`Setting::KeepLogTime`].
    pub keep_log_time: Duration,
    /// See [`Setting::TransferBytesPerS`].
    pub transfer_bytes_per_s: u64,
    /// How old the state may be that a follower answers from, for services that leave that to the operator, as the
    /// server does for `READONLY`; `None` is without bound.
    pub replica_read_staleness: Option<Duration>,
    /// The core was drained: it declines to lead until its node is started again.
    pub drained: bool,
    /// Its disk is stalled: it declines to lead until that is over.
    pub stalled: bool,
}

/// Why a setting stays what it was.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SettingError {
    /// The value makes no sense.
    #[error("{0}")]
    Flaw(String),
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl<E: Env> Core<E> {
    /// The values that hold now.
    pub(super) fn settings(&self) -> Settings {
        let tiers = &self.config.tiers;
        Settings {
            priority: self.config.priority,
            spread_leaders: self.config.spread_leaders,
            snapshot_interval: tiers.snapshot_interval,
            keep_log_time: tiers.keep_log_time,
            transfer_bytes_per_s: tiers.transfer_bytes_per_s,
            replica_read_staleness: self.inbox.replica_read_staleness.get(),
            drained: self.drained,
            stalled: !self.drained && self.shards.iter().any(|shard| shard.raft.declines()),
        }
    }

    /// Takes a new value.
    pub(super) fn set(&mut self, setting: Setting) -> Result<(), SettingError> {
        let mut tiers = self.config.tiers.clone();
        match setting {
            Setting::Priority(priority) => {
                if priority.unsigned_abs() > PRIORITY_MAX.unsigned_abs() {
                    let range = format!("-{PRIORITY_MAX} to {PRIORITY_MAX} are allowed");
                    return Err(SettingError::Flaw(format!("priority {priority}: {range}")));
                }
                self.config.priority = priority;
                for at in 0..self.shards.len() {
                    let shard = &mut self.shards[at];
                    shard.raft.set_priority(priority, &mut shard.effects);
                    self.touch(at);
                }
            }
            Setting::SpreadLeaders(spread) => self.config.spread_leaders = spread,
            Setting::SnapshotInterval(interval) => tiers.snapshot_interval = interval,
            Setting::KeepLogTime(time) => tiers.keep_log_time = time,
            Setting::TransferBytesPerS(rate) => tiers.transfer_bytes_per_s = rate,
            Setting::ReplicaReadStaleness(bound) => self.inbox.replica_read_staleness.set(bound),
        }
        if let Some(flaw) = tiers.flaw(&self.config.wal) {
            return Err(SettingError::Flaw(flaw));
        }
        if tiers.transfer_bytes_per_s != self.config.tiers.transfer_bytes_per_s {
            let (rate, burst) = transfer_rate(tiers.transfer_bytes_per_s);
            self.tiers.transfers.set_rate(rate, burst);
        }
        self.config.tiers = tiers;
        tracing::info!(core = %self.config.core, ?setting, "a setting was changed");
        Ok(())
    }
}
