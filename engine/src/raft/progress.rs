//! What a leader knows about one follower, and how much it may send to it.
//!
//! A follower is in one of three states:
//! * **probe**: where the logs agree is unknown. One message at a time asks for one position.
//! * **replicate**: the follower took the last probe. Messages are sent ahead of their answers, as
//!   far as a window of messages and bytes allows; `next` runs ahead of `matched`. Entries that are not
//!   in memory are asked for, one *fetch* at a time, and sent when they come.
//! * **snapshot**: the follower lacks what the leader's log no longer has (`next <= base`). Nothing is sent
//!   but heartbeats and the offer of a snapshot. The snapshot offered stays the same while the follower
//!   is heard of, however long it takes to fetch, for otherwise a follower that takes longer than the
//!   leader needs for its next snapshot would begin anew for ever. Only what the follower acknowledges
//!   ends the state, and only if it reaches the base: neither a rejection, nor a late acknowledgement, nor
//!   a lost connection says anything about the snapshot.
//!
//! Two positions say what a follower has. `matched` is where sending goes on; `counted` is what it has
//! acknowledged *as a member*, and the commit index is made of nothing else: see `returning.rs`.
//!
//! The size of a message's batch follows the connection like TCP's congestion window: each full batch
//! that is acknowledged adds a step, each sign of loss halves it.

use std::collections::VecDeque;
use std::time::Duration;

use super::config::Config;
use super::reconfigure::Membership;
use super::replica::FollowerStatus;
use crate::on_demand::Empty;
use crate::{LogIndex, NodeId, Term};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// `waiting`: a probe is under way, nothing more is sent until its answer or a heartbeat's.
    Probe {
        waiting: bool,
    },
    Replicate,
    /// `offer`: index and term of the snapshot that the follower was told to fetch; none while it is
    /// silent, or none is there.
    Snapshot {
        offer: Option<(LogIndex, Term)>,
    },
}

/// Entries that are read from disk for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetching {
    Idle,
    /// From this index on.
    Since(LogIndex),
    /// It failed, and is not tried before the next periodic heartbeat.
    Failed,
}

/// An entry that readmits a follower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readmitting {
    pub(super) incarnation: u64,
    /// The entry.
    pub(super) index: LogIndex,
    /// Periodic heartbeats since the follower could know that it is committed.
    pub(super) beats: u32,
}

/// Append messages that are sent and not acknowledged, oldest first.
#[derive(Clone, Debug, Default)]
struct Inflight {
    /// Last index and bytes of each.
    messages: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Up to here the follower has acknowledged, durably.
    pub(super) matched: LogIndex,
    /// Up to here it has done so as a member. Never more than `matched`, but for acknowledgements that
    /// come late.
    pub(super) counted: LogIndex,
    /// What is sent next.
    pub(super) next: LogIndex,
    pub(super) state: State,
    /// When something was last heard from it.
    pub(super) contact: Duration,
    /// When something was last heard from it as a member.
    pub(super) member_contact: Duration,
    /// Its incarnation, if it has lost its data and is not readmitted.
    pub(super) returning: Option<u64>,
    /// What the commit index was at an earlier heartbeat: a returning follower that has got there keeps
    /// pace.
    pub(super) goal: Option<LogIndex>,
    pub(super) readmitting: Option<Readmitting>,
    pub(super) fetching: Fetching,
    /// The newest round of reads it has confirmed.
    pub(super) round: u64,
    /// The newest round of heartbeats in answer to which it keeps quiet; see `lease.rs`.
    pub(super) quiet_round: u64,
    /// It said that it sleeps, and was not woken since.
    pub(super) asleep: bool,
    /// What it said last about how much it should lead.
    pub(super) priority: i8,
    /// An append was answered since the last periodic heartbeat.
    pub(super) answered: bool,
    /// Nothing was answered between the last two periodic heartbeats: what is under way may be lost.
    pub(super) quiet: bool,
    inflight: Inflight,
    batch_bytes: usize,
    /// [`Config::append_bytes_min`].
    batch_bytes_min: usize,
}

/// What a replica knows that does not lead.
const NOTHING: Progress = Progress {
    matched: LogIndex(0),
    counted: LogIndex(0),
    next: LogIndex(1),
    state: State::Probe { waiting: false },
    contact: Duration::ZERO,
    member_contact: Duration::ZERO,
    returning: None,
    goal: None,
    readmitting: None,
    fetching: Fetching::Idle,
    round: 0,
    quiet_round: 0,
    asleep: false,
    priority: 0,
    answered: false,
    quiet: false,
    inflight: Inflight { messages: VecDeque::new(), bytes: 0 },
    batch_bytes: 0,
    batch_bytes_min: 0,
};

impl Default for Progress {
    fn default() -> Self {
        NOTHING
    }
}

impl Empty for Progress {
    fn empty() -> &'static Self {
        static EMPTY: Progress = NOTHING;
        &EMPTY
    }
}

impl Progress {
    /// The state at the beginning of a term: only a probe can tell where the logs agree.
    pub(super) fn new(last_index: LogIndex, now: Duration, config: &Config) -> Self {
        Self {
            next: last_index.next(),
            contact: now,
            member_contact: now,
            batch_bytes: config.append_bytes_min,
            batch_bytes_min: config.append_bytes_min,
            ..NOTHING
        }
    }

    /// Nothing is under way: gives back the memory for that.
    pub(super) fn rest(&mut self) {
        self.inflight.messages.shrink_to_fit();
    }

    /// A look at it.
    pub(super) fn status(&self, id: NodeId, membership: Membership) -> FollowerStatus {
        FollowerStatus {
            id,
            membership,
            matched: self.matched,
            next: self.next,
            replicating: self.state == State::Replicate,
            snapshot: matches!(self.state, State::Snapshot { .. }),
            returning: self.returning,
            inflight_messages: self.inflight.messages.len(),
            inflight_bytes: self.inflight.bytes,
            contact: self.contact,
            round: self.round,
        }
    }

    /// How many bytes of entries the next message may have; `None` if nothing may be sent now.
    pub(super) fn budget(&self, config: &Config) -> Option<usize> {
        match self.state {
            State::Probe { waiting: true } | State::Snapshot { .. } => None,
            State::Probe { waiting: false } => {
                Some(self.batch_bytes.min(config.inflight_bytes_max))
            }
            State::Replicate => {
                let room = config.inflight_bytes_max.saturating_sub(self.inflight.bytes);
                let full = self.inflight.messages.len() >= config.inflight_messages_max;
                sometimes!(window_full_messages, full);
                sometimes!(window_full_bytes, room == 0);
                (room > 0 && !full).then_some(self.batch_bytes.min(room))
            }
        }
    }

    /// Notes that entries up to `last` of this many bytes were sent.
    pub(super) fn sent(&mut self, last: LogIndex, bytes: usize) {
        match &mut self.state {
            State::Probe { waiting } => *waiting = true,
            State::Replicate => {
                if bytes > 0 {
                    self.next = last.next();
                    self.inflight.messages.push_back((last, bytes));
                    self.inflight.bytes += bytes;
                }
            }
            State::Snapshot { .. } => {}
        }
    }

    /// How many bytes of entries may be asked for now.
    pub(super) fn fetch_budget(&self, config: &Config) -> usize {
        let room = config.inflight_bytes_max.saturating_sub(self.inflight.bytes);
        room.min(config.fetch_bytes_max)
    }

    /// The log no longer has what the follower lacks; it is offered this snapshot.
    pub(super) fn needs_snapshot(&mut self, offer: Option<(LogIndex, Term)>) {
        self.inflight.messages.clear();
        self.inflight.bytes = 0;
        self.fetching = Fetching::Idle;
        self.state = State::Snapshot { offer };
    }

    /// The follower has lost all that it had acknowledged. It is sent the last entry of the log, if it is
    /// not sent older ones already: an idle leader has nothing else to ask it with.
    pub(super) fn start_anew(&mut self, incarnation: u64, last_index: LogIndex) {
        (self.matched, self.counted) = (LogIndex(0), LogIndex(0));
        self.returning = Some(incarnation);
        self.goal = None;
        if !matches!(self.state, State::Snapshot { .. }) {
            self.next = self.next.min(last_index);
            self.probe_again();
        }
    }

    /// The follower has everything up to `matched`; the leader's log begins at `base`.
    pub(super) fn accepted(&mut self, matched: LogIndex, base: LogIndex, config: &Config) {
        let old = matched < self.matched;
        #[cfg(mutant = "ack-covers-all-sent")]
        let matched = matched.max(self.next.prev());
        self.matched = self.matched.max(matched);
        match self.state {
            State::Probe { .. } if old => {} // a duplicate from before the probe
            State::Probe { .. } => {
                self.state = State::Replicate;
                self.next = self.matched.next();
            }
            State::Replicate => {
                self.next = self.next.max(self.matched.next());
                self.free_inflight(config);
            }
            State::Snapshot { .. } if self.matched >= base => {
                self.state = State::Replicate;
                self.next = self.matched.next();
            }
            // It has the snapshot, but the log has been compacted beyond it meanwhile.
            State::Snapshot { offer: Some((index, _)) } if matched >= index => {
                sometimes!(snapshot_outrun);
                self.next = self.matched.next();
                self.state = State::Snapshot { offer: None };
            }
            State::Snapshot { .. } => {
                sometimes!(snapshot_ack_below_base);
            }
        }
    }

    /// The follower does not have the entry at `prev`, and nothing above `agree` that agrees.
    /// Returns whether the answer is about what is now under way, so that `next` went back.
    ///
    /// A follower that rejects even what it has acknowledged has lost it. Asking again at once would go
    /// on for ever at the speed of the network: nothing more is sent before it is heard of otherwise.
    pub(super) fn rejected(&mut self, prev: LogIndex, agree: LogIndex) -> bool {
        let current = prev > self.matched
            && match self.state {
                State::Probe { .. } => prev == self.next.prev(),
                State::Replicate => true,
                State::Snapshot { .. } => false,
            };
        sometimes!(reject_of_acknowledged, prev <= self.matched);
        if !current {
            return false;
        }
        self.next = prev.min(agree.next()).max(self.matched.next());
        self.probe_again();
        true
    }

    /// The connection was lost, and with it whatever was under way. Nothing is sent before the
    /// follower is heard of again. A probe that was not answered asks for the same place again:
    /// before the first answer `matched` is 0, and going back there would send the whole log.
    pub(super) fn unreachable(&mut self) {
        if let State::Snapshot { .. } = self.state {
            return; // what it has fetched of the snapshot is not lost
        }
        if self.state == State::Replicate {
            self.next = self.matched.next();
        }
        self.probe_again();
        self.state = State::Probe { waiting: true };
    }

    /// Lets the next probe go although the last one was not answered.
    pub(super) fn resume(&mut self) {
        if let State::Probe { waiting } = &mut self.state {
            *waiting = false;
        }
    }

    fn probe_again(&mut self) {
        sometimes!(back_to_probe, self.state == State::Replicate);
        self.batch_bytes = (self.batch_bytes / 2).max(self.batch_bytes_min);
        self.inflight.messages.clear();
        self.inflight.bytes = 0;
        self.state = State::Probe { waiting: false };
    }

    fn free_inflight(&mut self, config: &Config) {
        while let Some((last, bytes)) = self.inflight.messages.front().copied()
            && last <= self.matched
        {
            self.inflight.messages.pop_front();
            self.inflight.bytes -= bytes;
            // Only a batch that made use of its size shows that the size is good.
            if bytes * 2 > self.batch_bytes {
                self.batch_bytes =
                    (self.batch_bytes + self.batch_bytes_min).min(config.append_bytes_max);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{APPEND_BYTES_MAX, APPEND_BYTES_MIN};

    fn replicating(config: &Config) -> Progress {
        let mut progress = Progress::new(LogIndex(10), Duration::ZERO, config);
        progress.accepted(LogIndex(10), LogIndex(0), config);
        assert_eq!(progress.state, State::Replicate);
        progress
    }

    fn config() -> Config {
        Config::new(NodeId(1), vec![NodeId(1), NodeId(2)], 0)
    }

    #[test]
    fn the_window_closes_on_messages_and_on_bytes() {
        let config = Config { inflight_messages_max: 2, inflight_bytes_max: 1000, ..config() };
        let mut progress = replicating(&config);
        progress.sent(LogIndex(11), 10);
        assert_eq!(progress.budget(&config), Some(990));
        progress.sent(LogIndex(12), 10);
        assert_eq!(progress.budget(&config), None, "two messages are out");
        progress.accepted(LogIndex(11), LogIndex(0), &config);
        progress.sent(LogIndex(13), 990);
        assert_eq!(progress.budget(&config), None, "1000 bytes are out");
        progress.accepted(LogIndex(13), LogIndex(0), &config);
        assert_eq!(progress.budget(&config), Some(1000));
    }

    #[test]
    fn the_batch_grows_with_full_messages_and_halves_on_loss() {
        let config = config();
        let mut progress = replicating(&config);
        let mut last = 10;
        let mut send = |progress: &mut Progress, bytes| {
            last += 1;
            progress.sent(LogIndex(last), bytes);
            progress.accepted(LogIndex(last), LogIndex(0), &config);
            progress.budget(&config)
        };
        assert_eq!(send(&mut progress, 100), Some(APPEND_BYTES_MIN), "a small one proves nothing");
        assert_eq!(send(&mut progress, APPEND_BYTES_MIN), Some(2 * APPEND_BYTES_MIN));
        for _ in 0..50 {
            send(&mut progress, APPEND_BYTES_MAX);
        }
        assert_eq!(progress.budget(&config), Some(APPEND_BYTES_MAX));
        assert!(progress.rejected(LogIndex(100), LogIndex(80)));
        assert_eq!(progress.budget(&config), Some(APPEND_BYTES_MAX / 2));
        for _ in 0..50 {
            progress.unreachable();
        }
        progress.resume();
        assert_eq!(progress.budget(&config), Some(APPEND_BYTES_MIN));
    }

    #[test]
    fn a_lost_connection_does_not_send_the_whole_log_again() {
        let config = config();
        let mut progress = Progress::new(LogIndex(1000), Duration::ZERO, &config);
        progress.unreachable();
        assert_eq!(progress.next, LogIndex(1001), "not from 1, although nothing is acknowledged");
        progress.accepted(LogIndex(1001), LogIndex(0), &config);
        progress.sent(LogIndex(1010), 10);
        progress.unreachable();
        assert_eq!(progress.next, LogIndex(1002));
    }

    #[test]
    fn a_rejection_never_moves_below_what_is_acknowledged() {
        let config = config();
        let mut progress = replicating(&config);
        progress.sent(LogIndex(20), 10);
        assert!(!progress.rejected(LogIndex(10), LogIndex(3)), "position 10 is acknowledged");
        assert!(progress.rejected(LogIndex(20), LogIndex(3)));
        assert_eq!(progress.next, LogIndex(11));
        assert!(!progress.rejected(LogIndex(20), LogIndex(3)), "the probe asks for 10, not 20");
        progress.sent(LogIndex(11), 10);
        assert!(
            !progress.rejected(LogIndex(10), LogIndex(3)),
            "what was acknowledged is lost there"
        );
        assert_eq!(progress.budget(&config), None, "and is not asked for again at once");
    }
}
