//! A cluster of Raft cores in memory: disks that forget what is not written, snapshots, and a network that
//! does what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::{
    AppendOutcome, Base, Config, Effects, Entry, Event, Fetch, HardState, Message, Raft, RaftLog,
    Standing, WriteMark,
};
use coracle_engine::{LogIndex, NodeId, Term};

/// What survives a crash of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disk {
    /// Whether anything was ever written.
    pub written: bool,
    pub hard_state: HardState,
    /// Position before the first entry.
    pub base: (LogIndex, Term),
    pub entries: Vec<Entry>,
    /// Index and term of each.
    pub snapshots: BTreeMap<LogIndex, Term>,
    /// What each snapshot says about who belongs to the shard.
    pub configurations: BTreeMap<LogIndex, Configuration>,
}

impl Disk {
    fn write(&mut self, write: &Write) {
        self.written = true;
        if let Some(base) = write.base {
            if base.reset {
                self.entries.clear();
            } else {
                self.entries.retain(|entry| entry.index > base.index);
            }
            self.base = (base.index, base.term);
        }
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the stored term never decreases");
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            assert!(first.index > self.base.0 && first.index <= self.last().next(), "no gap");
            self.entries.truncate((first.index.0 - self.base.0.0) as usize - 1);
            self.entries.extend(write.entries.iter().cloned());
        }
        let last_term = self.entries.last().map_or(self.base.1, |entry| entry.term);
        assert!(self.hard_state.term >= last_term, "a term is stored no later than its entries");
    }

    pub fn last(&self) -> LogIndex {
        LogIndex(self.base.0.0 + self.entries.len() as u64)
    }

    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.base.0.0 + 1)?;
        self.entries.get(offset as usize)
    }

    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        match index == self.base.0 {
            true => Some(self.base.1),
            false => self.entry(index).map(|entry| entry.term),
        }
    }

    /// The log as a start finds it.
    pub fn log(&self) -> RaftLog {
        let (base, term) = self.base;
        let log = RaftLog::in_memory(base, term, self.entries.clone()).unwrap();
        let known = self.newest_snapshot().map(|(index, _)| index);
        let (from, configuration) = match known {
            Some(index) => (index, self.configurations[&index].clone()),
            None => (base, Configuration::default()),
        };
        let entries = self.entries.iter();
        let later = entries.filter_map(|entry| Some((entry.index, entry.configuration()?)));
        log.with_configurations(from, configuration, later.collect())
    }

    pub fn newest_snapshot(&self) -> Option<(LogIndex, Term)> {
        self.snapshots.last_key_value().map(|(index, term)| (*index, *term))
    }

    /// Whether the entry at `index`, if it is of `term`, is here or in a snapshot.
    pub fn holds(&self, index: LogIndex, term: Term) -> bool {
        let in_snapshot = self.newest_snapshot().is_some_and(|(newest, _)| newest >= index);
        in_snapshot || self.term_at(index) == Some(term)
    }

    /// Entries from `first` on, by what they cost.
    pub fn read(&self, first: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let Some(offset) = first.0.checked_sub(self.base.0.0 + 1) else { return Vec::new() };
        let mut bytes = 0;
        let entries = self.entries.iter().skip(offset as usize);
        let fits = entries.take_while(|entry| {
            let begins = bytes == 0;
            bytes += entry.cost();
            begins || bytes <= bytes_max
        });
        fits.cloned().collect()
    }
}

/// A batch that is handed out and not yet on disk.
#[derive(Clone, Debug)]
pub struct Write {
    pub base: Option<Base>,
    pub hard_state: Option<HardState>,
    pub entries: Vec<Entry>,
    /// Absent for what nothing waits for.
    pub mark: Option<WriteMark>,
    pub after_durable: Vec<(NodeId, Message)>,
}

/// A message under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub from: NodeId,
    pub to: NodeId,
    pub message: Message,
}

pub struct Node {
    pub id: NodeId,
    /// Absent while the node is down.
    pub raft: Option<Raft>,
    pub disk: Disk,
    /// Handed out, not on disk; written in this order.
    pub writes: VecDeque<Write>,
    pub applied: LogIndex,
    pub now: Duration,
    /// What it has asked for and not got.
    pub fetches: Vec<Fetch>,
    /// The snapshot that it should pull: from whom, index and term.
    pub pull: Option<(NodeId, LogIndex, Term)>,
    /// Disks that it lost.
    pub lost: Vec<Disk>,
    /// Whether it counts: it was a member at some time since it lost its disk.
    pub counts: bool,
    starts: u64,
}

pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub network: Vec<Envelope>,
    template: Config,
    /// Whether nodes that never stored anything ask whether the cluster is new. Nodes that lost their disk
    /// always do.
    census: bool,
    effects: Effects,
}

impl Cluster {
    pub fn new(size: u64, seed: u64, change: impl Fn(&mut Config)) -> Self {
        Self::with_spares(size, 0, seed, change)
    }

    /// A cluster with further nodes, which join with blank disks when somebody adds them.
    pub fn with_spares(size: u64, spares: u64, seed: u64, change: impl Fn(&mut Config)) -> Self {
        let voters: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let mut template = Config::new(NodeId(1), voters.clone(), seed);
        change(&mut template);
        let census = template.blank.take().is_some();
        let node = |id| Node {
            id,
            raft: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            applied: LogIndex(0),
            now: Duration::ZERO,
            fetches: Vec::new(),
            pull: None,
            lost: Vec::new(),
            counts: false,
            starts: 0,
        };
        let nodes = (1..=size + spares).map(NodeId).map(|id| (id, node(id))).collect();
        let mut cluster =
            Self { nodes, network: Vec::new(), template, census, effects: Effects::default() };
        for id in cluster.ids() {
            cluster.restart(id);
        }
        cluster
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub fn raft(&self, id: NodeId) -> Option<&Raft> {
        self.nodes[&id].raft.as_ref()
    }

    /// Steps a node and files what it wants done. Returns the effects for whoever wants to look.
    pub fn step(&mut self, id: NodeId, event: Event) -> &Effects {
        self.effects.clear();
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(raft) = &mut node.raft else { return &self.effects };
        if let Event::Tick { now } = event {
            node.now = now;
        }
        raft.step(event, &mut self.effects);
        let effects = &self.effects;
        node.counts |= raft.standing() == Some(Standing::Member);
        node.fetches.extend(&effects.fetches);
        node.pull = effects.offered.or(node.pull);
        if effects.write_mark.is_some() {
            node.writes.push_back(Write {
                base: effects.base,
                hard_state: effects.hard_state,
                entries: effects.entries.clone(),
                mark: effects.write_mark,
                after_durable: effects.after_durable.clone(),
            });
        } else {
            assert!(effects.after_durable.is_empty(), "waits for a batch, but nothing is to store");
            let stores = effects.base.is_some() || effects.hard_state.is_some();
            assert!(!stores && effects.entries.is_empty(), "a batch to store has a mark");
        }
        if let Some(index) = effects.committed {
            assert!(index > node.applied, "the commit index moves forward");
            node.applied = index;
        }
        for (to, message) in &effects.messages {
            if let Message::AppendReply(reply) = message
                && let AppendOutcome::Accepted { matched } = reply.outcome
            {
                assert!(node.disk.hard_state.term >= reply.term, "ack before the term is durable");
                match raft.log().term_at(matched) {
                    None => assert!(raft.log().base_index() > matched, "ack of what never was"),
                    own => assert_eq!(node.disk.term_at(matched), own, "ack before it is durable"),
                }
            }
            if let Message::VoteReply(reply) = message {
                assert!(!reply.granted, "a vote never leaves before it is stored");
            }
            if let Message::Vote(vote) = message {
                assert!(vote.transfer, "nor does a request for votes, unless a leader wants it");
                let term = node.disk.hard_state.term;
                assert_eq!(term.0 + 1, vote.term.0, "then the term before is stored");
                let stored = node.disk.term_at(vote.last_index);
                assert_eq!(stored, Some(vote.last_term), "and the log that it speaks of");
            }
            self.network.push(Envelope { from: id, to: *to, message: message.clone() });
        }
        &self.effects
    }

    /// Like [`Cluster::step`], for a caller that keeps the effects for a while.
    pub fn step_owned(&mut self, id: NodeId, event: Event) -> &mut Effects {
        self.step(id, event);
        &mut self.effects
    }

    /// Takes effects back, to reuse their buffers.
    pub fn give_back(&mut self, effects: Effects) {
        self.effects = effects;
    }

    /// Puts the oldest batch of a node on its disk. The caller passes on what waited for it.
    pub fn write_one(&mut self, id: NodeId) -> Option<Write> {
        let node = self.node_mut(id);
        let write = node.writes.pop_front()?;
        node.disk.write(&write);
        Some(write)
    }

    pub fn crash(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.raft = None;
        node.writes.clear();
        node.fetches.clear();
        node.pull = None;
    }

    /// Loses a node's disk. What was under way to it never arrives: its connections are gone.
    pub fn wipe(&mut self, id: NodeId) {
        self.crash(id);
        self.network.retain(|envelope| envelope.to != id);
        let node = self.node_mut(id);
        node.lost.push(std::mem::take(&mut node.disk));
        node.counts = false;
    }

    pub fn restart(&mut self, id: NodeId) {
        self.restart_with(id, |_| {});
    }

    /// Restarts a node with another configuration.
    pub fn restart_with(&mut self, id: NodeId, change: impl Fn(&mut Config)) {
        let mut config = Config { id, ..self.template.clone() };
        change(&mut config);
        let census = self.census;
        let node = self.node_mut(id);
        config.random_seed ^= node.starts << 32;
        node.starts += 1;
        let joins = !config.voters.contains(&id);
        if joins {
            config.voters.clear();
        }
        let blank = !node.disk.written && (census || joins || !node.lost.is_empty());
        config.blank = blank.then_some(id.0 * 100 + node.starts);
        let log = node.disk.log();
        let raft = Raft::new(config, node.disk.hard_state, log, node.now).unwrap();
        node.applied = raft.commit();
        node.raft = Some(raft);
        if let Some((index, term)) = self.node(id).disk.newest_snapshot() {
            let configuration = self.node(id).disk.configurations[&index].clone();
            self.step(id, Event::Snapshot { index, term, configuration });
        }
    }

    /// Makes a durable snapshot of what is committed, and removes those that nobody needs. Gives the event
    /// that is due.
    pub fn take_snapshot(&mut self, id: NodeId) -> Option<Event> {
        let node = self.node_mut(id);
        let raft = node.raft.as_ref()?;
        let index = raft.commit();
        let term = raft.log().term_at(index)?;
        if index == LogIndex(0) {
            return None;
        }
        let configuration = raft.log().configuration_at(index).clone();
        if configuration.incoming().is_empty() {
            return None; // not known yet
        }
        if !raft.is_term_durable(term) {
            return None; // it must not outlive what says that the replica was in that term
        }
        node.disk.snapshots.insert(index, term);
        let pinned: Vec<LogIndex> = raft.offered().map(|(_, index)| index).collect();
        node.disk.snapshots.retain(|other, _| *other == index || pinned.contains(other));
        node.disk.configurations.insert(index, configuration.clone());
        Some(Event::Snapshot { index, term, configuration })
    }

    /// Drops a node's log up to `index`.
    pub fn compact(&mut self, id: NodeId, index: LogIndex) -> Option<Base> {
        let node = self.node_mut(id);
        let base = node.raft.as_mut()?.compact_to(index)?;
        node.writes.push_back(Write {
            base: Some(base),
            hard_state: None,
            entries: Vec::new(),
            mark: None,
            after_durable: Vec::new(),
        });
        Some(base)
    }

    /// Ends the pull of a snapshot, if there is one and its source still has it. Gives the event that is
    /// due. `blindly`: also if it is no news any more.
    pub fn finish_pull(&mut self, id: NodeId, blindly: bool) -> Option<Event> {
        let (from, index, term) = self.node_mut(id).pull.take()?;
        let source = self.node(from);
        let has = source.raft.is_some() && source.disk.snapshots.get(&index) == Some(&term);
        let configuration = source.disk.configurations.get(&index).cloned().unwrap_or_default();
        let node = self.node_mut(id);
        if !has || !(blindly || node.raft.as_ref()?.needs_snapshot(index)) {
            return None;
        }
        node.disk.snapshots.insert(index, term);
        node.disk.configurations.insert(index, configuration.clone());
        Some(Event::Installed { index, term, configuration })
    }

    /// Reads what a node has asked for first. Gives the event that is due.
    pub fn finish_fetch(&mut self, id: NodeId, works: bool) -> Option<Event> {
        let node = self.node_mut(id);
        let fetch = (!node.fetches.is_empty()).then(|| node.fetches.remove(0))?;
        let entries = node.disk.read(fetch.first, fetch.bytes_max);
        let Fetch { to, first, .. } = fetch;
        Some(match works && !entries.is_empty() {
            true => Event::Fetched { to, first, entries },
            false => Event::FetchFailed { to, first },
        })
    }
}
