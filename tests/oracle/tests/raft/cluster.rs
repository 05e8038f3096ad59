//! Small clusters of pairs: one implementation speaks, the other one hears the same and is compared
//! at each step. Messages are lost, repeated and overtaken; disks are slow; nodes crash.

use coracle_engine::NodeId;
use coracle_engine::raft::Message;
use proptest::prelude::*;

use crate::case::{self, Case};
use crate::pair::{Input, Pair};
use crate::story::Story;

/// One thing that happens. Numbers choose among what there is, by remainder.
#[derive(Clone, Debug)]
pub enum Op {
    /// Passes so many heartbeat intervals on one node.
    Tick {
        node: u8,
        ticks: u8,
    },
    /// Delivers one of the oldest messages under way.
    Deliver {
        pick: u8,
    },
    /// Delivers any message.
    Overtake {
        pick: u16,
    },
    /// Delivers any message and keeps it, to come again.
    Repeat {
        pick: u16,
    },
    /// Loses any message.
    Lose {
        pick: u16,
    },
    /// Loses all messages to a node.
    LoseAll {
        node: u8,
    },
    /// Delivers, oldest first, until nothing is under way or so many are.
    Settle {
        messages: u8,
    },
    Propose {
        node: u8,
        proposals: u8,
    },
    Persist {
        node: u8,
        batches: u8,
    },
    ReportLate {
        node: u8,
        back: u8,
    },
    Restart {
        node: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), 1_u8..12).prop_map(|(node, ticks)| Op::Tick { node, ticks }),
        20 => (0_u8..4).prop_map(|pick| Op::Deliver { pick }),
        4 => any::<u16>().prop_map(|pick| Op::Overtake { pick }),
        3 => any::<u16>().prop_map(|pick| Op::Repeat { pick }),
        3 => any::<u16>().prop_map(|pick| Op::Lose { pick }),
        1 => any::<u8>().prop_map(|node| Op::LoseAll { node }),
        6 => (1_u8..40).prop_map(|messages| Op::Settle { messages }),
        8 => (any::<u8>(), 1_u8..4).prop_map(|(node, proposals)| Op::Propose { node, proposals }),
        10 => (any::<u8>(), 1_u8..4).prop_map(|(node, batches)| Op::Persist { node, batches }),
        2 => (any::<u8>(), 0_u8..6).prop_map(|(node, back)| Op::ReportLate { node, back }),
        2 => any::<u8>().prop_map(|node| Op::Restart { node }),
    ]
}

/// Random runs.
pub fn cases() -> impl Strategy<Value = Case<Op>> {
    let size = prop_oneof![Just(3_u64), Just(5_u64)];
    case::cases(size, prop::collection::vec(op(), 20..300))
}

/// Most messages under way; the oldest are lost beyond.
const NETWORK_MAX: usize = 200;

struct Run<'a> {
    pairs: Vec<Pair>,
    network: Vec<(NodeId, NodeId, Message)>,
    quick_disk: bool,
    story: &'a mut Story,
}

/// Runs one case; the error tells the first difference.
pub fn run(case: &Case<Op>, story: &mut Story) -> Result<(), String> {
    let ids: Vec<NodeId> = (1..=case.size).map(NodeId).collect();
    let pair = |id: &NodeId| Pair::new(*id, &ids, case.seed, case.speaker);
    let pairs = ids.iter().map(pair).collect();
    let quick_disk = case.quick_disk;
    let mut run = Run { pairs, network: Vec::new(), quick_disk, story };
    case.ops.iter().try_for_each(|op| run.act(op))
}

impl Run<'_> {
    fn act(&mut self, op: &Op) -> Result<(), String> {
        let place = |node: u8| usize::from(node) % self.pairs.len();
        match *op {
            Op::Tick { node, ticks } => {
                let node = place(node);
                (0..ticks).try_for_each(|_| self.step(node, Input::Tick))
            }
            Op::Deliver { pick } => self.deliver(usize::from(pick), false),
            Op::Overtake { pick } => self.deliver(usize::from(pick), false),
            Op::Repeat { pick } => self.deliver(usize::from(pick), true),
            Op::Lose { pick } => {
                if let Some(place) = usize::from(pick).checked_rem(self.network.len()) {
                    self.network.remove(place);
                }
                Ok(())
            }
            Op::LoseAll { node } => {
                let id = NodeId(place(node) as u64 + 1);
                self.network.retain(|(_, to, _)| *to != id);
                Ok(())
            }
            Op::Settle { messages } => (0..messages).try_for_each(|_| self.deliver(0, false)),
            Op::Propose { node, proposals } => {
                self.step(place(node), Input::Propose(usize::from(proposals)))
            }
            Op::Persist { node, batches } => {
                self.step(place(node), Input::Persist(usize::from(batches)))
            }
            Op::ReportLate { node, back } => {
                self.step(place(node), Input::ReportLate(usize::from(back)))
            }
            Op::Restart { node } => self.step(place(node), Input::Restart),
        }
    }

    fn deliver(&mut self, pick: usize, again: bool) -> Result<(), String> {
        let Some(place) = pick.checked_rem(self.network.len()) else { return Ok(()) };
        let (from, to, message) =
            if again { self.network[place].clone() } else { self.network.remove(place) };
        self.step(to.0 as usize - 1, Input::Receive(from, message))
    }

    fn step(&mut self, node: usize, input: Input) -> Result<(), String> {
        self.one(node, input)?;
        while self.quick_disk && self.pairs[node].pending() > 0 {
            self.one(node, Input::Persist(1))?;
        }
        Ok(())
    }

    fn one(&mut self, node: usize, input: Input) -> Result<(), String> {
        let id = NodeId(node as u64 + 1);
        self.story.tell(|| format!("{id} <- {input:?}"));
        let sends = self.pairs[node].step(input).map_err(|error| format!("node {id}: {error}"))?;
        for (to, message) in sends {
            self.story.tell(|| format!("    {id} -> {to} {message:?}"));
            self.network.push((id, to, message));
        }
        let beyond = self.network.len().saturating_sub(NETWORK_MAX);
        self.network.drain(..beyond);
        let view = self.pairs[node].view();
        self.story.state(id, &view);
        Ok(())
    }
}
