//! The `coracle` command: `dev` runs a whole cluster in one process, `serve` one node of a cluster.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
