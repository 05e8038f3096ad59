//! Runs simulated clusters: one seed with its story, or many.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use coracle_tools::sim::campaign::{Campaign, Failed, Total, run_caught};
use coracle_tools::sim::plan::Plan;
use coracle_tools::sim::run::{Report, run};
use coracle_tools::sim::sessions::WithSessions;
use coracle_tools::sim::shrink::shrink;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

/// Simulates whole clusters under faults, deterministically from a seed, and checks what may never happen.
///
/// With --seed or --plan it runs once and tells the story. Otherwise it runs many seeds on all cores; a
/// failure is shrunk to a short plan, which --plan runs again.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Run this seed alone and tell its story.
    #[arg(long, conflicts_with_all = ["seeds", "minutes", "plan"])]
    seed: Option<u64>,
    /// Run the plan in this file (TOML) alone and tell its story.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    plan: Option<PathBuf>,
    /// Run so many seeds [default: 1000, or what --minutes allows].
    #[arg(long)]
    seeds: Option<u64>,
    /// Begin no seed after so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Begin no seed after a failure.
    #[arg(long)]
    until_failure: bool,
    /// Threads [default: all cores].
    #[arg(long)]
    jobs: Option<usize>,
    /// Runs that shrinking a failure may take; 0 does not shrink.
    #[arg(long, default_value_t = 300)]
    shrink_runs: u32,
    /// Where shrunk plans are written.
    #[arg(long, default_value = "target/sim")]
    out: PathBuf,
    /// Print a summary as JSON in the last line of the output.
    #[arg(long)]
    json: bool,
    /// Tell only the end of the story, so many lines.
    #[arg(long)]
    tail: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let single = match (&args.seed, &args.plan) {
        (Some(seed), _) => Some(Ok(Plan::draw(*seed))),
        (None, Some(path)) => Some(read_plan(path)),
        (None, None) => None,
    };
    match single {
        Some(Ok(plan)) => tell(&args, &plan),
        Some(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
        None => campaign(&args),
    }
}

fn runner(plan: &Plan, story: bool) -> Report {
    run(plan, &WithSessions::make, story)
}

fn read_plan(path: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{} is no plan: {error}", path.display()))
}

fn tell(args: &Args, plan: &Plan) -> ExitCode {
    println!("{}", toml::to_string(plan).unwrap_or_default());
    let report = run_caught(plan, &runner, true);
    let skipped = args.tail.map_or(0, |tail| report.story.len().saturating_sub(tail));
    for line in &report.story[skipped..] {
        println!("{line}");
    }
    println!(
        "\nsimulated {:.1} s in {} polls, requests: {} answered, {} refused, {} unknown; trace {:016x}",
        report.simulated.as_secs_f64(),
        report.polls,
        report.tally.replied,
        report.tally.refused,
        report.tally.unknown,
        report.trace_hash
    );
    match report.failure {
        None => {
            println!("no invariant was violated");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            println!("{}", Failed { seed: plan.seed, failure });
            ExitCode::FAILURE
        }
    }
}

fn campaign(args: &Args) -> ExitCode {
    let campaign = Campaign {
        first_seed: args.first_seed,
        seeds: args.seeds.or(args.minutes.is_none().then_some(1000)),
        time: args.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        until_failure: args.until_failure,
        jobs: args.jobs.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        }),
    };
    let bar = ProgressBar::new(campaign.seeds.unwrap_or(0));
    if let Ok(style) =
        ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos} seeds, {msg}")
    {
        bar.set_style(style);
    }
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let total = campaign.run(&runner, &|total| {
        bar.set_position(total.seeds);
        bar.set_message(format!(
            "{:.0} a minute, {:.1} simulated hours, {} failed",
            total.seeds_per_minute(),
            total.simulated.as_secs_f64() / 3600.0,
            total.failures.len()
        ));
    });
    bar.finish_and_clear();
    summarise(&total);
    let mut failures = total.failures.clone();
    failures.sort_by_key(|failed| failed.seed);
    for failed in &failures {
        println!("\n{failed}");
    }
    if let Some(first) = failures.first() {
        explain(args, first);
    }
    if args.json {
        let list: Vec<_> = failures
            .iter()
            .map(|failed| {
                json!({
                    "seed": failed.seed,
                    "invariant": failed.failure.invariant,
                    "message": failed.failure.message,
                })
            })
            .collect();
        let seconds = total.elapsed.as_secs_f64();
        println!("{}", json!({ "seeds": total.seeds, "failures": list, "seconds": seconds }));
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summarise(total: &Total) {
    println!(
        "{} seeds ({} of them twice) in {:.1} s: {:.0} seeds a minute, {:.1} simulated hours a minute, \
         {:.1} simulated hours in all",
        total.seeds,
        total.repeated,
        total.elapsed.as_secs_f64(),
        total.seeds_per_minute(),
        total.hours_per_minute(),
        total.simulated.as_secs_f64() / 3600.0
    );
    let [replied, refused, unknown] = total.requests;
    println!("requests: {replied} answered, {refused} refused, {unknown} unknown");
    println!("faults:");
    for (kind, count) in &total.faults {
        println!("  {kind:<28} {count:>12}");
    }
    let probes = || {
        coracle_wal::probes()
            .map(|p| ("wal", p))
            .chain(coracle_engine::probes().map(|p| ("engine", p)))
    };
    println!("probes hit:");
    for (part, (name, count)) in probes().filter(|(_, (_, count))| *count > 0) {
        println!("  {part:<6} {name:<36} {count:>12}");
    }
    let never: Vec<_> = probes().filter(|(_, (_, count))| *count == 0).collect();
    if never.is_empty() {
        println!("every probe was hit");
    } else {
        println!("probes never hit:");
        never.iter().for_each(|(part, (name, _))| println!("  {part:<6} {name}"));
    }
}

/// The commit that the program's sources are of, as far as git knows.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
    format!("{head}{}", if changed { " with changes" } else { "" })
}

/// Shrinks a failure and says how to see it again.
fn explain(args: &Args, failed: &Failed) {
    let options: Vec<String> = std::env::args().skip(1).collect();
    println!("\ncommit: {}, options: {}", commit(), options.join(" "));
    println!("replay: cargo sim --seed {}", failed.seed);
    if args.shrink_runs == 0 || failed.failure.invariant == "determinism" {
        return;
    }
    let plan = Plan::draw(failed.seed);
    let shrunk = shrink(&plan, &failed.failure, &runner, args.shrink_runs);
    let path = args.out.join(format!("seed-{}.toml", failed.seed));
    let text = shrunk.to_toml();
    let written = std::fs::create_dir_all(&args.out).and_then(|()| std::fs::write(&path, &text));
    match written {
        Ok(()) => println!(
            "shrunk in {} runs to {} faults: cargo sim --plan {}",
            shrunk.runs,
            shrunk.plan.faults.len(),
            path.display()
        ),
        Err(error) => println!("cannot write {}: {error}; the plan:\n{text}", path.display()),
    }
}
