//! What one run is to do, shared read-only by its threads, and the moments that structure it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::slots::SLOTS;
use super::topology::Topology;
use super::workload::{Codec, KeySpace};

/// One run. All times inside the tool are nanoseconds since [`Plan::start`].
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time zero: warm-up begins.
    pub start: Instant,
    /// Not counted at the beginning.
    pub warmup: Duration,
    /// Counted after it.
    pub duration: Duration,
    /// Ends the run early, after so many requests.
    pub requests: Option<u64>,
    /// Independent clients, over all threads.
    pub clients: u32,
    /// Commands that a client sends before it waits for replies.
    pub pipeline: usize,
    /// Threads that share the clients.
    pub threads: u32,
    /// Requests per second over all clients (open loop); `None` is a closed loop.
    pub rate: Option<f64>,
    /// Reads among 100 requests.
    pub read_percent: u32,
    /// Whether values that are read get checked.
    pub check: bool,
    /// How long a reply may take before its connection is given up.
    pub timeout: Duration,
    /// How long a request that was refused for now is tried again.
    pub give_up: Duration,
    /// Seed of the choice of keys.
    pub seed: u64,
    /// Each key in its turn instead of at random: to fill a store.
    pub in_turn: bool,
    /// Numbers are handed on for each of these intervals.
    pub interval: Duration,
    /// Ends the run early, at this time; `u64::MAX` is never.
    pub stop_at: Arc<AtomicU64>,
    /// The keys.
    pub keys: Arc<KeySpace>,
    /// Builds commands and judges values.
    pub codec: Codec,
    /// Who owns which slot.
    pub topology: Arc<Topology>,
}

impl Plan {
    /// Nanoseconds since time zero.
    pub fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// When counting begins.
    pub fn measure_from(&self) -> u64 {
        nanos(self.warmup)
    }

    /// When counting ends and no new request starts.
    pub fn measure_to(&self) -> u64 {
        nanos(self.warmup + self.duration).min(self.stop_at.load(Ordering::Relaxed))
    }

    /// The slot whose owner serves client number `client`: clients are spread over the slots, and so
    /// over the servers by their share of them.
    pub fn home_slot(&self, client: u32) -> u16 {
        let slot = (2 * u64::from(client) + 1) * SLOTS as u64 / (2 * u64::from(self.clients));
        u16::try_from(slot).expect("a client's number is less than their count")
    }

    /// When arrival `round` of client number `client` is due in an open loop. The clients take
    /// turns, so arrivals are evenly spaced over the whole run.
    pub fn due(&self, rate: f64, client: u32, round: u64) -> u64 {
        let number = round as f64 * f64::from(self.clients) + f64::from(client);
        (number * 1e9 / rate) as u64
    }
}

/// `duration` in nanoseconds; durations here are hours at most.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than 584 years")
}
