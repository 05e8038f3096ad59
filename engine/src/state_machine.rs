//! What an embedder supplies: a deterministic state machine for each shard.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::{LogIndex, ShardId, Term};

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
    /// The image is not one this state machine wrote.
    #[error("the snapshot image is damaged: {0}")]
    Damaged(String),
}

/// The application's state for one shard.
///
/// It lives on one core's thread, so it needs no locks and need not be `Send`. `apply` must be
/// **deterministic**: the same entries in the same order give the same state and replies on every
/// replica; time, randomness and configuration come in through the payload. It must not block.
pub trait StateMachine: 'static {
    /// Applies one committed entry and appends the reply for whoever proposed it to `reply` (empty
    /// at the call). On replicas that have nobody to answer, the reply is dropped.
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut);

    /// Answers a read and appends the answer to `reply` (empty at the call). Changes nothing.
    fn query(&self, request: &Bytes, reply: &mut BytesMut);

    /// Writes an image of the whole state. Used by log compaction in a later version.
    ///
    /// # Errors
    /// [`SnapshotError::Unsupported`] unless implemented.
    fn snapshot(&self, image: &mut dyn std::io::Write) -> Result<(), SnapshotError> {
        let _ = image;
        Err(SnapshotError::Unsupported)
    }

    /// Replaces the whole state by an image that [`StateMachine::snapshot`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`] when it is not supported or the image is damaged; the state is then
    /// unspecified and the replica must not serve.
    fn restore(&mut self, image: &mut dyn std::io::Read) -> Result<(), SnapshotError> {
        let _ = image;
        Err(SnapshotError::Unsupported)
    }
}
