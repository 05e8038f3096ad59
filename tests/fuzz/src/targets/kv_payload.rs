//! Log entries and queries of the key-value state machine: a committed entry must never stop a replica.
//!
//! The input is a row of payloads, each behind its length in two bytes.

use bytes::Bytes;
use coracle::server::kv::op::{Encoder, Expiry, Head, Op, Payload, Read, SetIf, SetReply, Write};
use coracle::server::resp::Protocol;

use super::commands::Shard;
use super::reply;
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "kv_payload",
    run,
    mend: None,
    seeds,
    memory: Memory {
        constant: 32 << 20,
        factor: 2 * STORE_BYTES_MAX,
        reason: "as for commands, on two shards: SETRANGE makes 1 MiB, MGET names a value many times",
    },
};

/// The shards are emptied when they have grown beyond this.
const STORE_BYTES_MAX: usize = 16 << 10;

fn payloads(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        data = rest;
        Some(payload)
    })
}

fn run(data: &[u8]) {
    let (mut shard, mut replica) = (Shard::new(), Shard::new());
    for payload in payloads(data) {
        let payload = Bytes::copy_from_slice(payload);
        let decoded = Payload::decode(&payload);
        if let Some(decoded) = &decoded {
            shard.tick(decoded.head.now_ms);
            replica.tick(decoded.head.now_ms);
            round_trip(decoded);
        }
        let before = shard.image();
        let answer = shard.query(&payload);
        assert!(shard.image() == before, "a query changes nothing");
        let reply = shard.apply(&payload);
        assert_eq!(reply, replica.apply(&payload), "replicas answer alike");
        assert!(shard.image() == replica.image(), "replicas have equal states");
        match decoded.map(|decoded| decoded.op) {
            None => {
                assert!(reply::check(&reply) && reply::check(&answer), "it is refused");
                assert!(shard.image() == before, "what is not valid changes nothing");
            }
            Some(Op::Read(Read::Scan { .. } | Read::Expiring)) => {}
            Some(Op::Read(_)) => {
                reply::check(&reply);
                assert!(shard.image() == before, "a read changes nothing");
            }
            Some(Op::Tick | Op::Write(_)) => {
                let refused = reply::check(&reply);
                assert!(reply::check(&answer), "a query can't write");
                assert!(!refused || shard.image() == before, "a refused change changes nothing");
            }
        }
        if shard.report().bytes > STORE_BYTES_MAX as u64 {
            shard.survives_a_snapshot();
            (shard, replica) = (Shard::new(), Shard::new());
        }
    }
    shard.survives_a_snapshot();
}

/// Encodes what was decoded. Lengths can be written in several ways, so bytes may change once, not twice.
fn round_trip(decoded: &Payload<'_>) {
    let once = encode(decoded);
    let again = Payload::decode(&once).expect("what was encoded can be decoded");
    assert_eq!(encode(&again), once, "and is the same");
    assert_eq!(again.head, decoded.head);
}

fn encode(payload: &Payload<'_>) -> Bytes {
    let mut encoder = Encoder::default();
    encoder.set_head(payload.head);
    fn items<'a>(list: impl Iterator<Item = &'a [u8]>) -> std::vec::IntoIter<&'a [u8]> {
        list.collect::<Vec<_>>().into_iter()
    }
    match payload.op {
        Op::Tick => encoder.tick(),
        Op::Write(Write::Del { keys }) => encoder.del(items(keys.iter())),
        Op::Write(Write::MSet { pairs, only_if_all_absent }) => {
            encoder.mset(only_if_all_absent, items(pairs.iter()))
        }
        Op::Write(write) => encoder.write(&write),
        Op::Read(Read::MGet { keys }) => encoder.mget(items(keys.iter())),
        Op::Read(Read::Exists { keys }) => encoder.exists(items(keys.iter())),
        Op::Read(read) => encoder.read(&read),
    }
}

fn seeds() -> Vec<Seed> {
    let mut encoder = Encoder::default();
    let now_ms = 1_767_225_600_000;
    encoder.set_head(Head { protocol: Protocol::Resp2, stale: false, now_ms });
    let (key, value) = (b"key".as_slice(), b"10".as_slice());
    let (when, reply) = (SetIf::Always, SetReply::Status);
    let set = |expiry| Write::Set { key, value, expiry, when, reply };
    let mut written = vec![encoder.tick(), encoder.mset(false, [key, value].into_iter())];
    for write in [
        set(Expiry::Never),
        Write::Append { key, value },
        Write::SetRange { key, offset: 5, value },
        Write::GetEx { key, expiry: Expiry::After(1000) },
        Write::Rename { from: key, to: value, only_if_absent: true },
        Write::Copy { from: value, to: key, replace: true },
        set(Expiry::At(1_767_225_600_001)),
        set(Expiry::Keep),
        Write::IncrBy { key, delta: -3 },
        Write::IncrByFloat { key, delta: b"1.5" },
        Write::Expire { key, expiry: Expiry::After(5000), conditions: 1 },
        Write::Persist { key },
        Write::GetDel { key },
        Write::Flush,
    ] {
        written.push(encoder.write(&write));
    }
    written.push(encoder.del([key, value].into_iter()));
    encoder.set_head(Head { protocol: Protocol::Resp3, stale: true, now_ms: now_ms + 1000 });
    let mut read = vec![encoder.mset(true, [key, value].into_iter())];
    let pattern = b"*".as_slice();
    for question in [
        Read::Get { key },
        Read::StrLen { key },
        Read::GetRange { key, start: -1, end: 5 },
        Read::Ttl { key, form: coracle::server::kv::op::TtlForm::AtMillis },
        Read::Type { key },
        Read::Keys { pattern },
        Read::Scan { below: u64::MAX, count: 10, pattern },
        Read::RandomKey { random: 5 },
        Read::Size,
        Read::CountInSlot { slot: 12539 },
        Read::KeysInSlot { slot: 12539, count: 3 },
        Read::Expiring,
    ] {
        read.push(encoder.read(&question));
    }
    read.push(encoder.mget([key, value].into_iter()));
    read.push(encoder.exists([key, key].into_iter()));
    let row = |payloads: &[Bytes]| {
        let with_length =
            |payload: &Bytes| [&(payload.len() as u16).to_le_bytes(), &payload[..]].concat();
        payloads.iter().flat_map(with_length).collect::<Vec<_>>()
    };
    let all = [written.clone(), read.clone()].concat();
    vec![
        Seed::new("writes", row(&written)),
        Seed::new("reads", row(&read)),
        Seed::new("all", row(&all)),
        Seed::new("malformed", row(&[Bytes::from_static(b"\x10"), Bytes::from_static(b"")])),
    ]
}
