//! Reads with a bound on staleness, which any replica answers from its own state once that is shown to be new enough.
//! What shows it, and when, is decided in `freshness.rs`.
//!
//! A replica that leads asks itself, in a round like those of other reads or by its lease. One that is damaged, or
//! whose state is being replaced, answers nothing; the former refuses at once. What waits wakes a shard that
//! sleeps, and keeps it in ticks until it is answered.

use std::time::Duration;

use bytes::Bytes;

use super::{QueryAnswer, Shard};
use crate::core::freshness::Freshness;
use crate::core::status::CoreCounters;
use crate::limits::{BOUNDED_READ_TIMEOUTS, QUESTIONS_PER_TIMEOUT};
use crate::raft::{Event, Role};
use crate::{NodeId, QueryError};

impl Shard {
    /// Takes a query that came at `now` or before, and answers it from a state that has everything which was committed
    /// `staleness` before. Returns whether it waits.
    pub(in crate::core) fn query_bounded(
        &mut self,
        payload: Bytes,
        staleness: Duration,
        now: Duration,
        answer: QueryAnswer,
    ) -> bool {
        if self.raft.is_damaged() {
            let _ = answer.send(Err(self.too_stale()));
            return false;
        }
        let fresh = |freshness: &Freshness<_>| freshness.is_fresh(now, staleness);
        if !self.restoring && self.freshness.as_deref().is_some_and(fresh) {
            sometimes!(bounded_read_at_once);
            let reply = self.ask(&payload);
            let _ = answer.send(Ok(reply));
            return false;
        }
        if let Some(error) = self.too_many_reads() {
            let _ = answer.send(Err(error));
            return false;
        }
        self.reads_count += 1;
        let patience = self.raft.config().election_timeout * BOUNDED_READ_TIMEOUTS;
        let deadline = now.saturating_add(patience);
        let freshness = self.freshness.get_or_insert_default();
        freshness.wait(now, staleness, deadline, (payload, answer));
        true
    }

    /// End of the turn, first half: asks how much is committed, if somebody waits who needs to know.
    pub(super) fn ask_for_proof(&mut self, now: Duration) {
        self.confirm_reads(); // an answer may have come just before it counts as lost
        let patience = match self.raft.role() {
            Role::Leader => Duration::MAX, // what it asks itself does not get lost
            _ => self.raft.config().election_timeout / QUESTIONS_PER_TIMEOUT,
        };
        let id = self.read_id_last + 1;
        if self.freshness.as_mut().is_some_and(|freshness| freshness.asks(id, now, patience)) {
            self.read_id_last = id;
            self.step(Event::AskReadIndex { id, now });
        }
    }

    /// Answers those for whom enough is applied now.
    pub(super) fn answer_fresh(&mut self, counters: &mut CoreCounters) {
        while let Some(freshness) = &mut self.freshness
            && let Some(reads) = freshness.hold(self.applied)
        {
            for (payload, answer) in reads {
                sometimes!(bounded_read_on_follower, self.raft.role() == Role::Follower);
                self.reads_count -= 1;
                counters.queries += 1;
                let reply = self.ask(&payload);
                let _ = answer.send(Ok(reply));
            }
        }
    }

    /// With each tick: refuses those who have waited for too long.
    pub(in crate::core) fn refuse_late_reads(&mut self, now: Duration) {
        let Some(freshness) = &mut self.freshness else { return };
        for (_, answer) in freshness.expire(now) {
            sometimes!(bounded_read_given_up);
            self.reads_count -= 1;
            let _ = answer.send(Err(self.too_stale()));
        }
    }

    fn too_stale(&self) -> QueryError {
        let own = self.raft.config().id;
        let elsewhere = |leader: &NodeId| *leader != own;
        QueryError::TooStale { shard: self.id, leader: self.raft.leader().filter(elsewhere) }
    }
}
