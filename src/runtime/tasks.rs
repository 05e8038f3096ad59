//! The tasks of a core, so that they end with it.
//!
//! The executor forgets tasks that still wait when it ends: their sockets stay open, their files stay
//! locked, until the process ends. So every detached task is kept here, and cancelled when the core's
//! main task is over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;

use glommio::{GlommioError, TaskQueueHandle};

#[derive(Default)]
struct Tasks {
    next: u64,
    running: BTreeMap<u64, glommio::Task<()>>,
    /// Over, but still in `running`: a task must not drop its own handle.
    finished: Vec<u64>,
}

thread_local! {
    /// One executor per thread.
    static TASKS: RefCell<Tasks> = RefCell::default();
}

/// Runs `task` on this core until it ends, or the core does. It starts at the next turn, never inside
/// this call: the caller may hold borrows.
pub(crate) fn spawn(
    task: impl Future<Output = ()> + 'static,
    queue: TaskQueueHandle,
) -> Result<(), GlommioError<()>> {
    let (id, finished) = TASKS.with_borrow_mut(|tasks| {
        tasks.next += 1;
        let finished = std::mem::take(&mut tasks.finished);
        let finished: Vec<_> = finished.iter().filter_map(|id| tasks.running.remove(id)).collect();
        (tasks.next, finished)
    });
    drop(finished); // outside of the borrow, for a task's end may spawn
    let tracked = async move {
        task.await;
        TASKS.with_borrow_mut(|tasks| tasks.finished.push(id));
    };
    let task = glommio::spawn_local_into(tracked, queue)?;
    TASKS.with_borrow_mut(|tasks| tasks.running.insert(id, task));
    Ok(())
}

/// Cancels all tasks of this core, the newest first, and drops what they hold.
pub(super) async fn cancel_all() {
    while let Some((_, task)) = TASKS.with_borrow_mut(|tasks| tasks.running.pop_last()) {
        task.cancel().await;
    }
}
