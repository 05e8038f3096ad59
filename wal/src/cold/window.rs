//! The part of a segment that a reader has in memory, and its reads under way.
//!
//! ```text
//!          chunks          reads under way
//! ----[########|########][........|........]------ limit
//!       ^cursor         ^loaded            ^next_read
//! ```
//! After a seek one small read goes out, of one batch at most. Once the reader goes on in sequence, reads
//! of the largest size are kept under way ahead of it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use crate::limits::{BLOCK_BYTES, READ_AHEAD, READ_BYTES_MAX, SEEK_READ_BYTES};
use crate::{AlignedBuf, DiskFile, transfer};

struct Chunk {
    offset: u64,
    bytes: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// A read that came to its end.
struct Done {
    len: usize,
    result: io::Result<usize>,
    buf: AlignedBuf,
}

type Read = Pin<Box<dyn Future<Output = Done>>>;

pub(super) struct Window<F> {
    /// Sequence and file of the segment.
    segment: Option<(u64, F)>,
    /// Without gaps, up to `loaded`.
    chunks: VecDeque<Chunk>,
    loaded: u64,
    /// In order, from `loaded` to `next_read`.
    reads: FuturesOrdered<Read>,
    next_read: u64,
    /// The reader goes on where it stopped.
    pub(super) sequential: bool,
    /// Reads under way ahead of the cursor, if it moves in sequence.
    pub(super) ahead: usize,
}

impl<F: DiskFile> Window<F> {
    pub(super) fn new() -> Self {
        Self {
            segment: None,
            chunks: VecDeque::new(),
            loaded: 0,
            reads: FuturesOrdered::new(),
            next_read: 0,
            sequential: false,
            ahead: READ_AHEAD,
        }
    }

    /// Moves the cursor. False if the window looks at another segment: [`Window::open`] it then.
    pub(super) fn aim(&mut self, sequence: u64, offset: u64) -> bool {
        if self.segment.as_ref().is_none_or(|(known, _)| *known != sequence) {
            return false;
        }
        let first = self.chunks.front().map_or(self.loaded, |chunk| chunk.offset);
        if first <= offset && offset <= self.next_read {
            self.pass(offset);
        } else {
            self.restart(offset);
        }
        true
    }

    /// Looks at another segment.
    pub(super) fn open(&mut self, sequence: u64, file: F, offset: u64) {
        self.segment = Some((sequence, file));
        self.restart(offset);
    }

    /// Forgets what was read: the next look reads it again.
    pub(super) fn forget(&mut self) {
        self.segment = None;
        self.sequential = false;
        self.restart(0);
    }

    fn restart(&mut self, offset: u64) {
        self.chunks.clear();
        self.reads = FuturesOrdered::new();
        (self.loaded, self.next_read) = (offset, offset);
    }

    /// Gives up what lies before `offset`.
    fn pass(&mut self, offset: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= offset) {
            self.chunks.pop_front();
        }
    }

    /// The `bytes` bytes at `offset`, which lie before `limit`; `None` if the file ends before. Nothing
    /// behind `limit` is read.
    pub(super) async fn fetch(
        &mut self,
        offset: u64,
        bytes: usize,
        limit: u64,
    ) -> io::Result<Option<Bytes>> {
        let end = offset + bytes as u64;
        self.pass(offset);
        self.submit(offset, end, limit);
        self.collect().await?;
        self.pass(offset); // what came in may lie before it altogether, after a seek
        while self.loaded < end {
            self.submit(offset, end, limit);
            let Some(done) = self.reads.next().await else { return Ok(None) };
            if !self.take(done)? {
                return Ok(None);
            }
            self.pass(offset);
        }
        Ok(Some(self.bytes(offset, bytes)))
    }

    /// Has reads under way for all up to `end`, and ahead of it if the window moves in sequence.
    fn submit(&mut self, offset: u64, end: u64, limit: u64) {
        let ahead = if self.sequential { (self.ahead * READ_BYTES_MAX) as u64 } else { 0 };
        let wanted = end.max(offset + ahead).min(limit);
        let Some((_, file)) = &self.segment else { return };
        while self.next_read < wanted {
            let least = if self.sequential { READ_BYTES_MAX } else { SEEK_READ_BYTES };
            let len = ((wanted - self.next_read) as usize).clamp(least, READ_BYTES_MAX);
            let len = len.min((limit - self.next_read) as usize);
            let buf = AlignedBuf::arbitrary(len);
            let (file, from) = (file.clone(), self.next_read);
            self.reads.push_back(Box::pin(async move {
                let (result, buf) = transfer::read(&file, from, buf, len).await;
                Done { len, result, buf }
            }));
            self.next_read += len as u64;
        }
    }

    /// Lets reads begin that were submitted, and takes what is there, without waiting.
    async fn collect(&mut self) -> io::Result<()> {
        while let Some(done) = poll_fn(|cx| match self.reads.poll_next_unpin(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            if !self.take(done)? {
                break;
            }
        }
        Ok(())
    }

    /// Adds what was read. False if the file was shorter.
    fn take(&mut self, done: Done) -> io::Result<bool> {
        let Done { len, result, buf } = done;
        if !matches!(result, Ok(got) if got == len) {
            // What comes behind has no place without this.
            self.restart(self.loaded);
            return result.map(|_| false);
        }
        let bytes = Bytes::from_owner(buf).slice(..len);
        self.chunks.push_back(Chunk { offset: self.loaded, bytes });
        self.loaded += len as u64;
        Ok(true)
    }

    /// What [`Window::fetch`] of so many bytes keeps in memory.
    pub(super) fn memory_bytes(&self, offset: u64, bytes: usize) -> usize {
        let joined = self.chunks.front().is_some_and(|first| first.end() < offset + bytes as u64);
        if joined { bytes.max(READ_BYTES_MAX) } else { bytes }
    }

    /// Bytes that are there, joined if they lie in several chunks.
    fn bytes(&self, offset: u64, bytes: usize) -> Bytes {
        let first = &self.chunks[0];
        let at = (offset - first.offset) as usize;
        if at + bytes <= first.bytes.len() {
            return first.bytes.slice(at..at + bytes);
        }
        sometimes!(read_batch_joined);
        let mut joined = AlignedBuf::arbitrary(bytes);
        let mut len = first.bytes.len() - at;
        joined[..len].copy_from_slice(&first.bytes[at..]);
        for chunk in self.chunks.iter().skip(1) {
            let more = chunk.bytes.len().min(bytes - len);
            joined[len..len + more].copy_from_slice(&chunk.bytes[..more]);
            len += more;
        }
        Bytes::from_owner(joined).slice(..bytes)
    }
}

const _: () = assert!(SEEK_READ_BYTES >= BLOCK_BYTES);
