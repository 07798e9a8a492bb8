//! What time it is, twice: by the wall, and by a clock that nobody can set.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// One look at both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since 1970-01-01 00:00 UTC. Decides in which epoch we are; may jump either way.
    pub wall: Duration,
    /// Since some moment in the past; never goes back. Bounds a key's life when the wall clock is set back.
    pub monotonic: Duration,
}

/// Where a [`KeyRing`](super::KeyRing) reads the time.
///
/// Called on every request, so it must be quick and must not block. A monotonic time that goes back lengthens the
/// life of a key.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks, now.
    fn now(&self) -> Now;

    /// Told once, by a ring that starts: how to wake its thread. A clock that can jump may call it after a jump, so
    /// that the ring notices sooner than at its next look, which is at most a second away.
    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        drop(wake);
    }
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// Counts monotonic time from now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Now {
        Now {
            // Before 1970 is a clock that was never set: epoch 0, until it is.
            wall: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
            monotonic: self.origin.elapsed(),
        }
    }
}

/// A clock that moves when it is told to: for tests, of this crate and of yours.
///
/// Clones are the same clock.
#[derive(Clone, Default)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Default)]
struct ManualState {
    wall: Duration,
    monotonic: Duration,
    wakers: Vec<Arc<dyn Fn() + Send + Sync>>,
}

impl ManualClock {
    /// Stands at `wall`, counted from 1970-01-01 00:00 UTC.
    #[must_use]
    pub fn at(wall: Duration) -> Self {
        let clock = Self::default();
        clock.set_wall(wall);
        clock
    }

    /// Time passes: both clocks go on.
    pub fn advance(&self, by: Duration) {
        self.change(|state| {
            state.wall += by;
            state.monotonic += by;
        });
    }

    /// Somebody sets the wall clock, forward or back; the monotonic one does not notice.
    pub fn set_wall(&self, wall: Duration) {
        self.change(|state| state.wall = wall);
    }

    /// The machine sleeps: the wall clock goes on, the monotonic one stands still.
    pub fn suspend(&self, time: Duration) {
        self.change(|state| state.wall += time);
    }

    fn change(&self, change: impl FnOnce(&mut ManualState)) {
        let wakers = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.wakers.clone()
        };
        // After the lock: whoever is woken looks at this clock.
        wakers.iter().for_each(|wake| wake());
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Now { wall: state.wall, monotonic: state.monotonic }
    }

    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).wakers.push(wake);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}
