//! Client threads that use all kinds of commands on few keys, while faults run; what they saw is
//! checked at the end.
//!
//! | keys | commands | checked for |
//! |---|---|---|
//! | registers, few and for good | SET, GET; GET of replicas that may be old | linearizability; order |
//! | pairs, few and for good | MSET and MGET of two keys of one slot | linearizability as one key, never torn |
//! | mixed | SET, GET, SET GET, SET NX, DEL | linearizability |
//! | counters | INCR, GET | linearizability: nothing lost, nothing twice |
//! | texts | APPEND, GET | the same, and the order |
//! | inserts, new each time | SET | being there at the end |
//!
//! Every value is written once. A command without an answer counts as *unknown*: it may take effect at
//! any time later, or never. As these pile up on a key they explain more and more, so the keys of
//! the last kinds but one are left after some operations, sooner if many were unknown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Effect, Outcome};
use super::cluster::Cluster;
use super::history::{Action, End, LAST, Moment, Operation, Recorder, Violation};
use super::random::Random;
use super::replicas::{self, Sightings};
use super::resp::Reply;
use super::wait::SOON;

/// Keys of each kind: few, so that clients meet on them.
const KEYS: u64 = 6;

/// What a key that is left one day bears: one for an operation, more for one of unknown outcome.
const WEAR_MAX: u64 = 150;
const WEAR_OF_UNKNOWN: u64 = 25;

/// How long a client tries one operation, and waits for one reply.
const OPERATION_BOUND: Duration = Duration::from_secs(3);
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest pause between two operations of one client. The log is kept for ever, so a load without
/// pauses would fill disk and memory in the long run.
const PAUSE_MS_MAX: u64 = 8;

/// What all clients of one test share.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) recorder: Recorder,
    pub(super) sightings: Sightings,
    inserts: Mutex<Vec<String>>,
    wear: BTreeMap<&'static str, Vec<AtomicU64>>,
    unknown: AtomicU64,
    refused: AtomicU64,
    started: Instant,
    /// When the last operation was acknowledged, and the longest time without; in ms since the start.
    last_ms: AtomicU64,
    longest_gap_ms: AtomicU64,
    pub(super) stop: AtomicBool,
}

impl Seen {
    fn count(&self, end: End) {
        match end {
            End::Acknowledged(_) => {
                let now = u64::try_from(self.started.elapsed().as_millis()).unwrap();
                let last = self.last_ms.swap(now, Ordering::Relaxed);
                self.longest_gap_ms.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
            }
            End::Unknown => _ = self.unknown.fetch_add(1, Ordering::Relaxed),
            End::Refused => _ = self.refused.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// For the terminal.
    pub text: String,
    /// All about it.
    pub detail: String,
}

impl From<String> for Finding {
    fn from(text: String) -> Self {
        Self { detail: text.clone(), text }
    }
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
    pub stale_reads: u64,
    /// Longest time in which nothing at all was acknowledged.
    pub longest_gap: Duration,
}

/// Running client threads.
#[derive(Debug)]
pub struct Traffic {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts `clients` threads, and two for each node that read what it holds.
    pub fn start(cluster: &Cluster, clients: usize, seed: u64) -> Self {
        Self::start_with(cluster.addresses(), clients, seed)
    }

    /// As [`Traffic::start`], with the nodes at these addresses; not all of them need be there.
    pub fn start_with(addresses: Vec<SocketAddr>, clients: usize, seed: u64) -> Self {
        let worn = |kind| (kind, (0..KEYS).map(|_| AtomicU64::new(0)).collect());
        let seen = Arc::new(Seen {
            recorder: Recorder::default(),
            sightings: Sightings::default(),
            inserts: Mutex::default(),
            wear: ["mixed", "counter", "text"].map(worn).into(),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
            longest_gap_ms: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for number in 0..clients {
            let client = Client::new(addresses.clone(), REPLY_TIMEOUT);
            let random = Random::new(seed.wrapping_mul(1000).wrapping_add(number as u64));
            let worker = Worker { number, client, random, seen: seen.clone(), count: 0 };
            threads.push(std::thread::spawn(move || worker.run()));
        }
        for (nth, address) in addresses.into_iter().enumerate() {
            let random = |of: u64| Random::new(seed.wrapping_mul(of).wrapping_add(nth as u64));
            let (watcher, random_of_watcher) = (seen.clone(), random(2000));
            threads.push(std::thread::spawn(move || {
                replicas::watch(&watcher, address, random_of_watcher, KEYS, register_key);
            }));
            let (prober, random_of_prober) = (seen.clone(), random(3000));
            threads.push(std::thread::spawn(move || {
                replicas::probe(&prober, address, random_of_prober, KEYS, register_key);
            }));
        }
        Self { seen, threads }
    }

    /// How many operations ended how, so far.
    pub fn tally(&self) -> Tally {
        Tally {
            acknowledged: self.seen.recorder.acknowledged(),
            unknown: self.seen.unknown.load(Ordering::Relaxed),
            refused: self.seen.refused.load(Ordering::Relaxed),
            stale_reads: self.seen.sightings.count(),
            longest_gap: Duration::from_millis(self.seen.longest_gap_ms.load(Ordering::Relaxed)),
        }
    }

    /// The present moment in the histories, to find the way from a fault to an operation.
    pub fn moment(&self) -> Moment {
        self.seen.recorder.now()
    }

    /// Stops the clients, then looks at the healed cluster: gives all that is wrong.
    pub fn finish(&mut self, cluster: &mut Cluster) -> Vec<Finding> {
        let mut found = self.finish_with(cluster.client());
        found.extend(replicas::compare(cluster).into_iter().map(Finding::from));
        found
    }

    /// As [`Traffic::finish`], read by `client`; copies are not compared.
    pub fn finish_with(&mut self, mut client: Client) -> Vec<Finding> {
        self.stop();
        let mut found = self.read_all(&mut client);
        found.extend(self.check_histories());
        let histories = self.seen.recorder.histories();
        found.extend(self.seen.sightings.check(&histories).into_iter().map(Finding::from));
        let inserts = self.seen.inserts.lock().unwrap();
        for key in inserts.iter() {
            match client.get(key, SOON) {
                Outcome::Done(Reply::Bulk(value)) if value == key.as_bytes() => {}
                other => {
                    found.push(format!("the acknowledged write of {key} is lost: {other:?}").into())
                }
            }
        }
        println!("checked: {} histories, {} inserts", histories.len(), inserts.len());
        found
    }

    /// Stops the clients and checks what they saw, whatever has become of the cluster.
    pub fn check_histories(&mut self) -> Vec<Finding> {
        self.stop();
        let violations = self.seen.recorder.violations();
        let finding = |violation: &Violation| Finding {
            text: violation.excerpt(),
            detail: violation.to_string(),
        };
        violations.iter().map(finding).collect()
    }

    fn stop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap();
        }
    }

    /// Reads every key once more, which ends its history.
    fn read_all(&self, client: &mut Client) -> Vec<Finding> {
        let mut wrong = Vec::new();
        for key in self.seen.recorder.histories().into_keys() {
            let start = self.seen.recorder.now();
            let words = read_words(&key);
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            match client.run(&key, &words, Effect::Read, SOON) {
                Outcome::Done(reply) => {
                    let end = End::Acknowledged(self.seen.recorder.now());
                    let action = Action::Read(value(&reply));
                    let operation = Operation { client: LAST, start, end, action };
                    self.seen.recorder.add(&key, operation);
                }
                other => {
                    wrong.push(format!("{key} can't be read any more: {other:?}").into());
                }
            }
        }
        wrong
    }
}

impl Drop for Traffic {
    /// Lets the clients of a test that failed end soon.
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    number: usize,
    client: Client,
    random: Random,
    seen: Arc<Seen>,
    count: u64,
}

impl Worker {
    fn run(mut self) {
        while !self.seen.stop.load(Ordering::Relaxed) {
            self.count += 1;
            match self.random.below(12) {
                0 | 1 => self.insert(),
                2..5 => self.register(),
                5 => self.pair(),
                6..8 => self.counter(),
                8 => self.text(),
                _ => self.mixed(),
            }
            std::thread::sleep(Duration::from_millis(self.random.below(PAUSE_MS_MAX + 1)));
        }
    }

    /// A value that nobody else writes.
    fn value(&self) -> String {
        format!("{}-{}", self.number, self.count)
    }

    fn insert(&mut self) {
        let key = format!("insert-{}-{}", self.number, self.count);
        let end = match self.client.set(&key, &key, OPERATION_BOUND) {
            Outcome::Done(_) => {
                self.seen.inserts.lock().unwrap().push(key);
                End::Acknowledged(0)
            }
            Outcome::Refused(_) => End::Refused,
            Outcome::Unknown(_) => End::Unknown,
        };
        self.seen.count(end);
    }

    fn register(&mut self) {
        let key = register_key(self.random.below(KEYS));
        if self.random.below(2) == 0 {
            return self.read(&key);
        }
        let value = self.value();
        self.write(&key, &["SET", &key, &value], |_| Action::Write(value.clone()));
    }

    fn pair(&mut self) {
        let key = format!("{{pair-{}}}", self.random.below(KEYS));
        if self.random.below(2) == 0 {
            return self.read(&key);
        }
        let [a, b] = halves(&key);
        let value = self.value();
        let words = ["MSET", &a, &value, &b, &value];
        self.write(&key, &words, |_| Action::Write(value.clone()));
    }

    fn counter(&mut self) {
        let key = self.worn_key("counter");
        if self.random.below(4) == 0 {
            return self.read(&key);
        }
        self.write(&key, &["INCR", &key], |reply| match reply {
            Some(Reply::Int(number)) => Action::Increment(*number),
            _ => Action::Increment(0),
        });
    }

    fn text(&mut self) {
        let key = self.worn_key("text");
        if self.random.below(3) == 0 {
            return self.read(&key);
        }
        let text = format!("{},", self.value());
        self.write(&key, &["APPEND", &key, &text], |reply| {
            Action::Append(text.clone(), usize::try_from(number(reply)).unwrap())
        });
    }

    fn mixed(&mut self) {
        let key = self.worn_key("mixed");
        let new = self.value();
        match self.random.below(6) {
            0 => self.write(&key, &["DEL", &key], |reply| Action::Delete(number(reply) == 1)),
            1 => self.write(&key, &["SET", &key, &new, "GET"], |reply| {
                Action::Swap(new.clone(), reply.and_then(value))
            }),
            2 => self.write(&key, &["SET", &key, &new, "NX"], |reply| {
                let done = reply.is_some_and(|reply| *reply != Reply::Nil);
                Action::WriteIfAbsent(new.clone(), done)
            }),
            3 => self.write(&key, &["SET", &key, &new], |_| Action::Write(new.clone())),
            _ => self.read(&key),
        }
    }

    /// A key of a kind that is left when it is worn.
    fn worn_key(&mut self, kind: &'static str) -> String {
        let number = self.random.below(KEYS);
        let wear = &self.seen.wear[kind][usize::try_from(number).unwrap()];
        let generation = wear.fetch_add(1, Ordering::Relaxed) / WEAR_MAX;
        format!("{kind}-{number}-{generation}")
    }

    fn wear(&self, key: &str) {
        let mut parts = key.split('-');
        let (kind, number) = (parts.next().unwrap(), parts.next());
        if let Some(keys) = self.seen.wear.get(kind) {
            let number: usize = number.unwrap().parse().unwrap();
            keys[number].fetch_add(WEAR_OF_UNKNOWN, Ordering::Relaxed);
        }
    }

    fn write(&mut self, key: &str, words: &[&str], action: impl Fn(Option<&Reply>) -> Action) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let start = self.seen.recorder.now();
        let outcome = self.client.run(key, &words, Effect::Write, OPERATION_BOUND);
        let (end, action) = match outcome {
            Outcome::Done(reply) => {
                (End::Acknowledged(self.seen.recorder.now()), action(Some(&reply)))
            }
            Outcome::Refused(_) => (End::Refused, action(None)),
            Outcome::Unknown(_) => (End::Unknown, action(None)),
        };
        if end == End::Unknown {
            self.wear(key);
        }
        self.add(key, start, end, action);
    }

    fn read(&mut self, key: &str) {
        let words = read_words(key);
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        let start = self.seen.recorder.now();
        match self.client.run(key, &words, Effect::Read, OPERATION_BOUND) {
            Outcome::Done(reply) => {
                let end = End::Acknowledged(self.seen.recorder.now());
                self.add(key, start, end, Action::Read(value(&reply)));
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => self.seen.count(End::Refused),
        }
    }

    fn add(&self, key: &str, start: Moment, end: End, action: Action) {
        self.seen.count(end);
        self.seen.recorder.add(key, Operation { client: self.number, start, end, action });
    }
}

fn register_key(number: u64) -> String {
    format!("register-{number}")
}

/// The two keys of a pair.
fn halves(pair: &str) -> [String; 2] {
    [format!("{pair}a"), format!("{pair}b")]
}

fn read_words(key: &str) -> Vec<String> {
    if !key.starts_with('{') {
        return vec!["GET".to_owned(), key.to_owned()];
    }
    let [a, b] = halves(key);
    vec!["MGET".to_owned(), a, b]
}

/// What a read saw. A torn pair is a value that nobody wrote.
fn value(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Array(both) if both.len() == 2 && both[0] == both[1] => value(&both[0]),
        Reply::Nil => None,
        other => Some(other.text().unwrap_or_else(|| format!("torn: {other}"))),
    }
}

fn number(reply: Option<&Reply>) -> i64 {
    match reply {
        Some(Reply::Int(number)) => *number,
        _ => 0,
    }
}
