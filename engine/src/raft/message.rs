//! What replicas of one shard say to each other, and what a log is made of.

use bytes::Bytes;

use crate::{LogIndex, NodeId, Term};

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Proposed by the application; given to its state machine.
    Normal,
    /// Appended by a new leader so that it has an entry of its own term to commit. Empty; never
    /// given to a state machine.
    Noop,
    /// Takes a replica that had lost its data back among those that vote and count; see
    /// [`Readmission`]. Never given to a state machine.
    Readmission,
    /// Says who belongs to the shard from here on: a whole
    /// [`Configuration`](super::membership::Configuration), encoded. Never given to a state machine.
    Reconfiguration,
}

/// Payload of an entry of kind [`EntryKind::Readmission`]. The replica that commits an entry with its
/// own id and its present incarnation is a [`Standing::Member`] from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readmission {
    /// The replica.
    pub node: NodeId,
    /// What it called itself when it came back without data.
    pub incarnation: u64,
}

impl Readmission {
    /// Bytes of the payload.
    pub const BYTES: usize = 16;

    /// The payload: node and incarnation, little-endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.incarnation.to_le_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    /// Reads a payload; `None` if it is of another length.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (node, incarnation) = payload.split_first_chunk()?;
        let incarnation = incarnation.try_into().ok()?;
        let node = NodeId(u64::from_le_bytes(*node));
        Some(Self { node, incarnation: u64::from_le_bytes(incarnation) })
    }
}

/// Whether a replica votes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    #[default]
    Member,
    /// It has lost its data, and with them what it had promised: it takes entries and snapshots, but neither
    /// votes nor counts until it is readmitted under this name, chosen at random when it came back.
    Returning(u64),
}

impl Standing {
    /// As [`Standing::Returning`], of a replica that was found damaged: what the log has of it is not to be
    /// trusted, until it is begun anew. No incarnation is 0. Only in hard states.
    pub const DAMAGED: Self = Self::Returning(0);
}

/// One entry of a shard's log. Cloning copies no payload: it counts one more reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that appended it.
    pub term: Term,
    /// Its place in the log.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// What was proposed.
    pub payload: Bytes,
}

impl Entry {
    /// Bytes this entry counts for in windows and limits: its payload and a flat charge, so that
    /// a flood of tiny entries is bounded, too.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.payload.len() + crate::limits::ENTRY_COST_BYTES
    }
}

/// What must survive a crash besides the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term this replica has taken part in.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// An index known to be committed. A hint that lets a restarted replica apply early; it is
    /// written along when something else is, never for its own sake.
    pub commit: LogIndex,
    /// Whether it may vote and count.
    pub standing: Standing,
}

/// An entry that its sender knows to be committed, in any term. Whoever has that entry has everything before it, too,
/// and knows as much then. Elections carry it: after one, nobody has to wait for the first commit of the new leader
/// to learn what was committed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitMark {
    /// Its index; 0 if nothing is committed.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

/// Asks whether a vote would be granted, without touching anybody's term (Raft thesis, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreVote {
    /// The term the sender would campaign in: its own plus one.
    pub term: Term,
    /// Index of the sender's last entry.
    pub last_index: LogIndex,
    /// Term of the sender's last entry.
    pub last_term: Term,
    /// What the sender knows to be committed.
    pub committed: CommitMark,
}

/// Answers a [`PreVote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreVoteReply {
    /// If granted, the term asked for; if refused, the voter's own term.
    pub term: Term,
    /// Whether the voter would grant its vote.
    pub granted: bool,
    /// What the sender knows to be committed.
    pub committed: CommitMark,
}

/// Asks for a vote (Raft paper, RequestVote).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term the sender is a candidate in.
    pub term: Term,
    /// Index of the sender's last entry.
    pub last_index: LogIndex,
    /// Term of the sender's last entry.
    pub last_term: Term,
    /// The leader of the term before has told the sender to campaign ([`TimeoutNow`]): to be answered although
    /// that leader is heard.
    pub transfer: bool,
    /// What the sender knows to be committed.
    pub committed: CommitMark,
}

/// Answers a [`Vote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The voter's term.
    pub term: Term,
    /// Whether the vote is granted; if so, the vote is durable.
    pub granted: bool,
    /// What the sender knows to be committed.
    pub committed: CommitMark,
}

/// Entries that follow `(prev_term, prev_index)` (Raft paper, AppendEntries). Empty to ask whether
/// the receiver has that position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// Index of the entry before the first one sent.
    pub prev_index: LogIndex,
    /// Term of the entry before the first one sent.
    pub prev_term: Term,
    /// The leader's commit index; counts only up to what this message proves.
    pub commit: LogIndex,
    /// Consecutive entries from `prev_index + 1` on.
    pub entries: Vec<Entry>,
}

/// What became of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The receiver's log equals the leader's up to and including `matched`, durably.
    Accepted {
        /// Last position that the answered message proved.
        matched: LogIndex,
    },
    /// The receiver has no entry `(prev_term, prev_index)`.
    Rejected {
        /// `prev_index` of the message that is refused.
        prev_index: LogIndex,
        /// The last position of the receiver that can possibly agree with the leader: none above it
        /// does.
        hint_index: LogIndex,
        /// Term of the receiver's entry at `hint_index`.
        hint_term: Term,
    },
}

/// Answers an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The receiver's term, which is the leader's.
    pub term: Term,
    /// What became of the message.
    pub outcome: AppendOutcome,
    /// Whether it counts for the commit index.
    pub standing: Standing,
}

/// Keeps followers from campaigning, carries the commit index, and confirms leadership for reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// The smaller of the leader's commit index and what the receiver has acknowledged.
    pub commit: LogIndex,
    /// The newest round of reads that waits for confirmation, counted within the term.
    pub round: u64,
}

/// Answers a [`Heartbeat`]. Promises nothing about the log, so it never waits for the disk. With
/// round 0 it is also the answer to any message of an earlier term: it says which term it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The receiver's term. Higher than the leader's when the leader is deposed.
    pub term: Term,
    /// The round of the heartbeat that is answered; 0 confirms nothing.
    pub round: u64,
    /// Whether it counts for reads and for the leader's majority.
    pub standing: Standing,
    /// For how long the sender helps nobody to depose the leader, in milliseconds on its clock from when it got
    /// the heartbeat; 0 if it promises nothing. See [`LeaseConfig`](super::LeaseConfig).
    pub quiet_ms: u32,
    /// How much the sender should rather lead than others; the least there is if it does not want to at all. See
    /// [`Config::priority`](super::Config::priority).
    pub priority: i8,
}

/// Tells a follower that lacks what the leader's log no longer has to fetch a snapshot. Like a heartbeat
/// it comes from the leader of its term, and is repeated with heartbeats until the follower has what it
/// needs. The follower's owner pulls the snapshot over a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The leader's term.
    pub term: Term,
    /// The last index that the snapshot has.
    pub index: LogIndex,
    /// Term of the entry at that index.
    pub snapshot_term: Term,
}

/// Tells a follower that has the leader's whole log to campaign at once (Raft thesis, 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term. In a later one it says nothing.
    pub term: Term,
}

/// A replica without any data asks the others whether the cluster is new. Belongs to no term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// What the sender calls itself since it found nothing on its disk.
    pub incarnation: u64,
}

/// Answers a [`Census`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CensusReply {
    /// The term of whoever answers. Not the term of a leader: nobody enters it by this message alone.
    pub term: Term,
    /// Whether its log has no entry and never had one.
    pub empty: bool,
    /// The incarnation of the question.
    pub incarnation: u64,
}

/// Tells a follower that the shard is at rest: it may fall asleep. Like a heartbeat it comes from the leader of its
/// term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiesce {
    /// The leader's term.
    pub term: Term,
    /// Where the leader's log ends, and up to where it is committed.
    pub last: LogIndex,
}

/// Answers a [`Quiesce`], or wakes the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiesced {
    /// The sender's term.
    pub term: Term,
    /// Where the sender's log ends.
    pub last: LogIndex,
    /// Whether it sleeps.
    pub asleep: bool,
}

/// Asks the leader up to where the sender has to apply before it may answer reads: see `reads.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The term that the receiver leads, as far as the sender knows.
    pub term: Term,
    /// Names the question. No other one of this sender has it, nor had it in an earlier life.
    pub id: u64,
    /// Whether the sender counts for reads.
    pub standing: Standing,
}

/// Answers a [`ReadIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexReply {
    /// The leader's term.
    pub term: Term,
    /// [`ReadIndex::id`].
    pub id: u64,
    /// An entry that is committed. Everything that was committed when the question was sent is it, or lies before it.
    pub committed: CommitMark,
}

/// A message between two replicas of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`PreVote`].
    PreVote(PreVote),
    /// See [`PreVoteReply`].
    PreVoteReply(PreVoteReply),
    /// See [`Vote`].
    Vote(Vote),
    /// See [`VoteReply`].
    VoteReply(VoteReply),
    /// See [`Append`].
    Append(Append),
    /// See [`AppendReply`].
    AppendReply(AppendReply),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`HeartbeatReply`].
    HeartbeatReply(HeartbeatReply),
    /// See [`SnapshotOffer`].
    SnapshotOffer(SnapshotOffer),
    /// See [`TimeoutNow`].
    TimeoutNow(TimeoutNow),
    /// See [`Census`].
    Census(Census),
    /// See [`CensusReply`].
    CensusReply(CensusReply),
    /// See [`Quiesce`].
    Quiesce(Quiesce),
    /// See [`Quiesced`].
    Quiesced(Quiesced),
    /// See [`ReadIndex`].
    ReadIndex(ReadIndex),
    /// See [`ReadIndexReply`].
    ReadIndexReply(ReadIndexReply),
}

impl Message {
    /// Whether it carries entries of the log.
    #[must_use]
    pub fn has_entries(&self) -> bool {
        matches!(self, Self::Append(append) if !append.entries.is_empty())
    }

    /// The term the message carries; 0 for one that belongs to none.
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::PreVote(m) => m.term,
            Self::PreVoteReply(m) => m.term,
            Self::Vote(m) => m.term,
            Self::VoteReply(m) => m.term,
            Self::Append(m) => m.term,
            Self::AppendReply(m) => m.term,
            Self::Heartbeat(m) => m.term,
            Self::HeartbeatReply(m) => m.term,
            Self::SnapshotOffer(m) => m.term,
            Self::TimeoutNow(m) => m.term,
            Self::Census(_) => Term(0),
            Self::CensusReply(m) => m.term,
            Self::Quiesce(m) => m.term,
            Self::Quiesced(m) => m.term,
            Self::ReadIndex(m) => m.term,
            Self::ReadIndexReply(m) => m.term,
        }
    }
}
