//! Random clusters under faults, with the invariants of Raft checked at every step.
//!
//! One seed makes one run: cluster size, how often messages are lost, repeated and overtaken, how
//! slow disks and their reports are, crashes that lose what is not written, partitions, clocks of
//! different speed, how much of the logs is evicted and compacted, snapshots made and pulled at odd times,
//! leadership handed over at odd times, reads by lease with clocks that drift apart, disks that are lost (of fewer
//! nodes at a time than a majority can spare), members that come and go. Then all faults end, and the cluster
//! must elect, commit and agree. A failing seed
//! is run again with its story on standard error. `CORACLE_SEEDS=N` runs more of them,
//! `CORACLE_SEED=N` only this one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::membership::{Configuration, Reconfiguration};
use coracle_engine::raft::{
    Effects, Entry, Event, LeaseConfig, Message, Role, Standing, TransferOutcome,
};
use coracle_engine::{LogIndex, NodeId, Term};

use crate::cluster::{Cluster, Write};
use crate::render;

mod churn;

const STEPS_OF_CHAOS: usize = 10_000;
const ROUNDS_TO_HEAL: usize = 400;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// How bad this run is, in percent per occasion.
#[derive(Debug)]
struct Faults {
    loss: usize,
    repeat: usize,
    crash: usize,
    slow_disk: usize,
    late_report: usize,
    partition: usize,
    /// That a new leader crashes soon, often in the middle of spreading its first entries.
    short_reign: usize,
    /// That payloads leave memory, in percent of what may.
    evict: usize,
    /// That a snapshot is made, and that the log is compacted behind it.
    snapshot: usize,
    /// That a disk is lost with a crash.
    wipe: usize,
    /// Whether nodes without data ask whether the cluster is new.
    census: bool,
    /// That a leader is asked to change who belongs to the shard.
    churn: usize,
    /// Whether leaders may answer reads by lease. The clocks then keep to the bound.
    lease: bool,
    /// Not a chance: how far a clock moves at most between two ticks.
    tick_ms: usize,
}

/// How much faster than the slowest clock the fastest one may be.
const DRIFT_PPM: u32 = 200_000;

struct Run {
    cluster: Cluster,
    /// The time that has truly passed, where leases rest on it.
    time: Duration,
    random: Random,
    faults: Faults,
    /// Written to disk, not yet reported to the replica.
    reports: Vec<(NodeId, Write)>,
    /// Nodes of one side; messages to and from the other side are lost.
    side: Vec<NodeId>,
    /// While this holds, the clocks on that side stand still: it does not notice that it is alone.
    frozen: bool,
    /// Crashes after so many steps.
    doomed: Option<(NodeId, usize)>,
    /// Everything that any replica has ever taken for committed.
    committed: BTreeMap<LogIndex, Entry>,
    /// The highest index any leader has reported committed: what clients may know of.
    acknowledged: LogIndex,
    leaders: BTreeMap<Term, NodeId>,
    /// The highest acknowledged index when the read began.
    reads: BTreeMap<u64, LogIndex>,
    reads_answered: usize,
    /// The same of what any replica may ask, and may get lost.
    questions: BTreeMap<u64, LogIndex>,
    asked: usize,
    /// Those of them that were answered at once.
    leased: usize,
    /// Transfers of leadership that have not ended.
    transfers: BTreeSet<u64>,
    transferred: usize,
    wipes: usize,
    installed: usize,
    cold: usize,
    /// Changes of members that were accepted.
    changes: usize,
    /// Who votes at first.
    initial: Configuration,
    proposals: u64,
    story: Option<Vec<String>>,
    hash: DefaultHasher,
}

impl Run {
    fn new(seed: u64, with_story: bool) -> Self {
        let mut random = Random(seed);
        let size = [1, 2, 3, 3, 3, 4, 5, 5, 7][random.below(9)];
        let faults = Faults {
            loss: [0, 2, 10, 30][random.below(4)],
            repeat: [0, 5, 30][random.below(3)],
            crash: [0, 1, 3][random.below(3)],
            slow_disk: [0, 50, 90][random.below(3)],
            late_report: [0, 30, 80][random.below(3)],
            partition: [0, 1, 3][random.below(3)],
            short_reign: [0, 30, 80][random.below(3)],
            evict: [0, 5, 50][random.below(3)],
            snapshot: [0, 15, 90][random.below(3)],
            wipe: [0, 30, 70][random.below(3)],
            census: random.percent(40),
            churn: [0, 0, 20, 80][random.below(4)],
            lease: seed % 3 == 1,
            tick_ms: [8, 25, 60][random.below(3)],
        };
        let window = 1 + random.below(4);
        let window_bytes = [100, 1000, 1 << 20][random.below(3)];
        let fetch_bytes = [1, 1000, 1 << 20][random.below(3)];
        let spares = if faults.churn > 0 { 1 + random.below(3) as u64 } else { 0 };
        let cluster = Cluster::with_spares(size, spares, seed, |config| {
            config.fetch_bytes_max = fetch_bytes;
            config.lease = faults.lease.then_some(LeaseConfig { drift_ppm: DRIFT_PPM });
            config.blank = faults.census.then_some(0);
            config.election_timeout = Duration::from_millis(100);
            config.heartbeat_interval = Duration::from_millis(20);
            config.inflight_messages_max = window;
            config.inflight_bytes_max = window_bytes;
        });
        let story = with_story.then(|| vec![format!("seed {seed}: {size} nodes, {faults:?}")]);
        Self {
            cluster,
            time: Duration::ZERO,
            random,
            faults,
            reports: Vec::new(),
            side: Vec::new(),
            frozen: false,
            doomed: None,
            committed: BTreeMap::new(),
            acknowledged: LogIndex(0),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            reads_answered: 0,
            questions: BTreeMap::new(),
            asked: 0,
            leased: 0,
            transfers: BTreeSet::new(),
            transferred: 0,
            wipes: 0,
            installed: 0,
            cold: 0,
            changes: 0,
            initial: Configuration::of_voters((1..=size).map(NodeId)).unwrap(),
            proposals: 0,
            story,
            hash: DefaultHasher::new(),
        }
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let line = line();
            eprintln!("{line}");
            story.push(line);
        }
    }

    fn step(&mut self, id: NodeId, event: Event) {
        if self.cluster.raft(id).is_none() {
            return;
        }
        self.tell(|| format!("{id} <- {}", describe(&event)));
        let effects = std::mem::take(self.cluster.step_owned(id, event));
        let mut lines = Vec::new();
        render::effects(&effects, &mut lines);
        lines.hash(&mut self.hash);
        for line in lines {
            self.tell(|| format!("    {id} {line}"));
        }
        self.check(id, &effects);
        self.cluster.give_back(effects);
    }

    fn check(&mut self, id: NodeId, effects: &Effects) {
        assert_eq!(effects.fault, None, "a replica saw something impossible");
        if let Some(soft) = effects.soft_state
            && soft.role == Role::Leader
        {
            let other = *self.leaders.entry(soft.term).or_insert(id);
            assert_eq!(other, id, "election safety: two leaders in term {}", soft.term);
            self.check_leader_completeness(id);
            if self.random.percent(self.faults.short_reign) {
                self.doomed = Some((id, self.random.below(150)));
            }
        }
        if effects.committed.is_some() {
            self.check_committed(id);
        }
        for (read, index) in &effects.read_states {
            let question = self.questions.remove(read);
            self.asked += usize::from(question.is_some());
            self.reads_answered += usize::from(question.is_none());
            let known = question.or_else(|| self.reads.remove(read)).expect("answered once");
            assert!(*index >= known, "read {read} at {index}, but {known} was acknowledged before");
        }
        for (transfer, outcome) in &effects.transfers {
            assert!(self.transfers.remove(transfer), "transfer {transfer} ends once");
            if let TransferOutcome::Done { leader } = outcome {
                self.transferred += usize::from(*leader != id);
            }
        }
        for read in &effects.reads_failed {
            let question = self.questions.remove(read);
            question.or_else(|| self.reads.remove(read)).expect("a read ends once");
        }
    }

    /// An entry of a running node, from memory or its disk.
    fn entry(&self, id: NodeId, index: LogIndex) -> Option<&Entry> {
        let node = self.cluster.node(id);
        let raft = node.raft.as_ref()?;
        if let Some(entry) = raft.entry(index) {
            return Some(entry);
        }
        let term = raft.log().term_at(index).filter(|_| index > raft.log().base_index())?;
        let entry = node.disk.entry(index).filter(|entry| entry.term == term);
        assert!(entry.is_some(), "{id} has {term}/{index} neither in memory nor on disk");
        entry
    }

    /// What a running node has of what is committed is what is committed. Gives where its log begins.
    fn check_history(&self, id: NodeId, last: LogIndex, what: &str) {
        let log = self.cluster.raft(id).unwrap().log();
        let base = log.base_index();
        if base > LogIndex(0) {
            let term = self.committed.get(&base).map(|entry| entry.term);
            assert_eq!(Some(log.base_term()), term, "{what}: base {base}");
        }
        for (index, entry) in self.committed.range(base.next()..last.max(base).next()) {
            assert_eq!(self.entry(id, *index), Some(entry), "{what} at {index}");
        }
    }

    fn check_leader_completeness(&self, id: NodeId) {
        self.check_history(id, LogIndex(u64::MAX - 1), "leader completeness");
    }

    /// State machine safety, and that what a leader commits is on a majority of disks.
    fn check_committed(&mut self, id: NodeId) {
        let raft = self.cluster.raft(id).unwrap();
        let (commit, role) = (raft.commit(), raft.role());
        let known = self.committed.keys().next_back().copied().unwrap_or_default();
        for index in (known.0 + 1..=commit.0).map(LogIndex) {
            let entry = self.entry(id, index).expect("what is new is in the log").clone();
            self.committed.insert(index, entry);
        }
        self.check_history(id, commit, "state machine safety");
        if commit > known {
            let term = self.committed[&commit].term;
            let configuration = self.cluster.raft(id).unwrap().configuration();
            let holds = |id: NodeId| {
                let node = self.cluster.node(id);
                let here = node.counts && node.disk.holds(commit, term);
                here || node.lost.iter().any(|disk| disk.holds(commit, term))
            };
            let enough = configuration.has_quorum(holds);
            assert!(enough, "{commit} is committed without durable copies in {configuration}");
        }
        if role == Role::Leader {
            self.acknowledged = self.acknowledged.max(commit);
        }
    }

    /// Two logs that have the same term at an index are equal up to it.
    fn check_log_matching(&self) {
        let ids = self.cluster.ids();
        let ids: Vec<_> = ids.into_iter().filter(|id| self.cluster.raft(*id).is_some()).collect();
        for (place, a) in ids.iter().enumerate() {
            for b in &ids[place + 1..] {
                let (x, y) = (self.cluster.raft(*a).unwrap(), self.cluster.raft(*b).unwrap());
                let base = x.log().base_index().max(y.log().base_index());
                let end = x.last_index().min(y.last_index());
                let mut differ = None;
                for index in (base.0 + 1..=end.0).map(LogIndex) {
                    match differ {
                        None if self.entry(*a, index) != self.entry(*b, index) => {
                            differ = Some(index);
                        }
                        Some(first) => assert_ne!(
                            x.log().term_at(index),
                            y.log().term_at(index),
                            "log matching: equal at {index}, but different at {first}"
                        ),
                        None => {}
                    }
                }
            }
        }
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.side.contains(&a) != self.side.contains(&b)
    }

    fn deliver(&mut self, place: usize) {
        let envelope = self.cluster.network.swap_remove(place);
        let cut = self.is_cut(envelope.from, envelope.to);
        if cut && self.random.percent(60) {
            self.cluster.network.push(envelope); // held up, may come much later
            return;
        }
        if cut || self.random.percent(self.faults.loss) {
            self.tell(|| format!("LOST {}", describe_envelope(&envelope)));
            return;
        }
        if self.random.percent(self.faults.repeat) {
            self.cluster.network.push(envelope.clone());
        }
        self.step(envelope.to, Event::Message { from: envelope.from, message: envelope.message });
    }

    fn write(&mut self, id: NodeId) {
        if let Some(write) = self.cluster.write_one(id) {
            self.check_promises(id, &write);
            self.tell(|| format!("{id} writes {}", render::entries(&write.entries)));
            self.reports.push((id, write));
        }
    }

    /// Votes and acks that now may leave are true of the disk.
    fn check_promises(&self, id: NodeId, write: &Write) {
        let disk = &self.cluster.node(id).disk;
        for (to, message) in &write.after_durable {
            assert!(disk.hard_state.term >= message.term(), "promise of a term not stored");
            if let Message::VoteReply(reply) = message
                && reply.granted
                && reply.term == disk.hard_state.term
            {
                assert_eq!(disk.hard_state.vote, Some(*to), "promise of a vote not stored");
            }
        }
    }

    /// Reports a write that is on disk; not always the oldest.
    fn report(&mut self, place: usize) {
        let (id, write) = self.reports.remove(place);
        for (to, message) in write.after_durable {
            if to == id {
                self.step(id, Event::Message { from: id, message });
            } else {
                self.cluster.network.push(crate::cluster::Envelope { from: id, to, message });
            }
        }
        if let Some(mark) = write.mark {
            self.step(id, Event::Durable(mark));
        }
    }

    fn crash(&mut self, id: NodeId) {
        self.tell(|| format!("{id} CRASHES"));
        self.cluster.crash(id);
        self.reports.retain(|(of, _)| *of != id);
        self.reads.retain(|read, _| read % 16 != id.0);
        self.questions.retain(|question, _| question % 16 != id.0);
        self.transfers.retain(|transfer| transfer % 16 != id.0);
    }

    fn restart(&mut self, id: NodeId) {
        self.tell(|| format!("{id} RESTARTS"));
        if self.faults.lease {
            self.cluster.node_mut(id).now = self.clock(id);
        }
        self.cluster.restart(id);
        // What was already acknowledged must still be in its log as far as it knows.
        self.check_history(id, self.cluster.raft(id).unwrap().commit(), "restart");
    }

    fn evict(&mut self, id: NodeId) {
        let some = self.random.below(101) as u64;
        if let Some(raft) = &mut self.cluster.node_mut(id).raft {
            raft.evict_to(LogIndex(raft.log().durable().0 * some / 100));
        }
    }

    fn snapshot(&mut self, id: NodeId) {
        if let Some(event) = self.cluster.take_snapshot(id) {
            self.step(id, event);
        }
    }

    /// Mostly what nobody needs any more, sometimes as far as possible.
    fn compact(&mut self, id: NodeId) {
        let Some(raft) = self.cluster.raft(id) else { return };
        let Some((newest, _)) = raft.snapshot() else { return };
        let pinned = raft.offered().map(|(_, index)| index).min().unwrap_or(newest);
        let most = if self.random.percent(20) { newest } else { newest.min(pinned) };
        let base = self.cluster.raft(id).unwrap().log().base_index().0;
        let index =
            LogIndex(base + (most.0 - base.min(most.0)) * self.random.below(101) as u64 / 100);
        self.tell(|| format!("{id} compacts up to {index}"));
        self.cluster.compact(id, index);
    }

    fn pull(&mut self, id: NodeId) {
        let blindly = self.random.percent(20);
        if let Some(event) = self.cluster.finish_pull(id, blindly) {
            self.installed += 1;
            self.step(id, event);
        }
    }

    fn fetch(&mut self, id: NodeId, works: bool) {
        if let Some(event) = self.cluster.finish_fetch(id, works) {
            self.cold += 1;
            self.step(id, event);
        }
    }

    /// What happens to logs besides entries.
    fn upkeep(&mut self, id: NodeId) {
        match self.random.below(100) {
            0..20 if self.random.percent(self.faults.evict) => self.evict(id),
            20..35 if self.random.percent(self.faults.snapshot) => self.snapshot(id),
            35..50 if self.random.percent(self.faults.snapshot) => self.compact(id),
            50..60 => self.pull(id),
            60..100 => {
                let works = !self.random.percent(10);
                self.fetch(id, works);
            }
            _ => {}
        }
    }

    fn propose(&mut self, id: NodeId) {
        let count = 1 + self.random.below(4);
        let size = [0, 10, 100][self.random.below(3)];
        let payloads = (0..count)
            .map(|_| {
                self.proposals += 1;
                let mut payload = self.proposals.to_string().into_bytes();
                payload.resize(payload.len() + size, b'.');
                Bytes::from(payload)
            })
            .collect();
        self.step(id, Event::Propose { payloads });
    }

    fn read(&mut self, id: NodeId) {
        if self.cluster.raft(id).is_none() {
            return;
        }
        self.proposals += 1;
        let read = self.proposals * 16 + id.0;
        self.reads.insert(read, self.acknowledged);
        let now = self.clock(id);
        if self.faults.lease {
            let answered = self.reads_answered;
            self.step(id, Event::LeaseRead { id: read, now });
            let alone = self.cluster.nodes.len() == 1;
            self.leased += if alone { 0 } else { self.reads_answered - answered };
        } else {
            self.step(id, Event::ReadIndex { id: read });
        }
    }

    /// Any replica is to say up to where it has to apply.
    fn ask(&mut self, id: NodeId) {
        self.proposals += 1;
        let (question, now) = (self.proposals * 16 + id.0, self.clock(id));
        if self.cluster.raft(id).is_some() {
            self.questions.insert(question, self.acknowledged);
            self.step(id, Event::AskReadIndex { id: question, now });
        }
    }

    /// Asks mostly those for leadership who have it.
    fn transfer(&mut self, id: NodeId) {
        let leads =
            |id: &NodeId| self.cluster.raft(*id).is_some_and(|raft| raft.role() == Role::Leader);
        let leader = self.cluster.ids().into_iter().find(leads);
        let id = leader.filter(|_| self.random.percent(90)).unwrap_or(id);
        if self.cluster.raft(id).is_none() {
            return;
        }
        let to = self.random.below(self.cluster.ids().len() + 1) as u64;
        self.proposals += 1;
        let name = self.proposals * 16 + id.0;
        self.transfers.insert(name);
        self.step(id, Event::TransferLeadership { id: name, to: (to > 0).then_some(NodeId(to)) });
    }

    fn tick(&mut self, id: NodeId, most_ms: usize) {
        let by = Duration::from_millis(self.random.below(most_ms) as u64);
        let now = match self.faults.lease {
            true => {
                self.time += by / self.cluster.nodes.len() as u32;
                self.clock(id)
            }
            false => self.cluster.node(id).now + by,
        };
        self.step(id, Event::Tick { now });
    }

    /// What the clock of a node shows that keeps to the bound.
    fn clock(&self, id: NodeId) -> Duration {
        match id.0 % 2 {
            0 => self.time,
            _ => self.time + self.time * DRIFT_PPM / 1_000_000,
        }
    }

    fn something(&mut self) {
        let ids = self.cluster.ids();
        let id = ids[self.random.below(ids.len())];
        match self.random.below(100) {
            0..45 if !self.cluster.network.is_empty() => {
                // Mostly in order, sometimes overtaken.
                let most = if self.random.percent(10) { usize::MAX } else { 4 };
                let most = self.cluster.network.len().min(most);
                let place = self.random.below(most);
                self.deliver(place);
            }
            45..60 if !self.random.percent(self.faults.slow_disk) => self.write(id),
            60..70 if !self.reports.is_empty() && !self.random.percent(self.faults.late_report) => {
                let place = self.random.below(self.reports.len());
                self.report(place);
            }
            70..82 if (!self.frozen || !self.side.contains(&id)) => {
                self.tick(id, self.faults.tick_ms);
            }
            82..90 => self.propose(id),
            90..92 => {
                self.read(id);
                self.ask(id);
            }
            92..94 if self.random.percent(self.faults.churn) => self.change_members(),
            94 => self.transfer(id),
            95 if self.random.percent(self.faults.partition * 20) => {
                let random = &mut self.random;
                self.side = ids.iter().copied().filter(|_| random.percent(40)).collect();
                self.frozen = random.percent(50);
            }
            96 if self.random.percent(15) => self.side.clear(),
            97 => {
                let node = ids[self.random.below(ids.len())];
                let lost = self.random.percent(50);
                let event = if lost {
                    Event::PeerUnreachable { node }
                } else {
                    Event::PeerReachable { node }
                };
                self.step(id, event);
            }
            98 | 95 if self.cluster.raft(id).is_none() => self.restart(id),
            99 if self.random.percent(self.faults.crash * 10) => {
                match self.random.percent(self.faults.wipe) {
                    true => self.wipe(id),
                    false => self.crash(id),
                }
            }
            _ => {}
        }
        let id = ids[self.random.below(ids.len())];
        self.upkeep(id);
    }

    fn chaos(&mut self) {
        for step in 0..STEPS_OF_CHAOS {
            self.something();
            match self.doomed {
                Some((id, 0)) => {
                    self.crash(id);
                    self.doomed = None;
                }
                Some((id, left)) => self.doomed = Some((id, left - 1)),
                None => {}
            }
            if step % 50 == 0 {
                self.cluster.ids().into_iter().for_each(|id| self.check_configuration(id));
                self.check_log_matching();
            }
        }
    }

    /// Ends all faults. The cluster must elect, take a proposal, answer a read and agree.
    fn heal(&mut self) {
        self.tell(|| "HEALED".to_owned());
        self.side.clear();
        self.faults.loss = 0;
        self.faults.repeat = 0;
        self.faults.short_reign = 0;
        for id in self.cluster.ids() {
            if self.cluster.raft(id).is_none() {
                self.restart(id);
            }
        }
        let mut goal = None;
        for _ in 0..ROUNDS_TO_HEAL {
            self.settle();
            let leader = self.cluster.nodes.values().find_map(|node| {
                let raft = node.raft.as_ref()?;
                (raft.role() == Role::Leader).then_some((raft.term(), node.id))
            });
            if let Some((_, leader)) = leader
                && let raft = self.cluster.raft(leader).unwrap()
                && raft.configuration().is_joint()
                && !raft.configuration().auto_leave()
            {
                let change = Reconfiguration::Leave;
                self.step(leader, Event::Reconfigure { change, only_if_ready: true });
            }
            // A leader that is deposed after all may take its proposal along.
            if let Some((term, leader)) = leader
                && goal.is_none_or(|(of, _)| of != term)
            {
                self.propose(leader);
                goal = Some((term, self.cluster.raft(leader).unwrap().last_index()));
                self.read(leader);
            }
            if goal.is_some_and(|(_, goal)| self.agree(goal)) {
                return;
            }
            for id in self.cluster.ids() {
                self.tick(id, 12);
            }
        }
        let states = self.cluster.nodes.values().map(|n| render::status(n.raft.as_ref().unwrap()));
        panic!("not at rest after healing:\n{}", states.collect::<Vec<_>>().join("\n"));
    }

    fn agree(&self, goal: LogIndex) -> bool {
        let rafts = self.cluster.nodes.values().filter_map(|node| node.raft.as_ref());
        let leaders = rafts.filter(|raft| raft.role() == Role::Leader);
        let Some(leader) = leaders.max_by_key(|raft| raft.term()) else { return false };
        let configuration = leader.configuration();
        self.reads.is_empty()
            && self.transfers.is_empty()
            && leader.is_configuration_committed()
            && !configuration.is_joint()
            && configuration.members().iter().all(|id| {
                let raft = self.cluster.raft(id).unwrap();
                let member = raft.standing() == Some(Standing::Member);
                member && raft.commit() >= goal && raft.commit() == raft.last_index()
            })
    }

    /// Delivers and writes until nothing is under way.
    fn settle(&mut self) {
        loop {
            for id in self.cluster.ids() {
                self.write(id);
                self.fetch(id, true);
                self.pull(id);
            }
            if !self.reports.is_empty() {
                self.report(0);
            } else if !self.cluster.network.is_empty() {
                let envelope = self.cluster.network.remove(0);
                let (from, message) = (envelope.from, envelope.message);
                self.step(envelope.to, Event::Message { from, message });
            } else if self.cluster.nodes.values().all(|node| node.writes.is_empty()) {
                return;
            }
        }
    }

    fn whole(mut self) -> Outcome {
        self.chaos();
        self.heal();
        self.check_changes();
        self.check_log_matching();
        assert!(self.committed.keys().copied().eq((1..=self.committed.len() as u64).map(LogIndex)));
        Outcome {
            trace: self.hash.finish(),
            terms: self.leaders.len(),
            committed: self.committed.len(),
            reads: self.reads_answered,
            asked: self.asked,
            leased: self.leased,
            transfers: self.transferred,
            wipes: self.wipes,
            installed: self.installed,
            cold: self.cold,
            changes: self.changes,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    terms: usize,
    committed: usize,
    reads: usize,
    asked: usize,
    leased: usize,
    transfers: usize,
    wipes: usize,
    installed: usize,
    cold: usize,
    changes: usize,
}

fn describe(event: &Event) -> String {
    match event {
        Event::Message { from, message } => format!("from {from}: {}", render::message(message)),
        Event::Propose { payloads } => format!("{} proposals", payloads.len()),
        other => format!("{other:?}"),
    }
}

fn describe_envelope(envelope: &crate::cluster::Envelope) -> String {
    format!("{}>{} {}", envelope.from, envelope.to, render::message(&envelope.message))
}

fn run(seed: u64) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| Run::new(seed, false).whole())) {
        Ok(outcome) => outcome,
        Err(_) => {
            eprintln!("\nseed {seed} fails; CORACLE_SEED={seed} runs only this one. Its story:");
            let failure = catch_unwind(AssertUnwindSafe(|| Run::new(seed, true).whole()));
            resume_unwind(failure.expect_err("the same seed fails again"));
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn clusters_stay_safe_under_faults_and_live_after_them() {
    if let Some(seed) = setting("CORACLE_SEED") {
        run(seed);
        return;
    }
    let seeds = setting("CORACLE_SEEDS").unwrap_or(300);
    let mut total = Outcome::default();
    for seed in 0..seeds {
        let outcome = run(seed);
        total.terms += outcome.terms;
        total.committed += outcome.committed;
        total.reads += outcome.reads;
        total.asked += outcome.asked;
        total.leased += outcome.leased;
        total.transfers += outcome.transfers;
        total.wipes += outcome.wipes;
        total.installed += outcome.installed;
        total.cold += outcome.cold;
        total.changes += outcome.changes;
    }
    // A run in which nothing happens proves nothing.
    let seeds = seeds as usize;
    assert!(total.terms > 3 * seeds, "hardly any elections: {total:?}");
    assert!(total.committed > 100 * seeds, "hardly anything committed: {total:?}");
    assert!(total.reads > 15 * seeds, "hardly any reads answered: {total:?}");
    assert!(total.asked > 5 * seeds, "hardly any questions answered: {total:?}");
    assert!(total.leased > 3 * seeds / 2, "hardly any reads by lease: {total:?}");
    assert!(total.transfers > seeds / 4, "hardly any leadership handed over: {total:?}");
    assert!(total.wipes > seeds, "hardly any disks lost: {total:?}");
    assert!(total.installed > 3 * seeds / 4, "hardly any snapshots installed: {total:?}");
    assert!(total.changes > 2 * seeds / 3, "hardly any changes of members: {total:?}");
    assert!(total.cold > 10 * seeds, "hardly anything fetched: {total:?}");
    eprintln!("{seeds} seeds: {total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
    }
}
