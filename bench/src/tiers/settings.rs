//! Options that all scenarios share, and what of them becomes arguments of the nodes.

use std::path::PathBuf;

use clap::Args;

use super::parse_dir;

/// More than any run writes: a limit that is never reached.
pub const NEVER_MIB: u64 = 1 << 24;
/// A budget that holds no run back, in seconds.
pub const NEVER_S: u64 = 7 * 24 * 3600;

/// The nodes' settings of the tiered log; what is left out has the scenario's default, or the server's.
#[derive(Args, Clone, Debug, Default)]
pub struct Tier {
    /// Memory for the newest entries, for each node
    #[arg(long, value_name = "MIB")]
    pub log_memory_mib: Option<u64>,
    /// Disk for log and snapshots, for each node
    #[arg(long, value_name = "MIB")]
    pub log_disk_mib: Option<u64>,
    /// Log of a shard after which it gets a snapshot
    #[arg(long, value_name = "MIB")]
    pub snapshot_log_mib: Option<u64>,
    /// Time after which a shard gets a snapshot
    #[arg(long, value_name = "SECONDS")]
    pub snapshot_interval_s: Option<u64>,
    /// Log of a shard that is kept behind its snapshot
    #[arg(long, value_name = "MIB")]
    pub keep_log_mib: Option<u64>,
    /// How long the log is kept for a follower that is behind
    #[arg(long, value_name = "SECONDS")]
    pub keep_log_s: Option<u64>,
    /// Most that transfers of snapshots may take, for each node
    #[arg(long, value_name = "MIB_PER_S")]
    pub transfer_mib_per_s: Option<u64>,
}

impl Tier {
    /// Names of the nodes' flags and values.
    fn flags(&self) -> [(&'static str, Option<u64>); 7] {
        [
            ("--log-memory-mib", self.log_memory_mib),
            ("--log-disk-mib", self.log_disk_mib),
            ("--snapshot-log-mib", self.snapshot_log_mib),
            ("--snapshot-interval-s", self.snapshot_interval_s),
            ("--keep-log-mib", self.keep_log_mib),
            ("--keep-log-s", self.keep_log_s),
            ("--transfer-mib-per-s", self.transfer_mib_per_s),
        ]
    }
}

/// Options of all scenarios.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The server to start [default: the coracle beside this program]
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Where a directory for the nodes' data is made; it goes at the end. Choose the disk to measure
    #[arg(long, default_value = ".", value_parser = parse_dir)]
    pub dir: PathBuf,
    /// Keep that directory, with data and logs
    #[arg(long)]
    pub keep: bool,
    /// Cores of each node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cores: u16,
    /// Shards of the cluster
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub shards: u32,
    /// Size of the nodes' log segments
    #[arg(long, value_name = "MIB")]
    pub segment_mib: Option<u64>,
    #[command(flatten)]
    pub tier: Tier,
    /// Keep compacted segments as archive files
    #[arg(long)]
    pub archive: bool,
    /// Give the nodes no setting of the tiered log at all, to compare with a server without one
    #[arg(long)]
    pub bare: bool,
    /// One more argument for all nodes, such as --server-arg=--start-on-damage; repeatable
    #[arg(long = "server-arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub server_args: Vec<String>,
    /// Independent clients of the load [default: the scenario's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: Option<u32>,
    /// Commands that a client sends before it waits [default: the scenario's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pipeline: Option<u32>,
    /// Fail when a target is missed
    #[arg(long)]
    pub strict: bool,
    /// Also write the results to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Common {
    /// The arguments of the nodes beside those of every cluster.
    pub fn node_settings(&self, defaults: &Tier) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut option = |name: &str, value: u64| {
            arguments.extend([name.to_owned(), value.to_string()]);
        };
        if let Some(mib) = self.segment_mib {
            option("--segment-mib", mib);
        }
        if !self.bare {
            for ((name, asked), (_, default)) in self.tier.flags().into_iter().zip(defaults.flags())
            {
                if let Some(value) = asked.or(default) {
                    option(name, value);
                }
            }
            if self.archive {
                arguments.push("--archive".to_owned());
            }
        }
        arguments.extend(self.server_args.iter().cloned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        common: Common,
    }

    #[test]
    fn what_is_asked_goes_before_the_scenarios_defaults() {
        let defaults = Tier { log_memory_mib: Some(1), keep_log_mib: Some(2), ..Tier::default() };
        let settings = |line: &str| {
            Line::parse_from(line.split(' ')).common.node_settings(&defaults).join(" ")
        };
        assert_eq!(settings("x --keep-log-mib 7"), "--log-memory-mib 1 --keep-log-mib 7");
        assert_eq!(settings("x --bare --server-arg=--pin=never"), "--pin=never");
        assert_eq!(
            settings("x --archive --segment-mib 16"),
            "--segment-mib 16 --log-memory-mib 1 --keep-log-mib 2 --archive"
        );
    }
}
