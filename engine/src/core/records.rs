//! How a shard's entries and hard state are kept as records of the core's log, and read back.
//!
//! ```text
//! stream = shard id
//! kind 1  entry       head: term u64 | index u64 | entry kind u8 (0 normal, 1 no-op, 2 readmission),
//!                     little-endian; body: payload
//! kind 2  hard state  head: term u64 | vote u64 (0 = none) | commit u64 | standing u8 (0 member,
//!                     1 returning) | incarnation u64 (0 unless returning)
//!                     Older ones end after commit; they are of members.
//! ```
//! The log is append-only, so truncation is implied: an entry at an index that was seen before
//! replaces that entry and all after it. The newest hard state counts. Hard state and entries that
//! depend on it go into one group, hard state first, so that no crash can keep the entries alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_wal::{Record, RecordView};
use thiserror::Error;

use crate::limits::TERM_MAX;
use crate::raft::{Entry, EntryKind, HardState, Standing};
use crate::{LogIndex, NodeId, ShardId, Term};

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const ENTRY_NORMAL: u8 = 0;
const ENTRY_NOOP: u8 = 1;
const ENTRY_READMISSION: u8 = 2;
const STANDING_MEMBER: u8 = 0;
const STANDING_RETURNING: u8 = 1;
pub(super) const ENTRY_HEAD_BYTES: usize = 17;
pub(super) const HARD_STATE_BYTES: usize = 33;
/// A hard state without a standing, as earlier versions wrote it.
const HARD_STATE_BYTES_OLD: usize = 24;

/// The fixed part of an entry's record.
pub(super) fn entry_head(entry: &Entry) -> [u8; ENTRY_HEAD_BYTES] {
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[..8].copy_from_slice(&entry.term.0.to_le_bytes());
    head[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    head[16] = match entry.kind {
        EntryKind::Normal => ENTRY_NORMAL,
        EntryKind::Noop => ENTRY_NOOP,
        EntryKind::Readmission => ENTRY_READMISSION,
    };
    head
}

/// The record of a hard state.
pub(super) fn hard_state_head(state: &HardState) -> [u8; HARD_STATE_BYTES] {
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
pub(super) fn entry_record<'a>(shard: ShardId, head: &'a [u8], entry: &'a Entry) -> Record<'a> {
    Record { stream: shard.0, kind: KIND_ENTRY, head, body: &entry.payload }
}

/// The log record of a hard state whose head was made by [`hard_state_head`].
pub(super) fn hard_state_record(shard: ShardId, head: &[u8]) -> Record<'_> {
    Record { stream: shard.0, kind: KIND_HARD_STATE, head, body: &[] }
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
    /// Entries are missing between two records.
    #[error(
        "the log of shard {shard} has a gap: entry {found} follows {last}; the data directory is \
         incomplete, restore this node from its peers"
    )]
    Gap {
        /// Shard it belongs to.
        shard: ShardId,
        /// Last entry before the gap.
        last: LogIndex,
        /// Entry after the gap.
        found: LogIndex,
    },
}

/// What the log holds of one shard.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry>,
}

/// Collects the records of a core's log, in order, into the state of each shard.
#[derive(Debug, Default)]
pub(super) struct Replay {
    shards: BTreeMap<ShardId, Recovered>,
    error: Option<ReplayError>,
}

impl Replay {
    /// Takes the next record. After the first error, the rest is ignored.
    pub(super) fn visit(&mut self, record: &RecordView<'_>) {
        if self.error.is_none() {
            self.error = self.accept(record).err();
        }
    }

    /// The state of every shard that has any.
    pub(super) fn finish(self) -> Result<BTreeMap<ShardId, Recovered>, ReplayError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.shards),
        }
    }

    fn accept(&mut self, record: &RecordView<'_>) -> Result<(), ReplayError> {
        let shard = ShardId(record.stream);
        let decoded = decode_record(record)?;
        let recovered = self.shards.entry(shard).or_default();
        match decoded {
            LogRecord::Entry { term, index, kind, payload } => {
                let payload = Bytes::copy_from_slice(payload);
                recovered.push(shard, Entry { term, index, kind, payload })
            }
            LogRecord::HardState(state) => {
                recovered.hard_state = state;
                Ok(())
            }
        }
    }
}

impl Recovered {
    fn push(&mut self, shard: ShardId, entry: Entry) -> Result<(), ReplayError> {
        let last = self.entries.last().map_or(LogIndex(0), |entry| entry.index);
        if entry.index > last.next() {
            return Err(ReplayError::Gap { shard, last, found: entry.index });
        }
        if entry.index <= last {
            let kept = self.entries.partition_point(|old| old.index < entry.index);
            #[cfg(mutant = "replay-keeps-suffix")]
            if let Some(old) = self.entries.get_mut(kept) {
                *old = entry;
                return Ok(());
            }
            self.entries.truncate(kept);
        }
        self.entries.push(entry);
        Ok(())
    }
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
}

/// Reads a record of a core's log. Its [`stream`](RecordView::stream) is the shard.
///
/// # Errors
/// [`ReplayError::Unknown`] for what this version has not written.
pub fn decode_record<'a>(record: &RecordView<'a>) -> Result<LogRecord<'a>, ReplayError> {
    let payload = record.payload;
    let decoded = match record.kind {
        KIND_ENTRY => decode_entry(payload),
        KIND_HARD_STATE => decode_hard_state(payload).map(LogRecord::HardState),
        _ => None,
    };
    let (shard, kind, bytes) = (ShardId(record.stream), record.kind, payload.len());
    decoded.ok_or(ReplayError::Unknown { shard, kind, bytes })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The term that every payload starts with. As on the wire, it leaves room for elections.
fn term_at(payload: &[u8]) -> Option<Term> {
    u64_at(payload, 0).filter(|term| *term <= TERM_MAX).map(Term)
}

fn decode_entry(payload: &[u8]) -> Option<LogRecord<'_>> {
    Some(LogRecord::Entry {
        term: term_at(payload)?,
        // Index 0 is the place before the first entry: no log has one there.
        index: LogIndex(u64_at(payload, 8).filter(|index| *index > 0)?),
        kind: match *payload.get(16)? {
            ENTRY_NORMAL => EntryKind::Normal,
            ENTRY_NOOP => EntryKind::Noop,
            ENTRY_READMISSION => EntryKind::Readmission,
            _ => return None,
        },
        payload: payload.get(ENTRY_HEAD_BYTES..)?,
    })
}

fn decode_hard_state(payload: &[u8]) -> Option<HardState> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coracle_wal::Lsn;

    use super::*;

    fn entry(term: u64, index: u64, payload: &'static [u8]) -> Entry {
        Entry {
            term: Term(term),
            index: LogIndex(index),
            kind: EntryKind::Normal,
            payload: Bytes::from_static(payload),
        }
    }

    fn visit(replay: &mut Replay, kind: u8, payload: &[u8]) {
        replay.visit(&RecordView { stream: 7, kind, payload, lsn: Lsn(0) });
    }

    fn visit_entry(replay: &mut Replay, entry: &Entry) {
        let payload = [&entry_head(entry)[..], &entry.payload].concat();
        visit(replay, KIND_ENTRY, &payload);
    }

    #[test]
    fn later_entries_replace_the_suffix_they_conflict_with() {
        let mut replay = Replay::default();
        for old in [entry(1, 1, b"a"), entry(1, 2, b"b"), entry(1, 3, b"c")] {
            visit_entry(&mut replay, &old);
        }
        let standing = Standing::Returning(77);
        let (term, vote, commit) = (Term(2), Some(NodeId(3)), LogIndex(1));
        let state = HardState { term, vote, commit, standing };
        visit(&mut replay, KIND_HARD_STATE, &hard_state_head(&state));
        visit_entry(&mut replay, &entry(2, 2, b"B"));
        let shards = replay.finish().unwrap();
        let recovered = &shards[&ShardId(7)];
        assert_eq!(recovered.hard_state, state);
        assert_eq!(recovered.entries, [entry(1, 1, b"a"), entry(2, 2, b"B")]);
    }

    #[test]
    fn a_gap_and_an_unknown_kind_are_refused() {
        let mut replay = Replay::default();
        visit_entry(&mut replay, &entry(1, 2, b"b"));
        let gap = ReplayError::Gap { shard: ShardId(7), last: LogIndex(0), found: LogIndex(2) };
        assert_eq!(replay.finish().unwrap_err(), gap);

        let mut replay = Replay::default();
        visit(&mut replay, 9, b"?");
        let unknown = ReplayError::Unknown { shard: ShardId(7), kind: 9, bytes: 1 };
        assert_eq!(replay.finish().unwrap_err(), unknown);

        let mut replay = Replay::default();
        visit(&mut replay, KIND_ENTRY, b"short");
        assert!(matches!(replay.finish(), Err(ReplayError::Unknown { bytes: 5, .. })));
    }

    #[test]
    fn a_hard_state_of_an_earlier_version_is_of_a_member() {
        let state = HardState { term: Term(2), commit: LogIndex(1), ..HardState::default() };
        let head = hard_state_head(&state);
        let decode = |bytes: &[u8]| decode_hard_state(bytes);
        assert_eq!(decode(&head), Some(state));
        assert_eq!(decode(&head[..24]), Some(state));
        assert_eq!(decode(&head[..25]), None);
        let (mut other, mut named) = (head, head);
        (other[24], named[25]) = (2, 1);
        assert_eq!((decode(&other), decode(&named)), (None, None));
    }

    /// Index 0 came in front of entry 1; a term at the end of its range overflowed at the next election.
    #[test]
    fn numbers_that_no_log_has_are_refused() {
        let refused = |kind, payload: &[u8]| {
            let mut replay = Replay::default();
            visit(&mut replay, kind, payload);
            assert!(matches!(replay.finish(), Err(ReplayError::Unknown { .. })), "{payload:?}");
        };
        refused(KIND_ENTRY, &entry_head(&entry(1, 0, b"")));
        refused(KIND_ENTRY, &entry_head(&entry(TERM_MAX + 1, 1, b"")));
        let term = Term(u64::MAX);
        refused(KIND_HARD_STATE, &hard_state_head(&HardState { term, ..HardState::default() }));
    }
}
