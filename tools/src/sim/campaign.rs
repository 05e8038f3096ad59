//! Many seeds on all cores: who runs them, what they add up to, what is done about a failure.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::run::{Failure, Report, run};
use super::settings::Settings;
use super::shrink::{Shrunk, shrink};
use super::workload::Workload;
use super::world::World;

/// One seed in so many is run twice, and must go the same way.
const REPEATED_ONE_IN: u64 = 100;

/// Runs that [`Campaign::check`] spends on shrinking.
const SHRINK_RUNS_MAX: u32 = 300;

/// Runs a plan; the second argument asks for the story.
pub type Runner<'a> = dyn Fn(&Plan, bool) -> Report + Sync + 'a;

/// Which seeds to run. By default the first 1000, all of them, on all cores.
///
/// ```no_run
/// # use coracle_tools::sim::{Campaign, kv::KvWorkload};
/// # use std::time::Duration;
/// let campaign = Campaign { time: Some(Duration::from_secs(60)), ..Campaign::of(10_000) };
/// let total = campaign.check(KvWorkload::make).unwrap_or_else(|found| panic!("{found}"));
/// println!("{total}");
/// ```
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds; without it, as many as the time allows.
    pub seeds: Option<u64>,
    /// No seed is begun after this time.
    pub time: Option<Duration>,
    /// No seed is begun after a failure.
    pub until_failure: bool,
    /// Threads.
    pub jobs: usize,
}

impl Default for Campaign {
    fn default() -> Self {
        Self::of(1000)
    }
}

/// A seed that failed. Shown as a sentence.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What went wrong.
    pub failure: Failure,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { invariant, message, at } = &self.failure;
        let seconds = at.as_secs_f64();
        write!(f, "seed {} violates '{invariant}' after {seconds:.6} s: {message}", self.seed)
    }
}

/// The lowest seed that failed, cut down to what its failure needs. Shown with its plan as TOML.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The seed, and how it failed as it was drawn.
    pub failed: Failed,
    /// What is left of its plan, and how that fails.
    pub shrunk: Shrunk,
    /// All that was run, and all that failed.
    pub total: Total,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed, shrunk, total } = self;
        writeln!(f, "{} of {} seeds failed.\n{failed}", total.failures.len(), total.seeds)?;
        let (runs, faults) = (shrunk.runs, shrunk.plan.faults.len());
        writeln!(f, "shrunk in {runs} runs to {faults} faults:\n")?;
        f.write_str(&shrunk.to_toml())
    }
}

/// What a campaign added up to.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds run twice to see whether they go the same way.
    pub repeated: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Real time.
    pub elapsed: Duration,
    /// Injected faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Requests of clients that were answered, certainly not done, and unknown.
    pub requests: [u64; 3],
    /// Seeds that failed, in no particular order.
    pub failures: Vec<Failed>,
}

impl Total {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        for (kind, count) in report.faults {
            *self.faults.entry(kind).or_insert(0) += count;
        }
        let tally = report.tally;
        for (sum, count) in
            self.requests.iter_mut().zip([tally.replied, tally.refused, tally.unknown])
        {
            *sum += count;
        }
        if let Some(failure) = report.failure {
            self.failures.push(Failed { seed, failure });
        }
    }

    /// Seeds in a minute.
    #[must_use]
    pub fn seeds_per_minute(&self) -> f64 {
        self.seeds as f64 * 60.0 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Simulated hours in a minute.
    #[must_use]
    pub fn hours_per_minute(&self) -> f64 {
        self.simulated.as_secs_f64() / 60.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds ({} of them twice) in {:.1} s, {:.1} simulated hours, {} failed",
            self.seeds,
            self.repeated,
            self.elapsed.as_secs_f64(),
            self.simulated.as_secs_f64() / 3600.0,
            self.failures.len()
        )?;
        let [replied, refused, unknown] = self.requests;
        writeln!(f, "requests: {replied} answered, {refused} refused, {unknown} unknown")?;
        let faults: Vec<_> = self.faults.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        write!(f, "faults: {}", faults.join(", "))
    }
}

impl Campaign {
    /// So many seeds, from 0.
    #[must_use]
    pub fn of(seeds: u64) -> Self {
        Self {
            first_seed: 0,
            seeds: Some(seeds),
            time: None,
            until_failure: false,
            jobs: std::thread::available_parallelism().map_or(1, NonZero::get),
        }
    }

    /// Runs the seeds with a workload, which `make` makes anew for each.
    ///
    /// # Errors
    /// The lowest seed that failed, shrunk.
    pub fn check<W: Workload>(
        &self,
        make: impl Fn(&Settings, &World) -> W + Sync,
    ) -> Result<Total, Box<Counterexample>> {
        let runner = |plan: &Plan, story: bool| run(plan, &make, story);
        let mut total = self.run(&runner, &|_| {});
        total.failures.sort_by_key(|failed| failed.seed);
        let Some(failed) = total.failures.first().cloned() else { return Ok(total) };
        let shrunk = shrink(&Plan::draw(failed.seed), &failed.failure, &runner, SHRINK_RUNS_MAX);
        Err(Box::new(Counterexample { failed, shrunk, total }))
    }

    /// Runs the seeds; `progress` is told after each one.
    pub fn run(&self, runner: &Runner<'_>, progress: &(dyn Fn(&Total) + Sync)) -> Total {
        let began = Instant::now();
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let total = Mutex::new(Total::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed)
                        && self.time.is_none_or(|time| began.elapsed() < time)
                    {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if self.seeds.is_some_and(|seeds| number >= seeds) {
                            break;
                        }
                        let seed = self.first_seed.wrapping_add(number);
                        let (report, repeated) = run_seed(seed, runner);
                        if report.failure.is_some() && self.until_failure {
                            stop.store(true, Ordering::Relaxed);
                        }
                        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                        total.add(seed, report);
                        total.repeated += u64::from(repeated);
                        total.elapsed = began.elapsed();
                        progress(&total);
                    }
                });
            }
        });
        total.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run_seed(seed: u64, runner: &Runner<'_>) -> (Report, bool) {
    let plan = Plan::draw(seed);
    let mut report = run_caught(&plan, runner, false);
    let repeated = seed.is_multiple_of(REPEATED_ONE_IN) && report.failure.is_none();
    if repeated {
        let again = run_caught(&plan, runner, false);
        if again.trace_hash != report.trace_hash {
            report.failure = Some(Failure {
                invariant: "determinism".to_owned(),
                message: format!(
                    "the same seed went another way: trace {:016x}, then {:016x}",
                    report.trace_hash, again.trace_hash
                ),
                at: report.simulated,
            });
        }
    }
    (report, repeated)
}

/// Runs a plan; a panic, which is an assertion of the product's own, is a failure like any other.
pub fn run_caught(plan: &Plan, runner: &Runner<'_>, story: bool) -> Report {
    keep_panics();
    PANIC.set(Panic::Kept(None));
    let outcome = catch_unwind(AssertUnwindSafe(|| runner(plan, story)));
    let kept = PANIC.replace(Panic::Printed);
    match outcome {
        Ok(report) => report,
        Err(payload) => {
            let message = match kept {
                Panic::Kept(Some(message)) => message,
                _ => text_of(&*payload),
            };
            let failure = Failure { invariant: "panic".to_owned(), message, at: Duration::ZERO };
            Report { failure: Some(failure), ..Report::default() }
        }
    }
}

/// What becomes of a panic's message.
enum Panic {
    /// It is printed where it happens, as usual.
    Printed,
    /// It is kept for the report; here it is, with its place, once there is one.
    Kept(Option<String>),
}

thread_local! {
    static PANIC: RefCell<Panic> = const { RefCell::new(Panic::Printed) };
}

/// Keeps the messages of panics for the report, in threads that run a plan.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let kept = PANIC.with_borrow_mut(|panic| {
                let Panic::Kept(message) = panic else { return false };
                let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
                *message = Some(format!("{}{place}", text_of(info.payload())));
                true
            });
            if !kept {
                usual(info);
            }
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without words".to_owned()
    }
}
