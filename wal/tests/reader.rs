//! Reading old records back while the log goes on.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use common::{Rig, SEGMENT_BYTES, batches, options, segments};
use coracle_wal::mem::{Fate, MemDisk, MemFile, Operation, run_to_end};
use coracle_wal::{Appended, ColdBatch, LogReader, Lsn, ReadError, Record};
use proptest::prelude::*;

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), (number % 251) as u8);
    bytes
}

/// What [`payload`] was called with.
fn told(bytes: &[u8]) -> (u64, usize) {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(payload(number, bytes.len()) == bytes, "the payload of record {number} is another one");
    (number, bytes.len())
}

fn append(rig: &Rig, payload: &[u8]) -> Appended {
    let (head, body) = payload.split_at(4);
    rig.wal.append(&[Record { stream: 7, kind: 3, head, body }]).unwrap()
}

type Reader = LogReader<MemDisk>;

fn next(reader: &mut Reader) -> Result<Option<ColdBatch>, ReadError> {
    run_to_end(reader.next())
}

/// Number and length of each record up to the end; the rest of its payload is checked.
fn rest(reader: &mut Reader) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    while let Some(batch) = next(reader).unwrap() {
        assert!(batch.position < batch.next);
        for record in batch.records() {
            assert_eq!((record.stream, record.kind), (7, 3));
            assert!(batch.position < record.lsn && record.lsn <= batch.next);
            found.push(told(&record.payload));
        }
    }
    found
}

/// A log with records of these lengths, each durable before the next.
fn filled(lens: &[usize]) -> (Rig, Vec<(Appended, Vec<u8>)>) {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    let mut written = Vec::new();
    for (number, len) in lens.iter().enumerate() {
        let bytes = payload(number as u64, *len);
        written.push((append(&rig, &bytes), bytes));
        rig.driver.pump();
    }
    assert!(rig.wal.durable() >= written.last().unwrap().0.end);
    (rig, written)
}

#[test]
fn a_reader_goes_from_any_batch_to_the_end_over_segments() {
    let lens: Vec<usize> = (0..60).map(|number| 10 + number * 731 % 30_000).collect();
    let (mut rig, written) = filled(&lens);
    assert!(rig.wal.segments().len() > 5);
    for from in 0..written.len() {
        let mut reader = rig.wal.reader(written[from].0.batch);
        let expected: Vec<_> = written[from..].iter().map(|(_, bytes)| told(bytes)).collect();
        assert_eq!(rest(&mut reader), expected);
        assert!(next(&mut reader).unwrap().is_none());
    }
    // It waits at the end, and goes on when there is more.
    let mut reader = rig.wal.reader(written[50].0.batch);
    rest(&mut reader);
    for number in 0..20 {
        let bytes = payload(1000 + number, 7000);
        append(&rig, &bytes);
        assert!(next(&mut reader).unwrap().is_none(), "not durable yet");
        rig.driver.pump();
        assert_eq!(rest(&mut reader), [told(&bytes)]);
    }
    let mut whole = rig.wal.reader(Lsn(0));
    assert_eq!(rest(&mut whole).len(), 80);
}

#[test]
fn one_batch_is_read_by_itself() {
    let (rig, written) = filled(&[100, 20_000, 3, 45_000, 9000]);
    let mut reader = rig.wal.reader(Lsn(0));
    for (appended, bytes) in written.iter().rev() {
        let batch = run_to_end(reader.batch_at(appended.batch)).unwrap().unwrap();
        let records: Vec<_> = batch.records().collect();
        assert_eq!((records.len(), batch.len(), batch.position), (1, 1, appended.batch));
        assert_eq!(records[0].lsn, appended.end);
        assert!(records[0].payload == bytes);
    }
    assert!(run_to_end(reader.batch_at(rig.wal.durable())).unwrap().is_none());
    let begin = run_to_end(reader.batch_at(Lsn(4096))).unwrap().unwrap();
    assert!(begin.is_empty(), "the batch that begins the generation");
}

#[test]
fn a_batch_in_several_buffers_is_joined() {
    let mut wide = options();
    wide.segment_bytes = 16 << 20;
    let mut rig = Rig::open_with(&MemDisk::new(), wide).unwrap();
    let large: Vec<_> = (0..3).map(|number| (number, (1 << 20) + 70_000)).collect();
    for (number, len) in &large {
        append(&rig, &payload(*number, *len));
    }
    rig.driver.pump();
    assert_eq!(rest(&mut rig.wal.reader(Lsn(0))), large);
}

#[test]
fn a_reader_seeks_ahead_within_what_it_has_read() {
    let mut wide = options();
    wide.segment_bytes = 16 << 20;
    let mut rig = Rig::open_with(&MemDisk::new(), wide).unwrap();
    let mut batches = Vec::new();
    for number in 0..40 {
        batches.push(append(&rig, &payload(number, 200_000)).batch);
        rig.driver.pump();
    }
    for skipped in 1..30 {
        let mut reader = rig.wal.reader(Lsn(0)).ahead(8);
        for _ in 0..2 {
            next(&mut reader).unwrap().unwrap();
        }
        reader.seek(batches[1 + skipped]);
        assert_eq!(rest(&mut reader)[0], (1 + skipped as u64, 200_000));
    }
}

#[test]
fn restarts_do_not_matter() {
    let disk = MemDisk::new();
    let mut expected = Vec::new();
    for life in 0..4_u64 {
        let mut rig = Rig::open(&disk).unwrap();
        for number in 0..20 {
            let bytes = payload(life * 100 + number, 5000);
            append(&rig, &bytes);
            rig.driver.pump();
            expected.push(told(&bytes));
        }
        assert_eq!(rest(&mut rig.wal.reader(Lsn(0))), expected);
        if life % 2 == 0 {
            rig.close();
        }
    }
}

#[test]
fn what_is_trimmed_is_said_to_be() {
    let (mut rig, written) = filled(&[9000; 40]);
    let mut old = rig.wal.reader(written[0].0.batch);
    let mut ahead = rig.wal.reader(written[30].0.batch);
    assert!(next(&mut old).unwrap().is_some() && next(&mut ahead).unwrap().is_some());
    rig.wal.trim(written[30].0.end);
    rig.driver.pump();
    assert!(rig.wal.stats().segments_trimmed > 3);
    assert!(matches!(next(&mut old), Err(ReadError::Trimmed { .. })));
    let mut fresh = rig.wal.reader(written[3].0.batch);
    assert!(matches!(next(&mut fresh), Err(ReadError::Trimmed { at }) if at == written[3].0.batch));
    let expected: Vec<_> = written[31..].iter().map(|(_, bytes)| told(bytes)).collect();
    assert_eq!(rest(&mut ahead), expected);
}

/// The file of a segment is used again while a reader still has it open.
#[test]
fn a_recycled_file_does_not_pass_for_the_old_segment() {
    let (mut rig, written) = filled(&[9000; 12]);
    let mut reader = rig.wal.reader(written[0].0.batch);
    assert!(next(&mut reader).unwrap().is_some());
    let mut last = written[11].0.end;
    for number in 0..100 {
        rig.wal.trim(last);
        last = append(&rig, &payload(number, 9000)).end;
        rig.driver.pump();
    }
    assert!(matches!(next(&mut reader), Err(ReadError::Trimmed { .. })));
}

/// The end of a segment was read before it went away: nothing is missing.
#[test]
fn a_reader_at_the_end_of_a_trimmed_segment_goes_on() {
    let (mut rig, _) = filled(&[9000; 4]);
    let mut reader = rig.wal.reader(Lsn(0));
    assert_eq!(rest(&mut reader).len(), 4);
    let first = rig.wal.segments()[0];
    let last = append(&rig, &payload(9, 9000)).end;
    rig.driver.pump();
    assert_eq!(reader.position(), first.end);
    rig.wal.trim(last);
    rig.driver.pump();
    assert!(rig.wal.segments()[0].sequence > first.sequence);
    assert_eq!(rest(&mut reader), [(9, 9000)]);
}

#[test]
fn damage_is_reported_with_its_extent_and_not_passed_over() {
    let (rig, written) = filled(&[9000; 20]);
    let name = segments(&rig.disk)[1].clone();
    let places = batches(&rig.disk, &name);
    let info = rig.wal.segments()[1];
    for (number, place) in places.iter().enumerate() {
        let at = Lsn(info.start.0 + place.offset);
        let next_at =
            places.get(number + 1).map_or(info.end, |next| Lsn(info.start.0 + next.offset));
        for byte in [0, 9, 50, 72, 80, place.bytes - 1] {
            rig.disk.corrupt(&name, place.offset + byte, 1);
            let mut reader = rig.wal.reader(Lsn(0));
            let error = loop {
                match next(&mut reader) {
                    Ok(batch) => assert!(batch.unwrap().position < at),
                    Err(error) => break error,
                }
            };
            let ReadError::Damaged { extent } = error else { panic!("{error}") };
            assert_eq!((extent.from, extent.to), (at, next_at), "{extent}");
            assert_eq!((&extent.segment, extent.offset), (&name, place.offset));
            assert!(matches!(next(&mut reader), Err(ReadError::Damaged { .. })), "still");
            // Behind it the log is readable, if one asks for it.
            reader.seek(extent.to);
            let behind = written.iter().filter(|(appended, _)| appended.batch >= next_at).count();
            assert_eq!(rest(&mut reader).len(), behind);
            // Damage that is gone was none of the disk's.
            rig.disk.corrupt(&name, place.offset + byte, 1);
        }
    }
}

#[test]
fn an_error_of_the_disk_is_no_damage_and_may_pass() {
    let (rig, written) = filled(&[9000; 20]);
    let mut reader = rig.wal.reader(Lsn(0));
    let failing = Rc::new(Cell::new(true));
    let switch = failing.clone();
    rig.disk.on_operation(move |operation| match operation {
        Operation::Read if switch.get() => Fate::Fail(io::ErrorKind::PermissionDenied),
        _ => Fate::Succeed,
    });
    assert!(matches!(next(&mut reader), Err(ReadError::Io { .. })));
    failing.set(false);
    assert_eq!(rest(&mut reader).len(), written.len());
}

#[test]
fn a_short_read_goes_on() {
    let (rig, written) = filled(&[9000; 20]);
    rig.disk.on_operation(move |operation| match operation {
        Operation::Read => Fate::Short(5000),
        _ => Fate::Succeed,
    });
    assert_eq!(rest(&mut rig.wal.reader(Lsn(0))).len(), written.len());
}

#[test]
fn a_read_beside_the_writer_sees_only_what_is_durable() {
    let mut rig = Rig::open(&MemDisk::new()).unwrap();
    rig.driver.pump();
    rig.disk.hold(true);
    let mut reader = rig.wal.reader(Lsn(0));
    append(&rig, &payload(1, 100));
    rig.driver.pump();
    append(&rig, &payload(2, 100));
    rig.driver.pump();
    assert_eq!(rig.disk.held(), 2);
    rig.disk.release(1);
    rig.driver.pump();
    assert!(next(&mut reader).unwrap().is_none(), "the second is not durable without the first");
    rig.disk.release(0);
    rig.driver.pump();
    assert_eq!(rest(&mut reader), [(1, 100), (2, 100)]);
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        records: usize,
        len: usize,
    },
    Pump,
    Complete(usize),
    Trim(usize),
    Restart,
    /// Reader number so and so reads so many batches.
    Read(usize, usize),
    /// It goes to the batch of a record.
    Seek(usize, prop::sample::Index),
    /// One batch by itself.
    One(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6_usize, 0..9000_usize).prop_map(|(records, len)| Step::Append { records, len }),
        6 => Just(Step::Pump),
        12 => any::<usize>().prop_map(Step::Complete),
        2 => (0..100_usize).prop_map(Step::Trim),
        1 => Just(Step::Restart),
        8 => (0..3_usize, 1..9_usize).prop_map(|(reader, count)| Step::Read(reader, count)),
        3 => (0..3_usize, any::<prop::sample::Index>()).prop_map(|(r, i)| Step::Seek(r, i)),
        2 => any::<prop::sample::Index>().prop_map(Step::One),
    ]
}

/// A record as the model knows it.
#[derive(Clone)]
struct Known {
    batch: Lsn,
    group_end: Lsn,
    payload: Vec<u8>,
}

struct World {
    rig: Rig,
    records: Vec<Known>,
    number: u64,
    trimmed: Lsn,
    /// Each with the record that it gives out next.
    readers: Vec<(Reader, usize)>,
}

impl World {
    fn new() -> Self {
        let rig = Rig::open(&MemDisk::new()).unwrap();
        let mut world =
            Self { rig, records: Vec::new(), number: 0, trimmed: Lsn(0), readers: Vec::new() };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let place = self.records.len();
        let from = self.rig.wal.durable();
        self.readers = (0..3).map(|_| (self.rig.wal.reader(from), place)).collect();
        self.rig.disk.hold(true);
    }

    fn append(&mut self, records: usize, len: usize) {
        let bodies: Vec<_> =
            (0..records as u64).map(|i| payload(self.number + i, len + i as usize * 37)).collect();
        self.number += records as u64;
        let group: Vec<_> = bodies
            .iter()
            .map(|body| Record { stream: 7, kind: 3, head: &body[..4], body: &body[4..] })
            .collect();
        if let Ok(Appended { batch, end }) = self.rig.wal.append(&group) {
            self.records.extend(bodies.into_iter().map(|payload| Known {
                batch,
                group_end: end,
                payload,
            }));
        }
    }

    /// The first record of the batch that record `at` is in.
    fn first_of_batch(&self, at: usize) -> usize {
        let batch = self.records[at].batch;
        self.records.partition_point(|record| record.batch < batch)
    }

    fn check(&self, batch: &ColdBatch, from: usize) -> usize {
        let mut at = from;
        for record in batch.records() {
            let known = &self.records[at];
            assert!(record.payload == known.payload, "record {at}");
            assert_eq!(batch.position, known.batch);
            assert!(known.group_end <= self.rig.wal.durable());
            at += 1;
        }
        assert!(at > from);
        at
    }

    fn read(&mut self, which: usize, count: usize) {
        for _ in 0..count {
            let (reader, at) = &mut self.readers[which];
            let from = *at;
            match next(reader) {
                Ok(Some(batch)) => self.readers[which].1 = self.check(&batch, from),
                Ok(None) => {
                    let durable = self.rig.wal.durable();
                    let more = self.records.get(from).is_some_and(|r| r.group_end <= durable);
                    assert!(!more, "the reader stops before the end of what is durable");
                    return;
                }
                Err(ReadError::Trimmed { .. }) => {
                    // It may stand at the end of a segment that is gone, before one that is there.
                    let here = self.readers[which].0.position();
                    assert!(here < self.trimmed, "{here} is there");
                    let to = self.records.len() - 1;
                    self.seek(which, to);
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn seek(&mut self, which: usize, to: usize) {
        let first = self.first_of_batch(to);
        self.readers[which].0.seek(self.records[to].batch);
        self.readers[which].1 = first;
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Append { records, len } => self.append(*records, *len),
                Step::Pump => {
                    self.rig.driver.pump();
                }
                Step::Complete(pick) => {
                    let held = self.rig.disk.held();
                    if held > 0 {
                        self.rig.disk.release(pick % held);
                    }
                    self.rig.driver.pump();
                }
                Step::Trim(percent) => {
                    if let Some(known) = self.records.get(self.records.len() * percent / 100) {
                        let durable = self.rig.wal.durable();
                        self.trimmed = self.trimmed.max(known.group_end.min(durable));
                        self.rig.wal.trim(known.group_end);
                    }
                }
                Step::Restart => {
                    let disk = self.rig.disk.clone();
                    disk.hold(false);
                    while disk.held() > 0 {
                        disk.release(0);
                    }
                    self.rig.driver.pump();
                    let durable = self.rig.wal.durable();
                    self.records.retain(|known| known.group_end <= durable);
                    self.readers.clear();
                    self.rig = Rig::open(&disk).unwrap();
                    self.begin();
                }
                Step::Read(which, count) => self.read(*which, *count),
                Step::Seek(which, index) if !self.records.is_empty() => {
                    self.seek(*which, index.index(self.records.len()));
                }
                Step::One(index) if !self.records.is_empty() => {
                    let at = index.index(self.records.len());
                    let position = self.records[at].batch;
                    let from = self.first_of_batch(at);
                    let mut reader = self.rig.wal.reader(position);
                    match run_to_end(reader.batch_at(position)) {
                        Ok(Some(batch)) => drop(self.check(&batch, from)),
                        Ok(None) => {
                            assert!(self.records[at].group_end > self.rig.wal.durable());
                        }
                        Err(ReadError::Trimmed { .. }) => {
                            assert!(self.records[at].group_end < self.trimmed);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Seek(..) | Step::One(_) => {}
            }
            assert_eq!(self.rig.wal.failure(), None);
        }
        // Whatever is still there is read to the end.
        self.rig.disk.hold(false);
        while self.rig.disk.held() > 0 {
            self.rig.disk.release(0);
        }
        self.rig.driver.pump();
        for which in 0..3 {
            self.read(which, usize::MAX);
        }
        let oldest = self.rig.wal.segments()[0].start;
        let from = self.records.partition_point(|known| known.batch < oldest);
        let mut reader = self.rig.wal.reader(oldest);
        let mut at = from;
        while let Some(batch) = next(&mut reader).unwrap() {
            at = self.check(&batch, at);
        }
        let durable = self.rig.wal.durable();
        assert!(self.records[at..].iter().all(|known| known.group_end > durable));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_gives_what_was_appended(steps in prop::collection::vec(step(), 1..200)) {
        World::new().run(&steps);
    }
}

#[test]
fn the_writer_takes_no_notice_of_a_reader() {
    fn is_static<T: 'static>(_: &T) {}
    let (mut rig, _) = filled(&[SEGMENT_BYTES as usize / 3; 9]);
    let mut reader = rig.wal.reader(Lsn(0));
    is_static::<Reader>(&reader);
    let _: fn(&MemFile) = |_| ();
    // Half way through a read the log goes on.
    let mut reading = Box::pin(reader.next());
    let waker = std::task::Waker::noop();
    let _ = reading.as_mut().poll(&mut std::task::Context::from_waker(waker));
    rig.commit(b"beside it");
}
