//! Sequential reading of parts of several files, with many large reads in flight.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use crate::error::Fault;
use crate::limits::{BLOCK_BYTES, READ_BYTES_MAX, READS_IN_FLIGHT_MAX};
use crate::{AlignedBuf, DiskFile, transfer};

/// A part of a file to read.
#[derive(Clone)]
pub(crate) struct Range<F> {
    pub(crate) file: F,
    pub(crate) name: String,
    /// Number of the segment, for the reader's user.
    pub(crate) segment: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

struct Chunk {
    segment: usize,
    /// Offset in the file of the first byte that was not consumed.
    offset: u64,
    buf: AlignedBuf,
    at: usize,
    len: usize,
}

impl Chunk {
    fn rest(&self) -> &[u8] {
        &self.buf[self.at..self.len]
    }
}

type Read = Pin<Box<dyn Future<Output = Result<Chunk, Fault>>>>;

/// Reads ranges one after the other. Its user looks at bytes from the cursor on and moves it.
pub(crate) struct Reader<F> {
    ranges: VecDeque<Range<F>>,
    reads: FuturesOrdered<Read>,
    chunks: VecDeque<Chunk>,
    /// Bytes that span chunks, joined.
    joined: Vec<u8>,
}

impl<F: DiskFile> Reader<F> {
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<F>>) -> Self {
        Self {
            ranges: ranges.into_iter().filter(|range| range.from < range.to).collect(),
            reads: FuturesOrdered::new(),
            chunks: VecDeque::new(),
            joined: Vec::new(),
        }
    }

    /// Segment and offset of the cursor; `None` at the end of the last range.
    pub(crate) async fn place(&mut self) -> Result<Option<(usize, u64)>, Fault> {
        while self.chunks.is_empty() {
            if !self.load().await? {
                return Ok(None);
            }
        }
        Ok(self.chunks.front().map(|chunk| (chunk.segment, chunk.offset)))
    }

    /// The next `bytes` bytes of the range under the cursor, fewer only at its end. The cursor stands
    /// in a range: `place` said so.
    pub(crate) async fn peek(&mut self, bytes: usize) -> Result<&[u8], Fault> {
        let Some((segment, _)) = self.place().await? else { return Ok(&[]) };
        let mut there: usize = self.here(segment).map(|chunk| chunk.rest().len()).sum();
        while there < bytes {
            if self.chunks.back().is_some_and(|chunk| chunk.segment != segment)
                || !self.load().await?
            {
                break;
            }
            there = self.here(segment).map(|chunk| chunk.rest().len()).sum();
        }
        if self.chunks[0].rest().len() >= bytes || self.here(segment).count() == 1 {
            let rest = self.chunks[0].rest();
            return Ok(&rest[..rest.len().min(bytes)]);
        }
        self.join(segment, bytes);
        Ok(&self.joined)
    }

    /// Moves the cursor over `bytes` bytes of the range under it.
    pub(crate) fn consume(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(chunk) = self.chunks.front_mut() else { return };
            let step = bytes.min(chunk.len - chunk.at);
            chunk.at += step;
            chunk.offset += step as u64;
            bytes -= step;
            if chunk.at == chunk.len {
                self.chunks.pop_front();
            }
        }
    }

    fn here(&self, segment: usize) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter().take_while(move |chunk| chunk.segment == segment)
    }

    fn join(&mut self, segment: usize, bytes: usize) {
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        for chunk in self.here(segment) {
            let rest = chunk.rest();
            joined.extend_from_slice(&rest[..rest.len().min(bytes - joined.len())]);
        }
        self.joined = joined;
    }

    /// Waits for the next chunk, with more reads under way; false at the end of everything.
    async fn load(&mut self) -> Result<bool, Fault> {
        while self.reads.len() < READS_IN_FLIGHT_MAX {
            let Some(range) = self.ranges.front_mut() else { break };
            let len = (range.to - range.from).min(READ_BYTES_MAX as u64) as usize;
            let part = Range { to: range.from + len as u64, ..range.clone() };
            range.from = part.to;
            if range.from >= range.to {
                self.ranges.pop_front();
            }
            self.reads.push_back(Box::pin(read_chunk(part, AlignedBuf::arbitrary(len))));
        }
        match self.reads.next().await {
            None => Ok(false),
            Some(chunk) => {
                let chunk = chunk?;
                if chunk.len > 0 {
                    self.chunks.push_back(chunk);
                }
                Ok(true)
            }
        }
    }
}

async fn read_chunk<F: DiskFile>(range: Range<F>, buf: AlignedBuf) -> Result<Chunk, Fault> {
    let len = (range.to - range.from) as usize;
    let (result, buf) = transfer::read(&range.file, range.from, buf, len).await;
    let got = result.map_err(|error| Fault::new("reading", &range.name, error))?;
    let len = got / BLOCK_BYTES * BLOCK_BYTES;
    Ok(Chunk { segment: range.segment, offset: range.from, buf, at: 0, len })
}
