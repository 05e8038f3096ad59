//! A wake-up between tasks of one core: set it, and every task that waits runs on.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A flag with waiters. Setting it twice before anybody looked counts once.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Sets the flag and wakes who waits.
    pub(crate) fn set(&self) {
        self.set.set(true);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Takes the flag, or arranges for `cx` to be woken when it is set.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<()> {
        if self.set.take() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until the flag is set and takes it.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| self.poll_take(cx)).await;
    }
}
