//! Makes faults, after a seeded plan: kills, stops and restarts nodes, and makes what lies between them
//! worse. Faults overlap; now and then all are healed, and the cluster has to serve again.
//!
//! The plan is drawn from a deck that holds every kind once, so that a long run has as many of each. The
//! same seed draws the same faults, but not at the same moments: those are real time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::client::Outcome;
use super::cluster::{Cluster, NODES, SHARDS, key_in_shard};
use super::network::Network;
use super::network::proxy::FaultId;
use super::network::rule::Rule;
use super::process::Process;
use super::random::Random;
use super::wait::SOON;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    KillLeader,
    KillAny,
    KillAll,
    Terminate,
    RollingRestart,
    PauseLeader,
    PauseAny,
    IsolateLeader,
    IsolateAny,
    MuteLeader,
    DeafenLeader,
    LateReplies,
    OneWay,
    Bridge,
    IsolateAll,
    Clog,
    Narrow,
    Delay,
    Drop,
    Reorder,
    Duplicate,
    Replay,
    Corrupt,
    Cut,
}

use Kind::*;

impl Kind {
    /// Whether this needs something between the nodes that knows frames.
    fn needs_proxy(self) -> bool {
        matches!(
            self,
            LateReplies
                | Clog
                | Narrow
                | Delay
                | Drop
                | Reorder
                | Duplicate
                | Replay
                | Corrupt
                | Cut
        )
    }
}

/// Most faults at the same time; each time with faults draws a number up to this.
const OVERLAP_MAX: u64 = 3;

/// How late replies come at the leader that is about to be cut off, in the end: longer than it takes
/// the others to elect another, so that it still believes to lead then.
const LATE_MS: (u64, u64) = (1400, 2200);

/// How that grows: at once, it would be a silence in which the leader steps down.
const LATE_STEP: Duration = Duration::from_millis(200);
const LATE_STEP_EVERY: Duration = Duration::from_millis(150);

/// How long such a leader is cut off.
const CUT_OFF: Duration = Duration::from_millis(2500);

/// How long faults last and how often they come, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two faults.
    pub pause: (u64, u64),
    /// From a fault to its end.
    pub length: (u64, u64),
    /// Of a time with faults.
    pub chaos: (u64, u64),
    /// Of the time after, in which all is well.
    pub calm: u64,
}

/// What a node is supposed to be doing.
#[derive(Debug)]
enum State {
    Up,
    Paused,
    /// Told to end; to be started again then.
    Ending(Box<Process>, Instant),
    Down,
}

/// What is to be done later.
#[derive(Clone, Debug)]
enum Step {
    Start(u64),
    Resume(u64),
    Terminate(u64),
    /// More of [`Kind::LateReplies`].
    Delay(FaultId, u64, u32),
    Mute(u64),
    Heal(FaultId),
    Cut(u64, u64),
}

/// Makes the faults of one test.
#[derive(Debug)]
pub struct Nemesis {
    pace: Pace,
    random: Random,
    deck: Vec<Kind>,
    kinds: Vec<Kind>,
    states: BTreeMap<u64, State>,
    later: BTreeMap<(Instant, u64), Step>,
    /// When the faults that run now will end.
    ends: Vec<Instant>,
    count: u64,
    started: Instant,
    timeline: Vec<String>,
    made: BTreeMap<Kind, u64>,
    recoveries: Vec<Duration>,
}

impl Nemesis {
    /// A nemesis for a cluster whose nodes all run. Makes only the kinds of faults with these names,
    /// if there are any.
    #[track_caller]
    pub fn new(cluster: &mut Cluster, pace: Pace, seed: u64, names: &[String]) -> Self {
        let is_proxied = matches!(cluster.network(), Network::Proxied(_));
        let is_meant = |kind: &Kind| names.is_empty() || names.contains(&format!("{kind:?}"));
        let is_possible = |kind: &Kind| is_proxied || !kind.needs_proxy();
        let all = Kind::value_variants().iter().copied();
        let kinds: Vec<Kind> = all.filter(is_meant).filter(is_possible).collect();
        assert!(!kinds.is_empty(), "no faults of {names:?} are possible here");
        Self {
            pace,
            random: Random::new(seed),
            deck: Vec::new(),
            kinds,
            states: (1..=NODES).map(|id| (id, State::Up)).collect(),
            later: BTreeMap::new(),
            ends: Vec::new(),
            count: 0,
            started: Instant::now(),
            timeline: Vec::new(),
            made: BTreeMap::new(),
            recoveries: Vec::new(),
        }
    }

    /// What was done when.
    pub fn timeline(&self) -> &[String] {
        &self.timeline
    }

    /// How many faults of each kind were made.
    pub fn made(&self) -> &BTreeMap<Kind, u64> {
        &self.made
    }

    /// The times from the end of all faults until every shard took a write.
    pub fn recoveries(&self) -> &[Duration] {
        &self.recoveries
    }

    /// One time with faults and one without. `moment` says where the clients' histories are;
    /// `progress` is called now and then.
    ///
    /// # Errors
    /// A node that ended by itself or did not end when told to, or a cluster that does not serve again.
    pub fn cycle(
        &mut self,
        cluster: &mut Cluster,
        moment: &dyn Fn() -> u64,
        progress: &mut dyn FnMut(&Self),
    ) -> Result<(), String> {
        let chaos = self.between(self.pace.chaos);
        let end = Instant::now() + chaos;
        let overlap_max = usize::try_from(1 + self.random.below(OVERLAP_MAX)).unwrap();
        let mut next = Instant::now();
        while Instant::now() < end {
            self.ends.retain(|end| *end > Instant::now());
            if Instant::now() >= next && self.ends.len() < overlap_max {
                self.strike(cluster, moment());
                next = Instant::now() + self.between(self.pace.pause);
            }
            self.tick(cluster)?;
            progress(self);
            std::thread::sleep(Duration::from_millis(10));
        }
        self.heal_all(cluster, moment())?;
        self.ends.clear();
        let end = Instant::now() + Duration::from_millis(self.pace.calm);
        while Instant::now() < end {
            self.tick(cluster)?;
            progress(self);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn between(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_millis(low + self.random.below(high - low + 1))
    }

    fn one_of(&mut self, nodes: &[u64]) -> Option<u64> {
        let nth = self.random.below(nodes.len().max(1) as u64);
        nodes.get(usize::try_from(nth).unwrap()).copied()
    }

    fn note(&mut self, what: impl fmt::Display) {
        self.timeline.push(format!("{:8.3} s  {what}", self.started.elapsed().as_secs_f64()));
    }

    fn up(&self) -> Vec<u64> {
        let is_up = |(id, state): (&u64, &State)| matches!(state, State::Up).then_some(*id);
        self.states.iter().filter_map(is_up).collect()
    }

    fn after(&mut self, delay: Duration, step: Step) {
        self.count += 1;
        self.later.insert((Instant::now() + delay, self.count), step);
    }

    fn new_fault(&mut self) -> FaultId {
        self.count += 1;
        self.count
    }

    /// The node that leads some shard, as one that can be asked says; else any.
    fn leader(&mut self, cluster: &Cluster) -> Option<u64> {
        let up = self.up();
        let shard = u16::try_from(self.random.below(u64::from(SHARDS))).unwrap();
        let asked = self.one_of(&up)?;
        let leader = cluster.leader_of(&key_in_shard("ready", shard), asked);
        leader.filter(|leader| up.contains(leader)).or(Some(asked))
    }

    fn strike(&mut self, cluster: &mut Cluster, moment: u64) {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
        }
        let nth = usize::try_from(self.random.below(self.deck.len() as u64)).unwrap();
        let kind = self.deck.swap_remove(nth);
        let length = self.between(self.pace.length);
        let any = 1 + self.random.below(NODES);
        let other = 1 + (any + self.random.below(NODES - 1)) % NODES;
        let leader = self.leader(cluster);
        let up = self.up();
        let up_any = self.one_of(&up);
        let what = match kind {
            KillLeader => leader.map(|id| self.kill(cluster, id, length)),
            KillAny => up_any.map(|id| self.kill(cluster, id, length)),
            KillAll => (!up.is_empty()).then(|| {
                let killed = up.iter().map(|id| self.kill(cluster, *id, length / 4));
                killed.collect::<Vec<_>>().join(", ")
            }),
            Terminate => up_any.map(|id| self.terminate(cluster, id)),
            RollingRestart => {
                for (nth, id) in (1..=NODES).enumerate() {
                    let delay = length / 2 * u32::try_from(nth).unwrap();
                    self.after(delay, Step::Terminate(id));
                }
                Some(format!("each node in turn, {:?} apart", length / 2))
            }
            PauseLeader => leader.map(|id| self.pause(cluster, id, length)),
            PauseAny => up_any.map(|id| self.pause(cluster, id, length)),
            IsolateLeader => leader.map(|id| self.isolate(cluster, &[id], length)),
            IsolateAny => Some(self.isolate(cluster, &[any], length)),
            IsolateAll => Some(self.isolate(cluster, &[1, 2, 3], length)),
            MuteLeader => leader.map(|id| {
                self.impair(cluster, &directions(|from, _| from == id), &Rule::deaf(), length)
            }),
            DeafenLeader => leader.map(|id| {
                self.impair(cluster, &directions(|_, to| to == id), &Rule::deaf(), length)
            }),
            LateReplies => leader.map(|id| self.delay_and_mute(id)),
            OneWay => Some(self.impair(cluster, &[(any, other)], &Rule::deaf(), length)),
            Bridge => {
                let both = [(any, other), (other, any)];
                Some(self.impair(cluster, &both, &Rule::deaf(), length))
            }
            Cut => {
                let times = 1 + u32::try_from(self.random.below(5)).unwrap();
                for nth in 0..times {
                    self.after(length / times * nth, Step::Cut(any, other));
                }
                Some(format!("between {any} and {other}, {times} times in {length:?}"))
            }
            Clog | Narrow | Delay | Drop | Reorder | Duplicate | Replay | Corrupt => {
                let rule = self.rule(kind);
                let chosen = match self.random.below(3) {
                    0 => directions(|_, _| true),
                    1 => directions(|from, to| from == any || to == any),
                    _ => vec![(any, other)],
                };
                Some(self.impair(cluster, &chosen, &rule, length))
            }
        };
        if let Some(what) = what {
            *self.made.entry(kind).or_default() += 1;
            let length = match kind {
                RollingRestart => length * 2,
                LateReplies => CUT_OFF * 3 / 2,
                _ => length,
            };
            self.ends.push(Instant::now() + length);
            self.note(format_args!("{kind:?}: {what} [{moment}]"));
        }
    }

    fn rule(&mut self, kind: Kind) -> Rule {
        let mut rule = Rule::default();
        let share = 50 + self.random.below(300);
        match kind {
            Clog => rule.clogged = true,
            Narrow => rule.bytes_per_second = 2_000 + self.random.below(50_000),
            Delay => rule.delay_max = Duration::from_millis(5 + self.random.below(200)),
            Drop => rule.dropped = share,
            Reorder => rule.reordered = share,
            Duplicate => rule.duplicated = share,
            Replay => rule.replayed = share,
            Corrupt => rule.corrupted = share / 2,
            _ => unreachable!("{kind:?} is no rule"),
        }
        rule
    }

    fn kill(&mut self, cluster: &mut Cluster, id: u64, length: Duration) -> String {
        cluster.kill(id);
        self.states.insert(id, State::Down);
        self.after(length, Step::Start(id));
        format!("node {id} for {length:?}")
    }

    fn terminate(&mut self, cluster: &mut Cluster, id: u64) -> String {
        let process = cluster.take_process(id).unwrap();
        process.signal(libc::SIGTERM);
        self.states.insert(id, State::Ending(Box::new(process), Instant::now()));
        format!("node {id}")
    }

    fn pause(&mut self, cluster: &Cluster, id: u64, length: Duration) -> String {
        cluster.node(id).pause();
        self.states.insert(id, State::Paused);
        self.after(length, Step::Resume(id));
        format!("node {id} for {length:?}")
    }

    fn isolate(&mut self, cluster: &mut Cluster, nodes: &[u64], length: Duration) -> String {
        let fault = self.new_fault();
        for id in nodes {
            cluster.network().isolate(fault, *id, NODES);
        }
        self.after(length, Step::Heal(fault));
        format!("{nodes:?} for {length:?}")
    }

    fn impair(
        &mut self,
        cluster: &mut Cluster,
        directions: &[(u64, u64)],
        rule: &Rule,
        length: Duration,
    ) -> String {
        let fault = self.new_fault();
        for (from, to) in directions {
            cluster.network().impair(fault, *from, *to, rule.clone());
        }
        self.after(length, Step::Heal(fault));
        let names: Vec<_> = directions.iter().map(|(from, to)| format!("{from}->{to}")).collect();
        format!("{} for {length:?}: {rule}", names.join(" "))
    }

    /// A leader gets replies that were sent long ago while the others elect another.
    fn delay_and_mute(&mut self, id: u64) -> String {
        let steps = u32::try_from(self.between(LATE_MS).as_millis() / LATE_STEP.as_millis());
        let steps = steps.unwrap();
        let growing = LATE_STEP_EVERY * steps;
        let fault = self.new_fault();
        for step in 1..=steps {
            self.after(LATE_STEP_EVERY * (step - 1), Step::Delay(fault, id, step));
        }
        self.after(growing, Step::Mute(id));
        self.after(growing + CUT_OFF, Step::Heal(fault));
        let (two, all) = (NODES - 1, LATE_STEP * steps);
        format!("node {id} hears the other {two} later and later, {all:?} in the end; then is mute")
    }

    /// Does what is due, and looks after the processes.
    fn tick(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let step = entry.remove();
            self.run(cluster, step);
        }
        for id in 1..=NODES {
            self.look_after(cluster, id)?;
        }
        Ok(())
    }

    fn run(&mut self, cluster: &mut Cluster, step: Step) {
        let state = match &step {
            Step::Start(id) | Step::Resume(id) | Step::Terminate(id) => &self.states[id],
            Step::Delay(..) | Step::Mute(_) | Step::Heal(_) | Step::Cut(..) => &State::Up,
        };
        match (&step, state) {
            (Step::Start(id), State::Down) => {
                cluster.start_node(*id);
                self.states.insert(*id, State::Up);
            }
            (Step::Resume(id), State::Paused) => {
                cluster.node(*id).resume();
                self.states.insert(*id, State::Up);
            }
            (Step::Terminate(id), State::Up) => _ = self.terminate(cluster, *id),
            (Step::Delay(fault, id, steps), _) => {
                for (from, to) in directions(|_, to| to == *id) {
                    let rule = Rule { delay_min: LATE_STEP * *steps, ..Rule::default() };
                    cluster.network().impair(*fault, from, to, rule);
                }
                return;
            }
            (Step::Mute(id), _) => {
                let muted = directions(|from, _| from == *id);
                self.impair(cluster, &muted, &Rule::deaf(), CUT_OFF);
            }
            (Step::Heal(fault), _) => cluster.network().heal(*fault),
            (Step::Cut(a, b), _) => {
                if let Some(proxy) = cluster.network().proxy() {
                    proxy.cut(*a, *b);
                }
            }
            // Another fault has been there meanwhile.
            _ => return,
        }
        self.note(format_args!("  {step:?}"));
    }

    fn look_after(&mut self, cluster: &mut Cluster, id: u64) -> Result<(), String> {
        if let Some(process) = cluster.process(id)
            && !process.is_running()
        {
            return Err(format!("node {id} has ended by itself:\n{}", process.output()));
        }
        let Some(State::Ending(process, since)) = self.states.get_mut(&id) else { return Ok(()) };
        match process.ended() {
            Some(status) if status.success() || ends_at_once(status, &process.output()) => {
                cluster.start_node(id);
                self.states.insert(id, State::Up);
                self.note(format_args!("  ended and started again: node {id}"));
                Ok(())
            }
            Some(status) => Err(format!("node {id}, terminated: {status}\n{}", process.output())),
            None if since.elapsed() > SOON => {
                Err(format!("node {id} has not ended within {SOON:?}\n{}", process.output()))
            }
            None => Ok(()),
        }
    }

    /// Ends all faults and waits until every shard takes a write.
    ///
    /// # Errors
    /// As [`Nemesis::cycle`].
    pub fn heal_all(&mut self, cluster: &mut Cluster, moment: u64) -> Result<(), String> {
        self.note(format_args!("all faults end [{moment}]"));
        for step in std::mem::take(&mut self.later).into_values() {
            if matches!(step, Step::Start(_) | Step::Resume(_) | Step::Heal(_)) {
                self.run(cluster, step);
            }
        }
        let healed = Instant::now();
        let mut client = cluster.client();
        let mut waiting: BTreeSet<u16> = (0..SHARDS).collect();
        loop {
            self.tick(cluster)?;
            let mut is_served = |shard: &u16| {
                let key = key_in_shard("ready", *shard);
                matches!(client.set(&key, "yes", Duration::from_millis(200)), Outcome::Done(_))
            };
            waiting.retain(|shard| !is_served(shard));
            if waiting.is_empty() && self.up().len() as u64 == NODES {
                break;
            }
            if healed.elapsed() > SOON {
                return Err(format!(
                    "{:?} after the end of all faults, no writes to {waiting:?}, up are {:?}",
                    healed.elapsed(),
                    self.up()
                ));
            }
        }
        self.recoveries.push(healed.elapsed());
        self.note(format_args!("all shards are served {:?} later", healed.elapsed()));
        Ok(())
    }
}

/// Whether a node was told to end while it was starting, and did so in the way that is meant for that.
fn ends_at_once(status: ExitStatus, output: &str) -> bool {
    let is_by_signal =
        status.code() == Some(128 + libc::SIGTERM) || status.signal() == Some(libc::SIGTERM);
    is_by_signal && !output.contains("draining")
}

/// The directions that are meant.
fn directions(is_meant: impl Fn(u64, u64) -> bool) -> Vec<(u64, u64)> {
    let pairs = (1..=NODES).flat_map(|from| (1..=NODES).map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to && is_meant(*from, *to)).collect()
}
