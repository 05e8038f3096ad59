//! The sending side of replication: proposals, append messages and their answers, commit, reads.

use bytes::Bytes;

use super::effects::{Effects, Fault, Proposed, Refusal, Role};
use super::message::{
    Append, AppendOutcome, AppendReply, Entry, EntryKind, Heartbeat, HeartbeatReply, Message,
    ReadIndexReply, Standing,
};
use super::progress::State;
use super::reads::Reader;
use super::replica::Raft;
use crate::{LogIndex, NodeId};

impl Raft {
    pub(super) fn on_propose(&mut self, payloads: Vec<Bytes>, effects: &mut Effects) {
        let mut proposed = Proposed {
            term: self.term,
            first: self.log.last_index().next(),
            accepted: 0,
            refusal: None,
        };
        if self.role != Role::Leader {
            proposed.refusal = Some(Refusal::NotLeader { leader: self.leader });
            effects.proposed = Some(proposed);
            return;
        }
        if let Some(to) = self.holds_proposals_for() {
            sometimes!(proposal_during_transfer);
            proposed.refusal = Some(Refusal::Transferring { to });
            effects.proposed = Some(proposed);
            return;
        }
        for payload in payloads {
            let cost = payload.len() + crate::limits::ENTRY_COST_BYTES;
            // An idle leader takes anything, or a limit below one payload would refuse it for ever.
            if self.uncommitted > 0 && self.uncommitted + cost > self.config.uncommitted_bytes_max {
                sometimes!(uncommitted_limit_hit);
                proposed.refusal = Some(Refusal::UncommittedLimit);
                break;
            }
            self.append_own(EntryKind::Normal, payload, effects);
            proposed.accepted += 1;
        }
        effects.proposed = Some(proposed);
        #[cfg(mutant = "lone-voter-unsynced")]
        if self.peers.is_empty() {
            self.commit_to(self.log.last_index(), effects);
        }
        self.replicate_to_all(effects);
    }

    /// Appends one entry to the leader's own log. It counts for the commit index only once it is
    /// durable here, like everywhere.
    pub(super) fn append_own(&mut self, kind: EntryKind, payload: Bytes, effects: &mut Effects) {
        let index = self.log.last_index().next();
        let entry = Entry { term: self.term, index, kind, payload };
        self.uncommitted += entry.cost();
        effects.store(entry.clone());
        self.log.append(entry);
    }

    pub(super) fn replicate_to_all(&mut self, effects: &mut Effects) {
        for place in 0..self.peers.len() {
            self.replicate_to(place, effects);
        }
    }

    /// Sends a follower all that it lacks and its window allows, as far as it is in memory. What is not
    /// is asked for, or offered as a snapshot.
    pub(super) fn replicate_to(&mut self, place: usize, effects: &mut Effects) {
        loop {
            let progress = &self.peers[place].progress;
            let (next, state) = (progress.next, progress.state);
            if next > self.log.last_index() {
                return;
            }
            match state {
                State::Probe { waiting: true } => return,
                State::Snapshot { .. } => return self.renew_offer(place, effects),
                _ if next <= self.log.base_index() => return self.begin_offering(place, effects),
                _ => {}
            }
            let Some(budget) = progress.budget(&self.config) else { return };
            if next >= self.log.first_in_memory() {
                let (entries, bytes) = self.log.batch(next, budget);
                self.send_append(place, entries, bytes, effects);
            } else if state == State::Replicate {
                self.fetch(place, effects);
                return;
            } else {
                // Nothing is read for a question that can be asked without.
                sometimes!(probe_without_entries);
                self.send_append(place, Vec::new(), 0, effects);
            }
        }
    }

    /// Sends a follower these entries of that cost, which begin at its `next`; without any, it is only the
    /// question whether it has what comes before. That must not lie below the base.
    pub(super) fn send_append(
        &mut self,
        place: usize,
        entries: Vec<Entry>,
        bytes: usize,
        effects: &mut Effects,
    ) {
        let peer = &mut self.peers[place];
        let prev_index = peer.progress.next.prev();
        let prev_term = self.log.term_at(prev_index).expect("next is above the base");
        let last = LogIndex(prev_index.0 + entries.len() as u64);
        peer.progress.sent(last, bytes);
        let (term, commit) = (self.term, self.log.committed());
        let append = Append { term, prev_index, prev_term, commit, entries };
        effects.send(peer.id, Message::Append(append));
    }

    /// Asks a follower whether it has what comes before its `next`. Not while it needs a snapshot.
    pub(super) fn send_question(&mut self, place: usize, effects: &mut Effects) {
        let progress = &self.peers[place].progress;
        if progress.state == State::Replicate && progress.next > self.log.base_index() {
            self.send_append(place, Vec::new(), 0, effects);
        }
    }

    pub(super) fn on_append_reply(&mut self, from: NodeId, m: AppendReply, effects: &mut Effects) {
        let Some(place) = self.peer(from) else { return };
        if self.role != Role::Leader {
            return;
        }
        if let AppendOutcome::Accepted { matched } = m.outcome
            && matched > self.log.last_index()
        {
            Self::fault(effects, Fault::ImpossibleAck { from, position: matched.0 });
            return;
        }
        let anew = self.note_standing(place, m.standing);
        let progress = &mut self.peers[place].progress;
        progress.answered = true;
        progress.quiet = false;
        match m.outcome {
            AppendOutcome::Accepted { matched } => {
                progress.accepted(matched, self.log.base_index(), &self.config);
                if m.standing == Standing::Member {
                    progress.counted = progress.counted.max(matched);
                }
                self.advance_commit(effects);
                self.readmit_if_caught_up(place, effects);
            }
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                if let Standing::Returning(incarnation) = m.standing
                    && (anew || prev_index <= progress.matched)
                {
                    sometimes!(returning_lost_acknowledged, !anew);
                    let last = self.log.last_index();
                    progress.start_anew(incarnation, last);
                    progress.next = prev_index.min(last).next(); // this answer says more
                }
                // Both sides skip: none of ours above the result has a term the follower can have. What
                // lies below the base can't be told apart any more.
                let base = self.log.base_index();
                let agree = self.log.last_at_most(hint_index, hint_term);
                let agree = agree.map_or(hint_index.min(base.prev()), |(index, _)| index);
                sometimes!(leader_jumped_term, agree < hint_index);
                if !progress.rejected(prev_index, agree) {
                    sometimes!(reject_ignored);
                    return;
                }
            }
        }
        self.replicate_to(place, effects);
    }

    /// Commits what a majority has on disk. Only entries of the own term are counted; those before
    /// them are committed along (Raft paper, 5.4.2 and figure 8).
    pub(super) fn advance_commit(&mut self, effects: &mut Effects) {
        if self.role != Role::Leader {
            return;
        }
        let own = self.log.durable();
        #[cfg(mutant = "leader-counts-unflushed")]
        let own = self.log.last_index();
        let index = self.deciders().committed(|node| match self.peer(node) {
            Some(place) => self.peers[place].progress.counted,
            None if node == self.config.id => own,
            None => LogIndex(0),
        });
        let own_term = index >= self.term_start || cfg!(mutant = "prior-term-commit");
        if index > self.log.committed() && own_term {
            let oldest = self.log.term_at(self.log.committed().next());
            sometimes!(commit_across_terms, oldest != Some(self.term));
            sometimes!(leader_durable_last, index > self.log.durable());
            self.commit_to(index, effects);
            self.begin_read_round(effects);
        } else {
            sometimes!(commit_waited_for_own_term, index > self.log.committed());
        }
    }

    /// Heartbeats of the periodic kind: they also find out who has fallen silent.
    pub(super) fn send_periodic_heartbeats(&mut self, effects: &mut Effects) {
        for peer in &mut self.peers {
            peer.progress.quiet = !peer.progress.answered;
            peer.progress.answered = false;
        }
        self.number_heartbeats();
        self.send_heartbeats(effects);
        for place in 0..self.peers.len() {
            self.repeat_offer(place, effects);
            self.retry_fetch(place, effects);
            self.attend_returning(place, effects);
        }
        self.let_leaving_go();
    }

    pub(super) fn send_heartbeats(&mut self, effects: &mut Effects) {
        self.note_round_sent();
        let (term, round) = (self.term, self.reads.round());
        for peer in self.peers.iter().filter(|peer| !peer.progress.asleep) {
            // Not beyond what the follower has acknowledged: above it, its log may still differ.
            let commit = self.log.committed().min(peer.progress.matched);
            #[cfg(mutant = "heartbeat-commit-unclamped")]
            let commit = self.log.committed();
            effects.send(peer.id, Message::Heartbeat(Heartbeat { term, commit, round }));
        }
    }

    pub(super) fn on_heartbeat_reply(
        &mut self,
        from: NodeId,
        m: HeartbeatReply,
        effects: &mut Effects,
    ) {
        let Some(place) = self.peer(from) else { return };
        if self.role != Role::Leader {
            return;
        }
        if m.round > self.reads.round() {
            Self::fault(effects, Fault::ImpossibleAck { from, position: m.round });
            return;
        }
        if self.note_standing(place, m.standing) {
            self.replicate_to(place, effects);
        }
        self.note_quiet(place, &m);
        self.peers[place].progress.priority = m.priority;
        let round = m.round;
        #[cfg(mutant = "delayed-ack-confirms-read")]
        let round = self.reads.round();
        if m.standing == Standing::Member {
            let progress = &mut self.peers[place].progress;
            progress.round = progress.round.max(round);
            self.confirm_reads(effects);
        }
        self.mend(place, effects);
    }

    /// The follower is alive, yet answered no append for a whole heartbeat interval although it lacks
    /// entries: what was sent may be lost. A probe goes again; in replicate state an empty append
    /// asks for the last position sent, and its rejection says where to begin again.
    fn mend(&mut self, place: usize, effects: &mut Effects) {
        let progress = &mut self.peers[place].progress;
        if !progress.quiet || progress.matched >= self.log.last_index() {
            return;
        }
        progress.quiet = false;
        match progress.state {
            State::Probe { .. } => {
                sometimes!(probe_repeated);
                progress.resume();
                self.replicate_to(place, effects);
            }
            State::Replicate => {
                sometimes!(quiet_follower_asked);
                self.send_question(place, effects);
                self.replicate_to(place, effects);
            }
            State::Snapshot { .. } => {}
        }
    }

    pub(super) fn on_reachable(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(place) = self.peer(node) else { return };
        if self.role == Role::Leader {
            let progress = &mut self.peers[place].progress;
            progress.unreachable(); // whatever the old connection carried is gone
            progress.resume();
            self.replicate_to(place, effects);
        }
    }

    pub(super) fn on_unreachable(&mut self, node: NodeId) {
        if let Some(place) = self.peer(node)
            && self.role == Role::Leader
        {
            self.peers[place].progress.unreachable();
        }
    }

    pub(super) fn on_read_index(&mut self, id: u64, effects: &mut Effects) {
        if self.role != Role::Leader || !self.reads.push(id, self.config.read_batches_max) {
            sometimes!(reads_full, self.role == Role::Leader);
            effects.reads_failed.push(id);
            return;
        }
        sometimes!(read_waited_for_commit, self.log.committed() < self.term_start);
        sometimes!(read_waited_for_round, self.reads.is_confirming());
        self.begin_read_round(effects);
    }

    /// Begins a round of confirmation for the reads that wait, if none is under way. Until an entry
    /// of the own term is committed, the commit index may be older than that of an earlier leader.
    pub(super) fn begin_read_round(&mut self, effects: &mut Effects) {
        if !self.may_confirm_reads() || !self.reads.begin(self.log.committed()) {
            return;
        }
        if self.is_only_voter() {
            self.confirm_reads(effects);
        } else {
            self.send_heartbeats(effects);
        }
    }

    /// Whether the commit index is as new as that of all leaders before.
    pub(super) fn may_confirm_reads(&self) -> bool {
        self.log.committed() >= self.term_start || cfg!(mutant = "read-before-own-commit")
    }

    pub(super) fn confirm_reads(&mut self, effects: &mut Effects) {
        if !self.reads.is_confirming() {
            return;
        }
        let (round, own) = (self.reads.reading(), self.config.id);
        let stands = |node| match self.peer(node) {
            Some(place) => self.peers[place].progress.round >= round,
            None => node == own,
        };
        if !self.deciders().has_quorum(stands) {
            return;
        }
        let (term, committed) = (self.term, self.mark_at(self.reads.index()));
        for reader in self.reads.confirmed() {
            match reader {
                Reader::Owner { id } => effects.read_states.push((id, committed.index)),
                Reader::Peer { node, id } => {
                    let reply = ReadIndexReply { term, id, committed };
                    effects.send(node, Message::ReadIndexReply(reply));
                }
            }
        }
        self.begin_read_round(effects);
    }
}
