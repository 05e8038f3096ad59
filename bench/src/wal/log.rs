//! The log under measurement: records in flight in a window, each awaited until it is durable.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle::runtime::GlommioEnv;
use coracle::uring::{UringDisk, UringOptions};
use coracle_engine::env::Env;
use coracle_wal::{AppendError, Lsn, Options, Record, RecordView, Wal};

use super::{Sample, WalBenchError};

/// What the log adds to the payload of a batch's only record (batch header and record header), rounded
/// up. A payload this much smaller than a whole number of blocks fills them.
pub(super) const BATCH_OVERHEAD_BYTES: usize = 96;
/// Durable records are given back to the log for reuse of their segments after this many bytes.
const TRIM_EVERY_BYTES: u64 = 16 << 20;

/// An open log whose driver runs.
pub(super) struct Log {
    wal: Wal<UringDisk>,
    spares: u64,
}

impl Log {
    /// Opens a log in the new directory `dir`.
    pub(super) async fn open(
        env: &GlommioEnv,
        dir: &Path,
        disk: UringOptions,
    ) -> Result<Self, WalBenchError> {
        std::fs::create_dir(dir)?;
        let disk = UringDisk::open_with(dir, disk).await?;
        let options = Options::default();
        let spares = options.spares as u64;
        let (wal, driver, _) = Wal::open(disk, options, &mut |_: RecordView<'_>| {}).await?;
        env.spawn(async move {
            // A failure is latched in the log, where the next append or wait finds it.
            let _ = driver.run().await;
        });
        Ok(Self { wal, spares })
    }

    /// Waits until the log has nothing to do in the background.
    pub(super) async fn settle(&self, env: &GlommioEnv) -> Result<(), WalBenchError> {
        while self.wal.stats().segments_ready < self.spares {
            if let Some(failure) = self.wal.failure() {
                return Err(failure.into());
            }
            env.sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Keeps `count` records of `bytes` in flight for `time`; each counts as `counted` bytes.
    pub(super) async fn run(
        &self,
        bytes: usize,
        count: usize,
        counted: u64,
        time: Duration,
    ) -> Result<Sample, WalBenchError> {
        let payload = vec![0x5a; bytes];
        let record = [Record { stream: 1, kind: 1, head: &[], body: &payload }];
        let mut sample = Sample::new();
        let mut window: VecDeque<(Lsn, Instant)> = VecDeque::with_capacity(count);
        let (start, mut now) = (Instant::now(), Instant::now());
        let mut trimmed = self.wal.durable();
        loop {
            while window.len() < count && now - start < time {
                match self.wal.append(&record) {
                    Ok(appended) => window.push_back((appended.end, now)),
                    Err(AppendError::Full { .. }) if !window.is_empty() => break,
                    Err(error) => return Err(error.into()),
                }
            }
            let Some((oldest, _)) = window.front() else { break };
            // Durable at its position, so beyond the one before.
            let durable = self.wal.durable_beyond(Lsn(oldest.0 - 1)).await?;
            now = Instant::now();
            while let Some((_, since)) = window.front().filter(|(lsn, _)| *lsn <= durable) {
                sample.record(now - *since, counted);
                window.pop_front();
            }
            if durable.0 - trimmed.0 > TRIM_EVERY_BYTES {
                self.wal.trim(durable);
                trimmed = durable;
            }
        }
        sample.elapsed = start.elapsed();
        Ok(sample)
    }

    /// Closes the log.
    pub(super) async fn close(self) -> Result<(), WalBenchError> {
        self.wal.close().await;
        self.wal.failure().map_or(Ok(()), |failure| Err(failure.into()))
    }
}
