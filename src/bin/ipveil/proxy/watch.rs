//! Who is late: the deadlines of all connections and exchanges of a thread, looked at together.
//!
//! A timer for each phase of each request costs more than anonymizing it does. Here, entering a phase is storing a
//! number, and a sweep some times a second wakes those whose number has passed.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use super::body::BodyError;

/// How exact a deadline is.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// A task that may be late with one of two things, or be told to end.
#[derive(Debug)]
pub(crate) struct Watch {
    deadlines: [AtomicU32; 2],
    drain: AtomicBool,
    close: AtomicBool,
    // Since which tick it waits for a request without a buffer.
    parked: AtomicU32,
    waker: Mutex<Option<Waker>>,
    body: AtomicU8,
}

/// Of the client's body, besides what went wrong with it.
const NO_BODY: u8 = 0;
const BODY: u8 = 1;
const ERRORS: [BodyError; 3] = [BodyError::Broken, BodyError::Late, BodyError::TooLong];

/// What a deadline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The phase that a connection or an exchange is in.
    Phase = 0,
    /// The other end takes what is sent, or sends what is waited for.
    Progress = 1,
}

const NEVER: u32 = u32::MAX;

thread_local! {
    static NOW: Cell<u32> = const { Cell::new(0) };
    static WATCHED: RefCell<Vec<Arc<Watch>>> = const { RefCell::new(Vec::new()) };
}

impl Watch {
    /// Watched until the last other reference to it is gone.
    pub(crate) fn new() -> Arc<Self> {
        let watch = Arc::new(Self {
            deadlines: [AtomicU32::new(NEVER), AtomicU32::new(NEVER)],
            drain: AtomicBool::new(false),
            close: AtomicBool::new(false),
            parked: AtomicU32::new(NEVER),
            waker: Mutex::new(None),
            body: AtomicU8::new(NO_BODY),
        });
        WATCHED.with_borrow_mut(|watched| watched.push(Arc::clone(&watch)));
        watch
    }

    /// Whom to wake. Once for a spawned task, whose waker stays the same.
    pub(crate) fn wake_me(&self, context: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    #[inline]
    pub(crate) fn within(&self, due: Due, time: Duration) {
        // One more, since the present tick began in the past.
        let ticks = u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(NEVER / 2) + 1;
        self.deadlines[due as usize].store(now().saturating_add(ticks), Relaxed);
    }

    /// As [`within`](Self::within), unless there is less time already.
    pub(crate) fn at_most(&self, due: Due, time: Duration) {
        let before = self.deadlines[due as usize].load(Relaxed);
        self.within(due, time);
        self.deadlines[due as usize].fetch_min(before, Relaxed);
    }

    #[inline]
    pub(crate) fn done(&self, due: Due) {
        self.deadlines[due as usize].store(NEVER, Relaxed);
    }

    /// Whether there is anything to be late with.
    #[inline]
    pub(crate) fn is_due(&self, due: Due) -> bool {
        self.deadlines[due as usize].load(Relaxed) != NEVER
    }

    /// Whether the time is up.
    #[inline]
    pub(crate) fn is_late(&self, due: Due) -> bool {
        self.deadlines[due as usize].load(Relaxed) <= now()
    }

    /// Whether no more requests are wanted on this connection.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.load(Relaxed)
    }

    /// Whether the connection is to end at once.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.close.load(Relaxed)
    }

    /// Whether it is a connection that has waited for a request for a while.
    pub(crate) fn park(&self, is_parked: bool) {
        self.parked.store(if is_parked { now() } else { NEVER }, Relaxed);
    }

    /// A request has begun, and with it the client's body, if it has one.
    pub(crate) fn begin_body(&self, is_there: bool) {
        self.body.store(if is_there { BODY } else { NO_BODY }, Relaxed);
    }

    /// Nobody reads from it any more.
    pub(crate) fn end_body(&self) {
        let _ = self.body.compare_exchange(BODY, NO_BODY, Relaxed, Relaxed);
    }

    /// Whether there may be more of it.
    pub(crate) fn has_body(&self) -> bool {
        self.body.load(Relaxed) == BODY
    }

    /// Why there is no more of it, for whoever is only told that something broke.
    pub(crate) fn set_body_error(&self, error: BodyError) {
        let place = ERRORS.iter().position(|other| *other == error);
        self.body.store(place.map_or(NO_BODY, |place| BODY + 1 + place as u8), Relaxed);
    }

    pub(crate) fn body_error(&self) -> Option<BodyError> {
        let place = self.body.load(Relaxed).checked_sub(BODY + 1)?;
        ERRORS.get(usize::from(place)).copied()
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[inline]
fn now() -> u32 {
    NOW.get()
}

/// Wakes who is late, as long as the thread lives.
pub(crate) async fn sweep(started: Instant) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let tick = started.elapsed().as_millis() / TICK.as_millis();
        NOW.set(u32::try_from(tick).unwrap_or(NEVER - 1));
        look(|watch| watch.is_late(Due::Phase) || watch.is_late(Due::Progress));
    }
}

/// Asks every connection of this thread to end after the request that it has.
pub(crate) fn drain() {
    look(|watch| {
        watch.drain.store(true, Relaxed);
        true
    });
}

/// Ends every connection of this thread.
pub(crate) fn close() {
    look(|watch| {
        watch.close.store(true, Relaxed);
        true
    });
}

/// Ends the connection of this thread that has waited longest for a request, if one has: somebody else needs the room. If its
/// request has come in this moment, it is served.
pub(crate) fn make_room() {
    let longest = WATCHED.with_borrow(|watched| {
        let waiting = watched.iter().filter(|watch| watch.parked.load(Relaxed) != NEVER);
        waiting.min_by_key(|watch| watch.parked.load(Relaxed)).cloned()
    });
    if let Some(watch) = longest {
        watch.park(false);
        // Late, unless what is read gives it time anew.
        watch.deadlines[Due::Phase as usize].store(0, Relaxed);
        watch.wake();
    }
}

/// How many connections and exchanges of this thread there are.
pub(crate) fn count() -> usize {
    look(|_| false);
    WATCHED.with_borrow(Vec::len)
}

fn look(mut is_to_wake: impl FnMut(&Watch) -> bool) {
    let mut wake = Vec::new();
    WATCHED.with_borrow_mut(|watched| {
        watched.retain(|watch| Arc::strong_count(watch) > 1);
        wake.extend(watched.iter().filter(|watch| is_to_wake(watch)).cloned());
    });
    wake.iter().for_each(|watch| watch.wake());
}
