//! Commands of one connection take effect in the order in which they were sent, and replies come in
//! that order, however the core takes its time.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::core::{Consistency, testing};
use coracle_engine::{NodeId, ProposeError, QueryError, ShardId, Term};

use super::world::{World, command, view};
use crate::server::commands;
use crate::server::kv::op::{Op, Payload};
use crate::server::slot_of;

fn pipeline(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| command(line)).collect()
}

fn reads_in_log(log: &[(ShardId, Bytes)]) -> usize {
    let is_read = |payload: &Bytes| matches!(Payload::decode(payload).unwrap().op, Op::Read(_));
    log.iter().filter(|(_, payload)| is_read(payload)).count()
}

#[test]
fn a_read_sees_the_write_that_was_sent_before_it() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let sent = pipeline(&["SET k a", "GET k", "SET k b", "GET k", "INCR n", "GET n"]);
    assert_eq!(world.ask(&client, &sent), "+OK\r\n$1\r\na\r\n+OK\r\n$1\r\nb\r\n:1\r\n$1\r\n1\r\n");
    assert_eq!(reads_in_log(&world.log), 3, "reads behind unfinished writes go through the log");
    assert_eq!(world.queries, 0);
}

#[test]
fn a_write_does_not_overtake_the_read_that_was_sent_before_it() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.ask(&client, &command("SET k old"));
    world.holds = true;
    client.send(&pipeline(&["GET k", "GET k", "SET k new", "GET k"]));
    world.run();
    // Both reads are asked; the write is not even proposed.
    assert!(world.serve_one());
    assert!(world.serve_one());
    assert!(!world.serve_one());
    world.run();
    assert_eq!(client.received(), "$3\r\nold\r\n$3\r\nold\r\n");
    world.holds = false;
    world.run();
    assert_eq!(client.received(), "+OK\r\n$3\r\nnew\r\n");
}

#[test]
fn writes_of_a_pipeline_are_all_proposed_at_once() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.holds = true;
    let lines: Vec<_> = (0..100).map(|n| format!("SET k{n} v")).collect();
    client.send(&pipeline(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
    world.run();
    let mut proposed = 0;
    while world.serve_one() {
        proposed += 1;
    }
    assert_eq!(proposed, 100, "without a turn of the connection in between");
    world.run();
    assert_eq!(client.received(), "+OK\r\n".repeat(100));
}

#[test]
fn reads_of_other_shards_do_not_wait() {
    let mut world = World::new(view(16, 1));
    let client = world.connect();
    world.holds = true;
    client.send(&pipeline(&["SET a 1", "GET b"]));
    world.run();
    assert_ne!(slot_of(b"a") / 1024, slot_of(b"b") / 1024, "the test needs two shards");
    assert!(world.serve_one() && world.serve_one());
    assert_eq!((world.log.len(), world.queries), (1, 1));
    world.run();
    assert_eq!(client.received(), "+OK\r\n$-1\r\n");
}

#[test]
fn a_reply_that_is_ready_waits_for_the_one_before_it() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.holds = true;
    client.send(&pipeline(&["PING", "SET k v", "PING", "NOSUCH"]));
    world.run();
    assert_eq!(client.received(), "+PONG\r\n");
    world.holds = false;
    world.run();
    let rest = client.received();
    assert!(rest.starts_with(b"+OK\r\n+PONG\r\n-ERR unknown command 'NOSUCH'"), "{rest:?}");
}

#[test]
fn commands_about_all_keys_wait_for_everything_before_them() {
    let mut world = World::new(view(4, 1));
    let client = world.connect();
    let sent =
        pipeline(&["SET a 1", "SET b 2", "DBSIZE", "FLUSHALL", "DBSIZE", "SET c 3", "DBSIZE"]);
    assert_eq!(world.ask(&client, &sent), "+OK\r\n+OK\r\n:2\r\n+OK\r\n:0\r\n+OK\r\n:1\r\n");
}

#[test]
fn a_logged_read_that_is_refused_is_asked_again() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.ask(&client, &command("SET k v"));
    world.refuses_proposals = Some(ProposeError::NoSpace);
    assert_eq!(
        world.ask(&client, &pipeline(&["SET k w", "GET k"])),
        "-NOSPACE disk full: writes are refused until space returns; reads are served\r\n$1\r\nv\r\n"
    );
}

#[test]
fn every_refusal_has_its_own_reply() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let shard = ShardId(0);
    let refusals = [
        (ProposeError::NotLeader { shard, leader: Some(NodeId(2)) }, "MOVED 12539 10.0.0.2:7000"),
        (ProposeError::NotLeader { shard, leader: None }, "CLUSTERDOWN "),
        (ProposeError::Overloaded("x"), "TRYAGAIN overloaded: x"),
        (ProposeError::TooLarge { bytes: 5, max: 4 }, "ERR request too large: it takes 5 bytes"),
        (ProposeError::OutcomeUnknown { shard }, "UNKNOWN outcome unknown: "),
        (ProposeError::NoSpace, "NOSPACE disk full: "),
        (ProposeError::StorageFailed("eio".to_owned()), "IOERR the log of this core failed: eio;"),
        (ProposeError::ShuttingDown, "CLUSTERDOWN The node is shutting down"),
        (ProposeError::UnknownShard(shard), "CLUSTERDOWN "),
    ];
    for (refusal, expected) in refusals {
        world.refuses_proposals = Some(refusal);
        let reply = world.ask(&client, &command("SET key v"));
        assert!(reply.starts_with(&format!("-{expected}")), "{reply:?} for {expected:?}");
        assert_eq!(reply.matches("\r\n").count(), 1);
    }
}

#[test]
fn a_key_of_another_leader_is_moved_and_of_none_is_down() {
    let mut cluster = view(4, 2);
    cluster.leaders[0] = (Term(3), Some(NodeId(2)));
    cluster.leaders[1] = (Term(3), None);
    // Shard 2 is led by this node, but hosted on its core 1.
    let mut world = World::new(cluster);
    let client = world.connect();
    assert_eq!(slot_of(b"{06S}"), 0, "the hash tag of slot 0");
    assert_eq!(world.ask(&client, &command("GET {06S}")), "-MOVED 0 10.0.0.2:7000\r\n");
    let key = (0..).map(|n| format!("key{n}")).find(|key| slot_of(key.as_bytes()) / 4096 == 1);
    let reply = world.ask(&client, &command(&format!("SET {} v", key.unwrap())));
    assert_eq!(reply, "-CLUSTERDOWN Hash slot not served\r\n");
    let key = (0..).map(|n| format!("key{n}")).find(|key| slot_of(key.as_bytes()) / 4096 == 2);
    let key = key.unwrap();
    let slot = slot_of(key.as_bytes());
    let reply = world.ask(&client, &command(&format!("SET {key} v")));
    assert_eq!(reply, format!("-MOVED {slot} 10.0.0.1:7001\r\n"));
}

#[test]
fn readonly_serves_old_states_of_local_replicas_only() {
    let mut cluster = view(1, 1);
    cluster.leaders[0] = (Term(3), Some(NodeId(2)));
    let mut world = World::new(cluster);
    let client = world.connect();
    let moved = "-MOVED 12539 10.0.0.2:7000\r\n";
    assert_eq!(world.ask(&client, &command("GET key")), moved);
    assert_eq!(world.ask(&client, &command("READONLY")), "+OK\r\n");
    assert_eq!(world.ask(&client, &command("GET key")), "$-1\r\n");
    assert_eq!(world.ask(&client, &command("SET key v")), moved);
    assert_eq!(world.ask(&client, &command("READWRITE")), "+OK\r\n");
    assert_eq!(world.ask(&client, &command("GET key")), moved);
}

#[test]
fn readonly_keeps_to_the_bound_of_the_operator_or_sends_to_the_leader() {
    let mut cluster = view(1, 1);
    cluster.leaders[0] = (Term(3), Some(NodeId(2)));
    let mut world = World::new(cluster);
    let client = world.connect();
    assert_eq!(world.ask(&client, &command("READONLY")), "+OK\r\n");
    assert_eq!(world.ask(&client, &command("GET key")), "$-1\r\n");
    assert_eq!(world.consistency, Some(Consistency::Stale));
    let staleness = Duration::from_millis(250);
    testing::set_replica_read_staleness(&world.core, Some(staleness));
    for line in ["GET key", "DBSIZE"] {
        world.ask(&client, &command(line));
        assert_eq!(world.consistency, Some(Consistency::Bounded { staleness }), "{line}");
    }
    let why = QueryError::TooStale { shard: ShardId(0), leader: Some(NodeId(2)) };
    world.refuses_queries = Some(why);
    let moved = "-MOVED 12539 10.0.0.2:7000\r\n";
    assert_eq!(world.ask(&client, &command("GET key")), moved);
    let why = QueryError::TooStale { shard: ShardId(0), leader: None };
    world.refuses_queries = Some(why);
    assert_eq!(world.ask(&client, &command("GET key")), moved, "the view still knows it");
}

#[test]
fn every_command_of_the_table_answers_something() {
    let mut world = World::new(view(2, 1));
    let client = world.connect();
    for spec in commands::all().iter().filter(|spec| spec.name != "quit") {
        for extra in 0..6 {
            let line = [spec.name].into_iter().chain(std::iter::repeat_n("1", extra));
            let reply = world.ask(&client, &command(&line.collect::<Vec<_>>().join(" ")));
            assert!(reply.ends_with("\r\n"), "{} with {extra}: {reply:?}", spec.name);
        }
    }
}
