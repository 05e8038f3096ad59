//! [`Table`]: all sessions of a shard, changed by one entry at a time.
//!
//! ```text
//! first <= id of each reply              every session is in `by_use` at its `used`, and nothing else is
//! used_ms <= clock_ms                    `kept_bytes` is the sum over all sessions
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use super::bounds::SessionLimits;
use super::{RequestId, SessionId};
use crate::LogIndex;
use crate::limits::{SESSION_REPLY_COST_BYTES, SESSION_TICKS_PER_TIMEOUT, SESSIONS_SWEPT_MAX};

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The last entry that used it.
    pub(super) used: LogIndex,
    /// What the clock of the sessions showed then.
    pub(super) used_ms: u64,
    /// Lowest request that is not acknowledged.
    pub(super) first: RequestId,
    /// Requests that were applied, from `first` on; `None` where the reply was not kept.
    pub(super) replies: BTreeMap<RequestId, Option<Bytes>>,
    /// What `replies` count for.
    pub(super) kept_bytes: u64,
}

/// What a kept reply counts for.
pub(super) fn cost(reply: Option<&Bytes>) -> u64 {
    SESSION_REPLY_COST_BYTES + reply.map_or(0, |reply| reply.len() as u64)
}

impl Session {
    /// Raises `first`; returns what the replies below counted for.
    fn acknowledge(&mut self, first: RequestId) -> u64 {
        self.first = self.first.max(first);
        let before = self.kept_bytes;
        while let Some(oldest) = self.replies.first_entry()
            && *oldest.key() < self.first
        {
            self.kept_bytes -= cost(oldest.remove().as_ref());
        }
        before - self.kept_bytes
    }
}

/// What is to be done about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new: apply it, and say what the reply was ([`Table::applied`]).
    Apply,
    /// It was applied; this was the reply if it was kept.
    Duplicate(Option<Bytes>),
    UnknownSession,
    Acknowledged,
    WindowFull,
    RepliesFull,
}

/// All sessions of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    limits: SessionLimits,
    /// The latest wall clock of any tick.
    wall_ms: u64,
    /// The clock of the sessions: the time that has passed as far as ticks tell.
    clock_ms: u64,
    /// Shared with a snapshot under way.
    sessions: BTreeMap<SessionId, Rc<Session>>,
    /// The same by their last use; an entry uses one session at most.
    by_use: BTreeMap<LogIndex, SessionId>,
    kept_bytes: u64,
}

impl Table {
    /// A table with these clocks and limits, and no session.
    pub(super) fn restored(limits: SessionLimits, wall_ms: u64, clock_ms: u64) -> Self {
        Self { limits, wall_ms, clock_ms, ..Self::default() }
    }

    pub(super) fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// How many sessions there are; a few of them may be due.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The latest wall clock, and the clock of the sessions.
    pub(super) fn clocks(&self) -> (u64, u64) {
        (self.wall_ms, self.clock_ms)
    }

    /// All sessions as they are now; later changes are made to copies.
    pub(super) fn share(&self) -> Vec<(SessionId, Rc<Session>)> {
        self.sessions.iter().map(|(id, session)| (*id, session.clone())).collect()
    }

    /// Adds a session of a snapshot. False if that contradicts what is there.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) -> bool {
        self.kept_bytes += session.kept_bytes;
        self.by_use.insert(session.used, id).is_none()
            && self.sessions.insert(id, Rc::new(session)).is_none()
    }

    /// Makes the session of the entry at `index`.
    pub(super) fn open(&mut self, index: LogIndex) -> SessionId {
        self.make_room(self.limits.sessions - 1);
        let id = SessionId(index.0);
        let session = Session {
            used: index,
            used_ms: self.clock_ms,
            first: RequestId(1),
            replies: BTreeMap::new(),
            kept_bytes: 0,
        };
        let is_new = self.insert(id, session);
        assert!(is_new, "the entry at {index} was applied before");
        id
    }

    /// Decides about a request, which is the entry at `index`.
    pub(super) fn admit(
        &mut self,
        index: LogIndex,
        id: SessionId,
        request: RequestId,
        first: RequestId,
    ) -> Admission {
        let limits = self.limits;
        if cfg!(mutant = "duplicate-applied-after-expiry") && !self.sessions.contains_key(&id) {
            return Admission::Apply;
        }
        let Some(session) = self.find_used(index, id, first) else {
            sometimes!(session_unknown);
            return Admission::UnknownSession;
        };
        if request < session.first && !cfg!(mutant = "acknowledged-request-applied") {
            sometimes!(session_request_acknowledged);
            return Admission::Acknowledged;
        }
        if let Some(reply) = session.replies.get(&request)
            && !cfg!(mutant = "reply-cache-ignored")
        {
            sometimes!(session_duplicate);
            sometimes!(session_reply_gone, reply.is_none());
            return Admission::Duplicate(reply.clone());
        }
        if request.0.saturating_sub(session.first.0) >= limits.window {
            sometimes!(session_window_full);
            return Admission::WindowFull;
        }
        if session.kept_bytes >= limits.session_bytes {
            sometimes!(session_replies_full);
            return Admission::RepliesFull;
        }
        Admission::Apply
    }

    /// A request that was admitted was applied, with this reply.
    pub(super) fn applied(&mut self, id: SessionId, request: RequestId, reply: &[u8]) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let bytes = reply.len() as u64;
        let fits = bytes <= self.limits.reply_bytes
            && self.kept_bytes.saturating_add(bytes + SESSION_REPLY_COST_BYTES)
                <= self.limits.shard_bytes;
        // A copy: the reply may be a slice of something much larger.
        let kept = fits.then(|| Bytes::copy_from_slice(reply));
        let added = cost(kept.as_ref());
        let session = Rc::make_mut(session);
        session.kept_bytes += added;
        self.kept_bytes += added;
        session.replies.insert(request, kept);
    }

    /// The entry at `index` keeps a session alive. False if there is none.
    pub(super) fn keep_alive(&mut self, index: LogIndex, id: SessionId, first: RequestId) -> bool {
        self.find_used(index, id, first).is_some()
    }

    /// Drops a session. False if there is none.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        let was_there = self.sessions.get(&id).is_some_and(|found| !self.is_due(found));
        self.remove(id);
        was_there
    }

    /// The leader's wall clock.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.wall_ms);
        // The first one tells what the clock shows, not that time has passed.
        if self.wall_ms > 0 {
            let step = passed.min(self.limits.step_ms_max());
            self.clock_ms = self.clock_ms.saturating_add(step);
        }
        self.wall_ms = self.wall_ms.max(now_ms);
    }

    /// When a leader's wall clock is news: `None` while there are no sessions.
    pub(super) fn tick_due_ms(&self) -> Option<u64> {
        let period_ms = (self.limits.idle_timeout_ms / SESSION_TICKS_PER_TIMEOUT).max(1);
        // Before the first tick, any clock is.
        let due = if self.wall_ms == 0 { 0 } else { self.wall_ms.saturating_add(period_ms) };
        (!self.sessions.is_empty()).then_some(due)
    }

    /// New limits, which make sense. Replies that are kept stay.
    pub(super) fn configure(&mut self, limits: SessionLimits) {
        self.limits = limits;
        self.make_room(limits.sessions);
    }

    /// Frees some sessions that are gone.
    pub(super) fn sweep(&mut self) {
        for _ in 0..SESSIONS_SWEPT_MAX {
            let Some((_, id)) = self.by_use.first_key_value() else { return };
            let id = *id;
            if !self.sessions.get(&id).is_some_and(|session| self.is_due(session)) {
                return;
            }
            sometimes!(session_expired);
            self.remove(id);
        }
    }

    /// Whether a session was idle for too long.
    fn is_due(&self, session: &Session) -> bool {
        self.clock_ms - session.used_ms >= self.limits.idle_timeout_ms
    }

    /// The session, which the entry at `index` uses and acknowledges replies of.
    fn find_used(&mut self, index: LogIndex, id: SessionId, first: RequestId) -> Option<&Session> {
        if self.sessions.get(&id).is_some_and(|session| self.is_due(session)) {
            self.remove(id);
        }
        let session = Rc::make_mut(self.sessions.get_mut(&id)?);
        self.by_use.remove(&session.used);
        self.by_use.insert(index, id);
        session.used = index;
        session.used_ms = self.clock_ms;
        self.kept_bytes -= session.acknowledge(first);
        Some(session)
    }

    /// Drops sessions until there are at most so many: those first that were not used for longest.
    fn make_room(&mut self, sessions_max: u64) {
        while self.sessions.len() as u64 > sessions_max
            && let Some((_, id)) = self.by_use.first_key_value()
        {
            sometimes!(session_evicted);
            self.remove(*id);
        }
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&session.used);
            self.kept_bytes -= session.kept_bytes;
        }
    }

    /// Checks what holds between the fields.
    #[cfg(test)]
    pub(super) fn assert_whole(&self) {
        assert_eq!(self.by_use.len(), self.sessions.len());
        assert!(self.sessions.len() as u64 <= self.limits.sessions);
        for (used, id) in &self.by_use {
            assert_eq!(self.sessions[id].used, *used);
        }
        let mut sum = 0;
        for session in self.sessions.values() {
            assert!(session.used_ms <= self.clock_ms);
            assert!(session.replies.keys().all(|request| *request >= session.first));
            let kept: u64 = session.replies.values().map(|reply| cost(reply.as_ref())).sum();
            assert_eq!(kept, session.kept_bytes);
            sum += kept;
        }
        assert_eq!(sum, self.kept_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: RequestId = RequestId(1);

    fn table(limits: SessionLimits) -> Table {
        Table::restored(limits, 1000, 0)
    }

    fn small() -> SessionLimits {
        SessionLimits {
            sessions: 2,
            window: 3,
            reply_bytes: 10,
            session_bytes: 2 * SESSION_REPLY_COST_BYTES,
            shard_bytes: 1000,
            idle_timeout_ms: 100,
        }
    }

    fn ask(table: &mut Table, index: u64, id: SessionId, request: u64, first: u64) -> Admission {
        let admission = table.admit(LogIndex(index), id, RequestId(request), RequestId(first));
        table.assert_whole();
        admission
    }

    #[test]
    fn requests_come_in_any_order_within_the_window_and_once() {
        let mut table = table(small());
        let id = table.open(LogIndex(5));
        assert_eq!(id, SessionId(5));
        assert_eq!(ask(&mut table, 6, id, 3, 1), Admission::Apply);
        table.applied(id, RequestId(3), b"three");
        assert_eq!(ask(&mut table, 7, id, 4, 1), Admission::WindowFull);
        assert_eq!(ask(&mut table, 8, id, 1, 1), Admission::Apply);
        table.applied(id, FIRST, b"one");
        let three = Some(Bytes::from_static(b"three"));
        assert_eq!(ask(&mut table, 9, id, 3, 1), Admission::Duplicate(three.clone()));
        assert_eq!(ask(&mut table, 10, id, 2, 1), Admission::RepliesFull);
        assert_eq!(ask(&mut table, 11, id, 2, 2), Admission::Apply, "one is acknowledged");
        assert_eq!(ask(&mut table, 12, id, 1, 1), Admission::Acknowledged);
        assert_eq!(ask(&mut table, 13, id, 3, 1), Admission::Duplicate(three), "first stays");
        assert_eq!(ask(&mut table, 14, id, u64::MAX, u64::MAX), Admission::Apply);
    }

    #[test]
    fn replies_that_are_too_large_leave_only_that_they_were() {
        let shard_bytes = 3 * SESSION_REPLY_COST_BYTES + 4;
        let mut table = table(SessionLimits { session_bytes: 1 << 20, shard_bytes, ..small() });
        let id = table.open(LogIndex(5));
        table.applied(id, FIRST, &[0; 11]); // more than one reply may have
        assert_eq!(ask(&mut table, 6, id, 1, 1), Admission::Duplicate(None));
        table.applied(id, RequestId(2), &[0; 4]);
        let reply = Some(Bytes::from_static(&[0; 4]));
        assert_eq!(ask(&mut table, 7, id, 2, 1), Admission::Duplicate(reply.clone()));
        table.applied(id, RequestId(3), &[0; 1]); // more than all may have
        assert_eq!(ask(&mut table, 8, id, 3, 1), Admission::Duplicate(None));
        assert_eq!(ask(&mut table, 9, id, 4, 4), Admission::Apply);
        table.applied(id, RequestId(4), &[0; 4]); // all others were acknowledged
        assert_eq!(ask(&mut table, 10, id, 4, 4), Admission::Duplicate(reply));
    }

    #[test]
    fn idle_sessions_go_with_the_tick_and_used_ones_stay() {
        let mut table = table(small());
        let (one, two) = (table.open(LogIndex(5)), table.open(LogIndex(6)));
        for (at, now) in [(7, 1025), (8, 1050), (9, 1075)] {
            table.tick(now);
            assert!(table.keep_alive(LogIndex(at), two, FIRST));
        }
        table.tick(1099);
        table.sweep();
        assert_eq!(table.share().len(), 2);
        table.tick(1100);
        assert!(!table.close(one), "not found, swept or not");
        table.tick(900);
        assert_eq!(table.clocks(), (1100, 100), "clocks never go back");
        table.tick(1 << 60);
        assert_eq!(table.clocks(), (1 << 60, 125), "a jump counts as a quarter");
        assert!(table.keep_alive(LogIndex(10), two, FIRST));
        table.assert_whole();
    }

    #[test]
    fn a_clock_is_wanted_while_there_are_sessions() {
        let mut table = Table::default();
        assert_eq!(table.tick_due_ms(), None);
        let id = table.open(LogIndex(1));
        assert_eq!(table.tick_due_ms(), Some(0), "any, for the first time");
        table.configure(small());
        table.tick(5000);
        assert_eq!(table.tick_due_ms(), Some(5000 + 100 / SESSION_TICKS_PER_TIMEOUT));
        table.tick(u64::MAX);
        assert_eq!(table.tick_due_ms(), Some(u64::MAX));
        assert!(table.close(id));
        assert_eq!(table.tick_due_ms(), None);
    }

    #[test]
    fn the_session_unused_for_longest_makes_room() {
        let mut table = table(small());
        let (one, two) = (table.open(LogIndex(5)), table.open(LogIndex(6)));
        assert!(table.keep_alive(LogIndex(7), one, FIRST));
        let three = table.open(LogIndex(8));
        table.assert_whole();
        assert_eq!(ask(&mut table, 9, two, 1, 1), Admission::UnknownSession);
        table.configure(SessionLimits { sessions: 1, ..small() });
        table.assert_whole();
        assert_eq!(ask(&mut table, 10, one, 1, 1), Admission::UnknownSession);
        assert_eq!(ask(&mut table, 11, three, 1, 1), Admission::Apply);
    }

    #[test]
    fn a_snapshot_keeps_what_it_was_given() {
        let mut table = table(small());
        let id = table.open(LogIndex(5));
        table.applied(id, FIRST, b"one");
        let shared = table.share();
        let before = shared[0].1.as_ref().clone();
        assert_eq!(ask(&mut table, 6, id, 2, 2), Admission::Apply);
        table.applied(id, RequestId(2), b"two");
        assert_eq!(*shared[0].1, before);
    }
}
