//! `SESSION` and `ONCE`: client sessions in RESP, by which a write is done once however often it is sent.
//!
//! ```text
//! SESSION OPEN key                         an id, and what holds for it, as names and values
//! ONCE id request first command ...        [reply of the command, 0], or 1 if an earlier copy was applied
//! SESSION KEEPALIVE key id [first]         OK
//! SESSION CLOSE key id                     OK
//! ```
//! A session belongs to a shard, that of the key it was opened with, and serves all keys of that shard. Its id names
//! both, `shard-number`: numbers are given by each shard alone, and a session of another shard with the same number is
//! somebody else's. The client counts its requests from 1, and says with each which is the `first` whose reply it still
//! waits for. What a request meets is told in [`session`](coracle_engine::session).
//!
//! The reply to a copy is what the first one was answered, byte for byte, in the protocol (RESP2 or RESP3) that its
//! connection spoke.

use bytes::{Bytes, BytesMut};
use coracle_engine::ShardId;
use coracle_engine::env::Env;
use coracle_engine::session::{Entry, RequestId, SessionId, SessionLimits, SessionReply};

use super::cluster::slot_of;
use super::commands::{self, CommandError, Handler, Sub, quoted};
use super::refusal;
use super::resp::{Args, Protocol, Writer, parse_i64};
use super::session::{Kind, Session, Step};

/// A session, as clients name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    shard: ShardId,
    session: SessionId,
}

impl Name {
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let parts = text.iter().position(|byte| *byte == b'-').map(|at| text.split_at(at));
        let named = parts.and_then(|(shard, number)| {
            let shard = u32::try_from(parse_i64(shard)?).ok().map(ShardId)?;
            let session = u64::try_from(parse_i64(&number[1..])?).ok().filter(|id| *id > 0)?;
            Some(Self { shard, session: SessionId(session) })
        });
        named.ok_or(CommandError::InvalidSession)
    }

    /// The session, if it is one of this shard.
    fn of(self, shard: ShardId) -> Result<SessionId, CommandError> {
        let here = self.shard == shard;
        here.then_some(self.session).ok_or(CommandError::OtherShard)
    }
}

fn request_id(text: &[u8]) -> Result<RequestId, CommandError> {
    let id = parse_i64(text).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
    id.map(RequestId).ok_or(CommandError::InvalidRequest)
}

/// A write that is to be done once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Once {
    name: Name,
    request: RequestId,
    first: RequestId,
}

impl Once {
    /// What is proposed to `shard` instead of the payload of the write.
    pub(super) fn entry(self, shard: ShardId, payload: Bytes) -> Result<Bytes, CommandError> {
        let Self { name, request, first } = self;
        let session = name.of(shard)?;
        Ok(Entry::Request { session, request, first, payload }.encode())
    }
}

impl<E: Env> Session<E> {
    /// `ONCE`.
    pub(super) fn once(&mut self, args: Args<'_>) -> Result<Step, CommandError> {
        let name = Name::parse(&args[1])?;
        let (request, first) = (request_id(&args[2])?, request_id(&args[3])?);
        if first > request {
            return Err(CommandError::InvalidRequest);
        }
        let wrapped = args.from(4);
        let spec = commands::find(&wrapped[0]).ok_or_else(|| commands::unknown(wrapped))?;
        let Handler::Write(parse) = spec.handler else {
            return Err(CommandError::NotOnce(quoted(&wrapped[0])));
        };
        if !spec.takes(wrapped.len()) {
            return Err(CommandError::WrongArity(spec.name.to_owned()));
        }
        self.keyed(spec, parse, wrapped, Some(Once { name, request, first }))
    }

    /// `SESSION OPEN`, `KEEPALIVE` and `CLOSE`.
    pub(super) fn client_session(
        &mut self,
        sub: Sub,
        args: Args<'_>,
    ) -> Result<Step, CommandError> {
        let name = args.get(3).map(Name::parse).transpose()?;
        let first = args.get(4).map(request_id).transpose()?.unwrap_or(RequestId(1));
        if args.len() > 5 {
            return Err(CommandError::Syntax);
        }
        let place = match self.find_place(slot_of(&args[2]), true) {
            Ok(place) => place,
            Err(step) => return Ok(step),
        };
        let entry = match (sub, name) {
            (Sub::SessionKeepalive, Some(name)) => {
                Entry::KeepAlive { session: name.of(place.shard)?, first }
            }
            (Sub::SessionClose, Some(name)) => Entry::Close { session: name.of(place.shard)? },
            _ => Entry::Open,
        };
        self.accept(entry.encode(), place, Kind::InSession { sets_expiry: false });
        Ok(Step::Next)
    }
}

/// The reply to an entry of sessions that `shard` has applied.
pub(super) fn reply(shard: ShardId, applied: &Bytes) -> Bytes {
    let Ok(answer) = SessionReply::decode(applied) else {
        return refusal::error("ERR this node does not know sessions");
    };
    let done = |reply: &Bytes, is_duplicate: i64| {
        let mut out = BytesMut::with_capacity(reply.len() + 16);
        let mut writer = Writer::new(&mut out, Protocol::Resp2);
        writer.array(2);
        writer.raw(reply);
        writer.integer(is_duplicate);
        out.freeze()
    };
    match answer {
        SessionReply::Applied(reply) => done(&reply, 0),
        SessionReply::Duplicate(reply) => done(&reply, 1),
        SessionReply::ReplyGone => refusal::error(
            "REPLYGONE the request was applied before, and its reply was too large to be kept",
        ),
        SessionReply::Opened { session, limits } => opened(shard, session, limits),
        SessionReply::Done => Bytes::from_static(b"+OK\r\n"),
        SessionReply::UnknownSession => refusal::error(
            "NOSESSION there is no such session: it was idle for too long, evicted or closed; nothing was done now, \
             and no copy of its requests will be done any more",
        ),
        SessionReply::Acknowledged => refusal::error(
            "SESSIONACK the session has said that it does not need the reply of this request; nothing was done now",
        ),
        SessionReply::WindowFull => refusal::error(
            "SESSIONWINDOW the request is too far from the first one that waits; nothing was done",
        ),
        SessionReply::RepliesFull => refusal::error(
            "SESSIONFULL the session keeps too many bytes of replies; nothing was done, acknowledge older ones",
        ),
        SessionReply::Malformed => refusal::error("ERR malformed log entry"),
    }
}

fn opened(shard: ShardId, session: SessionId, limits: SessionLimits) -> Bytes {
    let mut out = BytesMut::new();
    let mut writer = Writer::new(&mut out, Protocol::Resp2);
    let numbers = [
        ("window", limits.window),
        ("reply-bytes", limits.reply_bytes),
        ("session-bytes", limits.session_bytes),
        ("idle-timeout-ms", limits.idle_timeout_ms),
    ];
    writer.array(2 + 2 * numbers.len());
    writer.text("session");
    writer.text(&format!("{shard}-{session}"));
    for (name, number) in numbers {
        writer.text(name);
        writer.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }
    out.freeze()
}
