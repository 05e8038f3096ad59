//! Who should rather lead: priorities of replicas, and replicas that decline to.
//!
//! A replica has a small number ([`Config::priority`](super::Config::priority), 0 unless set), which it tells with
//! each answer to a heartbeat; nobody else needs to be configured with it. It is advice, not a rule: whoever can
//! lead does, if there is nobody better.
//! - A replica **below 0 waits longer** before it campaigns: an election timeout more for each step. So others
//!   go first while there are others, and it still leads when there are none.
//! - A leader that sees a voter of **higher priority** than its own which has all that is committed hands over to
//!   it, at a heartbeat; if that fails, not again for [`PRIORITY_PAUSE_TIMEOUTS`] election timeouts, so that a voter
//!   which can't lead does not cost a pause of the proposals all the time.
//! - Whoever leads without a preference of its owner's ([`Event::TransferLeadership`](super::Event::TransferLeadership)
//!   to nobody in particular) hands over to the highest priority among those that are near the end of the log.
//! - A replica that **declines** ([`Raft::decline`]), because its node is about to stop or its disk takes nothing, is
//!   never chosen, ignores the order to campaign, and waits like one of the lowest priority. If it leads, it is its
//!   owner who hands over.
//!
//! Two replicas of equal priority leave each other alone, and each goes by what the other one says of itself:
//! leadership can't go to and fro between them.

use std::time::Duration;

use super::effects::{Effects, TransferRefusal};
use super::progress::State;
use super::replica::Raft;
use crate::NodeId;
use crate::limits::{PRIORITY_MAX, PRIORITY_PAUSE_TIMEOUTS};

/// What a replica says that declines to lead.
const DECLINED: i8 = i8::MIN;

impl Raft {
    /// From now on this replica does not want to lead, until [`Raft::stand_again`]. Not stored.
    pub fn decline(&mut self) {
        self.priority = DECLINED;
    }

    /// What made it decline is over. If it sleeps it wakes, so that the leader hears of it.
    pub fn stand_again(&mut self, effects: &mut Effects) {
        self.priority = self.wanted_priority;
        self.wake_to_tell(effects);
    }

    /// From now on this replica has another priority: -[`PRIORITY_MAX`] to [`PRIORITY_MAX`]. One that declines
    /// goes on declining, and has it when it stands again. If it sleeps it wakes, so that others hear of it. Not stored.
    pub fn set_priority(&mut self, priority: i8, effects: &mut Effects) {
        self.wanted_priority = priority.clamp(-PRIORITY_MAX, PRIORITY_MAX);
        if !self.declines() {
            self.priority = self.wanted_priority;
            self.wake_to_tell(effects);
        }
    }

    /// The priority that this replica tells others.
    #[must_use]
    pub fn priority(&self) -> i8 {
        self.priority
    }

    /// Whether it was told to decline.
    #[must_use]
    pub fn declines(&self) -> bool {
        self.priority == DECLINED
    }

    /// How much longer than others this replica waits before it campaigns.
    pub(super) fn patience(&self) -> Duration {
        let steps = (-i32::from(self.priority)).clamp(0, i32::from(PRIORITY_MAX));
        self.config.election_timeout * steps.unsigned_abs()
    }

    /// Whether a peer lets itself be chosen.
    pub(super) fn is_willing(&self, place: usize) -> Result<usize, TransferRefusal> {
        match self.peers[place].progress.priority {
            DECLINED => Err(TransferRefusal::Declines { node: self.peers[place].id }),
            _ => Ok(place),
        }
    }

    /// Whether a peer has, or is being sent, nearly everything.
    pub(super) fn is_near(&self, place: usize) -> bool {
        let progress = &self.peers[place].progress;
        progress.state == State::Replicate && progress.matched >= self.log.committed()
    }

    /// With periodic heartbeats: to whom this leader should hand over because of its priority.
    pub(super) fn preferred_successor(&mut self) -> Option<NodeId> {
        let settled = self.log.committed() >= self.term_start && self.transfer.is_none();
        if !settled || self.now < self.preferred_due {
            return None;
        }
        let better = (0..self.peers.len()).filter(|at| {
            self.peers[*at].progress.priority > self.priority
                && self.configuration().incoming().contains(self.peers[*at].id) // others are about to go
                && self.is_near(*at)
                && self.successor(self.peers[*at].id).is_ok()
        });
        let best = better.max_by_key(|at| self.peers[*at].progress.priority)?;
        sometimes!(priority_handed_over);
        self.preferred_due = self.now + self.config.election_timeout * PRIORITY_PAUSE_TIMEOUTS;
        Some(self.peers[best].id)
    }
}
