//! Images of a shard: restoring from any bytes.

use coracle::server::Kv;
use coracle::server::kv::op::{Encoder, Expiry, Head, SetIf, SetReply, Write};
use coracle::server::resp::Protocol;
use coracle::{StateMachine, restore_chunks, snapshot_chunks};

use super::commands::Shard;
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "snapshot",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 4 << 20,
        factor: 128,
        reason: "a key and a value of 1 MiB are allocated before their bytes are read; a record of 24 bytes \
                 becomes entries of an index, a vector, a set and a count, and three shards hold it",
    },
};

/// Chunks, each behind its length in four bytes.
fn chunks(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
        let (chunk, rest) = rest.split_at(length);
        data = rest;
        Some(chunk)
    })
}

fn joined(chunks: &[Vec<u8>]) -> Vec<u8> {
    let with_length = |chunk: &Vec<u8>| {
        [&u32::try_from(chunk.len()).expect("chunks are small").to_le_bytes(), &chunk[..]].concat()
    };
    chunks.iter().flat_map(with_length).collect()
}

fn run(data: &[u8]) {
    let mut kv = Kv::new();
    if restore_chunks(&mut kv, chunks(data)).is_err() {
        return;
    }
    let stream = kv.snapshot().expect("it takes snapshots");
    let image = snapshot_chunks(stream).expect("nothing interferes");
    drop(kv);
    let mut shard = Shard::restored(&image);
    shard.survives_a_snapshot();
    assert!(shard.image() == image, "every state has one image");
    // It goes on: due keys are removed, the rest can be read.
    shard.tick(u64::MAX / 2);
    shard.survives_a_snapshot();
}

fn mend(data: &mut [u8]) {
    let mut checksum = crc32fast::Hasher::new();
    let bytes: usize = chunks(data)
        .map(|chunk| {
            checksum.update(chunk);
            chunk.len()
        })
        .sum();
    let _ = bytes;
}

fn seeds() -> Vec<Seed> {
    let mut shard = Shard::new();
    let empty = shard.image();
    let mut encoder = Encoder::default();
    encoder.set_head(Head { protocol: Protocol::Resp2, stale: false, now_ms: 1_767_225_600_000 });
    let (when, reply) = (SetIf::Always, SetReply::Status);
    for (key, value, expiry) in [
        ("plain", "value", Expiry::Never),
        ("{tag}expires", "soon", Expiry::After(1000)),
        ("{tag}later", "later", Expiry::At(i64::MAX)),
        ("", "", Expiry::Never),
    ] {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let set = encoder.write(&Write::Set { key, value, expiry, when, reply });
        shard.apply(&set);
    }
    vec![Seed::new("empty", joined(&empty)), Seed::new("keys", joined(&shard.image()))]
}
