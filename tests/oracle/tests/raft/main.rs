//! Coracle's Raft core and the `raft` crate (tikv's raft-rs), given the same and compared.
//!
//! A difference is either a fault, or a line of the table in [`known`]. Runs are random but repeatable:
//! `CORACLE_ORACLE_CASES` says how many of each kind, `CORACLE_ORACLE_SEED` which. A failing run is
//! shrunk and told step by step.
#![allow(missing_docs, clippy::unwrap_used)]

mod case;
mod cluster;
mod known;
mod ours;
mod pair;
mod script;
mod search;
mod story;
mod tally;
mod theirs;
mod translate;
mod twins;

#[test]
fn clusters_decide_alike_at_each_step() {
    search::search(cluster::cases(), cluster::run);
}

#[test]
fn a_replica_among_scripted_peers_decides_alike() {
    search::search(script::cases(), script::run);
}

#[test]
fn clusters_of_either_kind_come_to_the_same() {
    search::search(twins::cases(), twins::run);
}

/// A line of the table that is never used would hide a fault, one day.
#[test]
fn every_known_difference_is_met() {
    search::search_some(500, cluster::cases(), cluster::run);
    search::search_some(500, script::cases(), script::run);
    for (place, difference) in known::TABLE.iter().enumerate() {
        let known::Difference { known, what, why, place: code } = difference;
        assert_eq!(*known as usize, place, "the table has the order of the names");
        let seen = known::seen(*known);
        println!("{known:?}, {seen} times: {what}. {why} ({code})");
        assert!(seen > 0, "{known:?} was never met");
    }
}
