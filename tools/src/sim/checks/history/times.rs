//! What can be known of the time of each shard's log: the largest clock in any entry so far.

use std::collections::BTreeMap;

/// Between which bounds the time of the log was while an operation was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it took effect, the time of the log was this, or later.
    pub low: u64,
    /// When it took effect, the time of the log was this, or earlier.
    pub high: u64,
    /// The clock that the operation itself carried.
    pub clock: u64,
}

impl Times {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { low: 0, high: u64::MAX, clock: 0 };
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It was applied.
    Applied,
    /// It surely was not, and will not be.
    Dropped,
    /// Nobody knows.
    Unknown,
}

/// Bounds of the time of one shard's log.
#[derive(Clone, Debug, Default)]
pub struct LogTime {
    low: u64,
    /// Clocks of entries that may have been applied and are not under way any more.
    settled: u64,
    /// Clocks of entries under way, and how many have each.
    open: BTreeMap<u64, u32>,
}

impl LogTime {
    /// An entry with this clock is proposed.
    pub fn begin(&mut self, clock: u64) {
        *self.open.entry(clock).or_insert(0) += 1;
    }

    /// Its outcome is known, or will never be.
    pub fn end(&mut self, clock: u64, entry: Entry) {
        if let Some(count) = self.open.get_mut(&clock) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&clock);
            }
        }
        if entry != Entry::Dropped {
            self.settled = self.settled.max(clock);
        }
        if entry == Entry::Applied {
            self.low = self.low.max(clock);
        }
    }

    /// The time of the log is this, or later.
    #[must_use]
    pub fn low(&self) -> u64 {
        self.low
    }

    /// The time of the log is this, or earlier.
    #[must_use]
    pub fn high(&self) -> u64 {
        self.open.last_key_value().map_or(0, |(clock, _)| *clock).max(self.settled)
    }
}
