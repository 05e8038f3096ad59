//! Every bound of the engine, in one place, with its reason.

use std::time::Duration;

/// Largest payload of one proposal: a value of 1 MiB with room for its key and framing. Larger values
/// belong outside the log.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// Largest peer frame, header included: one maximal entry with room for its neighbours.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Proposals and queries that may wait in one core before new ones are refused as overloaded.
pub const REQUESTS_PER_CORE_MAX: usize = 64 << 10;

const _: () = assert!(PAYLOAD_BYTES_MAX + 4096 < FRAME_BYTES_MAX);

/// Payload bytes of the requests that may wait in one core, and in its mailbox.
pub const REQUEST_BYTES_PER_CORE_MAX: usize = 256 << 20;

/// Letters that may wait in a core's mailbox from other threads.
pub const MAILBOX_LETTERS_MAX: usize = 64 << 10;

/// Messages of peers that may wait in a core before its readers stop reading.
pub const FRAMES_QUEUED_MAX: usize = 4 << 10;

/// Bytes of entries in those messages before readers stop reading: many maximal frames, and still little
/// beside the logs that they go to.
pub const FRAME_BYTES_QUEUED_MAX: usize = 64 << 20;

const _: () = assert!(FRAME_BYTES_MAX <= FRAME_BYTES_QUEUED_MAX);

/// Queries that may wait in one shard for their ReadIndex round.
pub const QUERIES_PER_SHARD_MAX: usize = 64 << 10;

/// Events that one turn takes before other tasks of the core run: about 1 ms of work.
pub const EVENTS_PER_TURN_MAX: usize = 4 << 10;

/// Entries that one shard applies in one turn: about 1 ms of work. A replica that has much to catch up
/// with goes on being heard from.
pub const ENTRIES_PER_TURN_MAX: u64 = 4 << 10;

/// Groups that a log with no room may owe before its core takes no messages of peers any more. Votes and
/// acknowledgements have to wait like entries; without a bound they would do so for as long as a disk
/// is full.
pub const GROUPS_REFUSED_MAX: usize = 4 << 10;

/// Bytes that may wait to be sent on one link before messages are dropped: a few maximal frames,
/// so that a slow peer costs bounded memory.
pub const LINK_BUFFER_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;

/// What a link's reader receives into: one allocation for the entries of many frames.
pub const RECEIVE_CHUNK_BYTES: usize = 64 << 10;

/// Room that a link's reader offers at least for one receive. With less left, it begins a new chunk;
/// were it larger, a trickle of small entries would hold one chunk each.
pub const RECEIVE_ROOM_BYTES_MIN: usize = 8 << 10;

const _: () = assert!(RECEIVE_ROOM_BYTES_MIN * 4 <= RECEIVE_CHUNK_BYTES);

/// Size of the buffer that replies are cut from.
pub const REPLY_SCRATCH_BYTES: usize = 16 << 10;

/// Most payload bytes appended to the log as one group: what follows goes into the next group, and
/// a group always fits a batch.
pub const APPEND_GROUP_BYTES_MAX: usize = 2 << 20;

/// Bytes a stranger may send before its HELLO is complete.
pub const HANDSHAKE_BYTES_MAX: usize = 4 << 10;

/// Connections that may be in HELLO at the same time, per core.
pub const HANDSHAKES_MAX: usize = 64;

/// How long HELLO may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the connect of a TCP connection may take; apart from the time for requests.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Shortest pause between two attempts to reach a peer.
pub const DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause between two attempts to reach a peer.
pub const DIAL_PAUSE_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(
    APPEND_GROUP_BYTES_MAX + PAYLOAD_BYTES_MAX < coracle_wal::limits::BATCH_BYTES_MAX,
    "a group with one more maximal entry fits a batch"
);
/// Voters of one shard. More buy no availability and cost latency; the arrays that hold one value
/// per voter on the hot path are this long.
pub const VOTERS_MAX: usize = 9;

/// Learners of one shard: enough to bring in a whole new set of voters beside the present one. Each
/// costs its leader as much as a voter.
pub const LEARNERS_MAX: usize = VOTERS_MAX;

/// What an entry counts for besides its payload, in windows and limits: about what it takes in
/// memory and on the wire.
pub const ENTRY_COST_BYTES: usize = 64;

/// Smallest size the batch of one append message shrinks to: still large against its frame.
pub const APPEND_BYTES_MIN: usize = 64 << 10;

/// Largest batch of entries in one append message, unless a single entry is larger: big enough for
/// full bandwidth, small enough that a message behind it waits about a millisecond.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// Unacknowledged append messages to one follower of one shard.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;

/// Unacknowledged bytes of entries to one follower of one shard: 10 ms at 800 MB/s.
pub const INFLIGHT_BYTES_MAX: usize = 8 << 20;

/// Bytes of entries a leader takes in beyond its commit index: a few windows, so that a stalled
/// majority is noticed by refusals and not by memory.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;

/// Batches of reads that may wait for confirmation in one shard: one arrives per turn of the loop.
pub const READ_BATCHES_MAX: usize = 4096;

const _: () = assert!(APPEND_BYTES_MIN <= APPEND_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX <= INFLIGHT_BYTES_MAX);
const _: () = assert!(INFLIGHT_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
// A full batch and the last, largest entry in it fit one frame with its header.
const _: () = assert!(APPEND_BYTES_MAX + PAYLOAD_BYTES_MAX + 4096 < FRAME_BYTES_MAX);

/// Payload of a greeting frame: all that is read from a peer before it has said who it is.
pub const HELLO_BYTES_MAX: usize = 1 << 10;

/// Bytes of a cluster id.
pub const CLUSTER_ID_BYTES_MAX: usize = 255;

/// Bytes of the explanation in a refused greeting.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 512;

/// Payloads from this size on are referenced by the outgoing buffer, smaller ones are copied: below
/// it, one more element of a gather write costs more than the copy.
pub const GATHER_BYTES_MIN: usize = 4096;

const _: () = assert!(CLUSTER_ID_BYTES_MAX + REFUSAL_TEXT_BYTES_MAX + 128 < HELLO_BYTES_MAX);

/// Largest term that is believed: a million elections a second for 146,000 years. Beyond it the next
/// election could not be counted.
pub const TERM_MAX: u64 = 1 << 62;
