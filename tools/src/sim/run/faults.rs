//! What faults do to a cluster, and which damage it can bear.

use std::time::Duration;

use coracle_engine::raft::membership::Reconfiguration;
use coracle_engine::{NodeId, ShardId};

use super::churn::change;
use super::{Driver, Due, host};
use crate::sim::cluster::{CLIENTS, Health};
use crate::sim::disk::{DiskError, OpKind, SimDisk};
use crate::sim::plan::{Damage, DiskOp, Fault, Who};
use crate::sim::workload::Workload;

impl<W: Workload> Driver<W> {
    /// The node that a fault hits, unless it takes no part any more.
    fn victim(&self, who: Who) -> Option<usize> {
        let lost = |at: &usize| matches!(self.cluster.borrow().health(*at), Health::Lost(_));
        self.place_of(who).filter(|at| !lost(at))
    }

    fn place_of(&self, who: Who) -> Option<usize> {
        let cluster = self.cluster.borrow();
        Some(match who {
            Who::Node(at) => at as usize % cluster.len(),
            Who::LeaderOf(shard) => cluster.leader_of(ShardId(shard))?,
            Who::BehindIn(shard) => cluster.place(self.checks.behind_in(ShardId(shard))?),
        })
    }

    fn ask_for_snapshot(&self, who: Who, shard: ShardId) -> bool {
        let Some(at) = self.victim(who) else { return false };
        let Some(handle) = self.cluster.borrow().handle_of(at, shard) else { return false };
        let asked = handle.snapshot(shard);
        let (world, checks, node) =
            (self.world.clone(), self.checks.clone(), NodeId(at as u64 + 1));
        let (cluster, incarnation) = (self.cluster.clone(), self.cluster.borrow().incarnation(at));
        self.world.spawn(CLIENTS, async move {
            let answer = asked.await;
            world.story(|| {
                format!("node {node} answers for a snapshot of shard {shard}: {answer:?}")
            });
            if let Ok(index) = answer
                && cluster.borrow().incarnation(at) == incarnation
                && *cluster.borrow().health(at) == Health::Up
            {
                checks.snapshot_told(node, shard, index);
            }
        });
        true
    }

    fn ask_for_transfer(&self, who: Who, shard: ShardId, to: Option<u32>) -> bool {
        let Some(at) = self.victim(who) else { return false };
        let Some(handle) = self.cluster.borrow().handle_of(at, shard) else { return false };
        let to = to.map(|to| NodeId(u64::from(to) % self.nodes() as u64 + 1));
        let asked = handle.transfer_leadership(shard, to);
        let (world, node) = (self.world.clone(), at + 1);
        self.world.spawn(CLIENTS, async move {
            let answer = asked.await;
            world.story(|| format!("node {node} hands over shard {shard} to {to:?}: {answer:?}"));
        });
        true
    }

    pub(super) fn inflict(&mut self, fault: Fault) {
        let millis = Duration::from_millis;
        if !self.do_inflict(fault, millis) {
            return;
        }
        self.world.count(fault.name());
        self.world.trace(0xfa01, fault.name().len() as u64);
    }

    /// Whether it could be done.
    fn do_inflict(&mut self, fault: Fault, millis: fn(u64) -> Duration) -> bool {
        match fault {
            Fault::Crash { who, down_ms } => self.crash(who, false, millis(down_ms)),
            Fault::PowerCut { who, down_ms, mid_write: false } => {
                self.crash(who, true, millis(down_ms))
            }
            Fault::PowerCut { who, down_ms, mid_write: true } => {
                let Some(at) = self.victim(who) else { return false };
                self.cuts.push((at, millis(down_ms)));
                true
            }
            Fault::PowerCutAll { down_ms } => {
                for at in 0..self.nodes() {
                    let spread = self.rng.u64(..=down_ms / 2);
                    self.crash(Who::Node(at as u32), true, millis(down_ms + spread));
                }
                true
            }
            Fault::Stop { who, down_ms } => self.stop(who, down_ms, false),
            Fault::Pause { who, ms } => {
                let Some(at) = self.victim(who) else { return false };
                self.cluster.borrow_mut().pause(at);
                self.schedule(millis(ms), Due::Resume(at));
                true
            }
            Fault::Wipe { who, down_ms } => {
                let Some(at) = self.place_of(who).filter(|at| self.may_damage(*at)) else {
                    return false;
                };
                if !self.cluster.borrow().may_wipe(at) {
                    return false;
                }
                self.cluster.borrow_mut().wipe(at);
                self.schedule(millis(down_ms), Due::Restart(at));
                true
            }
            Fault::ChangeMembers { shard, voters, learners, removed, how } => {
                let change = change(self.settings.nodes, voters, learners, removed, how);
                self.operators.ask_once(ShardId(shard), change)
            }
            Fault::LeaveJoint { shard } => {
                self.operators.ask_once(ShardId(shard), Reconfiguration::Leave)
            }
            Fault::ReplaceVoters { shard, voters, ms } => {
                self.operators.work_towards(ShardId(shard), voters, ms);
                true
            }
            Fault::Transfer { who, shard, to } => self.ask_for_transfer(who, ShardId(shard), to),
            Fault::Drain { who, down_ms } => self.stop(who, down_ms, true),
            Fault::AskSnapshot { who, shard } => self.ask_for_snapshot(who, ShardId(shard)),
            Fault::Damage { who, what } => self.damage(who, what),
            Fault::DiskStall { who, ms } => {
                let Some(at) = self.victim(who) else { return false };
                self.cluster.borrow().device(at).stall(millis(ms));
                true
            }
            Fault::DiskError { who, op, sticky } => self.disk_error(who, op, sticky),
            Fault::DiskFull { who, ms } => {
                let Some(at) = self.victim(who) else { return false };
                let cluster = self.cluster.borrow();
                let device = cluster.device(at);
                device.set_capacity(Some(device.used()));
                drop(cluster);
                self.schedule(millis(ms), Due::MakeRoom(at));
                true
            }
            Fault::WallClock { who, jump_ms } => {
                let Some(at) = self.victim(who) else { return false };
                self.cluster.borrow().clock(at).jump(jump_ms);
                true
            }
            Fault::ClockRate { who, ppm } => {
                let Some(at) = self.victim(who) else { return false };
                self.cluster.borrow().clock(at).set_rate(self.world.now(), ppm);
                true
            }
            Fault::Block { .. }
            | Fault::Partition { .. }
            | Fault::Isolate { .. }
            | Fault::Clog { .. }
            | Fault::SlowReader { .. }
            | Fault::Reset { .. } => self.disturb_network(fault, millis),
        }
    }

    fn disturb_network(&mut self, fault: Fault, millis: fn(u64) -> Duration) -> bool {
        match fault {
            Fault::Block { from, to, ms } => self.block(from as usize, to as usize, millis(ms)),
            Fault::Partition { side, one_way, ms } => {
                for from in 0..self.nodes() {
                    for to in 0..self.nodes() {
                        let (a, b) = (side >> from & 1 == 1, side >> to & 1 == 1);
                        if a && !b || !one_way && !a && b {
                            self.block(from, to, millis(ms));
                        }
                    }
                }
            }
            Fault::Isolate { who, inbound, outbound, ms } => {
                let Some(at) = self.victim(who) else { return false };
                for other in (0..self.nodes()).filter(|other| *other != at) {
                    if inbound {
                        self.block(other, at, millis(ms));
                    }
                    if outbound {
                        self.block(at, other, millis(ms));
                    }
                }
            }
            Fault::Clog { from, to, ms } => {
                self.net.clog(
                    host(from as usize),
                    host(to as usize),
                    self.rng.u32(10..1000).into(),
                );
                self.schedule(millis(ms), Due::Unclog(from as usize, to as usize));
            }
            Fault::SlowReader { from, to, ms } => {
                self.net.stall(host(from as usize), host(to as usize));
                self.schedule(millis(ms), Due::Unstall(from as usize, to as usize));
            }
            Fault::Reset { a, b } => self.net.reset(host(a as usize), host(b as usize)),
            _ => return false,
        }
        true
    }

    pub(super) fn stop(&mut self, who: Who, down_ms: u64, drain: bool) -> bool {
        let Some(at) = self.victim(who) else { return false };
        self.cluster.borrow_mut().stop(at, drain);
        let incarnation = self.cluster.borrow().incarnation(at);
        let force = 10 * self.settings.election_timeout();
        self.schedule(force, Due::StopByForce(at, incarnation));
        self.schedule(force / 2 + Duration::from_millis(down_ms), Due::Restart(at));
        true
    }

    pub(super) fn crash(&mut self, who: Who, power_cut: bool, down: Duration) -> bool {
        let Some(at) = self.victim(who) else { return false };
        self.cluster.borrow_mut().crash(at, power_cut);
        self.schedule(down, Due::Restart(at));
        true
    }

    /// A start whose syncs fail may find no snapshot that it can use, and then a replica is damaged: such an
    /// error goes away before, if this node can't be spared.
    pub(super) fn restart(&self, at: usize) {
        let fails = self.cluster.borrow().device(at).will_fail(OpKind::Sync);
        if fails && !self.may_damage(at) {
            self.cluster.borrow().device(at).heal();
        }
        self.cluster.borrow_mut().start(at);
    }

    fn block(&mut self, from: usize, to: usize, duration: Duration) {
        let holds = self.blocks.entry((from, to)).or_insert(0);
        *holds += 1;
        if *holds == 1 {
            self.net.block(host(from), host(to));
        }
        self.schedule(duration, Due::Unblock(from, to));
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        let Some(holds) = self.blocks.get_mut(&(from, to)) else { return };
        *holds -= 1;
        if *holds == 0 {
            self.blocks.remove(&(from, to));
            self.net.unblock(host(from), host(to));
        }
    }

    fn disk_error(&mut self, who: Who, op: DiskOp, sticky: bool) -> bool {
        let Some(at) = self.victim(who) else { return false };
        let starting = self.cluster.borrow().is_starting(at);
        if op == DiskOp::Sync && starting && !self.may_damage(at) {
            return false;
        }
        let mut cluster = self.cluster.borrow_mut();
        let kinds: &'static [OpKind] = match op {
            DiskOp::Write => &[OpKind::Write, OpKind::WriteDurable],
            DiskOp::Sync => &[OpKind::WriteDurable, OpKind::Sync],
            DiskOp::Names => &[OpKind::Create, OpKind::Rename, OpKind::Remove, OpKind::SyncDir],
        };
        cluster.device(at).fail(kinds, DiskError::Io, (!sticky).then_some(1));
        cluster.note_disk_error(at);
        self.checks.disk_error(NodeId(at as u64 + 1));
        drop(cluster);
        if sticky {
            // Until somebody has mended it.
            self.schedule(6 * self.settings.election_timeout(), Due::Mend(at));
        }
        true
    }

    /// Whether a sound quorum of every shard is left if this node is damaged. A replica that has lost its data
    /// is sound when it is a member again; so are those of a new cluster.
    fn may_damage(&self, at: usize) -> bool {
        let damaged = self.cluster.borrow().is_damaged(at);
        damaged || self.operators.can_spare(at, self.settings.shards)
    }

    fn damage(&mut self, who: Who, what: Damage) -> bool {
        let Some(at) = self.victim(who).filter(|at| self.may_damage(*at)) else { return false };
        let mut cluster = self.cluster.borrow_mut();
        let disks = cluster.disks(at);
        let disk = &disks[self.rng.usize(..disks.len())];
        let done = match what {
            Damage::LostWrite => {
                disk.lose_next_write();
                true
            }
            Damage::Misdirected => {
                disk.misdirect_next_write();
                true
            }
            Damage::Lying => {
                cluster.device(at).set_lying(true);
                true
            }
            Damage::Rot | Damage::Unreadable | Damage::Stale => match self.some_block(disk) {
                None => false,
                Some((file, block)) => match what {
                    Damage::Rot => disk.rot(file, block, self.rng.u32(..)),
                    Damage::Stale => disk.make_stale(file, block),
                    _ => disk.make_unreadable(file, block),
                },
            },
        };
        if done {
            cluster.note_damage(at, what == Damage::Lying);
            self.checks.damaged(NodeId(at as u64 + 1));
        }
        done
    }

    /// A block with durable content.
    fn some_block(&self, disk: &SimDisk) -> Option<(u32, u32)> {
        let files = disk.durable_files();
        let mut rng = self.world.rng_for(&format!("block at {:?}", self.world.now()));
        // Snapshots are small beside the log, and are to be hit as often.
        let snapshots = rng.bool();
        let blocks: Vec<(u32, u32)> = files
            .iter()
            .filter(|(name, ..)| name.starts_with("snap-") == snapshots)
            .flat_map(|(_, file, _)| disk.written_blocks(*file).into_iter().map(|b| (*file, b)))
            .collect();
        (!blocks.is_empty()).then(|| blocks[rng.usize(..blocks.len())])
    }
}
