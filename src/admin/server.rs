//! The listener of an admin port and its connections: a thread for each, and few of them.
//!
//! | what comes | what happens |
//! |---|---|
//! | a line that is a request | it is answered, in order |
//! | a line that is none, or is too long | the connection is told, and closed |
//! | nothing, or less than a line, for [`IDLE_MAX`] | the connection is closed |
//! | one connection too many | it is told, and closed |

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::AdminOptions;
use super::answer::Administered;
use super::limits::{ACCEPT_RETRY, CONNECTIONS_MAX, IDLE_MAX, REQUEST_BYTES_MAX, WRITE_MAX};
use super::protocol::{Envelope, Failure, FailureKind, Reply};
use crate::NodeHandle;

/// A running admin port. Dropping it ends it.
pub(crate) struct AdminServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    node: Administered,
    stopping: AtomicBool,
    /// The connections, to end them.
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

impl AdminServer {
    /// Serves on `listener`, about the node of `handle`.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn start(
        listener: TcpListener,
        handle: NodeHandle,
        options: AdminOptions,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let node = Administered { handle, options };
        let (stopping, open) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { node, stopping, open });
        let name = format!("admin-{}", shared.node.handle.id());
        let accepting = shared.clone();
        let thread =
            thread::Builder::new().name(name).spawn(move || accepting.accept(&listener))?;
        tracing::info!("node {}: administered at {address}", shared.node.handle.id());
        if !address.ip().is_loopback() {
            tracing::warn!("whoever reaches {address} administers the cluster: see to who does");
        }
        Ok(Self { shared, address, thread: Some(thread) })
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A connection wakes the thread that accepts them. Without one it ends with the process.
        let woken = TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1));
        if let Some(thread) = self.thread.take().filter(|_| woken.is_ok()) {
            // It does not panic; if it has, it has ended all the same.
            let _ = thread.join();
        }
        for stream in self.shared.connections().values() {
            let _ = stream.shutdown(Shutdown::Both); // it may be closed already
        }
    }
}

/// Where a listener can be reached from its own machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, address.port()).into()
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, TcpStream>> {
        // What a panic could leave behind is a stream too many: no harm.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut id = 0;
        loop {
            let accepted = listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, address)) => {
                    id += 1;
                    self.begin(id, stream, address);
                }
                Err(error) => {
                    tracing::warn!("cannot accept an admin connection, trying again: {error}");
                    thread::sleep(ACCEPT_RETRY);
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, id: u64, stream: TcpStream, address: SocketAddr) {
        let kept = stream.set_write_timeout(Some(WRITE_MAX)).and_then(|()| stream.try_clone());
        let Ok(kept) = kept else { return };
        let mut connection = Connection { stream, buffer: Vec::new() };
        let mut open = self.connections();
        if open.len() >= CONNECTIONS_MAX {
            drop(open);
            let full = format!("{CONNECTIONS_MAX} admin connections are open already; close one");
            // Short enough for the buffer of a new connection.
            let _ = connection.reply(&Reply::Error(Failure::new(FailureKind::NotYet, full)));
            return;
        }
        open.insert(id, kept);
        drop(open);
        tracing::debug!("admin connection from {address}");
        let shared = self.clone();
        let serving = thread::Builder::new().name(format!("admin-connection-{id}"));
        let serving = serving.spawn(move || {
            let ended = serve(&mut connection, |request| shared.node.answer(request));
            if let Err(error) = ended {
                tracing::debug!("the admin connection from {address} has ended: {error}");
            }
            shared.connections().remove(&id);
        });
        if let Err(error) = serving {
            tracing::warn!("no thread for an admin connection: {error}");
            self.connections().remove(&id);
        }
    }
}

/// Answers requests until the other side has no more, or says something that is none.
fn serve(connection: &mut Connection, mut answer: impl FnMut(Envelope) -> Reply) -> io::Result<()> {
    loop {
        let line = match connection.line()? {
            Line::Whole(line) => line,
            Line::End => return Ok(()),
            Line::TooLong => {
                let long = format!("a request has at most {REQUEST_BYTES_MAX} bytes");
                let failure = Failure::new(FailureKind::Invalid, long);
                return connection.reply(&Reply::Error(failure));
            }
        };
        let reply = match serde_json::from_slice(&line) {
            Ok(envelope) => answer(envelope),
            Err(error) => {
                let what = format!("this is no request of the admin protocol: {error}");
                Reply::Error(Failure::new(FailureKind::Invalid, what))
            }
        };
        connection.reply(&reply)?;
        if matches!(&reply, Reply::Error(failure) if failure.kind == FailureKind::Invalid) {
            return Ok(());
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

struct Connection {
    stream: TcpStream,
    /// What was received behind the last line.
    buffer: Vec<u8>,
}

impl Connection {
    fn line(&mut self) -> io::Result<Line> {
        let deadline = Instant::now() + IDLE_MAX;
        let mut looked_at = 0;
        loop {
            let end = self.buffer[looked_at..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| looked_at + end) {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                return Ok(Line::Whole(line));
            }
            looked_at = self.buffer.len();
            if looked_at >= REQUEST_BYTES_MAX {
                return Ok(Line::TooLong);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Line::End),
                Ok(bytes) => self.buffer.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }
}
