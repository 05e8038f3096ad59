//! A cluster with nothing to do costs next to nothing.
//!
//! The bound here is generous because tests are built without optimisation; the goal for a release
//! build is 3 % of one core. `CORACLE_IDLE_SECONDS` (default 5) sets how long is measured.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::cluster::Dev;
use support::wait;

/// Most processor time of an idle three-node cluster in one process, as part of one core.
const SHARE_MAX: f64 = 0.10;

#[test]
fn an_idle_cluster_uses_little_processor_time() {
    let dev = Dev::start(&["--shards", "16"]);
    let seconds = wait::from_env("CORACLE_IDLE_SECONDS", 5);
    // Elections of the other shards and the preparation of segments are work, not idleness: a
    // window counts once its share is low. If it never is, the bound shows the last share.
    wait::until("an idle window", Duration::from_secs(12 * seconds), || {
        let (cpu, start) = (dev.process().cpu_seconds(), Instant::now());
        std::thread::sleep(Duration::from_secs(seconds));
        let share = (dev.process().cpu_seconds() - cpu) / start.elapsed().as_secs_f64();
        println!("{:.2} % of one core", share * 100.0);
        if share <= SHARE_MAX { Ok(()) } else { Err(format!("{:.2} %", share * 100.0)) }
    });
}
