//! The clocks of a simulated machine: they run a little fast or slow, and the wall clock jumps.

use std::cell::Cell;
use std::time::Duration;

/// Where the wall clocks begin, milliseconds since 1970: early enough that a machine which asks its real
/// clock is far off.
pub(super) const UNIX_START_MS: u64 = 1_000_000_000_000;

const PPM: i128 = 1_000_000;

/// The clocks of one machine. They go on while its processes come and go.
#[derive(Debug, Default)]
pub struct HostClock {
    /// Deviation in parts per million, and since when: true time and the time shown then.
    ppm: Cell<i32>,
    since: Cell<(Duration, Duration)>,
    wall_offset_ms: Cell<i64>,
}

impl HostClock {
    /// The monotonic time that the machine shows at the true time `now`.
    #[must_use]
    pub fn monotonic(&self, now: Duration) -> Duration {
        let (since, shown) = self.since.get();
        shown + scale(now.saturating_sub(since), PPM + i128::from(self.ppm.get()))
    }

    /// The wall clock that the machine shows at the true time `now`, milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self, now: Duration) -> u64 {
        let shown = UNIX_START_MS + self.monotonic(now).as_millis() as u64;
        shown.saturating_add_signed(self.wall_offset_ms.get())
    }

    /// How long it truly takes until the machine's clock has moved by `shown`, at least.
    #[must_use]
    pub fn truly(&self, shown: Duration) -> Duration {
        let rate = PPM + i128::from(self.ppm.get());
        // Rounded up: who sleeps for the rest of a time must not find some of it left for ever.
        let nanos = (shown.as_nanos() as i128 * PPM + rate - 1) / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Lets the clocks deviate by so many parts per million from now on.
    pub fn set_rate(&self, now: Duration, ppm: i32) {
        self.since.set((now, self.monotonic(now)));
        self.ppm.set(ppm);
    }

    /// Undoes all jumps of the wall clock.
    pub fn set_right(&self) {
        self.wall_offset_ms.set(0);
    }

    /// Moves the wall clock.
    pub fn jump(&self, ms: i64) {
        self.wall_offset_ms.set(self.wall_offset_ms.get().saturating_add(ms));
    }
}

fn scale(duration: Duration, by: i128) -> Duration {
    let nanos = duration.as_nanos() as i128 * by / PPM;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_jumps_when_its_rate_changes() {
        let clock = HostClock::default();
        let at = Duration::from_secs;
        clock.set_rate(at(10), 100_000);
        assert_eq!(clock.monotonic(at(10)), at(10));
        assert_eq!(clock.monotonic(at(20)), at(21));
        clock.set_rate(at(20), -100_000);
        assert_eq!(clock.monotonic(at(20)), at(21));
        assert_eq!(clock.monotonic(at(30)), at(30));
        assert_eq!(clock.truly(at(9)), at(10));
        clock.set_rate(at(30), 100_000);
        assert_eq!(clock.truly(Duration::from_nanos(1)), Duration::from_nanos(1));
    }

    #[test]
    fn the_wall_clock_jumps_both_ways() {
        let clock = HostClock::default();
        let before = clock.unix_ms(Duration::ZERO);
        clock.jump(-5000);
        assert_eq!(clock.unix_ms(Duration::from_secs(1)), before - 4000);
        clock.set_right();
        assert_eq!(clock.unix_ms(Duration::ZERO), before);
    }
}
