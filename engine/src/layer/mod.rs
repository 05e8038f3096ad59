//! What state machines around other ones share: snapshots of both in one stream, and numbers as LEB128.
//!
//! The outer machine's state comes first, as an *image* in chunks of its own; then the chunks of the inner machine, as
//! it filled them.
//!
//! ```text
//! image = record ... | crc32 u32 LE          the first record begins with the magic, and is in the first chunk
//! ```
//! A record may go over several chunks; the checksum is of all records. What the records are, the outer machine knows
//! ([`Records`], [`Parse`]).

pub(crate) mod fields;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod varint;

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use self::varint::Taken;
use crate::snapshot::ChunkSink;
use crate::{Apply, Restore, SnapshotError, SnapshotStream, StateMachine};

const CRC_BYTES: usize = 4;

/// The records of an image, one by one, as of the moment when this was made.
pub(crate) trait Records: 'static {
    /// Appends the next record to `out`, which is empty. False if there is none.
    fn next(&mut self, out: &mut Vec<u8>) -> bool;
}

/// A record is not there as a whole.
pub(crate) struct CutOff;

/// Makes a state of the records of an image.
pub(crate) trait Parse: Default {
    /// What the first record begins with.
    const MAGIC: &'static [u8; 4];
    /// What messages call it.
    const NAME: &'static str;
    /// What becomes of it; empty by default.
    type State: Default + PartialEq;

    /// Reads one record, all of it or nothing.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if it is none.
    fn record(&mut self, rest: &mut &[u8]) -> Result<Result<(), CutOff>, SnapshotError>;

    /// Whether all records were read.
    fn is_whole(&self) -> bool;

    /// What was read.
    fn finish(&mut self) -> Self::State;

    /// An error.
    fn damaged(what: &str) -> SnapshotError {
        SnapshotError::Damaged(format!("{}: {what}", Self::NAME))
    }

    /// Takes a number.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if it is none.
    fn number(rest: &mut &[u8]) -> Result<Result<u64, CutOff>, SnapshotError> {
        match varint::take(rest) {
            Taken::Number(number) => Ok(Ok(number)),
            Taken::CutOff => Ok(Err(CutOff)),
            Taken::Wrong => Err(Self::damaged("a number is not in its shortest form")),
        }
    }
}

/// Takes a number of a record, or returns that the record is cut off.
macro_rules! take {
    ($rest:expr) => {
        match <Self as $crate::layer::Parse>::number($rest)? {
            Ok(number) => number,
            Err(cut_off) => return Ok(Err(cut_off)),
        }
    };
}
pub(crate) use take;

/// An image on its way into chunks.
pub(crate) struct ImageWriter<R> {
    records: R,
    /// What is encoded and in no chunk yet: one record at most.
    pending: Vec<u8>,
    written: usize,
    is_begun: bool,
    has_crc: bool,
    crc: crc32fast::Hasher,
}

impl<R: Records> ImageWriter<R> {
    pub(crate) fn new(records: R) -> Self {
        Self {
            records,
            pending: Vec::new(),
            written: 0,
            is_begun: false,
            has_crc: false,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Writes until the chunk is full or all is written. Returns whether more is to come.
    pub(crate) fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        if !self.is_begun {
            self.next_record();
            chunk.put(&self.pending)?;
            self.pending.clear();
            self.is_begun = true;
        }
        loop {
            let rest = &self.pending[self.written..];
            self.written += chunk.put_some(&rest[..rest.len().min(chunk.until_full())]);
            if self.written < self.pending.len() {
                return Ok(true);
            }
            self.pending.clear();
            self.written = 0;
            if self.has_crc {
                return Ok(false);
            }
            self.next_record();
        }
    }

    fn next_record(&mut self) {
        if self.records.next(&mut self.pending) {
            self.crc.update(&self.pending);
        } else {
            self.pending.put_u32_le(self.crc.clone().finalize());
            self.has_crc = true;
        }
    }
}

/// An image on its way out of chunks.
#[derive(Debug, Default)]
pub(crate) struct ImageReader<P> {
    parse: P,
    /// The beginning of a record whose rest is in the next chunk.
    pending: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl<P: Parse> ImageReader<P> {
    /// Takes the next chunk; the one that ends the image gives the state.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) -> Result<Option<P::State>, SnapshotError> {
        let mut pending = std::mem::take(&mut self.pending);
        let all = match pending.is_empty() {
            true => chunk,
            false => {
                pending.extend_from_slice(chunk);
                &pending
            }
        };
        let mut rest = all;
        loop {
            if self.parse.is_whole() {
                return self.end(rest);
            }
            let mut behind = rest;
            match self.parse.record(&mut behind)? {
                Ok(()) => {
                    self.crc.update(&rest[..rest.len() - behind.len()]);
                    rest = behind;
                }
                Err(CutOff) => {
                    self.pending = rest.to_vec();
                    return Ok(None);
                }
            }
        }
    }

    fn end(&mut self, mut rest: &[u8]) -> Result<Option<P::State>, SnapshotError> {
        if rest.len() < CRC_BYTES {
            self.pending = rest.to_vec();
            return Ok(None);
        }
        if rest.get_u32_le() != self.crc.clone().finalize() {
            return Err(P::damaged("the checksum is wrong"));
        }
        match rest.is_empty() {
            true => Ok(Some(self.parse.finish())),
            false => Err(P::damaged("something follows the end")),
        }
    }
}

/// Gives a payload to an inner machine, with its reply behind what `reply` has. Returns where that begins.
pub(crate) fn pass(
    inner: &mut impl StateMachine,
    entry: Apply<'_>,
    payload: &Bytes,
    reply: &mut BytesMut,
) -> usize {
    let start = reply.len();
    // The machine wants an empty buffer; it gets the room behind, so that nothing is copied.
    let mut own = reply.split_off(start);
    inner.apply(Apply { payload, ..entry }, &mut own);
    reply.unsplit(own);
    start
}

/// Snapshots of a machine around another one.
#[derive(Debug)]
pub(crate) struct Layers<P> {
    /// Whether snapshots without an image of the outer machine belong to the inner one.
    takes_bare: bool,
    restoring: Restoring<P>,
    /// Restorations so far; a stream of an earlier count has failed.
    restorations: Rc<Cell<u64>>,
}

/// How far a restoration is.
#[derive(Debug)]
enum Restoring<P> {
    No,
    /// No chunk has come.
    Begun,
    Outer(Box<ImageReader<P>>),
    Inner,
}

impl<P: Parse> Layers<P> {
    /// With `takes_bare`, a snapshot without an image of the outer machine belongs to the inner one, and such are taken
    /// as long as the outer one has no state: others that know nothing of it can read them.
    pub(crate) fn new(takes_bare: bool) -> Self {
        Self { takes_bare, restoring: Restoring::No, restorations: Rc::default() }
    }

    /// See [`Layers::new`].
    pub(crate) fn takes_bare(&self) -> bool {
        self.takes_bare
    }

    /// A snapshot of the outer machine, whose state is made of these records, and of the inner one.
    pub(crate) fn snapshot<R: Records>(
        &self,
        outer: &P::State,
        records: impl FnOnce(&P::State) -> R,
        inner: &mut impl StateMachine,
    ) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        let inner = inner.snapshot()?;
        if self.takes_bare && *outer == P::State::default() {
            return Ok(inner);
        }
        let outer = Some(ImageWriter::new(records(outer)));
        let restorations = self.restorations.clone();
        let begun_at = restorations.get();
        Ok(Box::new(Stream { outer, inner, restorations, begun_at }))
    }

    /// Takes a step of a restoration. `outer` is empty from its beginning on, until its image has come to its end.
    pub(crate) fn restore(
        &mut self,
        part: Restore<'_>,
        outer: &mut P::State,
        inner: &mut impl StateMachine,
    ) -> Result<(), SnapshotError> {
        let early = || SnapshotError::Damaged("its chunks come without a beginning".to_owned());
        match part {
            Restore::Begin => {
                self.restorations.set(self.restorations.get() + 1);
                self.restoring = Restoring::Begun;
                *outer = P::State::default();
                inner.restore(part)
            }
            Restore::Chunk(chunk) => {
                if matches!(self.restoring, Restoring::Begun) {
                    self.restoring = match self.takes_bare && !chunk.starts_with(P::MAGIC) {
                        true => Restoring::Inner,
                        false => Restoring::Outer(Box::default()),
                    };
                }
                match &mut self.restoring {
                    Restoring::No | Restoring::Begun => Err(early()),
                    Restoring::Inner => inner.restore(part),
                    Restoring::Outer(reader) => {
                        if let Some(state) = reader.chunk(chunk)? {
                            self.restoring = Restoring::Inner;
                            *outer = state;
                        }
                        Ok(())
                    }
                }
            }
            Restore::End => match std::mem::replace(&mut self.restoring, Restoring::No) {
                Restoring::Inner => inner.restore(part),
                // An image of nothing, from before there was an outer machine.
                Restoring::Begun if self.takes_bare => inner.restore(part),
                Restoring::No => Err(early()),
                Restoring::Begun | Restoring::Outer(_) => {
                    Err(P::damaged("the snapshot ends before them"))
                }
            },
        }
    }
}

/// The outer machine, then the inner one.
struct Stream<R> {
    outer: Option<ImageWriter<R>>,
    inner: Box<dyn SnapshotStream>,
    restorations: Rc<Cell<u64>>,
    begun_at: u64,
}

impl<R: Records> SnapshotStream for Stream<R> {
    fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        if self.restorations.get() != self.begun_at {
            return Err(SnapshotError::Abandoned("another state was restored".to_owned()));
        }
        match &mut self.outer {
            Some(outer) => {
                if !outer.fill(chunk)? {
                    self.outer = None;
                }
                Ok(true)
            }
            None => self.inner.fill(chunk),
        }
    }
}
