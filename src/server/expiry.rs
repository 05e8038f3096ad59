//! Active expiry: keys that nobody looks at go away, too.
//!
//! The leader's core knows of each shard when its next key is due: it asks once when it becomes the
//! leader, again after a command that may set a deadline, and after each `Tick`. When the time has come
//! it proposes a `Tick`, and all replicas remove the same keys. A shard where nothing expires costs
//! one look at a table per period.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use coracle_engine::core::Consistency;
use coracle_engine::env::Env;
use coracle_engine::{ShardId, Term};

use super::kv::ExpiryReport;
use super::kv::op::{Encoder, Read};
use super::limits::{EXPIRY_REFRESH_MS, TICKS_PER_PERIOD_MAX};
use super::state::Shared;

/// When the next key of each led shard is due.
#[derive(Debug, Default)]
pub(super) struct ExpiryPlan {
    known: RefCell<HashMap<ShardId, Known>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    term: Term,
    next_ms: Option<u64>,
    asked_ms: u64,
}

impl ExpiryPlan {
    /// A command has set a deadline, or may have: ask again. To be called when it is applied; if its
    /// connection is gone by then, the regular refresh finds it.
    pub(super) fn note_write(&self, shard: ShardId) {
        self.known.borrow_mut().remove(&shard);
    }

    fn is_due(&self, shard: ShardId, term: Term, now_ms: u64) -> bool {
        match self.known.borrow().get(&shard) {
            Some(known) if known.term == term => {
                known.next_ms.is_some_and(|next| next <= now_ms)
                    || now_ms.abs_diff(known.asked_ms) >= EXPIRY_REFRESH_MS
            }
            _ => true,
        }
    }
}

/// Proposes a `Tick` to each led shard that has due keys.
pub(super) async fn remove_due<E: Env>(server: &Shared<E>) {
    let now_ms = server.env.unix_ms();
    let due: Vec<(ShardId, Term)> = {
        let view = server.core.view();
        let led =
            view.leaders.iter().zip(0..).filter(|((_, leader), _)| *leader == Some(view.node));
        led.map(|((term, _), shard)| (ShardId(shard), *term))
            .filter(|(shard, _)| view.is_local(*shard))
            .filter(|(shard, term)| server.expiry.is_due(*shard, *term, now_ms))
            .collect()
    };
    for (shard, term) in due {
        remove_due_of(server, shard, term).await;
    }
}

async fn remove_due_of<E: Env>(server: &Shared<E>, shard: ShardId, term: Term) {
    for _ in 0..TICKS_PER_PERIOD_MAX {
        // Noted before the question, so that a write in between is not forgotten.
        let asked_ms = server.env.unix_ms();
        server.expiry.known.borrow_mut().insert(shard, Known { term, next_ms: None, asked_ms });
        let question = server.encode(Default::default(), true, |out| out.read(&Read::Expiring));
        let answer: Result<Bytes, _> = server.core.query(shard, question, Consistency::Stale).await;
        let Some(report) = answer.ok().and_then(ExpiryReport::decode) else {
            return server.expiry.note_write(shard);
        };
        if let Some(known) = server.expiry.known.borrow_mut().get_mut(&shard) {
            known.next_ms = report.next_ms;
        }
        if report.next_ms.is_none_or(|next| next > server.env.unix_ms()) {
            return;
        }
        let tick = server.encode(Default::default(), false, Encoder::tick);
        if server.core.propose(shard, tick).await.is_err() {
            // Asked again in the next period: the leader may have changed, or space may return.
            return server.expiry.note_write(shard);
        }
    }
}
