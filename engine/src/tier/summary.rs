//! What a sealed segment holds, in short, so that a restart need not read it.
//!
//! A summary is a list of items in the order of the log: runs of entries, bases, and of each shard that
//! has one in the segment the newest hard state. Whoever takes the items one by one has the same index as
//! one who takes the segment's records one by one, for runs are cut by the same rule here and there. Only
//! the payloads are not in memory then. The bytes: `docs/log-records.md`.
//!
//! A summary is an accelerator. One that is not understood is as good as none: the records are read.

use std::collections::{BTreeMap, VecDeque};

use coracle_wal::Lsn;

use super::place::{Place, Stretch};
use super::records::{decode_hard_state, hard_state_head};
use super::runs::Run;
use crate::limits::{SUMMARY_ITEMS_MAX, TERM_MAX};
use crate::raft::{Base, HardState};
use crate::{LogIndex, ShardId, Term};

const VERSION: u8 = 1;
const TAG_ENTRIES: u8 = 0;
const TAG_KEPT: u8 = 1;
const TAG_HARD_STATE: u8 = 2;
const TAG_BASE: u8 = 3;
const TAG_BASE_RESET: u8 = 4;

/// A part of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Entries, new or written again.
    Run { shard: ShardId, run: Run, kept: bool },
    /// The newest hard state, and its batch.
    HardState { shard: ShardId, state: HardState, at: Lsn },
    /// A base, and its batch.
    Base { shard: ShardId, base: Base, at: Lsn },
}

impl Item {
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Self::Run { shard, .. } | Self::HardState { shard, .. } | Self::Base { shard, .. } => {
                *shard
            }
        }
    }
}

/// The items of one stretch, which lies in one segment.
#[derive(Clone, Debug)]
struct Part {
    stretch: Stretch,
    /// Runs and bases.
    items: Vec<Item>,
    /// The item with the run that the next entry of a shard may go on with.
    open: BTreeMap<ShardId, usize>,
    hard_states: BTreeMap<ShardId, Item>,
    /// It has what no summary can say.
    spoiled: bool,
}

/// Collects the items of the segments that have no summary yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Summaries {
    parts: VecDeque<Part>,
    count: usize,
    /// Stretches that begin before this were given up.
    lost_before: Lsn,
}

impl Summaries {
    /// Takes an item of one record.
    pub(super) fn collect(&mut self, stretch: Stretch, item: Item) {
        if stretch.0 < self.lost_before {
            return;
        }
        if self.count >= SUMMARY_ITEMS_MAX {
            self.give_up_oldest();
            if stretch.0 < self.lost_before {
                return;
            }
        }
        if self.parts.back().is_none_or(|part| part.stretch != stretch) {
            let (items, open, hard_states, spoiled) = Default::default();
            self.parts.push_back(Part { stretch, items, open, hard_states, spoiled });
        }
        if let Some(part) = self.parts.back_mut() {
            self.count += usize::from(part.collect(item));
        }
    }

    /// The stretch, of which an item was just collected, has a record whose content a start needs.
    pub(super) fn spoil(&mut self, stretch: Stretch) {
        if let Some(part) = self.parts.back_mut().filter(|part| part.stretch == stretch) {
            part.spoiled = true;
        }
    }

    fn give_up_oldest(&mut self) {
        if let Some(part) = self.parts.pop_front() {
            self.count -= part.count();
            self.lost_before = Lsn(part.stretch.0.0 + 1);
        }
    }

    /// The summary of the segment with the records from `start` to `end`; see
    /// [`Index::take_summary`](super::Index::take_summary).
    pub(super) fn take(&mut self, start: Lsn, end: Lsn, bytes_max: usize) -> Option<Vec<u8>> {
        let (mut items, mut spoiled) = (Vec::new(), false);
        while self.parts.front().is_some_and(|part| part.stretch.0 < end) {
            let Some(part) = self.parts.pop_front() else { break };
            self.count -= part.count();
            if part.stretch.0 >= start {
                spoiled |= part.spoiled;
                items.extend(part.items);
                items.extend(part.hard_states.into_values());
            }
        }
        sometimes!(summary_spoiled, spoiled);
        if items.is_empty() || spoiled {
            return None; // not seen: that is not the same as nothing there
        }
        let bytes = (start >= self.lost_before).then(|| encode(start, &items));
        let bytes = bytes.filter(|bytes| bytes.len() <= bytes_max);
        sometimes!(summary_too_large, bytes.is_none());
        bytes
    }
}

impl Part {
    fn count(&self) -> usize {
        self.items.len() + self.hard_states.len()
    }

    /// Whether there is one item more now.
    fn collect(&mut self, item: Item) -> bool {
        let shard = item.shard();
        match &item {
            Item::HardState { .. } => return self.hard_states.insert(shard, item).is_none(),
            Item::Base { .. } => drop(self.open.remove(&shard)),
            Item::Run { run, kept, .. } => {
                if let Some(at) = self.open.get(&shard)
                    && let Some(Item::Run { run: open, kept: open_kept, .. }) =
                        self.items.get_mut(*at)
                    && open_kept == kept
                    && open.takes(run)
                {
                    open.extend(run);
                    return false;
                }
                self.open.insert(shard, self.items.len());
            }
        }
        self.items.push(item);
        true
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn encode(start: Lsn, items: &[Item]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&start.0.to_le_bytes());
    for item in items {
        let (tag, at) = match item {
            Item::Run { run, kept, .. } => (if *kept { TAG_KEPT } else { TAG_ENTRIES }, run.batch),
            Item::HardState { at, .. } => (TAG_HARD_STATE, *at),
            Item::Base { base, at, .. } => {
                (if base.reset { TAG_BASE_RESET } else { TAG_BASE }, *at)
            }
        };
        bytes.push(tag);
        put(&mut bytes, u64::from(item.shard().0));
        put(&mut bytes, at.0 - start.0);
        match item {
            Item::Run { run, .. } => {
                put(&mut bytes, run.first.0);
                put(&mut bytes, run.last.0 - run.first.0);
                put(&mut bytes, run.term.0);
                put(&mut bytes, run.end.0 - run.batch.0);
                put(&mut bytes, run.bytes);
            }
            Item::HardState { state, .. } => {
                let head = hard_state_head(state);
                put(&mut bytes, head.len() as u64);
                bytes.extend_from_slice(&head);
            }
            Item::Base { base, .. } => {
                put(&mut bytes, base.index.0);
                put(&mut bytes, base.term.0);
            }
        }
    }
    bytes
}

/// Reads a summary of the segment with the records from `start` to `end`. `None` if this version did
/// not write it for this segment.
pub(super) fn decode(bytes: &[u8], start: Lsn, end: Lsn) -> Option<Vec<Item>> {
    let (&version, rest) = bytes.split_first()?;
    let (origin, rest) = rest.split_first_chunk::<8>()?;
    if version != VERSION || u64::from_le_bytes(*origin) != start.0 {
        return None;
    }
    let mut reader = Reader { rest, start, end };
    let mut items = Vec::new();
    while !reader.rest.is_empty() {
        items.push(reader.item()?);
    }
    Some(items)
}

struct Reader<'a> {
    rest: &'a [u8],
    start: Lsn,
    end: Lsn,
}

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn position(&mut self, from: Lsn) -> Option<Lsn> {
        from.0.checked_add(self.number()?).map(Lsn).filter(|lsn| *lsn <= self.end)
    }

    fn index(&mut self) -> Option<LogIndex> {
        self.number().filter(|index| (1..u64::MAX).contains(index)).map(LogIndex)
    }

    fn term(&mut self) -> Option<Term> {
        self.number().filter(|term| *term <= TERM_MAX).map(Term)
    }

    fn item(&mut self) -> Option<Item> {
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        let shard = ShardId(u32::try_from(self.number()?).ok()?);
        let at = self.position(self.start)?;
        Some(match tag {
            TAG_ENTRIES | TAG_KEPT => {
                let first = self.index()?;
                let more = self.number()?;
                let last = first.0.checked_add(more).filter(|last| *last < u64::MAX)?;
                let term = self.term()?;
                let place = Place { batch: at, end: self.position(at)? };
                let bytes = self.number()?;
                // What the records take lies within what the run reaches over.
                if bytes > place.end.0 - at.0 || more >= bytes {
                    return None;
                }
                let run = Run::new(first, LogIndex(last), term, place, bytes);
                Item::Run { shard, run, kept: tag == TAG_KEPT }
            }
            TAG_HARD_STATE => {
                let length = usize::try_from(self.number()?).ok()?;
                let (head, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                Item::HardState { shard, state: decode_hard_state(head)?, at }
            }
            TAG_BASE | TAG_BASE_RESET => {
                let index = LogIndex(self.number().filter(|index| *index < u64::MAX)?);
                let term = self.term()?;
                if index == LogIndex(0) && term > Term(0) {
                    return None;
                }
                let base = Base { index, term, reset: tag == TAG_BASE_RESET };
                Item::Base { shard, base, at }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
