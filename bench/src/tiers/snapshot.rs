//! Snapshots of a large state under steady load: first of one node's shards, then of all nodes' at the
//! same time. What do clients notice, and how much memory does it take?
//!
//! The load is an open loop, so that a pause shows in everything that was due meanwhile. Without
//! `--rate` it is a share of what the cluster took just before in a closed loop.

use std::time::{Duration, Instant, SystemTime};

use clap::Args;

use super::Needs;
use super::TiersError;
use super::control::SaveState;
use super::settings::{Common, NEVER_MIB, NEVER_S, Tier};
use super::stage::{Stage, span_figures, spans_table};
use super::targets::{Report, Target, mib};
use crate::load::background::{Background, Settings, Span};
use crate::load::workload::KEYS_MAX;
use crate::report::{Table, grouped};

/// Nodes.
const NODES: u64 = 3;
/// What p99 may be while a snapshot is taken, to that of before.
const P99_RATIO_MAX: f64 = 1.5;
/// Most extra memory, as a share of the state.
const MEMORY_SHARE_MAX: f64 = 0.1;
/// Longest time that snapshots may take.
const SAVE_BOUND: Duration = Duration::from_secs(600);
/// How long the closed loop runs that finds the rate.
const PROBE_FOR: Duration = Duration::from_secs(4);
/// Time for things to settle after a change of load.
const SETTLE: Duration = Duration::from_secs(2);
/// Bytes that the server keeps for a key beside its value, roughly: for the number of keys.
const VALUE_BYTES_MIN: u32 = 64;

/// Options of `coracle-bench tiers snapshot`.
#[derive(Args, Clone, Debug)]
pub struct SnapshotArgs {
    /// MiB of values that are the state
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(i64::from(VALUE_BYTES_MIN)..=1 << 20))]
    value_bytes: u32,
    /// Writes per second [default: --load-percent of what the cluster takes at most]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Load as a share of what the cluster takes at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    load_percent: u32,
    /// Seconds before, between and after the snapshots
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub common: Common,
}

impl SnapshotArgs {
    fn keys(&self) -> u32 {
        let keys = (self.state_mib << 20) / u64::from(self.value_bytes);
        keys.clamp(1, KEYS_MAX.into()) as u32
    }

    /// What it needs before it begins.
    pub fn needs(&self) -> Needs {
        let defaults = Tier {
            log_memory_mib: Some(64),
            snapshot_log_mib: Some(NEVER_MIB),
            snapshot_interval_s: None,
            keep_log_s: Some(NEVER_S),
            ..Tier::default()
        };
        Needs { nodes: NODES, disk_mib: NODES * (self.state_mib * 8 + 2048), defaults }
    }
}

/// A phase of the run.
struct Phase {
    name: &'static str,
    from: Instant,
    to: Instant,
    span: Span,
}

/// Plays the scenario.
///
/// # Errors
/// [`TiersError`].
pub fn run(args: &SnapshotArgs, stage: &mut Stage, report: &mut Report) -> Result<(), TiersError> {
    stage.cluster.start_all()?;
    let (value_bytes, keys) = (args.value_bytes as usize, args.keys());
    stage.fill(value_bytes, keys)?;
    stage.catches_up(1, "filled", SAVE_BOUND)?;
    let base = Settings {
        clients: args.common.clients.unwrap_or(32),
        pipeline: args.common.pipeline.unwrap_or(8) as usize,
        ..stage.load_settings(value_bytes, keys)
    };
    let rate = match args.rate {
        Some(rate) => rate.into(),
        None => steady_rate(args, stage, &base)?,
    };
    stage.say(&format!("steady load of {} writes per second", grouped(rate as u64)));
    let load = Background::start(&Settings { rate: Some(rate), ..base })?;
    stage.pass(SETTLE)?;
    let calm = Duration::from_secs(args.seconds);
    let mut bounds = vec![("before", stage.pass(calm)?)];
    stage.say("snapshot of node 1");
    bounds.push(("one node's snapshot", save(stage, &[1])?));
    bounds.push(("between", stage.pass(calm)?));
    stage.say("snapshots of all nodes");
    let all: Vec<u64> = stage.cluster.ids().collect();
    bounds.push(("all nodes' snapshots", save(stage, &all)?));
    bounds.push(("after", stage.pass(calm)?));
    let phases: Vec<Phase> = bounds
        .into_iter()
        .map(|(name, (from, to))| Phase { name, from, to, span: load.between(from, to) })
        .collect();
    drop(load);

    let spans: Vec<_> = phases.iter().map(|phase| (phase.name, &phase.span)).collect();
    report.tables.push(spans_table("writes, from the moment each was due", &spans));
    let memory = memory_table(stage, &phases, report);
    report.tables.push(memory);
    judge(args, stage, &phases, report);
    report.figure("rate", rate);
    for phase in &phases {
        report.figure(phase.name.replace([' ', '\''], "_"), span_figures(&phase.span));
    }
    Ok(())
}

/// Finds what the cluster takes at most, and gives the share of it that is asked for.
fn steady_rate(
    args: &SnapshotArgs,
    stage: &mut Stage,
    settings: &Settings,
) -> Result<f64, TiersError> {
    stage.say("looking for the most the cluster takes");
    let load = Background::start(settings)?;
    let (from, to) = stage.pass(PROBE_FOR)?;
    let most = load.between(from, to).per_second();
    drop(load);
    stage.pass(SETTLE)?;
    Ok((most * f64::from(args.load_percent) / 100.0).max(1.0))
}

/// Asks the nodes for snapshots and waits until all have one; gives the span.
fn save(stage: &mut Stage, ids: &[u64]) -> Result<(Instant, Instant), TiersError> {
    let mut control = stage.cluster.control();
    let bound = SAVE_BOUND;
    // `INFO` tells the time of a snapshot in whole seconds: a new one must be told from the one before.
    stage.pass(Duration::from_millis(1100))?;
    let from = Instant::now();
    let began = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    for &id in ids {
        control
            .call(stage.cluster.address(id), &[b"BGSAVE"])
            .map_err(|reason| TiersError::Refused { id, command: "BGSAVE", reason })?;
    }
    for &id in ids {
        let address = stage.cluster.address(id);
        // A server that never tells of snapshots is not waited for.
        let info = control.info(address);
        let info = info.map_err(|reason| TiersError::Refused { id, command: "INFO", reason })?;
        SaveState::of(&info)?;
        stage.cluster.until(&format!("the snapshot of node {id}"), bound, |_| {
            let state =
                SaveState::of(&control.info(address)?).map_err(|error| error.to_string())?;
            match !state.running && state.last >= began {
                true => Ok(()),
                false => Err(format!("{state:?}, asked for at {began}")),
            }
        })?;
    }
    let to = Instant::now();
    stage.say(&format!("taken in {}", crate::report::duration(to - from)));
    Ok((from, to))
}

fn memory_table(stage: &Stage, phases: &[Phase], report: &mut Report) -> Table {
    let heads: Vec<String> = stage.cluster.ids().map(|id| format!("node {id}")).collect();
    let mut columns = vec![""];
    columns.extend(heads.iter().map(String::as_str));
    let mut table = Table::new("most resident memory, in MiB", &columns);
    for phase in phases {
        let rss: Vec<f64> = rss_of(stage, phase);
        let cells = rss.iter().map(|mib| format!("{mib:.0}"));
        table.row([phase.name.to_owned()].into_iter().chain(cells));
        report.figure(format!("rss_mib_{}", phase.name.replace([' ', '\''], "_")), rss);
    }
    table
}

fn rss_of(stage: &Stage, phase: &Phase) -> Vec<f64> {
    stage.cluster.ids().map(|id| mib(stage.seen.rss_max(id, phase.from, phase.to))).collect()
}

fn judge(args: &SnapshotArgs, stage: &Stage, phases: &[Phase], report: &mut Report) {
    let state_mib = mib(u64::from(args.keys()) * u64::from(args.value_bytes));
    // Each snapshot is compared with the calm just before it.
    for pair in phases.windows(2) {
        let [calm, busy] = pair else { continue };
        if !busy.name.contains("snapshot") {
            continue;
        }
        report.targets.push(Target::at_most(
            format!("p99, {} to {}", busy.name, calm.name),
            busy.span.us(0.99) / calm.span.us(0.99),
            P99_RATIO_MAX,
            "",
        ));
        let (before, while_busy) = (rss_of(stage, calm), rss_of(stage, busy));
        let extra = before.iter().zip(&while_busy).map(|(before, most)| most - before);
        report.targets.push(Target::at_most(
            format!("extra memory of a node, {}", busy.name),
            extra.fold(0.0, f64::max),
            state_mib * MEMORY_SHARE_MAX,
            "MiB",
        ));
    }
}
