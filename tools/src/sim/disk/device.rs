//! The device of a node: queue of operations, directories, and the faults that a plan switches on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use coracle_wal::{AlignedBuf, NamesLatch};
use fastrand::Rng;

use super::crash::Fates;
use super::damage::Damage;
use super::names::Names;
use super::node::Node;
use super::ops::SimDisk;
use super::watch::Watch;
use super::weather::{DiskWeather, happens};
use crate::sim::world::World;

/// Most time by which operations are spread when a stall of the whole device ends.
const AFTER_STALL_MOST: Duration = Duration::from_millis(1);

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpKind {
    /// Opening an existing file.
    Open,
    /// Creating a file.
    Create,
    /// Listing the directory.
    List,
    /// Removing a file.
    Remove,
    /// Renaming a file.
    Rename,
    /// Making names durable.
    SyncDir,
    /// Looking at a file's size.
    Size,
    /// Reserving room.
    Allocate,
    /// Reading.
    Read,
    /// Writing to the cache.
    Write,
    /// Writing durably.
    WriteDurable,
    /// Making a file durable.
    Sync,
}

impl OpKind {
    /// All that change something.
    pub const CHANGES: &[Self] = &[
        Self::Create,
        Self::Remove,
        Self::Rename,
        Self::SyncDir,
        Self::Allocate,
        Self::Write,
        Self::WriteDurable,
        Self::Sync,
    ];

    /// Writes of content, and syncs.
    pub const WRITES: &[Self] = &[Self::Write, Self::WriteDurable, Self::Sync];
}

/// With what an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// EROFS, as after a failure of the file system's journal.
    ReadOnly,
    /// EMFILE.
    NoFiles,
}

impl DiskError {
    pub(super) fn error(self) -> io::Error {
        let number = match self {
            Self::Io => 5,
            Self::NoSpace => 28,
            Self::ReadOnly => 30,
            Self::NoFiles => 24,
        };
        io::Error::from_raw_os_error(number)
    }
}

/// Keeps a file alive; its number.
#[derive(Clone)]
pub(super) struct FileRef {
    pub(super) id: u32,
    pub(super) _token: Rc<()>,
}

pub(super) enum Request {
    Open { name: String, create: bool },
    List,
    Remove { name: String },
    Rename { from: String, to: String },
    SyncDir { covered: u64 },
    Size { file: FileRef },
    Allocate { file: FileRef, size: u64 },
    Read { file: FileRef, position: u64, buf: AlignedBuf, len: usize },
    Write { file: FileRef, position: u64, buf: AlignedBuf, len: usize, durable: bool },
    Sync { file: FileRef, covered: u64 },
}

impl Request {
    pub(super) fn kind(&self) -> OpKind {
        match self {
            Self::Open { create: true, .. } => OpKind::Create,
            Self::Open { .. } => OpKind::Open,
            Self::List => OpKind::List,
            Self::Remove { .. } => OpKind::Remove,
            Self::Rename { .. } => OpKind::Rename,
            Self::SyncDir { .. } => OpKind::SyncDir,
            Self::Size { .. } => OpKind::Size,
            Self::Allocate { .. } => OpKind::Allocate,
            Self::Read { .. } => OpKind::Read,
            Self::Write { durable: true, .. } => OpKind::WriteDurable,
            Self::Write { .. } => OpKind::Write,
            Self::Sync { .. } => OpKind::Sync,
        }
    }

    /// File, position and length of a transfer, folded, for the trace.
    fn place(&self) -> u64 {
        match self {
            Self::Read { file, position, len, .. } | Self::Write { file, position, len, .. } => {
                u64::from(file.id) << 48 ^ position << 8 ^ *len as u64
            }
            Self::Allocate { file, size } => u64::from(file.id) << 48 ^ size,
            Self::Size { file } | Self::Sync { file, .. } => u64::from(file.id) << 48,
            _ => 0,
        }
    }
}

/// What an operation gives back.
pub(super) enum Done {
    Number(u64),
    File(FileRef),
    Names(Vec<String>),
}

pub(super) struct Outcome {
    pub(super) result: io::Result<Done>,
    pub(super) buf: Option<AlignedBuf>,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) waker: Option<Waker>,
    pub(super) outcome: Option<Outcome>,
}

pub(super) struct Flight {
    pub(super) core: u32,
    pub(super) request: Request,
    slot: Rc<RefCell<Slot>>,
}

pub(super) struct Failure {
    pub(super) kinds: &'static [OpKind],
    pub(super) error: DiskError,
    /// `None`: for ever.
    pub(super) left: Option<u32>,
}

#[derive(Default)]
pub(super) struct Directory {
    pub(super) names: Names,
    pub(super) nodes: BTreeMap<u32, Node>,
    files: u32,
    pub(super) watch: Watch,
    /// Writes that will go astray.
    pub(super) misdirect: u32,
    /// Writes that will be reported and not done.
    pub(super) lose: u32,
}

impl Directory {
    pub(super) fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.get_mut(&id).expect("a file with a handle stays")
    }

    pub(super) fn new_file(&mut self) -> u32 {
        self.files += 1;
        self.nodes.insert(self.files, Node::new(self.files));
        self.files
    }

    pub(super) fn reference(&self, id: u32) -> FileRef {
        let token = self.nodes.get(&id).map(|node| node.token.clone());
        FileRef { id, _token: token.unwrap_or_default() }
    }

    /// Forgets files that have neither names nor users.
    pub(super) fn collect(&mut self) {
        let Self { names, nodes, .. } = self;
        nodes.retain(|id, node| node.is_open() || names.knows(*id));
    }

    /// What a file is called now, for stories.
    pub(super) fn name_of(&self, id: u32) -> String {
        let named = self.names.cached.iter().find(|(_, file)| **file == id);
        named.map_or_else(|| format!("file {id}"), |(name, _)| name.clone())
    }

    pub(super) fn used(&self) -> u64 {
        let taken = |node: &&Node| {
            node.is_open() || self.names.cached.values().any(|file| *file == node.id)
        };
        self.nodes.values().filter(taken).map(|node| node.cached.size).sum()
    }
}

pub(super) struct Device {
    pub(super) rng: Rng,
    pub(super) weather: DiskWeather,
    pub(super) dirs: BTreeMap<u32, Directory>,
    /// Handles of earlier processes do nothing.
    pub(super) epoch: u64,
    ops: u64,
    /// Operations that took effect in the cache.
    pub(super) changes: u64,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) capacity: Option<u64>,
    stalled_until: Duration,
    busy_until: Duration,
    pub(super) failures: Vec<Failure>,
    pub(super) lying: bool,
    pub(super) damages: Vec<Damage>,
}

impl Device {
    pub(super) fn dir(&mut self, core: u32) -> &mut Directory {
        self.dirs.entry(core).or_default()
    }

    /// When an operation submitted now is complete.
    fn due(&mut self, now: Duration, request: &Request) -> Duration {
        let Self { rng, weather, .. } = self;
        let (mut takes, bytes) = match request {
            Request::Read { len, .. } => (weather.read.draw(rng), *len),
            Request::Write { len, durable: false, .. } => (weather.write.draw(rng), *len),
            Request::Write { len, .. } => (weather.write.draw(rng) + weather.flush.draw(rng), *len),
            Request::Sync { .. } => (weather.flush.draw(rng), 0),
            Request::SyncDir { .. } => (weather.names.draw(rng) + weather.flush.draw(rng), 0),
            _ => (weather.names.draw(rng), 0),
        };
        if happens(rng, weather.stall_chance) {
            takes += Duration::from_micros(rng.u64(..=weather.stall_most.as_micros() as u64));
        }
        let mut start = now;
        if let Some(rate) = weather.bytes_per_second {
            let transfer = Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate.max(1));
            self.busy_until = self.busy_until.max(now) + transfer;
            start = self.busy_until;
        }
        start + takes
    }
}

pub(super) struct Inner {
    pub(super) world: World,
    pub(super) label: String,
    pub(super) device: RefCell<Device>,
}

/// The disk of a node. Clones are the same device.
#[derive(Clone)]
pub struct SimDevice(pub(super) Rc<Inner>);

impl SimDevice {
    /// An empty device. `label` names it in stories and gives it its own stream of random numbers.
    #[must_use]
    pub fn new(world: &World, label: &str, weather: DiskWeather) -> Self {
        let device = Device {
            rng: world.rng_for(label),
            weather,
            dirs: BTreeMap::new(),
            epoch: 0,
            ops: 0,
            changes: 0,
            flights: BTreeMap::new(),
            capacity: None,
            stalled_until: Duration::ZERO,
            busy_until: Duration::ZERO,
            failures: Vec::new(),
            lying: false,
            damages: Vec::new(),
        };
        let label = label.to_owned();
        Self(Rc::new(Inner { world: world.clone(), label, device: RefCell::new(device) }))
    }

    /// The directory of a core, for the process that runs now: after a crash, what was given out before
    /// does nothing any more (but still tells what is durable).
    #[must_use]
    pub fn disk(&self, core: u32) -> SimDisk {
        let mut device = self.0.device.borrow_mut();
        device.dir(core);
        SimDisk { device: self.clone(), core, epoch: device.epoch, names: NamesLatch::default() }
    }

    /// Operations of these kinds fail, the next `times` of them or, with `None`, until
    /// [`SimDevice::heal`].
    pub fn fail(&self, kinds: &'static [OpKind], error: DiskError, times: Option<u32>) {
        if times == Some(0) {
            return;
        }
        self.tell(|| format!("will fail {kinds:?} with {error:?}, times: {times:?}"));
        self.0.device.borrow_mut().failures.push(Failure { kinds, error, left: times });
    }

    /// Whether an operation of this kind will fail.
    #[must_use]
    pub fn will_fail(&self, kind: OpKind) -> bool {
        self.0.device.borrow().failures.iter().any(|failure| failure.kinds.contains(&kind))
    }

    /// Ends what [`SimDevice::fail`], [`SimDevice::stall`], [`SimDevice::set_lying`] and
    /// [`SimDevice::set_capacity`] began.
    pub fn heal(&self) {
        let mut device = self.0.device.borrow_mut();
        device.failures.clear();
        device.stalled_until = Duration::ZERO;
        device.lying = false;
        device.capacity = None;
        drop(device);
        self.tell(|| "heals".to_owned());
    }

    /// The weather is that of a quick disk without troubles from now on.
    pub fn calm(&self) {
        let mut device = self.0.device.borrow_mut();
        let old = &device.weather;
        let (failed_sync, page_cache, garbage) = (old.failed_sync, old.page_cache, old.garbage);
        device.weather = DiskWeather { failed_sync, page_cache, garbage, ..DiskWeather::calm() };
    }

    /// Nothing completes for so long.
    pub fn stall(&self, duration: Duration) {
        let until = self.0.world.now() + duration;
        let mut device = self.0.device.borrow_mut();
        device.stalled_until = device.stalled_until.max(until);
        drop(device);
        self.0.world.count("disk/stall");
        self.tell(|| format!("stalls for {duration:?}"));
    }

    /// Limits the bytes of all files; `None` lifts the limit. Files that are there stay.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.device.borrow_mut().capacity = bytes;
        self.0.world.count("disk/capacity");
        self.tell(|| format!("has a capacity of {bytes:?} bytes"));
    }

    /// Whether a change is under way: a write, a sync, a new name.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        let device = self.0.device.borrow();
        let changes = |flight: &Flight| OpKind::CHANGES.contains(&flight.request.kind());
        device.flights.values().any(changes)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.device.borrow().dirs.values().map(Directory::used).sum()
    }

    /// Flushes report success and do nothing, or are honest again.
    pub fn set_lying(&self, lying: bool) {
        self.0.device.borrow_mut().lying = lying;
        self.tell(|| format!("lies about flushes: {lying}"));
        if lying {
            self.0.world.count("disk/lying");
        }
    }

    /// The process has died: its operations in flight end at once, somehow. Its tasks are the caller's to
    /// kill, before or after.
    pub fn crash_process(&self) {
        let mut device = self.0.device.borrow_mut();
        device.land_flights();
        device.epoch += 1;
        let page_cache = device.weather.page_cache;
        for dir in device.dirs.values_mut() {
            if !page_cache {
                dir.nodes.values_mut().for_each(Node::forget_doomed);
            }
            dir.collect();
        }
        self.0.world.trace(0x100, device.changes);
    }

    /// Power is cut. Everything that is left is durable afterwards.
    pub fn power_cut(&self) {
        let mut guard = self.0.device.borrow_mut();
        let device = &mut *guard;
        device.land_flights();
        device.epoch += 1;
        let mut rng = device.rng.fork();
        let mut fates = Fates::new(&mut rng).with_garbage(device.weather.garbage);
        for dir in device.dirs.values_mut() {
            dir.names.power_cut(&mut fates);
            let Directory { names, nodes, .. } = dir;
            nodes.retain(|id, _| names.durable.values().any(|file| file == id));
            for node in nodes.values_mut() {
                node.power_cut(&mut fates);
                node.token = Rc::default();
            }
            dir.watch.reset();
        }
        let (kept, lost, torn) = (fates.kept, fates.lost, fates.torn);
        self.0.world.trace(0x101, kept << 32 ^ lost << 16 ^ torn);
        drop(guard);
        for (count, kind) in
            [(kept, "disk/cut kept"), (lost, "disk/cut lost"), (torn, "disk/cut torn")]
        {
            if count > 0 {
                self.0.world.count(kind);
            }
        }
        self.tell(|| format!("loses power: {kept} changes kept, {lost} lost, {torn} torn"));
    }

    /// Takes the list of what was damaged since the last call.
    #[must_use]
    pub fn drain_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut self.0.device.borrow_mut().damages)
    }

    pub(super) fn tell(&self, line: impl FnOnce() -> String) {
        self.0.world.story(|| format!("{} {}", self.0.label, line()));
    }

    /// Starts an operation; its effect and its end come by themselves. One of an earlier process does
    /// nothing and never ends.
    pub(super) fn submit(
        &self,
        core: u32,
        epoch: u64,
        request: impl FnOnce(&mut Device) -> Request,
    ) -> Rc<RefCell<Slot>> {
        let slot = Rc::<RefCell<Slot>>::default();
        let Inner { world, device, .. } = &*self.0;
        let mut device = device.borrow_mut();
        if device.epoch != epoch {
            return slot;
        }
        let request = request(&mut device);
        let (number, due) = (device.ops, device.due(world.now(), &request));
        device.ops += 1;
        world.trace(request.kind() as u64 | number << 8, request.place());
        device.flights.insert(number, Flight { core, request, slot: slot.clone() });
        drop(device);
        self.call(number, due);
        slot
    }

    fn call(&self, number: u64, due: Duration) {
        let device = self.clone();
        self.0.world.call_at(due, move || device.complete(number));
    }

    fn complete(&self, number: u64) {
        let Inner { world, device, .. } = &*self.0;
        let mut device = device.borrow_mut();
        if !device.flights.contains_key(&number) {
            return; // it ended in a crash
        }
        if world.now() < device.stalled_until {
            let spread = device.rng.u64(..AFTER_STALL_MOST.as_nanos() as u64);
            let due = device.stalled_until + Duration::from_nanos(spread);
            drop(device);
            return self.call(number, due);
        }
        let Some(flight) = device.flights.remove(&number) else { return };
        let Flight { core, mut request, slot } = flight;
        let kind = request.kind();
        let result = device.execute(world, core, &mut request);
        let traced = match &result {
            Ok(Done::Number(number)) => *number,
            Ok(Done::File(file)) => u64::from(file.id),
            Ok(Done::Names(names)) => names.len() as u64,
            Err(error) => 1 << 63 | error.kind() as u64,
        };
        world.trace(0x80 | kind as u64 | number << 8, traced);
        if let Err(error) = &result
            && !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        {
            world.story(|| {
                let name = match &request {
                    Request::Read { file, .. }
                    | Request::Write { file, .. }
                    | Request::Sync { file, .. }
                    | Request::Allocate { file, .. } => device.dir(core).name_of(file.id),
                    _ => String::new(),
                };
                format!("{}/{core} {kind:?} {name} fails: {error}", self.0.label)
            });
        }
        drop(device);
        let buf = match request {
            Request::Read { buf, .. } | Request::Write { buf, .. } => Some(buf),
            _ => None,
        };
        let mut slot = slot.borrow_mut();
        slot.outcome = Some(Outcome { result, buf });
        if let Some(waker) = slot.waker.take() {
            drop(slot);
            waker.wake();
        }
    }
}

/// The number that covers all changes complete by now.
pub(super) fn covered(device: &Device) -> u64 {
    device.changes
}
