//! Snapshots as files, from outside: stored, received, read, removed; over the memory disk with its crashes and
//! faults.

mod lifecycle;
mod support;
