//! Snapshots of shards, as files in the core's directory.

mod sink;

pub use sink::{ChunkFull, ChunkSink};
