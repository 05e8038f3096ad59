//! [`LogReader`]: reads what has been durable for a while back from its segments, while the log goes on.
//!
//! A reader follows the log from a batch on, over segments, up to what is durable now. It shares nothing with
//! the writer but a look at the list of segments before each step, so it neither blocks nor delays it. A batch is
//! given out when all of it was checked: header, place, generation, records (as recovery does), and that it
//! names the batch before, if that one was read.
//!
//! | what is at the position | answer |
//! |---|---|
//! | a durable batch | [`ColdBatch`]; batches without records are passed over |
//! | the end of what is durable | `None`; later there may be more |
//! | a segment that was given up, before or while it was read | [`ReadError::Trimmed`] |
//! | a segment that is in use, and no whole batch in it | [`ReadError::Damaged`], with its extent |
//! | an answer of the disk that is an error | [`ReadError::Io`]; nothing is known of the content |
//!
//! After an error the reader stands where it stood: [`LogReader::next`] tries again, [`LogReader::seek`] goes
//! elsewhere, as behind the damage. Dropping a future of a reader loses nothing.
//!
//! # Memory
//! A payload is a slice of the buffer of [`READ_BYTES_MAX`](crate::limits::READ_BYTES_MAX) bytes that it was
//! read into, and keeps all of it: copy what is to be kept for long. A batch that spans buffers is joined in
//! one of its own. A reader itself keeps about [`READ_AHEAD`](crate::limits::READ_AHEAD) + 2 buffers; drop one
//! that is not in use.

mod window;

use std::io;

use bytes::Bytes;
use thiserror::Error;

use self::window::Window;
use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader, Chain, FIRST_BATCH_OFFSET, Flaw};
use crate::limits::{BLOCK_BYTES, READER_FILES_MAX, READS_IN_FLIGHT_MAX};
use crate::recovery::Extent;
use crate::segment::FileName;
use crate::state::{Locate, Spot};
use crate::{Disk, Lsn, OpenMode, Wal};

/// Why a batch could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It was given up ([`Wal::trim`]) and is no longer there.
    #[error("the log was trimmed: position {at} is no longer there")]
    Trimmed {
        /// Where the reader stands.
        at: Lsn,
    },
    /// It is damaged. Nothing of it was given out.
    #[error("the log is damaged: {extent}; restore it, or get what it held from elsewhere")]
    Damaged {
        /// What is damaged, up to the next whole batch of the segment or the end of its records.
        extent: Extent,
    },
    /// The disk failed.
    #[error("reading {file} failed: {source}")]
    Io {
        /// Which file of the log's directory.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A record that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdRecord {
    /// Whose record it is.
    pub stream: u32,
    /// What it is.
    pub kind: u8,
    /// The byte just behind the record.
    pub lsn: Lsn,
    /// `head` and `body` of the appended record, joined. A slice of the read buffer, which it keeps.
    pub payload: Bytes,
}

/// A batch that was read back, checked.
#[derive(Clone, Debug)]
pub struct ColdBatch {
    /// Its first byte.
    pub position: Lsn,
    /// Where to go on reading behind it.
    pub next: Lsn,
    /// Header and records, without padding.
    bytes: Bytes,
    records: u32,
    /// Bytes that are kept from other use for it.
    memory_bytes: usize,
}

impl ColdBatch {
    /// Its records, in order.
    pub fn records(&self) -> impl Iterator<Item = ColdRecord> + '_ {
        let mut at = BATCH_HEADER_BYTES;
        std::iter::from_fn(move || {
            let record = format::record_at(&self.bytes, at)?;
            let payload = self.bytes.slice(record.payload.clone());
            at = record.payload.end;
            let lsn = Lsn(self.position.0 + at as u64);
            Some(ColdRecord { stream: record.stream, kind: record.kind, lsn, payload })
        })
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Whether it has none: it is a mark of a trim, or begins or ends a generation.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// About how much memory it keeps: it may have a buffer of its own, or share one with others.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Bytes of its header and records.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Reads a log's durable batches in order, without the log's owner having to wait for it.
pub struct LogReader<D: Disk> {
    wal: Wal<D>,
    /// Where the next batch begins, or the last one ended.
    position: Lsn,
    /// Link of the batch before, if that was read.
    chain: Option<Chain>,
    window: Window<D::File>,
    /// Open files by sequence, the last used one last.
    files: Vec<(u64, D::File)>,
}

/// What is at a place.
enum Found {
    Batch(ColdBatch, BatchHeader),
    /// No whole batch.
    Damage,
}

impl<D: Disk> LogReader<D> {
    pub(crate) fn new(wal: Wal<D>, from: Lsn) -> Self {
        Self { wal, position: from, chain: None, window: Window::new(), files: Vec::new() }
    }

    /// Has `reads` of 1 MiB under way ahead of what is read in sequence, 1 to
    /// [`READS_IN_FLIGHT_MAX`](crate::limits::READS_IN_FLIGHT_MAX): for a reader that is alone.
    #[must_use]
    pub fn ahead(mut self, reads: usize) -> Self {
        self.window.ahead = reads.clamp(1, READS_IN_FLIGHT_MAX);
        self
    }

    /// Where the next batch begins, or the last one ended.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Goes on at `position`: the first byte of a batch, or where one ended.
    pub fn seek(&mut self, position: Lsn) {
        if position != self.position {
            self.position = position;
            self.chain = None;
            self.window.sequential = false;
        }
    }

    /// The next batch with records; `None` at the end of what is durable now.
    ///
    /// # Errors
    /// [`ReadError`]; the reader stays where it is.
    pub async fn next(&mut self) -> Result<Option<ColdBatch>, ReadError> {
        loop {
            match self.step().await? {
                Some(batch) if batch.is_empty() => {}
                other => return Ok(other),
            }
        }
    }

    /// The batch that begins at `position`, with or without records, and nothing ahead of it. `None` if it
    /// is not durable yet. The reader stands behind it then.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn batch_at(&mut self, position: Lsn) -> Result<Option<ColdBatch>, ReadError> {
        self.seek(position);
        self.window.sequential = false;
        let batch = self.step().await?;
        self.window.sequential = false;
        Ok(batch)
    }

    async fn step(&mut self) -> Result<Option<ColdBatch>, ReadError> {
        let located = self.wal.state.borrow().locate(self.position);
        let spot = match located {
            Locate::End => return Ok(None),
            Locate::Trimmed => return Err(ReadError::Trimmed { at: self.position }),
            Locate::Lost(extent) => {
                sometimes!(read_lost_segment);
                return Err(ReadError::Damaged { extent });
            }
            Locate::At(spot) => spot,
        };
        sometimes!(read_next_segment, self.chain.is_some_and(|chain| chain.end < spot.lsn()));
        self.aim(&spot).await?;
        let (batch, header) = match self.read(&spot, spot.offset).await? {
            Found::Batch(batch, header) => (batch, header),
            Found::Damage => return Err(self.damaged(&spot).await),
        };
        if let Some(chain) = self.chain
            && header.prev != chain
        {
            sometimes!(read_unlinked_batch);
            let crossed = chain.end < header.position;
            let (from, to) = if crossed {
                (chain.end, header.position)
            } else {
                (header.position, header.end())
            };
            return Err(self.damage(&spot, from, to));
        }
        self.position = batch.next;
        self.chain = Some(header.chain());
        self.window.sequential = true;
        Ok(Some(batch))
    }

    /// Has the window look at the segment of `spot`.
    async fn aim(&mut self, spot: &Spot<D::File>) -> Result<(), ReadError> {
        let sequence = spot.id.sequence;
        if self.window.aim(sequence, spot.offset) {
            return Ok(());
        }
        let oldest = self.wal.state.borrow().oldest_sequence();
        self.files.retain(|(sequence, _)| *sequence >= oldest);
        let known = self.files.iter().position(|(known, _)| *known == sequence);
        let file = match (known, &spot.file) {
            (Some(known), _) => self.files.remove(known).1,
            (None, Some(file)) => file.clone(),
            (None, None) => {
                let name = FileName::Segment(sequence).text();
                match self.wal.disk.open(&name, OpenMode::Existing).await {
                    Ok(file) => file,
                    Err(source) => return Err(self.failed(sequence, source)),
                }
            }
        };
        if self.files.len() >= READER_FILES_MAX {
            self.files.remove(0);
        }
        self.files.push((sequence, file.clone()));
        self.window.open(sequence, file, spot.offset);
        Ok(())
    }

    /// Reads and checks the batch at `offset` of the segment that the window looks at.
    async fn read(&mut self, spot: &Spot<D::File>, offset: u64) -> Result<Found, ReadError> {
        let (id, sequence) = (&spot.id, spot.id.sequence);
        let fetched = self.window.fetch(offset, BLOCK_BYTES, spot.limit).await;
        let Some(block) = fetched.map_err(|error| self.failed(sequence, error))? else {
            return Ok(Found::Damage);
        };
        let header: Result<BatchHeader, Flaw> = format::decode_batch_header(&block, id, offset);
        let Ok(header) = header else { return Ok(Found::Damage) };
        let padded = header.padded_bytes();
        if offset + padded as u64 > spot.limit {
            return Ok(Found::Damage);
        }
        drop(block);
        let fetched = self.window.fetch(offset, padded, spot.limit).await;
        let Some(bytes) = fetched.map_err(|error| self.failed(sequence, error))? else {
            return Ok(Found::Damage);
        };
        if !format::records_are_valid(&bytes, id, &header) {
            return Ok(Found::Damage);
        }
        let memory_bytes = self.window.memory_bytes(offset, padded);
        let bytes = bytes.slice(..header.bytes as usize);
        let (position, next, records) = (header.position, header.end(), header.records);
        Ok(Found::Batch(ColdBatch { position, next, bytes, records, memory_bytes }, header))
    }

    /// What to say of a place without a whole batch.
    async fn damaged(&mut self, spot: &Spot<D::File>) -> ReadError {
        if self.is_given_up(spot.id.sequence) {
            // The file may be in other use by now.
            return self.trimmed();
        }
        match self.damage_end(spot).await {
            Ok(to) => self.damage(spot, spot.lsn(), to),
            Err(error) => error,
        }
    }

    /// Where the next whole batch begins behind the one of `spot`.
    async fn damage_end(&mut self, spot: &Spot<D::File>) -> Result<Lsn, ReadError> {
        self.window.sequential = true;
        let mut offset = spot.offset.max(FIRST_BATCH_OFFSET) + BLOCK_BYTES as u64;
        while offset < spot.limit {
            if let Found::Batch(..) = self.read(spot, offset).await? {
                break;
            }
            offset += BLOCK_BYTES as u64;
        }
        Ok(spot.id.lsn(offset.min(spot.limit)))
    }

    fn damage(&mut self, spot: &Spot<D::File>, from: Lsn, to: Lsn) -> ReadError {
        self.window.forget();
        if self.is_given_up(spot.id.sequence) {
            return self.trimmed();
        }
        sometimes!(read_damage);
        let segment = FileName::Segment(spot.id.sequence).text();
        ReadError::Damaged { extent: Extent { segment, offset: spot.offset, from, to } }
    }

    /// What to say when the disk gives an error for segment `sequence`.
    fn failed(&mut self, sequence: u64, source: io::Error) -> ReadError {
        self.window.forget();
        if self.is_given_up(sequence) {
            return self.trimmed();
        }
        sometimes!(read_failed);
        ReadError::Io { file: FileName::Segment(sequence).text(), source }
    }

    fn trimmed(&mut self) -> ReadError {
        sometimes!(read_trimmed_under_reader);
        self.window.forget();
        ReadError::Trimmed { at: self.position }
    }

    fn is_given_up(&self, sequence: u64) -> bool {
        self.wal.state.borrow().is_given_up(sequence)
    }
}
