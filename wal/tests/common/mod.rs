//! A log on a memory disk with its driver polled by hand, so that a test decides what happens when.
#![allow(dead_code, clippy::unwrap_used)] // not every test file uses all of it

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use coracle_wal::mem::MemDisk;
use coracle_wal::{
    AppendError, Lsn, OpenError, Options, Record, RecordView, Recovery, Replay, SegmentInfo, Wal,
    WalFailure,
};

/// Smallest segments, so that few records fill many.
pub const SEGMENT_BYTES: u64 = 64 << 10;

pub fn options() -> Options {
    let mut options = Options::default();
    options.segment_bytes = SEGMENT_BYTES;
    options.log_id = *b"a log of a test!";
    options
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A task that is polled by hand, only when it was woken.
pub struct Task<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    flag: Arc<Flag>,
    pub result: Option<T>,
}

impl<T> Task<T> {
    pub fn new(future: impl Future<Output = T> + 'static) -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        Self { future: Box::pin(future), flag, result: None }
    }

    /// Polls until the task waits for something or has ended; returns whether it has.
    pub fn pump(&mut self) -> bool {
        let waker = Waker::from(self.flag.clone());
        while self.result.is_none() && self.flag.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(result) = self.future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                self.result = Some(result);
            }
        }
        self.result.is_some()
    }

    pub fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::Relaxed)
    }
}

/// A record as recovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub stream: u32,
    pub kind: u8,
    pub payload: Vec<u8>,
    pub lsn: Lsn,
}

pub type Opened =
    Result<(Wal<MemDisk>, coracle_wal::Driver<MemDisk>, Recovery, Vec<Found>), OpenError>;

/// An owner that takes summaries of some segments, which hold all that their records do.
#[derive(Default)]
struct Collect {
    found: Vec<Found>,
}

impl Replay for Collect {
    fn record(&mut self, record: RecordView<'_>) {
        self.found.push(Found {
            stream: record.stream,
            kind: record.kind,
            payload: record.payload.to_vec(),
            lsn: record.lsn,
        });
    }

    fn summary(&mut self, segment: &SegmentInfo, summary: &[u8]) -> bool {
        let (head, rest) = summary.split_at(8);
        let sequence = u64::from_le_bytes(head.try_into().unwrap());
        assert_eq!(sequence, segment.sequence, "the summary of another segment passed");
        if sequence.is_multiple_of(5) {
            return false;
        }
        for one in rest.chunks(SUMMARY_RECORD_BYTES) {
            let number = |at: usize| u64::from_le_bytes(one[at..at + 8].try_into().unwrap());
            let payload = numbered(number(0), number(8) as usize);
            self.found.push(Found { stream: 3, kind: 1, payload, lsn: Lsn(number(16)) });
        }
        true
    }
}

/// A payload that follows from these numbers.
pub fn numbered(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), number as u8);
    bytes
}

const SUMMARY_RECORD_BYTES: usize = 24;

/// A summary of segment `sequence`, of records of stream 3 and kind 1 with [`numbered`] payloads.
pub fn summary<'a>(sequence: u64, records: impl Iterator<Item = (&'a [u8], Lsn)>) -> Vec<u8> {
    let mut bytes = sequence.to_le_bytes().to_vec();
    for (payload, lsn) in records {
        let len = payload.len() as u64;
        let one = [&payload[..8], &len.to_le_bytes(), &lsn.0.to_le_bytes()].concat();
        bytes.extend_from_slice(&one);
    }
    bytes
}

pub async fn open(disk: MemDisk, options: Options) -> Opened {
    let mut collect = Collect::default();
    let opened = Wal::open(disk, options, &mut collect).await;
    opened.map(|(wal, driver, recovery)| (wal, driver, recovery, collect.found))
}

pub struct Rig {
    pub disk: MemDisk,
    pub wal: Wal<MemDisk>,
    pub driver: Task<Result<(), WalFailure>>,
    pub recovery: Recovery,
    pub found: Vec<Found>,
}

impl Rig {
    pub fn open(disk: &MemDisk) -> Result<Self, OpenError> {
        Self::open_with(disk, options())
    }

    pub fn open_with(disk: &MemDisk, options: Options) -> Result<Self, OpenError> {
        let mut task = Task::new(open(disk.clone(), options));
        assert!(task.pump(), "opening waits for something");
        Self::from_opened(disk, task.result.take().unwrap())
    }

    pub fn from_opened(disk: &MemDisk, opened: Opened) -> Result<Self, OpenError> {
        let (wal, driver, recovery, found) = opened?;
        let driver = Task::new(driver.run());
        Ok(Self { disk: disk.clone(), wal, driver, recovery, found })
    }

    /// Appends one record with this payload.
    pub fn append(&self, payload: &[u8]) -> Result<Lsn, AppendError> {
        self.wal
            .append(&[Record { stream: 1, kind: 2, head: &[], body: payload }])
            .map(|appended| appended.end)
    }

    /// Appends one record and makes it durable.
    pub fn commit(&mut self, payload: &[u8]) -> Lsn {
        let lsn = self.append(payload).unwrap();
        self.driver.pump();
        assert!(self.wal.durable() >= lsn, "{:?}", self.wal.failure());
        lsn
    }

    pub fn close(mut self) {
        let wal = self.wal.clone();
        let mut close = Task::new(async move { wal.close().await });
        for _ in 0..4 {
            close.pump();
            self.driver.pump();
        }
        assert!(close.pump(), "closing waits for something");
        assert_eq!(self.driver.result, Some(Ok(())));
    }

    pub fn payloads(&self) -> Vec<Vec<u8>> {
        self.found.iter().map(|found| found.payload.clone()).collect()
    }
}

/// Where a batch lies.
#[derive(Clone, Copy, Debug)]
pub struct BatchPlace {
    pub offset: u64,
    /// Bytes without padding.
    pub bytes: u64,
}

/// Finds the batches of a segment by their magic number.
pub fn batches(disk: &MemDisk, name: &str) -> Vec<BatchPlace> {
    let bytes = disk.contents(name).unwrap();
    let mut found = Vec::new();
    let mut offset = 4096;
    while offset + 4096 <= bytes.len() {
        let mut step = 4096;
        if &bytes[offset + 4..offset + 8] == b"CWb1" {
            let len = u32::from_le_bytes(bytes[offset + 52..offset + 56].try_into().unwrap());
            found.push(BatchPlace { offset: offset as u64, bytes: u64::from(len) });
            step = (len as usize).next_multiple_of(4096);
        }
        offset += step;
    }
    found
}

/// The names of the log's segments, in order.
pub fn segments(disk: &MemDisk) -> Vec<String> {
    let mut names = coracle_wal::mem::run_to_end(coracle_wal::Disk::list(disk)).unwrap();
    names.retain(|name| name.starts_with("seg-"));
    names.sort();
    names
}
