//! A log whose older part is on disk or gone: eviction, compaction, entries fetched from below, and
//! snapshots offered and installed.
//!
//! # On a leader
//! What a follower lacks is sent from memory, or fetched by the owner and then sent, or offered as a
//! snapshot, in this order: see `progress.rs` for the states. The offer is a message, repeated with
//! heartbeats; the bulk goes over another connection, which the follower's owner opens. The leader learns
//! of its success as of anything else, by an acknowledgement. It never learns of a failure, and needs not:
//! it goes on offering.
//!
//! An offer that is out pins the snapshot ([`Raft::offered`]): its file, and the log that follows it,
//! should be kept, or the follower gets a snapshot that it can't go on from. The owner may still compact
//! beyond it when it has no space; then the follower is offered the newest one when it is done, or
//! at once after [`Raft::withdraw_offer`]. A follower that is silent for several election timeouts pins nothing.
//!
//! An old snapshot is a poor offer: behind it comes a long log. So the owner may hold offers back
//! ([`Raft::hold_offers`]) while it takes a new one, which goes to whoever waits as soon as it is durable.
//!
//! # On a follower
//! An offer says that the leader has committed the snapshot's index. If the log has that position, it is
//! the same history, and the answer is an acknowledgement. Otherwise the owner is told to pull it. When it
//! is there ([`Event::Installed`](super::Event::Installed)) and still news, either the log has the position
//! meanwhile and goes on as it is, or it is replaced: a log that lacks a committed position is a part of
//! what the snapshot has, or contradicts it and was never committed. The acknowledgement
//! leaves when the new base is durable.
//!
//! # Stale news
//! Everything here may come late, twice, or not at all: an offer of less than is committed is answered with
//! what is committed; a snapshot installed when it is no news is ignored, but for the next offer, which is
//! answered; fetched entries are sent only if they are what the follower needs next, and have the terms
//! of the present log.

use super::effects::{Base, Effects, Fault, Fetch, Role};
use super::log::fitting;
use super::membership::Configuration;
use super::message::{AppendOutcome, AppendReply, Entry, Message, SnapshotOffer};
use super::progress::{Fetching, State};
use super::replica::{Peer, Raft};
use crate::limits::OFFER_SILENCE_TIMEOUTS;
use crate::{LogIndex, NodeId, Term};

impl Raft {
    /// Forgets the payloads of entries up to `index`, which must be durable; from then on they are asked for
    /// with [`Effects::fetches`], and the owner reads them itself to apply them. What is beyond
    /// [`Raft::evictable`] stays.
    pub fn evict_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.durable(), "evict {index}: durable {}", self.log.durable());
        self.log.evict_to(index.min(self.evictable()));
    }

    /// Up to where payloads may be forgotten: what is durable. On a leader what is not committed stays: its
    /// cost is what refuses proposals when a majority stalls. A new leader counts what is in
    /// memory; entries of earlier terms that are not, go by uncounted.
    #[must_use]
    pub fn evictable(&self) -> LogIndex {
        let durable = self.log.durable();
        if self.role == Role::Leader { durable.min(self.log.committed()) } else { durable }
    }

    /// Drops the log up to `index`, which must be in a durable snapshot
    /// ([`Event::Snapshot`](super::Event::Snapshot)), as far as it is durable. Returns the base to be
    /// stored; nothing waits for it. `None` if the log begins there already.
    pub fn compact_to(&mut self, index: LogIndex) -> Option<Base> {
        let snapshot = self.snapshot.map_or(LogIndex(0), |(index, _)| index);
        let committed = self.log.committed();
        let is_covered = index <= snapshot || cfg!(mutant = "compact-beyond-snapshot");
        assert!(is_covered, "compact {index}: the snapshot ends at {snapshot}");
        assert!(index <= committed, "compact {index}: committed up to {committed}");
        let index = index.min(self.log.durable());
        if index <= self.log.base_index() {
            return None;
        }
        self.log.compact_to(index);
        Some(Base { index, term: self.log.base_term(), reset: false })
    }

    /// The newest durable snapshot of this replica.
    #[must_use]
    pub fn snapshot(&self) -> Option<(LogIndex, Term)> {
        self.snapshot
    }

    /// Snapshots that followers were told to fetch. Each should be kept, and the log that follows it.
    pub fn offered(&self) -> impl Iterator<Item = (NodeId, LogIndex)> {
        let leads = self.role == Role::Leader;
        self.peers.iter().filter(move |_| leads).filter_map(|peer| match peer.progress.state {
            State::Snapshot { offer: Some((index, _)) } => Some((peer.id, index)),
            _ => None,
        })
    }

    /// The owner does not have the snapshot any more that it offers `node`: the next offer is of the
    /// newest one.
    pub fn withdraw_offer(&mut self, node: NodeId) {
        if let Some(place) = self.peer(node)
            && let State::Snapshot { offer } = &mut self.peers[place].progress.state
        {
            *offer = None;
        }
    }

    /// Holds back offers that are not out yet, or no more: a snapshot is to be taken first that is much newer than
    /// the newest. The next [`Event::Snapshot`](super::Event::Snapshot) ends it.
    pub fn hold_offers(&mut self, hold: bool) {
        self.offers_held = hold;
    }

    /// Whether a follower that is heard of would have an offer now, were they not held back.
    #[must_use]
    pub fn is_offer_awaited(&self) -> bool {
        let waits = |peer: &Peer| peer.progress.state == State::Snapshot { offer: None };
        let leads = self.role == Role::Leader;
        leads && self.offers_held && self.peers.iter().any(|peer| waits(peer) && self.hears(peer))
    }

    fn hears(&self, peer: &Peer) -> bool {
        self.now < peer.progress.contact + self.config.election_timeout
    }

    /// The snapshot that offers are of which begin now.
    fn offerable(&self) -> Option<(LogIndex, Term)> {
        sometimes!(snapshot_offer_held, self.offers_held);
        self.snapshot.filter(|_| !self.offers_held)
    }

    /// Whether the disk knows that this replica has been in `term`. A snapshot with an entry of a term that it
    /// does not know could be all that a crash leaves, and whether this replica may vote would be lost.
    #[must_use]
    pub fn is_term_durable(&self, term: Term) -> bool {
        self.durable_term >= term
    }

    /// Whether a snapshot at `index` would be news.
    #[must_use]
    pub fn needs_snapshot(&self, index: LogIndex) -> bool {
        index > self.log.committed()
    }

    /// The follower lacks what the log no longer has.
    pub(super) fn begin_offering(&mut self, place: usize, effects: &mut Effects) {
        sometimes!(snapshot_offered);
        let offer = self.offerable();
        self.peers[place].progress.needs_snapshot(offer);
        self.send_offer(place, effects);
    }

    /// The owner would rather have a follower fetch the newest snapshot than read it all that it lacks.
    pub(super) fn on_snapshot_preferred(
        &mut self,
        to: NodeId,
        first: LogIndex,
        effects: &mut Effects,
    ) {
        let Some(place) = self.peer(to) else { return };
        let waits = self.peers[place].progress.fetching == Fetching::Since(first);
        let useful = self.snapshot.is_some_and(|(index, _)| index >= first);
        if self.role == Role::Leader && waits && useful {
            sometimes!(snapshot_preferred);
            self.begin_offering(place, effects);
        }
    }

    /// Offers the newest snapshot to a follower that is heard of and has no offer.
    pub(super) fn renew_offer(&mut self, place: usize, effects: &mut Effects) {
        let peer = &self.peers[place];
        if self.hears(peer) && peer.progress.state == (State::Snapshot { offer: None }) {
            let offer = self.offerable();
            self.peers[place].progress.state = State::Snapshot { offer };
            self.send_offer(place, effects);
        }
    }

    /// With each periodic heartbeat. Whoever is silent for long pins no snapshot.
    pub(super) fn repeat_offer(&mut self, place: usize, effects: &mut Effects) {
        let progress = &mut self.peers[place].progress;
        match progress.state {
            State::Snapshot { offer: Some(_) } => {
                let patience = self.config.election_timeout * OFFER_SILENCE_TIMEOUTS;
                if self.now < progress.contact + patience {
                    self.send_offer(place, effects);
                } else {
                    sometimes!(snapshot_unpinned);
                    progress.state = State::Snapshot { offer: None };
                }
            }
            State::Snapshot { offer: None } => self.renew_offer(place, effects),
            _ => {}
        }
    }

    fn send_offer(&self, place: usize, effects: &mut Effects) {
        let peer = &self.peers[place];
        if let State::Snapshot { offer: Some((index, snapshot_term)) } = peer.progress.state {
            let offer = SnapshotOffer { term: self.term, index, snapshot_term };
            effects.send(peer.id, Message::SnapshotOffer(offer));
        }
    }

    /// Asks for what a follower lacks and memory does not have, unless that is under way.
    pub(super) fn fetch(&mut self, place: usize, effects: &mut Effects) {
        let peer = &mut self.peers[place];
        if peer.progress.fetching == Fetching::Idle {
            let first = peer.progress.next;
            let bytes_max = peer.progress.fetch_budget(&self.config);
            peer.progress.fetching = Fetching::Since(first);
            effects.fetches.push(Fetch { to: peer.id, first, bytes_max });
        }
    }

    /// Sends what was fetched as far as the follower still needs it and its window allows. Nothing
    /// means that the fetch has failed.
    pub(super) fn on_fetched(
        &mut self,
        to: NodeId,
        first: LogIndex,
        entries: &[Entry],
        effects: &mut Effects,
    ) {
        let Some(place) = self.peer(to) else { return };
        let progress = &mut self.peers[place].progress;
        if self.role != Role::Leader || progress.fetching != Fetching::Since(first) {
            sometimes!(fetched_too_late);
            return;
        }
        let log = &self.log;
        let fits = entries.iter().zip(first.0..).take_while(|(entry, index)| {
            entry.index.0 == *index && log.term_at(entry.index) == Some(entry.term)
        });
        let mut rest = &entries[..fits.count()];
        sometimes!(fetch_failed, rest.is_empty());
        progress.fetching = if rest.is_empty() { Fetching::Failed } else { Fetching::Idle };
        if first <= log.base_index() {
            rest = &[]; // compacted meanwhile
            progress.fetching = Fetching::Idle;
        }
        while let Some(entry) = rest.first()
            && let progress = &self.peers[place].progress
            && (progress.next, progress.state) == (entry.index, State::Replicate)
            && let Some(budget) = progress.budget(&self.config)
        {
            sometimes!(cold_entries_sent);
            let (count, bytes) = fitting(rest.iter(), budget);
            self.send_append(place, rest[..count].to_vec(), bytes, effects);
            rest = &rest[count..];
        }
        sometimes!(fetched_in_vain, !rest.is_empty());
        self.replicate_to(place, effects);
    }

    /// With each periodic heartbeat: what could not be read before is asked for again.
    pub(super) fn retry_fetch(&mut self, place: usize, effects: &mut Effects) {
        let progress = &mut self.peers[place].progress;
        if progress.fetching == Fetching::Failed {
            progress.fetching = Fetching::Idle;
            self.replicate_to(place, effects);
        }
    }

    pub(super) fn on_snapshot_offer(
        &mut self,
        from: NodeId,
        m: SnapshotOffer,
        effects: &mut Effects,
    ) {
        if !self.follow(from, effects) {
            return;
        }
        let (index, term) = (m.index, m.snapshot_term);
        if index == LogIndex(0) || term == Term(0) || term > m.term {
            Self::fault(effects, Fault::BrokenOffer { from, index, term });
            return;
        }
        if index > self.log.committed() && self.log.term_at(index) != Some(term) {
            // What says that this replica was in that term must not be lost when the snapshot is not.
            if self.is_term_durable(term) {
                effects.offered = Some((from, index, term));
            } else {
                sometimes!(offer_before_term_durable);
            }
            return;
        }
        sometimes!(snapshot_not_needed);
        self.commit_to(index, effects);
        self.acknowledge(from, self.log.committed(), effects);
    }

    /// A snapshot of the own state is durable.
    pub(super) fn on_snapshot(
        &mut self,
        index: LogIndex,
        term: Term,
        configuration: Configuration,
        effects: &mut Effects,
    ) {
        if index > self.log.committed() {
            self.adopt(index, term, configuration, effects);
        } else if self.snapshot.is_none_or(|(newest, _)| newest < index) {
            self.snapshot = Some((index, term));
            self.offers_held &= cfg!(mutant = "held-offer-forgotten");
            if self.role == Role::Leader {
                (0..self.peers.len()).for_each(|place| self.renew_offer(place, effects));
            }
        }
    }

    /// A snapshot of another replica is durable here, and the state machine has it.
    pub(super) fn on_installed(
        &mut self,
        index: LogIndex,
        term: Term,
        configuration: Configuration,
        effects: &mut Effects,
    ) {
        if index <= self.log.committed() {
            sometimes!(snapshot_installed_late);
            return;
        }
        self.adopt(index, term, configuration, effects);
        if let Some(leader) = self.leader.filter(|_| self.role == Role::Follower) {
            self.acknowledge(leader, index, effects);
        }
    }

    /// Takes over a snapshot beyond the commit index. A log that has its position goes on; any other is
    /// replaced.
    fn adopt(
        &mut self,
        index: LogIndex,
        term: Term,
        configuration: Configuration,
        effects: &mut Effects,
    ) {
        assert!(term <= self.term, "a snapshot of term {term} came before term {}", self.term);
        if self.log.term_at(index) == Some(term) {
            sometimes!(snapshot_kept_log);
            self.snapshot = Some((index, term));
            self.commit_to(index, effects);
            return;
        }
        #[cfg(mutant = "install-keeps-suffix")]
        if index < self.log.last_index() {
            self.snapshot = Some((index, term));
            self.commit_to(index, effects);
            return;
        }
        if self.role == Role::Leader {
            Self::fault(effects, Fault::SnapshotContradictsLog { index, term });
            return;
        }
        if self.role != Role::Follower {
            self.become_follower(self.term, None, effects); // its questions were about another log
        }
        sometimes!(snapshot_replaced_log);
        sometimes!(snapshot_replaced_conflict, index <= self.log.last_index());
        self.snapshot = Some((index, term));
        self.readmission = None;
        self.log.reset_to(index, term);
        self.log.configure(configuration);
        effects.entries.clear();
        effects.base = Some(Base { index, term, reset: true });
        effects.committed = Some(index);
        self.store_hard_state(effects);
    }

    /// Tells the leader that the log equals its own up to `matched`, as soon as that is durable.
    fn acknowledge(&self, leader: NodeId, matched: LogIndex, effects: &mut Effects) {
        let outcome = AppendOutcome::Accepted { matched };
        let reply = AppendReply { term: self.term, outcome, standing: self.standing };
        let reply = Message::AppendReply(reply);
        if self.is_durable(matched) && effects.entries.is_empty() {
            effects.send(leader, reply);
        } else {
            self.send_after_durable(leader, reply, effects);
        }
    }
}
