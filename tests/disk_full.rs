//! A full disk: writes are refused with an error, reads are served, and when space returns, writes
//! go on. Needs root, because it mounts a file system of its own.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::time::Duration;

use support::client::Outcome;
use support::cluster::Dev;
use support::resp::Reply;
use support::small_disk::SmallDisk;
use support::wait::{self, SOON};

/// Small enough to fill in seconds, large enough for a node's first segments.
const DISK_BYTES: u64 = 768 << 20;

const VALUE_BYTES: usize = 256 << 10;

#[test]
fn a_full_disk_refuses_writes_until_space_returns() {
    let disk = match SmallDisk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(reason) => {
            return wait::skip("a_full_disk_refuses_writes_until_space_returns", &reason);
        }
    };
    let directory = disk.path().join("data");
    let arguments = ["--nodes", "1", "--shards", "4", "--data-dir", directory.to_str().unwrap()];
    let dev = Dev::start(&arguments);
    let mut client = dev.client(1);
    client.set("kept", "yes", SOON).unwrap();

    let filler = disk.fill();
    let value = "x".repeat(VALUE_BYTES);
    let mut acknowledged = 0;
    let most = DISK_BYTES / VALUE_BYTES as u64;
    let error = loop {
        match client.set(&format!("large-{acknowledged}"), &value, Duration::from_secs(1)) {
            Outcome::Done(_) => acknowledged += 1,
            Outcome::Refused(error) | Outcome::Unknown(error) => break error,
        }
        assert!(acknowledged <= most, "more was acknowledged than the disk can hold");
    };
    println!("after {acknowledged} large values: {error}");
    assert!(error.to_lowercase().contains("space"), "{error}");
    for key in ["kept", "large-0"] {
        assert!(matches!(client.get(key, SOON).unwrap(), Reply::Bulk(_)), "{key} is not served");
    }

    fs::remove_file(filler).unwrap();
    wait::until("writes to go on", SOON, || {
        match client.set("after", "yes", Duration::from_millis(500)) {
            Outcome::Done(_) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let (ended, place) = dev.end(libc::SIGTERM);
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.output);

    let dev = Dev::start_at(place, &arguments);
    let mut client = dev.client(1);
    for key in ["kept", "after"] {
        assert_eq!(client.get(key, SOON).unwrap(), Reply::Bulk(b"yes".to_vec()), "{key}");
    }
    for number in 0..acknowledged {
        let key = format!("large-{number}");
        let Reply::Bulk(found) = client.get(&key, SOON).unwrap() else { panic!("{key} is lost") };
        assert_eq!(found.len(), VALUE_BYTES, "{key}");
    }
}
