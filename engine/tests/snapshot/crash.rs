//! Power is cut at every step of writing, receiving and removing: afterwards there is the old snapshot or the new
//! one, whole, and nothing else.

use std::cell::RefCell;
use std::rc::Rc;

use coracle_engine::snapshot::SnapshotId;
use coracle_wal::mem::{MemDisk, run_to_end};

use crate::support::*;

const COUNT: usize = 9;
const SEEDS: u64 = 40;

/// Opens what a crash left and checks that the newest snapshot is one of `allowed`, whole, that nothing is
/// complained about, and that no file is there that has no meaning. Returns the newest and the disk.
fn check(disk: &MemDisk, seed: u64, allowed: &[SnapshotId]) -> (SnapshotId, MemDisk) {
    let after = disk.crash(&mut chooser(seed));
    let before = names(&after);
    let (store, inventory) = open(&after);
    let story = format!("seed {seed}, files {before:?}, {inventory:?}");
    assert!(inventory.problems.is_empty(), "{story}");
    let newest =
        store.newest(allowed[0].shard).unwrap_or_else(|| panic!("nothing left: {story}")).id;
    assert!(allowed.contains(&newest), "{story}");
    for snapshot in &inventory.snapshots {
        assert_whole(&store, snapshot.id, COUNT);
    }
    let mut meant: Vec<String> = inventory
        .snapshots
        .iter()
        .flat_map(|snapshot| ["chunks", "manifest"].map(|kind| name(snapshot.id, kind)))
        .collect();
    for offer in &inventory.unfinished {
        meant.extend(["chunks", "offer"].map(|kind| name(offer.id, kind)));
    }
    assert!(names(&after).iter().all(|name| meant.contains(name)), "{story}");
    assert_eq!(store.disk_bytes(), after.used(), "{story}");
    (newest, after)
}

/// A disk with a durable snapshot.
fn with(id: SnapshotId) -> (MemDisk, Store) {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(write(&store, id, COUNT)).unwrap();
    (disk, store)
}

#[test]
fn while_an_own_snapshot_is_written() {
    let (old, new) = (id(1, 10), id(1, 20));
    let (disk, store) = with(old);
    let mut steps = 0;
    // Completions in various orders.
    let mut order = chooser(7);
    step_through(
        &disk,
        write(&store, new, COUNT),
        |held| order(held as u32) as usize,
        || {
            steps += 1;
            for seed in 0..SEEDS {
                check(&disk, seed, &[old, new]);
            }
        },
    )
    .unwrap();
    assert!(steps > COUNT, "every write and sync was a step: {steps}");
    for seed in 0..SEEDS {
        assert_eq!(check(&disk, seed, &[new]).0, new);
    }
}

#[test]
fn while_a_snapshot_is_received() {
    let (old, new) = (id(1, 10), id(1, 20));
    let (disk, store) = with(old);
    let mut order = chooser(9);
    let mut resumed = 0;
    step_through(
        &disk,
        receive(&store, new, COUNT),
        |held| order(held as u32) as usize,
        || {
            for seed in 0..SEEDS {
                let (newest, after) = check(&disk, seed, &[old, new]);
                if newest == new || seed % 8 != 2 {
                    continue;
                }
                // The next one goes on with whatever there is.
                let (store, inventory) = open(&after);
                resumed += inventory.unfinished.len();
                run_to_end(receive(&store, new, COUNT)).unwrap();
                assert_eq!(check(&after, seed, &[new]).0, new);
            }
        },
    )
    .unwrap();
    assert!(resumed > 0, "a reception went on after a crash");
    for seed in 0..SEEDS {
        assert_eq!(check(&disk, seed, &[new]).0, new);
    }
}

#[test]
fn what_a_reception_has_made_durable_is_not_asked_for_again() {
    let new = id(1, 20);
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let bytes = chunks(new, COUNT);
    let mut receiver = run_to_end(store.receive(manifest(new, COUNT))).unwrap();
    run_to_end(async {
        for number in [7, 1, 4] {
            put(&mut receiver, number, &bytes[number as usize]).await.unwrap();
        }
        receiver.sync().await.unwrap();
        put(&mut receiver, 2, &bytes[2]).await.unwrap();
    });
    for seed in 0..SEEDS {
        let after = disk.crash(&mut chooser(seed));
        let (store, inventory) = open(&after);
        assert_eq!(inventory.unfinished.len(), 1);
        assert_eq!(store.unfinished(new.shard).as_deref(), Some(&manifest(new, COUNT)));
        let again = run_to_end(store.receive(manifest(new, COUNT))).unwrap();
        let missing: Vec<u32> = again.missing().filter(|number| *number != 2).collect();
        assert_eq!(missing, [0, 3, 5, 6, 8], "seed {seed}");
        assert_eq!(again.missing_count(), again.missing().count());
        drop(again);
        run_to_end(receive(&store, new, COUNT)).unwrap();
        assert_eq!(check(&after, seed, &[new]).0, new);
    }
}

#[test]
fn while_another_offer_replaces_an_unfinished_one() {
    let (old, first, second) = (id(1, 10), id(1, 20), id(1, 30));
    let (disk, store) = with(old);
    run_to_end(async {
        let mut receiver = store.receive(manifest(first, COUNT)).await.unwrap();
        put(&mut receiver, 3, &chunks(first, COUNT)[3]).await.unwrap();
    });
    let between = || (0..SEEDS).for_each(|seed| drop(check(&disk, seed, &[old, second])));
    step_through(&disk, receive(&store, second, COUNT), |_| 0, between).unwrap();
    assert!(!names(&disk).contains(&name(first, "offer")));
    assert!(!names(&disk).contains(&name(first, "chunks")));
}

#[test]
fn while_an_old_snapshot_is_removed() {
    let (oldest, old, new) = (id(1, 5), id(1, 10), id(1, 20));
    let (disk, store) = with(oldest);
    run_to_end(async {
        write(&store, old, COUNT).await.unwrap();
        write(&store, new, COUNT).await.unwrap();
    });
    let other = id(2, 3);
    run_to_end(write(&store, other, COUNT)).unwrap();
    let used = disk.used();
    let between = || {
        for seed in 0..SEEDS {
            check(&disk, seed, &[new]);
            check(&disk, seed, &[other]);
        }
    };
    let freed = step_through(&disk, store.remove_older(new.shard), |_| 0, between).unwrap();
    assert_eq!(disk.used(), used - freed);
    assert_eq!(store.disk_bytes(), disk.used());
    for seed in 0..SEEDS {
        let after = disk.crash(&mut chooser(seed));
        assert_eq!(names(&after).len(), 4, "a removal that was reported is durable");
    }
}

#[test]
fn while_a_damaged_snapshot_is_discarded_and_written_again() {
    let (old, new) = (id(1, 10), id(1, 20));
    let (disk, store) = with(old);
    run_to_end(write(&store, new, COUNT)).unwrap();
    let between = || (0..SEEDS).for_each(|seed| drop(check(&disk, seed, &[old, new])));
    step_through(&disk, store.discard(new), |_| 0, between).unwrap();
    assert_eq!(store.newest(new.shard).unwrap().id, old);
    step_through(&disk, write(&store, new, COUNT), |_| 0, between).unwrap();
    assert_eq!(store.newest(new.shard).unwrap().id, new);
}

#[test]
fn while_two_shards_work_beside_each_other() {
    let (old, new, other) = (id(1, 10), id(1, 20), id(2, 7));
    let (disk, store) = with(old);
    let mut order = chooser(11);
    let done = Rc::new(RefCell::new((false, false)));
    let both = async {
        let first = async {
            write(&store, new, COUNT).await.unwrap();
            done.borrow_mut().0 = true;
            store.remove_older(new.shard).await.unwrap();
        };
        let second = async {
            receive(&store, other, COUNT).await.unwrap();
            done.borrow_mut().1 = true;
        };
        futures_util::future::join(first, second).await;
    };
    step_through(
        &disk,
        both,
        |held| order(held as u32) as usize,
        || {
            for seed in 0..SEEDS {
                let (new_done, other_done) = *done.borrow();
                let allowed: &[SnapshotId] = if new_done { &[new] } else { &[old, new] };
                check(&disk, seed, allowed);
                if other_done {
                    check(&disk, seed, &[other]);
                }
            }
        },
    );
}

/// A process dies, its successor finds everything in the cache, and then power is cut: what the successor has called
/// a snapshot must still be one.
#[test]
fn what_a_restart_has_found_survives_a_power_cut() {
    let (old, new) = (id(1, 10), id(1, 20));
    let mut found_new_early = false;
    for receiving in [false, true] {
        for waits in 0.. {
            let (disk, store) = with(old);
            let task = async {
                if receiving {
                    receive(&store, new, COUNT).await.map(drop)
                } else {
                    write(&store, new, COUNT).await.map(drop)
                }
            };
            if step_some(&disk, task, waits) {
                break;
            }
            let (store, _) = open(&disk);
            let newest = store.newest(old.shard).unwrap().id;
            found_new_early |= newest == new;
            for seed in 0..SEEDS {
                check(&disk, seed, &[newest]);
            }
        }
    }
    assert!(found_new_early, "a snapshot was found whose name was not durable");
}
