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
    /// Number of the newest round of heartbeats; counted within the term.
    round: u64,
    /// The round that confirms, or has confirmed, reads last.
    reading: u64,
    /// Commit index when that round began.
    index: LogIndex,
    confirmed: u64,
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

    /// Nothing waits: gives back the memory for that.
    pub(super) fn rest(&mut self) {
        self.confirming.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }

    /// How many reads wait.
    pub(super) fn pending(&self) -> usize {
        self.confirming.len() + self.waiting.len()
    }

    /// Number of the newest round.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// The round whose answers confirm reads.
    pub(super) fn reading(&self) -> u64 {
        self.reading
    }

    /// Number of the newest round of reads that a majority has confirmed; 0 before the first of a term.
    pub(super) fn confirmed_round(&self) -> u64 {
        self.confirmed
    }

    /// Begins a round that confirms no reads.
    pub(super) fn skip_round(&mut self) {
        self.round += 1;
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
        self.reading = self.round;
        self.index = commit;
        std::mem::swap(&mut self.confirming, &mut self.waiting);
        true
    }

    /// Ends the round under way: its reads may be answered from the state at the returned index.
    pub(super) fn confirmed(&mut self) -> (LogIndex, impl Iterator<Item = u64>) {
        self.confirmed = self.reading;
        (self.index, self.confirming.drain(..))
    }

    /// Ends everything: no read can be answered any more. A new term counts its rounds anew.
    pub(super) fn fail(&mut self, failed: &mut Vec<u64>) {
        sometimes!(reads_lost, self.pending() > 0);
        failed.append(&mut self.confirming);
        failed.append(&mut self.waiting);
        (self.round, self.reading, self.confirmed) = (0, 0, 0);
    }
}
