//! The reply writer: each value in the form of the connection's protocol.

use bytes::{BufMut, BytesMut};

/// The version of RESP that a connection speaks. It starts with 2 and changes with `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2.
    #[default]
    Resp2,
    /// RESP3.
    Resp3,
}

impl Protocol {
    /// Its number in `HELLO` and in client listings.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    protocol: Protocol,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut BytesMut, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The protocol it writes.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Bytes in the buffer so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.out.len()
    }

    /// Drops what was written after the buffer had `bytes` bytes.
    pub fn rewind(&mut self, bytes: usize) {
        self.out.truncate(bytes);
    }

    fn length(&mut self, kind: u8, number: usize) {
        self.out.put_u8(kind);
        self.out.put_slice(itoa::Buffer::new().format(number).as_bytes());
        self.out.put_slice(b"\r\n");
    }

    /// `+text`
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// `-text`; the text starts with the error's code, such as `ERR`. Line ends in it become spaces.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.out.put_u8(kind);
        let clean = |byte: u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
        self.out.extend(text.bytes().map(clean));
        self.out.put_slice(b"\r\n");
    }

    /// `:number`
    pub fn integer(&mut self, number: i64) {
        self.out.put_u8(b':');
        self.out.put_slice(itoa::Buffer::new().format(number).as_bytes());
        self.out.put_slice(b"\r\n");
    }

    /// `:count`
    pub fn count(&mut self, count: usize) {
        self.length(b':', count);
    }

    /// `$5\r\nbytes\r\n`
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 24);
        self.length(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// A bulk string of text.
    pub fn text(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }

    /// A number as a bulk string.
    pub fn bulk_integer(&mut self, number: i64) {
        self.bulk(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Text that is meant for people: a verbatim string in RESP3.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.text(text),
            Protocol::Resp3 => {
                self.length(b'=', text.len() + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    /// No value.
    pub fn null(&mut self) {
        self.out.put_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The head of an array of `count` values, which follow.
    pub fn array(&mut self, count: usize) {
        self.length(b'*', count);
    }

    /// The head of a map of `count` pairs, which follow; a flat array in RESP2.
    pub fn map(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', count * 2),
            Protocol::Resp3 => self.length(b'%', count),
        }
    }

    /// The head of a set of `count` values, which follow; an array in RESP2.
    pub fn set(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', count),
            Protocol::Resp3 => self.length(b'~', count),
        }
    }

    /// A truth value; 1 or 0 in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match self.protocol {
            Protocol::Resp2 => self.integer(i64::from(value)),
            Protocol::Resp3 => self.out.put_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A floating-point number; a bulk string in RESP2.
    pub fn double(&mut self, number: f64) {
        let text = number.to_string();
        match self.protocol {
            Protocol::Resp2 => self.text(&text),
            Protocol::Resp3 => self.line(b',', &text),
        }
    }

    /// Bytes that are a complete reply already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }
}
