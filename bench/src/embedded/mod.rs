//! `coracle-bench embedded`: what an in-process cluster commits through the embedding API, without
//! RESP and without clients' connections, beside what the machine itself can do.
//!
//! The whole cluster and the load are one process, so a profiler sees all of it: `--flamegraph FILE`
//! samples the counted time and writes an SVG.

pub mod baseline;
pub mod cluster;
pub mod drive;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use thiserror::Error;

use crate::load::LatencySummary;
use crate::report::{JsonError, Progress, Table, grouped, micros, write_json};
use crate::scratch::{ScratchError, scratch};
use baseline::{Baseline, BaselineError, BaselineSummary};
use cluster::Cluster;
use drive::{Demand, DriveError, Driven, drive};

/// Samples per second of the flame graph; prime, so that they do not fall in step with a timer.
const SAMPLES_PER_SECOND: i32 = 997;
/// Most proposals in flight: more would be refused as overloaded.
const IN_FLIGHT_MAX: i64 = 64 << 10;

/// Options of `coracle-bench embedded`.
#[derive(Args, Clone, Debug)]
pub struct EmbeddedArgs {
    /// Nodes, all in this process
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Cores of each node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10))]
    cores: u16,
    /// Shards; proposals go to all of them in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    shards: u32,
    /// Bytes of each proposal
    #[arg(long, default_value_t = 256, value_parser = parse_bytes)]
    value_bytes: usize,
    /// Proposals in flight at the same time
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX))]
    in_flight: u32,
    /// Counted seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seconds before them that are not counted
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    warmup: u32,
    /// Where the nodes keep their data, in a new directory that goes at the end; choose the disk
    /// that is to be measured
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Write a flame graph (SVG) of the whole process to this file
    #[arg(long, value_name = "FILE")]
    flamegraph: Option<PathBuf>,
    /// Also write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn parse_bytes(text: &str) -> Result<usize, String> {
    let max = coracle_engine::limits::PAYLOAD_BYTES_MAX;
    match text.parse::<usize>() {
        Ok(bytes) if bytes <= max => Ok(bytes),
        _ => Err(format!("expected a number of bytes from 0 to {max}")),
    }
}

/// Why there is no result, or none that counts.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// The data directory cannot be made.
    #[error(transparent)]
    Dir(#[from] ScratchError),
    /// The raw figures cannot be taken.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// The cluster does not start.
    #[error("the cluster does not start: {0}")]
    Start(Box<dyn std::error::Error + Send + Sync>),
    /// The run ended early.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// No profile.
    #[error("cannot write the flame graph to {path}: {reason}")]
    FlameGraph {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// Commits were acknowledged that the state machines do not have.
    #[error("{committed} commits were acknowledged, but only {applied} entries are applied")]
    Lost {
        /// Acknowledged.
        committed: u64,
        /// Applied.
        applied: u64,
    },
    /// The results cannot be written.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// The result of a run.
#[derive(Debug, Serialize)]
struct Outcome {
    nodes: u16,
    cores: u16,
    shards: u32,
    value_bytes: usize,
    in_flight: u32,
    seconds: f64,
    committed: u64,
    commits_per_second: f64,
    latency: LatencySummary,
    /// Taken before and after the run, together.
    raw: BaselineSummary,
    /// Median latency divided by the raw bound; to be judged with one proposal in flight.
    p50_to_raw: f64,
    errors: BTreeMap<String, u64>,
    retries: BTreeMap<String, u64>,
    /// Entries that the state machines have applied at the end; absent if a leader did not answer.
    applied: Option<u64>,
    /// Commits acknowledged from beginning to end.
    committed_ever: u64,
}

/// Runs the command: measures, prints the table, writes the JSON.
///
/// # Errors
/// [`EmbeddedError`].
pub fn run(args: &EmbeddedArgs) -> Result<(), EmbeddedError> {
    let dir = scratch(&args.dir)?;
    let progress = Progress::new("embedded", u64::from(args.seconds));
    progress.note("measuring the disk and the loopback interface");
    let mut raw = Baseline::measure(dir.path())?;
    let (driven, applied) = run_cluster(args, dir.path(), &progress)?;
    raw.add(&Baseline::measure(dir.path())?);
    drop(progress);
    let outcome = Outcome::new(args, &driven, &raw, applied);
    outcome.print();
    if let Some(path) = &args.json {
        write_json(path, &outcome)?;
    }
    match applied {
        Some(applied) if applied < driven.committed_ever => {
            Err(EmbeddedError::Lost { committed: driven.committed_ever, applied })
        }
        _ => Ok(()),
    }
}

/// Starts the cluster, loads it, stops it. Also says how many entries were applied.
fn run_cluster(
    args: &EmbeddedArgs,
    dir: &Path,
    progress: &Progress,
) -> Result<(Driven, Option<u64>), EmbeddedError> {
    let demand = Demand {
        shards: args.shards,
        value_bytes: args.value_bytes,
        in_flight: args.in_flight as usize,
        warmup: Duration::from_secs(args.warmup.into()),
        duration: Duration::from_secs(args.seconds.into()),
    };
    progress.note("starting the cluster");
    let cluster = Cluster::start(dir, args.nodes, args.cores, args.shards, |_| {})
        .map_err(EmbeddedError::Start)?;
    let profile = args.flamegraph.as_deref().map(Profile::start).transpose()?;
    let driven = drive(&cluster, demand, |second, commits| {
        progress.step(second, &format!("{:>9} commits/s", grouped(commits)));
    });
    let written = profile.map_or(Ok(()), Profile::write);
    let applied = driven.is_ok().then(|| cluster.applied(args.shards)).flatten();
    cluster.stop();
    written?;
    Ok((driven?, applied))
}

/// A profile of this process that is being taken.
struct Profile<'a> {
    path: &'a Path,
    guard: pprof::ProfilerGuard<'static>,
}

impl<'a> Profile<'a> {
    fn start(path: &'a Path) -> Result<Self, EmbeddedError> {
        let guard = pprof::ProfilerGuardBuilder::default()
            .frequency(SAMPLES_PER_SECOND)
            // A sample inside the unwinder itself could wait for itself. libc stays in: that is
            // where system calls and copies are.
            .blocklist(&["libgcc", "vdso"])
            .build();
        let guard = guard.map_err(|error| Self::failed(path, &error))?;
        Ok(Self { path, guard })
    }

    fn write(self) -> Result<(), EmbeddedError> {
        let failed = |error: &dyn std::fmt::Display| Self::failed(self.path, error);
        let report = self.guard.report().build().map_err(|error| failed(&error))?;
        let file = File::create(self.path).map_err(|error| failed(&error))?;
        report.flamegraph(file).map_err(|error| failed(&error))
    }

    fn failed(path: &Path, error: &dyn std::fmt::Display) -> EmbeddedError {
        EmbeddedError::FlameGraph { path: path.display().to_string(), reason: error.to_string() }
    }
}

impl Outcome {
    fn new(args: &EmbeddedArgs, driven: &Driven, raw: &Baseline, applied: Option<u64>) -> Self {
        let p50 = driven.latency.value_at_quantile(0.5);
        Self {
            nodes: args.nodes,
            cores: args.cores,
            shards: args.shards,
            value_bytes: args.value_bytes,
            in_flight: args.in_flight,
            seconds: driven.elapsed.as_secs_f64(),
            committed: driven.committed,
            commits_per_second: driven.committed as f64 / driven.elapsed.as_secs_f64(),
            latency: LatencySummary::from(&driven.latency),
            raw: raw.summary(),
            p50_to_raw: p50 as f64 / raw.commit_bound_ns() as f64,
            errors: driven.errors.clone(),
            retries: driven.retries.clone(),
            applied,
            committed_ever: driven.committed_ever,
        }
    }

    fn print(&self) {
        let title = format!(
            "{} nodes of {} core(s), {} shard(s), {} B, {} in flight",
            self.nodes, self.cores, self.shards, self.value_bytes, self.in_flight
        );
        let mut table = Table::new(title, &[]);
        table.row(["commits".to_owned(), grouped(self.committed)]);
        table.row(["commits/s".to_owned(), grouped(self.commits_per_second as u64)]);
        let applied = self.applied.map_or("unknown".to_owned(), grouped);
        table.row(["applied / acknowledged".to_owned(), applied, grouped(self.committed_ever)]);
        table.row(["raw durable write + round trip".to_owned(), micros(self.raw.commit_bound_us)]);
        table.row(["p50 / raw".to_owned(), format!("{:.2}", self.p50_to_raw)]);
        for (kind, &count) in self.errors.iter() {
            table.row([format!("failed: {kind}"), grouped(count)]);
        }
        for (kind, &count) in self.retries.iter() {
            table.row([format!("tried again: {kind}"), grouped(count)]);
        }
        table.print();
        let mut table = Table::new("", &LatencySummary::HEADS);
        table.row(self.latency.row("commit"));
        table.row(self.raw.flush.row("raw write + fdatasync, 3 at once"));
        table.row(self.raw.dsync.row("raw RWF_DSYNC, 3 at once"));
        table.row(self.raw.round_trip.row("raw loopback round trip"));
        table.print();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: EmbeddedArgs,
    }

    fn arguments(dir: &Path, options: &str) -> EmbeddedArgs {
        let dir = dir.to_str().unwrap();
        let start = ["embedded", "--dir", dir].into_iter();
        Line::parse_from(start.chain(options.split_whitespace())).args
    }

    #[test]
    fn a_real_cluster_commits_and_applies_all_that_it_acknowledges() {
        let dir = tempfile::tempdir().unwrap();
        let (json, svg) = (dir.path().join("out.json"), dir.path().join("out.svg"));
        let mut args = arguments(dir.path(), "--shards 3 --in-flight 20 --seconds 1 --warmup 0");
        args.json = Some(json.clone());
        args.flamegraph = Some(svg.clone());
        run(&args).unwrap();
        let found: serde_json::Value = serde_json::from_reader(File::open(&json).unwrap()).unwrap();
        assert!(found["committed"].as_u64().unwrap() > 0, "{found}");
        let applied = found["applied"].as_u64();
        assert!(applied >= found["committed_ever"].as_u64(), "{found}");
        assert!(found["raw"]["commit_bound_us"].as_f64().unwrap() > 0.0, "{found}");
        assert!(std::fs::read_to_string(&svg).unwrap().contains("<svg"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "only the results are left");
    }

    #[test]
    fn an_unusable_directory_is_named() {
        let error = run(&arguments(Path::new("/no/such/place"), "")).unwrap_err().to_string();
        assert!(error.contains("/no/such/place") && error.contains("--dir"), "{error}");
    }
}
