//! The raw device: durable writes through a bare ring, with nothing of ours between.
//!
//! The thread blocks in the kernel until a write completes ("idle"), or computes and looks at the
//! completion queue now and then ("core busy"). The file is filled with zeros before, as segments of
//! the log are.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle::uring::SyncMethod;
use coracle::uring::bare::{IoUring, opcode, squeue::Flags, types};
use coracle_wal::AlignedBuf;

use super::{Mode, Sample, compute};

/// Size of the file that is written round and round.
pub(super) const FILE_BYTES: u64 = 64 << 20;

/// Reads of [`read_files`], and how many of them are in flight.
const READ_BYTES: usize = 1 << 20;
const READ_DEPTH: usize = 16;

/// A bare ring and its file.
pub(super) struct RawDevice {
    ring: IoUring,
    file: File,
    method: SyncMethod,
    position: u64,
}

struct InFlight {
    buf: AlignedBuf,
    since: Instant,
}

impl RawDevice {
    /// Makes the file `path` and fills it with zeros. Blocking.
    pub(super) fn new(path: &Path, method: SyncMethod, direct: bool) -> io::Result<Self> {
        let mut filler = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            filler.write_all(&zeros)?;
        }
        filler.sync_all()?;
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        Ok(Self { ring: IoUring::new(64)?, file, method, position: 0 })
    }

    /// Keeps `depth` writes of `bytes` in flight for `time`. Blocks the core.
    pub(super) fn run(
        &mut self,
        bytes: usize,
        depth: usize,
        time: Duration,
        mode: Mode,
    ) -> io::Result<Sample> {
        let start = Instant::now();
        let mut sample = Sample::new();
        let mut slots: Vec<InFlight> =
            (0..depth).map(|_| InFlight { buf: pattern(bytes), since: start }).collect();
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.since = Instant::now();
            self.submit(index, &slot.buf, bytes)?;
        }
        let mut running = depth;
        while running > 0 {
            match mode {
                Mode::Idle => drop(self.ring.submit_and_wait(1)?),
                Mode::Busy => compute(),
            }
            loop {
                let next = self.ring.completion().next();
                let Some(entry) = next else { break };
                if entry.result() < 0 {
                    return Err(io::Error::from_raw_os_error(-entry.result()));
                }
                let now = Instant::now();
                let slot = &mut slots[entry.user_data() as usize];
                sample.record(now - slot.since, bytes as u64);
                if now - start < time {
                    slot.since = now;
                    self.submit(entry.user_data() as usize, &slot.buf, bytes)?;
                } else {
                    running -= 1;
                }
            }
        }
        sample.elapsed = start.elapsed();
        Ok(sample)
    }

    fn submit(&mut self, index: usize, buf: &AlignedBuf, bytes: usize) -> io::Result<()> {
        if self.position + bytes as u64 > FILE_BYTES {
            self.position = 0;
        }
        let fd = types::Fd(self.file.as_raw_fd());
        let write = opcode::Write::new(fd, buf.as_ptr(), bytes as u32).offset(self.position);
        self.position += bytes as u64;
        let id = index as u64;
        let mut queue = self.ring.submission();
        // SAFETY: the buffer lives until `run` has seen the completion of this write (on an error
        // the program ends), the descriptor as long as the ring.
        let pushed = unsafe {
            match self.method {
                SyncMethod::BufferedNone => queue.push(&write.build().user_data(id)),
                SyncMethod::Dsync => {
                    queue.push(&write.rw_flags(libc::RWF_DSYNC).build().user_data(id))
                }
                SyncMethod::Linked | SyncMethod::Auto => queue.push_multiple(&[
                    write.build().flags(Flags::IO_LINK | Flags::SKIP_SUCCESS).user_data(id),
                    opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(id),
                ]),
            }
        };
        pushed.map_err(io::Error::other)?;
        drop(queue);
        self.ring.submit()?;
        Ok(())
    }
}

/// Reads the files from end to end; returns their bytes. Blocks the core.
pub(crate) fn read_files(paths: &[PathBuf], direct: bool) -> io::Result<u64> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let mut ring = IoUring::new(READ_DEPTH as u32)?;
    let files: Vec<File> = paths
        .iter()
        .map(|path| OpenOptions::new().read(true).custom_flags(flags).open(path))
        .collect::<Result<_, _>>()?;
    let mut places = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let bytes = file.metadata()?.len();
        places.extend((0..bytes).step_by(READ_BYTES).map(|offset| (number, offset)));
    }
    let mut slots: Vec<AlignedBuf> =
        (0..READ_DEPTH).map(|_| AlignedBuf::zeroed(READ_BYTES)).collect();
    let (mut next, mut running, mut bytes) = (places.iter(), 0, 0);
    let mut free: Vec<usize> = (0..READ_DEPTH).collect();
    loop {
        while let Some(slot) = free.last().copied()
            && let Some((file, offset)) = next.next()
        {
            free.pop();
            let fd = types::Fd(files[*file].as_raw_fd());
            let read = opcode::Read::new(fd, slots[slot].as_mut_ptr(), READ_BYTES as u32);
            let read = read.offset(*offset).build().user_data(slot as u64);
            // SAFETY: buffers and files live until all completions were seen (on an error the
            // program ends).
            unsafe { ring.submission().push(&read) }.map_err(io::Error::other)?;
            running += 1;
        }
        if running == 0 {
            return Ok(bytes);
        }
        ring.submit_and_wait(1)?;
        for entry in ring.completion() {
            if entry.result() < 0 {
                return Err(io::Error::from_raw_os_error(-entry.result()));
            }
            bytes += entry.result() as u64;
            free.push(entry.user_data() as usize);
            running -= 1;
        }
    }
}

/// What the log writes is not zeros, which a host may treat as less than a write.
pub(super) fn pattern(bytes: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes);
    buf.iter_mut().zip((0..=250).cycle()).for_each(|(byte, value)| *byte = value);
    buf
}
