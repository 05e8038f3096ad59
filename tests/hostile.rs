//! Bad input on the client port and the peer port: a clear error, and everybody else is served on.
//!
//! `CORACLE_HOSTILE_ROUNDS` (default 40) is how many connections of random bytes each port gets.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::cluster::{Cluster, Dev, NODES};
use support::confine::Confinement;
use support::random::Random;
use support::resp::{Connection, Reply, encode};
use support::wait::{self, SOON};

/// How long the end of a refused connection is waited for.
const BOUND: Duration = Duration::from_secs(10);

/// Starts a cluster that holds a key, runs `attack` with its client and peer addresses, and proves
/// that the cluster lives, serves the key and takes writes.
fn survives(attack: impl FnOnce(&Dev)) {
    let mut dev = Dev::start(&[]);
    dev.client(1).set("kept", "yes", SOON).unwrap();
    attack(&dev);
    dev.wait_ready();
    for id in 1..=3 {
        let reply = dev.client(id).get("kept", SOON).unwrap();
        assert_eq!(reply, Reply::Bulk(b"yes".to_vec()), "through node {id}");
    }
    assert!(!dev.process().output().contains("panicked"), "{}", dev.process().output());
    let (ended, _place) = dev.end(libc::SIGTERM);
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.output);
}

/// Sends `bytes` on a connection of its own and gives all that comes back until its end.
fn answer_to(address: SocketAddr, bytes: &[u8]) -> String {
    let mut connection = Connection::open(address, BOUND).unwrap();
    // The server may refuse, and close, before it has read all.
    let _ = connection.send_raw(bytes);
    let _ = connection.finish();
    String::from_utf8_lossy(&connection.drain_lossy()).into_owned()
}

#[test]
fn malformed_requests_get_the_error_that_redis_gives() {
    let cases: &[(&[u8], &str)] = &[
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length"),
        (b"*99999999999\r\n", "-ERR Protocol error: invalid multibulk length"),
        (b"*1\r\nPING\r\n", "-ERR Protocol error: expected '$', got 'P'"),
        (b"*1\r\n$x\r\n", "-ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$-7\r\n", "-ERR Protocol error: invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$99999999999999\r\n", "-ERR Protocol error: invalid bulk length"),
        (b"SET \"a\r\n", "-ERR Protocol error: unbalanced quotes in request"),
        (b"NONSENSE a b\r\n", "-ERR unknown command 'NONSENSE'"),
        (b"GET\r\n", "-ERR wrong number of arguments for 'get' command"),
        (b"*0\r\n*-1\r\n\r\nPING\r\n", "+PONG"),
    ];
    survives(|dev| {
        for (bytes, expected) in cases {
            let answer = answer_to(dev.address(1), bytes);
            let shown = String::from_utf8_lossy(bytes);
            assert!(answer.starts_with(expected), "{shown:?} was answered {answer:?}");
        }
    });
}

#[test]
fn oversized_requests_are_refused_before_they_are_taken_in() {
    survives(|dev| {
        let limit = dev.bulk_bytes_max();
        let too_long = vec![b'x'; limit + 1];
        let answer = answer_to(dev.address(1), &encode(&[b"SET", b"big", &too_long]));
        assert!(answer.starts_with("-ERR Protocol error: invalid bulk length"), "{answer:.200?}");

        let endless_line = vec![b'x'; 80 << 10];
        let answer = answer_to(dev.address(1), &endless_line);
        assert!(
            answer.starts_with("-ERR Protocol error: too big inline request"),
            "{answer:.200?}"
        );

        let endless_count = [b"*".to_vec(), vec![b'1'; 80 << 10]].concat();
        let answer = answer_to(dev.address(1), &endless_count);
        assert!(answer.starts_with("-ERR Protocol error: "), "{answer:.200?}");
    });
}

#[test]
fn the_largest_values_are_kept() {
    survives(|dev| {
        // Room for the key and the framing of the log entry.
        let largest = "x".repeat(dev.bulk_bytes_max() - 4096);
        let mut client = dev.client(1);
        client.set("largest", &largest, SOON).unwrap();
        assert_eq!(client.get("largest", SOON).unwrap(), Reply::Bulk(largest.into_bytes()));
    });
}

#[test]
fn truncated_requests_have_no_effect() {
    survives(|dev| {
        let whole = encode(&[b"SET", b"kept", b"no!"]);
        for end in 1..whole.len() {
            for id in 1..=3 {
                let answer = answer_to(dev.address(id), &whole[..end]);
                assert_eq!(answer, "", "{:?}", String::from_utf8_lossy(&whole[..end]));
            }
        }
    });
}

#[test]
fn a_client_that_stalls_within_a_request_holds_up_nobody() {
    survives(|dev| {
        let mut stalled: Vec<Connection> =
            (0..50).map(|_| Connection::open(dev.address(1), BOUND).unwrap()).collect();
        for connection in &mut stalled {
            connection.send_raw(b"*3\r\n$3\r\nSET\r\n$4\r\nkept\r\n$3\r\nno").unwrap();
        }
        for number in 0..100 {
            dev.client(2).set(&format!("other-{number}"), "yes", SOON).unwrap();
        }
    });
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    survives(|dev| {
        let value = "x".repeat(64 << 10);
        let mut client = dev.client(1);
        client.set("large", &value, SOON).unwrap();
        let mut deaf: Vec<Connection> = (1..=3)
            .map(|id| Connection::open(dev.address(id), Duration::from_secs(1)).unwrap())
            .collect();
        let request = encode(&[b"GET", b"large"]).repeat(100);
        for connection in &mut deaf {
            // Until the buffers of both sides are full and the server stops reading.
            for _ in 0..100 {
                if connection.send_raw(&request).is_err() {
                    break;
                }
            }
        }
        for number in 0..100 {
            client.set(&format!("other-{number}"), "yes", SOON).unwrap();
        }
    });
}

#[test]
fn random_bytes_on_any_port_do_no_harm() {
    survives(|dev| {
        let mut random = Random::new(7);
        for _ in 0..wait::from_env("CORACLE_HOSTILE_ROUNDS", 40) {
            for address in [dev.address(1), dev.peer_address(1), dev.peer_address(3)] {
                let length = usize::try_from(1 + random.below(16 << 10)).unwrap();
                answer_to(address, &random.bytes(length));
            }
        }
    });
}

#[test]
fn more_connections_than_files_are_shed() {
    const FILES: u64 = 128;
    let mut cluster = Cluster::prepare();
    for id in 1..=NODES {
        let confinement = Confinement { open_files: Some(FILES), ..Confinement::default() };
        cluster.start_node_in(id, confinement);
    }
    cluster.wait_ready();
    let mut client = cluster.client();
    let mut write_everywhere = |value: &str| {
        for number in 0..100 {
            client.set(&format!("key-{number}"), value, SOON).unwrap();
        }
    };
    write_everywhere("before");
    let crowd: Vec<_> = (0..2 * FILES)
        .flat_map(|_| (1..=NODES).map(|id| Connection::open(cluster.address(id), BOUND)))
        .collect();
    // The client that was there first is served on; the logs go on writing.
    write_everywhere("yes");
    drop(crowd);
    // And newcomers are served again.
    cluster.wait_ready();
    assert_eq!(cluster.client().get("key-7", SOON).unwrap(), Reply::Bulk(b"yes".to_vec()));
    for id in 1..=NODES {
        let ended = cluster.terminate(id);
        assert!(ended.status.success(), "{}\n{}", ended.status, ended.output);
        assert!(!ended.output.contains("panicked"), "{}", ended.output);
    }
}

#[test]
fn a_redis_client_on_the_peer_port_is_turned_away() {
    survives(|dev| {
        for bytes in [encode(&[b"PING"]), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()] {
            let answer = answer_to(dev.peer_address(1), &bytes);
            assert!(!answer.contains("PONG"), "{answer}");
        }
    });
}

#[test]
fn a_peer_of_another_version_is_told_both_versions() {
    survives(|dev| {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&[0xC0, 0xAC, 9, 1]);
        let answer = answer_to(dev.peer_address(3), &header);
        assert!(answer.contains("version 9") && answer.contains("speaks 5"), "{answer}");
    });
}

#[test]
fn connections_that_say_nothing_to_a_peer_port_are_closed() {
    survives(|dev| {
        let mut silent: Vec<Connection> =
            (0..100).map(|_| Connection::open(dev.peer_address(2), SOON).unwrap()).collect();
        for connection in &mut silent {
            connection.drain_lossy();
        }
    });
}
