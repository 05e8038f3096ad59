//! What lies between the nodes of a test cluster, and how it is made worse.
//!
//! * [`proxy`] passes frames on between their peer ports, and can lose, delay, reorder, repeat and
//!   damage them; it works everywhere.
//! * [`namespace`] gives each node a network of its own, whose packets it can drop, those of clients
//!   included; it takes root.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

pub mod frame;
pub mod namespace;
pub mod proxy;
pub mod rule;

use namespace::Namespaces;
use proxy::{FaultId, Proxy};
use rule::Rule;

use super::ports::Ports;

/// The network of a cluster.
#[derive(Debug)]
pub enum Network {
    /// Loopback, as it is.
    Plain,
    /// Loopback for clients, a proxy between the nodes.
    Proxied(Proxy),
    /// A network namespace for each node.
    Namespaces(Namespaces),
}

impl Network {
    /// A proxy between the `nodes` that have these ports.
    pub fn proxied(ports: &Ports, nodes: u64, seed: u64) -> Self {
        let peer = |id| (id, SocketAddr::from((Ipv4Addr::LOCALHOST, ports.peer(id))));
        let peers: BTreeMap<_, _> = (1..=nodes).map(peer).collect();
        Self::Proxied(Proxy::start(&peers, seed))
    }

    /// The host that node `id` listens at.
    pub fn host(&self, id: u64) -> Ipv4Addr {
        match self {
            Self::Plain | Self::Proxied(_) => Ipv4Addr::LOCALHOST,
            Self::Namespaces(namespaces) => namespaces.host(id),
        }
    }

    /// Where `viewer` finds the peer port of `node`, which listens at `port`.
    pub fn peer(&self, viewer: u64, node: u64, port: u16) -> SocketAddr {
        match self {
            Self::Proxied(proxy) if viewer != node => proxy.address(viewer, node),
            _ => (self.host(node), port).into(),
        }
    }

    /// Makes the way of peer messages from one node to another worse.
    #[track_caller]
    pub fn impair(&mut self, fault: FaultId, from: u64, to: u64, rule: Rule) {
        match self {
            Self::Plain => panic!("a plain network has no faults"),
            Self::Proxied(proxy) => proxy.impair(fault, from, to, rule),
            Self::Namespaces(namespaces) => {
                assert_eq!(rule, Rule::deaf(), "namespaces can only drop packets");
                namespaces.drop_packets(fault, from, to);
            }
        }
    }

    /// Takes node `id` off the network: in a namespace, also for clients.
    #[track_caller]
    pub fn isolate(&mut self, fault: FaultId, id: u64, nodes: u64) {
        if let Self::Namespaces(namespaces) = self {
            return namespaces.unplug(fault, id);
        }
        for other in (1..=nodes).filter(|other| *other != id) {
            self.impair(fault, id, other, Rule::deaf());
            self.impair(fault, other, id, Rule::deaf());
        }
    }

    /// Takes a fault away, wherever it is.
    pub fn heal(&mut self, fault: FaultId) {
        match self {
            Self::Plain => {}
            Self::Proxied(proxy) => proxy.heal(fault),
            Self::Namespaces(namespaces) => namespaces.heal(fault),
        }
    }

    /// The proxy, if this is one.
    pub fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Proxied(proxy) => Some(proxy),
            _ => None,
        }
    }

    /// The network namespace that node `id` belongs into.
    pub fn namespace(&self, id: u64) -> Option<libc::c_int> {
        match self {
            Self::Namespaces(namespaces) => Some(namespaces.descriptor(id)),
            _ => None,
        }
    }
}
