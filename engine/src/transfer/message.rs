//! Requests and answers of a transfer: two headers of fixed size, and nothing by which memory is taken
//! before it is checked.
//!
//! ```text
//! request, 32 bytes
//!  0       2         3      4       8       16     24      28          32
//!  | C0 AD | version | kind | shard | index | term | chunk | head crc  |
//!
//! answer, 24 bytes, and the body
//!  0       2         3      4        5      8       12       16         20         24
//!  | C0 AE | version | kind | status | zero | chunk | length | body crc | head crc | body ...
//! ```
//! All numbers are little-endian, both checksums CRC-32 (IEEE); the head's covers all bytes before it. A
//! header is valid if and only if magic and version are ours, the checksum matches, kind and status are
//! known, what must be zero is, and the length is within the limit of its kind. After an invalid one the
//! connection can't be trusted. `docs/wire-format.md` says the rest.

use bytes::Bytes;
use thiserror::Error;

use crate::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_MANIFEST_BYTES_MAX, TERM_MAX};
use crate::snapshot::SnapshotId;
use crate::{LogIndex, ShardId, Term};

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 32;

/// Bytes of an answer's header.
pub const ANSWER_BYTES: usize = 24;

/// Version of requests and answers.
pub const TRANSFER_VERSION: u8 = 1;

const REQUEST_MAGIC: [u8; 2] = [0xC0, 0xAD];
const ANSWER_MAGIC: [u8; 2] = [0xC0, 0xAE];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The manifest.
    Manifest,
    /// The chunk of that number.
    Chunk(u32),
}

impl Part {
    fn numbers(self) -> (u8, u32) {
        match self {
            Self::Manifest => (1, 0),
            Self::Chunk(number) => (2, number),
        }
    }

    fn from_numbers(kind: u8, chunk: u32) -> Result<Self, MessageError> {
        match (kind, chunk) {
            (1, 0) => Ok(Self::Manifest),
            (1, _) => Err(MessageError::Malformed("a manifest has no chunk number")),
            (2, number) => Ok(Self::Chunk(number)),
            _ => Err(MessageError::Malformed("unknown kind")),
        }
    }

    /// Longest body of this part.
    fn bytes_max(self) -> usize {
        match self {
            Self::Manifest => SNAPSHOT_MANIFEST_BYTES_MAX,
            Self::Chunk(_) => SNAPSHOT_CHUNK_BYTES_MAX,
        }
    }
}

/// A request for one part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// Which part.
    pub part: Part,
}

/// How a request went. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The body follows.
    Ok = 0,
    /// There is no such snapshot, or no such chunk in it.
    Unknown = 1,
    /// The chunk could not be read as it was written.
    Damaged = 2,
    /// Not now, or too many are served: close, and come again later.
    Busy = 3,
}

/// The header of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked for.
    pub part: Part,
    /// How it went.
    pub status: Status,
    /// Bytes of the body; 0 unless [`Status::Ok`].
    pub bytes: u32,
    /// CRC-32 of the body; 0 unless [`Status::Ok`].
    pub checksum: u32,
}

/// A header is not valid: the connection must be closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MessageError {
    /// The first bytes are not those of such a header.
    #[error("a header of a transfer begins with {found:02x?}, not with {expected:02x?}")]
    Magic {
        /// What was received.
        found: [u8; 2],
        /// What it should begin with.
        expected: [u8; 2],
    },
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {0} of the transfer of snapshots, this node speaks {TRANSFER_VERSION}"
    )]
    Version(u8),
    /// It was damaged on the way.
    #[error("damaged header of a transfer: checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// The checksum it carries.
        found: u32,
        /// The checksum of what was received.
        computed: u32,
    },
    /// It says what no sender should.
    #[error("malformed header of a transfer: {0}")]
    Malformed(&'static str),
    /// The body would be longer than its kind allows.
    #[error("a body of {bytes} bytes for {part:?}, at most {max} are allowed")]
    TooLong {
        /// Of what.
        part: Part,
        /// Length it states.
        bytes: u32,
        /// Longest of its kind.
        max: usize,
    },
}

impl Request {
    /// The request as it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let (kind, chunk) = self.part.numbers();
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0..2].copy_from_slice(&REQUEST_MAGIC);
        bytes[2] = TRANSFER_VERSION;
        bytes[3] = kind;
        bytes[4..8].copy_from_slice(&self.snapshot.shard.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.snapshot.index.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.snapshot.term.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&chunk.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// The request in `bytes`.
    ///
    /// # Errors
    /// [`MessageError`] if it is not valid.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, MessageError> {
        check(bytes, REQUEST_MAGIC)?;
        let snapshot = SnapshotId {
            shard: ShardId(u32_at(bytes, 4)),
            index: LogIndex(u64_at(bytes, 8)),
            term: Term(u64_at(bytes, 16)),
        };
        if snapshot.term.0 > TERM_MAX {
            return Err(MessageError::Malformed("a term above all that can be"));
        }
        let part = Part::from_numbers(bytes[3], u32_at(bytes, 24))?;
        Ok(Self { snapshot, part })
    }
}

impl Answer {
    /// The answer that has `body`, whose checksum is known.
    #[must_use]
    pub fn with_body(part: Part, body: &Bytes, checksum: u32) -> Self {
        let bytes = u32::try_from(body.len()).expect("bodies are limited by their store");
        Self { part, status: Status::Ok, bytes, checksum }
    }

    /// An answer without a body.
    #[must_use]
    pub fn without(part: Part, status: Status) -> Self {
        assert!(status != Status::Ok, "an answer that is right has a body");
        Self { part, status, bytes: 0, checksum: 0 }
    }

    /// The header as it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; ANSWER_BYTES] {
        let (kind, chunk) = self.part.numbers();
        let mut bytes = [0; ANSWER_BYTES];
        bytes[0..2].copy_from_slice(&ANSWER_MAGIC);
        bytes[2] = TRANSFER_VERSION;
        bytes[3] = kind;
        bytes[4] = self.status as u8;
        bytes[8..12].copy_from_slice(&chunk.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.checksum.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// The header in `bytes`.
    ///
    /// # Errors
    /// [`MessageError`] if it is not valid.
    pub fn decode(bytes: &[u8; ANSWER_BYTES]) -> Result<Self, MessageError> {
        check(bytes, ANSWER_MAGIC)?;
        let status = match bytes[4] {
            0 => Status::Ok,
            1 => Status::Unknown,
            2 => Status::Damaged,
            3 => Status::Busy,
            _ => return Err(MessageError::Malformed("unknown status")),
        };
        if bytes[5..8] != [0; 3] {
            return Err(MessageError::Malformed("reserved bytes are set"));
        }
        let part = Part::from_numbers(bytes[3], u32_at(bytes, 8))?;
        let answer = Self { part, status, bytes: u32_at(bytes, 12), checksum: u32_at(bytes, 16) };
        let max = part.bytes_max();
        match status {
            Status::Ok if answer.bytes == 0 => Err(MessageError::Malformed("an empty body")),
            Status::Ok if answer.bytes as usize > max => {
                Err(MessageError::TooLong { part, bytes: answer.bytes, max })
            }
            Status::Ok => Ok(answer),
            _ if (answer.bytes, answer.checksum) != (0, 0) => {
                Err(MessageError::Malformed("a body where there is none"))
            }
            _ => Ok(answer),
        }
    }
}

/// Puts the checksum at the end of a header.
fn seal<const N: usize>(bytes: &mut [u8; N]) {
    let checksum = crc32fast::hash(&bytes[..N - 4]);
    bytes[N - 4..].copy_from_slice(&checksum.to_le_bytes());
}

/// In the order that gives the most telling error.
fn check<const N: usize>(bytes: &[u8; N], expected: [u8; 2]) -> Result<(), MessageError> {
    let found = [bytes[0], bytes[1]];
    if found != expected {
        return Err(MessageError::Magic { found, expected });
    }
    if bytes[2] != TRANSFER_VERSION {
        return Err(MessageError::Version(bytes[2]));
    }
    let (found, computed) = (u32_at(bytes, N - 4), crc32fast::hash(&bytes[..N - 4]));
    if found != computed {
        return Err(MessageError::Checksum { found, computed });
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn request(part: Part) -> Request {
        let snapshot =
            SnapshotId { shard: ShardId(0x0A0B), index: LogIndex(0x0102_0304), term: Term(7) };
        Request { snapshot, part }
    }

    fn answer(part: Part, body: &'static [u8]) -> Answer {
        Answer::with_body(part, &Bytes::from_static(body), crc32fast::hash(body))
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        for bit in 0..REQUEST_BYTES * 8 {
            let mut bytes = request(Part::Chunk(3)).encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Request::decode(&bytes).is_err(), "bit {bit}");
        }
        for bit in 0..ANSWER_BYTES * 8 {
            let mut bytes = answer(Part::Chunk(3), b"x").encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Answer::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_rule_of_an_answer_has_its_error() {
        let change = |answer: Answer, place: usize, byte: u8| {
            let mut bytes = answer.encode();
            bytes[place] = byte;
            seal(&mut bytes);
            Answer::decode(&bytes).unwrap_err()
        };
        let chunk = answer(Part::Chunk(300), b"chunk");
        let unknown = Answer::without(Part::Chunk(300), Status::Unknown);
        assert!(matches!(change(chunk, 1, 0xAD), MessageError::Magic { .. }));
        assert_eq!(change(chunk, 2, 2), MessageError::Version(2));
        assert_eq!(change(chunk, 3, 9), MessageError::Malformed("unknown kind"));
        assert_eq!(change(chunk, 3, 1), MessageError::Malformed("a manifest has no chunk number"));
        assert_eq!(change(chunk, 4, 4), MessageError::Malformed("unknown status"));
        assert_eq!(change(chunk, 5, 1), MessageError::Malformed("reserved bytes are set"));
        assert_eq!(change(chunk, 12, 0), MessageError::Malformed("an empty body"));
        assert!(matches!(change(chunk, 15, 1), MessageError::TooLong { .. }));
        let body = MessageError::Malformed("a body where there is none");
        assert_eq!(change(unknown, 12, 1), body);
        assert_eq!(change(unknown, 16, 1), body);
    }

    #[test]
    fn a_term_beyond_all_that_can_be_is_refused() {
        let mut wrong = request(Part::Manifest);
        wrong.snapshot.term = Term(TERM_MAX + 1);
        assert!(Request::decode(&wrong.encode()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any bytes, with a checksum that is right or not, are an error or a header that can be written
        /// in one way only, and that states no length beyond its limit.
        #[test]
        fn any_bytes_are_an_error_or_the_one_way_to_write_a_header(
            mut bytes in any::<[u8; REQUEST_BYTES]>(),
            sealed in any::<bool>(),
            plain in any::<bool>(),
        ) {
            let mut head: [u8; ANSWER_BYTES] = *bytes.first_chunk().unwrap();
            if plain {
                let (kind, status) = (bytes[3] % 4, bytes[4] % 5);
                bytes[..4].copy_from_slice(&[0xC0, 0xAD, 1, kind]);
                head[..8].copy_from_slice(&[0xC0, 0xAE, 1, kind, status, 0, 0, 0]);
                head[15] = 0;
            }
            if sealed {
                seal(&mut bytes);
                seal(&mut head);
            }
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
            if let Ok(answer) = Answer::decode(&head) {
                prop_assert_eq!(answer.encode(), head);
                prop_assert!(answer.bytes as usize <= answer.part.bytes_max());
            }
        }
    }
}
