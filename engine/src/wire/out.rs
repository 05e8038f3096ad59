//! Frames to bytes to send: many small ones in one piece, large payloads by reference.

use bytes::{BufMut, Bytes, BytesMut};

use super::body::{append_bytes, encode_fixed, kind_of};
use super::error::EncodeError;
use super::header::{HEADER_BYTES, Header, Kind};
use super::hello::{self, Hello, HelloReply};
use super::members;
use super::pulse::Pulse;
use crate::ShardId;
use crate::limits::{GATHER_BYTES_MIN, OUT_BYTES_KEPT};
use crate::members::MemberRecord;
use crate::raft::{Append, Message};

/// What one connection has to send, in order. Frames are encoded at the end; a payload of
/// [`GATHER_BYTES_MIN`] bytes or more is not copied but referenced, as one element of a gather write.
#[derive(Debug, Default)]
pub struct OutBuf {
    pieces: Vec<Bytes>,
    /// What comes after the last piece.
    tail: BytesMut,
    bytes: usize,
}

impl OutBuf {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Gives back the memory of a buffer that was long and is empty now.
    pub(crate) fn give_back(&mut self) {
        if self.is_empty() && self.tail.capacity() > OUT_BYTES_KEPT {
            self.tail = BytesMut::new();
        }
    }

    /// Moves everything to the end of `pieces`, for one gather write.
    pub fn take(&mut self, pieces: &mut Vec<Bytes>) {
        self.cut();
        pieces.append(&mut self.pieces);
        self.bytes = 0;
    }

    /// Adds a greeting.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] never in practice: its parts are cut to their limits.
    pub fn push_hello(&mut self, hello: &Hello) -> Result<(), EncodeError> {
        let start = self.begin();
        hello::encode_hello(hello, &mut self.tail);
        self.finish(start, Kind::Hello, ShardId(0))
    }

    /// Adds a greeting that only wants the answer.
    ///
    /// # Errors
    /// As for [`OutBuf::push_hello`].
    pub fn push_introduction(&mut self, hello: &Hello) -> Result<(), EncodeError> {
        let start = self.begin();
        hello::encode_hello(hello, &mut self.tail);
        self.finish(start, Kind::Introduction, ShardId(0))
    }

    /// Adds a greeting that asks for snapshots.
    ///
    /// # Errors
    /// As for [`OutBuf::push_hello`].
    pub fn push_snapshot_hello(&mut self, hello: &Hello) -> Result<(), EncodeError> {
        let start = self.begin();
        hello::encode_hello(hello, &mut self.tail);
        self.finish(start, Kind::SnapshotHello, ShardId(0))
    }

    /// Adds the answer to a greeting that asks for snapshots.
    ///
    /// # Errors
    /// As for [`OutBuf::push_hello`].
    pub fn push_snapshot_hello_reply(&mut self, reply: &HelloReply) -> Result<(), EncodeError> {
        let start = self.begin();
        hello::encode_reply(reply, &mut self.tail);
        self.finish(start, Kind::SnapshotHelloReply, ShardId(0))
    }

    /// Adds a sign of life.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] never: all pulses are of one length.
    pub fn push_pulse(&mut self, pulse: &Pulse) -> Result<(), EncodeError> {
        let start = self.begin();
        pulse.encode(&mut self.tail);
        self.finish(start, Kind::Pulse, ShardId(0))
    }

    /// Adds the answer to a greeting.
    ///
    /// # Errors
    /// As for [`OutBuf::push_hello`].
    pub fn push_hello_reply(&mut self, reply: &HelloReply) -> Result<(), EncodeError> {
        let start = self.begin();
        hello::encode_reply(reply, &mut self.tail);
        self.finish(start, Kind::HelloReply, ShardId(0))
    }

    /// Adds an address book.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] when there are more or longer records than a book may have; nothing is added.
    pub fn push_members<'a>(
        &mut self,
        records: impl ExactSizeIterator<Item = &'a MemberRecord>,
    ) -> Result<(), EncodeError> {
        let start = self.begin();
        members::encode(records, &mut self.tail);
        self.finish(start, Kind::Members, ShardId(0))
    }

    /// Adds a message of `shard`.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] when the entries of an append do not fit a frame; nothing is added.
    pub fn push_message(&mut self, shard: ShardId, message: &Message) -> Result<(), EncodeError> {
        if let Message::Append(append) = message {
            return self.push_append(shard, message, append);
        }
        let start = self.begin();
        encode_fixed(message, &mut self.tail);
        self.finish(start, kind_of(message), shard)
    }

    fn push_append(
        &mut self,
        shard: ShardId,
        message: &Message,
        append: &Append,
    ) -> Result<(), EncodeError> {
        let length = append_bytes(append);
        check_length(Kind::Append, length)?;
        let start = self.begin();
        let payloads = || append.entries.iter().map(|entry| &entry.payload);
        if payloads().all(|payload| payload.len() < GATHER_BYTES_MIN) {
            // The whole frame lies in one piece: one pass of the checksum, at full speed.
            self.tail.reserve(length);
            encode_fixed(message, &mut self.tail);
            payloads().for_each(|payload| self.tail.put_slice(payload));
            return self.finish(start, Kind::Append, shard);
        }
        encode_fixed(message, &mut self.tail);
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&self.tail[start + HEADER_BYTES..]);
        payloads().for_each(|payload| checksum.update(payload));
        // The header must be complete before the first reference closes the piece it lies in.
        self.put_header(start, Kind::Append, shard, length, checksum.finalize());
        payloads().for_each(|payload| self.put_payload(payload));
        self.bytes += HEADER_BYTES + length;
        Ok(())
    }

    fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < GATHER_BYTES_MIN {
            self.tail.put_slice(payload);
        } else {
            self.cut();
            self.pieces.push(payload.clone());
        }
    }

    /// Leaves room for a header; gives its place in the tail.
    fn begin(&mut self) -> usize {
        let start = self.tail.len();
        self.tail.put_bytes(0, HEADER_BYTES);
        start
    }

    /// Completes a frame that lies in the tail as a whole.
    fn finish(&mut self, start: usize, kind: Kind, shard: ShardId) -> Result<(), EncodeError> {
        let body = &self.tail[start + HEADER_BYTES..];
        let (length, checksum) = (body.len(), crc32fast::hash(body));
        if let Err(error) = check_length(kind, length) {
            self.tail.truncate(start);
            return Err(error);
        }
        self.put_header(start, kind, shard, length, checksum);
        self.bytes += HEADER_BYTES + length;
        Ok(())
    }

    fn put_header(
        &mut self,
        start: usize,
        kind: Kind,
        shard: ShardId,
        length: usize,
        body_checksum: u32,
    ) {
        let header = Header { kind, shard, length, body_checksum };
        self.tail[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
    }

    fn cut(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }
}

fn check_length(kind: Kind, bytes: usize) -> Result<(), EncodeError> {
    let max = kind.body_bytes_max();
    if bytes > max {
        return Err(EncodeError::TooLong { kind: kind as u8, bytes, max });
    }
    Ok(())
}
