//! Three `serve` processes with their directories, or one `dev` process.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::client::{Client, Outcome, parse_slots, slot_of};
use super::confine::Confinement;
use super::network::Network;
use super::network::namespace::Namespaces;
use super::ports::Ports;
use super::process::{Ended, Process, temporary_directory};
use super::resp::{Connection, Reply};
use super::wait::{self, SOON};

/// Nodes of every test cluster.
pub const NODES: u64 = 3;

/// Shards of every test cluster: enough that each node leads some.
pub const SHARDS: u16 = 8;

/// Longest wait of a test client for one reply. A node that is killed closes its connections at
/// once; this one is for a node that hangs.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster of `serve` processes on loopback, one core each.
#[derive(Debug)]
pub struct Cluster {
    // Before the directory, so that the processes are gone when it is removed.
    nodes: BTreeMap<u64, Process>,
    network: Network,
    ports: Ports,
    settings: Vec<String>,
    directory: TempDir,
}

impl Cluster {
    /// Reserves ports and a directory; starts nothing.
    pub fn prepare() -> Self {
        Self::on(Network::Plain, Ports::reserve())
    }

    /// As [`Cluster::prepare`], with a proxy between the nodes.
    pub fn prepare_proxied(seed: u64) -> Self {
        let ports = Ports::reserve();
        Self::on(Network::proxied(&ports, NODES, seed), ports)
    }

    /// As [`Cluster::prepare`], with a network namespace for each node.
    ///
    /// # Errors
    /// Why that is not possible here.
    pub fn prepare_in_namespaces() -> Result<Self, String> {
        Ok(Self::on(Network::Namespaces(Namespaces::make(NODES)?), Ports::reserve()))
    }

    fn on(network: Network, ports: Ports) -> Self {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        Self { nodes: BTreeMap::new(), network, ports, settings: Vec::new(), directory }
    }

    /// What lies between the nodes.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// More arguments for nodes that are started from now on, with spaces between them.
    pub fn configure(&mut self, settings: &str) {
        self.settings = settings.split_whitespace().map(str::to_owned).collect();
    }

    /// Lets the directory outlive the cluster; gives its path.
    pub fn keep_directory(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// Starts three nodes and waits until every slot is served.
    pub fn start() -> Self {
        let mut cluster = Self::prepare();
        cluster.start_all();
        cluster
    }

    /// Starts the nodes that do not run and waits until every slot is served.
    pub fn start_all(&mut self) {
        for id in 1..=NODES {
            if !self.nodes.contains_key(&id) {
                self.start_node(id);
            }
        }
        self.wait_ready();
    }

    /// Starts node `id`; does not wait for it.
    pub fn start_node(&mut self, id: u64) {
        let network = self.network.namespace(id);
        self.start_node_in(id, Confinement { network, ..Confinement::default() });
    }

    /// Starts node `id` under a confinement; does not wait for it.
    pub fn start_node_in(&mut self, id: u64, confinement: Confinement) {
        let process = self.spawn(&format!("node {id}"), &self.arguments(id), confinement);
        assert!(self.nodes.insert(id, process).is_none(), "node {id} runs already");
    }

    /// Starts `coracle` with other arguments, its output beside that of the nodes.
    pub fn spawn(&self, name: &str, arguments: &[String], confinement: Confinement) -> Process {
        let log = self.directory.path().join(format!("{}.log", name.replace(' ', "-")));
        Process::start(name, arguments, &log, confinement)
    }

    /// The arguments of `coracle serve` for node `id`.
    pub fn arguments(&self, id: u64) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--id", id.to_string());
        option("--data-dir", self.data_dir(id).to_str().unwrap().to_owned());
        option("--cores", "1".to_owned());
        option("--shards", SHARDS.to_string());
        for member in 1..=NODES {
            option("--member", self.member_seen_by(id, member));
        }
        if matches!(self.network, Network::Namespaces(_)) {
            // By their addresses they look like machines of their own.
            option("--pin", "never".to_owned());
            arguments.push("--no-admin".to_owned());
        }
        arguments.extend(self.settings.iter().cloned());
        arguments
    }

    /// The value of `--member` for node `id`.
    pub fn member(&self, id: u64) -> String {
        self.member_seen_by(id, id)
    }

    /// The value of `--member` for node `id` that node `viewer` is given.
    fn member_seen_by(&self, viewer: u64, id: u64) -> String {
        let peer = self.network.peer(viewer, id, self.ports.peer(id));
        format!("{id}={},{peer}", self.address(id))
    }

    /// The data directory of node `id`.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("node-{id}"))
    }

    /// A path in the cluster's temporary directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The client address of node `id`.
    pub fn address(&self, id: u64) -> SocketAddr {
        (self.network.host(id), self.ports.client(id)).into()
    }

    /// The client addresses of all nodes.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        (1..=NODES).map(|id| self.address(id)).collect()
    }

    /// The peer address of node `id`.
    pub fn peer_address(&self, id: u64) -> SocketAddr {
        (self.network.host(id), self.ports.peer(id)).into()
    }

    /// Runs `coracle` with `arguments`, which it must refuse: with an exit code that is not 0, a
    /// message that has all of `fragments` (in any case), and no panic.
    #[track_caller]
    pub fn refuses(&self, arguments: &[String], confinement: Confinement, fragments: &[&str]) {
        let ended = self.spawn("refused", arguments, confinement).wait_end(SOON);
        let output = &ended.output;
        assert!(!ended.status.success(), "{arguments:?} was not refused:\n{output}");
        assert!(
            ended.status.code().is_some(),
            "{arguments:?} crashed, {}:\n{output}",
            ended.status
        );
        assert!(!output.contains("panicked"), "{arguments:?} panicked:\n{output}");
        for fragment in fragments {
            let found = output.to_lowercase().contains(&fragment.to_lowercase());
            assert!(found, "the refusal of {arguments:?} does not say {fragment:?}:\n{output}");
        }
    }

    /// The admin address of node `id`.
    pub fn admin_address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.admin(id)).into()
    }

    /// The process of node `id`.
    #[track_caller]
    pub fn node(&self, id: u64) -> &Process {
        self.nodes.get(&id).unwrap_or_else(|| panic!("node {id} does not run"))
    }

    /// The process of node `id`, to look at it; none if it does not run.
    pub fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.nodes.get_mut(&id)
    }

    /// Gives the process of node `id` away, to wait for its end.
    pub fn take_process(&mut self, id: u64) -> Option<Process> {
        self.nodes.remove(&id)
    }

    /// Kills node `id` as `kill -9` does.
    #[track_caller]
    pub fn kill(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap_or_else(|| panic!("node {id} does not run")).kill();
    }

    /// Kills all nodes as quickly as one can.
    pub fn kill_all(&mut self) {
        for process in self.nodes.values() {
            process.signal(libc::SIGKILL);
        }
        self.nodes.clear();
    }

    /// Removes the data of node `id`, which does not run.
    #[track_caller]
    pub fn wipe(&mut self, id: u64) {
        assert!(!self.nodes.contains_key(&id), "node {id} runs");
        std::fs::remove_dir_all(self.data_dir(id)).unwrap();
    }

    /// Asks node `id` to stop and waits until it has.
    #[track_caller]
    pub fn terminate(&mut self, id: u64) -> Ended {
        self.node(id).signal(libc::SIGTERM);
        self.nodes.remove(&id).unwrap().wait_end(SOON)
    }

    /// A new client.
    pub fn client(&self) -> Client {
        Client::new(self.addresses(), REPLY_TIMEOUT)
    }

    /// A connection to node `id`.
    #[track_caller]
    pub fn connect(&self, id: u64) -> Connection {
        wait::until(&format!("a connection to node {id}"), SOON, || {
            Connection::open(self.address(id), SOON).map_err(|error| error.to_string())
        })
    }

    /// Waits until a write to every shard is acknowledged. Panics when a node has ended.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let mut client = self.client();
        for shard in 0..SHARDS {
            let key = key_in_shard("ready", shard);
            wait::until(&format!("a write to shard {shard}"), SOON, || {
                self.assert_running();
                match client.set(&key, "yes", Duration::from_millis(500)) {
                    Outcome::Done(_) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
    }

    /// Panics when a node that was started has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        for (id, process) in &mut self.nodes {
            assert!(process.is_running(), "node {id} has ended:\n{}", process.output());
        }
    }

    /// The node that leads the shard of `key`, as the running node `asked` says.
    pub fn leader_of(&self, key: &str, asked: u64) -> Option<u64> {
        let mut connection = Connection::open(self.address(asked), REPLY_TIMEOUT).ok()?;
        let slots = parse_slots(&connection.command("CLUSTER SLOTS").ok()?)?;
        let slot = slot_of(key.as_bytes());
        let (_, leader) = slots.into_iter().find(|(range, _)| range.contains(&slot))?;
        (1..=NODES).find(|id| self.address(*id) == leader)
    }

    /// What node `id` itself has applied for `key`, old or new.
    pub fn replica_value(&self, id: u64, key: &str) -> Result<Option<String>, String> {
        let run = || {
            let mut connection = Connection::open(self.address(id), REPLY_TIMEOUT)?;
            connection.command("READONLY")?;
            connection.call(&[b"GET", key.as_bytes()])
        };
        match run().map_err(|error| error.to_string())? {
            Reply::Nil => Ok(None),
            Reply::Bulk(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            other => Err(other.to_string()),
        }
    }
}

/// A key that starts with `stem` and lies in `shard`.
pub fn key_in_shard(stem: &str, shard: u16) -> String {
    let per_shard = 16_384 / SHARDS;
    (0..)
        .map(|nth| format!("{stem}-{nth}"))
        .find(|key| slot_of(key.as_bytes()) / per_shard == shard)
        .unwrap()
}

/// Ports and a directory for a `coracle dev`, which outlive it.
#[derive(Debug)]
pub struct Place {
    ports: Ports,
    directory: TempDir,
}

impl Place {
    /// Reserves them.
    pub fn reserve() -> Self {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        Self { ports: Ports::reserve(), directory }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("dev.log")
    }

    /// What lies in the temporary directory of its `coracle dev`.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(temporary_directory(&self.log())).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// One `coracle dev` process.
#[derive(Debug)]
pub struct Dev {
    process: Process,
    place: Place,
}

impl Dev {
    /// Starts `coracle dev` on a free port with `more` arguments and waits until it serves.
    pub fn start(more: &[&str]) -> Self {
        Self::start_at(Place::reserve(), more)
    }

    /// As [`Dev::start`], at a place that an earlier one may have had.
    pub fn start_at(place: Place, more: &[&str]) -> Self {
        let mut arguments =
            vec!["dev".to_owned(), "--port".to_owned(), place.ports.base.to_string()];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let process = Process::start("dev", &arguments, &place.log(), Confinement::default());
        let mut dev = Self { process, place };
        dev.wait_ready();
        dev
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its first client port.
    pub fn port(&self) -> u16 {
        self.place.ports.base
    }

    /// The client address of node `id`.
    pub fn address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.place.ports.client(id)).into()
    }

    /// The peer address of node `id`.
    pub fn peer_address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.place.ports.peer(id)).into()
    }

    /// The largest argument of a command, in bytes, as the server says.
    #[track_caller]
    pub fn bulk_bytes_max(&self) -> usize {
        let mut connection = Connection::open(self.address(1), SOON).unwrap();
        let reply = connection.command("CONFIG GET proto-max-bulk-len").unwrap();
        let Reply::Array(pair) = &reply else { panic!("{reply}") };
        pair[1].text().unwrap().parse().unwrap()
    }

    /// A client that knows only the ports of node `id`.
    pub fn client(&self, id: u64) -> Client {
        Client::new(vec![self.address(id)], REPLY_TIMEOUT)
    }

    /// Waits until the cluster acknowledges a write, through node 1.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let mut client = self.client(1);
        wait::until("the first write", SOON, || {
            assert!(self.process.is_running(), "dev has ended:\n{}", self.process.output());
            match client.set("ready", "yes", Duration::from_millis(500)) {
                Outcome::Done(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Sends it `signal` and waits until it has ended.
    #[track_caller]
    pub fn end(self, signal: libc::c_int) -> (Ended, Place) {
        self.process.signal(signal);
        (self.process.wait_end(SOON), self.place)
    }
}
