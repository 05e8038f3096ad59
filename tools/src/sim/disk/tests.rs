//! What the disk promises and what it does not, operation by operation.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use coracle_wal::{AlignedBuf, Disk, DiskFile, OpenMode};

use super::*;
use crate::sim::world::{ProcessId, Step, World};

const BLOCK: usize = 4096;
const P: ProcessId = ProcessId(1);

fn run(world: &World, until: Duration) {
    let mut polls = 0;
    while world.step(until, &mut polls) == Step::Ran {}
}

/// Runs a future to its end.
fn block_on<T: 'static>(world: &World, future: impl Future<Output = T> + 'static) -> T {
    let result = Rc::new(RefCell::new(None));
    let told = result.clone();
    world.spawn(P, async move {
        let value = future.await;
        *told.borrow_mut() = Some(value);
    });
    run(world, world.now() + Duration::from_secs(100));
    let value = result.borrow_mut().take();
    value.expect("the future ended")
}

fn filled(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(blocks * BLOCK);
    buf.fill(byte);
    buf
}

async fn write(file: &SimFile, position: usize, byte: u8, blocks: usize) -> io::Result<usize> {
    file.write_at(position as u64, filled(byte, blocks), blocks * BLOCK).await.0
}

async fn write_durable(
    file: &SimFile,
    position: usize,
    byte: u8,
    blocks: usize,
) -> io::Result<usize> {
    file.write_durable(position as u64, filled(byte, blocks), blocks * BLOCK).await.0
}

async fn create(disk: &SimDisk, name: &str) -> SimFile {
    disk.open(name, OpenMode::CreateNew).await.unwrap()
}

fn device(seed: u64, weather: DiskWeather) -> (World, SimDevice) {
    let world = World::new(seed);
    let device = SimDevice::new(&world, "disk", weather);
    (world, device)
}

/// The durable content of a file.
fn durable(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let (_, file, size) = disk.durable_files().into_iter().find(|found| found.0 == name)?;
    let mut bytes = vec![0; size as usize];
    assert_eq!(disk.read_durable(file, 0, &mut bytes), bytes.len());
    Some(bytes)
}

/// A durable file of 8 blocks of ones, then one unsynced write of twos over blocks 2 to 5.
async fn half_synced(disk: SimDisk) {
    let file = create(&disk, "a").await;
    file.allocate(8 * BLOCK as u64).await.unwrap();
    write(&file, 0, 1, 8).await.unwrap();
    file.sync().await.unwrap();
    disk.sync_dir().await.unwrap();
    write(&file, 2 * BLOCK, 2, 4).await.unwrap();
}

#[test]
fn a_cut_keeps_what_is_durable_and_any_part_of_the_rest() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..600 {
        let (world, device) = device(seed, DiskWeather::calm());
        let disk = device.disk(0);
        block_on(&world, half_synced(disk.clone()));
        assert_eq!(durable(&disk, "a").unwrap(), vec![1; 8 * BLOCK]);
        device.power_cut();
        let bytes = durable(&disk, "a").unwrap();
        assert!(disk.is_clean());
        assert_eq!(bytes.len(), 8 * BLOCK);
        assert!(bytes[..2 * BLOCK].iter().chain(&bytes[6 * BLOCK..]).all(|byte| *byte == 1));
        let new = bytes[2 * BLOCK..6 * BLOCK]
            .chunks(SECTOR_BYTES)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are whole");
                usize::from(sector[0] - 1)
            })
            .sum::<usize>();
        match new {
            0 => lost += 1,
            32 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 60 && lost > 60 && torn > 60, "{kept} {lost} {torn}");
}

#[test]
fn a_later_write_may_survive_without_an_earlier_one() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let (world, device) = device(seed, DiskWeather::calm());
        let disk = device.disk(0);
        let task_disk = disk.clone();
        block_on(&world, async move {
            half_synced(task_disk.clone()).await;
            let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
            write(&file, 0, 3, 1).await.unwrap();
        });
        device.power_cut();
        let bytes = durable(&disk, "a").unwrap();
        seen.insert((bytes[2 * BLOCK], bytes[0]));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 3), (2, 1), (2, 3)]);
}

#[test]
fn sizes_names_and_content_are_lost_apart() {
    let mut seen: BTreeMap<Option<(usize, bool)>, u32> = BTreeMap::new();
    for seed in 0..600 {
        let (world, device) = device(seed, DiskWeather::calm());
        let disk = device.disk(0);
        let task_disk = disk.clone();
        block_on(&world, async move {
            let file = create(&task_disk, "a").await;
            write(&file, 0, 1, 2).await.unwrap();
        });
        assert_eq!(disk.durable_files(), []);
        device.power_cut();
        let state = durable(&disk, "a").map(|bytes| (bytes.len() / BLOCK, bytes.contains(&1)));
        *seen.entry(state).or_insert(0) += 1;
        // What lay behind a lost end does not come back.
        let (seen_disk, cut) = (device.disk(0), state == Some((0, false)));
        block_on(&world, async move {
            if cut {
                let file = seen_disk.open("a", OpenMode::Existing).await.unwrap();
                file.allocate(2 * BLOCK as u64).await.unwrap();
                file.sync().await.unwrap();
            }
        });
        if cut {
            assert_eq!(durable(&disk, "a").unwrap(), vec![0; 2 * BLOCK]);
        }
    }
    let states: Vec<_> = seen.keys().copied().collect();
    assert_eq!(states, [None, Some((0, false)), Some((2, false)), Some((2, true))]);
}

#[test]
fn content_is_durable_without_a_name_and_a_rename_is_whole() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let (world, device) = device(seed, DiskWeather::calm());
        let disk = device.disk(0);
        let task_disk = disk.clone();
        block_on(&world, async move {
            let file = create(&task_disk, "a").await;
            write_durable(&file, 0, 1, 1).await.unwrap();
            task_disk.sync_dir().await.unwrap();
            task_disk.rename("a", "b").await.unwrap();
        });
        device.power_cut();
        let names: Vec<String> = disk.durable_files().into_iter().map(|file| file.0).collect();
        assert_eq!(durable(&disk, &names[0]).unwrap(), vec![1; BLOCK]);
        seen.insert(names);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [["a"], ["b"]]);
}

#[test]
fn a_write_that_completes_during_a_sync_is_not_covered_by_it() {
    let mut weather = DiskWeather::calm();
    weather.flush = Latency::fixed(Duration::from_millis(10));
    let (world, device) = device(1, weather);
    let disk = device.disk(0);
    let task_disk = disk.clone();
    block_on(&world, async move {
        half_synced(task_disk.clone()).await;
        let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
        let (synced, written) =
            futures_util::future::join(file.sync(), write(&file, 0, 3, 1)).await;
        synced.unwrap();
        written.unwrap();
    });
    let bytes = durable(&disk, "a").unwrap();
    assert_eq!((bytes[0], bytes[2 * BLOCK]), (1, 2));
}

#[test]
fn after_a_failed_sync_a_later_one_succeeds_and_makes_nothing_durable() {
    for failed_sync in [FailedSync::Keeps, FailedSync::Reverts] {
        let (mut durable_by_chance, mut never) = (0, 0);
        for seed in 0..100 {
            let (world, device) = device(seed, DiskWeather { failed_sync, ..DiskWeather::calm() });
            let disk = device.disk(0);
            let (task_disk, task_device) = (disk.clone(), device.clone());
            let (read, kept) = block_on(&world, async move {
                half_synced(task_disk.clone()).await;
                let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
                task_device.fail(&[OpKind::Sync], DiskError::Io, Some(1));
                assert_eq!(file.sync().await.unwrap_err().raw_os_error(), Some(5));
                file.sync().await.unwrap();
                let read = file.read_at(2 * BLOCK as u64, filled(0, 1), BLOCK).await;
                (read.1[0], durable(&task_disk, "a").unwrap()[2 * BLOCK])
            });
            durable_by_chance += u32::from(kept == 2);
            never += u32::from(kept == 1);
            let expected = if failed_sync == FailedSync::Keeps { 2 } else { kept };
            assert_eq!(read, expected);
            // A new process sees what the device has.
            device.crash_process();
            let (file, mut byte) = (disk.cached_files()[0].1, [0]);
            disk.read_cached(file, 2 * BLOCK as u64, &mut byte);
            assert_eq!(byte[0], kept);
        }
        assert!(durable_by_chance > 5 && never > 5, "{durable_by_chance} {never}");
    }
}

#[test]
fn a_failed_write_may_be_in_the_cache_and_no_sync_makes_it_durable() {
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let (world, device) = device(seed, DiskWeather::calm());
        let disk = device.disk(0);
        let (task_disk, task_device) = (disk.clone(), device.clone());
        seen.insert(block_on(&world, async move {
            half_synced(task_disk.clone()).await;
            let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
            file.sync().await.unwrap();
            task_device.fail(OpKind::WRITES, DiskError::Io, Some(1));
            write_durable(&file, 0, 7, 1).await.unwrap_err();
            file.sync().await.unwrap();
            file.read_at(0, filled(0, 1), BLOCK).await.1[0]
        }));
        assert_eq!(durable(&disk, "a").unwrap()[0], 1);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 7]);
}

#[test]
fn a_full_disk_refuses_growth_and_takes_writes_inside_of_files() {
    let (world, device) = device(1, DiskWeather::calm());
    let disk = device.disk(0);
    let (other, task_device) = (device.disk(1), device.clone());
    block_on(&world, async move {
        half_synced(disk.clone()).await;
        task_device.set_capacity(Some(10 * BLOCK as u64));
        let file = create(&other, "b").await;
        let full = |result: io::Result<usize>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        };
        full(file.allocate(3 * BLOCK as u64).await.map(|()| 0));
        full(write(&file, 0, 1, 3).await);
        write(&file, 0, 1, 2).await.unwrap();
        write(&file, 0, 2, 2).await.unwrap();
        drop(file);
        // Room that one core gives back is there for the others.
        other.remove("b").await.unwrap();
        assert_eq!(task_device.used(), 8 * BLOCK as u64);
        task_device.set_capacity(None);
        create(&other, "b").await.allocate(100 * BLOCK as u64).await.unwrap();
    });
}

#[test]
fn short_writes_and_tries_again_leave_nothing_durable() {
    let weather = DiskWeather { short_chance: 0.5, again_chance: 0.3, ..DiskWeather::calm() };
    let (world, device) = device(1, weather);
    let disk = device.disk(0);
    let counts = block_on(&world, async move {
        let file = create(&disk, "a").await;
        disk.sync_dir().await.unwrap();
        let mut counts = [0; 3];
        for round in 0..200 {
            let position = round * 4 * BLOCK;
            let result = write_durable(&file, position, 1, 4).await;
            let bytes = durable(&disk, "a").unwrap();
            let found = &bytes[position.min(bytes.len())..];
            match result {
                Ok(len) if len == 4 * BLOCK => {
                    assert_eq!(found, vec![1; 4 * BLOCK]);
                    counts[0] += 1;
                }
                Ok(len) => {
                    assert!(len > 0 && len.is_multiple_of(SECTOR_BYTES));
                    assert!(found.is_empty());
                    counts[1] += 1;
                }
                Err(error) => {
                    let again = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                    assert!(again.contains(&error.kind()) && found.is_empty());
                    counts[2] += 1;
                }
            }
        }
        counts
    });
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

#[test]
fn a_dropped_future_does_not_cancel_its_write_and_a_dead_process_writes_no_more() {
    let (world, device) = device(1, DiskWeather::calm());
    let disk = device.disk(0);
    let task_disk = disk.clone();
    block_on(&world, async move {
        half_synced(task_disk.clone()).await;
        let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
        let dropped = Box::pin(write_durable(&file, 0, 9, 1));
        drop(futures_util::future::select(dropped, std::future::ready(())).await);
    });
    assert_eq!(durable(&disk, "a").unwrap()[0], 9);
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let before = durable(&disk, "a").unwrap()[0];
        let task_disk = device.disk(0);
        world.spawn(P, async move {
            let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
            write_durable(&file, 0, before ^ 1, 1).await.unwrap();
        });
        run(&world, world.now() + Duration::from_micros(50));
        world.kill(P);
        device.crash_process();
        let file = disk.cached_files()[0].1;
        let read = |position| {
            let mut byte = [0];
            disk.read_cached(file, position, &mut byte);
            byte[0]
        };
        let at_once = read(0);
        let partly = (0..8).any(|sector| read(sector * SECTOR_BYTES as u64) != at_once);
        seen.insert((at_once == before, partly));
        let version = disk.durable_version();
        run(&world, world.now() + Duration::from_secs(1));
        assert_eq!((read(0), disk.durable_version()), (at_once, version), "a late landing");
        device.power_cut();
    }
    assert!(seen.contains(&(true, false)) && seen.contains(&(false, false)), "{seen:?}");
    assert!(seen.contains(&(false, true)), "{seen:?}");
}

#[test]
fn a_stalled_device_completes_nothing_until_its_time() {
    let (world, device) = device(1, DiskWeather::calm());
    let (disk, task_world) = (device.disk(0), world.clone());
    let ended = Rc::new(RefCell::new(None));
    let told = ended.clone();
    world.spawn(P, async move {
        half_synced(disk).await;
        *told.borrow_mut() = Some(task_world.now());
    });
    run(&world, Duration::from_micros(30));
    device.stall(Duration::from_secs(3));
    run(&world, Duration::from_secs(10));
    assert!(ended.borrow().unwrap() >= Duration::from_secs(3));
}

#[test]
fn a_lie_leaves_things_in_the_cache_until_an_honest_flush() {
    let (world, device) = device(1, DiskWeather::calm());
    let disk = device.disk(0);
    device.set_lying(true);
    block_on(&world, half_synced(disk.clone()));
    assert_eq!(disk.durable_files(), []);
    device.heal();
    let task_disk = disk.clone();
    block_on(&world, async move {
        let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
        file.sync().await.unwrap();
        task_disk.sync_dir().await.unwrap();
    });
    assert!(disk.is_clean());
    assert_eq!(durable(&disk, "a").unwrap()[2 * BLOCK], 2);
}

#[test]
fn damage_is_done_where_asked_and_told() {
    let (world, device) = device(1, DiskWeather::calm());
    let disk = device.disk(0);
    let task_disk = disk.clone();
    let (file, id) = block_on(&world, async move {
        half_synced(task_disk.clone()).await;
        let file = task_disk.open("a", OpenMode::Existing).await.unwrap();
        file.sync().await.unwrap();
        (file.clone(), file.id())
    });
    assert_eq!(disk.written_blocks(id), (0..8).collect::<Vec<_>>());
    assert!(disk.rot(id, 0, 9) && disk.make_stale(id, 3) && disk.make_unreadable(id, 7));
    assert!(!disk.rot(id, 8, 0) && !disk.make_stale(id, 7) && !disk.rot(99, 0, 0));
    let bytes = durable(&disk, "a").unwrap();
    assert_eq!((bytes[1], bytes[2 * BLOCK], bytes[3 * BLOCK]), (3, 2, 1));
    let (task_file, task_disk) = (file.clone(), disk.clone());
    block_on(&world, async move {
        let read = async |block: usize| {
            task_file.read_at((block * BLOCK) as u64, filled(0, 1), BLOCK).await.0
        };
        assert_eq!(read(7).await.unwrap_err().raw_os_error(), Some(5));
        write_durable(&task_file, 7 * BLOCK, 4, 1).await.unwrap();
        read(7).await.unwrap();
        task_disk.lose_next_write();
        write_durable(&task_file, 0, 5, 1).await.unwrap();
        task_disk.misdirect_next_write();
        write_durable(&task_file, 5 * BLOCK, 6, 1).await.unwrap();
    });
    let damage = device.drain_damage();
    let kinds: Vec<DamageKind> = damage.iter().map(|damage| damage.kind).collect();
    use DamageKind::*;
    assert_eq!(kinds, [Rot, Stale, Unreadable, NotWritten, NotWritten, Overwritten]);
    let bytes = durable(&disk, "a").unwrap();
    assert_eq!((bytes[0], bytes[5 * BLOCK], bytes[damage[5].position as usize]), (1, 2, 6));
    assert_eq!(damage[4].position, 5 * BLOCK as u64);
    assert_eq!(device.drain_damage(), []);
    assert_eq!(world.counts()["disk/not written"], 2);
}

/// A write that goes astray often hits an earlier one of its own length, from end to end.
#[test]
fn misdirected_writes_land_on_their_like() {
    let (mut hits, seeds) = (0, 40);
    for seed in 0..seeds {
        let (world, device) = device(seed, DiskWeather::calm());
        let disk = device.disk(0);
        block_on(&world, async move {
            let file = create(&disk, "a").await;
            write(&file, 0, 0, 64).await.unwrap();
            file.sync().await.unwrap();
            for (block, blocks) in [(1, 2), (3, 1), (4, 2), (6, 3), (4, 1)] {
                write_durable(&file, block * BLOCK, 1, blocks).await.unwrap();
            }
            disk.misdirect_next_write();
            write_durable(&file, 9 * BLOCK, 2, 2).await.unwrap();
        });
        // The second one of two blocks was overwritten in part, so it is none any more.
        let landed = device.drain_damage().into_iter().map(|damage| damage.position).next_back();
        hits += u32::from(landed == Some(BLOCK as u64));
    }
    assert!((10..40).contains(&hits), "{hits} of {seeds}");
}

/// Whoever follows the list of durable changes knows the durable image.
#[test]
fn the_list_of_durable_changes_is_complete() {
    for seed in 0..60 {
        let mut weather = DiskWeather::draw(&mut World::new(seed).rng_for("weather"));
        weather.again_chance = 0.0;
        let (world, device) = device(seed, weather);
        let disk = device.disk(0);
        let mut mirror: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut changes = Vec::new();
        let mut rng = world.rng_for("test");
        for round in 0..12 {
            let (task_disk, mut task_rng) = (device.disk(0), rng.fork());
            world.spawn(P, async move {
                let file = match task_disk.open("a", OpenMode::CreateNew).await {
                    Ok(file) => file,
                    Err(_) => task_disk.open("a", OpenMode::Existing).await.unwrap(),
                };
                for byte in 1..20 {
                    let position = task_rng.usize(..16) * BLOCK;
                    let blocks = task_rng.usize(1..4);
                    match task_rng.u8(..6) {
                        0 | 1 => drop(write(&file, position, byte, blocks).await),
                        2 | 3 => drop(write_durable(&file, position, byte, blocks).await),
                        4 => drop(file.sync().await),
                        _ => drop(task_disk.sync_dir().await),
                    }
                }
            });
            if rng.bool() {
                device.fail(&[OpKind::Sync], DiskError::Io, Some(1));
            }
            run(&world, world.now() + Duration::from_millis(rng.u64(1..50)));
            if round % 3 == 2 {
                world.kill(P);
                if rng.bool() { device.crash_process() } else { device.power_cut() }
            }
            let version = disk.durable_version();
            disk.drain_durable(&mut changes);
            for change in changes.drain(..) {
                match change {
                    DurableChange::Written { file, position, len } => {
                        let Some(bytes) = mirror.get_mut(&file) else { continue };
                        let end = bytes.len().min((position + len) as usize);
                        let start = end.min(position as usize);
                        disk.read_durable(file, position, &mut bytes[start..end]);
                    }
                    DurableChange::Grown { file, size } => {
                        let Some(bytes) = mirror.get_mut(&file) else { continue };
                        let old = bytes.len();
                        bytes.resize(old.max(size as usize), 0);
                        disk.read_durable(file, old as u64, &mut bytes[old..]);
                    }
                    DurableChange::Names | DurableChange::Reset => {
                        if change == DurableChange::Reset {
                            mirror.clear();
                        }
                        for (name, file, _) in disk.durable_files() {
                            mirror.entry(file).or_insert_with(|| durable(&disk, &name).unwrap());
                        }
                    }
                }
            }
            for (name, file, _) in disk.durable_files() {
                let known = mirror.get(&file).cloned().unwrap_or_default();
                assert!(durable(&disk, &name).unwrap() == known, "seed {seed}, round {round}");
            }
            assert_eq!(disk.durable_version(), version);
        }
        world.end();
    }
}
