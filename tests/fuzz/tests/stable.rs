//! Every target on its seeds and on mutations of them, with a bound on its memory. The number of mutations of
//! each seed is small here and set by `CORACLE_FUZZ_ITERATIONS` for more.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_fuzz::mutate::mutate;
use coracle_fuzz::{Memory, Seed, TARGETS, Target, seeds, target};
use fastrand::Rng;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The memory of the process is measured: every test of this file runs alone.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs of a target beyond its seeds, unless told otherwise.
const RUNS: usize = 1000;

/// Where a failing input is put.
const ARTIFACTS: &str = env!("CARGO_TARGET_TMPDIR");

fn runs() -> usize {
    match std::env::var("CORACLE_FUZZ_ITERATIONS") {
        Ok(text) => text.parse().expect("CORACLE_FUZZ_ITERATIONS is a number"),
        Err(_) => RUNS,
    }
}

/// Runs a target on one input. A panic or too much memory is a failure with the input in a file.
fn run(target: &Target, name: &str, bytes: &[u8]) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    let used = MEMORY.peak_usage().saturating_sub(before);
    let most = target.memory.constant + target.memory.factor * bytes.len();
    if outcome.is_ok() && used <= most {
        return;
    }
    let path = Path::new(ARTIFACTS).join(format!("{}-{name}.seed", target.name));
    std::fs::write(&path, bytes).unwrap();
    let why = match outcome {
        Ok(()) => format!("it took {used} bytes, at most {most}: {}", target.memory.reason),
        Err(_) => "it panicked, see above".to_owned(),
    };
    panic!(
        "{} on {name} ({} bytes): {why}; the input is {}",
        target.name,
        bytes.len(),
        path.display()
    );
}

/// Runs a target on all its seeds and on a number of mutations, which are the same each time.
fn fuzz(name: &str) {
    let _alone = alone();
    let target = target(name).unwrap();
    let seeds = seeds::read(target).unwrap();
    for seed in &seeds {
        run(target, &seed.name, &seed.bytes);
    }
    let mut rng = Rng::with_seed(u64::from(crc32fast::hash(name.as_bytes())));
    for number in 0..runs() {
        let base = &seeds[number % seeds.len()];
        let other = &seeds[rng.usize(..seeds.len())];
        let mut bytes = mutate(&mut rng, &base.bytes, &other.bytes);
        if let Some(mend) = target.mend
            && rng.bool()
        {
            mend(&mut bytes);
        }
        run(target, &format!("{}-{number}", base.name), &bytes);
    }
}

macro_rules! each {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { fuzz(stringify!($name)); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

each!(
    resp,
    commands,
    kv_payload,
    snapshot,
    frames,
    hello,
    manifest,
    transfer,
    session,
    timers,
    wal_batch,
    wal_recovery,
    wal_records,
    config,
);

#[test]
fn every_target_has_a_test_an_entry_and_seeds() {
    let _alone = alone();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest: toml::Table =
        std::fs::read_to_string(dir.join("Cargo.toml")).unwrap().parse().unwrap();
    let bins: Vec<&str> = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bin| bin["name"].as_str().unwrap())
        .collect();
    for target in TARGETS {
        let name = target.name;
        assert!(TESTED.contains(&name), "{name} has no test in this file");
        assert!(bins.contains(&name), "{name} is no [[bin]] of tests/fuzz/fuzz/Cargo.toml");
        let entry = dir.join("fuzz_targets").join(name).with_extension("rs");
        assert!(entry.is_file(), "{} is missing", entry.display());
    }
    assert_eq!((bins.len(), TESTED.len()), (TARGETS.len(), TARGETS.len()));
}

/// A changed format shows here: its seeds are generated anew, and the change of the files is reviewed.
#[test]
fn committed_seeds_are_those_that_are_generated() {
    let _alone = alone();
    for target in TARGETS {
        let committed = seeds::read(target).unwrap();
        let mut generated = (target.seeds)();
        generated.sort_by(|a, b| a.name.cmp(&b.name));
        let committed: Vec<Seed> = committed
            .into_iter()
            .filter(|seed| !seed.name.starts_with(seeds::REGRESSION))
            .collect();
        let names = |seeds: &[Seed]| seeds.iter().map(|seed| seed.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&committed), names(&generated), "{}", target.name);
        for (committed, generated) in committed.iter().zip(&generated) {
            let same = committed == generated;
            assert!(same, "{} {}: run the bin `seeds`", target.name, committed.name);
        }
    }
}

/// What a seed is for: it comes further than the first check, so that mutations of it do.
#[test]
fn mended_seeds_stay_what_they_are() {
    let _alone = alone();
    for target in TARGETS {
        let Some(mend) = target.mend else { continue };
        for seed in (target.seeds)() {
            // Some seeds are torn or damaged on purpose: mending those is the exception.
            let mut bytes = seed.bytes.clone();
            mend(&mut bytes);
            let on_purpose = ["torn-tail", "damaged"].contains(&seed.name.as_str());
            assert!(on_purpose || target.name == "wal_recovery" || bytes == seed.bytes, "{seed:?}");
        }
    }
}

/// The harness itself: a target that believes a length fails, with the input in a file.
#[test]
#[should_panic(expected = "bytes, at most 65556: no reason")]
fn a_length_that_is_believed_is_caught() {
    let _alone = alone();
    let memory = Memory { constant: 64 << 10, factor: 1, reason: "no reason" };
    let greedy = Target {
        name: "greedy",
        run: |data| drop(std::hint::black_box(vec![0_u8; data.len() * (48 << 20) / 20])),
        mend: None,
        seeds: Vec::new,
        memory,
    };
    run(&greedy, "any", &[0; 20]);
}
