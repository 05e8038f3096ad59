//! How the network of one seed behaves when nobody interferes, and how often frames suffer.

use std::time::Duration;

use fastrand::Rng;

/// How often a frame on its way meets a fault; each a probability from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FrameRates {
    /// The frame never arrives.
    pub drop: f64,
    /// It arrives twice in a row.
    pub duplicate: f64,
    /// Frames that were sent later arrive before it.
    pub delay: f64,
    /// An older frame of the same connection arrives again, before it.
    pub replay: f64,
    /// A frame of an earlier connection to the same address arrives before it.
    pub ghost: f64,
    /// Some of its bits flip.
    pub corrupt: f64,
}

impl FrameRates {
    /// Nothing ever happens to a frame.
    pub const NONE: Self =
        Self { drop: 0.0, duplicate: 0.0, delay: 0.0, replay: 0.0, ghost: 0.0, corrupt: 0.0 };

    pub(super) fn total(&self) -> f64 {
        self.drop + self.duplicate + self.delay + self.replay + self.ghost + self.corrupt
    }

    fn scaled(self, factor: f64) -> Self {
        Self {
            drop: self.drop * factor,
            duplicate: self.duplicate * factor,
            delay: self.delay * factor,
            replay: self.replay * factor,
            ghost: self.ghost * factor,
            corrupt: self.corrupt * factor,
        }
    }
}

/// The network of one seed. Every directed pair of hosts draws its own figures from these.
#[derive(Clone, Debug, PartialEq)]
pub struct NetWeather {
    /// Shortest and longest usual time on the way, in microseconds; drawn once per directed pair.
    pub latency_us: (u64, u64),
    /// Added to it at random for each packet, as a share of it.
    pub jitter: f64,
    /// How often a packet takes much longer.
    pub spike: f64,
    /// And how much longer at most.
    pub spike_max: Duration,
    /// Capacity of a directed pair.
    pub bytes_per_second: u64,
    /// Bytes that may be under way or unread in one direction of a stream; drawn once per direction.
    pub window_bytes: (usize, usize),
    /// How often a packet is cut in two, or a read gives less than there is.
    pub chop: f64,
    /// Such a read gives at most so many bytes.
    pub chop_bytes_max: usize,
    /// Streams that wait to be accepted before more are turned away in silence.
    pub backlog: usize,
    /// What happens to frames. A directed pair takes them times 0, 1 or 2.
    pub frames: FrameRates,
    /// A frame that lets others pass waits no longer than this.
    pub frame_delay_max: Duration,
    /// How often a packet is the one at which its stream is reset.
    pub reset: f64,
    /// How often a packet is the one before a pause during which nothing arrives on its directed pair.
    pub blackout: f64,
    /// Longest such pause.
    pub blackout_max: Duration,
    /// How often a packet is the one after which its receivers read nothing for a while.
    pub stall: f64,
    /// Longest such time.
    pub stall_max: Duration,
    /// Share of streams that are reset when a block ends under which their bytes were held.
    pub reset_after_block: f64,
    /// Share of streams that end with a reset, not in order, when their process dies.
    pub reset_at_death: f64,
}

impl NetWeather {
    /// A network without any fault: every packet takes 100 to 200 microseconds.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            latency_us: (100, 100),
            jitter: 1.0,
            spike: 0.0,
            spike_max: Duration::ZERO,
            bytes_per_second: 1 << 30,
            window_bytes: (1 << 20, 1 << 20),
            chop: 0.0,
            chop_bytes_max: 1,
            backlog: 1024,
            frames: FrameRates::NONE,
            frame_delay_max: Duration::ZERO,
            reset: 0.0,
            blackout: 0.0,
            blackout_max: Duration::ZERO,
            stall: 0.0,
            stall_max: Duration::ZERO,
            reset_after_block: 0.0,
            reset_at_death: 0.0,
        }
    }

    /// The network of a seed: each kind of trouble is there in some seeds and absent in others, because
    /// what always happens together hides what happens alone.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let latency_min = log_uniform(rng, 30.0, 1_000.0);
        let latency_max = latency_min * log_uniform(rng, 1.0, 20.0);
        let window_min = match rng.u8(..10) {
            0 => rng.usize(200..2_000), // less than a frame with entries
            1..=3 => rng.usize(4 << 10..64 << 10),
            _ => rng.usize(64 << 10..1 << 20),
        };
        let window_max = window_min * rng.usize(1..=8);
        Self {
            latency_us: (latency_min as u64, latency_max as u64),
            jitter: log_uniform(rng, 0.05, 3.0),
            spike: sometimes(rng, 0.5, 0.0001, 0.02),
            spike_max: Duration::from_micros(log_uniform(rng, 2_000.0, 500_000.0) as u64),
            bytes_per_second: log_uniform(rng, 1e6, 1e10) as u64,
            window_bytes: (window_min, window_max),
            chop: sometimes(rng, 0.5, 0.01, 1.0),
            chop_bytes_max: log_uniform(rng, 1.0, 4096.0) as usize,
            backlog: rng.usize(4..=64),
            frames: FrameRates {
                drop: sometimes(rng, 0.4, 0.0005, 0.3),
                duplicate: sometimes(rng, 0.4, 0.0005, 0.3),
                delay: sometimes(rng, 0.4, 0.0005, 0.2),
                replay: sometimes(rng, 0.4, 0.0005, 0.3),
                ghost: sometimes(rng, 0.4, 0.0005, 0.1),
                corrupt: sometimes(rng, 0.3, 0.00005, 0.005),
            },
            frame_delay_max: Duration::from_micros(log_uniform(rng, 1_000.0, 3_000_000.0) as u64),
            reset: sometimes(rng, 0.3, 0.00002, 0.002),
            blackout: sometimes(rng, 0.3, 0.00002, 0.001),
            blackout_max: Duration::from_micros(log_uniform(rng, 10_000.0, 5_000_000.0) as u64),
            stall: sometimes(rng, 0.3, 0.00002, 0.001),
            stall_max: Duration::from_micros(log_uniform(rng, 10_000.0, 2_000_000.0) as u64),
            reset_after_block: sometimes(rng, 0.5, 0.1, 1.0),
            reset_at_death: rng.f64(),
        }
    }

    /// The figures that frames meet on one directed pair.
    pub(super) fn frames_of_a_path(&self, rng: &mut Rng) -> FrameRates {
        if self.frames.total() == 0.0 {
            return FrameRates::NONE;
        }
        self.frames.scaled([0.0, 1.0, 1.0, 2.0][rng.usize(..4)])
    }
}

/// Evenly spread over the orders of magnitude between two bounds.
fn log_uniform(rng: &mut Rng, min: f64, max: f64) -> f64 {
    (min.ln() + (max.ln() - min.ln()) * rng.f64()).exp()
}

/// 0 except with probability `chance`.
fn sometimes(rng: &mut Rng, chance: f64, min: f64, max: f64) -> f64 {
    if rng.f64() < chance { log_uniform(rng, min, max) } else { 0.0 }
}
