//! Files of the log: their names, and their way from a new or a spare file to a ready segment and back.
//!
//! ```text
//!      create, allocate, zeros, sync, sync dir     header, rename, sync dir
//! (nothing) ----------------------> fill-N ------------------------------> seg-N   (ready, then in use)
//!                                              header, rename, sync dir      |
//!                                  spare-N -------------------------------->-+
//!                                     ^         rename, sync dir             |
//!                                     +------------------------------------<-+ trimmed or cut
//!                                                            rename, sync dir|
//!                                                          archive-N <-------+ trimmed, to be kept
//! ```
//!
//! A name `seg-N` is durable, and its header too, before the first batch goes into it: a crash can only
//! lose batches, never a segment. A spare's old name is durably gone before its header is overwritten.

use std::io;

use crate::error::Fault;
use crate::format::{self, SegmentId};
use crate::limits::{BLOCK_BYTES, FILL_BYTES, POSITION_MAX};
use crate::transfer;
use crate::{AlignedBuf, Disk, DiskFile, OpenMode};

/// A file of the log's directory, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileName {
    /// A segment with a header.
    Segment(u64),
    /// A file that may become a segment; its content means nothing.
    Spare(u64),
    /// A file that is being filled; worthless after a crash.
    Fill(u64),
}

impl FileName {
    /// Reads a name; `None` for a file that is not of the log.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.split_once('-')?;
        let number = u64::from_str_radix(number, 16).ok()?;
        if number > POSITION_MAX {
            return None;
        }
        let parsed = match kind {
            "seg" => Self::Segment(number),
            "spare" => Self::Spare(number),
            "fill" => Self::Fill(number),
            _ => return None,
        };
        (parsed.text() == name).then_some(parsed)
    }

    /// The name in the directory.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Segment(number) => format!("seg-{number:016x}"),
            Self::Spare(number) => format!("spare-{number:016x}"),
            Self::Fill(number) => format!("fill-{number:016x}"),
        }
    }
}

/// Why a segment could not be made ready.
#[derive(Debug)]
pub(crate) enum PrepareError {
    /// The disk or the process has no room for it now; nothing is lost, try later.
    NoRoom,
    /// The owner closed the log meanwhile.
    Stopped,
    /// The disk failed.
    Fault(Fault),
}

impl From<Fault> for PrepareError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Makes `id` ready from a new file filled with zeros. `stopped` is asked between the steps.
pub(crate) async fn prepare_new<D: Disk>(
    disk: &D,
    log_id: &[u8; 16],
    id: &SegmentId,
    stopped: impl Fn() -> bool,
) -> Result<D::File, PrepareError> {
    let name = FileName::Fill(id.sequence).text();
    let file = match disk.open(&name, OpenMode::CreateNew).await {
        Ok(file) => file,
        Err(error) if is_no_room(&error) => return Err(PrepareError::NoRoom),
        Err(error) => return Err(Fault::new("creating", &name, error).into()),
    };
    match fill(&file, &name, id.bytes, stopped).await {
        Ok(()) => {
            // The name must surely mean this file before it is renamed, not a leftover of that name.
            sync_dir(disk).await?;
            put_in_place(disk, file, &name, log_id, id).await.map_err(Into::into)
        }
        Err(error) => {
            // The blocks that were taken must not be missing elsewhere.
            drop(file);
            disk.remove(&name).await.map_err(|error| Fault::new("removing", &name, error))?;
            Err(error)
        }
    }
}

/// Makes `id` ready from the spare file `name`.
pub(crate) async fn prepare_spare<D: Disk>(
    disk: &D,
    log_id: &[u8; 16],
    id: &SegmentId,
    name: &str,
) -> Result<D::File, PrepareError> {
    let file = match disk.open(name, OpenMode::Existing).await {
        Ok(file) => file,
        Err(error) if is_out_of_files(&error) => return Err(PrepareError::NoRoom),
        Err(error) => return Err(Fault::new("opening", name, error).into()),
    };
    put_in_place(disk, file, name, log_id, id).await.map_err(Into::into)
}

/// Turns segment `sequence` into a spare.
pub(crate) async fn retire<D: Disk>(disk: &D, sequence: u64) -> Result<String, Fault> {
    let from = FileName::Segment(sequence).text();
    let to = FileName::Spare(sequence).text();
    disk.rename(&from, &to).await.map_err(|error| Fault::new("renaming", &from, error))?;
    sync_dir(disk).await?;
    Ok(to)
}

/// Gives segment `sequence` a name that the log ignores.
pub(crate) async fn archive<D: Disk>(disk: &D, sequence: u64) -> Result<(), Fault> {
    let from = FileName::Segment(sequence).text();
    let to = format!("archive-{sequence:016x}");
    disk.rename(&from, &to).await.map_err(|error| Fault::new("renaming", &from, error))?;
    sync_dir(disk).await
}

/// Writes the summary of segment `sequence`. Nothing rests on it: it is not flushed, and a failure is
/// worth a line in the program's log.
pub(crate) async fn summarize<D: Disk>(
    disk: &D,
    sequence: u64,
    offset: u64,
    buf: AlignedBuf,
) -> bool {
    let name = FileName::Segment(sequence).text();
    let written = match disk.open(&name, OpenMode::Existing).await {
        Ok(file) => {
            let len = buf.len();
            transfer::write_all(&file, offset, buf, len).await.0.map(|_| ())
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &written {
        tracing::warn!(%error, file = name, "the summary of a segment was not written");
    }
    written.is_ok()
}

/// Removes a file of the log.
pub(crate) async fn remove<D: Disk>(disk: &D, name: &str) -> Result<(), Fault> {
    disk.remove(name).await.map_err(|error| Fault::new("removing", name, error))?;
    sync_dir(disk).await
}

/// Makes the names in the directory durable.
pub(crate) async fn sync_dir<D: Disk>(disk: &D) -> Result<(), Fault> {
    disk.sync_dir().await.map_err(|error| Fault::new("syncing", "the directory", error))
}

async fn fill<F: DiskFile>(
    file: &F,
    name: &str,
    bytes: u64,
    stopped: impl Fn() -> bool,
) -> Result<(), PrepareError> {
    let check = |action, error| {
        if is_no_room(&error) {
            PrepareError::NoRoom
        } else {
            PrepareError::Fault(Fault::new(action, name, error))
        }
    };
    file.allocate(bytes).await.map_err(|error| check("allocating", error))?;
    let mut zeros = AlignedBuf::zeroed(FILL_BYTES);
    let mut position = 0;
    while position < bytes {
        if stopped() {
            return Err(PrepareError::Stopped);
        }
        let len = (bytes - position).min(FILL_BYTES as u64) as usize;
        let (result, returned) = transfer::write_all(file, position, zeros, len).await;
        zeros = returned;
        result.map_err(|error| check("filling", error))?;
        position += len as u64;
    }
    if cfg!(mutant = "rotation-without-sync") {
        return Ok(());
    }
    file.sync().await.map_err(|error| check("syncing", error))
}

async fn put_in_place<D: Disk>(
    disk: &D,
    file: D::File,
    name: &str,
    log_id: &[u8; 16],
    id: &SegmentId,
) -> Result<D::File, Fault> {
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    format::encode_segment_header(&mut block, log_id, id);
    let (result, _) = transfer::write_durable(&file, 0, block, BLOCK_BYTES).await;
    result.map_err(|error| Fault::new("writing the header of", name, error))?;
    let to = FileName::Segment(id.sequence).text();
    disk.rename(name, &to).await.map_err(|error| Fault::new("renaming", name, error))?;
    #[cfg(not(mutant = "rename-without-dir-sync"))]
    sync_dir(disk).await?;
    Ok(file)
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || is_out_of_files(error)
}

/// Whether the process or the system has no file descriptor left; the kinds have no stable name.
fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_ignored() {
        for name in [FileName::Segment(1), FileName::Spare(0), FileName::Fill(POSITION_MAX)] {
            assert_eq!(FileName::parse(&name.text()), Some(name));
        }
        for text in [
            "lost+found",
            "seg-1",
            "seg-",
            "seg-00000000000000zz",
            "seg-ffffffffffffffff",
            "other-0000000000000001",
        ] {
            assert_eq!(FileName::parse(text), None, "{text}");
        }
    }
}
