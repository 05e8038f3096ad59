//! A cluster of Raft cores in memory: disks that forget what is not written, and a network that does
//! what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use coracle_engine::raft::{
    AppendOutcome, Config, Effects, Entry, Event, HardState, Message, Raft, RaftLog, WriteMark,
};
use coracle_engine::{LogIndex, NodeId, Term};

/// What survives a crash of a node.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, write: &Write) {
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the stored term never decreases");
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            self.entries.truncate(first.index.0 as usize - 1);
            self.entries.extend(write.entries.iter().cloned());
        }
        let last_term = self.entries.last().map_or(Term(0), |entry| entry.term);
        assert!(self.hard_state.term >= last_term, "a term is stored no later than its entries");
    }

    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        match index.0 {
            0 => Some(Term(0)),
            n => self.entries.get(n as usize - 1).map(|entry| entry.term),
        }
    }
}

/// A batch that is handed out and not yet on disk.
#[derive(Clone, Debug)]
pub struct Write {
    pub hard_state: Option<HardState>,
    pub entries: Vec<Entry>,
    pub mark: WriteMark,
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
    starts: u64,
}

pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub network: Vec<Envelope>,
    template: Config,
    effects: Effects,
}

impl Cluster {
    pub fn new(size: u64, seed: u64, change: impl Fn(&mut Config)) -> Self {
        let voters: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let mut template = Config::new(NodeId(1), voters.clone(), seed);
        change(&mut template);
        let node = |id| Node {
            id,
            raft: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            applied: LogIndex(0),
            now: Duration::ZERO,
            starts: 0,
        };
        let nodes = voters.into_iter().map(|id| (id, node(id))).collect();
        let mut cluster =
            Self { nodes, network: Vec::new(), template, effects: Effects::default() };
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
        if effects.hard_state.is_some() || !effects.entries.is_empty() {
            node.writes.push_back(Write {
                hard_state: effects.hard_state,
                entries: effects.entries.clone(),
                mark: effects.write_mark.expect("a batch to store has a mark"),
                after_durable: effects.after_durable.clone(),
            });
        } else {
            assert!(effects.after_durable.is_empty(), "waits for a batch, but nothing is to store");
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
                let own = raft.entry(matched).map_or(Term(0), |entry| entry.term);
                assert_eq!(
                    node.disk.term_at(matched),
                    Some(own),
                    "ack before the entry is durable"
                );
            }
            if let Message::VoteReply(reply) = message {
                assert!(!reply.granted, "a vote never leaves before it is stored");
            }
            assert!(!matches!(message, Message::Vote(_)), "nor does a request for votes");
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
    }

    pub fn restart(&mut self, id: NodeId) {
        let mut config = Config { id, ..self.template.clone() };
        let node = self.node_mut(id);
        config.random_seed ^= node.starts << 32;
        node.starts += 1;
        let log = RaftLog::in_memory(LogIndex(0), Term(0), node.disk.entries.clone()).unwrap();
        let raft = Raft::new(config, node.disk.hard_state, log, node.now).unwrap();
        node.applied = raft.commit();
        node.raft = Some(raft);
    }
}
