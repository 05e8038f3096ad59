//! Leaders spread by themselves over nodes and cores.
//!
//! Off unless [`CoreConfig::spread_leaders`](super::CoreConfig::spread_leaders) says so, for it moves what an operator
//! has put somewhere by hand, and each transfer is a short pause of a shard.
//!
//! # Rules
//! Each core decides by itself, now and then, from its view of the cluster; nothing is asked and nothing agreed.
//! - Shards with the **same members** are one group. Every member knows who leads each shard of its groups: its cores
//!   tell each other. So all members count alike.
//! - Within a group, the shards that each **core of each node** leads are counted. Which core of a node hosts a shard is
//!   fixed, so who leads a shard decides which core does.
//! - A core hands a shard over to one that leads at least [`SLACK`] shards of the group less, to the one that leads
//!   fewest. It must be able to lead ([`Raft::peers_to_lead`](crate::raft::Raft::peers_to_lead)): a voter with all
//!   that is committed, of the same priority, not declining; and connected, and not suspected.
//! - A few at a time: at most [`SPREAD_TRANSFERS_MAX`] with each look, and no more than brings this core and the other
//!   half way together, shared with the other cores that have more than they should. A look is taken every
//!   [`SPREAD_PAUSE_TIMEOUTS`] election timeouts, later with many shards: by then the last transfers have ended.
//! - If one of them has failed, the core waits for [`SPREAD_RETRY_TIMEOUTS`] election timeouts.
//! - A core that drains, has stalled or has failed hands over as it must, and not by these rules.
//!
//! # Why it ends
//! Let L be how many shards of a group a core leads. One transfer from a core with L = a to one with L = b <= a - 2
//! lessens the sum of all squares of L by 2 (a - b - 1) >= 2, and nothing here ever adds to it. So it ends, with
//! no two cores further apart than one, as far as voters allow. Cores that decide at the same time may overshoot
//! together; then the core that got too much is the only one to give, or they come closer each time: looks begin at
//! random moments. A difference of one moves nothing, so nothing goes to and fro.
//!
//! | what happens | what follows |
//! |---|---|
//! | a node dies | the others elect, and share among themselves: it is no heir while it is not connected |
//! | it comes back | it leads nothing; the others hand over, each a few with each look |
//! | it lags, returns, or its disk has stalled | it gets nothing until it has everything, counts, and is willing |
//! | a shard sleeps | it is woken by its transfer, once |
//! | a shard changes its members, or is handed over already | it is left alone |
//! | nodes with different priorities | the highest ones share; `raft/priority.rs` brings leadership there |
//! | all shards have other members | nothing: groups of one shard are spread as they are |

use std::collections::BTreeMap;
use std::time::Duration;

use super::link::PeerCore;
use super::run::Core;
use super::view::ClusterView;
use crate::env::Env;
use crate::limits::{
    SPREAD_PAUSE_TIMEOUTS, SPREAD_RETRY_TIMEOUTS, SPREAD_SHARD_PAUSE, SPREAD_TRANSFERS_MAX,
};
use crate::raft::Role;
use crate::raft::membership::NodeSet;
use crate::{ShardId, Term};

/// By how many shards two cores must differ before one is handed over.
const SLACK: usize = if cfg!(mutant = "leaders-spread-without-slack") { 1 } else { 2 };

/// Whether a look goes by the counts of its beginning.
const OLD_COUNTS: bool = cfg!(mutant = "leaders-spread-by-old-counts");

/// What a core remembers between two looks.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// When it looks next.
    due: Option<Duration>,
    /// Places of the shards that were handed over at the last look, and the terms in which they were led here.
    tried: Vec<(usize, Term)>,
}

/// How many shards of a group each core leads.
type Loads = BTreeMap<PeerCore, usize>;

/// The loads of each group that has this node among its members.
fn count(view: &ClusterView) -> BTreeMap<NodeSet, Loads> {
    let mut groups: BTreeMap<&NodeSet, Loads> = BTreeMap::new();
    for shard in (0..view.shards).map(ShardId) {
        let Some(members) = view.replicas.get(shard).filter(|all| all.contains(view.node)) else {
            continue;
        };
        let Some(node) = view.leader(shard) else { continue };
        let Some(core) = view.core_of(node, shard) else { continue };
        *groups.entry(members).or_default().entry(PeerCore { node, core }).or_default() += 1;
    }
    groups.into_iter().map(|(members, loads)| (members.clone(), loads)).collect()
}

/// What `own` hands over now: of the shards that it leads, each with the cores that could lead it instead, which
/// go where. Counts them in `loads`.
fn plan<T>(
    own: PeerCore,
    loads: &mut Loads,
    led: impl IntoIterator<Item = (T, Vec<PeerCore>)>,
) -> Vec<(T, PeerCore)> {
    let load = |loads: &Loads, core: &PeerCore| loads.get(core).copied().unwrap_or(0);
    let (mut moves, mut most) = (Vec::new(), SPREAD_TRANSFERS_MAX);
    for (shard, heirs) in led {
        if moves.len() >= most {
            break;
        }
        let Some(to) = heirs.into_iter().min_by_key(|core| (load(loads, core), *core)) else {
            continue;
        };
        let (ours, theirs) = (load(loads, &own), load(loads, &to));
        if ours < theirs + SLACK {
            continue;
        }
        if moves.is_empty() && !OLD_COUNTS {
            let givers = loads.values().filter(|load| **load >= theirs + SLACK).count();
            most = most.min(((ours - theirs) / (2 * givers.max(1))).max(1));
        }
        if !OLD_COUNTS {
            *loads.entry(own).or_default() -= 1;
            *loads.entry(to).or_default() += 1;
        }
        moves.push((shard, to));
    }
    moves
}

impl<E: Env> Core<E> {
    /// With each tick: hands over a few leaders if this core leads more than its share.
    pub(super) fn spread_leaders(&mut self, now: Duration) {
        if !self.config.spread_leaders || self.drained || self.stall.is_stalled() {
            return;
        }
        let pause = self.config.election_timeout * SPREAD_PAUSE_TIMEOUTS;
        let pause = pause.max(SPREAD_SHARD_PAUSE * self.config.shards);
        let Some(due) = self.spread.due else {
            let part = self.env.random() % 1024;
            self.spread.due = Some(now + pause + pause * part as u32 / 1024);
            return;
        };
        if now < due {
            return;
        }
        let tried = std::mem::take(&mut self.spread.tried);
        let still_led = |(at, term): &(usize, Term)| {
            let raft = &self.shards[*at].raft;
            raft.role() == Role::Leader && raft.term() == *term
        };
        if tried.iter().any(still_led) {
            sometimes!(spread_failed);
            let wait = self.config.election_timeout * SPREAD_RETRY_TIMEOUTS;
            self.spread.due = Some(now + wait.max(pause));
            return;
        }
        self.spread.due = Some(now + pause);
        let moves = self.plan_moves();
        for (at, to) in moves {
            sometimes!(leader_spread);
            let shard = &self.shards[at];
            tracing::debug!(shard = %shard.id, %to, "handed over: this core leads more than its share");
            self.spread.tried.push((at, shard.raft.term()));
            self.counters.leaders_spread += 1;
            self.touch(at);
            self.shards[at].transfer(Some(to.node), None);
        }
    }

    /// Places of shards, and who is to lead them.
    fn plan_moves(&self) -> Vec<(usize, PeerCore)> {
        let view = self.inbox.view.borrow();
        let own = PeerCore { node: self.config.node, core: self.config.core };
        let mut moves = Vec::new();
        for (members, mut loads) in count(&view) {
            if !loads.contains_key(&own) || moves.len() >= SPREAD_TRANSFERS_MAX {
                continue;
            }
            let shards = self.shards.iter().enumerate().filter(|(_, shard)| {
                let of_group = view.replicas.get(shard.id).is_some_and(|own| *own == members);
                of_group && shard.halted().is_none()
            });
            let led = shards.map(|(at, shard)| {
                let cores = shard.raft.peers_to_lead().filter_map(|node| {
                    let peer = PeerCore { node, core: view.core_of(node, shard.id)? };
                    (self.links.contains_key(&peer) && !self.liveness.suspects(peer))
                        .then_some(peer)
                });
                (at, cores.collect())
            });
            moves.extend(plan(own, &mut loads, led));
        }
        moves.truncate(SPREAD_TRANSFERS_MAX);
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CoreId, NodeId};

    /// Shards of one group on nodes with so many cores, and who leads each.
    struct World {
        cores: Vec<u16>,
        up: Vec<bool>,
        leaders: Vec<usize>,
    }

    impl World {
        fn core(&self, node: usize, shard: usize) -> PeerCore {
            let (shard, shards) = (ShardId(shard as u32), self.leaders.len() as u32);
            let core = CoreId::hosting(shard, shards, self.cores[node]);
            PeerCore { node: NodeId(node as u64 + 1), core }
        }

        fn all(&self) -> Vec<PeerCore> {
            let nodes = (0..self.cores.len()).filter(|node| self.up[*node]);
            let each = nodes.flat_map(|node| {
                let id = NodeId(node as u64 + 1);
                (0..self.cores[node]).map(move |core| PeerCore { node: id, core: CoreId(core) })
            });
            each.collect()
        }

        fn loads(&self) -> Loads {
            let mut loads = Loads::new();
            for (shard, node) in self.leaders.iter().enumerate() {
                *loads.entry(self.core(*node, shard)).or_default() += 1;
            }
            loads
        }

        fn plan_of(&self, own: PeerCore) -> Vec<(usize, PeerCore)> {
            let led = (0..self.leaders.len())
                .filter(|shard| self.core(self.leaders[*shard], *shard) == own)
                .map(|shard| {
                    let nodes = (0..self.cores.len()).filter(|node| self.up[*node]);
                    let heirs = nodes.map(|node| self.core(node, shard));
                    (shard, heirs.filter(|heir| heir.node != own.node).collect())
                });
            plan(own, &mut self.loads(), led)
        }

        /// All cores look at the same moment. Returns how many shards were handed over.
        fn look(&mut self) -> usize {
            let moves: Vec<_> = self.all().into_iter().flat_map(|own| self.plan_of(own)).collect();
            for (shard, to) in &moves {
                self.leaders[*shard] = to.node.0 as usize - 1;
            }
            moves.len()
        }

        /// Looks until nothing is handed over any more. Returns how many were.
        fn settle(&mut self, looks_max: usize) -> usize {
            let mut moved = 0;
            for _ in 0..looks_max {
                match self.look() {
                    0 => return moved,
                    more => moved += more,
                }
            }
            panic!("no end after {looks_max} looks: {:?}", self.loads());
        }

        /// The largest difference between two cores that a shard could move between.
        fn spread(&self) -> usize {
            let loads = self.loads();
            let load = |core: PeerCore| loads.get(&core).copied().unwrap_or(0);
            let nodes: Vec<usize> = (0..self.cores.len()).filter(|node| self.up[*node]).collect();
            let of_shard = |shard: usize| {
                let own = load(self.core(self.leaders[shard], shard));
                let least = nodes.iter().map(|node| load(self.core(*node, shard))).min();
                own - own.min(least.unwrap_or(own))
            };
            (0..self.leaders.len()).map(of_shard).max().unwrap_or(0)
        }
    }

    #[test]
    fn leaders_spread_and_then_stay_wherever_they_are_at_first() {
        let mut seed = 1u64;
        let mut random = move |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for round in 0..300 {
            let nodes = 2 + random(6);
            let even = 1 + random(3) as u16;
            let uneven = round % 3 == 0;
            let cores =
                (0..nodes).map(|_| if uneven { 1 + random(3) as u16 } else { even }).collect();
            let shards = 1 + random(120);
            let crowd = 1 + random(nodes);
            let leaders = (0..shards).map(|_| random(crowd)).collect();
            let mut world = World { cores, up: vec![true; nodes], leaders };
            world.settle(40 + shards);
            assert!(world.spread() <= 1, "{:?}", world.loads());
        }
    }

    #[test]
    fn a_node_that_comes_back_gets_its_share_in_time_and_no_more() {
        let (nodes, shards) = (3, 3000);
        let leaders = (0..shards).map(|shard| shard % 2).collect();
        let mut world = World { cores: vec![2; nodes], up: vec![true; nodes], leaders };
        let moved = world.settle(4 * shards / SPREAD_TRANSFERS_MAX);
        assert!(world.spread() <= 1, "{:?}", world.loads());
        assert!(moved <= shards / 3 + nodes, "{moved} of {shards}");
    }

    #[test]
    fn the_others_share_what_a_dead_node_led() {
        let leaders = (0..31).map(|shard| 1 + shard % 4).collect();
        let mut world =
            World { cores: vec![1; 5], up: vec![false, true, true, true, true], leaders };
        world.leaders[..12].fill(1);
        world.settle(100);
        assert!(world.spread() <= 1, "{:?}", world.loads());
        assert_eq!(world.loads().keys().filter(|core| core.node == NodeId(1)).count(), 0);
    }

    #[test]
    fn a_few_go_at_a_time() {
        let mut world = World { cores: vec![1; 3], up: vec![true; 3], leaders: vec![0; 90] };
        assert_eq!(world.look(), SPREAD_TRANSFERS_MAX);
        let mut world = World { cores: vec![1; 2], up: vec![true; 2], leaders: vec![0; 7] };
        assert_eq!(world.look(), 3, "half way");
    }
}
