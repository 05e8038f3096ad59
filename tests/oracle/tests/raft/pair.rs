//! One replica of each implementation in lock-step: the same input to both, then everything they
//! said and all of their state compared.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::Bytes;
use coracle_engine::raft::{
    AppendOutcome, AppendReply, Entry, HeartbeatReply, Message, PreVoteReply, Role, VoteReply,
};
use coracle_engine::{LogIndex, NodeId};

use crate::known::{Known, note};
use crate::ours::{self, Ours};
use crate::tally::{Decision, count};
use crate::theirs::{self, Theirs, View};

/// Whose messages are sent on. What the other says is only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Ours,
    Theirs,
}

/// What may happen to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// A heartbeat interval passes.
    Tick,
    Receive(NodeId, Message),
    /// So many proposals at once.
    Propose(usize),
    /// So many of the oldest batches become durable, and only the newest is reported.
    Persist(usize),
    /// A write is reported that was reported before, or was passed over.
    ReportLate(usize),
    /// A crash loses what is not durable.
    Restart,
}

/// What one event of both wants stored, and who waits for it.
struct Batch {
    ours: Option<ours::Batch>,
    theirs: Vec<theirs::Batch>,
}

type Messages = Vec<(NodeId, Message)>;

/// The two.
pub struct Pair {
    id: NodeId,
    ours: Ours,
    theirs: Theirs,
    speaker: Speaker,
    batches: VecDeque<Batch>,
}

impl Pair {
    pub fn new(id: NodeId, voters: &[NodeId], seed: u64, speaker: Speaker) -> Self {
        Self {
            id,
            ours: Ours::new(id, voters, seed),
            theirs: Theirs::new(id, voters),
            speaker,
            batches: VecDeque::new(),
        }
    }

    /// The state that both are in.
    pub fn view(&self) -> View {
        self.ours.view()
    }

    /// Batches that are not durable.
    pub fn pending(&self) -> usize {
        self.batches.len()
    }

    /// Gives both the same and compares. Returns what is now sent; on a difference, what it is.
    pub fn step(&mut self, input: Input) -> Result<Messages, String> {
        let before = self.ours.view();
        let sends = match input {
            Input::Persist(batches) => self.persist(batches)?,
            Input::Restart => self.restart()?,
            Input::ReportLate(back) => {
                self.ours.report_late(back)?;
                Vec::new()
            }
            other => self.event(other, &before)?,
        };
        self.compare_state()?;
        let after = self.ours.view();
        if before.role != Role::Leader && after.role == Role::Leader {
            count(Decision::Elected);
        }
        if before.commit < after.commit {
            let leads = after.role == Role::Leader;
            count(if leads { Decision::CommittedByCounting } else { Decision::CommittedAsTold });
        }
        Ok(sends)
    }

    fn event(&mut self, input: Input, before: &View) -> Result<Messages, String> {
        let (mut ours, mut theirs) = match &input {
            Input::Tick => {
                let ours = self.ours.tick()?;
                let asks =
                    |(_, message): &(NodeId, Message)| matches!(message, Message::PreVote(_));
                let theirs = self.theirs.tick(ours.now.iter().any(asks))?;
                (ours, theirs)
            }
            Input::Receive(from, message) => {
                let probe = self.theirs.probes(*from);
                let ours = self.ours.receive(*from, message.clone())?;
                let theirs = self.theirs.receive(*from, message)?;
                self.compare_probe(*from, message, probe, &ours)?;
                (ours, theirs)
            }
            Input::Propose(proposals) => {
                let payloads = payloads(before, *proposals);
                let theirs = self.theirs.propose(&payloads)?;
                (self.ours.propose(payloads)?, theirs)
            }
            Input::Persist(_) | Input::ReportLate(_) | Input::Restart => {
                unreachable!("handled by the caller")
            }
        };
        self.compare_said(&ours, &theirs)?;
        let mut sends = match self.speaker {
            Speaker::Ours => std::mem::take(&mut ours.now),
            Speaker::Theirs => std::mem::take(&mut theirs.now),
        };
        sends.extend(self.hand_to_disk(ours.batch, theirs.batches));
        Ok(sends)
    }

    /// Queues what is to be stored. What promises nothing needs no disk, only its turn.
    fn hand_to_disk(&mut self, ours: Option<ours::Batch>, theirs: Vec<theirs::Batch>) -> Messages {
        let stored = self.theirs.stored_hard_state();
        let trivial = ours.is_none() && theirs.iter().all(|batch| batch.promises_nothing(stored));
        match self.batches.back_mut() {
            _ if ours.is_none() && theirs.is_empty() => {}
            None if trivial => {
                let waited = self.theirs.persist(theirs);
                if self.speaker == Speaker::Theirs {
                    return waited;
                }
            }
            Some(last) if ours.is_none() => last.theirs.extend(theirs),
            _ => self.batches.push_back(Batch { ours, theirs }),
        }
        Vec::new()
    }

    fn persist(&mut self, batches: usize) -> Result<Messages, String> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let batches = batches.min(self.batches.len());
        for batch in self.batches.drain(..batches) {
            ours.extend(batch.ours);
            theirs.extend(batch.theirs);
        }
        let from_ours = self.ours.persist(ours)?;
        let from_theirs = self.theirs.persist(theirs);
        let outcome = self.theirs.after_persist();
        let mut sends = match self.speaker {
            Speaker::Ours => from_ours,
            Speaker::Theirs => from_theirs,
        };
        if self.speaker == Speaker::Theirs {
            sends.extend(outcome.now);
        }
        sends.extend(self.hand_to_disk(None, outcome.batches));
        Ok(sends)
    }

    fn restart(&mut self) -> Result<Messages, String> {
        if self.ours.disk() != self.theirs.disk() {
            let (ours, theirs) = (self.ours.disk(), self.theirs.disk());
            return Err(format!("on disk: ours {ours:?}, theirs {theirs:?}"));
        }
        self.batches.clear();
        self.ours.restart()?;
        self.theirs.restart(self.ours.stored_commit())?;
        Ok(Vec::new())
    }

    /// Compares everything said because of one event, whether sent at once or after a write.
    fn compare_said(&self, ours: &ours::Outcome, theirs: &theirs::Outcome) -> Result<(), String> {
        self.check_appends(ours)?;
        self.check_promises(ours)?;
        let waiting = ours.batch.iter().flat_map(|batch| &batch.after);
        let mut left: Vec<_> =
            ours.now.iter().chain(waiting).filter(|m| self.compared(m)).collect();
        for said in theirs.said().filter(|m| self.compared(m)) {
            match left.iter().position(|own| *own == said) {
                Some(place) => {
                    left.remove(place);
                    count_decision(&said.1);
                }
                None => return Err(format!("theirs says {said:?}, ours {left:?}")),
            }
        }
        if left.is_empty() { Ok(()) } else { Err(format!("only ours says {left:?}")) }
    }

    /// Appends depend on how much was sent before, and the vote for itself is no message of theirs.
    fn compared(&self, (to, message): &(NodeId, Message)) -> bool {
        if *to == self.id {
            note(Known::OwnVoteWaits);
            return false;
        }
        if matches!(message, Message::Append(_)) {
            note(Known::WhatIsSent);
            return false;
        }
        true
    }

    /// Whenever ours sends an append, it says what theirs has at that place.
    fn check_appends(&self, ours: &ours::Outcome) -> Result<(), String> {
        let theirs = self.theirs.view();
        for (to, message) in &ours.now {
            let Message::Append(append) = message else { continue };
            let prev = append.prev_index.0 as usize;
            let end = prev + append.entries.len();
            let prev_term = match prev {
                0 => Some(0),
                n => theirs.log.get(n - 1).map(|entry| entry.term.0),
            };
            if prev_term != Some(append.prev_term.0)
                || theirs.log.get(prev..end) != Some(&append.entries[..])
                || append.commit != theirs.commit
                || append.term != theirs.term
            {
                return Err(format!("ours sends {to} {append:?}, which is not in their log"));
            }
            count(Decision::AppendSent);
        }
        Ok(())
    }

    /// After a rejection both ask for the same place, if theirs was probing there. Theirs goes back
    /// below what was acknowledged if it is told to; ours does not.
    fn compare_probe(
        &self,
        from: NodeId,
        message: &Message,
        before: Option<u64>,
        ours: &ours::Outcome,
    ) -> Result<(), String> {
        let Message::AppendReply(AppendReply {
            outcome: AppendOutcome::Rejected { prev_index, .. },
            ..
        }) = message
        else {
            return Ok(());
        };
        let (Some(next), Some(old)) = (self.theirs.probes(from), before) else { return Ok(()) };
        let asked = ours.now.iter().find_map(|(to, message)| match message {
            Message::Append(append) if *to == from => Some(append.prev_index.0),
            _ => None,
        });
        let (Some(asked), Some(matched)) = (asked, self.ours.matched(from)) else { return Ok(()) };
        if old != prev_index.0 + 1 {
            note(Known::WhatIsSent);
            return Ok(());
        }
        count(Decision::ProbedAgain);
        let expected = next.max(matched.0 + 1) - 1;
        if asked == expected {
            return Ok(());
        }
        Err(format!("after a rejection ours asks {from} for {asked}, theirs for {expected}"))
    }

    /// What ours promises at once must be durable by the account of theirs.
    fn check_promises(&self, ours: &ours::Outcome) -> Result<(), String> {
        let (terms, term, _) = self.theirs.disk();
        for (to, message) in &ours.now {
            let kept = match message {
                Message::VoteReply(VoteReply { granted, .. }) => !granted,
                Message::AppendReply(reply) => match reply.outcome {
                    AppendOutcome::Accepted { matched } => {
                        reply.term.0 == term && matched.0 <= terms.len() as u64
                    }
                    AppendOutcome::Rejected { .. } => true,
                },
                _ => true,
            };
            if !kept {
                return Err(format!("ours promises {to} {message:?} before it is durable"));
            }
        }
        Ok(())
    }

    /// How much of the log is on disk and will stay there, whatever is written next.
    fn kept(&self, view: &View) -> u64 {
        let log = terms(&view.log);
        let equal = |disk: &[u64]| log.iter().zip(disk).take_while(|(a, b)| a == b).count();
        let mut disk = self.theirs.disk().0;
        let mut kept = equal(&disk);
        let pending = self.batches.iter().flat_map(|batch| &batch.theirs);
        for (first, terms) in pending.filter_map(theirs::Batch::rewrites) {
            disk.truncate(first as usize - 1);
            kept = kept.min(equal(&disk));
            disk.extend(terms);
        }
        kept as u64
    }

    fn compare_state(&self) -> Result<(), String> {
        let (ours, mut theirs) = (self.ours.view(), self.theirs.view());
        if ours.durable != theirs.durable && ours.role != Role::Leader && !self.batches.is_empty() {
            note(Known::DurableAfterOverwrite);
            theirs.durable = ours.durable;
        }
        let kept = self.kept(&ours);
        if ours.durable.0 > kept {
            return Err(format!("ours takes {} for durable, but only {kept} are", ours.durable));
        }
        count(Decision::State);
        if ours == theirs {
            return Ok(());
        }
        let mut text = String::new();
        let mut differ = |name, ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
            let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
            if ours != theirs {
                let _ = write!(text, "{name}: ours {ours}, theirs {theirs}; ");
            }
        };
        differ("role", &ours.role, &theirs.role);
        differ("term", &ours.term, &theirs.term);
        differ("vote", &ours.vote, &theirs.vote);
        differ("leader", &ours.leader, &theirs.leader);
        differ("commit", &ours.commit, &theirs.commit);
        differ("durable", &ours.durable, &theirs.durable);
        differ("matched", &ours.matched, &theirs.matched);
        differ("log", &ours.log, &theirs.log);
        Err(text)
    }
}

/// Payloads that say where they come to lie, so that an entry is known by term and index.
fn payloads(view: &View, proposals: usize) -> Vec<Bytes> {
    let first = view.log.len() as u64 + 1;
    (first..).take(proposals).map(|index| payload(view.term.0, index)).collect()
}

/// The payload of the entry at `index`, proposed in `term`.
pub fn payload(term: u64, index: u64) -> Bytes {
    Bytes::from(format!("{term}.{index}"))
}

fn count_decision(message: &Message) {
    count(match message {
        Message::PreVoteReply(PreVoteReply { granted: true, .. }) => Decision::PreVoteGranted,
        Message::PreVoteReply(_) => Decision::PreVoteRefused,
        Message::VoteReply(VoteReply { granted: true, .. }) => Decision::VoteGranted,
        Message::VoteReply(_) => Decision::VoteRefused,
        Message::AppendReply(reply) => match reply.outcome {
            AppendOutcome::Accepted { .. } => Decision::AppendAccepted,
            AppendOutcome::Rejected { .. } => Decision::AppendRejected,
        },
        Message::PreVote(_) | Message::Vote(_) | Message::TimeoutNow(_) => Decision::Asked,
        Message::Heartbeat(_) => Decision::Heartbeat,
        Message::HeartbeatReply(HeartbeatReply { .. }) => Decision::HeartbeatAnswered,
        Message::Append(_) => Decision::AppendSent,
        Message::SnapshotOffer(_)
        | Message::Census(_)
        | Message::CensusReply(_)
        | Message::Quiesce(_)
        | Message::Quiesced(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_) => {
            unreachable!("no log is compacted here, nobody loses data, and nobody reads")
        }
    });
}

/// A short form of a log: its terms.
pub fn terms(log: &[Entry]) -> Vec<u64> {
    log.iter().map(|entry| entry.term.0).collect()
}

/// The position of an index in a list of terms, which begins with index 1.
pub fn term_at(log: &[u64], index: LogIndex) -> Option<u64> {
    match index.0 {
        0 => Some(0),
        n => log.get(n as usize - 1).copied(),
    }
}
