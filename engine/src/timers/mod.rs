//! Timers that fire once in the cluster.
//!
//! [`Timers`] stands around a state machine. A timer is set by an entry, with a time and a payload; when the time has
//! come, the machine is given the payload as if somebody had proposed it: once, whatever crashes, changes of leader,
//! repeated proposals, restarts and snapshots do. Timers are state of the shard: they change by entries of the log alone,
//! are the same on all replicas, and are part of snapshots.
//!
//! # Entries
//! | entry | what it does |
//! |---|---|
//! | plain | goes to the machine as it is: one byte more than without timers |
//! | set | makes a timer. Its id is the index of this entry |
//! | cancel | removes a timer |
//! | fire | removes a timer that is due, and gives its payload to the machine |
//! | configure | new [`TimerLimits`] |
//!
//! **A timer's id is the index of its entry.** It comes once in the life of a shard, so a late *cancel* or *fire* never
//! meets another timer of that name. The price: who does not know whether its *set* was applied does not know the id
//! either. Sessions around the timers mend that: a *set* that is sent again is answered again.
//!
//! # Who fires
//! The replica that leads, by its [hook](crate::hook): when its wall clock shows the time of a timer or more, it
//! proposes to *fire* it, with the timer's id and that clock. **Applying that entry** is what fires the timer: all
//! replicas see the same id, the same clock, and the same timers, so all of them fire it there, or nobody does.
//!
//! | the entry names a timer that | what happens |
//! |---|---|
//! | is there, and whose time is at or before the clock of the entry | it is removed, and the machine gets the payload |
//! | is there, and whose time is later | nothing: *not due* |
//! | is not there: fired, cancelled, never set | nothing: *unknown timer* |
//!
//! # Failures
//! - **The leader dies before the entry is committed**: the timer is there, and the next leader proposes to fire it. It may
//!   do so although the entry of the old one is committed yet, or the same entry may be in the log twice: the second one
//!   finds no timer.
//! - **The leader's proposal is refused** (overloaded, disk full): the timer is late.
//! - **A replica starts from a snapshot**: it has the timers that were there at that entry. What fired before is not
//!   among them, what fires after it is in the log.
//!
//! # Clocks
//! No replica looks at its clock while it applies. A timer fires **never before some leader's wall clock has shown its
//! time**, and as soon as that of the present leader does, within ticks and the time of a commit. So with clocks that are
//! wrong or jump:
//! - *ahead*: what is due by that clock fires, too early by as much as the clock is wrong, and never again;
//! - *back*: timers are late until the clock has caught up, or somebody with a better one leads;
//! - *another leader whose clock is behind*: what has fired stays fired, the rest is late.
//!
//! Nothing of a wrong clock is kept: timers that are set later know nothing of it.
//!
//! # Limits
//! [`TimerLimits`] are state as well, changed by an entry only. A *set* beyond them is refused as *full*, and one with a
//! payload that is too large as *too large*; the timers that are there stay.
//!
//! # Snapshots
//! As with [sessions](crate::session): the timers first, in chunks of their own, then those of the machine. Beginning
//! one costs a pointer for each timer.
//!
//! Formats: `docs/timers.md`.
//!
//! # Example
//! ```
//! use bytes::{Bytes, BytesMut};
//! use coracle_engine::hook::{HookCall, LeaderHook};
//! use coracle_engine::timers::{Entry, TimerReply, Timers};
//! use coracle_engine::{Apply, LogIndex, ShardId, StateMachine, Term};
//!
//! struct Last(Bytes);
//!
//! impl StateMachine for Last {
//!     fn apply(&mut self, entry: Apply<'_>, _: &mut BytesMut) {
//!         self.0 = entry.payload.clone();
//!     }
//!     fn query(&self, _: &Bytes, reply: &mut BytesMut) {
//!         reply.extend_from_slice(&self.0);
//!     }
//! }
//!
//! let mut machine = Timers::new(Last(Bytes::new()));
//! let mut log = 0;
//! let mut apply = |machine: &mut Timers<Last>, payload: &Bytes| {
//!     log += 1;
//!     let mut reply = BytesMut::new();
//!     let entry = Apply { shard: ShardId(0), index: LogIndex(log), term: Term(1), payload };
//!     machine.apply(entry, &mut reply);
//!     TimerReply::decode(&reply.freeze())
//! };
//!
//! let set = Entry::Set { at_ms: 1_000, payload: Bytes::from_static(b"wake up") };
//! apply(&mut machine, &set.encode())?;
//! assert_eq!(machine.times().at_unix_ms, Some(1_000));
//! // What the core of the leader does when its clock shows that:
//! let call = HookCall { shard: ShardId(0), term: Term(1), unix_ms: 1_003, interval: false };
//! for fire in machine.call(call) {
//!     apply(&mut machine, &fire)?;
//!     assert_eq!(apply(&mut machine, &fire)?, TimerReply::UnknownTimer); // once
//! }
//! assert_eq!(machine.machine().0, "wake up");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bounds;
mod codec;
mod image;
mod machine;
#[cfg(test)]
mod model_tests;
mod table;

use std::fmt;

pub use bounds::TimerLimits;
pub use codec::{Entry, Malformed, TimerReply};
pub use machine::Timers;

/// A timer of a shard: the index of the entry that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub u64);

impl fmt::Display for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
