//! Runs against fake servers that redirect, refuse, stall and drop.

#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;

use super::fake::{Act, Fake};
use super::slots::slot_of;
use super::*;

/// Long enough for any machine; runs end after `--requests`.
const SECONDS_MAX: &str = "120";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: LoadArgs,
}

fn arguments(addresses: &[SocketAddr], options: &str) -> LoadArgs {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let start = ["load", "--addr", &addresses.join(","), "--seconds", SECONDS_MAX];
    let options = options.split_whitespace();
    Line::parse_from(start.into_iter().chain(options)).args
}

fn measure(addresses: &[SocketAddr], options: &str) -> Outcome {
    let plan = prepare(&arguments(addresses, options)).unwrap();
    execute(&plan, &Progress::new("test", 1)).unwrap()
}

#[test]
fn a_closed_loop_does_exactly_what_is_asked() {
    let server = Fake::store();
    let options = "--single --clients 7 --pipeline 5 --requests 1001 --keys 10 --threads 2";
    let outcome = measure(&[server.address], options);
    assert_eq!(outcome.ok, 1001, "{outcome:?}");
    assert_eq!(server.commands(), 1001);
    assert_eq!(outcome.service.count, 1001);
    assert_eq!((outcome.reads, outcome.unknown_writes, outcome.unfinished), (0, 0, 0));
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    outcome.verdict().unwrap();
}

#[test]
fn values_larger_than_any_buffer_come_back_whole() {
    let server = Fake::store();
    let options = "--single --clients 3 --pipeline 4 --requests 200 --keys 5 --read-percent 50 \
                   --value-bytes 300000 --check";
    let outcome = measure(&[server.address], options);
    assert_eq!(outcome.ok, 200, "{outcome:?}");
    assert!(outcome.reads > outcome.misses, "{outcome:?}");
    outcome.verdict().unwrap();
}

#[test]
fn check_finds_a_store_that_forgets() {
    let server = Fake::start(|_, words| match &words[0][..] {
        b"GET" => Act::Say("$-1\r\n".into()),
        _ => Act::Serve,
    });
    let options = "--single --clients 2 --requests 400 --keys 3 --read-percent 50 --check";
    let outcome = measure(&[server.address], options);
    assert!(matches!(outcome.verdict(), Err(LoadError::Violations(1..))), "{outcome:?}");
}

#[test]
fn check_finds_the_value_of_another_key() {
    let first: OnceLock<Vec<u8>> = OnceLock::new();
    let server = Fake::start(move |_, words| match &words[0][..] {
        b"GET" => match first.get() {
            Some(value) => {
                let value = String::from_utf8(value.clone()).unwrap();
                Act::Say(format!("${}\r\n{value}\r\n", value.len()))
            }
            None => Act::Serve,
        },
        _ => {
            first.get_or_init(|| words[2].clone());
            Act::Serve
        }
    });
    let options = "--single --clients 2 --requests 400 --keys 50 --read-percent 50 --check";
    let outcome = measure(&[server.address], options);
    let violations = outcome.violations.as_ref().unwrap();
    assert!(violations.contains_key("not a value of this key"), "{outcome:?}");
}

/// Answers MOVED for all slots it does not own.
fn owner_of(first: u16, last: u16, other: Arc<OnceLock<SocketAddr>>) -> Fake {
    Fake::start(move |_, words| {
        let slot = slot_of(&words[1]);
        if (first..=last).contains(&slot) {
            return Act::Serve;
        }
        Act::Say(format!("-MOVED {slot} {}\r\n", other.get().unwrap()))
    })
}

#[test]
fn moved_is_followed_and_the_map_is_refreshed() {
    let (a_knows, b_knows) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let a = owner_of(0, 8191, Arc::clone(&a_knows));
    let b = owner_of(8192, 16383, Arc::clone(&b_knows));
    a_knows.set(b.address).unwrap();
    b_knows.set(a.address).unwrap();
    // The first answer is old: A for everything. B, which MOVED leads to, knows better.
    b.set_slots(&[(0, 8191, a.address), (8192, 16383, b.address)]);
    let options = "--clients 8 --pipeline 4 --requests 20000 --keys 1000 --check --read-percent 20";
    let outcome = measure(&[a.address], options);
    assert_eq!(outcome.ok, 20_000, "{outcome:?}");
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    let moved = outcome.notices["MOVED, followed"];
    assert!(moved > 0 && moved < 2_000, "each slot moves once, not each request: {outcome:?}");
    assert!(b.commands() > 5_000, "half of the clients belong to B: {}", b.commands());
    outcome.verdict().unwrap();
}

#[test]
fn two_servers_that_point_at_each_other_are_given_up() {
    let (a_knows, b_knows) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let a = owner_of(1, 0, Arc::clone(&a_knows));
    let b = owner_of(1, 0, Arc::clone(&b_knows));
    a_knows.set(b.address).unwrap();
    b_knows.set(a.address).unwrap();
    let outcome = measure(&[a.address], "--clients 1 --requests 1 --retry-ms 300");
    assert_eq!(outcome.ok, 0);
    let errors: Vec<_> = outcome.errors.iter().collect();
    assert_eq!(errors, [(&"gave up: refused or unreachable for too long".to_owned(), &1)]);
    assert!(outcome.notices["MOVED, followed"] < 1_000, "{outcome:?}");
    assert!(matches!(outcome.verdict(), Err(LoadError::NothingSucceeded(_))));
}

#[test]
fn refused_for_now_is_tried_again() {
    let server = Fake::start(|number, _| match number {
        1 => Act::Say("-CLUSTERDOWN Hash slot not served\r\n".into()),
        2 => Act::Say("-TRYAGAIN no leader yet\r\n".into()),
        _ => Act::Serve,
    });
    let outcome = measure(&[server.address], "--clients 1 --requests 10");
    assert_eq!(outcome.ok, 10, "{outcome:?}");
    assert_eq!(outcome.notices["CLUSTERDOWN, retried"], 1);
    assert_eq!(outcome.notices["TRYAGAIN, retried"], 1);
    assert_eq!(server.commands(), 12);
}

#[test]
fn other_errors_are_counted_by_their_text_and_not_tried_again() {
    let server = Fake::start(|number, _| match number % 2 {
        0 => Act::Say("-OOM command not allowed\r\n".into()),
        _ => Act::Serve,
    });
    let outcome = measure(&[server.address], "--single --clients 1 --requests 10");
    assert_eq!(outcome.ok, 5, "{outcome:?}");
    assert_eq!(outcome.errors["OOM command not allowed"], 5);
    assert_eq!((outcome.unknown_writes, server.commands()), (0, 10));
}

#[test]
fn a_server_that_does_not_know_itself_makes_writes_unknown() {
    let server = Fake::start(|number, _| match number {
        3 => Act::Say("-UNKNOWN outcome unknown: leadership was lost\r\n".into()),
        _ => Act::Serve,
    });
    let outcome = measure(&[server.address], "--single --clients 1 --requests 10");
    assert_eq!((outcome.ok, outcome.unknown_writes), (9, 1), "{outcome:?}");
    assert_eq!(outcome.errors["UNKNOWN outcome unknown: leadership was lost"], 1);
    assert_eq!(server.commands(), 10, "never repeated");
}

#[test]
fn a_dropped_connection_makes_writes_unknown_and_the_run_goes_on() {
    let server = Fake::start(|number, _| match number {
        50 => Act::Drop,
        _ => Act::Serve,
    });
    let outcome = measure(&[server.address], "--single --clients 1 --pipeline 10 --requests 200");
    // Command 50 is the last of its batch of ten; the nine before it were answered.
    assert_eq!(outcome.unknown_writes, 1, "{outcome:?}");
    assert_eq!(outcome.ok, 199);
    assert_eq!(outcome.errors.values().sum::<u64>(), 1);
    assert_eq!(outcome.unfinished, 0);
    outcome.verdict().unwrap();
}

#[test]
fn a_stalled_server_times_out_and_the_run_goes_on() {
    let server = Fake::start(|number, _| match number {
        5 => Act::Stall,
        _ => Act::Serve,
    });
    let options = "--single --clients 1 --requests 20 --timeout-ms 300";
    let outcome = measure(&[server.address], options);
    assert_eq!(outcome.errors["write: no reply in time"], 1, "{outcome:?}");
    assert_eq!((outcome.ok, outcome.unknown_writes), (19, 1));
    assert!(outcome.longest_pause_ms >= 300.0, "{outcome:?}");
}

#[test]
fn a_server_that_speaks_something_else_is_not_believed() {
    let server = Fake::start(|number, _| match number {
        3 => Act::Say("HTTP/1.1 400 Bad Request\r\n\r\n".into()),
        _ => Act::Serve,
    });
    let outcome = measure(&[server.address], "--single --clients 1 --requests 10");
    assert_eq!(outcome.errors["write: not RESP"], 1, "{outcome:?}");
    assert_eq!(outcome.ok, 9);
}

#[test]
fn when_a_server_dies_its_clients_move_to_the_one_that_takes_over() {
    let a = Arc::new(Fake::store());
    let dying = Arc::new(AtomicBool::new(false));
    let b = {
        let (a, dying) = (Arc::clone(&a), Arc::clone(&dying));
        // Its 100th command is the first that is never answered, however the threads are scheduled.
        Fake::start(move |number, _| {
            if number < 100 {
                return Act::Serve;
            }
            a.set_slots(&[(0, 16383, a.address)]);
            dying.store(true, Ordering::SeqCst);
            Act::Drop
        })
    };
    a.set_slots(&[(0, 8191, a.address), (8192, 16383, b.address)]);
    b.set_slots(&[(0, 8191, a.address), (8192, 16383, b.address)]);
    let addresses = [a.address, b.address];
    let run = std::thread::spawn(move || {
        measure(&addresses, "--clients 4 --requests 20000 --keys 1000 --check --read-percent 10")
    });
    while !dying.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    drop(b);
    let outcome = run.join().unwrap();
    let failed: u64 = outcome.errors.values().sum();
    assert_eq!(outcome.ok + failed, 20_000, "{outcome:?}");
    assert!(failed > 0 && failed < 200, "only what the dying server had: {outcome:?}");
}

#[test]
fn an_open_loop_keeps_its_schedule_and_counts_the_wait_for_a_stalled_server() {
    // One command takes 200 ms; those that are due meanwhile must not look quick.
    let server = Fake::start(|number, _| {
        if number == 50 {
            std::thread::sleep(Duration::from_millis(200));
        }
        Act::Serve
    });
    let options = "--single --clients 1 --rate 1000 --requests 300";
    let outcome = measure(&[server.address], options);
    assert_eq!(outcome.ok, 300, "{outcome:?}");
    assert!(outcome.seconds >= 0.299, "the schedule spans 299 intervals: {outcome:?}");
    let intended = outcome.intended.as_ref().unwrap();
    // One request in 300 is slow by itself, but all that were due in those 200 ms waited.
    assert!(intended.max_us >= 200_000.0 && intended.p90_us > 50_000.0, "{outcome:?}");
    assert!(intended.p90_us > 10.0 * outcome.service.p50_us, "{outcome:?}");
}

#[test]
fn an_overloaded_open_loop_says_what_it_could_not_send() {
    let server = Fake::start(|_, _| {
        std::thread::sleep(Duration::from_millis(20));
        Act::Serve
    });
    let mut args = arguments(&[server.address], "--single --clients 1 --rate 10000");
    args.seconds = 0.5;
    let plan = prepare(&args).unwrap();
    let outcome = execute(&plan, &Progress::new("test", 1)).unwrap();
    assert!(outcome.ok <= 26, "{outcome:?}");
    assert!(outcome.unsent >= 4_900, "{outcome:?}");
    let intended = outcome.intended.as_ref().unwrap();
    assert!(intended.count >= 4_900 && intended.p50_us > 100_000.0, "{outcome:?}");
}

#[test]
fn nothing_to_measure_is_an_error_that_says_why() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let error = prepare(&arguments(&[closed], "")).unwrap_err().to_string();
    assert!(error.contains(&closed.to_string()) && error.contains("refused"), "{error}");

    let server = Fake::store();
    server.set_slots(&[]);
    let error = prepare(&arguments(&[server.address], "")).unwrap_err().to_string();
    assert!(error.contains("no slot"), "{error}");

    let error = prepare(&arguments(&[server.address], "--check --value-bytes 39")).unwrap_err();
    assert!(matches!(error, LoadError::ValueTooSmall), "{error}");
}

#[test]
fn a_server_without_cluster_mode_is_told_apart() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 256]).unwrap();
        stream.write_all(b"-ERR This instance has cluster support disabled\r\n").unwrap();
    });
    let error = prepare(&arguments(&[address], "")).unwrap_err().to_string();
    assert!(error.contains("--single") && error.contains("disabled"), "{error}");
    server.join().unwrap();
}

#[test]
fn the_table_shows_what_went_wrong() {
    let server = Fake::start(|number, _| match number {
        2 => Act::Say("-OOM no\r\n".into()),
        3 => Act::Drop,
        _ => Act::Serve,
    });
    let outcome = measure(&[server.address], "--single --clients 1 --requests 10");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.json");
    report::write_json(&path, &outcome).unwrap();
    let json: serde_json::Value =
        serde_json::from_reader(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(json["ok"], 8);
    assert_eq!(json["errors"]["OOM no"], 1);
    assert_eq!(json["unknown_writes"], 1);
}
