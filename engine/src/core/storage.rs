//! What waits for the log: groups it has not taken yet, and promises that rest on what it has taken.

use std::collections::VecDeque;
use std::task::Context;

use coracle_wal::{AppendError, Disk, Lsn, Wal};

use crate::limits::Limits;
use crate::raft::{Effects, Entry, HardState, Message, WriteMark};
use crate::tier::{self, ENTRY_HEAD_BYTES};
use crate::{NodeId, ShardId};

/// A message and whom it goes to.
pub(super) type Addressed = (NodeId, Message);

/// Something to do once the log is durable up to a position.
pub(super) struct Promise {
    pub(super) shard: ShardId,
    /// What Raft is told with `Event::Durable`, if the group had anything to write.
    pub(super) mark: Option<WriteMark>,
    pub(super) messages: Vec<Addressed>,
}

/// Hard state and entries that one turn of one shard gave, with the promises that rest on them.
struct Group {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    promise: Promise,
}

/// The log of a core as its loop uses it.
pub(super) struct Storage<D: Disk> {
    wal: Wal<D>,
    /// End of what was appended last.
    appended: Lsn,
    /// Groups that the log refused for now, in order.
    refused: VecDeque<Group>,
    /// Ordered by position.
    promises: VecDeque<(Lsn, Promise)>,
    /// Reused for the fixed parts of the records of a group.
    heads: Vec<[u8; ENTRY_HEAD_BYTES]>,
    limits: Limits,
}

impl<D: Disk> Storage<D> {
    pub(super) fn new(wal: Wal<D>, limits: Limits) -> Self {
        let appended = wal.durable();
        Self {
            wal,
            appended,
            refused: VecDeque::new(),
            promises: VecDeque::new(),
            heads: Vec::new(),
            limits,
        }
    }

    pub(super) fn wal(&self) -> &Wal<D> {
        &self.wal
    }

    /// Whether the log takes what is new. If not, nothing more should be accepted.
    pub(super) fn is_accepting(&self) -> bool {
        self.refused.is_empty()
    }

    /// Whether the log owes so much that nothing more may come that could add to it.
    pub(super) fn is_overdue(&self) -> bool {
        self.refused.len() >= self.limits.groups_refused_max
    }

    /// Whether something that was appended, or waits to be, is not durable yet.
    pub(super) fn is_busy(&self) -> bool {
        !(self.refused.is_empty() && self.promises.is_empty())
    }

    /// End of what was appended last.
    pub(super) fn appended(&self) -> Lsn {
        self.appended
    }

    /// How many groups the log has refused for now, and how many promises wait for it.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.refused.len(), self.promises.len())
    }

    /// Takes the durable part of a shard's effects.
    pub(super) fn take(&mut self, shard: ShardId, effects: &mut Effects) {
        let entries = std::mem::take(&mut effects.entries);
        let messages = std::mem::take(&mut effects.after_durable);
        let hard_state = effects.hard_state.take();
        // It goes with the next group then.
        #[cfg(mutant = "entry-before-term")]
        let hard_state = if entries.is_empty() {
            hard_state
        } else {
            effects.hard_state = hard_state;
            None
        };
        if hard_state.is_none() && entries.is_empty() && messages.is_empty() {
            return;
        }
        let promise = Promise { shard, mark: effects.write_mark.take(), messages };
        self.refused.push_back(Group { hard_state, entries, promise });
        if self.refused.len() == 1 {
            self.retry();
        } else {
            sometimes!(group_queued);
        }
    }

    /// Appends what the log has not taken yet, as far as it does now.
    pub(super) fn retry(&mut self) {
        while let Some(group) = self.refused.front_mut() {
            #[cfg(mutant = "promise-rests-on-previous")]
            let previous = self.appended;
            match append(&self.wal, group, &mut self.heads, self.limits.append_group_bytes_max) {
                Ok(Some(lsn)) => self.appended = lsn,
                // Nothing to write: the promise rests on what was appended before.
                Ok(None) => {}
                Err(error @ AppendError::TooLarge { .. }) => {
                    unreachable!("a group is bounded below the size of a batch: {error}")
                }
                // Full for now, or over for good: the loop looks at the failure itself.
                Err(_) => {
                    sometimes!(group_refused);
                    return;
                }
            }
            if let Some(Group { promise, .. }) = self.refused.pop_front() {
                let rests_on = self.appended;
                #[cfg(mutant = "promise-rests-on-previous")]
                let rests_on = previous;
                self.promises.push_back((rests_on, promise));
            }
        }
    }

    /// Whether the log became durable further than the oldest promise; if not, `cx` is woken when it
    /// does, or when the log fails.
    pub(super) fn poll_progress(&self, cx: &mut Context<'_>) -> bool {
        match self.promises.front() {
            Some((lsn, _)) if *lsn <= self.wal.durable() => true,
            _ => self.wal.poll_durable_beyond(cx, self.wal.durable()).is_ready(),
        }
    }

    /// The next promise that may be kept now.
    pub(super) fn next_kept(&mut self) -> Option<Promise> {
        let durable = self.wal.durable();
        match self.promises.front() {
            Some((lsn, _)) if *lsn <= durable => self.promises.pop_front().map(|(_, kept)| kept),
            _ => None,
        }
    }
}

/// Appends a group in pieces that fit a batch, hard state first. What was appended leaves the group,
/// so that it can be continued after an error.
fn append<D: Disk>(
    wal: &Wal<D>,
    group: &mut Group,
    heads: &mut Vec<[u8; ENTRY_HEAD_BYTES]>,
    bytes_max: usize,
) -> Result<Option<Lsn>, AppendError> {
    let shard = group.promise.shard;
    let mut appended = None;
    while group.hard_state.is_some() || !group.entries.is_empty() {
        let count = piece(&group.entries, bytes_max);
        sometimes!(group_split, count < group.entries.len());
        let entries = &group.entries[..count];
        heads.clear();
        heads.extend(entries.iter().map(tier::entry_head));
        let state = group.hard_state.map(|state| tier::hard_state_head(&hint(state, entries)));
        let state = state.as_ref().map(|head| tier::hard_state_record(shard, head));
        let entries = entries.iter().zip(heads.iter());
        let entries = entries.map(|(entry, head)| tier::entry_record(shard, head, entry));
        let list: Vec<_> = state.into_iter().chain(entries).collect();
        appended = Some(wal.append(&list)?);
        group.hard_state = None;
        group.entries.drain(..count);
    }
    Ok(appended)
}

/// The hard state as it is stored before `entries`: its commit index must not name entries that are
/// not in the log yet, for a crash may come before they are.
fn hint(state: HardState, entries: &[Entry]) -> HardState {
    let before = entries.first().map_or(state.commit, |first| first.index.prev());
    #[cfg(mutant = "hint-unclamped")]
    let before = before.max(state.commit);
    HardState { commit: state.commit.min(before), ..state }
}

/// How many of the first entries make one group: those of `bytes_max` bytes, but at least one.
fn piece(entries: &[Entry], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.payload.len() + 64;
        bytes <= bytes_max
    });
    fits.count().max(1).min(entries.len())
}
