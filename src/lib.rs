//! A replicated, sharded storage engine: many Raft groups, one pinned thread per core.

pub mod config;
pub mod data_dir;
pub mod limits;
mod local_cluster;
pub mod node;
pub mod runtime;
pub mod server;
pub mod uring;
pub mod wal;

pub use config::{Config, ConfigError, Member, Pin};
pub use coracle_engine::core::{Committed, Consistency, CoreStatus, Pending, Position};
pub use coracle_engine::{
    Apply, CoreId, LogIndex, NodeId, ProposeError, QueryError, ShardId, SnapshotError,
    StateMachine, Term,
};
pub use local_cluster::{LocalCluster, LocalClusterConfig};
pub use node::{Node, NodeBuilder, NodeHandle, StartError};
