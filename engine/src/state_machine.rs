//! What an embedder supplies: a deterministic state machine for each shard.
//!
//! # Snapshots
//! A log is given up from its beginning once a **snapshot** holds what its entries made of the state. A
//! machine gives one as a stream of chunks ([`SnapshotStream`]), which become files, travel to other nodes,
//! and come back, one by one and as they were filled, through [`StateMachine::restore`]. Three ways, from the
//! simplest:
//!
//! 1. A small state is written to memory as a whole: [`WholeImage`] cuts it into chunks, [`ImageBuffer`] puts
//!    them together again.
//! 2. A large state gives a stream that walks over it while `apply` goes on. Whatever changes before the
//!    stream has passed is put aside for it. The server's key-value store does so.
//! 3. A machine whose new snapshot can be made of the old one and the entries since, without the state, gives a
//!    [`Fold`].
//!
//! A machine that does none of these works, too; its log then grows for ever and is read from the beginning
//! at each start.

mod whole_image;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::hook::LeaderHook;
use crate::snapshot::{ChunkFull, ChunkSink};
use crate::{LogIndex, ShardId, Term};

pub use whole_image::{ImageBuffer, WholeImage, restore_chunks, snapshot_chunks};

/// One committed entry, as it is given to [`StateMachine::apply`].
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Its place in the shard's log; strictly increasing from call to call.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// What was proposed.
    pub payload: &'a Bytes,
}

/// A snapshot could not be taken or restored.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The state machine does not implement snapshots.
    #[error("this state machine does not take snapshots")]
    Unsupported,
    /// The stream gave up, or was replaced by another; the state is as it should be. A later snapshot may
    /// succeed.
    #[error("the snapshot was given up: {0}")]
    Abandoned(String),
    /// Something that can't be split is larger than a chunk.
    #[error("a part of the state does not fit a chunk: {0}")]
    TooLarge(#[from] ChunkFull),
    /// The image is not one this state machine wrote.
    #[error("the snapshot image is damaged: {0}")]
    Damaged(String),
}

/// One step of a restoration; see [`StateMachine::restore`].
#[derive(Clone, Copy, Debug)]
pub enum Restore<'a> {
    /// A snapshot follows: what state there is, and what came of a restoration that did not get to its end,
    /// is obsolete.
    Begin,
    /// The next chunk, as [`SnapshotStream::fill`] left it. Chunks that it left empty do not come.
    Chunk(&'a [u8]),
    /// That was all. The machine checks that the state is whole.
    End,
}

/// A snapshot on its way out of a state machine, chunk by chunk.
///
/// It shows the state **exactly as it was when it was made**, whatever was applied since. It may be dropped
/// half way, and then must cost nothing any more. A state machine has at most one at a time.
pub trait SnapshotStream {
    /// Writes the next chunk into `chunk`, which is empty at the call, and returns whether more is to come.
    ///
    /// It does a **bounded amount of work**, about a millisecond at most, for the shards of a core wait
    /// meanwhile: it ends the chunk when [`ChunkSink::is_full`] says so, and earlier if finding what to
    /// write takes long, even with an empty chunk. What lies in memory for the stream alone is bounded, too.
    ///
    /// # Errors
    /// Any [`SnapshotError`] ends the snapshot; the stream is then dropped.
    fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError>;
}

/// Makes a new snapshot of an old one and the entries since, without the state.
///
/// First `old` is called with each chunk of the old snapshot, then `entry` with each entry after it, in the
/// order of the log, then [`SnapshotStream::fill`] until nothing more comes. Without an old snapshot, `old` is
/// never called. The result must be what [`StateMachine::restore`] makes the same state of as applying those
/// entries did. As with every stream: bounded work in each call, bounded memory; it may be dropped half way.
pub trait Fold: SnapshotStream {
    /// Takes the next chunk of the old snapshot.
    ///
    /// # Errors
    /// Any [`SnapshotError`] ends the fold.
    fn old(&mut self, chunk: &[u8]) -> Result<(), SnapshotError>;

    /// Takes the next entry.
    ///
    /// # Errors
    /// Any [`SnapshotError`] ends the fold.
    fn entry(&mut self, entry: Apply<'_>) -> Result<(), SnapshotError>;
}

/// The application's state for one shard.
///
/// It lives on one core's thread, so it needs no locks and need not be `Send`. `apply` must be
/// **deterministic**: the same entries in the same order give the same state and replies on every
/// replica; time, randomness and configuration come in through the payload. It must not block.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use coracle_engine::{
///     Apply, ImageBuffer, Restore, SnapshotError, SnapshotStream, StateMachine, WholeImage,
/// };
///
/// /// Remembers the last megabyte that was proposed.
/// struct Tail {
///     bytes: Vec<u8>,
///     restoring: ImageBuffer,
/// }
///
/// const BYTES_MAX: usize = 1 << 20;
///
/// impl Tail {
///     fn new() -> Self {
///         Self { bytes: Vec::new(), restoring: ImageBuffer::new(BYTES_MAX) }
///     }
/// }
///
/// impl StateMachine for Tail {
///     fn apply(&mut self, entry: Apply<'_>, _reply: &mut BytesMut) {
///         self.bytes.extend_from_slice(entry.payload);
///         self.bytes.drain(..self.bytes.len().saturating_sub(BYTES_MAX));
///     }
///
///     fn query(&self, _request: &Bytes, reply: &mut BytesMut) {
///         reply.extend_from_slice(&self.bytes);
///     }
///
///     fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
///         Ok(Box::new(WholeImage::new(self.bytes.clone())))
///     }
///
///     fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
///         if let Some(image) = self.restoring.take(part)? {
///             self.bytes = image;
///         }
///         Ok(())
///     }
/// }
///
/// # fn apply(machine: &mut Tail, bytes: &'static [u8]) {
/// #     use coracle_engine::{LogIndex, ShardId, Term};
/// #     let (payload, mut reply) = (Bytes::from_static(bytes), BytesMut::new());
/// #     let entry = Apply { shard: ShardId(0), index: LogIndex(1), term: Term(1), payload: &payload };
/// #     machine.apply(entry, &mut reply);
/// # }
/// # fn main() -> Result<(), SnapshotError> {
/// let mut machine = Tail::new();
/// apply(&mut machine, b"as it was");
/// let stream = machine.snapshot()?;
/// apply(&mut machine, b", and what came later");
///
/// let mut other = Tail::new();
/// coracle_engine::restore_chunks(&mut other, coracle_engine::snapshot_chunks(stream)?)?;
/// assert_eq!(other.bytes, b"as it was");
/// # Ok(())
/// # }
/// ```
pub trait StateMachine: 'static {
    /// Applies one committed entry and appends the reply for whoever proposed it to `reply` (empty
    /// at the call). On replicas that have nobody to answer, the reply is dropped.
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut);

    /// Answers a read and appends the answer to `reply` (empty at the call). Changes nothing.
    fn query(&self, request: &Bytes, reply: &mut BytesMut);

    /// Begins a snapshot of the state as it is now, with everything applied and nothing else: it is called
    /// between two entries, and `apply` goes on while the stream is filled. The call itself does a bounded
    /// amount of work.
    ///
    /// The stream of an earlier call has been dropped. A machine that is asked again all the same may end
    /// the earlier one: its `fill` then returns [`SnapshotError::Abandoned`].
    ///
    /// Machines with the same state should give the same chunks: that makes replicas comparable.
    ///
    /// # Errors
    /// [`SnapshotError::Unsupported`] unless implemented; [`SnapshotError::Abandoned`] if it is not possible
    /// now.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        Err(SnapshotError::Unsupported)
    }

    /// Replaces the whole state by that of a snapshot, one step at a time: [`Restore::Begin`], its chunks in
    /// their order, [`Restore::End`]. The work of a step should be bounded like that of
    /// [`SnapshotStream::fill`].
    ///
    /// After `Begin` the state is unspecified, a stream that was alive has failed, and nothing but `restore` is called,
    /// until an `End` has succeeded. A new `Begin` may come at any time. The chunks are undamaged as far as checksums
    /// tell; they may still come from another version of the machine, or from another machine.
    ///
    /// # Errors
    /// [`SnapshotError`] when it is not supported or the chunks are not a whole snapshot; the state is then
    /// unspecified and the replica must not serve.
    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        let _ = part;
        Err(SnapshotError::Unsupported)
    }

    /// A way to make new snapshots of old ones, for a machine that would rather not give streams. `None`, as
    /// unless implemented: snapshots are taken with [`StateMachine::snapshot`].
    fn fold(&self) -> Option<Box<dyn Fold>> {
        None
    }

    /// What is called now and then on the replica that leads, and there only; see [`hook`](crate::hook). Whether a
    /// machine has one does not change in its life. `None`, as unless implemented: it costs nothing.
    fn hook(&self) -> Option<&dyn LeaderHook> {
        None
    }
}

impl<M: StateMachine + ?Sized> StateMachine for Box<M> {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        (**self).apply(entry, reply);
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        (**self).query(request, reply);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        (**self).snapshot()
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        (**self).restore(part)
    }

    fn fold(&self) -> Option<Box<dyn Fold>> {
        (**self).fold()
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        (**self).hook()
    }
}
