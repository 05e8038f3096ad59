//! A snapshot's life without crashes.

use coracle_engine::LogIndex;
use coracle_engine::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use coracle_engine::raft::membership::Configuration;
use coracle_engine::snapshot::{ReadError, SnapshotId, SnapshotStore, WriteError};
use coracle_wal::AlignedBuf;
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
        assert_whole(&store, snapshot, 40);
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
        assert_whole(&store, snapshot, 40);
        assert_eq!(store.unfinished(snapshot.shard), None);
    });
    let (store, inventory) = open(&disk);
    assert_eq!(*inventory.snapshots[0], manifest(snapshot, 40));
    assert_whole(&store, snapshot, 40);
}

#[test]
fn an_empty_state_is_a_snapshot_too() {
    let disk = MemDisk::new();
    run_to_end(async {
        let (store, _) = SnapshotStore::open(disk.clone(), LOG_ID).await.unwrap();
        write(&store, id(1, 1), 0).await.unwrap();
        receive(&store, id(2, 1), 0).await.unwrap();
    });
    let (store, inventory) = open(&disk);
    assert_eq!(inventory.snapshots.len(), 2);
    assert_eq!(run_to_end(read(&store, id(1, 1))), Ok(Vec::new()));
}

#[test]
fn chunks_of_the_largest_size_go_through_the_buffers_that_come_back() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 1);
    let fill = |buf: &mut [u8], number: u32| buf.fill(number as u8 + 1);
    run_to_end(async {
        let mut writer = store.create(new).await.unwrap();
        assert_eq!(writer.id(), new);
        for number in 0..7 {
            let mut buf = writer.buffer();
            assert_eq!(buf.len(), SNAPSHOT_CHUNK_BYTES_MAX);
            fill(&mut buf, number);
            writer.put(buf, SNAPSHOT_CHUNK_BYTES_MAX - number as usize).await.unwrap();
        }
        let manifest = writer.finish(voters()).await.unwrap();
        assert_eq!(manifest.file_bytes(), 7 * SNAPSHOT_CHUNK_BYTES_MAX as u64);
        // At most an eighth too much was allocated.
        assert!(disk.used() <= manifest.file_bytes() * 9 / 8 + 4096, "{}", disk.used());
        let reader = store.reader(new).await.unwrap();
        let mut buf = AlignedBuf::zeroed(manifest.buffer_bytes());
        for number in 0..7 {
            let (len, returned) = reader.read(number, buf).await;
            buf = returned;
            let len = len.unwrap();
            assert_eq!(len, SNAPSHOT_CHUNK_BYTES_MAX - number as usize);
            assert!(buf[..len].iter().all(|byte| *byte == number as u8 + 1));
            // A buffer that was used before leaves nothing of its old content on the disk.
            assert!(buf[len..].iter().all(|byte| *byte == 0));
        }
        assert!(matches!(reader.read(7, buf).await.0, Err(ReadError::Unknown { number: 7, .. })));
        assert!(matches!(reader.chunk(u32::MAX).await, Err(ReadError::Unknown { .. })));
        assert_eq!(reader.manifest().id, new);
    });
}

#[test]
fn only_newer_snapshots_are_taken() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(async {
        let (newest, older) = (id(1, 20), id(1, 10));
        write(&store, newest, 3).await.unwrap();
        let exists = WriteError::Exists { id: newest };
        assert_eq!(store.create(newest).await.unwrap_err(), exists);
        assert_eq!(store.receive(manifest(newest, 3)).await.unwrap_err(), exists);
        let outdated = WriteError::Outdated { id: older, newest };
        assert_eq!(store.create(older).await.unwrap_err(), outdated);
        assert_eq!(store.receive(manifest(older, 3)).await.unwrap_err(), outdated);
        // Another shard's index says nothing.
        write(&store, id(2, 10), 3).await.unwrap();
        let nowhere = SnapshotId { index: LogIndex(0), ..newest };
        let error = store.create(nowhere).await.unwrap_err();
        assert!(matches!(error, WriteError::Impossible { .. }), "{error}");
    });
}

#[test]
fn one_writer_and_one_receiver_at_a_time() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(async {
        let (first, second) = (id(1, 20), id(1, 30));
        let busy = |id, busy| WriteError::Busy { id, busy };
        let writer = store.create(first).await.unwrap();
        assert_eq!(store.create(second).await.unwrap_err(), busy(second, first));
        assert_eq!(store.receive(manifest(first, 3)).await.unwrap_err(), busy(first, first));
        let receiver = store.receive(manifest(second, 3)).await.unwrap();
        assert_eq!(
            store.receive(manifest(id(1, 40), 3)).await.unwrap_err(),
            busy(id(1, 40), second)
        );
        drop(writer);
        assert_eq!(store.create(second).await.unwrap_err(), busy(second, second));
        // Not busy any more: the own snapshot takes the place of the unfinished one.
        drop(receiver);
        write(&store, second, 3).await.unwrap();
        assert_eq!(store.unfinished(second.shard), None);
        assert_eq!(names(&disk), [name(second, "chunks"), name(second, "manifest")]);
    });
}

#[test]
fn what_is_overtaken_meanwhile_is_given_up() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(async {
        let (slow, fast) = (id(1, 20), id(1, 30));
        let writer = store.create(slow).await.unwrap();
        receive(&store, fast, 3).await.unwrap();
        let error = writer.finish(voters()).await.unwrap_err();
        assert_eq!(error, WriteError::Outdated { id: slow, newest: fast });
        let (slow, fast) = (id(1, 40), id(1, 50));
        let receiver = store.receive(manifest(slow, 0)).await.unwrap();
        write(&store, fast, 3).await.unwrap();
        let error = receiver.finish().await.unwrap_err();
        assert_eq!(error, WriteError::Outdated { id: slow, newest: fast });
        store.remove_older(fast.shard).await.unwrap();
        assert_eq!(names(&disk), [name(fast, "chunks"), name(fast, "manifest")]);
    });
}

#[test]
fn a_dropped_writer_leaves_garbage_that_goes_with_the_next_change() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(async {
        for round in 0..3 {
            let mut writer = store.create(id(1, 20)).await.unwrap();
            for chunk in chunks(id(1, 20), 5) {
                let mut buf = writer.buffer();
                buf[..chunk.len()].copy_from_slice(&chunk);
                writer.put(buf, chunk.len()).await.unwrap();
            }
            match round {
                0 => drop(writer),
                1 => writer.abandon().await,
                _ => drop(writer.finish(Configuration::default()).await.unwrap_err()),
            }
            assert_eq!(names(&disk).is_empty(), round > 0);
            assert_eq!(store.disk_bytes(), disk.used());
        }
        drop(store.create(id(1, 20)).await.unwrap());
        store.remove_older(id(3, 1).shard).await.unwrap();
        assert!(names(&disk).is_empty());
    });
}

#[test]
fn an_older_snapshot_stays_as_long_as_it_is_pinned() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let (old, new) = (id(1, 10), id(1, 20));
    run_to_end(async {
        write(&store, old, 5).await.unwrap();
        assert!(store.pin(new).is_none());
        let pin = store.pin(old).unwrap();
        assert_eq!(pin.id(), old);
        let reader = store.reader(old).await.unwrap();
        let mut sequential = reader.sequential(2);
        write(&store, new, 5).await.unwrap();
        assert_eq!(store.remove_older(old.shard).await, Ok(0));
        drop(pin);
        assert_eq!(store.remove_older(old.shard).await, Ok(0), "the reader pins it too");
        drop(reader);
        assert_eq!(store.remove_older(old.shard).await, Ok(0), "and so does who reads ahead");
        let piece = sequential.next().await.unwrap().unwrap();
        assert_eq!((piece.number, piece.bytes()), (2, &chunks(old, 5)[2][..]));
        drop(sequential);
        assert!(store.manifest(old).is_some());
        assert!(store.remove_older(old.shard).await.unwrap() > 0);
        assert!(store.manifest(old).is_none());
        assert_eq!(store.reader(old).await.unwrap_err(), ReadError::Missing { id: old });
        assert_eq!(names(&disk), [name(new, "chunks"), name(new, "manifest")]);
    });
}

#[test]
fn a_discarded_snapshot_goes_when_nobody_reads_it() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let (old, new) = (id(1, 10), id(1, 20));
    run_to_end(async {
        write(&store, old, 5).await.unwrap();
        write(&store, new, 5).await.unwrap();
        let pin = store.pin(new).unwrap();
        store.discard(new).await.unwrap();
        assert_eq!(store.newest(new.shard).unwrap().id, old);
        assert!(store.pin(new).is_none(), "nobody begins to read it");
        let busy = store.create(new).await.unwrap_err();
        assert_eq!(busy, WriteError::Busy { id: new, busy: new });
        assert!(names(&disk).contains(&name(new, "chunks")));
        drop(pin);
        write(&store, new, 7).await.unwrap();
        assert_whole(&store, new, 7);
    });
}

#[test]
fn a_reception_goes_on_in_the_same_process() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 20);
    run_to_end(async {
        let mut receiver = store.receive(manifest(new, 9)).await.unwrap();
        put(&mut receiver, 8, &chunks(new, 9)[8]).await.unwrap();
        drop(receiver);
        let used = store.disk_bytes();
        assert!(used >= manifest(new, 9).file_bytes(), "its space is reserved");
        let receiver = store.receive(manifest(new, 9)).await.unwrap();
        assert_eq!(receiver.missing_count(), 8);
        drop(receiver);
        // The same snapshot in other chunks is another reception.
        let receiver = store.receive(manifest(new, 8)).await.unwrap();
        assert_eq!(receiver.missing_count(), 8);
        assert_eq!(receiver.missing().count(), 8);
        drop(receiver);
        receive(&store, new, 9).await.unwrap();
        assert_eq!(store.remove_older(new.shard).await, Ok(0));
    });
    assert_eq!(names(&disk), [name(new, "chunks"), name(new, "manifest")]);
}

/// Drops a task of the store at each of its waits: what follows must find its way, whatever was left half done.
#[test]
fn tasks_that_are_dropped_in_the_middle_harm_nobody() {
    let (old, new, later) = (id(1, 10), id(1, 20), id(1, 30));
    for what in 0..3 {
        for waits in 0.. {
            let disk = MemDisk::new();
            let (store, _) = open(&disk);
            run_to_end(write(&store, old, 3)).unwrap();
            if what == 2 {
                run_to_end(write(&store, new, 3)).unwrap();
            }
            let task = async {
                match what {
                    0 => write(&store, new, 3).await.map(drop),
                    1 => receive(&store, new, 3).await.map(drop),
                    _ => store.remove_older(new.shard).await.map(drop),
                }
            };
            let ended = step_some(&disk, task, waits);
            let newest = store.newest(old.shard).unwrap().id;
            assert_whole(&store, newest, 3);
            let result = run_to_end(async {
                receive(&store, later, 4).await?;
                store.remove_older(later.shard).await
            });
            let store = match result {
                Ok(_) => store,
                Err(error) => {
                    // Only in the middle of the renaming.
                    assert!(matches!(error, WriteError::Latched { .. }) && what < 2, "{error}");
                    let (store, inventory) = open(&disk);
                    assert!(inventory.problems.is_empty(), "{inventory:?}");
                    run_to_end(write(&store, later, 4)).unwrap();
                    run_to_end(store.remove_older(later.shard)).unwrap();
                    store
                }
            };
            assert_eq!(names(&disk), [name(later, "chunks"), name(later, "manifest")]);
            assert_eq!(store.disk_bytes(), disk.used());
            for seed in 0..8 {
                let (store, inventory) = open(&disk.crash(&mut chooser(seed)));
                assert!(inventory.problems.is_empty(), "{inventory:?}");
                assert_whole(&store, later, 4);
            }
            if ended {
                break;
            }
        }
    }
}
