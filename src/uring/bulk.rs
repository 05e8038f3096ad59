//! Large transfers give way to the log: [`Bulk`].
//!
//! A disk works off what it was given first. A durable write of a few kilobytes that comes behind 30 MiB of
//! snapshot waits for all of it, and with it every commit of the core. So what is large and nobody waits
//! for, reads and writes of [`BULK_BYTES_MIN`] and more that need not be durable at once, goes to the
//! kernel only up to a number of bytes at a time: few while the log writes, many while it does not, as at
//! a start. The others wait here, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// What is smaller does not matter.
const BULK_BYTES_MIN: usize = 64 << 10;

/// Bytes under way beside durable writes.
const BESIDE_WRITES_BYTES: usize = 1 << 20;

/// Bytes under way otherwise: what keeps the disks busy that we know.
const ALONE_BYTES: usize = 16 << 20;

/// For how long after a durable write another is expected.
const WRITES_PAUSE_MAX: Duration = Duration::from_millis(5);

/// The large transfers of one core.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// Bytes under way.
    bytes: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Entrant>>>,
    /// The last sign of a durable write.
    written: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Entrant {
    bytes: usize,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    UnderWay,
    /// Nobody wants it any more.
    GivenUp,
}

/// A transfer that may be under way, as long as this lives.
#[derive(Debug)]
pub(super) struct Permit {
    bulk: Rc<Bulk>,
    entrant: Rc<Entrant>,
}

impl Bulk {
    /// Waits until a transfer of `bytes` may begin. Small ones may always: for them there is no permit.
    pub(super) async fn enter(self: &Rc<Self>, bytes: usize) -> Option<Permit> {
        if bytes < BULK_BYTES_MIN {
            return None;
        }
        let waker = RefCell::new(None);
        let entrant = Rc::new(Entrant { bytes, state: Cell::new(State::Waiting), waker });
        let permit = Permit { bulk: self.clone(), entrant: entrant.clone() };
        self.waiting.borrow_mut().push_back(entrant);
        self.admit(Instant::now());
        poll_fn(|cx| match permit.entrant.state.get() {
            State::Waiting => {
                permit.entrant.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
            State::UnderWay | State::GivenUp => Poll::Ready(()),
        })
        .await;
        Some(permit)
    }

    /// A durable write begins or ends.
    pub(super) fn note_write(&self) {
        self.written.set(Some(Instant::now()));
    }

    /// Lets in whom there is room for, at least one.
    fn admit(&self, now: Instant) {
        let writes = self.written.get().is_some_and(|then| now < then + WRITES_PAUSE_MAX);
        let bytes_max = if writes { BESIDE_WRITES_BYTES } else { ALONE_BYTES };
        let mut waiting = self.waiting.borrow_mut();
        while let Some(first) = waiting.front() {
            if first.state.get() == State::Waiting {
                let bytes = self.bytes.get() + first.bytes;
                if self.bytes.get() > 0 && bytes > bytes_max {
                    return;
                }
                self.bytes.set(bytes);
                first.state.set(State::UnderWay);
                if let Some(waker) = first.waker.take() {
                    waker.wake();
                }
            }
            waiting.pop_front();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.entrant.state.replace(State::GivenUp) == State::UnderWay {
            self.bulk.bytes.set(self.bulk.bytes.get() - self.entrant.bytes);
            self.bulk.admit(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::Future;
    use std::pin::Pin;
    use std::task::Context;

    use super::*;

    type Entering = Pin<Box<dyn Future<Output = Option<Permit>>>>;

    fn enter(bulk: &Rc<Bulk>, bytes: usize) -> Entering {
        let bulk = bulk.clone();
        Box::pin(async move { bulk.enter(bytes).await })
    }

    fn poll(entering: &mut Entering) -> Option<Option<Permit>> {
        match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn beside_durable_writes_large_transfers_go_one_after_the_other() {
        let bulk = Rc::new(Bulk::default());
        bulk.written.set(Some(Instant::now() + Duration::from_secs(3600)));
        let [mut first, mut second, mut third] =
            [1 << 20, 900 << 10, 100 << 10].map(|bytes| enter(&bulk, bytes));
        let permit = poll(&mut first).unwrap().unwrap();
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        assert!(poll(&mut enter(&bulk, 4096)).unwrap().is_none(), "a small one never waits");
        drop(permit);
        let permit = poll(&mut second).unwrap();
        let other = poll(&mut third).unwrap();
        assert_eq!(bulk.bytes.get(), 1000 << 10, "both fit");
        drop((permit, other));
        assert_eq!(bulk.bytes.get(), 0);
    }

    #[test]
    fn what_is_larger_than_the_limit_goes_alone() {
        let bulk = Rc::new(Bulk::default());
        let permit = poll(&mut enter(&bulk, 64 << 20)).unwrap().unwrap();
        let mut other = enter(&bulk, 1 << 20);
        assert!(poll(&mut other).is_none());
        drop(permit);
        assert!(poll(&mut other).unwrap().is_some());
    }

    #[test]
    fn without_durable_writes_many_go_at_once_and_those_given_up_hold_back_nobody() {
        let bulk = Rc::new(Bulk::default());
        let mut all: Vec<Entering> = (0..18).map(|_| enter(&bulk, 1 << 20)).collect();
        let mut permits: Vec<_> = all.iter_mut().filter_map(poll).collect();
        assert_eq!(permits.len(), 16);
        drop(all.remove(16)); // waits, and is given up
        permits.pop();
        assert!(poll(&mut all[16]).is_some());
    }
}
