//! `coracle-bench recovery`: how fast a log is read back, beside the raw device in the same run.
//!
//! One core writes a log and dies without closing it. Then, in turns: **raw** reads the log's files through a
//! bare ring, one MiB at a time and sixteen at once; **open** is [`Wal::open`] with every record given to a
//! visitor; **summaries** is the same with an owner that takes the summaries of sealed segments; **reader** is
//! a [`LogReader`](coracle_wal::LogReader) from the first record to the last.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use coracle::runtime::{CoreSpec, GlommioEnv, RuntimeError, preflight, spawn_core};
use coracle::uring::{UringDisk, UringOptions};
use coracle_engine::env::Env;
use coracle_wal::{AppendError, Options, Record, RecordView, Recovery, Replay, SegmentInfo, Wal};
use serde::Serialize;
use thiserror::Error;

use crate::report::{self, Progress, Table};
use crate::scratch::{ScratchError, scratch};
use crate::wal::raw;

/// Measures how fast a log is opened and read.
#[derive(Args, Clone, Debug)]
pub struct RecoveryArgs {
    /// Directory on the disk to measure; files are made in it and removed
    #[arg(long)]
    dir: PathBuf,
    /// MiB of records in the log
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Bytes of a record's payload
    #[arg(long, default_value_t = 4096)]
    record_bytes: usize,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Pin the core to this CPU
    #[arg(long)]
    cpu: Option<usize>,
    /// Write all results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Why the measurement ended early.
#[derive(Debug, Error)]
pub enum RecoveryBenchError {
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
    Append(#[from] AppendError),
    /// The log failed.
    #[error("{0}")]
    Log(#[from] coracle_wal::WalFailure),
    /// The log could not be read.
    #[error("{0}")]
    Read(#[from] coracle_wal::ReadError),
    /// The results could not be kept.
    #[error(transparent)]
    Json(#[from] report::JsonError),
}

/// One way to read the log.
#[derive(Clone, Debug, Default, Serialize)]
struct Layer {
    name: &'static str,
    /// Bytes of one round.
    bytes: u64,
    seconds: Vec<f64>,
}

impl Layer {
    fn add(&mut self, bytes: u64, took: Duration) {
        self.bytes = bytes;
        self.seconds.push(took.as_secs_f64());
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default().max(1e-9)
    }

    fn mib_per_s(&self) -> f64 {
        self.bytes as f64 / self.median() / (1 << 20) as f64
    }
}

/// Counts what it is given, and takes summaries or not.
struct Visitor {
    summaries: bool,
    payload_bytes: u64,
}

impl Replay for Visitor {
    fn record(&mut self, record: RecordView<'_>) {
        self.payload_bytes += record.payload.len() as u64;
    }

    fn summary(&mut self, _: &SegmentInfo, _: &[u8]) -> bool {
        self.summaries
    }
}

/// Runs the command.
///
/// # Errors
/// See [`RecoveryBenchError`].
pub fn run(args: &RecoveryArgs) -> Result<(), RecoveryBenchError> {
    preflight::prepare(1, coracle::runtime::IO_MEMORY_BYTES).map_err(RuntimeError::from)?;
    let scratch = scratch(&args.dir)?;
    let spec = || CoreSpec::new("bench").pinned_to(args.cpu);
    let (path, arguments) = (scratch.path().to_owned(), args.clone());
    spawn_core(spec(), move |env| async move { write(env, &path, &arguments).await })?.join()??;
    let (path, arguments) = (scratch.path().to_owned(), args.clone());
    let core = spawn_core(spec(), move |_| async move { measure(&path, &arguments).await })?;
    let layers = core.join()??;
    print(&layers);
    if let Some(path) = &args.json {
        report::write_json(path, &layers)?;
    }
    Ok(())
}

/// Writes the log and leaves it as a killed process would.
async fn write(env: GlommioEnv, dir: &Path, args: &RecoveryArgs) -> Result<(), RecoveryBenchError> {
    let disk = UringDisk::open_with(dir, UringOptions::default()).await?;
    let mut visitor = Visitor { summaries: false, payload_bytes: 0 };
    let (wal, driver, _) = Wal::open(disk, Options::default(), &mut visitor).await?;
    env.spawn(async move {
        // A failure is latched in the log; the end of the core is what is wanted.
        let _ = driver.run().await;
    });
    let payload = vec![0x5a; args.record_bytes];
    let record = [Record { stream: 1, kind: 1, head: &[], body: &payload }];
    let mut left = (args.mib << 20) / (args.record_bytes as u64).max(1);
    while left > 0 {
        match wal.append(&record) {
            Ok(_) => left -= 1,
            Err(AppendError::Full { .. }) => {
                wal.durable_beyond(wal.durable()).await?;
            }
            Err(error) => return Err(error.into()),
        }
        summarize(&wal);
    }
    while wal.backlog_bytes() > 0 {
        wal.durable_beyond(wal.durable()).await?;
    }
    while wal.stats().summaries + 1 < wal.stats().segments {
        summarize(&wal);
        env.sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn summarize(wal: &Wal<UringDisk>) {
    while let Some(segment) = wal.take_sealed() {
        wal.summarize(segment.sequence, vec![0; 4096]);
    }
}

async fn measure(dir: &Path, args: &RecoveryArgs) -> Result<Vec<Layer>, RecoveryBenchError> {
    let disk = UringDisk::open_with(dir, UringOptions::default()).await?;
    let names = ["raw", "open", "summaries", "reader"];
    let mut layers = names.map(|name| Layer { name, ..Layer::default() });
    let progress = Progress::new("reading", u64::from(args.rounds));
    for round in 0..args.rounds {
        let files = segment_files(dir)?;
        let start = Instant::now();
        let bytes = raw::read_files(&files, disk.is_direct())?;
        layers[0].add(bytes, start.elapsed());
        for (layer, summaries) in [(1, false), (2, true)] {
            let start = Instant::now();
            let (wal, recovery) = open(&disk, summaries).await?;
            layers[layer].add(recovery.bytes, start.elapsed());
            if !summaries {
                continue;
            }
            let (start, mut bytes) = (Instant::now(), 0);
            let mut reader = wal.reader(coracle_wal::Lsn(0));
            while let Some(batch) = reader.next().await? {
                bytes += batch.bytes() as u64;
            }
            layers[3].add(bytes, start.elapsed());
        }
        progress.step(u64::from(round) + 1, "rounds");
    }
    Ok(layers.to_vec())
}

async fn open(
    disk: &UringDisk,
    summaries: bool,
) -> Result<(Wal<UringDisk>, Recovery), RecoveryBenchError> {
    let mut visitor = Visitor { summaries, payload_bytes: 0 };
    let (wal, _, recovery) = Wal::open(disk.clone(), Options::default(), &mut visitor).await?;
    Ok((wal, recovery))
}

/// The segments that hold records, in order: all but those at the end without a batch.
fn segment_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn print(layers: &[Layer]) {
    let heads = ["", "MiB", "median s", "MiB/s", "of raw"];
    let mut table = Table::new("reading a log", &heads);
    let raw = layers.first().map_or(1.0, Layer::mib_per_s);
    for layer in layers {
        table.row([
            layer.name.to_owned(),
            (layer.bytes >> 20).to_string(),
            format!("{:.3}", layer.median()),
            format!("{:.0}", layer.mib_per_s()),
            format!("{:.0} %", 100.0 * layer.mib_per_s() / raw),
        ]);
    }
    table.print();
}
