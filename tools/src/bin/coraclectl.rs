//! `coraclectl`: looks after a cluster through the admin ports of its nodes.

use std::process::ExitCode;

use clap::Parser as _;
use coracle_tools::ctl::{self, args::Args};

fn main() -> ExitCode {
    ctl::run(Args::parse())
}
