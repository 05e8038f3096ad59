//! What is printed: aligned tables for people, JSON documents for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use coracle::{NodeId, ShardId};
use serde_json::{Value, json};

use super::cluster::{Cluster, Node, Shard};

/// Shards of one kind that a line names; more are counted.
const NAMED_MAX: usize = 8;

/// Lines with aligned columns, two spaces between them. Columns of numbers are aligned to the right.
#[must_use]
pub fn table(heads: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heads.len())
        .map(|at| {
            let cells = rows.iter().map(|row| row.get(at).map_or(0, |cell| cell.chars().count()));
            cells.max().unwrap_or(0).max(heads[at].len())
        })
        .collect();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (at, width) in widths.iter().enumerate() {
            let cell = row.get(at).map_or("", String::as_str);
            match right.contains(&at) {
                true => line += &format!("{cell:>width$}  "),
                false => line += &format!("{cell:<width$}  "),
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A number and a noun, in the plural unless it is one.
#[must_use]
pub fn count_of(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A number with a comma before each three digits.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Ids in their order: `1 2 3`.
fn list(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Ids of shards as they are written on the command line: `0-3,7`.
#[must_use]
pub fn shard_list(shards: impl IntoIterator<Item = ShardId>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for ShardId(shard) in shards {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(shard) => *last = shard,
            _ => ranges.push((shard, shard)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let more = ranges.len().saturating_sub(NAMED_MAX);
    let mut all: Vec<String> = ranges.iter().take(NAMED_MAX).map(text).collect();
    all.extend((more > 0).then(|| "...".to_owned()));
    all.join(",")
}

/// How the cluster is, for people.
#[must_use]
pub fn status(cluster: &Cluster) -> String {
    let heads = [
        "node",
        "state",
        "cores",
        "leads",
        "holds",
        "priority",
        "log in memory",
        "disk",
        "version",
    ];
    let rows: Vec<Vec<String>> = cluster
        .nodes
        .iter()
        .map(|(id, node)| {
            let Ok(heard) = &node.heard else {
                return vec![id.to_string(), state(node).to_owned()];
            };
            let cores = &heard.status.cores;
            let setting = |name: &str| heard.status.settings.get(name).cloned();
            vec![
                id.to_string(),
                state(node).to_owned(),
                cores.len().to_string(),
                cores.iter().map(|core| core.led).sum::<u32>().to_string(),
                cores.iter().map(|core| core.shards).sum::<u32>().to_string(),
                setting("priority").unwrap_or_default(),
                mib(cores.iter().map(|core| core.log_memory_bytes).sum()),
                mib(cores.iter().map(|core| core.disk_bytes).sum()),
                heard.status.version.clone(),
            ]
        })
        .collect();
    let mut text = format!(
        "cluster {}: {}, {}\n\n",
        cluster.name,
        count_of(cluster.nodes.len(), "node"),
        count_of(cluster.shard_count as usize, "shard")
    );
    text += &table(&heads, &[0, 2, 3, 4, 5, 6, 7], &rows);
    let problems = problems(cluster);
    if !problems.is_empty() {
        text += "\n";
    }
    for problem in problems {
        let _ = writeln!(text, "{problem}"); // into a string
    }
    text
}

fn state(node: &Node) -> &'static str {
    match &node.heard {
        Ok(heard) if heard.status.drained => "drained",
        Ok(heard) if heard.status.stalled => "stalled",
        Ok(_) => "up",
        Err(_) if node.member.up => "connected",
        Err(_) => "down",
    }
}

/// What somebody should look into, a line for each.
#[must_use]
pub fn problems(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, node) in &cluster.nodes {
        let heard = match &node.heard {
            Ok(heard) => heard,
            Err(reason) => {
                lines.push(format!("node {id}: {reason}"));
                continue;
            }
        };
        for core in &heard.status.cores {
            let at = format!("node {id}, core {}", core.core);
            if let Some(failure) = &core.storage_failure {
                lines.push(format!("{at}: its log has failed: {failure}"));
            }
            if core.returning > 0 {
                let replicas = count_of(core.returning as usize, "replica");
                lines.push(format!(
                    "{at}: {replicas} on the way into a shard, not counted there yet"
                ));
            }
            if core.halted > 0 {
                let replicas = count_of(core.halted as usize, "replica");
                lines.push(format!("{at}: {replicas} taking no part any more"));
            }
        }
    }
    for shard in cluster.shards.values() {
        for (node, reason) in &shard.halted {
            lines.push(format!("shard {} on node {node}: {reason}", shard.id));
        }
    }
    let led = |shard: &ShardId| cluster.shards.get(shard).is_some_and(|s| s.leader.is_some());
    let leaderless: Vec<ShardId> = cluster.shard_ids().filter(|shard| !led(shard)).collect();
    if !leaderless.is_empty() {
        lines.push(format!("no leader answers for shards {}", shard_list(leaderless)));
    }
    lines
}

/// How the cluster is, for programs.
#[must_use]
pub fn status_json(cluster: &Cluster) -> Value {
    let nodes: Vec<Value> = cluster
        .nodes
        .iter()
        .map(|(id, node)| match &node.heard {
            Ok(heard) => json!({"id": id.0, "state": state(node), "status": heard.status}),
            Err(error) => json!({"id": id.0, "state": state(node), "error": error}),
        })
        .collect();
    json!({
        "cluster": cluster.name,
        "shards": cluster.shard_count,
        "nodes": nodes,
        "problems": problems(cluster),
    })
}

/// The members, for people.
#[must_use]
pub fn members(cluster: &Cluster) -> String {
    let rows: Vec<Vec<String>> = cluster
        .nodes
        .values()
        .map(|node| {
            let member = &node.member;
            vec![
                member.id.to_string(),
                state(node).to_owned(),
                member.client.clone(),
                member.peer.clone(),
                or_dash(member.admin.clone().unwrap_or_default()),
            ]
        })
        .collect();
    table(&["node", "state", "clients", "peers", "admin"], &[0], &rows)
}

/// The members, for programs.
#[must_use]
pub fn members_json(cluster: &Cluster) -> Value {
    let all = cluster.nodes.values().map(|node| {
        let mut member = json!(node.member);
        // Between nodes it tells which word is newer; a program would take it for the program's.
        member.as_object_mut().map(|fields| fields.remove("version"));
        member["state"] = json!(state(node));
        member
    });
    json!({"members": all.collect::<Vec<_>>()})
}

/// Shards, for people.
#[must_use]
pub fn shards(cluster: &Cluster, wanted: &dyn Fn(ShardId) -> bool) -> String {
    let heads = ["shard", "leader", "term", "voters", "learners", "commit", "applied", "lag"];
    let rows: Vec<Vec<String>> = cluster
        .shard_ids()
        .filter(|id| wanted(*id))
        .map(|id| cluster.shards.get(&id).map_or_else(|| vec![id.to_string(), "?".into()], row))
        .collect();
    table(&heads, &[0, 1, 2, 5, 6], &rows)
}

fn row(shard: &Shard) -> Vec<String> {
    let leader = match (shard.leader, shard.hearsay) {
        (Some(leader), _) => leader.to_string(),
        (None, Some(leader)) => format!("{leader}?"),
        (None, None) => "?".to_owned(),
    };
    let mut voters = list(&shard.voters);
    if shard.is_joint() {
        let _ = write!(voters, " from {}", list(&shard.outgoing)); // into a string
    } else if !shard.settled {
        voters += " soon";
    }
    let lags: Vec<String> = shard
        .followers
        .keys()
        .filter_map(|node| Some((node, shard.lag(*node)?)))
        .filter(|(_, lag)| *lag > 0)
        .map(|(node, lag)| format!("{node}:{lag}"))
        .collect();
    vec![
        shard.id.to_string(),
        leader,
        shard.term.to_string(),
        or_dash(voters),
        or_dash(list(&shard.learners)),
        shard.commit.to_string(),
        shard.applied.to_string(),
        or_dash(lags.join(" ")),
    ]
}

/// Shards, for programs.
#[must_use]
pub fn shards_json(cluster: &Cluster, wanted: &dyn Fn(ShardId) -> bool) -> Value {
    let raw = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let all = cluster.shard_ids().filter(|id| wanted(*id)).map(|id| {
        let Some(shard) = cluster.shards.get(&id) else { return json!({"shard": id.0}) };
        let follower = |(node, follower): (&NodeId, &super::cluster::Follower)| {
            let lag = shard.commit.saturating_sub(follower.matched);
            let value = json!({"matched": follower.matched, "lag": lag, "state": follower.state});
            (node.to_string(), value)
        };
        let followers: BTreeMap<String, Value> = shard.followers.iter().map(follower).collect();
        json!({
            "shard": id.0,
            "leader": shard.leader.map(|leader| leader.0),
            "term": shard.term,
            "voters": raw(&shard.voters),
            "outgoing": raw(&shard.outgoing),
            "learners": raw(&shard.learners),
            "learners_next": raw(&shard.learners_next),
            "settled": shard.settled,
            "commit": shard.commit,
            "applied": shard.applied,
            "followers": followers,
        })
    });
    json!({"shards": all.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests;
