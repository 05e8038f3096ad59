//! The summary at the end of a sealed segment: what a restart has to know of it without reading it.
//!
//! ```text
//! 0        4096                                  bytes - summary_bytes      bytes
//! +--------+---------+-- ... --+------------------+---------------------------+
//! | header | batch   | batch   | unused           | summary | unused          |
//! +--------+---------+-- ... --+------------------+---------------------------+
//! ```
//!
//! It is no part of the chain of batches and nothing rests on it: it is written once, when everything in
//! the segment is durable, without a flush, and a segment without one is read batch by batch. So a summary
//! that is not whole is no damage, and a failed write of one is no failure.
//!
//! A summary is believed only if the segment's seed, its place and its checksum are right, **and** the first
//! batch of the next segment of the same generation names the end and the checksum of the last batch that the
//! summary speaks of ([`Scan`](crate::scan::Scan) looks at that).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::format::{
    self, BatchHeader, Chain, FIRST_BATCH_OFFSET, FLAG_CLOSE, FLAGS_KNOWN, SegmentId,
};
use crate::limits::{BLOCK_BYTES, RECORD_HEADER_BYTES};
use crate::{AlignedBuf, Lsn};

const MAGIC: u32 = u32::from_le_bytes(*b"CWs1");

/// Bytes before the owner's.
pub(crate) const SUMMARY_HEADER_BYTES: usize = size_of::<RawSummary>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawSummary {
    checksum: U32,
    magic: U32,
    /// Position of the summary itself.
    position: U64,
    batches: U64,
    records: U64,
    bytes: U64,
    durable: U64,
    last_position: U64,
    last_end: U64,
    last_trimmed: U64,
    last_checksum: U32,
    last_flags: U32,
    owner_bytes: U32,
    reserved: U32,
}

const _: () = assert!(SUMMARY_HEADER_BYTES == 88);
const _: () = assert!(SUMMARY_HEADER_BYTES < BLOCK_BYTES);

/// What later batches and the end of a log are judged by: its last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) position: Lsn,
    pub(crate) chain: Chain,
    pub(crate) trimmed: Lsn,
    pub(crate) flags: u32,
}

impl Last {
    pub(crate) fn of(header: &BatchHeader) -> Self {
        let BatchHeader { position, trimmed, flags, .. } = *header;
        Self { position, chain: header.chain(), trimmed, flags }
    }
}

/// The batches of one segment, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) batches: u64,
    pub(crate) records: u64,
    /// With padding.
    pub(crate) bytes: u64,
    /// The furthest position that one of them says was durable.
    pub(crate) durable: Lsn,
    pub(crate) last: Last,
}

impl Tally {
    /// That of a segment whose first batch this is.
    pub(crate) fn begin(header: &BatchHeader) -> Self {
        Self {
            batches: 1,
            records: u64::from(header.records),
            bytes: header.padded_bytes() as u64,
            durable: header.durable,
            last: Last::of(header),
        }
    }

    /// Counts the next batch.
    pub(crate) fn add(&mut self, header: &BatchHeader) {
        let one = Self::begin(header);
        self.batches += 1;
        self.records += one.records;
        self.bytes += one.bytes;
        self.durable = self.durable.max(one.durable);
        self.last = one.last;
    }

    /// Whether segment `id` can hold this. All sums of it are in range then.
    fn is_sane(&self, id: &SegmentId) -> bool {
        let Last { position, chain, trimmed, flags } = self.last;
        let first = id.lsn(FIRST_BATCH_OFFSET);
        let block = BLOCK_BYTES as u64;
        first <= position
            && position < chain.end
            && chain.end <= id.lsn(id.batches_end())
            && position.0.is_multiple_of(block)
            && chain.end.0.is_multiple_of(block)
            && self.bytes == chain.end.0 - first.0
            && (1..=self.bytes / block).contains(&self.batches)
            && self.records <= self.bytes / RECORD_HEADER_BYTES as u64
            && self.durable <= position
            && trimmed <= self.durable
            && flags & !FLAGS_KNOWN == 0
            // Nothing follows an orderly end in its generation, so its segment is not sealed.
            && flags & FLAG_CLOSE == 0
    }
}

/// The most bytes of its owner that a summary of segment `id` holds.
pub(crate) fn owner_bytes_max(id: &SegmentId) -> usize {
    (id.summary_bytes as usize).saturating_sub(SUMMARY_HEADER_BYTES)
}

/// The summary of segment `id`, as it is written at [`SegmentId::batches_end`]. `owner` is at most
/// [`owner_bytes_max`] long.
pub(crate) fn encode(id: &SegmentId, tally: &Tally, owner: &[u8]) -> AlignedBuf {
    assert!(owner.len() <= owner_bytes_max(id), "a summary of {} bytes", owner.len());
    let raw = RawSummary {
        checksum: U32::ZERO,
        magic: U32::new(MAGIC),
        position: U64::new(id.lsn(id.batches_end()).0),
        batches: U64::new(tally.batches),
        records: U64::new(tally.records),
        bytes: U64::new(tally.bytes),
        durable: U64::new(tally.durable.0),
        last_position: U64::new(tally.last.position.0),
        last_end: U64::new(tally.last.chain.end.0),
        last_trimmed: U64::new(tally.last.trimmed.0),
        last_checksum: U32::new(tally.last.chain.checksum),
        last_flags: U32::new(tally.last.flags),
        owner_bytes: U32::new(owner.len() as u32),
        reserved: U32::ZERO,
    };
    let used = SUMMARY_HEADER_BYTES + owner.len();
    let mut buf = AlignedBuf::zeroed(used);
    buf[..SUMMARY_HEADER_BYTES].copy_from_slice(raw.as_bytes());
    buf[SUMMARY_HEADER_BYTES..used].copy_from_slice(owner);
    let sum = format::checksum(id.seed, &buf[4..used]);
    buf[..4].copy_from_slice(&sum.to_le_bytes());
    buf
}

/// How many bytes the summary that begins with `block` takes, header included, if it looks like one of
/// segment `id`.
pub(crate) fn used_bytes(block: &[u8], id: &SegmentId) -> Option<usize> {
    let (raw, _) = RawSummary::read_from_prefix(block).ok()?;
    let owner_bytes = raw.owner_bytes.get() as usize;
    let ours = raw.magic.get() == MAGIC
        && raw.position.get() == id.lsn(id.batches_end()).0
        && owner_bytes <= owner_bytes_max(id);
    ours.then_some(SUMMARY_HEADER_BYTES + owner_bytes)
}

/// Reads the summary of segment `id`: what it counts, and its owner's bytes. `None` unless it is whole.
pub(crate) fn decode<'a>(bytes: &'a [u8], id: &SegmentId) -> Option<(Tally, &'a [u8])> {
    let bytes = bytes.get(..used_bytes(bytes, id)?)?;
    let (raw, owner) = RawSummary::read_from_prefix(bytes).ok()?;
    if raw.checksum.get() != format::checksum(id.seed, &bytes[4..]) {
        return None;
    }
    let tally = Tally {
        batches: raw.batches.get(),
        records: raw.records.get(),
        bytes: raw.bytes.get(),
        durable: Lsn(raw.durable.get()),
        last: Last {
            position: Lsn(raw.last_position.get()),
            chain: Chain { end: Lsn(raw.last_end.get()), checksum: raw.last_checksum.get() },
            trimmed: Lsn(raw.last_trimmed.get()),
            flags: raw.last_flags.get(),
        },
    };
    tally.is_sane(id).then_some((tally, owner))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(generation: u64) -> SegmentId {
        SegmentId::new(&[7; 16], generation, 5, Lsn(0x40000), 16 * BLOCK_BYTES as u64)
    }

    fn tally(id: &SegmentId) -> Tally {
        let position = id.lsn(2 * FIRST_BATCH_OFFSET);
        let chain = Chain { end: id.lsn(4 * FIRST_BATCH_OFFSET), checksum: 99 };
        let last = Last { position, chain, trimmed: Lsn(1), flags: 0 };
        Tally { batches: 2, records: 9, bytes: 3 * BLOCK_BYTES as u64, durable: Lsn(3), last }
    }

    #[test]
    fn a_summary_is_read_back() {
        let id = id(1);
        let most = vec![5; owner_bytes_max(&id)];
        for owner in [&[][..], b"of the owner", &most] {
            let bytes = encode(&id, &tally(&id), owner);
            assert!(bytes.len() as u64 <= id.summary_bytes);
            assert_eq!(used_bytes(&bytes, &id), Some(SUMMARY_HEADER_BYTES + owner.len()));
            assert_eq!(decode(&bytes, &id), Some((tally(&id), owner)));
        }
    }

    #[test]
    fn no_changed_byte_and_no_other_use_of_the_file_passes() {
        let (id, other) = (id(1), id(2));
        let owner = b"of the owner";
        let mut bytes = encode(&id, &tally(&id), owner);
        assert_eq!(decode(&bytes, &other), None);
        assert_eq!(decode(&bytes[..SUMMARY_HEADER_BYTES + 3], &id), None);
        assert_eq!(decode(&bytes[..20], &id), None);
        for at in 0..SUMMARY_HEADER_BYTES + owner.len() {
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes, &id), None, "byte {at}");
            bytes[at] ^= 1;
        }
        assert!(decode(&bytes, &id).is_some());
    }

    #[test]
    fn counts_that_no_segment_can_have_are_refused() {
        let id = id(1);
        let good = tally(&id);
        let end = |end| Last { chain: Chain { end, checksum: 1 }, ..good.last };
        for bad in [
            Tally { batches: 0, ..good },
            Tally { batches: 4, ..good },
            Tally { records: u64::MAX, ..good },
            Tally { bytes: good.bytes + 4096, ..good },
            Tally { durable: Lsn(u64::MAX), ..good },
            Tally { last: end(Lsn(u64::MAX)), ..good },
            Tally { last: end(id.base), ..good },
            Tally { last: Last { position: Lsn(0), ..good.last }, ..good },
            Tally { last: Last { trimmed: Lsn(4), ..good.last }, ..good },
            Tally { last: Last { flags: FLAG_CLOSE, ..good.last }, ..good },
        ] {
            assert_eq!(decode(&encode(&id, &bad, b""), &id), None, "{bad:?}");
        }
    }
}
