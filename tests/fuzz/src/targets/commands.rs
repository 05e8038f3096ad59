//! Commands of clients: requests are parsed as the server does and take effect on a shard.

use bytes::{Bytes, BytesMut};
use coracle::server::Kv;
use coracle::server::commands::{self, CommandError, Handler, Parse, Spec};
use coracle::server::kv::op::{Encoder, Head, Payload, Read};
use coracle::server::kv::{ExpiryReport, TIME_MUST_ADVANCE};
use coracle::server::resp::{Args, Decoder, Protocol};
use coracle::{Apply, ChunkSink, LogIndex, ShardId, StateMachine, Term, restore_chunks};
use coracle_wal::AlignedBuf;

use super::reply;
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "commands",
    run,
    mend: None,
    seeds,
    memory: Memory {
        constant: 16 << 20,
        factor: 2 * STORE_BYTES_MAX,
        reason: "SETRANGE makes a value of 1 MiB, of which images and copies are taken; MGET may name a value \
                 of STORE_BYTES_MAX for every 6 bytes of the request",
    },
};

/// The shard is emptied when it has grown beyond this: the values are not what is tested.
const STORE_BYTES_MAX: usize = 16 << 10;

/// Largest chunk of a snapshot: a key as long as an input fits.
const CHUNK_BYTES: usize = 128 << 10;

/// 2026-01-01, where the clock starts.
const START_MS: u64 = 1_767_225_600_000;

/// A shard and the clock of its only client.
pub(super) struct Shard {
    kv: Kv,
    encoder: Encoder,
    index: u64,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self::of(Kv::new())
    }

    pub(super) fn of(kv: Kv) -> Self {
        let mut encoder = Encoder::default();
        encoder.set_head(Head { protocol: Protocol::Resp2, stale: false, now_ms: 0 });
        Self { kv, encoder, index: 0 }
    }

    pub(super) fn apply(&mut self, payload: &Bytes) -> BytesMut {
        self.index += 1;
        let (shard, index, term) = (ShardId(0), LogIndex(self.index), Term(1));
        let mut reply = BytesMut::new();
        self.kv.apply(Apply { shard, index, term, payload }, &mut reply);
        reply
    }

    pub(super) fn query(&self, payload: &Bytes) -> BytesMut {
        let mut reply = BytesMut::new();
        self.kv.query(payload, &mut reply);
        reply
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        self.encoder.set_head(Head { protocol: Protocol::Resp2, stale: false, now_ms });
        let tick = self.encoder.tick();
        self.apply(&tick);
    }

    pub(super) fn report(&mut self) -> ExpiryReport {
        let asked = self.encoder.read(&Read::Expiring);
        ExpiryReport::decode(self.query(&asked).freeze()).expect("a report")
    }

    /// All chunks of a snapshot. They are small: it is taken often, and values are cut at chunks.
    pub(super) fn image(&mut self) -> Vec<Vec<u8>> {
        let mut stream = self.kv.snapshot().expect("it takes snapshots");
        let mut buf = AlignedBuf::zeroed(CHUNK_BYTES);
        let (mut chunks, mut more) = (Vec::new(), true);
        while more {
            let mut chunk = ChunkSink::new(&mut buf);
            more = stream.fill(&mut chunk).expect("nothing interferes");
            chunks.push(chunk.bytes().to_vec());
        }
        chunks
    }

    /// The same state, from an image.
    pub(super) fn restored(image: &[Vec<u8>]) -> Self {
        let mut shard = Self::new();
        restore_chunks(&mut shard.kv, image).expect("an image that was written can be read");
        shard
    }

    /// Asserts that an image of the state is all of it.
    pub(super) fn survives_a_snapshot(&mut self) {
        let image = self.image();
        let mut copy = Self::restored(&image);
        assert!(copy.image() == image, "equal states have equal images");
        let (before, after) = (self.report(), copy.report());
        let expired = before.expired;
        assert_eq!(before, ExpiryReport { expired, ..after }, "an image holds the whole state");
    }

    fn payload(
        &mut self,
        head: Head,
        parse: commands::ParseFn,
        args: Args<'_>,
    ) -> Result<Bytes, CommandError> {
        self.encoder.set_head(head);
        let now_ms = head.now_ms;
        parse(args, &mut Parse { encoder: &mut self.encoder, now_ms, sets_expiry: false })
    }

    fn execute(&mut self, head: Head, spec: &Spec, args: Args<'_>) -> Result<(), CommandError> {
        // Due keys go first, so that what is left of a change is its own.
        self.tick(head.now_ms);
        let before = self.image();
        match spec.handler {
            Handler::Read(parse) => {
                let payload = self.payload(head, parse, args)?;
                assert!(Payload::decode(&payload).is_some(), "payloads are well formed");
                let reply = self.query(&payload);
                assert_ne!(reply, TIME_MUST_ADVANCE, "the time has just been advanced");
                reply::check(&reply);
                assert_eq!(self.apply(&payload), reply, "through the log it is the same");
                assert!(self.image() == before, "a read changes nothing");
            }
            Handler::Write(parse) => {
                let payload = self.payload(head, parse, args)?;
                assert!(Payload::decode(&payload).is_some(), "payloads are well formed");
                let refused = reply::check(&self.apply(&payload));
                assert!(!refused || self.image() == before, "a refused change changes nothing");
            }
            Handler::Local(_) | Handler::Once | Handler::Fan(_) => {}
            Handler::Container(subcommands) => {
                commands::find_sub(spec, subcommands, args)?;
            }
        }
        Ok(())
    }

    fn request(&mut self, number: u64, args: Args<'_>) -> Result<(), CommandError> {
        let name = args.get(0).unwrap_or_default();
        let Some(spec) = commands::find(name) else { return Err(commands::unknown(args)) };
        if !spec.takes(args.len()) {
            return Err(CommandError::WrongArity(spec.name.to_owned()));
        }
        spec.slot_of(args)?;
        let protocol = if number.is_multiple_of(2) { Protocol::Resp2 } else { Protocol::Resp3 };
        // A second for each request: short deadlines pass.
        let head = Head { protocol, stale: false, now_ms: START_MS + number * 1000 };
        self.execute(head, spec, args)
    }
}

fn run(data: &[u8]) {
    let (mut decoder, mut rest, mut shard) = (Decoder::new(), data, Shard::new());
    for number in 0.. {
        let Ok(Some(bytes)) = decoder.decode(rest) else { break };
        let args = decoder.args(rest);
        if !args.is_empty()
            && let Err(refusal) = shard.request(number, args)
        {
            assert!(!refusal.to_string().contains(['\r', '\n']), "a refusal is one line");
        }
        rest = &rest[bytes..];
        if shard.report().bytes > STORE_BYTES_MAX as u64 {
            shard.survives_a_snapshot();
            shard = Shard::new();
        }
    }
    shard.survives_a_snapshot();
}

fn seeds() -> Vec<Seed> {
    let lines = [
        (
            "strings",
            "SET k v|GET k|APPEND k w|STRLEN k|GETRANGE k 0 -1|SETRANGE k 5 x|GETDEL k|SETNX k 1",
        ),
        (
            "set-options",
            "SET k v EX 2|SET k w NX GET|SET k x XX KEEPTTL|GETEX k PX 1500|SET k v PXAT 1|GETSET k 5",
        ),
        (
            "numbers",
            "SET n 10|INCR n|DECRBY n 3|INCRBYFLOAT n 1.5e3|INCR n|INCRBY n 9223372036854775807",
        ),
        (
            "many",
            "MSET {t}a 1 {t}b 2|MGET {t}a {t}b {t}c|MSETNX {t}b 1 {t}d 2|EXISTS {t}a {t}a|DEL {t}a {t}b",
        ),
        (
            "expiry",
            "SET k v|EXPIRE k 1|TTL k|PEXPIRE k 1500 NX|GET k|PERSIST k|EXPIREAT k 1767225601 GT|GET k",
        ),
        (
            "names",
            "SET {t}a 1 EX 5|RENAME {t}a {t}b|COPY {t}b {t}c REPLACE|RENAMENX {t}c {t}b|TYPE {t}b",
        ),
        (
            "containers",
            "COMMAND COUNT|CLIENT ID|CONFIG GET maxmemory|CLUSTER KEYSLOT k|nosuch a b|GET",
        ),
        ("server", "PING|HELLO 3|SCAN 0 MATCH *|KEYS *|DBSIZE|INFO|FLUSHALL|RANDOMKEY"),
    ];
    let mut seeds: Vec<Seed> = lines
        .into_iter()
        .map(|(name, lines)| {
            Seed::new(name, lines.split('|').flat_map(request).collect::<Vec<_>>())
        })
        .collect();
    seeds.push(Seed::new(
        "inline",
        *b"SET k \"a b\"\r\nGET k\r\nINCR k\r\nPEXPIREAT k 99999999999999\r\n",
    ));
    seeds
}

fn request(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    bytes.into_bytes()
}
