//! Entries and messages of ours in etcd's words.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use coracle_engine::raft::membership::{Configuration, NodeSet, Reconfiguration, Transition};
use coracle_engine::raft::{AppendOutcome, Entry, EntryKind, Message, WriteMark};
use coracle_engine::{LogIndex, NodeId, Term};

use super::confchange::change;

/// How the entries of a scenario are shown. Clones know of the same changes.
#[derive(Clone, Default)]
pub struct Words {
    /// Where the node's log begins.
    pub base: LogIndex,
    /// What was asked for with the entries that changed members; those of a leader's own are not here.
    changes: Rc<RefCell<BTreeMap<(LogIndex, Term), String>>>,
}

impl Words {
    /// The same for a node whose log begins at `base`.
    pub fn of(&self, base: LogIndex) -> Self {
        Self { base, changes: self.changes.clone() }
    }

    /// A change of members, in these words, has become this entry.
    pub fn note(&self, index: LogIndex, term: Term, words: String) {
        self.changes.borrow_mut().insert((index, term), words);
    }
}

/// Something under way.
pub struct Letter {
    pub from: NodeId,
    pub to: NodeId,
    pub body: Body,
}

pub enum Body {
    /// `notice`: only tells a newer term, to the sender of an outdated message.
    Message { message: Message, notice: bool },
    /// A node's own report, which no network can lose.
    Stored(WriteMark),
}

/// The term of an entry as the scenarios show it; see the head of `replay.rs`.
pub fn term_shown(term: Term, index: LogIndex, base: LogIndex) -> Term {
    if index == base && base.0 > 0 { Term(1) } else { term }
}

/// The change that a command names.
pub fn reconfiguration(transition: &str, words: &str) -> Reconfiguration {
    if transition == "auto" && words.is_empty() {
        return Reconfiguration::Leave;
    }
    let transition = match transition {
        "auto" => Transition::Auto,
        "implicit" => Transition::Joint,
        "explicit" => Transition::JointUntilLeft,
        other => panic!("unknown transition {other:?}"),
    };
    let changes = words.split_whitespace().filter_map(change).collect();
    Reconfiguration::Change { changes, transition }
}

/// An entry that only etcd's users could tell from another one has its words from who asked for it; leaders end
/// a joint configuration without being asked.
pub fn entry_text(entry: &Entry, words: &Words) -> String {
    let term = term_shown(entry.term, entry.index, words.base);
    let what = match entry.kind {
        EntryKind::Reconfiguration => {
            let changes = words.changes.borrow();
            let asked = changes.get(&(entry.index, entry.term)).map(String::as_str);
            format!("Entry{}", asked.unwrap_or("ConfChangeV2"))
        }
        _ => format!("EntryNormal {:?}", String::from_utf8_lossy(&entry.payload)),
    };
    format!("{term}/{} {what}", entry.index)
}

pub fn snapshot_text(index: LogIndex, term: Term, configuration: &Configuration) -> String {
    let list = |nodes: &NodeSet| {
        let nodes: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
        format!("[{}]", nodes.join(" "))
    };
    let parts = configuration.clone().into_parts();
    let (voters, outgoing) = (list(&parts.incoming), list(&parts.outgoing));
    let (learners, next) = (list(&parts.learners), list(&parts.learners_next));
    format!(
        "Index:{index} Term:{term} ConfState:Voters:{voters} VotersOutgoing:{outgoing} \
         Learners:{learners} LearnersNext:{next} AutoLeave:{}",
        parts.auto_leave
    )
}

pub fn letter_text(letter: &Letter, words: &Words) -> String {
    let Body::Message { message, notice } = &letter.body else {
        return format!("{}->{} MsgStorageAppendResp", letter.from, letter.to);
    };
    let shown = |term, index| format!("{}/{index}", term_shown(term, index, words.base));
    let commit = |index: LogIndex| match index.0 {
        0 => String::new(),
        index => format!(" Commit:{index}"),
    };
    const REJECTED: &str = " Rejected (Hint: 0)";
    let (kind, log, more) = match message {
        Message::PreVote(m) => ("MsgPreVote", shown(m.last_term, m.last_index), String::new()),
        Message::Vote(m) => ("MsgVote", shown(m.last_term, m.last_index), String::new()),
        Message::PreVoteReply(m) => {
            let more = if m.granted { "" } else { REJECTED };
            ("MsgPreVoteResp", "0/0".to_owned(), more.to_owned())
        }
        Message::VoteReply(m) => {
            let more = if m.granted { "" } else { REJECTED };
            ("MsgVoteResp", "0/0".to_owned(), more.to_owned())
        }
        Message::Append(m) => {
            let entries: Vec<String> = m.entries.iter().map(|e| entry_text(e, words)).collect();
            let entries = match entries.as_slice() {
                [] => String::new(),
                some => format!(" Entries:[{}]", some.join(", ")),
            };
            let more = format!("{}{entries}", commit(m.commit));
            ("MsgApp", shown(m.prev_term, m.prev_index), more)
        }
        Message::AppendReply(m) => match m.outcome {
            AppendOutcome::Accepted { matched } => {
                ("MsgAppResp", format!("0/{matched}"), String::new())
            }
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                let term = term_shown(hint_term, hint_index, words.base);
                let more = format!(" Rejected (Hint: {hint_index})");
                ("MsgAppResp", format!("{term}/{prev_index}"), more)
            }
        },
        Message::Heartbeat(m) => ("MsgHeartbeat", "0/0".to_owned(), commit(m.commit)),
        Message::HeartbeatReply(_) if *notice => ("MsgAppResp", "0/0".to_owned(), String::new()),
        Message::HeartbeatReply(_) => ("MsgHeartbeatResp", "0/0".to_owned(), String::new()),
        Message::TimeoutNow(_) => ("MsgTimeoutNow", "0/0".to_owned(), String::new()),
        Message::SnapshotOffer(_) => ("MsgSnap", "0/0".to_owned(), String::new()),
        Message::Census(_) | Message::CensusReply(_) => unreachable!("nobody is blank here"),
        Message::Quiesce(_) | Message::Quiesced(_) => unreachable!("nobody sleeps here"),
        Message::ReadIndex(_) | Message::ReadIndexReply(_) => {
            unreachable!("only leaders read here")
        }
    };
    let (from, to, term) = (letter.from, letter.to, message.term());
    format!("{from}->{to} {kind} Term:{term} Log:{log}{more}")
}
