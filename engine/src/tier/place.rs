//! Positions of records, and how it is seen from them that a new segment began.

use coracle_wal::Lsn;
use coracle_wal::limits::{BLOCK_BYTES, MARK_RESERVE_BYTES};

/// Where a record is, or several of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte of its batch: where reading starts.
    pub batch: Lsn,
    /// The byte behind it.
    pub end: Lsn,
}

/// A part of the log without the boundary of a segment in it, named by the batch it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch(pub Lsn);

/// Least distance between the last batch with records of a segment and the first of the next: the block
/// kept for a mark, and the next segment's header.
const BOUNDARY_BYTES_MIN: u64 = MARK_RESERVE_BYTES + BLOCK_BYTES as u64;

/// Follows the records of a core's log and tells when a new segment may have begun.
///
/// A batch follows the one before at once, or behind a mark of one block; at the boundary of two
/// segments, the distance is larger. Several marks in a row may be taken for a boundary, too. This
/// costs a run more and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    last: Option<(Stretch, Place)>,
}

impl Trail {
    /// Takes the place of the next record.
    pub fn step(&mut self, place: Place) -> Stretch {
        let stretch = match self.last {
            Some((stretch, last)) => {
                assert!(
                    place.batch >= last.batch,
                    "records come in order: {place:?} after {last:?}"
                );
                let end = last.end.0.next_multiple_of(BLOCK_BYTES as u64);
                let follows = place.batch == last.batch || place.batch.0 < end + BOUNDARY_BYTES_MIN;
                if follows { stretch } else { Stretch(place.batch) }
            }
            None => Stretch(place.batch),
        };
        self.last = Some((stretch, place));
        stretch
    }

    /// The next record begins a new stretch: what lies between was not seen.
    pub fn interrupt(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(batch: u64, end: u64) -> Place {
        Place { batch: Lsn(batch), end: Lsn(end) }
    }

    #[test]
    fn a_stretch_ends_with_its_segment_and_not_at_a_mark() {
        let mut trail = Trail::default();
        let first = trail.step(place(4096, 4200));
        assert_eq!(first, Stretch(Lsn(4096)));
        assert_eq!(trail.step(place(4096, 4300)), first, "the same batch");
        assert_eq!(trail.step(place(8192, 12_288)), first, "the next batch");
        assert_eq!(trail.step(place(16_384, 16_400)), first, "behind a mark");
        // The batch ends at 20480; a mark's block and a header lie between at least.
        let second = trail.step(place(28_672, 28_700));
        assert_eq!(second, Stretch(Lsn(28_672)));
        trail.interrupt();
        assert_eq!(trail.step(place(32_768, 32_800)), Stretch(Lsn(32_768)));
    }
}
