//! The disk half of the I/O seam: one directory of files, as the log needs it.
//!
//! Implementations: the io_uring ring of the root package, the memory disk of this crate, and the
//! simulator. The contract below is what all of them keep and what the log relies on.
//!
//! * Calls run on one thread; futures need not be `Send`. Operations of different calls may complete
//!   in any order.
//! * A write may be **short** (fewer bytes than asked for) or fail with `WouldBlock`/`Interrupted`:
//!   then nothing is promised about durability and the caller submits the rest again. Every other
//!   error of a write or sync is final for those blocks: the caller must never retry it into success.
//! * A dropped future does not cancel its operation: the implementation keeps the buffer alive until
//!   the operation is complete.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;

use crate::AlignedBuf;

/// How [`Disk::open`] treats a file that exists, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file must not exist; it is created empty. The new name is durable only after
    /// [`Disk::sync_dir`].
    CreateNew,
}

/// A directory that one log owns. Cloning gives another handle to the same directory.
#[allow(async_fn_in_trait)] // one thread per core: futures are never sent
pub trait Disk: Clone + 'static {
    /// An open file of this directory.
    type File: DiskFile;

    /// Opens the file `name` (no path separators) for reading and writing.
    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<Self::File>;
    /// The names of all files in the directory, in no particular order.
    async fn list(&self) -> io::Result<Vec<String>>;
    /// Removes the file `name`; durable after [`Disk::sync_dir`].
    async fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing `to` if it exists; durable after [`Disk::sync_dir`].
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and renames in this directory durable. After one has failed, by whatever handle,
    /// all others fail, too: see [`NamesLatch`].
    async fn sync_dir(&self) -> io::Result<()>;
}

/// Keeps a directory's syncs from succeeding after one has failed. Clones are of the same directory.
///
/// A kernel that could not write a change of names forgets it, and the next sync succeeds although the change is
/// not durable. A log and other users share a directory: the failure of one concerns what the others have
/// renamed.
#[derive(Clone, Debug, Default)]
pub struct NamesLatch(Rc<Cell<bool>>);

impl NamesLatch {
    /// Carries out a sync of the directory.
    ///
    /// # Errors
    /// Its own, and any after another one has failed.
    pub async fn sync(&self, sync: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let lost = || {
            let message = "an earlier sync of the directory has failed: open it again";
            Err(io::Error::other(message))
        };
        if self.0.get() {
            return lost();
        }
        let result = sync.await;
        if result.is_ok() && self.0.get() {
            return lost(); // which of the two was first, nobody knows
        }
        self.0.set(result.is_err());
        result
    }
}

/// An open file. Cloning gives another handle to the same open file.
///
/// Positions and lengths of transfers are multiples of
/// [`BLOCK_BYTES`](crate::limits::BLOCK_BYTES); `len` is at most `buf.len()`.
#[allow(async_fn_in_trait)]
pub trait DiskFile: Clone + 'static {
    /// Current size in bytes.
    async fn size(&self) -> io::Result<u64>;
    /// Reserves disk space for the first `size` bytes and makes the file that long. Fails with
    /// [`io::ErrorKind::StorageFull`] when the disk has no room.
    async fn allocate(&self, size: u64) -> io::Result<()>;
    /// Reads up to `len` bytes at `position` into the start of `buf`; fewer at the end of the file.
    async fn read_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf);
    /// Writes the first `len` bytes of `buf` at `position`. Not durable before [`DiskFile::sync`].
    async fn write_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf);
    /// Like [`DiskFile::write_at`], but when it returns `Ok(n)` with `n == len` the bytes are durable
    /// (one write with data sync, or a write and a flush linked in one submission).
    async fn write_durable(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf);
    /// Makes all completed writes of this file durable, with what is needed to read them back.
    async fn sync(&self) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    #[test]
    fn no_sync_of_a_directory_succeeds_after_or_beside_a_failed_one() {
        let latch = NamesLatch::default();
        assert!(poll(latch.sync(ready(Ok(())))).is_some_and(|result| result.is_ok()));
        assert!(poll(latch.sync(pending())).is_none(), "dropped: it says nothing");
        let other = latch.clone();
        let failed = async || other.sync(ready(Err(io::Error::other("no")))).await;
        let beside = async {
            assert!(failed().await.is_err());
            Ok(())
        };
        assert!(poll(latch.sync(beside)).is_some_and(|result| result.is_err()));
        let asked = poll_fn(|_| -> Poll<io::Result<()>> { unreachable!("not even asked") });
        assert!(poll(latch.sync(asked)).is_some_and(|result| result.is_err()));
    }
}
