//! The way to all nodes: one that is named, and those that it knows.
//!
//! Any node may be named, also one that was removed and does not know it yet, or waits to be added and knows nobody but
//! itself. So what all nodes say of each other is put together, the newest for each, and who is no member by that is
//! not asked about the cluster.

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

/// How often a look begins anew because nodes know more of the members than those that were asked before.
const LOOK_ROUNDS: usize = 3;

/// Pause before nodes that did not answer are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Admin ports that a cluster is reached through, and until when.
#[derive(Debug)]
pub struct Session {
    /// Where to look for a first node, in this order; grows with the members that are heard of.
    addresses: Vec<String>,
    /// Where each node was reached last.
    reached: BTreeMap<NodeId, String>,
    /// The newest that was heard of each node, also of those that were removed.
    book: BTreeMap<NodeId, MemberInfo>,
    cluster: Option<String>,
    deadline: Instant,
    timeout: Duration,
}

impl Session {
    /// A session that begins at one of `addresses` and lasts for `timeout`.
    #[must_use]
    pub fn new(addresses: Vec<String>, timeout: Duration) -> Self {
        let (reached, book) = (BTreeMap::new(), BTreeMap::new());
        let deadline = Instant::now() + timeout;
        Self { addresses, reached, book, cluster: None, deadline, timeout }
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
        let mut rounds = 1..=LOOK_ROUNDS;
        loop {
            let (address, status) = self.contact()?;
            self.cluster = Some(status.cluster.clone());
            self.reached.insert(NodeId(status.node), address);
            let before = self.members();
            let nodes = self.hear_all(before.clone(), NodeId(status.node));
            // They may know better.
            if self.members() == before || rounds.next().is_none() {
                return Ok(Cluster::new(&status, nodes));
            }
        }
    }

    /// Who is a member by the newest that was heard.
    fn members(&self) -> Vec<MemberInfo> {
        self.book.values().filter(|member| !member.removed).cloned().collect()
    }

    fn is_member(&self, id: u64) -> bool {
        self.book.get(&NodeId(id)).is_some_and(|member| !member.removed)
    }

    /// Takes note of what a node says of others. Of what is equally old, the contact's word counts: whether they are up
    /// changes all the time.
    fn note(&mut self, members: Vec<MemberInfo>, is_contact: bool) {
        for member in members {
            let known = self.book.get(&NodeId(member.id)).map(|known| known.version);
            if known.is_none_or(|v| v < member.version || is_contact && v == member.version) {
                self.book.insert(NodeId(member.id), member);
            }
        }
    }

    /// Asks all of `members` at once how they are; `contact` is the one that was asked first.
    fn hear_all(&mut self, members: Vec<MemberInfo>, contact: NodeId) -> BTreeMap<NodeId, Node> {
        let own = self.book.get(&contact).cloned();
        let asked: Vec<(MemberInfo, Result<Said, String>)> = thread::scope(|scope| {
            let threads: Vec<_> = members
                .into_iter()
                .map(|member| {
                    let address = self.address_of(&member, own.as_ref());
                    let recipient = self.recipient(NodeId(member.id));
                    let ask = move || hear(&address?, recipient).map_err(|error| error.to_string());
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
        for (member, said) in asked {
            let id = NodeId(member.id);
            if let (Ok(_), Ok(address)) = (&said, self.address_of(&member, own.as_ref())) {
                if !self.addresses.contains(&address) {
                    self.addresses.push(address.clone());
                }
                self.reached.insert(id, address);
            }
            let heard = said.map(|Said { heard, members }| {
                self.note(members, false);
                heard
            });
            nodes.insert(id, Node { member, heard });
        }
        nodes
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

    /// The first member that answers, and how it is; what it knows of the others is in the book then.
    fn contact(&mut self) -> Result<(String, NodeStatus), CtlError> {
        let mut reasons = BTreeSet::new();
        for at in 0..self.addresses.len() {
            let address = self.addresses[at].clone();
            match ask_contact(&address, self.cluster.clone()) {
                Ok(Said { heard: Heard { status, .. }, members }) => {
                    self.note(members, true);
                    if self.is_member(status.node) {
                        self.addresses.swap(0, at); // asked first the next time
                        return Ok((address, status));
                    }
                    // What it knows of the others is old.
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

/// What a node says.
struct Said {
    heard: Heard,
    /// Who is a member and who was, as it knows.
    members: Vec<MemberInfo>,
}

/// Asks a node of which nothing is known.
fn ask_contact(address: &str, cluster: Option<String>) -> Result<Said, CallError> {
    let mut said = hear(address, Recipient { cluster, node: None })?;
    let Heard { status, replicas } = &said.heard;
    // It knows nobody but itself, nobody has told it that it belongs here, and it has nothing of any shard: it waits to
    // be added, and is not a cluster of its own.
    let alone = said.members.iter().all(|m| m.id == status.node && m.version == 0);
    if alone && replicas.iter().all(|replica| replica.voters.is_empty()) {
        said.members.clear();
    }
    Ok(said)
}

fn hear(address: &str, recipient: Recipient) -> Result<Said, CallError> {
    let mut client = AdminClient::connect(address, recipient)?;
    let status = client.call(Request::Status, LOOK_WAIT)?;
    let replicas = client.call(Request::Shards, LOOK_WAIT)?;
    let members = client.call(Request::Members, LOOK_WAIT)?;
    match (status, replicas, members) {
        (Answer::Status(status), Answer::Shards(replicas), Answer::Members(members)) => {
            Ok(Said { heard: Heard { status: *status, replicas }, members })
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
        MemberInfo { id, version: 0, removed: false, client, peer, admin, cores: None, up: true }
    }

    #[test]
    fn of_what_nodes_say_of_each_other_the_newest_counts() {
        let of = |version, removed, up| MemberInfo {
            version,
            removed,
            up,
            ..member(1, "h:7001", "h:8001", None)
        };
        let mut session = Session::new(Vec::new(), Duration::ZERO);
        session.note(vec![of(1, false, true)], true);
        assert!(session.is_member(1));
        session.note(vec![of(2, true, false)], false);
        assert!(!session.is_member(1) && session.members().is_empty());
        session.note(vec![of(1, false, true)], true);
        assert!(!session.is_member(1), "it does not know yet that it was removed");
        session.note(vec![of(3, false, false)], false);
        session.note(vec![of(3, false, true)], false);
        assert!(session.is_member(1) && !session.members()[0].up);
        session.note(vec![of(3, false, true)], true);
        assert!(session.members()[0].up);
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
