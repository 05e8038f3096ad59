//! Virtual time, tasks and randomness: all that happens in a simulation happens here, in one thread.
//!
//! # Order
//! Ready tasks run first in, first out, or, if the seed says so, in an order drawn from the seed. When none
//! is ready, time jumps to the next timer; timers of the same instant fire in the order they were set. A
//! poll takes no time, but giving way does, so that a task that never stops giving way does not stop time.
//!
//! # Processes
//! Every task belongs to a process. Killing a process drops its tasks wherever they wait; pausing it lets
//! them be woken but not run. Callbacks ([`World::call_at`]) belong to nobody: they are the hardware.
//!
//! # Determinism
//! Randomness comes from streams that are derived from the seed and a label, so that one part drawing more
//! numbers does not change what another part draws. What happens is folded into a hash
//! ([`World::trace`]); two runs of a seed must give the same one.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fastrand::Rng;

/// A process: one incarnation of a node, a client, or the simulation itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

/// Polls without any time passing after which a simulation is taken to be stuck in a loop.
const POLLS_PER_INSTANT_MAX: u64 = 1_000_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Identifies a task; never given to another one.
type TaskId = u64;

struct Slot {
    process: ProcessId,
    /// Taken out while it runs.
    task: Option<Task>,
    handle: Arc<TaskHandle>,
    waker: Waker,
}

/// What a waker needs. Wakers are `Send` by contract; here they never leave the thread, and the lock is
/// never contended.
struct TaskHandle {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<TaskId>>>,
}

impl Wake for TaskHandle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Atomic::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.id);
        }
    }
}

enum Due {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
}

struct Timer {
    at: Duration,
    number: u64,
    due: Due,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    /// Reversed: the heap gives the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

struct Inner {
    seed: u64,
    now: Cell<Duration>,
    timers: RefCell<BinaryHeap<Timer>>,
    timers_set: Cell<u64>,
    tasks: RefCell<BTreeMap<TaskId, Slot>>,
    tasks_spawned: Cell<u64>,
    ready: Arc<Mutex<VecDeque<TaskId>>>,
    paused: RefCell<BTreeSet<ProcessId>>,
    /// Tasks of paused processes that were woken, in order.
    held: RefCell<Vec<TaskId>>,
    order: RefCell<Option<Rng>>,
    polls: Cell<u64>,
    /// The process whose task runs now.
    running: Cell<Option<ProcessId>>,
    /// What processes are called in the story.
    names: RefCell<BTreeMap<ProcessId, String>>,
    hash: Cell<u64>,
    story: RefCell<Option<Vec<String>>>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

/// A handle to the simulated world. Clones are the same world.
#[derive(Clone)]
pub struct World(Rc<Inner>);

/// A reference that does not keep the world alive, for what the world itself owns.
#[derive(Clone)]
pub struct WeakWorld(Weak<Inner>);

/// What one step of the world was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task ran, or a timer fired.
    Ran,
    /// Nothing is left to do before the time asked for.
    Idle,
    /// Tasks wake each other without time passing.
    Stuck,
}

impl World {
    /// An empty world at time zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            seed,
            now: Cell::default(),
            timers: RefCell::default(),
            timers_set: Cell::new(0),
            tasks: RefCell::default(),
            tasks_spawned: Cell::new(0),
            ready: Arc::default(),
            paused: RefCell::default(),
            held: RefCell::default(),
            order: RefCell::new(None),
            polls: Cell::new(0),
            running: Cell::new(None),
            names: RefCell::default(),
            hash: Cell::new(0xcbf2_9ce4_8422_2325 ^ seed),
            story: RefCell::new(None),
            counts: RefCell::default(),
        }))
    }

    /// The seed that everything follows from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A reference for what the world itself owns.
    #[must_use]
    pub fn downgrade(&self) -> WeakWorld {
        WeakWorld(Rc::downgrade(&self.0))
    }

    /// Ready tasks run in an order drawn from the seed from now on.
    pub fn shuffle_tasks(&self) {
        *self.0.order.borrow_mut() = Some(self.rng_for("task order"));
    }

    /// Lines told by [`World::story`] are kept from now on.
    pub fn keep_story(&self) {
        self.0.story.borrow_mut().get_or_insert_default();
    }

    /// Takes the lines told so far.
    #[must_use]
    pub fn take_story(&self) -> Vec<String> {
        self.0.story.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// An independent stream of random numbers for the part named `label`.
    #[must_use]
    pub fn rng_for(&self, label: &str) -> Rng {
        Rng::with_seed(derive(self.0.seed, label))
    }

    /// Tells something to whoever reads the story. `line` is called only if somebody does.
    pub fn story(&self, line: impl FnOnce() -> String) {
        if self.0.story.borrow().is_none() {
            return;
        }
        let line = format!("{:>12.6} {}", self.now().as_secs_f64(), line());
        if let Some(story) = self.0.story.borrow_mut().as_mut() {
            story.push(line);
        }
    }

    /// What a process is called in the story.
    pub fn name(&self, process: ProcessId, name: impl Into<String>) {
        self.0.names.borrow_mut().insert(process, name.into());
    }

    /// The name of the process that runs now, with a colon; nothing if none does, or it has no name.
    #[must_use]
    pub fn speaker(&self) -> String {
        let names = self.0.names.borrow();
        let name = self.0.running.get().and_then(|process| names.get(&process));
        name.map(|name| format!("{name}: ")).unwrap_or_default()
    }

    /// Folds something that happened into the trace hash.
    pub fn trace(&self, kind: u64, value: u64) {
        let folded = (self.0.hash.get() ^ kind).wrapping_mul(0x0000_0100_0000_01b3);
        let folded = (folded.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0.hash.set(folded ^ (folded >> 29));
    }

    /// The hash of all that happened, the time included.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.0.hash.get() ^ derive(self.0.polls.get(), "polls") ^ self.now().as_nanos() as u64
    }

    /// Counts one injected fault of a kind.
    pub fn count(&self, kind: &'static str) {
        *self.0.counts.borrow_mut().entry(kind).or_insert(0) += 1;
    }

    /// The faults counted so far, by kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.counts.borrow().clone()
    }

    /// Polls of tasks so far.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    /// Starts a task of `process` at the next step, never inside this call.
    pub fn spawn(&self, process: ProcessId, task: impl Future<Output = ()> + 'static) {
        let id = self.0.tasks_spawned.get();
        self.0.tasks_spawned.set(id + 1);
        let ready = self.0.ready.clone();
        let handle = Arc::new(TaskHandle { id, queued: AtomicBool::new(false), ready });
        let waker = Waker::from(handle.clone());
        let slot = Slot { process, task: Some(Box::pin(task)), handle, waker };
        slot.waker.wake_by_ref();
        self.0.tasks.borrow_mut().insert(id, slot);
    }

    /// Waits.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Waits until a moment.
    pub fn sleep_until(&self, at: Duration) -> Sleep {
        Sleep { world: self.clone(), at, set: false }
    }

    /// Calls `call` after `delay`, whatever becomes of the caller's process.
    pub fn call_in(&self, delay: Duration, call: impl FnOnce() + 'static) {
        self.call_at(self.now() + delay, call);
    }

    /// Calls `call` at a moment, whatever becomes of the caller's process.
    pub fn call_at(&self, at: Duration, call: impl FnOnce() + 'static) {
        self.set_timer(at, Due::Call(Box::new(call)));
    }

    fn set_timer(&self, at: Duration, due: Due) {
        let number = self.0.timers_set.get();
        self.0.timers_set.set(number + 1);
        self.0.timers.borrow_mut().push(Timer { at: at.max(self.now()), number, due });
    }

    /// Drops all tasks of a process.
    pub fn kill(&self, process: ProcessId) {
        self.0.paused.borrow_mut().remove(&process);
        // Dropped outside of the borrow: destructors may come back to the world.
        let dropped: Vec<Slot> = {
            let mut tasks = self.0.tasks.borrow_mut();
            let of_process = tasks.iter().filter(|(_, slot)| slot.process == process);
            let ids: Vec<TaskId> = of_process.map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        drop(dropped);
    }

    /// The tasks of a process do not run until [`World::resume`].
    pub fn pause(&self, process: ProcessId) {
        self.0.paused.borrow_mut().insert(process);
    }

    /// The tasks of a process run again.
    pub fn resume(&self, process: ProcessId) {
        if self.0.paused.borrow_mut().remove(&process) {
            let held = std::mem::take(&mut *self.0.held.borrow_mut());
            self.ready().extend(held);
        }
    }

    /// Whether a process is paused.
    #[must_use]
    pub fn is_paused(&self, process: ProcessId) -> bool {
        self.0.paused.borrow().contains(&process)
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<TaskId>> {
        self.0.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready();
        match &mut *self.0.order.borrow_mut() {
            Some(order) if ready.len() > 1 => {
                let chosen = order.usize(..ready.len());
                ready.swap_remove_back(chosen)
            }
            _ => ready.pop_front(),
        }
    }

    /// Runs one ready task, or fires the next timer if it is due before `until`. `polls_now` counts the
    /// polls of the present instant.
    pub fn step(&self, until: Duration, polls_now: &mut u64) -> Step {
        if let Some(id) = self.next_ready() {
            *polls_now += 1;
            self.run(id);
            return if *polls_now > POLLS_PER_INSTANT_MAX { Step::Stuck } else { Step::Ran };
        }
        let timer = {
            let mut timers = self.0.timers.borrow_mut();
            match timers.peek() {
                Some(timer) if timer.at <= until => timers.pop(),
                _ => None,
            }
        };
        let Some(timer) = timer else {
            self.0.now.set(until.max(self.now()));
            return Step::Idle;
        };
        if timer.at > self.now() {
            *polls_now = 0;
            self.0.now.set(timer.at);
        }
        match timer.due {
            Due::Wake(waker) => waker.wake(),
            Due::Call(call) => call(),
        }
        Step::Ran
    }

    fn run(&self, id: TaskId) {
        let (mut task, waker, process) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(slot) = tasks.get_mut(&id) else { return }; // woken after its end
            if self.0.paused.borrow().contains(&slot.process) {
                return self.0.held.borrow_mut().push(id);
            }
            slot.handle.queued.store(false, Atomic::Relaxed);
            let Some(task) = slot.task.take() else { return };
            (task, slot.waker.clone(), slot.process)
        };
        self.0.polls.set(self.0.polls.get() + 1);
        self.trace(u64::from(process.0), id);
        self.0.running.set(Some(process));
        let ended = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        self.0.running.set(None);
        let mut tasks = self.0.tasks.borrow_mut();
        let left = if ended {
            tasks.remove(&id).map(|_| task)
        } else if let Some(slot) = tasks.get_mut(&id) {
            slot.task = Some(task);
            None
        } else {
            Some(task) // killed itself
        };
        drop(tasks);
        drop(left);
    }

    /// Drops all tasks and timers, so that nothing keeps the world alive.
    pub fn end(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
            let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
            if tasks.is_empty() && timers.is_empty() {
                return;
            }
        }
    }
}

impl WeakWorld {
    /// The world, unless it is gone.
    #[must_use]
    pub fn upgrade(&self) -> Option<World> {
        self.0.upgrade().map(World)
    }
}

/// Waits for a moment.
pub struct Sleep {
    world: World,
    at: Duration,
    set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.at {
            return Poll::Ready(());
        }
        // One timer is enough: a task has one waker, and spurious wake-ups come back here.
        if !std::mem::replace(&mut self.set, true) {
            self.world.set_timer(self.at, Due::Wake(cx.waker().clone()));
        }
        Poll::Pending
    }
}

/// Mixes a seed with a label.
#[must_use]
pub fn derive(seed: u64, label: &str) -> u64 {
    let mut mixed = seed ^ 0x6a09_e667_f3bc_c909;
    for byte in label.bytes() {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^= mixed >> 32;
    }
    // The finaliser of splitmix64: neighbouring seeds give unrelated streams.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: ProcessId = ProcessId(1);

    fn run(world: &World, until_ms: u64) {
        let mut polls = 0;
        while world.step(Duration::from_millis(until_ms), &mut polls) == Step::Ran {}
    }

    fn log() -> Rc<RefCell<Vec<(u64, &'static str)>>> {
        Rc::default()
    }

    #[test]
    fn time_jumps_from_timer_to_timer_in_order() {
        let (world, seen) = (World::new(1), log());
        for (name, ms) in [("late", 20), ("early", 10)] {
            let (task_world, seen) = (world.clone(), seen.clone());
            world.spawn(P, async move {
                task_world.sleep(Duration::from_millis(ms)).await;
                seen.borrow_mut().push((task_world.now().as_millis() as u64, name));
            });
        }
        run(&world, 15);
        assert_eq!(*seen.borrow(), [(10, "early")]);
        assert_eq!(world.now(), Duration::from_millis(15));
        run(&world, 30);
        assert_eq!(*seen.borrow(), [(10, "early"), (20, "late")]);
    }

    #[test]
    fn a_killed_process_never_runs_again_and_its_destructors_may_use_the_world() {
        struct Guard(World);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.spawn(ProcessId(2), async {});
            }
        }
        let (world, seen) = (World::new(1), log());
        let (task_world, task_seen) = (world.clone(), seen.clone());
        world.spawn(P, async move {
            let guard = Guard(task_world.clone());
            task_world.sleep(Duration::from_millis(5)).await;
            task_seen.borrow_mut().push((0, "ran"));
            drop(guard);
        });
        run(&world, 1);
        world.kill(P);
        run(&world, 10);
        assert!(seen.borrow().is_empty());
        world.end();
    }

    #[test]
    fn a_paused_process_goes_on_where_it_was() {
        let (world, seen) = (World::new(1), log());
        let (task_world, task_seen) = (world.clone(), seen.clone());
        world.spawn(P, async move {
            task_world.sleep(Duration::from_millis(5)).await;
            task_seen.borrow_mut().push((task_world.now().as_millis() as u64, "ran"));
        });
        run(&world, 1);
        world.pause(P);
        run(&world, 50);
        assert!(seen.borrow().is_empty());
        world.resume(P);
        run(&world, 60);
        assert_eq!(*seen.borrow(), [(50, "ran")]);
    }

    #[test]
    fn tasks_that_only_wake_each_other_are_noticed() {
        let world = World::new(1);
        world.spawn(P, async {
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            })
            .await;
        });
        let mut polls = 0;
        let end = loop {
            let step = world.step(Duration::from_secs(1), &mut polls);
            if step != Step::Ran {
                break step;
            }
        };
        assert_eq!(end, Step::Stuck);
    }

    #[test]
    fn streams_differ_by_label_and_seed_and_repeat() {
        let draw = |seed, label| World::new(seed).rng_for(label).u64(..);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }
}
