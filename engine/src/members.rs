//! The address book of a cluster: its members and how they are reached.
//!
//! # Only hints
//! Nothing here is agreed upon. Who votes and who stores a shard, the shard's log says; safety rests on that alone.
//! The book says where a node is found. An old or a wrong address costs a connection, never data.
//!
//! # Data and merging
//! One [`MemberRecord`] for each node id, with a version that grows with each change. Whoever changes a record gives it
//! the next version. Nodes send each other their whole books; of two records with the same id the greater one is kept:
//! the higher version, and between equal versions the greater content, so that all keep the same one. Merging in any
//! order, any number of times, ends with the same book.
//!
//! What the configuration of a node says has version 0. It is that node's own affair, for nodes may reach each other
//! by different addresses: of others, a record of version 0 is taken only for a node that is not known at all.
//! Anything that was ever changed is newer, and the same for all. A member that was removed stays in the book as
//! such, so that an older record does not bring it back; adding it again is a newer one.
//!
//! # Bounds
//! At most [`MEMBERS_MAX`] members are added, and a book has at most [`BOOK_RECORDS_MAX`] records. Beyond, it forgets
//! removed members, those with the lowest ids first; a node that was away for all that time may then bring one back,
//! and it has to be removed once more. Records that come from others are checked by [`MemberRecord::flaw`].

use std::collections::BTreeMap;
use std::fmt;

use crate::NodeId;
use crate::limits::{BOOK_RECORDS_MAX, HOST_BYTES_MAX, MEMBER_VERSION_MAX, MEMBERS_MAX};

/// How one member is reached. The order of two records with the same id is the order of their age: see the head of
/// [this module](self).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberRecord {
    /// The node, at least 1.
    pub id: NodeId,
    /// Grows with each change of the record; at most [`MEMBER_VERSION_MAX`].
    pub version: u64,
    /// It is not a member any more.
    pub removed: bool,
    /// Host of its client ports, as clients reach it: a name or an IP address, one of IPv6 in brackets.
    pub client_host: String,
    /// Client port of its core 0; core *i* listens on this + *i*.
    pub client_port: u16,
    /// Host of its peer ports, as the other nodes reach it.
    pub peer_host: String,
    /// Peer port of its core 0; core *i* listens on this + *i*.
    pub peer_port: u16,
    /// `HOST:PORT` of its admin port, for tools; `None` if it has none, or none that others reach.
    pub admin: Option<String>,
    /// Number of its data directory, once it has told it. Another number under the same id is another directory: the
    /// node's data was lost or replaced.
    pub incarnation: Option<u128>,
}

impl MemberRecord {
    /// A record of version 0, without what only the node itself knows.
    #[must_use]
    pub fn new(id: NodeId, client: (&str, u16), peer: (&str, u16)) -> Self {
        Self {
            id,
            version: 0,
            removed: false,
            client_host: client.0.to_owned(),
            client_port: client.1,
            peer_host: peer.0.to_owned(),
            peer_port: peer.1,
            admin: None,
            incarnation: None,
        }
    }

    /// What is wrong with it, if it can't be used: it may come from anybody.
    #[must_use]
    pub fn flaw(&self) -> Option<&'static str> {
        let hosts = [&self.client_host, &self.peer_host];
        if self.id.0 == 0 {
            Some("node ids start at 1")
        } else if self.version > MEMBER_VERSION_MAX {
            Some("its version is beyond all that can be")
        } else if hosts.into_iter().chain(&self.admin).any(|host| !is_host(host)) {
            Some("a host is empty, too long, or has other characters than a host name")
        } else if self.client_port == 0 || self.peer_port == 0 {
            Some("a port is 0")
        } else {
            None
        }
    }

    /// Whether it says the same but for its version.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { version: other.version, ..self.clone() } == *other
    }
}

/// `ID=CLIENT_HOST:PORT,PEER_HOST:PORT`, as on the command line.
impl fmt::Display for MemberRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, client_host, client_port, peer_host, peer_port, .. } = self;
        write!(f, "{id}={client_host}:{client_port},{peer_host}:{peer_port}")
    }
}

/// Whether a text may be a host, or a host with a port: it is shown in logs and joined with ports.
fn is_host(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:[]%".contains(c);
    (1..=HOST_BYTES_MAX).contains(&text.len()) && text.chars().all(allowed)
}

/// Why a record was not taken into a book; nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BookError {
    /// There are [`MEMBERS_MAX`] members.
    Full,
    /// The record can't be used: see [`MemberRecord::flaw`].
    Flaw(&'static str),
}

/// The records of all members, and of those that were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    records: BTreeMap<NodeId, MemberRecord>,
}

impl Book {
    /// All records, in the order of their ids.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &MemberRecord> {
        self.records.values()
    }

    /// The records of those who are members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &MemberRecord> {
        self.records().filter(|record| !record.removed)
    }

    /// The record of `id`, also if it was removed.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&MemberRecord> {
        self.records.get(&id)
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether merging `records` would change nothing.
    #[must_use]
    pub fn covers(&self, records: &[MemberRecord]) -> bool {
        records.iter().all(|record| !self.is_news(record))
    }

    fn is_news(&self, record: &MemberRecord) -> bool {
        match self.get(record.id) {
            Some(known) => record.version > 0 && record > known,
            None => true,
        }
    }

    /// Takes over what is newer in `records`, which must be without flaws. Gives the ids whose records changed.
    pub fn merge(&mut self, records: impl IntoIterator<Item = MemberRecord>) -> Vec<NodeId> {
        let mut newer = Vec::new();
        for record in records {
            if self.is_news(&record) {
                let id = record.id;
                newer.push((id, self.records.insert(id, record)));
            }
        }
        self.forget_surplus();
        let changed =
            |(id, before): &(NodeId, Option<MemberRecord>)| self.get(*id) != before.as_ref();
        let mut changed: Vec<NodeId> = newer.iter().filter(|n| changed(n)).map(|n| n.0).collect();
        changed.dedup();
        changed
    }

    /// Puts `record` in place of what is known of its id, with the next version. Gives it as it is in the book. One
    /// that says the same as the book changes nothing.
    ///
    /// # Errors
    /// [`BookError`] when it has a flaw, or would be one member too many.
    pub fn put(&mut self, record: MemberRecord) -> Result<&MemberRecord, BookError> {
        let id = record.id;
        let known = self.get(id);
        let is_member = known.is_some_and(|known| !known.removed);
        if !record.removed && !is_member && self.members().count() >= MEMBERS_MAX {
            return Err(BookError::Full);
        }
        let version = match known {
            Some(known) if known.says_the_same(&record) => known.version,
            Some(known) => known.version + 1,
            None => 1,
        };
        let record = MemberRecord { version, ..record };
        if let Some(flaw) = record.flaw() {
            return Err(BookError::Flaw(flaw));
        }
        self.records.insert(id, record);
        self.forget_surplus();
        self.get(id).ok_or(BookError::Full)
    }

    /// Forgets what is too much: removed members first.
    fn forget_surplus(&mut self) {
        while self.records.len() > BOOK_RECORDS_MAX {
            let removed = self.records().find(|record| record.removed).map(|record| record.id);
            let last = || self.records.keys().next_back().copied();
            let Some(id) = removed.or_else(last) else { return };
            self.records.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
