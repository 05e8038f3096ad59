//! The receiver's side: fetches a snapshot into the store, over as many connections as it takes.
//!
//! # States
//!
//! ```text
//! connect --> manifest --> chunks --> finish --> done
//!    ^           |            |
//!    +--pause----+------------+   (connection broken, nothing heard, a bad header, busy)
//! ```
//! Every connection begins with the manifest: if it is the one that was being received, only what is
//! missing is asked for; if the sender has another one under the same id by now, the reception begins
//! anew. What was received before a restart of this node is there too: the store has verified it.
//!
//! # Failure cases
//!
//! | found | what is done |
//! |---|---|
//! | no connection, end of the stream, nothing heard, a bad header, busy | pause (growing, jittered), connect again, ask for what is missing |
//! | the same, several times without a chunk in between | given up: the sender may be gone for good, and another one leads and offers |
//! | a chunk whose bytes are wrong, or that the sender can't read | it alone is asked for again, a few times; then the snapshot is given up, naming the chunk |
//! | a manifest that is damaged or of another snapshot | the same |
//! | the sender does not have the snapshot (any more) | given up: a newer one will be offered |
//! | our disk fails or is full | given up; what is there stays for the next time |
//! | told to give up | given up at the next wait |
//!
//! Whatever fails, the snapshot before is not touched.
//!
//! # Memory
//! The writes in flight and the chunk that is received, each the largest chunk of the manifest: at most
//! 10 MiB; the manifest; 4 bytes for each missing chunk.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_wal::{AlignedBuf, Disk};
use futures_util::future::{Either, select};
use thiserror::Error;

use super::budget::TransferBudget;
use super::cancel::Cancel;
use super::limits::{
    CHUNK_TRIES_MAX, CONNECTIONS_IN_VAIN_MAX, PIECE_BYTES, RECONNECT_PAUSE_MAX,
    RECONNECT_PAUSE_MIN, REQUESTS_OUTSTANDING_DEFAULT, REQUESTS_OUTSTANDING_MAX, SILENCE_MAX,
    SYNC_EVERY_BYTES,
};
use super::message::{ANSWER_BYTES, Answer, MessageError, Part, REQUEST_BYTES, Request, Status};
use super::stream::{Incoming, within};
use super::window::{Verdict, Window};
use crate::env::{Env, StreamReader, StreamWriter};
use crate::snapshot::{
    ChunkError, Manifest, ManifestError, Receiver, SnapshotId, SnapshotStore, WriteError,
};

/// What one pull is bounded by.
#[derive(Clone, Copy, Debug)]
pub struct PullLimits {
    /// Requests outstanding: the sender's credit. 1 to [`REQUESTS_OUTSTANDING_MAX`].
    pub requests_outstanding: usize,
    /// See [`SYNC_EVERY_BYTES`].
    pub sync_every_bytes: u64,
    /// See [`CHUNK_TRIES_MAX`]; also for the manifest.
    pub chunk_tries_max: u32,
    /// See [`CONNECTIONS_IN_VAIN_MAX`].
    pub connections_in_vain_max: u32,
    /// See [`SILENCE_MAX`].
    pub silence_max: Duration,
    /// See [`RECONNECT_PAUSE_MIN`].
    pub pause_min: Duration,
    /// See [`RECONNECT_PAUSE_MAX`].
    pub pause_max: Duration,
}

impl Default for PullLimits {
    fn default() -> Self {
        Self {
            requests_outstanding: REQUESTS_OUTSTANDING_DEFAULT,
            sync_every_bytes: SYNC_EVERY_BYTES,
            chunk_tries_max: CHUNK_TRIES_MAX,
            connections_in_vain_max: CONNECTIONS_IN_VAIN_MAX,
            silence_max: SILENCE_MAX,
            pause_min: RECONNECT_PAUSE_MIN,
            pause_max: RECONNECT_PAUSE_MAX,
        }
    }
}

/// How far a pull is. The caller may look at any time.
#[derive(Debug, Default)]
pub struct PullProgress {
    /// Bytes of the whole snapshot; 0 until its manifest is there.
    pub bytes_total: Cell<u64>,
    /// Bytes of chunks that were taken in by this pull.
    pub bytes: Cell<u64>,
    /// Chunks of the whole snapshot.
    pub chunks_total: Cell<u64>,
    /// Chunks that are there, those of an earlier reception included.
    pub chunks: Cell<u64>,
    /// Chunks that were no good and were asked for again.
    pub retries: Cell<u64>,
    /// Connections that broke and after which the pull went on.
    pub reconnects: Cell<u64>,
    /// How often a reception was gone on with that had chunks already.
    pub resumes: Cell<u64>,
}

/// Why no connection came about; it will be tried again.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer does not want it, for now or for good.
    #[error("refused: {0}")]
    Refused(String),
}

/// Why a snapshot was given up.
#[derive(Debug, Error)]
pub enum PullError {
    /// It was told to.
    #[error("pulling {id} was cancelled")]
    Cancelled {
        /// Which snapshot.
        id: SnapshotId,
    },
    /// The sender does not have it (any more): a newer one will be offered.
    #[error("the sender does not have {id}")]
    Unknown {
        /// Which snapshot.
        id: SnapshotId,
    },
    /// The sender can't be reached any more, or has nothing to give.
    #[error("{id} is given up: {connections} connections in a row brought nothing: {cause}")]
    Unreachable {
        /// Which snapshot.
        id: SnapshotId,
        /// How many.
        connections: u32,
        /// How the last one ended.
        cause: String,
    },
    /// One chunk could not be had as the manifest says it is.
    #[error("{id} is given up: {tries} times, chunk {number} was no good: {cause}")]
    Chunk {
        /// Which snapshot.
        id: SnapshotId,
        /// Which chunk.
        number: u32,
        /// How often it was asked for.
        tries: u32,
        /// What was wrong the last time.
        cause: String,
    },
    /// The manifest could not be had.
    #[error("{id} is given up: {tries} times, its manifest was no good: {cause}")]
    Manifest {
        /// Which snapshot.
        id: SnapshotId,
        /// How often it was asked for.
        tries: u32,
        /// What was wrong the last time.
        cause: ManifestFlaw,
    },
    /// It could not be stored here.
    #[error(transparent)]
    Store(#[from] WriteError),
}

/// What is wrong with a manifest that was received.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ManifestFlaw {
    /// Its bytes are not those that the sender read.
    #[error("its checksum is {found:#010x} instead of {expected:#010x}")]
    Checksum {
        /// Of what was received.
        found: u32,
        /// What the header of the answer says.
        expected: u32,
    },
    /// They are no manifest.
    #[error("{0}")]
    Format(#[from] ManifestError),
    /// It is that of another snapshot.
    #[error("it is that of {found}")]
    Other {
        /// Which.
        found: SnapshotId,
    },
}

/// Why a connection ended before its time.
#[derive(Debug, Error)]
enum Broken {
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nothing heard within {} ms", .0.as_millis())]
    Silence(Duration),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("an answer that was not asked for: {0:?}")]
    OutOfOrder(Answer),
    #[error("chunk {0} is another one than the manifest says")]
    OtherManifest(u32),
    #[error("the sender is busy")]
    Busy,
    #[error("bad manifest: {0}")]
    Manifest(ManifestFlaw),
}

/// How a connection ended, if not with all chunks.
enum Ended {
    /// Connect again.
    Broken(Broken),
    /// For good.
    GaveUp(PullError),
}

impl<T: Into<Broken>> From<T> for Ended {
    fn from(broken: T) -> Self {
        Self::Broken(broken.into())
    }
}

/// What a pull needs besides a way to connect.
pub struct Pull<'a, E: Env> {
    /// The core's environment.
    pub env: &'a E,
    /// Where the snapshot goes.
    pub store: &'a SnapshotStore<E::Disk>,
    /// Which snapshot.
    pub id: SnapshotId,
    /// What it is bounded by.
    pub limits: PullLimits,
    /// The core's budget of bandwidth.
    pub budget: &'a TransferBudget,
    /// Where to note how far it is.
    pub progress: &'a PullProgress,
    /// Tells it to give up.
    pub cancel: &'a Cancel,
}

/// What a pull has so far.
struct Reception<D: Disk> {
    receiver: Receiver<D>,
    window: Window,
    bytes_unsynced: u64,
}

impl<E: Env> Pull<'_, E> {
    /// Fetches the snapshot and makes it durable. `connect` opens a connection that was greeted; it is
    /// called again whenever one has broken.
    ///
    /// # Errors
    /// [`PullError`] when the snapshot was given up. What was received stays in the store, for the next
    /// attempt to go on with.
    pub async fn run<R, W, C>(&self, mut connect: C) -> Result<Rc<Manifest>, PullError>
    where
        R: StreamReader,
        W: StreamWriter,
        C: AsyncFnMut() -> Result<(R, W, BytesMut), ConnectError>,
    {
        let mut reception = None;
        let result = {
            let pulling = pin!(self.pull_all(&mut connect, &mut reception));
            match select(pulling, pin!(self.cancel.cancelled())).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => {
                    sometimes!(transfer_cancelled);
                    Err(PullError::Cancelled { id: self.id })
                }
            }
        };
        match (result, reception) {
            (Ok(Some(manifest)), _) => Ok(manifest),
            (Ok(None), Some(Reception { receiver, .. })) => Ok(receiver.finish().await?),
            (Ok(None), None) => unreachable!("all chunks of {} without a manifest", self.id),
            (Err(error), reception) => {
                if let Some(Reception { mut receiver, .. }) = reception {
                    // Best effort: what is not durable now is asked for again.
                    let _ = receiver.sync().await;
                }
                Err(error)
            }
        }
    }

    /// Connects until all chunks are stored. Gives the manifest if the snapshot was there all along.
    async fn pull_all<R, W, C>(
        &self,
        connect: &mut C,
        reception: &mut Option<Reception<E::Disk>>,
    ) -> Result<Option<Rc<Manifest>>, PullError>
    where
        R: StreamReader,
        W: StreamWriter,
        C: AsyncFnMut() -> Result<(R, W, BytesMut), ConnectError>,
    {
        let (mut attempts, mut in_vain, mut bad_manifests) = (0, 0, 0);
        let mut reported = String::new();
        loop {
            let chunks_before = self.progress.chunks.get();
            let broken = match self.connection(connect, reception).await {
                Ok(there) => return Ok(there),
                Err(Ended::GaveUp(error)) => return Err(error),
                Err(Ended::Broken(broken)) => broken,
            };
            if let Broken::Manifest(cause) = &broken {
                bad_manifests += 1;
                if bad_manifests >= self.limits.chunk_tries_max {
                    let (id, tries) = (self.id, bad_manifests);
                    return Err(PullError::Manifest { id, tries, cause: cause.clone() });
                }
            }
            if let Some(reception) = reception {
                reception.window.broken_off();
            }
            add(&self.progress.reconnects, 1);
            if self.progress.chunks.get() > chunks_before {
                attempts = 0;
            }
            let text = broken.to_string();
            in_vain = match broken {
                Broken::Busy => 0,
                _ if self.progress.chunks.get() > chunks_before => 0,
                _ => in_vain + 1,
            };
            if in_vain >= self.limits.connections_in_vain_max {
                sometimes!(transfer_unreachable);
                let (id, connections) = (self.id, in_vain);
                return Err(PullError::Unreachable { id, connections, cause: text });
            }
            if text != reported {
                tracing::info!("pulling {}: {text}; connecting again", self.id);
                reported = text;
            }
            self.env.sleep(self.pause(attempts)).await;
            attempts += 1;
        }
    }

    /// How long to wait before the next connection.
    fn pause(&self, attempts: u32) -> Duration {
        pause(self.limits.pause_min, self.limits.pause_max, attempts, self.env.random())
    }

    /// Pulls over one connection.
    async fn connection<R, W, C>(
        &self,
        connect: &mut C,
        reception: &mut Option<Reception<E::Disk>>,
    ) -> Result<Option<Rc<Manifest>>, Ended>
    where
        R: StreamReader,
        W: StreamWriter,
        C: AsyncFnMut() -> Result<(R, W, BytesMut), ConnectError>,
    {
        let (reader, mut writer, early) = connect().await?;
        let mut incoming = Incoming::new(reader, early);
        let result = self.over(&mut incoming, &mut writer, reception).await;
        writer.shutdown();
        result
    }

    async fn over<R: StreamReader, W: StreamWriter>(
        &self,
        incoming: &mut Incoming<R>,
        writer: &mut W,
        reception: &mut Option<Reception<E::Disk>>,
    ) -> Result<Option<Rc<Manifest>>, Ended> {
        let mut head = AlignedBuf::zeroed(ANSWER_BYTES);
        let manifest = self.manifest(incoming, writer, &mut head).await?;
        if let Some(there) = self.begin(manifest, reception).await? {
            return Ok(Some(there));
        }
        let Some(reception) = reception else { return Ok(None) };
        loop {
            self.ask(writer, &mut reception.window).await?;
            if reception.window.is_done() {
                return Ok(None);
            }
            let answer = self.answer(incoming, &mut head).await?;
            self.take_in(answer, incoming, reception).await?;
        }
    }

    /// Asks for the manifest and checks it.
    async fn manifest<R: StreamReader, W: StreamWriter>(
        &self,
        incoming: &mut Incoming<R>,
        writer: &mut W,
        head: &mut AlignedBuf,
    ) -> Result<Manifest, Ended> {
        let request = Request { snapshot: self.id, part: Part::Manifest };
        self.send(writer, Bytes::copy_from_slice(&request.encode())).await?;
        let answer = self.answer(incoming, head).await?;
        match (answer.part, answer.status) {
            (_, Status::Busy) => return Err(Broken::Busy.into()),
            (Part::Manifest, Status::Ok) => {}
            (Part::Manifest, Status::Unknown) => {
                sometimes!(transfer_snapshot_unknown);
                return Err(Ended::GaveUp(PullError::Unknown { id: self.id }));
            }
            _ => return Err(Broken::OutOfOrder(answer).into()),
        }
        let len = answer.bytes as usize;
        let body = self.body(incoming, AlignedBuf::zeroed(len), len).await?;
        let (found, expected) = (crc32fast::hash(&body[..len]), answer.checksum);
        if found != expected {
            let flaw = ManifestFlaw::Checksum { found, expected };
            return Err(Broken::Manifest(flaw).into());
        }
        match Manifest::decode(&body[..len]) {
            Ok((manifest, _)) if manifest.id == self.id => Ok(manifest),
            Ok((manifest, _)) => {
                Err(Broken::Manifest(ManifestFlaw::Other { found: manifest.id }).into())
            }
            Err(error) => Err(Broken::Manifest(error.into()).into()),
        }
    }

    /// Begins the reception of `manifest`, or goes on with it.
    async fn begin(
        &self,
        manifest: Manifest,
        reception: &mut Option<Reception<E::Disk>>,
    ) -> Result<Option<Rc<Manifest>>, Ended> {
        if reception.as_ref().is_some_and(|known| **known.receiver.manifest() == manifest) {
            return Ok(None);
        }
        if let Some(old) = reception.take() {
            sometimes!(transfer_manifest_changed);
            tracing::warn!("the sender has another {} by now; beginning anew", self.id);
            drop(old);
        }
        let receiver = match self.store.receive(manifest).await {
            Ok(receiver) => receiver,
            Err(error) => {
                let there = self.store.manifest(self.id).map(Some);
                return match error {
                    WriteError::Exists { .. } => there.ok_or(Ended::GaveUp(error.into())),
                    _ => Err(Ended::GaveUp(error.into())),
                };
            }
        };
        let manifest = receiver.manifest().clone();
        let there = manifest.chunks.len() - receiver.missing_count();
        if there > 0 {
            sometimes!(transfer_resumed_from_disk);
            add(&self.progress.resumes, 1);
            tracing::info!("going on with {}: {there} of its chunks are there", self.id);
        }
        self.progress.chunks.set(there as u64);
        self.progress.chunks_total.set(manifest.chunks.len() as u64);
        self.progress.bytes_total.set(manifest.bytes);
        let credit = self.limits.requests_outstanding.min(REQUESTS_OUTSTANDING_MAX);
        let window = Window::new(receiver.missing(), credit, self.limits.chunk_tries_max);
        *reception = Some(Reception { receiver, window, bytes_unsynced: 0 });
        Ok(None)
    }

    /// Sends as many requests as the window allows, in one write.
    async fn ask<W: StreamWriter>(&self, writer: &mut W, window: &mut Window) -> Result<(), Ended> {
        let mut out = BytesMut::new();
        while let Some(number) = window.ask() {
            out.reserve(REQUEST_BYTES);
            out.put_slice(&Request { snapshot: self.id, part: Part::Chunk(number) }.encode());
        }
        if out.is_empty() { Ok(()) } else { self.send(writer, out.freeze()).await }
    }

    async fn send<W: StreamWriter>(&self, writer: &mut W, bytes: Bytes) -> Result<(), Ended> {
        let mut bufs = vec![bytes];
        match within(self.env, self.limits.silence_max, writer.write_all(&mut bufs)).await {
            Some(written) => Ok(written?),
            None => Err(Broken::Silence(self.limits.silence_max).into()),
        }
    }

    /// Receives the header of an answer.
    async fn answer<R: StreamReader>(
        &self,
        incoming: &mut Incoming<R>,
        head: &mut AlignedBuf,
    ) -> Result<Answer, Ended> {
        let buf = std::mem::replace(head, AlignedBuf::zeroed(0));
        *head = self.piece(incoming, buf, 0, ANSWER_BYTES).await?;
        let bytes = head.first_chunk().expect("a block holds a header");
        Ok(Answer::decode(bytes)?)
    }

    /// Receives a body of `len` bytes into the start of `buf`.
    async fn body<R: StreamReader>(
        &self,
        incoming: &mut Incoming<R>,
        mut buf: AlignedBuf,
        len: usize,
    ) -> Result<AlignedBuf, Ended> {
        let mut at = 0;
        while at < len {
            let step = PIECE_BYTES.min(len - at);
            self.budget.take(self.env, step).await;
            buf = self.piece(incoming, buf, at, step).await?;
            at += step;
            self.env.yield_now().await;
        }
        Ok(buf)
    }

    async fn piece<R: StreamReader>(
        &self,
        incoming: &mut Incoming<R>,
        buf: AlignedBuf,
        at: usize,
        len: usize,
    ) -> Result<AlignedBuf, Ended> {
        match within(self.env, self.limits.silence_max, incoming.exactly(buf, at, len)).await {
            Some((Ok(()), buf)) => Ok(buf),
            Some((Err(error), _)) => Err(error.into()),
            None => {
                sometimes!(transfer_silent);
                Err(Broken::Silence(self.limits.silence_max).into())
            }
        }
    }

    /// Takes in the answer for a chunk.
    async fn take_in<R: StreamReader>(
        &self,
        answer: Answer,
        incoming: &mut Incoming<R>,
        reception: &mut Reception<E::Disk>,
    ) -> Result<(), Ended> {
        let Reception { receiver, window, bytes_unsynced } = reception;
        let Part::Chunk(number) = answer.part else {
            return Err(Broken::OutOfOrder(answer).into());
        };
        if window.answered(number).is_err() {
            return Err(Broken::OutOfOrder(answer).into());
        }
        match answer.status {
            Status::Ok => {}
            Status::Unknown => {
                window.returned(number);
                return Err(Ended::GaveUp(PullError::Unknown { id: self.id }));
            }
            Status::Busy => {
                window.returned(number);
                return Err(Broken::Busy.into());
            }
            Status::Damaged => {
                return self.failed(window, number, "the sender can't read it".to_owned());
            }
        }
        // Asked for by this manifest, so it has that chunk.
        let expected = receiver.manifest().chunks[number as usize];
        if (answer.bytes, answer.checksum) != (expected.bytes, expected.checksum) {
            window.returned(number);
            return Err(Broken::OtherManifest(number).into());
        }
        let len = answer.bytes as usize;
        let buf = receiver.buffer();
        let buf = match self.body(incoming, buf, len).await {
            Ok(buf) => buf,
            Err(ended) => {
                window.returned(number);
                return Err(ended);
            }
        };
        match receiver.put(number, buf, len).await {
            Ok(()) => window.stored(number),
            Err(ChunkError::Write(error)) => {
                window.returned(number);
                return Err(Ended::GaveUp(error.into()));
            }
            Err(error) => return self.failed(window, number, error.to_string()),
        }
        add(&self.progress.bytes, u64::from(answer.bytes));
        add(&self.progress.chunks, 1);
        *bytes_unsynced += u64::from(answer.bytes);
        if *bytes_unsynced >= self.limits.sync_every_bytes {
            *bytes_unsynced = 0;
            receiver.sync().await.map_err(|error| Ended::GaveUp(error.into()))?;
        }
        Ok(())
    }

    /// A chunk is no good: it is asked for again, or the snapshot is given up.
    fn failed(&self, window: &mut Window, number: u32, cause: String) -> Result<(), Ended> {
        match window.failed(number) {
            Verdict::AskAgain => {
                sometimes!(transfer_chunk_asked_again);
                tracing::warn!("chunk {number} of {} is asked for again: {cause}", self.id);
                add(&self.progress.retries, 1);
                Ok(())
            }
            Verdict::GiveUp { tries } => {
                sometimes!(transfer_chunk_given_up);
                let id = self.id;
                Err(Ended::GaveUp(PullError::Chunk { id, number, tries, cause }))
            }
        }
    }
}

/// The pause before a connection: half of what the attempts so far say, and up to half of it at random.
fn pause(min: Duration, max: Duration, attempts: u32, random: u64) -> Duration {
    let base = min.saturating_mul(1 << attempts.min(16)).min(max);
    base / 2 + base.mul_f64((random % 1000) as f64 / 2000.0)
}

fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_are_spread() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
        for attempts in 0..100 {
            let (least, most) = (pause(min, max, attempts, 0), pause(min, max, attempts, 999));
            assert!(least >= min / 2 && most < max && least < most, "{attempts}");
            assert!(pause(min, max, attempts + 1, 0) >= least);
        }
        assert_eq!(pause(min, max, 100, 0), max / 2);
    }
}
