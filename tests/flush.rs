//! No write is acknowledged before a flush of the device that came after it.
//!
//! The node runs on a disk of its own, whose kernel counts the flushes. One client writes, one
//! request after the other: each acknowledgement needs a flush that no other one had. Needs root,
//! because it mounts that disk.
#![allow(clippy::unwrap_used)]

mod support;

use support::cluster::Dev;
use support::small_disk::SmallDisk;
use support::wait::{self, SOON};

const DISK_BYTES: u64 = 768 << 20;

const WRITES: u64 = 500;

#[test]
fn every_acknowledged_write_had_a_flush() {
    let disk = match SmallDisk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(reason) => return wait::skip("every_acknowledged_write_had_a_flush", &reason),
    };
    let directory = disk.path().join("data");
    let arguments = ["--nodes", "1", "--shards", "1", "--data-dir", directory.to_str().unwrap()];
    let dev = Dev::start(&arguments);
    let mut client = dev.client(1);
    let before = disk.flushes();
    for number in 0..WRITES {
        client.set("key", &number.to_string(), SOON).unwrap();
    }
    let flushes = disk.flushes() - before;
    println!("{flushes} flushes for {WRITES} writes");
    assert!(flushes >= WRITES, "{flushes} flushes for {WRITES} acknowledged writes");
}
