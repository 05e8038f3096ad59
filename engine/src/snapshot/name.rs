//! [`SnapshotId`], and the names of a snapshot's files.

use std::fmt;

use crate::limits::{SNAPSHOT_INDEX_MAX, TERM_MAX};
use crate::{LogIndex, ShardId, Term};

/// Which snapshot: the state of `shard` after the entry at `index`, which has `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// Whose state it is.
    pub shard: ShardId,
    /// The last entry in it; at least 1.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the snapshot of shard {} at index {}, term {}",
            self.shard, self.index, self.term
        )
    }
}

impl SnapshotId {
    /// The first part of it that can't be, in words.
    pub(super) fn flaw(&self) -> Option<String> {
        if !(1..=SNAPSHOT_INDEX_MAX).contains(&self.index.0) {
            return Some(format!("its index is {}; 1 to {SNAPSHOT_INDEX_MAX}", self.index));
        }
        (self.term.0 > TERM_MAX).then(|| format!("its term is {}; at most {TERM_MAX}", self.term))
    }
}

/// What a file of a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A manifest: the snapshot is whole and durable. It stands first: a manifest goes before its chunks.
    Manifest,
    /// The manifest of a snapshot that is being received.
    Offer,
    /// A manifest that is being written; worthless after a crash.
    Part,
    /// The chunks. Whether they are whole is told by the other files.
    Chunks,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Manifest, "manifest"),
    (Kind::Offer, "offer"),
    (Kind::Part, "part"),
    (Kind::Chunks, "chunks"),
];

/// A file of the directory, told by its name. They sort by snapshot, then by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName {
    pub(super) id: SnapshotId,
    pub(super) kind: Kind,
}

impl FileName {
    pub(super) fn new(id: SnapshotId, kind: Kind) -> Self {
        Self { id, kind }
    }

    /// Reads a name; `None` for a file that is not of a snapshot.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (numbers, kind) = name.strip_prefix("snap-")?.split_once('.')?;
        let kind = KINDS.iter().find(|(_, suffix)| *suffix == kind)?.0;
        let mut numbers = numbers.split('-');
        let mut number = || u64::from_str_radix(numbers.next()?, 16).ok();
        let shard = ShardId(u32::try_from(number()?).ok()?);
        let id = SnapshotId { shard, index: LogIndex(number()?), term: Term(number()?) };
        let parsed = Self { id, kind };
        // Also refuses signs, capitals, other lengths, and what may follow.
        (id.flaw().is_none() && parsed.text() == name).then_some(parsed)
    }

    /// The name in the directory.
    pub(super) fn text(self) -> String {
        let SnapshotId { shard, index, term } = self.id;
        let suffix = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, s)| *s);
        format!("snap-{:08x}-{:016x}-{:016x}.{suffix}", shard.0, index.0, term.0)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_ignored() {
        for (kind, _) in KINDS {
            for (shard, index, term) in
                [(0, 1, 0), (u32::MAX, SNAPSHOT_INDEX_MAX, TERM_MAX), (7, 0xabc, 9)]
            {
                let id =
                    SnapshotId { shard: ShardId(shard), index: LogIndex(index), term: Term(term) };
                let name = FileName::new(id, kind);
                assert_eq!(FileName::parse(&name.text()), Some(name));
            }
        }
        let good = "snap-00000001-0000000000000002-0000000000000003.manifest";
        assert!(FileName::parse(good).is_some());
        for text in [
            "",
            "snap-",
            "seg-0000000000000001",
            "snap-00000001-0000000000000002-0000000000000003",
            "snap-00000001-0000000000000002-0000000000000003.",
            "snap-00000001-0000000000000002-0000000000000003.manifest2",
            "snap-00000001-0000000000000002-0000000000000003.Manifest",
            "snap-00000001-0000000000000002-0000000000000003-1.manifest",
            "snap-00000001-0000000000000002.manifest",
            "snap-1-2-3.manifest",
            "snap-00000001-000000000000000A-0000000000000003.manifest",
            "snap-+0000001-0000000000000002-0000000000000003.manifest",
            "snap-100000001-0000000000000002-0000000000000003.manifest",
            // An index of nothing, and numbers beyond all bounds.
            "snap-00000001-0000000000000000-0000000000000003.manifest",
            "snap-00000001-4000000000000001-0000000000000003.manifest",
            "snap-00000001-0000000000000001-4000000000000001.manifest",
        ] {
            assert_eq!(FileName::parse(text), None, "{text}");
        }
    }
}
