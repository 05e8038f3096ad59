//! The greeting: who is at the other end, and whether the two ends may talk.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::body::{Problem, finish, get_u16, get_u32, get_u64};
use crate::limits::{CLUSTER_ID_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX};
use crate::{CoreId, NodeId};

/// Who a core is, as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Keeps clusters apart; at most [`CLUSTER_ID_BYTES_MAX`] bytes.
    pub cluster_id: String,
    /// The node.
    pub node: NodeId,
    /// The core that speaks.
    pub core: CoreId,
    /// How many cores the node has.
    pub cores: u16,
    /// How many shards its cluster has.
    pub shards: u32,
    /// Drawn anew at each start of the process: tells a restarted node from a second one with the
    /// same id.
    pub instance: u128,
}

/// Why a greeting was refused. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RefuseReason {
    /// Another version of the protocol.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// Not a member of the cluster.
    UnknownNode = 3,
    /// Another process with the same node id is connected.
    DuplicateNode = 4,
    /// The core does not exist or is not the one this port belongs to.
    WrongCore = 5,
    /// Another number of shards.
    Shards = 6,
    /// Not now: shutting down, or too many connections.
    Busy = 7,
    /// Was a member of the cluster, and was removed.
    Removed = 8,
}

impl RefuseReason {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::UnknownNode,
            4 => Self::DuplicateNode,
            5 => Self::WrongCore,
            6 => Self::Shards,
            7 => Self::Busy,
            8 => Self::Removed,
            _ => return None,
        })
    }
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    /// Welcome; and this is who answers.
    Accepted(Hello),
    /// The connection will be closed.
    Refused {
        /// Why, for the program.
        reason: RefuseReason,
        /// Why, for the operator; cut to [`REFUSAL_TEXT_BYTES_MAX`] bytes when sent.
        text: String,
    },
}

const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

pub(super) fn encode_hello(hello: &Hello, out: &mut BytesMut) {
    out.put_u64_le(hello.node.0);
    out.put_u128_le(hello.instance);
    out.put_u32_le(hello.shards);
    out.put_u16_le(hello.cores);
    out.put_u16_le(hello.core.0);
    encode_text(&hello.cluster_id, CLUSTER_ID_BYTES_MAX, out);
}

pub(super) fn encode_reply(reply: &HelloReply, out: &mut BytesMut) {
    match reply {
        HelloReply::Accepted(hello) => {
            out.put_u8(ACCEPTED);
            encode_hello(hello, out);
        }
        HelloReply::Refused { reason, text } => {
            out.put_u8(REFUSED);
            out.put_u16_le(*reason as u16);
            encode_text(text, REFUSAL_TEXT_BYTES_MAX, out);
        }
    }
}

pub(super) fn decode_hello(mut body: Bytes) -> Result<Hello, Problem> {
    let node = NodeId(get_u64(&mut body)?);
    let instance = body.try_get_u128_le().map_err(|_| Problem::SHORT)?;
    let shards = get_u32(&mut body)?;
    let cores = get_u16(&mut body)?;
    let core = CoreId(get_u16(&mut body)?);
    let cluster_id = decode_text(&mut body, CLUSTER_ID_BYTES_MAX)?;
    finish(&body)?;
    if node.0 == 0 {
        return Err(Problem("node id 0"));
    }
    if shards == 0 || core.0 >= cores {
        return Err(Problem("no shards, or a core beyond the core count"));
    }
    Ok(Hello { cluster_id, node, core, cores, shards, instance })
}

pub(super) fn decode_reply(mut body: Bytes) -> Result<HelloReply, Problem> {
    match body.try_get_u8().map_err(|_| Problem::SHORT)? {
        ACCEPTED => decode_hello(body).map(HelloReply::Accepted),
        REFUSED => {
            let number = get_u16(&mut body)?;
            let text = decode_text(&mut body, REFUSAL_TEXT_BYTES_MAX)?;
            finish(&body)?;
            let reason =
                RefuseReason::from_number(number).ok_or(Problem("unknown reason of refusal"))?;
            Ok(HelloReply::Refused { reason, text })
        }
        _ => Err(Problem("neither accepted nor refused")),
    }
}

/// Writes a text with its length, cut at a character boundary where it is too long.
pub(super) fn encode_text(text: &str, max: usize, out: &mut BytesMut) {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(u16::try_from(end).expect("text limits are below 64 KiB"));
    out.put_slice(&text.as_bytes()[..end]);
}

pub(super) fn decode_text(body: &mut Bytes, max: usize) -> Result<String, Problem> {
    let length = usize::from(get_u16(body)?);
    if length > max || length > body.len() {
        return Err(Problem("a text is longer than allowed, or than the frame"));
    }
    let bytes = body.split_to(length);
    let text = std::str::from_utf8(&bytes).map_err(|_| Problem("a text is not UTF-8"))?;
    Ok(text.to_owned())
}
