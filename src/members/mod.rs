//! The members of the cluster as this node knows them: the keeper of the address book.
//!
//! The keeper is a thread of the node. It owns the [`Book`], its file in the data directory, and the resolving of host
//! names; cores may wait for neither. It is told what other nodes say and what operators want ([`MemberNews`]), stores
//! what is new, and then tells all cores.
//!
//! | case | what it does |
//! |---|---|
//! | first start | the book is what the configuration says, with version 0; others hear nothing that they are not told by theirs |
//! | later start | the file's book; of records that nobody has changed, the configuration's |
//! | the configuration has other addresses for this node than the book, or the directory is another | the node says so with a higher version |
//! | this node was removed | it says nothing; it may be added again |
//! | the book cannot be written | orders are refused; what others say is used all the same, and stored later |
//! | a name cannot be resolved | at the start: an error, if the configuration names it; later: the last address is used |
//! | a core's mailbox is full | it is told again soon |

mod file;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use coracle_engine::core::{
    Mailbox, MemberNews, MemberUpdate, MemberView, NewsQueue, NewsReceiver,
};
use coracle_engine::members::{Book, BookError, MemberRecord};
use coracle_engine::{AddMemberError, NodeId, RemoveMemberError};

use crate::config::host_port;
use crate::data_dir::DataDir;
use crate::limits::{MEMBERS_RESOLVE_INTERVAL, MEMBERS_RETRY_INTERVAL, MEMBERS_TELL_INTERVAL};
use crate::runtime::{self, ResolveError};
use crate::{Config, StartError};

use file::Stored;

/// The keeper before its thread runs.
pub(crate) struct Keeper {
    dir: PathBuf,
    stored: Stored,
    /// What this node says of itself.
    own: MemberRecord,
    /// Where to ask for the members, besides those that are known.
    join: Option<String>,
    names: Names,
    news: NewsReceiver,
    mailboxes: Vec<Mailbox>,
    /// What the cores were told last.
    update: Arc<MemberUpdate>,
    /// Mailboxes of cores that still have to be told.
    untold: Vec<Mailbox>,
    /// The file is not as new as the book.
    unsaved: bool,
    /// It could not be written at the last attempt, and that is in the log.
    failing: bool,
    /// When there is something to try again, or names to look up: not before this time.
    next_at: Instant,
}

/// A running keeper; ends when it is dropped.
pub(crate) struct KeeperThread {
    news: NewsQueue,
    thread: Option<JoinHandle<()>>,
}

impl Drop for KeeperThread {
    fn drop(&mut self) {
        while !self.news.post(MemberNews::Stop) {
            thread::sleep(MEMBERS_TELL_INTERVAL); // full: the keeper is emptying it
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the keeper of the members panicked");
        }
    }
}

impl Keeper {
    /// Reads and completes the book, and stores it. `admin` is where this node is administered, if anywhere.
    /// Blocking: before any core runs.
    ///
    /// # Errors
    /// The file or a name is not usable, or the voters are others than at the first start.
    pub(crate) fn open(
        config: &Config,
        data_dir: &DataDir,
        admin: Option<String>,
        mailboxes: Vec<Mailbox>,
    ) -> Result<(Self, NewsQueue), StartError> {
        let dir = data_dir.path().to_owned();
        let found = file::read(&dir)?;
        let voters = match &found {
            Some(found) => voters(config, &found.voters)?,
            None => config.initial_voters(),
        };
        let before = found.clone().map(|found| found.book).unwrap_or_default();
        let own = MemberRecord { admin, ..own_record(config, data_dir)? };
        let mut book = configured(before, config);
        announce(&mut book, &own);
        let stored = Stored { voters, book };
        let (queue, news) = NewsQueue::new();
        let mut keeper = Self {
            dir,
            stored,
            own,
            join: None,
            names: Names::default(),
            news,
            mailboxes,
            update: Arc::default(),
            untold: Vec::new(),
            unsaved: false,
            failing: false,
            next_at: Instant::now(),
        };
        keeper.resolve_first(config)?;
        if found.as_ref() != Some(&keeper.stored) {
            file::write(&keeper.dir, &keeper.stored)?;
        }
        Ok((keeper, queue))
    }

    /// The voters of every shard before its first entry.
    pub(crate) fn voters(&self) -> Vec<NodeId> {
        self.stored.voters.clone()
    }

    /// What the cores begin with.
    pub(crate) fn update(&self) -> &MemberUpdate {
        &self.update
    }

    /// The address to join at.
    pub(crate) fn join(&self) -> Option<&str> {
        self.join.as_deref()
    }

    /// The nodes of the cluster on our own host, as far as they are known; one that we join at is the first.
    pub(crate) fn members_here(&self) -> Vec<NodeId> {
        let members = &self.update.members;
        let own = members.iter().find(|member| member.id == self.own.id);
        let host = own.map(|own| own.peer_host.as_str());
        let mut here: Vec<NodeId> = members
            .iter()
            .filter(|member| Some(member.peer_host.as_str()) == host)
            .map(|member| member.id)
            .collect();
        here.sort();
        let joined = self.join.as_ref().and_then(|join| join.rsplit_once(':'));
        if members.len() == 1 && joined.map(|(host, _)| host) == host {
            here.insert(0, NodeId(0));
        }
        here
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(self, news: NewsQueue) -> std::io::Result<KeeperThread> {
        let name = format!("coracle-{}-book", self.own.id);
        let thread = thread::Builder::new().name(name).spawn(move || self.run())?;
        Ok(KeeperThread { news, thread: Some(thread) })
    }

    fn run(mut self) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let cx = Context::from_waker(&waker);
        loop {
            match self.news.poll_next(&cx) {
                Poll::Ready(MemberNews::Stop) => return,
                Poll::Ready(MemberNews::Heard(records)) => self.hear(records),
                Poll::Ready(MemberNews::Add { record, answer }) => {
                    drop(answer.send(self.add(record)));
                }
                Poll::Ready(MemberNews::Remove { id, answer }) => {
                    drop(answer.send(self.remove(id)));
                }
                Poll::Pending => {
                    self.look_after();
                    match self.pause() {
                        Some(pause) => thread::park_timeout(pause),
                        None => thread::park(),
                    }
                }
            }
        }
    }

    /// How long there is nothing to do, unless news come.
    fn pause(&self) -> Option<Duration> {
        let wait = self.next_at.saturating_duration_since(Instant::now());
        if !self.untold.is_empty() {
            Some(MEMBERS_TELL_INTERVAL)
        } else if self.unsaved || self.is_misknown() {
            Some(wait.min(MEMBERS_RETRY_INTERVAL))
        } else {
            self.names.any().then_some(wait)
        }
    }

    /// What has to be done again, and names that may have other addresses by now.
    fn look_after(&mut self) {
        self.untold.retain(|mailbox| !mailbox.update_members(self.update.clone()));
        let now = Instant::now();
        if now < self.next_at {
            return;
        }
        let misknown = self.is_misknown();
        self.next_at = now
            + if misknown || self.unsaved {
                MEMBERS_RETRY_INTERVAL
            } else {
                MEMBERS_RESOLVE_INTERVAL
            };
        if misknown {
            // Not at once, each time: two processes with the same id would never come to rest.
            announce(&mut self.stored.book, &self.own);
            self.unsaved = true;
        }
        if self.unsaved {
            self.save();
        }
        self.tell();
    }

    /// Whether the book says other things of this node than it says itself.
    fn is_misknown(&self) -> bool {
        let known = self.stored.book.get(self.own.id);
        known.is_none_or(|known| is_misknown(known, &self.own))
    }

    /// What another node says.
    fn hear(&mut self, records: Vec<MemberRecord>) {
        let before = self.stored.book.clone();
        let changed = self.stored.book.merge(records);
        if changed.is_empty() {
            return;
        }
        for id in changed {
            self.note_change(id, before.get(id));
        }
        self.unsaved = true;
        self.save();
        self.tell();
        if self.is_misknown() {
            self.next_at = self.next_at.min(Instant::now() + MEMBERS_RETRY_INTERVAL);
        }
    }

    /// Tells the operator.
    fn note_change(&self, id: NodeId, before: Option<&MemberRecord>) {
        let Some(now) = self.stored.book.get(id) else { return };
        let was_member = before.is_some_and(|before| !before.removed);
        let lost = |before: &MemberRecord| {
            before.incarnation.zip(now.incarnation).is_some_and(|(old, new)| old != new)
        };
        if id == self.own.id {
            if now.removed && was_member {
                tracing::error!(
                    "this node, {id}, was removed from the cluster: the others do not talk to it any more; stop it, or \
                     add it again"
                );
            } else if !now.removed && before.is_some() && !was_member {
                tracing::info!("this node, {id}, was added to the cluster again");
            }
        } else if now.removed {
            tracing::info!("node {id} was removed from the cluster");
        } else if !was_member {
            tracing::info!("node {id} is a member of the cluster: {now}");
        } else if before.is_some_and(lost) {
            tracing::warn!(
                "node {id} has another data directory than before: its data was lost or replaced; it votes again when \
                 the others have brought it up to date"
            );
        } else {
            tracing::info!("a member is reached at other addresses: {now}");
        }
    }

    fn add(&mut self, record: MemberRecord) -> Result<MemberRecord, AddMemberError> {
        let id = record.id;
        let record = match self.stored.book.get(id) {
            Some(known) => complete(&record, known),
            None => record,
        };
        let mut book = self.stored.book.clone();
        let added = book.put(MemberRecord { removed: false, ..record }).cloned();
        let added = added.map_err(|error| match error {
            BookError::Full => AddMemberError::Full,
            BookError::Flaw(flaw) => AddMemberError::Flaw { id, flaw },
        })?;
        self.replace(book).map_err(|reason| AddMemberError::Storage { id, reason })?;
        Ok(added)
    }

    fn remove(&mut self, id: NodeId) -> Result<MemberRecord, RemoveMemberError> {
        let unknown = RemoveMemberError::Unknown(id);
        let known = self.stored.book.get(id).filter(|known| !known.removed);
        let removed = MemberRecord { removed: true, ..known.ok_or(unknown.clone())?.clone() };
        let mut book = self.stored.book.clone();
        let removed = book.put(removed).cloned().map_err(|_| unknown)?;
        self.replace(book).map_err(|reason| RemoveMemberError::Storage { id, reason })?;
        Ok(removed)
    }

    /// Stores another book and goes on with it; or with the old one.
    fn replace(&mut self, book: Book) -> Result<(), String> {
        let before = std::mem::replace(&mut self.stored.book, book);
        if let Err(error) = file::write(&self.dir, &self.stored) {
            self.stored.book = before;
            return Err(error.to_string());
        }
        self.unsaved = false;
        for record in self.stored.book.records() {
            if before.get(record.id) != Some(record) {
                self.note_change(record.id, before.get(record.id));
            }
        }
        self.tell();
        Ok(())
    }

    fn save(&mut self) {
        match file::write(&self.dir, &self.stored) {
            Ok(()) => (self.unsaved, self.failing) = (false, false),
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("changes of the members are not stored yet: {error}");
                }
            }
        }
    }

    /// Tells the cores how things stand, if they do not know.
    fn tell(&mut self) {
        let members = self.views();
        if *self.update.book == self.stored.book && self.update.members == members {
            return;
        }
        let book = Arc::new(self.stored.book.clone());
        self.update = Arc::new(MemberUpdate { book, members });
        self.untold.clone_from(&self.mailboxes);
        self.untold.retain(|mailbox| !mailbox.update_members(self.update.clone()));
    }

    /// Who the members are, at addresses that need no name server. This node is there in any case.
    fn views(&mut self) -> Vec<MemberView> {
        let others = self.stored.book.members().filter(|record| record.id != self.own.id);
        let shown: Vec<&MemberRecord> = others.chain([&self.own]).collect();
        self.names.keep(&shown);
        shown.into_iter().map(|record| view_of(record, |host| self.names.resolve(host))).collect()
    }

    /// At the start, what the configuration names must have an address: better said then than later.
    fn resolve_first(&mut self, config: &Config) -> Result<(), StartError> {
        for member in &config.members {
            let removed = self.stored.book.get(member.id).is_some_and(|known| known.removed);
            if member.id == config.id || !removed {
                resolve(&member.client_host)?;
                resolve(&member.peer_host)?;
            }
        }
        if let Some((host, port)) = config.join.as_deref().and_then(host_port) {
            match resolve(&host) {
                Ok(address) => self.join = Some(format!("{address}:{port}")),
                Err(error) if self.stored.book.members().count() > 1 => {
                    tracing::warn!("--join: {error}; the members that are known are asked");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let members = self.views();
        self.update = Arc::new(MemberUpdate { book: Arc::new(self.stored.book.clone()), members });
        Ok(())
    }
}

/// What this node says of itself.
fn own_record(config: &Config, data_dir: &DataDir) -> Result<MemberRecord, StartError> {
    let own = config.own_member().ok_or(crate::ConfigError::NotAMember(config.id))?;
    Ok(MemberRecord { incarnation: Some(data_dir.incarnation()), ..own.record() })
}

/// Puts what a record does not say from what is known.
fn complete(record: &MemberRecord, known: &MemberRecord) -> MemberRecord {
    MemberRecord {
        admin: record.admin.clone().or_else(|| known.admin.clone()),
        incarnation: record.incarnation.or(known.incarnation),
        ..record.clone()
    }
}

/// The book of the file with what the configuration says. That is as new as a record that nobody has changed.
fn configured(book: Book, config: &Config) -> Book {
    let unchanged = |record: &MemberRecord| {
        record.version == 0 && config.members.iter().any(|member| member.id == record.id)
    };
    let mut merged = Book::default();
    merged.merge(book.records().filter(|record| !unchanged(record)).cloned());
    // The own record is compared with the file's, which others may have.
    merged.merge(book.get(config.id).cloned());
    merged.merge(config.members.iter().filter(|m| m.id != config.id).map(crate::Member::record));
    merged
}

/// What this node says of itself beside what is known of it. Nobody else knows whether it has an admin port.
fn as_of_own(own: &MemberRecord, known: &MemberRecord) -> MemberRecord {
    MemberRecord { admin: own.admin.clone(), ..complete(own, known) }
}

/// Whether a record says other things of a node than that says itself, and is to be replaced.
fn is_misknown(known: &MemberRecord, own: &MemberRecord) -> bool {
    !known.removed && !known.says_the_same(&as_of_own(own, known))
}

/// Has the book say of this node what that says itself, unless it was removed.
fn announce(book: &mut Book, own: &MemberRecord) {
    let Some(known) = book.get(own.id) else {
        book.merge([own.clone()]); // as of version 0: all others have it by their configurations, or add it
        return;
    };
    if known.removed {
        return tracing::error!(
            "this node, {}, was removed from the cluster; it takes no part until it is added again",
            own.id
        );
    }
    if is_misknown(known, own) {
        let own = as_of_own(own, known);
        if let Err(error) = book.put(own) {
            tracing::warn!("the other nodes are not told of this node's addresses: {error:?}");
        }
    }
}

/// The voters of the first start, if the configuration does not contradict them.
fn voters(config: &Config, first: &[NodeId]) -> Result<Vec<NodeId>, StartError> {
    let sorted = |ids: &[NodeId]| {
        let mut ids = ids.to_vec();
        ids.sort();
        ids
    };
    match &config.voters {
        Some(_) if sorted(&config.initial_voters()) != sorted(first) => {
            let list =
                |ids: &[NodeId]| format!("{:?}", ids.iter().map(|id| id.0).collect::<Vec<_>>());
            Err(StartError::Voters { first: list(first), now: list(&config.initial_voters()) })
        }
        _ => Ok(first.to_vec()),
    }
}

fn view_of(record: &MemberRecord, mut address: impl FnMut(&str) -> String) -> MemberView {
    MemberView {
        id: record.id,
        client_host: address(&record.client_host),
        client_port: record.client_port,
        peer_host: address(&record.peer_host),
        peer_port: record.peer_port,
        cores: None,
        up: false,
    }
}

/// Host names and the addresses that they had last.
#[derive(Default)]
struct Names {
    known: BTreeMap<String, Name>,
}

#[derive(Default)]
struct Name {
    address: Option<String>,
    /// It had none at the last attempt, and that is in the log.
    failing: bool,
}

impl Names {
    /// The address of a host; the last one, if it has none now.
    fn resolve(&mut self, host: &str) -> String {
        match resolve(host) {
            Ok(address) if address == host => address,
            Ok(address) => {
                let name = Name { address: Some(address.clone()), failing: false };
                self.known.insert(host.to_owned(), name);
                address
            }
            Err(error) => {
                let name = self.known.entry(host.to_owned()).or_default();
                if !std::mem::replace(&mut name.failing, true) {
                    tracing::warn!("{error}; it is tried again");
                }
                name.address.clone().unwrap_or_else(|| host.to_owned())
            }
        }
    }

    /// Forgets those that no member has any more.
    fn keep(&mut self, members: &[&MemberRecord]) {
        let used = |host: &String| {
            members.iter().any(|member| [&member.client_host, &member.peer_host].contains(&host))
        };
        self.known.retain(|host, _| used(host));
    }

    /// Whether there are hosts that are names.
    fn any(&self) -> bool {
        !self.known.is_empty()
    }
}

/// The IP address of a host, in the form that goes before `:port`.
fn resolve(host: &str) -> Result<String, ResolveError> {
    let addresses = runtime::resolve(&format!("{host}:1"))?;
    // Clients of a dual-stack name more often come over IPv4.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    Ok(match address.map(SocketAddr::ip) {
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        None => host.to_owned(),
    })
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn record(host: &str) -> MemberRecord {
        MemberRecord::new(NodeId(1), (host, 1), (host, 2))
    }

    #[test]
    fn names_keep_their_last_address_and_are_forgotten_with_their_members() {
        let mut names = Names::default();
        assert_eq!(names.resolve("10.0.0.1"), "10.0.0.1");
        assert_eq!(names.resolve("[::1]"), "[::1]");
        assert!(!names.any(), "what is an address is not looked up again");
        let local = names.resolve("localhost");
        assert!(local.starts_with("127.") || local.starts_with("[::"), "{local}");
        let gone = Name { address: Some("10.0.0.9".to_owned()), failing: false };
        names.known.insert("not..there".to_owned(), gone);
        assert_eq!(names.resolve("not..there"), "10.0.0.9");
        assert_eq!(names.resolve("nor..this"), "nor..this", "it is tried again");
        assert!(names.known["nor..this"].failing);
        names.keep(&[&record("localhost")]);
        assert_eq!(names.known.keys().collect::<Vec<_>>(), ["localhost"]);
    }

    /// What the file says of members that somebody has changed holds, whatever the configuration says.
    #[test]
    fn only_what_nobody_has_changed_is_taken_from_the_configuration() {
        let member = |id: u64, host: &str| crate::Member {
            id: NodeId(id),
            client_host: host.to_owned(),
            client_port: 1,
            peer_host: host.to_owned(),
            peer_port: 2,
        };
        let mut before = Book::default();
        before.merge((1..=5).map(|id| member(id, "old").record()));
        before.put(member(3, "moved").record()).unwrap();
        before.put(MemberRecord { removed: true, ..member(4, "old").record() }).unwrap();
        let config = [1, 2, 3, 4, 6].map(|id| member(id, "new"));
        let config = Config::new(NodeId(1), "data", config.to_vec());
        let mut book = configured(before, &config);
        let host = |book: &Book, id| book.get(NodeId(id)).unwrap().peer_host.clone();
        let hosts: Vec<String> = (1..=6).map(|id| host(&book, id)).collect();
        assert_eq!(hosts, ["old", "new", "moved", "old", "old", "new"]);
        assert!(book.get(NodeId(4)).unwrap().removed);
        // Of itself, it says so to all.
        announce(&mut book, &config.own_member().unwrap().record());
        let own = book.get(NodeId(1)).unwrap();
        assert_eq!((own.peer_host.as_str(), own.version), ("new", 1));
    }

    #[test]
    fn a_removed_node_does_not_bring_itself_back() {
        let mut book = Book::default();
        book.put(MemberRecord { removed: true, ..record("a") }).unwrap();
        announce(&mut book, &record("b"));
        assert!(book.get(NodeId(1)).unwrap().removed);
    }

    /// A wiped node, whose book is empty: the others know it with another directory and a version.
    #[test]
    fn a_node_that_others_know_otherwise_says_so_with_a_newer_record() {
        let own = MemberRecord { incarnation: Some(2), ..record("a") };
        let mut book = Book::default();
        announce(&mut book, &own);
        assert_eq!(
            book.get(own.id).unwrap().version,
            0,
            "until then it is as the configuration says"
        );
        let admin = Some("a:9".to_owned());
        let theirs = MemberRecord { version: 7, incarnation: Some(1), admin, ..record("a") };
        book.merge([theirs.clone()]);
        assert!(is_misknown(&theirs, &own));
        announce(&mut book, &own);
        let said = book.get(own.id).unwrap();
        assert_eq!((said.version, said.incarnation), (8, Some(2)));
        assert_eq!(said.admin, None, "whether it has an admin port only it knows");
        assert!(!is_misknown(said, &own));
    }
}
