//! What is true of a shard as a whole: its leaders, its committed log, and its replicas.

use std::collections::{BTreeMap, BTreeSet};

use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::{EntryKind, Readmission, Role};
use coracle_engine::{LogIndex, NodeId, ShardId, Term};

use super::chain::Chain;
use super::members::{Members, Place, decides};
use super::replica::{Mirror, Registry, Replica};
use super::violation::{Checked, Invariant, Violation, fail};

/// An entry as state machines have taken it.
#[derive(Clone, Copy, Debug)]
struct Applied {
    term: Term,
    hash: u64,
    reply: u64,
    by: NodeId,
}

/// All that is known of one shard.
#[derive(Debug, Default)]
pub(super) struct ShardTruth {
    /// What each leader took for acknowledged when it was last looked at, by leader and follower.
    pub(super) matched: BTreeMap<(NodeId, NodeId), (Term, LogIndex)>,
    /// The furthest acknowledgement that each follower has sent to each leader, by leader and follower.
    pub(super) acknowledged: BTreeMap<(NodeId, NodeId), (Term, LogIndex)>,
    /// The newest round of reads that each follower has answered, by leader, follower and term.
    pub(super) answered: BTreeMap<(NodeId, NodeId, Term), u64>,
    /// Who has voted for whom, by term and candidate.
    pub(super) granted: BTreeMap<(Term, NodeId), BTreeSet<NodeId>>,
    pub(super) leaders: BTreeMap<Term, NodeId>,
    pub(super) members: Members,
    /// Entries that readmit somebody, in any log.
    readmissions: BTreeMap<Place, NodeId>,
    /// The newest one that is committed, of each node.
    readmitted: BTreeMap<NodeId, LogIndex>,
    /// Nodes that have lost their data or join, and what was committed then.
    pub(super) lost: BTreeMap<NodeId, LogIndex>,
    registry: Registry,
    /// What was ever committed, anywhere.
    pub(super) committed: Chain,
    /// Where the terms in which it was committed end: entries up to the index were committed in the term
    /// or before.
    commit_ends: BTreeMap<Term, LogIndex>,
    /// By node.
    pub(super) mirrors: BTreeMap<NodeId, Mirror>,
    applied: BTreeMap<LogIndex, Applied>,
    digests: BTreeMap<LogIndex, (NodeId, u64)>,
}

impl ShardTruth {
    /// A shard that begins with these members; the nodes `joins` are to come.
    pub(super) fn new(initial: Configuration, joins: impl Iterator<Item = NodeId>) -> Self {
        let members = Members::of(initial);
        let lost = joins.map(|node| (node, LogIndex(0))).collect();
        Self { members, lost, ..Self::default() }
    }

    /// Notes that `node` leads `term`, or says so of somebody.
    pub(super) fn note_leader(&mut self, term: Term, leader: NodeId, witness: NodeId) -> Checked {
        let known = *self.leaders.entry(term).or_insert(leader);
        if known == leader {
            return Ok(());
        }
        let expected = format!("node {known} to be the only leader");
        let seen = format!("node {leader}, as node {witness} says");
        fail(Violation::new(Invariant::ElectionSafety, expected, seen).term(term).node(witness))
    }

    /// Compares the entries of a log from `first` on with all that were ever seen.
    pub(super) fn check_matching(&mut self, node: NodeId, first: LogIndex) -> Checked {
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        for index in (first.0..=mirror.log.last().0).map(LogIndex) {
            let Some(link) = mirror.log.at(index) else { break };
            if !self.registry.note(index, link) {
                let other = self.mirrors.iter().find_map(|(other, theirs)| {
                    let same_term = theirs.log.at(index).is_some_and(|l| l.term == link.term);
                    let differs = mirror.log.difference(&theirs.log);
                    (*other != node && same_term).then_some((*other, differs?))
                });
                let (expected, index) = match other {
                    Some((other, at)) => {
                        let theirs = self.mirrors[&other].log.describe(at);
                        (format!("{theirs}, as on node {other}"), at)
                    }
                    None => ("the log that was seen with this entry before".to_owned(), index),
                };
                let seen = mirror.log.describe(index);
                let violation = Violation::new(Invariant::LogMatching, expected, seen);
                return fail(violation.term(link.term).index(index));
            }
        }
        Ok(())
    }

    /// A new leader of `term`: it must have what was committed before its term.
    pub(super) fn check_complete(&self, node: NodeId, term: Term) -> Checked {
        let before = self.commit_ends.range(..term).max_by_key(|(_, index)| **index);
        let Some((committed_in, index)) = before else { return Ok(()) };
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        if mirror.log.agrees(&self.committed, *index) {
            return Ok(());
        }
        let at = mirror.log.difference(&self.committed).unwrap_or(mirror.log.last().next());
        let committed = self.committed.describe(at);
        let expected = format!("{committed}, committed in term {committed_in} or before");
        let seen = mirror.log.describe(at);
        let violation = Violation::new(Invariant::LeaderCompleteness, expected, seen);
        fail(violation.node(node).term(term).index(at))
    }

    /// Compares what a replica has committed with what was ever committed.
    pub(super) fn check_commit(&self, node: NodeId, commit: LogIndex) -> Checked {
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        let shared = commit.min(self.committed.last());
        if mirror.log.agrees(&self.committed, shared) {
            return Ok(());
        }
        let at = mirror.log.difference(&self.committed).unwrap_or(shared);
        let expected = format!("{}, committed before", self.committed.describe(at));
        let seen = format!("{}, committed, too", mirror.log.describe(at));
        let violation = Violation::new(Invariant::CommittedImmutable, expected, seen);
        fail(violation.term(mirror.state.term).index(at))
    }

    /// Compares the rounds of reads that a leader counts with what its followers have answered: each
    /// follower counts for a round that it has answered, or for an earlier one, and a majority for one
    /// that is confirmed.
    pub(super) fn check_rounds(&self, node: NodeId, replica: &impl Replica) -> Checked {
        let term = replica.hard_state().term;
        let answered =
            |follower| self.answered.get(&(node, follower, term)).copied().unwrap_or_default();
        for follower in replica.followers() {
            let (round, known) = (follower.round, answered(follower.id));
            if round > known {
                let expected = format!("node {} to count for round {known} at most", follower.id);
                let seen = format!("it counts for round {round}");
                return fail(Violation::new(Invariant::ReadRound, expected, seen).term(term));
            }
        }
        let round = replica.confirmed_round();
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        let anew = round > 0 && mirror.confirmed != (term, round);
        let has_answered = |voter: NodeId| voter == node || answered(voter) >= round;
        if anew && !mirror.configurations.iter().any(|own| decides(own, has_answered)) {
            let expected = format!("round {round} of reads answered by a quorum");
            let own = replica.configuration();
            let stand: Vec<_> = own.voters().iter().filter(|v| has_answered(*v)).collect();
            let seen = format!("it is confirmed; of {own}, {stand:?} stand for it");
            return fail(Violation::new(Invariant::ReadRound, expected, seen).term(term));
        }
        Ok(())
    }

    /// Remembers the round that was confirmed, for the next look.
    pub(super) fn remember_round(&mut self, node: NodeId, replica: &impl Replica) {
        if let Some(mirror) = self.mirrors.get_mut(&node) {
            mirror.confirmed = (replica.hard_state().term, replica.confirmed_round());
        }
    }

    /// Notes that `voter` has voted.
    pub(super) fn note_vote(&mut self, term: Term, candidate: NodeId, voter: NodeId) {
        self.granted.entry((term, candidate)).or_default().insert(voter);
    }

    /// A new leader of `term` was elected by a quorum of the configuration in force on it then.
    fn check_elected(&self, node: NodeId, term: Term) -> Checked {
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        let mut last = mirror.log.last();
        while mirror.log.at(last).is_some_and(|link| link.term >= term) {
            last = last.prev();
        }
        let configuration = self.members.at(self.members.place(&mirror.log, last));
        let granted = self.granted.get(&(term, node));
        let has_voted =
            |voter| voter == node || granted.is_some_and(|voters| voters.contains(&voter));
        if decides(configuration, has_voted) {
            return Ok(());
        }
        let expected = format!("votes of a quorum of {configuration}");
        let seen = format!("those of {granted:?}, and its own");
        fail(Violation::new(Invariant::VoteQuorum, expected, seen).node(node).term(term))
    }

    /// Notes what a log says of members from `first` on.
    fn note_members(
        &mut self,
        node: NodeId,
        replica: &impl Replica,
        (first, before): (LogIndex, LogIndex),
    ) -> Checked {
        let Some(mirror) = self.mirrors.get_mut(&node) else { return Ok(()) };
        for index in (first.0..=mirror.log.last().0).map(LogIndex) {
            let Some(entry) = replica.entry(index) else { continue };
            let place = (index, entry.term);
            match entry.kind {
                EntryKind::Reconfiguration => {
                    let Some(configuration) = entry.configuration() else {
                        let expected = "an entry that holds a configuration";
                        let violation =
                            Violation::new(Invariant::Configuration, expected, "other bytes");
                        return fail(violation.term(entry.term).index(index));
                    };
                    if !self.members.note(&mirror.log, place, configuration)? {
                        mirror.changes_new.push(place);
                    }
                }
                EntryKind::Readmission => {
                    if let Some(readmission) = Readmission::decode(&entry.payload) {
                        self.readmissions.insert(place, readmission.node);
                    }
                }
                EntryKind::Normal | EntryKind::Noop => {}
            }
        }
        mirror.note_configurations(&self.members, before);
        Ok(())
    }

    /// What a replica takes for the configuration in force is what its log says. Before a log says anything, who
    /// joins knows nothing, unless a snapshot says it.
    fn check_configuration(&self, node: NodeId, replica: &impl Replica) -> Checked {
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        let place = self.members.place(&mirror.log, mirror.log.last());
        let (says, own) = (self.members.at(place), replica.configuration());
        let joins = self.lost.contains_key(&node) && place.0 == LogIndex(0);
        if own == says || joins && *own == Configuration::default() {
            return Ok(());
        }
        let expected = format!("{says}, as its log says at {}", place.0);
        let violation = Violation::new(Invariant::Configuration, expected, own.to_string());
        fail(violation.term(replica.hard_state().term).index(mirror.log.last()))
    }

    /// A replica that has lost its data, or joins, does not count by itself.
    fn check_readmitted(&self, node: NodeId, replica: &impl Replica) -> Checked {
        let Some(lost_at) = self.lost.get(&node).filter(|_| replica.is_member()) else {
            return Ok(());
        };
        // Where nothing was ever committed, it may be a member of a new cluster.
        let founds = lost_at.0 == 0 && self.members.is_initial_voter(node);
        if founds || self.readmitted.get(&node).is_some_and(|at| at > lost_at) {
            return Ok(());
        }
        let expected = format!("an entry that readmits it, committed behind {lost_at}");
        let seen = "it takes itself for a member without";
        fail(Violation::new(Invariant::Readmitted, expected, seen))
    }

    /// After what is committed is known: changes of members came one at a time, and not too early in a term.
    pub(super) fn check_changes(&mut self, node: NodeId) -> Checked {
        let Some(mirror) = self.mirrors.get_mut(&node) else { return Ok(()) };
        // A leader that was cut off may know of a commit later than all others: no news any more, but its own.
        let commit = mirror.log.at(mirror.state.commit).map(|link| link.term);
        for (index, term) in mirror.changes_new.drain(..) {
            let knows = commit.is_some_and(|committed| committed >= term);
            if !knows && !self.commit_ends.contains_key(&term) {
                let expected = "a leader to commit an entry of its own term before";
                let seen = "a change of members, and nothing committed in its term";
                let violation = Violation::new(Invariant::ConfigurationStep, expected, seen);
                return fail(violation.term(term).index(index));
            }
        }
        self.members.check_one_at_a_time(&mirror.log, self.committed.last())
    }

    /// Adds what the leader of `term` has committed anew. Leaders of later terms must have it.
    pub(super) fn extend(&mut self, node: NodeId, term: Term, commit: LogIndex) -> Checked {
        let Some(mirror) = self.mirrors.get(&node) else { return Ok(()) };
        while self.committed.last() < commit {
            let Some(link) = mirror.log.at(self.committed.last().next()) else { break };
            self.committed.push(link.term, link.hash);
            let place = (self.committed.last(), link.term);
            self.members.commit(place);
            if let Some(node) = self.readmissions.get(&place) {
                self.readmitted.insert(*node, place.0);
            }
        }
        let end = self.commit_ends.entry(term).or_insert(commit);
        *end = commit.max(*end);
        for (later, leader) in self.leaders.range(Term(term.0 + 1)..) {
            let leads = |m: &Mirror| m.role == Role::Leader && m.state.term == *later;
            if self.mirrors.get(leader).is_some_and(leads) {
                self.check_complete(*leader, *later)?;
            }
        }
        Ok(())
    }

    /// Notes what a state machine was given and what it replied.
    pub(super) fn note_applied(
        &mut self,
        (node, index, term): (NodeId, LogIndex, Term),
        hash: u64,
        reply: u64,
    ) -> Checked {
        let mirror = self.mirrors.entry(node).or_insert_with(Mirror::new);
        if index <= mirror.applied_last {
            let expected = format!("an entry behind {}", mirror.applied_last);
            let seen = format!("entry {index} applied");
            return fail(Violation::new(Invariant::ApplyOrder, expected, seen).index(index));
        }
        mirror.applied_last = index;
        mirror.applied_new.push((index, term, hash));
        let new = Applied { term, hash, reply, by: node };
        let first = *self.applied.entry(index).or_insert(new);
        if (first.term, first.hash) != (term, hash) {
            let expected = format!("what node {} applied, of term {}", first.by, first.term);
            let seen = format!("another entry, of term {term}");
            let violation = Violation::new(Invariant::StateMachineSafety, expected, seen);
            return fail(violation.term(term).index(index));
        }
        if first.reply != reply {
            let expected = format!("the reply that node {} gave", first.by);
            let violation = Violation::new(Invariant::ApplyResult, expected, "another reply");
            return fail(violation.term(term).index(index));
        }
        Ok(())
    }

    /// What was applied since the last look must have been committed.
    pub(super) fn check_applied(&mut self, node: NodeId, id: ShardId) -> Checked {
        let Some(mirror) = self.mirrors.get_mut(&node) else { return Ok(()) };
        for (index, term, hash) in mirror.applied_new.drain(..) {
            let committed = self.committed.at(index).filter(|_| index.0 > 0);
            if committed.is_none_or(|link| (link.term, link.hash) != (term, hash)) {
                let expected = format!("{}, as it is committed", self.committed.describe(index));
                let seen = format!("an entry of term {term} (hash {hash:016x}) applied");
                let violation = Violation::new(Invariant::StateMachineSafety, expected, seen);
                return fail(violation.on(node, id).term(term).index(index));
            }
        }
        Ok(())
    }

    /// Compares the state of a replica that has applied everything up to `applied` with that of others.
    pub(super) fn note_digest(&mut self, node: NodeId, applied: LogIndex, digest: u64) -> Checked {
        let (other, known) = *self.digests.entry(applied).or_insert((node, digest));
        if known == digest {
            return Ok(());
        }
        let expected = format!("the state of node {other} ({known:016x})");
        let seen = format!("another state ({digest:016x})");
        fail(Violation::new(Invariant::Convergence, expected, seen).index(applied))
    }

    /// Compares a state that was taken from a snapshot with all that was ever seen: somebody had it.
    pub(super) fn check_restored(&self, digest: u64) -> Checked {
        if self.digests.values().any(|(_, known)| *known == digest) {
            return Ok(());
        }
        let seen = format!("a state that nobody had ({digest:016x})");
        fail(Violation::new(
            Invariant::Convergence,
            "the state that the snapshot was taken of",
            seen,
        ))
    }

    /// The last entry before `index` that a state machine was given, anywhere.
    pub(super) fn applied_before(&self, index: LogIndex) -> LogIndex {
        self.applied.range(..index).next_back().map_or(LogIndex(0), |(index, _)| *index)
    }

    /// Whether a replica was found damaged since it was last looked at.
    pub(super) fn is_newly_damaged(&self, node: NodeId, replica: &impl Replica) -> bool {
        match self.mirrors.get(&node) {
            Some(mirror) => mirror.is_newly_damaged(replica),
            None => replica.is_damaged(),
        }
    }

    /// Follows a replica through one turn, except for what needs the disks. Returns whether it has
    /// committed what nobody had before, and the term in which it did.
    pub(super) fn look(&mut self, node: NodeId, replica: &impl Replica) -> Checked<Option<Term>> {
        let mirror = self.mirrors.entry(node).or_insert_with(Mirror::new);
        let (was, old_term) = (mirror.role, mirror.state.term);
        if mirror.is_newly_damaged(replica) {
            mirror.give_up(replica);
        }
        mirror.check_cursors(replica)?;
        mirror.check_windows(replica)?;
        let before = mirror.log.last();
        let first = mirror.follow(replica, &self.registry, &self.committed)?;
        mirror.remember(replica);
        let state = replica.hard_state();
        self.check_matching(node, first)?;
        self.note_members(node, replica, (first, before))?;
        self.check_configuration(node, replica)?;
        self.check_readmitted(node, replica)?;
        if let Some(leader) = replica.leader() {
            self.note_leader(state.term, leader, node)?;
        }
        let leads = replica.role() == Role::Leader;
        if leads && (was != Role::Leader || old_term != state.term) {
            self.check_complete(node, state.term)?;
            self.check_elected(node, state.term)?;
        }
        self.check_commit(node, state.commit)?;
        if state.commit <= self.committed.last() {
            return Ok(None);
        }
        if leads {
            // Counting copies says nothing about entries of earlier terms (Raft, 5.4.2).
            let term = self.mirrors.get(&node).and_then(|mirror| mirror.log.at(state.commit));
            let Some(term) = term.map(|link| link.term).filter(|term| *term != state.term) else {
                return Ok(Some(state.term));
            };
            let expected =
                format!("the last committed entry to be of the leader's term {}", state.term);
            let violation =
                Violation::new(Invariant::CommitOwnTerm, expected, format!("one of term {term}"));
            return fail(violation.term(state.term).index(state.commit));
        }
        if was == Role::Leader {
            // It led until some moment of this turn.
            return Ok(Some(old_term));
        }
        let expected = format!("a commit index of at most {}", self.committed.last());
        let seen = format!("{}, which no leader has committed", state.commit);
        let violation = Violation::new(Invariant::CommitQuorum, expected, seen);
        fail(violation.term(state.term).index(state.commit))
    }
}
