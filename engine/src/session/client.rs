//! [`ClientSession`]: the client's side of a session, without any I/O.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use super::codec::{Entry, Malformed, SessionReply, encode_request};
use super::{RequestId, SessionId};

/// A session could not be opened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// The shard's state machine does not speak of sessions.
    #[error("this is no reply of sessions ({0}); is the state machine of the shard in `Sessions`?")]
    Malformed(#[from] Malformed),
    /// It is the reply to another entry.
    #[error("this is not the reply to the opening of a session: {0:?}")]
    Unexpected(SessionReply),
}

/// A request was not begun.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BeginError {
    /// There are as many unanswered requests as there may be. Wait for the oldest, or give it up.
    #[error("the session has requests up to {window} ids apart unanswered; wait for the oldest")]
    WindowFull {
        /// Ids that may be apart.
        window: u64,
    },
    /// The session is gone. Open another one.
    #[error("the session has expired; open another one")]
    Expired,
}

/// A request was not answered with a result of the machine.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// The session is gone, and this request was sent only once: it is not applied.
    #[error("the session has expired; the request was not applied")]
    NotApplied,
    /// The session is gone, and an earlier copy of the request may or may not have been applied. None will be.
    #[error("the session has expired; whether the request was applied before is unknown")]
    Unknown,
    /// The shard keeps as many requests or bytes of this session as it may. The request was not applied; send it
    /// again when older ones are answered.
    #[error(
        "the session has too many unanswered requests; send it again when older ones are answered"
    )]
    Full,
    /// The request was answered or given up before.
    #[error("request {0} was answered or given up before")]
    NotWaiting(RequestId),
    /// The answer is none of sessions.
    #[error("this is no answer to a request: {0}")]
    Malformed(#[from] Malformed),
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the machine replied; `None` if it was applied before and the reply was too large to be kept.
    pub reply: Option<Bytes>,
    /// Whether an earlier copy was applied, and not the one that was answered.
    pub is_duplicate: bool,
}

#[derive(Clone, Debug)]
struct Waiting {
    /// The whole entry.
    payload: Bytes,
    /// Whether it was sent more than once.
    is_repeated: bool,
}

/// The client's side of one session with one shard.
///
/// It gives out request ids, keeps what was not answered, and tells the shard with each request what was. It sends
/// nothing itself: propose the payloads it gives, in any order and as often as necessary, to whoever leads the
/// shard. At most a window of them is kept.
#[derive(Clone, Debug)]
pub struct ClientSession {
    id: SessionId,
    window: u64,
    idle_timeout_ms: u64,
    next: RequestId,
    waiting: BTreeMap<RequestId, Waiting>,
    is_expired: bool,
}

impl ClientSession {
    /// What to propose to get a session. If the outcome is unknown, propose it again: the first one will expire.
    #[must_use]
    pub fn open() -> Bytes {
        Entry::Open.encode()
    }

    /// The session that was opened, from the reply to [`ClientSession::open`].
    ///
    /// # Errors
    /// [`OpenError`] if it is another reply.
    pub fn opened(reply: &Bytes) -> Result<Self, OpenError> {
        match SessionReply::decode(reply)? {
            SessionReply::Opened { session, limits } => Ok(Self {
                id: session,
                window: limits.window,
                idle_timeout_ms: limits.idle_timeout_ms,
                next: RequestId(1),
                waiting: BTreeMap::new(),
                is_expired: false,
            }),
            other => Err(OpenError::Unexpected(other)),
        }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Time without use after which the shard drops the session, as of when it was opened.
    #[must_use]
    pub fn idle_timeout_ms(&self) -> u64 {
        self.idle_timeout_ms
    }

    /// Whether the shard has said that the session is gone.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.is_expired
    }

    /// The lowest request whose answer is waited for.
    #[must_use]
    pub fn first(&self) -> RequestId {
        self.waiting.first_key_value().map_or(self.next, |(first, _)| *first)
    }

    /// Begins a request; `payload` is for the machine. Returns its id, and what to propose.
    ///
    /// # Errors
    /// [`BeginError`]; nothing has begun then.
    pub fn begin(&mut self, payload: &[u8]) -> Result<(RequestId, Bytes), BeginError> {
        if self.is_expired {
            return Err(BeginError::Expired);
        }
        let (request, first) = (self.next, self.first());
        if request.0 - first.0 >= self.window {
            return Err(BeginError::WindowFull { window: self.window });
        }
        let payload = encode_request(self.id, request, first, payload);
        self.next = RequestId(request.0 + 1);
        let waiting = Waiting { payload: payload.clone(), is_repeated: false };
        self.waiting.insert(request, waiting);
        Ok((request, payload))
    }

    /// What to propose when the outcome of a request is unknown: the same bytes. `None` if it is not waited
    /// for.
    pub fn again(&mut self, request: RequestId) -> Option<Bytes> {
        let waiting = self.waiting.get_mut(&request)?;
        waiting.is_repeated = true;
        Some(waiting.payload.clone())
    }

    /// The same, when it is known that no earlier copy got into the log (*not the leader*, *overloaded*).
    #[must_use]
    pub fn instead(&self, request: RequestId) -> Option<Bytes> {
        Some(self.waiting.get(&request)?.payload.clone())
    }

    /// Requests without an answer, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = RequestId> {
        self.waiting.keys().copied()
    }

    /// The reply to a request has come.
    ///
    /// # Errors
    /// [`RequestError`]. After [`RequestError::Full`] and [`RequestError::Malformed`] the request is still waited for.
    pub fn answered(&mut self, request: RequestId, reply: &Bytes) -> Result<Answer, RequestError> {
        if !self.waiting.contains_key(&request) {
            return Err(RequestError::NotWaiting(request));
        }
        let answer = match SessionReply::decode(reply)? {
            SessionReply::Applied(reply) => Answer { reply: Some(reply), is_duplicate: false },
            SessionReply::Duplicate(reply) => Answer { reply: Some(reply), is_duplicate: true },
            SessionReply::ReplyGone => Answer { reply: None, is_duplicate: true },
            SessionReply::UnknownSession => {
                self.is_expired = true;
                let waiting = self.waiting.remove(&request);
                return Err(match waiting.is_some_and(|waiting| waiting.is_repeated) {
                    true => RequestError::Unknown,
                    false => RequestError::NotApplied,
                });
            }
            SessionReply::WindowFull | SessionReply::RepliesFull => return Err(RequestError::Full),
            SessionReply::Acknowledged => {
                self.waiting.remove(&request);
                return Err(RequestError::NotWaiting(request));
            }
            SessionReply::Opened { .. } | SessionReply::Done | SessionReply::Malformed => {
                return Err(
                    Malformed("the reply is to something else, or refuses the bytes").into()
                );
            }
        };
        self.waiting.remove(&request);
        Ok(answer)
    }

    /// Gives a request up: it may have been applied, or be applied until the next entry of this session is, and
    /// not after that.
    pub fn give_up(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }

    /// What to propose when there is nothing to ask for, so that the session does not expire. It also lets the shard
    /// forget what was answered.
    #[must_use]
    pub fn keep_alive(&self) -> Bytes {
        Entry::KeepAlive { session: self.id, first: self.first() }.encode()
    }

    /// What to propose when the session is not needed any more.
    #[must_use]
    pub fn close(&self) -> Bytes {
        Entry::Close { session: self.id }.encode()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::BytesMut;

    use super::*;
    use crate::session::SessionLimits;

    fn bytes(reply: SessionReply) -> Bytes {
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        out.freeze()
    }

    fn session() -> ClientSession {
        let limits = SessionLimits { window: 2, ..SessionLimits::default() };
        let opened = SessionReply::Opened { session: SessionId(7), limits };
        ClientSession::opened(&bytes(opened)).unwrap()
    }

    fn first_in(payload: &Bytes) -> RequestId {
        match Entry::decode(payload).unwrap() {
            Entry::Request { first, .. } => first,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_acknowledge_what_was_answered() {
        let mut session = session();
        let (one, first) = session.begin(b"1").unwrap();
        let (two, _) = session.begin(b"2").unwrap();
        assert_eq!(first_in(&first), RequestId(1));
        assert_eq!(session.begin(b"3"), Err(BeginError::WindowFull { window: 2 }));
        let reply = Bytes::from_static(b"r");
        let answer = session.answered(two, &bytes(SessionReply::Applied(reply.clone()))).unwrap();
        assert_eq!(answer, Answer { reply: Some(reply.clone()), is_duplicate: false });
        assert_eq!(session.begin(b"3"), Err(BeginError::WindowFull { window: 2 }));
        assert_eq!(session.again(one), Some(first));
        let answer = session.answered(one, &bytes(SessionReply::Duplicate(reply))).unwrap();
        assert!(answer.is_duplicate);
        assert_eq!(session.again(one), None);
        let (_, third) = session.begin(b"3").unwrap();
        assert_eq!(first_in(&third), RequestId(3));
        assert_eq!(session.waiting().collect::<Vec<_>>(), [RequestId(3)]);
    }

    #[test]
    fn an_expired_session_tells_what_is_known() {
        let mut session = session();
        let (one, _) = session.begin(b"1").unwrap();
        let (two, _) = session.begin(b"2").unwrap();
        let gone = bytes(SessionReply::UnknownSession);
        session.again(one);
        assert_eq!(session.answered(one, &gone), Err(RequestError::Unknown));
        assert_eq!(session.answered(two, &gone), Err(RequestError::NotApplied));
        assert_eq!(session.begin(b"3"), Err(BeginError::Expired));
        assert!(session.is_expired());
    }

    #[test]
    fn what_was_refused_for_now_is_still_waited_for() {
        let mut session = session();
        let (one, payload) = session.begin(b"1").unwrap();
        for full in [SessionReply::WindowFull, SessionReply::RepliesFull] {
            assert_eq!(session.answered(one, &bytes(full)), Err(RequestError::Full));
        }
        assert!(session.answered(one, &Bytes::new()).is_err());
        assert!(session.answered(one, &bytes(SessionReply::Done)).is_err());
        assert_eq!(session.instead(one), Some(payload));
        session.give_up(one);
        let applied = bytes(SessionReply::Applied(Bytes::new()));
        assert_eq!(session.answered(one, &applied), Err(RequestError::NotWaiting(one)));
        assert_eq!(session.first(), RequestId(2));
        let done = bytes(SessionReply::Done);
        assert!(matches!(ClientSession::opened(&done), Err(OpenError::Unexpected(_))));
        assert!(matches!(ClientSession::opened(&Bytes::new()), Err(OpenError::Malformed(_))));
    }
}
