//! Many GiB of small values over the same keys: disk must stay within its budget, throughput and memory
//! flat. The run is cut into ten parts of equally many bytes.

use std::time::{Duration, Instant};

use clap::Args;

use super::settings::{Common, Tier};
use super::stage::{Stage, complete};
use super::targets::{Report, Target, mib, short};
use super::{Needs, TiersError};
use crate::load::background::{Background, Settings, Span};
use crate::load::workload::KEYS_MAX;
use crate::report::{Table, grouped, micros};

/// Nodes.
const NODES: u64 = 3;
/// Parts of the run.
const PARTS: u64 = 10;
/// Budget of disk for each node.
const LOG_DISK_MIB: u64 = 4096;
/// Budget of memory for each node.
const LOG_MEMORY_MIB: u64 = 256;
/// Least throughput of the last part, as a share of the first one's.
const THROUGHPUT_KEPT: f64 = 0.9;
/// Most memory of the last part, as a share of that of the second one: in the first, the log's memory
/// fills up.
const MEMORY_GROWTH: f64 = 1.1;
/// Length of the load's intervals: in a short run they tell the parts apart, in a long one they are few.
const SHORT_INTERVAL: Duration = Duration::from_millis(50);
const LONG_INTERVAL: Duration = Duration::from_secs(1);
/// From here on a run is long.
const LONG_GIB: f64 = 4.0;
/// How often progress is said.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long nothing may be acknowledged.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// Options of `coracle-bench tiers endurance`.
#[derive(Args, Clone, Debug)]
pub struct EnduranceArgs {
    /// GiB of values that are written
    #[arg(long, default_value_t = 50.0, value_parser = parse_gib)]
    gib: f64,
    /// Bytes of each value
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    value_bytes: u32,
    /// Distinct keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,
    #[command(flatten)]
    pub common: Common,
}

fn parse_gib(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(gib) if (0.001..=100_000.0).contains(&gib) => Ok(gib),
        _ => Err("expected a number of GiB from 0.001 to 100000".to_owned()),
    }
}

impl EnduranceArgs {
    /// What it needs before it begins.
    pub fn needs(&self) -> Needs {
        let defaults = Tier {
            log_memory_mib: Some(LOG_MEMORY_MIB),
            log_disk_mib: Some(LOG_DISK_MIB),
            ..Tier::default()
        };
        let written_mib = (self.gib * 1024.0) as u64;
        let node_mib = match self.common.bare {
            // Small values may take several times their size.
            true => written_mib * 3,
            false => self.common.tier.log_disk_mib.unwrap_or(LOG_DISK_MIB) + 512,
        };
        Needs { nodes: NODES, disk_mib: node_mib * NODES, defaults }
    }
}

/// What one part of the run looked like.
struct Part {
    span: Span,
    rss_mib: Vec<f64>,
    disk_mib: Vec<f64>,
}

/// Plays the scenario.
///
/// # Errors
/// [`TiersError`].
pub fn run(args: &EnduranceArgs, stage: &mut Stage, report: &mut Report) -> Result<(), TiersError> {
    stage.cluster.start_all()?;
    let value_bytes = args.value_bytes as usize;
    stage.fill(value_bytes, args.keys)?;
    let writes = (args.gib * (1_u64 << 30) as f64 / value_bytes as f64).ceil() as u64;
    let settings = Settings {
        clients: args.common.clients.unwrap_or(32),
        pipeline: args.common.pipeline.unwrap_or(32) as usize,
        requests: Some(writes),
        interval: if args.gib < LONG_GIB { SHORT_INTERVAL } else { LONG_INTERVAL },
        ..stage.load_settings(value_bytes, args.keys)
    };
    stage.say(&format!("writing {} GiB of values, {} writes", args.gib, grouped(writes)));
    let start = Instant::now();
    let load = Background::start(&settings)?;
    let bounds = watch_parts(stage, &load, writes, start)?;
    let parts: Vec<Part> =
        bounds.windows(2).map(|bounds| part_of(stage, &load, bounds[0], bounds[1])).collect();
    let end = Instant::now();
    complete("writing", &load.finish()?, writes)?;

    let mut heads = vec!["part", "writes/s", "p99", "max"];
    let names: Vec<String> = stage
        .cluster
        .ids()
        .map(|id| format!("node {id} MiB RSS"))
        .chain(stage.cluster.ids().map(|id| format!("node {id} MiB disk")))
        .collect();
    heads.extend(names.iter().map(String::as_str));
    let mut table = Table::new("the run in parts of equally many bytes", &heads);
    for (nth, part) in parts.iter().enumerate() {
        let mut row = vec![
            (nth + 1).to_string(),
            grouped(part.span.per_second() as u64),
            micros(part.span.us(0.99)),
            micros(part.span.latency.max() as f64 / 1e3),
        ];
        row.extend(part.rss_mib.iter().chain(&part.disk_mib).map(|mib| format!("{mib:.0}")));
        table.row(row);
    }
    report.tables.push(table);
    let disk = disk_table(stage, start, end, report);
    report.tables.push(disk);
    judge(args, &parts, report);
    let per_second: Vec<f64> = parts.iter().map(|part| part.span.per_second()).collect();
    report.figure("writes_per_second", per_second);
    report.figure("rss_mib", parts.iter().map(|part| part.rss_mib.clone()).collect::<Vec<_>>());
    report.figure("disk_mib", parts.iter().map(|part| part.disk_mib.clone()).collect::<Vec<_>>());
    report.figure("seconds", (end - start).as_secs_f64());
    Ok(())
}

/// Waits for the end of the load; gives when each part began, and the end.
fn watch_parts(
    stage: &mut Stage,
    load: &Background,
    writes: u64,
    start: Instant,
) -> Result<Vec<Instant>, TiersError> {
    let mut bounds = vec![start];
    let (mut said, mut moved, mut last) = (start, start, 0);
    while !load.is_over() {
        let (_, now) = stage.pass(Duration::from_millis(100))?;
        let done = load.acknowledged();
        while (bounds.len() as u64) < PARTS && done >= writes * bounds.len() as u64 / PARTS {
            bounds.push(now);
        }
        if done > last {
            (last, moved) = (done, now);
        }
        if now - moved > STANDSTILL_MAX {
            return Err(TiersError::Timeout {
                what: "more acknowledged writes".to_owned(),
                bound: STANDSTILL_MAX,
                last: format!("{done} of {writes}"),
            });
        }
        if now - said > SAY_EVERY {
            let span = load.between(said, now);
            let disk = mib(stage.seen.disk_max(1, said, now).total());
            let rss = mib(stage.seen.rss_max(1, said, now));
            said = now;
            stage.say(&format!(
                "{:>3.0} %  {}/s  p99 {}  node 1: {rss:.0} MiB resident, {disk:.0} MiB on disk",
                100.0 * done as f64 / writes as f64,
                grouped(span.per_second() as u64),
                micros(span.us(0.99)),
            ));
        }
    }
    bounds.push(Instant::now());
    Ok(bounds)
}

fn part_of(stage: &Stage, load: &Background, from: Instant, to: Instant) -> Part {
    let of_all =
        |figure: &dyn Fn(u64) -> u64| stage.cluster.ids().map(|id| mib(figure(id))).collect();
    Part {
        span: load.between(from, to),
        rss_mib: of_all(&|id| stage.seen.rss_max(id, from, to)),
        disk_mib: of_all(&|id| stage.seen.disk_max(id, from, to).total()),
    }
}

fn disk_table(stage: &Stage, start: Instant, end: Instant, report: &mut Report) -> Table {
    let mut table = Table::new("disk when it was fullest, in MiB", &["", "kind of file", ""]);
    for id in stage.cluster.ids() {
        let disk = stage.seen.disk_max(id, start, end);
        for (nth, (kind, bytes)) in disk.kinds.iter().enumerate() {
            let name = if nth == 0 { format!("node {id}") } else { String::new() };
            table.row([name, kind.clone(), short(mib(*bytes))]);
        }
        report.figure(format!("node_{id}_disk_bytes"), disk);
    }
    table
}

fn judge(args: &EnduranceArgs, parts: &[Part], report: &mut Report) {
    let most = |figures: &dyn Fn(&Part) -> &[f64], parts: &[Part]| {
        parts.iter().flat_map(|part| figures(part).to_vec()).fold(0.0, f64::max)
    };
    if !args.common.bare {
        let budget = args.common.tier.log_disk_mib.unwrap_or(LOG_DISK_MIB) as f64;
        let disk = most(&|part| &part.disk_mib, parts);
        report.targets.push(Target::at_most("disk of the fullest node", disk, budget, "MiB"));
    }
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
    report.targets.push(Target::at_least(
        "throughput of the last part to that of the first",
        last.span.per_second() / first.span.per_second(),
        THROUGHPUT_KEPT,
        "",
    ));
    let Some(second) = parts.get(1) else { return };
    for (nth, (last, second)) in last.rss_mib.iter().zip(&second.rss_mib).enumerate() {
        report.targets.push(Target::at_most(
            format!("resident memory of node {}, last part to second", nth + 1),
            last / second,
            MEMORY_GROWTH,
            "",
        ));
    }
}
