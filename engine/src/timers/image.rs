//! Timers in snapshots: written ahead of the machine's chunks, read from any cut of them.
//!
//! ```text
//! image = "CTI1" | limits (3 numbers) | timers | timer ... | crc32 u32 LE
//! timer = id - id of the one before (the first: id) | time, ms since 1970 | length | so many bytes
//! ```
//! All numbers are LEB128 in their shortest form. Timers are in the order of their ids, so equal tables give equal
//! images. The checksum is of all bytes before it. The image ends with a chunk; the chunks of the machine follow. The
//! limits are together in the first chunk.

use std::vec;

use bytes::{BufMut, Bytes};

use super::TimerId;
use super::bounds::TimerLimits;
use super::table::{Table, Timer};
use crate::SnapshotError;
use crate::layer::{CutOff, Parse, Records, take, varint};
use crate::limits::{TIMER_PAYLOAD_BYTES_MAX, TIMERS_MAX};

/// The timers of a moment, on their way into an image.
pub(super) struct TimerRecords {
    /// The first record, until it is written.
    head: Option<Vec<u8>>,
    timers: vec::IntoIter<(TimerId, Timer)>,
    last: TimerId,
}

impl TimerRecords {
    /// Takes the timers as they are now, with a pointer for each.
    pub(super) fn new(table: &Table) -> Self {
        let mut timers = table.share();
        if cfg!(mutant = "timers-dropped-by-snapshot") {
            timers.clear();
        }
        let mut head = TimerParse::MAGIC.to_vec();
        table.limits().encode(&mut head);
        varint::put(&mut head, timers.len() as u64);
        Self { head: Some(head), timers: timers.into_iter(), last: TimerId(0) }
    }
}

impl Records for TimerRecords {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(head) = self.head.take() {
            *out = head;
            return true;
        }
        let Some((id, timer)) = self.timers.next() else { return false };
        let numbers = [id.0 - self.last.0, timer.at_ms, timer.payload.len() as u64];
        numbers.into_iter().for_each(|number| varint::put(out, number));
        out.put_slice(&timer.payload);
        self.last = id;
        true
    }
}

/// Timers on their way out of an image.
#[derive(Debug, Default)]
pub(super) struct TimerParse {
    table: Table,
    /// So many timers are to come; `None` before the first record.
    lacks: Option<u64>,
    last: u64,
}

impl Parse for TimerParse {
    const MAGIC: &'static [u8; 4] = b"CTI1";
    const NAME: &'static str = "its timers";
    type State = Table;

    fn record(&mut self, rest: &mut &[u8]) -> Result<Result<(), CutOff>, SnapshotError> {
        let Some(lacks) = &mut self.lacks else {
            if rest.split_off(..4).unwrap_or_default() != Self::MAGIC {
                return Err(Self::damaged("they do not start with CTI1"));
            }
            let limits = match TimerLimits::take(rest) {
                Ok(limits) => limits,
                Err(_) => return Err(Self::damaged("their limits are cut off")),
            };
            if let Some(flaw) = limits.flaw() {
                return Err(Self::damaged(&flaw));
            }
            let timers = take!(rest);
            // There may be more than the limits allow now.
            if timers > TIMERS_MAX {
                return Err(Self::damaged("there are too many"));
            }
            self.table = Table::restored(limits);
            self.lacks = Some(timers);
            return Ok(Ok(()));
        };
        let (behind, at_ms, length) = (take!(rest), take!(rest), take!(rest));
        let id = self.last.checked_add(behind).filter(|id| *id > self.last);
        let id = id.ok_or_else(|| Self::damaged("one is not where it belongs"))?;
        if length > TIMER_PAYLOAD_BYTES_MAX {
            return Err(Self::damaged("a payload is too large"));
        }
        let Some(payload) = rest.split_off(..length as usize) else { return Ok(Err(CutOff)) };
        let payload = Bytes::copy_from_slice(payload);
        self.table.insert(TimerId(id), Timer { at_ms, payload });
        self.last = id;
        *lacks -= 1;
        Ok(Ok(()))
    }

    fn is_whole(&self) -> bool {
        self.lacks == Some(0)
    }

    fn finish(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::layer::testing::{assert_changes_are_noticed, chunks, come_back};

    fn table() -> Table {
        let mut table = Table::default();
        for (id, at_ms) in [(3, 5), (4, u64::MAX), (900, 0)] {
            table.set(TimerId(id), at_ms, &vec![7; id as usize]).unwrap();
        }
        table.assert_whole();
        table
    }

    #[test]
    fn an_image_is_these_bytes() {
        let mut table = Table::restored(TimerLimits { timers: 5, payload_bytes: 6, bytes: 777 });
        assert_eq!(table.set(TimerId(300), 129, b"ab"), Ok(()));
        table.configure(TimerLimits { timers: 1, payload_bytes: 2, bytes: 3 });
        table.insert(TimerId(301), Timer { at_ms: 0, payload: Bytes::new() });
        let image = chunks(TimerRecords::new(&table), 4096).concat();
        let (records, crc) = image.split_last_chunk::<4>().unwrap();
        assert_eq!(records, b"CTI1\x01\x02\x03\x02\xac\x02\x81\x01\x02ab\x01\x00\x00");
        assert_eq!(*crc, crc32fast::hash(records).to_le_bytes());
    }

    #[test]
    fn tables_come_back_from_chunks_of_any_size() {
        for table in [table(), Table::default()] {
            for back in come_back::<TimerParse, _>(&table, TimerRecords::new) {
                back.assert_whole();
            }
        }
    }

    #[test]
    fn whatever_is_changed_in_an_image_is_noticed() {
        let image = chunks(TimerRecords::new(&table()), 4096).concat();
        assert_changes_are_noticed::<TimerParse>(&image);
    }
}
