//! A plain model of a log: what was appended, what was promised, and whether an opening keeps to it.

use std::hash::{DefaultHasher, Hasher};

use coracle_wal::{Disk, Lsn, OpenError, Record, Wal};

/// A promise that the log has broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub message: String,
}

/// What was appended since the log began.
#[derive(Default)]
pub struct Model {
    /// Records that the log must have, or may have lost since they were not acknowledged.
    pub records: Vec<Vec<u8>>,
    /// Where each ends.
    pub lsns: Vec<Lsn>,
    /// Counts of records at which a group ends.
    pub group_ends: Vec<usize>,
    /// Digest of every record that was ever appended, by its number; also of those that were cut off.
    ever: Vec<u64>,
    /// What ends before has been given up.
    pub trimmed: Lsn,
    /// How many records were said to be durable.
    pub acknowledged: usize,
    /// How often the log was opened, with success or without.
    pub openings: u64,
    /// Why the last opening failed.
    pub refused: Option<OpenError>,
    /// The first broken promise.
    pub finding: Option<Finding>,
}

impl Model {
    /// Keeps the first broken promise.
    pub fn report(&mut self, invariant: &'static str, message: String) {
        self.finding.get_or_insert(Finding { invariant, message });
    }

    /// Appends a group of so many records, of about this size.
    pub fn append<D: Disk>(&mut self, wal: &Wal<D>, records: usize, len: usize) {
        // Numbers are never used again, so that a record that comes back from the dead is noticed.
        let bodies: Vec<Vec<u8>> = (self.ever.len() as u64..)
            .take(records)
            .map(|number| {
                let mut bytes = number.to_le_bytes().to_vec();
                bytes.resize(8 + (len + number as usize % records * 37) % 9000, number as u8);
                bytes
            })
            .collect();
        self.ever.extend(bodies.iter().map(|body| digest(body)));
        let group: Vec<Record<'_>> = bodies
            .iter()
            .map(|body| Record { stream: 3, kind: 1, head: &body[..4], body: &body[4..] })
            .collect();
        if let Ok(lsn) = wal.append(&group).map(|appended| appended.end) {
            self.lsns.extend(std::iter::repeat_n(lsn, records));
            self.records.extend(bodies);
            self.group_ends.push(self.records.len());
        }
    }

    /// The log says that all up to `durable` is durable.
    pub fn acknowledge(&mut self, durable: Lsn) {
        let acknowledged = self.lsns.partition_point(|lsn| *lsn <= durable);
        if acknowledged < self.acknowledged {
            self.report("durability", format!("{durable} takes back an acknowledgement"));
        }
        self.acknowledged = acknowledged;
    }

    /// How many records have been given up.
    pub fn given_up(&self) -> usize {
        self.lsns.partition_point(|lsn| *lsn < self.trimmed)
    }

    /// Checks what an opening found, and goes on from there.
    pub fn check(&mut self, found: &[(Vec<u8>, Lsn)]) {
        let given_up = self.given_up();
        let start = match found.first() {
            Some((first, _)) => self.records.iter().position(|record| record == first),
            None => Some(self.records.len().min(given_up)),
        };
        let Some(start) = start else {
            return self.report("prefix", "the first record was never appended".to_owned());
        };
        let end = start + found.len();
        let same = |(found, model): (&(Vec<u8>, Lsn), &Vec<u8>)| found.0 == *model;
        if end > self.records.len() || !found.iter().zip(&self.records[start..]).all(same) {
            return self.report("prefix", "what was found is not what was appended".to_owned());
        }
        if start > given_up {
            let message = format!("begins with record {start}, only {given_up} were given up");
            return self.report("prefix", message);
        }
        if end != 0 && !self.group_ends.contains(&end) {
            return self.report("prefix", format!("a group is torn at record {end}"));
        }
        if end < self.acknowledged {
            let message = format!("{end} records found, {} acknowledged", self.acknowledged);
            return self.report("durability", message);
        }
        self.records.truncate(end);
        self.group_ends.retain(|group_end| *group_end <= end);
        // What was found is promised from here on, like what was acknowledged.
        self.acknowledged = end;
        self.lsns.truncate(end);
        for (lsn, found) in self.lsns[start..].iter_mut().zip(found) {
            *lsn = (*lsn).max(found.1);
        }
    }

    /// Checks what is left of a damaged log: whatever is found was appended, in that order. It may have
    /// been cut off since, if it was damage that made it come back.
    pub fn check_rest(&mut self, found: &[(Vec<u8>, Lsn)]) {
        let mut next = 0;
        let appended = found.iter().all(|(payload, _)| {
            let number = payload.get(..8).and_then(|bytes| bytes.try_into().ok());
            let number = number.map_or(usize::MAX, |bytes| u64::from_le_bytes(bytes) as usize);
            let in_order = number >= std::mem::replace(&mut next, number.saturating_add(1));
            in_order && self.ever.get(number) == Some(&digest(payload))
        });
        if !appended {
            let message = "a damaged log gives records that were not appended so".to_owned();
            self.report("damage", message);
        }
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
