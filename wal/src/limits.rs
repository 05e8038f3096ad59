//! Every bound of the log, in one place, with its reason.

/// Unit of durable writes. Batches start and end on a multiple of it, so that a block that was
/// acknowledged is never written again, and O_DIRECT accepts every write.
pub const BLOCK_BYTES: usize = 4096;

/// Most bytes one batch may take in a segment, header and padding included. It also bounds the
/// largest group of records that can be appended atomically.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Most durable writes in flight. PLATFORM facts: depth 2 is the sweet spot, 4 gains little more.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;

/// Largest single read: larger ones have hung or been split by some runtimes.
pub const READ_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(BATCH_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(READ_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
