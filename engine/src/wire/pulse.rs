//! A sign of life between two cores, which stands for all shards that sleep between them.
//!
//! It carries a *digest* of the replicas of the receiver that, as the sender knows, sleep behind leaders on the
//! sender: how many, and the sum (exclusive or) of a hash of shard and term of each. The receiver has one of the
//! replicas that do sleep behind the sender's. Two that differ for longer than messages are under way mean that
//! somebody sleeps who should not, or is awake and has nobody to listen to.

use bytes::{BufMut, Bytes, BytesMut};

use super::body::{self, Problem};
use crate::{ShardId, Term};

/// A digest of the replicas that sleep; see the head of the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// How many.
    pub count: u32,
    /// Exclusive or of a hash of each.
    pub hash: u64,
}

impl Pulse {
    /// Counts a replica.
    pub fn add(&mut self, shard: ShardId, term: Term) {
        self.count = self.count.wrapping_add(1);
        self.hash ^= hash(shard, term);
    }

    /// Counts it no longer.
    pub fn remove(&mut self, shard: ShardId, term: Term) {
        self.count = self.count.wrapping_sub(1);
        self.hash ^= hash(shard, term);
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.count);
        out.put_u64_le(self.hash);
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, Problem> {
        let pulse = Self { count: body::get_u32(&mut bytes)?, hash: body::get_u64(&mut bytes)? };
        body::finish(&bytes)?;
        Ok(pulse)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014) over both numbers: part of the protocol.
fn hash(shard: ShardId, term: Term) -> u64 {
    let mix = |z: u64| {
        let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(u64::from(shard.0)) ^ term.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_and_removed_in_any_order_leaves_nothing() {
        let mut pulse = Pulse::default();
        pulse.add(ShardId(1), Term(2));
        let one = pulse;
        pulse.add(ShardId(2), Term(1));
        assert_ne!(pulse.hash, one.hash);
        pulse.remove(ShardId(1), Term(2));
        pulse.remove(ShardId(2), Term(1));
        assert_eq!(pulse, Pulse::default());
    }

    #[test]
    fn shards_and_terms_are_told_apart() {
        let of = |shard, term| {
            let mut pulse = Pulse::default();
            pulse.add(ShardId(shard), Term(term));
            pulse
        };
        assert_ne!(of(1, 2), of(2, 1));
        assert_ne!(of(0, 1), of(0, 2));
        assert_ne!(of(0, 1), of(1, 1));
    }
}
