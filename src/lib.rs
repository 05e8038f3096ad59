//! A replicated, sharded storage engine: many Raft groups, one pinned thread per core.

pub mod runtime;
pub mod uring;
pub mod wal;
