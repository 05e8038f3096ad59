//! Leadership of the shards of a core: handing over one, and all of them before a stop.
//!
//! # What clients notice of a transfer
//! From the moment when the leader takes no more proposals (`raft/transfer.rs`) until it is known who leads, the
//! shard *holds* what comes in: proposals, up to [`Limits::uncommitted_bytes_max`](crate::limits::Limits) of them,
//! and queries, up to the limit that they have anyway. The view of the cluster goes on naming this node meanwhile.
//! Then all of it goes the usual way: to Raft if this replica leads after all, else back with the name of the
//! leader. So a client sees a redirection and no error, unless nobody leads an election timeout later.
//!
//! Proposals that are in the log already are answered as always: the successor has them, and commits them.
//!
//! # Drain
//! A core that drains declines to lead for the rest of its life, and hands over each shard that it leads to whoever
//! can take over soonest. What fails is tried again with the next tick, as long as there is time:
//! [`DRAIN_ELECTION_TIMEOUTS`]. Shards without other voters stay. Then it reports, or stops, as it was asked to.

use std::time::Duration;

use futures_channel::oneshot;

use super::run::Core;
use super::shard::Shard;
use crate::env::Env;
use crate::limits::{DRAIN_ANSWERS_MAX, DRAIN_ELECTION_TIMEOUTS};
use crate::raft::{Event, Role, TransferOutcome, TransferRefusal};
use crate::{NodeId, ShardId, TransferError};

pub(crate) type TransferAnswer = oneshot::Sender<Result<NodeId, TransferError>>;

/// What came of draining a core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Shards that were led here and are not any more.
    pub handed_over: usize,
    /// Shards that are still led here: nobody else could take over in time.
    pub kept: Vec<ShardId>,
}

/// Transfers of one shard that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    last_id: u64,
    waiting: Vec<(u64, TransferAnswer)>,
}

impl Transfers {
    /// Answers everybody.
    pub(super) fn fail(&mut self, error: &TransferError) {
        for (_, answer) in self.waiting.drain(..) {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

impl Shard {
    /// Hands over leadership; `None` if nobody waits for the outcome.
    pub(super) fn transfer(&mut self, to: Option<NodeId>, answer: Option<TransferAnswer>) {
        self.transfers.last_id += 1;
        let id = self.transfers.last_id;
        self.transfers.waiting.extend(answer.map(|answer| (id, answer)));
        self.step(Event::TransferLeadership { id, to });
    }

    /// Answers those whose transfers have ended.
    pub(super) fn end_transfers(&mut self) {
        for (id, outcome) in std::mem::take(&mut self.effects.transfers) {
            tracing::debug!(shard = %self.id, ?outcome, "a transfer of leadership has ended");
            let waiting = &mut self.transfers.waiting;
            let Some(at) = waiting.iter().position(|(waits, _)| *waits == id) else { continue };
            let (_, answer) = waiting.swap_remove(at);
            let shard = self.id;
            let _ = answer.send(match outcome {
                TransferOutcome::Done { leader } => Ok(leader),
                TransferOutcome::TimedOut { to } => Err(TransferError::TimedOut { shard, to }),
                TransferOutcome::Lost { leader } => Err(TransferError::Lost { shard, leader }),
                TransferOutcome::Refused(TransferRefusal::NotLeader { leader }) => {
                    Err(TransferError::NotLeader { shard, leader })
                }
                TransferOutcome::Refused(reason) => Err(TransferError::Refused { shard, reason }),
            });
        }
    }

    /// Whether leadership could be handed over and is not.
    fn is_led_here(&self) -> bool {
        let leads = self.halted().is_none() && self.raft.role() == Role::Leader;
        leads && !self.raft.is_only_voter()
    }
}

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// When it is given up.
    until: Duration,
    /// Shards that were led here when it began.
    led: usize,
    /// At most [`DRAIN_ANSWERS_MAX`].
    answers: Vec<oneshot::Sender<DrainReport>>,
    stops: bool,
}

impl<E: Env> Core<E> {
    /// Begins to hand over everything, for `answer` or before a stop.
    pub(super) fn begin_drain(&mut self, answer: Option<oneshot::Sender<DrainReport>>) {
        let timeout = self.config.election_timeout * DRAIN_ELECTION_TIMEOUTS;
        let until = self.env.now() + timeout;
        let led = self.shards.iter().filter(|shard| shard.is_led_here()).count();
        self.shards.iter_mut().for_each(|shard| shard.raft.decline());
        self.drained = true;
        let drain =
            self.drain.get_or_insert(Drain { until, led, answers: Vec::new(), stops: false });
        drain.stops |= answer.is_none();
        if drain.answers.len() < DRAIN_ANSWERS_MAX {
            drain.answers.extend(answer);
        }
        self.hand_over_all();
    }

    /// Begins to hand over every shard that is led here and not being handed over.
    pub(super) fn hand_over_all(&mut self) {
        if self.failed {
            return;
        }
        for at in 0..self.shards.len() {
            let shard = &self.shards[at];
            if shard.is_led_here() && shard.raft.transferring_to().is_none() {
                self.touch(at);
                self.shards[at].transfer(None, None);
            }
        }
    }

    /// At the end of each turn: whether everything is handed over, or time is up.
    pub(super) fn look_after_drain(&mut self) {
        let Some(drain) = &self.drain else { return };
        let is_left = |shard: &&Shard| shard.is_led_here();
        let busy = |shard: &Shard| shard.is_led_here() || shard.raft.transferring_to().is_some();
        let late = self.env.now() >= drain.until || self.failed;
        if !late && self.shards.iter().any(busy) {
            return;
        }
        let kept: Vec<ShardId> = self.shards.iter().filter(is_left).map(|shard| shard.id).collect();
        let report = DrainReport { handed_over: drain.led.saturating_sub(kept.len()), kept };
        sometimes!(drain_kept, !report.kept.is_empty());
        sometimes!(drain_done, report.kept.is_empty() && report.handed_over > 0);
        tracing::info!(core = %self.config.core, ?report, "drained");
        let Some(drain) = self.drain.take() else { return };
        for answer in drain.answers {
            let _ = answer.send(report.clone());
        }
        if drain.stops {
            self.inbox.begin_stop();
        }
    }
}
