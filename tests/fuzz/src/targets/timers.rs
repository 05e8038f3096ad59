//! Timers: entries of the log, and timers in snapshots. An entry without a byte stands for a call of the hook.

use bytes::Bytes;
use coracle_engine::hook::{HookCall, LeaderHook};
use coracle_engine::timers::{Entry, TimerId, TimerReply, Timers};
use coracle_engine::{ShardId, Term};

use super::echo::{self, Echo};
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "timers",
    run,
    mend: Some(echo::mend),
    seeds,
    memory: Memory {
        constant: 8 << 20,
        factor: 1000,
        reason: "buffers for chunks; a timer of three bytes takes some hundred, twice",
    },
};

/// The clock that hooks are called with.
const NOW_MS: u64 = 1_700_000_000_000;

fn run(data: &[u8]) {
    let mut index = 0;
    echo::run(Timers::new(Echo::default()), data, |machine, payload| {
        if payload.is_empty() {
            index = fire(machine, index);
            return;
        }
        if let Ok(entry) = Entry::decode(&payload) {
            assert_eq!(entry.encode(), payload, "an entry can be written in one way only");
        }
        index += 1;
        let reply = echo::apply(machine, index, &payload);
        TimerReply::decode(&reply).expect("every entry is answered by timers");
    });
}

/// Applies what the hook proposes; all of it fires, once.
fn fire(machine: &mut Timers<Echo>, mut index: u64) -> u64 {
    let call = HookCall { shard: ShardId(0), term: Term(1), unix_ms: NOW_MS, interval: false };
    let proposed = machine.call(call);
    let before = machine.count();
    for payload in &proposed {
        index += 1;
        let reply = TimerReply::decode(&echo::apply(machine, index, payload));
        assert!(matches!(reply, Ok(TimerReply::Fired(_))), "{reply:?}");
        index += 1;
        let again = TimerReply::decode(&echo::apply(machine, index, payload));
        assert_eq!(again, Ok(TimerReply::UnknownTimer));
    }
    assert_eq!(machine.count(), before - proposed.len());
    index
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
    let call = Bytes::new();
    echo::seeds(|| Timers::new(Echo::default()), &[&all[..], &[call]].concat())
}
