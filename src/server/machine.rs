//! [`KvSessions`]: the key-value state machine of a shard in client sessions, as the server runs it.
//!
//! Sessions stand over the log as it was before there were any: entries, snapshots and queries of the key-value machine
//! go to it as they are, and a shard without sessions writes nothing else. What is theirs begins with a byte from `0xE0`
//! to `0xEF`; payloads of the key-value machine begin with its version and flags, `0x10` to `0x13`.

use bytes::{BufMut, Bytes, BytesMut};
use coracle_engine::hook::LeaderHook;
use coracle_engine::session::Sessions;
use coracle_engine::{Apply, Restore, SnapshotError, SnapshotStream, StateMachine};

use super::kv::Kv;

/// A query of its own: how many sessions there are, as a `u64`.
pub(super) const COUNT_SESSIONS: &[u8] = &[0xe0];

/// The state of one shard of the server.
#[derive(Debug)]
pub struct KvSessions(Sessions<Kv>);

impl Default for KvSessions {
    fn default() -> Self {
        Self(Sessions::over_old_log(Kv::new()))
    }
}

impl StateMachine for KvSessions {
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        self.0.apply(entry, reply);
    }

    fn query(&self, request: &Bytes, reply: &mut BytesMut) {
        match request == COUNT_SESSIONS {
            true => reply.put_u64(self.0.count() as u64),
            false => self.0.query(request, reply),
        }
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        self.0.snapshot()
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        self.0.restore(part)
    }

    fn hook(&self) -> Option<&dyn LeaderHook> {
        self.0.hook()
    }
}
