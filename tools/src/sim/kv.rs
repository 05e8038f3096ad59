//! The built-in workload: clients of the server's own key-value state machine.

use std::time::Duration;

use coracle::server::Kv;
use coracle::server::kv::op::{Encoder, Expiry, Head, Read, SetIf, SetReply, Write};
use coracle_engine::{ShardId, StateMachine};

use super::settings::Settings;
use super::workload::{Ask, Outcome, Request, Then, Workload};
use super::world::World;

/// Clients that set and get keys.
pub struct KvWorkload {
    settings: Settings,
    encoder: Encoder,
    count: u64,
}

impl KvWorkload {
    /// Makes one.
    pub fn make(settings: &Settings, _world: &World) -> Self {
        Self { settings: settings.clone(), encoder: Encoder::default(), count: 0 }
    }

    fn shard_of(&self, key: u32) -> ShardId {
        ShardId(key % self.settings.shards)
    }
}

impl Workload for KvWorkload {
    fn machine(&self, _shard: ShardId) -> Box<dyn StateMachine> {
        Box::new(Kv::new())
    }

    fn next(&mut self, ask: Ask<'_>) -> (String, Request) {
        let key = ask.rng.u32(..self.settings.keys);
        let name = format!("k{key}");
        let now_ms = ask.unix_ms;
        self.encoder.set_head(Head { protocol: Default::default(), stale: false, now_ms });
        let shard = self.shard_of(key);
        if ask.rng.bool() {
            let payload = self.encoder.read(&Read::Get { key: name.as_bytes() });
            return (format!("GET {name}"), Request { shard, payload, write: false });
        }
        self.count += 1;
        let value = format!("v{}", self.count);
        let payload = self.encoder.write(&Write::Set {
            key: name.as_bytes(),
            value: value.as_bytes(),
            expiry: Expiry::Never,
            when: SetIf::Always,
            reply: SetReply::Status,
        });
        (format!("SET {name} {value}"), Request { shard, payload, write: true })
    }

    fn ended(&mut self, _: u32, _: Duration, _: Outcome) -> Result<Then, String> {
        Ok(Then::Done)
    }

    fn final_read(&mut self, number: usize, ask: Ask<'_>) -> Option<(String, Request)> {
        let key = number as u32;
        if key >= self.settings.keys.max(self.settings.shards) {
            return None;
        }
        let now_ms = ask.unix_ms;
        self.encoder.set_head(Head { protocol: Default::default(), stale: false, now_ms });
        let name = format!("k{key}");
        let payload = self.encoder.read(&Read::Get { key: name.as_bytes() });
        let shard = self.shard_of(key);
        Some((format!("GET {name}"), Request { shard, payload, write: false }))
    }

    fn verdict(&mut self) -> Result<(), String> {
        Ok(())
    }
}
