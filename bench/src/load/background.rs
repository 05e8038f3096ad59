//! Load in the background of something else: it runs until told to stop, and what clients saw can be
//! asked for any span of time, as in "before, while and after".
//!
//! The threads hand on their numbers in short intervals (see [`Settings::interval`]); a span consists
//! of the intervals that lie in it as a whole. A request counts in the interval in which it ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::plan::Plan;
use super::stats::{Stats, latency_histogram};
use super::topology::{Topology, ask_cluster};
use super::worker::{self, Interval, WorkerReport};
use super::workload::{Codec, KeySpace};
use super::{LoadError, Outcome, cpu_time, new_run_id, raise_open_files};

/// Longest run; whoever starts one means to stop it.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a request may be refused for now before it counts as failed: longer than an election.
const GIVE_UP: Duration = Duration::from_secs(30);

/// What the load is to be. Writes only.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Members of the cluster.
    pub addresses: Vec<SocketAddr>,
    /// Independent clients.
    pub clients: u32,
    /// Commands that a client sends before it waits for the replies.
    pub pipeline: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Distinct keys.
    pub keys: u32,
    /// Each key in its turn, instead of at random.
    pub in_turn: bool,
    /// Writes per second over all clients: an open loop.
    pub rate: Option<f64>,
    /// Ends by itself after so many writes.
    pub requests: Option<u64>,
    /// Length of an interval.
    pub interval: Duration,
    /// How long a reply may take.
    pub timeout: Duration,
    /// Seed of the choice of keys.
    pub seed: u64,
}

/// What happened in one interval.
#[derive(Debug)]
struct Slice {
    ok: u64,
    errors: u64,
    /// Latency in nanoseconds and how many had it. Sparse: a full histogram has 200 KiB.
    latencies: Vec<(u64, u64)>,
}

/// What clients saw in a span of time.
#[derive(Clone, Debug)]
pub struct Span {
    /// Length of the intervals that were counted.
    pub seconds: f64,
    /// Writes that were acknowledged.
    pub ok: u64,
    /// Writes that failed.
    pub errors: u64,
    /// Nanoseconds from the due moment in an open loop, else from the first try to send.
    pub latency: Histogram<u64>,
}

impl Span {
    /// Acknowledged writes per second.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.ok as f64 / self.seconds } else { 0.0 }
    }

    /// A quantile of the latency in microseconds.
    pub fn us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// A running load. Dropping it stops it.
#[derive(Debug)]
pub struct Background {
    start: Instant,
    interval: Duration,
    stop_at: Arc<AtomicU64>,
    slices: Arc<Mutex<Vec<Slice>>>,
    thread: Option<JoinHandle<Result<Outcome, LoadError>>>,
}

impl Background {
    /// Finds the owners of the slots and starts.
    ///
    /// # Errors
    /// [`LoadError`]: no server can be reached, or too few open files are allowed.
    pub fn start(settings: &Settings) -> Result<Self, LoadError> {
        raise_open_files(settings.clients, settings.addresses.len() as u64)?;
        let topology = find_cluster(&settings.addresses)?;
        let mut plan = Plan {
            start: Instant::now(),
            warmup: Duration::ZERO,
            duration: DURATION_MAX,
            requests: settings.requests,
            clients: settings.clients,
            pipeline: settings.pipeline,
            threads: 1,
            rate: settings.rate,
            read_percent: 0,
            check: false,
            timeout: settings.timeout,
            give_up: GIVE_UP.max(settings.timeout),
            seed: settings.seed,
            in_turn: settings.in_turn,
            interval: settings.interval,
            stop_at: Arc::new(AtomicU64::new(u64::MAX)),
            keys: Arc::new(KeySpace::new(settings.keys)),
            codec: Codec::new(new_run_id(), settings.value_bytes),
            topology,
        };
        // Not before: large key spaces take a while to make.
        plan.start = Instant::now();
        let slices = Arc::new(Mutex::new(Vec::new()));
        let (start, interval, stop_at) = (plan.start, plan.interval, Arc::clone(&plan.stop_at));
        let taken = Arc::clone(&slices);
        let thread = std::thread::spawn(move || run(&plan, &taken));
        Ok(Self { start, interval, stop_at, slices, thread: Some(thread) })
    }

    /// Writes that were acknowledged until the last interval's end.
    pub fn acknowledged(&self) -> u64 {
        self.lock().iter().map(|slice| slice.ok).sum()
    }

    /// Whether it has ended by itself.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What clients saw from `from` to `to`.
    pub fn between(&self, from: Instant, to: Instant) -> Span {
        let number = |moment: Instant| {
            let since = moment.saturating_duration_since(self.start);
            since.as_secs_f64() / self.interval.as_secs_f64()
        };
        let slices = self.lock();
        let last = (number(to).floor() as usize).min(slices.len());
        let first = (number(from).ceil() as usize).min(last);
        let mut span = Span {
            seconds: (last - first) as f64 * self.interval.as_secs_f64(),
            ok: 0,
            errors: 0,
            latency: latency_histogram(),
        };
        for slice in &slices[first..last] {
            span.ok += slice.ok;
            span.errors += slice.errors;
            for &(latency, count) in &slice.latencies {
                span.latency.saturating_record_n(latency, count);
            }
        }
        span
    }

    /// Stops it, and gives the result of the whole.
    ///
    /// # Errors
    /// [`LoadError`]: its thread could not go on.
    pub fn finish(mut self) -> Result<Outcome, LoadError> {
        self.stop();
        let Some(thread) = self.thread.take() else { return Err(LoadError::WorkerPanicked) };
        thread.join().map_err(|_| LoadError::WorkerPanicked)?
    }

    fn stop(&self) {
        let now = super::plan::nanos(self.start.elapsed());
        self.stop_at.fetch_min(now, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slice>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // Its result interests nobody any more.
            let _ = thread.join();
        }
    }
}

fn find_cluster(addresses: &[SocketAddr]) -> Result<Arc<Topology>, LoadError> {
    let mut errors = Vec::new();
    for &address in addresses {
        match ask_cluster(address) {
            Ok(ranges) => return Ok(Topology::refreshed(ranges, addresses.to_vec())),
            Err(error) => errors.push(error),
        }
    }
    Err(LoadError::Unreachable(errors))
}

fn run(plan: &Plan, slices: &Mutex<Vec<Slice>>) -> Result<Outcome, LoadError> {
    let cpu_before = cpu_time();
    let (sender, intervals) = channel();
    let reports = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                let sender = sender.clone();
                scope.spawn(move || worker::run(plan, thread, sender))
            })
            .collect();
        drop(sender);
        collect(plan, &intervals, slices);
        threads
            .into_iter()
            .map(|thread| {
                thread.join().map_err(|_| LoadError::WorkerPanicked)?.map_err(LoadError::Worker)
            })
            .collect::<Result<Vec<WorkerReport>, LoadError>>()
    });
    let cpu = cpu_time().saturating_sub(cpu_before);
    Ok(Outcome::new(plan, reports?, Vec::new(), cpu))
}

/// Keeps what the threads hand on, in the order of the intervals.
fn collect(plan: &Plan, intervals: &Receiver<Interval>, slices: &Mutex<Vec<Slice>>) {
    let mut open: BTreeMap<u64, (u32, Stats)> = BTreeMap::new();
    for Interval { number, stats } in intervals {
        let (heard, sum) = open.entry(number).or_insert_with(|| (0, Stats::new()));
        *heard += 1;
        sum.add(&stats);
        if *heard < plan.threads {
            continue;
        }
        let Some((_, sum)) = open.remove(&number) else { continue };
        let latency = if plan.rate.is_some() { &sum.intended } else { &sum.service };
        let slice = Slice {
            ok: sum.ok,
            errors: sum.errors_total(),
            latencies: latency
                .iter_recorded()
                .map(|value| (value.value_iterated_to(), value.count_at_value()))
                .collect(),
        };
        slices.lock().unwrap_or_else(PoisonError::into_inner).push(slice);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::fake::Fake;

    fn settings(server: &Fake) -> Settings {
        Settings {
            addresses: vec![server.address],
            clients: 4,
            pipeline: 3,
            value_bytes: 100,
            keys: 50,
            in_turn: false,
            rate: None,
            requests: None,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            seed: 1,
        }
    }

    #[test]
    fn spans_add_up_and_it_stops_when_told() {
        let server = Fake::store();
        let load = Background::start(&settings(&server)).unwrap();
        let start = load.start;
        while load.lock().len() < 10 {
            std::thread::yield_now();
        }
        let middle = start + 4 * load.interval;
        let end = start + 10 * load.interval;
        let (whole, first, second) =
            (load.between(start, end), load.between(start, middle), load.between(middle, end));
        assert_eq!(whole.ok, first.ok + second.ok);
        assert_eq!(whole.ok, whole.latency.len());
        assert!(whole.ok > 0 && whole.per_second() > 0.0 && whole.us(0.99) > 0.0, "{whole:?}");
        assert!((first.seconds - 0.08).abs() < 1e-9, "{}", first.seconds);
        assert!(load.acknowledged() >= whole.ok && !load.is_over());
        let outcome = load.finish().unwrap();
        assert!(outcome.ok >= whole.ok && outcome.errors.is_empty(), "{outcome:?}");
    }

    #[test]
    fn keys_in_their_turn_are_each_written_once() {
        let server = Fake::store();
        let settings =
            Settings { keys: 1000, requests: Some(1000), in_turn: true, ..settings(&server) };
        let load = Background::start(&settings).unwrap();
        while !load.is_over() {
            std::thread::yield_now();
        }
        assert_eq!(load.finish().unwrap().ok, 1000);
        assert_eq!(server.keys(), 1000);
    }

    #[test]
    fn a_cluster_that_is_not_there_is_said() {
        let server = Fake::store();
        let address = server.address;
        drop(server);
        let settings = Settings { addresses: vec![address], ..settings(&Fake::store()) };
        let error = Background::start(&settings).unwrap_err();
        assert!(matches!(error, LoadError::Unreachable(_)), "{error}");
    }
}
