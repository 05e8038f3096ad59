//! Hooks and timers in whole nodes in one process, on real logs and connections: what leaders change, and what sleeps.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use coracle::sessions::{Entry as SessionEntry, SessionId, SessionReply};
use coracle::timers::{Entry, TimerReply};
use coracle::{
    Apply, Consistency, HookCall, HookTimes, LeaderHook, LocalCluster, LocalClusterConfig,
    NodeHandle, Sessions, ShardId, StateMachine, Timers,
};
use coracle_engine::core::CoreCounters;

const SHARD: ShardId = ShardId(1);
/// Longest wait for anything.
const BOUND: Duration = Duration::from_secs(60);

/// Remembers all it was given, in lines. Every so often somebody is to say "beat".
struct Journal {
    lines: Vec<u8>,
    beat: Option<Duration>,
}

impl StateMachine for Journal {
    fn apply(&mut self, entry: Apply<'_>, _: &mut BytesMut) {
        self.lines.put_slice(entry.payload);
        self.lines.push(b'\n');
    }

    fn query(&self, _: &Bytes, reply: &mut BytesMut) {
        reply.put_slice(&self.lines);
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        Some(self)
    }
}

impl LeaderHook for Journal {
    fn times(&self) -> HookTimes {
        HookTimes { every: self.beat, ..HookTimes::NEVER }
    }

    fn call(&self, call: HookCall) -> Vec<Bytes> {
        assert!(call.interval);
        vec![Bytes::from_static(b"beat")]
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn start(dir: &std::path::Path, beat: Option<Duration>) -> LocalCluster {
    let free = LocalClusterConfig::on_free_ports(dir).unwrap();
    let config = LocalClusterConfig { shards: 2, ..free };
    let machine = move |_| {
        Box::new(Timers::new(Journal { lines: Vec::new(), beat })) as Box<dyn StateMachine>
    };
    LocalCluster::start(&config, machine).unwrap()
}

/// Awaits something on this thread.
fn wait<T: Send + 'static>(answer: impl Future<Output = T> + Send + 'static) -> T {
    coracle::wal::run(|_| answer).unwrap()
}

/// Asks until there is an answer that will do.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < BOUND, "{what}: not within {BOUND:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Proposes to whoever leads.
fn propose(nodes: &[NodeHandle], payload: &Bytes) -> Bytes {
    until("a proposal", || {
        nodes.iter().find_map(|node| {
            let pending = node.propose(SHARD, payload.clone());
            wait(pending).ok().map(|committed| committed.reply)
        })
    })
}

fn set(nodes: &[NodeHandle], in_ms: u64, payload: String) {
    let entry = Entry::Set { at_ms: unix_ms() + in_ms, payload: payload.into() };
    let reply = TimerReply::decode(&propose(nodes, &entry.encode()));
    assert!(matches!(reply, Ok(TimerReply::Set(_))), "{reply:?}");
}

/// How often each line was given to the machine, as whoever leads says.
fn count(nodes: &[NodeHandle], line: &str) -> usize {
    let all = until("a read", || {
        nodes.iter().find_map(|node| wait(node.query(SHARD, "", Consistency::Linearizable)).ok())
    });
    all.split(|byte| *byte == b'\n').filter(|found| *found == line.as_bytes()).count()
}

/// The sum of a counter over all cores.
fn sum(nodes: &[NodeHandle], counter: impl Fn(CoreCounters) -> u64) -> u64 {
    let status = |node: &NodeHandle| {
        let node = node.clone();
        wait(async move { node.status().await })
    };
    nodes.iter().flat_map(status).map(|core| counter(core.counters)).sum()
}

fn hand_over(nodes: &[NodeHandle]) {
    until("a transfer", || {
        nodes.iter().find_map(|node| wait(node.transfer_leadership(SHARD, None)).ok())
    });
}

#[test]
fn timers_fire_once_and_hooks_go_on_while_leaders_change() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), Some(Duration::from_millis(20)));
    let nodes = cluster.handles();
    for number in 0..30 {
        set(&nodes, number * 20, format!("timer {number}"));
        if number % 10 == 5 {
            hand_over(&nodes);
        }
    }
    for number in 0..30 {
        let line = format!("timer {number}");
        until(&line, || (count(&nodes, &line) > 0).then_some(()));
    }
    hand_over(&nodes);
    let before = count(&nodes, "beat");
    until("beats", || (count(&nodes, "beat") > before + 3).then_some(()));
    for number in 0..30 {
        assert_eq!(count(&nodes, &format!("timer {number}")), 1);
    }
    cluster.stop();
}

#[test]
fn a_shard_sleeps_until_its_next_timer_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), None);
    let nodes = cluster.handles();
    let awake = |nodes: &[NodeHandle]| sum(nodes, |counters| counters.shards_awake);
    set(&nodes, 3_600_000, "in an hour".to_owned());
    until("sleep", || (awake(&nodes) == 0).then_some(()));
    // Long enough for all to sleep before it is due; if they do not, that is a slow machine and no failure.
    set(&nodes, 3_000, "soon".to_owned());
    until("a timer of a shard that sleeps", || (count(&nodes, "soon") > 0).then_some(()));
    until("sleep", || (awake(&nodes) == 0).then_some(()));
    assert_eq!((count(&nodes, "soon"), count(&nodes, "in an hour")), (1, 0));
    cluster.stop();
}

/// Nobody but the leader's hook tells the sessions the time.
#[test]
fn sessions_expire_without_anybody_telling_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let free = LocalClusterConfig::on_free_ports(dir.path()).unwrap();
    let config = LocalClusterConfig { shards: 2, ..free };
    let machine = |_| {
        let journal = Journal { lines: Vec::new(), beat: None };
        Box::new(Sessions::new(journal)) as Box<dyn StateMachine>
    };
    let cluster = LocalCluster::start(&config, machine).unwrap();
    let nodes = cluster.handles();
    let ask =
        |entry: SessionEntry| SessionReply::decode(&propose(&nodes, &entry.encode())).unwrap();
    let SessionReply::Opened { limits, .. } = ask(SessionEntry::Open) else { panic!("no session") };
    let limits = coracle::sessions::SessionLimits { idle_timeout_ms: 200, ..limits };
    assert_eq!(ask(SessionEntry::Configure(limits)), SessionReply::Done);
    let SessionReply::Opened { session, .. } = ask(SessionEntry::Open) else {
        panic!("no session")
    };
    // A question would keep it alive: its end is seen at another one's, which is asked once.
    let other = SessionId(session.0 + 1);
    assert_eq!(ask(SessionEntry::Close { session: other }), SessionReply::UnknownSession);
    // Ticks come every 20 ms, too often for a shard to sleep; when no session is left, there are no more.
    until("ticks", || (sum(&nodes, |counters| counters.hook_calls) >= 2).then_some(()));
    until("sleep", || (sum(&nodes, |counters| counters.shards_awake) == 0).then_some(()));
    assert_eq!(ask(SessionEntry::Close { session }), SessionReply::UnknownSession);
    cluster.stop();
}
