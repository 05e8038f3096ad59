//! Connections to RESP servers: a nonblocking one for load, a blocking one for control commands.
//!
//! [`Connection`] keeps, for every command it has sent, a tag of the caller's choice, and hands it
//! back with the command's reply: RESP answers in order. In the steady state a call of
//! [`Connection::send`] is one `write`, a call of [`Connection::receive`] is one `read`, and neither
//! allocates: bytes live in the caller's scratch buffers unless the kernel splits a message.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use thiserror::Error;

use super::resp::{self, Reply, RespError};

/// Why a connection is of no use any more. What it had in flight has an unknown outcome.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The operating system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The server sent something that is not RESP.
    #[error(transparent)]
    Protocol(#[from] RespError),
    /// The server sent a reply that nothing had asked for.
    #[error("the server sent a reply without a command")]
    Unasked,
}

/// A nonblocking connection with `T` as the tag of each command in flight.
#[derive(Debug)]
pub struct Connection<T> {
    stream: TcpStream,
    /// Whether the connect is complete.
    open: bool,
    /// What the kernel did not take yet.
    unsent: Vec<u8>,
    /// The start of a reply whose rest has not arrived.
    partial: Vec<u8>,
    in_flight: VecDeque<T>,
}

impl<T> Connection<T> {
    /// Starts to connect to `address`; events come under `token`. Usable once
    /// [`Connection::on_writable`] has returned `true`.
    ///
    /// # Errors
    /// What the operating system refuses at once.
    pub fn connect(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            open: false,
            unsent: Vec::new(),
            partial: Vec::new(),
            in_flight: VecDeque::new(),
        })
    }

    /// Whether the connect is complete.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The tags of the commands in flight, oldest first.
    pub fn in_flight(&self) -> &VecDeque<T> {
        &self.in_flight
    }

    /// Gives up the connection; returns the tags of what was in flight.
    pub fn into_in_flight(self) -> VecDeque<T> {
        self.in_flight
    }

    /// Call when the socket is writable: completes the connect, sends what was left over.
    /// Returns whether the connection is open.
    ///
    /// # Errors
    /// The connect failed, or the connection did.
    pub fn on_writable(&mut self) -> Result<bool, ConnectionError> {
        if !self.open {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            match self.stream.peer_addr() {
                Ok(_) => self.open = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let taken = write_some(&mut self.stream, &self.unsent)?;
        self.unsent.drain(..taken);
        Ok(true)
    }

    /// Sends encoded commands; `tags` has one tag for each of them, in order.
    ///
    /// # Errors
    /// The connection failed. The tags are in flight all the same: part of it may have left.
    pub fn send(
        &mut self,
        commands: &[u8],
        tags: impl Iterator<Item = T>,
    ) -> Result<(), ConnectionError> {
        self.in_flight.extend(tags);
        let taken = if self.open && self.unsent.is_empty() {
            write_some(&mut self.stream, commands)?
        } else {
            0
        };
        self.unsent.extend_from_slice(&commands[taken..]);
        Ok(())
    }

    /// Reads what has arrived, through `scratch`, and gives every complete reply with its tag to
    /// `on_reply`. `until_end`: the socket reported its end, so read up to it.
    ///
    /// # Errors
    /// The connection failed or ended; replies that came before that were given out.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        until_end: bool,
        mut on_reply: impl FnMut(T, Reply<'_>),
    ) -> Result<(), ConnectionError> {
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.take_replies(&scratch[..count], &mut on_reply)?;
            // epoll(7), edge-triggered: a short read of a stream socket says that it is drained.
            if count < scratch.len() && !until_end {
                return Ok(());
            }
        }
    }

    fn take_replies(
        &mut self,
        arrived: &[u8],
        on_reply: &mut impl FnMut(T, Reply<'_>),
    ) -> Result<(), ConnectionError> {
        if self.partial.is_empty() {
            let used = give_out(arrived, &mut self.in_flight, on_reply)?;
            self.partial.extend_from_slice(&arrived[used..]);
        } else {
            self.partial.extend_from_slice(arrived);
            let used = give_out(&self.partial, &mut self.in_flight, on_reply)?;
            self.partial.drain(..used);
        }
        Ok(())
    }
}

/// Gives out all complete replies in `bytes`; returns how many bytes they take.
fn give_out<T>(
    bytes: &[u8],
    in_flight: &mut VecDeque<T>,
    on_reply: &mut impl FnMut(T, Reply<'_>),
) -> Result<usize, ConnectionError> {
    let mut used = 0;
    while let Some((reply, len)) = resp::parse(&bytes[used..])? {
        let tag = in_flight.pop_front().ok_or(ConnectionError::Unasked)?;
        on_reply(tag, reply);
        used += len;
    }
    Ok(used)
}

/// Writes as much as the kernel takes now.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// A blocking connection for the few commands that control a run. Every call has a time limit.
#[derive(Debug)]
pub struct ControlConnection {
    stream: std::net::TcpStream,
    received: Vec<u8>,
    timeout: Duration,
}

impl ControlConnection {
    /// Connects to `address`; `timeout` holds for this and for each later call.
    ///
    /// # Errors
    /// What the operating system says, or a timeout.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, received: Vec::new(), timeout })
    }

    /// Sends one command and gives its reply to `read`.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no further use.
    pub fn call<R>(
        &mut self,
        command: &[&[u8]],
        read: impl FnOnce(&Reply<'_>) -> R,
    ) -> Result<R, ConnectionError> {
        let mut bytes = Vec::new();
        resp::encode_command(&mut bytes, command);
        self.stream.write_all(&bytes)?;
        self.received.clear();
        let deadline = Instant::now() + self.timeout;
        let mut scratch = [0u8; 16 << 10];
        loop {
            if let Some((reply, _)) = resp::parse(&self.received)? {
                return Ok(read(&reply));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut scratch) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(count) => self.received.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
