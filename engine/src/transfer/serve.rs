//! The sender's side: one task for each connection, which reads chunks ahead of what it sends.
//!
//! # States of a connection
//! Nothing asked (for at most [`idle_max`](ServeLimits::idle_max)); then, for each request in the order of
//! arrival: *reading* (up to [`chunks_read_ahead`](ServeLimits::chunks_read_ahead) at a time), *ready*,
//! *sending*. A chunk goes from its file to the socket in the buffer it was read into.
//!
//! # Failure cases
//!
//! | found | answer |
//! |---|---|
//! | too many connections | `Busy`, and the end |
//! | a file that can't be opened | `Busy`; the puller comes again |
//! | no such snapshot or chunk | `Unknown`; the puller decides |
//! | a chunk that can't be read as it was written | `Damaged`; it is never sent |
//! | a header that is not valid | the end: what follows can't be told |
//! | a puller that takes nothing, or asks nothing, for too long | the end |
//!
//! # Memory
//! Of one connection: chunks read ahead times the largest chunk, 16 MiB; its requests; a manifest while
//! that is sent.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_wal::Disk;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{FuturesOrdered, StreamExt};

use super::budget::TransferBudget;
use super::limits::{
    CHUNKS_READ_AHEAD_MAX, CONNECTIONS_SERVED_MAX, IDLE_MAX, PIECE_BYTES, PIN_GRACE, SILENCE_MAX,
};
use super::message::{Answer, Part, Request, Status};
use super::requests::Requests;
use super::stream::{Incoming, beside, within};
use crate::ShardId;
use crate::env::{Env, StreamReader, StreamWriter};
use crate::snapshot::{Pin, ReadError, Reader, SnapshotId, SnapshotStore};

/// What a service is bounded by.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// See [`CONNECTIONS_SERVED_MAX`].
    pub connections_max: usize,
    /// See [`CHUNKS_READ_AHEAD_MAX`]; at least 1.
    pub chunks_read_ahead: usize,
    /// See [`SILENCE_MAX`].
    pub silence_max: Duration,
    /// See [`IDLE_MAX`].
    pub idle_max: Duration,
    /// See [`PIN_GRACE`].
    pub pin_grace: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_SERVED_MAX,
            chunks_read_ahead: CHUNKS_READ_AHEAD_MAX,
            silence_max: SILENCE_MAX,
            idle_max: IDLE_MAX,
            pin_grace: PIN_GRACE,
        }
    }
}

/// What a service has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeCounters {
    /// Connections that were served or are.
    pub connections: u64,
    /// Connections that were told to come again later.
    pub refused: u64,
    /// Chunks that were sent.
    pub chunks: u64,
    /// Bytes of chunks and manifests that were sent.
    pub bytes: u64,
    /// Chunks that could not be read as they were written.
    pub damaged: u64,
}

/// Gives the snapshots of one core to peers that ask for them.
pub struct SnapshotService<D: Disk> {
    store: SnapshotStore<D>,
    budget: Rc<TransferBudget>,
    limits: ServeLimits,
    serving: Cell<usize>,
    counters: Cell<ServeCounters>,
    /// Snapshots that are kept for a puller to come back, and until when: of each shard the last one that was
    /// served, or a leader that takes them often would fill its disk.
    lingering: RefCell<BTreeMap<ShardId, (Pin, Duration)>>,
}

/// A snapshot that a connection has asked for.
struct Held<D: Disk> {
    id: SnapshotId,
    /// Keeps its files while the connection asks for them.
    reader: Reader<D>,
}

/// An answer, and its body.
type Outgoing = (Answer, Bytes);

impl<D: Disk> SnapshotService<D> {
    /// A service for the snapshots in `store`.
    #[must_use]
    pub fn new(
        store: SnapshotStore<D>,
        budget: Rc<TransferBudget>,
        limits: ServeLimits,
    ) -> Rc<Self> {
        Rc::new(Self {
            store,
            budget,
            limits,
            serving: Cell::new(0),
            counters: Cell::default(),
            lingering: RefCell::default(),
        })
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ServeCounters {
        self.counters.get()
    }

    /// Connections that are served now.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.serving.get()
    }

    fn count(&self, change: impl FnOnce(&mut ServeCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Answers the requests of one connection until it ends. `early` are bytes that came along with the
    /// greeting, `from` is the peer, for messages.
    pub async fn serve<E, R, W>(
        self: Rc<Self>,
        env: E,
        (reader, mut writer): (R, W),
        early: BytesMut,
        from: String,
    ) where
        E: Env<Disk = D>,
        R: StreamReader,
        W: StreamWriter,
    {
        let Some(_seat) = Seat::take(&self) else {
            sometimes!(transfer_served_too_many);
            self.count(|counters| counters.refused += 1);
            tracing::info!(from, "too many pull snapshots here, told to come again later");
            let busy = Answer::without(Part::Manifest, Status::Busy).encode();
            let mut bufs = vec![Bytes::copy_from_slice(&busy)];
            // A peer that does not wait for it comes again just the same.
            let _ = within(&env, self.limits.silence_max, writer.write_all(&mut bufs)).await;
            return writer.shutdown();
        };
        self.count(|counters| counters.connections += 1);
        let requests = Requests::default();
        let mut incoming = Incoming::new(reader, early);
        let mut held = None;
        let reason = {
            let receiving = pin!(requests.receive(&mut incoming));
            let answering = pin!(self.answer_all(&env, &requests, &mut writer, &mut held));
            match select(receiving, answering).await {
                Either::Left((end, _)) => end.to_string(),
                Either::Right((reason, _)) => reason,
            }
        };
        tracing::debug!(from, reason, "end of a connection that pulled snapshots");
        writer.shutdown();
        if let Some(held) = held.take() {
            self.linger(&env, held.id);
        }
    }

    /// Answers requests in order, until something is wrong; returns what.
    async fn answer_all<E, W>(
        self: &Rc<Self>,
        env: &E,
        requests: &Requests,
        writer: &mut W,
        held: &mut Option<Rc<Held<D>>>,
    ) -> String
    where
        E: Env<Disk = D>,
        W: StreamWriter,
    {
        let mut reads: FuturesOrdered<LocalBoxFuture<'_, Outgoing>> = FuturesOrdered::new();
        let mut ready: VecDeque<Outgoing> = VecDeque::new();
        let ahead = self.limits.chunks_read_ahead.max(1);
        loop {
            while reads.len() + ready.len() < ahead
                && let Some(request) = requests.pop()
            {
                match self.hold(env, request.snapshot, held).await {
                    Ok(held) => reads.push_back(Box::pin(self.read(held, request))),
                    Err(status) => {
                        let without = Answer::without(request.part, status);
                        reads.push_back(Box::pin(async move { (without, Bytes::new()) }));
                    }
                }
            }
            if ready.is_empty() && reads.is_empty() {
                let asked = poll_fn(|cx| requests.poll_any(cx));
                if within(env, self.limits.idle_max, asked).await.is_none() {
                    sometimes!(transfer_connection_idle);
                    return "nothing asked for a long time".to_owned();
                }
                continue;
            }
            let room = reads.len() < ahead;
            let next = match ready.pop_front() {
                Some(next) => Some(next),
                None => {
                    poll_fn(|cx| match reads.poll_next_unpin(cx) {
                        Poll::Ready(next) => Poll::Ready(next),
                        // Another read may begin meanwhile.
                        Poll::Pending if room => requests.poll_any(cx).map(|()| None),
                        Poll::Pending => Poll::Pending,
                    })
                    .await
                }
            };
            let Some((answer, body)) = next else { continue };
            let bytes = body.len() as u64;
            if let Err(error) = self.send(env, writer, answer, body, &mut reads, &mut ready).await {
                return error.to_string();
            }
            self.count(|counters| {
                counters.bytes += bytes;
                counters.chunks += u64::from(bytes > 0 && matches!(answer.part, Part::Chunk(_)));
            });
        }
    }

    /// The snapshot `id`, pinned, or what is to be answered without it. One at a time for each connection.
    async fn hold<E: Env<Disk = D>>(
        self: &Rc<Self>,
        env: &E,
        id: SnapshotId,
        held: &mut Option<Rc<Held<D>>>,
    ) -> Result<Rc<Held<D>>, Status> {
        if let Some(known) = held.as_ref().filter(|known| known.id == id) {
            return Ok(known.clone());
        }
        let reader = match self.store.reader(id).await {
            Ok(reader) => reader,
            Err(ReadError::Missing { .. }) => return Err(Status::Unknown),
            Err(error) => {
                // A lack of descriptors passes; a file that is gone is found at the next start.
                tracing::warn!("cannot serve {id}: {error}");
                return Err(Status::Busy);
            }
        };
        let new = Rc::new(Held { id, reader });
        if let Some(old) = held.replace(new.clone()) {
            self.linger(env, old.id);
        }
        Ok(new)
    }

    /// Reads what is asked for.
    async fn read(&self, held: Rc<Held<D>>, request: Request) -> Outgoing {
        let part = request.part;
        let number = match part {
            Part::Manifest => {
                // The log's id is of this core's files; over there it means nothing.
                let body = Bytes::from(held.reader.manifest().encode(&[0; 16]));
                return (Answer::with_body(part, &body, crc32fast::hash(&body)), body);
            }
            Part::Chunk(number) => number,
        };
        let chunk = held.reader.manifest().chunks.get(number as usize).copied();
        match (held.reader.chunk(number).await, chunk) {
            (Ok(buf), Some(chunk)) => {
                let body = Bytes::from_owner(buf).slice(..chunk.bytes as usize);
                (Answer::with_body(part, &body, chunk.checksum), body)
            }
            (Err(ReadError::Missing { .. } | ReadError::Unknown { .. }), _) | (_, None) => {
                (Answer::without(part, Status::Unknown), Bytes::new())
            }
            (Err(error), Some(_)) => {
                sometimes!(transfer_chunk_damaged_at_source);
                tracing::error!("{error}");
                self.store.note_rot(held.id);
                self.count(|counters| counters.damaged += 1);
                (Answer::without(part, Status::Damaged), Bytes::new())
            }
        }
    }

    /// Sends an answer piece by piece, while reads go on.
    async fn send<E: Env, W: StreamWriter>(
        &self,
        env: &E,
        writer: &mut W,
        answer: Answer,
        mut body: Bytes,
        reads: &mut FuturesOrdered<LocalBoxFuture<'_, Outgoing>>,
        ready: &mut VecDeque<Outgoing>,
    ) -> io::Result<()> {
        let mut bufs = vec![Bytes::copy_from_slice(&answer.encode())];
        loop {
            let piece = body.split_to(body.len().min(PIECE_BYTES));
            beside(reads, ready, self.budget.take(env, piece.len())).await;
            bufs.push(piece);
            let writing = within(env, self.limits.silence_max, writer.write_all(&mut bufs));
            match beside(reads, ready, writing).await {
                Some(written) => written?,
                None => {
                    sometimes!(transfer_puller_takes_nothing);
                    let text = "the peer took nothing for a long time";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
            if body.is_empty() {
                return Ok(());
            }
            bufs.clear();
            beside(reads, ready, env.yield_now()).await;
        }
    }

    /// Keeps a snapshot for a while after a connection that asked for it.
    fn linger<E: Env<Disk = D>>(self: &Rc<Self>, env: &E, id: SnapshotId) {
        let Some(pin) = self.store.pin(id) else { return };
        let until = env.now().saturating_add(self.limits.pin_grace);
        let before = self.lingering.borrow_mut().insert(id.shard, (pin, until));
        match before {
            None => env.spawn(expire(env.clone(), self.clone(), id.shard)),
            Some((other, _)) if other.id() != id => {
                drop(other);
                let service = self.clone();
                env.spawn(async move { service.remove_older(id.shard).await });
            }
            Some(_) => {}
        }
    }

    /// Removes what was kept of a shard and is outdated.
    async fn remove_older(&self, shard: ShardId) {
        if let Err(error) = self.store.remove_older(shard).await {
            tracing::warn!(%shard, "a snapshot that was served could not be removed: {error}");
        }
    }
}

/// Ends the lingering of a shard's snapshot when its time has come, and removes it if it is outdated by then.
async fn expire<E: Env>(env: E, service: Rc<SnapshotService<E::Disk>>, shard: ShardId) {
    loop {
        let until = service.lingering.borrow().get(&shard).map(|(_, until)| *until);
        let left = until.unwrap_or_default().saturating_sub(env.now());
        if left.is_zero() {
            break;
        }
        env.sleep(left).await;
    }
    let expired = service.lingering.borrow_mut().remove(&shard);
    drop(expired);
    service.remove_older(shard).await;
}

/// A place among the connections that are served.
struct Seat<D: Disk>(Rc<SnapshotService<D>>);

impl<D: Disk> Seat<D> {
    fn take(service: &Rc<SnapshotService<D>>) -> Option<Self> {
        let serving = service.serving.get();
        if serving >= service.limits.connections_max {
            return None;
        }
        service.serving.set(serving + 1);
        Some(Self(service.clone()))
    }
}

impl<D: Disk> Drop for Seat<D> {
    fn drop(&mut self) {
        self.0.serving.set(self.0.serving.get() - 1);
    }
}
