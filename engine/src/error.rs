//! What a proposal or a query can end with besides its result.

use thiserror::Error;

use crate::limits::MEMBERS_MAX;
use crate::raft::ReconfigureRefusal;
use crate::raft::TransferRefusal;
use crate::{NodeId, ShardId};

/// Why a proposal gave no result.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// This replica does not lead the shard. The proposal is not in the log; it is safe to send it
    /// to `leader`, or to try again when none is known.
    #[error("not the leader of shard {shard}: {}", hint(.leader))]
    NotLeader {
        /// The shard asked for.
        shard: ShardId,
        /// Who leads it, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// A limit was reached; the proposal was refused before it entered the log. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    #[error("the payload has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The proposal was in the log when leadership was lost: it may or may not be applied.
    #[error(
        "outcome unknown: leadership of shard {shard} was lost while the proposal was in flight"
    )]
    OutcomeUnknown {
        /// The shard asked for.
        shard: ShardId,
    },
    /// The disk has no room for more entries; nothing was written. Reads go on.
    #[error(
        "no space: the disk of this core's log is full; writes are refused until space returns"
    )]
    NoSpace,
    /// The core's log failed; the core acknowledges nothing more until it is restarted.
    #[error("the log of this core failed: {0}; restart the node after mending the disk")]
    StorageFailed(String),
    /// The node is stopping; the proposal was not accepted.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// There is no such shard on this core or node.
    #[error("there is no shard {0} here")]
    UnknownShard(ShardId),
}

/// Why a query gave no result. A query changes nothing, so it may always be asked again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// This replica could not show in time that its state is as new as was asked for: it does not reach a leader, has
    /// not applied enough, or is damaged.
    #[error("the replica of shard {shard} here may be too old for this read: {}", hint(.leader))]
    TooStale {
        /// The shard asked for.
        shard: ShardId,
        /// Who leads it, as far as this replica knows, if that is another one.
        leader: Option<NodeId>,
    },
    /// This replica does not lead the shard, or lost leadership before the answer was safe.
    #[error("not the leader of shard {shard}: {}", hint(.leader))]
    NotLeader {
        /// The shard asked for.
        shard: ShardId,
        /// Who leads it, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// There is no such shard on this core or node.
    #[error("there is no shard {0} here")]
    UnknownShard(ShardId),
}

/// Why a snapshot that was asked for was not taken. The state and the log are as before.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SnapshotRequestError {
    /// The state machine of the shard takes no snapshots.
    #[error("the state machine of shard {0} takes no snapshots")]
    Unsupported(ShardId),
    /// The snapshot was begun and given up; the reason says why. Try again later.
    #[error("the snapshot of shard {shard} was given up: {reason}; try again later")]
    Abandoned {
        /// The shard asked for.
        shard: ShardId,
        /// What went wrong.
        reason: String,
    },
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The disk has no room for another snapshot.
    #[error("no space: the disk of this core has no room for a snapshot of shard {0}")]
    NoSpace(ShardId),
    /// The core's log or directory failed; the core does nothing more until it is restarted.
    #[error("the storage of this core failed: {0}; restart the node after mending the disk")]
    StorageFailed(String),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// There is no such shard on this core or node.
    #[error("there is no shard {0} here")]
    UnknownShard(ShardId),
}

/// Why a member was not added, or its addresses not changed. The address book is as before.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddMemberError {
    /// There are [`MEMBERS_MAX`] members.
    #[error("there are {MEMBERS_MAX} members already: remove one that is not needed")]
    Full,
    /// The record can't be used.
    #[error("member {id} was not added: {flaw}")]
    Flaw {
        /// The member.
        id: NodeId,
        /// What is wrong with the record.
        flaw: &'static str,
    },
    /// The book could not be stored.
    #[error("member {id} was not added: {reason}")]
    Storage {
        /// The member.
        id: NodeId,
        /// Which file, and what the system said.
        reason: String,
    },
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a member was not removed. The address book is as before.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RemoveMemberError {
    /// There is no such member.
    #[error("node {0} is not a member")]
    Unknown(NodeId),
    /// The member still belongs to shards, as far as this node knows.
    #[error(
        "node {id} still belongs to {shards} shard(s), {example} among them: remove it from them first, or it can't be \
         reached for them any more"
    )]
    InUse {
        /// The member.
        id: NodeId,
        /// How many.
        shards: usize,
        /// One of them.
        example: ShardId,
    },
    /// The book could not be stored.
    #[error("member {id} was not removed: {reason}")]
    Storage {
        /// The member.
        id: NodeId,
        /// Which file, and what the system said.
        reason: String,
    },
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a change of who belongs to a shard was not made, or is not known to be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReconfigureError {
    /// This replica does not lead the shard; nothing was changed.
    #[error("shard {shard} is not led here; {}", hint(leader))]
    NotLeader {
        /// The shard asked for.
        shard: ShardId,
        /// Who leads it, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// The leader refuses the change; nothing was changed. The reason says what to do.
    #[error("shard {shard} was not changed: {refusal}")]
    Refused {
        /// The shard asked for.
        shard: ShardId,
        /// Why.
        refusal: ReconfigureRefusal,
    },
    /// Leadership was lost with the change in flight: it is made or not. Look at the shard's status on its
    /// present leader; the same change may be asked for again.
    #[error("whether shard {shard} was changed is unknown: leadership was lost meanwhile")]
    OutcomeUnknown {
        /// The shard asked for.
        shard: ShardId,
    },
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The core's log failed; the core does nothing more until it is restarted.
    #[error("the storage of this core failed: {0}; restart the node after mending the disk")]
    StorageFailed(String),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// There is no such shard on this core or node.
    #[error("there is no shard {0} here")]
    UnknownShard(ShardId),
}

impl From<ProposeError> for ReconfigureError {
    /// What befalls any entry of the log.
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { shard, leader } => Self::NotLeader { shard, leader },
            ProposeError::OutcomeUnknown { shard } => Self::OutcomeUnknown { shard },
            ProposeError::Overloaded(what) => Self::Overloaded(what),
            ProposeError::StorageFailed(reason) => Self::StorageFailed(reason),
            ProposeError::ShuttingDown => Self::ShuttingDown,
            ProposeError::UnknownShard(shard) => Self::UnknownShard(shard),
            ProposeError::NoSpace | ProposeError::TooLarge { .. } => {
                Self::Overloaded("the log of this core has no room for the change")
            }
        }
    }
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransferError {
    /// This replica does not lead the shard: only the leader can hand over.
    #[error("not the leader of shard {shard}: {}", hint(.leader))]
    NotLeader {
        /// The shard asked for.
        shard: ShardId,
        /// Who leads it, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// It can't be handed over now, or not to that node.
    #[error("leadership of shard {shard} stays: {reason}")]
    Refused {
        /// The shard asked for.
        shard: ShardId,
        /// Why.
        reason: TransferRefusal,
    },
    /// The chosen node did not take over within an election timeout. This node leads on.
    #[error(
        "node {to} did not take over shard {shard} within an election timeout; see whether it is up, \
         connected and not far behind, and try again"
    )]
    TimedOut {
        /// The shard asked for.
        shard: ShardId,
        /// Who was to lead.
        to: NodeId,
    },
    /// This node does not lead any more, but neither does the chosen one, as far as is known.
    #[error("leadership of shard {shard} was lost: {}", hint(.leader))]
    Lost {
        /// The shard asked for.
        shard: ShardId,
        /// Who leads it, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// A limit was reached. Try again later.
    #[error("overloaded: {0}; try again later")]
    Overloaded(&'static str),
    /// The replica takes no part any more.
    #[error("the replica of this shard has stopped: {0}")]
    Stopped(String),
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// There is no such shard on this core or node.
    #[error("there is no shard {0} here")]
    UnknownShard(ShardId),
}

fn hint(leader: &Option<NodeId>) -> String {
    match leader {
        Some(node) => format!("node {node} leads it"),
        None => "no leader is known, try again".to_owned(),
    }
}
