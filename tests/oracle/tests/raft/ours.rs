//! A replica of Coracle with its disk.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::{
    CommitMark, Config, Effects, Entry, Event, HardState, Message, Raft, RaftLog, WriteMark,
};
use coracle_engine::{LogIndex, NodeId};

use crate::known::{Known, note};
use crate::theirs::View;

/// The unit of time: the heartbeat interval.
const TICK: Duration = Duration::from_millis(100);

/// A batch that is handed out and not yet durable.
pub struct Batch {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    mark: WriteMark,
    /// Waits for the disk.
    pub after: Vec<(NodeId, Message)>,
}

/// What one event led to.
#[derive(Default)]
pub struct Outcome {
    /// Sent at once.
    pub now: Vec<(NodeId, Message)>,
    /// To be stored, with what waits for it.
    pub batch: Option<Batch>,
}

/// One replica.
pub struct Ours {
    config: Config,
    raft: Raft,
    hard_state: HardState,
    entries: Vec<Entry>,
    now: Duration,
    starts: u64,
    /// Of all batches written since the start.
    marks: Vec<WriteMark>,
}

impl Ours {
    pub fn new(id: NodeId, voters: &[NodeId], seed: u64) -> Self {
        let mut config = Config::new(id, voters.to_vec(), seed);
        config.heartbeat_interval = TICK;
        config.election_timeout = TICK * crate::theirs::ELECTION_TICKS as u32;
        let raft =
            Raft::new(config.clone(), HardState::default(), RaftLog::empty(), Duration::ZERO)
                .expect("an empty replica starts");
        Self {
            config,
            raft,
            hard_state: HardState::default(),
            entries: Vec::new(),
            now: Duration::ZERO,
            starts: 0,
            marks: Vec::new(),
        }
    }

    pub fn step(&mut self, event: Event) -> Result<Outcome, String> {
        let mut effects = Effects::default();
        self.raft.step(event, &mut effects);
        if let Some(fault) = effects.fault {
            return Err(format!("ours reports a fault: {fault}"));
        }
        let sent = effects.messages.iter_mut().chain(&mut effects.after_durable);
        sent.for_each(|(_, message)| forget_committed(message));
        let batch = effects.write_mark.map(|mark| Batch {
            hard_state: effects.hard_state,
            entries: effects.entries,
            mark,
            after: effects.after_durable,
        });
        Ok(Outcome { now: effects.messages, batch })
    }

    pub fn tick(&mut self) -> Result<Outcome, String> {
        self.now += TICK;
        self.step(Event::Tick { now: self.now })
    }

    pub fn receive(&mut self, from: NodeId, message: Message) -> Result<Outcome, String> {
        self.step(Event::Message { from, message })
    }

    pub fn propose(&mut self, payloads: Vec<Bytes>) -> Result<Outcome, String> {
        self.step(Event::Propose { payloads })
    }

    /// Writes batches and reports the newest; gives what waited for them, own votes already counted.
    pub fn persist(&mut self, batches: Vec<Batch>) -> Result<Vec<(NodeId, Message)>, String> {
        let mut sends = Vec::new();
        let mut newest = None;
        for batch in batches {
            self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
            if let Some(first) = batch.entries.first() {
                self.entries.truncate(first.index.0 as usize - 1);
                self.entries.extend(batch.entries);
            }
            newest = Some(batch.mark);
            self.marks.push(batch.mark);
            sends.extend(batch.after);
        }
        let Some(mark) = newest else { return Ok(sends) };
        let mut outcomes = vec![self.step(Event::Durable(mark))?];
        let (own, mut sends): (Vec<_>, Vec<_>) =
            sends.into_iter().partition(|(to, _)| *to == self.config.id);
        for (from, message) in own {
            outcomes.push(self.receive(from, message)?);
        }
        for outcome in outcomes {
            if outcome.batch.is_some() {
                return Err("ours wants something stored because of a report".to_owned());
            }
            sends.extend(outcome.now);
        }
        Ok(sends)
    }

    /// Reports a batch again, or one that was passed over by a newer report.
    pub fn report_late(&mut self, back: usize) -> Result<(), String> {
        let Some(back) = back.checked_rem(self.marks.len()) else { return Ok(()) };
        let mark = self.marks[self.marks.len() - 1 - back];
        let outcome = self.step(Event::Durable(mark))?;
        match outcome.batch.is_some() || !outcome.now.is_empty() {
            true => Err("ours acts on a late report".to_owned()),
            false => Ok(()),
        }
    }

    /// Starts again from what is durable.
    pub fn restart(&mut self) -> Result<(), String> {
        self.starts += 1;
        self.marks.clear();
        let config = Config {
            random_seed: self.config.random_seed ^ (self.starts << 32),
            ..self.config.clone()
        };
        let log = RaftLog::in_memory(LogIndex(0), coracle_engine::Term(0), self.entries.clone())
            .map_err(|error| error.to_string())?;
        self.raft =
            Raft::new(config, self.hard_state, log, self.now).map_err(|error| error.to_string())?;
        Ok(())
    }

    pub fn stored_commit(&self) -> LogIndex {
        self.hard_state.commit
    }

    /// Terms of the durable entries, and the durable term and vote.
    pub fn disk(&self) -> (Vec<u64>, u64, Option<NodeId>) {
        let terms = self.entries.iter().map(|entry| entry.term.0).collect();
        (terms, self.hard_state.term.0, self.hard_state.vote)
    }

    pub fn matched(&self, node: NodeId) -> Option<LogIndex> {
        self.raft.followers().find(|follower| follower.id == node).map(|follower| follower.matched)
    }

    pub fn view(&self) -> View {
        let raft = &self.raft;
        View {
            role: raft.role(),
            term: raft.term(),
            vote: raft.hard_state().vote,
            leader: raft.leader(),
            commit: raft.commit(),
            durable: raft.log().durable(),
            matched: raft.followers().map(|follower| (follower.id, follower.matched)).collect(),
            log: raft.entries(LogIndex(1), raft.last_index()).cloned().collect(),
        }
    }
}

/// Takes the commit index out of votes and answers ([`Known::CommitInVotes`]).
fn forget_committed(message: &mut Message) {
    let committed = match message {
        Message::PreVote(m) => &mut m.committed,
        Message::PreVoteReply(m) => &mut m.committed,
        Message::Vote(m) => &mut m.committed,
        Message::VoteReply(m) => &mut m.committed,
        _ => return,
    };
    if std::mem::take(committed) != CommitMark::default() {
        note(Known::CommitInVotes);
    }
}
