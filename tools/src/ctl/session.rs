//! The way to all nodes: one that is named, and those that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use coracle::NodeId;
use coracle::admin::limits::ADMIN_PORT_OFFSET;
use coracle::admin::protocol::{Answer, FailureKind, MemberInfo, NodeStatus, Request};

use super::CtlError;
use super::client::{AdminClient, CallError, Recipient, unexpected};
use super::cluster::{Cluster, Heard, Node};

/// How long a node may take to say how it is.
const LOOK_WAIT: Duration = Duration::from_secs(3);

/// Pause before nodes that did not answer are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Admin ports that a cluster is reached through, and until when.
#[derive(Debug)]
pub struct Session {
    /// Where to look for a first node, in this order; grows with the members that are heard of.
    addresses: Vec<String>,
    /// Where each node was reached last.
    reached: BTreeMap<NodeId, String>,
    cluster: Option<String>,
    deadline: Instant,
    timeout: Duration,
}

impl Session {
    /// A session that begins at one of `addresses` and lasts for `timeout`.
    #[must_use]
    pub fn new(addresses: Vec<String>, timeout: Duration) -> Self {
        let (reached, deadline) = (BTreeMap::new(), Instant::now() + timeout);
        Self { addresses, reached, cluster: None, deadline, timeout }
    }

    /// Time that is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Time is up, and this is missing.
    #[must_use]
    pub fn timed_out(&self, missing: impl Into<String>) -> CtlError {
        CtlError::TimedOut { seconds: self.timeout.as_secs(), missing: missing.into() }
    }

    /// Asks all nodes how they are, once.
    ///
    /// # Errors
    /// [`CtlError::NoContact`] when no node answers at all.
    pub fn look_once(&mut self) -> Result<Cluster, CtlError> {
        let (first, status, members) = self.contact()?;
        let contact = NodeId(status.node);
        self.cluster = Some(status.cluster.clone());
        self.reached.insert(contact, first);
        let own = members.iter().find(|member| member.id == contact.0).cloned();
        let asked: Vec<(MemberInfo, Result<Heard, String>)> = thread::scope(|scope| {
            let threads: Vec<_> = members
                .into_iter()
                .map(|member| {
                    let address = self.address_of(&member, own.as_ref());
                    let recipient = self.recipient(NodeId(member.id));
                    let ask = move || match address {
                        Ok(address) => hear(&address, recipient).map_err(|error| error.to_string()),
                        Err(reason) => Err(reason),
                    };
                    (member, scope.spawn(ask))
                })
                .collect();
            let panicked = |_| Err("asking it failed".to_owned());
            threads
                .into_iter()
                .map(|(m, asked)| (m, asked.join().unwrap_or_else(panicked)))
                .collect()
        });
        let mut nodes = BTreeMap::new();
        for (member, heard) in asked {
            let id = NodeId(member.id);
            if let (Ok(_), Ok(address)) = (&heard, self.address_of(&member, own.as_ref())) {
                if !self.addresses.contains(&address) {
                    self.addresses.push(address.clone());
                }
                self.reached.insert(id, address);
            }
            nodes.insert(id, Node { member, heard });
        }
        Ok(Cluster::new(&status, nodes))
    }

    /// Asks all nodes how they are; if none answers, again, until time is up.
    ///
    /// # Errors
    /// [`CtlError::NoContact`].
    pub fn look(&mut self) -> Result<Cluster, CtlError> {
        loop {
            match self.look_once() {
                Err(CtlError::NoContact(_)) if !self.left().is_zero() => self.pause(RETRY_PAUSE),
                looked => return looked,
            }
        }
    }

    /// Waits, but not beyond the end.
    pub fn pause(&self, pause: Duration) {
        thread::sleep(pause.min(self.left()));
    }

    /// Has a node do something. It must have been heard in the last look.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(
        &self,
        node: NodeId,
        request: Request,
        wait: Duration,
    ) -> Result<Answer, CallError> {
        self.connect(node)?.call(request, wait)
    }

    /// A connection to a node that was heard in the last look.
    ///
    /// # Errors
    /// [`CallError::Unreached`].
    pub fn connect(&self, node: NodeId) -> Result<AdminClient, CallError> {
        let Some(address) = self.reached.get(&node) else {
            let reason = "its admin port was not reached".to_owned();
            return Err(CallError::Unreached { address: format!("node {node}"), reason });
        };
        AdminClient::connect(address, self.recipient(node))
    }

    fn recipient(&self, node: NodeId) -> Recipient {
        Recipient { cluster: self.cluster.clone(), node: Some(node) }
    }

    /// The first node that answers, what it says, and the members that it knows.
    fn contact(&mut self) -> Result<(String, NodeStatus, Vec<MemberInfo>), CtlError> {
        let mut reasons = BTreeSet::new();
        for (at, address) in self.addresses.iter().enumerate() {
            match ask_contact(address, self.cluster.clone()) {
                Ok((status, members)) if members.iter().any(|m| m.id == status.node) => {
                    let address = address.clone();
                    self.addresses.swap(0, at); // asked first the next time
                    return Ok((address, status, members));
                }
                // What it knows of the others is old.
                Ok((status, _)) => {
                    let node = status.node;
                    let what = "was removed from the cluster, or is not added to it yet";
                    reasons.insert(format!("{address}: node {node} {what}"));
                }
                // It would say the same for ever.
                Err(CallError::Failed(failure)) if failure.kind == FailureKind::Invalid => {
                    return Err(CtlError::Refused(format!("{address}: {}", failure.message)));
                }
                Err(error) => drop(reasons.insert(error.to_string())),
            }
        }
        let reasons: Vec<String> = reasons.into_iter().collect();
        Err(CtlError::NoContact(reasons.join("; ")))
    }

    /// Where the admin port of `member` is, as seen from here; `contact` is the node that was asked first.
    fn address_of(
        &self,
        member: &MemberInfo,
        contact: Option<&MemberInfo>,
    ) -> Result<String, String> {
        let Some(contact) = contact else { return admin_of(member) };
        if member.id == contact.id {
            // By which it was reached, perhaps through a tunnel.
            return self.reached.get(&NodeId(member.id)).cloned().ok_or_else(String::new);
        }
        let address = admin_of(member)?;
        let (host, theirs) = (host_of(&member.peer), host_of(&contact.peer));
        if is_loopback(host_of(&address)) && host != theirs && !is_loopback(host) {
            return Err(format!(
                "its admin port {address} is on the loopback interface of {host}, out of reach from \
                 {theirs}: start it with --admin {host}:PORT on a network that you trust, or run \
                 coraclectl there"
            ));
        }
        Ok(address)
    }
}

/// The admin address of a member: as it says, or else as it is by default.
fn admin_of(member: &MemberInfo) -> Result<String, String> {
    if let Some(admin) = &member.admin {
        return Ok(admin.clone());
    }
    let host = host_of(&member.client);
    let port = member.client.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port.and_then(|port| port.checked_add(ADMIN_PORT_OFFSET)) {
        Some(port) => Ok(format!("{host}:{port}")),
        None => Err("its admin port is not known".to_owned()),
    }
}

fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn ask_contact(
    address: &str,
    cluster: Option<String>,
) -> Result<(NodeStatus, Vec<MemberInfo>), CallError> {
    let mut client = AdminClient::connect(address, Recipient { cluster, node: None })?;
    let status = client.call(Request::Status, LOOK_WAIT)?;
    let members = client.call(Request::Members, LOOK_WAIT)?;
    match (status, members) {
        (Answer::Status(status), Answer::Members(members)) => Ok((*status, members)),
        _ => Err(unexpected(address)),
    }
}

fn hear(address: &str, recipient: Recipient) -> Result<Heard, CallError> {
    let mut client = AdminClient::connect(address, recipient)?;
    let status = client.call(Request::Status, LOOK_WAIT)?;
    let replicas = client.call(Request::Shards, LOOK_WAIT)?;
    match (status, replicas) {
        (Answer::Status(status), Answer::Shards(replicas)) => {
            Ok(Heard { status: *status, replicas })
        }
        _ => Err(unexpected(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, client: &str, peer: &str, admin: Option<&str>) -> MemberInfo {
        let admin = admin.map(str::to_owned);
        let (client, peer) = (client.to_owned(), peer.to_owned());
        MemberInfo { id, client, peer, admin, cores: None, up: true }
    }

    #[test]
    fn the_loopback_of_another_host_is_not_tried() {
        let mut session = Session::new(Vec::new(), Duration::ZERO);
        session.reached.insert(NodeId(1), "tunnel:9001".to_owned());
        let here = member(1, "10.0.0.1:7001", "10.0.0.1:8001", Some("127.0.0.1:9001"));
        let there = member(2, "10.0.0.2:7001", "10.0.0.2:8001", Some("127.0.0.1:9001"));
        let beside = member(3, "10.0.0.1:7011", "10.0.0.1:8011", Some("127.0.0.1:9011"));
        let open = member(4, "10.0.0.4:7001", "10.0.0.4:8001", Some("10.0.0.4:9001"));
        let address = |member| session.address_of(member, Some(&here));
        assert_eq!(address(&here).as_deref(), Ok("tunnel:9001"));
        assert!(address(&there).is_err_and(|reason| reason.contains("--admin 10.0.0.2:PORT")));
        assert_eq!(address(&beside).as_deref(), Ok("127.0.0.1:9011"));
        assert_eq!(address(&open).as_deref(), Ok("10.0.0.4:9001"));
    }

    #[test]
    fn an_admin_port_that_nobody_told_of_is_where_it_is_by_default() {
        let unknown = |client| admin_of(&member(1, client, "h:1", None));
        assert_eq!(unknown("127.0.0.1:7011").as_deref(), Ok("127.0.0.1:9011"));
        assert_eq!(unknown("[::1]:7011").as_deref(), Ok("[::1]:9011"));
        assert!(unknown("h:65000").is_err());
    }
}
