//! What the cores of a node tell each other of their shards: who leads one, and who belongs to it.
//!
//! Each change is told at once. When a mailbox has no room for it, the core tells everything again, shard by shard and
//! with each tick as far as there is room: it goes on where it stopped, so that every sibling hears of every shard,
//! however small the mailboxes are.

use super::mailbox::Letter;
use super::run::Core;
use crate::env::Env;
use crate::raft::membership::NodeSet;
use crate::{NodeId, ShardId, Term};

/// Letters with which a shard is told again: its leader, then its members.
const LETTERS: usize = 2;

/// How far a core is with telling everything again, in letters.
#[derive(Debug, Default)]
pub(super) struct Retelling {
    next: usize,
    left: usize,
}

impl Retelling {
    /// Something was missed: once round, from where it is.
    fn begin(&mut self, shards: usize) {
        self.left = shards * LETTERS;
    }

    /// Tells what is left with `tell`, which is given the place of a shard and which of its letters it is, until it
    /// has no room.
    fn go_on(&mut self, shards: usize, mut tell: impl FnMut(usize, usize) -> bool) {
        while self.left > 0 && shards > 0 {
            let letter = self.next % (shards * LETTERS);
            if !tell(letter / LETTERS, letter % LETTERS) {
                return;
            }
            (self.next, self.left) = (letter + 1, self.left - 1);
        }
    }
}

impl<E: Env> Core<E> {
    /// At the start: who belongs to our shards. Siblings have to be told where that is not everybody.
    pub(super) fn note_all_replicas(&mut self) {
        let mut view = self.inbox.view.borrow_mut();
        let everybody: NodeSet = view.members.iter().map(|member| member.id).collect();
        for shard in &self.shards {
            let nodes = shard.raft.configuration().members();
            if nodes != everybody {
                self.retelling.begin(self.shards.len());
            }
            view.replicas.note(shard.id, nodes);
        }
    }

    /// Tells the siblings who leads a shard.
    pub(super) fn tell_leader(&mut self, shard: ShardId, term: Term, leader: Option<NodeId>) {
        if !self.post_to_siblings(|| Letter::Leader { shard, term, leader }) {
            self.retelling.begin(self.shards.len());
        }
    }

    /// Tells the siblings who belongs to a shard.
    pub(super) fn tell_replicas(&mut self, shard: ShardId, nodes: &NodeSet) {
        if !self.post_to_siblings(|| Letter::Replicas { shard, nodes: nodes.clone() }) {
            self.retelling.begin(self.shards.len());
        }
    }

    /// With each tick: goes on telling what somebody missed.
    pub(super) fn tell_again(&mut self) {
        let mut retelling = std::mem::take(&mut self.retelling);
        let view = self.inbox.view.borrow();
        retelling.go_on(self.shards.len(), |at, letter| {
            let shard = self.shards[at].id;
            self.post_to_siblings(|| match letter {
                0 => {
                    let (term, leader) = view.leaders[shard.0 as usize];
                    Letter::Leader { shard, term, leader }
                }
                _ => {
                    let nodes = self.shards[at].raft.configuration().members();
                    Letter::Replicas { shard, nodes }
                }
            })
        });
        drop(view);
        self.retelling = retelling;
    }

    /// Returns whether all siblings have room for it.
    fn post_to_siblings(&self, letter: impl Fn() -> Letter) -> bool {
        let own = usize::from(self.config.core.0);
        let siblings = self.config.mailboxes.iter().enumerate().filter(|(core, _)| *core != own);
        let refused = siblings.filter(|(_, mailbox)| mailbox.post(letter()).is_err()).count();
        sometimes!(sibling_news_missed, refused > 0);
        refused == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It began anew with the first shard each time, so that the last ones were never told.
    #[test]
    fn all_is_told_however_little_room_there_is_each_time() {
        let shards = 5;
        let mut retelling = Retelling::default();
        retelling.begin(shards);
        let (mut told, mut ticks) = (Vec::new(), 0);
        while retelling.left > 0 {
            let mut room = 3;
            retelling.go_on(shards, |at, letter| {
                if room == 0 {
                    return false;
                }
                room -= 1;
                told.push((at, letter));
                true
            });
            ticks += 1;
        }
        assert_eq!(ticks, 4);
        let all: Vec<_> = (0..shards).flat_map(|at| [(at, 0), (at, 1)]).collect();
        assert_eq!(told, all);
    }

    #[test]
    fn what_is_missed_meanwhile_is_told_once_more_from_where_it_is() {
        let mut retelling = Retelling::default();
        retelling.begin(2);
        let mut told = Vec::new();
        let mut tell = |retelling: &mut Retelling, mut room: usize| {
            retelling.go_on(2, |at, letter| {
                let fits = room > 0;
                if fits {
                    room -= 1;
                    told.push(at * LETTERS + letter);
                }
                fits
            });
        };
        tell(&mut retelling, 3);
        retelling.begin(2);
        tell(&mut retelling, 9);
        assert_eq!(told, [0, 1, 2, 3, 0, 1, 2]);
        retelling.begin(0);
        retelling.go_on(0, |_, _| panic!("there is nothing to tell"));
    }
}
