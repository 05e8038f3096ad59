//! The way into a core from tasks of the same core: proposals and queries as futures.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_channel::oneshot;

use super::view::ClusterView;
use crate::limits::{PAYLOAD_BYTES_MAX, REQUESTS_PER_CORE_MAX};
use crate::{LogIndex, ProposeError, QueryError, ShardId, Term};

/// What a read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The state at some moment between call and answer; only the leader can give it.
    Linearizable,
    /// Whatever this replica has applied; may be old.
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
        answer: oneshot::Sender<Result<Committed, ProposeError>>,
    },
    Query {
        shard: ShardId,
        payload: Bytes,
        consistency: Consistency,
        answer: oneshot::Sender<Result<Bytes, QueryError>>,
    },
}

/// What the handles of a core and its loop share. One thread only.
pub(crate) struct Shared {
    pub(crate) requests: RefCell<VecDeque<Request>>,
    pub(crate) waker: RefCell<Option<Waker>>,
    pub(crate) view: RefCell<ClusterView>,
}

impl Shared {
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// The way into a core from tasks that run on the same core. Cheap to clone.
#[derive(Clone)]
pub struct CoreHandle(Rc<Shared>);

impl CoreHandle {
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        Self(shared)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// A handle with a view but no core behind it: every request waits until the handle is gone.
    /// For tests of protocols that are built on handles.
    pub fn detached(view: ClusterView) -> Self {
        Self::new(Rc::new(Shared {
            requests: RefCell::default(),
            waker: RefCell::default(),
            view: RefCell::new(view),
        }))
    }

    /// Proposes `payload` to `shard`. Resolves when it is committed durably and applied here, or
    /// with the reason why it is not. Refuses at once what a limit forbids.
    pub fn propose(&self, shard: ShardId, payload: Bytes) -> Pending<Committed, ProposeError> {
        let bytes = payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            let max = PAYLOAD_BYTES_MAX;
            return Pending::ready(Err(ProposeError::TooLarge { bytes, max }));
        }
        let (answer, pending) = oneshot::channel();
        if !self.submit(Request::Propose { shard, payload, answer }) {
            return Pending::ready(Err(ProposeError::Overloaded("too many requests on this core")));
        }
        Pending::waiting(pending, ProposeError::OutcomeUnknown { shard })
    }

    /// Asks the state machine of `shard`.
    pub fn query(
        &self,
        shard: ShardId,
        payload: Bytes,
        consistency: Consistency,
    ) -> Pending<Bytes, QueryError> {
        let (answer, pending) = oneshot::channel();
        if !self.submit(Request::Query { shard, payload, consistency, answer }) {
            return Pending::ready(Err(QueryError::Overloaded("too many requests on this core")));
        }
        Pending::waiting(pending, QueryError::ShuttingDown)
    }

    /// The cluster as this core sees it now. Do not hold it across an await.
    pub fn view(&self) -> Ref<'_, ClusterView> {
        self.0.view.borrow()
    }

    fn submit(&self, request: Request) -> bool {
        let mut requests = self.0.requests.borrow_mut();
        if requests.len() >= REQUESTS_PER_CORE_MAX {
            return false;
        }
        requests.push_back(request);
        drop(requests);
        self.0.wake();
        true
    }
}
