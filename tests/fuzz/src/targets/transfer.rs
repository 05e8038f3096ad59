//! Requests for parts of snapshots and headers of answers.
//!
//! The first byte of the input chooses which of them follows; what is too short is filled with zeros.

use bytes::Bytes;
use coracle_engine::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_MANIFEST_BYTES_MAX};
use coracle_engine::snapshot::SnapshotId;
use coracle_engine::transfer::message::{
    ANSWER_BYTES, Answer, Part, REQUEST_BYTES, Request, Status,
};
use coracle_engine::{LogIndex, ShardId, Term};

use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "transfer",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory { constant: 1 << 10, factor: 1, reason: "both are of a fixed size" },
};

fn header<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut header = [0; N];
    let len = data.len().min(N);
    header[..len].copy_from_slice(&data[..len]);
    header
}

fn run(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    if choice % 2 == 0 {
        let bytes = header::<REQUEST_BYTES>(data);
        let Ok(request) = Request::decode(&bytes) else { return };
        assert_eq!(request.encode(), bytes, "a request can be written in one way only");
    } else {
        let bytes = header::<ANSWER_BYTES>(data);
        let Ok(answer) = Answer::decode(&bytes) else { return };
        assert_eq!(answer.encode(), bytes, "an answer can be written in one way only");
        let max = match answer.part {
            Part::Manifest => SNAPSHOT_MANIFEST_BYTES_MAX,
            Part::Chunk(_) => SNAPSHOT_CHUNK_BYTES_MAX,
        };
        assert!(answer.bytes as usize <= max, "{answer:?}");
        assert!(answer.status == Status::Ok || answer.bytes == 0, "{answer:?}");
    }
}

/// The checksum is the last field of both.
fn mend(data: &mut [u8]) {
    let Some((choice, data)) = data.split_first_mut() else { return };
    let len = if *choice % 2 == 0 { REQUEST_BYTES } else { ANSWER_BYTES };
    if let Some((rest, checksum)) = data.get_mut(..len).and_then(<[u8]>::split_last_chunk_mut) {
        *checksum = crc32fast::hash(rest).to_le_bytes();
    }
}

fn seeds() -> Vec<Seed> {
    let snapshot = SnapshotId { shard: ShardId(3), index: LogIndex(70_000), term: Term(9) };
    let request =
        |name, part| Seed::new(name, [&[0][..], &Request { snapshot, part }.encode()].concat());
    let answer = |name, answer: Answer| Seed::new(name, [&[1][..], &answer.encode()].concat());
    let body = Bytes::from_static(b"a chunk");
    vec![
        request("manifest", Part::Manifest),
        request("chunk", Part::Chunk(7)),
        answer("answer", Answer::with_body(Part::Chunk(7), &body, crc32fast::hash(&body))),
        answer("unknown", Answer::without(Part::Manifest, Status::Unknown)),
        answer("busy", Answer::without(Part::Chunk(0), Status::Busy)),
    ]
}
