//! One pair among peers that follow a script: they may say anything that correct peers of a cluster
//! with crashes and a bad network could say, and far more often than such peers would.
//!
//! What keeps it legal is the [`World`]: which leaders there were, their logs, and what is committed.
//! A new leader's log has everything that is committed or that the pair, leading, could still commit;
//! a term has one leader; who acknowledged something keeps it. An entry is known by term and index.

use std::collections::BTreeMap;

use coracle_engine::raft::{
    Append, AppendOutcome, AppendReply, CommitMark, Entry, EntryKind, Heartbeat, HeartbeatReply,
    Message, PreVote, PreVoteReply, Role, Standing, Vote, VoteReply,
};
use coracle_engine::{LogIndex, NodeId, Term};
use proptest::prelude::*;

use crate::case::{self, Case};
use crate::pair::{Input, Pair, payload, term_at, terms};
use crate::story::Story;
use crate::theirs::{ELECTION_TICKS, View};

/// One thing that happens to the pair. Numbers choose among what is possible, by remainder.
#[derive(Clone, Debug)]
pub enum Op {
    Tick {
        ticks: u8,
    },
    Persist {
        batches: u8,
    },
    Propose {
        proposals: u8,
    },
    ReportLate {
        back: u8,
    },
    Restart,
    /// The pair campaigns, and the peers give it what they may.
    Campaign,
    /// A peer was elected in a later term, with some log that such a peer can have.
    NewLeader {
        peer: u8,
        skip: u8,
        base: u8,
        keep: u8,
        entries: u8,
    },
    /// A leader appends, and perhaps commits.
    Grow {
        leader: u8,
        entries: u8,
        commit: Option<u8>,
    },
    Append {
        leader: u8,
        back: u8,
        entries: u8,
        commit: u8,
    },
    Heartbeat {
        leader: u8,
        commit: u8,
    },
    /// A peer asks for a vote; its log ends near that of the pair.
    Ask {
        peer: u8,
        ahead: i8,
        index: i8,
        term: i8,
        pre: bool,
    },
    /// A leader's request for votes comes before its first append and once again after it; some time
    /// after that, somebody else asks.
    AskAgain {
        leader: u8,
        first: u8,
        then: u8,
    },
    AnswerPreVote {
        peer: u8,
        pick: u8,
        grant: bool,
        ahead: i8,
    },
    AnswerVote {
        peer: u8,
        pick: u8,
        grant: bool,
    },
    Acknowledge {
        peer: u8,
        back: u8,
    },
    Reject {
        peer: u8,
        back: u8,
        hint: u8,
        term: u8,
    },
    AnswerHeartbeat {
        peer: u8,
        ahead: i8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    use Op::*;
    let n = any::<u8>;
    prop_oneof![
        4 => (1_u8..12).prop_map(|ticks| Tick { ticks }),
        8 => (1_u8..4).prop_map(|batches| Persist { batches }),
        6 => (1_u8..4).prop_map(|proposals| Propose { proposals }),
        2 => (0_u8..6).prop_map(|back| ReportLate { back }),
        1 => Just(Restart),
        2 => Just(Campaign),
        3 => (n(), 0_u8..3, n(), n(), 0_u8..4).prop_map(|(peer, skip, base, keep, entries)| {
            NewLeader { peer, skip, base, keep, entries }
        }),
        3 => (0_u8..3, 0_u8..4, prop::option::of(n()))
            .prop_map(|(leader, entries, commit)| Grow { leader, entries, commit }),
        12 => (0_u8..4, 0_u8..6, 0_u8..6, n())
            .prop_map(|(leader, back, entries, commit)| Append { leader, back, entries, commit }),
        3 => (0_u8..3, n()).prop_map(|(leader, commit)| Heartbeat { leader, commit }),
        6 => (n(), -2_i8..4, -3_i8..4, -2_i8..3, any::<bool>())
            .prop_map(|(peer, ahead, index, term, pre)| Ask { peer, ahead, index, term, pre }),
        1 => (0_u8..2, 1_u8..6, 1_u8..6)
            .prop_map(|(leader, first, then)| AskAgain { leader, first, then }),
        6 => (n(), 0_u8..2, prop::bool::weighted(0.8), -1_i8..3)
            .prop_map(|(peer, pick, grant, ahead)| AnswerPreVote { peer, pick, grant, ahead }),
        6 => (n(), 0_u8..2, prop::bool::weighted(0.8))
            .prop_map(|(peer, pick, grant)| AnswerVote { peer, pick, grant }),
        12 => (n(), 0_u8..5).prop_map(|(peer, back)| Acknowledge { peer, back }),
        3 => (n(), 0_u8..5, 0_u8..5, 0_u8..6)
            .prop_map(|(peer, back, hint, term)| Reject { peer, back, hint, term }),
        3 => (n(), prop_oneof![8 => Just(0), 1 => Just(-1), 1 => Just(1)])
            .prop_map(|(peer, ahead)| AnswerHeartbeat { peer, ahead }),
    ]
}

/// Random runs.
pub fn cases() -> impl Strategy<Value = Case<Op>> {
    case::cases(3_u64..6, prop::collection::vec(op(), 10..150))
}

/// A peer that leads, or led, a term.
struct Leader {
    id: NodeId,
    term: u64,
    /// Terms of its entries.
    log: Vec<u64>,
    commit: usize,
}

struct World {
    size: u64,
    leaders: Vec<Leader>,
    /// Terms of the entries that are committed somewhere.
    committed: Vec<u64>,
    /// The latest term that has a leader or in which the pair was given a vote.
    era: u64,
    /// Terms in which the pair asked for pre-votes and votes.
    asked_before: Vec<u64>,
    asked: Vec<u64>,
    /// What the pair has acknowledged, by term.
    acked: BTreeMap<u64, u64>,
    /// What peers have acknowledged to the pair, by term and peer.
    acks: BTreeMap<(u64, NodeId), u64>,
}

/// Runs one case; the error tells the first difference.
pub fn run(case: &Case<Op>, story: &mut Story) -> Result<(), String> {
    let ids: Vec<NodeId> = (1..=case.size).map(NodeId).collect();
    let mut pair = Pair::new(NodeId(1), &ids, case.seed, case.speaker);
    let mut world = World {
        size: case.size,
        leaders: Vec::new(),
        committed: Vec::new(),
        era: 0,
        asked_before: Vec::new(),
        asked: Vec::new(),
        acked: BTreeMap::new(),
        acks: BTreeMap::new(),
    };
    case.ops.iter().try_for_each(|op| world.act(op, &mut pair, case.quick_disk, story))
}

fn near(value: u64, change: i8) -> u64 {
    value.saturating_add_signed(i64::from(change))
}

/// `back` places before `last`.
fn before(last: usize, back: u8) -> usize {
    last.saturating_sub(usize::from(back))
}

impl World {
    fn act(
        &mut self,
        op: &Op,
        pair: &mut Pair,
        quick_disk: bool,
        story: &mut Story,
    ) -> Result<(), String> {
        if let Op::Campaign = op {
            return self.campaign(pair, quick_disk, story);
        }
        for input in self.inputs(op, &pair.view()) {
            self.give(pair, input, story)?;
            while quick_disk && pair.pending() > 0 {
                self.give(pair, Input::Persist(1), story)?;
            }
        }
        Ok(())
    }

    fn campaign(
        &mut self,
        pair: &mut Pair,
        quick_disk: bool,
        story: &mut Story,
    ) -> Result<(), String> {
        let asked = self.asked_before.len();
        for _ in 0..2 * ELECTION_TICKS {
            if self.asked_before.len() == asked && pair.view().role != Role::Leader {
                self.act(&Op::Tick { ticks: 1 }, pair, quick_disk, story)?;
            }
        }
        for peer in 0..self.size as u8 / 2 {
            let op = Op::AnswerPreVote { peer, pick: 0, grant: true, ahead: 0 };
            self.act(&op, pair, quick_disk, story)?;
        }
        self.act(&Op::Persist { batches: u8::MAX }, pair, quick_disk, story)?;
        for peer in 0..self.size as u8 / 2 {
            self.act(&Op::AnswerVote { peer, pick: 0, grant: true }, pair, quick_disk, story)?;
        }
        Ok(())
    }

    fn give(&mut self, pair: &mut Pair, input: Input, story: &mut Story) -> Result<(), String> {
        story.tell(|| format!("1 <- {input:?}"));
        let sends = pair.step(input)?;
        for (to, message) in sends {
            story.tell(|| format!("    1 -> {to} {message:?}"));
            match message {
                Message::PreVote(m) => self.asked_before.push(m.term.0),
                Message::Vote(m) => self.asked.push(m.term.0),
                Message::AppendReply(AppendReply {
                    term,
                    outcome: AppendOutcome::Accepted { matched },
                    ..
                }) => {
                    let acked = self.acked.entry(term.0).or_default();
                    *acked = matched.0.max(*acked);
                }
                _ => {}
            }
        }
        let view = pair.view();
        story.state(NodeId(1), &view);
        let commit = view.commit.0 as usize;
        if commit > self.committed.len() {
            assert_eq!(view.role, Role::Leader, "followers know no more than the world");
            self.committed = terms(&view.log)[..commit].to_vec();
        }
        Ok(())
    }

    fn peer(&self, pick: u8) -> NodeId {
        NodeId(2 + u64::from(pick) % (self.size - 1))
    }

    /// One of the latest leaders, the latest for 0.
    fn leader(&self, pick: u8) -> Option<usize> {
        let back = usize::from(pick).checked_rem(self.leaders.len().min(3))?;
        Some(self.leaders.len() - 1 - back)
    }

    fn inputs(&mut self, op: &Op, view: &View) -> Vec<Input> {
        let from_peer = |peer: u8, message| vec![Input::Receive(self.peer(peer), message)];
        let term = view.term.0;
        let last = view.log.len();
        match *op {
            Op::Tick { ticks } => vec![Input::Tick; usize::from(ticks)],
            Op::Persist { batches } => vec![Input::Persist(usize::from(batches))],
            Op::Propose { proposals } => vec![Input::Propose(usize::from(proposals))],
            Op::ReportLate { back } => vec![Input::ReportLate(usize::from(back))],
            Op::Restart => vec![Input::Restart],
            Op::Campaign => unreachable!("made of other things"),
            Op::NewLeader { peer, skip, base, keep, entries } => {
                self.elect(self.peer(peer), skip, base, keep, view);
                self.grow(self.leaders.len() - 1, entries, None);
                Vec::new()
            }
            Op::Grow { leader, entries, commit } => {
                if let Some(leader) = self.leader(leader) {
                    self.grow(leader, entries, commit);
                }
                Vec::new()
            }
            Op::Append { leader, back, entries, commit } => {
                let Some(leader) = self.leader(leader) else { return Vec::new() };
                let leader = &self.leaders[leader];
                let prev = before(last.min(leader.log.len()), back);
                vec![leader.append(prev, usize::from(entries), usize::from(commit))]
            }
            Op::Heartbeat { leader, commit } => {
                let Some(leader) = self.leader(leader) else { return Vec::new() };
                let leader = &self.leaders[leader];
                let acked = self.acked.get(&leader.term).copied().unwrap_or(0);
                let most = acked.min(leader.commit as u64);
                let commit = LogIndex(most - most.min(u64::from(commit % 4)));
                let heartbeat = Heartbeat { term: Term(leader.term), commit, round: 0 };
                vec![Input::Receive(leader.id, Message::Heartbeat(heartbeat))]
            }
            Op::Ask { peer, ahead, index, term: change, pre } => {
                let term = near(term, ahead).max(1);
                let last_index = near(last as u64, index);
                let last_term = near(view.log.last().map_or(0, |e| e.term.0), change);
                let last_term = if last_index == 0 { 0 } else { last_term.clamp(1, term) };
                let (last_index, last_term) = (LogIndex(last_index), Term(last_term));
                let term = Term(term);
                let message = match pre {
                    true => Message::PreVote(PreVote {
                        term,
                        last_index,
                        last_term,
                        committed: CommitMark::default(),
                    }),
                    false => Message::Vote(Vote {
                        term,
                        last_index,
                        last_term,
                        transfer: false,
                        committed: CommitMark::default(),
                    }),
                };
                from_peer(peer, message)
            }
            Op::AskAgain { leader, first, then } => {
                let Some(leader) = self.leader(leader) else { return Vec::new() };
                let leader = &self.leaders[leader];
                let mut inputs = vec![leader.vote(leader.term), leader.append(0, 0, 0)];
                inputs.extend(vec![Input::Tick; usize::from(first)]);
                inputs.push(leader.vote(leader.term));
                inputs.extend(vec![Input::Tick; usize::from(then)]);
                inputs.push(leader.vote(leader.term + 1));
                inputs
            }
            Op::AnswerPreVote { peer, pick, grant: true, .. } => {
                let Some(term) = latest(&self.asked_before, pick) else { return Vec::new() };
                let term = Term(term);
                from_peer(
                    peer,
                    Message::PreVoteReply(PreVoteReply {
                        term,
                        granted: true,
                        committed: CommitMark::default(),
                    }),
                )
            }
            Op::AnswerPreVote { peer, ahead, .. } => {
                let term = Term(near(term, ahead).max(1));
                from_peer(
                    peer,
                    Message::PreVoteReply(PreVoteReply {
                        term,
                        granted: false,
                        committed: CommitMark::default(),
                    }),
                )
            }
            Op::AnswerVote { peer, pick, grant } => {
                let Some(asked) = latest(&self.asked, pick) else { return Vec::new() };
                let granted = grant && self.may_win(asked, view);
                if granted {
                    self.era = asked;
                }
                let reply =
                    VoteReply { term: Term(asked), granted, committed: CommitMark::default() };
                vec![Input::Receive(self.peer(peer), Message::VoteReply(reply))]
            }
            Op::Acknowledge { peer, back } => {
                let peer = self.peer(peer);
                let most = self.acks.get(&(term, peer)).copied().unwrap_or(0);
                let mut matched = before(last, back) as u64;
                if self.era != term || view.role != Role::Leader {
                    matched = matched.min(most); // only a late one
                }
                self.acks.insert((term, peer), most.max(matched));
                let outcome = AppendOutcome::Accepted { matched: LogIndex(matched) };
                let reply = AppendReply { term: Term(term), outcome, standing: Standing::Member };
                vec![Input::Receive(peer, Message::AppendReply(reply))]
            }
            Op::Reject { peer, back, hint, term: hint_term } => {
                let prev_index = before(last, back);
                let acked = self.acks.get(&(term, self.peer(peer))).copied().unwrap_or(0);
                if prev_index as u64 <= acked {
                    return Vec::new();
                }
                let hint_index = before(prev_index, hint) as u64;
                let hint_term = if hint_index == 0 { 0 } else { u64::from(hint_term).min(term) };
                let outcome = AppendOutcome::Rejected {
                    prev_index: LogIndex(prev_index as u64),
                    hint_index: LogIndex(hint_index),
                    hint_term: Term(hint_term.max(u64::from(hint_index > 0))),
                };
                from_peer(
                    peer,
                    Message::AppendReply(AppendReply {
                        term: Term(term),
                        outcome,
                        standing: Standing::Member,
                    }),
                )
            }
            Op::AnswerHeartbeat { peer, ahead } => {
                let reply = HeartbeatReply {
                    term: Term(near(term, ahead).max(1)),
                    round: 0,
                    standing: Standing::Member,
                    quiet_ms: 0,
                    priority: 0,
                };
                from_peer(peer, Message::HeartbeatReply(reply))
            }
        }
    }

    /// Whether peers can give the pair their votes in this term.
    fn may_win(&self, term: u64, view: &View) -> bool {
        term == view.term.0
            && term >= self.era
            && self.leaders.iter().all(|leader| leader.term < term)
            && terms(&view.log).starts_with(&self.committed)
    }

    /// What the pair, if it leads, has committed or can still commit without a further answer.
    fn bound(&self, view: &View) -> Vec<u64> {
        if view.role != Role::Leader {
            return Vec::new();
        }
        let peers = (2..=self.size).map(NodeId);
        let acked = peers.map(|id| self.acks.get(&(view.term.0, id)).copied().unwrap_or(0));
        let mut acked: Vec<u64> = acked.chain([view.log.len() as u64]).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let index = acked[self.size as usize / 2] as usize;
        terms(&view.log)[..index].to_vec()
    }

    fn elect(&mut self, id: NodeId, skip: u8, base: u8, keep: u8, view: &View) {
        let bound = self.bound(view);
        let needed =
            if bound.len() > self.committed.len() { bound } else { self.committed.clone() };
        let own = terms(&view.log);
        let logs = self.leaders.iter().map(|leader| &leader.log).chain([&own, &needed]);
        let fit: Vec<&Vec<u64>> = logs.filter(|log| log.starts_with(&needed)).collect();
        let mut log = fit[usize::from(base) % fit.len()].clone();
        log.truncate(needed.len() + usize::from(keep) % (log.len() - needed.len() + 1));
        let term = self.era.max(view.term.0.saturating_sub(1)) + 1 + u64::from(skip);
        log.push(term);
        self.era = term;
        let commit = self.committed.len() - usize::from(keep % 3).min(self.committed.len());
        self.leaders.push(Leader { id, term, log, commit });
    }

    fn grow(&mut self, leader: usize, entries: u8, commit: Option<u8>) {
        let leader = &mut self.leaders[leader];
        let term = leader.term;
        leader.log.extend(std::iter::repeat_n(term, usize::from(entries)));
        let Some(pick) = commit.filter(|_| term == self.era) else { return };
        let first = leader.log.iter().take_while(|own| **own < term).count() + 1;
        let first = first.max(leader.commit);
        leader.commit = first + usize::from(pick) % (leader.log.len() - first + 1);
        self.committed = leader.log[..leader.commit.max(self.committed.len())].to_vec();
    }
}

fn latest(terms: &[u64], pick: u8) -> Option<u64> {
    let back = usize::from(pick).checked_rem(terms.len())?;
    Some(terms[terms.len() - 1 - back])
}

impl Leader {
    /// Its request for votes, with the log it had when it was elected.
    fn vote(&self, term: u64) -> Input {
        let last = self.log.iter().take_while(|own| **own < self.term).count() as u64;
        let (last_index, last_term) = (LogIndex(last), term_at(&self.log, LogIndex(last)));
        let last_term = Term(last_term.unwrap_or(0));
        Input::Receive(
            self.id,
            Message::Vote(Vote {
                term: Term(term),
                last_index,
                last_term,
                transfer: false,
                committed: CommitMark::default(),
            }),
        )
    }

    fn append(&self, prev: usize, entries: usize, less: usize) -> Input {
        let end = (prev + entries).min(self.log.len());
        let entry = |index: usize| {
            let term = self.log[index - 1];
            let first = term_at(&self.log, LogIndex(index as u64 - 1)) != Some(term);
            let index = index as u64;
            let (kind, payload) = match first {
                true => (EntryKind::Noop, bytes::Bytes::new()),
                false => (EntryKind::Normal, payload(term, index)),
            };
            Entry { term: Term(term), index: LogIndex(index), kind, payload }
        };
        let append = Append {
            term: Term(self.term),
            prev_index: LogIndex(prev as u64),
            prev_term: Term(term_at(&self.log, LogIndex(prev as u64)).unwrap_or(0)),
            commit: LogIndex((self.commit - (less % 3).min(self.commit)) as u64),
            entries: (prev + 1..=end).map(entry).collect(),
        };
        Input::Receive(self.id, Message::Append(append))
    }
}
