//! [`Timers`]: a state machine around another one.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{APPLIED_BYTE, Entry, FIRED_BYTE, TimerReply};
use super::image::{TimerParse, TimerRecords};
use super::table::{Refused, Table, Unfired};
use super::{TimerId, TimerLimits};
use crate::hook::{HookCall, HookTimes, LeaderHook};
use crate::layer::{Layers, pass};
use crate::limits::TIMERS_FIRED_PER_CALL;
use crate::{Apply, Restore, SnapshotError, SnapshotStream, StateMachine};

/// Gives a state machine timers; see the [module](super).
///
/// It takes [`Entry`]s and answers with [`TimerReply`]s. Queries go to the machine as they are.
#[derive(Debug)]
pub struct Timers<M> {
    machine: M,
    table: Table,
    layers: Layers<TimerParse>,
}

impl<M: StateMachine> Timers<M> {
    /// Timers around `machine`, which must be empty. Every entry of the shard must be an [`Entry`], from the first
    /// one on: others are refused as malformed.
    pub fn new(machine: M) -> Self {
        Self::around(machine, false)
    }

    /// Timers around a machine that has been used without them. Payloads and snapshots which are not of timers go
    /// to the machine as they are, and its replies to them come as they are.
    ///
    /// The machine's own payloads must not begin with a byte from `0xD0` to `0xDF`, and its snapshots not with
    /// `CTI1`. All nodes must have it before the first timer is set.
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

    /// What timers may take in this shard now.
    pub fn limits(&self) -> TimerLimits {
        self.table.limits()
    }

    /// How many timers there are.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    fn apply_entry(&mut self, entry: Apply<'_>, decoded: Entry, reply: &mut BytesMut) {
        let answer = match decoded {
            Entry::Plain(payload) => {
                reply.put_u8(APPLIED_BYTE);
                pass(&mut self.machine, entry, &payload, reply);
                return;
            }
            Entry::Set { at_ms, payload } => {
                let timer = TimerId(entry.index.0);
                let set = self.table.set(timer, at_ms, &payload);
                sometimes!(timer_refused, set.is_err());
                match set {
                    Ok(()) => TimerReply::Set(timer),
                    Err(Refused::Full) => TimerReply::Full,
                    Err(Refused::TooLarge) => TimerReply::TooLarge,
                }
            }
            Entry::Cancel { timer } => match self.table.cancel(timer) {
                true => TimerReply::Done,
                false => TimerReply::UnknownTimer,
            },
            Entry::Fire { timer, now_ms } => match self.table.fire(timer, now_ms) {
                Ok(payload) => {
                    sometimes!(timer_fired);
                    reply.put_u8(FIRED_BYTE);
                    pass(&mut self.machine, entry, &payload, reply);
                    return;
                }
                Err(Unfired::Unknown) => {
                    sometimes!(timer_gone);
                    TimerReply::UnknownTimer
                }
                Err(Unfired::NotDue) => {
                    sometimes!(timer_not_due);
                    TimerReply::NotDue
                }
            },
            Entry::Configure(limits) => {
                self.table.configure(limits);
                TimerReply::Done
            }
        };
        answer.encode(reply);
    }
}

impl<M: StateMachine> StateMachine for Timers<M> {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        if self.layers.takes_bare() && !Entry::is_one(entry.payload) {
            return self.machine.apply(entry, reply);
        }
        match Entry::decode(entry.payload) {
            Ok(decoded) => self.apply_entry(entry, decoded, reply),
            Err(_) => {
                sometimes!(timer_entry_malformed);
                TimerReply::Malformed.encode(reply);
            }
        }
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.machine.query(request, reply);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        self.layers.snapshot(&self.table, TimerRecords::new, &mut self.machine)
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        self.layers.restore(part, &mut self.table, &mut self.machine)
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        Some(self)
    }
}

/// Firing: what is due by the leader's wall clock is proposed to fire.
impl<M: StateMachine> LeaderHook for Timers<M> {
    fn times(&self) -> HookTimes {
        HookTimes::of(self.machine.hook()).or_at(self.table.next_ms())
    }

    fn call(&self, call: HookCall) -> Vec<Bytes> {
        let plain = |payload: Bytes| match self.layers.takes_bare() && !Entry::is_one(&payload) {
            true => payload,
            false => Entry::Plain(payload).encode(),
        };
        let mut payloads: Vec<Bytes> =
            call.pass(self.machine.hook()).into_iter().map(plain).collect();
        let now_ms = call.unix_ms;
        let fire = |timer| Entry::Fire { timer, now_ms }.encode();
        payloads.extend(self.table.due(now_ms).take(TIMERS_FIRED_PER_CALL).map(fire));
        payloads
    }
}
