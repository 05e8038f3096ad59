//! The cluster as Redis clients see it: hash slots, nodes, redirections.
//!
//! Each **core** is a cluster node with an address and an id of its own; each shard is one contiguous
//! range of the 16,384 hash slots. A core is master of the ranges whose shards it leads. The cores of
//! the other nodes that host one of these shards are its replicas.

mod commands;
mod slots;
mod topology;

#[cfg(test)]
mod tests;

pub use commands::{ClusterCommand, reply as cluster_reply};
pub use slots::{key_hash_slot as slot_of, shard_of_slot, slots_of_shard};
pub(super) use topology::moved;
pub use topology::{ClusterNode, Route, SlotRange, Topology, node_id, route};
