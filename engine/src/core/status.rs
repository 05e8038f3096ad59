//! What a core says about itself when asked: for operators, tests and embedders.

use super::settings::Settings;
use crate::raft::membership::Configuration;
use crate::raft::{FollowerStatus, Role};
use crate::{CoreId, LogIndex, NodeId, ShardId, Term};

/// One replica, as its core sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Current term.
    pub term: Term,
    /// What this replica is in that term.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Last entry known to be committed.
    pub commit: LogIndex,
    /// Last entry applied to the state machine.
    pub applied: LogIndex,
    /// Last entry in the log, durable or not.
    pub last: LogIndex,
    /// Who belongs to the shard, by the newest entry of this replica's log.
    pub configuration: Configuration,
    /// Whether that is committed, as far as this replica knows.
    pub configuration_committed: bool,
    /// What is known of each other member, learners included; empty unless this replica leads. A learner
    /// whose [`matched`](FollowerStatus::matched) is near `commit` can be made a voter.
    pub followers: Vec<FollowerStatus>,
    /// Why this replica takes no part any more, if it does not: what happened, where, and what to do.
    pub halted: Option<String>,
}

/// Counters of a core since its start. All only grow, except where a name says "now".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreCounters {
    /// Proposals that entered the log here as leader.
    pub proposals: u64,
    /// Proposals and queries refused because a limit was reached.
    pub refused: u64,
    /// Entries applied.
    pub applied: u64,
    /// Queries answered.
    pub queries: u64,
    /// Calls of the hooks of state machines.
    pub hook_calls: u64,
    /// Frames received from peers.
    pub frames_in: u64,
    /// Messages sent to peers.
    pub messages_out: u64,
    /// Messages dropped because a peer's buffer was full or it was not connected.
    pub messages_dropped: u64,
    /// Messages of peers that contradict what was promised before, each a sign of damage or of a bug.
    pub faults: u64,
    /// Turns of the event loop.
    pub turns: u64,
    /// Batches that the log wrote durably.
    pub wal_batches: u64,
    /// Durable writes that the log issued.
    pub wal_durable_writes: u64,
    /// Bytes that the log wrote, padding included.
    pub wal_bytes: u64,
    /// Bytes of the core's directory now: segments, prepared ones, snapshots.
    pub disk_bytes: u64,
    /// Bytes of entries in memory now, of all shards.
    pub log_memory_bytes: u64,
    /// Snapshots that were taken here and are durable; those received from other nodes are not counted.
    pub snapshots: u64,
    /// Snapshots that were begun here and given up.
    pub snapshots_failed: u64,
    /// Snapshots under way now.
    pub snapshots_now: u64,
    /// Among the newest snapshots of all shards here the oldest: when it became durable, milliseconds since
    /// 1970; for one that was found at the start, the time of the start. 0 while some shard has none.
    pub snapshot_oldest_ms: u64,
    /// Snapshots of leaders that took the place of replicas here.
    pub snapshots_received: u64,
    /// Bytes of snapshots of leaders that were received here.
    pub snapshot_bytes_received: u64,
    /// Shards that were handed over because this core led more than its share.
    pub leaders_spread: u64,
    /// Replicas here that are not asleep now: they get ticks, and leaders among them send heartbeats.
    pub shards_awake: u64,
    /// Replicas here that do not vote and count now: they have lost their data and are on their way back, or do not
    /// know yet whether their cluster is new.
    pub shards_returning: u64,
    /// Replicas here that take no part any more, because what they hold is damaged or contradicts others.
    pub shards_halted: u64,
}

/// A core and its shards at one moment.
#[derive(Clone, Debug)]
pub struct CoreStatus {
    /// Which core.
    pub core: CoreId,
    /// Its shards, ordered by id.
    pub shards: Vec<ShardStatus>,
    /// Its counters.
    pub counters: CoreCounters,
    /// What it goes by, where that can be changed while it runs.
    pub settings: Settings,
    /// Why the log stopped, if it did.
    pub storage_failure: Option<String>,
}
