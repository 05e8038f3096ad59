//! Members that come and go by `coraclectl` alone, under load, with nodes killed in between: from one node to three, to
//! five, and back to three other ones. No acknowledged write is lost, and writes pause no longer than elections take.
//!
//! Real processes. The server is the one built with the workspace (`cargo test`), beside this test's programs.
//! `CORACLE_PAUSE_MS_MAX` is the longest pause of a client that passes (default 30,000, because the machine may be
//! slow and busy), `CORACLE_CRASH_SEED` changes what the clients do.
#![allow(clippy::unwrap_used)]

mod churn;
mod nodes;
#[path = "../../../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use nodes::Nodes;
use support::load::Load;
use support::wait;

/// Shards: enough that each node leads some.
const SHARDS: usize = 8;

/// Client threads of the load.
const CLIENTS: usize = 3;

/// Operations between two events.
const OPERATIONS_BETWEEN: u64 = 200;

#[test]
fn from_one_node_to_three_to_five_and_back_to_three_other_ones() {
    let _alone = wait::alone();
    let pause_max = Duration::from_millis(wait::from_env("CORACLE_PAUSE_MS_MAX", 30_000));
    let mut nodes = Nodes::with_first(SHARDS);
    let seed = wait::from_env("CORACLE_CRASH_SEED", 1);
    let load = Load::start_with(&|| nodes.client(1..=nodes::NODES), CLIENTS, seed);
    let some_load = || load.wait_for_more(OPERATIONS_BETWEEN);

    // Three.
    some_load();
    nodes.start(2, 1);
    nodes.start(3, 1);
    nodes.ctl(&format!("add {} {} --promote", nodes.member(2), nodes.member(3)));
    nodes.kill(1);
    some_load();
    nodes.start(1, 2);

    // Five: a node dies while it happens.
    nodes.start(4, 2);
    nodes.start(5, 2);
    nodes.ctl(&format!("add {} {}", nodes.member(4), nodes.member(5)));
    let promotion = nodes.begin("promote 4 5");
    nodes.kill(2);
    some_load();
    nodes.start(2, 1);
    promotion.end();
    nodes.ctl("transfer --spread");
    some_load();
    assert_eq!(nodes.voters(), vec![serde_json::json!([1, 2, 3, 4, 5]); SHARDS]);

    // Three others: the first two go while another dies, then the third has its place taken.
    let removal = nodes.begin("remove 1 2");
    nodes.kill(3);
    some_load();
    nodes.start(3, 1);
    removal.end();
    nodes.terminate(1);
    nodes.terminate(2);
    nodes.fails("replace 3 4", "votes in shard 0 already");
    nodes.fails("move 2 --from 5 --to 4", "remove 5 --shards 2");
    nodes.fails("remove 3 4 5", "nobody would vote");
    nodes.start(6, 3);
    nodes.ctl(&format!("replace 3 {}", nodes.member(6)));
    nodes.kill(3);
    some_load();
    nodes.kill(5);
    some_load();
    nodes.start(5, 2);
    some_load();
    assert_eq!(nodes.voters(), vec![serde_json::json!([4, 5, 6]); SHARDS]);

    let client = nodes.client(4..=6);
    let pause = load.verify_with(client, || {
        for (id, process) in &mut nodes.running {
            assert!(process.is_running(), "node {id} has ended:\n{}", process.output());
        }
    });
    assert!(pause <= pause_max, "a client waited {pause:?}; at most {pause_max:?} are allowed");
}
