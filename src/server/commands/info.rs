//! `INFO`: the server in numbers, in sections.

use std::fmt::Write as _;

use coracle_engine::env::Env;

use crate::server::cluster::Topology;
use crate::server::fan::Totals;
use crate::server::local::REDIS_VERSION;
use crate::server::state::Shared;

/// All sections in their order.
const SECTIONS: [&str; 9] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "cluster",
    "keyspace",
];

/// The sections named; all for none, `all`, `everything` or `default`.
pub(in crate::server) fn text<E: Env>(
    server: &Shared<E>,
    totals: &Totals,
    asked: &[String],
) -> String {
    let everything = asked.is_empty()
        || asked.iter().any(|name| matches!(name.as_str(), "all" | "everything" | "default"));
    let mut text = String::new();
    for section in SECTIONS {
        if !everything && !asked.iter().any(|name| name == section) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        let mut title = section.to_owned();
        title[..1].make_ascii_uppercase();
        if section == "cpu" {
            title.make_ascii_uppercase();
        }
        let _ = write!(text, "# {title}\r\n");
        for (name, value) in lines(section, server, totals) {
            let _ = write!(text, "{name}:{value}\r\n");
        }
    }
    text
}

fn lines<E: Env>(
    section: &str,
    server: &Shared<E>,
    totals: &Totals,
) -> Vec<(&'static str, String)> {
    match section {
        "server" => about_server(server),
        "clients" => vec![
            ("connected_clients", server.clients.borrow().len().to_string()),
            ("maxclients", server.options.clients_max.to_string()),
            ("blocked_clients", "0".to_owned()),
            ("sessions", totals.sessions.to_string()),
        ],
        "memory" => vec![
            ("used_memory", (totals.bytes + server.read_bytes.get() as u64).to_string()),
            ("used_memory_dataset", totals.bytes.to_string()),
            ("receive_buffers_bytes", server.read_bytes.get().to_string()),
            ("requests_under_way_bytes", server.payload_bytes.get().to_string()),
            ("maxmemory", "0".to_owned()),
            ("maxmemory_policy", "noeviction".to_owned()),
        ],
        "persistence" => about_persistence(server),
        "stats" => about_stats(server, totals),
        "replication" => about_replication(server, totals),
        "cpu" => vec![("cores", member_cores(server).to_string())],
        "cluster" => vec![("cluster_enabled", "1".to_owned())],
        _ if totals.keys == 0 => Vec::new(),
        _ => vec![("db0", format!("keys={},expires={},avg_ttl=0", totals.keys, totals.expiring))],
    }
}

fn about_server<E: Env>(server: &Shared<E>) -> Vec<(&'static str, String)> {
    let uptime = server.env.now().saturating_sub(server.started).as_secs();
    let view = server.core.view();
    vec![
        ("redis_version", REDIS_VERSION.to_owned()),
        ("coracle_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_mode", "cluster".to_owned()),
        ("os", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("cluster_id", view.cluster_id.clone()),
        ("node", view.node.to_string()),
        ("core", view.core.to_string()),
        ("tcp_address", server.address.clone()),
        ("uptime_in_seconds", uptime.to_string()),
        ("uptime_in_days", (uptime / 86_400).to_string()),
    ]
}

/// `rdb_*` are the fields of Redis that mean the same here; the others are Coracle's own.
fn about_persistence<E: Env>(server: &Shared<E>) -> Vec<(&'static str, String)> {
    let counters = server.core.counters();
    vec![
        ("loading", "0".to_owned()),
        ("aof_enabled", "1".to_owned()),
        ("aof_last_write_status", "ok".to_owned()),
        ("rdb_bgsave_in_progress", u8::from(counters.snapshots_now > 0).to_string()),
        ("rdb_last_save_time", (counters.snapshot_oldest_ms / 1000).to_string()),
        ("rdb_saves", counters.snapshots.to_string()),
        ("snapshots_in_progress", counters.snapshots_now.to_string()),
        ("snapshots_failed", counters.snapshots_failed.to_string()),
        ("log_memory_bytes", counters.log_memory_bytes.to_string()),
        ("log_disk_bytes", counters.disk_bytes.to_string()),
        ("snapshots_received", counters.snapshots_received.to_string()),
        ("snapshot_bytes_received", counters.snapshot_bytes_received.to_string()),
        ("shards_returning", counters.shards_returning.to_string()),
        ("shards_halted", counters.shards_halted.to_string()),
    ]
}

fn about_stats<E: Env>(server: &Shared<E>, totals: &Totals) -> Vec<(&'static str, String)> {
    let stats = &server.stats;
    vec![
        ("total_connections_received", stats.connections.get().to_string()),
        ("rejected_connections", stats.rejected.get().to_string()),
        ("total_commands_processed", stats.commands.get().to_string()),
        ("total_error_replies", stats.errors.get().to_string()),
        ("total_net_input_bytes", stats.input_bytes.get().to_string()),
        ("total_net_output_bytes", stats.output_bytes.get().to_string()),
        ("expired_keys", totals.expired.to_string()),
        ("evicted_keys", "0".to_owned()),
    ]
}

fn about_replication<E: Env>(server: &Shared<E>, totals: &Totals) -> Vec<(&'static str, String)> {
    let topology = Topology::of(&server.core.view());
    let myself = topology.myself.map(|place| &topology.nodes[place]);
    let master = myself.is_none_or(|node| node.is_master());
    vec![
        ("role", if master { "master" } else { "slave" }.to_owned()),
        ("connected_slaves", myself.map_or(0, |node| node.replicas.len()).to_string()),
        ("shards", server.core.view().shards.to_string()),
        ("shard_replicas_here", totals.replicas.to_string()),
        ("shards_led_here", totals.led.to_string()),
        ("shards_awake", server.core.counters().shards_awake.to_string()),
        ("highest_term", topology.epoch.to_string()),
    ]
}

fn member_cores<E: Env>(server: &Shared<E>) -> u16 {
    let view = server.core.view();
    view.member(view.node).and_then(|member| member.cores).unwrap_or(1)
}
