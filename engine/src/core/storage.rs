//! What waits for the log: groups it has not taken yet, and promises that rest on what it has taken. And
//! what the log holds: where each record went is noted in the [`Index`], and which entries are in memory
//! in [`Memory`].

use std::collections::{BTreeMap, VecDeque};
use std::task::Context;

use coracle_wal::{AppendError, Disk, Lsn, Wal};

use crate::limits::Limits;
use crate::on_demand::give_back;
use crate::raft::{Effects, Entry, EntryKind, HardState, Message, WriteMark};
use crate::tier::{
    Appended, Base, ENTRY_HEAD_BYTES, Eviction, Index, Memory, Place, base_head, base_record,
    entry_head, entry_record, hard_state_head, hard_state_record, kept_record,
};
use crate::{LogIndex, NodeId, ShardId};

/// A message and whom it goes to.
pub(super) type Addressed = (NodeId, Message);

/// Something to do once the log is durable up to a position.
pub(super) struct Promise {
    pub(super) shard: ShardId,
    /// What Raft is told with `Event::Durable`, if the group had anything to write.
    pub(super) mark: Option<WriteMark>,
    pub(super) messages: Vec<Addressed>,
}

/// What one turn of one shard gave, with the promises that rest on it; or what is written again.
struct Group {
    base: Option<Base>,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    /// The entries are in the log already.
    kept: bool,
    promise: Promise,
}

/// What of a shard is to be written again, at the log's head.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) base: Option<Base>,
    pub(super) hard_state: Option<HardState>,
    pub(super) entries: Vec<Entry>,
}

/// What is known of the records that the log has taken.
struct Books {
    /// Where they are.
    index: Index,
    /// Which entries are in memory.
    memory: Memory,
    /// The newest hard state of each shard.
    hard_states: BTreeMap<ShardId, HardState>,
    /// Reused for the fixed parts of the records of a group.
    heads: Vec<[u8; ENTRY_HEAD_BYTES]>,
    /// Reused for what the index is told.
    notes: Vec<Appended>,
}

/// The log of a core as its loop uses it.
pub(super) struct Storage<D: Disk> {
    wal: Wal<D>,
    /// End of what was appended last.
    appended: Lsn,
    /// Groups that the log refused for now, in order.
    refused: VecDeque<Group>,
    /// Ordered by position.
    promises: VecDeque<(Lsn, Promise)>,
    books: Books,
    limits: Limits,
}

impl<D: Disk> Storage<D> {
    /// `index`, `memory` and `hard_states` are what was recovered.
    pub(super) fn new(
        wal: Wal<D>,
        index: Index,
        memory: Memory,
        hard_states: BTreeMap<ShardId, HardState>,
        limits: Limits,
    ) -> Self {
        let appended = wal.durable();
        Self {
            wal,
            appended,
            refused: VecDeque::new(),
            promises: VecDeque::new(),
            books: Books { index, memory, hard_states, heads: Vec::new(), notes: Vec::new() },
            limits,
        }
    }

    pub(super) fn wal(&self) -> &Wal<D> {
        &self.wal
    }

    /// Whether the log takes what is new. If not, nothing more should be accepted.
    pub(super) fn is_accepting(&self) -> bool {
        self.refused.is_empty()
    }

    /// Whether the log owes so much that nothing more may come that could add to it.
    pub(super) fn is_overdue(&self) -> bool {
        self.refused.len() >= self.limits.groups_refused_max
    }

    /// Whether something that was appended, or waits to be, is not durable yet.
    pub(super) fn is_busy(&self) -> bool {
        !(self.refused.is_empty() && self.promises.is_empty())
    }

    /// End of what was appended last.
    pub(super) fn appended(&self) -> Lsn {
        self.appended
    }

    /// How many groups the log has refused for now, and how many promises wait for it.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.refused.len(), self.promises.len())
    }

    /// Takes the durable part of a shard's effects.
    pub(super) fn take(&mut self, shard: ShardId, effects: &mut Effects) {
        let entries = std::mem::take(&mut effects.entries);
        let messages = std::mem::take(&mut effects.after_durable);
        let hard_state = effects.hard_state.take();
        // It goes with the next group then.
        #[cfg(mutant = "entry-before-term")]
        let hard_state = if entries.is_empty() {
            hard_state
        } else {
            effects.hard_state = hard_state;
            None
        };
        let base = effects.base.take();
        if base.is_none() && hard_state.is_none() && entries.is_empty() && messages.is_empty() {
            return;
        }
        // What these replace is gone from memory, also while the log does not take them.
        match (&base, entries.first()) {
            (Some(Base { reset: true, .. }), _) => self.books.memory.reset(shard),
            (_, Some(first)) => self.books.memory.truncate_from(shard, first.index),
            _ => {}
        }
        if let Some(base) = &base {
            self.books.memory.compact_to(shard, base.index);
        }
        let promise = Promise { shard, mark: effects.write_mark.take(), messages };
        self.push(Group { base, hard_state, entries, kept: false, promise });
    }

    /// Writes again what the log is about to lose, as it is in the log: ahead of groups that wait, for it may
    /// be what makes room for them. `false` if the log has no room for it either.
    pub(super) fn write_again(&mut self, shard: ShardId, again: Again) -> bool {
        let Again { base, hard_state, entries } = again;
        let promise = Promise { shard, mark: None, messages: Vec::new() };
        let mut group = Group { base, hard_state, entries, kept: true, promise };
        let bytes_max = self.limits.append_group_bytes_max;
        match append(&self.wal, &mut group, &mut self.books, bytes_max) {
            Ok(appended) => {
                self.appended = appended.unwrap_or(self.appended);
                true
            }
            Err(_) => {
                sometimes!(rewriting_refused);
                false
            }
        }
    }

    /// Gives back the memory of queues that a burst has made long, and that are empty.
    pub(super) fn give_back(&mut self) {
        give_back(&mut self.promises);
        give_back(&mut self.refused);
    }

    /// The newest hard state of a shard that the log has taken.
    pub(super) fn hard_state(&self, shard: ShardId) -> Option<HardState> {
        self.books.hard_states.get(&shard).copied()
    }

    /// Where the records of the log are.
    pub(super) fn index(&self) -> &Index {
        &self.books.index
    }

    /// Bytes of entries in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.books.memory.bytes()
    }

    /// The next entries that have to leave memory, of those up to where `evictable` says that a shard
    /// can do without.
    pub(super) fn next_eviction(
        &mut self,
        evictable: impl Fn(ShardId) -> LogIndex,
    ) -> Option<Eviction> {
        self.books.memory.next_eviction(self.wal.durable(), evictable)
    }

    /// The entries of a shard up to `index`, which are durable, leave memory.
    pub(super) fn leave_memory(&mut self, shard: ShardId, index: LogIndex) {
        self.books.memory.compact_to(shard, index);
    }

    /// Gives the log the summary of each segment that was sealed since.
    pub(super) fn summarize(&mut self) {
        while let Some(sealed) = self.wal.take_sealed() {
            let bytes_max = self.wal.summary_bytes_max();
            if let Some(summary) =
                self.books.index.take_summary(sealed.start, sealed.end, bytes_max)
            {
                self.wal.summarize(sealed.sequence, summary);
            }
        }
    }

    fn push(&mut self, group: Group) {
        self.refused.push_back(group);
        if self.refused.len() == 1 {
            self.retry();
        } else {
            sometimes!(group_queued);
        }
    }

    /// Appends what the log has not taken yet, as far as it does now.
    pub(super) fn retry(&mut self) {
        while let Some(group) = self.refused.front_mut() {
            #[cfg(mutant = "promise-rests-on-previous")]
            let previous = self.appended;
            match append(&self.wal, group, &mut self.books, self.limits.append_group_bytes_max) {
                Ok(Some(lsn)) => self.appended = lsn,
                // Nothing to write: the promise rests on what was appended before.
                Ok(None) => {}
                Err(error @ AppendError::TooLarge { .. }) => {
                    unreachable!("a group is bounded below the size of a batch: {error}")
                }
                // Full for now, or over for good: the loop looks at the failure itself.
                Err(_) => {
                    sometimes!(group_refused);
                    return;
                }
            }
            if let Some(Group { promise, .. }) = self.refused.pop_front() {
                let rests_on = self.appended;
                #[cfg(mutant = "promise-rests-on-previous")]
                let rests_on = previous;
                self.promises.push_back((rests_on, promise));
            }
        }
    }

    /// Whether the log became durable further than the oldest promise; if not, `cx` is woken when it
    /// does, or when the log fails.
    pub(super) fn poll_progress(&self, cx: &mut Context<'_>) -> bool {
        match self.promises.front() {
            Some((lsn, _)) if *lsn <= self.wal.durable() => true,
            _ => self.wal.poll_durable_beyond(cx, self.wal.durable()).is_ready(),
        }
    }

    /// The next promise that may be kept now.
    pub(super) fn next_kept(&mut self) -> Option<Promise> {
        let durable = self.wal.durable();
        match self.promises.front() {
            Some((lsn, _)) if *lsn <= durable => self.promises.pop_front().map(|(_, kept)| kept),
            _ => None,
        }
    }
}

/// Appends a group in pieces that fit a batch: base and hard state first. What was appended leaves the
/// group, so that it can be continued after an error.
fn append<D: Disk>(
    wal: &Wal<D>,
    group: &mut Group,
    books: &mut Books,
    bytes_max: usize,
) -> Result<Option<Lsn>, AppendError> {
    let shard = group.promise.shard;
    let mut appended = None;
    while group.base.is_some() || group.hard_state.is_some() || !group.entries.is_empty() {
        let count = piece(&group.entries, bytes_max);
        sometimes!(group_split, count < group.entries.len());
        let entries = &group.entries[..count];
        let state = group.hard_state.map(|state| match group.kept {
            true => state,
            false => hint(state, entries),
        });
        let noted = state;
        let Books { index, memory, hard_states, heads, notes } = books;
        heads.clear();
        heads.extend(entries.iter().map(entry_head));
        notes.clear();
        notes.extend(group.base.map(Appended::Base));
        notes.extend(state.map(Appended::HardState));
        notes.extend(entries.iter().map(|entry| Appended::Entry {
            index: entry.index,
            term: entry.term,
            payload_bytes: entry.payload.len(),
            kept: group.kept,
            reconfigures: entry.kind == EntryKind::Reconfiguration,
        }));
        let base = group.base.as_ref().map(base_head);
        let base = base.as_ref().map(|head| base_record(shard, head));
        let state = state.as_ref().map(hard_state_head);
        let state = state.as_ref().map(|head| hard_state_record(shard, head));
        let records = entries.iter().zip(heads.iter()).map(|(entry, head)| match group.kept {
            true => kept_record(shard, head, &entry.payload),
            false => entry_record(shard, head, entry),
        });
        let list: Vec<_> = base.into_iter().chain(state).chain(records).collect();
        let coracle_wal::Appended { batch, end } = wal.append(&list)?;
        index.appended(shard, notes, Place { batch, end });
        // Entries of groups that had to wait may have come into memory after Raft gave them up.
        match group.base {
            Some(Base { reset: true, .. }) => memory.reset(shard),
            Some(Base { index, .. }) => memory.compact_to(shard, index),
            None => {}
        }
        if let (false, Some(first)) = (group.kept, entries.first()) {
            memory.admit(shard, first.index, entries.iter().map(Entry::cost), end);
        }
        if let Some(noted) = noted {
            hard_states.insert(shard, noted);
        }
        appended = Some(end);
        group.base = None;
        group.hard_state = None;
        group.entries.drain(..count);
    }
    Ok(appended)
}

/// The hard state as it is stored before `entries`: its commit index must not name entries that are
/// not in the log yet, for a crash may come before they are.
fn hint(state: HardState, entries: &[Entry]) -> HardState {
    let before = entries.first().map_or(state.commit, |first| first.index.prev());
    #[cfg(mutant = "hint-unclamped")]
    let before = before.max(state.commit);
    HardState { commit: state.commit.min(before), ..state }
}

/// How many of the first entries make one group: those of `bytes_max` bytes, but at least one.
fn piece(entries: &[Entry], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.payload.len() + 64;
        bytes <= bytes_max
    });
    fits.count().max(1).min(entries.len())
}
