//! The ring's key, lent and taken away: every interleaving of the threads.

use loom::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use self::lent::Lent;

// The very file that the ring uses, on top of the lock above.
#[path = "../src/lend/lent.rs"]
mod lent;

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
