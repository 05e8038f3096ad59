//! Brings shards to a goal: looks, does what the plan says, looks again, until all are there or time is up.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use coracle::admin::protocol::{FailureKind, Request};
use coracle::{NodeId, ShardId};

use super::CtlError;
use super::client::CallError;
use super::cluster::Cluster;
use super::plan::{self, Goal, Next, Step};
use super::session::Session;
use super::show::count_of;

/// Pause before the next look when something was done: its effects show soon.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// Pause before the next look when nothing could be done. Longer if looking takes longer.
const WAIT_PAUSE: Duration = Duration::from_millis(250);

/// Lines on stderr that say how far it is: one when that changes.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: String,
}

impl Progress {
    /// Says `line` unless it was said last.
    pub(super) fn say(&mut self, line: String) {
        if line != self.last {
            // Nobody may be reading: no reason to end.
            let _ = writeln!(std::io::stderr(), "{line}");
            self.last = line;
        }
    }
}

/// Steps for the shards that a node leads.
type Steps = BTreeMap<NodeId, Vec<(ShardId, Step)>>;

/// What a look at the goals comes to.
#[derive(Debug, Default)]
struct Round {
    wanted: usize,
    done: usize,
    steps: Steps,
    waiting: Vec<(ShardId, String)>,
}

impl Round {
    fn line(&self) -> String {
        let Self { wanted, done, .. } = self;
        let waiting =
            self.waiting.first().map(|(shard, reason)| format!("shard {shard}: {reason}"));
        let more = self.waiting.len().saturating_sub(1);
        let steps: Vec<&(ShardId, Step)> = self.steps.values().flatten().collect();
        let next = steps.first().map(|(shard, step)| format!("shard {shard}: {}", told(step)));
        let steps_more = steps.len().saturating_sub(1);
        let mut line = format!("{done} of {} done", count_of(*wanted, "shard"));
        for (what, more) in [(next, steps_more), (waiting, more)] {
            if let Some(what) = what {
                line += &format!("; {what}");
                if more > 0 {
                    line += &format!(" (and {more} more)");
                }
            }
        }
        line
    }
}

fn told(step: &Step) -> String {
    use coracle::admin::protocol::MemberChange::{AddLearner, AddVoter, Remove};
    match step {
        Step::Transfer(to) => format!("node {to} is to lead"),
        Step::Reconfigure(changes) if changes.is_empty() => "leaving a joint change".to_owned(),
        Step::Reconfigure(changes) => {
            let each = changes.iter().map(|change| match change {
                AddVoter(node) => format!("node {node} votes"),
                AddLearner(node) => format!("node {node} learns"),
                Remove(node) => format!("node {node} goes"),
            });
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// What is wanted of which shards, as far as that depends on how they are.
pub(super) type Goals<'a> = dyn Fn(&Cluster) -> Result<BTreeMap<ShardId, Goal>, CtlError> + 'a;

/// Brings all shards to their goals. Gives the cluster as it was when they were there.
///
/// # Errors
/// [`CtlError`]; what was done by then stays done.
pub(super) fn reach(
    session: &mut Session,
    progress: &mut Progress,
    goals: &Goals<'_>,
) -> Result<Cluster, CtlError> {
    loop {
        let began = Instant::now();
        let cluster = session.look()?;
        let looking = began.elapsed();
        let mut round = compare(&cluster, &goals(&cluster)?)?;
        if round.done == round.wanted {
            return Ok(cluster);
        }
        progress.say(round.line());
        let (steps, before) = (std::mem::take(&mut round.steps), round.waiting.len());
        let stepped = !steps.is_empty();
        round.waiting.extend(carry_out(session, &cluster, steps)?);
        let hindered = round.waiting.len() > before;
        if session.left().is_zero() {
            let missing = match round.waiting.is_empty() {
                true => "changes are under way".to_owned(),
                false => missing(&round.waiting),
            };
            return Err(session.timed_out(missing));
        }
        let pause = if stepped && !hindered { STEP_PAUSE } else { WAIT_PAUSE };
        session.pause(pause.max(looking));
    }
}

/// The first reason, and how many more shards there are.
fn missing(waiting: &[(ShardId, String)]) -> String {
    let Some((shard, reason)) = waiting.first() else { return String::new() };
    let others = waiting.iter().filter(|(other, _)| other != shard).count();
    let more = if others > 0 {
        format!(" (and {})", count_of(others, "more shard"))
    } else {
        String::new()
    };
    format!("shard {shard}: {reason}{more}")
}

fn compare(cluster: &Cluster, goals: &BTreeMap<ShardId, Goal>) -> Result<Round, CtlError> {
    let mut round = Round { wanted: goals.len(), ..Round::default() };
    for (id, goal) in goals {
        let Some(shard) = cluster.shards.get(id) else {
            round.waiting.push((*id, "no node that has it answers".to_owned()));
            continue;
        };
        match plan::next(shard, goal) {
            Next::Done => round.done += 1,
            Next::Do(leader, step) => {
                round.steps.entry(leader).or_default().push((*id, step));
            }
            Next::Wait(reason) => {
                let silent = shard.hearsay.and_then(|node| cluster.silence(node));
                let why = silent.map(|why| format!(" ({why})")).unwrap_or_default();
                round.waiting.push((*id, reason + &why));
            }
            Next::Never(reason) => return Err(CtlError::Unfit(format!("shard {id}: {reason}"))),
        }
    }
    Ok(round)
}

/// Has all leaders do their steps, side by side. Gives what hindered some, which may pass.
pub(super) fn carry_out(
    session: &Session,
    cluster: &Cluster,
    steps: Steps,
) -> Result<Vec<(ShardId, String)>, CtlError> {
    // A change that can't be committed is given up after a few of them.
    let wait =
        (4 * cluster.election_timeout).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let results: Vec<(ShardId, CallError)> = thread::scope(|scope| {
        let threads: Vec<_> = steps
            .into_iter()
            .map(|(node, steps)| scope.spawn(move || carry_out_on(session, node, steps, wait)))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let mut hindered = Vec::new();
    for (shard, error) in results {
        match error.kind() {
            FailureKind::Refused | FailureKind::Invalid => {
                return Err(CtlError::Refused(error.to_string()));
            }
            FailureKind::NotLeader | FailureKind::NotYet | FailureKind::Unknown => {
                hindered.push((shard, error.to_string()));
            }
        }
    }
    Ok(hindered)
}

fn carry_out_on(
    session: &Session,
    node: NodeId,
    steps: Vec<(ShardId, Step)>,
    wait: Duration,
) -> Vec<(ShardId, CallError)> {
    let mut hindered = Vec::new();
    let mut connection = session.connect(node);
    for (shard, step) in steps {
        let client = match &mut connection {
            Ok(client) => client,
            Err(error) => {
                hindered.push((shard, error.clone()));
                continue;
            }
        };
        let request = match step {
            Step::Reconfigure(changes) => Request::Reconfigure { shard: shard.0, changes },
            Step::Transfer(to) => Request::Transfer { shard: shard.0, to: Some(to.0) },
        };
        if let Err(error) = client.call(request, wait) {
            if matches!(error, CallError::Broken { .. }) {
                connection = Err(error.clone()); // the next look finds out how it is
            }
            hindered.push((shard, error));
        }
    }
    hindered
}
