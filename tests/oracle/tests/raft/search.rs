//! Runs random cases; shrinks and tells the first that fails.

use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::time::Instant;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};

use crate::story::Story;
use crate::tally;

/// Cases of each kind unless told otherwise: a few seconds in a debug build.
const CASES: u32 = 1_000;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// Runs as many cases as the environment says; panics with the smallest failing one and its story.
pub fn search<S>(cases: S, run: impl Fn(&S::Value, &mut Story) -> Result<(), String>)
where
    S: Strategy,
    S::Value: Debug,
{
    let number = number("CORACLE_ORACLE_CASES", u64::from(CASES));
    search_some(u32::try_from(number).unwrap(), cases, run);
}

/// Like [`search`], with a number of cases.
pub fn search_some<S>(
    number_of_cases: u32,
    cases: S,
    run: impl Fn(&S::Value, &mut Story) -> Result<(), String>,
) where
    S: Strategy,
    S::Value: Debug,
{
    let seed = number("CORACLE_ORACLE_SEED", 1);
    let config = Config {
        cases: number_of_cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let began = Instant::now();
    let outcome = TestRunner::new(config).run(&cases, |case| {
        guarded(|| run(&case, &mut Story::default())).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => println!("{number_of_cases} cases in {:?}; {}", began.elapsed(), tally::line()),
        Err(TestError::Fail(why, case)) => {
            let mut story = Story::told();
            let _ = guarded(|| run(&case, &mut story));
            panic!("seed {seed}: {why}\n{}\nin {case:#?}", story.text());
        }
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}

/// Runs `work`; a panic in it becomes an error, silently, for shrinking causes hundreds.
fn guarded(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    })
}
