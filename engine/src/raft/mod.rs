//! The Raft core of one shard: one event in, effects out.
//!
//! # The protocol
//! The replicas of a shard keep equal logs. Time is cut into terms; each term has at most one leader,
//! which alone appends. A **follower** that hears nothing from a leader for one to two election
//! timeouts becomes a **pre-candidate**: it asks whether it would win, and nobody's term changes. If
//! a majority says yes it becomes a **candidate**: it enters the next term, votes for itself, and
//! asks for votes once both are durable. A majority of votes makes it **leader**. Nobody answers
//! such questions while a leader was heard within the last election timeout; a leader that can't
//! hear a majority for that long steps down.
//!
//! A leader begins its term with an empty entry (no-op). It sends entries to followers at once, in
//! parallel with its own write. Each append names the position before its entries; a follower that
//! has that position takes the entries, cutting its own log only where terms differ, and acknowledges
//! what the message proved once it is durable. A follower that lacks the position says so with a
//! hint, both sides skip whole terms, and the leader probes again. An entry of the leader's term that
//! is durable on a majority is committed, and everything before it. Followers learn the commit index
//! with the next append or heartbeat.
//!
//! Reads without log entries: the leader notes its commit index, sends a numbered round of heartbeats
//! and, when a majority has answered that round or a later one, the reads that came before the
//! round may be answered from any state at that index or later. Other replicas may ask the leader for such an index, and
//! answer reads from their own state: see `reads.rs`. With leases, if they are turned on, the answers
//! to heartbeats also say for how long nobody else can lead, and reads within that time need no round: see `lease.rs`.
//!
//! A leader that is to go hands over to a follower of choice: it holds proposals back until that one has everything,
//! and tells it to campaign at once; see `transfer.rs`.
//!
//! A shard with nothing to do can fall asleep, so that it costs nothing: see `quiescence.rs`.
//!
//! The core keeps the newest entries in memory, and of all others where each term begins. What a follower
//! lacks is sent from memory, or fetched by the caller and then sent, or, if a snapshot has taken its place,
//! offered as that snapshot, which the follower's caller pulls. A replica that comes back without its data takes part,
//! but neither votes nor counts until the others have committed an entry that readmits it.
//!
//! Who belongs to the shard is an entry of the log, in force from when it is appended; who may change it and when
//! is told in `reconfigure.rs`, what a change comes to in [`membership`].
//!
//! # What the caller does
//! 1. Build [`Raft::new`] from the recovered hard state and log, all of which is durable. If a snapshot is
//!    there, step [`Event::Snapshot`] with the newest one before anything else. If nothing at all is there, set
//!    [`Config::blank`].
//! 2. Give every event to [`Raft::step`]: ticks, proposals, messages, reads, lost and regained
//!    connections. Then act on the [`Effects`], after one step or several:
//! 3. Store [`Effects::base`], [`Effects::hard_state`] and [`Effects::entries`] as one batch. Batches become durable in
//!    the order in which they were handed out, or at least are treated as durable only in that order.
//!    Stored entries at or above the index of the first new one are replaced by it.
//! 4. Send [`Effects::messages`] at once, before the batch is durable. Messages may be lost, repeated
//!    and reordered.
//! 5. When the batch and all before it are durable, send [`Effects::after_durable`] and step
//!    [`Event::Durable`] with the batch's [`Effects::write_mark`]. A message addressed to this replica itself is
//!    given to `step` like any other. A batch that could not be stored is never reported; its replica
//!    must not go on.
//! 6. Apply entries up to [`Effects::committed`], in order, [`EntryKind::Normal`] ones only.
//! 7. Answer a proposal when its entry, by index *and term*, is applied. When [`Effects::soft_state`]
//!    says that the replica no longer leads that term, the outcome is unknown: say so. Answer a read
//!    when everything up to its index is applied.
//! 8. Stop the shard and raise an alarm on [`Effects::fault`].
//! 9. Read what [`Effects::fetches`] asks for and step [`Event::Fetched`] or [`Event::FetchFailed`]. Read entries
//!    that were evicted to apply them.
//! 10. Make snapshots of what is applied and step [`Event::Snapshot`] when one is durable. Keep memory small with
//!     [`Raft::evict_to`], and the disk with [`Raft::compact_to`], whose base is to be stored; keep the snapshots in
//!     [`Raft::offered`] and the log behind them, as long as there is space.
//! 11. Pull the snapshot in [`Effects::offered`], which is repeated with heartbeats. When it is durable, and if
//!     [`Raft::needs_snapshot`] still says so, give it to the state machine and step [`Event::Installed`]. Entries
//!     up to its index need not be applied any more.
//! 12. Connect to the members that [`Effects::configuration`] names. A snapshot says who belongs to the shard at its
//!     index ([`RaftLog::configuration_at`]), and gives it back with both events; at start the log is given
//!     what it says of configurations ([`RaftLog::with_configurations`]).
//!
//! ```
//! use std::time::Duration;
//! use coracle_engine::raft::{Config, Effects, Event, HardState, Raft, RaftLog, Role};
//! use coracle_engine::NodeId;
//!
//! let config = Config::new(NodeId(1), vec![NodeId(1)], 42);
//! let mut raft = Raft::new(config, HardState::default(), RaftLog::empty(), Duration::ZERO)?;
//! let mut effects = Effects::default();
//! raft.step(Event::Tick { now: Duration::from_millis(1) }, &mut effects);
//! assert_eq!(raft.role(), Role::Candidate);
//! // Store effects.hard_state durably; only then does the replica's own vote reach it.
//! let own_vote = effects.after_durable.pop().expect("a vote for itself");
//! effects.clear();
//! raft.step(Event::Message { from: own_vote.0, message: own_vote.1 }, &mut effects);
//! assert_eq!(raft.role(), Role::Leader);
//! # Ok::<(), coracle_engine::raft::StartError>(())
//! ```
//!
//! # What is not here yet
//! Repair of a replica that lost only part of its data.

mod config;
mod configurations;
mod effects;
mod election;
mod follower;
mod leader;
mod lease;
mod log;
pub mod membership;
mod message;
mod priority;
mod progress;
mod quiescence;
pub mod quorum;
mod reads;
mod reconfigure;
mod replica;
mod returning;
mod snapshots;
mod transfer;

pub use config::{Config, StartError};
pub use effects::{
    Base, Effects, Event, Fault, Fetch, Proposed, ReconfigureRefusal, Reconfigured, Refusal, Role,
    SoftState, TransferOutcome, TransferRefusal, WriteMark,
};
pub use lease::LeaseConfig;
pub use log::RaftLog;
pub use message::{
    Append, AppendOutcome, AppendReply, Census, CensusReply, CommitMark, Entry, EntryKind,
    HardState, Heartbeat, HeartbeatReply, Message, PreVote, PreVoteReply, Quiesce, Quiesced,
    ReadIndex, ReadIndexReply, Readmission, SnapshotOffer, Standing, TimeoutNow, Vote, VoteReply,
};
pub use reconfigure::{Membership, Readiness};
pub use replica::{FollowerStatus, Raft, Status};
