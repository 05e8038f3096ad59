//! The log's state between appends, writes and background work. Synchronous: all I/O is the driver's.
//!
//! ```text
//! trimmed <= durable <= submitted <= appended
//!
//!   segment 7            segment 8 (current)                    segment 9 (ready)
//!   [#######]            [####|####|....:....:          ]       [                ]
//!                             ^durable  ^full   ^open            prepared by the driver
//!                              in flight
//! ```
//!
//! A record's position is fixed when it is appended: the place of the batch that collects it is known,
//! because all batches before it have their size by then, and the next segment begins where this one
//! ends even while its file is still being prepared.

mod place;
mod sealed;
mod space;

use std::collections::VecDeque;
use std::task::Waker;

use crate::batch::{Batch, Pool, Sealed};
use crate::commit::Flights;
use crate::format::{BATCH_HEADER_BYTES, FIRST_BATCH_OFFSET, FLAG_CLOSE, SegmentId, record_bytes};
use crate::limits::{BLOCK_BYTES, MARK_RESERVE_BYTES, RECORD_HEADER_BYTES, REFUSALS_BEFORE_RETRY};
use crate::scan::Live;
use crate::summary::Tally;
use crate::transfer::Effort;
use crate::waiters::Waiters;

pub(crate) use self::place::{Locate, Spot};
use self::sealed::SealedSegment;
pub(crate) use self::space::Task;
use crate::{AlignedBuf, AppendError, Appended, Lsn, Options, Record, Stats, WalFailure};

/// A durable write for the driver.
pub(crate) struct Write<F> {
    pub(crate) number: u64,
    pub(crate) file: F,
    pub(crate) sequence: u64,
    pub(crate) batch: Sealed,
}

/// What opening a log found, for its state.
pub(crate) struct Start<F> {
    pub(crate) id: SegmentId,
    pub(crate) file: F,
    pub(crate) offset: u64,
    /// Its batches.
    pub(crate) tally: Tally,
    pub(crate) trimmed: Lsn,
    pub(crate) live: VecDeque<Live>,
    pub(crate) spares: Vec<String>,
}

pub(crate) struct State<F> {
    pub(crate) options: Options,
    group_bytes_max: usize,
    /// Where the batch after `full` starts: the open one, if there is one.
    id: SegmentId,
    offset: u64,
    open: Option<Batch>,
    full: VecDeque<Batch>,
    /// Bytes of records that are not durable yet.
    backlog: usize,
    flights: Flights,
    /// Backlog bytes of the writes in flight, by number.
    flight_bytes: VecDeque<usize>,
    /// The segment that the last submitted batch went to, and its batches so far.
    tail: (SegmentId, Tally),
    /// Segments that the log has left, from the oldest one on that has no summary yet.
    sealed: VecDeque<SealedSegment>,
    /// Files of the current segment (or the oldest one with batches to write) and the ready ones.
    files: VecDeque<(SegmentId, F)>,
    /// Bytes of the file that background work makes or takes now.
    in_work_bytes: u64,
    live: VecDeque<Live>,
    /// End of the last segment that is no longer there.
    gone: Lsn,
    spares: Vec<String>,
    /// Of those, so many are to be removed.
    surplus: usize,
    appended: Lsn,
    pub(crate) durable: Lsn,
    trimmed: Lsn,
    trim_submitted: Lsn,
    trim_durable: Lsn,
    pub(crate) failure: Option<WalFailure>,
    pub(crate) closing: bool,
    close_submitted: bool,
    pub(crate) closed: bool,
    out_of_space: bool,
    retry: bool,
    refusals: u32,
    pool: Pool,
    pub(crate) waiters: Waiters,
    pub(crate) driver: Option<Waker>,
    stats: Stats,
}

impl<F: Clone> State<F> {
    pub(crate) fn new(options: Options, start: Start<F>) -> Self {
        let end = start.id.lsn(start.offset);
        Self {
            group_bytes_max: options.group_bytes_max(),
            id: start.id,
            offset: start.offset,
            open: None,
            full: VecDeque::new(),
            backlog: 0,
            flights: Flights::new(options.writes_in_flight),
            flight_bytes: VecDeque::new(),
            tail: (start.id, start.tally),
            sealed: VecDeque::new(),
            files: VecDeque::from([(start.id, start.file)]),
            in_work_bytes: 0,
            gone: start.live.front().map_or(Lsn(0), |live| live.start),
            live: start.live,
            spares: start.spares,
            surplus: 0,
            appended: end,
            durable: end,
            trimmed: start.trimmed,
            trim_submitted: start.trimmed,
            trim_durable: start.trimmed,
            failure: None,
            closing: false,
            close_submitted: false,
            closed: false,
            out_of_space: false,
            retry: false,
            refusals: 0,
            pool: Pool::new(options.writes_in_flight + 2),
            waiters: Waiters::default(),
            driver: None,
            stats: Stats::default(),
            options,
        }
    }

    pub(crate) fn append(&mut self, records: &[Record<'_>]) -> Result<Appended, AppendError> {
        let bytes: usize = records.iter().map(record_bytes).sum();
        let fits = self.open.as_ref().is_some_and(|open| open.fits(bytes));
        let usual = fits && self.failure.is_none() && !self.closing;
        if !usual || self.backlog + bytes > self.options.buffer_bytes_max {
            self.admit(bytes)?;
        }
        let nothing = Appended { batch: self.appended, end: self.appended };
        if records.is_empty() {
            return Ok(nothing);
        }
        if !fits {
            self.open_batch(bytes)?;
        }
        let Some(open) = &mut self.open else { return Ok(nothing) };
        open.reserve(bytes, &mut self.pool);
        for record in records {
            open.push(record);
        }
        let appended = Appended { batch: open.position(), end: open.end() };
        self.appended = appended.end;
        self.backlog += bytes;
        self.stats.records += records.len() as u64;
        self.stats.payload_bytes += (bytes - records.len() * RECORD_HEADER_BYTES) as u64;
        if self.flights.may_submit() {
            self.wake_driver();
        }
        Ok(appended)
    }

    /// Refuses what can't be appended, in the order of what the caller should know first.
    #[cold]
    fn admit(&self, bytes: usize) -> Result<(), AppendError> {
        if let Some(failure) = &self.failure {
            return Err(AppendError::Failed(failure.clone()));
        }
        if self.closing {
            return Err(AppendError::Closed);
        }
        if bytes > self.group_bytes_max {
            return Err(AppendError::TooLarge { bytes, max: self.group_bytes_max });
        }
        if self.backlog + bytes > self.options.buffer_bytes_max {
            sometimes!(append_refused_backlog);
            return Err(AppendError::Full { backlog_bytes: self.backlog });
        }
        Ok(())
    }

    /// Opens a batch that takes records of `bytes` bytes, in the next segment if need be.
    #[cold]
    fn open_batch(&mut self, bytes: usize) -> Result<(), AppendError> {
        let needed = BATCH_HEADER_BYTES + bytes;
        if let Some(open) = self.open.take() {
            sometimes!(batch_full);
            self.offset += open.padded_bytes() as u64;
            self.full.push_back(open);
        }
        if (self.room() as usize) < needed && !self.enter_next_segment() {
            self.refusals += 1;
            if self.refusals >= REFUSALS_BEFORE_RETRY {
                self.retry_space();
            }
            sometimes!(append_refused_no_space);
            return Err(AppendError::NoSpace);
        }
        let limit = self.options.batch_bytes_max.min(self.room() as usize);
        self.open = Some(Batch::new(self.id, self.offset, limit, bytes, &mut self.pool));
        Ok(())
    }

    /// Bytes that batches with records may still take in the current segment.
    fn room(&self) -> u64 {
        (self.id.batches_end() - self.offset).saturating_sub(MARK_RESERVE_BYTES)
    }

    /// Moves to the next segment unless there is none and the disk is full. With a disk that is not
    /// full, its file may come later.
    fn enter_next_segment(&mut self) -> bool {
        let next = self.id.sequence + 1;
        let prepared = self.files.iter().find(|(id, _)| id.sequence == next).map(|(id, _)| *id);
        let next = match prepared {
            Some(id) => id,
            None if self.out_of_space || !self.may_promise() => return false,
            None => self.next_id(&self.id),
        };
        sometimes!(segment_rotated);
        sometimes!(segment_not_ready, prepared.is_none());
        self.note_end();
        self.id = next;
        self.offset = FIRST_BATCH_OFFSET;
        self.live.push_back(Live::new(&next, self.id.lsn(self.offset)));
        true
    }

    fn next_id(&self, id: &SegmentId) -> SegmentId {
        let Options { log_id, segment_bytes, .. } = &self.options;
        SegmentId::new(log_id, id.generation, id.sequence + 1, id.end(), *segment_bytes)
    }

    /// Notes where the records of the current segment end.
    fn note_end(&mut self) {
        let end = self.id.lsn(self.offset);
        if let Some(live) = self.live.back_mut() {
            live.end = end;
        }
    }

    /// The next batch to write, if one may be written now.
    pub(crate) fn next_write(&mut self) -> Option<Write<F>> {
        if self.failure.is_some() || !self.flights.may_submit() {
            return None;
        }
        if let Some(front) = self.full.front() {
            let Some(file) = self.file_of(front.sequence()) else { return self.mark_behind() };
            let batch = self.full.pop_front()?;
            return Some(self.submit(batch, file, 0));
        }
        if let Some(open) = &self.open {
            let Some(file) = self.file_of(open.sequence()) else { return self.mark_behind() };
            let batch = self.open.take()?;
            self.offset += batch.padded_bytes() as u64;
            return Some(self.submit(batch, file, 0));
        }
        let flags = self.wanted_mark()?;
        let file = self.place_mark()?;
        let batch = Batch::new(self.id, self.offset, BLOCK_BYTES, 0, &mut self.pool);
        self.offset += batch.padded_bytes() as u64;
        self.stats.marks += 1;
        sometimes!(trim_mark, flags == 0);
        if flags & FLAG_CLOSE != 0 {
            sometimes!(close_mark);
            self.close_submitted = true;
        }
        Some(self.submit(batch, file, flags))
    }

    /// A mark behind the last batch that was submitted, while the next ones wait for their segment: what was
    /// trimmed may be all that it can be made of.
    fn mark_behind(&mut self) -> Option<Write<F>> {
        let (id, end) = (self.tail.0, self.tail.1.last.chain.end);
        let offset = end.0 - id.base.0;
        if self.closing || id.batches_end() - offset < BLOCK_BYTES as u64 {
            return None;
        }
        let flags = self.wanted_mark()?;
        let file = self.file_of(id.sequence)?;
        let batch = Batch::new(id, offset, BLOCK_BYTES, 0, &mut self.pool);
        self.stats.marks += 1;
        sometimes!(mark_before_waiting_batches);
        Some(self.submit(batch, file, flags))
    }

    fn file_of(&self, sequence: u64) -> Option<F> {
        let found = self.files.iter().find(|(id, _)| id.sequence == sequence);
        found.map(|(_, file)| file.clone())
    }

    /// Whether a batch without records is to be written, and with which flags.
    fn wanted_mark(&self) -> Option<u32> {
        if self.closing {
            // The last mark says that everything before it is durable: so that must be true.
            return (!self.close_submitted && self.flights.is_empty()).then_some(FLAG_CLOSE);
        }
        let useful = self.trim_submitted < self.trimmed
            && self.live.len() > 1
            && self.live.front().is_some_and(|live| live.end < self.trimmed);
        useful.then_some(0)
    }

    /// Finds room for a mark; only the very end of a segment can be too small for one.
    fn place_mark(&mut self) -> Option<F> {
        if self.is_full_up() {
            let next = self.id.sequence + 1;
            self.file_of(next)?;
            sometimes!(mark_in_next_segment);
            self.enter_next_segment();
        }
        self.file_of(self.id.sequence)
    }

    /// Whether not even a mark has room in the current segment.
    fn is_full_up(&self) -> bool {
        self.id.batches_end() - self.offset < BLOCK_BYTES as u64
    }

    fn submit(&mut self, batch: Batch, file: F, flags: u32) -> Write<F> {
        let sequence = batch.sequence();
        while self.files.front().is_some_and(|(id, _)| id.sequence < sequence) {
            self.files.pop_front();
        }
        let id = batch.id();
        let record_bytes = batch.record_bytes();
        let durable = self.durable;
        #[cfg(mutant = "submitted-claimed-durable")]
        let durable = self.tail.1.last.chain.end;
        let batch = batch.seal(self.tail.1.last.chain, durable, self.trimmed, flags);
        self.trim_submitted = self.trimmed;
        self.count(id, &batch.header);
        let padded = batch.header.padded_bytes() as u64;
        self.stats.batches += 1;
        self.stats.written_bytes += padded;
        self.stats.padding_bytes += padded - u64::from(batch.header.bytes);
        self.stats.batch_bytes_max = self.stats.batch_bytes_max.max(padded);
        self.flight_bytes.push_back(record_bytes);
        let number = self.flights.submit(batch.header.end(), self.trimmed);
        Write { number, file, sequence, batch }
    }

    /// Notes that a write is durable. Returns whom to wake.
    pub(crate) fn complete(
        &mut self,
        number: u64,
        effort: Effort,
        buf: AlignedBuf,
        used: usize,
    ) -> Vec<Waker> {
        self.pool.put(buf, used);
        self.stats.durable_writes += 1;
        self.stats.short_writes += effort.short;
        self.stats.resubmitted_writes += effort.resubmitted;
        if self.failure.is_some() {
            sometimes!(completed_after_failure);
            return Vec::new();
        }
        let before = self.flights.len();
        let Some(prefix) = self.flights.complete(number) else { return Vec::new() };
        for bytes in self.flight_bytes.drain(..before - self.flights.len()) {
            self.backlog -= bytes;
        }
        debug_assert!(self.durable < prefix.durable, "durable grows");
        self.durable = prefix.durable;
        self.trim_durable = prefix.trimmed;
        self.waiters.advanced(self.durable)
    }

    /// Latches a failure; the first one stays. Returns whom to wake.
    pub(crate) fn fail(&mut self, failure: WalFailure) -> Vec<Waker> {
        if self.failure.is_none() {
            sometimes!(failure_latched);
            self.failure = Some(failure);
        }
        self.waiters.ended()
    }

    pub(crate) fn trim(&mut self, before: Lsn) {
        // What is not durable yet may not be given up: it would be reported as missing after a crash.
        self.trimmed = self.trimmed.max(before.min(self.durable));
        if self.live.front().is_some_and(|live| live.end < self.trimmed) {
            // A budget that is used up may give a segment for the mark that tells of this.
            self.retry |= self.out_of_space;
            self.wake_driver();
        }
    }

    /// Whether the log has been closed and the last mark is durable, or can't be written.
    pub(crate) fn is_finished(&self) -> bool {
        let no_place = self.is_full_up() && self.file_of(self.id.sequence + 1).is_none();
        let written = self.close_submitted || no_place;
        let idle = self.flights.is_empty() && self.full.is_empty() && self.open.is_none();
        self.closing && idle && written
    }

    pub(crate) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog
    }

    pub(crate) fn stats(&self) -> Stats {
        let ready = self.files.iter().filter(|(id, _)| id.sequence > self.id.sequence).count();
        Stats {
            segments: self.live.len() as u64,
            segments_ready: ready as u64,
            spares: self.spares.len() as u64,
            backlog_bytes: self.backlog as u64,
            ..self.stats
        }
    }
}
