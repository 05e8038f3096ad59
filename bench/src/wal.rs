//! `coracle-bench wal`: the raw device, the disk of a core and the log on it, side by side in one run.
//!
//! Three layers do the same work in turns, over and over, so that drift of the machine cancels out:
//! **raw** is a bare ring with a blocking wait, **disk** is [`UringDisk`] in a core's executor, and
//! **wal** is the log on that disk. "Idle" has nothing else to do; "busy" has a task that computes for
//! 200 us between looks, as a core does that applies entries.

mod log;
pub(crate) mod raw;
mod verdict;

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use coracle::runtime::{CoreSpec, GlommioEnv, RuntimeError, preflight, spawn_core};
use coracle::uring::{DeviceFacts, SyncMethod, UringDisk, UringFile, UringOptions};
use coracle_engine::env::Env;
use coracle_wal::{Disk, DiskFile, OpenMode};
use hdrhistogram::Histogram;
use serde::Serialize;
use thiserror::Error;

use self::log::Log;
use self::raw::RawDevice;
use self::verdict::{MethodFigures, verdict};
use crate::report::{self, Progress, Table};
use crate::scratch::{ScratchError, scratch};

/// What a busy core computes between two looks at its I/O.
const COMPUTE: Duration = Duration::from_micros(200);

/// Measures what the disk takes durably, and what the log makes of it.
#[derive(Args, Clone, Debug)]
pub struct WalArgs {
    /// Directory on the disk to measure; files are made in it and removed
    #[arg(long)]
    dir: PathBuf,
    /// How durable writes reach the device: auto, linked, dsync, buffered-none
    #[arg(long, default_value_t)]
    sync_method: SyncMethod,
    /// Pin the core to this CPU
    #[arg(long)]
    cpu: Option<usize>,
    /// Microseconds to look for completions before sleeping
    #[arg(long, default_value_t = 0)]
    spin_us: u64,
    /// Measure only the rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// A few seconds instead of about a minute
    #[arg(long)]
    quick: bool,
    /// Write all results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Why the measurement ended early.
#[derive(Debug, Error)]
pub enum WalBenchError {
    /// The core did not start or panicked.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The data directory cannot be made.
    #[error(transparent)]
    Dir(#[from] ScratchError),
    /// The disk failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The log did not open.
    #[error("{0}")]
    Open(#[from] coracle_wal::OpenError),
    /// The log refused records.
    #[error("{0}")]
    Append(#[from] coracle_wal::AppendError),
    /// The log failed.
    #[error("{0}")]
    Log(#[from] coracle_wal::WalFailure),
    /// The results could not be kept.
    #[error(transparent)]
    Json(#[from] report::JsonError),
}

/// Whether the core computes beside its I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Idle,
    Busy,
}

/// The work of one row.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    /// Bytes of one raw write, and raw writes in flight.
    raw_bytes: usize,
    raw_depth: usize,
    /// Bytes of one record's payload, and records in flight.
    record_bytes: usize,
    records: usize,
    /// What one record counts in MiB/s: the batch that it fills, or its payload.
    counted: usize,
    mode: Mode,
}

/// One record fills one batch: these bytes less what the log adds to it.
const fn batches(name: &'static str, bytes: usize, depth: usize, mode: Mode) -> Case {
    let record_bytes = bytes - log::BATCH_OVERHEAD_BYTES;
    Case {
        name,
        raw_bytes: bytes,
        raw_depth: depth,
        record_bytes,
        records: depth,
        counted: bytes,
        mode,
    }
}

/// Many small records in flight; raw writes take as many bytes at a time, one after another.
const fn records(name: &'static str, bytes: usize, count: usize, mode: Mode) -> Case {
    Case {
        name,
        raw_bytes: (bytes * count).next_multiple_of(4096),
        raw_depth: 1,
        record_bytes: bytes,
        records: count,
        counted: bytes,
        mode,
    }
}

const CASES: [Case; 10] = [
    batches("4 KiB, depth 1", 4 << 10, 1, Mode::Idle),
    batches("4 KiB, depth 1, busy", 4 << 10, 1, Mode::Busy),
    batches("4 KiB, depth 2", 4 << 10, 2, Mode::Idle),
    batches("64 KiB, depth 1", 64 << 10, 1, Mode::Idle),
    batches("64 KiB, depth 2", 64 << 10, 2, Mode::Idle),
    batches("64 KiB, depth 2, busy", 64 << 10, 2, Mode::Busy),
    records("1 KiB x 64 in flight", 1 << 10, 64, Mode::Idle),
    records("1 KiB x 1024 in flight", 1 << 10, 1024, Mode::Idle),
    records("128 B x 1024 in flight", 128, 1024, Mode::Idle),
    records("128 B x 1024 in flight, busy", 128, 1024, Mode::Busy),
];

/// What one layer did in one or more rounds.
#[derive(Clone, Debug)]
struct Sample {
    latency_ns: Histogram<u64>,
    bytes: u64,
    elapsed: Duration,
}

impl Sample {
    fn new() -> Self {
        let latency_ns = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        let latency_ns = latency_ns.expect("one nanosecond to a minute are valid bounds");
        Self { latency_ns, bytes: 0, elapsed: Duration::ZERO }
    }

    fn record(&mut self, latency: Duration, bytes: u64) {
        self.latency_ns.saturating_record(latency.as_nanos() as u64);
        self.bytes += bytes;
    }

    fn add(&mut self, other: &Sample) {
        self.latency_ns.add(&other.latency_ns).expect("all histograms have the same bounds");
        self.bytes += other.bytes;
        self.elapsed += other.elapsed;
    }

    fn us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    fn figures(&self) -> Figures {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        Figures {
            p50_us: self.us(0.5),
            p99_us: self.us(0.99),
            p999_us: self.us(0.999),
            max_us: self.latency_ns.max() as f64 / 1e3,
            mib_per_s: self.bytes as f64 / seconds / (1 << 20) as f64,
            per_s: self.latency_ns.len() as f64 / seconds,
        }
    }
}

/// One layer's results in one row.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    mib_per_s: f64,
    per_s: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    case: &'static str,
    raw: Figures,
    disk: Figures,
    wal: Figures,
    /// MiB/s of the log over those of the raw device.
    wal_to_raw: f64,
    /// Median of the log less that of the raw device.
    p50_over_raw_us: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    device: DeviceFacts,
    sync: String,
    o_direct: bool,
    rows: Vec<Row>,
    methods: Vec<MethodFigures>,
    verdict: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// See [`WalBenchError`].
pub fn run(args: &WalArgs) -> Result<(), WalBenchError> {
    preflight::prepare(1, coracle::runtime::IO_MEMORY_BYTES).map_err(RuntimeError::from)?;
    let scratch = scratch(&args.dir)?;
    let (spec, path) = (CoreSpec::new("bench").pinned_to(args.cpu), scratch.path().to_owned());
    let arguments = args.clone();
    let core = spawn_core(spec, move |env| async move { measure(env, &path, &arguments).await })?;
    let report = core.join()??;
    print(&report);
    if let Some(path) = &args.json {
        report::write_json(path, &report)?;
    }
    Ok(())
}

async fn measure(env: GlommioEnv, dir: &Path, args: &WalArgs) -> Result<Report, WalBenchError> {
    let options =
        UringOptions { sync_method: args.sync_method, spin: Duration::from_micros(args.spin_us) };
    let disk = UringDisk::open_with(dir, options).await?;
    let method = disk.sync_choice().method;
    let mut raw = RawDevice::new(&dir.join("raw"), method, disk.is_direct())?;
    let file = disk.open("raw", OpenMode::Existing).await?;
    let (round, rounds) = if args.quick { (0.1, 2) } else { (0.4, 5) };
    let time = Duration::from_secs_f64(round);
    let wanted = |case: &Case| args.only.as_ref().is_none_or(|part| case.name.contains(part));
    let cases: Vec<Case> = CASES.into_iter().filter(wanted).collect();
    let progress = Progress::new("wal", cases.len() as u64);
    let mut rows = Vec::new();
    let log = Log::open(&env, &dir.join("log"), options).await?;
    for case in &cases {
        let mut samples = [Sample::new(), Sample::new(), Sample::new()];
        for _ in 0..rounds {
            log.settle(&env).await?;
            samples[0].add(&raw.run(case.raw_bytes, case.raw_depth, time, case.mode)?);
            let busy = Computing::start(&env, case.mode);
            samples[1].add(&run_disk(&file, case.raw_bytes, case.raw_depth, time).await?);
            samples[2]
                .add(&log.run(case.record_bytes, case.records, case.counted as u64, time).await?);
            drop(busy);
        }
        let row = row_of(case, &samples);
        rows.push(row);
        progress.step(rows.len() as u64, case.name);
    }
    log.close().await?;
    let (sync, o_direct) = (disk.sync_choice().reason.clone(), disk.is_direct());
    drop((file, disk)); // a directory has one owner at a time
    let methods = measure_methods(&env, dir, time * rounds, &progress).await?;
    let device = DeviceFacts::of(dir)?;
    let verdict = verdict(&device, &methods);
    Ok(Report { device, sync, o_direct, rows, methods, verdict })
}

fn row_of(case: &Case, samples: &[Sample; 3]) -> Row {
    let [raw, disk, wal] = [0, 1, 2].map(|layer| samples[layer].figures());
    Row {
        case: case.name,
        wal_to_raw: wal.mib_per_s / raw.mib_per_s,
        p50_over_raw_us: wal.p50_us - raw.p50_us,
        raw,
        disk,
        wal,
    }
}

/// Durable writes of 4 KiB with each method, idle and busy.
async fn measure_methods(
    env: &GlommioEnv,
    dir: &Path,
    time: Duration,
    progress: &Progress,
) -> Result<Vec<MethodFigures>, WalBenchError> {
    let mut all = Vec::new();
    for method in [SyncMethod::Linked, SyncMethod::Dsync, SyncMethod::BufferedNone] {
        let disk = UringDisk::open(dir, method).await?;
        let file = disk.open("raw", OpenMode::Existing).await?;
        let mut figures = Vec::new();
        for mode in [Mode::Idle, Mode::Busy] {
            let busy = Computing::start(env, mode);
            figures.push(run_disk(&file, 4096, 1, time / 2).await?.figures());
            drop(busy);
        }
        all.push(MethodFigures {
            method,
            idle_p50_us: figures[0].p50_us,
            idle_p99_us: figures[0].p99_us,
            busy_p50_us: figures[1].p50_us,
            busy_p99_us: figures[1].p99_us,
        });
        progress.note(&format!("{method} done"));
    }
    Ok(all)
}

/// Keeps `depth` durable writes in flight through the disk of a core.
async fn run_disk(
    file: &UringFile,
    bytes: usize,
    depth: usize,
    time: Duration,
) -> io::Result<Sample> {
    let position = Rc::new(Cell::new(0));
    let start = Instant::now();
    let writers = (0..depth).map(|_| {
        let position = position.clone();
        async move {
            let mut sample = Sample::new();
            let mut buf = raw::pattern(bytes);
            while start.elapsed() < time {
                let at = position.get();
                let next = at + bytes as u64;
                position.set(if next + bytes as u64 > raw::FILE_BYTES { 0 } else { next });
                let since = Instant::now();
                let (result, back) = file.write_durable(at, buf, bytes).await;
                result?;
                sample.record(since.elapsed(), bytes as u64);
                buf = back;
            }
            io::Result::Ok(sample)
        }
    });
    let mut all = Sample::new();
    for sample in futures_util::future::join_all(writers).await {
        all.add(&sample?);
    }
    all.elapsed = start.elapsed();
    Ok(all)
}

/// Computes for one turn, in a way that is not optimised away.
fn compute() {
    let start = Instant::now();
    while start.elapsed() < COMPUTE {
        std::hint::spin_loop();
    }
}

/// A task that computes for as long as this lives.
struct Computing(Rc<Cell<bool>>);

impl Computing {
    fn start(env: &GlommioEnv, mode: Mode) -> Self {
        let on = Rc::new(Cell::new(mode == Mode::Busy));
        let (flag, turns) = (on.clone(), env.clone());
        env.spawn(async move {
            while flag.get() {
                compute();
                turns.yield_now().await;
            }
        });
        Self(on)
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn print(report: &Report) {
    let heads = ["", "", "p50", "p99", "p99.9", "max", "MiB/s", "per s", "of raw"];
    let mut table = Table::new(format!("durable writes, sync method {}", report.sync), &heads);
    for row in &report.rows {
        for (layer, figures) in [("raw", row.raw), ("disk", row.disk), ("wal", row.wal)] {
            let name = if layer == "raw" { row.case } else { "" };
            table.row([
                name.to_owned(),
                layer.to_owned(),
                report::micros(figures.p50_us),
                report::micros(figures.p99_us),
                report::micros(figures.p999_us),
                report::micros(figures.max_us),
                format!("{:.1}", figures.mib_per_s),
                report::grouped(figures.per_s as u64),
                format!("{:.0} %", 100.0 * figures.mib_per_s / row.raw.mib_per_s),
            ]);
        }
    }
    table.print();
    println!("\nverdict");
    for line in &report.verdict {
        println!("  {line}");
    }
}
