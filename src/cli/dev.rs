//! `coracle dev`: a whole cluster in one process, to try things out.

use std::error::Error;
use std::path::PathBuf;

use coracle::admin::limits::ADMIN_PORT_OFFSET;
use coracle::admin::{AdminAddress, AdminOptions};
use coracle::{LocalCluster, LocalClusterConfig, server};
use tempfile::TempDir;

use super::signals::StopSignals;

#[derive(clap::Args)]
pub struct Args {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Cores of each node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10))]
    cores: u16,
    /// Shards of the cluster.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    shards: u32,
    /// First client port; node n starts at this + 10(n-1), its peer ports are 1000 above.
    #[arg(long, default_value_t = 7001, value_parser = clap::value_parser!(u16).range(1..=63_000))]
    port: u16,
    /// Listen for no administration; else each node is reached by `coraclectl` 2000 above its client port.
    #[arg(long)]
    no_admin: bool,
    /// Where the data is kept; without it, in a temporary directory that goes at exit.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs the cluster until the process is told to stop.
pub fn run(args: &Args, admin: &AdminOptions) -> Result<(), Box<dyn Error>> {
    let signals = StopSignals::watch()?;
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(temporary_dir()?),
    };
    let data_dir = match (&args.data_dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, temporary) => temporary.iter().map(|dir| dir.path().to_owned()).collect(),
    };
    let config = LocalClusterConfig {
        nodes: args.nodes,
        cores: args.cores,
        shards: args.shards,
        port: args.port,
        data_dir,
    };
    let cluster = LocalCluster::start_with(&config, |mut node| {
        if args.no_admin {
            node.admin = AdminAddress::Off;
        }
        server::builder(node).admin_options(admin.clone())
    })?;
    print_welcome(&config, temporary.is_some(), args.no_admin);
    let signal = signals.wait()?;
    tracing::info!("{signal}: draining and stopping");
    cluster.stop();
    Ok(())
}

/// In the working directory's file system if it can be, for `/tmp` is often memory.
fn temporary_dir() -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("coracle-dev-").tempdir()
}

fn print_welcome(config: &LocalClusterConfig, temporary: bool, no_admin: bool) {
    let LocalClusterConfig { nodes, cores, shards, port, data_dir } = config;
    println!("coracle: {nodes} node(s) of {cores} core(s), {shards} shards, on this machine");
    for member in config.members() {
        println!("  node {}: clients on {}:{}", member.id, member.client_host, member.client_port);
    }
    let goes = if temporary { " (goes at exit; keep it with --data-dir)" } else { "" };
    println!("data: {}{goes}", data_dir.display());
    println!();
    println!("Try, in another terminal:");
    println!("  redis-cli -c -p {port} set greeting hello");
    println!("  redis-cli -c -p {} get greeting", port + if *nodes > 1 { 10 } else { 0 });
    println!("  cargo run --release -p coracle-bench -- load --addr 127.0.0.1:{port}");
    if !no_admin {
        let admin = port + ADMIN_PORT_OFFSET;
        println!(
            "  cargo run --release -p coracle-tools --bin coraclectl -- --admin 127.0.0.1:{admin} status"
        );
    }
    println!("Ctrl-C stops it.");
}
