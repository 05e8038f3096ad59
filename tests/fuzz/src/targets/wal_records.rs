//! Records of a core's log: what a restart makes of them, and whether Raft starts with it.
//!
//! The input is a row of records: stream (1 byte), kind (1 byte), length (2 bytes), payload.

use std::time::Duration;

use bytes::Bytes;
use coracle_engine::core::testing::{entry_record, hard_state_record, replay};
use coracle_engine::raft::{Config, Effects, Entry, EntryKind, Event, HardState, Raft, RaftLog};
use coracle_engine::tier::RecoveredShard;
use coracle_engine::{LogIndex, NodeId, ShardId, Term};
use coracle_wal::{Lsn, RecordView};

use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "wal_records",
    run,
    mend: None,
    seeds,
    memory: Memory {
        constant: 256 << 10,
        factor: 128,
        reason: "an entry of 21 bytes becomes 100, is encoded again and replayed twice; each of at most 256 \
                 shards has a replica",
    },
};

type Records = Vec<(u8, u8, Vec<u8>)>;

fn records(mut data: &[u8]) -> Records {
    let mut records = Vec::new();
    while let Some(([stream, kind, low, high], rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        records.push((*stream, *kind, payload.to_vec()));
        data = rest;
    }
    records
}

fn views(records: &Records) -> impl Iterator<Item = RecordView<'_>> {
    records.iter().enumerate().map(|(place, (stream, kind, payload))| RecordView {
        stream: u32::from(*stream),
        kind: *kind,
        payload,
        lsn: Lsn(place as u64),
        batch: Lsn(place as u64),
    })
}

fn run(data: &[u8]) {
    let records = records(data);
    let Ok(shards) = replay(views(&records)) else { return };
    let mut encoded = Records::new();
    let mut whole = shards.clone();
    // What was written again is not in memory, nor is what precedes it.
    whole.retain(|_, found| found.entries.len() as u64 == found.last.0);
    for found in shards.values() {
        for (entry, index) in found.entries.iter().rev().zip((1..=found.last.0).rev()) {
            assert_eq!(entry.index, LogIndex(index), "entries are without gaps up to the last");
        }
    }
    for (shard, found) in &whole {
        for entry in &found.entries {
            let (kind, payload) = entry_record(*shard, entry);
            encoded.push((shard.0 as u8, kind, payload));
        }
        let (kind, payload) = hard_state_record(*shard, &found.recorded);
        encoded.push((shard.0 as u8, kind, payload));
    }
    let again = replay(views(&encoded));
    assert_eq!(again.as_ref(), Ok(&whole), "what was read can be written and read");
    drop((again, whole));
    for (shard, found) in shards {
        start(shard, found);
    }
}

/// Starts a replica with what was found. It is refused, or it can stand for election.
fn start(shard: ShardId, found: RecoveredShard) {
    let RecoveredShard { hard_state: state, base: (base, base_term), .. } = found;
    let log = RaftLog::restore(base, base_term, found.terms, found.last, found.entries);
    let Ok(log) = log else { return };
    let voters = vec![NodeId(1)];
    let config = Config::new(NodeId(1), voters, u64::from(shard.0));
    let Ok(mut raft) = Raft::new(config, state, log, Duration::ZERO) else { return };
    let mut effects = Effects::default();
    raft.step(Event::Tick { now: Duration::from_secs(10) }, &mut effects);
    let status = raft.status();
    assert!(status.commit >= state.commit && status.commit <= status.last_index, "{status:?}");
    assert!(status.soft.term > state.term, "it stands for election in a new term");
}

fn seeds() -> Vec<Seed> {
    let entry = |term, index, payload: &'static [u8]| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: if payload.is_empty() { EntryKind::Noop } else { EntryKind::Normal },
        payload: Bytes::from_static(payload),
    };
    let state = |term, vote, commit| HardState {
        term: Term(term),
        vote: Some(NodeId(vote)),
        commit: LogIndex(commit),
        ..HardState::default()
    };
    let row = |records: &[(u8, (u8, Vec<u8>))]| {
        let bytes = records.iter().flat_map(|(stream, (kind, payload))| {
            let length = (payload.len() as u16).to_le_bytes();
            [&[*stream, *kind, length[0], length[1]], &payload[..]].concat()
        });
        bytes.collect::<Vec<_>>()
    };
    let shard = ShardId(7);
    let put = |entry: &Entry| (7, entry_record(shard, entry));
    let set = |state: &HardState| (7, hard_state_record(shard, state));
    let begin = [set(&state(1, 1, 0)), put(&entry(1, 1, b"")), put(&entry(1, 2, b"two"))];
    let rewrite = [set(&state(2, 2, 1)), put(&entry(2, 2, b"other")), put(&entry(2, 3, b"three"))];
    let gap = [set(&state(1, 1, 0)), put(&entry(1, 3, b"three"))];
    vec![
        Seed::new("entries", row(&begin)),
        Seed::new("rewritten", row(&[begin.as_slice(), rewrite.as_slice()].concat())),
        Seed::new("gap", row(&gap)),
        Seed::new("commit-beyond-log", row(&[set(&state(1, 1, 5)), put(&entry(1, 1, b"one"))])),
        Seed::new("unknown-kind", row(&[(7, (9, b"?".to_vec()))])),
    ]
}
