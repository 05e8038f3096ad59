//! What can go wrong with snapshots, one type for each kind of operation: opening the store, writing, receiving a
//! chunk, reading.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::name::FileName;
use super::{ManifestError, SnapshotId};

/// Why the store could not be opened. A problem with one shard's files is none: see
/// [`Inventory`](super::Inventory).
#[derive(Debug, Error)]
#[error("{action} {what} failed: {source}; nothing was changed")]
pub struct OpenError {
    /// What was being done.
    pub action: &'static str,
    /// What it was done to: a file, or the directory.
    pub what: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Why a snapshot was not written, received or removed. Snapshots that were there before are as they were.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WriteError {
    /// The disk has no room for it, or the budget of the log and the snapshots together, or the process no file
    /// descriptor. What had been written was removed; try later.
    #[error(
        "no room for {file}: free some space on its disk, or raise the budget of the log's disk; what was written of \
         it was removed"
    )]
    NoRoom {
        /// The file that could not grow.
        file: Arc<str>,
    },
    /// The disk failed. The file is given up; nothing of it is tried again.
    #[error("{action} {file} failed: {message}; the snapshot is given up, check the disk")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file of the core's directory.
        file: Arc<str>,
        /// Kind of the system's error.
        kind: io::ErrorKind,
        /// What the system said.
        message: Arc<str>,
    },
    /// A change of names could not be made durable, so it is not known which files the directory will have after
    /// a crash. The store changes nothing any more until it is opened again; reading goes on.
    #[error("the store of snapshots has failed: {message}; open it again after mending the disk")]
    Latched {
        /// What happened first.
        message: Arc<str>,
    },
    /// That snapshot is there already.
    #[error("{id} is there already")]
    Exists {
        /// Which.
        id: SnapshotId,
    },
    /// There is a newer one.
    #[error("{id} is outdated: there is one at index {}", .newest.index)]
    Outdated {
        /// Which was wanted.
        id: SnapshotId,
        /// Which is there.
        newest: SnapshotId,
    },
    /// The same shard's snapshot is being written or received by another task.
    #[error("{id} must wait: {busy} is still under way")]
    Busy {
        /// Which was wanted.
        id: SnapshotId,
        /// What is under way.
        busy: SnapshotId,
    },
    /// An id, voter or chunk is out of bounds.
    #[error("{id} can't be: {flaw}")]
    Impossible {
        /// Which was wanted.
        id: SnapshotId,
        /// What is wrong with it.
        flaw: ManifestError,
    },
    /// Chunks are missing.
    #[error("{id} can't be finished: {missing} of its chunks are missing")]
    Incomplete {
        /// Which.
        id: SnapshotId,
        /// How many chunks.
        missing: usize,
    },
}

impl WriteError {
    pub(super) fn io(action: &'static str, file: FileName, error: &io::Error) -> Self {
        let name = file.text().into();
        if is_no_room(error) {
            return Self::NoRoom { file: name };
        }
        let message = error.to_string().into();
        Self::Io { action, file: name, kind: error.kind(), message }
    }
}

/// Why a chunk was not taken in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChunkError {
    /// The manifest has no chunk of that number.
    #[error("{id} has {chunks} chunks, there is no chunk {number}")]
    Unknown {
        /// Which snapshot.
        id: SnapshotId,
        /// The number that was given.
        number: u32,
        /// How many there are.
        chunks: usize,
    },
    /// It has another length than the manifest says. Ask for it again.
    #[error("chunk {number} of {id} has {found} bytes instead of {expected}; ask for it again")]
    Length {
        /// Which snapshot.
        id: SnapshotId,
        /// Which chunk.
        number: u32,
        /// Its length.
        found: usize,
        /// The length in the manifest.
        expected: u32,
    },
    /// It is not what the manifest says. Ask for it again.
    #[error(
        "chunk {number} of {id} has checksum {found:#010x} instead of {expected:#010x}; ask for it again"
    )]
    Checksum {
        /// Which snapshot.
        id: SnapshotId,
        /// Which chunk.
        number: u32,
        /// Its checksum.
        found: u32,
        /// The checksum in the manifest.
        expected: u32,
    },
    /// Writing failed; the reception is over.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a chunk was not read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// There is no such snapshot (any more).
    #[error("{id} is not there")]
    Missing {
        /// Which was wanted.
        id: SnapshotId,
    },
    /// The snapshot has no chunk of that number.
    #[error("{id} has {chunks} chunks, there is no chunk {number}")]
    Unknown {
        /// Which snapshot.
        id: SnapshotId,
        /// The number that was given.
        number: u32,
        /// How many there are.
        chunks: usize,
    },
    /// The chunk is not what was written.
    #[error(
        "{file} is damaged: chunk {chunk} at offset {offset} {damage}; the snapshot must be taken or fetched anew"
    )]
    Damaged {
        /// The file.
        file: Arc<str>,
        /// Number of the chunk.
        chunk: u32,
        /// Where in the file it begins, in bytes.
        offset: u64,
        /// How it is damaged.
        damage: Damage,
    },
    /// The disk failed.
    #[error("reading chunk {chunk} at offset {offset} of {file} failed: {message}")]
    Io {
        /// The file.
        file: Arc<str>,
        /// Number of the chunk; 0 if the file could not be opened.
        chunk: u32,
        /// Where in the file it begins, in bytes.
        offset: u64,
        /// Kind of the system's error.
        kind: io::ErrorKind,
        /// What the system said.
        message: Arc<str>,
    },
}

/// How a chunk is damaged.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Damage {
    /// The file ends before it.
    #[error("ends after {found} of {expected} bytes")]
    Short {
        /// Bytes that are there.
        found: usize,
        /// Bytes that should be.
        expected: usize,
    },
    /// It has other bytes.
    #[error("has checksum {found:#010x} instead of {expected:#010x}")]
    Checksum {
        /// What was read.
        found: u32,
        /// What the manifest says.
        expected: u32,
    },
}

/// Whether the disk or the process is full, which passes, and not broken.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    // Too many open files, in the system and in the process: these kinds have no stable name.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    // A disk may have wrapped the system's error to name the file.
    let wrapped = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let code = error.raw_os_error().or(wrapped.and_then(io::Error::raw_os_error));
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || matches!(code, Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_or_process_is_told_from_a_broken_disk_also_through_a_wrapper() {
        #[derive(Debug, Error)]
        #[error("cannot open a file: {source}")]
        struct Wrapper {
            source: io::Error,
        }
        for (code, expected) in [(28, true), (122, true), (24, true), (23, true), (5, false)] {
            let plain = io::Error::from_raw_os_error(code);
            assert_eq!(is_no_room(&plain), expected, "{plain}");
            let wrapped = io::Error::new(plain.kind(), Wrapper { source: plain });
            assert_eq!(is_no_room(&wrapped), expected, "{wrapped}");
        }
    }
}
