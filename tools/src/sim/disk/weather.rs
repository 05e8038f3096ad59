//! How a device behaves by itself: latencies and small troubles, drawn once for each simulation.

use std::time::Duration;

use fastrand::Rng;

/// Time that an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The least.
    pub base: Duration,
    /// Up to so much more; one operation in 16 takes up to eight times of it.
    pub jitter: Duration,
}

impl Latency {
    /// Always the same time.
    #[must_use]
    pub const fn fixed(base: Duration) -> Self {
        Self { base, jitter: Duration::ZERO }
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> Duration {
        let most = self.jitter.as_nanos() as u64;
        if most == 0 {
            return self.base;
        }
        let factor = if rng.u8(..16) == 0 { 8 } else { 1 };
        self.base + Duration::from_nanos(rng.u64(..=most * factor))
    }
}

/// What readers see after a failed sync of the pages it should have made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedSync {
    /// The new content, marked clean (ext4, XFS).
    Keeps,
    /// The old content (btrfs).
    Reverts,
}

/// How a device behaves by itself. Probabilities are chances per operation from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskWeather {
    /// Reads.
    pub read: Latency,
    /// Writes, without making them durable.
    pub write: Latency,
    /// What durability takes on top: of a durable write, or of a sync.
    pub flush: Latency,
    /// Opening, listing, renaming, removing, and looking at sizes.
    pub names: Latency,
    /// Throughput that all operations share; `None` for no limit.
    pub bytes_per_second: Option<u64>,
    /// Chance that an operation hangs.
    pub stall_chance: f64,
    /// How long it hangs then, at most.
    pub stall_most: Duration,
    /// Chance that a transfer is answered with "try again".
    pub again_chance: f64,
    /// Chance that a transfer is short.
    pub short_chance: f64,
    /// What a failed sync leaves for readers.
    pub failed_sync: FailedSync,
    /// Whether a process that starts anew still reads pages that a failed sync marked clean. So it is
    /// behind a page cache; with O_DIRECT there is none, and reads tell what the device has.
    pub page_cache: bool,
    /// Whether a sector that is written when power is cut may be left with garbage.
    pub garbage: bool,
}

impl DiskWeather {
    /// A quick disk without troubles.
    #[must_use]
    pub fn calm() -> Self {
        let quick = Latency::fixed(Duration::from_micros(20));
        Self {
            read: quick,
            write: quick,
            flush: Latency::fixed(Duration::from_micros(100)),
            names: quick,
            bytes_per_second: None,
            stall_chance: 0.0,
            stall_most: Duration::ZERO,
            again_chance: 0.0,
            short_chance: 0.0,
            failed_sync: FailedSync::Keeps,
            page_cache: false,
            garbage: false,
        }
    }

    /// Some weather. Each trouble is absent in many seeds, so that the others show what they do alone.
    ///
    /// | setting      | usual                 | odd                                      |
    /// |--------------|-----------------------|------------------------------------------|
    /// | latencies    | 10 us to 2 ms         | nothing at all; 20 to 50 ms for flushes  |
    /// | throughput   | no limit              | 1 to 64 MiB/s                            |
    /// | stalls       | none                  | one in 1,000 to 100,000, up to 4 s       |
    /// | try again    | none                  | one in 5 to 1,000 transfers              |
    /// | short        | none                  | one in 3 to 1,000 transfers              |
    /// | garbage      | none                  | in one seed of four                      |
    ///
    /// [`DiskWeather::page_cache`] is never drawn: what a failed flush leaves there, no log can survive.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let mut weather = Self::calm();
        let device_us = match rng.u8(..8) {
            0 => 0,
            1 => rng.u64(500..2000),
            _ => rng.u64(10..200),
        };
        let around = |rng: &mut Rng, most: u64| {
            let base = Duration::from_micros(rng.u64(..=most));
            Latency { base, jitter: Duration::from_micros(rng.u64(..=most * 2)) }
        };
        weather.read = around(rng, device_us);
        weather.write = around(rng, device_us);
        weather.names = around(rng, device_us);
        weather.flush = match rng.u8(..8) {
            0 => {
                let most = rng.u64(20_000..50_000);
                around(rng, most)
            }
            _ => around(rng, device_us * 4),
        };
        if rng.u8(..4) == 0 {
            weather.bytes_per_second = Some(rng.u64(1..=64) << 20);
        }
        let sometimes = |rng: &mut Rng, most: u64, least: u64| match rng.bool() {
            true => 1.0 / rng.u64(most..=least) as f64,
            false => 0.0,
        };
        weather.stall_chance = sometimes(rng, 1000, 100_000);
        weather.stall_most = Duration::from_millis(rng.u64(50..4000));
        weather.again_chance = sometimes(rng, 5, 1000);
        weather.short_chance = sometimes(rng, 3, 1000);
        weather.failed_sync = if rng.bool() { FailedSync::Keeps } else { FailedSync::Reverts };
        weather.garbage = rng.u8(..4) == 0;
        weather
    }
}

/// Whether something of this chance happens. Draws nothing if it can't.
pub(super) fn happens(rng: &mut Rng, chance: f64) -> bool {
    chance > 0.0 && rng.f64() < chance
}
