//! The faults of a run: a list with times, drawn from the seed before anything runs, so that a run that
//! fails can be cut down by leaving faults out.

use std::fmt;

use coracle_engine::NodeId;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::settings::{Settings, log_uniform, one_of};

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// This node; the first is 0.
    Node(u32),
    /// Whoever leads this shard at that moment; nobody, if nobody does.
    LeaderOf(u32),
    /// Whose replica of this shard has applied least.
    BehindIn(u32),
}

/// A few nodes: bit 0 is the first one. Bits of nodes that are not there mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bits(pub u32);

impl Bits {
    /// The nodes, of so many that there are.
    pub fn nodes(self, count: u32) -> impl Iterator<Item = NodeId> {
        (0..count.min(u32::BITS))
            .filter(move |at| self.0 >> at & 1 == 1)
            .map(|at| NodeId(u64::from(at) + 1))
    }
}

/// How members change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// One voter at once, more jointly.
    #[default]
    Auto,
    /// Jointly in any case.
    Joint,
    /// Jointly, until somebody asks for the end of it.
    UntilLeft,
}

/// A kind of operation of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskOp {
    /// Writes, durable or not.
    Write,
    /// Syncs of files.
    Sync,
    /// Syncs of the directory, creations, renames, removals.
    Names,
}

/// Damage to what a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Bits of a durable block flip.
    Rot,
    /// The next write lands elsewhere.
    Misdirected,
    /// The next write is reported, but not done.
    LostWrite,
    /// A block cannot be read any more.
    Unreadable,
    /// A block has its older content again.
    Stale,
    /// Flushes report success and do nothing, from now on.
    Lying,
}

/// Something bad that happens. Times are milliseconds; nodes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)] // the fields are explained above
pub enum Fault {
    /// The process dies, what it wrote stays in the disk's cache; it comes back.
    Crash { who: Who, down_ms: u64 },
    /// The machine loses power: what was not durable is lost, kept or torn; it comes back. With
    /// `mid_write`, the next time that its disk is changing something.
    PowerCut {
        who: Who,
        down_ms: u64,
        #[serde(default)]
        mid_write: bool,
    },
    /// All machines lose power at once.
    PowerCutAll { down_ms: u64 },
    /// The process is stopped in order and started again.
    Stop { who: Who, down_ms: u64 },
    /// The process does not run for a while.
    Pause { who: Who, ms: u64 },
    /// The disk is lost for good; the node comes back with an empty one.
    Wipe {
        who: Who,
        #[serde(default)]
        down_ms: u64,
    },
    /// An operator asks a node for a snapshot of a shard.
    AskSnapshot { who: Who, shard: u32 },
    /// An operator asks a node to hand over leadership of a shard, to this node or to anybody.
    Transfer { who: Who, shard: u32, to: Option<u32> },
    /// An operator asks a node to hand over all that it leads. It is stopped and started again later.
    Drain { who: Who, down_ms: u64 },
    /// An operator asks the leader of a shard to make these nodes voters and these learners, and to remove these.
    ChangeMembers {
        shard: u32,
        #[serde(default)]
        voters: Bits,
        #[serde(default)]
        learners: Bits,
        #[serde(default)]
        removed: Bits,
        #[serde(default)]
        how: How,
    },
    /// An operator asks the leader of a shard to leave a joint configuration.
    LeaveJoint { shard: u32 },
    /// An operator works at it for a while that these nodes, and no others, become the voters of a shard.
    ReplaceVoters { shard: u32, voters: Bits, ms: u64 },
    /// Nothing gets from one node to another.
    Block { from: u32, to: u32, ms: u64 },
    /// The nodes in the bit set `side` and the others do not hear each other; with `one_way`, only the others
    /// do not hear `side`.
    Partition { side: u32, one_way: bool, ms: u64 },
    /// A node hears nobody, or nobody hears it.
    Isolate { who: Who, inbound: bool, outbound: bool, ms: u64 },
    /// What one node sends to another crawls.
    Clog { from: u32, to: u32, ms: u64 },
    /// One node reads nothing of what another sends.
    SlowReader { from: u32, to: u32, ms: u64 },
    /// All connections between two nodes break.
    Reset { a: u32, b: u32 },
    /// Nothing that the disk is asked for is done for a while.
    DiskStall { who: Who, ms: u64 },
    /// An operation of the disk fails, once or from now on.
    DiskError { who: Who, op: DiskOp, sticky: bool },
    /// The disk takes no more for a while.
    DiskFull { who: Who, ms: u64 },
    /// What the disk holds is damaged.
    Damage { who: Who, what: Damage },
    /// The wall clock of a node jumps.
    WallClock { who: Who, jump_ms: i64 },
    /// The clocks of a node run faster or slower, in parts per million.
    ClockRate { who: Who, ppm: i32 },
}

/// A fault and its time, since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds since the beginning.
    pub at_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {}", node + 1),
            Self::LeaderOf(shard) => write!(f, "the leader of shard {shard}"),
            Self::BehindIn(shard) => write!(f, "who is behind in shard {shard}"),
        }
    }
}

impl Fault {
    /// A short name, for counting.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "process.crash",
            Self::PowerCut { .. } => "process.power_cut",
            Self::PowerCutAll { .. } => "process.power_cut_all",
            Self::Stop { .. } => "process.stop",
            Self::Pause { .. } => "process.pause",
            Self::Wipe { .. } => "process.wipe",
            Self::AskSnapshot { .. } => "operator.snapshot",
            Self::Transfer { .. } => "operator.transfer",
            Self::Drain { .. } => "operator.drain",
            Self::ChangeMembers { .. } => "operator.members",
            Self::LeaveJoint { .. } => "operator.leave_joint",
            Self::ReplaceVoters { .. } => "operator.replace",
            Self::Block { .. } => "net.block",
            Self::Partition { one_way: false, .. } => "net.partition",
            Self::Partition { one_way: true, .. } => "net.partition_one_way",
            Self::Isolate { .. } => "net.isolate",
            Self::Clog { .. } => "net.clog",
            Self::SlowReader { .. } => "net.slow_reader",
            Self::Reset { .. } => "net.reset",
            Self::DiskStall { .. } => "disk.stall",
            Self::DiskError { .. } => "disk.error",
            Self::DiskFull { .. } => "disk.full",
            Self::Damage { what: Damage::Rot, .. } => "disk.rot",
            Self::Damage { what: Damage::Misdirected, .. } => "disk.misdirected",
            Self::Damage { what: Damage::LostWrite, .. } => "disk.lost_write",
            Self::Damage { what: Damage::Unreadable, .. } => "disk.unreadable",
            Self::Damage { what: Damage::Stale, .. } => "disk.stale",
            Self::Damage { what: Damage::Lying, .. } => "disk.lying",
            Self::WallClock { .. } => "clock.jump",
            Self::ClockRate { .. } => "clock.rate",
        }
    }
}

/// Everything that a run is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where all other decisions come from.
    pub seed: u64,
    /// The cluster and its surroundings.
    pub settings: Settings,
    /// What happens, ordered by time.
    #[serde(default)]
    pub faults: Vec<Timed>,
}

/// Kinds of faults, to choose from: a run with few kinds goes deeper into each than a run with all.
const KINDS: u32 = 18;

impl Plan {
    /// Draws the plan of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(super::world::derive(seed, "plan"));
        let mut settings = Settings::draw(&mut rng);
        let mut churn = Rng::with_seed(super::world::derive(seed, "churn"));
        let churns = churn.f64() < 0.6;
        if churns {
            settings.draw_joiners(&mut churn);
        }
        let mut faults = draw_faults(&mut rng, &settings);
        if settings.nodes > 1 && rng.f64() < 0.4 {
            faults.extend(depose_leaders(&mut rng, &mut settings));
            faults.sort_by_key(|timed| timed.at_ms);
        }
        let mut rng = Rng::with_seed(super::world::derive(seed, "leadership"));
        settings.draw_leadership(&mut rng);
        if settings.nodes > 1 && rng.f64() < 0.6 {
            faults.extend(move_leadership(&mut rng, &settings));
            faults.sort_by_key(|timed| timed.at_ms);
        }
        if churns {
            faults.extend(change_members(&mut churn, &mut settings));
            faults.sort_by_key(|timed| timed.at_ms);
        }
        let mut rng = Rng::with_seed(super::world::derive(seed, "liveness"));
        settings.draw_liveness(&mut rng);
        settings.spread_leaders = Rng::with_seed(super::world::derive(seed, "spread")).f64() < 0.4;
        Self { seed, settings, faults }
    }
}

fn draw_faults(rng: &mut Rng, settings: &Settings) -> Vec<Timed> {
    let calm = rng.f64() < 0.05;
    if calm {
        return Vec::new();
    }
    let chosen: Vec<u32> = {
        let share = one_of(rng, &[0.1, 0.25, 0.5, 1.0]);
        let mut kinds: Vec<u32> = (0..KINDS).filter(|_| rng.f64() < share).collect();
        if kinds.is_empty() {
            kinds.push(rng.u32(..KINDS));
        }
        kinds
    };
    let count = log_uniform(rng, 1, 40);
    let mut faults: Vec<Timed> = (0..count)
        .map(|_| {
            let at_ms = rng.u64(..settings.chaos_ms);
            let kind = one_of(rng, &chosen);
            Timed { at_ms, fault: draw_fault(rng, settings, kind) }
        })
        .collect();
    faults.sort_by_key(|timed| timed.at_ms);
    faults
}

/// Cuts off one leader of a shard after another, while many clients want something of it: so logs part, and
/// part again before they were made alike.
fn depose_leaders(rng: &mut Rng, settings: &mut Settings) -> Vec<Timed> {
    let timeout = settings.election_timeout_ms;
    settings.clients = settings.clients.max(8);
    settings.think_ms_max = settings.think_ms_max.min(timeout / 8);
    settings.operations = settings.operations.max(100);
    settings.chaos_ms = settings.chaos_ms.max(30 * timeout);
    if rng.bool() {
        // Much happens before anything is durable.
        settings.flush_ms_max = log_uniform(rng, timeout / 50, timeout / 3);
        settings.tight_limits = true;
    }
    let shard = rng.u32(..settings.shards);
    let mut at_ms = rng.u64(..settings.chaos_ms / 2);
    let deposals = rng.u32(2..=6);
    let mut faults = Vec::new();
    for _ in 0..deposals {
        // Not everybody is back when the next one goes.
        let ms = rng.u64(timeout..6 * timeout);
        let inbound = rng.f64() < 0.7;
        let who = Who::LeaderOf(shard);
        let fault = match rng.u8(..6) {
            // Long enough for another leader, short enough that clients still wait for this one.
            0 | 1 => Fault::Pause { who, ms: rng.u64(3 * timeout / 2..4 * timeout) },
            2 => Fault::PowerCut { who, down_ms: ms, mid_write: rng.bool() },
            _ => Fault::Isolate { who, inbound, outbound: !inbound || rng.f64() < 0.8, ms },
        };
        faults.push(Timed { at_ms, fault });
        if rng.f64() < 0.4 {
            // While it catches up.
            let who = Who::BehindIn(shard);
            let fault = Fault::PowerCut { who, down_ms: 1, mid_write: true };
            faults.push(Timed { at_ms: at_ms + ms + rng.u64(..timeout / 3), fault });
        }
        at_ms += rng.u64(2 * timeout..4 * timeout);
    }
    faults
}

/// Leadership that is handed over, mostly by whom it concerns, and sometimes while the successor is cut off.
fn move_leadership(rng: &mut Rng, settings: &Settings) -> Vec<Timed> {
    let timeout = settings.election_timeout_ms;
    let mut faults = Vec::new();
    for _ in 0..log_uniform(rng, 1, 30) {
        let at_ms = rng.u64(..settings.chaos_ms);
        let shard = rng.u32(..settings.shards);
        let who = if rng.f64() < 0.9 { Who::LeaderOf(shard) } else { draw_who(rng, settings) };
        let to = rng.bool().then(|| rng.u32(..settings.nodes));
        if rng.f64() < 0.1 {
            let down_ms = log_uniform(rng, 1, 4 * timeout);
            faults.push(Timed { at_ms, fault: Fault::Drain { who, down_ms } });
            continue;
        }
        faults.push(Timed { at_ms, fault: Fault::Transfer { who, shard, to } });
        if rng.f64() < 0.25 {
            // It has told its successor, and hears of nothing that follows.
            let (who, ms) = (Who::LeaderOf(shard), rng.u64(timeout / 2..2 * timeout));
            let fault = Fault::Isolate { who, inbound: true, outbound: false, ms };
            faults.push(Timed { at_ms: at_ms + rng.u64(..4), fault });
            continue;
        }
        if let Some(to) = to.filter(|_| rng.f64() < 0.3) {
            let (inbound, ms) = (rng.bool(), rng.u64(1..2 * timeout));
            let who = Who::Node(to);
            let fault = Fault::Isolate { who, inbound, outbound: !inbound || rng.bool(), ms };
            faults.push(Timed { at_ms: at_ms + rng.u64(..timeout / 10), fault });
        }
    }
    faults
}

/// Members that come and go, a few of them again and again, and things that happen to whom it concerns.
fn change_members(rng: &mut Rng, settings: &mut Settings) -> Vec<Timed> {
    let timeout = settings.election_timeout_ms;
    settings.chaos_ms = settings.chaos_ms.max(rng.u64(20..60) * timeout);
    let mut faults = Vec::new();
    // Most is about one shard: so changes meet each other.
    let favourite = rng.u32(..settings.shards);
    let steady = rng.f64() < 0.5;
    for _ in 0..log_uniform(rng, 1, 40) {
        let at_ms = rng.u64(..settings.chaos_ms);
        let shard = if rng.f64() < 0.7 { favourite } else { rng.u32(..settings.shards) };
        let node = rng.u32(..settings.nodes);
        let one = Bits(1 << node);
        let how = one_of(rng, &[How::Auto, How::Auto, How::Auto, How::Joint, How::UntilLeft]);
        let (none, mut some) = (Bits(0), || Bits(rng.u32(..1 << settings.nodes)));
        let (a, b, c) = (some(), some(), some());
        let members = |voters, learners, removed| {
            let how = if voters == none && removed == none { How::Auto } else { how };
            Fault::ChangeMembers { shard, voters, learners, removed, how }
        };
        let fault = match rng.u8(..if steady { 20 } else { 14 }) {
            0..=2 => members(none, one, none),
            3..=5 => members(one, none, none),
            6..=8 => members(none, none, one),
            9 => members(Bits(a.0 & b.0), none, Bits(c.0 & !(a.0 & b.0))),
            10 => members(none, Bits(a.0 & b.0), Bits(c.0 & !(a.0 & b.0))),
            11..=12 => Fault::LeaveJoint { shard },
            _ => {
                let voters = if a == none { one } else { a };
                Fault::ReplaceVoters { shard, voters, ms: rng.u64(timeout..20 * timeout) }
            }
        };
        faults.push(Timed { at_ms, fault });
        if rng.f64() < 0.2 {
            // The leader makes the change alone, and another one knows nothing of it.
            let (who, ms) = (Who::LeaderOf(shard), rng.u64(timeout..5 * timeout));
            let fault = Fault::Isolate { who, inbound: true, outbound: true, ms };
            faults.push(Timed { at_ms: at_ms.saturating_sub(rng.u64(..2)), fault });
        } else if rng.f64() < 0.25 {
            let who = one_of(rng, &[Who::Node(node), Who::LeaderOf(shard), Who::LeaderOf(shard)]);
            let fault = disturb(rng, who, shard, timeout);
            faults.push(Timed { at_ms: at_ms + log_uniform(rng, 1, 3 * timeout), fault });
        }
    }
    faults
}

/// What may go wrong while members change.
fn disturb(rng: &mut Rng, who: Who, shard: u32, timeout: u64) -> Fault {
    let (ms, inbound) = (log_uniform(rng, 1, 4 * timeout), rng.bool());
    match rng.u8(..8) {
        0 => Fault::Crash { who, down_ms: ms },
        1 => Fault::PowerCut { who, down_ms: ms, mid_write: rng.bool() },
        2 => Fault::Isolate { who, inbound, outbound: !inbound || rng.bool(), ms },
        3 => Fault::Pause { who, ms },
        4 => Fault::Wipe { who, down_ms: ms },
        5 => Fault::Transfer { who: Who::LeaderOf(shard), shard, to: None },
        6 => Fault::AskSnapshot { who, shard },
        _ => Fault::DiskStall { who, ms },
    }
}

fn draw_fault(rng: &mut Rng, settings: &Settings, kind: u32) -> Fault {
    let who = draw_who(rng, settings);
    // From much shorter than an election to several of them.
    let ms = log_uniform(rng, 5, 6 * settings.election_timeout_ms);
    let down_ms = log_uniform(rng, 1, 4 * settings.election_timeout_ms);
    let (from, to) = (rng.u32(..settings.nodes), rng.u32(..settings.nodes));
    match kind {
        0 | 1 => Fault::Crash { who, down_ms },
        2 | 3 => Fault::PowerCut { who, down_ms, mid_write: rng.f64() < 0.7 },
        4 => Fault::PowerCutAll { down_ms },
        5 => one_of(rng, &[Fault::Stop { who, down_ms }, Fault::Pause { who, ms }]),
        6 => Fault::Pause { who, ms },
        7 => Fault::Partition { side: rng.u32(..1 << settings.nodes), one_way: rng.bool(), ms },
        8 => {
            let inbound = rng.bool();
            Fault::Isolate { who, inbound, outbound: !inbound || rng.bool(), ms }
        }
        9 => {
            let slow = [Fault::Clog { from, to, ms }, Fault::SlowReader { from, to, ms }];
            one_of(rng, &[Fault::Block { from, to, ms }, slow[0], slow[1]])
        }
        10 => Fault::Reset { a: from, b: to },
        11 => Fault::DiskStall { who, ms },
        12 => {
            let op = one_of(rng, &[DiskOp::Write, DiskOp::Sync, DiskOp::Names]);
            Fault::DiskError { who, op, sticky: rng.f64() < 0.3 }
        }
        13 => Fault::DiskFull { who, ms },
        14 => match rng.u32(..12) {
            0 => Fault::Wipe { who, down_ms },
            1..4 => Fault::Damage { who, what: Damage::Rot },
            4..6 => Fault::Damage { who, what: Damage::Misdirected },
            6..8 => Fault::Damage { who, what: Damage::LostWrite },
            8..10 => Fault::Damage { who, what: Damage::Stale },
            10 => Fault::Damage { who, what: Damage::Lying },
            _ => Fault::Damage { who, what: Damage::Unreadable },
        },
        16 => Fault::Wipe { who, down_ms },
        17 => Fault::AskSnapshot { who, shard: rng.u32(..settings.shards) },
        _ => {
            let hours = rng.i64(-2..=2);
            let jump_ms = if rng.bool() { hours * 3_600_000 } else { rng.i64(-5000..5000) };
            let ppm = one_of(rng, &[-100_000, -500, 500, 100_000]);
            one_of(rng, &[Fault::WallClock { who, jump_ms }, Fault::ClockRate { who, ppm }])
        }
    }
}

fn draw_who(rng: &mut Rng, settings: &Settings) -> Who {
    match rng.u8(..10) {
        0..4 => Who::Node(rng.u32(..settings.nodes)),
        4..8 => Who::LeaderOf(rng.u32(..settings.shards)),
        _ => Who::BehindIn(rng.u32(..settings.shards)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn plans_are_the_same_for_the_same_seed_and_survive_being_written_down() {
        for seed in 0..200 {
            let plan = Plan::draw(seed);
            assert_eq!(plan, Plan::draw(seed));
            let text = toml::to_string(&plan).unwrap();
            assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan, "{text}");
        }
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            names.extend(Plan::draw(seed).faults.iter().map(|timed| timed.fault.name()));
        }
        assert_eq!(names.len(), 30, "{names:?}");
    }
}
