//! What clients ask of a simulated cluster, and which answers are wrong: the part that users bring.
//!
//! A [`Workload`] gives the state machine of each shard, makes up operations, and is told how each ended.
//! It keeps the history and judges it. The simulator does the rest: it finds the leader, tries again what
//! was certainly not done, and reports what may have been done as unknown.

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

/// Clients and their judge.
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

    /// Judges the whole history, the final reads included.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn verdict(&mut self) -> Result<(), String>;
}
