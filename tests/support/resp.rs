//! One blocking RESP2 connection.

use std::fmt;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+`
    Simple(String),
    /// `-`
    Error(String),
    /// `:`
    Int(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1` or `*-1`
    Nil,
    /// `*`
    Array(Vec<Reply>),
}

impl Reply {
    /// The error text, if this is an error.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of a bulk or simple string as text; `None` for anything else.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Simple(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) | Self::Error(text) => f.write_str(text),
            Self::Int(number) => write!(f, "{number}"),
            Self::Bulk(bytes) => write!(f, "{}", String::from_utf8_lossy(bytes)),
            Self::Nil => f.write_str("(nil)"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
        }
    }
}

/// A connection. After an error it is of no more use: a late reply could be taken for the next one.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; each later send and each wait for a reply takes at most `timeout`.
    pub fn open(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a command and waits for its reply.
    pub fn call(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.send(words)?;
        self.reply()
    }

    /// Sends a command given as text with spaces between its words.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.call(&words)
    }

    /// Sends a command.
    pub fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        self.send_raw(&encode(words))
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The same connection once more, for a thread that sends while another waits for replies.
    pub fn sender(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().try_clone()
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.get_mut().shutdown(std::net::Shutdown::Write)
    }

    /// Reads until the other side closes, or resets, the connection; gives what it sent. Panics when
    /// the connection stays open for longer than its timeout without a byte.
    #[track_caller]
    pub fn drain_lossy(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the server keeps the connection open; it sent {} bytes", bytes.len())
            }
            _ => bytes,
        }
    }

    /// Waits for a reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        decode(&mut self.stream)
    }
}

/// A command as an array of bulk strings.
pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Reads one reply.
pub fn decode(from: &mut impl io::BufRead) -> io::Result<Reply> {
    let line = read_line(from)?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| invalid("an empty line"))?;
    match kind {
        "+" => Ok(Reply::Simple(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        ":" => Ok(Reply::Int(number(rest)?)),
        "$" => match number(rest)? {
            -1 => Ok(Reply::Nil),
            length => read_bulk(from, length),
        },
        "*" => match number(rest)? {
            -1 => Ok(Reply::Nil),
            count => (0..count).map(|_| decode(from)).collect::<io::Result<_>>().map(Reply::Array),
        },
        _ => Err(invalid(&line)),
    }
}

fn read_line(from: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the server closed the connection",
        ));
    }
    let text = line.strip_suffix(b"\r\n").ok_or_else(|| invalid("a line without its end"))?;
    String::from_utf8(text.to_vec()).map_err(|_| invalid("a line that is not UTF-8"))
}

fn read_bulk(from: &mut impl io::BufRead, length: i64) -> io::Result<Reply> {
    let length = usize::try_from(length).map_err(|_| invalid("a negative length"))?;
    let mut bytes = vec![0; length + 2];
    from.read_exact(&mut bytes)?;
    if bytes.split_off(length) != b"\r\n" {
        return Err(invalid("a bulk string without its end"));
    }
    Ok(Reply::Bulk(bytes))
}

fn number(text: &str) -> io::Result<i64> {
    text.parse().map_err(|_| invalid(text))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP2: {what}"))
}
