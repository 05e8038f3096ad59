//! What the simulator shows its checks: every turn of every core, every frame that is sent, every entry that
//! is applied, every disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use coracle_engine::core::{CoreView, Observer};
use coracle_engine::{Apply, CoreId, LogIndex, NodeId, ShardId, SnapshotError, StateMachine};

use super::disk::SimDevice;
use super::net::Net;
use super::settings::Settings;
use super::world::World;

/// All checks of a run. Clones are the same checks.
#[derive(Clone)]
pub struct Checks(Rc<RefCell<Inner>>);

struct Inner {
    world: World,
    violation: Option<(String, String)>,
    /// Hash of all that each replica has applied.
    states: BTreeMap<(NodeId, ShardId), u64>,
    /// What each replica has applied last.
    applied: BTreeMap<(NodeId, ShardId), LogIndex>,
    commits: BTreeMap<ShardId, LogIndex>,
    failed: BTreeMap<NodeId, bool>,
    shards: u32,
}

impl Checks {
    /// Checks that have seen nothing yet.
    pub fn new(world: &World, settings: &Settings, _devices: &[SimDevice]) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            world: world.clone(),
            violation: None,
            states: BTreeMap::new(),
            applied: BTreeMap::new(),
            commits: BTreeMap::new(),
            failed: BTreeMap::new(),
            shards: settings.shards,
        })))
    }

    /// Takes the first violation: its short name and the details.
    pub fn take_violation(&self) -> Option<(String, String)> {
        self.0.borrow_mut().violation.take()
    }

    /// A process of a node begins.
    pub fn started(&self, node: NodeId, _incarnation: u32) {
        let mut inner = self.0.borrow_mut();
        inner.failed.insert(node, false);
        inner.applied.retain(|(of, _), _| *of != node);
        inner.states.retain(|(of, _), _| *of != node);
    }

    /// The process of a node has ended.
    pub fn crashed(&self, _node: NodeId, _power_cut: bool) {}

    /// A node takes no part any more.
    pub fn lost(&self, _node: NodeId) {}

    /// Whether the log of a core of this node has failed since the last call.
    pub fn take_storage_failure(&self, node: NodeId) -> bool {
        self.0.borrow_mut().failed.insert(node, false).unwrap_or(false)
    }

    /// What watches the turns of a core.
    pub fn observer(&self, _node: NodeId, _core: CoreId) -> Box<dyn Observer> {
        Box::new(Turns { checks: self.clone(), failed: false })
    }

    /// Watches the frames of a network.
    pub fn tap(&self, _net: &Net) {}

    /// A state machine that tells what is applied to it.
    pub fn watch(
        &self,
        node: NodeId,
        shard: ShardId,
        machine: Box<dyn StateMachine>,
    ) -> Box<dyn StateMachine> {
        Box::new(Watched { checks: self.clone(), node, shard, machine, state: 0 })
    }

    /// Whether these nodes have applied the same in all shards.
    pub fn have_converged(&self, nodes: &[NodeId]) -> bool {
        let inner = self.0.borrow();
        (0..inner.shards).map(ShardId).all(|shard| {
            let commit = inner.commits.get(&shard);
            let mut states = nodes.iter().map(|node| inner.states.get(&(*node, shard)));
            let first = states.next().flatten();
            nodes.iter().all(|node| inner.applied.get(&(*node, shard)) == commit)
                && states.all(|state| state == first)
        })
    }

    /// Where the replicas are, for messages.
    pub fn describe(&self) -> String {
        format!("{:?}", self.0.borrow().applied)
    }
}

struct Turns {
    checks: Checks,
    failed: bool,
}

impl Observer for Turns {
    fn after_turn(&mut self, core: &CoreView<'_>) {
        let mut inner = self.checks.0.borrow_mut();
        if core.failed && !std::mem::replace(&mut self.failed, true) {
            inner.failed.insert(core.node, true);
        }
        for shard in core.touched() {
            let commit = shard.raft().log().committed();
            let known = inner.commits.entry(shard.id()).or_default();
            *known = commit.max(*known);
            inner.applied.insert((core.node, shard.id()), shard.applied());
        }
    }
}

/// A state machine whose entries are watched.
struct Watched {
    checks: Checks,
    node: NodeId,
    shard: ShardId,
    machine: Box<dyn StateMachine>,
    /// Hash of all entries and replies so far.
    state: u64,
}

impl StateMachine for Watched {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        self.machine.apply(entry, reply);
        let mut inner = self.checks.0.borrow_mut();
        for byte in entry.payload.iter().chain(reply.iter()) {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        inner.world.trace(u64::from(self.shard.0), self.state);
        inner.states.insert((self.node, self.shard), self.state);
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.machine.query(request, reply);
    }

    fn snapshot(&self, image: &mut dyn std::io::Write) -> Result<(), SnapshotError> {
        self.machine.snapshot(image)
    }

    fn restore(&mut self, image: &mut dyn std::io::Read) -> Result<(), SnapshotError> {
        self.machine.restore(image)
    }
}
