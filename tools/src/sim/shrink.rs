//! Cutting a failing plan down to what its failure needs.

use super::campaign::{Runner, run_caught};
use super::plan::{Plan, Timed};
use super::run::{Failure, Report};

/// A plan that still fails, and how.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// Its failure.
    pub failure: Failure,
    /// Runs that it took.
    pub runs: u32,
}

impl Shrunk {
    /// The plan as `cargo sim --plan` reads it, under a comment that tells the failure.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let Failure { invariant, message, at } = &self.failure;
        let story = format!("violates '{invariant}' after {:.6} s: {message}", at.as_secs_f64());
        let plan = toml::to_string(&self.plan)
            .unwrap_or_else(|error| format!("# cannot be written: {error}\n"));
        format!("# {}\n{plan}", story.replace('\n', "\n# "))
    }
}

struct Shrinker<'a> {
    runner: &'a Runner<'a>,
    best: Plan,
    failure: Failure,
    runs: u32,
    runs_max: u32,
}

/// Cuts down `plan`, which fails with `failure`, in at most `runs_max` runs. What is left violates the
/// same invariant.
pub fn shrink(plan: &Plan, failure: &Failure, runner: &Runner<'_>, runs_max: u32) -> Shrunk {
    let mut shrinker =
        Shrinker { runner, best: plan.clone(), failure: failure.clone(), runs: 0, runs_max };
    // What happens after the failure needs no fault.
    let end_ms = failure.at.as_millis() as u64 + 1;
    shrinker.attempt(|plan| plan.faults.retain(|timed| timed.at_ms < end_ms));
    shrinker.attempt(|plan| plan.settings.chaos_ms = plan.settings.chaos_ms.min(end_ms));
    // Faults first: they explain most. Then what surrounds them, then faults again.
    for _ in 0..2 {
        shrinker.drop_faults();
        shrinker.simplify();
    }
    Shrunk { plan: shrinker.best, failure: shrinker.failure, runs: shrinker.runs }
}

impl Shrinker<'_> {
    /// Keeps a change if the failure stays the same.
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.best.clone();
        change(&mut plan);
        if plan == self.best || self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let Report { failure, .. } = run_caught(&plan, self.runner, false);
        match failure {
            Some(failure) if failure.invariant == self.failure.invariant => {
                (self.best, self.failure) = (plan, failure);
                true
            }
            _ => false,
        }
    }

    /// Leaves out faults, in large pieces first.
    fn drop_faults(&mut self) {
        let mut piece = self.best.faults.len();
        while piece > 0 {
            let mut from = 0;
            while from < self.best.faults.len() {
                let kept = |(at, timed): (usize, &Timed)| {
                    (!(from..from + piece).contains(&at)).then_some(*timed)
                };
                let faults: Vec<Timed> =
                    self.best.faults.iter().enumerate().filter_map(kept).collect();
                if !self.attempt(|plan| plan.faults = faults) {
                    from += piece;
                }
            }
            piece /= 2;
        }
    }

    fn simplify(&mut self) {
        self.attempt(|plan| plan.settings.frame_faults = false);
        self.attempt(|plan| plan.settings.net_weather = false);
        self.attempt(|plan| plan.settings.disk_weather = false);
        self.attempt(|plan| plan.settings.shuffle_tasks = false);
        self.attempt(|plan| plan.settings.tight_limits = false);
        self.attempt(|plan| plan.settings.cores.fill(1));
        self.attempt(|plan| plan.settings.shards = 1);
        for nodes in [1, 2, 3, 5] {
            let fewer = |plan: &mut Plan| {
                if nodes < plan.settings.nodes {
                    plan.settings.nodes = nodes;
                    plan.settings.joiners = plan.settings.joiners.min(nodes - 1);
                    plan.settings.cores.truncate(nodes as usize);
                }
            };
            if self.attempt(fewer) {
                break;
            }
        }
        self.attempt(|plan| {
            plan.settings.nodes -= plan.settings.joiners;
            plan.settings.cores.truncate(plan.settings.nodes as usize);
            plan.settings.joiners = 0;
        });
        self.attempt(|plan| plan.settings.clients = 1);
        self.attempt(|plan| plan.settings.keys = 1);
        self.attempt(|plan| plan.settings.value_bytes_max = 16);
        while self.attempt(|plan| plan.settings.operations = plan.settings.operations.div_ceil(2)) {
        }
        while self.attempt(|plan| plan.settings.chaos_ms = (plan.settings.chaos_ms / 2).max(1)) {}
    }
}
