//! What the targets of machines around other machines share.
//!
//! The first byte of their inputs chooses: entries of the log, or a snapshot. Entries come one after another, each behind
//! its length in one byte.

use bytes::{Bytes, BytesMut};
use coracle_engine::{
    Apply, ImageBuffer, LogIndex, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    Term, WholeImage, restore_chunks, snapshot_chunks,
};

use crate::Seed;

/// The machine inside: keeps nothing, and replies with what it gets.
#[derive(Default)]
pub(super) struct Echo(ImageBuffer);

impl StateMachine for Echo {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        reply.extend_from_slice(entry.payload);
    }

    fn query(&self, _: &Bytes, _: &mut BytesMut) {}

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        Ok(Box::new(WholeImage::new(Vec::new())))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        self.0.take(part).map(drop)
    }
}

/// Applies a payload. Returns the reply.
pub(super) fn apply(machine: &mut impl StateMachine, index: u64, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    let entry = Apply { shard: ShardId(0), index: LogIndex(index), term: Term(1), payload };
    machine.apply(entry, &mut reply);
    reply.freeze()
}

fn image(machine: &mut impl StateMachine) -> Vec<u8> {
    let stream = machine.snapshot().expect("it takes snapshots");
    snapshot_chunks(stream).expect("nothing is in the way").concat()
}

/// Gives the input to `entry`, one payload after another, or restores a snapshot.
pub(super) fn run<M: StateMachine>(
    mut machine: M,
    data: &[u8],
    mut entry: impl FnMut(&mut M, Bytes),
) {
    let Some((choice, mut data)) = data.split_first() else { return };
    if choice % 2 == 1 {
        if restore_chunks(&mut machine, [data]).is_ok() {
            assert!(image(&mut machine) == data, "an image can be written in one way only");
        }
        return;
    }
    while let Some((length, rest)) = data.split_first() {
        let (payload, behind) = rest.split_at(rest.len().min(usize::from(*length)));
        data = behind;
        entry(&mut machine, Bytes::copy_from_slice(payload));
    }
    let before = image(&mut machine);
    restore_chunks(&mut machine, [&before]).expect("its own image");
    assert_eq!(image(&mut machine), before);
}

/// The checksum ends an image.
pub(super) fn mend(data: &mut [u8]) {
    let Some((choice, data)) = data.split_first_mut() else { return };
    if *choice % 2 == 1
        && let Some((rest, checksum)) = data.split_last_chunk_mut()
    {
        *checksum = crc32fast::hash(rest).to_le_bytes();
    }
}

/// A log of these entries, an image of the machine that applied them, and one of a new machine.
pub(super) fn seeds<M: StateMachine>(new: impl Fn() -> M, log: &[Bytes]) -> Vec<Seed> {
    let mut entries = vec![0];
    let mut machine = new();
    for (payload, index) in log.iter().zip(1..) {
        let length = u8::try_from(payload.len()).expect("entries of seeds are short");
        entries.push(length);
        entries.extend_from_slice(payload);
        apply(&mut machine, index, payload);
    }
    vec![
        Seed::new("entries", entries),
        Seed::new("image", [&[1][..], &image(&mut machine)].concat()),
        Seed::new("image-empty", [&[1][..], &image(&mut new())].concat()),
    ]
}
