//! Replies on their way out: small ones are copied together, large ones go from their own memory.

use bytes::{Bytes, BytesMut};

use super::limits::{REPLY_OWN_CHUNK_BYTES_MIN, WRITE_BYTES_MAX};

/// What the next gather write sends.
#[derive(Debug, Default)]
pub(super) struct Output {
    chunks: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Output {
    /// Adds a reply.
    pub(super) fn push(&mut self, reply: Bytes) {
        self.bytes += reply.len();
        if reply.len() < REPLY_OWN_CHUNK_BYTES_MIN {
            self.tail.extend_from_slice(&reply);
        } else {
            self.close_tail();
            self.chunks.push(reply);
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether it should be written although more replies are ready.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= WRITE_BYTES_MAX
    }

    /// Bytes to be written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All that is to be written, in order. Call [`Output::written`] afterwards.
    pub(super) fn chunks(&mut self) -> &mut Vec<Bytes> {
        self.close_tail();
        &mut self.chunks
    }

    /// Forgets what was written and keeps the memory for the next replies.
    pub(super) fn written(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }
}
