//! The tiers of a core's log, as its loop handles them: entries leave memory and are read back, snapshots
//! are taken, offered ones are installed. What may be given up is decided in `upkeep.rs`.
//!
//! All of it happens between turns or in tasks beside the loop; what they find comes back as events.
//! A shard whose data can't be read any more is halted with the reason, and the others go on.

use std::collections::BTreeMap;
use std::rc::Rc;

use coracle_wal::Disk;
use coracle_wal::limits::READS_IN_FLIGHT_MAX;

use super::cold::{self, Cold, ColdError, ColdRead, Reader, Want};
use super::disk_share::DiskShare;
use super::events::ClusterEvent;
use super::installing::{self, Installing, Pulled, Restored};
use super::run::Core;
use super::shard::{Shard, SnapshotAnswer};
use super::taking::{self, TakeError, Taken, Taking};
use crate::env::Env;
use crate::limits::COLD_APPLY_BYTES;
use crate::raft::{self, Fetch};
use crate::snapshot::{Manifest, Pin, SnapshotId, SnapshotStore, WriteError};
use crate::transfer::budget::TransferBudget;
use crate::transfer::cancel::Cancel;
use crate::transfer::pull::PullError;
use crate::{LogIndex, NodeId, ShardId, SnapshotError, SnapshotRequestError, Term};

/// What a core needs to handle its tiers.
pub(super) struct Tiers<D: Disk> {
    pub(super) cold: Rc<Cold<D>>,
    pub(super) store: SnapshotStore<D>,
    pub(super) disk_share: DiskShare<D>,
    pub(super) taking: Taking,
    pub(super) installing: Installing,
    /// Snapshots that could not be restored at start. Each is given up when its shard goes on without it.
    pub(super) unreadable: BTreeMap<ShardId, SnapshotId>,
    /// Snapshots of which a chunk could not be read for a follower, and whether they were given up: others have
    /// to take their place.
    pub(super) rotten: BTreeMap<SnapshotId, bool>,
    /// What all transfers of this core take their bandwidth from.
    pub(super) transfers: Rc<TransferBudget>,
    /// What snapshots of own shards take theirs from.
    pub(super) writes: Rc<TransferBudget>,
    /// Ends pulls when the core stops.
    pub(super) cancel: Cancel,
    /// Snapshots that followers were told to fetch.
    pub(super) offered: BTreeMap<(ShardId, NodeId), Pin>,
}

impl<E: Env> Core<E> {
    /// End of a turn: reads what is wanted and not in memory, lets memory shrink to its budget, and
    /// begins a snapshot if one is wanted. `done` is how many touched shards the turn has looked after.
    pub(super) fn tend(&mut self, done: usize) {
        if self.failed {
            return;
        }
        for i in 0..done {
            let at = self.touched[i];
            if self.shards[at].halted().is_none() {
                self.keep_offered(at);
                self.read_for_followers(at);
                self.read_for_machine(at);
            }
        }
        let shards = &self.shards;
        let position = |id| shards.binary_search_by_key(&id, |shard| shard.id).ok();
        let evictable =
            |id| position(id).map_or(LogIndex(u64::MAX), |at| shards[at].raft.evictable());
        let mut evictions = Vec::new();
        while let Some(eviction) = self.storage.next_eviction(evictable) {
            sometimes!(entries_evicted);
            evictions.push(eviction);
        }
        for eviction in evictions {
            if let Some(at) = self.position_of(eviction.shard) {
                self.shards[at].raft.evict_to(eviction.up_to);
            }
        }
        self.storage.summarize();
        self.keep_up_with_turn();
        self.take_up_offers();
        self.tiers.cold.start(&self.env, &self.inbox);
        self.begin_snapshot();
    }

    /// At start: gives the state machines what their snapshots do not have, as far as it is known to be
    /// committed, in one pass over the log for all of them. Each by itself would read the batches of all
    /// others, too. What does not come in order (it was written again), and what can't be read, is left
    /// to the ordinary way.
    pub(super) async fn apply_old(&mut self) {
        let begun = self.env.now();
        let index = self.storage.index();
        let begins = |shard: &Shard| {
            let first = shard.wants_cold()?;
            index.shard(shard.id)?.runs.locate(first).map(|run| run.batch)
        };
        let Some(from) = self.shards.iter().filter_map(begins).min() else { return };
        let end = self.storage.wal().durable();
        let mut reader = self.storage.wal().reader(from).ahead(READS_IN_FLIGHT_MAX);
        while let Ok(Some(batch)) = reader.next().await {
            for record in batch.records() {
                let Some(at) = self.position_of(ShardId(record.stream)) else { continue };
                let shard = &mut self.shards[at];
                if let Some(entry) =
                    shard.wants_cold().and_then(|_| cold::entry_of(&record, batch.position))
                {
                    shard.apply_old(entry, &mut self.counters);
                }
            }
            if batch.next >= end || self.shards.iter().all(|shard| shard.wants_cold().is_none()) {
                break;
            }
            self.env.yield_now().await; // disk reads come in meanwhile
        }
        let ms = (self.env.now() - begun).as_millis();
        tracing::info!(
            core = %self.config.core, %from, to = %reader.position(), ms,
            "applied what the snapshots do not have"
        );
    }

    fn read_for_machine(&mut self, at: usize) {
        let Some(first) = self.shards[at].wants_cold() else { return };
        let last = self.shards[at].raft.commit();
        match self.locate(at, Reader::Apply, (first, last), COLD_APPLY_BYTES) {
            Some(want) => {
                self.shards[at].begin_cold_read();
                self.tiers.cold.want(want);
            }
            None => {
                let shard = self.shards[at].id;
                let reason = format!(
                    "entry {first} of shard {shard} is committed, and neither its log nor a snapshot \
                     has it"
                );
                self.lose_log(at, &reason);
            }
        }
    }

    fn read_for_followers(&mut self, at: usize) {
        let mut fetches = std::mem::take(&mut self.shards[at].effects.fetches);
        for Fetch { to, first, bytes_max } in fetches.drain(..) {
            if self.is_snapshot_cheaper(at, to, first) {
                self.step(at, raft::Event::SnapshotPreferred { to, first });
                continue;
            }
            let last = self.shards[at].raft.log().first_in_memory().prev();
            let want = self.locate(at, Reader::Follower(to), (first, last.max(first)), bytes_max);
            match want {
                Some(want) => self.tiers.cold.want(want),
                None => self.step(at, raft::Event::FetchFailed { to, first }),
            }
        }
        self.shards[at].effects.fetches = fetches; // keeps its memory
    }

    /// Whether a follower that lacks everything from `first` on should rather have the newest snapshot: one
    /// that has lost its data, or whose part of the log is larger than the state by far.
    fn is_snapshot_cheaper(&self, at: usize, to: NodeId, first: LogIndex) -> bool {
        let shard = &self.shards[at];
        let Some(newest) = self.tiers.store.newest(shard.id) else { return false };
        if newest.id.index < first || shard.raft.snapshot().is_none() {
            return false;
        }
        let mut followers = shard.raft.followers();
        let returning = followers.any(|known| known.id == to && known.returning.is_some());
        let Some(index) = self.storage.index().shard(shard.id) else { return false };
        let mut bytes = 0;
        index.runs.overlapping(first, newest.id.index).any(|run| {
            bytes += run.live_bytes();
            match returning {
                true => self.config.tiers.is_outdated(bytes, newest.bytes),
                false => bytes > (2 * newest.bytes).max(self.config.tiers.keep_log_bytes),
            }
        })
    }

    /// Where entries from `first` on lie, as far as they belong together.
    pub(super) fn locate(
        &self,
        at: usize,
        reader: Reader,
        (first, last): (LogIndex, LogIndex),
        bytes_max: usize,
    ) -> Option<Want> {
        let shard = &self.shards[at];
        let run = self.storage.index().shard(shard.id)?.runs.locate(first)?;
        // What the log does not take at the moment is not in the index yet.
        if shard.raft.log().term_at(first) != Some(run.term) {
            return None;
        }
        Some(Want {
            shard: shard.id,
            reader,
            first,
            last: run.last.min(last),
            term: run.term,
            at: run.batch,
            end: run.end,
            bytes_max,
        })
    }

    pub(super) fn on_cold_read(&mut self, read: ColdRead) {
        let ColdRead { want, result } = read;
        let Some(at) = self.position_of(want.shard) else { return };
        if let Err(error) = &result {
            sometimes!(cold_read_gone, matches!(error, ColdError::Gone(_)));
            sometimes!(cold_read_damaged, matches!(error, ColdError::Damaged(_)));
            tracing::warn!(
                shard = %want.shard, first = %want.first, last = %want.last, at = %want.at,
                "cannot read old entries: {error}"
            );
        }
        match (want.reader, result) {
            (Reader::Follower(to), Ok(entries)) => {
                self.step(at, raft::Event::Fetched { to, first: want.first, entries });
            }
            (Reader::Follower(to), Err(error)) => {
                if let ColdError::Damaged(_) = error {
                    self.leave_damaged(at, want.last);
                }
                self.step(at, raft::Event::FetchFailed { to, first: want.first });
            }
            (Reader::Apply, Ok(entries)) => {
                self.shards[at].end_cold_read(entries);
                self.touch(at);
            }
            (Reader::Apply, Err(error)) => {
                self.shards[at].end_cold_read(Vec::new());
                if self.shards[at].wants_cold() != Some(want.first) {
                    // A snapshot has taken its place. What lies behind that may have to be read, too, and nothing else
                    // may happen to a shard that sleeps.
                    sometimes!(cold_read_outdated);
                    return self.touch(at);
                }
                let now_at = self
                    .locate(at, Reader::Apply, (want.first, want.last), COLD_APPLY_BYTES)
                    .map(|now| now.at);
                match error {
                    // Or when it is durable: see `keep_promises`.
                    ColdError::NotYet(end) if self.storage.wal().durable() <= end => {}
                    ColdError::NotYet(_) => self.touch(at),
                    ColdError::Gone(_) if now_at.is_some_and(|now| now != want.at) => {
                        sometimes!(cold_read_moved);
                        self.touch(at);
                    }
                    error => {
                        let Want { first, shard, .. } = want;
                        let reason = format!(
                            "entry {first} of shard {shard} can't be read to be applied: {error}"
                        );
                        self.lose_log(at, &reason);
                    }
                }
            }
            (Reader::Rewrite, Ok(entries)) => self.write_entries_again(at, entries),
            (Reader::Rewrite, Err(error)) => {
                self.end_rewriting();
                if let ColdError::Damaged(_) = error {
                    self.leave_damaged(at, want.last);
                }
            }
        }
    }

    /// What a shard has to apply next can't be read. The others have it, if there are others.
    fn lose_log(&mut self, at: usize, reason: &str) {
        if self.shards[at].raft.is_only_voter() {
            let reason = format!("{reason}; restore this shard from a backup");
            return self.halt(at, &reason);
        }
        let incarnation = self.env.random().max(1);
        let shard = &mut self.shards[at];
        shard.become_damaged(incarnation, reason);
        let id = shard.id;
        self.tiers.cold.forget(id);
        self.save_damaged(at);
        self.touch(at);
    }

    /// A damaged replica comes back only with a snapshot of what it has applied.
    pub(super) fn save_damaged(&mut self, at: usize) {
        let shard = &self.shards[at];
        if shard.raft.awaits_snapshot() && shard.halted().is_none() {
            self.tiers.taking.want(shard.id, self.env.now());
        }
    }

    /// Old entries up to `last` are damaged on the disk. What they did is in the state, so a snapshot
    /// can take their place, here and for followers.
    fn leave_damaged(&mut self, at: usize, last: LogIndex) {
        let shard = self.shards[at].id;
        let newest = self.shards[at].raft.snapshot().map_or(LogIndex(0), |(index, _)| index);
        if newest >= last {
            self.compact(at, last);
        } else if self.shards[at].applied() >= last {
            self.tiers.taking.want(shard, self.env.now());
        }
    }

    /// Gives up a shard's log up to `index`, which its newest snapshot covers.
    pub(super) fn compact(&mut self, at: usize, index: LogIndex) {
        let shard = &mut self.shards[at];
        let Some(base) = shard.raft.compact_to(index) else { return };
        sometimes!(log_compacted);
        shard.effects.base = Some(base);
        self.touch(at);
    }

    /// Hands Raft an event outside of the order of the inbox.
    pub(super) fn step(&mut self, at: usize, event: raft::Event) {
        self.touch(at);
        self.shards[at].step(event);
    }

    /// Somebody asks for a snapshot of a shard.
    pub(super) fn on_snapshot_request(&mut self, shard: ShardId, answer: SnapshotAnswer) {
        let refusal = match self.position_of(shard) {
            _ if self.failed => Some(SnapshotRequestError::StorageFailed(self.failure_text())),
            Some(at) => self.shards[at]
                .halted()
                .map(|reason| SnapshotRequestError::Abandoned { shard, reason: reason.to_owned() }),
            None => Some(SnapshotRequestError::UnknownShard(shard)),
        };
        match refusal {
            Some(error) => drop(answer.send(Err(error))),
            None => self.tiers.taking.ask(shard, answer),
        }
    }

    /// Begins the next snapshot that is wanted.
    fn begin_snapshot(&mut self) {
        let now = self.env.now();
        for _ in 0..self.tiers.taking.count() {
            let Some(shard) = self.tiers.taking.next() else { return };
            let Some(at) = self.position_of(shard) else { continue };
            if self.shards[at].halted().is_some() || self.tiers.installing.is_busy(shard) {
                let reason =
                    "this replica takes no part, or takes over a snapshot itself".to_owned();
                let error = SnapshotRequestError::Abandoned { shard, reason };
                self.tiers.taking.refuse(shard, &error, now);
                continue;
            }
            let newest = self.tiers.store.newest(shard).map(|manifest| manifest.id.index);
            let index = self.shards[at].applied();
            if newest == Some(index) || index == LogIndex(0) {
                self.tiers.taking.already(shard, index);
                continue;
            }
            let configuration = self.shards[at].raft.log().configuration_at(index).clone();
            if configuration.incoming().is_empty() {
                sometimes!(snapshot_without_configuration);
                let reason = "this replica joins, and has not come to who belongs to the shard yet";
                let error = SnapshotRequestError::Abandoned { shard, reason: reason.to_owned() };
                self.tiers.taking.refuse(shard, &error, now);
                continue;
            }
            // It is told as one entry older than it is.
            #[cfg(mutant = "snapshot-index-too-low")]
            let index = index.prev().max(self.shards[at].raft.log().base_index().next());
            let term = self.shards[at].raft.log().term_at(index);
            let term = term.expect("an applied entry is not below the base of the log");
            if !self.shards[at].raft.is_term_durable(term) {
                sometimes!(snapshot_before_term_durable);
                self.tiers.taking.postpone(shard);
                continue;
            }
            match self.shards[at].snapshot() {
                Ok(stream) => {
                    let id = SnapshotId { shard, index, term };
                    #[cfg(mutant = "old-snapshot-removed-early")]
                    if let Some(old) = self.tiers.store.newest(shard) {
                        let store = self.tiers.store.clone();
                        self.env.spawn(async move { drop(store.discard(old.id).await) });
                    }
                    self.tiers.taking.begin(id);
                    if self.shards[at].is_snapshot_awaited() {
                        self.pace_snapshots(true); // the upkeep may look later
                    }
                    let (store, writes) = (self.tiers.store.clone(), self.tiers.writes.clone());
                    taking::start(&self.env, &self.inbox, store, id, configuration, stream, writes);
                }
                Err(SnapshotError::Unsupported) => {
                    let error = SnapshotRequestError::Unsupported(shard);
                    self.tiers.taking.refuse(shard, &error, now);
                    if self.shards[at].raft.awaits_snapshot() {
                        let reason = "its log is damaged, and its state machine takes no snapshots: \
                                      restart this node, and it gets the whole log from the others";
                        self.halt(at, reason);
                    }
                }
                Err(error) => {
                    let error =
                        SnapshotRequestError::Abandoned { shard, reason: error.to_string() };
                    self.tiers.taking.refuse(shard, &error, now);
                }
            }
        }
    }

    pub(super) fn on_snapshot_taken(&mut self, taken: &Taken) {
        self.tiers.taking.end(taken, self.env.now());
        let SnapshotId { shard, index, term } = taken.id;
        self.counters.snapshots_failed += u64::from(taken.result.is_err());
        match &taken.result {
            Ok(manifest) => {
                sometimes!(snapshot_taken);
                self.counters.snapshots += 1;
                self.upkeep.note_snapshot(shard, self.env.unix_ms());
                tracing::info!(%shard, %index, bytes = manifest.bytes, "snapshot taken");
                self.subscribers.tell(|| ClusterEvent::SnapshotTaken { shard, index });
                if let Some(at) = self.position_of(shard) {
                    let configuration = manifest.configuration.clone();
                    self.step(at, raft::Event::Snapshot { index, term, configuration });
                    self.withdraw_rotten(at);
                    self.tiers.rotten.remove(&taken.id);
                }
                self.remove_older_snapshots(shard);
            }
            Err(TakeError::Store(WriteError::NoRoom { .. })) => {
                sometimes!(snapshot_no_room);
                tracing::warn!(%shard, "no room for a snapshot; the log stays as it is");
                self.storage.wal().give_back_spares(usize::MAX);
                self.withdraw_old_offers();
            }
            Err(error) => tracing::warn!(%shard, "no snapshot was taken: {error}"),
        }
    }

    /// Removes snapshots that a newer, durable one has replaced.
    fn remove_older_snapshots(&self, shard: ShardId) {
        let store = self.tiers.store.clone();
        self.env.spawn(async move {
            if let Err(error) = store.remove_older(shard).await {
                tracing::warn!(%shard, "an old snapshot could not be removed: {error}");
            }
        });
    }

    /// Has new snapshots take the place of those that followers can't be given, because a chunk is damaged. The
    /// state is whole. One of the same index can be taken only when the damaged one is gone.
    pub(super) fn replace_rotten(&mut self) {
        let found = self.tiers.store.take_rotten().into_iter().map(|id| (id, false));
        let rotten: Vec<_> =
            std::mem::take(&mut self.tiers.rotten).into_iter().chain(found).collect();
        for (id, given_up) in rotten {
            let Some(at) = self.position_of(id.shard) else { continue };
            let newest = self.tiers.store.newest(id.shard).map(|manifest| manifest.id);
            let replaced = newest.is_some_and(|new| new != id && new.index >= id.index);
            if replaced || self.shards[at].halted().is_some() || self.shards[at].raft.is_damaged() {
                continue;
            }
            let discards = !given_up && self.shards[at].applied() <= id.index;
            if discards {
                sometimes!(snapshot_rotten_given_up);
                let store = self.tiers.store.clone();
                self.env.spawn(async move {
                    if let Err(error) = store.discard(id).await {
                        tracing::warn!("{id} could not be removed: {error}");
                    }
                });
            } else if !given_up || newest != Some(id) {
                self.tiers.taking.want(id.shard, self.env.now());
            }
            self.tiers.rotten.insert(id, given_up || discards);
        }
    }

    /// There is no room to keep what followers were told to fetch, if there is something newer: they get that.
    fn withdraw_old_offers(&mut self) {
        let store = &self.tiers.store;
        let newest = |shard| store.newest(shard).map(|newest| newest.id.index);
        let offered = self.tiers.offered.iter();
        let old = offered.filter(|((shard, _), pin)| newest(*shard) > Some(pin.id().index));
        for (shard, node) in old.map(|(key, _)| *key).collect::<Vec<_>>() {
            if let Some(at) = self.position_of(shard) {
                sometimes!(old_offers_withdrawn);
                self.shards[at].raft.withdraw_offer(node);
                self.touch(at); // the end of the turn lets its files go
            }
        }
    }

    /// Followers that were offered a snapshot which is damaged are offered the one that took its place.
    fn withdraw_rotten(&mut self, at: usize) {
        let shard = self.shards[at].id;
        let is_rotten =
            |index| self.tiers.rotten.keys().any(|id| (id.shard, id.index) == (shard, index));
        let raft = &self.shards[at].raft;
        let offered = raft.offered().filter(|(_, index)| is_rotten(*index));
        for node in offered.map(|(node, _)| node).collect::<Vec<_>>() {
            self.shards[at].raft.withdraw_offer(node);
        }
    }

    /// Gives up snapshots that can't be read, of shards that go on without them. Until a leader is heard,
    /// what is left of a damaged replica may be the last copy.
    pub(super) fn give_up_unreadable(&mut self) {
        let unreadable = std::mem::take(&mut self.tiers.unreadable);
        for (shard, id) in unreadable {
            let Some(at) = self.position_of(shard) else { continue };
            if self.shards[at].raft.is_damaged() {
                self.tiers.unreadable.insert(shard, id);
                continue;
            }
            tracing::warn!(%shard, "{id}, which can't be read, is removed");
            let store = self.tiers.store.clone();
            self.env.spawn(async move {
                if let Err(error) = store.discard(id).await {
                    tracing::warn!(%shard, "{id} could not be removed: {error}");
                }
            });
        }
    }

    /// Keeps the files of snapshots that followers were told to fetch, and takes back the offers of those
    /// that are gone already: the next one is of the newest.
    fn keep_offered(&mut self, at: usize) {
        let Shard { id, raft, .. } = &mut self.shards[at];
        let id = *id;
        let offered: Vec<(NodeId, LogIndex)> = raft.offered().collect();
        let pins = &mut self.tiers.offered;
        let before = pins.len();
        pins.retain(|(shard, node), pin| {
            *shard != id || offered.contains(&(*node, pin.id().index))
        });
        if raft.is_offer_awaited() {
            self.tiers.taking.want(id, self.env.now());
        }
        let released = pins.len() < before;
        for (node, index) in offered {
            if pins.contains_key(&(id, node)) {
                continue;
            }
            let newest = self.tiers.store.newest(id).filter(|newest| newest.id.index == index);
            match newest.and_then(|newest| self.tiers.store.pin(newest.id)) {
                Some(pin) => drop(pins.insert((id, node), pin)),
                None => {
                    sometimes!(snapshot_offer_withdrawn);
                    raft.withdraw_offer(node);
                }
            }
        }
        if released {
            self.remove_older_snapshots(id);
        }
    }

    /// A leader offers a snapshot that this replica lacks.
    pub(super) fn on_offer(&mut self, at: usize, (from, index, term): (NodeId, LogIndex, Term)) {
        let shard = self.shards[at].id;
        let id = SnapshotId { shard, index, term };
        // One that can't be read stands in the way until the next tick.
        let waits = self.tiers.unreadable.contains_key(&shard)
            || self.tiers.installing.is_paused(shard, self.env.now());
        if waits || self.shards[at].applied() >= index || !self.tiers.installing.begin(id, from) {
            return;
        }
        tracing::info!(%shard, %index, %from, "taking over a snapshot");
        sometimes!(snapshot_pulled);
        installing::start_pull(&self.env, &self.inbox, &self.gate, &mut self.tiers, id, from);
    }

    /// Takes up offers that waited for others.
    fn take_up_offers(&mut self) {
        while let Some((from, id)) = self.tiers.installing.next() {
            if let Some(at) = self.position_of(id.shard)
                && self.shards[at].raft.needs_snapshot(id.index)
                && self.shards[at].halted().is_none()
            {
                self.on_offer(at, (from, id.index, id.term));
            }
        }
    }

    pub(super) fn on_snapshot_pulled(&mut self, pulled: Pulled) {
        let Pulled { id, result } = pulled;
        self.tiers.installing.pulled(id.shard);
        let at = self.position_of(id.shard).filter(|at| self.shards[*at].halted().is_none());
        let (manifest, at) = match (result, at) {
            (Ok(manifest), Some(at)) => (manifest, at),
            (result, _) => {
                self.tiers.installing.end(id.shard);
                if let Err(error) = result {
                    tracing::warn!(shard = %id.shard, "a snapshot was not taken over: {error}");
                    if matches!(error, PullError::Store(WriteError::NoRoom { .. })) {
                        self.storage.wal().give_back_spares(usize::MAX);
                        self.tiers.installing.pause(id.shard, self.env.now());
                    }
                }
                return;
            }
        };
        // The log may have got there by itself.
        let news = self.shards[at].raft.needs_snapshot(id.index);
        sometimes!(snapshot_pulled_in_vain, !news);
        if !news || self.shards[at].applied() >= id.index {
            self.tiers.installing.end(id.shard);
            return self.step(at, installed(&manifest));
        }
        if let Some(machine) = self.shards[at].begin_restore() {
            self.tiers.installing.restoring(id);
            let store = self.tiers.store.clone();
            installing::start_restore(&self.env, &self.inbox, store, manifest, machine);
        }
    }

    pub(super) fn on_snapshot_restored(&mut self, restored: Restored) {
        let Restored { manifest, result } = restored;
        let id = manifest.id;
        self.tiers.installing.end(id.shard);
        let Some(at) = self.position_of(id.shard) else { return };
        if let Err(error) = result {
            let reason = format!(
                "the snapshot at {} of shard {} was not taken over: {error}; remove it and restart \
                 the node, and its leader sends another",
                id.index, id.shard
            );
            return self.halt(at, &reason);
        }
        sometimes!(snapshot_restored);
        self.counters.snapshots_received += 1;
        self.upkeep.note_snapshot(id.shard, self.env.unix_ms());
        tracing::info!(shard = %id.shard, index = %id.index, "took over a snapshot");
        let SnapshotId { shard, index, .. } = id;
        self.subscribers.tell(|| ClusterEvent::SnapshotInstalled { shard, index });
        self.tiers.cold.forget(id.shard);
        self.shards[at].end_restore(id.index);
        self.step(at, installed(&manifest));
        self.remove_older_snapshots(id.shard);
    }
}

/// What Raft is told of a snapshot that has taken the place of the state.
fn installed(manifest: &Manifest) -> raft::Event {
    let SnapshotId { index, term, .. } = manifest.id;
    raft::Event::Installed { index, term, configuration: manifest.configuration.clone() }
}
