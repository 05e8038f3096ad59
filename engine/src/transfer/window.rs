//! Which chunks to ask for next, which are outstanding, and what to do about one that failed: the
//! decisions of a puller, apart from its I/O.
//!
//! A chunk is in one of these places:
//!
//! ```text
//! wanted --ask--> outstanding --answered--> in hand --stored--> (gone)
//!    ^                 |                       |
//!    +---broken_off----+                       |
//!    +------failed (to the front, a few times)-+
//! ```
//!
//! Answers come in the order of the requests; one that does not is a defect of the sender, and ends the
//! connection. The number of outstanding requests is the credit that the sender has: it sends nothing
//! that was not asked for.

use std::collections::{BTreeMap, VecDeque};

/// An answer came out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfOrder {
    /// The chunk that was asked for first, of those outstanding.
    pub expected: Option<u32>,
}

/// What to do about a chunk that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will be asked for again, before all others.
    AskAgain,
    /// It has failed this often; that is enough.
    GiveUp {
        /// How often.
        tries: u32,
    },
}

/// The chunks of a snapshot that are not stored yet.
#[derive(Debug)]
pub struct Window {
    credit: usize,
    tries_max: u32,
    wanted: VecDeque<u32>,
    outstanding: VecDeque<u32>,
    in_hand: usize,
    /// How often chunks have failed that have.
    tries: BTreeMap<u32, u32>,
}

impl Window {
    /// A window over `missing`, in that order, with at most `credit` requests outstanding and at most
    /// `tries_max` failures of one chunk; both at least 1.
    #[must_use]
    pub fn new(missing: impl IntoIterator<Item = u32>, credit: usize, tries_max: u32) -> Self {
        Self {
            credit: credit.max(1),
            tries_max: tries_max.max(1),
            wanted: missing.into_iter().collect(),
            outstanding: VecDeque::new(),
            in_hand: 0,
            tries: BTreeMap::new(),
        }
    }

    /// The next chunk to ask for, now; `None` while the credit is used up or nothing is wanted.
    pub fn ask(&mut self) -> Option<u32> {
        if self.outstanding.len() >= self.credit {
            return None;
        }
        let number = self.wanted.pop_front()?;
        self.outstanding.push_back(number);
        Some(number)
    }

    /// An answer for `number` came.
    ///
    /// # Errors
    /// [`OutOfOrder`] if it is not the one that comes next.
    pub fn answered(&mut self, number: u32) -> Result<(), OutOfOrder> {
        match self.outstanding.front() {
            Some(first) if *first == number => {
                self.outstanding.pop_front();
                self.in_hand += 1;
                Ok(())
            }
            expected => Err(OutOfOrder { expected: expected.copied() }),
        }
    }

    /// A chunk in hand is stored.
    pub fn stored(&mut self, number: u32) {
        assert!(self.in_hand > 0, "chunk {number} was not in hand");
        self.in_hand -= 1;
        self.tries.remove(&number);
    }

    /// A chunk in hand is no good.
    pub fn failed(&mut self, number: u32) -> Verdict {
        assert!(self.in_hand > 0, "chunk {number} was not in hand");
        self.in_hand -= 1;
        let tries = self.tries.entry(number).or_default();
        *tries += 1;
        let tries = *tries;
        self.wanted.push_front(number);
        if tries >= self.tries_max { Verdict::GiveUp { tries } } else { Verdict::AskAgain }
    }

    /// A chunk in hand is not there after all, through no fault of its own: its connection broke.
    pub fn returned(&mut self, number: u32) {
        assert!(self.in_hand > 0, "chunk {number} was not in hand");
        self.in_hand -= 1;
        self.wanted.push_front(number);
    }

    /// The connection is lost with all that was outstanding. What is in hand still is.
    pub fn broken_off(&mut self) {
        while let Some(number) = self.outstanding.pop_back() {
            self.wanted.push_front(number);
        }
    }

    /// Requests outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether nothing is wanted, outstanding or in hand any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty() && self.outstanding.is_empty() && self.in_hand == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ask_all(window: &mut Window) -> Vec<u32> {
        std::iter::from_fn(|| window.ask()).collect()
    }

    #[test]
    fn no_more_is_outstanding_than_the_credit() {
        let mut window = Window::new(0..10, 3, 2);
        assert_eq!(ask_all(&mut window), [0, 1, 2]);
        window.answered(0).unwrap();
        assert_eq!(ask_all(&mut window), [3]);
        assert_eq!(window.outstanding(), 3);
    }

    #[test]
    fn a_bad_chunk_is_asked_for_again_alone_and_given_up_in_the_end() {
        let mut window = Window::new(0..5, 2, 2);
        assert_eq!(ask_all(&mut window), [0, 1]);
        window.answered(0).unwrap();
        assert_eq!(window.failed(0), Verdict::AskAgain);
        assert_eq!(ask_all(&mut window), [0]);
        window.answered(1).unwrap();
        window.stored(1);
        assert_eq!(ask_all(&mut window), [2]);
        window.answered(0).unwrap();
        assert_eq!(window.failed(0), Verdict::GiveUp { tries: 2 });
    }

    #[test]
    fn failures_are_counted_per_chunk_and_forgotten_when_it_is_stored() {
        let mut window = Window::new(0..2, 8, 2);
        ask_all(&mut window);
        for number in [0, 1] {
            window.answered(number).unwrap();
            assert_eq!(window.failed(number), Verdict::AskAgain);
        }
        assert_eq!(ask_all(&mut window), [1, 0]);
        for number in [1, 0] {
            window.answered(number).unwrap();
            window.stored(number);
        }
        assert!(window.is_done() && window.tries.is_empty());
    }

    #[test]
    fn a_lost_connection_costs_only_what_was_outstanding() {
        let mut window = Window::new(0..6, 3, 2);
        ask_all(&mut window);
        window.answered(0).unwrap();
        window.broken_off();
        assert_eq!(window.outstanding(), 0);
        window.stored(0);
        assert_eq!(ask_all(&mut window), [1, 2, 3]);
    }

    #[test]
    fn answers_out_of_order_are_noticed() {
        let mut window = Window::new([7, 8], 3, 2);
        assert_eq!(window.answered(7), Err(OutOfOrder { expected: None }));
        ask_all(&mut window);
        assert_eq!(window.answered(8), Err(OutOfOrder { expected: Some(7) }));
        window.answered(7).unwrap();
        assert_eq!(window.answered(7), Err(OutOfOrder { expected: Some(8) }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens, in the end every chunk is stored once, and nothing was asked for twice
        /// without a reason.
        #[test]
        fn every_chunk_is_stored_in_the_end(
            chunks in 0_u32..40,
            credit in 1_usize..10,
            luck in proptest::collection::vec(0_u8..10, 1..200),
        ) {
            let mut window = Window::new(0..chunks, credit, 1000);
            let mut sent: VecDeque<u32> = VecDeque::new();
            let mut hand: Vec<u32> = Vec::new();
            let mut stored = BTreeSet::new();
            let (mut asked, mut reasons) = (0, 0);
            let mut luck = luck.into_iter().chain([5, 9]).cycle();
            while !window.is_done() {
                while let Some(number) = window.ask() {
                    prop_assert!(!stored.contains(&number) && !sent.contains(&number));
                    sent.push_back(number);
                    asked += 1;
                }
                prop_assert!(window.outstanding() <= credit);
                match luck.next() {
                    Some(0) => {
                        reasons += sent.len();
                        sent.clear();
                        window.broken_off();
                    }
                    Some(1) if !hand.is_empty() => {
                        prop_assert_eq!(window.failed(hand.remove(0)), Verdict::AskAgain);
                        reasons += 1;
                    }
                    Some(2..6) if !sent.is_empty() => {
                        let number = sent.pop_front().unwrap();
                        window.answered(number).unwrap();
                        hand.push(number);
                    }
                    _ => if let Some(number) = hand.pop() {
                        window.stored(number);
                        prop_assert!(stored.insert(number));
                    }
                }
            }
            prop_assert_eq!(stored.len(), chunks as usize);
            prop_assert_eq!(asked, chunks as usize + reasons);
        }
    }
}
