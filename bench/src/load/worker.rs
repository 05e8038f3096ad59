//! One thread of load: an epoll loop over its sessions.
//!
//! A turn of the loop is one `epoll_wait`, one `read` and one `write` for each session that got its
//! replies, then whatever the clock says: arrivals of the open loop, once in a while timeouts and
//! retries, once in a second the numbers for the progress line. Arrivals wake the loop through a
//! timerfd, because `epoll_wait` itself counts in milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::plan::{Plan, nanos};
use super::session::{Session, Shared};
use super::slots::SlotMap;
use super::stats::Stats;
use super::workload::Random;

/// Token of the arrival timer; no session has it.
const TIMER: Token = Token(usize::MAX);
/// How often timeouts are looked at.
const TICK_NS: u64 = 50_000_000;
/// How often they are looked at while a session waits to try again.
const TICK_PAUSED_NS: u64 = 2_000_000;
/// Arrivals closer together than this share one wake-up: below it, waking costs more than it tells.
const TIMER_NS_MIN: u64 = 20_000;
/// Bytes read at once.
const SCRATCH_BYTES: usize = 64 << 10;
/// Longest wait for the last replies, whatever the timeout.
const DRAIN_NS_MAX: u64 = 3_000_000_000;

/// The numbers of one thread for one interval.
#[derive(Debug)]
pub struct Interval {
    /// Intervals of the measured time that are over.
    pub number: u64,
    /// What happened in the last of them.
    pub stats: Stats,
}

/// What a thread has to say at its end.
#[derive(Debug)]
pub struct WorkerReport {
    /// All counts of the measured time.
    pub stats: Stats,
    /// Nanoseconds that were measured.
    pub measured_ns: u64,
    /// Longest time without any good reply, in nanoseconds.
    pub longest_pause_ns: u64,
    /// Open loop: requests that were due but could not be sent before the end.
    pub unsent: u64,
    /// Requests without an outcome at the end.
    pub unfinished: u64,
}

/// A thread's state.
struct Worker<'a> {
    plan: &'a Plan,
    poll: Poll,
    timer: OwnedFd,
    /// When the timer is set to; `u64::MAX` is not at all.
    timer_at: u64,
    sessions: Vec<Session>,
    numbers: Vec<u32>,
    shared: Shared<'a>,
    topology_version: u64,
    /// The next arrival: how many of each session came before, and whose turn it is.
    round: u64,
    turn: usize,
    total: Stats,
    measuring_since: Option<u64>,
    intervals: u64,
    next_tick: u64,
    progress: Sender<Interval>,
}

/// Runs thread number `thread` of `plan` to its end.
///
/// # Errors
/// Only what makes the thread itself impossible (no epoll, no timer); servers that fail are counted.
pub fn run(plan: &Plan, thread: u32, progress: Sender<Interval>) -> io::Result<WorkerReport> {
    let mut worker = Worker::new(plan, thread, progress)?;
    worker.run()?;
    Ok(worker.into_report())
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, thread: u32, progress: Sender<Interval>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let registry = poll.registry().try_clone()?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let numbers: Vec<u32> = (thread..plan.clients).step_by(plan.threads as usize).collect();
        let sessions = numbers.iter().enumerate();
        let share = |all: u64| {
            let (threads, thread) = (u64::from(plan.threads), u64::from(thread));
            all / threads + u64::from(thread < all % threads)
        };
        let shared = Shared {
            plan,
            registry,
            map: SlotMap::new(),
            stats: Stats::new(),
            random: Random::new(plan.seed.wrapping_add(u64::from(thread))),
            out: Vec::new(),
            acknowledged: vec![0; if plan.check { plan.keys.len() as usize / 64 + 1 } else { 0 }],
            sequence: u64::from(thread) << 48,
            next_key: u64::from(thread),
            quota: plan.requests.map_or(u64::MAX, share),
            closing: false,
            last_ok: plan.measure_from(),
            longest_pause: 0,
        };
        Ok(Self {
            plan,
            poll,
            timer,
            timer_at: u64::MAX,
            sessions: sessions.map(|(place, &number)| Session::new(number, place)).collect(),
            numbers,
            shared,
            topology_version: 0,
            round: 0,
            turn: 0,
            total: Stats::new(),
            measuring_since: None,
            intervals: 0,
            next_tick: 0,
            progress,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            let now = self.plan.now();
            self.follow_topology();
            self.arrivals(now);
            if now >= self.next_tick {
                self.tick(now);
            }
            if self.is_over(now) {
                return Ok(());
            }
            self.set_timer(now)?;
            let wait = Duration::from_nanos(self.next_tick.saturating_sub(self.plan.now()));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in events.iter().filter(|event| event.token() != TIMER) {
                let (place, server) = Session::of_token(event.token());
                let session = &mut self.sessions[place];
                session.on_event(server, event, &mut scratch, &mut self.shared);
                session.pump(&mut self.shared, self.plan.now());
            }
        }
    }

    fn follow_topology(&mut self) {
        let version = self.plan.topology.version();
        if version != self.topology_version {
            self.topology_version = version;
            self.shared.map.replace(&self.plan.topology.ranges());
        }
    }

    /// When the next arrival of this thread is due; never in a closed loop or at the end.
    fn next_arrival(&self) -> u64 {
        match self.plan.rate {
            Some(rate) if !self.sessions.is_empty() && !self.shared.closing => {
                self.plan.due(rate, self.numbers[self.turn], self.round)
            }
            _ => u64::MAX,
        }
    }

    /// Hands out the arrivals that are due. Sessions that got one are pumped once, so that several
    /// arrivals of one session leave in one write.
    fn arrivals(&mut self, now: u64) {
        let mut due = 0;
        let end = now.min(self.plan.measure_to().saturating_sub(1));
        let first = self.turn;
        while self.next_arrival() <= end {
            self.sessions[self.turn].arrive();
            due += 1;
            self.turn += 1;
            if self.turn == self.sessions.len() {
                self.turn = 0;
                self.round += 1;
            }
        }
        for offset in 0..due.min(self.sessions.len()) {
            let place = (first + offset) % self.sessions.len();
            self.sessions[place].pump(&mut self.shared, now);
        }
    }

    fn set_timer(&mut self, now: u64) -> io::Result<()> {
        let next = self.next_arrival();
        if next == u64::MAX || (self.timer_at > now && self.timer_at <= next.max(now)) {
            return Ok(());
        }
        let wait = next.saturating_sub(now).max(TIMER_NS_MIN);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: (wait / 1_000_000_000) as i64,
            tv_nsec: (wait % 1_000_000_000) as i64,
        };
        let timer = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        self.timer_at = now + wait;
        Ok(())
    }

    /// What the clock asks for: the end of the warm-up, intervals, timeouts, retries.
    fn tick(&mut self, now: u64) {
        let from = self.plan.measure_from();
        if self.measuring_since.is_none() && now >= from {
            self.measuring_since = Some(from);
            self.shared.stats = Stats::new();
            self.shared.last_ok = now;
            self.shared.longest_pause = 0;
        }
        self.shared.closing = now >= self.plan.measure_to() || self.shared.quota == 0;
        let mut paused = false;
        for session in &mut self.sessions {
            session.check_times(&mut self.shared, now);
            session.pump(&mut self.shared, now);
            paused |= session.is_paused(now);
        }
        let interval_end = self.interval_end();
        if now >= interval_end && interval_end <= self.plan.measure_to() {
            self.end_interval();
        }
        self.next_tick = self.next_tick_after(now, paused);
    }

    /// The next regular tick, or the next moment that structures the run if that comes first.
    fn next_tick_after(&self, now: u64, paused: bool) -> u64 {
        let regular = now + if paused { TICK_PAUSED_NS } else { TICK_NS };
        [self.plan.measure_from(), self.interval_end(), self.plan.measure_to()]
            .into_iter()
            .filter(|&moment| moment > now)
            .fold(regular, u64::min)
    }

    fn interval_end(&self) -> u64 {
        self.plan.measure_from() + (self.intervals + 1) * nanos(self.plan.interval)
    }

    fn end_interval(&mut self) {
        self.intervals += 1;
        let stats = std::mem::replace(&mut self.shared.stats, Stats::new());
        self.total.add(&stats);
        // Nobody listens any more only when the main thread is gone; then numbers matter to nobody.
        let _ = self.progress.send(Interval { number: self.intervals, stats });
    }

    fn is_over(&mut self, now: u64) -> bool {
        if self.shared.quota == 0 {
            self.shared.closing = true;
        }
        if !self.shared.closing {
            return false;
        }
        let drain = nanos(self.plan.timeout).min(DRAIN_NS_MAX);
        let idle = self.sessions.iter().all(Session::is_idle);
        if self.shared.quota == 0 && now < self.plan.measure_to() {
            return idle;
        }
        idle || now > self.plan.measure_to() + drain
    }

    fn into_report(mut self) -> WorkerReport {
        let end = self.plan.now().min(self.plan.measure_to());
        let since = self.measuring_since.unwrap_or(end);
        let mut unfinished = 0;
        let mut unsent = 0;
        for session in &mut self.sessions {
            unfinished += session.abandon(&mut self.shared);
            unsent += session.give_up_arrivals(&mut self.shared, end);
        }
        self.total.add(&self.shared.stats);
        self.shared.longest_pause =
            self.shared.longest_pause.max(end.saturating_sub(self.shared.last_ok));
        WorkerReport {
            stats: self.total,
            measured_ns: end.saturating_sub(since),
            longest_pause_ns: self.shared.longest_pause,
            unsent,
            unfinished,
        }
    }
}
