//! Damage of what was durable, done only when a plan asks for it.

use coracle_wal::limits::BLOCK_BYTES;

use super::device::{Device, Directory};
use super::image::{Page, pages};
use super::ops::SimDisk;
use crate::sim::world::World;

/// How something was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A bit flipped.
    Rot,
    /// Reads fail until it is written again.
    Unreadable,
    /// Older content came back.
    Stale,
    /// A write that should have gone elsewhere landed here.
    Overwritten,
    /// A write that should have gone here did not.
    NotWritten,
}

impl DamageKind {
    fn counted(self) -> &'static str {
        match self {
            Self::Rot => "disk/rot",
            Self::Unreadable => "disk/unreadable",
            Self::Stale => "disk/stale",
            Self::Overwritten => "disk/overwritten",
            Self::NotWritten => "disk/not written",
        }
    }
}

/// Something that was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// How.
    pub kind: DamageKind,
    /// The core whose directory it is in.
    pub core: u32,
    /// Number of the file.
    pub file: u32,
    /// What the file is called then.
    pub name: String,
    /// Where, in bytes.
    pub position: u64,
    /// Bytes.
    pub len: u64,
}

impl Device {
    fn note(&mut self, world: &World, core: u32, kind: DamageKind, file: u32, place: (u64, u64)) {
        let name = self.dir(core).name_of(file);
        let (position, len) = place;
        world.count(kind.counted());
        world.story(|| {
            format!("disk damage, core {core}: {kind:?} {name} at {position}, {len} bytes")
        });
        world.trace(0x200 | kind as u64, u64::from(file) << 48 ^ position);
        self.damages.push(Damage { kind, core, file, name, position, len });
    }

    /// Whether a write that is about to be done is lost or lands somewhere else.
    pub(super) fn goes_astray(
        &mut self,
        world: &World,
        core: u32,
        file: u32,
        position: u64,
        bytes: &[u8],
    ) -> bool {
        let dir = self.dir(core);
        let here = (position, bytes.len() as u64);
        let old_end = dir.node(file).cached.size;
        if (dir.lose == 0 && dir.misdirect == 0) || old_end < position + bytes.len() as u64 {
            return false;
        }
        if dir.lose > 0 {
            dir.lose -= 1;
            self.note(world, core, DamageKind::NotWritten, file, here);
            return true;
        }
        let Some((victim, landed)) = self.landing(core, file, here) else { return false };
        let dir = self.dir(core);
        dir.misdirect -= 1;
        let Directory { nodes, watch, .. } = dir;
        if let Some(node) = nodes.get_mut(&victim) {
            for (at, page, _) in pages(landed, bytes) {
                node.unreadable.remove(&at);
                node.damage(at, page, watch);
            }
        }
        self.note(world, core, DamageKind::NotWritten, file, here);
        self.note(world, core, DamageKind::Overwritten, victim, (landed, here.1));
        true
    }

    /// A place for a misdirected write, inside a file and apart from the right place: anywhere, or exactly
    /// over an earlier write of the same length. The latter leaves no trace but what the content says.
    fn landing(&mut self, core: u32, file: u32, (position, len): (u64, u64)) -> Option<(u32, u64)> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        const ATTEMPTS: u32 = 8;
        if self.rng.bool() {
            let same = self.dir(core).node(file).writes_of(len);
            let others: Vec<u64> = same.filter(|start| *start != position).collect();
            if let Some(landed) = others.get(self.rng.usize(..others.len().max(1))) {
                return Some((file, *landed));
            }
        }
        let nodes = &self.dir(core).nodes;
        let fits: Vec<(u32, u64)> = nodes
            .values()
            .map(|node| (node.id, node.durable.size))
            .filter(|(_, size)| *size >= len)
            .collect();
        for _ in 0..ATTEMPTS {
            let (victim, size) = *fits.get(self.rng.usize(..fits.len().max(1)))?;
            let landed = self.rng.u64(..=(size - len) / BLOCK) * BLOCK;
            if victim != file || landed >= position + len || landed + len <= position {
                return Some((victim, landed));
            }
        }
        None
    }
}

impl SimDisk {
    /// Numbers of the blocks of a file with durable content that is not zeros.
    #[must_use]
    pub fn written_blocks(&self, file: u32) -> Vec<u32> {
        let device = self.device.0.device.borrow();
        let node = device.dirs.get(&self.core).and_then(|dir| dir.nodes.get(&file));
        node.map(|node| node.durable.written().collect()).unwrap_or_default()
    }

    /// Flips one bit of a durable block. Returns false if the file is not there or not so long.
    pub fn rot(&self, file: u32, block: u32, bit: u32) -> bool {
        self.hit(file, block, DamageKind::Rot, |dir| {
            let node = dir.nodes.get_mut(&file)?;
            let mut bytes = node.durable.page(block).bytes().to_vec();
            let bit = bit as usize % (BLOCK_BYTES * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            node.damage(block, Page::new(&bytes), &mut dir.watch);
            Some(())
        })
    }

    /// Reads of this block fail until it is written again. Returns false if the file is not there or not
    /// so long.
    pub fn make_unreadable(&self, file: u32, block: u32) -> bool {
        self.hit(file, block, DamageKind::Unreadable, |dir| {
            dir.nodes.get_mut(&file)?.unreadable.insert(block);
            Some(())
        })
    }

    /// The block has the durable content again that it had before the last time it was written. Returns
    /// false if there is none.
    pub fn make_stale(&self, file: u32, block: u32) -> bool {
        self.hit(file, block, DamageKind::Stale, |dir| {
            let node = dir.nodes.get_mut(&file)?;
            let old = node.before(block)?;
            node.damage(block, old, &mut dir.watch);
            Some(())
        })
    }

    /// The next durable write inside of a file's present size lands at another aligned place of this directory,
    /// durably, and reports success. Often that place is where an earlier write of the same length is.
    pub fn misdirect_next_write(&self) {
        self.device.0.device.borrow_mut().dir(self.core).misdirect += 1;
    }

    /// The next durable write inside of a file's present size is not done and reports success.
    pub fn lose_next_write(&self) {
        self.device.0.device.borrow_mut().dir(self.core).lose += 1;
    }

    /// Takes back what [`SimDisk::misdirect_next_write`] and [`SimDisk::lose_next_write`] armed and no
    /// write has met.
    pub fn disarm(&self) {
        let mut device = self.device.0.device.borrow_mut();
        let dir = device.dir(self.core);
        (dir.misdirect, dir.lose) = (0, 0);
    }

    fn hit(
        &self,
        file: u32,
        block: u32,
        kind: DamageKind,
        damage: impl FnOnce(&mut Directory) -> Option<()>,
    ) -> bool {
        let mut device = self.device.0.device.borrow_mut();
        let position = u64::from(block) * BLOCK_BYTES as u64;
        let dir = device.dir(self.core);
        let inside = dir.nodes.get(&file).is_some_and(|node| position < node.durable.size);
        if !inside || damage(dir).is_none() {
            return false;
        }
        let place = (position, BLOCK_BYTES as u64);
        device.note(&self.device.0.world, self.core, kind, file, place);
        true
    }
}
