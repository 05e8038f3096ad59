//! [`Manifest`]: what a snapshot consists of, and its bytes on disk and on the wire.
//!
//! The layout is told in `docs/snapshot-format.md`; `engine/testdata/snapshot/manifest-v1.bin` is one. Decoding
//! is strict: a manifest is taken as a whole or not at all, and nothing is allocated by a length that was
//! not held against what is there.

use coracle_wal::limits::BLOCK_BYTES;
use thiserror::Error;

use super::SnapshotId;
use crate::limits::{
    SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_MAX, SNAPSHOT_MANIFEST_BYTES_MAX, VOTERS_MAX,
};
use crate::{LogIndex, NodeId, ShardId, Term};

/// Version of the format that is written, and the only one that is read.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"CORACLES";
/// Bytes before the voters.
const HEADER_BYTES: usize = 80;
/// Bytes from which [`Manifest::encoded_bytes`] tells how long a manifest is.
pub(super) const HEAD_BYTES: usize = 20;

/// One chunk of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in bytes: 1 to [`SNAPSHOT_CHUNK_BYTES_MAX`].
    pub bytes: u32,
    /// CRC-32 of its bytes.
    pub checksum: u32,
}

/// What a snapshot consists of. Make one with [`Manifest::new`] or [`Manifest::decode`]: then everything in
/// it is consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which snapshot.
    pub id: SnapshotId,
    /// The voters of the shard at its index: 1 to [`VOTERS_MAX`], different ones.
    pub voters: Vec<NodeId>,
    /// Its chunks in order: at most [`SNAPSHOT_CHUNKS_MAX`].
    pub chunks: Vec<Chunk>,
    /// Bytes of all chunks together.
    pub bytes: u64,
    /// CRC-32 over the id and the table of chunks, lengths and checksums. Two manifests with the same id and
    /// checksum name the same bytes in the same chunks.
    pub checksum: u32,
}

/// Why bytes are not a manifest, or a manifest can't be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ManifestError {
    /// The bytes end too early, or something follows.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that there are.
        found: u64,
        /// Bytes that there must be (at least, if the length itself could not be read).
        expected: u64,
    },
    /// The bytes are something else.
    #[error("it does not begin like a manifest")]
    Magic,
    /// The checksum is wrong.
    #[error("its checksum is {found:#010x} instead of {expected:#010x}")]
    Checksum {
        /// The checksum of the bytes.
        found: u32,
        /// The checksum that it names.
        expected: u32,
    },
    /// A newer program wrote it.
    #[error(
        "it has format version {version}, this program knows version {VERSION}; use a newer program"
    )]
    Newer {
        /// Its version.
        version: u32,
    },
    /// A field holds what can't be.
    #[error("{0}")]
    Field(String),
}

fn field<T>(what: String) -> Result<T, ManifestError> {
    Err(ManifestError::Field(what))
}

impl Manifest {
    /// The manifest of these chunks.
    ///
    /// # Errors
    /// [`ManifestError::Field`] if an index, a voter or a chunk is out of bounds, or there are too many.
    pub fn new(
        id: SnapshotId,
        voters: Vec<NodeId>,
        chunks: Vec<Chunk>,
    ) -> Result<Self, ManifestError> {
        if let Some(flaw) = id.flaw() {
            return field(flaw);
        }
        if !(1..=VOTERS_MAX).contains(&voters.len()) {
            return field(format!("it names {} voters; 1 to {VOTERS_MAX}", voters.len()));
        }
        for (place, voter) in voters.iter().enumerate() {
            if voter.0 == 0 || voters[..place].contains(voter) {
                return field(format!("voter {voter} is 0 or named twice"));
            }
        }
        if chunks.len() > SNAPSHOT_CHUNKS_MAX {
            return field(format!(
                "it names {} chunks; at most {SNAPSHOT_CHUNKS_MAX}",
                chunks.len()
            ));
        }
        let range = 1..=SNAPSHOT_CHUNK_BYTES_MAX;
        let wrong = chunks.iter().position(|chunk| !range.contains(&(chunk.bytes as usize)));
        if let Some(number) = wrong {
            let bytes = chunks[number].bytes;
            return field(format!("chunk {number} has {bytes} bytes; 1 to {}", range.end()));
        }
        let bytes = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        let checksum = whole_checksum(&id, &chunks);
        Ok(Self { id, voters, chunks, bytes, checksum })
    }

    /// The bytes of it, to be stored or sent, under the log `log_id`.
    #[must_use]
    pub fn encode(&self, log_id: &[u8; 16]) -> Vec<u8> {
        let len = HEADER_BYTES + 8 * self.voters.len() + 8 * self.chunks.len();
        assert!(len <= SNAPSHOT_MANIFEST_BYTES_MAX, "a manifest of {len} bytes");
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&self.id.shard.0.to_le_bytes());
        out.extend_from_slice(log_id);
        out.extend_from_slice(&self.id.index.0.to_le_bytes());
        out.extend_from_slice(&self.id.term.0.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.voters.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for voter in &self.voters {
            out.extend_from_slice(&voter.0.to_le_bytes());
        }
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.bytes.to_le_bytes());
            out.extend_from_slice(&chunk.checksum.to_le_bytes());
        }
        assert_eq!(out.len(), len);
        let checksum = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// How long the manifest is that begins with `head`, without padding.
    ///
    /// # Errors
    /// `head` is too short to tell, is not the beginning of a manifest, or claims a length that can't be.
    pub fn encoded_bytes(head: &[u8]) -> Result<usize, ManifestError> {
        if head.len() < HEAD_BYTES {
            let expected = HEAD_BYTES as u64;
            return Err(ManifestError::Length { found: head.len() as u64, expected });
        }
        if head[8..16] != MAGIC {
            return Err(ManifestError::Magic);
        }
        let len = u32_at(head, 16) as usize;
        if !(HEADER_BYTES..=SNAPSHOT_MANIFEST_BYTES_MAX).contains(&len) {
            return field(format!(
                "it claims to have {len} bytes; {HEADER_BYTES} to {SNAPSHOT_MANIFEST_BYTES_MAX}"
            ));
        }
        Ok(len)
    }

    /// Reads what [`Manifest::encode`] wrote, all of `bytes`. Also gives the id of the log it was
    /// written under.
    ///
    /// # Errors
    /// Anything about it is not as it must be. [`ManifestError::Newer`] only if the checksum is right.
    pub fn decode(bytes: &[u8]) -> Result<(Self, [u8; 16]), ManifestError> {
        let len = Self::encoded_bytes(bytes)?;
        if bytes.len() != len {
            return Err(ManifestError::Length { found: bytes.len() as u64, expected: len as u64 });
        }
        let (found, expected) = (crc32fast::hash(&bytes[4..]), u32_at(bytes, 0));
        if found != expected {
            return Err(ManifestError::Checksum { found, expected });
        }
        let version = u32_at(bytes, 4);
        if version != VERSION {
            return match version {
                0 => field("it has format version 0".to_owned()),
                _ => Err(ManifestError::Newer { version }),
            };
        }
        let (chunk_count, voter_count) = (u32_at(bytes, 68) as usize, u32_at(bytes, 72) as usize);
        // Both were read from 32 bits: no sum of them overflows here.
        let needed = HEADER_BYTES as u64 + 8 * (chunk_count as u64 + voter_count as u64);
        if needed != len as u64 {
            return field(format!(
                "{chunk_count} chunks and {voter_count} voters take {needed} bytes, it has {len}"
            ));
        }
        if u32_at(bytes, 76) != 0 {
            return field("a field that must be zero is not".to_owned());
        }
        let id = SnapshotId {
            shard: ShardId(u32_at(bytes, 20)),
            index: LogIndex(u64_at(bytes, 40)),
            term: Term(u64_at(bytes, 48)),
        };
        let (voters, chunks) = bytes[HEADER_BYTES..].split_at(8 * voter_count);
        let voters = voters.chunks_exact(8).map(|voter| NodeId(u64_at(voter, 0))).collect();
        let chunks = chunks
            .chunks_exact(8)
            .map(|chunk| Chunk { bytes: u32_at(chunk, 0), checksum: u32_at(chunk, 4) })
            .collect();
        let manifest = Self::new(id, voters, chunks)?;
        if manifest.bytes != u64_at(bytes, 56) {
            let claimed = u64_at(bytes, 56);
            return field(format!("its chunks have {} bytes, it says {claimed}", manifest.bytes));
        }
        if manifest.checksum != u32_at(bytes, 64) {
            return field("the checksum over its chunks is wrong".to_owned());
        }
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&bytes[24..40]);
        Ok((manifest, log_id))
    }

    /// Bytes of the file of its chunks, each padded to whole blocks.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| padded(chunk.bytes as usize) as u64).sum()
    }

    /// Bytes of the largest chunk, padded: what a buffer for any chunk must hold. At least one block.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let largest = self.chunks.iter().map(|chunk| chunk.bytes).max().unwrap_or(0);
        padded(largest.max(1) as usize)
    }

    /// Where each chunk begins in the file, counted in blocks: 4 bytes for each.
    pub(super) fn places(&self) -> Vec<u32> {
        let mut place = 0;
        let block = |chunk: &Chunk| {
            let here = place;
            // Fits: asserted beside the limits.
            place += (padded(chunk.bytes as usize) / BLOCK_BYTES) as u32;
            here
        };
        self.chunks.iter().map(block).collect()
    }
}

/// `bytes` rounded up to whole blocks.
pub(super) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The byte at which a block of a file begins.
pub(super) fn position(place: u32) -> u64 {
    u64::from(place) * BLOCK_BYTES as u64
}

fn whole_checksum(id: &SnapshotId, chunks: &[Chunk]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.shard.0.to_le_bytes());
    hasher.update(&id.index.0.to_le_bytes());
    hasher.update(&id.term.0.to_le_bytes());
    for chunk in chunks {
        let mut both = [0; 8];
        both[..4].copy_from_slice(&chunk.bytes.to_le_bytes());
        both[4..].copy_from_slice(&chunk.checksum.to_le_bytes());
        hasher.update(&both);
    }
    hasher.finalize()
}

/// The number at `at`, which must be inside of `bytes`.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The number at `at`, which must be inside of `bytes`.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
