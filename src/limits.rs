//! Bounds of a node, with their reasons. The log and the engine have their own.

use std::time::Duration;

/// Cores of one node: as many as there are ports to give them and machines to run them.
pub const CORES_MAX: u16 = 256;

/// Shards of a cluster: each needs a slot range of its own in the Redis Cluster presentation.
pub const SHARDS_MAX: u32 = 16_384;

/// Members of a cluster: every shard has a replica on each, so more would not be faster.
pub const MEMBERS_MAX: usize = 9;

/// How long a stopping node waits for its services to answer what is in flight.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
