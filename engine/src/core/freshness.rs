//! How new a replica can show its state to be, and who waits until it is new enough. Pure: time comes as an argument.
//!
//! # Proofs
//! A *proof* is a time and an index: whatever was committed before that time is in every state that has all entries
//! up to the index. A replica gets one by a **question**: it reads its clock, asks ([`Event::AskReadIndex`]: itself, in a
//! round, if it leads, else its leader), and the answer is the index. As soon as that much is applied here, the proof
//! **holds**, and goes on to hold, for the state only grows. Only the newest that holds is kept: it says how old the
//! state can be at most.
//!
//! A read that comes at `now` and bears a staleness of `s` needs a proof of a time after `now - s`. If there is none, it
//! waits for one; what it needs stays what it was when it came. Any question that is asked after it came is good
//! enough, also with a staleness of zero: such a read is linearizable. Often the one under way is, too.
//!
//! ```text
//!        9.0 s       9.2        9.3       9.4         9.5       9.6
//!   asks at 9.0                answer: 17                     17 is applied: what was committed
//!                 a read with 300 ms: needs 8.9,              before 9.0 s is here; the read is answered
//!                 waits for this question
//! ```
//!
//! # What must be right
//! - **The time is that of before the question was sent.** An answer proves nothing about the time when it came: the
//!   leader may have been deposed since it left, and others may have written.
//! - **It counts when it is applied**, not when it is known.
//! - **One clock.** All times are of this replica's own clock; nobody's clocks are compared. It must go on while the
//!   process stands still (it does, unless the whole machine is suspended: then the bound is one of waking time).
//! - **Equal times** say nothing about which came first, where clocks are coarse: a proof from before the read came must be
//!   of a later time than needed. One that was asked for afterwards counts as it is.
//!
//! # What is bounded
//! One question is under way at a time, and all reads that come meanwhile, and which it does not serve, share the
//! next. One without an answer for a while is asked anew; an answer to the old one is ignored. Each read waits until
//! its deadline at most. Proofs that do not hold yet are kept only as long as somebody waits for them, but for the
//! newest. How many reads may wait, the owner counts.
//!
//! [`Event::AskReadIndex`]: crate::raft::Event::AskReadIndex

use std::collections::VecDeque;
use std::time::Duration;

use crate::LogIndex;

/// Proofs of one replica, and the reads that wait for one. `W` is a read.
#[derive(Debug)]
pub(super) struct Freshness<W> {
    /// The time of the newest proof that holds.
    proven: Option<Duration>,
    question: Option<Question>,
    /// The newest question that was asked.
    asked: u64,
    waiting: Vec<Waiting<W>>,
    /// Proofs that hold when their index is applied, oldest first.
    coming: VecDeque<Coming<W>>,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
struct Question {
    id: u64,
    /// When it was asked, or a little before.
    at: Duration,
}

/// A read that waits.
#[derive(Debug)]
struct Waiting<W> {
    /// It needs a proof of a later time,
    since: Duration,
    /// or one by a later question.
    after: u64,
    /// When it is refused.
    deadline: Duration,
    read: W,
}

impl<W> Waiting<W> {
    fn is_served_by(&self, question: Question) -> bool {
        question.at > self.since || question.id > self.after
    }
}

/// A proof that does not hold yet, and who waits for it.
#[derive(Debug)]
struct Coming<W> {
    at: Duration,
    index: LogIndex,
    reads: Vec<Waiting<W>>,
}

impl<W> Default for Freshness<W> {
    fn default() -> Self {
        Self {
            proven: None,
            question: None,
            asked: 0,
            waiting: Vec::new(),
            coming: VecDeque::new(),
        }
    }
}

impl<W> Freshness<W> {
    /// Whether the state as it is now serves a read that comes at `now`.
    pub(super) fn is_fresh(&self, now: Duration, staleness: Duration) -> bool {
        let since = now.saturating_sub(staleness);
        self.proven.is_some_and(|proven| proven > since)
    }

    /// A read that comes at `now` waits for a proof, until `deadline` at most.
    pub(super) fn wait(&mut self, now: Duration, staleness: Duration, deadline: Duration, read: W) {
        let since = now.saturating_sub(staleness);
        let waiting = Waiting { since, after: self.asked, deadline, read };
        match self.coming.iter_mut().find(|coming| coming.at > since) {
            Some(coming) => coming.reads.push(waiting),
            None => self.waiting.push(waiting),
        }
    }

    /// How many reads wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.len() + self.coming.iter().map(|coming| coming.reads.len()).sum::<usize>()
    }

    /// Whether a question is to be asked at `now`, which was read after the reads had come in. If so, it is to be sent
    /// after this, under the name `id`, which is larger than all before. One that was asked `patience` ago counts as
    /// lost.
    pub(super) fn asks(&mut self, id: u64, now: Duration, patience: Duration) -> bool {
        #[cfg(mutant = "bounded-read-dated-at-answer")]
        if let Some(question) = &mut self.question {
            question.at = now; // the last time is that of the turn in which the answer came
            return false;
        }
        let lost = |question: &Question| now >= question.at.saturating_add(patience);
        if self.waiting.is_empty() || !self.question.as_ref().is_none_or(lost) {
            return false;
        }
        assert!(id > self.asked, "question {id} comes after {}", self.asked);
        sometimes!(question_asked_again, self.question.is_some());
        self.asked = id;
        self.question = Some(Question { id, at: now });
        true
    }

    /// Question `id` was answered. Others than the present one are ignored.
    pub(super) fn answered(&mut self, id: u64, index: LogIndex) {
        let Some(question) = self.question.take_if(|question| question.id == id) else { return };
        let all = std::mem::take(&mut self.waiting);
        let (reads, rest) = all.into_iter().partition(|read| read.is_served_by(question));
        self.waiting = rest;
        sometimes!(question_served_not_all, !self.waiting.is_empty());
        self.coming.retain(|coming| !coming.reads.is_empty());
        self.coming.push_back(Coming { at: question.at, index, reads });
    }

    /// Question `id` will not be answered. Others than the present one are ignored.
    pub(super) fn failed(&mut self, id: u64) {
        self.question.take_if(|question| question.id == id);
    }

    /// Everything up to `applied` is in the state: the oldest proof that holds by that, and has not before, with the
    /// reads that it serves. To be called until there is none.
    pub(super) fn hold(&mut self, applied: LogIndex) -> Option<impl Iterator<Item = W> + use<W>> {
        let holds = |coming: &&Coming<W>| {
            coming.index <= applied || cfg!(mutant = "bounded-read-before-apply")
        };
        self.coming.front().filter(holds)?;
        let coming = self.coming.pop_front()?;
        self.proven = self.proven.max(Some(coming.at));
        Some(coming.reads.into_iter().map(|waiting| waiting.read))
    }

    /// Takes out the reads that have waited for too long.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<W> {
        let late = |waiting: &mut Waiting<W>| now >= waiting.deadline;
        let mut expired: Vec<W> = Vec::new();
        let lists = self.coming.iter_mut().map(|coming| &mut coming.reads);
        for list in lists.chain(std::iter::once(&mut self.waiting)) {
            expired.extend(list.extract_if(.., late).map(|waiting| waiting.read));
        }
        expired
    }

    /// Takes out all reads.
    pub(super) fn take_all(&mut self) -> Vec<W> {
        self.expire(Duration::MAX)
    }

    /// Gives back what its buffers hold.
    pub(super) fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
        self.coming.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = ms(500);
    const NEVER: Duration = Duration::MAX;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The reads of all proofs that hold when so much is applied.
    fn hold(freshness: &mut Freshness<&'static str>, applied: u64) -> Vec<&'static str> {
        let mut served = Vec::new();
        while let Some(reads) = freshness.hold(LogIndex(applied)) {
            served.extend(reads);
        }
        served
    }

    #[test]
    fn a_read_is_served_by_the_question_that_is_asked_after_it_when_that_much_is_applied() {
        let mut freshness = Freshness::default();
        assert!(!freshness.is_fresh(ms(1000), ms(900)), "nothing is known");
        assert!(!freshness.asks(1, ms(1000), PATIENCE), "nobody asks");
        freshness.wait(ms(1000), Duration::ZERO, NEVER, "a");
        assert!(freshness.asks(1, ms(1000), PATIENCE));
        assert!(!freshness.asks(2, ms(1001), PATIENCE), "one question at a time");
        freshness.answered(1, LogIndex(17));
        assert!(hold(&mut freshness, 16).is_empty());
        assert!(!freshness.is_fresh(ms(1010), ms(500)), "known, and not applied");
        assert_eq!(hold(&mut freshness, 17), ["a"]);
        assert_eq!(freshness.len(), 0);
    }

    #[test]
    fn what_is_shown_is_of_the_time_of_the_question() {
        let mut freshness = Freshness::default();
        freshness.wait(ms(1000), Duration::ZERO, NEVER, "a");
        assert!(freshness.asks(1, ms(1000), PATIENCE));
        freshness.answered(1, LogIndex(1)); // 300 ms later, but that doesn't matter
        assert_eq!(hold(&mut freshness, 1), ["a"]);
        assert!(freshness.is_fresh(ms(1300), ms(301)));
        assert!(!freshness.is_fresh(ms(1300), ms(300)), "at one time nobody knows what was first");
        assert!(!freshness.is_fresh(ms(1000), Duration::ZERO));
        assert!(
            freshness.is_fresh(ms(5000), Duration::MAX),
            "the beginning of time is bound enough"
        );
    }

    #[test]
    fn the_question_under_way_serves_who_needs_no_more_and_all_others_share_the_next() {
        let mut freshness = Freshness::default();
        freshness.wait(ms(1000), Duration::ZERO, NEVER, "first");
        assert!(freshness.asks(1, ms(1000), PATIENCE));
        freshness.wait(ms(1010), Duration::ZERO, NEVER, "late");
        freshness.wait(ms(1010), ms(5), NEVER, "late, too");
        freshness.wait(ms(1010), ms(50), NEVER, "modest");
        freshness.answered(1, LogIndex(5));
        assert!(freshness.asks(2, ms(1020), PATIENCE));
        assert_eq!(hold(&mut freshness, 5), ["first", "modest"]);
        freshness.answered(2, LogIndex(5));
        assert_eq!(hold(&mut freshness, 5), ["late", "late, too"]);
        assert!(!freshness.asks(3, ms(1030), PATIENCE));
    }

    #[test]
    fn a_read_joins_a_proof_that_waits_to_be_applied() {
        let mut freshness = Freshness::default();
        freshness.wait(ms(1000), Duration::ZERO, NEVER, "a");
        assert!(freshness.asks(1, ms(1000), PATIENCE));
        freshness.answered(1, LogIndex(9));
        freshness.wait(ms(1100), ms(200), NEVER, "b");
        assert!(!freshness.asks(2, ms(1100), PATIENCE));
        freshness.wait(ms(1100), ms(50), NEVER, "c");
        assert!(freshness.asks(2, ms(1100), PATIENCE), "a replica that lags asks on");
        freshness.answered(2, LogIndex(12));
        assert_eq!(hold(&mut freshness, 9), ["a", "b"]);
        assert_eq!(hold(&mut freshness, 12), ["c"]);
    }

    #[test]
    fn lost_questions_are_asked_again_and_late_answers_are_ignored() {
        let mut freshness = Freshness::default();
        freshness.wait(ms(1000), Duration::ZERO, NEVER, "a");
        assert!(freshness.asks(1, ms(1000), PATIENCE));
        assert!(!freshness.asks(2, ms(1499), PATIENCE));
        assert!(freshness.asks(2, ms(1500), PATIENCE));
        freshness.answered(1, LogIndex(3));
        assert!(hold(&mut freshness, 3).is_empty());
        freshness.failed(1);
        assert!(!freshness.asks(3, ms(1510), PATIENCE), "the second is under way");
        freshness.failed(2);
        assert!(freshness.asks(3, ms(1510), PATIENCE), "another leader");
        freshness.answered(3, LogIndex(4));
        assert_eq!(hold(&mut freshness, 4), ["a"]);
    }

    #[test]
    fn who_waits_too_long_is_refused_wherever_it_waits() {
        let mut freshness = Freshness::default();
        freshness.wait(ms(1000), Duration::ZERO, ms(2000), "a");
        assert!(freshness.asks(1, ms(1000), PATIENCE));
        freshness.wait(ms(1001), Duration::ZERO, ms(2001), "b");
        freshness.answered(1, LogIndex(1000));
        freshness.wait(ms(1100), ms(500), ms(2100), "c");
        assert!(freshness.expire(ms(1999)).is_empty());
        assert_eq!(freshness.expire(ms(2001)), ["a", "b"]);
        assert_eq!(freshness.take_all(), ["c"]);
        assert_eq!(freshness.len(), 0);
    }

    #[test]
    fn a_replica_that_is_stuck_does_not_pile_up_proofs() {
        let mut freshness = Freshness::default();
        for id in 1..100 {
            let now = ms(1000 * id);
            freshness.wait(now, Duration::ZERO, now + ms(1500), "a");
            freshness.expire(now);
            assert!(freshness.asks(id, now, PATIENCE));
            freshness.answered(id, LogIndex(1000 + id));
            assert!(freshness.coming.len() <= 3, "{freshness:?}");
        }
    }
}
