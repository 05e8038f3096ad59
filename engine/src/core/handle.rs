//! The way into a core from tasks of the same core: proposals and queries as futures.

use std::cell::Ref;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;

use super::inbox::Inbox;
use super::leadership::TransferAnswer;
use super::status::{CoreCounters, ShardStatus};
use super::view::ClusterView;
use crate::limits::{CONFIGURATION_BYTES_MAX, Limits, PAYLOAD_BYTES_MAX};
use crate::raft::membership::Reconfiguration;
use crate::{
    LogIndex, NodeId, ProposeError, QueryError, ReconfigureError, ShardId, SnapshotRequestError,
    Term, TransferError,
};

/// What a read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The state at some moment between call and answer; only the leader can give it.
    Linearizable,
    /// A state that has everything which was committed `staleness` before the call, or more; any replica can give it,
    /// learners included. Each goes by its own clock, so that clocks which differ do no harm. One that can't tell how
    /// new its state is asks the leader first, which takes a round trip, and then waits until it has applied
    /// enough; reads that come meanwhile wait together. What can't be shown within two election timeouts is refused
    /// with [`QueryError::TooStale`].
    ///
    /// With zero this is a linearizable read that a follower answers; every such read has the leader asked. With
    /// more, a replica that was asked within that time answers at once. One read may go back behind another one
    /// that another replica has answered. A machine that is suspended does not count the time.
    Bounded {
        /// How old the state may be at most.
        staleness: Duration,
    },
    /// Whatever this replica has applied; may be old without bound.
    Stale,
}

/// A proposal that is committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Term of its entry.
    pub term: Term,
    /// Index of its entry.
    pub index: LogIndex,
    /// What the state machine replied.
    pub reply: Bytes,
}

/// Where a proposal stands in its shard's log once it has been accepted, before it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of its entry.
    pub term: Term,
    /// Index of its entry. Another entry may end up there if leadership is lost.
    pub index: LogIndex,
}

/// An answer that will come. Dropping it loses interest; a proposal then goes on all the same.
#[must_use = "a request does nothing for you unless its answer is awaited"]
pub struct Pending<T, E>(State<T, E>);

enum State<T, E> {
    Ready(Option<Result<T, E>>),
    Waiting { answer: oneshot::Receiver<Result<T, E>>, gone: Option<E> },
}

impl<T, E> Pending<T, E> {
    /// An answer that is there already.
    pub fn ready(result: Result<T, E>) -> Self {
        Self(State::Ready(Some(result)))
    }

    /// An answer that comes through `answer`, or `gone` when its sender is dropped.
    pub(crate) fn waiting(answer: oneshot::Receiver<Result<T, E>>, gone: E) -> Self {
        Self(State::Waiting { answer, gone: Some(gone) })
    }
}

impl<T, E> Unpin for Pending<T, E> {}

impl<T, E> Future for Pending<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => {
                Poll::Ready(result.take().expect("a finished future is not polled again"))
            }
            State::Waiting { answer, gone } => Pin::new(answer).poll(cx).map(|result| {
                result.unwrap_or_else(|_| Err(gone.take().expect("not polled after its end")))
            }),
        }
    }
}

/// A request to one shard of a core. `answer` is where its outcome goes.
#[derive(Debug)]
pub(crate) enum Request {
    Propose {
        shard: ShardId,
        payload: Bytes,
        accepted: Option<oneshot::Sender<Result<Position, ProposeError>>>,
        answer: oneshot::Sender<Result<Committed, ProposeError>>,
    },
    Query {
        shard: ShardId,
        payload: Bytes,
        consistency: Consistency,
        answer: oneshot::Sender<Result<Bytes, QueryError>>,
    },
    /// How the shard is, as its leader knows it.
    Status { shard: ShardId, answer: oneshot::Sender<Result<ShardStatus, QueryError>> },
    /// Somebody wants to change who belongs to the shard.
    Reconfigure {
        shard: ShardId,
        change: Reconfiguration,
        answer: oneshot::Sender<Result<Position, ReconfigureError>>,
    },
    /// A snapshot of the shard's state is wanted, as of now or later; its index is the answer.
    Snapshot { shard: ShardId, answer: oneshot::Sender<Result<LogIndex, SnapshotRequestError>> },
    /// Leadership is to go to this node, or to anybody; who leads is the answer.
    Transfer { shard: ShardId, to: Option<NodeId>, answer: TransferAnswer },
}

impl Request {
    /// Bytes that it keeps in memory.
    pub(super) fn payload_bytes(&self) -> usize {
        match self {
            Self::Propose { payload, .. } | Self::Query { payload, .. } => payload.len(),
            Self::Reconfigure { .. } => CONFIGURATION_BYTES_MAX,
            Self::Status { .. } | Self::Snapshot { .. } | Self::Transfer { .. } => 0,
        }
    }

    /// Answers that the node is stopping. Only for requests that no shard has taken.
    pub(super) fn refuse_stopping(self) {
        match self {
            Self::Propose { accepted, answer, .. } => {
                if let Some(accepted) = accepted {
                    let _ = accepted.send(Err(ProposeError::ShuttingDown));
                }
                let _ = answer.send(Err(ProposeError::ShuttingDown));
            }
            Self::Query { answer, .. } => {
                let _ = answer.send(Err(QueryError::ShuttingDown));
            }
            Self::Status { answer, .. } => {
                let _ = answer.send(Err(QueryError::ShuttingDown));
            }
            Self::Reconfigure { answer, .. } => {
                let _ = answer.send(Err(ReconfigureError::ShuttingDown));
            }
            Self::Snapshot { answer, .. } => {
                let _ = answer.send(Err(SnapshotRequestError::ShuttingDown));
            }
            Self::Transfer { answer, .. } => {
                let _ = answer.send(Err(TransferError::ShuttingDown));
            }
        }
    }
}

/// Makes a proposal and the future of its answer; refuses what is too large.
pub(crate) fn propose(
    shard: ShardId,
    payload: Bytes,
    accepted: Option<oneshot::Sender<Result<Position, ProposeError>>>,
) -> Result<(Request, Pending<Committed, ProposeError>), ProposeError> {
    let bytes = payload.len();
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes, max: PAYLOAD_BYTES_MAX });
    }
    let (answer, pending) = oneshot::channel();
    let request = Request::Propose { shard, payload, accepted, answer };
    Ok((request, Pending::waiting(pending, ProposeError::OutcomeUnknown { shard })))
}

/// Makes a query and the future of its answer.
pub(crate) fn query(
    shard: ShardId,
    payload: Bytes,
    consistency: Consistency,
) -> (Request, Pending<Bytes, QueryError>) {
    let (answer, pending) = oneshot::channel();
    let request = Request::Query { shard, payload, consistency, answer };
    (request, Pending::waiting(pending, QueryError::ShuttingDown))
}

/// Makes a question how a shard is and the future of its answer.
pub(crate) fn shard_status(shard: ShardId) -> (Request, Pending<ShardStatus, QueryError>) {
    let (answer, pending) = oneshot::channel();
    (Request::Status { shard, answer }, Pending::waiting(pending, QueryError::ShuttingDown))
}

/// Makes a request to change who belongs to a shard and the future of its answer.
pub(crate) fn reconfigure(
    shard: ShardId,
    change: Reconfiguration,
) -> (Request, Pending<Position, ReconfigureError>) {
    let (answer, pending) = oneshot::channel();
    let request = Request::Reconfigure { shard, change, answer };
    (request, Pending::waiting(pending, ReconfigureError::OutcomeUnknown { shard }))
}

/// Makes a request for a snapshot and the future of its answer.
pub(crate) fn snapshot(shard: ShardId) -> (Request, Pending<LogIndex, SnapshotRequestError>) {
    let (answer, pending) = oneshot::channel();
    let request = Request::Snapshot { shard, answer };
    (request, Pending::waiting(pending, SnapshotRequestError::ShuttingDown))
}

/// Makes a request for a transfer of leadership and the future of its answer.
pub(crate) fn transfer(
    shard: ShardId,
    to: Option<NodeId>,
) -> (Request, Pending<NodeId, TransferError>) {
    let (answer, pending) = oneshot::channel();
    let request = Request::Transfer { shard, to, answer };
    (request, Pending::waiting(pending, TransferError::ShuttingDown))
}

/// The way into a core from tasks that run on the same core. Cheap to clone.
#[derive(Clone)]
pub struct CoreHandle(Rc<Inbox>);

impl CoreHandle {
    pub(crate) fn new(inbox: Rc<Inbox>) -> Self {
        Self(inbox)
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.0
    }

    /// A handle with a view but no core behind it: every request waits until the handle is gone.
    /// For tests of protocols that are built on handles.
    pub fn detached(view: ClusterView) -> Self {
        Self::new(Rc::new(Inbox::new(view, Limits::default())))
    }

    /// Proposes `payload` to `shard`. Resolves when it is committed durably and applied here, or
    /// with the reason why it is not. Refuses at once what a limit forbids.
    pub fn propose(&self, shard: ShardId, payload: Bytes) -> Pending<Committed, ProposeError> {
        let (request, pending) = match propose(shard, payload, None) {
            Ok(made) => made,
            Err(error) => return Pending::ready(Err(error)),
        };
        match self.0.submit(request) {
            Ok(()) => pending,
            Err(refused) => Pending::ready(Err(refused.into())),
        }
    }

    /// Asks the state machine of `shard`.
    pub fn query(
        &self,
        shard: ShardId,
        payload: Bytes,
        consistency: Consistency,
    ) -> Pending<Bytes, QueryError> {
        let (request, pending) = query(shard, payload, consistency);
        match self.0.submit(request) {
            Ok(()) => pending,
            Err(refused) => Pending::ready(Err(refused.into())),
        }
    }

    /// How `shard`, which this node must lead, is at some moment between call and answer: who leads it in which term,
    /// what is committed, who belongs to it. Answered when a quorum has confirmed, after the call, that this replica
    /// leads; what was committed before the call is applied in it. The stale way is
    /// [`RemoteCore::status`](super::RemoteCore::status): what a replica knows, be it old.
    pub fn shard_status(&self, shard: ShardId) -> Pending<ShardStatus, QueryError> {
        let (request, pending) = shard_status(shard);
        match self.0.submit(request) {
            Ok(()) => pending,
            Err(refused) => Pending::ready(Err(refused.into())),
        }
    }

    /// Asks for a snapshot of this replica's state of `shard`, whether one is due or not. Resolves with the
    /// index of the last entry in it when it is durable. One that is under way is waited for if it shows
    /// everything that was applied here before this call; else another follows it.
    pub fn snapshot(&self, shard: ShardId) -> Pending<LogIndex, SnapshotRequestError> {
        let (request, pending) = snapshot(shard);
        match self.0.submit(request) {
            Ok(()) => pending,
            Err(refused) => Pending::ready(Err(refused.into())),
        }
    }

    /// Changes who belongs to `shard`, which this node must lead. Resolves with the place of the entry when that
    /// is committed and applied here. A change that goes through a joint configuration is not at its end then:
    /// the leader leaves that by itself, unless told not to, and [`ShardStatus::configuration`] tells when.
    ///
    /// Safe steps only: a node that gets a vote must be a learner that keeps pace, and the voters that answer
    /// must be a majority afterwards; else the change is refused with the reason, and nothing has happened. What is
    /// accepted and can't be committed, because a majority is lost meanwhile, ends with
    /// [`ReconfigureError::OutcomeUnknown`] after a few election timeouts. The nodes must be members of
    /// the cluster, for [the address book](crate::members) says how they are reached.
    ///
    /// [`ShardStatus::configuration`]: super::ShardStatus::configuration
    pub fn reconfigure(
        &self,
        shard: ShardId,
        change: Reconfiguration,
    ) -> Pending<Position, ReconfigureError> {
        let (request, pending) = reconfigure(shard, change);
        match self.0.submit(request) {
            Ok(()) => pending,
            Err(refused) => Pending::ready(Err(ProposeError::from(refused).into())),
        }
    }

    /// Hands leadership of `shard` over to node `to`, or to whoever can take it soonest. Resolves within about an
    /// election timeout, with the node that leads.
    pub fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Option<NodeId>,
    ) -> Pending<NodeId, TransferError> {
        let (request, pending) = transfer(shard, to);
        match self.0.submit(request) {
            Ok(()) => pending,
            Err(refused) => Pending::ready(Err(refused.into())),
        }
    }

    /// The cluster as this core sees it now. Do not hold it across an await.
    pub fn view(&self) -> Ref<'_, ClusterView> {
        self.0.view.borrow()
    }

    /// What reads may return that any replica may answer, as the node's operator says:
    /// [`Consistency::Stale`], or [`Consistency::Bounded`] if there is a bound
    /// ([`Settings::replica_read_staleness`](super::Settings::replica_read_staleness)).
    pub fn replica_reads(&self) -> Consistency {
        let bound = self.0.replica_read_staleness.get();
        bound.map_or(Consistency::Stale, |staleness| Consistency::Bounded { staleness })
    }

    /// Counters of this core, as of its last turn.
    pub fn counters(&self) -> CoreCounters {
        self.0.counters.get()
    }

    /// Resolves when the core begins to stop: a service should then accept nothing new, answer what
    /// is in flight, and end.
    pub async fn stopping(&self) {
        std::future::poll_fn(|cx| self.0.poll_stopping(cx)).await;
    }

    /// Whether the core is stopping: what is in flight still gets its answer, new work does not.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.get()
    }
}
