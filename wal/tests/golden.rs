//! The format on disk, pinned by a file that was written once: whoever changes the format must raise its
//! version, and write a new golden file beside the old ones.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, SEGMENT_BYTES};
use coracle_wal::Record;
use coracle_wal::mem::MemDisk;
use coracle_wal::recovery::Label;

/// The used blocks of the two segments that hold records, one after the other.
const GOLDEN: &[u8] = include_bytes!("../testdata/format-v1-summary.bin");
/// The same, written before segments had summaries.
const WITHOUT_SUMMARIES: &[u8] = include_bytes!("../testdata/format-v1.bin");
const SEGMENTS: [&str; 2] = ["seg-0000000000000001", "seg-0000000000000004"];
/// Bytes of each segment that are in the file.
const USED: [usize; 2] = [4 * 4096, 4 * 4096];

/// Writes the log that the file holds: a start, two groups and a close; a restart, one record, a close.
fn write(disk: &MemDisk) {
    let mut rig = Rig::open(disk).unwrap();
    let group = [
        Record { stream: 1, kind: 2, head: b"head", body: b" and body" },
        Record { stream: 0xffff_fffe, kind: 255, head: b"", body: b"" },
    ];
    rig.wal.append(&group).unwrap();
    rig.commit(b"in the same batch");
    rig.close();
    let mut rig = Rig::open(disk).unwrap();
    rig.commit(&[0xa5; 300]);
    rig.close();
}

/// Numbers 2 and 3 were prepared by the first start; the second made spares of them and wrote behind.
fn used_blocks(disk: &MemDisk) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, used) in SEGMENTS.iter().zip(USED) {
        let contents = disk.contents(name).unwrap();
        assert!(contents[used..].iter().all(|byte| *byte == 0));
        bytes.extend_from_slice(&contents[..used]);
    }
    bytes
}

#[test]
fn what_is_written_is_the_golden_file() {
    let disk = MemDisk::new();
    write(&disk);
    let bytes = used_blocks(&disk);
    if let Some(path) = std::env::var_os("CORACLE_WRITE_GOLDEN") {
        std::fs::write(path, &bytes).unwrap();
    }
    let differing = bytes.iter().zip(GOLDEN).position(|(new, old)| new != old);
    assert_eq!((bytes.len(), differing), (GOLDEN.len(), None), "the format changed");
}

#[test]
fn the_golden_file_is_read() {
    read(GOLDEN);
}

#[test]
fn a_log_from_before_summaries_is_read() {
    read(WITHOUT_SUMMARIES);
}

fn read(golden: &[u8]) {
    let disk = MemDisk::new();
    let mut at = 0;
    for (name, used) in SEGMENTS.iter().zip(USED) {
        let mut contents = golden[at..at + used].to_vec();
        contents.resize(SEGMENT_BYTES as usize, 0);
        disk.put(name, &contents);
        at += used;
    }
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.recovery.label, Label::CleanEnd);
    assert_eq!(rig.recovery.generation, 3);
    let found: Vec<_> = rig.found.iter().map(|f| (f.stream, f.kind, f.payload.clone())).collect();
    let expected = [
        (1, 2, b"head and body".to_vec()),
        (0xffff_fffe, 255, Vec::new()),
        (1, 2, b"in the same batch".to_vec()),
        (1, 2, vec![0xa5; 300]),
    ];
    assert_eq!(found, expected);
}
