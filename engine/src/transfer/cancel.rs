//! [`Cancel`]: tells a pull to give up.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::core::signal::Signal;

#[derive(Debug, Default)]
struct Flag {
    set: Cell<bool>,
    changed: Signal,
}

/// A flag that is set once, and those who wait for it. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Rc<Flag>);

impl Cancel {
    /// Sets the flag.
    pub fn cancel(&self) {
        self.0.set.set(true);
        self.0.changed.set();
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.set.get()
    }

    /// Waits until it is set.
    pub(crate) async fn cancelled(&self) {
        poll_fn(|cx| {
            // The signal is for being woken; one waiter may take it from another.
            while !self.0.set.get() {
                if self.0.changed.poll_take(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
