//! [`UringDisk`]: a directory of files over one core's ring.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use coracle_wal::{AlignedBuf, Disk, DiskFile, NamesLatch, OpenMode};
use io_uring::{opcode, types};
use thiserror::Error;

use super::reaper;
use super::ring::{Kind, Outcome, Payload, Requests, Ring};
use super::{DeviceFacts, SyncChoice, SyncMethod, choose_sync_method};
use crate::runtime::preflight;

/// Permissions of new files: the owner's only, logs hold user data.
const FILE_MODE: libc::mode_t = 0o600;

/// How long the lock of a directory is waited for: longer than disks usually stall.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// How a [`UringDisk`] works.
#[derive(Clone, Copy, Debug, Default)]
pub struct UringOptions {
    /// How durable writes reach the device.
    pub sync_method: SyncMethod,
    /// How long to look for completions before waiting for a signal. It saves a wake-up (a few
    /// microseconds) and costs that much CPU while I/O is in flight. Zero, the default, never spins.
    pub spin: Duration,
}

/// A directory of files, read and written through an io_uring of the core that opened it.
///
/// Clones share the ring. The ring ends when the last clone and the last file are dropped and its
/// operations are complete.
#[derive(Clone)]
pub struct UringDisk(Rc<Directory>);

struct Directory {
    ring: RingHandle,
    fd: Rc<OwnedFd>,
    path: PathBuf,
    choice: SyncChoice,
    /// Whether files are opened with O_DIRECT.
    direct: bool,
    names: NamesLatch,
}

/// Ends the reaper when the last user of the ring is gone.
struct RingHandle(Ring);

impl Drop for RingHandle {
    fn drop(&mut self) {
        self.0.close_ring();
    }
}

impl UringDisk {
    /// Opens the directory `dir`, which must exist, for the core whose task calls this.
    ///
    /// The directory is locked as long as the ring exists, and the ring exists until the kernel is
    /// done with its last operation, even if the process is killed before. So nobody opens a log
    /// while writes of an earlier process can still land in it.
    ///
    /// Blocking calls (opening the directory, reading sysfs, probing for O_DIRECT): for start-up only.
    ///
    /// # Errors
    /// The directory cannot be opened or stays locked, or io_uring is denied (the message says why and what to do).
    ///
    /// # Panics
    /// Outside of a core started by [`crate::runtime`].
    pub async fn open(dir: &Path, method: SyncMethod) -> io::Result<Self> {
        Self::open_with(dir, UringOptions { sync_method: method, spin: Duration::ZERO }).await
    }

    /// Like [`UringDisk::open`], with more choices.
    ///
    /// # Errors
    /// As for [`UringDisk::open`].
    ///
    /// # Panics
    /// Outside of a core started by [`crate::runtime`].
    pub async fn open_with(dir: &Path, options: UringOptions) -> io::Result<Self> {
        let at = |error| on(error, "open the directory", dir.display());
        let fd = OwnedFd::from(lock(dir).await.map_err(at)?);
        let choice = choose_sync_method(options.sync_method, &DeviceFacts::of(dir).map_err(at)?);
        let direct = choice.method != SyncMethod::BufferedNone && accepts_direct(&fd, dir)?;
        let eventfd = reaper::eventfd()?;
        let ring = Ring::new(eventfd.as_raw_fd()).map_err(|error| {
            let reason = preflight::explain(&preflight::probe());
            io::Error::new(error.kind(), format!("no io_uring for the disk: {error}; {reason}"))
        })?;
        ring.hold(fd.as_raw_fd()).map_err(at)?;
        if let Some(cpus) = preflight::process_cpus()
            && let Err(error) = ring.spread_workers(&cpus)
        {
            // Linux before 5.14: flushes may wait while the core computes.
            tracing::debug!(%error, "the kernel's I/O workers stay on this core's CPU");
        }
        reaper::start(ring.clone(), eventfd, options.spin)?;
        tracing::debug!(dir = %dir.display(), sync = choice.reason, direct, "disk opened");
        let (ring, fd) = (RingHandle(ring), Rc::new(fd));
        let (path, names) = (dir.to_owned(), NamesLatch::default());
        Ok(Self(Rc::new(Directory { ring, fd, path, choice, direct, names })))
    }

    /// The sync method in use, never [`SyncMethod::Auto`], and why.
    pub fn sync_choice(&self) -> &SyncChoice {
        &self.0.choice
    }

    /// Whether files bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }
}

/// Opens the directory and waits for its lock. An earlier owner that was killed keeps it while the
/// kernel finishes its operations.
async fn lock(dir: &Path) -> io::Result<fs::File> {
    let file = fs::File::open(dir)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                glommio::timer::sleep(LOCK_PAUSE).await;
            }
            Err(fs::TryLockError::WouldBlock) => {
                let message = "another process uses it, or its writes are still under way";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

impl fmt::Debug for UringDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringDisk").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Drop for Directory {
    /// Gives the lock back at once if nothing is in flight, for the ring itself may live on for a
    /// while. With something in flight, the lock goes with the ring.
    fn drop(&mut self) {
        if self.ring.0.is_idle() {
            // SAFETY: a descriptor that `self` keeps open. An error would leave the lock in place.
            unsafe { libc::flock(self.fd.as_raw_fd(), libc::LOCK_UN) };
        }
    }
}

impl Directory {
    async fn op(
        &self,
        payload: Payload,
        build: impl FnOnce(&mut Payload) -> Requests,
    ) -> (Outcome, Payload) {
        self.ring.0.run(payload, &self.fd, Kind::Other, build).await
    }

    fn named(&self, error: io::Error, what: &'static str, name: &str) -> io::Error {
        on(error, what, self.path.join(name).display())
    }
}

impl Disk for UringDisk {
    type File = UringFile;

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<UringFile> {
        let directory = &self.0;
        let mut flags = libc::O_RDWR | libc::O_CLOEXEC;
        if mode == OpenMode::CreateNew {
            flags |= libc::O_CREAT | libc::O_EXCL;
        }
        if directory.direct {
            flags |= libc::O_DIRECT;
        }
        let dir = types::Fd(directory.fd.as_raw_fd());
        let build = |payload: &mut Payload| {
            let Payload::Name(name) = payload else { unreachable!("given below") };
            let open = opcode::OpenAt::new(dir, name.as_ptr()).flags(flags).mode(FILE_MODE);
            Requests::One(open.build())
        };
        let (outcome, _) = directory
            .ring
            .0
            .run(Payload::Name(file_name(name)?), &directory.fd, Kind::Opens, build)
            .await;
        let fd = check(outcome.result).map_err(|e| directory.named(e, "open", name))?;
        // SAFETY: the kernel made this descriptor for us just now.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let directory = self.0.clone();
        Ok(UringFile(Rc::new(OpenFile { fd: Some(Rc::new(fd)), name: name.to_owned(), directory })))
    }

    /// Blocking (`readdir` has no io_uring request): for start-up only.
    async fn list(&self) -> io::Result<Vec<String>> {
        let at = |error| on(error, "list", self.0.path.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0.path).map_err(at)? {
            let entry = entry.map_err(at)?;
            if !entry.file_type().map_err(at)?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let dir = types::Fd(self.0.fd.as_raw_fd());
        let build = |payload: &mut Payload| {
            let Payload::Name(name) = payload else { unreachable!("given below") };
            Requests::One(opcode::UnlinkAt::new(dir, name.as_ptr()).build())
        };
        let (outcome, _) = self.0.op(Payload::Name(file_name(name)?), build).await;
        check(outcome.result).map_err(|e| self.0.named(e, "remove", name))?;
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let dir = types::Fd(self.0.fd.as_raw_fd());
        let build = |payload: &mut Payload| {
            let Payload::Names(from, to) = payload else { unreachable!("given below") };
            Requests::One(opcode::RenameAt::new(dir, from.as_ptr(), dir, to.as_ptr()).build())
        };
        let names = Payload::Names(file_name(from)?, file_name(to)?);
        let (outcome, _) = self.0.op(names, build).await;
        check(outcome.result).map_err(|e| self.0.named(e, "rename", from))?;
        Ok(())
    }

    async fn sync_dir(&self) -> io::Result<()> {
        if self.0.choice.method == SyncMethod::BufferedNone {
            return Ok(());
        }
        let sync = async {
            let sync = opcode::Fsync::new(types::Fd(self.0.fd.as_raw_fd())).build();
            let (outcome, _) = self.0.op(Payload::None, |_| Requests::One(sync)).await;
            check_sync(outcome.result)
        };
        let result = self.0.names.sync(sync).await;
        result.map_err(|e| on(e, "sync the directory", self.0.path.display()))
    }
}

/// A file of a [`UringDisk`]. Clones are the same open file; it is closed with the last of them.
#[derive(Clone)]
pub struct UringFile(Rc<OpenFile>);

struct OpenFile {
    /// Always there until it is dropped.
    fd: Option<Rc<OwnedFd>>,
    name: String,
    directory: Rc<Directory>,
}

impl OpenFile {
    fn fd(&self) -> types::Fd {
        types::Fd(self.fd.as_ref().map_or(-1, |fd| fd.as_raw_fd()))
    }

    async fn op(
        &self,
        payload: Payload,
        kind: Kind,
        build: impl FnOnce(&mut Payload) -> Requests,
    ) -> (Outcome, Payload) {
        let fd = self.fd.as_ref().expect("a file is open until it is dropped");
        self.directory.ring.0.run(payload, fd, kind, build).await
    }

    fn named(&self, error: io::Error, what: &'static str) -> io::Error {
        self.directory.named(error, what, &self.name)
    }

    /// Runs one transfer of `buf` and gives the buffer back.
    async fn transfer(
        &self,
        (buf, len): (AlignedBuf, usize),
        kind: Kind,
        build: impl FnOnce(*mut u8, u32) -> Requests,
    ) -> (Result<Outcome, io::Error>, AlignedBuf) {
        let Some(count) = u32::try_from(len).ok().filter(|_| len <= buf.len()) else {
            let message = format!("a transfer of {len} bytes in a buffer of {}", buf.len());
            return (Err(io::Error::new(io::ErrorKind::InvalidInput, message)), buf);
        };
        let build = |payload: &mut Payload| {
            let Payload::Buf(buf) = payload else { unreachable!("given below") };
            build(buf.as_mut_ptr(), count)
        };
        let (outcome, payload) = self.op(Payload::Buf(buf), kind, build).await;
        let Payload::Buf(buf) = payload else { unreachable!("an operation returns its payload") };
        (Ok(outcome), buf)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Operations whose futures were dropped keep the file open; the last of them closes it.
        if let Some(fd) = self.fd.take().and_then(Rc::into_inner) {
            self.directory.ring.0.close(fd.into_raw_fd());
        }
    }
}

impl fmt::Debug for UringFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringFile").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl DiskFile for UringFile {
    async fn size(&self) -> io::Result<u64> {
        // SAFETY: a statx structure is plain numbers, for which all zeros is a value.
        let stat: Box<libc::statx> = Box::new(unsafe { mem::zeroed() });
        let fd = self.0.fd();
        let build = |payload: &mut Payload| {
            let Payload::Stat(stat) = payload else { unreachable!("given below") };
            let result: *mut libc::statx = &raw mut **stat;
            let request = opcode::Statx::new(fd, c"".as_ptr(), result.cast())
                .flags(libc::AT_EMPTY_PATH)
                .mask(libc::STATX_SIZE);
            Requests::One(request.build())
        };
        let (outcome, payload) = self.0.op(Payload::Stat(stat), Kind::Other, build).await;
        check(outcome.result).map_err(|e| self.0.named(e, "look up the size of"))?;
        let Payload::Stat(stat) = payload else { unreachable!("an operation returns its payload") };
        Ok(stat.stx_size)
    }

    async fn allocate(&self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(()); // the kernel refuses an empty range
        }
        let request = opcode::Fallocate::new(self.0.fd(), size).build();
        let (outcome, _) = self.0.op(Payload::None, Kind::Other, |_| Requests::One(request)).await;
        check(outcome.result).map_err(|e| self.0.named(e, "allocate space for"))?;
        Ok(())
    }

    async fn read_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        let fd = self.0.fd();
        let build = |at: *mut u8, count| {
            Requests::One(opcode::Read::new(fd, at, count).offset(position).build())
        };
        let (outcome, buf) = self.0.transfer((buf, len), Kind::Transfer(len), build).await;
        let result = outcome.and_then(|outcome| check(outcome.result));
        (result.map_err(|e| self.0.named(e, "read")), buf)
    }

    async fn write_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        let fd = self.0.fd();
        let build = |at: *mut u8, count| {
            Requests::One(opcode::Write::new(fd, at, count).offset(position).build())
        };
        let (outcome, buf) = self.0.transfer((buf, len), Kind::Transfer(len), build).await;
        let result = outcome.and_then(|outcome| check_write(outcome.result, len));
        (result.map_err(|e| self.0.named(e, "write")), buf)
    }

    // Registered files and buffers are not used. What buffers would save is the pinning of pages: lost
    // in a write of 4 KiB, 11 % of the CPU in a profile of 1 MiB writes. For that the log's buffers
    // would have to come from one registered pool, out of the locked memory that small hosts limit.
    async fn write_durable(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        let fd = self.0.fd();
        let method = self.0.directory.choice.method;
        let build = |at: *mut u8, count: u32| {
            let write = opcode::Write::new(fd, at, count).offset(position);
            match method {
                SyncMethod::BufferedNone => Requests::One(write.build()),
                SyncMethod::Dsync => Requests::One(write.rw_flags(libc::RWF_DSYNC).build()),
                SyncMethod::Linked | SyncMethod::Auto => Requests::WriteThenSync {
                    write: write.build(),
                    sync: opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
                    len: count as i32,
                },
            }
        };
        let (outcome, buf) = self.0.transfer((buf, len), Kind::Log, build).await;
        let result = outcome.and_then(|outcome| check_durable(outcome, len));
        (result.map_err(|e| self.0.named(e, "write durably to")), buf)
    }

    async fn sync(&self) -> io::Result<()> {
        if self.0.directory.choice.method == SyncMethod::BufferedNone {
            return Ok(());
        }
        let request = opcode::Fsync::new(self.0.fd()).flags(types::FsyncFlags::DATASYNC).build();
        let (outcome, _) = self.0.op(Payload::None, Kind::Other, |_| Requests::One(request)).await;
        check_sync(outcome.result).map_err(|e| self.0.named(e, "sync"))
    }
}

/// A kernel result: a count, or a negated error number.
fn check(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// A short write is the caller's to continue; one that wrote nothing would go on for ever.
fn check_write(result: i32, len: usize) -> io::Result<usize> {
    match check(result)? {
        0 if len > 0 => Err(io::Error::new(io::ErrorKind::WriteZero, "nothing was written")),
        count => Ok(count),
    }
}

/// Every error of a sync is final, even one whose kind would ask for another try: the kernel may
/// already have forgotten which pages were not written.
fn check_sync(result: i32) -> io::Result<()> {
    match check(result) {
        Ok(_) => Ok(()),
        Err(error) if is_retried(&error) => {
            Err(io::Error::other(format!("the flush was not carried out: {error}")))
        }
        Err(error) => Err(error),
    }
}

fn check_durable(outcome: Outcome, len: usize) -> io::Result<usize> {
    let count = check_write(outcome.result, len)?;
    if count == len {
        // After a short write the kernel cancels the linked sync: the caller continues and syncs.
        check_sync(outcome.sync.unwrap_or(0))?;
    }
    Ok(count)
}

fn is_retried(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What failed, and where.
#[derive(Debug, Error)]
#[error("cannot {what} {place}: {source}")]
struct DiskError {
    what: &'static str,
    place: String,
    source: io::Error,
}

/// Adds the file to an error; its kind stays.
fn on(source: io::Error, what: &'static str, place: impl fmt::Display) -> io::Error {
    if is_retried(&source) {
        return source; // the caller tries again: not worth the text
    }
    io::Error::new(source.kind(), DiskError { what, place: place.to_string(), source })
}

fn file_name(name: &str) -> io::Result<CString> {
    let refused = || {
        let message = format!("{name:?} is not a plain file name");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    };
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(refused());
    }
    CString::new(name).map_err(|_| refused())
}

/// Whether the file system takes O_DIRECT, tried with an unnamed file; named files where it has no
/// unnamed ones. Blocking.
fn accepts_direct(dir: &OwnedFd, path: &Path) -> io::Result<bool> {
    let open = |flags: libc::c_int| {
        // SAFETY: a valid directory descriptor and a NUL-terminated name.
        let fd = unsafe {
            libc::openat(
                dir.as_raw_fd(),
                c".".as_ptr(),
                libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC | flags,
                libc::c_uint::from(FILE_MODE as u16),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and checked.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(())
    };
    match open(libc::O_DIRECT) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!(
                dir = %path.display(),
                "the file system has no O_DIRECT: writes go through the page cache"
            );
            Ok(false)
        }
        // No unnamed files here: assume O_DIRECT; opening a file will tell.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(true),
        Err(error) => Err(on(error, "write to the directory", path.display())),
    }
}
