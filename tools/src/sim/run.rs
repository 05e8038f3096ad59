//! One run: chaos, healing of a quorum, convergence, service, healing of the rest, a final look at what
//! survived on disk.
//!
//! # Phases
//! 1. **Chaos**: the faults of the plan happen while clients work.
//! 2. **Quorum**: a random quorum of the undamaged nodes, in every configuration that a shard may have by then,
//!    is brought up and connected; everybody else is cut off. Within a bound every shard must answer reads of
//!    its whole state, and clients must get their work done: a stall is a bug.
//! 3. **All**: everybody who is not lost comes back. Within a bound all members of each shard have applied the same.
//!    Where leaders spread by themselves, they do, and stay then (see `run/spread.rs`).
//! 4. **Scan**: all lose power at once and start again from what is durable; the whole state is read again.
//!    Nothing that was acknowledged may be missing.
//!
//! # Budget
//! Damage to what a disk has promised to keep (rot, misdirected and lost writes, unreadable blocks, loss of
//! the disk) leaves a quorum of every configuration that a shard may come to (see `run/churn.rs`), so that every
//! promise survives somewhere. A node
//! that finds such damage must refuse to start; it then stays away. Of the last batches of a log nobody can
//! know whether they were ever written, so a node that goes down before its log has moved on from the damage
//! is taken out. All other faults have no budget.

mod churn;
mod faults;
mod spread;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use coracle_engine::{NodeId, ShardId};
use fastrand::Rng;

use super::checks::decides;
use super::client::{Clients, Tally};
use super::cluster::{Cluster, Health, News};
use super::disk::SimDevice;
use super::net::{FrameRates, HostId, Net, NetWeather};
use super::plan::{Fault, Plan, Who};
use super::settings::Settings;
use super::story::with_logs;
use super::wal_only;
use super::watch::{Checks, host_of};
use super::workload::Workload;
use super::world::{Step, World};
use churn::Operators;

/// What a run must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Short name of what was violated.
    pub invariant: String,
    /// The details.
    pub message: String,
    /// When, since the beginning.
    pub at: Duration,
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// Hash of all that happened.
    pub trace_hash: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Tasks run.
    pub polls: u64,
    /// Injected faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What clients saw.
    pub tally: Tally,
    /// What happened, if asked for.
    pub story: Vec<String>,
}

/// Something that is due at a certain time.
#[derive(Clone, Copy, Debug)]
enum Due {
    Fault(Fault),
    Restart(usize),
    Resume(usize),
    Unblock(usize, usize),
    Unclog(usize, usize),
    Unstall(usize, usize),
    MakeRoom(usize),
    Mend(usize),
    /// A process that was asked to stop and has not.
    StopByForce(usize, u32),
}

/// Runs the scenario of the log alone, [`wal_only`].
fn run_log_alone(plan: &Plan, story: bool) -> Report {
    let world = World::new(plan.seed);
    if story {
        world.keep_story();
    }
    let found = wal_only::run(&world).err();
    let failure = found.map(|finding| Failure {
        invariant: format!("log {}", finding.invariant),
        message: finding.message,
        at: world.now(),
    });
    let report = Report {
        failure,
        trace_hash: world.trace_hash(),
        simulated: world.now(),
        polls: world.polls(),
        faults: world.counts(),
        tally: Tally::default(),
        story: world.take_story(),
    };
    world.end();
    report
}

struct Driver<W: Workload> {
    world: World,
    net: Net,
    cluster: Rc<RefCell<Cluster>>,
    checks: Checks,
    operators: Rc<Operators>,
    clients: Rc<Clients<W>>,
    workload: Rc<RefCell<W>>,
    settings: Settings,
    agenda: BTreeMap<(Duration, u64), Due>,
    agenda_count: u64,
    /// Nodes that lose power the next time that their disks are changing something, and for how long.
    cuts: Vec<(usize, Duration)>,
    /// How many faults hold the way from one node to another, by (from, to).
    blocks: BTreeMap<(usize, usize), u32>,
    rng: Rng,
}

/// Runs a plan with a workload made from the plan. `story` keeps a readable account.
///
/// The log alone is put to the test first ([`wal_only`]): its trims are harder than those of the engine.
pub fn run<W: Workload>(plan: &Plan, make: &dyn Fn(&Settings, &World) -> W, story: bool) -> Report {
    let alone = run_log_alone(plan, story);
    if alone.failure.is_some() {
        return alone;
    }
    let mut report = run_cluster(plan, make, story);
    report.trace_hash ^= alone.trace_hash;
    report.polls += alone.polls;
    for (kind, count) in alone.faults {
        *report.faults.entry(kind).or_insert(0) += count;
    }
    report
}

fn run_cluster<W: Workload>(
    plan: &Plan,
    make: &dyn Fn(&Settings, &World) -> W,
    story: bool,
) -> Report {
    let world = World::new(plan.seed);
    if story {
        world.keep_story();
    }
    if plan.settings.shuffle_tasks {
        world.shuffle_tasks();
    }
    let mut driver = Driver::new(&world, plan, make);
    if story {
        driver.net.tell_arrivals();
    }
    let failure = match story {
        true => with_logs(&world, || driver.run(plan)).err(),
        false => driver.run(plan).err(),
    };
    let report = Report {
        failure,
        trace_hash: world.trace_hash(),
        simulated: world.now(),
        polls: world.polls(),
        faults: world.counts(),
        tally: driver.clients.tally(),
        story: world.take_story(),
    };
    world.end();
    report
}

impl<W: Workload> Driver<W> {
    fn new(world: &World, plan: &Plan, make: &dyn Fn(&Settings, &World) -> W) -> Self {
        let settings = plan.settings.clone();
        let mut rng = world.rng_for("driver");
        let mut net_weather =
            if settings.net_weather { NetWeather::draw(&mut rng) } else { NetWeather::calm() };
        let rates = NetWeather::draw(&mut rng).frames;
        net_weather.frames = if settings.frame_faults { rates } else { FrameRates::NONE };
        let net = Net::new(world.clone(), net_weather);
        let devices: Vec<SimDevice> = (1..=settings.nodes)
            .map(|node| {
                let weather = settings.draw_disk_weather(&mut rng);
                SimDevice::new(world, &format!("disk/{node}"), weather)
            })
            .collect();
        let workload = Rc::new(RefCell::new(make(&settings, world)));
        let checks = Checks::new(world, &settings, &devices);
        let machines: Rc<dyn Fn(NodeId, ShardId) -> _> = {
            let (workload, checks) = (workload.clone(), checks.clone());
            Rc::new(move |node, shard| {
                checks.machine(node, shard, workload.borrow().machine(shard))
            })
        };
        checks.tap(&net);
        checks.tap_arrivals(&net);
        let cluster = Cluster::new(world, &net, &settings, &checks, devices, machines);
        let cluster = Rc::new(RefCell::new(cluster));
        let operators = Operators::new(world, &cluster, &checks, &settings);
        let timeout = settings.election_timeout() * rng.u32(2..=5);
        let clients = Clients::new(world, &cluster, &workload, &settings, timeout);
        Self {
            world: world.clone(),
            net,
            cluster,
            checks,
            operators,
            clients,
            workload,
            settings,
            agenda: BTreeMap::new(),
            agenda_count: 0,
            cuts: Vec::new(),
            blocks: BTreeMap::new(),
            rng,
        }
    }

    fn run(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.chaos(plan)?;
        self.serve_with_a_quorum()?;
        self.bring_all_back()?;
        self.scan()?;
        let verdict = self.workload.borrow_mut().verdict();
        verdict.map_err(|message| self.failure("history", message))
    }

    fn chaos(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.world.story(|| "chaos begins".to_owned());
        for at in 0..self.settings.nodes as usize {
            let delay = self.rng.u64(..self.settings.election_timeout_ms);
            self.schedule(Duration::from_millis(delay), Due::Restart(at));
        }
        for timed in &plan.faults {
            self.schedule(Duration::from_millis(timed.at_ms), Due::Fault(timed.fault));
        }
        let end = Duration::from_millis(self.settings.chaos_ms);
        self.start_clients(0, self.settings.operations, end);
        let checks = self.checks.clone();
        let pause_max = self.settings.election_timeout();
        self.clients.start_statuses(pause_max, end, move |shard| checks.committed(shard));
        self.advance(end, |_| false)?;
        self.operators.end();
        Ok(())
    }

    fn start_clients(&self, first: u32, operations: u32, end: Duration) {
        let think_max = Duration::from_millis(self.settings.think_ms_max);
        for client in first..first + self.settings.clients {
            self.clients.start(client, operations, think_max, end);
        }
    }

    /// Ends all faults, brings a majority up, cuts the others off; everything must work then.
    fn serve_with_a_quorum(&mut self) -> Result<(), Failure> {
        self.agenda.clear();
        self.cuts.clear();
        self.blocks.clear();
        self.net.heal();
        let mut sound: Vec<usize> =
            (0..self.nodes()).filter(|at| !self.cluster.borrow().is_damaged(*at)).collect();
        self.rng.shuffle(&mut sound);
        // Those who have lost their data do not count before a majority has taken them back. In a cluster that
        // is as good as new, all are needed.
        let least = (0..sound.len()).find(|size| self.is_quorum(&sound[..*size]));
        let size = self.rng.usize(least.unwrap_or(sound.len())..=sound.len());
        let (quorum, others) = sound.split_at(size);
        self.world.story(|| format!("a quorum is healed: {}", list(quorum)));
        for at in 0..self.nodes() {
            let mut cluster = self.cluster.borrow_mut();
            cluster.device(at).heal();
            cluster.device(at).calm();
            cluster.clock(at).set_right();
            cluster.resume(at);
            if quorum.contains(&at) {
                continue;
            }
            if self.rng.bool() && others.contains(&at) {
                let power_cut = self.rng.bool();
                cluster.crash(at, power_cut);
            } else {
                for other in 0..self.nodes() {
                    self.net.block(host(at), host(other));
                    self.net.block(host(other), host(at));
                }
            }
        }
        for at in quorum {
            self.revive(*at);
        }
        self.work_must_get_done(1000)
    }

    /// Whether these nodes can decide in every shard, whatever has become of its members.
    fn is_quorum(&self, nodes: &[usize]) -> bool {
        let cluster = self.cluster.borrow();
        (0..self.settings.shards).map(ShardId).all(|shard| {
            let counts = |node: NodeId| {
                let at = cluster.place(node);
                nodes.contains(&at) && cluster.is_settled(at, shard)
            };
            let possible = self.operators.possible(shard, None);
            possible.is_some_and(|all| all.iter().all(|own| decides(own, counts)))
        })
    }

    /// Clients do some work, and the whole state is read; both within a bound.
    fn work_must_get_done(&mut self, first_client: u32) -> Result<(), Failure> {
        let deadline = self.world.now() + self.patience();
        self.start_clients(first_client, 3, deadline);
        self.clients.start_final_reads(first_client + 500);
        if !self.advance(deadline, |driver| driver.clients.are_done())? {
            let message = format!(
                "clients got no answer within {:?} although a majority was healthy and connected: {}",
                self.patience(),
                self.checks.describe()
            );
            return Err(self.failure("progress", message));
        }
        Ok(())
    }

    /// Everybody who is not lost or damaged comes back, and must become like the others.
    fn bring_all_back(&mut self) -> Result<(), Failure> {
        self.world.story(|| "everybody comes back".to_owned());
        self.net.heal();
        let renew = self.rng.bool();
        for at in 0..self.nodes() {
            if !self.cluster.borrow().is_damaged(at) {
                self.revive(at);
            } else if renew && self.cluster.borrow().may_wipe(at) {
                // Somebody has replaced its disk.
                self.cluster.borrow_mut().wipe(at);
                self.revive(at);
            } else {
                // What it holds is worth nothing any more.
                self.cluster.borrow_mut().lose(at, "its disk was damaged");
            }
        }
        if self.rng.bool() {
            self.operators.tidy_up(self.settings.shards);
        }
        let sound = self.sound();
        let deadline = self.world.now() + self.patience();
        let ids: Vec<NodeId> = sound.iter().map(|at| NodeId(*at as u64 + 1)).collect();
        let commits = self.checks.commits();
        if !self.advance(deadline, |driver| driver.checks.have_converged(&ids, &commits))? {
            let message = format!(
                "replicas of nodes {} did not become alike within {:?}: {}",
                list(&sound),
                self.patience(),
                self.checks.describe()
            );
            return Err(self.failure("convergence", message));
        }
        self.leaders_must_spread()
    }

    /// What was acknowledged survives a power cut of everybody.
    fn scan(&mut self) -> Result<(), Failure> {
        self.world.story(|| "final scan: everybody loses power".to_owned());
        let sound = self.sound();
        for at in &sound {
            self.cluster.borrow_mut().crash(*at, true);
        }
        for at in &sound {
            self.revive(*at);
        }
        self.work_must_get_done(2000)?;
        let deadline = self.world.now() + self.patience();
        if self.advance(deadline, |driver| driver.workload.borrow().is_done())? {
            return Ok(());
        }
        let message =
            format!("what has to happen by itself did not happen within {:?}", self.patience());
        Err(self.failure("progress", message))
    }

    fn sound(&self) -> Vec<usize> {
        (0..self.nodes()).filter(|at| !self.cluster.borrow().is_damaged(*at)).collect()
    }

    /// A node that is not quite well is restarted.
    fn revive(&self, at: usize) {
        let mut cluster = self.cluster.borrow_mut();
        if *cluster.health(at) == Health::Stopping || cluster.has_failed_disk(at) {
            cluster.crash(at, false);
        }
        cluster.start(at);
    }

    /// How long a healthy majority may take for anything.
    fn patience(&self) -> Duration {
        Duration::from_secs(120) + 200 * self.settings.election_timeout()
    }

    fn nodes(&self) -> usize {
        self.settings.nodes as usize
    }

    fn failure(&self, invariant: &str, message: String) -> Failure {
        Failure { invariant: invariant.to_owned(), message, at: self.world.now() }
    }

    fn schedule(&mut self, delay: Duration, due: Due) {
        self.agenda_count += 1;
        self.agenda.insert((self.world.now() + delay, self.agenda_count), due);
    }

    /// Runs until `until`, or until `done`, which it says.
    fn advance(&mut self, until: Duration, done: impl Fn(&Self) -> bool) -> Result<bool, Failure> {
        const STEPS_PER_LOOK: u32 = 32;
        let (mut polls_now, mut steps) = (0, 0);
        loop {
            let next = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let step = match next {
                Some(at) if at <= self.world.now() => {
                    if let Some((_, due)) = self.agenda.pop_first() {
                        self.perform(due);
                    }
                    Step::Ran
                }
                _ => self.world.step(next.unwrap_or(until).min(until), &mut polls_now),
            };
            if let Some(violation) = self.checks.violation() {
                let invariant = violation.invariant.to_string();
                return Err(self.failure(&invariant, violation.to_string()));
            }
            if !self.cuts.is_empty() {
                self.cut_power();
            }
            steps += 1;
            if step == Step::Ran && steps % STEPS_PER_LOOK != 0 {
                continue;
            }
            if let Some(wrong) = self.clients.take_wrong() {
                return Err(self.failure("answer", wrong));
            }
            if step == Step::Stuck {
                let message = "tasks wake each other without end".to_owned();
                return Err(self.failure("livelock", message));
            }
            self.look()?;
            if done(self) {
                return Ok(true);
            }
            if step == Step::Idle && self.world.now() >= until {
                return Ok(false);
            }
        }
    }

    /// Cuts the power of those who are to lose it while they write.
    fn cut_power(&mut self) {
        let ready = |at: usize| self.cluster.borrow().device(at).is_writing();
        let Some(place) = self.cuts.iter().position(|(at, _)| ready(*at)) else { return };
        let (at, down) = self.cuts.swap_remove(place);
        self.crash(Who::Node(at as u32), true, down);
    }

    fn look(&mut self) -> Result<(), Failure> {
        let news = self.cluster.borrow_mut().look();
        let news = news.map_err(|message| self.failure("refused_start", message))?;
        for news in news {
            match news {
                News::Stopped(_) => {} // its restart is on the agenda
                News::Lost(at) => {
                    self.cluster.borrow_mut().lose(at, "it refuses its damaged disk");
                }
                News::Failed(at) => {
                    // An operator notices after a while.
                    let delay = self.rng.u64(..2 * self.settings.election_timeout_ms);
                    let fault =
                        Fault::PowerCut { who: Who::Node(at as u32), down_ms: 1, mid_write: false };
                    self.schedule(Duration::from_millis(delay), Due::Fault(fault));
                }
            }
        }
        Ok(())
    }

    fn perform(&mut self, due: Due) {
        match due {
            Due::Fault(fault) => self.inflict(fault),
            Due::Restart(at) => self.restart(at),
            Due::Resume(at) => self.cluster.borrow_mut().resume(at),
            Due::Unblock(from, to) => self.unblock(from, to),
            Due::Unclog(from, to) => self.net.clog(host(from), host(to), 1.0),
            Due::Unstall(from, to) => self.net.unstall(host(from), host(to)),
            Due::MakeRoom(at) => self.cluster.borrow().device(at).set_capacity(None),
            Due::Mend(at) => self.cluster.borrow().device(at).heal(),
            Due::StopByForce(at, incarnation) => {
                let mut cluster = self.cluster.borrow_mut();
                if cluster.incarnation(at) == incarnation && *cluster.health(at) == Health::Stopping
                {
                    cluster.crash(at, false);
                    drop(cluster);
                    self.schedule(Duration::from_millis(1), Due::Restart(at));
                }
            }
        }
    }
}

/// The host of a node that is counted from 0.
fn host(at: usize) -> HostId {
    host_of(NodeId(at as u64 + 1))
}

fn list(nodes: &[usize]) -> String {
    nodes.iter().map(|at| (at + 1).to_string()).collect::<Vec<_>>().join(", ")
}
