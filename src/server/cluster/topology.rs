//! Nodes with their slot ranges, and where a slot is served, from the core's view of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use coracle_engine::core::ClusterView;
use coracle_engine::{CoreId, NodeId, ShardId};

use super::slots::{shard_of_slot, slots_of_shard};

/// Where a slot is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By this core, which leads the shard.
    Here(ShardId),
    /// By another core.
    Moved {
        /// The slot's shard.
        shard: ShardId,
        /// The leading core's client address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// No leader is known, or not its address.
    Down(ShardId),
}

/// Where `slot` is served, as far as this core knows.
#[must_use]
pub fn route(view: &ClusterView, slot: u16) -> Route {
    let shard = shard_of_slot(slot, view.shards);
    let Some(leader) = view.leader(shard) else { return Route::Down(shard) };
    if leader == view.node && view.is_local(shard) {
        return Route::Here(shard);
    }
    moved(view, shard, leader)
}

/// The redirection to `leader`'s core for `shard`.
#[must_use]
pub(crate) fn moved(view: &ClusterView, shard: ShardId, leader: NodeId) -> Route {
    match (view.member(leader), view.core_of(leader, shard)) {
        (Some(member), Some(core)) => Route::Moved {
            shard,
            host: member.client_host.clone(),
            port: port_of_core(member.client_port, core),
        },
        _ => Route::Down(shard),
    }
}

fn port_of_core(base: u16, core: CoreId) -> u16 {
    base.saturating_add(core.0)
}

/// The 40 hexadecimal digits by which clients know a core. The same wherever and whenever it is
/// computed.
#[must_use]
pub fn node_id(cluster_id: &str, node: NodeId, core: CoreId) -> String {
    // FNV-1a over the cluster's name, then SplitMix64: spreads, keeps nothing secret.
    let name = cluster_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let seed = mix(mix(name) ^ node.0).wrapping_add(u64::from(core.0));
    let [first, second, third] = [1, 2, 3].map(|step| mix(seed.wrapping_add(step << 32)));
    format!("{first:016x}{second:016x}{:08x}", third as u32)
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A core as a node of the Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its 40 hexadecimal digits.
    pub id: String,
    /// The process it belongs to.
    pub node: NodeId,
    /// The core.
    pub core: CoreId,
    /// Client address.
    pub host: String,
    /// Client port.
    pub port: u16,
    /// Peer port, shown as the cluster bus port.
    pub bus_port: u16,
    /// Whether its process can be reached.
    pub up: bool,
    /// Slot ranges it serves as master, both ends included, in order, neighbours merged.
    pub ranges: Vec<(u16, u16)>,
    /// The cores that hold copies of its ranges and lead nothing, as indexes into
    /// [`Topology::nodes`].
    pub replicas: Vec<usize>,
    /// Of a core that leads nothing: the master whose copies it holds, if there is one.
    pub replicates: Option<usize>,
}

impl ClusterNode {
    /// Whether it leads any slot.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.replicates.is_none()
    }
}

/// A contiguous range of slots, who serves it and who holds copies; indexes into
/// [`Topology::nodes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot, included.
    pub last: u16,
    /// The core that leads it.
    pub master: usize,
    /// The cores that hold copies and lead nothing.
    pub replicas: Vec<usize>,
}

/// All cores and slot ranges.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The cores in the order of node and core; only those whose core count is known.
    pub nodes: Vec<ClusterNode>,
    /// The slot ranges that have a leader, in order.
    pub ranges: Vec<SlotRange>,
    /// This core's place in `nodes`.
    pub myself: Option<usize>,
    /// Slots that have a leader.
    pub slots_served: u16,
    /// The largest term of any shard: grows with every change of leadership.
    pub epoch: u64,
}

impl Topology {
    /// Arranges what the core knows.
    #[must_use]
    pub fn of(view: &ClusterView) -> Self {
        let mut nodes = Vec::new();
        let mut places = BTreeMap::new();
        for member in &view.members {
            for core in (0..member.cores.unwrap_or(0)).map(CoreId) {
                places.insert((member.id, core), nodes.len());
                nodes.push(ClusterNode {
                    id: node_id(&view.cluster_id, member.id, core),
                    node: member.id,
                    core,
                    host: member.client_host.clone(),
                    port: port_of_core(member.client_port, core),
                    bus_port: port_of_core(member.peer_port, core),
                    up: member.up,
                    ranges: Vec::new(),
                    replicas: Vec::new(),
                    replicates: None,
                });
            }
        }
        let mut topology = Self {
            myself: places.get(&(view.node, view.core)).copied(),
            ranges: slot_ranges(view, &places),
            epoch: view.leaders.iter().map(|(term, _)| term.0).max().unwrap_or(0),
            slots_served: 0,
            nodes,
        };
        topology.assign();
        topology
    }

    /// Gives the nodes their ranges, masters and replicas.
    ///
    /// Nearly every core leads some shards and follows in others, which no Redis node does: clients
    /// (redis-py among them) take a node that is named as a replica anywhere for a replica everywhere
    /// and lose a master. So only cores that lead nothing are shown as replicas.
    fn assign(&mut self) {
        let leads: BTreeSet<usize> = self.ranges.iter().map(|range| range.master).collect();
        for range in &mut self.ranges {
            range.replicas.retain(|replica| !leads.contains(replica));
        }
        let mut replicas = vec![BTreeSet::new(); self.nodes.len()];
        for range in &self.ranges {
            self.slots_served += range.last - range.first + 1;
            let ranges = &mut self.nodes[range.master].ranges;
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == range.first => *last = range.last,
                _ => ranges.push((range.first, range.last)),
            }
            replicas[range.master].extend(range.replicas.iter().copied());
        }
        for (master, replicas) in replicas.into_iter().enumerate() {
            for &replica in &replicas {
                self.nodes[replica].replicates.get_or_insert(master);
            }
            self.nodes[master].replicas = replicas.into_iter().collect();
        }
    }
}

fn slot_ranges(view: &ClusterView, places: &BTreeMap<(NodeId, CoreId), usize>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for shard in (0..view.shards).map(ShardId) {
        let place = |node| places.get(&(node, view.core_of(node, shard)?)).copied();
        let slots = slots_of_shard(shard, view.shards);
        let Some(leader) = view.leader(shard) else { continue };
        let Some(master) = place(leader).filter(|_| !slots.is_empty()) else { continue };
        let others = view
            .members
            .iter()
            .filter(|member| member.id != leader && member.up && view.may_hold(member.id, shard));
        let replicas: Vec<usize> = others.filter_map(|member| place(member.id)).collect();
        match ranges.last_mut() {
            Some(before)
                if before.last + 1 == slots.start
                    && before.master == master
                    && before.replicas == replicas =>
            {
                before.last = slots.end - 1;
            }
            _ => {
                ranges.push(SlotRange { first: slots.start, last: slots.end - 1, master, replicas })
            }
        }
    }
    ranges
}
