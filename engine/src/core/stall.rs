//! A log that makes no progress: the disk has stalled.
//!
//! A leader whose disk takes nothing goes on sending entries, and its followers may even commit them without it; but
//! what it may not do any more, nobody else does, for its heartbeats go on. So a core whose log owes something
//! durable and has made **nothing** durable for [`STALL_PARTS`] of an election timeout has *stalled*. It declines to
//! lead from then on, and hands each shard that it leads to a follower that has everything (`raft/transfer.rs`),
//! which needs nothing of this disk: the votes are those of the others. What could not be handed over is tried again
//! with each election timeout. When the log makes progress again, the core may lead again.
//!
//! A disk that is slow but moves has not stalled, however long the queue: to hand over would not make it quicker. Nor
//! has one that nothing is asked of; whether it works shows with the next write.
//!
//! | what stalls | what follows |
//! |---|---|
//! | the disk of a leader | its shards are led elsewhere within two election timeouts of the first write that stalls |
//! | that of a follower | its acknowledgements are missing; the others go on |
//! | those of a majority | nobody can be elected, nothing is committed: leaders keep trying to hand over |
//! | that of the only voter | it goes on leading; there is nobody else |

use std::time::Duration;

use coracle_wal::Lsn;

use super::events::ClusterEvent;
use super::run::Core;
use crate::env::Env;
use crate::limits::STALL_PARTS;

/// Whether the log makes progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stall {
    durable: Lsn,
    /// When it last was durable further than before, or owed nothing.
    moved_at: Duration,
    /// Since it has stalled: when what is left to be handed over is tried again.
    retry_at: Option<Duration>,
}

/// What a look at the log found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It has stalled; hand over what is led here.
    Stalled,
    Recovered,
}

impl Stall {
    /// Whether it has stalled.
    pub(super) fn is_stalled(&self) -> bool {
        self.retry_at.is_some()
    }

    fn look(&mut self, busy: bool, durable: Lsn, now: Duration, timeout: Duration) -> Found {
        if !busy || durable > self.durable {
            (self.durable, self.moved_at) = (durable, now);
            return if self.retry_at.take().is_some() { Found::Recovered } else { Found::Nothing };
        }
        let (parts, of) = STALL_PARTS;
        let due = self.retry_at.unwrap_or(self.moved_at + timeout * parts / of);
        if now < due {
            return Found::Nothing;
        }
        self.retry_at = Some(now + timeout);
        Found::Stalled
    }
}

impl<E: Env> Core<E> {
    /// With each tick.
    pub(super) fn watch_log(&mut self, now: Duration) {
        // What a full log refuses for now is not in the disk's hands.
        let (_, promises) = self.storage.waiting();
        let (busy, durable) = (promises > 0, self.storage.wal().durable());
        let before = self.stall.is_stalled();
        match self.stall.look(busy, durable, now, self.config.election_timeout) {
            Found::Nothing => {}
            Found::Stalled => {
                if !before {
                    sometimes!(log_stalled);
                    let core = self.config.core;
                    tracing::warn!(%core, "the log makes no progress: handing over what is led here");
                    self.subscribers.tell(|| ClusterEvent::LogStalled { core, stalled: true });
                    self.shards.iter_mut().for_each(|shard| shard.raft.decline());
                }
                self.hand_over_all();
            }
            Found::Recovered => {
                sometimes!(log_recovered_from_stall);
                tracing::info!(core = %self.config.core, "the log makes progress again");
                let core = self.config.core;
                self.subscribers.tell(|| ClusterEvent::LogStalled { core, stalled: false });
                if !self.drained {
                    for at in 0..self.shards.len() {
                        self.touch(at);
                        let shard = &mut self.shards[at];
                        shard.raft.stand_again(&mut shard.effects);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(400);

    fn look(stall: &mut Stall, busy: bool, durable: u64, ms: u64) -> Found {
        stall.look(busy, Lsn(durable), Duration::from_millis(ms), TIMEOUT)
    }

    #[test]
    fn a_log_that_owes_and_does_not_move_has_stalled_until_it_moves() {
        let mut stall = Stall::default();
        assert_eq!(look(&mut stall, false, 5, 1000), Found::Nothing);
        assert_eq!(look(&mut stall, true, 5, 1299), Found::Nothing);
        assert_eq!(look(&mut stall, true, 5, 1300), Found::Stalled);
        assert_eq!(look(&mut stall, true, 5, 1699), Found::Nothing, "tried again a timeout later");
        assert_eq!(look(&mut stall, true, 5, 1700), Found::Stalled);
        assert_eq!(look(&mut stall, true, 6, 1701), Found::Recovered);
        assert_eq!(look(&mut stall, true, 6, 2000), Found::Nothing, "patience begins anew");
        assert_eq!(look(&mut stall, true, 6, 2001), Found::Stalled);
        assert_eq!(look(&mut stall, false, 6, 2002), Found::Recovered);
    }

    #[test]
    fn neither_a_slow_log_nor_an_idle_one_has_stalled() {
        let mut stall = Stall::default();
        for round in 1..50 {
            assert_eq!(look(&mut stall, true, round, round * 299), Found::Nothing);
        }
        for round in 0..50 {
            assert_eq!(look(&mut stall, false, 50, 20_000 + round * 1000), Found::Nothing);
        }
    }
}
