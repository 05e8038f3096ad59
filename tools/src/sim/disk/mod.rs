//! The simulated disk: files in memory with everything that real disks do to logs.
//!
//! A [`SimDevice`] is the disk of a node; [`SimDevice::disk`] gives the directory of one of its cores, which
//! is what [`coracle_wal::Wal`] works on. The cores share latency, stalls, room and crashes.
//!
//! # Content
//! Every file has two images: what is **durable**, and what readers see: that, and later changes that are
//! only in the **cache**. Changes of content, sizes and names are separate things. An operation takes
//! effect at one moment, when it completes, and these moments are in any order, also for writes of one file:
//!
//! * `write_at`, `allocate`, `open` of a new file, `rename`, `remove`: in the cache;
//! * `write_durable`: its bytes, and the size up to their end, are durable; nothing else is;
//! * `sync`: all changes of the file (content and size) that were complete when it was submitted are
//!   durable, not what completed since;
//! * `sync_dir`: likewise for names. A file without a durable name is lost however durable its content.
//!
//! Nothing becomes durable by itself before it must: "durable" is what survives a power cut at this moment
//! for sure, and the checks hold every promise against it ([`SimDisk::read_durable`],
//! [`SimDisk::drain_durable`]). A power cut may keep more.
//!
//! # What happens by itself ([`DiskWeather`], fixed for each seed)
//! Latency with jitter, rare long stalls, a shared throughput; transfers that are short (writes at a multiple
//! of 512 bytes, reads of a block) or answered with `WouldBlock` or `Interrupted`, which did nothing then. A
//! short durable write leaves nothing durable.
//!
//! # What the plan does
//! * [`SimDevice::fail`]: operations of some kinds fail so many times, or until [`SimDevice::heal`]. A
//!   failed write may have reached the cache, in part. Neither it nor what a failed sync should have made
//!   durable becomes so by a later sync, although that one succeeds; by chance, part of it is
//!   durable. What readers see then is [`FailedSync`]; a new process sees what the device has unless
//!   [`DiskWeather::page_cache`].
//! * [`SimDevice::set_capacity`]: files can't grow beyond it. [`SimDevice::stall`]: nothing completes for a
//!   while. [`SimDevice::set_lying`]: flushes succeed and do nothing; a later honest one makes up for it.
//! * [`SimDevice::crash_process`]: operations in flight take effect fully, partly or not at all, at
//!   once: the kernel holds the lock of the directory until it is done with them. The cache survives.
//! * [`SimDevice::power_cut`]: each change that was not durable, also of operations in flight, is kept,
//!   lost, or torn into pages or sectors of 512 bytes of which any subset survives; with
//!   [`DiskWeather::garbage`] a torn sector may hold noise. Changes of sizes and names are drawn apart from the
//!   content. Only changes of the same name depend on each other. One cut in ten keeps everything,
//!   one in ten nothing.
//! * Damage of what was durable: [`SimDisk::rot`], [`SimDisk::make_unreadable`], [`SimDisk::make_stale`],
//!   [`SimDisk::misdirect_next_write`], [`SimDisk::lose_next_write`]. It happens only when asked for, since
//!   whoever asks keeps count of the intact copies; [`SimDevice::drain_damage`] says what was hit.
//!
//! # Not modelled
//! Files that shrink; damage of names; reads that return other content than the next read; a directory
//! that turns read-only.

mod crash;
mod damage;
mod device;
mod effects;
mod image;
mod names;
mod node;
mod ops;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wal_tests;
mod watch;
mod weather;

pub use damage::{Damage, DamageKind};
pub use device::{DiskError, OpKind, SimDevice};
pub use image::SECTOR_BYTES;
pub use ops::{SimDisk, SimFile};
pub use watch::DurableChange;
pub use weather::{DiskWeather, FailedSync, Latency};
