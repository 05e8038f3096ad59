//! A durable log in a few lines: append, wait until it is durable, open again and read back.
//!
//! `cargo run --release --example wal -- /some/directory` (without one, a temporary directory).

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use coracle::uring::UringOptions;
use coracle::wal::{self, Options, Record, RecordView};

/// Kinds are the program's own; the log only keeps them.
const DEPOSIT: u8 = 1;

/// What can go wrong, from opening to closing.
pub type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match write_and_read() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn write_and_read() -> Result<(), Failure> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().into(), PathBuf::from);
    let before = wal::run({
        let dir = dir.clone();
        move |_| async move { write(dir).await }
    })??;
    let after = wal::run(move |_| async move { read(dir).await })??;
    println!("{before} records before, {after} after");
    Ok(())
}

/// Appends ten records and returns how many there were.
pub async fn write(dir: PathBuf) -> Result<usize, Failure> {
    let mut count = 0;
    let mut visit = |_: RecordView<'_>| count += 1;
    let (log, recovery) =
        wal::open(&dir, UringOptions::default(), Options::default(), &mut visit).await?;
    println!("opened: {recovery:?}");

    // Appends do not wait. The records of one call are there together after a crash, or not at all.
    let mut last = None;
    for amount in 1..=5_u64 {
        let body = amount.to_le_bytes();
        let one = Record { stream: 0, kind: DEPOSIT, head: b"alice", body: &body };
        let two = Record { head: b"bob", ..one };
        last = Some(log.append(&[one, two])?.end);
    }
    // One durable write for all of them, most likely; waiting for the last waits for all.
    if let Some(last) = last {
        wal::until_durable(&log, last).await?;
    }
    let stats = log.stats();
    println!("{} records in {} durable writes", stats.records, stats.durable_writes);
    log.close().await;
    Ok(count)
}

/// Returns how many records there are.
pub async fn read(dir: PathBuf) -> Result<usize, Failure> {
    let mut count = 0;
    let mut visit = |_: RecordView<'_>| count += 1;
    let (log, _) = wal::open(&dir, UringOptions::default(), Options::default(), &mut visit).await?;
    log.close().await;
    Ok(count)
}
