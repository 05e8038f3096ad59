//! What a crash leaves: the draw for each change that was not durable.

use std::collections::BTreeMap;

use coracle_wal::limits::BLOCK_BYTES;
use fastrand::Rng;

use super::image::{Page, SECTOR_BYTES, Sectors};

/// What becomes of a change that was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Lose,
    /// Each page by itself is kept or lost.
    TornPages,
    /// Each sector by itself is kept or lost.
    TornSectors,
}

/// The temper of one crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    KeepAll,
    LoseAll,
    Mixed,
}

/// The draws of one crash.
pub(super) struct Fates<'r> {
    rng: &'r mut Rng,
    mood: Mood,
    /// Of each operation, by its number.
    drawn: BTreeMap<u64, Fate>,
    garbage: bool,
    /// Changes that were decided, for the story.
    pub(super) kept: u64,
    pub(super) lost: u64,
    pub(super) torn: u64,
}

impl<'r> Fates<'r> {
    pub(super) fn new(rng: &'r mut Rng) -> Self {
        // One in ten keeps everything, one in ten nothing.
        let mood = match rng.u8(..10) {
            0 => Mood::KeepAll,
            1 => Mood::LoseAll,
            _ => Mood::Mixed,
        };
        Self { rng, mood, drawn: BTreeMap::new(), garbage: false, kept: 0, lost: 0, torn: 0 }
    }

    pub(super) fn with_garbage(self, garbage: bool) -> Self {
        Self { garbage, ..self }
    }

    /// The fate of the change that operation `number` made.
    pub(super) fn of(&mut self, number: u64) -> Fate {
        if let Some(fate) = self.drawn.get(&number) {
            return *fate;
        }
        let fate = match self.mood {
            Mood::KeepAll => Fate::Keep,
            Mood::LoseAll => Fate::Lose,
            Mood::Mixed => match self.rng.u8(..6) {
                0 | 1 => Fate::Keep,
                2 | 3 => Fate::Lose,
                4 => Fate::TornPages,
                _ => Fate::TornSectors,
            },
        };
        match fate {
            Fate::Keep => self.kept += 1,
            Fate::Lose => self.lost += 1,
            Fate::TornPages | Fate::TornSectors => self.torn += 1,
        }
        self.drawn.insert(number, fate);
        fate
    }

    /// Whether a change of a name or a size is kept.
    pub(super) fn of_metadata(&mut self) -> bool {
        let kept = match self.mood {
            Mood::KeepAll => true,
            Mood::LoseAll => false,
            Mood::Mixed => self.rng.bool(),
        };
        if kept {
            self.kept += 1;
        } else {
            self.lost += 1;
        }
        kept
    }

    /// What of a page's change reaches the platter.
    pub(super) fn tear(&mut self, page: &Page, sectors: Sectors, number: u64) -> (Page, Sectors) {
        match self.of(number) {
            Fate::Keep => (page.clone(), sectors),
            Fate::Lose => (page.clone(), 0),
            Fate::TornPages => (page.clone(), if self.rng.bool() { sectors } else { 0 }),
            Fate::TornSectors => {
                let kept = sectors & self.rng.u8(..);
                if !self.garbage || self.rng.bool() {
                    return (page.clone(), kept);
                }
                // One sector was just being written.
                let spoilt = self.rng.usize(..BLOCK_BYTES / SECTOR_BYTES);
                if sectors & (1 << spoilt) == 0 {
                    return (page.clone(), kept);
                }
                let mut bytes = page.bytes().to_vec();
                let from = spoilt * SECTOR_BYTES;
                let start = from + self.rng.usize(..SECTOR_BYTES);
                self.rng.fill(&mut bytes[start..from + SECTOR_BYTES]);
                (Page::new(&bytes), kept | (1 << spoilt))
            }
        }
    }
}
