//! The receiving side of replication: what a follower takes from a leader, and what it promises.

use super::effects::{Effects, Fault, Role};
use super::message::{
    Append, AppendOutcome, AppendReply, Entry, EntryKind, Heartbeat, HeartbeatReply, Message,
    Standing,
};
use super::replica::Raft;
use crate::{LogIndex, NodeId};

impl Raft {
    /// Takes `from` as the leader of the present term and restarts the election timer. `false` if
    /// that can't be.
    pub(super) fn follow(&mut self, from: NodeId, effects: &mut Effects) -> bool {
        if self.leader.is_some_and(|leader| leader != from) {
            Self::fault(effects, Fault::TwoLeaders { from, term: self.term });
            return false;
        }
        if self.role != Role::Follower {
            // A candidate whose term has a leader has lost.
            sometimes!(candidate_found_leader);
            self.become_follower(self.term, Some(from), effects);
        }
        self.leader = Some(from);
        self.leader_contact = self.now;
        self.election_due = self.now + self.election_timeout;
        true
    }

    pub(super) fn on_append(&mut self, from: NodeId, m: Append, effects: &mut Effects) {
        if !self.follow(from, effects) {
            return;
        }
        if !follows_each_other(&m) {
            Self::fault(effects, Fault::BrokenAppend { from, index: m.prev_index });
            return;
        }
        if m.prev_index >= self.log.base_index()
            && self.log.term_at(m.prev_index) != Some(m.prev_term)
        {
            self.reject(from, &m, effects);
            return;
        }
        #[cfg(mutant = "empty-append-ack-unsynced")]
        let empty = m.entries.is_empty();
        // What this message proves equal to the leader's log; only so much is acknowledged.
        let proven = LogIndex(m.prev_index.0 + m.entries.len() as u64);
        if !self.take_entries(from, m.entries, effects) {
            return;
        }
        sometimes!(append_kept_suffix, proven < self.log.last_index());
        sometimes!(append_commit_capped, m.commit > proven);
        self.commit_to(m.commit.min(proven), effects);
        let outcome = AppendOutcome::Accepted { matched: proven };
        let reply = AppendReply { term: self.term, outcome, standing: self.standing };
        let reply = Message::AppendReply(reply);
        let durable = self.is_durable(proven);
        #[cfg(mutant = "empty-append-ack-unsynced")]
        let durable = durable || empty;
        let at_once = durable && effects.entries.is_empty();
        if at_once || cfg!(mutant = "follower-ack-unsynced") {
            effects.send(from, reply);
        } else {
            let stored = proven <= self.log.durable() && effects.entries.is_empty();
            sometimes!(ack_waited_for_term, stored);
            self.send_after_durable(from, reply, effects);
        }
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, m: Heartbeat, effects: &mut Effects) {
        if !self.follow(from, effects) {
            return;
        }
        let (index, last) = (m.commit, self.log.last_index());
        // The leader may go by what was acknowledged before this replica lost its data.
        let lost = self.standing != Standing::Member;
        sometimes!(commit_of_lost_log, lost && index > last);
        if index > last && !lost {
            Self::fault(effects, Fault::AckedEntriesMissing { from, index, last });
            return;
        }
        if !lost {
            self.commit_to(index, effects);
        }
        let (term, round, standing) = (self.term, m.round, self.standing);
        let quiet_ms = self.promise_quiet();
        let priority = self.priority;
        let reply = HeartbeatReply { term, round, standing, quiet_ms, priority };
        effects.send(from, Message::HeartbeatReply(reply));
    }

    /// Whether the log up to `index` and the term are durable, so that both may be promised at once.
    pub(super) fn is_durable(&self, index: LogIndex) -> bool {
        index <= self.log.durable()
            && !self.log.is_being_replaced()
            && self.durable_term == self.term
    }

    /// Appends what the log does not have yet. Entries are cut only where a term differs: a message
    /// that arrives late and ends earlier than the log must not shorten it.
    fn take_entries(&mut self, from: NodeId, entries: Vec<Entry>, effects: &mut Effects) -> bool {
        for entry in entries {
            let (index, theirs) = (entry.index, entry.term);
            match self.log.term_at(index) {
                _ if index <= self.log.base_index() => continue,
                #[cfg(mutant = "truncate-without-conflict")]
                Some(own) if own == theirs && index > self.log.committed() => {
                    self.log.truncate_from(index);
                }
                Some(own) if own == theirs => {
                    sometimes!(append_repeated);
                    continue;
                }
                Some(own) if index <= self.log.committed() => {
                    let fault = Fault::ConflictBelowCommit { from, index, own, theirs };
                    Self::fault(effects, fault);
                    return false;
                }
                Some(_) => {
                    sometimes!(log_truncated);
                    let in_flight = self.log.durable() < self.log.last_index();
                    sometimes!(log_truncated_in_flight, in_flight);
                    sometimes!(log_truncated_again, self.log.rewrites() > 0);
                    self.log.truncate_from(index);
                    self.readmission = self.readmission.filter(|at| *at < index);
                }
                None => {}
            }
            self.note_readmission(&entry);
            effects.store(entry.clone());
            self.log.append(entry);
        }
        true
    }

    /// Says that the entry before those sent is not here, and where the logs can agree at best: not
    /// above the own end, nor where the own term is later than the leader's at that place.
    fn reject(&self, from: NodeId, m: &Append, effects: &mut Effects) {
        // A correct leader has what is committed, so it agrees with the base at least.
        let base = (self.log.base_index(), self.log.base_term());
        let (hint_index, hint_term) =
            self.log.last_at_most(m.prev_index, m.prev_term).unwrap_or(base);
        let prev_index = m.prev_index;
        let short = prev_index > self.log.last_index();
        sometimes!(append_rejected_short, short);
        sometimes!(append_rejected_conflict, !short);
        sometimes!(hint_jumped_term, hint_index < prev_index.min(self.log.last_index()));
        let outcome = AppendOutcome::Rejected { prev_index, hint_index, hint_term };
        let reply = AppendReply { term: self.term, outcome, standing: self.standing };
        effects.send(from, Message::AppendReply(reply));
    }
}

fn follows_each_other(m: &Append) -> bool {
    let (mut index, mut term) = (m.prev_index, m.prev_term);
    for entry in &m.entries {
        let whole = entry.kind != EntryKind::Reconfiguration || entry.configuration().is_some();
        if index.0 == u64::MAX || entry.index != index.next() || entry.term < term || !whole {
            return false;
        }
        (index, term) = (entry.index, entry.term);
    }
    term <= m.term
}
