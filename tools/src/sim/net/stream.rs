//! What a process holds: the two halves of a stream, and a listener.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use coracle_engine::env::{Listener, StreamReader, StreamWriter};

use super::Net;
use super::connection::Connection;
use super::frames::{Cutter, Unit};
use crate::sim::world::ProcessId;

/// The receiving half of a simulated stream.
pub struct SimReader {
    net: Net,
    connection: Rc<Connection>,
    side: usize,
}

/// The sending half of a simulated stream.
pub struct SimWriter {
    net: Net,
    connection: Rc<Connection>,
    side: usize,
    cutter: Cutter,
    units: Vec<Unit>,
}

pub(super) fn halves(
    net: &Net,
    connection: &Rc<Connection>,
    side: usize,
) -> (SimReader, SimWriter) {
    let reader = SimReader { net: net.clone(), connection: connection.clone(), side };
    let writer = SimWriter {
        net: net.clone(),
        connection: connection.clone(),
        side,
        cutter: Cutter::default(),
        units: Vec::new(),
    };
    (reader, writer)
}

impl StreamReader for SimReader {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() == buf.len() {
            let message = "a read into a buffer without spare capacity";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        poll_fn(|cx| self.connection.poll_read(&self.net, self.side, cx, buf)).await
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        self.connection.drop_half(&self.net, self.side);
    }
}

impl StreamWriter for SimWriter {
    /// Takes all of `bufs` at its first poll; if it is dropped before it is ready, nothing of that is lost
    /// unless the stream ends.
    async fn write_all(&mut self, bufs: &mut Vec<Bytes>) -> io::Result<()> {
        for piece in bufs.drain(..) {
            self.cutter.push(piece, &mut self.units);
        }
        for unit in &self.units {
            if let Unit::Frame(bytes) = unit {
                self.net.tell_sent(&self.connection, self.side, bytes);
            }
        }
        self.connection.write(&self.net, self.side, &mut self.units);
        poll_fn(|cx| self.connection.poll_written(self.side, cx)).await
    }

    fn shutdown(&mut self) {
        self.flush();
        self.connection.shutdown(&self.net, self.side);
    }
}

impl SimWriter {
    /// Sends the beginning of a frame that was kept back until the frame is whole.
    fn flush(&mut self) {
        if let Some(begun) = self.cutter.finish() {
            self.units.push(begun);
            self.connection.write(&self.net, self.side, &mut self.units);
        }
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        self.flush();
        self.connection.drop_half(&self.net, self.side);
    }
}

/// What a listener and the network share.
pub(super) struct Backlog {
    pub(super) owner: ProcessId,
    pub(super) address: Rc<str>,
    pub(super) queue: RefCell<VecDeque<(Rc<Connection>, String)>>,
    pub(super) waker: RefCell<Option<Waker>>,
}

/// Accepts simulated streams. Dropping it turns away those that wait.
pub struct SimListener {
    pub(super) net: Net,
    pub(super) backlog: Rc<Backlog>,
}

impl Listener for SimListener {
    type Reader = SimReader;
    type Writer = SimWriter;

    async fn accept(&self) -> io::Result<(SimReader, SimWriter, String)> {
        poll_fn(|cx| match self.backlog.queue.borrow_mut().pop_front() {
            Some((connection, from)) => {
                let (reader, writer) = halves(&self.net, &connection, 1);
                Poll::Ready(Ok((reader, writer, from)))
            }
            None => {
                *self.backlog.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.stop_listening(&self.backlog);
    }
}
