//! [`Gate`]: lets one task at a time change the directory's names, in the order in which they came.
//!
//! Everything here belongs to one thread. What is kept apart are sequences of operations on the same names, which
//! otherwise interleave wherever one waits for the disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
struct Line {
    taken: bool,
    /// The next ticket.
    next: u64,
    /// Who waits, by ticket.
    waiting: BTreeMap<u64, Waker>,
}

impl Line {
    fn call_next(&self) {
        if let Some(waker) = self.waiting.values().next() {
            waker.wake_by_ref();
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Gate(RefCell<Line>);

impl Gate {
    /// Waits until all who came before have left.
    pub(super) fn enter(&self) -> Enter<'_> {
        Enter { gate: self, ticket: None }
    }
}

/// The wait for a [`Turn`]. Dropping it leaves the line.
pub(super) struct Enter<'a> {
    gate: &'a Gate,
    ticket: Option<u64>,
}

impl<'a> Future for Enter<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn<'a>> {
        let gate = self.gate;
        let mut line = gate.0.borrow_mut();
        let first = line.waiting.keys().next().copied();
        if !line.taken && (first.is_none() || first == self.ticket) {
            line.taken = true;
            if let Some(ticket) = self.ticket.take() {
                line.waiting.remove(&ticket);
            }
            return Poll::Ready(Turn(gate));
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            line.next += 1;
            line.next
        });
        line.waiting.insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut line = self.gate.0.borrow_mut();
        line.waiting.remove(&ticket);
        // It may have been called already.
        if !line.taken {
            line.call_next();
        }
    }
}

/// The right to change names; ends when it is dropped.
pub(super) struct Turn<'a>(&'a Gate);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = self.0.0.borrow_mut();
        line.taken = false;
        line.call_next();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn lets_one_in_at_a_time_in_order() {
        let gate = Gate::default();
        let first = gate.enter().now_or_never().expect("nobody is there");
        let mut second = gate.enter();
        let mut third = gate.enter();
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "the second one came before");
        assert!(gate.enter().now_or_never().is_none());
        let turn = (&mut second).now_or_never().expect("its turn");
        assert!((&mut third).now_or_never().is_none());
        drop(turn);
        drop((&mut third).now_or_never().expect("its turn"));
        assert!(gate.enter().now_or_never().is_some());
    }

    #[test]
    fn who_leaves_the_line_holds_up_nobody() {
        let gate = Gate::default();
        let first = gate.enter().now_or_never().expect("nobody is there");
        let mut second = gate.enter();
        let mut third = gate.enter();
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }
}
