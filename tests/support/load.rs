//! Client threads that write and read while nodes come and go, and the proof that nothing was lost.
//!
//! Two kinds of keys. *Registers* are few, written and read again and again: their histories must be
//! linearizable. *Inserts* are written once each: every acknowledged one must be there at the end,
//! which also catches a loss that a later write to the same register would have covered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Outcome};
use super::cluster::Cluster;
use super::history::{Action, End, LAST, Operation, Recorder};
use super::random::Random;
use super::resp::Reply;
use super::wait::{self, SOON};

/// Registers: few enough that clients meet on them, enough to lie in every shard.
const REGISTERS: u64 = 32;

/// How long a client tries one operation.
const OPERATION_BOUND: Duration = Duration::from_secs(5);

/// What all clients of one test share.
#[derive(Debug, Default)]
struct Seen {
    recorder: Recorder,
    inserts: Mutex<Vec<String>>,
    longest_gap: Mutex<Duration>,
    stop: AtomicBool,
}

/// Running client threads.
#[derive(Debug)]
pub struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` threads; the same seed gives the same operations.
    pub fn start(cluster: &Cluster, clients: usize, seed: u64) -> Self {
        Self::start_with(&|| cluster.client(), clients, seed)
    }

    /// As [`Load::start`], with clients that `client` makes.
    pub fn start_with(client: &dyn Fn() -> Client, clients: usize, seed: u64) -> Self {
        let seen = Arc::new(Seen::default());
        let threads = (0..clients)
            .map(|number| {
                let seen = Arc::clone(&seen);
                let client = client();
                let random = Random::new(seed.wrapping_add(number as u64));
                std::thread::spawn(move || Worker { number, client, random, seen }.run())
            })
            .collect();
        Self { seen, threads }
    }

    /// Waits until `count` more operations are acknowledged.
    #[track_caller]
    pub fn wait_for_more(&self, count: u64) {
        let recorder = &self.seen.recorder;
        let target = recorder.acknowledged() + count;
        wait::until(&format!("{count} more acknowledgements"), SOON, || {
            let now = recorder.acknowledged();
            if now >= target { Ok(()) } else { Err(format!("{now} of {target}")) }
        });
    }

    /// Stops the clients, then checks against the healed cluster that every acknowledged write is
    /// there and every history linearizable.
    #[track_caller]
    pub fn verify(self, cluster: &mut Cluster) {
        let client = cluster.client();
        self.verify_with(client, || cluster.assert_running());
    }

    /// As [`Load::verify`], read by `client`; `healed` panics if the cluster is not. Gives the longest time that one
    /// of the clients had to wait for an acknowledgement.
    #[track_caller]
    pub fn verify_with(mut self, mut client: Client, healed: impl FnOnce()) -> Duration {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap();
        }
        healed();
        let seen = &self.seen;
        for register in 0..REGISTERS {
            let start = seen.recorder.now();
            let value = value(client.get(&register_key(register), SOON).unwrap());
            let end = End::Acknowledged(seen.recorder.now());
            let action = Action::Read(value);
            let operation = Operation { client: LAST, start, end, action };
            seen.recorder.add(&register_key(register), operation);
        }
        seen.recorder.assert_linearizable();
        let inserts = seen.inserts.lock().unwrap();
        for key in inserts.iter() {
            let found = value(client.get(key, SOON).unwrap());
            assert_eq!(
                found.as_deref(),
                Some(key.as_str()),
                "the acknowledged write of {key} is lost"
            );
        }
        let longest_gap = *seen.longest_gap.lock().unwrap();
        println!(
            "{} operations acknowledged, {} inserts found again, longest gap {longest_gap:?}",
            seen.recorder.acknowledged(),
            inserts.len(),
        );
        longest_gap
    }
}

impl Drop for Load {
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
}

impl Worker {
    fn run(mut self) {
        let mut last_acknowledged = Instant::now();
        let mut count = 0_u64;
        while !self.seen.stop.load(Ordering::Relaxed) {
            count += 1;
            let acknowledged = match self.random.below(4) {
                0 => self.insert(count),
                1 => self.read(),
                _ => self.write(count),
            };
            if acknowledged {
                let mut longest = self.seen.longest_gap.lock().unwrap();
                *longest = longest.max(last_acknowledged.elapsed());
                last_acknowledged = Instant::now();
            }
        }
    }

    fn insert(&mut self, count: u64) -> bool {
        let key = format!("insert-{}-{count}", self.number);
        let outcome = self.client.set(&key, &key, OPERATION_BOUND);
        let acknowledged = matches!(outcome, Outcome::Done(_));
        if acknowledged {
            self.seen.inserts.lock().unwrap().push(key);
        }
        acknowledged
    }

    fn write(&mut self, count: u64) -> bool {
        let key = register_key(self.random.below(REGISTERS));
        let value = format!("{}-{count}", self.number);
        let start = self.seen.recorder.now();
        let outcome = self.client.set(&key, &value, OPERATION_BOUND);
        let end = match outcome {
            Outcome::Done(_) => End::Acknowledged(self.seen.recorder.now()),
            Outcome::Refused(_) => End::Refused,
            Outcome::Unknown(_) => End::Unknown,
        };
        self.add(&key, start, end, Action::Write(value))
    }

    fn read(&mut self) -> bool {
        let key = register_key(self.random.below(REGISTERS));
        let start = self.seen.recorder.now();
        match self.client.get(&key, OPERATION_BOUND) {
            Outcome::Done(reply) => {
                let end = End::Acknowledged(self.seen.recorder.now());
                self.add(&key, start, end, Action::Read(value(reply)))
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => false,
        }
    }

    fn add(&self, key: &str, start: u64, end: End, action: Action) -> bool {
        let operation = Operation { client: self.number, start, end, action };
        self.seen.recorder.add(key, operation);
        matches!(end, End::Acknowledged(_))
    }
}

fn register_key(number: u64) -> String {
    format!("register-{number}")
}

#[track_caller]
fn value(reply: Reply) -> Option<String> {
    match reply {
        Reply::Nil => None,
        Reply::Bulk(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => panic!("GET replied {other:?}"),
    }
}
