//! Linearizable reads without log entries (Raft thesis, 6.4): which reads wait, and for which round.
//!
//! A read may be answered from the state at the commit index once a majority has confirmed, *after*
//! the read arrived, that the leader still leads. One round of heartbeats with one number serves all
//! reads that arrived before it began; reads that arrive while it is under way wait for the next one.
//! An answer counts for the round whose number it carries and all before, so that an answer that was
//! delayed can't confirm a read that came after it.

//!
//! # Reads on other replicas
//! Any replica may answer a read from its own state, once that holds what was committed when the read came
//! (Raft thesis, 6.4, at its end). One that doesn't lead *asks* the leader of its term ([`ReadIndex`]), and the leader
//! treats the question like a read of its own: the answer ([`ReadIndexReply`]) has the commit index at the begin of a
//! round that began after the question had come. Whatever was committed before the question was **sent** lies at that
//! index or before it. When it has applied so much, the replica may answer. What the answer is worth does not
//! depend on when it arrives, but for this: the time that goes with it is that of the question.
//!
//! - **One question at a time.** A newer one takes the place of the older one, here and at the leader, which so keeps
//!   two of each replica at most: one in the round under way, and one that waits for the next.
//! - **An answer counts for its own question.** Frames come late, twice, or out of an earlier life of the
//!   process; so ids begin at random with each start and are not used twice. An answer to an earlier question is not
//!   wrong, but it is older than the time of the present one.
//! - **Who asks stands for the round.** It was in the leader's term when it sent the question, as it says, so it had not
//!   voted in a later one; that is what an answer to a heartbeat says, of a moment that is late enough for the reads it
//!   asks for. If leader and asker are a quorum, as with three voters, the answer needs no round. Whoever has
//!   lost its data can't know how it has voted, and does not stand for anything.
//! - **The answer names the entry with its term.** A replica that has that entry learns that it is committed, as it does
//!   from votes, and need not wait for the next append or heartbeat.
//! - **A question ends without an answer** when term or leader change. Its loss nobody notices here: the owner asks
//!   again. A leader that hears one of an earlier term tells the sender its own.
//!
//! Learners may ask, and so may replicas that return: what they have applied is as right as elsewhere. The questions of
//! strangers, and of replicas that were removed, are not answered.

use std::time::Duration;

use super::effects::{Effects, Role};
use super::message::{Message, ReadIndex, ReadIndexReply, Standing};
use super::replica::Raft;
use crate::{LogIndex, NodeId, Term};

/// Who waits for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// This replica's owner.
    Owner { id: u64 },
    /// Another replica.
    Peer { node: NodeId, id: u64 },
}

/// What a replica has asked its leader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// The owner's name for it.
    owner_id: u64,
    /// Its name in messages.
    id: u64,
    term: Term,
    leader: NodeId,
}

/// The name of a replica's first question. `seed` is another one at each start.
pub(super) fn first_question(seed: u64) -> u64 {
    seed.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    /// Number of the newest round of heartbeats; counted within the term.
    round: u64,
    /// The round that confirms, or has confirmed, reads last.
    reading: u64,
    /// Commit index when that round began.
    index: LogIndex,
    confirmed: u64,
    confirming: Vec<Reader>,
    waiting: Vec<Reader>,
}

impl Reads {
    /// Takes in a read of the owner; `false` if `max` wait already.
    pub(super) fn push(&mut self, id: u64, max: usize) -> bool {
        if self.of_owner() >= max {
            return false;
        }
        self.waiting.push(Reader::Owner { id });
        true
    }

    /// Nothing waits: gives back the memory for that.
    pub(super) fn rest(&mut self) {
        self.confirming.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }

    /// Takes in a question of another replica, in the place of one that waits.
    fn push_question(&mut self, node: NodeId, id: u64) {
        self.waiting.retain(|reader| !matches!(reader, Reader::Peer { node: n, .. } if *n == node));
        self.waiting.push(Reader::Peer { node, id });
    }

    /// How many of the owner wait.
    pub(super) fn of_owner(&self) -> usize {
        let all = self.confirming.iter().chain(&self.waiting);
        all.filter(|reader| matches!(reader, Reader::Owner { .. })).count()
    }

    /// How many reads and questions wait.
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

    /// The commit index when the newest round of reads began.
    pub(super) fn index(&self) -> LogIndex {
        self.index
    }

    /// Ends the round under way: its reads may be answered from the state at [`Reads::index`].
    pub(super) fn confirmed(&mut self) -> impl Iterator<Item = Reader> {
        self.confirmed = self.reading;
        self.confirming.drain(..)
    }

    /// Ends everything: no read can be answered any more. A new term counts its rounds anew. Who has asked from
    /// elsewhere notices by itself.
    pub(super) fn fail(&mut self, failed: &mut Vec<u64>) {
        sometimes!(reads_lost, self.pending() > 0);
        let all = self.confirming.drain(..).chain(self.waiting.drain(..));
        failed.extend(all.filter_map(|reader| match reader {
            Reader::Owner { id } => Some(id),
            Reader::Peer { .. } => None,
        }));
        (self.round, self.reading, self.confirmed) = (0, 0, 0);
    }
}

impl Raft {
    /// The owner wants a proof of how new this replica's state is, whether it leads or not.
    pub(super) fn on_ask_read_index(&mut self, id: u64, now: Duration, effects: &mut Effects) {
        if self.role == Role::Leader {
            return self.on_lease_read(id, now, effects);
        }
        effects.reads_failed.extend(self.question.take().map(|question| question.owner_id));
        let Some(leader) = self.leader.filter(|_| self.role == Role::Follower) else {
            sometimes!(question_without_leader);
            effects.reads_failed.push(id);
            return;
        };
        let (term, standing) = (self.term, self.standing);
        let question = Question { owner_id: id, id: self.question_id, term, leader };
        self.question_id = self.question_id.wrapping_add(1);
        self.question = Some(question);
        effects.send(leader, Message::ReadIndex(ReadIndex { term, id: question.id, standing }));
    }

    /// Another replica wants to know up to where it has to apply.
    pub(super) fn on_question(&mut self, from: NodeId, m: ReadIndex, effects: &mut Effects) {
        if self.role != Role::Leader {
            return;
        }
        let (term, id, own) = (self.term, m.id, self.config.id);
        let stands = |node| node == own || (node == from && m.standing == Standing::Member);
        let confirmed = self.may_confirm_reads() && self.deciders().has_quorum(stands);
        if confirmed || cfg!(mutant = "question-answered-without-round") {
            sometimes!(question_answered_at_once);
            let committed = self.mark_at(self.log.committed());
            let reply = ReadIndexReply { term, id, committed };
            effects.send(from, Message::ReadIndexReply(reply));
            return;
        }
        sometimes!(question_waits_for_round);
        self.reads.push_question(from, id);
        self.begin_read_round(effects);
    }

    /// The leader has answered.
    pub(super) fn on_question_answered(&mut self, m: ReadIndexReply, effects: &mut Effects) {
        let own = |question: &mut Question| question.id == m.id;
        #[cfg(mutant = "answer-to-any-question")]
        let own = |_: &mut Question| true;
        let Some(question) = self.question.take_if(own) else {
            sometimes!(answer_outdated);
            return;
        };
        self.learn_committed(m.committed, effects);
        effects.read_states.push((question.owner_id, m.committed.index));
    }

    /// After each step: nobody answers a question any more that was asked of another leader, or in another term.
    pub(super) fn drop_lost_question(&mut self, effects: &mut Effects) {
        let now = (self.term, self.leader);
        let lost = |question: &mut Question| now != (question.term, Some(question.leader));
        if let Some(question) = self.question.take_if(lost) {
            sometimes!(question_lost);
            effects.reads_failed.push(question.owner_id);
        }
    }
}
