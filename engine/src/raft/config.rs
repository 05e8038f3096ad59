//! What a replica is told at start: who it is, who votes, and its limits.

use std::time::Duration;

use thiserror::Error;

use super::lease::LeaseConfig;
use crate::limits::{
    APPEND_BYTES_MAX, APPEND_BYTES_MIN, FETCH_BYTES_MAX, INFLIGHT_BYTES_MAX, INFLIGHT_MESSAGES_MAX,
    PAYLOAD_BYTES_MAX, PRIORITY_MAX, READ_BATCHES_MAX, UNCOMMITTED_BYTES_MAX, VOTERS_MAX,
};
use crate::{LogIndex, NodeId, Term};

/// Settings of one replica of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The voters of the shard before its first entry, at most [`VOTERS_MAX`]; the same on all nodes for ever, also
    /// when others vote by now. What the log or a snapshot says counts more. Empty on a node that joins later:
    /// then the leader tells it who belongs to the shard.
    pub voters: Vec<NodeId>,
    /// A follower that hears nothing for this long, times a random factor of 1 to 2, campaigns; a
    /// leader that does not hear from a majority for this long steps down.
    pub election_timeout: Duration,
    /// How often a leader sends heartbeats; at most a third of the election timeout.
    pub heartbeat_interval: Duration,
    /// Append messages to one follower that may be unacknowledged.
    pub inflight_messages_max: usize,
    /// Bytes of entries to one follower that may be unacknowledged.
    pub inflight_bytes_max: usize,
    /// Bytes of entries in one append message to begin with, and the least that signs of loss leave.
    pub append_bytes_min: usize,
    /// Bytes of entries in one append message (one entry is always allowed).
    pub append_bytes_max: usize,
    /// Bytes of entries a leader accepts beyond its commit index before it refuses proposals.
    pub uncommitted_bytes_max: usize,
    /// Largest payload of one proposal; the owner of the replica lets no larger one in.
    pub payload_bytes_max: usize,
    /// Batches of reads that may wait for confirmation.
    pub read_batches_max: usize,
    /// Bytes of entries that are asked for at once when they have to be read for a follower.
    pub fetch_bytes_max: usize,
    /// Set if nothing at all was found on disk: a number drawn at random that tells this start from all
    /// others. The replica then finds out whether it is new or has lost its data, which takes an answer of
    /// every other voter, or a leader that speaks to it; [`Standing`](super::Standing) tells what follows. `None` with
    /// an empty log is the operator's word that this replica has never promised anything.
    pub blank: Option<u64>,
    /// Set if what was found on disk is damaged, so that this replica may lack what it acknowledged: a number
    /// as for `blank`. The log given with it begins anew, at 0 or at a snapshot. The replica takes no part and
    /// stores nothing until a leader is heard; then it gives up the old log and comes back as one that lost its
    /// data. So nothing is given up while it may be the last copy.
    pub damaged: Option<u64>,
    /// Whether a leader may answer reads without a round while it knows by the clock that nobody else leads. The
    /// same on all voters; `None` rests on no clock. The head of `lease.rs` has the rules.
    pub lease: Option<LeaseConfig>,
    /// How much this replica should rather lead than others: -[`PRIORITY_MAX`] to [`PRIORITY_MAX`], usually 0. One
    /// below 0 campaigns later; a leader hands over to a replica that has more than it has itself.
    pub priority: i8,
    /// Whether a shard with nothing to do falls asleep. Then the owner of this replica has to say when a node has
    /// fallen silent: see `quiescence.rs`.
    pub quiesce: bool,
    /// Seeds the election timeouts and the names of questions (`reads.rs`). May be the same on all nodes, for the node's
    /// id is mixed in, but another one at each start.
    pub random_seed: u64,
}

impl Config {
    /// The settings with default limits, an election timeout of 500 ms and heartbeats every 100 ms.
    #[must_use]
    pub fn new(id: NodeId, voters: Vec<NodeId>, random_seed: u64) -> Self {
        Self {
            id,
            voters,
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(100),
            inflight_messages_max: INFLIGHT_MESSAGES_MAX,
            inflight_bytes_max: INFLIGHT_BYTES_MAX,
            append_bytes_min: APPEND_BYTES_MIN,
            append_bytes_max: APPEND_BYTES_MAX,
            uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            read_batches_max: READ_BATCHES_MAX,
            fetch_bytes_max: FETCH_BYTES_MAX,
            blank: None,
            damaged: None,
            lease: None,
            priority: 0,
            quiesce: false,
            random_seed,
        }
    }

    /// Checks the settings against each other and against the limits.
    ///
    /// # Errors
    /// [`StartError::Config`] with what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), StartError> {
        let fail = |what: String| Err(StartError::Config(what));
        if self.id.0 == 0 || self.voters.len() > VOTERS_MAX {
            return fail(format!(
                "node {}, {} voters; a node is not 0, and at most {VOTERS_MAX} vote",
                self.id,
                self.voters.len()
            ));
        }
        for (place, voter) in self.voters.iter().enumerate() {
            if voter.0 == 0 || self.voters[..place].contains(voter) {
                return fail(format!("voter {voter} is named twice, or is 0"));
            }
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 3 > self.election_timeout
        {
            return fail(format!(
                "heartbeat interval {:?}: more than 0 and at most a third of the election timeout {:?}",
                self.heartbeat_interval, self.election_timeout
            ));
        }
        let least = self.append_bytes_min.max(1);
        if !(least..=APPEND_BYTES_MAX).contains(&self.append_bytes_max) {
            return fail(format!(
                "append_bytes_max {}: {least} to {APPEND_BYTES_MAX} are allowed",
                self.append_bytes_max
            ));
        }
        if self.inflight_messages_max == 0
            || self.inflight_bytes_max == 0
            || self.append_bytes_min == 0
        {
            return fail("the in-flight window has no room for a single message".to_owned());
        }
        if self.uncommitted_bytes_max < self.payload_bytes_max {
            return fail(format!(
                "uncommitted_bytes_max {}: at least one payload of {}",
                self.uncommitted_bytes_max, self.payload_bytes_max
            ));
        }
        if self.fetch_bytes_max == 0 {
            return fail("fetch_bytes_max is 0: nothing could be read for a follower".to_owned());
        }
        if let Some(lease) = self.lease
            && lease.duration(self.election_timeout) <= self.heartbeat_interval
        {
            return fail(format!(
                "lease with a drift of {} ppm: it would end before the next heartbeat; allow less drift, or \
                 more heartbeats per election timeout",
                lease.drift_ppm
            ));
        }
        if self.priority.unsigned_abs() > PRIORITY_MAX.unsigned_abs() {
            return fail(format!(
                "priority {}: -{PRIORITY_MAX} to {PRIORITY_MAX} are allowed",
                self.priority
            ));
        }
        if self.read_batches_max == 0 {
            return fail("no read may wait".to_owned());
        }
        Ok(())
    }
}

/// Why a replica can't start.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StartError {
    /// The settings contradict each other or a limit.
    #[error("bad Raft configuration: {0}")]
    Config(String),
    /// Two neighbouring entries of the stored log do not follow each other.
    #[error(
        "the stored log is damaged: entry {after} (term {after_term}) is followed by entry {found} \
         (term {found_term}); restore this replica from a copy"
    )]
    LogBroken {
        /// The last good entry.
        after: LogIndex,
        /// Its term.
        after_term: Term,
        /// The entry found next.
        found: LogIndex,
        /// Its term.
        found_term: Term,
    },
    /// The runs of terms of the stored log are not those of a log.
    #[error(
        "the stored log is damaged: term {term} is said to begin at {index} in a log from {base} to \
         {last}; restore this replica from a copy"
    )]
    TermsBroken {
        /// Where the run begins.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Base of the log.
        base: LogIndex,
        /// End of the log.
        last: LogIndex,
    },
    /// The stored log has an entry of a later term than the stored hard state.
    #[error(
        "the stored log ends in term {last}, but the stored hard state is of term {term}: the hard \
         state is older than the log; restore this replica from a copy"
    )]
    TermBehindLog {
        /// Term of the hard state.
        term: Term,
        /// Term of the last entry.
        last: Term,
    },
    /// The stored hard state knows of committed entries that the stored log does not have.
    #[error(
        "the stored log ends at {last}, but entries up to {commit} are known to be committed: the \
         log has lost entries; restore this replica from a copy"
    )]
    CommitBeyondLog {
        /// Commit index of the hard state.
        commit: LogIndex,
        /// Index of the last entry.
        last: LogIndex,
    },
}
