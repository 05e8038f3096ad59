//! A proxy for the peer ports that knows where frames begin and end.
//!
//! For every ordered pair of nodes there is a listener, and the first is told that the second is
//! there. Each direction of each connection has a thread that reads frames, does to them what the
//! [`Rule`] of the direction says, and passes on what is left. The rule of a direction holds for the
//! bytes from one node to another, whichever of the two has dialled.
//!
//! A frame is lost, repeated or late as a whole; only `corrupted` touches bytes. While a direction is
//! deaf, the end of a connection does not get through either: no reset, no FIN, as with a cable cut.
//! What TCP itself does then, send again, only [`super::namespace`] shows.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::frame;
use super::rule::{Rule, happens};
use crate::support::random::Random;

/// Longest wait of a thread before it looks at its rule again.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes that one direction holds back before it reads no more.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Frames that each direction remembers, to send them again.
const REMEMBERED: usize = 512;

/// Longest frame that is remembered.
const REMEMBERED_BYTES_MAX: usize = 16 << 10;

/// How late a frame that is overtaken can be.
const OVERTAKEN_MS_MAX: u64 = 60;

/// How long a connect to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Names a fault, so that it can be taken away again.
pub type FaultId = u64;

/// What happened to frames so far.
#[derive(Debug, Default)]
pub struct Counters {
    passed: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    replayed: AtomicU64,
    reordered: AtomicU64,
    corrupted: AtomicU64,
}

impl Counters {
    /// Frames that went on their way.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Frames that did not arrive.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, lost, duplicated, replayed, reordered, corrupted } = self;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} passed, {} lost, {} reordered, {} duplicated, {} replayed, {} corrupted",
            get(passed),
            get(lost),
            get(reordered),
            get(duplicated),
            get(replayed),
            get(corrupted)
        )
    }
}

/// One direction between two nodes.
#[derive(Debug, Default)]
struct Direction {
    faults: Mutex<BTreeMap<FaultId, Rule>>,
    rule: Mutex<Arc<Rule>>,
    remembered: Mutex<VecDeque<Vec<u8>>>,
}

impl Direction {
    fn rule(&self) -> Arc<Rule> {
        self.rule.lock().unwrap().clone()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<FaultId, Rule>)) {
        let mut faults = self.faults.lock().unwrap();
        change(&mut faults);
        let all = faults.values().fold(Rule::default(), |all, rule| all.and(rule));
        *self.rule.lock().unwrap() = Arc::new(all);
    }

    fn remember(&self, frame: &[u8]) {
        if frame.len() > REMEMBERED_BYTES_MAX || !frame::is_message(frame) {
            return;
        }
        let mut remembered = self.remembered.lock().unwrap();
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(frame.to_vec());
    }

    fn recall(&self, random: &mut Random) -> Option<Vec<u8>> {
        let remembered = self.remembered.lock().unwrap();
        let count = remembered.len() as u64;
        let nth = usize::try_from(random.below(count.max(1))).unwrap();
        remembered.get(nth).cloned()
    }
}

/// A connection that goes through the proxy.
#[derive(Debug)]
struct Connection {
    pair: (u64, u64),
    dialled: TcpStream,
    accepted: TcpStream,
}

impl Connection {
    fn close(&self) {
        // Errors mean that it was closed already.
        let _ = self.dialled.shutdown(Shutdown::Both);
        let _ = self.accepted.shutdown(Shutdown::Both);
    }
}

#[derive(Debug)]
struct Shared {
    directions: BTreeMap<(u64, u64), Direction>,
    connections: Mutex<Vec<Weak<Connection>>>,
    counters: Counters,
    defects: Mutex<Vec<String>>,
    stop: AtomicBool,
    seed: u64,
    threads: AtomicU64,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn random(&self) -> Random {
        Random::new(self.seed.wrapping_add(self.threads.fetch_add(1, Ordering::Relaxed)))
    }
}

/// The proxies between all pairs of nodes.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: BTreeMap<(u64, u64), SocketAddr>,
}

impl Proxy {
    /// Proxies between the nodes with these peer addresses.
    pub fn start(nodes: &BTreeMap<u64, SocketAddr>, seed: u64) -> Self {
        let each = |from: u64| nodes.keys().map(move |to| (from, *to));
        let pairs: Vec<_> =
            nodes.keys().flat_map(|from| each(*from)).filter(|(from, to)| from != to).collect();
        let shared = Arc::new(Shared {
            directions: pairs.iter().map(|pair| (*pair, Direction::default())).collect(),
            connections: Mutex::default(),
            counters: Counters::default(),
            defects: Mutex::default(),
            stop: AtomicBool::new(false),
            seed,
            threads: AtomicU64::new(0),
        });
        let mut listeners = BTreeMap::new();
        for pair in pairs {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listeners.insert(pair, listener.local_addr().unwrap());
            let (shared, target) = (shared.clone(), nodes[&pair.1]);
            std::thread::spawn(move || accept_all(&shared, &listener, pair, target));
        }
        Self { shared, listeners }
    }

    /// Where `viewer` finds `node`.
    pub fn address(&self, viewer: u64, node: u64) -> SocketAddr {
        self.listeners[&(viewer, node)]
    }

    /// Adds a fault to the direction from one node to another.
    pub fn impair(&self, fault: FaultId, from: u64, to: u64, rule: Rule) {
        self.shared.directions[&(from, to)].change(|faults| {
            faults.insert(fault, rule);
        });
    }

    /// Takes a fault away, wherever it is.
    pub fn heal(&self, fault: FaultId) {
        for direction in self.shared.directions.values() {
            direction.change(|faults| {
                faults.remove(&fault);
            });
        }
    }

    /// Closes the connections between two nodes.
    pub fn cut(&self, a: u64, b: u64) {
        let mut connections = self.shared.connections.lock().unwrap();
        connections.retain(|connection| connection.strong_count() > 0);
        for connection in connections.iter().filter_map(Weak::upgrade) {
            if connection.pair == (a, b) || connection.pair == (b, a) {
                connection.close();
            }
        }
    }

    /// What happened to frames so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What nodes have sent that was not a frame.
    pub fn defects(&self) -> Vec<String> {
        self.shared.defects.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for connection in self.shared.connections.lock().unwrap().iter().filter_map(Weak::upgrade) {
            connection.close();
        }
        for listener in self.listeners.values() {
            // Wakes the thread that accepts.
            let _ = TcpStream::connect(listener);
        }
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener, pair: (u64, u64), target: SocketAddr) {
    for dialled in listener.incoming().map_while(Result::ok) {
        if shared.is_stopped() {
            return;
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            // An error closes the connection, and the node sees that its peer can't be reached.
            let _ = serve(&shared, dialled, pair, target);
        });
    }
}

fn serve(
    shared: &Arc<Shared>,
    dialled: TcpStream,
    pair: (u64, u64),
    target: SocketAddr,
) -> io::Result<()> {
    let (from, to) = pair;
    // A SYN does not get through where nothing does.
    while shared.directions[&(from, to)].rule().deaf {
        if shared.is_stopped() || has_ended(&dialled)? {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    let accepted = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
    dialled.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    let connection = Arc::new(Connection { pair, dialled, accepted });
    {
        let mut connections = shared.connections.lock().unwrap();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&connection));
    }
    let back = (shared.clone(), connection.clone());
    std::thread::spawn(move || {
        let (shared, connection) = back;
        Pump::new(&shared, (to, from)).run(&connection.accepted, &connection.dialled);
        connection.close();
    });
    Pump::new(shared, pair).run(&connection.dialled, &connection.accepted);
    connection.close();
    Ok(())
}

/// Whether the other side of a quiet connection has closed it.
fn has_ended(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(matches!(peeked, Ok(0)))
}

/// One direction of one connection.
struct Pump<'a> {
    shared: &'a Shared,
    direction: &'a Direction,
    pair: (u64, u64),
    random: Random,
    /// What has been read and is not a whole frame yet.
    read: Vec<u8>,
    /// Frames that wait, by when they are due and when they came.
    held: BTreeMap<(Instant, u64), Vec<u8>>,
    held_bytes: usize,
    count: u64,
    last_due: Instant,
    /// When the bandwidth allows the next frame.
    free_at: Instant,
}

impl<'a> Pump<'a> {
    fn new(shared: &'a Shared, pair: (u64, u64)) -> Self {
        let now = Instant::now();
        Self {
            shared,
            direction: &shared.directions[&pair],
            pair,
            random: shared.random(),
            read: Vec::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            count: 0,
            last_due: now,
            free_at: now,
        }
    }

    /// Passes frames on until either side closes.
    fn run(mut self, mut from: &TcpStream, to: &TcpStream) {
        let mut chunk = vec![0; 64 << 10];
        let mut timeout = Duration::ZERO;
        while !self.shared.is_stopped() {
            let rule = self.direction.rule();
            if self.send_due(&rule, to).is_err() {
                return;
            }
            let wait = self.next_due().map_or(LOOK, |due| {
                due.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), LOOK)
            });
            if rule.clogged || self.held_bytes > HELD_BYTES_MAX {
                std::thread::sleep(wait);
                continue;
            }
            if timeout != wait {
                timeout = wait;
                if from.set_read_timeout(Some(timeout)).is_err() {
                    return;
                }
            }
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => break,
                },
            }
            // It may have changed while nothing came.
            let rule = self.direction.rule();
            if let Err(reason) = self.take_frames(&rule) {
                let (from, to) = self.pair;
                let defect = format!("node {from} sent node {to} what is no frame: {reason}");
                self.shared.defects.lock().unwrap().push(defect);
                return;
            }
        }
        self.finish(to);
    }

    /// Sends what is held after the sender has closed, as far as it gets through.
    fn finish(mut self, to: &TcpStream) {
        while !self.shared.is_stopped() {
            let rule = self.direction.rule();
            if self.send_due(&rule, to).is_err() || (self.held.is_empty() && !rule.deaf) {
                return;
            }
            if !matches!(has_ended(to), Ok(false)) {
                return;
            }
            std::thread::sleep(LOOK / 4);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.held.keys().next().map(|(due, _)| (*due).max(self.free_at))
    }

    fn take_frames(&mut self, rule: &Rule) -> Result<(), String> {
        let counters = &self.shared.counters;
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        while let Some(mut frame) = frame::take(&mut self.read)? {
            if rule.deaf || happens(rule.dropped, &mut self.random) {
                add(&counters.lost);
                continue;
            }
            add(&counters.passed);
            let now = Instant::now();
            let delay_us = u64::try_from(rule.delay_max.as_micros()).unwrap();
            let delay = rule.delay_min + Duration::from_micros(self.random.below(delay_us + 1));
            let mut due = (now + delay).max(self.last_due);
            if frame::is_message(&frame) && happens(rule.reordered, &mut self.random) {
                // Does not hold up what follows.
                due += Duration::from_millis(1 + self.random.below(OVERTAKEN_MS_MAX));
                add(&counters.reordered);
            } else {
                self.last_due = due;
            }
            self.direction.remember(&frame);
            if happens(rule.corrupted, &mut self.random) {
                let bit = usize::try_from(self.random.below(frame.len() as u64 * 8)).unwrap();
                frame[bit / 8] ^= 1 << (bit % 8);
                add(&counters.corrupted);
            } else if happens(rule.duplicated, &mut self.random) && frame::is_message(&frame) {
                self.hold(due, frame.clone());
                add(&counters.duplicated);
            }
            self.hold(due, frame);
            if happens(rule.replayed, &mut self.random)
                && let Some(old) = self.direction.recall(&mut self.random)
            {
                self.hold(due, old);
                add(&counters.replayed);
            }
        }
        Ok(())
    }

    fn hold(&mut self, due: Instant, frame: Vec<u8>) {
        self.held_bytes += frame.len();
        self.count += 1;
        self.held.insert((due, self.count), frame);
    }

    fn send_due(&mut self, rule: &Rule, mut to: &TcpStream) -> io::Result<()> {
        let now = Instant::now();
        while let Some(due) = self.next_due()
            && due <= now
            && let Some((_, frame)) = self.held.pop_first()
        {
            self.held_bytes -= frame.len();
            if rule.deaf {
                self.shared.counters.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if let Some(bytes_per_second) = std::num::NonZeroU64::new(rule.bytes_per_second) {
                let us = frame.len() as u64 * 1_000_000 / bytes_per_second;
                self.free_at = now.max(self.free_at) + Duration::from_micros(us);
            }
            to.write_all(&frame)?;
        }
        Ok(())
    }
}
