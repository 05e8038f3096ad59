//! From a decoded request to what becomes of it: a reply, a query, a proposal.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use coracle_engine::ShardId;
use coracle_engine::env::Env;

use super::cluster::{Route, route};
use super::commands::{self, CommandError, Handler, Parse, ParseFn, Spec};
use super::fan::FanRequest;
use super::kv::op::{Encoder, Head};
use super::limits::PAYLOADS_PER_CORE_BYTES_MAX;
use super::once::Once;
use super::refusal;
use super::resp::{Args, Writer};
use super::state::{Asked, Client, Shared, Slot, add};

/// What the reading task does after a request.
#[derive(Debug)]
pub(super) enum Step {
    /// Takes the next request.
    Next,
    /// Reads no more; the connection ends after the replies.
    Close,
    /// Waits until no query of the shard is unfinished, then takes the same request again.
    AfterReads(ShardId),
    /// Waits for all replies, then asks the shards of the core.
    Fan(FanRequest),
}

/// Where a command with keys is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) shard: ShardId,
    slot: u16,
    stale: bool,
}

/// What is asked of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A query.
    Read,
    /// A proposal that is answered by the key-value machine.
    Write { sets_expiry: bool },
    /// A proposal that is answered by the sessions.
    InSession { sets_expiry: bool },
}

/// The reading side of one connection.
pub(super) struct Session<E: Env> {
    pub(super) server: Rc<Shared<E>>,
    pub(super) client: Rc<Client>,
    encoder: Encoder,
    scratch: BytesMut,
    pub(super) now_ms: u64,
}

impl<E: Env> Session<E> {
    pub(super) fn new(server: Rc<Shared<E>>, client: Rc<Client>) -> Self {
        let (encoder, scratch) = (Encoder::default(), BytesMut::new());
        Self { server, client, encoder, scratch, now_ms: 0 }
    }

    /// Takes one request.
    pub(super) fn take(&mut self, args: Args<'_>) -> Step {
        if args.is_empty() {
            return Step::Next;
        }
        add(&self.server.stats.commands, 1);
        add(&self.client.commands, 1);
        match self.dispatch(args) {
            Ok(step) => step,
            Err(refused) => {
                self.refuse(&refused);
                Step::Next
            }
        }
    }

    fn dispatch(&mut self, args: Args<'_>) -> Result<Step, CommandError> {
        let spec = commands::find(&args[0]).ok_or_else(|| commands::unknown(args))?;
        if !spec.takes(args.len()) {
            return Err(CommandError::WrongArity(spec.name.to_owned()));
        }
        self.client.last_command.set(spec.name);
        match spec.handler {
            Handler::Read(parse) | Handler::Write(parse) => self.keyed(spec, parse, args, None),
            Handler::Once => self.once(args),
            Handler::Local(local) => self.local(local, args),
            Handler::Container(subcommands) => {
                let sub = commands::find_sub(spec, subcommands, args)?;
                self.subcommand(sub, args)
            }
            Handler::Fan(fan) => FanRequest::of(fan, args).map(Step::Fan),
        }
    }

    /// A command with keys, perhaps one that is to be done once.
    pub(super) fn keyed(
        &mut self,
        spec: &Spec,
        parse: ParseFn,
        args: Args<'_>,
        once: Option<Once>,
    ) -> Result<Step, CommandError> {
        let writes = matches!(spec.handler, Handler::Write(_));
        // All commands with a shard have a key: their arity says so.
        let Some(slot) = spec.slot_of(args)? else { return Err(CommandError::NoKeys) };
        let place = match self.find_place(slot, writes) {
            Ok(place) => place,
            Err(step) => return Ok(step),
        };
        let protocol = self.client.protocol.get();
        self.encoder.set_head(Head { protocol, stale: place.stale, now_ms: self.now_ms });
        let mut parsing =
            Parse { encoder: &mut self.encoder, now_ms: self.now_ms, sets_expiry: false };
        let payload = parse(args, &mut parsing)?;
        let sets_expiry = parsing.sets_expiry;
        let (payload, kind) = match once {
            Some(once) => (once.entry(place.shard, payload)?, Kind::InSession { sets_expiry }),
            None if writes => (payload, Kind::Write { sets_expiry }),
            None => (payload, Kind::Read),
        };
        self.accept(payload, place, kind);
        Ok(Step::Next)
    }

    /// Where a command about a slot goes, or what is done instead.
    pub(super) fn find_place(&mut self, slot: u16, writes: bool) -> Result<Place, Step> {
        let place = match self.place(slot, writes) {
            Ok(place) => place,
            Err(redirection) => {
                add(&self.server.stats.errors, 1);
                self.client.push(Slot::Ready(redirection));
                return Err(Step::Next);
            }
        };
        match writes && self.client.reads_unfinished(place.shard) {
            true => Err(Step::AfterReads(place.shard)),
            false => Ok(place),
        }
    }

    /// Asks a shard, unless too much is under way.
    pub(super) fn accept(&mut self, payload: Bytes, place: Place, kind: Kind) {
        if self.server.payload_bytes.get() + payload.len() > PAYLOADS_PER_CORE_BYTES_MAX {
            add(&self.server.stats.errors, 1);
            let limit = "too many request bytes under way on this core";
            return self.client.push(Slot::Ready(refusal::overloaded(limit)));
        }
        self.submit(payload, place, kind);
    }

    /// Where a slot is served on this core, or the redirection.
    fn place(&self, slot: u16, writes: bool) -> Result<Place, Bytes> {
        let view = self.server.core.view();
        let route = route(&view, slot);
        match &route {
            Route::Here(shard) => Ok(Place { shard: *shard, slot, stale: false }),
            Route::Moved { shard, .. } | Route::Down(shard)
                if !writes && self.client.readonly.get() && view.is_local(*shard) =>
            {
                Ok(Place { shard: *shard, slot, stale: true })
            }
            elsewhere => Err(refusal::redirection(elsewhere, slot).unwrap_or_default()),
        }
    }

    fn submit(&mut self, payload: Bytes, place: Place, kind: Kind) {
        let Place { shard, slot, stale } = place;
        let sets_expiry = match kind {
            Kind::Read => false,
            Kind::Write { sets_expiry } | Kind::InSession { sets_expiry } => sets_expiry,
        };
        let core = &self.server.core;
        let bytes = payload.len();
        self.server.payload_bytes.set(self.server.payload_bytes.get() + bytes);
        macro_rules! asked {
            ($pending:expr, $payload:expr) => {
                Asked {
                    pending: $pending,
                    shard,
                    slot,
                    stale,
                    sets_expiry,
                    payload: $payload,
                    bytes,
                }
            };
        }
        let entry = if matches!(kind, Kind::Write { .. }) {
            Slot::Write(asked!(core.propose(shard, payload), Bytes::new()))
        } else if matches!(kind, Kind::InSession { .. }) {
            Slot::InSession(asked!(core.propose(shard, payload), Bytes::new()))
        } else if !stale && self.client.writes_unfinished(shard) {
            // Only the log can put it behind writes that are not committed yet.
            Slot::LoggedRead(asked!(core.propose(shard, payload.clone()), payload))
        } else {
            let consistency = self.server.consistency(stale);
            Slot::Read(asked!(core.query(shard, payload.clone(), consistency), payload))
        };
        self.client.push(entry);
    }

    /// Queues a reply that `write` makes.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        write(&mut Writer::new(&mut self.scratch, self.client.protocol.get()));
        self.client.push(Slot::Ready(self.scratch.split().freeze()));
    }

    /// Queues the refusal of a command.
    pub(super) fn refuse(&mut self, refused: &CommandError) {
        add(&self.server.stats.errors, 1);
        let text = refused.to_string();
        self.reply(|out| out.error(&text));
    }
}
