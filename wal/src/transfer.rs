//! Whole transfers over a disk whose reads and writes may be short or have to be submitted again.

use std::io;

use crate::limits::{BLOCK_BYTES, RESUBMITS_MAX};
use crate::{AlignedBuf, DiskFile};

/// What a write met on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// Writes that were short; the rest was submitted again.
    pub short: u64,
    /// Writes that were answered "try again" and submitted again.
    pub resubmitted: u64,
}

/// Writes the first `len` bytes of `buf` at `position`; on success they are durable.
///
/// The content of `buf` is arbitrary afterwards.
pub async fn write_durable<F: DiskFile>(
    file: &F,
    position: u64,
    buf: AlignedBuf,
    len: usize,
) -> (io::Result<Effort>, AlignedBuf) {
    let (result, buf) = write(file, position, buf, len, true).await;
    match result {
        // A short write broke the link to its flush: what it wrote needs a flush of its own.
        #[cfg(not(mutant = "short-write-unsynced"))]
        Ok(effort) if effort.short > 0 => (file.sync().await.map(|()| effort), buf),
        #[cfg(mutant = "flush-retried")]
        Err(_) => (file.sync().await.map(|()| Effort::default()), buf),
        other => (other, buf),
    }
}

/// Writes the first `len` bytes of `buf` at `position`. The content of `buf` is arbitrary afterwards
/// if the write was short.
pub async fn write_all<F: DiskFile>(
    file: &F,
    position: u64,
    buf: AlignedBuf,
    len: usize,
) -> (io::Result<Effort>, AlignedBuf) {
    write(file, position, buf, len, false).await
}

async fn write<F: DiskFile>(
    file: &F,
    mut position: u64,
    mut buf: AlignedBuf,
    mut len: usize,
    durable: bool,
) -> (io::Result<Effort>, AlignedBuf) {
    let mut effort = Effort::default();
    let mut in_vain = 0;
    loop {
        let (result, returned) = if durable {
            file.write_durable(position, buf, len).await
        } else {
            file.write_at(position, buf, len).await
        };
        buf = returned;
        match result {
            Ok(written) if written == len => return (Ok(effort), buf),
            #[cfg(mutant = "short-write-complete")]
            Ok(written) if written > 0 => return (Ok(effort), buf),
            Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buf),
            Ok(written) => {
                // O_DIRECT writes whole blocks; a block that is only partly written goes again.
                let whole = written.min(len) / BLOCK_BYTES * BLOCK_BYTES;
                effort.short += 1;
                sometimes!(short_write);
                sometimes!(short_write_in_vain, whole == 0);
                in_vain = if whole == 0 { in_vain + 1 } else { 0 };
                buf.copy_within(whole..len, 0);
                position += whole as u64;
                len -= whole;
            }
            Err(error) if may_resubmit(&error) => {
                effort.resubmitted += 1;
                sometimes!(write_resubmitted);
                in_vain += 1;
            }
            Err(error) => return (Err(error), buf),
        }
        if in_vain > RESUBMITS_MAX {
            let error = io::Error::other("the write was answered 'try again' without end");
            return (Err(error), buf);
        }
    }
}

/// Reads `len` bytes at `position`, fewer only at the end of the file.
pub async fn read<F: DiskFile>(
    file: &F,
    position: u64,
    mut buf: AlignedBuf,
    len: usize,
) -> (io::Result<usize>, AlignedBuf) {
    let mut in_vain = 0;
    loop {
        let (result, returned) = file.read_at(position, buf, len).await;
        buf = returned;
        match result {
            Ok(got) if got == len || got == 0 => return (Ok(got), buf),
            Ok(got) => {
                sometimes!(short_read);
                return read_rest(file, position, buf, len, got).await;
            }
            Err(error) if may_resubmit(&error) && in_vain < RESUBMITS_MAX => {
                sometimes!(read_resubmitted);
                in_vain += 1;
            }
            Err(error) => return (Err(error), buf),
        }
    }
}

/// Goes on block by block after a short read, which is rare: at the end of a file.
async fn read_rest<F: DiskFile>(
    file: &F,
    position: u64,
    mut buf: AlignedBuf,
    len: usize,
    got: usize,
) -> (io::Result<usize>, AlignedBuf) {
    let mut at = got / BLOCK_BYTES * BLOCK_BYTES;
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    let mut in_vain = 0;
    while at < len {
        let (result, returned) = file.read_at(position + at as u64, block, BLOCK_BYTES).await;
        block = returned;
        match result {
            Ok(BLOCK_BYTES) => {
                buf[at..at + BLOCK_BYTES].copy_from_slice(&block);
                at += BLOCK_BYTES;
                in_vain = 0;
            }
            // Less than a block: the file ends here, and what is not a whole block is no batch.
            Ok(_) => break,
            Err(error) if may_resubmit(&error) && in_vain < RESUBMITS_MAX => in_vain += 1,
            Err(error) => return (Err(error), buf),
        }
    }
    (Ok(at), buf)
}

/// Whether the system refused the transfer without having tried it.
fn may_resubmit(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
