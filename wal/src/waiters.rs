//! Tasks that wait for the log to become durable.

use std::task::{Context, Waker};

use crate::Lsn;

enum Slot {
    Free,
    Waiting(Lsn, Waker),
    Woken,
}

/// Waiting tasks. Those with a slot are woken when their position is passed; the others every time.
#[derive(Default)]
pub(crate) struct Waiters {
    slots: Vec<Slot>,
    free: Vec<usize>,
    every_time: Vec<Waker>,
}

impl Waiters {
    /// Wakes the task once, at the next change.
    pub(crate) fn once(&mut self, cx: &Context<'_>) {
        if !self.every_time.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.every_time.push(cx.waker().clone());
        }
    }

    /// Wakes the task when durable is beyond `lsn`. `slot` is kept by the caller, who frees it.
    pub(crate) fn beyond(&mut self, slot: &mut Option<usize>, lsn: Lsn, cx: &Context<'_>) {
        let index = *slot.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot::Free);
                self.slots.len() - 1
            })
        });
        match &mut self.slots[index] {
            Slot::Waiting(_, waker) if waker.will_wake(cx.waker()) => {}
            other => *other = Slot::Waiting(lsn, cx.waker().clone()),
        }
    }

    /// Gives a slot back.
    pub(crate) fn release(&mut self, slot: usize) {
        self.slots[slot] = Slot::Free;
        self.free.push(slot);
    }

    /// Takes out the tasks that a new durable position concerns.
    pub(crate) fn advanced(&mut self, durable: Lsn) -> Vec<Waker> {
        self.take(|lsn| lsn < durable)
    }

    /// Takes out all tasks: the log has ended.
    pub(crate) fn ended(&mut self) -> Vec<Waker> {
        self.take(|_| true)
    }

    fn take(&mut self, concerned: impl Fn(Lsn) -> bool) -> Vec<Waker> {
        let mut woken = std::mem::take(&mut self.every_time);
        for slot in &mut self.slots {
            if matches!(slot, Slot::Waiting(lsn, _) if concerned(*lsn))
                && let Slot::Waiting(_, waker) = std::mem::replace(slot, Slot::Woken)
            {
                woken.push(waker);
            }
        }
        woken
    }
}
