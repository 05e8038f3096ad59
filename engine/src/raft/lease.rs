//! Reads without a round of messages, while nobody else can lead (Raft thesis, 6.4.1).
//!
//! Off unless [`Config::lease`](super::Config::lease) is set. It rests on clocks, which nothing else here does; so
//! its bound on them is a setting.
//!
//! # Rules
//! **A voter** that answers a heartbeat is *quiet* from then on for an election timeout on its own clock: it
//! ignores votes and pre-votes and does not campaign, whatever it hears of later terms. Its answer says so, and
//! for how long. It knows the time from ticks alone, and a process that stood still handles messages before
//! its next tick: so the time begins with the *next* tick after the heartbeat, never before the heartbeat.
//! A voter that has just started is quiet, too: it has forgotten whom it heard.
//!
//! **The leader** numbers every round of heartbeats and keeps when it was sent, on its own clock, or a little
//! before. Its lease lasts from the sending of the newest round that a majority has answered, itself counted,
//! for `election timeout / (1 + drift)`. Answers of voters that are quiet for less than the leader's election timeout,
//! or not at all, do not count. In the lease a read may be answered at once, from the commit index of that
//! moment, if an entry of the leader's term is committed. The time is that of the question
//! ([`Event::LeaseRead`](super::Event::LeaseRead)), not that of the last tick.
//!
//! **A transfer** makes voters vote although they are quiet. So a leader that has told anybody to campaign has no
//! lease any more **until the end of its term**: the order can arrive at any time, after the transfer was given
//! up, too, and nothing tells when it no longer can. Reads then take their rounds.
//!
//! # Clocks that stand still
//! A machine that is suspended, or a virtual one that is paused or moved, has a clock that stood still: that is no
//! drift of some parts per million, and breaks the bound. When it goes on, its leases seem to last, while others have
//! led for long. So leases are for machines that nobody suspends. A process that is stopped (SIGSTOP, a debugger,
//! swapping) is no such case: its clock goes on.
//!
//! # Why this is safe
//! Drift is bounded so: while one node's clock moves by `x`, no other's moves by more than `(1 + drift) x`. Say
//! leader L of term t answers a read at time n of its clock, in a lease from s, and somebody was elected in a later
//! term by then. The first of them, K, had votes of a majority; one voter V is also in the majority that
//! answered the round sent at s: all majorities of one configuration share a node, and for two of them see below.
//! - V had not voted for K before it answered, or it would not have answered in term t. (For V = L: L does not
//!   vote while it leads.)
//! - So V voted afterwards. If K's requests were not those of a transfer, V was not quiet any more: its clock had
//!   moved on by an election timeout since it got the heartbeat, L's clock since s by at least `election timeout /
//!   (1 + drift)`, and the lease was over.
//! - If they were, a leader of an earlier term, t or later, had told K to campaign. That is L, since K is the first
//!   after it, and L then has no lease.
//!
//! Whoever turns leases on or off, or changes the election timeout, does it on all nodes: a voter without leases
//! is not counted by a leader with them, but a voter that had them and starts without is not quiet then. So
//! between the stop and the start of such a node must lie an election timeout.
//!
//! # When members come and go
//! The majority is one of the configuration in force on L at time n, committed or not, and of both halves if it is
//! joint: [`Raft::lease_until`] is computed anew each time, of what each voter has answered. K is elected by the
//! configuration at the end of *its* log, which may be another one. Their majorities share a node all the same:
//! - L has committed an entry e of its own term, or it has no lease. So K has e (leader completeness), and with it
//!   all that L has before it. What K has after e was appended by L: nobody was elected between them. So the
//!   configurations in K's log are a beginning of those in L's.
//! - Let C be the one in force on L, and B the one before it. If C lies before e, K has it, too. Else L appended it,
//!   and only after B was committed; so K has B, and C or not. It has nothing newer: K was elected by time n,
//!   and all of L's entries that it has were appended before that.
//! - Majorities of B and C share a node: C differs by one voter, or one of them is joint and has the other as a half.
//!
//! What a voter promised, it keeps whatever becomes of it: learners promise, too, and count as soon as they are
//! voters; who was removed is quiet until its time is up. A leader that is no voter does not count itself.
//!
//! One exception: **who decides alone** need not be quiet, or a shard of one replica would wait at each start. That
//! holds only when the configuration (V) that says so is *committed* as far as V knows. Before, the leader that removes
//! itself may lead on in a lease that rests on V alone, and V, having it in its log, could elect itself. Once it
//! is committed, the leader that did that has stepped down in the same step; those of earlier terms have
//! no lease any more, by the above; and those of later terms have none before they have committed an entry
//! in a configuration that is not (V), and the first such one is not committed before V has it on its disk.

use std::collections::VecDeque;
use std::time::Duration;

use super::config::Config;
use super::effects::{Effects, Role};
use super::message::{HeartbeatReply, Message, Standing};
use super::replica::Raft;
use crate::LogIndex;
use crate::limits::LEASE_ROUNDS_MAX;

/// Turns leases on. The same on all voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How much faster any node's clock may be than any other's, in parts per million. Quartz clocks differ by
    /// less than 200, disciplined ones (NTP slews by up to 500 on each side) by less than 1,500.
    pub drift_ppm: u32,
}

impl LeaseConfig {
    /// How long a lease lasts after its heartbeats were sent.
    #[must_use]
    pub fn duration(self, election_timeout: Duration) -> Duration {
        const PPM: u128 = 1_000_000;
        #[cfg(mutant = "lease-without-margin")]
        return election_timeout + election_timeout * self.drift_ppm / PPM as u32;
        #[cfg(not(mutant = "lease-without-margin"))]
        {
            let nanos = election_timeout.as_nanos() * PPM / (PPM + u128::from(self.drift_ppm));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        }
    }
}

/// What a replica keeps for leases, as a voter and as a leader.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// A heartbeat was heard since the last tick: the time to be quiet begins with the next one.
    heard: bool,
    quiet_until: Duration,
    /// A leader's rounds of heartbeats, oldest first, and when each was sent at the earliest.
    sent: VecDeque<(u64, Duration)>,
    /// Somebody was told to campaign in this term.
    forfeited: bool,
}

impl Lease {
    pub(super) fn new(config: &Config, now: Duration) -> Self {
        let quiet = config.lease.is_some() && cfg!(not(mutant = "restarted-voter-votes"));
        let quiet_until = if quiet { now + config.election_timeout } else { now };
        Self { heard: false, quiet_until, sent: VecDeque::new(), forfeited: false }
    }

    /// Gives back memory for rounds that are not kept any more.
    pub(super) fn rest(&mut self) {
        self.sent.shrink_to_fit();
    }

    /// A new term of this replica as leader begins.
    pub(super) fn begin_term(&mut self) {
        self.sent.clear();
        self.forfeited = false;
    }

    /// Somebody may depose this leader although voters are quiet.
    pub(super) fn forfeit(&mut self) {
        #[cfg(not(mutant = "lease-read-during-transfer"))]
        {
            self.forfeited = true;
        }
    }
}

/// For how long a replica with this configuration is quiet after a heartbeat: milliseconds, 0 without leases.
fn quiet_ms(config: &Config) -> u32 {
    let timeout = config.lease.map_or(0, |_| config.election_timeout.as_millis());
    u32::try_from(timeout).unwrap_or(u32::MAX)
}

impl Raft {
    /// Until when, on this replica's clock, nobody else can lead, as far as it knows: linearizable reads may be
    /// answered before that without a round. `None` without a lease.
    #[must_use]
    pub fn lease_until(&self) -> Option<Duration> {
        let config = self.config.lease?;
        if self.role != Role::Leader
            || self.lease.forfeited
            || self.log.committed() < self.term_start
        {
            return None;
        }
        let newest = self.deciders().committed(|node| match self.peer(node) {
            Some(place) => LogIndex(self.peers[place].progress.quiet_round),
            None if node == self.config.id => LogIndex(self.reads.round()),
            None => LogIndex(0),
        });
        let sent = self.lease.sent.iter().find(|(round, _)| *round == newest.0)?.1;
        Some(sent + config.duration(self.config.election_timeout))
    }

    /// A read at time `now`: answered at once in a lease, else in a round.
    pub(super) fn on_lease_read(&mut self, id: u64, now: Duration, effects: &mut Effects) {
        let now = now.max(self.now);
        #[cfg(mutant = "lease-by-stale-clock")]
        let now = self.now.min(now);
        if self.lease_until().is_some_and(|until| now < until) {
            sometimes!(read_by_lease);
            effects.read_states.push((id, self.log.committed()));
        } else {
            sometimes!(read_without_lease, self.config.lease.is_some());
            self.on_read_index(id, effects);
        }
    }

    /// Gives the heartbeats that are about to be sent a number of their own. One round of reads keeps its own.
    pub(super) fn number_heartbeats(&mut self) {
        if self.config.lease.is_some() {
            self.reads.skip_round();
        }
    }

    /// The newest round of heartbeats is sent now.
    pub(super) fn note_round_sent(&mut self) {
        if self.config.lease.is_none() {
            return;
        }
        let sent = &mut self.lease.sent;
        if sent.len() >= LEASE_ROUNDS_MAX {
            sometimes!(lease_rounds_full);
            sent.pop_front();
        }
        sent.push_back((self.reads.round(), self.now));
    }

    /// A voter has answered a round.
    pub(super) fn note_quiet(&mut self, place: usize, reply: &HeartbeatReply) {
        #[cfg(mutant = "lease-from-answer")]
        if let Some(sent) = self.lease.sent.back_mut() {
            sent.1 = self.now;
        }
        let own = quiet_ms(&self.config);
        if own > 0 && reply.quiet_ms >= own && reply.standing == Standing::Member {
            let progress = &mut self.peers[place].progress;
            progress.quiet_round = progress.quiet_round.max(reply.round);
        }
    }

    /// What a voter says in its answer to a heartbeat, and from then on keeps to.
    pub(super) fn promise_quiet(&mut self) -> u32 {
        self.lease.heard = self.config.lease.is_some();
        #[cfg(mutant = "quiet-from-stale-clock")]
        self.tick_quiet();
        quiet_ms(&self.config)
    }

    /// The time of a voter moves on.
    pub(super) fn tick_quiet(&mut self) {
        if std::mem::take(&mut self.lease.heard) {
            self.lease.quiet_until = self.now + self.config.election_timeout;
        }
    }

    /// Whether it has promised to be quiet and that time is not over: only ticks tell when it is.
    pub(super) fn owes_quiet(&self) -> bool {
        self.config.lease.is_some() && (self.lease.heard || self.now < self.lease.quiet_until)
    }

    /// Whether a leader that was heard may answer reads by its lease. Not while this replica decides alone and
    /// knows that this is committed: see the head of the module.
    pub(super) fn is_quiet(&self) -> bool {
        let alone = self.is_only_voter()
            && (self.is_configuration_committed() || cfg!(mutant = "lone-voter-breaks-lease"));
        !alone && self.owes_quiet()
    }

    /// Whether a message is not to be answered because that could break a leader's lease.
    pub(super) fn keeps_quiet_on(&self, message: &Message) -> bool {
        let asks = match message {
            Message::PreVote(_) => true,
            Message::Vote(vote) => !vote.transfer,
            _ => false,
        };
        sometimes!(vote_withheld_for_lease, asks && self.is_quiet());
        asks && self.is_quiet()
    }
}
