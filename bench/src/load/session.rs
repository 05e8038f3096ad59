//! One logical client: what it wants to send, where, and what became of it.
//!
//! A session has a home, the server that owns its home slot, and draws keys that the home owns: so
//! a pipeline is one `write` to one server, as with any cluster client that groups by server. When
//! slots move, the home moves with the next batch.
//!
//! The fate of a request:
//!
//! ```text
//! queue -> in flight -> good reply                                    ok
//!   ^          |------> MOVED, TRYAGAIN, CLUSTERDOWN, LOADING         back to the queue, with a bound
//!   |__________|------> any other error                               error, by its text;
//!              |                                                     UNKNOWN: a write is "unknown"
//!              '------> connection lost, no reply in time             error; a write is "unknown"
//! ```
//!
//! A request that was never sent is not lost with a connection: it waits in the queue.

use std::collections::VecDeque;
use std::net::SocketAddr;

use mio::event::Event;
use mio::{Registry, Token};

use super::client::{Connection, ConnectionError};
use super::plan::{Plan, nanos};
use super::resp::Reply;
use super::slots::{ServerId, SlotMap, parse_moved};
use super::stats::Stats;
use super::workload::{Op, Random};

/// First pause after a failure; doubles up to the longest.
const PAUSE_NS_MIN: u64 = 5_000_000;
/// Longest pause between two tries. Short, so that a failover's end is seen when it comes.
const PAUSE_NS_MAX: u64 = 100_000_000;
/// Redirections that a request follows at once; then it pauses, lest two servers play ping-pong.
const MOVED_AT_ONCE_MAX: u16 = 3;
/// Draws of a random key before a session accepts one that its home does not own.
const DRAWS_MAX: usize = 64;
/// Distinct error texts that are counted apart; servers may put changing numbers into them.
const ERROR_KINDS_MAX: usize = 24;
/// Bytes of an error text that tell its kind.
const ERROR_TEXT_BYTES_MAX: usize = 80;

/// One request, from its birth to its end.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    key: u32,
    op: Op,
    retries: u16,
    /// Whether a write of the key was acknowledged before this read was sent.
    acknowledged: bool,
    sequence: u64,
    /// When the schedule wanted it sent; in a closed loop, when it was made.
    intended: u64,
    /// When it was taken from the schedule.
    born: u64,
    /// When its client first tried to send it; 0 before.
    started: u64,
    /// When it was sent last.
    last_sent: u64,
}

/// What the sessions of one thread share.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// Registers connections.
    pub registry: Registry,
    /// Who owns which slot, as far as this thread knows.
    pub map: SlotMap,
    /// Counts since the last interval.
    pub stats: Stats,
    /// Chooses keys.
    pub random: Random,
    /// Commands on their way out.
    pub out: Vec<u8>,
    /// The keys that have an acknowledged write, one bit each; empty without checks.
    pub acknowledged: Vec<u64>,
    /// Marks the next write.
    pub sequence: u64,
    /// Keys in their turn: the next one of this thread.
    pub next_key: u64,
    /// Requests that may still be made.
    pub quota: u64,
    /// No new requests: the run is ending.
    pub closing: bool,
    /// When the last good reply came, and the longest time without one.
    pub last_ok: u64,
    /// See `last_ok`; nanoseconds.
    pub longest_pause: u64,
}

impl Shared<'_> {
    fn is_acknowledged(&self, key: u32) -> bool {
        let word = self.acknowledged.get(key as usize / 64).copied().unwrap_or(0);
        word >> (key % 64) & 1 == 1
    }

    fn note_acknowledged(&mut self, key: u32) {
        if let Some(word) = self.acknowledged.get_mut(key as usize / 64) {
            *word |= 1 << (key % 64);
        }
    }

    fn new_request(&mut self, home: Option<ServerId>, intended: u64, now: u64) -> Request {
        let key = if self.plan.in_turn { self.key_in_turn() } else { self.random_key(home) };
        let read = self.random.below(100) < self.plan.read_percent;
        self.sequence += 1;
        self.quota -= 1;
        Request {
            key,
            op: if read { Op::Read } else { Op::Write },
            retries: 0,
            acknowledged: false,
            sequence: self.sequence,
            intended,
            born: now,
            started: 0,
            last_sent: 0,
        }
    }

    /// A random key that `home` owns, if one is found soon.
    fn random_key(&mut self, home: Option<ServerId>) -> u32 {
        let keys = &self.plan.keys;
        let mut key = self.random.below(keys.len());
        for _ in 0..DRAWS_MAX {
            if self.map.owner(keys.slot(key)) == home {
                break;
            }
            key = self.random.below(keys.len());
        }
        key
    }

    /// The threads share the keys out among themselves.
    fn key_in_turn(&mut self) -> u32 {
        let keys = u64::from(self.plan.keys.len());
        let key = self.next_key % keys;
        self.next_key += u64::from(self.plan.threads);
        u32::try_from(key).expect("less than the number of keys")
    }

    fn count_error_text(&mut self, text: &str) {
        if self.stats.errors.len() < ERROR_KINDS_MAX || self.stats.errors.contains_key(text) {
            self.stats.count_error(text);
        } else {
            self.stats.count_error("(other)");
        }
    }

    /// Records a good reply.
    fn finish(&mut self, request: &Request, missing: bool, now: u64) {
        if now < self.plan.measure_to() {
            self.stats.count_ok(request.op, missing);
            self.longest_pause = self.longest_pause.max(now - self.last_ok);
            self.last_ok = now;
        }
        if request.intended >= self.plan.measure_from() {
            self.stats.service.saturating_record(now - request.started);
            if self.plan.rate.is_some() {
                self.stats.intended.saturating_record(now - request.intended);
            }
        }
    }

    fn lose(&mut self, request: &Request, why: &str) {
        let op = match request.op {
            Op::Read => "read",
            Op::Write => {
                self.stats.unknown_writes += 1;
                "write"
            }
        };
        self.count_error_text(&format!("{op}: {why}"));
    }
}

/// What a reply means for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    RetryNow,
    RetryLater,
}

/// One logical client.
#[derive(Debug)]
pub struct Session {
    /// Its number over all threads.
    number: u32,
    /// Its place in its thread; part of its tokens.
    place: usize,
    queue: VecDeque<Request>,
    connections: Vec<Option<Connection<Request>>>,
    in_flight: usize,
    /// Whether it ever had a connection.
    has_sent: bool,
    /// Nothing is sent before.
    resume_at: u64,
    pause_ns: u64,
    /// Open loop: arrivals that are due, and those that were taken into the queue.
    arrivals_due: u64,
    arrivals_taken: u64,
}

impl Session {
    /// Client `number` of the run, the `place`th of its thread.
    pub fn new(number: u32, place: usize) -> Self {
        Self {
            number,
            place,
            queue: VecDeque::new(),
            connections: Vec::new(),
            in_flight: 0,
            has_sent: false,
            resume_at: 0,
            pause_ns: PAUSE_NS_MIN,
            arrivals_due: 0,
            arrivals_taken: 0,
        }
    }

    /// The token of its connection to `server`.
    fn token(&self, server: ServerId) -> Token {
        Token(self.place << 32 | server.0 as usize)
    }

    /// The place and the server that `token` stands for.
    pub fn of_token(token: Token) -> (usize, ServerId) {
        (token.0 >> 32, ServerId(token.0 as u32))
    }

    /// Whether it has nothing left to do but new requests.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }

    /// Whether it waits for a moment to try again.
    pub fn is_paused(&self, now: u64) -> bool {
        self.resume_at > now
    }

    /// One more arrival of the open loop is due.
    pub fn arrive(&mut self) {
        self.arrivals_due += 1;
    }

    fn arrivals_left(&self) -> u64 {
        self.arrivals_due - self.arrivals_taken
    }

    /// Arrivals that were due but never became a request because the server could not keep up. How
    /// long each has waited until `end` is recorded as its latency, the least it can have: leaving
    /// them out would hide the overload.
    pub fn give_up_arrivals(&mut self, shared: &mut Shared<'_>, end: u64) -> u64 {
        let left = self.arrivals_left();
        let Some(rate) = shared.plan.rate else { return left };
        for round in self.arrivals_taken..self.arrivals_due {
            let due = shared.plan.due(rate, self.number, round);
            if due >= shared.plan.measure_from() {
                shared.stats.intended.saturating_record(end.saturating_sub(due));
            }
        }
        self.arrivals_taken = self.arrivals_due;
        left
    }

    /// Makes new requests as the loop allows, and sends what can be sent.
    pub fn pump(&mut self, shared: &mut Shared<'_>, now: u64) {
        if self.is_paused(now) {
            return;
        }
        self.refill(shared, now);
        self.flush(shared, now);
    }

    fn refill(&mut self, shared: &mut Shared<'_>, now: u64) {
        if shared.closing {
            return;
        }
        let pipeline = shared.plan.pipeline;
        let home = shared.map.owner(shared.plan.home_slot(self.number));
        match shared.plan.rate {
            None if self.is_idle() => {
                let count = usize::try_from(shared.quota).map_or(pipeline, |q| q.min(pipeline));
                for _ in 0..count {
                    self.queue.push_back(shared.new_request(home, now, now));
                }
            }
            None => {}
            Some(rate) => {
                let mut room = pipeline.saturating_sub(self.queue.len() + self.in_flight);
                while room > 0 && self.arrivals_left() > 0 && shared.quota > 0 {
                    let due = shared.plan.due(rate, self.number, self.arrivals_taken);
                    self.queue.push_back(shared.new_request(home, due, now));
                    self.arrivals_taken += 1;
                    room -= 1;
                }
            }
        }
    }

    fn flush(&mut self, shared: &mut Shared<'_>, now: u64) {
        while let Some(front) = self.queue.front() {
            let slot = shared.plan.keys.slot(front.key);
            let Some(owner) = shared.map.owner(slot) else {
                shared.stats.count_notice("waited: slot without owner");
                shared.plan.topology.request_refresh(None);
                return self.pause(now);
            };
            match self.connection(owner, shared) {
                Ok(true) => self.send_to(owner, shared),
                Ok(false) => return,
                Err(error) => return self.lose_connection(owner, &error, shared, now),
            }
            if self.is_paused(now) {
                return;
            }
        }
    }

    /// Makes sure that there is a connection to `server`; says whether it is open.
    fn connection(
        &mut self,
        server: ServerId,
        shared: &Shared<'_>,
    ) -> Result<bool, ConnectionError> {
        let index = server.0 as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        if let Some(connection) = &self.connections[index] {
            return Ok(connection.is_open());
        }
        let address = shared.map.address(server);
        let connection = Connection::connect(address, &shared.registry, self.token(server))?;
        self.connections[index] = Some(connection);
        Ok(false)
    }

    /// Sends the requests at the head of the queue that `server` owns, as one write.
    fn send_to(&mut self, server: ServerId, shared: &mut Shared<'_>) {
        let mut out = std::mem::take(&mut shared.out);
        out.clear();
        let now = shared.plan.now();
        let mut count = 0;
        for request in &mut self.queue {
            if shared.map.owner(shared.plan.keys.slot(request.key)) != Some(server) {
                break;
            }
            if request.started == 0 {
                // Waiting for a server that is away counts; the run's first connect does not.
                request.started = if self.has_sent { request.born } else { now };
            }
            request.last_sent = now;
            request.acknowledged = request.op == Op::Read && shared.is_acknowledged(request.key);
            shared.plan.codec.encode(&mut out, request.op, request.key, request.sequence);
            count += 1;
        }
        self.has_sent = true;
        self.in_flight += count;
        let requests = self.queue.drain(..count);
        let sent = match &mut self.connections[server.0 as usize] {
            Some(connection) => connection.send(&out, requests),
            None => unreachable!("the caller has just seen it open"),
        };
        shared.out = out;
        if let Err(error) = sent {
            self.lose_connection(server, &error, shared, now);
        }
    }

    /// Something happened on the connection to `server`.
    pub fn on_event(
        &mut self,
        server: ServerId,
        event: &Event,
        scratch: &mut [u8],
        shared: &mut Shared<'_>,
    ) {
        let outcome = self.handle(server, event, scratch, shared);
        if let Err(error) = outcome {
            self.lose_connection(server, &error, shared, shared.plan.now());
        }
    }

    fn handle(
        &mut self,
        server: ServerId,
        event: &Event,
        scratch: &mut [u8],
        shared: &mut Shared<'_>,
    ) -> Result<(), ConnectionError> {
        // An event of a connection that is gone already is nobody's.
        let Some(Some(connection)) = self.connections.get_mut(server.0 as usize) else {
            return Ok(());
        };
        if event.is_writable() && !connection.on_writable()? {
            return Ok(());
        }
        if !event.is_readable() || !connection.is_open() {
            return Ok(());
        }
        let address = shared.map.address(server);
        let mut arrived = None;
        let mut retry_later = false;
        let Self { queue, in_flight, pause_ns, .. } = self;
        let received = connection.receive(scratch, event.is_read_closed(), |mut request, reply| {
            let now = *arrived.get_or_insert_with(|| shared.plan.now());
            *in_flight -= 1;
            match judge(&mut request, &reply, address, shared, now) {
                Verdict::Done => *pause_ns = PAUSE_NS_MIN,
                Verdict::RetryNow => queue.push_back(request),
                Verdict::RetryLater => {
                    queue.push_back(request);
                    retry_later = true;
                }
            }
        });
        if retry_later {
            self.pause(shared.plan.now());
        }
        received
    }

    /// Gives up connections that take too long, and requests that were retried for too long.
    pub fn check_times(&mut self, shared: &mut Shared<'_>, now: u64) {
        let limit = nanos(shared.plan.timeout);
        for index in 0..self.connections.len() {
            let Some(connection) = &self.connections[index] else { continue };
            let since = match connection.in_flight().front() {
                Some(oldest) => oldest.last_sent,
                None if connection.is_open() => continue,
                None => self.queue.front().map_or(now, |waiting| waiting.born.max(self.resume_at)),
            };
            if now.saturating_sub(since) > limit {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
                self.lose_connection(ServerId(index as u32), &late, shared, now);
            }
        }
        let give_up = nanos(shared.plan.give_up);
        let before = self.queue.len();
        self.queue.retain(|request| now.saturating_sub(request.born) <= give_up);
        for _ in self.queue.len()..before {
            shared.stats.count_error("gave up: refused or unreachable for too long");
        }
    }

    /// The run is over: counts what is still in flight. Returns how many requests were unfinished.
    pub fn abandon(&mut self, shared: &mut Shared<'_>) -> u64 {
        let mut unfinished = self.queue.len() as u64;
        for connection in self.connections.drain(..).flatten() {
            for request in connection.into_in_flight() {
                shared.lose(&request, "no reply before the end of the run");
                unfinished += 1;
            }
        }
        self.queue.clear();
        self.in_flight = 0;
        unfinished
    }

    fn lose_connection(
        &mut self,
        server: ServerId,
        error: &ConnectionError,
        shared: &mut Shared<'_>,
        now: u64,
    ) {
        let connection = self.connections.get_mut(server.0 as usize).and_then(Option::take);
        let was_open = connection.as_ref().is_some_and(Connection::is_open);
        let reason = describe(error);
        shared.stats.count_notice(&if was_open {
            format!("connection lost: {reason}")
        } else {
            format!("cannot connect: {reason}")
        });
        for request in connection.map(Connection::into_in_flight).into_iter().flatten() {
            self.in_flight -= 1;
            shared.lose(&request, reason);
        }
        shared.plan.topology.request_refresh(None);
        self.pause(now);
    }

    fn pause(&mut self, now: u64) {
        self.resume_at = now + self.pause_ns;
        self.pause_ns = (self.pause_ns * 2).min(PAUSE_NS_MAX);
    }
}

/// A short, stable name for what befell a connection.
fn describe(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::Closed => "closed by the server",
        ConnectionError::Protocol(_) | ConnectionError::Unasked => "not RESP",
        ConnectionError::Io(error) => match error.kind() {
            std::io::ErrorKind::TimedOut => "no reply in time",
            std::io::ErrorKind::ConnectionRefused => "connection refused",
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => "reset",
            _ => "I/O error",
        },
    }
}

/// Decides what `reply` means for `request`, and counts it.
fn judge(
    request: &mut Request,
    reply: &Reply<'_>,
    from: SocketAddr,
    shared: &mut Shared<'_>,
    now: u64,
) -> Verdict {
    match (request.op, reply) {
        (_, Reply::Error(text)) => return judge_error(request, text, from, shared),
        (Op::Write, Reply::Simple(b"OK")) => {
            shared.note_acknowledged(request.key);
            shared.finish(request, false, now);
        }
        (Op::Read, Reply::Bulk(_) | Reply::Nil) => {
            let value = if let Reply::Bulk(value) = reply { Some(*value) } else { None };
            if shared.plan.check {
                let checked = shared.plan.codec.check(request.key, value, request.acknowledged);
                if let Err(violation) = checked {
                    shared.stats.count_violation(violation);
                }
            }
            shared.finish(request, value.is_none(), now);
        }
        _ => shared.count_error_text("unexpected type of reply"),
    }
    Verdict::Done
}

fn judge_error(
    request: &mut Request,
    text: &[u8],
    from: SocketAddr,
    shared: &mut Shared<'_>,
) -> Verdict {
    let kind = text.split(|&byte| byte == b' ').next().unwrap_or(text);
    let verdict = match kind {
        b"MOVED" => {
            shared.stats.count_notice("MOVED, followed");
            let to = parse_moved(text, from);
            if let Some((slot, owner)) = to {
                shared.map.note_moved(slot, owner);
            }
            shared.plan.topology.request_refresh(to.map(|(_, owner)| owner));
            if to.is_some() && request.retries < MOVED_AT_ONCE_MAX {
                Verdict::RetryNow
            } else {
                Verdict::RetryLater
            }
        }
        b"TRYAGAIN" | b"CLUSTERDOWN" | b"LOADING" | b"MASTERDOWN" => {
            shared.stats.count_notice(&format!("{}, retried", String::from_utf8_lossy(kind)));
            shared.plan.topology.request_refresh(None);
            Verdict::RetryLater
        }
        _ => {
            // Coracle's answer when leadership was lost with the write under way.
            if kind == b"UNKNOWN" && request.op == Op::Write {
                shared.stats.unknown_writes += 1;
            }
            let shown = String::from_utf8_lossy(&text[..text.len().min(ERROR_TEXT_BYTES_MAX)]);
            shared.count_error_text(&shown);
            Verdict::Done
        }
    };
    request.retries = request.retries.saturating_add(1);
    verdict
}
