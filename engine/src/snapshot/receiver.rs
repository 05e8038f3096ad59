//! [`Receiver`]: stores a snapshot of another replica, chunk by chunk in any order.

use std::rc::Rc;

use coracle_wal::{AlignedBuf, Disk, OpenMode};

use super::error::{ChunkError, ReadError, WriteError};
use super::gate::Turn;
use super::manifest::{padded, position};
use super::name::{FileName, Kind};
use super::pipe::Pipe;
use super::reader::{Ahead, Source};
use super::store::{Shared, SnapshotStore};
use super::{Manifest, ManifestError, SnapshotId};

/// Stores a snapshot that others offered. It exists when [`Receiver::finish`] says so. A receiver that is dropped
/// before leaves what it has; [`SnapshotStore::receive`] of the same manifest goes on from there, also
/// after a restart.
///
/// Memory: at most [`SNAPSHOT_WRITES_IN_FLIGHT_MAX`](crate::limits::SNAPSHOT_WRITES_IN_FLIGHT_MAX) buffers of
/// [`Manifest::buffer_bytes`] in flight, those that its owner fills, and 4 bytes and a bit per chunk.
pub struct Receiver<D: Disk> {
    pipe: Pipe<D::File>,
    manifest: Rc<Manifest>,
    places: Vec<u32>,
    present: Present,
    claim: Claim<D>,
}

/// Which chunks are written, or being written: a failure of a write ends the reception.
struct Present {
    words: Vec<u64>,
    missing: usize,
    chunks: u32,
}

impl Present {
    fn none(chunks: usize) -> Self {
        Self { words: vec![0; chunks.div_ceil(64)], missing: chunks, chunks: chunks as u32 }
    }

    fn has(&self, number: u32) -> bool {
        self.words[number as usize / 64] & (1 << (number % 64)) != 0
    }

    fn insert(&mut self, number: u32) {
        if !self.has(number) {
            self.words[number as usize / 64] |= 1 << (number % 64);
            self.missing -= 1;
        }
    }
}

/// Says that a receiver is at work on a shard.
struct Claim<D: Disk> {
    shared: Rc<Shared<D>>,
    id: SnapshotId,
    /// Whether the offer is durable. Before, what there is means nothing.
    begun: bool,
}

impl<D: Disk> Drop for Claim<D> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.receiving.remove(&self.id.shard);
        if !self.begun {
            state.give_up(self.id);
        }
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// Begins to receive a snapshot, or goes on with it: chunks that are there already are read and verified (and, if
    /// an earlier process wrote them, written once more: see the head of this module).
    /// An unfinished reception of the shard with another manifest is given up for it.
    ///
    /// The offer is durable when this returns, with room on the disk for all chunks. Memory while chunks are looked
    /// for: [`SNAPSHOT_READS_IN_FLIGHT_MAX`](crate::limits::SNAPSHOT_READS_IN_FLIGHT_MAX) buffers more.
    ///
    /// # Errors
    /// Any [`WriteError`] but [`WriteError::Incomplete`].
    pub async fn receive(&self, manifest: Manifest) -> Result<Receiver<D>, WriteError> {
        let id = manifest.id;
        let manifest = checked(manifest).map_err(|flaw| WriteError::Impossible { id, flaw })?;
        let shared = self.0.clone();
        let turn = shared.gate.enter().await;
        let left = shared.left.borrow_mut().remove(&id.shard);
        let sound = match left {
            Some(mut pipe) => {
                sometimes!(snapshot_writes_left);
                pipe.drain().await.is_ok()
            }
            None => true,
        };
        let (mut claim, known) = {
            let state = &mut *shared.state.borrow_mut();
            state.check_new(id)?;
            let writing = state.writing.get(&id.shard).filter(|busy| **busy == id);
            if let Some(busy) = state.receiving.get(&id.shard).or(writing) {
                return Err(WriteError::Busy { id, busy: *busy });
            }
            let known = state.offers.get(&id.shard).filter(|offer| sound && ***offer == manifest);
            let known = known.cloned();
            if known.is_none() {
                sometimes!(snapshot_offer_replaced, state.offers.contains_key(&id.shard));
                state.give_up_offer(id.shard);
                // What may be there under these names is of no use.
                state.give_up(id);
            }
            state.receiving.insert(id.shard, id);
            (Claim { shared: self.0.clone(), id, begun: known.is_some() }, known)
        };
        shared.clear(id, &turn).await?;
        let result = match &known {
            Some(_) => {
                // That it can't be opened now says nothing about what is in it.
                let file = reopen(&shared, id).await?;
                go_on(&shared, file, &manifest, &turn).await
            }
            None => begin(&shared, &manifest, &turn).await,
        };
        let file = match result {
            Ok(file) => file,
            Err(error) => {
                sometimes!(snapshot_no_room, matches!(error, WriteError::NoRoom { .. }));
                shared.state.borrow_mut().offers.remove(&id.shard);
                shared.state.borrow_mut().give_up(id);
                // A failure has been logged; the files stay garbage.
                let _ = shared.sweep(&turn).await;
                return Err(error);
            }
        };
        claim.begun = true;
        drop(turn);
        let resumed = known.is_some();
        let manifest = known.unwrap_or_else(|| Rc::new(manifest));
        shared.state.borrow_mut().offers.insert(id.shard, manifest.clone());
        let pipe = Pipe::new(file, FileName::new(id, Kind::Chunks), manifest.buffer_bytes());
        let present = Present::none(manifest.chunks.len());
        let places = manifest.places();
        let mut receiver = Receiver { pipe, manifest, places, present, claim };
        if resumed {
            sometimes!(snapshot_reception_resumed);
            receiver.find().await?;
        }
        shared.state.borrow_mut().unobserved.remove(&id.shard);
        Ok(receiver)
    }
}

/// The manifest, made anew from its parts: those who have one may have changed it.
fn checked(manifest: Manifest) -> Result<Manifest, ManifestError> {
    let (bytes, checksum) = (manifest.bytes, manifest.checksum);
    let made = Manifest::new(manifest.id, manifest.configuration, manifest.chunks)?;
    if (made.bytes, made.checksum) != (bytes, checksum) {
        let flaw = "its sizes or its whole checksum are not those of its chunks".to_owned();
        return Err(ManifestError::Field(flaw));
    }
    Ok(made)
}

/// Stores the offer and makes the file for its chunks.
async fn begin<D: Disk>(
    shared: &Shared<D>,
    manifest: &Manifest,
    turn: &Turn<'_>,
) -> Result<D::File, WriteError> {
    let offer = FileName::new(manifest.id, Kind::Offer);
    shared.write_file(offer, &manifest.encode(&shared.log_id), turn).await?;
    let file = new_chunks(shared, manifest, turn).await?;
    shared.sync_dir(turn).await?;
    Ok(file)
}

async fn new_chunks<D: Disk>(
    shared: &Shared<D>,
    manifest: &Manifest,
    turn: &Turn<'_>,
) -> Result<D::File, WriteError> {
    let name = FileName::new(manifest.id, Kind::Chunks);
    let file = shared.create(name, turn).await?;
    reserve(shared, &file, manifest).await?;
    Ok(file)
}

async fn reserve<D: Disk>(
    shared: &Shared<D>,
    file: &D::File,
    manifest: &Manifest,
) -> Result<(), WriteError> {
    let name = FileName::new(manifest.id, Kind::Chunks);
    shared.allocate(file, name, manifest.file_bytes()).await
}

/// Opens the chunks that an earlier receiver left, if there are any.
async fn reopen<D: Disk>(
    shared: &Shared<D>,
    id: SnapshotId,
) -> Result<Option<D::File>, WriteError> {
    let name = FileName::new(id, Kind::Chunks);
    if !shared.state.borrow().files.contains_key(&name) {
        return Ok(None);
    }
    let file = shared.disk.open(&name.text(), OpenMode::Existing).await;
    file.map(Some).map_err(|error| WriteError::io("opening", name, &error))
}

/// Makes sure that the offer is durable and that there is room for all chunks of a reception that was begun.
async fn go_on<D: Disk>(
    shared: &Shared<D>,
    file: Option<D::File>,
    manifest: &Manifest,
    turn: &Turn<'_>,
) -> Result<D::File, WriteError> {
    let unobserved = shared.state.borrow().unobserved.contains(&manifest.id.shard);
    if unobserved {
        // It is the manifest to be, and may be in a cache only like the chunks: see `Receiver::find`.
        let name = |kind| FileName::new(manifest.id, kind);
        let (part, offer) = (name(Kind::Part), name(Kind::Offer));
        shared.write_file(part, &manifest.encode(&shared.log_id), turn).await?;
        shared.sync_dir(turn).await?;
        shared.put_in_place(part, offer, turn).await?;
    }
    let Some(file) = file else {
        // A crash came before its name was durable.
        sometimes!(snapshot_offer_without_chunks);
        let file = new_chunks(shared, manifest, turn).await?;
        shared.sync_dir(turn).await?;
        return Ok(file);
    };
    reserve(shared, &file, manifest).await?;
    Ok(file)
}

impl<D: Disk> Receiver<D> {
    /// Finds out which chunks are there. One that can't be read is as good as missing: it is fetched and written
    /// anew.
    ///
    /// What an earlier process has written is written again as it was read: a write that failed when nobody was left
    /// to hear of it may have left its bytes in a cache, where no later sync makes them durable.
    async fn find(&mut self) -> Result<(), WriteError> {
        let unobserved = {
            let state = self.claim.shared.state.borrow();
            state.unobserved.contains(&self.manifest.id.shard)
        };
        let source = Rc::new(Source::new(self.pipe.file.clone(), self.manifest.clone()));
        let mut ahead = Ahead::new(source, 0);
        while let Some((number, result, mut buf)) = ahead.next().await {
            match result {
                Ok(len) if unobserved => {
                    let padded = padded(len);
                    buf[len..padded].fill(0);
                    if let Err(error) = self.pipe.room().await {
                        return Err(self.fail(error).await);
                    }
                    self.present.insert(number);
                    let position = position(self.places[number as usize]);
                    self.pipe.submit(position, buf, padded).await;
                }
                Ok(_) => self.present.insert(number),
                Err(ReadError::Damaged { .. }) => {}
                Err(error) => tracing::warn!("{error}; the chunk is fetched again"),
            }
        }
        sometimes!(snapshot_chunks_found, self.present.missing < self.manifest.chunks.len());
        Ok(())
    }

    /// What is received.
    #[must_use]
    pub fn manifest(&self) -> &Rc<Manifest> {
        &self.manifest
    }

    /// The numbers of the chunks that are still to be put, ascending.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.present.chunks).filter(|number| !self.present.has(*number))
    }

    /// How many chunks are still to be put.
    #[must_use]
    pub fn missing_count(&self) -> usize {
        self.present.missing
    }

    /// A buffer of [`Manifest::buffer_bytes`] for any chunk. Its content is arbitrary.
    pub fn buffer(&self) -> AlignedBuf {
        self.pipe.buffer()
    }

    /// Takes chunk `number` in: the first `len` bytes of `buf`, which need not be trusted. Returns when the write is
    /// submitted, which may have to wait for an earlier one. A chunk that is there already is ignored.
    ///
    /// # Errors
    /// [`ChunkError::Unknown`], [`ChunkError::Length`], [`ChunkError::Checksum`]: nothing was written, the
    /// reception goes on. [`ChunkError::Write`]: the reception is over, and its files are removed; after
    /// [`WriteError::NoRoom`] it can be begun again.
    ///
    /// # Panics
    /// If `len` is larger than `buf`.
    pub async fn put(
        &mut self,
        number: u32,
        mut buf: AlignedBuf,
        len: usize,
    ) -> Result<(), ChunkError> {
        self.pipe.check()?;
        let id = self.manifest.id;
        let Some(chunk) = self.manifest.chunks.get(number as usize) else {
            let chunks = self.manifest.chunks.len();
            return Err(ChunkError::Unknown { id, number, chunks });
        };
        if len != chunk.bytes as usize {
            let expected = chunk.bytes;
            return Err(ChunkError::Length { id, number, found: len, expected });
        }
        let found = crc32fast::hash(&buf[..len]);
        if found != chunk.checksum && cfg!(not(mutant = "received-chunk-unverified")) {
            sometimes!(snapshot_chunk_refused);
            return Err(ChunkError::Checksum { id, number, found, expected: chunk.checksum });
        }
        if self.present.has(number) {
            sometimes!(snapshot_chunk_again);
            return Ok(());
        }
        let padded = padded(len);
        buf[len..padded].fill(0);
        if let Err(error) = self.pipe.room().await {
            return Err(self.fail(error).await.into());
        }
        self.present.insert(number);
        self.pipe.submit(position(self.places[number as usize]), buf, padded).await;
        Ok(())
    }

    /// Makes all chunks durable that were put: a crash then leaves them to a later receiver.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`], [`WriteError::Io`]: the reception is over, and its files are removed.
    pub async fn sync(&mut self) -> Result<(), WriteError> {
        match self.pipe.sync().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(error).await),
        }
    }

    /// Makes the snapshot durable; from then on it is the shard's newest. Wait for the end: the store latches if this
    /// is dropped in the middle. All of it has been verified: each chunk when it was put or found, their table by the
    /// manifest's checksum.
    ///
    /// # Errors
    /// [`WriteError::Incomplete`] if chunks are missing, which leaves what there is to a later receiver.
    /// [`WriteError::Outdated`], [`WriteError::Io`]: the reception is over, and its files are removed. After
    /// [`WriteError::Latched`] the snapshot may be there or not at the next start.
    pub async fn finish(mut self) -> Result<Rc<Manifest>, WriteError> {
        let id = self.manifest.id;
        if self.present.missing > 0 {
            return Err(WriteError::Incomplete { id, missing: self.present.missing });
        }
        self.sync().await?;
        let shared = self.claim.shared.clone();
        let turn = shared.gate.enter().await;
        let outdated = shared.state.borrow().check_new(id);
        if let Err(error) = outdated {
            drop(turn);
            return Err(self.fail(error).await);
        }
        let (offer, name) = (FileName::new(id, Kind::Offer), FileName::new(id, Kind::Manifest));
        // The offer says the same as the manifest, durably, and so does the name of the chunks' file.
        shared.put_in_place(offer, name, &turn).await?;
        let mut state = shared.state.borrow_mut();
        state.offers.remove(&id.shard);
        state.hold(self.manifest.clone());
        Ok(self.manifest.clone())
    }

    async fn fail(&mut self, error: WriteError) -> WriteError {
        sometimes!(snapshot_write_failed, matches!(error, WriteError::Io { .. }));
        let error = self.pipe.fail(error);
        // What is still under way must not land in space that others got.
        let _ = self.pipe.drain().await;
        let shared = self.claim.shared.clone();
        let turn = shared.gate.enter().await;
        {
            let state = &mut *shared.state.borrow_mut();
            if state.latched.is_none() && state.offers.remove(&self.manifest.id.shard).is_some() {
                state.give_up(self.manifest.id);
            }
        }
        // A failure has been logged; the files stay garbage.
        let _ = shared.sweep(&turn).await;
        error
    }
}

impl<D: Disk> Drop for Receiver<D> {
    fn drop(&mut self) {
        if let Some(left) = self.pipe.leave() {
            self.claim.shared.left.borrow_mut().insert(self.manifest.id.shard, left);
        }
    }
}

impl<D: Disk> std::fmt::Debug for Receiver<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("id", &self.manifest.id)
            .field("missing", &self.present.missing)
            .finish_non_exhaustive()
    }
}
