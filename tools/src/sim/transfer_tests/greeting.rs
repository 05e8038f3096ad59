//! How a puller is greeted by the core that it connects to.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_engine::core::MemberView;
use coracle_engine::env::{Env, StreamReader, StreamWriter};
use coracle_engine::snapshot::Manifest;
use coracle_engine::transfer::budget::TransferBudget;
use coracle_engine::transfer::cancel::Cancel;
use coracle_engine::transfer::dial::connect;
use coracle_engine::transfer::message::{ANSWER_BYTES, Answer, Part, Request, Status};
use coracle_engine::transfer::pull::{ConnectError, Pull, PullError, PullLimits, PullProgress};
use coracle_engine::wire::{Frame, FrameDecoder, Hello, HelloReply, OutBuf};
use coracle_engine::{CoreId, NodeId};

use super::rig::{ADDRESS, Rig, chunks_of, id};

const SENDER: (NodeId, CoreId) = (NodeId(1), CoreId(0));

fn hello(node: u64) -> Hello {
    Hello {
        cluster_id: "test".to_owned(),
        node: NodeId(node),
        core: CoreId(0),
        cores: 1,
        shards: 4,
        instance: u128::from(node),
    }
}

fn members() -> Vec<MemberView> {
    let member = |id| MemberView {
        id: NodeId(id),
        peer_host: format!("n{id}"),
        peer_port: 7100,
        client_host: format!("n{id}"),
        client_port: 8100,
        cores: None,
        up: false,
    };
    vec![member(1), member(2)]
}

fn pull(rig: &Rig, ours: Hello) -> Result<Rc<Manifest>, PullError> {
    let (env, store) = (rig.receiver_env(), rig.receiver_store());
    rig.at_receiver(async move {
        let pull = Pull {
            env: &env,
            store: &store,
            id: id(10),
            limits: PullLimits::default(),
            budget: &TransferBudget::unlimited(),
            progress: &PullProgress::default(),
            cancel: &Cancel::default(),
        };
        pull.run(async || connect(&env, ADDRESS, &ours, SENDER).await).await
    })
}

fn refused(rig: &Rig, ours: Hello, expected: (NodeId, CoreId)) -> String {
    let env = rig.receiver_env();
    let result =
        rig.at_receiver(async move { connect(&env, ADDRESS, &ours, expected).await.map(drop) });
    let Err(ConnectError::Refused(text)) = result else { panic!("{result:?}") };
    text
}

#[test]
fn a_member_is_served_by_the_core_that_it_connects_to() {
    let mut rig = Rig::new(1);
    let chunks = chunks_of(7, &[100_000, 1, 5000]);
    rig.give(id(10), chunks.clone());
    rig.start_core(hello(1), members(), true);
    assert_eq!(pull(&rig, hello(2)).unwrap().id, id(10));
    assert!(rig.received(id(10)) == chunks);
}

#[test]
fn who_does_not_belong_here_is_refused_with_the_reason() {
    let mut rig = Rig::new(2);
    rig.start_core(hello(1), members(), true);
    let other_cluster = Hello { cluster_id: "other".to_owned(), ..hello(2) };
    let other_shards = Hello { shards: 5, ..hello(2) };
    for (ours, reason) in [
        (other_cluster, "this is cluster 'test', not 'other'"),
        (other_shards, "this cluster has 4 shards, not 5"),
        (hello(3), "node 3 is not a member of the cluster"),
        (hello(1), "node id 1 is this node"),
    ] {
        let text = refused(&rig, ours, SENDER);
        assert!(text.contains(reason), "{text}");
    }
    let text = refused(&rig, hello(2), (NodeId(1), CoreId(1)));
    assert!(text.contains("is node 1 core 0"), "{text}");
    assert_eq!(rig.sender().counters().connections, 1, "only the last one came in");
}

#[test]
fn a_core_without_snapshots_says_so() {
    let mut rig = Rig::new(3);
    rig.start_core(hello(1), members(), false);
    let text = refused(&rig, hello(2), SENDER);
    assert!(text.contains("no snapshots to give now"), "{text}");
}

/// Requests that come along with the greeting were read by the decoder of frames: they count.
#[test]
fn requests_that_come_with_the_greeting_are_answered() {
    let mut rig = Rig::new(4);
    rig.give(id(10), chunks_of(7, &[10]));
    rig.start_core(hello(1), members(), true);
    let env = rig.receiver_env();
    let (greeted, answer) = rig.at_receiver(async move {
        let timeout = Duration::from_secs(2);
        let (mut reader, mut writer) = env.connect(ADDRESS, timeout).await.unwrap();
        let mut out = OutBuf::new();
        out.push_snapshot_hello(&hello(2)).unwrap();
        let mut bufs = Vec::new();
        out.take(&mut bufs);
        let request = Request { snapshot: id(10), part: Part::Chunk(0) }.encode();
        bufs.push(Bytes::copy_from_slice(&request));
        writer.write_all(&mut bufs).await.unwrap();
        let (mut decoder, mut buf) = (FrameDecoder::new(), BytesMut::with_capacity(4096));
        let greeted = loop {
            if let Some(frame) = decoder.decode(&mut buf).unwrap() {
                break frame;
            }
            buf.reserve(4096);
            assert!(reader.read(&mut buf).await.unwrap() > 0);
        };
        while buf.len() < ANSWER_BYTES + 10 {
            buf.reserve(4096);
            assert!(reader.read(&mut buf).await.unwrap() > 0);
        }
        (greeted, Answer::decode(buf.first_chunk().unwrap()).unwrap())
    });
    let accepted = HelloReply::Accepted(hello(1));
    assert_eq!(greeted, Frame::SnapshotHelloReply(accepted));
    assert_eq!((answer.part, answer.status, answer.bytes), (Part::Chunk(0), Status::Ok, 10));
}
