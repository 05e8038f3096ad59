//! The log of a core beyond its memory: where the entries of all its shards lie, which of them are in
//! memory, what a restart makes of them, and when old segments can be given up.
//!
//! Nothing here does I/O; the core's loop carries out what is decided here.
//!
//! # Parts
//! - [`records`](LogRecord): what shards write to the log of their core.
//! - [`Runs`]: where the entries of one shard lie, for stretches of entries instead of single ones.
//! - [`Index`]: the runs of all shards of a core, and where their newest hard states and bases are. It is
//!   told of every record, in the order of the log, when it is appended; recovery tells it the same.
//! - [`Summaries`](Index::take_summary): what a sealed segment holds, small enough to be kept beside it,
//!   so that a restart need not read the segment.
//! - [`Memory`]: which entries are in memory, under one budget for all shards, and which leave it next.
//! - [`Recovery`]: records and summaries in, shards out.
//! - [`Compactor`]: what to compact, to take a snapshot of, to write again and to give up.
//!
//! # Places
//! A record is found by reading its *batch*, the unit of the log's writes, from the batch's first byte on.
//! So a run keeps the position of the batch of its first record, and the end of its last record; between
//! the two lie records of other shards, and maybe entries of the same shard that were replaced. An
//! entry is known by index and term: whoever reads a run takes those with its term and its indices.

mod compaction;
#[cfg(test)]
mod fake_log;
mod index;
mod memory;
mod place;
mod records;
mod recovery;
mod runs;
mod summary;

pub use compaction::{
    Action, Budget, Compactor, Decision, Pin, Pressure, Segment, ShardState, ShardStates, Situation,
};
pub use index::{Appended, Index, ShardIndex};
pub use memory::{Eviction, Memory};
pub use place::{Place, Stretch, Trail};
pub(crate) use records::{
    ENTRY_HEAD_BYTES, base_head, base_record, entry_head, entry_record, hard_state_head,
    hard_state_record, kept_record,
};
pub use records::{LogRecord, ReplayError, decode_record};
pub use recovery::{Recovered, RecoveredShard, Recovery, ShardError, Unusable};
pub use runs::{Run, Runs};

pub use crate::raft::Base;
