//! Recovery of a log from a directory of any content.
//!
//! The input is an image as `wal_image.rs` describes it. What recovery makes of it must be records that are in
//! it, in order, the same each time, and the same after the log has been opened.

use std::collections::{BTreeMap, BTreeSet};

use coracle_wal::mem::{MemDisk, run_to_end};
use coracle_wal::{
    Disk, Driver, OpenError, Options, Record, RecordView, Recovery, Replay, SegmentInfo, Wal,
};
use futures_util::future::join;

use super::wal_image::{mend, pack, unpack};
use super::wal_oracle::{BLOCK, Found, LOG_ID, Segment, mend_segment};
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "wal_recovery",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 24 << 20,
        factor: 512,
        reason: "an image has at most 8 files of 252 KiB, which are on three disks and in the reader's buffers; \
                 a record of 16 bytes is found again in every opening",
    },
};

type Files = BTreeMap<String, Vec<u8>>;
type Opened = Result<(Wal<MemDisk>, Driver<MemDisk>, Recovery), OpenError>;

fn options(start_on_damage: bool) -> Options {
    let mut options = Options::default();
    options.segment_bytes = 16 * BLOCK as u64;
    // Each one is filled with zeros, which is most of the work of a run.
    options.spares = 1;
    options.log_id = LOG_ID;
    options.start_on_damage = start_on_damage;
    options
}

fn disk(files: &Files) -> MemDisk {
    let disk = MemDisk::new();
    for (name, contents) in files {
        disk.put(name, contents);
    }
    disk
}

fn open(disk: &MemDisk, start_on_damage: bool) -> (Opened, Vec<Found>) {
    let mut found = Vec::new();
    let opened =
        run_to_end(Wal::open(disk.clone(), options(start_on_damage), &mut |record: RecordView<
            '_,
        >| {
            found.push(Found {
                lsn: record.lsn.0,
                stream: record.stream,
                kind: record.kind,
                payload: record.payload.to_vec(),
            });
        }));
    (opened, found)
}

/// An owner that takes every summary.
#[derive(Default)]
struct Taker {
    found: u64,
}

impl Replay for Taker {
    fn record(&mut self, _: RecordView<'_>) {
        self.found += 1;
    }

    fn summary(&mut self, segment: &SegmentInfo, summary: &[u8]) -> bool {
        assert!(segment.start < segment.end && summary.len() < BLOCK);
        true
    }
}

/// Opens the log with its summaries: it ends as without them, but for damage that they pass over.
fn open_quickly(files: &Files, full: &Opened, story: &str) {
    let mut taker = Taker::default();
    let opened = run_to_end(Wal::open(disk(files), options(false), &mut taker));
    match (&opened, full) {
        (Ok((_, _, quick)), Ok((_, _, full))) => {
            assert_eq!((quick.label, quick.end), (full.label, full.end), "{story}");
            assert!(quick.records >= taker.found && quick.segments >= quick.summarized, "{story}");
        }
        (Ok((_, _, quick)), Err(_)) => assert!(quick.summarized > 0, "{story}"),
        (Err(error), Ok(_)) => panic!("{error}, but only with summaries: {story}"),
        (Err(_), Err(_)) => {}
    }
}

/// The largest position before which records were given up, and all records of valid batches, wherever
/// these lie.
fn valid_records(files: &Files) -> (u64, BTreeSet<Found>) {
    let (mut trimmed, mut valid) = (0, BTreeSet::new());
    for file in files.values().filter(|file| Segment::is_valid(file)) {
        let Some(segment) = Segment::of(file) else { continue };
        for offset in (BLOCK..file.len()).step_by(BLOCK) {
            if let Some((before, found)) = segment.batch(&file[offset..], offset as u64) {
                trimmed = trimmed.max(before);
                valid.extend(found);
            }
        }
    }
    (trimmed, valid)
}

fn run(data: &[u8]) {
    let files = unpack(data);
    let (trimmed, valid) = valid_records(&files);
    for start_on_damage in [false, true] {
        let before = disk(&files);
        let (opened, found) = open(&before, start_on_damage);
        let story = format!("{:?}", opened.as_ref().map(|(_, _, recovery)| recovery));
        assert!(found.iter().all(|record| valid.contains(record)), "only what is there: {story}");
        assert!(found.is_sorted_by(|a, b| a.lsn < b.lsn), "in order: {story}");
        let same_disk = disk(&files);
        let (again, found_again) = open(&same_disk, start_on_damage);
        let story_again = format!("{:?}", again.as_ref().map(|(_, _, recovery)| recovery));
        assert_eq!((&story_again, &found_again), (&story, &found), "the same each time");
        if !start_on_damage {
            open_quickly(&files, &opened, &story);
        }
        drop((same_disk, again, found_again));
        match opened {
            Ok((_, _, recovery)) => {
                assert!(start_on_damage || recovery.damage.is_empty(), "{story}");
                assert_eq!(recovery.records, found.len() as u64, "{story}");
                go_on(&before, start_on_damage, found, trimmed, &story);
            }
            Err(OpenError::Damaged(_)) => assert!(!start_on_damage, "{story}"),
            Err(OpenError::Foreign { .. } | OpenError::Newer { .. } | OpenError::Exhausted) => {}
            Err(error) => panic!("a disk without faults: {error}"),
        }
    }
}

/// The log that was opened dies at once and is opened again, is written to, and is opened again.
fn go_on(disk: &MemDisk, start_on_damage: bool, mut found: Vec<Found>, trimmed: u64, story: &str) {
    let (opened, again) = open(disk, start_on_damage);
    assert_eq!(again, found, "opening changes nothing: {story}");
    let (wal, driver, recovery) = match opened {
        Ok(opened) => opened,
        Err(error) => panic!("it was opened before: {error}; then {story}"),
    };
    let lsn = run_to_end(async {
        let record = Record { stream: 9, kind: 9, head: b"one", body: b" more" };
        let lsn = wal.append(&[record]).expect("an open log takes a record").end;
        let (ended, ()) = join(driver.run(), wal.close()).await;
        ended.expect("a disk without faults");
        lsn
    });
    assert!(lsn > recovery.end, "new records come behind: {story}");
    let (opened, mut again) = open(disk, start_on_damage);
    let last = again.pop().map(|record| (record.lsn, record.payload));
    assert!(opened.is_ok(), "{:?}; then {story}", opened.err());
    assert_eq!(last, Some((lsn.0, b"one more".to_vec())), "the new record: {story}");
    // Segments that had been given up may be gone by now.
    again.retain(|record| record.lsn >= trimmed);
    found.retain(|record| record.lsn >= trimmed);
    assert_eq!(again, found, "and all others: {story}");
}

fn files_of(disk: &MemDisk) -> Files {
    let names = run_to_end(disk.list()).expect("a list");
    names.into_iter().filter_map(|name| Some((name.clone(), disk.contents(&name)?))).collect()
}

/// Opens the log, appends records one after the other, and closes it or lets it die.
fn write(disk: &MemDisk, payloads: &[&[u8]], trim: bool, close: bool) {
    let (opened, _) = open(disk, false);
    let (wal, driver, _) = opened.expect("a log");
    run_to_end(async {
        let work = async {
            for payload in payloads {
                let record =
                    Record { stream: 1, kind: 2, head: &payload[..1], body: &payload[1..] };
                let lsn = wal.append(&[record, record]).expect("room").end;
                while wal.durable() < lsn {
                    wal.durable_beyond(wal.durable()).await.expect("a disk without faults");
                }
                if trim {
                    wal.trim(lsn);
                }
            }
            if close {
                wal.close().await;
            }
        };
        let driver = driver.run();
        futures_util::pin_mut!(driver, work);
        // Without a close the driver is dropped where it is, as by the end of the process.
        match futures_util::future::select(work, driver).await {
            futures_util::future::Either::Left(((), driver)) if close => {
                driver.await.expect("a disk without faults");
            }
            _ => {}
        }
    });
}

/// Writes three segments, two of them sealed and with summaries, and lets the log die.
fn write_with_summaries(disk: &MemDisk, payload: &[u8]) {
    let (opened, _) = open(disk, false);
    let (wal, driver, _) = opened.expect("a log");
    run_to_end(async {
        let work = async {
            while wal.segments().len() < 3 || wal.stats().summaries < 2 {
                let record = Record { stream: 1, kind: 2, head: &[], body: payload };
                let lsn = wal.append(&[record]).expect("room").end;
                while wal.durable() < lsn {
                    wal.durable_beyond(wal.durable()).await.expect("a disk without faults");
                }
                while let Some(segment) = wal.take_sealed() {
                    wal.summarize(segment.sequence, b"a summary".to_vec());
                }
            }
        };
        let driver = driver.run();
        futures_util::pin_mut!(driver, work);
        futures_util::future::select(work, driver).await;
    });
}

fn seeds() -> Vec<Seed> {
    let mut seeds = vec![Seed::new("empty", [])];
    let mut add = |name: &str, files: &Files| seeds.push(Seed::new(name, pack(files)));
    let disk = MemDisk::new();
    // Zeros: they take segments, but no room in the image.
    let large = [0; 9000];
    write(&disk, &[b"one", b"two", b"three"], false, true);
    let closed = files_of(&disk);
    add("closed", &closed);
    write(&disk, &[b"four", &large[..300]], false, false);
    let died = files_of(&disk);
    add("died", &died);
    write(&disk, &[b"five"], false, true);
    add("three-generations", &files_of(&disk));

    let mut missing = files_of(&disk);
    missing.pop_first();
    add("first-segment-missing", &missing);
    let mut torn = died.clone();
    if let Some(file) = torn.values_mut().rfind(|file| file[BLOCK..].iter().any(|byte| *byte != 0))
    {
        let last = file.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        file[last] ^= 1;
    }
    add("torn-tail", &torn);
    for (name, field) in
        [("huge-generation", 32), ("huge-sequence", 40), ("huge-base", 48), ("huge-size", 56)]
    {
        let mut huge = closed.clone();
        if let Some(file) = huge.values_mut().next() {
            file[field..field + 8].copy_from_slice(&(u64::MAX - 4095).to_le_bytes());
            mend_segment(file, true);
        }
        add(name, &huge);
    }
    let mut damaged = closed;
    if let Some(file) = damaged.values_mut().next() {
        file[2 * BLOCK + 100] ^= 1;
    }
    add("damaged", &damaged);

    let disk = MemDisk::new();
    write_with_summaries(&disk, &large);
    add("summaries", &files_of(&disk));

    let disk = MemDisk::new();
    write(&disk, &[large.as_slice(); 10], true, true);
    add("trimmed", &files_of(&disk));

    // Files without a valid header whose names have the largest numbers.
    for (name, file) in [("huge-names", 0x3c_u8), ("largest-name", 0x3f)] {
        let readable = &seeds[1].bytes.clone()[..];
        seeds.push(Seed::new(name, [readable, &[file, 16, 1, 1, 0, 1, file - 1, 16, 0]].concat()));
    }
    seeds
}
