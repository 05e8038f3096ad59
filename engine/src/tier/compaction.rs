//! What to do about a log that grows: which shards to compact, to take a snapshot of, or to write again at
//! the head of the log, and which segments to give up.
//!
//! # Levels
//! How hard it is tried follows from two ratios, whichever gives the higher level. The *target* is what the
//! log needs anyway: for each shard what it may grow by between two snapshots and what is kept behind them, at
//! least [`LOG_SEGMENTS_TARGET_MIN`] segments, and at most half of the budget.
//!
//! | level | log / target | log, snapshots and the next one / budget | log stays for | what pins the oldest segment |
//! |---|---|---|---|---|
//! | Normal | up to 1 | | snapshots, `keep_log_bytes`, followers | waits |
//! | Compact | above 1 | | snapshots, followers | gets snapshots; is rewritten if it is at most 1/8 of it |
//! | Snapshot | above 2 | 3/4 | snapshots | gets snapshots; is rewritten if it is at most 1/2 of it, or at most 1/2 of the log is alive |
//! | Refuse | | 1 | snapshots | the same; the caller refuses proposals and entries |
//!
//! Above the budget there is a reserve for what goes on at the last level: votes, truncation, bases, and
//! what is written again. The largest snapshot that may be taken next counts as if it were there: what lets go of the
//! log must find room itself.
//!
//! # The oldest segment
//! A log is given up from its oldest segment on, so that is where everything happens. A segment is
//! *free* when no shard has anything in it: no entry above its base, nor its newest hard state or base.
//!
//! 1. Free segments are trimmed, once all that replaces what was in them is durable.
//! 2. Shards with runs in the oldest segments are compacted as far as the level allows, if at least a whole
//!    run goes: a base is one small record.
//! 3. If that leaves entries in the oldest segment, there are those that a snapshot would let go (applied, and
//!    newer than the last snapshot) and those that it would not (not applied, or a snapshot is not
//!    possible now). Few are written again. Otherwise the shards with most of the former get snapshots, and
//!    the segment waits for them; if there are none, the rest is written again as the table says.
//!
//! # Why this ends
//! Each action makes a step that nothing undoes: a base and a snapshot index only grow; what is written again
//! leaves the oldest segment for good; the current segment is never emptied. What is written again
//! is bounded by what is written anew, and by the log's target once: see [`Compactor::credit`]. So a log that
//! nobody writes to comes to rest, also if nothing more can be freed.

use std::cmp::Reverse;
use std::time::Duration;

use coracle_wal::Lsn;
use coracle_wal::limits::BLOCK_BYTES;

use super::index::{Index, ShardIndex};
use super::runs::Run;
use crate::limits::{
    COMPACTION_ACTIONS_MAX, COMPACTION_RESERVE_SEGMENTS, COMPACTION_SEGMENTS_AHEAD,
    LOG_SEGMENTS_TARGET_MIN, REWRITE_BYTES_MAX, REWRITE_RECORD_BYTES,
};
use crate::{LogIndex, ShardId};

/// A segment with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first batch with records.
    pub start: Lsn,
    /// The end of its records.
    pub end: Lsn,
    /// Bytes of its file.
    pub bytes: u64,
}

/// A follower that still needs some of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The first entry it needs.
    pub index: LogIndex,
    /// It is waited for until then, on the clock of [`Situation::now`].
    pub until: Duration,
}

/// What a replica can say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Everything up to here is in the state machine.
    pub applied: LogIndex,
    /// The newest snapshot that is durable.
    pub snapshot: LogIndex,
    /// Its size; 0 if there is none.
    pub snapshot_bytes: u64,
    /// What its next one may take, if its state has grown by all of its log since. 0 if it takes none.
    pub next_snapshot_bytes: u64,
    /// By its log, by the clock, or because somebody asks: one should be taken.
    pub snapshot_due: bool,
    /// One is being taken.
    pub snapshot_running: bool,
    /// One may be taken: none is running, and none has failed just now.
    pub snapshot_possible: bool,
    /// Followers that need some of the log.
    pub pins: Vec<Pin>,
    /// A [`Action::Rewrite`] of this shard is under way.
    pub rewriting: bool,
    /// It is unusable: its entries need not be kept. Its hard state and base are.
    pub given_up: bool,
}

/// What the replicas of a core say of themselves. One array and not a tree: with thousands of replicas that is one
/// large piece of memory, which goes back to the system as a whole.
#[derive(Clone, Debug, Default)]
pub struct ShardStates(Vec<(ShardId, ShardState)>);

impl ShardStates {
    /// What the replica of `shard` says.
    #[must_use]
    pub fn get(&self, shard: ShardId) -> Option<&ShardState> {
        let at = self.0.binary_search_by_key(&shard, |(id, _)| *id).ok()?;
        Some(&self.0[at].1)
    }

    /// What the next snapshot may take, whichever it is, and what one of `running` may take that has `written` bytes:
    /// the next one begins when that is done, and what it replaces may have been smaller.
    #[must_use]
    pub fn next_snapshot_bytes(&self, running: Option<ShardId>, written: u64) -> u64 {
        let (mut rest, mut next) = (0, 0);
        for (shard, state) in &self.0 {
            let bytes = state.next_snapshot_bytes;
            if running == Some(*shard) {
                rest = bytes.saturating_sub(written);
            } else {
                next = bytes.max(next);
            }
        }
        next.saturating_add(rest)
    }
}

impl FromIterator<(ShardId, ShardState)> for ShardStates {
    fn from_iter<I: IntoIterator<Item = (ShardId, ShardState)>>(states: I) -> Self {
        let mut states: Vec<_> = states.into_iter().collect();
        states.sort_by_key(|(shard, _)| *shard);
        Self(states)
    }
}

/// How much disk there is for a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of new segments.
    pub segment_bytes: u64,
    /// Segments with records and snapshots, the next one included, may take this much before writes are refused.
    pub bytes: u64,
    /// What may be taken on top, by what goes on then.
    pub reserve_bytes: u64,
    /// What a shard's log may grow by between two snapshots, unless the snapshots are larger.
    pub snapshot_log_bytes: u64,
    /// What is kept of a shard's log behind its newest snapshot.
    pub keep_log_bytes: u64,
}

impl Budget {
    /// Shares out a directory's `disk_bytes_max` (0: no bound), of which `spares` segments are prepared ahead
    /// and hold nothing.
    #[must_use]
    pub fn new(
        disk_bytes_max: u64,
        segment_bytes: u64,
        spares: usize,
        snapshot_log_bytes: u64,
        keep_log_bytes: u64,
    ) -> Self {
        let reserve_bytes = COMPACTION_RESERVE_SEGMENTS * segment_bytes;
        let bytes = match disk_bytes_max {
            0 => u64::MAX - reserve_bytes,
            max => max
                .saturating_sub(spares as u64 * segment_bytes)
                .saturating_sub(reserve_bytes)
                .max(COMPACTION_RESERVE_SEGMENTS * segment_bytes),
        };
        Self { segment_bytes, bytes, reserve_bytes, snapshot_log_bytes, keep_log_bytes }
    }
}

/// All that a decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The time, as in the pins.
    pub now: Duration,
    /// What there is to use.
    pub budget: &'a Budget,
    /// Segments with records, oldest first, the current one last.
    pub segments: &'a [Segment],
    /// Bytes of snapshots, also of those under way.
    pub snapshot_bytes: u64,
    /// What the next snapshot, and the one under way, may take on top of them: [`ShardStates::next_snapshot_bytes`].
    pub next_snapshot_bytes: u64,
    /// How many snapshots may be begun now.
    pub snapshots_max: usize,
    /// End of what was appended last.
    pub appended: Lsn,
    /// The log is durable up to here.
    pub durable: Lsn,
    /// Where everything lies.
    pub index: &'a Index,
    /// The replicas. A shard that the index has and these have not keeps all it has.
    pub shards: &'a ShardStates,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The segments whose records all lie before this are not needed any more.
    Trim {
        /// Where what is needed begins.
        before: Lsn,
    },
    /// The shard's log begins behind `to` from now on: store a base.
    Compact {
        /// The shard.
        shard: ShardId,
        /// At most the index of its newest snapshot.
        to: LogIndex,
    },
    /// Take a snapshot.
    Snapshot {
        /// The shard.
        shard: ShardId,
    },
    /// Write again what is in the oldest segment. Entries that are gone or are replaced by then are to be
    /// left out: see [`ShardIndex::is_live`].
    Rewrite {
        /// The shard.
        shard: ShardId,
        /// First and last entry, as kept ones.
        entries: Option<(LogIndex, LogIndex)>,
        /// The newest hard state.
        hard_state: bool,
        /// The base, without `reset`.
        base: bool,
    },
}

/// How near the end of the disk is; see the table of the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing to worry about.
    #[default]
    Normal,
    /// The log is larger than it needs to be.
    Compact,
    /// Slow followers are not waited for any more.
    Snapshot,
    /// Nothing is accepted that makes the log grow: neither proposals nor entries of a leader.
    Refuse,
}

/// Decides, and remembers what it takes to do so.
#[derive(Clone, Debug, Default)]
pub struct Compactor {
    /// What is needed began at the first position when the log ended at the second: may be trimmed when
    /// that is durable.
    trim: Option<(Lsn, Lsn)>,
    /// At the first decision: the end of the log, and what had been written again until then.
    began_at: Option<(Lsn, u64)>,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How near the end of the disk is.
    pub pressure: Pressure,
    /// In this order.
    pub actions: Vec<Action>,
}

/// To make the oldest segment free.
struct Task<'a> {
    pressure: Pressure,
    target: u64,
    oldest: &'a Segment,
    /// It is the first in the log: those before it are trimmed.
    is_next: bool,
}

/// What is alive of one shard in the oldest segment.
struct Piece<'a> {
    shard: ShardId,
    index: &'a ShardIndex,
    state: &'a ShardState,
    /// Entries up to here go with a compaction.
    limit: LogIndex,
    /// What it takes to write the entries again that stay.
    bytes: u64,
    /// What a snapshot would let go of them.
    snapshot_bytes: u64,
    hard_state: bool,
    base: bool,
}

impl Compactor {
    /// What should be done now: at most [`COMPACTION_ACTIONS_MAX`] actions, in the order in which they should
    /// be done. To be asked again when some of it is done, and now and then.
    pub fn decide(&mut self, situation: &Situation<'_>) -> Decision {
        self.began_at.get_or_insert((situation.appended, situation.index.kept_bytes()));
        let target = situation.target();
        let pressure = situation.pressure(target);
        let mut actions = Vec::new();
        let mut snapshots = situation.snapshots_max;
        let needed = situation.needed_from();
        self.trim(situation, needed, &mut actions);
        let sealed = situation.segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        // Those that are free go with the next trim.
        let free = sealed.iter().take_while(|segment| segment.end <= needed).count();
        let sealed = &sealed[free..];
        if let Some(oldest) = sealed.first() {
            let ahead = &sealed[..sealed.len().min(COMPACTION_SEGMENTS_AHEAD)];
            let horizon = ahead.last().unwrap_or(oldest).end;
            situation.compact(pressure, horizon, &mut actions);
            if pressure >= Pressure::Compact {
                let task = Task { pressure, target, oldest, is_next: free == 0 };
                self.empty(situation, &task, &mut snapshots, &mut actions);
            }
        }
        situation.due_snapshots(&mut snapshots, &mut actions);
        assert!(actions.len() <= COMPACTION_ACTIONS_MAX, "{} actions", actions.len());
        Decision { pressure, actions }
    }

    /// Trims what was not needed at some moment, when all that was appended until then is durable: what
    /// replaces the trimmed records is among it.
    fn trim(&mut self, situation: &Situation<'_>, needed: Lsn, actions: &mut Vec<Action>) {
        let [oldest, .., current] = situation.segments else { return };
        if oldest.end > needed {
            return;
        }
        let before = needed.min(current.start);
        let (before, rests_on) = *self.trim.get_or_insert((before, situation.appended));
        if situation.durable >= rests_on || cfg!(mutant = "trim-before-rewritten") {
            self.trim = None;
            actions.push(Action::Trim { before });
        } else {
            sometimes!(trim_waits);
        }
    }

    /// Bytes that may still be written again: as many as were written anew, and the log's target once.
    fn credit(&self, situation: &Situation<'_>, target: u64) -> u64 {
        let kept_bytes = situation.index.kept_bytes();
        let (began_at, kept_before) = self.began_at.unwrap_or((situation.appended, kept_bytes));
        let rewritten = kept_bytes - kept_before;
        let new = (situation.appended.0 - began_at.0).saturating_sub(rewritten);
        target.saturating_add(new).saturating_sub(rewritten)
    }

    /// Makes the oldest segment free, by snapshots or by writing again what is alive in it.
    fn empty(
        &self,
        situation: &Situation<'_>,
        task: &Task<'_>,
        snapshots: &mut usize,
        actions: &mut Vec<Action>,
    ) {
        let Task { pressure, target, oldest, is_next } = *task;
        let pieces = situation.pieces(pressure, oldest);
        let alive: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        // A little now and then would take more than it frees: each time, it takes a batch.
        let credit = self.credit(situation, target);
        let affordable = credit >= alive.min(REWRITE_BYTES_MAX);
        sometimes!(rewriting_too_dear, !affordable);
        let few = affordable && alive <= oldest.bytes / 8;
        let much = affordable
            && pressure >= Pressure::Snapshot
            && (alive <= oldest.bytes / 2 || situation.is_half_dead(pressure));
        // Those whose snapshot is under way let go soon; the others get theirs one after the other. It takes
        // long to do so for many small ones.
        let worthwhile = if much { oldest.bytes / 64 } else { 0 };
        if !few && pieces.iter().any(|piece| piece.snapshot_bytes > worthwhile) {
            let mut possible: Vec<_> = pieces.iter().filter(|piece| piece.can_snapshot()).collect();
            possible.sort_by_key(|piece| (Reverse(piece.snapshot_bytes), piece.shard));
            for piece in possible.iter().take(*snapshots) {
                sometimes!(compaction_asks_snapshot);
                *snapshots -= usize::from(push(actions, Action::Snapshot { shard: piece.shard }));
            }
            return;
        }
        if !(few || much) {
            sometimes!(compaction_blocked);
            return;
        }
        // One segment at a time: what was written again comes on top until its old place is trimmed.
        if !is_next {
            return;
        }
        sometimes!(compaction_rewrites_much, !few);
        let mut bytes_left = REWRITE_BYTES_MAX.min(credit);
        for piece in pieces.iter().filter(|piece| !piece.state.rewriting) {
            if bytes_left == 0 {
                sometimes!(rewriting_paused);
                return;
            }
            let (entries, bytes) = piece.rewrite(oldest.end, bytes_left);
            let Piece { shard, hard_state, base, .. } = *piece;
            if push(actions, Action::Rewrite { shard, entries, hard_state, base }) {
                sometimes!(compaction_rewrites);
                bytes_left = bytes_left.saturating_sub(bytes);
            }
        }
    }
}

/// Adds an action unless there are too many.
fn push(actions: &mut Vec<Action>, action: Action) -> bool {
    let fits = actions.len() < COMPACTION_ACTIONS_MAX;
    if fits {
        actions.push(action);
    }
    fits
}

impl Piece<'_> {
    fn can_snapshot(&self) -> bool {
        self.snapshot_bytes > 0 && self.state.snapshot_possible && !self.state.snapshot_running
    }

    /// The entries to write again first, about `bytes_max` of them in a row, and what all of it takes.
    fn rewrite(&self, end: Lsn, bytes_max: u64) -> (Option<(LogIndex, LogIndex)>, u64) {
        let flags = u64::from(self.hard_state) + u64::from(self.base);
        let mut bytes = flags * REWRITE_RECORD_BYTES;
        let mut entries: Option<(LogIndex, LogIndex)> = None;
        if self.bytes > 0 {
            for run in self.index.runs.between(Lsn(0), end) {
                let first = run.first.max(self.limit.next());
                if first > run.last {
                    continue;
                }
                match &mut entries {
                    Some((_, last)) if bytes < bytes_max && last.next() == first => {
                        *last = run.last
                    }
                    Some(_) => break,
                    None => entries = Some((first, run.last)),
                }
                bytes += run.live_bytes() + REWRITE_RECORD_BYTES;
            }
        }
        (entries, bytes)
    }
}

impl<'a> Situation<'a> {
    fn log_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// What the log may take before anything but compaction is done about it.
    fn target(&self) -> u64 {
        let Budget { segment_bytes, bytes, snapshot_log_bytes, keep_log_bytes, .. } = *self.budget;
        let needs = self.index.shards().map(|(shard, _)| {
            let snapshot = self.shards.get(shard).map_or(0, |state| state.snapshot_bytes);
            snapshot_log_bytes.max(snapshot).saturating_add(keep_log_bytes)
        });
        let needs = needs.fold(0, u64::saturating_add);
        needs.max(LOG_SEGMENTS_TARGET_MIN * segment_bytes).min(bytes / 2)
    }

    fn pressure(&self, target: u64) -> Pressure {
        let log = self.log_bytes();
        let snapshots = self.snapshot_bytes.saturating_add(self.next_snapshot_bytes);
        let used = log.saturating_add(snapshots);
        let budget = self.budget.bytes;
        if used >= budget {
            Pressure::Refuse
        } else if log > 2 * target || used >= budget / 4 * 3 {
            Pressure::Snapshot
        } else if log > target {
            Pressure::Compact
        } else {
            Pressure::Normal
        }
    }

    /// Where what is needed begins; the end of the log if nothing is.
    fn needed_from(&self) -> Lsn {
        let oldest = self.index.shards().filter_map(|(shard, index)| {
            let given_up = self.shards.get(shard).is_some_and(|state| state.given_up);
            let runs = index.runs.oldest().filter(|_| !given_up);
            let hard_state = index.hard_state_at();
            #[cfg(mutant = "trim-forgets-hard-state")]
            let hard_state = None;
            [runs, index.base_at(), hard_state].into_iter().flatten().min()
        });
        oldest.min().unwrap_or(self.appended)
    }

    /// How far a shard may be compacted.
    fn limit(&self, index: &ShardIndex, state: &ShardState, pressure: Pressure) -> LogIndex {
        let (base, _) = index.base();
        if state.given_up {
            return index.last();
        }
        let mut limit = state.snapshot.min(state.applied);
        #[cfg(mutant = "compact-beyond-snapshot")]
        let mut limit = limit.max(state.applied);
        if pressure <= Pressure::Compact {
            let waited_for = state.pins.iter().filter(|pin| self.now < pin.until);
            limit = waited_for.fold(limit, |limit, pin| limit.min(pin.index.prev()));
        }
        if pressure == Pressure::Normal && limit > base {
            limit = limit.min(keep_from(index, state.snapshot, self.budget.keep_log_bytes));
        }
        limit.max(base)
    }

    /// Compacts the shards that have whole runs before `horizon` to lose.
    fn compact(&self, pressure: Pressure, horizon: Lsn, actions: &mut Vec<Action>) {
        for (shard, index) in self.index.shards() {
            let Some(state) = self.shards.get(shard).filter(|state| !state.given_up) else {
                continue;
            };
            if index.runs.oldest().is_none_or(|oldest| oldest >= horizon) {
                continue;
            }
            let limit = self.limit(index, state, pressure);
            let dead = index.runs.between(Lsn(0), horizon).filter(|run| run.last <= limit);
            if let Some(to) = dead.map(|run| run.last).max() {
                push(actions, Action::Compact { shard, to });
            }
        }
    }

    /// What is alive in the oldest segment, shard by shard.
    fn pieces(&self, pressure: Pressure, oldest: &Segment) -> Vec<Piece<'a>> {
        const UNKNOWN: &ShardState = &ShardState {
            applied: LogIndex(0),
            snapshot: LogIndex(0),
            snapshot_bytes: 0,
            next_snapshot_bytes: 0,
            snapshot_due: false,
            snapshot_running: false,
            snapshot_possible: false,
            pins: Vec::new(),
            rewriting: false,
            given_up: false,
        };
        let in_it = |at: Option<Lsn>| at.is_some_and(|at| at < oldest.end);
        let shards = self.index.shards().filter(|(_, index)| in_it(index.oldest()));
        let pieces = shards.map(|(shard, index)| {
            let state = self.shards.get(shard).unwrap_or(UNKNOWN);
            let limit = self.limit(index, state, pressure);
            let mut piece = Piece {
                shard,
                index,
                state,
                limit,
                bytes: 0,
                snapshot_bytes: 0,
                hard_state: in_it(index.hard_state_at()),
                base: in_it(index.base_at()),
            };
            let may_snapshot = state.snapshot_possible || state.snapshot_running;
            for run in index.runs.between(Lsn(0), oldest.end) {
                if run.last <= limit {
                    continue;
                }
                piece.bytes += rewritten_bytes(run);
                if may_snapshot && state.applied >= run.last && state.snapshot < run.last {
                    piece.snapshot_bytes += rewritten_bytes(run);
                }
            }
            piece
        });
        pieces.filter(|piece| piece.bytes > 0 || piece.hard_state || piece.base).collect()
    }

    /// Whether at most half of the log is alive, so that writing all of that again frees as much.
    fn is_half_dead(&self, pressure: Pressure) -> bool {
        let half = self.log_bytes() / 2;
        let mut alive = 0;
        for (shard, index) in self.index.shards() {
            let (base, _) = index.base();
            let limit =
                self.shards.get(shard).map_or(base, |state| self.limit(index, state, pressure));
            for run in index.runs.iter().rev().take_while(|run| run.last > limit) {
                alive += rewritten_bytes(run);
                if alive > half {
                    return false;
                }
            }
        }
        true
    }

    /// Snapshots that are due by themselves.
    fn due_snapshots(&self, snapshots: &mut usize, actions: &mut Vec<Action>) {
        for (shard, _) in self.index.shards() {
            if *snapshots == 0 {
                return;
            }
            let Some(state) = self.shards.get(shard) else { continue };
            let possible = state.snapshot_possible && !state.snapshot_running && !state.given_up;
            let action = Action::Snapshot { shard };
            if state.snapshot_due
                && possible
                && state.applied > state.snapshot
                && !actions.contains(&action)
                && push(actions, action)
            {
                *snapshots -= 1;
            }
        }
    }
}

/// What a run takes when it is written again: it is read and written by itself, in a batch of its own at worst.
fn rewritten_bytes(run: &Run) -> u64 {
    run.live_bytes() + BLOCK_BYTES as u64
}

/// How far a shard may be compacted so that about `bytes` of its log stay up to `snapshot`.
fn keep_from(index: &ShardIndex, snapshot: LogIndex, bytes: u64) -> LogIndex {
    let mut kept = 0;
    for run in index.runs.overlapping(index.base().0.next(), snapshot) {
        if kept >= bytes {
            return run.last.min(snapshot);
        }
        kept += run.live_bytes();
    }
    index.base().0
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
