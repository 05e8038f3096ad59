//! Events and effects as short lines of text, for transcripts and failure stories.

use coracle_engine::raft::{AppendOutcome, Effects, Entry, EntryKind, Message, Raft};

pub fn entry(entry: &Entry) -> String {
    let (term, index) = (entry.term, entry.index);
    match entry.kind {
        EntryKind::Noop => format!("{term}/{index} noop"),
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

pub fn message(message: &Message) -> String {
    let text = match message {
        Message::PreVote(m) => format!("PreVote last={}/{}", m.last_term, m.last_index),
        Message::PreVoteReply(m) => format!("PreVoteReply granted={}", m.granted),
        Message::Vote(m) => format!("Vote last={}/{}", m.last_term, m.last_index),
        Message::VoteReply(m) => format!("VoteReply granted={}", m.granted),
        Message::Append(m) => {
            let (prev, commit) = (format!("{}/{}", m.prev_term, m.prev_index), m.commit);
            format!("Append prev={prev} commit={commit} {}", entries(&m.entries))
        }
        Message::AppendReply(m) => match m.outcome {
            AppendOutcome::Accepted { matched } => format!("AppendReply accepted={matched}"),
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                format!("AppendReply rejected={prev_index} hint={hint_term}/{hint_index}")
            }
        },
        Message::Heartbeat(m) => format!("Heartbeat commit={} round={}", m.commit, m.round),
        Message::HeartbeatReply(m) => format!("HeartbeatReply round={}", m.round),
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
    if let Some(hs) = effects.hard_state {
        let vote = hs.vote.map_or("nobody".to_owned(), |vote| vote.to_string());
        lines.push(format!("stores term={} vote={vote} commit={}", hs.term, hs.commit));
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
    for (id, index) in &effects.read_states {
        lines.push(format!("read {id} may be answered from {index} on"));
    }
    for id in &effects.reads_failed {
        lines.push(format!("read {id} fails"));
    }
    if let Some(fault) = effects.fault {
        lines.push(format!("FAULT: {fault}"));
    }
}

pub fn status(raft: &Raft) -> String {
    let status = raft.status();
    let leader = status.soft.leader.map_or("nobody".to_owned(), |leader| leader.to_string());
    format!(
        "{:?} term={} leader={leader} last={} durable={} commit={}",
        status.soft.role, status.soft.term, status.last_index, status.durable, status.commit
    )
}
