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

/// Bytes on top of them for messages without entries. A link that is full of entries still carries
/// heartbeats, votes and answers: without them the shards that speak last in a turn would starve, turn
/// after turn, behind those that speak first. One frame, by which entries may go beyond their limit, and as good as
/// all of it is left for thousands of shards.
pub const LINK_RESERVE_BYTES: usize = 2 * FRAME_BYTES_MAX;

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

/// Bytes of one shard's records in one run of its index, beyond which the next entry begins a new one: to
/// find an entry means reading this much at most, and the index stays below a thousandth of the log.
pub const RUN_BYTES_MAX: u64 = 256 << 10;

/// How far one run reaches over the log: what is read to find the entry of a quiet shard among those of
/// busy ones.
pub const RUN_SPAN_BYTES_MAX: u64 = 16 << 20;

/// Runs of one shard that are kept in a vector. To search or move so many takes less than a tree's nodes, and a shard
/// with little to do has one or two.
pub const RUNS_FEW_MAX: usize = 8;

/// Places that a queue keeps when it is empty: with fewer shards awake it never grows again, and with more they have
/// other costs.
pub const QUEUE_KEPT: usize = 64;

/// Bytes that the buffer of a link keeps when it is empty.
pub const OUT_BYTES_KEPT: usize = 16 << 10;

/// Bytes of entries that enter and leave memory together when they come from one shard in a row: small
/// beside any budget, and large beside what a group itself takes.
pub const MEMORY_GROUP_BYTES_MAX: u64 = 64 << 10;

/// Items (runs, hard states, bases) that are collected for the summaries of segments that are not sealed
/// yet. At about 20 bytes each they would not fit a summary any more.
pub const SUMMARY_ITEMS_MAX: usize = 64 << 10;

const _: () = assert!(RUN_BYTES_MAX <= RUN_SPAN_BYTES_MAX);

/// Actions of one decision about compaction: as many as a turn of the loop carries out in about a
/// millisecond.
pub const COMPACTION_ACTIONS_MAX: usize = 64;

/// Oldest segments that shards are compacted for at a time: a base record for several segments costs what
/// one for a single segment does.
pub const COMPACTION_SEGMENTS_AHEAD: usize = 4;

/// Segments on top of a disk budget for what goes on when it is used up: the live part of one segment, which
/// is written again before that is given up, with what batches add; and votes, bases and what was
/// accepted just before.
pub const COMPACTION_RESERVE_SEGMENTS: u64 = 2;

/// The part of a segment by which log and snapshots stay below the budget of a disk, for files that are not counted
/// and for the manifests of snapshots, which are counted and never refused.
pub const SMALL_FILES_SEGMENT_PARTS: u64 = 16;

/// Segments that a log may have before anything but compaction is done about it: below this, each costs more
/// than it frees.
pub const LOG_SEGMENTS_TARGET_MIN: u64 = 16;

/// Bytes that one decision asks to write again: beside the commits of the same time, little.
pub const REWRITE_BYTES_MAX: u64 = 1 << 20;

/// What a hard state or a base that is written again, or the first of some entries, counts for besides:
/// its record and its part of a batch.
pub const REWRITE_RECORD_BYTES: u64 = 256;

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

/// How long the links of a member that was removed stay, so that it hears of it.
pub const GOODBYE_TIME: Duration = Duration::from_millis(200);

/// Different refusals of peers that a core remembers, so as not to log each again and again.
pub const REFUSALS_REMEMBERED_MAX: usize = 64;

const _: () = assert!(
    APPEND_GROUP_BYTES_MAX + PAYLOAD_BYTES_MAX < coracle_wal::limits::BATCH_BYTES_MAX,
    "a group with one more maximal entry fits a batch"
);
/// Rounds of heartbeats whose sending a leader remembers for its lease: those of several election timeouts.
pub const LEASE_ROUNDS_MAX: usize = 64;

/// Heartbeat intervals that a shard is at rest before its leader wants it to sleep: by then all members know what is
/// committed, and a shard that is used now and then in a row stays awake.
pub const QUIESCE_BEATS: u32 = 3;

/// Election timeouts of silence after which a member is not waited for when a shard falls asleep: longer than a
/// restart takes, and soon enough that the death of a node does not keep all its shards awake.
pub const QUIESCE_ABSENT_TIMEOUTS: u32 = 10;

/// Heartbeat intervals for which a follower that woke by itself claims to hear its leader: what it takes to wake that
/// and to hear it, with one loss.
pub const WAKING_INTERVALS: u32 = 2;

/// Part of an election timeout for which a log may make no progress before its disk counts as stalled: the rest of
/// two of them is for the election elsewhere, and a flush that only takes its time is waited for.
pub const STALL_PARTS: (u32, u32) = (3, 4);

/// Intervals between pulses that a failure detector remembers: some seconds.
pub const DETECTOR_PULSES_MAX: usize = 32;

/// Heartbeat intervals of silence before which nobody is suspected: one pulse may be late.
pub const DETECTOR_PULSES_MISSED_MIN: u32 = 2;

/// Pulses in a row that may say that other shards sleep than do: messages between the two sides are under way for
/// less than that.
pub const PULSES_UNLIKE_MAX: u32 = 3;

/// Election timeouts that a read with a bound on staleness waits at most: a change of leaders takes less, mostly.
pub const BOUNDED_READ_TIMEOUTS: u32 = 2;

/// How often in an election timeout a replica asks its leader anew that does not answer: seldom enough that an answer
/// is not overtaken by the next question.
pub const QUESTIONS_PER_TIMEOUT: u32 = 2;

/// Highest priority of a replica, and lowest below 0: a replica of the lowest waits ten election timeouts at most.
pub const PRIORITY_MAX: i8 = 8;

/// Election timeouts between two attempts of a leader to hand over to a replica of higher priority.
pub const PRIORITY_PAUSE_TIMEOUTS: u32 = 10;

/// Election timeouts between two looks at how leaders are spread: the transfers that the last one began have ended.
pub const SPREAD_PAUSE_TIMEOUTS: u32 = 2;

/// A look at how leaders are spread takes about a tenth of a microsecond for each shard of the cluster: with this pause,
/// a thousandth of the core's time.
pub const SPREAD_SHARD_PAUSE: Duration = Duration::from_micros(100);

/// Shards that one core hands over with one such look. Each is a pause of about a millisecond for its clients.
pub const SPREAD_TRANSFERS_MAX: usize = 16;

/// Election timeouts until the next look when one of them has failed: as for [`PRIORITY_PAUSE_TIMEOUTS`].
pub const SPREAD_RETRY_TIMEOUTS: u32 = PRIORITY_PAUSE_TIMEOUTS;

/// Election timeouts that a draining core takes at most to hand over: one for an attempt, one for another.
pub const DRAIN_ELECTION_TIMEOUTS: u32 = 2;

/// Events that are queued for one subscriber; more are lost, and it is told so.
pub const EVENTS_QUEUED_MAX: usize = 4096;

/// Subscribers to the events of one node.
pub const SUBSCRIBERS_MAX: usize = 64;

/// How many may wait for the report of one drain; more are told nothing.
pub const DRAIN_ANSWERS_MAX: usize = 64;

/// Voters of one shard. More buy no availability and cost latency; the arrays that hold one value
/// per voter on the hot path are this long.
pub const VOTERS_MAX: usize = 9;

/// Learners of one shard: enough to bring in a whole new set of voters beside the present one. Each
/// costs its leader as much as a voter.
pub const LEARNERS_MAX: usize = VOTERS_MAX;

/// Largest encoded configuration of a shard: six bytes, both halves of a joint one, and its learners; those
/// that still vote count against [`LEARNERS_MAX`], too.
pub const CONFIGURATION_BYTES_MAX: usize = 6 + 8 * (2 * VOTERS_MAX + LEARNERS_MAX);

/// Members of a cluster. Shards are placed over them, each on at most [`VOTERS_MAX`] and as many learners; every core
/// has a connection or more to each member.
pub const MEMBERS_MAX: usize = 32;

/// Records of an address book: all members, and as many that were removed. It is sent as a whole whenever it
/// changes, so it has to be small.
pub const BOOK_RECORDS_MAX: usize = 2 * MEMBERS_MAX;

/// Longest host of a member, with its port where it has one: what DNS allows, and a port.
pub const HOST_BYTES_MAX: usize = 253 + 6;

/// Body of a frame with an address book, at most: its count, and all records with hosts of full length.
pub const MEMBERS_BYTES_MAX: usize = 2 + BOOK_RECORDS_MAX * (43 + 3 * HOST_BYTES_MAX);

/// Highest version of a member's record: no more than that many changes, and none of them overflows.
pub const MEMBER_VERSION_MAX: u64 = u64::MAX >> 1;

/// News for the keeper of the address book that may wait; each is one book of another node, or one order.
pub const MEMBER_NEWS_MAX: usize = 64;

/// Configurations that a leader's log may have above its base before it refuses further changes: each is
/// kept in memory until a snapshot has taken its place. Far more than operators make.
pub const CONFIGURATIONS_MAX: usize = 1024;

/// Committed entries that a learner may lack and still be made a voter: what a follower catches up with in a
/// fraction of a second. With more, commits that need the new voter would wait for that.
pub const PROMOTION_ENTRIES_BEHIND_MAX: u64 = 4096;

/// Heartbeats after which a leader gives up to tell a node that its removal is committed.
pub const LEAVING_BEATS: u32 = 8;

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

/// Bytes of entries that are read from disk at once for one follower: two large append messages, so that
/// the next ones are read while the follower stores these, and a dozen followers cost little memory.
pub const FETCH_BYTES_MAX: usize = 2 << 20;

/// Election timeouts of silence after which a follower that was offered a snapshot no longer keeps it from
/// being removed: long enough for a restart, short beside the time in which a disk fills.
pub const OFFER_SILENCE_TIMEOUTS: u32 = 8;

/// Heartbeats that a follower has to find out that its readmission is committed before another one is
/// appended. It is told with each of them.
pub const READMISSION_BEATS: u32 = 3;

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

/// Largest chunk of a snapshot: what is read, sent, checked and written at once. An aligned buffer of
/// this size is held for each chunk under way.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 2 << 20;

/// Bytes after which a chunk should end: large enough for the full speed of a disk with a few in flight,
/// and what is left up to [`SNAPSHOT_CHUNK_BYTES_MAX`] holds one value of 1 MiB with a little around it.
pub const SNAPSHOT_CHUNK_TARGET_BYTES: usize = 1 << 20;

/// Chunks of one snapshot: 1 TiB of state in chunks of the target size. The manifest, which is held in memory
/// for each shard, then takes 8 MiB.
pub const SNAPSHOT_CHUNKS_MAX: usize = 1 << 20;

/// Largest manifest of a snapshot in bytes: its header, its configuration, its table of chunks.
pub const SNAPSHOT_MANIFEST_BYTES_MAX: usize =
    80 + 8 * (2 * VOTERS_MAX + LEARNERS_MAX) + 8 * SNAPSHOT_CHUNKS_MAX;

/// Largest log index of a snapshot that is believed, as for [`TERM_MAX`]: no sum of them overflows.
pub const SNAPSHOT_INDEX_MAX: u64 = 1 << 62;

/// Writes of one snapshot in flight. With 4 of 1 MiB a disk is near its full speed; more would delay commits.
pub const SNAPSHOT_WRITES_IN_FLIGHT_MAX: usize = 4;

/// Reads of one snapshot in flight while it is read from beginning to end.
pub const SNAPSHOT_READS_IN_FLIGHT_MAX: usize = 8;

/// Snapshots that are looked at beside each other at start. Each takes two open files and its manifest.
pub const SNAPSHOTS_OPENED_AT_ONCE_MAX: usize = 8;

/// Largest step by which space for a growing snapshot is allocated. Smaller files grow by an eighth, so
/// that thousands of small shards don't hold much more than they need.
pub const SNAPSHOT_ALLOCATION_BYTES_MAX: u64 = 16 << 20;

const _: () = assert!(SNAPSHOT_CHUNK_TARGET_BYTES < SNAPSHOT_CHUNK_BYTES_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES_MAX.is_multiple_of(coracle_wal::limits::BLOCK_BYTES));
// Positions in a file of chunks, counted in blocks, fit 32 bits.
const _: () = assert!(
    SNAPSHOT_CHUNKS_MAX * (SNAPSHOT_CHUNK_BYTES_MAX / coracle_wal::limits::BLOCK_BYTES)
        < u32::MAX as usize
);
const _: () = assert!(SNAPSHOT_MANIFEST_BYTES_MAX <= 16 << 20);

/// Sessions of a shard unless configured otherwise: each takes about 700 bytes with its first small reply.
pub const SESSIONS: u64 = 4096;

/// Most sessions that may be configured: beginning a snapshot takes a pointer to each, in less than a millisecond.
pub const SESSIONS_MAX: u64 = 16 << 10;

/// Request ids of a session from the lowest unacknowledged one on, unless configured otherwise.
pub const SESSION_WINDOW: u64 = 64;

/// Most that may be configured: a session that is used while a snapshot is under way is copied once.
pub const SESSION_WINDOW_MAX: u64 = 1024;

/// Most sessions times window that may be configured: replies of which nothing but the fact is kept.
pub const SESSION_SLOTS_MAX: u64 = 1 << 20;

/// What a kept reply counts for besides its bytes.
pub const SESSION_REPLY_COST_BYTES: u64 = 64;

/// Bytes of one reply that is kept unless configured otherwise.
pub const SESSION_REPLY_BYTES: u64 = 16 << 10;

/// Most bytes of one kept reply that may be configured: restoring buffers one of them.
pub const SESSION_REPLY_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a session's replies from which on its requests are refused, unless configured otherwise: a window full
/// of replies of 4 KiB.
pub const SESSION_REPLIES_BYTES: u64 = 256 << 10;

/// Bytes of all replies of a shard's sessions beyond which new ones are not kept, unless configured otherwise.
pub const SHARD_REPLIES_BYTES: u64 = 8 << 20;

/// Most bytes of replies that may be configured.
pub const SHARD_REPLIES_BYTES_MAX: u64 = 1 << 30;

/// How long an unused session is kept unless configured otherwise: longer than any outage after which a client
/// would still want to know what became of its request.
pub const SESSION_IDLE_TIMEOUT_MS: u64 = 60 * 60 * 1000;

/// Idle sessions that are freed with one entry: some ten microseconds.
pub const SESSIONS_SWEPT_MAX: usize = 64;

/// How often the clock of the sessions is moved within their timeout: one is kept for up to a tenth longer, and may
/// cost that many small entries.
pub const SESSION_TICKS_PER_TIMEOUT: u64 = 10;

const _: () = assert!(SESSIONS * SESSION_WINDOW <= SESSION_SLOTS_MAX);
const _: () = assert!(SESSIONS <= SESSIONS_MAX && SESSION_WINDOW <= SESSION_WINDOW_MAX);
const _: () = assert!(SESSION_REPLY_BYTES <= SESSION_REPLY_BYTES_MAX);
const _: () = assert!(SHARD_REPLIES_BYTES <= SHARD_REPLIES_BYTES_MAX);

/// Timers of a shard unless configured otherwise.
pub const TIMERS: u64 = 16 << 10;

/// Most timers that may be configured: beginning a snapshot takes a pointer to each, in about a millisecond.
pub const TIMERS_MAX: u64 = 64 << 10;

/// Bytes of one timer's payload unless configured otherwise.
pub const TIMER_PAYLOAD_BYTES: u64 = 4 << 10;

/// Most that may be configured: restoring buffers one of them.
pub const TIMER_PAYLOAD_BYTES_MAX: u64 = 64 << 10;

/// What a timer counts for besides its payload.
pub const TIMER_COST_BYTES: u64 = 128;

/// What all timers of a shard may count for unless configured otherwise.
pub const TIMERS_BYTES: u64 = 16 << 20;

/// Most that may be configured.
pub const TIMERS_BYTES_MAX: u64 = 256 << 20;

/// Timers that a leader proposes to fire in one call of its hook: with a tick of 50 ms, five thousand a second.
pub const TIMERS_FIRED_PER_CALL: usize = 256;

/// Payloads of one call of a hook that are proposed: what all machines around each other may return together.
pub const HOOK_PROPOSALS_MAX: usize = 512;

/// Shards of a core whose hooks are called with one tick, each for some microseconds; the others wait for the next.
pub const HOOKS_PER_TICK_MAX: usize = 256;

/// How long a hook is not called after something that it returned was refused, or lost: a full disk or a busy shard
/// should not be asked again with every tick.
pub const HOOK_RETRY_PAUSE: Duration = Duration::from_secs(1);

const _: () = assert!(TIMERS <= TIMERS_MAX && TIMER_PAYLOAD_BYTES <= TIMER_PAYLOAD_BYTES_MAX);
const _: () = assert!(TIMERS_BYTES <= TIMERS_BYTES_MAX);
const _: () = assert!(TIMERS_FIRED_PER_CALL < HOOK_PROPOSALS_MAX);
const _: () = assert!(TIMER_PAYLOAD_BYTES_MAX < PAYLOAD_BYTES_MAX as u64);

/// The limits that an owner may lower. The defaults are the constants of this module, which are also
/// the highest values allowed; the simulator draws small and odd ones, where the rare paths are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes_max: usize,
    /// See [`REQUESTS_PER_CORE_MAX`].
    pub requests_per_core_max: usize,
    /// See [`REQUEST_BYTES_PER_CORE_MAX`].
    pub request_bytes_per_core_max: usize,
    /// See [`FRAMES_QUEUED_MAX`].
    pub frames_queued_max: usize,
    /// See [`FRAME_BYTES_QUEUED_MAX`].
    pub frame_bytes_queued_max: usize,
    /// See [`QUERIES_PER_SHARD_MAX`].
    pub queries_per_shard_max: usize,
    /// See [`EVENTS_PER_TURN_MAX`].
    pub events_per_turn_max: usize,
    /// See [`ENTRIES_PER_TURN_MAX`].
    pub entries_per_turn_max: u64,
    /// See [`GROUPS_REFUSED_MAX`].
    pub groups_refused_max: usize,
    /// See [`LINK_BUFFER_BYTES_MAX`].
    pub link_buffer_bytes_max: usize,
    /// See [`RECEIVE_CHUNK_BYTES`].
    pub receive_chunk_bytes: usize,
    /// See [`RECEIVE_ROOM_BYTES_MIN`].
    pub receive_room_bytes_min: usize,
    /// See [`APPEND_GROUP_BYTES_MAX`].
    pub append_group_bytes_max: usize,
    /// See [`HANDSHAKES_MAX`].
    pub handshakes_max: usize,
    /// See [`APPEND_BYTES_MIN`].
    pub append_bytes_min: usize,
    /// See [`APPEND_BYTES_MAX`].
    pub append_bytes_max: usize,
    /// See [`INFLIGHT_MESSAGES_MAX`].
    pub inflight_messages_max: usize,
    /// See [`INFLIGHT_BYTES_MAX`].
    pub inflight_bytes_max: usize,
    /// See [`UNCOMMITTED_BYTES_MAX`].
    pub uncommitted_bytes_max: usize,
    /// See [`READ_BATCHES_MAX`].
    pub read_batches_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            requests_per_core_max: REQUESTS_PER_CORE_MAX,
            request_bytes_per_core_max: REQUEST_BYTES_PER_CORE_MAX,
            frames_queued_max: FRAMES_QUEUED_MAX,
            frame_bytes_queued_max: FRAME_BYTES_QUEUED_MAX,
            queries_per_shard_max: QUERIES_PER_SHARD_MAX,
            events_per_turn_max: EVENTS_PER_TURN_MAX,
            entries_per_turn_max: ENTRIES_PER_TURN_MAX,
            groups_refused_max: GROUPS_REFUSED_MAX,
            link_buffer_bytes_max: LINK_BUFFER_BYTES_MAX,
            receive_chunk_bytes: RECEIVE_CHUNK_BYTES,
            receive_room_bytes_min: RECEIVE_ROOM_BYTES_MIN,
            append_group_bytes_max: APPEND_GROUP_BYTES_MAX,
            handshakes_max: HANDSHAKES_MAX,
            append_bytes_min: APPEND_BYTES_MIN,
            append_bytes_max: APPEND_BYTES_MAX,
            inflight_messages_max: INFLIGHT_MESSAGES_MAX,
            inflight_bytes_max: INFLIGHT_BYTES_MAX,
            uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
            read_batches_max: READ_BATCHES_MAX,
        }
    }
}

/// What a group of the log may have besides the bytes that [`Limits::append_group_bytes_max`] counts,
/// or besides the payload of its only entry: the heads of a hard state and of one entry.
pub const APPEND_GROUP_MARGIN_BYTES: usize = 128;

impl Limits {
    /// The first limit that makes no sense by itself or beside another one, in words. `group_bytes_max`
    /// is the largest group of records that the log takes.
    #[must_use]
    pub fn flaw(&self, group_bytes_max: usize) -> Option<String> {
        let top = Self::default();
        let ranges = [
            ("payload_bytes_max", self.payload_bytes_max, top.payload_bytes_max),
            ("requests_per_core_max", self.requests_per_core_max, top.requests_per_core_max),
            (
                "request_bytes_per_core_max",
                self.request_bytes_per_core_max,
                top.request_bytes_per_core_max,
            ),
            ("frames_queued_max", self.frames_queued_max, top.frames_queued_max),
            ("frame_bytes_queued_max", self.frame_bytes_queued_max, top.frame_bytes_queued_max),
            ("queries_per_shard_max", self.queries_per_shard_max, top.queries_per_shard_max),
            ("events_per_turn_max", self.events_per_turn_max, top.events_per_turn_max),
            ("groups_refused_max", self.groups_refused_max, top.groups_refused_max),
            ("link_buffer_bytes_max", self.link_buffer_bytes_max, top.link_buffer_bytes_max),
            ("receive_chunk_bytes", self.receive_chunk_bytes, top.receive_chunk_bytes),
            ("receive_room_bytes_min", self.receive_room_bytes_min, top.receive_room_bytes_min),
            ("append_group_bytes_max", self.append_group_bytes_max, top.append_group_bytes_max),
            ("handshakes_max", self.handshakes_max, top.handshakes_max),
            ("append_bytes_min", self.append_bytes_min, top.append_bytes_max),
            ("append_bytes_max", self.append_bytes_max, top.append_bytes_max),
            ("inflight_messages_max", self.inflight_messages_max, top.inflight_messages_max),
            ("read_batches_max", self.read_batches_max, top.read_batches_max),
        ];
        if let Some((name, value, max)) = ranges.iter().find(|(_, v, max)| *v == 0 || v > max) {
            return Some(format!("{name} is {value}; it must be 1 to {max}"));
        }
        if self.entries_per_turn_max == 0 {
            return Some("entries_per_turn_max is 0; at least 1".to_owned());
        }
        let orders = [
            ("append_bytes_min", self.append_bytes_min, "append_bytes_max", self.append_bytes_max),
            ("payload_bytes_max", self.payload_bytes_max, "request_bytes_per_core_max", {
                self.request_bytes_per_core_max
            }),
            ("payload_bytes_max", self.payload_bytes_max, "uncommitted_bytes_max", {
                self.uncommitted_bytes_max
            }),
            ("one byte", 1, "inflight_bytes_max", self.inflight_bytes_max),
        ];
        for (low_name, low, high_name, high) in orders {
            if low > high {
                return Some(format!("{low_name} is {low}, more than {high_name}, {high}"));
            }
        }
        let group = self.payload_bytes_max.max(self.append_group_bytes_max);
        if group + APPEND_GROUP_MARGIN_BYTES > group_bytes_max {
            return Some(format!(
                "payload_bytes_max and append_group_bytes_max allow groups of {group} bytes; the \
                 log takes {group_bytes_max}: its segments or batches are too small for them"
            ));
        }
        None
    }
}

/// Cold reads that run at once on a core: enough for the disk to be busy, few enough for the writes
/// of the log to pass.
pub const COLD_READS_MAX: usize = 4;

/// Bytes of batches that stay after a cold read, for the shards that want what else is in them: more than one
/// run of the index reaches over.
pub const COLD_RECENT_BYTES: usize = 2 * RUN_SPAN_BYTES_MAX as usize;

/// They take at most one part in so many of what the newest entries may take.
pub const COLD_RECENT_PARTS: u64 = 6;

/// How long a sweep over the log may rest before who is ahead of it is served.
pub const COLD_SWEEP_PATIENCE: Duration = Duration::from_millis(20);

/// How long they stay when nothing more is read.
pub const COLD_RECENT_KEPT: Duration = Duration::from_secs(1);

/// Cold readers whose place within a run is remembered.
pub const COLD_CURSORS_MAX: usize = 1024;

/// How far a cold reader reads on to reach what is wanted, rather than to seek.
pub const COLD_SKIP_BYTES_MAX: u64 = RUN_SPAN_BYTES_MAX;

/// Cost of the entries that a state machine is given from one cold read.
pub const COLD_APPLY_BYTES: usize = 1 << 20;

/// Snapshots that one core takes over from leaders at the same time. Each holds a window of chunks.
pub const PULLS_MAX: usize = 4;

/// A follower that needs a snapshot gets a new one if more was written since the newest than one part in so many of
/// what that has, and more than [`OUTDATED_LOG_BYTES_MIN`], or than what is kept of logs anyway.
pub const OUTDATED_PARTS: u64 = 4;

/// What a follower can always be sent of the log behind a snapshot: it is not worth the flushes of another one.
pub const OUTDATED_LOG_BYTES_MIN: u64 = 1 << 20;

/// How long a leader's snapshot that had no room here is not taken up again.
pub const PULL_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Who may wait for the next snapshot of one shard.
pub const SNAPSHOT_ANSWERS_MAX: usize = 64;

/// How long a snapshot that failed is not tried again unless somebody asks.
pub const SNAPSHOT_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Bytes per second that a core writes of its own snapshots while nobody waits for them: the writes of the log, on
/// which clients do wait, hardly notice.
pub const SNAPSHOT_WRITE_BYTES_PER_S: u64 = 64 << 20;

/// The same while a replica waits for one, or the log has become far larger than it should be: still below what
/// disks do.
pub const SNAPSHOT_HURRY_BYTES_PER_S: u64 = 256 << 20;

/// Bytes that a transfer may do at once before its rate counts.
pub const SNAPSHOT_BURST_BYTES: u64 = 8 << 20;

/// Cost of the entries that are read at once to be written again.
pub const REWRITE_READ_BYTES: usize = 1 << 20;

/// Pause between two spare segments that a log removes. A disk that discards what is freed takes nothing else for 17 ms
/// or so for each of them (64 MiB): less than one write in a hundred may meet that.
pub const SPARE_REMOVAL_PAUSE: Duration = Duration::from_secs(3);

/// How often the upkeep of a log that nobody writes to is looked at: followers that are waited for, and
/// snapshots by the clock, have patience for that.
pub const UPKEEP_PAUSE: Duration = Duration::from_millis(500);

/// How long the upkeep of a log pauses for each shard, which takes about a microsecond to look at: a thousandth of a
/// core, however many there are.
pub const UPKEEP_SHARD_PAUSE: Duration = Duration::from_millis(1);

/// The upkeep of a log is looked at before the next tick when this part of a segment was appended: a burst
/// must not use up the reserve unseen.
pub const UPKEEP_SEGMENT_PARTS: u64 = 4;

/// Cost of a shard's entries after which the commit index is stored along with more of them: what a restart
/// can't apply before it hears of a leader.
pub const COMMIT_HINT_BYTES: usize = 256 << 10;
