//! What a run counts: latencies, operations, and everything that went wrong, by kind.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::workload::{Op, Violation};
use crate::report::micros;

/// Shortest latency that is told apart from zero, in nanoseconds.
const LATENCY_NS_MIN: u64 = 100;
/// Longest latency that is recorded as such, in nanoseconds; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// A histogram of nanoseconds with three significant digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3)
        .expect("constant bounds, accepted by the library")
}

/// Numbers of one thread for one second, or of the whole run.
#[derive(Clone, Debug)]
pub struct Stats {
    /// From the client's first try to send the request to its good reply, in nanoseconds. Waiting for
    /// a server that is away and retries are part of it; the first connect of a client is not.
    pub service: Histogram<u64>,
    /// From the moment the schedule intended to its reply; empty in a closed loop.
    pub intended: Histogram<u64>,
    /// Requests that ended with a good reply.
    pub ok: u64,
    /// Of these, reads.
    pub reads: u64,
    /// Of these reads, those that found no value.
    pub misses: u64,
    /// Writes whose outcome nobody knows: the connection was lost, or the reply never came.
    pub unknown_writes: u64,
    /// Requests that ended without a good reply, by reason.
    pub errors: BTreeMap<String, u64>,
    /// What was met and overcome: redirections, retries, reconnects.
    pub notices: BTreeMap<String, u64>,
    /// Values read that cannot be right, by kind.
    pub violations: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// All zero.
    pub fn new() -> Self {
        Self {
            service: latency_histogram(),
            intended: latency_histogram(),
            ok: 0,
            reads: 0,
            misses: 0,
            unknown_writes: 0,
            errors: BTreeMap::new(),
            notices: BTreeMap::new(),
            violations: BTreeMap::new(),
        }
    }

    /// Counts a good reply.
    pub fn count_ok(&mut self, op: Op, missing: bool) {
        self.ok += 1;
        self.reads += u64::from(op == Op::Read);
        self.misses += u64::from(missing);
    }

    /// Counts a request that ended without a good reply.
    pub fn count_error(&mut self, kind: &str) {
        count(&mut self.errors, kind);
    }

    /// Counts something that was overcome.
    pub fn count_notice(&mut self, kind: &str) {
        count(&mut self.notices, kind);
    }

    /// Counts a value that cannot be right.
    pub fn count_violation(&mut self, violation: Violation) {
        let kind = match violation {
            Violation::WrongOrigin => "not a value of this key",
            Violation::Mangled => "value mangled",
            Violation::LostWrite => "acknowledged write lost",
        };
        *self.violations.entry(kind).or_default() += 1;
    }

    /// Adds the numbers of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in
            [(&mut self.service, &other.service), (&mut self.intended, &other.intended)]
        {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        self.ok += other.ok;
        self.reads += other.reads;
        self.misses += other.misses;
        self.unknown_writes += other.unknown_writes;
        for (mine, theirs) in
            [(&mut self.errors, &other.errors), (&mut self.notices, &other.notices)]
        {
            for (kind, count) in theirs {
                *mine.entry(kind.clone()).or_default() += count;
            }
        }
        for (kind, count) in &other.violations {
            *self.violations.entry(kind).or_default() += count;
        }
    }

    /// Requests that ended without a good reply.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }
}

fn count(counts: &mut BTreeMap<String, u64>, kind: &str) {
    match counts.get_mut(kind) {
        Some(count) => *count += 1,
        None => drop(counts.insert(kind.to_owned(), 1)),
    }
}

/// The figures of a histogram that a report shows, in microseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LatencySummary {
    /// How many were recorded.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % were at most this.
    pub p90_us: f64,
    /// 99 % were at most this.
    pub p99_us: f64,
    /// 99.9 % were at most this.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl LatencySummary {
    /// The heads of a table of latencies; the first column is for names.
    pub const HEADS: [&str; 7] = ["latency", "mean", "p50", "p90", "p99", "p99.9", "max"];

    /// A row of such a table.
    pub fn row(&self, name: &str) -> Vec<String> {
        let figures =
            [self.mean_us, self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us];
        [name.to_owned()].into_iter().chain(figures.map(micros)).collect()
    }
}

impl From<&Histogram<u64>> for LatencySummary {
    fn from(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        }
    }
}
