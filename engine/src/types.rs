//! Newtypes for every id and position of the consensus side, so that none can be swapped for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A process of the cluster; chosen by the operator, at least 1, unique in the cluster.
    NodeId(u64), ""
);
id!(
    /// One pinned executor of a node, counted from 0.
    CoreId(u16), ""
);
id!(
    /// One Raft group, counted from 0; the same number on all nodes.
    ShardId(u32), ""
);
id!(
    /// A Raft term. 0 is before the first election.
    Term(u64), ""
);
id!(
    /// A position in a shard's log. The first entry has index 1; 0 is "before the log".
    LogIndex(u64), ""
);

impl LogIndex {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl CoreId {
    /// The core that hosts `shard` on a node with `cores` cores, in a cluster of `shards` shards.
    ///
    /// Ranges, not modulo: with different core counts on two nodes, a core then shares shards with
    /// few cores of the other node.
    ///
    /// ```
    /// use coracle_engine::{CoreId, ShardId};
    /// assert_eq!(CoreId::hosting(ShardId(0), 16, 2), CoreId(0));
    /// assert_eq!(CoreId::hosting(ShardId(8), 16, 2), CoreId(1));
    /// ```
    #[must_use]
    pub fn hosting(shard: ShardId, shards: u32, cores: u16) -> Self {
        assert!(shard.0 < shards, "shard {shard} of {shards}");
        assert!(cores > 0, "a node has at least one core");
        let core = u64::from(shard.0) * u64::from(cores) / u64::from(shards);
        Self(u16::try_from(core).expect("less than the core count"))
    }
}
