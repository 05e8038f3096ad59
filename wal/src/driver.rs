//! [`Driver`], the task that does a log's I/O: durable writes, and segments ahead of them.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::error::Fault;
use crate::format::SegmentId;
use crate::segment::{self, FileName, PrepareError};
use crate::state::{Task, Write};
use crate::transfer::{self, Effort};
use crate::{AlignedBuf, Disk, Wal, WalFailure};

/// A write that came to its end.
struct Written {
    number: u64,
    sequence: u64,
    result: io::Result<Effort>,
    buf: AlignedBuf,
    used: usize,
}

/// Background work that came to its end.
enum Finished<F> {
    Retired { spare: Option<String>, archived: bool },
    SpareRemoved,
    Summarized { written: bool },
    Prepared { id: SegmentId, file: F, filled: bool },
    NoRoom { spare: Option<String> },
    Stopped,
    Failed(Fault),
}

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// Does the I/O of a log. The log's owner runs it as a task of the same thread.
///
/// Dropping it before the log is closed ends the log: nothing more becomes durable.
#[must_use = "a log does nothing unless its driver runs"]
pub struct Driver<D: Disk> {
    disk: D,
    wal: Wal<D>,
    writes: FuturesUnordered<Boxed<Written>>,
    task: Option<Boxed<Finished<D::File>>>,
}

impl<D: Disk> Driver<D> {
    pub(crate) fn new(disk: D, wal: Wal<D>) -> Self {
        Self { disk, wal, writes: FuturesUnordered::new(), task: None }
    }

    /// Runs until the log is closed.
    ///
    /// # Errors
    /// The failure that ended the log.
    pub async fn run(mut self) -> Result<(), WalFailure> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WalFailure>> {
        self.wal.state.borrow_mut().driver = Some(cx.waker().clone());
        loop {
            self.start();
            let moved = self.poll_writes(cx) | self.poll_task(cx);
            if let Some(failure) = self.wal.failure() {
                return Poll::Ready(Err(failure));
            }
            if self.task.is_none() && self.wal.state.borrow().is_finished() {
                self.finish();
                return Poll::Ready(Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Submits what may be submitted.
    fn start(&mut self) {
        let mut state = self.wal.state.borrow_mut();
        while let Some(write) = state.next_write() {
            self.writes.push(Box::pin(run_write(write)));
        }
        if self.task.is_none()
            && let Some(task) = state.next_task()
        {
            self.task = Some(Box::pin(run_task(self.disk.clone(), self.wal.clone(), task)));
        }
    }

    fn poll_writes(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(written)) = self.writes.poll_next_unpin(cx) {
            let mut state = self.wal.state.borrow_mut();
            let Written { number, sequence, result, buf, used } = written;
            let woken = match result {
                Ok(effort) => state.complete(number, effort, buf, used),
                #[cfg(mutant = "write-error-ignored")]
                Err(_) => state.complete(number, Effort::default(), buf, used),
                #[cfg(not(mutant = "write-error-ignored"))]
                Err(error) => {
                    let name = FileName::Segment(sequence).text();
                    state.fail(Fault::new("writing to", &name, error).into())
                }
            };
            drop(state);
            wake(woken);
            moved = true;
        }
        moved
    }

    fn poll_task(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(task) = &mut self.task else { return false };
        let Poll::Ready(finished) = task.as_mut().poll(cx) else { return false };
        self.task = None;
        let mut state = self.wal.state.borrow_mut();
        state.task_ended();
        let woken = match finished {
            Finished::Retired { spare, archived } => {
                state.retired(spare, archived);
                Vec::new()
            }
            Finished::SpareRemoved => Vec::new(),
            Finished::Summarized { written } => {
                state.summarized(written);
                Vec::new()
            }
            Finished::Prepared { id, file, filled } => {
                state.prepared(id, file, filled);
                Vec::new()
            }
            Finished::NoRoom { spare } => {
                tracing::warn!("the disk has no room for another segment of the log");
                if state.no_room(spare) {
                    Vec::new()
                } else {
                    let error = io::ErrorKind::StorageFull.into();
                    state.fail(Fault::new("closing", "the log", error).into())
                }
            }
            Finished::Stopped => {
                sometimes!(fill_stopped);
                Vec::new()
            }
            Finished::Failed(fault) => state.fail(fault.into()),
        };
        drop(state);
        wake(woken);
        true
    }

    fn finish(&self) {
        let mut state = self.wal.state.borrow_mut();
        state.closed = true;
        let woken = state.waiters.ended();
        drop(state);
        wake(woken);
    }
}

impl<D: Disk> Drop for Driver<D> {
    fn drop(&mut self) {
        let mut state = self.wal.state.borrow_mut();
        if state.closed {
            return;
        }
        sometimes!(driver_dropped);
        let durable = state.durable;
        let woken = state.fail(WalFailure::Stopped { durable });
        drop(state);
        wake(woken);
    }
}

fn wake(woken: Vec<Waker>) {
    for waker in woken {
        waker.wake();
    }
}

async fn run_write<F: crate::DiskFile>(write: Write<F>) -> Written {
    let Write { number, file, sequence, batch } = write;
    let used = batch.header.padded_bytes();
    let (result, buf) = transfer::write_durable(&file, batch.offset, batch.buf, used).await;
    Written { number, sequence, result, buf, used }
}

async fn run_task<D: Disk>(disk: D, wal: Wal<D>, task: Task) -> Finished<D::File> {
    let log_id = wal.state.borrow().options.log_id;
    match task {
        Task::Retire { sequence } => match segment::retire(&disk, sequence).await {
            Ok(spare) => Finished::Retired { spare: Some(spare), archived: false },
            Err(fault) => Finished::Failed(fault),
        },
        Task::Remove { sequence } => {
            match segment::remove(&disk, &FileName::Segment(sequence).text()).await {
                Ok(()) => Finished::Retired { spare: None, archived: false },
                Err(fault) => Finished::Failed(fault),
            }
        }
        Task::Archive { sequence } => match segment::archive(&disk, sequence).await {
            Ok(()) => Finished::Retired { spare: None, archived: true },
            Err(fault) => Finished::Failed(fault),
        },
        Task::RemoveSpare { spare } => match segment::remove(&disk, &spare).await {
            Ok(()) => Finished::SpareRemoved,
            Err(fault) => Finished::Failed(fault),
        },
        Task::Summarize { sequence, offset, buf } => {
            let written = segment::summarize(&disk, sequence, offset, buf).await;
            Finished::Summarized { written }
        }
        Task::Reuse { id, spare } => {
            match segment::prepare_spare(&disk, &log_id, &id, &spare).await {
                Ok(file) => Finished::Prepared { id, file, filled: false },
                Err(error) => not_prepared(error, Some(spare)),
            }
        }
        Task::Create { id } => {
            let stopped = || wal.state.borrow().is_stopping();
            match segment::prepare_new(&disk, &log_id, &id, stopped).await {
                Ok(file) => Finished::Prepared { id, file, filled: true },
                Err(error) => not_prepared(error, None),
            }
        }
    }
}

fn not_prepared<F>(error: PrepareError, spare: Option<String>) -> Finished<F> {
    match error {
        PrepareError::NoRoom => Finished::NoRoom { spare },
        PrepareError::Stopped => Finished::Stopped,
        PrepareError::Fault(fault) => Finished::Failed(fault),
    }
}
