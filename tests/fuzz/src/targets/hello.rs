//! The greeting of a connection between nodes: bodies of any content in a frame that is right.
//!
//! The first byte of the input chooses the type of frame, the rest is its body.

use coracle_engine::limits::{CLUSTER_ID_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX};
use coracle_engine::wire::{Frame, HEADER_BYTES, Hello, HelloReply, VERSION};

use super::frames::{decode, encode, examples, mend};
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "hello",
    run,
    mend: None,
    seeds,
    memory: Memory {
        constant: 64 << 10,
        factor: 16,
        reason: "the frame, its copy and its texts; nothing multiplies",
    },
};

/// The types of frames that greet: hello, its answer, an introduction; one that asks for snapshots, its
/// answer.
const KINDS: [u8; 5] = [1, 2, 5, 32, 33];

fn run(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let kind = KINDS[usize::from(*choice) % KINDS.len()];
    let mut bytes = vec![0xC0, 0xAC, VERSION, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend(body);
    mend(&mut bytes);
    let (frames, error) = decode(&bytes, std::iter::repeat(bytes.len()));
    assert_eq!(frames.len() + usize::from(error.is_some()), 1, "a greeting or an error");
    let [frame] = frames.as_slice() else { return };
    match frame {
        Frame::Hello(hello) | Frame::Introduction(hello) | Frame::SnapshotHello(hello) => {
            check(hello);
        }
        Frame::HelloReply(HelloReply::Accepted(hello))
        | Frame::SnapshotHelloReply(HelloReply::Accepted(hello)) => check(hello),
        Frame::HelloReply(HelloReply::Refused { text, .. })
        | Frame::SnapshotHelloReply(HelloReply::Refused { text, .. }) => {
            assert!(text.len() <= REFUSAL_TEXT_BYTES_MAX);
        }
        other => panic!("no greeting: {other:?}"),
    }
    assert_eq!(encode(&frames), bytes, "a greeting can be written in one way only");
}

fn check(hello: &Hello) {
    assert!(hello.node.0 > 0 && hello.shards > 0 && hello.core.0 < hello.cores, "{hello:?}");
    assert!(hello.cluster_id.len() <= CLUSTER_ID_BYTES_MAX);
}

fn seeds() -> Vec<Seed> {
    let greetings = examples().into_iter().filter_map(|(name, frame)| {
        let bytes = encode(&[frame]);
        let choice = KINDS.iter().position(|kind| *kind == bytes[3])?;
        Some(Seed::new(name, [&[choice as u8], &bytes[HEADER_BYTES..]].concat()))
    });
    greetings.collect()
}
