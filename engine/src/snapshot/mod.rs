//! Snapshots of shards, as files in the core's directory, over [`coracle_wal::Disk`] alone.
//!
//! # Files
//! A snapshot is `snap-SHARD-INDEX-TERM.chunks`, which holds chunks of any length, each padded to whole blocks, and
//! `.manifest`, which names them with their checksums. The log beside them ignores these names. Every byte is
//! told in `docs/snapshot-format.md`. **A snapshot exists if and only if its manifest has its name**,
//! and a manifest gets its name last:
//!
//! ```text
//! own state    chunks --> sync --> manifest as .part, sync --> sync dir --> rename to .manifest --> sync dir
//! received     manifest as .offer, sync; empty .chunks --> sync dir --> chunks in any order, sync now and then
//!                  --> all there: sync --> rename .offer to .manifest --> sync dir
//! removal      manifest (or offer) --> sync dir --> chunks --> sync dir
//! ```
//!
//! So a crash at any point leaves each snapshot whole or not at all, and an old one until
//! [`SnapshotStore::remove_older`] is asked to remove it, which it does only for one that a newer one has made
//! useless. `.chunks` without a manifest or an offer, and `.part`, mean nothing and go at the next start.
//! What an unfinished reception has, stays: chunks that are on the disk are found again by their checksums. After a
//! restart they are also written again as they were read, because how the earlier process's writes ended is not
//! known: a failed one may have left its bytes in a cache, where they read well and no sync makes them durable.
//!
//! # How it is used
//! 1. [`SnapshotStore::open`] says what there is and what is wrong with it. One shard's damage is a [`Problem`] of
//!    that shard and nothing else; its files stay until a newer snapshot is durable.
//! 2. [`SnapshotStore::create`] and [`Writer::put`] store the own state; a state machine fills each
//!    buffer through a [`ChunkSink`]. [`SnapshotStore::receive`] and [`Receiver::put`] store another replica's.
//!    With `finish`, and not before, the snapshot is durable and the newest.
//! 3. When nothing rests on the older one any more: [`SnapshotStore::remove_older`].
//! 4. [`SnapshotStore::reader`] gives chunks, each checked against the manifest, and pins the snapshot meanwhile.
//!    A chunk that is not what it was is a [`ReadError::Damaged`]: [`SnapshotStore::discard`] the snapshot, and
//!    take or fetch another.
//!
//! # Failures
//! * **No room** (disk, [`Quota`], file descriptors): [`WriteError::NoRoom`]. What was written of this snapshot is
//!   removed at once, so that it is not missing elsewhere. It may be begun again.
//! * **A write or sync fails**: final for that snapshot, whose files are removed; nothing is tried again.
//! * **A rename or a sync of the directory fails**: which names will survive is not known. The store latches
//!   ([`WriteError::Latched`]): it changes nothing any more until it is opened again, and goes on reading.
//! * **A removal fails**: the file stays garbage, and the next change tries again.
//! * **A writer is dropped**: its files are garbage, and go with the next change. **A receiver is dropped**: its
//!   files stay for the next one. A `finish` that is dropped while it renames latches the store. Writes that were in
//!   flight are waited for before anybody believes what is read.
//!
//! # Bounds
//! Memory per store: the manifests of all snapshots (8 bytes per chunk, normally of 1 MiB). Per writer 4 buffers
//! of 2 MiB and the one that is being filled; per receiver the same with buffers of the largest chunk; per
//! sequential reading 8 of these. Each shard has at most one writer and one receiver at a time. One thread
//! owns the store; sequences of changes of names take turns.

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
pub use store::{Pin, Quota, SnapshotStore};
pub use writer::Writer;
