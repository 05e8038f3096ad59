//! The quorum tables of etcd's Raft library, run against ours.
//!
//! They are not part of this repository: `CORACLE_CONFORMANCE_DIR` names the directory that has
//! `etcd-raft/quorum`; without it, `../shared/conformance` beside the workspace is tried.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coracle_engine::LogIndex;
use coracle_engine::raft::quorum::{
    VoteResult, joint_committed, joint_vote, majority_committed, majority_vote,
};

fn tables() -> Option<PathBuf> {
    let root = std::env::var_os("CORACLE_CONFORMANCE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance"),
        PathBuf::from,
    );
    let tables = root.join("etcd-raft/quorum");
    if tables.is_dir() {
        return Some(tables);
    }
    eprintln!(
        "\n*** NOT RUN: no quorum tables in {} (set CORACLE_CONFORMANCE_DIR)\n",
        tables.display()
    );
    None
}

/// One question of a table and its answer.
struct Case {
    command: String,
    incoming: Vec<u64>,
    /// Absent for a plain majority.
    outgoing: Option<Vec<u64>>,
    values: Vec<String>,
    expected: String,
}

fn parse(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        assert_eq!(lines.next(), Some("----"), "after {line:?}");
        let answer: Vec<&str> = lines.by_ref().take_while(|line| !line.trim().is_empty()).collect();
        cases.push(parse_case(line, answer.last().unwrap()));
    }
    cases
}

fn parse_case(line: &str, expected: &str) -> Case {
    let line = line.replace(", ", ",");
    let mut words = line.split_whitespace();
    let mut case = Case {
        command: words.next().unwrap().to_owned(),
        incoming: Vec::new(),
        outgoing: None,
        values: Vec::new(),
        expected: expected.to_owned(),
    };
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        let list = value.trim_matches(['(', ')']).split(',').filter(|item| !item.is_empty());
        let ids =
            |list: &mut dyn Iterator<Item = &str>| list.map(|id| id.parse().unwrap()).collect();
        match key {
            "cfg" => case.incoming = ids(&mut list.into_iter()),
            "cfgj" if value == "zero" => case.outgoing = Some(Vec::new()),
            "cfgj" => case.outgoing = Some(ids(&mut list.into_iter())),
            "idx" | "votes" => case.values = list.map(str::to_owned).collect(),
            _ => panic!("unknown key in {line:?}"),
        }
    }
    case
}

impl Case {
    /// The values belong to the voters in the order in which they are first named.
    fn by_voter(&self) -> BTreeMap<u64, &str> {
        let mut values = self.values.iter();
        let mut map = BTreeMap::new();
        for id in self.incoming.iter().chain(self.outgoing.iter().flatten()) {
            map.entry(*id).or_insert_with(|| values.next().map_or("_", String::as_str));
        }
        map
    }

    fn committed(&self) -> String {
        let values = self.by_voter();
        let indexes = |voters: &[u64]| -> Vec<LogIndex> {
            voters.iter().map(|id| LogIndex(values[id].parse().unwrap_or(0))).collect()
        };
        let index = match &self.outgoing {
            None => majority_committed(&mut indexes(&self.incoming)),
            Some(outgoing) => joint_committed(&mut indexes(&self.incoming), &mut indexes(outgoing)),
        };
        if index == LogIndex(u64::MAX) { "∞".to_owned() } else { index.to_string() }
    }

    fn vote(&self) -> String {
        let values = self.by_voter();
        let votes = |voters: &[u64]| -> Vec<Option<bool>> {
            let vote = |id| match values[id] {
                "y" => Some(true),
                "n" => Some(false),
                "_" => None,
                other => panic!("vote {other:?}"),
            };
            voters.iter().map(vote).collect()
        };
        let result = match &self.outgoing {
            None => majority_vote(votes(&self.incoming)),
            Some(outgoing) => joint_vote(votes(&self.incoming), votes(outgoing)),
        };
        match result {
            VoteResult::Pending => "VotePending",
            VoteResult::Lost => "VoteLost",
            VoteResult::Won => "VoteWon",
        }
        .to_owned()
    }
}

#[test]
fn quorum_arithmetic_agrees_with_the_tables_of_etcd() {
    let Some(tables) = tables() else { return };
    let mut count = 0;
    for name in ["majority_commit", "majority_vote", "joint_commit", "joint_vote"] {
        let text = std::fs::read_to_string(tables.join(format!("{name}.txt"))).unwrap();
        for case in parse(&text) {
            let found = match case.command.as_str() {
                "committed" => case.committed(),
                "vote" => case.vote(),
                other => panic!("unknown command {other:?}"),
            };
            let expected = case.expected.rsplit('>').next().unwrap();
            let what = (name, &case.incoming, &case.outgoing, &case.values);
            assert_eq!(found, expected, "{what:?}");
            count += 1;
        }
    }
    assert!(count > 80, "only {count} cases were found in the tables");
}
