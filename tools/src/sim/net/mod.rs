//! The simulated network: byte streams between processes on hosts, and all that can go wrong with them.
//!
//! # Without faults
//! It is TCP as a program sees it. Connecting takes a round trip; where nobody listens it is refused, and a
//! listener has a bounded queue. Bytes arrive in order, in pieces of any size. A window bounds what is under
//! way or unread in one direction, so that a writer waits for a slow reader. The end of a stream comes after
//! its data. A process that dies closes its streams in order or by reset; data for a stream that is no more
//! is answered by a reset. [`NetWeather`] says how long things take; every directed pair of hosts
//! draws its own figures.
//!
//! # Faults between hosts
//! All hold for one direction; [`Net::reset`] for a pair.
//!
//! | fault | what it means |
//! |---|---|
//! | [block](Net::block) | Nothing arrives, nothing fails: packets wait, resets are lost, connecting takes until its timeout. When it ends, what waited comes late, or the stream is reset. Acknowledgements are held too: the other direction stops once its window is full |
//! | [clog](Net::clog) | All takes many times as long |
//! | [stall](Net::stall) | Receivers get nothing although it has arrived: slow readers |
//! | [reset](Net::reset) | All streams between two hosts break at both ends; bytes on the way are lost |
//! | [process death](Net::kill_process) | See above. With a power cut nobody is told: only timeouts help, or the reset that answers data once the host is back |
//!
//! # Faults of frames
//! Raft has to survive what TCP alone never does, because a program may reconnect, and because a later
//! transport may be another. Therefore a stream that consists of frames of the peer protocol is cut into them,
//! and each may be [dropped, doubled, overtaken, replayed, damaged](Fate). Greetings, pulses, and the
//! snapshots that follow a greeting, are only ever damaged. A *ghost* is a frame of an earlier connection to the same
//! address, also of an earlier life of the process at either end. A damaged frame must be noticed by the receiver's
//! checksums.
//!
//! What the process at the receiving end is told, the *tap* is told too, and before: [`Net::set_tap`] sees
//! every frame at the moment at which its sender lets go of it, whatever happens to it afterwards.
//!
//! # Counted
//! `net.block`, `net.clog`, `net.stall`, `net.reset`, `net.blackout`, `net.drop`, `net.duplicate`,
//! `net.delay`, `net.replay`, `net.ghost`, `net.corrupt`, `net.corrupt_bulk`, `net.reset_at_death`,
//! `net.reset_after_block`, `net.power_cut`.

mod connection;
mod frames;
mod path;
mod pipe;
mod stream;
#[cfg(test)]
mod tests;
mod weather;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use self::connection::Connection;
pub use self::frames::{Fate, SentFrame};
use self::path::{By, Path};
use self::stream::Backlog;
pub use self::stream::{SimListener, SimReader, SimWriter};
pub use self::weather::{FrameRates, NetWeather};
use super::world::{ProcessId, World};

/// First pause before an unanswered attempt to connect is repeated; doubles each time.
const CONNECT_REPEAT: Duration = Duration::from_millis(300);

/// A machine. It keeps its number, name and place in the network whatever processes run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u16);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Whoever watches frames.
pub type Tap = Rc<dyn Fn(&SentFrame)>;

struct Shared {
    world: World,
    weather: RefCell<NetWeather>,
    paths: RefCell<BTreeMap<(HostId, HostId), Rc<Path>>>,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    connections_opened: Cell<u64>,
    listeners: RefCell<BTreeMap<Rc<str>, Rc<Backlog>>>,
    /// Which host a name stands for.
    names: RefCell<BTreeMap<String, HostId>>,
    /// Hosts without power.
    down: RefCell<BTreeSet<HostId>>,
    tap: RefCell<Option<Tap>>,
    arrivals: RefCell<Option<Tap>>,
    tells_arrivals: Cell<bool>,
}

/// The network. Clones are the same network.
#[derive(Clone)]
pub struct Net(Rc<Shared>);

/// How one try to reach a listener ended.
enum Answer {
    Accepted(ProcessId),
    Refused,
    Silence,
}

impl Net {
    /// A network without hosts.
    #[must_use]
    pub fn new(world: World, weather: NetWeather) -> Self {
        Self(Rc::new(Shared {
            world,
            weather: RefCell::new(weather),
            paths: RefCell::default(),
            connections: RefCell::default(),
            connections_opened: Cell::new(0),
            listeners: RefCell::default(),
            names: RefCell::default(),
            down: RefCell::default(),
            tap: RefCell::default(),
            arrivals: RefCell::default(),
            tells_arrivals: Cell::new(false),
        }))
    }

    pub(super) fn world(&self) -> &World {
        &self.0.world
    }

    /// `tap` is told of every whole frame when its sender hands it over, before anything can happen to it.
    pub fn set_tap(&self, tap: Tap) {
        *self.0.tap.borrow_mut() = Some(tap);
    }

    /// `tap` is told of every whole frame that arrives, as it arrives.
    pub fn set_arrival_tap(&self, tap: Tap) {
        *self.0.arrivals.borrow_mut() = Some(tap);
        self.0.tells_arrivals.set(true);
    }

    /// Frames that arrive are told in the story, if there is one.
    pub fn tell_arrivals(&self) {
        self.0.tells_arrivals.set(true);
    }

    /// `name` (of `name:port`) stands for `host`. Listening says so too.
    pub fn name_host(&self, name: &str, host: HostId) {
        self.0.names.borrow_mut().insert(name.to_owned(), host);
    }

    /// Accepts streams at `address` (`name:port`) of `host` for the process `owner`.
    ///
    /// # Errors
    /// `AddrInUse` when another listener has the address.
    pub fn listen(&self, owner: ProcessId, host: HostId, address: &str) -> io::Result<SimListener> {
        if self.0.listeners.borrow().contains_key(address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.name_host(name_of(address), host);
        self.power_on(host);
        let address: Rc<str> = address.into();
        let backlog = Rc::new(Backlog {
            owner,
            address: address.clone(),
            queue: RefCell::default(),
            waker: RefCell::default(),
        });
        self.0.listeners.borrow_mut().insert(address, backlog.clone());
        Ok(SimListener { net: self.clone(), backlog })
    }

    /// Opens a stream from the process `owner` on `from` to `address`.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there, `TimedOut` when no answer came.
    pub async fn connect(
        &self,
        owner: ProcessId,
        from: HostId,
        address: &str,
        timeout: Duration,
    ) -> io::Result<(SimReader, SimWriter)> {
        let world = self.world();
        let deadline = world.now() + timeout;
        let Some(to) = self.0.names.borrow().get(name_of(address)).copied() else {
            world.sleep(CONNECT_REPEAT.min(timeout)).await;
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        self.power_on(from);
        let (there, back) = (self.path(from, to), self.path(to, from));
        let mut pause = CONNECT_REPEAT;
        loop {
            let next = world.now() + pause;
            pause *= 2;
            world.sleep_until((world.now() + there.latency()).min(deadline)).await;
            let answer = if there.is_blocked() { Answer::Silence } else { self.knock(to, address) };
            if !matches!(answer, Answer::Silence) {
                world.sleep_until((world.now() + back.latency()).min(deadline)).await;
            }
            if world.now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match answer {
                Answer::Refused if !back.is_blocked() => {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Answer::Accepted(peer) if !back.is_blocked() => {
                    return Ok(self.open(owner, peer, address, [there, back]));
                }
                _ => world.sleep_until(next.min(deadline)).await,
            }
            if world.now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn knock(&self, host: HostId, address: &str) -> Answer {
        if self.is_down(host) {
            return Answer::Silence;
        }
        match self.0.listeners.borrow().get(address) {
            None => Answer::Refused,
            Some(backlog) if self.has_room(backlog) => Answer::Accepted(backlog.owner),
            Some(_) => Answer::Silence,
        }
    }

    fn has_room(&self, backlog: &Backlog) -> bool {
        backlog.queue.borrow().len() < self.0.weather.borrow().backlog
    }

    fn open(
        &self,
        owner: ProcessId,
        peer: ProcessId,
        address: &str,
        paths: [Rc<Path>; 2],
    ) -> (SimReader, SimWriter) {
        let id = self.0.connections_opened.get() + 1;
        self.0.connections_opened.set(id);
        let (from, to) = (paths[0].from, paths[0].to);
        self.world().story(|| format!("net: {from} -> {to} #{id}: connected to {address}"));
        let connection = Connection::open(self, id, address.into(), [owner, peer], paths);
        self.0.connections.borrow_mut().insert(id, connection.clone());
        stream::halves(self, &connection, 0)
    }

    /// The first packet of a stream has arrived.
    fn admit(&self, connection: &Rc<Connection>) {
        let backlog = self.0.listeners.borrow().get(&connection.address).cloned();
        match backlog {
            Some(backlog) if self.has_room(&backlog) => {
                let from = connection.accept();
                backlog.queue.borrow_mut().push_back((connection.clone(), from));
                let waker = backlog.waker.borrow_mut().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            _ => connection.turn_away(self),
        }
    }

    fn stop_listening(&self, backlog: &Rc<Backlog>) {
        {
            let mut listeners = self.0.listeners.borrow_mut();
            let known = listeners.get(&backlog.address);
            if known.is_some_and(|known| Rc::ptr_eq(known, backlog)) {
                listeners.remove(&backlog.address);
            }
        }
        self.turn_away_all(backlog);
    }

    fn turn_away_all(&self, backlog: &Backlog) {
        let waiting: VecDeque<_> = std::mem::take(&mut *backlog.queue.borrow_mut());
        for (connection, _) in waiting {
            drop(stream::halves(self, &connection, 1));
        }
    }

    fn forget(&self, connection: u64) {
        let forgotten = self.0.connections.borrow_mut().remove(&connection);
        drop(forgotten);
    }

    fn is_down(&self, host: HostId) -> bool {
        self.0.down.borrow().contains(&host)
    }

    fn reset_after_block(&self) -> f64 {
        self.0.weather.borrow().reset_after_block
    }

    fn reset_at_death(&self) -> f64 {
        self.0.weather.borrow().reset_at_death
    }

    fn tells_arrivals(&self) -> bool {
        self.0.tells_arrivals.get()
    }

    fn tell_arrival(&self, frame: &SentFrame) {
        self.world().story(|| {
            let text = frames::describe(&frame.bytes);
            format!("net: {} -> {} #{}: {text}", frame.from, frame.to, frame.connection)
        });
        let tap = self.0.arrivals.borrow().clone();
        if let Some(tap) = tap {
            tap(frame);
        }
    }

    fn tell_sent(&self, connection: &Connection, side: usize, bytes: &Bytes) {
        let tap = self.0.tap.borrow().clone();
        if let Some(tap) = tap {
            tap(&connection.frame_of(side, bytes.clone()));
        }
    }

    fn path(&self, from: HostId, to: HostId) -> Rc<Path> {
        let mut paths = self.0.paths.borrow_mut();
        let path = paths.entry((from, to)).or_insert_with(|| {
            let rng = self.world().rng_for(&format!("net/{}/{}", from.0, to.0));
            Rc::new(Path::new(from, to, &self.0.weather.borrow(), rng))
        });
        path.clone()
    }

    /// Outside of any borrow: what is done to connections may end them.
    fn connections(&self) -> Vec<Rc<Connection>> {
        self.0.connections.borrow().values().cloned().collect()
    }

    // Faults.

    /// A process has died. Its listeners are gone; the peers of its streams see an end or a reset, or, in a
    /// power cut, nothing. Call it before the process's tasks are dropped.
    pub fn kill_process(&self, process: ProcessId, power_cut: bool) {
        if power_cut {
            self.world().count("net.power_cut");
        }
        let theirs: Vec<Rc<Backlog>> = {
            let mut listeners = self.0.listeners.borrow_mut();
            let of_process = listeners.values().filter(|backlog| backlog.owner == process);
            let found: Vec<Rc<Backlog>> = of_process.cloned().collect();
            found.iter().for_each(|backlog| drop(listeners.remove(&backlog.address)));
            found
        };
        if power_cut {
            let names = self.0.names.borrow();
            let hosts = theirs.iter().filter_map(|backlog| names.get(name_of(&backlog.address)));
            let mut down = self.0.down.borrow_mut();
            down.extend(hosts);
            down.extend(self.connections().iter().filter_map(|c| c.host_of(process)));
        }
        for connection in self.connections() {
            connection.process_died(self, process, power_cut);
        }
        theirs.iter().for_each(|backlog| self.turn_away_all(backlog));
    }

    /// The host answers again, even if only to say that nobody listens. Listening and connecting say so too.
    pub fn power_on(&self, host: HostId) {
        if self.0.down.borrow_mut().remove(&host) {
            for connection in self.connections() {
                connection.host_is_back(self, host);
            }
        }
    }

    /// Nothing arrives at `to` from `from` any more, until [`Net::unblock`].
    pub fn block(&self, from: HostId, to: HostId) {
        self.world().count("net.block");
        self.world().story(|| format!("net: {from} -> {to} blocked"));
        self.path(from, to).block(By::Plan);
    }

    /// Ends [`Net::block`].
    pub fn unblock(&self, from: HostId, to: HostId) {
        self.world().story(|| format!("net: {from} -> {to} open again"));
        self.unblock_path(&self.path(from, to), By::Plan);
    }

    fn unblock_path(&self, path: &Rc<Path>, by: By) {
        if path.unblock(by) {
            for connection in self.connections() {
                connection.path_opened(self, path, false);
            }
        }
    }

    /// From `from` to `to` everything takes `factor` times as long; 1 is as usual.
    pub fn clog(&self, from: HostId, to: HostId, factor: f64) {
        self.world().story(|| format!("net: {from} -> {to} takes {factor} times as long"));
        let path = self.path(from, to);
        path.clog(factor, self.world().now());
        if factor > 1.0 {
            self.world().count("net.clog");
        } else {
            self.connections().iter().for_each(|c| c.path_unclogged(self, &path));
        }
    }

    /// Processes on `to` get nothing of what arrives from `from`, until [`Net::unstall`].
    pub fn stall(&self, from: HostId, to: HostId) {
        self.world().count("net.stall");
        self.world().story(|| format!("net: {to} reads nothing from {from}"));
        self.path(from, to).stall(By::Plan);
    }

    /// Ends [`Net::stall`].
    pub fn unstall(&self, from: HostId, to: HostId) {
        self.world().story(|| format!("net: {to} reads from {from} again"));
        self.unstall_path(&self.path(from, to), By::Plan);
    }

    fn unstall_path(&self, path: &Rc<Path>, by: By) {
        path.unstall(by);
        if !path.is_stalled() {
            self.connections().iter().for_each(|c| c.path_unstalled(path));
        }
    }

    /// Breaks all streams between two hosts.
    pub fn reset(&self, a: HostId, b: HostId) {
        self.world().count("net.reset");
        self.world().story(|| format!("net: all streams between {a} and {b} are reset"));
        for connection in self.connections() {
            if connection.is_between(a, b) {
                connection.reset(self);
            }
        }
    }

    /// How often frames from `from` to `to` meet a fault from now on.
    pub fn set_frame_rates(&self, from: HostId, to: HostId, rates: FrameRates) {
        self.path(from, to).set_rates(rates);
    }

    /// The next Raft frame from `from` to `to` meets `fate`. Several wait for as many frames.
    pub fn next_frame(&self, from: HostId, to: HostId, fate: Fate) {
        self.path(from, to).force(fate);
    }

    /// Ends all faults, for good: blocks, clogs and stalls are lifted, what was held flows, and nothing
    /// more happens by chance. What is blocked later on is blocked all the same.
    pub fn heal(&self) {
        self.world().story(|| "net: healed".to_owned());
        {
            let mut weather = self.0.weather.borrow_mut();
            weather.frames = FrameRates::NONE;
            (weather.spike, weather.reset, weather.blackout, weather.stall) = (0.0, 0.0, 0.0, 0.0);
            weather.reset_after_block = 0.0;
        }
        let paths: Vec<Rc<Path>> = self.0.paths.borrow().values().cloned().collect();
        paths.iter().for_each(|path| self.heal_path(path));
    }

    /// As [`Net::heal`], but only between these hosts; whatever cuts them off from others stays.
    pub fn heal_among(&self, hosts: &[HostId]) {
        self.world().story(|| format!("net: healed among {hosts:?}"));
        for from in hosts {
            for to in hosts {
                self.heal_path(&self.path(*from, *to));
            }
        }
    }

    fn heal_path(&self, path: &Rc<Path>) {
        path.calm(self.world().now());
        path.unblock(By::Plan);
        path.unblock(By::Weather);
        path.unstall(By::Plan);
        path.unstall(By::Weather);
        for connection in self.connections() {
            connection.path_unclogged(self, path);
            connection.path_opened(self, path, true);
            connection.path_unstalled(path);
        }
    }
}

/// The host's part of `name:port`.
fn name_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(name, _)| name)
}
