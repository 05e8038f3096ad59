//! [`SimDisk`] and [`SimFile`]: what a log sees of the device, and what the checks see.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use coracle_wal::limits::BLOCK_BYTES;
use coracle_wal::{AlignedBuf, Disk, DiskFile, NamesLatch, OpenMode};

use super::device::{Device, Done, FileRef, Outcome, Request, SimDevice, Slot, covered};
use super::watch::DurableChange;

/// The directory of one core. Clones are the same directory.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) device: SimDevice,
    pub(super) core: u32,
    pub(super) epoch: u64,
    pub(super) names: NamesLatch,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("device", &self.device.0.label)
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

async fn wait(slot: Rc<RefCell<Slot>>) -> Outcome {
    poll_fn(|cx| {
        let mut slot = slot.borrow_mut();
        match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

impl SimDisk {
    async fn run(&self, request: impl FnOnce(&mut Device) -> Request) -> Outcome {
        wait(self.device.submit(self.core, self.epoch, request)).await
    }

    /// The names that survive a power cut now, with the numbers and durable sizes of their files.
    #[must_use]
    pub fn durable_files(&self) -> Vec<(String, u32, u64)> {
        self.files(true)
    }

    /// The names that a process sees, with the numbers and sizes of their files.
    #[must_use]
    pub fn cached_files(&self) -> Vec<(String, u32, u64)> {
        self.files(false)
    }

    fn files(&self, durable: bool) -> Vec<(String, u32, u64)> {
        let device = self.device.0.device.borrow();
        let Some(dir) = device.dirs.get(&self.core) else { return Vec::new() };
        let names = if durable { &dir.names.durable } else { &dir.names.cached };
        names
            .iter()
            .map(|(name, id)| {
                let node = dir.nodes.get(id);
                let image = node.map(|node| if durable { &node.durable } else { &node.cached });
                (name.clone(), *id, image.map_or(0, |image| image.size))
            })
            .collect()
    }

    /// Reads what survives a power cut now of the file `file`; returns how much, less only at its durable end.
    pub fn read_durable(&self, file: u32, position: u64, buf: &mut [u8]) -> usize {
        let device = self.device.0.device.borrow();
        let node = device.dirs.get(&self.core).and_then(|dir| dir.nodes.get(&file));
        node.map_or(0, |node| node.durable.read(position, buf))
    }

    /// Reads what a process would read of the file `file`, without faults.
    pub fn read_cached(&self, file: u32, position: u64, buf: &mut [u8]) -> usize {
        let device = self.device.0.device.borrow();
        let node = device.dirs.get(&self.core).and_then(|dir| dir.nodes.get(&file));
        node.map_or(0, |node| node.cached.read(position, buf))
    }

    /// Grows with every change of what is durable in this directory.
    #[must_use]
    pub fn durable_version(&self) -> u64 {
        let device = self.device.0.device.borrow();
        device.dirs.get(&self.core).map_or(0, |dir| dir.watch.version)
    }

    /// Appends to `into` what changed of what is durable since the last call. The first call says
    /// [`DurableChange::Reset`]; changes are kept only from then on, so go on asking. One asker for each
    /// directory.
    pub fn drain_durable(&self, into: &mut Vec<DurableChange>) {
        self.device.0.device.borrow_mut().dir(self.core).watch.drain(into);
    }

    /// Whether everything that processes see is durable.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let device = self.device.0.device.borrow();
        device.dirs.get(&self.core).is_none_or(|dir| {
            dir.names.is_clean() && dir.nodes.values().all(super::node::Node::is_clean)
        })
    }

    /// The directory is that of a new disk: empty. For a node that does not run.
    pub fn wipe(&self) {
        {
            let mut device = self.device.0.device.borrow_mut();
            let dir = device.dir(self.core);
            dir.names = super::names::Names::default();
            dir.nodes.clear();
            dir.watch.reset();
        }
        self.device.0.world.count("disk/wipe");
        self.device.tell(|| format!("core {} gets an empty directory", self.core));
    }
}

fn number(result: io::Result<Done>) -> io::Result<u64> {
    match result? {
        Done::Number(number) => Ok(number),
        Done::File(_) | Done::Names(_) => unreachable!("the operation gives a number"),
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<SimFile> {
        let create = mode == OpenMode::CreateNew;
        let outcome = self.run(|_| Request::Open { name: name.to_owned(), create }).await;
        match outcome.result? {
            Done::File(file) => Ok(SimFile { disk: self.clone(), file }),
            Done::Number(_) | Done::Names(_) => unreachable!("opening gives a file"),
        }
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        match self.run(|_| Request::List).await.result? {
            Done::Names(names) => Ok(names),
            Done::Number(_) | Done::File(_) => unreachable!("listing gives names"),
        }
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let outcome = self.run(|_| Request::Remove { name: name.to_owned() }).await;
        number(outcome.result).map(drop)
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let request = Request::Rename { from: from.to_owned(), to: to.to_owned() };
        number(self.run(|_| request).await.result).map(drop)
    }

    async fn sync_dir(&self) -> io::Result<()> {
        let request = |device: &mut Device| Request::SyncDir { covered: covered(device) };
        self.names.sync(async { number(self.run(request).await.result).map(drop) }).await
    }
}

/// An open file of a [`SimDisk`].
#[derive(Clone)]
pub struct SimFile {
    disk: SimDisk,
    file: FileRef,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("disk", &self.disk).field("file", &self.file.id).finish()
    }
}

impl SimFile {
    /// The number of the file, as [`SimDisk::durable_files`] tells it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.file.id
    }

    async fn transfer(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
        build: impl FnOnce(FileRef, AlignedBuf) -> Request,
    ) -> (io::Result<usize>, AlignedBuf) {
        let aligned =
            position.is_multiple_of(BLOCK_BYTES as u64) && len.is_multiple_of(BLOCK_BYTES);
        if !aligned || len > buf.len() {
            return (Err(io::ErrorKind::InvalidInput.into()), buf);
        }
        let file = self.file.clone();
        let Outcome { result, buf } = self.disk.run(|_| build(file, buf)).await;
        let result = number(result).map(|count| count as usize);
        (result, buf.expect("a transfer gives its buffer back"))
    }
}

impl DiskFile for SimFile {
    async fn size(&self) -> io::Result<u64> {
        number(self.disk.run(|_| Request::Size { file: self.file.clone() }).await.result)
    }

    async fn allocate(&self, size: u64) -> io::Result<()> {
        let request = Request::Allocate { file: self.file.clone(), size };
        number(self.disk.run(|_| request).await.result).map(drop)
    }

    async fn read_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        self.transfer(position, buf, len, |file, buf| Request::Read { file, position, buf, len })
            .await
    }

    async fn write_at(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        let durable = false;
        let build = |file, buf| Request::Write { file, position, buf, len, durable };
        self.transfer(position, buf, len, build).await
    }

    async fn write_durable(
        &self,
        position: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        let durable = true;
        let build = |file, buf| Request::Write { file, position, buf, len, durable };
        self.transfer(position, buf, len, build).await
    }

    async fn sync(&self) -> io::Result<()> {
        let request = |device: &mut Device| Request::Sync {
            file: self.file.clone(),
            covered: covered(device),
        };
        number(self.disk.run(request).await.result).map(drop)
    }
}
