//! A whole cluster in one process: for trying things out, for tests, for profilers.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;

use crate::node::{NodeBuilder, StartError};
use crate::{Config, Member, Node, NodeHandle, NodeId, ShardId, StateMachine};

/// Distance of the peer ports from the client ports.
const PEER_PORT_OFFSET: u16 = 1000;
/// Distance of the first client ports of two nodes.
const NODE_PORT_STEP: u16 = 10;

/// Ports looked for: three nodes need no more.
const PORTS_WANTED: u16 = 40;

/// What a [`LocalCluster`] is made of.
#[derive(Clone, Debug)]
pub struct LocalClusterConfig {
    /// Nodes; 1 to 9.
    pub nodes: u16,
    /// Cores of each node; up to 10, for that is the distance of the nodes' ports.
    pub cores: u16,
    /// Shards.
    pub shards: u32,
    /// First client port of node 1; node *n* starts at this + 10 (n - 1), its peer ports are 1000
    /// above.
    pub port: u16,
    /// Each node keeps its data in a subdirectory `node-N`.
    pub data_dir: PathBuf,
}

impl LocalClusterConfig {
    /// Three nodes of one core with 16 shards, on ports that are free now.
    ///
    /// # Errors
    /// No free range of ports was found.
    pub fn on_free_ports(data_dir: impl Into<PathBuf>) -> io::Result<Self> {
        let port = free_port_range()?;
        Ok(Self { nodes: 3, cores: 1, shards: 16, port, data_dir: data_dir.into() })
    }

    /// The members, all on the loopback interface.
    pub fn members(&self) -> Vec<Member> {
        let member = |n: u16| {
            let client_port = self.port + NODE_PORT_STEP * (n - 1);
            Member {
                id: NodeId(n.into()),
                client_host: "127.0.0.1".to_owned(),
                client_port,
                peer_host: "127.0.0.1".to_owned(),
                peer_port: client_port + PEER_PORT_OFFSET,
            }
        };
        (1..=self.nodes).map(member).collect()
    }

    /// The configuration of each node.
    pub fn nodes(&self) -> Vec<Config> {
        let members = self.members();
        let config = |member: &Member| {
            let dir = self.data_dir.join(format!("node-{}", member.id));
            let mut config = Config::new(member.id, dir, members.clone());
            config.cores = self.cores;
            config.shards = self.shards;
            config
        };
        members.iter().map(config).collect()
    }
}

/// A cluster whose nodes all run in this process.
pub struct LocalCluster {
    nodes: Vec<Node>,
}

impl LocalCluster {
    /// Starts all nodes, each with the state machines that `machines` makes.
    ///
    /// # Errors
    /// As [`NodeBuilder::start`]; the nodes that had started are stopped again.
    pub fn start(
        config: &LocalClusterConfig,
        machines: impl Fn(ShardId) -> Box<dyn StateMachine> + Clone + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::start_with(config, |node| Node::builder(node, machines.clone()))
    }

    /// Starts all nodes, each as `build` describes it.
    ///
    /// # Errors
    /// As [`LocalCluster::start`].
    pub fn start_with(
        config: &LocalClusterConfig,
        build: impl Fn(Config) -> NodeBuilder,
    ) -> Result<Self, StartError> {
        let nodes = config.nodes().into_iter().map(|node| build(node).start());
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()? })
    }

    /// The way into each node, in the order of their ids.
    #[must_use]
    pub fn handles(&self) -> Vec<NodeHandle> {
        self.nodes.iter().map(Node::handle).collect()
    }

    /// Stops all nodes.
    pub fn stop(self) {
        // All at once: a node that stops alone would wait for a quorum that goes away.
        std::thread::scope(|scope| {
            for node in self.nodes {
                scope.spawn(|| node.stop());
            }
        });
    }
}

/// A port such that the client and peer ports of a small cluster from there on are free now. Below
/// the range from which the kernel takes ports for outgoing connections, so that they stay free.
fn free_port_range() -> io::Result<u16> {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    for _ in 0..100 {
        let first = fastrand::u16(10_000..30_000);
        let peers = first + PEER_PORT_OFFSET;
        if (first..first + PORTS_WANTED).chain(peers..peers + PORTS_WANTED).all(|p| is_free(&p)) {
            return Ok(first);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "found no range of free ports"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::{Bytes, BytesMut};

    use coracle_engine::core::ClusterEvent;

    use super::*;
    use crate::{Apply, Consistency, ProposeError, QueryError};

    struct Nothing;

    impl StateMachine for Nothing {
        fn apply(&mut self, _: Apply<'_>, _: &mut BytesMut) {}
        fn query(&self, _: &Bytes, _: &mut BytesMut) {}
    }

    fn wait<T>(answer: impl Future<Output = T> + Send + 'static) -> T
    where
        T: Send + 'static,
    {
        crate::wal::run(|_| answer).unwrap()
    }

    /// Has whoever leads `shard` hand over, as soon as that is possible. Gives who leads then.
    async fn hand_over(nodes: &[NodeHandle], shard: ShardId) -> NodeId {
        loop {
            for node in nodes {
                if let Ok(next) = node.transfer_leadership(shard, None).await {
                    return next;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn subscribers_hear_who_leads_each_change_once_until_the_node_ends() {
        let dir = tempfile::tempdir().unwrap();
        let free = LocalClusterConfig::on_free_ports(dir.path()).unwrap();
        let config = LocalClusterConfig { shards: 2, ..free };
        let cluster = LocalCluster::start(&config, |_| Box::new(Nothing)).unwrap();
        let nodes = cluster.handles();
        let mut events = nodes[0].subscribe().unwrap();
        let too_many: Vec<_> = std::iter::from_fn(|| nodes[0].subscribe()).collect();
        assert_eq!(too_many.len() + 1, coracle_engine::limits::SUBSCRIBERS_MAX);
        drop(too_many);
        drop(nodes[0].subscribe().unwrap());
        let shard = ShardId(1);
        let (told, events) = wait(async move {
            let next = hand_over(&nodes, shard).await;
            let mut told = Vec::new();
            while told.last().is_none_or(|(_, leader)| *leader != Some(next)) {
                match events.next().await.unwrap() {
                    ClusterEvent::Leader { shard: of, term, leader } if of == shard => {
                        told.push((term, leader));
                    }
                    ClusterEvent::Missed(missed) => panic!("{missed} missed"),
                    _ => {}
                }
            }
            (told, events)
        });
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "told twice: {told:?}");
        assert!(told.is_sorted_by_key(|(term, _)| *term), "{told:?}");
        cluster.stop();
        wait(async move {
            let mut events = events;
            while events.next().await.is_some() {}
        });
    }

    /// A request to a node that had stopped was never answered.
    #[test]
    fn a_handle_outlives_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalClusterConfig {
            nodes: 1,
            shards: 2,
            ..LocalClusterConfig::on_free_ports(dir.path()).unwrap()
        };
        let cluster = LocalCluster::start(&config, |_| Box::new(Nothing)).unwrap();
        let handle = cluster.handles().remove(0);
        cluster.stop();
        let shard = ShardId(1);
        let refused = wait(handle.propose(shard, &b"late"[..]));
        assert_eq!(refused, Err(ProposeError::ShuttingDown));
        let refused = wait(handle.query(shard, Bytes::new(), Consistency::Linearizable));
        assert_eq!(refused, Err(QueryError::ShuttingDown));
        assert!(wait(async move { handle.status().await }).is_empty());
    }
}
