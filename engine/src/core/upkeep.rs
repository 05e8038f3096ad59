//! placeholder
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    pub(super) rewriting: Option<crate::ShardId>,
}
impl<E: crate::env::Env> super::run::Core<E> {
    pub(super) fn keep_up(&mut self, _now: std::time::Duration) {}
    pub(super) fn write_entries_again(&mut self, _at: usize, _entries: Vec<crate::raft::Entry>) {}
}
