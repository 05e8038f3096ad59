//! Many seeds on all cores: who runs them, what they add up to, what is done about a failure.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::run::{Failure, Report};

/// One seed in so many is run twice, and must go the same way.
const REPEATED_ONE_IN: u64 = 100;

/// Runs a plan; the second argument asks for the story.
pub type Runner = dyn Fn(&Plan, bool) -> Report + Sync;

/// Which seeds to run.
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

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What went wrong.
    pub failure: Failure,
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

impl Campaign {
    /// Runs the seeds; `progress` is told after each one.
    pub fn run(&self, runner: &Runner, progress: &(dyn Fn(&Total) + Sync)) -> Total {
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

fn run_seed(seed: u64, runner: &Runner) -> (Report, bool) {
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
pub fn run_caught(plan: &Plan, runner: &Runner, story: bool) -> Report {
    watch_panics();
    LAST_PANIC.take();
    match catch_unwind(AssertUnwindSafe(|| runner(plan, story))) {
        Ok(report) => report,
        Err(payload) => {
            let message = LAST_PANIC.take().unwrap_or_else(|| text_of(&*payload));
            let failure = Failure { invariant: "panic".to_owned(), message, at: Duration::ZERO };
            Report { failure: Some(failure), ..Report::default() }
        }
    }
}

thread_local! {
    /// Message and place of the last panic of this thread.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics for the report instead of printing them where they happen.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
            let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
            let message = format!("{}{place}", text_of(info.payload()));
            LAST_PANIC.with(|last| *last.borrow_mut() = Some(message));
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
