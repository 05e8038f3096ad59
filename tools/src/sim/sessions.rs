//! Any workload through client sessions: what may have been done is asked for again, and is done once.
//!
//! [`WithSessions`] stands between the simulator and a [`Workload`]. In half of the seeds it puts the state machines
//! into [`Sessions`], and the writes of the workload's clients into sessions, each with a client of its own for every
//! shard. Where the workload would be told that nobody knows, its request is sent again, and the workload gets
//! the answer in the end: to its judge that is one operation, which took longer. One that was done twice or
//! was lost then shows like any other wrong answer.
//!
//! On the way clients also do what sessions have to bear: they lose answers and ask again, send copies of requests that
//! were answered long ago, leave requests unanswered and come back to them, acknowledge what they never got an answer
//! to, let their sessions expire, close them, and change the limits under way.
//!
//! What is wrong at once: an answered request that is applied when it comes again, or is answered differently; a
//! request that was sent once and is told to be a duplicate, or acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::session::{
    ClientSession, Entry, RequestError, RequestId, SessionLimits, SessionReply, Sessions,
};
use coracle_engine::{ShardId, StateMachine};
use fastrand::Rng;

use super::kv::KvWorkload;
use super::settings::{Settings, log_uniform, one_of};
use super::timers::WithTimers;
use super::workload::{Ask, Outcome, Request, Then, Workload};
use super::world::World;

/// Answered requests of a shard that are kept to be sent again.
const OLD_MAX: usize = 16;

/// A workload whose writes go through sessions.
pub struct WithSessions<W> {
    inner: W,
    world: World,
    /// `None`: this seed has no sessions.
    habits: Option<Habits>,
    /// What each client is doing.
    doing: BTreeMap<u32, Doing>,
    /// The session that each client has with a shard.
    sessions: BTreeMap<(u32, ShardId), ClientSession>,
    /// Requests that were answered, to be sent again.
    old: BTreeMap<ShardId, Vec<Old>>,
    /// The final reads have begun: what they have to write needs no session.
    is_over: bool,
}

/// The habits of a seed.
struct Habits {
    rng: Rng,
    /// Share of writes that go through a session.
    share: f64,
    /// How often a request is sent again before its client gives up.
    tries: u32,
    /// Share of answers that get lost on the way to the client.
    lost: f64,
    /// Share of requests given up that may be asked for again later.
    resumed: f64,
    /// Share of writes before which something else is proposed.
    aside: f64,
    idle_timeout_ms: u64,
}

impl Habits {
    fn draw(mut rng: Rng, settings: &Settings) -> Option<Self> {
        if rng.bool() {
            return None;
        }
        let idle_timeout_ms = log_uniform(&mut rng, 10, 40 * settings.think_ms_max + 1000);
        Some(Self {
            share: one_of(&mut rng, &[0.3, 0.9, 1.0]),
            tries: one_of(&mut rng, &[1, 5, 20]),
            lost: one_of(&mut rng, &[0.0, 0.05, 0.3]),
            resumed: one_of(&mut rng, &[0.0, 0.5, 1.0]),
            aside: one_of(&mut rng, &[0.05, 0.3]),
            idle_timeout_ms,
            rng,
        })
    }

    fn limits(&mut self) -> SessionLimits {
        let rng = &mut self.rng;
        SessionLimits {
            sessions: one_of(rng, &[2, 8, 30]),
            window: one_of(rng, &[1, 2, 8]),
            reply_bytes: one_of(rng, &[3, 1000]),
            session_bytes: one_of(rng, &[70, 1000]),
            shard_bytes: one_of(rng, &[500, 10_000]),
            idle_timeout_ms: self.idle_timeout_ms,
        }
    }
}

/// A request that was answered.
struct Old {
    payload: Bytes,
    reply: Option<Bytes>,
}

/// What a client waits for.
enum Doing {
    /// A read.
    Read,
    /// A write outside of sessions.
    Plain,
    /// Something on the way to this write.
    Aside(Aside, Request),
    /// A session, for this write.
    Opening { write: Request, tries: u32 },
    /// A write that was sent so many times before.
    Asking { shard: ShardId, request: RequestId, tries: u32 },
}

/// What is proposed besides the writes of the workload.
enum Aside {
    /// A clock, limits, a session kept alive or closed.
    Small,
    /// A copy of a request that was answered.
    Copy { reply: Option<Bytes> },
    /// A request that was left unanswered, and that the workload knows nothing more of.
    Resumed(RequestId),
}

impl WithSessions<WithTimers<KvWorkload>> {
    /// Clients of the key-value server, some of which set timers.
    pub fn make(settings: &Settings, world: &World) -> Self {
        let inner = WithTimers::over(KvWorkload::make(settings, world), settings, world);
        Self::over(inner, settings, world)
    }
}

impl<W: Workload> WithSessions<W> {
    /// Puts the clients of a workload into sessions, in half of the seeds.
    pub fn over(inner: W, settings: &Settings, world: &World) -> Self {
        Self {
            inner,
            world: world.clone(),
            habits: Habits::draw(world.rng_for("sessions"), settings),
            doing: BTreeMap::new(),
            sessions: BTreeMap::new(),
            old: BTreeMap::new(),
            is_over: false,
        }
    }

    /// Sends a request of the workload on its way.
    fn send(&mut self, client: u32, request: Request) -> Request {
        let Some(habits) = &mut self.habits else { return request };
        if !request.write {
            self.doing.insert(client, Doing::Read);
            return request;
        }
        if self.is_over || habits.rng.f64() >= habits.share {
            self.doing.insert(client, Doing::Plain);
            let payload = Entry::Plain(request.payload).encode();
            return Request { payload, ..request };
        }
        self.send_in_session(client, request)
    }

    fn send_in_session(&mut self, client: u32, write: Request) -> Request {
        let shard = write.shard;
        let Some(session) = self.sessions.get_mut(&(client, shard)) else {
            self.doing.insert(client, Doing::Opening { write, tries: 0 });
            return Request { shard, payload: ClientSession::open(), write: true, staleness: None };
        };
        // What was left unanswered may fill the window; an expired session is not here.
        let (request, payload) = loop {
            match session.begin(&write.payload) {
                Ok(begun) => break begun,
                Err(_) => session.give_up(session.first()),
            }
        };
        self.doing.insert(client, Doing::Asking { shard, request, tries: 0 });
        Request { shard, payload, write: true, staleness: None }
    }

    /// Something to propose before a write, sometimes.
    fn aside(&mut self, client: u32, shard: ShardId, unix_ms: u64) -> Option<(Aside, Bytes)> {
        let habits = self.habits.as_mut()?;
        if habits.rng.f64() >= habits.aside {
            return None;
        }
        let kind = habits.rng.u8(..16);
        let session = self.sessions.get_mut(&(client, shard));
        Some(match kind {
            0 => (Aside::Small, Entry::Configure(habits.limits()).encode()),
            1..5 => (Aside::Small, Entry::Tick { now_ms: unix_ms }.encode()),
            5 => (Aside::Small, session?.keep_alive()),
            6 => {
                let closed = self.sessions.remove(&(client, shard))?;
                (Aside::Small, closed.close())
            }
            7..10 => {
                let session = session?;
                let request = session.waiting().next()?;
                self.world.count("session.resumed");
                (Aside::Resumed(request), session.again(request)?)
            }
            _ => {
                let old = self.old.get(&shard)?;
                let Old { payload, reply } = &old[habits.rng.usize(..old.len())];
                self.world.count("session.late_copy");
                (Aside::Copy { reply: reply.clone() }, payload.clone())
            }
        })
    }

    /// Something besides the writes of the workload was answered.
    fn aside_answered(
        &mut self,
        client: u32,
        shard: ShardId,
        aside: Aside,
        reply: &Bytes,
    ) -> Result<(), String> {
        let answer = SessionReply::decode(reply).map_err(|error| error.to_string())?;
        let is_right = match (&aside, &answer) {
            (Aside::Small, SessionReply::Done | SessionReply::UnknownSession) => true,
            (Aside::Copy { reply: Some(first) }, SessionReply::Duplicate(again)) => first == again,
            (
                Aside::Copy { .. },
                SessionReply::Duplicate(_)
                | SessionReply::ReplyGone
                | SessionReply::Acknowledged
                | SessionReply::UnknownSession,
            ) => true,
            (Aside::Resumed(request), _) => {
                let Some(session) = self.sessions.get_mut(&(client, shard)) else { return Ok(()) };
                match session.answered(*request, reply) {
                    Ok(_) | Err(RequestError::Full) => true,
                    Err(RequestError::NotApplied | RequestError::Unknown) => {
                        self.sessions.remove(&(client, shard));
                        true
                    }
                    Err(RequestError::NotWaiting(_) | RequestError::Malformed(_)) => false,
                }
            }
            _ => false,
        };
        match (is_right, aside) {
            (true, _) => Ok(()),
            (false, Aside::Copy { reply }) => {
                Err(format!("a request that was answered {reply:?} came again: {answer:?}"))
            }
            (false, _) => Err(format!("an entry of sessions is answered {answer:?}")),
        }
    }

    /// A request of a session ended. What the workload is told, or `None` to send this again.
    fn asked(
        &mut self,
        client: u32,
        shard: ShardId,
        request: RequestId,
        tries: u32,
        outcome: Outcome,
    ) -> Result<Result<Outcome, Request>, String> {
        let Some(habits) = &mut self.habits else { return Ok(Ok(outcome)) };
        let key = (client, shard);
        let Some(session) = self.sessions.get_mut(&key) else {
            return Err(format!("client {client} has lost its session with shard {shard}"));
        };
        // With one copy, a refusal is one of the request.
        let not_done = if tries == 0 { Outcome::Refused } else { Outcome::Unknown };
        let payload = session.instead(request).unwrap_or_default();
        let outcome = match outcome {
            Outcome::Replied(_) if tries < habits.tries && habits.rng.f64() < habits.lost => {
                self.world.count("session.answer_lost");
                Outcome::Unknown
            }
            outcome => outcome,
        };
        match outcome {
            Outcome::Unknown if tries < habits.tries => {
                let payload = session.again(request).unwrap_or_default();
                self.world.count("session.sent_again");
                self.doing.insert(client, Doing::Asking { shard, request, tries: tries + 1 });
                Ok(Err(Request { shard, payload, write: true, staleness: None }))
            }
            Outcome::Unknown => {
                if habits.rng.f64() >= habits.resumed {
                    session.give_up(request);
                }
                Ok(Ok(Outcome::Unknown))
            }
            Outcome::Refused => {
                session.give_up(request);
                Ok(Ok(not_done))
            }
            Outcome::Replied(reply) => match session.answered(request, &reply) {
                Ok(answer) => {
                    if answer.is_duplicate && tries == 0 {
                        return Err(format!("request {request} was sent once, and is a duplicate"));
                    }
                    if answer.is_duplicate {
                        self.world.count("session.duplicate");
                    }
                    let old = self.old.entry(shard).or_default();
                    if old.len() == OLD_MAX {
                        old.remove(habits.rng.usize(..OLD_MAX));
                    }
                    old.push(Old { payload, reply: answer.reply.clone() });
                    // Without its reply, it is one that was done at some time.
                    Ok(Ok(answer.reply.map_or(Outcome::Unknown, Outcome::Replied)))
                }
                Err(RequestError::Full) => {
                    session.give_up(request);
                    Ok(Ok(not_done))
                }
                Err(RequestError::NotApplied | RequestError::Unknown) => {
                    self.world.count("session.lost");
                    self.sessions.remove(&key);
                    Ok(Ok(not_done))
                }
                Err(RequestError::NotWaiting(_) | RequestError::Malformed(_)) => {
                    let answer = SessionReply::decode(&reply);
                    Err(format!("request {request} is answered {answer:?}"))
                }
            },
        }
    }

    /// The workload is told how its request ended.
    fn tell(&mut self, client: u32, now: Duration, outcome: Outcome) -> Result<Then, String> {
        Ok(match self.inner.ended(client, now, outcome)? {
            Then::Done => Then::Done,
            Then::Ask(next) => Then::Ask(self.send(client, next)),
        })
    }
}

impl<W: Workload> Workload for WithSessions<W> {
    fn machine(&self, shard: ShardId) -> Box<dyn StateMachine> {
        let machine = self.inner.machine(shard);
        match self.habits {
            Some(_) => Box::new(Sessions::new(machine)),
            None => machine,
        }
    }

    fn next(&mut self, ask: Ask<'_>) -> (String, Request) {
        let (client, unix_ms) = (ask.client, ask.unix_ms);
        let (words, request) = self.inner.next(ask);
        if request.write
            && let Some((aside, payload)) = self.aside(client, request.shard, unix_ms)
        {
            let shard = request.shard;
            self.doing.insert(client, Doing::Aside(aside, request));
            return (words, Request { shard, payload, write: true, staleness: None });
        }
        (words, self.send(client, request))
    }

    fn ended(&mut self, client: u32, now: Duration, outcome: Outcome) -> Result<Then, String> {
        let Some(doing) = self.doing.remove(&client) else {
            return self.inner.ended(client, now, outcome);
        };
        match doing {
            Doing::Read => self.tell(client, now, outcome),
            Doing::Plain => {
                let outcome = match outcome {
                    Outcome::Replied(reply) => match SessionReply::decode(&reply) {
                        Ok(SessionReply::Applied(reply)) => Outcome::Replied(reply),
                        other => return Err(format!("a plain entry is answered {other:?}")),
                    },
                    other => other,
                };
                self.tell(client, now, outcome)
            }
            Doing::Aside(aside, write) => {
                if let Outcome::Replied(reply) = outcome {
                    self.aside_answered(client, write.shard, aside, &reply)?;
                }
                Ok(Then::Ask(self.send(client, write)))
            }
            Doing::Opening { write, tries } => match outcome {
                Outcome::Replied(reply) => {
                    let session =
                        ClientSession::opened(&reply).map_err(|error| error.to_string())?;
                    self.sessions.insert((client, write.shard), session);
                    Ok(Then::Ask(self.send_in_session(client, write)))
                }
                Outcome::Unknown
                    if tries < self.habits.as_ref().map_or(0, |habits| habits.tries) =>
                {
                    let shard = write.shard;
                    self.doing.insert(client, Doing::Opening { write, tries: tries + 1 });
                    let payload = ClientSession::open();
                    Ok(Then::Ask(Request { shard, payload, write: true, staleness: None }))
                }
                // The write itself was never sent.
                Outcome::Unknown | Outcome::Refused => self.tell(client, now, Outcome::Refused),
            },
            Doing::Asking { shard, request, tries } => {
                match self.asked(client, shard, request, tries, outcome)? {
                    Ok(outcome) => self.tell(client, now, outcome),
                    Err(again) => Ok(Then::Ask(again)),
                }
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
        self.inner.is_done()
    }

    fn verdict(&mut self) -> Result<(), String> {
        self.inner.verdict()
    }
}
