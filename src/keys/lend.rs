//! A value lent to many readers at once, that can be taken away from all of them.

use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync::RwLock;
#[cfg(not(loom))]
use std::sync::RwLock;

/// One value behind several locks, so that readers on different cores don't write to the same cache line.
///
/// A reader takes one lock; whoever takes the value away takes all of them, and that is the proof that no reader
/// has it any more.
pub(super) struct Lent<T> {
    // A power of two of them.
    shards: Box<[Shard<T>]>,
}

// Two cache lines: adjacent lines are fetched in pairs.
#[repr(align(128))]
struct Shard<T>(RwLock<Option<T>>);

impl<T: Clone> Lent<T> {
    /// Lends nothing yet, to about as many readers at a time without contention as `readers` says.
    pub(super) fn new(readers: usize) -> Self {
        let shards = readers.clamp(1, 64).next_power_of_two();
        Self { shards: (0..shards).map(|_| Shard(RwLock::new(None))).collect() }
    }

    /// Lends the value to `read`. `reader` spreads readers over the locks; any number will do.
    #[inline]
    pub(super) fn with<R>(&self, reader: usize, read: impl FnOnce(&T) -> R) -> Option<R> {
        let shard = &self.shards[reader & (self.shards.len() - 1)];
        let value = shard.0.read().unwrap_or_else(PoisonError::into_inner);
        value.as_ref().map(read)
    }

    /// Puts `value` in place of what was lent, once every reader has given that back.
    pub(super) fn replace(&self, value: Option<T>) {
        let mut locks: Vec<_> =
            self.shards.iter().map(|shard| shard.0.write().unwrap_or_else(PoisonError::into_inner)).collect();
        for lock in &mut locks {
            lock.clone_from(&value);
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;

    struct Key(Arc<AtomicBool>);

    impl Drop for Key {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn when_replace_returns_no_reader_holds_the_old_value() {
        loom::model(|| {
            let destroyed = Arc::new(AtomicBool::new(false));
            let lent = Arc::new(Lent::new(2));
            lent.replace(Some(Arc::new(Key(destroyed.clone()))));
            let readers: Vec<_> = (0..2)
                .map(|reader| {
                    let lent = lent.clone();
                    thread::spawn(move || {
                        lent.with(reader, |key: &Arc<Key>| {
                            thread::yield_now();
                            assert!(!key.0.load(Ordering::Relaxed), "lent a destroyed key");
                        });
                    })
                })
                .collect();
            lent.replace(None);
            assert!(destroyed.load(Ordering::Relaxed), "somebody still holds the old key");
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn two_that_replace_at_once_leave_one_value() {
        loom::model(|| {
            let lent = Arc::new(Lent::new(2));
            let threads = [1, 2].map(|value| {
                let lent = lent.clone();
                thread::spawn(move || lent.replace(Some(value)))
            });
            for thread in threads {
                thread.join().unwrap();
            }
            let (left, right) = (lent.with(0, |value| *value), lent.with(1, |value| *value));
            assert_eq!(left, right, "two readers were lent different keys");
        });
    }
}
