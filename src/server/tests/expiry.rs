//! Time comes through the log: replicas agree on what has expired, and no reader sees a key come back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_engine::{
    Apply, LogIndex, NodeId, ProposeError, ShardId, StateMachine, Term, restore_chunks,
    snapshot_chunks,
};
use proptest::prelude::*;

use super::world::{START_MS, World, command, view};
use crate::server::Kv;
use crate::server::kv::op::{Encoder, Expiry, Head, Op, Payload, Read, SetIf, SetReply, Write};
use crate::server::kv::{ExpiryReport, TIME_MUST_ADVANCE};
use crate::server::limits::EXPIRED_PER_ENTRY_MAX;

struct Replica {
    kv: Kv,
    index: u64,
}

impl Replica {
    fn new() -> Self {
        Self { kv: Kv::new(), index: 0 }
    }

    fn apply(&mut self, payload: &Bytes) -> Bytes {
        self.index += 1;
        let (shard, index, term) = (ShardId(0), LogIndex(self.index), Term(1));
        let mut reply = BytesMut::new();
        self.kv.apply(Apply { shard, index, term, payload }, &mut reply);
        reply.freeze()
    }

    fn ask(&self, payload: &Bytes) -> Bytes {
        let mut reply = BytesMut::new();
        self.kv.query(payload, &mut reply);
        reply.freeze()
    }

    fn image(&mut self) -> Vec<Vec<u8>> {
        snapshot_chunks(self.kv.snapshot().unwrap()).unwrap()
    }
}

fn at(now_ms: u64, stale: bool, build: impl FnOnce(&mut Encoder) -> Bytes) -> Bytes {
    let mut encoder = Encoder::default();
    encoder.set_head(Head { protocol: Default::default(), stale, now_ms });
    build(&mut encoder)
}

fn set(now_ms: u64, key: &[u8], value: &[u8], expiry: Expiry) -> Bytes {
    let (when, reply) = (SetIf::Always, SetReply::Status);
    at(now_ms, false, |out| out.write(&Write::Set { key, value, expiry, when, reply }))
}

fn get(now_ms: u64, key: &[u8]) -> Bytes {
    at(now_ms, false, |out| out.read(&Read::Get { key }))
}

fn report(replica: &Replica) -> ExpiryReport {
    let question = at(0, true, |out| out.read(&Read::Expiring));
    ExpiryReport::decode(replica.ask(&question)).unwrap()
}

#[test]
fn a_deadline_counts_from_the_log_time_and_not_from_a_slower_clock() {
    let mut replica = Replica::new();
    replica.apply(&at(10_000, false, Encoder::tick));
    // The new leader's clock is 8 s behind.
    replica.apply(&set(2_000, b"k", b"v", Expiry::After(1_000)));
    assert_eq!(replica.kv.log_time_ms(), 10_000);
    assert_eq!(report(&replica).next_ms, Some(11_000));
    assert_eq!(replica.ask(&get(2_001, b"k")), "$1\r\nv\r\n");
}

#[test]
fn a_key_that_is_due_by_the_readers_clock_only_is_not_answered() {
    let mut replica = Replica::new();
    replica.apply(&set(1_000, b"k", b"v", Expiry::After(500)));
    assert_eq!(replica.ask(&get(1_499, b"k")), "$1\r\nv\r\n");
    assert_eq!(replica.ask(&get(1_500, b"k")), TIME_MUST_ADVANCE);
    assert_eq!(replica.ask(&get(1_500, b"other")), "$-1\r\n");
    let keys = at(1_500, false, |out| out.read(&Read::Keys { pattern: b"*" }));
    assert_eq!(replica.ask(&keys), TIME_MUST_ADVANCE);
    let stale = at(1_500, true, |out| out.read(&Read::Get { key: b"k" }));
    assert_eq!(replica.ask(&stale), "$-1\r\n", "a stale read promises no order");
    replica.apply(&at(1_500, false, Encoder::tick));
    assert_eq!(replica.ask(&get(1_500, b"k")), "$-1\r\n");
    assert_eq!(replica.ask(&get(1_499, b"k")), "$-1\r\n", "also for a reader with a slower clock");
}

#[test]
fn one_entry_removes_a_bounded_number_of_due_keys_and_the_rest_counts_as_absent() {
    let mut replica = Replica::new();
    let keys = EXPIRED_PER_ENTRY_MAX * 3;
    for n in 0..keys {
        replica.apply(&set(1_000, format!("k{n:04}").as_bytes(), b"v", Expiry::After(500)));
    }
    replica.apply(&set(2_000, b"late", b"v", Expiry::Never));
    let before = report(&replica);
    assert_eq!(before.keys as usize, keys - EXPIRED_PER_ENTRY_MAX + 1);
    let last = format!("k{:04}", keys - 1);
    assert_eq!(replica.ask(&get(2_000, last.as_bytes())), "$-1\r\n");
    let all = at(2_000, false, |out| out.read(&Read::Keys { pattern: b"*" }));
    assert_eq!(replica.ask(&all), "*1\r\n$4\r\nlate\r\n");
    let nx = at(2_000, false, |out| {
        let (when, reply) = (SetIf::Absent, SetReply::Flag);
        let (key, value, expiry) = (last.as_bytes(), b"new".as_slice(), Expiry::Never);
        out.write(&Write::Set { key, value, expiry, when, reply })
    });
    assert_eq!(replica.apply(&nx), ":1\r\n", "a due key is absent for NX");
    replica.apply(&at(2_000, false, Encoder::tick));
    assert_eq!(report(&replica).keys, 2);
    assert_eq!(report(&replica).expired as usize, keys - 1, "the one that was set again is not");
}

fn any_payload() -> impl Strategy<Value = Bytes> {
    let key = (0_u8..6).prop_map(|n| vec![b'k', b'0' + n]);
    let expiry = prop_oneof![
        Just(Expiry::Never),
        Just(Expiry::Keep),
        (1_i64..50).prop_map(Expiry::After),
        (900_i64..1_300).prop_map(Expiry::At),
    ];
    // Clocks jump back and forth: each entry may come from another leader.
    (900_u64..1_300, key.clone(), key, expiry, 0_u8..9, 0_u8..16).prop_map(
        |(now_ms, key, other, expiry, kind, bits)| {
            at(now_ms, false, |out| match kind {
                0 | 1 => out.write(&Write::Set {
                    key: &key,
                    value: &other,
                    expiry,
                    when: [SetIf::Always, SetIf::Absent, SetIf::Present][usize::from(bits % 3)],
                    reply: SetReply::Old,
                }),
                2 => out.write(&Write::Expire { key: &key, expiry, conditions: bits }),
                3 => out.write(&Write::Rename { from: &key, to: &other, only_if_absent: bits > 8 }),
                4 => out.write(&Write::Copy { from: &key, to: &other, replace: bits > 8 }),
                5 => out.write(&Write::Append { key: &key, value: &other }),
                6 => out.del([key.as_slice(), &other].into_iter()),
                7 => out.write(&Write::Persist { key: &key }),
                _ => out.tick(),
            })
        },
    )
}

proptest! {
    #[test]
    fn the_same_entries_make_the_same_state(log in proptest::collection::vec(any_payload(), 1..200)) {
        let (mut first, mut second) = (Replica::new(), Replica::new());
        for (n, payload) in log.iter().enumerate() {
            prop_assert_eq!(first.apply(payload), second.apply(payload));
            if n == log.len() / 2 {
                // The second replica goes on from a snapshot.
                let mut restored = Replica { kv: Kv::new(), index: second.index };
                restore_chunks(&mut restored.kv, second.image()).unwrap();
                second = restored;
            }
        }
        prop_assert_eq!(first.image(), second.image());
    }

    #[test]
    fn an_expired_key_never_comes_back(
        log in proptest::collection::vec(any_payload(), 1..100),
        clocks in proptest::collection::vec(900_u64..1_400, 100),
    ) {
        // Readers with any clock look between all entries that change nothing but the time.
        let mut replica = Replica::new();
        for (payload, clock) in log.iter().zip(clocks) {
            replica.apply(payload);
            let key = b"k0";
            if replica.ask(&get(clock, key)) == TIME_MUST_ADVANCE {
                replica.apply(&at(clock, false, Encoder::tick));
                let gone = replica.ask(&get(clock, key));
                prop_assert_eq!(gone, "$-1\r\n");
                prop_assert_eq!(replica.ask(&get(0, key)), "$-1\r\n");
            }
        }
    }

    #[test]
    fn random_payloads_and_images_are_refused_without_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut replica = Replica::new();
        replica.apply(&set(1_000, b"k", b"v", Expiry::Never));
        let image = replica.image().concat();
        let version = [&[0x10, 0, 0, 0, 0, 0, 0, 0, 0], bytes.as_slice()].concat();
        for payload in [bytes.clone(), version] {
            replica.ask(&payload.clone().into());
            replica.apply(&payload.into());
        }
        let cut = cut.index(image.len());
        prop_assert!(restore_chunks(&mut Kv::new(), [&image[..cut]]).is_err());
        let mut flipped = image;
        flipped[cut] ^= 1 << (bytes.len() % 8);
        prop_assert!(restore_chunks(&mut Kv::new(), [flipped]).is_err());
    }
}

#[test]
fn a_read_of_a_due_key_moves_the_log_time_first() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.ask(&client, &command("SET k v PX 50"));
    world.clock.unix_ms.set(START_MS + 49);
    assert_eq!(world.ask(&client, &command("GET k")), "$1\r\nv\r\n");
    let entries = world.log.len();
    world.clock.unix_ms.set(START_MS + 50);
    assert_eq!(world.ask(&client, &command("GET k")), "$-1\r\n");
    assert_eq!(world.log.len(), entries + 1);
    assert!(matches!(Payload::decode(&world.log[entries].1).unwrap().op, Op::Tick));
    assert_eq!(world.ask(&client, &command("GET k")), "$-1\r\n");
    assert_eq!(world.log.len(), entries + 1, "once is enough");
}

#[test]
fn a_due_key_is_not_answered_while_time_cannot_move() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.ask(&client, &command("SET k v PX 50"));
    world.clock.unix_ms.set(START_MS + 50);
    world.refuses_proposals = Some(ProposeError::NoSpace);
    let reply = world.ask(&client, &command("GET k"));
    assert!(reply.starts_with("-NOSPACE "), "{reply:?}");
}

#[test]
fn keys_that_nobody_reads_go_away() {
    let mut world = World::new(view(4, 1));
    let client = world.connect();
    for n in 0..100 {
        world.ask(&client, &command(&format!("SET k{n} v PX 500")));
    }
    world.ask(&client, &command("SET stays v"));
    world.advance(Duration::from_millis(100));
    assert_eq!(world.ask(&client, &command("DBSIZE")), ":101\r\n");
    world.advance(Duration::from_millis(399));
    assert_eq!(world.ask(&client, &command("DBSIZE")), ":101\r\n");
    world.advance(Duration::from_millis(100));
    assert_eq!(world.ask(&client, &command("DBSIZE")), ":1\r\n");
    let entries = world.log.len();
    for _ in 0..20 {
        world.advance(Duration::from_millis(100));
    }
    assert_eq!(world.log.len(), entries, "nothing expires, nothing is logged");
    let queries = world.queries;
    world.advance(Duration::from_millis(100));
    assert_eq!(world.queries, queries, "and nothing is asked");
}

#[test]
fn a_new_leader_finds_deadlines_that_it_did_not_set() {
    let mut cluster = view(1, 1);
    cluster.leaders[0] = (Term(1), Some(NodeId(2)));
    let mut world = World::new(cluster);
    let mut replica = Replica::new();
    replica.apply(&set(START_MS, b"k", b"v", Expiry::After(1_000)));
    let kv = world.machines.get_mut(&ShardId(0)).unwrap();
    restore_chunks(kv, replica.image()).unwrap();
    world.advance(Duration::from_millis(5_000));
    assert!(world.log.is_empty(), "a follower proposes nothing");
    coracle_engine::core::testing::change_view(&world.core, |view| {
        view.note_leader(ShardId(0), Term(2), Some(NodeId(1)));
    });
    world.advance(Duration::from_millis(100));
    assert_eq!(world.log.len(), 1);
    let client = world.connect();
    assert_eq!(world.ask(&client, &command("DBSIZE")), ":0\r\n");
}
