//! [`Wal`], the handle to a log, and how one is opened.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::batch::{Batch, Pool};
use crate::cold::LogReader;
use crate::driver::Driver;
use crate::error::Fault;
use crate::format::{Chain, FIRST_BATCH_OFFSET, FLAG_START, SegmentId};
use crate::limits::{BLOCK_BYTES, POSITION_MAX};
use crate::recovery::{Label, Recovery};
use crate::scan::{Live, Scan, Segment, Survey, survey};
use crate::segment::{self, FileName, PrepareError};
use crate::state::{Start, State};
use crate::summary::Tally;
use crate::{
    AppendError, Appended, Disk, Lsn, OpenError, Options, Record, Replay, SegmentInfo, Stats,
    WalFailure, transfer,
};

/// A log. Cloning gives another handle to the same log; all belong to one thread.
pub struct Wal<D: Disk> {
    pub(crate) disk: D,
    pub(crate) state: Rc<RefCell<State<D::File>>>,
}

impl<D: Disk> Clone for Wal<D> {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone(), state: self.state.clone() }
    }
}

impl<D: Disk> std::fmt::Debug for Wal<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").field("durable", &self.durable()).finish_non_exhaustive()
    }
}

impl<D: Disk> Wal<D> {
    /// Opens the log in `disk`, or begins one, and gives its content to `replay`, oldest first.
    ///
    /// What is given to `replay` is durable when this returns. The log does its work only while the
    /// [`Driver`] runs.
    ///
    /// # Errors
    /// [`OpenError`]; what was given to `replay` until then must be forgotten.
    pub async fn open(
        disk: D,
        options: Options,
        replay: &mut dyn Replay,
    ) -> Result<(Self, Driver<D>, Recovery), OpenError> {
        if let Some(flaw) = options.flaw() {
            return Err(OpenError::Options(flaw));
        }
        let mut survey = survey(&disk, &options.log_id, options.segment_bytes).await?;
        let mut scan = Scan::new(&survey.segments);
        let label = scan.run(replay).await?;
        sometimes!(recovery_empty, label == Label::Empty);
        sometimes!(recovery_clean_end, label == Label::CleanEnd);
        sometimes!(recovery_torn_tail, label == Label::TornTail);
        sometimes!(recovery_damage, label == Label::Damage);
        sometimes!(recovery_closed, scan.is_closed());
        sometimes!(recovery_several_segments, scan.live.len() > 1);
        sometimes!(recovery_damage_bounded, label == Label::Damage && scan.is_damage_bounded());
        let accepted =
            options.start_on_damage || (options.start_on_gaps && scan.is_damage_bounded());
        if label == Label::Damage && !accepted {
            return Err(OpenError::Damaged(scan.damage));
        }
        let (chain, trimmed) = (scan.chain(), scan.trimmed());
        let recovery = Recovery {
            label,
            end: chain.end,
            known_durable: scan.known_durable,
            records: scan.records,
            batches: scan.batches,
            bytes: scan.bytes,
            segments: scan.live.len() as u64,
            summarized: scan.summarized,
            cut: scan.cut,
            damage: scan.damage,
            generation: survey.generation + 1,
        };
        let live = scan.live;
        let id = first_id(&options, recovery.generation, &survey.segments, &live);
        if [id.base.0, id.generation, id.sequence].iter().any(|number| *number > POSITION_MAX) {
            return Err(OpenError::Exhausted);
        }
        discard(&disk, &mut survey, &live).await?;
        let file = prepare(&disk, &options, &id, &mut survey.spares).await?;
        let start = begin::<D>(file, &id, chain, trimmed, live, survey.spares).await?;
        let state = Rc::new(RefCell::new(State::new(options, start)));
        let wal = Self { disk: disk.clone(), state };
        Ok((wal.clone(), Driver::new(disk, wal), recovery))
    }

    /// Appends a group of records: after a crash all of them are there or none. Returns where
    /// they lie; they are durable when [`Wal::durable`] has reached [`Appended::end`]. An empty group
    /// lies where the log ends.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing was appended.
    pub fn append(&self, records: &[Record<'_>]) -> Result<Appended, AppendError> {
        self.state.borrow_mut().append(records)
    }

    /// Every record up to this position survives any crash.
    pub fn durable(&self) -> Lsn {
        self.state.borrow().durable
    }

    /// Bytes that were appended and are not durable yet.
    pub fn backlog_bytes(&self) -> usize {
        self.state.borrow().backlog_bytes()
    }

    /// Waits until [`Wal::durable`] is beyond `lsn`; returns it then. Any number of tasks may wait.
    ///
    /// # Errors
    /// [`WalFailure`] when the log ended before.
    pub fn durable_beyond(&self, lsn: Lsn) -> DurableBeyond<D> {
        DurableBeyond { wal: self.clone(), lsn, slot: None }
    }

    /// [`Wal::durable_beyond`] as a poll, for loops that wait for several things at once. The task is
    /// woken at every change, once.
    ///
    /// # Errors
    /// [`WalFailure`] when the log ended before.
    pub fn poll_durable_beyond(
        &self,
        cx: &mut Context<'_>,
        lsn: Lsn,
    ) -> Poll<Result<Lsn, WalFailure>> {
        let mut state = self.state.borrow_mut();
        let outcome = state.outcome(lsn);
        if outcome.is_pending() {
            state.waiters.once(cx);
        }
        outcome
    }

    /// The failure that ended the log, if one did.
    pub fn failure(&self) -> Option<WalFailure> {
        self.state.borrow().failure.clone()
    }

    /// Whether the log can take more than the last reserve. It is false when the disk is full: no
    /// segment is ready and the current one is nearly used up. Then refuse what can be refused, and
    /// leave the rest for what cannot.
    pub fn has_room(&self) -> bool {
        self.state.borrow().has_room()
    }

    /// Has a full disk tried again. For the owner's tick; cheap when the disk is not full.
    pub fn retry_space(&self) {
        self.state.borrow_mut().retry_space();
    }

    /// Changes [`Options::log_bytes_max`], for an owner who keeps other files in the same budget; if there is
    /// one, it stays at least that of the fewest segments. Spares that have no room any more are removed;
    /// nothing else is.
    pub fn set_log_bytes_max(&self, bytes: u64) {
        self.state.borrow_mut().set_log_bytes_max(bytes);
    }

    /// Removes up to `most` spares, one after the other, when nothing else is to be done: segments that were given up,
    /// beyond the few that are always kept. More that were asked for before go, too. For the owner's tick: until then they
    /// keep the disk space that they had. To remove one may keep the disk from other writes for a while, where the
    /// file system discards what it frees.
    pub fn give_back_spares(&self, most: usize) {
        self.state.borrow_mut().give_back_spares(most);
    }

    /// Gives up all records whose position is below `before`. Segments that hold nothing else are reused;
    /// a record that shares a segment with one that is kept is found again by recovery.
    pub fn trim(&self, before: Lsn) {
        self.state.borrow_mut().trim(before);
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> Stats {
        self.state.borrow().stats()
    }

    /// The segments that hold records, oldest first, the current one last.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.state.borrow().segments()
    }

    /// Bytes of all files of the log: segments, prepared ones and spares. Archived ones are not of the log
    /// any more.
    pub fn disk_bytes(&self) -> u64 {
        self.state.borrow().disk_bytes()
    }

    /// Bytes that [`Wal::set_log_bytes_max`] should leave at least: those of all files but spares that nothing waits
    /// for, and of files that positions were given out in already.
    pub fn needed_bytes(&self) -> u64 {
        self.state.borrow().needed_bytes()
    }

    /// The next segment that got its last record since the log was opened; each once, in order.
    pub fn take_sealed(&self) -> Option<SegmentInfo> {
        self.state.borrow_mut().take_sealed()
    }

    /// Gives a sealed segment a summary: what its owner has to know of its records, so that the next start
    /// need not read them ([`Replay::summary`](crate::Replay::summary)). It is written when everything in the
    /// segment is durable. It may get lost, or be ignored: for a segment that was given up, or has one
    /// already, or if more than [`SUMMARIES_WAITING_MAX`](crate::limits::SUMMARIES_WAITING_MAX) wait, or
    /// if it is longer than [`Wal::summary_bytes_max`]; then the records are read.
    pub fn summarize(&self, sequence: u64, bytes: Vec<u8>) {
        self.state.borrow_mut().summarize(sequence, bytes);
    }

    /// The most bytes that a summary takes.
    pub fn summary_bytes_max(&self) -> usize {
        self.state.borrow().summary_bytes_max()
    }

    /// Reads durable batches from `from` on: the first byte of a batch, as [`Appended::batch`],
    /// [`RecordView::batch`](crate::RecordView::batch) and [`ColdBatch::next`](crate::ColdBatch::next) give
    /// it, or a position where one ends.
    pub fn reader(&self, from: Lsn) -> LogReader<D> {
        LogReader::new(self.clone(), from)
    }

    /// Takes no more appends, makes durable what was appended, marks the end and stops the driver.
    /// Returns when that is done or the log has failed.
    pub async fn close(&self) {
        {
            let mut state = self.state.borrow_mut();
            state.closing = true;
            // A full disk is tried once more: records may wait for a segment that it refused.
            state.retry_space();
            state.wake_driver();
        }
        std::future::poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.closed || state.failure.is_some() {
                return Poll::Ready(());
            }
            state.waiters.once(cx);
            Poll::Pending
        })
        .await;
    }
}

impl<F: Clone> State<F> {
    /// What a task that waits for `durable > lsn` is told now.
    fn outcome(&self, lsn: Lsn) -> Poll<Result<Lsn, WalFailure>> {
        if self.durable > lsn {
            return Poll::Ready(Ok(self.durable));
        }
        match &self.failure {
            Some(failure) => Poll::Ready(Err(failure.clone())),
            None if self.closed => Poll::Ready(Err(WalFailure::Closed)),
            None => Poll::Pending,
        }
    }
}

/// Waits until a log is durable beyond a position: see [`Wal::durable_beyond`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct DurableBeyond<D: Disk> {
    wal: Wal<D>,
    lsn: Lsn,
    slot: Option<usize>,
}

/// Nothing of it is pinned.
impl<D: Disk> Unpin for DurableBeyond<D> {}

impl<D: Disk> Future for DurableBeyond<D> {
    type Output = Result<Lsn, WalFailure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.wal.state.borrow_mut();
        let outcome = state.outcome(this.lsn);
        if outcome.is_pending() {
            state.waiters.beyond(&mut this.slot, this.lsn, cx);
        }
        Poll::Ready(ready!(outcome))
    }
}

impl<D: Disk> Drop for DurableBeyond<D> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.wal.state.borrow_mut().waiters.release(slot);
        }
    }
}

/// The segment that this start of the log writes to first: behind everything there ever was.
fn first_id<F>(
    options: &Options,
    generation: u64,
    segments: &[Segment<F>],
    live: &[Live],
) -> SegmentId {
    let Options { log_id, segment_bytes, .. } = options;
    if live.is_empty() {
        // Nothing was ever promised: begin anew. Recovery counts on a first segment being the first.
        return SegmentId::new(log_id, generation, 1, Lsn(0), *segment_bytes);
    }
    let known = segments.iter().filter_map(|segment| segment.id);
    let (mut sequence, mut end, mut bytes) = (0, Lsn(0), *segment_bytes);
    for id in known {
        (sequence, end, bytes) = (id.sequence, end.max(id.end()), bytes.max(id.bytes));
    }
    let last = segments.last().map_or(0, |segment| segment.sequence);
    // Unreadable segments behind the last readable one had positions, too.
    let unreadable = last.saturating_sub(sequence).saturating_mul(bytes);
    let end = Lsn(end.0.saturating_add(unreadable));
    SegmentId::new(log_id, generation, last + 1, end, *segment_bytes)
}

/// Makes spares of all segments without recovered records: their batches were cut off, or never written.
async fn discard<D: Disk>(
    disk: &D,
    survey: &mut Survey<D::File>,
    live: &[Live],
) -> Result<(), Fault> {
    for segment in survey.segments.drain(..).rev() {
        if live.iter().any(|live| live.sequence == segment.sequence) {
            continue;
        }
        sometimes!(recovery_segment_discarded);
        let reusable = segment.id.is_some_and(|id| id.bytes == survey.segment_bytes);
        if reusable {
            survey.spares.push(segment::retire(disk, segment.sequence).await?);
        } else {
            segment::remove(disk, &FileName::Segment(segment.sequence).text()).await?;
        }
    }
    Ok(())
}

async fn prepare<D: Disk>(
    disk: &D,
    options: &Options,
    id: &SegmentId,
    spares: &mut Vec<String>,
) -> Result<D::File, OpenError> {
    let prepared = match spares.pop() {
        Some(spare) => segment::prepare_spare(disk, &options.log_id, id, &spare).await,
        None => segment::prepare_new(disk, &options.log_id, id, || false).await,
    };
    prepared.map_err(|error| match error {
        PrepareError::NoRoom | PrepareError::Stopped => OpenError::NoSpace { bytes: id.bytes },
        PrepareError::Fault(fault) => fault.into(),
    })
}

/// Writes the batch that opens this generation. It makes the cut at the recovered end final: what an
/// earlier process still had in flight can't come back behind it.
async fn begin<D: Disk>(
    file: D::File,
    id: &SegmentId,
    chain: Chain,
    trimmed: Lsn,
    live: Vec<Live>,
    spares: Vec<String>,
) -> Result<Start<D::File>, Fault> {
    let batch = Batch::new(*id, FIRST_BATCH_OFFSET, BLOCK_BYTES, 0, &mut Pool::new(0));
    let sealed = batch.seal(chain, chain.end, trimmed, FLAG_START);
    let (header, len) = (sealed.header, sealed.header.padded_bytes());
    let (result, _) = transfer::write_durable(&file, FIRST_BATCH_OFFSET, sealed.buf, len).await;
    result.map_err(|error| Fault::new("writing the first batch to", "a new segment", error))?;
    let mut live = VecDeque::from(live);
    live.push_back(Live::new(id, header.end()));
    let offset = FIRST_BATCH_OFFSET + len as u64;
    Ok(Start { id: *id, file, offset, tally: Tally::begin(&header), trimmed, live, spares })
}
