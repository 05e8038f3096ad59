//! Who begins a term, and that a leader steps down that nobody answers.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_engine::raft::HardState;
use coracle_engine::raft::membership::Configuration;
use coracle_engine::{NodeId, ShardId, Term};

use super::members::decides;
use super::violation::{Checked, Invariant, Violation, fail};

/// Who was heard by whom, for how long leaders have been alone, and which terms there were.
#[derive(Debug)]
pub struct Contact {
    /// The latest term of each shard.
    terms: BTreeMap<ShardId, Term>,
    election_timeout: Duration,
    /// When a message of the second node last reached the first one, by shard.
    heard: BTreeMap<(NodeId, NodeId, ShardId), Duration>,
    /// When a pulse of the second node, which stands for its replicas that sleep, last reached the first one.
    pulsed: BTreeMap<(NodeId, NodeId), Duration>,
    /// Since when a leader was seen without a majority.
    alone: BTreeMap<(NodeId, ShardId), Duration>,
}

impl Contact {
    /// Nobody was heard yet.
    #[must_use]
    pub fn new(election_timeout: Duration) -> Self {
        Self {
            terms: BTreeMap::new(),
            election_timeout,
            heard: BTreeMap::new(),
            pulsed: BTreeMap::new(),
            alone: BTreeMap::new(),
        }
    }

    /// A message of `from` reaches `to`.
    pub fn heard(&mut self, from: NodeId, to: NodeId, shard: ShardId, now: Duration) {
        self.heard.insert((to, from, shard), now);
    }

    /// A pulse of `from` reaches `to`.
    pub fn pulsed(&mut self, from: NodeId, to: NodeId, now: Duration) {
        self.pulsed.insert((to, from), now);
    }

    /// A node starts, or goes on after a pause: it needs time to notice that it is alone.
    pub fn resumed(&mut self, node: NodeId) {
        self.alone.retain(|(of, _), _| *of != node);
    }

    /// A replica's term and vote after a turn.
    ///
    /// # Errors
    /// It is in a term in which nobody was before, and has not voted for itself.
    pub fn term(&mut self, node: NodeId, shard: ShardId, state: HardState) -> Checked {
        let latest = self.terms.entry(shard).or_default();
        if state.term <= *latest {
            return Ok(());
        }
        *latest = state.term;
        if state.vote == Some(node) {
            return Ok(());
        }
        let seen = format!("{:?}", state.vote);
        let violation = Violation::new(Invariant::TermOrigin, "its own vote", seen);
        fail(violation.on(node, shard).term(state.term))
    }

    /// A replica after a turn, and who belongs to its shard.
    ///
    /// # Errors
    /// It leads, and has heard no majority for much longer than an election timeout. What arrives counts,
    /// whether it is an answer or not, and clocks may be slow: so the bound is three times as wide.
    pub fn look(
        &mut self,
        (node, shard): (NodeId, ShardId),
        leads: bool,
        configuration: &Configuration,
        now: Duration,
    ) -> Checked {
        let is_heard = |from: NodeId| {
            let pulse = self.pulsed.get(&(node, from));
            let last = self.heard.get(&(node, from, shard)).max(pulse);
            let heard = last.is_some_and(|last| now.saturating_sub(*last) <= self.election_timeout);
            from == node || heard
        };
        if !leads || decides(configuration, is_heard) {
            self.alone.remove(&(node, shard));
            return Ok(());
        }
        let since = *self.alone.entry((node, shard)).or_insert(now);
        if now - since <= 2 * self.election_timeout {
            return Ok(());
        }
        let expected = "a leader that hears no majority to step down";
        let seen = format!("it leads {:?} later", now - since + self.election_timeout);
        fail(Violation::new(Invariant::CheckQuorum, expected, seen).on(node, shard))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_candidate_begins_a_term() {
        let mut contact = Contact::new(Duration::from_millis(100));
        let mut is_fine = |node, term, vote: Option<u64>| {
            let state =
                HardState { term: Term(term), vote: vote.map(NodeId), ..HardState::default() };
            contact.term(NodeId(node), ShardId(0), state).is_ok()
        };
        assert!(is_fine(1, 0, None) && is_fine(1, 1, Some(1)) && is_fine(2, 1, Some(1)));
        assert!(is_fine(3, 1, None) && !is_fine(2, 2, None) && !is_fine(2, 3, Some(1)));
    }

    #[test]
    fn a_leader_may_be_alone_for_a_while_only() {
        let (one, two, shard) = (NodeId(1), NodeId(2), ShardId(0));
        let mut contact = Contact::new(Duration::from_millis(100));
        let both = Configuration::of_voters([one, two]).unwrap();
        let look = |contact: &mut Contact, leads, ms| {
            contact.look((one, shard), leads, &both, Duration::from_millis(ms)).is_ok()
        };
        contact.heard(two, one, shard, Duration::from_millis(10));
        assert!(look(&mut contact, true, 110), "heard");
        assert!(look(&mut contact, true, 120) && look(&mut contact, true, 320), "in time");
        assert!(!look(&mut contact, true, 321), "too late");
        contact.resumed(one);
        assert!(look(&mut contact, true, 400), "it has just woken up");
        assert!(look(&mut contact, false, 900) && look(&mut contact, true, 1000), "a new reign");
    }
}
