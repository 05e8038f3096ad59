//! Counts what was compared, so that a run can show that it was not empty.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of decision on which both agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    State,
    Elected,
    CommittedByCounting,
    CommittedAsTold,
    PreVoteGranted,
    PreVoteRefused,
    VoteGranted,
    VoteRefused,
    AppendAccepted,
    AppendRejected,
    AppendSent,
    ProbedAgain,
    Asked,
    Heartbeat,
    HeartbeatAnswered,
    Quiescent,
    QuiescentLeader,
    QuiescentCommit,
}

const ALL: [Decision; 18] = {
    use Decision::*;
    [
        State,
        Elected,
        CommittedByCounting,
        CommittedAsTold,
        PreVoteGranted,
        PreVoteRefused,
        VoteGranted,
        VoteRefused,
        AppendAccepted,
        AppendRejected,
        AppendSent,
        ProbedAgain,
        Asked,
        Heartbeat,
        HeartbeatAnswered,
        Quiescent,
        QuiescentLeader,
        QuiescentCommit,
    ]
};

static COUNTS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

/// Counts one decision.
pub fn count(decision: Decision) {
    COUNTS[decision as usize].fetch_add(1, Ordering::Relaxed);
}

/// All counts so far, in one line.
pub fn line() -> String {
    let one = |decision: &Decision| {
        format!("{decision:?} {}", COUNTS[*decision as usize].load(Ordering::Relaxed))
    };
    ALL.iter().map(one).collect::<Vec<_>>().join(", ")
}
