//! The replies of `CLUSTER` subcommands that need nothing but the view of the cluster.

use std::fmt::Write as _;

use coracle_engine::core::ClusterView;

use super::topology::{ClusterNode, Topology};
use crate::server::limits::SLOTS;
use crate::server::resp::Writer;

/// A subcommand of `CLUSTER` about the cluster as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named like the subcommands
pub enum ClusterCommand {
    Slots,
    Shards,
    Nodes,
    Info,
    MyId,
    Links,
}

/// Writes the reply of a subcommand.
pub fn reply(command: ClusterCommand, view: &ClusterView, out: &mut Writer<'_>) {
    let topology = Topology::of(view);
    match command {
        ClusterCommand::Slots => slots(&topology, out),
        ClusterCommand::Shards => shards(&topology, out),
        ClusterCommand::Nodes => out.verbatim(&nodes(&topology)),
        ClusterCommand::Info => out.verbatim(&info(&topology, view)),
        ClusterCommand::MyId => out.text(topology.myself.map_or("", |at| &topology.nodes[at].id)),
        ClusterCommand::Links => out.array(0),
    }
}

fn slots(topology: &Topology, out: &mut Writer<'_>) {
    out.array(topology.ranges.len());
    for range in &topology.ranges {
        out.array(3 + range.replicas.len());
        out.integer(range.first.into());
        out.integer(range.last.into());
        for &place in std::iter::once(&range.master).chain(&range.replicas) {
            let node = &topology.nodes[place];
            out.array(4);
            out.text(&node.host);
            out.integer(node.port.into());
            out.text(&node.id);
            out.array(0);
        }
    }
}

fn shards(topology: &Topology, out: &mut Writer<'_>) {
    let masters: Vec<_> = topology.nodes.iter().filter(|node| node.is_master()).collect();
    out.array(masters.len());
    for master in masters {
        let own = |place: &&usize| {
            let replicates = topology.nodes[**place].replicates;
            replicates.is_some_and(|of| topology.nodes[of].id == master.id)
        };
        let replicas: Vec<_> = master.replicas.iter().filter(own).collect();
        out.map(2);
        out.text("slots");
        out.array(master.ranges.len() * 2);
        for (first, last) in &master.ranges {
            out.integer((*first).into());
            out.integer((*last).into());
        }
        out.text("nodes");
        out.array(1 + replicas.len());
        shard_node(master, "master", out);
        replicas.iter().for_each(|place| shard_node(&topology.nodes[**place], "replica", out));
    }
}

fn shard_node(node: &ClusterNode, role: &str, out: &mut Writer<'_>) {
    out.map(7);
    out.text("id");
    out.text(&node.id);
    out.text("port");
    out.integer(node.port.into());
    out.text("ip");
    out.text(&node.host);
    out.text("endpoint");
    out.text(&node.host);
    out.text("role");
    out.text(role);
    out.text("replication-offset");
    out.integer(0);
    out.text("health");
    out.text(if node.up { "online" } else { "failed" });
}

fn nodes(topology: &Topology) -> String {
    (0..topology.nodes.len()).map(|place| topology.line(place) + "\n").collect()
}

impl Topology {
    /// A node as `CLUSTER NODES` shows it, without the line end.
    fn line(&self, place: usize) -> String {
        let node = &self.nodes[place];
        let myself = if self.myself == Some(place) { "myself," } else { "" };
        let role = if node.is_master() { "master" } else { "slave" };
        let fail = if node.up { "" } else { ",fail?" };
        let master = node.replicates.map_or("-", |master| &self.nodes[master].id);
        let link = if node.up { "connected" } else { "disconnected" };
        let (ClusterNode { id, host, port, bus_port, .. }, epoch) = (node, self.epoch);
        let mut line = format!(
            "{id} {host}:{port}@{bus_port} {myself}{role}{fail} {master} 0 0 {epoch} {link}"
        );
        for (first, last) in &node.ranges {
            let _ = match first == last {
                true => write!(line, " {first}"),
                false => write!(line, " {first}-{last}"),
            };
        }
        line
    }

    /// The replicas of a master as `CLUSTER REPLICAS` shows them.
    #[must_use]
    pub(in crate::server) fn replica_lines(&self, master: usize) -> Vec<String> {
        let replicates = |place: &usize| self.nodes[*place].replicates == Some(master);
        (0..self.nodes.len()).filter(replicates).map(|place| self.line(place)).collect()
    }
}

fn info(topology: &Topology, view: &ClusterView) -> String {
    let ok = topology.slots_served == SLOTS;
    let masters = topology.nodes.iter().filter(|node| !node.ranges.is_empty()).count();
    let epoch = topology.epoch;
    let mine = view.leaders.iter().filter(|(_, leader)| *leader == Some(view.node));
    let my_epoch = mine.map(|(term, _)| term.0).max().unwrap_or(0);
    format!(
        "cluster_enabled:1\r\ncluster_state:{}\r\ncluster_slots_assigned:{SLOTS}\r\n\
         cluster_slots_ok:{}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\n\
         cluster_known_nodes:{}\r\ncluster_size:{masters}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{my_epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        if ok { "ok" } else { "fail" },
        topology.slots_served,
        SLOTS - topology.slots_served,
        topology.nodes.len(),
    )
}
