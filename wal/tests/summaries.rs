//! Summaries of sealed segments: what they spare a restart, and what they may not hide.
#![allow(clippy::unwrap_used)]

mod common;

use common::{BatchPlace, Rig, SEGMENT_BYTES, batches, numbered, options, segments, summary};
use coracle_wal::mem::{Fate, MemDisk, Operation, run_to_end};
use coracle_wal::recovery::Label;
use coracle_wal::{
    Appended, Lsn, OpenError, Options, ReadError, Record, RecordView, Recovery, Replay,
    SegmentInfo, Wal,
};

const BLOCK: u64 = 4096;
const LEN: usize = 9000;

/// Takes every summary, and notes what it is given.
#[derive(Default)]
struct Owner {
    records: Vec<Vec<u8>>,
    summaries: Vec<(u64, Vec<u8>)>,
    refuses: bool,
}

impl Replay for Owner {
    fn record(&mut self, record: RecordView<'_>) {
        self.records.push(record.payload.to_vec());
    }

    fn summary(&mut self, segment: &SegmentInfo, summary: &[u8]) -> bool {
        assert!(segment.start < segment.end && segment.end.0 <= segment.start.0 + segment.bytes);
        if !self.refuses {
            self.summaries.push((segment.sequence, summary.to_vec()));
        }
        !self.refuses
    }
}

fn open(disk: &MemDisk, refuses: bool) -> Result<(Recovery, Owner), OpenError> {
    open_with(disk, refuses, options())
}

fn open_with(
    disk: &MemDisk,
    refuses: bool,
    options: Options,
) -> Result<(Recovery, Owner), OpenError> {
    let mut owner = Owner { refuses, ..Owner::default() };
    let opened = run_to_end(Wal::open(disk.clone(), options, &mut owner))?;
    Ok((opened.2, owner))
}

/// The disk as it is, without what an opening does to it.
fn copy(disk: &MemDisk) -> MemDisk {
    disk.crash(&mut |n| 1.min(n - 1))
}

fn append(rig: &Rig, number: u64) -> Appended {
    let payload = numbered(number, LEN);
    rig.wal.append(&[Record { stream: 3, kind: 1, head: &[], body: &payload }]).unwrap()
}

/// Gives every sealed segment a summary: its number.
fn summarize(rig: &mut Rig) -> Vec<SegmentInfo> {
    let mut sealed = Vec::new();
    while let Some(segment) = rig.wal.take_sealed() {
        rig.wal.summarize(segment.sequence, summary(segment.sequence, std::iter::empty()));
        sealed.push(segment);
    }
    rig.driver.pump();
    sealed
}

/// A log of so many records, four to a segment, all sealed segments with summaries.
fn filled(count: u64) -> (Rig, Vec<Appended>) {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    let written = (0..count).map(|number| {
        let appended = append(&rig, number);
        rig.driver.pump();
        appended
    });
    let written = written.collect();
    summarize(&mut rig);
    (rig, written)
}

/// What does not depend on whether segments were read.
fn facts(recovery: &Recovery) -> impl PartialEq + std::fmt::Debug + use<> {
    let Recovery { label, end, known_durable, records, batches, bytes, segments, .. } =
        recovery.clone();
    (label, end, known_durable, records, batches, bytes, segments, recovery.cut.clone())
}

#[test]
fn sealed_segments_are_told_once_in_order_and_as_they_are_listed() {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    assert_eq!(rig.wal.take_sealed(), None);
    let mut sealed = Vec::new();
    for number in 0..20 {
        append(&rig, number);
        rig.driver.pump();
        sealed.extend(rig.wal.take_sealed());
    }
    let all = rig.wal.segments();
    assert_eq!(sealed, all[..all.len() - 1]);
    assert!(all.iter().all(|segment| segment.bytes == SEGMENT_BYTES));
    let last = all.last().unwrap();
    assert_eq!(last.end, rig.wal.durable());
    let before = rig.wal.disk_bytes();
    assert_eq!(before, rig.disk.used());
}

#[test]
fn segments_with_summaries_are_not_read_and_everything_else_is_the_same() {
    let (rig, _) = filled(21);
    assert_eq!(rig.wal.stats().summaries, 5);
    let (full, records) = open(&copy(&rig.disk), true).unwrap();
    assert_eq!((records.records.len(), full.summarized), (21, 0));
    let (quick, rest) = open(&copy(&rig.disk), false).unwrap();
    assert_eq!(facts(&quick), facts(&full));
    assert_eq!(quick.summarized, 5);
    let sequences: Vec<_> = rest.summaries.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    assert_eq!(rest.records, [numbered(20, LEN)]);
    // Also after an orderly end, and a life without summaries.
    let disk = rig.disk.clone();
    rig.close();
    let mut rig = Rig::open(&disk).unwrap();
    append(&rig, 21);
    rig.driver.pump();
    let (full, _) = open(&copy(&disk), true).unwrap();
    let (quick, rest) = open(&copy(&disk), false).unwrap();
    assert_eq!(facts(&quick), facts(&full));
    assert_eq!((quick.summarized, rest.records.len()), (5, 2));
}

#[test]
fn the_bytes_of_the_owner_come_back_up_to_the_largest_size() {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    let most = rig.wal.summary_bytes_max();
    assert!(most > 3900 && (most as u64) < BLOCK);
    let lens = [0, 1, most, most + 1];
    let mut given = Vec::new();
    for number in 0..17 {
        append(&rig, number);
        rig.driver.pump();
        if let Some(segment) = rig.wal.take_sealed() {
            let bytes = vec![segment.sequence as u8; lens[given.len()]];
            rig.wal.summarize(segment.sequence, bytes.clone());
            // Only the first counts.
            rig.wal.summarize(segment.sequence, vec![9; 9]);
            given.push((segment.sequence, bytes));
        }
    }
    rig.driver.pump();
    // The last one is too long, and what was given second took its place.
    given[3].1 = vec![9; 9];
    let (_, owner) = open(&copy(&rig.disk), false).unwrap();
    assert_eq!(owner.summaries, given);
    rig.wal.summarize(77, vec![1]);
    rig.wal.summarize(1, vec![1]);
}

/// Large segments have room for more than a block.
#[test]
fn a_summary_of_several_blocks_is_read_back() {
    let mut large = options();
    large.segment_bytes = 8 << 20;
    let mut rig = Rig::open_with(&MemDisk::new(), large.clone()).unwrap();
    let most = rig.wal.summary_bytes_max();
    assert!(most > 100_000);
    let record = vec![1; 3 << 20];
    for _ in 0..4 {
        rig.commit(&record);
    }
    let segment = rig.wal.take_sealed().unwrap();
    let bytes: Vec<u8> = (0..most).map(|at| (at * 7 % 251) as u8).collect();
    rig.wal.summarize(segment.sequence, bytes.clone());
    rig.driver.pump();
    let (recovery, owner) = open_with(&copy(&rig.disk), false, large).unwrap();
    assert_eq!(recovery.summarized, 1);
    assert!(owner.summaries == [(segment.sequence, bytes)]);
}

#[test]
fn a_summary_is_not_written_before_its_segment_is_durable() {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    for number in 0..4 {
        append(&rig, number);
        rig.driver.pump();
    }
    rig.disk.hold(true);
    append(&rig, 4);
    rig.driver.pump();
    // The next segment's first batch is on its way: nothing more comes into the first segment.
    let segment = rig.wal.take_sealed().unwrap();
    rig.wal.summarize(segment.sequence, vec![1]);
    rig.driver.pump();
    let area = (SEGMENT_BYTES - BLOCK) as usize;
    let written = |rig: &Rig| rig.disk.contents(&segments(&rig.disk)[0]).unwrap()[area] != 0;
    assert!(!written(&rig));
    rig.disk.hold(false);
    while rig.disk.held() > 0 {
        rig.disk.release(0);
        rig.driver.pump();
    }
    rig.driver.pump();
    assert!(written(&rig));
}

#[test]
fn a_summary_that_cannot_be_written_is_no_failure() {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    for number in 0..9 {
        append(&rig, number);
        rig.driver.pump();
    }
    rig.disk.on_operation(|operation| match operation {
        Operation::Write => Fate::Fail(std::io::ErrorKind::Other),
        _ => Fate::Succeed,
    });
    assert_eq!(summarize(&mut rig).len(), 2);
    assert_eq!((rig.wal.failure(), rig.wal.stats().summaries), (None, 0));
    rig.disk.on_operation(|_| Fate::Succeed);
    rig.commit(b"goes on");
    // A write that fails may have been done all the same; what it would lose is only time.
    let (recovery, _) = open(&copy(&rig.disk), false).unwrap();
    assert_eq!((recovery.label, recovery.records), (Label::CleanEnd, 10));
}

/// A flipped byte anywhere in a sealed segment: a summary never turns one label into another, except that
/// damage inside of the batches it stands for is found when they are read.
#[test]
fn damage_anywhere_in_a_sealed_segment_is_found_or_does_not_matter() {
    let (rig, written) = filled(21);
    let names = segments(&rig.disk);
    let places = batches(&rig.disk, &names[2]);
    let used = summary(3, std::iter::empty()).len() as u64 + 88;
    let mut bytes: Vec<u64> = (0..80).chain([2000, 4095]).collect();
    for BatchPlace { offset, bytes: len } in &places {
        bytes.extend(*offset..offset + 90);
        bytes.extend([offset + len / 2, offset + len - 1, offset + len]);
    }
    let area = SEGMENT_BYTES - BLOCK;
    bytes.extend([area - 1, area - BLOCK]);
    bytes.extend(area..area + used + 2);
    for at in bytes {
        let disk = copy(&rig.disk);
        disk.corrupt(&names[2], at, 1);
        let full = open(&copy(&disk), true);
        let quick = open(&copy(&disk), false);
        let in_batch = places.iter().position(|p| (p.offset..p.offset + p.bytes).contains(&at));
        match (full, quick) {
            (Ok((full, records)), Ok((quick, rest))) => {
                assert!(at >= BLOCK && in_batch.is_none(), "byte {at}");
                assert_eq!((full.label, records.records.len()), (Label::CleanEnd, 21));
                assert_eq!(facts(&quick), facts(&full), "byte {at}");
                let spoilt = (area..area + used).contains(&at);
                assert_eq!(quick.summarized, 5 - u64::from(spoilt), "byte {at}");
                assert_eq!(rest.records.len(), if spoilt { 5 } else { 1 });
            }
            (Err(OpenError::Damaged(_)), Err(OpenError::Damaged(_))) => {
                assert!(at < BLOCK || in_batch == Some(0), "byte {at}");
            }
            (Err(OpenError::Damaged(extents)), Ok((quick, _))) => {
                // The damage is inside of the segment, whose summary was taken. Reading finds it.
                assert!(in_batch.is_some_and(|batch| batch > 0), "byte {at}");
                assert_eq!((quick.label, quick.summarized), (Label::CleanEnd, 5));
                let rig = Rig::open(&disk).unwrap();
                let mut reader = rig.wal.reader(written[0].batch);
                let error = loop {
                    match run_to_end(reader.next()) {
                        Ok(batch) => assert!(batch.is_some(), "byte {at}"),
                        Err(error) => break error,
                    }
                };
                let ReadError::Damaged { extent } = error else { panic!("{error}") };
                let [expected] = &extents[..] else { panic!("{extents:?}") };
                assert_eq!((&extent.segment, extent.from), (&expected.segment, expected.from));
                assert!(extent.to <= expected.to, "the next batch may lie in the next segment");
            }
            (full, quick) => panic!("byte {at}: {:?}, {:?}", full.err(), quick.err()),
        }
    }
}

/// A flipped byte in a neighbour of a sealed segment: the label is the same.
#[test]
fn damage_beside_summaries_gets_the_same_label() {
    let (rig, _) = filled(18);
    let names = segments(&rig.disk);
    for name in &names {
        for place in batches(&rig.disk, name) {
            let disk = copy(&rig.disk);
            // Without its own summary it is not passed over.
            disk.corrupt(name, SEGMENT_BYTES - BLOCK, 1);
            disk.corrupt(name, place.offset + place.bytes / 2, 1);
            let full = open(&copy(&disk), true).map(|(recovery, _)| recovery);
            let quick = open(&copy(&disk), false).map(|(recovery, _)| recovery);
            match (full, quick) {
                (Ok(full), Ok(quick)) => assert_eq!(facts(&full), facts(&quick)),
                (Err(OpenError::Damaged(full)), Err(OpenError::Damaged(quick))) => {
                    assert_eq!(full, quick);
                }
                (full, quick) => panic!("{name} {place:?}: {full:?}, {quick:?}"),
            }
            let mut anyhow = options();
            anyhow.start_on_damage = true;
            let (full, all) = open_with(&copy(&disk), true, anyhow.clone()).unwrap();
            let (quick, rest) = open_with(&copy(&disk), false, anyhow).unwrap();
            assert_eq!(facts(&full), facts(&quick));
            assert_eq!(full.damage, quick.damage);
            assert!(rest.records.iter().all(|record| all.records.contains(record)));
        }
        // A missing segment, too.
        let disk = copy(&rig.disk);
        run_to_end(coracle_wal::Disk::remove(&disk, name)).unwrap();
        let full = open(&copy(&disk), true).map(|(recovery, _)| facts(&recovery));
        let quick = open(&copy(&disk), false).map(|(recovery, _)| facts(&recovery));
        match (full, quick) {
            (Ok(full), Ok(quick)) => assert_eq!(full, quick),
            (Err(OpenError::Damaged(full)), Err(OpenError::Damaged(quick))) => {
                assert_eq!(full, quick);
            }
            (full, quick) => panic!("{name}: {full:?}, {quick:?}"),
        }
    }
}

#[test]
fn the_summary_of_an_earlier_use_of_a_file_does_not_pass() {
    let (mut rig, written) = filled(21);
    rig.wal.trim(written[20].end);
    rig.driver.pump();
    // The files get used again, without summaries.
    for number in 21..70 {
        append(&rig, number);
        rig.driver.pump();
    }
    let old = segments(&rig.disk).iter().any(|name| {
        rig.disk.contents(name).unwrap()[(SEGMENT_BYTES - BLOCK) as usize + 4..][..4] == *b"CWs1"
    });
    assert!(old, "a file still holds the summary of its earlier use");
    let (recovery, _) = open(&copy(&rig.disk), false).unwrap();
    assert_eq!((recovery.label, recovery.summarized), (Label::CleanEnd, 0));
}

/// A later start cut the log inside of a segment: what the cut left is read.
#[test]
fn a_segment_that_was_cut_is_read() {
    let (rig, _) = filled(8);
    let disk = copy(&rig.disk);
    drop(rig);
    let mut rig = Rig::open(&disk).unwrap();
    append(&rig, 8);
    rig.driver.pump();
    let (recovery, owner) = open(&copy(&disk), false).unwrap();
    // Segment 2 is the last of its generation: it was not sealed.
    assert_eq!((recovery.summarized, owner.records.len()), (1, 5));
}

#[test]
fn summaries_of_segments_that_go_are_dropped() {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    let mut last = Lsn(0);
    for number in 0..9 {
        last = append(&rig, number).end;
        rig.driver.pump();
    }
    let sealed: Vec<_> = std::iter::from_fn(|| rig.wal.take_sealed()).collect();
    rig.wal.trim(last);
    rig.driver.pump();
    for segment in sealed {
        rig.wal.summarize(segment.sequence, vec![1]);
    }
    rig.driver.pump();
    assert_eq!((rig.wal.stats().summaries, rig.wal.failure()), (0, None));
}
