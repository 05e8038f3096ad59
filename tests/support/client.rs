//! A small cluster client: finds the core that leads a key's shard, follows `MOVED`, and tells an
//! operation that surely did not happen from one whose outcome nobody knows.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::resp::{Connection, Reply};

/// Error replies that promise that the command had no effect.
const HAD_NO_EFFECT: [&str; 4] = ["MOVED ", "TRYAGAIN ", "CLUSTERDOWN ", "NOSPACE "];

/// Pause before another try, so that a cluster without a leader is not flooded.
const PAUSE: Duration = Duration::from_millis(10);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this reply, which is not an error.
    Done(Reply),
    /// It had no effect; the last error.
    Refused(String),
    /// It may or may not have had its effect, or may have it later.
    Unknown(String),
}

impl Outcome {
    /// The reply; panics on anything else.
    #[track_caller]
    pub fn unwrap(self) -> Reply {
        match self {
            Self::Done(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

/// Whether trying again can do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The command changes nothing: it is tried again after every failure.
    Read,
    /// The command changes something: it is tried again only if it had no effect.
    Write,
}

/// Slots and the core that leads them.
type Slots = Vec<(RangeInclusive<u16>, SocketAddr)>;

/// A client of one cluster, for one thread.
#[derive(Debug)]
pub struct Client {
    seeds: Vec<SocketAddr>,
    slots: Slots,
    connections: HashMap<SocketAddr, Connection>,
    /// Longest wait for one reply.
    reply_timeout: Duration,
}

impl Client {
    /// A client that starts at any of `seeds`.
    pub fn new(seeds: Vec<SocketAddr>, reply_timeout: Duration) -> Self {
        Self { seeds, slots: Vec::new(), connections: HashMap::new(), reply_timeout }
    }

    /// Sets `key`.
    pub fn set(&mut self, key: &str, value: &str, bound: Duration) -> Outcome {
        self.run(key, &[b"SET", key.as_bytes(), value.as_bytes()], Effect::Write, bound)
    }

    /// Gets `key`.
    pub fn get(&mut self, key: &str, bound: Duration) -> Outcome {
        self.run(key, &[b"GET", key.as_bytes()], Effect::Read, bound)
    }

    /// Runs a command about `key`, trying again where that is safe, until `bound` is over.
    pub fn run(&mut self, key: &str, words: &[&[u8]], effect: Effect, bound: Duration) -> Outcome {
        let slot = slot_of(key.as_bytes());
        let deadline = Instant::now() + bound;
        let mut moved_to = None;
        loop {
            let attempt = match moved_to.take().or_else(|| self.address_of(slot)) {
                Some(address) => self.attempt(address, words),
                None => Attempt::NotSent("no leader is known".to_owned()),
            };
            // Whatever went wrong, what was believed about leaders may be why.
            let forget = !matches!(&attempt, Attempt::Replied(reply) if reply.error().is_none());
            if forget {
                self.slots.clear();
                // The next to be asked should not be the one that led here.
                self.seeds.rotate_left(1);
            }
            let reason = match attempt {
                Attempt::Replied(Reply::Error(text)) => {
                    moved_to = moved_address(&text);
                    let had_none = HAD_NO_EFFECT.iter().any(|prefix| text.starts_with(prefix));
                    if effect == Effect::Write && !had_none {
                        return Outcome::Unknown(text);
                    }
                    text
                }
                Attempt::Replied(reply) => return Outcome::Done(reply),
                Attempt::NotSent(reason) => reason,
                Attempt::Broken(reason) if effect == Effect::Write => {
                    return Outcome::Unknown(reason);
                }
                Attempt::Broken(reason) => reason,
            };
            if Instant::now() >= deadline {
                return Outcome::Refused(reason);
            }
            if moved_to.is_none() {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn attempt(&mut self, address: SocketAddr, words: &[&[u8]]) -> Attempt {
        let mut connection = match self.connections.remove(&address) {
            Some(connection) => connection,
            None => match Connection::open(address, self.reply_timeout) {
                Ok(connection) => connection,
                Err(error) => return Attempt::NotSent(format!("{address}: {error}")),
            },
        };
        match connection.call(words) {
            Ok(reply) => {
                self.connections.insert(address, connection);
                Attempt::Replied(reply)
            }
            Err(error) => Attempt::Broken(format!("{address}: {error}")),
        }
    }

    fn address_of(&mut self, slot: u16) -> Option<SocketAddr> {
        if self.slots.is_empty() {
            self.slots = self.refresh().unwrap_or_default();
        }
        self.slots.iter().find(|(range, _)| range.contains(&slot)).map(|(_, address)| *address)
    }

    /// Asks the seeds in turn who leads what; the one that answered stays first.
    fn refresh(&mut self) -> io::Result<Slots> {
        let mut last = io::Error::new(io::ErrorKind::NotConnected, "no seed");
        for _ in 0..self.seeds.len() {
            let seed = self.seeds[0];
            match self.attempt(seed, &[b"CLUSTER", b"SLOTS"]) {
                Attempt::Replied(reply) => match parse_slots(&reply) {
                    Some(slots) if !slots.is_empty() => return Ok(slots),
                    _ => last = io::Error::other(format!("{seed}: {reply}")),
                },
                Attempt::NotSent(reason) | Attempt::Broken(reason) => {
                    last = io::Error::other(reason)
                }
            }
            self.seeds.rotate_left(1);
        }
        Err(last)
    }
}

enum Attempt {
    Replied(Reply),
    /// The command did not leave.
    NotSent(String),
    /// The command left, at least in part, and there is no reply.
    Broken(String),
}

/// Where a `MOVED` error points: `MOVED 866 127.0.0.1:7011`.
fn moved_address(error: &str) -> Option<SocketAddr> {
    error.strip_prefix("MOVED ")?.split_once(' ')?.1.parse().ok()
}

/// The ranges of a `CLUSTER SLOTS` reply with their first node, the leader.
pub fn parse_slots(reply: &Reply) -> Option<Slots> {
    let Reply::Array(ranges) = reply else { return None };
    ranges
        .iter()
        .map(|range| {
            let Reply::Array(range) = range else { return None };
            let [Reply::Int(first), Reply::Int(last), Reply::Array(node), ..] = range.as_slice()
            else {
                return None;
            };
            let [host, Reply::Int(port), ..] = node.as_slice() else { return None };
            let address = format!("{}:{port}", host.text()?).parse().ok()?;
            Some((u16::try_from(*first).ok()?..=u16::try_from(*last).ok()?, address))
        })
        .collect()
}

/// The slot of a key: CRC16/XMODEM of the key, or of what stands between its first `{` and the next
/// `}` if that is not empty, modulo 16384 (Redis Cluster specification).
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16_384
}
