//! `coracle serve`: one node of a cluster.

use std::error::Error;
use std::path::PathBuf;

use coracle::admin::{AdminAddress, AdminOptions};
use coracle::config::{Config, FailureDetector, Member, Pin, host_port};
use coracle::server;
use coracle::uring::SyncMethod;
use coracle::{Node, NodeId};

use super::signals::StopSignals;

#[derive(clap::Args)]
pub struct Args {
    /// A TOML file with the same settings; flags go before it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's id: one of the members.
    #[arg(long, value_name = "N", required_unless_present = "config")]
    id: Option<u64>,
    /// Where its data is kept.
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// Cores to run [default: 1].
    #[arg(long, value_name = "K")]
    cores: Option<u16>,
    /// Shards of the cluster, the same on all nodes [default: 16].
    #[arg(long, value_name = "S")]
    shards: Option<u32>,
    /// A member of the cluster; repeat for all of them, this node included.
    #[arg(long = "member", value_name = "ID=CLIENT_HOST:PORT,PEER_HOST:PORT")]
    #[arg(required_unless_present_any = ["config", "client"])]
    members: Vec<Member>,
    /// Where clients reach this node, in place of a --member for itself.
    #[arg(long, value_name = "HOST:PORT", requires = "peer", value_parser = parse_host_port)]
    client: Option<(String, u16)>,
    /// Where the other nodes reach this node.
    #[arg(long, value_name = "HOST:PORT", requires = "client", value_parser = parse_host_port)]
    peer: Option<(String, u16)>,
    /// A member that votes from the beginning of a new cluster; repeat for each [default: all members].
    #[arg(long = "voter", value_name = "ID", conflicts_with = "join")]
    voters: Vec<u64>,
    /// Join the cluster that runs at this peer address of any of its members; they tell who the others are. The node has
    /// to be added there, and belongs to no shard until a change adds it.
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// Name that keeps clusters apart [default: coracle].
    #[arg(long, value_name = "NAME")]
    cluster_id: Option<String>,
    /// Shortest time without a leader before an election [default: 500].
    #[arg(long, value_name = "MS")]
    election_timeout_ms: Option<u64>,
    /// How often a leader is heard from [default: 100].
    #[arg(long, value_name = "MS")]
    heartbeat_interval_ms: Option<u64>,
    /// Reads need no round of messages while the clock says that nobody else leads; by so much may any node's clock be
    /// faster than any other's, the same on all nodes; not for machines that are suspended or paused [default: no
    /// leases].
    #[arg(long, value_name = "PPM")]
    lease_drift_ppm: Option<u32>,
    /// How much this node should rather lead than others, -8 to 8 [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i8>,
    /// Hand over leaders until all nodes lead about as many shards; to be given to all of them [default: off].
    #[arg(long)]
    spread_leaders: bool,
    /// How old what this node answers as a follower may be, on connections that said READONLY; 0 is without bound
    /// [default: 0].
    #[arg(long, value_name = "MS")]
    replica_read_staleness_ms: Option<u64>,
    /// How it is told that a node has fallen silent: phi (by how regular it was before), fixed (after the election
    /// timeout) [default: phi].
    #[arg(long, value_name = "KIND", value_parser = parse_detector)]
    failure_detector: Option<FailureDetector>,
    /// How writes are made durable: auto, linked, dsync [default: auto].
    #[arg(long, value_name = "METHOD")]
    sync_method: Option<SyncMethod>,
    /// Size of a log segment [default: 64].
    #[arg(long, value_name = "MIB")]
    segment_mib: Option<u32>,
    #[command(flatten)]
    tiers: TierArgs,
    /// Which CPUs the cores run on: auto, always, never [default: auto].
    #[arg(long, value_name = "WHEN", value_parser = parse_pin)]
    pin: Option<Pin>,
    /// Where `coraclectl` reaches this node; whoever does administers the cluster [default: 127.0.0.1, 2000 above
    /// the client port].
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "no_admin")]
    admin: Option<AdminAddress>,
    /// Listen for no administration.
    #[arg(long)]
    no_admin: bool,
    /// Client connections that one core serves at the same time [default: 10000].
    #[arg(long, value_name = "N")]
    clients_max: Option<usize>,
    /// Start although the log is damaged; what the damage took is lost on this node.
    #[arg(long)]
    start_on_damage: bool,
}

/// How much log is kept, where, and when shards get snapshots.
#[derive(clap::Args)]
#[command(next_help_heading = "Log and snapshots")]
struct TierArgs {
    /// Memory for log entries, shared out over the cores [default: 256].
    #[arg(long, value_name = "MIB")]
    log_memory_mib: Option<u64>,
    /// Disk space for logs and snapshots, shared out over the cores; 0 is all there is [default: 0].
    #[arg(long, value_name = "MIB")]
    log_disk_mib: Option<u64>,
    /// A shard gets a snapshot when its log is larger than this, and than its last snapshot [default: 64].
    #[arg(long, value_name = "MIB")]
    snapshot_log_mib: Option<u64>,
    /// A shard that was written to gets a snapshot after this time; 0 is never [default: 0].
    #[arg(long, value_name = "S")]
    snapshot_interval_s: Option<u64>,
    /// Log of each shard that stays behind its snapshot, for slow followers [default: 32].
    #[arg(long, value_name = "MIB")]
    keep_log_mib: Option<u64>,
    /// How long more of it stays for a follower that is down [default: 60].
    #[arg(long, value_name = "S")]
    keep_log_s: Option<u64>,
    /// What each core sends of snapshots per second; 0 is as fast as it goes [default: 0].
    #[arg(long, value_name = "MIB")]
    transfer_mib_per_s: Option<u64>,
    /// Keep segments that are not needed any more as archive-N files; you have to remove them.
    #[arg(long)]
    archive: bool,
}

impl TierArgs {
    fn apply(self, config: &mut Config) {
        set(&mut config.log_memory_mib, self.log_memory_mib);
        set(&mut config.log_disk_mib, self.log_disk_mib);
        set(&mut config.snapshot_log_mib, self.snapshot_log_mib);
        set(&mut config.snapshot_interval_s, self.snapshot_interval_s);
        set(&mut config.keep_log_mib, self.keep_log_mib);
        set(&mut config.keep_log_s, self.keep_log_s);
        set(&mut config.transfer_mib_per_s, self.transfer_mib_per_s);
        config.archive |= self.archive;
    }
}

/// A flag goes before what the file says.
fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}

fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    host_port(text).ok_or_else(|| "expected HOST:PORT".to_owned())
}

fn parse_pin(text: &str) -> Result<Pin, String> {
    match text {
        "auto" => Ok(Pin::Auto),
        "always" => Ok(Pin::Always),
        "never" => Ok(Pin::Never),
        _ => Err("expected auto, always or never".to_owned()),
    }
}

fn parse_detector(text: &str) -> Result<FailureDetector, String> {
    match text {
        "phi" => Ok(FailureDetector::Phi),
        "fixed" => Ok(FailureDetector::Fixed),
        _ => Err("expected phi or fixed".to_owned()),
    }
}

impl Args {
    /// The file's settings, if there is one, with the flags in front of them.
    fn into_config(self) -> Result<Config, Box<dyn Error>> {
        let mut config = match &self.config {
            Some(path) => {
                let file = path.display();
                let text = std::fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
                Config::from_toml(&text).map_err(|e| format!("{file}: {e}"))?
            }
            None => {
                let id = NodeId(self.id.ok_or("--id is missing")?);
                let dir = self.data_dir.clone().ok_or("--data-dir is missing")?;
                Config::new(id, dir, self.members.clone())
            }
        };
        set(&mut config.id, self.id.map(NodeId));
        set(&mut config.data_dir, self.data_dir);
        set(&mut config.cores, self.cores);
        set(&mut config.shards, self.shards);
        set(&mut config.members, (!self.members.is_empty()).then_some(self.members));
        if let (Some(client), Some(peer)) = (self.client, self.peer) {
            let id = config.id;
            let ((client_host, client_port), (peer_host, peer_port)) = (client, peer);
            let own = Member { id, client_host, client_port, peer_host, peer_port };
            config.members.retain(|member| member.id != id);
            config.members.push(own);
        }
        set(&mut config.voters, (!self.voters.is_empty()).then_some(Some(self.voters)));
        config.join = self.join.or(config.join);
        set(&mut config.cluster_id, self.cluster_id);
        set(&mut config.election_timeout_ms, self.election_timeout_ms);
        set(&mut config.heartbeat_interval_ms, self.heartbeat_interval_ms);
        config.lease_drift_ppm = self.lease_drift_ppm.or(config.lease_drift_ppm);
        set(&mut config.priority, self.priority);
        config.spread_leaders |= self.spread_leaders;
        set(&mut config.replica_read_staleness_ms, self.replica_read_staleness_ms);
        set(&mut config.failure_detector, self.failure_detector);
        set(&mut config.sync_method, self.sync_method);
        set(&mut config.segment_mib, self.segment_mib);
        self.tiers.apply(&mut config);
        set(&mut config.pin, self.pin);
        set(&mut config.admin, self.no_admin.then_some(AdminAddress::Off).or(self.admin));
        set(&mut config.clients_max, self.clients_max);
        config.start_on_damage |= self.start_on_damage;
        Ok(config)
    }
}

/// Runs a node until the process is told to stop.
pub fn run(args: Args, admin: AdminOptions) -> Result<(), Box<dyn Error>> {
    let signals = StopSignals::watch()?;
    let config = args.into_config()?;
    let (id, cores) = (config.id, config.cores);
    let node: Node = server::builder(config).admin_options(admin).start()?;
    tracing::info!("node {id} serves on {cores} core(s)");
    let signal = signals.wait()?;
    tracing::info!("{signal}: draining and stopping");
    node.stop();
    tracing::info!("stopped");
    Ok(())
}
