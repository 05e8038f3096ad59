//! Nodes that are started one by one and know each other by one address, and `coraclectl`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{Client, Outcome};
use crate::support::cluster::REPLY_TIMEOUT;
use crate::support::confine::Confinement;
use crate::support::ports::Ports;
use crate::support::process::Process;
use crate::support::wait::{self, SOON};

/// Nodes that there are in all.
pub const NODES: u64 = 6;

/// How long a command may take: far more than it does, because the machine may be slow and busy.
const COMMAND_SECONDS: &str = "120";

/// Nodes that are started one by one, and `coraclectl`.
pub struct Nodes {
    // Before the directory, so that the processes are gone when it is removed.
    pub running: BTreeMap<u64, Process>,
    shards: usize,
    ports: Ports,
    directory: TempDir,
}

impl Nodes {
    /// Starts node 1, which founds a cluster alone, and waits until it takes a write.
    pub fn with_first(shards: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        let mut nodes =
            Self { running: BTreeMap::new(), shards, ports: Ports::reserve(), directory };
        nodes.start_with(1, None);
        wait::until("a write to the first node", SOON, || {
            match nodes.client(1..=1).set("ready", "yes", Duration::from_millis(500)) {
                Outcome::Done(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        nodes
    }

    pub fn address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.client(id)).into()
    }

    pub fn member(&self, id: u64) -> String {
        format!("{id}={},{}", self.address(id), self.peer(id))
    }

    pub fn peer(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.ports.peer(id))
    }

    /// Starts node `id`. The address of `member` is all that it is told about the cluster; when it has been in it
    /// before, its address book counts.
    pub fn start(&mut self, id: u64, member: u64) {
        self.start_with(id, Some(member));
    }

    fn start_with(&mut self, id: u64, member: Option<u64>) {
        let dir = self.data_dir(id);
        let mut arguments = vec!["serve".to_owned()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--id", id.to_string());
        option("--data-dir", dir.to_str().unwrap().to_owned());
        option("--shards", self.shards.to_string());
        option("--client", self.address(id).to_string());
        option("--peer", self.peer(id));
        if let Some(member) = member {
            option("--join", self.peer(member));
        }
        let log = self.log(id);
        let process =
            Process::start(&format!("node {id}"), &arguments, &log, Confinement::default());
        assert!(self.running.insert(id, process).is_none(), "node {id} runs already");
    }

    fn data_dir(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("node-{id}"))
    }

    /// What all processes of node `id` have printed.
    pub fn log(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("node-{id}.log"))
    }

    /// Has everything left where it is, for whoever wants to look at it; gives the place.
    pub fn keep_directory(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// Whether node `id` has data.
    pub fn was_started(&self, id: u64) -> bool {
        self.data_dir(id).exists()
    }

    /// Takes all data from node `id`, which does not run.
    pub fn wipe(&self, id: u64) {
        assert!(!self.running.contains_key(&id), "node {id} runs");
        std::fs::remove_dir_all(self.data_dir(id)).unwrap();
    }

    pub fn kill(&mut self, id: u64) {
        self.running.remove(&id).unwrap_or_else(|| panic!("node {id} does not run")).kill();
    }

    pub fn terminate(&mut self, id: u64) {
        let process = self.running.remove(&id).unwrap();
        process.signal(libc::SIGTERM);
        let ended = process.wait_end(SOON);
        assert!(ended.status.success(), "node {id}: {}\n{}", ended.status, ended.output);
    }

    pub fn client(&self, nodes: std::ops::RangeInclusive<u64>) -> Client {
        Client::new(nodes.map(|id| self.address(id)).collect(), REPLY_TIMEOUT)
    }

    pub fn begin(&self, line: &str) -> Running {
        let admin = |id: &u64| format!("127.0.0.1:{}", self.ports.admin(*id));
        let admin: Vec<String> = self.running.keys().map(admin).collect();
        let child = Command::new(env!("CARGO_BIN_EXE_coraclectl"))
            .args(["--admin", &admin.join(","), "--timeout-s", COMMAND_SECONDS])
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running { line: line.to_owned(), child }
    }

    pub fn ctl(&self, line: &str) -> String {
        self.begin(line).end()
    }

    /// Runs a command that cannot be done, for the reason `why`.
    #[track_caller]
    pub fn fails(&self, line: &str, why: &str) {
        let output = self.begin(line).child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "coraclectl {line}: {err}");
        assert!(err.contains(why), "coraclectl {line}: {err}");
    }

    /// Who votes in each shard, by its leader.
    pub fn voters(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.ctl("shards --json")).unwrap();
        status["shards"].as_array().unwrap().iter().map(|shard| shard["voters"].clone()).collect()
    }
}

/// A `coraclectl` that runs.
pub struct Running {
    line: String,
    child: Child,
}

impl Running {
    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its success; gives what it printed.
    #[track_caller]
    pub fn end(self) -> String {
        let output = self.child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        println!("$ coraclectl {}\n{err}{}", self.line, if out.len() < 500 { &out } else { "..." });
        assert!(output.status.success(), "coraclectl {}: {}", self.line, output.status);
        out
    }
}
