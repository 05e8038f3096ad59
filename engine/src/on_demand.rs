//! [`OnDemand`]: a part of a replica that takes memory only while the replica has a use for it.
//!
//! A core has thousands of replicas, and most of them sleep. What a sleeping one does not need lies behind a pointer
//! that is null: reading it then gives the empty value, which all of its kind share; the first change puts a value of
//! its own there, and [`OnDemand::free`] takes it away again.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use crate::limits::QUEUE_KEPT;

/// A type with one value that says "nothing here".
pub(crate) trait Empty: Default + 'static {
    /// It, equal to the default.
    fn empty() -> &'static Self;
}

/// A value that is usually the empty one.
#[derive(Clone, Debug)]
pub(crate) struct OnDemand<T>(Option<Box<T>>);

impl<T> OnDemand<T> {
    /// The empty value, and no memory.
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Becomes the empty value, and gives the memory back.
    pub(crate) fn free(&mut self) {
        self.0 = None;
    }
}

impl<T> Default for OnDemand<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<T> for OnDemand<T> {
    fn from(value: T) -> Self {
        Self(Some(Box::new(value)))
    }
}

impl<T: Empty> Deref for OnDemand<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

impl<T: Empty> DerefMut for OnDemand<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

/// Gives back the memory of a queue that was long and is empty now, but for [`QUEUE_KEPT`] places.
pub(crate) fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        queue.shrink_to(QUEUE_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Part {
        number: u32,
    }

    impl Empty for Part {
        fn empty() -> &'static Self {
            &Self { number: 0 }
        }
    }

    #[test]
    fn it_takes_memory_from_the_first_change_until_it_is_freed() {
        let mut part = OnDemand::<Part>::new();
        assert_eq!(part.number, 0);
        assert!(part.0.is_none(), "looking at it takes none");
        part.number = 7;
        assert_eq!(part.number, 7);
        part.free();
        assert_eq!(part.number, 0);
        assert!(part.0.is_none());
    }
}
