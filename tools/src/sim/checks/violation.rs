//! What a check says when something has happened that never may.

use std::fmt;

use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use thiserror::Error;

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A term of a shard has at most one leader, ever.
    ElectionSafety,
    /// A leader's log has every entry that was committed in an earlier term.
    LeaderCompleteness,
    /// A leader never removes or replaces an entry of its own log.
    LeaderAppendOnly,
    /// A log gives up entries only for others in their places.
    LogShrunk,
    /// Two logs with an entry of the same index and term are equal up to it.
    LogMatching,
    /// Terms never decrease along a log, nor exceed the replica's own.
    LogTerms,
    /// What one replica has committed, every other one commits at the same place.
    CommittedImmutable,
    /// Only a leader commits anew, and only what a majority of the voters has on disk.
    CommitQuorum,
    /// What a leader takes for acknowledged is on the follower's disk.
    Matched,
    /// A round of reads that a leader takes for confirmed was answered by a majority.
    ReadRound,
    /// A leader commits by counting only what ends in an entry of its own term.
    CommitOwnTerm,
    /// A replica gives one vote in a term, across restarts.
    OneVotePerTerm,
    /// Terms never go back, in a process nor on a disk.
    TermMonotonic,
    /// Only a candidate begins a term: whoever is the first in it has voted for itself.
    TermOrigin,
    /// A leader that hears no majority steps down.
    CheckQuorum,
    /// What is committed, applied or durable in a process stays so.
    CursorMonotonic,
    /// `applied <= commit <= last`, `durable <= last`, `matched <= last` and so on.
    CursorOrder,
    /// What a replica takes for durable is on its disk.
    DurableCursor,
    /// A vote that was sent is on the voter's disk.
    VotePromise,
    /// A request for votes speaks of a term, a vote and a log that are on the candidate's disk.
    CandidatePromise,
    /// Entries that were acknowledged are on the follower's disk.
    AckPromise,
    /// Only the leader of a term sends entries and heartbeats of it; nobody speaks of terms to come.
    Impersonation,
    /// A commit index that was sent names committed entries.
    CommitAnnounced,
    /// A restarted replica has exactly what its disk had.
    Recovery,
    /// A log never cuts off what was durable.
    LogRewound,
    /// The records on a disk are those of consecutive entries and known kinds.
    DurableRecords,
    /// A log gives up nothing that still counts: what its snapshot does not have, and is nowhere else.
    LogNeeded,
    /// A snapshot that has its name on a disk is whole, and of what was committed.
    DurableSnapshot,
    /// A replica whose disk was not damaged takes part.
    TakesPart,
    /// Entries are applied in order, each once in a process.
    ApplyOrder,
    /// All replicas apply the same entry at an index, and only committed ones.
    StateMachineSafety,
    /// The same entry gives the same reply everywhere.
    ApplyResult,
    /// Replicas that have applied the same entries have the same state.
    Convergence,
    /// The hook of a state machine is called on a replica that leads and has applied everything of earlier terms.
    HookCalled,
    /// The configuration in force on a replica is the one that its log says.
    Configuration,
    /// Configurations follow each other one at a time, by leaders that have committed an entry of their term, and
    /// quorums of neighbours share a voter.
    ConfigurationStep,
    /// A leader has the votes of a quorum of the configuration in force on it.
    VoteQuorum,
    /// Who has lost its data, or joins, counts only when an entry that readmits it was committed since.
    Readmitted,
    /// No message of a peer contradicts what was promised before.
    Contradiction,
    /// Queues, buffers and windows keep to their limits.
    Limits,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}", self.text())]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// Where.
    pub node: Option<NodeId>,
    /// In which shard.
    pub shard: Option<ShardId>,
    /// In which term.
    pub term: Option<Term>,
    /// At which entry.
    pub index: Option<LogIndex>,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

impl Violation {
    pub(super) fn new(
        invariant: Invariant,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) -> Self {
        let (expected, seen) = (expected.into(), seen.into());
        Self { invariant, node: None, shard: None, term: None, index: None, expected, seen }
    }

    pub(super) fn on(self, node: NodeId, shard: ShardId) -> Self {
        Self { node: Some(node), shard: Some(shard), ..self }
    }

    /// Adds the place unless another one is named.
    pub(super) fn on_if(self, node: NodeId, shard: ShardId) -> Self {
        let (node, shard) = (self.node.or(Some(node)), self.shard.or(Some(shard)));
        Self { node, shard, ..self }
    }

    pub(super) fn node(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    pub(super) fn term(self, term: Term) -> Self {
        Self { term: Some(term), ..self }
    }

    pub(super) fn index(self, index: LogIndex) -> Self {
        Self { index: Some(index), ..self }
    }

    fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{} violated", self.invariant);
        if let Some(node) = self.node {
            let _ = write!(text, " on node {node}");
        }
        if let Some(shard) = self.shard {
            let _ = write!(text, ", shard {shard}");
        }
        if let Some(term) = self.term {
            let _ = write!(text, ", term {term}");
        }
        if let Some(index) = self.index {
            let _ = write!(text, ", index {index}");
        }
        let _ = write!(text, ": expected {}; saw {}", self.expected, self.seen);
        text
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What every check returns.
pub type Checked<T = ()> = Result<T, Box<Violation>>;

/// The end of a check that failed.
pub(super) fn fail<T>(violation: Violation) -> Checked<T> {
    Err(Box::new(violation))
}
