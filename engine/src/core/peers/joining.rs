//! How a node that knows one address of a cluster learns the rest.
//!
//! Core 0 of the node introduces itself at that address, which is the peer port of any core of any member. Whoever
//! accepts the introduction sends its address book after the answer, and dials us from then on. A cluster that does
//! not know us refuses us: somebody has to add us first, so we ask again and again, with pauses, and say in the log
//! what is missing. It ends when a link is up: from then on the book is enough, and so it is after a restart, for
//! as long as one of its addresses is right.

use std::rc::Rc;

use super::{
    DialError, Gate, MEMBERS_BYTES_MAX, Pause, exchange_hellos, read_frame_within, report,
};
use crate::core::signal::Signal;
use crate::env::Env;
use crate::members::MemberRecord;
use crate::wire::{Frame, HEADER_BYTES, RefuseReason};

/// Asks at `address` until a link is up.
pub(super) async fn join<E: Env>(env: E, gate: Rc<Gate>, address: String) {
    let (mut pause, mut reported) = (Pause::default(), String::new());
    let peer = format!("the cluster at {address}");
    while !gate.is_stopping() && gate.links.borrow().is_empty() {
        match ask(&env, &gate, &address).await {
            Ok(records) => {
                if reported.is_empty() {
                    tracing::info!("joining {peer}: it has {} members", records.len());
                }
                if !gate.inbox.hear_members(records) {
                    tracing::debug!("no room for what {peer} says of its members");
                }
            }
            Err(error) => report(&peer, &explained(&gate, error), &mut reported),
        }
        pause.wait(&env, &Signal::default()).await;
    }
}

/// Learns the members from whoever is at `address`.
async fn ask<E: Env>(env: &E, gate: &Gate, address: &str) -> Result<Vec<MemberRecord>, DialError> {
    let (_, mut reader, _writer, received) = exchange_hellos(env, gate, address, true).await?;
    let bytes_max = HEADER_BYTES + MEMBERS_BYTES_MAX;
    match read_frame_within(env, &mut reader, received, bytes_max).await? {
        (Frame::Members(records), _) => Ok(records),
        (other, _) => Err(DialError::BadFrame(format!("{other:?}"))),
    }
}

/// The same error with what to do about it.
fn explained(gate: &Gate, error: DialError) -> DialError {
    let DialError::Refused { peer, reason, text } = error else { return error };
    let id = gate.hello.node;
    let own = gate.inbox.book.borrow().get(id).map(ToString::to_string);
    let add = own.unwrap_or_else(|| format!("{id}=CLIENT_HOST:PORT,PEER_HOST:PORT"));
    let text = match reason {
        RefuseReason::UnknownNode => {
            format!("node {id} is not a member yet: run coraclectl add {add} ({text})")
        }
        RefuseReason::Removed => format!("{text}: run coraclectl add {add}"),
        RefuseReason::Shards => {
            format!("{text}; start this node with that number and an empty data directory")
        }
        _ => text,
    };
    DialError::Refused { peer, reason, text }
}
