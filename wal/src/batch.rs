//! A batch that collects records, and the small pool its buffers come from.

use crc32fast::Hasher;

use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader, Chain, SegmentId};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, BUFFER_BYTES_MIN, BUFFER_GROWTH};
use crate::{AlignedBuf, Lsn, Record};

/// Buffers for batches, reused so that an append allocates nothing.
pub(crate) struct Pool {
    buffers: Vec<AlignedBuf>,
    kept_max: usize,
    /// Size that the last batches needed, so that the next one seldom has to grow.
    wanted: usize,
}

impl Pool {
    pub(crate) fn new(kept_max: usize) -> Self {
        Self { buffers: Vec::with_capacity(kept_max + 1), kept_max, wanted: BUFFER_BYTES_MIN }
    }

    /// A buffer of at least `bytes`; its content is arbitrary.
    fn take(&mut self, bytes: usize) -> AlignedBuf {
        let bytes = class(bytes.max(self.wanted));
        match self.buffers.iter().rposition(|buf| buf.len() >= bytes) {
            Some(found) => self.buffers.swap_remove(found),
            None => AlignedBuf::arbitrary(bytes),
        }
    }

    /// Takes a buffer back of which `used` bytes were needed. Keeps the largest ones.
    pub(crate) fn put(&mut self, buf: AlignedBuf, used: usize) {
        // Grow at once, shrink slowly: growing costs a copy, shrinking saves only memory.
        self.wanted = used.max(self.wanted - self.wanted / 16);
        self.buffers.push(buf);
        if self.buffers.len() > self.kept_max {
            let smallest = (0..self.buffers.len()).min_by_key(|i| self.buffers[*i].len());
            self.buffers.swap_remove(smallest.unwrap_or(0));
        }
    }
}

/// The buffer size that serves `bytes`.
fn class(bytes: usize) -> usize {
    let mut size = BUFFER_BYTES_MIN;
    while size < bytes {
        size = (size * BUFFER_GROWTH).min(BATCH_BYTES_MAX.max(bytes));
    }
    size
}

/// Records that will be written as one batch.
pub(crate) struct Batch {
    id: SegmentId,
    offset: u64,
    buf: AlignedBuf,
    used: usize,
    records: u32,
    sums: Hasher,
    limit: usize,
}

impl Batch {
    /// An empty batch at `offset` of segment `id`, which may grow to `limit` bytes and surely takes
    /// `bytes` of records.
    pub(crate) fn new(
        id: SegmentId,
        offset: u64,
        limit: usize,
        bytes: usize,
        pool: &mut Pool,
    ) -> Self {
        Self {
            id,
            offset,
            buf: pool.take(BATCH_HEADER_BYTES + bytes),
            used: BATCH_HEADER_BYTES,
            records: 0,
            sums: Hasher::new_with_initial(id.seed),
            limit,
        }
    }

    /// Whether records of `bytes` bytes still fit.
    #[inline]
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.used + bytes <= self.limit
    }

    /// Makes room in the buffer for records of `bytes` bytes, which fit.
    #[inline]
    pub(crate) fn reserve(&mut self, bytes: usize, pool: &mut Pool) {
        if self.used + bytes > self.buf.len() {
            self.grow(bytes, pool);
        }
    }

    #[cold]
    fn grow(&mut self, bytes: usize, pool: &mut Pool) {
        sometimes!(batch_grew);
        let wanted = (self.used + bytes).max(self.buf.len() * BUFFER_GROWTH).min(BATCH_BYTES_MAX);
        let mut larger = pool.take(wanted);
        larger[..self.used].copy_from_slice(&self.buf[..self.used]);
        let smaller = std::mem::replace(&mut self.buf, larger);
        pool.put(smaller, self.used);
    }

    /// Adds a record; room has been reserved.
    #[inline]
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        let end = self.used + format::record_bytes(record);
        let sum = format::encode_record(&mut self.buf[self.used..end], self.id.seed, record);
        self.sums.update(&sum.to_le_bytes());
        self.used = end;
        self.records += 1;
    }

    /// Position of the byte behind the last record.
    #[inline]
    pub(crate) fn end(&self) -> Lsn {
        self.id.lsn(self.offset + self.used as u64)
    }

    /// Position of its first byte.
    #[inline]
    pub(crate) fn position(&self) -> Lsn {
        self.id.lsn(self.offset)
    }

    /// Bytes of its records.
    pub(crate) fn record_bytes(&self) -> usize {
        self.used - BATCH_HEADER_BYTES
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.id.sequence
    }

    /// Bytes of the batch on disk.
    pub(crate) fn padded_bytes(&self) -> usize {
        format::padded(self.used)
    }

    /// Writes header and padding: the batch is ready to be written.
    pub(crate) fn seal(mut self, prev: Chain, durable: Lsn, trimmed: Lsn, flags: u32) -> Sealed {
        let mut header = BatchHeader {
            position: self.id.lsn(self.offset),
            prev,
            durable,
            trimmed,
            bytes: self.used as u32,
            records: self.records,
            records_checksum: self.sums.finalize(),
            flags,
            checksum: 0,
        };
        let padded = format::padded(self.used);
        sometimes!(batch_of_max_size, self.records > 0 && padded + BLOCK_BYTES > self.limit);
        self.buf[self.used..padded].fill(0);
        format::encode_batch_header(&mut self.buf, &self.id, &mut header);
        Sealed { header, offset: self.offset, buf: self.buf }
    }
}

/// A batch as it goes to the disk.
pub(crate) struct Sealed {
    pub(crate) header: BatchHeader,
    /// Where in its segment's file.
    pub(crate) offset: u64,
    /// Its bytes; the first [`BatchHeader::padded_bytes`] are written.
    pub(crate) buf: AlignedBuf,
}
