//! Raft, the shard loop and the peer protocol of Coracle, over one I/O seam.
//!
//! Nothing here names a runtime, a clock or a source of randomness: effects go through [`env::Env`].

#[macro_use]
mod probe;

pub mod core;
pub mod env;
mod error;
pub mod hook;
mod layer;
pub mod limits;
pub mod members;
mod on_demand;
pub mod raft;
pub mod session;
pub mod snapshot;
mod state_machine;
pub mod tier;
pub mod timers;
pub mod transfer;
mod types;
pub mod wire;

pub use error::{
    AddMemberError, ProposeError, QueryError, ReconfigureError, RemoveMemberError,
    SnapshotRequestError, TransferError,
};
pub use probe::probes;
pub use state_machine::{
    Apply, Fold, ImageBuffer, Restore, SnapshotError, SnapshotStream, StateMachine, WholeImage,
    restore_chunks, snapshot_chunks,
};
pub use types::{CoreId, LogIndex, NodeId, ShardId, Term};
