//! Who belongs to a shard, as its logs say it: told by the entries alone, without the rules of the product.
//!
//! A configuration is in force on a replica from the entry on that holds it, committed or not. So every one that
//! any log ever had is kept by the place of its entry, and what is in force on a replica follows from its log.
//!
//! | checked | of |
//! |---|---|
//! | the replica's own configuration is the one that its log says | every replica, after every turn |
//! | quorums of a configuration and of the one before it in the log share a voter | every configuration, once |
//! | its leader had committed an entry of its own term before | every configuration, once |
//! | at most one is beyond what was ever committed | every log |
//!
//! Quorums are counted here and not by the product, so that a wrong count of the product shows.

use std::collections::BTreeMap;

use coracle_engine::raft::membership::{Configuration, NodeSet};
use coracle_engine::raft::quorum::majority;
use coracle_engine::{LogIndex, NodeId, Term};

use super::chain::Chain;
use super::violation::{Checked, Invariant, Violation, fail};

/// Where an entry is.
pub(super) type Place = (LogIndex, Term);

/// Before the first entry: what the cluster began with.
const BEGINNING: Place = (LogIndex(0), Term(0));

/// All configurations of a shard.
#[derive(Debug, Default)]
pub(super) struct Members {
    initial: Configuration,
    seen: BTreeMap<Place, Configuration>,
    /// The newest that is committed.
    committed: Option<Place>,
}

impl Members {
    /// Those of a shard that begins with this one.
    pub(super) fn of(initial: Configuration) -> Self {
        Self { initial, seen: BTreeMap::new(), committed: None }
    }

    /// Whether `node` voted from the beginning.
    pub(super) fn is_initial_voter(&self, node: NodeId) -> bool {
        self.initial.incoming().contains(node)
    }

    /// Where the configuration is that a log has in force at `index`.
    pub(super) fn place(&self, log: &Chain, index: LogIndex) -> Place {
        let before = self.seen.range(..=(index, Term(u64::MAX))).rev();
        let own = |(at, term): Place| log.at(at).is_some_and(|link| link.term == term);
        before.map(|(place, _)| *place).find(|place| own(*place)).unwrap_or(BEGINNING)
    }

    /// The configuration at a place.
    pub(super) fn at(&self, place: Place) -> &Configuration {
        self.seen.get(&place).unwrap_or(&self.initial)
    }

    /// The newest committed one.
    pub(super) fn committed(&self) -> &Configuration {
        self.at(self.committed.unwrap_or(BEGINNING))
    }

    /// The newest committed one, and those that may yet be: nothing is committed in their places.
    pub(super) fn possible(&self, committed: LogIndex) -> Vec<Configuration> {
        let later = self.seen.range((committed.next(), Term(0))..).map(|(_, own)| own.clone());
        std::iter::once(self.committed().clone()).chain(later).collect()
    }

    /// A log has this configuration at this place. Whether that was seen before.
    pub(super) fn note(
        &mut self,
        log: &Chain,
        place: Place,
        configuration: Configuration,
    ) -> Checked<bool> {
        if self.seen.contains_key(&place) {
            return Ok(true); // logs match
        }
        let before = self.at(self.place(log, place.0.prev()));
        if let Some(decisive) = disjoint(before, &configuration) {
            let expected = format!("a configuration whose quorums share voters with {before}");
            let seen = format!("{configuration}: {decisive} could decide without the others");
            let violation = Violation::new(Invariant::ConfigurationStep, expected, seen);
            return fail(violation.term(place.1).index(place.0));
        }
        self.seen.insert(place, configuration);
        Ok(false)
    }

    /// An entry was committed.
    pub(super) fn commit(&mut self, place: Place) {
        if self.seen.contains_key(&place) {
            self.committed = Some(place);
        }
    }

    /// A log has at most one configuration that cannot be known to be committed.
    pub(super) fn check_one_at_a_time(&self, log: &Chain, committed: LogIndex) -> Checked {
        let beyond = self.seen.range((committed.next(), Term(0))..);
        let own = beyond
            .filter(|((at, term), _)| log.at(*at).is_some_and(|link| link.term == *term))
            .map(|(place, _)| *place);
        match own.collect::<Vec<_>>().as_slice() {
            [first, second, ..] => {
                let expected = "one change of members at a time";
                let seen = format!(
                    "another one although that at {} is not committed; what is committed ends at {committed}",
                    first.0
                );
                let violation = Violation::new(Invariant::ConfigurationStep, expected, seen);
                fail(violation.term(second.1).index(second.0))
            }
            _ => Ok(()),
        }
    }
}

/// Whether those of whom `is_in` says yes can decide: a majority of the voters, and while joint of the old ones, too.
#[must_use]
pub fn decides(configuration: &Configuration, is_in: impl Fn(NodeId) -> bool) -> bool {
    let has_majority = |half: &NodeSet| {
        half.is_empty() || half.iter().filter(|node| is_in(*node)).count() >= majority(half.len())
    };
    has_majority(configuration.incoming()) && has_majority(configuration.outgoing())
}

/// Voters that can decide by `a` while all others can decide by `b`, if there are any. Tries all sets of voters.
fn disjoint(a: &Configuration, b: &Configuration) -> Option<NodeSet> {
    let all: NodeSet = a.voters().iter().chain(b.voters().iter()).collect();
    let place = |node: NodeId| all.iter().position(|own| own == node).unwrap_or_default();
    (0..1_u64 << all.len()).find_map(|set| {
        let is_in = |node: NodeId| set >> place(node) & 1 == 1;
        let parted = decides(a, is_in) && decides(b, |node| !is_in(node));
        parted.then(|| all.iter().filter(|node| is_in(*node)).collect())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coracle_engine::raft::membership::Change;

    use super::*;

    fn voters(ids: &[u64]) -> Configuration {
        Configuration::of_voters(ids.iter().copied().map(NodeId)).unwrap()
    }

    fn log(terms: &[u64]) -> Chain {
        let mut log = Chain::default();
        for term in terms {
            log.push(Term(*term), 0);
        }
        log
    }

    #[test]
    fn quorums_of_neighbours_share_a_voter_and_others_need_not() {
        let three = voters(&[1, 2, 3]);
        assert_eq!(disjoint(&three, &voters(&[1, 2, 3, 4])), None);
        assert_eq!(disjoint(&three, &voters(&[2, 3])), None);
        assert!(disjoint(&three, &voters(&[1, 2, 3, 4, 5])).is_some());
        assert!(disjoint(&three, &voters(&[1, 2, 4])).is_some());
        let joint = three.enter_joint(&[Change::AddVoter(NodeId(4))], true).unwrap();
        assert_eq!(disjoint(&three, &joint), None);
        assert!(!decides(&joint, |node| node.0 > 2) && decides(&joint, |node| node.0 != 1));
    }

    #[test]
    fn what_is_in_force_follows_each_log() {
        let mut members = Members::of(voters(&[1, 2, 3]));
        let (one, two) = (log(&[1, 1, 1]), log(&[1, 2, 2]));
        let (at_one, at_two) = ((LogIndex(2), Term(1)), (LogIndex(3), Term(2)));
        assert!(!members.note(&one, at_one, voters(&[1, 2])).unwrap());
        assert!(!members.note(&two, at_two, voters(&[1, 2, 3, 4])).unwrap());
        assert_eq!(members.at(members.place(&one, LogIndex(3))), &voters(&[1, 2]));
        assert_eq!(members.at(members.place(&one, LogIndex(1))), &voters(&[1, 2, 3]));
        assert_eq!(members.at(members.place(&two, LogIndex(3))), &voters(&[1, 2, 3, 4]));
        assert_eq!(members.possible(LogIndex(1)).len(), 3);
        members.commit((LogIndex(2), Term(2)));
        members.commit(at_two);
        assert_eq!(members.committed(), &voters(&[1, 2, 3, 4]));
        assert_eq!(members.possible(LogIndex(3)), [voters(&[1, 2, 3, 4])]);
        let third = (LogIndex(4), Term(3));
        assert!(members.note(&log(&[1, 2, 2, 3]), third, voters(&[1, 5])).is_err());
    }

    #[test]
    fn a_second_change_waits_for_the_first() {
        let mut members = Members::of(voters(&[1, 2, 3]));
        let log = log(&[1, 1, 1]);
        members.note(&log, (LogIndex(2), Term(1)), voters(&[1, 2])).unwrap();
        members.note(&log, (LogIndex(3), Term(1)), voters(&[1])).unwrap();
        assert!(members.check_one_at_a_time(&log, LogIndex(1)).is_err());
        assert!(members.check_one_at_a_time(&log, LogIndex(2)).is_ok());
    }
}
