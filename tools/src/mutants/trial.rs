//! Running the simulator, or tests, against what was built, and reading what they say.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::build::Builder;

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The simulator found it.
    Killed {
        /// Seeds that were tried until then, the failing one included.
        seeds: u64,
        /// The seed that failed.
        seed: u64,
        /// What was violated.
        invariant: String,
        /// How it was.
        message: String,
    },
    /// Tests found it.
    KilledByTests {
        /// The tests that failed.
        tests: Vec<String>,
    },
    /// Nothing found it.
    Survived {
        /// Seeds that were tried; 0 for tests.
        seeds: u64,
    },
    /// It compiles; nothing was run.
    Compiles,
    /// It could not be tried.
    Error {
        /// Why.
        message: String,
    },
}

/// Which seeds to try, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first one.
    pub first: u64,
    /// How many at most.
    pub count: u64,
    /// Longest time for all of them.
    pub time_max: Duration,
}

/// The last line of the simulator's output.
#[derive(Debug, Deserialize)]
struct Summary {
    seeds: u64,
    failures: Vec<Failure>,
}

#[derive(Debug, Deserialize)]
struct Failure {
    seed: u64,
    invariant: String,
    message: String,
}

/// How a program ended.
struct Ended {
    /// `None` when it took too long or was killed by a signal.
    code: Option<i32>,
    stdout: String,
    stderr: String,
    in_time: bool,
}

/// Runs the simulator until a seed fails.
#[must_use]
pub fn simulate(simulator: &Path, seeds: Seeds) -> Outcome {
    let mut command = Command::new(simulator);
    command
        .args(["--seeds", &seeds.count.to_string(), "--first-seed", &seeds.first.to_string()])
        .args(["--until-failure", "--json", "--shrink-runs", "0"]);
    match run(&mut command, seeds.time_max) {
        Ok(ended) => judge(&ended, seeds.first),
        Err(error) => Outcome::Error { message: format!("{}: {error}", simulator.display()) },
    }
}

fn judge(ended: &Ended, first: u64) -> Outcome {
    if !ended.in_time {
        return Outcome::Error { message: "the simulator took too long".to_owned() };
    }
    let last = ended.stdout.lines().last().unwrap_or_default();
    let summary: Result<Summary, _> = serde_json::from_str(last);
    match (ended.code, summary) {
        (Some(0), Ok(summary)) => Outcome::Survived { seeds: summary.seeds },
        (Some(1), Ok(summary)) => {
            let Some(failure) = summary.failures.into_iter().min_by_key(|failure| failure.seed)
            else {
                return Outcome::Error { message: "it failed, but names no seed".to_owned() };
            };
            let Failure { seed, invariant, message } = failure;
            Outcome::Killed { seeds: seed.saturating_sub(first) + 1, seed, invariant, message }
        }
        (code, _) => {
            let tail: Vec<&str> = ended.stderr.lines().rev().take(3).collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
            Outcome::Error { message: format!("the simulator ended with {code:?}: {tail}") }
        }
    }
}

/// Runs the tests of `selection` (arguments of `cargo test`), which are compiled already.
#[must_use]
pub fn test(builder: &Builder, name: &str, selection: &[&str], time_max: Duration) -> Outcome {
    let args: Vec<&str> =
        ["test"].iter().chain(selection).chain(&["--no-fail-fast"]).copied().collect();
    let ended = builder.cargo(name, &args).and_then(|mut cargo| run(&mut cargo, time_max));
    match ended {
        Ok(Ended { in_time: false, .. }) => Outcome::KilledByTests { tests: vec!["(hang)".into()] },
        Ok(Ended { code: Some(0), .. }) => Outcome::Survived { seeds: 0 },
        Ok(ended) => Outcome::KilledByTests { tests: failed_tests(&ended.stdout) },
        Err(error) => Outcome::Error { message: error.to_string() },
    }
}

/// The names in the lists of failures.
fn failed_tests(stdout: &str) -> Vec<String> {
    let lines = stdout.lines().filter_map(|line| line.strip_prefix("    "));
    let mut names: Vec<String> = lines
        .filter(|name| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '='))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Runs a program to its end, or ends it when its time is over.
fn run(command: &mut Command, time_max: Duration) -> io::Result<Ended> {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > time_max {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok(Ended {
        code: status.and_then(|status| status.code()),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        in_time: status.is_some(),
    })
}

/// Reads a stream to its end beside us, so that the program never waits for its reader.
fn drain(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stdout: &str) -> Ended {
        Ended { code: Some(code), stdout: stdout.to_owned(), stderr: String::new(), in_time: true }
    }

    #[test]
    fn the_lowest_failing_seed_counts() {
        let line = r#"progress
{"seeds": 9, "failures": [{"seed": 107, "invariant": "b", "message": "y"},
"#
        .replace(",\n", ", ")
            + r#"{"seed": 103, "invariant": "a", "message": "x"}], "seconds": 1.5}"#;
        let killed = Outcome::Killed {
            seeds: 4,
            seed: 103,
            invariant: "a".to_owned(),
            message: "x".to_owned(),
        };
        assert_eq!(judge(&ended(1, &line), 100), killed);
    }

    #[test]
    fn a_crash_of_the_simulator_is_no_kill() {
        let none = r#"{"seeds": 50, "failures": [], "seconds": 2}"#;
        assert_eq!(judge(&ended(0, none), 1), Outcome::Survived { seeds: 50 });
        assert!(matches!(judge(&ended(101, ""), 1), Outcome::Error { .. }));
        assert!(matches!(judge(&ended(1, none), 1), Outcome::Error { .. }));
        let late = Ended { in_time: false, ..ended(0, none) };
        assert!(matches!(judge(&late, 1), Outcome::Error { .. }));
    }

    #[test]
    fn failing_tests_are_named_once() {
        let text = "failures:\n\n---- a::b stdout ----\nthread 'a::b' panicked\n\nfailures:\n    a::b\n    c\n\n";
        assert_eq!(failed_tests(&format!("{text}{text}")), ["a::b", "c"]);
    }
}
