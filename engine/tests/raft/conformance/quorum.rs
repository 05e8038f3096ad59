//! `quorum/`: what majorities and joint majorities have committed or decided. Every case exactly.

use std::collections::BTreeMap;

use coracle_engine::LogIndex;
use coracle_engine::raft::quorum::{
    VoteResult, joint_committed, joint_vote, majority_committed, majority_vote,
};

use super::datadriven::{Case, parse};

/// One question of a table.
struct Question {
    incoming: Vec<u64>,
    /// Absent for a plain majority.
    outgoing: Option<Vec<u64>>,
    values: Vec<String>,
}

impl Question {
    fn new(case: &Case) -> Self {
        let outgoing = case.values("cfgj").map(|values| match values {
            [zero] if zero == "zero" => Vec::new(),
            _ => case.numbers("cfgj"),
        });
        let values = case.values("idx").or(case.values("votes")).unwrap_or_default().to_vec();
        Self { incoming: case.numbers("cfg"), outgoing, values }
    }

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
fn quorums_agree_with_etcd_or_the_test_says_that_it_ran_nothing() {
    let files = super::files("quorum");
    let mut count = 0;
    for file in &files {
        for case in parse(&file.text) {
            let question = Question::new(&case);
            let found = match case.name.as_str() {
                "committed" => question.committed(),
                "vote" => question.vote(),
                other => panic!("{}:{}: unknown command {other:?}", file.name, case.line),
            };
            // What stands above or before the answer is a picture.
            let answer = case.expected.last().unwrap().rsplit('>').next().unwrap();
            assert_eq!(found, answer, "{}:{}: {}", file.name, case.line, case.text);
            count += 1;
        }
    }
    if !files.is_empty() {
        super::say(&format!("quorum: {count} cases in {} files, all equal", files.len()));
        assert!(count > 0, "there are files, but no cases in them");
    }
}
