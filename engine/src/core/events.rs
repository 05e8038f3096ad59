//! Subscriptions: what changes on the cores of a node, told as it happens to whoever wants to know.
//!
//! # Order, and each once
//! A core tells a change when it happens, and only if it is one: leaders and members are compared with what was told
//! before. What one core tells arrives in that order; between cores there is none. A subscription begins
//! with what changes after [`RemoteCore::subscribe`](super::RemoteCore::subscribe): ask for the status afterwards to
//! know where things stand, and take a [`ClusterEvent::Leader`] of an older term for what it is.
//!
//! # Slow subscribers
//! All cores of a node push into one queue of [`EVENTS_QUEUED_MAX`] without ever waiting. What finds it full is counted
//! and lost, and so is everything after it until the subscriber has taken all that was queued; then it is told
//! [`ClusterEvent::Missed`] in that place, and should ask for the status again. So nothing is told out of order, and a
//! subscriber that sleeps costs its queue and no more.
//!
//! It ends when all cores have ended, after everything queued was taken. Dropping it ends it for the cores.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;

use crate::limits::EVENTS_QUEUED_MAX;
use crate::raft::membership::Configuration;
use crate::{CoreId, LogIndex, NodeId, ShardId, Term};

/// Something that is not as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// Somebody else leads a shard, as far as this node knows; or it is not known who does.
    Leader {
        /// The shard.
        shard: ShardId,
        /// In which term.
        term: Term,
        /// Who.
        leader: Option<NodeId>,
    },
    /// Another configuration is in force, committed or not: others belong to the shard, or with other votes.
    Members {
        /// The shard.
        shard: ShardId,
        /// Who belongs to it now.
        configuration: Configuration,
    },
    /// A snapshot of this replica is durable.
    SnapshotTaken {
        /// The shard.
        shard: ShardId,
        /// Its last entry.
        index: LogIndex,
    },
    /// A snapshot of the leader has taken the place of this replica's state.
    SnapshotInstalled {
        /// The shard.
        shard: ShardId,
        /// Its last entry.
        index: LogIndex,
    },
    /// A replica takes no part any more.
    ReplicaHalted {
        /// The shard.
        shard: ShardId,
        /// What happened, and what to do.
        reason: String,
    },
    /// The log of a core makes no progress: it hands over what it leads. Or it does again.
    LogStalled {
        /// Which core.
        core: CoreId,
        /// False when it is over.
        stalled: bool,
    },
    /// The log of a core has failed for good: it does nothing more until the node is started again.
    LogFailed {
        /// Which core.
        core: CoreId,
        /// What happened.
        reason: String,
    },
    /// A core has its first connection to another node, or has lost the last.
    Peer {
        /// The core of this node.
        core: CoreId,
        /// The other node.
        node: NodeId,
        /// Whether it is connected.
        up: bool,
    },
    /// The subscriber was too slow, and so many changes were lost here: ask for the status.
    Missed(u64),
}

#[derive(Debug)]
struct Feed {
    queue: ArrayQueue<ClusterEvent>,
    /// ClusterEvents lost since the subscriber was told last. Nothing is queued while there are any.
    missed: AtomicU64,
    /// Cores that still tell.
    sources: AtomicUsize,
    /// The subscriber is gone.
    closed: AtomicBool,
    waker: AtomicWaker,
}

/// The subscriber's end. Taken from any thread and any runtime; `next` never loses a change when it is dropped.
#[derive(Debug)]
pub struct ClusterEvents(Arc<Feed>);

/// A core's end.
#[derive(Debug)]
pub(crate) struct Source(Arc<Feed>);

impl ClusterEvents {
    /// A subscription to so many cores, and the end of each.
    pub(crate) fn new(cores: usize) -> (Self, Vec<Source>) {
        let feed = Arc::new(Feed {
            queue: ArrayQueue::new(EVENTS_QUEUED_MAX),
            missed: AtomicU64::new(0),
            sources: AtomicUsize::new(cores),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let sources = (0..cores).map(|_| Source(feed.clone())).collect();
        (Self(feed), sources)
    }

    /// The next change; `None` when all cores have ended.
    pub async fn next(&mut self) -> Option<ClusterEvent> {
        poll_fn(|cx| {
            // Whoever pushes after this looks wakes us.
            self.0.waker.register(cx.waker());
            let ended = self.0.sources.load(Ordering::SeqCst) == 0;
            match self.take() {
                Some(change) => Poll::Ready(Some(change)),
                None if ended => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn take(&mut self) -> Option<ClusterEvent> {
        self.0.queue.pop().or_else(|| match self.0.missed.swap(0, Ordering::SeqCst) {
            0 => None,
            missed => Some(ClusterEvent::Missed(missed)),
        })
    }
}

impl Drop for ClusterEvents {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

impl Source {
    /// Whether anybody still listens.
    pub(super) fn is_open(&self) -> bool {
        !self.0.closed.load(Ordering::SeqCst)
    }

    pub(super) fn tell(&self, change: ClusterEvent) {
        let one_more = |missed| (missed > 0).then(|| missed + 1);
        let lost = self.0.missed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok();
        if !lost && self.0.queue.push(change).is_err() {
            sometimes!(event_missed);
            self.0.missed.fetch_add(1, Ordering::SeqCst);
        }
        self.0.waker.wake();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.sources.fetch_sub(1, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

/// Who wants to know what changes on a core.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Vec<Source>);

impl Subscribers {
    pub(super) fn add(&mut self, source: Source) {
        self.0.retain(Source::is_open);
        self.0.push(source);
    }

    /// Tells everybody. Without subscribers this costs a comparison.
    pub(super) fn tell(&mut self, change: impl FnOnce() -> ClusterEvent) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(Source::is_open);
        let change = change();
        self.0.iter().for_each(|source| source.tell(change.clone()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;

    fn leader(term: u64) -> ClusterEvent {
        ClusterEvent::Leader { shard: ShardId(3), term: Term(term), leader: Some(NodeId(1)) }
    }

    #[test]
    fn changes_come_in_order_and_end_with_the_last_core() {
        let (mut changes, sources) = ClusterEvents::new(2);
        assert_eq!(changes.next().now_or_never(), None, "nothing yet");
        let (mut one, mut other) = (Subscribers::default(), Subscribers::default());
        for (subscribers, source) in [&mut one, &mut other].into_iter().zip(sources) {
            subscribers.add(source);
        }
        one.tell(|| leader(1));
        drop(one);
        other.tell(|| leader(2));
        assert_eq!(changes.next().now_or_never(), Some(Some(leader(1))));
        drop(other);
        assert_eq!(changes.next().now_or_never(), Some(Some(leader(2))), "queued before the end");
        assert_eq!(changes.next().now_or_never(), Some(None));
    }

    #[test]
    fn what_a_slow_subscriber_missed_is_told_in_its_place() {
        let (mut changes, sources) = ClusterEvents::new(1);
        for term in 0..EVENTS_QUEUED_MAX as u64 + 3 {
            sources[0].tell(leader(term));
        }
        // There is room again, but what comes now would hide what was lost before it.
        assert_eq!(changes.next().now_or_never(), Some(Some(leader(0))));
        sources[0].tell(leader(9_999));
        for term in 1..EVENTS_QUEUED_MAX as u64 {
            assert_eq!(changes.next().now_or_never(), Some(Some(leader(term))));
        }
        assert_eq!(changes.next().now_or_never(), Some(Some(ClusterEvent::Missed(4))));
        sources[0].tell(leader(10_000));
        assert_eq!(changes.next().now_or_never(), Some(Some(leader(10_000))));
        assert_eq!(changes.next().now_or_never(), None);
    }

    #[test]
    fn whoever_left_is_not_told_any_more() {
        let (changes, sources) = ClusterEvents::new(1);
        let mut subscribers = Subscribers::default();
        sources.into_iter().for_each(|source| subscribers.add(source));
        drop(changes);
        subscribers.tell(|| leader(1));
        assert!(subscribers.0.is_empty());
        subscribers.tell(|| unreachable!("nobody is there to be told"));
    }
}
