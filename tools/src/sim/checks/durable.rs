//! What each core has on disk: follows the durable image of its log, record by record, and of its snapshots.
//!
//! What is durable of a shard is what a restart would make of it after a power cut: its log, and the newest
//! snapshot that has its name. Logs are kept from index 1 on here, also where a core's begins later: what lies
//! below a base is what was committed. A snapshot that the log does not lead to stands for all of it, as in
//! recovery ([`DurableShard::log`]).
//!
//! What a log has given up (the segments that its batches call trimmed) must not be needed any more: no
//! entry above its shard's base, no newest hard state or base. And no base is beyond the newest snapshot.
//! Of a replica that is damaged, only its hard state counts; one that returns may have a base without snapshot.

use std::collections::BTreeMap;

use coracle_engine::core::{LogRecord, decode_record};
use coracle_engine::raft::{HardState, Standing};
use coracle_engine::snapshot::Manifest;
use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use coracle_wal::Lsn;
use coracle_wal::follow::{DurableFiles, Follower};
use coracle_wal::limits::BLOCK_BYTES;

use super::chain::{Chain, hash_entry};
use super::violation::{Checked, Invariant, Violation, fail};

/// What was committed up to a position, if that was committed.
pub type History<'a> = &'a dyn Fn(ShardId, LogIndex, Term) -> Checked<Chain>;

/// What changed of a disk's durable content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes of some file.
    Bytes,
    /// Names; or anything at all.
    Names,
}

/// The durable content of one core's directory, as the simulated disk shows it.
pub trait DurableView: DurableFiles {
    /// Grows with every change; asked often, so it must be quick.
    fn version(&self) -> u64;
    /// What changed since the last call; `None` if nothing did. Names first.
    fn take_changes(&self) -> Option<Change>;
}

/// A shard as it is on one disk.
#[derive(Clone, Debug, Default)]
pub struct DurableShard {
    /// The newest hard state.
    pub hard_state: HardState,
    /// Its log, from index 1 on.
    pub log: Chain,
    /// Every vote that is, or was, in a hard state.
    pub votes: BTreeMap<Term, NodeId>,
    /// The newest snapshot: index and term.
    pub snapshot: Option<(LogIndex, Term)>,
    /// The snapshot's history, while the log does not lead to it.
    installed: Option<Chain>,
    base: LogIndex,
    /// Where the newest record of each entry is.
    places: Vec<Lsn>,
    hard_state_at: Option<Lsn>,
    base_at: Option<Lsn>,
}

impl DurableShard {
    /// Takes the next record, in the order of the log; it is in the batch at `batch`.
    ///
    /// # Errors
    /// A violation if no correct replica can have written it.
    pub fn take(
        &mut self,
        record: &LogRecord<'_>,
        batch: Lsn,
        history: &dyn Fn(LogIndex, Term) -> Checked<Chain>,
    ) -> Checked {
        match record {
            LogRecord::Entry { term, index, kind, payload } => {
                if *index > self.log.last().next() || index.0 == 0 {
                    let expected = format!("an entry at most one behind {}", self.log.last());
                    let violation =
                        Violation::new(Invariant::DurableRecords, expected, "a gap on disk");
                    return fail(violation.term(*term).index(*index));
                }
                self.log.cut_behind(index.prev());
                if *term < self.log.end().term {
                    let expected = format!("a term of at least {}", self.log.end().term);
                    let seen = "an entry of an earlier term behind it on disk";
                    let violation = Violation::new(Invariant::LogTerms, expected, seen);
                    return fail(violation.term(*term).index(*index));
                }
                self.log.push(*term, hash_entry(*kind, payload));
                self.note_places(batch);
                Ok(())
            }
            LogRecord::HardState(state) => {
                self.hard_state_at = Some(batch);
                self.take_hard_state(state)
            }
            LogRecord::Kept { term, index, kind, payload } => {
                let own = self.log.at(*index).filter(|_| *index > self.base);
                let same = own.is_some_and(|link| {
                    (link.term, link.hash) == (*term, hash_entry(*kind, payload))
                });
                // It may have been given up since it was read.
                if !same && *index > self.base {
                    let expected = format!("{}, written again", self.log.describe(*index));
                    let seen = format!("another one of term {term}");
                    let violation = Violation::new(Invariant::DurableRecords, expected, seen);
                    return fail(violation.index(*index));
                }
                if let (true, Some(place)) = (same, self.places.get_mut((index.0 - 1) as usize)) {
                    *place = batch;
                }
                Ok(())
            }
            LogRecord::Base(base) => {
                let (index, term) = (base.index, base.term);
                // A damaged replica may have an older snapshot, or none.
                if index < self.base && !(base.reset && self.is_returning()) {
                    let expected = format!("a base of at least {}", self.base);
                    let seen = format!("one at {index} on disk");
                    let violation = Violation::new(Invariant::DurableRecords, expected, seen);
                    return fail(violation.index(index));
                }
                if base.reset {
                    self.log = history(index, term)?;
                } else if self.log.at(index).is_none_or(|link| link.term != term) {
                    let expected = self.log.describe(index);
                    let seen = format!("a base of term {term} there");
                    let violation = Violation::new(Invariant::DurableRecords, expected, seen);
                    return fail(violation.index(index));
                }
                self.note_places(batch);
                (self.base, self.base_at) = (index, Some(batch));
                Ok(())
            }
        }
    }

    fn note_places(&mut self, batch: Lsn) {
        let last = usize::try_from(self.log.last().0).unwrap_or(usize::MAX);
        self.places.truncate(last.saturating_sub(1));
        self.places.resize(last, batch);
    }

    fn take_hard_state(&mut self, state: &HardState) -> Checked {
        let old = self.hard_state;
        if state.term < old.term {
            let expected = format!("a term of at least {}", old.term);
            let seen = format!("a hard state of term {} on disk", state.term);
            return fail(Violation::new(Invariant::TermMonotonic, expected, seen).term(state.term));
        }
        if state.term == old.term && old.vote.is_some() && state.vote != old.vote {
            let expected = format!("the vote for {:?} to stay", old.vote);
            let seen = format!("a vote for {:?} on disk", state.vote);
            return fail(
                Violation::new(Invariant::OneVotePerTerm, expected, seen).term(state.term),
            );
        }
        if state.commit > self.log.last() {
            let expected = format!("a commit index of at most {}", self.log.last());
            let seen = format!("{} on disk, before the entries that it names", state.commit);
            let violation = Violation::new(Invariant::DurableRecords, expected, seen);
            return fail(violation.term(state.term).index(state.commit));
        }
        if let Some(vote) = state.vote {
            self.votes.insert(state.term, vote);
        }
        self.hard_state = *state;
        Ok(())
    }

    /// The newest snapshot is this one now.
    fn take_snapshot(&mut self, snapshot: Option<(LogIndex, Term)>) {
        self.snapshot = snapshot;
        self.installed = None;
    }

    /// Holds the snapshot against the log, as recovery does.
    fn settle(&mut self, history: &dyn Fn(LogIndex, Term) -> Checked<Chain>) -> Checked {
        let newest = self.snapshot.map_or(LogIndex(0), |(index, _)| index);
        // A damaged replica may have no snapshot of what it has applied. It needs one before it is a member.
        if self.base > newest && !self.is_returning() {
            let expected = format!("a snapshot at {} or behind on disk", self.base);
            let seen = format!("a log that begins there, and one at {newest}");
            return fail(Violation::new(Invariant::LogNeeded, expected, seen).index(self.base));
        }
        let Some((index, term)) = self.snapshot else { return Ok(()) };
        if self.log.at(index).is_some_and(|link| link.term == term) {
            self.installed = None;
        } else if self.installed.is_none() {
            self.installed = Some(history(index, term)?);
        }
        Ok(())
    }

    /// Nothing that lies before `trimmed` may be needed.
    fn check_trimmed(&self, trimmed: Lsn) -> Checked {
        let gone = |at: Option<Lsn>| at.is_some_and(|at| at < trimmed);
        // What was found damaged is given up, all but the hard state.
        let damaged = self.hard_state.standing == Standing::DAMAGED;
        let base = if damaged { self.log.last() } else { self.base };
        let above = usize::try_from(base.0).unwrap_or(usize::MAX).min(self.places.len());
        let entry = self.places[above..].iter().position(|place| *place < trimmed);
        let seen = if let Some(entry) = entry {
            format!(
                "entry {} was in it, and the log begins behind {}",
                above + entry + 1,
                self.base
            )
        } else if gone(self.hard_state_at) {
            "the newest hard state was in it".to_owned()
        } else if self.base > LogIndex(0) && gone(self.base_at) && !damaged {
            format!("the newest base, {}, was in it", self.base)
        } else {
            return Ok(());
        };
        let expected = format!("nothing that counts in what was given up, before {trimmed}");
        fail(Violation::new(Invariant::LogNeeded, expected, seen))
    }

    /// What a restart would find after a power cut.
    #[must_use]
    pub fn log(&self) -> &Chain {
        self.installed.as_ref().unwrap_or(&self.log)
    }

    /// What the hard state would be after a restart.
    #[must_use]
    pub fn recovered(&self) -> HardState {
        let snapshot = self.snapshot.map_or(LogIndex(0), |(index, _)| index);
        let commit = self.hard_state.commit.max(snapshot).max(self.base).min(self.log().last());
        HardState { commit, ..self.hard_state }
    }

    /// Whether it has a hard state that says that it votes and counts.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.hard_state_at.is_some() && self.hard_state.standing == Standing::Member
    }

    /// Whether it has any hard state.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.hard_state_at.is_some()
    }

    /// Whether it has a hard state that says that it has lost its data.
    #[must_use]
    pub fn is_returning(&self) -> bool {
        matches!(self.hard_state.standing, Standing::Returning(_))
    }

    /// Whether the log that ends with this link is on disk: in the log, or as what the snapshot stands for.
    #[must_use]
    pub fn has(&self, index: LogIndex, chain: u64) -> bool {
        let same = |log: &Chain| log.at(index).is_some_and(|link| link.chain == chain);
        same(&self.log) || self.installed.as_ref().is_some_and(same)
    }

    /// Whether an entry of this term is on disk at this place, likewise.
    #[must_use]
    pub fn has_term(&self, index: LogIndex, term: Term) -> bool {
        let same = |log: &Chain| log.at(index).is_some_and(|link| link.term == term);
        same(&self.log) || self.installed.as_ref().is_some_and(same)
    }
}

/// The log of one core as it is on disk.
pub struct DurableLog {
    node: NodeId,
    log_id: [u8; 16],
    follower: Follower,
    view: Option<Box<dyn DurableView>>,
    version: u64,
    shards: BTreeMap<ShardId, DurableShard>,
    /// Snapshots that were found whole, by the name of their manifest.
    snapshots: BTreeMap<String, (ShardId, LogIndex, Term)>,
    trimmed: Lsn,
}

impl std::fmt::Debug for DurableLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DurableLog").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl DurableLog {
    /// The log in the directory that `view` shows. Without a view, only [`DurableLog::shard_mut`]
    /// changes it.
    #[must_use]
    pub fn new(node: NodeId, log_id: [u8; 16], view: Option<Box<dyn DurableView>>) -> Self {
        Self {
            node,
            log_id,
            follower: Follower::new(log_id),
            view,
            version: u64::MAX,
            shards: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            trimmed: Lsn(0),
        }
    }

    /// Forgets everything: the disk was replaced.
    pub fn reset(&mut self) {
        *self = Self::new(self.node, self.log_id, self.view.take());
    }

    /// Takes in what has become durable since the last call.
    ///
    /// # Errors
    /// A violation if the disk holds what no correct core can have written.
    pub fn catch_up(&mut self, history: History<'_>) -> Checked {
        let Some(view) = &self.view else { return Ok(()) };
        let version = view.version();
        if version == self.version {
            return Ok(());
        }
        let first = self.version == u64::MAX;
        self.version = version;
        let names = view.take_changes() == Some(Change::Names) || first;
        if names {
            self.follower.refresh(&**view);
        }
        let (node, shards) = (self.node, &mut self.shards);
        let mut outcome = Ok(());
        let mut visit = |record: coracle_wal::RecordView<'_>| {
            if outcome.is_err() {
                return;
            }
            let id = ShardId(record.stream);
            let of_shard = |index, term| history(id, index, term);
            outcome = match decode_record(&record) {
                Ok(decoded) => {
                    shards.entry(id).or_default().take(&decoded, record.batch, &of_shard)
                }
                Err(error) => {
                    let expected = "records that this version writes";
                    fail(Violation::new(Invariant::DurableRecords, expected, error.to_string()))
                }
            }
            .map_err(|violation| Box::new(violation.on_if(node, id)));
        };
        if let Err(error) = self.follower.advance(&**view, &mut visit) {
            let expected = "a start of the log that keeps all durable batches";
            return fail(
                Violation::new(Invariant::LogRewound, expected, error.to_string()).node(node),
            );
        }
        outcome?;
        if names {
            self.look_at_snapshots().map_err(|violation| Box::new(violation.node(node)))?;
        }
        self.settle(history)
    }

    /// Holds every shard's log against its snapshot, and against what was given up.
    fn settle(&mut self, history: History<'_>) -> Checked {
        let trimmed = self.follower.trimmed();
        let more = std::mem::replace(&mut self.trimmed, trimmed) != trimmed;
        for (id, shard) in &mut self.shards {
            let settled = shard.settle(&|index, term| history(*id, index, term));
            let checked =
                settled.and_then(|()| if more { shard.check_trimmed(trimmed) } else { Ok(()) });
            checked.map_err(|violation| Box::new(violation.on_if(self.node, *id)))?;
        }
        Ok(())
    }

    /// Looks for snapshots that have their names.
    fn look_at_snapshots(&mut self) -> Checked {
        let Some(view) = &self.view else { return Ok(()) };
        let files: BTreeMap<String, u32> = view.files().into_iter().collect();
        let before = self.snapshots.len();
        self.snapshots.retain(|name, _| files.contains_key(name));
        let mut changed = before != self.snapshots.len();
        for (name, file) in &files {
            let Some(stem) = name.strip_suffix(".manifest") else { continue };
            if self.snapshots.contains_key(name) {
                continue;
            }
            let chunks = files.get(&format!("{stem}.chunks")).copied();
            let found = whole_snapshot(&**view, *file, chunks).or_else(|flaw| {
                let expected = format!("all of the snapshot of {name}");
                fail(Violation::new(Invariant::DurableSnapshot, expected, flaw))
            })?;
            let id = found.id;
            self.snapshots.insert(name.clone(), (id.shard, id.index, id.term));
            changed = true;
        }
        if changed {
            for (_, shard) in self.shards.iter_mut() {
                shard.take_snapshot(None);
            }
            for (shard, index, term) in self.snapshots.values() {
                let shard = self.shards.entry(*shard).or_default();
                if shard.snapshot.is_none_or(|(newest, _)| newest < *index) {
                    shard.take_snapshot(Some((*index, *term)));
                }
            }
        }
        Ok(())
    }

    /// A shard as it was at the last [`DurableLog::catch_up`].
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&DurableShard> {
        self.shards.get(&shard)
    }

    /// The same, to be changed by tests.
    pub fn shard_mut(&mut self, shard: ShardId) -> &mut DurableShard {
        self.shards.entry(shard).or_default()
    }
}

/// Reads the durable bytes of a snapshot, or says what is wrong with them.
fn whole_snapshot(
    view: &dyn DurableFiles,
    manifest: u32,
    chunks: Option<u32>,
) -> Result<Manifest, String> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let got = view.read(manifest, 0, &mut bytes);
    let len = Manifest::encoded_bytes(&bytes[..got]).map_err(|error| error.to_string())?;
    bytes.resize(len, 0);
    let got = view.read(manifest, 0, &mut bytes);
    let (found, _) = Manifest::decode(&bytes[..got]).map_err(|error| error.to_string())?;
    if found.chunks.is_empty() {
        return Ok(found);
    }
    let Some(chunks) = chunks else { return Err("its chunks have no name".to_owned()) };
    let mut position = 0;
    for (number, chunk) in found.chunks.iter().enumerate() {
        bytes.resize(chunk.bytes as usize, 0);
        let got = view.read(chunks, position, &mut bytes);
        if got < bytes.len() || crc32fast::hash(&bytes) != chunk.checksum {
            return Err(format!("chunk {number} of {} is not what it was", found.chunks.len()));
        }
        position += u64::from(chunk.bytes).next_multiple_of(BLOCK_BYTES as u64);
    }
    Ok(found)
}
