//! What the machine itself can do, taken in the same run: the commit latency's lower bound.
//!
//! A commit with one proposal in flight needs a round trip and a durable write, while all three
//! nodes write to the same disk at the same time. So: three threads, each with a file of its own that
//! was filled before, write 4 KiB blocks durably, as quickly as they can; and a 64-byte message goes to
//! and fro over loopback TCP. Both block in the kernel: nothing spins, nothing is batched.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use coracle_wal::AlignedBuf;
use hdrhistogram::Histogram;
use rustix::io::ReadWriteFlags;
use thiserror::Error;

use crate::load::{LatencySummary, latency_histogram};

/// Writers at the same time: one for each node.
pub const WRITERS: usize = 3;
/// Bytes of each durable write.
const BLOCK_BYTES: usize = 4096;
/// Size of each file; writes go around in it. Filled first, so that no write allocates.
const FILE_BYTES: usize = 8 << 20;
/// How long each way of writing is measured.
const WRITE_FOR: Duration = Duration::from_millis(400);
/// Bytes of the message that goes to and fro.
const MESSAGE_BYTES: usize = 64;
/// Round trips; the first tenth is not counted.
const ROUND_TRIPS: usize = 10_000;

/// The raw figures of a machine and a directory.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// Write and `fdatasync`, three at a time, in nanoseconds.
    pub flush: Histogram<u64>,
    /// `pwritev2` with `RWF_DSYNC`, three at a time, in nanoseconds.
    pub dsync: Histogram<u64>,
    /// Loopback round trip, in nanoseconds.
    pub round_trip: Histogram<u64>,
}

/// The same, for reports.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BaselineSummary {
    /// Write and `fdatasync`, three at a time.
    pub flush: LatencySummary,
    /// `RWF_DSYNC`, three at a time.
    pub dsync: LatencySummary,
    /// Loopback round trip.
    pub round_trip: LatencySummary,
    /// Median of the better way of writing plus the median round trip.
    pub commit_bound_us: f64,
}

/// The baseline cannot be taken.
#[derive(Debug, Error)]
pub enum BaselineError {
    /// The directory does not take the test files.
    #[error("cannot measure durable writes in {dir}: {source}")]
    Disk {
        /// The directory.
        dir: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// Loopback does not work.
    #[error("cannot measure the loopback round trip: {0}")]
    Network(io::Error),
}

impl Baseline {
    /// Measures; takes about a second and a half.
    ///
    /// # Errors
    /// [`BaselineError`].
    pub fn measure(dir: &Path) -> Result<Self, BaselineError> {
        let disk = |source| BaselineError::Disk { dir: dir.display().to_string(), source };
        Ok(Self {
            flush: durable_writes(dir, write_and_flush).map_err(disk)?,
            dsync: durable_writes(dir, write_dsync).map_err(disk)?,
            round_trip: round_trips().map_err(BaselineError::Network)?,
        })
    }

    /// Adds another measurement: the machine may have changed its pace meanwhile.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.flush, &other.flush),
            (&mut self.dsync, &other.dsync),
            (&mut self.round_trip, &other.round_trip),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
    }

    /// The least that a commit can take: median durable write plus median round trip, in nanoseconds.
    pub fn commit_bound_ns(&self) -> u64 {
        let write = self.flush.value_at_quantile(0.5).min(self.dsync.value_at_quantile(0.5));
        write + self.round_trip.value_at_quantile(0.5)
    }

    /// For reports.
    pub fn summary(&self) -> BaselineSummary {
        BaselineSummary {
            flush: LatencySummary::from(&self.flush),
            dsync: LatencySummary::from(&self.dsync),
            round_trip: LatencySummary::from(&self.round_trip),
            commit_bound_us: self.commit_bound_ns() as f64 / 1e3,
        }
    }
}

type WriteDurably = fn(&File, &[u8], u64) -> io::Result<()>;

fn write_and_flush(file: &File, block: &[u8], position: u64) -> io::Result<()> {
    file.write_all_at(block, position)?;
    file.sync_data()
}

fn write_dsync(file: &File, block: &[u8], position: u64) -> io::Result<()> {
    let slices = [IoSlice::new(block)];
    let written = rustix::io::pwritev2(file, &slices, position, ReadWriteFlags::DSYNC)?;
    if written == block.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn durable_writes(dir: &Path, write: WriteDurably) -> io::Result<Histogram<u64>> {
    let files: Vec<File> = (0..WRITERS).map(|_| prepared_file(dir)).collect::<io::Result<_>>()?;
    let barrier = Barrier::new(WRITERS);
    let results: Vec<io::Result<Histogram<u64>>> = std::thread::scope(|scope| {
        let writers: Vec<_> = files
            .iter()
            .map(|file| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    write_for(file, write)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect()
    });
    let mut all = latency_histogram();
    for result in results {
        all.add(result?).expect("all histograms have the same bounds");
    }
    Ok(all)
}

/// A file that is full of zeros, on the disk, and has no name any more; past the page cache where the
/// file system allows it.
fn prepared_file(dir: &Path) -> io::Result<File> {
    let named = tempfile::NamedTempFile::new_in(dir)?;
    named.as_file().write_all_at(&vec![0; FILE_BYTES], 0)?;
    named.as_file().sync_all()?;
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(direct).open(named.path()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(named.path()),
        other => other,
    }
}

fn write_for(file: &File, write: WriteDurably) -> io::Result<Histogram<u64>> {
    let block = AlignedBuf::zeroed(BLOCK_BYTES);
    let mut latency = latency_histogram();
    let start = Instant::now();
    let mut position = 0;
    loop {
        let before = Instant::now();
        if before - start > WRITE_FOR {
            return Ok(latency);
        }
        write(file, &block, position)?;
        latency.saturating_record(before.elapsed().as_nanos() as u64);
        position = (position + BLOCK_BYTES as u64) % FILE_BYTES as u64;
    }
}

fn round_trips() -> io::Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE_BYTES];
        while stream.read_exact(&mut message).is_ok() {
            stream.write_all(&message)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut latency = latency_histogram();
    let mut message = [7; MESSAGE_BYTES];
    for number in 0..ROUND_TRIPS {
        let before = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if number >= ROUND_TRIPS / 10 {
            latency.saturating_record(before.elapsed().as_nanos() as u64);
        }
    }
    drop(stream);
    echo.join().expect("the echo thread does not panic")?;
    Ok(latency)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_baseline_is_taken_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut baseline = Baseline::measure(dir.path()).unwrap();
        assert!(baseline.flush.len() >= WRITERS as u64);
        assert!(baseline.dsync.len() >= WRITERS as u64);
        assert_eq!(baseline.round_trip.len(), (ROUND_TRIPS - ROUND_TRIPS / 10) as u64);
        assert!(baseline.commit_bound_ns() >= baseline.round_trip.value_at_quantile(0.5));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let once = baseline.clone();
        baseline.add(&once);
        assert_eq!(baseline.flush.len(), 2 * once.flush.len());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Baseline::measure(Path::new("/no/such/place")).unwrap_err().to_string();
        assert!(error.contains("/no/such/place"), "{error}");
    }
}
