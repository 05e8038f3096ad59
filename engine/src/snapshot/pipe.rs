//! [`Pipe`]: several writes of one file in flight.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use coracle_wal::transfer::{self, Effort};
use coracle_wal::{AlignedBuf, DiskFile};
use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;

use super::error::WriteError;
use super::name::FileName;
use crate::limits::SNAPSHOT_WRITES_IN_FLIGHT_MAX;

type Written = (io::Result<Effort>, AlignedBuf);

/// Writes of a file of chunks. The first failure is final: nothing is written any more, and every call
/// says so.
pub(super) struct Pipe<F> {
    pub(super) file: F,
    name: FileName,
    in_flight: FuturesUnordered<LocalBoxFuture<'static, Written>>,
    buffer_bytes: usize,
    failure: Option<WriteError>,
}

impl<F: DiskFile> Pipe<F> {
    /// `buffer_bytes` is the length of the buffers that [`Pipe::buffer`] gives.
    pub(super) fn new(file: F, name: FileName, buffer_bytes: usize) -> Self {
        Self { file, name, in_flight: FuturesUnordered::new(), buffer_bytes, failure: None }
    }

    pub(super) fn name(&self) -> FileName {
        self.name
    }

    /// A buffer to fill; its content is arbitrary.
    pub(super) fn buffer(&self) -> AlignedBuf {
        AlignedBuf::arbitrary(self.buffer_bytes)
    }

    /// Takes over the writes in flight and the failure, if there are any, for the next one who works on the
    /// file: nobody may believe what he reads before he knows how they end.
    pub(super) fn leave(&mut self) -> Option<Self> {
        if self.in_flight.is_empty() && self.failure.is_none() {
            return None;
        }
        Some(Self {
            file: self.file.clone(),
            name: self.name,
            in_flight: std::mem::take(&mut self.in_flight),
            buffer_bytes: self.buffer_bytes,
            failure: self.failure.clone(),
        })
    }

    pub(super) fn check(&self) -> Result<(), WriteError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Latches a failure of something else than a write.
    pub(super) fn fail(&mut self, error: WriteError) -> WriteError {
        self.failure.get_or_insert(error).clone()
    }

    /// Waits until one more write may be in flight.
    pub(super) async fn room(&mut self) -> Result<(), WriteError> {
        while self.in_flight.len() >= SNAPSHOT_WRITES_IN_FLIGHT_MAX {
            if let Some(written) = self.in_flight.next().await {
                self.take_back(written);
            }
        }
        self.check()
    }

    /// Submits a write of the first `len` bytes of `buf`. There must be room: see [`Pipe::room`].
    pub(super) async fn submit(&mut self, position: u64, buf: AlignedBuf, len: usize) {
        assert!(self.in_flight.len() < SNAPSHOT_WRITES_IN_FLIGHT_MAX, "room was waited for");
        let file = self.file.clone();
        let write = async move { transfer::write_all(&file, position, buf, len).await };
        self.in_flight.push(write.boxed_local());
        // An operation starts when it is first polled.
        poll_fn(|cx| {
            while let Poll::Ready(Some(written)) = self.in_flight.poll_next_unpin(cx) {
                self.take_back(written);
            }
            Poll::Ready(())
        })
        .await;
        sometimes!(snapshot_writes_overlap, self.in_flight.len() > 1);
    }

    /// Waits for all writes.
    pub(super) async fn drain(&mut self) -> Result<(), WriteError> {
        while let Some(written) = self.in_flight.next().await {
            self.take_back(written);
        }
        self.check()
    }

    /// Waits for all writes and makes them durable.
    pub(super) async fn sync(&mut self) -> Result<(), WriteError> {
        self.drain().await?;
        let synced = self.file.sync().await;
        synced.map_err(|error| self.fail(WriteError::io("syncing", self.name, &error)))
    }

    fn take_back(&mut self, (result, _): Written) {
        if let Err(error) = result {
            self.fail(WriteError::io("writing", self.name, &error));
        }
    }
}
