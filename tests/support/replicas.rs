//! Reads of single nodes, whoever leads: what must hold for these, too.
//!
//! While faults run, two connections to each node read registers. One says `READONLY` and may get old
//! values; it must see such as somebody wrote, in an order in which they may have been written, each
//! once. The other does not, and sends without waiting for replies: a leader that wakes up, or
//! is alone and does not know it, finds reads that began long after it was replaced. What it answers
//! to these goes into the histories that must be linearizable. At the end, when all is quiet, the
//! replicas must be equal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::cluster::{Cluster, NODES};
use super::history::{Action, End, Moment, Operation, PROBE};
use super::random::Random;
use super::resp::{Connection, Reply, encode};
use super::traffic::Seen;
use super::wait::SOON;

/// How long a replica may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to answer a read that was sent without waiting: longer than it is paused.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest pause between two such reads.
const PROBE_PAUSE_MS_MAX: u64 = 60;

/// Pause between two reads of one replica.
const PAUSE: Duration = Duration::from_millis(4);

/// Pause after an attempt to reach a node that is not there.
const AWAY_PAUSE: Duration = Duration::from_millis(50);

/// Keys of one request when replicas are compared.
const KEYS_PER_REQUEST: usize = 500;

/// The different values that one connection saw of one key, in order, and until when.
type Sequence = Vec<(Option<String>, Moment)>;

/// What connections to replicas have seen.
#[derive(Debug, Default)]
pub struct Sightings {
    count: AtomicU64,
    sequences: Mutex<Vec<(SocketAddr, String, Sequence)>>,
}

impl Sightings {
    /// Reads that were answered.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Compares all that was seen with what was written: gives what is wrong.
    pub fn check(&self, histories: &BTreeMap<String, Vec<Operation>>) -> Vec<String> {
        let written: HashMap<&str, HashMap<&str, &Operation>> =
            histories.iter().map(|(key, history)| (key.as_str(), writes(history))).collect();
        let nothing = HashMap::new();
        let sequences = self.sequences.lock().unwrap();
        let wrong = |(address, key, sequence): &(SocketAddr, String, Sequence)| {
            let writes = written.get(key.as_str()).unwrap_or(&nothing);
            let reason = check_sequence(sequence, writes).err()?;
            Some(format!("a replica, {address}, showed {key} wrongly: {reason}: {sequence:?}"))
        };
        sequences.iter().filter_map(wrong).collect()
    }
}

fn writes(history: &[Operation]) -> HashMap<&str, &Operation> {
    let may_have_happened = history.iter().filter(|operation| operation.end != End::Refused);
    may_have_happened
        .filter_map(|operation| match &operation.action {
            Action::Write(value) => Some((value.as_str(), operation)),
            _ => None,
        })
        .collect()
}

/// Whether one connection to one replica may have seen these values of a key, one after the other.
///
/// # Errors
/// Why not.
pub fn check_sequence(
    sequence: &[(Option<String>, Moment)],
    writes: &HashMap<&str, &Operation>,
) -> Result<(), String> {
    let mut before: Option<&Operation> = None;
    let mut seen = BTreeSet::new();
    for (nth, (value, moment)) in sequence.iter().enumerate() {
        let Some(value) = value else {
            if nth > 0 {
                return Err("it went back to nothing".to_owned());
            }
            continue;
        };
        let write = *writes.get(value.as_str()).ok_or(format!("nobody wrote {value:?}"))?;
        if write.start > *moment {
            return Err(format!("{value:?} was seen before it was written"));
        }
        if !seen.insert(value) {
            return Err(format!("{value:?} came back"));
        }
        if let (Some(before), End::Acknowledged(end)) = (before, write.end)
            && end < before.start
        {
            return Err(format!("{value:?} was seen after what had replaced it"));
        }
        before = Some(write);
    }
    Ok(())
}

/// Reads registers of the replica at `address` until the clients stop.
pub(super) fn watch(
    seen: &Seen,
    address: SocketAddr,
    mut random: Random,
    keys: u64,
    key_of: impl Fn(u64) -> String,
) {
    while !seen.stop.load(Ordering::Relaxed) {
        let mut sequences: BTreeMap<String, Sequence> = BTreeMap::new();
        if let Ok(mut connection) = open(address) {
            while !seen.stop.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                let key = key_of(random.below(keys));
                let value = match connection.call(&[b"GET", key.as_bytes()]) {
                    Ok(Reply::Nil) => None,
                    Ok(Reply::Bulk(bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                    // Such as MOVED by a node that does not have the slot's replica running yet.
                    Ok(_) => continue,
                    Err(_) => break,
                };
                seen.sightings.count.fetch_add(1, Ordering::Relaxed);
                let moment = seen.recorder.now();
                let sequence = sequences.entry(key).or_default();
                if sequence.last().is_none_or(|(last, _)| *last != value) {
                    sequence.push((value, moment));
                }
            }
        }
        let mut all = seen.sightings.sequences.lock().unwrap();
        all.extend(sequences.into_iter().map(|(key, sequence)| (address, key, sequence)));
        drop(all);
        std::thread::sleep(AWAY_PAUSE);
    }
}

/// Sends reads to the node at `address`, whether it answers or not, until the clients stop.
pub(super) fn probe(
    seen: &Seen,
    address: SocketAddr,
    mut random: Random,
    keys: u64,
    key_of: impl Fn(u64) -> String + Sync,
) {
    while !seen.stop.load(Ordering::Relaxed) {
        let opened = Connection::open(address, PROBE_TIMEOUT)
            .and_then(|connection| Ok((connection.sender()?, connection)));
        if let Ok((sender, connection)) = opened {
            let (sent, answers) = channel();
            std::thread::scope(|scope| {
                scope.spawn(|| send_probes(seen, sender, &mut random, keys, &key_of, sent));
                take_answers(seen, connection, answers);
            });
        }
        std::thread::sleep(AWAY_PAUSE);
    }
}

fn send_probes(
    seen: &Seen,
    mut stream: TcpStream,
    random: &mut Random,
    keys: u64,
    key_of: &impl Fn(u64) -> String,
    sent: Sender<(String, Moment)>,
) {
    while !seen.stop.load(Ordering::Relaxed) {
        let key = key_of(random.below(keys));
        let start = seen.recorder.now();
        let request = encode(&[b"GET", key.as_bytes()]);
        if stream.write_all(&request).is_err() || sent.send((key, start)).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(random.below(PROBE_PAUSE_MS_MAX + 1)));
    }
}

fn take_answers(seen: &Seen, mut connection: Connection, sent: Receiver<(String, Moment)>) {
    for (key, start) in sent {
        let value = match connection.reply() {
            Ok(Reply::Nil) => None,
            Ok(Reply::Bulk(bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            // Another node leads, or none.
            Ok(_) => continue,
            Err(_) => return,
        };
        let end = End::Acknowledged(seen.recorder.now());
        let action = Action::Read(value);
        seen.recorder.add(&key, Operation { client: PROBE, start, end, action });
    }
}

fn open(address: SocketAddr) -> std::io::Result<Connection> {
    let mut connection = Connection::open(address, REPLY_TIMEOUT)?;
    connection.command("READONLY")?;
    Ok(connection)
}

/// Waits until all replicas of a quiet cluster are equal; gives the differences if they never are.
pub fn compare(cluster: &Cluster) -> Vec<String> {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let contents: Vec<_> = (1..=NODES).map(|id| contents(cluster.address(id))).collect();
        let differences = differences(&contents);
        if differences.is_empty() || std::time::Instant::now() > deadline {
            return differences;
        }
        std::thread::sleep(AWAY_PAUSE);
    }
}

type Contents = std::io::Result<BTreeMap<Vec<u8>, Reply>>;

fn differences(contents: &[Contents]) -> Vec<String> {
    let mut differences = Vec::new();
    let mut all = Vec::new();
    for (nth, contents) in contents.iter().enumerate() {
        match contents {
            Ok(contents) => all.push((nth + 1, contents)),
            Err(error) => differences.push(format!("node {} can't be read: {error}", nth + 1)),
        }
    }
    let Some(((first, reference), others)) = all.split_first() else { return differences };
    for (node, contents) in others {
        let keys: BTreeSet<_> = reference.keys().chain(contents.keys()).collect();
        for key in keys {
            let (a, b) = (reference.get(key), contents.get(key));
            if a != b {
                let key = String::from_utf8_lossy(key);
                differences.push(format!(
                    "{key} is {a:?} at node {first} and {b:?} at node {node}, and stays so"
                ));
            }
        }
    }
    differences
}

/// All that the replicas of one node hold.
fn contents(address: SocketAddr) -> Contents {
    let mut connection = Connection::open(address, SOON)?;
    connection.command("READONLY")?;
    let Reply::Array(keys) = connection.command("KEYS *")? else {
        return Err(std::io::Error::other("KEYS gave no array"));
    };
    let keys: Vec<Vec<u8>> = keys
        .into_iter()
        .filter_map(|key| if let Reply::Bulk(key) = key { Some(key) } else { None })
        .collect();
    let mut contents = BTreeMap::new();
    for keys in keys.chunks(KEYS_PER_REQUEST) {
        for key in keys {
            connection.send(&[b"GET", key])?;
        }
        for key in keys {
            contents.insert(key.clone(), connection.reply()?);
        }
    }
    Ok(contents)
}
