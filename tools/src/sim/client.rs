//! Clients of a simulated cluster: they find the leader, try again what was certainly not done, and give up
//! what may have been done. Reads that any replica may answer they ask of any.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::core::{Committed, Consistency, CoreHandle, Pending, RemoteCore, ShardStatus};
use coracle_engine::raft::Role;
use coracle_engine::{LogIndex, NodeId, ProposeError, QueryError, ShardId};
use fastrand::Rng;
use futures_util::future::{Either, select};

use super::checks::hash_bytes;
use super::cluster::{CLIENTS, Cluster};
use super::settings::Settings;
use super::workload::{Ask, Outcome, Request, Then, Workload};
use super::world::World;

/// Attempts of one request in a row that are known to have done nothing, before a client gives up.
const ATTEMPTS_MAX: u32 = 20;

/// Counts of what clients saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests answered.
    pub replied: u64,
    /// Requests that were certainly not done.
    pub refused: u64,
    /// Requests of which nobody knows.
    pub unknown: u64,
}

/// What all clients share.
pub struct Clients<W> {
    world: World,
    cluster: Rc<RefCell<Cluster>>,
    workload: Rc<RefCell<W>>,
    shards: u32,
    request_timeout: Duration,
    burst: Duration,
    /// Who has answered last for a shard.
    leaders: RefCell<BTreeMap<ShardId, usize>>,
    /// The first answer that the workload found wrong.
    wrong: RefCell<Option<String>>,
    tally: Cell<Tally>,
    /// Clients that have not finished.
    running: Cell<u32>,
}

/// The way into a core.
enum Way {
    /// From another thread, as an embedder has it.
    Mailbox(RemoteCore),
    /// From a task of the same core, as a server's connection has it.
    Handle(CoreHandle),
}

impl Way {
    fn propose(&self, shard: ShardId, payload: Bytes) -> Pending<Committed, ProposeError> {
        match self {
            Self::Mailbox(core) => core.propose(shard, payload),
            Self::Handle(core) => core.propose(shard, payload),
        }
    }

    fn query(&self, request: &Request) -> Pending<Bytes, QueryError> {
        let (shard, payload) = (request.shard, request.payload.clone());
        let linearizable = Consistency::Linearizable;
        let consistency =
            request.staleness.map_or(linearizable, |staleness| Consistency::Bounded { staleness });
        match self {
            Self::Mailbox(core) => core.query(shard, payload, consistency),
            Self::Handle(core) => core.query(shard, payload, consistency),
        }
    }

    fn status(&self, shard: ShardId) -> Pending<ShardStatus, QueryError> {
        match self {
            Self::Mailbox(core) => core.shard_status(shard),
            Self::Handle(core) => core.shard_status(shard),
        }
    }
}

/// How one attempt ended.
enum Attempt {
    Ended(Outcome),
    /// Certainly nothing was done; perhaps this node knows better.
    Again(Option<NodeId>),
}

impl<W: Workload> Clients<W> {
    /// No client yet.
    pub fn new(
        world: &World,
        cluster: &Rc<RefCell<Cluster>>,
        workload: &Rc<RefCell<W>>,
        settings: &Settings,
        request_timeout: Duration,
    ) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            cluster: cluster.clone(),
            workload: workload.clone(),
            shards: settings.shards,
            request_timeout,
            burst: Duration::from_millis(settings.burst_ms),
            leaders: RefCell::default(),
            wrong: RefCell::new(None),
            tally: Cell::default(),
            running: Cell::new(0),
        })
    }

    /// Takes the first wrong answer.
    pub fn take_wrong(&self) -> Option<String> {
        self.wrong.borrow_mut().take()
    }

    /// What clients saw so far.
    pub fn tally(&self) -> Tally {
        self.tally.get()
    }

    /// Whether all clients have finished.
    pub fn are_done(&self) -> bool {
        self.running.get() == 0
    }

    /// Starts a client that does so many operations with pauses of up to `think_max` between them, and
    /// begins none after `end`.
    pub fn start(
        self: &Rc<Self>,
        client: u32,
        operations: u32,
        think_max: Duration,
        end: Duration,
    ) {
        let clients = self.clone();
        self.running.set(self.running.get() + 1);
        let mut rng = self.world.rng_for(&format!("client/{client}"));
        self.world.spawn(CLIENTS, async move {
            for _ in 0..operations {
                let think = Duration::from_nanos(rng.u64(..=think_max.as_nanos() as u64));
                clients.world.sleep_until(clients.begin(think)).await;
                if clients.world.now() > end {
                    break;
                }
                let target = clients.random_node(&mut rng);
                let (words, request) = clients.workload.borrow_mut().next(Ask {
                    client,
                    shards: clients.shards,
                    now: clients.world.now(),
                    unix_ms: clients.unix_ms(target),
                    rng: &mut rng,
                });
                clients.perform(client, &words, request, &mut rng, ATTEMPTS_MAX).await;
            }
            clients.running.set(clients.running.get() - 1);
        });
    }

    /// Starts a client that asks for the whole state, each read until it is answered.
    pub fn start_final_reads(self: &Rc<Self>, client: u32) {
        let clients = self.clone();
        self.running.set(self.running.get() + 1);
        let mut rng = self.world.rng_for(&format!("final reads/{client}"));
        self.world.spawn(CLIENTS, async move {
            let mut number = 0;
            loop {
                let target = clients.random_node(&mut rng);
                let read = clients.workload.borrow_mut().final_read(
                    number,
                    Ask {
                        client,
                        shards: clients.shards,
                        now: clients.world.now(),
                        unix_ms: clients.unix_ms(target),
                        rng: &mut rng,
                    },
                );
                let Some((words, request)) = read else { break };
                if clients.perform(client, &words, request, &mut rng, u32::MAX).await {
                    number += 1;
                }
            }
            clients.running.set(clients.running.get() - 1);
        });
    }

    /// When an operation begins that is due in `think`: with others, if clients do things at once.
    fn begin(&self, think: Duration) -> Duration {
        let due = self.world.now() + think;
        match self.burst.as_nanos() {
            0 => due,
            burst => Duration::from_nanos((due.as_nanos().div_ceil(burst) * burst) as u64),
        }
    }

    fn random_node(&self, rng: &mut Rng) -> usize {
        rng.usize(..self.cluster.borrow().len())
    }

    fn unix_ms(&self, at: usize) -> u64 {
        self.cluster.borrow().clock(at).unix_ms(self.world.now())
    }

    /// Does one operation with all requests that it takes. Whether it was answered.
    async fn perform(
        &self,
        client: u32,
        words: &str,
        mut request: Request,
        rng: &mut Rng,
        attempts_max: u32,
    ) -> bool {
        self.world.story(|| format!("client {client}: {words}"));
        loop {
            let outcome = self.ask(&request, rng, attempts_max).await;
            let mut tally = self.tally.get();
            match &outcome {
                Outcome::Replied(reply) => {
                    tally.replied += 1;
                    self.world.trace(client.into(), hash_bytes(reply));
                }
                Outcome::Refused => tally.refused += 1,
                Outcome::Unknown => tally.unknown += 1,
            }
            self.tally.set(tally);
            self.world.story(|| format!("client {client}: {words}: {}", show(&outcome)));
            let answered = matches!(outcome, Outcome::Replied(_));
            let then = self.workload.borrow_mut().ended(client, self.world.now(), outcome);
            match then {
                Ok(Then::Done) => return answered,
                Ok(Then::Ask(next)) => request = next,
                Err(wrong) => {
                    self.wrong.borrow_mut().get_or_insert(wrong);
                    return answered;
                }
            }
        }
    }

    /// Sends a request to one node after another until one of them does something about it.
    async fn ask(&self, request: &Request, rng: &mut Rng, attempts_max: u32) -> Outcome {
        if request.staleness.is_some() {
            return self.ask_anybody(request, rng).await;
        }
        let mut hint = None;
        for attempt in 0..attempts_max {
            if attempt > 0 {
                let pause = self.request_timeout / 20;
                self.world.sleep(pause.mul_f64(rng.f64()) + Duration::from_micros(1)).await;
            }
            self.way(rng).await;
            let way = {
                let cluster = self.cluster.borrow();
                let guess = hint.take().map(|id| cluster.place(id));
                // Who has found a leader stays with it, until it says no: also when it leads no more.
                let found = self.leaders.borrow().get(&request.shard).copied();
                let guess = guess.or(found.filter(|_| attempt == 0 && rng.f64() < 0.8));
                let at = guess.unwrap_or_else(|| rng.usize(..cluster.len()));
                way_to(&cluster, at, request.shard, rng).map(|way| (at, way))
            };
            let Some((at, way)) = way else { continue };
            let attempt = self.attempt(&way, request).await;
            match &attempt {
                Attempt::Ended(Outcome::Replied(_)) => {
                    self.leaders.borrow_mut().insert(request.shard, at);
                }
                Attempt::Ended(Outcome::Unknown) => {} // it may still be the one
                _ => drop(self.leaders.borrow_mut().remove(&request.shard)),
            }
            self.way(rng).await;
            match attempt {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Again(leader) => hint = leader,
            }
        }
        Outcome::Refused
    }

    /// Sends a read that any replica may answer to one of them, or to its leader. Once only: what the answer has to show
    /// is as of its beginning, and the judge knows that of the first attempt.
    async fn ask_anybody(&self, request: &Request, rng: &mut Rng) -> Outcome {
        self.way(rng).await;
        let at = self.random_node(rng);
        let way = way_to(&self.cluster.borrow(), at, request.shard, rng);
        let Some(way) = way else { return Outcome::Refused };
        let outcome = match self.attempt(&way, request).await {
            Attempt::Ended(outcome) => outcome,
            Attempt::Again(_) => Outcome::Refused,
        };
        let answered = matches!(outcome, Outcome::Replied(_));
        self.world.count(if answered { "reads.bounded" } else { "reads.bounded_refused" });
        self.way(rng).await;
        outcome
    }

    /// Has somebody ask one node after another how shards are, as confirmed, until `end`. `committed` tells up to where a
    /// shard is: an answer that does not know what was committed before it was asked for is wrong.
    pub fn start_statuses(
        self: &Rc<Self>,
        pause_max: Duration,
        end: Duration,
        committed: impl Fn(ShardId) -> LogIndex + 'static,
    ) {
        let clients = self.clone();
        let mut rng = self.world.rng_for("statuses");
        self.world.spawn(CLIENTS, async move {
            while clients.world.now() < end {
                let pause = Duration::from_nanos(rng.u64(..=pause_max.as_nanos() as u64));
                clients.world.sleep(pause).await;
                let (at, shard) =
                    (clients.random_node(&mut rng), ShardId(rng.u32(..clients.shards)));
                let way = way_to(&clients.cluster.borrow(), at, shard, &mut rng);
                let Some(way) = way else { continue };
                let known = committed(shard);
                let Some(Ok(status)) = clients.in_time(way.status(shard)).await else { continue };
                clients.world.count("reads.status");
                let leads = status.role == Role::Leader && status.commit >= known;
                if !leads || status.applied < known {
                    let wrong =
                        format!("{known} was committed, and node {} says: {status:?}", at + 1);
                    clients.wrong.borrow_mut().get_or_insert(wrong);
                }
            }
        });
    }

    /// The way between client and node. Without jitter where clients do things at once.
    async fn way(&self, rng: &mut Rng) {
        let micros = if self.burst.is_zero() { rng.u64(20..500) } else { 20 };
        self.world.sleep(Duration::from_micros(micros)).await;
    }

    async fn attempt(&self, way: &Way, request: &Request) -> Attempt {
        if request.write {
            let (shard, payload) = (request.shard, request.payload.clone());
            match self.in_time(way.propose(shard, payload)).await {
                Some(Ok(committed)) => Attempt::Ended(Outcome::Replied(committed.reply)),
                Some(Err(ProposeError::NotLeader { leader, .. })) => Attempt::Again(leader),
                Some(Err(
                    ProposeError::Overloaded(_)
                    | ProposeError::NoSpace
                    | ProposeError::ShuttingDown
                    | ProposeError::UnknownShard(_),
                )) => Attempt::Again(None),
                Some(Err(ProposeError::TooLarge { .. })) => Attempt::Ended(Outcome::Refused),
                Some(Err(ProposeError::OutcomeUnknown { .. } | ProposeError::StorageFailed(_)))
                | None => Attempt::Ended(Outcome::Unknown),
            }
        } else {
            match self.in_time(way.query(request)).await {
                Some(Ok(reply)) => Attempt::Ended(Outcome::Replied(reply)),
                Some(Err(QueryError::NotLeader { leader, .. })) => Attempt::Again(leader),
                // A read changes nothing.
                Some(Err(_)) | None => Attempt::Again(None),
            }
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        match select(pin!(answer), self.world.sleep(self.request_timeout)).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }
}

/// The way to the core that has a shard on a node, one of the two that there are.
fn way_to(cluster: &Cluster, at: usize, shard: ShardId, rng: &mut Rng) -> Option<Way> {
    match rng.bool() {
        true => cluster.core_of(at, shard).map(Way::Mailbox),
        false => cluster.handle_of(at, shard).map(Way::Handle),
    }
}

fn show(outcome: &Outcome) -> String {
    const SHOWN: usize = 40;
    match outcome {
        Outcome::Replied(reply) if reply.len() <= SHOWN => reply.escape_ascii().to_string(),
        Outcome::Replied(reply) => {
            format!("{}... ({} bytes)", reply[..SHOWN].escape_ascii(), reply.len())
        }
        Outcome::Refused => "refused".to_owned(),
        Outcome::Unknown => "nobody knows".to_owned(),
    }
}
