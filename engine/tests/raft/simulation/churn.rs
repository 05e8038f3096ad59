//! Members that come and go, and disks that are lost, as far as a cluster can stand both.

use coracle_engine::raft::membership::{Change, Configuration, Reconfiguration, Transition};
use coracle_engine::raft::{Entry, Event, Role, Standing};
use coracle_engine::{LogIndex, NodeId};

use super::Run;

impl Run {
    /// Who votes and counts, and would after a crash.
    fn counting(&self) -> Vec<NodeId> {
        let ids = self.cluster.ids();
        let counts = |id: &NodeId| {
            let node = self.cluster.node(*id);
            let asks = self.faults.census || !self.initial.is_voter(*id);
            let stored = node.disk.written || !asks && node.lost.is_empty();
            node.counts && stored && node.disk.hard_state.standing == Standing::Member
        };
        ids.into_iter().filter(counts).collect()
    }

    /// What a replica takes for the configuration is what its log says, or what it began with.
    pub(super) fn check_configuration(&self, id: NodeId) {
        let Some(raft) = self.cluster.raft(id) else { return };
        let (base, last) = (raft.log().base_index(), raft.last_index());
        let mut own = (base.0 + 1..=last.0).rev().map(|index| self.entry(id, LogIndex(index)));
        let own = own.find_map(|entry| entry?.configuration());
        let mut below = self.committed.range(..=base).rev();
        let begins = base > LogIndex(0) || self.initial.is_voter(id);
        let initial = if begins { self.initial.clone() } else { Configuration::default() };
        let below = || below.find_map(|(_, entry)| entry.configuration());
        let expected = own.or_else(below).unwrap_or(initial);
        assert_eq!(*raft.configuration(), expected, "the configuration of {id}");
    }

    /// Every change that is committed follows from the one before.
    pub(super) fn check_changes(&self) {
        let mut before = self.initial.clone();
        for configuration in self.committed.values().filter_map(Entry::configuration) {
            if before.is_joint() {
                assert_eq!(configuration, before.leave_joint().unwrap(), "after {before}");
            } else if configuration.is_joint() {
                assert_eq!(configuration.outgoing(), before.incoming(), "after {before}");
            } else {
                let (old, new) = (before.incoming(), configuration.incoming());
                let gone = old.iter().filter(|node| !new.contains(*node)).count();
                let come = new.iter().filter(|node| !old.contains(*node)).count();
                assert!(gone + come <= 1, "{before} is followed by {configuration}");
            }
            before = configuration;
        }
    }

    /// Every configuration that is in force somewhere, or was when a node stopped.
    pub(super) fn configurations(&self) -> Vec<Configuration> {
        let mut all = vec![self.initial.clone()];
        for node in self.cluster.nodes.values() {
            match &node.raft {
                Some(raft) => {
                    all.push(raft.configuration().clone());
                    all.push(raft.log().configuration_at(raft.commit()).clone());
                }
                None => all.push(node.disk.log().configuration().clone()),
            }
        }
        let newest = self.committed.values().rev().find_map(Entry::configuration);
        if let Some(newest) = newest {
            all.push(newest);
            all.swap_remove(0); // long gone
        }
        all.retain(|configuration| !configuration.incoming().is_empty());
        all
    }

    pub(super) fn change_members(&mut self) {
        let ids = self.cluster.ids();
        let leads = |id: &NodeId| self.cluster.raft(*id).is_some_and(|r| r.role() == Role::Leader);
        let Some(id) = ids.iter().copied().find(leads) else { return };
        let count = [1, 1, 1, 1, 2, 3][self.random.below(6)];
        let change = match self.random.below(8) {
            0 => Reconfiguration::Leave,
            kind => {
                let changes = (0..count).map(|_| {
                    let node = ids[self.random.below(ids.len())];
                    match self.random.below(3) {
                        0 => Change::AddVoter(node),
                        1 => Change::AddLearner(node),
                        _ => Change::Remove(node),
                    }
                });
                let changes = changes.collect();
                let transition = match kind {
                    1 => Transition::JointUntilLeft,
                    2 => Transition::Joint,
                    _ => Transition::Auto,
                };
                Reconfiguration::Change { changes, transition }
            }
        };
        // Nobody knows at once who was lost: what is removed then may be too much.
        let (raft, counting) = (self.cluster.raft(id).unwrap(), self.counting());
        let enough = |own: &Configuration| own.has_quorum(|node| counting.contains(&node));
        if !raft.configuration().after(&change).is_ok_and(|after| enough(&after)) {
            return;
        }
        let before = self.cluster.raft(id).map(|raft| raft.log().configuration_index());
        self.step(id, Event::Reconfigure { change, only_if_ready: true });
        let after = self.cluster.raft(id).map(|raft| raft.log().configuration_index());
        self.changes += usize::from(before != after);
    }

    /// Loses a disk, if the others still make a majority of those that count.
    pub(super) fn wipe(&mut self, id: NodeId) {
        let left: Vec<NodeId> = self.counting().into_iter().filter(|other| *other != id).collect();
        let enough = |own: &Configuration| own.has_quorum(|node| left.contains(&node));
        if !self.configurations().iter().all(enough) {
            return;
        }
        // Blank, who founded the shard alone would found another one: its owner has to start it as one that joins.
        if self.initial.has_quorum(|node| node == id) {
            return;
        }
        self.crash(id);
        self.tell(|| format!("{id} LOSES ITS DISK"));
        self.wipes += 1;
        self.cluster.wipe(id);
    }
}
