//! Images of a shard: restoring from any bytes.
//!
//! The input is a row of chunks, each behind its length in four bytes.

use coracle::restore_chunks;
use coracle::server::Kv;
use coracle::server::kv::op::{Encoder, Expiry, Head, SetIf, SetReply, Write};
use coracle::server::resp::Protocol;

use super::commands::Shard;
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "snapshot",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 8 << 20,
        factor: 192,
        reason: "chunks are written to buffers; a record of 9 bytes becomes entries of an index, a \
                 vector, a set and a count, and two shards hold it",
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
    // What was ahead of its turn is not any more, and values are cut elsewhere.
    let mut shard = Shard::of(kv);
    shard.survives_a_snapshot();
    // It goes on: due keys are removed, the rest can be read.
    shard.tick(u64::MAX / 2);
    shard.survives_a_snapshot();
}

fn mend(data: &mut [u8]) {
    let mut image: Vec<u8> = chunks(data).flatten().copied().collect();
    image.truncate(image.len().saturating_sub(4));
    if let Some(at) = data.len().checked_sub(4) {
        data[at..].copy_from_slice(&crc32fast::hash(&image).to_le_bytes());
    }
}

/// Items ahead of their turn, and a value in two parts: rare in what a small shard writes.
fn rare() -> Vec<Vec<u8>> {
    let key = |key: u8, value: &[u8]| {
        let lengths = [1_u32, value.len() as u32].map(u32::to_le_bytes).concat();
        [&lengths[..], &[key], value].concat()
    };
    let (turn, deadline) = (2_u64.to_le_bytes(), 1_767_225_600_000_u64.to_le_bytes());
    let begin = [&b"CKV2"[..], &1000_u64.to_le_bytes(), &4_u64.to_le_bytes()].concat();
    let ahead = [&[1 | 2 | 4], &turn[..], &deadline, &key(b'c', b"third")].concat();
    let first = [&[1], &key(b'a', b"in two ")[..]].concat();
    let tail = [&[16], &5_u32.to_le_bytes()[..], b"parts"].concat();
    let second = [&[1], &key(b'b', b"")[..]].concat();
    let last = [&[1 | 2], &deadline[..], &key(b'd', b"fourth")].concat();
    vec![[begin, ahead, first].concat(), [tail, second].concat(), last, vec![32, 0, 0, 0, 0]]
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
    let mut rare = joined(&rare());
    mend(&mut rare);
    vec![
        Seed::new("empty", joined(&empty)),
        Seed::new("keys", joined(&shard.image())),
        Seed::new("rare", rare),
    ]
}
