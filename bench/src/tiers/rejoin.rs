//! A node loses its data directory under full load and comes back: how long until it is a full member
//! again, how quickly its snapshots travel, and what clients notice.
//!
//! ```text
//! fill   raw figures   | before | killed, wiped | away | started ------ applies all ------ counts |  another dies
//!                       full load ...............................................................|   writes go on
//! ```
//!
//! *Applies all*: in every shard it has a value that was written after its start. *Counts*: it says itself
//! that no replica of it is returning any more (`INFO`, where it tells), and afterwards the proof:
//! another node is killed, and writes to all shards go on, which takes the vote of the one that came
//! back. The transfer's rate is that of the bytes that it says it received (`INFO`), from first to last; of
//! a server that does not tell, that of what is written to its snapshots' files. What could be had beside that load is
//! measured, too: the same way (read, send, write) without a server, at the expense of the load's commits.
//!
//! With `--interrupt` it is killed once more when half of the state has arrived, and must not receive that
//! half again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;

use super::control::{Control, Info};
use super::raw::RawRates;
use super::settings::{Common, Tier};
use super::stage::{Stage, span_figures, spans_table};
use super::targets::{Report, Target, mib};
use super::{Needs, TiersError};
use crate::load::background::{Background, Settings, Span};
use crate::load::workload::KEYS_MAX;
use crate::report::{Table, duration};

/// Nodes.
const NODES: u64 = 3;
/// The node that loses its data, and the one that is killed at the end.
const VICTIM: u64 = 3;
const OTHER: u64 = 1;
/// Least rate of the transfer, as a share of the raw bound.
const OF_RAW: f64 = 0.8;
/// What p99 may be meanwhile, to that of before.
const P99_RATIO_MAX: f64 = 2.0;
/// Most that an interrupted transfer may receive after the restart, as a share of what was missing then.
const RESUMED_MAX: f64 = 1.2;
/// Longest time to come back.
const REJOIN_BOUND: Duration = Duration::from_secs(1200);
/// Longest time to the next write after a kill.
const FAILOVER_BOUND: Duration = Duration::from_secs(30);
/// Time for things to settle after a change of load.
const SETTLE: Duration = Duration::from_secs(2);
/// Keys that are compared on all replicas at the end.
const COMPARED_MAX: u32 = 500;
/// The field of `INFO` that counts replicas which do not count yet.
const RETURNING: &str = "shards_returning";
/// The field of `INFO` that counts bytes of snapshots which were received since the process began.
const RECEIVED: &str = "snapshot_bytes_received";
/// Least time between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Options of `coracle-bench tiers rejoin`.
#[derive(Args, Clone, Debug)]
pub struct RejoinArgs {
    /// MiB of values that are the state
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    value_bytes: u32,
    /// Writes per second instead of full load
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Seconds of load before the node is killed: long enough that the snapshots which such a load brings are among it
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds that the node is away
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=3600))]
    away_s: u64,
    /// Kill the node once more, half way through
    #[arg(long)]
    interrupt: bool,
    /// MiB of the files for the raw figures
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=1 << 16))]
    raw_mib: u64,
    #[command(flatten)]
    pub common: Common,
}

impl RejoinArgs {
    fn keys(&self) -> u32 {
        let keys = (self.state_mib << 20) / u64::from(self.value_bytes);
        keys.clamp(1, KEYS_MAX.into()) as u32
    }

    /// What it needs before it begins.
    pub fn needs(&self) -> Needs {
        let defaults = Tier { log_memory_mib: Some(256), ..Tier::default() };
        let node_mib = self.common.tier.log_disk_mib.unwrap_or(self.state_mib * 4 + 2048);
        Needs { nodes: NODES, disk_mib: NODES * node_mib + 2 * self.raw_mib, defaults }
    }
}

/// When what happened, after the node was started again.
struct Comeback {
    started: Instant,
    applied: Instant,
    counts: Instant,
    resumed: Option<Resumed>,
    /// Bytes of snapshots that it said it had received, since it was started last; empty if it did not.
    received: Vec<(Instant, u64)>,
}

/// An interrupted transfer.
struct Resumed {
    /// Bytes of snapshots that it had when it was killed.
    had: u64,
    /// When it was started again.
    again: Instant,
}

/// Plays the scenario.
///
/// # Errors
/// [`TiersError`].
pub fn run(args: &RejoinArgs, stage: &mut Stage, report: &mut Report) -> Result<(), TiersError> {
    stage.cluster.start_all()?;
    let (value_bytes, keys) = (args.value_bytes as usize, args.keys());
    stage.fill(value_bytes, keys)?;
    stage.catches_up(VICTIM, "filled", REJOIN_BOUND)?;
    let (raw, files) = stage.raw_rates(args.raw_mib)?;

    let settings = Settings {
        clients: args.common.clients.unwrap_or(32),
        pipeline: args.common.pipeline.unwrap_or(8) as usize,
        rate: args.rate.map(f64::from),
        ..stage.load_settings(value_bytes, keys)
    };
    stage.say("full load");
    let load = Background::start(&settings)?;
    stage.pass(SETTLE)?;
    let (from, to) = stage.pass(Duration::from_secs(args.seconds))?;
    let before = load.between(from, to);
    stage.say("reading, sending and writing as quickly as it goes beside the load");
    let beside_load = files.run().map_err(TiersError::Raw)?;
    stage.pass(SETTLE)?;
    stage.say(&format!("node {VICTIM} is killed and wiped"));
    stage.cluster.kill(VICTIM);
    stage.cluster.wipe(VICTIM)?;
    stage.cluster.wait_ready()?;
    // What waited for the new leaders ends here.
    stage.pass(SETTLE)?;
    let (from, to) = stage.pass(Duration::from_secs(args.away_s))?;
    let away = load.between(from, to);
    let comeback = come_back(args, stage)?;
    let meanwhile = load.between(comeback.started, comeback.counts);
    let (from, to) = stage.pass(Duration::from_secs(args.seconds.min(5)))?;
    let after = load.between(from, to);
    drop(load);

    let same = stage.replicas_agree(keys.min(COMPARED_MAX))?;
    stage.say(&format!("node {OTHER} is killed: node {VICTIM} has to count"));
    stage.cluster.kill(OTHER);
    let failover = Instant::now();
    let mut control = stage.cluster.control();
    let goes_on = stage
        .cluster
        .until("writes without node 1", FAILOVER_BOUND, |_| control.put_probes("without"));
    let goes_on = match goes_on {
        Ok(()) => Some(failover.elapsed()),
        Err(TiersError::Timeout { .. }) => None,
        Err(error) => return Err(error),
    };

    let spans = [
        ("before", &before),
        ("one node away", &away),
        ("while it comes back", &meanwhile),
        ("after", &after),
    ];
    report.tables.push(spans_table("writes", &spans));
    for (name, span) in spans {
        report.figure(name.replace(' ', "_"), span_figures(span));
    }
    raw_table(&raw, beside_load, report);
    transfer(args, stage, &comeback, (&raw, beside_load), report);
    drop(files);
    judge(&before, &away, &meanwhile, report);
    report.targets.push(Target::holds("all replicas have the same values", same));
    let what = format!("writes go on after node {OTHER} is killed");
    report.targets.push(Target::holds(what, goes_on.is_some()));
    report.figure("failover_seconds", goes_on.map(|time| time.as_secs_f64()));
    Ok(())
}

/// Starts the node and waits until it is a full member.
fn come_back(args: &RejoinArgs, stage: &mut Stage) -> Result<Comeback, TiersError> {
    stage.say(&format!("node {VICTIM} is started, without data"));
    let started = stage.cluster.start(VICTIM)?;
    let mut resumed = None;
    if args.interrupt {
        let half = (args.state_mib << 20) / 2;
        let seen = stage.seen.clone();
        let received = move || {
            let samples = seen.chunks_written(VICTIM, started, Instant::now());
            samples.last().map_or(0, |(_, bytes)| *bytes)
        };
        let had = stage.cluster.until("half of the snapshots", REJOIN_BOUND, |_| {
            let bytes = received();
            if bytes >= half { Ok(bytes) } else { Err(format!("{:.0} MiB", mib(bytes))) }
        })?;
        stage.say(&format!("killed with {:.0} MiB of snapshots, and started again", mib(had)));
        stage.cluster.kill(VICTIM);
        let again = stage.cluster.start(VICTIM)?;
        resumed = Some(Resumed { had, again });
    }
    let mut control = stage.cluster.control();
    let address = stage.cluster.address(VICTIM);
    let mut received = Vec::new();
    stage.cluster.until("a mark in every shard", REJOIN_BOUND, |_| control.put_probes("back"))?;
    stage.cluster.until("the node to catch up", REJOIN_BOUND, |_| {
        look_at_received(&mut control, address, &mut received);
        control.has_probes(address, "back")
    })?;
    let applied = Instant::now();
    stage.say(&format!("it has applied all after {}", duration(applied - started)));
    stage.cluster.until("the node to count again", REJOIN_BOUND, |_| {
        look_at_received(&mut control, address, &mut received);
        match number(&control.info(address)?, RETURNING) {
            None | Some(0) => Ok(()),
            Some(count) => Err(format!("{count} of its replicas are returning")),
        }
    })?;
    let counts = Instant::now();
    stage.say(&format!("it is a full member after {}", duration(counts - started)));
    Ok(Comeback { started, applied, counts, resumed, received })
}

/// A number of `INFO`; none if the server does not tell.
fn number(info: &Info, name: &str) -> Option<u64> {
    info.get(name)?.parse().ok()
}

/// Adds what the node says it has received, unless it was asked just before.
fn look_at_received(control: &mut Control, node: SocketAddr, received: &mut Vec<(Instant, u64)>) {
    if received.last().is_some_and(|(at, _)| at.elapsed() < LOOK_EVERY) {
        return;
    }
    // A node that does not answer yet has received nothing.
    if let Ok(Some(bytes)) = control.info(node).map(|info| number(&info, RECEIVED)) {
        received.push((Instant::now(), bytes));
    }
}

fn raw_table(raw: &RawRates, beside_load: f64, report: &mut Report) {
    let mut table = Table::new("the machine itself, in MiB/s", &[]);
    let name = |what: &str| match raw.direct {
        true => what.to_owned(),
        false => format!("{what} (through the page cache)"),
    };
    for (what, rate) in [
        (name("O_DIRECT reads, depth 16"), raw.read),
        (name("O_DIRECT writes, with flush"), raw.write),
        ("loopback".to_owned(), raw.loopback),
        ("read, sent and written at the same time".to_owned(), raw.relay),
        ("the same beside the full load".to_owned(), beside_load),
    ] {
        table.row([what, format!("{rate:.0}")]);
    }
    report.tables.push(table);
    report.figure("raw", raw);
    report.figure("relay_beside_load", beside_load);
}

/// How the snapshots came in.
fn transfer(
    args: &RejoinArgs,
    stage: &Stage,
    comeback: &Comeback,
    (raw, beside_load): (&RawRates, f64),
    report: &mut Report,
) {
    let since = comeback.resumed.as_ref().map_or(comeback.started, |resumed| resumed.again);
    let grown = if comeback.received.is_empty() {
        let base = comeback.resumed.as_ref().map_or(0, |resumed| resumed.had);
        growth(since, base, &stage.seen.chunks_written(VICTIM, since, comeback.applied))
    } else {
        growth(since, 0, &comeback.received)
    };
    let mut table = Table::new("the way back", &[]);
    let seconds = |moment: Instant| duration(moment - comeback.started);
    table.row(["applied all after".to_owned(), seconds(comeback.applied)]);
    table.row(["full member after".to_owned(), seconds(comeback.counts)]);
    report.figure("applied_seconds", (comeback.applied - comeback.started).as_secs_f64());
    report.figure("member_seconds", (comeback.counts - comeback.started).as_secs_f64());
    let rate = match grown {
        Some(Growth { bytes, first, last }) => {
            table.row(["snapshots received".to_owned(), format!("{:.0} MiB", mib(bytes))]);
            table.row(["first bytes after".to_owned(), seconds(first)]);
            table.row(["last bytes after".to_owned(), seconds(last)]);
            report.figure("received_mib", mib(bytes));
            mib(bytes) / (last - first).as_secs_f64().max(1e-3)
        }
        None => f64::NAN,
    };
    table.row(["transfer".to_owned(), format!("{rate:.0} MiB/s")]);
    let share = rate / beside_load;
    table.row(["to what is possible beside the load".to_owned(), format!("{share:.2}")]);
    report.figure("transfer_mib_per_s", rate);
    report.targets.push(Target::at_least(
        "transfer to the least of raw read, raw write, loopback",
        rate / raw.bound(),
        OF_RAW,
        "",
    ));
    if let Some(resumed) = &comeback.resumed {
        let state = (args.state_mib << 20) as f64;
        let missing = (state - resumed.had as f64).max(1.0);
        let received = grown.map_or(f64::NAN, |grown| grown.bytes as f64);
        table.row(["had when it was killed".to_owned(), format!("{:.0} MiB", mib(resumed.had))]);
        report.figure("had_when_killed_mib", mib(resumed.had));
        report.targets.push(Target::at_most(
            "received after the restart, to what was missing",
            received / missing,
            RESUMED_MAX,
            "",
        ));
    }
    report.tables.push(table);
}

/// Bytes by which files grew, and from when to when.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    bytes: u64,
    first: Instant,
    last: Instant,
}

/// Sums up what was added from sample to sample, beginning with `base` at `begin`; what was removed is not
/// taken off.
fn growth(begin: Instant, base: u64, samples: &[(Instant, u64)]) -> Option<Growth> {
    let mut grown: Option<Growth> = None;
    let (mut before, mut since) = (base, begin);
    for &(at, bytes) in samples {
        if bytes > before {
            let added = bytes - before;
            grown = Some(match grown {
                None => Growth { bytes: added, first: since, last: at },
                Some(grown) => Growth { bytes: grown.bytes + added, last: at, ..grown },
            });
        }
        (before, since) = (bytes, at);
    }
    grown
}

fn judge(before: &Span, away: &Span, meanwhile: &Span, report: &mut Report) {
    let ratio = |calm: &Span| meanwhile.us(0.99) / calm.us(0.99);
    report.targets.push(Target::at_most(
        "p99 while it comes back, to before",
        ratio(before),
        P99_RATIO_MAX,
        "",
    ));
    report.figure("p99_to_away", ratio(away));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_was_added_whatever_was_removed_meanwhile() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let samples = [(at(0), 10), (at(1), 10), (at(2), 30), (at(3), 5), (at(4), 6), (at(5), 6)];
        let grown = growth(start, 10, &samples);
        assert_eq!(grown, Some(Growth { bytes: 21, first: at(1), last: at(4) }));
        assert_eq!(growth(start, 10, &samples[..2]), None);
        assert_eq!(growth(start, 10, &[]), None);
        let whole = growth(start, 0, &samples[1..2]);
        assert_eq!(whole, Some(Growth { bytes: 10, first: start, last: at(1) }));
    }
}
