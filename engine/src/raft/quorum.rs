//! Quorum arithmetic: what a set of voters, or two sets in joint consensus, has committed or decided.
//!
//! Pure functions over small slices, without state, so that tables of other implementations can be
//! run against them.

use crate::LogIndex;

/// What a vote has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither won nor lost: votes are missing that could still decide it.
    Pending,
    /// A majority refused, or so many that a majority can't be reached any more.
    Lost,
    /// A majority granted.
    Won,
}

/// How many of `voters` make a majority.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest index that a majority has reached, given the index of each voter (0 for a voter that
/// has reported nothing). The order of `matched` is changed.
///
/// No voters at all have "committed everything", so that an empty half of a joint configuration
/// does not restrict the other half.
#[must_use]
pub fn majority_committed(matched: &mut [LogIndex]) -> LogIndex {
    if matched.is_empty() {
        return LogIndex(u64::MAX);
    }
    kth_largest(matched, majority(matched.len()))
}

/// The highest index that majorities of both halves of a joint configuration have reached.
#[must_use]
pub fn joint_committed(incoming: &mut [LogIndex], outgoing: &mut [LogIndex]) -> LogIndex {
    majority_committed(incoming).min(majority_committed(outgoing))
}

/// The result of a vote among all voters: `Some(granted)`, or `None` for one that has not answered.
///
/// A vote without voters is won, for the same reason as in [`majority_committed`].
#[must_use]
pub fn majority_vote(votes: impl IntoIterator<Item = Option<bool>>) -> VoteResult {
    let (mut voters, mut granted, mut missing) = (0, 0, 0);
    for vote in votes {
        voters += 1;
        match vote {
            Some(true) => granted += 1,
            Some(false) => {}
            None => missing += 1,
        }
    }
    let needed = majority(voters);
    if voters == 0 || granted >= needed {
        VoteResult::Won
    } else if granted + missing >= needed {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// The result of a vote in a joint configuration: won only if both halves are, lost if either is.
#[must_use]
pub fn joint_vote(
    incoming: impl IntoIterator<Item = Option<bool>>,
    outgoing: impl IntoIterator<Item = Option<bool>>,
) -> VoteResult {
    match (majority_vote(incoming), majority_vote(outgoing)) {
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        _ => VoteResult::Pending,
    }
}

/// The `k`-th largest value (`1 <= k <= len`), by selecting only the first `k`. Comparing and exchanging without a
/// branch: this runs on every acknowledgement, in an order that no processor predicts. See `raft/commit_index` among
/// the benchmarks.
fn kth_largest(values: &mut [LogIndex], k: usize) -> LogIndex {
    for place in 0..k {
        let mut largest = values[place];
        for candidate in &mut values[place + 1..] {
            if cfg!(not(mutant = "unsorted-progress")) {
                (largest, *candidate) = (largest.max(*candidate), largest.min(*candidate));
            }
        }
        values[place] = largest;
    }
    values[k - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kth_largest_agrees_with_sorting() {
        let mut state = 1_u64;
        for len in 1..=9 {
            for _ in 0..200 {
                let mut values: Vec<LogIndex> = (0..len)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                        LogIndex((state >> 33) % 12)
                    })
                    .collect();
                let mut sorted = values.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                let expected = sorted[majority(len) - 1];
                assert_eq!(majority_committed(&mut values), expected, "{sorted:?}");
            }
        }
    }

    #[test]
    fn an_even_split_decides_nothing_until_the_last_vote() {
        let votes = [Some(true), Some(true), Some(false), None];
        assert_eq!(majority_vote(votes), VoteResult::Pending);
        let votes = [Some(true), Some(true), Some(false), Some(false)];
        assert_eq!(majority_vote(votes), VoteResult::Lost);
    }

    #[test]
    fn a_joint_vote_needs_both_halves() {
        let yes = [Some(true)];
        let none = [None];
        let no = [Some(false)];
        assert_eq!(joint_vote(yes, yes), VoteResult::Won);
        assert_eq!(joint_vote(yes, none), VoteResult::Pending);
        assert_eq!(joint_vote(none, no), VoteResult::Lost);
        assert_eq!(joint_vote(yes, []), VoteResult::Won);
    }
}
