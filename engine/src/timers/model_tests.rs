//! Timers beside a simple model: each fires once, in its time, whatever is proposed again and whoever is restored.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::{Entry, TimerId, TimerLimits, TimerReply, Timers};
use crate::hook::{HookCall, HookTimes, LeaderHook};
use crate::limits::{TIMER_COST_BYTES, TIMERS_FIRED_PER_CALL};
use crate::session::{Entry as SessionEntry, RequestId, SessionReply, Sessions};
use crate::{
    Apply, ImageBuffer, LogIndex, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    Term, WholeImage, restore_chunks, snapshot_chunks,
};

/// Remembers all it was given, with the index; the reply is the payload. Wants to be called every second, and at
/// 1,000,000 by the wall clock.
#[derive(Default)]
struct Journal {
    entries: Vec<u8>,
    restoring: ImageBuffer,
}

impl StateMachine for Journal {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        assert!(reply.is_empty(), "a machine gets an empty buffer");
        self.entries.put_u64(entry.index.0);
        self.entries.put_u8(entry.payload.len() as u8);
        self.entries.put_slice(entry.payload);
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

    fn hook(&self) -> Option<&dyn LeaderHook> {
        Some(self)
    }
}

impl LeaderHook for Journal {
    fn times(&self) -> HookTimes {
        HookTimes::every(std::time::Duration::from_secs(1)).or_at(Some(1_000_000))
    }

    fn call(&self, _: HookCall) -> Vec<Bytes> {
        vec![Bytes::from_static(b"hook")]
    }
}

fn apply(machine: &mut impl StateMachine, index: u64, payload: &Bytes) -> Bytes {
    let mut reply = BytesMut::new();
    let entry = Apply { shard: ShardId(0), index: LogIndex(index), term: Term(1), payload };
    machine.apply(entry, &mut reply);
    reply.freeze()
}

fn image(machine: &mut impl StateMachine) -> Vec<Vec<u8>> {
    snapshot_chunks(machine.snapshot().unwrap()).unwrap()
}

fn call(unix_ms: u64) -> HookCall {
    HookCall { shard: ShardId(0), term: Term(1), unix_ms, interval: false }
}

/// Lists, and a look through all of them.
#[derive(Default)]
struct Model {
    limits: TimerLimits,
    timers: BTreeMap<u64, (u64, Bytes)>,
    journal: Journal,
}

impl Model {
    fn apply(&mut self, index: u64, payload: &Bytes) -> TimerReply {
        match Entry::decode(payload) {
            Err(_) => TimerReply::Malformed,
            Ok(Entry::Plain(payload)) => {
                TimerReply::Applied(apply(&mut self.journal, index, &payload))
            }
            Ok(Entry::Set { at_ms, payload }) => {
                let cost = |payload: &Bytes| TIMER_COST_BYTES + payload.len() as u64;
                let bytes: u64 = self.timers.values().map(|(_, payload)| cost(payload)).sum();
                if payload.len() as u64 > self.limits.payload_bytes {
                    return TimerReply::TooLarge;
                }
                let full = self.timers.len() as u64 + 1 > self.limits.timers;
                if full || bytes + cost(&payload) > self.limits.bytes {
                    return TimerReply::Full;
                }
                self.timers.insert(index, (at_ms, payload));
                TimerReply::Set(TimerId(index))
            }
            Ok(Entry::Cancel { timer }) => match self.timers.remove(&timer.0) {
                Some(_) => TimerReply::Done,
                None => TimerReply::UnknownTimer,
            },
            Ok(Entry::Fire { timer, now_ms }) => match self.timers.get(&timer.0).cloned() {
                None => TimerReply::UnknownTimer,
                Some((at_ms, _)) if now_ms < at_ms => TimerReply::NotDue,
                Some((_, payload)) => {
                    self.timers.remove(&timer.0);
                    TimerReply::Fired(apply(&mut self.journal, index, &payload))
                }
            },
            Ok(Entry::Configure(limits)) => {
                self.limits = limits;
                TimerReply::Done
            }
        }
    }
}

/// What comes next in the log, or happens to a replica.
#[derive(Clone, Debug)]
enum Step {
    Plain(u8),
    Set {
        at_ms: u64,
        bytes: usize,
    },
    /// Of the newest timers.
    Cancel(u64),
    Fire {
        back: u64,
        now_ms: u64,
    },
    /// The leader's hook is called; with a second leader that has not seen what the first one proposed.
    Hook {
        now_ms: u64,
        twice: bool,
    },
    /// An entry that was there comes again.
    Again(usize),
    Configure {
        timers: u64,
        payload_bytes: u64,
    },
    Garbage(Vec<u8>),
    /// Another replica begins with a snapshot.
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => any::<u8>().prop_map(Step::Plain),
        12 => (0..1000_u64, 0..12_usize).prop_map(|(at_ms, bytes)| Step::Set { at_ms, bytes }),
        3 => (0..8_u64).prop_map(Step::Cancel),
        3 => (0..8_u64, 0..1100_u64).prop_map(|(back, now_ms)| Step::Fire { back, now_ms }),
        8 => (0..1100_u64, any::<bool>()).prop_map(|(now_ms, twice)| Step::Hook { now_ms, twice }),
        6 => (0..20_usize).prop_map(Step::Again),
        1 => (0..6_u64, 0..12_u64)
            .prop_map(|(timers, payload_bytes)| Step::Configure { timers, payload_bytes }),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Step::Garbage),
        2 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn timers_fire_once_and_as_the_model_says(steps in steps()) {
        let mut model = Model::default();
        let mut full = Timers::new(Journal::default());
        // A replica that is restored again and again.
        let mut other = Timers::new(Box::new(Journal::default()) as Box<dyn StateMachine>);
        let (mut log, mut fired) = (Vec::<Bytes>::new(), BTreeMap::new());
        for step in &steps {
            let last = log.len() as u64;
            let newest = |back: &u64| TimerId(last.saturating_sub(*back).max(1));
            let entries = match step {
                Step::Restore => {
                    let chunks = image(&mut full);
                    prop_assert_eq!(&chunks, &image(&mut other));
                    // Half a restoration before it leaves nothing behind.
                    other.restore(Restore::Begin).unwrap();
                    other.restore(Restore::Chunk(&chunks[0])).unwrap();
                    restore_chunks(&mut other, &chunks).unwrap();
                    prop_assert_eq!(&chunks, &image(&mut other));
                    vec![]
                }
                Step::Hook { now_ms, twice } => {
                    let due = full.times().at_unix_ms.unwrap_or(u64::MAX) <= *now_ms;
                    let proposed = full.call(call(*now_ms));
                    prop_assert_eq!(due, !proposed.is_empty());
                    prop_assert_eq!(&proposed, &other.call(call(*now_ms)));
                    if *twice { [proposed.clone(), proposed].concat() } else { proposed }
                }
                Step::Plain(byte) => vec![Entry::Plain(vec![*byte].into()).encode()],
                Step::Set { at_ms, bytes } => {
                    vec![Entry::Set { at_ms: *at_ms, payload: vec![b't'; *bytes].into() }.encode()]
                }
                Step::Cancel(back) => vec![Entry::Cancel { timer: newest(back) }.encode()],
                Step::Fire { back, now_ms } => {
                    vec![Entry::Fire { timer: newest(back), now_ms: *now_ms }.encode()]
                }
                Step::Again(back) => log.iter().rev().skip(*back).take(1).cloned().collect(),
                Step::Configure { timers, payload_bytes } => {
                    let (timers, payload_bytes) = (*timers, *payload_bytes);
                    let bytes = timers * (TIMER_COST_BYTES + payload_bytes / 2);
                    vec![Entry::Configure(TimerLimits { timers, payload_bytes, bytes }).encode()]
                }
                Step::Garbage(bytes) => vec![Bytes::from(bytes.clone())],
            };
            for payload in entries {
                log.push(payload.clone());
                let index = log.len() as u64;
                let expected = model.apply(index, &payload);
                if let (TimerReply::Fired(_), Ok(Entry::Fire { timer, .. })) =
                    (&expected, Entry::decode(&payload))
                {
                    prop_assert_eq!(fired.insert(timer, index), None, "{} fired twice", timer);
                }
                let reply = apply(&mut full, index, &payload);
                prop_assert_eq!(TimerReply::decode(&reply), Ok(expected));
                prop_assert_eq!(apply(&mut other, index, &payload), reply);
            }
        }
        prop_assert_eq!(&full.machine().entries, &model.journal.entries);
        // In the end, everything fires, in bounded steps.
        while full.count() > 0 {
            let before = full.count();
            for payload in full.call(call(u64::MAX)) {
                log.push(payload.clone());
                apply(&mut full, log.len() as u64, &payload);
            }
            prop_assert!(full.count() < before);
        }
        prop_assert_eq!(full.times().at_unix_ms, Some(1_000_000), "that of the machine within");
    }
}

#[test]
fn a_stream_shows_its_moment_while_timers_fire() {
    let mut machine = Timers::new(Journal::default());
    for index in 1..=20 {
        let set = Entry::Set { at_ms: index, payload: Bytes::from_static(b"x") };
        apply(&mut machine, index, &set.encode());
    }
    let before = image(&mut machine);
    let stream = machine.snapshot().unwrap();
    for (payload, index) in machine.call(call(15)).into_iter().zip(21..) {
        apply(&mut machine, index, &payload);
    }
    assert_eq!(machine.count(), 5);
    assert_eq!(snapshot_chunks(stream).unwrap(), before);
    assert_ne!(image(&mut machine), before);
    // A restoration ends the streams before it.
    let stream = machine.snapshot().unwrap();
    restore_chunks(&mut machine, &before).unwrap();
    assert!(matches!(snapshot_chunks(stream), Err(SnapshotError::Abandoned(_))));
    assert_eq!(machine.count(), 20);
}

#[test]
fn one_call_fires_a_bounded_number_those_first_that_are_due_longest() {
    let mut machine = Timers::new(Journal::default());
    let all = TIMERS_FIRED_PER_CALL as u64 + 10;
    for index in 1..=all {
        let set = Entry::Set { at_ms: 1000 - index, payload: Bytes::new() };
        apply(&mut machine, index, &set.encode());
    }
    let fires = machine.call(call(1000));
    assert_eq!(fires.len(), TIMERS_FIRED_PER_CALL);
    assert_eq!(fires[0], Entry::Fire { timer: TimerId(all), now_ms: 1000 }.encode());
}

#[test]
fn the_hook_of_the_machine_within_is_called_at_its_own_times() {
    let mut machine = Timers::new(Journal::default());
    assert_eq!(machine.times(), Journal::default().times());
    assert!(machine.call(call(5)).is_empty());
    let plain = Entry::Plain(Bytes::from_static(b"hook")).encode();
    let by_interval = machine.call(HookCall { interval: true, ..call(5) });
    assert_eq!(by_interval, std::slice::from_ref(&plain));
    apply(&mut machine, 1, &Entry::Set { at_ms: 3, payload: Bytes::new() }.encode());
    assert_eq!(machine.times().at_unix_ms, Some(3));
    let fire = |now_ms| Entry::Fire { timer: TimerId(1), now_ms }.encode();
    assert_eq!(machine.call(call(5)), [fire(5)], "not for the one within");
    assert_eq!(machine.call(call(1_000_000)), [plain, fire(1_000_000)]);
}

#[test]
fn an_old_log_goes_to_the_machine_as_it_is() {
    let mut machine = Timers::over_old_log(Journal::default());
    let bare = Bytes::from_static(b"bare");
    assert_eq!(apply(&mut machine, 1, &bare), bare);
    let old = image(&mut Journal { entries: b"old".to_vec(), ..Journal::default() });
    restore_chunks(&mut machine, &old).unwrap();
    assert_eq!(machine.machine().entries, b"old");
    assert_eq!(image(&mut machine), old, "nodes without timers can read it, too");
    assert_eq!(machine.call(HookCall { interval: true, ..call(5) }), [Bytes::from_static(b"hook")]);
    let set = Entry::Set { at_ms: 9, payload: Bytes::new() }.encode();
    assert_eq!(TimerReply::decode(&apply(&mut machine, 2, &set)), Ok(TimerReply::Set(TimerId(2))));
    let refused = apply(&mut machine, 3, &Bytes::from_static(&[0xdf]));
    assert_eq!(TimerReply::decode(&refused), Ok(TimerReply::Malformed));
    assert_eq!(
        TimerReply::decode(&apply(&mut Timers::new(Journal::default()), 1, &bare)),
        Ok(TimerReply::Malformed)
    );
}

/// Sessions around timers: a *set* that is sent again is answered again, and the clock of the sessions and the
/// timers come from one hook.
#[test]
fn timers_are_set_once_in_sessions() {
    let mut machine = Sessions::new(Timers::new(Journal::default()));
    let mut index = 0;
    let mut put = |machine: &mut Sessions<Timers<Journal>>, payload: Bytes| {
        index += 1;
        SessionReply::decode(&apply(machine, index, &payload)).unwrap()
    };
    let opened = put(&mut machine, SessionEntry::Open.encode());
    let SessionReply::Opened { session, .. } = opened else { panic!("{opened:?}") };
    let payload = Entry::Set { at_ms: 700, payload: Bytes::from_static(b"ring") }.encode();
    let (request, first) = (RequestId(1), RequestId(1));
    let set = SessionEntry::Request { session, request, first, payload }.encode();
    let reply = put(&mut machine, set.clone());
    let SessionReply::Applied(reply) = reply else { panic!("{reply:?}") };
    assert_eq!(put(&mut machine, set), SessionReply::Duplicate(reply));
    assert_eq!(machine.machine().count(), 1);

    assert_eq!(machine.times().at_unix_ms, Some(0), "sessions want a clock");
    for payload in machine.call(call(600)) {
        assert_eq!(put(&mut machine, payload), SessionReply::Done);
    }
    assert_eq!(machine.times().at_unix_ms, Some(700));
    for payload in machine.call(call(700)) {
        let fired = put(&mut machine, payload);
        assert!(matches!(fired, SessionReply::Applied(_)), "{fired:?}");
    }
    assert_eq!(machine.machine().count(), 0);
    assert!(machine.machine().machine().entries.ends_with(b"ring"));
}
