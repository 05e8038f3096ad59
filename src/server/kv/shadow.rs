//! What a snapshot under way still has to show although it has changed since.
//!
//! The snapshot is of `end` positions of the vector. A cursor walks over them upwards; positions below it are
//! done with. For each position from the cursor to the end, one of these holds at any time:
//!
//! - it is **ahead**: what lay there has been shown before its turn;
//! - it is **aside**: what lay there when the snapshot began is kept here;
//! - neither: it still lies there in the vector.
//!
//! So whoever changes what lies at a position asks first ([`Shadow::keep`], [`Shadow::keep_gone`]). A removal
//! changes two: the position of the key, and the last one, from where a key moves into the gap. A key that is
//! new lies at a position that is beyond the end, or that was vacated before and hence is aside or ahead.
//! When all keys are removed at once, the whole vector moves here (**cleared**) and nothing that comes later
//! concerns the snapshot.
//!
//! # Memory
//! An item that is overwritten moves here, so it costs its value and an entry of a map; its key stays where it
//! is until it is removed. That is little while the snapshot is written faster than keys change. When more
//! than [`Bounds::soft`] is aside, the snapshot shows that first, out of turn. When more than [`Bounds::hard`]
//! is, the shadow closes itself and the snapshot fails.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use indexmap::map::IntoIter;

use super::keyspace::{Item, Items};
use crate::server::limits::{
    SNAPSHOT_ASIDE_BYTES_MIN, SNAPSHOT_ASIDE_HARD_PARTS, SNAPSHOT_ASIDE_SOFT_PARTS,
};

/// What an item that is aside takes in memory besides its bytes: an entry of a B-tree that is two thirds full,
/// and what its allocation is rounded up by.
const ASIDE_MEMORY_BYTES: usize = size_of::<(usize, Aside)>() * 3 / 2 + 16;

/// What a position that is ahead takes in memory.
const AHEAD_MEMORY_BYTES: usize = size_of::<usize>() * 2;

/// How much memory may be used beside the state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Beyond so many bytes, what is aside is shown first.
    pub(super) soft: usize,
    /// Beyond so many bytes the snapshot is given up.
    pub(super) hard: usize,
}

impl Bounds {
    /// For a state that takes so many bytes of memory.
    pub(super) fn of(memory_bytes: u64) -> Self {
        let part = |parts: u64| {
            usize::try_from(memory_bytes / parts)
                .unwrap_or(usize::MAX)
                .max(SNAPSHOT_ASIDE_BYTES_MIN)
        };
        let (soft, hard) = (part(SNAPSHOT_ASIDE_SOFT_PARTS), part(SNAPSHOT_ASIDE_HARD_PARTS));
        Self { soft, hard: hard.max(2 * SNAPSHOT_ASIDE_BYTES_MIN) }
    }
}

/// An item that is aside. Its key is still at its position unless it is here.
#[derive(Debug)]
struct Aside {
    key: Option<Bytes>,
    item: Item,
}

impl Aside {
    fn bytes(&self) -> usize {
        ASIDE_MEMORY_BYTES + self.item.value.len() + self.key.as_ref().map_or(0, Bytes::len)
    }
}

/// What the cursor finds next.
pub(super) enum Next<'a> {
    /// An item that still lies in the vector. [`Shadow::pass`] goes on to the next one.
    InPlace(&'a Bytes, &'a Item),
    /// An item that was aside, or that nobody else has any more; the cursor is behind it.
    Taken(Bytes, Item),
    /// Nothing at this position any more; the cursor is behind it.
    Nothing,
    /// All positions are done with.
    End,
}

#[derive(Debug)]
pub(super) struct Shadow {
    serial: u64,
    cursor: usize,
    end: usize,
    aside: BTreeMap<usize, Aside>,
    ahead: BTreeSet<usize>,
    /// What `aside` and `ahead` take in memory.
    bytes: usize,
    bounds: Bounds,
    cleared: Option<Cleared>,
}

/// All that was in the vector when it was cleared.
#[derive(Debug)]
struct Cleared {
    items: IntoIter<Bytes, Item>,
    /// Position of the next of `items`; it may be below the cursor.
    position: usize,
}

impl Shadow {
    /// For a snapshot of the first `end` positions. `serial` tells it from others.
    pub(super) fn new(serial: u64, end: usize, bounds: Bounds) -> Self {
        let (aside, ahead) = (BTreeMap::new(), BTreeSet::new());
        Self { serial, cursor: 0, end, aside, ahead, bytes: 0, bounds, cleared: None }
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// The item at `position` was overwritten or will be; its key stays there. `item` gives what lay there.
    #[inline]
    pub(super) fn keep(
        shadow: &mut Option<Box<Self>>,
        position: usize,
        item: impl FnOnce() -> Item,
    ) {
        if let Some(open) = shadow
            && open.wants(position)
        {
            open.put_aside(position, Aside { key: None, item: item() });
            Self::close_if_too_large(shadow);
        }
    }

    /// The key at `position` was removed from there.
    pub(super) fn keep_gone(
        shadow: &mut Option<Box<Self>>,
        position: usize,
        key: &Bytes,
        item: &Item,
    ) {
        let Some(open) = shadow else { return };
        if open.cleared.is_some() {
            return; // what lies at that position now has nothing to do with what is aside
        }
        if open.wants(position) {
            open.put_aside(position, Aside { key: Some(key.clone()), item: item.clone() });
        } else if let Some(aside) = open.aside.get_mut(&position)
            && aside.key.is_none()
        {
            aside.key = Some(key.clone());
            open.bytes += key.len();
        }
        Self::close_if_too_large(shadow);
    }

    /// All keys were removed; `items` is what they were.
    pub(super) fn keep_all(&mut self, items: Items) {
        if self.cleared.is_none() {
            self.cleared = Some(Cleared { items: items.into_iter(), position: 0 });
        }
    }

    /// Whether what lies at `position` is still to be shown and nowhere but there.
    fn wants(&self, position: usize) -> bool {
        (self.cursor..self.end).contains(&position)
            && self.cleared.is_none()
            && !self.aside.contains_key(&position)
            && !self.ahead.contains(&position)
    }

    fn put_aside(&mut self, position: usize, aside: Aside) {
        self.bytes += aside.bytes();
        self.aside.insert(position, aside);
    }

    fn close_if_too_large(shadow: &mut Option<Box<Self>>) {
        if shadow.as_ref().is_some_and(|open| open.bytes > open.bounds.hard) {
            *shadow = None;
        }
    }

    /// Whether so much is aside that it should be shown out of turn.
    pub(super) fn is_large(&self) -> bool {
        self.bytes > self.bounds.soft && !self.aside.is_empty() && self.cleared.is_none()
    }

    /// Takes out an item to be shown out of turn, and its position: the one whose turn would come last.
    pub(super) fn take_ahead(&mut self, items: &Items) -> Option<(usize, Bytes, Item)> {
        let (position, aside) = self.aside.pop_last()?;
        self.bytes -= aside.bytes();
        self.bytes += AHEAD_MEMORY_BYTES;
        self.ahead.insert(position);
        let key = aside.key.or_else(|| items.get_index(position).map(|(key, _)| key.clone()));
        let key = key.unwrap_or_else(|| panic!("position {position} has lost its key"));
        Some((position, key, aside.item))
    }

    /// What comes next in its turn. `items` is the vector as it is now.
    pub(super) fn next<'a>(&mut self, items: &'a Items) -> Next<'a> {
        let at = self.cursor;
        if at == self.end {
            return Next::End;
        }
        if let Some(cleared) = &mut self.cleared
            && cleared.position < at
        {
            // It was shown before the vector was cleared. One at a time: there may be many.
            cleared.items.next();
            cleared.position += 1;
            return Next::Nothing;
        }
        let cleared = match &mut self.cleared {
            None => None,
            Some(cleared) => {
                cleared.position += 1;
                cleared.items.next()
            }
        };
        if self.ahead.first() == Some(&at) {
            self.ahead.pop_first();
            self.bytes -= AHEAD_MEMORY_BYTES;
            self.cursor += 1;
            return Next::Nothing;
        }
        if self.aside.first_key_value().is_some_and(|(position, _)| *position == at)
            && let Some((_, aside)) = self.aside.pop_first()
        {
            self.bytes -= aside.bytes();
            self.cursor += 1;
            let in_place =
                || cleared.map(|(key, _)| key).or_else(|| Some(items.get_index(at)?.0.clone()));
            let key = aside.key.or_else(in_place);
            let key = key.unwrap_or_else(|| panic!("position {at} has lost its key"));
            return Next::Taken(key, aside.item);
        }
        if let Some((key, item)) = cleared {
            self.cursor += 1;
            return Next::Taken(key, item);
        }
        let in_place = items.get_index(at);
        let (key, item) = in_place.unwrap_or_else(|| {
            panic!("position {at} of {} is neither aside nor among {} keys", self.end, items.len())
        });
        Next::InPlace(key, item)
    }

    /// Goes on behind an item that still lies in the vector.
    pub(super) fn pass(&mut self) {
        self.cursor += 1;
    }
}
