//! What an opened log is: a labelled decision table, as data.
//!
//! The scan walks the chain of batches and stops where it breaks. What it finds there is the
//! [`Evidence`]; [`label`] looks it up in [`TABLE`]:
//!
//! | files   | names      | the chain stops at | later batches say     | label      |
//! |---------|------------|--------------------|-----------------------|------------|
//! | none    |            |                    |                       | empty      |
//! | foreign |            |                    |                       | foreign    |
//! | newer   |            |                    |                       | newer      |
//! | ours    | missing    |                    |                       | damage     |
//! | ours    | unreadable |                    |                       | damage     |
//! | ours    | complete   |                    | it was durable        | damage     |
//! | ours    | complete   | closed             | nothing (none)        | clean end  |
//! | ours    | complete   | blank              | nothing (none)        | clean end  |
//! | ours    | complete   | broken             | nothing (none)        | torn tail  |
//! | ours    | complete   | blank, broken      | not known durable     | torn tail  |
//! | ours    | complete   | closed             | not known durable     | damage     |
//!
//! A segment's name and header are durable before it is used, so a crash never explains a missing or
//! unreadable one. Writes are pipelined, so a crash does explain a hole before later batches, unless one
//! of them says that what lies before it was durable. So says, too, a later batch that is found in the wrong
//! place, although it can't be read as part of the log. After the mark that closes a generation nothing
//! follows in it.

use std::fmt;

use crate::Lsn;

/// Whose files the directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// No segments.
    None,
    /// Segments of this log.
    Ours,
    /// A segment of another log.
    Foreign,
    /// A segment of a newer format.
    Newer,
}

/// Whether the segments that must be there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// All are there.
    Complete,
    /// One is missing.
    Missing,
    /// One has no valid header, or is shorter than it says.
    Unreadable,
}

/// What lies where the next batch would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing, and the last batch is the mark of an orderly end.
    Closed,
    /// Nothing.
    Blank,
    /// Something that is not a whole batch of this chain.
    Broken,
}

/// What valid batches behind the stop say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// There are none.
    Nothing,
    /// None says that what lies at the stop was durable.
    Pending,
    /// One says that it was.
    Durable,
}

/// What the scan found where the chain stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Whose files.
    pub files: Files,
    /// Whether all are there.
    pub names: Names,
    /// What is at the stop.
    pub stop: Stop,
    /// What is behind it.
    pub later: Later,
}

/// What an opened log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// There was no log; a new one was begun.
    Empty,
    /// The log ends with its last whole batch.
    CleanEnd,
    /// The log ended with batches that a crash cut short; they were never acknowledged and are cut off.
    TornTail,
    /// Records that were acknowledged are damaged or missing. Refused unless told otherwise.
    Damage,
    /// The directory holds another log. Refused.
    Foreign,
    /// A newer program wrote it. Refused.
    Newer,
}

/// A row of the table; an empty list stands for every value.
#[derive(Debug)]
pub struct Row {
    files: &'static [Files],
    names: &'static [Names],
    stop: &'static [Stop],
    later: &'static [Later],
    label: Label,
}

const OURS: &[Files] = &[Files::Ours];
const COMPLETE: &[Names] = &[Names::Complete];

/// The decision table. Exactly one row fits any evidence.
pub const TABLE: &[Row] = &[
    Row { files: &[Files::None], names: &[], stop: &[], later: &[], label: Label::Empty },
    Row { files: &[Files::Foreign], names: &[], stop: &[], later: &[], label: Label::Foreign },
    Row { files: &[Files::Newer], names: &[], stop: &[], later: &[], label: Label::Newer },
    Row { files: OURS, names: &[Names::Missing], stop: &[], later: &[], label: Label::Damage },
    Row { files: OURS, names: &[Names::Unreadable], stop: &[], later: &[], label: Label::Damage },
    Row { files: OURS, names: COMPLETE, stop: &[], later: &[Later::Durable], label: Label::Damage },
    Row {
        files: OURS,
        names: COMPLETE,
        stop: &[Stop::Closed, Stop::Blank],
        later: &[Later::Nothing],
        label: Label::CleanEnd,
    },
    Row {
        files: OURS,
        names: COMPLETE,
        stop: &[Stop::Broken],
        later: &[Later::Nothing],
        label: Label::TornTail,
    },
    Row {
        files: OURS,
        names: COMPLETE,
        stop: &[Stop::Blank, Stop::Broken],
        later: &[Later::Pending],
        label: Label::TornTail,
    },
    Row {
        files: OURS,
        names: COMPLETE,
        stop: &[Stop::Closed],
        later: &[Later::Pending],
        label: Label::Damage,
    },
];

impl Row {
    fn fits(&self, evidence: &Evidence) -> bool {
        fn any<T: PartialEq>(allowed: &[T], value: &T) -> bool {
            allowed.is_empty() || allowed.contains(value)
        }
        any(self.files, &evidence.files)
            && any(self.names, &evidence.names)
            && any(self.stop, &evidence.stop)
            && any(self.later, &evidence.later)
    }
}

/// What the evidence means.
pub fn label(evidence: Evidence) -> Label {
    let row = TABLE.iter().find(|row| row.fits(&evidence));
    row.expect("the table has a row for every evidence; a test tries them all").label
}

/// A stretch of the log, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// File in which it begins.
    pub segment: String,
    /// Byte of the file at which it begins.
    pub offset: u64,
    /// Position at which it begins.
    pub from: Lsn,
    /// Position at which the log goes on; the end of the segment if it does not.
    pub to: Lsn,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, from, to } = self;
        let bytes = to.0.saturating_sub(from.0);
        write!(f, "{segment} from byte {offset} ({bytes} bytes, positions {from} to {to})")
    }
}

/// What was found when a log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// What the log was.
    pub label: Label,
    /// Where the recovered part ends. New records come behind it.
    pub end: Lsn,
    /// Up to here the log itself says that everything was durable. Recovered records behind it may or
    /// may not have been acknowledged, and so may be what a torn tail lost.
    pub known_durable: Lsn,
    /// Records given to the visitor, and those that summaries stand for.
    pub records: u64,
    /// Batches with them, marks included.
    pub batches: u64,
    /// Bytes of these batches.
    pub bytes: u64,
    /// Segments that hold them.
    pub segments: u64,
    /// Segments among them that were not read: the visitor took their summaries.
    pub summarized: u64,
    /// What was cut off, if the tail was torn.
    pub cut: Option<Extent>,
    /// What acknowledged parts are lost; not empty only with
    /// [`Options::start_on_damage`](crate::Options::start_on_damage) or
    /// [`Options::start_on_gaps`](crate::Options::start_on_gaps).
    pub damage: Vec<Extent>,
    /// Number of this start of the log.
    pub generation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [Files; 4] = [Files::None, Files::Ours, Files::Foreign, Files::Newer];
    const NAMES: [Names; 3] = [Names::Complete, Names::Missing, Names::Unreadable];
    const STOPS: [Stop; 3] = [Stop::Closed, Stop::Blank, Stop::Broken];
    const LATERS: [Later; 3] = [Later::Nothing, Later::Pending, Later::Durable];

    fn every_evidence() -> impl Iterator<Item = Evidence> {
        FILES.into_iter().flat_map(|files| {
            NAMES.into_iter().flat_map(move |names| {
                STOPS.into_iter().flat_map(move |stop| {
                    LATERS.into_iter().map(move |later| Evidence { files, names, stop, later })
                })
            })
        })
    }

    /// The rules in words, written apart from the table.
    fn expected(evidence: Evidence) -> Label {
        let Evidence { files, names, stop, later } = evidence;
        match files {
            Files::None => return Label::Empty,
            Files::Foreign => return Label::Foreign,
            Files::Newer => return Label::Newer,
            Files::Ours => {}
        }
        if names != Names::Complete || later == Later::Durable {
            return Label::Damage;
        }
        if stop == Stop::Closed {
            return if later == Later::Nothing { Label::CleanEnd } else { Label::Damage };
        }
        if stop == Stop::Blank && later == Later::Nothing {
            Label::CleanEnd
        } else {
            Label::TornTail
        }
    }

    #[test]
    fn every_combination_has_exactly_one_row_and_the_expected_label() {
        let mut seen = 0;
        for evidence in every_evidence() {
            let rows: Vec<&Row> = TABLE.iter().filter(|row| row.fits(&evidence)).collect();
            assert_eq!(rows.len(), 1, "{evidence:?}: {rows:?}");
            assert_eq!(label(evidence), expected(evidence), "{evidence:?}");
            seen += 1;
        }
        assert_eq!(seen, 4 * 3 * 3 * 3);
    }

    #[test]
    fn every_row_is_of_use() {
        for row in TABLE {
            assert!(every_evidence().any(|evidence| row.fits(&evidence)), "{row:?}");
        }
    }
}
