//! The directory of a log in few bytes, so that a mutation of the bytes is one of the log.
//!
//! ```text
//! image = file ...
//! file  = name u8 | blocks of the file u8 | stored blocks u8 | stored block ...
//! block = length u16 LE | that many bytes; zeros up to 4096
//! ```
//! What is cut short is read as far as it goes: every input is an image.

use std::collections::BTreeMap;
use std::ops::Range;

use super::wal_oracle::{BLOCK, mend_segment};

/// Files of an image; more are ignored.
const FILES_MAX: usize = 8;
/// Blocks of a file.
const BLOCKS_MAX: u8 = 0x3f;
/// Bit of the size: the file ends within a block.
const CUT: u8 = 0x40;
/// How much is missing then.
const CUT_BYTES: usize = 100;

/// Numbers of the last names: those that arithmetic does not like.
const LARGE_NUMBERS: [u64; 4] = [1 << 32, 1 << 62, u64::MAX - 1, u64::MAX];
const LARGE_FROM: u8 = 0x40 - LARGE_NUMBERS.len() as u8;

/// A file of an image.
struct File {
    name: u8,
    bytes: usize,
    /// Where the stored blocks are in the image.
    blocks: Vec<Range<usize>>,
}

impl File {
    fn name(&self) -> String {
        let low = self.name & 0x3f;
        let number = match low.checked_sub(LARGE_FROM) {
            Some(place) => LARGE_NUMBERS[usize::from(place)],
            None => u64::from(low),
        };
        let kind = ["seg", "seg", "spare", "fill"][usize::from(self.name >> 6)];
        format!("{kind}-{number:016x}")
    }

    fn contents(&self, image: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        for (place, block) in bytes.chunks_mut(BLOCK).zip(&self.blocks) {
            let len = block.len().min(place.len());
            place[..len].copy_from_slice(&image[block.start..block.start + len]);
        }
        bytes
    }
}

fn files(image: &[u8]) -> Vec<File> {
    let (mut files, mut at) = (Vec::new(), 0);
    while let Some((&[name, size, stored], _)) = image[at..].split_first_chunk()
        && files.len() < FILES_MAX
    {
        at += 3;
        let mut blocks = Vec::new();
        for _ in 0..stored.min(BLOCKS_MAX) {
            let Some((length, _)) = image[at..].split_first_chunk() else { break };
            let length = usize::from(u16::from_le_bytes(*length)).min(BLOCK);
            let start = at + 2;
            at = image.len().min(start + length);
            blocks.push(start..at);
        }
        let cut = if size & CUT == 0 { 0 } else { CUT_BYTES };
        let bytes = (usize::from(size & BLOCKS_MAX) * BLOCK).saturating_sub(cut);
        files.push(File { name, bytes, blocks });
    }
    files
}

/// The files of an image by name. A later one replaces one of the same name.
pub(super) fn unpack(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    files(image).into_iter().map(|file| (file.name(), file.contents(image))).collect()
}

/// The image of files whose numbers are small and whose names are those of the log.
///
/// # Panics
/// If a file is not.
pub(super) fn pack(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut image = Vec::new();
    for (name, contents) in files {
        let (kind, number) = name.split_once('-').expect("a name of the log");
        let kind = ["", "seg", "spare", "fill"].iter().position(|known| *known == kind);
        let number = u8::from_str_radix(number, 16).expect("a small number");
        assert!(number < LARGE_FROM && contents.len() <= usize::from(BLOCKS_MAX) * BLOCK);
        image.push((kind.expect("a name of the log") as u8) << 6 | number);
        image.push(contents.len().div_ceil(BLOCK) as u8);
        let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let stored: Vec<&[u8]> = contents[..used(contents)].chunks(BLOCK).collect();
        image.push(stored.len() as u8);
        for block in stored {
            let block = &block[..used(block)];
            image.extend((block.len() as u16).to_le_bytes());
            image.extend_from_slice(block);
        }
    }
    image
}

/// Makes the checksums of all segments in an image right, where they are stored.
pub(super) fn mend(image: &mut [u8]) {
    let relink = crc32fast::hash(image).is_multiple_of(3);
    for file in files(image) {
        let mut contents = file.contents(image);
        mend_segment(&mut contents, relink);
        for (place, block) in contents.chunks(BLOCK).zip(&file.blocks) {
            let len = block.len().min(place.len());
            image[block.start..block.start + len].copy_from_slice(&place[..len]);
        }
    }
}
