//! Random clusters under faults, with the invariants of Raft checked at every step.
//!
//! One seed makes one run: cluster size, how often messages are lost, repeated and overtaken, how
//! slow disks and their reports are, crashes that lose what is not written, partitions, clocks of
//! different speed. Then all faults end, and the cluster must elect, commit and agree. A failing seed
//! is run again with its story on standard error. `CORACLE_SEEDS=N` runs more of them,
//! `CORACLE_SEED=N` only this one.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::{Effects, Entry, Event, Message, Role};
use coracle_engine::{LogIndex, NodeId, Term};

use crate::cluster::{Cluster, Write};
use crate::render;

const STEPS_OF_CHAOS: usize = 6000;
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
    /// Not a chance: how far a clock moves at most between two ticks.
    tick_ms: usize,
}

struct Run {
    cluster: Cluster,
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
            tick_ms: [8, 25, 60][random.below(3)],
        };
        let window = 1 + random.below(4);
        let window_bytes = [100, 1000, 1 << 20][random.below(3)];
        let cluster = Cluster::new(size, seed, |config| {
            config.election_timeout = Duration::from_millis(100);
            config.heartbeat_interval = Duration::from_millis(20);
            config.inflight_messages_max = window;
            config.inflight_bytes_max = window_bytes;
        });
        let story = with_story.then(|| vec![format!("seed {seed}: {size} nodes, {faults:?}")]);
        Self {
            cluster,
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
            let known = self.reads.remove(read).expect("a read is answered once");
            assert!(*index >= known, "read {read} at {index}, but {known} was acknowledged before");
            self.reads_answered += 1;
        }
        for read in &effects.reads_failed {
            self.reads.remove(read).expect("a read ends once");
        }
    }

    fn check_leader_completeness(&self, id: NodeId) {
        let raft = self.cluster.raft(id).unwrap();
        for (index, entry) in &self.committed {
            assert_eq!(raft.entry(*index), Some(entry), "leader completeness at {index}");
        }
    }

    /// State machine safety, and that what a leader commits is on a majority of disks.
    fn check_committed(&mut self, id: NodeId) {
        let raft = self.cluster.raft(id).unwrap();
        let known = self.committed.keys().next_back().copied().unwrap_or_default();
        for entry in raft.entries(LogIndex(1), raft.commit()) {
            let first = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(first, entry, "state machine safety at {}", entry.index);
        }
        let new = raft.commit() > known;
        if new {
            let (index, term) = (raft.commit(), raft.log().term_at(raft.commit()));
            let ids = self.cluster.ids();
            let holds = |n: &&NodeId| self.cluster.node(**n).disk.term_at(index) == term;
            let copies = ids.iter().filter(holds).count();
            assert!(copies > ids.len() / 2, "{index} is committed with {copies} durable copies");
        }
        if raft.role() == Role::Leader {
            self.acknowledged = self.acknowledged.max(raft.commit());
        }
    }

    /// Two logs that have the same term at an index are equal up to it.
    fn check_log_matching(&self) {
        let rafts: Vec<_> = self.cluster.nodes.values().filter_map(|n| n.raft.as_ref()).collect();
        for (place, a) in rafts.iter().enumerate() {
            for b in &rafts[place + 1..] {
                let end = a.last_index().min(b.last_index());
                let pairs = a.entries(LogIndex(1), end).zip(b.entries(LogIndex(1), end));
                let mut differ = None;
                for (x, y) in pairs {
                    match differ {
                        None if x != y => differ = Some(x.index),
                        Some(first) => assert_ne!(
                            (x.term, x.index),
                            (y.term, y.index),
                            "log matching: equal here, but different at {first}"
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
        self.step(id, Event::Durable(write.mark));
    }

    fn crash(&mut self, id: NodeId) {
        self.tell(|| format!("{id} CRASHES"));
        self.cluster.crash(id);
        self.reports.retain(|(of, _)| *of != id);
        self.reads.retain(|read, _| read % 16 != id.0);
    }

    fn restart(&mut self, id: NodeId) {
        self.tell(|| format!("{id} RESTARTS"));
        self.cluster.restart(id);
        // What was already acknowledged must still be in its log as far as it knows.
        let raft = self.cluster.raft(id).unwrap();
        for entry in raft.entries(LogIndex(1), raft.commit()) {
            assert_eq!(self.committed.get(&entry.index), Some(entry), "restart");
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
        self.step(id, Event::ReadIndex { id: read });
    }

    fn tick(&mut self, id: NodeId, most_ms: usize) {
        let by = Duration::from_millis(self.random.below(most_ms) as u64);
        let now = self.cluster.node(id).now + by;
        self.step(id, Event::Tick { now });
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
            90..95 => self.read(id),
            95 if self.random.percent(self.faults.partition * 20) => {
                let random = &mut self.random;
                self.side = ids.into_iter().filter(|_| random.percent(40)).collect();
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
            99 if self.random.percent(self.faults.crash * 10) => self.crash(id),
            _ => {}
        }
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
        self.reads.is_empty()
            && self.cluster.nodes.values().all(|node| {
                let raft = node.raft.as_ref().unwrap();
                raft.commit() >= goal && raft.commit() == raft.last_index()
            })
    }

    /// Delivers and writes until nothing is under way.
    fn settle(&mut self) {
        loop {
            for id in self.cluster.ids() {
                self.write(id);
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
        self.check_log_matching();
        assert!(self.committed.keys().copied().eq((1..=self.committed.len() as u64).map(LogIndex)));
        Outcome {
            trace: self.hash.finish(),
            terms: self.leaders.len(),
            committed: self.committed.len(),
            reads: self.reads_answered,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    terms: usize,
    committed: usize,
    reads: usize,
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
    }
    // A run in which nothing happens proves nothing.
    let seeds = seeds as usize;
    assert!(total.terms > 3 * seeds / 2, "hardly any elections: {total:?}");
    assert!(total.committed > 20 * seeds, "hardly anything committed: {total:?}");
    assert!(total.reads > 5 * seeds, "hardly any reads answered: {total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
    }
}
