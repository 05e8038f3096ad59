//! The upkeep of a core's log: with each tick, the loop tells the [`Compactor`] how things stand and
//! carries out what it decides. The decisions, and why they end, are described there.
//!
//! What is written again is read first if it is not in memory; one shard at a time. Entries that were
//! overwritten or compacted while they were read are left out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use coracle_wal::Lsn;

use super::cold::Reader;
use super::open::transfer_rate;
use super::run::Core;
use super::shard::Shard;
use super::storage::Again;
use crate::env::Env;
use crate::limits::{
    REWRITE_READ_BYTES, SNAPSHOT_HURRY_BYTES_PER_S, SNAPSHOT_WRITE_BYTES_PER_S,
    SPARE_REMOVAL_PAUSE, UPKEEP_PAUSE, UPKEEP_SEGMENT_PARTS, UPKEEP_SHARD_PAUSE,
};
use crate::raft::{Base, Entry, Standing};
use crate::tier::{
    Action, Budget, Compactor, Pin, Pressure, Segment, ShardState, ShardStates, Situation,
};
use crate::{LogIndex, ShardId};

/// What the upkeep of a core remembers.
#[derive(Debug)]
pub(super) struct Upkeep {
    compactor: Compactor,
    budget: Budget,
    /// Ends of what was appended and of what was durable at the last decision, and when that was.
    decided: (Lsn, Lsn, Option<Duration>),
    pub(super) pressure: Pressure,
    /// Entries that are being written again: from the first that is not yet, to the last. The first ones
    /// are being read.
    rewriting: VecDeque<(ShardId, LogIndex, LogIndex)>,
    /// Something was written again since the last decision: it may be time for the next.
    again: bool,
    /// When the newest snapshot of a shard became durable, or was found, in milliseconds since 1970.
    saved_ms: BTreeMap<ShardId, u64>,
    /// When the next spare segment may be removed.
    spare_goes_at: Duration,
}

impl Upkeep {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            compactor: Compactor::default(),
            budget,
            decided: (Lsn(0), Lsn(0), None),
            pressure: Pressure::Normal,
            rewriting: VecDeque::new(),
            again: false,
            saved_ms: BTreeMap::new(),
            spare_goes_at: Duration::ZERO,
        }
    }

    /// The newest snapshot of a shard became durable, or was found, at this time.
    pub(super) fn note_snapshot(&mut self, shard: ShardId, unix_ms: u64) {
        self.saved_ms.insert(shard, unix_ms);
    }

    /// Whether nothing may be accepted that makes the log grow.
    pub(super) fn refuses(&self) -> bool {
        self.pressure == Pressure::Refuse
    }
}

impl<E: Env> Core<E> {
    /// End of a turn: does not wait for the next tick if much was appended since the last decision, or
    /// if that is carried out.
    pub(super) fn keep_up_with_turn(&mut self) {
        let grown = self.storage.appended().0 - self.upkeep.decided.0.0;
        let much = grown >= self.upkeep.budget.segment_bytes / UPKEEP_SEGMENT_PARTS;
        if much || (self.upkeep.again && self.upkeep.rewriting.is_empty()) {
            self.upkeep.decided = (Lsn(0), Lsn(0), None);
            self.keep_up(self.env.now());
        }
    }

    /// Looks after the log.
    pub(super) fn keep_up(&mut self, now: Duration) {
        let (appended, durable) = (self.storage.appended(), self.storage.wal().durable());
        let (appended_then, durable_then, then) = self.upkeep.decided;
        let idle = (appended, durable) == (appended_then, durable_then);
        // Many shards must not cost much, idle or not: `keep_up_with_turn` looks when it matters.
        let pause = UPKEEP_SHARD_PAUSE * u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        let pause = if idle { pause.saturating_add(UPKEEP_PAUSE) } else { pause };
        if then.is_some_and(|then| now < then.saturating_add(pause)) {
            return;
        }
        self.upkeep.decided = (appended, durable, Some(now));
        self.upkeep.again = false;
        self.give_up_unreadable();
        self.replace_rotten();
        (0..self.shards.len()).for_each(|at| self.save_damaged(at));
        if now >= self.upkeep.spare_goes_at {
            self.upkeep.spare_goes_at = now.saturating_add(SPARE_REMOVAL_PAUSE);
            self.storage.wal().give_back_spares(1);
        }
        let shards = self.shard_states(now);
        // Snapshots take their part of the budget first: only the log can do with less.
        let snapshot_bytes = self.tiers.store.disk_bytes();
        let running = self.tiers.taking.running().map(|id| id.shard);
        let written = self.tiers.store.writing_bytes();
        let next_snapshot_bytes = shards.next_snapshot_bytes(running, written);
        self.tiers.disk_share.give_log_the_rest(snapshot_bytes, next_snapshot_bytes);
        let segments: Vec<Segment> = self
            .storage
            .wal()
            .segments()
            .into_iter()
            .map(|info| Segment { start: info.start, end: info.end, bytes: info.bytes })
            .collect();
        let situation = Situation {
            now,
            budget: &self.upkeep.budget,
            segments: &segments,
            snapshot_bytes,
            next_snapshot_bytes,
            snapshots_max: usize::from(self.tiers.taking.running().is_none()),
            appended,
            durable,
            index: self.storage.index(),
            shards: &shards,
        };
        let decision = self.upkeep.compactor.decide(&situation);
        if decision.pressure != self.upkeep.pressure {
            let (before, after) = (self.upkeep.pressure, decision.pressure);
            sometimes!(disk_budget_refused, after == Pressure::Refuse);
            tracing::info!(core = %self.config.core, "the log's need of space: {before:?}, now {after:?}");
            self.upkeep.pressure = after;
        }
        for action in decision.actions {
            self.carry_out(action, now);
        }
        let waited_for = self.shards.iter().any(Shard::is_snapshot_awaited);
        self.pace_snapshots(self.upkeep.pressure >= Pressure::Snapshot || waited_for);
        self.count();
    }

    /// Has own snapshots written at ease, or in a hurry.
    pub(super) fn pace_snapshots(&self, hurries: bool) {
        let (rate, burst) = transfer_rate(match hurries {
            true => SNAPSHOT_HURRY_BYTES_PER_S,
            false => SNAPSHOT_WRITE_BYTES_PER_S,
        });
        let changes = self.tiers.writes.set_rate(rate, burst);
        sometimes!(snapshots_in_a_hurry, changes && hurries);
    }

    /// Notes what is too dear to be counted in each turn.
    fn count(&mut self) {
        let hosted = self.shards.len() + self.lost.len();
        let saved = &self.upkeep.saved_ms;
        let oldest = saved.values().min().filter(|_| saved.len() >= hosted);
        let returning = |shard: &&Shard| shard.raft.standing() != Some(Standing::Member);
        let halted = self.shards.iter().filter(|shard| shard.halted().is_some()).count();
        let counters = &mut self.counters;
        counters.snapshot_oldest_ms = oldest.copied().unwrap_or(0);
        counters.disk_bytes = self.storage.wal().disk_bytes() + self.tiers.store.disk_bytes();
        counters.snapshots_now = self.tiers.taking.count() as u64;
        counters.snapshot_bytes_received = self.tiers.installing.bytes();
        counters.shards_returning = self.shards.iter().filter(returning).count() as u64;
        counters.shards_halted = (halted + self.lost.len()) as u64;
    }

    fn carry_out(&mut self, action: Action, now: Duration) {
        match action {
            Action::Trim { before } => self.storage.wal().trim(before),
            Action::Compact { shard, to } => {
                if let Some(at) = self.position_of(shard) {
                    self.compact(at, to);
                }
            }
            Action::Snapshot { shard } => self.tiers.taking.want(shard, now),
            Action::Rewrite { shard, entries, hard_state, base } => {
                self.write_again(shard, entries, hard_state, base);
            }
        }
    }

    fn shard_states(&mut self, now: Duration) -> ShardStates {
        let given_up = ShardState { given_up: true, ..ShardState::default() };
        let lost: Vec<_> = self.lost.keys().map(|id| (*id, given_up.clone())).collect();
        let live = (0..self.shards.len()).map(|at| (self.shards[at].id, self.shard_state(at, now)));
        live.chain(lost).collect()
    }

    fn shard_state(&mut self, at: usize, now: Duration) -> ShardState {
        let shard = &mut self.shards[at];
        let id = shard.id;
        let newest = self.tiers.store.newest(id);
        let snapshot = shard.raft.snapshot().map_or(LogIndex(0), |(index, _)| index);
        let snapshot_bytes = newest.map_or(0, |manifest| manifest.bytes);
        let seen = shard.snapshot_seen.filter(|(index, _)| *index == snapshot);
        let (_, since) = *shard.snapshot_seen.insert(seen.unwrap_or((snapshot, now)));
        let age = now.saturating_sub(since);
        let shard = &self.shards[at];
        let runs = self.storage.index().shard(id).map(|index| &index.runs);
        let newer = runs.into_iter().flat_map(|runs| runs.iter().rev());
        let grown: u64 =
            newer.take_while(|run| run.last > snapshot).map(|run| run.live_bytes()).sum();
        let busy = self.tiers.installing.is_busy(id) || shard.halted().is_some();
        let never = self.tiers.taking.is_unsupported(id) || shard.halted().is_some();
        let possible = !busy && self.tiers.taking.is_possible(id, now);
        let keep = self.config.tiers.keep_log_time;
        let followers = shard.raft.followers().filter(|follower| follower.matched < snapshot);
        let slow = followers.map(|follower| Pin {
            index: follower.matched.next(),
            until: follower.contact.saturating_add(keep),
        });
        let offered = shard
            .raft
            .offered()
            .map(|(_, index)| Pin { index: index.next(), until: now.saturating_add(keep) });
        let state = ShardState {
            applied: shard.applied(),
            snapshot,
            snapshot_bytes,
            next_snapshot_bytes: if never { 0 } else { snapshot_bytes.saturating_add(grown) },
            snapshot_due: self.config.tiers.is_snapshot_due(grown, snapshot_bytes, age),
            snapshot_running: self.tiers.taking.is_wanted(id),
            snapshot_possible: possible,
            pins: slow.chain(offered).collect(),
            rewriting: self.upkeep.rewriting.iter().any(|(rewriting, ..)| *rewriting == id),
            given_up: shard.raft.is_damaged(),
        };
        // The next one is better to fetch than this one, and what was written since.
        let news = self.shards[at].applied() > snapshot;
        let outdated = self.config.tiers.is_outdated(grown, snapshot_bytes);
        let outdated = outdated && possible && news;
        self.shards[at].raft.hold_offers(outdated);
        state
    }

    /// Writes again what the oldest segment has of a shard.
    fn write_again(
        &mut self,
        shard: ShardId,
        entries: Option<(LogIndex, LogIndex)>,
        hard_state: bool,
        base: bool,
    ) {
        if self.failed {
            return;
        }
        let at = self.position_of(shard);
        let Some(index) = self.storage.index().shard(shard) else { return };
        let (known, term) = index.base();
        let base = base.then_some(Base { index: known, term, reset: false });
        let hard_state = self.storage.hard_state(shard).filter(|_| hard_state);
        if hard_state.is_some() || base.is_some() {
            sometimes!(state_written_again);
            let again = Again { base, hard_state, entries: Vec::new() };
            self.upkeep.again |= self.storage.write_again(shard, again);
        }
        if let (Some(_), Some((first, last))) = (at, entries) {
            self.upkeep.rewriting.push_back((shard, first, last));
            if self.upkeep.rewriting.len() == 1 {
                self.rewrite_next();
            }
        }
    }

    /// Reads the next entries that are to be written again.
    fn rewrite_next(&mut self) {
        while let Some((shard, first, last)) = self.upkeep.rewriting.front().copied() {
            let at = self.position_of(shard).filter(|at| self.shards[*at].halted().is_none());
            let want = at.and_then(|at| {
                let first = first.max(self.shards[at].raft.log().base_index().next());
                let range = (first <= last).then_some((first, last))?;
                self.locate(at, Reader::Rewrite, range, REWRITE_READ_BYTES)
            });
            if let Some(want) = want {
                return self.tiers.cold.want(want);
            }
            // Done; or gone meanwhile, and decided again if it is not.
            self.upkeep.rewriting.pop_front();
            self.upkeep.again = true;
        }
    }

    /// Entries that are to be written again were read.
    pub(super) fn write_entries_again(&mut self, at: usize, entries: Vec<Entry>) {
        let shard = self.shards[at].id;
        let Some((rewriting, next, last)) = self.upkeep.rewriting.front_mut() else { return };
        assert_eq!(*rewriting, shard, "they are read one after the other");
        *next = entries.last().map_or(*last, |entry| entry.index).next();
        if self.failed {
            return self.end_rewriting();
        }
        let index = self.storage.index().shard(shard);
        let live =
            |entry: &Entry| index.is_some_and(|index| index.is_live(entry.index, entry.term));
        let entries: Vec<Entry> = entries.into_iter().filter(live).collect();
        if !entries.is_empty() {
            sometimes!(entries_written_again);
            if !self.storage.write_again(shard, Again { entries, ..Again::default() }) {
                return self.end_rewriting(); // decided again
            }
        }
        self.rewrite_next();
    }

    /// Entries that are to be written again can't be read, or not be written now.
    pub(super) fn end_rewriting(&mut self) {
        self.upkeep.rewriting.pop_front();
        self.rewrite_next();
    }
}
