//! The simulator: whole clusters in one thread, from one seed.

pub mod checks;
pub mod world;
