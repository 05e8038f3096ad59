//! Every bound of the client server, in one place, with its reason.

use std::time::Duration;

use coracle_engine::limits::PAYLOAD_BYTES_MAX;

/// Hash slots of a Redis Cluster; fixed by its specification.
pub const SLOTS: u16 = 16_384;

/// Largest single argument (`proto-max-bulk-len`) and largest stored value. Larger values belong
/// outside the log; the engine's payload limit is of the same size.
pub const BULK_BYTES_MAX: usize = 1 << 20;

/// Most arguments of one request, as Redis' protocol has it.
pub const ARGS_MAX: usize = 1024 * 1024;

/// Largest request, framing included. Above [`BULK_BYTES_MAX`], so that a request with several large
/// arguments gets an answer that says what is wrong instead of a closed connection.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Longest inline request and longest length line, as Redis has it.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// Largest answer of one command. Bounds what `MGET` and `KEYS` may build at once.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// First receive buffer of a connection: most requests fit, and 10,000 idle clients cost 40 MB.
pub const READ_BYTES_MIN: usize = 4 << 10;

/// Largest receive buffer unless one request needs more: 64 KiB per read saturates a loopback.
pub const READ_BYTES_MAX: usize = 64 << 10;

/// Receive memory of all connections of a core beyond their first buffers. A connection that would
/// exceed it is closed with an error.
pub const READ_BYTES_PER_CORE_MAX: usize = 256 << 20;

/// Most commands of one connection whose replies are not written yet.
pub const PIPELINE_MAX: usize = 1024;

/// Fewest commands that are taken in at once whatever the size of the replies.
pub const PIPELINE_MIN: usize = 16;

/// Reply bytes of one connection that may wait in memory, estimated from its largest recent reply.
pub const REPLIES_WAITING_BYTES_MAX: usize = 16 << 20;

/// Request bytes of one connection that may be under way in the engine.
pub const PAYLOADS_WAITING_BYTES_MAX: usize = 8 << 20;

/// Request bytes of all connections of a core that may be under way in the engine; more are refused.
pub const PAYLOADS_PER_CORE_BYTES_MAX: usize = 256 << 20;

/// Gathered replies are written when they exceed this, even if more are ready.
pub const WRITE_BYTES_MAX: usize = 256 << 10;

/// Replies of at least this size are sent from their own memory instead of being copied together.
pub const REPLY_OWN_CHUNK_BYTES_MIN: usize = 8 << 10;

/// Clients of one core unless configured otherwise, as Redis has it.
pub const CLIENTS_PER_CORE_MAX: usize = 10_000;

/// A client that takes nothing of a write for so long is disconnected.
pub const SLOW_READER_MAX: Duration = Duration::from_secs(60);

/// A connection that ends with a protocol error goes on dropping what arrives until it is quiet for so
/// long: closing it earlier would reset it, and the client might never read the error.
pub const LINGER_MAX: Duration = Duration::from_millis(250);

/// Most bytes that are dropped in that way.
pub const LINGER_BYTES_MAX: usize = 64 << 20;

/// Pause after a connection could not be accepted.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long stopping waits for clients to take their last replies. Below what a node gives its services.
pub const DRAIN_MAX: Duration = Duration::from_millis(2500);

/// Period of the core's housekeeping: due keys, slow readers.
pub const HOUSEKEEPING_PERIOD: Duration = Duration::from_millis(100);

/// Due keys that one write or read entry removes beside its own work: 64 removals cost about 20 us.
pub const EXPIRED_PER_ENTRY_MAX: usize = 64;

/// Due keys that one `Tick` entry removes: about 1 ms, so that other shards are not held up.
pub const EXPIRED_PER_TICK_MAX: usize = 2048;

/// Largest `COUNT` of one `SCAN` step that is honoured; larger ones take several steps.
pub const SCAN_COUNT_MAX: usize = 10_000;

/// Shards that one `SCAN` step looks at when they have few keys.
pub const SCAN_SHARDS_MAX: usize = 16;

/// How often a read moves the log time before it gives up: once is enough unless keys expire while it
/// asks.
pub const TIME_ADVANCES_MAX: usize = 8;

/// Ticks for one shard in one housekeeping period: about 650,000 expiries per second.
pub const TICKS_PER_PERIOD_MAX: usize = 32;

/// A shard is asked for its next deadline at least so often, milliseconds: for deadlines set by
/// commands whose connection was lost before they were applied.
pub const EXPIRY_REFRESH_MS: u64 = 30_000;

/// Longest client or library name.
pub const CLIENT_NAME_BYTES_MAX: usize = 1024;

/// Keys that one chunk of a snapshot looks at, written or not: about 1 ms of work when
/// none of them is in a cache, so that other shards are not held up. It is what ends the chunks of small values.
pub const SNAPSHOT_ITEMS_PER_CHUNK_MAX: usize = 2048;

/// What changes during a snapshot is shown out of turn when it takes more than this part of the state: half
/// of what it may take.
pub const SNAPSHOT_ASIDE_SOFT_PARTS: u64 = 20;

/// A snapshot is given up when what changes meanwhile takes more than this part of the state.
pub const SNAPSHOT_ASIDE_HARD_PARTS: u64 = 10;

/// What changes during a snapshot may take at least this much before it is shown out of turn, and twice that
/// before the snapshot is given up: a few of the largest values, however small the state.
pub const SNAPSHOT_ASIDE_BYTES_MIN: usize = 4 << 20;

const _: () = assert!(SNAPSHOT_ASIDE_HARD_PARTS < SNAPSHOT_ASIDE_SOFT_PARTS);
const _: () = assert!(2 * BULK_BYTES_MAX <= SNAPSHOT_ASIDE_BYTES_MIN);
const _: () = assert!(BULK_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(BULK_BYTES_MAX + LINE_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(REQUEST_BYTES_MAX < REPLY_BYTES_MAX);
const _: () = assert!(READ_BYTES_MIN <= READ_BYTES_MAX);
const _: () = assert!(PIPELINE_MIN <= PIPELINE_MAX);
const _: () = assert!(EXPIRED_PER_ENTRY_MAX <= EXPIRED_PER_TICK_MAX);
