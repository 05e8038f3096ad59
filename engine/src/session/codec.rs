//! Entries and replies of sessions as bytes.
//!
//! ```text
//! entry    = 0xE0 | kind          version 1 is the high half 0xE
//!   0 plain                       | payload
//!   1 open
//!   2 request                     | session | request | request - first | payload
//!   3 keep alive                  | session | first
//!   4 close                       | session
//!   5 tick                        | wall clock of the leader, milliseconds
//!   6 configure                   | the six limits in their order
//! reply    = 0xE0 | status
//!   0 applied                     | reply of the machine
//!   1 applied before              | reply of the machine
//!   2 applied before, reply gone
//!   3 opened                      | session | the six limits
//!   4 done
//!   5 unknown session
//!   6 acknowledged
//!   7 window full
//!   8 replies full
//!   9 malformed
//! ```
//! All numbers are LEB128 in their shortest form. An entry is valid if and only if its fields are there, nothing
//! follows them, ids are at least 1, and limits make sense.

use bytes::{BufMut, Bytes, BytesMut};

use super::bounds::SessionLimits;
use super::{RequestId, SessionId};
pub use crate::layer::fields::Malformed;
use crate::layer::fields::{self, ended, head, number, positive};
use crate::layer::varint;

/// The version, in the high half of the first byte.
const VERSION: u8 = 0xe0;

mod kind {
    pub const PLAIN: u8 = 0;
    pub const OPEN: u8 = 1;
    pub const REQUEST: u8 = 2;
    pub const KEEP_ALIVE: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const TICK: u8 = 5;
    pub const CONFIGURE: u8 = 6;
}

mod status {
    pub const APPLIED: u8 = 0;
    pub const DUPLICATE: u8 = 1;
    pub const REPLY_GONE: u8 = 2;
    pub const OPENED: u8 = 3;
    pub const DONE: u8 = 4;
    pub const UNKNOWN_SESSION: u8 = 5;
    pub const ACKNOWLEDGED: u8 = 6;
    pub const WINDOW_FULL: u8 = 7;
    pub const REPLIES_FULL: u8 = 8;
    pub const MALFORMED: u8 = 9;
}

/// The first byte of the reply to an entry whose payload the machine is given: its own reply follows.
pub(super) const APPLIED_BYTE: u8 = VERSION | status::APPLIED;

/// One entry of the log, as [`Sessions`](super::Sessions) takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Something for the machine, outside of any session.
    Plain(Bytes),
    /// A new session.
    Open,
    /// Something for the machine, once.
    Request {
        /// The session.
        session: SessionId,
        /// The request, at least `first`.
        request: RequestId,
        /// Lowest request whose reply the client still waits for; at least 1.
        first: RequestId,
        /// What the machine gets.
        payload: Bytes,
    },
    /// A session is still in use.
    KeepAlive {
        /// The session.
        session: SessionId,
        /// As in a request.
        first: RequestId,
    },
    /// A session is not used any more.
    Close {
        /// The session.
        session: SessionId,
    },
    /// What the leader's wall clock shows.
    Tick {
        /// Milliseconds since any moment that is the same for all nodes.
        now_ms: u64,
    },
    /// New limits.
    Configure(SessionLimits),
}

impl Entry {
    /// Whether some bytes claim to be an entry of sessions, of whatever version.
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
            Self::Open => out.put_u8(VERSION | kind::OPEN),
            Self::Request { session, request, first, payload } => {
                return encode_request(*session, *request, *first, payload);
            }
            Self::KeepAlive { session, first } => {
                out.put_u8(VERSION | kind::KEEP_ALIVE);
                varint::put(&mut out, session.0);
                varint::put(&mut out, first.0);
            }
            Self::Close { session } => {
                out.put_u8(VERSION | kind::CLOSE);
                varint::put(&mut out, session.0);
            }
            Self::Tick { now_ms } => {
                out.put_u8(VERSION | kind::TICK);
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
        let kind = head(VERSION, &mut rest, "no entry of sessions")?;
        let entry = match kind {
            kind::PLAIN => return Ok(Self::Plain(bytes.slice(1..))),
            kind::OPEN => Self::Open,
            kind::REQUEST => {
                let session = SessionId(positive(&mut rest)?);
                let request = positive(&mut rest)?;
                let behind = number(&mut rest)?;
                let first = request.checked_sub(behind).filter(|first| *first > 0);
                let first = first.ok_or(Malformed("the first request is below 1"))?;
                let (request, first) = (RequestId(request), RequestId(first));
                let payload = bytes.slice(bytes.len() - rest.len()..);
                return Ok(Self::Request { session, request, first, payload });
            }
            kind::KEEP_ALIVE => Self::KeepAlive {
                session: SessionId(positive(&mut rest)?),
                first: RequestId(positive(&mut rest)?),
            },
            kind::CLOSE => Self::Close { session: SessionId(positive(&mut rest)?) },
            kind::TICK => Self::Tick { now_ms: number(&mut rest)? },
            kind::CONFIGURE => {
                let limits = SessionLimits::take(&mut rest)?;
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

/// The bytes of [`Entry::Request`], of a payload that is not shared.
pub(super) fn encode_request(
    session: SessionId,
    request: RequestId,
    first: RequestId,
    payload: &[u8],
) -> Bytes {
    assert!(0 < first.0 && first <= request, "request {request} is below the first, {first}");
    let mut out = BytesMut::with_capacity(1 + 3 * varint::VARINT_BYTES_MAX + payload.len());
    out.put_u8(VERSION | kind::REQUEST);
    for number in [session.0, request.0, request.0 - first.0] {
        varint::put(&mut out, number);
    }
    out.put_slice(payload);
    out.freeze()
}

/// What an entry is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionReply {
    /// It was applied by this entry; what the machine replied.
    Applied(Bytes),
    /// It was applied by an earlier entry; what the machine replied then.
    Duplicate(Bytes),
    /// It was applied by an earlier entry; the reply was too large to be kept.
    ReplyGone,
    /// A session was made.
    Opened {
        /// The session.
        session: SessionId,
        /// What holds for it at this time.
        limits: SessionLimits,
    },
    /// A session was kept alive or closed, the clock or the limits were taken.
    Done,
    /// There is no such session. Not applied by this entry.
    UnknownSession,
    /// The client has said that it does not need the reply. Not applied by this entry.
    Acknowledged,
    /// The id is too far from the lowest one that is not acknowledged. Not applied.
    WindowFull,
    /// The session keeps as many bytes of replies as it may. Not applied.
    RepliesFull,
    /// No entry of sessions. Not applied.
    Malformed,
}

impl SessionReply {
    /// Appends the bytes of a reply.
    pub fn encode(&self, out: &mut BytesMut) {
        let status = match self {
            Self::Applied(_) => status::APPLIED,
            Self::Duplicate(_) => status::DUPLICATE,
            Self::ReplyGone => status::REPLY_GONE,
            Self::Opened { .. } => status::OPENED,
            Self::Done => status::DONE,
            Self::UnknownSession => status::UNKNOWN_SESSION,
            Self::Acknowledged => status::ACKNOWLEDGED,
            Self::WindowFull => status::WINDOW_FULL,
            Self::RepliesFull => status::REPLIES_FULL,
            Self::Malformed => status::MALFORMED,
        };
        out.put_u8(VERSION | status);
        match self {
            Self::Applied(reply) | Self::Duplicate(reply) => out.put_slice(reply),
            Self::Opened { session, limits } => {
                varint::put(out, session.0);
                limits.encode(out);
            }
            _ => {}
        }
    }

    /// Reads a reply. What the machine replied is a slice of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] if it is none.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut rest = &bytes[..];
        let reply = match head(VERSION, &mut rest, "no reply of sessions")? {
            status::APPLIED => return Ok(Self::Applied(bytes.slice(1..))),
            status::DUPLICATE => return Ok(Self::Duplicate(bytes.slice(1..))),
            status::REPLY_GONE => Self::ReplyGone,
            status::OPENED => Self::Opened {
                session: SessionId(positive(&mut rest)?),
                limits: SessionLimits::take(&mut rest)?,
            },
            status::DONE => Self::Done,
            status::UNKNOWN_SESSION => Self::UnknownSession,
            status::ACKNOWLEDGED => Self::Acknowledged,
            status::WINDOW_FULL => Self::WindowFull,
            status::REPLIES_FULL => Self::RepliesFull,
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

    fn entries() -> Vec<(Entry, &'static [u8])> {
        let (session, first) = (SessionId(300), RequestId(7));
        let payload = Bytes::from_static(b"x");
        vec![
            (Entry::Plain(Bytes::from_static(b"ab")), b"\xe0ab"),
            (Entry::Plain(Bytes::new()), b"\xe0"),
            (Entry::Open, b"\xe1"),
            (
                Entry::Request { session, request: RequestId(9), first, payload },
                b"\xe2\xac\x02\x09\x02x",
            ),
            (Entry::KeepAlive { session, first }, b"\xe3\xac\x02\x07"),
            (Entry::Close { session }, b"\xe4\xac\x02"),
            (Entry::Tick { now_ms: 129 }, b"\xe5\x81\x01"),
            (
                Entry::Configure(SessionLimits {
                    sessions: 1,
                    window: 2,
                    reply_bytes: 3,
                    session_bytes: 4,
                    shard_bytes: 5,
                    idle_timeout_ms: 6,
                }),
                b"\xe6\x01\x02\x03\x04\x05\x06",
            ),
        ]
    }

    fn replies() -> Vec<(SessionReply, &'static [u8])> {
        let limits = SessionLimits {
            sessions: 1,
            window: 2,
            reply_bytes: 3,
            session_bytes: 4,
            shard_bytes: 5,
            idle_timeout_ms: 6,
        };
        vec![
            (SessionReply::Applied(Bytes::from_static(b"ab")), b"\xe0ab"),
            (SessionReply::Duplicate(Bytes::from_static(b"ab")), b"\xe1ab"),
            (SessionReply::ReplyGone, b"\xe2"),
            (
                SessionReply::Opened { session: SessionId(300), limits },
                b"\xe3\xac\x02\x01\x02\x03\x04\x05\x06",
            ),
            (SessionReply::Done, b"\xe4"),
            (SessionReply::UnknownSession, b"\xe5"),
            (SessionReply::Acknowledged, b"\xe6"),
            (SessionReply::WindowFull, b"\xe7"),
            (SessionReply::RepliesFull, b"\xe8"),
            (SessionReply::Malformed, b"\xe9"),
        ]
    }

    #[test]
    fn entries_are_these_bytes() {
        for (entry, bytes) in entries() {
            assert_eq!(entry.encode(), bytes, "{entry:?}");
            assert_eq!(Entry::decode(&Bytes::from_static(bytes)), Ok(entry));
        }
    }

    #[test]
    fn replies_are_these_bytes() {
        for (reply, bytes) in replies() {
            let mut out = BytesMut::new();
            reply.encode(&mut out);
            assert_eq!(out, bytes, "{reply:?}");
            assert_eq!(SessionReply::decode(&out.freeze()), Ok(reply));
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let wrong: [&[u8]; 16] = [
            b"",
            b"\x00",
            b"\xd0ab",             // another version
            b"\xf0",               // a later one
            b"\xe7",               // a kind to come
            b"\xe1x",              // something follows
            b"\xe2",               // cut off
            b"\xe2\x01\x01",       // cut off
            b"\xe2\x00\x01\x00",   // session 0
            b"\xe2\x01\x00\x00",   // request 0
            b"\xe2\x01\x05\x05",   // first is 0
            b"\xe2\x01\x05\x06",   // first is below 0
            b"\xe2\x81\x00\x01\0", // not the shortest form
            b"\xe4\x01\x01",       // something follows
            b"\xe5\xff",           // cut off
            b"\xe6\x00\x02\x03\x04\x05\x06",
        ];
        for bytes in wrong {
            assert!(Entry::decode(&Bytes::from_static(bytes)).is_err(), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40), head in 0xe0..=0xe9_u8) {
            let mut bytes = bytes;
            for _ in 0..2 {
                let given = Bytes::from(bytes.clone());
                if let Ok(entry) = Entry::decode(&given) {
                    prop_assert_eq!(entry.encode(), &given);
                }
                if let Ok(reply) = SessionReply::decode(&given) {
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
