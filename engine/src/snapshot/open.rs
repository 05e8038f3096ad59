//! Opening the store: what each file is, what is wrong with it, and what is left over.
//!
//! First every file is looked at ([`Found`]), then each shard's files are judged without any I/O
//! ([`classify`]), then leftovers are removed. The judgement on the files of one snapshot:
//!
//! | manifest | offer | chunks | verdict |
//! |---|---|---|---|
//! | whole | | as long as it says | a snapshot; an offer beside it is left over |
//! | whole | | missing, shorter, unreadable | a problem |
//! | damaged, newer, unreadable, of another snapshot or log | | | a problem; nothing of it is removed |
//! | | whole | | an unfinished reception, kept if it is the newest of its shard and newer than the snapshots |
//! | | anything else | | left over: removed |
//! | | | there | left over: removed |
//!
//! A `.part` is always left over. A problem stays until a newer snapshot of the shard is durable.
//!
//! What can't be read is damage of that snapshot. What can't be opened or synced says nothing about any
//! snapshot, only that this is no time to judge: opening fails.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::rc::Rc;

use coracle_wal::limits::{BLOCK_BYTES, READ_BYTES_MAX};
use coracle_wal::{AlignedBuf, Disk, DiskFile, OpenMode, transfer};
use futures_util::stream::{self, StreamExt};

use super::error::OpenError;
use super::gate::Gate;
use super::manifest::HEAD_BYTES;
use super::name::{FileName, Kind};
use super::store::{Shared, SnapshotStore, State};
use super::{Manifest, ManifestError, SnapshotId};
use crate::limits::{SNAPSHOT_MANIFEST_BYTES_MAX, SNAPSHOTS_OPENED_AT_ONCE_MAX};

/// What [`SnapshotStore::open`] found.
#[derive(Debug, Default)]
pub struct Inventory {
    /// All whole snapshots, by shard and index. That their chunks are what was written is checked when they
    /// are read.
    pub snapshots: Vec<Rc<Manifest>>,
    /// Unfinished receptions, at most one for each shard.
    pub unfinished: Vec<Rc<Manifest>>,
    /// Names of files that were left over from a crash and were removed.
    pub removed: Vec<String>,
    /// What is wrong, by shard and index.
    pub problems: Vec<Problem>,
}

/// A snapshot that can't be used, or a leftover that could not be removed. Other snapshots are not concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which snapshot, by the file's name.
    pub id: SnapshotId,
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The manifest is damaged, or a newer program wrote it.
    Manifest(ManifestError),
    /// The manifest names another snapshot than its file.
    OtherSnapshot(SnapshotId),
    /// The manifest was written under another log.
    ForeignLog([u8; 16]),
    /// There is no file of chunks.
    ChunksMissing,
    /// The file of chunks is too short.
    ChunksShort {
        /// Bytes that are there.
        found: u64,
        /// Bytes that must be there.
        expected: u64,
    },
    /// The disk gave an error.
    Unreadable(String),
    /// A leftover could not be removed; it only takes space.
    NotRemoved(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, file, kind } = self;
        let instead = "the shard goes on with an older snapshot, its log, or a snapshot from its \
                       leader; the file is kept until a newer one is stored";
        match kind {
            ProblemKind::Manifest(error @ ManifestError::Newer { .. }) => {
                write!(f, "{file}, the manifest of {id}, can't be read: {error}; {instead}")
            }
            ProblemKind::Manifest(error) => {
                write!(f, "{file}, the manifest of {id}, is damaged: {error}; {instead}")
            }
            ProblemKind::OtherSnapshot(other) => write!(
                f,
                "{file} should be the manifest of {id} and is that of {other}; check who copied files \
                 into the data directory; {instead}"
            ),
            ProblemKind::ForeignLog(found) => {
                write!(f, "{file}, the manifest of {id}, belongs to another log (")?;
                found.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, "); check who copied files into the data directory; {instead}")
            }
            ProblemKind::ChunksMissing => {
                write!(f, "{file} is missing although {id} has a manifest; {instead}")
            }
            ProblemKind::ChunksShort { found, expected } => write!(
                f,
                "{file} has {found} of {expected} bytes although {id} has a manifest; {instead}"
            ),
            ProblemKind::Unreadable(error) => {
                write!(f, "{file} of {id} can't be read: {error}; check the disk; {instead}")
            }
            ProblemKind::NotRemoved(error) => write!(
                f,
                "{file}, a leftover of {id}, can't be removed: {error}; it takes space until it is"
            ),
        }
    }
}

/// A file that holds a manifest, or should.
#[derive(Debug)]
enum Sheet {
    Good(Rc<Manifest>),
    Bad(ProblemKind),
}

/// The files of one snapshot.
#[derive(Debug, Default)]
struct Found {
    manifest: Option<Sheet>,
    offer: Option<Sheet>,
    /// Bytes of the file of chunks.
    chunks: Option<u64>,
}

/// What becomes of the files.
#[derive(Debug, Default)]
struct Verdict {
    good: Vec<Rc<Manifest>>,
    offers: Vec<Rc<Manifest>>,
    problems: Vec<Problem>,
    left_over: Vec<FileName>,
}

/// Judges all files: see the table at the head of this file.
fn classify(found: BTreeMap<SnapshotId, Found>) -> Verdict {
    let mut verdict = Verdict::default();
    // By shard and ascending index.
    for (id, files) in found {
        let name = |kind| FileName::new(id, kind);
        if let Some(sheet) = files.manifest {
            match judge(id, sheet, files.chunks) {
                Ok(manifest) => verdict.good.push(manifest),
                Err(problem) => verdict.problems.push(problem),
            }
            if files.offer.is_some() {
                verdict.left_over.push(name(Kind::Offer));
            }
            continue;
        }
        match (files.offer, &files.chunks) {
            (Some(Sheet::Good(manifest)), _) => {
                verdict.offers.push(manifest);
                continue;
            }
            (Some(Sheet::Bad(_)), _) => verdict.left_over.push(name(Kind::Offer)),
            (None, _) => {}
        }
        if files.chunks.is_some() {
            verdict.left_over.push(name(Kind::Chunks));
        }
    }
    let newer_than = |id: SnapshotId, others: &[Rc<Manifest>]| {
        !others.iter().any(|other| other.id.shard == id.shard && other.id.index >= id.index)
    };
    // Later ones in the list have the higher index or term.
    for place in (0..verdict.offers.len()).rev() {
        let id = verdict.offers[place].id;
        let newest = !verdict.offers[place + 1..].iter().any(|other| other.id.shard == id.shard);
        if !newest || !newer_than(id, &verdict.good) {
            verdict.offers.remove(place);
            verdict.left_over.push(FileName::new(id, Kind::Offer));
            verdict.left_over.push(FileName::new(id, Kind::Chunks));
        }
    }
    verdict
}

/// Judges a snapshot by its manifest and its chunks.
fn judge(id: SnapshotId, sheet: Sheet, chunks: Option<u64>) -> Result<Rc<Manifest>, Problem> {
    let problem = |file, kind| {
        let file = FileName::new(id, file).text();
        Err(Problem { id, file, kind })
    };
    let manifest = match sheet {
        Sheet::Good(manifest) => manifest,
        Sheet::Bad(kind) => return problem(Kind::Manifest, kind),
    };
    let expected = manifest.file_bytes();
    match chunks {
        None => problem(Kind::Chunks, ProblemKind::ChunksMissing),
        Some(found) if found < expected => {
            problem(Kind::Chunks, ProblemKind::ChunksShort { found, expected })
        }
        Some(_) => Ok(manifest),
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// Opens the snapshots in a directory, which its owner shares with the log `log_id`. Names that are
    /// not of snapshots are not looked at.
    ///
    /// # Errors
    /// The directory can't be listed, or it or a file in it can't be opened or synced. What is damaged is in
    /// the [`Inventory`].
    pub async fn open(disk: D, log_id: [u8; 16]) -> Result<(Self, Inventory), OpenError> {
        // What is listed may be in a cache only; a snapshot counts when it survives.
        let synced = disk.sync_dir().await;
        let directory =
            |action| move |source| OpenError { action, what: "the directory".into(), source };
        synced.map_err(directory("syncing"))?;
        let names = disk.list().await.map_err(directory("listing"))?;
        let names: BTreeSet<_> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        let (found, files) = look(&disk, &log_id, &names).await?;
        let verdict = classify(found);

        let mut state = State { files, ..State::default() };
        state.garbage.extend(names.iter().filter(|name| name.kind == Kind::Part));
        state.garbage.extend(verdict.left_over.iter().filter(|name| names.contains(name)));
        state.damaged.extend(verdict.problems.iter().map(|problem| problem.id));
        verdict.good.iter().for_each(|manifest| state.hold(manifest.clone()));
        state.offers.extend(verdict.offers.iter().map(|offer| (offer.id.shard, offer.clone())));
        state.unobserved.extend(verdict.offers.iter().map(|offer| offer.id.shard));
        sometimes!(snapshot_problem_found, !verdict.problems.is_empty());
        sometimes!(snapshot_leftover_removed, !state.garbage.is_empty());
        sometimes!(snapshot_unfinished_kept, !state.offers.is_empty());

        let garbage = state.garbage.clone();
        let state = Rc::new(RefCell::new(state));
        let left = RefCell::default();
        let (gate, quota) = (Gate::default(), RefCell::default());
        let store = Self(Rc::new(Shared { disk, log_id, state, gate, left, quota }));
        let mut inventory = Inventory {
            snapshots: verdict.good,
            unfinished: verdict.offers,
            removed: Vec::new(),
            problems: verdict.problems,
        };
        let swept = {
            let turn = store.0.gate.enter().await;
            store.0.sweep(&turn).await
        };
        for name in garbage {
            if !store.0.state.borrow().garbage.contains(&name) {
                inventory.removed.push(name.text());
                continue;
            }
            let error = swept.as_ref().map_or_else(ToString::to_string, |_| String::new());
            let kind = ProblemKind::NotRemoved(error);
            inventory.problems.push(Problem { id: name.id, file: name.text(), kind });
        }
        inventory.problems.sort_by_key(|problem| problem.id);
        Ok((store, inventory))
    }
}

/// Looks at all files, several beside each other. Also gives their sizes.
async fn look<D: Disk>(
    disk: &D,
    log_id: &[u8; 16],
    names: &BTreeSet<FileName>,
) -> Result<(BTreeMap<SnapshotId, Found>, BTreeMap<FileName, u64>), OpenError> {
    let look_at = |name: FileName| async move {
        let (file, bytes) = open(disk, name).await?;
        let sheet = match name.kind {
            Kind::Manifest | Kind::Offer => Some(sheet(&file, bytes, log_id, name).await),
            Kind::Chunks | Kind::Part => None,
        };
        Ok((name, sheet, bytes))
    };
    let mut found: BTreeMap<SnapshotId, Found> = BTreeMap::new();
    let mut files = BTreeMap::new();
    let looks = stream::iter(names.iter().copied()).map(look_at);
    let mut looks = std::pin::pin!(looks.buffer_unordered(SNAPSHOTS_OPENED_AT_ONCE_MAX));
    while let Some(looked) = looks.next().await {
        let (name, sheet, bytes) = looked?;
        files.insert(name, bytes);
        let of_id = found.entry(name.id).or_default();
        match name.kind {
            Kind::Manifest => of_id.manifest = sheet,
            Kind::Offer => of_id.offer = sheet,
            Kind::Chunks => of_id.chunks = Some(bytes),
            Kind::Part => {}
        }
    }
    Ok((found, files))
}

/// Opens a file, and gives its size. What is read of it may be in a cache only; see above.
async fn open<D: Disk>(disk: &D, name: FileName) -> Result<(D::File, u64), OpenError> {
    let failed = |action| move |source| OpenError { action, what: name.text(), source };
    let file = disk.open(&name.text(), OpenMode::Existing).await.map_err(failed("opening"))?;
    file.sync().await.map_err(failed("syncing"))?;
    let size = file.size().await.map_err(failed("measuring"))?;
    Ok((file, size))
}

/// Reads and judges a manifest.
async fn sheet<F: DiskFile>(file: &F, size: u64, log_id: &[u8; 16], name: FileName) -> Sheet {
    let bytes = match read_sheet(file, size).await {
        Ok(bytes) => bytes,
        Err(error) => return Sheet::Bad(ProblemKind::Unreadable(error.to_string())),
    };
    let decoded = Manifest::encoded_bytes(&bytes)
        .and_then(|len| Manifest::decode(bytes.get(..len).unwrap_or(&bytes)));
    match decoded {
        Err(error) => Sheet::Bad(ProblemKind::Manifest(error)),
        Ok((_, found)) if found != *log_id => Sheet::Bad(ProblemKind::ForeignLog(found)),
        Ok((manifest, _)) if manifest.id != name.id => {
            Sheet::Bad(ProblemKind::OtherSnapshot(manifest.id))
        }
        Ok((manifest, _)) => Sheet::Good(Rc::new(manifest)),
    }
}

/// Reads the whole blocks of a manifest's file, no more than a manifest can have.
async fn read_sheet<F: DiskFile>(file: &F, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut end = SNAPSHOT_MANIFEST_BYTES_MAX.next_multiple_of(BLOCK_BYTES).min(size as usize);
    let mut buf = AlignedBuf::zeroed(end.clamp(BLOCK_BYTES, READ_BYTES_MAX));
    while bytes.len() < end {
        let len = buf.len().min((end - bytes.len()).next_multiple_of(BLOCK_BYTES));
        let (result, returned) = transfer::read(file, bytes.len() as u64, buf, len).await;
        buf = returned;
        let got = result?;
        bytes.extend_from_slice(&buf[..got]);
        if bytes.len() >= HEAD_BYTES
            && let Ok(needed) = Manifest::encoded_bytes(&bytes)
        {
            end = end.min(needed);
        }
        if got < len {
            break;
        }
    }
    Ok(bytes)
}
