//! How tasks give way to others, and to the executor's I/O.
//!
//! The executor collects I/O when no task is runnable, or when its preemption timer fires. That timer
//! must be long: the executor has a flaw by which it *sleeps with runnable tasks* when the timer has
//! fired before it runs the first of them, as happens when another process takes the CPU at that
//! moment. So the timer is 10 ms here, and two things make up for it:
//!
//! * A task that goes on and on gives way through [`Turns::give_way`], which sees to it that I/O is
//!   collected every 200 us.
//! * A heartbeat wakes each core every 40 ms, so that the flaw, when it strikes, costs no more. It may strike
//!   when the heartbeat itself is what should have run; then no timer is left, and a core whose other
//!   tasks wait for nothing slept for ever. So later timers are kept beside the next beat: one of them is
//!   still to come unless the thread had lost its CPU for as long as that.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

/// The executor's own preemption interval. Its flaw strikes when the thread loses its CPU for longer
/// than this within a few microseconds; time slices of the kernel are shorter.
pub(super) const PREEMPT: Duration = Duration::from_millis(10);
/// Bounds what the flaw costs. Each wake-up takes some 100 us.
const HEARTBEAT: Duration = Duration::from_millis(40);
/// Timers beside the next beat, renewed at each. The longest is for a process that was stopped for a while.
const GUARDS: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(60)];
/// I/O is collected at least this often while tasks give way without end.
const COLLECT_EVERY: Duration = Duration::from_micros(200);
/// A timer that is due when the executor has looked at its I/O once.
const NEXT_PASS: Duration = Duration::from_micros(1);

/// Wakes this core now and then, for ever.
pub(super) fn start_heartbeat() {
    let beat = async {
        loop {
            let mut beat = Timer::new(HEARTBEAT);
            let mut guards = GUARDS.map(Timer::new);
            poll_fn(|cx| {
                // A guard that is due has done its work by waking this core.
                for guard in &mut guards {
                    let _ = Pin::new(guard).poll(cx);
                }
                Pin::new(&mut beat).poll(cx)
            })
            .await;
        }
    };
    drop(glommio::spawn_local(beat).detach());
}

/// Keeps count of the time since a task last let I/O be collected.
pub(crate) struct Turns {
    collected: Cell<Instant>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { collected: Cell::new(Instant::now()) }
    }

    /// Lets every other runnable task run once, and I/O be collected when that is due.
    pub(crate) async fn give_way(&self) {
        if self.collected.get().elapsed() < COLLECT_EVERY {
            glommio::executor().yield_now().await;
        } else {
            glommio::timer::sleep(NEXT_PASS).await;
            self.collected.set(Instant::now());
        }
    }
}
