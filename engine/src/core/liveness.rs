//! Who of the peers lives, and which shards of this core need time.
//!
//! # Time for those who need it
//! A tick of the core goes to the shards that are *active*; one that sleeps (`raft/quiescence.rs`) is not among them,
//! and costs nothing until something happens to it. Whatever does begins with a tick for it, and makes it active
//! again ([`Core::touch`]). So an idle core's work depends on its peers and not on its shards.
//!
//! # A pulse per link
//! With each heartbeat interval a core sends a [`Pulse`] to each peer core that it has a link to. It stands for all
//! shards that sleep between the two. A [`FailureDetector`] per link notices when nothing arrives any more; then, and
//! when the link breaks, all shards are told that have a replica behind it: those that sleep wake, if the node
//! matters to them.
//!
//! The pulse carries a digest of the peer's replicas that this core's leaders believe to sleep. The peer compares it
//! with those that do. The two differ while messages are under way; if they differ in [`PULSES_UNLIKE_MAX`] pulses in
//! a row, something was lost, or somebody is not what the other takes it for, and every shard that the two share is
//! told ([`raft::Event::PeerDoubted`]): what sleeps behind that peer wakes and says so.
//!
//! # When this core stood still
//! After a pause of the process the peers seem to have been silent. So if a tick comes late by more than half an
//! election timeout, the detectors begin to wait anew.

use std::collections::BTreeMap;
use std::time::Duration;

use super::detector::FailureDetector;
use super::link::PeerCore;
use super::run::{Core, silence_max};
use crate::env::Env;
use crate::limits::{PULSES_UNLIKE_MAX, QUEUE_KEPT};
use crate::raft::{self, Role};
use crate::wire::Pulse;
use crate::{NodeId, Term};

/// What a core knows of its peers' cores, and which of its shards are active.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Places of the shards that get ticks.
    active: Vec<usize>,
    watches: BTreeMap<PeerCore, Watch>,
    digests: BTreeMap<PeerCore, Digests>,
    /// When the next pulses go.
    pulse_due: Duration,
    ticked_at: Duration,
}

/// One link.
#[derive(Debug)]
struct Watch {
    detector: Box<dyn FailureDetector>,
    suspected: bool,
    /// Pulses in a row whose digest is not ours.
    unlike: u32,
}

/// Which replicas sleep between this core and a peer's.
#[derive(Clone, Copy, Debug, Default)]
struct Digests {
    /// There, behind leaders here.
    there: Pulse,
    /// Here, behind leaders there.
    here: Pulse,
}

/// What a shard counts for in the digests.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    term: Term,
    leads: bool,
    with: Box<[PeerCore]>,
}

impl Liveness {
    /// All of so many shards are active.
    pub(super) fn new(shards: usize, now: Duration) -> Self {
        Self {
            active: (0..shards).collect(),
            watches: BTreeMap::new(),
            digests: BTreeMap::new(),
            pulse_due: now,
            ticked_at: now,
        }
    }

    /// Gives back memory for shards that sleep.
    pub(super) fn give_back(&mut self) {
        self.active.shrink_to(self.active.len().saturating_mul(2).max(QUEUE_KEPT));
    }

    /// Whether nothing was heard of a peer's core for a while.
    pub(super) fn suspects(&self, peer: PeerCore) -> bool {
        self.watches.get(&peer).is_none_or(|watch| watch.suspected)
    }

    /// How many shards get ticks.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }
}

impl<E: Env> Core<E> {
    /// Has a shard looked after in this turn. To be called before whatever happens to it: one that had no ticks
    /// first learns the time.
    pub(super) fn touch(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        if !std::mem::replace(&mut shard.ticking, true) {
            self.liveness.active.push(at);
            if shard.halted().is_none() {
                let now = self.env.now();
                shard.step(raft::Event::Tick { now });
            }
        }
        if !std::mem::replace(&mut shard.touched, true) {
            self.touched.push(at);
        }
    }

    /// Gives the active shards their tick; those that have no use for more are left out from now on.
    pub(super) fn tick_shards(&mut self, now: Duration) {
        let mut active = std::mem::take(&mut self.liveness.active);
        active.retain(|&at| {
            let shard = &mut self.shards[at];
            if shard.halted().is_some() {
                shard.ticking = false;
                return false;
            }
            shard.step(raft::Event::Tick { now });
            shard.give_up_on_lost(now, 2 * self.config.election_timeout);
            shard.refuse_late_reads(now);
            self.touch(at);
            let shard = &mut self.shards[at];
            shard.ticking = shard.raft.needs_ticks() || shard.is_busy();
            shard.ticking
        });
        self.liveness.active = active;
    }

    /// With each tick: looks at the links, and lets the peers hear from this core.
    pub(super) fn watch_peers(&mut self, now: Duration) {
        let late = now.saturating_sub(self.liveness.ticked_at) > self.config.election_timeout / 2;
        self.liveness.ticked_at = now;
        let (mut suspected, mut doubted) = (Vec::new(), Vec::new());
        for (peer, link) in &self.links {
            link.watch(now, silence_max(&self.config));
            let Some(watch) = self.liveness.watches.get_mut(peer) else { continue };
            if late {
                sometimes!(detector_forgave);
                watch.detector.forgive(now);
            }
            let heard = link.heard_at.get();
            watch.detector.heard(heard);
            if let Some((pulse, at)) = link.pulse.take() {
                watch.detector.pulsed(at);
                let ours = self.liveness.digests.get(peer).map_or(Pulse::default(), |d| d.here);
                watch.unlike = if pulse == ours { 0 } else { watch.unlike + 1 };
                if watch.unlike >= PULSES_UNLIKE_MAX {
                    watch.unlike = 0;
                    doubted.push(*peer);
                }
            }
            let suspects = watch.detector.suspects(now);
            if suspects && !watch.suspected {
                suspected.push((*peer, heard));
            }
            watch.suspected = suspects;
        }
        for (peer, heard) in suspected {
            sometimes!(peer_suspected);
            tracing::info!(%peer, "nothing heard for a while");
            self.step_shards_of(peer, |node| raft::Event::PeerSuspected { node, heard });
        }
        for peer in doubted {
            sometimes!(peer_doubted);
            tracing::debug!(%peer, "not the same shards sleep here and there");
            self.step_shards_of(peer, |node| raft::Event::PeerDoubted { node });
        }
        if now >= self.liveness.pulse_due {
            self.liveness.pulse_due = now + self.config.heartbeat_interval;
            for (peer, link) in &self.links {
                let digests = self.liveness.digests.get(peer);
                link.send_pulse(&digests.map_or(Pulse::default(), |d| d.there));
            }
        }
    }

    /// A link to a peer's core has come up.
    pub(super) fn begin_watch(&mut self, peer: PeerCore) {
        let (interval, timeout) = (self.config.heartbeat_interval, self.config.election_timeout);
        let detector = self.config.detection.detector(interval, timeout, self.env.now());
        self.liveness.watches.insert(peer, Watch { detector, suspected: false, unlike: 0 });
    }

    /// It is gone.
    pub(super) fn end_watch(&mut self, peer: PeerCore) {
        self.liveness.watches.remove(&peer);
    }

    /// Steps every shard that has its replica on `peer`, but for those that sleep and to which the peer does not
    /// matter.
    pub(super) fn step_shards_of(&mut self, peer: PeerCore, event: impl Fn(NodeId) -> raft::Event) {
        for at in 0..self.shards.len() {
            let shard = &self.shards[at];
            let concerned = !shard.raft.is_asleep() || shard.raft.depends_on(peer.node);
            let live = shard.halted().is_none();
            let core = self.inbox.view.borrow().core_of(peer.node, shard.id);
            if live && concerned && core == Some(peer.core) {
                self.step(at, event(peer.node));
            }
        }
    }

    /// A shard gets no more ticks: gives back memory that it does not need until it wakes. What it has applied is
    /// read from the log should somebody lack it.
    fn rest(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        let last = shard.raft.last_index();
        let all = shard.applied() == last && shard.raft.evictable() == last;
        if all && shard.raft.is_asleep() && shard.halted().is_none() {
            sometimes!(entries_left_asleep, shard.raft.log().first_in_memory() <= last);
            self.storage.leave_memory(shard.id, last);
            shard.raft.evict_to(last);
        }
        shard.rest();
    }

    /// Brings the digests in line with a shard that something has happened to.
    pub(super) fn account(&mut self, at: usize) {
        if !self.shards[at].ticking {
            self.rest(at);
        }
        let shard = &self.shards[at];
        let (id, raft) = (shard.id, &shard.raft);
        let live = shard.halted().is_none();
        let view = self.inbox.view.borrow();
        let with = || {
            let nodes = raft.sleeps_with().filter(|_| live);
            nodes.filter_map(|node| Some(PeerCore { node, core: view.core_of(node, id)? }))
        };
        let (term, leads) = (raft.term(), raft.role() == Role::Leader);
        let known = &shard.sleepers;
        let same_kind = known.with.is_empty() || (known.term, known.leads) == (term, leads);
        if same_kind && known.with.iter().copied().eq(with()) {
            return;
        }
        let sleepers = Sleepers { term, leads, with: with().collect() };
        drop(view);
        let before = std::mem::replace(&mut self.shards[at].sleepers, sleepers);
        let digests = &mut self.liveness.digests;
        for peer in before.with.into_vec() {
            digests.entry(peer).or_default().side(before.leads).remove(id, before.term);
        }
        for peer in &self.shards[at].sleepers.with {
            digests.entry(*peer).or_default().side(leads).add(id, term);
        }
    }
}

impl Digests {
    fn side(&mut self, leads: bool) -> &mut Pulse {
        if leads { &mut self.there } else { &mut self.here }
    }
}
