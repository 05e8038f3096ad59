//! The log alone on the simulated disk: what no cluster does to it, because the engine never trims.
//!
//! One process appends groups of records, trims and closes; it is killed, loses power, meets failed and
//! short writes, stalls and a full disk, and opens the log again and again. At the end of some seeds the disk
//! is damaged. A plain model (`wal_model.rs`) knows what was appended. After each opening:
//!
//! * **prefix**: what is found is a stretch of what was appended, byte for byte and in order; it ends
//!   between groups and begins no later than the oldest record that was not given up;
//! * **durability**: it has everything that was said to be durable, or was found before;
//! * **opens**: without damage, no crash makes the log refuse to open;
//! * **damage**: with it, the log says so or has lost nothing, and what it can still read was appended,
//!   in that order.
//!
//! The disk damages only what a later batch vouches for: of the last batch nobody can know.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use coracle_wal::limits::BLOCK_BYTES;
use coracle_wal::{Driver, Lsn, OpenError, Options, Wal};
use fastrand::Rng;

use super::disk::{DiskError, DiskWeather, OpKind, SimDevice, SimDisk};
pub use super::wal_model::Finding;
use super::wal_model::Model;
use super::world::{ProcessId, Step, World};

/// The process that owns the log.
const PROCESS: ProcessId = ProcessId(1);
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Longest virtual time an opening may take: many stalls in a row.
const OPENING_MAX: Duration = Duration::from_secs(600);
/// Where a segment's header has the position of its first byte, and its size (`docs/wal-format.md`).
const BASE_AT: usize = 48;
const BYTES_AT: usize = 56;
/// Where a batch has its magic number.
const MAGIC_AT: usize = 4;
const MAGIC: &[u8] = b"CWb1";

type Shared = Rc<RefCell<Model>>;

/// How often the process does what, out of 64.
#[derive(Clone, Copy, Debug)]
struct Habits {
    trim: u8,
    close: u8,
    /// Longest pause between two steps.
    pause_us: u64,
    /// Largest record.
    len: usize,
}

struct Scenario<'w> {
    world: &'w World,
    device: SimDevice,
    model: Shared,
    options: Options,
    habits: Habits,
    rng: Rng,
    names_in_doubt: bool,
}

/// Runs the scenario of the world's seed. The same seed gives the same trace.
///
/// # Errors
/// The first [`Finding`].
pub fn run(world: &World) -> Result<(), Finding> {
    world.shuffle_tasks();
    let outcome = Scenario::new(world).live();
    world.kill(PROCESS);
    outcome
}

impl<'w> Scenario<'w> {
    fn new(world: &'w World) -> Self {
        let mut rng = world.rng_for("wal only");
        let weather = DiskWeather::draw(&mut rng);
        let mut options = Options::default();
        options.segment_bytes = rng.u64(16..=48) * BLOCK;
        options.spares = rng.usize(1..=3);
        options.writes_in_flight = rng.usize(1..=4);
        options.log_id = *b"a simulated log!";
        let habits = Habits {
            trim: [0, 2, 12][rng.usize(..3)],
            close: rng.u8(..2),
            pause_us: [20, 200, 2000][rng.usize(..3)],
            len: [200, 3000, 9000][rng.usize(..3)],
        };
        let device = SimDevice::new(world, "disk", weather);
        Self {
            world,
            device,
            model: Shared::default(),
            options,
            habits,
            rng,
            names_in_doubt: false,
        }
    }

    fn live(&mut self) -> Result<(), Finding> {
        let faulty = self.rng.bool();
        for _ in 0..self.rng.u64(2..12) {
            self.open_again()?;
            for _ in 0..self.rng.u64(1..5) {
                // In steps of the process, so that a seed costs much the same whatever its pace.
                let steps = if self.rng.u8(..16) == 0 { 400 } else { 40 };
                let span = Duration::from_micros(self.habits.pause_us * self.rng.u64(..steps) / 2);
                self.run_for(span)?;
                if faulty {
                    self.disturb();
                }
            }
            // A name whose sync has failed is never durable for sure, whatever later syncs say, and a new
            // process cannot know: only a cut shows the truth.
            let power = self.rng.bool() || std::mem::take(&mut self.names_in_doubt);
            self.crash(power);
            self.device.heal();
        }
        match self.rng.u8(..4) {
            0 => self.misdirect(),
            1 => self.damage(),
            _ => {
                self.open_again()?;
                // What an opening gives to its visitor is durable.
                self.crash(true);
                self.open_again()
            }
        }
    }

    fn disturb(&mut self) {
        match self.rng.u8(..8) {
            0 => {
                let kinds = [OpKind::WRITES, OpKind::CHANGES, &[OpKind::Sync], &[OpKind::SyncDir]];
                let kinds = kinds[self.rng.usize(..kinds.len())];
                let times = self.rng.u32(1..4);
                self.names_in_doubt |= kinds.contains(&OpKind::SyncDir);
                self.device.fail(kinds, DiskError::Io, Some(times));
            }
            1 => {
                let room = self.device.used() + self.rng.u64(..1 << 20);
                self.device.set_capacity(Some(room));
            }
            2 => self.device.stall(Duration::from_millis(self.rng.u64(..2000))),
            3 => self.device.heal(),
            _ => {}
        }
    }

    /// A process: opens the log and works on it until it is killed.
    fn start(&mut self, options: Options, idle: bool) {
        let (world, model, habits) = (self.world.clone(), self.model.clone(), self.habits);
        let (disk, mut rng) = (self.device.disk(0), self.rng.fork());
        self.world.spawn(PROCESS, async move {
            let Some((wal, driver)) = open(disk, options, &world, &model).await else { return };
            world.spawn(PROCESS, async move { drop(driver.run().await) });
            let (watched, model_too) = (wal.clone(), model.clone());
            world.spawn(PROCESS, async move {
                let mut durable = watched.durable();
                while let Ok(next) = watched.durable_beyond(durable).await {
                    durable = next;
                    model_too.borrow_mut().acknowledge(durable);
                }
            });
            if idle {
                return;
            }
            loop {
                match rng.u8(..64) {
                    draw if draw < habits.trim => trim(&wal, &model, &mut rng),
                    draw if draw < habits.trim + habits.close => {
                        wal.close().await;
                        return;
                    }
                    63 => wal.retry_space(),
                    _ => {
                        let (records, len) = (rng.usize(1..6), rng.usize(..habits.len));
                        model.borrow_mut().append(&wal, records, len);
                    }
                }
                world.sleep(Duration::from_micros(rng.u64(..habits.pause_us))).await;
            }
        });
    }

    fn run_for(&self, duration: Duration) -> Result<(), Finding> {
        let until = self.world.now() + duration;
        let mut polls = 0;
        while self.world.step(until, &mut polls) == Step::Ran {}
        let finding = self.model.borrow().finding.clone();
        if self.world.now() < until {
            let message = "the log is busy without end".to_owned();
            return Err(finding.unwrap_or(Finding { invariant: "progress", message }));
        }
        finding.map_or(Ok(()), Err)
    }

    fn crash(&mut self, power: bool) {
        self.world.story(|| format!("crash, power: {power}"));
        self.world.kill(PROCESS);
        if power {
            self.device.power_cut();
        } else {
            self.device.crash_process();
        }
    }

    /// Opens the log on a disk in good order, which must succeed, and lets its process work.
    fn open_again(&mut self) -> Result<(), Finding> {
        self.open_with(self.options.clone(), false)?;
        match self.model.borrow_mut().refused.take() {
            None => Ok(()),
            Some(error) => Err(Finding {
                invariant: "opens",
                message: format!("a crash is no damage: {error}"),
            }),
        }
    }

    /// Opens the log. A refusal is left in the model.
    fn open_with(&mut self, options: Options, idle: bool) -> Result<(), Finding> {
        let before = self.model.borrow().openings;
        let end = self.world.now() + OPENING_MAX;
        self.start(options, idle);
        while self.model.borrow().openings == before {
            if self.world.now() >= end {
                let message = format!("not open after {OPENING_MAX:?}");
                return Err(Finding { invariant: "opens", message });
            }
            self.run_for(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Damages something that a later batch vouches for: the one with which this opening begins does so
    /// for all that was found.
    fn damage(&mut self) -> Result<(), Finding> {
        self.open_with(self.options.clone(), true)?;
        self.crash(false);
        let (given_up, end) = {
            let model = self.model.borrow();
            (model.given_up(), model.records.len())
        };
        if given_up >= end {
            return Ok(());
        }
        let lsn = self.model.borrow().lsns[self.rng.usize(given_up..end)];
        let disk = self.device.disk(0);
        let Some((file, base)) = segment_of(&disk, lsn) else { return Ok(()) };
        let last = lsn.0 - base - 1;
        if self.rng.bool() {
            disk.rot(file, (last / BLOCK) as u32, (last % BLOCK) as u32 * 8 + self.rng.u32(..8));
        } else if let Some(block) = batch_of(&disk, file, last / BLOCK) {
            disk.make_stale(file, block);
        }
        self.after_damage()
    }

    /// The last write before a crash lands on another place. It is lost, which nobody can know, nor that
    /// something else is if it has covered all that follows. But nothing may pass for what it is not.
    fn misdirect(&mut self) -> Result<(), Finding> {
        self.open_again()?;
        let span = Duration::from_millis(self.rng.u64(1..20));
        self.run_for(span)?;
        let disk = self.device.disk(0);
        let _ = self.device.drain_damage();
        disk.misdirect_next_write();
        let mut damages = Vec::new();
        for _ in 0..10_000 {
            self.run_for(Duration::from_micros(10))?;
            damages = self.device.drain_damage();
            if !damages.is_empty() {
                break;
            }
        }
        disk.disarm();
        self.crash(false);
        for lost in damages {
            if let Some((base, _)) = header_of(&disk, lost.file) {
                let mut model = self.model.borrow_mut();
                // A batch is lost as a whole: the one that was hit may have begun before.
                let before = (lost.position / BLOCK).saturating_sub(1);
                let from = batch_of(&disk, lost.file, before).map_or(0, u64::from) * BLOCK;
                let kept = model.lsns.partition_point(|lsn| lsn.0 <= base + from);
                model.acknowledged = model.acknowledged.min(kept);
            }
        }
        self.after_damage()
    }

    fn after_damage(&mut self) -> Result<(), Finding> {
        self.open_with(self.options.clone(), true)?;
        let refused = self.model.borrow_mut().refused.take();
        match refused {
            None => return Ok(()), // it has lost nothing: the opening was checked
            Some(OpenError::Damaged(_)) => self.world.count("wal/damage reported"),
            Some(error) => {
                let message = format!("refused for another reason: {error}");
                return Err(Finding { invariant: "damage", message });
            }
        }
        self.crash(false);
        let mut options = self.options.clone();
        options.start_on_damage = true;
        self.open_with(options, true)
    }
}

async fn open(
    disk: SimDisk,
    options: Options,
    world: &World,
    model: &Shared,
) -> Option<(Wal<SimDisk>, Driver<SimDisk>)> {
    let mut found = Vec::new();
    let on_damage = options.start_on_damage;
    let opened = Wal::open(disk, options, &mut |record: coracle_wal::RecordView<'_>| {
        found.push((record.payload.to_vec(), record.lsn));
    })
    .await;
    let mut model = model.borrow_mut();
    model.openings += 1;
    match opened {
        Ok((wal, driver, recovery)) => {
            world.story(|| format!("{recovery:?}"));
            world.trace(0x300 | recovery.label as u64, recovery.end.0);
            if on_damage {
                model.check_rest(&found);
            } else {
                model.check(&found);
            }
            Some((wal, driver))
        }
        Err(error) => {
            world.story(|| format!("refused: {error}"));
            model.refused = Some(error);
            None
        }
    }
}

fn trim(wal: &Wal<SimDisk>, model: &Shared, rng: &mut Rng) {
    let mut model = model.borrow_mut();
    let at = model.lsns.len() * rng.usize(..101) / 100;
    let Some(lsn) = model.lsns.get(at).copied() else { return };
    // The log does not give up what is not durable.
    model.trimmed = model.trimmed.max(lsn.min(wal.durable()));
    wal.trim(lsn);
}

/// The position of a segment's first byte, and its size.
fn header_of(disk: &SimDisk, file: u32) -> Option<(u64, u64)> {
    let mut header = [0; 64];
    disk.read_durable(file, 0, &mut header);
    let number = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    Some((number(BASE_AT)?, number(BYTES_AT)?))
}

/// The file of the segment that holds a record, and the position of its first byte.
fn segment_of(disk: &SimDisk, lsn: Lsn) -> Option<(u32, u64)> {
    let files = disk.durable_files();
    let segments = files.iter().filter(|(name, ..)| name.starts_with("seg-"));
    segments.map(|(_, file, _)| *file).find_map(|file| {
        let (base, bytes) = header_of(disk, file)?;
        (base < lsn.0 && lsn.0 <= base + bytes).then_some((file, base))
    })
}

/// The first block of the batch that `block` of a segment belongs to.
fn batch_of(disk: &SimDisk, file: u32, block: u64) -> Option<u32> {
    let begins = |block: &u64| {
        let mut head = [0; MAGIC_AT + MAGIC.len()];
        disk.read_durable(file, block * BLOCK, &mut head);
        head[MAGIC_AT..] == *MAGIC
    };
    (1..=block).rev().find(begins).map(|block| block as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(usual: u64) -> std::ops::Range<u64> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let first = number("CORACLE_SEED").unwrap_or(0);
        first..first + number("CORACLE_SEEDS").unwrap_or(usual)
    }

    #[test]
    fn the_log_keeps_its_promises() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in seeds(200) {
            let world = World::new(seed);
            if seeds(200).count() == 1 {
                world.keep_story();
            }
            let outcome = run(&world);
            let story = world.take_story().join("\n");
            assert_eq!(outcome, Ok(()), "seed {seed}\n{story}");
            for (kind, count) in world.counts() {
                *counts.entry(kind).or_insert(0) += count;
            }
            world.end();
        }
        eprintln!("{counts:?}");
        for kind in ["wal/damage reported", "disk/stale", "disk/rot", "disk/overwritten"] {
            assert!(counts.contains_key(kind), "{kind} never happened");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let trace = |seed| {
            let world = World::new(seed);
            let outcome = run(&world);
            world.end();
            (outcome, world.trace_hash())
        };
        for seed in 0..30 {
            assert_eq!(trace(seed), trace(seed), "seed {seed}");
        }
    }
}
