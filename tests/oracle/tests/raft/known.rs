//! The differences that are meant: what the `raft` crate and Coracle decide differently, and why.
//!
//! Each is normalised at one place, which calls [`note`]; nothing else is.

use std::sync::atomic::{AtomicU64, Ordering};

/// A difference that is not reported. The order is that of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    ElectionTiming,
    QuorumWindow,
    OutdatedVoteAnswered,
    PreVoteOfPresentTerm,
    PreVoteAtOnce,
    LatePreVoteGrant,
    AppendBelowCommit,
    RepeatedGrant,
    OwnVoteWaits,
    CommitInVotes,
    ProposalForwarded,
    StoredCommit,
    DurableAfterOverwrite,
    WhatIsSent,
}

/// A line of the table.
pub struct Difference {
    pub known: Known,
    /// What differs.
    pub what: &'static str,
    /// Why it is meant, and what is compared instead.
    pub why: &'static str,
    /// Where it is decided: theirs in version 0.7.0, and ours.
    pub place: &'static str,
}

/// The table. Names of functions of the `raft` crate are those of its `raft.rs` unless a file is named.
pub const TABLE: &[Difference] = &[
    Difference {
        known: Known::ElectionTiming,
        what: "when an election timeout is over",
        why: "Both draw it at random. Theirs campaigns when ours does; that must be 1 to 2 timeouts \
              after theirs last set its timer.",
        place: "theirs `tick_election`; ours `restart_election_timer`",
    },
    Difference {
        known: Known::QuorumWindow,
        what: "over which time a leader counts whom it heard",
        why: "Theirs looks once per election timeout at who was heard since the last look, so that it \
              can lead for nearly two timeouts alone; ours looks at each heartbeat at the last timeout. \
              Theirs' marks `recent_active` are counted over our window.",
        place: "theirs `tick_heartbeat`, `check_quorum_active`; ours `hears_majority`",
    },
    Difference {
        known: Known::OutdatedVoteAnswered,
        what: "a request for votes of an earlier term",
        why: "Theirs ignores it; ours tells the newer term, so that its sender need not wait for a \
              timeout to learn it. Theirs gets this answer added. All other answers to earlier terms \
              differ in kind only; of all of them only the term is compared.",
        place: "theirs `step`; ours `answer_outdated`",
    },
    Difference {
        known: Known::PreVoteOfPresentTerm,
        what: "a pre-vote for the term that the voter is in already",
        why: "Theirs treats it like a vote in that term and may grant it; ours refuses and tells its \
              term, since the vote itself may be given away. Theirs does not get the message.",
        place: "theirs `step` (`can_vote`); ours `on_pre_vote`",
    },
    Difference {
        known: Known::PreVoteAtOnce,
        what: "a pre-vote from who has the same log and asks at the same time",
        why: "Theirs grants it, so that both may vote for themselves in the next term, and nobody wins; in \
              ours, who has the larger id refuses. Theirs does not get the message.",
        place: "theirs `step` (`can_vote`); ours `asks_before`",
    },
    Difference {
        known: Known::LatePreVoteGrant,
        what: "a pre-vote granted for another term than the next one",
        why: "An answer to an earlier question, late or from before a crash. Theirs counts it; ours does \
              not, since the log or the leader may have changed since. Harmless in theirs: pre-votes \
              decide nothing. Theirs does not get the message.",
        place: "theirs `step_candidate`; ours `on_pre_vote_reply`",
    },
    Difference {
        known: Known::AppendBelowCommit,
        what: "an append that begins below the commit index",
        why: "Theirs looks at nothing in it and acknowledges its commit index; ours takes what is new and \
              acknowledges what the message proves. Theirs gets the part above its commit index; if \
              there is none, it must acknowledge exactly its commit index.",
        place: "theirs `handle_append_entries`; ours `on_append`",
    },
    Difference {
        known: Known::RepeatedGrant,
        what: "a leader's request for votes that comes again after it was heard as leader",
        why: "Both grant again. In theirs this also counts as hearing the leader, for its lease and its \
              timer are one; in ours only appends and heartbeats do. Theirs is asked for votes with a \
              lease that begins at the last append or heartbeat.",
        place: "theirs `step` (`in_lease`); ours `on_vote`, `hears_leader`",
    },
    Difference {
        known: Known::OwnVoteWaits,
        what: "the vote for itself",
        why: "Theirs counts it at once and lets the requests wait for the disk; ours counts it when it is \
              durable, as a message to itself. With two other voters or more the outcome is the same.",
        place: "theirs `campaign`; ours `become_candidate`, `tally`",
    },
    Difference {
        known: Known::CommitInVotes,
        what: "the commit index in requests for votes and in answers",
        why: "Both tell it. Of theirs only who refuses learns by it, and a candidate who is refused; of ours, \
              everybody who takes part. It is left out.",
        place: "theirs `maybe_commit_by_vote`; ours `learn_committed`",
    },
    Difference {
        known: Known::ProposalForwarded,
        what: "a proposal to a replica that does not lead",
        why: "Theirs sends it on to the leader; ours refuses it and names the leader. Theirs does not get \
              it.",
        place: "theirs `step_follower`; ours `on_propose`",
    },
    Difference {
        known: Known::StoredCommit,
        what: "the commit index after a restart",
        why: "Theirs stores it whenever it moves, ours only along with something else: it is a hint. \
              Theirs starts with ours, which must not be higher.",
        place: "theirs `RawNode::ready`; ours `HardState::commit`",
    },
    Difference {
        known: Known::DurableAfterOverwrite,
        what: "how much a follower takes for durable between an overwriting and its report",
        why: "Theirs asks whether the last entry written is still there, ours how often the log was \
              overwritten. Until nothing is to be written any more, ours must not exceed what is on disk \
              and stays there. A leader's are compared at once.",
        place: "theirs `maybe_persist` (`raft_log.rs`); ours `mark_durable`",
    },
    Difference {
        known: Known::WhatIsSent,
        what: "how many appends are sent, of what size, and when they are sent again",
        why: "Flow control is each one's own. Each append of ours must be in theirs' log; a probe after a \
              rejection must ask for the same place, if theirs was probing there and does not fall back \
              behind what was acknowledged; and whole clusters must come to the same logs.",
        place: "theirs `maybe_send_append`, `progress.rs`; ours `replicate_to`, `progress.rs`",
    },
];

static SEEN: [AtomicU64; TABLE.len()] = [const { AtomicU64::new(0) }; TABLE.len()];

/// Counts a use of the table.
pub fn note(known: Known) {
    SEEN[known as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often a difference was met.
pub fn seen(known: Known) -> u64 {
    SEEN[known as usize].load(Ordering::Relaxed)
}
