//! One key, as the key-value server keeps it.

use std::rc::Rc;

use super::{Call, Reply};

/// The value of a key, if it has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    pub(super) value: Option<Rc<[u8]>>,
    /// It may be gone at any time.
    pub(super) mortal: bool,
}

impl State {
    pub(super) const NONE: Self = Self { value: None, mortal: false };

    fn of(value: &[u8], mortal: bool) -> Self {
        Self { value: Some(value.into()), mortal }
    }

    /// Does one operation. Returns the reply that is right, and the state after it; `None` if it stays.
    pub(super) fn apply(&self, call: &Call) -> (Reply, Option<Self>) {
        let old = self.value.as_deref();
        match call {
            Call::Set(value) => (Reply::Ok, Some(Self::of(value, false))),
            Call::SetNx(value) if old.is_none() => (Reply::Ok, Some(Self::of(value, false))),
            Call::SetNx(_) => (Reply::Nil, None),
            Call::Get => match old {
                Some(value) => (Reply::Value(value.to_vec().into()), None),
                None => (Reply::Nil, None),
            },
            Call::Del if old.is_some() => (Reply::Int(1), Some(Self::NONE)),
            Call::Del => (Reply::Int(0), None),
            Call::Incr(by) => match number(old.unwrap_or(b"0")).and_then(|n| n.checked_add(*by)) {
                Some(sum) => {
                    (Reply::Int(sum), Some(Self::of(sum.to_string().as_bytes(), self.mortal)))
                }
                None => (Reply::Error, None),
            },
            Call::Append(part) => {
                let joined = [old.unwrap_or_default(), part].concat();
                (Reply::Int(joined.len() as i64), Some(Self::of(&joined, self.mortal)))
            }
            Call::Expire if old.is_some() => {
                (Reply::Int(1), Some(Self { mortal: true, ..self.clone() }))
            }
            Call::Expire => (Reply::Int(0), None),
        }
    }

    /// Whether a read gives this reply; quicker than [`State::apply`].
    pub(super) fn reads(&self, reply: &Reply) -> bool {
        match (&self.value, reply) {
            (Some(own), Reply::Value(value)) => own[..] == value[..],
            (None, Reply::Nil) => true,
            _ => false,
        }
    }
}

/// A value as a number, if it is one as the server writes it.
pub(super) fn number(value: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == value).then_some(number)
}
