//! The harness of the whole-process tests: real `coracle` processes on loopback, a cluster client,
//! and a check of what the clients saw.
//!
//! * [`process`] starts, signals and ends processes; each dies with the test, whatever happens.
//! * [`confine`] gives a process less than it wants: memory, a user, io_uring, open files.
//! * [`ports`] finds port ranges that no other test uses.
//! * [`cluster`] is three `serve` processes, or one `dev` process.
//! * [`probe`] sees that writes go on everywhere, and that a replica has caught up.
//! * [`resp`] is one connection; [`client`] follows `MOVED` and knows what may be tried again.
//! * [`history`] records operations and decides whether they are linearizable.
//! * [`network`] is what lies between the nodes: nothing, a proxy, or network namespaces.
//! * [`small_disk`] is a file system that a test may fill.
//! * [`ledger`] writes large values over and over and knows what must be read again; [`snapshots`] looks
//!   at the files of snapshots and segments, and harms them.
//! * [`load`] is client threads that write such histories while nodes come and go.
//! * [`nemesis`] makes faults after a seeded plan; [`traffic`] is the clients that meet them, and
//!   [`replicas`] what is read from single nodes.
//!
//! Nothing here sleeps for luck: every wait is for a condition, with a bound, and says what it
//! waited for when the bound is reached.
#![allow(dead_code)] // each test program uses a part of the harness
#![allow(clippy::unwrap_used)]

pub mod client;
pub mod cluster;
pub mod confine;
pub mod history;
pub mod ledger;
pub mod load;
pub mod nemesis;
pub mod network;
pub mod ports;
pub mod probe;
pub mod process;
pub mod random;
pub mod replicas;
pub mod resp;
pub mod small_disk;
pub mod snapshots;
pub mod traffic;
pub mod wait;
