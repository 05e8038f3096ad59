//! The harness itself: its client against scripted servers, its proxy between scripted nodes.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use support::client::{Client, Effect, Outcome, parse_slots, slot_of};
use support::cluster::{SHARDS, key_in_shard};
use support::ports::Ports;
use support::resp::{self, Reply};

const BOUND: Duration = Duration::from_secs(5);

/// A server that answers one connection per script with one reply per request, then closes it.
fn scripted(listener: TcpListener, scripts: Vec<Vec<String>>) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut requests = Vec::new();
        for script in scripts {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            for reply in script {
                let Ok(Reply::Array(words)) = resp::decode(&mut reader) else { break };
                requests.push(words.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
                reader.get_mut().write_all(reply.as_bytes()).unwrap();
            }
        }
        requests
    })
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn slots(address: SocketAddr) -> String {
    let port = address.port();
    format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n")
}

#[test]
fn a_client_follows_moved() {
    let ((first, a), (second, b)) = (listener(), listener());
    let first = scripted(first, vec![vec![slots(a), format!("-MOVED 1 {b}\r\n")]]);
    let second = scripted(second, vec![vec!["+OK\r\n".to_owned()]]);
    let outcome = Client::new(vec![a], BOUND).set("k", "v", BOUND);
    assert_eq!(outcome, Outcome::Done(Reply::Simple("OK".to_owned())));
    assert_eq!(first.join().unwrap(), ["CLUSTER SLOTS", "SET k v"]);
    assert_eq!(second.join().unwrap(), ["SET k v"]);
}

#[test]
fn a_client_waits_for_a_leader() {
    let (server, address) = listener();
    let down = "-CLUSTERDOWN no leader\r\n".to_owned();
    let script = vec![slots(address), down, slots(address), "$1\r\nv\r\n".to_owned()];
    let server = scripted(server, vec![script]);
    let outcome = Client::new(vec![address], BOUND).get("k", BOUND);
    assert_eq!(outcome, Outcome::Done(Reply::Bulk(b"v".to_vec())));
    assert_eq!(server.join().unwrap(), ["CLUSTER SLOTS", "GET k", "CLUSTER SLOTS", "GET k"]);
}

#[test]
fn a_broken_write_is_never_tried_again() {
    let (server, address) = listener();
    let server = scripted(server, vec![vec![slots(address), String::new()]]);
    let outcome = Client::new(vec![address], BOUND).set("k", "v", BOUND);
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(server.join().unwrap(), ["CLUSTER SLOTS", "SET k v"]);
}

#[test]
fn a_broken_read_is_tried_again() {
    let (server, address) = listener();
    let again = vec![slots(address), "$-1\r\n".to_owned()];
    let server = scripted(server, vec![vec![slots(address), String::new()], again]);
    let outcome = Client::new(vec![address], BOUND).get("k", BOUND);
    assert_eq!(outcome, Outcome::Done(Reply::Nil));
    assert_eq!(server.join().unwrap().len(), 4);
}

#[test]
fn an_error_that_promises_nothing_leaves_a_write_unknown() {
    let (server, address) = listener();
    let server = scripted(server, vec![vec![slots(address), "-ERR what\r\n".to_owned()]]);
    let outcome =
        Client::new(vec![address], BOUND).run("k", &[b"INCR", b"k"], Effect::Write, BOUND);
    assert_eq!(outcome, Outcome::Unknown("ERR what".to_owned()));
    server.join().unwrap();
}

#[test]
fn a_cluster_that_is_gone_refuses() {
    let (server, address) = listener();
    drop(server);
    let outcome = Client::new(vec![address], BOUND).set("k", "v", Duration::from_millis(50));
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

#[test]
fn slots_of_the_cluster_specification() {
    assert_eq!(slot_of(b"123456789"), 0x31C3);
    assert_eq!(slot_of(b"foo"), 12_182);
    assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
    assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
}

#[test]
fn every_shard_has_a_key() {
    let keys: BTreeSet<_> = (0..SHARDS).map(|shard| key_in_shard("k", shard)).collect();
    assert_eq!(keys.len(), usize::from(SHARDS));
}

#[test]
fn replies_that_are_no_slots_are_refused() {
    for text in
        ["*1\r\n:1\r\n", "+OK\r\n", "*1\r\n*2\r\n:0\r\n:5\r\n", "*1\r\n*3\r\n:0\r\n:5\r\n*0\r\n"]
    {
        let reply = resp::decode(&mut text.as_bytes()).unwrap();
        assert_eq!(parse_slots(&reply), None, "{text:?}");
    }
    for text in ["", "$5\r\nabc", "$3\r\nabcXY", ":x\r\n", "?\r\n"] {
        assert!(resp::decode(&mut text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn port_ranges_do_not_overlap() {
    let held: Vec<Ports> = (0..5).map(|_| Ports::reserve()).collect();
    let ports =
        held.iter().flat_map(|ports| (1..=3).flat_map(|id| [ports.client(id), ports.peer(id)]));
    assert_eq!(ports.collect::<BTreeSet<_>>().len(), 30);
}
