//! An owned buffer aligned to [`BLOCK_BYTES`](crate::limits::BLOCK_BYTES), as O_DIRECT demands.
//!
//! # Spares
//! A fresh large buffer costs a page fault for each of its pages, which is more than to read it from a fast disk. So
//! each thread keeps those that it drops, as spares for the next ones: [`SPARE_BUFFERS_BYTES_MAX`] at most. What is not
//! used goes back to the system, one buffer with each [`AlignedBuf::give_back`].

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::limits::{
    BLOCK_BYTES, LARGE_BUFFER_BYTES, LARGE_BUFFER_STEP_BYTES, SPARE_BUFFERS_BYTES_MAX,
};

/// Bytes on the heap whose address and length are multiples of [`BLOCK_BYTES`].
///
/// It derefs to its whole length; its address is stable while it is moved, so that a disk may hand
/// it to the kernel.
pub struct AlignedBuf {
    /// Always there until it is dropped.
    memory: ManuallyDrop<Memory>,
    len: usize,
}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes, rounded up to whole blocks; at least one block.
    pub fn zeroed(len: usize) -> Self {
        let (mut buf, is_used) = Self::take(len);
        if is_used {
            buf.fill(0);
        }
        buf
    }

    /// Like [`AlignedBuf::zeroed`], but with anything in it: for what is read into it.
    pub fn arbitrary(len: usize) -> Self {
        Self::take(len).0
    }

    /// Gives one buffer of this thread's spares back to the system, unless all of them were used since the last time.
    pub fn give_back() {
        let unused = SPARES.try_with(|spares| spares.borrow_mut().give_back());
        drop(unused);
    }

    /// A buffer, and whether it was another one before.
    fn take(len: usize) -> (Self, bool) {
        let len = len.max(1).next_multiple_of(BLOCK_BYTES);
        let bytes = if len < LARGE_BUFFER_BYTES {
            len
        } else {
            len.next_multiple_of(LARGE_BUFFER_STEP_BYTES)
        };
        let spare = SPARES.try_with(|spares| spares.borrow_mut().take(bytes)).ok().flatten();
        let is_used = spare.is_some();
        let memory = spare.unwrap_or_else(|| Memory::zeroed(bytes));
        (Self { memory: ManuallyDrop::new(memory), len }, is_used)
    }
}

/// What a buffer owns; all of it is initialised.
struct Memory {
    ptr: NonNull<u8>,
    /// A multiple of [`BLOCK_BYTES`], and not zero.
    bytes: usize,
}

impl Memory {
    fn zeroed(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: `layout` has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { ptr, bytes }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, BLOCK_BYTES).expect("a buffer length fits a layout")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout in `zeroed`.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.bytes)) }
    }
}

// SAFETY: it owns its bytes exclusively, like a `Box<[u8]>`.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

/// Memory of large buffers that a thread has dropped, the last one at the end.
struct Spares {
    kept: Vec<Memory>,
    bytes: usize,
    /// Fewest that were there at any time since the last look: so many were of no use.
    unused: usize,
}

thread_local! {
    static SPARES: RefCell<Spares> =
        const { RefCell::new(Spares { kept: Vec::new(), bytes: 0, unused: 0 }) };
}

impl Spares {
    fn take(&mut self, bytes: usize) -> Option<Memory> {
        let found = self.kept.iter().rposition(|memory| memory.bytes == bytes)?;
        self.bytes -= bytes;
        self.unused = self.unused.min(self.kept.len() - 1);
        Some(self.kept.remove(found))
    }

    /// Keeps `memory`, and gives back what it takes the place of, oldest first.
    fn put(&mut self, memory: Memory) {
        self.bytes += memory.bytes;
        self.kept.push(memory);
        while self.bytes > SPARE_BUFFERS_BYTES_MAX {
            self.bytes -= self.kept.remove(0).bytes;
        }
        self.unused = self.unused.min(self.kept.len());
    }

    fn give_back(&mut self) -> Option<Memory> {
        let unused = std::mem::replace(&mut self.unused, self.kept.len());
        let oldest = (unused > 0).then(|| self.kept.remove(0))?;
        self.bytes -= oldest.bytes;
        self.unused = self.kept.len();
        Some(oldest)
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is initialised, and `len` bytes long or longer.
        unsafe { std::slice::from_raw_parts(self.memory.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is initialised, `len` bytes long or longer, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: nothing looks at it afterwards.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        if memory.bytes >= LARGE_BUFFER_BYTES {
            // While a thread ends it has no spares any more: then the memory goes with the closure.
            let _ = SPARES.try_with(|spares| spares.borrow_mut().put(memory));
        }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn spares() -> (usize, usize) {
        SPARES.with(|spares| (spares.borrow().kept.len(), spares.borrow().bytes))
    }

    #[test]
    fn is_aligned_zeroed_and_whole_blocks() {
        for len in [0, 1, 4095, 4096, 4097, MIB, MIB, MIB + 1, 2 * MIB] {
            let mut buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr().addr() % BLOCK_BYTES, 0);
            assert_eq!(buf.len(), len.max(1).next_multiple_of(BLOCK_BYTES));
            assert!(buf.iter().all(|b| *b == 0));
            buf.fill(7);
        }
    }

    #[test]
    fn large_ones_are_used_again_and_small_ones_are_not() {
        let address = |buf: &AlignedBuf| buf.as_ptr().addr();
        let (large, other) = (AlignedBuf::zeroed(MIB), AlignedBuf::zeroed(MIB - BLOCK_BYTES));
        let known = address(&large);
        drop(large);
        drop(AlignedBuf::zeroed(LARGE_BUFFER_BYTES - BLOCK_BYTES));
        assert_eq!(spares(), (1, MIB));
        let again = AlignedBuf::arbitrary(MIB - 1);
        assert_eq!((address(&again), again.len()), (known, MIB));
        drop(again);
        drop(other);
        assert_eq!(spares(), (2, 2 * MIB), "of the same size, rounded up");
        let larger = AlignedBuf::arbitrary(2 * MIB);
        assert_eq!(spares(), (2, 2 * MIB), "none of them is large enough");
        drop(larger);
    }

    #[test]
    fn there_is_a_bound_and_what_is_not_used_goes() {
        let most = SPARE_BUFFERS_BYTES_MAX / MIB;
        let many: Vec<_> = (0..most + 3).map(|_| AlignedBuf::zeroed(MIB)).collect();
        drop(many);
        assert_eq!(spares(), (most, SPARE_BUFFERS_BYTES_MAX));
        AlignedBuf::give_back();
        assert_eq!(spares().0, most, "they have just come");
        let used: Vec<_> = (0..most - 2).map(|_| AlignedBuf::arbitrary(MIB)).collect();
        drop(used);
        for left in [most - 1, most - 2, most - 3] {
            AlignedBuf::give_back();
            assert_eq!(spares(), (left, left * MIB));
        }
        (0..most).for_each(|_| AlignedBuf::give_back());
        assert_eq!(spares(), (0, 0));
        AlignedBuf::give_back();
    }
}
