//! [`Sessions`]: a state machine around another one.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

use super::SessionLimits;
use super::codec::{APPLIED_BYTE, Entry, SessionReply};
use super::image::{ImageReader, ImageWriter, MAGIC};
use super::table::{Admission, Table};
use crate::snapshot::ChunkSink;
use crate::{Apply, Restore, SnapshotError, SnapshotStream, StateMachine};

/// Gives a state machine client sessions; see the [module](super).
///
/// It takes [`Entry`]s and answers with [`SessionReply`]s. Queries go to the machine as they are: they change
/// nothing, so a client may always ask again.
#[derive(Debug)]
pub struct Sessions<M> {
    machine: M,
    table: Table,
    /// Whether entries and images that are not of sessions belong to the machine.
    takes_bare: bool,
    restoring: Restoring,
    /// Restorations so far; a stream of an earlier count has failed.
    restorations: Rc<Cell<u64>>,
}

/// How far a restoration is.
#[derive(Debug)]
enum Restoring {
    No,
    /// No chunk has come.
    Begun,
    Sessions(Box<ImageReader>),
    Machine,
}

impl<M: StateMachine> Sessions<M> {
    /// Sessions around `machine`, which must be empty. Every entry of the shard must be an [`Entry`], from the
    /// first one on: others are refused as malformed.
    pub fn new(machine: M) -> Self {
        Self {
            machine,
            table: Table::default(),
            takes_bare: false,
            restoring: Restoring::No,
            restorations: Rc::default(),
        }
    }

    /// Sessions around a machine that has been used without them. Payloads and snapshots which are not of
    /// sessions go to the machine as they are, and its replies to them come as they are.
    ///
    /// The machine's own payloads must not begin with a byte from `0xE0` to `0xEF`, and its snapshots not
    /// with `CSE1`. All nodes must have it before the first entry of sessions is proposed.
    pub fn over_old_log(machine: M) -> Self {
        Self { takes_bare: true, ..Self::new(machine) }
    }

    /// The machine inside.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// What sessions may take in this shard now.
    pub fn limits(&self) -> SessionLimits {
        self.table.limits()
    }

    /// Gives a payload to the machine, with its reply behind what `reply` has. Returns where that begins.
    fn pass(&mut self, entry: Apply<'_>, payload: &Bytes, reply: &mut BytesMut) -> usize {
        let start = reply.len();
        // The machine wants an empty buffer; it gets the room behind, so that nothing is copied.
        let mut own = reply.split_off(start);
        self.machine.apply(Apply { payload, ..entry }, &mut own);
        reply.unsplit(own);
        start
    }

    fn apply_entry(&mut self, entry: Apply<'_>, decoded: Entry, reply: &mut BytesMut) {
        let index = entry.index;
        let done_if = |done: bool| match done {
            true => SessionReply::Done,
            false => SessionReply::UnknownSession,
        };
        let answer = match decoded {
            Entry::Plain(payload) => {
                reply.put_u8(APPLIED_BYTE);
                self.pass(entry, &payload, reply);
                return;
            }
            Entry::Request { session, request, first, payload } => {
                match self.table.admit(index, session, request, first) {
                    Admission::Apply => {
                        reply.put_u8(APPLIED_BYTE);
                        let start = self.pass(entry, &payload, reply);
                        self.table.applied(session, request, &reply[start..]);
                        return;
                    }
                    Admission::Duplicate(Some(kept)) => SessionReply::Duplicate(kept),
                    Admission::Duplicate(None) => SessionReply::ReplyGone,
                    Admission::UnknownSession => SessionReply::UnknownSession,
                    Admission::Acknowledged => SessionReply::Acknowledged,
                    Admission::WindowFull => SessionReply::WindowFull,
                    Admission::RepliesFull => SessionReply::RepliesFull,
                }
            }
            Entry::Open => {
                let session = self.table.open(index);
                SessionReply::Opened { session, limits: self.table.limits() }
            }
            Entry::KeepAlive { session, first } => {
                done_if(self.table.keep_alive(index, session, first))
            }
            Entry::Close { session } => done_if(self.table.close(session)),
            Entry::Tick { now_ms } => {
                self.table.tick(now_ms);
                SessionReply::Done
            }
            Entry::Configure(limits) => {
                self.table.configure(limits);
                SessionReply::Done
            }
        };
        answer.encode(reply);
    }
}

impl<M: StateMachine> StateMachine for Sessions<M> {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        if self.takes_bare && !Entry::is_one(entry.payload) {
            self.machine.apply(entry, reply);
        } else {
            match Entry::decode(entry.payload) {
                Ok(decoded) => self.apply_entry(entry, decoded, reply),
                Err(_) => {
                    sometimes!(session_entry_malformed);
                    SessionReply::Malformed.encode(reply);
                }
            }
        }
        self.table.sweep();
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.machine.query(request, reply);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        let machine = self.machine.snapshot()?;
        let sessions = Some(ImageWriter::new(&self.table));
        let restorations = self.restorations.clone();
        let begun_at = restorations.get();
        Ok(Box::new(Stream { sessions, machine, restorations, begun_at }))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        let early = || SnapshotError::Damaged("its chunks come without a beginning".to_owned());
        match part {
            Restore::Begin => {
                self.restorations.set(self.restorations.get() + 1);
                self.table = Table::default();
                self.restoring = Restoring::Begun;
                self.machine.restore(part)
            }
            Restore::Chunk(chunk) => {
                if matches!(self.restoring, Restoring::Begun) {
                    self.restoring = match self.takes_bare && !chunk.starts_with(MAGIC) {
                        true => Restoring::Machine,
                        false => Restoring::Sessions(Box::new(ImageReader::new())),
                    };
                }
                match &mut self.restoring {
                    Restoring::No | Restoring::Begun => Err(early()),
                    Restoring::Machine => self.machine.restore(part),
                    Restoring::Sessions(reader) => {
                        if let Some(table) = reader.chunk(chunk)? {
                            self.table = table;
                            self.restoring = Restoring::Machine;
                        }
                        Ok(())
                    }
                }
            }
            Restore::End => match std::mem::replace(&mut self.restoring, Restoring::No) {
                Restoring::Machine => self.machine.restore(part),
                // An image of nothing, from before there were sessions.
                Restoring::Begun if self.takes_bare => self.machine.restore(part),
                Restoring::No => Err(early()),
                Restoring::Begun | Restoring::Sessions(_) => {
                    Err(SnapshotError::Damaged("it ends within its sessions".to_owned()))
                }
            },
        }
    }
}

/// Sessions, then the machine.
struct Stream {
    sessions: Option<ImageWriter>,
    machine: Box<dyn SnapshotStream>,
    restorations: Rc<Cell<u64>>,
    begun_at: u64,
}

impl SnapshotStream for Stream {
    fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        if self.restorations.get() != self.begun_at {
            return Err(SnapshotError::Abandoned("another state was restored".to_owned()));
        }
        match &mut self.sessions {
            Some(sessions) => {
                if !sessions.fill(chunk)? {
                    self.sessions = None;
                }
                Ok(true)
            }
            None => self.machine.fill(chunk),
        }
    }
}
