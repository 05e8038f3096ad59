//! What the simulator shows its checks: every turn of every core, every frame that is sent, every entry that
//! is applied, every disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use coracle_engine::core::{CoreView, Observer};
use coracle_engine::raft::Role;
use coracle_engine::raft::membership::Configuration;
use coracle_engine::{CoreId, LogIndex, NodeId, ShardId, StateMachine};
use coracle_wal::follow::DurableFiles;

use super::checks::{Change, Checker, Contact, DurableView, Violation, Watch};
use super::disk::{DurableChange, SimDevice, SimDisk};
use super::net::{HostId, Net};
use super::settings::Settings;
use super::world::World;

/// All checks of a run. Clones are the same checks.
#[derive(Clone)]
pub struct Checks(Rc<Inner>);

struct Inner {
    world: World,
    watch: Watch,
    shards: u32,
    progress: RefCell<Progress>,
    contact: RefCell<Contact>,
}

/// How far the replicas are, for the end of a run.
#[derive(Default)]
struct Progress {
    /// What each replica has applied last.
    applied: BTreeMap<(NodeId, ShardId), LogIndex>,
    /// Nodes with a core whose log has failed since somebody asked.
    failed: BTreeMap<NodeId, bool>,
    /// Bytes of each core's directory, and the most that it should settle at.
    disk: BTreeMap<(NodeId, CoreId), (u64, u64)>,
}

/// What names a core's log.
#[must_use]
pub fn log_id(node: NodeId, core: CoreId) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&node.0.to_le_bytes());
    id[8..10].copy_from_slice(&core.0.to_le_bytes());
    id
}

/// The host of a node.
#[must_use]
pub fn host_of(node: NodeId) -> HostId {
    HostId(node.0 as u16)
}

impl Checks {
    /// Checks that have seen nothing yet.
    pub fn new(world: &World, settings: &Settings, devices: &[SimDevice]) -> Self {
        let ids = (1..).map(NodeId);
        let nodes: Vec<(NodeId, u16)> = ids.zip(settings.cores.iter().copied()).collect();
        let initial = settings.initial_configuration();
        let mut checker = Checker::new(settings.shards, &nodes, &initial);
        for ((node, cores), device) in nodes.iter().zip(devices) {
            for core in (0..*cores).map(CoreId) {
                let disk =
                    Durable { disk: device.disk(core.0.into()), changes: RefCell::default() };
                checker.set_disk(*node, core, log_id(*node, core), Some(Box::new(disk)));
            }
        }
        Self(Rc::new(Inner {
            world: world.clone(),
            watch: Watch::new(checker, settings.tiers.chunk_bytes),
            shards: settings.shards,
            progress: RefCell::default(),
            contact: RefCell::new(Contact::new(settings.election_timeout())),
        }))
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<Violation> {
        if self.0.watch.is_violated() { self.0.watch.violation() } else { None }
    }

    /// A process of a node begins.
    pub fn started(&self, node: NodeId, cores: u16) {
        self.0.watch.checker_mut().started(node, cores);
        self.resumed(node);
        let mut progress = self.0.progress.borrow_mut();
        progress.failed.insert(node, false);
        progress.disk.retain(|(of, _), _| *of != node);
        progress.applied.retain(|(of, _), _| *of != node);
    }

    /// The process of a node goes on after a pause.
    pub fn resumed(&self, node: NodeId) {
        self.0.contact.borrow_mut().resumed(node);
    }

    /// The process of a node has ended.
    pub fn ended(&self, node: NodeId) {
        self.0.watch.checker_mut().stopped(node);
    }

    /// The disks of a node were replaced by empty ones.
    pub fn wiped(&self, node: NodeId) {
        self.0.watch.checker_mut().wiped(node);
    }

    /// A node has told an operator that it has a snapshot.
    pub fn snapshot_told(&self, node: NodeId, shard: ShardId, index: LogIndex) {
        let found = self.0.watch.checker_mut().snapshot_told(node, shard, index);
        self.0.watch.keep(found);
    }

    /// Index of the last entry of a shard that was ever committed.
    pub fn committed(&self, shard: ShardId) -> LogIndex {
        self.0.watch.checker().committed(shard)
    }

    /// Whether a node votes and counts in a shard, and that is on its disk.
    pub fn is_settled(&self, node: NodeId, shard: ShardId) -> bool {
        self.0.watch.checker().is_settled(node, shard)
    }

    /// Whether a node has something of every shard on its present disk.
    pub fn has_stored_all(&self, node: NodeId) -> bool {
        self.0.watch.checker().has_stored_all(node)
    }

    /// The newest configuration of a shard that was ever committed.
    pub fn configuration(&self, shard: ShardId) -> Configuration {
        self.0.watch.checker().configuration(shard)
    }

    /// That, and all that may yet be committed.
    pub fn possible_configurations(&self, shard: ShardId) -> Vec<Configuration> {
        self.0.watch.checker().possible_configurations(shard)
    }

    /// Whether all replicas of a node were seen since its process began.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.0.watch.checker().is_up(node)
    }

    /// The disks of a node give errors.
    pub fn disk_error(&self, node: NodeId) {
        self.0.watch.checker_mut().disk_error(node);
    }

    /// The disk of a node was damaged.
    pub fn damaged(&self, node: NodeId) {
        self.0.watch.checker_mut().damaged(node);
    }

    /// Whether the log of a core of this node has failed since the last call.
    pub fn take_storage_failure(&self, node: NodeId) -> bool {
        self.0.progress.borrow_mut().failed.insert(node, false).unwrap_or(false)
    }

    /// What watches the turns of a core.
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(Turns { checks: self.clone(), watch: self.0.watch.observer(), failed: false })
    }

    /// Watches the frames of a network.
    pub fn tap(&self, net: &Net) {
        let watch = self.0.watch.clone();
        net.set_tap(Rc::new(move |sent| {
            if !sent.is_raft() {
                return;
            }
            if let Ok(Some(frame)) = sent.decode() {
                watch.sent(NodeId(sent.from.0.into()), NodeId(sent.to.0.into()), &frame);
            }
        }));
    }

    /// Watches what arrives.
    pub fn tap_arrivals(&self, net: &Net) {
        let inner = self.0.clone();
        net.set_arrival_tap(Rc::new(move |frame| {
            let (from, to) = (NodeId(frame.from.0.into()), NodeId(frame.to.0.into()));
            let now = inner.world.now();
            if frame.is_pulse() {
                inner.contact.borrow_mut().pulsed(from, to, now);
            }
            if frame.is_raft() {
                inner.contact.borrow_mut().heard(from, to, frame.shard(), now);
            }
        }));
    }

    /// A state machine that tells what is applied to it.
    pub fn machine(
        &self,
        node: NodeId,
        shard: ShardId,
        machine: Box<dyn StateMachine>,
    ) -> Box<dyn StateMachine> {
        self.0.watch.machine(node, shard, machine)
    }

    /// What is committed in each shard.
    pub fn commits(&self) -> Vec<LogIndex> {
        let checker = self.0.watch.checker();
        (0..self.0.shards).map(|shard| checker.committed(ShardId(shard))).collect()
    }

    /// Whether those of these nodes that belong to a shard count in it and have applied what was committed when
    /// `commits` were asked for, for all shards: hooks may propose all the time. That it was the same is checked with
    /// every entry. No change of members is half done.
    pub fn have_converged(&self, nodes: &[NodeId], commits: &[LogIndex]) -> bool {
        let progress = self.0.progress.borrow();
        let checker = self.0.watch.checker();
        let fits = |(place, (bytes, most)): (&(NodeId, CoreId), &(u64, u64))| {
            bytes <= most || !nodes.contains(&place.0)
        };
        progress.disk.iter().all(fits)
            && (0..self.0.shards).map(ShardId).zip(commits).all(|(shard, commit)| {
                let members = checker.configuration(shard);
                let has_all = |node: &&NodeId| {
                    progress.applied.get(&(**node, shard)) >= Some(commit)
                        && checker.is_settled(**node, shard)
                };
                let mut own = nodes.iter().filter(|node| members.is_member(**node));
                !members.auto_leave() && own.all(|node| has_all(&node))
            })
    }

    /// The node that has applied least of a shard in its present life.
    pub fn behind_in(&self, shard: ShardId) -> Option<NodeId> {
        let progress = self.0.progress.borrow();
        let of_shard = progress.applied.iter().filter(|((_, id), _)| *id == shard);
        of_shard.min_by_key(|(_, applied)| **applied).map(|((node, _), _)| *node)
    }

    /// Where the replicas are, for messages.
    pub fn describe(&self) -> String {
        let progress = self.0.progress.borrow();
        let shards = (0..self.0.shards).map(ShardId).map(|shard| {
            let of_shard = progress.applied.iter().filter(|((_, id), _)| *id == shard);
            let applied: Vec<String> =
                of_shard.map(|((node, _), index)| format!("node {node}: {index}")).collect();
            let checker = self.0.watch.checker();
            let (commit, members) = (checker.committed(shard), checker.configuration(shard));
            format!(
                "shard {shard} ({members}) has committed {commit} and applied {}",
                applied.join(", ")
            )
        });
        let over = progress.disk.iter().filter(|(_, (bytes, most))| bytes > most);
        let over = over.map(|((node, core), (bytes, most))| {
            format!("core {core} of node {node} takes {bytes} bytes of disk, {most} allowed")
        });
        shards.chain(over).collect::<Vec<_>>().join("; ")
    }
}

struct Turns {
    checks: Checks,
    watch: Box<dyn Observer>,
    failed: bool,
}

impl Observer for Turns {
    fn after_turn(&mut self, core: &CoreView<'_>) {
        let mut progress = self.checks.0.progress.borrow_mut();
        let down = core.failed || !core.lost.is_empty();
        let down = down || core.shards().any(|shard| shard.halted().is_some());
        if down && !std::mem::replace(&mut self.failed, true) {
            progress.failed.insert(core.node, true);
        }
        if let (bytes, most @ 1..) = core.disk {
            progress.disk.insert((core.node, core.core), (bytes, most));
        }
        for shard in core.touched() {
            let place = (core.node, shard.id());
            if progress.applied.insert(place, shard.applied()) != Some(shard.applied()) {
                self.checks
                    .0
                    .world
                    .trace(core.node.0 << 32 | u64::from(shard.id().0), shard.applied().0);
            }
        }
        drop(progress);
        let now = self.checks.0.world.now();
        for shard in core.touched() {
            let (raft, place) = (shard.raft(), (core.node, shard.id()));
            let leads = raft.role() == Role::Leader;
            let members = raft.configuration();
            let mut contact = self.checks.0.contact.borrow_mut();
            let found = contact.term(place.0, place.1, raft.hard_state());
            self.checks.0.watch.keep(found.and_then(|()| contact.look(place, leads, members, now)));
        }
        self.watch.after_turn(core);
    }
}

/// The durable image of a simulated disk, for the checks.
struct Durable {
    disk: SimDisk,
    changes: RefCell<Vec<DurableChange>>,
}

impl DurableFiles for Durable {
    fn files(&self) -> Vec<(String, u32)> {
        self.disk.durable_files().into_iter().map(|(name, file, _)| (name, file)).collect()
    }

    fn read(&self, file: u32, position: u64, buf: &mut [u8]) -> usize {
        self.disk.read_durable(file, position, buf)
    }
}

impl DurableView for Durable {
    fn version(&self) -> u64 {
        self.disk.durable_version()
    }

    fn take_changes(&self) -> Option<Change> {
        let mut changes = self.changes.borrow_mut();
        self.disk.drain_durable(&mut changes);
        let names =
            |change: &DurableChange| matches!(change, DurableChange::Names | DurableChange::Reset);
        let change = if changes.iter().any(names) {
            Some(Change::Names)
        } else {
            (!changes.is_empty()).then_some(Change::Bytes)
        };
        changes.clear();
        change
    }
}
