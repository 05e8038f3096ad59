//! Messages and entries of the one implementation in the words of the other.
//!
//! Coracle's types are the common language: what replicas say is compared, kept in the network and
//! printed in them.

use bytes::Bytes;
use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, CommitMark, Entry, EntryKind, Heartbeat, HeartbeatReply,
    Message, PreVote, PreVoteReply, Standing, TimeoutNow, Vote, VoteReply,
};
use coracle_engine::{LogIndex, NodeId, Term};
use raft::eraftpb;
use raft::eraftpb::MessageType;

use crate::known::{Known, note};

/// An entry for the `raft` crate. Its no-op is a normal entry without data; proposals have data.
pub fn entry_to_theirs(entry: &Entry) -> eraftpb::Entry {
    assert_eq!(entry.kind == EntryKind::Noop, entry.payload.is_empty(), "proposals have data");
    let (term, index, data) = (entry.term.0, entry.index.0, entry.payload.clone());
    eraftpb::Entry { term, index, data, ..Default::default() }
}

/// An entry of the `raft` crate.
pub fn entry_to_ours(entry: &eraftpb::Entry) -> Entry {
    let payload = Bytes::copy_from_slice(&entry.data);
    let kind = if payload.is_empty() { EntryKind::Noop } else { EntryKind::Normal };
    Entry { term: Term(entry.term), index: LogIndex(entry.index), kind, payload }
}

/// What their request for votes carries when the candidate was told to campaign.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// A message for the `raft` crate.
pub fn message_to_theirs(from: NodeId, to: NodeId, message: &Message) -> eraftpb::Message {
    let (from, to, term) = (from.0, to.0, message.term().0);
    let mut m = eraftpb::Message { from, to, term, ..Default::default() };
    match message {
        Message::PreVote(PreVote { last_index, last_term, .. }) => {
            m.set_msg_type(MessageType::MsgRequestPreVote);
            (m.index, m.log_term) = (last_index.0, last_term.0);
        }
        Message::Vote(Vote { last_index, last_term, transfer, .. }) => {
            m.set_msg_type(MessageType::MsgRequestVote);
            if *transfer {
                m.context = Bytes::from_static(TRANSFER);
            }
            (m.index, m.log_term) = (last_index.0, last_term.0);
        }
        Message::PreVoteReply(reply) => {
            m.set_msg_type(MessageType::MsgRequestPreVoteResponse);
            m.reject = !reply.granted;
        }
        Message::VoteReply(reply) => {
            m.set_msg_type(MessageType::MsgRequestVoteResponse);
            m.reject = !reply.granted;
        }
        Message::Append(append) => {
            m.set_msg_type(MessageType::MsgAppend);
            (m.index, m.log_term) = (append.prev_index.0, append.prev_term.0);
            m.commit = append.commit.0;
            m.set_entries(append.entries.iter().map(entry_to_theirs).collect::<Vec<_>>().into());
        }
        Message::AppendReply(reply) => {
            m.set_msg_type(MessageType::MsgAppendResponse);
            match reply.outcome {
                AppendOutcome::Accepted { matched } => m.index = matched.0,
                AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                    m.reject = true;
                    m.index = prev_index.0;
                    (m.reject_hint, m.log_term) = (hint_index.0, hint_term.0);
                }
            }
        }
        Message::Heartbeat(heartbeat) => {
            m.set_msg_type(MessageType::MsgHeartbeat);
            m.commit = heartbeat.commit.0;
        }
        Message::HeartbeatReply(_) => m.set_msg_type(MessageType::MsgHeartbeatResponse),
        Message::TimeoutNow(_) => m.set_msg_type(MessageType::MsgTimeoutNow),
        Message::SnapshotOffer(_)
        | Message::Census(_)
        | Message::CensusReply(_)
        | Message::Quiesce(_)
        | Message::Quiesced(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_) => {
            unreachable!("no log is compacted here, nobody loses data, and nobody reads")
        }
    }
    m
}

/// A message of the `raft` crate. The commit index in votes and answers is left out ([`Known::CommitInVotes`]).
pub fn message_to_ours(m: &eraftpb::Message) -> Message {
    let term = Term(m.term);
    let (index, log_term) = (LogIndex(m.index), Term(m.log_term));
    let leads = matches!(m.get_msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat);
    if m.commit > 0 && !leads {
        note(Known::CommitInVotes);
    }
    let committed = CommitMark::default();
    match m.get_msg_type() {
        MessageType::MsgRequestPreVote => {
            Message::PreVote(PreVote { term, last_index: index, last_term: log_term, committed })
        }
        MessageType::MsgRequestVote => {
            let transfer = m.context == TRANSFER;
            Message::Vote(Vote {
                term,
                last_index: index,
                last_term: log_term,
                transfer,
                committed,
            })
        }
        MessageType::MsgRequestPreVoteResponse => {
            Message::PreVoteReply(PreVoteReply { term, granted: !m.reject, committed })
        }
        MessageType::MsgRequestVoteResponse => {
            Message::VoteReply(VoteReply { term, granted: !m.reject, committed })
        }
        MessageType::MsgAppend => Message::Append(Append {
            term,
            prev_index: index,
            prev_term: log_term,
            commit: LogIndex(m.commit),
            entries: m.entries.iter().map(entry_to_ours).collect(),
        }),
        MessageType::MsgAppendResponse => {
            let outcome = if m.reject {
                let (hint_index, hint_term) = (LogIndex(m.reject_hint), log_term);
                AppendOutcome::Rejected { prev_index: index, hint_index, hint_term }
            } else {
                AppendOutcome::Accepted { matched: index }
            };
            Message::AppendReply(AppendReply { term, outcome, standing: Standing::Member })
        }
        MessageType::MsgHeartbeat => {
            Message::Heartbeat(Heartbeat { term, commit: LogIndex(m.commit), round: 0 })
        }
        MessageType::MsgHeartbeatResponse => Message::HeartbeatReply(HeartbeatReply {
            term,
            round: 0,
            standing: Standing::Member,
            quiet_ms: 0,
            priority: 0,
        }),
        MessageType::MsgTimeoutNow => Message::TimeoutNow(TimeoutNow { term }),
        other => panic!("the `raft` crate sent {other:?}, which is not in this comparison"),
    }
}
