//! The request decoder: incremental, bounded, and without copies.

use thiserror::Error;

use super::inline;
use super::number::parse_i64;
use crate::server::limits::{ARGS_MAX, BULK_BYTES_MAX, LINE_BYTES_MAX, REQUEST_BYTES_MAX};

/// The stream is not RESP, or breaks a limit. The connection gets the text and is closed, because
/// the start of the next request can't be known.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// An inline request without an end.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// Quotes that are not closed, or closed inside a word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The line with the number of arguments has no end.
    #[error("Protocol error: too big mbulk count string")]
    CountLineTooLong,
    /// The number of arguments is not a number or too large.
    #[error("Protocol error: invalid multibulk length")]
    BadCount,
    /// An argument does not start with `$`.
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// The line with an argument's length has no end.
    #[error("Protocol error: too big bulk count string")]
    LengthLineTooLong,
    /// The length of an argument is not a number or above the limit.
    #[error("Protocol error: invalid bulk length")]
    BadLength,
    /// A line or an argument does not end with CRLF.
    #[error("Protocol error: expected CRLF")]
    ExpectedCrlf,
    /// All arguments together are above the limit.
    #[error("Protocol error: too big request")]
    RequestTooLong,
}

/// Where one argument lies, from the start of its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// The arguments of one request; the first is the command's name.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    source: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// How many there are. Zero for an empty request, which gets no reply.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`; `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| &self.source[span.start as usize..span.end as usize])
    }

    /// The arguments from `first` on.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { source: self.source, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// All arguments in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let source = self.source;
        self.spans.iter().map(move |span| &source[span.start as usize..span.end as usize])
    }
}

impl std::ops::Index<usize> for Args<'_> {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        let span = self.spans[index];
        &self.source[span.start as usize..span.end as usize]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Length,
    Body { bytes: usize },
}

/// Decodes one request after the other from a growing buffer.
///
/// Call [`Decoder::decode`] with the buffer from the start of the current request on, again and
/// again as it grows; it remembers how far it has got. When it yields a request, look at
/// [`Decoder::args`] with the same buffer, then pass what follows the request.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    position: usize,
    searched: usize,
    missing: usize,
    spans: Vec<Span>,
    inline: Option<Vec<u8>>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Start,
            position: 0,
            searched: 0,
            missing: 0,
            spans: Vec::new(),
            inline: None,
        }
    }

    /// Looks for a whole request at the start of `buffer`; gives its length in bytes.
    ///
    /// # Errors
    /// [`ProtocolError`] when the stream can't be understood; the decoder is of no use afterwards.
    pub fn decode(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.state == State::Start && self.position == 0 && self.searched == 0 {
            self.spans.clear();
            self.inline = None;
        }
        loop {
            let go_on = match self.state {
                State::Start => match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => self.count(buffer)?,
                    Some(_) => return self.inline(buffer),
                },
                State::Length => self.length(buffer)?,
                State::Body { bytes } => self.body(buffer, bytes)?,
            };
            if self.state == State::Length && self.missing == 0 {
                return Ok(Some(self.finish()));
            }
            if !go_on {
                return Ok(None);
            }
        }
    }

    /// The arguments of the request that [`Decoder::decode`] has just found in `buffer`.
    #[must_use]
    pub fn args<'a>(&'a self, buffer: &'a [u8]) -> Args<'a> {
        Args { source: self.inline.as_deref().unwrap_or(buffer), spans: &self.spans }
    }

    /// How many bytes from the start of the request are needed before it can go on; a hint for the
    /// size of the receive buffer.
    #[must_use]
    pub fn needed(&self) -> usize {
        match self.state {
            State::Body { bytes } => self.position + bytes + 2,
            _ => self.position + 1,
        }
    }

    /// Gives back memory after an unusually long request.
    pub fn trim(&mut self) {
        if self.spans.capacity() > 1024 && self.state == State::Start {
            self.spans = Vec::new();
            self.inline = None;
        }
    }

    fn finish(&mut self) -> usize {
        let bytes = self.position;
        self.state = State::Start;
        self.position = 0;
        self.searched = 0;
        bytes
    }

    fn count(&mut self, buffer: &[u8]) -> Result<bool, ProtocolError> {
        let Some(line) = self.line(buffer, ProtocolError::CountLineTooLong)? else {
            return Ok(false);
        };
        let count = parse_i64(&buffer[line]).ok_or(ProtocolError::BadCount)?;
        if count > ARGS_MAX as i64 {
            return Err(ProtocolError::BadCount);
        }
        self.missing = usize::try_from(count).unwrap_or(0);
        self.state = State::Length;
        Ok(true)
    }

    fn length(&mut self, buffer: &[u8]) -> Result<bool, ProtocolError> {
        match buffer.get(self.position) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
        }
        let Some(line) = self.line(buffer, ProtocolError::LengthLineTooLong)? else {
            return Ok(false);
        };
        let bytes = parse_i64(&buffer[line])
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes <= BULK_BYTES_MAX)
            .ok_or(ProtocolError::BadLength)?;
        if self.position + bytes + 2 > REQUEST_BYTES_MAX {
            return Err(ProtocolError::RequestTooLong);
        }
        self.state = State::Body { bytes };
        Ok(true)
    }

    fn body(&mut self, buffer: &[u8], bytes: usize) -> Result<bool, ProtocolError> {
        let end = self.position + bytes;
        let Some(terminator) = buffer.get(end..end + 2) else { return Ok(false) };
        if terminator != b"\r\n" {
            return Err(ProtocolError::ExpectedCrlf);
        }
        // Both fit: a request is shorter than REQUEST_BYTES_MAX, which is checked against u32.
        self.spans.push(Span { start: self.position as u32, end: end as u32 });
        self.position = end + 2;
        self.searched = self.position;
        self.missing -= 1;
        self.state = State::Length;
        Ok(true)
    }

    /// The text between the type byte at `position` and the next CRLF, which is then passed.
    fn line(
        &mut self,
        buffer: &[u8],
        too_long: ProtocolError,
    ) -> Result<Option<std::ops::Range<usize>>, ProtocolError> {
        let start = self.position + 1;
        let from = self.searched.max(start);
        let found = buffer.get(from..).and_then(|rest| memchr::memchr(b'\r', rest));
        let end = found.map_or(buffer.len(), |offset| from + offset);
        if end.saturating_sub(start) > LINE_BYTES_MAX {
            return Err(too_long);
        }
        self.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        match buffer.get(end + 1) {
            None => Ok(None),
            Some(b'\n') => {
                self.position = end + 2;
                self.searched = self.position;
                Ok(Some(start..end))
            }
            Some(_) => Err(ProtocolError::ExpectedCrlf),
        }
    }

    fn inline(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let found = memchr::memchr(b'\n', &buffer[self.searched..]);
        let end = found.map_or(buffer.len(), |offset| self.searched + offset);
        if end > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooLong);
        }
        self.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
        let mut words = Vec::with_capacity(line.len());
        inline::split(line, &mut words, &mut self.spans).ok_or(ProtocolError::UnbalancedQuotes)?;
        self.inline = Some(words);
        self.position = end + 1;
        Ok(Some(self.finish()))
    }
}
