//! Members that come and go by `coraclectl` alone, under load, with nodes killed in between: from one node to three, to
//! five, and back to three other ones. No acknowledged write is lost, and writes pause no longer than elections take.
//!
//! Real processes. The server is the one built with the workspace (`cargo test`), beside this test's programs.
//! `CORACLE_PAUSE_MS_MAX` is the longest pause of a client that passes (default 30,000, because the machine may be
//! slow and busy), `CORACLE_CRASH_SEED` changes what the clients do.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::client::Client;
use support::cluster::REPLY_TIMEOUT;
use support::confine::Confinement;
use support::load::Load;
use support::ports::Ports;
use support::process::Process;
use support::wait::{self, SOON};
use tempfile::TempDir;

/// Nodes that there are in all.
const NODES: u64 = 6;

/// Shards: enough that each node leads some.
const SHARDS: usize = 8;

/// Client threads of the load.
const CLIENTS: usize = 3;

/// Operations between two events.
const OPERATIONS_BETWEEN: u64 = 200;

/// How long a command may take: far more than it does, because the machine may be slow and busy.
const COMMAND_SECONDS: &str = "120";

/// Nodes that are started one by one, and `coraclectl`.
struct Nodes {
    // Before the directory, so that the processes are gone when it is removed.
    running: BTreeMap<u64, Process>,
    ports: Ports,
    directory: TempDir,
}

impl Nodes {
    fn prepare() -> Self {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        Self { running: BTreeMap::new(), ports: Ports::reserve(), directory }
    }

    fn address(&self, id: u64) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.client(id)).into()
    }

    fn member(&self, id: u64) -> String {
        format!("{id}={},{}", self.address(id), self.peer(id))
    }

    fn peer(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.ports.peer(id))
    }

    fn start(&mut self, id: u64) {
        let dir = self.directory.path().join(format!("node-{id}"));
        let mut arguments = vec!["serve".to_owned()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--id", id.to_string());
        option("--data-dir", dir.to_str().unwrap().to_owned());
        option("--shards", SHARDS.to_string());
        option("--client", self.address(id).to_string());
        option("--peer", self.peer(id));
        // One address of one member is all that a newcomer is told; later, its address book counts.
        if id > 1 {
            option("--join", self.peer(id / 2));
        }
        let log = self.directory.path().join(format!("node-{id}.log"));
        let process =
            Process::start(&format!("node {id}"), &arguments, &log, Confinement::default());
        assert!(self.running.insert(id, process).is_none(), "node {id} runs already");
    }

    fn kill(&mut self, id: u64) {
        self.running.remove(&id).unwrap_or_else(|| panic!("node {id} does not run")).kill();
    }

    fn terminate(&mut self, id: u64) {
        let process = self.running.remove(&id).unwrap();
        process.signal(libc::SIGTERM);
        let ended = process.wait_end(SOON);
        assert!(ended.status.success(), "node {id}: {}\n{}", ended.status, ended.output);
    }

    fn client(&self, nodes: std::ops::RangeInclusive<u64>) -> Client {
        Client::new(nodes.map(|id| self.address(id)).collect(), REPLY_TIMEOUT)
    }

    fn begin(&self, line: &str) -> Running {
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

    fn ctl(&self, line: &str) -> String {
        self.begin(line).end()
    }

    /// Runs a command that cannot be done, for the reason `why`.
    #[track_caller]
    fn fails(&self, line: &str, why: &str) {
        let output = self.begin(line).child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "coraclectl {line}: {err}");
        assert!(err.contains(why), "coraclectl {line}: {err}");
    }

    /// Who votes in each shard, by its leader.
    fn voters(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.ctl("shards --json")).unwrap();
        status["shards"].as_array().unwrap().iter().map(|shard| shard["voters"].clone()).collect()
    }
}

/// A `coraclectl` that runs.
struct Running {
    line: String,
    child: Child,
}

impl Running {
    /// Waits for its success; gives what it printed.
    #[track_caller]
    fn end(self) -> String {
        let output = self.child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        println!("$ coraclectl {}\n{err}{}", self.line, if out.len() < 500 { &out } else { "..." });
        assert!(output.status.success(), "coraclectl {}: {}", self.line, output.status);
        out
    }
}

#[test]
fn from_one_node_to_three_to_five_and_back_to_three_other_ones() {
    let _alone = wait::alone();
    let pause_max = Duration::from_millis(wait::from_env("CORACLE_PAUSE_MS_MAX", 30_000));
    let mut nodes = Nodes::prepare();
    nodes.start(1);
    wait::until("a write to the first node", SOON, || {
        match nodes.client(1..=1).set("ready", "yes", Duration::from_millis(500)) {
            support::client::Outcome::Done(_) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let seed = wait::from_env("CORACLE_CRASH_SEED", 1);
    let load = Load::start_with(&|| nodes.client(1..=NODES), CLIENTS, seed);
    let some_load = || load.wait_for_more(OPERATIONS_BETWEEN);

    // Three.
    some_load();
    nodes.start(2);
    nodes.start(3);
    nodes.ctl(&format!("add {} {} --promote", nodes.member(2), nodes.member(3)));
    nodes.kill(1);
    some_load();
    nodes.start(1);

    // Five: a node dies while it happens.
    nodes.start(4);
    nodes.start(5);
    nodes.ctl(&format!("add {} {}", nodes.member(4), nodes.member(5)));
    let promotion = nodes.begin("promote 4 5");
    nodes.kill(2);
    some_load();
    nodes.start(2);
    promotion.end();
    nodes.ctl("transfer --spread");
    some_load();
    assert_eq!(nodes.voters(), vec![serde_json::json!([1, 2, 3, 4, 5]); SHARDS]);

    // Three others: the first two go while another dies, then the third has its place taken.
    let removal = nodes.begin("remove 1 2");
    nodes.kill(3);
    some_load();
    nodes.start(3);
    removal.end();
    nodes.terminate(1);
    nodes.terminate(2);
    nodes.fails("replace 3 4", "votes in shard 0 already");
    nodes.fails("move 2 --from 5 --to 4", "remove 5 --shards 2");
    nodes.fails("remove 3 4 5", "nobody would vote");
    nodes.start(6);
    nodes.ctl(&format!("replace 3 {}", nodes.member(6)));
    nodes.kill(3);
    some_load();
    nodes.kill(5);
    some_load();
    nodes.start(5);
    some_load();
    assert_eq!(nodes.voters(), vec![serde_json::json!([4, 5, 6]); SHARDS]);

    let client = nodes.client(4..=6);
    let pause = load.verify_with(client, || {
        for (id, process) in &mut nodes.running {
            assert!(process.is_running(), "node {id} has ended:\n{}", process.output());
        }
    });
    assert!(pause <= pause_max, "a client waited {pause:?}; at most {pause_max:?} are allowed");
}
