//! What can be known about a cluster after a command, and how two views of it differ.

use std::collections::{BTreeMap, BTreeSet};

/// Facts are text in etcd's words, so that a difference can be read.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What something is, after the command: `2 commit` is `11`.
    states: BTreeMap<String, String>,
    /// What has happened during the command: `1 sends 1->2 MsgVote Term:1 Log:1/10`. A set: how often, and
    /// in which of the batches of one command, is pacing.
    events: BTreeSet<String>,
}

impl Facts {
    pub fn state(&mut self, what: impl Into<String>, value: impl ToString) {
        self.states.insert(what.into(), value.to_string());
    }

    pub fn event(&mut self, what: impl Into<String>) {
        self.events.insert(what.into());
    }
}

/// Compares what is expected with what was found: the number of equal facts, and the differences.
///
/// What is expected tells states only where they change, so that a state that it does not tell
/// is not compared. Of events it tells all.
pub fn compare(expected: &Facts, found: &Facts) -> (usize, Vec<String>) {
    let mut equal = expected.events.intersection(&found.events).count();
    let mut differences = Vec::new();
    for (what, value) in &expected.states {
        match found.states.get(what) {
            Some(here) if here == value => equal += 1,
            Some(here) => differences.push(format!("state: {what} is {value}, here {here}")),
            None => differences.push(format!("state: {what} is {value}, here unknown")),
        }
    }
    let missing = expected.events.difference(&found.events);
    differences.extend(missing.map(|event| format!("missing: {event}")));
    let extra = found.events.difference(&expected.events);
    differences.extend(extra.map(|event| format!("extra: {event}")));
    (equal, differences)
}
