//! [`SessionClient`]: requests that are applied once, sent until they are answered.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_engine::session::{
    Answer, BeginError, ClientSession, Malformed, OpenError, RequestError, RequestId, SessionReply,
};
use thiserror::Error;

use crate::{NodeHandle, ProposeError, ShardId};

/// Why a request of a session has no answer.
#[derive(Debug, Error)]
pub enum SessionError {
    /// All attempts were made. If it is a request, it is still waited for: [`SessionClient::resume`] goes on with
    /// it, [`SessionClient::give_up`] forgets it.
    #[error("no answer after {attempts} attempts, the last one: {last}")]
    Unanswered {
        /// The request, unless it was something else.
        request: Option<RequestId>,
        /// Attempts that were made.
        attempts: u32,
        /// How the last one ended.
        last: ProposeError,
    },
    /// No copy of it is in the log, nor can be.
    #[error(transparent)]
    Refused(ProposeError),
    /// No session was opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The request was not begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The shard has answered, but with no result of the machine.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no session any more to be kept alive or closed.
    #[error("the session has expired; open another one")]
    Expired,
    /// The shard has answered with something else.
    #[error("this is no answer of sessions: {0}")]
    Malformed(#[from] Malformed),
}

/// A session with one shard, through the nodes of this process.
///
/// The shard's state machine stands in [`Sessions`](crate::Sessions). A request is sent again, to whoever leads then,
/// after everything that another attempt can mend, also when the outcome of an attempt is unknown: the shard applies
/// it once. Between two attempts, `pause` is awaited with the number of attempts so far; what it does is the
/// caller's, for futures here need no particular runtime. It should grow to about an election timeout.
///
/// Several requests may be under way at once, up to the session's window. A future that is dropped leaves its
/// request waiting, as [`SessionError::Unanswered`] does.
///
/// ```no_run
/// use std::time::Duration;
///
/// use bytes::{BufMut, Bytes, BytesMut};
/// use coracle::{Apply, Config, Node, NodeId, SessionClient, Sessions, ShardId, StateMachine};
/// # async fn sleep(_: Duration) {} // that of your runtime
///
/// struct Counter(u64);
///
/// impl StateMachine for Counter {
///     fn apply(&mut self, _: Apply<'_>, reply: &mut BytesMut) {
///         self.0 += 1;
///         reply.put_u64(self.0);
///     }
///
///     fn query(&self, _: &Bytes, reply: &mut BytesMut) {
///         reply.put_u64(self.0);
///     }
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let member = "1=127.0.0.1:7001,127.0.0.1:8001".parse()?;
/// let config = Config::new(NodeId(1), "data", vec![member]);
/// let node = Node::builder(config, |_| Box::new(Sessions::new(Counter(0)))).start()?;
///
/// let pause = |attempts: u32| sleep(Duration::from_millis(10 * u64::from(attempts.min(50))));
/// let client = SessionClient::open(vec![node.handle()], ShardId(0), 100, pause).await?;
/// let answer = client.request(b"increment").await?;
/// println!("{:?}, applied by an earlier attempt: {}", answer.reply, answer.is_duplicate);
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SessionClient<P> {
    way: Way<P>,
    /// Held for a few instructions, never across an await.
    session: Mutex<ClientSession>,
}

/// How entries get to whoever leads the shard.
#[derive(Debug)]
struct Way<P> {
    nodes: Vec<NodeHandle>,
    shard: ShardId,
    attempts_max: u32,
    pause: P,
    /// The node that has answered last.
    leader: AtomicUsize,
}

impl<P, F> SessionClient<P>
where
    P: Fn(u32) -> F,
    F: Future<Output = ()>,
{
    /// Opens a session with `shard`, through these nodes; at least one. Each request makes up to `attempts_max`
    /// attempts.
    ///
    /// # Errors
    /// [`SessionError`]; a session that was opened all the same expires.
    pub async fn open(
        nodes: Vec<NodeHandle>,
        shard: ShardId,
        attempts_max: u32,
        pause: P,
    ) -> Result<Self, SessionError> {
        assert!(!nodes.is_empty(), "a session client needs a node to talk to");
        let way = Way { nodes, shard, attempts_max, pause, leader: AtomicUsize::new(0) };
        let reply = way.propose(None, &ClientSession::open(), || {}).await?;
        Ok(Self { way, session: Mutex::new(ClientSession::opened(&reply)?) })
    }

    /// Has the state machine apply `payload` once. Resolves with its reply.
    ///
    /// # Errors
    /// [`SessionError`]: with [`SessionError::Begin`] and [`SessionError::Refused`] it is certainly not applied; of
    /// the others, see what they say.
    pub async fn request(&self, payload: &[u8]) -> Result<Answer, SessionError> {
        let (request, payload) = self.lock().begin(payload)?;
        self.finish(request, payload).await
    }

    /// Goes on with a request that was left unanswered.
    ///
    /// # Errors
    /// As [`SessionClient::request`].
    pub async fn resume(&self, request: RequestId) -> Result<Answer, SessionError> {
        let payload = self.lock().again(request).ok_or(RequestError::NotWaiting(request))?;
        self.finish(request, payload).await
    }

    /// Forgets a request that was left unanswered. It may have been applied, or be applied until the next
    /// request of the session is, but not after that.
    pub fn give_up(&self, request: RequestId) {
        self.lock().give_up(request);
    }

    /// The requests without an answer, oldest first.
    pub fn waiting(&self) -> Vec<RequestId> {
        self.lock().waiting().collect()
    }

    /// Keeps the session from expiring while there is nothing to ask for; due well before
    /// [`ClientSession::idle_timeout_ms`].
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn keep_alive(&self) -> Result<(), SessionError> {
        let payload = self.lock().keep_alive();
        self.small(payload).await
    }

    /// Ends the session. Without it, the shard keeps it until it is idle for too long.
    ///
    /// # Errors
    /// [`SessionError`]: [`SessionError::Expired`] also if an earlier attempt has closed it.
    pub async fn close(self) -> Result<(), SessionError> {
        let payload = self.lock().close();
        self.small(payload).await
    }

    async fn small(&self, payload: Bytes) -> Result<(), SessionError> {
        let reply = self.way.propose(None, &payload, || {}).await?;
        match SessionReply::decode(&reply)? {
            SessionReply::Done => Ok(()),
            SessionReply::UnknownSession => Err(SessionError::Expired),
            _ => Err(Malformed("the reply is to something else").into()),
        }
    }

    async fn finish(&self, request: RequestId, payload: Bytes) -> Result<Answer, SessionError> {
        // From the first unknown outcome on, a copy may be in the log.
        let unknown = || drop(self.lock().again(request));
        let mut full = 0;
        loop {
            let answer = match self.way.propose(Some(request), &payload, unknown).await {
                Ok(reply) => self.lock().answered(request, &reply),
                Err(SessionError::Refused(error)) => {
                    self.lock().give_up(request);
                    return Err(SessionError::Refused(error));
                }
                Err(error) => return Err(error),
            };
            match answer {
                Err(RequestError::Full) if full < self.way.attempts_max => {
                    full += 1;
                    (self.way.pause)(full).await;
                }
                other => return Ok(other?),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClientSession> {
        // Nothing panics between two states of a session.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P, F> Way<P>
where
    P: Fn(u32) -> F,
    F: Future<Output = ()>,
{
    /// Proposes an entry to one node after another until it is applied, with its reply. Calls `unknown` each
    /// time that a copy may have got into the log without an answer.
    async fn propose(
        &self,
        request: Option<RequestId>,
        payload: &Bytes,
        unknown: impl Fn(),
    ) -> Result<Bytes, SessionError> {
        let mut at = self.leader.load(Ordering::Relaxed);
        let mut attempts = 0;
        loop {
            let error = match self.nodes[at].propose(self.shard, payload.clone()).await {
                Ok(committed) => {
                    self.leader.store(at, Ordering::Relaxed);
                    return Ok(committed.reply);
                }
                Err(error) => error,
            };
            attempts += 1;
            let mut hint = None;
            match &error {
                ProposeError::TooLarge { .. } | ProposeError::UnknownShard(_) => {
                    return Err(SessionError::Refused(error));
                }
                ProposeError::OutcomeUnknown { .. } | ProposeError::StorageFailed(_) => unknown(),
                ProposeError::NotLeader { leader, .. } => {
                    hint = self.nodes.iter().position(|node| Some(node.id()) == *leader);
                }
                ProposeError::Overloaded(_) | ProposeError::NoSpace => hint = Some(at),
                ProposeError::ShuttingDown => {}
            }
            if attempts >= self.attempts_max {
                return Err(SessionError::Unanswered { request, attempts, last: error });
            }
            at = hint.unwrap_or((at + 1) % self.nodes.len());
            (self.pause)(attempts).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;
    use std::time::Duration;

    use bytes::{BufMut, BytesMut};
    use futures_util::future::join_all;

    use super::*;
    use crate::{Apply, Consistency, LocalCluster, LocalClusterConfig, Sessions, StateMachine};

    #[derive(Default)]
    struct Counter(u64);

    impl StateMachine for Counter {
        fn apply(&mut self, _: Apply<'_>, reply: &mut BytesMut) {
            self.0 += 1;
            reply.put_u64(self.0);
        }

        fn query(&self, _: &Bytes, reply: &mut BytesMut) {
            reply.put_u64(self.0);
        }
    }

    const SHARD: ShardId = ShardId(1);

    fn counters(dir: &Path, nodes: u16) -> LocalCluster {
        let free = LocalClusterConfig::on_free_ports(dir).unwrap();
        let config = LocalClusterConfig { nodes, shards: 2, ..free };
        let machines = |_| Box::new(Sessions::new(Counter::default())) as Box<dyn StateMachine>;
        LocalCluster::start(&config, machines).unwrap()
    }

    /// Gives an election time to be held; the test's thread has nothing else to do.
    async fn pause(_: u32) {
        std::thread::sleep(Duration::from_millis(2));
    }

    async fn requests(nodes: Vec<NodeHandle>) {
        // The nodes in the wrong order: whoever leads is found.
        let client = SessionClient::open(nodes.clone(), SHARD, 10_000, pause).await.unwrap();
        let answers = join_all((0..20).map(|_| client.request(b"+"))).await;
        let mut counts: Vec<u64> = answers
            .into_iter()
            .map(|answer| answer.unwrap().reply.unwrap()[..].try_into().map(u64::from_be_bytes))
            .collect::<Result<_, _>>()
            .unwrap();
        counts.sort_unstable();
        assert_eq!(counts, (1..=20).collect::<Vec<u64>>());
        assert!(client.waiting().is_empty());

        // A client that was told nothing sends again.
        let (request, payload) = client.lock().begin(b"+").unwrap();
        client.way.propose(None, &payload, || {}).await.unwrap();
        let answer = client.resume(request).await.unwrap();
        assert_eq!(answer.reply.as_deref(), Some(&21_u64.to_be_bytes()[..]));
        assert!(answer.is_duplicate);
        let late = client.resume(request).await.unwrap_err();
        assert!(matches!(late, SessionError::Request(RequestError::NotWaiting(_))), "{late}");

        let large = vec![0; coracle_engine::limits::PAYLOAD_BYTES_MAX];
        let refused = client.request(&large).await.unwrap_err();
        assert!(matches!(refused, SessionError::Refused(_)), "{refused}");
        assert!(client.waiting().is_empty());

        client.keep_alive().await.unwrap();
        let payload = client.lock().close();
        client.small(payload).await.unwrap();
        let gone = client.request(b"+").await.unwrap_err();
        assert!(matches!(gone, SessionError::Request(RequestError::NotApplied)), "{gone}");
        assert!(matches!(client.close().await, Err(SessionError::Expired)));
        let mut count = Bytes::new();
        for node in &nodes {
            if let Ok(found) = node.query(SHARD, "", Consistency::Linearizable).await {
                count = found;
            }
        }
        assert_eq!(count, &21_u64.to_be_bytes()[..]);
    }

    #[test]
    fn requests_find_the_leader_and_are_applied_once() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = counters(dir.path(), 3);
        let nodes = cluster.handles();
        crate::wal::run(|_| requests(nodes)).unwrap();
        cluster.stop();
    }

    #[test]
    fn attempts_have_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = counters(dir.path(), 1);
        let nodes = cluster.handles();
        cluster.stop();
        let opened = crate::wal::run(|_| SessionClient::open(nodes, SHARD, 3, pause)).unwrap();
        let error = opened.map(drop).unwrap_err();
        assert!(
            matches!(
                error,
                SessionError::Unanswered { attempts: 3, last: ProposeError::ShuttingDown, .. }
            ),
            "{error}"
        );
    }
}
