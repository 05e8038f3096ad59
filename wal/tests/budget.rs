//! What a log does at its budget, one scenario per test.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, SEGMENT_BYTES, options, segments};
use coracle_wal::limits::SPARES_KEPT_PER_READY;
use coracle_wal::mem::{Fate, MemDisk, Operation, run_to_end};
use coracle_wal::{AppendError, Disk, Lsn, OpenError, Options};

fn budget(count: u64) -> Options {
    let mut options = options();
    options.log_bytes_max = count * SEGMENT_BYTES;
    options
}

fn payload(number: u8) -> Vec<u8> {
    vec![number; 3000]
}

/// Appends until the log refuses; returns how many records it took, and the end of the last.
fn fill(rig: &mut Rig) -> (usize, Lsn) {
    let mut last = Lsn(0);
    for count in 0..10_000 {
        match rig.append(&payload(count as u8)) {
            Ok(lsn) => last = lsn,
            Err(error) => {
                assert_eq!(error, AppendError::NoSpace);
                return (count, last);
            }
        }
        rig.driver.pump();
    }
    panic!("the log never refuses");
}

#[test]
fn a_used_up_budget_is_as_a_full_disk_and_a_trim_helps() {
    let disk = MemDisk::new();
    let mut rig = Rig::open_with(&disk, budget(6)).unwrap();
    let mut counts = Vec::new();
    for _ in 0..20 {
        let (count, last) = fill(&mut rig);
        counts.push(count);
        assert!(!rig.wal.has_room());
        assert_eq!((rig.wal.failure(), rig.wal.backlog_bytes()), (None, 0));
        assert!(rig.wal.disk_bytes() <= 6 * SEGMENT_BYTES);
        assert!(disk.used() <= 6 * SEGMENT_BYTES);
        assert_eq!(disk.used(), rig.wal.disk_bytes());
        // Trying again does not help, giving up does.
        rig.wal.retry_space();
        rig.driver.pump();
        assert_eq!(rig.append(&payload(0)), Err(AppendError::NoSpace));
        rig.wal.trim(last);
        rig.driver.pump();
        assert!(rig.wal.has_room());
    }
    assert!(counts[1..].iter().all(|count| *count >= 4 * 12), "{counts:?}");
}

#[test]
fn small_trims_help_too() {
    let mut rig = Rig::open_with(&MemDisk::new(), budget(3)).unwrap();
    let mut ends = Vec::new();
    for round in 0..2000 {
        match rig.append(&payload(round as u8)) {
            Ok(lsn) => ends.push(lsn),
            // Just enough to give one segment up.
            Err(_) => {
                let oldest = rig.wal.segments()[0];
                let at = ends.partition_point(|lsn| *lsn <= oldest.end);
                rig.wal.trim(ends[at]);
            }
        }
        rig.driver.pump();
        assert!(rig.disk.used() <= 3 * SEGMENT_BYTES);
    }
    assert!(ends.len() > 1700, "{}", ends.len());
}

#[test]
fn what_was_accepted_is_durable_whatever_the_driver_does() {
    // The budget is known when a segment is promised, not only when it is made.
    let mut rig = Rig::open_with(&MemDisk::new(), budget(4)).unwrap();
    let mut last = Lsn(0);
    while let Ok(lsn) = rig.append(&payload(1)) {
        last = lsn;
    }
    rig.driver.pump();
    assert!(rig.wal.durable() >= last);
    assert!(rig.disk.used() <= 4 * SEGMENT_BYTES);
    rig.wal.trim(last);
    rig.driver.pump();
    rig.commit(b"goes on");
}

#[test]
fn a_smaller_budget_after_a_restart_removes_spares_and_then_segments() {
    let disk = MemDisk::new();
    let mut rig = Rig::open_with(&disk, budget(14)).unwrap();
    let (_, last) = fill(&mut rig);
    rig.wal.trim(last);
    rig.driver.pump();
    let (spares, mut number) = (rig.wal.stats().spares, 0);
    assert!(spares > 1);
    while rig.wal.segments().len() < 4 {
        rig.commit(&payload(number));
        number += 1;
    }
    drop(rig);
    let mut rig = Rig::open_with(&disk, budget(3)).unwrap();
    assert!(rig.wal.stats().spares > 0);
    rig.driver.pump();
    assert_eq!(rig.wal.stats().spares, 0);
    assert!(rig.wal.disk_bytes() > 3 * SEGMENT_BYTES, "what holds records stays");
    let (_, last) = fill(&mut rig);
    rig.wal.trim(last);
    rig.driver.pump();
    for _ in 0..10 {
        let (count, last) = fill(&mut rig);
        assert!(count > 0);
        rig.wal.trim(last);
        rig.driver.pump();
    }
    assert!(disk.used() <= 3 * SEGMENT_BYTES);
    assert_eq!(disk.used(), rig.wal.disk_bytes());
}

#[test]
fn a_budget_that_shrinks_while_the_log_runs_takes_the_spares() {
    let disk = MemDisk::new();
    let mut rig = Rig::open_with(&disk, budget(14)).unwrap();
    let (_, last) = fill(&mut rig);
    rig.wal.trim(last);
    rig.driver.pump();
    assert!(rig.wal.stats().spares > 1);
    rig.wal.set_log_bytes_max(0);
    rig.driver.pump();
    assert_eq!(rig.wal.stats().spares, 0);
    assert!(rig.wal.disk_bytes() <= 4 * SEGMENT_BYTES, "{}", rig.wal.disk_bytes());
    let (few, last) = fill(&mut rig);
    rig.wal.trim(last);
    rig.wal.set_log_bytes_max(14 * SEGMENT_BYTES);
    rig.wal.retry_space();
    rig.driver.pump();
    let (many, _) = fill(&mut rig);
    assert!(few > 0 && many > 2 * few, "{few}, then {many}");
}

#[test]
fn spares_stay_until_the_owner_does_without_them_and_a_few_for_ever() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..200 {
        rig.commit(&payload(number));
    }
    let before = rig.wal.disk_bytes();
    rig.wal.trim(rig.wal.durable());
    rig.driver.pump();
    assert_eq!(rig.wal.disk_bytes(), before, "nothing is removed");
    let spares = rig.wal.stats().spares;
    assert!(spares > 10, "{spares}");
    rig.wal.give_back_spares(1);
    rig.driver.pump();
    assert_eq!(rig.wal.stats().spares, spares - 1);
    rig.driver.pump();
    assert_eq!(rig.wal.stats().spares, spares - 1, "what was asked for, once");

    // They are taken first when the log grows.
    let filled = rig.wal.stats().segments_filled;
    for number in 0..60 {
        rig.commit(&payload(number));
    }
    assert_eq!(rig.wal.stats().segments_filled, filled);
    rig.wal.trim(rig.wal.durable());
    rig.driver.pump();
    rig.wal.give_back_spares(usize::MAX);
    rig.driver.pump();
    assert_eq!(rig.wal.stats().spares, (options().spares * SPARES_KEPT_PER_READY) as u64);
    assert_eq!(disk.used(), rig.wal.disk_bytes());
}

/// Spares of the size before were taken for segments of the new size, whose header then spoke of more
/// bytes than there were: after a crash they were unreadable.
#[test]
fn segments_of_another_size_are_not_reused() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..60 {
        rig.commit(&payload(number));
    }
    drop(rig);
    let mut double = options();
    double.segment_bytes = 2 * SEGMENT_BYTES;
    let mut rig = Rig::open_with(&disk, double.clone()).unwrap();
    rig.wal.trim(rig.wal.durable());
    rig.driver.pump();
    for number in 0..60 {
        rig.commit(&payload(number));
        let names = segments(&disk);
        let sizes = names.iter().map(|name| disk.contents(name).unwrap().len() as u64);
        assert!(sizes.eq(names.iter().map(|_| 2 * SEGMENT_BYTES)));
        assert_eq!(
            Rig::open_with(&disk.crash(&mut |_| 0), double.clone()).unwrap().found.len(),
            usize::from(number) + 1
        );
    }
    assert_eq!(disk.used(), rig.wal.disk_bytes());
}

/// The budget has room for small segments that are given up one at a time, but not for a large new one;
/// then the next mark has no place. The segment it needs is made all the same.
#[test]
fn a_mark_finds_room_beyond_the_budget() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    let mut ends = Vec::new();
    while rig.wal.segments().len() < 8 {
        ends.push(rig.commit(&payload(1)));
    }
    drop(rig);
    let mut large = options();
    large.segment_bytes = 3 * SEGMENT_BYTES;
    large.log_bytes_max = 9 * SEGMENT_BYTES;
    let mut rig = Rig::open_with(&disk, large).unwrap();
    let (_, mut last) = fill(&mut rig);
    for end in ends {
        rig.wal.trim(end);
        rig.driver.pump();
    }
    rig.wal.trim(last);
    rig.driver.pump();
    for _ in 0..5 {
        let (count, end) = fill(&mut rig);
        assert!(count > 0, "{:?}", rig.wal.stats());
        last = end;
        rig.wal.trim(last);
        rig.driver.pump();
    }
    assert!(disk.used() <= 9 * SEGMENT_BYTES);
}

#[test]
fn too_small_a_budget_is_refused() {
    assert!(matches!(
        Rig::open_with(&MemDisk::new(), budget(2)),
        Err(OpenError::Options(flaw)) if flaw.contains("log_bytes_max")
    ));
    Rig::open_with(&MemDisk::new(), budget(3)).unwrap();
}

#[test]
fn archived_segments_are_kept_and_ignored() {
    let disk = MemDisk::new();
    let mut keep = budget(4);
    keep.archive = true;
    let mut rig = Rig::open_with(&disk, keep.clone()).unwrap();
    let before = disk.contents(&segments(&disk)[0]).unwrap().len();
    for _ in 0..5 {
        let (_, last) = fill(&mut rig);
        rig.wal.trim(last);
        rig.driver.pump();
        assert!(rig.wal.has_room(), "{:?}", rig.wal.stats());
    }
    let names = || -> Vec<_> {
        let mut names = run_to_end(disk.list()).unwrap();
        names.retain(|name| name.starts_with("archive-"));
        names
    };
    let archived = rig.wal.stats().segments_archived;
    assert!(archived > 5);
    assert_eq!(names().len() as u64, archived);
    assert_eq!(names()[0], "archive-0000000000000001");
    let kept = names().len() as u64 * before as u64;
    assert_eq!(disk.used(), rig.wal.disk_bytes() + kept);
    rig.commit(b"last");
    drop(rig);
    let rig = Rig::open_with(&disk, keep).unwrap();
    assert_eq!(rig.payloads().last().unwrap(), b"last");
    assert_eq!(names().len() as u64, archived);
}

/// Batches wait for a segment that a full disk refuses; the trim that would give the room came behind them.
#[test]
fn a_trim_helps_batches_that_wait_for_a_segment() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..40 {
        rig.commit(&payload(number));
    }
    let durable = rig.wal.durable();
    disk.set_capacity(Some(disk.used()));
    // More than the segments take that are ready, before the driver learns that there is no room.
    let mut last = Lsn(0);
    for _ in 0..60 {
        last = rig.append(&payload(7)).unwrap();
    }
    rig.driver.pump();
    assert!(rig.wal.backlog_bytes() > 0 && rig.wal.durable() < last);
    rig.wal.trim(durable);
    rig.driver.pump();
    assert!(rig.wal.durable() >= last, "{:?}", rig.wal.stats());
    assert_eq!(rig.wal.failure(), None);
    drop(rig);
    assert_eq!(Rig::open(&disk).unwrap().payloads().last().unwrap(), &payload(7));
}

#[test]
fn a_failed_removal_of_a_spare_latches() {
    let disk = MemDisk::new();
    let mut rig = Rig::open_with(&disk, budget(12)).unwrap();
    let (_, last) = fill(&mut rig);
    rig.wal.trim(last);
    rig.driver.pump();
    drop(rig);
    let mut rig = Rig::open_with(&disk, budget(3)).unwrap();
    disk.on_operation(|operation| match operation {
        Operation::Remove => Fate::Fail(std::io::ErrorKind::Other),
        _ => Fate::Succeed,
    });
    rig.driver.pump();
    assert!(rig.wal.failure().is_some());
}
