//! The differences that are meant: what the `raft` crate and Coracle decide differently, and why.
//!
//! Each is normalised at one place, which calls [`note`]; nothing else is.

use std::sync::atomic::{AtomicU64, Ordering};

/// A difference that is not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    ElectionTiming,
    QuorumWindow,
    OutdatedVoteAnswered,
    PreVoteOfPresentTerm,
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
    /// Why it is meant, and how it is normalised.
    pub why: &'static str,
}

/// The table.
pub const TABLE: &[Difference] = &[];

static SEEN: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Counts a use of the table.
pub fn note(known: Known) {
    SEEN[known as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often a difference was met.
pub fn seen(known: Known) -> u64 {
    SEEN[known as usize].load(Ordering::Relaxed)
}
