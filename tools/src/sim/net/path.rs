//! One direction between two hosts: how long bytes take, and what stands in their way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use super::HostId;
use super::frames::Fate;
use super::weather::{FrameRates, NetWeather};

/// As many frames a piece of a snapshot stands for when it is damaged.
const BULK_PIECE_FRAMES: f64 = 20.0;

/// Frames of a direction that can be sent once more.
const HISTORY_FRAMES_MAX: usize = 48;
/// Longer frames are not kept: they would hold too much memory.
const HISTORY_FRAME_BYTES_MAX: usize = 64 << 10;

/// Who blocked or stalled a path; lifted one by one.
#[derive(Clone, Copy)]
pub(super) enum By {
    Plan = 1,
    Weather = 2,
}

/// Something that the weather does to a path or to the stream of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incident {
    Reset,
    Blackout(Duration),
    Stall(Duration),
}

struct Old {
    address: Rc<str>,
    connection: u64,
    frame: Bytes,
}

/// One direction between two hosts.
pub(super) struct Path {
    pub(super) from: HostId,
    pub(super) to: HostId,
    rng: RefCell<Rng>,
    latency_ns: u64,
    jitter: f64,
    spike: Cell<f64>,
    spike_max: Duration,
    ns_per_byte: f64,
    busy_until: Cell<Duration>,
    clog: Cell<f64>,
    blocked: Cell<u8>,
    stalled: Cell<u8>,
    rates: Cell<FrameRates>,
    /// Sum of the rates, to be quick where nothing ever happens.
    rates_total: Cell<f64>,
    forced: RefCell<VecDeque<Fate>>,
    history: RefCell<VecDeque<Old>>,
    remembers: Cell<bool>,
    chop: f64,
    chop_bytes_max: usize,
    window_bytes: (usize, usize),
    frame_delay_max: Duration,
    reset: f64,
    blackout: (f64, Duration),
    stall: (f64, Duration),
    incidents: Cell<bool>,
}

impl Path {
    pub(super) fn new(from: HostId, to: HostId, weather: &NetWeather, mut rng: Rng) -> Self {
        let (min, max) = weather.latency_us;
        let rates = weather.frames_of_a_path(&mut rng);
        Self {
            from,
            to,
            latency_ns: rng.u64(min..=max.max(min)) * 1000,
            jitter: weather.jitter,
            spike: Cell::new(weather.spike),
            spike_max: weather.spike_max,
            ns_per_byte: 1e9 / weather.bytes_per_second.max(1) as f64,
            busy_until: Cell::default(),
            clog: Cell::new(1.0),
            blocked: Cell::new(0),
            stalled: Cell::new(0),
            rates: Cell::new(rates),
            rates_total: Cell::new(rates.total()),
            forced: RefCell::default(),
            history: RefCell::default(),
            remembers: Cell::new(true),
            chop: weather.chop,
            chop_bytes_max: weather.chop_bytes_max.max(1),
            window_bytes: weather.window_bytes,
            frame_delay_max: weather.frame_delay_max,
            reset: weather.reset,
            blackout: (weather.blackout, weather.blackout_max),
            stall: (weather.stall, weather.stall_max),
            incidents: Cell::new(weather.reset + weather.blackout + weather.stall > 0.0),
            rng: RefCell::new(rng),
        }
    }

    /// When `bytes` that are sent now arrive.
    pub(super) fn arrival(&self, now: Duration, bytes: usize) -> Duration {
        let clog = self.clog.get();
        let sending = Duration::from_nanos((bytes as f64 * self.ns_per_byte * clog) as u64);
        let sent = self.busy_until.get().max(now) + sending;
        self.busy_until.set(sent);
        sent + self.latency()
    }

    /// How long something small takes.
    pub(super) fn latency(&self) -> Duration {
        let mut rng = self.rng.borrow_mut();
        let usual = self.latency_ns as f64 * (1.0 + self.jitter * rng.f64()) * self.clog.get();
        let mut latency = Duration::from_nanos(usual as u64);
        let spike = self.spike.get();
        if spike > 0.0 && rng.f64() < spike {
            latency += self.spike_max.mul_f64(rng.f64());
        }
        latency
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get() != 0
    }

    pub(super) fn block(&self, by: By) {
        self.blocked.set(self.blocked.get() | by as u8);
    }

    /// True if the path is open again now, and was not before.
    pub(super) fn unblock(&self, by: By) -> bool {
        let before = self.blocked.replace(self.blocked.get() & !(by as u8));
        before != 0 && self.blocked.get() == 0
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.get() != 0
    }

    pub(super) fn stall(&self, by: By) {
        self.stalled.set(self.stalled.get() | by as u8);
    }

    pub(super) fn unstall(&self, by: By) {
        self.stalled.set(self.stalled.get() & !(by as u8));
    }

    /// From now on everything takes `factor` times as long; 1 is as usual.
    pub(super) fn clog(&self, factor: f64, now: Duration) {
        self.clog.set(factor.max(0.01));
        self.busy_until.set(now);
    }

    pub(super) fn set_rates(&self, rates: FrameRates) {
        self.rates.set(rates);
        self.remembers.set(true);
        self.rates_total.set(rates.total());
    }

    /// The next Raft frame meets this fate.
    pub(super) fn force(&self, fate: Fate) {
        self.remembers.set(true);
        self.forced.borrow_mut().push_back(fate);
    }

    /// No more faults of any kind.
    pub(super) fn calm(&self, now: Duration) {
        self.set_rates(FrameRates::NONE);
        self.forced.borrow_mut().clear();
        self.history.borrow_mut().clear();
        self.remembers.set(false);
        self.incidents.set(false);
        self.spike.set(0.0);
        self.clog(1.0, now);
    }

    pub(super) fn has_incidents(&self) -> bool {
        self.incidents.get()
    }

    /// What the weather does at this packet.
    pub(super) fn incident(&self) -> Option<Incident> {
        if !self.incidents.get() {
            return None;
        }
        let mut rng = self.rng.borrow_mut();
        let mut roll = rng.f64() - self.reset;
        if roll < 0.0 {
            return Some(Incident::Reset);
        }
        roll -= self.blackout.0;
        if roll < 0.0 {
            return Some(Incident::Blackout(self.blackout.1.mul_f64(rng.f64())));
        }
        roll -= self.stall.0;
        (roll < 0.0).then(|| Incident::Stall(self.stall.1.mul_f64(rng.f64())))
    }

    /// What happens to a frame. Greetings and pulses are only ever damaged.
    pub(super) fn fate(&self, is_raft: bool) -> Fate {
        if is_raft && let Some(fate) = self.forced.borrow_mut().pop_front() {
            return fate;
        }
        let total = self.rates_total.get();
        if total == 0.0 {
            return Fate::Pass;
        }
        let mut roll = self.rng.borrow_mut().f64();
        if roll >= total {
            return Fate::Pass;
        }
        let rates = self.rates.get();
        let table = [
            (rates.corrupt, Fate::Corrupt),
            (rates.drop, Fate::Drop),
            (rates.duplicate, Fate::Duplicate),
            (rates.delay, Fate::Delay),
            (rates.replay, Fate::Replay),
            (rates.ghost, Fate::Ghost),
        ];
        for (rate, fate) in table {
            roll -= rate;
            if roll < 0.0 {
                return if is_raft || fate == Fate::Corrupt { fate } else { Fate::Pass };
            }
        }
        Fate::Pass
    }

    /// Whether a piece of a snapshot is damaged. They are few and large: it happens to them as often as to many
    /// frames.
    pub(super) fn damages_bulk(&self) -> bool {
        let rate = self.rates.get().corrupt * BULK_PIECE_FRAMES;
        rate > 0.0 && self.rng.borrow_mut().f64() < rate
    }

    /// Remembers a frame that may come back.
    pub(super) fn remember(&self, address: &Rc<str>, connection: u64, frame: &Bytes) {
        if frame.len() > HISTORY_FRAME_BYTES_MAX || !self.remembers.get() {
            return;
        }
        let mut history = self.history.borrow_mut();
        if history.len() == HISTORY_FRAMES_MAX {
            // Not the oldest: those of earlier connections would soon be gone.
            let forgotten = self.rng.borrow_mut().usize(..HISTORY_FRAMES_MAX);
            history.remove(forgotten);
        }
        history.push_back(Old { address: address.clone(), connection, frame: frame.clone() });
    }

    /// A frame of this connection, or of an earlier one to the same address.
    pub(super) fn recall(&self, address: &str, connection: u64, earlier: bool) -> Option<Bytes> {
        let history = self.history.borrow();
        let fits = |old: &&Old| {
            let of_earlier = old.connection < connection;
            *old.address == *address
                && of_earlier == earlier
                && (of_earlier || old.connection == connection)
        };
        let count = history.iter().filter(fits).count();
        if count == 0 {
            return None;
        }
        let chosen = self.rng.borrow_mut().usize(..count);
        history.iter().filter(fits).nth(chosen).map(|old| old.frame.clone())
    }

    /// A copy of `frame` with up to eight flipped bits.
    pub(super) fn damage(&self, frame: &Bytes) -> Bytes {
        let mut rng = self.rng.borrow_mut();
        let mut damaged = frame.to_vec();
        let first = rng.usize(..frame.len() * 8);
        damaged[first / 8] ^= 1 << (first % 8);
        for _ in 0..rng.usize(..8) {
            let bit = rng.usize(..frame.len() * 8);
            if bit != first {
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
        }
        damaged.into()
    }

    /// How many frames overtake a late one, and how long it waits at most.
    pub(super) fn lateness(&self) -> (u32, Duration) {
        let mut rng = self.rng.borrow_mut();
        let frames = if rng.bool() { 1 } else { rng.u32(1..=30) };
        (frames, self.frame_delay_max.mul_f64(rng.f64()) + Duration::from_micros(1))
    }

    /// At most how many of `there` bytes a read gives.
    pub(super) fn piece(&self, there: usize) -> usize {
        if self.chop == 0.0 {
            return there;
        }
        let mut rng = self.rng.borrow_mut();
        if rng.f64() < self.chop { rng.usize(1..=self.chop_bytes_max).min(there) } else { there }
    }

    /// Where to cut a packet in two, if at all.
    pub(super) fn cut(&self, bytes: usize) -> Option<usize> {
        if self.chop == 0.0 || bytes < 2 {
            return None;
        }
        let mut rng = self.rng.borrow_mut();
        (rng.f64() < self.chop).then(|| rng.usize(1..bytes))
    }

    pub(super) fn window(&self) -> usize {
        let (min, max) = self.window_bytes;
        self.rng.borrow_mut().usize(min.max(1)..=max.max(min).max(1))
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng.borrow_mut().f64() < probability
    }

    /// A time from 0 to `max`.
    pub(super) fn within(&self, max: Duration) -> Duration {
        max.mul_f64(self.rng.borrow_mut().f64())
    }
}
