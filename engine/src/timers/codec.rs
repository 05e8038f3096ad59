//! Entries and replies of timers as bytes.
//!
//! ```text
//! entry    = 0xD0 | kind          version 1 is the high half 0xD
//!   0 plain                       | payload
//!   1 set                         | time, milliseconds since 1970 | payload
//!   2 cancel                      | timer
//!   3 fire                        | timer | wall clock of the leader, milliseconds since 1970
//!   4 configure                   | the three limits in their order
//! reply    = 0xD0 | status
//!   0 applied                     | reply of the machine
//!   1 set                         | timer
//!   2 done
//!   3 fired                       | reply of the machine
//!   4 unknown timer
//!   5 not due
//!   6 full
//!   7 too large
//!   8 malformed
//! ```
//! All numbers are LEB128 in their shortest form. An entry is valid if and only if its fields are there, nothing
//! follows them, ids are at least 1, and limits make sense.

use bytes::{BufMut, Bytes, BytesMut};

use super::TimerId;
use super::bounds::TimerLimits;
pub use crate::layer::fields::Malformed;
use crate::layer::fields::{self, ended, head, number, positive};
use crate::layer::varint::{self, VARINT_BYTES_MAX};

/// The version, in the high half of the first byte.
const VERSION: u8 = 0xd0;

mod kind {
    pub const PLAIN: u8 = 0;
    pub const SET: u8 = 1;
    pub const CANCEL: u8 = 2;
    pub const FIRE: u8 = 3;
    pub const CONFIGURE: u8 = 4;
}

mod status {
    pub const APPLIED: u8 = 0;
    pub const SET: u8 = 1;
    pub const DONE: u8 = 2;
    pub const FIRED: u8 = 3;
    pub const UNKNOWN_TIMER: u8 = 4;
    pub const NOT_DUE: u8 = 5;
    pub const FULL: u8 = 6;
    pub const TOO_LARGE: u8 = 7;
    pub const MALFORMED: u8 = 8;
}

/// The first byte of the reply to an entry whose payload the machine is given: its own reply follows.
pub(super) const APPLIED_BYTE: u8 = VERSION | status::APPLIED;

/// The same for a timer that fired.
pub(super) const FIRED_BYTE: u8 = VERSION | status::FIRED;

/// One entry of the log, as [`Timers`](super::Timers) takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Something for the machine, now.
    Plain(Bytes),
    /// Something for the machine, later.
    Set {
        /// When, by the leader's wall clock, milliseconds since 1970. One that is past fires at once.
        at_ms: u64,
        /// What the machine gets then.
        payload: Bytes,
    },
    /// A timer is not wanted any more.
    Cancel {
        /// The timer.
        timer: TimerId,
    },
    /// The leader's clock shows the time of a timer.
    Fire {
        /// The timer.
        timer: TimerId,
        /// The clock, milliseconds since 1970.
        now_ms: u64,
    },
    /// New limits.
    Configure(TimerLimits),
}

impl Entry {
    /// Whether some bytes claim to be an entry of timers, of whatever version.
    #[must_use]
    pub(super) fn is_one(bytes: &[u8]) -> bool {
        fields::is_of(VERSION, bytes)
    }

    /// The bytes to propose.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Plain(payload) => {
                out.reserve(1 + payload.len());
                out.put_u8(VERSION | kind::PLAIN);
                out.put_slice(payload);
            }
            Self::Set { at_ms, payload } => {
                out.reserve(1 + VARINT_BYTES_MAX + payload.len());
                out.put_u8(VERSION | kind::SET);
                varint::put(&mut out, *at_ms);
                out.put_slice(payload);
            }
            Self::Cancel { timer } => {
                out.put_u8(VERSION | kind::CANCEL);
                varint::put(&mut out, timer.0);
            }
            Self::Fire { timer, now_ms } => {
                out.put_u8(VERSION | kind::FIRE);
                varint::put(&mut out, timer.0);
                varint::put(&mut out, *now_ms);
            }
            Self::Configure(limits) => {
                out.put_u8(VERSION | kind::CONFIGURE);
                limits.encode(&mut out);
            }
        }
        out.freeze()
    }

    /// Reads an entry. Payloads are slices of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] for all bytes that [`Entry::encode`] does not give.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut rest = &bytes[..];
        let kind = head(VERSION, &mut rest, "no entry of timers")?;
        let entry = match kind {
            kind::PLAIN => return Ok(Self::Plain(bytes.slice(1..))),
            kind::SET => {
                let at_ms = number(&mut rest)?;
                let payload = bytes.slice(bytes.len() - rest.len()..);
                return Ok(Self::Set { at_ms, payload });
            }
            kind::CANCEL => Self::Cancel { timer: TimerId(positive(&mut rest)?) },
            kind::FIRE => {
                Self::Fire { timer: TimerId(positive(&mut rest)?), now_ms: number(&mut rest)? }
            }
            kind::CONFIGURE => {
                let limits = TimerLimits::take(&mut rest)?;
                if limits.flaw().is_some() {
                    return Err(Malformed("these limits make no sense"));
                }
                Self::Configure(limits)
            }
            _ => return Err(Malformed("a kind of entry that is not known")),
        };
        ended(rest)?;
        Ok(entry)
    }
}

/// What an entry is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerReply {
    /// The machine was given the payload; what it replied.
    Applied(Bytes),
    /// There is a timer.
    Set(TimerId),
    /// A timer was cancelled, or limits were taken.
    Done,
    /// A timer fired; what the machine replied. Only whoever has proposed to fire it gets to know.
    Fired(Bytes),
    /// There is no such timer: it has fired, was cancelled, or was never set.
    UnknownTimer,
    /// The timer's time is later.
    NotDue,
    /// There are as many timers, or as many bytes of them, as there may be. Not set.
    Full,
    /// The payload is larger than that of a timer may be. Not set.
    TooLarge,
    /// No entry of timers. Not applied.
    Malformed,
}

impl TimerReply {
    /// Appends the bytes of a reply.
    pub fn encode(&self, out: &mut BytesMut) {
        let status = match self {
            Self::Applied(_) => status::APPLIED,
            Self::Set(_) => status::SET,
            Self::Done => status::DONE,
            Self::Fired(_) => status::FIRED,
            Self::UnknownTimer => status::UNKNOWN_TIMER,
            Self::NotDue => status::NOT_DUE,
            Self::Full => status::FULL,
            Self::TooLarge => status::TOO_LARGE,
            Self::Malformed => status::MALFORMED,
        };
        out.put_u8(VERSION | status);
        match self {
            Self::Applied(reply) | Self::Fired(reply) => out.put_slice(reply),
            Self::Set(timer) => varint::put(out, timer.0),
            _ => {}
        }
    }

    /// Reads a reply. What the machine replied is a slice of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] if it is none.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut rest = &bytes[..];
        let reply = match head(VERSION, &mut rest, "no reply of timers")? {
            status::APPLIED => return Ok(Self::Applied(bytes.slice(1..))),
            status::FIRED => return Ok(Self::Fired(bytes.slice(1..))),
            status::SET => Self::Set(TimerId(positive(&mut rest)?)),
            status::DONE => Self::Done,
            status::UNKNOWN_TIMER => Self::UnknownTimer,
            status::NOT_DUE => Self::NotDue,
            status::FULL => Self::Full,
            status::TOO_LARGE => Self::TooLarge,
            status::MALFORMED => Self::Malformed,
            _ => return Err(Malformed("a status that is not known")),
        };
        ended(rest)?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_are_these_bytes() {
        let timer = TimerId(300);
        let limits = TimerLimits { timers: 1, payload_bytes: 2, bytes: 3 };
        let payload = Bytes::from_static(b"ab");
        let entries: [(Entry, &[u8]); 6] = [
            (Entry::Plain(payload.clone()), b"\xd0ab"),
            (Entry::Set { at_ms: 129, payload }, b"\xd1\x81\x01ab"),
            (Entry::Set { at_ms: 0, payload: Bytes::new() }, b"\xd1\x00"),
            (Entry::Cancel { timer }, b"\xd2\xac\x02"),
            (Entry::Fire { timer, now_ms: 129 }, b"\xd3\xac\x02\x81\x01"),
            (Entry::Configure(limits), b"\xd4\x01\x02\x03"),
        ];
        for (entry, bytes) in entries {
            assert_eq!(entry.encode(), bytes, "{entry:?}");
            assert_eq!(Entry::decode(&Bytes::from_static(bytes)), Ok(entry));
        }
    }

    #[test]
    fn replies_are_these_bytes() {
        let replies: [(TimerReply, &[u8]); 9] = [
            (TimerReply::Applied(Bytes::from_static(b"ab")), b"\xd0ab"),
            (TimerReply::Set(TimerId(300)), b"\xd1\xac\x02"),
            (TimerReply::Done, b"\xd2"),
            (TimerReply::Fired(Bytes::from_static(b"ab")), b"\xd3ab"),
            (TimerReply::UnknownTimer, b"\xd4"),
            (TimerReply::NotDue, b"\xd5"),
            (TimerReply::Full, b"\xd6"),
            (TimerReply::TooLarge, b"\xd7"),
            (TimerReply::Malformed, b"\xd8"),
        ];
        for (reply, bytes) in replies {
            let mut out = BytesMut::new();
            reply.encode(&mut out);
            assert_eq!(out, bytes, "{reply:?}");
            assert_eq!(TimerReply::decode(&out.freeze()), Ok(reply));
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let wrong: [&[u8]; 12] = [
            b"",
            b"\x00",
            b"\xe0ab",        // one of sessions
            b"\xd5",          // a kind to come
            b"\xd1",          // cut off
            b"\xd1\xff",      // cut off
            b"\xd1\x81\x00",  // not the shortest form
            b"\xd2\x00",      // timer 0
            b"\xd2\x01\x01",  // something follows
            b"\xd3\x01",      // cut off
            b"\xd3\x01\x01x", // something follows
            b"\xd4\xff\xff\xff\x7f\x02\x03",
        ];
        for bytes in wrong {
            assert!(Entry::decode(&Bytes::from_static(bytes)).is_err(), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40), head in 0xd0..=0xd8_u8) {
            let mut bytes = bytes;
            for _ in 0..2 {
                let given = Bytes::from(bytes.clone());
                if let Ok(entry) = Entry::decode(&given) {
                    prop_assert_eq!(entry.encode(), &given);
                }
                if let Ok(reply) = TimerReply::decode(&given) {
                    let mut out = BytesMut::new();
                    reply.encode(&mut out);
                    prop_assert_eq!(out, &given);
                }
                if let Some(first) = bytes.first_mut() {
                    *first = head;
                }
            }
        }
    }
}
