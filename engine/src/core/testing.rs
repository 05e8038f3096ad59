//! The core's side of a handle, for tests of protocols that are built on handles.
//!
//! [`CoreHandle::detached`] gives a handle with no core behind it. With these functions a test plays the
//! core: it takes the requests out, in order, and answers each as it likes, now or later.

use bytes::Bytes;
use futures_channel::oneshot;

use super::handle::{Committed, Consistency, CoreHandle, Request};
use super::inbox::Event;
use super::view::ClusterView;
use crate::{ProposeError, QueryError, ShardId};

/// Where the outcome of a request goes. Dropping it is what a lost core does.
#[derive(Debug)]
pub struct Answer<T, E>(oneshot::Sender<Result<T, E>>);

impl<T, E> Answer<T, E> {
    /// Ends the request. `false` if nobody waits for the outcome any more.
    pub fn send(self, outcome: Result<T, E>) -> bool {
        self.0.send(outcome).is_ok()
    }
}

/// A request as the core sees it.
#[derive(Debug)]
pub enum TestRequest {
    /// A proposal.
    Propose {
        /// The shard.
        shard: ShardId,
        /// What is proposed.
        payload: Bytes,
        /// Where the outcome goes.
        answer: Answer<Committed, ProposeError>,
    },
    /// A query.
    Query {
        /// The shard.
        shard: ShardId,
        /// What is asked.
        payload: Bytes,
        /// What the answer may be.
        consistency: Consistency,
        /// Where the outcome goes.
        answer: Answer<Bytes, QueryError>,
    },
}

/// Takes the oldest request that the handle or one of its clones has submitted.
pub fn take_request(handle: &CoreHandle) -> Option<TestRequest> {
    let Some(Event::Request(request)) = handle.inbox().pop() else { return None };
    Some(match request {
        Request::Propose { shard, payload, answer, .. } => {
            TestRequest::Propose { shard, payload, answer: Answer(answer) }
        }
        Request::Query { shard, payload, consistency, answer } => {
            TestRequest::Query { shard, payload, consistency, answer: Answer(answer) }
        }
    })
}

/// Changes what the handle and its clones see of the cluster.
pub fn change_view(handle: &CoreHandle, change: impl FnOnce(&mut ClusterView)) {
    change(&mut handle.inbox().view.borrow_mut());
}
