//! A segmented write-ahead log with group commit and labelled recovery, over a replaceable disk.
//!
//! This crate knows nothing of Raft, of a runtime, or of file descriptors: every effect goes through
//! [`Disk`] and [`DiskFile`]. One thread owns a log; its futures run on any executor.
//!
//! # How it is used
//! 1. [`Wal::open`] reads the log and gives every record to a visitor. It says how the log had ended
//!    ([`Recovery`]), and refuses to start on damage to acknowledged records.
//! 2. Run the [`Driver`] as a task: it does the writes, and prepares segments ahead of them.
//! 3. [`Wal::append`] takes a group of records. It copies them into the current batch and returns their
//!    position; nothing waits. All groups that arrive while writes are in flight share the next write.
//! 4. Acknowledge a record when [`Wal::durable`] has reached its position: [`Wal::durable_beyond`] waits.
//! 5. [`Wal::trim`] gives up what is no longer needed; [`Wal::close`] ends the log in order.
//!
//! When a write or flush fails, the log **latches**: nothing is acknowledged any more, nothing is tried
//! again, [`Wal::failure`] says why. A full disk is different: see [`Wal::has_room`].
//!
//! ```
//! use coracle_wal::mem::{MemDisk, run_to_end};
//! use coracle_wal::{Options, Record, RecordView, Wal};
//! use futures_util::future::join;
//!
//! let disk = MemDisk::new();
//! run_to_end(async {
//!     let (wal, driver, _) = Wal::open(disk.clone(), Options::default(), &mut |_: RecordView<'_>| ()).await?;
//!     let work = async {
//!         let record = Record { stream: 7, kind: 1, head: b"hello, ", body: b"world" };
//!         let lsn = wal.append(&[record])?.end;
//!         while wal.durable() < lsn {
//!             wal.durable_beyond(wal.durable()).await?;
//!         }
//!         // The record survives any crash from here on.
//!         wal.close().await;
//!         Ok::<_, Box<dyn std::error::Error>>(())
//!     };
//!     let (driver, work) = join(driver.run(), work).await;
//!     driver?;
//!     work
//! })?;
//!
//! let mut found = Vec::new();
//! let mut visit = |record: RecordView<'_>| found.push((record.stream, record.payload.to_vec()));
//! let (_wal, _driver, recovery) = run_to_end(Wal::open(disk, Options::default(), &mut visit))?;
//! assert_eq!(found, [(7, b"hello, world".to_vec())]);
//! assert_eq!(recovery.label, coracle_wal::recovery::Label::CleanEnd);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! The format on disk is described in `docs/wal-format.md`.

#[macro_use]
mod probe;

mod batch;
mod buf;
mod cold;
mod commit;
mod disk;
mod driver;
mod error;
pub mod follow;
mod format;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod mem;
mod reader;
pub mod recovery;
mod scan;
mod segment;
mod state;
mod summary;
pub mod transfer;
mod types;
mod waiters;
mod writer;

pub use buf::AlignedBuf;
pub use cold::{ColdBatch, ColdRecord, LogReader, ReadError};
pub use disk::{Disk, DiskFile, NamesLatch, OpenMode};
pub use driver::Driver;
pub use error::{AppendError, OpenError, WalFailure};
pub use probe::probes;
pub use recovery::Recovery;
pub use types::{Appended, Lsn, Options, Record, RecordView, Replay, SegmentInfo, Stats};
pub use writer::{DurableBeyond, Wal};
