//! A network namespace for each node, all on one bridge, and the test on it, too. Takes root.
//!
//! Two faults, both without a word to anybody, so that TCP does what it does when packets are lost:
//! * a node's cable is **unplugged**: its end of the bridge goes down;
//! * packets of one node to another are **dropped**: the first is given a hardware address for the
//!   second that nobody has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use super::proxy::FaultId;

/// A hardware address that no interface has.
const NOBODY: &str = "02:00:00:00:00:fe";

/// Names of bridges, interfaces and namespaces: this, the number of the network, and what it is.
const PREFIX: &str = "coratest";

/// Networks that tests may have at the same time.
const NETWORKS: u8 = 50;

/// The networks of the nodes of one cluster; removed when dropped.
#[derive(Debug)]
pub struct Namespaces {
    number: u8,
    descriptors: BTreeMap<u64, File>,
    dropped: BTreeMap<(u64, u64), BTreeSet<FaultId>>,
    unplugged: BTreeMap<u64, BTreeSet<FaultId>>,
    _reservation: UnixListener,
}

impl Namespaces {
    /// Makes them for nodes 1 to `nodes`; the reason when that is not possible here.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn make(nodes: u64) -> Result<Self, String> {
        let (number, reservation) = (0..NETWORKS)
            .find_map(|number| Some((number, reserve(number)?)))
            .ok_or("too many test networks")?;
        let mut made = Self {
            number,
            descriptors: BTreeMap::new(),
            dropped: BTreeMap::new(),
            unplugged: BTreeMap::new(),
            _reservation: reservation,
        };
        // What a test that was killed may have left under this number.
        made.remove(nodes);
        let (bridge, address) = (made.bridge(), format!("{}/24", made.host(254)));
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for id in 1..=nodes {
            made.plug(id)?;
        }
        Ok(made)
    }

    fn plug(&mut self, id: u64) -> Result<(), String> {
        let (space, cable, bridge) = (self.space(id), self.cable(id), self.bridge());
        let address = format!("{}/24", self.host(id));
        ip(&["netns", "add", &space])?;
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["link", "set", &cable, "master", &bridge, "up"])?;
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        let descriptor = File::open(Path::new("/run/netns").join(&space));
        self.descriptors.insert(id, descriptor.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// The address of node `id`; 254 is the test's own.
    pub fn host(&self, id: u64) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, u8::try_from(id).unwrap())
    }

    /// For setns(2).
    pub fn descriptor(&self, id: u64) -> libc::c_int {
        self.descriptors[&id].as_raw_fd()
    }

    /// Loses the packets of one node to another.
    #[track_caller]
    pub fn drop_packets(&mut self, fault: FaultId, from: u64, to: u64) {
        let (space, host) = (self.space(from), self.host(to).to_string());
        let neighbour = ["-n", &space, "neigh", "replace", &host, "lladdr", NOBODY];
        let how = ["dev", "eth0", "nud", "permanent"];
        ip(&[&neighbour[..], &how[..]].concat()).unwrap();
        self.dropped.entry((from, to)).or_default().insert(fault);
    }

    /// Pulls a node's cable.
    #[track_caller]
    pub fn unplug(&mut self, fault: FaultId, id: u64) {
        ip(&["link", "set", &self.cable(id), "down"]).unwrap();
        self.unplugged.entry(id).or_default().insert(fault);
    }

    /// Takes a fault away, wherever it is.
    #[track_caller]
    pub fn heal(&mut self, fault: FaultId) {
        let (mut dropped, mut unplugged) =
            (std::mem::take(&mut self.dropped), std::mem::take(&mut self.unplugged));
        for ((from, to), faults) in &mut dropped {
            if faults.remove(&fault) && faults.is_empty() {
                let host = self.host(*to).to_string();
                ip(&["-n", &self.space(*from), "neigh", "del", &host, "dev", "eth0"]).unwrap();
            }
        }
        for (id, faults) in &mut unplugged {
            if faults.remove(&fault) && faults.is_empty() {
                ip(&["link", "set", &self.cable(*id), "up"]).unwrap();
            }
        }
        (self.dropped, self.unplugged) = (dropped, unplugged);
    }

    fn remove(&self, nodes: u64) {
        // Errors mean that there is nothing to remove.
        for id in 1..=nodes {
            let _ = ip(&["link", "del", &self.cable(id)]);
            let _ = ip(&["netns", "del", &self.space(id)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }

    fn bridge(&self) -> String {
        format!("{PREFIX}{}", self.number)
    }

    fn cable(&self, id: u64) -> String {
        format!("{PREFIX}{}-{id}", self.number)
    }

    fn space(&self, id: u64) -> String {
        self.cable(id)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove(self.descriptors.keys().max().copied().unwrap_or_default());
    }
}

/// Holds the number of a network; like ports, by a name that goes with the process.
fn reserve(number: u8) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("coracle-test-network-{number}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), reason.trim()))
}

/// Whether there is any sense in trying.
pub fn is_possible() -> bool {
    super::super::confine::is_root() && fs::metadata("/proc/self/ns/net").is_ok()
}
