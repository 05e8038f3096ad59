//! Two whole clusters, one of each implementation, under the same fate: each talks only to its own
//! kind. They are compared whenever they have come to rest.
//!
//! Here it counts what is sent, too: what a leader does not send, its followers do not get.

use std::collections::BTreeSet;

use coracle_engine::raft::{Message, Role};
use coracle_engine::{LogIndex, NodeId};
use proptest::prelude::*;

use crate::ours::{self, Ours};
use crate::pair::payload;
use crate::story::Story;
use crate::tally::{Decision, count};
use crate::theirs::{self, ELECTION_TICKS, Theirs, View};

/// One thing that happens to both clusters, which then come to rest.
#[derive(Clone, Debug)]
pub enum Op {
    /// Heartbeat intervals pass on one node.
    Tick {
        node: u8,
        ticks: u8,
    },
    /// Two nodes campaign at the same time, if their timeouts are over.
    Race {
        one: u8,
        other: u8,
    },
    Propose {
        node: u8,
        proposals: u8,
    },
    /// A proposal that is stored, but whose messages are all lost.
    ProposeUnheard {
        node: u8,
        proposals: u8,
    },
    /// A node is cut off, or connected again.
    Isolate {
        node: u8,
    },
    /// Every node is connected with all others.
    Heal,
    Restart {
        node: u8,
    },
}

/// A run.
#[derive(Clone, Debug)]
pub struct Case {
    pub size: u64,
    pub seed: u64,
    pub ops: Vec<Op>,
}

fn op() -> impl Strategy<Value = Op> {
    let n = any::<u8>;
    prop_oneof![
        12 => (n(), 1_u8..12).prop_map(|(node, ticks)| Op::Tick { node, ticks }),
        2 => (n(), n()).prop_map(|(one, other)| Op::Race { one, other }),
        6 => (n(), 1_u8..4).prop_map(|(node, proposals)| Op::Propose { node, proposals }),
        4 => (n(), 1_u8..4).prop_map(|(node, proposals)| Op::ProposeUnheard { node, proposals }),
        4 => n().prop_map(|node| Op::Isolate { node }),
        2 => Just(Op::Heal),
        2 => n().prop_map(|node| Op::Restart { node }),
    ]
}

/// Random runs.
pub fn cases() -> impl Strategy<Value = Case> {
    let size = prop_oneof![Just(3_u64), Just(5_u64)];
    let ops = prop::collection::vec(op(), 5..60);
    (size, any::<u64>(), ops).prop_map(|(size, seed, ops)| Case { size, seed, ops })
}

/// Rounds of messages after which a cluster is taken to go on for ever.
const ROUNDS_MAX: usize = 1000;

/// A replica as the network sees it.
trait Replica {
    type Outcome;
    fn hear(&mut self, from: NodeId, message: Message) -> Result<Self::Outcome, String>;
    /// Writes everything at once; returns all that is sent.
    fn write(&mut self, outcome: Self::Outcome) -> Result<Vec<(NodeId, Message)>, String>;
}

impl Replica for Ours {
    type Outcome = ours::Outcome;

    fn hear(&mut self, from: NodeId, message: Message) -> Result<ours::Outcome, String> {
        self.receive(from, message)
    }

    fn write(&mut self, outcome: ours::Outcome) -> Result<Vec<(NodeId, Message)>, String> {
        let mut sends = outcome.now;
        sends.extend(self.persist(outcome.batch.into_iter().collect())?);
        Ok(sends)
    }
}

impl Replica for Theirs {
    type Outcome = theirs::Outcome;

    fn hear(&mut self, from: NodeId, message: Message) -> Result<theirs::Outcome, String> {
        self.receive(from, &message)
    }

    fn write(&mut self, outcome: theirs::Outcome) -> Result<Vec<(NodeId, Message)>, String> {
        let mut sends = outcome.now;
        let mut batches = outcome.batches;
        while !batches.is_empty() {
            sends.extend(self.persist(batches));
            let more = self.after_persist();
            sends.extend(more.now);
            batches = more.batches;
        }
        Ok(sends)
    }
}

/// One of the two clusters.
struct Side<R> {
    name: &'static str,
    nodes: Vec<R>,
    network: Vec<(NodeId, NodeId, Message)>,
}

impl<R: Replica> Side<R> {
    fn take(&mut self, node: usize, outcome: R::Outcome, story: &mut Story) -> Result<(), String> {
        let from = NodeId(node as u64 + 1);
        for (to, message) in self.nodes[node].write(outcome)? {
            story.tell(|| format!("    {}: {from} -> {to} {message:?}", self.name));
            self.network.push((from, to, message));
        }
        Ok(())
    }

    /// Delivers in rounds, each in the order of receivers and senders, until nothing is under way.
    fn rest(&mut self, cut_off: &BTreeSet<NodeId>, story: &mut Story) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let mut round = std::mem::take(&mut self.network);
            if round.is_empty() {
                return Ok(());
            }
            round.retain(|(from, to, _)| !cut_off.contains(from) && !cut_off.contains(to));
            round.sort_by_key(|(from, to, _)| (*to, *from));
            for (from, to, message) in round {
                let node = to.0 as usize - 1;
                let outcome = self.nodes[node].hear(from, message)?;
                self.take(node, outcome, story)?;
            }
        }
        Err(format!("{} does not come to rest", self.name))
    }
}

struct Run<'a> {
    ours: Side<Ours>,
    theirs: Side<Theirs>,
    cut_off: BTreeSet<NodeId>,
    /// The highest commit index of a leader.
    commit: LogIndex,
    story: &'a mut Story,
}

/// Runs one case; the error tells the first difference.
pub fn run(case: &Case, story: &mut Story) -> Result<(), String> {
    let ids: Vec<NodeId> = (1..=case.size).map(NodeId).collect();
    let ours = ids.iter().map(|id| Ours::new(*id, &ids, case.seed)).collect();
    let theirs = ids.iter().map(|id| Theirs::new(*id, &ids)).collect();
    let mut run = Run {
        ours: Side { name: "ours", nodes: ours, network: Vec::new() },
        theirs: Side { name: "theirs", nodes: theirs, network: Vec::new() },
        cut_off: BTreeSet::new(),
        commit: LogIndex(0),
        story,
    };
    for op in &case.ops {
        run.story.tell(|| format!("{op:?}"));
        run.act(op)?;
        run.compare()?;
    }
    run.cut_off.clear();
    run.story.tell(|| "all connected".to_owned());
    run.compare()
}

impl Run<'_> {
    fn act(&mut self, op: &Op) -> Result<(), String> {
        let size = self.ours.nodes.len();
        let place = |node: u8| usize::from(node) % size;
        match *op {
            Op::Tick { node, ticks } => {
                for _ in 0..ticks {
                    self.tick(place(node))?;
                    self.rest()?;
                }
                Ok(())
            }
            Op::Race { one, other } => {
                let nodes = [place(one), place(other)];
                for node in nodes {
                    for _ in 0..2 * ELECTION_TICKS {
                        if self.ours.nodes[node].view().role == Role::Follower {
                            self.tick(node)?;
                        }
                    }
                }
                self.rest()
            }
            Op::Propose { node, proposals } => {
                self.propose(place(node), proposals)?;
                self.rest()
            }
            Op::ProposeUnheard { node, proposals } => {
                self.propose(place(node), proposals)?;
                self.ours.network.clear();
                self.theirs.network.clear();
                Ok(())
            }
            Op::Isolate { node } => {
                let id = NodeId(place(node) as u64 + 1);
                if !self.cut_off.remove(&id) {
                    self.cut_off.insert(id);
                }
                Ok(())
            }
            Op::Heal => {
                self.cut_off.clear();
                Ok(())
            }
            Op::Restart { node } => {
                let node = place(node);
                self.ours.nodes[node].restart()?;
                let commit = self.ours.nodes[node].stored_commit();
                self.theirs.nodes[node].restart(commit)
            }
        }
    }

    fn tick(&mut self, node: usize) -> Result<(), String> {
        let ours = self.ours.nodes[node].tick()?;
        let asks = |(_, message): &(NodeId, Message)| matches!(message, Message::PreVote(_));
        let theirs = self.theirs.nodes[node].tick(ours.now.iter().any(asks))?;
        self.ours.take(node, ours, self.story)?;
        self.theirs.take(node, theirs, self.story)
    }

    fn propose(&mut self, node: usize, proposals: u8) -> Result<(), String> {
        let view = self.ours.nodes[node].view();
        let first = view.log.len() as u64 + 1;
        let payloads: Vec<_> =
            (first..).take(proposals.into()).map(|index| payload(view.term.0, index)).collect();
        let theirs = self.theirs.nodes[node].propose(&payloads)?;
        let ours = self.ours.nodes[node].propose(payloads)?;
        self.ours.take(node, ours, self.story)?;
        self.theirs.take(node, theirs, self.story)
    }

    fn rest(&mut self) -> Result<(), String> {
        self.ours.rest(&self.cut_off, self.story)?;
        self.theirs.rest(&self.cut_off, self.story)
    }

    /// Lets leaders make up for what was lost, then compares all nodes.
    fn compare(&mut self) -> Result<(), String> {
        self.rest()?;
        for _ in 0..3 {
            for node in 0..self.ours.nodes.len() {
                if self.ours.nodes[node].view().role == Role::Leader {
                    self.tick(node)?;
                    self.rest()?;
                }
            }
        }
        for (place, (ours, theirs)) in self.ours.nodes.iter().zip(&self.theirs.nodes).enumerate() {
            let id = NodeId(place as u64 + 1);
            let (ours, theirs): (View, View) = (ours.view(), theirs.view());
            self.story.state(id, &ours);
            if ours != theirs {
                self.story.tell(|| "but of theirs:".to_owned());
                self.story.state(id, &theirs);
                return Err(format!("node {id}: ours {ours:?}\ntheirs {theirs:?}"));
            }
            count(Decision::Quiescent);
            if ours.role == Role::Leader {
                count(Decision::QuiescentLeader);
                if ours.commit > self.commit {
                    self.commit = ours.commit;
                    count(Decision::QuiescentCommit);
                }
            }
        }
        Ok(())
    }
}
