//! Images of a shard: restoring from any bytes.

use coracle::StateMachine;
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
        constant: 4 << 20,
        factor: 128,
        reason: "a key and a value of 1 MiB are allocated before their bytes are read; a record of 24 bytes \
                 becomes entries of an index, a vector, a set and a count, and three shards hold it",
    },
};

fn run(data: &[u8]) {
    let mut kv = Kv::new();
    if kv.restore(&mut &*data).is_err() {
        return;
    }
    let mut image = Vec::new();
    kv.snapshot(&mut image).expect("a Vec takes everything");
    drop(kv);
    let mut shard = Shard::restored(&image);
    shard.survives_a_snapshot();
    assert!(data.starts_with(&image), "every state has one image");
    // It goes on: due keys are removed, the rest can be read.
    shard.tick(u64::MAX / 2);
    shard.survives_a_snapshot();
}

fn mend(data: &mut [u8]) {
    if let Some(at) = data.len().checked_sub(4) {
        let checksum = crc32fast::hash(&data[..at]);
        data[at..].copy_from_slice(&checksum.to_le_bytes());
    }
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
    vec![Seed::new("empty", empty), Seed::new("keys", shard.image())]
}
