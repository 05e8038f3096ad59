//! The task that collects a ring's completions when nobody else looks.
//!
//! While operations are in flight it looks at the completion queue from user space; when there is
//! nothing it turns the eventfd's signals on, looks once more (a completion that came just before has
//! sent no signal), and waits for the eventfd through the runtime. One read of the eventfd covers any
//! number of completions.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::{Latency, Shares};

use super::ring::Ring;

/// How long the kernel's refusal of requests (no memory, queue overflow) is waited out.
const RETRY_AFTER: Duration = Duration::from_micros(100);
/// Preemption interval of the reaper's task queue: its completions interrupt computing tasks.
const LATENCY: Duration = Duration::from_micros(250);

/// An eventfd for a ring to signal. Not non-blocking: io_uring then waits for it by itself.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor is owned by nobody else.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and checked.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Starts the reaper of `ring` on this core. It ends when the ring is closed and idle.
pub(super) fn start(ring: Ring, eventfd: OwnedFd, spin: Duration) -> io::Result<()> {
    let executor = glommio::executor();
    // SAFETY: an eventfd that is handed over here; nobody else reads it.
    let events = unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) };
    // A queue of its own whose I/O matters: the eventfd's completion preempts computing tasks.
    let queue = executor.create_task_queue(Shares::default(), Latency::Matters(LATENCY), "disk");
    let task = glommio::spawn_local_into(reap(ring, events, spin), queue)
        .map_err(|error| io::Error::other(error.to_string()))?;
    task.detach();
    Ok(())
}

async fn reap(ring: Ring, events: BufferedFile, spin: Duration) {
    while ring.wait_for_work().await {
        while !ring.is_idle() {
            if !ring.flush() {
                ring.reap();
                glommio::timer::sleep(RETRY_AFTER).await;
                continue;
            }
            if ring.reap() > 0 || spin_for(&ring, spin).await {
                continue;
            }
            ring.set_signals(true);
            if ring.reap() == 0
                && let Err(error) = events.read_at(0, 8).await
            {
                tracing::warn!(%error, "waiting for disk completions failed; looking again soon");
                glommio::timer::sleep(RETRY_AFTER).await;
            }
            ring.set_signals(false);
        }
    }
    if let Err(error) = events.close().await {
        tracing::debug!(%error, "closing the eventfd of a disk ring failed");
    }
}

/// Looks again and again while other tasks run, for `spin` at most. True when something completed.
async fn spin_for(ring: &Ring, spin: Duration) -> bool {
    if spin.is_zero() {
        return false;
    }
    let start = Instant::now();
    while start.elapsed() < spin {
        glommio::executor().yield_task_queue_now().await;
        if ring.reap() > 0 || ring.is_idle() {
            return true;
        }
    }
    false
}
