//! The proxy between nodes, and the check of what single replicas show: parts of the harness.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use support::history::{Action, End, Operation};
use support::network::frame;
use support::network::proxy::Proxy;
use support::network::rule::Rule;
use support::replicas::check_sequence;
use support::wait::SOON;

/// How long nothing has to arrive to count as nothing. A proxy that is slower passes these tests.
const QUIET: Duration = Duration::from_millis(100);

/// A heartbeat's number; this proxy does not look into bodies.
const MESSAGE: u8 = 22;

/// A frame that carries `number`.
fn numbered(number: u32) -> Vec<u8> {
    let body = number.to_le_bytes();
    let mut bytes = vec![0xC0, 0xAC, 3, MESSAGE, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Node 1, which has dialled node 2 through a proxy.
struct Pair {
    proxy: Proxy,
    listener: TcpListener,
    first: TcpStream,
    second: TcpStream,
}

impl Pair {
    fn connect() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nodes = [(1, nowhere), (2, listener.local_addr().unwrap())];
        let proxy = Proxy::start(&nodes.into(), 1);
        let first = TcpStream::connect(proxy.address(1, 2)).unwrap();
        let (second, _) = listener.accept().unwrap();
        Self { proxy, listener, first, second }
    }

    fn impair(rule: Rule) -> Self {
        let pair = Self::connect();
        pair.proxy.impair(1, 1, 2, rule);
        pair
    }

    /// Sends numbered frames from node 1 to node 2.
    fn send(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.first.write_all(&numbered(number)).unwrap();
        }
    }

    /// The numbers of the next frames at node 2.
    fn receive(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| number(&mut self.second)).collect()
    }

    fn nothing_arrives(&mut self) {
        self.second.set_read_timeout(Some(QUIET)).unwrap();
        assert!(self.second.read(&mut [0]).is_err());
    }
}

fn number(from: &mut TcpStream) -> u32 {
    from.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = vec![0; 28];
    from.read_exact(&mut bytes).unwrap();
    let whole = frame::take(&mut bytes).unwrap().unwrap();
    u32::from_le_bytes(whole[24..].try_into().unwrap())
}

#[test]
fn frames_are_recognised_whole_and_damage_is_seen() {
    let mut bytes = [numbered(1), numbered(2)].concat();
    let last = bytes.pop().unwrap();
    assert_eq!(frame::take(&mut bytes), Ok(Some(numbered(1))));
    assert_eq!(frame::take(&mut bytes), Ok(None));
    bytes.push(last);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(frame::take(&mut bad).is_err(), "bit {bit}");
    }
    assert_eq!(frame::take(&mut bytes), Ok(Some(numbered(2))));
}

#[test]
fn without_faults_all_passes_both_ways() {
    let mut pair = Pair::connect();
    pair.send(0..1000);
    assert_eq!(pair.receive(1000), (0..1000).collect::<Vec<_>>());
    pair.second.write_all(&numbered(7)).unwrap();
    assert_eq!(number(&mut pair.first), 7);
    drop(pair.second);
    assert_eq!(pair.first.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_deaf_direction_loses_frames_and_the_other_does_not() {
    let mut pair = Pair::impair(Rule::deaf());
    pair.send(0..10);
    pair.nothing_arrives();
    pair.second.write_all(&numbered(7)).unwrap();
    assert_eq!(number(&mut pair.first), 7);
    pair.proxy.heal(1);
    pair.send(10..20);
    assert_eq!(pair.receive(10), (10..20).collect::<Vec<_>>());
}

#[test]
fn the_end_of_a_connection_does_not_get_through_a_deaf_direction() {
    let mut pair = Pair::impair(Rule::deaf());
    pair.first.shutdown(std::net::Shutdown::Write).unwrap();
    pair.nothing_arrives();
    pair.proxy.heal(1);
    pair.second.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(pair.second.read(&mut [0]).unwrap(), 0);
}

#[test]
fn nobody_is_reached_through_a_deaf_direction() {
    let pair = Pair::impair(Rule::deaf());
    let mut again = TcpStream::connect(pair.proxy.address(1, 2)).unwrap();
    pair.listener.set_nonblocking(true).unwrap();
    std::thread::sleep(QUIET);
    assert!(pair.listener.accept().is_err());
    pair.listener.set_nonblocking(false).unwrap();
    pair.proxy.heal(1);
    let (mut there, _) = pair.listener.accept().unwrap();
    again.write_all(&numbered(3)).unwrap();
    assert_eq!(number(&mut there), 3);
}

#[test]
fn a_clogged_direction_loses_nothing() {
    let mut pair = Pair::impair(Rule { clogged: true, ..Rule::default() });
    // What the proxy was reading when the rule came may still pass.
    pair.send(0..1000);
    pair.proxy.heal(1);
    assert_eq!(pair.receive(1000), (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_narrow_direction_is_slow() {
    let mut pair = Pair::impair(Rule { bytes_per_second: 2800, ..Rule::default() });
    let start = std::time::Instant::now();
    pair.send(0..50);
    assert_eq!(pair.receive(50), (0..50).collect::<Vec<_>>());
    // 49 frames of 28 bytes, less the one that leaves at once.
    assert!(start.elapsed() > Duration::from_millis(480), "{:?}", start.elapsed());
}

#[test]
fn delayed_frames_stay_in_order() {
    let mut pair = Pair::impair(Rule { delay_max: Duration::from_millis(20), ..Rule::default() });
    pair.send(0..200);
    assert_eq!(pair.receive(200), (0..200).collect::<Vec<_>>());
}

#[test]
fn reordered_frames_all_arrive() {
    let mut pair = Pair::impair(Rule { reordered: 300, ..Rule::default() });
    pair.send(0..200);
    let mut received = pair.receive(200);
    assert_ne!(received, (0..200).collect::<Vec<_>>());
    received.sort_unstable();
    assert_eq!(received, (0..200).collect::<Vec<_>>());
}

#[test]
fn duplicated_frames_arrive_twice() {
    let mut pair = Pair::impair(Rule { duplicated: 1000, ..Rule::default() });
    pair.send(0..100);
    assert_eq!(pair.receive(200), (0..100).flat_map(|number| [number; 2]).collect::<Vec<_>>());
}

#[test]
fn replayed_frames_are_old_ones_also_of_earlier_connections() {
    let mut pair = Pair::connect();
    pair.send(0..100);
    pair.receive(100);
    let mut again = TcpStream::connect(pair.proxy.address(1, 2)).unwrap();
    let (mut there, _) = pair.listener.accept().unwrap();
    pair.proxy.impair(1, 1, 2, Rule { replayed: 1000, ..Rule::default() });
    for number in 100..150 {
        again.write_all(&numbered(number)).unwrap();
    }
    let received: Vec<u32> = (0..100).map(|_| number(&mut there)).collect();
    assert!(received.iter().any(|number| *number < 100), "{received:?}");
    for number in 100..150 {
        assert!(received.contains(&number), "{number} is not in {received:?}");
    }
}

#[test]
fn lost_frames_are_lost_whole() {
    let mut pair = Pair::impair(Rule { dropped: 500, ..Rule::default() });
    pair.send(0..200);
    // The last one says that all others have come or never will.
    while pair.proxy.counters().lost() + pair.proxy.counters().passed() < 200 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let passed = usize::try_from(pair.proxy.counters().passed()).unwrap();
    assert!((20..180).contains(&passed), "{passed}");
    let received = pair.receive(passed);
    assert!(received.is_sorted());
}

#[test]
fn a_corrupted_frame_differs_in_a_bit() {
    let mut pair = Pair::impair(Rule { corrupted: 1000, ..Rule::default() });
    pair.send(5..6);
    let mut bytes = [0; 28];
    pair.second.set_read_timeout(Some(SOON)).unwrap();
    pair.second.read_exact(&mut bytes).unwrap();
    let differing: u32 =
        bytes.iter().zip(numbered(5)).map(|(found, sent)| (found ^ sent).count_ones()).sum();
    assert_eq!(differing, 1);
}

#[test]
fn a_cut_is_seen_by_both_sides() {
    let mut pair = Pair::connect();
    pair.send(0..1);
    pair.receive(1);
    pair.proxy.cut(2, 1);
    pair.first.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(pair.first.read(&mut [0]).unwrap(), 0);
    assert_eq!(pair.second.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_node_that_sends_no_frame_is_told_on() {
    let mut pair = Pair::connect();
    pair.first.write_all(&[0; 28]).unwrap();
    pair.second.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(pair.second.read(&mut [0]).unwrap(), 0);
    assert!(pair.proxy.defects()[0].starts_with("node 1 sent node 2 what is no frame"));
}

#[test]
fn of_two_faults_the_worse_holds_until_both_are_healed() {
    let mut pair = Pair::impair(Rule::deaf());
    pair.proxy.impair(2, 1, 2, Rule { duplicated: 1000, ..Rule::default() });
    pair.send(0..1);
    pair.nothing_arrives();
    pair.proxy.heal(1);
    pair.send(1..2);
    assert_eq!(pair.receive(2), [1, 1]);
    pair.proxy.heal(2);
    pair.send(2..4);
    assert_eq!(pair.receive(2), [2, 3]);
}

#[test]
fn what_a_replica_shows_must_go_forward() {
    let write = |start, end, value: &str| {
        let action = Action::Write(value.to_owned());
        Operation { client: 0, start, end, action }
    };
    let writes = [
        write(1, End::Acknowledged(2), "a"),
        write(3, End::Acknowledged(4), "b"),
        write(3, End::Unknown, "c"),
        write(20, End::Acknowledged(21), "late"),
    ];
    let writes: HashMap<&str, &Operation> =
        ["a", "b", "c", "late"].into_iter().zip(&writes).collect();
    let check = |seen: &[&str]| {
        let seen = seen.iter().map(|value| ((!value.is_empty()).then(|| (*value).to_owned()), 10));
        check_sequence(&seen.collect::<Vec<_>>(), &writes)
    };
    for good in [&[][..], &["", "a", "b"], &["b", "c"], &["c", "b"], &["", "a"]] {
        assert_eq!(check(good), Ok(()), "{good:?}");
    }
    for bad in [&["b", "a"][..], &["b", "c", "b"], &["a", ""], &["x"], &["late"]] {
        assert!(check(bad).is_err(), "{bad:?}");
    }
}
