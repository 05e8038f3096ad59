//! Faults on real processes: nodes are killed, stopped and restarted, and what lies between them is
//! cut, clogged, narrowed, and made to lose, delay, reorder, repeat and damage frames, while clients
//! use all kinds of commands. `docs/testing.md` tells it in full.
//!
//! The long run is one command:
//!
//! ```sh
//! CORACLE_FAULT_MINUTES=10 cargo test --release --test faults -- --nocapture
//! ```
//!
//! `CORACLE_FAULT_SEED` chooses the faults (default 1), `CORACLE_FAULT_KINDS` makes only some kinds of
//! them (such as `KillAll,Replay`), `CORACLE_FAULT_RECOVERY_MS_MAX` is how long the cluster may take to serve after all
//! faults have ended (default 30,000, because the machine may be slow and busy).
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::nemesis::{Nemesis, Pace};
use support::network::namespace;
use support::traffic::{Finding, Traffic};
use support::wait;

/// Client threads.
const CLIENTS: usize = 6;

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// Of the short run: enough for most kinds of faults.
const SHORT: Pace = Pace { pause: (50, 250), length: (200, 1000), chaos: (5000, 5000), calm: 200 };

/// Of the long run: times up to several election timeouts, and at times a storm.
const LONG: Pace =
    Pace { pause: (100, 2000), length: (300, 5000), chaos: (5000, 20_000), calm: 3000 };

/// Lines of the timeline that a failure shows.
const TIMELINE_SHOWN: usize = 60;

/// Lines of its report that a failure shows on the terminal.
const WRONG_LINES_SHOWN: usize = 120;

fn seed() -> u64 {
    wait::from_env("CORACLE_FAULT_SEED", 1)
}

fn kinds() -> Vec<String> {
    let names = std::env::var("CORACLE_FAULT_KINDS").unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Errors in a node's log that faults bring about, and that it outlives.
const EXPECTED_ERRORS: [&str; 2] = [
    // A node that was killed comes back before its peers know that it was gone.
    "is in use by another running process",
    // A flipped bit in the version of a HELLO, which is looked at before the checksum.
    "of the peer protocol, this node speaks",
];

/// Lines in the logs of the nodes that should not be there.
fn complaints(cluster: &Cluster) -> Vec<Finding> {
    let mut found = Vec::new();
    for id in 1..=support::cluster::NODES {
        let log = std::fs::read(cluster.path(&format!("node-{id}.log"))).unwrap_or_default();
        for line in String::from_utf8_lossy(&log).lines() {
            let is_bad = line.contains("panicked") || line.contains(" ERROR ");
            if is_bad && !EXPECTED_ERRORS.iter().any(|expected| line.contains(expected)) {
                found.push(format!("node {id} logged: {line}").into());
            }
        }
    }
    found
}

/// Keeps all that is known about a run that failed, and gives what to print.
fn evidence(cluster: &mut Cluster, nemesis: &Nemesis, wrong: &[Finding]) -> (PathBuf, String) {
    let directory = cluster.keep_directory();
    let timeline = nemesis.timeline();
    let details: Vec<&str> = wrong.iter().map(|finding| finding.detail.as_str()).collect();
    let all = format!(
        "seed {}\n\n{}\n\ntimeline, with moments of the histories in brackets\n{}\n",
        seed(),
        details.join("\n\n"),
        timeline.join("\n")
    );
    std::fs::write(directory.join("failure.txt"), all).unwrap();
    let texts: Vec<&str> = wrong.iter().map(|finding| finding.text.as_str()).collect();
    let texts = texts.join("\n\n");
    let texts: Vec<&str> = texts.lines().take(WRONG_LINES_SHOWN).collect();
    let shown = &timeline[timeline.len().saturating_sub(TIMELINE_SHOWN)..];
    (directory, format!("{}\n\nlast faults:\n{}", texts.join("\n"), shown.join("\n")))
}

/// Says something at once, also where the output goes to a file.
fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

fn progress_line(nemesis: &Nemesis, traffic: &Traffic, started: Instant) -> String {
    let tally = traffic.tally();
    let kinds: Vec<_> =
        nemesis.made().iter().map(|(kind, count)| format!("{kind:?} {count}")).collect();
    format!(
        "{:5.0} s: {} ok, {} unknown, {} refused, {} stale reads; longest without an answer {:?}; {}",
        started.elapsed().as_secs_f64(),
        tally.acknowledged,
        tally.unknown,
        tally.refused,
        tally.stale_reads,
        tally.longest_gap,
        kinds.join(", ")
    )
}

fn summary(cluster: &mut Cluster, nemesis: &Nemesis, traffic: &Traffic, wrong: usize) {
    say("\nfault            times");
    for (kind, count) in nemesis.made() {
        say(&format!("{:<16} {count:>5}", format!("{kind:?}")));
    }
    say(&format!("{:<16} {:>5}", "all", nemesis.made().values().sum::<u64>()));
    if let Some(proxy) = cluster.network().proxy() {
        say(&format!("frames: {}", proxy.counters()));
    }
    let tally = traffic.tally();
    say(&format!(
        "operations: {} acknowledged, {} unknown, {} refused, {} stale reads",
        tally.acknowledged, tally.unknown, tally.refused, tally.stale_reads
    ));
    say(&format!("longest time without an answer: {:?}", tally.longest_gap));
    let recoveries = nemesis.recoveries();
    say(&format!(
        "recoveries: {}, longest {:?}",
        recoveries.len(),
        recoveries.iter().max().copied().unwrap_or_default()
    ));
    say(&format!("violations: {wrong}"));
}

/// Runs clients against faults on `cluster` until `is_over`, given the number of cycles; panics with
/// all that is wrong.
fn run(mut cluster: Cluster, pace: Pace, is_over: impl Fn(u64) -> bool) {
    let seed = seed();
    cluster.start_all();
    let mut nemesis = Nemesis::new(&mut cluster, pace, seed, &kinds());
    let mut traffic = Traffic::start(&cluster, CLIENTS, seed);
    let started = Instant::now();
    let mut said = Instant::now();
    let mut wrong: Vec<Finding> = Vec::new();
    let mut cycles = 0;
    while !is_over(cycles) {
        cycles += 1;
        let mut progress = |nemesis: &Nemesis| {
            if said.elapsed() >= PROGRESS {
                said = Instant::now();
                say(&progress_line(nemesis, &traffic, started));
            }
        };
        if let Err(reason) = nemesis.cycle(&mut cluster, &|| traffic.moment(), &mut progress) {
            wrong.push(reason.into());
            break;
        }
    }
    let found = match wrong.is_empty() {
        true => traffic.finish(&mut cluster),
        false => traffic.check_histories(),
    };
    wrong.extend(found);
    wrong.extend(complaints(&cluster));
    let defects = cluster.network().proxy().map(|proxy| proxy.defects()).unwrap_or_default();
    wrong.extend(defects.into_iter().map(Finding::from));
    let recovery_max =
        Duration::from_millis(wait::from_env("CORACLE_FAULT_RECOVERY_MS_MAX", 30_000));
    let slow = nemesis.recoveries().iter().filter(|recovery| **recovery > recovery_max);
    let slow = slow.map(|time| format!("it took {time:?} until all was served again").into());
    wrong.extend(slow.collect::<Vec<_>>());
    summary(&mut cluster, &nemesis, &traffic, wrong.len());
    if !wrong.is_empty() {
        let (directory, text) = evidence(&mut cluster, &nemesis, &wrong);
        panic!("seed {seed}; everything is kept in {}\n{text}", directory.display());
    }
}

/// The long run if the environment asks for one, else a short one.
fn run_as_asked(cluster: Cluster, short_cycles: u64) {
    match wait::from_env("CORACLE_FAULT_MINUTES", 0) {
        0 => run(cluster, SHORT, |cycles| cycles == short_cycles),
        minutes => {
            let end = Instant::now() + Duration::from_secs(60 * minutes);
            run(cluster, LONG, |_| Instant::now() >= end);
        }
    }
}

#[test]
fn clients_notice_no_fault() {
    let _alone = wait::alone();
    run_as_asked(Cluster::prepare_proxied(seed()), 2);
}

#[test]
fn clients_notice_no_lost_packets() {
    let _alone = wait::alone();
    let test = "clients_notice_no_lost_packets";
    if !namespace::is_possible() {
        return wait::skip(test, "network namespaces take root; the proxy has to do");
    }
    match Cluster::prepare_in_namespaces() {
        Err(reason) => wait::skip(test, &format!("{reason}; the proxy has to do")),
        Ok(cluster) => run_as_asked(cluster, 1),
    }
}
