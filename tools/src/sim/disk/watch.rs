//! What became durable, for checks that follow the durable image without reading all of it.

use coracle_wal::limits::BLOCK_BYTES;

/// Something in a directory became durable. Files are told by number: names change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurableChange {
    /// Content; whole blocks.
    Written {
        /// The file.
        file: u32,
        /// Where, in bytes.
        position: u64,
        /// Bytes.
        len: u64,
    },
    /// The size of a file grew; content beyond the old one may have been written before.
    Grown {
        /// The file.
        file: u32,
        /// Its durable size.
        size: u64,
    },
    /// Names. A file that has its first durable name may have content already: read it whole.
    Names,
    /// Anything: a power cut, or the directory was wiped.
    Reset,
}

/// Counts durable changes, and keeps them once somebody asked for them.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) version: u64,
    kept: Option<Vec<DurableChange>>,
}

impl Watch {
    fn note(&mut self, change: DurableChange) {
        self.version += 1;
        if let Some(kept) = &mut self.kept {
            kept.push(change);
        }
    }

    pub(super) fn written(&mut self, file: u32, page: u32) {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let here = u64::from(page) * BLOCK;
        if let Some(DurableChange::Written { file: last, position, len }) =
            self.kept.as_mut().and_then(|kept| kept.last_mut())
            && *last == file
            && *position + *len == here
        {
            self.version += 1;
            *len += BLOCK;
            return;
        }
        self.note(DurableChange::Written { file, position: here, len: BLOCK });
    }

    pub(super) fn grown(&mut self, file: u32, size: u64) {
        self.note(DurableChange::Grown { file, size });
    }

    pub(super) fn names(&mut self) {
        self.note(DurableChange::Names);
    }

    pub(super) fn reset(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.clear();
        }
        self.note(DurableChange::Reset);
    }

    /// Moves what was kept to `into`; the first call begins with a reset.
    pub(super) fn drain(&mut self, into: &mut Vec<DurableChange>) {
        match &mut self.kept {
            Some(kept) => into.append(kept),
            None => {
                self.kept = Some(Vec::new());
                into.push(DurableChange::Reset);
            }
        }
    }
}
