//! What operations do when they take effect, fail, or are caught by a crash.

use std::io;

use coracle_wal::limits::BLOCK_BYTES;

use super::crash::Fates;
use super::device::{Device, Directory, DiskError, Done, Flight, OpKind, Request};
use super::image::SECTOR_BYTES;
use super::weather::{FailedSync, happens};
use crate::sim::world::World;

impl Device {
    /// The failure that the plan has for this operation, if any.
    fn failure(&mut self, kind: OpKind) -> Option<DiskError> {
        if self.failures.is_empty() {
            return None;
        }
        let place = self.failures.iter().position(|failure| failure.kinds.contains(&kind))?;
        let failure = &mut self.failures[place];
        let error = failure.error;
        if let Some(left) = &mut failure.left {
            *left -= 1;
            if *left == 0 {
                self.failures.remove(place);
            }
        }
        Some(error)
    }

    fn check_room(&mut self, core: u32, file: u32, size: u64) -> io::Result<()> {
        let more = size.saturating_sub(self.dir(core).node(file).cached.size);
        match self.capacity {
            Some(capacity)
                if more > 0
                    && self.dirs.values().map(Directory::used).sum::<u64>() + more > capacity =>
            {
                Err(DiskError::NoSpace.error())
            }
            _ => Ok(()),
        }
    }

    fn number(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// An operation takes effect.
    pub(super) fn execute(
        &mut self,
        world: &World,
        core: u32,
        request: &mut Request,
    ) -> io::Result<Done> {
        let planned = self.failure(request.kind());
        if let Some(error) = planned {
            world.count("disk/failed operation");
            self.fail(core, request);
            return Err(error.error());
        }
        match request {
            Request::Open { name, create } => {
                let found = self.dir(core).names.cached.get(name).copied();
                match (*create, found) {
                    (true, Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
                    (false, None) => Err(io::ErrorKind::NotFound.into()),
                    (false, Some(id)) => Ok(Done::File(self.dir(core).reference(id))),
                    (true, None) => {
                        let number = self.number();
                        let dir = self.dir(core);
                        let id = dir.new_file();
                        dir.names.create(number, std::mem::take(name), id);
                        Ok(Done::File(dir.reference(id)))
                    }
                }
            }
            Request::List => Ok(Done::Names(self.dir(core).names.cached.keys().cloned().collect())),
            Request::Remove { name } => {
                let number = self.number();
                let there = self.dir(core).names.remove(number, std::mem::take(name));
                there.then_some(Done::Number(0)).ok_or(io::ErrorKind::NotFound.into())
            }
            Request::Rename { from, to } => {
                let (number, dir) = (self.number(), self.dir(core));
                let there = dir.names.rename(number, std::mem::take(from), std::mem::take(to));
                there.then_some(Done::Number(0)).ok_or(io::ErrorKind::NotFound.into())
            }
            Request::SyncDir { covered } => {
                if !self.lying {
                    let dir = self.dir(core);
                    if dir.names.settle(*covered) {
                        dir.watch.names();
                        dir.collect();
                    }
                }
                Ok(Done::Number(0))
            }
            Request::Size { file } => Ok(Done::Number(self.dir(core).node(file.id).cached.size)),
            Request::Allocate { file, size } => {
                self.check_room(core, file.id, *size)?;
                let number = self.number();
                self.dir(core).node(file.id).grow(number, *size, false);
                Ok(Done::Number(0))
            }
            Request::Sync { file, covered } => {
                if !self.lying {
                    self.settle(core, file.id, *covered);
                }
                Ok(Done::Number(0))
            }
            Request::Read { file, position, buf, len } => {
                let got = self.read(world, core, file.id, *position, &mut buf[..*len])?;
                Ok(Done::Number(got as u64))
            }
            Request::Write { file, position, buf, len, durable } => {
                let bytes = &buf[..*len];
                let written = self.write(world, core, file.id, *position, bytes, *durable)?;
                Ok(Done::Number(written as u64))
            }
        }
    }

    pub(super) fn settle(&mut self, core: u32, file: u32, covered: u64) {
        let dir = self.dir(core);
        if let Some(node) = dir.nodes.get_mut(&file) {
            node.settle(covered, &mut dir.watch);
        }
    }

    fn try_again(&mut self, world: &World) -> io::Result<()> {
        if !happens(&mut self.rng, self.weather.again_chance) {
            return Ok(());
        }
        world.count("disk/try again");
        let again = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
        Err(again[usize::from(self.rng.bool())].into())
    }

    /// The length that a transfer of `len` bytes comes to: a multiple of `unit`, and not nothing.
    fn shorten(&mut self, world: &World, len: usize, unit: usize) -> usize {
        if len <= unit || !happens(&mut self.rng, self.weather.short_chance) {
            return len;
        }
        world.count("disk/short transfer");
        self.rng.usize(1..len.div_ceil(unit)) * unit
    }

    fn read(
        &mut self,
        world: &World,
        core: u32,
        file: u32,
        position: u64,
        buf: &mut [u8],
    ) -> io::Result<usize> {
        self.try_again(world)?;
        let len = self.shorten(world, buf.len(), BLOCK_BYTES);
        let node = self.dir(core).node(file);
        if node.first_unreadable(position, len).is_some() {
            return Err(DiskError::Io.error());
        }
        Ok(node.cached.read(position, &mut buf[..len]))
    }

    fn write(
        &mut self,
        world: &World,
        core: u32,
        file: u32,
        position: u64,
        bytes: &[u8],
        durable: bool,
    ) -> io::Result<usize> {
        self.try_again(world)?;
        self.check_room(core, file, position + bytes.len() as u64)?;
        let len = self.shorten(world, bytes.len(), SECTOR_BYTES);
        if durable && len == bytes.len() && self.goes_astray(world, core, file, position, bytes) {
            return Ok(len);
        }
        let number = self.number();
        let durable = durable && len == bytes.len() && !self.lying;
        let dir = self.dir(core);
        if let Some(node) = dir.nodes.get_mut(&file) {
            if durable {
                node.write_durable(position, bytes, &mut dir.watch);
            } else {
                node.write(number, position, &bytes[..len], false);
            }
        }
        Ok(len)
    }

    /// What an operation that fails leaves behind.
    fn fail(&mut self, core: u32, request: &Request) {
        let revert = self.weather.failed_sync == FailedSync::Reverts;
        match request {
            Request::Write { file, position, buf, len, .. } => {
                let sectors = len / SECTOR_BYTES;
                let landed = match self.rng.u8(..3) {
                    0 => 0,
                    1 => *len,
                    _ => self.rng.usize(..=sectors) * SECTOR_BYTES,
                };
                let room = self.check_room(core, file.id, position + landed as u64).is_ok();
                if landed > 0 && room {
                    let number = self.number();
                    let node = self.dir(core).node(file.id);
                    node.write(number, *position, &buf[..landed], true);
                    if revert {
                        node.forget_doomed();
                    }
                }
            }
            Request::Sync { file, covered } => {
                let mut rng = self.rng.fork();
                let dir = self.dir(core);
                if let Some(node) = dir.nodes.get_mut(&file.id) {
                    node.doom(*covered, revert, &mut rng, &mut dir.watch);
                }
            }
            Request::SyncDir { covered } => {
                let mut rng = self.rng.fork();
                let dir = self.dir(core);
                if dir.names.doom(*covered, &mut Fates::new(&mut rng)) {
                    dir.watch.names();
                }
            }
            _ => {}
        }
    }

    /// Operations in flight take effect, or not, or in part.
    pub(super) fn land_flights(&mut self) {
        let mut flights: Vec<Flight> = std::mem::take(&mut self.flights).into_values().collect();
        self.rng.shuffle(&mut flights);
        let lying = self.lying;
        for Flight { core, request, .. } in flights {
            match request {
                Request::Write { file, position, buf, len, durable } => {
                    let landed = match self.rng.u8(..4) {
                        0 => 0,
                        1 => self.rng.usize(..=len / SECTOR_BYTES) * SECTOR_BYTES,
                        _ => len,
                    };
                    let room = self.check_room(core, file.id, position + landed as u64).is_ok();
                    if landed == 0 || !room {
                        continue;
                    }
                    let durable = durable && !lying && landed == len && self.rng.bool();
                    let number = self.number();
                    let dir = self.dir(core);
                    let Some(node) = dir.nodes.get_mut(&file.id) else { continue };
                    if durable {
                        node.write_durable(position, &buf[..len], &mut dir.watch);
                    } else {
                        node.write(number, position, &buf[..landed], false);
                    }
                }
                _ if self.rng.bool() => {}
                Request::Open { name, create: true } => {
                    let number = self.number();
                    let dir = self.dir(core);
                    if !dir.names.cached.contains_key(&name) {
                        let id = dir.new_file();
                        dir.names.create(number, name, id);
                    }
                }
                Request::Remove { name } => {
                    let number = self.number();
                    self.dir(core).names.remove(number, name);
                }
                Request::Rename { from, to } => {
                    let number = self.number();
                    self.dir(core).names.rename(number, from, to);
                }
                Request::Allocate { file, size }
                    if self.check_room(core, file.id, size).is_ok() =>
                {
                    let number = self.number();
                    self.dir(core).node(file.id).grow(number, size, false);
                }
                Request::Sync { file, covered } if !lying => self.settle(core, file.id, covered),
                Request::SyncDir { covered } if !lying => {
                    let dir = self.dir(core);
                    if dir.names.settle(covered) {
                        dir.watch.names();
                    }
                }
                _ => {}
            }
        }
    }
}
