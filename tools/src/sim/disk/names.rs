//! The names in a directory: what is durable, what processes see, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};

use super::crash::Fates;

type Map = BTreeMap<String, u32>;

enum What {
    Create(String, u32),
    Remove(String),
    Rename(String, String, u32),
}

impl What {
    fn apply(&self, names: &mut Map) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, file) => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
        }
    }

    fn touched(&self) -> [&str; 2] {
        match self {
            Self::Create(name, _) | Self::Remove(name) => [name, name],
            Self::Rename(from, to, _) => [from, to],
        }
    }

    fn file(&self) -> Option<u32> {
        match self {
            Self::Create(_, file) | Self::Rename(_, _, file) => Some(*file),
            Self::Remove(_) => None,
        }
    }
}

struct Change {
    number: u64,
    what: What,
    doomed: bool,
}

#[derive(Default)]
pub(super) struct Names {
    pub(super) cached: Map,
    pub(super) durable: Map,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn create(&mut self, number: u64, name: String, file: u32) {
        self.change(number, What::Create(name, file));
    }

    pub(super) fn remove(&mut self, number: u64, name: String) -> bool {
        let there = self.cached.contains_key(&name);
        if there {
            self.change(number, What::Remove(name));
        }
        there
    }

    pub(super) fn rename(&mut self, number: u64, from: String, to: String) -> bool {
        let Some(file) = self.cached.get(&from).copied() else { return false };
        if from != to {
            self.change(number, What::Rename(from, to, file));
        }
        true
    }

    fn change(&mut self, number: u64, what: What) {
        what.apply(&mut self.cached);
        self.pending.push(Change { number, what, doomed: false });
    }

    /// Makes the changes up to number `covered` durable; returns whether there were any. Doomed ones alone
    /// are held for clean, but they go with any later change: a directory is written by blocks.
    pub(super) fn settle(&mut self, covered: u64) -> bool {
        let count = self.pending.partition_point(|change| change.number <= covered);
        let Some(last) = self.pending[..count].iter().rposition(|change| !change.doomed) else {
            return false;
        };
        for change in self.pending.drain(..=last) {
            change.what.apply(&mut self.durable);
        }
        true
    }

    /// A sync of the changes up to `covered` failed: the first ones may be durable by chance, the others are
    /// doomed.
    pub(super) fn doom(&mut self, covered: u64, fates: &mut Fates<'_>) -> bool {
        // A journal stops at some point: what lies behind it is not durable either.
        let mut broken = false;
        for change in self.pending.iter_mut().filter(|change| change.number <= covered) {
            broken |= !fates.of_metadata();
            change.doomed |= broken;
        }
        self.settle(covered)
    }

    /// Power is cut: each change is kept or lost. A change needs the earlier ones of the names it
    /// touches: no file system makes two files of one name, or a file with none out of one with.
    pub(super) fn power_cut(&mut self, fates: &mut Fates<'_>) {
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for change in self.pending.drain(..) {
            let touched = change.what.touched();
            if touched.iter().any(|name| lost.contains(*name)) || !fates.of_metadata() {
                lost.extend(touched.map(str::to_owned));
            } else {
                change.what.apply(&mut self.durable);
            }
        }
        self.cached = self.durable.clone();
    }

    /// Whether a file has a name, or may have one after a power cut.
    pub(super) fn knows(&self, file: u32) -> bool {
        let named = |names: &Map| names.values().any(|known| *known == file);
        named(&self.cached)
            || named(&self.durable)
            || self.pending.iter().any(|change| change.what.file() == Some(file))
    }

    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty()
    }
}
