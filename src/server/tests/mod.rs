//! The server as a whole, in memory: against Redis' replies, under pipelining, failures and time.

#![allow(clippy::unwrap_used)]

mod expiry;
mod golden;
mod hostile;
mod ordering;
mod sessions;
mod snapshots;
mod world;
