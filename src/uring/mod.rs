//! The disk of a core: an io_uring of its own, on the same thread as the core's executor.
//!
//! The executor's own ring knows neither linked requests nor data-sync writes, and cannot be shared.
//! So each core has a second ring for its log:
//!
//! * An operation is submitted at once by the task that wants it.
//! * Completions are looked for in user space whenever an operation is polled, and by one task, the
//!   *reaper*, after each turn of a busy core. On an idle core the ring signals an eventfd that the
//!   reaper awaits through the executor, so that it sleeps. The signals are never
//!   switched off, see `reaper.rs`.
//! * What is large and not durable waits for its turn while the log writes, see `pace.rs`.
//! * A durable write is one submission and one completion, see [`SyncMethod`].
//!
//! Plain ring set-up flags: `DEFER_TASKRUN` would hide completions until the next system call.

mod device;
mod disk;
mod pace;
mod reaper;
mod ring;

pub use device::{
    DeviceFacts, SyncChoice, SyncMethod, UnknownSyncMethod, WriteCache, choose_sync_method,
};
pub use disk::{UringDisk, UringFile, UringOptions};
/// The crate below, for a probe that measures the device without anything of ours in between.
#[doc(hidden)]
pub use io_uring as bare;

#[cfg(test)]
mod tests;
