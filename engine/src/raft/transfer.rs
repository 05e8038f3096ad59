//! Handing leadership over to a chosen follower (Raft thesis, 3.10).
//!
//! # Protocol
//! The leader is asked for it ([`Event::TransferLeadership`](super::Event::TransferLeadership)), or decides it. It
//! looks for who can take over: a voter that counts ([`Raft::voter_that_counts`]) and was heard within the last
//! election timeout. Then:
//! 1. **Catching up.** The follower may lack much. Until it has what was committed when the transfer began, the
//!    leader goes on as if nothing were: whoever can't get there in time costs the clients nothing.
//! 2. **Holding.** The leader takes no proposals ([`Refusal::Transferring`](super::Refusal::Transferring)); their
//!    owner keeps them, and sends them where they belong when it is over. What is in the log goes to the follower
//!    as always. Reads go on.
//! 3. **Told.** The follower has acknowledged the last entry. It is told to campaign ([`TimeoutNow`]), and again
//!    with each heartbeat interval, as that may be lost. It does so at once, without asking whether it would win and
//!    without waiting for its own vote to be durable (`Raft::become_candidate` says why it may), and its requests
//!    say that this is a transfer: voters answer although they hear a leader. So does the old leader, which steps
//!    down by that. From its order until it hears of the new leader it takes two round trips and one write.
//!
//! It ends in one of these ways ([`TransferOutcome`](super::TransferOutcome)):
//! - the follower leads a later term: **done**;
//! - one election timeout after it began this replica still leads: it gives up, and takes proposals again;
//! - somebody else leads, or this replica leads no more and hears of nobody until then: leadership is lost;
//! - the follower turns out to have lost its data, or is no voter any more: it must not lead, so the leader gives
//!   up at once.
//!
//! # What may go wrong
//! Nothing here is needed for safety: a candidate of a transfer wins by the same votes, which are given by the
//! same rules of term and log, as any other. What the flag in its requests leaves out is the courtesy to a
//! leader that is heard; leases, which rest on that courtesy, end for good in a term in which somebody was told
//! (`lease.rs`).
//! - **The follower dies, or is cut off**: the leader gives up after an election timeout.
//! - **It campaigns and loses**, because a majority is out of its reach: it has a later term, and whoever hears
//!   of that elects anew.
//! - **A second transfer** while one is under way is refused, to the same follower too.
//! - **To itself**: done, there is nothing to do.
//! - **`TimeoutNow` comes late**: of an earlier term it says nothing. Of this term, after the leader has given up, it
//!   still deposes it, which costs an election and nothing else.
//! - **The receiver does not follow its sender**, asks for votes itself, declines to lead, may not campaign as the
//!   configurations that it knows of stand (`reconfigure.rs`), or has lost its data: ignored.
//! - **A change of members is asked for** while proposals are held: refused, as it would have to be in the
//!   follower's log, too. A joint configuration that is left by itself goes in; then the follower waits for it, or,
//!   if it was told already, may lose the election.
//! - **Leadership is lost meanwhile**: nothing goes on; the outcome tells who leads.

use std::time::Duration;

use super::effects::{Effects, Role, TransferOutcome, TransferRefusal};
use super::message::{Message, TimeoutNow};
use super::replica::{Peer, Raft};
use crate::{LogIndex, NodeId, Term};

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// The owner's name for it; none if the leader began it by itself.
    id: Option<u64>,
    to: NodeId,
    /// The term that is handed over.
    term: Term,
    /// When it is given up.
    due: Duration,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Until the follower has what was committed at the beginning.
    CatchingUp { goal: LogIndex },
    /// No proposals are taken, until the follower has everything.
    Holding,
    /// The follower was told to campaign, last at this time.
    Told { at: Duration },
}

impl Raft {
    /// To whom leadership is being handed over, if it is.
    #[must_use]
    pub fn transferring_to(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Whether what clients want is to wait, because it is about to be known who leads: from the moment when this
    /// leader takes no proposals until the transfer has ended.
    #[must_use]
    pub fn holds_clients(&self) -> bool {
        let stage = self.transfer.as_ref().map(|transfer| transfer.stage);
        matches!(stage, Some(Stage::Holding | Stage::Told { .. }))
            && cfg!(not(mutant = "transfer-keeps-proposing"))
    }

    /// Whether this leader takes no proposals because somebody is about to take over, and who that is.
    pub(super) fn holds_proposals_for(&self) -> Option<NodeId> {
        let transfer = self.transfer.as_ref();
        let transfer = transfer.filter(|_| cfg!(not(mutant = "transfer-keeps-proposing")))?;
        match transfer.stage {
            Stage::CatchingUp { .. } => None,
            Stage::Holding | Stage::Told { .. } => Some(transfer.to),
        }
    }

    /// The place of a peer whose vote and acknowledgements count, as far as this leader knows: a voter of the
    /// configuration in force, while that is joint of either half.
    pub(super) fn voter_that_counts(&self, id: NodeId) -> Result<usize, TransferRefusal> {
        let place = self.peer(id).filter(|_| self.configuration().is_voter(id));
        let place = place.ok_or(TransferRefusal::NotAVoter { node: id })?;
        match self.peers[place].progress.returning {
            None => Ok(place),
            Some(_) => Err(TransferRefusal::Returning { node: id }),
        }
    }

    /// The place of a peer that could take over.
    pub(super) fn successor(&self, id: NodeId) -> Result<usize, TransferRefusal> {
        let place = self.is_willing(self.voter_that_counts(id)?)?;
        let contact = self.peers[place].progress.member_contact;
        match contact + self.config.election_timeout > self.now {
            true => Ok(place),
            false => Err(TransferRefusal::Silent { node: id }),
        }
    }

    /// Who could lead instead of this leader, at once and as well: voters of the same priority that count, have what is
    /// committed, and were heard lately, or sleep. Nobody while the members change, leadership is handed over, or
    /// somebody of a higher priority should have it.
    pub fn peers_to_lead(&self) -> impl Iterator<Item = NodeId> {
        let configuration = self.configuration();
        let votes =
            |peer: &Peer| configuration.incoming().contains(peer.id) && peer.leaving.is_none();
        let settled = self.role == Role::Leader
            && self.transfer.is_none()
            && !self.declines()
            && !configuration.is_joint()
            && self.is_configuration_committed()
            && self.log.committed() >= self.term_start
            && !self.peers.iter().any(|peer| votes(peer) && peer.progress.priority > self.priority);
        let places = if settled { 0..self.peers.len() } else { 0..0 };
        places.map(|at| (at, &self.peers[at])).filter_map(move |(at, peer)| {
            let progress = &peer.progress;
            let has_all = self.is_near(at) || progress.matched == self.log.last_index();
            let heard = progress.asleep || self.successor(peer.id).is_ok();
            let able = votes(peer) && progress.returning.is_none() && has_all && heard;
            (able && progress.priority == self.priority).then_some(peer.id)
        })
    }

    /// Who could take over soonest: of those that are near the end of the log, who has the highest priority; then
    /// who has most of the log. While a joint configuration is in force, rather one who stays a voter.
    pub(super) fn best_successor(&self) -> Result<usize, TransferRefusal> {
        let able = (0..self.peers.len()).filter(|at| self.successor(self.peers[*at].id).is_ok());
        let best = able.max_by_key(|at| {
            let progress = &self.peers[*at].progress;
            let near = self.is_near(*at);
            let stays = self.configuration().incoming().contains(self.peers[*at].id);
            (near, stays, if near { progress.priority } else { 0 }, progress.matched)
        });
        best.ok_or(TransferRefusal::NobodyElse)
    }

    pub(super) fn on_transfer_leadership(
        &mut self,
        id: u64,
        to: Option<NodeId>,
        effects: &mut Effects,
    ) {
        let outcome = match self.begin_transfer(Some(id), to) {
            Ok(true) => return,
            Ok(false) => TransferOutcome::Done { leader: self.config.id },
            Err(refusal) => TransferOutcome::Refused(refusal),
        };
        effects.transfers.push((id, outcome));
    }

    /// Begins to hand over; `false` if it is done already. The step that calls this drives it on.
    fn begin_transfer(
        &mut self,
        id: Option<u64>,
        to: Option<NodeId>,
    ) -> Result<bool, TransferRefusal> {
        if self.role != Role::Leader {
            return Err(TransferRefusal::NotLeader { leader: self.leader });
        }
        if let Some(to) = self.transferring_to() {
            sometimes!(transfer_second);
            return Err(TransferRefusal::UnderWay { to });
        }
        if to == Some(self.config.id) {
            return Ok(false);
        }
        let place = match to {
            Some(to) => self.successor(to)?,
            None => self.best_successor()?,
        };
        sometimes!(transfer_begun);
        self.transfer = Some(Box::new(Transfer {
            id,
            to: self.peers[place].id,
            term: self.term,
            due: self.now + self.config.election_timeout,
            stage: Stage::CatchingUp { goal: self.log.committed() },
        }));
        Ok(true)
    }

    /// Begins to hand over because of a priority.
    pub(super) fn prefer(&mut self, successor: NodeId) {
        let begun = self.begin_transfer(None, Some(successor));
        assert!(begun.is_ok(), "{successor} was able to take over: {begun:?}");
    }

    /// At the end of each step: does what is next.
    pub(super) fn drive_transfer(&mut self, effects: &mut Effects) {
        let Some(transfer) = self.transfer.as_deref().copied() else { return };
        if self.role != Role::Leader || self.term != transfer.term {
            self.learn_of_successor(transfer, effects);
        } else if let Err(refusal) = self.voter_that_counts(transfer.to) {
            self.end_transfer(TransferOutcome::Refused(refusal), effects);
        } else if self.now >= transfer.due {
            sometimes!(transfer_given_up);
            self.end_transfer(TransferOutcome::TimedOut { to: transfer.to }, effects);
        } else {
            self.advance_transfer(transfer, effects);
        }
    }

    fn advance_transfer(&mut self, mut transfer: Transfer, effects: &mut Effects) {
        let Some(place) = self.peer(transfer.to) else { return };
        let matched = self.peers[place].progress.matched;
        if let Stage::CatchingUp { goal } = transfer.stage
            && matched >= goal
        {
            transfer.stage = Stage::Holding;
        }
        let has_all = matched >= self.log.last_index();
        #[cfg(mutant = "timeout-now-before-caught-up")]
        let has_all = true;
        let is_due = match transfer.stage {
            Stage::CatchingUp { .. } => false,
            Stage::Holding => has_all,
            Stage::Told { at } => self.now >= at + self.config.heartbeat_interval,
        };
        if is_due {
            sometimes!(transfer_told_again, matches!(transfer.stage, Stage::Told { .. }));
            transfer.stage = Stage::Told { at: self.now };
            self.lease.forfeit();
            effects.send(transfer.to, Message::TimeoutNow(TimeoutNow { term: self.term }));
        }
        if let Some(own) = &mut self.transfer {
            **own = transfer;
        }
    }

    /// This replica does not lead the term any more that it was to hand over.
    fn learn_of_successor(&mut self, transfer: Transfer, effects: &mut Effects) {
        let outcome = match self.leader {
            Some(leader) if leader == transfer.to => TransferOutcome::Done { leader },
            None if self.now < transfer.due => return,
            leader => TransferOutcome::Lost { leader },
        };
        sometimes!(transfer_done, matches!(outcome, TransferOutcome::Done { .. }));
        sometimes!(transfer_lost, matches!(outcome, TransferOutcome::Lost { .. }));
        self.end_transfer(outcome, effects);
    }

    fn end_transfer(&mut self, outcome: TransferOutcome, effects: &mut Effects) {
        let id = self.transfer.take().and_then(|transfer| transfer.id);
        effects.transfers.extend(id.map(|id| (id, outcome)));
    }

    /// The leader wants this replica to take over.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, effects: &mut Effects) {
        let able = self.may_campaign() && !self.declines();
        if self.role != Role::Follower || self.leader != Some(from) || !able {
            sometimes!(timeout_now_ignored);
            return;
        }
        self.become_candidate(true, effects);
    }
}
