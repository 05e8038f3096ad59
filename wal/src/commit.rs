//! Group-commit policy: how many writes are in flight, and what their completions make durable.
//!
//! There is no timer. While as many writes are in flight as are allowed, appends collect; when one
//! completes, what has collected goes. With nothing in flight, an append goes at once. Writes complete
//! in any order, but only a contiguous prefix of them is durable.
//!
//! ```text
//! submitted   [ batch 7 ][ batch 8 ][ batch 9 ]
//! completed        -          yes        -        durable: end of batch 6
//! completed       yes         yes        -        durable: end of batch 8
//! ```

use std::collections::VecDeque;

use crate::Lsn;

/// One write in flight.
#[derive(Debug)]
struct Flight {
    end: Lsn,
    trimmed: Lsn,
    done: bool,
}

/// What the durable prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// End of the last durable batch.
    pub(crate) durable: Lsn,
    /// The trim position that it carries.
    pub(crate) trimmed: Lsn,
}

/// Writes in flight, in the order of their positions.
#[derive(Debug)]
pub(crate) struct Flights {
    queue: VecDeque<Flight>,
    first: u64,
    depth: usize,
}

impl Flights {
    pub(crate) fn new(depth: usize) -> Self {
        Self { queue: VecDeque::with_capacity(depth), first: 0, depth }
    }

    /// Whether another write may be submitted now.
    pub(crate) fn may_submit(&self) -> bool {
        self.queue.len() < self.depth
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Notes a write of the batch that ends at `end`; returns its number for `complete`.
    pub(crate) fn submit(&mut self, end: Lsn, trimmed: Lsn) -> u64 {
        sometimes!(two_writes_in_flight, !self.queue.is_empty());
        debug_assert!(self.may_submit(), "more writes in flight than allowed");
        debug_assert!(self.queue.back().is_none_or(|last| last.end < end), "positions grow");
        self.queue.push_back(Flight { end, trimmed, done: false });
        self.first + self.queue.len() as u64 - 1
    }

    /// Notes that write `number` is durable. Returns the new durable prefix if it grew.
    pub(crate) fn complete(&mut self, number: u64) -> Option<Prefix> {
        let place = (number - self.first) as usize;
        #[cfg(mutant = "completions-in-order-assumed")]
        let place = 0;
        self.queue[place].done = true;
        sometimes!(completed_out_of_order, place > 0);
        let mut prefix: Option<Prefix> = None;
        while self.queue.front().is_some_and(|flight| flight.done) {
            let Some(flight) = self.queue.pop_front() else { break };
            self.first += 1;
            sometimes!(several_durable_at_once, prefix.is_some());
            prefix = Some(Prefix { durable: flight.end, trimmed: flight.trimmed });
        }
        prefix
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn completions_out_of_order_wait_for_the_first() {
        let mut flights = Flights::new(3);
        let a = flights.submit(Lsn(1), Lsn(0));
        let b = flights.submit(Lsn(2), Lsn(0));
        let c = flights.submit(Lsn(3), Lsn(1));
        assert!(!flights.may_submit());
        assert_eq!(flights.complete(b), None);
        assert_eq!(flights.complete(a).unwrap().durable, Lsn(2));
        assert!(flights.may_submit());
        assert_eq!(flights.complete(c), Some(Prefix { durable: Lsn(3), trimmed: Lsn(1) }));
        assert!(flights.is_empty());
    }

    proptest! {
        /// Against the plain model: durable is the end of the longest prefix of completed writes.
        #[test]
        fn durable_is_the_contiguous_prefix(steps in prop::collection::vec(any::<(bool, u8)>(), 1..200)) {
            let mut flights = Flights::new(4);
            let mut done: Vec<bool> = Vec::new();
            let mut durable = Lsn(0);
            for (submit, pick) in steps {
                if submit && flights.may_submit() {
                    let number = flights.submit(Lsn(done.len() as u64 + 1), Lsn(0));
                    prop_assert_eq!(number, done.len() as u64);
                    done.push(false);
                    continue;
                }
                let open: Vec<usize> = (0..done.len()).filter(|i| !done[*i]).collect();
                if open.is_empty() { continue }
                let chosen = open[pick as usize % open.len()];
                done[chosen] = true;
                if let Some(prefix) = flights.complete(chosen as u64) {
                    prop_assert!(prefix.durable > durable);
                    durable = prefix.durable;
                }
                let model = done.iter().take_while(|d| **d).count() as u64;
                prop_assert_eq!(durable, Lsn(model));
            }
        }
    }
}
