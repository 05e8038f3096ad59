//! Entries and messages of ours in etcd's words.

use coracle_engine::raft::membership::{Configuration, NodeSet, Reconfiguration, Transition};
use coracle_engine::raft::{AppendOutcome, Entry, EntryKind, Message, WriteMark};
use coracle_engine::{LogIndex, NodeId, Term};

use super::confchange::change;

/// Marks the payload of an entry that stands for a change of membership.
pub const CHANGE_MARK: char = '\u{1}';

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

pub fn reconfiguration(entry: &Entry) -> Option<Reconfiguration> {
    let text = String::from_utf8_lossy(&entry.payload);
    let mut parts = text.strip_prefix(CHANGE_MARK)?.splitn(3, '|').skip(1);
    let (transition, words) = (parts.next()?, parts.next()?);
    if transition == "auto" && words.is_empty() {
        return Some(Reconfiguration::Leave);
    }
    let transition = match transition {
        "auto" => Transition::Auto,
        "implicit" => Transition::Joint,
        "explicit" => Transition::JointUntilLeft,
        other => panic!("unknown transition {other:?}"),
    };
    let changes = words.split_whitespace().filter_map(change).collect();
    Some(Reconfiguration::Change { changes, transition })
}

pub fn entry_text(entry: &Entry, base: LogIndex) -> String {
    let term = term_shown(entry.term, entry.index, base);
    let text = String::from_utf8_lossy(&entry.payload);
    let what = match (entry.kind, text.strip_prefix(CHANGE_MARK)) {
        (EntryKind::Normal, Some(change)) => {
            let mut parts = change.split('|');
            let kind = parts.next().unwrap_or_default();
            format!("Entry{kind} {}", parts.nth(1).unwrap_or_default()).trim_end().to_owned()
        }
        _ => format!("EntryNormal {text:?}"),
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

pub fn letter_text(letter: &Letter, base: LogIndex) -> String {
    let Body::Message { message, notice } = &letter.body else {
        return format!("{}->{} MsgStorageAppendResp", letter.from, letter.to);
    };
    let shown = |term, index| format!("{}/{index}", term_shown(term, index, base));
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
            let entries: Vec<String> = m.entries.iter().map(|e| entry_text(e, base)).collect();
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
                let term = term_shown(hint_term, hint_index, base);
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
    };
    let (from, to, term) = (letter.from, letter.to, message.term());
    format!("{from}->{to} {kind} Term:{term} Log:{log}{more}")
}
