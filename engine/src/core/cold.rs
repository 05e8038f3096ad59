//! Entries that are no longer in memory, read back from the log's segments.
//!
//! Three kinds of readers want them: a follower that is far behind, a state machine that is (after a
//! restart, or behind a burst that the memory could not hold), and the upkeep of the log, which writes
//! the last few live entries of an old segment again at its head. Each reader of each shard has at most
//! one read under way; a bounded number of reads run at once, in the order in which they were asked for,
//! so that a shard with much to read gets no more than its turn. What was read comes back as an event;
//! nobody waits.
//!
//! ```text
//! Want { shard, reader, first..=last of one run, term, where the run begins }
//!   -> queue -> task: cursor of (shard, reader), or a new one -> Event::ColdRead
//! ```
//! A **cursor** remembers where its reader stopped: the log is read on from there, ahead of the next
//! request. What it has read and nobody has asked for yet is at most the entries of one batch. What is
//! read goes to whoever asked and nowhere else: catching up never takes memory from the newest entries.
//!
//! Failures: the entries were written again, which is not durable yet ([`ColdError::NotYet`]); the segment was
//! given up meanwhile ([`ColdError::Gone`]: they are elsewhere, or the shard has a snapshot);
//! it is damaged, or the disk fails ([`ColdError::Damaged`], [`ColdError::Failed`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use coracle_wal::{ColdRecord, Disk, LogReader, Lsn, ReadError, RecordView, Wal};
use thiserror::Error;

use super::inbox::{Event, Inbox};
use crate::env::Env;
use crate::limits::{COLD_CURSORS_MAX, COLD_READS_MAX, COLD_SKIP_BYTES_MAX};
use crate::raft::Entry;
use crate::tier::{LogRecord, decode_record};
use crate::{LogIndex, NodeId, ShardId, Term};

/// Who wants entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reader {
    /// The state machine.
    Apply,
    /// A follower.
    Follower(NodeId),
    /// The upkeep of the log.
    Rewrite,
}

/// Entries of one run that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) shard: ShardId,
    pub(crate) reader: Reader,
    pub(crate) first: LogIndex,
    /// Last entry of the run; no more than that is read.
    pub(crate) last: LogIndex,
    /// Term of all of them.
    pub(crate) term: Term,
    /// First byte of a batch at or before the one that holds `first`.
    pub(crate) at: Lsn,
    /// Cost of entries after which the read ends.
    pub(crate) bytes_max: usize,
}

/// Why entries could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ColdError {
    /// They were written again, and the log is durable only up to here.
    #[error("where they were written again the log is not durable yet, but up to {0}")]
    NotYet(Lsn),
    /// The segment is no longer there.
    #[error("the log does not have them where they were: {0}")]
    Gone(String),
    /// The segment is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The disk failed.
    #[error("{0}")]
    Failed(String),
}

/// What became of a [`Want`]: at least one entry, from `first` on, without gaps.
#[derive(Debug)]
pub(crate) struct ColdRead {
    pub(crate) want: Want,
    pub(crate) result: Result<Vec<Entry>, ColdError>,
}

struct Cursor<D: Disk> {
    reader: LogReader<D>,
    /// The batch that is read next begins here or behind.
    position: Lsn,
    /// The entry that its reader has not had yet.
    next: LogIndex,
    /// Entries of the shard that were read and not asked for.
    pending: VecDeque<Entry>,
    /// When it was used last, by count of reads.
    used: u64,
}

impl<D: Disk> Cursor<D> {
    /// Whether reading on from here finds what is wanted, and soon.
    fn serves(&self, want: &Want) -> bool {
        let here = |entry: &Entry| entry.index == want.first && entry.term == want.term;
        let ahead = want.at >= self.position && want.at.0 - self.position.0 <= COLD_SKIP_BYTES_MAX;
        self.next == want.first && (ahead || self.pending.iter().any(here))
    }
}

/// The cold reads of a core.
pub(super) struct Cold<D: Disk> {
    wal: Wal<D>,
    queue: RefCell<VecDeque<Want>>,
    running: Cell<usize>,
    reads: Cell<u64>,
    cursors: RefCell<BTreeMap<(ShardId, Reader), Cursor<D>>>,
}

impl<D: Disk> Cold<D> {
    pub(super) fn new(wal: Wal<D>) -> Rc<Self> {
        Rc::new(Self {
            wal,
            queue: RefCell::default(),
            running: Cell::new(0),
            reads: Cell::new(0),
            cursors: RefCell::default(),
        })
    }

    /// Asks for entries. The caller has no other read of the same reader and shard under way.
    pub(super) fn want(&self, want: Want) {
        assert!(want.first <= want.last, "a read of nothing: {want:?}");
        self.queue.borrow_mut().push_back(want);
    }

    /// Starts as many reads as may run. What they find is queued in `inbox`.
    pub(super) fn start<E: Env<Disk = D>>(self: &Rc<Self>, env: &E, inbox: &Rc<Inbox>) {
        while self.running.get() < COLD_READS_MAX {
            let Some(want) = self.queue.borrow_mut().pop_front() else { return };
            sometimes!(cold_reads_queued, !self.queue.borrow().is_empty());
            self.running.set(self.running.get() + 1);
            let (cold, inbox) = (self.clone(), inbox.clone());
            env.spawn(async move {
                let result = cold.read(&want).await;
                cold.running.set(cold.running.get() - 1);
                inbox.push(Event::ColdRead(Box::new(ColdRead { want, result })));
            });
        }
    }

    /// Forgets the cursors of a shard whose log has changed under them.
    pub(super) fn forget(&self, shard: ShardId) {
        self.cursors.borrow_mut().retain(|(of, _), _| *of != shard);
    }

    async fn read(&self, want: &Want) -> Result<Vec<Entry>, ColdError> {
        let key = (want.shard, want.reader);
        let known = self.cursors.borrow_mut().remove(&key).filter(|cursor| cursor.serves(want));
        sometimes!(cold_read_continued, known.is_some());
        let is_new = known.is_none();
        let mut cursor = known.unwrap_or_else(|| self.cursor(want));
        let entries = match collect(&mut cursor, want).await {
            // Where the cursor stood was given up; what is wanted lies behind.
            Err(ColdError::Gone(_)) if !is_new => {
                sometimes!(cold_cursor_trimmed);
                cursor = self.cursor(want);
                collect(&mut cursor, want).await?
            }
            other => other?,
        };
        self.reads.set(self.reads.get() + 1);
        cursor.used = self.reads.get();
        self.keep(key, cursor);
        Ok(entries)
    }

    fn cursor(&self, want: &Want) -> Cursor<D> {
        Cursor {
            reader: self.wal.reader(want.at),
            position: want.at,
            next: want.first,
            pending: VecDeque::new(),
            used: 0,
        }
    }

    /// Keeps a cursor for its next use, in place of the one that was not used for longest.
    fn keep(&self, key: (ShardId, Reader), cursor: Cursor<D>) {
        let mut cursors = self.cursors.borrow_mut();
        cursors.insert(key, cursor);
        if cursors.len() > COLD_CURSORS_MAX {
            let oldest = cursors.iter().min_by_key(|(_, cursor)| cursor.used).map(|(key, _)| *key);
            oldest.and_then(|oldest| cursors.remove(&oldest));
            sometimes!(cold_cursor_dropped);
        }
    }
}

async fn collect<D: Disk>(cursor: &mut Cursor<D>, want: &Want) -> Result<Vec<Entry>, ColdError> {
    let mut entries = Vec::new();
    let mut cost = 0;
    loop {
        while let Some(entry) = cursor.pending.pop_front() {
            // Others are of an earlier time: overwritten since, or read before.
            let other_term = entry.term != want.term && cfg!(not(mutant = "cold-read-of-any-term"));
            if entry.index != cursor.next || other_term {
                continue;
            }
            cost += entry.cost();
            cursor.next = entry.index.next();
            entries.push(entry);
            if cost >= want.bytes_max || cursor.next > want.last {
                return Ok(entries);
            }
        }
        let batch = match cursor.reader.next().await {
            Ok(Some(batch)) => batch,
            // What is left of the run is newer, and not durable yet.
            Ok(None) if !entries.is_empty() => {
                sometimes!(cold_read_met_end);
                return Ok(entries);
            }
            // The index says that it is there, and it was durable when it left the memory; but it was written
            // again meanwhile, and that is not durable yet.
            Ok(None) => {
                sometimes!(cold_read_too_early);
                return Err(ColdError::NotYet(cursor.reader.position()));
            }
            Err(error @ ReadError::Trimmed { .. }) => {
                return Err(ColdError::Gone(error.to_string()));
            }
            Err(error @ ReadError::Damaged { .. }) => {
                return Err(ColdError::Damaged(error.to_string()));
            }
            Err(error) => return Err(ColdError::Failed(error.to_string())),
        };
        cursor.position = batch.next;
        for record in batch.records().filter(|record| record.stream == want.shard.0) {
            cursor.pending.extend(entry_of(&record, batch.position));
        }
    }
}

/// The entry that a record of the batch at `batch` holds, if it holds one. Its payload is a slice of what was
/// read.
pub(super) fn entry_of(record: &ColdRecord, batch: Lsn) -> Option<Entry> {
    let ColdRecord { stream, kind, lsn, .. } = *record;
    let view = RecordView { stream, kind, payload: &record.payload, lsn, batch };
    let (LogRecord::Entry { term, index, kind, payload }
    | LogRecord::Kept { term, index, kind, payload }) = decode_record(&view).ok()?
    else {
        return None;
    };
    Some(Entry { term, index, kind, payload: record.payload.slice_ref(payload) })
}
