//! Keeps a number of proposals, or of reads, in flight from one thread, and measures them.
//!
//! Each place of the window has a waker of its own, made once, that puts the place's number into a
//! queue; the thread takes numbers out of the queue, looks at the futures that they name, and sleeps
//! when there are none. A proposal so costs no allocation beside its own, and a batch of commits that
//! completes together costs one wake-up.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_engine::{NodeId, ProposeError, ShardId};
use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;
use thiserror::Error;

use crate::load::latency_histogram;

/// How long a proposal that was refused for now waits before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
/// How long all shards together may take to elect their first leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(30);
/// Longest sleep of the thread, so that the end of the run is seen.
const PARK_MAX: Duration = Duration::from_millis(20);

/// A cluster that takes requests of one kind; a fake in tests.
pub trait Target {
    /// What a request is answered with.
    type Reply;
    /// A request on its way.
    type Answer: Future<Output = Result<Self::Reply, ProposeError>> + Unpin;

    /// Sends `payload` to `shard` through node number `node` (a place, counted from 0).
    fn request(&self, node: usize, shard: ShardId, payload: Bytes) -> Self::Answer;
    /// The place of the node `id`.
    fn place(&self, id: NodeId) -> Option<usize>;
    /// How many nodes there are.
    fn nodes(&self) -> usize;
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Shards to spread proposals over, evenly.
    pub shards: u32,
    /// Bytes of each proposal.
    pub value_bytes: usize,
    /// Proposals in flight.
    pub in_flight: usize,
    /// Not counted at the beginning.
    pub warmup: Duration,
    /// Counted.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Driven {
    /// Proposals committed in the counted time.
    pub committed: u64,
    /// Proposals committed from beginning to end.
    pub committed_ever: u64,
    /// The counted time.
    pub elapsed: Duration,
    /// From proposal to answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Proposals that ended without being committed, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Redirections and refusals that were overcome.
    pub retries: BTreeMap<String, u64>,
}

/// The run ended early.
#[derive(Debug, Error)]
pub enum DriveError {
    /// A shard had no leader for a long time.
    #[error("shard {shard} took no proposal within {LEADERS_WITHIN:?}: {last}")]
    NoLeader {
        /// Which shard.
        shard: ShardId,
        /// Why the last try failed.
        last: String,
    },
    /// The cluster went away.
    #[error("the cluster stopped during the run")]
    ShutDown,
}

/// The places whose futures may have made progress.
struct Ready {
    places: ArrayQueue<usize>,
    /// Set while the thread sleeps or is about to.
    asleep: AtomicBool,
    thread: Thread,
}

struct PlaceWaker {
    place: usize,
    /// Whether the place is in the queue, so that it is there at most once.
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let full = self.ready.places.push(self.place).is_err();
        debug_assert!(!full, "the queue has room for every place once");
        if self.ready.asleep.swap(false, Ordering::SeqCst) {
            self.ready.thread.unpark();
        }
    }
}

/// One proposal of the window.
struct Place<A> {
    shard: ShardId,
    started: Instant,
    answer: Option<A>,
    handle: Arc<PlaceWaker>,
    waker: Waker,
}

/// The window and what is known about the cluster.
struct Driver<'a, P: Target> {
    cluster: &'a P,
    payload: Bytes,
    places: Vec<Place<P::Answer>>,
    ready: Arc<Ready>,
    /// Which node leads a shard, as far as answers told.
    leaders: Vec<usize>,
    /// Places that try again later.
    paused: Vec<(Instant, usize)>,
    next_shard: u32,
    in_flight: usize,
    counting: bool,
    driven: Driven,
}

/// Waits until every shard commits, then keeps `demand.in_flight` proposals in flight. `each_second`
/// hears the commits of every second that passed.
///
/// # Errors
/// [`DriveError`].
pub fn drive<P: Target>(
    cluster: &P,
    demand: Demand,
    mut each_second: impl FnMut(u64, u64),
) -> Result<Driven, DriveError> {
    let mut driver = Driver::new(cluster, demand);
    driver.await_leaders()?;
    let start = Instant::now();
    let from = start + demand.warmup;
    let to = from + demand.duration;
    let (mut second, mut counted) = (0, 0);
    for place in 0..demand.in_flight {
        driver.next(place)?;
    }
    loop {
        let now = Instant::now();
        if !driver.counting && now >= from {
            driver.counting = true;
            driver.driven.latency.reset();
            driver.driven.committed = 0;
        }
        if driver.counting && now >= from + Duration::from_secs(second + 1) {
            second += 1;
            each_second(second, driver.driven.committed - counted);
            counted = driver.driven.committed;
        }
        if now >= to {
            break;
        }
        driver.turn(true)?;
    }
    driver.driven.elapsed = demand.duration;
    driver.counting = false;
    driver.drain()?;
    Ok(driver.driven)
}

impl<'a, P: Target> Driver<'a, P> {
    fn new(cluster: &'a P, demand: Demand) -> Self {
        let ready = Arc::new(Ready {
            places: ArrayQueue::new(demand.in_flight),
            asleep: AtomicBool::new(false),
            thread: thread::current(),
        });
        let place = |number| {
            let ready = Arc::clone(&ready);
            let handle =
                Arc::new(PlaceWaker { place: number, queued: AtomicBool::new(false), ready });
            let waker = Waker::from(Arc::clone(&handle));
            Place { shard: ShardId(0), started: Instant::now(), answer: None, handle, waker }
        };
        Self {
            cluster,
            payload: Bytes::from(vec![b'v'; demand.value_bytes]),
            places: (0..demand.in_flight).map(place).collect(),
            ready,
            leaders: vec![0; demand.shards as usize],
            paused: Vec::new(),
            next_shard: 0,
            in_flight: 0,
            counting: false,
            driven: Driven {
                committed: 0,
                committed_ever: 0,
                elapsed: Duration::ZERO,
                latency: latency_histogram(),
                errors: BTreeMap::new(),
                retries: BTreeMap::new(),
            },
        }
    }

    /// Commits one proposal in every shard, and so learns who leads it.
    fn await_leaders(&mut self) -> Result<(), DriveError> {
        let deadline = Instant::now() + LEADERS_WITHIN;
        for shard in 0..self.leaders.len() {
            let shard = ShardId(shard as u32);
            let mut last = "no answer".to_owned();
            loop {
                let node = self.leaders[shard.0 as usize];
                let answer = self.cluster.request(node, shard, self.payload.clone());
                let error = match block_on(answer, deadline) {
                    Some(Ok(_)) => break,
                    Some(Err(ProposeError::ShuttingDown)) => return Err(DriveError::ShutDown),
                    Some(Err(error)) if Instant::now() < deadline => error,
                    _ => return Err(DriveError::NoLeader { shard, last }),
                };
                last = error.to_string();
                if !self.redirect(shard, &error) {
                    thread::sleep(RETRY_PAUSE);
                }
            }
            self.driven.committed_ever += 1;
        }
        Ok(())
    }

    /// Takes a hint from a refusal. Returns whether to try again at once.
    fn redirect(&mut self, shard: ShardId, error: &ProposeError) -> bool {
        let ProposeError::NotLeader { leader, .. } = error else { return false };
        let known = &mut self.leaders[shard.0 as usize];
        match leader.and_then(|id| self.cluster.place(id)) {
            Some(place) if place != *known => {
                *known = place;
                true
            }
            _ => {
                *known = (*known + 1) % self.cluster.nodes();
                false
            }
        }
    }

    /// Starts the next proposal of the run in `place`.
    fn next(&mut self, place: usize) -> Result<(), DriveError> {
        self.places[place].shard = ShardId(self.next_shard);
        self.next_shard = (self.next_shard + 1) % self.leaders.len() as u32;
        self.places[place].started = Instant::now();
        self.send(place)
    }

    fn send(&mut self, place: usize) -> Result<(), DriveError> {
        let shard = self.places[place].shard;
        let node = self.leaders[shard.0 as usize];
        let answer = self.cluster.request(node, shard, self.payload.clone());
        self.places[place].answer = Some(answer);
        self.in_flight += 1;
        self.look(place, true)
    }

    /// Polls the future in `place`; when it is done, counts it and, if `go_on`, starts another.
    fn look(&mut self, number: usize, go_on: bool) -> Result<(), DriveError> {
        let place = &mut self.places[number];
        let Some(answer) = &mut place.answer else { return Ok(()) };
        let mut context = Context::from_waker(&place.waker);
        let Poll::Ready(result) = Pin::new(answer).poll(&mut context) else { return Ok(()) };
        place.answer = None;
        self.in_flight -= 1;
        let again = match result {
            Ok(_) => {
                let took = self.places[number].started.elapsed();
                self.driven.committed_ever += 1;
                self.driven.committed += u64::from(self.counting);
                if self.counting {
                    let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                    self.driven.latency.saturating_record(ns);
                }
                None
            }
            Err(ProposeError::ShuttingDown) => return Err(DriveError::ShutDown),
            Err(error @ (ProposeError::NotLeader { .. } | ProposeError::Overloaded(_))) => {
                let kind = match &error {
                    ProposeError::NotLeader { .. } => "not the leader",
                    _ => "overloaded",
                };
                *self.driven.retries.entry(kind.to_owned()).or_default() += 1;
                let is_known = self.redirect(self.places[number].shard, &error);
                Some(if is_known { Duration::ZERO } else { RETRY_PAUSE })
            }
            Err(error) => {
                *self.driven.errors.entry(kind_of(&error).to_owned()).or_default() += 1;
                // An error that comes at once must not become a busy loop.
                None
            }
        };
        if !go_on {
            return Ok(());
        }
        if let Some(pause) = again {
            self.paused.push((Instant::now() + pause, number));
        } else {
            self.handle_of(number).wake_by_ref();
        }
        Ok(())
    }

    fn handle_of(&self, place: usize) -> &Arc<PlaceWaker> {
        &self.places[place].handle
    }

    /// One turn: looks at all places that woke, resumes paused ones, sleeps if there was nothing.
    fn turn(&mut self, go_on: bool) -> Result<(), DriveError> {
        let mut worked = self.resume(go_on)?;
        // As many as were there at the start, so that the caller gets to look at the clock.
        for _ in 0..self.ready.places.len() {
            let Some(number) = self.ready.places.pop() else { break };
            self.places[number].handle.queued.swap(false, Ordering::AcqRel);
            worked = true;
            if self.places[number].answer.is_some() {
                self.look(number, go_on)?;
            } else if go_on {
                self.next(number)?;
            }
        }
        if !worked {
            self.sleep();
        }
        Ok(())
    }

    /// Sends again what has waited long enough.
    fn resume(&mut self, go_on: bool) -> Result<bool, DriveError> {
        if self.paused.is_empty() {
            return Ok(false);
        }
        let now = Instant::now();
        let mut due = Vec::new();
        self.paused.retain(|&(when, number)| {
            let waits = when > now;
            if !waits {
                due.push(number);
            }
            waits
        });
        for &number in due.iter().filter(|_| go_on) {
            self.send(number)?;
        }
        Ok(!due.is_empty())
    }

    fn sleep(&self) {
        self.ready.asleep.store(true, Ordering::SeqCst);
        if self.ready.places.is_empty() {
            thread::park_timeout(if self.paused.is_empty() { PARK_MAX } else { RETRY_PAUSE });
        }
        self.ready.asleep.store(false, Ordering::SeqCst);
    }

    /// Waits for what is still in flight, for a while.
    fn drain(&mut self) -> Result<(), DriveError> {
        let deadline = Instant::now() + LEADERS_WITHIN;
        while self.in_flight > 0 && Instant::now() < deadline {
            self.turn(false)?;
        }
        if self.in_flight > 0 {
            let left = self.in_flight as u64;
            self.driven.errors.insert("no answer after the end of the run".to_owned(), left);
        }
        Ok(())
    }
}

/// Waits for `future` on this thread, until `deadline` at the longest.
pub fn block_on<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

/// Wakes a thread that waits for one future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn kind_of(error: &ProposeError) -> &'static str {
    match error {
        ProposeError::NotLeader { .. } => "not the leader",
        ProposeError::Overloaded(_) => "overloaded",
        ProposeError::TooLarge { .. } => "too large",
        ProposeError::OutcomeUnknown { .. } => "outcome unknown",
        ProposeError::NoSpace => "no space",
        ProposeError::StorageFailed(_) => "storage failed",
        ProposeError::ShuttingDown => "shutting down",
        ProposeError::UnknownShard(_) => "unknown shard",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::{Cell, RefCell};
    use std::sync::mpsc;

    use coracle_engine::core::Committed;
    use coracle_engine::{LogIndex, Term};
    use futures_channel::oneshot;

    use super::*;

    type Result_ = Result<Committed, ProposeError>;

    /// Three nodes; shard `s` is led by node `s % 3`. Answers come from another thread.
    struct FakeCluster {
        answers: mpsc::Sender<oneshot::Sender<Result_>>,
        accepted: RefCell<Vec<u64>>,
        redirected: Cell<u64>,
        refuse: Cell<u32>,
    }

    struct Answer(oneshot::Receiver<Result_>);

    impl Future for Answer {
        type Output = Result_;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result_> {
            Pin::new(&mut self.0).poll(context).map(Result::unwrap)
        }
    }

    fn committed() -> Result_ {
        Ok(Committed { term: Term(1), index: LogIndex(1), reply: Bytes::new() })
    }

    impl FakeCluster {
        fn new() -> (Self, thread::JoinHandle<()>) {
            let (answers, queue) = mpsc::channel::<oneshot::Sender<Result_>>();
            let worker = thread::spawn(move || {
                for answer in queue {
                    let _ = answer.send(committed());
                }
            });
            let accepted = RefCell::new(vec![0; 7]);
            let cluster =
                Self { answers, accepted, redirected: Cell::new(0), refuse: Cell::new(0) };
            (cluster, worker)
        }
    }

    impl Target for FakeCluster {
        type Reply = Committed;
        type Answer = Answer;

        fn request(&self, node: usize, shard: ShardId, payload: Bytes) -> Answer {
            assert_eq!(payload.len(), 100);
            let (sender, receiver) = oneshot::channel();
            let leader = shard.0 as usize % 3;
            if node != leader {
                self.redirected.set(self.redirected.get() + 1);
                let leader = Some(NodeId(leader as u64 + 1));
                sender.send(Err(ProposeError::NotLeader { shard, leader })).unwrap();
            } else if self.refuse.get() > 0 {
                self.refuse.set(self.refuse.get() - 1);
                sender.send(Err(ProposeError::Overloaded("test"))).unwrap();
            } else {
                self.accepted.borrow_mut()[shard.0 as usize] += 1;
                self.answers.send(sender).unwrap();
            }
            Answer(receiver)
        }

        fn place(&self, id: NodeId) -> Option<usize> {
            usize::try_from(id.0).ok()?.checked_sub(1).filter(|&place| place < 3)
        }

        fn nodes(&self) -> usize {
            3
        }
    }

    fn demand(shards: u32, in_flight: usize) -> Demand {
        let (warmup, duration) = (Duration::ZERO, Duration::from_millis(200));
        Demand { shards, value_bytes: 100, in_flight, warmup, duration }
    }

    #[test]
    fn leaders_are_found_once_and_every_shard_gets_its_part() {
        let (cluster, worker) = FakeCluster::new();
        let driven = drive(&cluster, demand(7, 32), |_, _| {}).unwrap();
        assert!(driven.committed > 0 && driven.errors.is_empty(), "{driven:?}");
        assert_eq!(driven.latency.len(), driven.committed);
        assert_eq!(cluster.redirected.get(), 4, "shards 1, 2, 4 and 5 are not led by node 0");
        let accepted = cluster.accepted.borrow().clone();
        let (least, most) = (accepted.iter().min().unwrap(), accepted.iter().max().unwrap());
        assert!(most - least <= 1, "{accepted:?}");
        assert_eq!(driven.committed_ever, accepted.iter().sum::<u64>());
        drop(cluster);
        worker.join().unwrap();
    }

    #[test]
    fn refused_proposals_are_tried_again_and_none_is_lost() {
        let (cluster, worker) = FakeCluster::new();
        cluster.refuse.set(10);
        let driven = drive(&cluster, demand(1, 4), |_, _| {}).unwrap();
        assert_eq!(cluster.refuse.get(), 0);
        assert!(driven.committed > 0 && driven.errors.is_empty(), "{driven:?}");
        drop(cluster);
        worker.join().unwrap();
    }

    /// Everything is answered at once, so the driver never sleeps; the run must end all the same.
    struct Instantly(Cell<u64>);

    impl Target for Instantly {
        type Reply = Committed;
        type Answer = std::future::Ready<Result_>;

        fn request(&self, _: usize, shard: ShardId, _: Bytes) -> Self::Answer {
            self.0.set(self.0.get() + 1);
            match self.0.get() % 4 {
                2 => std::future::ready(Err(ProposeError::OutcomeUnknown { shard })),
                _ => std::future::ready(committed()),
            }
        }

        fn place(&self, _: NodeId) -> Option<usize> {
            Some(0)
        }

        fn nodes(&self) -> usize {
            1
        }
    }

    #[test]
    fn failures_are_counted_apart_from_commits() {
        let cluster = Instantly(Cell::new(0));
        let mut seconds = 0;
        let driven = drive(&cluster, demand(1, 3), |_, _| seconds += 1).unwrap();
        let unknown = driven.errors["outcome unknown"];
        let all = cluster.0.get();
        assert!(unknown.abs_diff(all / 4) <= 1, "{unknown} of {all}");
        assert!(driven.committed + unknown < all && driven.committed > unknown, "{driven:?}");
        assert_eq!(seconds, 0, "no whole second passed");
    }
}
