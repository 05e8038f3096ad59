//! [`TimerLimits`]: how much the timers of a shard may take, as state of the shard.

use bytes::BufMut;

use crate::layer::fields::{Malformed, number};
use crate::layer::varint;
use crate::limits::{
    TIMER_PAYLOAD_BYTES, TIMER_PAYLOAD_BYTES_MAX, TIMERS, TIMERS_BYTES, TIMERS_BYTES_MAX,
    TIMERS_MAX,
};

/// The limits of a shard's timers. They are part of its state; an entry changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerLimits {
    /// Timers at a time.
    pub timers: u64,
    /// Bytes of one timer's payload.
    pub payload_bytes: u64,
    /// What all timers may count for: their payloads, and 128 bytes for each.
    pub bytes: u64,
}

impl Default for TimerLimits {
    fn default() -> Self {
        Self { timers: TIMERS, payload_bytes: TIMER_PAYLOAD_BYTES, bytes: TIMERS_BYTES }
    }
}

impl TimerLimits {
    /// The first limit that makes no sense, in words.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let ranges = [
            ("timers", self.timers, TIMERS_MAX),
            ("payload_bytes", self.payload_bytes, TIMER_PAYLOAD_BYTES_MAX),
            ("bytes", self.bytes, TIMERS_BYTES_MAX),
        ];
        let found = ranges.into_iter().find(|(_, value, max)| value > max);
        found.map(|(name, value, max)| format!("{name} is {value}; it must be at most {max}"))
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        let Self { timers, payload_bytes, bytes } = *self;
        [timers, payload_bytes, bytes].into_iter().for_each(|field| varint::put(out, field));
    }

    /// Reads limits, sensible or not.
    pub(super) fn take(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let mut field = || number(bytes);
        Ok(Self { timers: field()?, payload_bytes: field()?, bytes: field()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_beyond_reason_are_told() {
        let usual = TimerLimits::default();
        assert_eq!(usual.flaw(), None);
        assert_eq!(TimerLimits { timers: 0, payload_bytes: 0, bytes: 0 }.flaw(), None);
        let flawed = [
            TimerLimits { timers: TIMERS_MAX + 1, ..usual },
            TimerLimits { payload_bytes: TIMER_PAYLOAD_BYTES_MAX + 1, ..usual },
            TimerLimits { bytes: u64::MAX, ..usual },
        ];
        for limits in flawed {
            assert!(limits.flaw().is_some(), "{limits:?}");
        }
    }
}
