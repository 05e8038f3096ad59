//! Large entries through a small budget of memory. One node is down while they are written and is
//! started afterwards; it catches up from the log (`--catch-up log`: the others keep all of it) or by a
//! snapshot. The keys are few, so that resident memory is that of the log and not of the state.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::settings::{Common, NEVER_MIB, NEVER_S, Tier};
use super::stage::{Stage, complete, span_figures, spans_table};
use super::targets::{Report, Target, mib};
use super::{Needs, TiersError};
use crate::load::background::{Background, Settings};
use crate::load::workload::VALUE_BYTES_MAX;
use crate::report::Table;

/// Nodes; the last one is down while the entries are written.
const NODES: u64 = 3;
/// Budget of memory for each node.
const LOG_MEMORY_MIB: u64 = 256;
/// What resident memory may be over the budget.
const OVER_BUDGET: f64 = 1.25;
/// Longest time that catching up may take.
const CATCH_UP_BOUND: Duration = Duration::from_secs(1800);

/// Options of `coracle-bench tiers memory`.
#[derive(Args, Clone, Debug)]
pub struct MemoryArgs {
    /// Entries that are written
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    entries: u64,
    /// KiB of each
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=VALUE_BYTES_MAX as u64 >> 10))]
    value_kib: u64,
    /// Distinct keys: the state is as large as their values
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// How the node that was down gets what it lacks
    #[arg(long, value_enum, default_value_t = CatchUp::Log)]
    catch_up: CatchUp,
    /// Go on writing while it catches up, with so many clients
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    clients_meanwhile: u32,
    #[command(flatten)]
    pub common: Common,
}

/// How a node that was down gets what it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CatchUp {
    /// The others keep the whole log
    Log,
    /// As the settings, or the server's defaults, have it
    Snapshot,
}

impl MemoryArgs {
    fn written_mib(&self) -> u64 {
        self.entries * self.value_kib / 1024
    }

    /// What it needs before it begins.
    pub fn needs(&self) -> Needs {
        let mut defaults = Tier { log_memory_mib: Some(LOG_MEMORY_MIB), ..Tier::default() };
        let mut disk_mib = 2048 * NODES;
        if self.catch_up == CatchUp::Log {
            defaults.snapshot_log_mib = Some(NEVER_MIB);
            defaults.keep_log_mib = Some(NEVER_MIB);
            defaults.keep_log_s = Some(NEVER_S);
            disk_mib += self.written_mib() * NODES * 11 / 10;
        }
        Needs { nodes: NODES, disk_mib, defaults }
    }
}

/// Plays the scenario.
///
/// # Errors
/// [`TiersError`].
pub fn run(args: &MemoryArgs, stage: &mut Stage, report: &mut Report) -> Result<(), TiersError> {
    let budget_mib = args.common.tier.log_memory_mib.unwrap_or(LOG_MEMORY_MIB);
    stage.cluster.start_all()?;
    let (began, idle) = stage.pass(Duration::from_millis(500))?;
    stage.say(&format!("node {NODES} goes down"));
    stage.cluster.kill(NODES);
    stage.cluster.wait_ready()?;

    let value_bytes = (args.value_kib as usize) << 10;
    let settings = Settings {
        clients: args.common.clients.unwrap_or(8),
        pipeline: args.common.pipeline.unwrap_or(1) as usize,
        requests: Some(args.entries),
        ..stage.load_settings(value_bytes, args.keys)
    };
    stage.say(&format!("writing {} entries of {} KiB", args.entries, args.value_kib));
    let written_from = Instant::now();
    let load = Background::start(&settings)?;
    stage.run_to_end(&load, args.entries)?;
    let written_to = Instant::now();
    let span = load.between(written_from, written_to);
    complete("writing the entries", &load.finish()?, args.entries)?;

    stage.say(&format!("node {NODES} is started"));
    let meanwhile =
        Settings { clients: args.clients_meanwhile, requests: None, ..settings.clone() };
    let load = (args.clients_meanwhile > 0).then(|| Background::start(&meanwhile)).transpose()?;
    let caught_from = stage.cluster.start(NODES)?;
    stage.catches_up(NODES, "after", CATCH_UP_BOUND)?;
    let caught_to = Instant::now();
    drop(load);
    let seconds = (caught_to - caught_from).as_secs_f64();
    stage.say(&format!("it has caught up after {seconds:.1} s"));
    let same = stage.replicas_agree(args.keys)?;

    let mut table = Table::new(
        "resident memory, most of it, in MiB",
        &["", "at the start", "while writing", "while node 3 catches up", "disk"],
    );
    for id in stage.cluster.ids() {
        let rss = |from, to| mib(stage.seen.rss_max(id, from, to));
        let (start, writing) = (rss(began, idle), rss(written_from, written_to));
        let catching = rss(caught_from, caught_to);
        let disk = mib(stage.seen.disk_max(id, written_from, caught_to).total());
        let shown = |value: f64| if value > 0.0 { format!("{value:.0}") } else { "-".to_owned() };
        let cells = [start, writing, catching, disk].map(shown);
        table.row([format!("node {id}")].into_iter().chain(cells));
        let most = writing.max(catching);
        let role = if id == NODES { "the node that catches up" } else { "a node that was up" };
        let what = format!("resident memory of node {id}, {role}");
        report.targets.push(Target::at_most(what, most, budget_mib as f64 * OVER_BUDGET, "MiB"));
        report.figure(format!("node_{id}_rss_mib"), [start, writing, catching]);
        report.figure(format!("node_{id}_disk_mib"), disk);
    }
    report.targets.push(Target::holds("all nodes have the same values", same));
    report.tables.push(table);
    report.tables.push(spans_table("writes, with one node down", &[("all", &span)]));
    let mut pace = Table::new("catching up", &[]);
    pace.row(["seconds".to_owned(), format!("{seconds:.1}")]);
    pace.row(["MiB/s of values".to_owned(), format!("{:.0}", args.written_mib() as f64 / seconds)]);
    report.tables.push(pace);
    report.figure("writes", span_figures(&span));
    report.figure("catch_up_seconds", seconds);
    Ok(())
}
