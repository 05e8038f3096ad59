//! The settings that a running node takes, by their names: as in its configuration file.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_engine::core::{Setting, Settings};

use crate::config::{MIB_MAX, SECONDS_MAX, STALENESS_MS_MAX};

/// The log filter, which is not of a node but of its process.
pub const LOG: &str = "log";

/// Names of all settings and what they take.
pub const SETTINGS: &[(&str, &str)] = &[
    (LOG, "what to log, such as info or coracle_engine=debug"),
    ("priority", "-8 to 8: how much the node should rather lead than others"),
    ("spread_leaders", "on or off: hand over leaders until all nodes lead about as many shards"),
    ("snapshot_interval_s", "seconds until a shard that was written to gets a snapshot; 0: never"),
    ("keep_log_s", "seconds that log stays for a follower that is down"),
    ("transfer_mib_per_s", "MiB that a core sends of snapshots per second; 0: no limit"),
    ("replica_read_staleness_ms", "how old what followers answer to READONLY may be; 0: no limit"),
];

/// The values that hold, by name; without the log filter.
pub fn by_name(settings: &Settings) -> BTreeMap<String, String> {
    let interval_s = settings.snapshot_interval.map_or(0, |interval| interval.as_secs());
    let staleness_ms = settings.replica_read_staleness.map_or(0, |bound| bound.as_millis());
    let values = [
        ("priority", settings.priority.to_string()),
        ("spread_leaders", if settings.spread_leaders { "on" } else { "off" }.to_owned()),
        ("snapshot_interval_s", interval_s.to_string()),
        ("keep_log_s", settings.keep_log_time.as_secs().to_string()),
        ("transfer_mib_per_s", (settings.transfer_bytes_per_s >> 20).to_string()),
        ("replica_read_staleness_ms", staleness_ms.to_string()),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A setting out of its name and value; without the log filter.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn parse(name: &str, value: &str) -> Result<Setting, String> {
    let number = |max: u64| match value.parse::<u64>() {
        Ok(number) if number <= max => Ok(number),
        _ => Err(format!("{name} is a number from 0 to {max}, not '{value}'")),
    };
    match name {
        "priority" => match value.parse::<i8>() {
            Ok(priority) => Ok(Setting::Priority(priority)), // the core knows the bounds
            Err(_) => Err(format!("priority is a number from -8 to 8, not '{value}'")),
        },
        "spread_leaders" => match value {
            "on" => Ok(Setting::SpreadLeaders(true)),
            "off" => Ok(Setting::SpreadLeaders(false)),
            _ => Err(format!("spread_leaders is on or off, not '{value}'")),
        },
        "snapshot_interval_s" => {
            let seconds = number(SECONDS_MAX)?;
            Ok(Setting::SnapshotInterval((seconds != 0).then(|| Duration::from_secs(seconds))))
        }
        "keep_log_s" => Ok(Setting::KeepLogTime(Duration::from_secs(number(SECONDS_MAX)?))),
        "transfer_mib_per_s" => Ok(Setting::TransferBytesPerS(number(MIB_MAX)? << 20)),
        "replica_read_staleness_ms" => {
            let ms = number(STALENESS_MS_MAX)?;
            Ok(Setting::ReplicaReadStaleness((ms != 0).then(|| Duration::from_millis(ms))))
        }
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    format!(
        "'{name}' cannot be changed while the node runs; these can: {}. For others, change its \
         configuration and start it again",
        names.join(", ")
    )
}
