//! Probes: counters of rare states, so that a test can tell whether it has ever met them.
//!
//! `sometimes!(name)` counts one more visit of the place where it stands; `sometimes!(name, condition)`
//! only if the condition holds. It costs one relaxed increment and is always compiled in. Every probe
//! is declared in the table below: an undeclared one does not compile, and one that is declared and
//! used nowhere is dead code, which the compiler reports.

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

/// Counts a visit of a rare state; see [`crate::probe`].
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

declare_probes! {
    /// An append was refused: too much waits to become durable.
    append_refused_backlog,
    /// An append was refused: the disk has no room for another segment.
    append_refused_no_space,
    /// A batch was closed because a group did not fit any more.
    batch_full,
    /// A batch came within one block of the largest size.
    batch_of_max_size,
    /// A batch's buffer had to grow.
    batch_grew,
    /// A batch was submitted while another was in flight.
    two_writes_in_flight,
    /// A write completed before an older one.
    completed_out_of_order,
    /// One completion made several batches durable.
    several_durable_at_once,
    /// A write completed after the log had failed.
    completed_after_failure,
    /// A write or sync failed; the log latched it.
    failure_latched,
    /// The driver was dropped before the log was closed.
    driver_dropped,
    /// The disk had no room for another segment.
    segment_no_room,
    /// A full disk was tried again.
    space_retried,
    /// A batch waits for the file of its segment.
    segment_not_ready,
    /// The log went on to the next segment.
    segment_rotated,
    /// A trimmed segment became a spare.
    segment_recycled,
    /// A trimmed segment was removed.
    segment_removed,
    /// A trimmed segment was archived.
    segment_archived,
    /// A trimmed segment had not the size that segments have now.
    segment_of_other_size,
    /// The budget had no room for another segment.
    budget_used_up,
    /// A spare was removed because the log was over its budget.
    spare_over_budget,
    /// A spare was removed because the owner does without it.
    spare_given_back,
    /// A segment was made beyond the budget, for a mark.
    budget_exceeded_for_mark,
    /// A mark was written before batches that waited for their segment.
    mark_before_waiting_batches,
    /// The summary of a sealed segment was written.
    summary_written,
    /// The summary of a sealed segment could not be written.
    summary_failed,
    /// A summary was too long, or too many waited.
    summary_dropped,
    /// A segment was made from a spare.
    spare_used,
    /// A segment was filled with zeros beside the log's work.
    segment_filled,
    /// Filling a segment was given up because the log ends.
    fill_stopped,
    /// A batch without records told of a trim.
    trim_mark,
    /// A batch without records told of an orderly end.
    close_mark,
    /// A mark had to go to the next segment.
    mark_in_next_segment,
    /// A write was short; its rest was submitted again.
    short_write,
    /// A write wrote less than a block.
    short_write_in_vain,
    /// A write was answered "try again".
    write_resubmitted,
    /// A read was short.
    short_read,
    /// A read was answered "try again".
    read_resubmitted,
    /// A reader of old records went on in the next segment.
    read_next_segment,
    /// A batch that a reader gave out lay in several buffers.
    read_batch_joined,
    /// A segment was given up while a reader looked at it.
    read_trimmed_under_reader,
    /// A reader came to a segment that recovery could not read.
    read_lost_segment,
    /// A reader found damage.
    read_damage,
    /// A reader found a batch that did not name the one before it.
    read_unlinked_batch,
    /// A read for a reader of old records failed.
    read_failed,
    /// A log was begun in an empty directory.
    recovery_empty,
    /// A log ended with its last whole batch.
    recovery_clean_end,
    /// A log ended with a mark of an orderly end.
    recovery_closed,
    /// A torn tail was cut.
    recovery_torn_tail,
    /// A hole was found, with whole batches behind it that were never acknowledged.
    recovery_hole_in_tail,
    /// Acknowledged records were damaged.
    recovery_damage,
    recovery_damage_bounded,
    /// A batch of an earlier use of its segment was ignored.
    recovery_stale_batch,
    /// A batch was found half written.
    recovery_broken_batch,
    /// A batch did not name the one before it.
    recovery_unlinked_batch,
    /// The walk left a segment where a later start of the log had cut it.
    recovery_next_start,
    /// A log went over several segments.
    recovery_several_segments,
    /// A summary was taken for a segment's batches.
    recovery_summary_taken,
    /// The owner wanted the records all the same.
    recovery_summary_refused,
    /// A summary was not whole, or not of the batches that are there.
    recovery_summary_unfit,
    /// A segment had no readable header.
    recovery_unreadable_header,
    /// A half-made segment was removed.
    recovery_fill_removed,
    /// A spare of another size was removed.
    recovery_spare_removed,
    /// A segment without recovered records became a spare.
    recovery_segment_discarded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_count_and_have_names_of_their_own() {
        let count = |wanted| probes().find(|(name, _)| *name == wanted).map(|(_, count)| count);
        let before = count("trim_mark").unwrap_or(u64::MAX);
        sometimes!(trim_mark);
        sometimes!(trim_mark, before == u64::MAX);
        assert!(count("trim_mark") > Some(before));
        let mut names: Vec<_> = probes().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
