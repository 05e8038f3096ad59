//! What each command of `coraclectl` does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use coracle::admin::SETTINGS;
use coracle::admin::protocol::{Answer, FailureKind, Request};
use coracle::{NodeId, ShardId};
use serde_json::{Value, json};

use super::CtlError;
use super::args::{Args, Command, Newcomer, OnNodes, Shards};
use super::client::{CallError, unexpected};
use super::cluster::{Cluster, Shard};
use super::drive::{Progress, carry_out, reach};
use super::plan::{self, Goal, Step, Want};
use super::session::Session;
use super::show::{self, count_of, shard_list};

/// Pause before something is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What a command prints when it is done.
struct Done {
    text: String,
    json: Value,
}

impl Done {
    /// A line for people, and the same with `facts` for programs.
    fn new(text: String, mut facts: Value) -> Self {
        facts["done"] = json!(text);
        Self { text: text + "\n", json: facts }
    }
}

/// Runs a command and prints what comes of it.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let mut session = Session::new(args.admin, Duration::from_secs(args.timeout_s));
    match carry_out_command(&mut session, args.command) {
        Ok(done) => {
            say(&if args.json { format!("{:#}\n", done.json) } else { done.text });
            ExitCode::SUCCESS
        }
        Err(error) => {
            if args.json {
                say(&format!("{:#}\n", json!({"error": error.to_string()})));
            }
            eprintln!("coraclectl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout. That nobody wants to read on (`| head`) is no reason to fail: what was to be done is done.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn carry_out_command(session: &mut Session, command: Command) -> Result<Done, CtlError> {
    let mut progress = Progress::default();
    match command {
        Command::Status => {
            let cluster = session.look_once()?;
            Ok(Done { text: show::status(&cluster), json: show::status_json(&cluster) })
        }
        Command::Members => {
            let cluster = session.look_once()?;
            Ok(Done { text: show::members(&cluster), json: show::members_json(&cluster) })
        }
        Command::Shards { shards } => {
            let cluster = session.look_once()?;
            check_shards(&cluster, shards.as_ref())?;
            let wanted = |id: ShardId| shards.as_ref().is_none_or(|shards| shards.0.contains(&id));
            let text = show::shards(&cluster, &wanted);
            Ok(Done { text, json: show::shards_json(&cluster, &wanted) })
        }
        Command::Add { members, shards, promote } => {
            add(session, &mut progress, &members, shards.as_ref(), promote)
        }
        Command::Promote(on) => turn(session, &mut progress, &on, Want::Voter, "voting in"),
        Command::Demote(on) => turn(session, &mut progress, &on, Want::Learner, "only learning in"),
        Command::Remove(on) => remove(session, &mut progress, &on),
        Command::Replace { old, new } => replace(session, &mut progress, NodeId(old), &new),
        Command::Transfer { shard: Some(shard), to, .. } => {
            transfer(session, &mut progress, ShardId(shard), to.map(NodeId))
        }
        Command::Transfer { shard: None, .. } => spread(session, &mut progress),
        Command::Move { shards, from, to } => {
            relocate(session, &mut progress, &shards, NodeId(from), NodeId(to))
        }
        Command::Drain { node } => drain(session, NodeId(node)),
        Command::Snapshot { shard, node } => {
            snapshot(session, &mut progress, shard.map(ShardId), node.map(NodeId))
        }
        Command::Set { name, value, node, all } => {
            let nodes = nodes_to_set(session, node.map(NodeId), all)?;
            match name.zip(value) {
                Some((name, value)) => set(session, &nodes, &name, &value),
                None => settings(session, &nodes),
            }
        }
    }
}

/// The shards that are meant: those that are named, or all.
fn chosen(cluster: &Cluster, shards: Option<&Shards>) -> Vec<ShardId> {
    match shards {
        Some(shards) => shards.0.iter().copied().collect(),
        None => cluster.shard_ids().collect(),
    }
}

fn check_shards(cluster: &Cluster, shards: Option<&Shards>) -> Result<(), CtlError> {
    match shards.and_then(|shards| shards.0.iter().find(|shard| shard.0 >= cluster.shard_count)) {
        Some(shard) => Err(CtlError::Unfit(format!(
            "there is no shard {shard}: the cluster has {}, from 0",
            count_of(cluster.shard_count as usize, "shard")
        ))),
        None => Ok(()),
    }
}

fn check_member(cluster: &Cluster, node: NodeId) -> Result<(), CtlError> {
    if cluster.nodes.contains_key(&node) {
        return Ok(());
    }
    Err(CtlError::Unfit(format!(
        "node {node} is no member of the cluster; add it with its addresses: coraclectl add \
         {node}=CLIENT_HOST:PORT,PEER_HOST:PORT"
    )))
}

/// The same is wanted in all shards that are meant.
fn same_goal(shards: &[ShardId], goal: &Goal) -> BTreeMap<ShardId, Goal> {
    shards.iter().map(|shard| (*shard, goal.clone())).collect()
}

fn goal_of(nodes: impl IntoIterator<Item = NodeId>, want: Want) -> Goal {
    nodes.into_iter().map(|node| (node, want)).collect()
}

fn nodes_text(nodes: &[NodeId]) -> String {
    let all: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    format!("node{} {}", if all.len() == 1 { "" } else { "s" }, all.join(", "))
}

fn facts(nodes: &[NodeId], shards: &[ShardId]) -> Value {
    let (nodes, shards): (Vec<u64>, Vec<u32>) =
        (nodes.iter().map(|node| node.0).collect(), shards.iter().map(|shard| shard.0).collect());
    json!({"nodes": nodes, "shards": shards})
}

/// Puts newcomers into the address book, unless they are there with these addresses.
fn introduce(
    session: &mut Session,
    progress: &mut Progress,
    newcomers: &[Newcomer],
) -> Result<Cluster, CtlError> {
    let cluster = session.look()?;
    for newcomer in newcomers {
        let Newcomer::Member(member) = newcomer else {
            check_member(&cluster, NodeId(newcomer.id()))?;
            continue;
        };
        let client = format!("{}:{}", member.client_host, member.client_port);
        let peer = format!("{}:{}", member.peer_host, member.peer_port);
        let known = cluster.nodes.get(&member.id).map(|node| &node.member);
        if known.is_some_and(|known| known.client == client && known.peer == peer) {
            continue;
        }
        progress.say(format!("node {} becomes a member", member.id));
        change_book(session, &[], &Request::AddMember { member: member.to_string() })?;
    }
    session.look()
}

/// Has some node that answers, but none of `except`, change the address book.
fn change_book(
    session: &mut Session,
    except: &[NodeId],
    request: &Request,
) -> Result<(), CtlError> {
    loop {
        let cluster = session.look()?;
        let answers = |node: &&NodeId| !except.contains(node) && cluster.silence(**node).is_none();
        let contact = Some(&cluster.contact).filter(answers);
        let Some(node) = contact.or_else(|| cluster.nodes.keys().find(answers)) else {
            if session.left().is_zero() {
                return Err(CtlError::NoContact("all others are silent".to_owned()));
            }
            session.pause(RETRY_PAUSE);
            continue;
        };
        let error = match session.call(*node, request.clone(), session.left()) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        retry(session, &error)?;
    }
}

/// Waits before something is tried again, if that can help and there is time.
fn retry(session: &Session, error: &CallError) -> Result<(), CtlError> {
    match error.kind() {
        FailureKind::Refused | FailureKind::Invalid => Err(CtlError::Refused(error.to_string())),
        _ if session.left().is_zero() => Err(session.timed_out(error.to_string())),
        FailureKind::NotLeader | FailureKind::NotYet | FailureKind::Unknown => {
            session.pause(RETRY_PAUSE);
            Ok(())
        }
    }
}

fn add(
    session: &mut Session,
    progress: &mut Progress,
    newcomers: &[Newcomer],
    shards: Option<&Shards>,
    promote: bool,
) -> Result<Done, CtlError> {
    let cluster = introduce(session, progress, newcomers)?;
    check_shards(&cluster, shards)?;
    let shards = chosen(&cluster, shards);
    let nodes: Vec<NodeId> = newcomers.iter().map(|newcomer| NodeId(newcomer.id())).collect();
    let want = if promote { Want::Voter } else { Want::Member };
    let goals = same_goal(&shards, &goal_of(nodes.iter().copied(), want));
    reach(session, progress, &|_| Ok(goals.clone()))?;
    let of = count_of(shards.len(), "shard");
    let text = match promote {
        true => format!("{}: voting in {of}", nodes_text(&nodes)),
        false => {
            let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            let next = format!("let it vote with: coraclectl promote {}", ids.join(" "));
            format!("{}: receiving {of}; {next}", nodes_text(&nodes))
        }
    };
    Ok(Done::new(text, facts(&nodes, &shards)))
}

fn turn(
    session: &mut Session,
    progress: &mut Progress,
    on: &OnNodes,
    want: Want,
    what: &str,
) -> Result<Done, CtlError> {
    let cluster = session.look()?;
    check_shards(&cluster, on.shards.as_ref())?;
    let nodes: Vec<NodeId> = on.nodes.iter().copied().map(NodeId).collect();
    nodes.iter().try_for_each(|node| check_member(&cluster, *node))?;
    let shards = chosen(&cluster, on.shards.as_ref());
    let goals = same_goal(&shards, &goal_of(nodes.iter().copied(), want));
    reach(session, progress, &|_| Ok(goals.clone()))?;
    let text = format!("{}: {what} {}", nodes_text(&nodes), count_of(shards.len(), "shard"));
    Ok(Done::new(text, facts(&nodes, &shards)))
}

fn remove(session: &mut Session, progress: &mut Progress, on: &OnNodes) -> Result<Done, CtlError> {
    let cluster = session.look()?;
    check_shards(&cluster, on.shards.as_ref())?;
    let nodes: Vec<NodeId> = on.nodes.iter().copied().map(NodeId).collect();
    let shards = chosen(&cluster, on.shards.as_ref());
    let goals = same_goal(&shards, &goal_of(nodes.iter().copied(), Want::Gone));
    reach(session, progress, &|_| Ok(goals.clone()))?;
    let text = match &on.shards {
        Some(_) => format!("{}: out of {}", nodes_text(&nodes), count_of(shards.len(), "shard")),
        None => {
            take_out(session, progress, &nodes)?;
            format!("{}: removed; the process can be stopped", nodes_text(&nodes))
        }
    };
    Ok(Done::new(text, facts(&nodes, &shards)))
}

/// Takes nodes that are out of all shards out of the address book. Others have to do it: those that go may not know
/// yet that they are out.
fn take_out(
    session: &mut Session,
    progress: &mut Progress,
    nodes: &[NodeId],
) -> Result<(), CtlError> {
    for node in nodes {
        progress.say(format!("node {node} is no member any more"));
        change_book(session, nodes, &Request::RemoveMember { id: node.0 })?;
    }
    Ok(())
}

fn replace(
    session: &mut Session,
    progress: &mut Progress,
    old: NodeId,
    newcomer: &Newcomer,
) -> Result<Done, CtlError> {
    let new = NodeId(newcomer.id());
    if old == new {
        return Err(CtlError::Unfit(format!("node {old} cannot replace itself")));
    }
    let cluster = introduce(session, progress, std::slice::from_ref(newcomer))?;
    check_places(&cluster, cluster.shards.keys(), old, new)?;
    let goals = |cluster: &Cluster| {
        let place = |id| Ok((id, place_goal(cluster, id, old, new)));
        cluster.shard_ids().map(place).collect()
    };
    let cluster = reach(session, progress, &goals)?;
    take_out(session, progress, &[old])?;
    let shards: Vec<ShardId> = cluster.shard_ids().collect();
    let text = format!("node {new} is in the place of node {old}, whose process can be stopped");
    Ok(Done::new(text, facts(&[old, new], &shards)))
}

/// A shard in which both vote would have one voter less afterwards: not what is asked for. While the two change places
/// only one of them is among those that will vote.
fn check_places<'a>(
    cluster: &Cluster,
    shards: impl Iterator<Item = &'a ShardId>,
    old: NodeId,
    new: NodeId,
) -> Result<(), CtlError> {
    let both = |shard: &&Shard| shard.voters.contains(&old) && shard.voters.contains(&new);
    match shards.filter_map(|id| cluster.shards.get(id)).find(both) {
        Some(shard) => Err(CtlError::Unfit(format!(
            "node {new} votes in shard {0} already, beside node {old}; to have one voter less there: \
             coraclectl remove {old} --shards {0}",
            shard.id
        ))),
        None => Ok(()),
    }
}

/// `new` is to be what `old` is, and `old` to be gone. Where `old` is not, or not any more, nothing is wanted of `new`.
fn place_goal(cluster: &Cluster, id: ShardId, old: NodeId, new: NodeId) -> Goal {
    let mut goal = goal_of([old], Want::Gone);
    if let Some(shard) = cluster.shards.get(&id).filter(|shard| shard.has(old)) {
        let votes = shard.voters.contains(&old) || shard.outgoing.contains(&old);
        goal.insert(new, if votes { Want::Voter } else { Want::Member });
    }
    goal
}

fn relocate(
    session: &mut Session,
    progress: &mut Progress,
    shards: &Shards,
    from: NodeId,
    to: NodeId,
) -> Result<Done, CtlError> {
    let cluster = session.look()?;
    check_shards(&cluster, Some(shards))?;
    check_member(&cluster, to)?;
    if from == to {
        return Err(CtlError::Unfit(format!("node {from} has it already")));
    }
    check_places(&cluster, shards.0.iter(), from, to)?;
    for id in &shards.0 {
        let shard = cluster.shards.get(id);
        if shard.is_some_and(|shard| !shard.has(from) && !shard.has(to)) {
            return Err(CtlError::Unfit(format!("node {from} does not have shard {id}")));
        }
    }
    let goals = |cluster: &Cluster| {
        Ok(shards.0.iter().map(|id| (*id, place_goal(cluster, *id, from, to))).collect())
    };
    reach(session, progress, &goals)?;
    let shards: Vec<ShardId> = shards.0.iter().copied().collect();
    let text = format!("moved {} from node {from} to node {to}", count_of(shards.len(), "shard"));
    Ok(Done::new(text, facts(&[from, to], &shards)))
}

fn transfer(
    session: &mut Session,
    progress: &mut Progress,
    shard: ShardId,
    to: Option<NodeId>,
) -> Result<Done, CtlError> {
    loop {
        let cluster = session.look()?;
        check_shards(&cluster, Some(&Shards([shard].into())))?;
        let leader = cluster.shards.get(&shard).and_then(|shard| shard.leader);
        if let (Some(leader), Some(to)) = (leader, to)
            && leader == to
        {
            return Ok(led_by(shard, to));
        }
        let Some(leader) = leader else {
            progress.say(format!("shard {shard} has no leader that answers"));
            if session.left().is_zero() {
                return Err(session.timed_out(format!("shard {shard} has no leader that answers")));
            }
            session.pause(RETRY_PAUSE);
            continue;
        };
        if let Some((to, why)) = to.and_then(|to| Some((to, cluster.unwillingness(to)?))) {
            return Err(CtlError::Unfit(format!("node {to} would not lead shard {shard}: {why}")));
        }
        let request = Request::Transfer { shard: shard.0, to: to.map(|to| to.0) };
        let error = match session.call(leader, request, session.left()) {
            Ok(Answer::Transferred { leader }) => return Ok(led_by(shard, NodeId(leader))),
            Ok(_) => unexpected("the leader"),
            Err(error) => error,
        };
        progress.say(error.to_string());
        retry(session, &error)?;
    }
}

fn led_by(shard: ShardId, leader: NodeId) -> Done {
    let text = format!("node {leader} leads shard {shard}");
    Done::new(text, json!({"shard": shard.0, "leader": leader.0}))
}

fn spread(session: &mut Session, progress: &mut Progress) -> Result<Done, CtlError> {
    loop {
        let cluster = session.look()?;
        let transfers = plan::spread(&cluster);
        if transfers.is_empty() {
            let mut led: BTreeMap<String, usize> = BTreeMap::new();
            for leader in cluster.shards.values().filter_map(|shard| shard.leader) {
                *led.entry(leader.to_string()).or_default() += 1;
            }
            let each = led.iter().map(|(node, count)| format!("node {node} leads {count}"));
            let text = format!("leaders are spread: {}", each.collect::<Vec<_>>().join(", "));
            return Ok(Done::new(text, json!({"led": led})));
        }
        let count = transfers.len();
        progress.say(format!("{} to be handed over", count_of(count, "shard")));
        let mut steps: BTreeMap<NodeId, Vec<(ShardId, Step)>> = BTreeMap::new();
        for (shard, from, to) in transfers {
            steps.entry(from).or_default().push((shard, Step::Transfer(to)));
        }
        let hindered = carry_out(session, &cluster, steps)?;
        if session.left().is_zero() {
            let first = hindered.first().map(|(shard, reason)| format!("shard {shard}: {reason}"));
            let missing = format!("{} to be handed over", count_of(count, "shard"));
            return Err(session.timed_out(first.unwrap_or(missing)));
        }
        if !hindered.is_empty() {
            session.pause(RETRY_PAUSE);
        }
    }
}

fn drain(session: &mut Session, node: NodeId) -> Result<Done, CtlError> {
    let cluster = session.look()?;
    check_member(&cluster, node)?;
    if let Some(reason) = cluster.silence(node) {
        return Err(CtlError::NoAnswer { node, reason: reason.to_owned() });
    }
    match session.call(node, Request::Drain, session.left()) {
        Ok(Answer::Drained { handed_over, kept }) if kept.is_empty() => {
            let count = usize::try_from(handed_over).unwrap_or(usize::MAX);
            let text = format!(
                "node {node} has handed over {} and leads nothing more until it is started again",
                count_of(count, "shard")
            );
            Ok(Done::new(text, json!({"node": node.0, "handed_over": handed_over})))
        }
        Ok(Answer::Drained { kept, .. }) => {
            let kept = shard_list(kept.into_iter().map(ShardId));
            Err(session.timed_out(format!("nobody else could take over shards {kept} yet")))
        }
        Ok(_) => Err(CtlError::Refused(unexpected("the node").to_string())),
        Err(error) => Err(CtlError::Refused(error.to_string())),
    }
}

fn snapshot(
    session: &mut Session,
    progress: &mut Progress,
    shard: Option<ShardId>,
    node: Option<NodeId>,
) -> Result<Done, CtlError> {
    let cluster = session.look()?;
    let node = node.unwrap_or(cluster.contact);
    check_member(&cluster, node)?;
    let heard = match &cluster.nodes[&node].heard {
        Ok(heard) => heard,
        Err(reason) => return Err(CtlError::NoAnswer { node, reason: reason.clone() }),
    };
    let shards = match shard {
        Some(shard) => vec![shard],
        None => heard.replicas.iter().map(|replica| ShardId(replica.shard)).collect(),
    };
    let mut taken = BTreeMap::new();
    progress.say(format!("taking {}", count_of(shards.len(), "snapshot")));
    for shard in &shards {
        loop {
            let request = Request::Snapshot { shard: shard.0 };
            match session.call(node, request, session.left()) {
                Ok(Answer::Snapshot { index }) => {
                    taken.insert(shard.to_string(), index);
                    break;
                }
                Ok(_) => return Err(CtlError::Refused(unexpected("the node").to_string())),
                Err(error) => retry(session, &error)?,
            }
        }
    }
    let text = format!("node {node} has {}", count_of(taken.len(), "new snapshot"));
    Ok(Done::new(text, json!({"node": node.0, "last_index": taken})))
}

/// The nodes whose settings are meant.
fn nodes_to_set(
    session: &mut Session,
    node: Option<NodeId>,
    all: bool,
) -> Result<Vec<NodeId>, CtlError> {
    let cluster = session.look()?;
    let nodes: BTreeSet<NodeId> = match all {
        true => cluster.nodes.keys().copied().collect(),
        false => [node.unwrap_or(cluster.contact)].into(),
    };
    for &node in &nodes {
        check_member(&cluster, node)?;
        if let Some(reason) = cluster.silence(node) {
            return Err(CtlError::NoAnswer { node, reason: reason.to_owned() });
        }
    }
    Ok(nodes.into_iter().collect())
}

fn set(session: &mut Session, nodes: &[NodeId], name: &str, value: &str) -> Result<Done, CtlError> {
    for node in nodes {
        let request = Request::Set { name: name.to_owned(), value: value.to_owned() };
        while let Err(error) = session.call(*node, request.clone(), session.left()) {
            retry(session, &error)?;
        }
    }
    let text = format!("{name} is {value} on {} until a restart", nodes_text(nodes));
    let ids: Vec<u64> = nodes.iter().map(|node| node.0).collect();
    Ok(Done::new(text, json!({"name": name, "value": value, "nodes": ids})))
}

fn settings(session: &mut Session, nodes: &[NodeId]) -> Result<Done, CtlError> {
    let mut rows = Vec::new();
    let mut all = BTreeMap::new();
    for node in nodes {
        let values = match session.call(*node, Request::Settings, session.left()) {
            Ok(Answer::Settings(values)) => values,
            Ok(_) => return Err(CtlError::Refused(unexpected("the node").to_string())),
            Err(error) => return Err(CtlError::Refused(error.to_string())),
        };
        for (name, value) in &values {
            let what =
                SETTINGS.iter().find(|(known, _)| known == name).map_or("", |(_, what)| what);
            rows.push(vec![node.to_string(), name.clone(), value.clone(), what.to_owned()]);
        }
        all.insert(node.to_string(), values);
    }
    let text = show::table(&["node", "setting", "value", "what it is"], &[0, 2], &rows);
    Ok(Done { text, json: json!({"nodes": all}) })
}
