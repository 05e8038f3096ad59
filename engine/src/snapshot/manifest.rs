//! [`Manifest`]: what a snapshot consists of, and its bytes on disk and on the wire.
//!
//! The layout is told in `docs/snapshot-format.md`; `engine/testdata/snapshot/manifest-v1.bin` and `manifest-v2.bin`
//! are two. Decoding
//! is strict: a manifest is taken as a whole or not at all, and nothing is allocated by a length that was
//! not held against what is there.

use coracle_wal::limits::BLOCK_BYTES;
use thiserror::Error;

use super::SnapshotId;
use crate::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_MAX, SNAPSHOT_MANIFEST_BYTES_MAX};
use crate::raft::membership::{Configuration, NodeSet, Parts};
use crate::{LogIndex, NodeId, ShardId, Term};

/// Version of the format without anything but voters in the configuration.
const VERSION_PLAIN: u32 = 1;
/// Version with whole configurations. The newest that is read.
const VERSION: u32 = 2;
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
    /// Who belonged to the shard at its index; it has voters.
    pub configuration: Configuration,
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
    /// [`ManifestError::Field`] if an index or a chunk is out of bounds, there are too many, or nobody votes.
    pub fn new(
        id: SnapshotId,
        configuration: Configuration,
        chunks: Vec<Chunk>,
    ) -> Result<Self, ManifestError> {
        if let Some(flaw) = id.flaw() {
            return field(flaw);
        }
        if configuration.incoming().is_empty() {
            return field("it names no voters".to_owned());
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
        Ok(Self { id, configuration, chunks, bytes, checksum })
    }

    /// The bytes of it, to be stored or sent, under the log `log_id`.
    #[must_use]
    pub fn encode(&self, log_id: &[u8; 16]) -> Vec<u8> {
        let sets = sets_of(&self.configuration);
        let nodes: usize = sets.iter().map(|set| set.len()).sum();
        let len = HEADER_BYTES + 8 * nodes + 8 * self.chunks.len();
        assert!(len <= SNAPSHOT_MANIFEST_BYTES_MAX, "a manifest of {len} bytes");
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&[0; 4]);
        let version = if nodes == sets[0].len() { VERSION_PLAIN } else { VERSION };
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&self.id.shard.0.to_le_bytes());
        out.extend_from_slice(log_id);
        out.extend_from_slice(&self.id.index.0.to_le_bytes());
        out.extend_from_slice(&self.id.term.0.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&(sets[0].len() as u32).to_le_bytes());
        out.extend(sets[1..].iter().map(|set| set.len() as u8)); // limited when it was made
        out.push(u8::from(self.configuration.auto_leave()));
        for node in sets.iter().flat_map(|set| set.iter()) {
            out.extend_from_slice(&node.0.to_le_bytes());
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
        if version != VERSION && version != VERSION_PLAIN {
            return match version {
                0 => field("it has format version 0".to_owned()),
                _ => Err(ManifestError::Newer { version }),
            };
        }
        let (chunk_count, voter_count) = (u32_at(bytes, 68) as usize, u32_at(bytes, 72) as usize);
        let others = [bytes[76], bytes[77], bytes[78]].map(usize::from);
        // All were read from 32 bits or 8: no sum of them overflows here.
        let nodes = voter_count as u64 + others.iter().sum::<usize>() as u64;
        let needed = HEADER_BYTES as u64 + 8 * (chunk_count as u64 + nodes);
        if needed != len as u64 {
            return field(format!(
                "{chunk_count} chunks and {nodes} nodes take {needed} bytes, it has {len}"
            ));
        }
        if (version == VERSION_PLAIN) != (others == [0; 3]) || bytes[79] > 1 {
            return field("its configuration is not one of its version".to_owned());
        }
        let id = SnapshotId {
            shard: ShardId(u32_at(bytes, 20)),
            index: LogIndex(u64_at(bytes, 40)),
            term: Term(u64_at(bytes, 48)),
        };
        let (nodes, chunks) = bytes[HEADER_BYTES..].split_at(8 * nodes as usize);
        let [outgoing, learners, learners_next] = others;
        let counts = [voter_count, outgoing, learners, learners_next];
        let configuration = configuration(nodes, counts, bytes[79] == 1)?;
        let chunks = chunks
            .chunks_exact(8)
            .map(|chunk| Chunk { bytes: u32_at(chunk, 0), checksum: u32_at(chunk, 4) })
            .collect();
        let manifest = Self::new(id, configuration, chunks)?;
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

fn sets_of(configuration: &Configuration) -> [&NodeSet; 4] {
    [
        configuration.incoming(),
        configuration.outgoing(),
        configuration.learners(),
        configuration.learners_next(),
    ]
}

/// The configuration whose sets have these sizes. In each the nodes are in any order, as earlier versions
/// wrote them.
fn configuration(
    mut nodes: &[u8],
    counts: [usize; 4],
    auto_leave: bool,
) -> Result<Configuration, ManifestError> {
    let mut sets = [(); 4].map(|()| NodeSet::default());
    for (set, count) in sets.iter_mut().zip(counts) {
        let (own, rest) = nodes.split_at(8 * count);
        nodes = rest;
        *set = own.chunks_exact(8).map(|node| NodeId(u64_at(node, 0))).collect();
        if set.len() != count {
            return field(format!("a node is named twice in {set}"));
        }
    }
    let [incoming, outgoing, learners, learners_next] = sets;
    let parts = Parts { incoming, outgoing, learners, learners_next, auto_leave };
    Configuration::from_parts(parts).map_err(|error| ManifestError::Field(error.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VOTERS_MAX;
    use crate::raft::membership::Change;

    const GOLDEN: &[u8] = include_bytes!("../../testdata/snapshot/manifest-v1.bin");
    const GOLDEN_JOINT: &[u8] = include_bytes!("../../testdata/snapshot/manifest-v2.bin");
    const LOG_ID: [u8; 16] = *b"whose log it is.";

    fn id() -> SnapshotId {
        SnapshotId { shard: ShardId(0x0102), index: LogIndex(0x0304_0506), term: Term(7) }
    }

    fn golden() -> Manifest {
        let chunk = |bytes, checksum| Chunk { bytes, checksum };
        let chunks = vec![
            chunk(1, 0xdead_beef),
            chunk(SNAPSHOT_CHUNK_BYTES_MAX as u32, 0x0102_0304),
            chunk(4097, 0),
        ];
        Manifest::new(id(), voters([3, 1, u64::MAX]), chunks).expect("valid")
    }

    fn voters(ids: impl IntoIterator<Item = u64>) -> Configuration {
        Configuration::of_voters(ids.into_iter().map(NodeId)).expect("valid")
    }

    fn joint() -> Manifest {
        let changes = [
            Change::AddVoter(NodeId(4)),
            Change::AddLearner(NodeId(3)),
            Change::AddLearner(NodeId(9)),
        ];
        let configuration = voters([1, 2, 3]).enter_joint(&changes, true).expect("valid");
        Manifest { configuration, ..golden() }
    }

    /// Makes the manifest's own checksum right again after a change.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn with(at: usize, field: &[u8]) -> Vec<u8> {
        let mut bytes = golden().encode(&LOG_ID);
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes
    }

    #[test]
    fn the_format_is_that_of_the_golden_file() {
        assert_eq!(golden().encode(&LOG_ID), GOLDEN);
        assert_eq!(joint().encode(&LOG_ID), GOLDEN_JOINT);
        for (manifest, bytes) in [(golden(), GOLDEN), (joint(), GOLDEN_JOINT)] {
            assert_eq!(Manifest::decode(bytes), Ok((manifest, LOG_ID)));
            assert_eq!(Manifest::encoded_bytes(&bytes[..HEAD_BYTES]), Ok(bytes.len()));
        }
    }

    #[test]
    fn voters_of_earlier_versions_are_in_any_order() {
        let bytes = sealed(with(80, &[3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(Manifest::decode(&bytes), Ok((golden(), LOG_ID)));
    }

    #[test]
    fn configurations_that_cannot_be_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = GOLDEN_JOINT.to_vec();
            bytes[at] = byte;
            Manifest::decode(&sealed(bytes))
        };
        for (what, at, byte) in [
            ("of the old version", 4, 1),
            ("counts", 76, 4),
            ("auto leave", 79, 2),
            ("a future learner that has no vote", 78, 2),
            ("node 0", 80, 0),
            ("a node twice", 80, 2),
        ] {
            let found = with(at, byte);
            assert!(matches!(found, Err(ManifestError::Field(_))), "{what}: {found:?}");
        }
    }

    #[test]
    fn an_empty_state_has_no_chunks() {
        let empty = Manifest::new(id(), voters([1]), Vec::new()).expect("valid");
        assert_eq!((empty.bytes, empty.file_bytes(), empty.buffer_bytes()), (0, 0, BLOCK_BYTES));
        assert_eq!(Manifest::decode(&empty.encode(&LOG_ID)), Ok((empty, LOG_ID)));
    }

    #[test]
    fn chunks_lie_one_after_the_other_in_whole_blocks() {
        assert_eq!(golden().places(), [0, 1, 513]);
        assert_eq!(golden().file_bytes(), 515 * BLOCK_BYTES as u64);
        assert_eq!(golden().buffer_bytes(), SNAPSHOT_CHUNK_BYTES_MAX);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..8 * GOLDEN.len() {
            let mut bytes = GOLDEN.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_other_length_is_noticed() {
        for len in 0..GOLDEN.len() {
            let found = Manifest::decode(&GOLDEN[..len]);
            assert!(matches!(found, Err(ManifestError::Length { .. })), "{len}: {found:?}");
        }
        let longer = [GOLDEN, &[0]].concat();
        let (found, expected) = (longer.len() as u64, GOLDEN.len() as u64);
        assert_eq!(Manifest::decode(&longer), Err(ManifestError::Length { found, expected }));
    }

    #[test]
    fn what_is_damaged_is_told_from_what_is_newer_or_something_else() {
        let newer = sealed(with(4, &[3, 0, 0, 0]));
        assert_eq!(Manifest::decode(&newer), Err(ManifestError::Newer { version: 3 }));
        let unsealed = with(4, &[3, 0, 0, 0]);
        let found = Manifest::decode(&unsealed);
        assert!(matches!(found, Err(ManifestError::Checksum { .. })), "{found:?}");
        assert_eq!(Manifest::decode(&sealed(with(8, b"CORACLEW"))), Err(ManifestError::Magic));
        assert_eq!(Manifest::decode(&[0; 4096]), Err(ManifestError::Magic));
    }

    #[test]
    fn every_field_is_held_against_its_bounds_also_under_a_right_checksum() {
        let large = SNAPSHOT_CHUNK_BYTES_MAX as u32 + 1;
        let cases: [(&str, usize, &[u8]); 20] = [
            ("version", 4, &[0; 4]),
            ("length", 16, &u32::MAX.to_le_bytes()),
            ("length below the header", 16, &79_u32.to_le_bytes()),
            ("shard", 20, &[9; 4]),
            ("index 0", 40, &[0; 8]),
            ("index", 40, &((1_u64 << 62) + 1).to_le_bytes()),
            ("another index", 40, &[1, 0, 0, 0, 0, 0, 0, 0]),
            ("term", 48, &u64::MAX.to_le_bytes()),
            ("another term", 48, &[1, 0, 0, 0, 0, 0, 0, 0]),
            ("bytes", 56, &u64::MAX.to_le_bytes()),
            ("whole checksum", 64, &[0; 4]),
            ("count of chunks", 68, &[2, 0, 0, 0]),
            ("huge count of chunks", 68, &u32::MAX.to_le_bytes()),
            ("counts that make up for each other", 68, &[4, 0, 0, 0, 2, 0, 0, 0]),
            ("no voters", 68, &[6, 0, 0, 0, 0, 0, 0, 0]),
            ("zero", 76, &[1]),
            ("voter 0", 80, &[0; 8]),
            ("voter twice", 80, &[3, 0, 0, 0, 0, 0, 0, 0]),
            ("chunk of no bytes", 104, &[0; 4]),
            ("chunk too large", 104, &large.to_le_bytes()),
        ];
        for (what, at, bytes) in cases {
            let found = Manifest::decode(&sealed(with(at, bytes)));
            assert!(matches!(found, Err(ManifestError::Field(_))), "{what}: {found:?}");
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // The largest manifest that can be claimed, with nothing behind it.
        let mut bytes = with(16, &(SNAPSHOT_MANIFEST_BYTES_MAX as u32).to_le_bytes());
        bytes = sealed(bytes);
        let expected = SNAPSHOT_MANIFEST_BYTES_MAX as u64;
        let found = bytes.len() as u64;
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Length { found, expected }));
    }

    #[test]
    fn what_cannot_be_is_not_made() {
        let chunk = Chunk { bytes: 1, checksum: 0 };
        let nodes = |count: u64| voters(1..=count);
        assert!(Manifest::new(id(), nodes(VOTERS_MAX as u64), vec![chunk; 10]).is_ok());
        assert!(Manifest::new(id(), Configuration::default(), vec![chunk]).is_err());
        let others = (1..=9).flat_map(|node| {
            let learner = Change::AddLearner(NodeId(200 + node));
            [Change::Remove(NodeId(node)), Change::AddVoter(NodeId(100 + node)), learner]
        });
        let crowd = nodes(9).enter_joint(&others.collect::<Vec<_>>(), true).expect("valid");
        let most = Manifest::new(id(), crowd, vec![chunk; SNAPSHOT_CHUNKS_MAX]).expect("valid");
        assert_eq!(most.encode(&LOG_ID).len(), SNAPSHOT_MANIFEST_BYTES_MAX);
        assert!(Manifest::new(id(), nodes(1), vec![chunk; SNAPSHOT_CHUNKS_MAX + 1]).is_err());
        let nowhere = SnapshotId { index: LogIndex(0), ..id() };
        assert!(Manifest::new(nowhere, nodes(1), vec![chunk]).is_err());
    }
}
