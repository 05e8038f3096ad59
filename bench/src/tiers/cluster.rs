//! A cluster of real `coracle serve` processes on loopback: started, killed, wiped, and ended with this
//! value, whatever happens.
//!
//! Node *n* (from 1) has its data in `node-n/` and its log lines in `node-n.log` of the run's directory.
//! Its client ports begin at `base + 2 (n - 1) cores`, its peer ports after them. The base lies below
//! the range that Linux gives to outgoing connections, so that a node that is restarted finds its
//! ports free.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TiersError;
use super::control::Control;
use super::guard::{StopSignal, bind_to_us};
use super::monitor::Monitor;

/// First port that is looked at, and how many.
const PORTS_FROM: u16 = 20_000;
const PORTS: u16 = 12_000;
/// Pause between two looks of a wait.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// How often a wait says that it lasts.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for a node to start and for the cluster to serve: long logs have to be read.
pub const READY_BOUND: Duration = Duration::from_secs(120);
/// Last lines of a node's log that an error shows.
const LOG_LINES_SHOWN: usize = 15;
/// What a node says when its cores have recovered and it serves.
pub const SERVES: &str = " serves on ";

/// What the nodes of a cluster have in common.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The `coracle` program.
    pub server: PathBuf,
    /// The run's directory.
    pub dir: PathBuf,
    /// How many.
    pub nodes: u64,
    /// Cores of each.
    pub cores: u16,
    /// Shards of the cluster.
    pub shards: u32,
    /// More arguments of `coracle serve`.
    pub settings: Vec<String>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    log_start: usize,
    started: Instant,
}

/// The nodes. Dropping it kills those that run.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    base: u16,
    nodes: BTreeMap<u64, Running>,
    monitor: Arc<Monitor>,
    stop: StopSignal,
}

impl Cluster {
    /// Finds ports; starts nothing.
    ///
    /// # Errors
    /// No ports are free.
    pub fn prepare(
        spec: Spec,
        monitor: Arc<Monitor>,
        stop: StopSignal,
    ) -> Result<Self, TiersError> {
        let count = u16::try_from(spec.nodes * 2 * u64::from(spec.cores))
            .ok()
            .filter(|count| *count <= PORTS)
            .ok_or(TiersError::Ports)?;
        let base = find_ports(count).ok_or(TiersError::Ports)?;
        Ok(Self { spec, base, nodes: BTreeMap::new(), monitor, stop })
    }

    /// Ids of all nodes.
    pub fn ids(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.spec.nodes
    }

    /// Starts node `id`; does not wait for it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self, id: u64) -> Result<Instant, TiersError> {
        let log = self.log_path(id);
        let fail = |source| TiersError::Start {
            id,
            server: self.spec.server.display().to_string(),
            source,
        };
        let log_start = fs::metadata(&log).map_or(0, |meta| meta.len() as usize);
        let output = File::options().create(true).append(true).open(&log).map_err(fail)?;
        let mut command = Command::new(&self.spec.server);
        command
            .args(self.arguments(id))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(fail)?)
            .stderr(output);
        bind_to_us(&mut command);
        let started = Instant::now();
        let child = command.spawn().map_err(fail)?;
        self.monitor.watch(id, child.id());
        let before = self.nodes.insert(id, Running { child, log_start, started });
        assert!(before.is_none(), "node {id} runs already");
        Ok(started)
    }

    fn arguments(&self, id: u64) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--id", id.to_string());
        option("--data-dir", self.data_dir(id).display().to_string());
        option("--cores", self.spec.cores.to_string());
        option("--shards", self.spec.shards.to_string());
        for member in self.ids() {
            let (client, peer) = (self.address(member), self.peer_address(member));
            option("--member", format!("{member}={client},{peer}"));
        }
        arguments.push("--no-admin".to_owned());
        arguments.extend(self.spec.settings.iter().cloned());
        arguments
    }

    /// The client address of node `id`'s first core.
    pub fn address(&self, id: u64) -> SocketAddr {
        let first = self.base + 2 * (id - 1) as u16 * self.spec.cores;
        (Ipv4Addr::LOCALHOST, first).into()
    }

    fn peer_address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.address(id).port() + self.spec.cores).into()
    }

    /// The client addresses of all nodes.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ids().map(|id| self.address(id)).collect()
    }

    /// Where node `id` has its data.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.spec.dir.join(format!("node-{id}"))
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.spec.dir.join(format!("node-{id}.log"))
    }

    /// What node `id` has printed since it was started last.
    pub fn log(&self, id: u64) -> String {
        let start = self.nodes.get(&id).map_or(0, |node| node.log_start);
        let bytes = fs::read(self.log_path(id)).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    /// Starts all nodes that do not run, and waits until every shard takes writes.
    ///
    /// # Errors
    /// See [`Cluster::wait_ready`].
    pub fn start_all(&mut self) -> Result<(), TiersError> {
        for id in self.ids() {
            if !self.nodes.contains_key(&id) {
                self.start(id)?;
            }
        }
        self.wait_ready().map(drop)
    }

    /// Waits until a write to every shard is acknowledged; says when the first and the last was.
    ///
    /// # Errors
    /// A node has ended, or it takes too long.
    pub fn wait_ready(&mut self) -> Result<(Instant, Instant), TiersError> {
        let mut control = self.control();
        let mut first = None;
        for shard in 0..self.spec.shards {
            let what = format!("a write to shard {shard}");
            self.until(&what, READY_BOUND, |_| control.put_probe(shard, "ready"))?;
            first.get_or_insert_with(Instant::now);
        }
        let last = Instant::now();
        Ok((first.unwrap_or(last), last))
    }

    /// A client for control commands.
    pub fn control(&self) -> Control {
        Control::new(self.addresses(), self.spec.shards)
    }

    /// Looks until `look` gives something; keeps an eye on the nodes meanwhile.
    ///
    /// # Errors
    /// A node has ended, the program is asked to stop, or `bound` is over.
    pub fn until<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T, TiersError> {
        let start = Instant::now();
        let mut say_after = SAY_EVERY;
        loop {
            self.stop.check()?;
            self.check_nodes()?;
            let last = match look(self) {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            let waited = start.elapsed();
            if waited > bound {
                return Err(TiersError::Timeout { what: what.to_owned(), bound, last });
            }
            if waited > say_after {
                say_after += SAY_EVERY;
                eprintln!("  after {} s still waiting for {what}: {last}", waited.as_secs());
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Waits until node `id` has said `text` since it was started; gives how long that took.
    ///
    /// # Errors
    /// See [`Cluster::until`].
    pub fn wait_for_line(
        &mut self,
        id: u64,
        text: &str,
        bound: Duration,
    ) -> Result<Duration, TiersError> {
        let what = format!("node {id} to say {text:?}");
        self.until(&what, bound, |cluster| {
            let said = cluster.log(id).contains(text);
            if said { Ok(()) } else { Err("it has not".to_owned()) }
        })?;
        Ok(self.nodes.get(&id).map_or(Duration::ZERO, |node| node.started.elapsed()))
    }

    /// Fails when a node has ended that nobody killed.
    ///
    /// # Errors
    /// [`TiersError::NodeEnded`] with the last lines of its log.
    pub fn check_nodes(&mut self) -> Result<(), TiersError> {
        let ended = self
            .nodes
            .iter_mut()
            .find_map(|(id, node)| Some((*id, node.child.try_wait().ok().flatten()?)));
        let Some((id, status)) = ended else { return Ok(()) };
        let log = self.log(id);
        let lines: Vec<&str> = log.lines().collect();
        let lines = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        Err(TiersError::NodeEnded { id, status, lines })
    }

    /// The process of node `id`, if it runs.
    pub fn pid(&self, id: u64) -> Option<u32> {
        self.nodes.get(&id).map(|node| node.child.id())
    }

    /// Ends node `id` as `kill -9` does.
    pub fn kill(&mut self, id: u64) {
        self.monitor.forget(id);
        if let Some(mut node) = self.nodes.remove(&id) {
            end(&mut node.child);
        }
    }

    /// Kills all nodes.
    pub fn kill_all(&mut self) {
        for id in self.ids() {
            self.kill(id);
        }
    }

    /// Removes the data of node `id`, which does not run.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn wipe(&mut self, id: u64) -> Result<(), TiersError> {
        assert!(!self.nodes.contains_key(&id), "node {id} runs");
        let dir = self.data_dir(id);
        fs::remove_dir_all(&dir)
            .map_err(|source| TiersError::Dir { dir: dir.display().to_string(), source })
    }

    /// The signal to stop.
    pub fn stop(&self) -> &StopSignal {
        &self.stop
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn end(child: &mut Child) {
    // Errors mean that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// The first of `count` ports in a row that are free now.
fn find_ports(count: u16) -> Option<u16> {
    let places = PORTS / count;
    let start = (std::process::id() % u32::from(places)) as u16;
    (0..places).map(|nth| PORTS_FROM + (start + nth) % places * count).find(|base| {
        let mut ports = *base..*base + count;
        ports.all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
    })
}

/// The `coracle` beside this program.
///
/// # Errors
/// There is none.
pub fn server_beside_us() -> Result<PathBuf, TiersError> {
    let missing = |path: &Path| TiersError::NoServer(path.display().to_string());
    let own = std::env::current_exe().map_err(|_| missing(Path::new("coracle")))?;
    let server = own.with_file_name("coracle");
    if server.is_file() { Ok(server) } else { Err(missing(&server)) }
}

/// Bytes free for us on the disk of `dir`.
///
/// # Errors
/// What the operating system says.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let facts = rustix::fs::statvfs(dir)?;
    Ok(facts.f_bavail * facts.f_frsize)
}
