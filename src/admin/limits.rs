//! Bounds of an admin port, with their reasons.

use std::time::Duration;

/// Distance of the admin port from the client port of core 0, unless configured. The peer ports are usually 1000
/// above the client ports.
pub const ADMIN_PORT_OFFSET: u16 = 2000;

/// Connections at the same time: a few people and their scripts. Each has a thread.
pub const CONNECTIONS_MAX: usize = 16;

/// Longest line of a request: a change of a shard with all nodes that it can have is some hundred bytes.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Longest line of a reply: the replicas of a node, 16,384 of about 500 bytes when all have followers.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// Members of one change: those of a shard, once in and once out.
pub const CHANGES_MAX: usize = 64;

/// A connection that says nothing for so long is closed; so is one that takes so long over one line.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// A connection that takes nothing of a reply for so long is closed.
pub const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long a request waits for its outcome unless it says so itself: several election timeouts.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// Longest that it may say: a large snapshot takes minutes.
pub const WAIT_MAX: Duration = Duration::from_secs(600);

/// Pause after a connection could not be accepted, such as for want of descriptors.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);
