//! `confchange/`: sequences of membership changes. Every configuration and every refusal exactly.
//!
//! Below the configuration the tables show each member with `next`, which tells when its progress was
//! created: a member that stays must keep it. That is compared, too, with a map kept by
//! [`Configuration::members`] as a leader would.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use coracle_engine::NodeId;
use coracle_engine::raft::membership::{Change, ChangeError, Configuration};

use super::datadriven::{Case, parse};

/// The change that a word like `v1` stands for. `u1` changes what is kept outside of Raft: nothing here.
pub fn change(word: &str) -> Option<Change> {
    let (kind, id) = word.split_at(1);
    let node = NodeId(id.parse().unwrap_or_else(|_| panic!("a change, not {word:?}")));
    match kind {
        "v" => Some(Change::AddVoter(node)),
        "l" => Some(Change::AddLearner(node)),
        "r" => Some(Change::Remove(node)),
        "u" => None,
        _ => panic!("a change, not {word:?}"),
    }
}

fn run(configuration: &Configuration, case: &Case) -> Result<Configuration, ChangeError> {
    let words = case.input.iter().flat_map(|line| line.split_whitespace());
    let changes: Vec<Change> = words.filter_map(change).collect();
    match case.name.as_str() {
        "simple" => configuration.simple(&changes),
        "enter-joint" => {
            configuration.enter_joint(&changes, case.value("autoleave") == Some("true"))
        }
        "leave-joint" => configuration.leave_joint(),
        other => panic!("line {}: unknown command {other:?}", case.line),
    }
}

/// How the tables put a refusal.
fn words(error: ChangeError) -> &'static str {
    match error {
        ChangeError::AlreadyJoint => "config is already joint",
        ChangeError::NotJoint => "can't leave a non-joint config",
        ChangeError::NoVoters => "removed all voters",
        ChangeError::NothingToJoin => "can't make a zero-voter config joint",
        ChangeError::NeedsJoint { .. } => {
            "more than one voter changed without entering joint config"
        }
        other => panic!("no table gets that far: {other}"),
    }
}

/// The tables have two sentences for one reason.
fn reason(line: &str) -> &str {
    match line {
        "can't apply simple config change in joint config" => "config is already joint",
        other => other,
    }
}

#[test]
fn membership_changes_agree_with_etcd_or_the_test_says_that_it_ran_nothing() {
    let files = super::files("confchange");
    let (mut changes, mut refusals) = (0, 0);
    for file in &files {
        let mut configuration = Configuration::default();
        let mut created: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (round, case) in parse(&file.text).iter().enumerate() {
            let place = format!("{}:{}: {} {:?}", file.name, case.line, case.text, case.input);
            let expected: Vec<&str> = case.expected.iter().map(|line| reason(line)).collect();
            match run(&configuration, case) {
                Err(error) => {
                    assert_eq!(expected, [words(error)], "{place}");
                    refusals += 1;
                }
                Ok(after) => {
                    configuration = after;
                    let members = configuration.members();
                    created.retain(|node, _| members.contains(*node));
                    let mut shown = format!("{configuration}");
                    for node in members.iter() {
                        let next = created.entry(node).or_insert(round.max(1));
                        let learner = configuration.learners().contains(node);
                        let learner = if learner { " learner" } else { "" };
                        let _ = write!(shown, "\n{node}: StateProbe match=0 next={next}{learner}");
                    }
                    assert_eq!(shown.lines().collect::<Vec<_>>(), expected, "{place}");
                    changes += 1;
                }
            }
        }
    }
    if !files.is_empty() {
        let count = files.len();
        super::say(&format!(
            "confchange: {changes} configurations and {refusals} refusals in {count} files, all equal"
        ));
        assert!(changes + refusals > 0, "there are files, but no cases in them");
    }
}
