//! Snapshots of shards, as files in the core's directory.
mod error;
mod gate;
mod manifest;
mod name;
mod open;
mod pipe;
mod reader;
mod receiver;
mod sink;
mod store;
mod writer;

pub use error::{ChunkError, Damage, OpenError, ReadError, WriteError};
pub use manifest::{Chunk, Manifest, ManifestError};
pub use name::SnapshotId;
pub use open::{Inventory, Problem, ProblemKind};
pub use reader::{Piece, Reader, Sequential};
pub use receiver::Receiver;
pub use sink::{ChunkFull, ChunkSink};
pub use store::{Pin, SnapshotStore};
pub use writer::Writer;
