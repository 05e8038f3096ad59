//! The targets, one file each.

mod commands;
mod config;
mod echo;
mod frames;
mod hello;
mod kv_payload;
mod manifest;
mod reply;
mod resp;
mod session;
mod snapshot;
mod timers;
mod transfer;
mod wal_batch;
mod wal_image;
mod wal_oracle;
mod wal_records;
mod wal_recovery;

use crate::Target;

/// All targets.
pub const TARGETS: &[Target] = &[
    resp::TARGET,
    commands::TARGET,
    kv_payload::TARGET,
    snapshot::TARGET,
    frames::TARGET,
    hello::TARGET,
    manifest::TARGET,
    transfer::TARGET,
    session::TARGET,
    timers::TARGET,
    wal_batch::TARGET,
    wal_recovery::TARGET,
    wal_records::TARGET,
    config::TARGET,
];

/// Sizes of the pieces in which an input arrives: all of them small or a mix, by the input itself.
fn steps(data: &[u8]) -> impl Iterator<Item = usize> {
    let mut rng = fastrand::Rng::with_seed(u64::from(crc32fast::hash(data)));
    let largest = [1, 3, 40, 5000][rng.usize(..4)];
    std::iter::repeat_with(move || rng.usize(1..=largest))
}

/// Little-endian number at `at`, if it is there.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Little-endian number at `at`, if it is there.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
