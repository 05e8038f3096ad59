//! Error replies for what the engine refuses, and redirections.

use bytes::{Bytes, BytesMut};
use coracle_engine::core::ClusterView;
use coracle_engine::{NodeId, ProposeError, QueryError, ShardId};

use super::cluster::{Route, moved, route};
use super::resp::{Protocol, Writer};

const SLOT_DOWN: &str = "CLUSTERDOWN Hash slot not served";
const STOPPING: &str = "CLUSTERDOWN The node is shutting down";

/// An error reply; `text` starts with its code.
pub(super) fn error(text: &str) -> Bytes {
    let mut reply = BytesMut::with_capacity(text.len() + 3);
    Writer::new(&mut reply, Protocol::Resp2).error(text);
    reply.freeze()
}

/// The reply for a slot that this core does not serve; `None` if it does.
pub(super) fn redirection(route: &Route, slot: u16) -> Option<Bytes> {
    match route {
        Route::Here(_) => None,
        Route::Moved { host, port, .. } => Some(error(&format!("MOVED {slot} {host}:{port}"))),
        Route::Down(_) => Some(error(SLOT_DOWN)),
    }
}

fn not_leader(view: &ClusterView, slot: u16, shard: ShardId, leader: Option<NodeId>) -> Bytes {
    let hinted = leader
        .filter(|leader| *leader != view.node)
        .map_or_else(|| route(view, slot), |leader| moved(view, shard, leader));
    // The view may still name this core: it is about to change, so there is no leader now.
    redirection(&hinted, slot).unwrap_or_else(|| error(SLOT_DOWN))
}

/// The reply to a write that has no result.
pub(super) fn of_proposal(view: &ClusterView, slot: u16, why: &ProposeError) -> Bytes {
    match why {
        ProposeError::NotLeader { shard, leader } => not_leader(view, slot, *shard, *leader),
        ProposeError::Overloaded(limit) => overloaded(limit),
        ProposeError::TooLarge { bytes, max } => error(&format!(
            "ERR request too large: it takes {bytes} bytes in the log, at most {max} are allowed"
        )),
        ProposeError::OutcomeUnknown { .. } => error(
            "UNKNOWN outcome unknown: leadership was lost while the write was under way; it may or \
             may not take effect",
        ),
        ProposeError::NoSpace => {
            error("NOSPACE disk full: writes are refused until space returns; reads are served")
        }
        ProposeError::StorageFailed(why) => error(&format!(
            "IOERR the log of this core failed: {why}; restart the node after mending the disk"
        )),
        ProposeError::ShuttingDown => error(STOPPING),
        ProposeError::UnknownShard(_) => error(SLOT_DOWN),
    }
}

/// The reply to a read that has no result.
pub(super) fn of_query(view: &ClusterView, slot: u16, why: &QueryError) -> Bytes {
    match why {
        // Who may be asked instead is the same: the leader can show how new its state is, if anybody can.
        QueryError::NotLeader { shard, leader } | QueryError::TooStale { shard, leader } => {
            not_leader(view, slot, *shard, *leader)
        }
        QueryError::Overloaded(limit) => overloaded(limit),
        QueryError::ShuttingDown => error(STOPPING),
        QueryError::UnknownShard(_) => error(SLOT_DOWN),
    }
}

/// The reply when a limit was reached before anything was done.
pub(super) fn overloaded(limit: &str) -> Bytes {
    error(&format!("TRYAGAIN overloaded: {limit}; try again later"))
}
