//! Bodies of Raft frames, to and from bytes.
//!
//! An append's body is a fixed part, a table with one line per entry, then all payloads in a row.
//! With the table in front, all lengths are checked before a payload is touched, and the payloads
//! are slices of the receive buffer.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::header::Kind;
use crate::limits::{PAYLOAD_BYTES_MAX, TERM_MAX};
use crate::raft::{
    Append, AppendOutcome, AppendReply, Census, CensusReply, CommitMark, Entry, EntryKind,
    Heartbeat, HeartbeatReply, Message, PreVote, PreVoteReply, Quiesce, Quiesced, ReadIndex,
    ReadIndexReply, Readmission, SnapshotOffer, Standing, TimeoutNow, Vote, VoteReply,
};
use crate::{LogIndex, Term};

/// Fixed part of an append's body.
const APPEND_FIXED_BYTES: usize = 40;
/// One line of the table in an append's body.
const ENTRY_LINE_BYTES: usize = 16;

const ACCEPTED: u8 = 0;
const REJECTED: u8 = 1;

const MEMBER: u8 = 0;
const RETURNING: u8 = 1;

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Problem(pub(super) &'static str);

impl Problem {
    pub(super) const SHORT: Self = Self("the body ends too early");
}

pub(super) fn kind_of(message: &Message) -> Kind {
    match message {
        Message::PreVote(_) => Kind::PreVote,
        Message::PreVoteReply(_) => Kind::PreVoteReply,
        Message::Vote(_) => Kind::Vote,
        Message::VoteReply(_) => Kind::VoteReply,
        Message::Append(_) => Kind::Append,
        Message::AppendReply(_) => Kind::AppendReply,
        Message::Heartbeat(_) => Kind::Heartbeat,
        Message::HeartbeatReply(_) => Kind::HeartbeatReply,
        Message::SnapshotOffer(_) => Kind::SnapshotOffer,
        Message::TimeoutNow(_) => Kind::TimeoutNow,
        Message::Census(_) => Kind::Census,
        Message::CensusReply(_) => Kind::CensusReply,
        Message::Quiesce(_) => Kind::Quiesce,
        Message::Quiesced(_) => Kind::Quiesced,
        Message::ReadIndex(_) => Kind::ReadIndex,
        Message::ReadIndexReply(_) => Kind::ReadIndexReply,
    }
}

/// Writes a message except for the payloads of an append, which follow it.
pub(super) fn encode_fixed(message: &Message, out: &mut BytesMut) {
    match message {
        Message::PreVote(m) => {
            encode_question(m.term, m.last_index, m.last_term, out);
            encode_mark(m.committed, out);
        }
        Message::Vote(m) => {
            encode_question(m.term, m.last_index, m.last_term, out);
            out.put_u8(u8::from(m.transfer));
            encode_mark(m.committed, out);
        }
        Message::PreVoteReply(m) => {
            encode_answer(m.term, m.granted, out);
            encode_mark(m.committed, out);
        }
        Message::VoteReply(m) => {
            encode_answer(m.term, m.granted, out);
            encode_mark(m.committed, out);
        }
        Message::Append(m) => encode_append(m, out),
        Message::AppendReply(m) => encode_append_reply(m, out),
        Message::Heartbeat(m) => {
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.commit.0);
            out.put_u64_le(m.round);
        }
        Message::HeartbeatReply(m) => {
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.round);
            encode_standing(m.standing, out);
            out.put_u32_le(m.quiet_ms);
            out.put_i8(m.priority);
        }
        Message::SnapshotOffer(m) => {
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.index.0);
            out.put_u64_le(m.snapshot_term.0);
        }
        Message::TimeoutNow(m) => out.put_u64_le(m.term.0),
        Message::Census(m) => out.put_u64_le(m.incarnation),
        Message::CensusReply(m) => {
            encode_answer(m.term, m.empty, out);
            out.put_u64_le(m.incarnation);
        }
        Message::Quiesce(m) => {
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.last.0);
        }
        Message::Quiesced(m) => {
            encode_answer(m.term, m.asleep, out);
            out.put_u64_le(m.last.0);
        }
        Message::ReadIndex(m) => {
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.id);
            encode_standing(m.standing, out);
        }
        Message::ReadIndexReply(m) => {
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.id);
            encode_mark(m.committed, out);
        }
    }
}

/// Bytes of the body of an append.
pub(super) fn append_bytes(m: &Append) -> usize {
    let payloads: usize = m.entries.iter().map(|entry| entry.payload.len()).sum();
    APPEND_FIXED_BYTES + m.entries.len() * ENTRY_LINE_BYTES + payloads
}

fn encode_question(term: Term, last_index: LogIndex, last_term: Term, out: &mut BytesMut) {
    out.put_u64_le(term.0);
    out.put_u64_le(last_index.0);
    out.put_u64_le(last_term.0);
}

fn encode_mark(mark: CommitMark, out: &mut BytesMut) {
    out.put_u64_le(mark.index.0);
    out.put_u64_le(mark.term.0);
}

fn encode_answer(term: Term, granted: bool, out: &mut BytesMut) {
    out.put_u64_le(term.0);
    out.put_u8(u8::from(granted));
}

fn encode_append(m: &Append, out: &mut BytesMut) {
    out.put_u64_le(m.term.0);
    out.put_u64_le(m.prev_index.0);
    out.put_u64_le(m.prev_term.0);
    out.put_u64_le(m.commit.0);
    out.put_u32_le(m.entries.len() as u32); // the frame's length is checked, and it is far below
    out.put_u32_le(0);
    for entry in &m.entries {
        out.put_u64_le(entry.term.0);
        out.put_u32_le(entry.payload.len() as u32);
        out.put_u32_le(match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::Noop => 1,
            EntryKind::Readmission => 2,
            EntryKind::Reconfiguration => 3,
        });
    }
}

fn encode_append_reply(m: &AppendReply, out: &mut BytesMut) {
    out.put_u64_le(m.term.0);
    match m.outcome {
        AppendOutcome::Accepted { matched } => {
            out.put_u8(ACCEPTED);
            out.put_u64_le(matched.0);
        }
        AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
            out.put_u8(REJECTED);
            out.put_u64_le(prev_index.0);
            out.put_u64_le(hint_index.0);
            out.put_u64_le(hint_term.0);
        }
    }
    encode_standing(m.standing, out);
}

fn encode_standing(standing: Standing, out: &mut BytesMut) {
    let (kind, incarnation) = match standing {
        Standing::Member => (MEMBER, 0),
        Standing::Returning(incarnation) => (RETURNING, incarnation),
    };
    out.put_u8(kind);
    out.put_u64_le(incarnation);
}

/// Reads the body of a Raft frame. `None` for a kind that is no Raft message.
pub(super) fn decode(kind: Kind, mut body: Bytes) -> Result<Option<Message>, Problem> {
    let b = &mut body;
    let message = match kind {
        Kind::Hello
        | Kind::HelloReply
        | Kind::Introduction
        | Kind::SnapshotHello
        | Kind::SnapshotHelloReply
        | Kind::Members
        | Kind::Pulse => return Ok(None),
        Kind::PreVote => {
            let (term, last_index, last_term) = decode_question(b)?;
            Message::PreVote(PreVote { term, last_index, last_term, committed: decode_mark(b)? })
        }
        Kind::Vote => {
            let (term, last_index, last_term) = decode_question(b)?;
            let transfer = decode_bool(b)?;
            let committed = decode_mark(b)?;
            Message::Vote(Vote { term, last_index, last_term, transfer, committed })
        }
        Kind::PreVoteReply => {
            let (term, granted) = decode_answer(b)?;
            Message::PreVoteReply(PreVoteReply { term, granted, committed: decode_mark(b)? })
        }
        Kind::VoteReply => {
            let (term, granted) = decode_answer(b)?;
            Message::VoteReply(VoteReply { term, granted, committed: decode_mark(b)? })
        }
        Kind::Append => Message::Append(decode_append(b)?),
        Kind::AppendReply => Message::AppendReply(decode_append_reply(b)?),
        Kind::Heartbeat => {
            let (term, commit) = (begun_term(b)?, LogIndex(get_u64(b)?));
            Message::Heartbeat(Heartbeat { term, commit, round: get_u64(b)? })
        }
        Kind::HeartbeatReply => {
            let term = Term(get_u64(b)?);
            let round = get_u64(b)?;
            let (standing, quiet_ms) = (decode_standing(b)?, get_u32(b)?);
            let priority = b.try_get_i8().map_err(|_| Problem::SHORT)?;
            Message::HeartbeatReply(HeartbeatReply { term, round, standing, quiet_ms, priority })
        }
        Kind::SnapshotOffer => {
            let (term, index, snapshot_term) = decode_question(b)?;
            Message::SnapshotOffer(SnapshotOffer { term, index, snapshot_term })
        }
        Kind::TimeoutNow => Message::TimeoutNow(TimeoutNow { term: begun_term(b)? }),
        Kind::Census => Message::Census(Census { incarnation: get_u64(b)? }),
        Kind::CensusReply => {
            let (term, empty) = decode_answer(b)?;
            Message::CensusReply(CensusReply { term, empty, incarnation: get_u64(b)? })
        }
        Kind::Quiesce => {
            Message::Quiesce(Quiesce { term: begun_term(b)?, last: LogIndex(get_u64(b)?) })
        }
        Kind::Quiesced => {
            let (term, asleep) = decode_answer(b)?;
            Message::Quiesced(Quiesced { term, last: LogIndex(get_u64(b)?), asleep })
        }
        Kind::ReadIndex => {
            let (term, id) = (begun_term(b)?, get_u64(b)?);
            Message::ReadIndex(ReadIndex { term, id, standing: decode_standing(b)? })
        }
        Kind::ReadIndexReply => {
            let (term, id) = (begun_term(b)?, get_u64(b)?);
            Message::ReadIndexReply(ReadIndexReply { term, id, committed: decode_mark(b)? })
        }
    };
    finish(&body)?;
    if message.term().0 > TERM_MAX {
        return Err(Problem("a term beyond all that can be"));
    }
    Ok(Some(message))
}

fn decode_question(body: &mut Bytes) -> Result<(Term, LogIndex, Term), Problem> {
    Ok((begun_term(body)?, LogIndex(get_u64(body)?), Term(get_u64(body)?)))
}

fn decode_mark(body: &mut Bytes) -> Result<CommitMark, Problem> {
    Ok(CommitMark { index: LogIndex(get_u64(body)?), term: Term(get_u64(body)?) })
}

fn decode_answer(body: &mut Bytes) -> Result<(Term, bool), Problem> {
    Ok((Term(get_u64(body)?), decode_bool(body)?))
}

fn decode_bool(body: &mut Bytes) -> Result<bool, Problem> {
    match body.try_get_u8() {
        Ok(0) => Ok(false),
        Ok(1) => Ok(true),
        Ok(_) => Err(Problem("an answer is neither yes nor no")),
        Err(_) => Err(Problem::SHORT),
    }
}

fn decode_append(body: &mut Bytes) -> Result<Append, Problem> {
    let term = begun_term(body)?;
    let prev_index = LogIndex(get_u64(body)?);
    let prev_term = Term(get_u64(body)?);
    let commit = LogIndex(get_u64(body)?);
    let count = get_u32(body)?;
    if get_u32(body)? != 0 {
        return Err(Problem("reserved bytes are not zero"));
    }
    let table_bytes = count as usize * ENTRY_LINE_BYTES;
    if body.len() < table_bytes {
        return Err(Problem("the entry table is longer than the frame"));
    }
    if prev_index.0.checked_add(u64::from(count)).is_none() {
        return Err(Problem("log indexes overflow"));
    }
    let mut table = body.split_to(table_bytes);
    let mut entries = Vec::with_capacity(count as usize);
    let mut index = prev_index;
    while table.has_remaining() {
        index = index.next();
        entries.push(decode_entry(index, &mut table, body)?);
    }
    Ok(Append { term, prev_index, prev_term, commit, entries })
}

/// Reads one line of the table and takes its payload off the front of `payloads`.
fn decode_entry(
    index: LogIndex,
    table: &mut Bytes,
    payloads: &mut Bytes,
) -> Result<Entry, Problem> {
    let term = Term(get_u64(table)?);
    let length = get_u32(table)? as usize;
    let kind = match get_u32(table)? {
        0 => EntryKind::Normal,
        1 => EntryKind::Noop,
        2 => EntryKind::Readmission,
        3 => EntryKind::Reconfiguration,
        _ => return Err(Problem("unknown kind of entry")),
    };
    if length > PAYLOAD_BYTES_MAX || length > payloads.len() {
        return Err(Problem("a payload is longer than allowed, or than the frame"));
    }
    if kind == EntryKind::Noop && length > 0 {
        return Err(Problem("a no-op with a payload"));
    }
    if kind == EntryKind::Readmission && length != Readmission::BYTES {
        return Err(Problem("a readmission is of another length"));
    }
    let entry = Entry { term, index, kind, payload: payloads.split_to(length) };
    if kind == EntryKind::Reconfiguration && entry.configuration().is_none() {
        return Err(Problem("a configuration that is none"));
    }
    Ok(entry)
}

fn decode_append_reply(body: &mut Bytes) -> Result<AppendReply, Problem> {
    let term = Term(get_u64(body)?);
    let outcome = match body.try_get_u8() {
        Ok(ACCEPTED) => AppendOutcome::Accepted { matched: LogIndex(get_u64(body)?) },
        Ok(REJECTED) => AppendOutcome::Rejected {
            prev_index: LogIndex(get_u64(body)?),
            hint_index: LogIndex(get_u64(body)?),
            hint_term: Term(get_u64(body)?),
        },
        Ok(_) => return Err(Problem("neither accepted nor rejected")),
        Err(_) => return Err(Problem::SHORT),
    };
    Ok(AppendReply { term, outcome, standing: decode_standing(body)? })
}

fn decode_standing(body: &mut Bytes) -> Result<Standing, Problem> {
    let kind = body.try_get_u8().map_err(|_| Problem::SHORT)?;
    match (kind, get_u64(body)?) {
        (MEMBER, 0) => Ok(Standing::Member),
        (RETURNING, incarnation) => Ok(Standing::Returning(incarnation)),
        _ => Err(Problem("neither a member nor returning")),
    }
}

/// A term that somebody leads or wants to lead: 0 is before the first.
fn begun_term(body: &mut Bytes) -> Result<Term, Problem> {
    match get_u64(body)? {
        0 => Err(Problem("term 0 has no leader and no candidate")),
        term => Ok(Term(term)),
    }
}

pub(super) fn get_u64(body: &mut Bytes) -> Result<u64, Problem> {
    body.try_get_u64_le().map_err(|_| Problem::SHORT)
}

pub(super) fn get_u32(body: &mut Bytes) -> Result<u32, Problem> {
    body.try_get_u32_le().map_err(|_| Problem::SHORT)
}

pub(super) fn get_u16(body: &mut Bytes) -> Result<u16, Problem> {
    body.try_get_u16_le().map_err(|_| Problem::SHORT)
}

pub(super) fn finish(body: &Bytes) -> Result<(), Problem> {
    if body.is_empty() { Ok(()) } else { Err(Problem("bytes are left over")) }
}
