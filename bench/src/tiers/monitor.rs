//! Looks at the nodes from outside while a run lasts, each 100 ms, on a thread of its own: resident
//! memory, and allocated blocks of the data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::Serialize;

/// Extension of files of snapshots' chunks.
const CHUNKS: &str = "chunks";
/// Time between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// Bytes of a block as `stat` counts them (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

/// What one look found.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    node: u64,
    /// `VmRSS`; none while the node does not run.
    rss_bytes: Option<u64>,
    /// Allocated bytes by kind of file; none if the directory cannot be read.
    disk: Option<Disk>,
}

/// Allocated bytes of a data directory, by kind of file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Kind of file (the letters that its name begins with) and bytes.
    pub kinds: BTreeMap<String, u64>,
    /// Of snapshots' chunks, what has been written: their files get all their space at once.
    pub chunks_written: u64,
}

impl Disk {
    /// Walks `dir`. What goes away meanwhile is not counted.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let mut disk = Self::default();
        for path in files_below(dir)? {
            let Some(meta) = unless_gone(fs::symlink_metadata(&path))? else { continue };
            let name = path.file_name().unwrap_or_default();
            let kind = kind_of(&name.to_string_lossy());
            *disk.kinds.entry(kind).or_default() += meta.blocks() * STAT_BLOCK_BYTES;
            if path.extension().is_some_and(|extension| extension == CHUNKS) {
                let Some(file) = unless_gone(File::open(&path))? else { continue };
                disk.chunks_written += written_bytes(&file)?;
            }
        }
        Ok(disk)
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }
}

/// All files in `dir` and its directories, in no order.
///
/// # Errors
/// What the operating system says; what goes away meanwhile is left out.
pub fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Some(entries) = unless_gone(fs::read_dir(dir))? else { return Ok(files) };
    for entry in entries {
        let Some(entry) = unless_gone(entry)? else { continue };
        let Some(kind) = unless_gone(entry.file_type())? else { continue };
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Bytes of a file that were written, as the file system knows them; space that is only allocated does
/// not count (lseek(2), `SEEK_DATA`).
fn written_bytes(file: &File) -> io::Result<u64> {
    let mut written = 0;
    let mut position = 0;
    loop {
        let begin = match seek(file, SeekFrom::Data(position)) {
            Ok(begin) => begin,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => return Ok(written),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(begin))?;
        written += end - begin;
        position = end;
    }
}

fn kind_of(name: &str) -> String {
    let letters: String = name.chars().take_while(char::is_ascii_alphabetic).collect();
    if letters.is_empty() { "other".to_owned() } else { letters.to_ascii_lowercase() }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `VmRSS` of a process in bytes; none if it is gone.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The samples of a run.
#[derive(Debug)]
pub struct Monitor {
    dir: PathBuf,
    pids: Mutex<BTreeMap<u64, u32>>,
    samples: Mutex<Vec<Sample>>,
    stop: AtomicBool,
}

/// Keeps the monitor's thread; it ends with this.
#[derive(Debug)]
pub struct Watching {
    monitor: Arc<Monitor>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts to look at the nodes whose data lies in `dir`.
    pub fn start(dir: &Path) -> (Arc<Self>, Watching) {
        let monitor = Arc::new(Self {
            dir: dir.to_owned(),
            pids: Mutex::default(),
            samples: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let looking = Arc::clone(&monitor);
        let thread = std::thread::spawn(move || looking.run());
        let watching = Watching { monitor: Arc::clone(&monitor), thread: Some(thread) };
        (monitor, watching)
    }

    /// Node `id` runs as process `pid`.
    pub fn watch(&self, id: u64, pid: u32) {
        lock(&self.pids).insert(id, pid);
    }

    /// Node `id` does not run any more.
    pub fn forget(&self, id: u64) {
        lock(&self.pids).remove(&id);
    }

    fn run(&self) {
        let mut known = BTreeSet::new();
        while !self.stop.load(Ordering::Relaxed) {
            let next = Instant::now() + EVERY;
            let pids = lock(&self.pids).clone();
            known.extend(pids.keys().copied());
            for &node in &known {
                let rss_bytes = pids.get(&node).and_then(|pid| rss_bytes(*pid));
                let disk = Disk::of(&self.dir.join(format!("node-{node}"))).ok();
                let sample = Sample { at: Instant::now(), node, rss_bytes, disk };
                lock(&self.samples).push(sample);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn select<T>(
        &self,
        node: u64,
        from: Instant,
        to: Instant,
        pick: impl Fn(&Sample) -> Option<T>,
    ) -> Vec<T> {
        let samples = lock(&self.samples);
        let wanted = |sample: &&Sample| sample.node == node && (from..=to).contains(&sample.at);
        samples.iter().filter(wanted).filter_map(pick).collect()
    }

    /// Most resident memory of a node in a span of time; 0 without any sample.
    pub fn rss_max(&self, node: u64, from: Instant, to: Instant) -> u64 {
        self.select(node, from, to, |sample| sample.rss_bytes).into_iter().max().unwrap_or(0)
    }

    /// Most disk of a node in a span of time, and what of it was of which kind then.
    pub fn disk_max(&self, node: u64, from: Instant, to: Instant) -> Disk {
        let disks = self.select(node, from, to, |sample| sample.disk.clone());
        disks.into_iter().max_by_key(Disk::total).unwrap_or_default()
    }

    /// What was written of a node's snapshots' chunks, over a span of time.
    pub fn chunks_written(&self, node: u64, from: Instant, to: Instant) -> Vec<(Instant, u64)> {
        self.select(node, from, to, |sample| {
            Some((sample.at, sample.disk.as_ref()?.chunks_written))
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.monitor.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn our_own_memory_and_the_blocks_of_a_directory_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("node-1/core-000")).unwrap();
        let file = File::create(dir.path().join("node-1/core-000/snap-7.chunks")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
        file.write_all_at(&vec![1; 100_000], 40_960).unwrap();
        let start = Instant::now();
        let (monitor, watching) = Monitor::start(dir.path());
        monitor.watch(1, std::process::id());
        while monitor.rss_max(1, start, Instant::now()) == 0
            || monitor.chunks_written(1, start, Instant::now()).is_empty()
        {
            std::thread::yield_now();
        }
        let now = Instant::now();
        assert!(monitor.rss_max(1, start, now) > 1 << 20);
        let disk = monitor.disk_max(1, start, now);
        assert!(disk.total() >= 1 << 20, "{disk:?}");
        assert!((100_000..200_000).contains(&disk.chunks_written), "{disk:?}");
        drop(watching);
    }

    #[test]
    fn kinds_are_the_letters_before_the_number() {
        for (name, kind) in [
            ("seg-12", "seg"),
            ("snap-00000001-2.chunks", "snap"),
            ("LOCK", "lock"),
            (".tmp1", "other"),
        ] {
            assert_eq!(kind_of(name), kind);
        }
    }
}
