//! Frames in a byte stream: finding them, telling of them, deciding what happens to them.

use bytes::{Bytes, BytesMut};
use coracle_engine::ShardId;
use coracle_engine::limits::FRAME_BYTES_MAX;
use coracle_engine::raft::{AppendOutcome, Message};
use coracle_engine::wire::{Frame, FrameDecoder, HEADER_BYTES, HelloReply, WireError};

use super::HostId;
use crate::sim::world::ProcessId;

const MAGIC: [u8; 2] = [0xC0, 0xAC];
/// Where the type stands in a header, and the range that belongs to Raft; see `docs/wire-format.md`.
const KIND_AT: usize = 3;
const RAFT_KINDS: std::ops::RangeInclusive<u8> = 16..=27;

/// What happens to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Pass,
    /// It never arrives.
    Drop,
    /// It arrives twice.
    Duplicate,
    /// Frames sent later arrive before it.
    Delay,
    /// A frame that this connection carried before arrives again, then this one.
    Replay,
    /// A frame of an earlier connection arrives, then this one.
    Ghost,
    /// It arrives with flipped bits.
    Corrupt,
}

/// A whole frame, as a process sent it or as it arrived.
#[derive(Clone, Debug)]
pub struct SentFrame {
    /// Host of the sender.
    pub from: HostId,
    /// The sender.
    pub from_process: ProcessId,
    /// Host of the receiver.
    pub to: HostId,
    /// The receiver.
    pub to_process: ProcessId,
    /// Number of the connection; no two have the same.
    pub connection: u64,
    /// Header and body.
    pub bytes: Bytes,
}

/// The type of a pulse (`docs/wire-format.md`).
const PULSE: u8 = 3;

impl SentFrame {
    /// The type in its header.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.bytes.get(KIND_AT).copied().unwrap_or(0)
    }

    /// Whether it is a sign of life between two cores.
    #[must_use]
    pub fn is_pulse(&self) -> bool {
        self.kind() == PULSE
    }

    /// Whether its type is one of Raft's.
    #[must_use]
    pub fn is_raft(&self) -> bool {
        is_raft(&self.bytes)
    }

    /// The shard in its header.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        ShardId(u32_at(&self.bytes, 8))
    }

    /// The frame, read by the engine's own decoder.
    ///
    /// # Errors
    /// [`WireError`] when it is not valid.
    pub fn decode(&self) -> Result<Option<Frame>, WireError> {
        decode(&self.bytes)
    }
}

pub(super) fn decode(bytes: &Bytes) -> Result<Option<Frame>, WireError> {
    FrameDecoder::new().decode(&mut BytesMut::from(&bytes[..]))
}

pub(super) fn is_raft(frame: &[u8]) -> bool {
    frame.get(KIND_AT).is_some_and(|kind| RAFT_KINDS.contains(kind))
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    match bytes.get(place..place + 4) {
        Some(found) => u32::from_le_bytes([found[0], found[1], found[2], found[3]]),
        None => 0,
    }
}

/// One line about a frame, without payloads.
pub(super) fn describe(bytes: &Bytes) -> String {
    let (shard, message) = match decode(bytes) {
        Ok(Some(Frame::Raft { shard, message })) => (shard, message),
        Ok(Some(Frame::Hello(hello))) => return format!("Hello core={}", hello.core),
        Ok(Some(Frame::Introduction(hello))) => return format!("Introduction core={}", hello.core),
        Ok(Some(Frame::SnapshotHello(hello))) => {
            return format!("SnapshotHello core={}", hello.core);
        }
        Ok(Some(Frame::SnapshotHelloReply(HelloReply::Accepted(hello)))) => {
            return format!("SnapshotHelloReply accepted core={}", hello.core);
        }
        Ok(Some(Frame::HelloReply(HelloReply::Accepted(hello)))) => {
            return format!("HelloReply accepted core={}", hello.core);
        }
        Ok(Some(Frame::HelloReply(HelloReply::Refused { text, .. }))) => {
            return format!("HelloReply refused: {text}");
        }
        Ok(Some(other)) => return format!("{other:?}"),
        Ok(None) => return format!("{} bytes", bytes.len()),
        Err(error) => return format!("{} bytes: {error}", bytes.len()),
    };
    let term = message.term();
    let text = match message {
        Message::PreVote(m) => format!("PreVote last={}/{}", m.last_term, m.last_index),
        Message::Vote(m) => format!("Vote last={}/{}", m.last_term, m.last_index),
        Message::PreVoteReply(m) => format!("PreVoteReply granted={}", m.granted),
        Message::VoteReply(m) => format!("VoteReply granted={}", m.granted),
        Message::Append(m) => format!(
            "Append prev={}/{} entries={} commit={}",
            m.prev_term,
            m.prev_index,
            m.entries.len(),
            m.commit
        ),
        Message::AppendReply(m) => match m.outcome {
            AppendOutcome::Accepted { matched } => format!("AppendReply matched={matched}"),
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                format!("AppendReply rejected={prev_index} hint={hint_term}/{hint_index}")
            }
        },
        Message::Heartbeat(m) => format!("Heartbeat commit={} round={}", m.commit, m.round),
        Message::HeartbeatReply(m) => format!("HeartbeatReply round={}", m.round),
        Message::TimeoutNow(_) => "TimeoutNow".to_owned(),
        Message::SnapshotOffer(m) => format!("SnapshotOffer {}/{}", m.snapshot_term, m.index),
        Message::Quiesce(m) => format!("Quiesce last={}", m.last),
        Message::Quiesced(m) => format!("Quiesced last={} asleep={}", m.last, m.asleep),
        Message::ReadIndex(m) => format!("ReadIndex id={:x}", m.id),
        Message::ReadIndexReply(m) => {
            format!("ReadIndexReply id={:x} {}/{}", m.id, m.committed.term, m.committed.index)
        }
        Message::Census(m) => format!("Census of {}", m.incarnation),
        Message::CensusReply(m) => format!("CensusReply empty={}", m.empty),
    };
    format!("s{shard} t{term} {text}")
}

/// A part of a stream that is handled as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A whole frame.
    Frame(Bytes),
    /// Bytes of a stream that has no frames.
    Raw(Bytes),
    /// Bytes of a stream that has no more frames: chunks of snapshots, which have checksums, too.
    Bulk(Bytes),
}

/// Cuts what a process writes into frames. A stream that does not begin like one of frames passes as it
/// is, and so does the rest of one that ceases to be one.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    is_raw: bool,
    /// A whole frame went by.
    had_frame: bool,
    /// The beginning of a frame whose rest has not been written yet.
    begun: BytesMut,
}

impl Cutter {
    /// Adds what was written; whole units go to the end of `units`.
    pub(super) fn push(&mut self, mut piece: Bytes, units: &mut Vec<Unit>) {
        while !piece.is_empty() {
            if self.is_raw {
                units.push(if self.had_frame { Unit::Bulk(piece) } else { Unit::Raw(piece) });
                return;
            }
            if self.begun.is_empty() {
                match length_of(&piece) {
                    Ok(Some(length)) if length <= piece.len() => {
                        self.had_frame = true;
                        units.push(Unit::Frame(piece.split_to(length)));
                        continue;
                    }
                    Ok(_) => {}
                    Err(NotAFrame) => {
                        self.is_raw = true;
                        continue;
                    }
                }
            }
            // Up to the end of the header, then up to the end of the frame.
            let wanted = match length_of(&self.begun) {
                Ok(length) => length.unwrap_or(HEADER_BYTES),
                Err(NotAFrame) => {
                    self.is_raw = true;
                    units.push(Unit::Raw(self.begun.split().freeze()));
                    continue;
                }
            };
            let missing = wanted.saturating_sub(self.begun.len()).min(piece.len());
            self.begun.reserve(missing);
            self.begun.extend_from_slice(&piece.split_to(missing));
            if length_of(&self.begun) == Ok(Some(self.begun.len())) {
                self.had_frame = true;
                units.push(Unit::Frame(self.begun.split().freeze()));
            }
        }
        if length_of(&self.begun).is_err() {
            self.is_raw = true;
            units.push(Unit::Raw(self.begun.split().freeze()));
        }
    }

    /// The beginning of a frame that will never be complete.
    pub(super) fn finish(&mut self) -> Option<Unit> {
        (!self.begun.is_empty()).then(|| Unit::Raw(self.begun.split().freeze()))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct NotAFrame;

/// Length of the frame at the start of `bytes`; `None` if that can't be told yet.
fn length_of(bytes: &[u8]) -> Result<Option<usize>, NotAFrame> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(NotAFrame);
    }
    if bytes.len() < HEADER_BYTES {
        return Ok(None);
    }
    let length = HEADER_BYTES + u32_at(bytes, 12) as usize;
    if length > FRAME_BYTES_MAX { Err(NotAFrame) } else { Ok(Some(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: usize) -> Vec<u8> {
        let mut frame = vec![7; HEADER_BYTES + body];
        frame[..2].copy_from_slice(&MAGIC);
        frame[12..16].copy_from_slice(&(body as u32).to_le_bytes());
        frame
    }

    fn cut(stream: &[u8], piece: usize) -> Vec<Unit> {
        let (mut cutter, mut units) = (Cutter::default(), Vec::new());
        for piece in stream.chunks(piece) {
            cutter.push(Bytes::copy_from_slice(piece), &mut units);
        }
        units.extend(cutter.finish());
        units
    }

    #[test]
    fn frames_are_found_however_they_are_written() {
        let frames = [frame(0), frame(100), frame(3), frame(0)];
        let stream = frames.concat();
        for piece in 1..=stream.len() {
            let expected: Vec<Unit> =
                frames.iter().map(|f| Unit::Frame(f.clone().into())).collect();
            assert_eq!(cut(&stream, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_frame_passes_whole_and_in_order() {
        let streams: [&[u8]; 4] = [b"PING\r\n", &[0xC0], &[0xC0, 0x01, 2, 3], &[0xC0, 0xAC, 1, 2]];
        for stream in streams {
            for garbage_after_frames in [false, true] {
                let mut all = if garbage_after_frames { frame(5) } else { Vec::new() };
                all.extend_from_slice(stream);
                for piece in 1..=all.len() {
                    let passed: Vec<u8> = cut(&all, piece)
                        .into_iter()
                        .flat_map(|unit| match unit {
                            Unit::Frame(bytes) | Unit::Raw(bytes) | Unit::Bulk(bytes) => {
                                bytes.to_vec()
                            }
                        })
                        .collect();
                    assert_eq!(passed, all, "pieces of {piece}");
                }
            }
        }
    }
}
