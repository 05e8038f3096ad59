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
