//! One core of a node: its shards, its log, its connections to the cores of its peers.
//!
//! # The loop
//! A core has one FIFO queue of events (`inbox.rs`), a mailbox for letters of other threads
//! (`mailbox.rs`), a log and a set of links. Its loop ([`Core::run`]) does *turns*:
//!
//! 1. what the log made durable since the last turn is told to Raft, and the messages that waited for
//!    it are released;
//! 2. letters and events are taken in order; each goes to its shard, whose Raft core notes in its
//!    `Effects` what it wants done;
//! 3. for every shard touched: proposals and reads of the turn enter Raft together, and its messages
//!    go to the links; every link with something to say sends it, in one write;
//! 4. hard state and entries are appended to the log, one group for each shard, and what promises
//!    their durability is queued behind the log position of that group;
//! 5. what is committed is applied, and whoever waited for it is answered.
//!
//! Nothing calls backwards: the log, the links and the clients are other tasks, and what they have
//! to say comes as an event of a later turn.
//!
//! # When the log cannot take more
//! Raft may already have accepted what the log then refuses (its backlog is full, or the disk is).
//! Such groups are kept in order and tried again each turn; until they are in, nothing newer is
//! appended, no new proposal is accepted and no more entries are taken from peers, so that what is
//! kept is bounded by what one turn can produce. Votes and acknowledgements go on to queue behind it, up
//! to a limit at which peers are not listened to any more. A log that *failed* is another matter: the core
//! latches the failure, answers everybody, closes its links, disowns its shards and does nothing more.

mod cold;
mod detector;
mod disk_share;
mod events;
mod freshness;
mod handle;
mod hooks;
mod inbox;
mod installing;
mod leadership;
mod link;
mod liveness;
mod mailbox;
mod membership;
mod news;
mod observe;
mod open;
pub(crate) mod peers;
mod run;
mod settings;
mod shard;
mod siblings;
pub(crate) mod signal;
mod spread;
mod stall;
mod status;
mod storage;
mod taking;
pub mod testing;
mod tier_config;
mod tiers;
mod upkeep;
mod view;

pub use detector::{Detection, FailureDetector, Fixed, Phi};
pub use events::{ClusterEvent, ClusterEvents};
pub use handle::{Committed, Consistency, CoreHandle, Pending, Position};
pub use leadership::DrainReport;
pub use mailbox::{Mailbox, RemoteCore};
pub use membership::{MemberStatus, MemberUpdate};
pub use news::{MemberNews, NewsQueue, NewsReceiver};
pub use observe::{CoreView, Observer, Queues, ShardView};
pub use open::{CoreConfig, OpenError};
pub use run::Core;
pub use settings::{Setting, SettingError, Settings};
pub use status::{CoreCounters, CoreStatus, ShardStatus};
pub use tier_config::{DISK_SEGMENTS_MIN, TRANSFER_BYTES_PER_S_MIN, TierConfig};
pub use view::{ClusterView, MemberView, Replicas};

pub use crate::tier::{LogRecord, ReplayError, decode_record};
