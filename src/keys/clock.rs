//! What time it is, twice: by the wall, and by a clock that nobody can set.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// One look at both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Decides in which epoch we are; may jump either way.
    pub wall: SystemTime,
    /// Never goes back. Bounds a key's life when the wall clock is set back.
    pub monotonic: Instant,
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
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Now {
        Now { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

/// A clock that moves when it is told to: for tests, of this crate and of yours.
///
/// Clones are the same clock.
#[derive(Clone)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

struct ManualState {
    now: Now,
    wakers: Vec<Arc<dyn Fn() + Send + Sync>>,
}

impl ManualClock {
    /// Stands at `wall`, counted from 1970-01-01 00:00 UTC.
    ///
    /// # Panics
    ///
    /// If the system's clock can't tell such a time.
    #[must_use]
    pub fn at(wall: Duration) -> Self {
        let now = Now { wall: SystemTime::UNIX_EPOCH + wall, monotonic: Instant::now() };
        Self { state: Arc::new(Mutex::new(ManualState { now, wakers: Vec::new() })) }
    }

    /// Time passes: both clocks go on.
    ///
    /// # Panics
    ///
    /// As [`at`](Self::at).
    pub fn advance(&self, by: Duration) {
        self.change(|now| {
            now.wall += by;
            now.monotonic += by;
        });
    }

    /// Somebody sets the wall clock, forward or back, counted from 1970-01-01 00:00 UTC; the monotonic one does not
    /// notice.
    ///
    /// # Panics
    ///
    /// As [`at`](Self::at).
    pub fn set_wall(&self, wall: Duration) {
        self.change(|now| now.wall = SystemTime::UNIX_EPOCH + wall);
    }

    /// The machine sleeps: the wall clock goes on, the monotonic one stands still.
    ///
    /// # Panics
    ///
    /// As [`at`](Self::at).
    pub fn suspend(&self, time: Duration) {
        self.change(|now| now.wall += time);
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        let wakers = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state.now);
            state.wakers.clone()
        };
        // After the lock: whoever is woken looks at this clock.
        wakers.iter().for_each(|wake| wake());
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).now
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

/// Static dispatch for the clock that nearly everybody has.
pub(super) enum RingClock {
    System(SystemClock),
    Other(Arc<dyn Clock>),
}

impl RingClock {
    #[inline]
    pub(super) fn now(&self) -> Now {
        match self {
            Self::System(clock) => clock.now(),
            Self::Other(clock) => clock.now(),
        }
    }

    pub(super) fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        match self {
            Self::System(clock) => clock.on_jump(wake),
            Self::Other(clock) => clock.on_jump(wake),
        }
    }
}
