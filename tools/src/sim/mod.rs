//! The simulator: whole clusters in one thread, from one seed.

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
pub mod settings;
pub mod shrink;
mod story;
pub mod wal_only;
mod watch;
pub mod workload;
pub mod world;
