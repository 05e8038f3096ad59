//! TCP streams and listeners of a core.
//!
//! Both directions try the system call at once and wait only when it would block. The runtime waits;
//! the transfers themselves are done here on the raw descriptor, because the runtime has neither a
//! gather write nor a read into uninitialised memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle_engine::env::{Listener, StreamReader, StreamWriter, no_such_place, place_in};
use coracle_wal::AlignedBuf;
use futures_util::StreamExt;
use futures_util::io::{AsyncRead, AsyncWrite};
use futures_util::stream::FuturesUnordered;
use glommio::GlommioError;
use glommio::net::TcpStream;

use super::resolve::parse;

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;
/// Slices in one gather write; the kernel's limit is 1,024, and the array lives on the stack.
const GATHER_MAX: usize = 64;
/// What a read takes from the runtime's own look at the socket before it reads the rest itself.
const SCRATCH_BYTES: usize = 512;
/// Pauses after an accept that failed for want of descriptors or memory: first and longest.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A connected socket, shared by its two halves.
struct Socket {
    stream: RefCell<TcpStream>,
    fd: RawFd,
}

impl Socket {
    fn halves(stream: TcpStream) -> io::Result<(TcpReader, TcpWriter)> {
        stream.set_nodelay(true).map_err(io_error)?;
        let fd = stream.as_raw_fd();
        let socket = Rc::new(Self { stream: RefCell::new(stream), fd });
        Ok((TcpReader { socket: socket.clone(), drained: false }, TcpWriter { socket }))
    }

    fn shutdown(&self) {
        // SAFETY: `fd` is open as long as `self`. An error means that the peer was first.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A pending wait of the runtime holds the socket open in the kernel; tell the peer now.
        self.shutdown();
    }
}

/// The receiving half of a TCP connection.
pub struct TcpReader {
    socket: Rc<Socket>,
    /// The last read took all there was: wait before trying again.
    drained: bool,
}

impl TcpReader {
    /// Receives to the start of `room`, which is not empty. 0 is the end of the stream.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [MaybeUninit<u8>],
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.drained {
                match receive(self.socket.fd, room) {
                    Err(error) if would_wait(&error) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                    Ok(count) => {
                        self.drained = count < room.len();
                        return Poll::Ready(Ok(count));
                    }
                }
            }
            // Waits for readability. The runtime has no call for just that: it reads a little.
            let mut scratch = [0; SCRATCH_BYTES];
            let most = scratch.len().min(room.len());
            let read = {
                let mut stream = self.socket.stream.borrow_mut();
                Pin::new(&mut *stream).poll_read(cx, &mut scratch[..most])
            };
            let count = match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) if would_wait(&error) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(count)) => count,
            };
            for (to, from) in room.iter_mut().zip(&scratch[..count]) {
                to.write(*from);
            }
            self.drained = count < most;
            if self.drained || count == 0 || count == room.len() {
                return Poll::Ready(Ok(count));
            }
            // More than the scratch held: take the rest in the same turn.
            return match receive(self.socket.fd, &mut room[count..]) {
                Ok(more) => {
                    self.drained = more < room.len() - count;
                    Poll::Ready(Ok(count + more))
                }
                Err(_) => Poll::Ready(Ok(count)), // shows itself at the next read
            };
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        let polled = self.poll_receive(cx, buf.spare_capacity_mut());
        if let Poll::Ready(Ok(count)) = &polled {
            // SAFETY: `count` bytes at the start of the spare capacity were written.
            unsafe { buf.advance_mut(*count) };
        }
        polled
    }

    /// Receives until `place` is full.
    async fn fill(&mut self, mut place: &mut [u8]) -> io::Result<()> {
        while !place.is_empty() {
            let count = poll_fn(|cx| {
                let len = place.len();
                // SAFETY: the same bytes, seen as ones that may be written and need not be read; only
                // whole bytes are written to them.
                let room = unsafe {
                    std::slice::from_raw_parts_mut(
                        place.as_mut_ptr().cast::<MaybeUninit<u8>>(),
                        len,
                    )
                };
                self.poll_receive(cx, room)
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            place = &mut place[count..];
        }
        Ok(())
    }
}

impl StreamReader for TcpReader {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() == buf.len() {
            let message = "a read into a buffer without spare capacity";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Without a copy: the kernel writes to the buffer, but for the few bytes by which readability is
    /// waited for.
    async fn read_aligned(
        &mut self,
        mut buf: AlignedBuf,
        at: usize,
        len: usize,
    ) -> (io::Result<()>, AlignedBuf) {
        let result = match place_in(&mut buf, at, len) {
            Some(place) => self.fill(place).await,
            None => Err(no_such_place(&buf, at, len)),
        };
        (result, buf)
    }
}

/// The sending half of a TCP connection.
pub struct TcpWriter {
    socket: Rc<Socket>,
}

impl StreamWriter for TcpWriter {
    async fn write_all(&mut self, bufs: &mut Vec<Bytes>) -> io::Result<()> {
        let mut first = 0;
        loop {
            while bufs.get(first).is_some_and(Bytes::is_empty) {
                first += 1;
            }
            if first == bufs.len() {
                bufs.clear();
                return Ok(());
            }
            let sent = match send(self.socket.fd, &bufs[first..]) {
                Err(error) if would_wait(&error) => {
                    // The receiver is slow: the runtime waits and sends some of the first slice.
                    let slice = &bufs[first];
                    poll_fn(|cx| {
                        let mut stream = self.socket.stream.borrow_mut();
                        Pin::new(&mut *stream).poll_write(cx, slice)
                    })
                    .await?
                }
                sent => sent?,
            };
            first += advance(&mut bufs[first..], sent);
        }
    }

    fn shutdown(&mut self) {
        self.socket.shutdown();
    }
}

/// Drops `sent` bytes from the front of `bufs`; returns how many of them are now empty.
fn advance(bufs: &mut [Bytes], mut sent: usize) -> usize {
    let mut done = 0;
    for buf in bufs {
        let count = sent.min(buf.len());
        buf.advance(count);
        sent -= count;
        if !buf.is_empty() {
            break;
        }
        done += 1;
    }
    done
}

/// Receives TCP connections at one address.
pub struct TcpListener {
    listener: glommio::net::TcpListener,
    address: SocketAddr,
}

impl TcpListener {
    /// Listens at `ip:port`; port 0 takes a free one, see [`TcpListener::address`].
    pub(super) fn bind(address: &str) -> io::Result<Self> {
        let wanted = parse(address)?;
        let explain = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another process has the port: stop it or take another"
                }
                io::ErrorKind::AddrNotAvailable => "; the address is not one of this machine",
                io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot listen at {wanted}: {error}{hint}"))
        };
        // The standard library sets SO_REUSEADDR, so that a restart need not wait for old
        // connections; and not SO_REUSEPORT, so that a second server is refused.
        let listener = std::net::TcpListener::bind(wanted).map_err(explain)?;
        let address = listener.local_addr().map_err(explain)?;
        // SAFETY: an open listening socket; listening again only sets the backlog.
        if unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } < 0 {
            return Err(explain(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is a listening socket and handed over here.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
        Ok(Self { listener, address })
    }

    /// The address listened at, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for TcpListener {
    type Reader = TcpReader;
    type Writer = TcpWriter;

    /// Never fails for a want of descriptors or memory: it waits until there are some.
    async fn accept(&self) -> io::Result<(TcpReader, TcpWriter, String)> {
        let mut pause = ACCEPT_PAUSE_MIN;
        loop {
            let error = match alone(self.listener.accept()).await.map_err(io_error) {
                Ok(stream) => {
                    let peer = stream.peer_addr();
                    match (peer.map_err(io_error), Socket::halves(stream)) {
                        (Ok(peer), Ok((reader, writer))) => {
                            return Ok((reader, writer, peer.to_string()));
                        }
                        _ => continue, // gone before we looked at it
                    }
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    tracing::warn!(%error, at = %self.address, "cannot accept a connection; waiting");
                    glommio::timer::sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
                // Errors of the connection, not of the listener; accept(2) says to go on.
                Some(
                    libc::ECONNABORTED
                    | libc::EINTR
                    | libc::EAGAIN
                    | libc::EPROTO
                    | libc::EPERM
                    | libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::EHOSTDOWN
                    | libc::EHOSTUNREACH
                    | libc::ENONET
                    | libc::ENOPROTOOPT
                    | libc::EOPNOTSUPP
                    | libc::ETIMEDOUT,
                ) => {}
                _ => return Err(error),
            }
        }
    }
}

/// Awaits a future of the runtime that adds a waker to its list at every poll. Beside something busy
/// in the same task these would pile up, and a task is counted by 16 bits: it panics at 32,768. Here
/// the future is polled only when it was woken.
async fn alone<F: Future>(future: F) -> F::Output {
    FuturesUnordered::from_iter([future]).select_next_some().await
}

/// Connects to `ip:port`.
pub(super) async fn connect(
    address: &str,
    timeout: Duration,
) -> io::Result<(TcpReader, TcpWriter)> {
    let to = parse(address)?;
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot connect to {to}: {error}"));
    if timeout.is_zero() {
        return Err(explain(io::ErrorKind::TimedOut.into()));
    }
    let stream =
        TcpStream::connect_timeout(to, timeout).await.map_err(io_error).map_err(explain)?;
    Socket::halves(stream).map_err(explain)
}

fn receive(fd: RawFd, spare: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `len` bytes into `spare`, which is ours.
        let count =
            unsafe { libc::recv(fd, spare.as_mut_ptr().cast(), spare.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(count) {
            Ok(count) => return Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

fn send(fd: RawFd, bufs: &[Bytes]) -> io::Result<usize> {
    let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; GATHER_MAX];
    let count = bufs.len().min(GATHER_MAX);
    for (slice, buf) in slices.iter_mut().zip(bufs) {
        *slice = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    }
    // SAFETY: a message header is numbers and pointers, for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_mut_ptr();
    message.msg_iovlen = count as _;
    loop {
        // SAFETY: the header names `count` slices of bytes that are borrowed for this call.
        let sent = unsafe { libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

fn would_wait(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn io_error(error: GlommioError<()>) -> io::Error {
    error.into()
}
