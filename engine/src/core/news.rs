//! The way from the cores to the keeper of the address book, a thread of the node that may wait for disks and name
//! servers, as cores may not.
//!
//! A bounded queue without locks, like a core's [`Mailbox`](super::Mailbox). A full one refuses at once. When the
//! keeper has ended, it is closed: what lies in it or comes later is dropped, and whoever asked gets an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crossbeam_queue::ArrayQueue;
use futures_channel::oneshot;
use futures_util::task::AtomicWaker;

use super::handle::Pending;
use crate::limits::MEMBER_NEWS_MAX;
use crate::members::MemberRecord;
use crate::{AddMemberError, NodeId, RemoveMemberError};

/// What the keeper of the book is told.
#[derive(Debug)]
pub enum MemberNews {
    /// Another node has records that are newer than ours, none with a flaw.
    Heard(Vec<MemberRecord>),
    /// A member is to be added, or its addresses changed.
    Add {
        /// The member; its version and `removed` do not matter.
        record: MemberRecord,
        /// Where the record goes as it is in the book, once it is on disk.
        answer: oneshot::Sender<Result<MemberRecord, AddMemberError>>,
    },
    /// A member is to be removed.
    Remove {
        /// Which.
        id: NodeId,
        /// Where the record goes as it is in the book, once it is on disk.
        answer: oneshot::Sender<Result<MemberRecord, RemoveMemberError>>,
    },
    /// The node stops.
    Stop,
}

const FULL: &str = "too many changes of members are waiting";

/// The sending side; `Send`, `Sync`, cheap to clone.
#[derive(Clone, Debug)]
pub struct NewsQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: ArrayQueue<MemberNews>,
    waker: AtomicWaker,
    closed: AtomicBool,
}

impl NewsQueue {
    /// An empty queue, and its only receiving end.
    #[must_use]
    pub fn new() -> (Self, NewsReceiver) {
        let queue = Self(Arc::new(Inner {
            queue: ArrayQueue::new(MEMBER_NEWS_MAX),
            waker: AtomicWaker::new(),
            closed: AtomicBool::new(false),
        }));
        (queue.clone(), NewsReceiver(queue))
    }

    /// Puts news in. `false` if there is no room: they are dropped then.
    #[must_use]
    pub fn post(&self, news: MemberNews) -> bool {
        let posted = self.0.queue.push(news).is_ok();
        if self.0.closed.load(Ordering::SeqCst) {
            // Either we see that it is closed, or whoever closed it sees our news.
            self.drop_all();
        }
        self.0.waker.wake();
        posted
    }

    /// Asks for a member to be added, or its addresses changed. Resolves with its record once that is on disk.
    pub fn add(&self, record: MemberRecord) -> Pending<MemberRecord, AddMemberError> {
        let (answer, added) = oneshot::channel();
        if self.post(MemberNews::Add { record, answer }) {
            Pending::waiting(added, AddMemberError::ShuttingDown)
        } else {
            Pending::ready(Err(AddMemberError::Overloaded(FULL)))
        }
    }

    /// Asks for a member to be removed. Resolves with its record once that is on disk.
    pub fn remove(&self, id: NodeId) -> Pending<MemberRecord, RemoveMemberError> {
        let (answer, removed) = oneshot::channel();
        if self.post(MemberNews::Remove { id, answer }) {
            Pending::waiting(removed, RemoveMemberError::ShuttingDown)
        } else {
            Pending::ready(Err(RemoveMemberError::Overloaded(FULL)))
        }
    }

    fn drop_all(&self) {
        while self.0.queue.pop().is_some() {}
    }
}

/// The keeper's end; closes the queue when it is dropped.
#[derive(Debug)]
pub struct NewsReceiver(NewsQueue);

impl NewsReceiver {
    /// The next news; if there are none, `cx` is woken by the next.
    pub fn poll_next(&self, cx: &Context<'_>) -> Poll<MemberNews> {
        let inner = &self.0.0;
        if let Some(news) = inner.queue.pop() {
            return Poll::Ready(news);
        }
        inner.waker.register(cx.waker());
        inner.queue.pop().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for NewsReceiver {
    fn drop(&mut self) {
        self.0.0.closed.store(true, Ordering::SeqCst);
        self.0.drop_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn news_come_in_order_and_a_full_queue_refuses() {
        let (queue, receiver) = NewsQueue::new();
        let mut waiting = Vec::new();
        for id in 0..MEMBER_NEWS_MAX as u64 {
            waiting.push(queue.remove(NodeId(id)));
        }
        assert!(!queue.post(MemberNews::Stop));
        let refused = queue.remove(NodeId(1)).now_or_never();
        assert_eq!(refused, Some(Err(RemoveMemberError::Overloaded(FULL))));
        let cx = Context::from_waker(std::task::Waker::noop());
        for expected in 0..MEMBER_NEWS_MAX as u64 {
            let news = receiver.poll_next(&cx);
            assert!(matches!(news, Poll::Ready(MemberNews::Remove { id, .. }) if id.0 == expected));
        }
        assert!(receiver.poll_next(&cx).is_pending());
        assert!(queue.post(MemberNews::Stop));
    }

    #[test]
    fn nobody_waits_for_a_keeper_that_has_ended() {
        let (queue, receiver) = NewsQueue::new();
        let before = queue.remove(NodeId(1));
        drop(receiver);
        let after = queue.remove(NodeId(2));
        for pending in [before, after] {
            assert_eq!(pending.now_or_never(), Some(Err(RemoveMemberError::ShuttingDown)));
        }
    }
}
