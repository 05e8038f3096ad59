//! The in-process cluster behind the benchmark, with a state machine that only counts.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use coracle::{
    Apply, Committed, Config, Consistency, ImageBuffer, LocalCluster, LocalClusterConfig, Node,
    NodeHandle, NodeId, Pending, ProposeError, QueryError, Restore, ShardId, SnapshotError,
    SnapshotStream, StateMachine, WholeImage,
};
use futures_util::TryFutureExt;
use futures_util::future::MapErr;

use super::drive::{Target, block_on};

/// How long a leader may take to answer a query.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Counts what it is given, and says how much that was when queried: eight bytes, little-endian.
#[derive(Default)]
struct Counter {
    applied: u64,
    /// What has come of a snapshot.
    restoring: ImageBuffer,
}

impl StateMachine for Counter {
    fn apply(&mut self, _: Apply<'_>, _: &mut BytesMut) {
        self.applied += 1;
    }

    fn query(&self, _: &Bytes, reply: &mut BytesMut) {
        reply.put_u64_le(self.applied);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        Ok(Box::new(WholeImage::new(self.applied.to_le_bytes().to_vec())))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        if let Some(image) = self.restoring.take(part)? {
            let damaged = |_| SnapshotError::Damaged("a counter has eight bytes".to_owned());
            self.applied = u64::from_le_bytes(image[..].try_into().map_err(damaged)?);
        }
        Ok(())
    }
}

/// A running cluster and the ways into its nodes.
pub struct Cluster {
    nodes: LocalCluster,
    handles: Vec<NodeHandle>,
}

impl Cluster {
    /// Starts `nodes` nodes of `cores` cores on free loopback ports, with their data in `dir`. `adjust` may change
    /// the configuration of each.
    ///
    /// # Errors
    /// Whatever keeps a node from starting; it says what to do.
    pub fn start(
        dir: &Path,
        nodes: u16,
        cores: u16,
        shards: u32,
        adjust: impl Fn(&mut Config),
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let free = LocalClusterConfig::on_free_ports(dir)?;
        let config = LocalClusterConfig { nodes, cores, shards, ..free };
        let nodes = LocalCluster::start_with(&config, |mut node| {
            adjust(&mut node);
            Node::builder(node, |_| Box::new(Counter::default()))
        })?;
        let handles = nodes.handles();
        Ok(Self { nodes, handles })
    }

    /// The ways into the nodes, in the order of their ids.
    pub fn handles(&self) -> &[NodeHandle] {
        &self.handles
    }

    /// Entries applied over all shards, read from their leaders; `None` for a shard whose leader
    /// does not answer.
    pub fn applied(&self, shards: u32) -> Option<u64> {
        (0..shards).map(|shard| self.applied_in(ShardId(shard))).sum()
    }

    fn applied_in(&self, shard: ShardId) -> Option<u64> {
        let ask = |handle: &NodeHandle| {
            let answer = handle.query(shard, Bytes::new(), Consistency::Linearizable);
            block_on(answer, Instant::now() + ANSWER_WITHIN)?.ok()
        };
        let answer = self.handles.iter().find_map(ask)?;
        Some(u64::from_le_bytes(answer[..].try_into().ok()?))
    }

    /// Stops all nodes.
    pub fn stop(self) {
        self.nodes.stop();
    }
}

impl Target for Cluster {
    type Reply = Committed;
    type Answer = Pending<Committed, ProposeError>;

    fn request(&self, node: usize, shard: ShardId, payload: Bytes) -> Self::Answer {
        self.handles[node].propose(shard, payload)
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.handles.iter().position(|handle| handle.id() == id)
    }

    fn nodes(&self) -> usize {
        self.handles.len()
    }
}

/// The cluster as a target of reads.
pub struct Reads<'a> {
    /// Which cluster.
    pub cluster: &'a Cluster,
    /// What they may return.
    pub consistency: Consistency,
    /// For each shard a node that answers in place of whoever is asked; empty: whoever is asked does.
    pub instead: Vec<usize>,
}

impl Cluster {
    /// For each shard a node that does not lead it, as far as is known; the only one there is, where that leads.
    pub fn followers(&self, shards: u32) -> Vec<usize> {
        let follower = |shard| {
            let leads = |handle: &NodeHandle| {
                let leader =
                    block_on(handle.leader(ShardId(shard)), Instant::now() + ANSWER_WITHIN);
                leader.flatten() == Some(handle.id())
            };
            self.handles.iter().position(|handle| !leads(handle)).unwrap_or(0)
        };
        (0..shards).map(follower).collect()
    }
}

impl Target for Reads<'_> {
    type Reply = Bytes;
    type Answer = MapErr<Pending<Bytes, QueryError>, fn(QueryError) -> ProposeError>;

    fn request(&self, node: usize, shard: ShardId, payload: Bytes) -> Self::Answer {
        let node = self.instead.get(shard.0 as usize).copied().unwrap_or(node);
        self.cluster.handles[node].query(shard, payload, self.consistency).map_err(as_proposal)
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.cluster.place(id)
    }

    fn nodes(&self) -> usize {
        self.cluster.nodes()
    }
}

/// All that befalls a read befalls proposals, too.
fn as_proposal(error: QueryError) -> ProposeError {
    match error {
        QueryError::NotLeader { shard, leader } | QueryError::TooStale { shard, leader } => {
            ProposeError::NotLeader { shard, leader }
        }
        QueryError::Overloaded(what) => ProposeError::Overloaded(what),
        QueryError::ShuttingDown => ProposeError::ShuttingDown,
        QueryError::UnknownShard(shard) => ProposeError::UnknownShard(shard),
    }
}
