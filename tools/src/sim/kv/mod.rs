//! The built-in workload: clients of the server's own key-value state machine.
//!
//! Each key is used in one way (`Kind`). Whatever is written is unique and names itself, so that a read
//! tells which write it saw; the histories of all keys are judged at the end ([`Recorder`]). What needs
//! no history is noticed at once: a reply that cannot be, a value that nobody wrote, one that is there twice.

mod mix;
mod reply;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coracle::server::Kv;
use coracle::server::kv::TIME_MUST_ADVANCE;
use coracle::server::kv::op::{Encoder, Expiry, Head, Read, SetIf, SetReply, TtlForm, Write};
use coracle_engine::{ShardId, StateMachine};
use fastrand::Rng;

use self::mix::{Action, Kind, Mix};
use self::values::Values;
use super::checks::history::{Call, Deadline, Entry, LogTime, OperationId, Recorder, Reply, Times};
use super::settings::Settings;
use super::workload::{Ask, Outcome, Request, Then, Workload};
use super::world::World;

/// A row that is longer begins anew.
const ROW_BYTES_MAX: usize = 1000;

/// How much longer than a clock says a time may truly take: the slowest one runs at 0.9 times the true speed.
const CLOCK_SLOWNESS_MAX: f64 = 1.12;

/// Clients of the key-value server.
pub struct KvWorkload {
    world: World,
    mix: Mix,
    shards: u32,
    encoder: Encoder,
    values: Values,
    history: Recorder,
    /// What is known of the time of each shard's log.
    log_times: Vec<LogTime>,
    /// What each client is doing.
    pending: BTreeMap<u32, Pending>,
    /// How long each row was when somebody saw it.
    rows: BTreeMap<u32, usize>,
    /// The first moment of the history at each time.
    moments: BTreeMap<Duration, u64>,
}

/// An operation under way.
struct Pending {
    key: u32,
    action: Action,
    /// `None` for a tick.
    id: Option<OperationId>,
    clock: u64,
    request: Request,
    /// A read told that the time must advance; how far that is.
    advance: Advance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advance {
    NotYet,
    Ticking,
    Ticked,
}

impl KvWorkload {
    /// Makes one.
    pub fn make(settings: &Settings, world: &World) -> Self {
        Self {
            world: world.clone(),
            mix: Mix::draw(&mut world.rng_for("kv"), settings),
            shards: settings.shards,
            encoder: Encoder::default(),
            values: Values::default(),
            history: Recorder::default(),
            log_times: vec![LogTime::default(); settings.shards as usize],
            pending: BTreeMap::new(),
            rows: BTreeMap::new(),
            moments: BTreeMap::new(),
        }
    }

    fn shard_of(&self, key: u32) -> ShardId {
        ShardId(key % self.shards)
    }

    fn log_time(&mut self, shard: ShardId) -> &mut LogTime {
        &mut self.log_times[shard.0 as usize]
    }

    /// What happens next in the history happens now.
    fn note_moment(&mut self, now: Duration) {
        let next = self.history.now() + 1;
        self.moments.entry(now).or_insert(next);
    }

    /// Begins an operation of a client.
    fn begin(
        &mut self,
        ask: Ask<'_>,
        key: u32,
        action: Action,
        staleness: Option<Duration>,
    ) -> Begun {
        let Ask { client, unix_ms: clock, now, rng, .. } = ask;
        self.note_moment(now);
        let stale = staleness.is_some();
        self.encoder.set_head(Head { protocol: Default::default(), stale, now_ms: clock });
        let shard = self.shard_of(key);
        let log_time = self.log_time(shard).low();
        let name = key_name(key);
        let (mut words, payload, call) = self.encode(key, &name, action, clock.max(log_time), rng);
        if let Some(staleness) = staleness {
            words += &format!(" at most {staleness:?} old");
        }
        let write = !matches!(action, Action::Get | Action::ExpireTime);
        if write {
            self.log_time(shard).begin(clock);
        }
        let id = call.map(|call| {
            let low = if write { log_time.max(clock) } else { log_time };
            let times = match self.mix.kind(key) {
                Kind::Mortal => Times { low, high: u64::MAX, clock },
                _ => Times::UNKNOWN,
            };
            let id = self.history.begin_at(client, &name, call, times);
            if let Some(staleness) = staleness {
                self.history.backdate(&id, self.moment_before(now, staleness));
            }
            id
        });
        let request = Request { shard, payload, write, staleness };
        let advance = Advance::NotYet;
        let pending = Pending { key, action, id, clock, request: request.clone(), advance };
        self.pending.insert(client, pending);
        (words, request)
    }

    /// The first moment of the history of which a read may know nothing that begins now with this bound, on whatever
    /// clock.
    fn moment_before(&self, now: Duration, staleness: Duration) -> u64 {
        let since = now.saturating_sub(staleness.mul_f64(CLOCK_SLOWNESS_MAX));
        self.moments.range(since..).next().map_or(self.history.now(), |(_, moment)| *moment)
    }

    /// The words, the payload and the entry in the history for an action. `now` is the latest time that
    /// anybody knows of.
    fn encode(
        &mut self,
        key: u32,
        name: &Bytes,
        action: Action,
        now: u64,
        rng: &mut Rng,
    ) -> (String, Bytes, Option<Call>) {
        let words = String::from_utf8_lossy(name).into_owned();
        match action {
            Action::Get => (
                format!("GET {words}"),
                self.encoder.read(&Read::Get { key: name }),
                Some(Call::Get),
            ),
            Action::ExpireTime => {
                let read = Read::Ttl { key: name, form: TtlForm::AtMillis };
                let payload = self.encoder.read(&read);
                (format!("PEXPIRETIME {words}"), payload, Some(Call::ExpireTime))
            }
            Action::Tick => (format!("TICK to {now}"), self.encoder.tick(), None),
            Action::Del => {
                let payload = self.encoder.del([&name[..]].into_iter());
                (format!("DEL {words}"), payload, Some(Call::Del))
            }
            Action::Incr => {
                // Any sum tells how many of each kind there were.
                let by = if rng.u32(..8) == 0 { 10_000 } else { 1 };
                let payload = self.encoder.write(&Write::IncrBy { key: name, delta: by });
                (format!("INCRBY {words} {by}"), payload, Some(Call::Incr(by)))
            }
            Action::Persist => {
                let payload = self.encoder.write(&Write::Persist { key: name });
                (format!("PERSIST {words}"), payload, Some(Call::Persist))
            }
            Action::Expire => {
                let (deadline, expiry) = self.deadline(now, rng);
                let write = Write::Expire { key: name, expiry, conditions: 0 };
                let payload = self.encoder.write(&write);
                (format!("PEXPIRE {words} {deadline:?}"), payload, Some(Call::Expire(deadline)))
            }
            Action::Append => {
                if self.rows.get(&key).is_some_and(|bytes| *bytes > ROW_BYTES_MAX) {
                    self.rows.remove(&key);
                    return self.encode(key, name, Action::Set, now, rng);
                }
                let (part, value) = self.value(key, rng);
                let payload = self.encoder.write(&Write::Append { key: name, value: &value });
                (format!("APPEND {words} {part}"), payload, Some(Call::Append(value)))
            }
            Action::Set | Action::SetNx | Action::SetMortal => {
                let (id, value) = self.value(key, rng);
                let (when, label) = match action {
                    Action::SetNx => (SetIf::Absent, "SETNX"),
                    _ => (SetIf::Always, "SET"),
                };
                let mortal = (action == Action::SetMortal).then(|| self.deadline(now, rng));
                let payload = self.encoder.write(&Write::Set {
                    key: name,
                    value: &value,
                    expiry: mortal.map_or(Expiry::Never, |(_, expiry)| expiry),
                    when,
                    reply: SetReply::Status,
                });
                let deadline = mortal.map(|(deadline, _)| deadline);
                let words = match deadline {
                    Some(deadline) => format!("{label} {words} {id} {deadline:?}"),
                    None => format!("{label} {words} {id}"),
                };
                // A row is kept whole, because its parts are found in what is read later.
                let kept = if self.mix.kind(key) == Kind::Row { value } else { id.into() };
                let call = match when {
                    SetIf::Absent => Call::SetNx(kept),
                    _ => Call::Set(kept, deadline),
                };
                (words, payload, Some(call))
            }
        }
    }

    /// A new value: its name and itself.
    fn value(&mut self, key: u32, rng: &mut Rng) -> (String, Bytes) {
        let bytes = self.mix.value_bytes(rng, key);
        let (name, value) = self.values.issue(key, bytes);
        (String::from_utf8_lossy(&name).into_owned(), value)
    }

    fn deadline(&self, now: u64, rng: &mut Rng) -> (Deadline, Expiry) {
        let ttl = self.mix.ttl_ms(rng);
        if rng.bool() {
            return (Deadline::After(ttl), Expiry::After(ttl as i64));
        }
        // Sometimes it has passed already.
        let at = if rng.u32(..8) == 0 { now.saturating_sub(ttl) } else { now + ttl };
        (Deadline::At(at), Expiry::At(at as i64))
    }

    /// A request has been answered. Returns what follows.
    fn replied(
        &mut self,
        client: u32,
        mut pending: Pending,
        reply: &Bytes,
    ) -> Result<Then, String> {
        let shard = pending.request.shard;
        if pending.advance == Advance::Ticking {
            self.log_time(shard).end(pending.clock, Entry::Applied);
            if reply::decode(reply)? != Reply::Ok {
                return Err(unfit(&pending, reply));
            }
            pending.advance = Advance::Ticked;
            let request = pending.request.clone();
            self.pending.insert(client, pending);
            return Ok(Then::Ask(request));
        }
        if reply == TIME_MUST_ADVANCE {
            let Request { write, staleness, .. } = pending.request;
            if write || staleness.is_some() || pending.advance == Advance::Ticked {
                return Err(format!(
                    "{:?} of {} is told to let the time advance, but it has",
                    pending.action,
                    key_text(pending.key)
                ));
            }
            pending.advance = Advance::Ticking;
            self.world.count("kv.time_must_advance");
            self.log_time(shard).begin(pending.clock);
            let now_ms = pending.clock;
            self.encoder.set_head(Head { protocol: Default::default(), stale: false, now_ms });
            let payload = self.encoder.tick();
            self.pending.insert(client, pending);
            return Ok(Then::Ask(Request { shard, payload, write: true, staleness: None }));
        }
        if pending.request.write {
            self.log_time(shard).end(pending.clock, Entry::Applied);
        }
        let seen =
            self.judge(&pending, reply::decode(reply)?).ok_or_else(|| unfit(&pending, reply))??;
        if let Some(id) = &pending.id {
            let high = match self.mix.kind(pending.key) {
                Kind::Mortal => self.log_time(shard).high(),
                _ => u64::MAX,
            };
            self.history.replied_by(id, seen, high);
        }
        Ok(Then::Done)
    }

    /// The reply as the history keeps it: `None` if an action is never answered so, or what is wrong with
    /// the value.
    fn judge(&mut self, pending: &Pending, reply: Reply) -> Option<Result<Reply, String>> {
        let (key, kind) = (pending.key, self.mix.kind(pending.key));
        let fits = match (pending.action, &reply) {
            (Action::Set | Action::SetMortal | Action::Tick, Reply::Ok)
            | (Action::SetNx, Reply::Ok | Reply::Nil)
            | (Action::Get, Reply::Nil | Reply::Value(_))
            | (Action::Del | Action::Expire | Action::Persist, Reply::Int(0 | 1))
            | (Action::Incr, Reply::Int(_))
            | (Action::ExpireTime, Reply::Int(-2..)) => true,
            // A row that was long began anew.
            (Action::Append, Reply::Int(length)) => {
                self.rows.insert(key, usize::try_from(*length).ok()?);
                *length > 0
            }
            (Action::Append, Reply::Ok) => true,
            _ => false,
        };
        if !fits {
            return None;
        }
        let Reply::Value(value) = &reply else { return Some(Ok(reply)) };
        let told = |wrong| format!("GET {}: {wrong}", key_text(key));
        Some(match kind {
            Kind::Register | Kind::Mortal => {
                self.values.name_of(key, value).map(Reply::Value).map_err(told)
            }
            Kind::Row => self.values.check_row(key, value).map(|()| reply).map_err(told),
            Kind::Counter => Ok(reply),
        })
    }
}

/// An operation in words, and its first request.
type Begun = (String, Request);

fn key_text(key: u32) -> String {
    format!("k{key}")
}

fn key_name(key: u32) -> Bytes {
    Bytes::from(key_text(key))
}

fn unfit(pending: &Pending, reply: &Bytes) -> String {
    let reply = values::excerpt(reply);
    format!("{:?} of {} is answered {reply}", pending.action, key_text(pending.key))
}

impl Workload for KvWorkload {
    fn machine(&self, _shard: ShardId) -> Box<dyn StateMachine> {
        Box::new(Kv::new())
    }

    fn next(&mut self, ask: Ask<'_>) -> (String, Request) {
        let key = ask.rng.u32(..self.mix.keys());
        let action = self.mix.action(ask.rng, key);
        let reads = action == Action::Get;
        let staleness = if reads { self.mix.staleness(ask.rng, key) } else { None };
        self.begin(ask, key, action, staleness)
    }

    fn ended(&mut self, client: u32, now: Duration, outcome: Outcome) -> Result<Then, String> {
        self.note_moment(now);
        let Some(pending) = self.pending.remove(&client) else { return Ok(Then::Done) };
        let entry = match outcome {
            Outcome::Replied(reply) => return self.replied(client, pending, &reply),
            Outcome::Refused => Entry::Dropped,
            Outcome::Unknown => Entry::Unknown,
        };
        let in_log = pending.request.write || pending.advance == Advance::Ticking;
        if in_log {
            self.log_time(pending.request.shard).end(pending.clock, entry);
        }
        // A read that nobody answered says nothing.
        if entry == Entry::Dropped || !pending.request.write {
            pending.id.iter().for_each(|id| self.history.refused(id));
        }
        Ok(Then::Done)
    }

    fn final_read(&mut self, number: usize, ask: Ask<'_>) -> Option<(String, Request)> {
        let key = u32::try_from(number).ok().filter(|key| *key < self.mix.keys())?;
        Some(self.begin(ask, key, Action::Get, None))
    }

    fn verdict(&mut self) -> Result<(), String> {
        for _ in 0..self.history.check().map_err(|error| error.to_string())? {
            self.world.count("history.undecided");
        }
        Ok(())
    }
}
