//! Good and bad histories, a comparison with trying out every order, and long ones.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;

use super::model::{Next, State};
use super::search::Search;
use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn value(text: &str) -> Reply {
    Reply::Value(bytes(text))
}

fn set(text: &str) -> Call {
    Call::Set(bytes(text), None)
}

fn op(start: u64, end: u64, call: Call, reply: Reply) -> Operation {
    Operation { client: 0, start, call, end: End::Replied(end, reply), times: Times::UNKNOWN }
}

fn lost(start: u64, call: Call) -> Operation {
    Operation { client: 0, start, call, end: End::Unknown, times: Times::UNKNOWN }
}

/// Some time after now.
const EXPIRE: Call = Call::Expire(Deadline::After(1));

#[track_caller]
fn good(history: &[Operation]) {
    check(history).unwrap();
}

#[track_caller]
fn bad(history: &[Operation]) {
    let error = check(history).unwrap_err();
    assert!(matches!(error, HistoryError::NotLinearizable { .. }), "{error}");
}

#[test]
fn an_acknowledged_write_that_is_lost() {
    bad(&[op(1, 2, set("a"), Reply::Ok), op(3, 4, Call::Get, Reply::Nil)]);
    bad(&[
        op(1, 2, set("a"), Reply::Ok),
        op(3, 4, set("b"), Reply::Ok),
        op(5, 6, Call::Get, value("a")),
    ]);
    good(&[
        op(1, 5, set("a"), Reply::Ok),
        op(2, 4, set("b"), Reply::Ok),
        op(6, 7, Call::Get, value("a")),
    ]);
}

#[test]
fn a_stale_read() {
    bad(&[
        op(1, 2, set("a"), Reply::Ok),
        op(3, 10, set("b"), Reply::Ok),
        op(4, 5, Call::Get, value("b")),
        op(6, 7, Call::Get, value("a")),
    ]);
}

#[test]
fn a_value_that_nobody_wrote() {
    let read = op(3, 4, Call::Get, value("x"));
    let refused = Operation { end: End::Refused, ..lost(1, set("x")) };
    for history in [vec![read.clone()], vec![refused, read.clone()], vec![read, lost(5, set("x"))]]
    {
        assert!(matches!(check(&history), Err(HistoryError::Phantom { .. })));
    }
}

#[test]
fn an_operation_of_unknown_outcome_may_take_effect_late_or_never() {
    good(&[op(1, 2, set("a"), Reply::Ok), lost(3, set("b")), op(4, 5, Call::Get, value("a"))]);
    let late = [
        op(1, 2, set("a"), Reply::Ok),
        lost(3, set("b")),
        op(4, 5, Call::Get, value("a")),
        op(6, 7, Call::Get, value("b")),
    ];
    good(&late);
    let back = [&late[..], &[op(8, 9, Call::Get, value("a"))]].concat();
    bad(&back);
}

/// What the first write put there is gone before anybody saw it, by a deletion of which nobody knows.
#[test]
fn a_deletion_that_finds_nothing_may_have_removed_what_nobody_saw() {
    let read = |at| op(at, at + 1, Call::Get, value("b"));
    let history = |removed: &[Operation]| {
        let writes =
            [op(1, 20, set("a"), Reply::Ok), op(2, 10, Call::SetNx(bytes("b")), Reply::Ok)];
        [&writes[..], &[op(3, 4, Call::Get, Reply::Nil)], removed, &[read(12), read(22)]].concat()
    };
    good(&history(&[lost(5, Call::Del)]));
    good(&history(&[op(5, 9, Call::Del, Reply::Int(1))]));
    bad(&history(&[]));
    bad(&history(&[op(5, 9, Call::Del, Reply::Int(0))]));
    bad(&history(&[lost(13, Call::Del)]));
}

#[test]
fn an_increment_counted_twice_or_not_at_all() {
    let one = op(1, 2, Call::Incr(1), Reply::Int(1));
    bad(&[one.clone(), op(3, 4, Call::Get, value("2"))]);
    bad(&[one.clone(), op(3, 4, Call::Incr(1), Reply::Int(1))]);
    let unknown = [one, lost(3, Call::Incr(1)), lost(4, Call::Incr(1))];
    for n in 1..=3 {
        good(&[&unknown[..], &[op(5, 6, Call::Get, value(&n.to_string()))]].concat());
    }
    bad(&[&unknown[..], &[op(5, 6, Call::Get, value("4"))]].concat());
}

#[test]
fn appends_conditions_and_deletions() {
    let begin = [op(1, 2, set("a"), Reply::Ok), op(3, 4, Call::Append(bytes("b")), Reply::Int(2))];
    good(&[&begin[..], &[op(5, 6, Call::Get, value("ab"))]].concat());
    bad(&[&begin[..], &[op(5, 6, Call::Get, value("a"))]].concat());
    let taken = op(5, 6, Call::SetNx(bytes("n")), Reply::Nil);
    let free = op(5, 6, Call::SetNx(bytes("n")), Reply::Ok);
    good(&[&begin[..], std::slice::from_ref(&taken)].concat());
    bad(&[&begin[..], std::slice::from_ref(&free)].concat());
    good(&[&begin[..], &[lost(3, Call::Del), free.clone()]].concat());
    bad(&[op(1, 2, Call::Del, Reply::Int(1))]);
    bad(&[&begin[..], &[op(5, 6, Call::Del, Reply::Int(0))]].concat());
    bad(&[op(1, 2, Call::Del, Reply::Int(0)), taken]);
    good(&[op(1, 2, set("x"), Reply::Ok), op(3, 4, Call::Incr(1), Reply::Error)]);
    bad(&[op(1, 2, set("7"), Reply::Ok), op(3, 4, Call::Incr(1), Reply::Error)]);
}

#[test]
fn a_key_with_a_time_to_live_may_go_but_does_not_come_back() {
    let begin = [op(1, 2, set("a"), Reply::Ok), op(3, 4, EXPIRE, Reply::Int(1))];
    let read = |at, reply| op(at, at + 1, Call::Get, reply);
    good(&[&begin[..], &[read(5, value("a")), read(7, Reply::Nil)]].concat());
    bad(&[&begin[..], &[read(5, Reply::Nil), read(7, value("a"))]].concat());
    let renewed = [&begin[..], &[op(5, 6, set("b"), Reply::Ok), read(7, Reply::Nil)]].concat();
    bad(&renewed);
    bad(&[op(1, 2, EXPIRE, Reply::Int(1))]);
}

#[test]
fn a_recorder_keeps_keys_apart_and_tells_the_story() {
    let mut recorder = Recorder::default();
    let (a, b) = (bytes("a"), bytes("b"));
    let write = recorder.begin(1, &a, set("v"));
    recorder.replied(&write, Reply::Ok);
    let refused = recorder.begin(1, &b, set("w"));
    recorder.refused(&refused);
    let read = recorder.begin(2, &b, Call::Get);
    recorder.replied(&read, Reply::Nil);
    recorder.check().unwrap();
    assert_eq!(
        (recorder.replies(), recorder.keys().count(), recorder.history(&b).len()),
        (2, 2, 2)
    );
    let read = recorder.begin(2, &a, Call::Get);
    recorder.replied(&read, Reply::Nil);
    let error = recorder.check().unwrap_err();
    assert_eq!(error.key, a);
    let text = error.to_string();
    assert!(text.contains("\"v\"") && text.contains("client 2: Get -> Nil"), "{text}");
}

/// Tries out every order.
fn brute_force(history: &[Operation], placed: u32, state: &State) -> bool {
    let known = |at: usize| matches!(history[at].end, End::Replied(..));
    let open: Vec<usize> = (0..history.len()).filter(|at| placed >> at & 1 == 0).collect();
    if open.iter().all(|at| !known(*at)) {
        return true;
    }
    // It expires after what has taken effect, and before the rest ends.
    let highs = open.iter().map(|at| &history[*at]).filter(|op| matches!(op.end, End::Replied(..)));
    let high = highs.map(|op| op.times.high).min().unwrap();
    if state.may_expire(high) && brute_force(history, placed, &State::NONE) {
        return true;
    }
    open.iter().any(|&at| {
        let op = &history[at];
        let too_late = open.iter().any(|other| match &history[*other].end {
            End::Replied(end, _) => *end < op.start,
            _ => false,
        });
        if too_late || op.end == End::Refused {
            return false;
        }
        let reply = match &op.end {
            End::Replied(_, reply) => Some(reply),
            _ => None,
        };
        match state.after(&op.call, &op.times, reply) {
            None => false,
            Some(Next::Same) => brute_force(history, placed | 1 << at, state),
            Some(Next::Changed(next)) => brute_force(history, placed | 1 << at, &next),
        }
    })
}

fn op_effect(state: &State, call: &Call) -> (Reply, State) {
    let (reply, next) = state.apply(call, &Times::UNKNOWN);
    match next {
        Next::Same => (reply, state.clone()),
        Next::Changed(next) => (reply, next),
    }
}

fn any_call(rng: &mut Rng) -> Call {
    let part = ["a", "b", "ab", "1", "2"][rng.usize(..5)];
    match rng.u32(..20) {
        0..=6 => Call::Get,
        7..=11 => set(part),
        12 => Call::SetNx(bytes(part)),
        13..=14 => Call::Del,
        15..=16 => Call::Incr(rng.i64(1..3)),
        17..=18 => Call::Append(bytes(part)),
        _ => EXPIRE,
    }
}

/// A history that one copy has shown to clients; with a bad copy, or a liar, it may be none.
fn random(rng: &mut Rng, count: usize, clients: u32, lies: bool) -> Vec<Operation> {
    let unknown = [0, 10, 40][rng.usize(..3)];
    let mut state = State::NONE;
    let (mut now, mut history, mut free) = (0, Vec::new(), vec![0; clients as usize]);
    for _ in 0..count {
        let client = rng.usize(..free.len());
        now += rng.u64(1..4);
        let call = any_call(rng);
        let start = now.max(free[client]);
        let effect = start + rng.u64(..8);
        let end = effect + rng.u64(1..8);
        free[client] = end + 1;
        history.push((effect, start, end, client as u32, call));
    }
    history.sort_by_key(|(effect, ..)| *effect);
    let mut operations: Vec<Operation> = Vec::new();
    for (_, start, end, client, call) in history {
        if state.deadline.is_some() && rng.u32(..4) == 0 {
            state = State::NONE;
        }
        let (reply, next) = op_effect(&state, &call);
        let is_unknown = rng.u32(..100) < unknown;
        if !(is_unknown && rng.bool()) {
            state = next;
        }
        let end = if is_unknown { End::Unknown } else { End::Replied(end, reply) };
        operations.push(Operation { client, start, call, end, times: Times::UNKNOWN });
    }
    if lies {
        let replies: Vec<Reply> = operations
            .iter()
            .filter_map(|op| match &op.end {
                End::Replied(_, reply) if op.call == Call::Get => Some(reply.clone()),
                _ => None,
            })
            .collect();
        for op in &mut operations {
            if let End::Replied(_, reply) = &mut op.end
                && rng.u32(..4) == 0
            {
                *reply = match &*reply {
                    Reply::Value(_) | Reply::Nil if op.call == Call::Get => {
                        replies[rng.usize(..replies.len())].clone()
                    }
                    Reply::Int(n) => Reply::Int((*n + rng.i64(-1..2)).max(0)),
                    other => other.clone(),
                };
            }
        }
    }
    operations.sort_by_key(|op| op.start);
    operations
}

#[test]
fn it_agrees_with_trying_out_every_order() {
    let (mut fine, mut wrong) = (0, 0);
    for seed in 0..30_000 {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(2..9);
        let clients = rng.u32(1..6);
        let lies = rng.u32(..3) > 0;
        let history = random(&mut rng, count, clients, lies);
        let expected = brute_force(&history, 0, &State::NONE);
        let found = check(&history);
        let story = || history.iter().map(|op| format!("{op}\n")).collect::<String>();
        assert_eq!(found.is_ok(), expected, "seed {seed}: {found:?}\n{}", story());
        assert!(expected || lies, "seed {seed}: what one copy has shown is fine");
        if expected { fine += 1 } else { wrong += 1 }
    }
    assert!(fine > 5000 && wrong > 3000, "{fine} and {wrong}");
}

/// A long history of a key under fire: unique values, many at once, many of unknown outcome.
fn long(rng: &mut Rng, count: usize, clients: u32, unknown: u32) -> Vec<Operation> {
    let mut state = State::NONE;
    let (mut now, mut planned, mut free) = (0, Vec::new(), vec![0_u64; clients as usize]);
    for number in 0..count {
        let client = rng.usize(..free.len());
        now += 1;
        let unique = format!("value {number};");
        let call = match rng.u32(..20) {
            0..=7 => Call::Get,
            8..=13 => set(&unique),
            14 => Call::SetNx(bytes(&unique)),
            15 => Call::Del,
            16..=18 => Call::Append(bytes(&unique)),
            _ => set(&number.to_string()),
        };
        let start = now.max(free[client]);
        let effect = start + rng.u64(..u64::from(clients));
        let end = effect + rng.u64(1..=u64::from(clients));
        free[client] = end + 1;
        planned.push((effect, start, end, client as u32, call));
    }
    planned.sort_by_key(|(effect, ..)| *effect);
    let mut history = Vec::new();
    for (_, start, end, client, call) in planned {
        let is_unknown = rng.u32(..100) < unknown;
        let (reply, next) = op_effect(&state, &call);
        if !(is_unknown && rng.bool()) {
            state = next;
        }
        let end = if is_unknown { End::Unknown } else { End::Replied(end, reply) };
        history.push(Operation { client, start, call, end, times: Times::UNKNOWN });
    }
    history.sort_by_key(|op| op.start);
    history
}

#[test]
fn long_histories_with_much_under_way_are_decided_in_few_steps() {
    let (mut most, mut caught) = (0, 0);
    for seed in 0..30 {
        let mut rng = Rng::with_seed(seed);
        let (clients, unknown) = (rng.u32(2..6), rng.u32(..6));
        let history = long(&mut rng, 300, clients, unknown);
        let steps = Search::new(&history).run().unwrap();
        most = most.max(steps);
        // One read too late of a value that was overwritten long ago.
        let mut wrong = history;
        let read = |op: &&Operation| {
            op.call == Call::Get && matches!(op.end, End::Replied(_, Reply::Value(_)))
        };
        let Some(End::Replied(_, old)) = wrong.iter().take(250).find(read).map(|op| op.end.clone())
        else {
            continue;
        };
        let end = wrong.len() as u64 * 1000;
        wrong.push(op(end, end + 1, set("last"), Reply::Ok));
        wrong.push(op(end + 2, end + 3, Call::Get, old));
        let found = Search::new(&wrong).run();
        caught += u32::from(matches!(found, Err(HistoryError::NotLinearizable { .. })));
    }
    assert!(most < 500_000, "{most} steps");
    assert_eq!(caught, 30, "and wrong ones are still found");
}

#[test]
fn dozens_of_lost_increments_are_no_trouble() {
    let mut history: Vec<_> = (0..60).map(|at| lost(at + 1, Call::Incr(1))).collect();
    for (at, seen) in (100..).step_by(2).zip([3, 3, 17, 40, 60]) {
        history.push(op(at, at + 1, Call::Get, value(&format!("{seen}"))));
    }
    let steps = Search::new(&history).run().unwrap();
    assert!(steps < 5000, "{steps} steps");
    history.push(op(200, 201, Call::Get, value("61")));
    bad(&history);
}

/// Sets to "old", then to "new" and is told so; then reads, with a bound that reaches back to `since`.
fn read_with_bound(since: impl Fn(u64, u64) -> u64, found: &'static str) -> Result<u32, KeyError> {
    let mut recorder = Recorder::default();
    let key = Bytes::from_static(b"k");
    let mut done = Vec::new();
    for value in ["old", "new"] {
        let id = recorder.begin(1, &key, Call::Set(Bytes::from_static(value.as_bytes()), None));
        recorder.replied(&id, Reply::Ok);
        done.push(recorder.now());
    }
    let read = recorder.begin(2, &key, Call::Get);
    recorder.backdate(&read, since(done[0], done[1]));
    recorder.replied(&read, Reply::Value(Bytes::from_static(found.as_bytes())));
    let later = recorder.begin(1, &key, Call::Set(Bytes::from_static(b"future"), None));
    recorder.replied(&later, Reply::Ok);
    recorder.check()
}

#[test]
fn a_read_with_a_bound_may_be_as_old_as_that_and_no_older() {
    let (within, outside) = (|_: u64, new: u64| new, |_: u64, new: u64| new + 1);
    assert_eq!(read_with_bound(within, "old"), Ok(0));
    assert_eq!(read_with_bound(within, "new"), Ok(0));
    assert_eq!(read_with_bound(outside, "new"), Ok(0));
    assert!(
        read_with_bound(outside, "old").is_err(),
        "what was done before the bound is to be seen"
    );
    assert!(read_with_bound(within, "future").is_err(), "what came later is not");
}
