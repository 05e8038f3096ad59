//! Roles, terms and votes: how a replica becomes leader and stops being it.

use std::time::Duration;

use super::effects::{Effects, Role};
use super::message::{
    CommitMark, Entry, EntryKind, Message, PreVote, PreVoteReply, Standing, Vote, VoteReply,
};
use super::progress::Progress;
use super::quiescence::Quiescence;
use super::quorum::VoteResult;
use super::replica::{Peer, Raft};
use crate::{LogIndex, NodeId, Term};

impl Raft {
    pub(super) fn on_tick(&mut self, now: Duration, effects: &mut Effects) {
        self.now = self.now.max(now);
        self.tick_quiet();
        if self.is_asleep() {
            return;
        }
        if !self.may_vote() {
            self.ask_whether_new(effects);
        } else if self.role != Role::Leader {
            if self.now >= self.election_due && !self.is_quiet() {
                if self.may_campaign() {
                    self.campaign(effects);
                } else {
                    self.leader = None; // and waits for another one
                }
            }
        } else if self.now >= self.heartbeat_due {
            self.heartbeat_due = self.now + self.config.heartbeat_interval;
            if self.hears_majority() {
                self.count_beat();
                self.send_periodic_heartbeats(effects);
                self.put_to_sleep(effects);
                if let Some(successor) = self.preferred_successor() {
                    self.prefer(successor);
                }
            } else {
                sometimes!(check_quorum_failed);
                self.become_follower(self.term, None, effects);
            }
        }
    }

    /// Whether a leader was heard so recently that nobody else is to be helped to depose it. A leader
    /// hears itself: it steps down by itself once it can't reach a majority.
    pub(super) fn hears_leader(&self) -> bool {
        match self.role {
            Role::Leader => true,
            _ => {
                let recent = self.now < self.leader_contact + self.config.election_timeout;
                self.leader.is_some() && (recent || self.is_asleep())
            }
        }
    }

    fn hears_majority(&self) -> bool {
        let since = self.now.saturating_sub(self.config.election_timeout);
        // The node of one that sleeps stands for it.
        let heard = |peer: &Peer| peer.progress.asleep || peer.progress.member_contact >= since;
        #[cfg(mutant = "check-quorum-off-by-one")]
        if self.peers.iter().filter(|peer| heard(peer)).count() + 1
            >= super::quorum::majority(self.peers.len())
        {
            return true;
        }
        let own = self.config.id;
        let hears = |node| node == own || self.peer(node).is_some_and(|at| heard(&self.peers[at]));
        self.deciders().has_quorum(hears)
    }

    /// Enters `term` (which may be the present one) as a follower of `leader`.
    pub(super) fn become_follower(
        &mut self,
        term: Term,
        leader: Option<NodeId>,
        effects: &mut Effects,
    ) {
        assert!(term >= self.term, "terms never decrease");
        if term > self.term {
            sometimes!(leader_deposed, self.role == Role::Leader);
            sometimes!(candidate_outdated, self.role == Role::Candidate);
            sometimes!(term_change_in_flight, self.log.durable() < self.log.last_index());
            self.term = term;
            self.vote = None;
        }
        #[cfg(mutant = "suffix-lost-on-step-down")]
        if self.role == Role::Leader {
            self.log.truncate_from(self.log.committed().next());
        }
        self.reads.fail(&mut effects.reads_failed);
        self.uncommitted = 0;
        self.peers.retain(|peer| peer.leaving.is_none());
        self.role = Role::Follower;
        self.leader = leader;
        self.quiescence = Quiescence::default();
        if leader.is_some() {
            self.leader_contact = self.now;
        }
        self.restart_election_timer();
    }

    /// Asks whether an election could be won; a single voter need not ask.
    fn campaign(&mut self, effects: &mut Effects) {
        if self.is_only_voter() {
            self.become_candidate(false, effects);
            return;
        }
        sometimes!(vote_split, self.role == Role::Candidate);
        sometimes!(pre_vote_unanswered, self.role == Role::PreCandidate);
        #[cfg(mutant = "pre-vote-raises-term")]
        self.become_follower(Term(self.term.0 + 1), None, effects);
        self.role = Role::PreCandidate;
        self.leader = None;
        self.restart_election_timer();
        self.clear_votes();
        self.own_vote = Some(true);
        let question = PreVote {
            term: Term(self.term.0 + 1),
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            committed: self.commit_mark(),
        };
        for peer in self.peers.iter().filter(|peer| self.counts(peer)) {
            effects.send(peer.id, Message::PreVote(question));
        }
    }

    /// Enters the next term and asks for votes. The requests wait until term, own vote and log are
    /// durable, like the own vote. Otherwise a candidate could crash, forget entries that its request
    /// spoke of, campaign in the same term again, and win by a late vote for the log it had before.
    ///
    /// `transfer`: because the leader of the present term wants it. Then the requests go at once, so that voters store
    /// their votes while this replica stores its own, if the log and the present term are durable. A candidate that
    /// crashes before its own vote is durable may ask again in the same term, and win by an earlier vote. But it comes
    /// back to the term of that leader, of whose log its own is a beginning, and until it leaves that term its log can
    /// only grow: the vote is as good as it was. If it votes for somebody else in that term instead, it does not
    /// campaign in it any more. It leads only when its own vote is durable, as always.
    pub(super) fn become_candidate(&mut self, transfer: bool, effects: &mut Effects) {
        let at_once = transfer && self.is_durable(self.log.last_index());
        self.term = Term(self.term.0 + 1);
        self.vote = Some(self.config.id);
        self.role = Role::Candidate;
        self.leader = None;
        self.restart_election_timer();
        #[cfg(not(mutant = "pre-votes-elect"))]
        self.clear_votes();
        #[cfg(mutant = "candidate-vote-unsynced")]
        self.record_vote(self.config.id, true);
        let own = VoteReply { term: self.term, granted: true, committed: self.commit_mark() };
        self.send_after_durable(self.config.id, Message::VoteReply(own), effects);
        let request = Vote {
            term: self.term,
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            transfer,
            committed: self.commit_mark(),
        };
        sometimes!(vote_asked_at_once, at_once);
        for peer in self.peers.iter().filter(|peer| self.counts(peer)) {
            if at_once || cfg!(mutant = "candidate-vote-unsynced") {
                effects.send(peer.id, Message::Vote(request));
            } else {
                self.send_after_durable(peer.id, Message::Vote(request), effects);
            }
        }
    }

    fn become_leader(&mut self, effects: &mut Effects) {
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.quiescence = Quiescence::default();
        self.heartbeat_due = self.now + self.config.heartbeat_interval;
        let (commit, last) = (self.log.committed(), self.log.last_index());
        sometimes!(leader_inherits_entries, commit < last);
        for peer in &mut self.peers {
            *peer.progress = Progress::new(last, self.now, &self.config);
        }
        self.uncommitted = self.log.range(commit.next(), last).map(Entry::cost).sum();
        self.term_start = last.next();
        self.lease.begin_term();
        self.append_own(EntryKind::Noop, bytes::Bytes::new(), effects);
        self.replicate_to_all(effects);
    }

    fn commit_mark(&self) -> CommitMark {
        self.mark_at(self.log.committed())
    }

    /// The same of an entry that was committed some time ago.
    pub(super) fn mark_at(&self, index: LogIndex) -> CommitMark {
        CommitMark { index, term: self.log.term_at(index).unwrap_or_default() }
    }

    /// Commits what a peer knows to be committed, if it is the same entry here. A leader counts for itself; who has lost
    /// its data may not have what it seems to have.
    pub(super) fn learn_committed(&mut self, mark: CommitMark, effects: &mut Effects) {
        let has_it = self.log.term_at(mark.index) == Some(mark.term);
        let learns = has_it && self.role != Role::Leader && self.standing == Standing::Member;
        if learns && mark.index > self.log.committed() {
            sometimes!(commit_learned_of_vote);
            self.commit_to(mark.index, effects);
        }
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, m: PreVote, effects: &mut Effects) {
        self.learn_committed(m.committed, effects);
        let can_win = m.term > self.term && self.is_up_to_date(m.last_term, m.last_index);
        let granted = can_win && !self.asks_before(from, &m);
        sometimes!(pre_vote_refused, !can_win);
        sometimes!(pre_vote_asked_at_once, can_win && !granted);
        let term = if granted { m.term } else { self.term };
        let committed = self.commit_mark();
        effects.send(from, Message::PreVoteReply(PreVoteReply { term, granted, committed }));
    }

    /// Whether this replica has just asked the same, and goes first. If two granted each other their pre-votes, both would
    /// vote for themselves in the next term, and that election would be lost: another timeout without a leader, for
    /// some of the shards that a dead node led. Of two with equal logs the one with the larger id goes first; not for
    /// long, for there may be others without whom only the other one can win.
    fn asks_before(&self, other: NodeId, m: &PreVote) -> bool {
        let asked = self.election_due.saturating_sub(self.election_timeout);
        self.role == Role::PreCandidate
            && self.now < asked + self.config.heartbeat_interval
            && (m.last_term, m.last_index) == (self.log.last_term(), self.log.last_index())
            && self.config.id > other
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        from: NodeId,
        m: PreVoteReply,
        effects: &mut Effects,
    ) {
        self.learn_committed(m.committed, effects);
        if self.role != Role::PreCandidate || (m.granted && m.term.0 != self.term.0 + 1) {
            return;
        }
        self.record_vote(from, m.granted);
        match self.tally() {
            VoteResult::Pending => {}
            VoteResult::Won => self.become_candidate(false, effects),
            VoteResult::Lost => {
                sometimes!(pre_vote_lost);
                self.become_follower(self.term, None, effects);
            }
        }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, m: Vote, effects: &mut Effects) {
        self.learn_committed(m.committed, effects);
        let free = match self.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none(),
        };
        let (term, committed) = (self.term, self.commit_mark());
        if free && self.is_up_to_date(m.last_term, m.last_index) {
            sometimes!(vote_repeated, self.vote.is_some());
            self.vote = Some(from);
            self.restart_election_timer();
            let reply = VoteReply { term, granted: true, committed };
            #[cfg(not(mutant = "vote-before-flush"))]
            self.send_after_durable(from, Message::VoteReply(reply), effects);
            #[cfg(mutant = "vote-before-flush")]
            effects.send(from, Message::VoteReply(reply));
        } else {
            sometimes!(vote_taken, !free);
            sometimes!(vote_log_behind, free);
            effects.send(from, Message::VoteReply(VoteReply { term, granted: false, committed }));
        }
    }

    pub(super) fn on_vote_reply(&mut self, from: NodeId, m: VoteReply, effects: &mut Effects) {
        self.learn_committed(m.committed, effects);
        if self.role != Role::Candidate {
            return;
        }
        self.record_vote(from, m.granted);
        match self.tally() {
            VoteResult::Pending => {}
            VoteResult::Won => self.become_leader(effects),
            VoteResult::Lost => {
                sometimes!(vote_lost);
                self.become_follower(self.term, None, effects);
            }
        }
    }

    /// Whether a log that ends so is at least as good as this replica's: a later last term wins, then
    /// the longer log (Raft paper, 5.4.1).
    fn is_up_to_date(&self, last_term: Term, last_index: LogIndex) -> bool {
        #[cfg(mutant = "vote-for-shorter-log")]
        let last_index = last_index.max(self.log.last_index());
        (last_term, last_index) >= (self.log.last_term(), self.log.last_index())
    }

    fn counts(&self, peer: &Peer) -> bool {
        self.deciders().is_voter(peer.id)
    }

    fn clear_votes(&mut self) {
        self.own_vote = None;
        for peer in &mut self.peers {
            peer.vote = None;
        }
    }

    /// The first answer of each voter counts.
    fn record_vote(&mut self, from: NodeId, granted: bool) {
        if from == self.config.id {
            self.own_vote.get_or_insert(granted);
        } else if let Some(place) = self.peer(from) {
            self.peers[place].vote.get_or_insert(granted);
        }
    }

    /// The own vote must be in before anything is won, even if others make a majority: only then is
    /// the term known to be durable here.
    fn tally(&self) -> VoteResult {
        let result = self.deciders().vote(|node| match node {
            own if own == self.config.id => self.own_vote,
            other => self.peer(other).and_then(|place| self.peers[place].vote),
        });
        if self.own_vote.is_none() && result == VoteResult::Won {
            sometimes!(own_vote_awaited);
            return VoteResult::Pending;
        }
        result
    }

    /// Draws a timeout of 1 to 2 times the configured one, longer for a replica of low priority, and starts it.
    pub(super) fn restart_election_timer(&mut self) {
        let base = self.config.election_timeout;
        let fraction = (self.next_random() >> 32) as u32;
        let nanos = (base.as_nanos() * u128::from(fraction)) >> 32;
        let extra = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.election_timeout = base + extra + self.patience();
        self.election_due = self.now + self.election_timeout;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
