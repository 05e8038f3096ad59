//! Rot, truncated and missing files, files of others: each is told for what it is, and concerns one snapshot only.

use coracle_engine::raft::membership::Configuration;
use coracle_engine::snapshot::{
    ChunkError, Damage, ManifestError, Problem, ProblemKind, ReadError, SnapshotStore, WriteError,
};
use coracle_wal::mem::{Fate, MemDisk, Operation, run_to_end};

use crate::support::*;

const COUNT: usize = 9;

/// Shard 1 with an old and a new snapshot, shard 2 with one.
fn disk() -> MemDisk {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    run_to_end(async {
        for id in [id(1, 10), id(1, 20), id(2, 5)] {
            write(&store, id, COUNT).await.unwrap();
        }
    });
    disk
}

/// Opens a disk on which the new snapshot of shard 1 is damaged, checks that all others are as before, and that
/// the damage goes with the next snapshot. Returns what was found wrong.
fn only_problem(disk: &MemDisk) -> ProblemKind {
    let (old, new, other) = (id(1, 10), id(1, 20), id(2, 5));
    let files = names(disk);
    let (store, inventory) = open(disk);
    assert_eq!(inventory.removed, Vec::<String>::new());
    let [Problem { id: found, file, kind }] = &inventory.problems[..] else {
        panic!("one problem: {:?}", inventory.problems);
    };
    assert_eq!(*found, new);
    let text = inventory.problems[0].to_string();
    assert!(text.contains(file.as_str()) && text.contains("shard 1 at index 20"), "{text}");
    assert!(text.contains("goes on with"), "it says what happens: {text}");
    assert_eq!(names(disk), files, "nothing of it is removed");
    assert_eq!(store.disk_bytes(), disk.used());
    assert_eq!(store.newest(old.shard).unwrap().id, old);
    for id in [old, other] {
        assert_whole(&store, id, COUNT);
    }
    assert_eq!(run_to_end(read(&store, new)), Err(ReadError::Missing { id: new }));
    // Not before there is a newer one.
    run_to_end(store.remove_older(old.shard)).unwrap();
    assert_eq!(names(disk), files);
    // The same once more, written or received; or a later one.
    for way in 0..3 {
        let copy = disk.crash(&mut chooser(1));
        let (store, _) = open(&copy);
        let replaced = match way {
            0 => run_to_end(write(&store, new, COUNT)).unwrap(),
            1 => run_to_end(receive(&store, new, COUNT)).unwrap(),
            _ => run_to_end(write(&store, id(1, 21), COUNT)).unwrap(),
        };
        run_to_end(store.remove_older(old.shard)).unwrap();
        let (store, inventory) = open(&copy);
        assert!(inventory.problems.is_empty(), "{:?}", inventory.problems);
        assert_whole(&store, replaced.id, COUNT);
        assert_eq!(names(&copy).len(), 4);
    }
    kind.clone()
}

#[test]
fn rot_in_every_field_of_a_manifest() {
    let len = manifest(id(1, 20), COUNT).encode(&LOG_ID).len();
    for at in 0..len {
        let disk = disk();
        disk.corrupt(&name(id(1, 20), "manifest"), at as u64, 1);
        if at % 8 == 0 {
            assert!(matches!(only_problem(&disk), ProblemKind::Manifest(_)), "byte {at}");
        } else {
            let (_, inventory) = open(&disk);
            assert!(matches!(inventory.problems[0].kind, ProblemKind::Manifest(_)), "byte {at}");
        }
    }
    // What follows is padding.
    let disk = disk();
    disk.corrupt(&name(id(1, 20), "manifest"), len as u64, 4096 - len);
    assert!(open(&disk).1.problems.is_empty());
}

#[test]
fn rot_in_every_field_of_an_offer() {
    let new = id(1, 30);
    let len = manifest(new, COUNT).encode(&LOG_ID).len();
    let before = disk();
    drop(run_to_end(open(&before).0.receive(manifest(new, COUNT))).unwrap());
    for at in 0..len {
        let disk = before.crash(&mut chooser(1));
        disk.corrupt(&name(new, "offer"), at as u64, 1);
        let (store, inventory) = open(&disk);
        // Nothing rests on it: it is begun anew.
        assert!(inventory.problems.is_empty() && inventory.unfinished.is_empty(), "byte {at}");
        assert_eq!(inventory.removed, [name(new, "offer"), name(new, "chunks")]);
        assert_eq!(names(&disk).len(), 6);
        drop(store);
    }
}

#[test]
fn manifests_cut_short() {
    let file = name(id(1, 20), "manifest");
    for keep in [0, 1, 19, 20, 79, 80, 100] {
        let disk = disk();
        let bytes = disk.contents(&file).unwrap();
        disk.put(&file, &bytes[..keep]);
        let kind = only_problem(&disk);
        assert!(
            matches!(kind, ProblemKind::Manifest(ManifestError::Length { .. })),
            "{keep}: {kind:?}"
        );
    }
}

#[test]
fn a_manifest_that_claims_to_be_huge() {
    let disk = disk();
    let file = name(id(1, 20), "manifest");
    let mut bytes = disk.contents(&file).unwrap();
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    disk.put(&file, &bytes);
    assert!(matches!(only_problem(&disk), ProblemKind::Manifest(ManifestError::Field(_))));
}

#[test]
fn a_manifest_of_a_newer_program() {
    let disk = disk();
    let file = name(id(1, 20), "manifest");
    let mut bytes = disk.contents(&file).unwrap();
    let len = manifest(id(1, 20), COUNT).encode(&LOG_ID).len();
    bytes[4] = 3;
    let checksum = crc32fast::hash(&bytes[4..len]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    disk.put(&file, &bytes);
    let kind = only_problem(&disk);
    assert_eq!(kind, ProblemKind::Manifest(ManifestError::Newer { version: 3 }));
}

#[test]
fn a_manifest_of_another_shard_or_index() {
    for other in [id(2, 5), id(1, 10)] {
        let disk = disk();
        disk.put(&name(id(1, 20), "manifest"), &disk.contents(&name(other, "manifest")).unwrap());
        assert_eq!(only_problem(&disk), ProblemKind::OtherSnapshot(other));
    }
}

#[test]
fn a_manifest_of_another_log() {
    let theirs = *b"the log of other";
    let disk = disk();
    let bytes = manifest(id(1, 20), COUNT).encode(&theirs);
    disk.put(&name(id(1, 20), "manifest"), &[&bytes[..], &vec![0; 4096 - bytes.len()]].concat());
    assert_eq!(only_problem(&disk), ProblemKind::ForeignLog(theirs));
    // The whole directory under another id.
    let (store, inventory) =
        run_to_end(SnapshotStore::open(disk.clone(), theirs)).expect("the directory is fine");
    assert_eq!(inventory.problems.len(), 2);
    assert_eq!(store.newest(id(1, 20).shard).unwrap().id, id(1, 20));
}

#[test]
fn chunks_that_are_gone_or_cut_short() {
    let file = name(id(1, 20), "chunks");
    let before = disk();
    let bytes = before.contents(&file).unwrap();
    let expected = manifest(id(1, 20), COUNT).file_bytes();
    for keep in [0, 1, 4096, expected as usize - 1] {
        let disk = before.crash(&mut chooser(1));
        disk.put(&file, &bytes[..keep]);
        assert_eq!(only_problem(&disk), ProblemKind::ChunksShort { found: keep as u64, expected });
    }
    run_to_end(coracle_wal::Disk::remove(&before, &file)).unwrap();
    run_to_end(coracle_wal::Disk::sync_dir(&before)).unwrap();
    assert_eq!(only_problem(&before), ProblemKind::ChunksMissing);
}

/// Three snapshots on a disk whose operation `failing` fails once, after `at` others of its kind.
fn failing_once(failing: Operation, at: usize) -> MemDisk {
    let disk = disk();
    let mut met = 0;
    disk.on_operation(move |operation| {
        met += usize::from(operation == failing);
        let now = operation == failing && met == at + 1;
        if now { Fate::Fail(std::io::ErrorKind::Other) } else { Fate::Succeed }
    });
    disk
}

#[test]
fn a_manifest_that_cannot_be_read_is_a_problem_of_its_own() {
    for at in 0..4 {
        let (_, inventory) = open(&failing_once(Operation::Read, at));
        let expected = usize::from(at < 3);
        assert_eq!(inventory.problems.len(), expected, "{at}: {inventory:?}");
        for problem in &inventory.problems {
            assert!(matches!(problem.kind, ProblemKind::Unreadable(_)), "{problem}");
        }
        assert_eq!(inventory.snapshots.len() + inventory.problems.len(), 3);
        assert_eq!(inventory.removed, Vec::<String>::new());
    }
}

#[test]
fn a_disk_that_fails_says_nothing_about_snapshots() {
    for failing in [Operation::Open, Operation::Sync] {
        for at in 0..6 {
            let disk = failing_once(failing, at);
            let error = run_to_end(SnapshotStore::open(disk.clone(), LOG_ID)).unwrap_err();
            let action = if failing == Operation::Open { "opening" } else { "syncing" };
            assert_eq!(error.action, action, "{error}");
            let (_, inventory) = open(&disk);
            assert_eq!((inventory.snapshots.len(), inventory.problems.len()), (3, 0));
        }
    }
}

#[test]
fn rot_in_every_chunk_is_found_when_it_is_read() {
    let new = id(1, 20);
    let mut offset = 0;
    for (number, chunk) in chunks(new, COUNT).iter().enumerate() {
        for at in [0, chunk.len() as u64 / 2, chunk.len() as u64 - 1] {
            let disk = disk();
            disk.corrupt(&name(new, "chunks"), offset + at, 1);
            let (store, inventory) = open(&disk);
            assert!(inventory.problems.is_empty(), "opening reads no chunks");
            let reader = run_to_end(store.reader(new)).unwrap();
            let error = run_to_end(reader.chunk(number as u32)).unwrap_err();
            let ReadError::Damaged { file, chunk, offset: found, damage } = &error else {
                panic!("{error}");
            };
            assert_eq!((&**file, *chunk as usize), (&*name(new, "chunks"), number));
            assert_eq!(*found, offset);
            assert!(matches!(damage, Damage::Checksum { .. }));
            for other in (0..COUNT as u32).filter(|other| *other as usize != number) {
                run_to_end(reader.chunk(other)).unwrap();
            }
            // In order: all before it, then the error, then nothing.
            let mut sequential = reader.sequential(0);
            for before in 0..number {
                let piece = run_to_end(sequential.next()).unwrap().unwrap();
                assert_eq!(piece.number as usize, before);
            }
            assert_eq!(run_to_end(sequential.next()).unwrap().unwrap_err(), error);
            assert!(run_to_end(sequential.next()).is_none());
        }
        offset += chunk.len().next_multiple_of(4096) as u64;
    }
}

#[test]
fn two_chunks_in_each_others_place_are_damage() {
    let disk = MemDisk::new();
    let new = id(1, 20);
    run_to_end(write(&open(&disk).0, new, 2)).unwrap();
    let file = name(new, "chunks");
    let bytes = disk.contents(&file).unwrap();
    disk.put(&file, &[&bytes[4096..8192], &bytes[..4096]].concat());
    let reader = run_to_end(open(&disk).0.reader(new)).unwrap();
    for number in [0, 1] {
        let error = run_to_end(reader.chunk(number)).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    }
}

#[test]
fn chunks_of_strangers_are_refused_and_asked_for_again() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let new = id(1, 20);
    let bytes = chunks(new, COUNT);
    run_to_end(async {
        let mut receiver = store.receive(manifest(new, COUNT)).await.unwrap();
        let mut wrong = bytes[4].clone();
        wrong[17] ^= 1;
        let error = put(&mut receiver, 4, &wrong).await.unwrap_err();
        assert!(matches!(error, ChunkError::Checksum { number: 4, .. }), "{error}");
        let error = put(&mut receiver, 4, &bytes[4][1..]).await.unwrap_err();
        assert!(matches!(error, ChunkError::Length { number: 4, .. }), "{error}");
        let error = put(&mut receiver, 4, &[]).await.unwrap_err();
        assert!(matches!(error, ChunkError::Length { number: 4, .. }), "{error}");
        let error = put(&mut receiver, 4, &bytes[5]).await.unwrap_err();
        assert!(matches!(error, ChunkError::Length { number: 4, .. }), "{error}");
        for number in [COUNT as u32, u32::MAX] {
            let error = put(&mut receiver, number, &bytes[0]).await.unwrap_err();
            assert!(matches!(error, ChunkError::Unknown { .. }), "{error}");
        }
        assert_eq!(receiver.missing_count(), COUNT);
        put(&mut receiver, 4, &bytes[4]).await.unwrap();
        put(&mut receiver, 4, &bytes[4]).await.unwrap();
        assert_eq!(receiver.missing().collect::<Vec<_>>(), [0, 1, 2, 3, 5, 6, 7, 8]);
        let error = receiver.finish().await.unwrap_err();
        assert_eq!(error, WriteError::Incomplete { id: new, missing: 8 });
        // What is there is kept.
        let again = store.receive(manifest(new, COUNT)).await.unwrap();
        assert_eq!(again.missing_count(), COUNT - 1);
    });
}

#[test]
fn rot_in_an_unfinished_reception_is_fetched_again() {
    let disk = MemDisk::new();
    let new = id(1, 20);
    run_to_end(async {
        let mut receiver = open(&disk).0.receive(manifest(new, COUNT)).await.unwrap();
        for (number, chunk) in chunks(new, COUNT).iter().enumerate() {
            put(&mut receiver, number as u32, chunk).await.unwrap();
        }
        receiver.sync().await.unwrap();
    });
    disk.corrupt(&name(new, "chunks"), 2 * 4096 + 10, 1);
    let (store, _) = open(&disk);
    run_to_end(async {
        let receiver = store.receive(manifest(new, COUNT)).await.unwrap();
        assert_eq!(receiver.missing().collect::<Vec<_>>(), [2]);
        drop(receiver);
        receive(&store, new, COUNT).await.unwrap();
        assert_whole(&store, new, COUNT);
    });
}

#[test]
fn manifests_of_strangers_are_refused() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk);
    let good = manifest(id(1, 20), COUNT);
    let mut wrong = vec![good.clone(); 5];
    wrong[0].bytes += 1;
    wrong[1].checksum ^= 1;
    wrong[2].chunks[3].bytes = 0;
    wrong[3].configuration = Configuration::default();
    wrong[4].id.index.0 = u64::MAX;
    for manifest in wrong {
        let error = run_to_end(store.receive(manifest)).unwrap_err();
        assert!(matches!(error, WriteError::Impossible { .. }), "{error}");
    }
    assert!(names(&disk).is_empty());
}

#[test]
fn files_of_others_are_left_alone() {
    let disk = disk();
    let (store, _) = open(&disk);
    let used = store.disk_bytes();
    let theirs = ["seg-0000000000000001", "spare-0000000000000002", "snap-1-2-3.chunks", "snap-"];
    for name in theirs {
        disk.put(name, b"of others");
    }
    let (store, inventory) = open(&disk);
    assert!(inventory.removed.is_empty() && inventory.problems.is_empty());
    assert_eq!(store.disk_bytes(), used);
    assert!(theirs.iter().all(|name| names(&disk).contains(&(*name).to_owned())));
}
