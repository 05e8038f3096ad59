//! Waiting for a condition that another task of the same core brings about.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

/// Wakes the one task that waits for a condition. Conditions live outside, in cells.
#[derive(Debug, Default)]
pub(super) struct Signal {
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Lets the waiting task look at its condition again.
    pub(super) fn notify(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn remember(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&self, condition: impl Fn() -> bool) {
        poll_fn(|cx| {
            if condition() {
                return Poll::Ready(());
            }
            self.remember(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Runs `future` unless `condition` holds before it ends; `None` then.
    pub(super) async fn unless<F: Future>(
        &self,
        condition: impl Fn() -> bool,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if condition() {
                return Poll::Ready(None);
            }
            self.remember(cx.waker());
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}
