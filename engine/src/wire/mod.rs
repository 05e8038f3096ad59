//! The peer protocol: what goes over a connection between two cores.
//!
//! A connection carries frames in both directions. The first frame from the side that connected is
//! [`Hello`]; the other side answers with [`HelloReply`] and, if it refused, closes. After that both
//! send Raft messages of any shard that the two cores share, in any order, and a [`Pulse`] with each
//! heartbeat interval.
//!
//! ```text
//!  0       2         3      4       6       8       12       16          20          24
//!  | magic | version | type | flags | zero  | shard | length | body crc  | head crc  | body ...
//! ```
//! All numbers are little-endian. `length` counts the bytes of the body. Both checksums are CRC-32
//! (IEEE); the head's covers bytes 0 to 20, so that length and body checksum can be believed before
//! anything is read or allocated by them. A frame is valid if and only if magic and version are ours,
//! the type is known, flags and reserved bytes are zero, the length is within the type's limit, both
//! checksums match, and the body is exactly what its type says, without a byte more. After an
//! invalid frame the connection can't be trusted and must be closed: there is no resynchronisation.
//!
//! `docs/wire-format.md` has the layout of every body.

mod body;
mod decoder;
mod error;
mod header;
mod hello;
mod members;
mod out;
mod pulse;

pub use decoder::{Frame, FrameDecoder};
pub use error::{EncodeError, WireError};
pub use header::{HEADER_BYTES, VERSION};
pub use hello::{Hello, HelloReply, RefuseReason};
pub use out::OutBuf;
pub use pulse::Pulse;
