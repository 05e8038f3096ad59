//! [`SnapshotStore`]: which snapshots there are, who uses them, and how they go.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use coracle_wal::limits::BLOCK_BYTES;
use coracle_wal::{AlignedBuf, Disk, DiskFile, OpenMode, transfer};

use super::error::WriteError;
use super::gate::{Gate, Turn};
use super::name::{FileName, Kind};
use super::pipe::Pipe;
use super::{Manifest, SnapshotId};
use crate::{LogIndex, ShardId, Term};

/// The snapshots of a core's shards. Clones are the same store; all of it belongs to one thread.
pub struct SnapshotStore<D: Disk>(pub(super) Rc<Shared<D>>);

impl<D: Disk> Clone for SnapshotStore<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Disk> std::fmt::Debug for SnapshotStore<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotStore").field("state", &self.0.state.borrow()).finish()
    }
}

pub(super) struct Shared<D: Disk> {
    pub(super) disk: D,
    pub(super) log_id: [u8; 16],
    pub(super) state: Rc<RefCell<State>>,
    pub(super) gate: Gate,
    /// Writes that were in flight when a receiver was dropped, by its shard.
    pub(super) left: RefCell<BTreeMap<ShardId, Pipe<D::File>>>,
    pub(super) quota: RefCell<Option<Quota>>,
}

/// Whether the snapshots of a store, which take the first number of bytes altogether, may take the second. Asked before
/// they do.
pub type Quota = Box<dyn Fn(u64, u64) -> bool>;

/// A snapshot that is whole and durable.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) manifest: Rc<Manifest>,
    /// How many [`Pin`]s there are.
    pins: usize,
    /// Given up by [`SnapshotStore::discard`]; here only because it is pinned.
    discarded: bool,
}

/// What is known of the directory. Borrowed only between waits.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) held: BTreeMap<SnapshotId, Held>,
    /// Snapshots whose files are there and can't be used.
    pub(super) damaged: BTreeSet<SnapshotId>,
    /// Whole snapshots of which somebody could not read a chunk; until the owner asks.
    pub(super) rotten: BTreeSet<SnapshotId>,
    /// Unfinished receptions.
    pub(super) offers: BTreeMap<ShardId, Rc<Manifest>>,
    /// Shards whose unfinished reception was begun by an earlier process: how its writes ended is not known.
    pub(super) unobserved: BTreeSet<ShardId>,
    /// What a `Writer` is at work on, at most one for each shard.
    pub(super) writing: BTreeMap<ShardId, SnapshotId>,
    /// What a `Receiver` is at work on, at most one for each shard.
    pub(super) receiving: BTreeMap<ShardId, SnapshotId>,
    /// Files that are to be removed; nobody uses them.
    pub(super) garbage: BTreeSet<FileName>,
    /// Bytes of each file.
    pub(super) files: BTreeMap<FileName, u64>,
    /// Files were removed, and no sync of the directory has come to its end since.
    pub(super) unsynced_removals: bool,
    /// The failure after which no name is changed any more.
    pub(super) latched: Option<WriteError>,
}

impl State {
    pub(super) fn hold(&mut self, manifest: Rc<Manifest>) {
        let held = Held { manifest, pins: 0, discarded: false };
        self.held.insert(held.manifest.id, held);
    }

    pub(super) fn newest(&self, shard: ShardId) -> Option<&Rc<Manifest>> {
        let id = |index, term| SnapshotId { shard, index: LogIndex(index), term: Term(term) };
        let mut of_shard = self.held.range(id(0, 0)..=id(u64::MAX, u64::MAX)).rev();
        of_shard.find(|(_, held)| !held.discarded).map(|(_, held)| &held.manifest)
    }

    /// Whether a snapshot `id` may be added.
    pub(super) fn check_new(&self, id: SnapshotId) -> Result<(), WriteError> {
        if let Some(latched) = &self.latched {
            return Err(latched.clone());
        }
        match self.newest(id.shard).map(|manifest| manifest.id) {
            Some(newest) if newest == id => Err(WriteError::Exists { id }),
            Some(newest) if newest.index >= id.index => Err(WriteError::Outdated { id, newest }),
            _ if self.held.contains_key(&id) => {
                // Given up, but a transfer still reads it: its files can't be replaced yet.
                Err(WriteError::Busy { id, busy: id })
            }
            _ => Ok(()),
        }
    }

    /// Gives up all files of `id`.
    pub(super) fn give_up(&mut self, id: SnapshotId) {
        self.damaged.remove(&id);
        let files = [Kind::Manifest, Kind::Offer, Kind::Part, Kind::Chunks];
        let there = files.map(|kind| FileName::new(id, kind));
        self.garbage.extend(there.iter().filter(|name| self.files.contains_key(name)));
    }

    /// Gives up the unfinished reception of a shard, if no one is at work on it.
    pub(super) fn give_up_offer(&mut self, shard: ShardId) {
        if self.receiving.contains_key(&shard) {
            return;
        }
        if let Some(offer) = self.offers.remove(&shard) {
            self.give_up(offer.id);
        }
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// The newest whole snapshot of a shard.
    #[must_use]
    pub fn newest(&self, shard: ShardId) -> Option<Rc<Manifest>> {
        self.0.state.borrow().newest(shard).cloned()
    }

    /// The manifest of this snapshot, if it is whole and was not given up.
    #[must_use]
    pub fn manifest(&self, id: SnapshotId) -> Option<Rc<Manifest>> {
        let state = self.0.state.borrow();
        state.held.get(&id).filter(|held| !held.discarded).map(|held| held.manifest.clone())
    }

    /// Notes that a chunk of this snapshot was found damaged when it was read for somebody else.
    pub fn note_rot(&self, id: SnapshotId) {
        self.0.state.borrow_mut().rotten.insert(id);
    }

    /// The snapshots that [`SnapshotStore::note_rot`] was told of since the last call.
    #[must_use]
    pub fn take_rotten(&self) -> BTreeSet<SnapshotId> {
        std::mem::take(&mut self.0.state.borrow_mut().rotten)
    }

    /// The id of the log beside it, under which manifests are encoded.
    #[must_use]
    pub fn log_id(&self) -> [u8; 16] {
        self.0.log_id
    }

    /// What was being received for a shard and is not finished: to go on with it, receive it again.
    #[must_use]
    pub fn unfinished(&self, shard: ShardId) -> Option<Rc<Manifest>> {
        self.0.state.borrow().offers.get(&shard).cloned()
    }

    /// Bytes of all files of snapshots, unfinished and damaged ones and those that wait for their removal
    /// included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.0.state.borrow().files.values().sum()
    }

    /// Bytes of the snapshots of own states that are being written.
    #[must_use]
    pub fn writing_bytes(&self) -> u64 {
        let state = self.0.state.borrow();
        let chunks = |id: &SnapshotId| state.files.get(&FileName::new(*id, Kind::Chunks));
        state.writing.values().filter_map(chunks).sum()
    }

    /// Has `quota` decide from now on whether chunks may take more of the disk. What is there stays; manifests, which
    /// are small, are counted and not asked for.
    pub fn limit(&self, quota: Quota) {
        *self.0.quota.borrow_mut() = Some(quota);
    }

    /// Keeps a snapshot's files as long as the pin lives, also when it is no longer the newest. `None` if
    /// there is no such snapshot.
    #[must_use]
    pub fn pin(&self, id: SnapshotId) -> Option<Pin> {
        self.manifest(id)?;
        let state = self.0.state.clone();
        state.borrow_mut().held.get_mut(&id)?.pins += 1;
        Some(Pin { state, id })
    }

    /// Removes what a shard's newest snapshot makes useless: older snapshots that are not pinned, damaged ones
    /// and unfinished receptions up to its index. Also removes what is left of writers that were dropped.
    /// Returns the bytes that were freed. Without a whole snapshot of the shard, nothing of it is removed.
    ///
    /// A snapshot that was pinned is removed by a later call.
    ///
    /// # Errors
    /// [`WriteError::Io`]: some files could not be removed; the next call tries again. [`WriteError::Latched`].
    pub async fn remove_older(&self, shard: ShardId) -> Result<u64, WriteError> {
        let turn = self.0.gate.enter().await;
        {
            let state = &mut *self.0.state.borrow_mut();
            if let Some(newest) = state.newest(shard).map(|manifest| manifest.id) {
                let old = |id: &SnapshotId| id.shard == shard && id.index <= newest.index;
                let useless = |(id, held): (&SnapshotId, &Held)| {
                    sometimes!(snapshot_pinned, *id != newest && old(id) && held.pins > 0);
                    (*id != newest && old(id) && held.pins == 0).then_some(*id)
                };
                let useless: Vec<SnapshotId> = state.held.iter().filter_map(useless).collect();
                state.held.retain(|id, _| !useless.contains(id));
                let damaged: Vec<SnapshotId> = state.damaged.iter().copied().filter(old).collect();
                for id in useless.into_iter().chain(damaged) {
                    state.give_up(id);
                }
                if state.offers.get(&shard).is_some_and(|offer| old(&offer.id)) {
                    state.give_up_offer(shard);
                }
            }
        }
        self.0.sweep(&turn).await
    }

    /// Gives up a snapshot whose chunks were found damaged, so that an older one is the newest again and one
    /// of the same index can be written. Its files are removed, when nothing pins them any more.
    ///
    /// # Errors
    /// As for [`SnapshotStore::remove_older`]; the snapshot is given up all the same.
    pub async fn discard(&self, id: SnapshotId) -> Result<(), WriteError> {
        let turn = self.0.gate.enter().await;
        {
            let state = &mut *self.0.state.borrow_mut();
            let Some(held) = state.held.get_mut(&id) else { return Ok(()) };
            sometimes!(snapshot_discarded);
            held.discarded = true;
            if held.pins == 0 {
                state.held.remove(&id);
                state.give_up(id);
            }
        }
        self.0.sweep(&turn).await.map(drop)
    }
}

/// Keeps the files of a snapshot; see [`SnapshotStore::pin`].
#[derive(Debug)]
pub struct Pin {
    state: Rc<RefCell<State>>,
    id: SnapshotId,
}

impl Pin {
    /// Which snapshot it keeps.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let state = &mut *self.state.borrow_mut();
        let Some(held) = state.held.get_mut(&self.id) else {
            debug_assert!(false, "{} was removed while it was pinned", self.id);
            return;
        };
        held.pins -= 1;
        if held.pins == 0 && held.discarded {
            state.held.remove(&self.id);
            state.give_up(self.id);
        }
    }
}

/// Latches the store if a change of names is not waited for.
struct Unsettled<'a, D: Disk> {
    shared: &'a Shared<D>,
    file: FileName,
    settled: bool,
}

impl<D: Disk> Drop for Unsettled<'_, D> {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.latch(format!("nobody waited for the renaming of {}", self.file));
        }
    }
}

impl<D: Disk> Shared<D> {
    /// Makes the names in the directory durable. A failure latches: which names are durable is not known
    /// any more, and asking again could be answered with a success that means nothing.
    pub(super) async fn sync_dir(&self, _turn: &Turn<'_>) -> Result<(), WriteError> {
        match self.disk.sync_dir().await {
            Ok(()) => {
                self.state.borrow_mut().unsynced_removals = false;
                Ok(())
            }
            Err(error) => Err(self.latch(format!("syncing the directory failed: {error}"))),
        }
    }

    /// Renames a file and makes that durable. A failure latches: the file may have either name after a crash.
    /// So does a caller who does not wait for the end.
    pub(super) async fn put_in_place(
        &self,
        from: FileName,
        to: FileName,
        turn: &Turn<'_>,
    ) -> Result<(), WriteError> {
        let mut unsettled = Unsettled { shared: self, file: from, settled: false };
        let renamed = self.rename(from, to, turn).await;
        unsettled.settled = true;
        renamed
    }

    async fn rename(
        &self,
        from: FileName,
        to: FileName,
        turn: &Turn<'_>,
    ) -> Result<(), WriteError> {
        if let Err(error) = self.disk.rename(&from.text(), &to.text()).await {
            return Err(self.latch(format!("renaming {from} failed: {error}")));
        }
        {
            let files = &mut self.state.borrow_mut().files;
            let bytes = files.remove(&from).unwrap_or(0);
            files.insert(to, bytes);
        }
        if cfg!(mutant = "snapshot-name-unsynced") {
            return Ok(());
        }
        self.sync_dir(turn).await
    }

    fn latch(&self, message: String) -> WriteError {
        sometimes!(snapshot_store_latched);
        tracing::error!("the store of snapshots has failed: {message}");
        let error = WriteError::Latched { message: message.into() };
        self.state.borrow_mut().latched.get_or_insert(error).clone()
    }

    /// Creates a file, which is not there.
    pub(super) async fn create(
        &self,
        name: FileName,
        _turn: &Turn<'_>,
    ) -> Result<D::File, WriteError> {
        // Before it is there: nobody may be left to note it afterwards.
        self.state.borrow_mut().files.insert(name, 0);
        let file = self.disk.open(&name.text(), OpenMode::CreateNew).await;
        file.map_err(|error| WriteError::io("creating", name, &error))
    }

    /// Gives a file `bytes` of disk space, counted before they are taken: others ask meanwhile.
    pub(super) async fn allocate(
        &self,
        file: &D::File,
        name: FileName,
        bytes: u64,
    ) -> Result<(), WriteError> {
        let (used, has) = {
            let files = &self.state.borrow().files;
            (files.values().sum::<u64>(), files.get(&name).copied().unwrap_or(0))
        };
        let refuses = |quota: &Quota| !quota(used, used - has + bytes);
        if bytes > has && self.quota.borrow().as_ref().is_some_and(refuses) {
            sometimes!(snapshot_over_quota);
            return Err(WriteError::NoRoom { file: name.text().into() });
        }
        self.state.borrow_mut().files.insert(name, bytes.max(has));
        let allocated = file.allocate(bytes).await;
        allocated.map_err(|error| {
            self.state.borrow_mut().files.insert(name, has);
            WriteError::io("allocating", name, &error)
        })
    }

    /// Writes `bytes` as the whole new file `name`. They are durable afterwards, the name is not.
    pub(super) async fn write_file(
        &self,
        name: FileName,
        bytes: &[u8],
        turn: &Turn<'_>,
    ) -> Result<(), WriteError> {
        let file = self.create(name, turn).await?;
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf[..bytes.len()].copy_from_slice(bytes);
        let len = bytes.len().next_multiple_of(BLOCK_BYTES);
        self.state.borrow_mut().files.insert(name, len as u64);
        let (result, _) = transfer::write_durable(&file, 0, buf, len).await;
        result.map_err(|error| WriteError::io("writing", name, &error))?;
        // The write made its data durable; the file's length may need more.
        file.sync().await.map_err(|error| WriteError::io("syncing", name, &error))
    }

    /// Removes the garbage: what tells of chunks before the chunks, so that a crash between leaves chunks that
    /// mean nothing, and never a manifest without them. Returns the bytes that were freed.
    pub(super) async fn sweep(&self, turn: &Turn<'_>) -> Result<u64, WriteError> {
        let (first, then) = {
            let state = self.state.borrow();
            if let Some(latched) = &state.latched {
                return Err(latched.clone());
            }
            let garbage = state.garbage.iter().copied();
            garbage.partition::<Vec<_>, _>(|name| name.kind != Kind::Chunks)
        };
        let mut freed = 0;
        let mut failure = None;
        let mut kept = BTreeSet::new();
        for names in [first, then] {
            for name in names {
                if kept.contains(&name.id) {
                    continue;
                }
                match self.remove(name).await {
                    Ok(bytes) => freed += bytes,
                    Err(error) => {
                        sometimes!(snapshot_not_removed);
                        tracing::warn!("{error}");
                        kept.insert(name.id);
                        failure.get_or_insert(error);
                    }
                }
            }
            // Also those of an earlier call that nobody waited for.
            if self.state.borrow().unsynced_removals {
                self.sync_dir(turn).await?;
            }
        }
        failure.map_or(Ok(freed), Err)
    }

    /// Makes sure that no file of `id` is left. What else could not be removed is for later.
    pub(super) async fn clear(&self, id: SnapshotId, turn: &Turn<'_>) -> Result<(), WriteError> {
        let result = self.sweep(turn).await;
        let state = self.state.borrow();
        let in_the_way = state.garbage.iter().any(|name| name.id == id);
        if in_the_way || state.latched.is_some() { result.map(drop) } else { Ok(()) }
    }

    async fn remove(&self, name: FileName) -> Result<u64, WriteError> {
        self.state.borrow_mut().unsynced_removals = true;
        match self.disk.remove(&name.text()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let message: Arc<str> = error.to_string().into();
                let file = name.text().into();
                return Err(WriteError::Io {
                    action: "removing",
                    file,
                    kind: error.kind(),
                    message,
                });
            }
            Ok(()) | Err(_) => {}
        }
        if name.kind == Kind::Chunks {
            // The file goes when nobody has it open.
            self.left.borrow_mut().retain(|_, pipe| pipe.name() != name);
        }
        let mut state = self.state.borrow_mut();
        state.garbage.remove(&name);
        Ok(state.files.remove(&name).unwrap_or(0))
    }
}
