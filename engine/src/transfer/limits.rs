//! Bounds of transfers of snapshots, each with its reason.

use std::time::Duration;

/// Requests that a puller may have outstanding, and that a sender takes before it stops reading: with
/// chunks of 1 MiB more than any product of bandwidth and delay that one connection fills.
pub const REQUESTS_OUTSTANDING_MAX: usize = 32;

/// Requests outstanding unless the owner says otherwise: enough for a chunk at each station between the
/// two disks (read, sent, under way, received, written), twice over for most of them.
pub const REQUESTS_OUTSTANDING_DEFAULT: usize = 8;

/// Chunks that a sender reads ahead or holds on one connection. With the largest chunks, 8 MiB.
pub const CHUNKS_READ_AHEAD_MAX: usize = 4;

/// Chunks that a puller has in memory, received and not yet written, besides the one that it receives.
/// With the largest chunks, 8 MiB.
pub const CHUNKS_WRITTEN_AT_ONCE_MAX: usize = 4;

/// Connections that one core serves at a time; whoever comes beyond is told to come again later. A
/// cluster's other members, all at once, for what is usually one of them.
pub const CONNECTIONS_SERVED_MAX: usize = 4;

/// What is sent or received at a stretch before other tasks of the core run and the budget is asked
/// again: about 50 us of copying.
pub const PIECE_BYTES: usize = 256 << 10;

/// Received bytes after which the chunks so far are made durable: what a crash of the receiver costs at
/// most, and rare enough not to slow the writes.
pub const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// How often one chunk is asked for before the snapshot is given up: damage on the way does not repeat
/// itself, damage at the source does.
pub const CHUNK_TRIES_MAX: u32 = 4;

/// How long a piece may take to arrive or to be taken before the connection is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a sender keeps a connection on which nothing is asked.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long a snapshot stays after the connection that served it: time for the puller to come back.
pub const PIN_GRACE: Duration = Duration::from_secs(60);

/// First pause before a puller connects again; it doubles up to [`RECONNECT_PAUSE_MAX`].
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause before a puller connects again.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(REQUESTS_OUTSTANDING_DEFAULT <= REQUESTS_OUTSTANDING_MAX);
const _: () = assert!(CHUNKS_READ_AHEAD_MAX <= REQUESTS_OUTSTANDING_MAX);
const _: () = assert!(RECONNECT_PAUSE_MAX.as_millis() < PIN_GRACE.as_millis());
