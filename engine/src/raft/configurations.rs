//! The configurations along a log: which one was in force where, and how an entry carries one.
//!
//! An entry of kind [`EntryKind::Reconfiguration`](super::EntryKind::Reconfiguration) holds the whole
//! configuration that follows from the change, not the change: so the newest such entry of a log says who
//! belongs to the shard, whatever came before it, and a replica that begins in the middle, behind a
//! snapshot or with a blank disk, needs no history. It is in force from the moment it is in the log (Raft
//! thesis, 4.1), committed or not, and is not any more when it is cut off again. So the log keeps what was in force
//! before, as far back as it may be asked for: down to its base.
//!
//! ```text
//!   index           base ........ 17 ............ 23 ............ last
//!   in force        base's        17's            23's
//!                                                  ^ cut from 20 on: 17's again
//! ```
//! The configuration at the base is that of the snapshot that ends there, or, from the beginning, the one that
//! the replica was started with; an empty one if it is to join others.
//!
//! The bytes, all of them: version u8 (1), counts of incoming voters, outgoing voters, learners and next
//! learners, a u8 each, auto leave u8 (0 or 1), then the nodes in this order, a little-endian u64 each, in
//! every set rising.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::membership::{Configuration, NodeSet, Parts};
use super::message::{Entry, EntryKind};
use crate::{LogIndex, NodeId};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 6;

impl Configuration {
    /// The payload of the entry that puts this configuration in force: at most
    /// [`CONFIGURATION_BYTES_MAX`](crate::limits::CONFIGURATION_BYTES_MAX) bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let sets = [self.incoming(), self.outgoing(), self.learners(), self.learners_next()];
        let mut bytes = vec![VERSION];
        bytes.extend(sets.iter().map(|set| set.len() as u8)); // limited when it was made
        bytes.push(u8::from(self.auto_leave()));
        for node in sets.iter().flat_map(|set| set.iter()) {
            bytes.extend_from_slice(&node.0.to_le_bytes());
        }
        bytes.into()
    }

    /// Reads such a payload; `None` if these are not exactly the bytes of a configuration with voters.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (head, mut rest) = payload.split_first_chunk::<HEAD_BYTES>()?;
        let [version, incoming, outgoing, learners, learners_next, auto_leave] = *head;
        let counts = [incoming, outgoing, learners, learners_next];
        let nodes: usize = counts.iter().map(|count| usize::from(*count)).sum();
        if version != VERSION || auto_leave > 1 || rest.len() != 8 * nodes || incoming == 0 {
            return None;
        }
        let mut set = |count: u8| {
            let (own, others) = rest.split_at_checked(8 * usize::from(count))?;
            rest = others;
            let ids = own.chunks_exact(8).map(|id| id.try_into().map(u64::from_le_bytes));
            let ids = ids.collect::<Result<Vec<_>, _>>().ok()?;
            let rising = ids.windows(2).all(|pair| pair[0] < pair[1]);
            rising.then(|| ids.into_iter().map(NodeId).collect::<NodeSet>())
        };
        let [incoming, outgoing, learners, learners_next] = counts;
        let parts = Parts {
            incoming: set(incoming)?,
            outgoing: set(outgoing)?,
            learners: set(learners)?,
            learners_next: set(learners_next)?,
            auto_leave: auto_leave == 1,
        };
        Self::from_parts(parts).ok()
    }
}

impl Entry {
    /// The configuration that this entry puts in force, if it is of that kind and whole.
    #[must_use]
    pub fn configuration(&self) -> Option<Configuration> {
        let reconfigures = self.kind == EntryKind::Reconfiguration;
        reconfigures.then(|| Configuration::decode(&self.payload)).flatten()
    }
}

/// The configurations of one log, from its base on.
#[derive(Clone, Debug, Default)]
pub(super) struct Configurations {
    /// In force before the first of `changes`, and the index from which it is known to be.
    base: (LogIndex, Arc<Configuration>),
    /// Index of each later entry that put one in force.
    changes: VecDeque<(LogIndex, Arc<Configuration>)>,
    /// Grows with every difference.
    version: u64,
}

impl Configurations {
    /// Those of a log that was recovered: in force at `index`, and what later entries say.
    pub(super) fn restore(
        index: LogIndex,
        configuration: Configuration,
        later: impl IntoIterator<Item = (LogIndex, Configuration)>,
    ) -> Self {
        let later = later.into_iter().filter(|(at, _)| *at > index);
        let changes = later.map(|(at, configuration)| (at, Arc::new(configuration))).collect();
        Self { base: (index, Arc::new(configuration)), changes, version: 0 }
    }

    /// Keeps what is in force only once in memory if it is the same as in `other`.
    pub(super) fn share_with(&mut self, other: &Self) {
        let known = other.changes.back().map_or(&other.base.1, |(_, configuration)| configuration);
        let own = self.changes.back_mut().map_or(&mut self.base.1, |(_, own)| own);
        if own == known {
            *own = known.clone();
        }
    }

    /// Gives back memory that is not used.
    pub(super) fn rest(&mut self) {
        self.changes.shrink_to_fit();
    }

    /// Whether nobody has said yet what is in force at the base.
    pub(super) fn is_unknown(&self) -> bool {
        *self.base.1 == Configuration::default()
    }

    /// What is in force at the base.
    pub(super) fn begin_with(&mut self, configuration: Configuration) {
        self.base.1 = Arc::new(configuration);
        self.version += 1;
    }

    /// The one in force at the end of the log.
    pub(super) fn current(&self) -> &Configuration {
        self.changes.back().map_or(&self.base.1, |(_, configuration)| configuration)
    }

    /// The entry that put it in force; the base if that is older.
    pub(super) fn current_index(&self) -> LogIndex {
        self.changes.back().map_or(self.base.0, |(index, _)| *index)
    }

    /// The one in force at `index`; below the base that of the base.
    pub(super) fn at(&self, index: LogIndex) -> &Configuration {
        let place = self.changes.partition_point(|(at, _)| *at <= index);
        place.checked_sub(1).map_or(&self.base.1, |place| &self.changes[place].1)
    }

    /// How many changes there are above the base.
    pub(super) fn count(&self) -> usize {
        self.changes.len()
    }

    /// Differs whenever the one in force may be another one.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// An entry was appended.
    pub(super) fn append(&mut self, entry: &Entry) {
        if let Some(configuration) = entry.configuration() {
            self.changes.push_back((entry.index, Arc::new(configuration)));
            self.version += 1;
        }
    }

    /// Entries from `index` on are gone.
    pub(super) fn truncate_from(&mut self, index: LogIndex) {
        if cfg!(mutant = "truncated-configuration-kept") {
            return;
        }
        while self.changes.back().is_some_and(|(at, _)| *at >= index) {
            sometimes!(configuration_undone);
            self.changes.pop_back();
            self.version += 1;
        }
    }

    /// The log begins behind `index`.
    pub(super) fn compact_to(&mut self, index: LogIndex) {
        while self.changes.front().is_some_and(|(at, _)| *at <= index) {
            self.base = self.changes.pop_front().expect("there is a first one");
        }
        self.base.0 = self.base.0.max(index);
    }

    /// The log ends at `index`, and begins behind it.
    pub(super) fn begin_anew(&mut self, index: LogIndex) {
        let configuration = self.at(index).clone();
        self.version += u64::from(configuration != *self.current());
        self.base = (index, Arc::new(configuration));
        self.changes.clear();
    }

    /// A snapshot says what is in force at `index`, where the log ends, and begins behind it.
    pub(super) fn reset(&mut self, index: LogIndex, configuration: Configuration) {
        if cfg!(mutant = "stale-configuration-after-snapshot") {
            return;
        }
        let differs = configuration != *self.current();
        sometimes!(configuration_from_snapshot, differs);
        self.version += u64::from(differs);
        self.base = (index, Arc::new(configuration));
        self.changes.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Term;
    use crate::limits::{CONFIGURATION_BYTES_MAX, LEARNERS_MAX, VOTERS_MAX};
    use crate::raft::membership::Change;

    fn voters(ids: &[u64]) -> Configuration {
        Configuration::of_voters(ids.iter().copied().map(NodeId)).unwrap()
    }

    fn entry(index: u64, configuration: &Configuration) -> Entry {
        let (term, index) = (Term(1), LogIndex(index));
        Entry { term, index, kind: EntryKind::Reconfiguration, payload: configuration.encode() }
    }

    fn joint() -> Configuration {
        let changes = [
            Change::Remove(NodeId(1)),
            Change::AddVoter(NodeId(4)),
            Change::AddLearner(NodeId(2)),
            Change::AddLearner(NodeId(9)),
        ];
        voters(&[1, 2, 3]).enter_joint(&changes, true).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let bytes = joint().encode();
        let ids = [3, 4, 1, 2, 3, 9, 2_u64].iter().flat_map(|id| id.to_le_bytes());
        assert_eq!(bytes, [1, 2, 3, 1, 1, 1].into_iter().chain(ids).collect::<Vec<u8>>());
        assert_eq!(Configuration::decode(&bytes), Some(joint()));
    }

    #[test]
    fn the_largest_one_is_as_large_as_the_limit_says() {
        let (voters, learners) = (VOTERS_MAX as u64, LEARNERS_MAX as u64);
        let full: Vec<u64> = (1..=voters).collect();
        let learners = (100..100 + learners).map(|id| Change::AddLearner(NodeId(id)));
        let others = (1..=voters)
            .flat_map(|id| [Change::Remove(NodeId(id)), Change::AddVoter(NodeId(50 + id))]);
        let changes: Vec<Change> = learners.chain(others).collect();
        let largest = self::voters(&full).enter_joint(&changes, true).unwrap();
        assert_eq!(largest.encode().len(), CONFIGURATION_BYTES_MAX);
        assert_eq!(Configuration::decode(&largest.encode()), Some(largest));
    }

    #[test]
    fn other_bytes_are_no_configuration() {
        let good = joint().encode();
        for len in 0..good.len() {
            assert_eq!(Configuration::decode(&good[..len]), None, "{len}");
        }
        assert_eq!(Configuration::decode(&[&good[..], &[0]].concat()), None);
        let spoiled = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            Configuration::decode(&bytes)
        };
        assert_eq!(spoiled(0, 2), None, "version");
        assert_eq!(spoiled(5, 2), None, "auto leave");
        assert_eq!(spoiled(6, 4), None, "a node twice");
        assert_eq!(spoiled(6, 5), None, "out of order");
        assert_eq!(spoiled(6, 0), None, "node 0");
        assert_eq!(spoiled(6 + 5 * 8, 3), None, "a learner that votes");
        assert_eq!(Configuration::decode(&[1, 0, 0, 0, 0, 0]), None, "nobody");
        assert_eq!(Configuration::decode(&[0xff; 300]), None);
    }

    #[test]
    fn what_is_in_force_follows_the_log() {
        let mut log = Configurations::default();
        assert!(log.is_unknown());
        log.begin_with(voters(&[1]));
        log.append(&entry(5, &voters(&[1, 2])));
        log.append(&entry(9, &voters(&[1, 2, 3])));
        assert_eq!((log.current_index(), log.current()), (LogIndex(9), &voters(&[1, 2, 3])));
        assert_eq!(log.at(LogIndex(4)), &voters(&[1]));
        assert_eq!(log.at(LogIndex(8)), &voters(&[1, 2]));
        let before = log.version();
        log.truncate_from(LogIndex(9));
        assert_eq!((log.current_index(), log.current()), (LogIndex(5), &voters(&[1, 2])));
        assert_ne!(log.version(), before);
        log.compact_to(LogIndex(6));
        log.truncate_from(LogIndex(7));
        assert_eq!((log.count(), log.current()), (0, &voters(&[1, 2])));
        log.append(&entry(8, &voters(&[2])));
        log.begin_anew(LogIndex(7));
        assert_eq!(log.current(), &voters(&[1, 2]), "what was in force there");
        log.reset(LogIndex(20), voters(&[7]));
        assert_eq!((log.current_index(), log.current()), (LogIndex(20), &voters(&[7])));
    }

    #[test]
    fn a_recovered_log_believes_its_snapshot_up_to_where_that_ends() {
        let later = [(LogIndex(3), voters(&[3])), (LogIndex(8), voters(&[8]))];
        let log = Configurations::restore(LogIndex(5), voters(&[5]), later);
        assert_eq!(log.at(LogIndex(3)), &voters(&[5]));
        assert_eq!(log.current(), &voters(&[8]));
    }
}
