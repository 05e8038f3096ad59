//! What can be wrong with a frame.

use thiserror::Error;

use crate::ShardId;

/// A received frame is not valid. The connection must be closed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The first bytes are not those of a frame: the other side speaks another protocol.
    #[error(
        "not a peer of this kind: the frame begins with {found:02x?}, not with {expected:02x?}"
    )]
    Magic {
        /// What was received.
        found: [u8; 2],
        /// What a frame begins with.
        expected: [u8; 2],
    },
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks version {found} of the peer protocol, this node speaks {expected}")]
    Version {
        /// Its version.
        found: u8,
        /// Ours.
        expected: u8,
    },
    /// The header was damaged on the way.
    #[error("damaged frame header: checksum {found:08x}, computed {computed:08x}")]
    HeaderChecksum {
        /// The checksum it carries.
        found: u32,
        /// The checksum of what was received.
        computed: u32,
    },
    /// A type of frame that this version does not know.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// Flags or reserved bytes are set that have no meaning in this version.
    #[error("frame flags {0:#010x} have no meaning in this version")]
    Flags(u32),
    /// The body is longer than its type allows.
    #[error("a frame of type {kind} with {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// Type of the frame.
        kind: u8,
        /// Length of the body.
        bytes: usize,
        /// Longest body of this type.
        max: usize,
    },
    /// The body was damaged on the way.
    #[error(
        "damaged frame of type {kind} for shard {shard}: checksum {found:08x}, computed {computed:08x}"
    )]
    BodyChecksum {
        /// Type of the frame.
        kind: u8,
        /// Shard in its header.
        shard: ShardId,
        /// The checksum it carries.
        found: u32,
        /// The checksum of what was received.
        computed: u32,
    },
    /// The body is not what its type says, although its checksum is right: a defect of the sender.
    #[error("malformed frame of type {kind} for shard {shard}: {problem}")]
    Malformed {
        /// Type of the frame.
        kind: u8,
        /// Shard in its header.
        shard: ShardId,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A frame can't be built.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// The body would be longer than a receiver accepts.
    #[error("a frame of type {kind} would have {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// Type of the frame.
        kind: u8,
        /// Length of the body.
        bytes: usize,
        /// Longest body of this type.
        max: usize,
    },
}
