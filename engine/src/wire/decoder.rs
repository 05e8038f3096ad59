//! Received bytes to frames.

use bytes::BytesMut;

use super::body::{self, Problem};
use super::error::WireError;
use super::header::{HEADER_BYTES, Header, Kind};
use super::hello::{self, Hello, HelloReply};
use super::members;
use super::pulse::Pulse;
use crate::ShardId;
use crate::members::MemberRecord;
use crate::raft::Message;

/// A valid frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The greeting of the side that connected.
    Hello(Hello),
    /// Its answer.
    HelloReply(HelloReply),
    /// A greeting that only wants the answer: the connection ends with it.
    Introduction(Hello),
    /// The greeting of a side that connected to ask for snapshots.
    SnapshotHello(Hello),
    /// Its answer; if it accepts, what follows is not in frames.
    SnapshotHelloReply(HelloReply),
    /// The sender's address book.
    Members(Vec<MemberRecord>),
    /// The sender is alive, with each heartbeat interval.
    Pulse(Pulse),
    /// A message between two replicas.
    Raft {
        /// Their shard.
        shard: ShardId,
        /// The message. Payloads of entries are slices of the receive buffer.
        message: Message,
    },
}

/// Cuts a byte stream into frames.
///
/// ```
/// use bytes::BytesMut;
/// use coracle_engine::wire::FrameDecoder;
///
/// let mut decoder = FrameDecoder::new();
/// let mut received = BytesMut::from(&b"GET / HTTP/1.1\r\nHost: localhost\r\n"[..]);
/// assert!(decoder.decode(&mut received).is_err());
/// ```
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// Header of a frame whose body has not arrived in full.
    header: Option<Header>,
}

impl FrameDecoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next frame off the front of `received`; `None` if it is not there in full. Then
    /// receive more (at least [`missing`](Self::missing) bytes) and ask again.
    ///
    /// # Errors
    /// [`WireError`] when the stream is not a sequence of valid frames. Close the connection: what
    /// follows can't be trusted.
    pub fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let header = match self.header {
            Some(header) => header,
            None => match received.first_chunk() {
                Some(bytes) => Header::decode(bytes)?,
                None => return Ok(None),
            },
        };
        if received.len() < HEADER_BYTES + header.length {
            self.header = Some(header);
            return Ok(None);
        }
        self.header = None;
        let mut frame = received.split_to(HEADER_BYTES + header.length);
        let body = frame.split_off(HEADER_BYTES);
        let computed = crc32fast::hash(&body);
        let Header { kind, shard, .. } = header;
        if computed != header.body_checksum {
            let found = header.body_checksum;
            return Err(WireError::BodyChecksum { kind: kind as u8, shard, found, computed });
        }
        match decode_body(kind, shard, body) {
            Ok(frame) => Ok(Some(frame)),
            Err(Problem(problem)) => Err(WireError::Malformed { kind: kind as u8, shard, problem }),
        }
    }

    /// How many bytes are missing at least until the next frame is complete, given what is there.
    #[must_use]
    pub fn missing(&self, received: &BytesMut) -> usize {
        let body = self.header.map_or(0, |header| header.length);
        (HEADER_BYTES + body).saturating_sub(received.len())
    }
}

fn decode_body(kind: Kind, shard: ShardId, body: BytesMut) -> Result<Frame, Problem> {
    let body = body.freeze();
    match kind {
        Kind::Hello
        | Kind::HelloReply
        | Kind::Introduction
        | Kind::SnapshotHello
        | Kind::SnapshotHelloReply
        | Kind::Members
        | Kind::Pulse
            if shard != ShardId(0) =>
        {
            Err(Problem("this frame belongs to no shard"))
        }
        Kind::Hello => hello::decode_hello(body).map(Frame::Hello),
        Kind::HelloReply => hello::decode_reply(body).map(Frame::HelloReply),
        Kind::Introduction => hello::decode_hello(body).map(Frame::Introduction),
        Kind::SnapshotHello => hello::decode_hello(body).map(Frame::SnapshotHello),
        Kind::SnapshotHelloReply => hello::decode_reply(body).map(Frame::SnapshotHelloReply),
        Kind::Members => members::decode(body).map(Frame::Members),
        Kind::Pulse => Pulse::decode(body).map(Frame::Pulse),
        _ => match body::decode(kind, body)? {
            Some(message) => Ok(Frame::Raft { shard, message }),
            None => Err(Problem("not a Raft message")),
        },
    }
}
