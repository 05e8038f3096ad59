//! What the checks look at in a replica, and what they remember of it from turn to turn.

use std::collections::BTreeMap;

use coracle_engine::core::ShardView;
use coracle_engine::limits::{ENTRY_COST_BYTES, LEARNERS_MAX, VOTERS_MAX};
use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::{
    Entry, EntryKind, FollowerStatus, HardState, Readmission, Role, Standing,
};
use coracle_engine::{LogIndex, NodeId, ShardId, Term};

use super::chain::{Chain, Link, hash_entry};
use super::members::{Members, Place};
use super::violation::{Checked, Invariant, Violation, fail};

/// Questions that wait at a leader: two of each member, in both halves of a joint configuration.
const QUESTIONS_MAX: usize = 2 * (2 * VOTERS_MAX + LEARNERS_MAX);

/// Bounds of one replica's windows.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Append messages to one follower.
    pub inflight_messages_max: usize,
    /// Cost of the entries in them.
    pub inflight_bytes_max: usize,
    /// Cost of the entries that a leader accepts beyond its commit index.
    pub uncommitted_bytes_max: usize,
    /// Batches of reads that wait.
    pub read_batches_max: usize,
    /// Largest payload.
    pub payload_bytes_max: usize,
}

/// A replica after a turn. Implemented for what an observer is shown; tests fabricate others.
pub trait Replica {
    /// Which shard.
    fn id(&self) -> ShardId;
    /// Term, vote and commit index.
    fn hard_state(&self) -> HardState;
    /// What it is.
    fn role(&self) -> Role;
    /// Whom it takes for the leader.
    fn leader(&self) -> Option<NodeId>;
    /// Who belongs to the shard, as it believes.
    fn configuration(&self) -> &Configuration;
    /// End of the log.
    fn last(&self) -> LogIndex;
    /// Durable, as it believes.
    fn durable(&self) -> LogIndex;
    /// Term that is durable, as it believes.
    fn durable_term(&self) -> Term;
    /// Applied.
    fn applied(&self) -> LogIndex;
    /// How often the log was cut.
    fn rewrites(&self) -> u64;
    /// An entry; of those that are in memory.
    fn entry(&self, index: LogIndex) -> Option<&Entry>;
    /// Where the log begins: position and term before its first entry.
    fn base(&self) -> (LogIndex, Term) {
        (LogIndex(0), Term(0))
    }
    /// The term at a position of the log; of the base, too.
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.entry(index).map(|entry| entry.term)
    }
    /// Why it takes no part any more.
    fn halted(&self) -> Option<&str> {
        None
    }
    /// Whether it was found damaged and has heard no leader since.
    fn is_damaged(&self) -> bool {
        false
    }
    /// Whether it votes and counts.
    fn is_member(&self) -> bool {
        self.hard_state().standing == Standing::Member
    }
    /// What a leader knows of the others.
    fn followers(&self) -> impl Iterator<Item = FollowerStatus>;
    /// Cost of what is not committed; a leader's.
    fn uncommitted_bytes(&self) -> usize;
    /// Batches of reads that wait.
    fn reads_pending(&self) -> usize;
    /// Questions of other replicas that wait with them.
    fn questions_pending(&self) -> usize {
        0
    }
    /// The newest round of reads that a leader takes for confirmed; 0 if none of this term.
    fn confirmed_round(&self) -> u64;
    /// Its bounds.
    fn windows(&self) -> Windows;
}

impl Replica for ShardView<'_> {
    fn id(&self) -> ShardId {
        ShardView::id(self)
    }

    fn hard_state(&self) -> HardState {
        self.raft().hard_state()
    }

    fn role(&self) -> Role {
        self.raft().role()
    }

    fn leader(&self) -> Option<NodeId> {
        self.raft().leader()
    }

    fn configuration(&self) -> &Configuration {
        self.raft().configuration()
    }

    fn last(&self) -> LogIndex {
        self.raft().last_index()
    }

    fn durable(&self) -> LogIndex {
        self.raft().log().durable()
    }

    fn durable_term(&self) -> Term {
        self.raft().durable_term()
    }

    fn applied(&self) -> LogIndex {
        ShardView::applied(self)
    }

    fn rewrites(&self) -> u64 {
        self.raft().log().rewrites()
    }

    fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.raft().entry(index)
    }

    fn base(&self) -> (LogIndex, Term) {
        let log = self.raft().log();
        (log.base_index(), log.base_term())
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.raft().log().term_at(index)
    }

    fn halted(&self) -> Option<&str> {
        ShardView::halted(self)
    }

    fn is_damaged(&self) -> bool {
        self.raft().is_damaged()
    }

    fn is_member(&self) -> bool {
        self.raft().standing() == Some(Standing::Member)
    }

    fn followers(&self) -> impl Iterator<Item = FollowerStatus> {
        self.raft().followers()
    }

    fn uncommitted_bytes(&self) -> usize {
        self.raft().status().uncommitted_bytes
    }

    fn reads_pending(&self) -> usize {
        self.raft().reads_pending()
    }

    fn questions_pending(&self) -> usize {
        self.raft().questions_pending()
    }

    fn confirmed_round(&self) -> u64 {
        self.raft().confirmed_round()
    }

    fn windows(&self) -> Windows {
        let config = self.raft().config();
        Windows {
            inflight_messages_max: config.inflight_messages_max,
            inflight_bytes_max: config.inflight_bytes_max,
            uncommitted_bytes_max: config.uncommitted_bytes_max,
            read_batches_max: config.read_batches_max,
            payload_bytes_max: config.payload_bytes_max,
        }
    }
}

/// A replica as it was after the last turn that touched it. Empty for one that does not run.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    pub(super) state: HardState,
    pub(super) role: Role,
    pub(super) applied: LogIndex,
    pub(super) durable_term: Term,
    pub(super) uncommitted: usize,
    rewrites: u64,
    pub(super) log: Chain,
    /// Applied since the last look: index, term and hash of the entry.
    pub(super) applied_new: Vec<(LogIndex, Term, u64)>,
    pub(super) applied_last: LogIndex,
    /// Where the configuration is that is in force now.
    configured: Option<Place>,
    /// All that were in force at some moment of the last turn, the present one last.
    pub(super) configurations: Vec<Configuration>,
    /// New ones, which nobody had before.
    pub(super) changes_new: Vec<Place>,
    /// The newest round of reads that was confirmed, and its term.
    pub(super) confirmed: (Term, u64),
}

impl Mirror {
    /// That of a replica that is seen for the first time in its process.
    pub(super) fn new() -> Self {
        Self {
            state: HardState::default(),
            role: Role::Follower,
            applied: LogIndex(0),
            durable_term: Term(0),
            uncommitted: 0,
            rewrites: 0,
            log: Chain::default(),
            applied_new: Vec::new(),
            applied_last: LogIndex(0),
            configured: None,
            configurations: Vec::new(),
            changes_new: Vec::new(),
            confirmed: (Term(0), 0),
        }
    }

    /// Notes which configurations were in force in this turn. Those that came and went in it are not known.
    pub(super) fn note_configurations(&mut self, members: &Members, before: LogIndex) {
        let now = members.place(&self.log, self.log.last());
        if self.configured == Some(now) && self.configurations.len() == 1 {
            return;
        }
        let kept = self.configurations.pop();
        self.configurations.clear();
        self.configurations.extend(kept);
        let begun = before.min(self.log.last());
        let mut places: Vec<Place> = (begun.0..=self.log.last().0)
            .map(|at| members.place(&self.log, LogIndex(at)))
            .collect();
        places.dedup();
        self.configurations.extend(places.into_iter().map(|place| members.at(place).clone()));
        self.configurations.dedup();
        self.configured = Some(now);
    }

    /// Whether the replica was found damaged since the last look; at the first look, whether it is.
    pub(super) fn is_newly_damaged(&self, replica: &impl Replica) -> bool {
        let standing = replica.hard_state().standing;
        // Each time it is damaged, it returns under a new number. One that is blank has nothing to lose.
        let returns_anew = matches!(standing, Standing::Returning(_))
            && standing != self.state.standing
            && self.log.last() > LogIndex(0);
        returns_anew || (replica.is_damaged() && standing != self.state.standing)
    }

    /// The replica gives up its log, and what it knew to be committed. It keeps its term, its vote, and what
    /// its state machine has.
    pub(super) fn give_up(&mut self, replica: &impl Replica) {
        self.log = Chain::default();
        self.rewrites = replica.rewrites();
        self.state.commit = LogIndex(0);
        self.role = Role::Follower;
        self.uncommitted = 0;
    }

    /// Follows the replica's log; only what is new in it is looked at. Returns the first index that is
    /// new. What the replica does not have in memory is what `registry` knows of its index and term; what
    /// is below its base is what was `committed`.
    pub(super) fn follow(
        &mut self,
        replica: &impl Replica,
        registry: &Registry,
        committed: &Chain,
    ) -> Checked<LogIndex> {
        let last = replica.last();
        let (base, base_term) = replica.base();
        if replica.rewrites() != self.rewrites || last < self.log.last() {
            // Nothing below the commit index can have been cut; if it was, it shows here.
            let mut keep = last.min(self.log.last()).min(self.state.commit);
            while !self.agrees(replica, keep) {
                keep = keep.prev();
            }
            let leads = self.role == Role::Leader && replica.role() == Role::Leader;
            let term = replica.hard_state().term;
            if leads && self.state.term == term {
                let expected = "a leader to keep its log";
                let seen = format!("its log was cut, it ended at {}", self.log.last());
                let violation = Violation::new(Invariant::LeaderAppendOnly, expected, seen);
                return fail(violation.term(term).index(last));
            }
            self.check_truncation(replica, keep)?;
            self.log.cut_behind(keep);
            self.rewrites = replica.rewrites();
        }
        if self.log.at(base).is_none_or(|link| link.term != base_term) {
            self.log = history(committed, base, base_term)?;
        }
        let first = self.log.last().next();
        while self.log.last() < last {
            let index = self.log.last().next();
            let (entry_term, hash) = match (replica.entry(index), replica.term_at(index)) {
                (Some(entry), _) => (entry.term, hash_entry(entry.kind, &entry.payload)),
                (None, Some(term)) => match registry.get(index, term) {
                    Some(link) => (term, link.hash),
                    None => {
                        let seen = format!("one of term {term}, which was in no log before");
                        let violation =
                            Violation::new(Invariant::LogMatching, "an entry on the disk", seen);
                        return fail(violation.index(index));
                    }
                },
                (None, None) => {
                    let seen = format!("no entry, but the log ends at {last}");
                    let violation = Violation::new(Invariant::CursorOrder, "an entry", seen);
                    return fail(violation.index(index));
                }
            };
            let term = replica.hard_state().term;
            let before = self.log.end().term;
            if entry_term < before || entry_term > term {
                let expected = format!("a term from {before} to the replica's own, {term}");
                let seen = format!("an entry of term {entry_term}");
                let violation = Violation::new(Invariant::LogTerms, expected, seen);
                return fail(violation.term(term).index(index));
            }
            self.log.push(entry_term, hash);
        }
        Ok(first)
    }

    /// Whether the replica still has the entry that was seen at `index`; below its base nobody can tell.
    fn agrees(&self, replica: &impl Replica, index: LogIndex) -> bool {
        let seen = self.log.at(index).map(|link| link.term);
        index.0 == 0 || index < replica.base().0 || seen == replica.term_at(index)
    }

    /// A log is cut only where an entry of another leader takes the place of the first one that goes. If
    /// it was cut more than once, that entry may have come back by now.
    fn check_truncation(&self, replica: &impl Replica, keep: LogIndex) -> Checked {
        let (last, term) = (replica.last(), replica.hard_state().term);
        let once = replica.rewrites() == self.rewrites + 1;
        let mut kept = (keep.0 + 1..=last.min(self.log.last()).0).map(LogIndex);
        if !once || last >= self.log.last() || !kept.all(|index| self.agrees(replica, index)) {
            return Ok(());
        }
        let expected = format!("an entry in the place of {}", self.log.describe(last.next()));
        let seen = "none: the log was cut, and nothing has come instead";
        fail(Violation::new(Invariant::LogShrunk, expected, seen).term(term).index(last.next()))
    }

    /// Compares the cursors with those of the last look and with each other.
    pub(super) fn check_cursors(&self, replica: &impl Replica) -> Checked {
        let (old, new) = (self.state, replica.hard_state());
        if new.term < old.term {
            let expected = format!("a term of at least {}", old.term);
            let seen = format!("term {}", new.term);
            return fail(Violation::new(Invariant::TermMonotonic, expected, seen).term(new.term));
        }
        if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
            let expected = format!("the vote for {:?} to stay", old.vote);
            let seen = format!("a vote for {:?}", new.vote);
            return fail(Violation::new(Invariant::OneVotePerTerm, expected, seen).term(new.term));
        }
        let monotonic = [
            ("commit", old.commit, new.commit),
            ("applied", self.applied, replica.applied()),
            ("durable term", LogIndex(self.durable_term.0), LogIndex(replica.durable_term().0)),
        ];
        for (name, before, now) in monotonic {
            if now < before {
                let expected = format!("{name} of at least {before}");
                let seen = format!("{name} {now}");
                let violation = Violation::new(Invariant::CursorMonotonic, expected, seen);
                return fail(violation.term(new.term).index(now));
            }
        }
        let last = replica.last();
        let ordered = [
            ("applied", replica.applied(), "commit", new.commit),
            ("commit", new.commit, "last", last),
            ("durable", replica.durable(), "last", last),
            ("durable term", LogIndex(replica.durable_term().0), "term", LogIndex(new.term.0)),
        ];
        for (low_name, low, high_name, high) in ordered {
            if low > high {
                let (expected, seen) =
                    (format!("{low_name} <= {high_name}"), format!("{low} > {high}"));
                let violation = Violation::new(Invariant::CursorOrder, expected, seen);
                return fail(violation.term(new.term).index(low));
            }
        }
        Ok(())
    }

    /// What a leader keeps about its followers and its clients.
    pub(super) fn check_windows(&self, replica: &impl Replica) -> Checked {
        let (windows, last) = (replica.windows(), replica.last());
        let over = |what: String, most: usize| {
            fail(Violation::new(Invariant::Limits, format!("at most {most}"), what))
        };
        if replica.reads_pending() > windows.read_batches_max {
            let what = format!("{} batches of reads wait", replica.reads_pending());
            return over(what, windows.read_batches_max);
        }
        if replica.questions_pending() > QUESTIONS_MAX {
            let what = format!("{} questions wait", replica.questions_pending());
            return over(what, QUESTIONS_MAX);
        }
        if replica.role() != Role::Leader {
            return Ok(());
        }
        let one = windows.payload_bytes_max + ENTRY_COST_BYTES;
        for follower in replica.followers() {
            let FollowerStatus { id, matched, next, inflight_messages, inflight_bytes, .. } =
                follower;
            if matched > last || next > last.next() || next.0 == 0 {
                let expected = format!("matched <= last, 0 < next <= last + 1 for follower {id}");
                let seen = format!("matched {matched}, next {next}, last {last}");
                return fail(Violation::new(Invariant::CursorOrder, expected, seen).index(matched));
            }
            if inflight_messages > windows.inflight_messages_max {
                let what = format!("{inflight_messages} messages are on their way to {id}");
                return over(what, windows.inflight_messages_max);
            }
            // The last message may be larger than the room by an entry.
            if inflight_bytes > windows.inflight_bytes_max + one {
                let what = format!("{inflight_bytes} bytes are on their way to {id}");
                return over(what, windows.inflight_bytes_max + one);
            }
        }
        // What a leader has taken over from others may be more; it must not grow then.
        let (before, now) = (self.uncommitted, replica.uncommitted_bytes());
        let grew = self.role == Role::Leader && now > before;
        // What it writes to take followers back, and about who belongs to the shard, is no proposal.
        let readmissions = (ENTRY_COST_BYTES + Readmission::BYTES) * replica.followers().count();
        let new = (self.log.last().0 + 1..=last.0).filter_map(|at| replica.entry(LogIndex(at)));
        let changes = new.filter(|entry| entry.kind == EntryKind::Reconfiguration);
        let own = readmissions + changes.map(Entry::cost).sum::<usize>();
        if grew && now > windows.uncommitted_bytes_max.max(one).max(before) + own {
            let what = format!("{now} bytes are not committed, {before} a turn before");
            return over(what, windows.uncommitted_bytes_max);
        }
        Ok(())
    }

    /// Remembers the rest for the next look.
    pub(super) fn remember(&mut self, replica: &impl Replica) {
        self.state = replica.hard_state();
        self.role = replica.role();
        self.applied = replica.applied();
        // A snapshot may have taken the place of what was not applied yet.
        self.applied_last = self.applied_last.max(self.applied);
        self.durable_term = replica.durable_term();
        self.uncommitted = replica.uncommitted_bytes();
    }
}

/// What a log that begins behind `base` stands for: everything that was committed up to there.
pub(super) fn history(committed: &Chain, base: LogIndex, term: Term) -> Checked<Chain> {
    if committed.at(base).is_some_and(|link| link.term == term) {
        let mut chain = committed.clone();
        chain.cut_behind(base);
        return Ok(chain);
    }
    let expected = format!("{}, as it is committed", committed.describe(base));
    let seen = format!("a snapshot, or a log that begins behind it, with term {term} there");
    fail(Violation::new(Invariant::CommittedImmutable, expected, seen).term(term).index(base))
}

/// Every entry that any log ever had, by index and term: with its link, which stands for all before it.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// The first one seen at each index.
    first: Vec<Link>,
    others: BTreeMap<(LogIndex, Term), Link>,
}

impl Registry {
    /// Notes an entry; `false` if another one, or another past, was seen at its place and term.
    pub(super) fn note(&mut self, index: LogIndex, link: Link) -> bool {
        let place = (index.0 - 1) as usize;
        match self.first.get(place) {
            None => {
                // Logs are followed without gaps.
                self.first.push(link);
                true
            }
            Some(known) if known.term == link.term => known.chain == link.chain,
            Some(_) => self.others.entry((index, link.term)).or_insert(link).chain == link.chain,
        }
    }

    /// The entry of this index and term, if any log ever had it.
    pub(super) fn get(&self, index: LogIndex, term: Term) -> Option<Link> {
        let first = self.first.get(usize::try_from(index.0.checked_sub(1)?).ok()?)?;
        if first.term == term { Some(*first) } else { self.others.get(&(index, term)).copied() }
    }
}
