//! Reads of one shard, and how they see keys that expire.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::expiry::ExpiryReport;
use super::keyspace::{Item, Keyspace};
use super::op::{Head, List, Read, TtlForm};
use super::{TIME_MUST_ADVANCE, glob};
use crate::server::cluster::slot_of;
use crate::server::limits::{REPLY_BYTES_MAX, SCAN_COUNT_MAX};
use crate::server::resp::Writer;

/// The pattern that matches everything.
pub const GLOB_ANY: &[u8] = b"*";

const TOO_LARGE: &str = "ERR the reply would be larger than 64 MiB, ask for less at a time";

/// The answer would need the log time to be at the reader's clock.
#[derive(Debug)]
struct TimeMustAdvance;

/// The times between which a read has to decide what is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    log_time_ms: u64,
    now_ms: u64,
    stale: bool,
}

impl Moment {
    /// A query at a reader's clock.
    pub(super) fn new(log_time_ms: u64, head: &Head) -> Self {
        Self { log_time_ms, now_ms: head.now_ms.max(log_time_ms), stale: head.stale }
    }

    /// A read that is in the log.
    pub(super) fn at_log_time(log_time_ms: u64) -> Self {
        Self { log_time_ms, now_ms: log_time_ms, stale: false }
    }

    fn live<'k>(
        &self,
        keys: &'k Keyspace,
        key: &[u8],
    ) -> Result<Option<&'k Item>, TimeMustAdvance> {
        match keys.get(key) {
            Some(item) if !item.is_due(self.now_ms) => Ok(Some(item)),
            #[cfg(not(mutant = "expired-key-returns"))]
            Some(item) if !self.stale && !item.is_due(self.log_time_ms) => Err(TimeMustAdvance),
            _ => Ok(None),
        }
    }

    /// For reads that look at all keys.
    fn settled(&self, keys: &Keyspace) -> Result<(), TimeMustAdvance> {
        if !self.stale && keys.any_due_between(self.log_time_ms, self.now_ms) {
            return Err(TimeMustAdvance);
        }
        Ok(())
    }
}

/// Answers a read.
pub(super) fn execute(keys: &Keyspace, moment: Moment, read: Read<'_>, out: &mut Writer<'_>) {
    let start = out.written();
    if answer(keys, moment, read, out).is_err() {
        out.rewind(start);
        out.raw(TIME_MUST_ADVANCE);
    }
}

fn answer(
    keys: &Keyspace,
    moment: Moment,
    read: Read<'_>,
    out: &mut Writer<'_>,
) -> Result<(), TimeMustAdvance> {
    match read {
        Read::Get { key } => match moment.live(keys, key)? {
            Some(item) => out.bulk(&item.value),
            None => out.null(),
        },
        Read::MGet { keys: asked } => many(keys, moment, asked, out)?,
        Read::StrLen { key } => out.count(moment.live(keys, key)?.map_or(0, |i| i.value.len())),
        Read::GetRange { key, start, end } => {
            let item = moment.live(keys, key)?;
            out.bulk(item.map_or(&[], |item| range(&item.value, start, end)));
        }
        Read::Exists { keys: asked } => {
            let mut count = 0;
            for key in asked.iter() {
                count += usize::from(moment.live(keys, key)?.is_some());
            }
            out.count(count);
        }
        Read::Ttl { key, form } => out.integer(match moment.live(keys, key)? {
            None => -2,
            Some(item) => ttl(item, form, moment.now_ms),
        }),
        Read::Type { key } => {
            out.simple(if moment.live(keys, key)?.is_some() { "string" } else { "none" });
        }
        Read::Keys { pattern } => all_keys(keys, moment, pattern, out)?,
        Read::Scan { below, count, pattern } => {
            moment.settled(keys)?;
            scan(keys, moment, below, count, pattern, out);
        }
        Read::RandomKey { random } => {
            moment.settled(keys)?;
            match random_key(keys, moment, random) {
                Some(key) => out.bulk(key),
                None => out.null(),
            }
        }
        Read::Size => out.count(keys.len()),
        Read::CountInSlot { slot } => out.count(keys.in_slot(slot)),
        Read::KeysInSlot { slot, count } => {
            moment.settled(keys)?;
            keys_in_slot(keys, moment, slot, count, out);
        }
        Read::Expiring => {
            let mut report = BytesMut::new();
            ExpiryReport::of(keys).encode(&mut report);
            out.raw(&report);
        }
    }
    Ok(())
}

fn many(
    keys: &Keyspace,
    moment: Moment,
    asked: List<'_>,
    out: &mut Writer<'_>,
) -> Result<(), TimeMustAdvance> {
    let start = out.written();
    out.array(asked.len());
    for key in asked.iter() {
        match moment.live(keys, key)? {
            Some(item) => out.bulk(&item.value),
            None => out.null(),
        }
        if out.written() - start > REPLY_BYTES_MAX {
            out.rewind(start);
            out.error(TOO_LARGE);
            break;
        }
    }
    Ok(())
}

/// The part of `value` from `start` to `end`, both included; negative positions count from the end.
fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = value.len() as i64;
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let from_end = |position: i64| match position {
        position if position < 0 => position.saturating_add(length).max(0),
        position => position,
    };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    if start > end || length == 0 {
        return &[];
    }
    // Both are in 0..length here.
    &value[start as usize..=end as usize]
}

fn ttl(item: &Item, form: TtlForm, now_ms: u64) -> i64 {
    let Some(deadline) = item.deadline_ms else { return -1 };
    let remaining = deadline.saturating_sub(now_ms);
    let number = match form {
        TtlForm::Seconds => remaining.saturating_add(500) / 1000,
        TtlForm::Millis => remaining,
        TtlForm::AtSeconds => deadline.saturating_add(500) / 1000,
        TtlForm::AtMillis => deadline,
    };
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn all_keys(
    keys: &Keyspace,
    moment: Moment,
    pattern: &[u8],
    out: &mut Writer<'_>,
) -> Result<(), TimeMustAdvance> {
    moment.settled(keys)?;
    let found = || {
        keys.iter()
            .filter(|(_, item)| !item.is_due(moment.now_ms))
            .map(|(key, _)| key)
            .filter(|key| pattern == GLOB_ANY || glob::matches(pattern, key))
    };
    let (count, bytes) =
        found().fold((0, 0), |(count, bytes), key| (count + 1, bytes + key.len() + 16));
    if bytes > REPLY_BYTES_MAX {
        out.error(TOO_LARGE);
        return Ok(());
    }
    out.array(count);
    found().for_each(|key| out.bulk(key));
    Ok(())
}

/// One step of a scan: the keys found and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// The next step looks below this position; 0 when the shard is done.
    pub below: u64,
    /// Keys found.
    pub keys: u64,
    /// The keys, each as a RESP bulk string.
    pub encoded: Bytes,
}

impl ScanPage {
    /// Reads what [`Read::Scan`] answered; `None` if it is no such answer.
    #[must_use]
    pub fn decode(mut answer: Bytes) -> Option<Self> {
        let below = answer.try_get_u64_le().ok()?;
        let keys = answer.try_get_u64_le().ok()?;
        Some(Self { below, keys, encoded: answer })
    }
}

fn scan(
    keys: &Keyspace,
    moment: Moment,
    below: u64,
    count: u64,
    pattern: &[u8],
    out: &mut Writer<'_>,
) {
    let top = usize::try_from(below).unwrap_or(usize::MAX).min(keys.len());
    let steps = usize::try_from(count).unwrap_or(usize::MAX).clamp(1, SCAN_COUNT_MAX);
    let bottom = top.saturating_sub(steps);
    let mut found = BytesMut::new();
    let mut number = 0_u64;
    for position in (bottom..top).rev() {
        let Some((key, item)) = keys.at(position) else { continue };
        if !item.is_due(moment.now_ms) && (pattern == GLOB_ANY || glob::matches(pattern, key)) {
            Writer::new(&mut found, out.protocol()).bulk(key);
            number += 1;
        }
    }
    let mut head = BytesMut::with_capacity(16);
    head.put_u64_le(bottom as u64);
    head.put_u64_le(number);
    out.raw(&head);
    out.raw(&found);
}

fn random_key(keys: &Keyspace, moment: Moment, random: u64) -> Option<&Bytes> {
    let length = keys.len();
    // Due keys that are not removed yet lie anywhere: go on to the next one.
    let start = usize::try_from(random % (length.max(1) as u64)).unwrap_or(0);
    (0..length)
        .filter_map(|step| keys.at((start + step) % length))
        .find(|(_, item)| !item.is_due(moment.now_ms))
        .map(|(key, _)| key)
}

fn keys_in_slot(keys: &Keyspace, moment: Moment, slot: u16, count: u64, out: &mut Writer<'_>) {
    let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(keys.in_slot(slot));
    let found: Vec<&Bytes> = keys
        .iter()
        .filter(|(key, item)| slot_of(key) == slot && !item.is_due(moment.now_ms))
        .map(|(key, _)| key)
        .take(wanted)
        .collect();
    out.array(found.len());
    found.into_iter().for_each(|key| out.bulk(key));
}
