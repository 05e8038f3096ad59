//! Who belongs to a shard, and how that changes: joint consensus with learners (Raft thesis, 4.2.1 and 4.3).
//!
//! A [`Configuration`] has voters, who elect and commit, and learners, who only receive. A change of
//! at most one voter can be made in one step, because any majority before it shares a node with
//! any majority after it. Anything larger goes through a **joint** configuration: while it lasts, elections
//! and commits need a majority of the new voters (*incoming*) and one of the old voters (*outgoing*).
//!
//! ```text
//!               one voter, or learners only
//!             +----------------------------+
//!             v                            |
//!   voters=(1 2 3)  -------------->  voters=(1 2 4)
//!             |  enter                     ^  leave
//!             v                            |
//!   voters=(2 4 5)&&(1 2 3) learners_next=(1) ...
//! ```
//!
//! A voter that becomes a learner during a joint configuration must keep its vote until the outgoing half is
//! gone, and a node is never both. So it waits in *learners next*, and becomes a learner when the joint
//! configuration is left.
//!
//! # What the caller does
//! A [`Reconfiguration`] is an entry of the log. A replica moves to [`Configuration::after`] when it takes the
//! entry into effect; the result depends on nothing but the configuration before and the entry, so that all
//! replicas come to the same. One change may be under way at a time: the next one is proposed only
//! after the last one is committed. If [`Configuration::auto_leave`] says so, the leader proposes
//! [`Reconfiguration::Leave`] itself once the joint configuration is committed.
//!
//! ```
//! use coracle_engine::NodeId;
//! use coracle_engine::raft::membership::{Change, Configuration, Reconfiguration, Transition};
//!
//! let three = Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)])?;
//! let replace = Reconfiguration::Change {
//!     changes: vec![Change::Remove(NodeId(1)), Change::AddVoter(NodeId(4))],
//!     transition: Transition::Auto,
//! };
//! let joint = three.after(&replace)?;
//! assert_eq!(joint.to_string(), "voters=(2 3 4)&&(1 2 3) autoleave");
//! assert_eq!(joint.after(&Reconfiguration::Leave)?.to_string(), "voters=(2 3 4)");
//! # Ok::<(), coracle_engine::raft::membership::ChangeError>(())
//! ```

use std::fmt;

use thiserror::Error;

use super::quorum::{VoteResult, joint_committed, joint_vote};
use crate::limits::{LEARNERS_MAX, VOTERS_MAX};
use crate::{LogIndex, NodeId};

/// A few nodes, sorted, each once.
///
/// A sorted array and not a tree: it has at most [`VOTERS_MAX`] or [`LEARNERS_MAX`] ids, and it is walked on
/// every acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeSet(Vec<NodeId>);

impl NodeSet {
    /// The nodes in the order of their ids.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator {
        self.0.iter().copied()
    }

    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.binary_search(&node).is_ok()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, node: NodeId) {
        if let Err(place) = self.0.binary_search(&node) {
            self.0.insert(place, node);
        }
    }

    fn remove(&mut self, node: NodeId) {
        if let Ok(place) = self.0.binary_search(&node) {
            self.0.remove(place);
        }
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        self.iter().all(|node| !other.contains(node))
    }

    /// How many nodes are in one of the two sets and not in the other.
    fn difference(&self, other: &Self) -> usize {
        let only = |a: &Self, b: &Self| a.iter().filter(|node| !b.contains(*node)).count();
        only(self, other) + only(other, self)
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut ids: Vec<NodeId> = nodes.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids)
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(")?;
        for (place, node) in self.iter().enumerate() {
            write!(f, "{}{node}", if place > 0 { " " } else { "" })?;
        }
        write!(f, ")")
    }
}

/// One step of a change. What is already so stays so: adding a voter twice or removing a stranger is
/// no error, because a proposal may be repeated. Node 0 is nobody; a step that names it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node votes from now on; a learner is promoted.
    AddVoter(NodeId),
    /// The node only receives from now on; a voter is demoted.
    AddLearner(NodeId),
    /// The node no longer belongs to the shard.
    Remove(NodeId),
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transition {
    /// In one step if there is one change, otherwise jointly; the leader leaves by itself.
    #[default]
    Auto,
    /// Jointly in any case; the leader leaves by itself.
    Joint,
    /// Jointly in any case, until somebody proposes [`Reconfiguration::Leave`].
    JointUntilLeft,
}

/// What a log entry says about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconfiguration {
    /// Makes these changes, in this order, as one.
    Change {
        /// The changes.
        changes: Vec<Change>,
        /// How.
        transition: Transition,
    },
    /// Ends the joint configuration: only the incoming voters remain.
    Leave,
}

/// Why a configuration can't be changed so. It stays what it was.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ChangeError {
    /// Another change is under way.
    #[error("the configuration is already joint; leave it before the next change")]
    AlreadyJoint,
    /// There is nothing to leave.
    #[error("the configuration is not joint, there is nothing to leave")]
    NotJoint,
    /// There would be nobody to elect a leader.
    #[error("the change removes all voters")]
    NoVoters,
    /// A configuration without voters has no majority that could decide on a joint one.
    #[error("a configuration without voters can't become joint")]
    NothingToJoin,
    /// Majorities before and after need not share a node.
    #[error("{changed} voters change at once; more than one needs a joint configuration")]
    NeedsJoint {
        /// How many voters come or go.
        changed: usize,
    },
    /// See [`VOTERS_MAX`].
    #[error("{voters} voters, at most {VOTERS_MAX} are allowed")]
    TooManyVoters {
        /// How many there would be.
        voters: usize,
    },
    /// See [`LEARNERS_MAX`].
    #[error("{learners} learners, at most {LEARNERS_MAX} are allowed")]
    TooManyLearners {
        /// How many there would be, those that are still voters included.
        learners: usize,
    },
    /// The parts of a stored or received configuration contradict each other.
    #[error("the configuration contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Who belongs to a shard. The default has nobody: that of a replica that has not been told yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    incoming: NodeSet,
    /// Empty unless joint.
    outgoing: NodeSet,
    learners: NodeSet,
    /// Outgoing voters that are learners after the joint configuration.
    learners_next: NodeSet,
    auto_leave: bool,
}

/// The parts of a [`Configuration`], as they are stored and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The voters; while joint, the new ones.
    pub incoming: NodeSet,
    /// While joint, the old voters; otherwise empty.
    pub outgoing: NodeSet,
    /// Nodes that only receive.
    pub learners: NodeSet,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: NodeSet,
    /// While joint: the leader leaves by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// A plain configuration of these voters.
    ///
    /// # Errors
    /// [`ChangeError::NoVoters`] and [`ChangeError::TooManyVoters`].
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Result<Self, ChangeError> {
        let incoming: NodeSet = voters.into_iter().filter(|node| node.0 != 0).collect();
        Self { incoming, ..Self::default() }.checked()
    }

    /// A configuration out of its parts, which come from a disk or another node and may be wrong.
    ///
    /// # Errors
    /// [`ChangeError::Contradiction`] when no sequence of changes leads there, otherwise as for
    /// [`Configuration::after`].
    pub fn from_parts(parts: Parts) -> Result<Self, ChangeError> {
        let Parts { incoming, outgoing, learners, learners_next, auto_leave } = parts;
        let configuration = Self { incoming, outgoing, learners, learners_next, auto_leave };
        if let Some(what) = configuration.contradiction() {
            return Err(ChangeError::Contradiction(what));
        }
        if configuration == Self::default() {
            return Ok(configuration);
        }
        configuration.checked()
    }

    /// The parts, to be stored or sent.
    #[must_use]
    pub fn into_parts(self) -> Parts {
        let Self { incoming, outgoing, learners, learners_next, auto_leave } = self;
        Parts { incoming, outgoing, learners, learners_next, auto_leave }
    }

    /// The configuration after an entry takes effect.
    ///
    /// # Errors
    /// [`ChangeError`] when the change is not allowed. All replicas refuse the same, so that an entry
    /// that is refused changes nothing anywhere.
    pub fn after(&self, entry: &Reconfiguration) -> Result<Self, ChangeError> {
        match entry {
            Reconfiguration::Leave => self.leave_joint(),
            Reconfiguration::Change { changes, transition } => match transition {
                Transition::Auto if changes.len() <= 1 => self.simple(changes),
                Transition::Auto | Transition::Joint => self.enter_joint(changes, true),
                Transition::JointUntilLeft => self.enter_joint(changes, false),
            },
        }
    }

    /// Makes changes in one step. All together may change at most one voter, and any learners.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn simple(&self, changes: &[Change]) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::AlreadyJoint);
        }
        let after = self.changed(changes)?;
        let changed = self.incoming.difference(&after.incoming);
        if changed > 1 {
            return Err(ChangeError::NeedsJoint { changed });
        }
        Ok(after)
    }

    /// Makes changes as a joint configuration: the present voters become the outgoing half.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn enter_joint(&self, changes: &[Change], auto_leave: bool) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::AlreadyJoint);
        }
        if self.incoming.is_empty() {
            return Err(ChangeError::NothingToJoin);
        }
        Self { outgoing: self.incoming.clone(), auto_leave, ..self.clone() }.changed(changes)
    }

    /// Ends a joint configuration. Exactly the incoming voters remain; who waited to become a learner does.
    ///
    /// # Errors
    /// [`ChangeError::NotJoint`].
    pub fn leave_joint(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        Self {
            incoming: self.incoming.clone(),
            learners: self.learners.iter().chain(self.learners_next.iter()).collect(),
            ..Self::default()
        }
        .checked()
    }

    /// Whether decisions need two majorities.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the leader is to propose [`Reconfiguration::Leave`] by itself.
    #[must_use]
    pub fn auto_leave(&self) -> bool {
        self.auto_leave
    }

    /// The voters; while joint, the new ones.
    #[must_use]
    pub fn incoming(&self) -> &NodeSet {
        &self.incoming
    }

    /// The old voters while joint, otherwise nobody.
    #[must_use]
    pub fn outgoing(&self) -> &NodeSet {
        &self.outgoing
    }

    /// Who only receives.
    #[must_use]
    pub fn learners(&self) -> &NodeSet {
        &self.learners
    }

    /// Outgoing voters that will be learners.
    #[must_use]
    pub fn learners_next(&self) -> &NodeSet {
        &self.learners_next
    }

    /// Whether the vote of `node` counts, in either half: whether it may campaign.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.incoming.contains(node) || self.outgoing.contains(node)
    }

    /// Whether `node` receives entries.
    #[must_use]
    pub fn is_member(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(node)
    }

    /// All whose votes count, in the order of their ids.
    #[must_use]
    pub fn voters(&self) -> NodeSet {
        self.incoming.iter().chain(self.outgoing.iter()).collect()
    }

    /// All that a leader replicates to (itself included, if it belongs to the shard), in the order of their
    /// ids. While joint, voters that go are among them: they vote until the end.
    #[must_use]
    pub fn members(&self) -> NodeSet {
        self.incoming.iter().chain(self.outgoing.iter()).chain(self.learners.iter()).collect()
    }

    /// The highest index that is durable on enough voters, given what each of them has acknowledged. With
    /// no voters at all that is `u64::MAX`: a replica without a configuration must not ask.
    #[must_use]
    pub fn committed(&self, mut matched: impl FnMut(NodeId) -> LogIndex) -> LogIndex {
        let (mut incoming, mut outgoing) = ([LogIndex(0); VOTERS_MAX], [LogIndex(0); VOTERS_MAX]);
        for (slot, node) in incoming.iter_mut().zip(self.incoming.iter()) {
            *slot = matched(node);
        }
        for (slot, node) in outgoing.iter_mut().zip(self.outgoing.iter()) {
            *slot = matched(node);
        }
        #[cfg(mutant = "joint-quorum-by-union")]
        if self.is_joint() {
            let mut all: Vec<LogIndex> = self.voters().iter().map(&mut matched).collect();
            return super::quorum::majority_committed(&mut all);
        }
        joint_committed(&mut incoming[..self.incoming.len()], &mut outgoing[..self.outgoing.len()])
    }

    /// What a vote has come to, given the answer of each voter, or `None` for one that has not answered.
    pub fn vote(&self, answer: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        #[cfg(mutant = "joint-quorum-by-union")]
        if self.is_joint() {
            return super::quorum::majority_vote(self.voters().iter().map(&answer));
        }
        joint_vote(self.incoming.iter().map(&answer), self.outgoing.iter().map(&answer))
    }

    /// Whether the voters of which `is_in` says yes can decide: for check-quorum and read rounds.
    pub fn has_quorum(&self, is_in: impl Fn(NodeId) -> bool) -> bool {
        self.vote(|node| Some(is_in(node))) == VoteResult::Won
    }

    /// Makes the changes without asking how many voters they change.
    fn changed(&self, changes: &[Change]) -> Result<Self, ChangeError> {
        let mut after = self.clone();
        for change in changes {
            match *change {
                Change::AddVoter(node) => after.make_voter(node),
                Change::AddLearner(node) => after.make_learner(node),
                Change::Remove(node) => after.remove(node),
            }
        }
        after.checked()
    }

    fn make_voter(&mut self, node: NodeId) {
        if node.0 == 0 {
            return;
        }
        self.remove(node);
        self.incoming.insert(node);
    }

    fn make_learner(&mut self, node: NodeId) {
        if node.0 == 0 {
            return;
        }
        self.remove(node);
        if self.outgoing.contains(node) {
            self.learners_next.insert(node);
        } else {
            self.learners.insert(node);
        }
    }

    /// Removes a node, except from the outgoing voters, which stay as they are till the end.
    fn remove(&mut self, node: NodeId) {
        self.incoming.remove(node);
        self.learners.remove(node);
        self.learners_next.remove(node);
    }

    /// Lets a configuration out only if it keeps to the limits.
    fn checked(self) -> Result<Self, ChangeError> {
        if self.incoming.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        let voters = self.incoming.len().max(self.outgoing.len());
        if voters > VOTERS_MAX {
            return Err(ChangeError::TooManyVoters { voters });
        }
        // Both kinds, or a joint configuration could be entered that can't be left.
        let learners = self.learners.len() + self.learners_next.len();
        if learners > LEARNERS_MAX {
            return Err(ChangeError::TooManyLearners { learners });
        }
        assert_eq!(self.contradiction(), None, "{self}");
        Ok(self)
    }

    /// What holds for every configuration.
    fn contradiction(&self) -> Option<&'static str> {
        let sets = [&self.incoming, &self.outgoing, &self.learners, &self.learners_next];
        let rules = [
            (sets.iter().all(|set| !set.contains(NodeId(0))), "node 0 is nobody"),
            (self.learners.is_disjoint(&self.incoming), "a learner votes"),
            (self.learners.is_disjoint(&self.outgoing), "a learner still votes"),
            (
                self.learners_next.iter().all(|node| self.outgoing.contains(node)),
                "a learner waits for a vote to end that it does not have",
            ),
            (self.learners_next.is_disjoint(&self.incoming), "a future learner is a new voter"),
            (self.is_joint() || self.learners_next.is_empty(), "learners wait for nothing"),
            (self.is_joint() || !self.auto_leave, "there is nothing to leave"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, what)| *what)
    }
}

/// As etcd writes it: `voters=(2 3)&&(1 2) learners=(4) learners_next=(1) autoleave`.
impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.incoming)?;
        if self.is_joint() {
            write!(f, "&&{}", self.outgoing)?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners={}", self.learners)?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", self.learners_next)?;
        }
        if self.auto_leave {
            write!(f, " autoleave")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn voters(ids: impl IntoIterator<Item = u64>) -> Configuration {
        Configuration::of_voters(ids.into_iter().map(NodeId)).unwrap()
    }

    fn set(ids: &[u64]) -> NodeSet {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_change_goes_the_way_its_transition_says() {
        let one = voters([1]);
        let add = |transition, ids: &[u64]| {
            let changes = ids.iter().map(|id| Change::AddVoter(NodeId(*id))).collect();
            one.after(&Reconfiguration::Change { changes, transition }).unwrap().to_string()
        };
        assert_eq!(add(Transition::Auto, &[2]), "voters=(1 2)");
        assert_eq!(add(Transition::Auto, &[2, 3]), "voters=(1 2 3)&&(1) autoleave");
        assert_eq!(add(Transition::Joint, &[2]), "voters=(1 2)&&(1) autoleave");
        assert_eq!(add(Transition::JointUntilLeft, &[2]), "voters=(1 2)&&(1)");
        assert_eq!(one.after(&Reconfiguration::Leave), Err(ChangeError::NotJoint));
    }

    #[test]
    fn decisions_of_a_joint_configuration_need_both_halves() {
        let change = [Change::Remove(NodeId(1)), Change::AddVoter(NodeId(4))];
        let joint = voters([1, 2, 3]).enter_joint(&change, false).unwrap();
        assert_eq!(joint.voters(), set(&[1, 2, 3, 4]));
        // Index 9 is on 3 and 4, a majority of (2 3 4), but not on one of (1 2 3).
        let matched = |node: NodeId| LogIndex(if node.0 >= 3 { 9 } else { 5 });
        assert_eq!(joint.committed(matched), LogIndex(5));
        assert_eq!(joint.leave_joint().unwrap().committed(matched), LogIndex(9));
        assert!(!joint.has_quorum(|node| node.0 >= 3));
        assert!(joint.has_quorum(|node| node.0 == 2 || node.0 == 3));
        assert_eq!(joint.vote(|node| (node.0 != 3).then_some(true)), VoteResult::Won);
        assert_eq!(joint.vote(|node| (node.0 == 2).then_some(true)), VoteResult::Pending);
        assert_eq!(joint.vote(|node| Some(node.0 == 4)), VoteResult::Lost);
    }

    #[test]
    fn a_demoted_voter_votes_until_the_joint_configuration_is_left() {
        let joint = voters([1, 2, 3]).enter_joint(&[Change::AddLearner(NodeId(3))], true).unwrap();
        assert_eq!(joint.to_string(), "voters=(1 2)&&(1 2 3) learners_next=(3) autoleave");
        assert!(joint.is_voter(NodeId(3)) && joint.auto_leave());
        let after = joint.leave_joint().unwrap();
        assert_eq!(after.to_string(), "voters=(1 2) learners=(3)");
        assert!(!after.is_voter(NodeId(3)) && after.is_member(NodeId(3)));
        assert_eq!(after.members(), set(&[1, 2, 3]));
    }

    #[test]
    fn limits_hold_before_a_joint_configuration_is_entered() {
        let most = VOTERS_MAX as u64;
        let full = voters(1..=most);
        let voter = full.simple(&[Change::AddVoter(NodeId(most + 1))]);
        assert_eq!(voter, Err(ChangeError::TooManyVoters { voters: VOTERS_MAX + 1 }));
        let learners: Vec<Change> =
            (0..LEARNERS_MAX as u64).map(|place| Change::AddLearner(NodeId(100 + place))).collect();
        let crowd = full.simple(&learners).unwrap();
        let demote = crowd.enter_joint(&[Change::AddLearner(NodeId(1))], true);
        assert_eq!(demote, Err(ChangeError::TooManyLearners { learners: LEARNERS_MAX + 1 }));
        // All voters replaced at once: both halves are full.
        let replace: Vec<Change> = (1..=most)
            .flat_map(|id| [Change::Remove(NodeId(id)), Change::AddVoter(NodeId(id + most))])
            .collect();
        let joint = full.enter_joint(&replace, true).unwrap();
        assert_eq!(joint.members().len(), 2 * VOTERS_MAX);
        assert_eq!(joint.committed(|node| LogIndex(node.0)), LogIndex(most / 2 + 1));
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        let good = Parts {
            incoming: set(&[2, 3]),
            outgoing: set(&[1, 2]),
            learners: set(&[4]),
            learners_next: set(&[1]),
            auto_leave: true,
        };
        let same = Configuration::from_parts(good.clone()).unwrap();
        assert_eq!(
            same.to_string(),
            "voters=(2 3)&&(1 2) learners=(4) learners_next=(1) autoleave"
        );
        assert_eq!(same.into_parts(), good);
        let spoil = |change: fn(&mut Parts)| {
            let mut parts = good.clone();
            change(&mut parts);
            Configuration::from_parts(parts)
        };
        for found in [
            spoil(|parts| parts.learners = set(&[2])),
            spoil(|parts| parts.learners = set(&[1])),
            spoil(|parts| parts.learners_next = set(&[5])),
            spoil(|parts| parts.learners_next = set(&[2])),
            spoil(|parts| parts.outgoing = set(&[])),
            spoil(|parts| parts.incoming = set(&[0, 2])),
            spoil(|parts| (parts.outgoing, parts.learners_next) = (set(&[]), set(&[]))),
        ] {
            assert!(matches!(found, Err(ChangeError::Contradiction(_))), "{found:?}");
        }
        let empty = spoil(|parts| parts.incoming = set(&[]));
        assert_eq!(empty, Err(ChangeError::NoVoters));
        assert_eq!(Configuration::from_parts(Parts::default()), Ok(Configuration::default()));
    }

    #[test]
    fn voters_are_named_once_and_node_0_is_nobody() {
        assert_eq!(voters([3, 0, 1, 3]).to_string(), "voters=(1 3)");
        assert_eq!(Configuration::of_voters([NodeId(0)]), Err(ChangeError::NoVoters));
        assert_eq!(Configuration::default().to_string(), "voters=()");
    }
}
