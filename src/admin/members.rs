//! The address book, as an admin port shows and changes it.

use std::time::Instant;

use coracle_engine::core::MemberStatus;
use coracle_engine::members::MemberRecord;
use coracle_engine::{AddMemberError, RemoveMemberError};

use super::answer::{Administered, refused, within};
use super::protocol::{Answer, Failure, FailureKind, MemberInfo};
use crate::{Member, NodeId};

impl Administered {
    /// The members that the node knows, and those that were removed.
    pub(super) fn members(&self, deadline: Instant) -> Result<Vec<MemberInfo>, Failure> {
        let all = within(deadline, self.handle.members())?;
        Ok(all.iter().map(member_info).collect())
    }

    pub(super) fn add_member(&self, member: &Member, end: Instant) -> Result<Answer, Failure> {
        let added = within(end, self.handle.add_member(member.record()))?;
        added.map(|_| Answer::Done).map_err(|error| add_failure(&error))
    }

    pub(super) fn remove_member(&self, id: NodeId, end: Instant) -> Result<Answer, Failure> {
        let removed = within(end, self.handle.remove_member(id, false))?;
        match removed {
            // Removing it is what was wanted.
            Ok(_) | Err(RemoveMemberError::Unknown(_)) => Ok(Answer::Done),
            Err(error) => Err(remove_failure(&error)),
        }
    }
}

fn member_info(member: &MemberStatus) -> MemberInfo {
    let MemberStatus { record, cores, up } = member;
    let MemberRecord { id, client_host, client_port, peer_host, peer_port, admin, .. } = record;
    MemberInfo {
        id: id.0,
        version: record.version,
        removed: record.removed,
        client: format!("{client_host}:{client_port}"),
        peer: format!("{peer_host}:{peer_port}"),
        admin: admin.clone(),
        cores: *cores,
        up: *up,
    }
}

fn add_failure(error: &AddMemberError) -> Failure {
    match error {
        AddMemberError::Full | AddMemberError::Flaw { .. } | AddMemberError::Storage { .. } => {
            refused(error)
        }
        AddMemberError::Overloaded(_) | AddMemberError::ShuttingDown => not_yet(error),
    }
}

fn remove_failure(error: &RemoveMemberError) -> Failure {
    match error {
        RemoveMemberError::Unknown(_) | RemoveMemberError::Storage { .. } => refused(error),
        // It may have been removed from them, and this node not know it yet.
        RemoveMemberError::InUse { .. }
        | RemoveMemberError::Overloaded(_)
        | RemoveMemberError::ShuttingDown => not_yet(error),
    }
}

fn not_yet(error: &impl ToString) -> Failure {
    Failure::new(FailureKind::NotYet, error.to_string())
}
