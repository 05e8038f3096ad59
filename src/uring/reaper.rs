//! The task that collects a ring's completions when nobody else looks.
//!
//! While operations are in flight and other tasks compute, it looks at the completion queue from
//! user space after each turn of theirs. When the core has nothing to do it waits for the eventfd
//! through the runtime. One read of the eventfd covers any number of completions.
//!
//! The ring signals the eventfd for every completion, also while somebody looks. That could be switched
//! off for the time; but the kernel reads the switch without a barrier after it publishes a completion,
//! so that a switch turned on just then can be missed. One read of the eventfd that nobody needed is
//! cheaper than to reason about that.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;

use super::ring::Ring;
use crate::runtime::{Turns, tasks};

/// How long the kernel's refusal of requests (no memory, queue overflow) is waited out.
const RETRY_AFTER: Duration = Duration::from_micros(100);
/// Giving way for longer than this means that other tasks ran meanwhile: the core is not idle.
const BUSY: Duration = Duration::from_micros(2);

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
    // SAFETY: an eventfd that is handed over here; nobody else reads it.
    let events = unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) };
    let queue = glommio::executor().current_task_queue();
    tasks::spawn(reap(ring, events, spin), queue)
        .map_err(|error| io::Error::other(error.to_string()))
}

async fn reap(ring: Ring, events: BufferedFile, spin: Duration) {
    let turns = Turns::new();
    while ring.wait_for_work().await {
        while !ring.is_idle() {
            if !ring.flush() {
                ring.reap();
                glommio::timer::sleep(RETRY_AFTER).await;
                continue;
            }
            if ring.reap() > 0 || look_while_busy(&ring, &turns, spin).await {
                continue;
            }
            if let Err(error) = events.read_at(0, 8).await {
                tracing::warn!(%error, "waiting for disk completions failed; looking again soon");
                glommio::timer::sleep(RETRY_AFTER).await;
            }
        }
    }
    if let Err(error) = events.close().await {
        tracing::debug!(%error, "closing the eventfd of a disk ring failed");
    }
}

/// Looks after each turn of the other tasks, as long as there are any, and for `spin` at least. True
/// when something completed; false when the core has nothing else to do.
async fn look_while_busy(ring: &Ring, turns: &Turns, spin: Duration) -> bool {
    let start = Instant::now();
    let mut before = start;
    loop {
        turns.give_way().await;
        if ring.reap() > 0 || ring.is_idle() {
            return true;
        }
        let now = Instant::now();
        if now - before < BUSY && now - start >= spin {
            return false;
        }
        before = now;
    }
}
