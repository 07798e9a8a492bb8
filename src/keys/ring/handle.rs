//! A ring, as its source sees it.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{
    super::{Epoch, EpochKey, Epochs, KeyEvent, KeyId, Notice, Now, Reason},
    state::{LiveKey, Shared},
};
use crate::lend::reader;

/// A ring, for its source: what the source knows before it is asked. It does not keep the ring alive.
#[derive(Clone)]
pub struct RingHandle {
    pub(super) shared: Weak<Shared>,
}

impl RingHandle {
    /// What the ring's clocks say; nothing if the ring is gone.
    #[must_use]
    pub fn now(&self) -> Option<Now> {
        self.shared.upgrade().map(|ring| ring.clock.now())
    }

    /// The epoch in which the ring is by the wall clock; nothing if the ring is gone.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.shared.upgrade().map(|ring| ring.epochs.at(ring.clock.now().wall))
    }

    /// The length of the ring's epochs; nothing if the ring is gone.
    #[must_use]
    pub fn epochs(&self) -> Option<Epochs> {
        self.shared.upgrade().map(|ring| ring.epochs)
    }

    /// Lends the key that the source gave for `epoch`, if the ring still has it and its epoch is not over.
    ///
    /// A key can't be destroyed while it is lent: `read` must not wait for anything.
    pub fn lend<R>(&self, epoch: Epoch, read: impl FnOnce(&EpochKey) -> R) -> Option<R> {
        let ring = self.shared.upgrade()?;
        let lent = ring.lent.with(reader(), |keys| {
            let now = ring.clock.now();
            let key = [keys.current.as_deref(), keys.next.as_deref()]
                .into_iter()
                .flatten()
                .find(|key| key.epoch == epoch && !key.is_local() && !key.is_over(now))?;
            Some(read(&key.key))
        });
        lent.flatten()
    }

    /// Puts `key` in the place of `old`, if the ring has that one for `epoch`, and destroys `old`, between two requests. If it
    /// has not, somebody may have rotated meanwhile, and `key` is dropped: the ring asks for what it needs.
    pub fn replace(&self, epoch: Epoch, old: KeyId, key: EpochKey) {
        let Some(ring) = self.shared.upgrade() else { return };
        ring.change(|state| {
            let now = ring.clock.now();
            let fits = |slot: &Option<Arc<LiveKey>>| {
                slot.as_ref().is_some_and(|held| held.epoch == epoch && held.id == old && !held.is_over(now))
            };
            let is_current = fits(&state.current);
            if !is_current && !fits(&state.next) {
                return;
            }
            // Whatever the ring is waiting for, it is this.
            if state.pending.is_some_and(|request| request.epoch == epoch) {
                state.close_pending();
            }
            let key = ring.live(state, key, epoch, now);
            let slot = if is_current { &mut state.current } else { &mut state.next };
            let old = slot.replace(key);
            state.retire(old, Reason::Superseded);
            ring.lend_out(state);
        });
    }

    /// Destroys the key of `epoch`, if the ring has it, and any of a later epoch; the ring asks for others.
    pub fn destroy(&self, epoch: Epoch, reason: Reason) {
        let Some(ring) = self.shared.upgrade() else { return };
        ring.change(|state| {
            if state.current.as_ref().is_some_and(|key| key.epoch >= epoch) {
                ring.destroy_all(state, reason);
            } else if state.next.as_ref().is_some_and(|key| key.epoch >= epoch) {
                let next = state.next.take();
                state.retire(next, reason);
                ring.lend_out(state);
            }
        });
    }

    /// Has the ring ask at once for a key that it could not get before, instead of after some time.
    pub fn ask_again(&self) {
        let Some(ring) = self.shared.upgrade() else { return };
        ring.change(|state| {
            if let Some((at, _)) = &mut state.retry {
                *at = ring.clock.now().monotonic;
            }
        });
    }

    /// Tells whoever listens to the ring's events.
    pub fn notice(&self, notice: Notice) {
        if let Some(ring) = self.shared.upgrade() {
            ring.change(|state| state.news.push(KeyEvent::Noticed { notice }));
        }
    }
}

impl fmt::Debug for RingHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingHandle").finish_non_exhaustive()
    }
}
