//! The in-process cluster behind the benchmark, with a state machine that only counts.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use coracle::{
    Apply, Committed, Consistency, ImageBuffer, LocalCluster, LocalClusterConfig, NodeHandle,
    NodeId, Pending, ProposeError, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine,
    WholeImage,
};

use super::drive::{Propose, block_on};

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
    /// Starts `nodes` nodes of `cores` cores on free loopback ports, with their data in `dir`.
    ///
    /// # Errors
    /// Whatever keeps a node from starting; it says what to do.
    pub fn start(
        dir: &Path,
        nodes: u16,
        cores: u16,
        shards: u32,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let free = LocalClusterConfig::on_free_ports(dir)?;
        let config = LocalClusterConfig { nodes, cores, shards, ..free };
        let nodes = LocalCluster::start(&config, |_| Box::new(Counter::default()))?;
        let handles = nodes.handles();
        Ok(Self { nodes, handles })
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

impl Propose for Cluster {
    type Answer = Pending<Committed, ProposeError>;

    fn propose(&self, node: usize, shard: ShardId, payload: Bytes) -> Self::Answer {
        self.handles[node].propose(shard, payload)
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.handles.iter().position(|handle| handle.id() == id)
    }

    fn nodes(&self) -> usize {
        self.handles.len()
    }
}
