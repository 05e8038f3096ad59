//! The log's format a second time, written from `docs/wal-format.md` and not from the product: what a batch is
//! and is not, and how its checksums are made right after a change.

use crc32fast::Hasher;

use super::{u32_at, u64_at};

pub(super) const BLOCK: usize = 4096;
const BATCH_MAX: usize = 4 << 20;
const BATCH_HEAD: usize = 72;
const RECORD_HEAD: usize = 16;
const SUMMARY_HEAD: usize = 88;

/// Whose log all images are.
pub(super) const LOG_ID: [u8; 16] = *b"a log of a test!";

/// A record and the position behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) lsn: u64,
    pub(super) stream: u32,
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// A segment as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) generation: u64,
    pub(super) sequence: u64,
    pub(super) base: u64,
    pub(super) bytes: u64,
    /// Bytes at the end that hold no batches.
    pub(super) summary: u64,
}

impl Segment {
    /// Reads what may be a header: only its form, not its checksum.
    pub(super) fn of(file: &[u8]) -> Option<Self> {
        (file.get(8..16)? == b"CORACLEW").then_some(())?;
        Some(Self {
            generation: u64_at(file, 32)?,
            sequence: u64_at(file, 40)?,
            base: u64_at(file, 48)?,
            bytes: u64_at(file, 56)?,
            summary: u64_at(file, 64)?,
        })
    }

    pub(super) fn seed(&self) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&LOG_ID);
        hasher.update(&self.generation.to_le_bytes());
        hasher.update(&self.sequence.to_le_bytes());
        hasher.finalize()
    }

    /// Whether its header is right.
    pub(super) fn is_valid(file: &[u8]) -> bool {
        file.get(..BLOCK).is_some_and(|block| {
            u32_at(block, 0) == Some(crc32fast::hash(&block[4..]))
                && u32_at(block, 4) == Some(1)
                && block[16..32] == LOG_ID
        })
    }

    /// The batch at `offset`: up to where it says that records were given up, and its records. `None` unless
    /// it is valid.
    pub(super) fn batch(&self, bytes: &[u8], offset: u64) -> Option<(u64, Vec<Found>)> {
        let position = self.base.checked_add(offset)?;
        let head = bytes.get(..BATCH_HEAD)?;
        let length = u32_at(head, 52)? as usize;
        let (prev_end, durable, trimmed) =
            (u64_at(head, 24)?, u64_at(head, 32)?, u64_at(head, 40)?);
        let padded = length.next_multiple_of(BLOCK);
        let valid = &head[4..8] == b"CWb1"
            && u64_at(head, 8)? == position
            && u64_at(head, 16)? == self.generation
            && u32_at(head, 0)? == crc(self.seed(), &head[4..])
            && (BATCH_HEAD..=BATCH_MAX).contains(&length)
            && offset.checked_add(padded as u64)? <= self.bytes.saturating_sub(self.summary)
            && u32_at(head, 64)? & !3 == 0
            && trimmed <= durable
            && durable <= position
            && prev_end <= position;
        if !valid || bytes.len() < padded {
            return None;
        }
        let (mut at, mut sums, mut found) = (BATCH_HEAD, Vec::new(), Vec::new());
        while at < length {
            let end = record_end(&bytes[..length], at)?;
            let record = &bytes[at..end];
            if u32_at(record, 0)? != crc(self.seed(), &record[4..]) {
                return None;
            }
            sums.extend_from_slice(&record[..4]);
            found.push(Found {
                lsn: position + end as u64,
                stream: u32_at(record, 8)?,
                kind: record[12],
                payload: record[RECORD_HEAD..].to_vec(),
            });
            at = end;
        }
        let counted = u32_at(head, 56)? as usize == found.len();
        (counted && u32_at(head, 60)? == crc(self.seed(), &sums)).then_some((trimmed, found))
    }
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn record_end(batch: &[u8], at: usize) -> Option<usize> {
    let end = at + RECORD_HEAD + u32_at(batch, at + 4)? as usize;
    (end <= batch.len()).then_some(end)
}

/// Makes the checksums of what may be a batch right, as far as its records reach.
pub(super) fn mend_batch(bytes: &mut [u8], seed: u32) {
    if bytes.len() < BATCH_HEAD {
        return;
    }
    let length = u32_at(bytes, 52).map_or(0, |length| length as usize);
    let length = length.clamp(BATCH_HEAD, bytes.len());
    let (mut at, mut sums) = (BATCH_HEAD, Vec::new());
    while let Some(end) = record_end(&bytes[..length], at) {
        let sum = crc(seed, &bytes[at + 4..end]).to_le_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
        sums.extend_from_slice(&sum);
        at = end;
    }
    let all = crc(seed, &sums).to_le_bytes();
    bytes[60..64].copy_from_slice(&all);
    let head = crc(seed, &bytes[4..BATCH_HEAD]).to_le_bytes();
    bytes[..4].copy_from_slice(&head);
}

/// Makes all checksums of a segment's file right. With `relink` every batch also says that it lies where it
/// lies, behind the one before it in the file: so that copied and moved batches form a chain.
pub(super) fn mend_segment(file: &mut [u8], relink: bool) {
    let Some(segment) = Segment::of(file) else { return };
    if file.len() < BLOCK {
        return;
    }
    let sum = crc32fast::hash(&file[4..BLOCK]);
    file[..4].copy_from_slice(&sum.to_le_bytes());
    let mut prev: Option<(u64, u32)> = None;
    let mut at = BLOCK;
    while at + BLOCK <= file.len() {
        let batch = &mut file[at..];
        if &batch[4..8] != b"CWb1" {
            at += BLOCK;
            continue;
        }
        let position = segment.base.wrapping_add(at as u64);
        if relink {
            batch[8..16].copy_from_slice(&position.to_le_bytes());
            batch[16..24].copy_from_slice(&segment.generation.to_le_bytes());
            if let Some((end, sum)) = prev {
                batch[24..32].copy_from_slice(&end.to_le_bytes());
                batch[48..52].copy_from_slice(&sum.to_le_bytes());
            }
        }
        mend_batch(batch, segment.seed());
        let length = u32_at(batch, 52).map_or(0, |length| length as usize);
        let padded = length.clamp(1, batch.len()).next_multiple_of(BLOCK);
        prev = u32_at(batch, 0).map(|sum| (position.wrapping_add(padded as u64), sum));
        at += padded;
    }
    mend_summary(file, &segment);
}

/// Makes the checksum of what may be a segment's summary right.
fn mend_summary(file: &mut [u8], segment: &Segment) {
    let at = segment.bytes.checked_sub(segment.summary).map_or(usize::MAX, |at| at as usize);
    let Some(bytes) = file.get_mut(at..) else { return };
    if bytes.get(4..8) != Some(b"CWs1") || bytes.len() < SUMMARY_HEAD {
        return;
    }
    let owner = u32_at(bytes, 80).map_or(0, |owner| owner as usize);
    let Some(used) = bytes.get(4..SUMMARY_HEAD + owner) else { return };
    let sum = crc(segment.seed(), used).to_le_bytes();
    bytes[..4].copy_from_slice(&sum);
}
