//! What happens to the bytes from one node to another.

use std::fmt;
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
    /// Each frame takes so much longer.
    pub delay_min: Duration,
    /// And up to so much longer still.
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
            delay_min: self.delay_min.max(other.delay_min),
            delay_max: self.delay_max.max(other.delay_max),
            bytes_per_second: slower(self.bytes_per_second, other.bytes_per_second),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares = [
            ("lost", self.dropped),
            ("twice", self.duplicated),
            ("replayed", self.replayed),
            ("reordered", self.reordered),
            ("corrupted", self.corrupted),
        ];
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.deaf.then(|| "nothing arrives".to_owned()));
        parts.extend(self.clogged.then(|| "nothing is read".to_owned()));
        let shares = shares.iter().filter(|(_, of_1000)| *of_1000 > 0);
        parts.extend(shares.map(|(what, of_1000)| format!("{of_1000} of 1000 {what}")));
        if !self.delay_min.is_zero() {
            parts.push(format!("{:?} late", self.delay_min));
        }
        if !self.delay_max.is_zero() {
            parts.push(format!("up to {:?} late", self.delay_max));
        }
        if self.bytes_per_second > 0 {
            parts.push(format!("{} bytes/s", self.bytes_per_second));
        }
        f.write_str(&parts.join(", "))
    }
}

/// Whether something that happens to `of_1000` happens now.
pub fn happens(of_1000: u64, random: &mut Random) -> bool {
    of_1000 > 0 && random.below(1000) < of_1000
}
