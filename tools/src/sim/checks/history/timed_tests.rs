//! Keys that expire: one copy of the data with a log that carries clocks, right and wrong.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// A read goes by the reader's clock alone.
    ReadersClock,
    Never,
    /// A while before the deadline.
    Early,
    /// A while after the deadline.
    Late,
}

/// What a client does: nothing, something that has not taken effect, something that has.
enum Client {
    Idle,
    Asked(OperationId, Call, u64),
    Done(OperationId, Reply, u64, bool),
}

#[derive(Default)]
struct Copy {
    log_time: u64,
    value: Option<Bytes>,
    deadline: Option<u64>,
}

impl Copy {
    /// The reply, and the clock that went to the log for it.
    fn perform(&mut self, call: &Call, clock: u64, flaw: Flaw) -> (Reply, bool) {
        if flaw == Flaw::Never {
            self.log_time = self.log_time.max(clock);
            return (self.work(call, 0), true);
        }
        let at = match flaw {
            Flaw::Early => clock + 30,
            Flaw::Late => clock.saturating_sub(30),
            _ => clock,
        };
        let is_read = matches!(call, Call::Get | Call::ExpireTime);
        let due = |time: u64| self.deadline.is_some_and(|deadline| deadline <= time);
        let mut in_log = !is_read;
        if is_read && due(at) && !due(self.log_time) {
            if flaw == Flaw::ReadersClock {
                return (if *call == Call::Get { Reply::Nil } else { Reply::Int(-2) }, false);
            }
            in_log = true; // it lets the time advance
        }
        if in_log {
            self.log_time = self.log_time.max(clock);
        }
        let log_time = match flaw {
            Flaw::Early => self.log_time + 30,
            Flaw::Late => self.log_time.saturating_sub(30),
            _ => self.log_time,
        };
        (self.work(call, log_time), in_log)
    }

    fn work(&mut self, call: &Call, due_at: u64) -> Reply {
        if self.deadline.is_some_and(|deadline| deadline <= due_at) {
            (self.value, self.deadline) = (None, None);
        }
        let deadline = |deadline: &Deadline| match deadline {
            Deadline::At(at) => *at,
            Deadline::After(ms) => self.log_time + ms,
        };
        let there = self.value.is_some();
        match call {
            Call::Set(value, until) => {
                self.deadline = until.as_ref().map(deadline);
                self.value = Some(value.clone());
                Reply::Ok
            }
            Call::Expire(until) if there => {
                self.deadline = Some(deadline(until));
                Reply::Int(1)
            }
            Call::Expire(_) => Reply::Int(0),
            Call::Persist => Reply::Int(i64::from(self.deadline.take().is_some())),
            Call::ExpireTime if there => {
                Reply::Int(self.deadline.map_or(-1, |deadline| deadline as i64))
            }
            Call::ExpireTime => Reply::Int(-2),
            Call::Get => self.value.clone().map_or(Reply::Nil, Reply::Value),
            _ => unreachable!("not asked here"),
        }
    }
}

fn call(rng: &mut Rng, number: u64, now: u64) -> Call {
    let ttl = rng.u64(1..200);
    let deadline = if rng.bool() { Deadline::After(ttl) } else { Deadline::At(now + ttl) };
    match rng.u32(..10) {
        0..=4 => Call::Get,
        5 => Call::ExpireTime,
        6 | 7 => Call::Set(format!("v{number};").into(), rng.bool().then_some(deadline)),
        8 => Call::Expire(deadline),
        _ => Call::Persist,
    }
}

fn is_accepted(seed: u64, flaw: Flaw) -> bool {
    let mut rng = Rng::with_seed(seed);
    let skews: Vec<u64> = (0..3).map(|_| rng.u64(..300)).collect();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::Idle).collect();
    let (mut copy, mut log_time) = (Copy::default(), LogTime::default());
    let (mut recorder, key) = (Recorder::default(), Bytes::from("k"));
    for now in 0..400 {
        let at = rng.usize(..3);
        let clock = 1000 + 5 * now + skews[at];
        clients[at] = match std::mem::replace(&mut clients[at], Client::Idle) {
            Client::Idle => {
                let call = call(&mut rng, now, clock.max(log_time.low()));
                // A read may let the time advance.
                let is_read = matches!(call, Call::Get | Call::ExpireTime);
                let low = if is_read { log_time.low() } else { log_time.low().max(clock) };
                log_time.begin(clock);
                let times = Times { low, high: u64::MAX, clock };
                Client::Asked(recorder.begin_at(at as u32, &key, call.clone(), times), call, clock)
            }
            Client::Asked(id, call, clock) => {
                let (reply, in_log) = copy.perform(&call, clock, flaw);
                Client::Done(id, reply, clock, in_log)
            }
            Client::Done(id, reply, clock, in_log) => {
                log_time.end(clock, if in_log { Entry::Applied } else { Entry::Dropped });
                recorder.replied_by(&id, reply, log_time.high());
                Client::Idle
            }
        }
    }
    recorder.check().is_ok()
}

#[test]
fn what_expires_in_time_is_accepted_and_nothing_else() {
    for seed in 0..300 {
        assert!(is_accepted(seed, Flaw::None), "seed {seed}");
    }
    for flaw in [Flaw::ReadersClock, Flaw::Never, Flaw::Early, Flaw::Late] {
        let accepted = (0..100).filter(|seed| is_accepted(*seed, flaw)).count();
        assert!(accepted < 50, "{flaw:?} is accepted {accepted} times of 100");
    }
}

/// Nobody knows of either, but only both together explain the read.
#[test]
fn a_value_that_expires_makes_room_for_another_one() {
    let times = |low| Times { low, high: u64::MAX, clock: low };
    let lost = |start, call, low| Operation {
        client: 0,
        start,
        call,
        end: End::Unknown,
        times: times(low),
    };
    let done = |start, call, reply, low| {
        let end = End::Replied(start + 1, reply);
        Operation { client: 1, start, call, end, times: times(low) }
    };
    let [a, b, c] = ["a", "b", "c"].map(Bytes::from);
    // All of these make a value of nothing, and none of them would make it of `b`.
    let makers = [
        (Call::SetNx(c.clone()), c.clone()),
        (Call::Append(c.clone()), c.clone()),
        (Call::Incr(7), Bytes::from("7")),
    ];
    for (maker, made) in makers {
        let history = |deadline| {
            [
                done(1, Call::Set(a.clone(), None), Reply::Ok, 100),
                lost(3, Call::Set(b.clone(), Some(Deadline::At(deadline))), 200),
                lost(4, maker.clone(), 300),
                done(5, Call::Get, Reply::Value(made.clone()), 300),
            ]
        };
        check(&history(250)).unwrap();
        let mut read = history(1000);
        read[3].times.high = 400;
        assert!(check(&read).is_err(), "it cannot have expired: {maker:?}");
    }
}
