//! A long log without snapshots is read after kill -9. Rounds of raw reads of the very same files and
//! of restarts take turns, for machines change their pace.
//!
//! With several nodes, each round restarts the first one alone (so that it has the disk for itself),
//! and at the end all of them at once, for the time to the first write.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::cluster::{READY_BOUND, SERVES};
use super::monitor::files_below;
use super::raw;
use super::settings::{Common, NEVER_MIB, NEVER_S, Tier};
use super::stage::{Stage, complete, median, span_figures, spans_table};
use super::targets::{Report, Target, mib};
use super::{Needs, TiersError};
use crate::load::background::{Background, Settings};
use crate::load::workload::KEYS_MAX;
use crate::report::Table;

/// What the names of the log's files begin with.
const SEGMENT: &str = "seg-";
/// Least rate of recovery, as a share of raw reads.
const OF_RAW: f64 = 0.7;

/// Options of `coracle-bench tiers restart`.
#[derive(Args, Clone, Debug)]
pub struct RestartArgs {
    /// MiB of log that are written
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    log_mib: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    value_bytes: u32,
    /// Distinct keys
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// How often the node is restarted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    pub common: Common,
}

impl RestartArgs {
    /// What it needs before it begins.
    pub fn needs(&self) -> Needs {
        let defaults = Tier {
            snapshot_log_mib: Some(NEVER_MIB),
            keep_log_mib: Some(NEVER_MIB),
            keep_log_s: Some(NEVER_S),
            ..Tier::default()
        };
        Needs { nodes: self.nodes, disk_mib: self.nodes * (self.log_mib * 3 / 2 + 512), defaults }
    }
}

/// Plays the scenario.
///
/// # Errors
/// [`TiersError`].
pub fn run(args: &RestartArgs, stage: &mut Stage, report: &mut Report) -> Result<(), TiersError> {
    stage.cluster.start_all()?;
    // How long a start takes that has nothing to read: it is part of every restart.
    stage.cluster.kill_all();
    stage.cluster.start(1)?;
    let empty = stage.cluster.wait_for_line(1, SERVES, READY_BOUND)?;
    stage.cluster.start_all()?;

    let value_bytes = args.value_bytes as usize;
    let writes = (args.log_mib << 20).div_ceil(u64::from(args.value_bytes));
    let settings = Settings {
        clients: args.common.clients.unwrap_or(32),
        pipeline: args.common.pipeline.unwrap_or(16) as usize,
        requests: Some(writes),
        ..stage.load_settings(value_bytes, args.keys)
    };
    stage.say(&format!("writing {} MiB of log, {writes} values", args.log_mib));
    let from = Instant::now();
    let load = Background::start(&settings)?;
    stage.run_to_end(&load, writes)?;
    let span = load.between(from, Instant::now());
    complete("writing the log", &load.finish()?, writes)?;
    stage.catches_up(1, "written", READY_BOUND)?;
    stage.cluster.kill_all();
    let values_mib = mib(writes * u64::from(args.value_bytes));

    let mut table = Table::new(
        "recovery of node 1",
        &["round", "raw MiB/s", "ready after", "MiB/s of log", "of raw"],
    );
    let (mut raws, mut readies, mut ratios, mut rates) = (vec![], vec![], vec![], vec![]);
    for round in 1..=args.rounds {
        let raw = raw::read_files(&log_files(stage, 1)?).map_err(TiersError::Raw)?;
        stage.cluster.start(1)?;
        let ready = stage.cluster.wait_for_line(1, SERVES, READY_BOUND)?;
        stage.cluster.kill(1);
        let reading = ready.saturating_sub(empty).max(Duration::from_millis(1));
        let rate = values_mib / reading.as_secs_f64();
        let ratio = rate / raw;
        table.row([
            round.to_string(),
            format!("{raw:.0}"),
            crate::report::duration(ready),
            format!("{rate:.0}"),
            format!("{:.0} %", 100.0 * ratio),
        ]);
        raws.push(raw);
        readies.push(ready.as_secs_f64());
        rates.push(rate);
        ratios.push(ratio);
    }
    stage.say("all nodes at once, to the first write");
    let started = Instant::now();
    for id in stage.cluster.ids() {
        stage.cluster.start(id)?;
    }
    let (first, last) = stage.cluster.wait_ready()?;
    let disk = stage.seen.disk_max(1, from, Instant::now());

    let mut times = Table::new("from the start of the process", &[]);
    let shown = crate::report::duration;
    times.row(["ready, with an empty log".to_owned(), shown(empty)]);
    times.row(["first accepted write, all nodes restarted".to_owned(), shown(first - started)]);
    times.row(["a write accepted in every shard".to_owned(), shown(last - started)]);
    report.tables.extend([spans_table("writing the log", &[("all", &span)]), table, times]);
    let what = "recovery (less the start with an empty log) to raw reads, median";
    report.targets.push(Target::at_least(what, median(ratios), OF_RAW, ""));
    report.figure("values_mib", values_mib);
    report.figure("disk", &disk);
    report.figure("raw_mib_per_s", median(raws));
    report.figure("recovery_mib_per_s", median(rates));
    report.figure("ready_seconds", median(readies));
    report.figure("ready_empty_seconds", empty.as_secs_f64());
    report.figure("first_write_seconds", (first - started).as_secs_f64());
    report.figure("all_shards_write_seconds", (last - started).as_secs_f64());
    report.figure("writing", span_figures(&span));
    Ok(())
}

/// The segments of a node's log, in order.
fn log_files(stage: &Stage, id: u64) -> Result<Vec<PathBuf>, TiersError> {
    let dir = stage.cluster.data_dir(id);
    let fail = |source| TiersError::Dir { dir: dir.display().to_string(), source };
    let mut files = files_below(&dir).map_err(fail)?;
    files.retain(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SEGMENT))
    });
    files.sort();
    Ok(files)
}
