//! Timers: entries of the log, and timers in snapshots.
//!
//! The first byte of the input chooses. Entries come one after another, each behind its length in one byte; with the
//! length 0 goes a call of the hook.

use bytes::{Bytes, BytesMut};
use coracle_engine::hook::{HookCall, LeaderHook};
use coracle_engine::timers::{Entry, TimerId, TimerReply, Timers};
use coracle_engine::{
    Apply, ImageBuffer, LogIndex, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    Term, WholeImage, restore_chunks, snapshot_chunks,
};

use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "timers",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 8 << 20,
        factor: 1000,
        reason: "buffers for chunks; a timer of three bytes takes some hundred, twice",
    },
};

/// Keeps nothing; replies with what it gets.
#[derive(Default)]
struct Echo(ImageBuffer);

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

/// The clock that hooks are called with.
const NOW_MS: u64 = 1_700_000_000_000;

fn apply(machine: &mut Timers<Echo>, index: u64, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    let entry = Apply { shard: ShardId(0), index: LogIndex(index), term: Term(1), payload };
    machine.apply(entry, &mut reply);
    reply.freeze()
}

fn image(machine: &mut Timers<Echo>) -> Vec<u8> {
    let stream = machine.snapshot().expect("it takes snapshots");
    snapshot_chunks(stream).expect("nothing is in the way").concat()
}

fn run(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 2 {
        0 => entries(data),
        _ => restored(data),
    }
}

fn entries(mut data: &[u8]) {
    let mut machine = Timers::new(Echo::default());
    let mut index = 0;
    while let Some((length, rest)) = data.split_first() {
        let (payload, behind) = rest.split_at(rest.len().min(usize::from(*length)));
        data = behind;
        if *length == 0 {
            index = fire(&mut machine, index);
            continue;
        }
        let payload = Bytes::copy_from_slice(payload);
        if let Ok(entry) = Entry::decode(&payload) {
            assert_eq!(entry.encode(), payload, "an entry can be written in one way only");
        }
        index += 1;
        let reply = apply(&mut machine, index, &payload);
        TimerReply::decode(&reply).expect("every entry is answered by timers");
    }
    let before = image(&mut machine);
    restore_chunks(&mut machine, [&before]).expect("its own image");
    assert_eq!(image(&mut machine), before);
}

/// Applies what the hook proposes; all of it fires, once.
fn fire(machine: &mut Timers<Echo>, mut index: u64) -> u64 {
    let call = HookCall { shard: ShardId(0), term: Term(1), unix_ms: NOW_MS, interval: false };
    let proposed = machine.call(call);
    let before = machine.count();
    for payload in &proposed {
        index += 1;
        let reply = TimerReply::decode(&apply(machine, index, payload));
        assert!(matches!(reply, Ok(TimerReply::Fired(_))), "{reply:?}");
        index += 1;
        let again = TimerReply::decode(&apply(machine, index, payload));
        assert_eq!(again, Ok(TimerReply::UnknownTimer));
    }
    assert_eq!(machine.count(), before - proposed.len());
    index
}

fn restored(data: &[u8]) {
    let mut machine = Timers::new(Echo::default());
    if restore_chunks(&mut machine, [data]).is_ok() {
        assert!(image(&mut machine) == data, "an image can be written in one way only");
    }
}

/// The checksum ends an image.
fn mend(data: &mut [u8]) {
    let Some((choice, data)) = data.split_first_mut() else { return };
    if *choice % 2 == 1
        && let Some((rest, checksum)) = data.split_last_chunk_mut()
    {
        *checksum = crc32fast::hash(rest).to_le_bytes();
    }
}

fn seeds() -> Vec<Seed> {
    let set =
        |at_ms, payload: &'static [u8]| Entry::Set { at_ms, payload: Bytes::from_static(payload) };
    let all = [
        Entry::Plain(Bytes::from_static(b"plain")),
        set(NOW_MS - 1, b"one"),
        set(NOW_MS + 1, b"two"),
        set(0, b""),
        Entry::Cancel { timer: TimerId(2) },
        Entry::Fire { timer: TimerId(3), now_ms: NOW_MS + 2 },
        Entry::Fire { timer: TimerId(4), now_ms: NOW_MS },
        Entry::Configure(Timers::new(Echo::default()).limits()),
        set(5, b"five"),
    ]
    .map(|entry| entry.encode());
    let mut log = vec![0];
    let mut machine = Timers::new(Echo::default());
    for (payload, index) in all.iter().zip(1..) {
        log.push(payload.len() as u8);
        log.extend_from_slice(payload);
        apply(&mut machine, index, payload);
    }
    log.push(0);
    apply(&mut machine, 10, &all[2]);
    let empty = image(&mut Timers::new(Echo::default()));
    vec![
        Seed::new("entries", log),
        Seed::new("image", [&[1][..], &image(&mut machine)].concat()),
        Seed::new("image-empty", [&[1][..], &empty].concat()),
    ]
}
