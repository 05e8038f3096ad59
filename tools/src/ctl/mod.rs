//! `coraclectl`: looks after a cluster through the admin ports of its nodes.
//!
//! ```text
//! args -> commands -> session -------- admin port of each node (one operation on one node)
//!            |           |  look: what all nodes that answer say
//!            |           v
//!            |        cluster -> plan: what each shard needs next (pure)
//!            v                     |
//!          show <----- drive <-----+ carry out, look again, until done or out of time
//! ```
//! A command that takes several steps is a *goal*: for each shard, which nodes are to vote, to learn, to be gone. It
//! looks at the cluster, does what brings it nearer, and looks again. Nothing is remembered between two looks, so that
//! leaders may change and nodes die meanwhile, and a command that ended half way goes on when it is run again.
//!
//! # When it ends
//! | exit code | meaning |
//! |---|---|
//! | 0 | it is done, or was done already |
//! | 1 | it is not done, or not all of it: the message says what is missing and what to do |
//! | 2 | the command line makes no sense |

pub mod args;
pub mod client;
pub mod cluster;
mod commands;
mod drive;
pub mod plan;
mod session;
pub mod show;

pub use commands::run;

use thiserror::Error;

/// Why a command was not done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CtlError {
    /// No node answers.
    #[error("no member answers: {0}; name the admin port of one that runs with --admin HOST:PORT")]
    NoContact(String),
    /// A node has to do it and does not answer.
    #[error("node {node} does not answer: {reason}")]
    NoAnswer {
        /// The node.
        node: coracle::NodeId,
        /// Why, and what to do.
        reason: String,
    },
    /// A node refused, and would refuse again.
    #[error("{0}")]
    Refused(String),
    /// The command does not fit the cluster.
    #[error("{0}")]
    Unfit(String),
    /// Time is up.
    #[error("not done after {seconds} s: {missing}; run the same command again to go on")]
    TimedOut {
        /// How long it tried.
        seconds: u64,
        /// What is missing.
        missing: String,
    },
}
