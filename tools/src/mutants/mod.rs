//! Known bugs built into the product, one at a time, to see whether the simulator finds each of them.
//!
//! A mutant is a line or two of the product behind `cfg(mutant = "name")`. [`table`] says what each of
//! them is; the lints of the workspace name them, too, and a test compares both with the sources.
//!
//! [`build`] compiles one: cargo is told to call the compiler through a *wrapper* for the crates of this
//! workspace, and the path of the wrapper is part of what cargo remembers a build by. With a path for each
//! mutant the dependencies are compiled once and shared, and no mutant is mistaken for another. The
//! wrapper is this program under another name: see [`wrapper`].
//!
//! [`trial`] runs the simulator, or tests, against it, [`report`] says what came of it.

pub mod build;
pub mod report;
pub mod sources;
pub mod table;
pub mod trial;
pub mod wrapper;
