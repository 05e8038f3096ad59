//! Opens a connection to a peer core that serves snapshots.

use bytes::BytesMut;

use super::pull::ConnectError;
use crate::core::peers::{DialError, read_frame, write};
use crate::env::Env;
use crate::limits::CONNECT_TIMEOUT;
use crate::wire::{Frame, Hello, HelloReply};
use crate::{CoreId, NodeId};

/// A connection that was greeted: its halves, and what came along with the answer.
pub type Greeted<E> = (<E as Env>::Reader, <E as Env>::Writer, BytesMut);

/// Connects to `core` of `node` at `address` (`host:port`) and asks it to serve snapshots. `ours` is what
/// this core says in the greetings of its links, too: the same checks apply.
///
/// # Errors
/// [`ConnectError`]; trying again later may help with any of them.
pub async fn connect<E: Env>(
    env: &E,
    address: &str,
    ours: &Hello,
    (node, core): (NodeId, CoreId),
) -> Result<Greeted<E>, ConnectError> {
    let (mut reader, mut writer) = env.connect(address, CONNECT_TIMEOUT).await?;
    write(&mut writer, |out| out.push_snapshot_hello(ours)).await?;
    let (frame, early) = match read_frame(env, &mut reader).await {
        Ok(read) => read,
        Err(DialError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(ConnectError::Refused(error.to_string())),
    };
    match frame {
        Frame::SnapshotHelloReply(HelloReply::Accepted(theirs)) => {
            if (theirs.node, theirs.core) == (node, core) {
                return Ok((reader, writer, early));
            }
            let text = format!("{address} is node {} core {}", theirs.node, theirs.core);
            Err(ConnectError::Refused(text))
        }
        // Of a peer that can't read our version, the answer is one to a plain greeting.
        Frame::SnapshotHelloReply(HelloReply::Refused { text, .. })
        | Frame::HelloReply(HelloReply::Refused { text, .. }) => {
            Err(ConnectError::Refused(format!("by node {node} ({address}): {text}")))
        }
        other => Err(ConnectError::Refused(format!("bad answer to the greeting: {other:?}"))),
    }
}
