//! A core's log that is compacted as this module decides, step by step, with shards of several kinds. After
//! each step the disk must be within its bounds and everything that counts in the log.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::Term;
use crate::tier::fake_log::{FakeLog, Given, entry, hard_state};
use crate::tier::{Appended, Base, Recovery};

pub(super) const SEGMENT: u64 = 1 << 20;

/// A replica.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) state: ShardState,
    pub(super) last: u64,
    hard_state: u64,
    /// Nothing is committed while this is set.
    pub(super) no_quorum: bool,
    /// Bytes since the last snapshot.
    log_bytes: u64,
    /// A snapshot under way: at which index, and when it is done.
    snapshot: Option<(LogIndex, u64)>,
    /// What is read to be written again, and when that is done.
    rewrite: Option<(Action, u64)>,
    pub(super) state_bytes: u64,
    /// Its snapshot had no room; it is not tried again before this step.
    paused_until: u64,
}

/// The core.
#[derive(Debug)]
pub(super) struct World {
    log: FakeLog,
    pub(super) index: Index,
    compactor: Compactor,
    pub(super) replicas: BTreeMap<ShardId, Replica>,
    pub(super) budget: Budget,
    step: u64,
    random: u64,
    durable: Lsn,
    appended: Lsn,
    pub(super) pressure: Pressure,
    /// Bytes of records that clients gave.
    pub(super) written: u64,
    /// Bytes of records that were written again.
    pub(super) rewritten: u64,
    /// Steps in which something was decided, per kind: trim, compact, snapshot, rewrite.
    pub(super) decided: [u64; 4],
    pub(super) highest: u64,
    pub(super) snapshots_max: usize,
    /// How many shards are written again at the same time.
    pub(super) rewrites_max: usize,
    trimmed: bool,
    /// Whether anything was done in the last step.
    pub(super) acted: bool,
}

impl World {
    pub(super) fn new(budget: Budget, seed: u64) -> Self {
        Self {
            log: FakeLog::new(),
            index: Index::default(),
            compactor: Compactor::default(),
            replicas: BTreeMap::new(),
            budget,
            step: 0,
            random: seed | 1,
            durable: Lsn(0),
            appended: Lsn(0),
            pressure: Pressure::Normal,
            written: 0,
            rewritten: 0,
            decided: [0; 4],
            highest: 0,
            snapshots_max: 1,
            rewrites_max: usize::MAX,
            trimmed: false,
            acted: false,
        }
    }

    /// A number below `bound`.
    pub(super) fn random(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn append(&mut self, shard: ShardId, group: &[Given]) {
        let bytes: usize = group
            .iter()
            .map(|given| match given {
                Given::Entry(entry) | Given::Kept(entry) => entry.payload.len() + 64,
                _ => 64,
            })
            .sum();
        if self.log.current_bytes() + bytes as u64 > SEGMENT - 8192 {
            self.log.seal();
        }
        let (appended, place) = self.log.append(shard, group);
        self.index.appended(shard, &appended, place);
        self.appended = place.end;
        let kept = |record: &&Appended| matches!(record, Appended::Entry { kept: true, .. });
        if appended.iter().any(|record| kept(&record)) {
            self.rewritten += bytes as u64;
        } else {
            self.written += bytes as u64;
        }
    }

    /// A client's entries, unless they are refused.
    pub(super) fn propose(&mut self, shard: ShardId, count: u64, bytes: usize) -> bool {
        if self.pressure == Pressure::Refuse {
            return false;
        }
        let replica = self.replicas.entry(shard).or_default();
        let range = replica.last + 1..=replica.last + count;
        replica.last += count;
        replica.log_bytes += count * bytes as u64;
        let mut group: Vec<_> = range.map(|index| Given::Entry(entry(index, 1, bytes))).collect();
        if replica.hard_state == 0 || count > 3 {
            replica.hard_state += 1;
            group.insert(0, Given::HardState(hard_state(replica.hard_state, None, 0)));
        }
        self.append(shard, &group);
        true
    }

    /// A vote: never refused.
    pub(super) fn vote(&mut self, shard: ShardId) {
        let replica = self.replicas.entry(shard).or_default();
        replica.hard_state += 1;
        let state = hard_state(replica.hard_state, Some(1), 0);
        self.append(shard, &[Given::HardState(state)]);
    }

    /// One turn of the core: time passes, what is under way ends, and what is decided begins.
    pub(super) fn turn(&mut self) {
        self.step += 1;
        if self.random(3) > 0 {
            self.log.end_batch();
            self.durable = self.appended;
        }
        let step = self.step;
        let mut finished = Vec::new();
        for (id, replica) in &mut self.replicas {
            if !replica.no_quorum {
                replica.state.applied = LogIndex(replica.last);
            }
            if let Some((index, _)) = replica.snapshot.take_if(|(_, done)| *done <= step) {
                replica.state.snapshot = index;
                replica.state.snapshot_bytes = replica.state_bytes;
                replica.log_bytes = 0;
            }
            replica.state.snapshot_running = replica.snapshot.is_some();
            replica.state.snapshot_possible =
                replica.snapshot.is_none() && replica.paused_until <= step;
            replica.state.next_snapshot_bytes = replica.state_bytes;
            let limit = self.budget.snapshot_log_bytes.max(replica.state_bytes);
            replica.state.snapshot_due = replica.log_bytes > limit;
            if let Some((action, _)) = replica.rewrite.take_if(|(_, done)| *done <= step) {
                finished.push((*id, action));
            }
            replica.state.rewriting = replica.rewrite.is_some();
        }
        for (shard, action) in finished {
            self.write_again(shard, action);
        }
        self.decide();
        self.check();
    }

    fn write_again(&mut self, shard: ShardId, action: Action) {
        let Action::Rewrite { entries, hard_state: state, base, .. } = action else { return };
        let index = self.index.shard(shard).unwrap();
        let mut group = Vec::new();
        if base {
            let (index, term) = index.base();
            group.push(Given::Base(Base { index, term, reset: false }));
        }
        if state {
            group.push(Given::HardState(hard_state(self.replicas[&shard].hard_state, None, 0)));
        }
        let (first, last) = entries.map_or((1, 0), |(first, last)| (first.0, last.0));
        for at in first..=last {
            if index.is_live(LogIndex(at), Term(1)) {
                let run = index.runs.locate(LogIndex(at)).unwrap();
                let bytes = run.live_bytes() / run.entries() - 33;
                group.push(Given::Kept(entry(at, 1, bytes as usize)));
            }
        }
        // As many at a time as one batch takes.
        for part in group.chunks(64) {
            self.append(shard, part);
        }
    }

    fn decide(&mut self) {
        let segments = self.segments();
        let states: ShardStates =
            self.replicas.iter().map(|(id, replica)| (*id, replica.state.clone())).collect();
        let running = self.replicas.values().filter(|r| r.snapshot.is_some()).count();
        // One that is being taken has its space.
        let taken = self.replicas.iter().find(|(_, replica)| replica.snapshot.is_some());
        let next = states.next_snapshot_bytes(taken.map(|(id, _)| *id), u64::MAX);
        let decision = self.compactor.decide(&Situation {
            now: Duration::from_millis(self.step),
            budget: &self.budget,
            segments: &segments,
            snapshot_bytes: self.snapshot_bytes(),
            next_snapshot_bytes: next,
            snapshots_max: self.snapshots_max.saturating_sub(running),
            appended: self.appended,
            durable: self.durable,
            index: &self.index,
            shards: &states,
        });
        self.pressure = decision.pressure;
        self.acted = !decision.actions.is_empty() || running > 0;
        for action in decision.actions {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Trim { before } => {
                self.decided[0] += 1;
                self.trimmed = true;
                let count = self.log.segments.len();
                self.log.trim(before);
                assert!(self.log.segments.len() < count, "a trim frees a segment");
            }
            Action::Compact { shard, to } => {
                self.decided[1] += 1;
                let index = self.index.shard(shard).unwrap();
                let replica = &self.replicas[&shard];
                assert!(to > index.base().0 && to <= replica.state.snapshot, "{to} of {replica:?}");
                let base = Base { index: to, term: Term(1), reset: false };
                let (runs, oldest) = (index.runs.len(), index.runs.oldest());
                self.append(shard, &[Given::Base(base)]);
                let index = self.index.shard(shard).unwrap();
                assert!(index.runs.len() < runs, "a run goes, of those from {oldest:?}");
            }
            Action::Snapshot { shard } => {
                self.decided[2] += 1;
                // A larger state takes longer.
                let longest = 1 + self.replicas[&shard].state_bytes / 1024;
                let (delay, step) = (1 + self.random(longest), self.step);
                let used = self.used();
                let most = self.budget.bytes.saturating_add(self.budget.reserve_bytes);
                let replica = self.replicas.get_mut(&shard).unwrap();
                if used + replica.state_bytes > most {
                    replica.paused_until = step + 100;
                    return;
                }
                assert!(
                    replica.snapshot.is_none() && replica.state.applied > replica.state.snapshot
                );
                replica.snapshot = Some((replica.state.applied, step + delay));
            }
            Action::Rewrite { shard, entries, hard_state, base } => {
                self.decided[3] += 1;
                assert!(entries.is_some() || hard_state || base);
                let (delay, step) = (self.random(4), self.step);
                // What is not begun is asked for again.
                let running = self.replicas.values().filter(|r| r.rewrite.is_some()).count();
                if running < self.rewrites_max {
                    let replica = self.replicas.get_mut(&shard).unwrap();
                    replica.rewrite = Some((action, step + delay));
                }
            }
        }
    }

    fn segments(&self) -> Vec<Segment> {
        let segments = self.log.segments.iter().filter(|segment| !segment.records.is_empty());
        segments.map(|s| Segment { start: s.start, end: s.end, bytes: SEGMENT }).collect()
    }

    fn snapshot_bytes(&self) -> u64 {
        let bytes = |replica: &Replica| {
            let durable = u64::from(replica.state.snapshot.0 > 0);
            (durable + u64::from(replica.snapshot.is_some())) * replica.state_bytes
        };
        self.replicas.values().map(bytes).sum()
    }

    pub(super) fn used(&self) -> u64 {
        self.log.segments.len() as u64 * SEGMENT + self.snapshot_bytes()
    }

    fn check(&mut self) {
        let used = self.used();
        self.highest = self.highest.max(used);
        let most = self.budget.bytes.saturating_add(self.budget.reserve_bytes);
        assert!(used <= most, "step {}: {used} of {most}: {:?}", self.step, self.decided);
        let start = self.log.segments[0].start;
        for (shard, index) in self.index.shards() {
            assert!(
                index.oldest().is_none_or(|oldest| oldest >= start),
                "{shard} at {}",
                self.step
            );
            assert_eq!(index.last().0, self.replicas[&shard].last);
            assert!(index.base().0 <= self.replicas[&shard].state.snapshot);
        }
        if (self.trimmed && self.random(4) == 0) || self.step.is_multiple_of(500) {
            self.trimmed = false;
            self.check_crash();
        }
    }

    /// Nothing that counted and was durable is lost by a power cut now.
    fn check_crash(&self) {
        let mut recovery = Recovery::new(0);
        for stored in self.log.segments.iter().flat_map(|segment| &segment.records) {
            if stored.place.end <= self.durable {
                recovery.record(&stored.view(), stored.place.batch);
            }
        }
        let taken = self.replicas.iter().filter(|(_, replica)| replica.state.snapshot.0 > 0);
        let snapshots =
            taken.map(|(id, replica)| (*id, (replica.state.snapshot, Term(1)))).collect();
        let found = recovery.finish(&snapshots).unwrap();
        for (id, replica) in &self.replicas {
            let shard = found.shards.get(id).map(|shard| shard.as_ref().unwrap());
            let last = shard.map_or(0, |shard| shard.last.0);
            // Whatever of it is durable by now is in the log, or in the snapshot.
            let newest = self.log.segments.iter().flat_map(|segment| &segment.records);
            let volatile = newest.filter(|r| r.shard == *id && r.place.end > self.durable).count();
            assert!(last + volatile as u64 >= replica.last, "{id}: {last} of {}", replica.last);
            if volatile == 0 {
                assert_eq!(shard.map_or(0, |shard| shard.hard_state.term.0), replica.hard_state);
            }
        }
    }
}
