//! The way into a core from other threads: a bounded queue without locks.
//!
//! Cores never read each other's memory. What one thread has to tell a core goes through its mailbox:
//! requests of embedders on any thread, news of leadership from sibling cores, the order to stop. A
//! full mailbox refuses at once; nobody waits for it.

use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use futures_channel::oneshot;
use futures_util::task::AtomicWaker;

use super::handle::{self, Committed, Consistency, Pending, Position, Request};
use super::status::CoreStatus;
use crate::limits::MAILBOX_LETTERS_MAX;
use crate::{NodeId, ProposeError, QueryError, ShardId, Term};

/// What another thread may tell a core.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A proposal or query of an embedder.
    Request(Request),
    /// A sibling core learned who leads one of its shards.
    Leader { shard: ShardId, term: Term, leader: Option<NodeId> },
    /// Somebody asks how the core is.
    Status(oneshot::Sender<CoreStatus>),
    /// Finish what is in flight, make the log durable, end.
    Stop,
}

/// The sending side; `Send`, `Sync`, cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    letters: ArrayQueue<Letter>,
    waker: AtomicWaker,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Mailbox {
    /// An empty mailbox for one core.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            letters: ArrayQueue::new(MAILBOX_LETTERS_MAX),
            waker: AtomicWaker::new(),
        }))
    }

    /// Puts a letter in, or gives it back when the box is full.
    pub(crate) fn post(&self, letter: Letter) -> Result<(), Letter> {
        self.0.letters.push(letter)?;
        self.0.waker.wake();
        Ok(())
    }

    /// Asks the core to stop. Returns false if its mailbox is full: ask again.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.post(Letter::Stop).is_ok()
    }

    pub(crate) fn take(&self) -> Option<Letter> {
        self.0.letters.pop()
    }

    /// Whether letters wait; if not, `cx` is woken by the next.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> bool {
        if !self.0.letters.is_empty() {
            return true;
        }
        self.0.waker.register(cx.waker());
        !self.0.letters.is_empty()
    }
}

/// The way into a core from any thread and any runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteCore(Mailbox);

const FULL: &str = "the mailbox of the core is full";

impl RemoteCore {
    /// A way in through `mailbox`.
    #[must_use]
    pub fn new(mailbox: Mailbox) -> Self {
        Self(mailbox)
    }

    /// Like [`CoreHandle::propose`](super::CoreHandle::propose).
    pub fn propose(&self, shard: ShardId, payload: Bytes) -> Pending<Committed, ProposeError> {
        match handle::propose(shard, payload, None) {
            Ok((request, pending)) => self.post_proposal(request, pending),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Like [`RemoteCore::propose`], in two steps: the first answer comes when the entry has its place
    /// in the leader's log, the second when it is committed and applied.
    pub fn propose_in_steps(
        &self,
        shard: ShardId,
        payload: Bytes,
    ) -> (Pending<Position, ProposeError>, Pending<Committed, ProposeError>) {
        let (accepted, position) = oneshot::channel();
        match handle::propose(shard, payload, Some(accepted)) {
            Ok((request, pending)) => {
                let gone = ProposeError::OutcomeUnknown { shard };
                (Pending::waiting(position, gone), self.post_proposal(request, pending))
            }
            Err(error) => (Pending::ready(Err(error.clone())), Pending::ready(Err(error))),
        }
    }

    /// Like [`CoreHandle::query`](super::CoreHandle::query).
    pub fn query(
        &self,
        shard: ShardId,
        payload: Bytes,
        consistency: Consistency,
    ) -> Pending<Bytes, QueryError> {
        let (request, pending) = handle::query(shard, payload, consistency);
        match self.0.post(Letter::Request(request)) {
            Ok(()) => pending,
            Err(_) => Pending::ready(Err(QueryError::Overloaded(FULL))),
        }
    }

    /// How the core is. `None` when it has ended or its mailbox is full.
    pub async fn status(&self) -> Option<CoreStatus> {
        let (answer, status) = oneshot::channel();
        self.0.post(Letter::Status(answer)).ok()?;
        status.await.ok()
    }

    fn post_proposal(
        &self,
        request: Request,
        pending: Pending<Committed, ProposeError>,
    ) -> Pending<Committed, ProposeError> {
        match self.0.post(Letter::Request(request)) {
            Ok(()) => pending,
            Err(Letter::Request(Request::Propose { accepted: Some(accepted), .. })) => {
                let _ = accepted.send(Err(ProposeError::Overloaded(FULL)));
                Pending::ready(Err(ProposeError::Overloaded(FULL)))
            }
            Err(_) => Pending::ready(Err(ProposeError::Overloaded(FULL))),
        }
    }
}
