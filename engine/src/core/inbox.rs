//! What the event loop of a core and the other tasks of that core share: one FIFO queue of events,
//! its limits, and the core's view of the cluster.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::cold::ColdRead;
use super::handle::Request;
use super::installing::{Pulled, Restored};
use super::link::Link;
use super::news::{MemberNews, NewsQueue};
use super::signal::Signal;
use super::status::CoreCounters;
use super::taking::Taken;
use super::view::ClusterView;
use crate::limits::Limits;
use crate::members::{Book, MemberRecord};
use crate::on_demand::give_back;
use crate::raft::{Entry, Message};
use crate::{ProposeError, QueryError, ShardId, SnapshotRequestError, TransferError};

/// Everything that can happen to a core from its own tasks. The set is closed: what the loop does is
/// a function of these, of the log's durable position and of its mailbox.
#[derive(Debug)]
pub(crate) enum Event {
    /// A proposal or query.
    Request(Request),
    /// A Raft message of a peer, over a link.
    Message { link: Rc<Link>, shard: ShardId, message: Message },
    /// A link was established.
    LinkUp(Rc<Link>),
    /// A link was lost.
    LinkDown(Rc<Link>),
    /// The tick timer.
    Tick,
    /// Entries were read back from the log.
    ColdRead(Box<ColdRead>),
    /// A snapshot of an own shard is durable, or was given up.
    SnapshotTaken(Box<Taken>),
    /// A leader's snapshot is durable here, or could not be had.
    SnapshotPulled(Box<Pulled>),
    /// A state machine has taken over a snapshot, or could not.
    SnapshotRestored(Box<Restored>),
}

/// Why a request was not even queued.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    Overloaded,
    Stopping,
}

const TOO_MANY: &str = "too many requests are waiting on this core";

impl From<Refused> for ProposeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Overloaded(TOO_MANY),
            Refused::Stopping => Self::ShuttingDown,
        }
    }
}

impl From<Refused> for QueryError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Overloaded(TOO_MANY),
            Refused::Stopping => Self::ShuttingDown,
        }
    }
}

impl From<Refused> for SnapshotRequestError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Overloaded(TOO_MANY),
            Refused::Stopping => Self::ShuttingDown,
        }
    }
}

impl From<Refused> for TransferError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Overloaded(TOO_MANY),
            Refused::Stopping => Self::ShuttingDown,
        }
    }
}

/// Shared by the tasks of one core; never leaves its thread.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) limits: Limits,
    events: RefCell<VecDeque<Event>>,
    requests_queued: Cell<usize>,
    request_bytes_queued: Cell<usize>,
    frames_queued: Cell<usize>,
    /// [`Entry::cost`] of all entries in the queued frames.
    frame_bytes_queued: Cell<usize>,
    /// Set when there is an event.
    pub(crate) arrived: Signal,
    /// Set when frames were taken out.
    taken: Signal,
    pub(crate) view: RefCell<ClusterView>,
    /// The address book as it was told last.
    pub(super) book: RefCell<Arc<Book>>,
    /// Who keeps it.
    news: Option<NewsQueue>,
    pub(crate) counters: Cell<CoreCounters>,
    /// What the operator allows; see [`super::Settings::replica_read_staleness`].
    pub(crate) replica_read_staleness: Cell<Option<Duration>>,
    pub(crate) stopping: Cell<bool>,
    stop_began: Signal,
}

impl Inbox {
    pub(crate) fn new(view: ClusterView, limits: Limits) -> Self {
        Self {
            limits,
            events: RefCell::default(),
            requests_queued: Cell::new(0),
            request_bytes_queued: Cell::new(0),
            frames_queued: Cell::new(0),
            frame_bytes_queued: Cell::new(0),
            arrived: Signal::default(),
            taken: Signal::default(),
            view: RefCell::new(view),
            book: RefCell::default(),
            news: None,
            counters: Cell::default(),
            replica_read_staleness: Cell::new(None),
            stopping: Cell::new(false),
            stop_began: Signal::default(),
        }
    }

    /// The same with an address book, and with who keeps it.
    pub(super) fn with_book(mut self, book: Arc<Book>, news: Option<NewsQueue>) -> Self {
        self.book.replace(book);
        self.news = news;
        self
    }

    /// Whether somebody keeps the address book, and takes what others say of it.
    pub(super) fn has_keeper(&self) -> bool {
        self.news.is_some()
    }

    /// Passes on what another node's address book says, if it is news. `false` if there is no room for it.
    pub(super) fn hear_members(&self, records: Vec<MemberRecord>) -> bool {
        let Some(news) = self.news.as_ref() else { return true };
        self.book.borrow().covers(&records) || news.post(MemberNews::Heard(records))
    }

    /// Queues a request, or refuses it by limit.
    pub(crate) fn submit(&self, request: Request) -> Result<(), Refused> {
        if self.stopping.get() {
            return Err(Refused::Stopping);
        }
        let bytes = self.request_bytes_queued.get() + request.payload_bytes();
        if self.requests_queued.get() >= self.limits.requests_per_core_max
            || bytes > self.limits.request_bytes_per_core_max
        {
            sometimes!(requests_full);
            return Err(Refused::Overloaded);
        }
        self.requests_queued.set(self.requests_queued.get() + 1);
        self.request_bytes_queued.set(bytes);
        self.push(Event::Request(request));
        Ok(())
    }

    /// Queues a peer's message; waits while too many are queued, so that TCP holds the peer back.
    pub(crate) async fn deliver(&self, link: &Rc<Link>, shard: ShardId, message: Message) {
        poll_fn(|cx| {
            while self.is_full_of_frames() {
                if self.taken.poll_take(cx).is_pending() {
                    sometimes!(frames_full);
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
        self.frames_queued.set(self.frames_queued.get() + 1);
        self.frame_bytes_queued.set(self.frame_bytes_queued.get() + cost(&message));
        self.push(Event::Message { link: link.clone(), shard, message });
    }

    fn is_full_of_frames(&self) -> bool {
        self.frames_queued.get() >= self.limits.frames_queued_max
            || self.frame_bytes_queued.get() >= self.limits.frame_bytes_queued_max
    }

    /// Queues an event that no limit applies to: there are only as many as links, ticks, and tasks that
    /// the loop itself has started.
    pub(crate) fn push(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.arrived.set();
    }

    /// The next event, in the order of arrival.
    pub(crate) fn pop(&self) -> Option<Event> {
        let event = self.events.borrow_mut().pop_front()?;
        match &event {
            Event::Request(request) => {
                let bytes = self.request_bytes_queued.get() - request.payload_bytes();
                self.request_bytes_queued.set(bytes);
                self.requests_queued.set(self.requests_queued.get() - 1);
            }
            Event::Message { message, .. } => {
                self.frames_queued.set(self.frames_queued.get() - 1);
                self.frame_bytes_queued.set(self.frame_bytes_queued.get() - cost(message));
                if !self.is_full_of_frames() {
                    self.taken.set();
                }
            }
            Event::LinkUp(_)
            | Event::LinkDown(_)
            | Event::Tick
            | Event::ColdRead(_)
            | Event::SnapshotTaken(_)
            | Event::SnapshotPulled(_)
            | Event::SnapshotRestored(_) => {}
        }
        Some(event)
    }

    /// The core begins to stop: requests are refused from now on.
    pub(crate) fn begin_stop(&self) {
        self.stopping.set(true);
        self.stop_began.set();
    }

    /// Ready once the core has begun to stop.
    pub(crate) fn poll_stopping(&self, cx: &Context<'_>) -> Poll<()> {
        while !self.stopping.get() {
            if self.stop_began.poll_take(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// The core has ended: refuses the requests that it did not come to.
    pub(crate) fn refuse_all(&self) {
        while let Some(event) = self.pop() {
            if let Event::Request(request) = event {
                request.refuse_stopping();
            }
        }
    }

    /// Requests that wait, and their bytes.
    pub(crate) fn requests(&self) -> (usize, usize) {
        (self.requests_queued.get(), self.request_bytes_queued.get())
    }

    /// Messages of peers that wait, and the cost of their entries.
    pub(crate) fn frames(&self) -> (usize, usize) {
        (self.frames_queued.get(), self.frame_bytes_queued.get())
    }

    /// Gives back the memory of a queue that was long and is empty now.
    pub(super) fn give_back(&self) {
        give_back(&mut self.events.borrow_mut());
    }

    /// Whether no event waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }
}

/// What a queued message counts for besides itself.
fn cost(message: &Message) -> usize {
    match message {
        Message::Append(append) => append.entries.iter().map(Entry::cost).sum(),
        _ => 0,
    }
}
