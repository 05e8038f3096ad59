//! Probes: counters of rare states of this crate. What they are and how they work: `probe.rs` of
//! `coracle-wal`. The macros are repeated here because the compiler reports unused probes only of a
//! crate's own macros.

/// Counts a visit of a rare state, always or if a condition holds.
macro_rules! sometimes {
    ($name:ident) => {
        $crate::probe::$name::hit()
    };
    ($name:ident, $condition:expr) => {
        if $condition {
            $crate::probe::$name::hit();
        }
    };
}

/// Declares the probes of a crate: for each a module with its counter, and `probes()` over all of them.
macro_rules! declare_probes {
    ($($(#[doc = $what:literal])* $name:ident,)*) => {
        $(
            $(#[doc = $what])*
            pub(crate) mod $name {
                pub(super) static COUNT: std::sync::atomic::AtomicU64 =
                    std::sync::atomic::AtomicU64::new(0);

                /// Counts one visit.
                #[cold]
                pub(crate) fn hit() {
                    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            }
        )*

        /// Every probe of this crate by name, with how often it was met since the process began.
        pub fn probes() -> impl Iterator<Item = (&'static str, u64)> {
            let counts = [$((stringify!($name), &$name::COUNT),)*];
            let load = |count: &std::sync::atomic::AtomicU64| {
                count.load(std::sync::atomic::Ordering::Relaxed)
            };
            counts.into_iter().map(move |(name, count)| (name, load(count)))
        }
    };
}

declare_probes! {
    /// A hook was called because its interval was over.
    hook_called_by_interval,
    /// A hook was called because a wall clock showed its time.
    hook_called_by_clock,
    /// The hook of a shard that slept was called.
    hook_called_asleep,
    /// A hook that was due was not called, because leadership was being handed over or a snapshot restored.
    hook_held,
    /// Something that a hook returned was refused or lost.
    hook_refused,
    /// A hook was due again in the same term after it had been paused.
    hook_retried,
    /// A hook returned more, or something larger, than is proposed.
    hook_went_too_far,
    /// A leader's wall clock was proposed for the sessions.
    session_clock_proposed,
    /// A timer fired.
    timer_fired,
    /// A timer that was to fire was gone: cancelled, or fired before.
    timer_gone,
    /// A timer was to fire before its time.
    timer_not_due,
    /// A timer was refused because of a limit.
    timer_refused,
    /// An entry was none of timers.
    timer_entry_malformed,
    /// A replica that does not know a leader was to ask it for a read index.
    question_without_leader,
    /// A leader answered a question without a round: it and who asks are a quorum.
    question_answered_at_once,
    /// A leader takes a round to answer a question.
    question_waits_for_round,
    /// A replica's question was given up: another leader, or another term.
    question_lost,
    /// An answer to a question that was given up, or comes twice.
    answer_outdated,
    /// A question was not answered for so long that another one is asked.
    question_asked_again,
    /// Reads came after the question that was answered, and wait for the next.
    question_served_not_all,
    /// A read with a bound on staleness was answered at once.
    bounded_read_at_once,
    /// A follower answered a read with a bound on staleness that had waited.
    bounded_read_on_follower,
    /// A read with a bound on staleness was refused: nothing could be shown in time.
    bounded_read_given_up,
    /// A leader fell asleep.
    leader_asleep,
    /// A leader fell asleep although a member was silent for long.
    asleep_without_absent,
    /// A follower fell asleep.
    follower_asleep,
    /// A follower did not want to sleep: its log is not at rest.
    quiesce_refused,
    /// A leader woke, or one of its followers that had slept.
    leader_woken,
    /// A follower woke because its leader's node was suspected.
    follower_woken_by_suspicion,
    /// A follower woke because of something else that did not come from its leader.
    follower_woken,
    /// Nothing was heard of a peer's core for so long that it was suspected.
    peer_suspected,
    /// A peer's core and this one did not agree for a while on which shards sleep.
    peer_doubted,
    /// A process that had stood still gave its peers more time.
    detector_forgave,
    /// A log made no progress for so long that its core handed over what it led.
    log_stalled,
    /// It made progress again.
    log_recovered_from_stall,
    /// A pulse was not sent because the link was full or at its end.
    pulse_withheld,
    /// No snapshot was taken of a replica that joins, because its log does not say yet who belongs to its shard.
    snapshot_without_configuration,
    /// A segment got no summary because it has an entry that says who belongs to a shard.
    summary_spoiled,
    /// A start found entries that say who belongs to a shard.
    replay_configuration,
    /// A change of the configuration was asked for before the leader had committed anything in its term.
    reconfigured_too_early,
    /// A change of the configuration was asked for while another one was not committed.
    reconfigured_while_under_way,
    /// A change of the configuration was asked for while leadership was handed over.
    reconfigured_during_transfer,
    /// An entry with a configuration was cut off again.
    configuration_undone,
    /// A snapshot brought another configuration than the log had.
    configuration_from_snapshot,
    /// A leader ended a joint configuration by itself.
    joint_left_by_leader,
    /// A leader that is no voter any more stepped down.
    removed_leader_stepped_down,
    /// It told another voter to take over.
    removed_leader_handed_over,
    /// A node that was removed got to know it from its leader.
    removed_node_told,
    /// A node that is no member as far as was known asked for something and was answered.
    stranger_answered,
    /// A replica started with a vote in its hard state.
    restart_with_vote,
    /// A replica started with entries that are not known to be committed.
    restart_with_uncommitted,
    /// A candidate's time was over without a majority.
    vote_split,
    /// A pre-candidate's time was over without a majority.
    pre_vote_unanswered,
    /// A pre-vote was refused.
    pre_vote_refused,
    /// A pre-vote was refused because two asked at once, and this one goes first.
    pre_vote_asked_at_once,
    /// A pre-vote was ignored because a leader was heard.
    pre_vote_ignored,
    /// A pre-vote was refused by so many that it was lost.
    pre_vote_lost,
    /// A vote was refused because it had gone to another.
    vote_taken,
    /// A vote was refused because the candidate's log was behind.
    vote_log_behind,
    /// A vote of a later term was ignored because a leader was heard.
    vote_ignored,
    /// A vote was asked for again by the candidate that has it.
    vote_repeated,
    /// A vote was refused by so many that it was lost.
    vote_lost,
    /// A subscriber was too slow for an event.
    event_missed,
    /// A candidate that its leader had told to campaign asked for votes before its own was durable.
    vote_asked_at_once,
    /// Others had made a majority before the own vote was durable.
    own_vote_awaited,
    /// A vote, or an answer to one, told of more that is committed.
    commit_learned_of_vote,
    /// A candidate or pre-candidate heard of a leader of its term.
    candidate_found_leader,
    /// A leader heard of a later term.
    leader_deposed,
    /// A candidate heard of a later term.
    candidate_outdated,
    /// A leader had not heard a majority for an election timeout.
    check_quorum_failed,
    /// A new leader had entries that were not known to be committed.
    leader_inherits_entries,
    /// The term changed while entries were not durable yet.
    term_change_in_flight,
    /// A message of an earlier term was answered with the present one.
    outdated_answered,
    /// A follower's log was cut.
    log_truncated,
    /// A follower's log was cut while some of it was not durable.
    log_truncated_in_flight,
    /// A log was cut more than once.
    log_truncated_again,
    /// A follower's log was cut below what it had in memory.
    cold_entries_cut,
    /// A follower was probed at a place whose entries are not in memory.
    probe_without_entries,
    /// Entries that had been read from disk were sent.
    cold_entries_sent,
    /// Fetched entries came after the follower or the leader had moved on.
    fetched_too_late,
    /// Fetched entries were not sent, or not all of them.
    fetched_in_vain,
    /// Entries could not be fetched.
    fetch_failed,
    /// A follower began to need a snapshot.
    snapshot_offered,
    /// A follower had the snapshot offered, but the log had been compacted beyond it.
    snapshot_outrun,
    /// A follower that needs a snapshot acknowledged less than the log has.
    snapshot_ack_below_base,
    /// A follower that needs a snapshot had to wait for a newer one to be taken.
    snapshot_offer_held,
    /// A silent follower no longer kept the snapshot offered to it.
    snapshot_unpinned,
    /// A follower was offered a snapshot of what it has.
    snapshot_not_needed,
    /// A snapshot was installed that was no news any more.
    snapshot_installed_late,
    /// A snapshot was installed and the log went on.
    snapshot_kept_log,
    /// A snapshot replaced a log.
    snapshot_replaced_log,
    /// A snapshot replaced a log that reached as far and contradicted it.
    snapshot_replaced_conflict,
    /// A replica without data heard of a leader before it knew whether the cluster is new.
    blank_found_leader,
    /// A damaged replica heard of a leader.
    damaged_found_leader,
    /// A damaged snapshot was removed, so that one of the same index can take its place.
    snapshot_rotten_given_up,
    /// A replica could not read what it had to apply next.
    damaged_while_running,
    /// A damaged replica ignored its leader until what it had applied was in a snapshot.
    damaged_without_snapshot,
    /// A start found what is of a later term than the stored one.
    hard_state_lost,
    /// A snapshot had to wait for the term of its last entry to be durable.
    snapshot_before_term_durable,
    /// A snapshot was offered before the leader's term was durable here.
    offer_before_term_durable,
    /// What was damaged in the log at a start, was needed no more.
    replay_damage_outlived,
    /// What was damaged in the log at a start, is in a snapshot.
    replay_damage_outlived_by_snapshot,
    /// The newest snapshot could not be read at a start.
    snapshot_unreadable_at_start,
    /// A new member gave up its vote in a term in which it may have voted before.
    blank_gives_up_vote,
    /// A message about votes was ignored by a replica that may not vote.
    vote_withheld,
    /// A leader noticed that a follower has lost its data.
    returning_noticed,
    /// A follower without data rejected what it had acknowledged.
    returning_lost_acknowledged,
    /// A heartbeat told a follower without data of entries it does not have.
    commit_of_lost_log,
    /// A leader appended an entry that readmits a follower.
    readmission_appended,
    /// Another one was appended because the first was not noticed.
    readmission_repeated,
    /// A replica was readmitted.
    readmitted,
    /// A report of durability came after an overwriting and counted for less than it says.
    stale_durable_ignored,
    /// A report of durability named entries that are not in the log any more.
    durable_beyond_log,
    /// An append brought entries that were there.
    append_repeated,
    /// An append ended before the end of the log, and nothing was cut.
    append_kept_suffix,
    /// An append's commit index was beyond what it proved.
    append_commit_capped,
    /// An append was rejected because the log was too short.
    append_rejected_short,
    /// An append was rejected because the terms differed.
    append_rejected_conflict,
    /// A rejection's hint jumped over entries of a later term.
    hint_jumped_term,
    /// A leader jumped over a term of its own log at a rejection.
    leader_jumped_term,
    /// An acknowledgement had to wait for the term alone.
    ack_waited_for_term,
    /// A rejection was about nothing that was under way.
    reject_ignored,
    /// A follower rejected what it had acknowledged.
    reject_of_acknowledged,
    /// A follower went from replicate back to probe.
    back_to_probe,
    /// A probe was sent again because nothing was answered.
    probe_repeated,
    /// A follower was asked where it is because it was quiet.
    quiet_follower_asked,
    /// The window of a follower was full of messages.
    window_full_messages,
    /// The window of a follower was full of bytes.
    window_full_bytes,
    /// An append message could not take all entries that wait.
    append_batch_cut,
    /// One step committed entries of several terms.
    commit_across_terms,
    /// A majority had an entry of an earlier term, which does not commit it.
    commit_waited_for_own_term,
    /// A majority of others had an entry durable before the leader.
    leader_durable_last,
    /// A proposal was refused: too much is uncommitted.
    uncommitted_limit_hit,
    /// A read waited for the first commit of the term.
    read_waited_for_commit,
    /// A read waited for the next round.
    read_waited_for_round,
    /// A read was refused: too many wait.
    reads_full,
    /// Reads were lost with leadership.
    reads_lost,
    /// Queries were answered with an error because their round failed.
    queries_lost,
    /// A query was refused: too many wait.
    queries_full,
    /// A request was refused: the core's queue is full.
    requests_full,
    /// A letter was refused: the mailbox is full.
    mailbox_full,
    /// A peer's messages had to wait outside of the queue.
    frames_full,
    /// A turn left events for the next one.
    events_left_over,
    /// A shard left committed entries for the next turn.
    entries_left_over,
    /// A proposal waited for an entry that another one has replaced.
    proposal_replaced,
    /// A proposal was cut from the log and its outcome is unknown.
    proposal_cut,
    /// Proposals of a lost leadership were given up.
    proposals_given_up,
    /// A proposal was larger than this core allows.
    proposal_too_large,
    /// The log refused a group for now.
    group_refused,
    /// A group was appended in several pieces.
    group_split,
    /// A group waited behind one that the log had refused.
    group_queued,
    /// Proposals were refused because the log is behind.
    log_backlog_full,
    /// Proposals were refused because the disk is full.
    log_no_space,
    /// A log failed under its core.
    log_failed,
    /// A message of a peer was dropped because the log could not take what it brings.
    message_dropped_log_full,
    /// A message was dropped because the core's log owes too much.
    message_dropped_overdue,
    /// A message was dropped because a link's buffer is full.
    link_buffer_full,
    /// A message was dropped because there is no link.
    link_missing,
    /// A link was replaced by a newer one.
    link_replaced,
    /// A link's end was heard of after a newer one had come up.
    link_end_outdated,
    /// Nothing was heard on a link for too long.
    link_silent,
    /// A connection broke off in the middle of a frame, or brought a bad one.
    frame_bad,
    /// A second process under one node id was refused.
    duplicate_node_refused,
    /// A peer was refused because this core stops.
    peer_refused_stopping,
    /// A peer did not say HELLO in time.
    hello_timeout,
    /// A connection was closed because too many are in HELLO.
    handshakes_full,
    /// A member that introduced itself ended a pause between attempts.
    dial_poked,
    /// A transfer of a snapshot waited for the core's budget of bandwidth.
    transfer_budget_waited,
    /// A puller had more requests outstanding than its sender takes.
    transfer_requests_full,
    /// A puller was told to come again because too many are served.
    transfer_served_too_many,
    /// A puller asked for nothing for too long.
    transfer_connection_idle,
    /// A puller took nothing for too long.
    transfer_puller_takes_nothing,
    /// A chunk that was asked for could not be read as it was written.
    transfer_chunk_damaged_at_source,
    /// A puller gave up a sender that it could not reach, or that gave nothing.
    transfer_unreachable,
    /// A puller told its sender to come to an end.
    transfer_cancelled,
    /// A sender had not the snapshot that was asked for.
    transfer_snapshot_unknown,
    /// A sender had another snapshot under the same id than before.
    transfer_manifest_changed,
    /// A pull went on with what an earlier one had stored.
    transfer_resumed_from_disk,
    /// Nothing was heard of a sender for too long.
    transfer_silent,
    /// A chunk was asked for again.
    transfer_chunk_asked_again,
    /// A chunk was asked for so often that the snapshot was given up.
    transfer_chunk_given_up,
    /// News for a sibling core did not fit its mailbox.
    sibling_news_missed,
    /// Several chunks of a snapshot were being written at once.
    snapshot_writes_overlap,
    /// A snapshot's file met a full disk.
    snapshot_no_room,
    /// A snapshot had no room in the budget that it shares with the log.
    snapshot_over_quota,
    /// A snapshot grew although log and snapshots were beyond their budget: see `core/disk_share.rs`.
    disk_over_budget,
    /// What a follower was told to fetch was older than the newest, and there was no room to keep it.
    old_offers_withdrawn,
    /// Snapshots were written faster than at ease.
    snapshots_in_a_hurry,
    /// A snapshot was given up because the disk failed.
    snapshot_write_failed,
    /// A snapshot was given up by its owner.
    snapshot_abandoned,
    /// The names of snapshots could not be made durable.
    snapshot_store_latched,
    /// A file of a snapshot could not be removed.
    snapshot_not_removed,
    /// An old snapshot was kept because somebody reads it.
    snapshot_pinned,
    /// A snapshot was given up as damaged.
    snapshot_discarded,
    /// An own snapshot took the place of one that was being received.
    snapshot_offer_overtaken,
    /// Another snapshot was offered than the one that was being received.
    snapshot_offer_replaced,
    /// A reception of a snapshot went on where an earlier one had ended.
    snapshot_reception_resumed,
    /// Chunks of an earlier reception were found whole.
    snapshot_chunks_found,
    /// An unfinished reception had no file of chunks.
    snapshot_offer_without_chunks,
    /// A reception went on while writes of an earlier one were in flight, or had failed.
    snapshot_writes_left,
    /// A received chunk was not what the manifest says.
    snapshot_chunk_refused,
    /// A chunk was received twice.
    snapshot_chunk_again,
    /// A chunk that was read was beyond the end of its file.
    snapshot_chunk_short,
    /// A chunk that was read was not what the manifest says.
    snapshot_chunk_damaged,
    /// A chunk could not be read.
    snapshot_read_failed,
    /// A store was opened with files that can't be used.
    snapshot_problem_found,
    /// A store was opened with files that a crash had left over.
    snapshot_leftover_removed,
    /// A store was opened with an unfinished reception.
    snapshot_unfinished_kept,
    /// Cold reads waited for others.
    cold_reads_queued,
    /// A cold read went on where the one before had ended.
    cold_read_continued,
    /// A cold read waited for those that were further behind.
    cold_read_waits_for_sweep,
    /// A cold read found a batch among those that others had read.
    cold_batch_shared,
    /// A cold reader's place in the log was forgotten for another's.
    cold_cursor_dropped,
    /// What was to be read from the log had been given up meanwhile.
    cold_read_gone,
    cold_read_met_end,
    cold_cursor_trimmed,
    cold_read_too_early,
    cold_read_moved,
    /// A read of old entries for the state machine failed, which a snapshot had brought further meanwhile.
    cold_read_outdated,
    snapshot_offer_withdrawn,
    /// What was to be read from the log was damaged.
    cold_read_damaged,
    /// A state machine was given an entry that was read back.
    entry_applied_cold,
    /// Entries left memory for the budget's sake.
    entries_evicted,
    /// A leader was handed over because its core leads more than its share.
    leader_spread,
    /// Such a transfer has failed.
    spread_failed,
    /// Entries of a shard left memory because it sleeps.
    entries_left_asleep,
    /// A replica stopped for what it found or was told.
    shard_halted,
    /// A segment is free, but what replaces its records is not durable yet.
    trim_waits,
    /// A shard was asked for a snapshot because it pins the oldest segment.
    compaction_asks_snapshot,
    /// The oldest segment cannot be emptied at the present level.
    compaction_blocked,
    /// What is alive in the oldest segment was written again.
    compaction_rewrites,
    /// Much of the oldest segment was written again, because the disk fills.
    compaction_rewrites_much,
    /// Nothing more is written again until something new is.
    rewriting_paused,
    /// What is alive in the oldest segment was not written again: too much of that was done already.
    rewriting_too_dear,
    /// The log had no room for what should have been written again.
    rewriting_refused,
    /// A follower was offered a snapshot although the log has what it lacks.
    snapshot_preferred,
    /// Entries were written again at the head of the log.
    entries_written_again,
    /// A hard state or a base was written again at the head of the log.
    state_written_again,
    /// The budget of the disk was used up.
    disk_budget_refused,
    /// A shard's log was compacted.
    log_compacted,
    /// A snapshot was taken.
    snapshot_taken,
    /// A snapshot could not be taken.
    snapshot_failed,
    /// A leader's snapshot began to be pulled.
    snapshot_pulled,
    /// A leader's snapshot was there when the log had what it has.
    snapshot_pulled_in_vain,
    /// A leader's snapshot took the place of the state.
    snapshot_restored,
    /// An offer came while an earlier one was being taken up.
    offer_while_busy,
    /// An offer had to wait for the snapshots of other shards.
    offer_waits,
    /// Memory is over its budget, but the oldest group in it is not durable yet.
    eviction_waits,
    /// The oldest entries in memory are in use, so newer ones of another shard leave.
    eviction_skips,
    /// A restart found entries of a shard behind a hole, which entries written again filled.
    replay_hole_filled,
    /// A restart took a snapshot for the base of a log that had not noted it.
    replay_base_from_snapshot,
    /// A restart dropped a log that a snapshot contradicts or is ahead of.
    replay_reset_by_snapshot,
    /// A shard could not be brought up from what the log holds of it.
    replay_shard_unusable,
    /// A segment's summary was not understood, and its records were read.
    summary_refused,
    /// A sealed segment got no summary because it would not fit.
    summary_too_large,
    /// A request came for a session that is not there.
    session_unknown,
    /// A request came that its client had acknowledged.
    session_request_acknowledged,
    /// A request was answered from memory.
    session_duplicate,
    /// A request had been applied, but its reply was too large to be kept.
    session_reply_gone,
    /// A request was too far from the first that its client had not acknowledged.
    session_window_full,
    /// A session had as many bytes of replies as it may.
    session_replies_full,
    /// A session was idle for too long.
    session_expired,
    /// A session made room for a new one.
    session_evicted,
    /// A snapshot shows sessions with replies.
    session_replies_in_snapshot,
    /// An entry was none that sessions know.
    session_entry_malformed,
    /// A leader began to hand over.
    transfer_begun,
    /// A transfer was asked for while another one was under way.
    transfer_second,
    /// A successor was told once more to campaign.
    transfer_told_again,
    /// A transfer took too long.
    transfer_given_up,
    /// The chosen replica leads.
    transfer_done,
    /// Leadership was lost during a transfer, but not to the chosen replica.
    transfer_lost,
    /// A replica was told to campaign by one that it does not follow.
    timeout_now_ignored,
    /// A proposal came to a leader that was handing over.
    proposal_during_transfer,
    /// A read was answered by lease.
    read_by_lease,
    /// A read needed a round although leases are on.
    read_without_lease,
    /// More rounds of heartbeats are under way than a leader remembers.
    lease_rounds_full,
    /// A voter kept quiet because it had heard a leader that may hold a lease, or had just started.
    vote_withheld_for_lease,
    /// A leader handed over to a replica of higher priority.
    priority_handed_over,
    /// A proposal was kept until a transfer had ended.
    proposal_held,
    /// Queries whose leader had gone were kept until a transfer had ended.
    queries_held,
    /// More proposals came during a transfer than are kept.
    held_full,
    /// A core handed over all that it led.
    drain_done,
    /// A core could not hand over all that it led.
    drain_kept,
}
