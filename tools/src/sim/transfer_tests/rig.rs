//! Two machines, one of which has snapshots that the other one pulls.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_engine::core::MemberView;
use coracle_engine::core::testing::accept_peers;
use coracle_engine::env::{Env, Listener, StreamReader, StreamWriter};
use coracle_engine::raft::membership::Configuration;
use coracle_engine::snapshot::{Manifest, SnapshotId, SnapshotStore};
use coracle_engine::transfer::budget::TransferBudget;
use coracle_engine::transfer::cancel::Cancel;
use coracle_engine::transfer::pull::{ConnectError, Pull, PullError, PullLimits, PullProgress};
use coracle_engine::transfer::serve::{ServeLimits, SnapshotService};
use coracle_engine::wire::Hello;
use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use coracle_wal::AlignedBuf;

use crate::sim::clock::HostClock;
use crate::sim::disk::{DiskWeather, SimDevice, SimDisk};
use crate::sim::env::SimEnv;
use crate::sim::net::{HostId, Net, NetWeather, SimReader, SimWriter};
use crate::sim::world::{ProcessId, Step, World};

pub(super) const SENDER: HostId = HostId(1);
pub(super) const RECEIVER: HostId = HostId(2);
pub(super) const ADDRESS: &str = "n1:7100";
const LOG_ID: [u8; 16] = [7; 16];
/// Nothing here takes longer, in simulated time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A snapshot of shard 0.
pub(super) fn id(index: u64) -> SnapshotId {
    SnapshotId { shard: ShardId(0), index: LogIndex(index), term: Term(3) }
}

pub(super) trait OfShard {
    fn of_shard(self, shard: u32) -> Self;
}

impl OfShard for SnapshotId {
    fn of_shard(self, shard: u32) -> Self {
        Self { shard: ShardId(shard), ..self }
    }
}

/// Chunks of these sizes, all different.
pub(super) fn chunks_of(seed: u64, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let chunk = |size: &usize| {
        let mut bytes = vec![0; *size];
        rng.fill(&mut bytes);
        bytes
    };
    sizes.iter().map(chunk).collect()
}

/// What happens to the streams of a pull, and what was seen of them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The bytes of one connection after which it breaks.
    break_after: Cell<Option<u64>>,
    /// Bytes received from now on after which one is flipped; each is used once.
    flips: RefCell<Vec<u64>>,
    /// All bytes that came, over all connections.
    pub(super) bytes: Cell<u64>,
    /// Requests in each write.
    pub(super) requests_sent: RefCell<Vec<usize>>,
    /// Every read takes so long.
    pub(super) slow: Cell<Duration>,
}

impl Faults {
    /// Connections break after so many bytes from now on.
    pub(super) fn break_after(&self, bytes: Option<u64>) {
        self.break_after.set(bytes);
    }

    /// Flips a bit in the byte that comes after so many of all connections.
    pub(super) fn flip_at(&self, byte: u64) {
        self.flips.borrow_mut().push(byte);
    }
}

/// A reader that faults happen to.
struct FaultyReader {
    env: SimEnv,
    inner: SimReader,
    faults: Rc<Faults>,
    of_connection: u64,
}

impl StreamReader for FaultyReader {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        if !self.faults.slow.get().is_zero() {
            self.env.sleep(self.faults.slow.get()).await;
        }
        let before = buf.len();
        let count = self.inner.read(buf).await?;
        self.of_connection += count as u64;
        if self.faults.break_after.get().is_some_and(|most| self.of_connection > most) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let start = self.faults.bytes.get();
        self.faults.bytes.set(start + count as u64);
        self.faults.flips.borrow_mut().retain(|flip| {
            let here = (start..start + count as u64).contains(flip);
            if here {
                buf[before + (flip - start) as usize] ^= 0x10;
            }
            !here
        });
        Ok(count)
    }
}

/// A writer that counts requests.
struct CountingWriter {
    inner: SimWriter,
    faults: Rc<Faults>,
}

impl StreamWriter for CountingWriter {
    async fn write_all(&mut self, bufs: &mut Vec<Bytes>) -> io::Result<()> {
        let bytes: usize = bufs.iter().map(Bytes::len).sum();
        self.faults.requests_sent.borrow_mut().push(bytes / 32);
        self.inner.write_all(bufs).await
    }

    fn shutdown(&mut self) {
        self.inner.shutdown();
    }
}

type Outcome = Rc<RefCell<Option<Result<Rc<Manifest>, PullError>>>>;

/// A pull that runs.
pub(super) struct Pulling {
    pub(super) progress: Rc<PullProgress>,
    pub(super) cancel: Cancel,
    pub(super) faults: Rc<Faults>,
    outcome: Outcome,
}

/// One machine: its disk stays, its process comes and goes.
struct Machine {
    host: HostId,
    device: SimDevice,
    process: ProcessId,
    store: Option<SnapshotStore<SimDisk>>,
}

pub(super) struct Rig {
    pub(super) world: World,
    pub(super) net: Net,
    sender: Machine,
    receiver: Machine,
    processes: u32,
    service: Option<Rc<SnapshotService<SimDisk>>>,
    pub(super) budget: Rc<TransferBudget>,
}

impl Rig {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_weather(seed, NetWeather::calm(), DiskWeather::calm())
    }

    pub(super) fn with_weather(seed: u64, net: NetWeather, disk: DiskWeather) -> Self {
        Self::with_disks(seed, net, [disk.clone(), disk])
    }

    /// Only the receiver's disk has weather.
    pub(super) fn with_receiver_weather(seed: u64, net: NetWeather, disk: DiskWeather) -> Self {
        Self::with_disks(seed, net, [DiskWeather::calm(), disk])
    }

    fn with_disks(seed: u64, net: NetWeather, disks: [DiskWeather; 2]) -> Self {
        let world = World::new(seed);
        let net = Net::new(world.clone(), net);
        net.name_host("n1", SENDER);
        let machine = |host, label, disk| Machine {
            host,
            device: SimDevice::new(&world, label, disk),
            process: ProcessId(u32::from(host == RECEIVER)),
            store: None,
        };
        let [first, second] = disks;
        let sender = machine(SENDER, "sender", first);
        let receiver = machine(RECEIVER, "receiver", second);
        let budget = Rc::new(TransferBudget::unlimited());
        let mut rig = Self { world, net, sender, receiver, processes: 1, service: None, budget };
        rig.open_stores();
        rig
    }

    fn open_stores(&mut self) {
        for sender in [true, false] {
            let machine = if sender { &self.sender } else { &self.receiver };
            if machine.store.is_some() {
                continue;
            }
            let (disk, process) = (machine.device.disk(0), machine.process);
            let opened = self
                .finish(process, async move { SnapshotStore::open(disk, LOG_ID).await.unwrap().0 });
            let machine = if sender { &mut self.sender } else { &mut self.receiver };
            machine.store = Some(opened);
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.world.now()
    }

    /// Runs until a condition holds.
    pub(super) fn run_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let (mut polls, end) = (0, self.now() + PATIENCE);
        while !condition(self) {
            assert_eq!(self.world.step(end, &mut polls), Step::Ran, "it never came to that");
        }
    }

    pub(super) fn run_for(&self, time: Duration) {
        let (mut polls, end) = (0, self.now() + time);
        while self.world.step(end, &mut polls) == Step::Ran {}
    }

    /// Runs a future of the receiver's process to its end.
    pub(super) fn at_receiver<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.finish(self.receiver.process, task)
    }

    pub(super) fn receiver_store(&self) -> SnapshotStore<SimDisk> {
        self.receiver.store.clone().unwrap()
    }

    /// Runs a future of a process to its end.
    fn finish<T: 'static>(&self, process: ProcessId, task: impl Future<Output = T> + 'static) -> T {
        let slot: Rc<RefCell<Option<T>>> = Rc::default();
        let result = slot.clone();
        self.world.spawn(process, async move {
            let value = task.await;
            *result.borrow_mut() = Some(value);
        });
        self.run_until(|_| slot.borrow().is_some());
        slot.take().unwrap()
    }

    /// The environment of the receiver's process.
    pub(super) fn receiver_env(&self) -> SimEnv {
        self.env(&self.receiver)
    }

    fn env(&self, machine: &Machine) -> SimEnv {
        let place = (machine.host, machine.process);
        let random = self.world.rng_for(&format!("env/{}", machine.process.0));
        let clock = Rc::new(HostClock::default());
        SimEnv::new(self.world.clone(), self.net.clone(), place, clock, random)
    }

    /// Puts a snapshot into the sender's store.
    pub(super) fn give(&self, id: SnapshotId, chunks: Vec<Vec<u8>>) {
        let store = self.sender.store.clone().unwrap();
        self.finish(self.sender.process, async move {
            let mut writer = store.create(id).await.unwrap();
            for chunk in chunks {
                let mut buf = writer.buffer();
                buf[..chunk.len()].copy_from_slice(&chunk);
                writer.put(buf, chunk.len()).await.unwrap();
            }
            let voters = Configuration::of_voters([NodeId(1), NodeId(2)]).unwrap();
            writer.finish(voters).await.unwrap();
        });
    }

    /// Puts a snapshot into the sender's store and has older ones removed.
    pub(super) fn give_newer(&self, id: SnapshotId, chunks: Vec<Vec<u8>>) {
        self.give(id, chunks);
        let store = self.sender.store.clone().unwrap();
        self.finish(self.sender.process, async move {
            store.remove_older(id.shard).await.unwrap();
        });
    }

    /// Lets the sender accept peers as a core does, with or without snapshots to give.
    pub(super) fn start_core(&mut self, hello: Hello, members: Vec<MemberView>, gives: bool) {
        let store = self.sender.store.clone().unwrap();
        let budget = Rc::new(TransferBudget::unlimited());
        let service = SnapshotService::new(store, budget, ServeLimits::default());
        self.service = Some(service.clone());
        let env = self.env(&self.sender);
        self.world.spawn(self.sender.process, async move {
            let listener = env.listen(ADDRESS).await.unwrap();
            accept_peers(&env, listener, hello, members, gives.then_some(service));
        });
        self.run_for(Duration::from_millis(1));
    }

    /// Lets the sender serve at its address, without greetings.
    pub(super) fn start_sender(&mut self, limits: ServeLimits, budget: TransferBudget) {
        let store = self.sender.store.clone().unwrap();
        let service = SnapshotService::new(store, Rc::new(budget), limits);
        self.service = Some(service.clone());
        let env = self.env(&self.sender);
        let accepting = async move {
            let listener = env.listen(ADDRESS).await.unwrap();
            loop {
                let (reader, writer, from) = listener.accept().await.unwrap();
                let service = service.clone();
                let stream = (reader, writer);
                env.spawn(service.serve(env.clone(), stream, BytesMut::new(), from));
            }
        };
        self.world.spawn(self.sender.process, accepting);
        self.run_for(Duration::from_millis(1));
    }

    pub(super) fn sender(&self) -> &SnapshotService<SimDisk> {
        self.service.as_ref().unwrap()
    }

    pub(super) fn sender_disk(&self) -> SimDisk {
        self.sender.device.disk(0)
    }

    pub(super) fn receiver_device(&self) -> &SimDevice {
        &self.receiver.device
    }

    /// Connects to the sender and does nothing.
    pub(super) fn dial(&self) -> (SimReader, SimWriter) {
        let env = self.env(&self.receiver);
        self.finish(self.receiver.process, async move {
            env.connect(ADDRESS, Duration::from_secs(2)).await.unwrap()
        })
    }

    /// The process at the sender's side ends and another one takes its place, without serving yet.
    pub(super) fn restart_sender(&mut self, power_cut: bool) {
        self.service = None;
        self.processes += 1;
        let next = ProcessId(self.processes);
        restart(&self.world, &self.net, &mut self.sender, next, power_cut);
        self.open_stores();
    }

    /// The process at the receiver's side ends and another one takes its place.
    pub(super) fn restart_receiver(&mut self, power_cut: bool) {
        self.processes += 1;
        let next = ProcessId(self.processes);
        restart(&self.world, &self.net, &mut self.receiver, next, power_cut);
        self.open_stores();
    }

    /// Replaces the receiver by a new machine.
    pub(super) fn forget_received(&mut self) {
        self.restart_receiver(false);
        self.receiver.store = None;
        self.receiver.device = SimDevice::new(&self.world, "new receiver", DiskWeather::calm());
        self.open_stores();
    }

    /// Replaces the sender by a new machine, which does not serve yet.
    pub(super) fn replace_sender(&mut self) {
        self.restart_sender(false);
        self.sender.store = None;
        self.sender.device = SimDevice::new(&self.world, "new sender", DiskWeather::calm());
        self.open_stores();
    }

    /// Begins to pull a snapshot.
    pub(super) fn start_pull(&self, id: SnapshotId, limits: PullLimits) -> Pulling {
        let pulling = Pulling {
            progress: Rc::default(),
            cancel: Cancel::default(),
            faults: Rc::default(),
            outcome: Rc::default(),
        };
        let env = self.env(&self.receiver);
        let store = self.receiver.store.clone().unwrap();
        let budget = self.budget.clone();
        let (progress, cancel) = (pulling.progress.clone(), pulling.cancel.clone());
        let (faults, outcome) = (pulling.faults.clone(), pulling.outcome.clone());
        self.world.spawn(self.receiver.process, async move {
            let pull = Pull {
                env: &env,
                store: &store,
                id,
                limits,
                budget: &budget,
                progress: &progress,
                cancel: &cancel,
            };
            let connect = async || {
                let (reader, writer) = env.connect(ADDRESS, Duration::from_secs(2)).await?;
                let (env, faults) = (env.clone(), faults.clone());
                let writer = CountingWriter { inner: writer, faults: faults.clone() };
                let reader = FaultyReader { env, inner: reader, faults, of_connection: 0 };
                Ok::<_, ConnectError>((reader, writer, BytesMut::new()))
            };
            let result = pull.run(connect).await;
            *outcome.borrow_mut() = Some(result);
        });
        pulling
    }

    /// Runs a pull to its end.
    pub(super) fn wait(&self, pulling: &Pulling) -> Result<Rc<Manifest>, PullError> {
        self.run_until(|_| pulling.outcome.borrow().is_some());
        pulling.outcome.take().unwrap()
    }

    /// Whether the sender still has a snapshot.
    pub(super) fn keeps(&self, id: SnapshotId) -> bool {
        self.sender.store.as_ref().unwrap().manifest(id).is_some()
    }

    /// The chunks of a snapshot in the receiver's store, read back from its disk by a new process.
    pub(super) fn received(&mut self, id: SnapshotId) -> Vec<Vec<u8>> {
        self.restart_receiver(true);
        let store = self.receiver.store.clone().unwrap();
        self.finish(self.receiver.process, async move {
            let reader = store.reader(id).await.unwrap();
            let mut chunks = Vec::new();
            for (number, chunk) in reader.manifest().chunks.iter().enumerate() {
                let buf: AlignedBuf = reader.chunk(number as u32).await.unwrap();
                chunks.push(buf[..chunk.bytes as usize].to_vec());
            }
            chunks
        })
    }
}

fn restart(world: &World, net: &Net, machine: &mut Machine, next: ProcessId, power_cut: bool) {
    net.kill_process(machine.process, power_cut);
    world.kill(machine.process);
    if power_cut {
        machine.device.power_cut();
    } else {
        machine.device.crash_process();
    }
    machine.process = next;
    machine.store = None;
    net.power_on(machine.host);
}
