//! Plays the commands of a scenario on a cluster of our Raft cores and notes what can be known.
//!
//! etcd's cores and ours cut time differently. Where they do, the clocks and disks of the nodes, which this
//! adapter has in its hand, are moved so that both can be compared; nothing is done to a core that its
//! caller could not do:
//! * A node's effects are gathered until its Ready is processed.
//! * `campaign` runs the node's clock past its election timeout. Ours always asks before it campaigns;
//!   where the scenario has no pre-vote, the answers come from here at once.
//! * Ours always keeps to a leader that was heard lately. Where the scenario does not (`checkquorum`), the
//!   clock of a node moves on for an election timeout before a request for votes reaches it; a leader
//!   then steps down.
//! * etcd's leader tells a new commit index at once with empty appends, ours with its next heartbeat. So
//!   its next heartbeat is due whenever that would tell a follower something new.
//! * Ours sends requests for votes only when its own is stored. With `async-storage-writes` they leave with
//!   the Ready; so the disk is fast then, and the node's own vote still comes from the append thread.
//! * A new cluster begins after a snapshot, whose last entry has term 1, at term 0. Ours refuses a
//!   log that is newer than its term, so here that entry has term 0 and is shown as 1.
//! * etcd's snapshots travel in their messages and are restored when they arrive. Ours are only offered; the
//!   adapter installs them at once. etcd counts a snapshot as sent and shows what comes after it as next.
//! * etcd's leader takes a change of members at once and applies it later; ours refuses it until it has committed
//!   an entry of its term, and while another one is under way. Such a change is asked for again until it is taken.
//! * Ours has a configuration in force when its entry is appended, etcd when it is applied. What a node has is told
//!   here when its entry is applied, and is what the core's own log says of that entry.
//! * etcd takes a snapshot whenever one is to be sent. Here a leader gets one of what is committed when
//!   a follower rejects something.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::{
    AppendOutcome, AppendReply, CommitMark, Config, Entry, EntryKind, Event, Message, PreVoteReply,
    ReconfigureRefusal, Reconfigured, Role, TransferOutcome,
};
use coracle_engine::{LogIndex, NodeId, Term};

use super::datadriven::Case;
use super::expected::{is_acknowledgement, is_decision};
use super::facts::Facts;
use super::node::{Node, Work, Write};
use super::text::{
    Body, Letter, Words, entry_text, letter_text, reconfiguration, snapshot_text, term_shown,
};

#[derive(Default)]
pub struct Replay {
    nodes: Vec<Node>,
    words: Words,
    network: Vec<Letter>,
    options: Options,
    /// What became of acknowledgements before the present command, and during it.
    acks: BTreeSet<String>,
    acks_now: Vec<String>,
    facts: Facts,
    unsupported: Vec<String>,
}

/// How many of etcd's ticks an election timeout has in these scenarios.
const ELECTION_TICKS: u64 = 3;

/// What a scenario may say about the nodes it starts.
const OPTIONS: [&str; 8] = [
    "voters",
    "learners",
    "index",
    "content",
    "inflight",
    "async-storage-writes",
    "prevote",
    "checkquorum",
];

#[derive(Default)]
pub struct Options {
    pub voters: Vec<NodeId>,
    pub inflight: Option<usize>,
    pub asynchronous: bool,
    pub prevote: bool,
    pub checkquorum: bool,
}

impl Options {
    fn new(case: &Case) -> Self {
        let flag = |key| case.value(key) == Some("true");
        Self {
            voters: case.numbers("voters").into_iter().map(NodeId).collect(),
            inflight: case.value("inflight").map(|count| count.parse().unwrap()),
            asynchronous: flag("async-storage-writes"),
            prevote: flag("prevote"),
            checkquorum: flag("checkquorum"),
        }
    }
}

impl Replay {
    /// Runs a command. Gives what can be known after it, and what could not be done at all.
    pub fn run(&mut self, case: &Case) -> (Facts, Vec<String>) {
        self.acks.extend(self.acks_now.drain(..));
        let numbers: Vec<usize> = case.plain().filter_map(|id| id.parse().ok()).collect();
        let first = numbers.first().map_or(0, |id: &usize| id.saturating_sub(1));
        let only_first = matches!(case.name.as_str(), "propose" | "compact" | "report-unreachable");
        let nodes: Vec<usize> = numbers
            .iter()
            .take(if only_first { 1 } else { usize::MAX })
            .map(|id| id.saturating_sub(1))
            .collect();
        let known = case.name == "add-nodes" || nodes.iter().all(|place| *place < self.nodes.len());
        match case.name.as_str() {
            _ if !known => self.cannot("name a node that does not exist"),
            "log-level" => {}
            "add-nodes" => self.add_nodes(case, first + 1),
            "campaign" => self.campaign(first),
            "propose" => {
                let data = case.plain().nth(1).unwrap_or_default().to_owned();
                self.propose(first, Bytes::from(data));
            }
            "propose-conf-change" => self.propose_change(first, case),
            "process-ready" => nodes.iter().for_each(|place| self.process_ready(*place)),
            "process-append-thread" => nodes.iter().for_each(|place| self.append_thread(*place)),
            "process-apply-thread" => nodes.iter().for_each(|place| self.apply_thread(*place)),
            "deliver-msgs" => self.deliver_messages(case, &nodes),
            "stabilize" if nodes.is_empty() => {
                self.stabilize(&(0..self.nodes.len()).collect::<Vec<_>>());
            }
            "stabilize" => self.stabilize(&nodes),
            "tick-heartbeat" => self.tick(first, |config| config.heartbeat_interval),
            "tick-election" => self.tick_election(first),
            "set-randomized-election-timeout" => {
                let ticks = case.value("timeout").and_then(|ticks| ticks.parse().ok());
                (self.nodes[first].patience, self.nodes[first].waited) = (ticks, 0);
            }
            "report-unreachable" => {
                let node = NodeId(numbers.get(1).map_or(0, |id| *id as u64));
                self.step(first, Event::PeerUnreachable { node });
            }
            "raft-log" => self.show_log(first),
            "raft-state" => self.show_states(),
            "status" => self.show_status(first),
            "transfer-leadership" => {
                let node = |key| case.value(key).and_then(|id| id.parse::<u64>().ok());
                match (node("from"), node("to").map(NodeId)) {
                    (Some(from), Some(to)) => self.transfer(from as usize - 1, to),
                    _ => self.cannot("hand over leadership from or to nobody"),
                }
            }
            "compact" => self.compact(first, numbers.get(1).map_or(0, |index| *index as u64)),
            "send-snapshot" => self.cannot("send a snapshot"),
            other => self.cannot(&format!("run the unknown command {other:?}")),
        }
        for node in &self.nodes {
            let raft = &node.raft;
            for index in node.words.base.0 + 1..=raft.last_index().0 {
                let stored = raft.log().durable().0 >= index;
                self.facts.state(format!("{} takes {index} for stored", node.id), stored);
            }
        }
        (std::mem::take(&mut self.facts), std::mem::take(&mut self.unsupported))
    }

    /// Whether this became of an acknowledgement before the present command.
    pub fn is_repeated(&self, event: &str) -> bool {
        self.acks.contains(event)
    }

    /// Notes what became of a message, if it carries a decision that is new.
    fn decided(&mut self, message: &str, event: String) {
        if !is_decision(message) || self.acks.contains(&event) {
            return;
        }
        if is_acknowledgement(message) {
            self.acks_now.push(event.clone());
        }
        self.facts.event(event);
    }

    fn cannot(&mut self, what: &str) {
        self.unsupported.push(what.to_owned());
    }

    fn add_nodes(&mut self, case: &Case, count: usize) {
        for (key, values) in &case.arguments {
            if !values.is_empty() && !OPTIONS.contains(&key.as_str()) {
                self.cannot(&format!("start nodes with {key}"));
            }
        }
        let told = !case.numbers("voters").is_empty();
        if told {
            self.options = Options::new(case);
        }
        if !case.numbers("learners").is_empty() {
            self.cannot("start learners");
        }
        let voters = if told { self.options.voters.clone() } else { Vec::new() };
        let base = LogIndex(case.value("index").map_or(0, |index| index.parse().unwrap()));
        for _ in 0..count {
            let id = NodeId(self.nodes.len() as u64 + 1);
            let node = Node::new(id, self.words.of(base), voters.clone(), self.options.inflight);
            let raft = &node.raft;
            let (state, last) = (raft.hard_state(), raft.last_index());
            let last_term = term_shown(raft.log().last_term(), last, base);
            let numbers = format!("{}, {}, {last}, {last_term}", state.term, state.commit);
            self.facts.state(format!("{id} starts with term, commit, last"), numbers);
            let named: Vec<String> = voters.iter().map(ToString::to_string).collect();
            self.facts.state(format!("{id} starts with voters"), named.join(","));
            self.facts.event(format!("{id} becomes follower in term {}", state.term));
            self.facts.event(format!("{id} has {}", raft.configuration()));
            self.nodes.push(node);
        }
    }

    /// Gives a core an event and notes what has become of it.
    fn step(&mut self, place: usize, event: Event) {
        let before = self.nodes[place].position();
        self.nodes[place].step(event);
        self.note_role(place, before);
        let node = &mut self.nodes[place];
        if let Some(fault) = node.effects.fault.take() {
            self.facts.event(format!("{} FAULT: {fault}", node.id));
        }
        self.ask_again(place);
    }

    fn note_role(&mut self, place: usize, before: (Role, Term)) {
        let node = &self.nodes[place];
        let (role, term) = node.position();
        if (role, term) != before {
            let role = match role {
                Role::Follower => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            };
            self.facts.event(format!("{} becomes {role} in term {term}", node.id));
        }
    }

    /// Lets a node's clock move.
    fn tick(&mut self, place: usize, by: impl Fn(&Config) -> Duration) {
        let led = self.nodes[place].role() == Role::Leader;
        let now = self.nodes[place].moved(by);
        self.step(place, Event::Tick { now });
        if led && self.nodes[place].role() == Role::Follower {
            self.facts.event(format!("{} hears no quorum", self.nodes[place].id));
        }
    }

    /// Lets an election timeout pass, the shortest that may be drawn. Ours draws none so short; a node that
    /// was told when to campaign does so.
    fn tick_election(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.waited += ELECTION_TICKS;
        let led = node.role() == Role::Leader;
        if !led && node.patience.is_some_and(|ticks| node.waited >= ticks) {
            node.waited = 0;
            self.campaign(place);
            return;
        }
        for _ in 0..5 {
            self.tick(place, |config| config.election_timeout / 5);
        }
    }

    fn campaign(&mut self, place: usize) {
        let before = self.nodes[place].position();
        let prevote = self.options.prevote;
        let node = &mut self.nodes[place];
        if node.role() == Role::Leader {
            return;
        }
        let sent = node.effects.messages.len();
        let now = node.moved(|config| config.election_timeout * 2);
        node.step(Event::Tick { now });
        if !prevote {
            let asked: Vec<NodeId> =
                node.effects.messages.drain(sent..).map(|(peer, _)| peer).collect();
            for from in asked {
                if node.role() == Role::PreCandidate {
                    let term = Term(node.raft.term().0 + 1);
                    let granted =
                        PreVoteReply { term, granted: true, committed: CommitMark::default() };
                    let message = Message::PreVoteReply(granted);
                    node.step(Event::Message { from, message });
                }
            }
        }
        if self.nodes[place].role() == Role::Follower {
            self.facts.event(format!("{} may not campaign", self.nodes[place].id));
        }
        self.note_role(place, before);
    }

    fn propose(&mut self, place: usize, payload: Bytes) {
        self.step(place, Event::Propose { payloads: vec![payload] });
        let node = &mut self.nodes[place];
        let accepted = node.effects.proposed.take().is_some_and(|proposed| proposed.accepted == 1);
        if !accepted {
            self.facts.event(format!("{} refuses a proposal", node.id));
        }
    }

    fn propose_change(&mut self, place: usize, case: &Case) {
        let kind = if case.value("v1") == Some("true") { "ConfChange" } else { "ConfChangeV2" };
        let asked = case.input.join(" ");
        let change = reconfiguration(case.value("transition").unwrap_or("auto"), &asked);
        let words = format!("{kind} {asked}").trim_end().to_owned();
        self.nodes[place].changes.push_back((change, words));
        self.ask_again(place);
    }

    /// Asks a leader for the changes that it did not take yet.
    fn ask_again(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let Some((change, words)) = node.changes.front().cloned() else { return };
        node.step(Event::Reconfigure { change, only_if_ready: false });
        match node.effects.reconfigured.take() {
            Some(Ok(Reconfigured { term, index })) => node.words.note(index, term, words),
            Some(Err(
                ReconfigureRefusal::TermNotCommitted | ReconfigureRefusal::UnderWay { .. },
            )) => return,
            refused => self.facts.event(format!("{} refuses a change: {refused:?}", node.id)),
        }
        self.nodes[place].changes.pop_front();
    }

    fn process_ready(&mut self, place: usize) {
        if !self.nodes[place].has_ready(self.options.asynchronous) {
            return;
        }
        let asynchronous = self.options.asynchronous;
        let told = self.nodes[place].to_tell();
        if told != self.nodes[place].told {
            self.nodes[place].told = told;
            self.tick(place, |config| config.heartbeat_interval);
        }
        let node = &mut self.nodes[place];
        let (id, words) = (node.id, node.words.clone());
        let mut effects = std::mem::take(&mut node.effects);
        let notices = std::mem::take(&mut node.notices);
        let handed = node.to_apply(asynchronous);
        let raft = &node.raft;
        let (state, role, leader) = (raft.hard_state(), raft.role(), raft.leader());
        let committed: Vec<Entry> = raft.entries(node.handed.next(), handed).cloned().collect();
        node.handed = handed;
        let vote = state.vote.map_or(0, |vote| vote.0);
        if (state.term, state.vote) != (node.shown.0.term, node.shown.0.vote)
            || state.commit != node.shown.0.commit
        {
            self.facts.event(format!("{id} stores Term:{} Vote:{vote}", state.term));
        }
        let moved = state != node.shown.0;
        node.shown = (state, role, leader);
        self.facts.state(format!("{id} term"), state.term);
        self.facts.state(format!("{id} vote"), vote);
        self.facts.state(format!("{id} commit"), state.commit);
        self.facts.state(format!("{id} leader"), leader.map_or(0, |leader| leader.0));
        self.facts.state(format!("{id} role"), format!("State{role:?}"));
        for entry in &effects.entries {
            self.facts.event(format!("{id} appends {}", entry_text(entry, &words)));
        }
        for entry in &committed {
            self.facts.event(format!("{id} applies {}", entry_text(entry, &words)));
        }
        let letter = |(place, (to, message))| {
            let notice = notices.contains(&place);
            Letter { from: id, to, body: Body::Message { message, notice } }
        };
        let letters: Vec<Letter> = effects.messages.drain(..).enumerate().map(letter).collect();
        let requests = effects.after_durable.iter().any(|(_, m)| matches!(m, Message::Vote(_)));
        let waiting: Vec<Letter> = effects
            .after_durable
            .drain(..)
            .map(|(to, message)| Letter {
                from: id,
                to,
                body: Body::Message { message, notice: false },
            })
            .collect();
        for letter in letters.iter().chain(&waiting) {
            let text = letter_text(letter, &words);
            if asynchronous || letter.to != id {
                self.decided(&text, format!("{id} sends {text}"));
                self.note_snapshot(id, letter);
            }
        }
        if let Some(snapshot) = self.nodes[place].installed.take() {
            self.facts.event(format!("{id} Snapshot {snapshot}"));
        }
        self.network.extend(letters);
        let entries = std::mem::take(&mut effects.entries);
        let reset = effects.base.is_some();
        let write = effects.write_mark.map(|mark| Write { reset, entries, mark });
        if !asynchronous {
            self.stored_at_once(place, write, waiting, &committed);
        } else if write.is_some() || moved {
            let mut work = Work { write, letters: waiting };
            if requests {
                while !self.nodes[place].append_work.is_empty() {
                    self.append_thread(place);
                }
                let (own, others) = work.letters.into_iter().partition(|letter| letter.to == id);
                work.letters = own;
                self.network.extend::<Vec<Letter>>(others);
            }
            self.nodes[place].append_work.push_back(work);
        }
        if asynchronous && !committed.is_empty() {
            self.nodes[place].apply_work.push_back(committed);
        }
    }

    /// Everything is stored, applied and reported within the Ready.
    fn stored_at_once(
        &mut self,
        place: usize,
        write: Option<Write>,
        waiting: Vec<Letter>,
        committed: &[Entry],
    ) {
        let id = self.nodes[place].id;
        if let Some(write) = &write {
            self.nodes[place].write(write);
        }
        self.apply(place, committed);
        if let Some(write) = write {
            self.step(place, Event::Durable(write.mark));
        }
        for letter in waiting {
            match letter.body {
                Body::Message { message, .. } if letter.to == id => {
                    self.step(place, Event::Message { from: id, message });
                }
                _ => self.network.push(letter),
            }
        }
    }

    fn append_thread(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let (id, words) = (node.id, node.words.clone());
        let Some(work) = node.append_work.pop_front() else { return };
        if let Some(write) = &work.write {
            node.write(write);
        }
        for letter in &work.letters {
            let text = letter_text(letter, &words);
            self.decided(&text, format!("{id} sends when stored {text}"));
        }
        self.network.extend(work.letters);
        if let Some(write) = work.write {
            self.network.push(Letter { from: id, to: id, body: Body::Stored(write.mark) });
        }
    }

    fn apply_thread(&mut self, place: usize) {
        if let Some(entries) = self.nodes[place].apply_work.pop_front() {
            self.apply(place, &entries);
        }
    }

    /// Tells what a node has in force with the entries that it applies.
    fn apply(&mut self, place: usize, entries: &[Entry]) {
        let node = &self.nodes[place];
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Reconfiguration) {
            let configuration = node.raft.log().configuration_at(entry.index);
            self.facts.event(format!("{} has {configuration}", node.id));
        }
    }

    fn deliver_messages(&mut self, case: &Case, nodes: &[usize]) {
        for place in nodes {
            self.deliver(*place, case.value("type"));
        }
        for id in case.numbers("drop") {
            let (dropped, kept) =
                std::mem::take(&mut self.network).into_iter().partition(|letter| {
                    letter.to.0 == id
                        && matches!(letter.body, Body::Message { .. })
                        && letter.from.0 != id
                });
            self.network = kept;
            for letter in &dropped as &Vec<Letter> {
                let text = letter_text(letter, &self.nodes[letter.from.0 as usize - 1].words);
                self.decided(&text, format!("dropped {text}"));
            }
        }
    }

    /// Delivers what is under way to a node now, of one type if one is given.
    fn deliver(&mut self, place: usize, kind: Option<&str>) {
        let to = self.nodes[place].id;
        let words = |letter: &Letter| self.nodes[letter.from.0 as usize - 1].words.clone();
        let wanted = |letter: &Letter| {
            letter.to == to
                && kind.is_none_or(|kind| {
                    letter_text(letter, &words(letter)).split(' ').nth(1) == Some(kind)
                })
        };
        let (now, later) = std::mem::take(&mut self.network).into_iter().partition(wanted);
        self.network = later;
        for letter in now as Vec<Letter> {
            let text = letter_text(&letter, &self.nodes[letter.from.0 as usize - 1].words);
            self.decided(&text, format!("{to} receives {text}"));
            self.note_snapshot(to, &letter);
            match letter.body {
                Body::Stored(mark) => self.step(place, Event::Durable(mark)),
                Body::Message { message, .. } => self.receive(place, letter.from, message),
            }
        }
    }

    fn transfer(&mut self, place: usize, to: NodeId) {
        self.step(place, Event::TransferLeadership { id: 0, to: Some(to) });
        if self.nodes[place].raft.transferring_to() == Some(to) {
            self.facts.event(format!("{} hands leadership to {to}", self.nodes[place].id));
        }
        for (_, outcome) in self.nodes[place].effects.transfers.drain(..) {
            if let TransferOutcome::Refused(reason) = outcome {
                self.unsupported.push(format!("hand over leadership: {reason}"));
            }
        }
    }

    /// A snapshot of all that is committed.
    fn take_snapshot(&mut self, place: usize) {
        let raft = &self.nodes[place].raft;
        let index = raft.commit();
        let term = raft.log().term_at(index).unwrap();
        let configuration = raft.log().configuration_at(index).clone();
        self.step(place, Event::Snapshot { index, term, configuration });
    }

    /// A snapshot, and a log that begins behind `index`.
    fn compact(&mut self, place: usize, index: u64) {
        self.take_snapshot(place);
        let raft = &mut self.nodes[place].raft;
        if LogIndex(index) > raft.commit() || raft.compact_to(LogIndex(index)).is_none() {
            self.cannot("compact its log");
        }
    }

    /// What a letter says about a snapshot, if it is about one; `node` sends or receives it.
    fn note_snapshot(&mut self, node: NodeId, letter: &Letter) {
        let Body::Message { message: Message::SnapshotOffer(offer), .. } = &letter.body else {
            return;
        };
        let log = self.nodes[letter.from.0 as usize - 1].raft.log();
        let configuration = log.configuration_at(offer.index);
        let text = snapshot_text(offer.index, offer.snapshot_term, configuration);
        self.facts.event(format!("{node} Snapshot: {text}"));
    }

    /// Installs what the leader offers.
    fn install(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let Some((from, index, term)) = node.effects.offered.take() else { return };
        let log = self.nodes[from.0 as usize - 1].raft.log();
        let configuration = log.configuration_at(index).clone();
        let node = &mut self.nodes[place];
        node.installed = Some(snapshot_text(index, term, &configuration));
        self.facts.event(format!("{} has {configuration}", node.id));
        self.step(place, Event::Installed { index, term, configuration });
    }

    fn receive(&mut self, place: usize, from: NodeId, message: Message) {
        let checkquorum = self.options.checkquorum;
        if let Message::AppendReply(AppendReply { outcome: AppendOutcome::Rejected { .. }, .. }) =
            message
            && self.nodes[place].role() == Role::Leader
        {
            self.take_snapshot(place);
        }
        let node = &mut self.nodes[place];
        let raft = &node.raft;
        let leads = raft.role() == Role::Leader;
        let newer = message.term() > raft.term() && raft.leader().is_some();
        let hears = newer && !checkquorum && (leads || node.heard);
        let patience = match message {
            Message::Vote(_) => hears,
            // A leader would have to step down to hear of an election that may never come.
            Message::PreVote(_) => hears && !leads,
            Message::Append(_) | Message::Heartbeat(_) => {
                node.heard = true;
                false
            }
            _ => false,
        };
        if patience {
            node.heard = false;
            let times = if leads { 2 } else { 1 };
            let now = node.moved(|config| config.election_timeout * times);
            node.step(Event::Tick { now });
            if node.role() != Role::Follower {
                self.cannot("wait without a campaign");
            }
        }
        let node = &mut self.nodes[place];
        let term = node.raft.term();
        let outdated = message.term() < term;
        let sent = node.effects.messages.len();
        let waiting = node.effects.after_durable.len();
        let ballot = match message {
            Message::Vote(_) => Some("MsgVote"),
            Message::PreVote(_) => Some("MsgPreVote"),
            _ => None,
        };
        let conflict = node.conflict(&message);
        self.step(place, Event::Message { from, message });
        self.install(place);
        let node = &mut self.nodes[place];
        let (id, raft) = (node.id, &node.raft);
        if outdated && node.effects.messages.len() > sent {
            node.notices.insert(sent);
        }
        if let Some((index, own, theirs)) = conflict
            && raft.log().term_at(index) == Some(theirs)
        {
            let terms = format!("[existing term: {own}, conflicting term: {theirs}]");
            self.facts.event(format!("{id} replaces {index} {terms}"));
        }
        if let Some(kind) = ballot {
            let answers = node.effects.messages[sent..].iter();
            let granted =
                answers.chain(&node.effects.after_durable[waiting..]).find_map(|(_, message)| {
                    match message {
                        Message::VoteReply(m) => Some(m.granted),
                        Message::PreVoteReply(m) => Some(m.granted),
                        _ => None,
                    }
                });
            let verb = match granted {
                Some(true) => "grants",
                Some(false) => "rejects",
                None => "ignores",
            };
            if !outdated {
                let term = raft.term();
                self.facts.event(format!("{id} {verb} {kind} of {from} in term {term}"));
            }
        }
    }

    fn stabilize(&mut self, places: &[usize]) {
        for _ in 0..1000 {
            let mut done = true;
            for place in places {
                if self.nodes[*place].has_ready(self.options.asynchronous) {
                    self.process_ready(*place);
                    done = false;
                }
            }
            for place in places {
                let id = self.nodes[*place].id;
                if self.network.iter().any(|letter| letter.to == id) {
                    self.deliver(*place, None);
                    done = false;
                }
            }
            for place in places {
                while !self.nodes[*place].append_work.is_empty() {
                    self.append_thread(*place);
                    done = false;
                }
            }
            for place in places {
                while !self.nodes[*place].apply_work.is_empty() {
                    self.apply_thread(*place);
                    done = false;
                }
            }
            if done {
                return;
            }
        }
        self.cannot("come to rest");
    }

    fn show_log(&mut self, place: usize) {
        let node = &self.nodes[place];
        for entry in &node.disk {
            self.facts.event(format!("{} has {}", node.id, entry_text(entry, &node.words)));
        }
    }

    fn show_states(&mut self) {
        for node in &self.nodes {
            let raft = &node.raft;
            let (id, leader) = (node.id, raft.leader().map_or(0, |leader| leader.0));
            let voter = raft.configuration().is_voter(id);
            self.facts.state(format!("{id} role"), format!("State{:?}", raft.role()));
            self.facts.state(format!("{id} votes"), if voter { "(Voter)" } else { "(Non-Voter)" });
            self.facts.state(format!("{id} term"), raft.term());
            self.facts.state(format!("{id} leader"), leader);
        }
    }

    fn show_status(&mut self, place: usize) {
        let node = &self.nodes[place];
        let raft = &node.raft;
        let mut show = |id: NodeId, kind, matched: LogIndex, next: LogIndex| {
            self.facts.state(format!("{} sees {id} progress", node.id), kind);
            self.facts.state(format!("{} sees {id} match", node.id), matched);
            self.facts.state(format!("{} sees {id} next", node.id), next);
        };
        let durable = raft.log().durable();
        show(node.id, "Replicate", durable, durable.next());
        for follower in raft.followers() {
            let offered = raft.offered().find(|(id, _)| *id == follower.id);
            let next = offered.map_or(follower.next, |(_, index)| index.next());
            let kind = match follower.replicating {
                _ if follower.snapshot => "Snapshot",
                true => "Replicate",
                false => "Probe",
            };
            show(follower.id, kind, follower.matched, next);
        }
    }
}
