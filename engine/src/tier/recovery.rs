//! What a restart makes of the records of a core's log.
//!
//! Records and summaries of segments come in the order of the log. The log may begin anywhere, for its oldest
//! segments are given up; what still counts of them was written again before. So for each shard:
//!
//! | what comes | what it does |
//! |---|---|
//! | entry above the base | replaces what is at its index and all above; leaves a hole if it is beyond the end |
//! | kept entry above the base | fills its place; contradicts the log if another term is there |
//! | entry at or below the base | nothing |
//! | hard state | is the newest |
//! | base | removes what is at or below it; with `reset`, everything, and the log begins there, also if it began later before |
//!
//! At the end, the newest snapshot of the shard, at S with term T, is held against it:
//!
//! | the log | what is done |
//! |---|---|
//! | begins at or behind S, without a hole | goes on as it is |
//! | begins before S, without a hole, has T at S | goes on as it is; S is committed |
//! | has a hole at or before S, has T at S | begins at S: the snapshot has what is missing |
//! | ends before S, or has another term at S | is dropped, and begins at S: that snapshot was being installed |
//! | has nothing at S, and an entry of term T behind it | begins at S: a leader's entries of one term agree |
//! | has a hole anywhere else | the shard is unusable |
//! | begins behind 0, and there is no snapshot as new as that | the shard is unusable |
//! | its terms decrease | the shard is unusable |
//! | a part of the log is damaged, and something of the shard may have been there | the shard is unusable |
//! | an earlier start found it unusable, and it was not begun anew since | the shard is unusable |
//!
//! A shard that is unusable is a matter of its own: the others go on. Its hard state is still
//! there, so that its votes are kept.
//!
//! The newest entries that fit the memory budget are in memory, as they were before: oldest first, in the
//! order of the log, over all shards. What a summary names, and what was written again, is not.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use coracle_wal::{Lsn, RecordView};
use thiserror::Error;

use super::index::{Appended, Index, ShardIndex};
use super::memory::Memory;
use super::place::Place;
use super::records::{LogRecord, ReplayError, decode_record};
use super::summary::{self, Item};
use crate::raft::membership::Configuration;
use crate::raft::{Base, Entry, EntryKind, HardState, Standing};
use crate::{LogIndex, ShardId, Term};

/// Why one shard can't be brought up from the log. The others are not concerned.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShardError {
    /// Entries are missing, and no snapshot has what they did.
    #[error(
        "the log of shard {shard} has a gap: entry {found} follows {after}, and no snapshot covers \
         what is between; restore this shard from its peers"
    )]
    Gap {
        /// The shard.
        shard: ShardId,
        /// Last entry before the gap, or the base.
        after: LogIndex,
        /// First entry behind it.
        found: LogIndex,
    },
    /// The log was compacted behind the newest snapshot that can be read.
    #[error(
        "the log of shard {shard} begins behind {base}, but its newest intact snapshot is {}; restore \
         this shard from its peers", newest.map_or("none".to_owned(), |index| format!("at {index}"))
    )]
    SnapshotMissing {
        /// The shard.
        shard: ShardId,
        /// Where its log begins.
        base: LogIndex,
        /// The newest snapshot.
        newest: Option<LogIndex>,
    },
    /// An entry has a lower term than the one before it.
    #[error(
        "the log of shard {shard} contradicts itself: entry {index} has term {term}, after {before}; \
         restore this shard from its peers"
    )]
    TermsDecrease {
        /// The shard.
        shard: ShardId,
        /// The entry.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The term before it.
        before: Term,
    },
    /// A part of the core's log is damaged, and the shard may have had something there.
    #[error(
        "what shard {shard} had before position {behind} of its core's log may be incomplete: a part of the \
         log is damaged; restore this shard from its peers"
    )]
    LogDamaged {
        /// The shard.
        shard: ShardId,
        /// Where the last damaged part ends.
        behind: Lsn,
    },
    /// An earlier start found the shard damaged, and it was not begun anew since.
    #[error("an earlier start found shard {shard} damaged; restore this shard from its peers")]
    FoundBefore {
        /// The shard.
        shard: ShardId,
    },
    /// What was written again, or a base, is not what was there.
    #[error(
        "the log of shard {shard} contradicts itself: entry {index} had term {own} and now has {found}; \
         restore this shard from its peers"
    )]
    Contradiction {
        /// The shard.
        shard: ShardId,
        /// The entry.
        index: LogIndex,
        /// The term it had.
        own: Term,
        /// The term that the later record gives it.
        found: Term,
    },
}

/// What the log holds of one shard, ready to go on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredShard {
    /// The newest hard state; its commit index lies within the log.
    pub hard_state: HardState,
    /// The same as it is in the log, to be written again so: a snapshot may have moved the commit index above to
    /// where the log without `unstored` has no entries.
    pub recorded: HardState,
    /// Position and term before the first entry.
    pub base: (LogIndex, Term),
    /// First index of each term above the base.
    pub terms: Vec<(LogIndex, Term)>,
    /// The last entry; the base if there is none.
    pub last: LogIndex,
    /// The newest entries, up to the last one; those that are in memory.
    pub entries: Vec<Entry>,
    /// What entries above the base say about who belongs to the shard, also those that are not in memory.
    pub configurations: Vec<(LogIndex, Configuration)>,
    /// A base that a snapshot gave and the log does not have yet: to be appended before anything else of
    /// the shard.
    pub unstored: Option<Base>,
}

impl RecoveredShard {
    /// Term of the last entry, or of the base.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.terms.last().map_or(self.base.1, |(_, term)| *term)
    }
}

/// A shard that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Why.
    pub error: ShardError,
    /// Its newest hard state: the term and vote it must not go back behind.
    pub hard_state: HardState,
}

/// What a restart found.
#[derive(Debug)]
pub struct Recovered {
    /// Every shard of which the log or the snapshots have anything.
    pub shards: BTreeMap<ShardId, Result<RecoveredShard, Unusable>>,
    /// Where everything lies; of unusable shards, too, whose records stay.
    pub index: Index,
    /// What is in memory.
    pub memory: Memory,
}

#[derive(Debug, Default)]
struct Pending {
    hard_state: HardState,
    /// Batch of the newest record that says where the log ends: an entry, or a base that resets.
    ended_at: Lsn,
    entries: VecDeque<Entry>,
    /// By index and term, which name an entry: those that are not in the log any more are left out at the end.
    configurations: BTreeMap<(LogIndex, Term), Configuration>,
    error: Option<ShardError>,
}

/// Collects what the log of a core holds.
#[derive(Debug)]
pub struct Recovery {
    index: Index,
    memory: Memory,
    shards: BTreeMap<ShardId, Pending>,
    /// Parts of the log before this are damaged.
    damaged_before: Option<Lsn>,
    error: Option<ReplayError>,
}

impl Recovery {
    /// Nothing yet; entries of `memory_budget` bytes are kept in memory.
    #[must_use]
    pub fn new(memory_budget: u64) -> Self {
        Self {
            index: Index::default(),
            memory: Memory::new(memory_budget),
            shards: BTreeMap::new(),
            damaged_before: None,
            error: None,
        }
    }

    /// Parts of the log are damaged; the last of them ends at `behind`, and intact records follow there.
    pub fn damaged(&mut self, behind: Lsn) {
        self.damaged_before = self.damaged_before.max(Some(behind));
    }

    /// Takes the next record, which is in the batch at `batch`. After the first one that can't be read,
    /// the rest is ignored.
    pub fn record(&mut self, record: &RecordView<'_>, batch: Lsn) {
        if self.error.is_some() {
            return;
        }
        match decode_record(record) {
            Ok(decoded) => {
                let place = Place { batch, end: record.lsn };
                self.take(ShardId(record.stream), &decoded, place);
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// Takes the summary of a segment with the records from `start` to `end`, instead of these. `false` if
    /// it was not understood; nothing has changed then.
    pub fn summary(&mut self, start: Lsn, end: Lsn, bytes: &[u8]) -> bool {
        let Some(items) = summary::decode(bytes, start, end) else {
            sometimes!(summary_refused);
            return false;
        };
        self.index.interrupt();
        for item in &items {
            self.take_item(item);
        }
        true
    }

    fn take_item(&mut self, item: &Item) {
        let shard = item.shard();
        let before = self.index.shard(shard).map_or(LogIndex(0), |index| index.base().0);
        match *item {
            Item::Run { run, kept, .. } if run.last > before => {
                let first = run.first.max(before.next());
                if kept {
                    self.check_kept(shard, first, run.last, run.term);
                }
                self.leave_out(shard, first, run.last, kept);
                if !kept {
                    self.pending(shard).ended_at = run.batch;
                }
            }
            Item::Run { .. } => {}
            Item::HardState { state, .. } => self.pending(shard).hard_state = state,
            Item::Base { base, at, .. } => self.take_base(shard, &base, at),
        }
        self.index.item(item);
    }

    fn take(&mut self, shard: ShardId, record: &LogRecord<'_>, place: Place) {
        let before = self.index.shard(shard).map_or(LogIndex(0), |index| index.base().0);
        self.note_configuration(shard, record, before);
        #[cfg(mutant = "replay-keeps-suffix")]
        let record = &self.without_truncation(shard, *record);
        let appended = match *record {
            LogRecord::Entry { term, index, kind, payload } => {
                if index > before {
                    let payload = Bytes::copy_from_slice(payload);
                    self.remember(shard, Entry { term, index, kind, payload }, place.end);
                    self.pending(shard).ended_at = place.batch;
                }
                let payload_bytes = payload.len();
                let reconfigures = kind == EntryKind::Reconfiguration;
                Appended::Entry { index, term, payload_bytes, kept: false, reconfigures }
            }
            #[cfg(mutant = "kept-truncates")]
            LogRecord::Kept { term, index, kind, payload } => {
                if index > before {
                    let payload = Bytes::copy_from_slice(payload);
                    self.remember(shard, Entry { term, index, kind, payload }, place.end);
                }
                let payload_bytes = payload.len();
                let reconfigures = kind == EntryKind::Reconfiguration;
                Appended::Entry { index, term, payload_bytes, kept: false, reconfigures }
            }
            #[cfg(not(mutant = "kept-truncates"))]
            LogRecord::Kept { term, index, kind, payload } => {
                if index > before {
                    self.check_kept(shard, index, index, term);
                    self.leave_out(shard, index, index, true);
                }
                let reconfigures = kind == EntryKind::Reconfiguration;
                let payload_bytes = payload.len();
                Appended::Entry { index, term, payload_bytes, kept: true, reconfigures }
            }
            LogRecord::HardState(state) => {
                self.pending(shard).hard_state = state;
                Appended::HardState(state)
            }
            LogRecord::Base(base) => {
                self.take_base(shard, &base, place.batch);
                Appended::Base(base)
            }
        };
        self.index.record(shard, &appended, place);
    }

    /// Keeps what an entry above the base says about who belongs to the shard.
    fn note_configuration(&mut self, shard: ShardId, record: &LogRecord<'_>, base: LogIndex) {
        let (LogRecord::Entry { term, index, kind, payload }
        | LogRecord::Kept { term, index, kind, payload }) = *record
        else {
            return;
        };
        if kind == EntryKind::Reconfiguration
            && index > base
            && let Some(configuration) = Configuration::decode(payload)
        {
            sometimes!(replay_configuration);
            self.pending(shard).configurations.insert((index, term), configuration);
        }
    }

    #[cfg(mutant = "replay-keeps-suffix")]
    fn without_truncation<'a>(&mut self, shard: ShardId, record: LogRecord<'a>) -> LogRecord<'a> {
        let last = self.index.shard(shard).map_or(LogIndex(0), ShardIndex::last);
        match record {
            LogRecord::Entry { term, index, kind, payload } if index < last => {
                let payload_copy = Bytes::copy_from_slice(payload);
                let entries = &mut self.pending(shard).entries;
                if let Some(old) = entries.iter_mut().find(|entry| entry.index == index) {
                    *old = Entry { term, index, kind, payload: payload_copy };
                }
                LogRecord::Kept { term, index, kind, payload }
            }
            other => other,
        }
    }

    fn pending(&mut self, shard: ShardId) -> &mut Pending {
        self.shards.entry(shard).or_default()
    }

    /// Takes an entry into memory, and lets go what does not fit any more.
    fn remember(&mut self, shard: ShardId, entry: Entry, end: Lsn) {
        let (index, cost) = (entry.index, entry.cost());
        self.memory.admit(shard, index, [cost], end);
        self.pending(shard).entries.push_back(entry);
        self.follow_memory(shard, Some(index));
        while let Some(eviction) = self.memory.next_eviction(end, |_| LogIndex(u64::MAX)) {
            self.follow_memory(eviction.shard, None);
        }
    }

    /// Brings the entries of a shard in line with what memory counts; `new` was just added at the end.
    fn follow_memory(&mut self, shard: ShardId, new: Option<LogIndex>) {
        let first = self.memory.first(shard);
        let entries = &mut self.shards.entry(shard).or_default().entries;
        if let Some(new) = new
            && let Some(entry) = entries.pop_back()
        {
            while entries.back().is_some_and(|old| old.index >= new) {
                entries.pop_back();
            }
            entries.push_back(entry);
        }
        match first {
            Some(first) => {
                while entries.front().is_some_and(|old| old.index < first) {
                    entries.pop_front();
                }
            }
            None => entries.clear(),
        }
    }

    /// Entries from `first` to `last` lie in the log, but are not in memory: nothing before them may be.
    fn leave_out(&mut self, shard: ShardId, first: LogIndex, last: LogIndex, kept: bool) {
        let next = self.pending(shard).entries.back().map(|entry| entry.index.next());
        // What is in memory stays there when it is written again.
        if !kept || next.is_some_and(|next| last >= next) {
            self.memory.reset(shard);
            self.follow_memory(shard, None);
        }
        let end = self.index.shard(shard).map_or(LogIndex(0), ShardIndex::last);
        sometimes!(replay_hole_filled, kept && first < end);
    }

    fn check_kept(&mut self, shard: ShardId, first: LogIndex, last: LogIndex, found: Term) {
        if cfg!(mutant = "replay-keeps-suffix") {
            return;
        }
        let Some(index) = self.index.shard(shard) else { return };
        let other = index.runs.overlapping(first, last).find(|run| run.term != found);
        if let Some(run) = other {
            let (index, own) = (run.first.max(first), run.term);
            let error = ShardError::Contradiction { shard, index, own, found };
            self.pending(shard).error.get_or_insert(error);
        }
    }

    fn take_base(&mut self, shard: ShardId, base: &Base, at: Lsn) {
        let known = self.index.shard(shard).map_or((LogIndex(0), Term(0)), ShardIndex::base);
        let own = self.index.shard(shard).and_then(|index| index.term_at(base.index));
        let pending = self.pending(shard);
        if base.index < known.0 && !base.reset {
            return;
        }
        if let Some(own) = own
            && own != base.term
            && !base.reset
        {
            let (index, found) = (base.index, base.term);
            pending.error.get_or_insert(ShardError::Contradiction { shard, index, own, found });
        }
        pending.configurations.retain(|(index, _), _| *index > base.index && !base.reset);
        if base.reset {
            // Whatever contradicted itself before is gone.
            pending.error = None;
            pending.ended_at = at;
            self.memory.reset(shard);
        } else {
            self.memory.compact_to(shard, base.index);
        }
        self.follow_memory(shard, None);
    }

    /// What became of every shard. `snapshots` are the newest intact ones: index and term.
    ///
    /// # Errors
    /// [`ReplayError`] if a record was not written by this version: nothing of the log is to be trusted.
    pub fn finish(
        mut self,
        snapshots: &BTreeMap<ShardId, (LogIndex, Term)>,
    ) -> Result<Recovered, ReplayError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        for shard in snapshots.keys() {
            self.pending(*shard);
        }
        // What comes next goes to a new segment.
        self.index.interrupt();
        let mut shards = BTreeMap::new();
        for (shard, mut pending) in std::mem::take(&mut self.shards) {
            let snapshot = snapshots.get(&shard).copied();
            let index = self.index.shard_mut(shard);
            let settled = match pending.error.take() {
                Some(error) => Err(error),
                None => settle(shard, index, snapshot),
            };
            let settled = settled.and_then(|unstored| {
                if pending.hard_state.standing == Standing::DAMAGED {
                    return Err(ShardError::FoundBefore { shard });
                }
                match self.damaged_before {
                    Some(behind) => outlive(index, snapshot, pending.ended_at, behind)
                        .map(|base| base.or(unstored))
                        .ok_or(ShardError::LogDamaged { shard, behind }),
                    None => Ok(unstored),
                }
            });
            let hard_state = pending.hard_state;
            let result = match settled {
                Ok(unstored) => {
                    let (base, last) = (index.base(), index.last());
                    match unstored {
                        Some(base) if !base.reset => self.memory.compact_to(shard, base.index),
                        Some(_) => self.memory.reset(shard),
                        None => {}
                    }
                    let first = self.memory.first(shard);
                    pending.entries.retain(|e| first.is_some_and(|first| e.index >= first));
                    let applied = snapshot.map_or(base.0, |(index, _)| index.max(base.0));
                    let commit = hard_state.commit.max(applied).min(last);
                    let terms = index.runs.terms();
                    let entries: Vec<Entry> = pending.entries.into();
                    assert!(
                        entries.last().is_none_or(|entry| entry.index == last),
                        "what is in memory ends with the log: {:?}, {last}",
                        entries.last()
                    );
                    let recorded = hard_state;
                    let hard_state = HardState { commit, ..hard_state };
                    let configurations = std::mem::take(&mut pending.configurations);
                    let configurations =
                        configurations.into_iter().filter_map(|(at, configuration)| {
                            let (at, term) = at;
                            let is_there = at > base.0 && index.term_at(at) == Some(term);
                            is_there.then_some((at, configuration))
                        });
                    let configurations = configurations.collect();
                    Ok(RecoveredShard {
                        hard_state,
                        recorded,
                        base,
                        terms,
                        last,
                        entries,
                        configurations,
                        unstored,
                    })
                }
                Err(error) => {
                    sometimes!(replay_shard_unusable);
                    self.memory.reset(shard);
                    Err(Unusable { error, hard_state })
                }
            };
            shards.insert(shard, result);
        }
        Ok(Recovered { shards, index: self.index, memory: self.memory })
    }
}

/// Holds a shard's log against its newest snapshot, as the table above says. Gives the base that the log
/// has now and should be told of.
fn settle(
    shard: ShardId,
    index: &mut ShardIndex,
    snapshot: Option<(LogIndex, Term)>,
) -> Result<Option<Base>, ShardError> {
    let mut unstored = None;
    if let Some((at, term)) = snapshot
        && at > index.base().0
    {
        unstored = match index.term_at(at) {
            Some(own) if own == term => {
                let hole = index.runs.hole(index.base().0);
                let covered = hole.is_some_and(|(after, _)| after < at);
                covered.then_some(Base { index: at, term, reset: false })
            }
            None if at < index.last() => {
                let agrees = index.term_at(at.next()) == Some(term);
                agrees.then_some(Base { index: at, term, reset: false })
            }
            _ => Some(Base { index: at, term, reset: true }),
        };
    }
    if let Some(base) = unstored {
        sometimes!(replay_base_from_snapshot, !base.reset);
        sometimes!(replay_reset_by_snapshot, base.reset);
        index.take_base(base, None);
    }
    let (base, base_term) = index.base();
    let newest = snapshot.map(|(index, _)| index);
    if base > newest.unwrap_or(LogIndex(0)) {
        return Err(ShardError::SnapshotMissing { shard, base, newest });
    }
    if let Some((after, found)) = index.runs.hole(base) {
        return Err(ShardError::Gap { shard, after, found });
    }
    let mut before = base_term;
    for (index, term) in index.runs.terms() {
        if term < before {
            return Err(ShardError::TermsDecrease { shard, index, term, before });
        }
        before = term;
    }
    Ok(unstored)
}

/// Whether all that counts of a shard lies behind a damaged part of the log, so that nothing that may have
/// been there matters. What it had there is of four kinds:
///
/// - a hard state: there is a newer one;
/// - a base: it is below the first entry, or there is a hole;
/// - an entry that still counts: it would leave a hole, or be behind the last entry; there is a newer record
///   that says where the log ends (the entries above that were written again do not);
/// - an entry, or a base that resets, that replaced others: these count no more, for all that do are newer.
///
/// A snapshot takes the place of older entries if that helps; then its base is given.
fn outlive(
    index: &mut ShardIndex,
    snapshot: Option<(LogIndex, Term)>,
    ended_at: Lsn,
    behind: Lsn,
) -> Option<Option<Base>> {
    let is_newer = |at: Option<Lsn>| at.is_some_and(|at| at >= behind);
    if !is_newer(index.hard_state_at()) || ended_at < behind {
        return None;
    }
    if index.runs.oldest().is_none_or(|oldest| oldest >= behind) {
        sometimes!(replay_damage_outlived);
        return Some(None);
    }
    let (at, term) = snapshot.filter(|(at, _)| *at > index.base().0)?;
    let older = index.runs.iter().any(|run| run.last > at && run.batch < behind);
    if index.term_at(at) != Some(term) || older {
        return None;
    }
    sometimes!(replay_damage_outlived_by_snapshot);
    let base = Base { index: at, term, reset: false };
    index.take_base(base, None);
    Some(Some(base))
}

#[cfg(test)]
mod tests;
