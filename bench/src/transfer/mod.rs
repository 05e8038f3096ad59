//! `coracle-bench transfer`: a snapshot pulled over the loopback interface from one core's files to
//! another's, beside the bounds of it: raw reads, raw writes and raw loopback in the same run.
//!
//! The rounds take turns, so that drift of the machine cancels out; the figures are medians. Both stores
//! are usually on one disk, which then reads and writes at once: "read and write" is that bound.

mod raw;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bytes::BytesMut;
use clap::Args;
use coracle::runtime::{CoreHandle, CoreSpec, GlommioEnv, RuntimeError, preflight, spawn_core};
use coracle::uring::{SyncMethod, UringDisk};
use coracle_engine::env::{Env, Listener};
use coracle_engine::raft::membership::Configuration;
use coracle_engine::snapshot::{OpenError, SnapshotId, SnapshotStore, WriteError};
use coracle_engine::transfer::budget::TransferBudget;
use coracle_engine::transfer::cancel::Cancel;
use coracle_engine::transfer::pull::{ConnectError, Pull, PullError, PullLimits, PullProgress};
use coracle_engine::transfer::serve::{ServeLimits, SnapshotService};
use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt;
use serde::Serialize;
use thiserror::Error;

use self::raw::Way;
use crate::report::{self, Progress, Table};
use crate::scratch::{ScratchError, scratch};

const CHUNK_BYTES: usize = 1 << 20;
const LOG_ID: [u8; 16] = [7; 16];
const ID: SnapshotId = SnapshotId { shard: ShardId(0), index: LogIndex(1), term: Term(1) };
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Measures how fast a snapshot moves from one core to another.
#[derive(Args, Clone, Debug)]
pub struct TransferArgs {
    /// Directory on the disk to measure; files are made in it and removed
    #[arg(long)]
    dir: PathBuf,
    /// Directory for the receiver, if it is to be on another disk
    #[arg(long)]
    to: Option<PathBuf>,
    /// Bytes of the snapshot in MiB
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Rounds of which the median is taken
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests outstanding
    #[arg(long, default_value_t = PullLimits::default().requests_outstanding)]
    window: usize,
    /// Received MiB after which chunks are made durable
    #[arg(long, default_value_t = PullLimits::default().sync_every_bytes >> 20)]
    sync_mib: u64,
    /// Pin sender and receiver to these CPUs
    #[arg(long, num_args = 2)]
    cpus: Option<Vec<usize>>,
    /// Write all results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Why the measurement ended early.
#[derive(Debug, Error)]
pub enum TransferBenchError {
    /// A core did not start or panicked.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The data directory cannot be made.
    #[error(transparent)]
    Dir(#[from] ScratchError),
    /// The disk or the network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A store did not open.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// A snapshot was not written.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// It was not pulled.
    #[error("{0}")]
    Pull(#[from] PullError),
    /// A core ended without saying why.
    #[error("a core ended early")]
    Ended,
    /// The results could not be kept.
    #[error(transparent)]
    Json(#[from] report::JsonError),
}

/// MiB/s of one round.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    read: f64,
    write: f64,
    read_and_write: f64,
    loopback: f64,
    pull: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    mib: u64,
    rounds: Vec<Round>,
    median: Round,
    /// The pull over the least of read, write and loopback.
    to_least: f64,
    /// The pull over the least of read and write at once, and loopback.
    to_least_at_once: f64,
}

/// Runs the command.
///
/// # Errors
/// See [`TransferBenchError`].
pub fn run(args: &TransferArgs) -> Result<(), TransferBenchError> {
    preflight::prepare(2, coracle::runtime::IO_MEMORY_BYTES).map_err(RuntimeError::from)?;
    let from = scratch(&args.dir)?;
    let to = scratch(args.to.as_ref().unwrap_or(&args.dir))?;
    for name in ["store", "raw"] {
        std::fs::create_dir(from.path().join(name))?;
        std::fs::create_dir(to.path().join(name))?;
    }
    let cpu = |place: usize| args.cpus.as_ref().map(|cpus| cpus[place]);
    let bytes = args.mib << 20;
    let source = from.path().join("raw/source");
    raw::make(&source, bytes)?;

    let (address, sender) = start_sender(from.path().join("store"), args.mib, cpu(0))?;
    let receiver = start_receiver(to.path().join("store"), address, args, cpu(1))?;

    let progress = Progress::new("transfer", args.rounds as u64);
    let target = to.path().join("raw/target");
    let rate = |time: Duration| args.mib as f64 / time.as_secs_f64();
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let read = rate(raw::run(&source, bytes, Way::Read)?);
        let write = rate(raw::run(&target, bytes, Way::Write)?);
        let read_and_write = rate(raw::both(&source, &target, bytes)?);
        std::fs::remove_file(&target)?;
        let loopback = rate(raw::loopback(bytes)?);
        let pull = rate(receiver.pull()?);
        let round = Round { read, write, read_and_write, loopback, pull };
        let text = format!(
            "pull {pull:.0} MiB/s; raw: read {read:.0}, write {write:.0}, both at once {read_and_write:.0}, \
             loopback {loopback:.0}"
        );
        progress.step(number as u64, &text);
        rounds.push(round);
    }
    drop(progress);
    receiver.end()?;
    drop(sender);
    let report = summary(args.mib, rounds);
    show(&report);
    if let Some(path) = &args.json {
        report::write_json(path, &report)?;
    }
    Ok(())
}

fn summary(mib: u64, rounds: Vec<Round>) -> Report {
    let median = |part: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let median = Round {
        read: median(|round| round.read),
        write: median(|round| round.write),
        read_and_write: median(|round| round.read_and_write),
        loopback: median(|round| round.loopback),
        pull: median(|round| round.pull),
    };
    let least = median.read.min(median.write).min(median.loopback);
    let at_once = median.read_and_write.min(median.loopback);
    let (to_least, to_least_at_once) = (median.pull / least, median.pull / at_once);
    Report { mib, rounds, median, to_least, to_least_at_once }
}

fn show(report: &Report) {
    let title = format!("A snapshot of {} MiB, medians of {}", report.mib, report.rounds.len());
    let mut table = Table::new(title, &["", "MiB/s"]);
    let median = &report.median;
    for (name, value) in [
        ("raw read", median.read),
        ("raw write", median.write),
        ("raw read and write at once", median.read_and_write),
        ("raw loopback", median.loopback),
        ("pull", median.pull),
    ] {
        table.row([name.to_owned(), format!("{value:.0}")]);
    }
    let percent = |value: f64| format!("{:.0} %", value * 100.0);
    table.row(["pull to least of read, write, loopback".to_owned(), percent(report.to_least)]);
    table.row([
        "pull to least of both at once, loopback".to_owned(),
        percent(report.to_least_at_once),
    ]);
    table.print();
}

type Outcome = Result<(), TransferBenchError>;

fn spec(name: &str, cpu: Option<usize>) -> CoreSpec {
    CoreSpec::new(name).pinned_to(cpu)
}

/// A core with a snapshot to give. It runs until the program ends.
fn start_sender(
    dir: PathBuf,
    mib: u64,
    cpu: Option<usize>,
) -> Result<(String, CoreHandle<Outcome>), TransferBenchError> {
    let (told, address) = mpsc::channel();
    let core = spawn_core(spec("sender", cpu), move |env| send(env, dir, mib, told))?;
    match address.recv() {
        Ok(address) => Ok((address, core)),
        Err(_) => {
            core.join()??;
            Err(TransferBenchError::Ended)
        }
    }
}

async fn send(env: GlommioEnv, dir: PathBuf, mib: u64, told: mpsc::Sender<String>) -> Outcome {
    let disk = UringDisk::open(&dir, SyncMethod::Auto).await?;
    let (store, _) = SnapshotStore::open(disk, LOG_ID).await?;
    let mut writer = store.create(ID).await?;
    for number in 0..mib {
        let mut buf = writer.buffer();
        for (place, word) in buf[..CHUNK_BYTES].chunks_exact_mut(8).enumerate() {
            let value = (number << 32 | place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            word.copy_from_slice(&value.to_le_bytes());
        }
        writer.put(buf, CHUNK_BYTES).await?;
    }
    let lone = Configuration::of_voters([NodeId(1)]).expect("one voter is a configuration");
    writer.finish(lone).await?;
    let budget = TransferBudget::unlimited().into();
    let service = SnapshotService::new(store, budget, ServeLimits::default());
    let listener = env.listen("127.0.0.1:0").await?;
    if told.send(listener.address().to_string()).is_err() {
        return Ok(());
    }
    loop {
        let (reader, writer, from) = listener.accept().await?;
        let service = service.clone();
        env.spawn(service.serve(env.clone(), (reader, writer), BytesMut::new(), from));
    }
}

/// A core that pulls when it is told to, until its `start` is dropped.
struct ReceiverCore {
    core: CoreHandle<Outcome>,
    start: UnboundedSender<()>,
    took: mpsc::Receiver<Duration>,
}

impl ReceiverCore {
    fn pull(&self) -> Result<Duration, TransferBenchError> {
        self.start.unbounded_send(()).map_err(|_| TransferBenchError::Ended)?;
        self.took.recv().map_err(|_| TransferBenchError::Ended)
    }

    fn end(self) -> Outcome {
        drop(self.start);
        self.core.join()?
    }
}

fn start_receiver(
    dir: PathBuf,
    address: String,
    args: &TransferArgs,
    cpu: Option<usize>,
) -> Result<ReceiverCore, TransferBenchError> {
    let (start, started) = unbounded();
    let (told, took) = mpsc::channel();
    let limits = PullLimits {
        requests_outstanding: args.window,
        sync_every_bytes: args.sync_mib << 20,
        ..PullLimits::default()
    };
    let core = spawn_core(spec("receiver", cpu), move |env| {
        receive(env, dir, address, limits, started, told)
    })?;
    Ok(ReceiverCore { core, start, took })
}

async fn receive(
    env: GlommioEnv,
    dir: PathBuf,
    address: String,
    limits: PullLimits,
    mut started: UnboundedReceiver<()>,
    told: mpsc::Sender<Duration>,
) -> Outcome {
    let disk = UringDisk::open(&dir, SyncMethod::Auto).await?;
    let (store, _) = SnapshotStore::open(disk, LOG_ID).await?;
    while started.next().await.is_some() {
        let start = env.now();
        let pull = Pull {
            env: &env,
            store: &store,
            id: ID,
            limits,
            budget: &TransferBudget::unlimited(),
            progress: &PullProgress::default(),
            cancel: &Cancel::default(),
        };
        let connect = async || {
            let (reader, writer) = env.connect(&address, CONNECT_TIMEOUT).await?;
            Ok::<_, ConnectError>((reader, writer, BytesMut::new()))
        };
        pull.run(connect).await?;
        let took = env.now() - start;
        store.discard(ID).await?;
        if told.send(took).is_err() {
            break;
        }
    }
    Ok(())
}
