//! One key, as the key-value server keeps it.

use std::rc::Rc;

use super::{Call, Deadline, Reply, Times};

/// The value of a key, if it has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    pub(super) value: Option<Rc<[u8]>>,
    /// When it expires: not before the first and not after the second time.
    pub(super) deadline: Option<(u64, u64)>,
}

/// What an operation makes of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Same,
    Changed(State),
}

impl State {
    pub(super) const NONE: Self = Self { value: None, deadline: None };

    fn of(value: &[u8], deadline: Option<(u64, u64)>) -> Self {
        Self { value: Some(value.into()), deadline }
    }

    /// Does one operation, whose reply was this, unless nobody knows. `None` if that cannot be.
    ///
    /// That a key expires is not part of this; it is a step of its own ([`State::may_expire`]), which
    /// must come before an operation that finds nothing.
    pub(super) fn after(&self, call: &Call, times: &Times, reply: Option<&Reply>) -> Option<Next> {
        if let Call::Set(value, deadline) = call {
            let right = reply.is_none_or(|reply| *reply == Reply::Ok);
            return right.then(|| Next::Changed(Self::of(value, window(*deadline, times))));
        }
        if self.has_expired(call, times) {
            return None;
        }
        if let (Call::ExpireTime, Some((low, high))) = (call, self.deadline) {
            let right = match reply {
                None => true,
                Some(Reply::Int(at)) => u64::try_from(*at).is_ok_and(|at| low <= at && at <= high),
                Some(_) => false,
            };
            return right.then_some(Next::Same);
        }
        let (own, next) = self.apply(call, times);
        reply.is_none_or(|reply| *reply == own).then_some(next)
    }

    /// Whether an operation with these times surely does not find this value any more.
    fn has_expired(&self, call: &Call, times: &Times) -> bool {
        let is_query = matches!(call, Call::Get | Call::ExpireTime);
        let at = if is_query { times.low.max(times.clock) } else { times.low };
        self.deadline.is_some_and(|(_, high)| high <= at)
    }

    /// Whether it can be gone when the time of the log is at most `high`.
    pub(super) fn may_expire(&self, high: u64) -> bool {
        self.deadline.is_some_and(|(low, _)| low <= high)
    }

    pub(super) fn apply(&self, call: &Call, times: &Times) -> (Reply, Next) {
        let old = self.value.as_deref();
        match call {
            Call::Set(value, deadline) => {
                (Reply::Ok, Next::Changed(Self::of(value, window(*deadline, times))))
            }
            Call::SetNx(value) if old.is_none() => {
                (Reply::Ok, Next::Changed(Self::of(value, None)))
            }
            Call::SetNx(_) => (Reply::Nil, Next::Same),
            Call::Get => match old {
                Some(value) => (Reply::Value(value.to_vec().into()), Next::Same),
                None => (Reply::Nil, Next::Same),
            },
            Call::Del if old.is_some() => (Reply::Int(1), Next::Changed(Self::NONE)),
            Call::Del => (Reply::Int(0), Next::Same),
            Call::Incr(by) => match number(old.unwrap_or(b"0")).and_then(|n| n.checked_add(*by)) {
                Some(sum) => {
                    let text = sum.to_string();
                    (Reply::Int(sum), Next::Changed(Self::of(text.as_bytes(), self.deadline)))
                }
                None => (Reply::Error, Next::Same),
            },
            Call::Append(part) => {
                let joined = [old.unwrap_or_default(), part].concat();
                let length = joined.len() as i64;
                (Reply::Int(length), Next::Changed(Self::of(&joined, self.deadline)))
            }
            Call::Expire(deadline) if old.is_some() => {
                let deadline = window(Some(*deadline), times);
                (Reply::Int(1), Next::Changed(Self { deadline, ..self.clone() }))
            }
            Call::Expire(_) => (Reply::Int(0), Next::Same),
            Call::Persist if self.deadline.is_some() => {
                (Reply::Int(1), Next::Changed(Self { deadline: None, ..self.clone() }))
            }
            Call::Persist => (Reply::Int(0), Next::Same),
            // With a deadline there is more than one right answer, see `after`.
            Call::ExpireTime if old.is_some() => (Reply::Int(-1), Next::Same),
            Call::ExpireTime => (Reply::Int(-2), Next::Same),
        }
    }

    /// Whether a read gives this reply; quicker than [`State::after`].
    pub(super) fn reads(&self, times: &Times, reply: &Reply) -> bool {
        match (&self.value, reply) {
            (Some(own), Reply::Value(value)) => {
                own[..] == value[..] && !self.has_expired(&Call::Get, times)
            }
            (None, Reply::Nil) => true,
            _ => false,
        }
    }
}

/// Between which times the deadline lies that an operation sets.
fn window(deadline: Option<Deadline>, times: &Times) -> Option<(u64, u64)> {
    deadline.map(|deadline| match deadline {
        Deadline::At(at) => (at, at),
        Deadline::After(ms) => (times.low.saturating_add(ms), times.high.saturating_add(ms)),
    })
}

/// A value as a number, if it is one as the server writes it.
pub(super) fn number(value: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == value).then_some(number)
}
