//! Members that change all the time, while nodes are killed, paused, stopped, and come back without their data.
//!
//! After a seeded plan: one change by `coraclectl` follows the other, and one node at a time is in trouble meanwhile.
//! A node that has left may be wiped before it comes back. What clients saw must be linearizable, nothing acknowledged
//! lost, and each change must come to its end. The long run is one command:
//!
//! ```sh
//! CORACLE_FAULT_MINUTES=10 cargo test --release -p coracle-tools --test membership -- --nocapture churn
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;

use super::nodes::{NODES, Nodes};
use super::support::random::Random;
use super::support::traffic::{Finding, Traffic};
use super::support::wait;

/// Shards: some for each node to lead.
const SHARDS: usize = 6;

/// Client threads.
const CLIENTS: usize = 5;

/// Changes of the short run: most kinds of them.
const SHORT_CHANGES: usize = 8;

/// Fewest and most voters.
const VOTERS: std::ops::RangeInclusive<usize> = 3..=5;

/// How long a node is in trouble, in milliseconds: up to three election timeouts.
const TROUBLE_MS_MAX: u64 = 1500;

/// Pause before the next trouble, in milliseconds.
const PAUSE_MS_MAX: u64 = 500;

/// Pause between two looks at a command that runs.
const LOOK: Duration = Duration::from_millis(10);

/// A change of members, or of who leads.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A further voter.
    Add(u64),
    Remove(u64),
    /// The first one goes, the second one comes.
    Replace(u64, u64),
    /// Votes no more for a while, but keeps its copy.
    Demote(u64),
    Spread,
    /// Hands over what it leads, ends, and is started again.
    Restart(u64),
}

/// A node that is in trouble, and until when.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Killed(u64),
    Paused(u64),
}

struct Churn {
    nodes: Nodes,
    random: Random,
    voters: BTreeSet<u64>,
    trouble: Option<(Trouble, Instant)>,
    calm_until: Instant,
    made: BTreeMap<&'static str, u64>,
    timeline: Vec<String>,
    started: Instant,
}

impl Churn {
    fn note(&mut self, kind: &'static str, what: &str) {
        *self.made.entry(kind).or_default() += 1;
        self.timeline.push(format!("{:8.3} s: {what}", self.started.elapsed().as_secs_f64()));
    }

    fn one_of(&mut self, ids: &BTreeSet<u64>) -> u64 {
        let nth = self.random.below(ids.len() as u64);
        *ids.iter().nth(usize::try_from(nth).unwrap()).unwrap()
    }

    fn choose(&mut self) -> Change {
        let others: BTreeSet<u64> = (1..=NODES).filter(|id| !self.voters.contains(id)).collect();
        let voters = self.voters.clone();
        let (voter, other) = (self.one_of(&voters), self.one_of(&others));
        let (may_grow, may_shrink) = (voters.len() < *VOTERS.end(), voters.len() > *VOTERS.start());
        match self.random.below(8) {
            0 | 1 if may_grow => Change::Add(other),
            0..=2 if may_shrink => Change::Remove(voter),
            3 if may_shrink => Change::Demote(voter),
            4 => Change::Spread,
            5 => Change::Restart(voter),
            _ => Change::Replace(voter, other),
        }
    }

    /// Starts a node that does not belong to the cluster; perhaps as a new one.
    fn bring(&mut self, id: u64) {
        let mut how = "as it was";
        if self.nodes.was_started(id) && self.random.below(2) == 0 {
            self.nodes.wipe(id);
            how = "wiped";
        }
        let member = self.one_of(&self.voters.clone());
        self.nodes.start(id, member);
        self.note("bring", &format!("node {id} is started, {how}, with node {member} to join"));
    }

    /// Makes one change, with troubles meanwhile, and waits until it is done.
    fn change(&mut self) {
        let change = self.choose();
        let lines: Vec<String> = match change {
            Change::Add(id) => {
                self.bring(id);
                vec![format!("add {} --promote", self.nodes.member(id))]
            }
            Change::Remove(id) => vec![format!("remove {id}")],
            Change::Replace(gone, come) => {
                self.bring(come);
                vec![format!("replace {gone} {}", self.nodes.member(come))]
            }
            Change::Demote(id) => vec![format!("demote {id}"), format!("promote {id}")],
            Change::Spread => vec!["transfer --spread".to_owned()],
            Change::Restart(id) => vec![format!("drain {id}")],
        };
        for line in lines {
            self.run(&line, matches!(change, Change::Restart(_)));
        }
        match change {
            Change::Add(id) => _ = self.voters.insert(id),
            Change::Remove(id) => self.take_leave(id),
            Change::Replace(gone, come) => {
                self.voters.insert(come);
                self.take_leave(gone);
            }
            Change::Demote(_) | Change::Spread => {}
            Change::Restart(id) => {
                self.nodes.terminate(id);
                let others = self.voters.iter().copied().filter(|other| *other != id).collect();
                let member = self.one_of(&others);
                self.nodes.start(id, member);
            }
        }
        let voters: Vec<u64> = self.voters.iter().copied().collect();
        assert_eq!(self.nodes.voters(), vec![json!(voters); SHARDS], "after {change:?}");
    }

    fn take_leave(&mut self, id: u64) {
        self.voters.remove(&id);
        self.nodes.kill(id);
    }

    /// Runs a command; unless `in_peace`, nodes are in trouble until it has ended, all of them one after the other.
    fn run(&mut self, line: &str, in_peace: bool) {
        self.note("commands", &format!("coraclectl {line}"));
        let mut command = self.nodes.begin(line);
        while command.is_running() {
            if !in_peace {
                self.make_trouble();
            }
            self.end_trouble(false);
            std::thread::sleep(LOOK);
        }
        self.end_trouble(true);
        command.end();
        self.note("done", "done");
    }

    fn make_trouble(&mut self) {
        if self.trouble.is_some() || Instant::now() < self.calm_until {
            return;
        }
        let running = self.nodes.running.keys().copied().collect();
        let id = self.one_of(&running);
        let length = Duration::from_millis(self.random.below(TROUBLE_MS_MAX) + 1);
        let trouble = if self.random.below(2) == 0 {
            self.note("kill", &format!("node {id} is killed, for {length:?}"));
            self.nodes.kill(id);
            Trouble::Killed(id)
        } else {
            self.note("pause", &format!("node {id} is paused, for {length:?}"));
            self.nodes.running[&id].pause();
            Trouble::Paused(id)
        };
        self.trouble = Some((trouble, Instant::now() + length));
    }

    fn end_trouble(&mut self, now: bool) {
        let Some((trouble, _)) = self.trouble.take_if(|(_, end)| now || Instant::now() >= *end)
        else {
            return;
        };
        match trouble {
            Trouble::Killed(id) => {
                let others = self.voters.iter().copied().filter(|other| *other != id).collect();
                let member = self.one_of(&others);
                self.nodes.start(id, member);
            }
            Trouble::Paused(id) => self.nodes.running[&id].resume(),
        }
        let pause = self.random.below(PAUSE_MS_MAX) + 1;
        self.calm_until = Instant::now() + Duration::from_millis(pause);
    }

    /// Nodes that have ended by themselves, and lines of logs that should not be there.
    fn complaints(&mut self) -> Vec<Finding> {
        let mut found = Vec::new();
        for (id, process) in &mut self.nodes.running {
            if !process.is_running() {
                found.push(format!("node {id} has ended:\n{}", process.output()).into());
            }
        }
        for id in 1..=NODES {
            let log = std::fs::read(self.nodes.log(id)).unwrap_or_default();
            let panics = |line: &&str| line.contains("panicked");
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines = log.lines().filter(panics);
            found.extend(lines.map(|line| format!("node {id} logged: {line}").into()));
        }
        found
    }
}

#[test]
fn members_churn_while_nodes_are_in_trouble() {
    let _alone = wait::alone();
    let seed = wait::from_env("CORACLE_FAULT_SEED", 1);
    let minutes = wait::from_env("CORACLE_FAULT_MINUTES", 0);
    let mut nodes = Nodes::with_first(SHARDS);
    nodes.start(2, 1);
    nodes.start(3, 1);
    nodes.ctl(&format!("add {} {} --promote", nodes.member(2), nodes.member(3)));
    let addresses = || (1..=NODES).map(|id| nodes.address(id)).collect();
    let mut traffic = Traffic::start_with(addresses(), CLIENTS, seed);
    let started = Instant::now();
    let mut churn = Churn {
        nodes,
        random: Random::new(seed),
        voters: BTreeSet::from([1, 2, 3]),
        trouble: None,
        calm_until: started,
        made: BTreeMap::new(),
        timeline: Vec::new(),
        started,
    };
    let mut changes = 0;
    let end = started + Duration::from_secs(60 * minutes);
    while if minutes == 0 { changes < SHORT_CHANGES } else { Instant::now() < end } {
        churn.change();
        changes += 1;
    }
    let voters = *churn.voters.first().unwrap()..=*churn.voters.last().unwrap();
    let mut wrong = traffic.finish_with(churn.nodes.client(voters));
    wrong.extend(churn.complaints());
    let tally = traffic.tally();
    println!("{changes} changes in {:?}; {:?}\n{tally:?}", started.elapsed(), churn.made);
    let gap_max = Duration::from_millis(wait::from_env("CORACLE_PAUSE_MS_MAX", 30_000));
    if tally.longest_gap > gap_max {
        wrong.push(format!("nothing was acknowledged for {:?}", tally.longest_gap).into());
    }
    if !wrong.is_empty() {
        let directory = churn.nodes.keep_directory();
        let details: Vec<&str> = wrong.iter().map(|finding| finding.detail.as_str()).collect();
        let all = format!("seed {seed}\n{}\n{}", details.join("\n"), churn.timeline.join("\n"));
        std::fs::write(directory.join("failure.txt"), all).unwrap();
        let texts: Vec<&str> = wrong.iter().map(|finding| finding.text.as_str()).collect();
        panic!("seed {seed}; all is kept in {}\n{}", directory.display(), texts.join("\n"));
    }
}
