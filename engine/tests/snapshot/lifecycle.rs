//! A snapshot's life without crashes.

use coracle_wal::mem::{MemDisk, run_to_end};

use crate::support::*;

#[test]
fn what_was_written_is_read_also_after_a_restart() {
    let disk = MemDisk::new();
    let (store, inventory) = open(&disk);
    assert!(inventory.snapshots.is_empty() && inventory.problems.is_empty());
    let snapshot = id(3, 17);
    run_to_end(async {
        assert!(store.newest(snapshot.shard).is_none());
        let written = write(&store, snapshot, 40).await.expect("it is written");
        assert_eq!(*written, manifest(snapshot, 40));
        assert_eq!(store.newest(snapshot.shard), Some(written));
        assert_eq!(read(&store, snapshot).await, Ok(chunks(snapshot, 40)));
        assert_eq!(store.disk_bytes(), disk.used());
    });
    let (store, inventory) = open(&disk);
    assert_eq!(inventory.snapshots.len(), 1);
    assert!(inventory.problems.is_empty() && inventory.removed.is_empty());
    assert_eq!(store.disk_bytes(), disk.used());
    let reader = run_to_end(store.reader(snapshot)).expect("it is there");
    for (number, chunk) in chunks(snapshot, 40).iter().enumerate() {
        let buf = run_to_end(reader.chunk(number as u32)).expect("it is whole");
        assert_eq!(buf[..chunk.len()], chunk[..]);
    }
}

#[test]
fn what_was_received_is_read() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let snapshot = id(3, 17);
    run_to_end(async {
        receive(&store, snapshot, 40).await.expect("it is received");
        assert_eq!(read(&store, snapshot).await, Ok(chunks(snapshot, 40)));
        assert_eq!(store.unfinished(snapshot.shard), None);
    });
    let (store, inventory) = open(&disk);
    assert_eq!(*inventory.snapshots[0], manifest(snapshot, 40));
    assert_eq!(run_to_end(read(&store, snapshot)), Ok(chunks(snapshot, 40)));
}
