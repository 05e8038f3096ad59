//! What a seed draws before anything runs: the cluster, its limits, the weather, the work.
//!
//! Sizes and limits are small and odd on purpose: a window of one message, a segment of sixteen blocks, a
//! log that takes one batch at a time. Times are long or short as a whole, because a cluster with an election
//! timeout of ten seconds is, for everything but the disk, the same cluster in slow motion.

use std::time::Duration;

use coracle_engine::NodeId;
use coracle_engine::core::{DISK_SEGMENTS_MIN, Detection, TRANSFER_BYTES_PER_S_MIN, TierConfig};
use coracle_engine::limits::{APPEND_GROUP_MARGIN_BYTES, Limits, SNAPSHOT_CHUNK_TARGET_BYTES};
use coracle_engine::raft::LeaseConfig;
use coracle_engine::raft::membership::Configuration;
use coracle_wal::Options;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::disk::{DiskWeather, Latency};
use super::world::derive;

/// A cluster and its surroundings. Everything that is not here follows from the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Nodes, 1 to 7, and those that join.
    pub nodes: u32,
    /// So many of the nodes, the last ones, belong to nothing at first; the others are the voters of all shards.
    #[serde(default)]
    pub joiners: u32,
    /// Cores of each node.
    pub cores: Vec<u16>,
    /// Shards of the cluster.
    pub shards: u32,
    /// See `coracle_engine::core::CoreConfig`.
    pub election_timeout_ms: u64,
    /// See `coracle_engine::core::CoreConfig`.
    pub heartbeat_interval_ms: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Segments prepared ahead.
    pub spares: usize,
    /// Durable writes in flight.
    pub writes_in_flight: usize,
    /// Bytes that a log takes beyond what is durable.
    pub wal_buffer_bytes_max: usize,
    /// Largest batch of a log.
    pub batch_bytes_max: usize,
    /// Letters that a core's mailbox takes.
    pub mailbox_letters: usize,
    /// Whether the limits of the engine are small as well.
    pub tight_limits: bool,
    /// Whether ready tasks run in a random order.
    pub shuffle_tasks: bool,
    /// Clients.
    pub clients: u32,
    /// Operations of each client during chaos.
    pub operations: u32,
    /// Longest pause of a client between two operations.
    pub think_ms_max: u64,
    /// Clients begin at the same moments: multiples of this many milliseconds; 0 for any.
    #[serde(default)]
    pub burst_ms: u64,
    /// Different keys.
    pub keys: u32,
    /// Largest value.
    pub value_bytes_max: usize,
    /// How long faults happen.
    pub chaos_ms: u64,
    /// Frames may be lost, repeated, reordered and damaged.
    pub frame_faults: bool,
    /// The network is slow and uneven.
    pub net_weather: bool,
    /// The disk is slow, uneven, and transfers less than it was asked for.
    pub disk_weather: bool,
    /// Making something durable takes up to so long; every node draws its own time. 0 for the usual.
    #[serde(default)]
    pub flush_ms_max: u64,
    /// What is kept of the logs, and when snapshots are taken.
    #[serde(default)]
    pub tiers: TierSettings,
    /// Leaders may answer reads by lease, with this bound on the drift of clocks; 0 if they may not.
    #[serde(default)]
    pub lease_drift_ppm: u32,
    /// Shards with nothing to do do not fall asleep.
    #[serde(default)]
    pub sleepless: bool,
    /// Nodes hand over leaders until all lead about as many shards.
    #[serde(default)]
    pub spread_leaders: bool,
    /// Peers are suspected after a fixed time.
    #[serde(default)]
    pub fixed_detector: bool,
    /// How much each node should rather lead than others; 0 for those that are not named.
    #[serde(default)]
    pub priorities: Vec<i8>,
}

/// Memory, disk and snapshots of each core; see `coracle_engine::core::TierConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierSettings {
    /// Bytes of entries in memory.
    pub log_memory_bytes: u64,
    /// Bytes of a core's directory; 0 for no bound.
    pub disk_bytes_max: u64,
    /// Growth of a shard's log after which it gets a snapshot.
    pub snapshot_log_bytes: u64,
    /// Time after which it gets one; 0 for never.
    pub snapshot_interval_ms: u64,
    /// Bytes of log that stay behind a snapshot.
    pub keep_log_bytes: u64,
    /// How long log stays for a slow follower.
    pub keep_log_ms: u64,
    /// Bandwidth of transfers; 0 for no bound.
    pub transfer_bytes_per_s: u64,
    /// Whether compacted segments are kept.
    pub archive: bool,
    /// What the chunks of snapshots have about.
    pub chunk_bytes: usize,
}

impl Default for TierSettings {
    /// So much of everything that a run never gets there, as it was before there were tiers.
    fn default() -> Self {
        let TierConfig { log_memory_bytes, snapshot_log_bytes, keep_log_bytes, .. } =
            TierConfig::default();
        Self {
            log_memory_bytes,
            disk_bytes_max: 0,
            snapshot_log_bytes,
            snapshot_interval_ms: 0,
            keep_log_bytes,
            keep_log_ms: 60_000,
            transfer_bytes_per_s: 0,
            archive: false,
            chunk_bytes: SNAPSHOT_CHUNK_TARGET_BYTES,
        }
    }
}

impl TierSettings {
    /// Draws them. `needed` is what the states of a core may take at most.
    fn draw(rng: &mut Rng, election_timeout_ms: u64, segment_bytes: u64, needed: u64) -> Self {
        // The smallest budget has room for the log's own needs, and for each state three times: as the old
        // snapshot, the new one, and one that is received. The segments here have room for a few batches, which
        // are mostly padding, so it takes more of them for the same records than in life.
        let disk_min = DISK_SEGMENTS * segment_bytes + 3 * needed;
        let snapshot_log_bytes = log_uniform(rng, 300, 100_000);
        let odd_time = |rng: &mut Rng| match rng.u8(..4) {
            0 => rng.u64(..2),
            _ => log_uniform(rng, 1, 8 * election_timeout_ms),
        };
        Self {
            log_memory_bytes: match rng.u8(..4) {
                0 => 0,
                1 => log_uniform(rng, 100, 1000),
                2 => log_uniform(rng, 1000, 100_000),
                _ => 1 << 20,
            },
            disk_bytes_max: match rng.u8(..3) {
                0 => 0,
                1 => disk_min,
                _ => log_uniform(rng, disk_min, 4 * disk_min),
            },
            snapshot_log_bytes,
            snapshot_interval_ms: if rng.f64() < 0.7 { 0 } else { odd_time(rng).max(1) },
            keep_log_bytes: match rng.u8(..3) {
                0 => rng.u64(..2),
                _ => log_uniform(rng, 100, 2 * snapshot_log_bytes),
            },
            keep_log_ms: odd_time(rng),
            transfer_bytes_per_s: if rng.f64() < 0.7 {
                0
            } else {
                log_uniform(rng, TRANSFER_BYTES_PER_S_MIN, 4 << 20)
            },
            archive: rng.f64() < 0.1,
            chunk_bytes: log_uniform(rng, 50, 20_000) as usize,
        }
    }
}

/// By how much any clock may be faster than any other: one that runs at 1.1 times the true speed, and one at 0.9,
/// which the plans draw, and a little for rounding.
const LEASE_DRIFT_PPM: u32 = 223_000;

/// Segments in the smallest budget that is drawn.
const DISK_SEGMENTS: u64 = 3 * DISK_SEGMENTS_MIN;

/// Draws a number whose logarithm is uniform between those of `low` and `high`.
pub fn log_uniform(rng: &mut Rng, low: u64, high: u64) -> u64 {
    let (low, high) = (low.max(1) as f64, high.max(1) as f64);
    (low.ln() + rng.f64() * (high.ln() - low.ln())).exp().round() as u64
}

/// Draws one of a few values.
pub fn one_of<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.usize(..values.len())]
}

impl Settings {
    /// Draws them.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let nodes = one_of(rng, &[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 6, 7]);
        let most_cores = one_of(rng, &[1, 1, 1, 2, 3]);
        let even = rng.f64() < 0.8;
        let cores = (0..nodes)
            .map(|_| if even { most_cores } else { rng.u16(1..=most_cores) })
            .collect::<Vec<_>>();
        let per_core = one_of(rng, &[1, 1, 1, 2, 2, 3, 8]);
        let shards = u32::from(most_cores) * per_core;
        let election_timeout_ms = log_uniform(rng, 150, 10_000);
        let divisor = rng.u64(3..=10);
        let large = rng.f64() < 0.15;
        let batch_bytes_max =
            one_of(rng, &[8 << 10, 8 << 10, 12 << 10, 32 << 10, 64 << 10, 1 << 20]);
        let segment_bytes = 4096 * one_of(rng, &[16, 16, 17, 19, 24, 32, 64, 256]);
        let keys = rng.u32(1..=16);
        let value_bytes_max =
            if large { 40_000 } else { one_of(rng, &[16, 100, 1000, 5000, 5000]) };
        // A row is a thousand bytes and a value; files have whole blocks.
        let needed = u64::from(keys) * (value_bytes_max as u64 + 1200) + u64::from(shards) * 16_384;
        let tiers = TierSettings::draw(rng, election_timeout_ms, segment_bytes, needed);
        Self {
            nodes,
            joiners: 0,
            cores,
            shards,
            election_timeout_ms,
            heartbeat_interval_ms: (election_timeout_ms / divisor).max(2),
            segment_bytes,
            spares: rng.usize(1..=3),
            writes_in_flight: one_of(rng, &[1, 2, 2, 2, 3, 4]),
            wal_buffer_bytes_max: batch_bytes_max * one_of(rng, &[1, 1, 2, 4, 64]),
            batch_bytes_max,
            mailbox_letters: one_of(rng, &[4, 64, 1024]),
            tight_limits: rng.f64() < 0.7,
            shuffle_tasks: rng.f64() < 0.5,
            clients: one_of(rng, &[1, 2, 3, 5, 8, 12]),
            operations: log_uniform(rng, 20, 600) as u32,
            think_ms_max: log_uniform(rng, 1, 2 * election_timeout_ms),
            burst_ms: if rng.bool() { 0 } else { log_uniform(rng, 1, election_timeout_ms) },
            keys,
            value_bytes_max,
            chaos_ms: election_timeout_ms * rng.u64(10..=80),
            frame_faults: rng.f64() < 0.6,
            net_weather: rng.f64() < 0.7,
            disk_weather: rng.f64() < 0.7,
            flush_ms_max: match rng.u8(..10) {
                0..5 => 0,
                5..9 => log_uniform(rng, 1, election_timeout_ms / 4),
                _ => log_uniform(rng, 1, election_timeout_ms),
            },
            tiers,
            lease_drift_ppm: 0,
            sleepless: false,
            fixed_detector: false,
            priorities: Vec::new(),
            spread_leaders: false,
        }
    }

    /// Draws nodes that may join.
    pub fn draw_joiners(&mut self, rng: &mut Rng) {
        let most_cores = self.cores.iter().copied().max().unwrap_or(1);
        self.joiners = one_of(rng, &[0, 1, 1, 2, 2, 3]);
        self.nodes += self.joiners;
        self.cores.extend((0..self.joiners).map(|_| rng.u16(1..=most_cores)));
    }

    /// The voters that all shards begin with.
    pub fn initial_voters(&self) -> impl Iterator<Item = NodeId> + use<> {
        let count = self.nodes.saturating_sub(self.joiners).max(1);
        (1..=u64::from(count)).map(NodeId)
    }

    /// The same as a configuration.
    #[must_use]
    pub fn initial_configuration(&self) -> Configuration {
        Configuration::of_voters(self.initial_voters()).unwrap_or_default()
    }

    /// Draws what there is about leadership.
    pub fn draw_leadership(&mut self, rng: &mut Rng) {
        if rng.f64() < 0.4 {
            self.lease_drift_ppm = LEASE_DRIFT_PPM;
        }
        if rng.f64() < 0.3 {
            self.priorities = (0..self.nodes).map(|_| rng.i8(-2..=2)).collect();
        }
    }

    /// Draws what there is about sleeping shards.
    pub fn draw_liveness(&mut self, rng: &mut Rng) {
        self.sleepless = rng.f64() < 0.1;
        self.fixed_detector = rng.f64() < 0.3;
    }

    /// How the silence of a node is told from its end.
    #[must_use]
    pub fn detection(&self) -> Detection {
        if self.fixed_detector { Detection::Fixed } else { Detection::Phi }
    }

    /// Whether leaders may answer reads by lease.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseConfig> {
        let drift_ppm = self.lease_drift_ppm;
        (drift_ppm > 0).then_some(LeaseConfig { drift_ppm })
    }

    /// How the logs are kept.
    #[must_use]
    pub fn wal_options(&self) -> Options {
        let mut options = Options::default();
        options.segment_bytes = self.segment_bytes;
        options.spares = self.spares;
        options.writes_in_flight = self.writes_in_flight;
        options.batch_bytes_max = self.batch_bytes_max;
        options.buffer_bytes_max = self.wal_buffer_bytes_max;
        options
    }

    /// What is kept of the logs. A core whose segments are larger than the settings say has more disk.
    #[must_use]
    pub fn tier_config(&self, segment_bytes: u64) -> TierConfig {
        let tiers = &self.tiers;
        let disk_min = DISK_SEGMENTS * segment_bytes;
        let interval = tiers.snapshot_interval_ms;
        TierConfig {
            log_memory_bytes: tiers.log_memory_bytes,
            disk_bytes_max: match tiers.disk_bytes_max {
                0 => 0,
                bytes => bytes.max(disk_min),
            },
            snapshot_log_bytes: tiers.snapshot_log_bytes,
            snapshot_interval: (interval > 0).then(|| Duration::from_millis(interval)),
            keep_log_bytes: tiers.keep_log_bytes,
            keep_log_time: Duration::from_millis(tiers.keep_log_ms),
            transfer_bytes_per_s: tiers.transfer_bytes_per_s,
            archive: tiers.archive,
        }
    }

    /// The limits of the engine. What is not part of the settings follows from `seed`.
    #[must_use]
    pub fn limits(&self, seed: u64) -> Limits {
        let group = self.wal_options().group_bytes_max() - APPEND_GROUP_MARGIN_BYTES;
        let usual = Limits {
            payload_bytes_max: group.min(Limits::default().payload_bytes_max),
            append_group_bytes_max: group.min(Limits::default().append_group_bytes_max),
            ..Limits::default()
        };
        if !self.tight_limits {
            return usual;
        }
        let rng = &mut Rng::with_seed(derive(seed, "limits"));
        let payload = usual.payload_bytes_max;
        Limits {
            append_group_bytes_max: one_of(rng, &[1, 500, group / 2, group]).max(1),
            requests_per_core_max: one_of(rng, &[1, 3, 100]),
            request_bytes_per_core_max: payload * one_of(rng, &[1, 4]),
            frames_queued_max: one_of(rng, &[1, 2, 7, 100]),
            frame_bytes_queued_max: one_of(rng, &[1000, 100_000]),
            queries_per_shard_max: one_of(rng, &[1, 2, 100]),
            events_per_turn_max: one_of(rng, &[1, 2, 5, 100]),
            entries_per_turn_max: one_of(rng, &[1, 2, 10, 100]),
            groups_refused_max: one_of(rng, &[1, 2, 10, 100]),
            link_buffer_bytes_max: one_of(rng, &[1, 300, 5000, 100_000]),
            receive_chunk_bytes: one_of(rng, &[64, 500, 4096]),
            receive_room_bytes_min: one_of(rng, &[1, 16]),
            handshakes_max: one_of(rng, &[1, 3, 64]),
            append_bytes_min: one_of(rng, &[1, 100]),
            append_bytes_max: one_of(rng, &[100, 100, 300, 1000, 10_000]),
            inflight_messages_max: one_of(rng, &[1, 2, 3, 10]),
            inflight_bytes_max: one_of(rng, &[1, 200, 2000, 100_000]),
            uncommitted_bytes_max: payload * one_of(rng, &[1, 2, 10]),
            read_batches_max: one_of(rng, &[1, 2, 10]),
            ..usual
        }
    }

    /// How fast the disk of a node is.
    #[must_use]
    pub fn draw_disk_weather(&self, rng: &mut Rng) -> DiskWeather {
        let drawn = DiskWeather::draw(rng);
        let mut weather = if self.disk_weather { drawn } else { DiskWeather::calm() };
        if self.flush_ms_max > 0 {
            let most_us = self.flush_ms_max * 1000;
            let base = Duration::from_micros(rng.u64(..=most_us));
            weather.flush = Latency { base, jitter: Duration::from_micros(rng.u64(..=most_us)) };
        }
        weather
    }

    /// Shortest time without a leader before an election.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_drawn_makes_sense_together() {
        for seed in 0..5000 {
            let settings = Settings::draw(&mut Rng::with_seed(seed));
            let group = settings.wal_options().group_bytes_max();
            assert_eq!(settings.limits(seed).flaw(group), None, "{settings:?}");
            let tiers = settings.tier_config(settings.segment_bytes);
            assert_eq!(tiers.flaw(&settings.wal_options()), None, "{settings:?}");
            assert!(settings.heartbeat_interval_ms * 3 <= settings.election_timeout_ms);
        }
    }
}
