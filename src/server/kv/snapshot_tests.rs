//! Snapshots while keys change, whatever changes and whenever the stream is filled.

#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use coracle_engine::snapshot::ChunkSink;
use coracle_engine::{
    Apply, LogIndex, ShardId, SnapshotError, SnapshotStream, StateMachine, Term, restore_chunks,
    snapshot_chunks,
};
use coracle_wal::AlignedBuf;
use proptest::prelude::*;

use super::Kv;
use super::op::{Encoder, Expiry, Head, SetIf, SetReply, Write};
use super::shadow::Bounds;
use super::snapshot::{Manner, Stream};

/// One step of a test.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, u16, Expiry),
    Del(u8, u8),
    Append(u8, u8),
    SetRange(u8, u8),
    Expire(u8, Expiry),
    Persist(u8),
    Rename(u8, u8),
    Copy(u8, u8),
    Flush,
    Tick(u16),
    Fill,
}

fn key(n: u8) -> Vec<u8> {
    format!("key {n}").into_bytes()
}

fn payload(step: &Step, now_ms: u64) -> Option<Bytes> {
    let mut out = Encoder::default();
    out.set_head(Head { protocol: Default::default(), stale: false, now_ms });
    Some(match *step {
        Step::Set(n, bytes, expiry) => {
            let value = vec![b'a' + n % 26; usize::from(bytes)];
            let (when, reply) = (SetIf::Always, SetReply::Status);
            out.write(&Write::Set { key: &key(n), value: &value, expiry, when, reply })
        }
        Step::Del(n, other) => out.del([key(n).as_slice(), &key(other)].into_iter()),
        Step::Append(n, bytes) => {
            out.write(&Write::Append { key: &key(n), value: &vec![b'+'; usize::from(bytes)] })
        }
        Step::SetRange(n, offset) => {
            out.write(&Write::SetRange { key: &key(n), offset: offset.into(), value: b"<->" })
        }
        Step::Expire(n, expiry) => {
            out.write(&Write::Expire { key: &key(n), expiry, conditions: 0 })
        }
        Step::Persist(n) => out.write(&Write::Persist { key: &key(n) }),
        Step::Rename(n, to) => {
            out.write(&Write::Rename { from: &key(n), to: &key(to), only_if_absent: false })
        }
        Step::Copy(n, to) => out.write(&Write::Copy { from: &key(n), to: &key(to), replace: true }),
        Step::Flush => out.write(&Write::Flush),
        Step::Tick(_) => out.tick(),
        Step::Fill => return None,
    })
}

fn any_expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        4 => Just(Expiry::Never),
        1 => Just(Expiry::Keep),
        2 => (1_i64..2000).prop_map(Expiry::After),
        1 => (0_i64..3000).prop_map(Expiry::At),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let n = || 0_u8..40;
    prop_oneof![
        12 => (n(), 0_u16..300, any_expiry()).prop_map(|(n, bytes, e)| Step::Set(n, bytes, e)),
        6 => (n(), n()).prop_map(|(n, other)| Step::Del(n, other)),
        2 => (n(), any::<u8>()).prop_map(|(n, bytes)| Step::Append(n, bytes)),
        1 => (n(), any::<u8>()).prop_map(|(n, offset)| Step::SetRange(n, offset)),
        2 => (n(), any_expiry()).prop_map(|(n, expiry)| Step::Expire(n, expiry)),
        1 => n().prop_map(Step::Persist),
        2 => (n(), n()).prop_map(|(n, to)| Step::Rename(n, to)),
        1 => (n(), n()).prop_map(|(n, to)| Step::Copy(n, to)),
        1 => Just(Step::Flush),
        2 => (0_u16..3000).prop_map(Step::Tick),
        8 => Just(Step::Fill),
    ]
}

/// A shard and its clock.
#[derive(Default)]
struct Shard {
    kv: Kv,
    now_ms: u64,
}

impl Shard {
    fn apply(&mut self, step: &Step) -> Bytes {
        if let Step::Tick(now_ms) = step {
            self.now_ms = (*now_ms).into();
        }
        let Some(payload) = payload(step, self.now_ms) else { return Bytes::new() };
        let (shard, index, term) = (ShardId(0), LogIndex(1), Term(1));
        let mut reply = BytesMut::new();
        self.kv.apply(Apply { shard, index, term, payload: &payload }, &mut reply);
        reply.freeze()
    }

    /// The whole state in bytes, with a snapshot that nothing interferes with.
    fn image(&mut self) -> Vec<u8> {
        snapshot_chunks(self.kv.snapshot().unwrap()).unwrap().concat()
    }

    fn restored<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>) -> Self {
        let mut kv = Kv::new();
        restore_chunks(&mut kv, chunks).unwrap();
        Self { kv, now_ms: 0 }
    }
}

/// A stream that is filled bit by bit.
struct Slow {
    stream: Stream,
    buf: AlignedBuf,
    target: usize,
    chunks: Vec<Vec<u8>>,
    more: bool,
}

impl Slow {
    fn begin(kv: &Kv, manner: Manner, target: usize) -> Self {
        let (stream, buf) = (Stream::begin(&kv.state, manner), AlignedBuf::zeroed(4096));
        Self { stream, buf, target, chunks: Vec::new(), more: true }
    }

    fn fill(&mut self) -> Result<(), SnapshotError> {
        if self.more {
            let mut chunk = ChunkSink::with_target(&mut self.buf, self.target);
            self.more = self.stream.fill(&mut chunk)?;
            if !chunk.is_empty() {
                self.chunks.push(chunk.bytes().to_vec());
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Vec<u8>>, SnapshotError> {
        while self.more {
            self.fill()?;
        }
        Ok(self.chunks)
    }
}

fn unbounded(items_per_chunk_max: usize) -> Manner {
    Manner { bounds: Bounds { soft: usize::MAX, hard: usize::MAX }, items_per_chunk_max }
}

/// What came of a snapshot under changes.
struct Outcome {
    /// What the state was when it began.
    before: Vec<u8>,
    chunks: Result<Vec<Vec<u8>>, SnapshotError>,
}

/// Applies `before`, begins a snapshot, and goes on with `during`, which says when it is filled. Checks that
/// the shard does not notice.
fn run(before: &[Step], during: &[Step], manner: Manner, target: usize) -> Outcome {
    let (mut shard, mut model) = (Shard::default(), Shard::default());
    for step in before {
        assert_eq!(shard.apply(step), model.apply(step));
    }
    let image = shard.image();
    let mut slow = Ok(Slow::begin(&shard.kv, manner, target));
    for step in during {
        assert_eq!(shard.apply(step), model.apply(step));
        if matches!(step, Step::Fill) {
            slow = slow.and_then(|mut slow| slow.fill().map(|()| slow));
        }
    }
    let chunks = slow.and_then(Slow::finish);
    assert_eq!(shard.image(), model.image(), "a snapshot changes nothing");
    Outcome { before: image, chunks }
}

fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any_step(), 0..count)
}

proptest! {
    #[test]
    fn a_snapshot_shows_the_state_at_its_beginning(
        before in steps(150),
        during in steps(150),
        items in 1_usize..20,
        target in 1_usize..1000,
    ) {
        let outcome = run(&before, &during, unbounded(items), target);
        // Byte for byte what an undisturbed one writes: replicas can be compared by their images.
        prop_assert_eq!(outcome.chunks.unwrap().concat(), outcome.before);
    }

    #[test]
    fn with_little_memory_it_shows_the_same_state_in_another_order(
        before in steps(150),
        during in steps(150),
        (items, soft) in (1_usize..20, 0_usize..2000),
        target in 1_usize..1000,
    ) {
        let bounds = Bounds { soft, hard: usize::MAX };
        let outcome = run(&before, &during, Manner { bounds, items_per_chunk_max: items }, target);
        let mut restored = Shard::restored(outcome.chunks.unwrap());
        prop_assert_eq!(restored.image(), outcome.before);
    }

    #[test]
    fn with_too_little_memory_it_is_given_up_or_right(
        before in steps(100),
        during in steps(100),
        (soft, hard) in (0_usize..1000, 500_usize..4000),
    ) {
        let manner = Manner { bounds: Bounds { soft, hard }, items_per_chunk_max: 3 };
        let outcome = run(&before, &during, manner, 200);
        match outcome.chunks {
            Ok(chunks) => prop_assert_eq!(Shard::restored(chunks).image(), outcome.before),
            Err(error) => prop_assert!(matches!(error, SnapshotError::Abandoned(_)), "{}", error),
        }
    }

    #[test]
    fn no_image_with_a_change_is_taken_for_whole(
        before in steps(40),
        (cut, bit) in (any::<prop::sample::Index>(), 0..8),
    ) {
        let mut shard = Shard::default();
        before.iter().for_each(|step| drop(shard.apply(step)));
        let image = shard.image();
        let at = cut.index(image.len());
        prop_assert!(restore_chunks(&mut Kv::new(), [&image[..at]]).is_err());
        let mut flipped = image.clone();
        flipped[at] ^= 1_u8 << bit;
        prop_assert!(restore_chunks(&mut Kv::new(), [flipped]).is_err());
        let more = [&image[..], &[32]].concat();
        prop_assert!(restore_chunks(&mut Kv::new(), [more]).is_err());
        prop_assert!(restore_chunks(&mut Kv::new(), [&image[..], &image[..]]).is_err());
    }
}

fn set(n: u8, bytes: u16) -> Step {
    Step::Set(n, bytes, Expiry::Never)
}

/// A key that moves from the end to where the stream has been already; one that is new; a flush half way.
#[test]
fn keys_that_move_across_the_cursor_come_once() {
    let before: Vec<_> = (0..10).map(|n| set(n, 10)).collect();
    let mut during = vec![Step::Fill; 4];
    during.extend([Step::Del(0, 1), set(20, 5), set(9, 7), set(1, 3), Step::Del(9, 8)]);
    let outcome = run(&before, &during, unbounded(1), 1);
    assert_eq!(outcome.chunks.unwrap().concat(), outcome.before);
    during.extend([Step::Fill, Step::Flush, Step::Fill, set(3, 1), Step::Flush, Step::Fill]);
    let outcome = run(&before, &during, unbounded(1), 1);
    assert_eq!(outcome.chunks.unwrap().concat(), outcome.before);
}

/// A key that was aside took the name of another one, which was removed from its position after a flush.
#[test]
fn what_is_aside_keeps_its_key_through_a_flush() {
    let before = [set(1, 10), set(2, 10)];
    let during = [set(2, 11), Step::Flush, set(7, 1), set(8, 1), Step::Del(8, 8)];
    let outcome = run(&before, &during, unbounded(1), 1);
    assert_eq!(outcome.chunks.unwrap().concat(), outcome.before);
}

#[test]
fn values_larger_than_a_chunk_are_cut_and_put_together() {
    let mut shard = Shard::default();
    for step in [set(1, 10), set(2, 60_000), set(3, 4000), set(4, 4090), set(5, 1)] {
        shard.apply(&step);
    }
    let mut slow = Slow::begin(&shard.kv, unbounded(100), 4096);
    slow.fill().unwrap();
    shard.apply(&set(2, 3)); // while it is being written
    let chunks = slow.finish().unwrap();
    assert!(chunks.len() > 18 && chunks.iter().all(|chunk| chunk.len() <= 4096));
    let mut restored = Shard::restored(chunks);
    restored.apply(&set(2, 3));
    assert_eq!(restored.image(), shard.image());
}

#[test]
fn a_key_and_a_value_of_the_largest_size_pass() {
    let (mut shard, mut other) = (Shard::default(), Shard::default());
    let long = vec![b'k'; coracle_engine::limits::PAYLOAD_BYTES_MAX - 64];
    let value = vec![b'v'; crate::server::limits::BULK_BYTES_MAX];
    let mut out = Encoder::default();
    out.set_head(Head { protocol: Default::default(), stale: false, now_ms: 1 });
    let (expiry, when, reply) = (Expiry::After(5), SetIf::Always, SetReply::Status);
    let entries = [
        out.write(&Write::Set { key: b"k", value: &value, expiry, when, reply }),
        out.write(&Write::Rename { from: b"k", to: &long, only_if_absent: false }),
    ];
    for payload in &entries {
        let (index, term) = (LogIndex(1), Term(1));
        let entry = Apply { shard: ShardId(0), index, term, payload };
        shard.kv.apply(entry, &mut BytesMut::new());
    }
    let chunks = snapshot_chunks(shard.kv.snapshot().unwrap()).unwrap();
    assert!(chunks.len() > 1, "it does not fit one chunk");
    restore_chunks(&mut other.kv, chunks).unwrap();
    assert_eq!(other.image(), shard.image());
}

/// When much changes, what is aside goes first and the bound holds; what is aside is not kept for longer.
#[test]
fn what_is_aside_stays_within_its_bounds_and_goes_with_the_stream() {
    let mut shard = Shard::default();
    (0..200).for_each(|n| drop(shard.apply(&set(n, 300))));
    let image = shard.image();
    let manner = Manner { bounds: Bounds { soft: 4000, hard: 20_000 }, items_per_chunk_max: 8 };
    let mut slow = Slow::begin(&shard.kv, manner, 4096);
    for n in 0..200 {
        // The last are overwritten first, where they would have to wait longest.
        shard.apply(&set(199 - n, 301));
        if n % 4 == 0 {
            slow.fill().unwrap();
        }
    }
    let chunks = slow.finish().unwrap();
    assert_ne!(chunks.concat(), image, "some were ahead of their turn");
    assert_eq!(Shard::restored(chunks).image(), image);

    let mut slow = Slow::begin(&shard.kv, manner, 4096);
    let refused = (0..200).find(|n| {
        shard.apply(&set(199 - n, 302));
        n % 50 == 49 && slow.fill().is_err()
    });
    assert!(refused.is_some(), "nothing was filled in time");
    assert!(shard.kv.state.borrow_mut().keys.shadow().is_none());

    let dropped = Slow::begin(&shard.kv, manner, 4096);
    shard.apply(&set(3, 10));
    assert!(shard.kv.state.borrow_mut().keys.shadow().is_some());
    drop(dropped);
    assert!(shard.kv.state.borrow_mut().keys.shadow().is_none());
}

#[test]
fn a_later_snapshot_and_a_restoration_end_an_earlier_one() {
    let mut shard = Shard::default();
    shard.apply(&set(1, 1));
    let first = Slow::begin(&shard.kv, unbounded(1), 1);
    let second = Slow::begin(&shard.kv, unbounded(1), 1);
    assert!(matches!(first.finish(), Err(SnapshotError::Abandoned(_))));
    let chunks = second.finish().unwrap();
    let third = Slow::begin(&shard.kv, unbounded(1), 1);
    restore_chunks(&mut shard.kv, &chunks).unwrap();
    assert!(matches!(third.finish(), Err(SnapshotError::Abandoned(_))));
    assert_eq!(shard.image(), chunks.concat());
}

/// Images lie on disks: whoever changes their bytes needs a new version of the format.
#[test]
fn the_format_stays() {
    let mut shard = Shard::default();
    shard.apply(&Step::Tick(1000));
    shard.apply(&set(1, 3));
    shard.apply(&Step::Set(2, 2, Expiry::At(1500)));
    (3..9).for_each(|n| drop(shard.apply(&set(n, 40))));
    let manner = Manner { bounds: Bounds { soft: 0, hard: usize::MAX }, items_per_chunk_max: 100 };
    let mut slow = Slow::begin(&shard.kv, manner, 50);
    slow.fill().unwrap();
    shard.apply(&Step::Set(8, 1, Expiry::At(2000)));
    let mut chunks = slow.finish().unwrap();
    shard.apply(&set(10, 5000));
    chunks.push(Vec::new());
    chunks.extend(Slow::begin(&shard.kv, unbounded(100), 4096).finish().unwrap());
    let hex = |chunk: &Vec<u8>| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text: String = chunks.iter().map(|chunk| hex(chunk) + "\n").collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/testdata/kv-snapshot.hex");
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, include_str!("../testdata/kv-snapshot.hex"));
}
