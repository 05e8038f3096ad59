//! `SESSION` and `ONCE`: writes that are sent again are done once.

use coracle_engine::core::testing::change_view;
use coracle_engine::{NodeId, ProposeError, ShardId, Term};

use super::world::{TestClient, World, command, request, view};

/// Opens a session for the shard of a key; its id.
fn open(world: &mut World, client: &TestClient, key: &str) -> String {
    let reply = world.ask(client, &command(&format!("SESSION OPEN {key}")));
    assert!(reply.starts_with("*10\r\n$7\r\nsession\r\n"), "{reply}");
    let words: Vec<&str> = reply.split("\r\n").collect();
    let window = words.iter().position(|word| *word == "window").unwrap();
    assert_eq!(words[window + 1], ":64");
    words[4].to_owned()
}

fn ask(world: &mut World, client: &TestClient, line: &str) -> String {
    world.ask(client, &command(line))
}

#[test]
fn a_write_that_is_sent_again_is_done_once() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let id = open(&mut world, &client, "n");
    assert_eq!(ask(&mut world, &client, &format!("ONCE {id} 1 1 INCR n")), "*2\r\n:1\r\n:0\r\n");
    assert_eq!(ask(&mut world, &client, &format!("ONCE {id} 1 1 INCR n")), "*2\r\n:1\r\n:1\r\n");
    // Another connection, another spelling.
    let other = world.connect();
    assert_eq!(ask(&mut world, &other, &format!("once {id} 2 1 incrby n 5")), "*2\r\n:6\r\n:0\r\n");
    assert_eq!(ask(&mut world, &other, &format!("ONCE {id} 2 2 INCRBY n 5")), "*2\r\n:6\r\n:1\r\n");
    assert_eq!(ask(&mut world, &other, "GET n"), "$1\r\n6\r\n");
    // The first one is acknowledged by now.
    let late = ask(&mut world, &client, &format!("ONCE {id} 1 1 INCR n"));
    assert!(late.starts_with("-SESSIONACK "), "{late}");
    // A refusal of the machine is a reply like others.
    ask(&mut world, &client, "SET text x");
    let refused = "*2\r\n-ERR value is not an integer or out of range\r\n";
    let line = format!("ONCE {id} 3 3 INCR text");
    assert_eq!(ask(&mut world, &client, &line), format!("{refused}:0\r\n"));
    assert_eq!(ask(&mut world, &client, &line), format!("{refused}:1\r\n"));
    assert_eq!(ask(&mut world, &client, "GET n"), "$1\r\n6\r\n");
}

#[test]
fn sessions_have_an_end_and_limits() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let (id, other) = (open(&mut world, &client, "k"), open(&mut world, &client, "k"));
    assert_ne!(id, other);
    let far = ask(&mut world, &client, &format!("ONCE {id} 65 1 SET k v"));
    assert!(far.starts_with("-SESSIONWINDOW "), "{far}");
    assert_eq!(ask(&mut world, &client, &format!("SESSION KEEPALIVE k {id} 3")), "+OK\r\n");
    assert_eq!(ask(&mut world, &client, &format!("ONCE {id} 65 3 SET k v")), "*2\r\n+OK\r\n:0\r\n");
    let info = ask(&mut world, &client, "INFO clients");
    assert!(info.contains("\r\nsessions:2\r\n"), "{info}");
    assert_eq!(ask(&mut world, &client, &format!("SESSION CLOSE k {id}")), "+OK\r\n");
    for line in [
        format!("SESSION CLOSE k {id}"),
        format!("SESSION KEEPALIVE k {id}"),
        format!("ONCE {id} 66 66 SET k w"),
    ] {
        let reply = ask(&mut world, &client, &line);
        assert!(reply.starts_with("-NOSESSION "), "{line}: {reply}");
    }
    assert_eq!(ask(&mut world, &client, "GET k"), "$1\r\nv\r\n");
    // A reply that is too large is not kept.
    let large = "x".repeat(20_000);
    ask(&mut world, &client, &format!("SET large {large}"));
    let line = format!("ONCE {other} 1 1 GETDEL large");
    assert!(ask(&mut world, &client, &line).starts_with("*2\r\n$20000\r\n"));
    assert!(ask(&mut world, &client, &line).starts_with("-REPLYGONE "));
    let info = ask(&mut world, &client, "INFO clients");
    assert!(info.contains("\r\nsessions:1\r\n"), "{info}");
}

#[test]
fn what_makes_no_sense_is_refused_before_it_enters_a_log() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let id = open(&mut world, &client, "k");
    let entries = world.log.len();
    for (line, error) in [
        (format!("ONCE {id} 1 1 GET k"), "-ERR ONCE takes a command that writes"),
        (format!("ONCE {id} 1 1 FLUSHALL x"), "-ERR ONCE takes a command that writes"),
        (format!("ONCE {id} 1 1 ONCE {id} 1 1 SET k v"), "-ERR ONCE takes a command that writes"),
        (format!("ONCE {id} 1 1 NOSUCH k"), "-ERR unknown command 'NOSUCH'"),
        (format!("ONCE {id} 1 1 SET k"), "-ERR wrong number of arguments for 'set' command"),
        (format!("ONCE {id} 1 1 SET"), "-ERR wrong number of arguments for 'once' command"),
        (format!("ONCE {id} 1 1 MSET a 1 b 2"), "-CROSSSLOT "),
        (format!("ONCE {id} 1 2 SET k v"), "-ERR request ids"),
        (format!("ONCE {id} 0 0 SET k v"), "-ERR request ids"),
        (format!("ONCE {id} x 1 SET k v"), "-ERR request ids"),
        ("ONCE 7 1 1 SET k v".to_owned(), "-ERR invalid session id"),
        ("ONCE 0-0 1 1 SET k v".to_owned(), "-ERR invalid session id"),
        ("ONCE 1-7 1 1 SET k v".to_owned(), "-ERR the session belongs to another shard"),
        ("SESSION CLOSE k 1-7".to_owned(), "-ERR the session belongs to another shard"),
        ("SESSION CLOSE k".to_owned(), "-ERR wrong number of arguments for 'session|close'"),
        (format!("SESSION KEEPALIVE k {id} 1 2"), "-ERR syntax error"),
        ("SESSION NOSUCH k".to_owned(), "-ERR unknown subcommand 'NOSUCH'"),
    ] {
        let reply = ask(&mut world, &client, &line);
        assert!(reply.starts_with(error), "{line}: {reply}");
    }
    assert_eq!(world.log.len(), entries);
}

#[test]
fn clients_are_sent_to_the_leader_and_told_what_is_unknown() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let id = open(&mut world, &client, "k");
    world.refuses_proposals = Some(ProposeError::OutcomeUnknown { shard: ShardId(0) });
    let line = format!("ONCE {id} 1 1 INCR k");
    assert!(ask(&mut world, &client, &line).starts_with("-UNKNOWN "));
    world.refuses_proposals = None;
    assert_eq!(ask(&mut world, &client, &line), "*2\r\n:1\r\n:0\r\n");
    change_view(&world.core, |view| view.leaders[0] = (Term(2), Some(NodeId(2))));
    for line in [line, "SESSION OPEN k".to_owned(), format!("SESSION CLOSE k {id}")] {
        let reply = ask(&mut world, &client, &line);
        assert!(reply.starts_with("-MOVED ") && reply.contains("10.0.0.2:7000"), "{line}: {reply}");
    }
}

#[test]
fn a_shard_without_sessions_writes_what_it_wrote_before() {
    use crate::server::{Kv, KvSessions};
    use coracle_engine::{StateMachine, snapshot_chunks};

    let mut world = World::new(view(1, 1));
    let client = world.connect();
    ask(&mut world, &client, "SET k v");
    let shard = ShardId(0);
    let image =
        snapshot_chunks(world.machines.get_mut(&shard).unwrap().snapshot().unwrap()).unwrap();
    let mut old = Kv::new();
    coracle_engine::restore_chunks(&mut old, &image).unwrap();
    assert_eq!(snapshot_chunks(old.snapshot().unwrap()).unwrap(), image);
    let mut new = KvSessions::default();
    coracle_engine::restore_chunks(&mut new, &image).unwrap();
    assert_eq!(snapshot_chunks(new.snapshot().unwrap()).unwrap(), image);
    let id = open(&mut world, &client, "k");
    let image =
        snapshot_chunks(world.machines.get_mut(&shard).unwrap().snapshot().unwrap()).unwrap();
    let mut new = KvSessions::default();
    coracle_engine::restore_chunks(&mut new, &image).unwrap();
    world.machines.insert(shard, new);
    assert_eq!(
        ask(&mut world, &client, &format!("ONCE {id} 1 1 APPEND k w")),
        "*2\r\n:2\r\n:0\r\n"
    );
}

#[test]
fn the_keys_of_a_wrapped_command_are_found() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let keys = ask(&mut world, &client, "COMMAND GETKEYS ONCE 0-1 1 1 MSET {t}a 1 {t}b 2");
    assert_eq!(keys, "*2\r\n$4\r\n{t}a\r\n$4\r\n{t}b\r\n");
    let none = ask(&mut world, &client, "COMMAND GETKEYS ONCE 0-1 1 1 PING x");
    assert!(none.starts_with("-ERR "), "{none}");
    assert_eq!(ask(&mut world, &client, "COMMAND GETKEYS SESSION OPEN k"), "*1\r\n$1\r\nk\r\n");
    let help = ask(&mut world, &client, "SESSION HELP");
    assert!(help.contains("KEEPALIVE (2 or more arguments)"), "{help}");
    assert!(world.ask(&client, &request(&[b"COMMAND", b"DOCS", b"once"])).contains("summary"));
}
