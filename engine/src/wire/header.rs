//! The fixed part in front of every frame.

use super::error::WireError;
use crate::ShardId;
use crate::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, MEMBERS_BYTES_MAX};

/// Bytes of the body of a pulse.
const PULSE_BYTES: usize = 12;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 24;

/// Version of the peer protocol.
pub const VERSION: u8 = 5;

const MAGIC: [u8; 2] = [0xC0, 0xAC];

/// Bytes that the header checksum covers.
const CHECKED_BYTES: usize = 20;

/// What a frame is. The numbers are part of the format; 34 and up are reserved for more about snapshots; 4 was used by
/// earlier versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Hello = 1,
    HelloReply = 2,
    Pulse = 3,
    Introduction = 5,
    Members = 6,
    PreVote = 16,
    PreVoteReply = 17,
    Vote = 18,
    VoteReply = 19,
    Append = 20,
    AppendReply = 21,
    Heartbeat = 22,
    HeartbeatReply = 23,
    TimeoutNow = 24,
    SnapshotOffer = 25,
    Census = 26,
    CensusReply = 27,
    Quiesce = 28,
    Quiesced = 29,
    ReadIndex = 30,
    ReadIndexReply = 31,
    SnapshotHello = 32,
    SnapshotHelloReply = 33,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::Pulse,
            5 => Self::Introduction,
            6 => Self::Members,
            16 => Self::PreVote,
            17 => Self::PreVoteReply,
            18 => Self::Vote,
            19 => Self::VoteReply,
            20 => Self::Append,
            21 => Self::AppendReply,
            22 => Self::Heartbeat,
            23 => Self::HeartbeatReply,
            24 => Self::TimeoutNow,
            25 => Self::SnapshotOffer,
            26 => Self::Census,
            27 => Self::CensusReply,
            28 => Self::Quiesce,
            29 => Self::Quiesced,
            30 => Self::ReadIndex,
            31 => Self::ReadIndexReply,
            32 => Self::SnapshotHello,
            33 => Self::SnapshotHelloReply,
            _ => return None,
        })
    }

    /// Longest body of this type.
    pub(super) fn body_bytes_max(self) -> usize {
        match self {
            Self::Hello
            | Self::HelloReply
            | Self::Introduction
            | Self::SnapshotHello
            | Self::SnapshotHelloReply => HELLO_BYTES_MAX,
            Self::Members => MEMBERS_BYTES_MAX,
            Self::Pulse => PULSE_BYTES,
            Self::Append => FRAME_BYTES_MAX - HEADER_BYTES,
            _ => 64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) shard: ShardId,
    pub(super) length: usize,
    pub(super) body_checksum: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.length).expect("bodies are limited to FRAME_BYTES_MAX");
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = self.kind as u8;
        bytes[8..12].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Checks in the order that gives the most telling error: a peer of another protocol or version
    /// first, then damage, then what only a defective peer sends.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let found = [bytes[0], bytes[1]];
        if found != MAGIC {
            return Err(WireError::Magic { found, expected: MAGIC });
        }
        if bytes[2] != VERSION {
            return Err(WireError::Version { found: bytes[2], expected: VERSION });
        }
        let found = number_at(bytes, 20);
        let computed = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        if found != computed {
            return Err(WireError::HeaderChecksum { found, computed });
        }
        let kind = Kind::from_number(bytes[3]).ok_or(WireError::UnknownType(bytes[3]))?;
        let flags = number_at(bytes, 4);
        if flags != 0 {
            return Err(WireError::Flags(flags));
        }
        let (length, max) = (number_at(bytes, 12) as usize, kind.body_bytes_max());
        if length > max {
            return Err(WireError::TooLong { kind: kind as u8, bytes: length, max });
        }
        let shard = ShardId(number_at(bytes, 8));
        Ok(Self { kind, shard, length, body_checksum: number_at(bytes, 16) })
    }
}

fn number_at(bytes: &[u8; HEADER_BYTES], place: usize) -> u32 {
    u32::from_le_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header() -> Header {
        Header { kind: Kind::Append, shard: ShardId(7), length: 1000, body_checksum: 0xDEAD_BEEF }
    }

    fn resealed(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
        let checksum = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[20..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_survives_the_way() {
        assert_eq!(Header::decode(&header().encode()).unwrap(), header());
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        let change = |place: usize, byte: u8| {
            let mut bytes = header().encode();
            bytes[place] = byte;
            Header::decode(&resealed(bytes)).unwrap_err()
        };
        assert!(matches!(change(0, b'G'), WireError::Magic { .. }));
        assert!(matches!(change(2, 9), WireError::Version { found: 9, expected: VERSION }));
        assert!(matches!(change(3, 99), WireError::UnknownType(99)));
        assert!(matches!(change(4, 1), WireError::Flags(1)));
        assert!(matches!(change(7, 1), WireError::Flags(0x0100_0000)));
        assert!(matches!(change(15, 0xFF), WireError::TooLong { kind: 20, .. }));
        let mut small = header();
        (small.kind, small.length) = (Kind::Hello, HELLO_BYTES_MAX + 1);
        assert!(matches!(Header::decode(&small.encode()), Err(WireError::TooLong { kind: 1, .. })));
    }
}
