//! Snapshots as files, from outside: stored, received, read, removed; over the memory disk with its crashes and
//! faults.
#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod faults;
mod lifecycle;
mod random;
mod support;
