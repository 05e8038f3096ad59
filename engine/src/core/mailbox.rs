//! The way into a core from other threads: a bounded queue without locks.
//!
//! Cores never read each other's memory. What one thread has to tell a core goes through its mailbox:
//! requests of embedders on any thread, news of leadership from sibling cores, the order to stop. A
//! full mailbox refuses at once; nobody waits for it. When its core ends, the mailbox is closed: what
//! lies in it is refused, and so is everything that comes later, so that nobody waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use futures_channel::oneshot;
use futures_util::task::AtomicWaker;

use super::events::{ClusterEvents, Source};
use super::handle::{self, Committed, Consistency, Pending, Position, Request};
use super::leadership::DrainReport;
use super::membership::{MemberStatus, MemberUpdate};
use super::settings::{Setting, SettingError};
use super::status::{CoreStatus, ShardStatus};
use crate::limits::{MAILBOX_LETTERS_MAX, REQUEST_BYTES_PER_CORE_MAX};
use crate::raft::membership::{NodeSet, Reconfiguration};
use crate::{
    LogIndex, NodeId, ProposeError, QueryError, ReconfigureError, ShardId, SnapshotRequestError,
    Term, TransferError,
};

/// What another thread may tell a core.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A proposal or query of an embedder.
    Request(Request),
    /// A sibling core learned who leads one of its shards.
    Leader { shard: ShardId, term: Term, leader: Option<NodeId> },
    /// Others belong to one of a sibling's shards now.
    Replicas { shard: ShardId, nodes: NodeSet },
    /// Somebody asks how the core is.
    Status(oneshot::Sender<CoreStatus>),
    /// The address book has changed.
    Members(Arc<MemberUpdate>),
    /// Somebody asks for the address book and who is up.
    AskMembers(oneshot::Sender<Vec<MemberStatus>>),
    /// Somebody wants to know what changes.
    Subscribe(Source),
    /// Somebody changes a setting.
    Set { setting: Setting, answer: oneshot::Sender<Result<(), SettingError>> },
    /// Hand over all leadership and report; without anybody who wants to know, stop then.
    Drain(Option<oneshot::Sender<DrainReport>>),
    /// Finish what is in flight, make the log durable, end.
    Stop,
}

impl Letter {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Request(request) => request.payload_bytes(),
            Self::Leader { .. }
            | Self::Replicas { .. }
            | Self::Status(_)
            | Self::Members(_)
            | Self::AskMembers(_)
            | Self::Subscribe(_)
            | Self::Set { .. }
            | Self::Drain(_)
            | Self::Stop => 0,
        }
    }
}

/// The sending side; `Send`, `Sync`, cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    letters: ArrayQueue<Letter>,
    /// Payload bytes of the requests among them.
    bytes: AtomicUsize,
    waker: AtomicWaker,
    /// Set when the core has ended: nobody takes letters out any more.
    closed: AtomicBool,
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
        Self::with_capacity(MAILBOX_LETTERS_MAX)
    }

    /// An empty mailbox with room for so many letters, at least one. The room is taken at once: 64 Ki
    /// letters are some 6 MB.
    #[must_use]
    pub fn with_capacity(letters: usize) -> Self {
        Self(Arc::new(Inner {
            letters: ArrayQueue::new(letters.max(1)),
            bytes: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Puts a letter in, or gives it back when the box is full. In a closed box it is refused.
    pub(crate) fn post(&self, letter: Letter) -> Result<(), Letter> {
        let bytes = letter.payload_bytes();
        if self.0.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > REQUEST_BYTES_PER_CORE_MAX {
            self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
            sometimes!(mailbox_full);
            return Err(letter);
        }
        self.0.letters.push(letter).inspect_err(|_| {
            sometimes!(mailbox_full);
            self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
        })?;
        if self.0.closed.load(Ordering::SeqCst) {
            // Either we see that the box is closed, or whoever closed it sees our letter.
            self.refuse_all();
        }
        self.0.waker.wake();
        Ok(())
    }

    /// Tells the core that the address book has changed. Returns false if its mailbox is full: tell it again.
    #[must_use]
    pub fn update_members(&self, update: Arc<MemberUpdate>) -> bool {
        self.post(Letter::Members(update)).is_ok()
    }

    /// Asks the core to stop. Returns false if its mailbox is full: ask again.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.post(Letter::Stop).is_ok()
    }

    /// Asks the core to hand over what it leads, for a bounded time, and to stop then. Returns false if its mailbox
    /// is full: ask again.
    #[must_use]
    pub fn drain_and_stop(&self) -> bool {
        self.post(Letter::Drain(None)).is_ok()
    }

    /// The core has ended: refuses what is in the box and what will come.
    fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.refuse_all();
    }

    fn refuse_all(&self) {
        while let Some(letter) = self.take() {
            match letter {
                Letter::Request(request) => request.refuse_stopping(),
                // A dropped question is answered with "gone".
                Letter::Leader { .. }
                | Letter::Replicas { .. }
                | Letter::Status(_)
                | Letter::Members(_)
                | Letter::AskMembers(_)
                | Letter::Subscribe(_)
                | Letter::Set { .. }
                | Letter::Drain(_)
                | Letter::Stop => {}
            }
        }
    }

    /// Letters that wait to be taken out.
    pub(crate) fn len(&self) -> usize {
        self.0.letters.len()
    }

    /// Whether nothing waits to be taken out.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.letters.is_empty()
    }

    pub(crate) fn take(&self) -> Option<Letter> {
        let letter = self.0.letters.pop()?;
        self.0.bytes.fetch_sub(letter.payload_bytes(), Ordering::Relaxed);
        Some(letter)
    }

    /// Whether letters wait; if not, `cx` is woken by the next.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> bool {
        if !self.is_empty() {
            return true;
        }
        self.0.waker.register(cx.waker());
        !self.is_empty()
    }
}

/// The receiving end of a core's mailbox; closes the mailbox when it is dropped.
#[derive(Debug)]
pub(super) struct Letters(pub(super) Mailbox);

impl Drop for Letters {
    fn drop(&mut self) {
        self.0.close();
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

    /// Like [`CoreHandle::shard_status`](super::CoreHandle::shard_status).
    pub fn shard_status(&self, shard: ShardId) -> Pending<ShardStatus, QueryError> {
        let (request, pending) = handle::shard_status(shard);
        match self.0.post(Letter::Request(request)) {
            Ok(()) => pending,
            Err(_) => Pending::ready(Err(QueryError::Overloaded(FULL))),
        }
    }

    /// Like [`CoreHandle::reconfigure`](super::CoreHandle::reconfigure).
    pub fn reconfigure(
        &self,
        shard: ShardId,
        change: Reconfiguration,
    ) -> Pending<Position, ReconfigureError> {
        let (request, pending) = handle::reconfigure(shard, change);
        match self.0.post(Letter::Request(request)) {
            Ok(()) => pending,
            Err(_) => Pending::ready(Err(ReconfigureError::Overloaded(FULL))),
        }
    }

    /// Like [`CoreHandle::snapshot`](super::CoreHandle::snapshot).
    pub fn snapshot(&self, shard: ShardId) -> Pending<LogIndex, SnapshotRequestError> {
        let (request, pending) = handle::snapshot(shard);
        match self.0.post(Letter::Request(request)) {
            Ok(()) => pending,
            Err(_) => Pending::ready(Err(SnapshotRequestError::Overloaded(FULL))),
        }
    }

    /// Like [`CoreHandle::transfer_leadership`](super::CoreHandle::transfer_leadership).
    pub fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Option<NodeId>,
    ) -> Pending<NodeId, TransferError> {
        let (request, pending) = handle::transfer(shard, to);
        match self.0.post(Letter::Request(request)) {
            Ok(()) => pending,
            Err(_) => Pending::ready(Err(TransferError::Overloaded(FULL))),
        }
    }

    /// Hands over all shards that the core leads, for a bounded time. From then on the core declines to lead until
    /// its node is started again. `None` when it has ended, its mailbox is full, or
    /// [`DRAIN_ANSWERS_MAX`](crate::limits::DRAIN_ANSWERS_MAX) others wait for its report.
    pub async fn drain(&self) -> Option<DrainReport> {
        let (answer, report) = oneshot::channel();
        self.0.post(Letter::Drain(Some(answer))).ok()?;
        report.await.ok()
    }

    /// Changes a setting of the core, until its node ends.
    ///
    /// # Errors
    /// [`SettingError`]; the setting is what it was.
    pub fn set(&self, setting: Setting) -> Pending<(), SettingError> {
        let (answer, pending) = oneshot::channel();
        match self.0.post(Letter::Set { setting, answer }) {
            Ok(()) => Pending::waiting(pending, SettingError::ShuttingDown),
            Err(_) => Pending::ready(Err(SettingError::Overloaded(FULL))),
        }
    }

    /// Begins a subscription to what changes on these cores. `None` when one of them has ended or its mailbox is full.
    #[must_use]
    pub fn subscribe(cores: &[Self]) -> Option<ClusterEvents> {
        let (events, sources) = ClusterEvents::new(cores.len());
        for (core, source) in cores.iter().zip(sources) {
            core.0.post(Letter::Subscribe(source)).ok()?;
        }
        Some(events)
    }

    /// How the core is. `None` when it has ended or its mailbox is full.
    pub async fn status(&self) -> Option<CoreStatus> {
        let (answer, status) = oneshot::channel();
        self.0.post(Letter::Status(answer)).ok()?;
        status.await.ok()
    }

    /// The address book and who is up, as the core sees it. `None` when it has ended or its mailbox is full.
    pub async fn members(&self) -> Option<Vec<MemberStatus>> {
        let (answer, members) = oneshot::channel();
        self.0.post(Letter::AskMembers(answer)).ok()?;
        members.await.ok()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;
    use crate::limits::PAYLOAD_BYTES_MAX;

    /// The letters of a core that had ended stayed in its mailbox: who had sent them waited for ever.
    #[test]
    fn a_core_that_has_ended_refuses_what_is_sent_to_it() {
        let letters = Letters(Mailbox::new());
        let core = RemoteCore::new(letters.0.clone());
        let mailbox = letters.0.clone();
        let before = core.propose(ShardId(0), Bytes::from_static(b"before"));
        drop(letters);
        let after = core.propose(ShardId(0), Bytes::from_static(b"after"));
        for pending in [before, after] {
            assert_eq!(pending.now_or_never(), Some(Err(ProposeError::ShuttingDown)));
        }
        let (position, committed) = core.propose_in_steps(ShardId(0), Bytes::new());
        assert_eq!(position.now_or_never(), Some(Err(ProposeError::ShuttingDown)));
        assert_eq!(committed.now_or_never(), Some(Err(ProposeError::ShuttingDown)));
        let query = core.query(ShardId(0), Bytes::new(), Consistency::Stale);
        assert_eq!(query.now_or_never(), Some(Err(QueryError::ShuttingDown)));
        let snapshot = core.snapshot(ShardId(0));
        assert_eq!(snapshot.now_or_never(), Some(Err(SnapshotRequestError::ShuttingDown)));
        assert!(core.status().now_or_never().unwrap().is_none());
        for _ in 0..2 * MAILBOX_LETTERS_MAX {
            assert!(mailbox.stop(), "a closed mailbox never fills up");
        }
    }

    #[test]
    fn large_requests_are_bounded_by_their_bytes_and_the_room_comes_back() {
        let mailbox = Mailbox::new();
        let payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
        let post = || {
            let (request, _) = handle::propose(ShardId(0), payload.clone(), None).unwrap();
            mailbox.post(Letter::Request(request)).is_ok()
        };
        let room = REQUEST_BYTES_PER_CORE_MAX / PAYLOAD_BYTES_MAX;
        assert_eq!((0..room + 3).filter(|_| post()).count(), room);
        assert!(mailbox.stop(), "an order without payload always fits");
        mailbox.take().unwrap();
        assert!(post() && !post());
    }
}
