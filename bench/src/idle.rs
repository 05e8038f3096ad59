//! `coracle-bench idle`: what many shards cost that have nothing to do, and how quickly they have leaders
//! again when a node dies.
//!
//! Starts real `coracle serve` processes on loopback and looks at them from outside:
//! 1. the time from the start of the first process until every shard has a leader;
//! 2. after a pause in which it all settles, the processor time of each process over a while, and its resident
//!    memory; a second cluster with one shard per core tells what of that the process itself takes;
//! 3. `kill -9` of one node: the time until no shard is without a leader among the others, and by how much
//!    the highest term of any shard rose.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::load::slots::SLOTS;
use crate::load::topology::ask_cluster;
use crate::tiers::TiersError;
use crate::tiers::cluster::{Cluster, Spec, server_beside_us};
use crate::tiers::guard::StopSignal;
use crate::tiers::monitor::{Monitor, rss_bytes};

/// Pause between two looks at who leads: an answer costs the asked node, and this program, some ten milliseconds
/// with thousands of shards.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for leaders.
const LEADERS_BOUND: Duration = Duration::from_secs(120);

/// Options of `coracle-bench idle`.
#[derive(Args, Clone, Debug)]
pub struct IdleArgs {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Cores of each node
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    cores: u16,
    /// Shards of the cluster
    #[arg(long, default_value_t = 1000)]
    shards: u32,
    /// How long the processor time is measured, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pause before that, in seconds
    #[arg(long, default_value_t = 10)]
    settle: u64,
    /// Do not kill a node at the end
    #[arg(long)]
    no_kill: bool,
    /// Where the data goes, in a directory that is removed at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The `coracle` program; default: the one beside this program
    #[arg(long)]
    server: Option<PathBuf>,
    /// More arguments for `coracle serve`, after `--`
    #[arg(last = true)]
    settings: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// [`TiersError`].
pub fn run(args: &IdleArgs) -> Result<(), TiersError> {
    let stop = StopSignal::watch().map_err(TiersError::Signals)?;
    let few = u32::from(args.cores);
    let process = measure(args, few, false, &stop)?;
    let found = measure(args, args.shards, !args.no_kill, &stop)?;
    let replicas = u64::from(args.shards - few.min(args.shards)).max(1);
    let replica_bytes = found.rss_bytes.saturating_sub(process.rss_bytes) / replicas;
    println!("nodes={} cores={} shards={}", args.nodes, args.cores, args.shards);
    println!("all shards have leaders after  {:.2} s", found.up.as_secs_f64());
    println!(
        "processor time while idle      {:.2} % of a core per process (with {few} shards {:.2} %)",
        found.cpu_percent, process.cpu_percent
    );
    println!(
        "resident memory                {:.1} MiB per process (with {few} shards {:.1}), {replica_bytes} bytes \
         per replica",
        found.rss_bytes as f64 / f64::from(1 << 20),
        process.rss_bytes as f64 / f64::from(1 << 20)
    );
    if let Some((time, terms)) = found.failover {
        println!(
            "one node killed: all shards have leaders after {} ms, the highest term rose by {terms}",
            time.as_millis()
        );
    }
    Ok(())
}

/// What one cluster was like; of several processes, the one that takes most.
struct Found {
    up: Duration,
    cpu_percent: f64,
    rss_bytes: u64,
    failover: Option<(Duration, u64)>,
}

fn measure(
    args: &IdleArgs,
    shards: u32,
    kill: bool,
    stop: &StopSignal,
) -> Result<Found, TiersError> {
    let fail = |source| TiersError::Dir { dir: args.dir.display().to_string(), source };
    let directory =
        tempfile::Builder::new().prefix("coracle-idle-").tempdir_in(&args.dir).map_err(fail)?;
    let (monitor, _watching) = Monitor::start(directory.path());
    let spec = Spec {
        server: args.server.clone().map_or_else(server_beside_us, Ok)?,
        dir: directory.path().to_owned(),
        nodes: args.nodes,
        cores: args.cores,
        shards,
        settings: args.settings.clone(),
    };
    let mut cluster = Cluster::prepare(spec, monitor, stop.clone())?;
    let begun = Instant::now();
    for id in cluster.ids() {
        cluster.start(id)?;
    }
    let first = cluster.address(1);
    wait_for_leaders(&mut cluster, first, None)?;
    let up = begun.elapsed();
    stop.sleep(Duration::from_secs(args.settle))?;
    let pids: Vec<u32> = cluster.ids().filter_map(|id| cluster.pid(id)).collect();
    let before: Vec<f64> = pids.iter().map(|pid| cpu_seconds(*pid)).collect();
    let since = Instant::now();
    stop.sleep(Duration::from_secs(args.seconds))?;
    let elapsed = since.elapsed().as_secs_f64();
    let used = pids.iter().zip(&before).map(|(pid, before)| cpu_seconds(*pid) - before);
    let cpu_percent = used.fold(0.0, f64::max) / elapsed * 100.0;
    let rss_bytes = pids.iter().filter_map(|pid| rss_bytes(*pid)).max().unwrap_or(0);
    let mut failover = None;
    if kill && args.nodes > 2 {
        let asked = cluster.address(2);
        let term = highest_term(&cluster, asked)?;
        let dead = cluster.address(1);
        cluster.kill(1);
        let killed = Instant::now();
        wait_for_leaders(&mut cluster, asked, Some((dead, args.cores)))?;
        failover = Some((killed.elapsed(), highest_term(&cluster, asked)?.saturating_sub(term)));
    }
    Ok(Found { up, cpu_percent, rss_bytes, failover })
}

/// Waits until the node at `address` knows a leader of every slot that is not at `dead`, a node with so many cores.
fn wait_for_leaders(
    cluster: &mut Cluster,
    address: SocketAddr,
    dead: Option<(SocketAddr, u16)>,
) -> Result<(), TiersError> {
    let is_dead = |owner: SocketAddr| {
        dead.is_some_and(|(first, cores)| {
            (first.port()..first.port() + cores).contains(&owner.port())
        })
    };
    cluster.until("a leader of every shard", LEADERS_BOUND, |_| {
        let ranges = ask_cluster(address).map_err(|error| error.to_string())?;
        let served = ranges.iter().filter(|range| !is_dead(range.owner));
        let slots: usize = served.map(|range| usize::from(range.last - range.first) + 1).sum();
        if slots == SLOTS {
            return Ok(());
        }
        std::thread::sleep(LOOK_PAUSE);
        Err(format!("{slots} of {SLOTS} slots have one"))
    })
}

fn highest_term(cluster: &Cluster, address: SocketAddr) -> Result<u64, TiersError> {
    let info = cluster.control().call(address, &[b"CLUSTER", b"INFO"]).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"));
    let term = line.and_then(|term| term.trim().parse().ok());
    term.ok_or(TiersError::NoField("cluster_current_epoch"))
}

/// Processor time that the threads of a process have used; 0 if it is gone.
fn cpu_seconds(pid: u32) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    // The first field is the time on a processor in nanoseconds (Documentation/scheduler/sched-stats.rst).
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}
