//! The `coracle-bench` command: load tests, the device probe, and trials of the tiered log.

mod embedded;
mod handover;
mod idle;
mod load;
mod pulse;
mod reads;
mod recovery;
mod report;
mod scratch;
mod tiers;
mod transfer;
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
    /// Load a cluster, or with --single any RESP server, and measure throughput and latency
    Load(load::LoadArgs),
    /// Load an in-process cluster through the embedding API
    Embedded(embedded::EmbeddedArgs),
    /// Read from an in-process cluster by rounds of ReadIndex and by leases, side by side
    Reads(reads::ReadsArgs),
    /// Hand leadership from node to node under load, and measure how long nothing is committed
    Handover(handover::HandoverArgs),
    /// Measure a disk: the raw device and the log on it side by side, and which sync method is right
    Wal(wal::WalArgs),
    /// Pull a snapshot from one core to another, beside the raw disk and the raw network
    Transfer(transfer::TransferArgs),
    /// Measure how fast a log is opened and read back, beside the raw device
    Recovery(recovery::RecoveryArgs),
    /// Measure what idle shards cost, and how quickly they have leaders again when a node dies
    Idle(idle::IdleArgs),
    /// Compare signs of life between two cores over the connection they have with datagrams
    Pulse(pulse::PulseArgs),
    /// Put the tiered log, snapshots and their transfer to the test on a cluster of real processes
    Tiers(Box<tiers::TiersArgs>),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn std::error::Error>> = match Cli::parse().command {
        Command::Load(args) => load::run(&args).map_err(Into::into),
        Command::Embedded(args) => embedded::run(&args).map_err(Into::into),
        Command::Reads(args) => reads::run(&args).map_err(Into::into),
        Command::Handover(args) => handover::run(&args).map_err(Into::into),
        Command::Wal(args) => wal::run(&args).map_err(Into::into),
        Command::Transfer(args) => transfer::run(&args).map_err(Into::into),
        Command::Recovery(args) => recovery::run(&args).map_err(Into::into),
        Command::Idle(args) => idle::run(&args).map_err(Into::into),
        Command::Pulse(args) => pulse::run(&args).map_err(Into::into),
        Command::Tiers(args) => tiers::run(&args).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
