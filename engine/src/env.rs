//! The one seam for effects: disk, network, clock, tasks and randomness.
//!
//! The root package implements it with glommio and io_uring; the simulator implements it in memory.
//! All of it belongs to one core's thread; no future here needs to be `Send`.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_wal::{AlignedBuf, Disk};

use crate::limits::RECEIVE_CHUNK_BYTES;

/// What a core may do to the outside world.
#[allow(async_fn_in_trait)] // one thread per core: futures are never sent
pub trait Env: Clone + 'static {
    /// The directory of the core's log.
    type Disk: Disk;
    /// Receives connections.
    type Listener: Listener<Reader = Self::Reader, Writer = Self::Writer>;
    /// The receiving half of a byte stream.
    type Reader: StreamReader;
    /// The sending half of a byte stream.
    type Writer: StreamWriter;

    /// Time since some fixed moment; never goes backwards. For intervals only.
    fn now(&self) -> Duration;
    /// Wall-clock time in milliseconds since 1970; may jump. Never used for safety.
    fn unix_ms(&self) -> u64;
    /// A random number.
    fn random(&self) -> u64;
    /// Runs a task on this core until it ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Waits.
    async fn sleep(&self, duration: Duration);
    /// Lets other tasks of this core run once.
    async fn yield_now(&self);
    /// Opens a byte stream to `address` (`host:port`, resolved beforehand where names are used).
    async fn connect(
        &self,
        address: &str,
        timeout: Duration,
    ) -> io::Result<(Self::Reader, Self::Writer)>;
    /// Accepts byte streams at `address` (`host:port`).
    async fn listen(&self, address: &str) -> io::Result<Self::Listener>;
}

/// Accepts connections.
#[allow(async_fn_in_trait)]
pub trait Listener: 'static {
    /// The receiving half of an accepted stream.
    type Reader: StreamReader;
    /// The sending half of an accepted stream.
    type Writer: StreamWriter;
    /// Waits for the next connection; also gives the peer's address, for messages.
    async fn accept(&self) -> io::Result<(Self::Reader, Self::Writer, String)>;
}

/// The receiving half of a byte stream. Dropping both halves closes the connection.
#[allow(async_fn_in_trait)]
pub trait StreamReader: 'static {
    /// Appends what has arrived to `buf`, at most its spare capacity (which the caller has reserved
    /// and which is not zero). `Ok(0)` is the end of the stream.
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize>;

    /// Reads exactly `len` bytes into `buf[at..at + len]`, and gives the buffer back in any case. Nothing
    /// beyond them is taken off the stream; what an earlier [`read`](Self::read) has taken is the
    /// caller's to put in front. A future that is dropped loses the buffer and an unknown part of the
    /// stream: only closing is left then.
    ///
    /// Where the stream ends before, the error is [`io::ErrorKind::UnexpectedEof`]; where the buffer has
    /// no such place, [`io::ErrorKind::InvalidInput`]. Implementations with a better way than a copy have
    /// their own.
    async fn read_aligned(
        &mut self,
        mut buf: AlignedBuf,
        at: usize,
        len: usize,
    ) -> (io::Result<()>, AlignedBuf) {
        let Some(place) = place_in(&mut buf, at, len) else {
            return (Err(no_such_place(&buf, at, len)), buf);
        };
        let mut rest = place;
        while !rest.is_empty() {
            let most = rest.len().min(RECEIVE_CHUNK_BYTES);
            let mut piece = BytesMut::with_capacity(most);
            // Room for not one byte more: it would be lost to whoever reads next.
            drop(piece.split_off(most));
            match self.read(&mut piece).await {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                Ok(_) => {}
                Err(error) => return (Err(error), buf),
            }
            let (now, later) = rest.split_at_mut(piece.len());
            now.copy_from_slice(&piece);
            rest = later;
        }
        (Ok(()), buf)
    }
}

/// The place of `len` bytes from `at` on, if the buffer has it. For [`StreamReader::read_aligned`].
pub fn place_in(buf: &mut [u8], at: usize, len: usize) -> Option<&mut [u8]> {
    buf.get_mut(at..at.checked_add(len)?)
}

/// The error where [`place_in`] finds none.
pub fn no_such_place(buf: &[u8], at: usize, len: usize) -> io::Error {
    let text = format!("a read of {len} bytes to position {at} of a buffer of {}", buf.len());
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The sending half of a byte stream.
#[allow(async_fn_in_trait)]
pub trait StreamWriter: 'static {
    /// Sends all of `bufs` in order, with as few system calls as possible (one gather write where
    /// they fit). Waits while the receiver is slow.
    async fn write_all(&mut self, bufs: &mut Vec<Bytes>) -> io::Result<()>;
    /// Ends the stream in both directions, so that a pending read of the other half returns.
    fn shutdown(&mut self);
}
