//! Changes of one shard. Everything here is deterministic: it sees the keys, the entry and the log
//! time, and nothing else.

use bytes::{Bytes, BytesMut};

use super::float::Extended;
use super::keyspace::{Item, Keyspace};
use super::op::{Expiry, List, SetIf, SetReply, Write, expire_if};
use crate::server::limits::BULK_BYTES_MAX;
use crate::server::resp::{Writer, parse_i64};

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_A_FLOAT: &str = "ERR value is not a valid float";
const OVERFLOW: &str = "ERR increment or decrement would overflow";
const NOT_FINITE: &str = "ERR increment would produce NaN or Infinity";
const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
const NO_KEY: &str = "ERR no such key";

/// Applies a change and writes its reply.
pub(super) fn execute(keys: &mut Keyspace, now_ms: u64, write: Write<'_>, out: &mut Writer<'_>) {
    let mut change = Change { keys, now_ms };
    match write {
        Write::Set { key, value, expiry, when, reply } => {
            change.set(key, value, expiry, (when, reply), out);
        }
        Write::GetDel { key } => {
            change.reply_value(key, out);
            change.keys.remove(key);
        }
        Write::GetEx { key, expiry } => {
            change.reply_value(key, out);
            if expiry != Expiry::Keep && change.live(key).is_some() {
                change.set_deadline(key, expiry.deadline_ms(now_ms));
            }
        }
        Write::MSet { pairs, only_if_all_absent } => change.mset(pairs, only_if_all_absent, out),
        Write::Append { key, value } => change.append(key, value, out),
        Write::SetRange { key, offset, value } => change.set_range(key, offset, value, out),
        Write::IncrBy { key, delta } => change.incr_by(key, delta, out),
        Write::IncrByFloat { key, delta } => change.incr_by_float(key, delta, out),
        Write::Del { keys } => out.count(keys.iter().filter(|key| change.delete(key)).count()),
        Write::Expire { key, expiry, conditions } => {
            out.integer(change.expire(key, expiry, conditions).into());
        }
        Write::Persist { key } => {
            let expires = change.live(key).is_some_and(|item| item.deadline_ms.is_some());
            if expires {
                change.keys.set_deadline(key, None);
            }
            out.integer(expires.into());
        }
        Write::Rename { from, to, only_if_absent } => change.rename(from, to, only_if_absent, out),
        Write::Copy { from, to, replace } => out.integer(change.copy(from, to, replace).into()),
        Write::Flush => {
            change.keys.clear();
            out.ok();
        }
    }
}

struct Change<'k> {
    keys: &'k mut Keyspace,
    now_ms: u64,
}

impl Change<'_> {
    fn live(&self, key: &[u8]) -> Option<&Item> {
        self.keys.live(key, self.now_ms)
    }

    fn reply_value(&self, key: &[u8], out: &mut Writer<'_>) {
        match self.live(key) {
            Some(item) => out.bulk(&item.value),
            None => out.null(),
        }
    }

    /// Puts a key, or removes it if the new deadline has passed already.
    fn put(&mut self, key: &[u8], value: Bytes, deadline_ms: Option<u64>) {
        self.keys.put(key, value, deadline_ms);
        self.remove_if_past(key, deadline_ms);
    }

    fn set_deadline(&mut self, key: &[u8], deadline_ms: Option<u64>) {
        self.keys.set_deadline(key, deadline_ms);
        self.remove_if_past(key, deadline_ms);
    }

    fn remove_if_past(&mut self, key: &[u8], deadline_ms: Option<u64>) {
        if deadline_ms.is_some_and(|deadline| deadline <= self.now_ms) {
            self.keys.remove(key);
        }
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let there = self.live(key).is_some();
        self.keys.remove(key);
        there
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        (when, reply): (SetIf, SetReply),
        out: &mut Writer<'_>,
    ) {
        let known = match (when, reply, expiry) {
            // The usual SET need not look first.
            (SetIf::Always, SetReply::Status, Expiry::Never | Expiry::After(_) | Expiry::At(_)) => {
                None
            }
            _ => self.live(key),
        };
        let met = match when {
            SetIf::Always => true,
            SetIf::Absent => known.is_none(),
            SetIf::Present => known.is_some(),
        };
        let kept_deadline = known.and_then(|item| item.deadline_ms);
        match (reply, met) {
            (SetReply::Old, _) => self.reply_value(key, out),
            (SetReply::Status, true) => out.ok(),
            (SetReply::Status, false) => out.null(),
            (SetReply::Flag, _) => out.integer(met.into()),
        }
        if met {
            let deadline_ms = match expiry {
                Expiry::Keep => kept_deadline,
                other => other.deadline_ms(self.now_ms),
            };
            self.put(key, Bytes::copy_from_slice(value), deadline_ms);
        }
    }

    fn mset(&mut self, pairs: List<'_>, only_if_all_absent: bool, out: &mut Writer<'_>) {
        if only_if_all_absent && pairs.pairs().any(|(key, _)| self.live(key).is_some()) {
            return out.integer(0);
        }
        for (key, value) in pairs.pairs() {
            self.keys.put(key, Bytes::copy_from_slice(value), None);
        }
        if only_if_all_absent { out.integer(1) } else { out.ok() }
    }

    /// A live key's value to be changed in place, and its deadline. The caller puts both back.
    fn take(&mut self, key: &[u8]) -> (BytesMut, Option<u64>) {
        let Some(deadline_ms) = self.live(key).map(|item| item.deadline_ms) else {
            self.keys.remove(key);
            return (BytesMut::new(), None);
        };
        let value = self.keys.take_value(key);
        let value = value.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        (value, deadline_ms)
    }

    fn length(&self, key: &[u8]) -> usize {
        self.live(key).map_or(0, |item| item.value.len())
    }

    fn append(&mut self, key: &[u8], tail: &[u8], out: &mut Writer<'_>) {
        let bytes = self.length(key) + tail.len();
        if bytes > BULK_BYTES_MAX {
            return out.error(TOO_LONG);
        }
        let (mut value, deadline_ms) = self.take(key);
        value.extend_from_slice(tail);
        self.keys.put(key, value.freeze(), deadline_ms);
        out.count(bytes);
    }

    fn set_range(&mut self, key: &[u8], offset: u64, part: &[u8], out: &mut Writer<'_>) {
        let length = self.length(key);
        if part.is_empty() {
            return out.count(length);
        }
        let end = offset.saturating_add(part.len() as u64);
        if end > BULK_BYTES_MAX as u64 {
            return out.error(TOO_LONG);
        }
        // Both fit into usize: they are at most BULK_BYTES_MAX.
        let (offset, end) = (offset as usize, end as usize);
        let (mut value, deadline_ms) = self.take(key);
        if value.len() < end {
            value.resize(end, 0);
        }
        value[offset..end].copy_from_slice(part);
        out.count(value.len());
        self.keys.put(key, value.freeze(), deadline_ms);
    }

    fn incr_by(&mut self, key: &[u8], delta: i64, out: &mut Writer<'_>) {
        let (old, deadline_ms) = match self.live(key) {
            None => (0, None),
            Some(item) => match parse_i64(&item.value) {
                Some(number) => (number, item.deadline_ms),
                None => return out.error(NOT_AN_INTEGER),
            },
        };
        let Some(new) = old.checked_add(delta) else { return out.error(OVERFLOW) };
        let text = Bytes::copy_from_slice(itoa::Buffer::new().format(new).as_bytes());
        self.keys.put(key, text, deadline_ms);
        out.integer(new);
    }

    fn incr_by_float(&mut self, key: &[u8], delta: &[u8], out: &mut Writer<'_>) {
        let (old, deadline_ms) = match self.live(key) {
            None => (Some(Extended::ZERO), None),
            Some(item) => (Extended::parse(&item.value), item.deadline_ms),
        };
        let (Some(old), Some(delta)) = (old, Extended::parse(delta)) else {
            return out.error(NOT_A_FLOAT);
        };
        let Some(new) = old.checked_add(delta) else { return out.error(NOT_FINITE) };
        let text = new.to_string();
        out.text(&text);
        self.keys.put(key, Bytes::from(text.into_bytes().into_boxed_slice()), deadline_ms);
    }

    fn expire(&mut self, key: &[u8], expiry: Expiry, conditions: u8) -> bool {
        let Some(item) = self.live(key) else { return false };
        let (old, new) = (item.deadline_ms, expiry.deadline_ms(self.now_ms).unwrap_or(0));
        let forbidden = (conditions & expire_if::NX != 0 && old.is_some())
            || (conditions & expire_if::XX != 0 && old.is_none())
            // A key without expiry counts as one that expires infinitely late.
            || (conditions & expire_if::GT != 0 && old.is_none_or(|old| new <= old))
            || (conditions & expire_if::LT != 0 && old.is_some_and(|old| new >= old));
        if !forbidden {
            self.set_deadline(key, Some(new));
        }
        !forbidden
    }

    fn rename(&mut self, from: &[u8], to: &[u8], only_if_absent: bool, out: &mut Writer<'_>) {
        if self.live(from).is_none() {
            return out.error(NO_KEY);
        }
        if only_if_absent && self.live(to).is_some() {
            return out.integer(0);
        }
        if from != to
            && let Some(item) = self.keys.remove(from)
        {
            self.keys.put(to, item.value, item.deadline_ms);
        }
        if only_if_absent { out.integer(1) } else { out.ok() }
    }

    fn copy(&mut self, from: &[u8], to: &[u8], replace: bool) -> bool {
        let Some(item) = self.live(from).cloned() else { return false };
        if !replace && self.live(to).is_some() {
            return false;
        }
        self.keys.put(to, item.value, item.deadline_ms);
        true
    }
}
