//! What may never happen, checked after every event of a simulated cluster.
//!
//! A [`Checker`] knows the whole cluster: it is shown every core after each of its turns, every frame
//! when it is sent, what each disk holds durably, and what every state machine applies. It keeps, for
//! each shard, everything that was ever committed and every leader there ever was, and compares only what
//! is new with it. Logs are compared as chains of hashes: one comparison for all entries up to an index.
//!
//! | fed by | with | checked |
//! |---|---|---|
//! | [`Checker::after_turn`] | a core after a turn | leaders, logs, cursors, commits, windows, queues |
//! | [`Checker::sent`] | a frame when it is sent | that no vote or acknowledgement comes before its durability |
//! | [`DurableView`] | the durable bytes of a disk | hard states and logs as a power cut would leave them |
//! | [`Checker::applied`] | an entry and its reply | that all replicas apply the same, in order |
//! | [`Checker::hook_called`] | a call of a hook | that it is the leader's, and not too early |
//! | [`Checker::digest`] | the state of a replica | that equal logs give equal states |
//! | [`Checker::started`], [`Checker::stopped`], [`Checker::wiped`], [`Checker::damaged`] | life and death | that a restart brings back what was durable |
//!
//! Every function returns the first [`Violation`] it finds. Nothing here panics, and the state after a
//! violation means nothing. [`Watch`] glues a checker to cores and state machines that can't return
//! anything, and keeps the violation.
//!
//! A disk that was wiped or damaged breaks promises by itself: its node is *excused* from then on. It
//! counts as having what it has promised, and its own promises are not compared with its disk.
//!
//! A replica may find that it is damaged, at its start or later, if its node is excused or its disks gave errors.
//! It begins anew then, as one whose disk was wiped; but its term and its vote stay, and what was applied.
//!
//! What clients see is another matter: [`history`].

mod chain;
mod contact;
mod durable;
mod frames;
pub mod history;
mod members;
mod replica;
mod shard;
mod violation;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use coracle_engine::core::{CoreView, Queues};
use coracle_engine::hook::HookCall;
use coracle_engine::limits::{FRAME_BYTES_MAX, LINK_RESERVE_BYTES, Limits, MEMORY_GROUP_BYTES_MAX};
use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::{HardState, Role, Standing};
use coracle_engine::{Apply, CoreId, LogIndex, NodeId, ShardId, Term};

pub use chain::{Chain, Link, hash_bytes, hash_entry};
pub use contact::Contact;
pub use durable::{Change, DurableLog, DurableShard, DurableView, History};
pub use members::decides;
pub use replica::{Replica, Windows};
pub use violation::{Checked, Invariant, Violation};
pub use watch::Watch;

use shard::ShardTruth;
use violation::fail;

/// Checks a cluster. See the [module](self).
#[derive(Debug)]
pub struct Checker {
    shards: Vec<ShardTruth>,
    /// Cores of each node.
    nodes: BTreeMap<NodeId, u16>,
    disks: BTreeMap<(NodeId, CoreId), DurableLog>,
    excused: BTreeSet<NodeId>,
    ever_excused: bool,
    /// Nodes whose disks have given errors: a replica may not come up then, until the node is started again.
    unsteady: BTreeSet<NodeId>,
    /// Nodes whose disks were replaced by empty ones.
    wiped: BTreeSet<NodeId>,
    /// Cores that were not within the budget of their disk since they were started: to open a log may make a segment.
    started: BTreeSet<(NodeId, CoreId)>,
    /// How often something was compared.
    looks: u64,
}

impl Checker {
    /// A checker of a cluster of `shards` shards on these nodes, each with its number of cores. All shards begin
    /// with the members of `initial`; the other nodes are to join.
    #[must_use]
    pub fn new(shards: u32, nodes: &[(NodeId, u16)], initial: &Configuration) -> Self {
        let joins = nodes.iter().map(|(node, _)| *node).filter(|node| !initial.is_member(*node));
        let truth = |_| ShardTruth::new(initial.clone(), joins.clone());
        Self {
            shards: (0..shards).map(truth).collect(),
            nodes: nodes.iter().copied().collect(),
            disks: BTreeMap::new(),
            excused: BTreeSet::new(),
            ever_excused: false,
            unsteady: BTreeSet::new(),
            wiped: BTreeSet::new(),
            started: BTreeSet::new(),
            looks: 0,
        }
    }

    /// How many replicas and frames were looked at.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Index of the last entry of a shard that was ever committed.
    #[must_use]
    pub fn committed(&self, shard: ShardId) -> LogIndex {
        self.truth(shard).map_or(LogIndex(0), |truth| truth.committed.last())
    }

    /// Who was ever seen to lead a shard.
    pub fn leaders(&self, shard: ShardId) -> impl Iterator<Item = (Term, NodeId)> {
        self.truth(shard).into_iter().flat_map(|truth| &truth.leaders).map(|(t, n)| (*t, *n))
    }

    /// Sets the disk of a core; to be done before the core starts for the first time.
    pub fn set_disk(
        &mut self,
        node: NodeId,
        core: CoreId,
        log_id: [u8; 16],
        view: Option<Box<dyn DurableView>>,
    ) {
        self.disks.insert((node, core), DurableLog::new(node, log_id, view));
    }

    /// The process of a node starts, with so many cores.
    pub fn started(&mut self, node: NodeId, cores: u16) {
        self.nodes.insert(node, cores);
        self.started.extend((0..cores).map(|core| (node, CoreId(core))));
        self.stopped(node);
    }

    /// The process of a node has ended, one way or the other.
    pub fn stopped(&mut self, node: NodeId) {
        for truth in &mut self.shards {
            truth.mirrors.remove(&node);
        }
    }

    /// The disks of a node were replaced by empty ones. Until its replicas are members again, they count as
    /// having what they had promised; what they promise from now on is checked.
    pub fn wiped(&mut self, node: NodeId) {
        self.wiped.insert(node);
        self.excused.remove(&node);
        self.stopped(node);
        for truth in &mut self.shards {
            truth.lost.insert(node, truth.committed.last());
        }
        for (_, disk) in self.disks.iter_mut().filter(|((owner, _), _)| *owner == node) {
            disk.reset();
        }
    }

    /// The disks of a node give errors, for a while; what they hold is as it should be.
    pub fn disk_error(&mut self, node: NodeId) {
        self.unsteady.insert(node);
    }

    /// Durable bytes of a node were damaged or lost by its disks.
    pub fn damaged(&mut self, node: NodeId) {
        self.ever_excused = true;
        self.excused.insert(node);
    }

    /// A core after a turn. The first time after [`Checker::started`], a core that has just recovered.
    ///
    /// # Errors
    /// The first violation found.
    pub fn after_turn(&mut self, core: &CoreView<'_>) -> Checked {
        self.check_queues(core)?;
        check_memory(core).map_err(|violation| Box::new(violation.node(core.node)))?;
        self.check_disk(core).map_err(|violation| Box::new(violation.node(core.node)))?;
        // A node whose disk has lost what it promised may well contradict itself.
        if core.faults > 0 && !self.ever_excused {
            let seen = format!("{} contradictions", core.faults);
            let violation = Violation::new(Invariant::Contradiction, "none", seen);
            return fail(violation.node(core.node));
        }
        self.catch_up(core.node, core.core)?;
        let lost = core.lost.iter().map(|(shard, reason)| (*shard, reason.as_str()));
        let halted = core.shards().filter_map(|shard| Some((shard.id(), shard.halted()?)));
        if let Some((shard, reason)) = lost.chain(halted).next()
            && !self.excused.contains(&core.node)
            && !self.unsteady.contains(&core.node)
        {
            let expected = "a replica whose disk was not damaged to take part";
            let violation = Violation::new(Invariant::TakesPart, expected, reason);
            return fail(violation.on(core.node, shard));
        }
        for replica in core.touched().filter(|replica| replica.halted().is_none()) {
            self.replica(core.node, &replica, core.failed)?;
        }
        Ok(())
    }

    /// One replica after a turn; `failed` if its core's log has failed.
    ///
    /// # Errors
    /// The first violation found.
    pub fn replica(&mut self, node: NodeId, replica: &impl Replica, failed: bool) -> Checked {
        self.looks += 1;
        let id = replica.id();
        self.look(node, replica, failed).map_err(|violation| Box::new(violation.on_if(node, id)))
    }

    fn look(&mut self, node: NodeId, replica: &impl Replica, failed: bool) -> Checked {
        let id = replica.id();
        let Some(truth) = self.shards.get_mut(id.0 as usize) else { return Ok(()) };
        let first = !truth.mirrors.contains_key(&node);
        // Disks that gave errors may have kept a replica from reading what it has.
        let explained = self.excused.contains(&node) || self.unsteady.contains(&node);
        if !explained && truth.is_newly_damaged(node, replica) {
            let expected = "a replica whose disk was not damaged to find what it has stored";
            let seen = "it takes itself for damaged";
            return fail(Violation::new(Invariant::TakesPart, expected, seen));
        }
        let committed = truth.look(node, replica)?;
        if first {
            self.check_recovery(node, replica)?;
        }
        if let Some(term) = committed {
            let commit = replica.hard_state().commit;
            self.check_quorum(node, replica, commit)?;
            if let Some(truth) = self.shards.get_mut(id.0 as usize) {
                truth.extend(node, term, commit)?;
            }
        }
        if let Some(truth) = self.shards.get_mut(id.0 as usize) {
            truth.check_changes(node)?;
            truth.check_applied(node, id)?;
        }
        if replica.role() == Role::Leader {
            self.check_matched(node, replica)?;
            if let Some(truth) = self.shards.get_mut(id.0 as usize) {
                truth.check_rounds(node, replica)?;
                truth.remember_round(node, replica);
            }
        }
        // A core whose log has failed promises nothing any more.
        if failed { Ok(()) } else { self.check_durable(node, replica) }
    }

    /// A state machine has applied an entry; called before the turn is over.
    ///
    /// # Errors
    /// The first violation found.
    pub fn applied(&mut self, node: NodeId, entry: &Apply<'_>, reply: &[u8]) -> Checked {
        let Some(truth) = self.shards.get_mut(entry.shard.0 as usize) else { return Ok(()) };
        let hash = hash_entry(coracle_engine::raft::EntryKind::Normal, entry.payload);
        let place = (node, entry.index, entry.term);
        truth
            .note_applied(place, hash, hash_bytes(reply))
            .map_err(|violation| Box::new(violation.on(node, entry.shard)))
    }

    /// The hook of a state machine is called.
    ///
    /// # Errors
    /// A violation unless the replica leads, and has applied something of its own term.
    pub fn hook_called(&mut self, node: NodeId, call: &HookCall) -> Checked {
        let Some(truth) = self.truth(call.shard) else { return Ok(()) };
        let mirror = truth.mirrors.get(&node);
        let leads = self.is_leading(node, call.shard, call.term);
        let applied = mirror.and_then(|mirror| mirror.log.at(mirror.applied));
        let seen = match (leads, applied) {
            (true, Some(link)) if link.term == call.term => return Ok(()),
            (true, _) => "it has not applied the first entry of its term",
            (false, _) => "it does not lead",
        };
        let expected = "a replica that leads, with everything of earlier terms applied";
        let violation = Violation::new(Invariant::HookCalled, expected, seen);
        fail(violation.on(node, call.shard).term(call.term))
    }

    /// The state of a replica, as a hash of all of it, after it has applied everything up to `applied`.
    ///
    /// # Errors
    /// A violation if another replica had another state then.
    pub fn digest(
        &mut self,
        node: NodeId,
        shard: ShardId,
        applied: LogIndex,
        digest: u64,
    ) -> Checked {
        let Some(truth) = self.shards.get_mut(shard.0 as usize) else { return Ok(()) };
        truth
            .note_digest(node, applied, digest)
            .map_err(|violation| Box::new(violation.on(node, shard)))
    }

    /// A node has told that it has a snapshot that goes up to `index` at least.
    ///
    /// # Errors
    /// A violation if it is not on its disk.
    pub fn snapshot_told(&mut self, node: NodeId, shard: ShardId, index: LogIndex) -> Checked {
        let Some(disk) = self.on_disk(node, shard)? else { return Ok(()) };
        let newest = disk.snapshot.map_or(LogIndex(0), |(newest, _)| newest);
        if newest >= index {
            return Ok(());
        }
        let (expected, seen) =
            (format!("a snapshot at {index} on disk"), format!("one at {newest}"));
        fail(Violation::new(Invariant::DurableSnapshot, expected, seen).on(node, shard))
    }

    /// A state machine was given a snapshot and has this state now.
    ///
    /// # Errors
    /// A violation if no replica ever had this state.
    pub fn restored(&mut self, node: NodeId, shard: ShardId, digest: u64) -> Checked {
        let Some(truth) = self.truth(shard) else { return Ok(()) };
        truth.check_restored(digest).map_err(|violation| Box::new(violation.on(node, shard)))
    }

    /// The state of a replica that is about to apply `next` after it was given a snapshot.
    ///
    /// # Errors
    /// A violation if another replica had another state then.
    pub fn digest_before(
        &mut self,
        node: NodeId,
        shard: ShardId,
        next: LogIndex,
        digest: u64,
    ) -> Checked {
        let Some(truth) = self.truth(shard) else { return Ok(()) };
        let applied = truth.applied_before(next);
        self.digest(node, shard, applied, digest)
    }

    fn truth(&self, shard: ShardId) -> Option<&ShardTruth> {
        self.shards.get(shard.0 as usize)
    }

    /// Where a node keeps a shard.
    fn place(&self, node: NodeId, shard: ShardId) -> Option<(NodeId, CoreId)> {
        let cores = *self.nodes.get(&node)?;
        let shards = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        (shard.0 < shards && cores > 0).then(|| (node, CoreId::hosting(shard, shards, cores)))
    }

    fn catch_up(&mut self, node: NodeId, core: CoreId) -> Checked {
        if self.excused.contains(&node) {
            return Ok(());
        }
        let shards = &self.shards;
        let history = |shard: ShardId, index: LogIndex, term: Term| {
            let none = Chain::default();
            let committed = shards.get(shard.0 as usize).map_or(&none, |truth| &truth.committed);
            replica::history(committed, index, term)
        };
        self.disks.get_mut(&(node, core)).map_or(Ok(()), |disk| disk.catch_up(&history))
    }

    /// What a node has of a shard on disk now. `None` for a node that is excused, or has no disk here.
    fn on_disk(&mut self, node: NodeId, shard: ShardId) -> Checked<Option<&DurableShard>> {
        let Some(place) = self.place(node, shard) else { return Ok(None) };
        self.catch_up(node, place.1)?;
        if self.excused.contains(&node) {
            return Ok(None);
        }
        let Some(disk) = self.disks.get_mut(&place) else { return Ok(None) };
        Ok(Some(disk.shard_mut(shard)))
    }

    /// The same for what others rest on: a replica that has lost its data, or has given it up because it was
    /// damaged, counts as having what it had until it is a member again.
    fn on_disk_of_member(
        &mut self,
        node: NodeId,
        shard: ShardId,
    ) -> Checked<Option<&DurableShard>> {
        let wiped = self.wiped.contains(&node);
        Ok(self
            .on_disk(node, shard)?
            .filter(|disk| !(wiped || disk.is_returning()) || disk.is_member()))
    }

    /// Whether all replicas of a node were seen since its process began.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.shards.iter().all(|truth| truth.mirrors.contains_key(&node))
    }

    /// Whether a node has it on disk that it votes and counts in a shard.
    #[must_use]
    pub fn is_settled(&self, node: NodeId, shard: ShardId) -> bool {
        let mirror = self.truth(shard).and_then(|truth| truth.mirrors.get(&node));
        // It may know that it is damaged, and its disk not yet.
        let returns = mirror.is_some_and(|mirror| mirror.state.standing != Standing::Member);
        !returns && self.stored(node, shard).is_some_and(DurableShard::is_member)
    }

    /// Whether a node has something of every shard on its present disk, so that it would not found a cluster.
    #[must_use]
    pub fn has_stored_all(&self, node: NodeId) -> bool {
        let shards = (0..self.shards.len() as u32).map(ShardId);
        shards.into_iter().all(|id| self.stored(node, id).is_some_and(DurableShard::is_written))
    }

    fn stored(&self, node: NodeId, shard: ShardId) -> Option<&DurableShard> {
        self.disks.get(&self.place(node, shard)?)?.shard(shard)
    }

    /// The newest configuration of a shard that was ever committed.
    #[must_use]
    pub fn configuration(&self, shard: ShardId) -> Configuration {
        self.truth(shard).map_or_else(Configuration::default, |t| t.members.committed().clone())
    }

    /// That, and all those of which nobody can know whether they will be committed.
    #[must_use]
    pub fn possible_configurations(&self, shard: ShardId) -> Vec<Configuration> {
        self.truth(shard)
            .map_or_else(Vec::new, |truth| truth.members.possible(truth.committed.last()))
    }

    /// A replica that has just started: its state is that of its disk.
    fn check_recovery(&mut self, node: NodeId, replica: &impl Replica) -> Checked {
        let id = replica.id();
        let log = match self.truth(id).and_then(|truth| truth.mirrors.get(&node)) {
            Some(mirror) => mirror.log.clone(),
            None => return Ok(()),
        };
        let state = replica.hard_state();
        let Some(disk) = self.on_disk(node, id)? else { return Ok(()) };
        let stored = disk.recovered();
        if replica.is_damaged() {
            return check_promised(stored, state);
        }
        if stored != state {
            let (expected, seen) = (format!("{stored:?}, as on disk"), format!("{state:?}"));
            return fail(Violation::new(Invariant::Recovery, expected, seen).term(state.term));
        }
        let disk = disk.log();
        let last = disk.last().max(log.last());
        if disk.agrees(&log, last) {
            return Ok(());
        }
        let shorter = disk.last().min(log.last()).next();
        let at = disk.difference(&log).unwrap_or(shorter);
        let expected = format!("{}, as on disk", disk.describe(at));
        let violation = Violation::new(Invariant::Recovery, expected, log.describe(at));
        fail(violation.term(state.term).index(at))
    }

    /// What a leader takes for acknowledged is on the follower's disk, unless that has moved on to
    /// another term.
    fn check_matched(&mut self, node: NodeId, replica: &impl Replica) -> Checked {
        let (id, term) = (replica.id(), replica.hard_state().term);
        for follower in replica.followers() {
            let Some(truth) = self.shards.get_mut(id.0 as usize) else { return Ok(()) };
            let now = (term, follower.matched);
            if truth.matched.insert((node, follower.id), now) == Some(now) {
                continue;
            }
            let acknowledged = truth.acknowledged.get(&(node, follower.id)).copied();
            if follower.matched > LogIndex(0) && acknowledged < Some(now) {
                let expected = format!("an acknowledgement of node {} in this term", follower.id);
                let seen = acknowledged.map_or_else(
                    || "none".to_owned(),
                    |(term, index)| format!("one up to {index} in term {term}"),
                );
                let violation = Violation::new(Invariant::Matched, expected, seen);
                return fail(violation.term(term).index(follower.matched));
            }
            let Some(wanted) = self.link(node, id, follower.matched) else { continue };
            let Some(disk) = self.on_disk_of_member(follower.id, id)? else { continue };
            let same = disk.has(follower.matched, wanted);
            if same || disk.hard_state.term > term {
                continue;
            }
            let expected =
                format!("the leader's log up to here on the disk of node {}", follower.id);
            let seen = disk.log().describe(follower.matched);
            let violation = Violation::new(Invariant::Matched, expected, seen);
            return fail(violation.term(term).index(follower.matched));
        }
        Ok(())
    }

    /// What a leader commits is on the disks of a majority.
    fn check_quorum(&mut self, node: NodeId, replica: &impl Replica, commit: LogIndex) -> Checked {
        let id = replica.id();
        let Some(wanted) = self.link(node, id, commit) else { return Ok(()) };
        let mirror = self.truth(id).and_then(|truth| truth.mirrors.get(&node));
        let configurations = mirror.map_or_else(Vec::new, |mirror| mirror.configurations.clone());
        let voters: BTreeSet<NodeId> =
            configurations.iter().flat_map(|own| own.voters().iter().collect::<Vec<_>>()).collect();
        let (mut have, mut lacking) = (BTreeSet::new(), Vec::new());
        for voter in voters {
            match self.on_disk_of_member(voter, id)? {
                Some(disk) if disk.log().at(commit).is_none_or(|link| link.chain != wanted) => {
                    lacking.push(format!("node {voter} has {}", disk.log().describe(commit)));
                }
                // It has the entry, or nobody knows what it has promised.
                _ => drop(have.insert(voter)),
            }
        }
        if configurations.iter().any(|own| decides(own, |voter| have.contains(&voter))) {
            return Ok(());
        }
        let all: Vec<String> = configurations.iter().map(Configuration::to_string).collect();
        let expected = format!("the entry on the disks of a quorum of {}", all.join(" or "));
        let seen = format!("it is on those of {have:?}; {}", lacking.join(", "));
        let violation = Violation::new(Invariant::CommitQuorum, expected, seen);
        fail(violation.term(replica.hard_state().term).index(commit))
    }

    /// What a replica takes for durable is on its disk.
    fn check_durable(&mut self, node: NodeId, replica: &impl Replica) -> Checked {
        let (id, durable, term) = (replica.id(), replica.durable(), replica.durable_term());
        let Some(wanted) = self.link(node, id, durable) else { return Ok(()) };
        let Some(disk) = self.on_disk(node, id)? else { return Ok(()) };
        if !disk.has(durable, wanted) {
            let expected = "the log up to here on disk";
            let seen = disk.log().describe(durable);
            let violation = Violation::new(Invariant::DurableCursor, expected, seen);
            return fail(violation.term(replica.hard_state().term).index(durable));
        }
        if disk.hard_state.term < term {
            let expected = format!("term {term} on disk");
            let seen = format!("term {}", disk.hard_state.term);
            return fail(Violation::new(Invariant::DurableCursor, expected, seen).term(term));
        }
        Ok(())
    }

    /// The link of a replica's log at `index`.
    fn link(&self, node: NodeId, shard: ShardId, index: LogIndex) -> Option<u64> {
        let mirror = self.truth(shard)?.mirrors.get(&node)?;
        mirror.log.at(index).map(|link| link.chain)
    }

    /// Whether a node leads a term of a shard, as far as was seen.
    fn leads(&self, node: NodeId, shard: ShardId, term: Term) -> bool {
        self.truth(shard).is_some_and(|truth| truth.leaders.get(&term) == Some(&node))
    }

    /// Whether a node leads a shard in this term now, as far as was seen.
    fn is_leading(&self, node: NodeId, shard: ShardId, term: Term) -> bool {
        let mirror = self.truth(shard).and_then(|truth| truth.mirrors.get(&node));
        mirror.is_some_and(|mirror| mirror.role == Role::Leader && mirror.state.term == term)
    }

    /// Log and snapshots together keep to the budget of the disk.
    fn check_disk(&mut self, core: &CoreView<'_>) -> Checked {
        let (bytes, budget) = core.disk;
        let place = (core.node, core.core);
        if budget == 0 || bytes <= budget {
            self.started.remove(&place);
        } else if !self.started.contains(&place) {
            let expected = format!("at most {budget}");
            let seen = format!("{bytes} bytes on the disk of core {}", core.core);
            return fail(Violation::new(Invariant::Limits, expected, seen));
        }
        Ok(())
    }

    fn check_queues(&self, core: &CoreView<'_>) -> Checked {
        let over = |violation: Box<Violation>| Box::new(violation.node(core.node));
        check_bounds(&core.queues, core.limits, core.shards().count()).map_err(over)?;
        for shard in core.touched() {
            let (queries, most) = (shard.queries(), core.limits.queries_per_shard_max);
            if queries > most {
                let seen = format!("{queries} queries wait");
                let violation = Violation::new(Invariant::Limits, format!("at most {most}"), seen);
                return fail(violation.on(core.node, shard.id()));
            }
        }
        Ok(())
    }

    /// Whether some replica of a shard leads now.
    #[must_use]
    pub fn has_leader(&self, shard: ShardId) -> bool {
        self.truth(shard).is_some_and(|t| t.mirrors.values().any(|m| m.role == Role::Leader))
    }
}

/// A replica that was found damaged gives up all but its term and vote. It may be in a later term, that of
/// its snapshot.
fn check_promised(stored: HardState, state: HardState) -> Checked {
    let kept = (stored.term, stored.vote) == (state.term, state.vote);
    if kept || stored.term < state.term {
        return Ok(());
    }
    let expected = format!("term {} and vote {:?}, as on disk", stored.term, stored.vote);
    let seen = format!("term {} and vote {:?}", state.term, state.vote);
    fail(Violation::new(Invariant::Recovery, expected, seen).term(state.term))
}

/// Entries in memory are those that count for the budget, and those that are not durable or that a leader
/// has not committed. What counts keeps to the budget, but for what is not durable: it goes by groups.
fn check_memory(core: &CoreView<'_>) -> Checked {
    let (counted, budget) = core.memory;
    let held = core.shards().map(|shard| shard.raft().log().memory_bytes() as u64).sum::<u64>();
    if held.max(counted) <= budget || core.failed {
        return Ok(());
    }
    let needed = |shard: coracle_engine::core::ShardView<'_>| {
        let (raft, log) = (shard.raft(), shard.raft().log());
        let leads = raft.role() == Role::Leader;
        let settled = if leads { log.durable().min(log.committed()) } else { log.durable() };
        let rest = log.range(settled.next().max(log.first_in_memory()), log.last_index());
        rest.map(|entry| entry.cost() as u64).sum::<u64>()
    };
    let needed = core.shards().map(needed).sum::<u64>();
    let over = |what: &str, bytes: u64, most: u64| {
        let seen = format!("{bytes} bytes of entries {what}");
        fail(Violation::new(Invariant::Limits, format!("at most {most}"), seen))
    };
    if held > counted + needed {
        return over("in memory", held, counted + needed);
    }
    let most = budget + needed + MEMORY_GROUP_BYTES_MAX;
    if counted > most { over("counted", counted, most) } else { Ok(()) }
}

/// Compares what waits in a core of so many shards with its limits.
fn check_bounds(queues: &Queues, limits: &Limits, shards: usize) -> Checked {
    let bounds = [
        ("requests", queues.requests, limits.requests_per_core_max),
        ("bytes of requests", queues.request_bytes, limits.request_bytes_per_core_max),
        ("messages", queues.frames, limits.frames_queued_max),
        ("bytes of messages", queues.frame_bytes, limits.frame_bytes_queued_max + FRAME_BYTES_MAX),
        // The message that fills a buffer still goes in, and then those without entries.
        (
            "bytes of a link",
            queues.link_bytes_max,
            limits.link_buffer_bytes_max + LINK_RESERVE_BYTES + FRAME_BYTES_MAX,
        ),
        // What the shards of one turn give after the limit was reached has to wait, too; and what the end of a snapshot
        // gives, one of each shard: that may be what makes room in the log.
        ("refused groups", queues.groups_refused, limits.groups_refused_max + 2 * shards),
    ];
    match bounds.into_iter().find(|(_, value, most)| value > most) {
        None => Ok(()),
        Some((name, value, most)) => {
            let seen = format!("{value} {name} wait in a core");
            fail(Violation::new(Invariant::Limits, format!("at most {most}"), seen))
        }
    }
}
