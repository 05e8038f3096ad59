//! [`SessionLimits`]: how much the sessions of a shard may take, as state of the shard.

use bytes::BufMut;

use crate::layer::fields::{Malformed, number};
use crate::layer::varint;
use crate::limits::{
    SESSION_IDLE_TIMEOUT_MS, SESSION_REPLIES_BYTES, SESSION_REPLY_BYTES, SESSION_REPLY_BYTES_MAX,
    SESSION_SLOTS_MAX, SESSION_WINDOW, SESSION_WINDOW_MAX, SESSIONS, SESSIONS_MAX,
    SHARD_REPLIES_BYTES, SHARD_REPLIES_BYTES_MAX,
};

/// The limits of a shard's sessions. They are part of its state; an entry changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions. A new one takes the place of the one that was not used for longest.
    pub sessions: u64,
    /// Request ids of one session from the lowest unacknowledged one on.
    pub window: u64,
    /// Bytes of one reply that is kept.
    pub reply_bytes: u64,
    /// Bytes of one session's replies from which on new requests are refused.
    pub session_bytes: u64,
    /// Bytes of all replies beyond which new ones are not kept.
    pub shard_bytes: u64,
    /// Time after which an unused session is dropped.
    pub idle_timeout_ms: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions: SESSIONS,
            window: SESSION_WINDOW,
            reply_bytes: SESSION_REPLY_BYTES,
            session_bytes: SESSION_REPLIES_BYTES,
            shard_bytes: SHARD_REPLIES_BYTES,
            idle_timeout_ms: SESSION_IDLE_TIMEOUT_MS,
        }
    }
}

impl SessionLimits {
    /// The first limit that makes no sense by itself or beside another one, in words.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let ranges = [
            ("sessions", self.sessions, 1, SESSIONS_MAX),
            ("window", self.window, 1, SESSION_WINDOW_MAX),
            ("reply_bytes", self.reply_bytes, 0, SESSION_REPLY_BYTES_MAX),
            ("session_bytes", self.session_bytes, 1, SHARD_REPLIES_BYTES_MAX),
            ("shard_bytes", self.shard_bytes, 0, SHARD_REPLIES_BYTES_MAX),
            ("idle_timeout_ms", self.idle_timeout_ms, 1, u64::MAX),
        ];
        for (name, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Some(format!("{name} is {value}; it must be {min} to {max}"));
            }
        }
        (self.sessions * self.window > SESSION_SLOTS_MAX).then(|| {
            format!(
                "{} sessions with {} requests each are more than {SESSION_SLOTS_MAX} replies",
                self.sessions, self.window
            )
        })
    }

    /// Most that one tick moves the clock of the sessions.
    pub(super) fn step_ms_max(&self) -> u64 {
        (self.idle_timeout_ms / 4).max(1)
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        let Self { sessions, window, reply_bytes, session_bytes, shard_bytes, idle_timeout_ms } =
            *self;
        let fields = [sessions, window, reply_bytes, session_bytes, shard_bytes, idle_timeout_ms];
        fields.into_iter().for_each(|field| varint::put(out, field));
    }

    /// Reads limits, sensible or not.
    pub(super) fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let mut field = || number(bytes);
        Ok(Self {
            sessions: field()?,
            window: field()?,
            reply_bytes: field()?,
            session_bytes: field()?,
            shard_bytes: field()?,
            idle_timeout_ms: field()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_beyond_reason_are_told() {
        let usual = SessionLimits::default();
        assert_eq!(usual.flaw(), None);
        let flawed = [
            SessionLimits { sessions: 0, ..usual },
            SessionLimits { sessions: SESSIONS_MAX + 1, ..usual },
            SessionLimits { window: 0, ..usual },
            SessionLimits { window: u64::MAX, ..usual },
            SessionLimits { reply_bytes: SESSION_REPLY_BYTES_MAX + 1, ..usual },
            SessionLimits { shard_bytes: u64::MAX, ..usual },
            SessionLimits { idle_timeout_ms: 0, ..usual },
            SessionLimits { sessions: SESSIONS_MAX, window: SESSION_WINDOW_MAX, ..usual },
        ];
        for limits in flawed {
            assert!(limits.flaw().is_some(), "{limits:?}");
        }
    }
}
