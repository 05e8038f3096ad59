//! Port ranges on loopback that no other test and no other program uses.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Nodes a range has room for.
const NODES: u16 = 6;
/// Ports between two nodes, as in `coracle dev`.
const NODE_STEP: u16 = 10;
/// Ports between client ports and peer ports, as in `coracle dev`.
const PEER_STEP: u16 = 1000;
/// Ports between client ports and admin ports, as by default.
const ADMIN_STEP: u16 = 2000;
/// Ports of a block: some ranges of client ports, their peer ports, their admin ports.
const BLOCK: u16 = ADMIN_STEP + PEER_STEP;
/// Below the range that Linux gives to outgoing connections (from 32768).
const FIRST: u16 = 12_000;
const RANGES: u16 = 96;

/// A reserved range: node *n* (from 1) has its client ports from `base + 10 (n - 1)`, its peer ports
/// 1000 above, its admin port 2000 above. Held until dropped.
#[derive(Debug)]
pub struct Ports {
    /// First client port of node 1.
    pub base: u16,
    _reservation: UnixListener,
}

impl Ports {
    /// Reserves a range in which all ports are free now.
    pub fn reserve() -> Self {
        let start = u16::try_from(std::process::id() % u32::from(RANGES)).unwrap();
        (0..RANGES)
            .find_map(|nth| Self::try_reserve((start + nth) % RANGES))
            .expect("some range of ports is free")
    }

    fn try_reserve(nth: u16) -> Option<Self> {
        let per_block = PEER_STEP / (NODES * NODE_STEP);
        let base = FIRST + nth / per_block * BLOCK + nth % per_block * NODES * NODE_STEP;
        // A name in the abstract namespace belongs to one process and goes when it ends.
        let name = SocketAddr::from_abstract_name(format!("coracle-test-ports-{base}")).ok()?;
        let reservation = UnixListener::bind_addr(&name).ok()?;
        let mut ports = (base..base + NODES * NODE_STEP)
            .flat_map(|port| [port, port + PEER_STEP, port + ADMIN_STEP]);
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        ports.all(is_free).then_some(Self { base, _reservation: reservation })
    }

    /// First client port of node `id` (from 1).
    pub fn client(&self, id: u64) -> u16 {
        self.base + NODE_STEP * u16::try_from(id - 1).unwrap()
    }

    /// Admin port of node `id` (from 1).
    pub fn admin(&self, id: u64) -> u16 {
        self.client(id) + ADMIN_STEP
    }

    /// First peer port of node `id` (from 1).
    pub fn peer(&self, id: u64) -> u16 {
        self.client(id) + PEER_STEP
    }
}
