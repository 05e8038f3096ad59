//! `coracle-bench load`: how many requests per second, and how long each takes, over RESP.
//!
//! Two kinds of run:
//!
//! * **Closed loop** (default): each client sends `--pipeline` commands, waits for all replies, sends
//!   the next ones. It finds the most that the server can do; its latencies are those of a busy server.
//! * **Open loop** (`--rate`): requests have moments at which they are due, whatever the server does.
//!   A request that has to wait for its client's turn is late, and its lateness counts: `intended`
//!   latency runs from the due moment (no coordinated omission), `service` latency from the moment at
//!   which the client was free to send it.
//!
//! The servers are a Redis Cluster, found through any of its members, or with `--single` any one RESP
//! server. Servers may fail, come back and redirect; the run goes on, and the report says what
//! happened to each request (see [`session`]).
//!
//! The tool is built to take little CPU from the servers that share its machine: one thread by
//! default, no runtime, one `read` and one `write` per client and batch, no allocation per request.

pub mod background;
pub mod client;
mod outcome;
mod plan;
pub mod resp;
mod session;
pub mod slots;
mod stats;
pub mod topology;
mod worker;
pub mod workload;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use thiserror::Error;

pub use outcome::Outcome;
pub use stats::{LatencySummary, latency_histogram};

use crate::report::{self, JsonError, Progress, grouped, micros};
use plan::Plan;
use topology::{ReachError, Topology, ask_cluster, ask_single};
use worker::{Interval, WorkerReport};
use workload::{Codec, KEYS_MAX, KeySpace, STAMP_BYTES, VALUE_BYTES_MAX};

/// Most clients: each has at least one connection.
const CLIENTS_MAX: i64 = 100_000;
/// Most commands in one write.
const PIPELINE_MAX: i64 = 100_000;
/// One line of progress for each of these.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// File descriptors that the tool needs besides its connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// Options of `coracle-bench load`.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Servers to start from, host:port; one member of a cluster is enough
    #[arg(long, default_value = "127.0.0.1:7001", value_delimiter = ',')]
    addr: Vec<String>,
    /// The address is one plain RESP server, not a cluster
    #[arg(long)]
    single: bool,
    /// Independent clients
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    clients: u32,
    /// Commands that a client sends before it waits for the replies
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=PIPELINE_MAX))]
    pipeline: u32,
    /// Measured time
    #[arg(long, default_value_t = 10.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Time before it that is not counted
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS", value_parser = parse_seconds)]
    warmup: f64,
    /// Stop after so many requests, if the time is not up before
    #[arg(long)]
    requests: Option<u64>,
    /// Bytes of each value
    #[arg(long, default_value_t = 128, value_parser = parse_value_bytes)]
    value_bytes: usize,
    /// Reads (GET) among 100 requests; the others are writes (SET)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    read_percent: u32,
    /// Requests per second over all clients: an open loop
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// Distinct keys, chosen at random
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,
    /// Check that values read are values written, and that no acknowledged write is missing
    #[arg(long)]
    check: bool,
    /// Threads of load; one is enough unless it is the bottleneck
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// How long a reply may take before the connection is given up, in milliseconds
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// How long a request that is refused for now is tried again, in milliseconds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    retry_ms: u64,
    /// Seed of the choice of keys, to repeat a run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0 to 1000000".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("expected requests per second, from 0.001 to 100000000".to_owned()),
    }
}

fn parse_value_bytes(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(bytes) if (1..=VALUE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("expected a number of bytes from 1 to {VALUE_BYTES_MAX}")),
    }
}

/// Why a run did not happen, or must not count.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A name in `--addr` has no address.
    #[error("cannot resolve {address}: {source}; give --addr as host:port")]
    Resolve {
        /// What was given.
        address: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of the servers can be measured.
    #[error("no server can be reached:{}", list(.0))]
    Unreachable(Vec<ReachError>),
    /// `--check` with values too small to carry what is checked.
    #[error(
        "--check needs --value-bytes {STAMP_BYTES} or more: values then name their key and write"
    )]
    ValueTooSmall,
    /// The operating system refuses what the tool itself needs.
    #[error("cannot start a thread of load: {0}")]
    Worker(io::Error),
    /// More connections than open files are allowed.
    #[error(
        "{needed} open files are needed for {clients} clients, but only {limit} are allowed; \
         raise the limit (ulimit -n) or lower --clients"
    )]
    OpenFiles {
        /// Descriptors needed.
        needed: u64,
        /// Clients asked for.
        clients: u32,
        /// The hard limit.
        limit: u64,
    },
    /// A thread of load ended by a panic.
    #[error("a thread of load failed; this is a bug of coracle-bench")]
    WorkerPanicked,
    /// The run took place but not one request succeeded.
    #[error("not one request succeeded: {0}")]
    NothingSucceeded(String),
    /// Values were read that cannot be right.
    #[error("{0} values read cannot be right; see the table")]
    Violations(u64),
    /// The results cannot be written.
    #[error(transparent)]
    Json(#[from] JsonError),
}

fn list(errors: &[ReachError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

/// Runs the command: measures, prints the table, writes the JSON.
///
/// # Errors
/// [`LoadError`]. A run in which some requests failed is not an error: the report counts them.
pub fn run(args: &LoadArgs) -> Result<(), LoadError> {
    let plan = prepare(args)?;
    let progress = Progress::new("load", (args.warmup + args.seconds).ceil() as u64);
    let outcome = execute(&plan, &progress)?;
    drop(progress);
    outcome.print();
    if let Some(path) = &args.json {
        report::write_json(path, &outcome)?;
    }
    outcome.verdict()
}

/// Finds the servers and fixes everything that the run needs.
fn prepare(args: &LoadArgs) -> Result<Plan, LoadError> {
    if args.check && args.value_bytes < STAMP_BYTES {
        return Err(LoadError::ValueTooSmall);
    }
    let topology = find_servers(&args.addr, args.single)?;
    let servers: BTreeMap<SocketAddr, ()> =
        topology.ranges().iter().map(|range| (range.owner, ())).collect();
    raise_open_files(args.clients, servers.len() as u64)?;
    Ok(Plan {
        warmup: Duration::from_secs_f64(args.warmup),
        duration: Duration::from_secs_f64(args.seconds),
        requests: args.requests,
        clients: args.clients,
        pipeline: args.pipeline as usize,
        threads: args.threads.min(args.clients),
        rate: args.rate,
        read_percent: args.read_percent,
        check: args.check,
        timeout: Duration::from_millis(args.timeout_ms),
        give_up: Duration::from_millis(args.retry_ms),
        seed: args.seed,
        in_turn: false,
        interval: PROGRESS_INTERVAL,
        stop_at: Arc::new(AtomicU64::new(u64::MAX)),
        keys: Arc::new(KeySpace::new(args.keys)),
        codec: Codec::new(new_run_id(), args.value_bytes),
        topology,
        start: Instant::now(),
    })
}

/// A number that tells this run's values from those of earlier ones.
fn new_run_id() -> u32 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| (since.as_nanos() / 1000) as u32 ^ std::process::id())
}

fn find_servers(addresses: &[String], single: bool) -> Result<Arc<Topology>, LoadError> {
    let mut seeds = Vec::new();
    for address in addresses {
        let found = address.to_socket_addrs();
        let found =
            found.map_err(|source| LoadError::Resolve { address: address.clone(), source })?;
        seeds.extend(found);
    }
    let mut errors = Vec::new();
    for &seed in &seeds {
        let asked = if single { ask_single(seed) } else { ask_cluster(seed) };
        match asked {
            Ok(ranges) if single => return Ok(Topology::fixed(ranges)),
            Ok(ranges) => return Ok(Topology::refreshed(ranges, seeds)),
            Err(error) => errors.push(error),
        }
    }
    Err(LoadError::Unreachable(errors))
}

/// Allows as many open files as the clients may need: one connection to each server for each.
fn raise_open_files(clients: u32, servers: u64) -> Result<(), LoadError> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limits = getrlimit(Resource::Nofile);
    let wanted = u64::from(clients) * servers + DESCRIPTORS_SPARE;
    if limits.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    limits.current = Some(limits.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let allowed = match setrlimit(Resource::Nofile, limits) {
        Ok(()) => limits.current.unwrap_or(u64::MAX),
        Err(_) => getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    };
    // One connection for each client is the least; more are needed only while slots move.
    let needed = u64::from(clients) + DESCRIPTORS_SPARE;
    if allowed < needed {
        return Err(LoadError::OpenFiles { needed, clients, limit: allowed });
    }
    Ok(())
}

/// Carries `plan` out on its threads, with a line of progress for each second.
fn execute(plan: &Plan, progress: &Progress) -> Result<Outcome, LoadError> {
    let plan = Plan { start: Instant::now(), ..plan.clone() };
    let cpu_before = cpu_time();
    let (sender, intervals) = channel();
    let (reports, seconds) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                let (plan, sender) = (&plan, sender.clone());
                scope.spawn(move || worker::run(plan, thread, sender))
            })
            .collect();
        drop(sender);
        let seconds = show_progress(&plan, &intervals, progress);
        let reports: Result<Vec<WorkerReport>, LoadError> = threads
            .into_iter()
            .map(|thread| {
                thread.join().map_err(|_| LoadError::WorkerPanicked)?.map_err(LoadError::Worker)
            })
            .collect();
        (reports, seconds)
    });
    let cpu = cpu_time().saturating_sub(cpu_before);
    Ok(Outcome::new(&plan, reports?, seconds, cpu))
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Merges the threads' intervals, shows each complete second, and returns them all.
fn show_progress(
    plan: &Plan,
    intervals: &Receiver<Interval>,
    progress: &Progress,
) -> Vec<outcome::Second> {
    if !plan.warmup.is_zero() {
        progress.note(&format!("warming up for {}", report::duration(plan.warmup)));
    }
    let warmup_seconds = plan.warmup.as_secs_f64().ceil() as u64;
    let mut open: BTreeMap<u64, (u32, stats::Stats)> = BTreeMap::new();
    let mut seconds = Vec::new();
    for Interval { number: second, stats } in intervals {
        let (heard, sum) = open.entry(second).or_insert_with(|| (0, stats::Stats::new()));
        *heard += 1;
        sum.add(&stats);
        if *heard < plan.threads {
            continue;
        }
        let Some((_, sum)) = open.remove(&second) else { continue };
        let latency = LatencySummary::from(&sum.service);
        let errors = sum.errors_total();
        let mut line = format!(
            "{:>9}/s  p50 {:>8}  p99 {:>8}  max {:>8}",
            grouped(sum.ok),
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.max_us),
        );
        if errors > 0 {
            line.push_str(&format!("  errors {}", grouped(errors)));
        }
        progress.step(warmup_seconds + second, &line);
        seconds.push(outcome::Second {
            second,
            ok: sum.ok,
            errors,
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            max_us: latency.max_us,
        });
    }
    seconds
}
