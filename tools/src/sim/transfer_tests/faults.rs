//! Broken connections, damage, crashes and slow ends.

use std::time::Duration;

use coracle_engine::snapshot::WriteError;
use coracle_engine::transfer::budget::TransferBudget;
use coracle_engine::transfer::pull::{PullError, PullLimits};
use coracle_engine::transfer::serve::ServeLimits;

use super::rig::{Pulling, RECEIVER, Rig, SENDER, chunks_of, id};
use crate::sim::disk::DiskWeather;
use crate::sim::net::NetWeather;

const MIB: u64 = 1 << 20;
/// Header of an answer.
const HEAD: u64 = 24;

fn serve(rig: &mut Rig) {
    rig.start_sender(ServeLimits::default(), TransferBudget::unlimited());
}

/// Where the answer for chunk `number` begins in the first connection, and its length.
fn answer_at(sizes: &[usize], number: usize) -> u64 {
    let manifest = 80 + 8 * 2 + 8 * sizes.len() as u64;
    let before: u64 = sizes[..number].iter().map(|size| HEAD + *size as u64).sum();
    HEAD + manifest + before
}

#[test]
fn a_connection_that_breaks_half_way_costs_only_what_was_under_way() {
    let sizes = [100_000; 30];
    for after in [0, 10, 24, 100, 300, 350_000, 1_500_000, 2_900_000] {
        let mut rig = Rig::new(after);
        let chunks = chunks_of(7, &sizes);
        rig.give(id(10), chunks.clone());
        serve(&mut rig);
        let pull = rig.start_pull(id(10), PullLimits::default());
        pull.faults.break_after(Some(after));
        rig.run_until(|_| pull.progress.reconnects.get() > 0);
        pull.faults.break_after(None);
        rig.wait(&pull).unwrap();
        assert_eq!(pull.progress.reconnects.get(), 1, "after {after}");
        assert_eq!(pull.progress.bytes.get(), 3_000_000, "each chunk was taken in once");
        assert!(rig.received(id(10)) == chunks, "after {after}");
    }
}

#[test]
fn a_network_that_resets_stalls_and_chops_brings_it_all_the_same() {
    let sizes: Vec<usize> = (0..60).map(|n| 1 + n * 3571 % 300_000).collect();
    for seed in 0..15 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let net = NetWeather::draw(&mut rng);
        let mut rig = Rig::with_weather(seed, net, DiskWeather::draw(&mut rng));
        let chunks = chunks_of(seed, &sizes);
        rig.give(id(10), chunks.clone());
        serve(&mut rig);
        let silence_max = Duration::from_secs(3);
        let limits = PullLimits { silence_max, sync_every_bytes: MIB, ..PullLimits::default() };
        let pull = rig.start_pull(id(10), limits);
        for round in 0..5_u64 {
            let seen = pull.progress.chunks.get();
            let until = rig.now() + Duration::from_secs(20);
            rig.run_until(|rig| pull.progress.chunks.get() >= seen + 6 || rig.now() >= until);
            match (seed + round) % 3 {
                0 => rig.net.reset(SENDER, RECEIVER),
                1 => {
                    rig.net.block(SENDER, RECEIVER);
                    rig.run_for(Duration::from_secs(8));
                    rig.net.unblock(SENDER, RECEIVER);
                }
                _ => {
                    rig.net.stall(SENDER, RECEIVER);
                    rig.run_for(Duration::from_secs(1));
                    rig.net.unstall(SENDER, RECEIVER);
                }
            }
        }
        rig.net.heal();
        rig.wait(&pull).unwrap();
        assert!(rig.received(id(10)) == chunks, "seed {seed}");
    }
}

#[test]
fn a_sender_that_falls_silent_is_left_and_found_again() {
    let mut rig = Rig::new(3);
    let chunks = chunks_of(7, &[500_000; 20]);
    rig.give(id(10), chunks.clone());
    rig.start_sender(ServeLimits::default(), TransferBudget::new(MIB, 0));
    let pull = rig.start_pull(id(10), PullLimits::default());
    rig.run_until(|_| pull.progress.chunks.get() >= 5);
    rig.net.block(SENDER, RECEIVER);
    let blocked = rig.now();
    rig.run_until(|_| pull.progress.reconnects.get() > 0);
    let waited = rig.now() - blocked;
    assert!(waited >= PullLimits::default().silence_max, "{waited:?}");
    rig.net.unblock(SENDER, RECEIVER);
    rig.wait(&pull).unwrap();
    assert!(rig.received(id(10)) == chunks);
}

#[test]
fn a_damaged_body_costs_that_chunk_alone() {
    let sizes = [50_000, 4096, 70_000, 1, 90_000, 3000];
    for number in 0..sizes.len() {
        let mut rig = Rig::new(number as u64);
        let chunks = chunks_of(7, &sizes);
        rig.give(id(10), chunks.clone());
        serve(&mut rig);
        let pull = rig.start_pull(id(10), PullLimits::default());
        let place = answer_at(&sizes, number) + HEAD + sizes[number] as u64 / 2;
        pull.faults.flip_at(place);
        rig.wait(&pull).unwrap();
        let progress = &pull.progress;
        assert_eq!((progress.retries.get(), progress.reconnects.get()), (1, 0), "{number}");
        let all = answer_at(&sizes, sizes.len());
        assert_eq!(pull.faults.bytes.get(), all + HEAD + sizes[number] as u64, "{number}");
        assert!(rig.received(id(10)) == chunks, "{number}");
    }
}

#[test]
fn a_damaged_header_ends_the_connection_and_no_more() {
    let sizes = [50_000, 4096, 70_000];
    for byte in 0..HEAD {
        let mut rig = Rig::new(byte);
        let chunks = chunks_of(7, &sizes);
        rig.give(id(10), chunks.clone());
        serve(&mut rig);
        let pull = rig.start_pull(id(10), PullLimits::default());
        pull.faults.flip_at(answer_at(&sizes, 1) + byte);
        rig.wait(&pull).unwrap();
        let progress = &pull.progress;
        assert_eq!((progress.retries.get(), progress.reconnects.get()), (0, 1), "byte {byte}");
        assert_eq!(progress.bytes.get(), 124_096, "what was there was not sent again");
        assert!(rig.received(id(10)) == chunks, "byte {byte}");
    }
}

#[test]
fn a_damaged_manifest_is_asked_for_again_and_given_up_in_the_end() {
    let sizes = [50_000, 4096];
    for times in [1, 3, 4] {
        let mut rig = Rig::new(times);
        rig.give(id(10), chunks_of(7, &sizes));
        serve(&mut rig);
        let pull = rig.start_pull(id(10), PullLimits::default());
        let answer = answer_at(&sizes, 0);
        for time in 0..times {
            pull.faults.flip_at(answer * time + HEAD + 50);
        }
        match (times, rig.wait(&pull)) {
            (1 | 3, Ok(_)) => {}
            (4, Err(PullError::Manifest { tries: 4, .. })) => {}
            (_, result) => panic!("{times} times: {result:?}"),
        }
    }
}

#[test]
fn a_chunk_that_the_sender_cannot_read_is_named_and_the_rest_is_kept() {
    let mut rig = Rig::new(8);
    rig.give(id(10), chunks_of(7, &[8192; 10]));
    serve(&mut rig);
    let disk = rig.sender_disk();
    let files = disk.durable_files();
    let (_, file, _) = files.iter().find(|(_, _, size)| *size >= 81_920).unwrap();
    // The second block of chunk 4.
    assert!(disk.rot(*file, 9, 77));
    let pull = rig.start_pull(id(10), PullLimits::default());
    let error = rig.wait(&pull).unwrap_err();
    let PullError::Chunk { number: 4, tries: 4, .. } = error else { panic!("{error}") };
    assert_eq!(pull.progress.retries.get(), 3);
    assert_eq!(rig.sender().counters().damaged, 4);
    assert!(error.to_string().contains("chunk 4"), "{error}");
    assert!(pull.progress.chunks.get() >= 4);
}

#[test]
fn a_receiver_that_dies_half_way_goes_on_where_it_was() {
    let sizes = [100_000; 40];
    for power_cut in [false, true] {
        for seed in 0..8 {
            let mut rig = Rig::new(seed);
            let chunks = chunks_of(7, &sizes);
            rig.give(id(10), chunks.clone());
            serve(&mut rig);
            let limits = PullLimits { sync_every_bytes: 500_000, ..PullLimits::default() };
            let pull = rig.start_pull(id(10), limits);
            rig.run_until(|_| pull.progress.chunks.get() >= 5 + 4 * seed);
            let had = pull.progress.chunks.get();
            rig.restart_receiver(power_cut);
            let pull = rig.start_pull(id(10), limits);
            rig.wait(&pull).unwrap();
            let again = pull.progress.bytes.get() / 100_000;
            // What was synced is there: at most what came since, and what a sync takes, is sent again.
            assert!(again <= 40 - had + 10, "{again} of {}", 40 - had);
            assert!(had < 10 || pull.progress.resumes.get() == 1, "{had} were there");
            assert!(rig.received(id(10)) == chunks, "seed {seed}");
        }
    }
}

#[test]
fn a_sender_that_restarts_is_waited_for() {
    for power_cut in [false, true] {
        let mut rig = Rig::new(9);
        let chunks = chunks_of(7, &[100_000; 40]);
        rig.give(id(10), chunks.clone());
        serve(&mut rig);
        let limits = PullLimits { connections_in_vain_max: u32::MAX, ..PullLimits::default() };
        let pull = rig.start_pull(id(10), limits);
        rig.run_until(|_| pull.progress.chunks.get() >= 10);
        rig.restart_sender(power_cut);
        rig.run_for(Duration::from_secs(30));
        serve(&mut rig);
        rig.wait(&pull).unwrap();
        assert_eq!(pull.progress.bytes.get(), 4_000_000);
        assert!(pull.progress.reconnects.get() >= 2);
        assert!(rig.received(id(10)) == chunks);
    }
}

/// A pull that has a quarter of its chunks.
fn pulling(seed: u64) -> (Rig, Pulling) {
    let mut rig = Rig::new(seed);
    rig.give(id(10), chunks_of(7, &[100_000; 40]));
    serve(&mut rig);
    let pull = rig.start_pull(id(10), PullLimits::default());
    rig.run_until(|_| pull.progress.chunks.get() >= 10);
    (rig, pull)
}

#[test]
fn a_sender_that_stays_away_is_given_up() {
    let (mut rig, pull) = pulling(9);
    rig.restart_sender(false);
    let error = rig.wait(&pull).unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error}");
}

/// The same index, but other chunks: what was received of the first is of no use for the second.
#[test]
fn a_sender_that_has_another_snapshot_under_the_same_id_begins_anew() {
    let (mut rig, pull) = pulling(10);
    rig.replace_sender();
    let others = chunks_of(8, &[90_000; 30]);
    rig.give(id(10), others.clone());
    serve(&mut rig);
    rig.wait(&pull).unwrap();
    assert!(rig.received(id(10)) == others);
}

#[test]
fn a_full_disk_of_the_receiver_is_said_and_leaves_nothing_half_done() {
    let mut rig = Rig::new(11);
    let chunks = chunks_of(7, &[100_000; 40]);
    rig.give(id(10), chunks.clone());
    serve(&mut rig);
    rig.receiver_device().set_capacity(Some(2 * MIB));
    let pull = rig.start_pull(id(10), PullLimits::default());
    let error = rig.wait(&pull).unwrap_err();
    assert!(matches!(error, PullError::Store(WriteError::NoRoom { .. })), "{error}");
    rig.receiver_device().set_capacity(None);
    let pull = rig.start_pull(id(10), PullLimits::default());
    rig.wait(&pull).unwrap();
    assert!(rig.received(id(10)) == chunks);
}

/// A receiver whose disk is slow holds the sender back: what is under way is bounded by the stream's own
/// buffers, the writes in flight and the read-ahead, and nothing is given up for it.
#[test]
fn a_slow_receiver_costs_bounded_memory_at_both_ends() {
    let slow = DiskWeather { bytes_per_second: Some(MIB / 2), ..DiskWeather::calm() };
    let window_bytes = (64 << 10, 64 << 10);
    let net = NetWeather { window_bytes, ..NetWeather::calm() };
    let mut rig = Rig::with_receiver_weather(12, net, slow);
    let chunks = chunks_of(7, &[MIB as usize; 10]);
    rig.give(id(10), chunks.clone());
    serve(&mut rig);
    let pull = rig.start_pull(id(10), PullLimits::default());
    let mut most = 0;
    rig.run_until(|rig| {
        let sent = rig.sender().counters().bytes;
        let taken = rig.receiver_device().used().min(pull.progress.bytes.get());
        most = most.max(sent.saturating_sub(taken));
        pull.progress.chunks.get() == 10
    });
    // Sent and not taken in: the chunk that is received and the manifest.
    assert!(most <= 2 * MIB, "{most}");
    rig.wait(&pull).unwrap();
    assert_eq!(pull.progress.reconnects.get(), 0);
    assert!(rig.received(id(10)) == chunks);
}
