//! What each core has on disk: follows the durable image of its log, record by record.

use std::collections::BTreeMap;

use coracle_engine::core::{LogRecord, decode_record};
use coracle_engine::raft::HardState;
use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use coracle_wal::follow::{DurableFiles, Follower};

use super::chain::{Chain, hash_entry};
use super::violation::{Checked, Invariant, Violation, fail};

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
    /// Its entries.
    pub log: Chain,
    /// Every vote that is, or was, in a hard state.
    pub votes: BTreeMap<Term, NodeId>,
}

impl DurableShard {
    /// Takes the next record, in the order of the log.
    ///
    /// # Errors
    /// A violation if no correct replica can have written it.
    pub fn take(&mut self, record: &LogRecord<'_>) -> Checked {
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
                Ok(())
            }
            LogRecord::HardState(state) => self.take_hard_state(state),
            // Nothing is given up yet, so nothing has to be written again.
            LogRecord::Kept { .. } | LogRecord::Base(_) => {
                let expected = "the records of a log that is not compacted";
                fail(Violation::new(Invariant::DurableRecords, expected, format!("{record:?}")))
            }
        }
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

    /// Whether everything up to `index` of `log` is on disk.
    #[must_use]
    pub fn has(&self, log: &Chain, index: LogIndex) -> bool {
        self.log.agrees(log, index)
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
        let follower = Follower::new(log_id);
        Self { node, log_id, follower, view, version: u64::MAX, shards: BTreeMap::new() }
    }

    /// Forgets everything: the disk was replaced.
    pub fn reset(&mut self) {
        self.follower = Follower::new(self.log_id);
        self.version = u64::MAX;
        self.shards.clear();
    }

    /// Takes in what has become durable since the last call.
    ///
    /// # Errors
    /// A violation if the disk holds what no correct core can have written.
    pub fn catch_up(&mut self) -> Checked {
        let Some(view) = &self.view else { return Ok(()) };
        let version = view.version();
        if version == self.version {
            return Ok(());
        }
        let first = self.version == u64::MAX;
        self.version = version;
        if view.take_changes() == Some(Change::Names) || first {
            self.follower.refresh(&**view);
        }
        let (node, shards) = (self.node, &mut self.shards);
        let mut outcome = Ok(());
        let mut visit = |record: coracle_wal::RecordView<'_>| {
            if outcome.is_err() {
                return;
            }
            let id = ShardId(record.stream);
            outcome = match decode_record(&record) {
                Ok(decoded) => shards.entry(id).or_default().take(&decoded),
                Err(error) => {
                    let expected = "records that this version writes";
                    fail(Violation::new(Invariant::DurableRecords, expected, error.to_string()))
                }
            }
            .map_err(|violation| Box::new(violation.on(node, id)));
        };
        if let Err(error) = self.follower.advance(&**view, &mut visit) {
            let expected = "a start of the log that keeps all durable batches";
            return fail(
                Violation::new(Invariant::LogRewound, expected, error.to_string()).node(node),
            );
        }
        outcome
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
