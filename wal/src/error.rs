//! What can go wrong, one type for each operation: open, append, and the latched failure of a log.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::Lsn;
use crate::recovery::Extent;

/// Why a log could not be opened. Nothing was lost: opening changes nothing before it has read all.
#[derive(Debug, Error)]
pub enum OpenError {
    /// An option makes no sense.
    #[error("the log's options are wrong: {0}")]
    Options(String),
    /// The disk failed while the log was read or its first segment prepared.
    #[error("{action} {file} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file of the log's directory.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no spare segment and no room to make one.
    #[error("the disk has no room for a segment of {bytes} bytes; free some space and start again")]
    NoSpace {
        /// Bytes that are needed.
        bytes: u64,
    },
    /// The directory holds another log.
    #[error(
        "{file} belongs to another log ({}), this one is {}; check the data directory",
        hex(.found),
        hex(.expected)
    )]
    Foreign {
        /// The file that says so.
        file: String,
        /// The log it belongs to.
        found: [u8; 16],
        /// The log that was asked for.
        expected: [u8; 16],
    },
    /// The directory was written by a newer version of this program.
    #[error(
        "{file} has format version {version}, this program knows versions up to {supported}; use a newer program"
    )]
    Newer {
        /// The file that says so.
        file: String,
        /// Its version.
        version: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// Records that had been acknowledged are damaged.
    #[error("acknowledged records are damaged: {}; restore them, or start with what is left", list(.0))]
    Damaged(Vec<Extent>),
    /// The files claim numbers from which the log can't go on. No log gets there by writing.
    #[error("the log's files claim numbers or positions at the end of what there is; restore them")]
    Exhausted,
}

/// Why an append was refused. Nothing of the group was appended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AppendError {
    /// Too much waits to become durable. Try again when [`Wal::durable`](crate::Wal::durable) moved.
    #[error("the log's buffer is full: {backlog_bytes} bytes wait to become durable")]
    Full {
        /// Bytes that wait.
        backlog_bytes: usize,
    },
    /// The disk has no room for another segment, or the log's budget has none, and the current one is
    /// used up.
    #[error("the log has no space: trim it, free some on its disk, or raise its budget")]
    NoSpace,
    /// The group is larger than a batch can be.
    #[error("the group takes {bytes} bytes in the log, at most {max} are possible")]
    TooLarge {
        /// Bytes the group takes, record headers included.
        bytes: usize,
        /// Bytes that are possible.
        max: usize,
    },
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
    /// The log has failed; it takes nothing more until it is opened again.
    #[error("the log has failed: {0}")]
    Failed(#[from] WalFailure),
}

/// The latched failure of a log: after it nothing is acknowledged any more and nothing is tried again,
/// because after a failed write or flush the system may report clean pages that never reached the disk.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WalFailure {
    /// A write, flush or directory operation failed.
    #[error("{action} {file} failed: {message}; open the log again after mending the disk")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file of the log's directory.
        file: Arc<str>,
        /// Kind of the system's error.
        kind: io::ErrorKind,
        /// What the system said.
        message: Arc<str>,
    },
    /// The log's driver was dropped before the log was closed.
    #[error("the log's driver was stopped with records up to {durable} durable")]
    Stopped {
        /// What was durable then.
        durable: Lsn,
    },
    /// The log was closed; nothing more becomes durable.
    #[error("the log is closed")]
    Closed,
}

/// A failed operation on a named file, before it is known whether it refuses a start or latches.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) action: &'static str,
    pub(crate) file: String,
    pub(crate) source: io::Error,
}

impl Fault {
    pub(crate) fn new(action: &'static str, file: &str, source: io::Error) -> Self {
        Self { action, file: file.to_owned(), source }
    }
}

impl From<Fault> for WalFailure {
    fn from(fault: Fault) -> Self {
        Self::Io {
            action: fault.action,
            file: fault.file.into(),
            kind: fault.source.kind(),
            message: fault.source.to_string().into(),
        }
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Io { action: fault.action, file: fault.file, source: fault.source }
    }
}

fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list(extents: &[Extent]) -> String {
    const SHOWN: usize = 4;
    let mut text = extents.iter().take(SHOWN).map(Extent::to_string).collect::<Vec<_>>().join("; ");
    if extents.len() > SHOWN {
        text.push_str(&format!("; and {} more", extents.len() - SHOWN));
    }
    text
}
