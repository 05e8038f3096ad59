//! The result of a run, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::LoadError;
use super::plan::Plan;
use super::stats::{LatencySummary, Stats};
use super::worker::WorkerReport;
use crate::report::{Table, grouped, micros};

/// One second of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    /// Which one, counted from 1 after the warm-up.
    pub second: u64,
    /// Good replies in it.
    pub ok: u64,
    /// Requests that ended badly in it.
    pub errors: u64,
    /// Median service latency in it.
    pub p50_us: f64,
    /// 99th percentile of it.
    pub p99_us: f64,
    /// Longest service latency in it.
    pub max_us: f64,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// Clients.
    pub clients: u32,
    /// Commands per batch.
    pub pipeline: usize,
    /// Threads of load.
    pub threads: u32,
    /// Reads among 100.
    pub read_percent: u32,
    /// Requests per second; absent in a closed loop.
    pub rate: Option<f64>,
    /// Distinct keys.
    pub keys: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Servers at the start.
    pub servers: Vec<String>,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was asked for.
    pub asked: Asked,
    /// Measured seconds.
    pub seconds: f64,
    /// Requests that got a good reply in this time.
    pub ok: u64,
    /// The same per second.
    pub per_second: f64,
    /// Of these, reads.
    pub reads: u64,
    /// Reads that found no value.
    pub misses: u64,
    /// Latency from the client's first try to send to the reply.
    pub service: LatencySummary,
    /// Latency from the due moment to the reply; in an open loop only.
    pub intended: Option<LatencySummary>,
    /// Requests that ended without a good reply, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Writes among them of which nobody knows whether they took place.
    pub unknown_writes: u64,
    /// What was met and overcome.
    pub notices: BTreeMap<String, u64>,
    /// Values read that cannot be right; absent without `--check`.
    pub violations: Option<BTreeMap<String, u64>>,
    /// Open loop: requests that were due but could not be sent in time.
    pub unsent: u64,
    /// Requests without an outcome at the end.
    pub unfinished: u64,
    /// Longest time without any good reply. With several threads an upper bound.
    pub longest_pause_ms: f64,
    /// CPU seconds that this tool used.
    pub tool_cpu_seconds: f64,
    /// The run, second by second.
    pub progress: Vec<Second>,
}

impl Outcome {
    /// Sums up what the threads of `plan` report.
    pub fn new(
        plan: &Plan,
        reports: Vec<WorkerReport>,
        progress: Vec<Second>,
        cpu: Duration,
    ) -> Self {
        let mut stats = Stats::new();
        reports.iter().for_each(|report| stats.add(&report.stats));
        let measured_ns = reports.iter().map(|report| report.measured_ns).max().unwrap_or(0);
        let pause_ns = reports.iter().map(|report| report.longest_pause_ns).min().unwrap_or(0);
        let seconds = measured_ns as f64 / 1e9;
        let violations = stats.violations.iter();
        let violations = violations.map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        Self {
            asked: Asked::new(plan),
            seconds,
            ok: stats.ok,
            per_second: if measured_ns == 0 { 0.0 } else { stats.ok as f64 / seconds },
            reads: stats.reads,
            misses: stats.misses,
            service: LatencySummary::from(&stats.service),
            intended: plan.rate.map(|_| LatencySummary::from(&stats.intended)),
            unknown_writes: stats.unknown_writes,
            violations: plan.check.then_some(violations),
            errors: stats.errors,
            notices: stats.notices,
            unsent: reports.iter().map(|report| report.unsent).sum(),
            unfinished: reports.iter().map(|report| report.unfinished).sum(),
            longest_pause_ms: pause_ns as f64 / 1e6,
            tool_cpu_seconds: cpu.as_secs_f64(),
            progress,
        }
    }

    /// Prints the result for people.
    pub fn print(&self) {
        print!("{}", self.render());
    }

    fn render(&self) -> String {
        let mut text = self.head().render();
        text.push_str(&self.latencies().render());
        for (title, counts) in [
            ("requests that failed", Some(&self.errors)),
            ("met and overcome", Some(&self.notices)),
            ("values read that cannot be right", self.violations.as_ref()),
        ] {
            let Some(counts) = counts.filter(|counts| !counts.is_empty()) else { continue };
            let mut table = Table::new(title, &[]);
            for (kind, &count) in counts {
                table.row([kind.clone(), grouped(count)]);
            }
            text.push_str(&table.render());
        }
        text
    }

    fn head(&self) -> Table {
        let asked = &self.asked;
        let loop_kind = match asked.rate {
            Some(rate) => format!("open loop at {rate}/s"),
            None => "closed loop".to_owned(),
        };
        let mut table = Table::new(
            format!(
                "{loop_kind}: {} clients, pipeline {}, {} B values, {} % reads, {} keys, {}",
                asked.clients,
                asked.pipeline,
                asked.value_bytes,
                asked.read_percent,
                asked.keys,
                asked.servers.join(" "),
            ),
            &[],
        );
        table.row(["requests".to_owned(), grouped(self.ok)]);
        table.row(["seconds".to_owned(), format!("{:.2}", self.seconds)]);
        table.row(["requests/s".to_owned(), grouped(self.per_second as u64)]);
        let optional = [
            ("reads without a value", self.misses),
            ("writes with unknown outcome", self.unknown_writes),
            ("due but not sent in time", self.unsent),
            ("without outcome at the end", self.unfinished),
        ];
        for (name, count) in optional.into_iter().filter(|(_, count)| *count > 0) {
            table.row([name.to_owned(), grouped(count)]);
        }
        if let Some(violations) = &self.violations {
            let total = violations.values().sum();
            table.row(["wrong values (--check)".to_owned(), grouped(total)]);
        }
        table.row(["longest pause".to_owned(), micros(self.longest_pause_ms * 1e3)]);
        table.row(["CPU of this tool".to_owned(), format!("{:.2} s", self.tool_cpu_seconds)]);
        table
    }

    fn latencies(&self) -> Table {
        let mut table = Table::new("", &LatencySummary::HEADS);
        table.row(self.service.row("service"));
        if let Some(intended) = &self.intended {
            table.row(intended.row("intended"));
        }
        table
    }

    /// Whether the run counts.
    ///
    /// # Errors
    /// When nothing succeeded, or a value was wrong.
    pub fn verdict(&self) -> Result<(), LoadError> {
        let violations = self.violations.iter().flat_map(BTreeMap::values).sum();
        if violations > 0 {
            return Err(LoadError::Violations(violations));
        }
        if self.ok > 0 {
            return Ok(());
        }
        let counts = self.errors.iter().chain(&self.notices);
        let reasons: Vec<String> =
            counts.map(|(kind, count)| format!("{kind} ({count})")).collect();
        let reasons = if reasons.is_empty() {
            "the run was too short for a reply".to_owned()
        } else {
            reasons.join(", ")
        };
        Err(LoadError::NothingSucceeded(reasons))
    }
}

impl Asked {
    fn new(plan: &Plan) -> Self {
        let mut servers: Vec<_> = plan.topology.ranges().iter().map(|range| range.owner).collect();
        servers.sort();
        servers.dedup();
        Self {
            clients: plan.clients,
            pipeline: plan.pipeline,
            threads: plan.threads,
            read_percent: plan.read_percent,
            rate: plan.rate,
            keys: plan.keys.len(),
            value_bytes: plan.codec.value_bytes(),
            servers: servers.iter().map(ToString::to_string).collect(),
        }
    }
}
