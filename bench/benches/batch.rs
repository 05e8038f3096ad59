//! The log alone, over a disk in memory: what an append costs, and what a batch costs until it is
//! durable.

#![allow(missing_docs)] // criterion's macros make public items

mod profiler;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use coracle_wal::mem::{MemDisk, run_to_end};
use coracle_wal::{Lsn, Options, Record, RecordView, Wal};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Small segments: their first filling is part of the work of a disk in memory.
const SEGMENT_BYTES: u64 = 8 << 20;
const BATCH: u64 = 512;
/// Bytes of each record's head: what the engine puts before a payload.
const HEAD_BYTES: usize = 17;

/// A log whose driver is polled by hand: the disk in memory never makes it wait.
struct Log {
    wal: Wal<MemDisk>,
    driver: Pin<Box<dyn Future<Output = ()>>>,
}

impl Log {
    fn open() -> Self {
        let mut options = Options::default();
        options.segment_bytes = SEGMENT_BYTES;
        let mut ignore = |_: RecordView<'_>| {};
        let open = Wal::open(MemDisk::new(), options, &mut ignore);
        let (wal, driver, _) = run_to_end(open).expect("an empty disk");
        let driver = Box::pin(async move { driver.run().await.expect("a disk without faults") });
        let mut log = Self { wal, driver };
        log.run();
        log
    }

    /// Lets the driver do all it can.
    fn run(&mut self) {
        let ended = self.driver.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(ended.is_pending(), "the log is open");
    }

    fn append(&self, count: u64, body: &[u8]) -> Lsn {
        let head = [1; HEAD_BYTES];
        let record = Record { stream: 7, kind: 1, head: &head, body };
        let mut last = Lsn::default();
        for _ in 0..count {
            last = self.wal.append(&[record]).expect("within the buffer").end;
        }
        last
    }

    /// Writes what was appended, and gives up its segments so that they are used again.
    fn settle(&mut self, last: Lsn) {
        while self.wal.durable() < last {
            self.run();
        }
        self.wal.trim(last);
        self.run();
    }
}

/// One record into the batch that collects: a copy with its checksum.
fn append(criterion: &mut Criterion) {
    let mut benchmarks = criterion.benchmark_group("wal/append");
    for bytes in [128, 1024] {
        let body = vec![7; bytes];
        let mut log = Log::open();
        benchmarks.throughput(Throughput::Elements(1));
        benchmarks.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let count = left.min(BATCH);
                    let before = Instant::now();
                    let last = log.append(count, &body);
                    spent += before.elapsed();
                    log.settle(last);
                    left -= count;
                }
                spent
            });
        });
    }
    benchmarks.finish();
}

/// A batch of records from the first append until all are durable.
fn batch(criterion: &mut Criterion) {
    let mut benchmarks = criterion.benchmark_group("wal/batch_of_512_to_durable");
    for bytes in [128, 1024] {
        let body = vec![7; bytes];
        let mut log = Log::open();
        benchmarks.throughput(Throughput::Elements(BATCH));
        benchmarks.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                let last = log.append(BATCH, &body);
                log.settle(last);
            });
        });
    }
    benchmarks.finish();
}

criterion_group! {
    name = benches;
    config = profiler::criterion();
    targets = append, batch
}
criterion_main!(benches);
