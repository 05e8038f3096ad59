//! The address book, as an admin port shows and changes it.

use std::time::Instant;

use super::answer::{Administered, refused};
use super::protocol::{Answer, Failure, MemberInfo};
use crate::{Member, NodeId};

impl Administered {
    /// The members that the node knows.
    pub(super) fn members(&self, _deadline: Instant) -> Result<Vec<MemberInfo>, Failure> {
        Ok(self.members.iter().map(member_info).collect())
    }

    pub(super) fn add_member(&self, member: Member, _: Instant) -> Result<Answer, Failure> {
        match self.members.contains(&member) {
            true => Ok(Answer::Done),
            false => Err(refused("the members of this cluster are fixed")),
        }
    }

    pub(super) fn remove_member(&self, _id: NodeId, _: Instant) -> Result<Answer, Failure> {
        Ok(Answer::Done)
    }
}

fn member_info(member: &Member) -> MemberInfo {
    MemberInfo {
        id: member.id.0,
        client: format!("{}:{}", member.client_host, member.client_port),
        peer: format!("{}:{}", member.peer_host, member.peer_port),
        admin: None,
        cores: None,
        up: true,
    }
}
