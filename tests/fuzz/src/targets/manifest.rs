//! Manifests of snapshots, from a file or another node.

use coracle_engine::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_MAX};
use coracle_engine::raft::membership::Configuration;
use coracle_engine::snapshot::{Chunk, Manifest, SnapshotId};
use coracle_engine::{LogIndex, NodeId, ShardId, Term};

use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "manifest",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 16 << 10,
        factor: 4,
        reason: "voters and chunks take as much as in the input; it is encoded again",
    },
};

fn run(data: &[u8]) {
    let Ok((manifest, log_id)) = Manifest::decode(data) else { return };
    assert_eq!(Manifest::encoded_bytes(data), Ok(data.len()));
    // Voters may come in another order than they are written in.
    let again = Manifest::decode(&manifest.encode(&log_id));
    assert_eq!(again, Ok((manifest.clone(), log_id)), "it can be written and read");
    assert!(manifest.chunks.len() <= SNAPSHOT_CHUNKS_MAX);
    assert!(!manifest.configuration.incoming().is_empty());
    let lengths = || manifest.chunks.iter().map(|chunk| chunk.bytes as usize);
    assert!(lengths().all(|bytes| (1..=SNAPSHOT_CHUNK_BYTES_MAX).contains(&bytes)));
    assert_eq!(lengths().sum::<usize>() as u64, manifest.bytes);
    assert!(manifest.file_bytes() >= manifest.bytes);
}

fn mend(bytes: &mut [u8]) {
    if let Some((checksum, rest)) = bytes.split_first_chunk_mut() {
        *checksum = crc32fast::hash(rest).to_le_bytes();
    }
}

fn seeds() -> Vec<Seed> {
    let example = |name, voters: &[u64], chunks: &[u32]| {
        let id = SnapshotId { shard: ShardId(3), index: LogIndex(70_000), term: Term(9) };
        let voters = voters.iter().map(|voter| NodeId(*voter));
        let voters = Configuration::of_voters(voters).expect("a valid example");
        let chunks = chunks.iter().map(|bytes| Chunk { bytes: *bytes, checksum: *bytes ^ 77 });
        let manifest = Manifest::new(id, voters, chunks.collect()).expect("a valid example");
        Seed::new(name, manifest.encode(b"the id of a log."))
    };
    vec![
        example("empty", &[1], &[]),
        example("one_chunk", &[1, 2, 3], &[1]),
        example("chunks", &[5, 1, 9, 2, 4], &[4096, 1 << 20, 1 << 21, 77]),
    ]
}
