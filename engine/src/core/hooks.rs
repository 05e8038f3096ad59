//! Calls of the hooks of state machines, on shards that are led here. What is promised: [`crate::hook`].
//!
//! # When
//! After each turn, a touched shard with a hook says when that wants to be called, and the core notes it under two
//! clocks: its own, and the wall clock. With each tick it takes those that are due; so a wall clock that jumps ahead is
//! noticed, one that jumps back only makes late, and shards with nothing due cost nothing, asleep or not.
//!
//! A shard has no place there unless its replica leads, and has applied the first entry of its term: leadership and
//! what is applied change only in turns that touch the shard. It has none either while something that the hook has
//! returned is under way; every outcome comes in a turn that touches the shard, too.
//!
//! # What comes of a call
//! Payloads are proposed like those of clients, and their answers are waited for like a client would. One that ends
//! with an error pauses the hook for a while, in that term.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;

use super::handle::Committed;
use super::run::Core;
use super::shard::Shard;
use crate::env::Env;
use crate::hook::{HookCall, HookTimes};
use crate::limits::{HOOK_PROPOSALS_MAX, HOOK_RETRY_PAUSE, HOOKS_PER_TICK_MAX};
use crate::{ProposeError, Term};

/// When the hooks of a core's shards are due, by their places.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    by_time: BTreeSet<(Duration, usize)>,
    by_clock: BTreeSet<(u64, usize)>,
}

impl Hooks {
    fn is_empty(&self) -> bool {
        self.by_time.is_empty() && self.by_clock.is_empty()
    }

    /// Those that are due, each once, at most so many.
    fn due(&self, now: Duration, unix_ms: u64, most: usize) -> Vec<usize> {
        let by_time = self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, at)| *at);
        let by_clock = self.by_clock.iter().take_while(|(at, _)| *at <= unix_ms);
        let by_clock = by_clock.map(|(_, at)| *at);
        let mut due: Vec<usize> = by_time.take(most).chain(by_clock.take(most)).collect();
        due.sort_unstable();
        due.dedup();
        due.truncate(most);
        due
    }

    fn replace(&mut self, at: usize, before: Due, now: Due) {
        if before == now {
            return;
        }
        if let Some(time) = before.time {
            self.by_time.remove(&(time, at));
        }
        if let Some(clock) = before.clock {
            self.by_clock.remove(&(clock, at));
        }
        self.by_time.extend(now.time.map(|time| (time, at)));
        self.by_clock.extend(now.clock.map(|clock| (clock, at)));
    }
}

/// When a hook is due, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Due {
    time: Option<Duration>,
    clock: Option<u64>,
}

/// How it stands with the hook of a shard.
#[derive(Debug, Default)]
pub(super) struct HookState {
    /// Where it is noted in [`Hooks`].
    noted: Due,
    /// The term that `called` and `paused` are of.
    term: Term,
    /// When the last interval began.
    called: Option<Duration>,
    /// No call before.
    paused: Option<Duration>,
    under_way: Vec<oneshot::Receiver<Result<Committed, ProposeError>>>,
}

impl HookState {
    /// This replica leads in `term`.
    fn lead(&mut self, term: Term) {
        if self.term != term {
            (self.term, self.called, self.paused) = (term, None, None);
        }
    }

    /// When it is due, if nothing is under way.
    fn due(&self, times: HookTimes, now: Duration) -> Due {
        let HookTimes { every, at_unix_ms } = times;
        let next = every.map(|every| self.called.map_or(Duration::ZERO, |at| at + every));
        match self.paused.filter(|paused| *paused > now) {
            // Then it is looked at again.
            Some(paused) if times != HookTimes::NEVER => Due { time: Some(paused), clock: None },
            Some(_) => Due::default(),
            None => Due { time: next, clock: at_unix_ms },
        }
    }

    /// The call that is due, if one is.
    fn call(
        &self,
        shard: &Shard,
        times: HookTimes,
        now: Duration,
        unix_ms: u64,
    ) -> Option<HookCall> {
        let Due { time, clock } = self.due(times, now);
        let interval = time.is_some_and(|time| time <= now);
        let by_clock = clock.is_some_and(|clock| clock <= unix_ms);
        sometimes!(hook_called_by_interval, interval);
        sometimes!(hook_called_by_clock, by_clock);
        let call = HookCall { shard: shard.id, term: self.term, unix_ms, interval };
        (interval || by_clock).then_some(call)
    }

    /// Takes note of what became of proposals.
    fn settle(&mut self, now: Duration) {
        let mut failed = false;
        self.under_way.retain_mut(|answer| match answer.try_recv() {
            Ok(None) => true,
            Ok(Some(Ok(_))) => false,
            Ok(Some(Err(_))) | Err(_) => {
                failed = true;
                false
            }
        });
        if failed {
            sometimes!(hook_refused);
            self.paused = Some(now + HOOK_RETRY_PAUSE);
        }
    }
}

impl<E: Env> Core<E> {
    /// With each tick: calls the hooks that are due.
    pub(super) fn call_hooks(&mut self, now: Duration) {
        if self.hooks.is_empty() || self.inbox.stopping.get() {
            return;
        }
        let unix_ms = self.env.unix_ms();
        for at in self.hooks.due(now, unix_ms, HOOKS_PER_TICK_MAX) {
            let asleep = self.shards[at].raft.is_asleep();
            // It learns the time, and perhaps that it leads no more.
            self.touch(at);
            let shard = &mut self.shards[at];
            let Some(term) = shard.hook_term().filter(|_| shard.may_call_hook()) else {
                sometimes!(hook_held);
                continue;
            };
            let Some(mut state) = shard.hook.take() else { continue };
            state.lead(term);
            let payloads = {
                let machine = shard.machine();
                let called = machine.hook().and_then(|hook| {
                    let call = state.call(shard, hook.times(), now, unix_ms)?;
                    Some((call, hook.call(call)))
                });
                drop(machine);
                let Some((call, payloads)) = called else {
                    shard.hook = Some(state);
                    continue;
                };
                if call.interval {
                    state.called = Some(now);
                }
                sometimes!(hook_retried, state.paused.take().is_some());
                payloads
            };
            sometimes!(hook_called_asleep, asleep);
            self.counters.hook_calls += 1;
            self.shards[at].propose_for_hook(state, payloads);
        }
    }

    /// Brings the times of a hook in line with a shard that something has happened to.
    pub(super) fn account_hook(&mut self, at: usize, now: Duration) {
        let shard = &mut self.shards[at];
        let Some(mut state) = shard.hook.take() else { return };
        state.settle(now);
        let due = match shard.hook_term().filter(|_| shard.halted().is_none()) {
            Some(term) if state.under_way.is_empty() => {
                state.lead(term);
                state.due(HookTimes::of(shard.machine().hook()), now)
            }
            _ => Due::default(),
        };
        self.hooks.replace(at, state.noted, due);
        state.noted = due;
        shard.hook = Some(state);
    }
}

impl Shard {
    /// Proposes what the hook has returned, and waits for the outcomes.
    fn propose_for_hook(&mut self, mut state: Box<HookState>, payloads: Vec<Bytes>) {
        let (count, max) = (payloads.len(), self.payload_bytes_max());
        let fit = payloads.into_iter().take(HOOK_PROPOSALS_MAX).filter(|bytes| bytes.len() <= max);
        let fit: Vec<Bytes> = fit.collect();
        if fit.len() < count {
            sometimes!(hook_went_too_far);
            let left_out = count - fit.len();
            tracing::warn!(
                shard = %self.id,
                "the hook of the state machine returned {count} payloads, and {left_out} of them were left out: at \
                 most {HOOK_PROPOSALS_MAX}, of at most {max} bytes, are proposed"
            );
        }
        for payload in fit {
            let (answer, outcome) = oneshot::channel();
            state.under_way.push(outcome);
            self.propose(payload, None, answer);
        }
        self.hook = Some(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_due_comes_once_and_the_rest_waits() {
        let mut hooks = Hooks::default();
        assert!(hooks.is_empty());
        let due = |time, clock| Due { time, clock };
        hooks.replace(3, Due::default(), due(Some(SECOND), Some(500)));
        hooks.replace(1, Due::default(), due(None, Some(400)));
        hooks.replace(2, Due::default(), due(Some(2 * SECOND), None));
        assert_eq!(hooks.due(Duration::ZERO, 399, 9), [0_usize; 0]);
        assert_eq!(hooks.due(Duration::ZERO, 500, 9), [1, 3]);
        assert_eq!(hooks.due(2 * SECOND, 500, 9), [1, 2, 3]);
        assert_eq!(hooks.due(2 * SECOND, 500, 1).len(), 1);
        hooks.replace(3, due(Some(SECOND), Some(500)), Due::default());
        hooks.replace(1, due(None, Some(400)), due(None, Some(400)));
        assert_eq!(hooks.due(SECOND, u64::MAX, 9), [1]);
        hooks.replace(1, due(None, Some(400)), Due::default());
        hooks.replace(2, due(Some(2 * SECOND), None), Due::default());
        assert!(hooks.is_empty());
    }

    #[test]
    fn an_interval_begins_with_a_call_and_a_term() {
        let mut state = HookState::default();
        state.lead(Term(3));
        let times = HookTimes::every(SECOND).or_at(Some(7));
        let now = 5 * SECOND;
        assert_eq!(state.due(times, now), Due { time: Some(Duration::ZERO), clock: Some(7) });
        state.called = Some(now);
        state.lead(Term(3));
        assert_eq!(state.due(times, now), Due { time: Some(6 * SECOND), clock: Some(7) });
        state.lead(Term(4));
        assert_eq!(state.due(times, now).time, Some(Duration::ZERO), "once per leader");
    }

    #[test]
    fn what_is_refused_pauses_the_hook() {
        let mut state = HookState::default();
        let (now, times) = (5 * SECOND, HookTimes::NEVER.or_at(Some(7)));
        let (answer, outcome) = oneshot::channel();
        let (lost, other) = oneshot::channel();
        state.under_way = vec![outcome, other];
        state.settle(now);
        assert_eq!(state.under_way.len(), 2);
        assert!(answer.send(Err(ProposeError::NoSpace)).is_ok());
        state.settle(now);
        let paused = Due { time: Some(now + HOOK_RETRY_PAUSE), clock: None };
        assert_eq!(state.due(times, now), paused);
        assert_eq!(state.due(HookTimes::NEVER, now), Due::default());
        assert_eq!(state.due(times, now + HOOK_RETRY_PAUSE), Due { time: None, clock: Some(7) });
        drop(lost);
        state.settle(now + SECOND);
        assert!(state.under_way.is_empty());
        assert_eq!(state.due(times, now + SECOND).time, Some(now + SECOND + HOOK_RETRY_PAUSE));
        state.lead(Term(9));
        assert_eq!(state.due(times, now), Due { time: None, clock: Some(7) });
    }
}
