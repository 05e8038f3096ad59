//! Random appends, completions, trims, crashes and restarts, against a plain model of what a log promises.
//!
//! After any restart, what is recovered is a stretch of what was appended, in order: it begins no later
//! than the oldest record that was not given up, ends no earlier than the last that was acknowledged,
//! ends between groups, and contains nothing else. A crash keeps, loses or tears (at 512 bytes) any
//! subset of the unsynced writes and any subset of the unsynced names.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, SEGMENT_BYTES, Task, batches, numbered, open, options, segments, summary};
use coracle_wal::mem::MemDisk;
use coracle_wal::{Lsn, OpenError, Options, Record};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Appends a group of so many records of so many bytes.
    Append { records: usize, len: usize },
    /// Lets the driver run.
    Pump,
    /// Completes one of the waiting operations, then lets the driver run.
    Complete(usize),
    /// Gives up so many percent of the records.
    Trim(usize),
    /// The process dies and starts again; the page cache survives.
    Restart,
    /// Power is cut; this seed decides what survives.
    Crash(u64),
    /// Power is cut so many completions into an opening.
    CrashWhileOpening { after: usize, seed: u64 },
    /// All that waits completes.
    Settle,
    /// Sealed segments get summaries.
    Summarize,
    /// An orderly end, and a start.
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6_usize, 0..9000_usize).prop_map(|(records, len)| Step::Append { records, len }),
        6 => Just(Step::Pump),
        12 => any::<usize>().prop_map(Step::Complete),
        2 => (0..100_usize).prop_map(Step::Trim),
        1 => Just(Step::Restart),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => (0..30_usize, any::<u64>()).prop_map(|(after, seed)| Step::CrashWhileOpening { after, seed }),
        3 => Just(Step::Settle),
        5 => Just(Step::Summarize),
        1 => Just(Step::Close),
    ]
}

/// Choices of a crash, from a seed.
fn chooser(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed | 1;
    // Some crashes lose all, some nothing, most something.
    let mood = seed % 8;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match mood {
            0 => 0,
            1 => 1.min(below - 1),
            _ => (state >> 33) as u32 % below,
        }
    }
}

/// What was appended since the log began.
#[derive(Default)]
struct Model {
    records: Vec<Vec<u8>>,
    lsns: Vec<Lsn>,
    /// Batches that they are in.
    batches: Vec<Lsn>,
    /// Counts of records at which a group ends.
    group_ends: Vec<usize>,
    next: u64,
    trimmed: Lsn,
    acknowledged: usize,
}

impl Model {
    fn append(&mut self, rig: &Rig, records: usize, len: usize) {
        let bodies: Vec<Vec<u8>> = (0..records as u64)
            .map(|i| {
                let len = 8 + (len + i as usize * 37) % 9000;
                numbered(self.next + i, len)
            })
            .collect();
        let group: Vec<Record<'_>> = bodies
            .iter()
            .map(|body| Record { stream: 3, kind: 1, head: &body[..4], body: &body[4..] })
            .collect();
        // Numbers are never used again, so that a record that comes back from the dead is noticed.
        self.next += records as u64;
        if let Ok(coracle_wal::Appended { end: lsn, batch }) = rig.wal.append(&group) {
            self.lsns.extend(std::iter::repeat_n(lsn, records));
            self.batches.extend(std::iter::repeat_n(batch, records));
            self.records.extend(bodies);
            self.group_ends.push(self.records.len());
        }
    }

    /// Gives every segment that was sealed a summary of its records.
    fn summarize(&self, rig: &Rig) {
        while let Some(segment) = rig.wal.take_sealed() {
            let from = self.batches.partition_point(|batch| *batch < segment.start);
            let to = self.batches.partition_point(|batch| *batch < segment.end);
            let payloads = self.records[from..to].iter().map(Vec::as_slice);
            let records = payloads.zip(self.lsns[from..to].iter().copied());
            rig.wal.summarize(segment.sequence, summary(segment.sequence, records));
        }
    }

    fn acknowledge(&mut self, durable: Lsn) {
        let acknowledged = self.lsns.partition_point(|lsn| *lsn <= durable);
        assert!(acknowledged >= self.acknowledged, "acknowledgements are not taken back");
        self.acknowledged = acknowledged;
    }

    /// Checks what was recovered, and goes on from there.
    fn check(&mut self, rig: &Rig) {
        let found = rig.payloads();
        let start = match found.first() {
            Some(first) => {
                self.records.iter().position(|record| record == first).expect("it was appended")
            }
            None => self.records.len().min(self.lsns.partition_point(|lsn| *lsn < self.trimmed)),
        };
        let end = start + found.len();
        let given_up = self.lsns.partition_point(|lsn| *lsn < self.trimmed);
        assert!(start <= given_up, "{start} of {given_up} given up");
        assert!(end <= self.records.len(), "more was found than appended");
        assert!(found == self.records[start..end], "what was found is not what was appended");
        assert!(end >= self.acknowledged, "{end} found, {} acknowledged", self.acknowledged);
        assert!(end == 0 || self.group_ends.contains(&end), "a group is torn at {end}");
        self.records.truncate(end);
        self.group_ends.retain(|group_end| *group_end <= end);
        // What was found is promised from here on, like what was acknowledged.
        self.acknowledged = end;
        self.lsns.truncate(end);
        self.batches.truncate(end);
        for (lsn, found) in self.lsns[start..].iter_mut().zip(&rig.found) {
            assert!(found.lsn <= *lsn, "a record lies at or before the end of its group");
            *lsn = (*lsn).max(found.lsn);
        }
    }
}

fn reopen(disk: &MemDisk, options: &Options, model: &mut Model) -> Rig {
    disk.hold(false);
    let rig = Rig::open_with(disk, options.clone())
        .unwrap_or_else(|error| panic!("a crash is no damage: {error}"));
    model.check(&rig);
    disk.hold(true);
    rig
}

fn run(steps: &[Step], options: &Options) {
    let mut model = Model::default();
    let mut rig = reopen(&MemDisk::new(), options, &mut model);
    for step in steps {
        match step {
            Step::Append { records, len } => model.append(&rig, *records, *len),
            Step::Pump => {
                rig.driver.pump();
            }
            Step::Complete(pick) => {
                let held = rig.disk.held();
                if held > 0 {
                    rig.disk.release(pick % held);
                }
                rig.driver.pump();
            }
            Step::Trim(percent) => {
                if let Some(lsn) = model.lsns.get(model.lsns.len() * percent / 100) {
                    // The log does not give up what is not durable.
                    model.trimmed = model.trimmed.max((*lsn).min(rig.wal.durable()));
                    rig.wal.trim(*lsn);
                }
            }
            Step::Restart => {
                let disk = rig.disk.clone();
                drop(rig);
                rig = reopen(&disk, options, &mut model);
            }
            Step::Crash(seed) => {
                let disk = rig.disk.crash(&mut chooser(*seed));
                rig = reopen(&disk, options, &mut model);
            }
            Step::CrashWhileOpening { after, seed } => {
                let disk = rig.disk.crash(&mut chooser(seed.rotate_left(9)));
                disk.hold(true);
                let mut task = Task::new(open(disk.clone(), options.clone()));
                for _ in 0..*after {
                    if task.pump() || disk.held() == 0 {
                        break;
                    }
                    disk.release(0);
                }
                if let Some(opened) = task.result.take() {
                    model.check(&Rig::from_opened(&disk, opened).unwrap());
                }
                rig = reopen(&disk.crash(&mut chooser(*seed)), options, &mut model);
            }
            Step::Settle => {
                while rig.disk.held() > 0 {
                    rig.disk.release(0);
                    rig.driver.pump();
                }
            }
            Step::Summarize => {
                model.summarize(&rig);
                rig.driver.pump();
            }
            Step::Close => {
                rig.disk.hold(false);
                while rig.disk.held() > 0 {
                    rig.disk.release(0);
                }
                let disk = rig.disk.clone();
                let wal = rig.wal.clone();
                rig.close();
                model.acknowledge(wal.durable());
                rig = reopen(&disk, options, &mut model);
            }
        }
        assert_eq!(rig.wal.failure(), None);
        model.acknowledge(rig.wal.durable());
    }
    let disk = rig.disk.crash(&mut chooser(0));
    reopen(&disk, options, &mut model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_crash_keeps_what_was_acknowledged(
        steps in prop::collection::vec(step(), 1..120),
        budget in 0..8_u64,
        archive in any::<bool>(),
    ) {
        let mut options = options();
        options.log_bytes_max = if budget < 3 { 0 } else { budget * SEGMENT_BYTES };
        options.archive = archive;
        run(&steps, &options);
    }

    /// One flipped byte in any batch that a later one vouches for is reported, never cut off.
    #[test]
    fn rot_below_the_durable_position_is_never_cut(
        lens in prop::collection::vec(0..9000_usize, 3..40),
        pick in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        crash in any::<u64>(),
    ) {
        let disk = MemDisk::new();
        let mut rig = Rig::open(&disk).unwrap();
        for len in &lens {
            rig.commit(&vec![5; *len]);
        }
        let disk = disk.crash(&mut chooser(crash));
        let all: Vec<_> = segments(&disk)
            .into_iter()
            .flat_map(|name| batches(&disk, &name).into_iter().map(move |batch| (name.clone(), batch)))
            .collect();
        // Each batch was durable before the next was submitted: only the last has no witness.
        let (name, batch) = &all[pick.index(all.len() - 1)];
        disk.corrupt(name, batch.offset + byte.index(batch.bytes as usize) as u64, 1);
        prop_assert!(matches!(Rig::open(&disk), Err(OpenError::Damaged(_))));
    }
}
