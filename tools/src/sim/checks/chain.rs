//! Logs as chains of hashes: two logs are equal up to an index if their links at that index are.

use coracle_engine::raft::EntryKind;
use coracle_engine::{LogIndex, Term};

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

fn step(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(FACTOR);
    (mixed ^ (mixed >> 32)).wrapping_mul(FACTOR).rotate_left(29)
}

/// A hash of bytes; the same on every machine.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = step(FACTOR, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = step(hash, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = step(hash, u64::from_le_bytes(last));
    }
    hash
}

/// A hash of an entry without its place.
#[must_use]
pub fn hash_entry(kind: EntryKind, payload: &[u8]) -> u64 {
    let kind = match kind {
        EntryKind::Normal => 1,
        EntryKind::Noop => 2,
        EntryKind::Readmission => 3,
        EntryKind::Reconfiguration => 4,
    };
    step(hash_bytes(payload), kind)
}

/// An entry as a chain keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its term.
    pub term: Term,
    /// [`hash_entry`].
    pub hash: u64,
    /// Hash of this entry and all before it.
    pub chain: u64,
}

const NONE: Link = Link { term: Term(0), hash: 0, chain: 0 };

/// A log without its payloads. It begins at index 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(Vec<Link>);

impl Chain {
    /// Index of the last entry.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.0.len() as u64)
    }

    /// The last entry; that of term 0 at index 0 if there is none.
    #[must_use]
    pub fn end(&self) -> Link {
        self.0.last().copied().unwrap_or(NONE)
    }

    /// The entry at `index`; at 0, one of term 0.
    #[must_use]
    pub fn at(&self, index: LogIndex) -> Option<Link> {
        match index.0.checked_sub(1) {
            None => Some(NONE),
            Some(place) => self.0.get(usize::try_from(place).ok()?).copied(),
        }
    }

    /// Whether this log and `other` have the same entries up to `index`, and both have that.
    #[must_use]
    pub fn agrees(&self, other: &Self, index: LogIndex) -> bool {
        matches!((self.at(index), other.at(index)), (Some(a), Some(b)) if a.chain == b.chain)
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, term: Term, hash: u64) -> Link {
        let chain = step(step(self.end().chain ^ FACTOR, term.0), hash);
        let link = Link { term, hash, chain };
        self.0.push(link);
        link
    }

    /// Removes all entries behind `index`.
    pub fn cut_behind(&mut self, index: LogIndex) {
        self.0.truncate(usize::try_from(index.0).unwrap_or(usize::MAX));
    }

    /// The first index at which this log and `other` differ, among those that both have.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<LogIndex> {
        let shared = self.0.len().min(other.0.len());
        // Equality of links is monotonic.
        let equal = self.0[..shared].iter().zip(&other.0).take_while(|(a, b)| a.chain == b.chain);
        let place = equal.count();
        (place < shared).then_some(LogIndex(place as u64 + 1))
    }

    /// What stands at `index`, for messages.
    #[must_use]
    pub fn describe(&self, index: LogIndex) -> String {
        match self.at(index) {
            Some(link) => format!("an entry of term {} (hash {:016x})", link.term, link.hash),
            None => format!("nothing (the log ends at {})", self.last()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(entries: &[(u64, u64)]) -> Chain {
        let mut chain = Chain::default();
        for (term, hash) in entries {
            chain.push(Term(*term), *hash);
        }
        chain
    }

    #[test]
    fn chains_agree_up_to_their_first_difference() {
        let a = chain(&[(1, 7), (1, 8), (2, 9)]);
        let b = chain(&[(1, 7), (1, 6), (2, 9)]);
        assert!(a.agrees(&b, LogIndex(0)) && a.agrees(&b, LogIndex(1)));
        assert!(
            !a.agrees(&b, LogIndex(2)) && !a.agrees(&b, LogIndex(3)) && !a.agrees(&b, LogIndex(4))
        );
        assert_eq!(a.difference(&b), Some(LogIndex(2)));
        assert_eq!(a.difference(&chain(&[(1, 7)])), None);
    }

    #[test]
    fn hashes_tell_lengths_and_kinds_apart() {
        assert_ne!(hash_bytes(b""), hash_bytes(&[0]));
        assert_ne!(hash_bytes(&[0; 8]), hash_bytes(&[0; 9]));
        assert_ne!(hash_entry(EntryKind::Noop, b""), hash_entry(EntryKind::Normal, b""));
    }

    #[test]
    fn a_chain_can_be_cut_and_grown_again() {
        let mut a = chain(&[(1, 7), (1, 8)]);
        a.cut_behind(LogIndex(1));
        a.push(Term(2), 8);
        assert_eq!(a.difference(&chain(&[(1, 7), (1, 8)])), Some(LogIndex(2)));
        assert_eq!(a, chain(&[(1, 7), (2, 8)]));
    }
}
