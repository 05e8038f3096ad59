//! The keys of one shard: values, deadlines, and counts per hash slot.
//!
//! Keys lie in a dense vector behind a hash index. Removal moves the last key into the gap. Two
//! things follow, whatever the hasher's seed: the order of the vector depends only on the sequence of
//! changes, so replicas and snapshots agree; and a scan **downwards** returns every key that is there
//! all the time, because a removal only ever moves a key from a higher position to a lower one: from
//! the visited part to anywhere, or within the part that is still to come.
//!
//! A snapshot under way walks the vector **upwards** and is to show it as it was. Everything that changes
//! what lies at a position first offers it to the snapshot's [`Shadow`]; there is none most of the time.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use indexmap::IndexMap;

use super::shadow::Shadow;
use crate::server::cluster::slot_of;

/// A value and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) value: Bytes,
    /// Milliseconds since 1970; `None` never.
    pub(super) deadline_ms: Option<u64>,
}

impl Item {
    /// Whether the key counts as absent at this time.
    pub(super) fn is_due(&self, at_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= at_ms)
    }
}

/// What an item takes in memory besides the bytes of key and value: its place in the vector, with the hash,
/// and in the index. Allocations of their own come on top.
const ITEM_MEMORY_BYTES: usize = size_of::<(u64, Bytes, Item)>() + 2 * size_of::<usize>();

/// Keys and values in the order of the vector.
pub(super) type Items = IndexMap<Bytes, Item>;

#[derive(Debug, Default)]
pub(super) struct Keyspace {
    items: Items,
    deadlines: BTreeSet<(u64, Bytes)>,
    slots: HashMap<u16, u32>,
    bytes: u64,
    expired: u64,
    /// Of the snapshot under way.
    shadow: Option<Box<Shadow>>,
}

impl Keyspace {
    /// How many keys there are, due ones that are not removed yet included.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many keys have a deadline.
    pub(super) fn expiring(&self) -> usize {
        self.deadlines.len()
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys that were removed because they were due.
    pub(super) fn expired(&self) -> u64 {
        self.expired
    }

    /// The earliest deadline.
    pub(super) fn first_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Whether some key has its deadline after `after_ms` and at or before `until_ms`.
    pub(super) fn any_due_between(&self, after_ms: u64, until_ms: u64) -> bool {
        after_ms < until_ms
            && self
                .deadlines
                .range((after_ms + 1, Bytes::new())..)
                .next()
                .is_some_and(|(deadline, _)| *deadline <= until_ms)
    }

    /// The key's item, due or not.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key)
    }

    /// The key's item unless it is due.
    pub(super) fn live(&self, key: &[u8], at_ms: u64) -> Option<&Item> {
        self.items.get(key).filter(|item| !item.is_due(at_ms))
    }

    /// The key at a position of the vector.
    pub(super) fn at(&self, position: usize) -> Option<(&Bytes, &Item)> {
        self.items.get_index(position)
    }

    /// All keys in the order of the vector.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Item)> {
        self.items.iter()
    }

    /// Keys in a hash slot.
    pub(super) fn in_slot(&self, slot: u16) -> usize {
        self.slots.get(&slot).copied().unwrap_or(0) as usize
    }

    /// Sets a key's value and deadline, whether it is there or not.
    pub(super) fn put(&mut self, key: &[u8], value: Bytes, deadline_ms: Option<u64>) {
        self.bytes += value.len() as u64;
        if let Some((position, kept, item)) = self.items.get_full_mut(key) {
            let old = std::mem::replace(item, Item { value, deadline_ms });
            self.bytes -= old.value.len() as u64;
            if old.deadline_ms != deadline_ms {
                move_deadline(&mut self.deadlines, kept, old.deadline_ms, deadline_ms);
            }
            Shadow::keep(&mut self.shadow, position, || old);
            return;
        }
        self.bytes += key.len() as u64;
        *self.slots.entry(slot_of(key)).or_default() += 1;
        let key = Bytes::copy_from_slice(key);
        move_deadline(&mut self.deadlines, &key, None, deadline_ms);
        self.items.insert(key, Item { value, deadline_ms });
    }

    /// Changes a key's deadline; the key must be there.
    pub(super) fn set_deadline(&mut self, key: &[u8], deadline_ms: Option<u64>) {
        if let Some((position, kept, item)) = self.items.get_full_mut(key) {
            Shadow::keep(&mut self.shadow, position, || item.clone());
            let old = std::mem::replace(&mut item.deadline_ms, deadline_ms);
            move_deadline(&mut self.deadlines, kept, old, deadline_ms);
        }
    }

    /// Takes a key's value out to be changed and put back with [`Keyspace::put`]. The caller must
    /// put it back.
    pub(super) fn take_value(&mut self, key: &[u8]) -> Bytes {
        self.items.get_full_mut(key).map_or_else(Bytes::new, |(position, _, item)| {
            Shadow::keep(&mut self.shadow, position, || item.clone());
            self.bytes -= item.value.len() as u64;
            std::mem::take(&mut item.value)
        })
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Item> {
        let (position, key, item) = self.items.swap_remove_full(key)?;
        if self.shadow.is_some() {
            self.keep_removed(position, &key, &item);
        }
        self.bytes -= (key.len() + item.value.len()) as u64;
        let slot = slot_of(&key);
        if let Some(count) = self.slots.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.slots.remove(&slot);
            }
        }
        if let Some(deadline) = item.deadline_ms {
            self.deadlines.remove(&(deadline, key));
        }
        Some(item)
    }

    /// Tells the snapshot that `key` was removed from `position` and the last key, if it was another, moved
    /// there.
    fn keep_removed(&mut self, position: usize, key: &Bytes, item: &Item) {
        Shadow::keep_gone(&mut self.shadow, position, key, item);
        let last = self.items.len();
        if let Some((moved, item)) = self.items.get_index(position) {
            Shadow::keep_gone(&mut self.shadow, last, moved, item);
        }
    }

    /// Removes due keys, earliest deadline first, at most `removals_max`.
    pub(super) fn remove_due(&mut self, at_ms: u64, removals_max: usize) {
        for _ in 0..removals_max {
            match self.deadlines.first() {
                Some((deadline, key)) if *deadline <= at_ms => {
                    let key = key.clone();
                    self.remove(&key);
                    self.expired += 1;
                }
                _ => return,
            }
        }
    }

    /// Removes all keys.
    pub(super) fn clear(&mut self) {
        let (items, expired) = (std::mem::take(&mut self.items), self.expired);
        let mut shadow = self.shadow.take();
        if let Some(shadow) = &mut shadow {
            shadow.keep_all(items);
        }
        *self = Self { expired, shadow, ..Self::default() };
    }

    /// About how much memory keys and values take.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.bytes + (self.items.len() * ITEM_MEMORY_BYTES) as u64
    }

    /// Begins to keep what a snapshot is to show; an earlier one is given up.
    pub(super) fn open_shadow(&mut self, shadow: Shadow) {
        self.shadow = Some(Box::new(shadow));
    }

    /// The shadow of the snapshot under way, and the keys as they are now.
    pub(super) fn shadow(&mut self) -> Option<(&mut Shadow, &Items)> {
        Some((self.shadow.as_mut()?, &self.items))
    }

    /// Drops the shadow of a snapshot that has ended.
    pub(super) fn close_shadow(&mut self) {
        self.shadow = None;
    }
}

fn move_deadline(
    deadlines: &mut BTreeSet<(u64, Bytes)>,
    key: &Bytes,
    old_ms: Option<u64>,
    new_ms: Option<u64>,
) {
    if let Some(old) = old_ms {
        deadlines.remove(&(old, key.clone()));
    }
    if let Some(new) = new_ms {
        deadlines.insert((new, key.clone()));
    }
}
