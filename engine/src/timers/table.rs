//! [`Table`]: all timers of a shard, changed by one entry at a time.
//!
//! ```text
//! every timer is in `by_time` at its time, and nothing else is       `bytes` is the sum of what they count for
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::TimerId;
use super::bounds::TimerLimits;
use crate::limits::TIMER_COST_BYTES;

/// One timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    /// When it is due, milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) payload: Bytes,
}

impl Timer {
    /// What it counts for.
    pub(super) fn cost(&self) -> u64 {
        TIMER_COST_BYTES + self.payload.len() as u64
    }
}

/// Why a timer was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    TooLarge,
}

/// Why a timer did not fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfired {
    Unknown,
    NotDue,
}

/// All timers of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    limits: TimerLimits,
    timers: BTreeMap<TimerId, Timer>,
    by_time: BTreeSet<(u64, TimerId)>,
    bytes: u64,
}

impl Table {
    /// A table with these limits, and no timer.
    pub(super) fn restored(limits: TimerLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(super) fn limits(&self) -> TimerLimits {
        self.limits
    }

    /// How many timers there are.
    pub(super) fn len(&self) -> usize {
        self.timers.len()
    }

    /// All timers as they are now.
    pub(super) fn share(&self) -> Vec<(TimerId, Timer)> {
        self.timers.iter().map(|(id, timer)| (*id, timer.clone())).collect()
    }

    /// Adds a timer whatever the limits.
    pub(super) fn insert(&mut self, id: TimerId, timer: Timer) {
        self.bytes += timer.cost();
        self.by_time.insert((timer.at_ms, id));
        let before = self.timers.insert(id, timer);
        assert!(before.is_none(), "timer {id} is there already");
    }

    /// Makes the timer of the entry with this index.
    pub(super) fn set(&mut self, id: TimerId, at_ms: u64, payload: &[u8]) -> Result<(), Refused> {
        if payload.len() as u64 > self.limits.payload_bytes {
            return Err(Refused::TooLarge);
        }
        let cost = TIMER_COST_BYTES + payload.len() as u64;
        let is_full = self.timers.len() as u64 >= self.limits.timers;
        if is_full || self.bytes + cost > self.limits.bytes {
            return Err(Refused::Full);
        }
        // A copy: the payload may be a slice of something much larger.
        self.insert(id, Timer { at_ms, payload: Bytes::copy_from_slice(payload) });
        Ok(())
    }

    /// Removes a timer. False if there is none.
    pub(super) fn cancel(&mut self, id: TimerId) -> bool {
        self.remove(id).is_some()
    }

    /// Removes a timer if it is due at this time; gives what the machine is to get.
    pub(super) fn fire(&mut self, id: TimerId, now_ms: u64) -> Result<Bytes, Unfired> {
        let timer = self.timers.get(&id).ok_or(Unfired::Unknown)?;
        if timer.at_ms > now_ms && cfg!(not(mutant = "timer-fires-early")) {
            return Err(Unfired::NotDue);
        }
        if cfg!(mutant = "timer-not-removed") {
            return Ok(timer.payload.clone());
        }
        if cfg!(mutant = "timer-fires-again-after-snapshot") {
            self.by_time.remove(&(timer.at_ms, id));
            return Ok(timer.payload.clone());
        }
        self.remove(id).map(|timer| timer.payload).ok_or(Unfired::Unknown)
    }

    /// New limits, which make sense. The timers that are there stay.
    pub(super) fn configure(&mut self, limits: TimerLimits) {
        self.limits = limits;
    }

    /// When the next timer is due.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }

    /// The timers that are due at this time, those first that are due longest.
    pub(super) fn due(&self, now_ms: u64) -> impl Iterator<Item = TimerId> {
        self.by_time.iter().take_while(move |(at_ms, _)| *at_ms <= now_ms).map(|(_, id)| *id)
    }

    fn remove(&mut self, id: TimerId) -> Option<Timer> {
        let timer = self.timers.remove(&id)?;
        self.by_time.remove(&(timer.at_ms, id));
        self.bytes -= timer.cost();
        Some(timer)
    }

    /// Checks what holds between the fields.
    #[cfg(test)]
    pub(super) fn assert_whole(&self) {
        assert_eq!(self.by_time.len(), self.timers.len());
        assert!(self.by_time.iter().all(|(at_ms, id)| self.timers[id].at_ms == *at_ms));
        assert_eq!(self.bytes, self.timers.values().map(Timer::cost).sum::<u64>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let bytes = 3 * TIMER_COST_BYTES + 10;
        Table::restored(TimerLimits { timers: 3, payload_bytes: 5, bytes })
    }

    #[test]
    fn timers_fire_once_and_not_early() {
        let mut table = table();
        for (id, at_ms) in [(7, 100), (8, 50), (9, 100)] {
            assert_eq!(table.set(TimerId(id), at_ms, b"x"), Ok(()));
        }
        assert_eq!(table.next_ms(), Some(50));
        assert_eq!(table.due(49).count(), 0);
        assert_eq!(table.due(100).collect::<Vec<_>>(), [TimerId(8), TimerId(7), TimerId(9)]);
        assert_eq!(table.fire(TimerId(7), 99), Err(Unfired::NotDue));
        assert_eq!(table.fire(TimerId(7), 100), Ok(Bytes::from_static(b"x")));
        assert_eq!(table.fire(TimerId(7), 100), Err(Unfired::Unknown));
        assert!(table.cancel(TimerId(9)) && !table.cancel(TimerId(9)));
        assert_eq!(table.fire(TimerId(9), u64::MAX), Err(Unfired::Unknown));
        table.assert_whole();
        assert_eq!((table.len(), table.next_ms()), (1, Some(50)));
    }

    #[test]
    fn what_goes_beyond_the_limits_is_not_set() {
        let mut table = table();
        assert_eq!(table.set(TimerId(1), 0, b"123456"), Err(Refused::TooLarge));
        assert_eq!(table.set(TimerId(2), 0, b"12345"), Ok(()));
        assert_eq!(table.set(TimerId(3), 0, b"12345"), Ok(()));
        assert_eq!(table.set(TimerId(4), 0, b"1"), Err(Refused::Full), "by bytes");
        assert_eq!(table.set(TimerId(5), 0, b""), Ok(()));
        assert!(table.cancel(TimerId(2)));
        assert_eq!(table.set(TimerId(6), 0, b""), Ok(()));
        assert_eq!(table.set(TimerId(7), 0, b""), Err(Refused::Full), "by number");
        table.configure(TimerLimits { timers: 0, payload_bytes: 0, bytes: 0 });
        table.assert_whole();
        assert_eq!(table.len(), 3, "those that are there stay");
        assert_eq!(table.set(TimerId(8), 0, b""), Err(Refused::Full));
    }
}
