//! Values that many threads read at once, and that can be taken away from all of them: keys, and databases of countries.

mod lent;

use std::{
    cell::Cell,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(crate) use self::lent::Lent;

/// A number that differs between threads, so that they take different locks, and count references in different places.
#[inline]
pub(crate) fn reader() -> usize {
    static READERS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static READER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    READER.with(|reader| {
        if reader.get() == usize::MAX {
            reader.set(READERS.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1));
        }
        reader.get()
    })
}
