//! The `coracle-bench` command: load tests and the device probe.

fn main() {}
