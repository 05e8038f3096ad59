//! A replicated, sharded storage engine: many Raft groups, one pinned thread per core.
//!
//! An embedder brings a [`StateMachine`] and a [`Config`]; a [`Node`] keeps one replica of each shard and
//! replicates what is proposed. Futures may be awaited on any thread, with any runtime.
//!
//! ```no_run
//! use bytes::{Bytes, BytesMut};
//! use coracle::{Apply, Config, Consistency, Node, NodeId, ShardId, StateMachine};
//!
//! /// Counts how many bytes were proposed to its shard.
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
//!         self.0 += entry.payload.len() as u64;
//!         reply.extend_from_slice(&self.0.to_be_bytes());
//!     }
//!
//!     fn query(&self, _request: &Bytes, reply: &mut BytesMut) {
//!         reply.extend_from_slice(&self.0.to_be_bytes());
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let member = "1=127.0.0.1:7001,127.0.0.1:8001".parse()?;
//! let config = Config::new(NodeId(1), "data", vec![member]);
//! let node = Node::builder(config, |_shard| Box::new(Counter::default())).start()?;
//! let handle = node.handle();
//! let committed = handle.propose(ShardId(0), "five!").await?;
//! println!("{:?} at index {}", committed.reply, committed.index);
//! let count = handle.query(ShardId(0), "", Consistency::Linearizable).await?;
//! println!("{count:?}");
//! node.stop();
//! # Ok(())
//! # }
//! ```
//!
//! [`Sessions`] around a state machine, and a [`SessionClient`] in front of it, apply a request once however often it
//! is sent. [`Timers`] give it payloads later, once in the cluster, and a [`LeaderHook`] lets it do something now and then
//! where its shard is led. [`LocalCluster`] runs a whole cluster in one process. [`server`] is the ready-made key-value server,
//! itself built on this interface. [`wal`] is the write-ahead log alone.

pub mod admin;
pub mod config;
pub mod data_dir;
pub mod limits;
mod local_cluster;
mod members;
pub mod node;
pub mod runtime;
pub mod server;
mod session;
pub mod uring;
pub mod wal;

pub use config::{Config, ConfigError, FailureDetector, Member, Pin};
pub use coracle_engine::core::{
    Committed, Consistency, CoreStatus, DrainReport, MemberStatus, Pending, Position, ShardStatus,
    TierConfig,
};
pub use coracle_engine::hook::{self, HookCall, HookTimes, LeaderHook};
pub use coracle_engine::members::MemberRecord;
pub use coracle_engine::raft::membership;
pub use coracle_engine::session::{self as sessions, ClientSession, Sessions};
pub use coracle_engine::snapshot::{ChunkFull, ChunkSink};
pub use coracle_engine::timers::{self, Timers};
pub use coracle_engine::{
    AddMemberError, Apply, CoreId, Fold, ImageBuffer, LogIndex, NodeId, ProposeError, QueryError,
    ReconfigureError, RemoveMemberError, Restore, ShardId, SnapshotError, SnapshotRequestError,
    SnapshotStream, StateMachine, Term, TransferError, WholeImage, restore_chunks, snapshot_chunks,
};
pub use local_cluster::{LocalCluster, LocalClusterConfig};
pub use node::{Node, NodeBuilder, NodeHandle, StartError, Subscription};
pub use session::{SessionClient, SessionError};
