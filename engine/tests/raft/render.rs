//! Events and effects as short lines of text, for transcripts and failure stories.

use coracle_engine::LogIndex;
use coracle_engine::raft::{
    AppendOutcome, Effects, Entry, EntryKind, Message, Raft, Readmission, Standing,
};

pub fn entry(entry: &Entry) -> String {
    let (term, index) = (entry.term, entry.index);
    match entry.kind {
        EntryKind::Noop => format!("{term}/{index} noop"),
        EntryKind::Readmission => {
            let Readmission { node, incarnation } = Readmission::decode(&entry.payload).unwrap();
            format!("{term}/{index} readmits {node} as {incarnation}")
        }
        EntryKind::Reconfiguration => {
            let configuration = entry.configuration().unwrap();
            format!("{term}/{index} {configuration}")
        }
        EntryKind::Normal => {
            let text = String::from_utf8_lossy(&entry.payload);
            if text.len() > 16 {
                format!("{term}/{index} ({} bytes)", text.len())
            } else {
                format!("{term}/{index} {text:?}")
            }
        }
    }
}

pub fn entries(list: &[Entry]) -> String {
    if let ([first, .., last], true) = (list, list.len() > 6) {
        return format!("[{} ... {}]", entry(first), entry(last));
    }
    format!("[{}]", list.iter().map(entry).collect::<Vec<_>>().join(", "))
}

/// Nothing for a member.
fn standing(standing: Standing) -> String {
    match standing {
        Standing::Member => String::new(),
        Standing::Returning(incarnation) => format!(" returning={incarnation}"),
    }
}

pub fn message(message: &Message) -> String {
    let text = match message {
        Message::PreVote(m) => format!("PreVote last={}/{}", m.last_term, m.last_index),
        Message::PreVoteReply(m) => format!("PreVoteReply granted={}", m.granted),
        Message::Vote(m) => {
            let transfer = if m.transfer { " transfer" } else { "" };
            format!("Vote last={}/{}{transfer}", m.last_term, m.last_index)
        }
        Message::VoteReply(m) => format!("VoteReply granted={}", m.granted),
        Message::Append(m) => {
            let (prev, commit) = (format!("{}/{}", m.prev_term, m.prev_index), m.commit);
            format!("Append prev={prev} commit={commit} {}", entries(&m.entries))
        }
        Message::AppendReply(m) => {
            let standing = standing(m.standing);
            match m.outcome {
                AppendOutcome::Accepted { matched } => {
                    format!("AppendReply accepted={matched}{standing}")
                }
                AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                    let hint = format!("hint={hint_term}/{hint_index}");
                    format!("AppendReply rejected={prev_index} {hint}{standing}")
                }
            }
        }
        Message::Heartbeat(m) => format!("Heartbeat commit={} round={}", m.commit, m.round),
        Message::HeartbeatReply(m) => {
            format!("HeartbeatReply round={}{}", m.round, standing(m.standing))
        }
        Message::TimeoutNow(_) => "TimeoutNow".to_owned(),
        Message::SnapshotOffer(m) => format!("SnapshotOffer {}/{}", m.snapshot_term, m.index),
        Message::Census(m) => return format!("Census of {}", m.incarnation),
        Message::Quiesce(m) => format!("Quiesce last={}", m.last),
        Message::Quiesced(m) => format!("Quiesced last={} asleep={}", m.last, m.asleep),
        Message::ReadIndex(m) => format!("ReadIndex id={}{}", m.id, standing(m.standing)),
        Message::ReadIndexReply(m) => {
            format!("ReadIndexReply id={} {}/{}", m.id, m.committed.term, m.committed.index)
        }
        Message::CensusReply(m) => format!("CensusReply empty={} to {}", m.empty, m.incarnation),
    };
    format!("{text} (term {})", message.term())
}

/// One line per thing that is to be done.
pub fn effects(effects: &Effects, lines: &mut Vec<String>) {
    if let Some(soft) = effects.soft_state {
        let leader = soft.leader.map_or("nobody".to_owned(), |leader| leader.to_string());
        lines.push(format!("is {:?} in term {}, leader {leader}", soft.role, soft.term));
    }
    if let Some(proposed) = effects.proposed {
        let (first, term, accepted) = (proposed.first, proposed.term, proposed.accepted);
        lines.push(match proposed.refusal {
            None => format!("accepts {accepted} from {term}/{first}"),
            Some(refusal) => format!("accepts {accepted}, then refuses: {refusal:?}"),
        });
    }
    if let Some(base) = effects.base {
        let reset = if base.reset { ", all else gone" } else { "" };
        lines.push(format!("stores base {}/{}{reset}", base.term, base.index));
    }
    if let Some(hs) = effects.hard_state {
        let vote = hs.vote.map_or("nobody".to_owned(), |vote| vote.to_string());
        let (term, commit, standing) = (hs.term, hs.commit, standing(hs.standing));
        lines.push(format!("stores term={term} vote={vote} commit={commit}{standing}"));
    }
    if !effects.entries.is_empty() {
        lines.push(format!("stores {}", entries(&effects.entries)));
    }
    for (to, m) in &effects.messages {
        lines.push(format!("sends to {to}: {}", message(m)));
    }
    for (to, m) in &effects.after_durable {
        lines.push(format!("when stored, to {to}: {}", message(m)));
    }
    if let Some(index) = effects.committed {
        lines.push(format!("commits up to {index}"));
    }
    for fetch in &effects.fetches {
        lines.push(format!("fetches from {} for {}", fetch.first, fetch.to));
    }
    if let Some((from, index, term)) = effects.offered {
        lines.push(format!("is to pull snapshot {term}/{index} from {from}"));
    }
    for (id, index) in &effects.read_states {
        lines.push(format!("read {id} may be answered from {index} on"));
    }
    for id in &effects.reads_failed {
        lines.push(format!("read {id} fails"));
    }
    for (id, outcome) in &effects.transfers {
        lines.push(format!("transfer {id} ends: {outcome:?}"));
    }
    if let Some(fault) = effects.fault {
        lines.push(format!("FAULT: {fault}"));
    }
}

pub fn status(raft: &Raft) -> String {
    let status = raft.status();
    let leader = status.soft.leader.map_or("nobody".to_owned(), |leader| leader.to_string());
    let standing = raft.standing().map_or(" blank".to_owned(), standing);
    let base = match raft.log().base_index() {
        LogIndex(0) => String::new(),
        index => format!(" base={index}"),
    };
    let (role, term, last) = (status.soft.role, status.soft.term, status.last_index);
    let (durable, commit) = (status.durable, status.commit);
    format!(
        "{role:?} term={term} leader={leader}{base} last={last} durable={durable} \
         commit={commit}{standing}"
    )
}
