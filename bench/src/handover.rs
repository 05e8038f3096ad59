//! `coracle-bench handover`: leadership goes from node to node while an in-process cluster is under load. Measured is the
//! *gap*, the longest time in which nothing was committed, from the order until shortly after its answer and, for
//! comparison, in about as long a time without one; beside two round trips and one durable write of this machine.
//!
//! Whoever proposes meets a redirection and nothing else: any other failure ends the run with an error.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use coracle::{Committed, NodeHandle, NodeId, Pending, ProposeError, ShardId, TransferError};
use hdrhistogram::Histogram;
use serde::Serialize;
use thiserror::Error;

use crate::embedded::baseline::{Baseline, BaselineError, BaselineSummary};
use crate::embedded::cluster::Cluster;
use crate::embedded::drive::{Demand, DriveError, Driven, Target, block_on, drive};
use crate::load::{LatencySummary, latency_histogram};
use crate::report::{JsonError, Progress, Table, grouped, micros, write_json};
use crate::scratch::{ScratchError, scratch};

/// Time that is watched for a gap after a transfer was answered.
const WINDOW: Duration = Duration::from_millis(5);
/// Time between two transfers.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a transfer may take before the run is given up.
const TRANSFER_WITHIN: Duration = Duration::from_secs(30);

/// Options of `coracle-bench handover`.
#[derive(Args, Clone, Debug)]
pub struct HandoverArgs {
    /// Nodes, all in this process
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=9))]
    nodes: u16,
    /// Bytes of each proposal
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    value_bytes: u32,
    /// Proposals in flight at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Transfers
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    transfers: u32,
    /// Where the nodes keep their data, in a new directory that goes at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Also write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why there is no result, or none that counts.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The data directory cannot be made.
    #[error(transparent)]
    Dir(#[from] ScratchError),
    /// The raw figures cannot be taken.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// The cluster does not start.
    #[error("the cluster does not start: {0}")]
    Start(Box<dyn std::error::Error + Send + Sync>),
    /// The load ended early.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// Proposals met more than a redirection.
    #[error("{count} proposals failed: {kind}")]
    Failed {
        /// How many.
        count: u64,
        /// With what.
        kind: String,
    },
    /// Leadership did not move.
    #[error("transfer {number} failed: {reason}")]
    Transfer {
        /// Which one.
        number: u32,
        /// Why.
        reason: String,
    },
    /// The results cannot be written.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// When something was committed last, and the longest gap since it was asked for.
struct Watch {
    start: Instant,
    last_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Watch {
    fn new() -> Self {
        Self { start: Instant::now(), last_ns: AtomicU64::new(0), longest_ns: AtomicU64::new(0) }
    }

    fn committed(&self) {
        let now = self.now_ns();
        let gap = now.saturating_sub(self.last_ns.swap(now, Ordering::Relaxed));
        self.longest_ns.fetch_max(gap, Ordering::Relaxed);
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        self.longest_ns.store(0, Ordering::Relaxed);
    }

    /// The longest gap since [`Watch::begin`], one that lasts on included.
    fn longest_ns(&self) -> u64 {
        let open = self.now_ns().saturating_sub(self.last_ns.load(Ordering::Relaxed));
        self.longest_ns.load(Ordering::Relaxed).max(open)
    }
}

/// The cluster as a target whose commits are watched.
struct Watched<'a> {
    cluster: &'a Cluster,
    watch: &'a Watch,
}

struct Noted<'a> {
    answer: Pending<Committed, ProposeError>,
    watch: &'a Watch,
}

impl Future for Noted<'_> {
    type Output = Result<Committed, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.answer).poll(cx));
        if result.is_ok() {
            self.watch.committed();
        }
        Poll::Ready(result)
    }
}

impl<'a> Target for Watched<'a> {
    type Reply = Committed;
    type Answer = Noted<'a>;

    fn request(&self, node: usize, shard: ShardId, payload: Bytes) -> Noted<'a> {
        Noted { answer: self.cluster.request(node, shard, payload), watch: self.watch }
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.cluster.place(id)
    }

    fn nodes(&self) -> usize {
        self.cluster.nodes()
    }
}

/// What the transfers came to.
struct Moves {
    /// Longest gaps around transfers, nanoseconds.
    with: Histogram<u64>,
    /// Longest gaps in windows without one.
    without: Histogram<u64>,
    /// From the order to its answer.
    took: Histogram<u64>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    nodes: u16,
    in_flight: u32,
    committed: u64,
    commits_per_second: f64,
    redirected: u64,
    gap: LatencySummary,
    gap_without: LatencySummary,
    order: LatencySummary,
    /// Two round trips and one durable write, microseconds.
    bound_us: f64,
    /// Median gap divided by that.
    gap_to_bound: f64,
    raw: BaselineSummary,
}

/// Runs the command: measures, prints the table, writes the JSON.
///
/// # Errors
/// [`HandoverError`].
pub fn run(args: &HandoverArgs) -> Result<(), HandoverError> {
    let dir = scratch(&args.dir)?;
    let mut raw = Baseline::measure(dir.path())?;
    let cluster =
        Cluster::start(dir.path(), args.nodes, 1, 1, |_| {}).map_err(HandoverError::Start)?;
    let watch = Watch::new();
    let (driven, moves) = load(args, &cluster, &watch);
    cluster.stop();
    raw.add(&Baseline::measure(dir.path())?);
    let (driven, moves) = (driven?, moves?);
    if let Some((kind, &count)) = driven.errors.iter().next() {
        return Err(HandoverError::Failed { count, kind: kind.clone() });
    }
    let outcome = Outcome::new(args, &driven, &moves, &raw);
    outcome.print();
    args.json.as_deref().map_or(Ok(()), |path| write_json(path, &outcome))?;
    Ok(())
}

/// Loads the cluster from this thread while another one moves leadership.
fn load(
    args: &HandoverArgs,
    cluster: &Cluster,
    watch: &Watch,
) -> (Result<Driven, DriveError>, Result<Moves, HandoverError>) {
    // Some time for elections at the start, and for transfers that take longer.
    let time = Duration::from_secs(2) + 2 * PAUSE * args.transfers;
    let demand = Demand {
        shards: 1,
        value_bytes: args.value_bytes as usize,
        in_flight: args.in_flight as usize,
        warmup: Duration::ZERO,
        duration: time,
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let moving = scope.spawn(|| move_leadership(args, cluster.handles(), watch, &over));
        let driven = drive(&Watched { cluster, watch }, demand, |_, _| {});
        over.store(true, Ordering::Relaxed);
        (driven, moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn move_leadership(
    args: &HandoverArgs,
    nodes: &[NodeHandle],
    watch: &Watch,
    over: &AtomicBool,
) -> Result<Moves, HandoverError> {
    let mut moves = Moves {
        with: latency_histogram(),
        without: latency_histogram(),
        took: latency_histogram(),
    };
    let progress = Progress::new("handover", args.transfers.into());
    while watch.last_ns.load(Ordering::Relaxed) == 0 && !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
    for number in 1..=args.transfers {
        thread::sleep(PAUSE);
        watch.begin();
        thread::sleep(WINDOW);
        moves.without.saturating_record(watch.longest_ns());
        watch.begin();
        let begun = Instant::now();
        let leader =
            transfer(nodes).map_err(|reason| HandoverError::Transfer { number, reason })?;
        moves.took.saturating_record(begun.elapsed().as_nanos() as u64);
        thread::sleep(WINDOW);
        let gap_ns = watch.longest_ns();
        moves.with.saturating_record(gap_ns);
        let line = format!("to node {leader}, gap {}", micros(gap_ns as f64 / 1e3));
        progress.step(number.into(), &line);
        if over.load(Ordering::Relaxed) {
            break; // no load any more
        }
    }
    Ok(moves)
}

/// Has whoever leads hand over. Returns who leads then.
fn transfer(nodes: &[NodeHandle]) -> Result<NodeId, String> {
    let deadline = Instant::now() + TRANSFER_WITHIN;
    let mut at = 0;
    loop {
        let order = nodes[at].transfer_leadership(ShardId(0), None);
        let error = match block_on(order, deadline) {
            Some(Ok(leader)) => return Ok(leader),
            Some(Err(error)) if Instant::now() < deadline => error,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err(format!("no answer within {TRANSFER_WITHIN:?}")),
        };
        let TransferError::NotLeader { leader, .. } = &error else { return Err(error.to_string()) };
        let known = leader.and_then(|id| nodes.iter().position(|node| node.id() == id));
        at = known.unwrap_or((at + 1) % nodes.len());
    }
}

impl Outcome {
    fn new(args: &HandoverArgs, driven: &Driven, moves: &Moves, raw: &Baseline) -> Self {
        let trip = raw.round_trip.value_at_quantile(0.5);
        let bound_us = (trip + raw.commit_bound_ns()) as f64 / 1e3;
        Self {
            nodes: args.nodes,
            in_flight: args.in_flight,
            committed: driven.committed,
            commits_per_second: driven.committed as f64 / driven.elapsed.as_secs_f64(),
            redirected: driven.retries.get("not the leader").copied().unwrap_or(0),
            gap: LatencySummary::from(&moves.with),
            gap_without: LatencySummary::from(&moves.without),
            order: LatencySummary::from(&moves.took),
            bound_us,
            gap_to_bound: moves.with.value_at_quantile(0.5) as f64 / 1e3 / bound_us,
            raw: raw.summary(),
        }
    }

    fn print(&self) {
        let title = format!(
            "{} nodes, 1 shard, {} in flight, {} transfers",
            self.nodes, self.in_flight, self.gap.count
        );
        let mut table = Table::new(title, &[]);
        table.row(["commits/s".to_owned(), grouped(self.commits_per_second as u64)]);
        table.row(["redirected proposals".to_owned(), grouped(self.redirected)]);
        table.row(["two raw round trips + a durable write".to_owned(), micros(self.bound_us)]);
        table.row(["p50 of the gap / that".to_owned(), format!("{:.2}", self.gap_to_bound)]);
        table.print();
        let mut table = Table::new("", &LatencySummary::HEADS);
        table.row(self.gap.row("gap with a transfer"));
        table.row(self.gap_without.row("gap without"));
        table.row(self.order.row("order to answer"));
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
        args: HandoverArgs,
    }

    #[test]
    fn leadership_moves_under_load_and_nobody_fails() {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("out.json");
        let paths = ["--dir", dir.path().to_str().unwrap(), "--json", json.to_str().unwrap()];
        let few = ["--transfers", "3", "--in-flight", "8"];
        run(&Line::parse_from(["handover"].into_iter().chain(paths).chain(few)).args).unwrap();
        let file = std::fs::File::open(&json).unwrap();
        let found: serde_json::Value = serde_json::from_reader(file).unwrap();
        assert_eq!(found["gap"]["count"], 3, "{found}");
        assert!(found["committed"].as_u64() > Some(0) && found["redirected"].as_u64() > Some(0));
    }
}
