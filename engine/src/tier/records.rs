//! How a shard's entries and hard state are kept as records of the core's log, and read back.
//!
//! The stream of a record is its shard. Kinds and bytes: `docs/log-records.md`.
//!
//! The log is append-only, so truncation is implied: an [entry](LogRecord::Entry) at an index that was
//! seen before replaces that entry and all after it. The newest hard state counts. Hard state and entries
//! that depend on it go into one group, hard state first, so that no crash can keep the entries alone.
//!
//! A log that is trimmed loses its oldest records. What they held that still counts is written again
//! before: entries as [kept](LogRecord::Kept) ones, which fill their place and truncate nothing, hard
//! state and base as they are, but for `reset`: a base that is written again says nothing about the
//! entries above it.

use coracle_wal::{Record, RecordView};
use thiserror::Error;

use crate::limits::TERM_MAX;
use crate::raft::membership::Configuration;
use crate::raft::{Base, Entry, EntryKind, HardState, Standing};
use crate::{LogIndex, NodeId, ShardId, Term};

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_KEPT: u8 = 3;
const KIND_BASE: u8 = 4;
const ENTRY_NORMAL: u8 = 0;
const ENTRY_NOOP: u8 = 1;
const ENTRY_READMISSION: u8 = 2;
const ENTRY_RECONFIGURATION: u8 = 3;
const STANDING_MEMBER: u8 = 0;
const STANDING_RETURNING: u8 = 1;
pub(crate) const ENTRY_HEAD_BYTES: usize = 17;
pub(crate) const HARD_STATE_BYTES: usize = 33;
/// A hard state without a standing, as earlier versions wrote it.
const HARD_STATE_BYTES_OLD: usize = 24;
const BASE_BYTES: usize = 17;

/// The fixed part of an entry's record.
pub(crate) fn entry_head(entry: &Entry) -> [u8; ENTRY_HEAD_BYTES] {
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[..8].copy_from_slice(&entry.term.0.to_le_bytes());
    head[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    head[16] = match entry.kind {
        EntryKind::Normal => ENTRY_NORMAL,
        EntryKind::Noop => ENTRY_NOOP,
        EntryKind::Readmission => ENTRY_READMISSION,
        EntryKind::Reconfiguration => ENTRY_RECONFIGURATION,
    };
    head
}

/// The record of a hard state.
pub(crate) fn hard_state_head(state: &HardState) -> [u8; HARD_STATE_BYTES] {
    let mut head = [0; HARD_STATE_BYTES];
    head[..8].copy_from_slice(&state.term.0.to_le_bytes());
    head[8..16].copy_from_slice(&state.vote.map_or(0, |node| node.0).to_le_bytes());
    head[16..24].copy_from_slice(&state.commit.0.to_le_bytes());
    let (standing, incarnation) = match state.standing {
        Standing::Member => (STANDING_MEMBER, 0),
        Standing::Returning(incarnation) => (STANDING_RETURNING, incarnation),
    };
    head[24] = standing;
    head[25..].copy_from_slice(&incarnation.to_le_bytes());
    head
}

/// The log record of an entry whose head was made by [`entry_head`].
pub(crate) fn entry_record<'a>(shard: ShardId, head: &'a [u8], entry: &'a Entry) -> Record<'a> {
    Record { stream: shard.0, kind: KIND_ENTRY, head, body: &entry.payload }
}

/// The log record of a hard state whose head was made by [`hard_state_head`].
pub(crate) fn hard_state_record(shard: ShardId, head: &[u8]) -> Record<'_> {
    Record { stream: shard.0, kind: KIND_HARD_STATE, head, body: &[] }
}

/// The log record of an entry that is written again; its head is that of [`entry_head`].
pub(crate) fn kept_record<'a>(shard: ShardId, head: &'a [u8], payload: &'a [u8]) -> Record<'a> {
    Record { stream: shard.0, kind: KIND_KEPT, head, body: payload }
}

/// The fixed part of a base's record.
pub(crate) fn base_head(base: &Base) -> [u8; BASE_BYTES] {
    let mut head = [0; BASE_BYTES];
    head[..8].copy_from_slice(&base.term.0.to_le_bytes());
    head[8..16].copy_from_slice(&base.index.0.to_le_bytes());
    head[16] = u8::from(base.reset);
    head
}

/// The log record of a base whose head was made by [`base_head`].
pub(crate) fn base_record(shard: ShardId, head: &[u8]) -> Record<'_> {
    Record { stream: shard.0, kind: KIND_BASE, head, body: &[] }
}

/// A record that this version of the engine cannot have written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReplayError {
    /// The record is too short or of an unknown kind.
    #[error(
        "the log holds a record that this version does not know (shard {shard}, kind {kind}, \
         {bytes} bytes): was the data written by a newer version?"
    )]
    Unknown {
        /// Shard it belongs to.
        shard: ShardId,
        /// Kind byte.
        kind: u8,
        /// Length of its payload.
        bytes: usize,
    },
}

/// A record of a core's log, without a copy of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRecord<'a> {
    /// An entry. It replaces the one at its index, if there is one, and all after that.
    Entry {
        /// Its term.
        term: Term,
        /// Its place.
        index: LogIndex,
        /// What it is for.
        kind: EntryKind,
        /// What was proposed.
        payload: &'a [u8],
    },
    /// The hard state from here on.
    HardState(HardState),
    /// An entry that was written before, at the same index and with the same term, and is written
    /// again because the log loses the segment it was in. It truncates nothing.
    Kept {
        /// Its term.
        term: Term,
        /// Its place.
        index: LogIndex,
        /// What it is for.
        kind: EntryKind,
        /// What was proposed.
        payload: &'a [u8],
    },
    /// Where the shard's log begins from here on.
    Base(Base),
}

/// Reads a record of a core's log. Its [`stream`](RecordView::stream) is the shard.
///
/// # Errors
/// [`ReplayError::Unknown`] for what this version has not written.
pub fn decode_record<'a>(record: &RecordView<'a>) -> Result<LogRecord<'a>, ReplayError> {
    let payload = record.payload;
    decode(record.kind, payload).ok_or(ReplayError::Unknown {
        shard: ShardId(record.stream),
        kind: record.kind,
        bytes: payload.len(),
    })
}

/// Reads a record's payload; `None` for what this version has not written.
pub(crate) fn decode(kind: u8, payload: &[u8]) -> Option<LogRecord<'_>> {
    match kind {
        KIND_ENTRY => decode_entry(payload),
        KIND_HARD_STATE => decode_hard_state(payload).map(LogRecord::HardState),
        KIND_KEPT => decode_entry(payload).map(|entry| match entry {
            LogRecord::Entry { term, index, kind, payload } => {
                LogRecord::Kept { term, index, kind, payload }
            }
            other => other,
        }),
        KIND_BASE => decode_base(payload).map(LogRecord::Base),
        _ => None,
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The term that every payload starts with. As on the wire, it leaves room for elections.
fn term_at(payload: &[u8]) -> Option<Term> {
    u64_at(payload, 0).filter(|term| *term <= TERM_MAX).map(Term)
}

fn decode_entry(payload: &[u8]) -> Option<LogRecord<'_>> {
    let kind = match *payload.get(16)? {
        ENTRY_NORMAL => EntryKind::Normal,
        ENTRY_NOOP => EntryKind::Noop,
        ENTRY_READMISSION => EntryKind::Readmission,
        ENTRY_RECONFIGURATION => EntryKind::Reconfiguration,
        _ => return None,
    };
    let proposed = payload.get(ENTRY_HEAD_BYTES..)?;
    if kind == EntryKind::Reconfiguration {
        Configuration::decode(proposed)?;
    }
    Some(LogRecord::Entry {
        term: term_at(payload)?,
        // Index 0 is the place before the first entry: no log has one there. Nor at the end of the range,
        // behind which there is no next one.
        index: LogIndex(u64_at(payload, 8).filter(|index| (1..u64::MAX).contains(index))?),
        kind,
        payload: proposed,
    })
}

pub(super) fn decode_hard_state(payload: &[u8]) -> Option<HardState> {
    let standing = match (payload.len(), payload.get(24)) {
        (HARD_STATE_BYTES_OLD, _) => Standing::Member,
        (HARD_STATE_BYTES, Some(&STANDING_MEMBER)) if u64_at(payload, 25) == Some(0) => {
            Standing::Member
        }
        (HARD_STATE_BYTES, Some(&STANDING_RETURNING)) => Standing::Returning(u64_at(payload, 25)?),
        _ => return None,
    };
    let vote = u64_at(payload, 8)?;
    Some(HardState {
        term: term_at(payload)?,
        vote: (vote != 0).then_some(NodeId(vote)),
        commit: LogIndex(u64_at(payload, 16)?),
        standing,
    })
}

fn decode_base(payload: &[u8]) -> Option<Base> {
    if payload.len() != BASE_BYTES {
        return None;
    }
    Some(Base {
        term: term_at(payload)?,
        // An index has one above it.
        index: LogIndex(u64_at(payload, 8).filter(|index| *index < u64::MAX)?),
        reset: match payload[16] {
            0 => false,
            1 => true,
            _ => return None,
        },
    })
    // Before the first entry there is no term: that is a log that was begun anew.
    .filter(|base| base.index > LogIndex(0) || base.term == Term(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;

    fn entry(term: u64, index: u64, payload: &'static [u8]) -> Entry {
        Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::Normal,
            payload: Bytes::from_static(payload),
        }
    }

    fn bytes_of(record: &Record<'_>) -> Vec<u8> {
        let payload = [record.head, record.body].concat();
        [&[record.kind][..], &record.stream.to_le_bytes(), &payload].concat()
    }

    /// The bytes that `docs/log-records.md` describes: kind, stream, payload.
    #[test]
    fn the_format_of_records_is_that_of_version_1() {
        let shard = ShardId(7);
        let written = entry(2, 0x0102, b"ab");
        let head = entry_head(&written);
        let golden = *b"\x01\x07\0\0\0\x02\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\0ab";
        assert_eq!(bytes_of(&entry_record(shard, &head, &written)), golden);

        let mut golden = golden;
        golden[0] = 3;
        assert_eq!(bytes_of(&kept_record(shard, &head, &written.payload)), golden);

        let state = HardState {
            term: Term(3),
            vote: Some(NodeId(4)),
            commit: LogIndex(5),
            ..HardState::default()
        };
        let mut golden = [0; 38];
        (golden[0], golden[1], golden[5], golden[13], golden[21]) = (2, 7, 3, 4, 5);
        assert_eq!(bytes_of(&hard_state_record(shard, &hard_state_head(&state))), golden);

        let base = Base { index: LogIndex(9), term: Term(8), reset: true };
        let mut golden = [0; 22];
        (golden[0], golden[1], golden[5], golden[13], golden[21]) = (4, 7, 8, 9, 1);
        assert_eq!(bytes_of(&base_record(shard, &base_head(&base))), golden);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let written = Entry { kind: EntryKind::Noop, ..entry(3, 4, b"") };
        let (term, index, kind) = (Term(3), LogIndex(4), EntryKind::Noop);
        let head = entry_head(&written);
        let read = decode(KIND_ENTRY, &head);
        assert_eq!(read, Some(LogRecord::Entry { term, index, kind, payload: b"" }));
        let read = decode(KIND_KEPT, &head);
        assert_eq!(read, Some(LogRecord::Kept { term, index, kind, payload: b"" }));
        for reset in [false, true] {
            let base = Base { index, term, reset };
            assert_eq!(decode(KIND_BASE, &base_head(&base)), Some(LogRecord::Base(base)));
        }
        let state = HardState { term, commit: index, ..HardState::default() };
        let head = hard_state_head(&state);
        assert_eq!(decode(KIND_HARD_STATE, &head), Some(LogRecord::HardState(state)));
    }

    /// Index 0 came in front of entry 1; a term at the end of its range overflowed at the next election.
    #[test]
    fn numbers_that_no_log_has_are_refused() {
        let refused = |kind, payload: &[u8]| assert_eq!(decode(kind, payload), None, "{payload:?}");
        for kind in [KIND_ENTRY, KIND_KEPT] {
            refused(kind, b"short");
            refused(kind, &entry_head(&entry(1, 0, b"")));
            refused(kind, &entry_head(&entry(1, u64::MAX, b"")));
            refused(kind, &entry_head(&entry(TERM_MAX + 1, 1, b"")));
        }
        let term = Term(u64::MAX);
        refused(KIND_HARD_STATE, &hard_state_head(&HardState { term, ..HardState::default() }));
        let base = Base { index: LogIndex(1), term: Term(1), reset: false };
        refused(KIND_BASE, &base_head(&Base { term, ..base }));
        refused(KIND_BASE, &base_head(&Base { index: LogIndex(0), ..base }));
        let anew = Base { index: LogIndex(0), term: Term(0), reset: true };
        assert_eq!(decode(KIND_BASE, &base_head(&anew)), Some(LogRecord::Base(anew)));
        refused(KIND_BASE, &base_head(&Base { index: LogIndex(u64::MAX), ..base }));
        refused(KIND_BASE, &[2; BASE_BYTES]);
        refused(KIND_BASE, b"");
        refused(9, b"?");
    }
}
