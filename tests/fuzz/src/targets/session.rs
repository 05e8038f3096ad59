//! Client sessions: entries of the log, and sessions in snapshots.
//!
//! The first byte of the input chooses. Entries come one after another, each behind its length in one byte.

use bytes::{Bytes, BytesMut};
use coracle_engine::session::{ClientSession, Entry, RequestId, SessionId, SessionReply, Sessions};
use coracle_engine::{
    Apply, ImageBuffer, LogIndex, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    Term, WholeImage, restore_chunks, snapshot_chunks,
};

use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "session",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 8 << 20,
        factor: 1000,
        reason: "buffers for chunks; a session of five bytes takes some hundred, twice",
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

fn apply(machine: &mut Sessions<Echo>, index: u64, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    let entry = Apply { shard: ShardId(0), index: LogIndex(index), term: Term(1), payload };
    machine.apply(entry, &mut reply);
    reply.freeze()
}

fn image(machine: &mut Sessions<Echo>) -> Vec<u8> {
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
    let mut machine = Sessions::new(Echo::default());
    let mut index = 0;
    while let Some((length, rest)) = data.split_first() {
        let (payload, behind) = rest.split_at(rest.len().min(usize::from(*length)));
        data = behind;
        let payload = Bytes::copy_from_slice(payload);
        if let Ok(entry) = Entry::decode(&payload) {
            assert_eq!(entry.encode(), payload, "an entry can be written in one way only");
        }
        index += 1;
        let reply = apply(&mut machine, index, &payload);
        SessionReply::decode(&reply).expect("every entry is answered by sessions");
        if let Ok(mut session) = ClientSession::opened(&payload) {
            let (request, _) = session.begin(b"x").expect("nothing is under way");
            let _ = session.answered(request, &payload);
        }
    }
    let before = image(&mut machine);
    restore_chunks(&mut machine, [&before]).expect("its own image");
    assert_eq!(image(&mut machine), before);
}

fn restored(data: &[u8]) {
    let mut machine = Sessions::new(Echo::default());
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
    let (session, first) = (SessionId(2), RequestId(1));
    let request = |request, payload: &'static [u8]| Entry::Request {
        session,
        request: RequestId(request),
        first,
        payload: Bytes::from_static(payload),
    };
    let all = [
        Entry::Plain(Bytes::from_static(b"plain")),
        Entry::Open,
        request(1, b"one"),
        request(3, b"three"),
        request(3, b"three"),
        Entry::KeepAlive { session, first: RequestId(2) },
        Entry::Tick { now_ms: 1_700_000_000_000 },
        Entry::Configure(Sessions::new(Echo::default()).limits()),
        Entry::Open,
        Entry::Close { session: SessionId(9) },
    ]
    .map(|entry| entry.encode());
    let mut log = vec![0];
    let mut machine = Sessions::new(Echo::default());
    for (payload, index) in all.iter().zip(1..) {
        log.push(payload.len() as u8);
        log.extend_from_slice(payload);
        apply(&mut machine, index, payload);
    }
    let empty = image(&mut Sessions::new(Echo::default()));
    vec![
        Seed::new("entries", log),
        Seed::new("image", [&[1][..], &image(&mut machine)].concat()),
        Seed::new("image-empty", [&[1][..], &empty].concat()),
    ]
}
