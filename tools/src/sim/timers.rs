//! Any workload with timers beside it: each fires once, not before its time, and in the end all have.
//!
//! [`WithTimers`] stands between the simulator and a [`Workload`]. In half of the seeds it puts the state machines into
//! [`Timers`], and before some writes of the workload's clients it sets a timer, cancels one, or changes the limits. What a
//! timer is to give to the machine is a number of its own, which never gets to the machine of the workload: it is taken
//! on the way, on every replica, and noted with the index of the entry.
//!
//! In some seeds it also has leaders propose something at an interval, which does nothing.
//!
//! What is wrong:
//! - a number that comes at two different indices: it has fired twice. Replicas that apply the same entry, and those that
//!   start again and apply it again, see it at the same one;
//! - a number that comes before the hook of any leader was called at its time or later;
//! - one that comes although its timer was cancelled, or that nobody has set;
//! - one that has not come when a client is told that there is no such timer, or in the end, when all faults are over, the
//!   wall clocks are right, and there was time;
//! - two calls for one interval of one leader.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_engine::hook::{HookCall, HookTimes, LeaderHook};
use coracle_engine::timers::{Entry, TimerId, TimerLimits, TimerReply, Timers};
use coracle_engine::{
    Apply, LogIndex, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine, Term,
};
use fastrand::Rng;

use super::clock::UNIX_START_MS;
use super::settings::{Settings, log_uniform, one_of};
use super::workload::{Ask, Outcome, Request, Then, Workload};
use super::world::World;

/// What the payload of every timer begins with, and no payload of a workload.
const MARK: &[u8] = b"\xfftimer";

/// What leaders propose at an interval.
const BEAT: &[u8] = b"\xffbeat";

/// A number that a timer fires with.
type Token = u64;

/// A workload beside which timers fire.
pub struct WithTimers<W> {
    inner: W,
    world: World,
    /// `None`: this seed has no timers.
    habits: Option<Habits>,
    doing: BTreeMap<u32, Doing>,
    audit: Rc<RefCell<Audit>>,
    tokens: Token,
    /// Timers that are there as far as clients know.
    known: BTreeMap<ShardId, Vec<(TimerId, Token)>>,
    /// Those that have to fire.
    required: BTreeSet<Token>,
    /// Those that must not.
    cancelled: BTreeSet<Token>,
    /// The final reads have begun.
    is_over: bool,
}

/// The habits of a seed.
struct Habits {
    rng: Rng,
    /// Share of writes before which something is done about timers.
    aside: f64,
    /// Share of that which cancels.
    cancels: f64,
    /// How far ahead timers are set.
    horizon_ms: u64,
    /// How often leaders propose something.
    beat: Option<Duration>,
}

impl Habits {
    fn draw(mut rng: Rng, settings: &Settings) -> Option<Self> {
        if rng.bool() {
            return None;
        }
        Some(Self {
            aside: one_of(&mut rng, &[0.05, 0.2, 0.5]),
            cancels: one_of(&mut rng, &[0.0, 0.2, 0.5]),
            horizon_ms: log_uniform(&mut rng, 5, settings.chaos_ms / 2 + 5),
            // Not so often that replicas are never alike.
            beat: (rng.u8(..3) == 0).then(|| {
                let least = 5 * settings.heartbeat_interval_ms;
                Duration::from_millis(log_uniform(&mut rng, least, 10 * least))
            }),
            rng,
        })
    }
}

/// What a client waits for.
enum Doing {
    Read,
    Write,
    /// Something about timers, before this write.
    Aside(Aside, Request),
}

enum Aside {
    Set(Token),
    Cancel(TimerId, Token),
    Configure,
}

/// What all replicas have seen.
#[derive(Default)]
struct Audit {
    /// When each timer is due.
    due_ms: BTreeMap<Token, u64>,
    /// Which entry has fired it.
    fired: BTreeMap<Token, (ShardId, LogIndex)>,
    /// The latest wall clock that a hook was called with.
    clock_ms: u64,
    /// When each leader was called last for its interval.
    beats: BTreeMap<(ShardId, Term), Duration>,
    /// The first thing that is wrong.
    wrong: Option<String>,
}

impl Audit {
    fn fired(&mut self, token: Token, shard: ShardId, index: LogIndex) {
        let first = *self.fired.entry(token).or_insert((shard, index));
        let clock = self.clock_ms;
        let wrong = match self.due_ms.get(&token) {
            None => format!("a timer fires with {token}, which nobody has set"),
            Some(due) if *due > clock => {
                format!(
                    "timer {token} is due at {due}, and fires when no leader saw more than {clock}"
                )
            }
            Some(_) if first != (shard, index) => {
                let (other, before) = first;
                format!(
                    "timer {token} fires at entry {index} of shard {shard}, and at {before} of {other}"
                )
            }
            Some(_) => return,
        };
        self.wrong.get_or_insert(wrong);
    }

    fn beat(&mut self, call: &HookCall, beat: Duration, now: Duration) {
        let before = self.beats.insert((call.shard, call.term), now);
        // Clocks may be fast by a tenth.
        if let Some(before) = before.filter(|before| now < *before + beat.mul_f64(0.8)) {
            let (shard, term) = (call.shard, call.term);
            let wrong = format!(
                "the leader of shard {shard} in term {term} is called at {before:?} and {now:?}"
            );
            self.wrong.get_or_insert(wrong);
        }
    }

    fn check(&self) -> Result<(), String> {
        self.wrong.clone().map_or(Ok(()), Err)
    }
}

impl<W: Workload> WithTimers<W> {
    /// Puts timers beside a workload, in half of the seeds.
    pub fn over(inner: W, settings: &Settings, world: &World) -> Self {
        Self {
            inner,
            world: world.clone(),
            habits: Habits::draw(world.rng_for("timers"), settings),
            doing: BTreeMap::new(),
            audit: Rc::default(),
            tokens: 0,
            known: BTreeMap::new(),
            required: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            is_over: false,
        }
    }

    fn send(&mut self, client: u32, request: Request) -> Request {
        if self.habits.is_none() {
            return request;
        }
        if !request.write {
            self.doing.insert(client, Doing::Read);
            return request;
        }
        self.doing.insert(client, Doing::Write);
        Request { payload: Entry::Plain(request.payload).encode(), ..request }
    }

    /// Something to propose before a write, sometimes.
    fn aside(&mut self, shard: ShardId, now: Duration) -> Option<(Aside, Bytes)> {
        let habits = self.habits.as_mut().filter(|_| !self.is_over)?;
        let rng = &mut habits.rng;
        if rng.f64() >= habits.aside {
            return None;
        }
        if rng.u8(..20) == 0 {
            let limits = TimerLimits {
                timers: one_of(rng, &[1, 5, 1000]),
                payload_bytes: one_of(rng, &[10, 100, 100]),
                bytes: one_of(rng, &[500, 100_000]),
            };
            return Some((Aside::Configure, Entry::Configure(limits).encode()));
        }
        let known = self.known.entry(shard).or_default();
        if rng.f64() < habits.cancels && !known.is_empty() {
            let (timer, token) = known.swap_remove(rng.usize(..known.len()));
            return Some((Aside::Cancel(timer, token), Entry::Cancel { timer }.encode()));
        }
        self.tokens += 1;
        let token = self.tokens;
        let now_ms = UNIX_START_MS + now.as_millis() as u64;
        // Sometimes it is due already.
        let at_ms = now_ms - habits.horizon_ms / 8 + rng.u64(..=habits.horizon_ms);
        self.audit.borrow_mut().due_ms.insert(token, at_ms);
        let mut payload = BytesMut::from(MARK);
        payload.put_u64(token);
        Some((Aside::Set(token), Entry::Set { at_ms, payload: payload.freeze() }.encode()))
    }

    fn aside_ended(
        &mut self,
        shard: ShardId,
        aside: &Aside,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let reply = match outcome {
            Outcome::Replied(reply) => TimerReply::decode(reply).map_err(|e| e.to_string())?,
            Outcome::Refused => {
                if let Aside::Cancel(timer, token) = aside {
                    self.known.entry(shard).or_default().push((*timer, *token));
                }
                return Ok(());
            }
            Outcome::Unknown => {
                if let Aside::Cancel(_, token) = aside {
                    self.required.remove(token);
                }
                return Ok(());
            }
        };
        match (aside, &reply) {
            (Aside::Set(token), TimerReply::Set(timer)) => {
                self.world.count("timer.set");
                self.required.insert(*token);
                self.known.entry(shard).or_default().push((*timer, *token));
            }
            (Aside::Set(_), TimerReply::Full | TimerReply::TooLarge)
            | (Aside::Configure, TimerReply::Done) => {}
            (Aside::Cancel(_, token), TimerReply::Done) => {
                self.world.count("timer.cancelled");
                self.required.remove(token);
                self.cancelled.insert(*token);
            }
            (Aside::Cancel(timer, token), TimerReply::UnknownTimer) => {
                if !self.audit.borrow().fired.contains_key(token) {
                    return Err(format!(
                        "timer {timer} is unknown, and has not fired with {token}"
                    ));
                }
            }
            _ => return Err(format!("an entry of timers is answered {reply:?}")),
        }
        Ok(())
    }

    fn tell(&mut self, client: u32, now: Duration, outcome: Outcome) -> Result<Then, String> {
        Ok(match self.inner.ended(client, now, outcome)? {
            Then::Done => Then::Done,
            Then::Ask(next) => Then::Ask(self.send(client, next)),
        })
    }
}

impl<W: Workload> Workload for WithTimers<W> {
    fn machine(&self, shard: ShardId) -> Box<dyn StateMachine> {
        let inner = self.inner.machine(shard);
        let Some(habits) = &self.habits else { return inner };
        let (audit, world) = (self.audit.clone(), self.world.clone());
        let timers =
            Timers::new(Receiver { inner, world, beat: habits.beat, audit: audit.clone() });
        Box::new(Caller { timers, audit })
    }

    fn next(&mut self, ask: Ask<'_>) -> (String, Request) {
        let (client, now) = (ask.client, ask.now);
        let (words, request) = self.inner.next(ask);
        if request.write
            && let Some((aside, payload)) = self.aside(request.shard, now)
        {
            let shard = request.shard;
            self.doing.insert(client, Doing::Aside(aside, request));
            return (words, Request { shard, payload, write: true, staleness: None });
        }
        (words, self.send(client, request))
    }

    fn ended(&mut self, client: u32, now: Duration, outcome: Outcome) -> Result<Then, String> {
        self.audit.borrow().check()?;
        match self.doing.remove(&client) {
            None => self.inner.ended(client, now, outcome),
            Some(Doing::Read) => self.tell(client, now, outcome),
            Some(Doing::Write) => {
                let outcome = match outcome {
                    Outcome::Replied(reply) => match TimerReply::decode(&reply) {
                        Ok(TimerReply::Applied(reply)) => Outcome::Replied(reply),
                        other => return Err(format!("a plain entry is answered {other:?}")),
                    },
                    other => other,
                };
                self.tell(client, now, outcome)
            }
            Some(Doing::Aside(aside, write)) => {
                self.aside_ended(write.shard, &aside, &outcome)?;
                Ok(Then::Ask(self.send(client, write)))
            }
        }
    }

    fn final_read(&mut self, number: usize, ask: Ask<'_>) -> Option<(String, Request)> {
        self.is_over = true;
        let client = ask.client;
        let (words, request) = self.inner.final_read(number, ask)?;
        Some((words, self.send(client, request)))
    }

    fn is_done(&self) -> bool {
        let audit = self.audit.borrow();
        let fired = self.required.iter().all(|token| audit.fired.contains_key(token));
        (fired || audit.wrong.is_some()) && self.inner.is_done()
    }

    fn verdict(&mut self) -> Result<(), String> {
        let audit = self.audit.borrow();
        audit.check()?;
        for _ in &audit.fired {
            self.world.count("timer.fired");
        }
        if let Some(token) = self.required.iter().find(|token| !audit.fired.contains_key(token)) {
            return Err(format!(
                "timer {token} has not fired, due at {:?}",
                audit.due_ms.get(token)
            ));
        }
        if let Some(token) = self.cancelled.iter().find(|token| audit.fired.contains_key(token)) {
            return Err(format!("timer {token} was cancelled, and has fired"));
        }
        drop(audit);
        self.inner.verdict()
    }
}

/// Between timers and the workload's machine: takes what fires.
struct Receiver {
    inner: Box<dyn StateMachine>,
    world: World,
    beat: Option<Duration>,
    audit: Rc<RefCell<Audit>>,
}

impl StateMachine for Receiver {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        let token = entry.payload.strip_prefix(MARK).and_then(|token| token.try_into().ok());
        match token {
            Some(token) => {
                let token = Token::from_be_bytes(token);
                self.audit.borrow_mut().fired(token, entry.shard, entry.index);
                reply.put_u64(token);
            }
            None if &entry.payload[..] == BEAT => {}
            None => self.inner.apply(entry, reply),
        }
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.inner.query(request, reply);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        self.inner.snapshot()
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        self.inner.restore(part)
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        Some(self)
    }
}

impl LeaderHook for Receiver {
    fn times(&self) -> HookTimes {
        HookTimes { every: self.beat, ..HookTimes::NEVER }
    }

    fn call(&self, call: HookCall) -> Vec<Bytes> {
        if let Some(beat) = self.beat {
            self.audit.borrow_mut().beat(&call, beat, self.world.now());
        }
        vec![Bytes::from_static(BEAT)]
    }
}

/// Around the timers: knows what clocks leaders have seen.
struct Caller {
    timers: Timers<Receiver>,
    audit: Rc<RefCell<Audit>>,
}

impl StateMachine for Caller {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        self.timers.apply(entry, reply);
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        self.timers.query(request, reply);
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        self.timers.snapshot()
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        self.timers.restore(part)
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        Some(self)
    }
}

impl LeaderHook for Caller {
    fn times(&self) -> HookTimes {
        self.timers.times()
    }

    fn call(&self, call: HookCall) -> Vec<Bytes> {
        let mut audit = self.audit.borrow_mut();
        audit.clock_ms = audit.clock_ms.max(call.unix_ms);
        drop(audit);
        self.timers.call(call)
    }
}
