//! [`ChunkSink`]: where a state machine writes one chunk of a snapshot, straight into the aligned buffer
//! that goes to disk.

use coracle_wal::AlignedBuf;
use thiserror::Error;

use crate::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNK_TARGET_BYTES};

/// The bytes do not fit the chunk any more; nothing of them was taken. Put them into the next chunk.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "{bytes} bytes do not fit this chunk of a snapshot, which has room for {remaining}; put them into the next one"
)]
pub struct ChunkFull {
    /// Bytes that were to be put.
    pub bytes: usize,
    /// Bytes that would have fit.
    pub remaining: usize,
}

/// One chunk of a snapshot while it is filled.
///
/// A chunk should end once [`ChunkSink::is_full`] says so, at a target of
/// [`SNAPSHOT_CHUNK_TARGET_BYTES`]; the room up to [`SNAPSHOT_CHUNK_BYTES_MAX`] is there so that whatever
/// is being written then need not be split. An empty chunk is not stored.
#[derive(Debug)]
pub struct ChunkSink<'a> {
    buf: &'a mut AlignedBuf,
    len: usize,
    target: usize,
}

impl<'a> ChunkSink<'a> {
    /// An empty chunk in `buf`, whose length (at most [`SNAPSHOT_CHUNK_BYTES_MAX`] of it) is the most
    /// that the chunk can hold.
    pub fn new(buf: &'a mut AlignedBuf) -> Self {
        Self::with_target(buf, SNAPSHOT_CHUNK_TARGET_BYTES)
    }

    /// Like [`ChunkSink::new`], with another target in bytes: small ones give tests many chunks.
    pub fn with_target(buf: &'a mut AlignedBuf, target: usize) -> Self {
        Self { buf, len: 0, target }
    }

    /// Appends `bytes` to the chunk: all of them or none.
    ///
    /// # Errors
    /// [`ChunkFull`] if there is less room than that.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), ChunkFull> {
        let remaining = self.remaining();
        if bytes.len() > remaining {
            return Err(ChunkFull { bytes: bytes.len(), remaining });
        }
        self.buf[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Appends as much of `bytes` as there is room for and returns how much that was: for data that may
    /// be split anywhere.
    pub fn put_some(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.remaining());
        self.buf[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// Bytes put so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was put yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the target is reached: the chunk should end here, though [`ChunkSink::remaining`] bytes
    /// could follow.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len >= self.target || self.remaining() == 0
    }

    /// Bytes until the target is reached: what can be split anywhere should end there.
    #[must_use]
    pub fn until_full(&self) -> usize {
        self.target.saturating_sub(self.len).min(self.remaining())
    }

    /// Bytes that can still be put.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buf.len().min(SNAPSHOT_CHUNK_BYTES_MAX) - self.len
    }

    /// What was put so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_bytes_up_to_its_buffer_and_is_full_at_its_target() {
        let mut buf = AlignedBuf::zeroed(4096);
        let mut sink = ChunkSink::with_target(&mut buf, 100);
        assert!(sink.is_empty() && !sink.is_full());
        assert_eq!(sink.put(&[1; 99]), Ok(()));
        assert!(!sink.is_full());
        assert_eq!(sink.put(&[2; 1]), Ok(()));
        assert!(sink.is_full());
        assert_eq!((sink.len(), sink.remaining()), (100, 3996));
        assert_eq!(sink.put(&[3; 3997]), Err(ChunkFull { bytes: 3997, remaining: 3996 }));
        assert_eq!((sink.len(), sink.remaining()), (100, 3996));
        assert_eq!(sink.put(&[3; 3996]), Ok(()));
        assert_eq!(sink.remaining(), 0);
        assert_eq!(sink.put(&[]), Ok(()));
        assert_eq!(sink.bytes(), [&[1; 99][..], &[2; 1], &[3; 3996]].concat());
    }

    #[test]
    fn takes_parts_of_what_may_be_split() {
        let mut buf = AlignedBuf::zeroed(4096);
        let mut sink = ChunkSink::new(&mut buf);
        assert_eq!(sink.put_some(&[7; 4000]), 4000);
        assert_eq!(sink.put_some(&[8; 4000]), 96);
        assert_eq!(sink.put_some(&[9; 4000]), 0);
        assert!(sink.is_full(), "a chunk without room is full, whatever its target");
    }

    #[test]
    fn holds_no_more_than_a_chunk_may() {
        let mut buf = AlignedBuf::zeroed(SNAPSHOT_CHUNK_BYTES_MAX + 4096);
        let sink = ChunkSink::new(&mut buf);
        assert_eq!(sink.remaining(), SNAPSHOT_CHUNK_BYTES_MAX);
    }
}
