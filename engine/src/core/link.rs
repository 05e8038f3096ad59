//! A connection between this core and one core of a peer, carrying the messages of all shards that
//! the two have in common.
//!
//! Sending is a matter of the event loop: [`Link::send`] appends to a bounded buffer; what is in it
//! when the writer task gets its turn leaves in one gather write. A full buffer drops messages, which
//! Raft takes like loss on a network. Receiving is a matter of the reader task: it decodes frames and
//! queues them as events, and waits when the queue is full, so that TCP holds the peer back.
//!
//! A link ends when either side fails, when nothing was heard for `silence_max`, or when the peer's
//! new incarnation takes its place.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};

use super::inbox::{Event, Inbox};
use super::signal::Signal;
use crate::env::{Env, StreamReader, StreamWriter};
use crate::limits::LINK_RESERVE_BYTES;
use crate::members::Book;
use crate::raft::Message;
use crate::wire::{Frame, FrameDecoder, OutBuf, Pulse};
use crate::{CoreId, NodeId, ShardId};

/// One core of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerCore {
    pub(crate) node: NodeId,
    pub(crate) core: CoreId,
}

impl fmt::Display for PeerCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} core {}", self.node, self.core)
    }
}

/// An established connection.
pub(crate) struct Link {
    pub(crate) peer: PeerCore,
    /// The peer's process: another number is another process under the same id.
    pub(crate) instance: u128,
    out: RefCell<OutBuf>,
    out_bytes_max: usize,
    work: Signal,
    closed: Cell<bool>,
    /// Set along with `closed`, for a writer that waits for the peer to take something.
    cut: Signal,
    pub(crate) heard_at: Cell<Duration>,
    /// The newest pulse that the loop has not seen, and when it came.
    pub(crate) pulse: Cell<Option<(Pulse, Duration)>>,
    pub(crate) frames_in: Cell<u64>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(peer: PeerCore, instance: u128, now: Duration, out_bytes_max: usize) -> Self {
        Self {
            peer,
            instance,
            out: RefCell::default(),
            out_bytes_max,
            work: Signal::default(),
            closed: Cell::new(false),
            cut: Signal::default(),
            heard_at: Cell::new(now),
            pulse: Cell::new(None),
            frames_in: Cell::new(0),
        }
    }

    /// Queues a message of a shard. False if it was dropped for lack of room; entries are dropped before
    /// anything else is.
    pub(crate) fn send(&self, shard: ShardId, message: &Message) -> bool {
        let reserve = if message.has_entries() { 0 } else { LINK_RESERVE_BYTES };
        if self.closed.get() || self.buffered() > self.out_bytes_max.saturating_add(reserve) {
            sometimes!(link_buffer_full, !self.closed.get());
            return false;
        }
        let mut out = self.out.borrow_mut();
        match out.push_message(shard, message) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(peer = %self.peer, %shard, "message not sent: {error}");
                false
            }
        }
    }

    /// Queues the address book. False if there is no room for it.
    pub(super) fn send_members(&self, book: &Book) -> bool {
        if self.closed.get() || self.is_full() {
            return self.closed.get();
        }
        if let Err(error) = self.out.borrow_mut().push_members(book.records()) {
            tracing::error!(peer = %self.peer, "the address book was not sent: {error}");
        }
        true
    }

    /// Gives back the memory of a buffer that was long and is empty now.
    pub(super) fn give_back(&self) {
        self.out.borrow_mut().give_back();
    }

    /// Bytes that wait to be sent.
    pub(crate) fn buffered(&self) -> usize {
        self.out.borrow().bytes()
    }

    fn is_full(&self) -> bool {
        self.buffered() > self.out_bytes_max
    }

    /// Lets the writer send what was queued in this turn. Called once a turn.
    pub(crate) fn flush(&self) {
        if self.out.borrow().bytes() > 0 {
            self.work.set();
        }
    }

    /// Lets the peer hear from this core. A peer that takes nothing has nothing more piled up for it.
    pub(crate) fn send_pulse(&self, pulse: &Pulse) {
        if self.is_closed() || self.is_full() {
            return sometimes!(pulse_withheld);
        }
        if let Err(error) = self.out.borrow_mut().push_pulse(pulse) {
            tracing::error!(peer = %self.peer, "no pulse sent: {error}");
        }
        self.flush();
    }

    /// Ends a dead link. Called every tick.
    pub(crate) fn watch(&self, now: Duration, silence_max: Duration) {
        if now.saturating_sub(self.heard_at.get()) > silence_max {
            sometimes!(link_silent);
            tracing::warn!(peer = %self.peer, "nothing heard, closing the connection");
            self.close();
        }
    }

    /// Ends the connection; its tasks end soon after, also if the peer takes nothing any more.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.work.set();
        self.cut.set();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

/// Runs an established link until it ends. `received` are bytes that came along with the handshake.
pub(crate) async fn run<E: Env>(
    env: E,
    inbox: Rc<Inbox>,
    link: Rc<Link>,
    (reader, writer): (E::Reader, E::Writer),
    received: BytesMut,
) {
    inbox.push(Event::LinkUp(link.clone()));
    let reason = {
        let receiving = std::pin::pin!(receive(&env, &inbox, &link, reader, received));
        let sending = std::pin::pin!(send(&link, writer));
        match select(receiving, sending).await {
            Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
        }
    };
    tracing::info!(peer = %link.peer, reason, "peer connection closed");
    link.close();
    inbox.push(Event::LinkDown(link));
}

async fn receive<E: Env>(
    env: &E,
    inbox: &Inbox,
    link: &Rc<Link>,
    mut reader: E::Reader,
    mut buf: BytesMut,
) -> String {
    let mut decoder = FrameDecoder::new();
    loop {
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) => {
                    link.frames_in.set(link.frames_in.get() + 1);
                    if let Some(reason) = accept(inbox, link, frame).await {
                        return reason;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    sometimes!(frame_bad);
                    return format!("bad frame: {error}");
                }
            }
        }
        let missing = decoder.missing(&buf).max(inbox.limits.receive_room_bytes_min);
        if buf.capacity() - buf.len() < missing {
            // The old chunk lives on as long as an entry that lies in it: use it up first.
            buf.reserve(missing.max(inbox.limits.receive_chunk_bytes));
        }
        match reader.read(&mut buf).await {
            Ok(0) => {
                sometimes!(frame_bad, !buf.is_empty());
                return "closed by the peer".to_owned();
            }
            Ok(_) => link.heard_at.set(env.now()),
            Err(error) => return error.to_string(),
        }
    }
}

async fn accept(inbox: &Inbox, link: &Rc<Link>, frame: Frame) -> Option<String> {
    match frame {
        Frame::Raft { shard, message } => inbox.deliver(link, shard, message).await,
        Frame::Members(records) => {
            if !inbox.hear_members(records) {
                return Some("more news of members than can be stored".to_owned());
            }
        }
        Frame::Pulse(pulse) => link.pulse.set(Some((pulse, link.heard_at.get()))),
        Frame::Hello(_)
        | Frame::HelloReply(_)
        | Frame::Introduction(_)
        | Frame::SnapshotHello(_)
        | Frame::SnapshotHelloReply(_) => {
            return Some("a greeting on an open link".to_owned());
        }
    }
    None
}

async fn send<W: StreamWriter>(link: &Link, mut writer: W) -> String {
    let mut bufs: Vec<Bytes> = Vec::new();
    while !link.is_closed() {
        link.out.borrow_mut().take(&mut bufs);
        if bufs.is_empty() {
            link.work.wait().await;
            continue;
        }
        // A peer that is gone takes nothing, and TCP needs minutes to say so.
        let written = {
            let writing = std::pin::pin!(writer.write_all(&mut bufs));
            match select(writing, std::pin::pin!(link.cut.wait())).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => break,
            }
        };
        if let Err(error) = written {
            return error.to_string();
        }
        bufs.clear();
    }
    writer.shutdown();
    "closed here".to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;

    use futures_util::FutureExt;

    use super::*;
    use crate::limits::LINK_BUFFER_BYTES_MAX;
    use crate::raft::{Append, Entry, EntryKind, HeartbeatReply, Standing};
    use crate::{LogIndex, Term};

    /// A peer whose host is gone: nothing is taken, nothing fails.
    struct Deaf;

    impl StreamWriter for Deaf {
        async fn write_all(&mut self, _: &mut Vec<Bytes>) -> io::Result<()> {
            std::future::pending().await
        }

        fn shutdown(&mut self) {}
    }

    fn link() -> Link {
        let peer = PeerCore { node: NodeId(2), core: CoreId(0) };
        Link::new(peer, 1, Duration::ZERO, LINK_BUFFER_BYTES_MAX)
    }

    /// Closing did not reach a writer that waited for the peer: the link stayed until TCP gave up.
    #[test]
    fn a_link_whose_peer_takes_nothing_ends_when_it_is_closed() {
        let link = link();
        let message = Message::HeartbeatReply(HeartbeatReply {
            term: Term(1),
            round: 0,
            standing: Standing::Member,
            quiet_ms: 0,
            priority: 0,
        });
        assert!(link.send(ShardId(0), &message));
        let mut sending = std::pin::pin!(send(&link, Deaf));
        assert_eq!(sending.as_mut().now_or_never(), None);
        link.watch(Duration::from_secs(10), Duration::from_secs(1));
        assert_eq!(sending.now_or_never().as_deref(), Some("closed here"));
    }

    /// With a full buffer, the shards whose turn comes last lost every heartbeat.
    #[test]
    fn a_link_full_of_entries_still_carries_what_has_none() {
        let link = link();
        let entry = Entry {
            term: Term(1),
            index: LogIndex(1),
            kind: EntryKind::Normal,
            payload: vec![0; crate::limits::PAYLOAD_BYTES_MAX].into(),
        };
        let append = Message::Append(Append {
            term: Term(1),
            prev_index: LogIndex(0),
            prev_term: Term(0),
            commit: LogIndex(0),
            entries: vec![entry],
        });
        while link.send(ShardId(0), &append) {}
        let answer = Message::HeartbeatReply(HeartbeatReply {
            term: Term(1),
            round: 0,
            standing: Standing::Member,
            quiet_ms: 0,
            priority: 0,
        });
        let mut answers = 0;
        while link.send(ShardId(1), &answer) {
            answers += 1;
        }
        assert!(answers > 1000, "{answers}");
        let most = LINK_BUFFER_BYTES_MAX + LINK_RESERVE_BYTES + 1000;
        assert!(link.buffered() <= most, "{}", link.buffered());
    }

    #[test]
    fn a_peer_that_reads_nothing_is_sent_a_bounded_number_of_pulses() {
        let link = link();
        for _ in 0..=LINK_BUFFER_BYTES_MAX / crate::wire::HEADER_BYTES + 1000 {
            link.send_pulse(&Pulse::default());
        }
        assert!(link.buffered() <= LINK_BUFFER_BYTES_MAX + 2 * crate::wire::HEADER_BYTES);
    }
}
