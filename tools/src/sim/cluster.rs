//! The nodes of a simulated cluster: how they start, stop, die and come back, and what is done to them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use coracle_engine::core::{
    Core, CoreConfig, CoreHandle, Mailbox, MemberView, OpenError, RemoteCore,
};
use coracle_engine::{CoreId, NodeId, ShardId, StateMachine};
use fastrand::Rng;

use super::clock::HostClock;
use super::disk::{SimDevice, SimDisk};
use super::env::SimEnv;
use super::net::Net;
use super::settings::Settings;
use super::watch::{Checks, host_of, log_id};
use super::world::{ProcessId, World};

/// Processes that are not nodes.
pub const CLIENTS: ProcessId = ProcessId(0);

/// The process of a node in one of its lives, counted from 1.
fn process_id(at: usize, incarnation: u32) -> ProcessId {
    ProcessId((at as u32 + 1) << 20 | incarnation)
}

/// What a node is up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// No process runs.
    Down,
    /// Its process runs, though perhaps not all of its cores have opened their logs.
    Up,
    /// Its process was asked to stop.
    Stopping,
    /// It refuses to start, or has lost its disk: it takes no part any more.
    Lost(String),
}

/// What the tasks of one process tell about it.
#[derive(Default)]
struct Report {
    handles: RefCell<Vec<Option<CoreHandle>>>,
    /// Cores that have ended in order.
    ended: Cell<usize>,
    /// Why a core could not start.
    refused: RefCell<Option<Refusal>>,
}

/// Why a process could not start.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The error.
    pub text: String,
    /// Whether it is about what the disk holds, and not about the moment.
    pub damage: bool,
}

/// One machine with its disks and, at times, a process.
pub struct Node {
    id: NodeId,
    device: SimDevice,
    disks: Vec<SimDisk>,
    clock: Rc<HostClock>,
    incarnation: u32,
    process: ProcessId,
    mailboxes: Vec<Mailbox>,
    /// Those of cores that still have to be told to stop.
    untold: Vec<Mailbox>,
    /// The voters that it is started with; none if it is to join.
    voters: Vec<NodeId>,
    /// Whether they are to hand over leadership first.
    drains: bool,
    report: Rc<Report>,
    health: Health,
    /// Its disk was damaged: what it holds may be less than what it promised, and it may notice.
    damaged: bool,
    /// Batches that the logs of cores must reach before they can testify to what was damaged.
    vouched: Vec<(u32, u64)>,
    /// An operation of its disk has failed: only a disk without its cache can be trusted again.
    disk_failed: bool,
}

/// All machines.
pub struct Cluster {
    world: World,
    net: Net,
    settings: Settings,
    nodes: Vec<Node>,
    checks: Checks,
    machines: Rc<dyn Fn(NodeId, ShardId) -> Box<dyn StateMachine>>,
    random: Rng,
}

impl Cluster {
    /// Machines with empty disks, and no process yet.
    #[must_use]
    pub fn new(
        world: &World,
        net: &Net,
        settings: &Settings,
        checks: &Checks,
        devices: Vec<SimDevice>,
        machines: Rc<dyn Fn(NodeId, ShardId) -> Box<dyn StateMachine>>,
    ) -> Self {
        let initial: Vec<NodeId> = settings.initial_voters().collect();
        let nodes = devices.into_iter().enumerate().map(|(at, device)| {
            let (cores, id) = (settings.cores[at], NodeId(at as u64 + 1));
            Node {
                id,
                voters: if initial.contains(&id) { initial.clone() } else { Vec::new() },
                disks: (0..cores).map(|core| device.disk(core.into())).collect(),
                device,
                clock: Rc::default(),
                incarnation: 0,
                process: process_id(at, 0),
                mailboxes: Vec::new(),
                untold: Vec::new(),
                drains: false,
                report: Rc::default(),
                health: Health::Down,
                damaged: false,
                vouched: Vec::new(),
                disk_failed: false,
            }
        });
        Self {
            world: world.clone(),
            net: net.clone(),
            nodes: nodes.collect(),
            settings: settings.clone(),
            checks: checks.clone(),
            machines,
            random: world.rng_for("cluster"),
        }
    }
}

/// What came of looking after the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A node that was asked to stop has stopped.
    Stopped(usize),
    /// A node must be started again, its disk's cache dropped first: an operation of the disk has failed.
    Failed(usize),
    /// A node refuses to start because of what its disk holds, and the disk was damaged.
    Lost(usize),
}

impl Cluster {
    /// How many nodes there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // there always are some
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What a node is up to.
    #[must_use]
    pub fn health(&self, at: usize) -> &Health {
        &self.nodes[at].health
    }

    /// Whether a node's disk may have lost what the node promised.
    #[must_use]
    pub fn is_damaged(&self, at: usize) -> bool {
        self.nodes[at].damaged || matches!(self.nodes[at].health, Health::Lost(_))
    }

    /// Whether an operation of a node's disk has failed since the node's process began.
    #[must_use]
    pub fn has_failed_disk(&self, at: usize) -> bool {
        self.nodes[at].disk_failed
    }

    /// How often a node was started.
    #[must_use]
    pub fn incarnation(&self, at: usize) -> u32 {
        self.nodes[at].incarnation
    }

    /// The disk of a node.
    #[must_use]
    pub fn device(&self, at: usize) -> &SimDevice {
        &self.nodes[at].device
    }

    /// The directories of a node's cores.
    #[must_use]
    pub fn disks(&self, at: usize) -> &[SimDisk] {
        &self.nodes[at].disks
    }

    /// The clocks of a node.
    #[must_use]
    pub fn clock(&self, at: usize) -> &HostClock {
        &self.nodes[at].clock
    }

    /// The place of a node with this id.
    #[must_use]
    pub fn place(&self, id: NodeId) -> usize {
        id.0 as usize - 1
    }

    /// Which node leads a shard, as far as the nodes themselves know.
    #[must_use]
    pub fn leader_of(&self, shard: ShardId) -> Option<usize> {
        let views = self.nodes.iter().filter(|node| node.health == Health::Up).flat_map(|node| {
            let handles = node.report.handles.borrow();
            let known = handles.iter().flatten().map(|handle| {
                handle.view().leaders.get(shard.0 as usize).copied().unwrap_or_default()
            });
            known.collect::<Vec<_>>()
        });
        views
            .filter(|(_, leader)| leader.is_some())
            .max()
            .and_then(|(_, leader)| leader)
            .map(|leader| self.place(leader))
    }

    /// Which core of a node hosts a shard.
    #[must_use]
    pub fn hosting(&self, at: usize, shard: ShardId) -> CoreId {
        CoreId::hosting(shard, self.settings.shards, self.nodes[at].disks.len() as u16)
    }

    /// Shards that all running nodes have handed over because they led more than their share.
    #[must_use]
    pub fn leaders_spread(&self) -> u64 {
        let handles = self.nodes.iter().flat_map(|node| node.report.handles.borrow().clone());
        handles.flatten().map(|handle| handle.counters().leaders_spread).sum()
    }

    /// The way into the core of a node that hosts a shard; `None` if no process runs.
    #[must_use]
    pub fn core_of(&self, at: usize, shard: ShardId) -> Option<RemoteCore> {
        let node = &self.nodes[at];
        if !matches!(node.health, Health::Up | Health::Stopping) {
            return None;
        }
        let core = CoreId::hosting(shard, self.settings.shards, node.disks.len() as u16);
        Some(RemoteCore::new(node.mailboxes[usize::from(core.0)].clone()))
    }

    /// The way into the same core for tasks of its own thread, as its server's connections have it.
    #[must_use]
    pub fn handle_of(&self, at: usize, shard: ShardId) -> Option<CoreHandle> {
        let node = &self.nodes[at];
        let core = CoreId::hosting(shard, self.settings.shards, node.disks.len() as u16);
        node.report.handles.borrow().get(usize::from(core.0)).cloned().flatten()
    }

    /// Starts the process of a node.
    pub fn start(&mut self, at: usize) {
        if self.nodes[at].health != Health::Down {
            return;
        }
        let process = process_id(at, self.nodes[at].incarnation + 1);
        let instance = self.random.u128(..);
        let config = self.core_config(at, instance);
        let node = &mut self.nodes[at];
        for core in 0..node.disks.len() {
            node.disks[core] = node.device.disk(core as u32);
        }
        self.net.power_on(host_of(node.id));
        node.incarnation += 1;
        node.process = process;
        node.mailboxes.clone_from(&config.mailboxes);
        node.report = Rc::default();
        node.report.handles.borrow_mut().resize_with(node.disks.len(), || None);
        node.health = Health::Up;
        self.world.name(process, format!("n{}", node.id));
        self.world.story(|| format!("node {} starts (process {})", node.id, node.incarnation));
        self.checks.started(node.id, node.disks.len() as u16);
        for core in 0..node.disks.len() {
            let mut config = config.clone();
            config.core = CoreId(core as u16);
            config.peer_listen = format!("n{}:{}", node.id, PEER_PORT + core as u16);
            // A segment keeps the size that it was made with, whatever the configuration says later.
            config.wal.segment_bytes <<= u32::from(self.random.f64() < 0.1);
            config.tiers = self.settings.tier_config(config.wal.segment_bytes);
            config.wal.log_id = log_id(node.id, config.core);
            let host = host_of(node.id);
            let random = Rng::with_seed(self.random.u64(..));
            let (world, net) = (self.world.clone(), self.net.clone());
            let env = SimEnv::new(world, net, (host, process), node.clock.clone(), random);
            let disk = node.disks[core].clone();
            let (report, checks) = (node.report.clone(), self.checks.clone());
            let (machines, id) = (self.machines.clone(), node.id);
            self.world.spawn(process, async move {
                match Core::open(env, disk, config, &|shard| machines(id, shard)).await {
                    Ok(mut opened) => {
                        opened.observe(checks.observer());
                        report.handles.borrow_mut()[core] = Some(opened.handle());
                        opened.run().await;
                        report.ended.set(report.ended.get() + 1);
                    }
                    Err(error) => {
                        report.refused.borrow_mut().get_or_insert_with(|| refusal(&error));
                    }
                }
            });
        }
    }

    fn core_config(&self, at: usize, instance: u128) -> CoreConfig {
        let (settings, node) = (&self.settings, &self.nodes[at]);
        let members = self.nodes.iter().map(|node| MemberView {
            id: node.id,
            client_host: format!("n{}", node.id),
            client_port: 7000,
            peer_host: format!("n{}", node.id),
            peer_port: PEER_PORT,
            cores: None,
            up: false,
        });
        let cores = node.disks.len() as u16;
        CoreConfig {
            cluster_id: "simulated".to_owned(),
            node: node.id,
            core: CoreId(0),
            cores,
            shards: settings.shards,
            members: members.collect(),
            book: Default::default(),
            news: None,
            join: None,
            voters: node.voters.clone(),
            instance,
            election_timeout: settings.election_timeout(),
            heartbeat_interval: Duration::from_millis(settings.heartbeat_interval_ms),
            lease: settings.lease(),
            quiesce: !settings.sleepless,
            detection: settings.detection(),
            spread_leaders: settings.spread_leaders,
            replica_read_staleness: None,
            priority: settings.priorities.get(at).copied().unwrap_or(0),
            peer_listen: String::new(),
            wal: settings.wal_options(),
            limits: settings.limits(self.world.seed()),
            tiers: settings.tier_config(settings.segment_bytes),
            mailboxes: (0..cores)
                .map(|_| Mailbox::with_capacity(settings.mailbox_letters))
                .collect(),
        }
    }

    /// Notes what was damaged since the last call, and what it takes to notice it.
    fn note_what_was_damaged(&mut self, at: usize) {
        let margin = self.settings.writes_in_flight as u64 + 2;
        for damage in self.nodes[at].device.drain_damage() {
            let batches = self.batches(at, damage.core);
            self.nodes[at].vouched.push((damage.core, batches + margin));
        }
    }

    /// Batches that the log of a core has written since its process began.
    fn batches(&self, at: usize, core: u32) -> u64 {
        let handles = self.nodes[at].report.handles.borrow();
        let handle = handles.get(core as usize).and_then(Option::as_ref);
        handle.map_or(0, |handle| handle.counters().wal_batches)
    }

    /// Whether a node has damage of which its log cannot know yet.
    fn has_hidden_damage(&mut self, at: usize) -> bool {
        self.note_what_was_damaged(at);
        let vouched = std::mem::take(&mut self.nodes[at].vouched);
        vouched.into_iter().any(|(core, batches)| self.batches(at, core) < batches)
    }

    /// Ends the process of a node at once; with `power_cut`, what its disk had not made durable goes too.
    pub fn crash(&mut self, at: usize, power_cut: bool) {
        if matches!(self.nodes[at].health, Health::Lost(_)) {
            return;
        }
        let hidden = self.nodes[at].damaged && self.has_hidden_damage(at);
        let node = &mut self.nodes[at];
        self.world.story(|| {
            format!("node {} {}", node.id, if power_cut { "loses power" } else { "crashes" })
        });
        self.net.kill_process(node.process, power_cut);
        self.world.kill(node.process);
        if power_cut {
            node.device.power_cut();
        } else {
            node.device.crash_process();
        }
        node.disk_failed = false;
        node.mailboxes.clear();
        node.untold.clear();
        node.report = Rc::default();
        node.health = if hidden {
            self.world.story(|| format!("node {} may not know what it has lost", node.id));
            Health::Lost("it went down before its log had moved on from the damage".to_owned())
        } else {
            Health::Down
        };
        self.checks.ended(node.id);
    }

    /// Asks the process of a node to stop in order; with `drain`, after it has handed over what it leads.
    pub fn stop(&mut self, at: usize, drain: bool) {
        let node = &mut self.nodes[at];
        if node.health != Health::Up {
            return;
        }
        self.world.story(|| format!("node {} is asked to stop", node.id));
        node.health = Health::Stopping;
        node.untold.clone_from(&node.mailboxes);
        node.drains = drain;
    }

    /// The process of a node does not run until it is resumed.
    pub fn pause(&mut self, at: usize) {
        let node = &self.nodes[at];
        self.world.story(|| format!("node {} is paused", node.id));
        self.world.pause(node.process);
    }

    /// The process of a node runs again.
    pub fn resume(&mut self, at: usize) {
        let node = &self.nodes[at];
        self.world.story(|| format!("node {} goes on", node.id));
        self.checks.resumed(node.id);
        self.world.resume(node.process);
    }

    /// Takes a node out for good.
    pub fn lose(&mut self, at: usize, why: &str) {
        self.crash(at, true);
        self.world.story(|| format!("node {} is lost: {why}", self.nodes[at].id));
        self.nodes[at].health = Health::Lost(why.to_owned());
        self.checks.damaged(self.nodes[at].id);
    }

    /// Whether a node may come back with an empty disk. Nodes that are all blank and name each other found a new
    /// cluster: so one of the first voters keeps its disk until others have something.
    #[must_use]
    pub fn may_wipe(&self, at: usize) -> bool {
        let own = &self.nodes[at];
        let keeps = |id: &NodeId| *id != own.id && self.checks.has_stored_all(*id);
        own.voters.len() <= 1 || own.voters.iter().any(keeps)
    }

    /// A node loses its disk and gets an empty one; it is down.
    pub fn wipe(&mut self, at: usize) {
        self.crash(at, true);
        if self.nodes[at].voters == [self.nodes[at].id] {
            // It would found another cluster. Others belong to all that it may lose.
            self.nodes[at].voters.clear();
        }
        let node = &mut self.nodes[at];
        self.world.story(|| format!("node {} gets an empty disk", node.id));
        for disk in &node.disks {
            disk.disarm();
            disk.wipe();
        }
        node.device.set_lying(false);
        node.device.heal();
        let _ = node.device.drain_damage();
        node.vouched.clear();
        node.damaged = false;
        node.health = Health::Down;
        self.checks.wiped(node.id);
    }

    /// Whether a node's disk is as it should be, and its replica of a shard votes and counts.
    #[must_use]
    pub fn is_settled(&self, at: usize, shard: ShardId) -> bool {
        !self.is_damaged(at) && self.checks.is_settled(self.nodes[at].id, shard)
    }

    /// Whether a node has started, and what its replicas have found is not known yet.
    #[must_use]
    pub fn is_starting(&self, at: usize) -> bool {
        self.nodes[at].health == Health::Up && !self.checks.is_up(self.nodes[at].id)
    }

    /// Notes that a node's disk may hold less than the node promised; `hidden` if no log can find out.
    pub fn note_damage(&mut self, at: usize, hidden: bool) {
        self.nodes[at].damaged = true;
        if hidden {
            self.nodes[at].vouched.push((0, u64::MAX));
        }
    }

    /// Notes that an operation of a node's disk will fail.
    pub fn note_disk_error(&mut self, at: usize) {
        self.nodes[at].disk_failed = true;
    }

    /// Looks after the nodes: what has happened since the last look.
    ///
    /// # Errors
    /// A node with an undamaged disk refuses to start.
    pub fn look(&mut self) -> Result<Vec<News>, String> {
        let mut news = Vec::new();
        for at in 0..self.len() {
            if !matches!(self.nodes[at].health, Health::Up | Health::Stopping) {
                continue;
            }
            if self.nodes[at].damaged {
                self.note_what_was_damaged(at);
            }
            let node = &mut self.nodes[at];
            // A full mailbox is tried again.
            let drains = node.drains;
            node.untold
                .retain(|mailbox| !if drains { mailbox.drain_and_stop() } else { mailbox.stop() });
            let refused = node.report.refused.borrow_mut().take();
            if let Some(refusal) = refused {
                node.disk_failed = true;
                self.world.story(|| format!("node {} refuses: {}", node.id, refusal.text));
                if !refusal.damage && !node.damaged {
                    news.push(News::Failed(at));
                } else if node.damaged {
                    news.push(News::Lost(at));
                } else {
                    return Err(format!(
                        "node {} refuses to start, but nothing has damaged its disk: {}",
                        node.id, refusal.text
                    ));
                }
            } else if node.report.ended.get() == node.disks.len() {
                self.net.kill_process(node.process, false);
                self.world.kill(node.process);
                node.device.crash_process();
                node.health = Health::Down;
                let hidden = node.damaged && self.has_hidden_damage(at);
                let node = &mut self.nodes[at];
                if hidden {
                    node.health = Health::Lost("its last batches were damaged".to_owned());
                }
                self.world.story(|| format!("node {} has stopped", node.id));
                self.checks.ended(node.id);
                news.push(News::Stopped(at));
            } else if self.checks.take_storage_failure(node.id) {
                node.disk_failed = true;
                news.push(News::Failed(at));
            }
        }
        Ok(news)
    }
}

/// Port on which core 0 of every node listens for its peers.
const PEER_PORT: u16 = 9000;

fn refusal(error: &OpenError) -> Refusal {
    let damage = match error {
        OpenError::Wal { source, .. } => !matches!(
            source,
            coracle_wal::OpenError::Io { .. } | coracle_wal::OpenError::NoSpace { .. }
        ),
        OpenError::Replay { .. } | OpenError::Replica { .. } => true,
        OpenError::Listen { .. } | OpenError::Limits { .. } | OpenError::Snapshots { .. } => false,
    };
    Refusal { text: error.to_string(), damage }
}
