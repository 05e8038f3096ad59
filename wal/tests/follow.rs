//! A follower sees exactly what recovery would find after a power cut, at every moment of a log's life.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rig, options};
use coracle_wal::follow::{DurableFiles, FollowError, Follower};
use coracle_wal::limits::BLOCK_BYTES;
use coracle_wal::mem::{MemDisk, run_to_end};
use coracle_wal::{Disk, Options};

/// What a power cut leaves of a disk at least.
struct Image(Vec<(String, Vec<u8>)>);

impl Image {
    fn of(disk: &MemDisk) -> Self {
        let left = disk.crash(&mut |_| 0);
        let mut names = run_to_end(left.list()).unwrap();
        names.sort();
        let files = names.into_iter().map(|name| {
            let bytes = left.contents(&name).unwrap();
            (name, bytes)
        });
        Self(files.collect())
    }
}

/// Names do here for numbers: no segment is renamed while it is read.
fn number(name: &str) -> u32 {
    name.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

impl DurableFiles for Image {
    fn files(&self) -> Vec<(String, u32)> {
        self.0.iter().map(|(name, _)| (name.clone(), number(name))).collect()
    }

    fn read(&self, file: u32, position: u64, buf: &mut [u8]) -> usize {
        let found = self.0.iter().find(|(name, _)| number(name) == file);
        let Some((_, bytes)) = found else { return 0 };
        let from = bytes.len().min(position as usize);
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        len
    }
}

struct Watched {
    follower: Follower,
    seen: Vec<Vec<u8>>,
}

impl Watched {
    fn new() -> Self {
        Self { follower: Follower::new(options().log_id), seen: Vec::new() }
    }

    fn look(&mut self, disk: &MemDisk) -> Result<u64, FollowError> {
        let image = Image::of(disk);
        self.follower.refresh(&image);
        self.follower.advance(&image, &mut |record| self.seen.push(record.payload.to_vec()))
    }
}

/// Deterministic numbers (Knuth's generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn small_batches() -> Options {
    let mut options = options();
    options.batch_bytes_max = 4 * BLOCK_BYTES;
    options
}

/// One life of a log: appends and completions in any order, then a power cut that keeps any part of
/// what was in flight. Returns the disk after it.
fn live(disk: &MemDisk, watched: &mut Watched, numbers: &mut Numbers) -> MemDisk {
    let mut rig = Rig::open_with(disk, small_batches()).unwrap();
    assert_eq!(watched.look(disk), Ok(u64::from(true)), "the batch that begins this life");
    let found: Vec<_> = rig.found.iter().map(|record| record.payload.clone()).collect();
    assert_eq!(watched.seen, found, "recovery finds what the follower has seen");
    disk.hold(true);
    for _ in 0..numbers.below(60) {
        match numbers.below(3) {
            0 => {
                let payload = vec![numbers.below(256) as u8; numbers.below(9000) as usize];
                let _ = rig.append(&payload);
            }
            _ if disk.held() > 0 => {
                let pick = numbers.below(disk.held() as u64) as usize;
                disk.release(pick);
            }
            _ => {}
        }
        rig.driver.pump();
        watched.look(disk).unwrap();
        let durable = rig.wal.durable();
        assert!(watched.follower.end() >= durable, "{durable} is said to be durable");
        let left = Rig::open_with(&disk.crash(&mut |_| 0), small_batches()).unwrap();
        let found: Vec<_> = left.found.iter().map(|record| record.payload.clone()).collect();
        assert_eq!(watched.seen, found);
    }
    let after = disk.crash(&mut |bound| numbers.below(u64::from(bound)) as u32);
    watched.look(&after).unwrap();
    after
}

#[test]
fn it_sees_what_recovery_finds() {
    for seed in 0..40 {
        let mut numbers = Numbers(seed);
        let mut watched = Watched::new();
        let mut disk = MemDisk::new();
        for _ in 0..4 {
            disk = live(&disk, &mut watched, &mut numbers);
        }
        assert!(watched.follower.batches() > 4);
    }
}

#[test]
fn a_start_that_cuts_off_durable_batches_is_noticed() {
    let disk = MemDisk::new();
    let mut rig = Rig::open(&disk).unwrap();
    rig.commit(b"one");
    let before = disk.crash(&mut |_| 0);
    rig.commit(b"two");
    let mut watched = Watched::new();
    assert_eq!(watched.look(&disk), Ok(3));
    // The second life knows nothing of what the first made durable last.
    let _second = Rig::open(&before).unwrap();
    assert!(
        matches!(watched.look(&before), Err(FollowError::Rewound { sequence, .. }) if sequence > 1)
    );
}
