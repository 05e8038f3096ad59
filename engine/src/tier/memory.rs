//! Which entries are in memory, under one budget for all shards of a core.
//!
//! Of every shard the newest entries are in memory, without a hole up to its last one; what is older lives
//! in the log only. Entries come in *groups*, in the order of the log, and leave in that order: the oldest
//! group first, whichever shard it belongs to. So a shard that is quiet keeps nothing from the busy ones for
//! long, and one follower's catching up, which reads from the log, evicts nothing.
//!
//! Only what is durable is evicted, for the rest can be read from nowhere else, and of that only what its shard
//! can do without. So memory holds at most the budget, what is not durable yet or in use, and one group.
//!
//! Bytes are counted exactly: those of an entry are freed when it is evicted, truncated or compacted away,
//! whichever comes first.

use std::collections::{BTreeMap, VecDeque};

use coracle_wal::Lsn;

use crate::limits::MEMORY_GROUP_BYTES_MAX;
use crate::{LogIndex, ShardId};

/// What is to leave memory: the entries of a shard up to an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The shard.
    pub shard: ShardId,
    /// The last index that leaves; all below it have left already or leave with it.
    pub up_to: LogIndex,
    /// What is freed.
    pub bytes: u64,
}

/// Entries of one shard that came together.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Its place in the order of all groups.
    number: u64,
    last: LogIndex,
    bytes: u64,
    /// Durable when the log is up to here.
    end: Lsn,
}

/// What of one shard is in memory.
#[derive(Clone, Debug)]
struct Held {
    first: LogIndex,
    /// What each entry counts for, from `first` on.
    costs: VecDeque<u32>,
    /// In order of their indices, which is that of their numbers. They cover all entries.
    groups: VecDeque<Group>,
}

impl Held {
    fn next(&self) -> LogIndex {
        LogIndex(self.first.0 + self.costs.len() as u64)
    }
}

/// The entries in memory, by what they cost. The entries themselves are with their shards.
#[derive(Clone, Debug)]
pub struct Memory {
    budget: u64,
    held: u64,
    groups_made: u64,
    order: BTreeMap<u64, ShardId>,
    shards: BTreeMap<ShardId, Held>,
}

impl Memory {
    /// Nothing in memory; `budget` in bytes.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self { budget, held: 0, groups_made: 0, order: BTreeMap::new(), shards: BTreeMap::new() }
    }

    /// Bytes that are in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.held
    }

    /// Bytes that should be there at most.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// The first entry of a shard that is in memory, if one is.
    #[must_use]
    pub fn first(&self, shard: ShardId) -> Option<LogIndex> {
        self.shards.get(&shard).map(|held| held.first)
    }

    /// Takes in entries from `first` on, each with what it counts for
    /// ([`Entry::cost`](crate::raft::Entry::cost)), as they are appended to the log, whose end is then
    /// `end`. They replace what is in memory at or above `first`. If they do not follow what is there, all
    /// of that leaves, for no holes are kept.
    pub fn admit(
        &mut self,
        shard: ShardId,
        first: LogIndex,
        costs: impl IntoIterator<Item = usize>,
        end: Lsn,
    ) {
        self.truncate_from(shard, first);
        if self.shards.get(&shard).is_some_and(|held| held.next() != first) {
            self.reset(shard);
        }
        let mut costs = costs.into_iter().map(|cost| u32::try_from(cost).unwrap_or(u32::MAX));
        let Some(cost) = costs.next() else { return };
        let held = self.shards.entry(shard).or_insert_with(|| Held {
            first,
            // Most shards have an entry or two in memory.
            costs: VecDeque::with_capacity(1),
            groups: VecDeque::with_capacity(1),
        });
        let mut bytes = u64::from(cost);
        held.costs.push_back(cost);
        for cost in costs {
            bytes += u64::from(cost);
            held.costs.push_back(cost);
        }
        self.held += bytes;
        let last = held.next().prev();
        // What comes next from the same shard, with nothing in between, joins the group before: many
        // small ones would cost more than their entries.
        if let Some(group) = held.groups.back_mut()
            && group.number == self.groups_made
            && group.bytes + bytes <= MEMORY_GROUP_BYTES_MAX
        {
            (group.last, group.end) = (last, end);
            group.bytes += bytes;
            return;
        }
        self.groups_made += 1;
        let number = self.groups_made;
        held.groups.push_back(Group { number, last, bytes, end });
        self.order.insert(number, shard);
    }

    /// The next to leave, while memory holds more than its budget: the oldest that may, of a group whose end
    /// is durable. `evictable` says of a shard up to which index it can do without; what is beyond stays,
    /// and newer entries of other shards leave instead. It counts as gone when this returns.
    pub fn next_eviction(
        &mut self,
        durable: Lsn,
        evictable: impl Fn(ShardId) -> LogIndex,
    ) -> Option<Eviction> {
        if self.held <= self.budget {
            return None;
        }
        let mut found = None;
        for (&number, &shard) in &self.order {
            let Some(held) = self.shards.get(&shard) else { continue };
            // Behind one that stays, the others of the shard stay, too.
            let Some(group) = held.groups.front().filter(|group| group.number == number) else {
                continue;
            };
            if group.end > durable {
                sometimes!(eviction_waits);
                break; // so do the others, which came later
            }
            let up_to = group.last.min(evictable(shard));
            if up_to >= held.first {
                found = Some((shard, up_to));
                break;
            }
            sometimes!(eviction_skips);
        }
        let (shard, up_to) = found?;
        let before = self.held;
        self.compact_to(shard, up_to);
        Some(Eviction { shard, up_to, bytes: before - self.held })
    }

    /// The shard's log was cut: everything from `index` on is gone.
    pub fn truncate_from(&mut self, shard: ShardId, index: LogIndex) {
        let Some(held) = self.shards.get_mut(&shard) else { return };
        while held.next() > index
            && let Some(cost) = held.costs.pop_back()
        {
            self.held -= u64::from(cost);
            let last = held.next().prev();
            let before = held.groups.len().checked_sub(2).and_then(|at| held.groups.get(at));
            let is_empty = last <= before.map_or(held.first.prev(), |group| group.last);
            if let Some(group) = held.groups.back_mut() {
                group.bytes -= u64::from(cost);
                group.last = last;
                if is_empty {
                    self.order.remove(&group.number);
                    held.groups.pop_back();
                }
            }
        }
        self.forget_if_empty(shard);
    }

    /// Everything up to and including `index` is gone: compacted away, or evicted.
    pub fn compact_to(&mut self, shard: ShardId, index: LogIndex) {
        let Some(held) = self.shards.get_mut(&shard) else { return };
        while held.first <= index
            && let Some(cost) = held.costs.pop_front()
            && let Some(group) = held.groups.front_mut()
        {
            self.held -= u64::from(cost);
            group.bytes -= u64::from(cost);
            if group.last == held.first {
                self.order.remove(&group.number);
                held.groups.pop_front();
            }
            held.first = held.first.next();
        }
        self.forget_if_empty(shard);
    }

    /// Everything of the shard is gone.
    pub fn reset(&mut self, shard: ShardId) {
        self.compact_to(shard, LogIndex(u64::MAX));
    }

    fn forget_if_empty(&mut self, shard: ShardId) {
        if self.shards.get(&shard).is_some_and(|held| held.costs.is_empty()) {
            self.shards.remove(&shard);
        }
    }
}

#[cfg(test)]
mod tests;
