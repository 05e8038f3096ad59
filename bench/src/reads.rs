//! `coracle-bench reads`: linearizable reads by rounds of ReadIndex and by leases, in one run, beside reads that may
//! be old, and reads that followers answer.
//!
//! Two clusters in this process, one without leases and one with, take turns: each is read from with one read in
//! flight, which shows the latency, and with many, which shows the throughput. Reads are of a state machine that answers
//! with eight bytes. Stale reads take the same way without asking whether the replica leads: they are the bound. Reads on
//! followers go to one that does not lead; with no staleness allowed it has to ask the leader for each batch of them, with
//! some it asks now and then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use coracle::Consistency;
use hdrhistogram::Histogram;
use serde::Serialize;
use thiserror::Error;

use crate::embedded::cluster::{Cluster, Reads};
use crate::embedded::drive::{Demand, DriveError, drive};
use crate::load::{LatencySummary, latency_histogram};
use crate::report::{JsonError, Progress, Table, grouped, write_json};
use crate::scratch::{ScratchError, scratch};

/// Most reads in flight: a shard refuses more.
const IN_FLIGHT_MAX: i64 = 4096;

/// Options of `coracle-bench reads`.
#[derive(Args, Clone, Debug)]
pub struct ReadsArgs {
    /// Nodes of each cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Shards; reads go to all of them in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    shards: u32,
    /// Reads in flight where throughput is measured
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX))]
    in_flight: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// How often every measurement is taken
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Bound on the drift of clocks for the cluster with leases
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    drift_ppm: u32,
    /// Where the nodes keep their data, in a new directory that goes at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Also write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum ReadsError {
    /// The data directory cannot be made.
    #[error(transparent)]
    Dir(#[from] ScratchError),
    /// A cluster does not start.
    #[error("a cluster does not start: {0}")]
    Start(Box<dyn std::error::Error + Send + Sync>),
    /// A measurement ended early.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// Reads failed that nothing was to keep from being answered.
    #[error("{count} reads {way} failed: {kind}")]
    Failed {
        /// How they were to be answered.
        way: &'static str,
        /// How many.
        count: u64,
        /// With what.
        kind: String,
    },
    /// The results cannot be written.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// How reads are answered.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    leases: bool,
    consistency: Consistency,
    /// Not asked of the leader.
    on_follower: bool,
}

impl Way {
    const fn of_leader(name: &'static str, leases: bool, consistency: Consistency) -> Self {
        Self { name, leases, consistency, on_follower: false }
    }

    const fn on_follower(name: &'static str, staleness: Duration) -> Self {
        let consistency = Consistency::Bounded { staleness };
        Self { name, leases: false, consistency, on_follower: true }
    }
}

const WAYS: [Way; 5] = [
    Way::of_leader("by ReadIndex", false, Consistency::Linearizable),
    Way::of_leader("by lease", true, Consistency::Linearizable),
    Way::on_follower("on a follower, 0 ms old", Duration::ZERO),
    Way::on_follower("on a follower, 10 ms old", Duration::from_millis(10)),
    Way::of_leader("stale", false, Consistency::Stale),
];

/// What one way has come to with so many reads in flight.
#[derive(Debug, Serialize)]
struct Figure {
    way: &'static str,
    in_flight: u32,
    reads_per_second: f64,
    latency: LatencySummary,
}

/// Measurements of one way, added up.
struct Sum {
    way: Way,
    in_flight: u32,
    reads: u64,
    elapsed: Duration,
    latency: Histogram<u64>,
}

/// Runs the command: measures, prints the table, writes the JSON.
///
/// # Errors
/// [`ReadsError`].
pub fn run(args: &ReadsArgs) -> Result<(), ReadsError> {
    let dir = scratch(&args.dir)?;
    let with = start(args, &dir.path().join("with"), Some(args.drift_ppm))?;
    let without = start(args, &dir.path().join("without"), None)?;
    let in_flights = if args.in_flight == 1 { vec![1] } else { vec![1, args.in_flight] };
    let empty = |way, in_flight| Sum {
        way,
        in_flight,
        reads: 0,
        elapsed: Duration::ZERO,
        latency: latency_histogram(),
    };
    let pairs = in_flights.iter().flat_map(|in_flight| WAYS.map(|way| empty(way, *in_flight)));
    let mut sums: Vec<Sum> = pairs.collect();
    let progress = Progress::new("reads", u64::from(args.rounds) * sums.len() as u64);
    for round in 0..args.rounds as usize {
        for at in 0..sums.len() {
            let cluster = if sums[at].way.leases { &with } else { &without };
            let speed = sums[at].add(cluster, args)?;
            let Sum { way, in_flight, .. } = &sums[at];
            let line = format!("{} {}: {} reads/s", in_flight, way.name, grouped(speed));
            progress.step((round * sums.len() + at + 1) as u64, &line);
        }
    }
    drop(progress);
    with.stop();
    without.stop();
    let figures: Vec<Figure> = sums.iter().map(Sum::figure).collect();
    print(args, &figures);
    args.json.as_deref().map_or(Ok(()), |path| write_json(path, &figures))?;
    Ok(())
}

fn start(args: &ReadsArgs, dir: &Path, drift_ppm: Option<u32>) -> Result<Cluster, ReadsError> {
    let adjust = |config: &mut coracle::Config| config.lease_drift_ppm = drift_ppm;
    Cluster::start(dir, args.nodes, 1, args.shards, adjust).map_err(ReadsError::Start)
}

impl Sum {
    /// Measures once more. Returns the reads per second of this time.
    fn add(&mut self, cluster: &Cluster, args: &ReadsArgs) -> Result<u64, ReadsError> {
        let demand = Demand {
            shards: args.shards,
            value_bytes: 0,
            in_flight: self.in_flight as usize,
            warmup: Duration::from_millis(200),
            duration: Duration::from_secs(args.seconds.into()),
        };
        let instead =
            if self.way.on_follower { cluster.followers(args.shards) } else { Vec::new() };
        let target = Reads { cluster, consistency: self.way.consistency, instead };
        let driven = drive(&target, demand, |_, _| {})?;
        if let Some((kind, &count)) = driven.errors.iter().next() {
            let (way, kind) = (self.way.name, kind.clone());
            return Err(ReadsError::Failed { way, count, kind });
        }
        self.reads += driven.committed;
        self.elapsed += driven.elapsed;
        let added = self.latency.add(&driven.latency);
        added.expect("histograms of the same kind can be added");
        Ok((driven.committed as f64 / driven.elapsed.as_secs_f64()) as u64)
    }

    fn figure(&self) -> Figure {
        Figure {
            way: self.way.name,
            in_flight: self.in_flight,
            reads_per_second: self.reads as f64 / self.elapsed.as_secs_f64(),
            latency: LatencySummary::from(&self.latency),
        }
    }
}

fn print(args: &ReadsArgs, figures: &[Figure]) {
    let title = format!(
        "{} nodes, {} shard(s), {} rounds of {} s, drift of {} ppm",
        args.nodes, args.shards, args.rounds, args.seconds, args.drift_ppm
    );
    let mut table = Table::new(title, &["in flight, way", "reads/s"]);
    for Figure { way, in_flight, reads_per_second, .. } in figures {
        table.row([format!("{in_flight} {way}"), grouped(*reads_per_second as u64)]);
    }
    table.print();
    let mut table = Table::new("", &LatencySummary::HEADS);
    for Figure { way, in_flight, latency, .. } in figures {
        table.row(latency.row(&format!("{in_flight} {way}")));
    }
    table.print();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReadsArgs,
    }

    #[test]
    fn every_way_answers() {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("out.json");
        let paths = ["--dir", dir.path().to_str().unwrap(), "--json", json.to_str().unwrap()];
        let few = ["--seconds", "1", "--rounds", "1", "--in-flight", "8"];
        run(&Line::parse_from(["reads"].into_iter().chain(paths).chain(few)).args).unwrap();
        let file = std::fs::File::open(&json).unwrap();
        let found: Vec<serde_json::Value> = serde_json::from_reader(file).unwrap();
        assert_eq!(found.len(), 2 * WAYS.len());
        assert!(found.iter().all(|figure| figure["latency"]["count"].as_u64() > Some(0)));
    }
}
