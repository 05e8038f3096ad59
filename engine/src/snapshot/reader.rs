//! [`Reader`]: gives the chunks of a snapshot, each held against its manifest.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use coracle_wal::{AlignedBuf, Disk, DiskFile, OpenMode, transfer};
use futures_util::StreamExt;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesOrdered;

use super::error::{Damage, ReadError};
use super::manifest::{padded, position};
use super::name::{FileName, Kind};
use super::store::{Pin, SnapshotStore};
use super::{Manifest, SnapshotId};
use crate::limits::SNAPSHOT_READS_IN_FLIGHT_MAX;

/// Reads the chunks of one snapshot, which it pins. Clones read the same open file.
///
/// Memory: 4 bytes per chunk; the buffers belong to the caller.
pub struct Reader<D: Disk> {
    source: Rc<Source<D::File>>,
    _pin: Rc<Pin>,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), _pin: self._pin.clone() }
    }
}

/// An open file of chunks and what should be in it.
pub(super) struct Source<F> {
    file: F,
    name: Arc<str>,
    manifest: Rc<Manifest>,
    places: Vec<u32>,
    buffer_bytes: usize,
}

impl<F: DiskFile> Source<F> {
    pub(super) fn new(file: F, manifest: Rc<Manifest>) -> Self {
        let name = FileName::new(manifest.id, Kind::Chunks).text().into();
        let (places, buffer_bytes) = (manifest.places(), manifest.buffer_bytes());
        Self { file, name, manifest, places, buffer_bytes }
    }

    /// Reads a chunk into the start of `buf`, which must be long enough for it with its padding, and checks it.
    pub(super) async fn read(
        &self,
        number: u32,
        buf: AlignedBuf,
    ) -> (Result<usize, ReadError>, AlignedBuf) {
        let Some(chunk) = self.manifest.chunks.get(number as usize) else {
            let (id, chunks) = (self.manifest.id, self.manifest.chunks.len());
            return (Err(ReadError::Unknown { id, number, chunks }), buf);
        };
        let len = chunk.bytes as usize;
        let offset = position(self.places[number as usize]);
        let expected = padded(len);
        assert!(expected <= buf.len(), "a chunk of {len} bytes in a buffer of {}", buf.len());
        let (result, buf) = transfer::read(&self.file, offset, buf, expected).await;
        let damaged =
            |damage| ReadError::Damaged { file: self.name.clone(), chunk: number, offset, damage };
        let checked = match result {
            Err(error) => Err(self.failed(number, offset, &error)),
            Ok(found) if found < expected => {
                sometimes!(snapshot_chunk_short);
                Err(damaged(Damage::Short { found, expected }))
            }
            Ok(_) => match crc32fast::hash(&buf[..len]) {
                found if found == chunk.checksum => Ok(len),
                found => {
                    sometimes!(snapshot_chunk_damaged);
                    Err(damaged(Damage::Checksum { found, expected: chunk.checksum }))
                }
            },
        };
        (checked, buf)
    }

    fn failed(&self, chunk: u32, offset: u64, error: &io::Error) -> ReadError {
        sometimes!(snapshot_read_failed);
        let (kind, message) = (error.kind(), error.to_string().into());
        ReadError::Io { file: self.name.clone(), chunk, offset, kind, message }
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// Opens a snapshot for reading and pins it.
    ///
    /// # Errors
    /// [`ReadError::Missing`], [`ReadError::Io`].
    pub async fn reader(&self, id: SnapshotId) -> Result<Reader<D>, ReadError> {
        let missing = || ReadError::Missing { id };
        let pin = self.pin(id).ok_or_else(missing)?;
        let manifest = self.manifest(id).ok_or_else(missing)?;
        let name = FileName::new(id, Kind::Chunks).text();
        let file = self.0.disk.open(&name, OpenMode::Existing).await.map_err(|error| {
            let (kind, message) = (error.kind(), error.to_string().into());
            ReadError::Io { file: name.into(), chunk: 0, offset: 0, kind, message }
        })?;
        Ok(Reader { source: Rc::new(Source::new(file, manifest)), _pin: Rc::new(pin) })
    }
}

impl<D: Disk> Reader<D> {
    /// What it reads.
    #[must_use]
    pub fn manifest(&self) -> &Rc<Manifest> {
        &self.source.manifest
    }

    /// Reads one chunk into a new buffer. The manifest says how many bytes of it are the chunk's.
    ///
    /// # Errors
    /// Any [`ReadError`] but [`ReadError::Missing`].
    pub async fn chunk(&self, number: u32) -> Result<AlignedBuf, ReadError> {
        let len = self.source.manifest.chunks.get(number as usize).map_or(1, |chunk| chunk.bytes);
        let (result, buf) = self.source.read(number, AlignedBuf::arbitrary(len as usize)).await;
        result.map(|_| buf)
    }

    /// Reads one chunk to the start of `buf` and gives its length; the bytes behind it are padding. Without a
    /// result, the content of `buf` is arbitrary.
    ///
    /// # Errors
    /// Any [`ReadError`] but [`ReadError::Missing`].
    ///
    /// # Panics
    /// If `buf` is shorter than the chunk with its padding; [`Manifest::buffer_bytes`] is enough for any.
    pub async fn read(
        &self,
        number: u32,
        buf: AlignedBuf,
    ) -> (Result<usize, ReadError>, AlignedBuf) {
        self.source.read(number, buf).await
    }

    /// Reads all chunks from number `from` on, several ahead.
    #[must_use]
    pub fn sequential(&self, from: u32) -> Sequential<D> {
        Sequential { ahead: Ahead::new(self.source.clone(), from), _pin: self._pin.clone() }
    }
}

impl<D: Disk> std::fmt::Debug for Reader<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("id", &self.source.manifest.id).finish_non_exhaustive()
    }
}

/// A chunk that was read.
#[derive(Debug)]
pub struct Piece {
    /// Its number.
    pub number: u32,
    /// It, and behind it padding.
    pub buf: AlignedBuf,
    /// Its length in bytes.
    pub len: usize,
}

impl Piece {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// Reads a snapshot from a chunk to its end, [`SNAPSHOT_READS_IN_FLIGHT_MAX`] ahead.
///
/// Memory: as many buffers of [`Manifest::buffer_bytes`] and the one that its owner has.
pub struct Sequential<D: Disk> {
    ahead: Ahead<D::File>,
    _pin: Rc<Pin>,
}

impl<D: Disk> Sequential<D> {
    /// The next chunk; `None` after the last one, and after an error.
    ///
    /// # Errors
    /// [`ReadError::Damaged`], [`ReadError::Io`].
    pub async fn next(&mut self) -> Option<Result<Piece, ReadError>> {
        let (number, result, buf) = self.ahead.next().await?;
        if result.is_err() {
            self.ahead.end();
        }
        Some(result.map(|len| Piece { number, buf, len }))
    }
}

impl<D: Disk> std::fmt::Debug for Sequential<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequential").field("next", &self.ahead.next).finish_non_exhaustive()
    }
}

type Read = (u32, Result<usize, ReadError>, AlignedBuf);

/// Reads of all chunks in order, several in flight.
pub(super) struct Ahead<F> {
    source: Rc<Source<F>>,
    in_flight: FuturesOrdered<LocalBoxFuture<'static, Read>>,
    /// The next chunk to ask for.
    next: u32,
    end: u32,
}

impl<F: DiskFile> Ahead<F> {
    pub(super) fn new(source: Rc<Source<F>>, from: u32) -> Self {
        let end = source.manifest.chunks.len() as u32;
        Self { source, in_flight: FuturesOrdered::new(), next: from, end }
    }

    pub(super) async fn next(&mut self) -> Option<Read> {
        while self.next < self.end && self.in_flight.len() < SNAPSHOT_READS_IN_FLIGHT_MAX {
            let (source, number) = (self.source.clone(), self.next);
            self.next += 1;
            let buf = AlignedBuf::arbitrary(source.buffer_bytes);
            let read = async move {
                let (result, buf) = source.read(number, buf).await;
                (number, result, buf)
            };
            self.in_flight.push_back(read.boxed_local());
        }
        self.in_flight.next().await
    }

    fn end(&mut self) {
        self.next = self.end;
        self.in_flight.clear();
    }
}
