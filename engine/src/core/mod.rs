//! One core of a node: its shards, its log, its connections to the cores of its peers.

mod handle;
pub mod testing;
mod view;

pub use handle::{Committed, Consistency, CoreHandle, Pending};
pub use view::{ClusterView, MemberView};
