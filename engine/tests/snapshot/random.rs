//! Random snapshots, receptions, removals, failing operations, crashes and restarts on three shards, against a plain
//! model of what a store promises.
//!
//! At any time, each shard's newest snapshot is the last that was finished, or a later one whose end a latched
//! failure or a crash left open. It is whole. Older ones are there as long as nobody removed them. Nothing
//! is ever complained about, because nothing rots here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use coracle_engine::snapshot::{SnapshotId, WriteError};
use coracle_wal::AlignedBuf;
use coracle_wal::mem::{Fate, MemDisk, Operation, run_to_end};
use proptest::prelude::*;

use crate::support::*;

#[derive(Clone, Debug)]
enum Step {
    /// Stores the next snapshot of a shard with so many chunks.
    Write { shard: u32, count: usize },
    /// Receives the next snapshot of a shard, or goes on with an unfinished one.
    Receive { shard: u32, count: usize, on: bool },
    /// Receives only every other chunk; syncs them or not.
    Part { shard: u32, count: usize, sync: bool },
    /// Begins to write and gives up.
    Drop { shard: u32, count: usize },
    /// Removes what is old.
    Remove { shard: u32 },
    /// The operation after so many others of the next step fails.
    Fail { after: usize, full: bool },
    /// Power is cut so many waits into the next step; this seed decides what survives.
    Crash { after: usize, seed: u64 },
    /// The process starts again; the page cache survives.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let shard = || 0..3_u32;
    let count = || 0..12_usize;
    prop_oneof![
        4 => (shard(), count()).prop_map(|(shard, count)| Step::Write { shard, count }),
        4 => (shard(), count(), any::<bool>())
            .prop_map(|(shard, count, on)| Step::Receive { shard, count, on }),
        3 => (shard(), count(), any::<bool>())
            .prop_map(|(shard, count, sync)| Step::Part { shard, count, sync }),
        1 => (shard(), count()).prop_map(|(shard, count)| Step::Drop { shard, count }),
        4 => shard().prop_map(|shard| Step::Remove { shard }),
        2 => (0..40_usize, any::<bool>()).prop_map(|(after, full)| Step::Fail { after, full }),
        4 => (0..30_usize, any::<u64>()).prop_map(|(after, seed)| Step::Crash { after, seed }),
        1 => Just(Step::Restart),
    ]
}

/// What a store promises.
#[derive(Default)]
struct Model {
    /// Snapshots with their chunks: finished, and not yet given to a removal.
    there: BTreeMap<SnapshotId, usize>,
    /// Those that may be there, or not.
    maybe: BTreeMap<SnapshotId, usize>,
    next: u64,
}

impl Model {
    fn next(&mut self, shard: u32) -> SnapshotId {
        self.next += 1;
        id(shard, self.next)
    }

    /// Checks a store that nobody works on. `opened`: just opened, so that what is there now stays.
    fn check(&mut self, store: &Store, opened: bool) {
        for shard in 0..3 {
            let of = |all: &BTreeMap<SnapshotId, usize>| {
                all.keys().filter(|id| id.shard.0 == shard).copied().collect::<BTreeSet<_>>()
            };
            let (there, maybe) = (of(&self.there), of(&self.maybe));
            let newest = store.newest(id(shard, 1).shard).map(|manifest| manifest.id);
            let last = there.last().copied();
            assert!(newest >= last, "{newest:?} instead of {last:?}");
            assert!(newest == last || newest.is_some_and(|id| maybe.contains(&id)), "{newest:?}");
            for id in there.union(&maybe) {
                let count = self.there.get(id).or(self.maybe.get(id)).copied().unwrap();
                let found = store.manifest(*id);
                assert!(found.is_some() || !there.contains(id), "{id} is gone");
                if found.is_some() {
                    assert_whole(store, *id, count);
                }
                if opened && self.maybe.remove(id).is_some() && found.is_some() {
                    self.there.insert(*id, count);
                }
            }
        }
    }

    /// A removal is begun: all but the newest may go.
    fn remove(&mut self, shard: u32) {
        let last = self.there.keys().rfind(|id| id.shard.0 == shard).copied();
        let old: Vec<SnapshotId> = self
            .there
            .keys()
            .filter(|id| id.shard.0 == shard && Some(**id) < last)
            .copied()
            .collect();
        for id in old {
            let count = self.there.remove(&id).unwrap();
            self.maybe.insert(id, count);
        }
    }
}

/// Does a step that is one of the store's operations.
async fn perform(store: &Store, step: &Step, target: SnapshotId) -> Result<bool, WriteError> {
    match step {
        Step::Write { count, .. } => write(store, target, *count).await.map(|_| true),
        Step::Receive { count, .. } => receive(store, target, *count).await.map(|_| true),
        Step::Part { count, sync, .. } => {
            let mut receiver = store.receive(manifest(target, *count)).await?;
            let missing: Vec<u32> = receiver.missing().step_by(2).collect();
            for number in missing {
                let bytes = &chunks(target, *count)[number as usize];
                if put(&mut receiver, number, bytes).await.is_err() {
                    return Ok(false);
                }
            }
            if *sync {
                receiver.sync().await?;
            }
            Ok(false)
        }
        Step::Drop { count, .. } => {
            let mut writer = store.create(target).await?;
            for chunk in chunks(target, *count) {
                let mut buf = AlignedBuf::zeroed(chunk.len());
                buf[..chunk.len()].copy_from_slice(&chunk);
                writer.put(buf, chunk.len()).await?;
            }
            Ok(false)
        }
        Step::Remove { shard } => store.remove_older(id(*shard, 1).shard).await.map(|_| false),
        Step::Fail { .. } | Step::Crash { .. } | Step::Restart => Ok(false),
    }
}

fn run(steps: &[Step]) {
    let mut disk = MemDisk::new();
    let (mut store, _) = open(&disk);
    let mut model = Model::default();
    let mut crash = None;
    for step in steps {
        let shard = match step {
            Step::Write { shard, .. }
            | Step::Receive { shard, .. }
            | Step::Part { shard, .. }
            | Step::Drop { shard, .. }
            | Step::Remove { shard } => *shard,
            Step::Fail { after, full } => {
                let (full, mut left) = (*full, *after);
                disk.on_operation(move |operation| {
                    let grows = matches!(
                        operation,
                        Operation::Create | Operation::Allocate | Operation::Write
                    );
                    if full && !grows {
                        return Fate::Succeed;
                    }
                    let now = left == 0;
                    left = if now { usize::MAX } else { left - 1 };
                    match (now, full) {
                        (false, _) => Fate::Succeed,
                        (true, true) => Fate::Fail(ErrorKind::StorageFull),
                        (true, false) => Fate::Fail(ErrorKind::Other),
                    }
                });
                continue;
            }
            Step::Crash { after, seed } => {
                crash = Some((*after, *seed));
                continue;
            }
            Step::Restart => {
                disk.on_operation(|_| Fate::Succeed);
                store = reopen(&disk, &mut model);
                continue;
            }
        };
        let mut step = step.clone();
        let mut target = model.next(shard);
        // An unfinished reception goes on with the snapshot that it began with.
        if let Step::Receive { count, on: true, .. } = &mut step
            && let Some(offer) = store.unfinished(id(shard, 1).shard)
            && store.newest(offer.id.shard).is_none_or(|newest| newest.id < offer.id)
        {
            (target, *count) = (offer.id, offer.chunks.len());
        }
        let count = match step {
            Step::Write { count, .. } | Step::Receive { count, .. } => Some(count),
            Step::Remove { shard } => {
                model.remove(shard);
                None
            }
            _ => None,
        };
        let mut image = None;
        let mut waits = 0;
        let result = step_through(
            &disk,
            perform(&store, &step, target),
            |held| held - 1,
            || {
                if let Some((after, seed)) = crash
                    && waits == after
                {
                    image = Some(disk.crash(&mut chooser(seed)));
                }
                waits += 1;
            },
        );
        // What was to fail, failed in this step or not at all.
        disk.on_operation(|_| Fate::Succeed);
        if let Some(image) = image {
            // The rest of the step never happened.
            crash = None;
            if let Some(count) = count {
                model.maybe.insert(target, count);
            }
            disk = image;
            store = reopen(&disk, &mut model);
            continue;
        }
        match (result, count) {
            (Ok(true), Some(count)) => {
                model.there.insert(target, count);
            }
            (Err(WriteError::Latched { .. }), Some(count)) => {
                model.maybe.insert(target, count);
            }
            (Ok(_) | Err(_), _) => {}
        }
        assert_eq!(store.disk_bytes(), disk.used());
        model.check(&store, false);
    }
    // In the end everything old can be removed.
    disk = disk.crash(&mut chooser(3));
    store = reopen(&disk, &mut model);
    for shard in 0..3 {
        model.remove(shard);
        run_to_end(store.remove_older(id(shard, 1).shard)).unwrap();
    }
    let newest: Vec<_> = (0..3).filter_map(|shard| store.newest(id(shard, 1).shard)).collect();
    let offers: Vec<_> = (0..3).filter_map(|shard| store.unfinished(id(shard, 1).shard)).collect();
    let mut meant = Vec::new();
    meant.extend(newest.iter().flat_map(|m| ["chunks", "manifest"].map(|kind| name(m.id, kind))));
    meant.extend(offers.iter().flat_map(|m| ["chunks", "offer"].map(|kind| name(m.id, kind))));
    let left: Vec<String> = names(&disk).into_iter().filter(|name| !meant.contains(name)).collect();
    assert!(left.is_empty(), "left over: {left:?}");
}

fn reopen(disk: &MemDisk, model: &mut Model) -> Store {
    let (store, inventory) = open(disk);
    assert!(inventory.problems.is_empty(), "{:?}", inventory.problems);
    assert_eq!(store.disk_bytes(), disk.used());
    model.check(&store, true);
    store
}

proptest! {
    #[test]
    fn a_store_keeps_what_it_promises(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}
