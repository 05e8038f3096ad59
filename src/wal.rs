//! The log on its own: segmented, group-committed, checked on recovery; without Raft, on any thread
//! per core that [`run`] or [`crate::runtime::spawn_core`] starts.
//!
//! One directory holds one log, and one core writes it. [`open`] reads back what is there, begins a
//! new generation and starts the log's driver. Then [`Log::append`](coracle_wal::Wal::append) takes
//! groups of records at once and in order, and [`until_durable`] waits for one of them: whatever was
//! appended meanwhile, by any number of tasks, shares one durable write.
//!
//! `examples/wal.rs` is a complete program.

use std::io;
use std::path::{Path, PathBuf};

pub use coracle_wal::recovery::{Extent, Label};
pub use coracle_wal::{
    AppendError, Appended, Lsn, OpenError, Options, Record, RecordView, Recovery, Replay,
    SegmentInfo, Stats, Wal, WalFailure,
};
use thiserror::Error;

use crate::runtime::{CoreSpec, GlommioEnv, RuntimeError, spawn_core, tasks};
use crate::uring::{UringDisk, UringOptions};

/// A log on a disk of this machine. Clones are handles of the same log.
pub type Log = Wal<UringDisk>;

/// Why a log could not be opened.
#[derive(Debug, Error)]
pub enum OpenLogError {
    /// Its directory could not be made or opened.
    #[error("cannot open the log's directory {dir}: {source}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The directory's content is not a log of this kind, or is damaged.
    #[error("cannot open the log in {dir}: {source}")]
    Log {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: OpenError,
    },
}

/// Opens the log in `dir` on this core, or begins one there; the directory is made if need be. Gives
/// its content to `replay`, oldest first, and starts the log's driver as a task of this core.
///
/// Close the log with [`Log::close`](coracle_wal::Wal::close) before the core ends; without that
/// nothing acknowledged is lost, and the next start finds an end that may have been torn.
///
/// # Errors
/// See [`OpenLogError`]; what was given to `replay` until then must be forgotten.
///
/// # Panics
/// Outside of a core.
pub async fn open(
    dir: &Path,
    disk: UringOptions,
    options: Options,
    replay: &mut dyn Replay,
) -> Result<(Log, Recovery), OpenLogError> {
    let at = |source| OpenLogError::Directory { dir: dir.to_owned(), source };
    make_dir(dir).map_err(at)?;
    let disk = UringDisk::open_with(dir, disk).await.map_err(at)?;
    let (log, driver, recovery) = Wal::open(disk, options, replay)
        .await
        .map_err(|source| OpenLogError::Log { dir: dir.to_owned(), source })?;
    let queue = glommio::executor().current_task_queue();
    let run = async {
        if let Err(failure) = driver.run().await {
            // Latched: every append and wait from now on says so, too.
            tracing::error!(%failure, "the log failed");
        }
    };
    tasks::spawn(run, queue).map_err(|error| at(io::Error::other(error.to_string())))?;
    Ok((log, recovery))
}

/// Waits until the record at `lsn`, as [`Log::append`](coracle_wal::Wal::append) gave it, survives
/// any crash.
///
/// # Errors
/// [`WalFailure`] when the log ended before.
pub async fn until_durable(log: &Log, lsn: Lsn) -> Result<(), WalFailure> {
    // A position is the byte behind its record: durable there is beyond the byte before.
    log.durable_beyond(Lsn(lsn.0.saturating_sub(1))).await?;
    Ok(())
}

/// Runs `task` on a core of its own, unpinned, and waits for its end. For programs that need the log
/// and no more; others call [`spawn_core`] and keep the handle.
///
/// # Errors
/// The host cannot run a core (the message says why and what to do), or the task panicked.
pub fn run<T, F, Fut>(task: F) -> Result<T, RuntimeError>
where
    F: FnOnce(GlommioEnv) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    spawn_core(CoreSpec::new("coracle-log"), task)?.join()
}

/// Makes the directory `dir` and those above it, durably. Blocking.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dir(parent)?;
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::rc::Rc;

    fn record(body: &[u8]) -> [Record<'_>; 1] {
        [Record { stream: 7, kind: 1, head: b"#", body }]
    }

    async fn reopen(dir: &Path) -> (Log, Vec<Vec<u8>>) {
        let mut found = Vec::new();
        let mut visit = |record: RecordView<'_>| found.push(record.payload.to_vec());
        let opened = open(dir, UringOptions::default(), Options::default(), &mut visit).await;
        (opened.unwrap().0, found)
    }

    #[test]
    fn what_was_durable_is_read_back_after_a_close_and_after_none() {
        let dir = tempfile::tempdir().unwrap();
        for close in [true, false] {
            let path = dir.path().join(format!("new/log-{close}"));
            let writer = path.clone();
            run(move |_| async move {
                let (log, found) = reopen(&writer).await;
                assert!(found.is_empty());
                let mut last = Lsn(0);
                for i in 0..100_u8 {
                    last = log.append(&record(&[i; 300])).unwrap().end;
                }
                until_durable(&log, last).await.unwrap();
                if close {
                    log.close().await;
                }
            })
            .unwrap();
            run(move |_| async move {
                let (log, found) = reopen(&path).await;
                assert_eq!(found.len(), 100);
                for (i, payload) in found.iter().enumerate() {
                    assert_eq!(payload[0], b'#');
                    assert!(payload.len() == 301 && payload[1..].iter().all(|b| *b == i as u8));
                }
                log.close().await;
            })
            .unwrap();
        }
    }

    #[test]
    fn many_tasks_share_durable_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        run(move |_| async move {
            let (log, _) = reopen(&path).await;
            let log = Rc::new(log);
            let tasks = (0..500_u32).map(|i| {
                let log = log.clone();
                async move {
                    let lsn = log.append(&record(&i.to_le_bytes())).unwrap().end;
                    until_durable(&log, lsn).await.unwrap();
                }
            });
            futures_util::future::join_all(tasks).await;
            let stats = log.stats();
            assert_eq!(stats.records, 500);
            assert!(stats.batches < 250, "{} batches for 500 records", stats.batches);
            log.close().await;
        })
        .unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = run(|_| async {
            let dir = Path::new("/proc/no-such/log");
            open(dir, UringOptions::default(), Options::default(), &mut |_: RecordView<'_>| {})
                .await
                .err()
        });
        let error = error.unwrap().unwrap().to_string();
        assert!(error.contains("/proc/no-such"), "{error}");
    }
}
