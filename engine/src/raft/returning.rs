//! Replicas that come back without their data.

use std::time::Duration;

use super::config::Config;
use super::effects::{Effects, Role};
use super::message::{Census, CensusReply, Entry, EntryKind, Message, Readmission, Standing};
use super::progress::Readmitting;
use super::replica::Raft;
use crate::limits::READMISSION_BEATS;
use crate::{NodeId, Term};

/// What a blank replica has heard so far.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    incarnation: u64,
    /// When it asks again.
    due: Duration,
    /// Who is known to be empty, and the term it was in.
    empty: Vec<(NodeId, Term)>,
}

impl Asking {
    /// A single voter has nobody to ask, and nobody who could know more.
    pub(super) fn begin(config: &Config, now: Duration) -> Option<Self> {
        let incarnation = config.blank.filter(|_| config.voters.len() > 1)?;
        Some(Self { incarnation, due: now, empty: Vec::new() })
    }
}

impl Raft {
    /// Whether this replica votes and counts; `None` while it does not know.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.asking.is_none().then_some(self.standing)
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
        let Some(asking) = self.asking.as_mut().filter(|asking| self.now >= asking.due) else {
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
                if let Some(asking) = &self.asking {
                    sometimes!(blank_found_leader);
                    self.become_returning(asking.incarnation, effects);
                }
                return true;
            }
            Message::AppendReply(_) | Message::HeartbeatReply(_) => return self.asking.is_none(),
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Vote(_)
            | Message::VoteReply(_) => {
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
        let Some(asking) = self.asking.as_mut().filter(|own| own.incarnation == m.incarnation)
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
            self.readmission = None;
            self.standing = Standing::Member;
            self.restart_election_timer();
            self.store_hard_state(effects);
        }
    }

    /// A leader hears from a follower.
    pub(super) fn note_standing(&mut self, place: usize, standing: Standing) {
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
                progress.start_anew(incarnation);
                progress.readmitting = None;
            }
            Standing::Returning(_) => {}
        }
    }

    /// Appends the entry that readmits a follower once it keeps pace, unless one is there.
    pub(super) fn readmit_if_caught_up(&mut self, place: usize, effects: &mut Effects) {
        if self.role != Role::Leader {
            return;
        }
        let peer = &self.peers[place];
        let progress = &peer.progress;
        let Some(incarnation) = progress.returning else { return };
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
        if let Some(own) = &mut progress.readmitting
            && own.index <= committed.min(progress.matched)
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
