//! What a log does when its disk is full, one scenario per test.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, SEGMENT_BYTES, Task};
use coracle_wal::mem::MemDisk;
use coracle_wal::{AppendError, Lsn, OpenError, WalFailure};

fn payload(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = format!("{number:08}").into_bytes();
    bytes.resize(len.max(8), (number % 251) as u8);
    bytes
}

#[test]
fn a_full_disk_refuses_appends_and_recovers_when_space_returns() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    disk.set_capacity(Some(5 * SEGMENT_BYTES));
    let mut written = Vec::new();
    let refused = (0..1000).find_map(|number| {
        let bytes = payload(number, 3000);
        let error = rig.append(&bytes).err();
        if error.is_none() {
            written.push(bytes);
        }
        rig.driver.pump();
        error
    });
    assert_eq!(refused, Some(AppendError::NoSpace));
    assert!(!rig.wal.has_room());
    assert_eq!(rig.wal.failure(), None);
    assert_eq!(rig.wal.stats().backlog_bytes, 0, "what was accepted is durable");
    // Nothing changes by itself, ...
    rig.wal.retry_space();
    rig.driver.pump();
    assert!(!rig.wal.has_room());
    // ... space returns, and the owner's tick finds it.
    disk.set_capacity(Some(9 * SEGMENT_BYTES));
    rig.wal.retry_space();
    rig.driver.pump();
    assert!(rig.wal.has_room());
    let bytes = payload(5000, 3000);
    rig.commit(&bytes);
    written.push(bytes);
    drop(rig);
    assert_eq!(Rig::open(&disk).unwrap().payloads(), written);
}

#[test]
fn a_trim_gives_a_full_log_room_without_new_space() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    disk.set_capacity(Some(5 * SEGMENT_BYTES));
    let mut last = Lsn(0);
    for round in 0..5 {
        while let Ok(lsn) = rig.append(&payload(round, 3000)) {
            rig.driver.pump();
            last = lsn;
        }
        assert!(!rig.wal.has_room());
        rig.wal.trim(last);
        rig.driver.pump();
        assert!(rig.wal.has_room(), "round {round}: {:?}", rig.wal.stats());
    }
    assert!(disk.used() <= 5 * SEGMENT_BYTES);
}

#[test]
fn refused_appends_have_a_full_disk_tried_again() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    disk.set_capacity(Some(3 * SEGMENT_BYTES));
    while rig.append(&payload(0, 3000)).is_ok() {
        rig.driver.pump();
    }
    disk.set_capacity(None);
    let accepted = (0..1000).any(|_| {
        rig.driver.pump();
        rig.append(b"again").is_ok()
    });
    assert!(accepted);
}

/// Records waited for a segment that the full disk had refused: nobody tried again, and closing never
/// ended.
#[test]
fn closing_on_a_full_disk_ends() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    disk.set_capacity(Some(disk.used()));
    // More than the current segment takes, before the driver learns that there is no room for another.
    while rig.append(&payload(0, 3000)).is_ok() {}
    rig.driver.pump();
    assert!(rig.wal.stats().backlog_bytes > 0);
    let wal = rig.wal.clone();
    let mut close = Task::new(async move { wal.close().await });
    for _ in 0..4 {
        close.pump();
        rig.driver.pump();
    }
    assert!(close.pump(), "closing waits for something: {:?}", rig.wal.stats());
    assert!(matches!(rig.driver.result, Some(Err(WalFailure::Io { .. }))));
}

#[test]
fn a_new_log_on_a_full_disk_says_so() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(1000));
    assert!(matches!(Rig::open(&disk), Err(OpenError::NoSpace { bytes: SEGMENT_BYTES })));
    assert_eq!(disk.used(), 0, "nothing is left behind");
    disk.set_capacity(None);
    Rig::open(&disk).unwrap();
}

#[test]
fn a_restart_on_a_full_disk_works_with_the_spares() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.commit(b"before");
    disk.set_capacity(Some(disk.used()));
    for _ in 0..5 {
        drop(rig);
        rig = Rig::open(&disk).unwrap();
        assert_eq!(rig.payloads()[0], b"before");
        rig.wal.trim(rig.recovery.end);
        rig.driver.pump();
        rig.commit(b"before");
    }
}
