//! Tells what becomes of keys, to whoever wants to know, at the pace of whoever listens.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{KeyEvent, KeyRingBuilder};

pub(super) type Observer = Box<dyn Fn(KeyEvent) + Send + Sync>;

/// What happened and was not told yet, in that order, for a thread of its own: whoever listens may wait for a disk.
#[derive(Default)]
pub(super) struct Untold {
    state: Mutex<Events>,
    changed: Condvar,
}

#[derive(Default)]
struct Events {
    waiting: VecDeque<KeyEvent>,
    // No more will come.
    is_over: bool,
    // One has been taken, and whoever listens has not returned.
    is_telling: bool,
}

impl Untold {
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called under the lock of what has changed, so that events are in order.
    pub(super) fn push(&self, news: &mut Vec<KeyEvent>) {
        if news.is_empty() {
            return;
        }
        let mut events = self.lock();
        events.waiting.extend(news.drain(..));
        let lost = events.waiting.len().saturating_sub(KeyRingBuilder::MOST_UNTOLD);
        events.waiting.drain(..lost);
        self.changed.notify_all();
    }

    /// Waits until all is told, but not for ever, nor on the thread that tells.
    pub(super) fn wait(&self) {
        if thread::current().name() != Some(TELLER) {
            let is_busy = |events: &mut Events| events.is_telling || !events.waiting.is_empty();
            let _ = self.changed.wait_timeout_while(self.lock(), LONGEST_TELLING, is_busy);
        }
    }

    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
        self.wait();
    }

    fn next(&self) -> Option<KeyEvent> {
        let mut events = self.lock();
        events.is_telling = false;
        self.changed.notify_all();
        let is_idle = |events: &mut Events| events.waiting.is_empty() && !events.is_over;
        events = self.changed.wait_while(events, is_idle).unwrap_or_else(PoisonError::into_inner);
        events.is_telling = !events.waiting.is_empty();
        events.waiting.pop_front()
    }

    pub(super) fn tell(&self, observers: &[Observer]) {
        while let Some(event) = self.next() {
            // An observer that panics, or a subscriber, takes nothing with it.
            for observer in observers {
                let _ = catch_unwind(AssertUnwindSafe(|| observer(event)));
            }
            #[cfg(feature = "tracing")]
            let _ = catch_unwind(|| super::event::trace(event));
        }
    }
}

pub(super) const TELLER: &str = "ipveil-events";

/// How long a ring that starts, or ends, waits until all is told.
const LONGEST_TELLING: Duration = Duration::from_secs(5);
