//! What the tests of snapshots share: states made of a seed, and short ways to store and read them.

use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use coracle_engine::raft::membership::Configuration;
use coracle_engine::snapshot::{
    Chunk, ChunkError, ChunkSink, Inventory, Manifest, ReadError, Receiver, SnapshotId,
    SnapshotStore, WriteError,
};
use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use coracle_wal::AlignedBuf;
use coracle_wal::Disk;
use coracle_wal::mem::{MemDisk, run_to_end};

pub const LOG_ID: [u8; 16] = *b"a log of a test!";

pub type Store = SnapshotStore<MemDisk>;

pub fn id(shard: u32, index: u64) -> SnapshotId {
    SnapshotId { shard: ShardId(shard), index: LogIndex(index), term: Term(index / 10 + 1) }
}

pub fn voters() -> Configuration {
    Configuration::of_voters([3, 1, 2].map(NodeId)).expect("a good configuration")
}

/// The chunks of some state; others for each id, of various lengths.
pub fn chunks(id: SnapshotId, count: usize) -> Vec<Vec<u8>> {
    let byte = |chunk: usize, at: usize| {
        let mixed = (id.index.0 * 31 + u64::from(id.shard.0) * 7 + chunk as u64 * 131 + at as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as u8
    };
    (0..count)
        .map(|chunk| (0..1 + chunk * 3001 % 9000).map(|at| byte(chunk, at)).collect())
        .collect()
}

pub fn open(disk: &MemDisk) -> (Store, Inventory) {
    run_to_end(SnapshotStore::open(disk.clone(), LOG_ID)).expect("the store opens")
}

/// Writes a snapshot with `count` chunks.
pub async fn write(
    store: &Store,
    id: SnapshotId,
    count: usize,
) -> Result<Rc<Manifest>, WriteError> {
    let mut writer = store.create(id).await?;
    for chunk in chunks(id, count) {
        // Small ones: the writer's own are as large as a chunk may be.
        let mut buf = AlignedBuf::zeroed(chunk.len());
        let mut sink = ChunkSink::new(&mut buf);
        sink.put(&chunk).expect("it fits");
        let len = sink.len();
        writer.put(buf, len).await?;
    }
    writer.finish(voters()).await
}

/// The manifest that [`write`] makes.
pub fn manifest(id: SnapshotId, count: usize) -> Manifest {
    let table = chunks(id, count)
        .iter()
        .map(|chunk| Chunk { bytes: chunk.len() as u32, checksum: crc32fast::hash(chunk) })
        .collect();
    Manifest::new(id, voters(), table).expect("a good manifest")
}

/// Puts a chunk of [`chunks`] into a receiver.
pub async fn put(
    receiver: &mut Receiver<MemDisk>,
    number: u32,
    bytes: &[u8],
) -> Result<(), ChunkError> {
    let mut buf = AlignedBuf::zeroed(bytes.len().max(receiver.manifest().buffer_bytes()));
    buf[..bytes.len()].copy_from_slice(bytes);
    receiver.put(number, buf, bytes.len()).await
}

/// Receives what is missing of a snapshot with `count` chunks.
pub async fn receive(
    store: &Store,
    id: SnapshotId,
    count: usize,
) -> Result<Rc<Manifest>, WriteError> {
    let mut receiver = store.receive(manifest(id, count)).await?;
    let chunks = chunks(id, count);
    let missing: Vec<u32> = receiver.missing().collect();
    // Backwards: any order will do.
    for (done, number) in missing.into_iter().rev().enumerate() {
        put(&mut receiver, number, &chunks[number as usize]).await.map_err(
            |error| match error {
                ChunkError::Write(error) => error,
                other => panic!("{other}"),
            },
        )?;
        if done % 3 == 2 {
            receiver.sync().await?;
        }
    }
    receiver.finish().await
}

/// All chunks of a snapshot, read in order.
pub async fn read(store: &Store, id: SnapshotId) -> Result<Vec<Vec<u8>>, ReadError> {
    let reader = store.reader(id).await?;
    let mut sequential = reader.sequential(0);
    let mut all = Vec::new();
    while let Some(piece) = sequential.next().await {
        let piece = piece?;
        assert_eq!(piece.number as usize, all.len());
        all.push(piece.bytes().to_vec());
    }
    Ok(all)
}

/// Checks that a snapshot is what [`write`] and [`receive`] store. It says what went wrong without all the bytes.
#[track_caller]
pub fn assert_whole(store: &Store, id: SnapshotId, count: usize) {
    match run_to_end(read(store, id)) {
        Ok(found) => assert!(found == chunks(id, count), "{id} has other bytes"),
        Err(error) => panic!("{id}: {error}"),
    }
}

/// Choices of a crash, from a seed: some lose all, some nothing, most something.
pub fn chooser(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match seed % 8 {
            0 => 0,
            1 => 1.min(below - 1),
            _ => (state >> 33) as u32 % below,
        }
    }
}

/// Polls `future` to its end with every write, sync and sync of names held back. `between` is asked before one of
/// them completes, the oldest or, by `pick`, another.
pub fn step_through<T>(
    disk: &MemDisk,
    future: impl Future<Output = T>,
    mut pick: impl FnMut(usize) -> usize,
    mut between: impl FnMut(),
) -> T {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = std::pin::pin!(future);
    disk.hold(true);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            disk.hold(false);
            return result;
        }
        between();
        let held = disk.held();
        assert!(held > 0, "it waits for nothing");
        disk.release(pick(held) % held);
    }
}

/// Polls `future` through so many waits and drops it. Whether it came to its end.
pub fn step_some(disk: &MemDisk, future: impl Future, waits: usize) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = std::pin::pin!(future);
    disk.hold(true);
    let mut ended = future.as_mut().poll(&mut context).is_ready();
    for _ in 0..waits {
        if ended {
            break;
        }
        disk.release(0);
        ended = future.as_mut().poll(&mut context).is_ready();
    }
    disk.hold(false);
    while disk.held() > 0 {
        disk.release(0);
    }
    ended
}

/// The names of all files.
pub fn names(disk: &MemDisk) -> Vec<String> {
    run_to_end(disk.list()).unwrap()
}

/// The name of a snapshot's file.
pub fn name(id: SnapshotId, kind: &str) -> String {
    format!("snap-{:08x}-{:016x}-{:016x}.{kind}", id.shard.0, id.index.0, id.term.0)
}
