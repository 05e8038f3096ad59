//! A random run of pairs: what is drawn for it, whatever may happen in it.

use proptest::prelude::*;

use crate::pair::Speaker;

/// A run.
#[derive(Clone, Debug)]
pub struct Case<Op> {
    /// Voters.
    pub size: u64,
    pub seed: u64,
    pub speaker: Speaker,
    /// Whether disks write at once; otherwise only when told.
    pub quick_disk: bool,
    pub ops: Vec<Op>,
}

/// Random runs of these sizes, in which this happens.
pub fn cases<Op: std::fmt::Debug>(
    size: impl Strategy<Value = u64>,
    ops: impl Strategy<Value = Vec<Op>>,
) -> impl Strategy<Value = Case<Op>> {
    let speaker = prop_oneof![Just(Speaker::Ours), Just(Speaker::Theirs)];
    (size, any::<u64>(), speaker, any::<bool>(), ops).prop_map(
        |(size, seed, speaker, quick_disk, ops)| Case { size, seed, speaker, quick_disk, ops },
    )
}
