//! The simulator: whole clusters in one thread, from one seed.

pub mod disk;
pub mod net;
pub mod wal_only;
pub mod world;
