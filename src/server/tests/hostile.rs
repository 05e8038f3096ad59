//! Bad input and bad clients: each gets a clear error, and the others notice nothing.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{World, command, request, view};
use crate::server::ServerOptions;
use crate::server::limits::{
    BULK_BYTES_MAX, LINGER_MAX, PIPELINE_MAX, REQUEST_BYTES_MAX, SLOW_READER_MAX,
};

#[test]
fn protocol_errors_are_answered_and_end_the_connection() {
    let oversized = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", BULK_BYTES_MAX + 1);
    let long_inline = "x".repeat(70_000);
    let cases = [
        ("*1\r\n+PING\r\n", "expected '$', got '+'"),
        ("*x\r\n", "invalid multibulk length"),
        ("*2000000\r\n", "invalid multibulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        (&oversized, "invalid bulk length"),
        (&long_inline, "too big inline request"),
        ("GET \"a\r\n", "unbalanced quotes in request"),
        ("*1\r\n$4\r\nPINGxx", "expected CRLF"),
    ];
    for (sent, expected) in cases {
        let mut world = World::new(view(1, 1));
        let client = world.connect();
        let before = command("PING");
        let reply = world.ask(&client, &[before.as_slice(), sent.as_bytes()].concat());
        assert_eq!(reply, format!("+PONG\r\n-ERR Protocol error: {expected}\r\n"));
        // It stays open for what is under way, so that the error can be read, and ends when quiet.
        assert_eq!(world.ask(&client, &command("PING")), "");
        world.advance(LINGER_MAX);
        world.advance(LINGER_MAX);
        assert!(client.is_closed(), "{expected}");
    }
}

#[test]
fn a_request_with_too_many_bytes_is_refused_before_they_arrive() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let part = vec![b'v'; BULK_BYTES_MAX];
    let parts = REQUEST_BYTES_MAX / BULK_BYTES_MAX + 1;
    client.send(format!("*{}\r\n$4\r\nMGET\r\n", parts + 1).as_bytes());
    let mut received = String::new();
    for _ in 0..parts {
        received += &world.ask(&client, format!("${}\r\n", part.len()).as_bytes());
        received += &world.ask(&client, &part);
        received += &world.ask(&client, b"\r\n");
    }
    assert_eq!(received, "-ERR Protocol error: too big request\r\n");
}

#[test]
fn a_value_of_the_largest_size_arrives_in_pieces() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let value = vec![b'v'; BULK_BYTES_MAX - 100];
    let bytes = request(&[b"SET", b"k", &value]);
    for piece in bytes.chunks(10_000) {
        client.send(piece);
        world.run();
    }
    assert_eq!(client.received(), "+OK\r\n");
    assert_eq!(world.ask(&client, &command("STRLEN k")), format!(":{}\r\n", value.len()));
    client.send(&command("GET k"));
    world.run();
    let mut bytes = 0;
    for _ in 0..3 {
        bytes += client.received().len();
        world.run();
    }
    assert_eq!(bytes, value.len() + "$1048476\r\n".len() + 2);
}

#[test]
fn a_request_cut_at_any_byte_is_taken_when_the_rest_comes() {
    let mut world = World::new(view(1, 1));
    let bytes = [command("SET k value"), command("GET k"), b"PING \"a b\"\r\n".to_vec()].concat();
    for cut in 0..=bytes.len() {
        let client = world.connect();
        let mut reply = world.ask(&client, &bytes[..cut]);
        reply += &world.ask(&client, &bytes[cut..]);
        assert_eq!(reply, "+OK\r\n$5\r\nvalue\r\n$3\r\na b\r\n", "cut at {cut}");
    }
}

#[test]
fn too_many_clients_are_told_so() {
    let options = ServerOptions { clients_max: 2, ..ServerOptions::default() };
    let mut world = World::with_options(view(1, 1), options);
    let (first, _second) = (world.connect(), world.connect());
    let third = world.connect();
    assert_eq!(third.received(), "-ERR max number of clients reached\r\n");
    assert!(third.is_closed());
    first.hang_up();
    world.run();
    let fourth = world.connect();
    assert_eq!(world.ask(&fourth, &command("PING")), "+PONG\r\n");
}

#[test]
fn quit_ends_the_connection_after_all_replies() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let sent = [command("SET k v"), command("QUIT"), command("SET k w")].concat();
    assert_eq!(world.ask(&client, &sent), "+OK\r\n+OK\r\n");
    assert!(client.is_closed());
    let other = world.connect();
    assert_eq!(world.ask(&other, &command("GET k")), "$1\r\nv\r\n");
}

#[test]
fn a_client_that_sends_without_end_is_held_back() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.holds = true;
    client.send(&command("INCR n").repeat(PIPELINE_MAX * 4));
    world.run();
    let mut proposed = 0;
    while world.serve_one() {
        proposed += 1;
    }
    assert!(proposed <= PIPELINE_MAX, "{proposed} taken in without a reply");
    world.holds = false;
    world.run();
    let received = client.received();
    assert!(received.ends_with(format!(":{}\r\n", PIPELINE_MAX * 4).as_bytes()));
}

#[test]
fn a_client_that_takes_no_replies_is_held_back_and_then_disconnected() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    let value = vec![b'v'; 100_000];
    client.send(&request(&[b"SET", b"k", &value]));
    world.run();
    let asked = 1_000;
    client.send(&command("GET k").repeat(asked));
    world.run();
    assert!(world.queries < asked, "{} of {asked} reads done for nobody", world.queries);
    let other = world.connect();
    assert_eq!(world.ask(&other, &command("PING")), "+PONG\r\n");
    world.advance(SLOW_READER_MAX);
    world.advance(Duration::from_secs(1));
    assert!(client.is_closed());
    assert!(!other.is_closed());
}

#[test]
fn a_client_that_leaves_frees_what_it_held() {
    let mut world = World::new(view(1, 1));
    let client = world.connect();
    world.holds = true;
    client.send(&command("SET k v"));
    world.run();
    client.hang_up();
    drop(client);
    world.holds = false;
    world.run();
    let other = world.connect();
    assert_eq!(world.ask(&other, &command("GET k")), "$1\r\nv\r\n", "what was proposed is done");
    let info = world.ask(&other, &command("INFO clients memory"));
    assert!(info.contains("connected_clients:1\r\n"), "{info}");
    assert!(info.contains("requests_under_way_bytes:0\r\n"), "{info}");
}

#[test]
fn stopping_answers_what_was_taken_in() {
    let mut world = World::new(view(1, 1));
    let (busy, idle) = (world.connect(), world.connect());
    world.holds = true;
    busy.send(&command("SET k v"));
    world.run();
    world.stop();
    assert!(idle.is_closed());
    assert!(!busy.is_closed());
    assert!(!world.has_ended());
    world.holds = false;
    world.run();
    assert_eq!(busy.received(), "+OK\r\n");
    assert!(busy.is_closed());
    assert!(world.has_ended());
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let mut world = World::new(view(1, 1));
    let stuck = world.connect();
    world.holds = true;
    stuck.send(&command("SET k v"));
    world.run();
    world.stop();
    assert!(!world.has_ended());
    world.advance(Duration::from_secs(3));
    assert!(world.has_ended());
    assert!(stuck.is_closed());
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(chunks in proptest::collection::vec(
        proptest::collection::vec(prop_oneof![
            3 => prop::sample::select(b"*$\r\n0123456789 \"'GETSPINGk".to_vec()),
            1 => any::<u8>(),
        ], 0..40),
        1..20,
    )) {
        let mut world = World::new(view(2, 1));
        let (client, other) = (world.connect(), world.connect());
        for chunk in chunks {
            world.ask(&client, &chunk);
        }
        prop_assert_eq!(world.ask(&other, &command("PING")), "+PONG\r\n");
    }
}
