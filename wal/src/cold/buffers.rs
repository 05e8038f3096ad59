//! Read buffers that are used again when nobody looks at them any more.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::AlignedBuf;
use crate::limits::READ_BYTES_MAX;

/// Buffers of [`READ_BYTES_MAX`] for readers of a log, which may share them ([`LogReader::buffers`]). A fresh
/// one costs a page fault for each of its pages, which is more than to read it from a fast disk.
///
/// [`LogReader::buffers`]: super::LogReader::buffers
#[derive(Clone)]
pub struct ReadBuffers(Rc<RefCell<Kept>>);

struct Kept {
    /// Also those that are in use.
    buffers: Vec<Arc<AlignedBuf>>,
    max: usize,
}

/// What the slices of a buffer share.
struct Shared(Arc<AlignedBuf>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl ReadBuffers {
    /// Keeps `max` buffers at most for their next use; more can be in use.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Rc::new(RefCell::new(Kept { buffers: Vec::new(), max })))
    }

    /// A buffer of at least `len` bytes; its content is arbitrary.
    pub(super) fn take(&self, len: usize) -> AlignedBuf {
        let kept = &mut self.0.borrow_mut().buffers;
        let free = |buf: &Arc<AlignedBuf>| Arc::strong_count(buf) == 1 && buf.len() >= len;
        // Small ones are as quick to make.
        let wanted = len > READ_BYTES_MAX / 4;
        let found = wanted.then(|| kept.iter().position(free)).flatten();
        let reused = found.and_then(|at| Arc::into_inner(kept.swap_remove(at)));
        let len = if wanted { len.max(READ_BYTES_MAX) } else { len };
        reused.unwrap_or_else(|| AlignedBuf::zeroed(len))
    }

    /// Gives out the content of a buffer, which is kept for when that is not needed any more.
    pub(super) fn share(&self, buf: AlignedBuf) -> Bytes {
        let buf = Arc::new(buf);
        let kept = &mut *self.0.borrow_mut();
        if buf.len() == READ_BYTES_MAX && kept.max > 0 {
            if kept.buffers.len() >= kept.max {
                kept.buffers.remove(0);
            }
            kept.buffers.push(buf.clone());
        }
        Bytes::from_owner(Shared(buf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_only_when_nobody_looks_at_it() {
        let buffers = ReadBuffers::new(3);
        let first = buffers.take(READ_BYTES_MAX);
        let address = first.as_ptr();
        let slice = buffers.share(first).slice(7..9);
        assert_ne!(buffers.take(READ_BYTES_MAX).as_ptr(), address);
        drop(slice);
        assert_eq!(buffers.clone().take(READ_BYTES_MAX / 2).as_ptr(), address);
        for _ in 0..10 {
            buffers.share(AlignedBuf::zeroed(READ_BYTES_MAX));
        }
        assert_eq!(buffers.0.borrow().buffers.len(), 3);
    }
}
