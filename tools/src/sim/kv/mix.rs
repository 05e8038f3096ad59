//! What a seed's clients like to do.

use std::time::Duration;

use fastrand::Rng;

use crate::sim::settings::{Settings, log_uniform, one_of};

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unique values, set, read, perhaps deleted.
    Register,
    /// Increments: one that is done twice is seen for ever.
    Counter,
    /// Unique values are appended: the same, and their order.
    Row,
    /// Unique values that expire.
    Mortal,
}

/// One thing to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    Set,
    SetNx,
    Del,
    Incr,
    Append,
    /// `SET` with a time to live.
    SetMortal,
    Expire,
    Persist,
    ExpireTime,
    /// Moves the time of the log, as the server does when keys are due.
    Tick,
}

/// The habits of a seed.
#[derive(Clone, Debug)]
pub struct Mix {
    kinds: Vec<Kind>,
    /// Share of reads among operations.
    reads: f64,
    /// Whether keys are also deleted and set conditionally.
    varied: bool,
    /// Share of large values.
    large: f64,
    value_bytes_max: usize,
    /// Longest time to live, milliseconds.
    ttl_ms_max: u64,
    /// Share of reads that any replica may answer.
    bounded: f64,
    /// Largest bound of their staleness, milliseconds.
    staleness_ms_max: u64,
}

impl Mix {
    /// Draws them.
    pub fn draw(rng: &mut Rng, settings: &Settings) -> Self {
        use Kind::{Counter, Mortal, Register, Row};
        let liked: &[Kind] = match rng.u32(..10) {
            0 | 1 => &[Register],
            2 => &[Counter],
            3 => &[Row],
            4 => &[Mortal],
            5 => &[Counter, Row],
            6 => &[Register, Mortal],
            _ => &[Register, Register, Counter, Row, Mortal],
        };
        // Every shard has a key.
        let keys = settings.keys.max(settings.shards);
        Self {
            kinds: (0..keys).map(|_| one_of(rng, liked)).collect(),
            reads: one_of(rng, &[0.1, 0.3, 0.5, 0.5, 0.8]),
            varied: rng.f64() < 0.6,
            large: one_of(rng, &[0.0, 0.1, 0.5]),
            value_bytes_max: settings.value_bytes_max,
            ttl_ms_max: log_uniform(rng, 10, 20 * settings.think_ms_max + 1000),
            bounded: one_of(rng, &[0.0, 0.2, 0.5, 0.5]),
            staleness_ms_max: log_uniform(rng, 1, 2 * settings.election_timeout_ms),
        }
    }

    /// How many keys there are.
    pub fn keys(&self) -> u32 {
        self.kinds.len() as u32
    }

    /// What a key is used for.
    pub fn kind(&self, key: u32) -> Kind {
        self.kinds[key as usize]
    }

    /// What to do next with a key.
    pub fn action(&self, rng: &mut Rng, key: u32) -> Action {
        let kind = self.kind(key);
        if rng.f64() < self.reads {
            let time = kind == Kind::Mortal && rng.u32(..4) == 0;
            return if time { Action::ExpireTime } else { Action::Get };
        }
        let varied = |rng: &mut Rng, usual: Action| match rng.u32(..10) {
            0 if self.varied => Action::Del,
            1 | 2 if self.varied && kind != Kind::Counter => Action::SetNx,
            _ => usual,
        };
        match kind {
            Kind::Register => varied(rng, Action::Set),
            Kind::Counter => match rng.u32(..4) {
                0 => varied(rng, Action::Incr),
                _ => Action::Incr,
            },
            Kind::Row => match rng.u32(..4) {
                0 => varied(rng, Action::Append),
                _ => Action::Append,
            },
            Kind::Mortal => match rng.u32(..12) {
                0..6 => Action::SetMortal,
                6 => Action::Set,
                7 | 8 => Action::Expire,
                9 => Action::Persist,
                10 => Action::Tick,
                _ => varied(rng, Action::SetMortal),
            },
        }
    }

    /// How old what a read finds may be, if any replica may answer it. Not of keys that expire: what the judge knows of
    /// the time of the log is that of the leader.
    pub fn staleness(&self, rng: &mut Rng, key: u32) -> Option<Duration> {
        let bounded = self.kind(key) != Kind::Mortal && rng.f64() < self.bounded;
        bounded.then(|| match rng.u8(..3) {
            0 => Duration::ZERO,
            _ => Duration::from_millis(log_uniform(rng, 1, self.staleness_ms_max)),
        })
    }

    /// The length of a value.
    pub fn value_bytes(&self, rng: &mut Rng, key: u32) -> usize {
        /// Rows are read whole, again and again.
        const IN_ROW: u64 = 40;
        match self.kind(key) {
            Kind::Row => rng.u64(..IN_ROW) as usize,
            _ if rng.f64() < self.large => rng.usize(..=self.value_bytes_max),
            _ => log_uniform(rng, 1, self.value_bytes_max as u64) as usize,
        }
    }

    /// A time to live.
    pub fn ttl_ms(&self, rng: &mut Rng) -> u64 {
        log_uniform(rng, 1, self.ttl_ms_max)
    }
}
