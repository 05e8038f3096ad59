//! Sessions beside a simple model: what is sent in any order and any number of times is applied once.
//!
//! The model keeps lists, looks through all of them, and forgets nothing but what the head of the module says. Its
//! answers, the state behind the sessions, and snapshots must be those of the real thing.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_wal::AlignedBuf;
use proptest::prelude::*;

use super::{Entry, RequestId, SessionId, SessionLimits, SessionReply, Sessions};
use crate::limits::SESSION_REPLY_COST_BYTES;
use crate::snapshot::ChunkSink;
use crate::{
    Apply, ImageBuffer, LogIndex, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    Term, WholeImage, restore_chunks,
};

/// Remembers all it was given; the reply is how many that are, and the payload.
#[derive(Default)]
struct Journal {
    entries: Vec<u8>,
    restoring: ImageBuffer,
}

impl Journal {
    /// The payloads in their order.
    fn payloads(&self) -> Vec<&[u8]> {
        self.entries.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect()
    }
}

impl StateMachine for Journal {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        assert!(reply.is_empty(), "a machine gets an empty buffer");
        self.entries.extend_from_slice(entry.payload);
        self.entries.push(b'\n');
        reply.put_u64(self.entries.len() as u64);
        reply.put_slice(entry.payload);
    }

    fn query(&self, _: &Bytes, reply: &mut BytesMut) {
        reply.put_slice(&self.entries);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        Ok(Box::new(WholeImage::new(self.entries.clone())))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        if let Some(image) = self.restoring.take(part)? {
            self.entries = image;
        }
        Ok(())
    }
}

fn apply(machine: &mut impl StateMachine, index: u64, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    let entry = Apply { shard: ShardId(0), index: LogIndex(index), term: Term(1), payload };
    machine.apply(entry, &mut reply);
    reply.freeze()
}

/// All chunks of a snapshot, cut near `target`.
fn chunks(mut stream: Box<dyn SnapshotStream>, target: usize) -> Vec<Vec<u8>> {
    let mut buf = AlignedBuf::zeroed(1 << 16);
    let mut chunks = Vec::new();
    loop {
        let mut chunk = ChunkSink::with_target(&mut buf, target);
        let more = stream.fill(&mut chunk).expect("nothing in the way");
        if !chunk.is_empty() {
            chunks.push(chunk.bytes().to_vec());
        }
        if !more {
            return chunks;
        }
    }
}

struct ModelSession {
    id: u64,
    used: u64,
    used_ms: u64,
    first: u64,
    /// Request, reply if it is kept.
    applied: Vec<(u64, Option<Bytes>)>,
}

impl ModelSession {
    fn bytes(&self) -> u64 {
        let bytes = |reply: &Option<Bytes>| reply.as_ref().map_or(0, |reply| reply.len() as u64);
        self.applied.iter().map(|(_, reply)| SESSION_REPLY_COST_BYTES + bytes(reply)).sum()
    }
}

#[derive(Default)]
struct Model {
    limits: SessionLimits,
    wall_ms: u64,
    clock_ms: u64,
    sessions: Vec<ModelSession>,
    journal: Journal,
}

impl Model {
    fn apply(&mut self, index: u64, payload: &Bytes) -> Bytes {
        let reply = match Entry::decode(payload) {
            Err(_) => SessionReply::Malformed,
            Ok(entry) => self.entry(index, entry),
        };
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        out.freeze()
    }

    fn entry(&mut self, index: u64, entry: Entry) -> SessionReply {
        match entry {
            Entry::Plain(payload) => {
                return SessionReply::Applied(apply(&mut self.journal, index, &payload));
            }
            Entry::Open => {
                self.shrink(self.limits.sessions - 1);
                let used_ms = self.clock_ms;
                let applied = Vec::new();
                self.sessions.push(ModelSession {
                    id: index,
                    used: index,
                    used_ms,
                    first: 1,
                    applied,
                });
                return SessionReply::Opened { session: SessionId(index), limits: self.limits };
            }
            Entry::Request { session, request, first, payload } => {
                return self.request(index, session, request.0, first.0, &payload);
            }
            Entry::KeepAlive { session, first } => {
                if self.used(index, session, first.0).is_none() {
                    return SessionReply::UnknownSession;
                }
            }
            Entry::Close { session } => {
                let Some(at) = self.sessions.iter().position(|found| found.id == session.0) else {
                    return SessionReply::UnknownSession;
                };
                self.sessions.remove(at);
            }
            Entry::Tick { now_ms } => {
                if self.wall_ms > 0 {
                    let passed = now_ms.saturating_sub(self.wall_ms);
                    self.clock_ms += passed.min(self.limits.step_ms_max());
                }
                self.wall_ms = self.wall_ms.max(now_ms);
                let (now, timeout) = (self.clock_ms, self.limits.idle_timeout_ms);
                self.sessions.retain(|session| now - session.used_ms < timeout);
            }
            Entry::Configure(limits) => {
                self.limits = limits;
                self.shrink(limits.sessions);
                let (now, timeout) = (self.clock_ms, self.limits.idle_timeout_ms);
                self.sessions.retain(|session| now - session.used_ms < timeout);
            }
        }
        SessionReply::Done
    }

    fn shrink(&mut self, sessions: u64) {
        while self.sessions.len() as u64 > sessions {
            let longest = self.sessions.iter().map(|session| session.used).min();
            self.sessions.retain(|session| Some(session.used) != longest);
        }
    }

    fn used(&mut self, index: u64, id: SessionId, first: u64) -> Option<&mut ModelSession> {
        let now = self.clock_ms;
        let session = self.sessions.iter_mut().find(|session| session.id == id.0)?;
        session.used = index;
        session.used_ms = now;
        session.first = session.first.max(first);
        let first = session.first;
        session.applied.retain(|(request, _)| *request >= first);
        Some(session)
    }

    fn request(
        &mut self,
        index: u64,
        id: SessionId,
        request: u64,
        first: u64,
        payload: &Bytes,
    ) -> SessionReply {
        let limits = self.limits;
        let Some(session) = self.used(index, id, first) else {
            return SessionReply::UnknownSession;
        };
        if request < session.first {
            return SessionReply::Acknowledged;
        }
        if let Some((_, reply)) = session.applied.iter().find(|(done, _)| *done == request) {
            return match reply {
                Some(reply) => SessionReply::Duplicate(reply.clone()),
                None => SessionReply::ReplyGone,
            };
        }
        if request - session.first >= limits.window {
            return SessionReply::WindowFull;
        }
        if session.bytes() >= limits.session_bytes {
            return SessionReply::RepliesFull;
        }
        let reply = apply(&mut self.journal, index, payload);
        let all: u64 = self.sessions.iter().map(ModelSession::bytes).sum();
        let bytes = reply.len() as u64;
        let fits = bytes <= limits.reply_bytes
            && all + bytes + SESSION_REPLY_COST_BYTES <= limits.shard_bytes;
        let kept = fits.then(|| reply.clone());
        let session = self.sessions.iter_mut().find(|session| session.id == id.0);
        session.expect("it was there").applied.push((request, kept));
        SessionReply::Applied(reply)
    }
}

/// What comes next in the log, or happens to a replica.
#[derive(Clone, Debug)]
enum Step {
    Plain(u8),
    Open,
    /// A new request: which session, how far its id goes beyond the last one, how far back it acknowledges.
    Request {
        session: usize,
        skip: u64,
        open: u64,
        bytes: usize,
    },
    /// An entry that was there comes again: a client that sends again, or an entry of a slow leader.
    Again(usize),
    KeepAlive {
        session: usize,
        open: u64,
    },
    Close(usize),
    Tick(i64),
    Configure {
        sessions: u64,
        window: u64,
        bytes: u64,
        idle_ms: u64,
    },
    Garbage(Vec<u8>),
    /// Another replica begins with a snapshot, in chunks of so many bytes.
    Restore(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => any::<u8>().prop_map(Step::Plain),
        3 => Just(Step::Open),
        12 => (0..6_usize, 0..3_u64, 0..5_u64, 0..40_usize)
            .prop_map(|(session, skip, open, bytes)| Step::Request { session, skip, open, bytes }),
        12 => (0..40_usize).prop_map(Step::Again),
        1 => (0..6_usize, 0..5_u64).prop_map(|(session, open)| Step::KeepAlive { session, open }),
        1 => (0..6_usize).prop_map(Step::Close),
        4 => (-20..60_i64).prop_map(Step::Tick),
        1 => (1..5_u64, 1..6_u64, 0..60_u64, 1..300_u64).prop_map(
            |(sessions, window, bytes, idle_ms)| Step::Configure { sessions, window, bytes, idle_ms }
        ),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Step::Garbage),
        2 => (1..200_usize).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..120)
}

/// Makes up entries of clients that keep to nothing but their ids.
#[derive(Default)]
struct Clients {
    /// Sessions in the order they were opened, and the last request id of each.
    sessions: Vec<(SessionId, u64)>,
    sent: Vec<Bytes>,
    wall_ms: u64,
}

impl Clients {
    fn entry(&mut self, step: &Step) -> Option<Bytes> {
        // Of the newest sessions, so that most of them are there.
        let newest = |session: &usize, all: usize| all.checked_sub(1 + session % all.clamp(1, 6));
        let entry = match step {
            Step::Restore(_) => return None,
            Step::Garbage(bytes) => return Some(Bytes::from(bytes.clone())),
            Step::Again(back) => {
                let at = self.sent.len().checked_sub(1 + back)?;
                return Some(self.sent[at].clone());
            }
            Step::Plain(byte) => Entry::Plain(Bytes::from(vec![b'a' + byte % 26])),
            Step::Open => Entry::Open,
            Step::Request { session, skip, open, bytes } => {
                let at = newest(session, self.sessions.len())?;
                let (session, last) = &mut self.sessions[at];
                *last += 1 + skip;
                let payload = format!("{session}/{last}/{}", "x".repeat(*bytes));
                Entry::Request {
                    session: *session,
                    request: RequestId(*last),
                    first: RequestId(last.saturating_sub(*open).max(1)),
                    payload: payload.into(),
                }
            }
            Step::KeepAlive { session, open } => {
                let (session, last) = self.sessions[newest(session, self.sessions.len())?];
                let first = RequestId(last.saturating_sub(*open).max(1));
                Entry::KeepAlive { session, first }
            }
            Step::Close(session) => {
                let (session, _) = self.sessions[newest(session, self.sessions.len())?];
                Entry::Close { session }
            }
            Step::Tick(by) => {
                self.wall_ms = self.wall_ms.saturating_add_signed(*by);
                Entry::Tick { now_ms: self.wall_ms }
            }
            Step::Configure { sessions, window, bytes, idle_ms } => {
                Entry::Configure(SessionLimits {
                    sessions: *sessions,
                    window: *window,
                    reply_bytes: *bytes,
                    session_bytes: 1 + bytes * 5,
                    shard_bytes: bytes * 10,
                    idle_timeout_ms: *idle_ms,
                })
            }
        };
        let payload = entry.encode();
        self.sent.push(payload.clone());
        Some(payload)
    }
}

/// A snapshot, what it has to show, and what it has shown.
struct UnderWay {
    stream: Box<dyn SnapshotStream>,
    expected: Vec<u8>,
    shown: Vec<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn requests_are_applied_once_and_answered_as_the_model_says(steps in steps()) {
        let mut clients = Clients::default();
        let mut model = Model::default();
        let mut full = Sessions::new(Journal::default());
        // A replica that is restored again and again.
        let mut other = Sessions::new(Box::new(Journal::default()) as Box<dyn StateMachine>);
        let small = Entry::Configure(SessionLimits {
            sessions: 3, window: 4, reply_bytes: 40, session_bytes: 400, shard_bytes: 700,
            idle_timeout_ms: 100,
        });
        let mut index = 0;
        for step in std::iter::once(None).chain(steps.iter().map(Some)) {
            if let Some(Step::Restore(target)) = step {
                let image = chunks(full.snapshot().unwrap(), *target);
                prop_assert_eq!(&image, &chunks(other.snapshot().unwrap(), *target));
                // Half a restoration before it leaves nothing behind.
                other.restore(Restore::Begin).unwrap();
                other.restore(Restore::Chunk(&image[0])).unwrap();
                restore_chunks(&mut other, &image).unwrap();
                prop_assert_eq!(&image, &chunks(other.snapshot().unwrap(), *target));
                continue;
            }
            let payload = match step {
                None => Some(small.encode()),
                Some(step) => clients.entry(step),
            };
            let Some(payload) = payload else { continue };
            index += 1;
            let expected = model.apply(index, &payload);
            if let Ok(SessionReply::Opened { session, .. }) = SessionReply::decode(&expected) {
                clients.sessions.push((session, 0));
            }
            prop_assert_eq!(&apply(&mut full, index, &payload), &expected, "{:?}", step);
            prop_assert_eq!(apply(&mut other, index, &payload), expected, "{:?}", step);
        }
        prop_assert_eq!(&full.machine().entries, &model.journal.entries);
        let mut done = BTreeSet::new();
        for payload in full.machine().payloads().into_iter().filter(|line| line.contains(&b'/')) {
            prop_assert!(done.insert(payload), "{} was applied twice", payload.escape_ascii());
        }
    }

    #[test]
    fn a_stream_shows_its_moment_while_entries_are_applied(steps in steps(), target in 1..100_usize) {
        let mut clients = Clients::default();
        let mut machine = Sessions::new(Journal::default());
        let mut under_way: Option<UnderWay> = None;
        let mut buf = AlignedBuf::zeroed(1 << 16);
        for (step, index) in steps.iter().zip(1..) {
            let Some(payload) = clients.entry(step) else { continue };
            let reply = apply(&mut machine, index, &payload);
            if let Ok(SessionReply::Opened { session, .. }) = SessionReply::decode(&reply) {
                clients.sessions.push((session, 0));
            }
            let UnderWay { stream, expected, shown } = under_way.get_or_insert_with(|| {
                let expected = chunks(machine.snapshot().unwrap(), target).concat();
                UnderWay { stream: machine.snapshot().unwrap(), expected, shown: Vec::new() }
            });
            let mut chunk = ChunkSink::with_target(&mut buf, target);
            let more = stream.fill(&mut chunk).unwrap();
            shown.extend_from_slice(chunk.bytes());
            if !more {
                prop_assert_eq!(expected, shown);
                under_way = None;
            }
        }
    }
}

#[test]
fn a_stream_fails_when_another_state_is_restored() {
    let mut machine = Sessions::new(Journal::default());
    let mut stream = machine.snapshot().expect("a stream");
    let image = chunks(machine.snapshot().expect("a stream"), 10);
    restore_chunks(&mut machine, &image).expect("its own image");
    let mut buf = AlignedBuf::zeroed(4096);
    let failed = stream.fill(&mut ChunkSink::new(&mut buf));
    assert!(matches!(failed, Err(SnapshotError::Abandoned(_))), "{failed:?}");
}

#[test]
fn images_that_are_not_whole_are_refused() {
    let mut machine = Sessions::new(Journal::default());
    assert!(machine.restore(Restore::Chunk(b"x")).is_err());
    assert!(machine.restore(Restore::End).is_err());
    assert!(restore_chunks(&mut machine, [b"x"]).is_err());
    assert!(restore_chunks(&mut machine, [b""; 0]).is_err(), "no image at all");
    let image = chunks(machine.snapshot().expect("a stream"), 1);
    restore_chunks(&mut machine, &image[..image.len() - 1]).expect_err("cut off");
    restore_chunks(&mut machine, &image).expect("whole");
}

#[test]
fn a_machine_without_snapshots_has_none_under_sessions() {
    struct Mute;
    impl StateMachine for Mute {
        fn apply(&mut self, _: Apply<'_>, _: &mut BytesMut) {}
        fn query(&self, _: &Bytes, _: &mut BytesMut) {}
    }
    let mut machine = Sessions::new(Mute);
    assert!(matches!(machine.snapshot(), Err(SnapshotError::Unsupported)));
    assert!(machine.fold().is_none());
}

#[test]
fn an_old_log_goes_on_as_it_was() {
    let mut before = Journal::default();
    let old: Vec<Bytes> = ["one", "two", ""].map(Bytes::from).to_vec();
    let mut machine = Sessions::over_old_log(Journal::default());
    for (payload, index) in old.iter().zip(1..) {
        assert_eq!(apply(&mut machine, index, payload), apply(&mut before, index, payload));
    }
    assert_eq!(machine.machine().entries, before.entries);
    // A snapshot from before, also one of nothing.
    let image = chunks(before.snapshot().expect("a stream"), 2);
    restore_chunks(&mut machine, &image).expect("an old image");
    assert_eq!(machine.machine().entries, before.entries);
    restore_chunks(&mut machine, [b""; 0]).expect("an old image of nothing");
    assert_eq!(machine.machine().entries, b"");
    // Sessions from now on.
    let opened = SessionReply::decode(&apply(&mut machine, 9, &Entry::Open.encode()));
    assert!(matches!(opened, Ok(SessionReply::Opened { session: SessionId(9), .. })));
    let image = chunks(machine.snapshot().expect("a stream"), 2);
    let mut other = Sessions::over_old_log(Journal::default());
    restore_chunks(&mut other, &image).expect("a new image");
    let close = Entry::Close { session: SessionId(9) }.encode();
    assert_eq!(SessionReply::decode(&apply(&mut other, 10, &close)), Ok(SessionReply::Done));
    // What claims to be an entry of sessions is not given to the machine.
    let refused = apply(&mut other, 11, &Bytes::from_static(&[0xef]));
    assert_eq!(SessionReply::decode(&refused), Ok(SessionReply::Malformed));
}

#[test]
fn idle_sessions_are_freed_a_few_at_a_time_and_gone_at_once() {
    let mut machine = Sessions::new(Journal::default());
    let mut index = 0;
    let mut put = |machine: &mut Sessions<Journal>, entry: Entry| {
        index += 1;
        SessionReply::decode(&apply(machine, index, &entry.encode())).expect("a reply")
    };
    let limits = SessionLimits { idle_timeout_ms: 4, ..SessionLimits::default() };
    put(&mut machine, Entry::Configure(limits));
    for _ in 0..200 {
        put(&mut machine, Entry::Open);
    }
    for now_ms in 1..=5 {
        put(&mut machine, Entry::Tick { now_ms });
    }
    let left = |machine: &mut Sessions<Journal>| {
        let image = chunks(machine.snapshot().expect("a stream"), 1 << 15);
        image.concat().len()
    };
    let before = left(&mut machine);
    let keep = Entry::KeepAlive { session: SessionId(150), first: RequestId(1) };
    assert_eq!(put(&mut machine, keep), SessionReply::UnknownSession);
    assert!(left(&mut machine) < before);
    for _ in 0..4 {
        put(&mut machine, Entry::Plain(Bytes::new()));
    }
    assert!(left(&mut machine) < 40, "{} bytes", left(&mut machine));
}
