//! What the machine itself does with large transfers, taken in the same run: O_DIRECT reads and writes
//! of 1 MiB, a loopback connection, and all three one after the other.
//!
//! Threads that block in the kernel are the depth: at 1 MiB a request, a system call more or less does
//! not show. Where the file system refuses O_DIRECT the page cache is used, and the figure says so.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coracle_wal::AlignedBuf;
use serde::Serialize;

/// Bytes of one request: what PLATFORM facts found best for cold reads.
const REQUEST_BYTES: u64 = 1 << 20;
/// Reads in flight.
pub const READ_DEPTH: u64 = 16;
/// Writes in flight: more bring nothing.
const WRITE_DEPTH: u64 = 4;
/// Connections that read, send and write at the same time.
const RELAYS: u64 = 4;

/// Raw rates in MiB/s.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RawRates {
    /// O_DIRECT reads at depth 16.
    pub read: f64,
    /// O_DIRECT writes at depth 4 into a file that exists, with the final flush.
    pub write: f64,
    /// From memory to memory over loopback.
    pub loopback: f64,
    /// Read, sent and written again: all three at the same time, on this one machine.
    pub relay: f64,
    /// Whether the files were opened with O_DIRECT.
    pub direct: bool,
}

impl RawRates {
    /// Measures with these files.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn with(files: &Relay) -> io::Result<Self> {
        let Relay { source, bytes, direct, .. } = files;
        Ok(Self {
            write: write(source, *bytes)?,
            read: read(&[(source.try_clone()?, *bytes)])?,
            loopback: loopback(*bytes)?,
            relay: files.run()?,
            direct: *direct,
        })
    }

    /// The slowest of the three, which bounds a transfer.
    pub fn bound(&self) -> f64 {
        self.read.min(self.write).min(self.loopback)
    }
}

/// Two files, to read from and to write to. They go with this.
#[derive(Debug)]
pub struct Relay {
    source: File,
    target: File,
    bytes: u64,
    /// Whether the files were opened with O_DIRECT.
    direct: bool,
    _scratch: [Scratch; 2],
}

impl Relay {
    /// Writes both files, of `bytes` bytes, in `dir`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn prepare(dir: &Path, bytes: u64) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(REQUEST_BYTES);
        let scratch = [Scratch::new(dir, "raw-from"), Scratch::new(dir, "raw-to")];
        let [from, to] = &scratch;
        let (source, direct) = from.open()?;
        write(&source, bytes)?;
        let (target, _) = to.open()?;
        write(&target, bytes)?;
        Ok(Self { source, target, bytes, direct, _scratch: scratch })
    }

    /// Reads the one, sends it over loopback and writes the other, all at the same time; MiB/s.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn run(&self) -> io::Result<f64> {
        relay(&self.source, &self.target, self.bytes)
    }
}

/// Reads the files `paths` from their beginning to their end, at depth 16; MiB/s.
///
/// # Errors
/// What the operating system says.
pub fn read_files(paths: &[PathBuf]) -> io::Result<f64> {
    let mut files = Vec::new();
    for path in paths {
        let (file, _) = open_direct(OpenOptions::new().read(true), path)?;
        let bytes = file.metadata()?.len();
        files.push((file, bytes));
    }
    read(&files)
}

/// A file that goes with this.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path, name: &str) -> Self {
        Self(dir.join(name))
    }

    fn open(&self) -> io::Result<(File, bool)> {
        open_direct(OpenOptions::new().create(true).truncate(true).read(true).write(true), &self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed goes with the directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<(File, bool)> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    match options.clone().custom_flags(direct).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Ok((options.open(path)?, false))
        }
        other => Ok((other?, true)),
    }
}

/// Runs `work` on `depth` threads; each takes the next request until there is none.
fn in_parallel(
    requests: u64,
    depth: u64,
    work: impl Fn(u64, &mut AlignedBuf) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..depth)
            .map(|_| {
                let (next, work) = (&next, &work);
                scope.spawn(move || {
                    let mut buf = AlignedBuf::zeroed(REQUEST_BYTES as usize);
                    buf.iter_mut().zip((0..=250).cycle()).for_each(|(byte, value)| *byte = value);
                    loop {
                        let request = next.fetch_add(1, Ordering::Relaxed);
                        if request >= requests {
                            return Ok(());
                        }
                        work(request, &mut buf)?;
                    }
                })
            })
            .collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked()));
        results.collect()
    })
}

fn panicked() -> io::Result<()> {
    Err(io::Error::other("a thread of a raw measurement panicked"))
}

fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / (1 << 20) as f64 / elapsed.as_secs_f64().max(1e-9)
}

fn write(file: &File, bytes: u64) -> io::Result<f64> {
    let start = Instant::now();
    in_parallel(bytes / REQUEST_BYTES, WRITE_DEPTH, |request, buf| {
        file.write_all_at(buf, request * REQUEST_BYTES)
    })?;
    file.sync_data()?;
    Ok(rate(bytes, start.elapsed()))
}

fn read(files: &[(File, u64)]) -> io::Result<f64> {
    // Where each request reads.
    let requests: Vec<(usize, u64)> = files
        .iter()
        .enumerate()
        .flat_map(|(nth, (_, bytes))| {
            (0..bytes.div_ceil(REQUEST_BYTES)).map(move |request| (nth, request * REQUEST_BYTES))
        })
        .collect();
    let read = AtomicU64::new(0);
    let start = Instant::now();
    in_parallel(requests.len() as u64, READ_DEPTH, |request, buf| {
        let (nth, position) = requests[request as usize];
        // Short only at the end of a file.
        let count = files[nth].0.read_at(buf, position)?;
        read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    })?;
    Ok(rate(read.load(Ordering::Relaxed), start.elapsed()))
}

fn loopback(bytes: u64) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let receiver = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buf = vec![0; REQUEST_BYTES as usize];
        while stream.read(&mut buf)? > 0 {}
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    let buf = vec![7; REQUEST_BYTES as usize];
    let start = Instant::now();
    for _ in 0..bytes / REQUEST_BYTES {
        stream.write_all(&buf)?;
    }
    drop(stream);
    receiver.join().unwrap_or_else(|_| panicked())?;
    Ok(rate(bytes, start.elapsed()))
}

/// Each of some connections takes its share of the file: read, send | receive, write.
fn relay(source: &File, target: &File, bytes: u64) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let pairs: Vec<(TcpStream, TcpStream)> = (0..RELAYS)
        .map(|_| Ok((TcpStream::connect(address)?, listener.accept()?.0)))
        .collect::<io::Result<_>>()?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (nth, (mut stream, received)) in (0..).zip(pairs) {
            threads.push(scope.spawn(move || receive_and_write(received, target)));
            threads.push(scope.spawn(move || -> io::Result<()> {
                let mut buf = AlignedBuf::zeroed(REQUEST_BYTES as usize);
                for request in (nth..bytes / REQUEST_BYTES).step_by(RELAYS as usize) {
                    source.read_exact_at(&mut buf, request * REQUEST_BYTES)?;
                    stream.write_all(&request.to_le_bytes())?;
                    stream.write_all(&buf)?;
                }
                Ok(())
            }));
        }
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked()));
        results.collect::<io::Result<()>>()
    })?;
    target.sync_data()?;
    Ok(rate(bytes, start.elapsed()))
}

fn receive_and_write(mut stream: TcpStream, target: &File) -> io::Result<()> {
    let mut buf = AlignedBuf::zeroed(REQUEST_BYTES as usize);
    let mut number = [0; 8];
    loop {
        match stream.read_exact(&mut number) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        stream.read_exact(&mut buf)?;
        target.write_all_at(&buf, u64::from_le_bytes(number) * REQUEST_BYTES)?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_are_measured_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = Relay::prepare(dir.path(), 5 << 20).unwrap();
        let rates = RawRates::with(&files).unwrap();
        drop(files);
        for rate in [rates.read, rates.write, rates.loopback, rates.relay] {
            assert!(rate > 0.0, "{rates:?}");
        }
        assert!(rates.bound() <= rates.read);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_of_odd_length_are_read_to_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd");
        std::fs::write(&path, vec![1; (1 << 20) + 4096]).unwrap();
        assert!(read_files(&[path]).unwrap() > 0.0);
    }
}
