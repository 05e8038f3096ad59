//! Frames between nodes: any bytes in any pieces.

use bytes::{Bytes, BytesMut};
use coracle_engine::limits::FRAME_BYTES_MAX;
use coracle_engine::members::MemberRecord;
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, Census, CensusReply, CommitMark, Entry, EntryKind,
    Heartbeat, HeartbeatReply, Message, PreVote, PreVoteReply, Quiesce, Quiesced, ReadIndex,
    ReadIndexReply, SnapshotOffer, Standing, TimeoutNow, Vote, VoteReply,
};
use coracle_engine::wire::{
    Frame, FrameDecoder, HEADER_BYTES, Hello, HelloReply, OutBuf, Pulse, RefuseReason, WireError,
};
use coracle_engine::{CoreId, LogIndex, NodeId, ShardId, Term};

use super::{steps, u32_at};
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "frames",
    run,
    mend: Some(mend),
    seeds,
    memory: Memory {
        constant: 64 << 10,
        factor: 64,
        reason: "the bytes are copied four times, frames are decoded twice, and an entry of 16 bytes becomes \
                 64",
    },
};

/// Decodes all frames of `stream`, which arrives in pieces of these sizes.
pub(super) fn decode(
    stream: &[u8],
    mut steps: impl Iterator<Item = usize>,
) -> (Vec<Frame>, Option<WireError>) {
    let (mut decoder, mut received) = (FrameDecoder::new(), BytesMut::new());
    let (mut frames, mut rest) = (Vec::new(), stream);
    loop {
        match decoder.decode(&mut received) {
            Err(error) => return (frames, Some(error)),
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => {
                let missing = decoder.missing(&received);
                assert!((1..=FRAME_BYTES_MAX).contains(&missing), "{missing} bytes are missing");
                if rest.is_empty() {
                    return (frames, None);
                }
                let (now, later) = rest.split_at(steps.next().unwrap_or(1).min(rest.len()));
                received.extend_from_slice(now);
                rest = later;
            }
        }
    }
}

/// The bytes of frames.
///
/// # Panics
/// If one can't be encoded.
pub(super) fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut out = OutBuf::new();
    for frame in frames {
        let pushed = match frame {
            Frame::Hello(hello) => out.push_hello(hello),
            Frame::HelloReply(reply) => out.push_hello_reply(reply),
            Frame::Introduction(hello) => out.push_introduction(hello),
            Frame::SnapshotHello(hello) => out.push_snapshot_hello(hello),
            Frame::SnapshotHelloReply(reply) => out.push_snapshot_hello_reply(reply),
            Frame::Raft { shard, message } => out.push_message(*shard, message),
            Frame::Members(records) => out.push_members(records.iter()),
            Frame::Pulse(pulse) => out.push_pulse(pulse),
        };
        pushed.expect("what was decoded fits a frame");
    }
    let mut pieces = Vec::new();
    out.take(&mut pieces);
    pieces.concat()
}

fn run(data: &[u8]) {
    let (frames, error) = decode(data, std::iter::repeat(data.len().max(1)));
    assert_eq!(decode(data, steps(data)), (frames.clone(), error), "pieces change nothing");
    let encoded = encode(&frames);
    assert!(data.starts_with(&encoded), "every frame can be written in one way only");
}

/// Makes the checksums of all frames in a row right.
pub(super) fn mend(mut data: &mut [u8]) {
    while data.len() >= HEADER_BYTES {
        let length = u32_at(data, 12).map_or(0, |length| length as usize);
        let end = HEADER_BYTES.saturating_add(length).min(data.len());
        let (frame, rest) = data.split_at_mut(end);
        let body = crc32fast::hash(&frame[HEADER_BYTES..]);
        frame[16..20].copy_from_slice(&body.to_le_bytes());
        let head = crc32fast::hash(&frame[..20]);
        frame[20..24].copy_from_slice(&head.to_le_bytes());
        data = rest;
    }
}

/// A greeting.
pub(super) fn hello() -> Hello {
    Hello {
        cluster_id: "coracle".to_owned(),
        node: NodeId(3),
        core: CoreId(1),
        cores: 2,
        shards: 16,
        instance: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
    }
}

/// An address book.
fn members() -> Vec<MemberRecord> {
    let record = |id, host| MemberRecord::new(NodeId(id), (host, 7001), (host, 8001));
    vec![
        MemberRecord { version: 3, incarnation: Some(77), ..record(1, "10.0.0.1") },
        MemberRecord { version: 1, removed: true, ..record(2, "two.example") },
        MemberRecord { admin: Some("[::1]:9001".to_owned()), ..record(3, "[::1]") },
    ]
}

/// A frame of every type, with a name.
pub(super) fn examples() -> Vec<(&'static str, Frame)> {
    let (term, last_term) = (Term(7), Term(6));
    let last_index = LogIndex(0x0102_0304);
    let entry = |index, kind, payload: &'static [u8]| Entry {
        term,
        index: LogIndex(index),
        kind,
        payload: Bytes::from_static(payload),
    };
    let append = Append {
        term,
        prev_index: LogIndex(10),
        prev_term: last_term,
        commit: LogIndex(9),
        entries: vec![
            entry(11, EntryKind::Noop, b""),
            entry(12, EntryKind::Normal, b"hello"),
            entry(13, EntryKind::Normal, &[7; 100]),
            entry(14, EntryKind::Readmission, &[3; 16]),
        ],
    };
    let accepted = AppendOutcome::Accepted { matched: LogIndex(12) };
    let rejected = AppendOutcome::Rejected {
        prev_index: LogIndex(10),
        hint_index: LogIndex(8),
        hint_term: Term(5),
    };
    let refused =
        HelloReply::Refused { reason: RefuseReason::Cluster, text: "other cluster".to_owned() };
    let raft = |message| Frame::Raft { shard: ShardId(0x0A0B), message };
    let answer = |outcome| {
        raft(Message::AppendReply(AppendReply { term, outcome, standing: Standing::Member }))
    };
    let beat = Heartbeat { term, commit: LogIndex(12), round: 4 };
    let standing = Standing::Returning(77);
    let offer = SnapshotOffer { term, index: last_index, snapshot_term: last_term };
    let census_reply = CensusReply { term, empty: true, incarnation: 77 };
    vec![
        ("hello", Frame::Hello(hello())),
        ("hello-accepted", Frame::HelloReply(HelloReply::Accepted(hello()))),
        ("hello-refused", Frame::HelloReply(refused)),
        ("introduction", Frame::Introduction(hello())),
        ("snapshot-hello", Frame::SnapshotHello(hello())),
        ("snapshot-hello-accepted", Frame::SnapshotHelloReply(HelloReply::Accepted(hello()))),
        ("members", Frame::Members(members())),
        ("pulse", Frame::Pulse(Pulse { count: 3, hash: 77 })),
        (
            "pre-vote",
            raft(Message::PreVote(PreVote {
                term,
                last_index,
                last_term,
                committed: CommitMark::default(),
            })),
        ),
        (
            "pre-vote-reply",
            raft(Message::PreVoteReply(PreVoteReply {
                term,
                granted: true,
                committed: CommitMark::default(),
            })),
        ),
        (
            "vote",
            raft(Message::Vote(Vote {
                term,
                last_index,
                last_term,
                transfer: true,
                committed: CommitMark::default(),
            })),
        ),
        (
            "vote-reply",
            raft(Message::VoteReply(VoteReply {
                term,
                granted: false,
                committed: CommitMark::default(),
            })),
        ),
        ("append", raft(Message::Append(append))),
        ("append-accepted", answer(accepted)),
        ("append-rejected", answer(rejected)),
        ("heartbeat", raft(Message::Heartbeat(beat))),
        (
            "heartbeat-reply",
            raft(Message::HeartbeatReply(HeartbeatReply {
                term,
                round: 4,
                standing,
                quiet_ms: 0,
                priority: 0,
            })),
        ),
        ("timeout-now", raft(Message::TimeoutNow(TimeoutNow { term }))),
        ("snapshot-offer", raft(Message::SnapshotOffer(offer))),
        ("census", raft(Message::Census(Census { incarnation: 77 }))),
        ("census-reply", raft(Message::CensusReply(census_reply))),
        ("quiesce", raft(Message::Quiesce(Quiesce { term, last: last_index }))),
        ("quiesced", raft(Message::Quiesced(Quiesced { term, last: last_index, asleep: true }))),
        ("read-index", raft(Message::ReadIndex(ReadIndex { term, id: 5, standing }))),
        (
            "read-index-reply",
            raft(Message::ReadIndexReply(ReadIndexReply {
                term,
                id: 5,
                committed: CommitMark { index: last_index, term },
            })),
        ),
    ]
}

fn seeds() -> Vec<Seed> {
    let examples = examples();
    let all: Vec<Frame> = examples.iter().map(|(_, frame)| frame.clone()).collect();
    let mut seeds = vec![Seed::new("all", encode(&all))];
    seeds.extend(examples.into_iter().map(|(name, frame)| Seed::new(name, encode(&[frame]))));
    seeds
}
