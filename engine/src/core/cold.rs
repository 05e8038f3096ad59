//! Entries that are no longer in memory, read back from the log's segments.
//!
//! Three kinds of readers want them: a follower that is far behind, a state machine that is (after a
//! restart, or behind a burst that the memory could not hold), and the upkeep of the log, which writes
//! the last few live entries of an old segment again at its head. Each reader of each shard has at most
//! one read under way, of one run of the index at most; a bounded number of reads run at once. What was read
//! comes back as an event; nobody waits.
//!
//! ```text
//! Want { shard, reader, first..=last of one run, term, where the run lies }
//!   -> queue -> task: batches from those read last, or from the disk -> Event::ColdRead
//! ```
//! All shards share one log, so whoever reads it for one of them reads what the others need next. When a
//! node comes back, all of its shards want what lies behind their snapshots, each from another place on. Read
//! one beside the other, they would read everything as often as there are shards. So they go over the log in a
//! **sweep**: of those who read for the same purpose, the one furthest behind is served, and whoever is near;
//! those ahead wait until the sweep comes to them, or rests ([`COLD_SWEEP_PATIENCE`]). What was read **stays for a
//! moment**, up to [`COLD_RECENT_BYTES`], so the log is read about once. Different purposes (the followers,
//! the state machines, upkeep) take turns: none waits for another's long way. Readers of the log are shared,
//! too: a read goes on with the one that stands where it begins, and so with what that has read ahead.
//!
//! What is read goes to whoever asked and nowhere else: catching up never takes memory from the newest
//! entries.
//!
//! Failures: the entries were written again, which is not durable yet ([`ColdError::NotYet`]); the segment was
//! given up meanwhile, or they are elsewhere by now ([`ColdError::Gone`]: or the shard has a snapshot);
//! it is damaged, or the disk fails ([`ColdError::Damaged`], [`ColdError::Failed`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use coracle_wal::{ColdBatch, ColdRecord, Disk, LogReader, Lsn, ReadError, RecordView, Wal};
use thiserror::Error;

use super::inbox::{Event, Inbox};
use crate::env::Env;
use crate::limits::{
    COLD_CURSORS_MAX, COLD_READS_MAX, COLD_RECENT_BYTES, COLD_RECENT_KEPT, COLD_RECENT_PARTS,
    COLD_SKIP_BYTES_MAX, COLD_SWEEP_PATIENCE,
};
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
    /// The byte behind the run.
    pub(crate) end: Lsn,
    /// Cost of entries after which the read ends.
    pub(crate) bytes_max: usize,
}

impl Want {
    /// Whether an entry is the one at `next` that is wanted. Others are of an earlier time: overwritten since, or
    /// read before.
    fn is_for(&self, next: LogIndex, entry: &Entry) -> bool {
        let own_term = entry.term == self.term || cfg!(mutant = "cold-read-of-any-term");
        entry.index == next && own_term
    }
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

/// Where a reader stopped within a run.
#[derive(Clone, Copy)]
struct Cursor {
    /// The entry that it has not had yet.
    next: LogIndex,
    /// That entry is in the batch that follows here, or behind.
    position: Lsn,
    /// When it was used last, by count of reads.
    used: u64,
}

/// The batches that were read last.
#[derive(Default)]
struct Recent {
    /// By where the search for them began: they are the first with records from there on.
    batches: BTreeMap<Lsn, ColdBatch>,
    /// In the order in which they were read.
    order: VecDeque<Lsn>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// The first batch with records from `at` on, if it is here.
    fn get(&self, at: Lsn) -> Option<ColdBatch> {
        let (_, batch) = self.batches.range(..=at).next_back()?;
        (at <= batch.position).then(|| batch.clone())
    }

    fn put(&mut self, at: Lsn, batch: ColdBatch) {
        self.bytes += batch.memory_bytes();
        self.order.push_back(at);
        if let Some(old) = self.batches.insert(at, batch) {
            self.bytes -= old.memory_bytes();
        }
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.batches.remove(&oldest).map_or(0, |batch| batch.memory_bytes());
        }
    }
}

/// Reads for one purpose, over the log.
#[derive(Clone, Copy)]
struct Sweep {
    /// Where the last one began, and when.
    at: Lsn,
    since: Duration,
}

/// The reads that wait.
#[derive(Default)]
struct Queue {
    wants: Vec<Want>,
    sweeps: BTreeMap<Reader, Sweep>,
}

impl Queue {
    /// Takes the next read that may begin: of each purpose the one furthest behind, not further ahead of the
    /// sweep than `span`; of these, the one whose purpose was served longest ago. None beside one of those
    /// `running` that reads the same part of the log.
    fn next(&mut self, running: &[Lsn], span: u64, now: Duration) -> Option<Want> {
        let near = |a: Lsn, b: Lsn| a.0.abs_diff(b.0) < span;
        let mut first: BTreeMap<Reader, (Lsn, usize)> = BTreeMap::new();
        for (place, want) in self.wants.iter().enumerate() {
            let known = first.entry(want.reader).or_insert((want.at, place));
            *known = (want.at, place).min(*known);
        }
        let sweeps = &self.sweeps;
        let may_begin = |reader: &Reader, at: Lsn| {
            let ahead = sweeps.get(reader).is_some_and(|sweep| {
                at > sweep.at && !near(at, sweep.at) && now < sweep.since + COLD_SWEEP_PATIENCE
            });
            sometimes!(cold_read_waits_for_sweep, ahead);
            !ahead && !running.iter().any(|other| near(*other, at))
        };
        let begin = first.into_iter().filter(|(reader, (at, _))| may_begin(reader, *at));
        let served = |reader: &Reader| sweeps.get(reader).map(|sweep| sweep.since);
        let (reader, (at, place)) = begin.min_by_key(|(reader, _)| served(reader))?;
        self.sweeps.insert(reader, Sweep { at, since: now });
        Some(self.wants.swap_remove(place))
    }
}

/// The cold reads of a core.
pub(super) struct Cold<D: Disk> {
    wal: Wal<D>,
    queue: RefCell<Queue>,
    /// Where the reads begin that are under way.
    running: RefCell<Vec<Lsn>>,
    reads: Cell<u64>,
    cursors: RefCell<BTreeMap<(ShardId, Reader), Cursor>>,
    /// Readers of the log that nobody uses, the last used one last.
    readers: RefCell<Vec<LogReader<D>>>,
    recent: RefCell<Recent>,
    /// When there was something to do last.
    busy_at: Cell<Duration>,
}

impl<D: Disk> Cold<D> {
    /// `log_memory_bytes` is what entries may take: buffers come on top, in proportion.
    pub(super) fn new(wal: Wal<D>, log_memory_bytes: u64) -> Rc<Self> {
        let recent_bytes = log_memory_bytes / COLD_RECENT_PARTS;
        let recent_bytes =
            usize::try_from(recent_bytes).unwrap_or(usize::MAX).min(COLD_RECENT_BYTES);
        Rc::new(Self {
            wal,
            queue: RefCell::default(),
            running: RefCell::default(),
            reads: Cell::new(0),
            cursors: RefCell::default(),
            readers: RefCell::default(),
            recent: RefCell::new(Recent::new(recent_bytes)),
            busy_at: Cell::new(Duration::ZERO),
        })
    }

    /// Asks for entries. The caller has no other read of the same reader and shard under way.
    pub(super) fn want(&self, want: Want) {
        assert!(want.first <= want.last, "a read of nothing: {want:?}");
        self.queue.borrow_mut().wants.push(want);
    }

    /// Starts as many reads as may run. What they find is queued in `inbox`.
    pub(super) fn start<E: Env<Disk = D>>(self: &Rc<Self>, env: &E, inbox: &Rc<Inbox>) {
        let now = env.now();
        while let Some(want) = self.next(now) {
            self.running.borrow_mut().push(want.at);
            let (cold, inbox) = (self.clone(), inbox.clone());
            env.spawn(async move {
                let result = cold.read(&want).await;
                let mut running = cold.running.borrow_mut();
                let place = running.iter().position(|at| *at == want.at);
                place.map(|place| running.swap_remove(place));
                drop(running);
                inbox.push(Event::ColdRead(Box::new(ColdRead { want, result })));
            });
        }
        self.rest(now);
    }

    /// Takes the next read that may begin, if not as many are under way as may be.
    fn next(&self, now: Duration) -> Option<Want> {
        let span = self.recent.borrow().bytes_max as u64;
        let (running, mut queue) = (self.running.borrow(), self.queue.borrow_mut());
        let next =
            if running.len() < COLD_READS_MAX { queue.next(&running, span, now) } else { None };
        sometimes!(cold_reads_queued, !queue.wants.is_empty());
        next
    }

    /// Gives memory back when nobody has wanted anything for a while.
    fn rest(&self, now: Duration) {
        if !self.running.borrow().is_empty() {
            self.busy_at.set(now);
        } else if now >= self.busy_at.get() + COLD_RECENT_KEPT {
            let mut recent = self.recent.borrow_mut();
            self.queue.borrow_mut().sweeps.clear();
            if !recent.batches.is_empty() || !self.readers.borrow().is_empty() {
                *recent = Recent::new(recent.bytes_max);
                self.readers.take();
            }
        }
    }

    /// Forgets where the readers of a shard stand whose log has changed under them.
    pub(super) fn forget(&self, shard: ShardId) {
        self.cursors.borrow_mut().retain(|(of, _), _| *of != shard);
    }

    async fn read(&self, want: &Want) -> Result<Vec<Entry>, ColdError> {
        let key = (want.shard, want.reader);
        let known = self.cursors.borrow_mut().remove(&key);
        let within = want.at..=want.end;
        let known =
            known.filter(|known| known.next == want.first && within.contains(&known.position));
        sometimes!(cold_read_continued, known.is_some());
        let (entries, position) = match known {
            Some(known) => match self.collect(want, known.position).await {
                Err(ColdError::Gone(_)) => {
                    sometimes!(cold_cursor_trimmed);
                    self.collect(want, want.at).await?
                }
                other => other?,
            },
            None => self.collect(want, want.at).await?,
        };
        let next = entries.last().map_or(want.first, |entry| entry.index.next());
        self.reads.set(self.reads.get() + 1);
        self.keep(key, Cursor { next, position, used: self.reads.get() });
        Ok(entries)
    }

    /// Keeps a cursor for its next use, in place of the one that was not used for longest.
    fn keep(&self, key: (ShardId, Reader), cursor: Cursor) {
        let mut cursors = self.cursors.borrow_mut();
        cursors.insert(key, cursor);
        if cursors.len() > COLD_CURSORS_MAX {
            let oldest = cursors.iter().min_by_key(|(_, cursor)| cursor.used).map(|(key, _)| *key);
            oldest.and_then(|oldest| cursors.remove(&oldest));
            sometimes!(cold_cursor_dropped);
        }
    }

    /// The entries that are wanted, from the batch at `position` on, and where to look for the next one.
    async fn collect(
        &self,
        want: &Want,
        mut position: Lsn,
    ) -> Result<(Vec<Entry>, Lsn), ColdError> {
        let mut entries = Vec::new();
        let (mut next, mut cost) = (want.first, 0);
        while position < want.end {
            let batch = match self.batch(position).await {
                Ok(Some(batch)) => batch,
                // What is left of the run is newer, and not durable yet.
                Ok(None) if !entries.is_empty() => {
                    sometimes!(cold_read_met_end);
                    return Ok((entries, position));
                }
                // The index says that it is there, and it was durable when it left the memory; but it was
                // written again meanwhile, and that is not durable yet.
                Ok(None) => {
                    sometimes!(cold_read_too_early);
                    return Err(ColdError::NotYet(position));
                }
                Err(error @ ReadError::Trimmed { .. }) => {
                    return Err(ColdError::Gone(error.to_string()));
                }
                Err(error @ ReadError::Damaged { .. }) => {
                    return Err(ColdError::Damaged(error.to_string()));
                }
                Err(error) => return Err(ColdError::Failed(error.to_string())),
            };
            let own = batch.records().filter(|record| record.stream == want.shard.0);
            for entry in own.filter_map(|record| entry_of(&record, batch.position)) {
                if !want.is_for(next, &entry) {
                    continue;
                }
                cost += entry.cost();
                next = entry.index.next();
                entries.push(entry);
                if cost >= want.bytes_max || next > want.last {
                    return Ok((entries, position));
                }
            }
            position = batch.next;
        }
        if entries.is_empty() {
            let Want { first, at, end, .. } = want;
            return Err(ColdError::Gone(format!("entry {first} is not between {at} and {end}")));
        }
        Ok((entries, position))
    }

    /// The first batch with records from `position` on.
    async fn batch(&self, position: Lsn) -> Result<Option<ColdBatch>, ReadError> {
        let recent = self.recent.borrow().get(position);
        sometimes!(cold_batch_shared, recent.is_some());
        if recent.is_some() {
            return Ok(recent);
        }
        let mut reader = self.reader(position);
        let batch = reader.next().await?;
        if let Some(batch) = &batch {
            self.recent.borrow_mut().put(position, batch.clone());
        }
        let mut readers = self.readers.borrow_mut();
        readers.push(reader);
        if readers.len() > COLD_READS_MAX {
            readers.remove(0);
        }
        Ok(batch)
    }

    /// A reader that goes on at `position`: one that stands there or a little before, if there is one.
    fn reader(&self, position: Lsn) -> LogReader<D> {
        let mut readers = self.readers.borrow_mut();
        let skipped = |reader: &LogReader<D>| position.0.checked_sub(reader.position().0);
        let near = readers.iter().enumerate().filter_map(|(at, own)| Some((skipped(own)?, at)));
        let near = near.min().filter(|(skipped, _)| *skipped <= COLD_SKIP_BYTES_MAX);
        let Some((_, at)) = near else {
            return self.wal.reader(position);
        };
        let mut reader = readers.remove(at);
        reader.seek(position);
        reader
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn want(reader: Reader, shard: u32, at: u64) -> Want {
        let (first, term) = (LogIndex(1), Term(1));
        let shard = ShardId(shard);
        Want { shard, reader, first, last: first, term, at: Lsn(at), end: Lsn(at), bytes_max: 1 }
    }

    fn queue(wants: impl IntoIterator<Item = Want>) -> Queue {
        Queue { wants: wants.into_iter().collect(), ..Queue::default() }
    }

    #[test]
    fn those_behind_are_served_until_they_are_near_the_others() {
        let follower = Reader::Follower(NodeId(2));
        let mut queue = queue([want(follower, 1, 1001), want(follower, 2, 300)]);
        for behind in (300..=1000).step_by(50) {
            let next = queue.next(&[], 100, Duration::ZERO).unwrap();
            assert_eq!((next.shard, next.at), (ShardId(2), Lsn(behind)));
            queue.wants.push(want(follower, 2, behind + 50));
        }
        assert_eq!(queue.next(&[], 100, Duration::ZERO).unwrap().shard, ShardId(1));
    }

    #[test]
    fn who_is_ahead_is_served_when_the_sweep_rests() {
        let mut queue = queue([want(Reader::Apply, 1, 1000), want(Reader::Apply, 2, 300)]);
        assert_eq!(queue.next(&[], 100, Duration::ZERO).unwrap().at, Lsn(300));
        assert_eq!(queue.next(&[], 100, COLD_SWEEP_PATIENCE / 2), None);
        assert_eq!(queue.next(&[], 100, COLD_SWEEP_PATIENCE).unwrap().at, Lsn(1000));
    }

    #[test]
    fn purposes_take_turns_and_nobody_reads_what_is_being_read() {
        let follower = Reader::Follower(NodeId(2));
        let far = (0..3).map(|n| want(follower, n, u64::from(n) * 10));
        let mut queue = queue(far.chain([want(Reader::Apply, 9, 5000)]));
        let ms = Duration::from_millis;
        assert_eq!(queue.next(&[Lsn(5050)], 100, ms(1)).unwrap().reader, follower);
        assert_eq!(queue.next(&[Lsn(0)], 100, ms(2)).unwrap().reader, Reader::Apply);
        assert_eq!(queue.next(&[Lsn(0), Lsn(5000)], 100, ms(3)), None);
        assert_eq!(queue.next(&[Lsn(5000)], 100, ms(4)).unwrap().at, Lsn(10));
    }

    #[test]
    fn entries_that_were_overwritten_since_are_not_what_is_wanted() {
        let want = Want { term: Term(3), ..want(Reader::Apply, 1, 1000) };
        let entry = |term, index| {
            let (kind, payload) = (crate::raft::EntryKind::Normal, bytes::Bytes::new());
            Entry { term: Term(term), index: LogIndex(index), kind, payload }
        };
        assert!(want.is_for(LogIndex(7), &entry(3, 7)));
        assert!(!want.is_for(LogIndex(7), &entry(2, 7)), "of a leader that was deposed");
        assert!(!want.is_for(LogIndex(7), &entry(3, 6)), "read before");
    }
}
