//! A segmented write-ahead log with group commit and labelled recovery, over a replaceable disk.
//!
//! This crate knows nothing of Raft, of a runtime, or of file descriptors: every effect goes through
//! [`Disk`] and [`DiskFile`].

mod buf;
mod disk;
mod shim;
pub use shim::*;
pub mod limits;

pub use buf::AlignedBuf;
pub use disk::{Disk, DiskFile, OpenMode};
