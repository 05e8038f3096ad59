//! Reads the facts out of what etcd's Raft printed.
//!
//! A fact is what the text says about roles, leaders, terms, votes, commit indexes, logs, configurations,
//! progress, and messages that carry a decision. Not compared, because they are etcd's own: heartbeats,
//! empty appends (they only carry a commit index), log lines that repeat a message, and the messages
//! between a node and its own storage, except whether a report of storage counts.

use super::datadriven::Case;
use super::facts::Facts;

/// What a command is expected to lead to.
#[derive(Debug, Default)]
pub struct Expected {
    pub facts: Facts,
    /// Lines that this reader does not know. They must not pass for compared.
    pub unread: Vec<String>,
}

/// What the lines are about.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Ready,
    Receive,
    AppendThread,
    ApplyThread,
    Other,
}

#[derive(Clone, Copy, PartialEq)]
enum Section {
    None,
    Entries,
    Committed,
    Processing,
}

struct Reader<'a> {
    case: &'a Case,
    is_repeated: &'a dyn Fn(&str) -> bool,
    out: Expected,
    mode: Mode,
    section: Section,
    node: String,
    /// Index of the storage report that was delivered last.
    report: Option<String>,
}

/// Whether a message carries a decision.
pub fn is_decision(message: &str) -> bool {
    let Some((route, rest)) = message.split_once(' ') else { return false };
    let Some((from, to)) = route.split_once("->") else { return false };
    match rest.split(' ').next().unwrap_or_default() {
        "MsgHeartbeat" | "MsgHeartbeatResp" => false,
        "MsgApp" => rest.contains("Entries:["),
        "MsgAppResp" => from != to,
        kind => !kind.starts_with("MsgStorage"),
    }
}

/// Whether a message is an acknowledgement, which says nothing new when it is repeated.
pub fn is_acknowledgement(message: &str) -> bool {
    message.contains(" MsgAppResp ") && !message.contains("Rejected")
}

/// Reads what a command is expected to lead to. `is_repeated` says whether an event was seen before this
/// command.
pub fn read(case: &Case, is_repeated: &dyn Fn(&str) -> bool) -> Expected {
    let mode = match case.name.as_str() {
        "process-ready" => Mode::Ready,
        "deliver-msgs" => Mode::Receive,
        "process-append-thread" => Mode::AppendThread,
        "process-apply-thread" => Mode::ApplyThread,
        _ => Mode::Other,
    };
    let node = case.plain().next().unwrap_or_default().to_owned();
    let mut reader = Reader {
        case,
        is_repeated,
        out: Expected::default(),
        mode,
        section: Section::None,
        node,
        report: None,
    };
    for line in joined(&case.expected) {
        if !reader.line(&line) {
            reader.out.unread.push(line);
        }
    }
    reader.out
}

/// The lines without indentation; lists of entries that go over several lines become one.
fn joined(lines: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut list: Option<(String, Vec<String>)> = None;
    for line in lines.iter().map(|line| line.trim()) {
        match &mut list {
            Some((begin, items)) if line.starts_with(']') => {
                out.push(format!("{begin}{}{line}", items.join(", ")));
                list = None;
            }
            Some((_, items)) => items.push(line.to_owned()),
            None if line.ends_with("Entries:[") => list = Some((line.to_owned(), Vec::new())),
            None => out.push(line.to_owned()),
        }
    }
    out
}

/// The words after `label`, up to the next blank, comma or bracket.
fn after<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(label)?;
    rest.split([' ', ',', ']']).next()
}

impl Reader<'_> {
    /// Whether the line is known.
    fn line(&mut self, line: &str) -> bool {
        if let Some(header) = line.strip_prefix("> ") {
            return self.header(header);
        }
        if let Some(rest) = line.strip_prefix("dropped: ") {
            self.decided(rest, format!("dropped {rest}"));
            return true;
        }
        match line {
            "" | "ok" | "ok (quiet)" | "]" | "<empty Ready>" => return true,
            "raft proposal dropped" => {
                self.out.facts.event(format!("{} refuses a proposal", self.node));
            }
            "Entries:" => self.section = Section::Entries,
            "CommittedEntries:" => self.section = Section::Committed,
            "Processing:" => self.section = Section::Processing,
            "Messages:" | "Responses:" => self.section = Section::None,
            _ if line.starts_with("Ready MustSync=") => self.section = Section::None,
            _ if line.starts_with("HardState ") => self.hard_state(line),
            _ if line.starts_with("Lead:") => {
                self.section = Section::None;
                self.state("leader", after(line, "Lead:"));
                self.state("role", after(line, "State:"));
            }
            _ if is_message(line) => self.message(line),
            _ if is_entry(line) => return self.entry(line),
            _ if line.starts_with("Snapshot") => {
                self.out.facts.event(format!("{} {line}", self.node));
            }
            _ => return self.member(line) || self.remark(line),
        }
        true
    }

    fn header(&mut self, header: &str) -> bool {
        let Some((node, what)) = header.split_once(' ') else { return false };
        self.node = node.to_owned();
        self.section = Section::None;
        self.mode = match what {
            "handling Ready" => Mode::Ready,
            "receiving messages" => Mode::Receive,
            "processing append thread" => Mode::AppendThread,
            "processing apply thread" => Mode::ApplyThread,
            _ => return false,
        };
        true
    }

    fn state(&mut self, what: &str, value: Option<&str>) {
        self.out.facts.state(format!("{} {what}", self.node), value.unwrap_or("0"));
    }

    fn hard_state(&mut self, line: &str) {
        self.section = Section::None;
        let [term, vote, commit] =
            ["Term:", "Vote:", "Commit:"].map(|label| after(line, label).unwrap_or("0"));
        self.out.facts.event(format!("{} stores Term:{term} Vote:{vote}", self.node));
        self.state("term", Some(term));
        self.state("vote", Some(vote));
        self.state("commit", Some(commit));
    }

    fn message(&mut self, line: &str) {
        let route = line.split(' ').next().unwrap_or_default();
        let (from, to) = route.split_once("->").unwrap_or_default();
        if self.mode == Mode::Receive {
            self.node = to.to_owned();
            if let Some(index) = line.split_once("MsgStorageAppendResp").and_then(|_| last_of(line))
            {
                if index != "0" {
                    self.state(&format!("takes {index} for stored"), Some("true"));
                    self.report = Some(index.to_owned());
                }
                return;
            }
        }
        let event = match self.mode {
            Mode::Receive => format!("{to} receives {line}"),
            Mode::AppendThread if self.section == Section::Processing => return,
            Mode::AppendThread => format!("{from} sends when stored {line}"),
            Mode::Ready => format!("{from} sends {line}"),
            Mode::ApplyThread | Mode::Other => return,
        };
        self.decided(line, event);
    }

    /// Notes what became of a message, if it carries a decision.
    fn decided(&mut self, message: &str, event: String) {
        let repeated = is_acknowledgement(message) && (self.is_repeated)(&event);
        if is_decision(message) && !repeated {
            self.out.facts.event(event);
        }
    }

    fn entry(&mut self, line: &str) -> bool {
        let what = match (self.mode, self.section) {
            (Mode::Ready, Section::Entries) => "appends",
            (Mode::Ready, Section::Committed) => "applies",
            (Mode::Other, _) if self.case.name == "raft-log" => "has",
            _ => return false,
        };
        self.out.facts.event(format!("{} {what} {line}", self.node));
        true
    }

    /// Lines of `raft-state` and `status`: `1: StateLeader ...`.
    fn member(&mut self, line: &str) -> bool {
        let Some((id, rest)) = line.split_once(": State") else { return false };
        let words: Vec<&str> = rest.split(' ').collect();
        match (self.case.name.as_str(), words.as_slice()) {
            ("raft-state", [role, votes, term, leader]) => {
                self.node = id.to_owned();
                self.state("role", Some(&format!("State{role}")));
                self.state("votes", Some(votes));
                self.state("term", term.strip_prefix("Term:"));
                self.state("leader", leader.strip_prefix("Lead:"));
            }
            ("status", [kind, ..]) => {
                self.state(&format!("sees {id} progress"), Some(kind));
                for what in ["match", "next"] {
                    let value = after(rest, &format!(" {what}="));
                    self.state(&format!("sees {id} {what}"), value);
                }
            }
            _ => return false,
        }
        true
    }

    /// Log lines that tell a decision; the others are known and passed over.
    fn remark(&mut self, line: &str) -> bool {
        let Some((level, text)) = line.split_once(' ') else { return false };
        if !matches!(level, "INFO" | "WARN" | "DEBUG") {
            return line == "raft: cannot step as peer not found";
        }
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        if text.contains("became ") {
            let (role, term) = rest.split_once(" at term ").unwrap_or_default();
            let role = role.trim_start_matches("became ");
            self.out.facts.event(format!("{first} becomes {role} in term {term}"));
        } else if let Some(configuration) = rest.strip_prefix("switched to configuration ") {
            self.out.facts.event(format!("{first} has {configuration}"));
        } else if first == "newRaft" {
            let id = rest.split(' ').next().unwrap_or_default();
            let numbers = ["term: ", "commit: ", "lastindex: ", "lastterm: "]
                .map(|label| after(rest, &format!(", {label}")).unwrap_or("?"));
            let peers = rest.split("[peers: [").nth(1).and_then(|rest| rest.split(']').next());
            self.node = id.to_owned();
            self.state("starts with voters", peers);
            self.state("starts with term, commit, last", Some(&numbers.join(", ")));
        } else if let Some(verdict) = verdict(rest) {
            self.out.facts.event(format!("{first} {verdict}"));
        } else if let Some(rest) = text.strip_prefix("found conflict at index ") {
            self.out.facts.event(format!("{} replaces {rest}", self.node));
        } else if rest.starts_with("stepped down to follower") {
            self.out.facts.event(format!("{first} hears no quorum"));
        } else if rest.starts_with("is unpromotable") {
            self.out.facts.event(format!("{first} may not campaign"));
        } else if rest.contains("starts to transfer leadership to ") {
            let target = text.rsplit(' ').next().unwrap_or_default();
            self.out.facts.event(format!("{first} hands leadership to {target}"));
        } else if text.contains("ignored entry appends from a MsgStorageAppendResp")
            || text.starts_with("entry at (index,term)=")
        {
            if let Some(index) = self.report.take() {
                self.state(&format!("takes {index} for stored"), Some("false"));
            }
        } else {
            return REPEATING.iter().any(|part| text.contains(part));
        }
        true
    }
}

/// Parts of log lines that only repeat what messages and states say.
const REPEATING: [&str; 21] = [
    "because it is unreachable",
    "initiating automatic transition",
    "is starting a new election",
    "sent MsgVote request",
    "sent MsgPreVote request",
    "received MsgVoteResp",
    "received MsgPreVoteResp",
    "received MsgAppResp(rejected",
    "received MsgTimeoutNow",
    "sends MsgTimeoutNow",
    "has received",
    "message with higher term",
    "message with lower term",
    "replace the unstable entries",
    "missing from unstable log; ignoring",
    "rejected MsgApp [",
    "decreased progress",
    "sent snapshot[",
    "sending replication messages",
    "starts to restore snapshot",
    "restored snapshot [",
];

/// What a voter decided: `[...] cast MsgVote for 1 [...] at term 1`.
fn verdict(text: &str) -> Option<String> {
    for (words, verb) in [("cast ", "grants"), ("rejected ", "rejects"), ("ignored ", "ignores")] {
        for kind in ["MsgVote", "MsgPreVote"] {
            for link in [" for ", " from "] {
                if let Some(from) = after(text, &format!("{words}{kind}{link}")) {
                    let term = after(text, " at term ").unwrap_or_default().trim_end_matches(':');
                    return Some(format!("{verb} {kind} of {from} in term {term}"));
                }
            }
        }
    }
    None
}

/// The index in `Log:term/index`.
fn last_of(line: &str) -> Option<&str> {
    after(line, "Log:")?.split('/').nth(1)
}

fn is_message(line: &str) -> bool {
    let mut words = line.split(' ');
    words.next().is_some_and(|route| route.contains("->"))
        && words.next().is_some_and(|kind| kind.starts_with("Msg"))
}

fn is_entry(line: &str) -> bool {
    let mut words = line.split(' ');
    words.next().is_some_and(|place| place.split('/').all(|n| n.parse::<u64>().is_ok()))
        && words.next().is_some_and(|kind| kind.starts_with("Entry"))
}
