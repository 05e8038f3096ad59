//! Builds each mutant, runs the simulator against it, and says how many seeds it took to notice it.
//!
//! `cargo mutants` in the root of the repository. Exits 1 if a mutant survives, cannot be tried, or if
//! the product without any fails.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use coracle_tools::layout::repository_root;
use coracle_tools::mutants::build::Builder;
use coracle_tools::mutants::report::{self, Tried};
use coracle_tools::mutants::table::{MUTANTS, Mutant, Part};
use coracle_tools::mutants::trial::{self, Outcome, Seeds};
use coracle_tools::mutants::wrapper::{self, UNMUTATED};

/// Known bugs, built in one at a time: does the simulator notice each of them?
#[derive(Debug, Parser)]
struct Options {
    /// Only these mutants; may be repeated.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Seeds to try at most, for each mutant.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Seeds on which the product without any mutant must not fail; 0 to skip that.
    #[arg(long, default_value_t = 50)]
    clean_seeds: u64,
    /// Longest time to run one mutant, in seconds.
    #[arg(long, default_value_t = 900)]
    seconds_max: u64,
    /// What to try them with.
    #[arg(long, value_enum, default_value_t = With::Sim)]
    with: With,
    /// Shows the mutants and ends.
    #[arg(long)]
    list: bool,
    /// Also writes the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also writes the results to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum With {
    /// The simulator.
    Sim,
    /// The tests of the crate that the mutant lives in.
    Tests,
    /// The simulator's scenario of the log alone, as a test (`CORACLE_SEEDS` seeds).
    WalOnly,
    /// Only the compiler.
    Check,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    if let Some(name) = wrapper::called_for(&program) {
        return wrapper::run(&name, args.collect::<Vec<OsString>>());
    }
    let options = Options::parse();
    let chosen = match choose(&options.only) {
        Ok(chosen) => chosen,
        Err(name) => {
            eprintln!("there is no mutant {name}; --list shows them");
            return ExitCode::from(2);
        }
    };
    if options.list {
        for mutant in chosen {
            println!("{:<28} {:<8} {}", mutant.name, format!("{:?}", mutant.part), mutant.what);
        }
        return ExitCode::SUCCESS;
    }
    match run(&options, &chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn choose(only: &[String]) -> Result<Vec<&'static Mutant>, String> {
    if let Some(name) = only.iter().find(|name| MUTANTS.iter().all(|m| m.name != **name)) {
        return Err(name.clone());
    }
    let wanted = |mutant: &&Mutant| only.is_empty() || only.iter().any(|n| n == mutant.name);
    Ok(MUTANTS.iter().filter(wanted).collect())
}

fn run(options: &Options, chosen: &[&'static Mutant]) -> Result<bool, String> {
    let builder = Builder::new(&repository_root());
    if options.with == With::Sim && options.clean_seeds > 0 {
        without_any(&builder, options)?;
    }
    let mut tried = Vec::new();
    for (number, mutant) in chosen.iter().enumerate() {
        announce(&format!("{:>2}/{} {}", number + 1, chosen.len(), mutant.name));
        let result = attempt(&builder, options, mutant);
        let (seeds, by) = result.cells();
        println!(
            "{:<28} {seeds:>7}  {by} (build {:.1} s, run {:.1} s)",
            mutant.name, result.build_seconds, result.run_seconds
        );
        tried.push(result);
        builder.clean().map_err(|error| format!("cannot clean up: {error}"))?;
    }
    println!("\n{}\n{}", report::text(&tried), report::summary(&tried));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&tried).map_err(|error| error.to_string())?;
        write(file, &(text + "\n"))?;
    }
    if let Some(file) = &options.markdown {
        write(file, &report::markdown(&tried))?;
    }
    Ok(tried.iter().all(Tried::is_good))
}

/// The product itself must pass, or every mutant would seem to be found.
fn without_any(builder: &Builder, options: &Options) -> Result<(), String> {
    announce("without any mutant");
    let (simulator, took) = builder.simulator(UNMUTATED).map_err(|error| error.to_string())?;
    let start = Instant::now();
    let outcome = trial::simulate(&simulator, seeds(options, options.clean_seeds));
    builder.clean().map_err(|error| format!("cannot clean up: {error}"))?;
    match outcome {
        Outcome::Survived { seeds } => {
            let (build, run) = (took.as_secs_f64(), start.elapsed().as_secs_f64());
            println!("without any mutant: {seeds} seeds pass (build {build:.1} s, run {run:.1} s)");
            Ok(())
        }
        other => Err(format!("the product itself fails, so no mutant is tried: {other:?}")),
    }
}

fn seeds(options: &Options, count: u64) -> Seeds {
    let time_max = Duration::from_secs(options.seconds_max);
    Seeds { first: options.first_seed, count, time_max }
}

fn attempt(builder: &Builder, options: &Options, mutant: &'static Mutant) -> Tried {
    let time_max = Duration::from_secs(options.seconds_max);
    let selection = match options.with {
        With::WalOnly => &["-p", "coracle-tools", "--lib", "wal_only::tests::the_log"],
        _ => test_selection(mutant.part),
    };
    let built = match (options.with, mutant.part) {
        (With::Check, _) => builder.check(mutant.name).map(|took| (None, took)),
        (With::Tests | With::WalOnly, _) => {
            builder.tests(mutant.name, selection).map(|took| (None, took))
        }
        (With::Sim, _) => builder.simulator(mutant.name).map(|(sim, took)| (Some(sim), took)),
    };
    let start = Instant::now();
    let (outcome, took) = match built {
        Err(error) => (Outcome::Error { message: error.to_string() }, Duration::ZERO),
        Ok((_, took)) if options.with == With::Check => (Outcome::Compiles, took),
        Ok((Some(simulator), took)) => {
            (trial::simulate(&simulator, seeds(options, options.seeds)), took)
        }
        Ok((None, took)) => (trial::test(builder, mutant.name, selection, time_max), took),
    };
    Tried {
        name: mutant.name,
        outcome,
        build_seconds: took.as_secs_f64(),
        run_seconds: start.elapsed().as_secs_f64(),
    }
}

/// The tests that know most of a part.
fn test_selection(part: Part) -> &'static [&'static str] {
    match part {
        Part::Wal => &["-p", "coracle-wal", "--lib", "--tests"],
        Part::Engine => &["-p", "coracle-engine", "--lib", "--tests"],
        Part::Server => &["-p", "coracle", "--lib", "server::"],
    }
}

fn announce(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("... {what}");
    }
}

fn write(file: &PathBuf, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}
