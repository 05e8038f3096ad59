//! Bounds of transfers of snapshots, each with its reason.

use std::time::Duration;

/// Requests that a puller may have outstanding, and that a sender takes before it stops reading: with
/// chunks of 1 MiB more than any product of bandwidth and delay that one connection fills.
pub const REQUESTS_OUTSTANDING_MAX: usize = 32;

/// Requests outstanding unless the owner says otherwise: what a sender reads ahead, and as much again for
/// what lies in the buffers of both sockets, up to 10 MiB. Measured: 8 keep the sender's disk idle at times.
pub const REQUESTS_OUTSTANDING_DEFAULT: usize = 16;

/// Chunks that a sender reads ahead or holds on one connection: what a disk needs to be read at its full
/// speed while it writes, too. With usual chunks 8 MiB, with the largest 16 MiB.
pub const CHUNKS_READ_AHEAD_MAX: usize = 8;

/// Connections that one core serves at a time; whoever comes beyond is told to come again later. A
/// cluster's other members, all at once, for what is usually one of them.
pub const CONNECTIONS_SERVED_MAX: usize = 4;

/// What is sent or received at a stretch before other tasks of the core run and the budget is asked
/// again: about 50 us of copying.
pub const PIECE_BYTES: usize = 256 << 10;

/// Received bytes after which the chunks so far are made durable: what a crash of the receiver costs at
/// most. Nothing is received meanwhile: every 64 MiB, it cost a tenth of the speed.
pub const SYNC_EVERY_BYTES: u64 = 256 << 20;

/// How often one chunk is asked for before the snapshot is given up: damage on the way does not repeat
/// itself, damage at the source does.
pub const CHUNK_TRIES_MAX: u32 = 4;

/// How long a piece may take to arrive or to be taken before the connection is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a sender keeps a connection on which nothing is asked.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long the snapshot of a shard that was served last stays after its connection: time for the puller to come
/// back.
pub const PIN_GRACE: Duration = Duration::from_secs(60);

/// How many connections in a row may bring nothing, not even that the sender is busy, before a pull is given
/// up. It costs little: what is there is kept, and whoever leads by then offers a snapshot with each heartbeat.
pub const CONNECTIONS_IN_VAIN_MAX: u32 = 8;

/// First pause before a puller connects again; it doubles up to [`RECONNECT_PAUSE_MAX`].
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause before a puller connects again.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(REQUESTS_OUTSTANDING_DEFAULT <= REQUESTS_OUTSTANDING_MAX);
const _: () = assert!(CHUNKS_READ_AHEAD_MAX <= REQUESTS_OUTSTANDING_DEFAULT);
const _: () = assert!(CHUNKS_READ_AHEAD_MAX <= REQUESTS_OUTSTANDING_MAX);
const _: () = assert!(RECONNECT_PAUSE_MAX.as_millis() < PIN_GRACE.as_millis());
