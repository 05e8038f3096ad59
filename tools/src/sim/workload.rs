//! What clients ask of a simulated cluster, and which answers are wrong: the part that users bring.
//!
//! A [`Workload`] gives the state machine of each shard, makes up operations, and is told how each ended.
//! It keeps the history and judges it. The simulator does the rest: it finds the leader, tries again what
//! was certainly not done, and reports what may have been done as unknown.
//!
//! The smallest one that is of use, a counter for each shard:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//!
//! use bytes::{BufMut, Bytes, BytesMut};
//! use coracle_engine::{Apply, ShardId, StateMachine};
//! use coracle_tools::sim::{Ask, Campaign, Outcome, Request, Then, Workload};
//!
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, _: Apply<'_>, reply: &mut BytesMut) {
//!         self.0 += 1;
//!         reply.put_u64(self.0);
//!     }
//!     fn query(&self, _: &Bytes, reply: &mut BytesMut) {
//!         reply.put_u64(self.0);
//!     }
//! }
//!
//! #[derive(Default)]
//! struct Increments {
//!     /// What each client waits for: the shard, and the least that the counter has to be.
//!     asked: BTreeMap<u32, (ShardId, u64)>,
//!     /// The highest count that anybody was told, by shard.
//!     told: BTreeMap<ShardId, u64>,
//! }
//!
//! impl Increments {
//!     fn request(&mut self, client: u32, shard: ShardId, write: bool) -> Request {
//!         let told = self.told.get(&shard).copied().unwrap_or(0);
//!         // A write comes after all that was told before it began; a read sees it.
//!         self.asked.insert(client, (shard, told + u64::from(write)));
//!         Request { shard, payload: Bytes::new(), write, staleness: None }
//!     }
//! }
//!
//! impl Workload for Increments {
//!     fn machine(&self, _: ShardId) -> Box<dyn StateMachine> {
//!         Box::new(Counter::default())
//!     }
//!     fn next(&mut self, ask: Ask<'_>) -> (String, Request) {
//!         let shard = ShardId(ask.rng.u32(..ask.shards));
//!         let write = ask.rng.bool();
//!         let words = format!("{} counter {shard}", if write { "increment" } else { "read" });
//!         (words, self.request(ask.client, shard, write))
//!     }
//!     fn ended(&mut self, client: u32, _: Duration, outcome: Outcome) -> Result<Then, String> {
//!         if let (Outcome::Replied(reply), Some((shard, least))) = (outcome, self.asked.remove(&client)) {
//!             let count = reply[..].try_into().map_or(0, u64::from_be_bytes);
//!             if count < least {
//!                 return Err(format!("the counter of shard {shard} was {count}, not {least} or more"));
//!             }
//!             let told = self.told.entry(shard).or_default();
//!             *told = (*told).max(count);
//!         }
//!         Ok(Then::Done)
//!     }
//!     fn final_read(&mut self, number: usize, ask: Ask<'_>) -> Option<(String, Request)> {
//!         let shard = ShardId(number as u32);
//!         (shard.0 < ask.shards)
//!             .then(|| (format!("read counter {shard}"), self.request(ask.client, shard, false)))
//!     }
//!     fn verdict(&mut self) -> Result<(), String> {
//!         Ok(()) // every answer was judged when it came
//!     }
//! }
//!
//! match Campaign::of(20).check(|_settings, _world| Increments::default()) {
//!     Ok(total) => println!("{total}"),
//!     Err(found) => panic!("{found}"),
//! }
//! ```
//!
//! `tools/examples/own_state_machine.rs` is a longer one, with two bugs to find.
//!
//! # Duties
//! - **Same seed, same run.** All chance comes from [`Ask::rng`], all time from the arguments. No hash
//!   map is iterated, no file read, no thread started: a run that goes another way the second time is
//!   reported as a violation of `determinism`.
//! - **[`Outcome::Unknown`] is not a failure.** The request may have been done, or be done later, or never.
//!   A judge that takes it for "not done" reports bugs that are none. To ask again, the machine has to
//!   know the request by an id of its own.
//! - **The judge must not know too much.** Clients work at the same time: one that asks before another one was
//!   answered may see the state before or after it.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::{ShardId, StateMachine};
use fastrand::Rng;

/// What a client is about to do something with.
pub struct Ask<'a> {
    /// Which client asks, from 0.
    pub client: u32,
    /// Shards of the cluster.
    pub shards: u32,
    /// Time since the beginning.
    pub now: Duration,
    /// Wall clock of the node that the client talks to, milliseconds since 1970; it may jump.
    pub unix_ms: u64,
    /// Randomness of this client.
    pub rng: &'a mut Rng,
}

/// A request to one shard.
#[derive(Clone, Debug)]
pub struct Request {
    /// The shard.
    pub shard: ShardId,
    /// What the state machine gets.
    pub payload: Bytes,
    /// Whether it goes through the log (`apply`) or only reads (`query`).
    pub write: bool,
    /// A read that any replica may answer, from a state at most so old, by the clock of its node. It is asked for once,
    /// of one node. `None`: it is linearizable.
    pub staleness: Option<Duration>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this reply.
    Replied(Bytes),
    /// It was certainly not done.
    Refused,
    /// It may have been done, or be done later.
    Unknown,
}

/// What follows a reply.
#[derive(Clone, Debug)]
pub enum Then {
    /// The operation is over.
    Done,
    /// The same operation goes on with another request.
    Ask(Request),
}

/// Clients and their judge. See the [module](self).
pub trait Workload: 'static {
    /// The state machine of a shard, empty.
    fn machine(&self, shard: ShardId) -> Box<dyn StateMachine>;

    /// The next operation of a client, in words for the story, and its first request.
    fn next(&mut self, ask: Ask<'_>) -> (String, Request);

    /// How a client's request ended. A client does one thing at a time.
    ///
    /// # Errors
    /// What is wrong with the answer, in words.
    fn ended(&mut self, client: u32, now: Duration, outcome: Outcome) -> Result<Then, String>;

    /// Reads that show the whole state, asked one after another when all faults are over. Each is answered
    /// through [`Workload::ended`], as an operation of client `ask.client`. `None` after the last one.
    fn final_read(&mut self, number: usize, ask: Ask<'_>) -> Option<(String, Request)>;

    /// Whether all has happened that the state machines do by themselves, by their hooks. Waited for at the end of a
    /// run, when all faults are over.
    fn is_done(&self) -> bool {
        true
    }

    /// Judges the whole history, the final reads included.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn verdict(&mut self) -> Result<(), String>;
}
