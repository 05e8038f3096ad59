//! What the device and the loopback interface do with nothing of ours between: the bounds of a transfer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use coracle::uring::bare::{IoUring, opcode, types};
use coracle_wal::AlignedBuf;

/// Bytes of one read, write or send: as long as a chunk.
const STEP: usize = 1 << 20;
/// Transfers in flight: what PLATFORM facts say a fast device needs.
const DEPTH: usize = 8;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// Makes a file of `bytes` that are not zeros, durable.
pub(super) fn make(path: &Path, bytes: u64) -> io::Result<()> {
    run(path, bytes, Way::Write).map(|_| ())
}

/// Reads or writes `bytes` of a file with O_DIRECT, in order, several at once. A write goes to a new file
/// whose space is reserved, as a transfer does, and ends with a flush.
pub(super) fn run(path: &Path, bytes: u64, way: Way) -> io::Result<Duration> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    if way == Way::Write {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        options.create_new(true);
    }
    let file = options.open(path)?;
    let mut bufs: Vec<AlignedBuf> = (0..DEPTH).map(|_| AlignedBuf::zeroed(STEP)).collect();
    bufs.iter_mut().for_each(|buf| buf.iter_mut().zip((0..=250).cycle()).for_each(|(b, v)| *b = v));
    let start = Instant::now();
    if way == Way::Write {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    }
    go(&file, bytes, way, &mut bufs)?;
    if way == Way::Write {
        file.sync_data()?;
    }
    Ok(start.elapsed())
}

fn go(file: &File, bytes: u64, way: Way, bufs: &mut [AlignedBuf]) -> io::Result<()> {
    let mut ring = IoUring::new(DEPTH as u32)?;
    let (mut position, mut running) = (0, 0);
    let mut free: Vec<usize> = (0..bufs.len()).collect();
    loop {
        while position < bytes
            && let Some(index) = free.pop()
        {
            let fd = types::Fd(file.as_raw_fd());
            let buf = &mut bufs[index];
            let entry = match way {
                Way::Read => {
                    opcode::Read::new(fd, buf.as_mut_ptr(), STEP as u32).offset(position).build()
                }
                Way::Write => {
                    opcode::Write::new(fd, buf.as_ptr(), STEP as u32).offset(position).build()
                }
            };
            position += STEP as u64;
            running += 1;
            // SAFETY: the buffer is not touched before its completion was seen; on an error the program
            // ends.
            let pushed = unsafe { ring.submission().push(&entry.user_data(index as u64)) };
            pushed.map_err(io::Error::other)?;
        }
        if running == 0 {
            return Ok(());
        }
        ring.submit_and_wait(1)?;
        for entry in ring.completion() {
            if entry.result() < 0 {
                return Err(io::Error::from_raw_os_error(-entry.result()));
            }
            if entry.result() as usize != STEP {
                return Err(io::Error::other("a short transfer of the raw file"));
            }
            running -= 1;
            free.push(entry.user_data() as usize);
        }
    }
}

/// Sends `bytes` from one thread to another over the loopback interface.
pub(super) fn loopback(bytes: u64) -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sending = thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let piece = vec![7; STEP];
        for _ in 0..bytes / STEP as u64 {
            stream.write_all(&piece)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    let mut buf = vec![0; STEP];
    let start = Instant::now();
    for _ in 0..bytes / STEP as u64 {
        stream.read_exact(&mut buf)?;
    }
    let elapsed = start.elapsed();
    sending.join().map_err(|_| io::Error::other("the sending thread panicked"))??;
    Ok(elapsed)
}

/// Reads one file and writes another one at the same time; the longer of the two.
pub(super) fn both(from: &Path, to: &Path, bytes: u64) -> io::Result<Duration> {
    let from = from.to_owned();
    let reading = thread::spawn(move || run(&from, bytes, Way::Read));
    let wrote = run(to, bytes, Way::Write)?;
    let read = reading.join().map_err(|_| io::Error::other("the reading thread panicked"))??;
    Ok(wrote.max(read))
}
