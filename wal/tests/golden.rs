//! The format on disk, pinned by files that were written once: whoever changes the format must raise its
//! version, and write new golden files beside the old ones. `CORACLE_WRITE_GOLDEN` names a file to write
//! what one of the tests compares.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, SEGMENT_BYTES, options};
use coracle_wal::mem::{MemDisk, run_to_end};
use coracle_wal::recovery::Label;
use coracle_wal::{Record, RecordView, Replay, SegmentInfo, Wal};

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

/// The block with the summary of the first segment of a log of five records of 9000 bytes.
const SUMMARY: &[u8] = include_bytes!("../testdata/summary-v1.bin");
const OWNER: &[u8] = b"what the owner has to know";

fn with_summary() -> MemDisk {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..5 {
        rig.commit(&[number; 9000]);
    }
    let sealed = rig.wal.take_sealed().unwrap();
    rig.wal.summarize(sealed.sequence, OWNER.to_vec());
    rig.driver.pump();
    disk
}

fn area() -> std::ops::Range<usize> {
    SEGMENT_BYTES as usize - 4096..SEGMENT_BYTES as usize
}

#[test]
fn the_summary_that_is_written_is_the_golden_one() {
    let bytes = with_summary().contents(SEGMENTS[0]).unwrap()[area()].to_vec();
    if let Some(path) = std::env::var_os("CORACLE_WRITE_GOLDEN") {
        std::fs::write(path, &bytes).unwrap();
    }
    assert!(bytes == SUMMARY, "the format changed");
}

#[test]
fn the_golden_summary_is_read() {
    struct Owner(Option<Vec<u8>>);
    impl Replay for Owner {
        fn record(&mut self, _: RecordView<'_>) {}
        fn summary(&mut self, _: &SegmentInfo, summary: &[u8]) -> bool {
            self.0 = Some(summary.to_vec());
            true
        }
    }
    let disk = with_summary();
    let mut contents = disk.contents(SEGMENTS[0]).unwrap();
    contents[area()].copy_from_slice(SUMMARY);
    disk.put(SEGMENTS[0], &contents);
    let mut owner = Owner(None);
    let (_, _, recovery) = run_to_end(Wal::open(disk, options(), &mut owner)).unwrap();
    assert_eq!((recovery.label, recovery.summarized, recovery.records), (Label::CleanEnd, 1, 5));
    assert_eq!(owner.0.as_deref(), Some(OWNER));
}
