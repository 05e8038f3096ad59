//! Operators who change who belongs to a shard, while everything else happens.
//!
//! They ask whoever leads, and again if that comes to nothing. A leader lets in only what is ready, but it cannot
//! know which nodes are lost for good. So an operator asks for nothing that could leave a shard without a sound
//! quorum, and nothing is damaged that could: both go by every configuration that the shard
//! may come to ([`Operators::possible`]), with what is in any log, and what was asked for and is not answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use coracle_engine::core::{Pending, Position};
use coracle_engine::raft::membership::{Change, Configuration, Reconfiguration, Transition};
use coracle_engine::{NodeId, ReconfigureError, ShardId};

use crate::sim::checks::decides;
use crate::sim::cluster::{CLIENTS, Cluster};
use crate::sim::plan::{Bits, How};
use crate::sim::settings::Settings;
use crate::sim::watch::Checks;
use crate::sim::world::World;

/// More configurations than that are not followed: then nothing is asked for, and nothing damaged.
const POSSIBLE_MAX: usize = 64;

/// What all operators share.
pub(super) struct Operators {
    world: World,
    cluster: Rc<RefCell<Cluster>>,
    checks: Checks,
    nodes: u32,
    heartbeat: Duration,
    /// What was asked for and is not answered.
    pending: RefCell<BTreeMap<ShardId, Vec<(u64, Reconfiguration)>>>,
    asked: Cell<u64>,
    /// Nothing more is asked for.
    ended: Cell<bool>,
}

impl Operators {
    pub(super) fn new(
        world: &World,
        cluster: &Rc<RefCell<Cluster>>,
        checks: &Checks,
        settings: &Settings,
    ) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            cluster: cluster.clone(),
            checks: checks.clone(),
            nodes: settings.nodes,
            heartbeat: Duration::from_millis(settings.heartbeat_interval_ms),
            pending: RefCell::default(),
            asked: Cell::new(0),
            ended: Cell::new(false),
        })
    }

    /// They ask for nothing more.
    pub(super) fn end(&self) {
        self.ended.set(true);
    }

    /// Every configuration that a shard may come to, if also `next` is asked for; `None` if there are too many.
    pub(super) fn possible(
        &self,
        shard: ShardId,
        next: Option<&Reconfiguration>,
    ) -> Option<Vec<Configuration>> {
        let pending = self.pending.borrow();
        let asked = pending.get(&shard).into_iter().flatten().map(|(_, change)| change);
        let changes: Vec<&Reconfiguration> =
            asked.chain(next).chain([&Reconfiguration::Leave]).collect();
        let mut all = self.checks.possible_configurations(shard);
        let mut at = 0;
        while at < all.len() && all.len() <= POSSIBLE_MAX {
            for change in &changes {
                if let Ok(after) = all[at].after(change)
                    && !all.contains(&after)
                {
                    all.push(after);
                }
            }
            at += 1;
        }
        (all.len() <= POSSIBLE_MAX).then_some(all)
    }

    /// Whether a shard keeps a sound quorum whatever becomes of it, if also `next` is asked for and the node
    /// `without` is lost. One that is starting may yet find out that it is damaged.
    fn is_safe(
        &self,
        shard: ShardId,
        next: Option<&Reconfiguration>,
        without: Option<NodeId>,
    ) -> bool {
        let cluster = self.cluster.borrow();
        let is_sound = |node: NodeId| {
            let at = cluster.place(node);
            Some(node) != without && cluster.is_settled(at, shard) && !cluster.is_starting(at)
        };
        let concerned =
            |own: &Configuration| without.is_none_or(|node| own.voters().contains(node));
        self.possible(shard, next).is_some_and(|all| {
            all.iter().filter(|own| concerned(own)).all(|own| decides(own, is_sound))
        })
    }

    /// Whether all shards keep a sound quorum when a node is lost.
    pub(super) fn can_spare(&self, at: usize, shards: u32) -> bool {
        let node = NodeId(at as u64 + 1);
        (0..shards).all(|shard| self.is_safe(ShardId(shard), None, Some(node)))
    }

    /// Asks the leader of a shard for a change, once.
    pub(super) fn ask_once(self: &Rc<Self>, shard: ShardId, change: Reconfiguration) -> bool {
        let Some(asked) = self.ask(shard, &change) else { return false };
        let operators = self.clone();
        self.world.spawn(CLIENTS, async move {
            operators.end_of(shard, &change, asked).await;
        });
        true
    }

    /// Makes these nodes the voters of a shard, first as learners, for as long as `ms`.
    pub(super) fn work_towards(self: &Rc<Self>, shard: ShardId, voters: Bits, ms: u64) {
        let operators = self.clone();
        let until = self.world.now() + Duration::from_millis(ms);
        self.world.spawn(CLIENTS, async move {
            let voters: Vec<NodeId> = voters.nodes(operators.nodes).collect();
            while operators.world.now() < until && !operators.ended.get() {
                let Some(change) = next_step(&operators.checks.configuration(shard), &voters)
                else {
                    operators.world.count("members.replaced");
                    break;
                };
                if let Some(asked) = operators.ask(shard, &change) {
                    operators.end_of(shard, &change, asked).await;
                }
                operators.world.sleep(operators.heartbeat).await;
            }
        });
    }

    /// Leaves what is joint until somebody leaves it.
    pub(super) fn tidy_up(self: &Rc<Self>, shards: u32) {
        for shard in (0..shards).map(ShardId) {
            let operators = self.clone();
            self.world.spawn(CLIENTS, async move {
                while operators.checks.configuration(shard).is_joint() {
                    if let Some(asked) = operators.ask(shard, &Reconfiguration::Leave) {
                        operators.end_of(shard, &Reconfiguration::Leave, asked).await;
                    }
                    operators.world.sleep(operators.heartbeat).await;
                }
            });
        }
    }

    /// Asks whoever leads, unless that is too much to ask for.
    fn ask(
        &self,
        shard: ShardId,
        change: &Reconfiguration,
    ) -> Option<(u64, Pending<Position, ReconfigureError>)> {
        let at = self.cluster.borrow().leader_of(shard)?;
        if !self.is_safe(shard, Some(change), None) {
            return None;
        }
        let id = self.asked.get() + 1;
        self.asked.set(id);
        let cluster = self.cluster.borrow();
        let pending = match id % 2 {
            0 => cluster.core_of(at, shard)?.reconfigure(shard, change.clone()),
            _ => cluster.handle_of(at, shard)?.reconfigure(shard, change.clone()),
        };
        self.pending.borrow_mut().entry(shard).or_default().push((id, change.clone()));
        Some((id, pending))
    }

    /// Waits for the answer.
    async fn end_of(
        &self,
        shard: ShardId,
        change: &Reconfiguration,
        (id, pending): (u64, Pending<Position, ReconfigureError>),
    ) {
        let answer = pending.await;
        if let Some(asked) = self.pending.borrow_mut().get_mut(&shard) {
            asked.retain(|(own, _)| *own != id);
        }
        self.world.count(match &answer {
            Ok(_) => "members.changed",
            Err(ReconfigureError::OutcomeUnknown { .. }) => "members.unknown",
            Err(_) => "members.refused",
        });
        self.world.story(|| format!("shard {shard} is asked for {change:?}: {answer:?}"));
    }
}

/// What to ask for so that these become the voters; nothing if they are.
fn next_step(now: &Configuration, voters: &[NodeId]) -> Option<Reconfiguration> {
    if now.is_joint() {
        return Some(Reconfiguration::Leave);
    }
    let missing = voters.iter().copied().filter(|node| !now.is_member(*node));
    let mut changes: Vec<Change> = missing.map(Change::AddLearner).collect();
    if changes.is_empty() {
        let new = voters.iter().copied().filter(|node| !now.incoming().contains(*node));
        let old = now.incoming().iter().filter(|node| !voters.contains(node));
        changes = new.map(Change::AddVoter).chain(old.map(Change::Remove)).collect();
    }
    let transition = Transition::Auto;
    (!changes.is_empty()).then_some(Reconfiguration::Change { changes, transition })
}

/// The change that a plan names.
pub(super) fn change(
    nodes: u32,
    voters: Bits,
    learners: Bits,
    gone: Bits,
    how: How,
) -> Reconfiguration {
    let changes = voters.nodes(nodes).map(Change::AddVoter);
    let changes = changes.chain(learners.nodes(nodes).map(Change::AddLearner));
    let changes = changes.chain(gone.nodes(nodes).map(Change::Remove)).collect();
    let transition = match how {
        How::Auto => Transition::Auto,
        How::Joint => Transition::Joint,
        How::UntilLeft => Transition::JointUntilLeft,
    };
    Reconfiguration::Change { changes, transition }
}
