//! The one test command: every check of the repository, step by step, with times.
//!
//! `cargo run -p coracle-tools --bin check` in the root of the repository. All steps run even when
//! one fails; the exit code is 0 only if all pass. `.ci/run` calls this, too.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use coracle_tools::{layout, licences};

/// A step's problems; none when it passed.
type Problems = Vec<String>;

/// A step's name and what it does.
type Step = (&'static str, fn() -> Problems);

fn main() -> ExitCode {
    let steps: &[Step] = &[
        ("layout", layout_rules),
        ("licences", licences),
        ("format", || cargo("fmt", &["--all", "--check"], None)),
        ("lints", || {
            cargo("clippy", &["--workspace", "--all-targets", "--locked", "--", "-Dwarnings"], None)
        }),
        ("documentation", || {
            let warnings_fail = Some(("RUSTDOCFLAGS", "-Dwarnings"));
            cargo("doc", &["--workspace", "--no-deps", "--locked"], warnings_fail)
        }),
        ("tests", || cargo("test", &["--workspace", "--locked", "--no-fail-fast"], None)),
    ];
    let mut summary = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        let problems = step();
        for problem in &problems {
            println!("{problem}");
        }
        summary.push((*name, start.elapsed(), problems.is_empty()));
    }
    report(&summary)
}

fn report(summary: &[(&str, Duration, bool)]) -> ExitCode {
    println!("== summary");
    for (name, took, passed) in summary {
        println!(
            "{} {name:<14} {:>7.1} s",
            if *passed { "ok    " } else { "FAILED" },
            took.as_secs_f64()
        );
    }
    if summary.iter().all(|(_, _, passed)| *passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn layout_rules() -> Problems {
    match layout::check(Path::new(".")) {
        Ok(findings) => findings.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// `cargo deny` where it is installed; else our own check of licences and sources, which knows no
/// advisories.
fn licences() -> Problems {
    let installed = Command::new(cargo_path())
        .args(["deny", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if installed {
        return cargo("deny", &["check"], None);
    }
    println!("cargo-deny is not installed: licences and sources are checked, advisories are not");
    own_licence_check().unwrap_or_else(|problem| vec![problem])
}

fn own_licence_check() -> Result<Problems, String> {
    let policy = fs::read_to_string("deny.toml").map_err(|error| format!("deny.toml: {error}"))?;
    let metadata = Command::new(cargo_path())
        .args(["metadata", "--format-version", "1", "--locked"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let metadata = String::from_utf8_lossy(&metadata.stdout);
    licences::check(&policy, &metadata).map_err(|error| error.to_string())
}

fn cargo(command: &str, args: &[&str], variable: Option<(&str, &str)>) -> Problems {
    let line = format!("cargo {command} {}", args.join(" "));
    println!("$ {line}");
    let status = Command::new(cargo_path())
        .arg(command)
        .args(args)
        .envs(variable)
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Vec::new(),
        Ok(status) => vec![format!("`{line}` failed: {status}")],
        Err(error) => vec![format!("`{line}` could not be started: {error}")],
    }
}

/// The cargo that runs us, so that a toolchain override holds for all steps.
fn cargo_path() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
