//! Every bound of the engine, in one place, with its reason.

/// Largest payload of one proposal. Larger values belong outside the log.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Largest peer frame, header included: one maximal entry with room for its neighbours.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Proposals and queries that may wait in one core before new ones are refused as overloaded.
pub const REQUESTS_PER_CORE_MAX: usize = 64 << 10;

const _: () = assert!(PAYLOAD_BYTES_MAX + 4096 < FRAME_BYTES_MAX);
