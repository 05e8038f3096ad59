//! Every bound of the log, in one place, with its reason.

/// Unit of durable writes. Batches start and end on a multiple of it, so that a block that was
/// acknowledged is never written again, and O_DIRECT accepts every write.
pub const BLOCK_BYTES: usize = 4096;

/// Most bytes one batch may take in a segment, header and padding included. It also bounds the
/// largest group of records that can be appended atomically.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Bytes of a record besides its payload.
pub const RECORD_HEADER_BYTES: usize = 16;

/// Most durable writes in flight. PLATFORM facts: depth 2 is the sweet spot, 4 gains little more.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;

/// Largest single read: larger ones have hung or been split by some runtimes.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// Reads in flight during recovery: what a fast device needs to be read at its full speed.
pub const READS_IN_FLIGHT_MAX: usize = 16;

/// Segments that recovery looks at together: most of the time of a look is waiting.
pub const SURVEYED_AT_ONCE: usize = 8;

/// Smallest segment: its header, the block kept for a mark, and some batches.
pub const SEGMENT_BYTES_MIN: u64 = 16 * BLOCK_BYTES as u64;

/// Largest segment. Positions in one are 32-bit friendly, and a spare is filled in seconds.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// Largest position, generation and segment number: more than a device could write in centuries. What
/// claims to be beyond is not believed, so that no sum of them overflows.
pub const POSITION_MAX: u64 = 1 << 62;

/// Most segments prepared ahead: more only hold disk space.
pub const SPARES_MAX: usize = 16;

/// Trimmed segments that are kept for reuse in any case, for each segment that is to be prepared ahead
/// ([`Options::spares`](crate::Options::spares)).
pub const SPARES_KEPT_PER_READY: usize = 2;

/// End of every segment that batches with records leave free, so that a mark always finds room: a
/// mark is what allows trimmed segments to be reused when the disk is full.
pub const MARK_RESERVE_BYTES: u64 = BLOCK_BYTES as u64;

/// Part of a segment that is kept for its summary: one byte in so many.
pub const SUMMARY_SHARE: u64 = 64;

/// Most bytes that are kept for a summary: one that takes longer to read spares little.
pub const SUMMARY_BYTES_MAX: u64 = 256 << 10;

/// Summaries that wait to be written; further ones are dropped, which costs time at a restart and no more.
pub const SUMMARIES_WAITING_MAX: usize = 16;

/// Fewest segments that a budget must allow: the current one, one to go on with, one to be given up.
pub const BUDGET_SEGMENTS_MIN: u64 = 3;

/// First read of a reader of old records: one batch is often all that is wanted.
pub const SEEK_READ_BYTES: usize = 64 << 10;

/// Reads of [`READ_BYTES_MAX`] that a reader of old records has under way ahead of what it gave out, once
/// it is read in sequence: enough to keep a device busy while records are used, little enough for many readers.
pub const READ_AHEAD: usize = 2;

/// Buffers from this size on are kept for their next use when they are dropped, and the others left to the allocator,
/// which asks the system for large ones alone.
pub const LARGE_BUFFER_BYTES: usize = 128 << 10;

/// Large buffers take memory in such steps, so that those of about the same size can take each other's place. What they
/// have too much is never touched.
pub const LARGE_BUFFER_STEP_BYTES: usize = 256 << 10;

/// What a thread keeps of large buffers that are not in use: what a transfer of snapshots has in flight, or a few
/// readers of old entries.
pub const SPARE_BUFFERS_BYTES_MAX: usize = 16 << 20;

/// Files of old segments that one reader keeps open.
pub const READER_FILES_MAX: usize = 4;

/// Free bytes in the current segment below which the log says it has no room, when the disk is full
/// and no segment is ready. What is left is for records the owner cannot do without (votes).
pub const ROOM_RESERVE_BYTES: u64 = 8 << 20;

/// Largest write while a segment is filled with zeros. Small enough not to delay commits for long.
pub const FILL_BYTES: usize = 512 << 10;

/// Smallest buffer of a batch; buffers grow in steps of [`BUFFER_GROWTH`] up to [`BATCH_BYTES_MAX`].
pub const BUFFER_BYTES_MIN: usize = 64 << 10;

/// Factor by which a batch's buffer grows.
pub const BUFFER_GROWTH: usize = 4;

/// How often in a row a write may be answered `WouldBlock` or `Interrupted` without writing
/// anything before that counts as a failure: everything that loops has an end.
pub const RESUBMITS_MAX: u32 = 1000;

/// Refused appends after which a full disk is tried again, without waiting for the owner's tick.
pub const REFUSALS_BEFORE_RETRY: u32 = 256;

/// Payload bytes that are copied before they are checksummed: fits the first-level cache.
pub(crate) const COPY_STEP_BYTES: usize = 16 << 10;

const _: () = assert!(BATCH_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(READ_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(FILL_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(BUFFER_BYTES_MIN.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(BUFFER_BYTES_MIN <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(MARK_RESERVE_BYTES >= BLOCK_BYTES as u64);
const _: () = assert!(SEGMENT_BYTES_MIN > 3 * BLOCK_BYTES as u64 + MARK_RESERVE_BYTES);
const _: () = assert!(SUMMARY_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u64));
const _: () = assert!(SEEK_READ_BYTES.is_multiple_of(BLOCK_BYTES));
