//! The `coracle` command: `dev` runs a whole cluster in one process, `serve` one node of a cluster.

fn main() {}
