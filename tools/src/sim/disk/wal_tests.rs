//! The real log on the simulated disk, in any weather, against a plain model of what a log promises.
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use coracle_wal::recovery::Label;
use coracle_wal::{OpenError, Options, Recovery, Wal};
use fastrand::Rng;

use super::{DiskError, DiskWeather, OpKind, SimDevice, SimDisk};
use crate::sim::wal_model::Model;
use crate::sim::world::{ProcessId, Step, World};

const P: ProcessId = ProcessId(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

type Shared = Rc<RefCell<Model>>;

async fn open(
    disk: SimDisk,
    options: Options,
    model: &Shared,
) -> Result<(Wal<SimDisk>, coracle_wal::Driver<SimDisk>, Recovery), OpenError> {
    let mut found = Vec::new();
    let opened = Wal::open(disk, options, &mut |record: coracle_wal::RecordView<'_>| {
        assert_eq!((record.stream, record.kind), (3, 1));
        found.push((record.payload.to_vec(), record.lsn));
    })
    .await?;
    model.borrow_mut().check(&found);
    assert_eq!(model.borrow().finding, None);
    Ok(opened)
}

/// Tells which seed it was when a test fails.
struct Seed<'s>(u64, &'s World);

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.1.take_story() {
                eprintln!("{line}");
            }
            eprintln!("seed {}", self.0);
        }
        self.1.end();
    }
}

fn run(world: &World, until: Duration) {
    let mut polls = 0;
    loop {
        match world.step(until, &mut polls) {
            Step::Ran => {}
            Step::Idle => return,
            Step::Stuck => panic!("the log is in a loop"),
        }
    }
}

/// What may go wrong with an opening now.
#[derive(Clone, Copy, Default)]
struct Excuse {
    io: bool,
    room: bool,
}

struct Rig<'w> {
    world: &'w World,
    device: SimDevice,
    model: Shared,
    options: Options,
    rng: Rng,
    opened: Rc<RefCell<Vec<Label>>>,
    excuse: Rc<Cell<Excuse>>,
}

impl Rig<'_> {
    fn new(world: &World, weather: DiskWeather) -> Rig<'_> {
        let mut rng = world.rng_for("test");
        let mut options = Options::default();
        options.segment_bytes = rng.u64(16..=48) * 4096;
        options.spares = rng.usize(1..=3);
        options.writes_in_flight = rng.usize(1..=4);
        options.log_id = *b"a simulated log!";
        let device = SimDevice::new(world, "disk", weather);
        Rig {
            world,
            device,
            model: Shared::default(),
            options,
            rng,
            opened: Rc::default(),
            excuse: Rc::default(),
        }
    }

    /// A process: opens the log and works on it until it is killed.
    fn start(&mut self) {
        let (world, model, options) =
            (self.world.clone(), self.model.clone(), self.options.clone());
        let (disk, mut rng) = (self.device.disk(0), self.rng.fork());
        let (opened, excuse) = (self.opened.clone(), self.excuse.clone());
        self.world.spawn(P, async move {
            let (wal, driver, recovery) = match open(disk, options, &model).await {
                Ok(opened) => opened,
                Err(OpenError::Io { .. }) if excuse.get().io => return,
                Err(OpenError::NoSpace { .. }) if excuse.get().room => return,
                Err(error) => panic!("a crash is no damage: {error}"),
            };
            world.story(|| format!("{recovery:?}"));
            opened.borrow_mut().push(recovery.label);
            world.spawn(P, async move { drop(driver.run().await) });
            let (watched, model_too) = (wal.clone(), model.clone());
            world.spawn(P, async move {
                let mut durable = watched.durable();
                while let Ok(next) = watched.durable_beyond(durable).await {
                    durable = next;
                    model_too.borrow_mut().acknowledge(durable);
                }
            });
            let pause = if rng.bool() { rng.u64(1..3000) } else { rng.u64(1..100) };
            loop {
                match rng.u8(..40) {
                    0 => {
                        let at = {
                            let mut model = model.borrow_mut();
                            let at = model.lsns.len() * rng.usize(..100) / 100;
                            let Some(lsn) = model.lsns.get(at).copied() else { continue };
                            // The log does not give up what is not durable.
                            model.trimmed = model.trimmed.max(lsn.min(wal.durable()));
                            lsn
                        };
                        wal.trim(at);
                    }
                    1 => wal.retry_space(),
                    2 if rng.u8(..8) == 0 => {
                        wal.close().await;
                        return;
                    }
                    _ => {
                        let (records, len) = (rng.usize(1..6), rng.usize(..9000));
                        model.borrow_mut().append(&wal, records, len);
                    }
                }
                // Bursts end some day: the checks read all there is at every start.
                let calm = if model.borrow().records.len() > 1000 { 20 } else { 1 };
                world.sleep(Duration::from_micros(rng.u64(..pause) * calm)).await;
            }
        });
    }

    fn run_for(&self, duration: Duration) {
        run(self.world, self.world.now() + duration);
    }

    fn crash(&mut self, power: bool) {
        self.world.story(|| format!("crash, power: {power}"));
        self.world.kill(P);
        if power {
            self.device.power_cut();
        } else {
            self.device.crash_process();
        }
    }

    fn heal(&self) {
        self.device.heal();
        self.excuse.set(Excuse::default());
    }

    /// Opens the log in good weather until it is open; returns its label.
    fn reopen(&mut self) -> Label {
        let before = self.opened.borrow().len();
        self.start();
        while self.opened.borrow().len() == before {
            self.run_for(ms(100));
        }
        self.opened.borrow()[before]
    }
}

fn any_weather(seed: u64, faults: bool) -> (u64, BTreeMap<&'static str, u64>, Vec<Label>) {
    let world = World::new(seed);
    let _seed = Seed(seed, &world);
    if std::env::var_os("STORY").is_some() {
        world.keep_story();
    }
    world.shuffle_tasks();
    let weather = DiskWeather::draw(&mut world.rng_for("weather"));
    let mut rig = Rig::new(&world, weather);
    for _ in 0..rig.rng.u64(2..10) {
        rig.start();
        for _ in 0..rig.rng.u64(1..4) {
            let span = rig.rng.u64(1..=300);
            let span = if rig.rng.u8(..8) == 0 { span * 20 } else { span };
            let span = Duration::from_micros(rig.rng.u64(..=span * 1000));
            rig.run_for(span);
            if !faults {
                continue;
            }
            match rig.rng.u8(..8) {
                0 => {
                    let kinds =
                        [OpKind::WRITES, OpKind::CHANGES, &[OpKind::Sync], &[OpKind::SyncDir]];
                    let kinds = kinds[rig.rng.usize(..kinds.len())];
                    let error = [DiskError::Io, DiskError::ReadOnly][rig.rng.usize(..2)];
                    let times = rig.rng.bool().then(|| rig.rng.u32(1..4));
                    rig.device.fail(kinds, error, times);
                    rig.excuse.set(Excuse { io: true, ..rig.excuse.get() });
                }
                1 => {
                    let room = rig.device.used() + rig.rng.u64(..1 << 20);
                    rig.device.set_capacity(Some(room));
                    rig.excuse.set(Excuse { room: true, ..rig.excuse.get() });
                }
                2 => rig.device.stall(ms(rig.rng.u64(..2000))),
                3 => {
                    rig.heal();
                }
                _ => {}
            }
        }
        let power = rig.rng.bool();
        rig.crash(power);
        if power && rig.rng.bool() {
            rig.heal();
        }
    }
    rig.heal();
    rig.reopen();
    // What a start gives to its visitor is durable.
    rig.crash(true);
    rig.reopen();
    world.kill(P);
    let labels = rig.opened.borrow().clone();
    (world.trace_hash(), world.counts(), labels)
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("FIRST").unwrap_or(0);
    first..first + number("SEEDS").unwrap_or(usual)
}

#[test]
fn a_log_keeps_its_promises_in_any_weather() {
    let mut labels = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for seed in seeds(100) {
        let (_, counted, found) = any_weather(seed, false);
        counted.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_insert(0) += count);
        found.iter().for_each(|label| *labels.entry(format!("{label:?}")).or_insert(0_u64) += 1);
    }
    eprintln!("{labels:?} {counts:?}");
    assert!(labels.contains_key("TornTail") && labels.contains_key("CleanEnd"));
}

#[test]
fn a_log_keeps_its_promises_on_a_failing_disk() {
    let mut counts = BTreeMap::new();
    for seed in seeds(100) {
        let (_, counted, _) = any_weather(seed, true);
        counted.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_insert(0) += count);
    }
    eprintln!("{counts:?}");
    assert!(counts.contains_key("disk/failed operation") && counts.contains_key("disk/cut torn"));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hashes: Vec<u64> = (0..40).map(|seed| any_weather(seed, true).0).collect();
    for (seed, hash) in (0..).zip(&hashes) {
        assert_eq!(any_weather(seed, true).0, *hash, "seed {seed}");
    }
    let mut distinct = hashes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), hashes.len());
}

/// One damage to what was acknowledged, then a crash and a start. Every batch but the last has a later
/// one that says it was durable: whatever else is hit is reported, never cut off in silence.
fn one_damage(seed: u64) -> &'static str {
    let world = World::new(seed);
    let _seed = Seed(seed, &world);
    if std::env::var_os("STORY").is_some() {
        world.keep_story();
    }
    let mut rig = Rig::new(&world, DiskWeather::calm());
    let (disk, options, model) = (rig.device.disk(0), rig.options.clone(), rig.model.clone());
    let mut rng = rig.rng.fork();
    let kind = rng.u8(..5);
    let groups = rng.usize(3..60);
    let armed_at = rng.usize(..groups);
    let task_world = world.clone();
    world.spawn(P, async move {
        let (wal, driver, _) = open(disk.clone(), options, &model).await.unwrap();
        task_world.spawn(P, async move { drop(driver.run().await) });
        for group in 0..groups {
            match kind {
                0 if group == armed_at => disk.misdirect_next_write(),
                1 if group == armed_at => disk.lose_next_write(),
                _ => {}
            }
            model.borrow_mut().append(&wal, rng.usize(1..4), rng.usize(..9000));
            let last = *model.borrow().lsns.last().unwrap();
            while wal.durable() < last {
                wal.durable_beyond(wal.durable()).await.unwrap();
            }
            model.borrow_mut().acknowledge(last);
            if rng.u8(..8) == 0 {
                let lsns = model.borrow().lsns.clone();
                let lsn = lsns[rng.usize(..lsns.len())];
                let mut model = model.borrow_mut();
                model.trimmed = model.trimmed.max(lsn);
                wal.trim(lsn);
            }
        }
    });
    rig.run_for(ms(10_000));
    let power = rig.rng.bool();
    rig.crash(power);
    let disk = rig.device.disk(0);
    let hit = |rng: &mut Rng, damage: &dyn Fn(u32, u32) -> bool| {
        for _ in 0..100 {
            let files = disk.durable_files();
            let (_, file, size) = files[rng.usize(..files.len())];
            if damage(file, rng.u32(..(size / 4096) as u32)) {
                return;
            }
        }
    };
    let bit = rig.rng.u32(..4096 * 8);
    match kind {
        2 => hit(&mut rig.rng, &|file, block| disk.rot(file, block, bit)),
        3 => hit(&mut rig.rng, &|file, block| disk.make_stale(file, block)),
        4 => hit(&mut rig.rng, &|file, block| disk.make_unreadable(file, block)),
        _ => {}
    }
    let damages = rig.device.drain_damage();
    disk.disarm();
    // Each group is a batch of its own here.
    let last_group = {
        let model = rig.model.borrow();
        let ends = &model.group_ends;
        let before = ends.len().checked_sub(2).map_or(0, |at| ends[at]);
        model.records.len() - before
    };
    if !damages.is_empty() {
        let mut model = rig.model.borrow_mut();
        model.acknowledged = model.acknowledged.saturating_sub(last_group);
    }
    let (disk, options, model) = (rig.device.disk(0), rig.options.clone(), rig.model.clone());
    let outcome = Rc::new(Cell::new(None));
    let told = outcome.clone();
    let story_world = world.clone();
    world.spawn(P, async move {
        told.set(Some(match open(disk, options, &model).await {
            Ok((_, _, recovery)) => {
                story_world.story(|| format!("{recovery:?}"));
                "opened"
            }
            Err(OpenError::Damaged(_)) => "damaged",
            Err(OpenError::Io { .. }) => "unreadable",
            Err(OpenError::Foreign { .. }) => "foreign",
            Err(OpenError::Newer { .. }) => "newer",
            Err(error) => panic!("{error}"),
        }));
    });
    rig.run_for(ms(10_000));
    let outcome = outcome.get().expect("the opening ended");
    assert!(!damages.is_empty() || outcome == "opened", "no damage, but {outcome}");
    assert!(outcome != "unreadable" || kind == 4);
    outcome
}

#[test]
fn damage_to_acknowledged_records_is_never_cut_off() {
    let mut outcomes = BTreeMap::new();
    for seed in seeds(500) {
        *outcomes.entry(one_damage(seed)).or_insert(0_u64) += 1;
    }
    eprintln!("{outcomes:?}");
    assert!(outcomes.len() >= 3, "{outcomes:?}");
}
