//! Tests of what a restart makes of a log, against shards without one.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::*;
use crate::NodeId;
use crate::tier::fake_log::{FakeLog, Given, entry, hard_state};

const SHARD: ShardId = ShardId(7);

fn entries(first: u64, last: u64, term: u64) -> Vec<Given> {
    (first..=last).map(|index| Given::Entry(entry(index, term, 8))).collect()
}

fn kept(first: u64, last: u64, term: u64) -> Vec<Given> {
    (first..=last).map(|index| Given::Kept(entry(index, term, 8))).collect()
}

fn base(index: u64, term: u64, reset: bool) -> Vec<Given> {
    vec![Given::Base(Base { index: LogIndex(index), term: Term(term), reset })]
}

fn state(term: u64, commit: u64) -> Vec<Given> {
    vec![Given::HardState(hard_state(term, Some(3), commit))]
}

fn found(
    groups: &[Vec<Given>],
    snapshot: Option<(u64, u64)>,
) -> Result<RecoveredShard, ShardError> {
    let mut log = FakeLog::new();
    for group in groups {
        log.append(SHARD, group);
    }
    let snapshots = snapshot.map(|(index, term)| (SHARD, (LogIndex(index), Term(term))));
    let recovered = log.recover(u64::MAX, |_| false).finish(&snapshots.into_iter().collect());
    recovered.unwrap().shards.remove(&SHARD).unwrap().map_err(|unusable| unusable.error)
}

/// Base, last index and the terms, in short.
fn shape(shard: &RecoveredShard) -> ((u64, u64), u64, Vec<(u64, u64)>) {
    let terms = shard.terms.iter().map(|(index, term)| (index.0, term.0)).collect();
    ((shard.base.0.0, shard.base.1.0), shard.last.0, terms)
}

#[test]
fn later_entries_replace_the_suffix_they_conflict_with() {
    let groups = [entries(1, 3, 1), state(2, 1), entries(2, 2, 2)];
    let shard = found(&groups, None).unwrap();
    assert_eq!(shard.entries, [entry(1, 1, 8), entry(2, 2, 8)]);
    assert_eq!(shape(&shard), ((0, 0), 2, vec![(1, 1), (2, 2)]));
    assert_eq!((shard.hard_state.term, shard.hard_state.commit), (Term(2), LogIndex(1)));
}

#[test]
fn the_commit_index_names_only_what_is_there() {
    assert_eq!(found(&[entries(1, 3, 1), state(2, 9)], None).unwrap().hard_state.commit.0, 3);
    let groups = [base(5, 1, false), entries(6, 8, 1), state(2, 2)];
    assert_eq!(found(&groups, Some((7, 1))).unwrap().hard_state.commit.0, 7);
}

#[test]
fn a_trimmed_log_begins_anywhere_and_kept_entries_fill_the_hole() {
    let groups = [entries(9, 10, 2), base(5, 1, false), kept(6, 7, 1), kept(8, 8, 2)];
    let shard = found(&groups, Some((5, 1))).unwrap();
    assert_eq!(shape(&shard), ((5, 1), 10, vec![(6, 1), (8, 2)]));
    assert_eq!(shard.entries, [entry(9, 2, 8), entry(10, 2, 8)], "what is written again is cold");
    let shard = found(&[base(5, 1, false), kept(6, 7, 1)], Some((5, 1))).unwrap();
    assert_eq!((shape(&shard), shard.entries), (((5, 1), 7, vec![(6, 1)]), vec![]));
}

#[test]
fn kept_entries_truncate_nothing_and_stay_in_memory() {
    let shard = found(&[entries(1, 5, 1), kept(2, 3, 1)], None).unwrap();
    assert_eq!((shard.last, shard.entries.len()), (LogIndex(5), 5));
    let groups = [entries(1, 5, 1), kept(2, 3, 1), entries(3, 3, 2)];
    let shard = found(&groups, None).unwrap();
    assert_eq!(shape(&shard), ((0, 0), 3, vec![(1, 1), (3, 2)]));
}

fn voters(count: u64) -> Configuration {
    Configuration::of_voters((1..=count).map(NodeId)).unwrap()
}

fn reconfiguration(index: u64, term: u64, configuration: &Configuration) -> Entry {
    let kind = EntryKind::Reconfiguration;
    Entry { kind, payload: configuration.encode(), ..entry(index, term, 8) }
}

/// Also those that are not in memory any more, and of those that were overwritten only what is there now.
#[test]
fn configurations_are_found_wherever_they_lie() {
    let change = |index, term, count| reconfiguration(index, term, &voters(count));
    let groups = [
        vec![Given::Entry(change(1, 1, 1))],
        entries(2, 3, 1),
        vec![Given::Entry(change(4, 1, 4)), Given::Entry(entry(5, 1, 8))],
        vec![Given::Entry(change(3, 2, 3))],
        entries(4, 4, 2),
        vec![Given::Kept(change(1, 1, 1))],
    ];
    let shard = found(&groups, None).unwrap();
    assert_eq!(shard.configurations, [(LogIndex(1), voters(1)), (LogIndex(3), voters(3))]);
    let behind = [&groups[..], &[base(1, 1, false)]].concat();
    let shard = found(&behind, Some((1, 1))).unwrap();
    assert_eq!(shard.configurations, [(LogIndex(3), voters(3))]);
    let anew = [&groups[..], &[base(9, 2, true)]].concat();
    assert_eq!(found(&anew, Some((9, 2))).unwrap().configurations, []);
}

/// A summary has no payloads: a segment with a configuration has none, and is read.
#[test]
fn segments_with_configurations_have_no_summary() {
    let mut log = FakeLog::new();
    let mut index = Index::default();
    for group in [entries(1, 3, 1), vec![Given::Entry(reconfiguration(4, 1, &voters(2)))]] {
        let (appended, place) = log.append(SHARD, &group);
        index.appended(SHARD, &appended, place);
        log.seal();
    }
    let plain = &log.segments[0];
    assert!(index.take_summary(plain.start, plain.end, usize::MAX).is_some());
    let changing = &log.segments[1];
    assert_eq!(index.take_summary(changing.start, changing.end, usize::MAX), None);
}

#[test]
fn what_lies_below_the_base_is_ignored() {
    let groups = [entries(1, 9, 1), base(5, 1, false), kept(4, 6, 1), entries(10, 10, 1)];
    let shard = found(&groups, Some((5, 1))).unwrap();
    assert_eq!(shape(&shard), ((5, 1), 10, vec![(6, 1)]));
    assert_eq!(shard.entries.len(), 5);
    // An older base that comes again, and entries at it.
    let groups = [base(5, 1, false), base(3, 1, false), entries(2, 6, 1)];
    assert_eq!(shape(&found(&groups, Some((5, 1))).unwrap()), ((5, 1), 6, vec![(6, 1)]));
}

#[test]
fn a_reset_leaves_nothing() {
    let groups = [entries(1, 9, 1), base(5, 2, true)];
    let shard = found(&groups, Some((5, 2))).unwrap();
    assert_eq!((shape(&shard), shard.entries), (((5, 2), 5, vec![]), vec![]));
    let groups = [entries(1, 9, 1), base(5, 2, true), entries(6, 7, 3), base(5, 2, false)];
    assert_eq!(shape(&found(&groups, Some((5, 2))).unwrap()), ((5, 2), 7, vec![(6, 3)]));
}

#[test]
fn a_hole_makes_the_shard_unusable_unless_a_snapshot_covers_it() {
    let gap = |after, found| {
        let (after, found) = (LogIndex(after), LogIndex(found));
        Err(ShardError::Gap { shard: SHARD, after, found })
    };
    let groups = [entries(1, 2, 1), entries(5, 8, 1)];
    assert_eq!(found(&groups, None), gap(2, 5));
    assert_eq!(
        found(&groups, Some((2, 1))),
        gap(2, 5),
        "the snapshot has nothing of what is missing"
    );
    for at in [5, 6, 8] {
        let shard = found(&groups, Some((at, 1))).unwrap();
        assert_eq!((shard.base, shard.last), ((LogIndex(at), Term(1)), LogIndex(8)));
        let base = Base { index: LogIndex(at), term: Term(1), reset: false };
        assert_eq!(shard.unstored, Some(base));
        assert_eq!(shard.entries.len() as u64, 8 - at);
    }
    // Entry 5 follows entry 4 of the same term, for one leader wrote both.
    let shard = found(&groups, Some((4, 1))).unwrap();
    assert_eq!((shard.base.0, shard.last), (LogIndex(4), LogIndex(8)));
    // Of another term, it may or may not.
    let groups = [entries(1, 2, 1), entries(5, 8, 2)];
    assert_eq!(found(&groups, Some((4, 1))), gap(2, 5));
    assert_eq!(found(&[entries(3, 4, 1)], None), gap(0, 3));
}

#[test]
fn a_snapshot_that_was_being_installed_replaces_the_log() {
    let reset = |index, term| Some(Base { index: LogIndex(index), term: Term(term), reset: true });
    for groups in [vec![], vec![entries(1, 5, 1), state(2, 3)], vec![entries(1, 12, 1)]] {
        let shard = found(&[groups, vec![state(4, 3)]].concat(), Some((9, 3))).unwrap();
        assert_eq!((shape(&shard), shard.entries.len()), (((9, 3), 9, vec![]), 0));
        assert_eq!((shard.unstored, shard.hard_state.commit), (reset(9, 3), LogIndex(9)));
        // Written again before the base is, it must not name entries that the log lacks.
        assert_eq!(shard.recorded.commit, LogIndex(3));
    }
    let shard = found(&[entries(1, 12, 3)], Some((9, 3))).unwrap();
    assert_eq!((shape(&shard), shard.unstored), (((0, 0), 12, vec![(1, 3)]), None));
    assert_eq!(shard.hard_state.commit, LogIndex(9));
}

#[test]
fn a_log_without_its_snapshot_is_unusable() {
    let groups = [base(5, 1, false), entries(6, 9, 1)];
    let base = LogIndex(5);
    for newest in [None, Some((4, 1))] {
        let error = found(&groups, newest).unwrap_err();
        let newest = newest.map(|(index, _)| LogIndex(index));
        assert_eq!(error, ShardError::SnapshotMissing { shard: SHARD, base, newest });
    }
    let text = found(&groups, None).unwrap_err().to_string();
    assert!(
        text.contains("shard 7 begins behind 5, but its newest intact snapshot is none"),
        "{text}"
    );
}

#[test]
fn what_contradicts_itself_is_unusable() {
    let (index, own, other) = (LogIndex(3), Term(1), Term(2));
    let contradiction = Err(ShardError::Contradiction { shard: SHARD, index, own, found: other });
    assert_eq!(found(&[entries(1, 5, 1), kept(3, 3, 2)], None), contradiction);
    assert_eq!(found(&[entries(1, 5, 1), base(3, 2, false)], Some((3, 2))), contradiction);
    let groups = [entries(1, 2, 2), entries(3, 4, 1)];
    let error = ShardError::TermsDecrease { shard: SHARD, index, term: own, before: other };
    assert_eq!(found(&groups, None), Err(error));
}

#[test]
fn a_reset_counts_below_the_known_base_and_ends_contradictions() {
    let groups = [base(5, 2, false), entries(6, 7, 2), base(0, 0, true), state(2, 0)];
    let shard = found(&groups, None).unwrap();
    assert_eq!((shape(&shard), shard.entries), (((0, 0), 0, vec![]), vec![]));
    let more = [entries(1, 3, 3), base(0, 0, false)];
    let shard = found(&[&groups[..], &more].concat(), None).unwrap();
    assert_eq!(shape(&shard), ((0, 0), 3, vec![(1, 3)]));
    let contradicting = [entries(1, 2, 1), kept(2, 2, 2), base(0, 0, true), entries(1, 1, 3)];
    assert_eq!(shape(&found(&contradicting, None).unwrap()), ((0, 0), 1, vec![(1, 3)]));
}

#[test]
fn a_shard_that_was_found_damaged_stays_so_until_it_begins_anew() {
    let damaged = HardState { standing: Standing::DAMAGED, ..hard_state(2, Some(3), 1) };
    let groups = [entries(1, 3, 1), vec![Given::HardState(damaged)]];
    assert_eq!(found(&groups, None), Err(ShardError::FoundBefore { shard: SHARD }));
    assert!(found(&[&groups[..], &[base(0, 0, true), state(2, 0)]].concat(), None).is_ok());
}

/// What a restart makes of `before`, a damaged part, and `after`.
fn found_around_damage(
    before: &[Vec<Given>],
    after: &[Vec<Given>],
    snapshot: Option<(u64, u64)>,
) -> Result<RecoveredShard, ShardError> {
    let mut log = FakeLog::new();
    for group in before {
        log.append(SHARD, group);
    }
    log.seal();
    // What would be there is left out; another shard stands for it.
    let (_, behind) = log.append(ShardId(99), &state(1, 0));
    log.seal();
    for group in after {
        log.append(SHARD, group);
    }
    let mut recovery = log.recover(u64::MAX, |_| false);
    recovery.damaged(behind.end);
    let snapshots = snapshot.map(|(index, term)| (SHARD, (LogIndex(index), Term(term))));
    let recovered = recovery.finish(&snapshots.into_iter().collect());
    recovered.unwrap().shards.remove(&SHARD).unwrap().map_err(|unusable| unusable.error)
}

#[test]
fn a_shard_outlives_damage_if_all_that_counts_lies_behind_it() {
    let is_damaged = |before: &[Vec<Given>], after: &[Vec<Given>], snapshot| {
        let result = found_around_damage(before, after, snapshot);
        matches!(result, Err(ShardError::LogDamaged { .. }))
    };
    let whole = [state(2, 9), base(5, 1, false), kept(6, 7, 1), entries(8, 9, 2)];
    for (before, after) in [
        (vec![], vec![state(2, 0), entries(1, 4, 1)]),
        (vec![entries(1, 9, 1)], vec![state(2, 0), base(0, 0, true)]),
        (vec![entries(1, 9, 1), state(1, 0)], vec![state(2, 0), entries(1, 4, 2)]),
        (vec![entries(1, 7, 1)], whole.to_vec()),
        (vec![base(5, 1, false)], vec![kept(6, 6, 1), entries(7, 7, 1), state(1, 1)]),
    ] {
        let found = found_around_damage(&before, &after, Some((5, 1)));
        assert!(found.is_ok(), "{before:?} {after:?}: {found:?}");
    }
    // No hard state, nothing at all, or entries that begin before it.
    assert!(is_damaged(&[state(1, 0)], &[entries(1, 3, 1)], None));
    assert!(is_damaged(&[state(1, 0), entries(1, 3, 1)], &[], None));
    assert!(is_damaged(&[entries(1, 3, 1)], &[state(1, 0), entries(4, 4, 1)], None));
    assert!(is_damaged(&[entries(1, 3, 1)], &[state(1, 0)], None));
    // Written again, they don't tell where the log ended.
    assert!(is_damaged(&[], &[state(1, 0), kept(1, 3, 1)], None));
    // A snapshot has what is before the damage; but not up to it.
    let around = ([entries(1, 3, 1)], [state(1, 0), entries(4, 6, 1)]);
    let shard = found_around_damage(&around.0, &around.1, Some((4, 1))).unwrap();
    assert_eq!(shape(&shard), ((4, 1), 6, vec![(5, 1)]));
    assert_eq!(shard.unstored.map(|base| (base.index.0, base.reset)), Some((4, false)));
    assert_eq!(shard.entries, [entry(5, 1, 8), entry(6, 1, 8)]);
    assert!(is_damaged(&around.0, &around.1, Some((2, 1))));
}

#[test]
fn one_unusable_shard_leaves_the_others_alone() {
    let mut log = FakeLog::new();
    log.append(ShardId(1), &entries(5, 6, 1));
    log.append(ShardId(1), &state(7, 0));
    log.append(ShardId(2), &entries(1, 6, 1));
    let recovered = log.recover(u64::MAX, |_| false).finish(&BTreeMap::new()).unwrap();
    let unusable = recovered.shards[&ShardId(1)].as_ref().unwrap_err();
    assert_eq!(unusable.hard_state.term, Term(7));
    assert_eq!(recovered.shards[&ShardId(2)].as_ref().unwrap().last, LogIndex(6));
    assert_eq!(recovered.memory.first(ShardId(1)), None);
    assert!(recovered.index.shard(ShardId(1)).unwrap().hard_state_at().is_some());
}

#[test]
fn a_record_of_no_known_kind_ends_the_recovery() {
    let mut recovery = Recovery::new(0);
    let record = RecordView { stream: 7, kind: 9, payload: b"?", lsn: Lsn(5000), batch: Lsn(4096) };
    recovery.record(&record, Lsn(4096));
    let unknown = ReplayError::Unknown { shard: SHARD, kind: 9, bytes: 1 };
    assert_eq!(recovery.finish(&BTreeMap::new()).unwrap_err(), unknown);
}

#[test]
fn the_newest_entries_that_fit_are_in_memory() {
    let mut log = FakeLog::new();
    for index in 1..=20 {
        log.append(
            ShardId(index % 2),
            &[Given::Entry(entry(u64::from(index).div_ceil(2), 1, 10_000))],
        );
        log.end_batch();
    }
    let recovered = log.recover(60_000, |_| false).finish(&BTreeMap::new()).unwrap();
    for shard in [0, 1] {
        let shard = recovered.shards[&ShardId(shard)].as_ref().unwrap();
        let indices: Vec<_> = shard.entries.iter().map(|entry| entry.index.0).collect();
        // Five entries of 10,064 bytes fit, the last of them of shard 0.
        let first = if shard.entries.len() == 3 { 8 } else { 9 };
        assert_eq!((indices, shard.last), ((first..=10).collect(), LogIndex(10)));
    }
    assert!((50_000..=60_000).contains(&recovered.memory.bytes()));
}

/// What a shard is, without a log.
#[derive(Clone, Debug, Default)]
struct Model {
    base: (u64, u64),
    /// Index to term and bytes.
    entries: BTreeMap<u64, (u64, usize)>,
    term: u64,
    hard_state: HardState,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(self.base.0)
    }

    fn term_at(&self, index: u64) -> u64 {
        self.entries.get(&index).map_or(self.base.1, |(term, _)| *term)
    }

    fn entry(&self, index: u64) -> Entry {
        let (term, bytes) = self.entries[&index];
        entry(index, term, bytes)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append {
        shard: u32,
        back: u64,
        count: u64,
        term_up: bool,
        with_state: bool,
        bytes: usize,
    },
    State {
        shard: u32,
    },
    Base {
        shard: u32,
        part: u64,
    },
    Reset {
        shard: u32,
    },
    Keep {
        shard: u32,
        part: u64,
        count: u64,
    },
    EndBatch,
    Seal,
    /// Writes what the oldest segment still holds again, and gives it up.
    Free,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let shard = 0..4u32;
    let bytes = prop_oneof![4 => 0..100usize, 1 => 1_000..100_000usize];
    let append = (shard.clone(), 0..8u64, 1..20u64, any::<bool>(), any::<bool>(), bytes);
    let op = prop_oneof![
        10 => append.prop_map(|(shard, back, count, term_up, with_state, bytes)| {
            Op::Append { shard, back: back.saturating_sub(4), count, term_up, with_state, bytes }
        }),
        1 => shard.clone().prop_map(|shard| Op::State { shard }),
        1 => (shard.clone(), 0..=100u64).prop_map(|(shard, part)| Op::Base { shard, part }),
        1 => shard.clone().prop_map(|shard| Op::Reset { shard }),
        2 => (shard, 0..100u64, 1..30u64)
            .prop_map(|(shard, part, count)| Op::Keep { shard, part, count }),
        4 => Just(Op::EndBatch),
        3 => Just(Op::Seal),
        1 => Just(Op::Free),
    ];
    prop::collection::vec(op, 1..120)
}

/// A log, the index that a core would keep of it, and what its shards are.
struct World {
    log: FakeLog,
    index: Index,
    shards: BTreeMap<ShardId, Model>,
}

impl World {
    fn append(&mut self, shard: ShardId, group: &[Given]) {
        let (appended, place) = self.log.append(shard, group);
        self.index.appended(shard, &appended, place);
    }

    fn seal(&mut self) {
        let sealed = self.log.segments.len() - 1;
        if self.log.seal() {
            let segment = &mut self.log.segments[sealed];
            segment.summary = self.index.take_summary(segment.start, segment.end, 1 << 20);
            assert!(segment.summary.is_some(), "all of it was seen");
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Append { shard, back, count, term_up, with_state, bytes } => {
                let id = ShardId(shard);
                let model = self.shards.entry(id).or_default();
                let first = (model.last() + 1).saturating_sub(back).max(model.base.0 + 1);
                model.term += u64::from(term_up || first <= model.last() || model.term == 0);
                drop(model.entries.split_off(&first));
                let mut group = Vec::new();
                if with_state {
                    model.hard_state = hard_state(model.term, None, first - 1);
                    group.push(Given::HardState(model.hard_state));
                }
                for index in first..first + count {
                    model.entries.insert(index, (model.term, bytes));
                    group.push(Given::Entry(entry(index, model.term, bytes)));
                }
                self.append(id, &group);
            }
            Op::State { shard } => {
                let model = self.shards.entry(ShardId(shard)).or_default();
                model.term += 1;
                let (term, vote) = (Term(model.term), Some(NodeId(2)));
                model.hard_state = HardState { term, vote, ..model.hard_state };
                let group = [Given::HardState(model.hard_state)];
                self.append(ShardId(shard), &group);
            }
            Op::Base { shard, part } => {
                let model = self.shards.entry(ShardId(shard)).or_default();
                let to = model.base.0 + (model.last() - model.base.0) * part / 100;
                if to > model.base.0 {
                    model.base = (to, model.term_at(to));
                    model.entries = model.entries.split_off(&(to + 1));
                    let group = base(to, model.base.1, false);
                    self.append(ShardId(shard), &group);
                }
            }
            Op::Reset { shard } => {
                let model = self.shards.entry(ShardId(shard)).or_default();
                model.term += 1;
                model.base = (model.last() + 5, model.term);
                model.entries.clear();
                let group = base(model.base.0, model.base.1, true);
                self.append(ShardId(shard), &group);
            }
            Op::Keep { shard, part, count } => {
                let Some(model) = self.shards.get(&ShardId(shard)) else { return };
                let from = model.base.0 + 1 + (model.last() - model.base.0) * part / 100;
                let range = from..(from + count).min(model.last() + 1);
                let group: Vec<_> = range.map(|index| Given::Kept(model.entry(index))).collect();
                if !group.is_empty() {
                    self.append(ShardId(shard), &group);
                }
            }
            Op::EndBatch => self.log.end_batch(),
            Op::Seal => self.seal(),
            Op::Free => self.free(),
        }
    }

    fn free(&mut self) {
        if self.log.segments.len() < 2 {
            return;
        }
        let end = self.log.segments[0].end;
        for (shard, model) in self.shards.clone() {
            let Some(index) = self.index.shard(shard).cloned() else { continue };
            let mut group = Vec::new();
            if index.base_at().is_some_and(|at| at < end) {
                group.extend(base(model.base.0, model.base.1, false));
            }
            if index.hard_state_at().is_some_and(|at| at < end) {
                group.push(Given::HardState(model.hard_state));
            }
            for run in index.runs.between(Lsn(0), end) {
                let indices = run.first.0..=run.last.0;
                group.extend(indices.map(|index| Given::Kept(model.entry(index))));
            }
            if !group.is_empty() {
                self.append(shard, &group);
            }
        }
        assert!(
            self.index.oldest().is_none_or(|oldest| oldest >= end),
            "the segment is not needed"
        );
        self.log.trim(self.index.oldest().unwrap_or(Lsn(u64::MAX)));
    }
}

proptest! {
    /// A restart finds what the shards are; with summaries, the very same index as without.
    #[test]
    fn a_restart_finds_every_shard_as_it_was(
        ops in ops(),
        budget in prop_oneof![Just(u64::MAX), 0..200_000u64],
        picks in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let mut world =
            World { log: FakeLog::new(), index: Index::default(), shards: BTreeMap::new() };
        ops.iter().for_each(|op| world.run(op));
        // As long as nothing was trimmed, all that the core's index knows can be read again.
        let is_whole = world.log.segments[0].start == Lsn(4096);
        world.index.interrupt();
        let World { log, shards, index } = &world;
        let bases = shards.iter().filter(|(_, model)| model.base.0 > 0);
        let snapshots = bases.map(|(id, model)| (*id, (LogIndex(model.base.0), Term(model.base.1))));
        let snapshots: BTreeMap<_, _> = snapshots.collect();
        let by_records = log.recover(budget, |_| false).finish(&snapshots).unwrap();
        let pick = |start: Lsn| picks[(start.0 / 4096) as usize % picks.len()];
        let by_summaries = log.recover(budget, |s| pick(s.start)).finish(&snapshots).unwrap();
        let only_summaries = log.recover(budget, |_| true).finish(&snapshots).unwrap();

        for (id, model) in shards {
            for recovered in [&by_records, &by_summaries, &only_summaries] {
                let Some(found) = recovered.shards.get(id) else {
                    prop_assert!(model.entries.is_empty());
                    continue;
                };
                let found = found.as_ref().unwrap();
                prop_assert_eq!(found.base, (LogIndex(model.base.0), Term(model.base.1)));
                prop_assert_eq!(found.last.0, model.last());
                prop_assert_eq!(found.hard_state.term, model.hard_state.term);
                prop_assert_eq!(found.hard_state.vote, model.hard_state.vote);
                prop_assert_eq!(found.unstored, None);
                for at in model.base.0 + 1..=model.last() {
                    let live = recovered.index.shard(*id).unwrap();
                    prop_assert_eq!(live.term_at(LogIndex(at)), Some(Term(model.term_at(at))));
                    prop_assert_eq!(live.term_at(LogIndex(at)), index.shard(*id).unwrap().term_at(LogIndex(at)));
                }
                let first = model.last() + 1 - found.entries.len() as u64;
                for (at, entry) in (first..).zip(&found.entries) {
                    prop_assert_eq!(entry, &model.entry(at));
                }
                let first = recovered.memory.first(*id).map(|first| first.0);
                prop_assert_eq!(first.unwrap_or(model.last() + 1), model.last() + 1 - found.entries.len() as u64);
            }
            if is_whole {
                prop_assert_eq!(by_records.index.shard(*id), index.shard(*id));
            }
            prop_assert_eq!(by_records.index.shard(*id), by_summaries.index.shard(*id));
            prop_assert_eq!(by_records.index.shard(*id), only_summaries.index.shard(*id));
        }
        let all = by_records.shards.values().flat_map(|shard| &shard.as_ref().unwrap().entries);
        let cost: u64 = all.map(|entry| entry.cost() as u64).sum();
        prop_assert_eq!(by_records.memory.bytes(), cost);
        prop_assert!(cost <= budget);
    }

    /// An index that was told of every record says of each live entry where its record is.
    #[test]
    fn every_entry_lies_where_the_index_says(ops in ops(), pick in any::<Pick>()) {
        let mut world =
            World { log: FakeLog::new(), index: Index::default(), shards: BTreeMap::new() };
        ops.iter().for_each(|op| world.run(op));
        for (id, model) in &world.shards {
            if model.entries.is_empty() {
                continue;
            }
            let at = *model.entries.keys().nth(pick.index(model.entries.len())).unwrap();
            let run = world.index.shard(*id).unwrap().runs.locate(LogIndex(at)).unwrap();
            let records = world.log.segments.iter().flat_map(|segment| &segment.records);
            let within = records.filter(|r| r.place.batch >= run.batch && r.place.end <= run.end);
            let found = within.filter(|record| record.shard == *id).any(|record| {
                match decode_record(&record.view()).unwrap() {
                    LogRecord::Entry { term, index, payload, .. }
                    | LogRecord::Kept { term, index, payload, .. } => {
                        (term, index.0, payload) == (run.term, at, &model.entry(at).payload[..])
                    }
                    _ => false,
                }
            });
            prop_assert!(found, "entry {} of shard {} in {:?}", at, id, run);
        }
    }
}
