//! Operations fail, one at a time: the disk is full, or broken. The old snapshot stays, the new one is there only if it
//! was said to be, and what was given up leaves nothing behind.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;

use coracle_engine::snapshot::{Manifest, SnapshotId, WriteError};
use coracle_wal::mem::{Fate, MemDisk, Operation, run_to_end};

use crate::support::*;

const COUNT: usize = 9;

/// Makes the operation number `at` from now on fail; returns how many were met.
fn fail_at(
    disk: &MemDisk,
    at: usize,
    kind: ErrorKind,
    only: fn(Operation) -> bool,
) -> Rc<Cell<usize>> {
    let met = Rc::new(Cell::new(0));
    let counter = met.clone();
    disk.on_operation(move |operation| {
        if !only(operation) {
            return Fate::Succeed;
        }
        counter.set(counter.get() + 1);
        if counter.get() == at + 1 { Fate::Fail(kind) } else { Fate::Succeed }
    });
    met
}

/// Runs `what` with each of its operations failing in turn, and checks the old and the new snapshot, before and
/// after a crash. Returns the errors.
fn each_operation_fails(
    kind: ErrorKind,
    only: fn(Operation) -> bool,
    what: impl AsyncFn(&Store, SnapshotId) -> Result<Rc<Manifest>, WriteError>,
) -> Vec<WriteError> {
    let (old, new) = (id(1, 10), id(1, 20));
    let mut errors = Vec::new();
    for at in 0.. {
        let disk = MemDisk::new();
        let (store, _) = open(&disk);
        run_to_end(write(&store, old, COUNT)).unwrap();
        let met = fail_at(&disk, at, kind, only);
        let result = run_to_end(what(&store, new));
        let met = met.get();
        disk.on_operation(|_| Fate::Succeed);
        let newest = store.newest(new.shard).unwrap().id;
        assert_eq!(newest, if result.is_ok() { new } else { old }, "operation {at}");
        assert_whole(&store, newest, COUNT);
        assert_eq!(store.disk_bytes(), disk.used(), "operation {at}: {result:?}");
        let latched = matches!(result, Err(WriteError::Latched { .. }));
        for seed in 0..8 {
            let after = disk.crash(&mut chooser(seed));
            let (store, inventory) = open(&after);
            assert!(inventory.problems.is_empty(), "operation {at}: {inventory:?}");
            let survivor = store.newest(new.shard).unwrap().id;
            assert!(survivor == newest || latched && survivor == new, "operation {at}, {result:?}");
            assert_whole(&store, survivor, COUNT);
        }
        let Err(error) = result else {
            if met <= at {
                return errors;
            }
            continue;
        };
        if latched {
            assert_eq!(run_to_end(write(&store, new, COUNT)), Err(error.clone()));
            assert_eq!(run_to_end(store.remove_older(new.shard)), Err(error.clone()));
        } else {
            // It can be begun again, with a new file.
            run_to_end(write(&store, new, COUNT)).unwrap();
            run_to_end(store.remove_older(new.shard)).unwrap();
            assert_eq!(names(&disk), [name(new, "chunks"), name(new, "manifest")]);
        }
        errors.push(error);
    }
    errors
}

#[test]
fn a_broken_disk_while_writing() {
    let errors = each_operation_fails(
        ErrorKind::Other,
        |_| true,
        async |store, id| write(store, id, COUNT).await,
    );
    let io = errors.iter().filter(|error| matches!(error, WriteError::Io { .. })).count();
    let latched = errors.iter().filter(|error| matches!(error, WriteError::Latched { .. })).count();
    // The creations, allocations, writes and syncs of two files; then names.
    assert!(io > COUNT + 5, "{errors:?}");
    assert!(latched >= 3, "{errors:?}");
}

#[test]
fn a_broken_disk_while_receiving() {
    let errors = each_operation_fails(
        ErrorKind::Other,
        |_| true,
        async |store, id| receive(store, id, COUNT).await,
    );
    let io = errors.iter().filter(|error| matches!(error, WriteError::Io { .. })).count();
    assert!(io > COUNT + 5, "{errors:?}");
}

#[test]
fn a_disk_that_is_full_for_a_moment() {
    let grows = |operation| {
        use Operation::{Allocate, Create, Write, WriteDurable};
        matches!(operation, Create | Allocate | Write | WriteDurable)
    };
    for receiving in [false, true] {
        let errors = each_operation_fails(ErrorKind::StorageFull, grows, async |store, id| {
            store_it(store, id, COUNT, receiving).await
        });
        assert!(errors.len() > COUNT, "{errors:?}");
        for error in errors {
            assert!(matches!(error, WriteError::NoRoom { .. }), "{error}");
        }
    }
}

/// Receives a snapshot, or writes it.
async fn store_it(
    store: &Store,
    id: SnapshotId,
    count: usize,
    receiving: bool,
) -> Result<Rc<Manifest>, WriteError> {
    if receiving { receive(store, id, count).await } else { write(store, id, count).await }
}

/// A store with one snapshot, and the id of the next one.
fn beside_an_old_one() -> (MemDisk, Store, SnapshotId) {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(write(&store, id(1, 10), COUNT)).unwrap();
    (disk, store, id(1, 20))
}

#[test]
fn a_full_disk_gives_back_what_was_taken() {
    let (disk, store, new) = beside_an_old_one();
    let used = disk.used();
    for room in [0, 4096, 20_000, 40_000, 80_000] {
        disk.set_capacity(Some(used + room));
        for receiving in [false, true] {
            let result = run_to_end(store_it(&store, new, 30, receiving));
            assert!(matches!(result, Err(WriteError::NoRoom { .. })), "{room}: {result:?}");
            assert_eq!(disk.used(), used, "what was written was removed");
            assert_eq!(store.disk_bytes(), used);
            assert_eq!(store.unfinished(new.shard), None);
        }
    }
    disk.set_capacity(None);
    run_to_end(write(&store, new, 30)).unwrap();
}

#[test]
fn a_quota_is_kept_at_every_moment() {
    let (disk, store, new) = beside_an_old_one();
    let used = store.disk_bytes();
    let most = Rc::new(Cell::new(0));
    let (limit, there) = (most.clone(), disk.clone());
    store.limit(Box::new(move |before, after| {
        assert!(there.used() <= before, "{} are there, not {before}", there.used());
        assert!(after > before, "{after} after {before}");
        after <= limit.get()
    }));
    for receiving in [false, true] {
        let mut room = 0;
        // Until there is room for all of it.
        loop {
            most.set(used + room);
            match run_to_end(store_it(&store, new, 30, receiving)) {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, WriteError::NoRoom { .. }), "{error}"),
            }
            assert_eq!(disk.used(), used, "what was written was removed");
            assert_eq!((store.disk_bytes(), store.writing_bytes()), (used, 0));
            assert_eq!(store.unfinished(new.shard), None);
            room += 8192;
        }
        assert!(room > 100_000, "{room}");
        run_to_end(store.discard(new)).unwrap();
        assert_eq!(store.disk_bytes(), used);
    }
}

#[test]
fn a_failed_write_is_never_tried_again() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 20);
    run_to_end(async {
        let mut receiver = store.receive(manifest(new, COUNT)).await.unwrap();
        fail_at(&disk, 0, ErrorKind::Other, |operation| operation == Operation::Write);
        let mut first = None;
        for (number, chunk) in chunks(new, COUNT).iter().enumerate() {
            let result = put(&mut receiver, number as u32, chunk).await;
            if let (Err(error), None) = (&result, &first) {
                first = Some(error.clone());
            }
            assert_eq!(result.err(), first, "the first failure is told again and again");
        }
        assert!(first.is_some());
        assert!(receiver.sync().await.is_err());
        assert!(receiver.finish().await.is_err());
        assert!(names(&disk).is_empty());
        // From the beginning, with a new file.
        let again = store.receive(manifest(new, COUNT)).await.unwrap();
        assert_eq!(again.missing_count(), COUNT);
    });
}

/// Writes of a dropped receiver were in flight: one fails unseen, after its bytes reached the cache. Who goes on must
/// not take what he reads there for written.
#[test]
fn a_write_that_failed_unseen_is_not_believed() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 20);
    let bytes = chunks(new, COUNT);
    let mut receiver = run_to_end(store.receive(manifest(new, COUNT))).unwrap();
    run_to_end(async {
        put(&mut receiver, 0, &bytes[0]).await.unwrap();
        receiver.sync().await.unwrap();
    });
    disk.hold(true);
    fail_at(&disk, 0, ErrorKind::Other, |operation| operation == Operation::Write);
    // The write is under way when its receiver is dropped.
    let submitted = put(&mut receiver, 1, &bytes[1]);
    run_to_end(submitted).unwrap();
    drop(receiver);
    while disk.held() > 0 {
        disk.release(0);
    }
    disk.hold(false);
    disk.on_operation(|_| Fate::Succeed);
    run_to_end(receive(&store, new, COUNT)).unwrap();
    for seed in 0..20 {
        let (store, _) = open(&disk.crash(&mut chooser(seed)));
        assert_whole(&store, new, COUNT);
    }
}

/// The same, but the process has died meanwhile and the page cache has not.
#[test]
fn a_write_that_failed_in_an_earlier_process_is_not_believed() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 20);
    let bytes = chunks(new, COUNT);
    run_to_end(async {
        let mut receiver = store.receive(manifest(new, COUNT)).await.unwrap();
        put(&mut receiver, 0, &bytes[0]).await.unwrap();
        receiver.sync().await.unwrap();
        fail_at(&disk, 0, ErrorKind::Other, |operation| operation == Operation::Write);
        put(&mut receiver, 1, &bytes[1]).await.unwrap();
        disk.on_operation(|_| Fate::Succeed);
    });
    let (store, _) = open(&disk);
    let receiver = run_to_end(store.receive(manifest(new, COUNT))).unwrap();
    assert_eq!(receiver.missing_count(), COUNT - 2, "it reads well");
    drop(receiver);
    run_to_end(receive(&store, new, COUNT)).unwrap();
    for seed in 0..20 {
        let (store, _) = open(&disk.crash(&mut chooser(seed)));
        assert_whole(&store, new, COUNT);
    }
}

/// The process dies in the middle of the write of the offer, which fails unseen.
#[test]
fn an_offer_that_failed_in_an_earlier_process_is_not_believed() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 20);
    fail_at(&disk, 0, ErrorKind::Other, |operation| operation == Operation::WriteDurable);
    step_some(&disk, store.receive(manifest(new, COUNT)), 0);
    disk.on_operation(|_| Fate::Succeed);
    let (store, inventory) = open(&disk);
    assert_eq!(inventory.unfinished.len(), 1, "it reads well");
    run_to_end(receive(&store, new, COUNT)).unwrap();
    for seed in 0..20 {
        let (store, _) = open(&disk.crash(&mut chooser(seed)));
        assert_whole(&store, new, COUNT);
    }
}

#[test]
fn short_writes_and_reads_are_completed() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let (new, later) = (id(1, 20), id(1, 21));
    let mut turn = 0;
    disk.on_operation(move |operation| {
        turn += 1;
        match operation {
            Operation::Write | Operation::WriteDurable | Operation::Read if turn % 3 == 0 => {
                Fate::Short(4096 + turn % 2 * 700)
            }
            Operation::Write | Operation::Read if turn % 5 == 0 => {
                Fate::Fail(ErrorKind::Interrupted)
            }
            _ => Fate::Succeed,
        }
    });
    run_to_end(async {
        write(&store, new, COUNT).await.unwrap();
        assert_whole(&store, new, COUNT);
        receive(&store, later, COUNT).await.unwrap();
        assert_whole(&store, later, COUNT);
    });
    for seed in 0..20 {
        let (store, _) = open(&disk.crash(&mut chooser(seed)));
        assert_whole(&store, later, COUNT);
    }
}

#[test]
fn a_file_that_cannot_be_removed_is_removed_later() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let (old, new, newer) = (id(1, 10), id(1, 20), id(1, 30));
    run_to_end(async {
        write(&store, old, COUNT).await.unwrap();
        write(&store, new, COUNT).await.unwrap();
        fail_at(&disk, 0, ErrorKind::Other, |operation| operation == Operation::Remove);
        let result = store.remove_older(new.shard).await;
        assert!(matches!(result, Err(WriteError::Io { action: "removing", .. })), "{result:?}");
        assert!(names(&disk).contains(&name(old, "chunks")), "not without its manifest");
        assert_eq!(store.disk_bytes(), disk.used());
        // It is in nobody's way.
        write(&store, newer, COUNT).await.unwrap();
        store.remove_older(new.shard).await.unwrap();
    });
    assert_eq!(names(&disk), [name(newer, "chunks"), name(newer, "manifest")]);
}
