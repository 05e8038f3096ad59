//! A disk in memory, for volatile logs and for tests.
//!
//! # Fault model
//! Every file has two images: what is *durable*, and a list of later changes that are only in the *cache*.
//! Reads see both. A change becomes durable by `write_durable`, `sync` (the file's bytes and size), or
//! `sync_dir` (names), when that operation **completes**, not before.
//!
//! * [`MemDisk::crash`] yields the disk after a power cut: each change that was not durable is kept, lost
//!   or, for a write, torn into sectors of 512 bytes of which any subset is kept. Names behave alike: each
//!   unsynced create, rename and remove is kept or lost. A choice function decides, so that a test
//!   can replay a crash from its seed.
//! * [`MemDisk::hold`] makes writes and syncs wait until [`MemDisk::release`] completes one of them, in any
//!   order the test likes.
//! * [`MemDisk::on_operation`] decides the fate of each operation: an error, a short write, or nothing.
//!   A write that fails may have reached the cache, and a later sync does not make it durable; a failed
//!   sync has the same effect on everything it should have made durable, as real page caches do.
//! * [`MemDisk::set_capacity`] limits the disk; [`MemDisk::corrupt`] rots durable bytes.
//!
//! Not modelled: damage outside of the written range, misdirected writes, reads that fail by themselves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::limits::BLOCK_BYTES;
use crate::{AlignedBuf, Disk, DiskFile, OpenMode};

/// Smallest unit in which a crash keeps or loses bytes.
pub const SECTOR_BYTES: usize = 512;

/// A kind of operation, for [`MemDisk::on_operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Disk::open`] that creates.
    Create,
    /// [`Disk::open`] of an existing file.
    Open,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::allocate`].
    Allocate,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::write_durable`].
    WriteDurable,
    /// [`DiskFile::sync`].
    Sync,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It succeeds.
    Succeed,
    /// It fails with this kind of error.
    Fail(io::ErrorKind),
    /// A write or read that moves at most so many bytes.
    Short(usize),
}

type Hook = Box<dyn FnMut(Operation) -> Fate>;
type Page = Box<[u8; BLOCK_BYTES]>;

/// Sparse bytes: pages that are not there are zeros.
#[derive(Clone, Default)]
struct Image {
    pages: BTreeMap<u64, Page>,
    size: u64,
}

impl Image {
    fn write(&mut self, position: u64, bytes: &[u8]) {
        self.size = self.size.max(position + bytes.len() as u64);
        let mut at = 0;
        while at < bytes.len() {
            let place = position + at as u64;
            let start = (place % BLOCK_BYTES as u64) as usize;
            let step = (BLOCK_BYTES - start).min(bytes.len() - at);
            let part = &bytes[at..at + step];
            at += step;
            let number = place / BLOCK_BYTES as u64;
            if !self.pages.contains_key(&number) && part.iter().all(|byte| *byte == 0) {
                continue;
            }
            let page = self.pages.entry(number).or_insert_with(|| Box::new([0; BLOCK_BYTES]));
            page[start..start + step].copy_from_slice(part);
        }
    }

    fn read(&self, position: u64, buf: &mut [u8]) -> usize {
        let len = buf.len().min(self.size.saturating_sub(position) as usize);
        let mut at = 0;
        while at < len {
            let place = position + at as u64;
            let start = (place % BLOCK_BYTES as u64) as usize;
            let step = (BLOCK_BYTES - start).min(len - at);
            match self.pages.get(&(place / BLOCK_BYTES as u64)) {
                Some(page) => buf[at..at + step].copy_from_slice(&page[start..start + step]),
                None => buf[at..at + step].fill(0),
            }
            at += step;
        }
        len
    }
}

/// A change of a file that is only in the cache.
struct Change {
    number: u64,
    what: What,
    /// No sync makes it durable any more.
    lost: bool,
}

enum What {
    Write { position: u64, bytes: Vec<u8> },
    Size(u64),
}

impl What {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { position, bytes } => image.write(*position, bytes),
            Self::Size(size) => image.size = image.size.max(*size),
        }
    }
}

impl Change {
    /// What is left of it outside of `covered`.
    fn without(self, covered: &Range<u64>) -> Vec<Self> {
        let Self { number, what, lost } = self;
        let What::Write { position, bytes } = what else {
            return vec![Self { number, what, lost }];
        };
        let end = position + bytes.len() as u64;
        let before = position..end.min(covered.start);
        let after = position.max(covered.end)..end;
        [before, after]
            .into_iter()
            .filter(|part| part.start < part.end)
            .map(|part| {
                let from = (part.start - position) as usize..(part.end - position) as usize;
                let what = What::Write { position: part.start, bytes: bytes[from].to_vec() };
                Self { number, what, lost }
            })
            .collect()
    }
}

#[derive(Default)]
struct Node {
    cached: Image,
    /// `None` while it is the same as `cached`: nothing is unsynced.
    durable: Option<Image>,
    changes: Vec<Change>,
}

impl Node {
    fn change(&mut self, number: u64, what: What, lost: bool) {
        self.durable.get_or_insert_with(|| self.cached.clone());
        what.apply(&mut self.cached);
        self.changes.push(Change { number, what, lost });
    }

    /// Makes the changes durable that `chosen` names.
    fn settle(&mut self, chosen: impl Fn(u64) -> bool) {
        let Some(durable) = &mut self.durable else { return };
        let mut waiting: Vec<Change> = Vec::new();
        for change in self.changes.drain(..) {
            if change.lost || !chosen(change.number) {
                waiting.push(change);
                continue;
            }
            change.what.apply(durable);
            if let What::Write { position, bytes } = &change.what {
                // What an earlier write would have put there can't come any more.
                let covered = *position..*position + bytes.len() as u64;
                waiting = waiting.into_iter().flat_map(|older| older.without(&covered)).collect();
            }
        }
        self.changes = waiting;
        if self.changes.is_empty() {
            self.durable = None;
        }
    }

    fn crash(&self, choose: &mut dyn FnMut(u32) -> u32) -> Node {
        let mut image = self.durable.as_ref().unwrap_or(&self.cached).clone();
        for change in &self.changes {
            match (choose(3), &change.what) {
                (0, _) => {}
                (2, What::Write { position, bytes }) => {
                    for (sector, part) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if choose(2) == 1 {
                            image.write(position + (sector * SECTOR_BYTES) as u64, part);
                        }
                    }
                }
                (_, what) => what.apply(&mut image),
            }
        }
        Node { cached: image, durable: None, changes: Vec::new() }
    }
}

type NodeId = usize;

#[derive(Clone)]
enum NameChange {
    Create(String, NodeId),
    Remove(String),
    Rename(String, String, NodeId),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, NodeId>) {
        match self {
            Self::Create(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

#[derive(Default)]
struct Ticket {
    released: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, NodeId>,
    durable_names: BTreeMap<String, NodeId>,
    name_changes: Vec<NameChange>,
    settled_names: u64,
    changes: u64,
    capacity: Option<u64>,
    hold: bool,
    held: Vec<Rc<RefCell<Ticket>>>,
    hook: Option<Hook>,
}

impl State {
    fn fate(&mut self, operation: Operation) -> Fate {
        self.hook.as_mut().map_or(Fate::Succeed, |hook| hook(operation))
    }

    fn check(&mut self, operation: Operation) -> io::Result<()> {
        match self.fate(operation) {
            Fate::Fail(kind) => Err(kind.into()),
            Fate::Succeed | Fate::Short(_) => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|node| self.nodes[*node].cached.size).sum()
    }

    fn number(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn check_room(&self, node: NodeId, size: u64) -> io::Result<()> {
        let more = size.saturating_sub(self.nodes[node].cached.size);
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

/// A directory in memory. Cloning gives another handle to it.
#[derive(Clone, Default)]
pub struct MemDisk(Rc<RefCell<State>>);

impl MemDisk {
    /// An empty directory without limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as it is after a power cut now. `choose(n)` picks a number below `n`. This disk goes on as
    /// if nothing had happened, so that several crashes of one moment can be tried.
    pub fn crash(&self, choose: &mut dyn FnMut(u32) -> u32) -> Self {
        let state = self.0.borrow();
        let mut names = state.durable_names.clone();
        for change in &state.name_changes {
            if choose(2) == 1 {
                change.apply(&mut names);
            }
        }
        let nodes = state.nodes.iter().map(|node| node.crash(choose)).collect();
        let capacity = state.capacity;
        Self(Rc::new(RefCell::new(State {
            nodes,
            durable_names: names.clone(),
            names,
            capacity,
            ..State::default()
        })))
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.borrow_mut().capacity = bytes;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> u64 {
        self.0.borrow().used()
    }

    /// Asks `hook` about every operation from now on.
    pub fn on_operation(&self, hook: impl FnMut(Operation) -> Fate + 'static) {
        self.0.borrow_mut().hook = Some(Box::new(hook));
    }

    /// Makes writes and syncs wait for [`MemDisk::release`], or not. Those that wait go on waiting.
    pub fn hold(&self, hold: bool) {
        self.0.borrow_mut().hold = hold;
    }

    /// How many operations wait.
    pub fn held(&self) -> usize {
        self.0.borrow().held.len()
    }

    /// Lets the waiting operation `index` complete, counted from the oldest.
    pub fn release(&self, index: usize) {
        let ticket = self.0.borrow_mut().held.remove(index);
        let mut ticket = ticket.borrow_mut();
        ticket.released = true;
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
    }

    /// The bytes of a file as a reader sees them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.borrow();
        let image = &state.nodes[*state.names.get(name)?].cached;
        let mut bytes = vec![0; image.size as usize];
        image.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a durable file in place, replacing one of that name.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        let mut node = Node::default();
        node.cached.write(0, bytes);
        state.nodes.push(node);
        let id = state.nodes.len() - 1;
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
    }

    /// Inverts `len` bytes of a file, durably.
    pub fn corrupt(&self, name: &str, position: u64, len: usize) {
        let mut state = self.0.borrow_mut();
        let Some(id) = state.names.get(name).copied() else { return };
        let node = &mut state.nodes[id];
        for image in [Some(&mut node.cached), node.durable.as_mut()].into_iter().flatten() {
            let mut bytes = vec![0; len];
            let len = image.read(position, &mut bytes);
            bytes.truncate(len);
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            image.write(position, &bytes);
        }
    }

    /// Waits until the operation may complete.
    async fn turn(&self) {
        let ticket = {
            let mut state = self.0.borrow_mut();
            if !state.hold {
                return;
            }
            let ticket = Rc::<RefCell<Ticket>>::default();
            state.held.push(ticket.clone());
            ticket
        };
        poll_fn(|cx| {
            let mut ticket = ticket.borrow_mut();
            if ticket.released {
                return Poll::Ready(());
            }
            ticket.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn file(&self, node: NodeId) -> MemFile {
        MemFile { disk: self.clone(), node }
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<MemFile> {
        let mut state = self.0.borrow_mut();
        let found = state.names.get(name).copied();
        match (mode, found) {
            (OpenMode::Existing, Some(node)) => {
                state.check(Operation::Open)?;
                Ok(self.file(node))
            }
            (OpenMode::Existing, None) => Err(io::ErrorKind::NotFound.into()),
            (OpenMode::CreateNew, Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::CreateNew, None) => {
                state.check(Operation::Create)?;
                state.nodes.push(Node::default());
                let node = state.nodes.len() - 1;
                state.rename(NameChange::Create(name.to_owned(), node));
                Ok(self.file(node))
            }
        }
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.check(Operation::Remove)?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.check(Operation::Rename)?;
        let Some(node) = state.names.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.rename(NameChange::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    async fn sync_dir(&self) -> io::Result<()> {
        let covered = {
            let state = self.0.borrow();
            state.settled_names + state.name_changes.len() as u64
        };
        self.turn().await;
        let mut state = self.0.borrow_mut();
        state.check(Operation::SyncDir)?;
        // Another sync may have settled some of them meanwhile.
        let count = covered.saturating_sub(state.settled_names) as usize;
        let settled: Vec<NameChange> = state.name_changes.drain(..count).collect();
        state.settled_names += count as u64;
        for change in settled {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }
}

/// An open file of a [`MemDisk`].
#[derive(Clone)]
pub struct MemFile {
    disk: MemDisk,
    node: NodeId,
}

impl MemFile {
    async fn write(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
        durable: bool,
    ) -> (io::Result<usize>, AlignedBuf) {
        let operation = if durable { Operation::WriteDurable } else { Operation::Write };
        let begun = self.begin_write(operation, position, &buf[..len], durable);
        self.disk.turn().await;
        let mut state = self.disk.0.borrow_mut();
        match begun {
            Ok((number, written)) => {
                if durable && written == len {
                    state.nodes[self.node].settle(|change| change == number);
                }
                (Ok(written), buf)
            }
            Err(error) => (Err(error), buf),
        }
    }

    /// Puts a write into the cache. Returns its number and how much of it was done.
    fn begin_write(
        &self,
        operation: Operation,
        position: u64,
        bytes: &[u8],
        durable: bool,
    ) -> io::Result<(u64, usize)> {
        assert!(position.is_multiple_of(BLOCK_BYTES as u64), "writes start on a block");
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "writes have whole blocks");
        let mut state = self.disk.0.borrow_mut();
        let fate = state.fate(operation);
        if let Fate::Fail(kind @ (io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)) = fate {
            return Err(kind.into());
        }
        state.check_room(self.node, position + bytes.len() as u64)?;
        let written = match fate {
            Fate::Short(most) => bytes.len().min(most),
            _ => bytes.len(),
        };
        let part = &bytes[..written];
        let failed = matches!(fate, Fate::Fail(_));
        let number = state.number();
        let quick = durable && !state.hold && !failed && written == bytes.len();
        let node = &mut state.nodes[self.node];
        if quick && node.durable.is_none() {
            node.cached.write(position, part);
        } else {
            let what = What::Write { position, bytes: part.to_vec() };
            node.change(number, what, failed);
        }
        match fate {
            Fate::Fail(kind) => Err(kind.into()),
            _ => Ok((number, written)),
        }
    }
}

impl DiskFile for MemFile {
    async fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.borrow().nodes[self.node].cached.size)
    }

    async fn allocate(&self, size: u64) -> io::Result<()> {
        let mut state = self.disk.0.borrow_mut();
        state.check(Operation::Allocate)?;
        state.check_room(self.node, size)?;
        let number = state.number();
        state.nodes[self.node].change(number, What::Size(size), false);
        Ok(())
    }

    async fn read_at(
        &self,
        position: u64,
        mut buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        let mut state = self.disk.0.borrow_mut();
        let len = match state.fate(Operation::Read) {
            Fate::Fail(kind) => return (Err(kind.into()), buf),
            Fate::Short(most) => len.min(most),
            Fate::Succeed => len,
        };
        let got = state.nodes[self.node].cached.read(position, &mut buf[..len]);
        (Ok(got), buf)
    }

    async fn write_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        self.write(position, buf, len, false).await
    }

    async fn write_durable(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        self.write(position, buf, len, true).await
    }

    async fn sync(&self) -> io::Result<()> {
        let covered = self.disk.0.borrow().changes;
        self.disk.turn().await;
        let mut state = self.disk.0.borrow_mut();
        let fate = state.check(Operation::Sync);
        let node = &mut state.nodes[self.node];
        match fate {
            Ok(()) => node.settle(|number| number <= covered),
            Err(_) => node.changes.iter_mut().for_each(|change| change.lost = true),
        }
        fate
    }
}

/// Polls a future to its end on this thread, for tests, examples and volatile logs on a [`MemDisk`].
///
/// # Panics
/// If the future waits for something that nothing in it will bring.
pub fn run_to_end<T>(future: impl Future<Output = T>) -> T {
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut future = std::pin::pin!(future);
    while flag.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
    }
    panic!("the future waits for something that will not come");
}
