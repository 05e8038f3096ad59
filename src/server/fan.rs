//! Asking shards from the server itself: reads that must be asked again, and commands about all keys.

use bytes::{Bytes, BytesMut};
use coracle_engine::core::{Consistency, Pending};
use coracle_engine::env::Env;
use coracle_engine::{QueryError, ShardId};

use super::cluster::{shard_of_slot, slots_of_shard};
use super::commands::{self, CommandError, Fan, ScanRequest};
use super::kv::op::{Encoder, Read, Write};
use super::kv::{ExpiryReport, ScanPage, TIME_MUST_ADVANCE};
use super::limits::{REPLY_BYTES_MAX, SCAN_SHARDS_MAX, TIME_ADVANCES_MAX};
use super::machine::COUNT_SESSIONS;
use super::refusal;
use super::resp::{Args, Writer, parse_i64};
use super::state::{Asked, Client, Shared, add};

/// The final reply of a read, given its first outcome: moves the log time and asks again if needed.
pub(super) async fn settle<E: Env, P>(
    server: &Shared<E>,
    asked: &Asked<P>,
    first: Result<Bytes, QueryError>,
) -> Bytes {
    let consistency = server.consistency(asked.stale);
    settle_query(server, (asked.shard, asked.slot), &asked.payload, consistency, first)
        .await
        .unwrap_or_else(|refusal| refusal)
}

/// Asks a shard for a linearizable read.
pub(super) async fn ask<E: Env>(
    server: &Shared<E>,
    shard: ShardId,
    slot: u16,
    payload: Bytes,
) -> Bytes {
    let consistency = Consistency::Linearizable;
    let first = server.core.query(shard, payload.clone(), consistency).await;
    settle_query(server, (shard, slot), &payload, consistency, first)
        .await
        .unwrap_or_else(|refusal| refusal)
}

/// An answer, or the error reply.
async fn settle_query<E: Env>(
    server: &Shared<E>,
    (shard, slot): (ShardId, u16),
    payload: &Bytes,
    consistency: Consistency,
    first: Result<Bytes, QueryError>,
) -> Result<Bytes, Bytes> {
    let mut result = first;
    for _ in 0..TIME_ADVANCES_MAX {
        match result {
            Ok(answer) if answer == TIME_MUST_ADVANCE => {}
            Ok(answer) => return Ok(answer),
            Err(why) => {
                add(&server.stats.errors, 1);
                return Err(refusal::of_query(&server.core.view(), slot, &why));
            }
        }
        let tick = server.encode(Default::default(), false, Encoder::tick);
        if let Err(why) = server.core.propose(shard, tick).await {
            add(&server.stats.errors, 1);
            return Err(refusal::of_proposal(&server.core.view(), slot, &why));
        }
        result = server.core.query(shard, payload.clone(), consistency).await;
    }
    Err(refusal::overloaded("keys expire faster than this shard can tell"))
}

/// A command about the keys of this core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FanRequest {
    Info(Vec<String>),
    DbSize,
    Keys(Bytes),
    Scan(ScanRequest),
    RandomKey,
    Flush,
    CountInSlot(u16),
    KeysInSlot(u16, u64),
}

impl FanRequest {
    pub(super) fn of(fan: Fan, args: Args<'_>) -> Result<Self, CommandError> {
        Ok(match fan {
            Fan::Info => {
                let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
                Self::Info(args.from(1).iter().map(lower).collect())
            }
            Fan::DbSize => Self::DbSize,
            Fan::Keys => Self::Keys(Bytes::copy_from_slice(&args[1])),
            Fan::Scan => Self::Scan(commands::scan(args)?),
            Fan::RandomKey => Self::RandomKey,
            Fan::Flush => match args.get(1) {
                None => Self::Flush,
                Some(mode)
                    if args.len() == 2
                        && (mode.eq_ignore_ascii_case(b"sync")
                            || mode.eq_ignore_ascii_case(b"async")) =>
                {
                    Self::Flush
                }
                Some(_) => return Err(CommandError::Syntax),
            },
        })
    }
}

/// Runs a command about all keys; gives its reply, which may be an error.
pub(super) async fn run<E: Env>(server: &Shared<E>, client: &Client, request: FanRequest) -> Bytes {
    let asking = Asking { server, client, stale: client.readonly.get() };
    let reply = match request {
        FanRequest::Info(sections) => Ok(asking.info(&sections).await),
        FanRequest::DbSize => asking.size().await,
        FanRequest::Keys(pattern) => asking.keys(&pattern).await,
        FanRequest::Scan(request) => asking.scan(&request).await,
        FanRequest::RandomKey => asking.random_key().await,
        FanRequest::Flush => asking.flush().await,
        FanRequest::CountInSlot(slot) => asking.slot(slot, &Read::CountInSlot { slot }).await,
        FanRequest::KeysInSlot(slot, count) => {
            asking.slot(slot, &Read::KeysInSlot { slot, count }).await
        }
    };
    reply.unwrap_or_else(|refusal| refusal)
}

/// The sums of what the shards on this core report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) replicas: u64,
    pub(super) led: u64,
    /// Of the shards that this core leads.
    pub(super) keys: u64,
    pub(super) expiring: u64,
    pub(super) sessions: u64,
    /// Of all replicas.
    pub(super) bytes: u64,
    pub(super) expired: u64,
}

struct Asking<'a, E: Env> {
    server: &'a Shared<E>,
    client: &'a Client,
    stale: bool,
}

impl<E: Env> Asking<'_, E> {
    fn payload(&self, read: &Read<'_>) -> Bytes {
        self.server.encode(self.client.protocol.get(), self.stale, |out| out.read(read))
    }

    fn consistency(&self) -> Consistency {
        self.server.consistency(self.stale)
    }

    /// Shards that a command about all keys looks at: those led here, or all copies for `READONLY`.
    fn shards(&self) -> Vec<ShardId> {
        self.server.shards(self.stale)
    }

    async fn one(&self, shard: ShardId, read: &Read<'_>) -> Result<Bytes, Bytes> {
        let payload = self.payload(read);
        let pending = self.server.core.query(shard, payload.clone(), self.consistency());
        self.settled(shard, &payload, pending).await
    }

    async fn settled(
        &self,
        shard: ShardId,
        payload: &Bytes,
        pending: Pending<Bytes, QueryError>,
    ) -> Result<Bytes, Bytes> {
        let slot = slots_of_shard(shard, self.server.core.view().shards).start;
        let first = pending.await;
        settle_query(self.server, (shard, slot), payload, self.consistency(), first).await
    }

    /// The answers of all shards, asked at the same time.
    async fn all(&self, read: &Read<'_>) -> Result<Vec<Bytes>, Bytes> {
        let payload = self.payload(read);
        let ask = |shard: ShardId| {
            (shard, self.server.core.query(shard, payload.clone(), self.consistency()))
        };
        let asked: Vec<_> = self.shards().into_iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        let mut bytes = 0;
        for (shard, pending) in asked {
            let answer = self.settled(shard, &payload, pending).await?;
            bytes += answer.len();
            if answer.first() == Some(&b'-') {
                return Err(answer);
            }
            if bytes > REPLY_BYTES_MAX {
                return Err(refusal::error("ERR the reply would be larger than 64 MiB, use SCAN"));
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    fn reply(&self, write: impl FnOnce(&mut Writer<'_>)) -> Bytes {
        let mut reply = BytesMut::new();
        write(&mut Writer::new(&mut reply, self.client.protocol.get()));
        reply.freeze()
    }

    async fn size(&self) -> Result<Bytes, Bytes> {
        let answers = self.all(&Read::Size).await?;
        let sum = answers.iter().map(|answer| integer_reply(answer)).sum();
        Ok(self.reply(|out| out.integer(sum)))
    }

    async fn keys(&self, pattern: &[u8]) -> Result<Bytes, Bytes> {
        let answers = self.all(&Read::Keys { pattern }).await?;
        let parts: Vec<_> = answers.iter().map(|answer| array_reply(answer)).collect();
        Ok(self.reply(|out| {
            out.array(parts.iter().map(|(count, _)| count).sum());
            parts.iter().for_each(|(_, keys)| out.raw(keys));
        }))
    }

    async fn scan(&self, request: &ScanRequest) -> Result<Bytes, Bytes> {
        let (first, mut below) = match request.cursor {
            0 => (0, u64::MAX),
            cursor => ((cursor >> 32) as u32, cursor & u64::from(u32::MAX)),
        };
        let mut shards = self.shards();
        shards.retain(|shard| shard.0 >= first && request.strings);
        if shards.first().is_some_and(|shard| shard.0 != first) {
            // The shard of the cursor is led elsewhere now: go on with the next.
            below = u64::MAX;
        }
        let (mut found, mut keys, mut next) = (BytesMut::new(), 0, 0);
        let mut rest = shards.iter().copied().peekable();
        for _ in 0..SCAN_SHARDS_MAX {
            let Some(shard) = rest.next() else { break };
            let (count, pattern) = (request.count, &request.pattern);
            let answer = self.one(shard, &Read::Scan { below, count, pattern }).await?;
            let Some(page) = ScanPage::decode(answer) else { break };
            found.extend_from_slice(&page.encoded);
            keys += page.keys;
            below = u64::MAX;
            next = match (page.below, rest.peek()) {
                (0, None) => 0,
                (0, Some(next)) => u64::from(next.0) << 32 | u64::from(u32::MAX),
                (position, _) => u64::from(shard.0) << 32 | position.min(u32::MAX.into()),
            };
            if page.below != 0 || keys >= request.count {
                break;
            }
        }
        Ok(self.reply(|out| {
            out.array(2);
            out.text(&next.to_string());
            out.array(usize::try_from(keys).unwrap_or(0));
            out.raw(&found);
        }))
    }

    async fn random_key(&self) -> Result<Bytes, Bytes> {
        let mut shards = self.shards();
        while !shards.is_empty() {
            let random = self.server.env.random();
            let shard = shards.swap_remove((random % shards.len() as u64) as usize);
            let random = self.server.env.random();
            let answer = self.one(shard, &Read::RandomKey { random }).await?;
            if answer.first() == Some(&b'$') && !answer.starts_with(b"$-1") {
                return Ok(answer);
            }
        }
        Ok(self.reply(|out| out.null()))
    }

    async fn flush(&self) -> Result<Bytes, Bytes> {
        let payload = self.server.encode(Default::default(), false, |out| out.write(&Write::Flush));
        let propose = |shard: ShardId| (shard, self.server.core.propose(shard, payload.clone()));
        let proposed: Vec<_> = self.server.shards(false).into_iter().map(propose).collect();
        let mut refused = None;
        for (shard, pending) in proposed {
            if let Err(why) = pending.await {
                let view = self.server.core.view();
                let slot = slots_of_shard(shard, view.shards).start;
                refused.get_or_insert_with(|| refusal::of_proposal(&view, slot, &why));
            }
        }
        refused.map_or_else(|| Ok(self.reply(|out| out.ok())), Err)
    }

    /// Asks the shard of a slot as far as this core has a copy of it.
    async fn slot(&self, slot: u16, read: &Read<'_>) -> Result<Bytes, Bytes> {
        let (shard, led) = {
            let view = self.server.core.view();
            let shard = shard_of_slot(slot, view.shards);
            let led = view.leader(shard) == Some(view.node);
            (view.is_local(shard).then_some(shard), led)
        };
        let Some(shard) = shard else {
            return Ok(self.reply(|out| match read {
                Read::CountInSlot { .. } => out.integer(0),
                _ => out.array(0),
            }));
        };
        Asking { stale: self.stale || !led, ..*self }.one(shard, read).await
    }

    async fn info(&self, sections: &[String]) -> Bytes {
        let totals = totals(self.server).await;
        let text = commands::info::text(self.server, &totals, sections);
        self.reply(|out| out.verbatim(&text))
    }
}

/// Sums up what the replicas on this core report now.
pub(super) async fn totals<E: Env>(server: &Shared<E>) -> Totals {
    let payload = server.encode(Default::default(), true, |out| out.read(&Read::Expiring));
    let led = server.shards(false);
    let mut totals = Totals { led: led.len() as u64, ..Totals::default() };
    for shard in server.shards(true) {
        let answer = server.core.query(shard, payload.clone(), Consistency::Stale).await;
        let Some(report) = answer.ok().and_then(ExpiryReport::decode) else { continue };
        totals.replicas += 1;
        totals.bytes += report.bytes;
        totals.expired += report.expired;
        if led.binary_search(&shard).is_ok() {
            totals.keys += report.keys;
            totals.expiring += report.expiring;
            let question = Bytes::from_static(COUNT_SESSIONS);
            let count = server.core.query(shard, question, Consistency::Stale).await;
            let count = count.ok().and_then(|count| count[..].try_into().ok());
            totals.sessions += count.map_or(0, u64::from_be_bytes);
        }
    }
    totals
}

/// The number in `:number\r\n`.
fn integer_reply(reply: &[u8]) -> i64 {
    reply
        .strip_prefix(b":")
        .and_then(|rest| rest.strip_suffix(b"\r\n"))
        .and_then(parse_i64)
        .unwrap_or(0)
}

/// The count and the elements of `*count\r\n...`.
fn array_reply(reply: &[u8]) -> (usize, &[u8]) {
    let end = reply.windows(2).position(|pair| pair == b"\r\n").unwrap_or(0);
    let count = reply.get(1..end).and_then(parse_i64).and_then(|count| usize::try_from(count).ok());
    (count.unwrap_or(0), reply.get(end + 2..).unwrap_or_default())
}
