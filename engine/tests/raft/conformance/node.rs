//! One node of a scenario: a core of ours, its clock, its disk and its threads.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use coracle_engine::raft::membership::Reconfiguration;
use coracle_engine::raft::{
    Config, Effects, Entry, Event, HardState, Message, Raft, RaftLog, Role, WriteMark,
};
use coracle_engine::{LogIndex, NodeId, Term};

use super::text::{Letter, Words};

/// What a node's append thread has to do.
pub struct Work {
    pub write: Option<Write>,
    pub letters: Vec<Letter>,
}

pub struct Write {
    /// Whether a snapshot replaces all that was there.
    pub reset: bool,
    pub entries: Vec<Entry>,
    pub mark: WriteMark,
}

pub struct Node {
    pub id: NodeId,
    pub raft: Raft,
    pub now: Duration,
    /// A leader was heard since the clock last moved on for a request for votes.
    pub heard: bool,
    /// After how many ticks it was told to campaign, and how many have passed.
    pub patience: Option<u64>,
    pub waited: u64,
    /// What [`Node::to_tell`] was when heartbeats were last due.
    pub told: Vec<LogIndex>,
    /// Gathered since the last Ready.
    pub effects: Effects,
    /// Places in `effects.messages` that are notices.
    pub notices: BTreeSet<usize>,
    /// What the last Ready has shown.
    pub shown: (HardState, Role, Option<NodeId>),
    /// Entries up to here were handed out to be applied.
    pub handed: LogIndex,
    pub words: Words,
    pub disk: Vec<Entry>,
    pub append_work: VecDeque<Work>,
    pub apply_work: VecDeque<Vec<Entry>>,
    /// Changes of members that the leader does not take yet, and their words.
    pub changes: VecDeque<(Reconfiguration, String)>,
    /// What the next Ready has to say about a snapshot.
    pub installed: Option<String>,
}

impl Node {
    /// A node with these voters; without any, one that is to join.
    pub fn new(id: NodeId, words: Words, voters: Vec<NodeId>, inflight: Option<usize>) -> Self {
        let state = HardState { commit: words.base, ..HardState::default() };
        let mut config = Config::new(id, voters, 1);
        config.inflight_messages_max = inflight.unwrap_or(config.inflight_messages_max);
        let log = RaftLog::in_memory(words.base, Term(0), Vec::new()).unwrap();
        let raft = Raft::new(config, state, log, Duration::ZERO).unwrap();
        Self {
            id,
            raft,
            now: Duration::ZERO,
            heard: false,
            patience: None,
            waited: 0,
            told: Vec::new(),
            effects: Effects::default(),
            notices: BTreeSet::new(),
            shown: (state, Role::Follower, None),
            handed: words.base,
            words,
            disk: Vec::new(),
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            changes: VecDeque::new(),
            installed: None,
        }
    }

    pub fn role(&self) -> Role {
        self.raft.role()
    }

    pub fn position(&self) -> (Role, Term) {
        (self.raft.role(), self.raft.term())
    }

    pub fn step(&mut self, event: Event) {
        self.raft.step(event, &mut self.effects);
    }

    /// Moves the clock, and says what time it is.
    pub fn moved(&mut self, by: impl Fn(&Config) -> Duration) -> Duration {
        // All nodes have the default times.
        self.now += by(&Config::new(self.id, vec![self.id], 0));
        self.now
    }

    /// Up to where entries may be applied. etcd's asynchronous mode waits for them to be stored.
    pub fn to_apply(&self, asynchronous: bool) -> LogIndex {
        let raft = &self.raft;
        let durable = if asynchronous { raft.log().durable() } else { LogIndex(u64::MAX) };
        raft.commit().min(durable).max(self.handed)
    }

    /// The commit index that a leader can tell each follower with a heartbeat. Nothing before the first
    /// entry of its term is committed.
    pub fn to_tell(&self) -> Vec<LogIndex> {
        let raft = &self.raft;
        let commit = raft.commit();
        let own = raft.log().term_at(commit) == Some(raft.term());
        raft.followers().filter(|_| own).map(|peer| peer.matched.min(commit)).collect()
    }

    pub fn has_ready(&self, asynchronous: bool) -> bool {
        let raft = &self.raft;
        let effects = &self.effects;
        !effects.messages.is_empty()
            || !effects.after_durable.is_empty()
            || effects.write_mark.is_some()
            || self.to_apply(asynchronous) > self.handed
            || self.shown != (raft.hard_state(), raft.role(), raft.leader())
            || self.told != self.to_tell()
    }

    pub fn write(&mut self, write: &Write) {
        if write.reset {
            self.disk.clear();
        }
        if let Some(first) = write.entries.first() {
            self.disk.retain(|entry| entry.index < first.index);
            self.disk.extend(write.entries.iter().cloned());
        }
    }

    /// The first entry of an append that has another term here.
    pub fn conflict(&self, message: &Message) -> Option<(LogIndex, Term, Term)> {
        let Message::Append(append) = message else { return None };
        append.entries.iter().find_map(|entry| {
            let own = self.raft.log().term_at(entry.index)?;
            (own != entry.term).then_some((entry.index, own, entry.term))
        })
    }
}
