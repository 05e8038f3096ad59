//! Replicas that come back without their data.
//!
//! A replica whose disk is gone has forgotten whom it voted for and what it acknowledged. If it went on as
//! if nothing had been, it could vote a second time in a term, or help to elect a leader without entries
//! that are committed because it had them. So it takes part without a say until the others have taken
//! it back.
//!
//! # Rules
//! **Blank.** A replica that finds nothing at all on its disk ([`Config::blank`](super::Config::blank))
//! does not know whether the cluster is new. It asks all other voters, again with each heartbeat interval. An
//! answer says whether its sender's log is *empty* (no entry, and never one) and its term. Until it
//! knows, it stores nothing, enters no term, and ignores all but these answers and what a leader sends.
//! - Everybody else is empty: it is a **member**. It enters the newest term among the answers as one that
//!   has voted in it, and stores that.
//! - Somebody is not empty, or a leader sends it something: it is **returning**, under a number drawn at random
//!   at this start, its *incarnation*. It stores that before anything else.
//! - A single voter is a member at once.
//!
//! **Damaged.** A replica that may lack a part of what it acknowledged, but knows its term and vote
//! ([`Config::damaged`](super::Config::damaged)), is as one that is blank, but asks nobody: it was here before.
//! When a leader sends it something, it gives up what is left of its log and is returning. Found damaged while it
//! runs, it first waits for a durable snapshot of what it has applied: its log will begin behind that, and what a
//! member has must outlive it.
//!
//! **Returning.** It takes entries and snapshots and acknowledges them, and says in each answer that it is
//! returning. It neither votes nor campaigns nor answers pre-votes, after a restart, too. It takes no commit
//! index from heartbeats: that goes by what was acknowledged, perhaps before the loss. Appends say what they prove.
//!
//! **The leader** counts for commits, reads and check-quorum only answers that say "member". When a follower
//! turns out to be returning, sending begins anew with what it has. Once it keeps pace, the leader appends a
//! [`Readmission`] of that incarnation; again if it does not take notice.
//!
//! **Readmitted.** A returning replica that commits the Readmission of itself in its present incarnation is a
//! member. One that names another incarnation says nothing.
//!
//! # Why this is safe
//! Let V lose its data; V' is what comes back. Let there be n voters, and majorities of m, so 2m > n. At most as
//! many are lost or returning at a time as leave a majority; first, only V is. A message to V does not
//! reach V': its connections died with it. Messages from V may arrive at any time later.
//!
//! *While V' returns*, it is as if V had crashed: it gives no vote, and nothing that it acknowledges is
//! counted. Late votes and acknowledgements of V are true: V had given them, and would have kept them if it had
//! only stopped. A leader that still counts what V had acknowledged commits what V *had*; any later
//! leader is elected by m of the other n - 1, and the commit had m - 1 of those besides V: 2m - 1 > n - 1, so they
//! share one that is not V. It also means that if the leader forgets what V acknowledged, or hears of it later,
//! nothing depends on it. But an acknowledgement of V' must not count, not even for what V' has on its disk: a
//! vote that V gave in a later term may still be under way, and nobody would know of the entry.
//!
//! *When V' is readmitted* by an entry e, committed in term c by m of the others, M, who acknowledged it in c. e was
//! appended after the loss, as it names V'. Any majority Q that V was part of shares a replica X with M
//! that is not V (as above).
//! - **Double votes.** Say V had voted for A in term t, before the loss, so A was a candidate without e. V' votes
//!   only in terms from c on. If t > c: were A elected by Q, X had voted for A. If that was after X had acknowledged
//!   e, then, as in the paper (5.4.3), A would have had e: A's log would be at least as good as one that
//!   has an entry of term c at or after e. If before, X would not have acknowledged anything in c. So A never leads,
//!   and whoever else is elected in t is the only one. If t = c: if A leads c, then e is in a later
//!   place than anything A had as a candidate, and of term c (an e of an earlier term would have been in its log
//!   at the election); V' has e, so no candidate of c, whose log has no entry of c, gets its vote.
//!   If another one leads c, X has voted for it and so not for A.
//! - **Lost acknowledgements.** Let N be committed in term u with V's acknowledgement, by Q. If u > c: the
//!   leader of u was elected before the loss, and one of M had voted for it and could not acknowledge e in c
//!   after that. If u <= c, leaders of c have N, by
//!   the first argument. N is before e in their log: e was appended after the loss, when N was there
//!   already; an entry below N of an earlier term than N's would have been in the log of N's leader when it
//!   appended N, before the loss. So V', which has the log up to e, has N.
//! - **Reads.** A round that V answered was answered before V could help to elect anybody newer; V' answers count
//!   only from e on, when it is in term c or later and votes like everybody else.
//!
//! From e on V' is as good as V was, and the next one may be lost. If several are lost, the argument holds
//! one after the other: an M may have readmitted replicas, whose terms are not before their own e's, so that
//! candidates with an old vote of theirs are excluded already.
//!
//! *A new cluster.* V' is a member by the answers of all others, given after the loss: all were empty. Nobody led
//! with V's help, for a leader's log is not empty, and nothing was acknowledged by V that somebody needs. But V may
//! have voted for a candidate that will win. The candidate was in that term when it asked V, so its answer
//! names that term or a later one, and V' gives no vote up to there. A majority of answers is not enough:
//! the only replica with an entry that V had helped to commit may be the one that was not asked.

use std::time::Duration;

use super::config::Config;
use super::effects::{Base, Effects, Role};
use super::message::{
    Census, CensusReply, Entry, EntryKind, HardState, Message, Readmission, Standing,
};
use super::progress::Readmitting;
use super::quiescence::Quiescence;
use super::replica::Raft;
use crate::limits::READMISSION_BEATS;
use crate::{LogIndex, NodeId, Term};

/// What a blank or damaged replica has heard so far.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    incarnation: u64,
    /// It is damaged: it was here before, and only waits for a leader.
    damaged: bool,
    /// When it asks again.
    due: Duration,
    /// Who is known to be empty, and the term it was in.
    empty: Vec<(NodeId, Term)>,
}

impl Asking {
    /// A single voter has nobody to ask, and nobody who could know more.
    pub(super) fn begin(config: &Config, now: Duration) -> Option<Self> {
        #[cfg(mutant = "wiped-node-votes")]
        let config = &Config { blank: None, ..config.clone() };
        let damaged = config.damaged.is_some();
        let incarnation =
            config.damaged.or(config.blank.filter(|_| config.voters != [config.id]))?;
        Some(Self { incarnation, damaged, due: now, empty: Vec::new() })
    }
}

impl Raft {
    /// Whether this replica votes and counts; `None` while it does not know.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.asking.is_none().then_some(self.standing)
    }

    /// Whether what was found of it is damaged, and nothing of that is given up yet: its log is still on disk.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.asking.as_ref().is_some_and(|asking| asking.damaged)
    }

    /// Whether it is damaged and deaf until there is a durable snapshot
    /// ([`Event::Snapshot`](super::Event::Snapshot)) of what its log is to begin behind.
    #[must_use]
    pub fn awaits_snapshot(&self) -> bool {
        self.is_damaged() && !self.base_is_in_snapshot()
    }

    fn base_is_in_snapshot(&self) -> bool {
        self.log.base_index() <= self.snapshot.map_or(LogIndex(0), |(index, _)| index)
    }

    /// What the log has behind `index`, which the state machine has, can't be read any more: from here on this
    /// replica is as one that was found damaged, with a log that begins behind `index`. `incarnation` is as in
    /// [`Config::damaged`](super::Config::damaged). What `effects` holds of earlier steps must be gone.
    ///
    /// What it has promised holds until then, as that of a replica that stopped: whatever is durable may
    /// still be said.
    ///
    /// # Panics
    /// If it is the only voter, or `index` is below the base.
    pub fn become_damaged(&mut self, index: LogIndex, incarnation: u64, effects: &mut Effects) {
        sometimes!(damaged_while_running);
        assert!(!self.is_only_voter(), "nobody else has what the only voter lacks");
        let term = self.log.term_at(index);
        let term = term.expect("what is applied is not below the base of the log");
        if self.role != Role::Follower {
            self.become_follower(self.term, None, effects);
        }
        self.leader = None;
        self.quiescence = Quiescence::default();
        self.log.begin_anew(index, term);
        self.readmission = None;
        self.standing = Standing::Returning(incarnation);
        let (damaged, due, empty) = (true, self.now, Vec::new());
        self.asking = Some(Box::new(Asking { incarnation, damaged, due, empty }));
        effects.hard_state = Some(HardState { standing: Standing::DAMAGED, ..self.hard_state() });
        effects.soft_state = Some(self.soft_state());
    }

    /// Whether it may vote, campaign and lead.
    pub(super) fn may_vote(&self) -> bool {
        self.standing() == Some(Standing::Member)
    }

    /// The time of a replica that may not vote: it asks, or notices that no leader is heard.
    pub(super) fn ask_whether_new(&mut self, effects: &mut Effects) {
        if self.leader.is_some() && self.now >= self.election_due {
            self.leader = None;
        }
        let Some(asking) =
            self.asking.as_mut().filter(|asking| self.now >= asking.due && !asking.damaged)
        else {
            return;
        };
        asking.due = self.now + self.config.heartbeat_interval;
        let question = Census { incarnation: asking.incarnation };
        for peer in &self.peers {
            effects.send(peer.id, Message::Census(question));
        }
    }

    /// Handles what belongs to no term, and says whether a message is to be handled further.
    pub(super) fn listens_to(
        &mut self,
        from: NodeId,
        message: &Message,
        effects: &mut Effects,
    ) -> bool {
        match message {
            Message::Census(m) => self.on_census(from, *m, effects),
            Message::CensusReply(m) => self.on_census_reply(from, *m, effects),
            Message::Append(_) | Message::Heartbeat(_) | Message::SnapshotOffer(_) => {
                // One of an earlier term may lead no more; it learns of ours and does not count as a leader.
                if self.awaits_snapshot() {
                    sometimes!(damaged_without_snapshot);
                    return false;
                }
                if let Some(asking) = &self.asking
                    && message.term() >= self.term
                {
                    sometimes!(blank_found_leader, !asking.damaged);
                    sometimes!(damaged_found_leader, asking.damaged);
                    if asking.damaged {
                        let (index, term) = (self.log.base_index(), self.log.base_term());
                        effects.base = Some(Base { index, term, reset: true });
                    }
                    self.become_returning(asking.incarnation, effects);
                }
                return true;
            }
            Message::AppendReply(_)
            | Message::HeartbeatReply(_)
            | Message::Quiesce(_)
            | Message::Quiesced(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => return self.asking.is_none(),
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Vote(_)
            | Message::VoteReply(_)
            | Message::TimeoutNow(_) => {
                sometimes!(vote_withheld, !self.may_vote());
                return self.may_vote();
            }
        }
        false
    }

    fn on_census(&self, from: NodeId, m: Census, effects: &mut Effects) {
        let empty = self.log.is_empty() && self.standing == Standing::Member;
        let reply = CensusReply { term: self.term, empty, incarnation: m.incarnation };
        effects.send(from, Message::CensusReply(reply));
    }

    fn on_census_reply(&mut self, from: NodeId, m: CensusReply, effects: &mut Effects) {
        let Some(asking) =
            self.asking.as_mut().filter(|own| own.incarnation == m.incarnation && !own.damaged)
        else {
            return;
        };
        if !m.empty {
            let incarnation = asking.incarnation;
            self.become_returning(incarnation, effects);
            return;
        }
        asking.empty.retain(|(node, _)| *node != from);
        asking.empty.push((from, m.term));
        if asking.empty.len() < self.peers.len() {
            return;
        }
        let newest = asking.empty.iter().map(|(_, term)| *term).max().unwrap_or_default();
        self.asking = None;
        if newest > self.term {
            sometimes!(blank_gives_up_vote);
            (self.term, self.vote) = (newest, Some(self.config.id));
        }
        // From now on its disk says that it has been here: had it to ask again, others might not be empty.
        self.store_hard_state(effects);
        self.restart_election_timer();
    }

    fn become_returning(&mut self, incarnation: u64, effects: &mut Effects) {
        self.asking = None;
        self.standing = Standing::Returning(incarnation);
        self.store_hard_state(effects);
    }

    /// At start: whether the log has the entry that readmits this replica.
    pub(super) fn find_readmission(&mut self) {
        let entries = self.log.range(self.log.first_in_memory(), self.log.last_index());
        let own = entries.filter(|entry| self.readmits_me(entry));
        self.readmission = own.map(|entry| entry.index).last();
    }

    /// Notes an entry that readmits this replica, to be acted on when it is committed.
    pub(super) fn note_readmission(&mut self, entry: &Entry) {
        if self.readmits_me(entry) {
            self.readmission = Some(entry.index);
        }
    }

    fn readmits_me(&self, entry: &Entry) -> bool {
        let Standing::Returning(incarnation) = self.standing else { return false };
        let own = Readmission { node: self.config.id, incarnation };
        entry.kind == EntryKind::Readmission && Readmission::decode(&entry.payload) == Some(own)
    }

    /// At the end of each step: a replica whose readmission is committed is a member again.
    pub(super) fn rejoin_if_readmitted(&mut self, effects: &mut Effects) {
        if self.readmission.is_some_and(|at| at <= self.log.committed()) {
            sometimes!(readmitted);
            let (base, snapshot) = (self.log.base_index(), self.snapshot);
            assert!(
                self.base_is_in_snapshot(),
                "a member from {base} on has snapshot {snapshot:?}"
            );
            self.readmission = None;
            self.standing = Standing::Member;
            self.restart_election_timer();
            self.store_hard_state(effects);
        }
    }

    /// A leader hears from a follower. Returns whether it turns out to have lost its data.
    pub(super) fn note_standing(&mut self, place: usize, standing: Standing) -> bool {
        let last = self.log.last_index();
        let progress = &mut self.peers[place].progress;
        progress.contact = self.now;
        match standing {
            Standing::Member => {
                progress.member_contact = self.now;
                progress.returning = None;
                progress.readmitting = None;
                progress.goal = None;
            }
            Standing::Returning(incarnation) if progress.returning != Some(incarnation) => {
                sometimes!(returning_noticed);
                progress.start_anew(incarnation, last);
                progress.readmitting = None;
                return true;
            }
            Standing::Returning(_) => {}
        }
        false
    }

    /// Appends the entry that readmits a follower once it keeps pace, unless one is there.
    pub(super) fn readmit_if_caught_up(&mut self, place: usize, effects: &mut Effects) {
        if self.role != Role::Leader {
            return;
        }
        let peer = &self.peers[place];
        let progress = &peer.progress;
        let Some(incarnation) = progress.returning else { return };
        if peer.leaving.is_some() {
            return;
        }
        let goal = progress.goal.unwrap_or_else(|| self.log.committed());
        let caught_up = progress.matched >= goal.min(self.log.committed());
        if !caught_up || progress.readmitting.is_some_and(|own| own.incarnation == incarnation) {
            return;
        }
        sometimes!(readmission_appended);
        let payload = Readmission { node: peer.id, incarnation }.encode();
        let index = self.log.last_index().next();
        self.peers[place].progress.readmitting = Some(Readmitting { incarnation, index, beats: 0 });
        self.append_own(EntryKind::Readmission, payload, effects);
        self.replicate_to_all(effects);
    }

    /// With each periodic heartbeat, for a follower that is returning.
    pub(super) fn attend_returning(&mut self, place: usize, effects: &mut Effects) {
        let committed = self.log.committed();
        let progress = &mut self.peers[place].progress;
        if progress.returning.is_none() {
            return;
        }
        // It has the entry and still does not know: the entry is below its base, or it has restarted.
        let known = committed.min(progress.matched);
        if let Some(own) = &mut progress.readmitting
            && own.index <= known
        {
            own.beats += 1;
            if own.beats > READMISSION_BEATS {
                sometimes!(readmission_repeated);
                progress.readmitting = None;
            }
        }
        self.readmit_if_caught_up(place, effects);
        self.peers[place].progress.goal = Some(committed);
        // A heartbeat does not tell it the commit index.
        self.send_question(place, effects);
    }
}
