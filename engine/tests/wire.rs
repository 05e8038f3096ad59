//! The peer frame codec from outside: round trips in any pieces, damage, rubbish, and golden bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use coracle_engine::limits::{
    BOOK_RECORDS_MAX, CLUSTER_ID_BYTES_MAX, FRAME_BYTES_MAX, GATHER_BYTES_MIN, HOST_BYTES_MAX,
    MEMBER_VERSION_MAX, PAYLOAD_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX, TERM_MAX,
};
use coracle_engine::members::MemberRecord;
use coracle_engine::raft::membership::{Change, Configuration};
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, Census, CensusReply, CommitMark, Entry, EntryKind,
    Heartbeat, HeartbeatReply, Message, PreVote, PreVoteReply, Quiesce, Quiesced, ReadIndex,
    ReadIndexReply, Readmission, SnapshotOffer, Standing, TimeoutNow, Vote, VoteReply,
};
use coracle_engine::wire::{
    EncodeError, Frame, FrameDecoder, HEADER_BYTES, Hello, HelloReply, OutBuf, Pulse, RefuseReason,
    VERSION, WireError,
};
use coracle_engine::{CoreId, LogIndex, NodeId, ShardId, Term};
use proptest::collection::vec;
use proptest::prelude::*;

fn encode(frames: &[Frame]) -> Vec<Bytes> {
    let mut out = OutBuf::new();
    for frame in frames {
        match frame {
            Frame::Hello(hello) => out.push_hello(hello).unwrap(),
            Frame::HelloReply(reply) => out.push_hello_reply(reply).unwrap(),
            Frame::Introduction(hello) => out.push_introduction(hello).unwrap(),
            Frame::SnapshotHello(hello) => out.push_snapshot_hello(hello).unwrap(),
            Frame::SnapshotHelloReply(reply) => out.push_snapshot_hello_reply(reply).unwrap(),
            Frame::Members(records) => out.push_members(records.iter()).unwrap(),
            Frame::Pulse(pulse) => out.push_pulse(pulse).unwrap(),
            Frame::Raft { shard, message } => out.push_message(*shard, message).unwrap(),
        }
    }
    let mut pieces = Vec::new();
    let bytes = out.bytes();
    out.take(&mut pieces);
    assert_eq!(bytes, pieces.iter().map(Bytes::len).sum::<usize>(), "bytes are counted right");
    assert!(out.is_empty() && pieces.iter().all(|piece| !piece.is_empty()));
    pieces
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    encode(frames).concat()
}

/// Decodes all frames in `bytes`, which arrive in steps of these sizes, over and over.
fn decode(bytes: &[u8], steps: &[usize]) -> Result<Vec<Frame>, WireError> {
    let mut decoder = FrameDecoder::new();
    let mut received = BytesMut::new();
    let mut frames = Vec::new();
    let (mut rest, mut steps) = (bytes, steps.iter().cycle());
    loop {
        while let Some(frame) = decoder.decode(&mut received)? {
            frames.push(frame);
        }
        assert!(decoder.missing(&received) > 0, "it asks for more");
        if rest.is_empty() {
            return Ok(frames);
        }
        let (now, later) = rest.split_at((*steps.next().unwrap()).min(rest.len()));
        received.extend_from_slice(now);
        rest = later;
    }
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), GATHER_BYTES_MIN - 2..GATHER_BYTES_MIN + 200),
    ]
    .prop_map(Bytes::from)
}

fn append() -> impl Strategy<Value = Message> {
    let entry = (any::<u64>(), payload(), 0..5_u64);
    (1..=TERM_MAX, 0..1_u64 << 60, any::<u64>(), any::<u64>(), vec(entry, 0..12)).prop_map(
        |(term, prev, prev_term, commit, entries)| {
            let entries = entries.into_iter().zip(1..).map(|((term, payload, kind), n)| {
                let readmission = Readmission { node: NodeId(n), incarnation: term };
                let (kind, payload) = match kind {
                    0 => (EntryKind::Noop, Bytes::new()),
                    1 => (EntryKind::Readmission, readmission.encode()),
                    2 => {
                        let voters = Configuration::of_voters([NodeId(n), NodeId(n + 7)]).unwrap();
                        (EntryKind::Reconfiguration, voters.encode())
                    }
                    _ => (EntryKind::Normal, payload),
                };
                Entry { term: Term(term), index: LogIndex(prev + n), kind, payload }
            });
            Message::Append(Append {
                term: Term(term),
                prev_index: LogIndex(prev),
                prev_term: Term(prev_term),
                commit: LogIndex(commit),
                entries: entries.collect(),
            })
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = (1..=TERM_MAX, any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>());
    let small = (0..16_usize, numbers).prop_map(|(kind, (t, a, b, c, yes))| {
        let term = Term(t);
        let standing = if yes { Standing::Returning(c) } else { Standing::Member };
        let (last_index, last_term) = (LogIndex(a), Term(b));
        let committed = CommitMark { index: LogIndex(c), term: Term(a) };
        match kind {
            0 => Message::PreVote(PreVote { term, last_index, last_term, committed }),
            1 => Message::PreVoteReply(PreVoteReply { term, granted: yes, committed }),
            2 => {
                Message::Vote(Vote { term, last_index, last_term, transfer: a % 2 == 1, committed })
            }
            3 => Message::VoteReply(VoteReply { term, granted: yes, committed }),
            4 => Message::Heartbeat(Heartbeat { term, commit: LogIndex(a), round: b }),
            5 => Message::HeartbeatReply(HeartbeatReply {
                term,
                round: b,
                standing,
                quiet_ms: a as u32,
                priority: a as i8,
            }),
            6 => Message::SnapshotOffer(SnapshotOffer {
                term,
                index: last_index,
                snapshot_term: last_term,
            }),
            7 => Message::Census(Census { incarnation: a }),
            8 => Message::CensusReply(CensusReply { term, empty: yes, incarnation: a }),
            9 => Message::TimeoutNow(TimeoutNow { term }),
            10 => Message::Quiesce(Quiesce { term, last: last_index }),
            11 => Message::Quiesced(Quiesced { term, last: last_index, asleep: yes }),
            12 => Message::ReadIndex(ReadIndex { term, id: b, standing }),
            13 => Message::ReadIndexReply(ReadIndexReply { term, id: b, committed }),
            14 => {
                let outcome = AppendOutcome::Accepted { matched: LogIndex(a) };
                Message::AppendReply(AppendReply { term, outcome, standing })
            }
            _ => {
                let (prev_index, hint_index, hint_term) = (LogIndex(a), LogIndex(b), Term(c));
                let outcome = AppendOutcome::Rejected { prev_index, hint_index, hint_term };
                Message::AppendReply(AppendReply { term, outcome, standing })
            }
        }
    });
    prop_oneof![2 => small, 1 => append()]
}

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = (1..=u64::MAX, 1..=u16::MAX, any::<u16>(), 1..=u32::MAX, any::<u128>());
    ("[a-zäöü0-9-]{0,60}", numbers).prop_map(
        |(cluster_id, (node, cores, core, shards, instance))| {
            let core = CoreId(core % cores);
            Hello { cluster_id, node: NodeId(node), core, cores, shards, instance }
        },
    )
}

fn members() -> impl Strategy<Value = Vec<MemberRecord>> {
    let host = "[a-z0-9.:\\[\\]_-]{1,40}";
    let numbers = (0..=MEMBER_VERSION_MAX, any::<bool>(), 1..=u16::MAX, 1..=u16::MAX);
    let rest = (prop::option::of(host), prop::option::of(any::<u128>()));
    let record = (1..=u64::MAX, host, host, numbers, rest);
    vec(record, 0..6).prop_map(|records| {
        let records = records.into_iter().map(|(id, client, peer, numbers, rest)| {
            let (version, removed, client_port, peer_port) = numbers;
            let (admin, incarnation) = rest;
            let new = MemberRecord::new(NodeId(id), (&client, client_port), (&peer, peer_port));
            (id, MemberRecord { version, removed, admin, incarnation, ..new })
        });
        records.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    let refused = "[a-z ]{0,100}"
        .prop_map(|text| HelloReply::Refused { reason: RefuseReason::Cluster, text });
    prop_oneof![
        8 => (any::<u32>(), message())
            .prop_map(|(shard, message)| Frame::Raft { shard: ShardId(shard), message }),
        1 => hello().prop_map(Frame::Hello),
        1 => hello().prop_map(|hello| Frame::HelloReply(HelloReply::Accepted(hello))),
        1 => hello().prop_map(Frame::Introduction),
        1 => hello().prop_map(Frame::SnapshotHello),
        1 => hello().prop_map(|hello| Frame::SnapshotHelloReply(HelloReply::Accepted(hello))),
        1 => members().prop_map(Frame::Members),
        1 => (any::<u32>(), any::<u64>())
            .prop_map(|(count, hash)| Frame::Pulse(Pulse { count, hash })),
        1 => refused.prop_map(Frame::HelloReply),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_survive_the_way_in_any_pieces(
        frames in vec(frame(), 0..8),
        steps in vec(1..5000_usize, 1..10),
    ) {
        let bytes = bytes_of(&frames);
        prop_assert_eq!(decode(&bytes, &steps).unwrap(), frames);
    }

    #[test]
    fn rubbish_never_panics(bytes in vec(any::<u8>(), 0..300), step in 1..300_usize) {
        let found = decode(&bytes, &[step]);
        prop_assert!(bytes.len() < HEADER_BYTES || found.is_err());
    }

    /// The header is right and so are both checksums: only the body decides.
    #[test]
    fn rubbish_in_a_sealed_frame_never_panics(
        kind in prop_oneof![1..=6_u8, 16..=31_u8],
        body in vec(any::<u8>(), 0..64),
    ) {
        if let Ok(frames) = decode(&sealed(kind, 0, &body), &[1000]) {
            prop_assert_eq!(bytes_of(&frames), sealed(kind, 0, &body), "valid in one way only");
        }
    }

    #[test]
    fn a_cut_body_in_a_sealed_frame_is_an_error(frame in frame(), cut in 1..60_usize) {
        let bytes = bytes_of(&[frame]);
        let body = &bytes[HEADER_BYTES..];
        prop_assume!(!body.is_empty());
        let body = &body[..body.len() - cut.min(body.len())];
        let shard = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        let found = decode(&sealed(bytes[3], shard, body), &[100_000]);
        prop_assert!(matches!(found, Err(WireError::Malformed { .. })), "{found:?}");
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed(frame in frame(), place in any::<prop::sample::Index>()) {
        let mut bytes = bytes_of(&[frame]);
        let bit = place.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = decode(&bytes, &[100_000]);
        prop_assert!(found.is_err(), "{found:?}");
    }
}

/// A frame of any body with a right header.
fn sealed(kind: u8, shard: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xC0, 0xAC, VERSION, kind, 0, 0, 0, 0];
    bytes.extend(shard.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn raft(message: Message) -> Frame {
    Frame::Raft { shard: ShardId(0), message }
}

fn append_of(payloads: Vec<Bytes>) -> Message {
    let entries = payloads.into_iter().zip(1..).map(|(payload, index)| Entry {
        term: Term(1),
        index: LogIndex(index),
        kind: EntryKind::Normal,
        payload,
    });
    Message::Append(Append {
        term: Term(1),
        prev_index: LogIndex(0),
        prev_term: Term(0),
        commit: LogIndex(0),
        entries: entries.collect(),
    })
}

#[test]
fn large_payloads_are_referenced_and_small_ones_gathered() {
    let small = Bytes::from(vec![1; 100]);
    let large = Bytes::from(vec![2; GATHER_BYTES_MIN]);
    let beat = Message::HeartbeatReply(HeartbeatReply {
        term: Term(1),
        round: 0,
        standing: Standing::Member,
        quiet_ms: 0,
        priority: 0,
    });
    let frames = [
        raft(beat.clone()),
        raft(append_of(vec![small.clone(), large.clone(), small])),
        raft(beat),
    ];
    let pieces = encode(&frames);
    assert_eq!(pieces.len(), 3, "before, the large payload, after");
    assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "the payload itself, not a copy");
    assert_eq!(decode(&pieces.concat(), &[77]).unwrap(), frames);
}

#[test]
fn received_payloads_are_slices_of_the_receive_buffer() {
    let bytes = bytes_of(&[raft(append_of(vec![Bytes::from(vec![5; 1000]); 3]))]);
    let mut received = BytesMut::from(&bytes[..]);
    let range = received.as_ptr() as usize..received.as_ptr() as usize + received.len();
    let frame = FrameDecoder::new().decode(&mut received).unwrap().unwrap();
    let Frame::Raft { message: Message::Append(append), .. } = frame else { panic!("{frame:?}") };
    for entry in append.entries {
        assert!(range.contains(&(entry.payload.as_ptr() as usize)));
    }
}

#[test]
fn an_append_larger_than_a_frame_is_refused_and_leaves_nothing_behind() {
    let mut out = OutBuf::new();
    let payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
    let found = out.push_message(ShardId(0), &append_of(vec![payload.clone(); 4]));
    assert!(matches!(found, Err(EncodeError::TooLong { kind: 20, .. })), "{found:?}");
    assert!(out.is_empty());
    out.push_message(ShardId(0), &append_of(vec![payload; 3])).unwrap();
    assert!(out.bytes() > 3 * PAYLOAD_BYTES_MAX && out.bytes() < FRAME_BYTES_MAX);
}

#[test]
fn lengths_are_refused_before_their_bytes_arrive() {
    for (kind, length) in
        [(20, FRAME_BYTES_MAX as u32), (1, 1025), (22, 1000), (6, 1 << 16), (20, u32::MAX)]
    {
        let mut bytes = sealed(kind, 0, &[]);
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..20]);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        let found = decode(&bytes, &[24]);
        assert!(matches!(found, Err(WireError::TooLong { .. })), "{kind} {length}: {found:?}");
    }
}

#[test]
fn a_table_that_promises_more_than_the_frame_has_is_refused() {
    let mut body = Vec::new();
    for number in [1_u64, 0, 0, 0] {
        body.extend(number.to_le_bytes());
    }
    body.extend(u32::MAX.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    let found = decode(&sealed(20, 0, &body), &[1000]);
    assert!(matches!(found, Err(WireError::Malformed { .. })), "{found:?}");
    // Indexes that overflow: the place before is the last there is.
    body[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    body[32..36].copy_from_slice(&1_u32.to_le_bytes());
    body.extend([0; 16]);
    let found = decode(&sealed(20, 0, &body), &[1000]);
    let problem = "log indexes overflow";
    assert_eq!(found, Err(WireError::Malformed { kind: 20, shard: ShardId(0), problem }));
}

#[test]
fn long_texts_in_greetings_are_cut_at_a_character() {
    let text = "ä".repeat(REFUSAL_TEXT_BYTES_MAX);
    let reply = HelloReply::Refused { reason: RefuseReason::Busy, text };
    let found = decode(&bytes_of(&[Frame::HelloReply(reply)]), &[1000]).unwrap();
    let [Frame::HelloReply(HelloReply::Refused { text, .. })] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(text.len(), REFUSAL_TEXT_BYTES_MAX);
    let hello = Hello { cluster_id: "x".repeat(CLUSTER_ID_BYTES_MAX + 1), ..golden_hello() };
    let found = decode(&bytes_of(&[Frame::Hello(hello)]), &[1000]).unwrap();
    let [Frame::Hello(hello)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(hello.cluster_id.len(), CLUSTER_ID_BYTES_MAX);
}

fn golden_hello() -> Hello {
    Hello {
        cluster_id: "coracle".to_owned(),
        node: NodeId(3),
        core: CoreId(1),
        cores: 2,
        shards: 16,
        instance: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
    }
}

fn golden_members() -> Vec<MemberRecord> {
    let first = MemberRecord::new(NodeId(1), ("10.0.0.1", 7001), ("10.0.0.1", 8001));
    let second = MemberRecord::new(NodeId(2), ("two.example", 7001), ("[::2]", 8001));
    let third = MemberRecord::new(NodeId(3), ("c", 7001), ("c", 8001));
    vec![
        MemberRecord { version: 0x0102_0304, incarnation: Some(0x11 << 120 | 0x22), ..first },
        MemberRecord { version: 2, removed: true, ..second },
        MemberRecord { admin: Some("c:9001".to_owned()), ..third },
    ]
}

fn golden_frames() -> Vec<(&'static str, Frame)> {
    let term = Term(7);
    let (last_index, last_term) = (LogIndex(0x0102_0304), Term(6));
    let noop = Entry { term, index: LogIndex(11), kind: EntryKind::Noop, payload: Bytes::new() };
    let payload = Bytes::from_static(b"hello");
    let normal = Entry { term, index: LogIndex(12), kind: EntryKind::Normal, payload };
    let payload = Readmission { node: NodeId(3), incarnation: 0x0102_0304_0506_0708 }.encode();
    let readmission = Entry { term, index: LogIndex(13), kind: EntryKind::Readmission, payload };
    let append = Append {
        term,
        prev_index: LogIndex(10),
        prev_term: Term(6),
        commit: LogIndex(9),
        entries: vec![noop, normal, readmission],
    };
    let members = [
        Change::Remove(NodeId(2)),
        Change::AddVoter(NodeId(4)),
        Change::AddLearner(NodeId(1)),
        Change::AddLearner(NodeId(9)),
    ];
    let joint = Configuration::of_voters([1, 2, 3].map(NodeId)).unwrap();
    let payload = joint.enter_joint(&members, true).unwrap().encode();
    let index = append.prev_index.next();
    let change = Entry { term, index, kind: EntryKind::Reconfiguration, payload };
    let changing = Append { entries: vec![change], ..append.clone() };
    let accepted = AppendOutcome::Accepted { matched: LogIndex(12) };
    let rejected = AppendOutcome::Rejected {
        prev_index: LogIndex(10),
        hint_index: LogIndex(8),
        hint_term: Term(5),
    };
    let refused =
        HelloReply::Refused { reason: RefuseReason::Cluster, text: "other cluster".to_owned() };
    let busy = HelloReply::Refused { reason: RefuseReason::Busy, text: "not now".to_owned() };
    let heartbeat_reply =
        HeartbeatReply { term, round: 4, standing: Standing::Member, quiet_ms: 500, priority: -3 };
    let standing = Standing::Returning(0x1112_1314_1516_1718);
    let returning = HeartbeatReply { standing, ..heartbeat_reply };
    let offer = SnapshotOffer { term, index: last_index, snapshot_term: last_term };
    let census_reply = CensusReply { term, empty: true, incarnation: 0x1112_1314_1516_1718 };
    let raft = |message| Frame::Raft { shard: ShardId(0x0A0B), message };
    let committed = CommitMark { index: LogIndex(0x1718), term: Term(0x191A) };
    let reply = |outcome| {
        raft(Message::AppendReply(AppendReply { term, outcome, standing: Standing::Member }))
    };
    vec![
        ("Hello", Frame::Hello(golden_hello())),
        ("HelloReply accepted", Frame::HelloReply(HelloReply::Accepted(golden_hello()))),
        ("HelloReply refused", Frame::HelloReply(refused)),
        ("Introduction", Frame::Introduction(golden_hello())),
        ("Members", Frame::Members(golden_members())),
        ("Pulse", Frame::Pulse(Pulse { count: 3, hash: 0x1112_1314_1516_1718 })),
        ("PreVote", raft(Message::PreVote(PreVote { term, last_index, last_term, committed }))),
        (
            "PreVoteReply",
            raft(Message::PreVoteReply(PreVoteReply { term, granted: true, committed })),
        ),
        (
            "Vote",
            raft(Message::Vote(Vote { term, last_index, last_term, transfer: false, committed })),
        ),
        (
            "Vote of a transfer",
            raft(Message::Vote(Vote { term, last_index, last_term, transfer: true, committed })),
        ),
        ("VoteReply", raft(Message::VoteReply(VoteReply { term, granted: false, committed }))),
        ("Append", raft(Message::Append(append))),
        ("Append of a reconfiguration", raft(Message::Append(changing))),
        ("AppendReply accepted", reply(accepted)),
        ("AppendReply rejected", reply(rejected)),
        ("Heartbeat", raft(Message::Heartbeat(Heartbeat { term, commit: LogIndex(12), round: 4 }))),
        ("HeartbeatReply", raft(Message::HeartbeatReply(heartbeat_reply))),
        ("HeartbeatReply returning", raft(Message::HeartbeatReply(returning))),
        ("TimeoutNow", raft(Message::TimeoutNow(TimeoutNow { term }))),
        ("SnapshotOffer", raft(Message::SnapshotOffer(offer))),
        ("Census", raft(Message::Census(Census { incarnation: 0x1112_1314_1516_1718 }))),
        ("CensusReply", raft(Message::CensusReply(census_reply))),
        ("Quiesce", raft(Message::Quiesce(Quiesce { term, last: last_index }))),
        ("Quiesced", raft(Message::Quiesced(Quiesced { term, last: last_index, asleep: true }))),
        ("ReadIndex", raft(Message::ReadIndex(ReadIndex { term, id: 21, standing }))),
        (
            "ReadIndexReply",
            raft(Message::ReadIndexReply(ReadIndexReply { term, id: 21, committed })),
        ),
        ("SnapshotHello", Frame::SnapshotHello(golden_hello())),
        ("SnapshotHelloReply refused", Frame::SnapshotHelloReply(busy)),
    ]
}

#[test]
fn an_address_book_that_is_none_is_refused() {
    let body = |records: &[MemberRecord]| {
        bytes_of(&[Frame::Members(records.to_vec())])[HEADER_BYTES..].to_vec()
    };
    let refused = |body: &[u8]| match decode(&sealed(6, 0, body), &[1000]) {
        Err(WireError::Malformed { kind: 6, problem, .. }) => problem,
        found => panic!("{found:?}"),
    };
    let good = golden_members();
    let changed = |change: &dyn Fn(&mut MemberRecord)| {
        let mut record = good[2].clone();
        change(&mut record);
        refused(&body(&[record]))
    };
    changed(&|record| record.id = NodeId(0));
    changed(&|record| record.version = MEMBER_VERSION_MAX + 1);
    changed(&|record| record.client_host.clear());
    changed(&|record| record.peer_host = "a host".to_owned());
    changed(&|record| record.admin = Some("x\n".to_owned()));
    changed(&|record| record.peer_port = 0);
    let twice = [good[0].clone(), good[0].clone()];
    assert_eq!(refused(&body(&twice)), "members are not in the order of their ids");
    let mut flags = body(&good[..1]);
    flags[2 + 16] = 8;
    assert_eq!(refused(&flags), "unknown flags of a member");
    flags[2 + 16] = 0;
    assert_eq!(refused(&flags), "a member has what its flags say is not there");
    let mut many = body(&[]);
    many[..2].copy_from_slice(&(BOOK_RECORDS_MAX as u16 + 1).to_le_bytes());
    assert_eq!(refused(&many), "more members than a book has");
    let on_a_shard = sealed(6, 1, &body(&good));
    assert!(matches!(decode(&on_a_shard, &[1000]), Err(WireError::Malformed { .. })));
}

/// The largest book that can be fits a frame, and one that is larger is refused.
#[test]
fn the_largest_address_book_fits_a_frame() {
    let host = "h".repeat(HOST_BYTES_MAX);
    let record = |id| MemberRecord {
        admin: Some(host.clone()),
        incarnation: Some(u128::MAX),
        version: MEMBER_VERSION_MAX,
        ..MemberRecord::new(NodeId(id), (&host, u16::MAX), (&host, u16::MAX))
    };
    let book: Vec<_> = (1..=BOOK_RECORDS_MAX as u64).map(record).collect();
    let frames = [Frame::Members(book.clone())];
    assert_eq!(decode(&bytes_of(&frames), &[1000]).unwrap(), frames);
    let more: Vec<_> = book.into_iter().chain([record(u64::MAX)]).collect();
    let refused = OutBuf::new().push_members(more.iter());
    assert!(matches!(refused, Err(EncodeError::TooLong { kind: 6, .. })), "{refused:?}");
}

/// The format is what `testdata/wire/v5.txt` says. A change of the file without a new version number
/// cuts off every node that runs the old program.
#[test]
fn the_format_is_the_documented_one() {
    let mut text = String::new();
    for (name, frame) in golden_frames() {
        let bytes = bytes_of(std::slice::from_ref(&frame));
        assert_eq!(decode(&bytes, &[1000]).unwrap(), [frame]);
        writeln!(text, "{name}").unwrap();
        for (number, line) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "  {:04x}  {}", number * 16, hex.join(" ")).unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/wire/v5.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

/// A term at the end of its range would overflow at the next election: one such message from a broken
/// peer would stop the shard for good.
#[test]
fn a_term_beyond_all_that_can_be_is_refused() {
    for (term, accepted) in [(TERM_MAX, true), (TERM_MAX + 1, false), (u64::MAX, false)] {
        let reply =
            VoteReply { term: Term(term), granted: false, committed: CommitMark::default() };
        let found = decode(&bytes_of(&[raft(Message::VoteReply(reply))]), &[1000]);
        assert_eq!(found.is_ok(), accepted, "{term}: {found:?}");
    }
}
