//! The simulator: whole clusters in one thread, from one seed.

pub mod net;
pub mod world;
