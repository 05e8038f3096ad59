//! What a frame promises, compared with the disk of its sender at the moment it is sent.
//!
//! | message | promises |
//! |---|---|
//! | Vote | term, own vote, and the log that it speaks of are durable; of a transfer, the term before and the log |
//! | VoteReply, granted | term and vote are durable |
//! | AppendReply, accepted | the term, and the log up to `matched`, equal to the leader's, are durable |
//! | Append, Heartbeat | the sender leads the term; the commit index names committed entries |
//! | HeartbeatReply | nothing durable; its sender has heard of the term, and stands for the round of reads |
//! | Quiesce | as a heartbeat |
//! | Quiesced, ReadIndex | nothing durable; its sender has heard of the term |
//! | ReadIndexReply | the sender leads the term, and the entry that it names is committed |
//! | PreVote, PreVoteReply | nothing |
//!
//! A frame may lie in a buffer while its sender goes on. If the sender's disk is in a later term by
//! then, what was promised in the earlier one may be gone, or may never have been there: in a later term
//! nobody can be misled by it any more, because the sender will not act in the earlier one again.

use coracle_engine::raft::{AppendOutcome, AppendReply, CommitMark, Message, Vote};
use coracle_engine::wire::Frame;
use coracle_engine::{LogIndex, NodeId, ShardId, Term};

use super::violation::{Checked, Invariant, Violation, fail};
use super::{Checker, DurableShard};

impl Checker {
    /// `from` sends `frame` to `to` now.
    ///
    /// # Errors
    /// The first violation found.
    pub fn sent(&mut self, from: NodeId, to: NodeId, frame: &Frame) -> Checked {
        let Frame::Raft { shard, message } = frame else { return Ok(()) };
        self.looks += 1;
        self.check_message(from, to, *shard, message)
            .map_err(|violation| Box::new(violation.on(from, *shard).term(message.term())))
    }

    fn check_message(
        &mut self,
        from: NodeId,
        to: NodeId,
        shard: ShardId,
        message: &Message,
    ) -> Checked {
        match message {
            Message::PreVote(_) | Message::PreVoteReply(_) | Message::Census(_) => Ok(()),
            Message::CensusReply(m) => self.check_term(from, shard, m.term),
            Message::Vote(m) => self.check_candidate(from, shard, m),
            Message::VoteReply(m) if !m.granted => self.check_term(from, shard, m.term),
            Message::VoteReply(m) => self.check_vote(from, to, shard, m.term),
            Message::AppendReply(m) => self.check_ack(from, to, shard, m),
            Message::HeartbeatReply(m) => {
                if let Some(truth) = self.shards.get_mut(shard.0 as usize) {
                    let newest = truth.answered.entry((to, from, m.term)).or_default();
                    *newest = m.round.max(*newest);
                }
                self.check_term(from, shard, m.term)
            }
            Message::Append(m) => self.check_leader(from, shard, m.term, m.commit),
            Message::Heartbeat(m) => self.check_leader(from, shard, m.term, m.commit),
            Message::TimeoutNow(m) => self.check_leader(from, shard, m.term, LogIndex(0)),
            Message::SnapshotOffer(m) => self.check_leader(from, shard, m.term, m.index),
            Message::Quiesce(m) => self.check_leader(from, shard, m.term, m.last),
            Message::Quiesced(m) => self.check_term(from, shard, m.term),
            Message::ReadIndex(m) => self.check_term(from, shard, m.term),
            Message::ReadIndexReply(m) => {
                self.check_leader(from, shard, m.term, m.committed.index)?;
                self.check_mark(shard, m.committed)
            }
        }
    }

    fn check_vote(&mut self, from: NodeId, to: NodeId, shard: ShardId, term: Term) -> Checked {
        if let Some(truth) = self.shards.get_mut(shard.0 as usize) {
            truth.note_vote(term, to, from);
        }
        let Some(disk) = self.on_disk(from, shard)? else { return Ok(()) };
        let given = disk.votes.get(&term);
        if given == Some(&to) || (given.is_none() && disk.hard_state.term > term) {
            return Ok(());
        }
        let expected = format!("a vote for node {to} on disk");
        fail(Violation::new(Invariant::VotePromise, expected, describe(disk, term)))
    }

    fn check_candidate(&mut self, from: NodeId, shard: ShardId, vote: &Vote) -> Checked {
        // Another leader of the term may have replaced its entries while the request waited to be sent.
        let leader = self.truth(shard).and_then(|truth| truth.leaders.get(&vote.term));
        let lost = leader.is_some_and(|leader| *leader != from);
        let Some(disk) = self.on_disk(from, shard)? else { return Ok(()) };
        if disk.hard_state.term > vote.term && !disk.votes.contains_key(&vote.term) {
            return Ok(());
        }
        let has = disk.has_term(vote.last_index, vote.last_term);
        if vote.transfer && disk.hard_state.term.0 + 1 == vote.term.0 && has {
            return Ok(()); // its own vote is still to come
        }
        if disk.votes.get(&vote.term) != Some(&from) {
            let expected = "the candidate's vote for itself on disk";
            let seen = describe(disk, vote.term);
            return fail(Violation::new(Invariant::CandidatePromise, expected, seen));
        }
        if !lost && disk.hard_state.term == vote.term && !has {
            let expected = format!("an entry of term {} on disk", vote.last_term);
            let seen = disk.log().describe(vote.last_index);
            let violation = Violation::new(Invariant::CandidatePromise, expected, seen);
            return fail(violation.index(vote.last_index));
        }
        Ok(())
    }

    fn check_ack(&mut self, from: NodeId, to: NodeId, shard: ShardId, m: &AppendReply) -> Checked {
        let AppendOutcome::Accepted { matched } = m.outcome else {
            return self.check_term(from, shard, m.term);
        };
        if let Some(truth) = self.shards.get_mut(shard.0 as usize) {
            let furthest = truth.acknowledged.entry((to, from)).or_default();
            *furthest = (m.term, matched).max(*furthest);
        }
        // A leader that leads no more may have replaced what it had sent.
        let leader = self.leads(to, shard, m.term) && self.is_leading(to, shard, m.term);
        let leaders = leader.then(|| self.link(to, shard, matched));
        let Some(disk) = self.on_disk(from, shard)? else { return Ok(()) };
        if disk.hard_state.term > m.term {
            return Ok(());
        }
        let violation = |expected: String, seen: String| {
            fail(Violation::new(Invariant::AckPromise, expected, seen).index(matched))
        };
        if disk.hard_state.term < m.term {
            let seen = format!("term {}", disk.hard_state.term);
            return violation(format!("term {} on disk", m.term), seen);
        }
        if disk.log.at(matched).or(disk.log().at(matched)).is_none() {
            let seen = disk.log().describe(matched);
            return violation("the acknowledged entry on disk".to_owned(), seen);
        }
        match leaders {
            // It may have gone, or have started again with less than it had sent.
            None | Some(None) => Ok(()),
            Some(Some(chain)) if disk.has(matched, chain) => Ok(()),
            Some(Some(_)) => {
                let seen = disk.log().describe(matched);
                violation(format!("the log of the leader, node {to}, on disk"), seen)
            }
        }
    }

    fn check_leader(
        &mut self,
        from: NodeId,
        shard: ShardId,
        term: Term,
        commit: LogIndex,
    ) -> Checked {
        // Who was elected and has stepped down again within a turn was never seen to lead. It did, if it
        // has voted for itself.
        let voted =
            self.on_disk(from, shard)?.is_none_or(|disk| disk.votes.get(&term) == Some(&from));
        if voted && let Some(truth) = self.shards.get_mut(shard.0 as usize) {
            truth.leaders.entry(term).or_insert(from);
        }
        if !self.leads(from, shard, term) {
            let known = self.truth(shard).and_then(|truth| truth.leaders.get(&term));
            let seen = match known {
                Some(leader) => format!("it from node {from}; node {leader} leads the term"),
                None => format!("it from node {from}; the term has no leader"),
            };
            return fail(Violation::new(Invariant::Impersonation, "a message of a leader", seen));
        }
        let committed = self.committed(shard);
        if commit > committed {
            let expected = format!("a commit index of at most {committed}");
            let violation =
                Violation::new(Invariant::CommitAnnounced, expected, commit.to_string());
            return fail(violation.index(commit));
        }
        Ok(())
    }

    /// An entry that is told to be committed is the one that was.
    fn check_mark(&self, shard: ShardId, mark: CommitMark) -> Checked {
        let Some(truth) = self.truth(shard) else { return Ok(()) };
        let known = truth.committed.at(mark.index).map(|link| link.term);
        // The sender's log may begin behind it; then it does not know the term.
        if mark.term == Term(0) || known.is_none_or(|term| term == mark.term) {
            return Ok(());
        }
        let expected = format!("{}, as committed", truth.committed.describe(mark.index));
        let seen = format!("one of term {}", mark.term);
        fail(Violation::new(Invariant::CommitAnnounced, expected, seen).index(mark.index))
    }

    /// Nobody answers in a term that it has not heard of.
    fn check_term(&mut self, from: NodeId, shard: ShardId, term: Term) -> Checked {
        let mirror = self.truth(shard).and_then(|truth| truth.mirrors.get(&from));
        let Some(known) = mirror.map(|mirror| mirror.state.term) else { return Ok(()) };
        if term > known {
            let expected = format!("a term of at most {known}, the sender's own");
            let seen = format!("an answer of term {term}");
            return fail(Violation::new(Invariant::Impersonation, expected, seen));
        }
        Ok(())
    }
}

fn describe(disk: &DurableShard, term: Term) -> String {
    match disk.votes.get(&term) {
        Some(vote) => format!("a vote for node {vote} in term {term}"),
        None => format!("no vote in term {term}; the disk is in term {}", disk.hard_state.term),
    }
}
