//! A server in memory: streams, clock and core are played by the test, one step at a time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coracle_engine::ReconfigureError;
use coracle_engine::core::testing::{TestRequest, take_request};
use coracle_engine::core::{ClusterView, Committed, Consistency, CoreHandle, MemberView, Replicas};
use coracle_engine::env::{Env, Listener, StreamReader, StreamWriter};
use coracle_engine::{
    Apply, CoreId, LogIndex, NodeId, ProposeError, QueryError, ShardId, StateMachine, Term,
};
use coracle_wal::{AlignedBuf, Disk, DiskFile, OpenMode};
use futures_executor::{LocalPool, LocalSpawner};
use futures_util::task::LocalSpawnExt;

use crate::server::{KvSessions, Server, ServerOptions};

/// 2026-01-01, the wall clock of every test at its start.
pub(super) const START_MS: u64 = 1_767_225_600_000;
/// What a stream holds before its writer has to wait.
const PIPE_BYTES: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Pipe {
    bytes: RefCell<BytesMut>,
    closed: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Pipe {
    fn wake(&self) {
        self.wakers.borrow_mut().drain(..).for_each(Waker::wake);
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    async fn ready(&self, condition: impl Fn(&Self) -> bool) {
        poll_fn(|cx| {
            if self.closed.get() || condition(self) {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

pub(super) struct Reader(Rc<Pipe>);
pub(super) struct Writer(Rc<Pipe>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl StreamReader for Reader {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        self.0.ready(|pipe| !pipe.bytes.borrow().is_empty()).await;
        let mut bytes = self.0.bytes.borrow_mut();
        let count = bytes.len().min(buf.capacity() - buf.len());
        buf.extend_from_slice(&bytes.split_to(count));
        self.0.wake();
        Ok(count)
    }
}

impl StreamWriter for Writer {
    async fn write_all(&mut self, bufs: &mut Vec<Bytes>) -> io::Result<()> {
        for chunk in bufs.drain(..) {
            self.0.ready(|pipe| pipe.bytes.borrow().len() < PIPE_BYTES).await;
            if self.0.closed.get() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.bytes.borrow_mut().extend_from_slice(&chunk);
            self.0.wake();
        }
        Ok(())
    }

    fn shutdown(&mut self) {
        self.0.close();
    }
}

type Backlog = Rc<Pipe>;

#[derive(Default)]
pub(super) struct Accepting {
    waiting: RefCell<VecDeque<(Reader, Writer)>>,
    signal: Backlog,
}

pub(super) struct TestListener(Rc<Accepting>);

impl Listener for TestListener {
    type Reader = Reader;
    type Writer = Writer;

    async fn accept(&self) -> io::Result<(Reader, Writer, String)> {
        let accepting = &self.0;
        accepting.signal.ready(|_| !accepting.waiting.borrow().is_empty()).await;
        let next = accepting.waiting.borrow_mut().pop_front();
        let (reader, writer) = next.ok_or(io::ErrorKind::NotConnected)?;
        Ok((reader, writer, "test:1".to_owned()))
    }
}

/// No core here has a disk.
#[derive(Clone)]
pub(super) struct NoDisk(Infallible);

impl Disk for NoDisk {
    type File = Self;
    async fn open(&self, _: &str, _: OpenMode) -> io::Result<Self> {
        match self.0 {}
    }
    async fn list(&self) -> io::Result<Vec<String>> {
        match self.0 {}
    }
    async fn remove(&self, _: &str) -> io::Result<()> {
        match self.0 {}
    }
    async fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        match self.0 {}
    }
    async fn sync_dir(&self) -> io::Result<()> {
        match self.0 {}
    }
}

impl DiskFile for NoDisk {
    async fn size(&self) -> io::Result<u64> {
        match self.0 {}
    }
    async fn allocate(&self, _: u64) -> io::Result<()> {
        match self.0 {}
    }
    async fn read_at(&self, _: u64, _: AlignedBuf, _: usize) -> (io::Result<usize>, AlignedBuf) {
        match self.0 {}
    }
    async fn write_at(&self, _: u64, _: AlignedBuf, _: usize) -> (io::Result<usize>, AlignedBuf) {
        match self.0 {}
    }
    async fn write_durable(
        &self,
        _: u64,
        _: AlignedBuf,
        _: usize,
    ) -> (io::Result<usize>, AlignedBuf) {
        match self.0 {}
    }
    async fn sync(&self) -> io::Result<()> {
        match self.0 {}
    }
}

#[derive(Clone)]
pub(super) struct TestEnv {
    spawner: LocalSpawner,
    clock: Rc<Clock>,
    accepting: Rc<Accepting>,
}

#[derive(Default)]
pub(super) struct Clock {
    now: Cell<Duration>,
    pub(super) unix_ms: Cell<u64>,
    sleepers: RefCell<Vec<Waker>>,
    random: Cell<u64>,
}

impl Env for TestEnv {
    type Disk = NoDisk;
    type Listener = TestListener;
    type Reader = Reader;
    type Writer = Writer;

    fn now(&self) -> Duration {
        self.clock.now.get()
    }

    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms.get()
    }

    fn random(&self) -> u64 {
        self.clock.random.set(self.clock.random.get().wrapping_mul(6_364_136_223_846_793_005) + 1);
        self.clock.random.get() >> 7
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawner.spawn_local(task).unwrap();
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        poll_fn(|cx| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            self.clock.sleepers.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn yield_now(&self) {}

    async fn connect(&self, _: &str, _: Duration) -> io::Result<(Reader, Writer)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn listen(&self, _: &str) -> io::Result<TestListener> {
        Ok(TestListener(self.accepting.clone()))
    }
}

/// The client's end of a connection.
pub(super) struct TestClient {
    to_server: Rc<Pipe>,
    from_server: Rc<Pipe>,
}

impl TestClient {
    pub(super) fn send(&self, bytes: &[u8]) {
        self.to_server.bytes.borrow_mut().extend_from_slice(bytes);
        self.to_server.wake();
    }

    /// Ends the client's sending half, as a client that goes away.
    pub(super) fn hang_up(&self) {
        self.to_server.close();
    }

    /// All that has arrived since the last call.
    pub(super) fn received(&self) -> Bytes {
        let bytes = self.from_server.bytes.borrow_mut().split().freeze();
        self.from_server.wake();
        bytes
    }

    pub(super) fn is_closed(&self) -> bool {
        self.from_server.closed.get()
    }
}

/// A server on one core, and the core itself.
pub(super) struct World {
    pool: LocalPool,
    pub(super) clock: Rc<Clock>,
    accepting: Rc<Accepting>,
    pub(super) core: CoreHandle,
    pub(super) machines: BTreeMap<ShardId, KvSessions>,
    index: u64,
    /// The core takes no requests out.
    pub(super) holds: bool,
    /// Every proposal is refused so.
    pub(super) refuses_proposals: Option<ProposeError>,
    /// Every query is refused so.
    pub(super) refuses_queries: Option<QueryError>,
    /// Every payload that was applied, with its shard.
    pub(super) log: Vec<(ShardId, Bytes)>,
    pub(super) queries: usize,
    /// What the last query allowed.
    pub(super) consistency: Option<Consistency>,
    /// Shards of which a snapshot was asked for.
    pub(super) snapshots: Vec<ShardId>,
    stop: Rc<Pipe>,
    ended: Rc<Cell<bool>>,
}

/// A view of three nodes with `cores` cores each, seen from core 0 of node 1, which leads everything.
pub(super) fn view(shards: u32, cores: u16) -> ClusterView {
    let member = |id: u64| MemberView {
        id: NodeId(id),
        client_host: format!("10.0.0.{id}"),
        client_port: 7000,
        peer_host: format!("10.0.0.{id}"),
        peer_port: 8000,
        cores: Some(cores),
        up: true,
    };
    let members: Vec<MemberView> = (1..=3).map(member).collect();
    ClusterView {
        cluster_id: "test".to_owned(),
        node: NodeId(1),
        core: CoreId(0),
        shards,
        leaders: vec![(Term(1), Some(NodeId(1))); shards as usize],
        replicas: Replicas::on_all(shards, &members),
        members,
    }
}

impl World {
    pub(super) fn new(view: ClusterView) -> Self {
        Self::with_options(view, ServerOptions::default())
    }

    pub(super) fn with_options(view: ClusterView, options: ServerOptions) -> Self {
        let pool = LocalPool::new();
        let clock = Rc::new(Clock::default());
        clock.unix_ms.set(START_MS);
        let accepting = Rc::new(Accepting::default());
        let machines =
            (0..view.shards).map(|shard| (ShardId(shard), KvSessions::default())).collect();
        let core = CoreHandle::detached(view);
        let (stop, ended) = (Rc::new(Pipe::default()), Rc::new(Cell::new(false)));
        let env =
            TestEnv { spawner: pool.spawner(), clock: clock.clone(), accepting: accepting.clone() };
        let (server_env, handle, order, end) =
            (env.clone(), core.clone(), stop.clone(), ended.clone());
        env.spawn(async move {
            let server = Server::bind(server_env, handle, options).await.unwrap();
            server.run(async move { order.ready(|_| false).await }).await;
            end.set(true);
        });
        Self {
            pool,
            clock,
            accepting,
            core,
            machines,
            index: 0,
            holds: false,
            refuses_proposals: None,
            refuses_queries: None,
            log: Vec::new(),
            queries: 0,
            consistency: None,
            snapshots: Vec::new(),
            stop,
            ended,
        }
    }

    pub(super) fn connect(&mut self) -> TestClient {
        let (to_server, from_server) = (Rc::new(Pipe::default()), Rc::new(Pipe::default()));
        let ends = (Reader(to_server.clone()), Writer(from_server.clone()));
        self.accepting.waiting.borrow_mut().push_back(ends);
        self.accepting.signal.wake();
        self.run();
        TestClient { to_server, from_server }
    }

    /// Runs the server and, unless it holds, the core until nothing moves.
    pub(super) fn run(&mut self) {
        loop {
            self.pool.run_until_stalled();
            if self.holds || !self.serve_one() {
                return;
            }
        }
    }

    /// Lets the core take one request out. `false` if there is none.
    pub(super) fn serve_one(&mut self) -> bool {
        let Some(request) = take_request(&self.core) else { return false };
        match request {
            TestRequest::Propose { shard, payload, answer } => {
                let outcome = match self.refuses_proposals.clone() {
                    Some(why) => Err(why),
                    None => Ok(self.apply(shard, payload)),
                };
                answer.send(outcome);
            }
            TestRequest::Query { shard, payload, consistency, answer } => {
                self.queries += 1;
                self.consistency = Some(consistency);
                let outcome = match self.refuses_queries.clone() {
                    Some(why) => Err(why),
                    None => {
                        let mut reply = BytesMut::new();
                        self.machines[&shard].query(&payload, &mut reply);
                        Ok(reply.freeze())
                    }
                };
                answer.send(outcome);
            }
            TestRequest::Reconfigure { shard, answer, .. } => {
                answer.send(Err(ReconfigureError::NotLeader { shard, leader: None }));
            }
            TestRequest::Status { .. } => panic!("no command asks how a shard is"),
            TestRequest::Transfer { .. } => panic!("no command hands over leadership"),
            TestRequest::Snapshot { shard, answer } => {
                self.snapshots.push(shard);
                answer.send(Ok(LogIndex(self.index)));
            }
        }
        true
    }

    fn apply(&mut self, shard: ShardId, payload: Bytes) -> Committed {
        self.index += 1;
        let (term, index) = (Term(1), LogIndex(self.index));
        let mut reply = BytesMut::new();
        let entry = Apply { shard, index, term, payload: &payload };
        self.machines.get_mut(&shard).unwrap().apply(entry, &mut reply);
        self.log.push((shard, payload));
        Committed { term, index, reply: reply.freeze() }
    }

    /// Moves both clocks and wakes who sleeps.
    pub(super) fn advance(&mut self, duration: Duration) {
        self.clock.now.set(self.clock.now.get() + duration);
        let ms = duration.as_millis() as u64;
        self.clock.unix_ms.set(self.clock.unix_ms.get() + ms);
        self.clock.sleepers.take().into_iter().for_each(Waker::wake);
        self.run();
    }

    /// Orders the server to stop.
    pub(super) fn stop(&mut self) {
        self.stop.close();
        self.run();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Sends bytes and gives what comes back.
    pub(super) fn ask(&mut self, client: &TestClient, bytes: &[u8]) -> String {
        client.send(bytes);
        self.run();
        String::from_utf8_lossy(&client.received()).into_owned()
    }
}

/// A request as clients send it.
pub(super) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Words separated by spaces, as a request.
pub(super) fn command(line: &str) -> Vec<u8> {
    request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}
