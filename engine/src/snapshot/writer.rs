//! [`Writer`]: stores a snapshot of the own state.

use std::rc::Rc;

use coracle_wal::{AlignedBuf, Disk};

use super::error::WriteError;
use super::manifest::padded;
use super::name::{FileName, Kind};
use super::pipe::Pipe;
use super::store::{Shared, SnapshotStore};
use super::{Chunk, Manifest, ManifestError, SnapshotId};
use crate::limits::{SNAPSHOT_ALLOCATION_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_MAX};
use crate::raft::membership::Configuration;

/// Stores a snapshot chunk by chunk. It exists when [`Writer::finish`] says so; when the writer is
/// dropped before, what was written is removed with the next change in the store, or at the next start.
///
/// Memory: at most [`SNAPSHOT_WRITES_IN_FLIGHT_MAX`](crate::limits::SNAPSHOT_WRITES_IN_FLIGHT_MAX) buffers of
/// [`SNAPSHOT_CHUNK_BYTES_MAX`] in flight or free (8 MiB), the one that its owner fills, and 8 bytes per chunk.
pub struct Writer<D: Disk> {
    pipe: Pipe<D::File>,
    chunks: Vec<Chunk>,
    /// Where the next chunk goes.
    position: u64,
    /// Bytes of the file that have their space.
    allocated: u64,
    claim: Claim<D>,
}

/// Says that a writer is at work on a snapshot. Without [`Claim::finished`], its files are garbage in the end.
struct Claim<D: Disk> {
    shared: Rc<Shared<D>>,
    id: SnapshotId,
    /// Whether the files belong to somebody else now, or must stay as they are.
    leave: bool,
}

impl<D: Disk> Drop for Claim<D> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.writing.remove(&self.id.shard);
        if !self.leave {
            state.give_up(self.id);
        }
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// Begins a snapshot. An unfinished reception of the same one is given up for it.
    ///
    /// # Errors
    /// Any [`WriteError`] but [`WriteError::Incomplete`].
    pub async fn create(&self, id: SnapshotId) -> Result<Writer<D>, WriteError> {
        if let Some(flaw) = id.flaw() {
            return Err(WriteError::Impossible { id, flaw: ManifestError::Field(flaw) });
        }
        let shared = self.0.clone();
        let turn = shared.gate.enter().await;
        let claim = {
            let state = &mut *shared.state.borrow_mut();
            state.check_new(id)?;
            let receiving = state.receiving.get(&id.shard).filter(|busy| **busy == id);
            if let Some(busy) = state.writing.get(&id.shard).or(receiving) {
                return Err(WriteError::Busy { id, busy: *busy });
            }
            if state.offers.get(&id.shard).is_some_and(|offer| offer.id == id) {
                sometimes!(snapshot_offer_overtaken);
                state.give_up_offer(id.shard);
            }
            // What may be there under these names is of no use.
            state.give_up(id);
            state.writing.insert(id.shard, id);
            Claim { shared: self.0.clone(), id, leave: false }
        };
        shared.clear(id, &turn).await?;
        let name = FileName::new(id, Kind::Chunks);
        let file = shared.create(name, &turn).await?;
        let pipe = Pipe::new(file, name, SNAPSHOT_CHUNK_BYTES_MAX);
        Ok(Writer { pipe, chunks: Vec::new(), position: 0, allocated: 0, claim })
    }
}

impl<D: Disk> Writer<D> {
    /// Which snapshot.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.claim.id
    }

    /// Bytes of the chunks so far, with their padding.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.position
    }

    /// A buffer of [`SNAPSHOT_CHUNK_BYTES_MAX`] for the next chunk. Its content is arbitrary.
    pub fn buffer(&self) -> AlignedBuf {
        self.pipe.buffer()
    }

    /// Appends the first `len` bytes of `buf` as a chunk. Returns when the write is submitted, which may have to
    /// wait for an earlier one. Other tasks run only where this waits: yield between chunks.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`], [`WriteError::Io`], [`WriteError::Impossible`] with too many chunks: the
    /// snapshot is given up and what was written is removed.
    ///
    /// # Panics
    /// If `len` is not 1 to [`SNAPSHOT_CHUNK_BYTES_MAX`] and at most the length of `buf`.
    pub async fn put(&mut self, mut buf: AlignedBuf, len: usize) -> Result<(), WriteError> {
        let range = 1..=SNAPSHOT_CHUNK_BYTES_MAX.min(buf.len());
        assert!(range.contains(&len), "a chunk of {len} bytes in a buffer of {}", buf.len());
        self.pipe.check()?;
        if self.chunks.len() == SNAPSHOT_CHUNKS_MAX {
            let flaw = format!("it has more than {SNAPSHOT_CHUNKS_MAX} chunks");
            let flaw = ManifestError::Field(flaw);
            return Err(self.fail(WriteError::Impossible { id: self.id(), flaw }).await);
        }
        let checksum = crc32fast::hash(&buf[..len]);
        let padded = padded(len);
        buf[len..padded].fill(0);
        let ready = async {
            self.pipe.room().await?;
            self.allocate(self.position + padded as u64).await
        };
        if let Err(error) = ready.await {
            return Err(self.fail(error).await);
        }
        self.chunks.push(Chunk { bytes: len as u32, checksum });
        let position = self.position;
        self.position += padded as u64;
        self.pipe.submit(position, buf, padded).await;
        Ok(())
    }

    /// Makes sure that the file has space for `needed` bytes. It grows by an eighth, at most by
    /// [`SNAPSHOT_ALLOCATION_BYTES_MAX`]: writes then stay inside of the file, which lets them go on beside
    /// each other, and a full disk is met between writes.
    async fn allocate(&mut self, needed: u64) -> Result<(), WriteError> {
        if needed <= self.allocated {
            return Ok(());
        }
        let step = (self.allocated / 8).min(SNAPSHOT_ALLOCATION_BYTES_MAX);
        let size = needed.max(padded((self.allocated + step) as usize) as u64);
        let name = FileName::new(self.id(), Kind::Chunks);
        let Self { pipe, claim, .. } = self;
        match claim.shared.allocate(&pipe.file, name, size).await {
            Err(WriteError::NoRoom { .. }) if size > needed => {
                claim.shared.allocate(&pipe.file, name, needed).await?;
                self.allocated = needed;
            }
            allocated => {
                allocated?;
                self.allocated = size;
            }
        }
        Ok(())
    }

    /// Makes the snapshot durable; from then on it is the shard's newest. Wait for the end: the store latches if this
    /// is dropped in the middle. `configuration` is that of the shard at its index.
    ///
    /// # Errors
    /// Any [`WriteError`]: the snapshot is given up and what was written is removed. After
    /// [`WriteError::Latched`] it may be there or not at the next start.
    pub async fn finish(
        mut self,
        configuration: Configuration,
    ) -> Result<Rc<Manifest>, WriteError> {
        match self.try_finish(configuration).await {
            Ok(manifest) => Ok(manifest),
            Err(error) => Err(self.fail(error).await),
        }
    }

    async fn try_finish(
        &mut self,
        configuration: Configuration,
    ) -> Result<Rc<Manifest>, WriteError> {
        let id = self.id();
        #[cfg(not(mutant = "manifest-before-chunks"))]
        self.pipe.sync().await?;
        #[cfg(mutant = "manifest-before-chunks")]
        self.pipe.drain().await?;
        let chunks = std::mem::take(&mut self.chunks);
        let manifest = Manifest::new(id, configuration, chunks);
        let manifest = manifest.map_err(|flaw| WriteError::Impossible { id, flaw })?;
        let shared = self.claim.shared.clone();
        let turn = shared.gate.enter().await;
        shared.state.borrow().check_new(id)?;
        let (part, name) = (FileName::new(id, Kind::Part), FileName::new(id, Kind::Manifest));
        shared.write_file(part, &manifest.encode(&shared.log_id), &turn).await?;
        // The names of both files must be durable before the manifest says that all is there.
        shared.sync_dir(&turn).await?;
        self.claim.leave = true;
        shared.put_in_place(part, name, &turn).await?;
        let manifest = Rc::new(manifest);
        shared.state.borrow_mut().hold(manifest.clone());
        Ok(manifest)
    }

    /// Gives the snapshot up and removes what was written of it.
    pub async fn abandon(mut self) {
        sometimes!(snapshot_abandoned);
        self.remove().await;
    }

    async fn fail(&mut self, error: WriteError) -> WriteError {
        sometimes!(snapshot_no_room, matches!(error, WriteError::NoRoom { .. }));
        sometimes!(snapshot_write_failed, matches!(error, WriteError::Io { .. }));
        let error = self.pipe.fail(error);
        self.remove().await;
        error
    }

    async fn remove(&mut self) {
        // What is still under way must not land in space that others got.
        let _ = self.pipe.drain().await;
        if self.claim.leave {
            return;
        }
        let shared = self.claim.shared.clone();
        let turn = shared.gate.enter().await;
        shared.state.borrow_mut().give_up(self.id());
        // A failure has been logged; the files stay garbage.
        let _ = shared.sweep(&turn).await;
    }
}

impl<D: Disk> std::fmt::Debug for Writer<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("id", &self.claim.id)
            .field("chunks", &self.chunks.len())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
