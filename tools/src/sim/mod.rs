//! The simulator: whole clusters in one thread, from one seed.
//!
//! A seed draws a [`Plan`]: a cluster, its surroundings, and a list of faults. [`run()`] runs it with the
//! clients of a [`Workload`] and reports what was violated, if anything was. A [`Campaign`] runs many seeds and
//! shrinks a failure. To run a state machine of your own, begin with [`workload`]; `docs/simulation.md` tells
//! the rest.
//!
//! What is real: the Raft core, the shard loop, the frame codec, the links between nodes, the log. What is
//! simulated: [disks](disk), the [network](net), clocks, the scheduler ([`world`]).

pub mod campaign;
pub mod checks;
mod client;
mod clock;
mod cluster;
pub mod disk;
mod env;
pub mod kv;
pub mod net;
pub mod plan;
pub mod run;
pub mod sessions;
pub mod settings;
pub mod shrink;
mod story;
pub mod timers;
#[cfg(test)]
mod transfer_tests;
mod wal_model;
pub mod wal_only;
mod watch;
pub mod workload;
pub mod world;

pub use campaign::{Campaign, Counterexample, Failed, Total};
pub use client::Tally;
pub use plan::Plan;
pub use run::{Failure, Report, run};
pub use settings::Settings;
pub use workload::{Ask, Outcome, Request, Then, Workload};
pub use world::World;
