//! A value lent to many readers at once, that can be taken away from all of them.

use std::sync::PoisonError;

// Not from the standard library itself: a test puts other locks there, to go through all interleavings.
use super::{Mutex, RwLock};

/// One value behind several locks, so that readers on different cores don't write to the same cache line.
///
/// A reader takes one lock; whoever takes the value away takes each of them, and that is the proof that no reader
/// has it any more.
pub(crate) struct Lent<T> {
    // A power of two of them.
    shards: Box<[Shard<T>]>,
    // Of two that replace at once, one comes second everywhere.
    replacing: Mutex<()>,
}

// Two cache lines: adjacent lines are fetched in pairs.
#[repr(align(128))]
struct Shard<T>(RwLock<Option<T>>);

impl<T: Clone> Lent<T> {
    /// Lends nothing yet, to about as many readers at a time without contention as `readers` says.
    pub(crate) fn new(readers: usize) -> Self {
        let shards = readers.clamp(1, 64).next_power_of_two();
        Self { shards: (0..shards).map(|_| Shard(RwLock::new(None))).collect(), replacing: Mutex::new(()) }
    }

    /// Lends the value to `read`. `reader` spreads readers over the locks; any number will do.
    #[inline]
    pub(crate) fn with<R>(&self, reader: usize, read: impl FnOnce(&T) -> R) -> Option<R> {
        let shard = &self.shards[reader & (self.shards.len() - 1)];
        let value = shard.0.read().unwrap_or_else(PoisonError::into_inner);
        value.as_ref().map(read)
    }

    /// Puts `value` in place of what was lent, once every reader has given that back.
    ///
    /// One lock after the other: a reader that has lost its core keeps those of its own lock waiting, not all. Until this returns
    /// some are lent the old value and some the new one.
    pub(crate) fn replace(&self, value: Option<T>) {
        let _one = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in &self.shards {
            shard.0.write().unwrap_or_else(PoisonError::into_inner).clone_from(&value);
        }
    }
}
