//! The `coracle-bench` command: load tests and the device probe.

mod report;
mod wal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Coracle, and what it is to be compared with.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a disk: the raw device and the log on it side by side, and which sync method is right
    Wal(wal::WalArgs),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn std::error::Error>> = match Cli::parse().command {
        Command::Wal(args) => wal::run(&args).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
