//! Changes of who belongs to the shard, while it runs.
//!
//! What a change comes to is in [`membership`](super::membership), where it is in force in `configurations.rs`. Here
//! is who may make one, when, and what follows.
//!
//! # A change
//! ```text
//! asked for -> checked -> appended, in force ---------------> committed -> done
//!                          |                                   | joint, auto leave: the leader appends Leave
//!                          | cut off by another leader         | the leader is no voter any more: it steps down,
//!                          |                                   | and tells the best successor to campaign
//!                          v
//!                         undone
//! ```
//! - **In force when appended**, on every replica (thesis, 4.1). A leader counts by the newest configuration of its
//!   log, and sends to its members.
//! - **One at a time.** The next one waits until the last one is committed, and a joint configuration takes nothing
//!   but Leave. So the configurations of any two logs are at most one change apart above what is
//!   committed, and their majorities share a node.
//! - **Not before the leader has committed an entry of its own term.** Else two leaders, each with a change
//!   of one voter that is not committed, could both go by majorities that share nobody (Ongaro, raft-dev,
//!   2015). The own entry makes sure that no older change can still win.
//! - **Leave** is appended by whoever leads when the joint configuration is committed and says *auto leave*, in the
//!   term in which it has committed something. Once it is in the log the configuration is joint no more,
//!   so that there is no second one, also not by a later leader, who has it in its log or has cut it off.
//!
//! # Who is asked, who answers
//! Votes, pre-votes and what a leader sends are answered **whoever sends them**, member of one's own configuration or
//! not: that may be an old one. Say 4 joins (1 2 3), and 1, 3 and 4 commit that. When 1 stops, 2 has never heard of
//! 4, and only 3 and 4 have the entry; if 2 answered neither vote nor append of 4, and 4 were the better log,
//! nobody would lead. Nor does it matter whether the one who *answers* is a voter by its own
//! configuration: a learner whose promotion is committed without it must vote. It is the candidate who counts, by its
//! own configuration, and safety depends on nothing else. Answers of others than one's own members are ignored.
//!
//! # Who campaigns
//! Who is a voter by the newest configuration, **or by the one at its commit index**. The second, because
//! a removed replica may be the only one that can be elected (thesis, 4.2.2): 1 leads (1 2), appends its own removal
//! and crashes. 2 has the shorter log and needs the vote of 1, who refuses. So 1 campaigns, without counting its
//! own vote, is elected by 2, commits its removal and steps down. Nobody else campaigns: learners, nodes that
//! join, replicas that know that they are removed. One that was removed and does not know goes on asking
//! whether it would win, and is refused by whoever hears a leader. A leader keeps on sending to a
//! node it removes until that knows, or for [`LEAVING_BEATS`] heartbeats.
//!
//! # Nodes that join
//! A node that is to join starts with no voters configured and a blank disk. It is then
//! [asking](super::returning), has nobody to ask, and stores nothing until a leader speaks; from then on it is a
//! returning replica like any other, which neither votes nor counts before its readmission is committed. So a node
//! id that was here before, was removed and lost its disk, does not vote twice in a term either: the argument in
//! `returning.rs` is about a replica, not about its being a member. In short: until the readmission e is committed in
//! term c, the shard does what it would do if the replica had crashed for good, also with votes and
//! acknowledgements of its former self that are still under way; changes of members are part of that, and leaders
//! after c have e. What comes back with e has all that is before e, and votes from c on only.
//!
//! # Voters that are not ready
//! A voter that lacks much of the log counts as soon as the change is in the log. If the others alone are no majority,
//! commits wait until it has caught up, perhaps for a snapshot of hours. So make it a learner first, and a voter when
//! [`Raft::readiness`] says `Ready`; [`Event::Reconfigure`](super::Event::Reconfigure) can insist on it. A node that
//! joins with a blank disk must come so, unless the others alone are a majority afterwards: it counts only when its
//! readmission is committed, and that may need its own vote.

use std::fmt;

use super::effects::{Effects, ReconfigureRefusal, Reconfigured, Role};
use super::membership::{Configuration, Reconfiguration};
use super::message::{EntryKind, Message, TimeoutNow};
use super::progress::{Progress, State};
use super::replica::{Peer, Raft};
use crate::limits::{CONFIGURATIONS_MAX, LEAVING_BEATS, PROMOTION_ENTRIES_BEHIND_MAX};
use crate::{LogIndex, NodeId};

/// Whether a node can be given a vote without holding up commits, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It keeps pace, or is a voter already.
    Ready,
    /// It is no member: make it a learner first.
    Stranger,
    /// Nothing was heard of it for an election timeout.
    Silent,
    /// It joins, or has lost its data, and is not taken back yet.
    Returning,
    /// It needs a snapshot, or it is not known what it has.
    Catching,
    /// It lacks committed entries.
    Behind {
        /// How many.
        entries: u64,
    },
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "it is ready"),
            Self::Stranger => write!(f, "it is no member; make it a learner first"),
            Self::Silent => write!(f, "it does not answer; is it running, and can it be reached?"),
            Self::Returning => write!(f, "it has just joined and does not count yet; try again"),
            Self::Catching => write!(f, "it is still taking over a snapshot or the log"),
            Self::Behind { entries } => write!(
                f,
                "it lacks {entries} committed entries, at most {PROMOTION_ENTRIES_BEHIND_MAX} are \
                 allowed; try again when it has caught up"
            ),
        }
    }
}

/// What a node is to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It votes and counts.
    Voter,
    /// It only receives.
    Learner,
    /// It was removed, and is told so.
    Leaving,
}

/// A node that was removed and may not know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// The entry that removed it.
    index: LogIndex,
    /// Periodic heartbeats since that is committed.
    beats: u32,
}

impl Raft {
    /// Who belongs to the shard: the newest configuration in the log, committed or not.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.log.configuration()
    }

    /// Whether [`Raft::configuration`] is committed, as far as is known here.
    #[must_use]
    pub fn is_configuration_committed(&self) -> bool {
        self.log.configuration_index() <= self.log.committed()
    }

    /// Whether this replica alone decides, in both halves of a joint configuration: nobody would answer it.
    #[must_use]
    pub fn is_only_voter(&self) -> bool {
        let (own, configuration) = (self.config.id, self.log.configuration());
        configuration.is_voter(own) && configuration.has_quorum(|node| node == own)
    }

    /// Whether `node` can be given a vote; asked of a leader. Others know nobody.
    #[must_use]
    pub fn readiness(&self, node: NodeId) -> Readiness {
        if self.log.configuration().is_voter(node) {
            return Readiness::Ready;
        }
        let Some(place) = self.peer(node).filter(|_| self.role == Role::Leader) else {
            return Readiness::Stranger;
        };
        let peer = &self.peers[place];
        let progress = &peer.progress;
        let behind = self.log.committed().0.saturating_sub(progress.counted.0);
        if peer.leaving.is_some() {
            Readiness::Stranger
        } else if self.now >= progress.contact + self.config.election_timeout {
            Readiness::Silent
        } else if progress.returning.is_some() {
            Readiness::Returning
        } else if progress.state != State::Replicate {
            Readiness::Catching
        } else if behind > PROMOTION_ENTRIES_BEHIND_MAX {
            Readiness::Behind { entries: behind }
        } else {
            Readiness::Ready
        }
    }

    /// The configuration that decides about votes, commits and reads.
    #[cfg(not(any(mutant = "removed-leader-counts-itself", mutant = "learner-votes")))]
    pub(super) fn deciders(&self) -> &Configuration {
        self.log.configuration()
    }

    #[cfg(any(mutant = "removed-leader-counts-itself", mutant = "learner-votes"))]
    pub(super) fn deciders(&self) -> std::borrow::Cow<'_, Configuration> {
        use super::membership::Change;
        let configuration = self.log.configuration();
        let also = match cfg!(mutant = "learner-votes") {
            true => configuration.learners().iter().next(),
            false => Some(self.config.id).filter(|_| self.role == Role::Leader),
        };
        let also = also.and_then(|node| configuration.simple(&[Change::AddVoter(node)]).ok());
        also.map_or(std::borrow::Cow::Borrowed(configuration), std::borrow::Cow::Owned)
    }

    /// Whether this replica may ask for votes; see the head of the module.
    pub(super) fn may_campaign(&self) -> bool {
        let own = self.config.id;
        self.log.configuration().is_voter(own)
            || self.log.configuration_at(self.log.committed()).is_voter(own)
    }

    pub(super) fn on_reconfigure(
        &mut self,
        change: &Reconfiguration,
        only_if_ready: bool,
        effects: &mut Effects,
    ) {
        let after = self.check_change(change, only_if_ready);
        effects.reconfigured = Some(after.map(|after| self.append_configuration(&after, effects)));
    }

    /// What a change leads to, or why it is refused.
    fn check_change(
        &self,
        change: &Reconfiguration,
        only_if_ready: bool,
    ) -> Result<Configuration, ReconfigureRefusal> {
        if self.role != Role::Leader {
            return Err(ReconfigureRefusal::NotLeader { leader: self.leader });
        }
        let committed = self.log.committed();
        if committed < self.term_start && cfg!(not(mutant = "reconfigure-without-own-commit")) {
            sometimes!(reconfigured_too_early);
            return Err(ReconfigureRefusal::TermNotCommitted);
        }
        if let Some(to) = self.holds_proposals_for() {
            sometimes!(reconfigured_during_transfer);
            return Err(ReconfigureRefusal::Transferring { to });
        }
        let (index, before) = (self.log.configuration_index(), self.log.configuration());
        if index > committed {
            sometimes!(reconfigured_while_under_way);
            return Err(ReconfigureRefusal::UnderWay { index });
        }
        let after = before.after(change)?;
        let changes = self.log.configurations().count();
        if changes >= CONFIGURATIONS_MAX {
            return Err(ReconfigureRefusal::TooMany { changes });
        }
        let since = self.now.saturating_sub(self.config.election_timeout);
        let answers = |node| match self.peer(node) {
            // It has answered, in this term and not long ago.
            Some(place) => {
                let progress = &self.peers[place].progress;
                progress.counted > LogIndex(0) && progress.member_contact >= since
            }
            None => node == self.config.id,
        };
        for node in after.incoming().iter().filter(|_| only_if_ready) {
            let readiness = self.readiness(node);
            if readiness != Readiness::Ready {
                return Err(ReconfigureRefusal::NotReady { node, readiness });
            }
        }
        if only_if_ready && !after.has_quorum(answers) {
            return Err(ReconfigureRefusal::NoQuorum);
        }
        Ok(after)
    }

    fn append_configuration(
        &mut self,
        configuration: &Configuration,
        effects: &mut Effects,
    ) -> Reconfigured {
        self.append_own(EntryKind::Reconfiguration, configuration.encode(), effects);
        self.follow_configuration(effects);
        self.replicate_to_all(effects);
        self.confirm_reads(effects); // those who did not answer may not be needed any more
        Reconfigured { term: self.term, index: self.log.last_index() }
    }

    /// After each step: brings the peers in line with the configuration in force, if that is another one now.
    pub(super) fn follow_configuration(&mut self, effects: &mut Effects) {
        let version = self.log.configurations().version();
        if version == self.configured {
            return;
        }
        self.configured = version;
        let configuration = self.log.configuration();
        let index = self.log.configuration_index();
        let leads = self.role == Role::Leader;
        self.peers.retain_mut(|peer| {
            if configuration.is_member(peer.id) {
                peer.leaving = None;
                return true;
            }
            peer.leaving.get_or_insert_with(|| Box::new(Leaving { index, beats: 0 }));
            leads
        });
        // The first message to a new member is the entry that makes it one.
        let before = LogIndex(self.log.last_index().0.saturating_sub(1));
        for id in configuration.members().iter().filter(|id| *id != self.config.id) {
            if let Err(place) = self.peers.binary_search_by_key(&id, |peer| peer.id) {
                let mut peer = Peer::new(id);
                if leads {
                    *peer.progress = Progress::new(before, self.now, &self.config);
                }
                self.peers.insert(place, peer);
            }
        }
        effects.configuration = Some(configuration.clone());
    }

    /// After each step of a leader: what follows when the configuration in force is committed.
    pub(super) fn settle_configuration(&mut self, effects: &mut Effects) {
        let committed = self.log.committed();
        if self.role != Role::Leader || committed < self.term_start {
            return;
        }
        #[cfg(mutant = "auto-leave-twice")]
        if let decided = self.log.configuration_at(committed)
            && decided.is_joint()
            && decided.auto_leave()
            && let Ok(after) = decided.leave_joint()
            && !effects.entries.iter().any(|entry| entry.kind == EntryKind::Reconfiguration)
        {
            self.append_configuration(&after, effects);
            return;
        }
        if self.log.configuration_index() > committed {
            return;
        }
        let configuration = self.log.configuration();
        if configuration.is_joint() {
            if configuration.auto_leave()
                && let Ok(after) = configuration.leave_joint()
            {
                sometimes!(joint_left_by_leader);
                self.append_configuration(&after, effects);
            }
        } else if !configuration.is_voter(self.config.id) {
            sometimes!(removed_leader_stepped_down);
            self.send_heartbeats(effects); // the others learn that it is committed
            if self.transfer.is_none()
                && let Ok(place) = self.best_successor()
            {
                sometimes!(removed_leader_handed_over);
                self.lease.forfeit();
                let order = TimeoutNow { term: self.term };
                effects.send(self.peers[place].id, Message::TimeoutNow(order));
            }
            self.become_follower(self.term, None, effects);
        }
    }

    /// With each periodic heartbeat, which has just been sent: who knows that it was removed, or does not
    /// want to know, is sent nothing more.
    pub(super) fn let_leaving_go(&mut self) {
        let committed = self.log.committed();
        self.peers.retain_mut(|peer| {
            let Some(leaving) = peer.leaving.as_mut().filter(|own| own.index <= committed) else {
                return true;
            };
            leaving.beats += 1;
            sometimes!(removed_node_told, peer.progress.matched >= leaving.index);
            peer.progress.matched < leaving.index && leaving.beats < LEAVING_BEATS
        });
    }

    /// What a node is in the configuration in force.
    pub(super) fn membership_of(&self, node: NodeId) -> Membership {
        let configuration = self.log.configuration();
        if configuration.is_voter(node) {
            Membership::Voter
        } else if configuration.is_member(node) {
            Membership::Learner
        } else {
            Membership::Leaving
        }
    }
}
