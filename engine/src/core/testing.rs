//! The core's side of a handle, for tests of protocols that are built on handles; the core's way to accept
//! its peers; and the records of the core's log, for fuzzing.
//!
//! [`CoreHandle::detached`] gives a handle with no core behind it. With these functions a test plays the
//! core: it takes the requests out, in order, and answers each as it likes, now or later.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coracle_wal::{Lsn, RecordView};
use futures_channel::oneshot;

use super::handle::{Committed, Consistency, CoreHandle, Position, Request};
use super::inbox::{Event, Inbox};
use super::peers::Gate;
use super::status::{CoreCounters, ShardStatus};
use super::view::{ClusterView, MemberView, Replicas};
use crate::env::Env;
use crate::limits::Limits;
use crate::raft::membership::Reconfiguration;
use crate::raft::{Entry, HardState};
use crate::tier::{self, Base, RecoveredShard, Recovery, ReplayError};
use crate::transfer::serve::SnapshotService;
use crate::wire::Hello;
use crate::{
    LogIndex, NodeId, ProposeError, QueryError, ReconfigureError, ShardId, SnapshotRequestError,
    TransferError,
};

/// Where the outcome of a request goes. Dropping it is what a lost core does.
#[derive(Debug)]
pub struct Answer<T, E>(oneshot::Sender<Result<T, E>>);

impl<T, E> Answer<T, E> {
    /// Ends the request. `false` if nobody waits for the outcome any more.
    pub fn send(self, outcome: Result<T, E>) -> bool {
        self.0.send(outcome).is_ok()
    }
}

/// A request as the core sees it.
#[derive(Debug)]
pub enum TestRequest {
    /// A proposal.
    Propose {
        /// The shard.
        shard: ShardId,
        /// What is proposed.
        payload: Bytes,
        /// Where the outcome goes.
        answer: Answer<Committed, ProposeError>,
    },
    /// A query.
    Query {
        /// The shard.
        shard: ShardId,
        /// What is asked.
        payload: Bytes,
        /// What the answer may be.
        consistency: Consistency,
        /// Where the outcome goes.
        answer: Answer<Bytes, QueryError>,
    },
    /// How a shard is.
    Status {
        /// The shard.
        shard: ShardId,
        /// Where the outcome goes.
        answer: Answer<ShardStatus, QueryError>,
    },
    /// Who belongs to a shard is to change.
    Reconfigure {
        /// The shard.
        shard: ShardId,
        /// The change.
        change: Reconfiguration,
        /// Where the outcome goes.
        answer: Answer<Position, ReconfigureError>,
    },
    /// A snapshot is wanted.
    Snapshot {
        /// The shard.
        shard: ShardId,
        /// Where the outcome goes.
        answer: Answer<LogIndex, SnapshotRequestError>,
    },
    /// Leadership is to be handed over.
    Transfer {
        /// The shard.
        shard: ShardId,
        /// To whom; to anybody if `None`.
        to: Option<NodeId>,
        /// Where the outcome goes.
        answer: Answer<NodeId, TransferError>,
    },
}

/// Takes the oldest request that the handle or one of its clones has submitted.
pub fn take_request(handle: &CoreHandle) -> Option<TestRequest> {
    let Some(Event::Request(request)) = handle.inbox().pop() else { return None };
    Some(match request {
        Request::Propose { shard, payload, answer, .. } => {
            TestRequest::Propose { shard, payload, answer: Answer(answer) }
        }
        Request::Query { shard, payload, consistency, answer } => {
            TestRequest::Query { shard, payload, consistency, answer: Answer(answer) }
        }
        Request::Status { shard, answer } => TestRequest::Status { shard, answer: Answer(answer) },
        Request::Reconfigure { shard, change, answer } => {
            TestRequest::Reconfigure { shard, change, answer: Answer(answer) }
        }
        Request::Snapshot { shard, answer } => {
            TestRequest::Snapshot { shard, answer: Answer(answer) }
        }
        Request::Transfer { shard, to, answer } => {
            TestRequest::Transfer { shard, to, answer: Answer(answer) }
        }
    })
}

/// Changes what the handle and its clones see of the cluster.
pub fn change_view(handle: &CoreHandle, change: impl FnOnce(&mut ClusterView)) {
    change(&mut handle.inbox().view.borrow_mut());
}

/// Sets how old what followers answer may be; see [`CoreHandle::replica_reads`].
pub fn set_replica_read_staleness(handle: &CoreHandle, bound: Option<Duration>) {
    handle.inbox().replica_read_staleness.set(bound);
}

/// Changes the counters that the handle and its clones see.
pub fn change_counters(handle: &CoreHandle, change: impl FnOnce(&mut CoreCounters)) {
    let mut counters = handle.counters();
    change(&mut counters);
    handle.inbox().counters.set(counters);
}

/// Accepts peers as a core does that says `hello` of itself, and serves them snapshots; there is no core
/// behind it that would take messages.
pub fn accept_peers<E: Env>(
    env: &E,
    listener: E::Listener,
    hello: Hello,
    members: Vec<MemberView>,
    snapshots: Option<Rc<SnapshotService<E::Disk>>>,
) {
    let view = ClusterView {
        cluster_id: hello.cluster_id.clone(),
        node: hello.node,
        core: hello.core,
        shards: hello.shards,
        replicas: Replicas::on_all(hello.shards, &members),
        members,
        leaders: Vec::new(),
    };
    let inbox = Rc::new(Inbox::new(view, Limits::default()));
    Gate::new(inbox, hello, Duration::from_secs(1)).start(env, listener, snapshots);
}

/// What a restart without snapshots makes of the records of a core's log: every shard that can go on.
///
/// # Errors
/// [`ReplayError`] for records that this version can't have written.
pub fn replay<'a>(
    found: impl IntoIterator<Item = RecordView<'a>>,
) -> Result<BTreeMap<ShardId, RecoveredShard>, ReplayError> {
    let mut recovery = Recovery::new(u64::MAX);
    found.into_iter().for_each(|record| recovery.record(&record, Lsn(0)));
    let shards = recovery.finish(&BTreeMap::new())?.shards;
    Ok(shards.into_iter().filter_map(|(id, shard)| Some((id, shard.ok()?))).collect())
}

/// Kind and payload of the record of an entry.
pub fn entry_record(shard: ShardId, entry: &Entry) -> (u8, Vec<u8>) {
    let head = tier::entry_head(entry);
    let record = tier::entry_record(shard, &head, entry);
    (record.kind, [record.head, record.body].concat())
}

/// Kind and payload of the record of a hard state.
pub fn hard_state_record(shard: ShardId, state: &HardState) -> (u8, Vec<u8>) {
    let head = tier::hard_state_head(state);
    let record = tier::hard_state_record(shard, &head);
    (record.kind, [record.head, record.body].concat())
}

/// Kind and payload of the record of an entry that is written again.
pub fn kept_record(shard: ShardId, entry: &Entry) -> (u8, Vec<u8>) {
    let head = tier::entry_head(entry);
    let record = tier::kept_record(shard, &head, &entry.payload);
    (record.kind, [record.head, record.body].concat())
}

/// Kind and payload of the record of a base.
pub fn base_record(shard: ShardId, base: &Base) -> (u8, Vec<u8>) {
    let head = tier::base_head(base);
    let record = tier::base_record(shard, &head);
    (record.kind, [record.head, record.body].concat())
}
