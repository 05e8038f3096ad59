//! A look into a running core after each of its turns, for whoever checks what it does.
//!
//! The simulator sets an [`Observer`] and compares what it sees with what replicas may never do. A core
//! without one pays one branch a turn. An observer sees everything by reference and changes nothing.

use std::collections::BTreeMap;

use coracle_wal::Lsn;

use super::shard::Shard;
use crate::limits::Limits;
use crate::raft::Raft;
use crate::{CoreId, LogIndex, NodeId, ShardId};

/// Is shown a core after each of its turns.
pub trait Observer: 'static {
    /// Called once when the observer is set, with all shards, and then after each turn, with the shards
    /// that the turn has touched. What the turn wants sent has not left the process yet.
    fn after_turn(&mut self, core: &CoreView<'_>);
}

/// A core after a turn.
pub struct CoreView<'a> {
    /// Which node.
    pub node: NodeId,
    /// Which core of it.
    pub core: CoreId,
    /// Whether the core's log has failed: it then keeps no promise and makes none.
    pub failed: bool,
    /// Messages so far that contradict what was promised before.
    pub faults: u64,
    /// What it is bounded by.
    pub limits: &'a Limits,
    /// What waits in it.
    pub queues: Queues,
    /// Up to here its log is durable, as the log says.
    pub durable: Lsn,
    /// End of what was appended to its log last.
    pub appended: Lsn,
    /// Bytes of entries in memory that are durable, and the budget for them.
    pub memory: (u64, u64),
    /// Bytes of its directory (segments, prepared ones, snapshots), and the budget for them; 0 for none.
    pub disk: (u64, u64),
    /// Shards that could not be brought up, and why.
    pub lost: &'a BTreeMap<ShardId, String>,
    pub(super) shards: &'a [Shard],
    /// `None` stands for all shards.
    pub(super) touched: Option<&'a [usize]>,
}

impl std::fmt::Debug for CoreView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (node, core, queues) = (&self.node, &self.core, &self.queues);
        let mut view = f.debug_struct("CoreView");
        view.field("node", node).field("core", core).field("queues", queues);
        view.finish_non_exhaustive()
    }
}

impl<'a> CoreView<'a> {
    /// The shards that the turn has touched.
    pub fn touched(&self) -> impl Iterator<Item = ShardView<'a>> {
        let shards = self.shards;
        let all = if self.touched.is_none() { 0..shards.len() } else { 0..0 };
        let touched = self.touched.unwrap_or_default().iter().copied();
        touched.chain(all).filter_map(|at| shards.get(at)).map(ShardView)
    }

    /// All shards of the core.
    pub fn shards(&self) -> impl Iterator<Item = ShardView<'a>> {
        self.shards.iter().map(ShardView)
    }
}

/// How much waits in a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Proposals and queries in the inbox.
    pub requests: usize,
    /// Payload bytes of them.
    pub request_bytes: usize,
    /// Messages of peers in the inbox.
    pub frames: usize,
    /// Cost of the entries in them.
    pub frame_bytes: usize,
    /// Letters in the mailbox.
    pub letters: usize,
    /// Bytes in the fullest link's buffer.
    pub link_bytes_max: usize,
    /// Links that are up.
    pub links: usize,
    /// Groups that the log has refused and that are tried again.
    pub groups_refused: usize,
    /// Promises that wait for the log.
    pub promises: usize,
    /// Bytes appended to the log and not durable.
    pub backlog_bytes: usize,
}

/// One replica of a core.
#[derive(Clone, Copy)]
pub struct ShardView<'a>(&'a Shard);

impl std::fmt::Debug for ShardView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardView").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl<'a> ShardView<'a> {
    /// Which shard.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.0.id
    }

    /// Its Raft core: term, vote, role, log, and what a leader knows of its followers.
    #[must_use]
    pub fn raft(&self) -> &'a Raft {
        &self.0.raft
    }

    /// Why it takes no part any more, if it does not.
    #[must_use]
    pub fn halted(&self) -> Option<&'a str> {
        self.0.halted()
    }

    /// What its state machine has applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.0.applied()
    }

    /// Queries that wait for their round or for an entry to be applied.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.0.queries()
    }

    /// Proposals in the log that wait to be applied.
    #[must_use]
    pub fn proposals(&self) -> usize {
        self.0.proposals()
    }
}
