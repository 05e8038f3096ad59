//! A segment's header and a batch of the log, against a second reader of the format.
//!
//! The input is one batch at a fixed place of a fixed segment, without zeros at its end; and it is tried as the
//! header block of a segment.

use coracle_wal::fuzzing::{Claims, Segment, decode_batch, encode_batch};
use coracle_wal::{Record, RecordView};

use super::wal_oracle::{self, BLOCK, Found, LOG_ID, mend_batch};
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "wal_batch",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 512 << 10,
        factor: 64,
        reason: "a batch is encoded in a buffer of 64 KiB that doubles twice; a record of 16 bytes becomes 56, \
                 read by two readers and again",
    },
};

/// Where every batch lies.
const OFFSET: u64 = BLOCK as u64;
const PLACE: wal_oracle::Segment = wal_oracle::Segment {
    generation: 3,
    sequence: 2,
    base: 1 << 20,
    bytes: 1 << 20,
    summary: 1 << 14,
};

fn segment() -> Segment {
    Segment::new(&LOG_ID, PLACE.generation, PLACE.sequence, PLACE.base, PLACE.bytes)
}

fn read(bytes: &[u8]) -> Option<(Claims, Vec<Found>)> {
    let mut found = Vec::new();
    let mut visit = |record: RecordView<'_>| {
        found.push(Found {
            lsn: record.lsn.0,
            stream: record.stream,
            kind: record.kind,
            payload: record.payload.to_vec(),
        });
    };
    let claims = decode_batch(bytes, &segment(), OFFSET, &mut visit);
    assert!(claims.is_some() || found.is_empty(), "nothing is given of what is not valid");
    claims.map(|claims| (claims, found))
}

fn run(data: &[u8]) {
    let bytes = padded(data);
    header(&bytes[..BLOCK]);
    let found = read(&bytes);
    let expected = PLACE.batch(&bytes, OFFSET);
    let said = found.clone().map(|(claims, found)| (claims.trimmed, found));
    assert_eq!(said, expected, "as the document says");
    let Some((claims, found)) = found else { return };
    let records: Vec<Record<'_>> = found
        .iter()
        .map(|found| {
            // Both parts of a payload are used.
            let (head, body) = found.payload.split_at(found.payload.len() / 3);
            Record { stream: found.stream, kind: found.kind, head, body }
        })
        .collect();
    let encoded = encode_batch(&segment(), OFFSET, &claims, &records);
    assert_eq!(read(&encoded), Some((claims, found)), "what was read can be written and read");
}

/// Any block as the header of a segment.
fn header(block: &[u8]) {
    let Some(segment) = Segment::decode(block, &LOG_ID) else { return };
    assert!(wal_oracle::Segment::is_valid(block), "as the document says");
    let mut encoded = vec![0; BLOCK];
    segment.encode(&mut encoded, &LOG_ID);
    assert_eq!(Segment::decode(&encoded, &LOG_ID), Some(segment));
    // No batch of zeros, wherever it may lie.
    assert!(decode_batch(&[0; BLOCK], &segment, OFFSET, &mut |_| ()).is_none());
}

fn mend(data: &mut [u8]) {
    let mut bytes = padded(data);
    if wal_oracle::Segment::of(data).is_some() {
        let sum = crc32fast::hash(&bytes[4..BLOCK]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
    } else {
        mend_batch(&mut bytes, PLACE.seed());
    }
    data.copy_from_slice(&bytes[..data.len()]);
}

/// Zeros at the end are not part of an input.
fn padded(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().max(1).next_multiple_of(BLOCK), 0);
    bytes
}

fn seeds() -> Vec<Seed> {
    let record = |stream, kind, head, body| Record { stream, kind, head, body };
    let claims = Claims {
        prev_end: PLACE.base,
        prev_checksum: 0x1234_5678,
        durable: PLACE.base - 4096,
        trimmed: 4096,
        flags: 0,
    };
    let long = [0xa5; 5000];
    let encode = |flags, records: &[Record<'_>]| {
        let mut bytes = encode_batch(&segment(), OFFSET, &Claims { flags, ..claims }, records);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        bytes.truncate(used);
        bytes
    };
    let mut header = vec![0; BLOCK];
    segment().encode(&mut header, &LOG_ID);
    header.truncate(72);
    vec![
        Seed::new("start", encode(1, &[])),
        Seed::new("close", encode(2, &[])),
        Seed::new("one", encode(0, &[record(7, 1, b"hello, ", b"world")])),
        Seed::new("empty-record", encode(0, &[record(0xffff_fffe, 255, b"", b"")])),
        Seed::new("many", encode(0, &[record(1, 2, b"a", b"b"); 12])),
        Seed::new("two-blocks", encode(0, &[record(1, 2, b"", &long), record(2, 1, b"x", b"")])),
        Seed::new("segment-header", header),
    ]
}
