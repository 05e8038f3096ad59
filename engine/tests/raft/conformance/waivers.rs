//! Where our design decides otherwise than etcd, or the core lacks what comes later: by name, with the reason.

use std::ops::RangeInclusive;

/// Differences that are known and meant. The test fails if there are more or fewer of them.
pub struct Waiver {
    pub scenario: &'static str,
    /// Lines of the commands, in the scenario's file.
    pub lines: RangeInclusive<usize>,
    /// Part of the differences' text; all of these commands if empty.
    pub what: &'static str,
    /// How many there are.
    pub differences: usize,
    pub because: &'static str,
}

const LEADERS_ARE_KEPT: &str = "check-quorum is always on here: a leader that hears a majority does not \
     answer pre-votes, so that nobody is helped to depose it; etcd's default answers by the log alone";
const REFUSALS_DO_NOT_WAIT: &str = "a refused vote promises nothing, so it leaves at once and not \
     when the disk is done; that it is sent is compared where its Ready is";
// A configuration is in force here when its entry is appended (Raft thesis, 4.1), in etcd when that is applied. All
// differences in changes of members follow from that.
const TAKEN_LATER: &str = "no change is taken before the leader has committed an entry of its own term, so \
     the entry comes a Ready later";
const SENT_AT_ONCE: &str = "a new member is sent the entry that adds it when that is appended, not when it is \
     applied, so the message names the commit index of before";
const NEW_VOTERS_DECIDE: &str = "an entry that adds voters is committed by the configuration that it holds, so \
     it waits for 2, which first gets a snapshot of what was committed before, and then the entry";
const OLD_VOTERS_DO_NOT: &str = "the leader that is left alone needs no acknowledgement of those it has removed, \
     so it commits all it has with its own write";

const ABA: &str = "async_storage_writes_append_aba_race";
const ADD_SINGLE: &str = "confchange_v1_add_single";
const ADD_DOUBLE: &str = "confchange_v2_add_double_auto";
const REPLACE: &str = "confchange_v2_replace_leader";
const PREVOTE: &str = "prevote";

/// Short, so that the table below can be read as one.
const fn waive(
    scenario: &'static str,
    lines: RangeInclusive<usize>,
    what: &'static str,
    differences: usize,
    because: &'static str,
) -> Waiver {
    Waiver { scenario, lines, what, differences, because }
}

pub const WAIVERS: &[Waiver] = &[
    waive(
        ABA,
        466..=466,
        "1 sends when stored 1->3 MsgVoteResp Term:2 Log:0/0 Rejected",
        1,
        REFUSALS_DO_NOT_WAIT,
    ),
    waive(ADD_SINGLE, 40..=40, "1->2 MsgApp Term:1 Log:1/3", 4, SENT_AT_ONCE),
    waive(ADD_SINGLE, 40..=40, "", 11, NEW_VOTERS_DECIDE),
    waive(ADD_DOUBLE, 42..=54, "1 appends 1/4 EntryConfChangeV2 v2 v3", 2, TAKEN_LATER),
    waive(ADD_DOUBLE, 54..=156, " MsgApp Term:1 Log:1/3", 9, SENT_AT_ONCE),
    waive(ADD_DOUBLE, 54..=80, "", 18, NEW_VOTERS_DECIDE),
    waive(ADD_DOUBLE, 254..=334, "", 10, OLD_VOTERS_DO_NOT),
    waive(REPLACE, 50..=50, "1->4 MsgApp Term:1 Log:1/3", 4, SENT_AT_ONCE),
    waive(PREVOTE, 76..=76, "1 rejects MsgPreVote of 3", 1, LEADERS_ARE_KEPT),
    waive(PREVOTE, 76..=76, "1 ignores MsgPreVote of 3", 1, LEADERS_ARE_KEPT),
    waive(PREVOTE, 85..=85, "1->3 MsgPreVoteResp Term:1 Log:0/0 Rejected", 2, LEADERS_ARE_KEPT),
    waive(PREVOTE, 139..=139, "1 grants MsgPreVote of 2", 1, LEADERS_ARE_KEPT),
    waive(PREVOTE, 139..=139, "1 ignores MsgPreVote of 2", 1, LEADERS_ARE_KEPT),
    waive(PREVOTE, 139..=139, "1->2 MsgPreVoteResp Term:2", 2, LEADERS_ARE_KEPT),
];
