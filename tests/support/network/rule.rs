//! What happens to the bytes from one node to another.

use std::time::Duration;

use crate::support::random::Random;

/// What a link does to the frames of one direction. The default passes them on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Nothing arrives, and the sender does not learn of it.
    pub deaf: bool,
    /// Nothing is taken from the sender, whose buffers fill.
    pub clogged: bool,
    /// Of 1000 frames, so many are lost.
    pub dropped: u64,
    /// So many arrive twice.
    pub duplicated: u64,
    /// After so many, one that went long before arrives again, maybe one of an earlier connection.
    pub replayed: u64,
    /// So many arrive after others that were sent later.
    pub reordered: u64,
    /// So many arrive with a flipped bit.
    pub corrupted: u64,
    /// Each frame takes up to so much longer.
    pub delay_max: Duration,
    /// Most bytes in a second; 0 for no limit.
    pub bytes_per_second: u64,
}

impl Rule {
    /// Nothing arrives.
    pub fn deaf() -> Self {
        Self { deaf: true, ..Self::default() }
    }

    /// Both at once.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let slower = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
        Self {
            deaf: self.deaf || other.deaf,
            clogged: self.clogged || other.clogged,
            dropped: self.dropped.max(other.dropped),
            duplicated: self.duplicated.max(other.duplicated),
            replayed: self.replayed.max(other.replayed),
            reordered: self.reordered.max(other.reordered),
            corrupted: self.corrupted.max(other.corrupted),
            delay_max: self.delay_max.max(other.delay_max),
            bytes_per_second: slower(self.bytes_per_second, other.bytes_per_second),
        }
    }
}

/// Whether something that happens to `of_1000` happens now.
pub fn happens(of_1000: u64, random: &mut Random) -> bool {
    of_1000 > 0 && random.below(1000) < of_1000
}
