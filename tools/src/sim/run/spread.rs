//! Whether leaders spread over nodes and cores once all is well, and then stay.
//!
//! Of shards with the same members, every core of every node leads about as many: no core leads two more than another
//! one that could have one of its shards. After that, nothing is handed over any more, but for what elections have
//! upset: frames may go on being lost, so there may be some.

use std::collections::BTreeMap;

use coracle_engine::raft::membership::{Configuration, NodeSet};
use coracle_engine::{CoreId, NodeId, ShardId};

use super::{Driver, Failure, Workload};

/// Election timeouts for which is watched whether they stay: some ten looks of each core.
const WATCHED_TIMEOUTS: u32 = 24;

impl<W: Workload> Driver<W> {
    /// Called when everybody is back and has applied the same.
    pub(super) fn leaders_must_spread(&mut self) -> Result<(), Failure> {
        // By priority, they belong elsewhere.
        if !self.settings.spread_leaders || self.settings.priorities.iter().any(|own| *own != 0) {
            return Ok(());
        }
        let deadline = self.world.now() + self.patience();
        if !self.advance(deadline, |driver| driver.crowded_core().is_none())? {
            let message = format!(
                "leaders did not spread within {:?}: {}; {}",
                self.patience(),
                self.crowded_core().unwrap_or_default(),
                self.checks.describe()
            );
            return Err(self.failure("spread", message));
        }
        let before = self.cluster.borrow().leaders_spread();
        let end = self.world.now() + self.settings.election_timeout() * WATCHED_TIMEOUTS;
        self.advance(end, |_| false)?;
        let moved = self.cluster.borrow().leaders_spread().saturating_sub(before);
        let most = u64::from(self.settings.shards).max(4);
        if moved > most {
            let message = format!(
                "leaders were spread, and {moved} more of {} were handed over within {:?}",
                self.settings.shards,
                self.settings.election_timeout() * WATCHED_TIMEOUTS
            );
            return Err(self.failure("spread", message));
        }
        Ok(())
    }

    /// A core that leads too many shards, if there is one; or a shard without a leader.
    fn crowded_core(&self) -> Option<String> {
        let cluster = self.cluster.borrow();
        let sound = self.sound();
        let mut groups: BTreeMap<NodeSet, Vec<(ShardId, usize, Configuration)>> = BTreeMap::new();
        for shard in (0..self.settings.shards).map(ShardId) {
            let configuration = self.checks.configuration(shard);
            let Some(at) = cluster.leader_of(shard).filter(|at| sound.contains(at)) else {
                return Some(format!("shard {shard} has no leader"));
            };
            let group = groups.entry(configuration.members()).or_default();
            group.push((shard, at, configuration));
        }
        for group in groups.values() {
            let mut loads: BTreeMap<(usize, CoreId), usize> = BTreeMap::new();
            for (shard, at, _) in group {
                *loads.entry((*at, cluster.hosting(*at, *shard))).or_default() += 1;
            }
            let load =
                |at, shard| loads.get(&(at, cluster.hosting(at, shard))).copied().unwrap_or(0);
            // What is joint, and is not left by itself, is left alone by everybody.
            for (shard, at, configuration) in group.iter().filter(|(.., c)| !c.is_joint()) {
                let could = |node: NodeId| {
                    let other = cluster.place(node);
                    sound.contains(&other) && cluster.is_settled(other, *shard)
                };
                let heirs = configuration.incoming().iter().filter(|node| could(*node));
                let fewest = heirs.map(|node| load(cluster.place(node), *shard)).min();
                let own = load(*at, *shard);
                if let Some(fewest) = fewest.filter(|fewest| own >= fewest + 2) {
                    let core = cluster.hosting(*at, *shard);
                    return Some(format!(
                        "core {core} of node {} leads {own} shards like {shard}, another one {fewest}",
                        at + 1
                    ));
                }
            }
        }
        None
    }
}
