//! Waiting for a condition, with a bound.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A bound for what should take a second or two: generous, because the machine may be slow and busy.
pub const SOON: Duration = Duration::from_secs(30);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `look` gives something; panics with `what` and the last reason when `bound` is over.
#[track_caller]
pub fn until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > bound => {
                panic!("waited {bound:?} for: {what}; last: {reason}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// The value of the environment variable `name`, for longer or shorter runs.
pub fn from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Says on the terminal, whatever the test harness captures, that a test was not possible here.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    let line = format!("SKIPPED {test}: {reason}\n");
    // The standard macros are captured by the test harness; this is not.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Keeps the other tests of this program waiting, for tests that need the machine for themselves.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held this leaves nothing behind that matters here.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
