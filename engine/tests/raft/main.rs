//! The Raft core driven from outside: tables of another implementation, scripted scenarios with golden
//! transcripts, and random clusters under faults.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;
mod conformance;
mod direct;
mod leases;
mod membership;
mod priorities;
mod quiescence;
mod reconfigure;
mod render;
mod scenarios;
mod simulation;
mod snapshots;
