//! Sparse bytes in pages that images share: copying an image copies no page.

use std::rc::Rc;

use coracle_wal::limits::BLOCK_BYTES;

/// Smallest unit in which a power cut keeps or loses bytes.
pub const SECTOR_BYTES: usize = 512;

const SECTORS_PER_PAGE: usize = BLOCK_BYTES / SECTOR_BYTES;
const _: () = assert!(SECTORS_PER_PAGE == 8, "a mask of sectors is one byte");

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A block of content; zeros take no room.
#[derive(Clone, Default)]
pub(super) struct Page(Option<Rc<[u8]>>);

/// Which sectors of a page are meant, one bit each.
pub(super) type Sectors = u8;

/// All sectors of a page.
pub(super) const WHOLE: Sectors = u8::MAX;

impl Page {
    /// A page that begins with `bytes`; the rest is zeros.
    pub(super) fn new(bytes: &[u8]) -> Self {
        if bytes == &ZEROS[..bytes.len()] {
            return Self(None);
        }
        if bytes.len() == BLOCK_BYTES {
            return Self(Some(bytes.into()));
        }
        let mut whole = ZEROS;
        whole[..bytes.len()].copy_from_slice(bytes);
        Self(Some(Rc::new(whole)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&ZEROS)
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_none()
    }

    /// This page with some sectors of another one.
    pub(super) fn with(&self, other: &Self, sectors: Sectors) -> Self {
        match sectors {
            WHOLE => other.clone(),
            0 => self.clone(),
            _ => {
                let mut bytes = [0; BLOCK_BYTES];
                bytes.copy_from_slice(self.bytes());
                for sector in (0..SECTORS_PER_PAGE).filter(|sector| sectors & (1 << sector) != 0) {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    bytes[range.clone()].copy_from_slice(&other.bytes()[range]);
                }
                Self::new(&bytes)
            }
        }
    }
}

/// The pages of a write of `bytes` at `position`, a multiple of the block: number, content, and which
/// sectors of it are written.
pub(super) fn pages(position: u64, bytes: &[u8]) -> impl Iterator<Item = (u32, Page, Sectors)> {
    let first = (position / BLOCK_BYTES as u64) as u32;
    (first..).zip(bytes.chunks(BLOCK_BYTES)).map(|(number, part)| {
        let sectors = part.len().div_ceil(SECTOR_BYTES);
        let mask = if sectors == SECTORS_PER_PAGE { WHOLE } else { (1 << sectors) - 1 };
        (number, Page::new(part), mask)
    })
}

/// The content of a file.
#[derive(Clone, Default)]
pub(super) struct Image {
    pages: Vec<Page>,
    pub(super) size: u64,
}

impl Image {
    pub(super) fn page(&self, number: u32) -> Page {
        self.pages.get(number as usize).cloned().unwrap_or_default()
    }

    pub(super) fn set(&mut self, number: u32, page: Page) {
        let place = number as usize;
        if place >= self.pages.len() {
            if page.is_zero() {
                return;
            }
            self.pages.resize_with(place + 1, Page::default);
        }
        self.pages[place] = page;
    }

    /// Fills the start of `buf` from `position` on; returns how much, less only at the end of the file.
    pub(super) fn read(&self, position: u64, buf: &mut [u8]) -> usize {
        let len = (buf.len() as u64).min(self.size.saturating_sub(position)) as usize;
        let mut at = 0;
        while at < len {
            let place = position + at as u64;
            let start = (place % BLOCK_BYTES as u64) as usize;
            let step = (BLOCK_BYTES - start).min(len - at);
            let out = &mut buf[at..at + step];
            match self.pages.get((place / BLOCK_BYTES as u64) as usize) {
                Some(Page(Some(page))) => out.copy_from_slice(&page[start..start + step]),
                _ => out.fill(0),
            }
            at += step;
        }
        len
    }

    /// Forgets what lies behind the end: it must not come back when the file grows again.
    pub(super) fn cut_at_size(&mut self) {
        let whole = self.size.div_ceil(BLOCK_BYTES as u64) as usize;
        self.pages.truncate(whole);
        let part = (self.size % BLOCK_BYTES as u64) as usize;
        if part > 0
            && let Some(last) = self.pages.get_mut(whole - 1)
        {
            *last = Page::new(&last.bytes()[..part]);
        }
    }

    /// Numbers of the pages that are not zeros.
    pub(super) fn written(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.pages).filter(|(_, page)| !page.is_zero()).map(|(number, _)| number)
    }
}
