//! An admin port on a node of one: what it answers, and what it makes of nonsense.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;

use super::limits::{CONNECTIONS_MAX, REQUEST_BYTES_MAX};
use super::protocol::{Answer, Envelope, FailureKind, MemberChange, Reply, Request, Role};
use super::wait::wait_until;
use super::{AdminAddress, AdminOptions, LogFilter, SETTINGS};
use crate::{Apply, LocalClusterConfig, Node, ShardId, StateMachine};

/// Longest wait for anything here: generous, because the machine may be slow and busy.
const SOON: Duration = Duration::from_secs(30);

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Apply<'_>, _: &mut BytesMut) {}
    fn query(&self, _: &Bytes, _: &mut BytesMut) {}
}

/// A log filter that knows one word.
struct OneWord;

impl LogFilter for OneWord {
    fn get(&self) -> String {
        "info".to_owned()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        if filter == "debug" { Ok(()) } else { Err(format!("'{filter}' is no filter")) }
    }
}

/// A node of one with two shards, both of which it leads, and its admin address.
struct Fixture {
    node: Node,
    address: String,
    _dir: TempDir,
}

impl Fixture {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = LocalClusterConfig::on_free_ports(dir.path()).unwrap();
        let config = LocalClusterConfig { nodes: 1, shards: 2, ..ports }.nodes().remove(0);
        let node = Node::builder(config, |_| Box::new(Nothing))
            .admin("127.0.0.1:0")
            .admin_options(AdminOptions { log: Some(std::sync::Arc::new(OneWord)) })
            .start()
            .unwrap();
        let handle = node.handle();
        let deadline = Instant::now() + SOON;
        for shard in [ShardId(0), ShardId(1)] {
            while wait_until(deadline, handle.propose(shard, Bytes::new())).unwrap().is_err() {
                assert!(Instant::now() < deadline, "shard {shard} has no leader");
                std::thread::yield_now();
            }
        }
        let members = wait_until(deadline, handle.members()).unwrap();
        let address = members[0].record.admin.clone().unwrap();
        Self { node, address, _dir: dir }
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        BufReader::new(stream)
    }

    fn ask(&self, request: Request) -> Reply {
        exchange(&mut self.connect(), &Envelope::new(request))
    }

    #[track_caller]
    fn refusal(&self, request: Request) -> (FailureKind, String) {
        match self.ask(request) {
            Reply::Error(failure) => (failure.kind, failure.message),
            Reply::Ok(answer) => panic!("{answer:?}"),
        }
    }
}

fn exchange(stream: &mut BufReader<TcpStream>, envelope: &Envelope) -> Reply {
    let mut line = serde_json::to_vec(envelope).unwrap();
    line.push(b'\n');
    stream.get_mut().write_all(&line).unwrap();
    reply(stream)
}

fn reply(stream: &mut BufReader<TcpStream>) -> Reply {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn set(name: &str, value: &str) -> Request {
    Request::Set { name: name.to_owned(), value: value.to_owned() }
}

#[test]
fn it_says_how_the_node_is() {
    let fixture = Fixture::start();
    let Reply::Ok(Answer::Status(status)) = fixture.ask(Request::Status) else { panic!() };
    assert_eq!((status.node, status.shards, status.drained), (1, 2, false));
    assert_eq!((status.cores.len(), status.cores[0].led), (1, 2));
    let Reply::Ok(Answer::Shards(shards)) = fixture.ask(Request::Shards) else { panic!() };
    let seen: Vec<_> = shards.iter().map(|s| (s.shard, s.role, s.voters.clone())).collect();
    assert_eq!(seen, [(0, Role::Leader, vec![1]), (1, Role::Leader, vec![1])]);
    let Reply::Ok(Answer::Members(members)) = fixture.ask(Request::Members) else { panic!() };
    assert_eq!(members.len(), 1);
    assert!(members[0].up);
    assert_eq!(members[0].admin.as_ref(), Some(&fixture.address));
}

#[test]
fn members_come_and_go() {
    let fixture = Fixture::start();
    let add = |member: &str| fixture.ask(Request::AddMember { member: member.to_owned() });
    assert_eq!(add("2=127.0.0.1:7,127.0.0.1:9"), Reply::Ok(Answer::Done));
    assert_eq!(add("2=127.0.0.1:7,127.0.0.1:9"), Reply::Ok(Answer::Done), "once more");
    assert!(matches!(add("2=nowhere"), Reply::Error(failure) if failure.message.contains("ID=")));
    let learns = vec![MemberChange::AddLearner(2)];
    let learn = Request::Reconfigure { shard: 1, changes: learns };
    assert!(matches!(fixture.ask(learn), Reply::Ok(Answer::Reconfigured { .. })));
    let (kind, why) = fixture.refusal(Request::RemoveMember { id: 2 });
    assert_eq!(kind, FailureKind::NotYet, "{why}");
    let goes = vec![MemberChange::Remove(2)];
    let go = Request::Reconfigure { shard: 1, changes: goes };
    assert!(matches!(fixture.ask(go), Reply::Ok(Answer::Reconfigured { .. })));
    assert_eq!(fixture.ask(Request::RemoveMember { id: 2 }), Reply::Ok(Answer::Done));
    assert_eq!(fixture.ask(Request::RemoveMember { id: 2 }), Reply::Ok(Answer::Done), "once more");
    let Reply::Ok(Answer::Members(members)) = fixture.ask(Request::Members) else { panic!() };
    assert_eq!(
        members.iter().map(|m| (m.id, m.removed)).collect::<Vec<_>>(),
        [(1, false), (2, true)]
    );
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let fixture = Fixture::start();
    for (request, kind, what) in [
        (Request::Transfer { shard: 9, to: None }, FailureKind::Refused, "shard 9"),
        (Request::Transfer { shard: 0, to: Some(7) }, FailureKind::Refused, "node 7"),
        (Request::Snapshot { shard: 0 }, FailureKind::Refused, "no snapshots"),
        (Request::Reconfigure { shard: 0, changes: Vec::new() }, FailureKind::Refused, "not joint"),
        (
            Request::Reconfigure { shard: 0, changes: vec![MemberChange::Remove(1)] },
            FailureKind::Refused,
            "removes all voters",
        ),
        (
            Request::Reconfigure { shard: 0, changes: vec![MemberChange::AddVoter(5)] },
            FailureKind::NotYet,
            "not ready",
        ),
        (
            Request::Reconfigure { shard: 0, changes: vec![MemberChange::Remove(9); 65] },
            FailureKind::Refused,
            "more than 64",
        ),
    ] {
        let (found, why) = fixture.refusal(request.clone());
        assert_eq!(found, kind, "{request:?}: {why}");
        assert!(why.contains(what), "{request:?}: {why}");
    }
}

#[test]
fn settings_change_while_the_node_runs() {
    let fixture = Fixture::start();
    let Reply::Ok(Answer::Settings(before)) = fixture.ask(Request::Settings) else { panic!() };
    let known: BTreeSet<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    assert_eq!(before.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);
    for (name, value) in [
        ("priority", "-3"),
        ("spread_leaders", "on"),
        ("snapshot_interval_s", "90"),
        ("keep_log_s", "7"),
        ("transfer_mib_per_s", "12"),
        ("replica_read_staleness_ms", "250"),
        ("replica_read_staleness_ms", "0"),
    ] {
        assert_eq!(fixture.ask(set(name, value)), Reply::Ok(Answer::Done));
        let Reply::Ok(Answer::Settings(now)) = fixture.ask(Request::Settings) else { panic!() };
        assert_eq!(now.get(name).map(String::as_str), Some(value));
    }
    assert_eq!(fixture.ask(set("log", "debug")), Reply::Ok(Answer::Done));
    for (name, value) in [
        ("priority", "9"),
        ("priority", "high"),
        ("spread_leaders", "yes"),
        ("snapshot_interval_s", "-1"),
        ("keep_log_s", "99999999999999999999"),
        ("transfer_mib_per_s", "2000000000"),
        ("replica_read_staleness_ms", "1.5"),
        ("log", "loud"),
        ("shards", "7"),
    ] {
        let (kind, why) = fixture.refusal(set(name, value));
        assert_eq!(kind, FailureKind::Refused, "{name} {value}");
        let says = why.contains(value) || why.contains("these can: log, priority");
        assert!(says, "{name} {value}: {why}");
    }
    let Reply::Ok(Answer::Settings(now)) = fixture.ask(Request::Settings) else { panic!() };
    assert_eq!(now["priority"], "-3", "what was refused has changed nothing");
}

#[test]
fn nonsense_is_answered_and_ends_the_connection() {
    let fixture = Fixture::start();
    let mut too_long = vec![b'['; REQUEST_BYTES_MAX + 1];
    too_long.push(b'\n');
    let mut deep = vec![b'['; 4096];
    deep.push(b'\n');
    let documents: Vec<Vec<u8>> = vec![
        b"\n".to_vec(),
        b"POST / HTTP/1.1\r\nContent-Type: text/plain\r\n\r\n{\"protocol\":1,\"request\":\"drain\"}\n".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        b"\xff\xfe\x00\x01\n".to_vec(),
        b"{}\n".to_vec(),
        b"null\n".to_vec(),
        br#"{"protocol":1,"request":"conquer"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"protocol":2,"request":"status"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"protocol":1,"node":2,"request":"drain"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"protocol":1,"cluster":"other","request":"drain"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"protocol":1,"request":{"transfer":{"shard":-1}}}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"protocol":1,"request":"status","more":1}"#.iter().copied().chain(*b"\n").collect(),
        deep,
        too_long,
    ];
    for document in documents {
        let shown = String::from_utf8_lossy(&document[..document.len().min(60)]).into_owned();
        let mut stream = fixture.connect();
        // The other side may close while we still write.
        let _ = stream.get_mut().write_all(&document);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let replies: Vec<Reply> = lines.map(|l| serde_json::from_slice(l).unwrap()).collect();
        // One that was too long may be cut off by the reset that follows unread bytes.
        for reply in &replies {
            let invalid =
                |r: &Reply| matches!(r, Reply::Error(f) if f.kind == FailureKind::Invalid);
            assert!(invalid(reply), "{shown:?}: {reply:?}");
        }
        assert!(replies.len() <= 1, "{shown:?}: what follows nonsense is not looked at");
    }
    let Reply::Ok(Answer::Status(status)) = fixture.ask(Request::Status) else { panic!() };
    assert!(!status.drained, "no request among the nonsense was carried out");
}

#[test]
fn a_request_may_come_in_pieces_and_several_at_once() {
    let fixture = Fixture::start();
    let mut stream = fixture.connect();
    let line = serde_json::to_vec(&Envelope::new(Request::Members)).unwrap();
    for byte in &line {
        stream.get_mut().write_all(std::slice::from_ref(byte)).unwrap();
    }
    stream.get_mut().write_all(b"\n").unwrap();
    assert!(matches!(reply(&mut stream), Reply::Ok(Answer::Members(_))));
    let both = [&line[..], b"\n", &line[..], b"\n"].concat();
    stream.get_mut().write_all(&both).unwrap();
    for _ in 0..2 {
        assert!(matches!(reply(&mut stream), Reply::Ok(Answer::Members(_))));
    }
    stream.get_mut().write_all(&line[..5]).unwrap();
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "half a request is none");
}

#[test]
fn connections_are_bounded_and_room_comes_back() {
    let fixture = Fixture::start();
    let mut open: Vec<BufReader<TcpStream>> = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = fixture.connect();
        exchange(&mut stream, &Envelope::new(Request::Settings));
        open.push(stream);
    }
    let refused = reply(&mut fixture.connect());
    assert!(matches!(refused, Reply::Error(failure) if failure.message.contains("close one")));
    drop(open);
    let deadline = Instant::now() + SOON;
    loop {
        let mut stream = fixture.connect();
        // Refused ones may be reset before we have asked.
        let line = serde_json::to_vec(&Envelope::new(Request::Settings)).unwrap();
        let asked = stream.get_mut().write_all(&[&line[..], b"\n"].concat());
        let mut answer = String::new();
        if asked.is_ok() && stream.read_line(&mut answer).is_ok() && answer.contains("ok") {
            break;
        }
        assert!(Instant::now() < deadline, "no room came back");
        std::thread::yield_now();
    }
}

#[test]
fn it_ends_with_its_node() {
    let Fixture { node, address, _dir } = Fixture::start();
    let mut stream = TcpStream::connect(&address).unwrap();
    node.stop();
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "its connections are closed");
    assert!(std::net::TcpListener::bind(&address).is_ok(), "its port is free again");
}

#[test]
fn an_admin_address_is_a_host_with_a_port_or_off() {
    let read = |text: &str| text.parse::<AdminAddress>();
    assert_eq!(read("off"), Ok(AdminAddress::Off));
    assert_eq!(read("[::1]:0"), Ok(AdminAddress::At("[::1]:0".to_owned())));
    let mut config = LocalClusterConfig::on_free_ports("data").unwrap().nodes().remove(0);
    config.members[0].client_port = 7001;
    assert_eq!(config.admin_address().as_deref(), Some("127.0.0.1:9001"), "by default");
    let file = |admin| {
        let text = format!("id = 1\ndata_dir = 'd'\nmembers = []\nadmin = '{admin}'");
        crate::Config::from_toml(&text).map(|config| config.admin_address())
    };
    assert_eq!(file("off"), Ok(None));
    assert_eq!(file("10.0.0.1:9001"), Ok(Some("10.0.0.1:9001".to_owned())));
    assert!(file("on").is_err());
    for bad in ["", "on", ":1", "h:", "h:70000", "9001"] {
        assert!(read(bad).is_err_and(|error| error.contains("HOST:PORT")), "{bad}");
    }
}
