//! What a core does about the members of its cluster: it takes over the book when that changes, and tells the
//! other nodes.
//!
//! The book itself is kept by a thread of the node, for it lies on disk and its host names have to be resolved. A core
//! has the last one in its inbox. What another node sends goes to that thread unless our book covers it, and
//! comes back to all cores as a letter. Core 0 sends the book to core 0 of every other node, when a link comes
//! up and when the book has changed: all nodes end with the same one.
//!
//! A member that was removed is told so like all others; soon afterwards its links are closed.

use std::rc::Rc;
use std::sync::Arc;

use super::events::ClusterEvent;
use super::link::Link;
use super::run::Core;
use super::view::MemberView;
use crate::CoreId;
use crate::env::Env;
use crate::members::{Book, MemberRecord};

/// A change of the address book, as the cores are told of it.
#[derive(Clone, Debug, Default)]
pub struct MemberUpdate {
    /// All records.
    pub book: Arc<Book>,
    /// Those who are members, with addresses that need no name server.
    pub members: Vec<MemberView>,
}

/// A member of the cluster, or one that was removed, and what one node knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its record in the address book.
    pub record: MemberRecord,
    /// How many cores it has; unknown until it has been heard of.
    pub cores: Option<u16>,
    /// Whether there is a connection to it. Always true for the node that is asked.
    pub up: bool,
}

impl<E: Env> Core<E> {
    /// The book has changed.
    pub(super) fn on_members(&mut self, update: Arc<MemberUpdate>) {
        let MemberUpdate { book, members } = Arc::unwrap_or_clone(update);
        self.inbox.book.replace(book);
        let moved = self.inbox.view.borrow_mut().take_members(members);
        self.gate.take_members(&self.env, &moved);
        let links: Vec<Rc<Link>> = self.links.values().cloned().collect();
        links.iter().for_each(|link| self.send_book(link));
    }

    /// Sends the book over a link, if it is one between cores 0.
    pub(super) fn send_book(&mut self, link: &Link) {
        let between_first = self.config.core == CoreId(0) && link.peer.core == CoreId(0);
        let book = self.inbox.book.borrow().clone();
        if between_first && !book.is_empty() && !link.send_members(&book) {
            self.book_missed = true;
        }
    }

    /// Called every tick: closes the links of removed members, and sends the book to those who had no room for it.
    pub(super) fn look_after_members(&mut self) {
        self.gate.close_removed(self.env.now());
        if std::mem::take(&mut self.book_missed) {
            let links: Vec<Rc<Link>> = self.links.values().cloned().collect();
            links.iter().for_each(|link| self.send_book(link));
        }
    }

    /// Another configuration of a shard is in force.
    pub(super) fn publish_replicas(&mut self, at: usize) {
        let shard = self.shards[at].id;
        let configuration = self.shards[at].raft.configuration().clone();
        let nodes = configuration.members();
        self.tell_replicas(shard, &nodes);
        self.inbox.view.borrow_mut().replicas.note(shard, nodes);
        self.subscribers.tell(|| ClusterEvent::Members { shard, configuration });
    }

    /// The book with what this core knows besides.
    pub(super) fn member_statuses(&self) -> Vec<MemberStatus> {
        let (book, view) = (self.inbox.book.borrow(), self.inbox.view.borrow());
        let status = |record: &MemberRecord| {
            let known = view.member(record.id);
            let (cores, up) = known.map_or((None, false), |member| (member.cores, member.up));
            MemberStatus { record: record.clone(), cores, up }
        };
        book.records().map(status).collect()
    }
}
