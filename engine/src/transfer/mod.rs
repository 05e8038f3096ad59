//! Snapshots pulled from a peer, over connections of their own, so that bulk never delays heartbeats or
//! entries.
//!
//! # How it is used
//! 1. A core that has snapshots to give makes one [`SnapshotService`](serve::SnapshotService) over its
//!    store and hands it to what accepts its peers; it gets every connection that was greeted with
//!    SnapshotHello.
//! 2. A core that was offered a snapshot makes a [`Pull`](pull::Pull) and runs it with a function that
//!    [connects](dial::connect) to the core that hosts the shard over there. It ends with the snapshot
//!    durable in the store, or says why it gave up.
//! 3. Both take what they send or receive from the core's one [`TransferBudget`](budget::TransferBudget).
//!
//! # The protocol
//! The puller asks, the sender answers in the order of the requests ([`message`]). What is outstanding is
//! the credit: the sender sends nothing that was not asked for, so that neither end needs more memory than
//! the puller's window and the sender's read-ahead. Pulling makes it resumable: after a broken connection
//! only what is missing is asked for, and a bad chunk is asked for again alone.
//!
//! Chunks go through no other memory than the aligned buffer that they are read into: the sender's from
//! its file to the socket, the receiver's from the socket to its file. They are sent without the padding
//! of the file, which the receiver's store adds.
//!
//! Decisions ([`window`], [`budget`], [`message`]) are plain functions; the sequences around them are
//! [`serve`] and [`pull`].

pub mod budget;
pub mod cancel;
pub mod dial;
pub mod limits;
pub mod message;
pub mod pull;
mod requests;
pub mod serve;
mod stream;
pub mod window;
