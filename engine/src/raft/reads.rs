//! Linearizable reads without log entries (Raft thesis, 6.4): which reads wait, and for which round.
//!
//! A read may be answered from the state at the commit index once a majority has confirmed, *after*
//! the read arrived, that the leader still leads. One round of heartbeats with one number serves all
//! reads that arrived before it began; reads that arrive while it is under way wait for the next one.
//! An answer counts for the round whose number it carries and all before, so that an answer that was
//! delayed can't confirm a read that came after it.

use crate::LogIndex;

#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    /// Number of the newest round; counted within the term.
    round: u64,
    /// Commit index when that round began.
    index: LogIndex,
    confirming: Vec<u64>,
    waiting: Vec<u64>,
}

impl Reads {
    /// Takes in a read; `false` if `max` wait already.
    pub(super) fn push(&mut self, id: u64, max: usize) -> bool {
        if self.pending() >= max {
            return false;
        }
        self.waiting.push(id);
        true
    }

    /// How many reads wait.
    pub(super) fn pending(&self) -> usize {
        self.confirming.len() + self.waiting.len()
    }

    /// Number of the newest round.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Number of the newest round that a majority has confirmed; 0 before the first of a term.
    pub(super) fn confirmed_round(&self) -> u64 {
        self.round - u64::from(self.is_confirming())
    }

    pub(super) fn is_confirming(&self) -> bool {
        !self.confirming.is_empty()
    }

    /// Begins a round for all reads that wait, unless one is under way. Returns whether it did.
    pub(super) fn begin(&mut self, commit: LogIndex) -> bool {
        if self.is_confirming() || self.waiting.is_empty() {
            return false;
        }
        self.round += 1;
        self.index = commit;
        std::mem::swap(&mut self.confirming, &mut self.waiting);
        true
    }

    /// Ends the round under way: its reads may be answered from the state at the returned index.
    pub(super) fn confirmed(&mut self) -> (LogIndex, impl Iterator<Item = u64>) {
        (self.index, self.confirming.drain(..))
    }

    /// Ends everything: no read can be answered any more. A new term counts its rounds anew.
    pub(super) fn fail(&mut self, failed: &mut Vec<u64>) {
        sometimes!(reads_lost, self.pending() > 0);
        failed.append(&mut self.confirming);
        failed.append(&mut self.waiting);
        self.round = 0;
    }
}
