//! The key-value server: RESP2 and RESP3 clients, one Redis Cluster node per core.
//!
//! A core's connections live on the core's thread and reach its shards through
//! [`CoreHandle`](coracle_engine::core::CoreHandle):
//!
//! ```text
//! bytes -> resp::Decoder -> commands (table, arity, slot, arguments) -> cluster::route
//!       -> query or proposal of the shard -> kv::Kv -> reply, in the order of the requests
//! ```
//! [`Kv`] is the state machine of each shard and can be used without the rest; the server has it in client sessions
//! ([`KvSessions`]), which `SESSION` and `ONCE` use (`once.rs`). [`Server`] listens;
//! [`start`] runs a node with both.
//!
//! # What clients are told
//! | reply | meaning | do |
//! |---|---|---|
//! | `MOVED slot host:port` | another core leads the shard | go there |
//! | `CLUSTERDOWN ...` | no leader is known, or the node stops | try again, elsewhere too |
//! | `TRYAGAIN ...` | a limit was reached; nothing was done | try again later |
//! | `UNKNOWN ...` | the write was under way when leadership was lost | look before repeating it; under `ONCE`: repeat it |
//! | `NOSPACE ...` | the disk is full; nothing was written | make room; reads go on |
//! | `IOERR ...` | the core's log failed | mend the disk, restart the node |
//!
//! # Order
//! Commands of one connection to one shard take effect in the order in which they were sent, also when
//! they are sent without waiting for replies. Writes are proposed at once, one behind the other. A read
//! behind unfinished writes to the same shard goes through the log, too; any other read asks the
//! leader. A write behind unfinished reads waits for them.

pub mod cluster;
pub mod commands;
mod connection;
mod expiry;
mod fan;
pub mod kv;
pub mod limits;
mod listen;
mod local;
mod machine;
mod node;
mod once;
mod output;
mod refusal;
pub mod resp;
mod session;
mod signal;
mod state;

#[cfg(test)]
mod tests;

pub use cluster::{node_id, shard_of_slot, slot_of, slots_of_shard};
pub use kv::Kv;
pub use listen::{ServeError, Server, ServerOptions};
pub use machine::KvSessions;
pub use node::{builder, start};
