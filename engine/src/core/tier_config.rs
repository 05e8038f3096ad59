//! How much of its shards' logs a core keeps, where, and when a shard gets a snapshot.
//!
//! All numbers are of one core, or of one shard where they say so; a node that has a budget as a whole
//! shares it out over its cores before.

use std::time::Duration;

use crate::limits::{OUTDATED_LOG_BYTES_MIN, OUTDATED_PARTS};

/// Segments that a budget for the disk has room for at least: the current one, the two that the log prepares
/// ahead unless told otherwise, and some to compact and for snapshots. With fewer, compaction could not
/// move what is alive out of the oldest segment before the budget is used up.
pub const DISK_SEGMENTS_MIN: u64 = 8;

/// Fewest bytes that a limit for transfers may leave per second: a chunk of 2 MiB takes half a minute then,
/// the longest that its receiver should wait for it.
pub const TRANSFER_BYTES_PER_S_MIN: u64 = 64 << 10;

/// When a core moves entries from memory to disk alone, takes snapshots, and gives up log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Bytes of entries ([`Entry::cost`](crate::raft::Entry::cost)) of all shards that are kept in memory.
    /// Beyond it, the oldest that are durable are forgotten, to be read from their segments when they are
    /// needed. What is not durable yet comes on top; `uncommitted_bytes_max` and the log's own buffer bound
    /// that. 0: nothing that is durable is kept.
    pub log_memory_bytes: u64,
    /// Bytes of this core's directory: segments, prepared ones, snapshots and those under way. When it
    /// nears, the core compacts, then takes snapshots, then refuses writes. 0: as much as the disk has.
    pub disk_bytes_max: u64,
    /// A shard gets a snapshot when its log since the last one is larger than this, and than that snapshot:
    /// so snapshots never write more than the log did, however large the state. Bytes, at least 1.
    pub snapshot_log_bytes: u64,
    /// A shard whose log has grown gets a snapshot after this time, however little it grew. `None`: never
    /// for that reason.
    pub snapshot_interval: Option<Duration>,
    /// Bytes of a shard's log that stay behind its newest snapshot, for followers that are a little
    /// behind: sending them is cheaper than a snapshot.
    pub keep_log_bytes: u64,
    /// How long the log stays beyond that for a follower that needs it, since it was heard from last or made
    /// progress last. After it, the follower gets a snapshot.
    pub keep_log_time: Duration,
    /// Bytes per second that all transfers of snapshots from this core may take together. 0: no limit.
    pub transfer_bytes_per_s: u64,
    /// Whether compacted segments are kept as `archive-N` files, which nothing here ever removes or
    /// counts, instead of being used again.
    pub archive: bool,
}

impl Default for TierConfig {
    /// What a node of one core has by default.
    fn default() -> Self {
        Self {
            log_memory_bytes: 192 << 20,
            disk_bytes_max: 0,
            snapshot_log_bytes: 64 << 20,
            snapshot_interval: None,
            keep_log_bytes: 32 << 20,
            keep_log_time: Duration::from_secs(60),
            transfer_bytes_per_s: 0,
            archive: false,
        }
    }
}

impl TierConfig {
    /// The first setting that makes no sense by itself or beside the log's options, in words.
    #[must_use]
    pub fn flaw(&self, wal: &coracle_wal::Options) -> Option<String> {
        if self.snapshot_log_bytes == 0 {
            return Some("snapshot_log_bytes is 0; at least 1".to_owned());
        }
        if self.snapshot_interval == Some(Duration::ZERO) {
            return Some("snapshot_interval is 0; leave it out to have none".to_owned());
        }
        let disk_min = DISK_SEGMENTS_MIN * wal.segment_bytes;
        if self.disk_bytes_max != 0 && self.disk_bytes_max < disk_min {
            return Some(format!(
                "disk_bytes_max is {}; with segments of {} bytes it must be 0 or at least {disk_min}",
                self.disk_bytes_max, wal.segment_bytes
            ));
        }
        let transfer = self.transfer_bytes_per_s;
        if transfer != 0 && transfer < TRANSFER_BYTES_PER_S_MIN {
            return Some(format!(
                "transfer_bytes_per_s is {transfer}; it must be 0 or at least \
                 {TRANSFER_BYTES_PER_S_MIN}"
            ));
        }
        None
    }

    /// Whether a shard should get a snapshot: its log has grown by `log_bytes` since the last one, which had
    /// `snapshot_bytes` and is `age` old (for the first one: 0 bytes, since the core's start).
    #[must_use]
    pub fn is_snapshot_due(&self, log_bytes: u64, snapshot_bytes: u64, age: Duration) -> bool {
        let grown = log_bytes > self.snapshot_log_bytes.max(snapshot_bytes);
        let old = self.snapshot_interval.is_some_and(|interval| age >= interval);
        grown || (old && log_bytes > 0)
    }

    /// Whether whoever has a snapshot of `snapshot_bytes`, and nothing of the `log_bytes` that came after it, is better
    /// off with a newer one. An entry is read, among those of all other shards, sent, stored and applied; a snapshot is
    /// written, read, sent, stored and read.
    #[must_use]
    pub fn is_outdated(&self, log_bytes: u64, snapshot_bytes: u64) -> bool {
        let little = OUTDATED_LOG_BYTES_MIN.min(self.keep_log_bytes);
        log_bytes > little.max(snapshot_bytes / OUTDATED_PARTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(change: impl FnOnce(&mut TierConfig)) -> String {
        let mut config = TierConfig::default();
        change(&mut config);
        config.flaw(&coracle_wal::Options::default()).unwrap_or_default()
    }

    #[test]
    fn the_defaults_work_and_flaws_are_named() {
        assert_eq!(flaw(|_| ()), "");
        assert_eq!(flaw(|c| c.disk_bytes_max = DISK_SEGMENTS_MIN * (64 << 20)), "");
        assert!(flaw(|c| c.disk_bytes_max = 1 << 20).starts_with("disk_bytes_max is 1048576"));
        assert!(flaw(|c| c.snapshot_log_bytes = 0).contains("snapshot_log_bytes"));
        assert!(flaw(|c| c.snapshot_interval = Some(Duration::ZERO)).contains("snapshot_interval"));
        assert!(flaw(|c| c.transfer_bytes_per_s = 1000).contains("transfer_bytes_per_s is 1000"));
    }

    #[test]
    fn a_snapshot_is_due_by_growth_or_by_age() {
        let hour = Duration::from_secs(3600);
        let config = TierConfig { snapshot_log_bytes: 100, ..TierConfig::default() };
        assert!(!config.is_snapshot_due(100, 0, hour));
        assert!(config.is_snapshot_due(101, 0, Duration::ZERO));
        assert!(
            !config.is_snapshot_due(101, 500, hour),
            "a large state is not written all the time"
        );
        assert!(config.is_snapshot_due(501, 500, Duration::ZERO));
        let config = TierConfig { snapshot_interval: Some(hour), ..config };
        assert!(config.is_snapshot_due(1, 500, hour));
        assert!(!config.is_snapshot_due(0, 500, hour), "nothing new");
        assert!(!config.is_snapshot_due(1, 500, hour / 2));
    }

    #[test]
    fn a_snapshot_is_outdated_when_the_log_behind_it_is_long_beside_it() {
        let config = TierConfig::default();
        assert!(!config.is_outdated(OUTDATED_LOG_BYTES_MIN, 0), "not worth the flushes");
        assert!(config.is_outdated(OUTDATED_LOG_BYTES_MIN + 1, 0));
        assert!(!config.is_outdated(1 << 28, OUTDATED_PARTS << 28));
        assert!(config.is_outdated((1 << 28) + 1, OUTDATED_PARTS << 28));
        let config = TierConfig { keep_log_bytes: 100, ..config };
        assert!(config.is_outdated(101, 0) && !config.is_outdated(101, 4 * 101));
    }
}
