//! What goes into a replica's Raft core and what comes out.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::membership::{ChangeError, Configuration, Reconfiguration};
use super::message::{Entry, HardState, Message};
use super::reconfigure::Readiness;
use crate::on_demand::Empty;
use crate::{LogIndex, NodeId, Term};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. `now` is on the clock of [`Raft::new`](super::Raft::new) and never goes back.
    /// Drives elections, heartbeats and check-quorum: send one at least every half of the heartbeat
    /// interval.
    Tick {
        /// The time.
        now: Duration,
    },
    /// All proposals of one turn. What became of them is in [`Effects::proposed`].
    Propose {
        /// Their payloads, each at most [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
        payloads: Vec<Bytes>,
    },
    /// Somebody wants to change who belongs to the shard. What became of it is in
    /// [`Effects::reconfigured`].
    Reconfigure {
        /// The change.
        change: Reconfiguration,
        /// Refuse it if a node that gets a vote would hold up commits (see
        /// [`Raft::readiness`](super::Raft::readiness)), or if the voters that answer now would be no majority
        /// afterwards. Without this, a new voter counts from the first moment, and nothing is committed that needs
        /// it before it has caught up; nothing **ever**, if it joins with a blank disk and the others
        /// alone are no majority, for then its readmission can't be committed either.
        only_if_ready: bool,
    },
    /// A message arrived, from a peer or, out of [`Effects::after_durable`], from this replica.
    Message {
        /// Who sent it.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// The batch of effects that carried this mark ([`Effects::write_mark`]), and all before it, are
    /// durable. Reports may come late, in any order, or only for the newest of several batches.
    Durable(WriteMark),
    /// A batch of reads wants to know from which state it may be answered.
    ReadIndex {
        /// The caller's name for the batch; comes back in [`Effects::read_states`] or
        /// [`Effects::reads_failed`].
        id: u64,
    },
    /// Like [`Event::ReadIndex`], but answered at once if the leader holds a lease; see
    /// [`Config::lease`](super::Config::lease).
    LeaseRead {
        /// As in [`Event::ReadIndex`].
        id: u64,
        /// The time, read from the clock of the ticks *after* the reads of the batch had come in.
        now: Duration,
    },
    /// Like [`Event::ReadIndex`] or, with leases, [`Event::LeaseRead`], but on any replica: one that doesn't lead asks its
    /// leader. Then no more than one of these is under way: a newer one ends the one before, which fails. The
    /// question or its answer may get lost, and nothing comes back: the caller asks again after a while.
    AskReadIndex {
        /// As in [`Event::ReadIndex`].
        id: u64,
        /// As in [`Event::LeaseRead`].
        now: Duration,
    },
    /// Leadership is to be handed over: see [`TransferOutcome`] for how that ends. Proposals are refused while
    /// the successor gets the rest of the log ([`Refusal::Transferring`]).
    TransferLeadership {
        /// The caller's name for it; comes back in [`Effects::transfers`], exactly once unless the replica is
        /// dropped before.
        id: u64,
        /// Who is to lead; `None` for the follower that can do so soonest.
        to: Option<NodeId>,
    },
    /// A connection to this peer is up again.
    PeerReachable {
        /// The peer.
        node: NodeId,
    },
    /// The connection to this peer was lost, and whatever was under way with it.
    PeerUnreachable {
        /// The peer.
        node: NodeId,
    },
    /// Nothing was heard of this peer for so long that it may be gone. Needed only by replicas that may fall asleep
    /// ([`Config::quiesce`](super::Config::quiesce)), for whom the peer's node stands.
    PeerSuspected {
        /// The peer.
        node: NodeId,
        /// When something was last heard of its node, on the clock of the ticks.
        heard: Duration,
    },
    /// This node and the peer do not agree on which replicas sleep. As [`Event::PeerSuspected`], for replicas that
    /// may fall asleep.
    PeerDoubted {
        /// The peer.
        node: NodeId,
    },
    /// A snapshot of this replica's own state is durable. At start, before anything else: the newest one
    /// that there is. One that goes beyond what this replica knows to be committed moves its commit
    /// index; one beyond its log replaces the log (both happen only at start).
    Snapshot {
        /// The last index that the snapshot has.
        index: LogIndex,
        /// Term of the entry at that index.
        term: Term,
        /// Who belonged to the shard at that index.
        configuration: Configuration,
    },
    /// The snapshot of [`Effects::offered`] is durable here, and the state machine has it.
    Installed {
        /// The last index that the snapshot has.
        index: LogIndex,
        /// Term of the entry at that index.
        term: Term,
        /// Who belonged to the shard at that index.
        configuration: Configuration,
    },
    /// What a [`Fetch`] asked for. The entries follow each other from `first` on.
    Fetched {
        /// [`Fetch::to`].
        to: NodeId,
        /// [`Fetch::first`].
        first: LogIndex,
        /// At least one.
        entries: Vec<Entry>,
    },
    /// What a [`Fetch`] asked for could be read, but the follower lacks so much that the newest snapshot of this
    /// replica is cheaper for both.
    SnapshotPreferred {
        /// [`Fetch::to`].
        to: NodeId,
        /// [`Fetch::first`].
        first: LogIndex,
    },
    /// What a [`Fetch`] asked for can't be had now. It is asked for again at a later heartbeat.
    FetchFailed {
        /// [`Fetch::to`].
        to: NodeId,
        /// [`Fetch::first`].
        first: LogIndex,
    },
}

/// Asks for entries that are not in memory, for a follower that lacks them. The answer is
/// [`Event::Fetched`], [`Event::SnapshotPreferred`] or [`Event::FetchFailed`]. Per follower one is under way at a
/// time; after a change of leadership one may be forgotten, and its answer, if it comes, is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The follower.
    pub to: NodeId,
    /// The first entry wanted; above the base of the log.
    pub first: LogIndex,
    /// [`Entry::cost`] of what is wanted at most, but always at least one entry.
    pub bytes_max: usize,
}

/// Where a log begins from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Position before the first entry.
    pub index: LogIndex,
    /// Term at that position.
    pub term: Term,
    /// Whether all entries that were stored before are gone, also those above `index`.
    pub reset: bool,
}

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Who leads, as far as this replica knows. Not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    /// What this replica is.
    pub role: Role,
    /// The leader of `term`, if known.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
}

/// Names what a batch of effects wants written; given back in [`Event::Durable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMark {
    /// The term this replica was in when it handed the batch out.
    pub term: Term,
    /// The last index of the log at that moment.
    pub index: LogIndex,
    /// How often this replica had overwritten entries at that moment. An entry that was overwritten
    /// and came back has its old term and index; this tells the first writing from the second.
    pub rewrites: u64,
}

/// What became of the proposals of one [`Event::Propose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Term of the accepted entries.
    pub term: Term,
    /// Index of the first accepted entry; the others follow.
    pub first: LogIndex,
    /// How many were accepted, counted from the front.
    pub accepted: usize,
    /// Why the others were refused. They are not in the log.
    pub refusal: Option<Refusal>,
}

/// Why a proposal did not enter the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This replica does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too many bytes wait to be committed.
    UncommittedLimit,
    /// Leadership is being handed over. Within an election timeout either somebody else leads, or this replica
    /// takes proposals again: the owner may keep them until then.
    Transferring {
        /// To whom.
        to: NodeId,
    },
}

/// What became of an [`Event::TransferLeadership`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    /// The chosen replica leads.
    Done {
        /// Who that is.
        leader: NodeId,
    },
    /// It did not get there within an election timeout; this replica goes on leading.
    TimedOut {
        /// Who was to lead.
        to: NodeId,
    },
    /// This replica does not lead any more, but neither does the chosen one, as far as is known.
    Lost {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// It was not begun, or given up because the chosen replica must not lead.
    Refused(TransferRefusal),
}

/// Why leadership is not handed over.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TransferRefusal {
    /// This replica does not lead.
    #[error("this replica does not lead; ask the one that does")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Another transfer is under way. It ends within an election timeout.
    #[error("leadership is already being handed over to node {to}; wait for that")]
    UnderWay {
        /// To whom.
        to: NodeId,
    },
    /// The node has no vote in this shard.
    #[error("node {node} is no voter of this shard")]
    NotAVoter {
        /// Which one.
        node: NodeId,
    },
    /// The node has lost its data and is not readmitted yet.
    #[error("node {node} has lost its data and does not count yet; wait until it is readmitted")]
    Returning {
        /// Which one.
        node: NodeId,
    },
    /// Nothing was heard of the node for an election timeout.
    #[error("nothing was heard of node {node} lately; see whether it is up and connected")]
    Silent {
        /// Which one.
        node: NodeId,
    },
    /// The node's owner does not want it to lead, most likely because it is about to stop.
    #[error("node {node} declines to lead")]
    Declines {
        /// Which one.
        node: NodeId,
    },
    /// No other voter counts and was heard lately.
    #[error("there is nobody else who could lead")]
    NobodyElse,
}

/// Where a change of the configuration is in the log. It is made when the entry of this term at this index is
/// committed; if another entry gets there, it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconfigured {
    /// Term of the entry.
    pub term: Term,
    /// Its place.
    pub index: LogIndex,
}

/// Why a change of the configuration did not enter the log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReconfigureRefusal {
    /// This replica does not lead.
    #[error("this replica does not lead the shard")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// The leader has not committed an entry of its own term yet: an earlier leader may have begun
    /// another change that it does not know of. Soon to be tried again.
    #[error("the leader has not committed anything in its term yet; try again")]
    TermNotCommitted,
    /// Leadership is being handed over; the next leader takes the change.
    #[error("leadership is being handed over to node {to}; ask it, or try again")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// An earlier change is not committed yet.
    #[error("the change at entry {index} is not committed yet; wait for it")]
    UnderWay {
        /// Its entry.
        index: LogIndex,
    },
    /// The change leads nowhere.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A node that gets a vote can't hold pace yet.
    #[error("node {node} is not ready to vote: {readiness}")]
    NotReady {
        /// The node.
        node: NodeId,
        /// What it lacks.
        readiness: Readiness,
    },
    /// The voters that answer now would be no majority afterwards.
    #[error(
        "too few of the voters that would be left answer now: nothing could be committed; bring them \
         back first, or change less"
    )]
    NoQuorum,
    /// See [`CONFIGURATIONS_MAX`](crate::limits::CONFIGURATIONS_MAX).
    #[error("the log holds {changes} changes already; take a snapshot of the shard first")]
    TooMany {
        /// How many.
        changes: usize,
    },
}

/// A message or a stored state that no correct replica can produce. The message was ignored. The
/// cluster has lost acknowledged data or is misconfigured; the shard should stop and say so.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// A leader wants an entry replaced that is committed.
    #[error(
        "node {from} wants committed entry {index} (term {own}) replaced by one of term {theirs}"
    )]
    ConflictBelowCommit {
        /// The leader that asks for it.
        from: NodeId,
        /// The entry.
        index: LogIndex,
        /// Its term here.
        own: Term,
        /// Its term there.
        theirs: Term,
    },
    /// Two nodes lead the same term.
    #[error("node {from} leads term {term}, but this term has another leader")]
    TwoLeaders {
        /// The other leader.
        from: NodeId,
        /// The term.
        term: Term,
    },
    /// A leader says that this replica has acknowledged entries which it does not have.
    #[error("node {from} takes entry {index} for acknowledged here, but the log ends at {last}")]
    AckedEntriesMissing {
        /// The leader.
        from: NodeId,
        /// What it says was acknowledged.
        index: LogIndex,
        /// The end of the log.
        last: LogIndex,
    },
    /// A follower acknowledges entries or rounds that were never sent to it.
    #[error("node {from} acknowledges position {position}, which was never sent to it")]
    ImpossibleAck {
        /// The follower.
        from: NodeId,
        /// What it acknowledges.
        position: u64,
    },
    /// A leader offers a snapshot that can't be.
    #[error(
        "node {from} offers a snapshot at index {index}, term {term}, which no leader can have"
    )]
    BrokenOffer {
        /// The leader.
        from: NodeId,
        /// The snapshot's index.
        index: LogIndex,
        /// The snapshot's term.
        term: Term,
    },
    /// A snapshot was installed that the log of a leader contradicts.
    #[error("a snapshot at index {index}, term {term}, is not part of the log that leads")]
    SnapshotContradictsLog {
        /// The snapshot's index.
        index: LogIndex,
        /// The snapshot's term.
        term: Term,
    },
    /// The entries of an append message do not follow each other.
    #[error("the entries that node {from} sent after {index} are out of order")]
    BrokenAppend {
        /// The sender.
        from: NodeId,
        /// Position before the first entry.
        index: LogIndex,
    },
}

/// What the core wants done. The caller owns it, does what it says after one or several steps, and
/// clears it; its buffers are reused.
///
/// Several steps may be gathered before acting, with at most one [`Event::Propose`] and one
/// [`Event::Reconfigure`] among them.
#[derive(Debug, Default)]
pub struct Effects {
    /// Where the log begins from now on. To be stored in the same batch as `hard_state` and `entries`,
    /// before both.
    pub base: Option<Base>,
    /// To store, in the same batch as `entries` or before.
    pub hard_state: Option<HardState>,
    /// To append to the stored log. If the first one's index is not past its end, the stored log is
    /// cut there first.
    pub entries: Vec<Entry>,
    /// Present if `base`, `hard_state` or `entries` are: to be given back in [`Event::Durable`].
    pub write_mark: Option<WriteMark>,
    /// To send at once.
    pub messages: Vec<(NodeId, Message)>,
    /// To send once `base`, `hard_state` and `entries` of this batch, and all batches before, are durable.
    /// May be addressed to this replica itself.
    pub after_durable: Vec<(NodeId, Message)>,
    /// The new commit index: entries up to it may be applied.
    pub committed: Option<LogIndex>,
    /// Entries to be read for followers.
    pub fetches: Vec<Fetch>,
    /// A snapshot that this replica needs: who offers it, its index and its term. Repeated with every
    /// heartbeat until the log has what it has. Ends with [`Event::Installed`].
    pub offered: Option<(NodeId, LogIndex, Term)>,
    /// Reads that may be answered once everything up to the index is applied.
    pub read_states: Vec<(u64, LogIndex)>,
    /// Reads that can't be answered: this replica does not lead (any more), or too many wait. Of
    /// [`Event::AskReadIndex`]: no leader is known, or it is another one than was asked.
    pub reads_failed: Vec<u64>,
    /// Transfers of leadership that have ended.
    pub transfers: Vec<(u64, TransferOutcome)>,
    /// Present when role, leader or term have changed. A caller that led until now must end its
    /// pending proposals with an unknown outcome.
    pub soft_state: Option<SoftState>,
    /// The answer to [`Event::Propose`].
    pub proposed: Option<Proposed>,
    /// The answer to [`Event::Reconfigure`].
    pub reconfigured: Option<Result<Reconfigured, ReconfigureRefusal>>,
    /// Present when another configuration is in force, with what it is now: an entry that changes it was
    /// appended, or cut off again, or a snapshot says so. Its members are to be connected to.
    pub configuration: Option<Configuration>,
    /// Present when something arrived that can't be; see [`Fault`].
    pub fault: Option<Fault>,
}

/// Nothing to do.
const NOTHING: Effects = Effects {
    base: None,
    hard_state: None,
    entries: Vec::new(),
    write_mark: None,
    messages: Vec::new(),
    after_durable: Vec::new(),
    committed: None,
    fetches: Vec::new(),
    offered: None,
    read_states: Vec::new(),
    reads_failed: Vec::new(),
    transfers: Vec::new(),
    soft_state: None,
    proposed: None,
    reconfigured: None,
    configuration: None,
    fault: None,
};

impl Empty for Effects {
    fn empty() -> &'static Self {
        static EMPTY: Effects = NOTHING;
        &EMPTY
    }
}

impl Effects {
    /// Forgets everything, keeps the buffers.
    pub fn clear(&mut self) {
        self.base = None;
        self.hard_state = None;
        self.entries.clear();
        self.write_mark = None;
        self.messages.clear();
        self.after_durable.clear();
        self.committed = None;
        self.fetches.clear();
        self.offered = None;
        self.read_states.clear();
        self.reads_failed.clear();
        self.transfers.clear();
        self.soft_state = None;
        self.proposed = None;
        self.reconfigured = None;
        self.configuration = None;
        self.fault = None;
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.base.is_none()
            && self.hard_state.is_none()
            && self.entries.is_empty()
            && self.messages.is_empty()
            && self.after_durable.is_empty()
            && self.committed.is_none()
            && self.fetches.is_empty()
            && self.offered.is_none()
            && self.read_states.is_empty()
            && self.reads_failed.is_empty()
            && self.transfers.is_empty()
            && self.soft_state.is_none()
            && self.proposed.is_none()
            && self.reconfigured.is_none()
            && self.configuration.is_none()
            && self.fault.is_none()
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.messages.push((to, message));
    }

    /// Adds an entry to be stored. Entries of an earlier step that it replaces are dropped: they
    /// need not reach the disk at all.
    pub(super) fn store(&mut self, entry: Entry) {
        while self.entries.last().is_some_and(|last| last.index >= entry.index) {
            self.entries.pop();
        }
        self.entries.push(entry);
    }
}
