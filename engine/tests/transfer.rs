//! The headers of a transfer of snapshots from outside: golden bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use coracle_engine::snapshot::SnapshotId;
use coracle_engine::transfer::message::{Answer, Part, Request, Status};
use coracle_engine::{LogIndex, ShardId, Term};

fn request(part: Part) -> Request {
    let snapshot =
        SnapshotId { shard: ShardId(0x0A0B), index: LogIndex(0x0102_0304), term: Term(7) };
    Request { snapshot, part }
}

fn answer(part: Part, body: &'static [u8]) -> Answer {
    Answer::with_body(part, &Bytes::from_static(body), crc32fast::hash(body))
}

/// The format is what `testdata/transfer/v1.txt` says. A change of the file without a new version number
/// cuts off every node that runs the old program.
#[test]
fn the_format_is_the_documented_one() {
    let requests = [
        ("Request manifest", request(Part::Manifest)),
        ("Request chunk", request(Part::Chunk(300))),
    ];
    let answers = [
        ("Answer manifest", answer(Part::Manifest, b"manifest")),
        ("Answer chunk", answer(Part::Chunk(300), b"chunk")),
        ("Answer unknown", Answer::without(Part::Manifest, Status::Unknown)),
        ("Answer damaged", Answer::without(Part::Chunk(300), Status::Damaged)),
        ("Answer busy", Answer::without(Part::Manifest, Status::Busy)),
    ];
    let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, request) in requests {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        all.push((name, request.encode().to_vec()));
    }
    for (name, answer) in answers {
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        all.push((name, answer.encode().to_vec()));
    }
    let mut text = String::new();
    for (name, bytes) in all {
        writeln!(text, "{name}").unwrap();
        for (number, line) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "  {:04x}  {}", number * 16, hex.join(" ")).unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/transfer/v1.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}
