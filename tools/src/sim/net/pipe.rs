//! One direction of a stream, from what was written to what can be read.
//!
//! A pipe is a chain of places: what was written and does not fit the window yet (`queue`), what is on the
//! way (`wire`), what has arrived and is not read yet (`received`). The window bounds the latter two. One
//! timer per pipe, for the head of the wire; what leaves together arrives together.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::path::Path;

/// Bytes under way: a frame, or a part of one.
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// The frame whose last part this is, if it is not `bytes` itself.
    pub(super) whole: Option<Bytes>,
    pub(super) ends_frame: bool,
}

pub(super) enum Item {
    /// The first packet of the side that connected.
    Open,
    Data(Chunk),
    /// Nothing comes after it.
    Fin,
}

pub(super) struct Packet {
    pub(super) at: Duration,
    pub(super) item: Item,
}

pub(super) struct Late {
    pub(super) number: u64,
    pub(super) overtakers: u32,
    pub(super) frame: Bytes,
}

pub(super) struct Pipe {
    pub(super) path: Rc<Path>,
    pub(super) queue: VecDeque<Chunk>,
    pub(super) queue_bytes: usize,
    pub(super) late: Vec<Late>,
    pub(super) lates: u64,
    pub(super) wire: VecDeque<Packet>,
    /// Time of the timer that will look at the wire.
    pub(super) armed: Option<Duration>,
    pub(super) received: VecDeque<Bytes>,
    pub(super) received_bytes: usize,
    pub(super) window: usize,
    /// Bytes on the wire or received, as the sender knows.
    pub(super) outstanding: usize,
    /// Bytes read of which the sender has not heard yet.
    pub(super) credit: usize,
    pub(super) credit_armed: bool,
    pub(super) fin_sent: bool,
    pub(super) fin_arrived: bool,
}

impl Pipe {
    pub(super) fn new(path: Rc<Path>) -> Self {
        Self {
            window: path.window(),
            path,
            queue: VecDeque::new(),
            queue_bytes: 0,
            late: Vec::new(),
            lates: 0,
            wire: VecDeque::new(),
            armed: None,
            received: VecDeque::new(),
            received_bytes: 0,
            outstanding: 0,
            credit: 0,
            credit_armed: false,
            fin_sent: false,
            fin_arrived: false,
        }
    }

    pub(super) fn enqueue(&mut self, bytes: Bytes, ends_frame: bool) {
        self.queue_bytes += bytes.len();
        self.queue.push_back(Chunk { bytes, whole: None, ends_frame });
    }

    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.queue_bytes = 0;
        self.late.clear();
    }

    pub(super) fn clear_received(&mut self) {
        self.received.clear();
        self.received_bytes = 0;
    }

    pub(super) fn in_order(&self, at: Duration) -> Duration {
        self.wire.back().map_or(at, |last| last.at.max(at))
    }

    /// Puts up to `room` bytes of the queue on the wire.
    pub(super) fn depart(&mut self, now: Duration, mut room: usize) {
        let at = self.in_order(self.path.arrival(now, room));
        self.outstanding += room;
        self.queue_bytes -= room;
        while room > 0 {
            let Some(first) = self.queue.front_mut() else { return };
            let chunk = if first.bytes.len() <= room {
                match self.queue.pop_front() {
                    Some(chunk) => chunk,
                    None => return,
                }
            } else {
                if first.whole.is_none() && first.ends_frame {
                    first.whole = Some(first.bytes.clone());
                }
                let bytes = first.bytes.split_to(room);
                Chunk { bytes, whole: None, ends_frame: false }
            };
            room -= chunk.bytes.len();
            self.wire.push_back(Packet { at, item: Item::Data(chunk) });
        }
    }

    /// One more frame has passed those that are held back.
    pub(super) fn pass_late(&mut self) {
        let mut at = 0;
        while at < self.late.len() {
            self.late[at].overtakers -= 1;
            if self.late[at].overtakers == 0 {
                let late = self.late.remove(at);
                self.enqueue(late.frame, true);
            } else {
                at += 1;
            }
        }
    }
}
