//! Simulated clusters keep all invariants: on plans that once led to a failure, and on 150 seeds.
//!
//! `CORACLE_SEEDS=5000` runs more seeds (default 150), `CORACLE_SEED=7` begins with another one (default 0).
//! For many seeds `cargo sim` is the better way: it is built with more optimisation and shows how far it is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use coracle_tools::layout::repository_root;
use coracle_tools::sim::campaign::run_caught;
use coracle_tools::sim::sessions::WithSessions;
use coracle_tools::sim::{Campaign, Failed, Plan, Report, run};

fn runner(plan: &Plan, story: bool) -> Report {
    run(plan, &WithSessions::make, story)
}

fn simulate(plan: &Plan) -> Report {
    run_caught(plan, &runner, false)
}

fn number_from_env(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// Plans that are kept, with their files.
fn kept_plans() -> Vec<(PathBuf, Plan)> {
    let files = fs::read_dir(repository_root().join("tools/testdata/sim")).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let plan = toml::from_str(&text)
            .unwrap_or_else(|error| panic!("{} is no plan: {error}", path.display()));
        (path, plan)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_plan_that_is_kept_runs_without_a_violation() {
    let plans = kept_plans();
    assert!(!plans.is_empty());
    let mut failures = Vec::new();
    for (path, plan) in plans {
        let report = simulate(&plan);
        if let Some(failure) = report.failure {
            let path = path.strip_prefix(repository_root()).unwrap_or(&path).display();
            let failed = Failed { seed: plan.seed, failure };
            failures.push(format!("{path}: {failed}\nreplay: cargo sim --plan {path}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn a_plan_that_is_kept_hits_somebody() {
    for (path, plan) in kept_plans() {
        let happened = simulate(&plan).faults;
        let hit = plan.faults.iter().any(|timed| happened.contains_key(timed.fault.name()));
        assert!(hit || plan.faults.is_empty(), "{}: nothing happened", path.display());
    }
}

/// The plan has a disk stall under whoever leads shard 0, and clients that always want something.
#[test]
fn what_a_stalled_leader_led_is_led_elsewhere_within_two_election_timeouts() {
    let path = repository_root().join("tools/testdata/sim/stalled-leader.toml");
    let plan: Plan = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let story = runner(&plan, true).story;
    let seconds = |line: &str| -> f64 { line.split_whitespace().next().unwrap().parse().unwrap() };
    let stalled = story.iter().position(|line| line.contains("stalls for")).unwrap();
    let node = story[stalled].split(['/', ' ']).find_map(|word| word.parse::<u64>().ok()).unwrap();
    let own = format!("leader=Some(NodeId({node}))");
    let mut led = BTreeSet::new();
    let shard_of = |line: &str| {
        let (_, rest) = line.split_once("leadership changed shard=")?;
        rest.split(' ').next().map(str::to_owned)
    };
    for line in &story[..stalled] {
        let Some(shard) = shard_of(line) else { continue };
        if line.contains(&own) {
            led.insert(shard);
        } else if line.contains("leader=Some") {
            led.remove(&shard);
        }
    }
    assert!(!led.is_empty(), "node {node} leads nothing");
    let bound = seconds(&story[stalled]) + 2.0 * plan.settings.election_timeout().as_secs_f64();
    for line in story[stalled..].iter().take_while(|line| seconds(line) <= bound) {
        let elsewhere = line.contains("leader=Some") && !line.contains(&own);
        if let Some(shard) = shard_of(line).filter(|_| elsewhere) {
            led.remove(&shard);
        }
    }
    assert!(led.is_empty(), "shards {led:?} are still led by node {node}, whose disk stalls");
}

#[test]
fn the_first_seeds_violate_nothing() {
    let mut campaign = Campaign::of(number_from_env("CORACLE_SEEDS").unwrap_or(150));
    campaign.first_seed = number_from_env("CORACLE_SEED").unwrap_or(0);
    match campaign.check(WithSessions::make) {
        Ok(total) => println!("{total}"),
        Err(found) => panic!("\n{found}\nreplay: cargo sim --seed {}\n", found.failed.seed),
    }
}

#[test]
fn the_same_seed_goes_the_same_way_whether_its_story_is_told_or_not() {
    let mut hashes = BTreeSet::new();
    for seed in 0..15 {
        let plan = Plan::draw(seed);
        let (first, second) = (simulate(&plan), run_caught(&plan, &runner, true));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed} goes two ways");
        assert_eq!((first.polls, first.faults), (second.polls, second.faults), "seed {seed}");
        hashes.insert(first.trace_hash);
    }
    assert_eq!(hashes.len(), 15, "seeds go different ways");
}

#[test]
fn a_plan_that_was_written_down_goes_the_same_way() {
    for seed in 200..205 {
        let plan = Plan::draw(seed);
        let read: Plan = toml::from_str(&toml::to_string(&plan).unwrap()).unwrap();
        assert_eq!(simulate(&plan).trace_hash, simulate(&read).trace_hash, "seed {seed}");
    }
}
