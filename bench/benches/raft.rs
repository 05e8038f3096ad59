//! The Raft core alone: three replicas in memory, no disk, no network, no copies of payloads.

#![allow(missing_docs)] // criterion's macros make public items

mod profiler;

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use coracle_engine::raft::membership::Configuration;
use coracle_engine::raft::quorum::{majority, majority_committed};
use coracle_engine::raft::{Config, Effects, Event, HardState, Message, Raft, RaftLog, Role};
use coracle_engine::{LogIndex, NodeId};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const PAYLOAD_BYTES: usize = 128;
/// Entries after which a group is replaced: logs stay in memory as long as nothing compacts them.
const GROUP_ENTRIES_MAX: u64 = 200_000;

/// Three replicas whose messages arrive at once and whose writes are durable at once.
struct Group {
    replicas: Vec<Raft>,
    effects: Effects,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    now: Duration,
}

impl Group {
    /// A group with a leader whose first entry is committed.
    fn elected() -> Self {
        let replica = |id| {
            let config = Config::new(id, VOTERS.to_vec(), 42);
            Raft::new(config, HardState::default(), RaftLog::empty(), Duration::ZERO)
                .expect("a valid configuration")
        };
        let mut group = Self {
            replicas: VOTERS.into_iter().map(replica).collect(),
            effects: Effects::default(),
            mail: VecDeque::new(),
            now: Duration::ZERO,
        };
        while group.leader().is_none() {
            group.now += Duration::from_millis(10);
            for place in 0..VOTERS.len() {
                group.step(place, Event::Tick { now: group.now });
                group.deliver();
            }
        }
        group
    }

    fn leader(&self) -> Option<usize> {
        self.replicas.iter().position(|raft| raft.role() == Role::Leader)
    }

    /// One step of a replica, with its writes durable right after it.
    fn step(&mut self, place: usize, event: Event) {
        let from = VOTERS[place];
        let mut effects = std::mem::take(&mut self.effects);
        self.replicas[place].step(event, &mut effects);
        let mark = effects.write_mark;
        let letters = effects.messages.drain(..);
        self.mail.extend(letters.map(|(to, message)| (from, to, message)));
        let letters = effects.after_durable.drain(..);
        self.mail.extend(letters.map(|(to, message)| (from, to, message)));
        effects.clear();
        self.effects = effects;
        if let Some(mark) = mark {
            self.step(place, Event::Durable(mark));
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            let place = (to.0 - 1) as usize;
            self.step(place, Event::Message { from, message });
        }
    }

    /// Proposes all of `payloads` at once and runs until they are committed on the leader.
    fn commit(&mut self, leader: usize, payloads: Vec<Bytes>) -> LogIndex {
        let count = payloads.len() as u64;
        let before = self.replicas[leader].commit();
        self.step(leader, Event::Propose { payloads });
        self.deliver();
        let after = self.replicas[leader].commit();
        assert!(after.0 >= before.0 + count, "{count} proposals: {before} to {after}");
        after
    }
}

/// propose -> append -> durable -> ack -> commit.
fn step(criterion: &mut Criterion) {
    let mut benchmarks = criterion.benchmark_group("raft/propose_to_commit");
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    for batch in [1, 10, 512] {
        benchmarks.throughput(Throughput::Elements(batch));
        let mut group = Group::elected();
        let mut leader = group.leader().expect("an elected group has one");
        let input = || vec![payload.clone(); batch as usize];
        benchmarks.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter_batched(
                input,
                |payloads| {
                    let index = group.commit(leader, payloads);
                    if index.0 > GROUP_ENTRIES_MAX {
                        group = Group::elected();
                        leader = group.leader().expect("an elected group has one");
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    benchmarks.finish();
}

/// The commit index from what each voter has, beside the same by sorting everything, as many do it.
fn quorum(criterion: &mut Criterion) {
    type Find = fn(&mut [LogIndex]) -> LogIndex;
    let ways: [(&str, Find); 2] =
        [("majority_committed", majority_committed), ("by_sorting", by_sorting)];
    let mut benchmarks = criterion.benchmark_group("raft/commit_index");
    for voters in [3_usize, 5, 7] {
        // Many of them, in no order: a processor learns the branches of a few by heart.
        let mut state = 1_u64;
        let mut index = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            LogIndex(1000 + (state >> 33) % 64)
        };
        let inputs: Vec<Vec<LogIndex>> =
            (0..4096).map(|_| (0..voters).map(|_| index()).collect()).collect();
        for (name, find) in ways {
            benchmarks.bench_function(BenchmarkId::new(name, voters), |bencher| {
                let mut scratch = inputs[0].clone();
                let mut matched = inputs.iter().cycle();
                bencher.iter(|| {
                    scratch.copy_from_slice(matched.next().expect("it never ends"));
                    find(black_box(&mut scratch))
                });
            });
        }
        let nodes = (1..=voters as u64).map(NodeId);
        let configuration = Configuration::of_voters(nodes).expect("a few voters");
        benchmarks.bench_function(BenchmarkId::new("of_configuration", voters), |bencher| {
            let mut matched = inputs.iter().cycle();
            bencher.iter(|| {
                let matched = black_box(matched.next().expect("it never ends"));
                configuration.committed(|node| matched[node.0 as usize - 1])
            });
        });
    }
    benchmarks.finish();
}

fn by_sorting(matched: &mut [LogIndex]) -> LogIndex {
    matched.sort_unstable_by(|a, b| b.cmp(a));
    matched[majority(matched.len()) - 1]
}

criterion_group! {
    name = benches;
    config = profiler::criterion();
    targets = step, quorum
}
criterion_main!(benches);
