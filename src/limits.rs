//! Bounds of a node, with their reasons. The log and the engine have their own.

use std::time::Duration;

/// Cores of one node: as many as there are ports to give them and machines to run them.
pub const CORES_MAX: u16 = 256;

/// Shards of a cluster: each needs a slot range of its own in the Redis Cluster presentation.
pub const SHARDS_MAX: u32 = 16_384;

pub use coracle_engine::limits::MEMBERS_MAX;

/// How often host names of members are looked up again: they may move.
pub const MEMBERS_RESOLVE_INTERVAL: Duration = Duration::from_secs(10);

/// How soon an address book that could not be stored is stored again, and how soon a node says again what others
/// have wrong about it.
pub const MEMBERS_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How soon a core whose mailbox was full is told again of a change of the members.
pub const MEMBERS_TELL_INTERVAL: Duration = Duration::from_millis(5);

/// How long a stopping node waits for its services to answer what is in flight.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
