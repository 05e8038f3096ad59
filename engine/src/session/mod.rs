//! Client sessions: a request is applied once, however often it is sent.
//!
//! A client whose proposal ended with *outcome unknown* can't tell whether it was applied. It may ask again only if
//! the state machine knows a request when it meets it the second time. [`Sessions`] does that for any machine:
//! it stands around it, gives each client a *session*, and keeps the reply of each request until the client says that
//! it has it (Ongaro's thesis, 6.3). All of it is state of the shard: it changes by entries of the log alone, is
//! the same on all replicas, and is part of snapshots. So it holds across retries, changes of leader, restarts
//! and snapshots.
//!
//! # Entries
//! | entry | what it does |
//! |---|---|
//! | plain | goes to the machine as it is, with nothing remembered: one byte more than without sessions |
//! | open | makes a session. Its id is the index of this entry |
//! | request | session, request id, lowest id whose reply the client still waits for, and what the machine gets |
//! | keep alive | uses a session, and acknowledges replies |
//! | close | drops a session |
//! | tick | the leader's wall clock |
//! | configure | new [`SessionLimits`] |
//!
//! **A session's id is the index of its entry**, not a name that the client chose. An index comes once in the life of
//! a shard, so a late copy of a request of a session that is gone never meets another one of that name. The
//! price: a client that does not know whether its *open* was applied opens another, and the first one is dropped as
//! idle.
//!
//! # What a request meets
//! A session has `first`, the lowest id that is not acknowledged, and a reply for each request that was applied
//! at or above it. Ids come in any order within a window.
//!
//! | the session | the id | what happens |
//! |---|---|---|
//! | is not there: expired, evicted, closed, never opened | any | refused: *unknown session* |
//! | is there | below `first` | refused: *acknowledged*. It may have been applied; it is not any more |
//! | is there | has a reply | not applied; the reply, marked as a duplicate |
//! | is there | `first` + window or more | refused: *window full* |
//! | has as many bytes of replies as it may | new | refused: *replies full* |
//! | is there | new, in the window | applied, its reply kept |
//!
//! Each request first raises `first` to what it says, never lowers it, and drops replies below it. Whatever was
//! refused was not applied by this entry, and leaves no trace but that the session was used.
//!
//! # Idle sessions
//! Sessions have a clock of their own, which only ticks move: by the difference to the latest tick so far, and by a
//! quarter of the timeout at most, so that a wall clock that jumps does not drop everybody. A session is used by each
//! of its entries, also those that are answered from memory or refused. One that was not used for the timeout is
//! gone: it is not found any more from the very tick on, and its memory is freed a few sessions with each entry.
//! Ticks are proposed by the [hook](crate::hook) of the leader, as long as there are sessions: a shard without any sleeps.
//! So the first tick after a time without sessions may age the new ones by a quarter of the timeout.
//!
//! # Limits
//! [`SessionLimits`] are state as well: a shard begins with the defaults, and only an entry changes them. Two
//! replicas can't disagree about them, whatever they were started with.
//! - **Sessions**: a new one takes the place of the one that was not used for longest.
//! - **Requests in a session**: those outside of the window are refused.
//! - **Bytes of replies in a session**: while there are as many, new requests are refused. The client acknowledges.
//! - **Bytes of one reply, and of all**: a reply that would go beyond is not kept, only that the request was
//!   applied. Its duplicates get *applied, but the reply is gone*; nobody else's requests suffer.
//!
//! # Failures, and what a client knows then
//! - No answer, or *outcome unknown*: send the same bytes again, to whoever leads now.
//! - *Unknown session*: the request will not be applied by this or any later copy. Whether an earlier one was, is
//!   known if there was none; else it is not.
//! - The client gives a request up and acknowledges it: from the next entry of the session on, it is not applied.
//! - Any bytes that are no entry of this kind: refused as malformed, the same on all replicas.
//!
//! # Snapshots
//! The sessions come first, in chunks of their own, then the chunks of the machine as it filled them. A session is
//! shared with a snapshot under way and copied when it is used meanwhile, so beginning one costs a
//! pointer for each session. A machine that makes snapshots of old ones and entries ([`Fold`](crate::Fold)) can't do
//! that under sessions: replies are made by the state, which a fold does not have. It needs
//! [`StateMachine::snapshot`](crate::StateMachine::snapshot).
//!
//! Formats: `docs/sessions.md`.
//!
//! # Example
//! ```
//! use bytes::{BufMut, Bytes, BytesMut};
//! use coracle_engine::session::{ClientSession, Sessions};
//! use coracle_engine::{Apply, LogIndex, ShardId, StateMachine, Term};
//!
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, _: Apply<'_>, reply: &mut BytesMut) {
//!         self.0 += 1;
//!         reply.put_u64(self.0);
//!     }
//!     fn query(&self, _: &Bytes, reply: &mut BytesMut) {
//!         reply.put_u64(self.0);
//!     }
//! }
//!
//! let mut machine = Sessions::new(Counter(0));
//! let mut log = 0;
//! let mut propose = |payload: &Bytes| {
//!     log += 1;
//!     let mut reply = BytesMut::new();
//!     let entry = Apply { shard: ShardId(0), index: LogIndex(log), term: Term(1), payload };
//!     machine.apply(entry, &mut reply);
//!     reply.freeze()
//! };
//!
//! let mut session = ClientSession::opened(&propose(&ClientSession::open()))?;
//! let (request, payload) = session.begin(b"increment")?;
//! let lost = propose(&payload); // it was applied, but the client never learns
//! let again = session.again(request).ok_or("answered already")?;
//! let answer = session.answered(request, &propose(&again))?;
//! assert!(answer.is_duplicate);
//! assert_eq!(answer.reply.as_deref(), Some(&1_u64.to_be_bytes()[..])); // once
//! # drop(lost);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bounds;
mod client;
mod codec;
mod image;
mod machine;
#[cfg(test)]
mod model_tests;
mod table;

use std::fmt;

pub use bounds::SessionLimits;
pub use client::{Answer, BeginError, ClientSession, OpenError, RequestError};
pub use codec::{Entry, Malformed, SessionReply};
pub use machine::Sessions;

/// A session of a shard: the index of the entry that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A request of a session, counted by its client from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
