//! What the tasks of one core's server share: settings, counters, clients.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::ShardId;
use coracle_engine::core::{Committed, Consistency, CoreHandle, Pending};
use coracle_engine::env::Env;
use coracle_engine::{ProposeError, QueryError};

use super::expiry::ExpiryPlan;
use super::kv::op::{Encoder, Head};
use super::limits::{
    PAYLOADS_WAITING_BYTES_MAX, PIPELINE_MAX, PIPELINE_MIN, REPLIES_WAITING_BYTES_MAX,
};
use super::listen::ServerOptions;
use super::resp::Protocol;
use super::signal::Signal;

/// Counters for `INFO`, since the server was started or `CONFIG RESETSTAT`.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) connections: Cell<u64>,
    pub(super) rejected: Cell<u64>,
    pub(super) commands: Cell<u64>,
    pub(super) input_bytes: Cell<u64>,
    pub(super) output_bytes: Cell<u64>,
    pub(super) errors: Cell<u64>,
}

pub(super) fn add(counter: &Cell<u64>, number: u64) {
    counter.set(counter.get().wrapping_add(number));
}

impl Stats {
    pub(super) fn reset(&self) {
        let Self { connections, rejected, commands, input_bytes, output_bytes, errors } = self;
        for counter in [connections, rejected, commands, input_bytes, output_bytes, errors] {
            counter.set(0);
        }
    }
}

/// One core's server.
pub(super) struct Shared<E: Env> {
    pub(super) env: E,
    pub(super) core: CoreHandle,
    pub(super) options: ServerOptions,
    /// The client address of this core.
    pub(super) address: String,
    pub(super) stats: Stats,
    pub(super) clients: RefCell<BTreeMap<u64, Rc<Client>>>,
    /// Notified when a client leaves.
    pub(super) client_left: Signal,
    pub(super) next_client: Cell<u64>,
    pub(super) expiry: ExpiryPlan,
    /// Receive buffers beyond their first size.
    pub(super) read_bytes: Cell<usize>,
    /// Payloads of proposals and queries without an answer.
    pub(super) payload_bytes: Cell<usize>,
    pub(super) started: Duration,
    /// No more housekeeping.
    pub(super) stopping: Cell<bool>,
    encoder: RefCell<Encoder>,
}

impl<E: Env> Shared<E> {
    pub(super) fn new(env: E, core: CoreHandle, options: ServerOptions, address: String) -> Self {
        let started = env.now();
        Self {
            env,
            core,
            options,
            address,
            stats: Stats::default(),
            clients: RefCell::default(),
            client_left: Signal::default(),
            next_client: Cell::new(1),
            expiry: ExpiryPlan::default(),
            read_bytes: Cell::new(0),
            payload_bytes: Cell::new(0),
            started,
            stopping: Cell::new(false),
            encoder: RefCell::default(),
        }
    }

    /// Builds a payload with this core's clock.
    pub(super) fn encode(
        &self,
        protocol: Protocol,
        stale: bool,
        build: impl FnOnce(&mut Encoder) -> Bytes,
    ) -> Bytes {
        let mut encoder = self.encoder.borrow_mut();
        encoder.set_head(Head { protocol, stale, now_ms: self.env.unix_ms() });
        build(&mut encoder)
    }

    /// What a read may return; a stale one, which a replica answers that need not lead, what the operator allows.
    pub(super) fn consistency(&self, stale: bool) -> Consistency {
        if stale { self.core.replica_reads() } else { Consistency::Linearizable }
    }

    /// Shards that this core leads; with `copies`, those of which it has a replica at all.
    pub(super) fn shards(&self, copies: bool) -> Vec<ShardId> {
        let view = self.core.view();
        (0..view.shards)
            .map(ShardId)
            .filter(|shard| copies || view.leader(*shard) == Some(view.node))
            .filter(|shard| view.is_local(*shard))
            .collect()
    }
}

/// A command whose reply is not written yet.
pub(super) enum Slot {
    /// The reply is known.
    Ready(Bytes),
    /// A query is under way.
    Read(Asked<Pending<Bytes, QueryError>>),
    /// A read that goes through the log behind the connection's own writes.
    LoggedRead(Asked<Pending<Committed, ProposeError>>),
    /// A proposal is under way.
    Write(Asked<Pending<Committed, ProposeError>>),
    /// A proposal to the sessions of a shard is under way.
    InSession(Asked<Pending<Committed, ProposeError>>),
}

/// What was asked of a shard.
pub(super) struct Asked<P> {
    pub(super) pending: P,
    pub(super) shard: ShardId,
    pub(super) slot: u16,
    pub(super) stale: bool,
    /// Whether it may give a key a new deadline.
    pub(super) sets_expiry: bool,
    /// The request itself, for reads that must be asked again.
    pub(super) payload: Bytes,
    /// Its size.
    pub(super) bytes: usize,
}

/// Unfinished requests of one connection to one shard.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    shard: ShardId,
    reads: u32,
    writes: u32,
}

/// One connection, as its two tasks and the housekeeping see it.
#[derive(Default)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) created: Duration,
    pub(super) last_active: Cell<Duration>,
    pub(super) name: RefCell<String>,
    pub(super) library: RefCell<(String, String)>,
    pub(super) protocol: Cell<Protocol>,
    pub(super) readonly: Cell<bool>,
    pub(super) no_evict: Cell<bool>,
    pub(super) last_command: Cell<&'static str>,
    pub(super) commands: Cell<u64>,
    slots: RefCell<VecDeque<Slot>>,
    /// The writer works on a slot that is in the queue no more.
    busy: Cell<bool>,
    unfinished: RefCell<Vec<Unfinished>>,
    waiting_bytes: Cell<usize>,
    largest_reply: Cell<usize>,
    /// Both tasks must end now.
    killed: Cell<bool>,
    /// No more requests are to be read.
    draining: Cell<bool>,
    /// No more slots will come.
    input_ended: Cell<bool>,
    /// The connection ends with an error; what still arrives is dropped.
    pub(super) lingering_since: Cell<Option<Duration>>,
    /// Since when a write has not ended.
    pub(super) writing_since: Cell<Option<Duration>>,
    /// For the reading task while it reads.
    pub(super) reader: Signal,
    /// For the reading task while it waits for replies.
    pub(super) room: Signal,
    pub(super) writer: Signal,
}

/// What a connection's replies are assumed to be like before the first one.
const FIRST_REPLY_BYTES: usize = 128 << 10;

impl Client {
    pub(super) fn new(id: u64, address: String, now: Duration) -> Self {
        Self {
            id,
            address,
            created: now,
            last_active: Cell::new(now),
            largest_reply: Cell::new(FIRST_REPLY_BYTES),
            ..Self::default()
        }
    }

    /// Whether one more command may be taken in.
    pub(super) fn has_room(&self) -> bool {
        let window = REPLIES_WAITING_BYTES_MAX / self.largest_reply.get().max(1);
        self.slots.borrow().len() < window.clamp(PIPELINE_MIN, PIPELINE_MAX)
            && self.waiting_bytes.get() < PAYLOADS_WAITING_BYTES_MAX
    }

    /// Whether every reply has been handed to the output.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy.get() && self.slots.borrow().is_empty()
    }

    /// Bytes of requests that have no final result.
    pub(super) fn payload_bytes_waiting(&self) -> usize {
        self.waiting_bytes.get()
    }

    /// Commands without a reply.
    pub(super) fn waiting(&self) -> usize {
        self.slots.borrow().len()
    }

    pub(super) fn push(&self, slot: Slot) {
        match &slot {
            Slot::Ready(_) => {}
            Slot::Read(asked) => self.begin(asked.shard, asked.bytes, false),
            Slot::Write(Asked { shard, bytes, .. })
            | Slot::InSession(Asked { shard, bytes, .. })
            | Slot::LoggedRead(Asked { shard, bytes, .. }) => self.begin(*shard, *bytes, true),
        }
        let mut slots = self.slots.borrow_mut();
        slots.push_back(slot);
        if slots.len() == 1 {
            drop(slots);
            self.writer.notify();
        }
    }

    pub(super) fn pop(&self) -> Option<Slot> {
        let slot = self.slots.borrow_mut().pop_front();
        self.busy.set(slot.is_some());
        slot
    }

    /// The writer has a reply for the slot it took.
    pub(super) fn replied(&self, bytes: usize) {
        self.busy.set(false);
        // Forgets large replies slowly, so that the window does not jump.
        let faded = self.largest_reply.get() - self.largest_reply.get().div_ceil(64);
        self.largest_reply.set(faded.max(bytes).max(1));
        self.room.notify();
    }

    fn begin(&self, shard: ShardId, bytes: usize, logged: bool) {
        self.waiting_bytes.set(self.waiting_bytes.get() + bytes);
        let mut unfinished = self.unfinished.borrow_mut();
        let known = unfinished.iter().position(|known| known.shard == shard);
        let at = known.unwrap_or_else(|| {
            unfinished.push(Unfinished { shard, reads: 0, writes: 0 });
            unfinished.len() - 1
        });
        let known = &mut unfinished[at];
        *(if logged { &mut known.writes } else { &mut known.reads }) += 1;
    }

    /// A request to a shard has its final result.
    pub(super) fn finished(&self, shard: ShardId, bytes: usize, logged: bool) {
        self.waiting_bytes.set(self.waiting_bytes.get() - bytes);
        let mut unfinished = self.unfinished.borrow_mut();
        let Some(at) = unfinished.iter().position(|known| known.shard == shard) else { return };
        let known = &mut unfinished[at];
        *(if logged { &mut known.writes } else { &mut known.reads }) -= 1;
        if known.reads == 0 && known.writes == 0 {
            unfinished.swap_remove(at);
        }
    }

    fn count(&self, shard: ShardId, count: impl FnOnce(&Unfinished) -> u32) -> u32 {
        self.unfinished.borrow().iter().find(|known| known.shard == shard).map_or(0, count)
    }

    /// Whether a query of the shard is unfinished.
    pub(super) fn reads_unfinished(&self, shard: ShardId) -> bool {
        self.count(shard, |known| known.reads) > 0
    }

    /// Whether something that goes through the shard's log is unfinished.
    pub(super) fn writes_unfinished(&self, shard: ShardId) -> bool {
        self.count(shard, |known| known.writes) > 0
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// Ends the connection without regard to replies that are not written.
    pub(super) fn kill(&self) {
        self.killed.set(true);
        self.reader.notify();
        self.room.notify();
        self.writer.notify();
    }

    /// Ends the connection after the replies to what was read.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.reader.notify();
    }

    pub(super) fn stops_reading(&self) -> bool {
        self.killed.get() || self.draining.get()
    }

    pub(super) fn end_input(&self) {
        self.input_ended.set(true);
        self.writer.notify();
    }

    pub(super) fn input_ended(&self) -> bool {
        self.input_ended.get()
    }

    /// Whether the writer has anything to do.
    pub(super) fn wakes_writer(&self) -> bool {
        self.killed.get() || self.input_ended.get() || !self.slots.borrow().is_empty()
    }
}
