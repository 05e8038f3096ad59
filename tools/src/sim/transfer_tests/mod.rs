//! Transfers of snapshots between two simulated cores: their real stores, disks and streams, and what can
//! go wrong with each.

#![allow(clippy::unwrap_used)]

mod faults;
mod greeting;
mod rig;

use std::time::Duration;

use coracle_engine::snapshot::WriteError;
use coracle_engine::transfer::budget::TransferBudget;
use coracle_engine::transfer::pull::{PullError, PullLimits};
use coracle_engine::transfer::serve::ServeLimits;

use self::rig::{OfShard, Rig, chunks_of, id};

#[test]
fn a_snapshot_arrives_whole_chunk_by_chunk() {
    for sizes in [vec![], vec![1], vec![4096], vec![1, 4095, 4097, 300_000, 2 << 20, 77]] {
        let mut rig = Rig::new(1);
        let chunks = chunks_of(7, &sizes);
        rig.give(id(10), chunks.clone());
        rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
        let pull = rig.start_pull(id(10), PullLimits::default());
        let manifest = rig.wait(&pull).unwrap();
        assert_eq!(manifest.id, id(10));
        assert!(rig.received(id(10)) == chunks, "{sizes:?}");
        let progress = &pull.progress;
        let bytes: usize = sizes.iter().sum();
        assert_eq!(progress.bytes.get(), bytes as u64);
        assert_eq!(progress.bytes_total.get(), bytes as u64);
        assert_eq!((progress.chunks.get(), progress.chunks_total.get()), {
            (sizes.len() as u64, sizes.len() as u64)
        });
        assert_eq!((progress.retries.get(), progress.reconnects.get()), (0, 0));
        let counters = rig.sender().counters();
        assert_eq!((counters.connections, counters.chunks), (1, sizes.len() as u64));
    }
}

#[test]
fn a_snapshot_that_is_there_already_is_not_pulled_and_an_older_one_neither() {
    let mut rig = Rig::new(8);
    rig.give(id(10), chunks_of(7, &[5000; 3]));
    rig.give(id(20), chunks_of(8, &[5000; 3]));
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
    for _ in 0..2 {
        let pull = rig.start_pull(id(20), PullLimits::default());
        assert_eq!(rig.wait(&pull).unwrap().id, id(20));
    }
    assert_eq!(rig.sender().counters().chunks, 3);
    let pull = rig.start_pull(id(10), PullLimits::default());
    let error = rig.wait(&pull).unwrap_err();
    assert!(matches!(error, PullError::Store(WriteError::Outdated { .. })), "{error}");
}

#[test]
fn no_more_is_under_way_than_the_credit_and_the_read_ahead() {
    let mut rig = Rig::new(2);
    rig.give(id(10), chunks_of(7, &[100_000; 40]));
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
    let limits = PullLimits { requests_outstanding: 3, ..PullLimits::default() };
    let pull = rig.start_pull(id(10), limits);
    rig.wait(&pull).unwrap();
    // The manifest, three chunks at once, then one for each that came.
    let asked: Vec<usize> = pull.faults.requests_sent.borrow().clone();
    assert_eq!(asked.iter().sum::<usize>(), 41);
    assert_eq!((asked[0], asked[1]), (1, 3));
    assert!(asked[2..].iter().all(|count| *count == 1), "{asked:?}");
}

#[test]
fn what_nobody_has_is_given_up_and_so_is_what_went_away() {
    let mut rig = Rig::new(3);
    rig.give(id(10), chunks_of(7, &[5000; 3]));
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
    for wrong in [id(9), id(11)] {
        let pull = rig.start_pull(wrong, PullLimits::default());
        let error = rig.wait(&pull).unwrap_err();
        assert!(matches!(error, PullError::Unknown { id } if id == wrong), "{error}");
    }
    // It is pinned for whoever was served it, and gone afterwards.
    let pull = rig.start_pull(id(10), PullLimits::default());
    pull.faults.break_after(Some(9000));
    rig.run_until(|_| pull.progress.reconnects.get() > 0);
    rig.give_newer(id(20), chunks_of(8, &[5000; 3]));
    pull.faults.break_after(None);
    rig.wait(&pull).unwrap();
    rig.run_for(Duration::from_secs(120));
    rig.forget_received();
    let pull = rig.start_pull(id(10), PullLimits::default());
    let error = rig.wait(&pull).unwrap_err();
    assert!(matches!(error, PullError::Unknown { .. }), "{error}");
    let pull = rig.start_pull(id(20), PullLimits::default());
    rig.wait(&pull).unwrap();
    assert!(rig.received(id(20)) == chunks_of(8, &[5000; 3]));
}

/// A leader that takes snapshots often must not keep each that somebody had.
#[test]
fn of_the_snapshots_that_were_served_only_the_last_lingers() {
    let mut rig = Rig::new(11);
    rig.give(id(1), chunks_of(1, &[5000; 3]));
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
    for index in 1..=5 {
        let pull = rig.start_pull(id(index), PullLimits::default());
        rig.wait(&pull).unwrap();
        rig.give_newer(id(index + 1), chunks_of(index + 1, &[5000; 3]));
    }
    rig.run_for(Duration::from_secs(1));
    let kept = |rig: &Rig| (1..=6).filter(|index| rig.keeps(id(*index))).collect::<Vec<u64>>();
    assert_eq!(kept(&rig), [5, 6]);
    rig.run_for(Duration::from_secs(120));
    assert_eq!(kept(&rig), [6]);
}

#[test]
fn a_pull_that_is_told_to_gives_up_and_leaves_what_it_has() {
    let mut rig = Rig::new(4);
    let chunks = chunks_of(7, &[100_000; 20]);
    rig.give(id(10), chunks.clone());
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
    let pull = rig.start_pull(id(10), PullLimits::default());
    rig.run_until(|_| pull.progress.chunks.get() >= 10);
    pull.cancel.cancel();
    let error = rig.wait(&pull).unwrap_err();
    assert!(matches!(error, PullError::Cancelled { .. }), "{error}");
    let there = pull.progress.chunks.get();
    let pull = rig.start_pull(id(10), PullLimits::default());
    rig.wait(&pull).unwrap();
    assert_eq!(pull.progress.resumes.get(), 1);
    assert_eq!(pull.progress.bytes.get(), (20 - there) * 100_000, "nothing is sent twice");
    assert!(rig.received(id(10)) == chunks);
}

#[test]
fn the_budget_of_either_end_holds_the_transfer_to_its_rate() {
    for at_sender in [true, false] {
        let mut rig = Rig::new(5);
        rig.give(id(10), chunks_of(7, &[1 << 20; 10]));
        let limited = || TransferBudget::new(1 << 20, 256 << 10);
        let (here, there) = match at_sender {
            true => (TransferBudget::unlimited(), limited()),
            false => (limited(), TransferBudget::unlimited()),
        };
        rig.budget = here.into();
        rig.start_sender(ServeLimits::default(), there);
        let start = rig.now();
        let pull = rig.start_pull(id(10), PullLimits::default());
        rig.wait(&pull).unwrap();
        let seconds = (rig.now() - start).as_secs_f64();
        assert!((9.5..10.5).contains(&seconds), "{seconds} s for 10 MiB at 1 MiB/s");
        assert_eq!(pull.progress.reconnects.get(), 0);
    }
}

#[test]
fn connections_beyond_the_limit_come_again_later() {
    let mut rig = Rig::new(6);
    rig.give(id(10), chunks_of(7, &[1 << 20; 4]));
    rig.give(id(10).of_shard(1), chunks_of(8, &[1 << 20; 4]));
    let limits = ServeLimits { connections_max: 1, ..ServeLimits::default() };
    rig.start_sender(limits, TransferBudget::new(1 << 20, 0));
    let first = rig.start_pull(id(10), PullLimits::default());
    rig.run_until(|_| first.progress.bytes.get() > 0);
    let second = rig.start_pull(id(10).of_shard(1), PullLimits::default());
    rig.wait(&first).unwrap();
    assert_eq!(second.progress.bytes.get(), 0);
    rig.wait(&second).unwrap();
    let counters = rig.sender().counters();
    assert!(counters.refused > 0 && counters.connections == 2, "{counters:?}");
    assert_eq!(second.progress.reconnects.get(), counters.refused);
}

#[test]
fn a_connection_on_which_nothing_is_asked_is_given_up() {
    let mut rig = Rig::new(7);
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
    let idle = rig.dial();
    rig.run_until(|rig| rig.sender().serving() == 1);
    rig.run_for(Duration::from_secs(31));
    assert_eq!(rig.sender().serving(), 0);
    drop(idle);
}
