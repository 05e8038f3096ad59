//! What a node answers to the requests of its admin port.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_engine::core::{CoreStatus, ShardStatus};
use coracle_engine::raft::membership::{Change, NodeSet, Reconfiguration, Transition};
use coracle_engine::raft::{self, FollowerStatus, ReconfigureRefusal, TransferRefusal};

use super::AdminOptions;
use super::limits::{CHANGES_MAX, WAIT_DEFAULT, WAIT_MAX};
use super::protocol::{
    Answer, CoreInfo, Envelope, Failure, FailureKind, FollowerInfo, FollowerState, MemberChange,
    NodeStatus, PROTOCOL, ReplicaInfo, Reply, Request, Role,
};
use super::settings::{self, LOG};
use super::wait::wait_until;
use crate::{
    Member, NodeHandle, NodeId, ReconfigureError, ShardId, SnapshotRequestError, TransferError,
};

/// A node, for those who administer it.
pub(super) struct Administered {
    pub(super) handle: NodeHandle,
    pub(super) options: AdminOptions,
}

impl Administered {
    /// Does what is asked, waiting for the outcome for a bounded time.
    pub(super) fn answer(&self, envelope: Envelope) -> Reply {
        let wait = envelope.wait_ms.map_or(WAIT_DEFAULT, Duration::from_millis).min(WAIT_MAX);
        let deadline = Instant::now() + wait;
        let result = self.check_recipient(&envelope);
        match result.and_then(|()| self.carry_out(envelope.request, deadline)) {
            Ok(answer) => Reply::Ok(answer),
            Err(failure) => Reply::Error(failure),
        }
    }

    fn check_recipient(&self, envelope: &Envelope) -> Result<(), Failure> {
        let (own, cluster) = (self.handle.id().0, self.handle.cluster_id());
        let refused = |message| Err(Failure::new(FailureKind::Invalid, message));
        if envelope.protocol != PROTOCOL {
            return refused(format!(
                "this node speaks version {PROTOCOL} of the admin protocol, not {}; use the \
                 coraclectl that came with it",
                envelope.protocol
            ));
        }
        if let Some(meant) = envelope.cluster.as_deref().filter(|meant| *meant != cluster) {
            return refused(format!("this is a node of cluster {cluster}, not of {meant}"));
        }
        if let Some(meant) = envelope.node.filter(|meant| *meant != own) {
            return refused(format!("this is node {own}, not node {meant}"));
        }
        Ok(())
    }

    fn carry_out(&self, request: Request, deadline: Instant) -> Result<Answer, Failure> {
        match request {
            Request::Status => Ok(Answer::Status(Box::new(self.status(deadline)?))),
            Request::Members => Ok(Answer::Members(self.members(deadline)?)),
            Request::Shards => {
                let cores = self.cores(deadline)?;
                let all =
                    cores.iter().flat_map(|core| core.shards.iter().map(move |s| (core.core, s)));
                Ok(Answer::Shards(all.map(|(core, shard)| replica_info(core.0, shard)).collect()))
            }
            Request::Reconfigure { shard, changes } => self.reconfigure(shard, &changes, deadline),
            Request::Transfer { shard, to } => {
                let done = self.handle.transfer_leadership(ShardId(shard), to.map(NodeId));
                let done = within(deadline, done)?;
                let leader = done.map_err(|error| self.transfer_failure(&error, deadline))?;
                Ok(Answer::Transferred { leader: leader.0 })
            }
            Request::Drain => {
                let reports = within(deadline, self.handle.drain())?;
                let handed_over = reports.iter().map(|report| report.handed_over as u64).sum();
                let kept = reports.iter().flat_map(|report| &report.kept);
                Ok(Answer::Drained { handed_over, kept: kept.map(|shard| shard.0).collect() })
            }
            Request::Snapshot { shard } => {
                let taken = within(deadline, self.handle.snapshot(ShardId(shard)))?;
                let index = taken.map_err(|error| snapshot_failure(&error))?;
                Ok(Answer::Snapshot { index: index.0 })
            }
            Request::Settings => Ok(Answer::Settings(self.settings(&self.cores(deadline)?))),
            Request::Set { name, value } => self.set(&name, &value, deadline),
            Request::AddMember { member } => {
                let member: Member = member.parse().map_err(|error| refused(&error))?;
                self.add_member(&member, deadline)
            }
            Request::RemoveMember { id } => self.remove_member(NodeId(id), deadline),
        }
    }

    fn cores(&self, deadline: Instant) -> Result<Vec<CoreStatus>, Failure> {
        within(deadline, self.handle.status())
    }

    fn status(&self, deadline: Instant) -> Result<NodeStatus, Failure> {
        let cores = self.cores(deadline)?;
        Ok(NodeStatus {
            cluster: self.handle.cluster_id().to_owned(),
            node: self.handle.id().0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: self.handle.shards(),
            election_timeout_ms: u64::try_from(self.handle.election_timeout().as_millis())
                .unwrap_or(u64::MAX),
            drained: cores.iter().any(|core| core.settings.drained),
            stalled: cores.iter().any(|core| core.settings.stalled),
            settings: self.settings(&cores),
            cores: cores.iter().map(core_info).collect(),
        })
    }

    /// All cores go by the same values.
    fn settings(&self, cores: &[CoreStatus]) -> BTreeMap<String, String> {
        let first = cores.first().map(|core| settings::by_name(&core.settings));
        let mut all = first.unwrap_or_default();
        all.extend(self.options.log.as_ref().map(|log| (LOG.to_owned(), log.get())));
        all
    }

    fn set(&self, name: &str, value: &str, deadline: Instant) -> Result<Answer, Failure> {
        if name == LOG {
            let Some(log) = &self.options.log else {
                return Err(refused("the log of this process is not ours to filter"));
            };
            log.set(value).map_err(refused)?;
            tracing::info!("the log filter is '{value}' now");
            return Ok(Answer::Done);
        }
        let setting = settings::parse(name, value).map_err(refused)?;
        within(deadline, self.handle.set(setting))?.map_err(refused)?;
        Ok(Answer::Done)
    }

    fn reconfigure(
        &self,
        shard: u32,
        changes: &[MemberChange],
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        if changes.len() > CHANGES_MAX {
            return Err(refused(format!("more than {CHANGES_MAX} changes at once")));
        }
        let changes: Vec<Change> = changes.iter().map(|change| change_of(*change)).collect();
        let change = match changes.is_empty() {
            true => Reconfiguration::Leave,
            false => Reconfiguration::Change { changes, transition: Transition::Auto },
        };
        let made = within(deadline, self.handle.reconfigure(ShardId(shard), change))?;
        let position = made.map_err(|error| self.reconfigure_failure(&error, deadline))?;
        Ok(Answer::Reconfigured { term: position.term.0, index: position.index.0 })
    }

    /// Nothing was done because another node leads.
    fn not_leader(&self, leader: Option<NodeId>, message: String, deadline: Instant) -> Failure {
        let leader = leader.map(|leader| leader.0);
        let members = self.members(deadline).unwrap_or_default();
        let of_leader = members.into_iter().find(|m| Some(m.id) == leader && !m.removed);
        let admin = of_leader.and_then(|member| member.admin);
        Failure { leader, admin, ..Failure::new(FailureKind::NotLeader, message) }
    }

    fn reconfigure_failure(&self, error: &ReconfigureError, deadline: Instant) -> Failure {
        let message = error.to_string();
        let kind = match error {
            ReconfigureError::NotLeader { leader, .. } => {
                return self.not_leader(*leader, message, deadline);
            }
            ReconfigureError::Refused { refusal, .. } => match refusal {
                ReconfigureRefusal::NotLeader { leader } => {
                    return self.not_leader(*leader, message, deadline);
                }
                ReconfigureRefusal::Change(_) => FailureKind::Refused,
                ReconfigureRefusal::TermNotCommitted
                | ReconfigureRefusal::Transferring { .. }
                | ReconfigureRefusal::UnderWay { .. }
                | ReconfigureRefusal::NotReady { .. }
                | ReconfigureRefusal::NoQuorum
                | ReconfigureRefusal::TooMany { .. } => FailureKind::NotYet,
            },
            ReconfigureError::OutcomeUnknown { .. } => FailureKind::Unknown,
            ReconfigureError::Overloaded(_) | ReconfigureError::ShuttingDown => FailureKind::NotYet,
            ReconfigureError::StorageFailed(_) | ReconfigureError::UnknownShard(_) => {
                FailureKind::Refused
            }
        };
        Failure::new(kind, message)
    }

    fn transfer_failure(&self, error: &TransferError, deadline: Instant) -> Failure {
        let message = error.to_string();
        let kind = match error {
            TransferError::NotLeader { leader, .. } | TransferError::Lost { leader, .. } => {
                return self.not_leader(*leader, message, deadline);
            }
            TransferError::Refused { reason, .. } => match reason {
                TransferRefusal::NotAVoter { .. } => FailureKind::Refused,
                TransferRefusal::NotLeader { .. }
                | TransferRefusal::UnderWay { .. }
                | TransferRefusal::Returning { .. }
                | TransferRefusal::Silent { .. }
                // It may have been started again since it said so.
                | TransferRefusal::Declines { .. }
                | TransferRefusal::NobodyElse => FailureKind::NotYet,
            },
            TransferError::TimedOut { .. }
            | TransferError::Overloaded(_)
            | TransferError::ShuttingDown => FailureKind::NotYet,
            TransferError::Stopped(_) | TransferError::UnknownShard(_) => FailureKind::Refused,
        };
        Failure::new(kind, message)
    }
}

pub(super) fn refused(message: impl ToString) -> Failure {
    Failure::new(FailureKind::Refused, message.to_string())
}

pub(super) fn within<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Failure> {
    let late = "it takes longer than was to be waited; it may still happen, look again";
    wait_until(deadline, future).ok_or_else(|| Failure::new(FailureKind::Unknown, late))
}

fn snapshot_failure(error: &SnapshotRequestError) -> Failure {
    let kind = match error {
        SnapshotRequestError::Abandoned { .. }
        | SnapshotRequestError::Overloaded(_)
        | SnapshotRequestError::ShuttingDown => FailureKind::NotYet,
        SnapshotRequestError::Unsupported(_)
        | SnapshotRequestError::NoSpace(_)
        | SnapshotRequestError::StorageFailed(_)
        | SnapshotRequestError::UnknownShard(_) => FailureKind::Refused,
    };
    Failure::new(kind, error.to_string())
}

fn change_of(change: MemberChange) -> Change {
    match change {
        MemberChange::AddVoter(id) => Change::AddVoter(NodeId(id)),
        MemberChange::AddLearner(id) => Change::AddLearner(NodeId(id)),
        MemberChange::Remove(id) => Change::Remove(NodeId(id)),
    }
}

fn core_info(core: &CoreStatus) -> CoreInfo {
    let led = core.shards.iter().filter(|shard| shard.role == raft::Role::Leader).count();
    CoreInfo {
        core: core.core.0,
        shards: u32::try_from(core.shards.len()).unwrap_or(u32::MAX),
        led: u32::try_from(led).unwrap_or(u32::MAX),
        returning: core.counters.shards_returning,
        halted: core.counters.shards_halted,
        proposals: core.counters.proposals,
        log_memory_bytes: core.counters.log_memory_bytes,
        disk_bytes: core.counters.disk_bytes,
        storage_failure: core.storage_failure.clone(),
    }
}

fn ids(nodes: &NodeSet) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn replica_info(core: u16, status: &ShardStatus) -> ReplicaInfo {
    let configuration = &status.configuration;
    ReplicaInfo {
        shard: status.shard.0,
        core,
        role: match status.role {
            raft::Role::Follower => Role::Follower,
            raft::Role::PreCandidate | raft::Role::Candidate => Role::Candidate,
            raft::Role::Leader => Role::Leader,
        },
        term: status.term.0,
        leader: status.leader.map(|leader| leader.0),
        commit: status.commit.0,
        applied: status.applied.0,
        last: status.last.0,
        voters: ids(configuration.incoming()),
        outgoing: ids(configuration.outgoing()),
        learners: ids(configuration.learners()),
        learners_next: ids(configuration.learners_next()),
        auto_leave: configuration.auto_leave(),
        settled: status.configuration_committed,
        followers: status.followers.iter().map(follower_info).collect(),
        halted: status.halted.clone(),
    }
}

fn follower_info(follower: &FollowerStatus) -> FollowerInfo {
    let state = match follower {
        _ if follower.returning.is_some() => FollowerState::Returning,
        _ if follower.snapshot => FollowerState::Snapshot,
        _ if follower.replicating => FollowerState::Replicating,
        _ => FollowerState::Probing,
    };
    FollowerInfo { node: follower.id.0, matched: follower.matched.0, state }
}
