//! The hook of the leader: something that a state machine wants done now and then, on one replica.
//!
//! Expiring what is old, firing what is due, telling the time: somebody has to begin it, and if all replicas did, it
//! would be done as often as there are replicas. A machine with a [`LeaderHook`] is called for it by the core that it
//! lives on, at the times that it names, while its replica leads. What the hook returns is proposed like anybody's
//! proposal; the machine meets it again in [`apply`](crate::StateMachine::apply), like every replica.
//!
//! # What is promised
//! - The hook is called **only on a replica that leads**, as far as it knows, and that **has applied everything of
//!   earlier terms**: what earlier leaders proposed is seen, or will never come.
//! - For [`HookTimes::every`], a leader is called at most once per interval. The first call comes at once, so that a
//!   task with a long interval is done although leaders change more often than that.
//! - While something that a call returned is neither applied nor lost, there is no other call. So a hook never
//!   sees a state that lacks what it has proposed itself.
//! - What it returns goes **the way of all proposals**: each payload is committed at most once, and refused if this
//!   replica does not lead after all. So two nodes may well call their hooks at the same time around a change of
//!   leader, and nothing comes of the old one's call.
//!
//! # What is not
//! - **Not exactly once.** A leader may die between the call and the commit, and its successor is called again.
//!   What must be done once has to be recognised when it is applied, as [`timers`](crate::timers) do.
//! - **Not in time.** Calls come with the ticks of a core, twice per heartbeat interval, a bounded number with each;
//!   after a refusal (overloaded, disk full) not before [`HOOK_RETRY_PAUSE`](crate::limits::HOOK_RETRY_PAUSE);
//!   and not while leadership is handed over, a snapshot is restored, or the core stops.
//! - **No change of the state.** A hook gets `&self`: what it would change, no other replica would.
//!
//! # What it costs
//! A shard whose machine has no hook pays one look at an empty field per turn that has work for it. With a hook,
//! [`LeaderHook::times`] is asked after each turn in which something happened to the leading replica. Otherwise
//! nothing happens until the time that it has named, also to a shard that sleeps: it wakes for a call only if that
//! returns something.
//!
//! # Example
//! ```
//! use std::time::Duration;
//!
//! use bytes::{Bytes, BytesMut};
//! use coracle_engine::hook::{HookCall, HookTimes, LeaderHook};
//! use coracle_engine::{Apply, StateMachine};
//!
//! /// Every minute it forgets half of what it has counted.
//! struct Fading(u64);
//!
//! impl StateMachine for Fading {
//!     fn apply(&mut self, entry: Apply<'_>, _: &mut BytesMut) {
//!         match &entry.payload[..] {
//!             b"fade" => self.0 /= 2,
//!             _ => self.0 += 1,
//!         }
//!     }
//!     fn query(&self, _: &Bytes, reply: &mut BytesMut) {
//!         reply.extend_from_slice(&self.0.to_be_bytes());
//!     }
//!     fn hook(&self) -> Option<&dyn LeaderHook> {
//!         Some(self)
//!     }
//! }
//!
//! impl LeaderHook for Fading {
//!     fn times(&self) -> HookTimes {
//!         // While there is nothing to forget, nobody has to wake up.
//!         if self.0 == 0 { HookTimes::NEVER } else { HookTimes::every(Duration::from_secs(60)) }
//!     }
//!     fn call(&self, _: HookCall) -> Vec<Bytes> {
//!         vec![Bytes::from_static(b"fade")]
//!     }
//! }
//! # assert_eq!(Fading(0).times(), HookTimes::NEVER);
//! ```

use std::time::Duration;

use bytes::Bytes;

use crate::{ShardId, Term};

/// When a hook is to be called: whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookTimes {
    /// At this interval, by a clock that does not jump; at least a tick of the core.
    pub every: Option<Duration>,
    /// As soon as the leader's wall clock shows this or more, milliseconds since 1970. It is for the machine to name
    /// another time, or none, once it has applied what came of the call: one that is past is called with every tick.
    pub at_unix_ms: Option<u64>,
}

impl HookTimes {
    /// Not at all.
    pub const NEVER: Self = Self { every: None, at_unix_ms: None };

    /// At an interval.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { every: Some(interval), ..Self::NEVER }
    }

    /// The times of a hook, if there is one. For machines around other ones.
    #[must_use]
    pub fn of(hook: Option<&dyn LeaderHook>) -> Self {
        hook.map_or(Self::NEVER, LeaderHook::times)
    }

    /// Also at this time.
    #[must_use]
    pub fn or_at(self, unix_ms: Option<u64>) -> Self {
        let at_unix_ms = match (self.at_unix_ms, unix_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self { at_unix_ms, ..self }
    }
}

/// A call of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// The shard.
    pub shard: ShardId,
    /// The term that this replica leads.
    pub term: Term,
    /// Its wall clock, milliseconds since 1970. It may jump, and differs from node to node.
    pub unix_ms: u64,
    /// Whether [`HookTimes::every`] is over; the next interval begins now.
    pub interval: bool,
}

impl HookCall {
    /// Whether a hook with these times is meant.
    #[must_use]
    pub fn is_for(&self, times: HookTimes) -> bool {
        (self.interval && times.every.is_some())
            || times.at_unix_ms.is_some_and(|at| at <= self.unix_ms)
    }

    /// Hands the call on to a hook if it is meant. For machines around other ones, which have no interval of their
    /// own: what is returned has to go the way of all that is for the machine within.
    #[must_use]
    pub fn pass(self, hook: Option<&dyn LeaderHook>) -> Vec<Bytes> {
        let meant = hook.filter(|hook| self.is_for(hook.times()));
        meant.map_or_else(Vec::new, |hook| hook.call(self))
    }
}

/// What a state machine wants done on the replica that leads. See the [module](self).
pub trait LeaderHook {
    /// When it wants to be called next. Asked often: it must be cheap, and follow from the state.
    fn times(&self) -> HookTimes;

    /// Called at such a time. Returns what is to be proposed, in this order, at most
    /// [`HOOK_PROPOSALS_MAX`](crate::limits::HOOK_PROPOSALS_MAX) payloads, none larger than a proposal may be; what
    /// goes beyond is left out. As all calls on a core's thread it must not block, nor take long.
    fn call(&self, call: HookCall) -> Vec<Bytes>;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(HookTimes);

    impl LeaderHook for Named {
        fn times(&self) -> HookTimes {
            self.0
        }
        fn call(&self, _: HookCall) -> Vec<Bytes> {
            vec![Bytes::from_static(b"called")]
        }
    }

    #[test]
    fn a_call_is_handed_on_to_those_who_are_due() {
        let call =
            |unix_ms, interval| HookCall { shard: ShardId(0), term: Term(1), unix_ms, interval };
        let due = |times, call: HookCall| !call.pass(Some(&Named(times))).is_empty();
        let every = HookTimes::every(Duration::from_secs(1));
        assert!(due(every, call(0, true)));
        assert!(!due(every, call(u64::MAX, false)));
        let both = every.or_at(Some(70)).or_at(Some(90)).or_at(None);
        assert_eq!(both.at_unix_ms, Some(70));
        assert!(!due(both, call(69, false)) && due(both, call(70, false)));
        assert!(!due(HookTimes::NEVER, call(u64::MAX, true)));
        assert!(call(u64::MAX, true).pass(None).is_empty());
        assert_eq!(HookTimes::of(None), HookTimes::NEVER);
    }
}
