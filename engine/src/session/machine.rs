//! [`Sessions`]: a state machine around another one.

use bytes::{BufMut, Bytes, BytesMut};

use super::SessionLimits;
use super::codec::{APPLIED_BYTE, Entry, SessionReply};
use super::image::{SessionParse, SessionRecords};
use super::table::{Admission, Table};
use crate::hook::{HookCall, HookTimes, LeaderHook};
use crate::layer::{Layers, pass};
use crate::{Apply, Restore, SnapshotError, SnapshotStream, StateMachine};

/// Gives a state machine client sessions; see the [module](super).
///
/// It takes [`Entry`]s and answers with [`SessionReply`]s. Queries go to the machine as they are: they change
/// nothing, so a client may always ask again.
#[derive(Debug)]
pub struct Sessions<M> {
    machine: M,
    table: Table,
    layers: Layers<SessionParse>,
}

impl<M: StateMachine> Sessions<M> {
    /// Sessions around `machine`, which must be empty. Every entry of the shard must be an [`Entry`], from the
    /// first one on: others are refused as malformed.
    pub fn new(machine: M) -> Self {
        Self::around(machine, false)
    }

    /// Sessions around a machine that has been used without them. Payloads and snapshots which are not of
    /// sessions go to the machine as they are, and its replies to them come as they are.
    ///
    /// The machine's own payloads must not begin with a byte from `0xE0` to `0xEF`, and its snapshots not
    /// with `CSE1`. All nodes must have it before the first entry of sessions is proposed.
    pub fn over_old_log(machine: M) -> Self {
        Self::around(machine, true)
    }

    fn around(machine: M, takes_bare: bool) -> Self {
        Self { machine, table: Table::default(), layers: Layers::new(takes_bare) }
    }

    /// The machine inside.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// What sessions may take in this shard now.
    pub fn limits(&self) -> SessionLimits {
        self.table.limits()
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.table.len()
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
                pass(&mut self.machine, entry, &payload, reply);
                return;
            }
            Entry::Request { session, request, first, payload } => {
                match self.table.admit(index, session, request, first) {
                    Admission::Apply => {
                        reply.put_u8(APPLIED_BYTE);
                        let start = pass(&mut self.machine, entry, &payload, reply);
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
        if self.layers.takes_bare() && !Entry::is_one(entry.payload) {
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
        self.layers.snapshot(&self.table, SessionRecords::new, &mut self.machine)
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        self.layers.restore(part, &mut self.table, &mut self.machine)
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        Some(self)
    }
}

/// The clock of the sessions: while there are any, the leader's wall clock is proposed now and then.
impl<M: StateMachine> LeaderHook for Sessions<M> {
    fn times(&self) -> HookTimes {
        HookTimes::of(self.machine.hook()).or_at(self.table.tick_due_ms())
    }

    fn call(&self, call: HookCall) -> Vec<Bytes> {
        let plain = |payload: Bytes| match self.layers.takes_bare() && !Entry::is_one(&payload) {
            true => payload,
            false => Entry::Plain(payload).encode(),
        };
        let mut payloads: Vec<Bytes> =
            call.pass(self.machine.hook()).into_iter().map(plain).collect();
        if self.table.tick_due_ms().is_some_and(|due| due <= call.unix_ms) {
            sometimes!(session_clock_proposed);
            payloads.push(Entry::Tick { now_ms: call.unix_ms }.encode());
        }
        payloads
    }
}
