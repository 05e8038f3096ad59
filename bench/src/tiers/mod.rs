//! `coracle-bench tiers`: whether a log that outgrows memory and disk, its snapshots and their transfer
//! keep what they promise, seen from outside.
//!
//! Each scenario starts a cluster of real `coracle serve` processes on loopback, loads it over RESP,
//! looks at the processes and their directories from outside ([`monitor`]), takes the raw figures of the
//! machine in the same run ([`raw`]), and prints what it found beside what was to be reached
//! ([`targets`]). Its directory goes at the end, and so does every process it started ([`guard`]),
//! also after Ctrl-C and failures.
//!
//! | scenario | question |
//! |---|---|
//! | [`memory`] | does resident memory stay near its budget, while a follower catches up, too? |
//! | [`endurance`] | does disk stay within its budget, and throughput and memory flat, for many GiB? |
//! | [`rejoin`] | how quickly is a wiped node a full member again, and what do clients notice? |
//! | [`restart`] | how quickly is a long log read, and the first write accepted? |
//! | [`snapshot`] | what do clients and memory notice of a snapshot? |

pub(crate) mod cluster;
mod control;
mod endurance;
pub(crate) mod guard;
mod memory;
pub(crate) mod monitor;
mod raw;
mod rejoin;
mod restart;
mod settings;
mod snapshot;
mod stage;
mod targets;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use clap::{Args, Subcommand};
use thiserror::Error;

use crate::load::LoadError;
use crate::report::{self, JsonError};
use settings::Common;
use stage::Stage;
use targets::Report;

/// Options of `coracle-bench tiers`.
#[derive(Args, Clone, Debug)]
pub struct TiersArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Clone, Debug)]
enum Scenario {
    /// Large entries through a small budget of memory; a follower that was down catches up
    Memory(memory::MemoryArgs),
    /// Many GiB of small values over the same keys: disk, throughput and memory over time
    Endurance(endurance::EnduranceArgs),
    /// A node loses its data under full load and comes back by snapshots
    Rejoin(rejoin::RejoinArgs),
    /// A long log is read after kill -9
    Restart(restart::RestartArgs),
    /// Snapshots of a large state under steady load
    Snapshot(snapshot::SnapshotArgs),
}

/// Why a scenario has no result.
#[derive(Debug, Error)]
pub enum TiersError {
    /// Ctrl-C.
    #[error("stopped before the end; no result")]
    Interrupted,
    /// The signals cannot be watched.
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    /// No `coracle` to start.
    #[error("there is no {0}: build it (cargo build --release), or name it with --server")]
    NoServer(String),
    /// The directory cannot be used.
    #[error("directory {dir}: {source}; choose another place with --dir")]
    Dir {
        /// Which.
        dir: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// Less space than the scenario may need.
    #[error(
        "{dir} has {free_mib} MiB free, this run may need {needed_mib}: choose another place with --dir, \
         or smaller sizes"
    )]
    Space {
        /// Where.
        dir: String,
        /// MiB that are free.
        free_mib: u64,
        /// MiB that are needed.
        needed_mib: u64,
    },
    /// No free ports in a row.
    #[error("not enough free ports in a row on 127.0.0.1 between 20000 and 32000")]
    Ports,
    /// A node does not start.
    #[error("cannot start node {id} with {server}: {source}")]
    Start {
        /// Which.
        id: u64,
        /// The program.
        server: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A node has ended by itself.
    #[error("node {id} has ended, {status}; its last lines:\n  {lines}")]
    NodeEnded {
        /// Which.
        id: u64,
        /// How.
        status: ExitStatus,
        /// What it said last.
        lines: String,
    },
    /// Something does not come.
    #[error("waited {bound:?} for {what}; last: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
        /// Why it was not there.
        last: String,
    },
    /// The nodes do not tell what has to be known.
    #[error("the nodes' INFO has no {0}: this server cannot be measured so")]
    NoField(&'static str),
    /// A node refuses a command.
    #[error("node {id} refuses {command}: {reason}")]
    Refused {
        /// Which.
        id: u64,
        /// What was asked.
        command: &'static str,
        /// Its answer.
        reason: String,
    },
    /// Writes that had to succeed did not.
    #[error("{what}: {ok} of {wanted} writes were acknowledged; errors: {errors}")]
    Incomplete {
        /// What was being written.
        what: &'static str,
        /// Acknowledged.
        ok: u64,
        /// Asked for.
        wanted: u64,
        /// By kind.
        errors: String,
    },
    /// A raw figure cannot be taken.
    #[error("cannot take the raw figures: {0}")]
    Raw(io::Error),
    /// The load does not run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Figures were taken, but not as good as they should be.
    #[error("{0} of the targets were missed")]
    Missed(usize),
    /// The results cannot be written.
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// Runs the command.
///
/// # Errors
/// [`TiersError`]. Missed targets are an error only with `--strict`.
pub fn run(args: &TiersArgs) -> Result<(), TiersError> {
    match &args.scenario {
        Scenario::Memory(args) => play("memory", &args.common, args.needs(), |stage, report| {
            memory::run(args, stage, report)
        }),
        Scenario::Endurance(args) => {
            play("endurance", &args.common, args.needs(), |stage, report| {
                endurance::run(args, stage, report)
            })
        }
        Scenario::Rejoin(args) => play("rejoin", &args.common, args.needs(), |stage, report| {
            rejoin::run(args, stage, report)
        }),
        Scenario::Restart(args) => play("restart", &args.common, args.needs(), |stage, report| {
            restart::run(args, stage, report)
        }),
        Scenario::Snapshot(args) => {
            play("snapshot", &args.common, args.needs(), |stage, report| {
                snapshot::run(args, stage, report)
            })
        }
    }
}

/// What a scenario needs before it begins.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Nodes of the cluster.
    nodes: u64,
    /// Disk space that it may take, in MiB, over all nodes.
    disk_mib: u64,
    /// Settings of the nodes where the command line has none.
    defaults: settings::Tier,
}

fn play(
    name: &'static str,
    common: &Common,
    needs: Needs,
    scenario: impl FnOnce(&mut Stage, &mut Report) -> Result<(), TiersError>,
) -> Result<(), TiersError> {
    let mut stage = Stage::set_up(common, &needs)?;
    let mut report = Report::new(name, common.node_settings(&needs.defaults));
    scenario(&mut stage, &mut report)?;
    drop(stage);
    report.print();
    if let Some(path) = &common.json {
        report::write_json(path, &report)?;
    }
    let missed = report.targets.iter().filter(|target| !target.met).count();
    if common.strict && !report.all_met() { Err(TiersError::Missed(missed)) } else { Ok(()) }
}

/// A directory that the user names or that is made here.
fn parse_dir(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("expected a directory".to_owned()) } else { Ok(text.into()) }
}
