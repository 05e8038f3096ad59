//! What a log does in each situation, one scenario per test.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use common::{Rig, SEGMENT_BYTES, Task, batches, open, options, segments};
use coracle_wal::mem::{Fate, MemDisk, Operation};
use coracle_wal::recovery::Label;
use coracle_wal::{AppendError, Lsn, OpenError, Record, WalFailure};

fn payload(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = format!("{number:08}").into_bytes();
    bytes.resize(len.max(8), (number % 251) as u8);
    bytes
}

#[test]
fn an_empty_directory_becomes_a_log() {
    let disk = MemDisk::new();
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.recovery.label, Label::Empty);
    assert_eq!(rig.recovery.generation, 1);
    rig.close();
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.recovery.label, Label::CleanEnd);
    assert_eq!(rig.recovery.generation, 2);
    assert!(rig.found.is_empty());
}

#[test]
fn records_come_back_as_they_were_with_their_positions() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    let mut expected = Vec::new();
    for (number, len) in [0, 1, 15, 16, 17, 4000, 4096, 20_000, 40_000].into_iter().enumerate() {
        let body = vec![number as u8; len];
        let record =
            Record { stream: number as u32, kind: number as u8, head: b"head", body: &body };
        let lsn = rig.wal.append(&[record]).unwrap().end;
        expected.push((number as u32, number as u8, [b"head".as_slice(), &body].concat(), lsn));
        if number % 3 == 0 {
            rig.driver.pump();
        }
    }
    rig.driver.pump();
    assert!(rig.wal.durable() >= expected.last().unwrap().3);
    drop(rig);
    let rig = Rig::open(&disk).unwrap();
    let found: Vec<_> =
        rig.found.iter().map(|f| (f.stream, f.kind, f.payload.clone(), f.lsn)).collect();
    assert_eq!(found, expected);
}

#[test]
fn positions_grow_over_segments_and_restarts() {
    let disk = MemDisk::new();
    let mut last = Lsn(0);
    let mut count = 0;
    for _ in 0..5 {
        let mut rig = Rig::open(&disk).unwrap();
        assert_eq!(rig.found.len(), count);
        assert!(rig.recovery.end >= last);
        for number in 0..40 {
            let lsn = rig.commit(&payload(number, 5000));
            assert!(lsn > last);
            assert!(rig.wal.durable() >= lsn);
            last = lsn;
            count += 1;
        }
    }
    assert!(segments(&disk).len() > 5);
}

#[test]
fn a_single_append_goes_at_once_and_later_ones_share_a_write() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.hold(true);
    for number in 0..2 {
        rig.append(&payload(number, 100)).unwrap();
        rig.driver.pump();
        assert_eq!(disk.held(), number + 1, "an append with a free write goes at once");
    }
    for number in 2..50 {
        rig.append(&payload(number, 100)).unwrap();
        rig.driver.pump();
    }
    assert_eq!(disk.held(), 2, "no more writes than allowed");
    disk.release(0);
    rig.driver.pump();
    assert_eq!(disk.held(), 2, "what had collected went as one write");
    assert_eq!(rig.wal.stats().batches, 3);
    disk.release(0);
    disk.release(0);
    rig.driver.pump();
    assert_eq!(rig.wal.stats().backlog_bytes, 0);
    assert_eq!(rig.wal.stats().durable_writes, 3);
}

#[test]
fn only_a_contiguous_prefix_is_durable() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.hold(true);
    let before = rig.wal.durable();
    let first = rig.append(&payload(0, 100)).unwrap();
    rig.driver.pump();
    let second = rig.append(&payload(1, 100)).unwrap();
    rig.driver.pump();
    disk.release(1);
    rig.driver.pump();
    assert_eq!(rig.wal.durable(), before, "the second write is no use without the first");
    disk.release(0);
    rig.driver.pump();
    assert!(first < second && second <= rig.wal.durable());
}

#[test]
fn a_new_segment_does_not_overtake_the_old_one() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.hold(true);
    let before = rig.wal.durable();
    rig.append(&payload(0, 40_000)).unwrap();
    rig.driver.pump();
    let second = rig.append(&payload(1, 40_000)).unwrap();
    rig.driver.pump();
    assert_eq!(rig.wal.stats().segments, 2, "the second record needs a new segment");
    assert!(disk.held() >= 2, "both writes wait");
    disk.release(1);
    rig.driver.pump();
    assert_eq!(rig.wal.durable(), before);
    // A crash now finds the second write alone: it was never acknowledged, and is cut off.
    let crashed = disk.crash(&mut |n| if n == 3 { 0 } else { n - 1 });
    let recovered = Rig::open(&crashed).unwrap();
    assert_eq!(recovered.recovery.label, Label::TornTail);
    assert!(recovered.found.is_empty());
    disk.release(0);
    rig.driver.pump();
    assert!(rig.wal.durable() >= second);
}

#[test]
fn waiting_tasks_are_woken_when_their_position_is_passed() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.hold(true);
    let first = rig.append(&payload(0, 100)).unwrap();
    rig.driver.pump();
    let second = rig.append(&payload(1, 100)).unwrap();
    rig.driver.pump();
    let mut early = Task::new(rig.wal.durable_beyond(Lsn(first.0 - 1)));
    let mut late = Task::new(rig.wal.durable_beyond(Lsn(second.0 - 1)));
    assert!(!early.pump() && !late.pump());
    disk.release(0);
    rig.driver.pump();
    assert!(early.is_woken() && !late.is_woken());
    assert!(early.pump() && !late.pump());
    disk.release(0);
    rig.driver.pump();
    assert!(late.pump());
    assert_eq!(late.result, Some(Ok(rig.wal.durable())));
}

#[test]
fn a_group_is_recovered_whole_or_not_at_all() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.commit(&payload(0, 100));
    disk.hold(true);
    let parts: Vec<Vec<u8>> = (1..=20).map(|number| payload(number, 1000)).collect();
    let group: Vec<Record<'_>> =
        parts.iter().map(|body| Record { stream: 1, kind: 1, head: &[], body }).collect();
    rig.wal.append(&group).unwrap();
    rig.driver.pump();
    for seed in 0..200_u32 {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let crashed = disk.crash(&mut |n| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % n
        });
        let recovered = Rig::open(&crashed).unwrap();
        assert!(matches!(recovered.found.len(), 1 | 21), "{}", recovered.found.len());
    }
}

#[test]
fn too_large_a_group_and_too_much_backlog_are_refused() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    assert!(matches!(rig.append(&[0; 70_000]), Err(AppendError::TooLarge { .. })));
    let mut wide = options();
    wide.segment_bytes = 16 << 20;
    let disk = MemDisk::new();
    let mut large = Rig::open_with(&disk, wide).unwrap();
    assert!(matches!(large.append(&vec![0; 4 << 20]), Err(AppendError::TooLarge { .. })));
    let most = vec![7; (4 << 20) - 72 - 16];
    large.commit(&most);
    assert!(matches!(
        large.append(&vec![0; most.len() + 1]),
        Err(AppendError::TooLarge { bytes, max }) if bytes == max + 1
    ));
    disk.hold(true);
    let refused = (0..100).find_map(|_| large.append(&vec![1; 1 << 20]).err());
    assert!(
        matches!(refused, Some(AppendError::Full { backlog_bytes }) if backlog_bytes > 14 << 20)
    );
    disk.hold(false);
    large.driver.pump();
    large.append(b"room again").unwrap();
    rig.commit(b"and the first one works");
}

#[test]
fn a_failed_write_latches_and_nothing_is_acknowledged_after_it() {
    for operation in [Operation::WriteDurable, Operation::Sync] {
        let disk = MemDisk::new();
        let mut rig = Rig::open(&disk).unwrap();
        rig.commit(&payload(0, 100));
        let durable = rig.wal.durable();
        let failed = Rc::new(Cell::new(0));
        let count = failed.clone();
        disk.on_operation(move |asked| match asked {
            Operation::WriteDurable if operation == Operation::Sync => Fate::Short(0x1000),
            asked if asked == operation => {
                count.set(count.get() + 1);
                Fate::Fail(io::ErrorKind::Other)
            }
            _ => Fate::Succeed,
        });
        rig.append(&payload(1, 6000)).unwrap();
        let mut waits = Task::new(rig.wal.durable_beyond(durable));
        waits.pump();
        assert!(rig.driver.pump(), "the driver ends");
        assert!(matches!(rig.driver.result, Some(Err(WalFailure::Io { .. }))));
        assert!(waits.pump());
        assert_eq!(waits.result, Some(Err(rig.wal.failure().unwrap())));
        assert!(matches!(rig.append(b"more"), Err(AppendError::Failed(_))));
        assert_eq!(failed.get(), 1, "a failed operation is never tried again");
        assert_eq!(rig.wal.durable(), durable);
        let text = rig.wal.failure().unwrap().to_string();
        assert!(text.contains("seg-0000000000000001"), "{text}");
    }
}

#[test]
fn a_write_that_completes_after_a_failure_is_not_acknowledged() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    let durable = rig.wal.durable();
    let mut writes = 0;
    disk.on_operation(move |operation| {
        writes += usize::from(operation == Operation::WriteDurable);
        if operation == Operation::WriteDurable && writes == 1 {
            Fate::Fail(io::ErrorKind::Other)
        } else {
            Fate::Succeed
        }
    });
    disk.hold(true);
    rig.append(b"fails").unwrap();
    rig.driver.pump();
    rig.append(b"succeeds").unwrap();
    rig.driver.pump();
    disk.release(1);
    rig.driver.pump();
    disk.release(0);
    rig.driver.pump();
    assert_eq!(rig.wal.durable(), durable);
    assert!(rig.wal.failure().is_some());
}

#[test]
fn short_and_refused_writes_are_submitted_again() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    let mut turn = 0;
    disk.on_operation(move |operation| {
        if operation != Operation::WriteDurable {
            return Fate::Succeed;
        }
        turn += 1;
        match turn % 5 {
            0 => Fate::Short(4096),
            1 => Fate::Fail(io::ErrorKind::WouldBlock),
            2 => Fate::Short(9000),
            3 => Fate::Fail(io::ErrorKind::Interrupted),
            _ => Fate::Succeed,
        }
    });
    let expected: Vec<_> = (0..30).map(|number| payload(number, 13_000)).collect();
    for bytes in &expected {
        rig.commit(bytes);
    }
    let stats = rig.wal.stats();
    assert!(stats.short_writes > 0 && stats.resubmitted_writes > 0, "{stats:?}");
    // Everything acknowledged is durable although the first parts were written without a flush.
    let crashed = disk.crash(&mut |_| 0);
    assert_eq!(Rig::open(&crashed).unwrap().payloads(), expected);
}

#[test]
fn a_write_that_is_refused_without_end_latches() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.on_operation(|operation| match operation {
        Operation::WriteDurable => Fate::Fail(io::ErrorKind::WouldBlock),
        _ => Fate::Succeed,
    });
    rig.append(b"in vain").unwrap();
    assert!(rig.driver.pump());
    assert!(rig.wal.failure().is_some());
}

#[test]
fn trimmed_segments_are_used_again_and_their_old_batches_do_not_come_back() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    let mut kept = Vec::new();
    for number in 0..400 {
        let bytes = payload(number, 5000);
        let lsn = rig.commit(&bytes);
        kept.push((lsn, bytes));
        if number % 20 == 19 {
            let before = kept[kept.len() - 5].0;
            rig.wal.trim(before);
            rig.driver.pump();
            kept.retain(|(lsn, _)| *lsn >= before);
        }
    }
    let stats = rig.wal.stats();
    assert!(stats.segments_trimmed > 30, "{stats:?}");
    assert!(stats.segments_filled < 10, "{stats:?}");
    assert!(disk.used() <= 8 * SEGMENT_BYTES, "{}", disk.used());
    drop(rig);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.recovery.label, Label::CleanEnd);
    let kept: Vec<_> = kept.into_iter().map(|(_, bytes)| bytes).collect();
    assert!(rig.payloads().ends_with(&kept));
    assert!(rig.found.len() < 40, "{}", rig.found.len());
}

#[test]
fn a_trim_without_appends_frees_segments() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    let mut last = Lsn(0);
    for number in 0..60 {
        last = rig.commit(&payload(number, 5000));
    }
    let before = rig.wal.stats().segments;
    rig.wal.trim(last);
    rig.driver.pump();
    assert!(before > 5 && rig.wal.stats().segments <= 2, "{:?}", rig.wal.stats());
    assert_eq!(rig.wal.stats().marks, 1);
}

#[test]
fn another_log_and_a_newer_format_are_refused() {
    let disk = MemDisk::new();
    Rig::open(&disk).unwrap().close();
    let mut other = options();
    other.log_id = [9; 16];
    let error = Rig::open_with(&disk, other).err().unwrap();
    assert!(matches!(&error, OpenError::Foreign { found, .. } if *found == options().log_id));
    assert!(error.to_string().contains("09090909"), "{error}");
    let name = &segments(&disk)[0];
    let mut bytes = disk.contents(name).unwrap();
    bytes[4] = 2;
    let sum = crc32fast::hash(&bytes[4..4096]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    disk.put(name, &bytes);
    assert!(matches!(Rig::open(&disk), Err(OpenError::Newer { version: 2, supported: 1, .. })));
}

#[test]
fn nonsense_options_are_refused() {
    let wrong: [fn(&mut coracle_wal::Options); 5] = [
        |options| options.segment_bytes = 70_000,
        |options| options.segment_bytes = 4096,
        |options| options.spares = 0,
        |options| options.writes_in_flight = 5,
        |options| options.buffer_bytes_max = 1,
    ];
    for change in wrong {
        let mut options = options();
        change(&mut options);
        assert!(matches!(Rig::open_with(&MemDisk::new(), options), Err(OpenError::Options(_))));
    }
}

#[test]
fn a_missing_segment_is_damage() {
    for missing in 0..6 {
        let disk = MemDisk::new();
        let mut rig = Rig::open(&disk).unwrap();
        for number in 0..60 {
            rig.commit(&payload(number, 5000));
        }
        assert!(rig.wal.stats().segments > 6);
        drop(rig);
        let name = segments(&disk)[missing].clone();
        coracle_wal::mem::run_to_end(coracle_wal::Disk::remove(&disk, &name)).unwrap();
        let error = Rig::open(&disk).err().unwrap();
        assert!(matches!(&error, OpenError::Damaged(list) if list.len() == 1), "{error}");
        let mut anyway = options();
        anyway.start_on_damage = true;
        let rig = Rig::open_with(&disk, anyway).unwrap();
        assert_eq!(rig.recovery.label, Label::Damage);
        assert!((40..60).contains(&rig.found.len()), "{}", rig.found.len());
        drop(rig);
        // It stays damage until it is trimmed.
        assert!(matches!(Rig::open(&disk), Err(OpenError::Damaged(_))));
    }
}

#[test]
fn a_log_may_start_behind_damage_but_not_before_it() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..60 {
        rig.commit(&payload(number, 5000));
    }
    let used = rig.wal.segments();
    drop(rig);
    let mut gaps = options();
    gaps.start_on_gaps = true;
    let names = segments(&disk);
    let (early, last) = (&names[1], &names[used.len() - 1]);
    let place = batches(&disk, early)[1].offset;
    disk.corrupt(early, place + 200, 4);
    assert!(matches!(Rig::open(&disk), Err(OpenError::Damaged(_))));
    // It is told of at every start.
    for _ in 0..2 {
        let rig = Rig::open_with(&disk, gaps.clone()).unwrap();
        let [lost] = &rig.recovery.damage[..] else { panic!("{:?}", rig.recovery.damage) };
        assert_eq!((&lost.segment, lost.offset), (early, place));
        assert!(lost.from < lost.to && lost.to < rig.recovery.end, "{lost}");
    }
    // Where the next record would go, nothing may be missing.
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..60 {
        rig.commit(&payload(number, 5000));
    }
    drop(rig);
    disk.corrupt(last, 40, 1);
    assert!(matches!(Rig::open_with(&disk, gaps), Err(OpenError::Damaged(_))));
}

#[test]
fn a_damaged_segment_header_is_damage() {
    for victim in 0..7 {
        let disk = MemDisk::new();
        let mut rig = Rig::open(&disk).unwrap();
        for number in 0..60 {
            rig.commit(&payload(number, 5000));
        }
        drop(rig);
        let name = segments(&disk)[victim].clone();
        disk.corrupt(&name, 40, 1);
        let error = Rig::open(&disk).err().unwrap();
        assert!(matches!(&error, OpenError::Damaged(list) if list[0].segment == name), "{error}");
        let mut anyway = options();
        anyway.start_on_damage = true;
        let mut rig = Rig::open_with(&disk, anyway).unwrap();
        assert_eq!(rig.recovery.damage.len(), 1);
        let end = rig.commit(b"behind");
        // Once all of it is given up the log is sound again.
        rig.wal.trim(end);
        rig.driver.pump();
        drop(rig);
        assert_eq!(Rig::open(&disk).unwrap().payloads(), [b"behind"]);
    }
}

#[test]
fn rot_in_any_acknowledged_batch_is_reported_with_its_place() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..25 {
        rig.commit(&payload(number, 5000));
    }
    rig.close();
    for (index, name) in segments(&disk).into_iter().enumerate() {
        for batch in batches(&disk, &name) {
            let position = index as u64 * SEGMENT_BYTES + batch.offset;
            for at in [0, 9, 24, 32, 52, 60, batch.bytes / 2, batch.bytes - 1] {
                let at = batch.offset + at.min(batch.bytes - 1);
                disk.corrupt(&name, at, 1);
                let last = batch.bytes == 72 && batch.offset > 8192;
                match Rig::open(&disk.crash(&mut |_| 0)) {
                    Err(OpenError::Damaged(found)) => {
                        let lost = &found[0];
                        assert_eq!(found.len(), 1);
                        assert!(lost.from.0 <= position && position < lost.to.0, "{found:?}");
                        if batch.offset > 4096 {
                            assert_eq!((&lost.segment, lost.offset), (&name, batch.offset));
                        }
                    }
                    // Only the closing mark, which holds no record, is covered by nothing.
                    Ok(rig) => assert!(last && rig.found.len() == 25, "{name} {batch:?}"),
                    Err(error) => panic!("{error}"),
                }
                disk.corrupt(&name, at, 1);
            }
        }
    }
    assert_eq!(Rig::open(&disk).unwrap().recovery.label, Label::CleanEnd);
}

#[test]
fn with_leave_the_log_starts_on_damage_and_gives_what_is_left() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..25 {
        rig.commit(&payload(number, 5000));
    }
    drop(rig);
    let name = segments(&disk)[1].clone();
    let places = batches(&disk, &name);
    disk.corrupt(&name, places[1].offset + 200, 4);
    disk.corrupt(&name, places[3].offset + 10, 1);
    let mut anyway = options();
    anyway.start_on_damage = true;
    let rig = Rig::open_with(&disk, anyway).unwrap();
    let offsets: Vec<u64> = rig.recovery.damage.iter().map(|extent| extent.offset).collect();
    assert_eq!(offsets, [places[1].offset, places[3].offset]);
    assert_eq!(rig.recovery.damage[0].to.0 - rig.recovery.damage[0].from.0, 8192);
    assert_eq!(rig.found.len(), 23);
}

#[test]
fn a_tail_that_is_only_in_the_cache_is_durable_once_it_was_believed() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.hold(true);
    rig.append(b"in the cache").unwrap();
    rig.driver.pump();
    // The process dies; the write is in the cache, and its flush was never done.
    drop(rig);
    disk.hold(false);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.payloads(), [b"in the cache"]);
    let crashed = disk.crash(&mut |_| 0);
    assert_eq!(Rig::open(&crashed).unwrap().payloads(), [b"in the cache"]);
}

#[test]
fn a_batch_that_lands_after_the_restart_does_not_come_back() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.commit(b"first");
    let before = disk.contents(&segments(&disk)[0]).unwrap();
    rig.commit(b"late");
    let after = disk.contents(&segments(&disk)[0]).unwrap();
    let name = segments(&disk)[0].clone();
    drop(rig);
    // As if the write of the second batch had been in flight when the process died ...
    disk.put(&name, &before);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.payloads(), [b"first"]);
    drop(rig);
    // ... and had reached the disk only now.
    disk.put(&name, &after);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.payloads(), [b"first"]);
    assert_eq!(rig.recovery.label, Label::CleanEnd);
}

#[test]
fn closing_flushes_marks_the_end_and_refuses_more() {
    let disk = MemDisk::new();
    let rig = Rig::open(&disk).unwrap();
    let wal = rig.wal.clone();
    let lsn = rig.append(b"last words").unwrap();
    rig.close();
    assert!(wal.durable() >= lsn);
    let again = wal.append(&[Record { stream: 0, kind: 0, head: &[], body: &[] }]);
    assert_eq!(again, Err(AppendError::Closed));
    let mut waits = Task::new(wal.durable_beyond(wal.durable()));
    assert!(waits.pump());
    assert_eq!(waits.result, Some(Err(WalFailure::Closed)));
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.recovery.label, Label::CleanEnd);
    assert!(rig.recovery.known_durable >= lsn, "the mark vouches for the last record");
}

#[test]
fn closing_waits_for_records_that_wait_for_a_segment() {
    let disk = MemDisk::new();
    let rig = Rig::open(&disk).unwrap();
    let expected: Vec<_> = (0..200).map(|number| payload(number, 5000)).collect();
    for bytes in &expected {
        rig.append(bytes).unwrap();
    }
    rig.close();
    assert_eq!(Rig::open(&disk).unwrap().payloads(), expected);
}

#[test]
fn a_dropped_driver_ends_the_log() {
    let disk = MemDisk::new();
    let rig = Rig::open(&disk).unwrap();
    rig.append(b"never written").unwrap();
    let mut waits = Task::new(rig.wal.durable_beyond(rig.wal.durable()));
    assert!(!waits.pump());
    drop(rig.driver);
    assert!(waits.pump());
    assert!(matches!(waits.result, Some(Err(WalFailure::Stopped { .. }))));
}

#[test]
fn an_error_while_reading_refuses_the_start_and_loses_nothing() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.commit(b"kept");
    drop(rig);
    for operation in [Operation::Read, Operation::Sync, Operation::Open, Operation::SyncDir] {
        disk.on_operation(move |asked| {
            if asked == operation { Fate::Fail(io::ErrorKind::Other) } else { Fate::Succeed }
        });
        let error = Rig::open(&disk).err().unwrap();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }
    disk.on_operation(|_| Fate::Succeed);
    assert_eq!(Rig::open(&disk).unwrap().payloads(), [b"kept"]);
}

#[test]
fn short_reads_are_completed() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    let expected: Vec<_> = (0..30).map(|number| payload(number, 13_000)).collect();
    for bytes in &expected {
        rig.commit(bytes);
    }
    drop(rig);
    let mut turn = 0;
    disk.on_operation(move |operation| {
        turn += 1;
        match operation {
            Operation::Read if turn % 3 == 0 => Fate::Short(8192),
            Operation::Read if turn % 7 == 0 => Fate::Fail(io::ErrorKind::Interrupted),
            _ => Fate::Succeed,
        }
    });
    assert_eq!(Rig::open(&disk).unwrap().payloads(), expected);
}

#[test]
fn opening_can_be_cut_short_anywhere() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    let expected: Vec<_> = (0..30).map(|number| payload(number, 5000)).collect();
    for bytes in &expected {
        rig.commit(bytes);
    }
    drop(rig);
    for steps in 0..40 {
        let started = disk.crash(&mut |_| 0);
        started.hold(true);
        let mut task = Task::new(open(started.clone(), options()));
        for _ in 0..steps {
            task.pump();
            if started.held() > 0 {
                started.release(0);
            }
        }
        task.pump();
        for kept in 0..3 {
            let crashed = started.crash(&mut |n| if kept < n { kept } else { n - 1 });
            assert_eq!(Rig::open(&crashed).unwrap().payloads(), expected, "after {steps} steps");
        }
    }
}

#[test]
fn a_batch_in_the_place_of_another_is_damage() {
    let logs: Vec<MemDisk> = (0..2_u8)
        .map(|log| {
            let disk = MemDisk::new();
            let mut rig = Rig::open(&disk).unwrap();
            for number in 0..4 {
                rig.commit(&[log, number]);
            }
            disk
        })
        .collect();
    let name = &segments(&logs[0])[0];
    for replaced in 1..4 {
        let mut bytes = logs[0].contents(name).unwrap();
        let other = logs[1].contents(name).unwrap();
        let block = replaced * 4096 + 4096..replaced * 4096 + 8192;
        bytes[block.clone()].copy_from_slice(&other[block.clone()]);
        let disk = logs[0].crash(&mut |_| 0);
        disk.put(name, &bytes);
        let error = Rig::open(&disk).err().unwrap();
        let OpenError::Damaged(lost) = &error else { panic!("{error}") };
        let covers = |at: u64| lost.iter().any(|lost| lost.from.0 <= at && at <= lost.to.0);
        assert!(covers(block.start as u64), "{error}");
    }
}

/// The last write went over the batch before it, and so the only witness of that batch is not in its place.
#[test]
fn a_misdirected_last_write_does_not_hide_what_it_destroyed() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    for number in 0..4 {
        rig.commit(&[number]);
    }
    let name = &segments(&disk)[0];
    let places = batches(&disk, name);
    let block = |index: usize| places[index].offset as usize..places[index].offset as usize + 4096;
    let last = places.len() - 1;
    for (hit, place) in places[..last].iter().enumerate() {
        let mut bytes = disk.contents(name).unwrap();
        bytes.copy_within(block(last), block(hit).start);
        bytes[block(last)].fill(0);
        let disk = disk.crash(&mut |_| 0);
        disk.put(name, &bytes);
        let error = Rig::open(&disk).err().unwrap();
        let OpenError::Damaged(lost) = &error else { panic!("{error}") };
        assert_eq!(lost[0].offset, place.offset, "{error}");
    }
}

#[test]
fn the_driver_does_not_end_before_the_last_mark_is_durable() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.driver.pump();
    disk.hold(true);
    let lsn = rig.append(b"last").unwrap();
    let wal = rig.wal.clone();
    let mut close = Task::new(async move { wal.close().await });
    for writes in 0..2 {
        assert!(!close.pump());
        assert!(!rig.driver.pump());
        assert_eq!(rig.wal.stats().batches, writes + 1, "the mark waits for the record");
        assert_eq!(disk.held(), 1);
        disk.release(0);
    }
    assert!(rig.driver.pump() && close.pump());
    assert!(rig.wal.durable() > lsn);
}
