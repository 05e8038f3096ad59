//! Shards with nothing to do cost nothing: their replicas fall asleep, and neither tick nor send.
//!
//! Off unless [`Config::quiesce`](super::Config::quiesce) is set, for it lays a duty on the replica's owner:
//! to notice that a node has fallen silent, and to say so ([`Event::PeerSuspected`], [`Event::PeerDoubted`]).
//!
//! # Protocol
//! A leader whose shard is **at rest** ([`Raft::is_at_rest`]: all of its log is durable, committed and acknowledged
//! by every member; no read, transfer or change of members is under way, nobody returns, leaves or should rather
//! lead) for [`QUIESCE_BEATS`] heartbeat intervals sends [`Quiesce`] with its next heartbeats. A follower whose log
//! ends and is committed there, durably, **falls asleep** and says so ([`Quiesced`]); it hears nothing more from the
//! leader, as the others go on getting heartbeats. When all members sleep, the leader does, too. A member that was
//! silent for [`QUIESCE_ABSENT_TIMEOUTS`] election timeouts is not waited for, if a majority sleeps.
//!
//! **Asleep** a replica does not act on ticks; its owner may leave them out, but must send one with the time before
//! any other event. For a sleeping follower, the leader's *node* stands for the leader: it counts as heard as long as
//! the owner does not suspect the node. So does a sleeping follower for its leader.
//!
//! **It wakes** by every event but ticks and notices of durability. A leader that wakes sends heartbeats at once, and
//! those wake the followers; whoever slept counts as heard at that moment. A follower that wakes by anything but its
//! leader tells the leader so (a [`Quiesced`] that says no), which wakes it. Then:
//! - *because its leader's node is suspected*: its election timer runs, newly drawn, from when the node was last
//!   heard. So the death of a node is noticed as early as if all shards had had heartbeats, and the elections are
//!   spread over an election timeout like those. It claims to hear no leader.
//! - *by anything else*: it claims to hear its leader for [`WAKING_INTERVALS`] heartbeat intervals, long enough for
//!   the leader to be woken and heard, and its election timer starts afresh.
//!
//! # Why this is safe
//! Everything that Raft promises holds whenever ticks come, and if they never come: to sleep is to be slow.
//! [`Quiesce`] and [`Quiesced`] move no log, vote, commit index or round of reads; like all messages they carry a
//! term. **Leases** are the exception, for they rest on time, and they have no part in this. A leader's lease lasts
//! from the sending of a round of *heartbeats*; asleep it sends none, so the lease ends by the clock, and the first
//! read after that takes a round. That a follower's node is heard extends nothing. A follower owes quiet from its
//! last answer to a heartbeat: it needs ticks until that time is over ([`Raft::needs_ticks`]), asleep or not, and
//! neither waking nor a suspicion shortens it.
//!
//! # Why nothing hangs
//! - **The leader's node dies, or its link breaks**: it is suspected, and its followers wake.
//! - **A follower's node dies**: the leader wakes, and goes on with heartbeats to whoever may be back.
//! - **A wake-up gets lost**: an awake follower without heartbeats campaigns; its questions wake all that sleep. A
//!   learner can't, and a leader may have been deposed by others without this follower's knowledge, or have halted:
//!   so the owners of two nodes compare which replicas of one sleep behind leaders on the other, by shard and term,
//!   with each sign of life. What does not agree for a while is *doubted*: the follower's side wakes all that sleep
//!   behind that node, and tells the node the terms they are in.
//! - **A process starts again**: the link to it is a new one, and [`Event::PeerReachable`] wakes what slept behind
//!   the old.

use std::time::Duration;

use super::effects::{Effects, Event, Role};
use super::message::{AppendOutcome, Message, Quiesce, Quiesced, Standing};
use super::progress::State;
use super::replica::Raft;
use crate::NodeId;
use crate::limits::{QUIESCE_ABSENT_TIMEOUTS, QUIESCE_BEATS, WAKING_INTERVALS};

/// How far a replica has got with falling asleep.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiescence {
    asleep: bool,
    /// A leader's periodic heartbeats since its shard came to rest.
    beats: u32,
}

impl Raft {
    /// Whether this replica sleeps: ticks say nothing to it.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.quiescence.asleep
    }

    /// Whether ticks may not be left out: it is awake, or owes quiet for a while yet.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        !self.quiescence.asleep || self.owes_quiet()
    }

    /// Nodes behind or before which this replica sleeps: a follower's leader, if it sleeps; those members that
    /// a leader knows to sleep, whether it does itself or not. The two ends of each pair should agree.
    pub fn sleeps_with(&self) -> impl Iterator<Item = NodeId> {
        let leader = self.leader.filter(|_| self.role == Role::Follower && self.quiescence.asleep);
        let leads = self.role == Role::Leader;
        let members = self.peers.iter().filter(move |peer| leads && peer.progress.asleep);
        leader.into_iter().chain(members.map(|peer| peer.id))
    }

    /// Whether news of `node` concern this replica while it sleeps.
    #[must_use]
    pub fn depends_on(&self, node: NodeId) -> bool {
        match self.role {
            Role::Leader => self.peer(node).is_some(),
            _ => self.leader == Some(node),
        }
    }

    /// Whether nothing is to be done that a leader's ticks would do.
    fn is_at_rest(&self) -> bool {
        let last = self.log.last_index();
        let configuration = self.configuration();
        self.config.quiesce
            && self.role == Role::Leader
            && self.log.committed() == last
            && self.is_durable(last)
            && self.reads.pending() == 0
            && self.transfer.is_none()
            && !self.declines()
            && !configuration.is_joint()
            && configuration.is_voter(self.config.id)
            && self.peers.iter().all(|peer| {
                let progress = &peer.progress;
                // Where nothing is to be sent, a probe stays open.
                let snapshot = matches!(progress.state, State::Snapshot { .. });
                let has_all = progress.counted == last && !snapshot;
                let rather =
                    progress.priority > self.priority && configuration.incoming().contains(peer.id);
                peer.leaving.is_none()
                    && progress.returning.is_none()
                    && progress.readmitting.is_none()
                    && ((has_all && !rather) || self.is_absent(progress.contact))
            })
    }

    /// Whether somebody who was last heard then is not to be waited for.
    fn is_absent(&self, contact: Duration) -> bool {
        self.now >= contact + self.config.election_timeout * QUIESCE_ABSENT_TIMEOUTS
    }

    /// With each periodic heartbeat, before it is sent: whether the shard is about to fall asleep. Then those who
    /// sleep already are not to be sent heartbeats.
    pub(super) fn count_beat(&mut self) {
        if self.is_at_rest() {
            self.quiescence.beats = self.quiescence.beats.saturating_add(1);
        } else {
            self.stay_awake();
        }
    }

    /// A leader has something to do, or to wait for: it expects the same of its followers.
    fn stay_awake(&mut self) {
        self.quiescence.beats = 0;
        for peer in &mut self.peers {
            peer.progress.asleep = false;
        }
    }

    /// With each periodic heartbeat, after it was sent.
    pub(super) fn put_to_sleep(&mut self, effects: &mut Effects) {
        if self.quiescence.beats < QUIESCE_BEATS {
            return;
        }
        let order = Quiesce { term: self.term, last: self.log.last_index() };
        for peer in self.peers.iter().filter(|peer| !peer.progress.asleep) {
            effects.send(peer.id, Message::Quiesce(order));
        }
        self.sleep_if_all_do();
    }

    fn sleep_if_all_do(&mut self) {
        let own = self.config.id;
        let sleeps =
            |node| node == own || self.peer(node).is_some_and(|at| self.peers[at].progress.asleep);
        let all = self
            .peers
            .iter()
            .all(|peer| peer.progress.asleep || self.is_absent(peer.progress.contact));
        if all && self.deciders().has_quorum(sleeps) && self.is_at_rest() {
            sometimes!(leader_asleep);
            sometimes!(asleep_without_absent, !self.peers.iter().all(|p| p.progress.asleep));
            self.quiescence.asleep = true;
        }
    }

    /// The leader wants this replica to sleep.
    pub(super) fn on_quiesce(&mut self, from: NodeId, m: Quiesce, effects: &mut Effects) {
        if !self.follow(from, effects) {
            return;
        }
        let at_rest = self.config.quiesce
            && self.standing() == Some(Standing::Member)
            && self.log.last_index() == m.last
            && self.log.committed() == m.last
            && self.is_durable(m.last);
        sometimes!(quiesce_refused, !at_rest);
        sometimes!(follower_asleep, at_rest);
        self.quiescence.asleep = at_rest;
        self.tell_sleep(from, at_rest, effects);
    }

    fn tell_sleep(&self, to: NodeId, asleep: bool, effects: &mut Effects) {
        let reply = Quiesced { term: self.term, last: self.log.last_index(), asleep };
        effects.send(to, Message::Quiesced(reply));
    }

    /// A follower sleeps, or wants its leader to be awake.
    pub(super) fn on_quiesced(&mut self, from: NodeId, m: Quiesced) {
        let Some(place) = self.peer(from) else { return };
        if self.role != Role::Leader {
            return;
        }
        let current = self.quiescence.beats >= QUIESCE_BEATS && m.last == self.log.last_index();
        let progress = &mut self.peers[place].progress;
        if progress.returning.is_none() {
            (progress.contact, progress.member_contact) = (self.now, self.now);
        }
        progress.asleep = m.asleep && current;
        if progress.asleep {
            self.sleep_if_all_do();
        }
    }

    /// Before anything else: wakes this replica if the event is one that does.
    pub(super) fn wake_for(&mut self, event: &Event, effects: &mut Effects) {
        let leads = self.role == Role::Leader;
        let wakes = match event {
            Event::Tick { .. } | Event::Durable(_) | Event::Snapshot { .. } => false,
            Event::Message { from, message } => self.is_woken_by(*from, message),
            #[cfg(mutant = "quiescent-follower-ignores-dead-leader")]
            Event::PeerSuspected { .. } | Event::PeerUnreachable { .. } if !leads => false,
            Event::PeerReachable { node }
            | Event::PeerUnreachable { node }
            | Event::PeerSuspected { node, .. } => self.depends_on(*node),
            #[cfg(mutant = "quiescent-shard-misses-new-term")]
            Event::PeerDoubted { .. } => false,
            #[cfg(not(mutant = "quiescent-shard-misses-new-term"))]
            Event::PeerDoubted { node } => match self.peer(*node).filter(|_| leads) {
                Some(place) => !self.peers[place].progress.asleep,
                None => self.depends_on(*node),
            },
            Event::Propose { .. }
            | Event::Reconfigure { .. }
            | Event::ReadIndex { .. }
            | Event::LeaseRead { .. }
            | Event::TransferLeadership { .. } => leads,
            // A follower's leader is to be awake, or to be missed.
            Event::AskReadIndex { .. }
            | Event::Installed { .. }
            | Event::Fetched { .. }
            | Event::SnapshotPreferred { .. }
            | Event::FetchFailed { .. } => true,
        };
        if !wakes {
            return;
        }
        if leads {
            self.wake_leader(effects);
        } else if std::mem::take(&mut self.quiescence.asleep) {
            self.wake_follower(event, effects);
        }
    }

    fn is_woken_by(&self, from: NodeId, message: &Message) -> bool {
        match message {
            // Part of falling asleep, and late answers: they must not wake a leader.
            Message::Quiesce(m) => m.term != self.term,
            Message::ReadIndexReply(m) => m.term > self.term,
            Message::Quiesced(m) => m.term != self.term || (self.role == Role::Leader && !m.asleep),
            Message::HeartbeatReply(m) => m.term > self.term || m.standing != Standing::Member,
            Message::AppendReply(m) => {
                let accepted = matches!(m.outcome, AppendOutcome::Accepted { .. });
                m.term > self.term || m.standing != Standing::Member || !accepted
            }
            _ => self.peer(from).is_some() || Some(from) == self.leader,
        }
    }

    fn wake_leader(&mut self, effects: &mut Effects) {
        let slept = std::mem::take(&mut self.quiescence.asleep);
        let now = self.now;
        let mut others = false;
        for peer in self.peers.iter_mut().filter(|peer| peer.progress.asleep) {
            let progress = &mut peer.progress;
            // Its node was not suspected until now.
            (progress.contact, progress.member_contact) = (now, now);
            (progress.answered, progress.quiet) = (true, false);
            #[cfg(mutant = "lease-extended-by-quiescence")]
            {
                progress.quiet_round = self.reads.round() + 1;
            }
            others = true;
        }
        self.stay_awake();
        #[cfg(mutant = "lease-extended-by-quiescence")]
        if slept {
            self.number_heartbeats();
            self.note_round_sent();
        }
        if slept || others {
            sometimes!(leader_woken);
            self.heartbeat_due = now + self.config.heartbeat_interval;
            self.number_heartbeats();
            self.send_heartbeats(effects);
        }
    }

    fn wake_follower(&mut self, event: &Event, effects: &mut Effects) {
        match event {
            Event::PeerSuspected { .. } => {
                sometimes!(follower_woken_by_suspicion);
                self.restart_election_timer();
                self.leader_contact = Duration::ZERO;
                self.rouse_leader(effects);
            }
            // It says what there is to say.
            Event::Message { from, .. } if Some(*from) == self.leader => {
                self.restart_election_timer();
            }
            _ => self.wake_to_wait(effects),
        }
    }

    /// Wakes a follower that has reason to think that its leader is well.
    fn wake_to_wait(&mut self, effects: &mut Effects) {
        sometimes!(follower_woken);
        self.restart_election_timer();
        let claimed = self.config.heartbeat_interval * WAKING_INTERVALS;
        let claimed = (self.now + claimed).saturating_sub(self.config.election_timeout);
        self.leader_contact = self.leader_contact.max(claimed);
        self.rouse_leader(effects);
    }

    /// A follower that sleeps has something to tell with its answers to heartbeats, or a leader something to decide by
    /// those of others.
    pub(super) fn wake_to_tell(&mut self, effects: &mut Effects) {
        if self.role == Role::Leader {
            self.wake_leader(effects);
        } else if self.role == Role::Follower && std::mem::take(&mut self.quiescence.asleep) {
            self.wake_to_wait(effects);
        }
    }

    fn rouse_leader(&self, effects: &mut Effects) {
        if let Some(leader) = self.leader {
            self.tell_sleep(leader, false, effects);
        }
    }

    /// Nothing was heard of a node since `heard`: whoever waits for it waits no longer than that allows.
    pub(super) fn on_suspected(&mut self, node: NodeId, heard: Duration) {
        match self.role {
            Role::Leader => {
                if let Some(place) = self.peer(node) {
                    let progress = &mut self.peers[place].progress;
                    progress.contact = progress.contact.min(heard);
                    progress.member_contact = progress.member_contact.min(heard);
                }
            }
            Role::Follower if self.leader == Some(node) => {
                let heard = heard.max(self.leader_contact);
                self.election_due = self.election_due.min(heard + self.election_timeout);
            }
            _ => {}
        }
    }

    /// Somebody sleeps who should not, or the other way round, and `node` does not know: it is told the term.
    pub(super) fn on_doubted(&mut self, node: NodeId, effects: &mut Effects) {
        let silent = cfg!(mutant = "quiescent-shard-misses-new-term");
        if self.role != Role::Leader && self.peer(node).is_some() && !silent {
            self.tell_sleep(node, false, effects);
        }
    }
}
