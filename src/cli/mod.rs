//! The command line: what it accepts, where the log goes, how a process is asked to stop.

mod dev;
mod log;
mod serve;
mod signals;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use coracle::admin::AdminOptions;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "coracle", version, about = "A replicated, sharded, durable key-value server")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, e.g. `info`, `debug`, `coracle_engine=trace`.
    #[arg(long, global = true, default_value = "info", env = "CORACLE_LOG", value_name = "FILTER")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster in this process, to try things out.
    Dev(dev::Args),
    /// Run one node of a cluster.
    Serve(Box<serve::Args>),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let filter = match EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("--log '{}': {error}", cli.log)),
    };
    // To stderr with microseconds: stdout is for what the user asked for.
    let log = log::start(filter);
    let admin = AdminOptions { log: Some(Arc::new(log)) };
    let result = match cli.command {
        Command::Dev(args) => dev::run(&args, &admin),
        Command::Serve(args) => serve::run(*args, admin),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("coracle: {message}");
    ExitCode::FAILURE
}
