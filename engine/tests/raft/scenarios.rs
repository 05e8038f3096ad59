//! Scripted situations with golden transcripts: `testdata/raft/*.txt`.
//!
//! A file is a sequence of blocks: a command, `----`, what happened, a blank line. Lines that begin
//! with `#` tell the story. `UPDATE_GOLDEN=1` rewrites what happened; read the difference before
//! committing it. Nothing happens by itself: messages wait until they are delivered or dropped, and
//! batches until they are written.
//!
//! ```text
//! cluster 3                nodes 1 to 3, election timeout 1 s, heartbeats every 100 ms
//!   window=N batch=N uncommitted=N fetch=N    limits
//!   blank=1                nobody knows whether the cluster is new
//! tick N MS                node N's clock moves by MS
//! timeout N                node N's clock moves until its election timer has run out
//! propose N a b c          three proposals;  a*300 is 300 of them, a@900 has 900 bytes
//! read N ID                a batch of reads
//! ask N ID                 node N wants to know up to where it has to apply, whether it leads or not
//! transfer N ID [TO]       leadership is to go from node N to TO, or to anybody
//! deliver A>B              what is under way from A to B now;  `*` stands for every node
//! drop A>B                 loses it
//! write N [COUNT]          writes the batches of node N (or the oldest COUNT) and reports them
//! write N late             writes them, and keeps the reports back
//! report N                 reports what was kept back
//! crash N / restart N
//! snapshot N               a durable snapshot of what node N has committed
//! compact N I / evict N I  drops the log up to entry I / its payloads from memory
//! fetch N / unread N       what node N has asked for is read / can't be read
//! pull N                   the snapshot that node N was offered is installed
//! wipe N                   crashes it and loses its disk
//! hold A>B / release       puts what is under way from A to B aside / back, behind all else
//! lost A B / found A B     A's connection to B is lost / up again
//! stabilize [A B ...]      delivers and writes until nothing is under way (among those nodes)
//! elect N                  timeout N, then stabilize
//! quiet COMMAND            shows only who leads afterwards
//! status / log N / network
//! progress N               what leader N knows of the others
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::{Event, Role};
use coracle_engine::{LogIndex, NodeId};

use crate::cluster::{Cluster, Envelope, Write};
use crate::render;

struct Script {
    cluster: Cluster,
    late: Vec<(NodeId, Write)>,
    held: Vec<Envelope>,
    lines: Vec<String>,
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("a number, not {word:?}"))
}

fn node(word: &str) -> NodeId {
    NodeId(number(word))
}

impl Script {
    fn new() -> Self {
        let cluster = Cluster::new(1, 0, |_| {});
        Self { cluster, late: Vec::new(), held: Vec::new(), lines: Vec::new() }
    }

    fn run(&mut self, command: &str) -> String {
        self.lines.clear();
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[0] {
            "quiet" => {
                self.execute(&words[1..]);
                self.lines.clear();
                self.leaders();
            }
            _ => self.execute(&words),
        }
        let mut text = String::new();
        for line in &self.lines {
            writeln!(text, "{line}").unwrap();
        }
        if text.is_empty() { "nothing\n".to_owned() } else { text }
    }

    fn execute(&mut self, words: &[&str]) {
        match words {
            ["cluster", size, options @ ..] => self.start(number(size), options),
            ["tick", id, ms] => self.tick(node(id), Duration::from_millis(number(ms))),
            ["timeout", id] => self.tick(node(id), Duration::from_secs(2)),
            ["elect", id] => {
                self.tick(node(id), Duration::from_secs(2));
                self.stabilize(&self.cluster.ids());
            }
            ["propose", id, payloads @ ..] => self.propose(node(id), payloads),
            ["read", id, name] => self.step(node(id), Event::ReadIndex { id: number(name) }),
            ["ask", id, name] => {
                let (id, now) = (node(id), self.cluster.node(node(id)).now);
                self.step(id, Event::AskReadIndex { id: number(name), now });
            }
            ["transfer", id, name] => self.transfer(node(id), number(name), None),
            ["transfer", id, name, to] => self.transfer(node(id), number(name), Some(node(to))),
            ["deliver", link] => self.deliver(link, true),
            ["drop", link] => self.deliver(link, false),
            ["write", id] => self.write(node(id), usize::MAX, false),
            ["write", id, "late"] => self.write(node(id), usize::MAX, true),
            ["write", id, count] => self.write(node(id), number(count) as usize, false),
            ["report", id] => self.report(node(id)),
            ["crash", id] => self.cluster.crash(node(id)),
            ["wipe", id] => {
                self.late.retain(|(of, _)| *of != node(id));
                self.held.retain(|envelope| envelope.to != node(id));
                self.cluster.wipe(node(id));
            }
            ["snapshot", id] => {
                let event = self.cluster.take_snapshot(node(id));
                self.due(node(id), event);
            }
            ["pull", id] => {
                let event = self.cluster.finish_pull(node(id), false);
                self.due(node(id), event);
            }
            ["fetch", id] => self.fetch(node(id), true),
            ["unread", id] => self.fetch(node(id), false),
            ["compact", id, index] => {
                let base = self.cluster.compact(node(id), LogIndex(number(index)));
                self.lines
                    .extend(base.map(|base| format!("{id} compacts {}/{}", base.term, base.index)));
            }
            ["evict", id, index] => {
                let raft = self.cluster.node_mut(node(id)).raft.as_mut().unwrap();
                raft.evict_to(LogIndex(number(index)));
                self.lines
                    .push(format!("{id} has {} and on in memory", raft.log().first_in_memory()));
            }
            ["hold", link] => {
                let chosen = self.choose(link);
                self.held.extend(chosen);
            }
            ["release"] => self.cluster.network.append(&mut self.held),
            ["restart", id] => self.restart(node(id)),
            ["lost", a, b] => self.step(node(a), Event::PeerUnreachable { node: node(b) }),
            ["found", a, b] => self.step(node(a), Event::PeerReachable { node: node(b) }),
            ["stabilize"] => self.stabilize(&self.cluster.ids()),
            ["stabilize", ids @ ..] => {
                self.stabilize(&ids.iter().map(|id| node(id)).collect::<Vec<_>>());
            }
            ["status"] => self.status(),
            ["network"] => self.network(),
            ["progress", id] => self.progress(node(id)),
            ["log", id] => {
                let list: Vec<_> = match self.cluster.raft(node(id)) {
                    Some(raft) => raft.entries(LogIndex(1), raft.last_index()).cloned().collect(),
                    None => self.cluster.node(node(id)).disk.entries.clone(),
                };
                self.lines.push(render::entries(&list));
            }
            _ => panic!("unknown command {words:?}"),
        }
    }

    fn start(&mut self, size: u64, options: &[&str]) {
        self.cluster = Cluster::new(size, 1, |config| {
            config.election_timeout = Duration::from_secs(1);
            config.heartbeat_interval = Duration::from_millis(100);
            for option in options {
                let (key, value) = option.split_once('=').unwrap();
                let value = number(value) as usize;
                match key {
                    "window" => config.inflight_messages_max = value,
                    "batch" => config.append_bytes_max = value,
                    "uncommitted" => config.uncommitted_bytes_max = value,
                    "fetch" => config.fetch_bytes_max = value,
                    "blank" => config.blank = Some(0),
                    _ => panic!("unknown option {key:?}"),
                }
            }
        });
    }

    fn step(&mut self, id: NodeId, event: Event) {
        let mut lines = Vec::new();
        render::effects(self.cluster.step(id, event), &mut lines);
        self.lines.extend(lines.into_iter().map(|line| format!("  {id} {line}")));
    }

    fn tick(&mut self, id: NodeId, by: Duration) {
        let now = self.cluster.node(id).now + by;
        self.step(id, Event::Tick { now });
    }

    fn transfer(&mut self, from: NodeId, id: u64, to: Option<NodeId>) {
        self.step(from, Event::TransferLeadership { id, to });
    }

    fn propose(&mut self, id: NodeId, words: &[&str]) {
        let mut payloads = Vec::new();
        for word in words {
            let (text, count) = word.split_once('*').unwrap_or((word, "1"));
            let (text, length) = text.split_once('@').unwrap_or((text, "0"));
            let mut payload = text.as_bytes().to_vec();
            payload.resize(payload.len().max(number(length) as usize), b'.');
            let payload = Bytes::from(payload);
            payloads.extend(std::iter::repeat_n(payload, number(count) as usize));
        }
        self.step(id, Event::Propose { payloads });
    }

    /// Steps a node with what has happened to it, if anything has.
    fn due(&mut self, id: NodeId, event: Option<Event>) {
        let Some(event) = event else { return };
        self.lines.push(match &event {
            Event::Snapshot { index, term, .. } => format!("{id} has snapshot {term}/{index}"),
            Event::Installed { index, term, .. } => {
                format!("{id} installs snapshot {term}/{index}")
            }
            Event::Fetched { to, entries, .. } => {
                format!("{id} reads {} for {to}", render::entries(entries))
            }
            other => format!("{id}: {other:?}"),
        });
        self.step(id, event);
    }

    fn fetch(&mut self, id: NodeId, works: bool) {
        while let Some(event) = self.cluster.finish_fetch(id, works) {
            self.due(id, Some(event));
        }
    }

    /// Takes what is under way on a link.
    fn choose(&mut self, link: &str) -> Vec<Envelope> {
        let (from, to) = link.split_once('>').unwrap();
        let matches = |word: &str, id: NodeId| word == "*" || node(word) == id;
        let network = std::mem::take(&mut self.cluster.network);
        let (chosen, rest) =
            network.into_iter().partition(|e| matches(from, e.from) && matches(to, e.to));
        self.cluster.network = rest;
        chosen
    }

    fn deliver(&mut self, link: &str, deliver: bool) {
        for envelope in self.choose(link) {
            let (from, to) = (envelope.from, envelope.to);
            let verb = if deliver { "" } else { "LOST " };
            self.lines.push(format!("{verb}{from}>{to} {}", render::message(&envelope.message)));
            if deliver {
                self.step(to, Event::Message { from, message: envelope.message });
            }
        }
    }

    fn write(&mut self, id: NodeId, count: usize, late: bool) {
        for _ in 0..count {
            let Some(write) = self.cluster.write_one(id) else { return };
            let base = write.base.map(|base| format!("base {}/{} and ", base.term, base.index));
            let entries = render::entries(&write.entries);
            self.lines.push(format!("{id} has written {}{entries}", base.unwrap_or_default()));
            if late {
                self.late.push((id, write));
            } else {
                self.finish_write(id, write);
            }
        }
    }

    fn report(&mut self, id: NodeId) {
        let late = std::mem::take(&mut self.late);
        let (chosen, rest) = late.into_iter().partition(|(of, _)| *of == id);
        self.late = rest;
        for (id, write) in chosen {
            self.finish_write(id, write);
        }
    }

    fn finish_write(&mut self, id: NodeId, write: Write) {
        let Some(mark) = write.mark else { return };
        self.lines.push(format!("{id} learns: durable up to {} in term {}", mark.index, mark.term));
        for (to, message) in write.after_durable {
            if to == id {
                self.step(id, Event::Message { from: id, message });
            } else {
                self.cluster.network.push(Envelope { from: id, to, message });
            }
        }
        self.step(id, Event::Durable(mark));
    }

    fn restart(&mut self, id: NodeId) {
        self.late.retain(|(of, _)| *of != id);
        self.cluster.restart(id);
        self.lines.push(format!("{id}: {}", render::status(self.cluster.raft(id).unwrap())));
    }

    fn stabilize(&mut self, among: &[NodeId]) {
        for _ in 0..1000 {
            let before = self.lines.len();
            for id in among {
                self.write(*id, usize::MAX, false);
            }
            for (from, to) in among.iter().flat_map(|a| among.iter().map(move |b| (a, b))) {
                self.deliver(&format!("{from}>{to}"), true);
            }
            for id in among {
                self.fetch(*id, true);
                let event = self.cluster.finish_pull(*id, false);
                self.due(*id, event);
            }
            if self.lines.len() == before {
                return;
            }
        }
        panic!("the cluster never comes to rest:\n{}", self.lines.join("\n"));
    }

    fn leaders(&mut self) {
        for id in self.cluster.ids() {
            if let Some(raft) = self.cluster.raft(id)
                && raft.role() == Role::Leader
            {
                self.lines.push(format!(
                    "{id} leads term {}, commit {}",
                    raft.term(),
                    raft.commit()
                ));
            }
        }
    }

    fn status(&mut self) {
        for id in self.cluster.ids() {
            self.lines.push(match self.cluster.raft(id) {
                Some(raft) => format!("{id}: {}", render::status(raft)),
                None => format!("{id}: down"),
            });
        }
    }

    fn progress(&mut self, id: NodeId) {
        let Some(raft) = self.cluster.raft(id) else { return };
        for follower in raft.followers() {
            let offered = raft.offered().find(|(to, _)| *to == follower.id);
            let state = match (follower.snapshot, offered) {
                (true, Some((_, index))) => format!("is offered snapshot {index}"),
                (true, None) => "needs a snapshot".to_owned(),
                _ if follower.replicating => "replicates".to_owned(),
                _ => "is probed".to_owned(),
            };
            let (id, matched, next) = (follower.id, follower.matched, follower.next);
            let returning = follower.returning.map(|own| format!(", returning={own}"));
            let returning = returning.unwrap_or_default();
            self.lines.push(format!("{id} {state}, matched={matched} next={next}{returning}"));
        }
    }

    fn network(&mut self) {
        for envelope in &self.cluster.network {
            let (from, to) = (envelope.from, envelope.to);
            self.lines.push(format!("{from}>{to} {}", render::message(&envelope.message)));
        }
    }
}

/// Runs the commands of a file and gives the file as it should be.
fn transcript(text: &str) -> String {
    let mut script = Script::new();
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let happened = script.run(line);
        write!(out, "----\n{happened}\n").unwrap();
        // Skip what the file says happened, if it says anything.
        let mut rest = lines.clone();
        if rest.next() == Some("----") {
            rest.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            lines = rest;
        }
    }
    out
}

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/raft");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn scenarios_go_as_written() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let scripts = scripts();
    assert!(scripts.len() >= 15, "only {} scenarios were found", scripts.len());
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = transcript(&text);
        if found == text {
            continue;
        }
        if update {
            std::fs::write(&path, found).unwrap();
            continue;
        }
        let place = text.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
        wrong.push(format!(
            "{}:{}\n  expected: {}\n  happened: {}",
            path.display(),
            place + 1,
            text.lines().nth(place).unwrap_or("(end)"),
            found.lines().nth(place).unwrap_or("(end)"),
        ));
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 accepts what happened.\n{}", wrong.join("\n"));
}
