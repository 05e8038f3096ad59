//! A file without its name: what is durable, what readers see, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use coracle_wal::limits::BLOCK_BYTES;
use fastrand::Rng;

use super::crash::{Fate, Fates};
use super::image::{Image, Page, Sectors, WHOLE, pages};
use super::watch::Watch;

/// A change of one page that is only in the cache.
struct Version {
    /// Number of the operation that made it; operations are numbered in the order they took effect.
    number: u64,
    page: Page,
    sectors: Sectors,
    /// The system holds it for clean although it is not durable: no sync helps any more.
    doomed: bool,
}

struct Growth {
    number: u64,
    size: u64,
    doomed: bool,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) id: u32,
    /// What readers see: the durable image and all changes.
    pub(super) cached: Image,
    /// What a power cut leaves for sure.
    pub(super) durable: Image,
    /// Durable content of each page before the present one, for stale reads.
    before: BTreeMap<u32, Page>,
    /// By page, oldest first.
    dirty: BTreeMap<u32, Vec<Version>>,
    growth: Vec<Growth>,
    /// Where durable writes began that no later one has touched, and their lengths.
    writes: BTreeMap<u64, u64>,
    /// Pages that can't be read until they are written again.
    pub(super) unreadable: BTreeSet<u32>,
    /// Shared by every handle: a file in use keeps its blocks without a name.
    pub(super) token: Rc<()>,
}

impl Node {
    pub(super) fn new(id: u32) -> Self {
        Self { id, ..Self::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        Rc::strong_count(&self.token) > 1
    }

    /// A write that goes to the cache.
    pub(super) fn write(&mut self, number: u64, position: u64, bytes: &[u8], doomed: bool) {
        self.grow(number, position + bytes.len() as u64, doomed);
        for (at, page, sectors) in pages(position, bytes) {
            self.unreadable.remove(&at);
            let old = self.cached.page(at);
            if page.is_zero() && old.is_zero() && !doomed && !self.dirty.contains_key(&at) {
                continue; // zeros over zeros: a fresh file is filled so
            }
            self.cached.set(at, old.with(&page, sectors));
            let version = Version { number, page, sectors, doomed };
            self.dirty.entry(at).or_default().push(version);
        }
    }

    /// A write that is durable at once.
    pub(super) fn write_durable(&mut self, position: u64, bytes: &[u8], watch: &mut Watch) {
        let end = position + bytes.len() as u64;
        self.writes.retain(|start, len| *start >= end || *start + *len <= position);
        self.writes.insert(position, bytes.len() as u64);
        self.cached.size = self.cached.size.max(end);
        self.settle_size(end, watch);
        for (at, page, sectors) in pages(position, bytes) {
            self.unreadable.remove(&at);
            self.cached.set(at, self.cached.page(at).with(&page, sectors));
            self.settle_page(at, &page, sectors, watch);
            if let Some(versions) = self.dirty.get_mut(&at) {
                cover(versions, sectors);
                if versions.is_empty() {
                    self.dirty.remove(&at);
                }
            }
        }
    }

    /// Where durable writes of this length began, and are still there.
    pub(super) fn writes_of(&self, len: u64) -> impl Iterator<Item = u64> {
        self.writes.iter().filter(move |(_, its)| **its == len).map(|(start, _)| *start)
    }

    /// Makes the file at least so long, in the cache.
    pub(super) fn grow(&mut self, number: u64, size: u64, doomed: bool) {
        if size > self.cached.size {
            self.cached.size = size;
            self.growth.push(Growth { number, size, doomed });
        }
    }

    fn settle_size(&mut self, size: u64, watch: &mut Watch) {
        if size > self.durable.size {
            self.durable.size = size;
            watch.grown(self.id, size);
        }
        self.growth.retain(|growth| growth.size > size);
    }

    fn settle_page(&mut self, at: u32, page: &Page, sectors: Sectors, watch: &mut Watch) {
        let old = self.durable.page(at);
        self.durable.set(at, old.with(page, sectors));
        if !old.is_zero() {
            self.before.insert(at, old);
        }
        watch.written(self.id, at);
    }

    /// Makes all changes up to number `covered` durable, but for doomed ones.
    pub(super) fn settle(&mut self, covered: u64, watch: &mut Watch) {
        let grown = self.growth.iter().filter(|growth| growth.number <= covered && !growth.doomed);
        if let Some(size) = grown.map(|growth| growth.size).max() {
            self.settle_size(size, watch);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|at, versions| {
            let mut waiting = Vec::new();
            for version in versions.drain(..) {
                if version.doomed || version.number > covered {
                    waiting.push(version);
                    continue;
                }
                self.settle_page(*at, &version.page, version.sectors, watch);
                // What an older change would have put there can't come any more.
                cover(&mut waiting, version.sectors);
            }
            *versions = waiting;
            !versions.is_empty()
        });
        self.dirty = dirty;
    }

    /// A sync of the changes up to `covered` failed: part of them is durable by chance, no later sync will
    /// do anything for the others. With `revert`, readers see the old content again.
    pub(super) fn doom(&mut self, covered: u64, revert: bool, rng: &mut Rng, watch: &mut Watch) {
        let mut lucky = Fates::new(rng);
        for versions in self.dirty.values_mut() {
            for version in versions.iter_mut().filter(|version| version.number <= covered) {
                version.doomed |= lucky.of(version.number) != Fate::Keep;
            }
        }
        for growth in self.growth.iter_mut().filter(|growth| growth.number <= covered) {
            growth.doomed |= lucky.of(growth.number) != Fate::Keep;
        }
        self.settle(covered, watch);
        if revert {
            self.forget_doomed();
        }
    }

    /// The system drops doomed pages, and reads bring back what the device has.
    pub(super) fn forget_doomed(&mut self) {
        let Self { dirty, cached, durable, .. } = self;
        dirty.retain(|at, versions| {
            let before = versions.len();
            versions.retain(|version| !version.doomed);
            if versions.len() < before {
                let page = versions
                    .iter()
                    .fold(durable.page(*at), |page, next| page.with(&next.page, next.sectors));
                cached.set(*at, page);
            }
            !versions.is_empty()
        });
    }

    /// Power is cut: what is not durable is kept, lost or torn. Everything left is durable afterwards.
    pub(super) fn power_cut(&mut self, fates: &mut Fates<'_>) {
        for (at, versions) in std::mem::take(&mut self.dirty) {
            for version in versions {
                let (page, sectors) = fates.tear(&version.page, version.sectors, version.number);
                if sectors != 0 {
                    let old = self.durable.page(at);
                    self.durable.set(at, old.with(&page, sectors));
                    self.before.insert(at, old);
                }
            }
        }
        for growth in self.growth.drain(..) {
            // Decided apart from the data: files with lost ends, and files with ends full of zeros.
            if fates.of_metadata() {
                self.durable.size = self.durable.size.max(growth.size);
            }
        }
        self.durable.cut_at_size();
        self.cached = self.durable.clone();
        let end = self.durable.size.div_ceil(BLOCK_BYTES as u64) as u32;
        self.before.retain(|at, _| *at < end);
        self.unreadable.retain(|at| *at < end);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.growth.is_empty()
    }

    /// Replaces durable content behind everybody's back.
    pub(super) fn damage(&mut self, at: u32, page: Page, watch: &mut Watch) {
        if !self.dirty.contains_key(&at) {
            self.cached.set(at, page.clone());
        }
        self.durable.set(at, page);
        watch.written(self.id, at);
    }

    /// The durable content of a page before the present one.
    pub(super) fn before(&self, at: u32) -> Option<Page> {
        self.before.get(&at).cloned()
    }

    /// Whether a page in this range can't be read; the first one.
    pub(super) fn first_unreadable(&self, position: u64, len: usize) -> Option<u32> {
        if self.unreadable.is_empty() || len == 0 {
            return None;
        }
        let page = |position| (position / BLOCK_BYTES as u64) as u32;
        let range = page(position)..=page(position + len as u64 - 1);
        self.unreadable.range(range).next().copied()
    }
}

/// Removes from older changes what a newer one has overwritten.
fn cover(versions: &mut Vec<Version>, sectors: Sectors) {
    if sectors == WHOLE {
        versions.clear();
    } else {
        versions.iter_mut().for_each(|version| version.sectors &= !sectors);
        versions.retain(|version| version.sectors != 0);
    }
}
